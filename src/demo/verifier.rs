//! The verifier: reads everything that the pipelines publish, while they publish it, on its own thread, and judges each record.
//!
//! An output is right if it is, byte for byte, the input followed by what the generator's world contains; only the record's number is decoded. A dead
//! letter is right if it is the original under the expected reason.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::bitmap::Bitmap;
use super::cluster::{self, DEAD_LETTER_PARTITIONS, OUTPUT_PARTITIONS, Topics};
use super::datum::read_long;
use super::flow::{Flow, Stop};
use super::streams::{Fate, Message, SEQUENCE_HEADER, Stream};
use super::world::USERS;
use crate::registry::framing::{self, HEADER};
use crate::sink::letter::{REASON, TIMESTAMP};

/// Name of its thread.
pub const THREAD: &str = "demo-verifier";
/// How long it reads the remaining records after the pipelines have stopped.
const TAIL: Duration = Duration::from_secs(20);
/// Maximum number of descriptions of wrong records that are kept.
const EXAMPLES: usize = 5;

/// What was seen of one stream.
pub struct Seen {
    /// Records in the output topic.
    pub published: Bitmap,
    /// Records in the dead-letter topic.
    pub dead_lettered: Bitmap,
    /// Records that came more than once.
    pub duplicated: u64,
    /// Records that should not be there, or not with this content.
    pub wrong: u64,
    /// Outputs of a user that came after the output of a later record.
    pub reordered: u64,
    /// Some of the wrong ones, in words.
    pub examples: Vec<String>,
    /// The last output of each user; empty where order is not promised.
    pub(super) last_of_user: Vec<Option<u64>>,
}

/// The verifier's client, reading all output and dead-letter topics from the beginning, without a group.
pub fn consumer(brokers: &str, topics: &[Topics]) -> KafkaResult<BaseConsumer> {
    let consumer: BaseConsumer = cluster::client(brokers)
        // librdkafka requires a group id even if partitions are assigned by hand.
        .set("group.id", "messina-demo-verifier")
        .set("enable.auto.commit", "false")
        // A record that the cluster has dropped must be an error, not a gap.
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "10")
        .set("queued.max.messages.kbytes", "8192")
        .create()?;
    let mut list = TopicPartitionList::new();
    for t in topics {
        for (topic, partitions) in [
            (&t.output, OUTPUT_PARTITIONS),
            (&t.dead_letters, DEAD_LETTER_PARTITIONS),
        ] {
            for partition in 0..partitions {
                list.add_partition_offset(topic, partition, Offset::Offset(0))?;
            }
        }
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

/// Reads and judges records until `stop`, and then the remaining ones; returns what was seen of each stream.
///
/// # Errors
/// In words: a record could not be read.
pub fn run(
    consumer: &BaseConsumer,
    streams: &[Stream],
    topics: &[Topics],
    flows: &[Arc<Flow>],
    stop: &Stop,
) -> Result<Vec<Seen>, String> {
    let mut seen: Vec<Seen> = streams
        .iter()
        .zip(flows)
        .map(|(stream, flow)| Seen::new(stream, flow.planned))
        .collect();
    let mut judge = Judge {
        expected: Message::default(),
        since_us: now_us() - 1_000_000,
    };
    while !stop.is_stopped() {
        match consumer.poll(Duration::from_millis(20)) {
            Some(Ok(message)) => judge.judge(&message, streams, topics, flows, &mut seen)?,
            Some(Err(error)) => tolerate(&error)?,
            None => {}
        }
    }
    let deadline = Instant::now() + TAIL;
    while !at_the_end(consumer).map_err(|e| e.to_string())? {
        if Instant::now() > deadline {
            return Err(format!(
                "the verifier did not come to the end of the topics in {} s",
                TAIL.as_secs()
            ));
        }
        while let Some(message) = consumer.poll(Duration::from_millis(50)) {
            match message {
                Ok(message) => judge.judge(&message, streams, topics, flows, &mut seen)?,
                Err(error) => tolerate(&error)?,
            }
        }
    }
    Ok(seen)
}

/// librdkafka reconnects by itself; any other error means that records are missing.
fn tolerate(error: &KafkaError) -> Result<(), String> {
    use rdkafka::error::RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut) => Ok(()),
        _ => Err(format!("the verifier cannot read on: {error}")),
    }
}

fn at_the_end(consumer: &BaseConsumer) -> KafkaResult<bool> {
    for element in consumer.position()?.elements() {
        let (_, end) = consumer.fetch_watermarks(element.topic(), element.partition(), Duration::from_secs(5))?;
        // Before the first record there is no position.
        let position = match element.offset() {
            Offset::Offset(offset) => offset,
            _ => 0,
        };
        if position < end {
            return Ok(false);
        }
    }
    Ok(true)
}

struct Judge {
    expected: Message,
    since_us: i64,
}

impl Judge {
    fn judge(
        &mut self,
        message: &BorrowedMessage<'_>,
        streams: &[Stream],
        topics: &[Topics],
        flows: &[Arc<Flow>],
        seen: &mut [Seen],
    ) -> Result<(), String> {
        let topic = message.topic();
        for (number, t) in topics.iter().enumerate() {
            let (stream, flow, seen) = (&streams[number], &flows[number], &mut seen[number]);
            if topic == t.output {
                self.output(message, stream, flow, seen);
            } else if topic == t.dead_letters {
                self.dead_letter(message, stream, flow, seen);
            } else {
                continue;
            }
            return Ok(());
        }
        Err(format!("the verifier was given a record of {topic}"))
    }

    fn output(&mut self, message: &BorrowedMessage<'_>, stream: &Stream, flow: &Flow, seen: &mut Seen) {
        let value = message.payload().unwrap_or_default();
        let sequence = value
            .get(HEADER..)
            .and_then(read_long)
            .and_then(|(n, _)| u64::try_from(n).ok());
        let Some((sequence, new)) = sequence.and_then(|n| Some((n, seen.published.add(n)?))) else {
            seen.wrong(message, "has no number of a record");
            return;
        };
        if !new {
            seen.duplicated += 1;
            return;
        }
        flow.publish();
        let draw = stream.draw(sequence);
        if stream.fate(&draw) != Fate::Published {
            seen.wrong(message, "should not have been published");
            return;
        }
        stream.write(
            &draw,
            message.timestamp().to_millis().unwrap_or_default(),
            &mut self.expected,
        );
        stream.job.enrichment(&draw, &mut self.expected.value);
        let expected = &self.expected.value.0[HEADER..];
        let datum = value.get(HEADER..).unwrap_or_default();
        let same = expected.iter().zip(datum).take_while(|(a, b)| a == b).count();
        let framed = framing::parse(value).is_ok();
        if !framed || same < expected.len() || !self.is_now(&datum[same..]) {
            let what = format!(
                "is not the input with the expected fields, from byte {same} of {} on",
                expected.len()
            );
            seen.wrong(message, &what);
        }
        self.expected.key.clear();
        stream.job.output_key(&draw, &mut self.expected.key);
        if message.key() != Some(&self.expected.key) {
            seen.wrong(message, "has another key");
        }
        if let Some(last) = seen.last_of_user.get_mut(draw.user) {
            seen.reordered += u64::from(last.is_some_and(|last| last > sequence));
            *last = Some(last.map_or(sequence, |last| last.max(sequence)));
        }
    }

    /// Whether these bytes are `processed_at`: microseconds between the start and now, give or take a second.
    fn is_now(&self, bytes: &[u8]) -> bool {
        let read = read_long(bytes).filter(|(_, length)| *length == bytes.len());
        read.is_some_and(|(at, _)| at >= self.since_us && at <= now_us() + 1_000_000)
    }

    fn dead_letter(&mut self, message: &BorrowedMessage<'_>, stream: &Stream, flow: &Flow, seen: &mut Seen) {
        let value = message.payload();
        // A defective record has its number in a header; the others can be decoded.
        let sequence = match header(message, SEQUENCE_HEADER) {
            Some(text) => text.parse().ok(),
            None => value
                .and_then(|v| read_long(v.get(HEADER..)?))
                .and_then(|(n, _)| u64::try_from(n).ok()),
        };
        let Some((sequence, new)) = sequence.and_then(|n| Some((n, seen.dead_lettered.add(n)?))) else {
            seen.wrong(message, "has no number of a record");
            return;
        };
        if !new {
            seen.duplicated += 1;
            return;
        }
        flow.dead_letter();
        let draw = stream.draw(sequence);
        // The dead letter has a timestamp of its own; the record's is in a header.
        let time = header(message, TIMESTAMP).and_then(|text| text.parse().ok());
        stream.write(&draw, time.unwrap_or_default(), &mut self.expected);
        let original = self.expected.has_value.then_some(self.expected.value.0.as_slice());
        let reason = header(message, REASON).unwrap_or_default();
        match stream.fate(&draw) {
            Fate::DeadLettered(expected) if expected == reason => {}
            Fate::DeadLettered(expected) => {
                seen.wrong(message, &format!("has the reason {reason} in place of {expected}"))
            }
            _ => seen.wrong(message, &format!("should not be a dead letter ({reason})")),
        }
        if value != original || message.key() != Some(&self.expected.key) {
            seen.wrong(message, "is not the original record");
        }
    }
}

impl Seen {
    fn new(stream: &Stream, records: u64) -> Seen {
        Seen {
            published: Bitmap::new(records),
            dead_lettered: Bitmap::new(records),
            duplicated: 0,
            wrong: 0,
            reordered: 0,
            examples: Vec::new(),
            last_of_user: vec![None; if stream.job.is_ordered() { USERS } else { 0 }],
        }
    }

    fn wrong(&mut self, message: &BorrowedMessage<'_>, what: &str) {
        self.wrong += 1;
        if self.examples.len() < EXAMPLES {
            let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
            self.examples
                .push(format!("{topic}/{partition} offset {offset} {what}"));
        }
    }
}

fn header<'m>(message: &'m BorrowedMessage<'_>, key: &str) -> Option<&'m str> {
    let headers = message.headers()?;
    let found = headers.iter().find(|header| header.key == key)?;
    std::str::from_utf8(found.value?).ok()
}

fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_micros() as i64)
}
