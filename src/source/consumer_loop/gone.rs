//! Detects records that were due but are no longer in the log: retention overtakes a pipeline that is halted or late for long enough.
//!
//! The brokers then report the offset as out of range, and librdkafka continues where the log begins; the lag falls as if the records had been
//! processed. They are reported and counted when the next record arrives. A gap alone proves nothing, because compaction and transaction markers
//! leave gaps too. But these do not move the beginning of the log. If the log begins after the record that arrived, that record was fetched before
//! retention came, and so was everything before it. A marker that retention deleted was fetched before, if the consumer was at the end.
//!
//! Invariants: no broker is asked; only a record that is not the one that was due costs a check; records that were reported are not reported again
//! when a transaction is aborted or a consumer is replaced before the next commit.

use std::time::Duration;

use rdkafka::consumer::Consumer;

use super::Loop;
use crate::kafka::low;
use crate::source::assignment::Partition;

/// For this long after a partition began here, librdkafka's statistics may be from before: it reports once a second, and a seek holds the loop up for ten
/// seconds at most.
const HEARD_ANEW: Duration = Duration::from_secs(20);

/// The first offset that is gone, if any; those up to `low`, where the log begins, are gone with it. `due` was due, `came` came, and what lies before
/// `taken` was seen, if only by librdkafka. Some of these offsets may have been compacted before, or be transaction markers.
fn gone(due: i64, came: i64, low: i64, taken: Option<i64>) -> Option<i64> {
    let from = taken.map_or(due, |taken| due.max(taken));
    (from < low && low <= came).then_some(from)
}

impl Loop {
    /// Reports which records are gone, if any, when one came after the one that was due.
    pub(super) fn tell_what_is_gone(&mut self, partition: Partition, due: i64, came: i64) {
        let (topic, index) = (self.topic(partition).clone(), partition.index);
        let consumer = &self.parts.consumer;
        let Some(to) = low::of(&**consumer, &topic, index).filter(|low| *low > due) else {
            return;
        };
        let Some(held) = self.held.get(&partition) else { return };
        let extent = consumer.context().extent(&topic, index);
        let extent = extent.filter(|_| held.begun.elapsed() >= HEARD_ANEW);
        let Some(from) = gone(due, came, to, extent.map(|extent| extent.taken)) else {
            return;
        };
        let from = self
            .gone_until
            .insert(partition, to)
            .map_or(from, |told| from.max(told));
        if from >= to {
            return;
        }
        let records = from.abs_diff(to);
        held.metrics.passed_over.inc_by(records);
        tracing::error!(
            pipeline = %self.name(), topic = %topic, partition = index, from, to, records,
            "records are gone before they were read, at most `records` of them: the log begins after the offset that was due"
        );
        self.note_error(format!(
            "{topic}/{index}: the log no longer has offsets {from} to {}, which were due",
            to - 1
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_before_the_logs_beginning_is_gone() {
        assert_eq!(gone(10, 50, 50, None), Some(10));
        // The log begins with compacted offsets or transaction markers.
        assert_eq!(gone(10, 50, 30, None), Some(10));
    }

    #[test]
    fn a_gap_of_compaction_or_of_transactions_is_none() {
        assert_eq!(gone(10, 50, 0, None), None);
        assert_eq!(gone(10, 50, 10, None), None);
    }

    #[test]
    fn what_was_fetched_before_retention_took_it_is_not_gone() {
        assert_eq!(gone(10, 12, 50, None), None, "a marker among records that waited");
        assert_eq!(
            gone(10, 11, 11, Some(11)),
            None,
            "a marker, at the end of the log for long"
        );
        assert_eq!(gone(10, 50, 50, Some(11)), Some(11));
        assert_eq!(gone(10, 50, 50, Some(-1001)), Some(10), "nothing was taken yet");
    }
}
