//! Sends records back and tracks which have arrived.
//!
//! The number of records on their way is bounded. The first refusal ends the replay; what has not arrived by then is known, place by place.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use super::Context;
use super::filter::Spot;
use super::reader::Record;
use crate::cli::trouble::Trouble;
use crate::config::{Kafka, Property, SecretError};
use crate::kafka::headers::add;
use crate::kafka::range::{self, ASK, TopicError};
use crate::kafka::{self, BatchBytes, SMALL_BATCH};
use crate::sink::acknowledged;
use crate::sink::letter::{Letter, REPLAY_PIPELINE, REPLAY_TIMESTAMP, REPLAY_WRITE_TIMESTAMP, REPLAYS};

/// The most records on their way at once.
const WINDOW: usize = 500;
/// The producer's queue, in bytes.
const QUEUE: usize = 32 << 20;
/// How long a delivery may take, with all its retries.
const DELIVERY: &str = "60000";
/// The longest wait for deliveries. It exceeds `DELIVERY`, so nothing is on its way any more after it.
const LONGEST: Duration = Duration::from_secs(90);

/// A record to be sent back.
#[derive(Debug, PartialEq, Eq)]
pub struct Return<'a> {
    pub topic: &'a str,
    /// The partition that the record came from. `None` lets the key decide.
    pub partition: Option<i32>,
    /// The record's own timestamp.
    pub timestamp_ms: Option<i64>,
    /// The record's own headers. Those of a replay are added.
    pub letter: &'a Letter,
}

/// Where a record goes back to: its own partition of its own topic, or `to`.
pub fn way_back<'a>(letter: &'a Letter, to: Option<&'a str>) -> Return<'a> {
    Return {
        topic: to.unwrap_or(&letter.topic),
        partition: to.is_none().then_some(letter.partition),
        timestamp_ms: letter.timestamp_ms,
        letter,
    }
}

#[derive(Debug, Default)]
struct State {
    pending: BTreeSet<Spot>,
    delivered: u64,
    refused: Option<(Spot, KafkaError)>,
}

struct Deliveries {
    idempotent: bool,
    state: Mutex<State>,
    changed: Condvar,
}

impl Deliveries {
    fn new(idempotent: bool) -> Deliveries {
        Deliveries {
            idempotent,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, at most for `limit`, until fewer than `count` are on their way or one is refused. Returns the error of the refused one.
    fn wait_for(&self, count: usize, limit: Duration) -> Result<(), (Spot, KafkaError)> {
        let busy = |state: &mut State| state.pending.len() >= count && state.refused.is_none();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, busy);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.refused.clone().map_or(Ok(()), Err)
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        say!("warning: producer: {error}: {reason}");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Spot>;

    fn delivery(&self, result: &DeliveryResult<'_>, spot: Box<Spot>) {
        let mut state = self.lock();
        match acknowledged(result, self.idempotent) {
            Ok(_) => {
                state.pending.remove(&spot);
                state.delivered += 1;
            }
            // It stays in `pending`, because it has not arrived.
            Err((error, _)) => {
                state.refused.get_or_insert((*spot, error.clone()));
            }
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// The producer of a replay.
pub struct Sender {
    producer: ThreadedProducer<Deliveries>,
    /// The topics that are read, in reading order.
    topics: Vec<String>,
    /// The number of partitions of each topic that records go to.
    partitions: HashMap<String, i32>,
}

impl Sender {
    /// An idempotent producer with the configuration's properties.
    pub fn new(context: &Context) -> anyhow::Result<Sender> {
        let config = client(&context.config.kafka, context.producer_properties())?;
        let deliveries = Deliveries::new(config.get("enable.idempotence") == Some("true"));
        let producer = config
            .create_with_context(deliveries)
            .map_err(|e| Trouble::unavailable("cannot make a producer", &e))?;
        Ok(Sender {
            producer,
            topics: context.topics.clone(),
            partitions: HashMap::new(),
        })
    }

    /// The number of partitions of the topic that the record at a spot goes to. It is an error if there is no such topic.
    pub fn partitions(&mut self, spot: Spot, topic: &str) -> anyhow::Result<i32> {
        if let Some(count) = self.partitions.get(topic) {
            return Ok(*count);
        }
        let found = range::partitions(self.producer.client(), topic, ASK).map_err(|e| self.unsendable(spot, &e))?;
        let count = i32::try_from(found.len()).unwrap_or(i32::MAX);
        self.partitions.insert(topic.to_owned(), count);
        Ok(count)
    }

    /// Sends the record at a spot back, once fewer than `WINDOW` are on their way.
    pub fn send(&mut self, spot: Spot, record: &Record, back: &Return<'_>) -> anyhow::Result<()> {
        let count = self.partitions(spot, back.topic)?;
        // If the topic was recreated with fewer partitions, the key decides.
        let partition = back.partition.filter(|partition| *partition < count);
        self.producer
            .client()
            .context()
            .wait_for(WINDOW, LONGEST)
            .map_err(|refused| self.refused(refused))?;
        self.producer.client().context().lock().pending.insert(spot);
        let mut base = BaseRecord {
            topic: back.topic,
            partition,
            payload: record.value.as_deref(),
            key: record.key.as_deref(),
            timestamp: back.timestamp_ms,
            headers: Some(headers(back.letter)),
            delivery_opaque: Box::new(spot),
        };
        let began = Instant::now();
        loop {
            match self.producer.send(base) {
                Ok(()) => return Ok(()),
                Err((error, again))
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) && began.elapsed() < ASK * 4 =>
                {
                    base = again;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err((error, _)) => return Err(self.refused((spot, error)).into()),
            }
        }
    }

    /// Waits until all records have arrived or are given up. Returns the error of the first that was refused.
    pub fn finish(&self) -> anyhow::Result<()> {
        // What is still on its way then stays in `pending`.
        let _ = self.producer.flush(LONGEST);
        let context = self.producer.client().context();
        context
            .wait_for(1, Duration::ZERO)
            .map_err(|refused| self.refused(refused))?;
        match context.lock().pending.len() {
            0 => Ok(()),
            left => Err(Trouble::Unavailable(format!("{left} records have not arrived")).into()),
        }
    }

    /// How many records have arrived, and which have not.
    pub fn standing(&self) -> (u64, BTreeSet<Spot>) {
        let state = self.producer.client().context().lock();
        (state.delivered, state.pending.clone())
    }

    fn refused(&self, (spot, error): (Spot, KafkaError)) -> Trouble {
        let letter = self.letter(spot);
        Trouble::Unavailable(format!("the record of {letter} was not delivered: {error}"))
    }

    fn unsendable(&self, spot: Spot, error: &TopicError) -> Trouble {
        let letter = self.letter(spot);
        let remedy = match error {
            TopicError::Missing(_) => {
                ": create it, name another with --to, or choose those of one topic that is there with --original-topic"
            }
            TopicError::Silent(_) | TopicError::Refused { .. } => "",
        };
        Trouble::Unavailable(format!("the record of {letter} cannot be sent: {error}{remedy}"))
    }

    /// Describes the dead letter at a spot.
    fn letter(&self, spot: Spot) -> String {
        let topic = self.topics.get(spot.topic).map_or("", String::as_str);
        format!("dead letter {} of {topic}", spot.place)
    }
}

fn client(kafka: &Kafka, pipeline: &[Property]) -> Result<ClientConfig, SecretError> {
    // Keep batches small: brokers refuse a batch larger than its topic permits as a whole. The blame would then fall on a record that they would
    // accept by itself.
    let batch = BatchBytes {
        most: SMALL_BATCH,
        ..BatchBytes::default()
    };
    let mut config = kafka::producer(kafka, pipeline, QUEUE, batch, None)?;
    config.set("message.timeout.ms", DELIVERY);
    config.set("statistics.interval.ms", "0");
    // Otherwise a deleted topic would be recreated with the brokers' defaults, and nobody would read it.
    config.set("allow.auto.create.topics", "false");
    Ok(config)
}

/// The record's own headers, with the replay count incremented and its original timestamps.
fn headers(letter: &Letter) -> OwnedHeaders {
    let count = letter.replays.saturating_add(1).to_string();
    let written = letter.write_timestamp_us.map(|us| us.to_string());
    // Keep this timestamp as well: librdkafka sends a record without one, or with 0, with the current time.
    let made = letter.timestamp_ms.unwrap_or(0).to_string();
    let own = letter
        .headers
        .iter()
        .map(|(name, value)| (name.as_slice(), value.as_deref()));
    let written = written.iter().flat_map(|us| {
        [
            (REPLAY_PIPELINE.as_bytes(), Some(letter.pipeline.as_bytes())),
            (REPLAY_WRITE_TIMESTAMP.as_bytes(), Some(us.as_bytes())),
        ]
    });
    let mut headers = OwnedHeaders::new();
    for (name, value) in own
        .chain([(REPLAYS.as_bytes(), Some(count.as_bytes()))])
        .chain(written)
        .chain([(REPLAY_TIMESTAMP.as_bytes(), Some(made.as_bytes()))])
    {
        add(&mut headers, name, value);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::dead_letters::filter::Place;
    use crate::sink::letter::{Back, record_timestamp, write_timestamp};
    use rdkafka::Timestamp;
    use rdkafka::message::Headers;

    fn letter(replays: u32) -> Letter {
        Letter {
            timestamp_ms: Some(7),
            write_timestamp_us: Some(7003),
            replays,
            headers: vec![("trace".into(), Some(b"1".to_vec())), ("null".into(), None)],
            ..Letter::example()
        }
    }

    #[test]
    fn batches_are_as_small_as_topics_take_or_smaller_where_that_is_wanted() {
        for (properties, size) in [
            ("", "16384"),
            ("\"batch.size\" = 1000000", "16384"),
            ("\"batch.size\" = 1", "1"),
        ] {
            let toml = format!(
                "[kafka]\nbrokers = \"k:1\"\nproducer_properties = {{ {properties} }}\n[registry]\nurl = \"http://r:8081\"\n"
            );
            let (config, _) = crate::config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
            let client = client(&config.kafka, &[]).unwrap();
            assert_eq!(client.get("batch.size"), Some(size), "{properties}");
            assert_eq!(client.get("allow.auto.create.topics"), Some("false"));
        }
    }

    #[test]
    fn a_record_goes_back_to_its_partition_or_where_it_is_told() {
        let letter = letter(0);
        let back = way_back(&letter, None);
        assert_eq!(
            (back.topic, back.partition, back.timestamp_ms),
            ("orders", Some(4), Some(7))
        );
        let back = way_back(&letter, Some("elsewhere"));
        assert_eq!(
            (back.topic, back.partition, back.timestamp_ms),
            ("elsewhere", None, Some(7))
        );
    }

    #[test]
    fn a_name_that_is_no_text_goes_back_as_it_came() {
        let name = b"caf\xe9";
        let odd = Letter {
            headers: vec![(name.to_vec(), None)],
            ..letter(0)
        };
        let headers = headers(&odd);
        assert_eq!(crate::kafka::headers::all(&headers).next(), Some((&name[..], None)));
    }

    #[test]
    fn it_keeps_its_headers_and_counts_the_replay() {
        let old = Letter {
            write_timestamp_us: None,
            ..letter(2)
        };
        let timeless = Letter {
            timestamp_ms: None,
            ..letter(2)
        };
        for (letter, unknown, made) in [
            (letter(2), &[][..], b"7"),
            (old, &[REPLAY_PIPELINE, REPLAY_WRITE_TIMESTAMP][..], b"7"),
            (timeless, &[][..], b"0"),
        ] {
            let headers = headers(&letter);
            let all: Vec<_> = headers.iter().map(|h| (h.key, h.value)).collect();
            let expected = [
                ("trace", Some(&b"1"[..])),
                ("null", None),
                (REPLAYS, Some(&b"3"[..])),
                (REPLAY_PIPELINE, Some(&b"p"[..])),
                (REPLAY_WRITE_TIMESTAMP, Some(&b"7003"[..])),
                (REPLAY_TIMESTAMP, Some(&made[..])),
            ];
            let known = expected.iter().copied().filter(|(name, _)| !unknown.contains(name));
            assert_eq!(all, known.collect::<Vec<_>>());
        }
    }

    /// Two records with the same millisecond, sent back, are written in their original order.
    #[test]
    fn rows_have_the_write_timestamp_of_their_first_time() {
        let given = 9000;
        let written = |us| {
            let letter = Letter {
                write_timestamp_us: Some(us),
                ..letter(0)
            };
            write_timestamp(Back::of(&headers(&letter), "p"), letter.timestamp_ms, given)
        };
        assert_eq!([7001, 7002].map(written), [7001, 7002]);
    }

    #[test]
    fn a_topic_that_gives_it_another_time_does_not_make_it_younger() {
        let given = Timestamp::LogAppendTime(9);
        let back = Back::of(&headers(&letter(0)), "p");
        assert_eq!(record_timestamp(given, back), Some(7));
    }

    /// librdkafka sends such a record with the current time. Another pipeline that reads the topic still uses the record's own time.
    #[test]
    fn a_record_without_a_time_does_not_become_younger_when_it_goes_back() {
        for timestamp_ms in [None, Some(0)] {
            let timeless = Letter {
                timestamp_ms,
                ..letter(0)
            };
            let now = Timestamp::CreateTime(9000);
            let back = Back::of(&headers(&timeless), "other");
            let made = record_timestamp(now, back);
            assert_eq!(made, Some(0));
            assert_eq!(write_timestamp(back, made, 9_000_000), 0);
        }
    }

    #[test]
    fn what_has_not_arrived_is_known_in_the_order_in_which_it_was_read() {
        let deliveries = Deliveries::new(true);
        let spot = |topic, offset| Spot {
            topic,
            place: Place { partition: 0, offset },
        };
        // Places of a topic that is read later come later, even if their offsets are equal or smaller.
        let all = [spot(0, 1), spot(0, 2), spot(0, 3), spot(1, 0), spot(1, 1)];
        deliveries.lock().pending.extend(all);
        deliveries.lock().pending.remove(&spot(0, 2));
        assert_eq!(deliveries.lock().pending.len(), 4);
        assert_eq!(deliveries.lock().pending.first(), Some(&spot(0, 1)));
        assert_eq!(deliveries.wait_for(5, Duration::from_secs(60)), Ok(()));
        deliveries.lock().refused = Some((spot(0, 1), KafkaError::Canceled));
        assert_eq!(
            deliveries.wait_for(1, Duration::from_secs(60)),
            Err((spot(0, 1), KafkaError::Canceled))
        );
    }
}
