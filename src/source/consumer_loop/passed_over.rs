//! What `offset_reset = "latest"` passes over in a partition of a topic in which the group has offsets already.
//!
//! Such a partition may have been added to the topic: what came to it before the group heard of it is not processed, and nothing else would say so. Or the
//! group is new, and others of its members have committed where they began. Nothing tells the one from the other for certain, as members may begin
//! minutes apart and the times of records are their producers': so both begin at the end, as documented, and the log says what that passes over.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::range;
use crate::source::assignment::Partition;

/// For all questions together. A loop that ends meanwhile leaves its consumer to who asks with it, until the question that is asked then is answered.
const ASK: Duration = Duration::from_secs(5);

/// Those of these partitions, which begin at their ends, that hold records while the group has offsets elsewhere in their topic; with so many records, as
/// far as offsets tell. What brokers do not say in time is left out.
pub(super) fn passed_over<C: ConsumerContext, T: Consumer<C>>(
    consumer: &T,
    begun: &[(Partition, String, i64)],
    ended: impl Fn() -> bool,
) -> Vec<(String, i32, i64)> {
    let until = Instant::now() + ASK;
    let left = || Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero() && !ended());
    let topics: BTreeSet<&str> = begun.iter().map(|(_, topic, _)| topic.as_str()).collect();
    let known: BTreeSet<&str> = topics
        .into_iter()
        .filter(|topic| {
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
        })
        .collect();
    let of_known = begun.iter().filter(|(_, topic, _)| known.contains(topic.as_str()));
    of_known
        .filter_map(|(partition, topic, end)| {
            let (first, _) = consumer.fetch_watermarks(topic, partition.index, left()?).ok()?;
            (first < *end).then(|| (topic.clone(), partition.index, end - first))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::CommitMode;

    use super::*;
    use crate::source::consumer_loop::ends::tests::three_records;

    #[test]
    fn only_what_a_group_with_other_offsets_in_the_topic_passes_over_is_told() {
        let (_cluster, consumer) = three_records(3, 1);
        let begun = |index: i32, end: i64| (Partition { topic: 0, index }, "in".to_owned(), end);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("in", 0, Offset::Offset(0)).unwrap();
        assert!(passed_over(&consumer, &[begun(1, 3), begun(2, 0)], || false).is_empty());
        // The first attempts may be too early for the coordinator.
        let began = Instant::now();
        while consumer.commit(&list, CommitMode::Sync).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "no commit");
        }
        let told = passed_over(&consumer, &[begun(1, 3), begun(2, 0)], || false);
        assert_eq!(told, [("in".to_owned(), 1, 3)]);
        let all = [begun(0, 0), begun(1, 3), begun(2, 0)];
        assert!(
            passed_over(&consumer, &all, || false).is_empty(),
            "no other has an offset"
        );
    }
}
