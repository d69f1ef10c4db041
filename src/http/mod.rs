//! The HTTP server of a process: metrics, probes, status. Read-only: nothing here changes the process.
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | Prometheus text format, or OpenMetrics if the scraper accepts it |
//! | `/livez` | 200 while the loops make progress; otherwise 503 and the reason. A slow database never fails it |
//! | `/readyz` | 200 when assigned, connected, checked and not stalled; otherwise 503 and all reasons |
//! | `/status` | JSON: pipelines, partitions, lag, rates, last errors |
//! | `/` | the same as a page that updates itself |
//! | `/tap/PIPELINE` | JSON: records of the pipeline as they end, sampled; see the `tap` file |
//!
//! Only GET and HEAD are answered. The content comes from a [`Probe`], so this module knows nothing of pipelines.

mod listener;
mod tap;

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue, VARY,
};
use hyper::{Method, Request, Response, StatusCode};

pub use listener::{BindError, Listener};
pub use tap::{MOST, Refused, Wanted};

use crate::tap::Looker;
use crate::telemetry::{Metrics, openmetrics};

/// The status page. It is self-contained, and loads nothing but `/status`.
const PAGE: &str = include_str!("page.html");

/// The page may run its own script and ask this server, but nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PATHS: &[&str] = &["/", "/livez", "/metrics", "/readyz", "/status", "/tap/PIPELINE"];

const TEXT: &str = "text/plain; charset=utf-8";

/// What the server asks the process. Each request calls it again, so it must not block.
pub trait Probe: Send + Sync {
    /// Whether the loops make progress.
    ///
    /// # Errors
    /// Why the process should be killed and restarted.
    fn live(&self) -> Result<(), String>;

    /// Whether the process does its work.
    ///
    /// # Errors
    /// All reasons why not.
    fn ready(&self) -> Result<(), Vec<String>>;

    /// The content of `/status`.
    fn status(&self) -> serde_json::Value;

    /// The Prometheus text format, as [`Metrics::render`] makes it.
    fn metrics(&self) -> Vec<u8>;

    /// Lets a client look at records of a pipeline.
    ///
    /// # Errors
    /// Why the client may not look.
    fn tap(&self, pipeline: &str, wanted: Wanted) -> Result<Arc<Looker>, Refused>;
}

/// Serves until `shutdown` is ready, and then for some seconds at most. The address is bound before, so that a bad one is found before anything
/// starts.
pub async fn serve(listener: Listener, probe: Arc<dyn Probe>, shutdown: impl Future<Output = ()>) {
    let handler = move |request: Request<Incoming>| {
        let probe = Arc::clone(&probe);
        async move { answer(&request, &*probe).await }
    };
    listener.serve(handler, shutdown).await;
}

/// The answer to one request. For HEAD, hyper leaves out the body.
async fn answer<B>(request: &Request<B>, probe: &dyn Probe) -> Response<Full<Bytes>> {
    let (method, path) = (request.method(), request.uri().path());
    let tapped = path
        .strip_prefix("/tap/")
        .filter(|name| !name.is_empty() && !name.contains('/'));
    if tapped.is_none() && !PATHS.contains(&path) {
        let known = PATHS.join("\n");
        return response(
            StatusCode::NOT_FOUND,
            TEXT,
            format!("there is no {path} here; there are:\n{known}\n"),
        );
    }
    if method != Method::GET && method != Method::HEAD {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    if let Some(pipeline) = tapped {
        if !request.headers().get_all(HOST).iter().all(tap::is_known) {
            return response(StatusCode::FORBIDDEN, TEXT, tap::FOREIGN);
        }
        return tap::answer(probe, pipeline, request.uri().query().unwrap_or_default()).await;
    }
    match path {
        "/metrics" => metrics(request.headers().get(ACCEPT), probe.metrics()),
        "/livez" => verdict(probe.live().map_err(|reason| vec![reason])),
        "/readyz" => verdict(probe.ready()),
        "/status" => response(StatusCode::OK, "application/json", format!("{:#}\n", probe.status())),
        _ => {
            let mut page = response(StatusCode::OK, "text/html; charset=utf-8", PAGE);
            page.headers_mut()
                .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
            page
        }
    }
}

/// The metrics in the format that the scraper accepts.
fn metrics(accept: Option<&HeaderValue>, text: Vec<u8>) -> Response<Full<Bytes>> {
    let mut answer = match std::str::from_utf8(&text) {
        Ok(text)
            if accept
                .and_then(|accept| accept.to_str().ok())
                .is_some_and(openmetrics::accepted) =>
        {
            response(
                StatusCode::OK,
                openmetrics::CONTENT_TYPE,
                openmetrics::from_prometheus(text),
            )
        }
        _ => response(StatusCode::OK, Metrics::CONTENT_TYPE, text),
    };
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    answer
}

fn verdict(verdict: Result<(), Vec<String>>) -> Response<Full<Bytes>> {
    match verdict {
        Ok(()) => response(StatusCode::OK, TEXT, "ok\n"),
        Err(reasons) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons.join("\n") + "\n"),
    }
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    const NOSNIFF: HeaderName = HeaderName::from_static("x-content-type-options");
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(NOSNIFF, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
