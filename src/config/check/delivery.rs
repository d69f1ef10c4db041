//! What `exactly_once` needs, and what contradicts it.

use std::time::Duration;

use super::super::{Config, Delivery, GroupProtocol, Pipeline, Property, PropertyValue, StepKind, codes};
use super::Report;
use crate::kafka::TRANSACTION_TIMEOUT;

pub(super) fn check(config: &Config, pipeline: &Pipeline, report: &mut Report<'_>) {
    let name = &pipeline.name.value;
    if *pipeline.delivery != Delivery::ExactlyOnce {
        if let Some(interval) = &pipeline.transaction_interval {
            let message = format!("`{name}` has a `transaction_interval` and no transactions");
            let help = "remove it, or write delivery = \"exactly_once\"";
            report.error(
                codes::CONFLICT,
                message,
                interval.span,
                "only under `exactly_once`",
                help,
            );
        }
        return;
    }
    let span = pipeline.delivery.span;
    if pipeline.sink.is_none() {
        let message = format!("`{name}` is to deliver exactly once and publishes nothing");
        let help = "write \"at_least_once\", under which repeated writes give the same rows; or add a [sink]";
        report.error(codes::CONFLICT, message, span, "about what a sink publishes", help);
    }
    if pipeline.source.group_protocol == GroupProtocol::Consumer {
        let message =
            format!("`{name}` is to deliver exactly once, which Messina does with the classic group protocol only");
        let help = "remove `group_protocol`, or write \"at_least_once\"";
        report.error(
            codes::CONFLICT,
            message,
            span,
            "excludes group_protocol = \"consumer\"",
            help,
        );
    }
    interval(config, pipeline, report);
    repeated(pipeline, report);
    let kafka = &config.kafka;
    let properties = [
        &kafka.properties,
        &kafka.consumer_properties,
        &pipeline.source.properties,
    ];
    for property in properties
        .into_iter()
        .flatten()
        .filter(|property| reads_uncommitted(property))
    {
        let message = "`isolation.level` cannot be `read_uncommitted` under `exactly_once`".to_owned();
        let label = format!("`{name}` would take in what its producer takes back");
        report.error(
            codes::OWNED_PROPERTY,
            message,
            property.name.span,
            label,
            "remove it: `read_committed` is the default",
        );
    }
}

/// A transaction that is still open after three quarters of the time that the brokers let it is aborted, and so would each be.
fn interval(config: &Config, pipeline: &Pipeline, report: &mut Report<'_>) {
    let Some(interval) = &pipeline.transaction_interval else {
        return;
    };
    let sink = pipeline.sink.iter().flat_map(|sink| &sink.properties);
    let shared = config.kafka.producer_properties.iter().chain(&config.kafka.properties);
    let set = sink.chain(shared).find(|p| p.name.as_str() == "transaction.timeout.ms");
    let timeout = match set.map(|property| &property.value) {
        Some(PropertyValue::Plain(value)) => value.parse().map_or(TRANSACTION_TIMEOUT, Duration::from_millis),
        Some(PropertyValue::Secret(_)) | None => TRANSACTION_TIMEOUT,
    };
    if interval.value >= timeout * 3 / 4 {
        let message = format!(
            "`{}` would abort each of its transactions before it commits",
            pipeline.name.value
        );
        let label = format!(
            "at three quarters of transaction.timeout.ms, {} ms",
            timeout.as_millis()
        );
        let help = "shorten it; or raise transaction.timeout.ms in the sink's `properties`";
        report.error(codes::CONFLICT, message, interval.span, label, help);
    }
}

/// What an aborted transaction published is taken back, and what it wrote is not.
fn repeated(pipeline: &Pipeline, report: &mut Report<'_>) {
    for step in &pipeline.steps {
        if let StepKind::Write(write) = &step.kind
            && let Some(stated) = write.idempotent_stated.as_ref().filter(|stated| !stated.value)
        {
            let message = format!(
                "an aborted transaction runs its records again, and `{}` writes again what cannot be repeated",
                step.name.value
            );
            let help = "make it repeatable, with values of the event alone; or write delivery = \"at_least_once\", under which less is run again";
            report.warning(
                codes::NOT_REPEATABLE,
                message,
                stated.span,
                "repeated under `exactly_once`",
                help,
            );
        }
    }
}

fn reads_uncommitted(property: &Property) -> bool {
    let value = match &property.value {
        PropertyValue::Plain(value) => value,
        PropertyValue::Secret(_) => return false,
    };
    property.name.as_str() == "isolation.level" && value.as_str() != "read_committed"
}
