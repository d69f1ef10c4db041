//! Encodes spans as OpenTelemetry's collectors accept them over HTTP: OTLP as JSON (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).
//!
//! JSON instead of Protobuf: a collector accepts both at the same address, and spans are few (`max_spans_per_second`), so their size costs nothing;
//! `opentelemetry-otlp` would add seven crates. Attribute names follow OpenTelemetry's semantic conventions for messaging
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/kafka/>); other names begin with `messina.`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};

use super::Ended;
use crate::store::convert::hex;
use crate::telemetry::scrub::scrub;

/// `SPAN_KIND_CONSUMER`.
const CONSUMER: u8 = 5;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;
/// Bits of a span's flags: `KNOWN` means that it is known whether the parent is in another process, `REMOTE` that it is.
const KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;

/// A request with these spans, from the process `instance`.
pub(super) fn request(spans: &[Ended], instance: &str) -> Json {
    let resource = [
        text_attribute("service.name", "messina"),
        text_attribute("service.version", env!("CARGO_PKG_VERSION")),
        text_attribute("service.instance.id", instance),
    ];
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{
            "scope": { "name": "messina", "version": env!("CARGO_PKG_VERSION") },
            "spans": spans.iter().map(span).collect::<Vec<_>>(),
        }],
    }]})
}

fn span(ended: &Ended) -> Json {
    let span = &ended.span;
    let remote = if span.parent.is_some() { REMOTE } else { 0 };
    let mut json = json!({
        "traceId": hex(&span.own.trace),
        "spanId": hex(&span.own.span),
        "flags": u32::from(span.own.flags) | KNOWN | remote,
        "name": format!("process {}", ended.topic),
        "kind": CONSUMER,
        "startTimeUnixNano": nanoseconds(span.began, Duration::ZERO),
        "endTimeUnixNano": nanoseconds(span.began, ended.took),
        "attributes": attributes(ended),
    });
    if let Some(parent) = &span.parent {
        json["parentSpanId"] = hex(parent).into();
    }
    if let Some(state) = &span.state {
        json["traceState"] = state.as_str().into();
    }
    if let Some(produced) = ended.produced {
        let event = json!({ "name": "produced", "timeUnixNano": nanoseconds(span.began, produced) });
        json["events"] = json!([event]);
    }
    if let Some(failure) = &ended.failure {
        // The message has no content of the record. It is scrubbed, like everything that leaves the process.
        json["status"] = json!({ "code": ERROR, "message": scrub(&failure.message) });
    }
    json
}

fn attributes(ended: &Ended) -> Vec<Json> {
    let mut attributes = vec![
        text_attribute("messaging.system", "kafka"),
        text_attribute("messaging.operation.type", "process"),
        text_attribute("messaging.operation.name", "process"),
        text_attribute("messaging.destination.name", &ended.topic),
        text_attribute("messaging.destination.partition.id", &ended.partition.to_string()),
        text_attribute("messaging.consumer.group.name", &ended.names.group),
        // In this encoding, 64-bit integers are strings.
        json!({ "key": "messaging.kafka.offset", "value": { "intValue": ended.offset.to_string() } }),
        text_attribute("messina.pipeline", &ended.names.pipeline),
        text_attribute("messina.outcome", ended.outcome),
    ];
    if let Some(failure) = &ended.failure {
        attributes.push(text_attribute("error.type", failure.reason));
        attributes.push(text_attribute("messina.failure.class", failure.class.as_str()));
        if let Some(step) = &failure.step {
            attributes.push(text_attribute("messina.failure.step", step));
        }
    }
    attributes
}

fn text_attribute(key: &str, value: &str) -> Json {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// A time as nanoseconds since 1970, as text.
fn nanoseconds(began: SystemTime, after: Duration) -> String {
    let since = began.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since + after).as_nanos().to_string()
}
