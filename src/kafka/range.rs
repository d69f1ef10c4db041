//! Parts of partitions, by offset and by time: what commands read that belong to no group.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

/// For one question to the brokers.
const ASK: Duration = Duration::from_secs(15);

/// A part of a partition: `from` is read, `to` is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// The first offset behind it.
    pub to: i64,
}

/// The partitions of a topic, in order.
///
/// # Errors
/// In words: no answer, or no such topic.
pub fn partitions<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str) -> Result<Vec<i32>, String> {
    let metadata = consumer.fetch_metadata(Some(topic), ASK);
    let metadata = metadata.map_err(|e| format!("the brokers do not answer: {e}"))?;
    let found = metadata
        .topics()
        .iter()
        .find(|t| t.name() == topic && t.error().is_none());
    let mut partitions: Vec<i32> = found.iter().flat_map(|t| t.partitions()).map(|p| p.id()).collect();
    if partitions.is_empty() {
        return Err(format!("the brokers have no topic '{topic}'"));
    }
    partitions.sort_unstable();
    Ok(partitions)
}

/// What a topic holds now, from the first record that is as young as `since` to the first that is as young as `until`, in
/// milliseconds since 1970.
///
/// # Errors
/// In words, as [`partitions`].
pub fn parts<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    since: Option<i64>,
    until: Option<i64>,
) -> Result<Vec<Part>, String> {
    let failed = |e: KafkaError| format!("topic {topic}: {e}");
    let mut parts = Vec::new();
    for partition in partitions(consumer, topic)? {
        let (from, to) = consumer.fetch_watermarks(topic, partition, ASK).map_err(failed)?;
        parts.push(Part {
            topic: topic.to_owned(),
            partition,
            from,
            to,
        });
    }
    // The first offset that is as young as that; none where no record is.
    let at = |time: i64| -> Result<Vec<Option<i64>>, String> {
        let mut list = TopicPartitionList::new();
        for part in &parts {
            list.add_partition_offset(topic, part.partition, Offset::Offset(time.max(0)))
                .map_err(failed)?;
        }
        let found = consumer.offsets_for_times(list, ASK).map_err(failed)?;
        let offset = |part: &Part| match found.find_partition(topic, part.partition)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok(parts.iter().map(offset).collect())
    };
    let (since, until) = (since.map(at).transpose()?, until.map(at).transpose()?);
    for (number, part) in parts.iter_mut().enumerate() {
        if let Some(until) = &until {
            part.to = until[number].unwrap_or(part.to).clamp(part.from, part.to);
        }
        if let Some(since) = &since {
            part.from = since[number].unwrap_or(part.to).max(part.from).min(part.to);
        }
    }
    Ok(parts)
}
