//! Checks whether the consumer group waits long enough for a drain, and whether librdkafka accepts its timing properties.
//!
//! While partitions drain, the rest of the group waits, at most `max.poll.interval.ms`; after that they are given to other members, with work still
//! in flight. Defaults are librdkafka's: <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>.

use std::time::Duration;

use super::super::kafka::{is_misread, taken_as};
use super::super::{Config, GroupProtocol, Pipeline, Property, PropertyValue, Span, codes};
use super::Report;
use crate::config::Diagnostic;
use crate::shutdown::LEAVE_COMMIT;

const MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);
const SESSION_TIMEOUT: Duration = Duration::from_secs(45);

pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    let drain = config.shutdown_timeout;
    for pipeline in config.pipelines.values() {
        consumer_protocol(config, pipeline, report);
        let name = &pipeline.name.value;
        let (interval, span) = setting(config, pipeline, "max.poll.interval.ms", MAX_POLL_INTERVAL);
        if drain.saturating_add(LEAVE_COMMIT) >= interval {
            let message = format!("`{name}` may drain for longer than its group waits for it");
            let label = format!("the group waits for {} s", interval.as_secs());
            let help = format!(
                "lower shutdown_timeout, which is {} s, or raise max.poll.interval.ms; the last commit may take {} s more",
                drain.as_secs(),
                LEAVE_COMMIT.as_secs()
            );
            report.error(codes::DRAIN, message, span, label, help);
            continue;
        }
        let interval_span = span;
        let (session, span) = setting(config, pipeline, "session.timeout.ms", SESSION_TIMEOUT);
        if pipeline.source.group_protocol == GroupProtocol::Classic && interval < session {
            let message = format!("`max.poll.interval.ms` is below `session.timeout.ms` in `{name}`");
            let finding = Diagnostic::error(codes::PROPERTY, message);
            report.findings.push(
                finding
                    .at(report.sources, interval_span, format!("{} ms", interval.as_millis()))
                    .with(report.sources, span, format!("{} ms", session.as_millis()))
                    .help("raise it, or lower session.timeout.ms: librdkafka refuses such a consumer"),
            );
            continue;
        }
        if pipeline.source.group_protocol == GroupProtocol::Classic && drain >= session {
            let message = format!("`{name}` may drain for longer than its session with the group lasts");
            let label = format!("without heartbeats the group expels it after {} s", session.as_secs());
            let help = format!(
                "lower shutdown_timeout, which is {} s, or raise session.timeout.ms: a consumer that is cut off while it drains would still work on \
                 records that others have by then",
                drain.as_secs()
            );
            report.warning(codes::DRAIN, message, span, label, help);
        }
    }
}

/// Under KIP-848 the brokers set these properties, and librdkafka refuses to create a consumer that sets one.
fn consumer_protocol(config: &Config, pipeline: &Pipeline, report: &mut Report<'_>) {
    if pipeline.source.group_protocol != GroupProtocol::Consumer {
        return;
    }
    for name in ["session.timeout.ms", "heartbeat.interval.ms", "group.protocol.type"] {
        let Some(property) = set(config, pipeline, name) else {
            continue;
        };
        let pipeline = &pipeline.name.value;
        let message = format!("`{name}` cannot be set under group_protocol = \"consumer\", which `{pipeline}` has");
        let help = "remove it, or `group_protocol`: this protocol takes it from the brokers";
        report.error(codes::PROPERTY, message, property.name.span, "the brokers' own", help);
    }
}

/// A property of a pipeline's consumers, if it is set.
pub(super) fn set<'c>(config: &'c Config, pipeline: &'c Pipeline, name: &str) -> Option<&'c Property> {
    let mut all = properties(config, pipeline).into_iter().flatten();
    all.find(|property| property.name.value == name)
}

/// The properties of a pipeline's consumers; earlier lists take precedence.
pub(super) fn properties<'c>(config: &'c Config, pipeline: &'c Pipeline) -> [&'c [Property]; 3] {
    let kafka = &config.kafka;
    [
        &pipeline.source.properties,
        &kafka.consumer_properties,
        &kafka.properties,
    ]
}

/// The properties of a pipeline's producer (earlier lists take precedence), and the section that they are for. `None` if the pipeline publishes
/// nothing.
pub(super) fn producer_properties<'c>(
    config: &'c Config,
    pipeline: &'c Pipeline,
) -> Option<([&'c [Property]; 3], Span)> {
    let (own, span) = match (&pipeline.sink, &pipeline.dead_letter) {
        (Some(sink), _) => (&sink.properties[..], sink.span),
        (None, Some(letters)) => (&[][..], letters.span),
        (None, None) => return None,
    };
    let kafka = &config.kafka;
    Some(([own, &kafka.producer_properties, &kafka.properties], span))
}

/// The value of a property in milliseconds, or its default, and where it is set.
fn setting(config: &Config, pipeline: &Pipeline, name: &str, default: Duration) -> (Duration, Span) {
    match set(config, pipeline, name) {
        Some(Property {
            name,
            value: PropertyValue::Plain(value),
        }) => {
            // What librdkafka refuses, or reads as another number, is reported where it is set.
            let read = taken_as(name, value).ok();
            let ms = read.filter(|read| !is_misread(name, value, read));
            let ms = ms.and_then(|ms| ms.parse().ok());
            (ms.map_or(default, Duration::from_millis), name.span)
        }
        Some(property) => (default, property.name.span),
        None => (default, pipeline.source.span),
    }
}
