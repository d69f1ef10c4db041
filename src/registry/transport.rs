//! HTTP to one of several addresses of a registry.
//!
//! The address that answered last is asked first. Another one is tried when it gives no answer, or one that says nothing
//! about the schema (5xx, 429, a refused login). "Not found" is believed only when every address that answers says so: a
//! follower may not have heard yet of a schema that was registered a moment ago.
//!
//! A token that an address refuses is fetched anew, and that address asked once more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::RegistryError;
use super::http::{Files, Http, NoAnswer};
use super::oauth::Tokens;
use super::percent::decoded;
use super::{RegistryOptions, RegistryStats};

/// Most bytes of an answer.
const LARGEST: usize = 16 * 1024 * 1024;

/// Confluent's code of a registry, or a subject, that takes no new schema for the time being: its mode is READONLY or IMPORT.
const NOT_PERMITTED: u32 = 42205;

const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

pub(super) struct Transport {
    http: Http,
    addresses: Vec<Address>,
    preferred: AtomicUsize,
    /// Where the authorization comes from, in place of the addresses' logins.
    tokens: Option<Tokens>,
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

    /// Whether the registry has considered what it was asked: it succeeded, with what was asked for, or gave one of its own codes for a 4xx
    /// that is about the schema. All else (overload, login, a mode without writing, a proxy's page or JSON) may be answered otherwise by another address or later.
    ///
    /// # Errors
    /// What it says instead.
    fn considered<T: DeserializeOwned>(&self) -> Result<(), String> {
        match self.status {
            200..300 => serde_json::from_slice::<T>(&self.body)
                .map(drop)
                .map_err(|error| format!("{error} in {}", self.message())),
            409 => Ok(()),
            400 | 404 | 422 if self.code().is_some_and(|code| code != NOT_PERMITTED) => Ok(()),
            _ => Err(self.message()),
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
            .collect::<Result<Vec<_>, _>>()?;
        let files = Files {
            ca: options.ca.as_ref(),
            cert: options.cert.as_ref(),
            key: options.key.as_ref(),
        };
        let tokens = options.oauth.as_ref().map(|oauth| Tokens::new(oauth, options));
        Ok(Self {
            http: Http::new(
                &files,
                options.timeout,
                redirect::Policy::limited(3),
                addresses.iter().map(|address| &address.base),
            )?,
            addresses,
            preferred: AtomicUsize::new(0),
            tokens: tokens.transpose()?,
            stats,
        })
    }

    /// Asks one address after the other until one has considered it; who succeeds answers with a `T`.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer, RegistryError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let (mut not_found, mut failure) = (None, None);
        let mut token = self.token(None).await?;
        for turn in 0..self.addresses.len() {
            let at = (first + turn) % self.addresses.len();
            let ask = |token: Option<HeaderValue>| {
                self.ask_one::<T>(&self.addresses[at], token, method.clone(), path, query, body.clone())
            };
            let mut answer = ask(token.clone()).await;
            if let Err(RegistryError::Refused { status: 401, .. }) = answer
                && token.is_some()
            {
                let newer = self.token(token.as_ref()).await?;
                // The server gives the same one again: it would be refused again.
                if newer != token {
                    token = newer;
                    answer = ask(token.clone()).await;
                }
            }
            match answer {
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

    /// The token to show, where there is an endpoint for it; another one than `refused`.
    async fn token(&self, refused: Option<&HeaderValue>) -> Result<Option<HeaderValue>, RegistryError> {
        let Some(tokens) = &self.tokens else {
            return Ok(None);
        };
        let token = tokens.authorization(refused).await;
        if token.is_err() {
            self.stats.failed.fetch_add(1, Ordering::Relaxed);
        }
        token.map(Some)
    }

    /// An answer that was considered, or an error.
    async fn ask_one<T: DeserializeOwned>(
        &self,
        address: &Address,
        token: Option<HeaderValue>,
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
        let mut request = self.http.client.request(method, url).header(ACCEPT, MEDIA_TYPE);
        request = match (token, &address.login) {
            (Some(header), _) => request.header(AUTHORIZATION, header),
            (None, Login::None) => request,
            (None, Login::Basic { username, password }) => request.basic_auth(username, password.as_ref()),
            (None, Login::Bearer(header)) => request.header(AUTHORIZATION, header.clone()),
        };
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, MEDIA_TYPE).body(body);
        }
        let url = || address.base.to_string();
        let answer = match self.http.answer(request, &address.base, LARGEST).await {
            Ok((status, body)) => Ok(Answer {
                status,
                body,
                url: url(),
            }),
            Err(NoAnswer::Unreachable(reason)) => Err(RegistryError::Unreachable { url: url(), reason }),
            Err(NoAnswer::TooLarge) => Err(RegistryError::TooLarge {
                url: url(),
                limit: LARGEST,
            }),
        };
        let answer = answer.and_then(|answer| match answer.considered::<T>() {
            Ok(()) => Ok(answer),
            Err(why) => Err(answer.refused(why)),
        });
        let counter = match &answer {
            Ok(answer) if answer.status == 404 => &self.stats.unknown,
            Ok(answer) if (200..300).contains(&answer.status) => &self.stats.ok,
            Ok(_) => &self.stats.refused,
            Err(_) => &self.stats.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        answer
    }
}

impl Address {
    fn new(url: &str, options: &RegistryOptions) -> Result<Self, RegistryError> {
        let mut base = super::http::address(url, "http://registry:8081")?;
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

/// The header that shows a token, which is not printed.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, RegistryError> {
    let mut header = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| RegistryError::Options("the bearer token has characters that HTTP cannot carry".into()))?;
    header.set_sensitive(true);
    Ok(header)
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
            (200, "[1]", true),
            (200, "{}", false),
            (200, "<html>", false),
            (200, "", false),
            (404, coded, true),
            (404, "<html>", false),
            (409, "", true),
            (422, coded, true),
            (422, "", false),
            (
                422,
                r#"{"error_code":42205,"message":"Subject s is in read-only mode"}"#,
                false,
            ),
            (401, r#"{"error_code":401}"#, false),
            (429, coded, false),
            (500, r#"{"error_code":50001}"#, false),
            (503, "", false),
        ] {
            assert_eq!(
                answer(status, body).considered::<Vec<i32>>().is_ok(),
                considered,
                "{status} {body}"
            );
        }
    }
}
