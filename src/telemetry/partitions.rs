//! The series of the partitions that a pipeline's consumers hold.
//!
//! Two consumers of one process may hold the same partition for a while: one that the group has thrown out learns it late, when another already has
//! its partitions; the same holds for one that a reload has given up, and its successor. So a partition is exported as long as any of them holds it;
//! otherwise the first to release it would remove the series of the one that works.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{Gauge, IntCounter, IntGauge};

use super::metrics::Metrics;

/// A pipeline, a topic and a partition number.
type Place = (Arc<str>, String, i32);

/// How many consumers of the process hold each partition.
#[derive(Default)]
pub(super) struct Holders(Mutex<HashMap<Place, usize>>);

impl Holders {
    fn lock(&self) -> MutexGuard<'_, HashMap<Place, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The metrics of a partition that one consumer holds; see [`PartitionMetrics::give_up`].
pub struct PartitionMetrics {
    /// Records up to the end of the partition.
    pub lag_records: IntGauge,
    /// Age of the first unfinished record.
    pub lag_seconds: Gauge,
    /// Next offset to take.
    pub position: IntGauge,
    /// Offset committed last.
    pub committed_offset: IntGauge,
    /// Records of the topic that retention deleted before they were processed. It stays when the partition is released.
    pub passed_over: IntCounter,
    metrics: Arc<Metrics>,
    /// `None` once the consumer has released the partition.
    place: Option<Place>,
}

impl PartitionMetrics {
    pub(super) fn new(metrics: &Arc<Metrics>, pipeline: &Arc<str>, topic: &str, partition: i32) -> PartitionMetrics {
        let number = partition.to_string();
        let labels = [&**pipeline, topic, &number];
        let place = (Arc::clone(pipeline), topic.to_owned(), partition);
        // The lock is held until the series exist, so that no other consumer removes them meanwhile.
        let mut held = metrics.holders.lock();
        *held.entry(place.clone()).or_default() += 1;
        PartitionMetrics {
            lag_records: metrics.lag_records.of(labels),
            lag_seconds: metrics.lag_seconds.of(labels),
            position: metrics.position.of(labels),
            committed_offset: metrics.committed_offset.of(labels),
            passed_over: metrics.passed_over_records_total.of([&**pipeline, topic]),
            metrics: Arc::clone(metrics),
            place: Some(place),
        }
    }

    /// The consumer has released the partition; dropping this does the same. If no other consumer holds the partition, its series are removed.
    pub fn give_up(&mut self) {
        let Some(place) = self.place.take() else { return };
        let mut held = self.metrics.holders.lock();
        if let Some(others) = held.get_mut(&place)
            && *others > 1
        {
            *others -= 1;
            return;
        }
        held.remove(&place);
        let (pipeline, topic, partition) = place;
        let number = partition.to_string();
        let labels = [&*pipeline, &*topic, &*number];
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
        let after_a_reload = PipelineMetrics::new(&metrics, "p");
        let lag = || metrics.lag_records.by("topic", "t", "partition");
        for others in [&pipeline, &after_a_reload] {
            let mut thrown_out = pipeline.partition("t", 3);
            let owner = others.partition("t", 3);
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

    #[test]
    fn a_partition_of_another_pipeline_is_another() {
        let metrics = Metrics::new().unwrap();
        let [gone, stays] = ["p", "q"].map(|name| PipelineMetrics::new(&metrics, name).partition("t", 3));
        drop(gone);
        assert_eq!(metrics.lag_records.by("topic", "t", "pipeline"), [("q".to_owned(), 0)]);
        drop(stays);
    }
}
