//! Limits the size of producer batches to what the topics of a pipeline accept.
//!
//! Brokers refuse a whole batch that is larger than its topic allows (`max.message.bytes`) or than a segment of its log (`segment.bytes`), and do not
//! say whether one record or only the batch is too large. librdkafka fills batches up to `batch.size`, a megabyte, whatever the topic accepts, and
//! does not split a refused batch. So a topic with a lower limit would turn good records into dead letters. Therefore batches are at most as large as
//! the smallest topic accepts; a refusal then concerns a single record. If the limit of a topic is unknown, because the login may not read it,
//! batches are small.
//!
//! The same response says whether a topic is compacted. A compacted topic accepts no record without a key, and rejects the whole batch that has one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResourceResult, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;

use crate::kafka::asker::Asker;
use crate::kafka::headers::{self, List};
use crate::kafka::{BatchBytes, SMALL_BATCH};

/// Upper bound of a record's overhead in a batch beyond key, value and headers, including the batch header; in bytes.
const AROUND: usize = 1024;

/// Time-out of one request for the limits of topics.
const ANSWER: Duration = Duration::from_secs(10);
/// How long to ask in all. The start goes on without an answer; a reload allows half a minute for a pipeline.
const ANSWERS: Duration = Duration::from_secs(20);
/// How long an empty answer may mean a topic that was just created. After that it means a missing right, which no start waits for.
const UNHEARD: Duration = Duration::from_secs(3);
/// Pause between two requests.
const AGAIN: Duration = Duration::from_secs(1);
/// How long to wait for the cluster's id, which brokers before 0.10.1 do not have.
const KNOWN: Duration = Duration::from_secs(1);

/// The largest batch that each topic accepts, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batches {
    told: HashMap<String, usize>,
    /// The topics whose limit the brokers do not tell, and why.
    untold: BTreeMap<String, Untold>,
    /// The compacted topics.
    compacted: HashSet<String>,
}

/// Why the brokers do not tell the limit of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untold {
    /// In words.
    pub why: String,
    /// The error code that they answered, if they did.
    code: Option<RDKafkaErrorCode>,
    /// They answered, but the answer was empty.
    empty: bool,
}

impl Untold {
    fn is_denied(&self) -> bool {
        let denials = [
            RDKafkaErrorCode::TopicAuthorizationFailed,
            RDKafkaErrorCode::ClusterAuthorizationFailed,
        ];
        self.code.is_some_and(|code| denials.contains(&code))
    }

    /// Whether a later answer may differ: a broker may be down, or not know yet of a topic that was just created.
    fn may_pass(&self) -> bool {
        // Brokers that do not support the request, or that answer something else, will not change their answer.
        let never = [None, Some(RDKafkaErrorCode::UnsupportedFeature)];
        !self.is_denied() && !never.contains(&self.code)
    }

    /// What can be done about it.
    pub fn help(&self) -> &'static str {
        if self.empty || self.is_denied() {
            "grant DescribeConfigs on it, or set `batch.size` no larger than it takes"
        } else {
            "set `batch.size` no larger than it takes"
        }
    }
}

impl From<KafkaError> for Untold {
    fn from(error: KafkaError) -> Self {
        let code = match error {
            KafkaError::AdminOp(code) => Some(code),
            _ => None,
        };
        Untold {
            why: error.to_string(),
            code,
            empty: false,
        }
    }
}

impl Batches {
    /// Asks for the limits of these topics; the brokers have answered `asker` before.
    pub async fn ask(asker: Arc<Asker>, topics: &[&str]) -> Batches {
        let config = asker.config().clone();
        // Dropping the last reference waits for the client's threads, so that must happen here too.
        let embedded = tokio::task::spawn_blocking(move || is_embedded(&asker));
        if embedded.await.is_ok_and(|embedded| embedded) {
            return Batches::default();
        }
        let mut batches = Batches::default();
        let admin: AdminClient<DefaultClientContext> = match config.create() {
            Ok(admin) => admin,
            Err(error) => {
                batches.take(topics, Err(error), false);
                return batches;
            }
        };
        let began = Instant::now();
        let mut asked = topics.to_vec();
        loop {
            let left = ANSWERS.saturating_sub(began.elapsed()).max(AGAIN);
            let answers = describe(&admin, &asked, ANSWER.min(left)).await;
            asked = batches.take(&asked, answers, began.elapsed() < UNHEARD);
            if asked.is_empty() || began.elapsed() + AGAIN >= ANSWERS {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        // The drop waits for the client's threads.
        tokio::task::spawn_blocking(move || drop(admin));
        batches
    }

    /// Stores the answers for these topics and returns the topics to ask again for. While it is `early`, an empty answer does not yet count as a refusal.
    fn take<'t>(
        &mut self,
        asked: &[&'t str],
        answers: Result<Vec<ConfigResourceResult>, KafkaError>,
        early: bool,
    ) -> Vec<&'t str> {
        let answers: Vec<_> = match answers {
            Ok(answers) => answers
                .into_iter()
                .map(|answer| (is_compacted(&answer), largest(answer)))
                .collect(),
            Err(error) => vec![(false, Err(Untold::from(error))); asked.len()],
        };
        let mut again = Vec::new();
        for (topic, (compacted, answer)) in asked.iter().zip(answers) {
            if compacted {
                self.compacted.insert((*topic).to_owned());
            }
            match answer {
                Ok(bytes) => {
                    self.untold.remove(*topic);
                    self.told.insert((*topic).to_owned(), bytes);
                }
                Err(untold) => {
                    if untold.may_pass() || (untold.empty && early) {
                        again.push(*topic);
                    }
                    self.untold.insert((*topic).to_owned(), untold);
                }
            }
        }
        again
    }

    /// How large batches may be, whichever topic they go to. If the limit of a topic is unknown they are small, unless the user sets a size: a larger
    /// batch may be refused with everything in it.
    pub fn bytes(&self) -> BatchBytes {
        let mut bytes = BatchBytes::default();
        if let Some(smallest) = self.told.values().min() {
            bytes.most = *smallest;
        }
        if !self.untold.is_empty() {
            bytes.unset = SMALL_BATCH;
        }
        bytes
    }

    /// The limit of this topic, if it is known.
    pub fn taken_by(&self, topic: &str) -> Option<usize> {
        self.told.get(topic).copied()
    }

    /// The topics whose limit the brokers do not tell, and why.
    pub fn untold(&self) -> impl Iterator<Item = (&str, &Untold)> {
        self.untold.iter().map(|(topic, untold)| (topic.as_str(), untold))
    }

    /// Whether the topic accepts no record without a key: as of the start, and as far as is known.
    pub fn wants_key(&self, topic: &str) -> bool {
        self.compacted.contains(topic)
    }

    /// Whether the topic would have accepted this record, as of the start.
    pub fn would_take(&self, topic: &str, bytes: usize) -> bool {
        self.taken_by(topic).is_some_and(|largest| bytes + AROUND <= largest)
    }
}

/// Whether this is librdkafka's mock cluster, which the demo and `messina test` use. It never answers the request, and accepts batches of any size.
fn is_embedded(asker: &Asker) -> bool {
    // The client knows the id once it has fetched the metadata of the topics.
    let id = asker.client().fetch_cluster_id(KNOWN);
    id.is_some_and(|id| id.starts_with("mockCluster"))
}

/// The configurations of these topics.
async fn describe(
    admin: &AdminClient<DefaultClientContext>,
    topics: &[&str],
    patience: Duration,
) -> Result<Vec<ConfigResourceResult>, KafkaError> {
    let asked: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let options = AdminOptions::new().request_timeout(Some(patience));
    admin.describe_configs(&asked, &options).await
}

/// The largest batch that a topic with this configuration accepts.
fn largest(answer: ConfigResourceResult) -> Result<usize, Untold> {
    let untold = |why, code| Untold {
        why,
        code,
        empty: false,
    };
    let config = answer.map_err(|code| untold(code.to_string(), Some(code)))?;
    // rdkafka (0.39) drops the error of a single topic.
    if config.entries.is_empty() {
        return Err(Untold {
            why: "the answer is empty: the right DescribeConfigs is missing, or the broker has not heard of the topic yet"
                .to_owned(),
            code: None,
            empty: true,
        });
    }
    let value = |name: &str| config.get(name).and_then(|entry| entry.value.as_deref());
    let bytes = value("max.message.bytes").ok_or_else(|| untold("the answer has none".to_owned(), None))?;
    let most: usize = bytes
        .parse()
        .map_err(|_| untold(format!("the answer is {bytes:?}"), None))?;
    // Servers whose logs are not Kafka's need not have segments, and may report 0.
    let segment = value("segment.bytes")
        .and_then(|bytes| bytes.parse::<usize>().ok())
        .filter(|bytes| *bytes > 0);
    Ok(segment.map_or(most, |segment| most.min(segment)))
}

/// Whether a topic with this configuration is compacted.
fn is_compacted(answer: &ConfigResourceResult) -> bool {
    let config = answer.as_ref().ok();
    let policy = config.and_then(|config| config.get("cleanup.policy")?.value.as_deref());
    policy.is_some_and(|policy| policy.split(',').any(|one| one.trim() == "compact"))
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
    use rdkafka::ClientConfig;
    use rdkafka::admin::{ConfigEntry, ConfigResource, ConfigSource, OwnedResourceSpecifier};

    use super::*;
    use crate::retry::Class;
    use crate::sink::Sink;
    use crate::sink::tests::{event, made_of};
    use crate::telemetry::metrics::Metrics;

    #[tokio::test]
    async fn an_embedded_cluster_is_not_waited_for() {
        let cluster = rdkafka::mocking::MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let asker = Arc::new(Asker::new(config).unwrap());
        let asks = asker.clone();
        let there = move || crate::kafka::range::partitions(asks.client(), "t", ANSWER);
        let partitions = tokio::task::spawn_blocking(there).await.unwrap();
        assert_eq!(partitions.unwrap(), [0]);
        assert!(
            is_embedded(&asker),
            "the mock cluster's id is another; the demo would wait a minute for each pipeline"
        );
        assert_eq!(Batches::ask(asker, &["t"]).await, Batches::default());
    }

    fn reason(code: Option<RDKafkaErrorCode>) -> Untold {
        Untold {
            why: String::new(),
            code,
            empty: false,
        }
    }

    fn entry(name: &str, value: &str) -> ConfigEntry {
        ConfigEntry {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            source: ConfigSource::DynamicTopic,
            is_read_only: false,
            is_default: false,
            is_sensitive: false,
        }
    }

    #[test]
    fn no_batch_is_larger_than_a_segment() {
        let takes = |message: &str, segment: Option<&str>| {
            let segment = segment.map(|bytes| entry("segment.bytes", bytes));
            largest(Ok(ConfigResource {
                specifier: OwnedResourceSpecifier::Topic("t".to_owned()),
                entries: std::iter::once(entry("max.message.bytes", message))
                    .chain(segment)
                    .collect(),
            }))
        };
        assert_eq!(takes("4194304", Some("1048576")), Ok(1_048_576));
        assert_eq!(takes("1000012", Some("1073741824")), Ok(1_000_012));
        for unknown in [None, Some(""), Some("-1"), Some("0")] {
            assert_eq!(takes("4194304", unknown), Ok(4_194_304), "{unknown:?}");
        }
    }

    #[test]
    fn what_may_pass_is_asked_again_and_only_a_denial_wants_a_right() {
        let answer = |topic: &str, entries| {
            Ok(ConfigResource {
                specifier: OwnedResourceSpecifier::Topic(topic.to_owned()),
                entries,
            })
        };
        let takes = |topic: &str, bytes: &str| answer(topic, vec![entry("max.message.bytes", bytes)]);
        let mut batches = Batches::default();
        // A broker is down.
        let away = KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut);
        let asked = batches.take(&["a", "b", "c"], Err(away), true);
        assert_eq!(asked, ["a", "b", "c"]);
        let wants = |batches: &Batches| -> Vec<String> {
            let untold = batches.untold();
            let denied = untold.filter(|(_, untold)| untold.help().contains("DescribeConfigs"));
            denied.map(|(topic, _)| topic.to_owned()).collect()
        };
        assert_eq!(batches.bytes().unset, SMALL_BATCH);
        assert!(wants(&batches).is_empty());
        // The broker does not know of one topic yet, and the login has no right to read the other: both answers look alike.
        let answers = vec![takes("a", "100000"), answer("b", vec![]), answer("c", vec![])];
        let asked = batches.take(&asked, Ok(answers), true);
        assert_eq!(asked, ["b", "c"]);
        let answers = vec![takes("b", "200000"), answer("c", vec![])];
        assert!(batches.take(&asked, Ok(answers), false).is_empty());
        assert_eq!(wants(&batches), ["c"]);
        assert_eq!(batches.untold().map(|(topic, _)| topic).collect::<Vec<_>>(), ["c"]);
        assert_eq!(
            (batches.taken_by("a"), batches.taken_by("b")),
            (Some(100_000), Some(200_000))
        );
        assert!(!reason(Some(RDKafkaErrorCode::UnsupportedFeature)).may_pass());
        let denied = reason(Some(RDKafkaErrorCode::TopicAuthorizationFailed));
        assert!(!denied.may_pass() && denied.help().contains("DescribeConfigs"));
    }

    /// Within a batch it would be refused together with all other records of the batch.
    #[test]
    fn a_compacted_topic_is_given_no_output_without_a_key() {
        let answer = |policy: &str| -> ConfigResourceResult {
            Ok(ConfigResource {
                specifier: OwnedResourceSpecifier::Topic("t".to_owned()),
                entries: vec![entry("max.message.bytes", "100000"), entry("cleanup.policy", policy)],
            })
        };
        let mut batches = Batches::default();
        let policies = ["compact", "delete", "compact,delete"];
        batches.take(&["a", "b", "c"], Ok(policies.map(answer).into()), true);
        assert_eq!(
            ["a", "b", "c", "nobody knows"].map(|topic| batches.wants_key(topic)),
            [true, false, true, false]
        );
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1");
        let producer = made_of(config, &Metrics::new().unwrap(), true, batches);
        let completions = Arc::default();
        for (topic, key, taken) in [("a", None, false), ("a", Some(&b"key"[..]), true), ("b", None, true)] {
            let sink = Sink::new(producer.clone(), topic);
            match sink.send(event(&completions, 0, false), b"out", key, Instant::now()) {
                Ok(()) => assert!(taken, "{topic} {key:?}"),
                Err((failure, event)) => {
                    assert!(!taken, "{topic} {key:?}: {failure}");
                    assert_eq!(failure.class, Class::Permanent);
                    assert!(!event.tenure.has_outputs());
                    drop(event.recycle());
                }
            }
        }
    }

    #[test]
    fn the_smallest_topic_decides_and_an_unknown_one_takes_nothing_for_sure() {
        let told = [("a", 50_000), ("b", 9000)].map(|(t, n)| (t.to_owned(), n)).into();
        let batches = Batches {
            told,
            ..Batches::default()
        };
        assert_eq!(
            (batches.bytes().most, batches.bytes().unset),
            (9000, BatchBytes::default().unset)
        );
        assert!(batches.would_take("b", 9000 - AROUND) && !batches.would_take("b", 9000 - AROUND + 1));
        assert!(!batches.would_take("c", 1));
    }

    #[test]
    fn batches_are_small_where_the_brokers_do_not_tell_what_a_topic_takes() {
        let size = |told: &[(&str, usize)], untold: &[&str], own: &str| {
            let batches = Batches {
                told: told
                    .iter()
                    .map(|(topic, bytes)| ((*topic).to_owned(), *bytes))
                    .collect(),
                untold: untold.iter().map(|topic| ((*topic).to_owned(), reason(None))).collect(),
                ..Batches::default()
            };
            let toml = format!(
                "[kafka]\nbrokers = \"k:1\"\nproducer_properties = {{ {own} }}\n[registry]\nurl = \"http://r:8081\"\n"
            );
            let (config, _) = crate::config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
            let client = crate::kafka::producer(&config.kafka, &[], 1 << 20, batches.bytes(), None).unwrap();
            client.get("batch.size").map(|bytes| bytes.parse::<usize>().unwrap())
        };
        let own = "\"batch.size\" = 200000";
        // librdkafka's default.
        assert_eq!(size(&[], &[], ""), None);
        assert_eq!(size(&[("out", 100_000)], &[], ""), Some(100_000));
        assert_eq!(size(&[], &["out"], ""), Some(SMALL_BATCH));
        assert_eq!(size(&[("dead", 9000)], &["out"], ""), Some(9000));
        assert_eq!(size(&[("dead", 1 << 20)], &["out"], ""), Some(SMALL_BATCH));
        // A known limit overrides the user's setting, which overrides the guess.
        assert_eq!(size(&[], &["out"], own), Some(200_000));
        assert_eq!(size(&[("dead", 50_000)], &["out"], own), Some(50_000));
    }
}
