//! Refuses librdkafka properties that Messina sets itself, or that would break a promise.
//!
//! Names: <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>.

use super::super::kafka::{Refused, refused};
use super::super::{Config, Diagnostic, Property, PropertyValue, Span, Spanned, codes, real_name};
use super::Report;
use super::group::{producer_properties, properties};

/// Properties that have a key of Messina's own, or no say at all: name, reason, remedy.
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

/// Properties whose value must be one of these: librdkafka's own name, values, reason.
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
        // Its error has no place that we could stop at, and it goes on behind the batch, or where bytes within it say (2.12, rdkafka_msgset_reader.c).
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

/// Clients that log in by tokens which nobody makes: librdkafka fetches some where it is built with curl, which it is not here, and otherwise asks whoever has
/// made the client. It would wait for ever, without a word.
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

/// The property that makes a client want tokens, if it has none; of the properties the first win.
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

/// What librdkafka says of a property, which a client would say at the start, its value beside it. The value of a secret is not judged.
fn taken(property: &Property, report: &mut Report<'_>) {
    let name = property.name.as_str();
    if name == "plugin.library.paths" {
        return; // It would be loaded, and need not be where the check runs.
    }
    let (value, secret) = match &property.value {
        PropertyValue::Plain(value) => (value.as_str(), false),
        PropertyValue::Secret(_) => ("", true),
    };
    let message = match refused(name, value) {
        None => return,
        Some(Refused { unknown: true, .. }) => format!("librdkafka knows no property `{name}`"),
        // Of an empty secret it may say that it is empty.
        Some(Refused { why, .. }) if secret && !why.contains("not supported") => return,
        Some(Refused { why, .. }) => format!("librdkafka does not take `{name}`: {why}"),
    };
    let dotted = name.replace('_', ".");
    let label = if dotted != name && refused(&dotted, value).is_none() {
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
