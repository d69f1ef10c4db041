//! Tracing: one span per traced record, from its admission to its end, sent to an OpenTelemetry collector if one is configured.
//!
//! A trace in a record's headers ([`context`]) is continued; otherwise one is started for a share of the records ([`sampler`]). Records that are
//! published from a traced record name the span as their parent: the headers are changed once, when the record is admitted, so output and dead letter
//! have the same. An untraced record keeps its headers, and costs only the look at them.
//!
//! Invariants: [`PipelineTracer::end`] never blocks; spans that do not fit into the queue are dropped and counted (`export` empties it, on a separate
//! thread). A span contains the origin and the outcome of its record, and nothing of key, value and other headers.

pub mod context;
mod export;
mod otlp;
pub mod sampler;

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prometheus::IntCounter;
use rdkafka::message::{Header, Headers as _, OwnedHeaders};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{mpsc, watch};

use self::context::{TRACEPARENT, TRACESTATE, TraceParent, trace_state};
use self::export::Exporter;
use self::sampler::{Bound, begins};
use super::metrics::Metrics;
use crate::kafka::headers;
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;

/// Maximum number of queued spans: 20 s of them at the default limit, about a kilobyte each.
const QUEUE: usize = 2048;
/// How long a drop waits for the last spans, if `close` was not called.
const FLUSH: Duration = Duration::from_secs(5);

/// What the configuration says about traces.
pub struct TracerOptions {
    /// The collector's URL, to which `/v1/traces` is appended.
    pub collector: String,
    /// HTTP headers of each request to it: name and value. The value is a secret.
    pub headers: Vec<(String, String)>,
    /// Share of the records without a trace for which one is started, 0 to 1.
    pub sample_ratio: f64,
    /// Maximum number of spans per second, including those of incoming traces.
    pub max_spans_per_second: u32,
    /// Distinguishes this process from other instances.
    pub instance: String,
}

/// Why no spans can be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// The collector's URL cannot be used.
    #[error("the collector's address cannot be used: {0}")]
    Url(String),
    /// A header cannot be sent. Its value is not shown, because it is a secret.
    #[error("the header `{0}` cannot be sent: its name or value has characters that HTTP does not take")]
    Header(String),
    /// The HTTP client could not be created.
    #[error("cannot make the client that sends spans: {0}")]
    Client(#[from] reqwest::Error),
    /// The thread could not be started.
    #[error("cannot start the thread that sends spans: {0}")]
    Thread(#[from] std::io::Error),
    /// The system provides no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(#[from] openssl::error::ErrorStack),
}

/// The connection to the collector. Closing it sends the queued spans; dropping it does the same, for at most five seconds.
pub struct Tracer {
    queue: mpsc::Sender<Ended>,
    /// True tells the thread that no more spans come, and that it must not retry.
    closing: watch::Sender<bool>,
    /// The thread closes it when it ends; `None` once that was waited for.
    ended: Mutex<Option<Receiver<()>>>,
    sample_ratio: f64,
    bound: Bound,
    seed: u64,
    epoch: Instant,
    suppressed: IntCounter,
    dropped: IntCounter,
}

/// The span of a record that is still being processed.
#[derive(Debug)]
pub struct Span {
    /// The trace id, and the id of this span.
    own: TraceParent,
    /// The span that caused it, if any.
    parent: Option<[u8; 8]>,
    state: Option<String>,
    began: SystemTime,
}

/// What all spans of a pipeline share.
#[derive(Debug)]
struct Names {
    pipeline: String,
    group: String,
}

/// A finished span.
#[derive(Debug)]
struct Ended {
    span: Box<Span>,
    names: Arc<Names>,
    topic: Arc<str>,
    partition: i32,
    offset: i64,
    /// From the start of the span.
    produced: Option<Duration>,
    took: Duration,
    outcome: &'static str,
    failure: Option<Failure>,
}

impl Tracer {
    /// Starts the sending thread. A collector that does not answer is not an error.
    ///
    /// # Errors
    /// If one of the options cannot be used, the thread cannot be started, or the system provides no random numbers.
    pub fn new(options: TracerOptions, metrics: &Metrics) -> Result<Tracer, TracerError> {
        let mut url = Url::parse(&options.collector).map_err(|e| TracerError::Url(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(TracerError::Url("its scheme is not http or https".to_owned()));
        }
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let mut headers = HeaderMap::new();
        for (name, value) in options.headers {
            let sent = HeaderName::from_bytes(name.as_bytes())
                .ok()
                .zip(HeaderValue::from_str(&value).ok());
            let (key, mut value) = sent.ok_or(TracerError::Header(name))?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        let (queue, spans) = mpsc::channel(QUEUE);
        let (closing, closed) = watch::channel(false);
        let (end, ended) = std::sync::mpsc::channel();
        let exporter = Exporter::new(url, headers, options.instance, closed, metrics)?;
        exporter.start(spans, end)?;
        Ok(Tracer {
            queue,
            closing,
            ended: Mutex::new(Some(ended)),
            sample_ratio: options.sample_ratio,
            bound: Bound::new(options.max_spans_per_second),
            seed: u64::from_ne_bytes(random()?),
            epoch: Instant::now(),
            suppressed: metrics.trace_spans_total.of(["suppressed"]),
            dropped: metrics.trace_spans_total.of(["dropped"]),
        })
    }

    /// If the record is to be traced: its span, and the headers that name the span.
    fn begin(&self, headers: Option<&OwnedHeaders>, partition: i32, offset: i64, now: Instant) -> Option<Begun> {
        let cause = headers.and_then(cause);
        let traced = match cause {
            Some(cause) => cause.is_sampled(),
            None => begins(self.sample_ratio, self.seed, partition, offset),
        };
        if !traced {
            return None;
        }
        let second = now.saturating_duration_since(self.epoch).as_secs();
        if !self.bound.admits(u32::try_from(second).unwrap_or(u32::MAX)) {
            self.suppressed.inc();
            return None;
        }
        // If no id can be generated, the record is not traced.
        let span = random().ok()?;
        let own = match cause {
            Some(cause) => TraceParent { span, ..cause },
            None => TraceParent::root(random().ok()?, span),
        };
        // Without a valid `traceparent`, the `tracestate` would belong to no trace or to another one.
        let state = cause
            .and(headers)
            .and_then(|headers| trace_state(values(headers, TRACESTATE)));
        let named = named(headers, own, state.as_deref());
        let span = Box::new(Span {
            own,
            parent: cause.map(|cause| cause.span),
            state,
            began: SystemTime::now(),
        });
        Some((span, named))
    }

    fn send(&self, ended: Ended) {
        if self.queue.try_send(ended).is_err() {
            self.dropped.inc();
        }
    }

    /// Sends the queued spans, each batch once, for at most `within`. Spans that end later are dropped. For a shutdown at which something may hold a
    /// reference to this for ever, so that it is never dropped.
    pub fn close(&self, within: Duration) {
        self.closing.send_replace(true);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            // No message is ever sent: either the thread has closed the channel, or the time is over.
            let _ = ended.recv_timeout(within);
        }
    }
}

type Begun = (Box<Span>, OwnedHeaders);

impl Drop for Tracer {
    fn drop(&mut self) {
        self.close(FLUSH);
    }
}

/// Traces the records of one pipeline.
#[derive(Clone)]
pub struct PipelineTracer {
    tracer: Arc<Tracer>,
    names: Arc<Names>,
}

impl PipelineTracer {
    /// A tracer for a pipeline that consumes in this group.
    pub fn new(tracer: Arc<Tracer>, pipeline: &str, group: &str) -> PipelineTracer {
        let names = Names {
            pipeline: pipeline.to_owned(),
            group: group.to_owned(),
        };
        PipelineTracer {
            tracer,
            names: Arc::new(names),
        }
    }

    /// If a newly admitted event is to be traced, gives it a span, and headers that name the span.
    pub fn begin(&self, event: &mut Event) {
        let origin = &event.origin;
        let begun = self
            .tracer
            .begin(event.headers.as_ref(), origin.partition, origin.offset, event.admitted);
        if let Some((span, headers)) = begun {
            event.span = Some(span);
            event.headers = Some(headers);
        }
    }

    /// Ends an event's span, if it has one. `failure` is the reason, if the event failed.
    pub fn end(&self, event: &mut Event, outcome: &'static str, failure: Option<Failure>, now: Instant) {
        let Some(span) = event.span.take() else { return };
        let since = |at: Instant| at.saturating_duration_since(event.admitted);
        self.tracer.send(Ended {
            span,
            names: self.names.clone(),
            topic: event.origin.topic.clone(),
            partition: event.origin.partition,
            offset: event.origin.offset,
            produced: event.produced.map(since),
            took: since(now),
            outcome,
            failure,
        });
    }
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], openssl::error::ErrorStack> {
    let mut bytes = [0; BYTES];
    openssl::rand::rand_bytes(&mut bytes)?;
    Ok(bytes)
}

/// The values of all headers with a name. A header without a value counts as empty.
fn values<'h>(headers: &'h OwnedHeaders, name: &str) -> impl Iterator<Item = &'h [u8]> {
    let named = headers::all(headers).filter(move |(own, _)| *own == name.as_bytes());
    named.map(|(_, value)| value.unwrap_or_default())
}

/// The trace that a record belongs to. `None` if there are two such headers, because one of them must be wrong.
fn cause(headers: &OwnedHeaders) -> Option<TraceParent> {
    let mut all = values(headers, TRACEPARENT);
    let first = TraceParent::parse(all.next()?)?;
    all.next().is_none().then_some(first)
}

/// The record's headers with `traceparent` and `tracestate` replaced by the given ones, which come first.
fn named(headers: Option<&OwnedHeaders>, own: TraceParent, state: Option<&str>) -> OwnedHeaders {
    let count = headers.map_or(0, |headers| headers.count());
    let value = own.value();
    let mut named = OwnedHeaders::new_with_capacity(count + 2).insert(Header {
        key: TRACEPARENT,
        value: Some(&value),
    });
    if state.is_some() {
        named = named.insert(Header {
            key: TRACESTATE,
            value: state,
        });
    }
    for (name, value) in headers.into_iter().flat_map(headers::all) {
        if ![TRACEPARENT, TRACESTATE].map(str::as_bytes).contains(&name) {
            headers::add(&mut named, name, value);
        }
    }
    named
}

#[cfg(test)]
pub(crate) mod tests;
