//! HTTP to one of several addresses of a registry.
//!
//! The address that answered last is asked first. Another one is tried when it does not answer, or answers nothing about the schema (5xx, 429, a
//! refused login). "Not found" is believed only if every address that answers says so, because a follower may not yet know a schema that was
//! registered a moment ago. If a record depends on it (its schema, a reference of that, or the output's schema), every address has to say so, because
//! one that does not answer may know it. A start does not wait for such an address.
//!
//! If an address refuses a token, the token is fetched again and that address asked once more. If no new token is available, the next address is
//! asked with the old one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use percent_encoding::percent_decode_str;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::RegistryError;
use super::http::{Http, NoAnswer};
use super::oauth::Tokens;
use super::{RegistryOptions, RegistryStats};
use crate::retry::Class;

/// Maximum size in bytes of one answer, and of all answers that make up one schema.
pub(super) const LARGEST: usize = 16 * 1024 * 1024;

/// Maximum number of characters of an answer that an error repeats: enough for the registry's complaint about a schema, but not for the schema.
const SHOWN: usize = 1000;

/// Confluent's error code of a registry or a subject that accepts no new schema for now, because its mode is READONLY or IMPORT.
const NOT_PERMITTED: u32 = 42205;

/// The error code that Apicurio sends where Confluent's registry has none: it is read-only, has no room, or met another writer. None of that is about
/// the schema. Some of its versions also answer an incompatible schema with it; whether it is incompatible has to be asked separately.
const NO_CODE: u32 = 0;

const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

pub(super) struct Transport {
    addresses: Vec<Address>,
    preferred: AtomicUsize,
    /// Source of OAuth tokens, which replace the logins of the addresses.
    tokens: Option<Tokens>,
    stats: Arc<RegistryStats>,
}

struct Address {
    /// A client of its own, because an address of this host is asked directly, and others may need a proxy.
    http: Http,
    base: Url,
    login: Login,
}

#[derive(Clone)]
enum Login {
    None,
    Basic { username: String, password: Option<String> },
    Bearer(HeaderValue),
}

/// An error that the registry itself answered about the request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: u16,
    /// Confluent's error code.
    pub(super) code: Option<u32>,
    /// The registry's message, or the beginning of the body.
    pub(super) message: String,
    url: String,
}

/// The answer of a registry that has considered the request.
pub(super) type Answer<T> = Result<T, Problem>;

/// An error in Confluent's format.
#[derive(Deserialize)]
struct Told {
    error_code: u32,
    #[serde(default)]
    message: String,
}

impl From<Problem> for RegistryError {
    fn from(problem: Problem) -> RegistryError {
        RegistryError::Refused {
            url: problem.url,
            status: problem.status,
            message: problem.message,
        }
    }
}

/// The part of an answer's text that an error repeats. Many errors may be cached, so each has to be much shorter than an answer may be.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Reads an answer. The registry has considered the request if it succeeded with the expected content, or if it answered a 4xx that is about the
/// schema with one of its own error codes (409 also without one). Anything else (overload, login, a read-only mode, a proxy's page or JSON) may be
/// answered differently by another address or later.
///
/// # Errors
/// [`RegistryError::Refused`], if the registry has not considered the request.
fn considered<T: DeserializeOwned>(url: String, status: u16, body: &[u8]) -> Result<Answer<T>, RegistryError> {
    let beginning = || String::from_utf8_lossy(body).chars().take(200).collect::<String>();
    if (200..300).contains(&status) {
        return serde_json::from_slice(body).map(Ok).map_err(|error| {
            // serde's error quotes a string of any length that stands in place of another type.
            let message = shown(&format!("{error} in {}", beginning()));
            RegistryError::Refused { url, status, message }
        });
    }
    let told: Option<Told> = serde_json::from_slice(body).ok();
    let code = told.as_ref().map(|told| told.error_code);
    let message = told
        .map(|told| shown(&told.message))
        .filter(|message| !message.is_empty());
    let problem = Problem {
        status,
        code,
        message: message.unwrap_or_else(beginning),
        url,
    };
    match status {
        409 if code != Some(NO_CODE) => Ok(Err(problem)),
        400 | 404 | 422 if code.is_some_and(|code| ![NO_CODE, NOT_PERMITTED].contains(&code)) => Ok(Err(problem)),
        _ => Err(problem.into()),
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
        let tokens = options.oauth.as_ref().map(|oauth| Tokens::new(oauth, options));
        Ok(Self {
            addresses,
            preferred: AtomicUsize::new(0),
            tokens: tokens.transpose()?,
            stats,
        })
    }

    /// Takes over the OAuth token of the transport that this one replaces, if it is valid here too.
    pub(super) fn succeed(&mut self, old: &Transport) {
        if let (Some(tokens), Some(old)) = (&mut self.tokens, &old.tokens) {
            tokens.succeed(old);
        }
    }

    /// Asks one address after the other until one has considered the request. With `by_all`, "not found" is believed only if every address has
    /// answered.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
        by_all: bool,
    ) -> Result<Answer<T>, RegistryError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let (mut not_found, mut failure) = (None, None::<RegistryError>);
        let mut token = self.token(None).await?;
        // Whether a refused token may still be replaced by a new one.
        let mut renewable = token.is_some();
        for turn in 0..self.addresses.len() {
            let at = (first + turn) % self.addresses.len();
            let ask = |token: Option<HeaderValue>| {
                self.ask_one::<T>(&self.addresses[at], token, method.clone(), path, query, body.clone())
            };
            let mut answer = ask(token.clone()).await;
            if let Err(RegistryError::Refused {
                status: 401, message, ..
            }) = &mut answer
                && renewable
            {
                match self.token(token.as_ref()).await {
                    Ok(newer) if newer != token => {
                        token = newer;
                        answer = ask(token.clone()).await;
                    }
                    // The endpoint granted the same token, which would be refused again.
                    Ok(_) => {}
                    Err(error) => {
                        renewable = false;
                        *message = format!("{message}; cannot get another token: {error}");
                    }
                }
            }
            match answer {
                Ok(Err(problem)) if problem.status == 404 => not_found = Some(problem),
                Ok(answer) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                // A transient error replaces a permanent one, because its address may still have an answer.
                Err(error) if failure.as_ref().is_none_or(|first| first.class() == Class::Permanent) => {
                    failure = Some(error);
                }
                Err(_) => {}
            }
        }
        match (not_found, failure) {
            (_, Some(error)) if by_all => Err(error),
            (Some(problem), _) => Ok(Err(problem)),
            (None, Some(error)) => Err(error),
            // Unreachable: there is at least one address, and each sets one of the two.
            (None, None) => Err(RegistryError::Options("no address is configured".into())),
        }
    }

    /// The OAuth token to send, if a token endpoint is configured; if possible, another one than `refused`.
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

    /// Asks one address.
    async fn ask_one<T: DeserializeOwned>(
        &self,
        address: &Address,
        token: Option<HeaderValue>,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer<T>, RegistryError> {
        let mut url = address.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = address.http.client.request(method, url).header(ACCEPT, MEDIA_TYPE);
        request = match (token, &address.login) {
            (Some(header), _) => request.header(AUTHORIZATION, header),
            (None, Login::None) => request,
            (None, Login::Basic { username, password }) => request.basic_auth(username, password.as_ref()),
            (None, Login::Bearer(header)) => request.header(AUTHORIZATION, header.clone()),
        };
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, MEDIA_TYPE).body(body);
        }
        let url = address.base.to_string();
        let answer = match address.http.answer(request, &address.base, LARGEST).await {
            Ok((status, body)) => considered(url, status, &body),
            Err(NoAnswer::Unreachable(reason)) => Err(RegistryError::Unreachable { url, reason }),
            Err(NoAnswer::TooLarge(200..300)) => Err(RegistryError::TooLarge { url, limit: LARGEST }),
            // A proxy's page, however long, says nothing about the schema.
            Err(NoAnswer::TooLarge(status)) => Err(RegistryError::Refused {
                url,
                status,
                message: format!("more than {LARGEST} bytes"),
            }),
        };
        let counter = match &answer {
            Ok(Ok(_)) => &self.stats.ok,
            Ok(Err(problem)) if problem.status == 404 => &self.stats.unknown,
            Ok(Err(_)) => &self.stats.refused,
            Err(_) => &self.stats.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        answer
    }
}

impl Address {
    fn new(url: &str, options: &RegistryOptions) -> Result<Self, RegistryError> {
        let mut base = super::http::address(url, "http://registry:8081")?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
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
        // These fail only for addresses without a host, and an http address always has one.
        let _ = base.set_username("");
        let _ = base.set_password(None);
        base.set_query(None);
        base.set_fragment(None);
        let http = Http::new(
            &options.certificates,
            options.timeout,
            redirect::Policy::limited(3),
            &base,
        )?;
        Ok(Self { http, base, login })
    }
}

/// The `Authorization` header of a token, marked sensitive so that it is not printed.
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
    fn encodings_in_a_login_are_undone_and_all_else_stays() {
        for (encoded, text) in [
            ("a%2Fb", "a/b"),
            ("%c3%A9", "é"),
            ("100%", "100%"),
            ("%4", "%4"),
            ("%+1", "%+1"),
            ("%FF", "\u{fffd}"),
            ("", ""),
        ] {
            let Login::Basic { username, password } = address(&format!("http://u{encoded}:{encoded}@r")).login else {
                panic!("no login")
            };
            assert_eq!(username, format!("u{text}"));
            assert_eq!(password.unwrap_or_default(), text);
        }
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
        assert!(error(&["http://r"], |o| o.certificates.cert = Some("a.pem".into())).contains("both"));
        assert!(
            error(&["http://r"], |o| o.certificates.ca = Some("/nowhere/ca.pem".into())).contains("/nowhere/ca.pem")
        );
        let text = error(&["http://r"], |o| o.bearer = Some("to\nken".into()));
        assert!(!text.contains("ken\n") && text.contains("bearer"), "{text}");
    }

    #[test]
    fn only_what_is_about_the_schema_counts_as_considered() {
        let answer = |status, body: &str| considered::<Vec<i32>>(String::new(), status, body.as_bytes());
        let coded = r#"{"error_code":40403,"message":"Schema not found"}"#;
        for (status, body, is_considered) in [
            (200, "[1]", true),
            (200, "{}", false),
            (200, "<html>", false),
            (200, "", false),
            (404, coded, true),
            (404, "<html>", false),
            (409, "", true),
            (409, r#"{"error_code":409,"message":"incompatible"}"#, true),
            (
                409,
                r#"{"error_code":0,"message":"Unsupported write operation. Storage is read-only."}"#,
                false,
            ),
            (422, r#"{"error_code":0,"message":"There is no room"}"#, false),
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
            assert_eq!(answer(status, body).is_ok(), is_considered, "{status} {body}");
        }
        assert_eq!(answer(200, "[1]"), Ok(Ok(vec![1])));
        let problem = answer(404, coded).unwrap().unwrap_err();
        assert_eq!(
            (problem.code, problem.message.as_str()),
            (Some(40403), "Schema not found")
        );
        let page = answer(409, "<html>").unwrap().unwrap_err();
        assert_eq!((page.code, page.message.as_str()), (None, "<html>"));
        let long = "é".repeat(1 << 20);
        let told = serde_json::json!({ "error_code": 409, "message": long }).to_string();
        let told = answer(409, &told).unwrap().unwrap_err();
        assert_eq!(told.message.chars().count(), SHOWN);
        let Err(RegistryError::Refused { message, .. }) = answer(200, &format!("\"{long}\"")) else {
            panic!("a text is taken for numbers")
        };
        assert_eq!(message.chars().count(), SHOWN);
    }
}
