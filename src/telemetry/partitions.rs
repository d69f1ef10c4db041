//! The series of the partitions that a pipeline's consumers have.
//!
//! Two consumers of one process may have the same partition for a while: one that the group has thrown out hears of it late, when another has its
//! partitions already. So a partition is exported for as long as any of them has it; else the first to let go would take the figures of the one that
//! works.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{Gauge, IntCounter, IntGauge};

use super::metrics::Metrics;

/// How many consumers have each partition, by topic and number.
#[derive(Clone, Default)]
pub(super) struct Holders(Arc<Mutex<HashMap<(String, i32), usize>>>);

impl Holders {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, i32), usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The metrics of a partition that one consumer has; see [`PartitionMetrics::give_up`].
pub struct PartitionMetrics {
    /// Records up to the end of the partition.
    pub lag_records: IntGauge,
    /// Age of the first unfinished record.
    pub lag_seconds: Gauge,
    /// Next offset to take.
    pub position: IntGauge,
    /// Offset committed last.
    pub committed_offset: IntGauge,
    /// Records of the topic that were gone when they were due; it stays when the partition goes.
    pub passed_over: IntCounter,
    metrics: Arc<Metrics>,
    pipeline: Arc<str>,
    holders: Holders,
    /// Topic and number; none once the consumer has it no more.
    place: Option<(String, i32)>,
}

impl PartitionMetrics {
    pub(super) fn new(
        metrics: &Arc<Metrics>,
        pipeline: &Arc<str>,
        holders: &Holders,
        topic: &str,
        partition: i32,
    ) -> PartitionMetrics {
        let number = partition.to_string();
        let labels = [&**pipeline, topic, &number];
        // Kept until the series are there, so that nobody forgets them meanwhile.
        let mut held = holders.lock();
        *held.entry((topic.to_owned(), partition)).or_default() += 1;
        PartitionMetrics {
            lag_records: metrics.lag_records.of(labels),
            lag_seconds: metrics.lag_seconds.of(labels),
            position: metrics.position.of(labels),
            committed_offset: metrics.committed_offset.of(labels),
            passed_over: metrics.passed_over_records_total.of([&**pipeline, topic]),
            metrics: Arc::clone(metrics),
            pipeline: Arc::clone(pipeline),
            holders: holders.clone(),
            place: Some((topic.to_owned(), partition)),
        }
    }

    /// The consumer has the partition no more, as when this is dropped. Where no other one has it, its series are exported no more.
    pub fn give_up(&mut self) {
        let Some(place) = self.place.take() else { return };
        let mut held = self.holders.lock();
        if let Some(others) = held.get_mut(&place)
            && *others > 1
        {
            *others -= 1;
            return;
        }
        held.remove(&place);
        let (topic, partition) = place;
        let number = partition.to_string();
        let labels = [&*self.pipeline, &*topic, &*number];
        self.metrics.lag_records.forget(labels);
        self.metrics.lag_seconds.forget(labels);
        self.metrics.position.forget(labels);
        self.metrics.committed_offset.forget(labels);
    }
}

impl Drop for PartitionMetrics {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::handles::PipelineMetrics;

    #[test]
    fn a_partition_is_shown_for_as_long_as_any_consumer_has_it() {
        let metrics = Metrics::new().unwrap();
        let pipeline = PipelineMetrics::new(&metrics, "p");
        let lag = || metrics.lag_records.by("topic", "t", "partition");
        let mut thrown_out = pipeline.partition("t", 3);
        let owner = pipeline.partition("t", 3);
        owner.lag_records.set(7);
        thrown_out.give_up();
        assert_eq!(lag(), [("3".to_owned(), 7)]);
        owner.lag_records.set(8);
        drop(thrown_out);
        assert_eq!(lag(), [("3".to_owned(), 8)], "it was given up once");
        drop(owner);
        assert_eq!(lag(), []);
    }
}
