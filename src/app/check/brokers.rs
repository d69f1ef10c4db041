//! What the brokers tell `check --online`: topics that are not there, and what this client may not do with topics and group.
//!
//! Not covered, because no broker tells it before it is done: the rights on a transactional id, and on creating a topic.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

use crate::config::{self, Config, Spanned};
use crate::kafka;
use crate::kafka::rights::{Allowed, Operation, of_groups, of_topics};
use crate::pipeline::finding::Finding;

/// How long the brokers may take to say which topics there are, and again to say what is permitted.
const PATIENCE: Duration = Duration::from_secs(10);
/// Brokers each have a reason why they cannot be reached; so many are told.
const MOST_REASONS: usize = 3;

/// A topic, and what is to be done with it.
type Wanted = (Spanned<String>, Operation);

/// What is wrong with a pipeline's topics and group. Fails where no broker answers.
pub(super) async fn tell(config: &Config, pipeline: &config::Pipeline) -> Result<Vec<Finding>, String> {
    let (kafka, source) = (&config.kafka, &pipeline.source);
    let reading = kafka::client(kafka, &kafka.consumer_properties, &source.properties).map_err(|e| e.to_string())?;
    let sink_properties = pipeline.sink.as_ref().map_or(&[][..], |sink| &sink.properties);
    let writing = kafka::client(kafka, &kafka.producer_properties, sink_properties).map_err(|e| e.to_string())?;
    let inputs: Vec<Wanted> = source
        .topics
        .iter()
        .map(|topic| (topic.clone(), Operation::Read))
        .collect();
    let outputs = pipeline.sink.iter().map(|sink| &sink.topic);
    let outputs = outputs.chain(pipeline.dead_letter.iter().map(|letters| &letters.topic));
    let outputs: Vec<Wanted> = outputs.map(|topic| (topic.clone(), Operation::Write)).collect();
    let group = Some(source.group.clone());
    let asked = tokio::task::spawn_blocking(move || {
        let as_writer = identity(&writing);
        if identity(&reading).config_map() == as_writer.config_map() {
            return ask(&reading, [inputs, outputs].concat(), group);
        }
        let mut findings = ask(&reading, inputs, group)?;
        findings.extend(ask(&as_writer, outputs, None)?);
        Ok(findings)
    });
    asked.await.unwrap_or_else(|e| Err(e.to_string()))
}

/// The properties that say who the client is, and where.
fn identity(client: &ClientConfig) -> ClientConfig {
    let mut identity = ClientConfig::new();
    for (name, value) in client.config_map() {
        if [
            "bootstrap.",
            "security.",
            "sasl.",
            "ssl.",
            "enable.sasl.",
            "enable.ssl.",
        ]
        .iter()
        .any(|start| name.starts_with(start))
        {
            identity.set(name, value);
        }
    }
    identity
}

fn ask(client: &ClientConfig, wanted: Vec<Wanted>, group: Option<Spanned<String>>) -> Result<Vec<Finding>, String> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let reasons = Reasons::default();
    let consumer: BaseConsumer<Reasons> = client
        .create_with_context(reasons.clone())
        .map_err(|e| format!("the brokers: {e}"))?;
    let began = Instant::now();
    let metadata = loop {
        // Serves what waits: a token to be made, lines to be logged. An error among it is no news.
        while consumer.poll(Duration::from_millis(10)).is_some() {}
        match consumer.fetch_metadata(None, PATIENCE / 5) {
            Ok(metadata) => break metadata,
            Err(_) if began.elapsed() < PATIENCE => {}
            Err(e) => return Err(format!("the brokers: {e}{}", reasons.told())),
        }
    };
    let names: Vec<&str> = wanted.iter().map(|(topic, _)| topic.as_str()).collect();
    let allowed = of_topics(&consumer, &names, PATIENCE);
    let user = client.get("sasl.username");
    let mut findings = Vec::new();
    for ((topic, operation), allowed) in wanted.iter().zip(allowed) {
        let mut known = metadata.topics().iter();
        // Metadata leaves out what the client may not know of.
        if allowed != Allowed::Nothing && !known.any(|t| t.name() == topic.value && !t.partitions().is_empty()) {
            let message = format!("the brokers have no topic '{}'", topic.value);
            findings.push(Finding::new(topic.span, message).help("create it first"));
        } else if allowed.refuses(*operation) {
            findings.push(refused(user, *operation, ("topic", topic)));
        }
    }
    if let Some(group) = group {
        let allowed = of_groups(&consumer, &[group.as_str()], PATIENCE);
        let refuses = allowed.iter().any(|allowed| allowed.refuses(Operation::Read));
        findings.extend(refuses.then(|| refused(user, Operation::Read, ("group", &group))));
    }
    Ok(findings)
}

/// What is said of a right that is missing.
fn refused(user: Option<&str>, operation: Operation, (kind, name): (&str, &Spanned<String>)) -> Finding {
    let who = user.map_or_else(|| "this client".to_owned(), |user| format!("user '{user}'"));
    let may_not = match (operation, kind) {
        (Operation::Read, "group") => "be a member of",
        (Operation::Read, _) => "read",
        (Operation::Write, _) => "write to",
    };
    let message = format!("the brokers do not let {who} {may_not} {kind} '{}'", name.value);
    Finding::new(name.span, message).help(format!(
        "grant it: kafka-acls --add --allow-principal User:{} --operation {} --{kind} {}",
        user.unwrap_or("NAME"),
        operation.name(),
        name.value
    ))
}

/// What librdkafka logs while it tries: its error says only that there was no answer, and this says why.
#[derive(Clone, Default)]
struct Reasons(Arc<Mutex<Vec<String>>>);

impl Reasons {
    /// The different reasons, to be put behind an error.
    fn told(&self) -> String {
        let reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.iter().map(|reason| format!("; {reason}")).collect()
    }
}

impl ClientContext for Reasons {
    fn log(&self, level: RDKafkaLogLevel, _facility: &str, message: &str) {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // `[thrd:…]: …: reason (after 3ms in state …)`: the address and the reason are wanted once for each.
        let reason = message.split_once("]: ").map_or(message, |(_, rest)| rest);
        let reason = reason.split(" (after ").next().unwrap_or(reason);
        if level as i32 <= RDKafkaLogLevel::Error as i32
            && reasons.len() < MOST_REASONS
            && !reasons.iter().any(|r| r == reason)
        {
            reasons.push(reason.to_owned());
        }
    }
}

impl ConsumerContext for Reasons {}
