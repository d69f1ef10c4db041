//! Whether the group is patient enough for what a drain may take.
//!
//! While partitions drain the rest of the group waits, `max.poll.interval.ms` at the longest; after that they are given to others,
//! with work still in flight. Defaults are librdkafka's:
//! <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>.

use std::time::Duration;

use super::super::{Config, GroupProtocol, Pipeline, Property, PropertyValue, Span, codes};
use super::Report;
use crate::shutdown::LEAVE_COMMIT;

const MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);
const SESSION_TIMEOUT: Duration = Duration::from_secs(45);

pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    let drain = config.shutdown_timeout;
    for pipeline in config.pipelines.values() {
        let name = &pipeline.name.value;
        let (interval, span) = setting(config, pipeline, "max.poll.interval.ms", MAX_POLL_INTERVAL);
        if drain + LEAVE_COMMIT >= interval {
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
        let (session, span) = setting(config, pipeline, "session.timeout.ms", SESSION_TIMEOUT);
        if pipeline.source.group_protocol == GroupProtocol::Classic && drain >= session {
            let message = format!("`{name}` may drain for longer than its group misses it");
            let label = format!("without a heartbeat it is given up after {} s", session.as_secs());
            let help = format!(
                "lower shutdown_timeout, which is {} s, or raise session.timeout.ms: a consumer that is cut off while it drains \
                 would go on with records that others have by then",
                drain.as_secs()
            );
            report.warning(codes::DRAIN, message, span, label, help);
        }
    }
}

/// A property in milliseconds, as it will be, and where it is set.
fn setting(config: &Config, pipeline: &Pipeline, name: &str, default: Duration) -> (Duration, Span) {
    let set = [
        &pipeline.source.properties,
        &config.kafka.consumer_properties,
        &config.kafka.properties,
    ]
    .into_iter()
    .find_map(|properties| properties.iter().rev().find(|property| property.name.value == name));
    match set {
        Some(Property {
            name,
            value: PropertyValue::Plain(value),
        }) => match value.parse() {
            Ok(ms) => (Duration::from_millis(ms), name.span),
            // librdkafka says what is wrong with it.
            Err(_) => (default, name.span),
        },
        Some(property) => (default, property.name.span),
        None => (default, pipeline.source.span),
    }
}
