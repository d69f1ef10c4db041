//! How large the batches may be that the topics of a pipeline take.
//!
//! Brokers refuse a batch as a whole when it is larger than its topic takes (`max.message.bytes`), and do not say whether one record of it is too
//! large or only all together. librdkafka fills batches up to `batch.size`, a megabyte, whatever the topic takes, and does not split what
//! was refused. A topic that takes less would so make dead letters of good records. Batches are therefore made no larger than the
//! smallest topic takes: what is refused then is one record alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;

use crate::kafka;
use crate::kafka::headers::{self, List};

/// What a record takes in a batch beside key, value and headers, with the batch's own head: an upper bound.
const AROUND: usize = 1024;

/// How long brokers may take to say what topics take: without an answer the start goes on.
const ANSWER: Duration = Duration::from_secs(20);
/// How long the cluster's id is waited for, which brokers before 0.10.1 do not have.
const KNOWN: Duration = Duration::from_secs(1);

/// Asks the brokers about topics.
pub type Admin = AdminClient<AdminContext>;

/// Logs as the pipeline's other clients do.
pub struct AdminContext {
    /// The pipeline's name.
    pub pipeline: String,
}

impl ClientContext for AdminContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log(&self.pipeline, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::log_error(&self.pipeline, &error, reason);
    }
}

/// The largest batch that each topic takes, in bytes; without those that would not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batches(HashMap<String, usize>);

impl Batches {
    /// Asks what these topics take. Who may not ask is told so in the log, and batches are then as large as librdkafka makes them.
    pub async fn ask(admin: &Arc<Admin>, topics: &[&str]) -> Batches {
        if is_embedded(admin).await {
            return Batches::default();
        }
        let asked: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(ANSWER));
        let answers = admin.describe_configs(&asked, &options).await;
        let pipeline = &admin.inner().context().pipeline;
        let unknown = |topic: &str, why: &str| {
            tracing::warn!(
                pipeline,
                topic,
                "cannot ask for the topic's max.message.bytes: {why}; where it is below a megabyte, set `batch.size` no larger"
            );
        };
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                topics.iter().for_each(|topic| unknown(topic, &error.to_string()));
                return Batches::default();
            }
        };
        let mut largest = HashMap::new();
        for (topic, answer) in topics.iter().zip(answers) {
            let value = answer.map(|config| config.get("max.message.bytes").and_then(|entry| entry.value.clone()));
            match value {
                Ok(Some(bytes)) => match bytes.parse() {
                    Ok(bytes) => drop(largest.insert((*topic).to_owned(), bytes)),
                    Err(_) => unknown(topic, &format!("the answer is {bytes:?}")),
                },
                Ok(None) => unknown(topic, "the answer has none"),
                Err(error) => unknown(topic, &error.to_string()),
            }
        }
        Batches(largest)
    }

    /// What all of them take.
    pub fn smallest(&self) -> Option<usize> {
        self.0.values().min().copied()
    }

    /// What this topic takes, if it is known.
    pub fn taken_by(&self, topic: &str) -> Option<usize> {
        self.0.get(topic).copied()
    }

    /// Whether the topic would have taken this record, at the start at least.
    pub fn would_take(&self, topic: &str, bytes: usize) -> bool {
        self.taken_by(topic).is_some_and(|largest| bytes + AROUND <= largest)
    }
}

/// Whether this is librdkafka's mock cluster, which the demo and `messina test` run on: it never answers the question, and takes batches of any size.
async fn is_embedded(admin: &Arc<Admin>) -> bool {
    let admin = admin.clone();
    // It is known once the topics have been asked for.
    let id = tokio::task::spawn_blocking(move || admin.inner().fetch_cluster_id(KNOWN)).await;
    id.is_ok_and(|id| id.is_some_and(|id| id.starts_with("mockCluster")))
}

/// Bytes of a record: key, value and headers.
pub fn weight<L: List>(record: &impl Message<Headers = L>) -> usize {
    let part = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let headers = record.headers().map_or(0, |headers| {
        headers::all(headers)
            .map(|(name, value)| name.len() + part(value))
            .sum()
    });
    part(record.key()) + part(record.payload()) + headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_embedded_cluster_is_not_waited_for() {
        let cluster = rdkafka::mocking::MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let context = AdminContext {
            pipeline: "p".to_owned(),
        };
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let admin: Arc<Admin> = Arc::new(config.create_with_context(context).unwrap());
        let asked = admin.clone();
        let there = move || crate::kafka::range::partitions(asked.inner(), "t", ANSWER);
        let partitions = tokio::task::spawn_blocking(there).await.unwrap();
        assert_eq!(partitions.unwrap(), [0]);
        assert!(
            is_embedded(&admin).await,
            "the mock cluster's id is another; the demo would wait a minute for each pipeline"
        );
        assert_eq!(Batches::ask(&admin, &["t"]).await, Batches::default());
    }

    #[test]
    fn the_smallest_topic_decides_and_an_unknown_one_takes_nothing_for_sure() {
        let batches = Batches([("a", 50_000), ("b", 9000)].map(|(t, n)| (t.to_owned(), n)).into());
        assert_eq!((batches.smallest(), Batches::default().smallest()), (Some(9000), None));
        assert!(batches.would_take("b", 9000 - AROUND) && !batches.would_take("b", 9000 - AROUND + 1));
        assert!(!batches.would_take("c", 1));
    }
}
