//! HTTP to one of several addresses of a registry.
//!
//! The address that answered last is asked first. Another one is tried when it gives no answer, or one that says nothing
//! about the schema (5xx, 429, a refused login). "Not found" is believed only when every address that answers says so: a
//! follower may not have heard yet of a schema that was registered a moment ago.
//!
//! Invariants: an answer is read up to a limit and within the time-out. Connections are not kept: requests are rare (one
//! per schema), and a kept connection would belong to the runtime of whichever caller came first. No login is in an error.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openssl::pkey::PKey;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Certificate, Identity, Method, Url, redirect};
use serde::Deserialize;

use super::error::RegistryError;
use super::percent::decoded;
use super::{RegistryOptions, RegistryStats};

/// Most bytes of an answer.
const LARGEST: usize = 16 * 1024 * 1024;

const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

pub(super) struct Transport {
    http: reqwest::Client,
    addresses: Vec<Address>,
    preferred: AtomicUsize,
    /// Whether no client certificate is shown.
    anonymous: bool,
    stats: Arc<RegistryStats>,
}

struct Address {
    base: Url,
    login: Login,
}

#[derive(Clone)]
enum Login {
    None,
    Basic { username: String, password: Option<String> },
    Bearer(HeaderValue),
}

/// What a registry said: a success, or an error that may be about the schema.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    url: String,
}

#[derive(Deserialize)]
struct Problem {
    error_code: u32,
    #[serde(default)]
    message: String,
}

impl Answer {
    fn problem(&self) -> Option<Problem> {
        let error = !(200..300).contains(&self.status);
        error.then(|| serde_json::from_slice(&self.body).ok()).flatten()
    }

    /// Confluent's code of an error.
    pub(super) fn code(&self) -> Option<u32> {
        self.problem().map(|problem| problem.error_code)
    }

    /// What it says about an error: the registry's message, or the beginning of the body.
    pub(super) fn message(&self) -> String {
        let message = self.problem().map(|problem| problem.message).unwrap_or_default();
        if !message.is_empty() {
            return message;
        }
        String::from_utf8_lossy(&self.body).chars().take(200).collect()
    }

    pub(super) fn refused(&self, message: String) -> RegistryError {
        RegistryError::Refused {
            url: self.url.clone(),
            status: self.status,
            message,
        }
    }

    /// Whether the registry has considered what it was asked: it succeeded, or gave one of its own codes for a 4xx that is
    /// about the schema. All else (overload, login, proxies) may be answered otherwise by another address or later.
    fn considered(&self) -> bool {
        match self.status {
            200..300 | 409 => true,
            400 | 404 | 422 => self.code().is_some(),
            _ => false,
        }
    }
}

impl Transport {
    pub(super) fn new(options: &RegistryOptions, stats: Arc<RegistryStats>) -> Result<Self, RegistryError> {
        let bad = RegistryError::Options;
        if options.urls.is_empty() {
            return Err(bad("no address is configured".into()));
        }
        let addresses = options
            .urls
            .iter()
            .map(|url| Address::new(url, options))
            .collect::<Result<_, _>>()?;
        let mut http = reqwest::Client::builder()
            .timeout(options.timeout)
            .connect_timeout(options.timeout)
            .pool_max_idle_per_host(0)
            .redirect(redirect::Policy::limited(3))
            .user_agent(concat!("messina/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &options.ca {
            let authorities = Certificate::from_pem_bundle(&read(path)?)
                .map_err(|e| bad(format!("no certificates in {}: {e}", path.display())))?;
            http = http.tls_certs_only(authorities);
        }
        match (&options.cert, &options.key) {
            (Some(cert), Some(key)) => http = http.identity(identity(cert, key)?),
            (None, None) => {}
            _ => return Err(bad("a client certificate needs both cert and key".into())),
        }
        let http = http
            .build()
            .map_err(|e| bad(format!("cannot prepare HTTP: {}", causes(&e))))?;
        Ok(Self {
            http,
            addresses,
            preferred: AtomicUsize::new(0),
            anonymous: options.cert.is_none(),
            stats,
        })
    }

    /// Asks one address after the other until one has considered it.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer, RegistryError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let (mut not_found, mut failure) = (None, None);
        for turn in 0..self.addresses.len() {
            let at = (first + turn) % self.addresses.len();
            match self
                .ask_one(&self.addresses[at], method.clone(), path, query, body.clone())
                .await
            {
                Ok(answer) if answer.status == 404 => not_found = Some(answer),
                Ok(answer) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match (not_found, failure) {
            (Some(answer), _) => Ok(answer),
            (None, Some(error)) => Err(error),
            // Not reached: there is at least one address, and each leaves something.
            (None, None) => Err(RegistryError::Options("no address is configured".into())),
        }
    }

    /// An answer that was considered, or an error.
    async fn ask_one(
        &self,
        address: &Address,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer, RegistryError> {
        let mut url = address.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url).header(ACCEPT, MEDIA_TYPE);
        request = match &address.login {
            Login::None => request,
            Login::Basic { username, password } => request.basic_auth(username, password.as_ref()),
            Login::Bearer(header) => request.header(AUTHORIZATION, header.clone()),
        };
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, MEDIA_TYPE).body(body);
        }
        let answer = read_answer(request, address.base.as_str(), self.anonymous).await;
        let counter = match &answer {
            Ok(answer) if answer.status == 404 && answer.considered() => &self.stats.unknown,
            Ok(answer) if (200..300).contains(&answer.status) => &self.stats.ok,
            Ok(_) => &self.stats.refused,
            Err(_) => &self.stats.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(answer) if !answer.considered() => Err(answer.refused(answer.message())),
            answer => answer,
        }
    }
}

async fn read_answer(request: reqwest::RequestBuilder, url: &str, anonymous: bool) -> Result<Answer, RegistryError> {
    // reqwest's error names the address as it was asked; ours is the one without a login and path.
    let unreachable = |error: reqwest::Error| {
        let mut reason = causes(&error.without_url());
        // The alerts for it differ by version, and one that comes after the handshake can be lost with the connection.
        if anonymous && url.starts_with("https:") && (reason.contains(" alert ") || reason.contains("unexpected EOF")) {
            reason.push_str("; perhaps it wants a certificate of the client (`cert` and `key`)");
        }
        RegistryError::Unreachable {
            url: url.to_owned(),
            reason,
        }
    };
    let mut response = request.send().await.map_err(unreachable)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > LARGEST {
            return Err(RegistryError::TooLarge {
                url: url.to_owned(),
                limit: LARGEST,
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer {
        status,
        body,
        url: url.to_owned(),
    })
}

impl Address {
    fn new(url: &str, options: &RegistryOptions) -> Result<Self, RegistryError> {
        // The text is not shown: it may hold a password.
        let bad = |reason: String| RegistryError::Options(format!("an address cannot be used: {reason}"));
        let mut base = Url::parse(url).map_err(|e| bad(format!("{e}; it looks like http://registry:8081")))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(bad(format!("its scheme is {}, not http or https", base.scheme())));
        }
        let in_url = (!base.username().is_empty()).then(|| (decoded(base.username()), base.password().map(decoded)));
        let configured = options
            .username
            .clone()
            .map(|username| (username, options.password.clone()));
        let login = match (&options.bearer, configured.or(in_url)) {
            (Some(token), _) => Login::Bearer(bearer(token)?),
            (None, Some((username, password))) => Login::Basic { username, password },
            (None, None) => Login::None,
        };
        // These fail only for addresses without a host, which http cannot lack.
        let _ = base.set_username("");
        let _ = base.set_password(None);
        base.set_query(None);
        base.set_fragment(None);
        Ok(Self { base, login })
    }
}

fn bearer(token: &str) -> Result<HeaderValue, RegistryError> {
    let mut header = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| RegistryError::Options("the bearer token has characters that HTTP cannot carry".into()))?;
    header.set_sensitive(true);
    Ok(header)
}

/// The client's certificate and key. Any PEM key is taken; the TLS library below wants PKCS #8.
fn identity(cert: &Path, key: &Path) -> Result<Identity, RegistryError> {
    let bad = |what: &Path, error: String| RegistryError::Options(format!("cannot use {}: {error}", what.display()));
    let pem = PKey::private_key_from_pem(&read(key)?)
        .and_then(|key| key.private_key_to_pem_pkcs8())
        .map_err(|e| bad(key, e.to_string()))?;
    Identity::from_pkcs8_pem(&read(cert)?, &pem).map_err(|e| bad(cert, causes(&e)))
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    std::fs::read(path).map_err(|e| RegistryError::Options(format!("cannot read {}: {e}", path.display())))
}

/// An error with all that lies beneath it: the last cause is usually the one that helps.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Address {
        Address::new(url, &RegistryOptions::default()).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_login_in_the_address_is_used_and_not_shown() {
        let address = address("https://bob:s%40fe@registry:8081/api?x=1");
        assert_eq!(address.base.as_str(), "https://registry:8081/api");
        let Login::Basic { username, password } = address.login else {
            panic!("no login")
        };
        assert_eq!((username.as_str(), password.as_deref()), ("bob", Some("s@fe")));
    }

    #[test]
    fn options_that_cannot_be_used_are_named_and_secrets_are_not() {
        let error = |urls: &[&str], change: fn(&mut RegistryOptions)| {
            let mut options = RegistryOptions {
                urls: urls.iter().map(|u| (*u).into()).collect(),
                ..Default::default()
            };
            change(&mut options);
            match Transport::new(&options, Arc::default()) {
                Err(RegistryError::Options(text)) => text,
                _ => panic!("accepted"),
            }
        };
        assert!(error(&[], |_| {}).contains("no address"));
        let text = error(&["http://bob:s3cret@:::"], |_| {});
        assert!(
            text.contains("http://registry:8081") && !text.contains("s3cret"),
            "{text}"
        );
        assert!(error(&["ftp://registry"], |_| {}).contains("ftp"));
        assert!(error(&["http://r"], |o| o.cert = Some("a.pem".into())).contains("both"));
        assert!(error(&["http://r"], |o| o.ca = Some("/nowhere/ca.pem".into())).contains("/nowhere/ca.pem"));
        let text = error(&["http://r"], |o| o.bearer = Some("to\nken".into()));
        assert!(!text.contains("ken\n") && text.contains("bearer"), "{text}");
    }

    #[test]
    fn only_what_is_about_the_schema_counts_as_considered() {
        let answer = |status, body: &str| Answer {
            status,
            body: body.into(),
            url: String::new(),
        };
        let coded = r#"{"error_code":40403,"message":"Schema not found"}"#;
        for (status, body, considered) in [
            (200, "{}", true),
            (404, coded, true),
            (404, "<html>", false),
            (409, "", true),
            (422, coded, true),
            (422, "", false),
            (401, r#"{"error_code":401}"#, false),
            (429, coded, false),
            (500, r#"{"error_code":50001}"#, false),
            (503, "", false),
        ] {
            assert_eq!(answer(status, body).considered(), considered, "{status} {body}");
        }
    }
}
