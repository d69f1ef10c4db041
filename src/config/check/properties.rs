//! Refuses librdkafka properties that Messina sets itself, or that would break a promise.
//!
//! Names: <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>.

use super::super::kafka::{Refused, is_misread, taken_as};
use super::super::{Config, Diagnostic, Property, PropertyValue, Span, Spanned, codes, real_name};
use super::Report;
use super::group::{producer_properties, properties};

/// Properties for which Messina has its own key, or which cannot be changed: name, reason, remedy.
const OWNED: [(&str, &str, &str); 15] = [
    (
        "bootstrap.servers",
        "Messina has its own key for it",
        "use `brokers` in [kafka]",
    ),
    (
        "metadata.broker.list",
        "Messina has its own key for it",
        "use `brokers` in [kafka]",
    ),
    (
        "group.id",
        "Messina has its own key for it",
        "use `group` in the pipeline's [source]",
    ),
    (
        "group.instance.id",
        "Messina has its own key for it",
        "use `instance_id` in the pipeline's [source]",
    ),
    (
        "group.protocol",
        "Messina has its own key for it",
        "use `group_protocol` in the pipeline's [source]",
    ),
    (
        "partition.assignment.strategy",
        "Messina has its own key for it",
        "use `assignor` in the pipeline's [source]",
    ),
    (
        "auto.offset.reset",
        "Messina has its own key for it",
        "use `offset_reset` in the pipeline's [source]",
    ),
    (
        "enable.auto.commit",
        "an offset is committed when all effects of its record are acknowledged",
        "remove it",
    ),
    (
        "auto.commit.enable",
        "an offset is committed when all effects of its record are acknowledged",
        "remove it",
    ),
    (
        "auto.commit.interval.ms",
        "an offset is committed when all effects of its record are acknowledged",
        "remove it",
    ),
    (
        "enable.auto.offset.store",
        "an offset is stored when all effects of its record are acknowledged",
        "remove it",
    ),
    (
        "transactional.id",
        "Messina derives it from group, pipeline and instance",
        "use delivery = \"exactly_once\", and `instance_id` in the pipeline's [source]",
    ),
    (
        "statistics.interval.ms",
        "metrics are made from the statistics",
        "remove it",
    ),
    ("delivery.report.only.error", "each delivery is awaited", "remove it"),
    (
        "enable.partition.eof",
        "the end of a partition is no record",
        "remove it",
    ),
];

/// Properties that accept only certain values: librdkafka's own name, the values, the reason.
const BOUND: [(&str, &[&str], &str); 3] = [
    (
        "request.required.acks",
        &["all", "-1"],
        "an offset is committed when the output is safe, on all in-sync replicas",
    ),
    (
        "enable.idempotence",
        &["true"],
        "retries inside librdkafka would reorder and duplicate records",
    ),
    (
        // The error of a failed check has no offset at which we could stop, and librdkafka continues after the batch, or where bytes within it say (2.12,
        // rdkafka_msgset_reader.c).
        "check.crcs",
        &["false"],
        "librdkafka does not stop at a batch that fails the check, and its records would be skipped",
    ),
];

pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    let kafka = &config.kafka;
    let shared = [
        &kafka.properties,
        &kafka.consumer_properties,
        &kafka.producer_properties,
    ]
    .into_iter()
    .flatten();
    let sources = config
        .pipelines
        .values()
        .flat_map(|pipeline| &pipeline.source.properties);
    let sinks = config
        .pipelines
        .values()
        .filter_map(|pipeline| pipeline.sink.as_ref())
        .flat_map(|sink| &sink.properties);
    for property in shared.chain(sources).chain(sinks) {
        judge(property, report);
    }
    tokens(config, report);
}

/// Reports clients that log in by token although nothing provides tokens. librdkafka fetches some kinds itself if it is built with curl, which it is not here;
/// otherwise it asks the application for one. It would wait for ever and log nothing.
fn tokens(config: &Config, report: &mut Report<'_>) {
    let mut told: Vec<Span> = Vec::new();
    for pipeline in config.pipelines.values() {
        let writing = producer_properties(config, pipeline).map(|(properties, _)| properties);
        let clients = std::iter::once(properties(config, pipeline)).chain(writing);
        for mechanism in clients.filter_map(without_tokens) {
            let Spanned { value: name, span } = &mechanism.name;
            if told.contains(span) {
                continue;
            }
            told.push(*span);
            let message = format!("`{name}` needs tokens, and nothing provides them");
            let help = "log in with SCRAM or a client certificate; for trials, \"enable.sasl.oauthbearer.unsecure.jwt\" = true makes unsigned tokens";
            report.error(
                codes::PROPERTY,
                message,
                *span,
                "clients would wait for one for ever",
                help,
            );
        }
    }
}

/// The property that makes a client need tokens, unless it makes unsigned ones itself. Earlier lists take precedence.
fn without_tokens(client: [&[Property]; 3]) -> Option<&Property> {
    let set = |name: &str| {
        let mut all = client.into_iter().flatten();
        let property = all.find(|property| real_name(property.name.as_str()) == name)?;
        Some((property, property.value.reveal().ok()?.to_ascii_lowercase()))
    };
    let (mechanism, value) = set("sasl.mechanisms")?;
    let is_used = set("security.protocol").is_some_and(|(_, protocol)| protocol.starts_with("sasl"));
    let are_made = set("enable.sasl.oauthbearer.unsecure.jwt")
        .is_some_and(|(_, made)| ["true", "t", "1"].contains(&made.as_str()));
    (value == "oauthbearer" && is_used && !are_made).then_some(mechanism)
}

fn judge(property: &Property, report: &mut Report<'_>) {
    let name = property.name.as_str();
    if let Some((_, reason, remedy)) = OWNED.iter().find(|(owned, ..)| *owned == name) {
        let message = format!("`{name}` is set by Messina");
        report.error(codes::OWNED_PROPERTY, message, property.name.span, *reason, *remedy);
        return;
    }
    if let Some((_, values, reason)) = BOUND.iter().find(|(bound, ..)| *bound == real_name(name))
        && let Ok(value) = property.value.reveal()
        && !values.contains(&value.as_str())
    {
        let message = match &property.value {
            PropertyValue::Plain(value) => format!("`{name}` cannot be `{value}`"),
            PropertyValue::Secret(_) => format!("`{name}` cannot be what its variable or file says"),
        };
        let help = format!("remove it, or set it to `{}`", values[0]);
        report.error(codes::OWNED_PROPERTY, message, property.name.span, *reason, help);
        return;
    }
    taken(property, report);
}

/// Reports what librdkafka has against a property and its value, as a client would at the start. The value of a secret is not checked.
fn taken(property: &Property, report: &mut Report<'_>) {
    let name = property.name.as_str();
    if name == "plugin.library.paths" {
        return; // librdkafka would load it, and it may not exist where the check runs.
    }
    let (value, secret) = match &property.value {
        PropertyValue::Plain(value) => (value.as_str(), false),
        PropertyValue::Secret(_) => ("", true),
    };
    let message = match taken_as(name, value) {
        Ok(read) => {
            if is_misread(name, value, &read) {
                another_number(property, value, &read, report);
            }
            return;
        }
        Err(Refused { unknown: true, .. }) => format!("librdkafka knows no property `{name}`"),
        // A secret is checked with an empty value, so a complaint about the value means nothing.
        Err(Refused { why, .. }) if secret && !why.contains("not supported") => return,
        Err(Refused { why, .. }) => format!("librdkafka does not take `{name}`: {why}"),
    };
    let dotted = name.replace('_', ".");
    let label = if dotted != name && taken_as(&dotted, value).is_ok() {
        format!("did you mean `{dotted}`?")
    } else {
        String::new()
    };
    let help = "its CONFIGURATION.md has all: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md";
    let finding = Diagnostic::error(codes::PROPERTY, message);
    report
        .findings
        .push(finding.at(report.sources, property.name.span, label).help(help));
}

/// Reports a value that librdkafka takes, but reads as another number.
fn another_number(property: &Property, value: &str, read: &str, report: &mut Report<'_>) {
    let Spanned { value: name, span } = &property.name;
    let help = if name.ends_with(".ms") {
        "write milliseconds as a whole number without a unit: five minutes are 300000"
    } else if name.ends_with("bytes") {
        "write bytes as a whole number without a unit: one MiB is 1048576"
    } else {
        "write a whole number without a unit"
    };
    let message = format!("`{name}` would be read as {read}, not as `{value}`");
    report.error(codes::PROPERTY, message, *span, "librdkafka knows no units here", help);
}
