//! Reads a topic once between two places, without committing.
//!
//! It reads partition by partition, so that the order is always the same and a place tells what is done. It stops where the topic ended when the
//! command began: later records, in particular replayed records that failed again, are not read.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::Context;
use super::filter::Place;
use crate::cli::time::Moment;
use crate::cli::trouble::Trouble;
use crate::kafka;
pub use crate::kafka::range::Part;
use crate::kafka::{headers, range};
use crate::sink::letter::{Header, Letter};

/// A partition that is silent for this long while it is read is treated as unreadable.
const SILENCE: Duration = Duration::from_secs(30);
/// How much is fetched ahead.
const FETCH_KBYTES: &str = "16384";

/// A record of a dead-letter topic.
#[derive(Debug)]
pub struct Record {
    /// Its place in the topic.
    pub place: Place,
    /// When it was published.
    pub time: Option<Moment>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// All headers.
    pub headers: Vec<Header>,
    /// What the headers say; `None` if the record is not a dead letter of Messina's.
    pub letter: Option<Letter>,
}

/// The consumer of one command.
pub struct Reader {
    consumer: BaseConsumer,
}

impl Reader {
    /// A consumer with the configuration's properties. It does not join a group.
    pub fn new(context: &Context) -> anyhow::Result<Reader> {
        let properties = context.consumer_properties();
        let mut config = kafka::reader(&context.config.kafka, properties, "messina-dead-letters")?;
        config.set("enable.partition.eof", "true");
        config.set("queued.max.messages.kbytes", FETCH_KBYTES);
        let consumer = config
            .create()
            .map_err(|e| Trouble::unavailable("cannot make a consumer", &e))?;
        Ok(Reader { consumer })
    }

    /// What a topic contains now, from this time on.
    pub fn parts(&self, topic: &str, since: Option<Moment>) -> anyhow::Result<Vec<Part>> {
        let parts = range::parts(&self.consumer, topic, since.map(|since| since.0), None);
        Ok(parts.map_err(Trouble::Unavailable)?)
    }

    /// The same for several topics; each part comes with the number of its topic. All topics are asked before any is read, so that nothing that
    /// arrives meanwhile is read.
    pub fn parts_of_all(&self, topics: &[String], since: Option<Moment>) -> anyhow::Result<Vec<(usize, Part)>> {
        let mut parts = Vec::new();
        for (number, topic) in topics.iter().enumerate() {
            let of_topic = self.parts(topic, since)?;
            parts.extend(of_topic.into_iter().map(|part| (number, part)));
        }
        Ok(parts)
    }

    /// Reads one part; `each` says whether to go on.
    pub fn read(
        &self,
        part: &Part,
        each: &mut dyn FnMut(Record) -> anyhow::Result<ControlFlow<()>>,
    ) -> anyhow::Result<ControlFlow<()>> {
        if part.from >= part.to {
            return Ok(ControlFlow::Continue(()));
        }
        let name = format!("topic {}, partition {}", part.topic, part.partition);
        let failed = |e: KafkaError| Trouble::unavailable(&name, &e);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&part.topic, part.partition, Offset::Offset(part.from))
            .map_err(failed)?;
        self.consumer.assign(&list).map_err(failed)?;
        let mut heard = Instant::now();
        loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                None if heard.elapsed() < SILENCE => continue,
                None => {
                    return Err(Trouble::Unavailable(format!(
                        "{name}: no records arrive, although its end is not reached"
                    ))
                    .into());
                }
                Some(Err(KafkaError::PartitionEOF(partition))) if partition == part.partition => break,
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(failed(error)),
                // A broker that went away may come back. If not, `SILENCE` ends the wait.
                Some(Err(error)) => say!("warning: {name}: {error}"),
                // Left over from what was fetched for an earlier assignment.
                Some(Ok(message)) if message.partition() != part.partition || message.topic() != part.topic => {}
                Some(Ok(message)) => {
                    if message.offset() >= part.to {
                        break;
                    }
                    let last = message.offset() + 1 >= part.to;
                    if each(record(&message))?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    if last {
                        break;
                    }
                    // Handling a record may take long; that is not silence of the brokers.
                    heard = Instant::now();
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers: Vec<Header> = message
        .headers()
        .into_iter()
        .flat_map(headers::all)
        .map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)))
        .collect();
    Record {
        place: Place {
            partition: message.partition(),
            offset: message.offset(),
        },
        time: message.timestamp().to_millis().map(Moment),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        letter: Letter::read(&headers),
        headers,
    }
}
