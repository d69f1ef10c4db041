//! Sends spans to the collector, in batches, on a separate thread.
//!
//! Transient failures (no connection, 429, 502, 503, 504) are retried twice. Meanwhile spans wait in the queue; when it is full, they are dropped at
//! their origin. At the end each batch is sent once.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Url, redirect};
use serde_json::Value as Json;
use tokio::sync::{mpsc as spans, watch};
use tokio::time::{sleep, timeout_at};

use super::{Ended, TracerError, otlp};
use crate::registry::causes;
use crate::telemetry::limit::Limiter;
use crate::telemetry::metrics::Metrics;

/// Maximum number of spans in a request.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// Timeout of a request.
const REQUEST: Duration = Duration::from_secs(4);
/// Pauses before the second and the third attempt.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// Maximum number of bytes read of an answer.
const ANSWER: usize = 64 * 1024;
/// Minimum interval between log lines about a failing collector.
const LOG_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Exporter {
    client: Client,
    url: Url,
    instance: String,
    closing: watch::Receiver<bool>,
    limiter: Limiter<&'static str>,
    exported: IntCounter,
    failed: IntCounter,
}

/// Why spans were not delivered.
struct Refusal {
    message: String,
    may_pass: bool,
}

impl Exporter {
    pub(super) fn new(
        url: Url,
        mut headers: HeaderMap,
        instance: String,
        closing: watch::Receiver<bool>,
        metrics: &Metrics,
    ) -> Result<Exporter, TracerError> {
        headers.insert(
            CONTENT_TYPE,
            reqwest::header::HeaderValue::from_static("application/json"),
        );
        let client = crate::proxy::client(&url)
            .timeout(REQUEST)
            // The headers are for the collector alone.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("messina/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .build()?;
        Ok(Exporter {
            client,
            url,
            instance,
            closing,
            limiter: Limiter::new(LOG_EVERY),
            exported: metrics.trace_spans_total.of(["exported"]),
            failed: metrics.trace_spans_total.of(["failed"]),
        })
    }

    /// Sends spans until no more can come, then drops `end`.
    pub(super) fn start(mut self, queue: spans::Receiver<Ended>, end: mpsc::Sender<()>) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("messina-traces".into());
        thread.spawn(move || {
            runtime.block_on(self.run(queue));
            drop(end);
        })?;
        Ok(())
    }

    async fn run(&mut self, mut queue: spans::Receiver<Ended>) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.take(&mut queue, &mut batch).await > 0 {
            let due = tokio::time::Instant::now() + LINGER;
            while batch.len() < BATCH {
                match timeout_at(due, self.take(&mut queue, &mut batch)).await {
                    Ok(more) if more > 0 => {}
                    Ok(_) | Err(_) => break,
                }
            }
            self.export(&batch).await;
            batch.clear();
        }
    }

    /// Moves queued spans into the batch, as far as it has room; waits if there are none. Returns how many; 0 if no more can come.
    async fn take(&mut self, queue: &mut spans::Receiver<Ended>, batch: &mut Vec<Ended>) -> usize {
        let room = BATCH - batch.len();
        tokio::select! {
            taken = queue.recv_many(batch, room) => return taken,
            _ = self.closing.wait_for(|closing| *closing) => {}
        }
        // Spans that are still queued are taken.
        queue.close();
        queue.recv_many(batch, room).await
    }

    async fn export(&mut self, batch: &[Ended]) {
        let body = otlp::request(batch, &self.instance).to_string();
        let mut pauses = PAUSES.into_iter();
        let refusal = loop {
            match self.post(body.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(batch.len() as u64);
                    self.exported.inc_by(batch.len() as u64 - rejected);
                    self.failed.inc_by(rejected);
                    if rejected == 0 {
                        return;
                    }
                    break format!("it took all but {rejected} of {} spans", batch.len());
                }
                Err(refusal) => {
                    let pause = pauses.next().filter(|_| refusal.may_pass);
                    if !self.goes_on_after(pause).await {
                        self.failed.inc_by(batch.len() as u64);
                        break refusal.message;
                    }
                }
            }
        };
        if let Some(suppressed) = self.limiter.admit("collector", Instant::now()) {
            let collector = self.url.as_str();
            tracing::warn!(collector, suppressed, "spans are lost: {refusal}");
        }
    }

    /// Waits before another attempt. False if there is to be none, because the process ends or all attempts were made.
    async fn goes_on_after(&mut self, pause: Option<Duration>) -> bool {
        let Some(pause) = pause else { return false };
        tokio::select! {
            () = sleep(pause) => true,
            _ = self.closing.wait_for(|closing| *closing) => false,
        }
    }

    /// Sends spans. Returns how many of them the collector rejected.
    async fn post(&self, body: String) -> Result<u64, Refusal> {
        let lost = |error: reqwest::Error| Refusal {
            message: causes(&error.without_url()),
            may_pass: true,
        };
        let mut response = self
            .client
            .post(self.url.clone())
            .body(body)
            .send()
            .await
            .map_err(lost)?;
        let status = response.status();
        if !status.is_success() {
            return Err(Refusal {
                message: format!("it answers {status}"),
                may_pass: matches!(status.as_u16(), 429 | 502 | 503 | 504),
            });
        }
        let mut answer = Vec::new();
        // If the answer breaks off, the spans were accepted all the same, and must not be sent again.
        while let Ok(Some(chunk)) = response.chunk().await {
            if answer.len() + chunk.len() > ANSWER {
                break;
            }
            answer.extend_from_slice(&chunk);
        }
        Ok(rejected(&answer))
    }
}

/// The number of rejected spans according to the collector's answer.
fn rejected(answer: &[u8]) -> u64 {
    let answer: Json = serde_json::from_slice(answer).unwrap_or_default();
    match &answer["partialSuccess"]["rejectedSpans"] {
        Json::String(count) => count.parse().unwrap_or_default(),
        count => count.as_u64().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::rejected;

    #[test]
    fn an_answer_may_say_that_spans_were_refused() {
        assert_eq!(rejected(b""), 0);
        assert_eq!(rejected(b"{}"), 0);
        assert_eq!(rejected(br#"{"partialSuccess": {}}"#), 0);
        assert_eq!(rejected(br#"{"partialSuccess": {"rejectedSpans": "3"}}"#), 3);
        assert_eq!(rejected(br#"{"partialSuccess": {"rejectedSpans": 3}}"#), 3);
    }
}
