//! Checks whether librdkafka can create clients with the configured properties. It validates single properties when they are set, and combinations
//! only when a client is created.
//!
//! So a consumer and a producer are created as at a start, and discarded. They get no brokers, so that nobody is contacted, and no credentials,
//! because the files for those may not exist where the check runs.

use rdkafka::ClientConfig;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaType;

use super::super::{Config, Delivery, Diagnostic, Pipeline, Property, Severity, Span, codes, real_name};
use super::Report;
use super::group::{producer_properties, properties};
use crate::kafka::{self, BatchBytes};

/// Queue size of the clients. No check depends on it.
const QUEUE: usize = 1 << 20;

pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    // An error about a single property has been reported at its place. librdkafka would only repeat it.
    let told = [codes::OWNED_PROPERTY, codes::PROPERTY, codes::DRAIN];
    let is_told = |finding: &Diagnostic| finding.severity == Severity::Error && told.contains(&finding.code);
    if report.findings.iter().any(is_told) {
        return;
    }
    for pipeline in config.pipelines.values() {
        consumer(config, pipeline, report);
        producer(config, pipeline, report);
    }
}

fn consumer(config: &Config, pipeline: &Pipeline, report: &mut Report<'_>) {
    let of = &config.kafka;
    judge(properties(config, pipeline), pipeline.source.span, report, || {
        let client = kafka::consumer(of, pipeline, 0, QUEUE, kafka::named(of)).ok()?;
        refusal(client, RDKafkaType::RD_KAFKA_CONSUMER)
    });
}

fn producer(config: &Config, pipeline: &Pipeline, report: &mut Report<'_>) {
    let of = &config.kafka;
    let Some((properties, span)) = producer_properties(config, pipeline) else {
        return;
    };
    let [own, ..] = properties;
    let transactions = (*pipeline.delivery == Delivery::ExactlyOnce).then_some("check");
    judge(properties, span, report, || {
        let client = kafka::producer(of, own, QUEUE, BatchBytes::default(), transactions).ok()?;
        refusal(client, RDKafkaType::RD_KAFKA_PRODUCER)
    });
}

/// Reports why librdkafka cannot create a client with these properties; earlier lists take precedence. If the user sets no properties other than
/// identity ones, there is nothing to check: the ones that Messina sets go together.
fn judge(
    properties: [&[Property]; 3],
    section: Span,
    report: &mut Report<'_>,
    refusal: impl FnOnce() -> Option<String>,
) {
    let mut set = properties.into_iter().flatten();
    if set.clone().all(|property| kafka::is_identity(&property.name)) {
        return;
    }
    let Some(why) = refusal() else { return };
    // The message has property names in backticks. They may be aliases of the names in the configuration.
    let has = |name: &str| why.split('`').any(|word| real_name(word) == real_name(name));
    let span = set
        .find(|property| has(&property.name))
        .map(|property| property.name.span);
    let message = format!("librdkafka cannot create a client with these properties: {why}");
    let help = "change one of them: librdkafka's CONFIGURATION.md and docs/configuration.md list the defaults";
    report.error(codes::PROPERTY, message, span.unwrap_or(section), "", help);
}

/// Why librdkafka cannot create this client, if the reason is how its properties go together.
fn refusal(mut client: ClientConfig, kind: RDKafkaType) -> Option<String> {
    let names: Vec<String> = client.config_map().into_keys().map(str::to_owned).collect();
    for name in &names {
        // librdkafka would load a plugin, and a member of a group takes its time to leave.
        if kafka::is_identity(name) || name == "plugin.library.paths" || name == "group.id" {
            client.remove(name);
        }
    }
    let native = client.create_native_config().ok()?;
    match Client::new(&client, native, kind, DefaultClientContext) {
        // A complaint about properties names one in backticks. Any other error is the machine's, such as a thread that cannot be started.
        Err(KafkaError::ClientCreation(why)) => why.contains('`').then_some(why),
        // Nobody polls the client for its log, so nothing is logged.
        Ok(_) | Err(_) => None,
    }
}
