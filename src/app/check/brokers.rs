//! Asks the brokers for `check --online`: missing topics, topics with too small a record limit, compacted dead-letter topics, and missing permissions on
//! topics and group.
//!
//! Not covered, because brokers do not report them in advance: permissions on a transactional id and on creating a topic.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::config::suggest::nearest;
use crate::config::{self, Config, SecretError, Spanned};
use crate::kafka;
use crate::kafka::asker::{Asker, Reasons};
use crate::kafka::rights::{Allowed, Operation, of_groups, of_topics};
use crate::pipeline::finding::Finding;
use crate::sink::batches::{Batches, Untold};
use crate::sink::dead_letters::{COMPACTED, COMPACTED_HELP};

/// How long the brokers may take to list the topics, and again to report permissions.
const PATIENCE: Duration = Duration::from_secs(10);

/// A topic, and the operation that the pipeline needs on it.
type Wanted = (Spanned<String>, Operation);

/// Findings about a pipeline's topics and group. Fails if no broker answers.
pub(super) async fn tell(config: &Config, pipeline: &config::Pipeline) -> Result<Vec<Finding>, String> {
    let source = &pipeline.source;
    let (reading, writing) = clients(config, pipeline).map_err(|e| e.to_string())?;
    let inputs: Vec<Wanted> = source
        .topics
        .iter()
        .map(|topic| (topic.clone(), Operation::Read))
        .collect();
    let outputs: Vec<Wanted> = outputs(pipeline)
        .map(|(topic, _)| (topic.clone(), Operation::Write))
        .collect();
    let group = Some(source.group.clone());
    let asked = tokio::task::spawn_blocking(move || {
        let as_writer = identity(&writing);
        if is_same(&identity(&reading), &as_writer) {
            return ask(&reading, [inputs, outputs].concat(), group);
        }
        let mut findings = ask(&reading, inputs, group)?;
        findings.extend(ask(&as_writer, outputs, None)?);
        Ok(findings)
    });
    asked.await.unwrap_or_else(|e| Err(e.to_string()))
}

/// A pipeline's client configurations for reading and for writing.
fn clients(config: &Config, pipeline: &config::Pipeline) -> Result<(ClientConfig, ClientConfig), SecretError> {
    let kafka = &config.kafka;
    let sink_properties = pipeline.sink.as_ref().map_or(&[][..], |sink| &sink.properties);
    Ok((
        kafka::client(kafka, &kafka.consumer_properties, &pipeline.source.properties)?,
        kafka::client(kafka, &kafka.producer_properties, sink_properties)?,
    ))
}

/// Warnings about output topics with a lower record limit than the input, about topics whose limit the brokers do not
/// report, and about a compacted dead-letter topic.
pub(super) async fn sizes(config: &Config, pipeline: &config::Pipeline) -> Vec<Finding> {
    let Ok((reading, writing)) = clients(config, pipeline) else {
        return Vec::new();
    };
    let inputs = pipeline.source.topics.iter().map(|topic| topic.as_str()).collect();
    let outputs = outputs(pipeline).map(|(topic, _)| topic.as_str()).collect();
    let inputs = taken(&reading, inputs).await;
    let outputs = taken(&writing, outputs).await;
    let mut findings = smaller(pipeline, |topic| {
        inputs.taken_by(topic).or_else(|| outputs.taken_by(topic))
    });
    // Users who set their own batch size know the limit.
    if writing.get("batch.size").is_none() {
        findings.extend(untold(pipeline, &outputs.untold().collect::<Vec<_>>()));
    }
    findings.extend(compacted(pipeline, |topic| outputs.wants_key(topic)));
    findings
}

/// The topics that are published to, and what becomes of a record that is too large for one.
fn outputs(pipeline: &config::Pipeline) -> impl Iterator<Item = (&Spanned<String>, &'static str)> {
    let sink = pipeline.sink.iter().map(|sink| (&sink.topic, "becomes a dead letter"));
    let letters = pipeline.dead_letter.iter();
    sink.chain(letters.map(|letters| (&letters.topic, "halts the pipeline")))
}

/// The record limits of these topics.
async fn taken(client: &ClientConfig, topics: Vec<&str>) -> Batches {
    if topics.is_empty() {
        return Batches::default();
    }
    let Ok(asker) = Asker::new(identity(client)) else {
        return Batches::default();
    };
    let asker = Arc::new(asker);
    let asks = asker.clone();
    // Once this is answered, the cluster's id is known, too. All topics are requested, because a request for one topic
    // by name might create it.
    let answered = tokio::task::spawn_blocking(move || {
        let metadata = asks.client().fetch_metadata(None, PATIENCE).ok()?;
        let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
        Some(names.collect::<Vec<_>>())
    });
    let Ok(Some(known)) = answered.await else {
        return Batches::default();
    };
    // A missing topic has a finding of its own, and would be queried again and again.
    let there = |topic: &&str| known.iter().any(|known| known == *topic);
    let topics: Vec<&str> = topics.into_iter().filter(there).collect();
    if topics.is_empty() {
        return Batches::default();
    }
    Batches::ask(asker, &topics).await
}

/// Findings about topics whose limit the brokers do not report, each with the reason.
fn untold(pipeline: &config::Pipeline, untold: &[(&str, &Untold)]) -> Vec<Finding> {
    let found = outputs(pipeline).filter_map(|(topic, _)| {
        let (_, untold) = untold.iter().find(|(name, _)| *name == topic.value)?;
        let message = format!(
            "the brokers do not report the limits of topic '{}' (max.message.bytes): {}",
            topic.value, untold.why
        );
        Some(Finding::new(topic.span, message).help(untold.help()))
    });
    found.collect()
}

/// The finding about a compacted dead-letter topic.
fn compacted(pipeline: &config::Pipeline, is_compacted: impl Fn(&str) -> bool) -> Option<Finding> {
    let topic = &pipeline.dead_letter.as_ref()?.topic;
    is_compacted(topic.as_str())
        .then(|| Finding::new(topic.span, format!("topic '{}' {COMPACTED}", topic.value)).help(COMPACTED_HELP))
}

fn smaller(pipeline: &config::Pipeline, taken_by: impl Fn(&str) -> Option<usize>) -> Vec<Finding> {
    let inputs = pipeline.source.topics.iter();
    let largest = inputs.filter_map(|topic| Some((taken_by(topic.as_str())?, topic)));
    let Some((comes, input)) = largest.max_by_key(|(bytes, _)| *bytes) else {
        return Vec::new();
    };
    let small = |(topic, end): (&Spanned<String>, &str)| {
        let takes = taken_by(topic.as_str()).filter(|takes| *takes < comes)?;
        let message = format!(
            "topic '{}' accepts {takes} bytes and '{}' {comes}: a record that is too large for it {end}",
            topic.value, input.value
        );
        Some(
            Finding::new(topic.span, message).help("raise its max.message.bytes, or its segment.bytes if that is less"),
        )
    };
    outputs(pipeline).filter_map(small).collect()
}

/// The properties that say who the client is and where the brokers are. `config_map` has all names, but no values of
/// secrets.
fn identity(client: &ClientConfig) -> ClientConfig {
    let mut identity = ClientConfig::new();
    for name in client.config_map().into_keys() {
        if kafka::is_identity(name)
            && let Some(value) = client.get(name)
        {
            identity.set(name, value);
        }
    }
    identity
}

fn is_same(one: &ClientConfig, other: &ClientConfig) -> bool {
    let names = one.config_map().into_keys();
    names.eq(other.config_map().into_keys())
        && one
            .config_map()
            .into_keys()
            .all(|name| one.get(name) == other.get(name))
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
        // Serves queued callbacks, such as a token refresh or log lines. Errors among them add nothing.
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
        // Metadata omits topics that the client may not see.
        if allowed != Allowed::Nothing && !known.any(|t| t.name() == topic.value && !t.partitions().is_empty()) {
            let known = metadata.topics().iter().map(|topic| topic.name());
            findings.push(absent(topic, known.filter(|known| !names.contains(known))));
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

/// The finding about a missing topic; `others` are existing topics that the pipeline does not name.
fn absent<'a>(topic: &Spanned<String>, others: impl Iterator<Item = &'a str>) -> Finding {
    let message = format!("the brokers have no topic '{}'", topic.value);
    // Topics with this prefix are the brokers' own.
    let help = match nearest(topic, others.filter(|other| !other.starts_with("__"))) {
        Some(near) => format!("did you mean '{near}'? If not, create it first"),
        None => "create it first".to_owned(),
    };
    Finding::new(topic.span, message).help(help)
}

/// The finding about a missing permission.
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

#[cfg(test)]
mod tests {
    use rdkafka::error::{KafkaError, RDKafkaErrorCode};

    use super::*;
    use crate::config::load_str;

    #[test]
    fn who_a_client_is_has_its_password() {
        let of = |password: &str| {
            let mut client = ClientConfig::new();
            client.set("sasl.username", "u").set("sasl.password", password);
            client.set("client.id", "messina");
            identity(&client)
        };
        let one = of("one");
        assert_eq!((one.get("sasl.password"), one.get("client.id")), (Some("one"), None));
        assert!(is_same(&one, &of("one")) && !is_same(&one, &of("two")));
    }
    #[test]
    fn a_topic_that_was_probably_meant_is_named() {
        let text = "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r\"\n\
                    [pipelines.p]\nsource = { topics = [\"navgation\"], group = \"g\" }\nsink = { topic = \"out\" }\n";
        let (config, _) = load_str(vec![("test.toml".into(), text.into())], std::iter::empty()).unwrap();
        let topic = &config.pipelines["p"].source.topics[0];
        let told = |others: &[&str]| absent(topic, others.iter().copied()).help.unwrap();
        let near = told(&["orders", "navigation"]);
        assert_eq!(near, "did you mean 'navigation'? If not, create it first");
        assert_eq!(told(&["orders", "__navgation"]), "create it first");
    }

    #[test]
    fn topics_are_named_of_which_nobody_tells_what_they_take() {
        let text = "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r\"\n\
                    [pipelines.p]\nsource = { topics = [\"in\"], group = \"g\" }\nsink = { topic = \"out\" }\n\
                    dead_letter = { topic = \"dead\" }\n";
        let (config, _) = load_str(vec![("test.toml".into(), text.into())], std::iter::empty()).unwrap();
        for (code, wants) in [
            (RDKafkaErrorCode::TopicAuthorizationFailed, true),
            (RDKafkaErrorCode::OperationTimedOut, false),
        ] {
            let refused = Untold::from(KafkaError::AdminOp(code));
            let told = untold(&config.pipelines["p"], &[("dead", &refused), ("in", &refused)]);
            let [finding] = told.as_slice() else {
                panic!("{told:?}");
            };
            let message = "the brokers do not report the limits of topic 'dead' (max.message.bytes): ";
            assert_eq!(finding.message, message.to_owned() + &refused.why);
            let help = finding.help.as_deref().unwrap();
            assert_eq!(help.contains("grant DescribeConfigs"), wants, "{help}");
        }
    }

    #[test]
    fn topics_that_take_less_than_comes_in_are_told() {
        let text = r#"
            [kafka]
            brokers = "k:9092"
            [registry]
            url = "http://r"
            [pipelines.p]
            source = { topics = ["small", "large"], group = "g" }
            sink = { topic = "out" }
            dead_letter = { topic = "dead" }
        "#;
        let (config, _) = load_str(vec![("test.toml".into(), text.into())], std::iter::empty()).unwrap();
        let told = |sizes: &[(&str, usize)]| -> Vec<String> {
            let taken_by = |topic: &str| sizes.iter().find(|(name, _)| *name == topic).map(|(_, size)| *size);
            let found = smaller(&config.pipelines["p"], taken_by);
            found.into_iter().map(|finding| finding.message).collect()
        };
        let all = [("small", 1000), ("large", 9000), ("out", 9000), ("dead", 1000)];
        assert_eq!(
            told(&all),
            ["topic 'dead' accepts 1000 bytes and 'large' 9000: a record that is too large for it halts the pipeline"]
        );
        let none: [&str; 0] = [];
        assert_eq!(told(&[("small", 1000), ("out", 1000), ("dead", 1001)]), none);
        assert_eq!(
            told(&[("out", 1000), ("dead", 1001)]),
            none,
            "what comes in is not known"
        );
        assert_eq!(told(&[("large", 9000), ("out", 8999)]).len(), 1);
    }

    #[test]
    fn a_compacted_topic_is_told_where_dead_letters_go_to_it() {
        let told = |compacted: &str, more: &str| {
            let text = format!(
                "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r\"\n\
                 [pipelines.p]\nsource = {{ topics = [\"in\"], group = \"g\" }}\nsink = {{ topic = \"out\" }}\n{more}"
            );
            let (config, _) = load_str(vec![("test.toml".into(), text)], std::iter::empty()).unwrap();
            super::compacted(&config.pipelines["p"], |topic| topic == compacted)
        };
        let letters = "dead_letter = { topic = \"dead\" }\n";
        let finding = told("dead", letters).unwrap();
        assert!(finding.message.starts_with("topic 'dead' is compacted"), "{finding:?}");
        assert_eq!(finding.help.as_deref(), Some("set its cleanup.policy=delete"));
        // An output without a key becomes a dead letter there.
        assert_eq!(told("out", letters), None);
        assert_eq!(told("dead", ""), None);
    }
}
