//! Where partitions are fetched from, and whether their logs are still the ones that were read up to there.
//!
//! A log may lose its end, as by an unclean leader election, and be filled again. The offset at which a partition continues then exists, and only the
//! leader epoch of the record before it shows that the records there, and before, are new. So commits carry that epoch, and brokers are asked about
//! it. If the log was cut before the offset, librdkafka (2.12) delivers from the cut on, and the loop sees an offset before the one that is due.

use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};

use super::Loop;
use super::membership::refusal;
use crate::kafka::epoch;
use crate::ledger::{Ledger, NO_EPOCH};
use crate::pipeline::failure::Failure;
use crate::source::assignment::{Partition, Ticket};

/// How long librdkafka's main thread may take to begin a seek.
const SEEK_TIMEOUT: Duration = Duration::from_secs(10);

impl Loop {
    /// The leader epoch of the record before the one at which this assignment continues.
    pub(super) fn epoch_before(&self, ticket: Ticket) -> i32 {
        let held = self.assignment.held().find(|at| at.ticket == ticket);
        let position = held.and_then(|at| at.ledger).and_then(Ledger::position);
        position.map_or(NO_EPOCH, |position| position.leader_epoch)
    }

    /// Makes librdkafka ask the brokers whether their logs are still those that were read up to here. A log that lost its end and was filled again has
    /// the offset, too, and its new records before that would be skipped. librdkafka (2.12) asks this at a seek, but not when an assignment starts.
    pub(super) fn validate(&mut self, starts: &[(Partition, Option<i64>, i32)]) {
        let known = starts.iter().filter(|(.., leader_epoch)| *leader_epoch != NO_EPOCH);
        let places: Vec<_> = known
            .filter_map(|(partition, from, leader_epoch)| Some((*partition, (*from)?, *leader_epoch)))
            .collect();
        if places.is_empty() {
            return;
        }
        // librdkafka begins an assignment when no commit is under way any more, and refuses a seek until then. A seek that comes just as it begins may be
        // handled before it, although it counts as the later one: what is fetched would be discarded as older than the refused seek.
        let sought = if self.committing {
            None
        } else {
            self.seek_to(&places).ok()
        };
        for (partition, from, leader_epoch) in places {
            let found = |list: &TopicPartitionList| {
                let element = list.find_partition(self.topic(partition), partition.index);
                element.is_some_and(|element| element.error().is_ok())
            };
            // The assignment also begins later while a commit that is no longer waited for is under way, and until partitions that were given back have
            // stopped.
            if !sought.as_ref().is_some_and(found) {
                self.unvalidated.insert(partition, (from, leader_epoch));
            }
        }
    }

    /// Whether this partition still had to be validated when its first record came. If so, it seeks, and that record, or another one in its place, comes
    /// again.
    pub(super) fn validates_first(&mut self, partition: Partition) -> bool {
        let Some((from, leader_epoch)) = self.unvalidated.remove(&partition) else {
            return false;
        };
        self.seek(partition, from, leader_epoch);
        true
    }

    /// Fetches a partition from `from` on, validated by `leader_epoch`, that of the record before.
    pub(super) fn seek(&mut self, partition: Partition, from: i64, leader_epoch: i32) {
        let refused = match self.seek_to(&[(partition, from, leader_epoch)]) {
            Ok(list) => refusal(&list),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = refused {
            let at = format!("{}/{}", self.topic(partition), partition.index);
            self.halt(Failure::fatal("seek", format!("{at} to {from}: {error}")));
        }
    }

    /// The returned list has the errors of single partitions. librdkafka answers when it has begun the seek, before it asks any broker.
    fn seek_to(&self, places: &[(Partition, i64, i32)]) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(places.len());
        for (partition, from, leader_epoch) in places {
            list.add_partition_offset(self.topic(*partition), partition.index, Offset::Offset(*from))?;
            epoch::set_last(&mut list, *leader_epoch);
        }
        self.parts.consumer.seek_partitions(list, SEEK_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::source::consumer_loop::ends::tests::three_records;
    use crate::source::consumer_loop::tests::idle::{P, with_one_finished};

    #[tokio::test]
    async fn a_record_that_is_taken_in_has_the_epoch_of_its_leader() {
        let (cluster, consumer) = three_records(1, 0);
        // The leader epoch counts the elections.
        cluster.partition_leader("in", 0, Some(1)).unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("in", 0, Offset::Offset(1)).unwrap();
        consumer.assign(&list).unwrap();
        let began = Instant::now();
        let message = loop {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => break message,
                _ => assert!(began.elapsed() < Duration::from_secs(60), "no record"),
            }
        };
        let mut this = with_one_finished().await;
        let ticket = this.held[&P].ticket;
        assert_eq!(this.epoch_before(ticket), NO_EPOCH);
        this.admit(&message);
        this.assignment.finished(ticket, 1).unwrap();
        assert_eq!(this.epoch_before(ticket), 0, "it was taken in the first");
    }
}
