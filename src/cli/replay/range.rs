//! The range of a replay, and where its group stands in it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::range::Part;

/// For one question to the brokers.
const ASK: Duration = Duration::from_secs(15);
/// Silence while the end of a part is looked for that means that it cannot be found.
const SILENCE: Duration = Duration::from_secs(30);

/// What is to be replayed, partition by partition; none of them is empty.
pub struct Range {
    consumer: BaseConsumer,
    parts: Vec<Part>,
    /// By part: the offset of its last record. Behind it may be others that hold no record, such as the mark of a transaction.
    last: Vec<i64>,
}

impl Range {
    /// Looks for the last record of each part; `consumer` is of the replay's group and has `enable.partition.eof`.
    ///
    /// # Errors
    /// In words.
    pub fn find(consumer: BaseConsumer, parts: Vec<Part>) -> Result<Range, String> {
        let mut range = Range {
            consumer,
            parts: Vec::new(),
            last: Vec::new(),
        };
        for part in parts {
            if let Some(last) = range.last_of(&part)? {
                range.parts.push(part);
                range.last.push(last);
            }
        }
        Ok(range)
    }

    /// The first offset of each partition that is not taken.
    pub fn ends(&self) -> HashMap<(String, i32), i64> {
        let ends = self.parts.iter().map(|p| ((p.topic.clone(), p.partition), p.to));
        ends.collect()
    }

    /// Offsets from the beginning to the last record, of all parts together.
    pub fn total(&self) -> i64 {
        self.parts
            .iter()
            .zip(&self.last)
            .map(|(part, last)| last + 1 - part.from)
            .sum()
    }

    fn last_of(&self, part: &Part) -> Result<Option<i64>, String> {
        let name = format!("topic {}, partition {}", part.topic, part.partition);
        if part.from >= part.to {
            return Ok(None);
        }
        let mut back = 1;
        loop {
            let from = (part.to - back).max(part.from);
            let found = self.last_since(part, from).map_err(|e| format!("{name}: {e}"))?;
            if found.is_some() || from == part.from {
                return Ok(found);
            }
            back *= 8;
        }
    }

    fn last_since(&self, part: &Part, from: i64) -> Result<Option<i64>, String> {
        let in_words = |e: KafkaError| e.to_string();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&part.topic, part.partition, Offset::Offset(from))
            .map_err(in_words)?;
        self.consumer.assign(&list).map_err(in_words)?;
        let (mut last, mut heard) = (None, Instant::now());
        while heard.elapsed() < SILENCE {
            match self.consumer.poll(Duration::from_millis(100)) {
                None => {}
                Some(Err(KafkaError::PartitionEOF(partition))) if partition == part.partition => return Ok(last),
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(in_words(error)),
                Some(Err(_)) => {}
                // What an earlier assignment had fetched.
                Some(Ok(message)) if message.partition() != part.partition || message.topic() != part.topic => {}
                Some(Ok(message)) if message.offset() >= part.to => return Ok(last),
                Some(Ok(message)) => {
                    heard = Instant::now();
                    last = Some(message.offset());
                    if message.offset() + 1 == part.to {
                        return Ok(last);
                    }
                }
            }
        }
        Err("nothing comes although it is not at its end".to_owned())
    }

    /// Lets the group begin where it has not been yet; how many offsets it has done before.
    ///
    /// # Errors
    /// In words: a group that has members does not take it.
    pub fn begin(&self) -> Result<i64, String> {
        self.consumer.unassign().map_err(|e| e.to_string())?;
        let mut list = TopicPartitionList::new();
        for (part, committed) in self.parts.iter().zip(self.committed()?) {
            if committed.is_none() {
                list.add_partition_offset(&part.topic, part.partition, Offset::Offset(part.from))
                    .map_err(|e| e.to_string())?;
            }
        }
        if list.count() > 0 {
            let done = self.consumer.commit(&list, CommitMode::Sync);
            done.map_err(|e| format!("the group does not take where to begin: {e}; does another replay run in it?"))?;
        }
        self.done()
    }

    /// Offsets that are done.
    ///
    /// # Errors
    /// In words.
    pub fn done(&self) -> Result<i64, String> {
        let ends = self.parts.iter().zip(&self.last);
        let done = ends.zip(self.committed()?).map(|((part, last), committed)| {
            let committed = committed.unwrap_or(part.from);
            committed.clamp(part.from, last + 1) - part.from
        });
        Ok(done.sum())
    }

    fn committed(&self) -> Result<Vec<Option<i64>>, String> {
        let mut list = TopicPartitionList::new();
        for part in &self.parts {
            list.add_partition(&part.topic, part.partition);
        }
        let found = self.consumer.committed_offsets(list, ASK);
        let found = found.map_err(|e| format!("the group does not say where it is: {e}"))?;
        let offset = |part: &Part| match found.find_partition(&part.topic, part.partition)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok(self.parts.iter().map(offset).collect())
    }
}
