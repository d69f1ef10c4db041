//! Metrics with their labels resolved, for code on the way of a record.
//!
//! Looking a series up by its labels hashes strings under a lock. That is done once, when a pipeline, step or
//! partition comes into being; afterwards a count is one atomic addition. The consumer loop goes further and collects
//! its timings in a [`LocalPipeline`], which touches shared memory once a batch.

use std::sync::Arc;
use std::time::Duration;

use prometheus::local::{LocalHistogram, LocalIntCounter};
use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use super::metrics::Metrics;

/// The metrics of one pipeline.
#[derive(Clone)]
pub struct PipelineMetrics {
    metrics: Arc<Metrics>,
    pipeline: Arc<str>,
    /// Records taken from Kafka.
    pub received: IntCounter,
    /// Bytes of keys and values taken from Kafka.
    pub record_bytes: IntCounter,
    /// Records that ended `Done`.
    pub done: IntCounter,
    /// Records that ended `Skipped`.
    pub skipped: IntCounter,
    /// Records that ended `DeadLettered`.
    pub dead_lettered: IntCounter,
    /// Records published and acknowledged.
    pub published: IntCounter,
    /// CPU time to decode one record.
    pub decode: Histogram,
    /// CPU time to encode one record.
    pub encode: Histogram,
    /// Produce to acknowledgement.
    pub delivery: Histogram,
    /// Admission to finish.
    pub event: Histogram,
    /// Records in flight.
    pub in_flight_records: IntGauge,
    /// Bytes in flight.
    pub in_flight_bytes: IntGauge,
    /// The configured bound.
    pub max_in_flight: IntGauge,
    /// In flight over the bound.
    pub concurrency_load: Gauge,
    /// Partitions paused now.
    pub paused_partitions: IntGauge,
    /// Times paused.
    pub pauses: IntCounter,
    /// Partitions assigned.
    pub assigned_partitions: IntGauge,
    /// Partitions with lag and no progress.
    pub stalled_partitions: IntGauge,
    /// 1 while stopped by the dead-letter limit.
    pub dead_letter_stop: IntGauge,
    /// Commits acknowledged.
    pub commits: IntCounter,
    /// Commits failed.
    pub commit_failures: IntCounter,
}

impl PipelineMetrics {
    /// Resolves all series of `pipeline`; they are exported from now on, at zero.
    pub fn new(metrics: &Arc<Metrics>, pipeline: &str) -> Self {
        let m = metrics;
        Self {
            received: m.received_total.of([pipeline]),
            record_bytes: m.record_bytes_total.of([pipeline]),
            done: m.records_total.of([pipeline, "done"]),
            skipped: m.records_total.of([pipeline, "skipped"]),
            dead_lettered: m.records_total.of([pipeline, "dead_lettered"]),
            published: m.published_total.of([pipeline]),
            decode: m.stage_seconds.of([pipeline, "decode"]),
            encode: m.stage_seconds.of([pipeline, "encode"]),
            delivery: m.delivery_seconds.of([pipeline]),
            event: m.event_seconds.of([pipeline]),
            in_flight_records: m.in_flight_records.of([pipeline]),
            in_flight_bytes: m.in_flight_bytes.of([pipeline]),
            max_in_flight: m.max_in_flight.of([pipeline]),
            concurrency_load: m.concurrency_load_ratio.of([pipeline]),
            paused_partitions: m.paused_partitions.of([pipeline]),
            pauses: m.pauses_total.of([pipeline]),
            assigned_partitions: m.assigned_partitions.of([pipeline]),
            stalled_partitions: m.stalled_partitions.of([pipeline]),
            dead_letter_stop: m.dead_letter_stop.of([pipeline]),
            commits: m.commits_total.of([pipeline]),
            commit_failures: m.commit_failures_total.of([pipeline]),
            metrics: Arc::clone(metrics),
            pipeline: Arc::from(pipeline),
        }
    }

    /// The pipeline's name.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// The series of one of its steps.
    pub fn step(&self, step: &str) -> StepMetrics {
        StepMetrics {
            seconds: self.metrics.step_seconds.of([&self.pipeline, step]),
            retries: self.metrics.retries_total.of([&self.pipeline, step]),
            metrics: Arc::clone(&self.metrics),
            pipeline: Arc::clone(&self.pipeline),
            step: Arc::from(step),
        }
    }

    /// Rows written by a `write` step.
    pub fn rows_written(&self, step: &str) -> IntCounter {
        self.metrics.rows_written_total.of([&self.pipeline, step])
    }

    /// The series of a step's cache.
    pub fn cache(&self, step: &str) -> CacheMetrics {
        let labels = [&*self.pipeline, step];
        CacheMetrics {
            hits: self.metrics.cache_hits_total.of(labels),
            misses: self.metrics.cache_misses_total.of(labels),
            coalesced: self.metrics.cache_coalesced_total.of(labels),
            evictions: self.metrics.cache_evictions_total.of(labels),
            entries: self.metrics.cache_entries.of(labels),
            bytes: self.metrics.cache_bytes.of(labels),
        }
    }

    /// The series of one assigned partition.
    pub fn partition(&self, topic: &str, partition: i32) -> PartitionMetrics {
        let number = partition.to_string();
        let labels = [&*self.pipeline, topic, &number];
        PartitionMetrics {
            lag_records: self.metrics.lag_records.of(labels),
            lag_seconds: self.metrics.lag_seconds.of(labels),
            position: self.metrics.position.of(labels),
            committed_offset: self.metrics.committed_offset.of(labels),
        }
    }

    /// Stops exporting a partition that is no longer assigned.
    pub fn forget_partition(&self, topic: &str, partition: i32) {
        let number = partition.to_string();
        let labels = [&*self.pipeline, topic, &number];
        self.metrics.lag_records.forget(labels);
        self.metrics.lag_seconds.forget(labels);
        self.metrics.position.forget(labels);
        self.metrics.committed_offset.forget(labels);
    }

    /// Counts a failure outside of any step: `stage` is `decode`, `encode`, `sink`, `dead_letter`, `commit`...
    pub fn failed(&self, stage: &str, class: &str, level: &str) {
        self.metrics
            .failures_total
            .of([&self.pipeline, stage, class, level])
            .inc();
    }

    /// Counts a dead letter that the brokers have acknowledged, by the class of its reason.
    pub fn dead_letter(&self, class: &str) {
        self.metrics.dead_letters_total.of([&self.pipeline, class]).inc();
    }

    /// Counts a rebalance: `assigned`, `revoked`, `lost` or `error`.
    pub fn rebalanced(&self, kind: &str) {
        self.metrics.rebalances_total.of([&self.pipeline, kind]).inc();
    }

    /// Counters and timers for one thread, to be flushed once a batch.
    pub fn local(&self) -> LocalPipeline {
        LocalPipeline {
            received: self.received.local(),
            record_bytes: self.record_bytes.local(),
            decode: self.decode.local(),
        }
    }
}

/// The metrics of one step.
#[derive(Clone)]
pub struct StepMetrics {
    metrics: Arc<Metrics>,
    pipeline: Arc<str>,
    step: Arc<str>,
    /// Request to answer.
    pub seconds: Histogram,
    /// Attempts that repeat a failed one.
    pub retries: IntCounter,
}

impl StepMetrics {
    /// Observes a request that succeeded.
    pub fn succeeded(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts a failed attempt; its time is observed nowhere.
    pub fn failed(&self, class: &str, level: &str) {
        self.metrics
            .failures_total
            .of([&self.pipeline, &self.step, class, level])
            .inc();
    }
}

/// The metrics of one step's cache.
#[derive(Clone)]
pub struct CacheMetrics {
    /// Answered from the cache.
    pub hits: IntCounter,
    /// Asked the store.
    pub misses: IntCounter,
    /// Waited for another's answer.
    pub coalesced: IntCounter,
    /// Entries given up early.
    pub evictions: IntCounter,
    /// Entries held.
    pub entries: IntGauge,
    /// Bytes held.
    pub bytes: IntGauge,
}

/// The metrics of one assigned partition; see [`PipelineMetrics::forget_partition`].
#[derive(Clone)]
pub struct PartitionMetrics {
    /// Records up to the end of the partition.
    pub lag_records: IntGauge,
    /// Age of the first unfinished record.
    pub lag_seconds: Gauge,
    /// Next offset to take.
    pub position: IntGauge,
    /// Offset committed last.
    pub committed_offset: IntGauge,
}

/// What a consumer loop counts for every record, without touching shared memory until [`LocalPipeline::flush`] (or
/// its drop, for the timer).
pub struct LocalPipeline {
    /// Records taken from Kafka.
    pub received: LocalIntCounter,
    /// Bytes of keys and values.
    pub record_bytes: LocalIntCounter,
    /// CPU time to decode one record, in seconds.
    pub decode: LocalHistogram,
}

impl LocalPipeline {
    /// Adds what was collected to the shared metrics.
    pub fn flush(&self) {
        self.received.flush();
        self.record_bytes.flush();
        self.decode.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render()).unwrap()
    }

    #[test]
    fn a_pipeline_is_exported_at_zero_and_local_counts_arrive_when_flushed() {
        let metrics = Metrics::new().unwrap();
        let pipeline = PipelineMetrics::new(&metrics, "p");
        assert!(text(&metrics).contains("messina_records_total{outcome=\"dead_lettered\",pipeline=\"p\"} 0"));
        let local = pipeline.local();
        local.received.inc();
        local.decode.observe(0.000_002);
        assert!(text(&metrics).contains("messina_received_total{pipeline=\"p\"} 0"));
        local.flush();
        assert!(text(&metrics).contains("messina_received_total{pipeline=\"p\"} 1"));
        assert!(text(&metrics).contains("messina_stage_seconds_count{pipeline=\"p\",stage=\"decode\"} 1"));
    }

    #[test]
    fn a_failure_is_counted_and_not_timed_and_a_revoked_partition_is_gone() {
        let metrics = Metrics::new().unwrap();
        let pipeline = PipelineMetrics::new(&metrics, "p");
        let step = pipeline.step("profile");
        step.failed("transient", "warn");
        assert_eq!(step.seconds.get_sample_count(), 0);
        let line = "messina_failures_total{class=\"transient\",level=\"warn\",pipeline=\"p\",step=\"profile\"} 1";
        assert!(text(&metrics).contains(line));
        pipeline.partition("t", 3).lag_seconds.set(1.5);
        assert!(text(&metrics).contains("messina_lag_seconds{partition=\"3\",pipeline=\"p\",topic=\"t\"} 1.5"));
        pipeline.forget_partition("t", 3);
        assert!(!text(&metrics).contains("partition=\"3\""));
    }
}
