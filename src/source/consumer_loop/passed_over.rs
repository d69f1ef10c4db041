//! Reports what `offset_reset = "latest"` skips in a partition without an offset, if the group has offsets elsewhere in the pipeline's topics.
//!
//! Such a partition may have been added to its topic, and records that arrived before the group noticed are not processed. Or its topic was out of
//! the pipeline for so long that brokers have forgotten the group's offsets in it, or is new to the pipeline. Or the group is new, and other members
//! have already committed where they began. These cases cannot be told apart reliably, because members may begin minutes apart and record times are
//! set by producers. So all begin at the end, as documented, and a warning says what that skips.

use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::range;
use crate::source::assignment::Partition;

/// Time for all requests together. If the loop ends meanwhile, this task keeps the consumer until the current request is answered.
const ASK: Duration = Duration::from_secs(5);

/// The partitions in `begun`, which begin at their ends, that have records, with the number of these as far as offsets tell. None if the group has no
/// offset elsewhere in `topics`, which are all topics of the pipeline. What brokers do not answer in time is left out.
pub(super) fn passed_over<C: ConsumerContext, T: Consumer<C>>(
    consumer: &T,
    topics: &[String],
    begun: &[(Partition, String, i64)],
    ended: impl Fn() -> bool,
) -> Vec<(String, i32, i64)> {
    let until = Instant::now() + ASK;
    let left = || Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero() && !ended());
    let known = |topic: &String| {
        let here = |index: i32| begun.iter().any(|(p, of, _)| of == topic && p.index == index);
        let Some(time) = left() else { return false };
        let partitions = range::partitions(consumer.client(), topic, time).unwrap_or_default();
        let mut others = TopicPartitionList::with_capacity(partitions.len());
        for index in partitions.into_iter().filter(|index| !here(*index)) {
            others.add_partition(topic, index);
        }
        let Some(time) = left().filter(|_| others.count() > 0) else {
            return false;
        };
        let offsets = consumer.committed_offsets(others, time);
        offsets.is_ok_and(|offsets| {
            let elements = offsets.elements();
            elements
                .iter()
                .any(|element| matches!(element.offset(), Offset::Offset(_)))
        })
    };
    if begun.is_empty() || !topics.iter().any(known) {
        return Vec::new();
    }
    begun
        .iter()
        .filter_map(|(partition, topic, end)| {
            let (first, _) = consumer.fetch_watermarks(topic, partition.index, left()?).ok()?;
            (first < *end).then(|| (topic.clone(), partition.index, end - first))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::{BaseConsumer, CommitMode};

    use super::*;
    use crate::source::consumer_loop::ends::tests::three_records;

    fn begun(index: i32, end: i64) -> (Partition, String, i64) {
        (Partition { topic: 0, index }, "in".to_owned(), end)
    }

    /// Commits the beginning of this topic's first partition.
    fn commit(consumer: &BaseConsumer, topic: &str) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Offset(0)).unwrap();
        // The first attempts may come before the coordinator is ready.
        let began = Instant::now();
        while consumer.commit(&list, CommitMode::Sync).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "no commit");
        }
    }

    #[test]
    fn only_what_a_group_with_other_offsets_passes_over_is_told() {
        let (_cluster, consumer) = three_records(3, 1);
        let told = |begun: &[_]| passed_over(&consumer, &["in".to_owned()], begun, || false);
        assert!(told(&[begun(1, 3), begun(2, 0)]).is_empty());
        commit(&consumer, "in");
        assert_eq!(told(&[begun(1, 3), begun(2, 0)]), [("in".to_owned(), 1, 3)]);
        let all = [begun(0, 0), begun(1, 3), begun(2, 0)];
        assert!(told(&all).is_empty(), "no other has an offset");
    }

    /// As if the topic had been out of the pipeline for longer than brokers keep offsets.
    #[test]
    fn what_a_group_with_offsets_in_another_topic_alone_passes_over_is_told() {
        let (cluster, consumer) = three_records(2, 1);
        cluster.create_topic("other", 1, 1).unwrap();
        commit(&consumer, "other");
        let all = [begun(0, 0), begun(1, 3)];
        let told = |topics: &[&str]| {
            let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
            passed_over(&consumer, &topics, &all, || false)
        };
        assert_eq!(told(&["in", "other"]), [("in".to_owned(), 1, 3)]);
        assert!(told(&["in"]).is_empty(), "another pipeline's topic says nothing");
    }
}
