//! The HTTP client for the registry and token endpoints, with the configured certificates and bounded answers.
//!
//! Invariants: an answer is read up to a limit and within the time-out. Connections are not kept, because requests are rare (one per schema or token)
//! and a kept connection would belong to the runtime of its first caller. No error contains a login.

use std::path::Path;
use std::time::Duration;

use openssl::pkey::PKey;
use reqwest::{Certificate, Identity, Url, redirect};

use super::error::RegistryError;
use crate::certificates::PemFiles;

/// A client, and whether it presents no certificate.
pub(super) struct Http {
    pub(super) client: reqwest::Client,
    anonymous: bool,
}

/// Why there is no answer.
pub(super) enum NoAnswer {
    /// The connection was refused or broken, timed out, or TLS failed; in words.
    Unreachable(String),
    /// The answer, with this status, is larger than the limit.
    TooLarge(u16),
}

impl Http {
    /// A client for this address only, because the proxy depends on it.
    pub(super) fn new(
        files: &PemFiles,
        timeout: Duration,
        redirects: redirect::Policy,
        address: &Url,
    ) -> Result<Self, RegistryError> {
        let bad = RegistryError::Options;
        let mut client = crate::proxy::client(address)
            .timeout(timeout)
            .connect_timeout(timeout)
            .pool_max_idle_per_host(0)
            .redirect(redirects)
            .user_agent(concat!("messina/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &files.ca {
            let authorities = Certificate::from_pem_bundle(&read(path)?)
                .map_err(|e| bad(format!("no certificates in {}: {e}", path.display())))?;
            // The file may be in the middle of being written. With no certificates, no server would be trusted.
            if authorities.is_empty() {
                return Err(bad(format!("no certificates in {}", path.display())));
            }
            client = client.tls_certs_only(authorities);
        }
        match (&files.cert, &files.key) {
            (Some(cert), Some(key)) => client = client.identity(identity(cert, key)?),
            (None, None) => {}
            _ => return Err(bad("a client certificate needs both cert and key".into())),
        }
        let client = client
            .build()
            .map_err(|e| bad(format!("cannot prepare HTTP: {}", causes(&e))))?;
        let anonymous = files.cert.is_none();
        Ok(Self { client, anonymous })
    }

    /// Sends `request` to `url`, and returns status and body of the answer.
    pub(super) async fn answer(
        &self,
        request: reqwest::RequestBuilder,
        url: &Url,
        largest: usize,
    ) -> Result<(u16, Vec<u8>), NoAnswer> {
        // reqwest's error would name the full address; the caller names it without login and path.
        let unreachable = |error: reqwest::Error| {
            let mut reason = causes(&error.without_url());
            // The alerts for a missing certificate differ by TLS version, and one sent after the handshake can be lost with the connection.
            let alert = reason.contains(" alert ") || reason.contains("unexpected EOF");
            if self.anonymous && url.scheme() == "https" && alert {
                reason.push_str("; perhaps it requires a client certificate (`cert` and `key`)");
            }
            NoAnswer::Unreachable(reason)
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > largest {
                return Err(NoAnswer::TooLarge(status));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, body))
    }
}

/// Parses an `http` or `https` address; the error shows `example`. It does not show the text, which may contain a password.
pub(super) fn address(text: &str, example: &str) -> Result<Url, RegistryError> {
    let bad = |reason: String| RegistryError::Options(format!("an address cannot be used: {reason}"));
    let url = Url::parse(text).map_err(|e| bad(format!("{e}; it looks like {example}")))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        scheme => Err(bad(format!("its scheme is {scheme}, not http or https"))),
    }
}

/// The client's certificate and key. Any PEM key is accepted and converted, because the TLS library needs PKCS #8.
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

/// An error with all its causes: the last one is usually the one that helps.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
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
