//! OAuth 2 tokens by client credentials (RFC 6749, 4.4), as OpenID Connect identity providers also issue them.
//!
//! Client id and secret go in the `Authorization` header (2.3.1), which every such server must support. A token is kept until shortly before it
//! expires, or until a registry address that refuses it gets a new one. While the token is valid, a failing token endpoint does not matter.
//!
//! Invariants: one request at a time; callers who waited for a failed request share its error, so that they do not queue for time-outs. Every failure
//! is transient: it says nothing about any schema, and a record must not become a dead letter for it. Redirects are not followed, because a login
//! belongs to the configured address. No error contains the secret or a token.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Url, redirect};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::RegistryError;
use super::http::{Http, NoAnswer, address};
use super::transport::bearer;
use super::{OauthOptions, RegistryOptions};

/// Maximum size of an answer in bytes.
const LARGEST: usize = 256 * 1024;
/// Maximum number of characters of an answer that an error repeats.
const SHOWN: usize = 200;
/// Maximum time before its expiry at which a token is renewed. It allows for clocks that differ and for requests under way.
const MARGIN: Duration = Duration::from_secs(60);

/// The token endpoint, and the current token.
pub(super) struct Tokens {
    http: Http,
    endpoint: Url,
    options: OauthOptions,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    failed: Option<(Instant, RegistryError)>,
}

struct Held {
    header: HeaderValue,
    /// When to fetch the next one, and when this one expires; absent if the server does not say.
    times: Option<(Instant, Instant)>,
}

/// RFC 6749, 5.1. Some servers write `expires_in` as text.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    token_type: String,
    #[serde(default)]
    expires_in: serde_json::Value,
}

/// RFC 6749, 5.2.
#[derive(Deserialize, Default)]
struct Problem {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Tokens {
    pub(super) fn new(options: &OauthOptions, registry: &RegistryOptions) -> Result<Self, RegistryError> {
        let endpoint = address(&options.token_endpoint, "https://login.example.com/oauth2/token")?;
        Ok(Self {
            http: Http::new(
                &options.certificates,
                registry.timeout,
                redirect::Policy::none(),
                &endpoint,
            )?,
            endpoint,
            options: options.clone(),
            state: Arc::default(),
        })
    }

    /// Takes over the token of the instance that this one replaces, if endpoint, client id, secret and scope are the same: the endpoint may be
    /// unreachable. The certificates may differ.
    pub(super) fn succeed(&mut self, old: &Tokens) {
        let (new, before) = (&self.options, &old.options);
        if self.endpoint == old.endpoint
            && new.client_id == before.client_id
            && new.client_secret == before.client_secret
            && new.scope == before.scope
        {
            self.state = Arc::clone(&old.state);
        }
    }

    /// The `Authorization` header for a request to the registry, with the current token or a new one. A `refused` token is not returned again, unless
    /// the server grants the same one once more. It is kept until there is another one, because other addresses may still accept it.
    pub(super) async fn authorization(&self, refused: Option<&HeaderValue>) -> Result<HeaderValue, RegistryError> {
        self.at(Instant::now(), refused).await
    }

    async fn at(&self, now: Instant, refused: Option<&HeaderValue>) -> Result<HeaderValue, RegistryError> {
        let mut state = self.state.lock().await;
        let serves = |held: &&Held| refused != Some(&held.header);
        if let Some(held) = state.held.as_ref().filter(serves)
            && held.times.is_none_or(|(renew, _)| now < renew)
        {
            return Ok(held.header.clone());
        }
        let answer = match &state.failed {
            // The request failed while this caller waited for it.
            Some((at, error)) if *at >= now => Err(error.clone()),
            _ => self.fetch(now).await,
        };
        match answer {
            Ok(held) => {
                let header = held.header.clone();
                *state = State {
                    held: Some(held),
                    failed: None,
                };
                Ok(header)
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                match state.held.as_ref().filter(serves) {
                    Some(held) if held.times.is_some_and(|(_, end)| now < end) => Ok(held.header.clone()),
                    _ => Err(error),
                }
            }
        }
    }

    async fn fetch(&self, now: Instant) -> Result<Held, RegistryError> {
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let mut form = "grant_type=client_credentials".to_owned();
        if let Some(scope) = &self.options.scope {
            form.push_str("&scope=");
            form.push_str(&encoded(scope));
        }
        let request = self
            .http
            .client
            .post(self.endpoint.clone())
            .basic_auth(
                encoded(&self.options.client_id),
                Some(encoded(&self.options.client_secret)),
            )
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        let (status, body) = match self.http.answer(request, &self.endpoint, LARGEST).await {
            Ok(answer) => answer,
            Err(NoAnswer::Unreachable(reason)) => return Err(self.failure(format!("gives no answer: {reason}"))),
            Err(NoAnswer::TooLarge(_)) => return Err(self.failure(format!("answers with more than {LARGEST} bytes"))),
        };
        if status != 200 {
            return Err(self.failure(refusal(status, &body)));
        }
        // serde's error is dropped, because it may quote the answer.
        let granted: Granted = serde_json::from_slice(&body)
            .map_err(|_| self.failure("answers with something that has no `access_token`".into()))?;
        if !granted.token_type.eq_ignore_ascii_case("bearer") {
            let kind: String = granted.token_type.chars().take(SHOWN).collect();
            return Err(self.failure(format!("gives a token of the type {kind:?}, and not a bearer token")));
        }
        let header = bearer(&granted.access_token)
            .map_err(|_| self.failure("gives a token with characters that HTTP cannot carry".into()))?;
        Ok(Held {
            header,
            times: times(now, &granted.expires_in),
        })
    }

    fn failure(&self, reason: String) -> RegistryError {
        RegistryError::Token {
            endpoint: self.endpoint.to_string(),
            reason,
        }
    }
}

/// When to renew a token that was requested at `began`, and when it expires.
fn times(began: Instant, expires_in: &serde_json::Value) -> Option<(Instant, Instant)> {
    let seconds = expires_in
        .as_u64()
        .or_else(|| expires_in.as_str().and_then(|text| text.trim().parse().ok()))?;
    let life = Duration::from_secs(seconds);
    let end = began.checked_add(life)?;
    Some((end - MARGIN.min(life / 5), end))
}

/// Describes a refusal, and names the configuration key that it is about.
fn refusal(status: u16, body: &[u8]) -> String {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let said = match (problem.error.as_str(), problem.error_description.as_str()) {
        ("", _) => String::from_utf8_lossy(body).into_owned(),
        (error, "") => error.to_owned(),
        (error, description) => format!("{error}: {description}"),
    };
    let said: String = said.chars().take(SHOWN).collect();
    let hint = match problem.error.as_str() {
        "invalid_client" => "; it does not take `client_id` and `client_secret` of [registry.oauth]",
        "invalid_scope" => "; it does not take `scope` of [registry.oauth]",
        "unauthorized_client" | "unsupported_grant_type" => {
            "; the client of `client_id` in [registry.oauth] may not ask by its credentials alone"
        }
        "" if status == 401 => "; perhaps `client_id` or `client_secret` of [registry.oauth] is wrong",
        "" if (300..400).contains(&status) => "; `token_endpoint` of [registry.oauth] redirects, which is not followed",
        _ => "",
    };
    format!("answers {status}: {said}{hint}")
}

#[cfg(test)]
mod tests;
