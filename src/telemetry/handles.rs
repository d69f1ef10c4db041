//! Metrics with resolved labels, for code that runs per record.
//!
//! Finding a series by its labels hashes strings under a lock. That is done once, when a pipeline, step or partition is created; afterwards a count
//! is one atomic addition. The consumer loop also collects its timings in a [`LocalPipeline`], which updates shared memory once per batch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::local::{LocalHistogram, LocalIntCounter};
use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use super::metrics::Metrics;
use super::partitions::PartitionMetrics;
use crate::reference::Reference;
use crate::retry::Class;
use crate::store::group::GroupStats;

/// The metrics of one pipeline.
#[derive(Clone)]
pub struct PipelineMetrics {
    metrics: Arc<Metrics>,
    pipeline: Arc<str>,
    /// Records taken from Kafka.
    pub received: IntCounter,
    /// Bytes of keys and values taken from Kafka.
    pub record_bytes: IntCounter,
    /// Records that ended as `Done`.
    pub done: IntCounter,
    /// Records that ended as `Skipped`.
    pub skipped: IntCounter,
    /// Records that ended as `DeadLettered`.
    pub dead_lettered: IntCounter,
    /// Records that were given up before they ended, to run again.
    pub given_up: IntCounter,
    /// Records published and acknowledged.
    pub published: IntCounter,
    /// CPU time to decode one record.
    pub decode: Histogram,
    /// CPU time to encode one record.
    pub encode: Histogram,
    /// Time from producing a record to its acknowledgement.
    pub delivery: Histogram,
    /// Time from admission to the end of an event.
    pub event: Histogram,
    /// Records in flight.
    pub in_flight_records: IntGauge,
    /// Bytes in flight.
    pub in_flight_bytes: IntGauge,
    /// The current limit of concurrent events.
    pub concurrency_limit: IntGauge,
    /// Events being worked on, divided by `max_in_flight`.
    pub concurrency_load: Largest,
    /// Bytes in flight, divided by their limit.
    pub in_flight_bytes_load: Largest,
    /// Partitions paused now.
    pub paused_partitions: IntGauge,
    /// Number of pauses.
    pub pauses: IntCounter,
    /// Partitions assigned.
    pub assigned_partitions: IntGauge,
    /// Partitions with lag and no progress.
    pub stalled_partitions: IntGauge,
    /// Consumers that the dead-letter limit has stopped.
    pub dead_letter_stop: IntGauge,
    /// Acknowledged commits.
    pub commits: IntCounter,
    /// Failed commits.
    pub commit_failures: IntCounter,
    /// Consumers that were recreated.
    pub consumer_rebuilds: IntCounter,
    /// Committed transactions.
    pub transactions_committed: IntCounter,
    /// Aborted transactions.
    pub transactions_aborted: IntCounter,
    /// Time to commit a transaction, in seconds.
    pub transaction_commit: Histogram,
}

impl PipelineMetrics {
    /// Resolves all series of `pipeline`. From now on they are exported, at zero.
    pub fn new(metrics: &Arc<Metrics>, pipeline: &str) -> Self {
        let m = metrics;
        // These are looked up only when they are counted, so they are created here: if a series starts at 1, `rate()` and `increase()` miss that
        // count.
        m.dead_letters_total.of([pipeline, Class::Permanent.as_str()]);
        for kind in ["assigned", "revoked", "lost"] {
            m.rebalances_total.of([pipeline, kind]);
        }
        // Set when the pipeline is launched.
        m.max_in_flight.of([pipeline]);
        Self {
            received: m.received_total.of([pipeline]),
            record_bytes: m.record_bytes_total.of([pipeline]),
            done: m.records_total.of([pipeline, "done"]),
            skipped: m.records_total.of([pipeline, "skipped"]),
            dead_lettered: m.records_total.of([pipeline, "dead_lettered"]),
            given_up: m.given_up_records_total.of([pipeline]),
            published: m.published_total.of([pipeline]),
            decode: m.stage_seconds.of([pipeline, "decode"]),
            encode: m.stage_seconds.of([pipeline, "encode"]),
            delivery: m.delivery_seconds.of([pipeline]),
            event: m.event_seconds.of([pipeline]),
            in_flight_records: m.in_flight_records.of([pipeline]),
            in_flight_bytes: m.in_flight_bytes.of([pipeline]),
            concurrency_limit: m.concurrency_limit.of([pipeline]),
            concurrency_load: Largest::of(m.concurrency_load_ratio.of([pipeline])),
            in_flight_bytes_load: Largest::of(m.in_flight_bytes_ratio.of([pipeline])),
            paused_partitions: m.paused_partitions.of([pipeline]),
            pauses: m.pauses_total.of([pipeline]),
            assigned_partitions: m.assigned_partitions.of([pipeline]),
            stalled_partitions: m.stalled_partitions.of([pipeline]),
            dead_letter_stop: m.dead_letter_stop.of([pipeline]),
            commits: m.commits_total.of([pipeline]),
            commit_failures: m.commit_failures_total.of([pipeline]),
            consumer_rebuilds: m.consumer_rebuilds_total.of([pipeline]),
            transactions_committed: m.transactions_total.of([pipeline, "committed"]),
            transactions_aborted: m.transactions_total.of([pipeline, "aborted"]),
            transaction_commit: m.transaction_commit_seconds.of([pipeline]),
            metrics: Arc::clone(metrics),
            pipeline: Arc::from(pipeline),
        }
    }

    /// The pipeline's name.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// The series of one step.
    pub fn step(&self, step: &str) -> StepMetrics {
        StepMetrics {
            seconds: self.metrics.step_seconds.of([&self.pipeline, step]),
            retries: self.metrics.retries_total.of([&self.pipeline, step]),
            in_flight: self.metrics.step_in_flight.of([&self.pipeline, step]),
            transient: self
                .metrics
                .failures_total
                .of([&self.pipeline, step, "transient", "warn"]),
            metrics: Arc::clone(&self.metrics),
            pipeline: Arc::clone(&self.pipeline),
            step: Arc::from(step),
        }
    }

    /// Number of rows written by a `write` step.
    pub fn rows_written(&self, step: &str) -> IntCounter {
        self.metrics.rows_written_total.of([&self.pipeline, step])
    }

    /// The series of a grouped write.
    pub fn grouped(&self, step: &str) -> GroupMetrics {
        let labels = [&*self.pipeline, step];
        GroupMetrics {
            batches: self.metrics.write_batches_total.of(labels),
            rows: self.metrics.grouped_rows_total.of(labels),
        }
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

    /// Look-ups of a step in a reference: those that found a document, and those that did not.
    pub fn reference_lookups(&self, step: &str) -> (IntCounter, IntCounter) {
        let lookups = &self.metrics.reference_lookups_total;
        (
            lookups.of([&*self.pipeline, step, "found"]),
            lookups.of([&*self.pipeline, step, "missing"]),
        )
    }

    /// Number of assigned partitions of one of the input topics.
    pub fn topic_assigned_partitions(&self, topic: &str) -> IntGauge {
        self.metrics.topic_assigned_partitions.of([&*self.pipeline, topic])
    }

    /// The series of one assigned partition. It is exported as long as anyone holds it.
    pub fn partition(&self, topic: &str, partition: i32) -> PartitionMetrics {
        PartitionMetrics::new(&self.metrics, &self.pipeline, topic, partition)
    }

    /// Counts a failure outside of steps; `stage` is `decode`, `encode`, `sink`, `dead_letter`, `commit` and so on.
    pub fn failed(&self, stage: &str, class: &str, level: &str) {
        self.metrics
            .failures_total
            .of([&self.pipeline, stage, class, level])
            .inc();
    }

    /// Counts a dead letter acknowledged by the brokers, by the class of its reason.
    pub fn dead_letter(&self, class: &str) {
        self.metrics.dead_letters_total.of([&self.pipeline, class]).inc();
    }

    /// Counts a rebalance: `assigned`, `revoked` or `lost`.
    pub fn rebalanced(&self, kind: &str) {
        self.metrics.rebalances_total.of([&self.pipeline, kind]).inc();
    }

    /// Counters and timers for one thread, to be flushed once per batch.
    pub fn local(&self) -> LocalPipeline {
        LocalPipeline {
            received: self.received.local(),
            record_bytes: self.record_bytes.local(),
            decode: self.decode.local(),
            event: self.event.local(),
        }
    }
}

/// The metrics of one step.
#[derive(Clone)]
pub struct StepMetrics {
    metrics: Arc<Metrics>,
    pipeline: Arc<str>,
    step: Arc<str>,
    /// Time from request to answer.
    pub seconds: Histogram,
    /// Attempts that repeat a failed one.
    pub retries: IntCounter,
    /// Attempts that failed with a transient error and are retried.
    pub transient: IntCounter,
    /// Events that are at the step.
    pub in_flight: IntGauge,
}

impl StepMetrics {
    /// Records the time of a successful request.
    pub fn succeeded(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts events as being at the step, until the returned guard is dropped.
    pub fn enter(&self, events: usize) -> AtStep<'_> {
        let events = events as i64;
        self.in_flight.add(events);
        AtStep(&self.in_flight, events)
    }

    /// Counts an expired row that was used because the store failed.
    pub fn stale(&self) {
        self.metrics.cache_stale_total.of([&self.pipeline, &self.step]).inc();
    }

    /// Counts a failed attempt. Its time is not recorded.
    pub fn failed(&self, class: &str, level: &str) {
        self.metrics
            .failures_total
            .of([&self.pipeline, &self.step, class, level])
            .inc();
    }
}

/// Events at a step; see [`StepMetrics::enter`].
pub struct AtStep<'m>(&'m IntGauge, i64);

impl Drop for AtStep<'_> {
    fn drop(&mut self) {
        self.0.sub(self.1);
    }
}

/// The metrics of one grouped write.
#[derive(Clone)]
pub struct GroupMetrics {
    batches: IntCounter,
    rows: IntCounter,
}

impl GroupMetrics {
    /// Adds what was sent since the previous call; `last` holds the totals at that call.
    pub fn show(&self, stats: &GroupStats, last: &mut (u64, u64)) {
        let (batches, rows) = stats.sent();
        self.batches.inc_by(batches - last.0);
        self.rows.inc_by(rows - last.1);
        *last = (batches, rows);
    }
}

/// The metrics of one step's cache.
#[derive(Clone)]
pub struct CacheMetrics {
    /// Look-ups answered from the cache.
    pub hits: IntCounter,
    /// Look-ups that asked the store.
    pub misses: IntCounter,
    /// Look-ups that waited for the answer to another one.
    pub coalesced: IntCounter,
    /// Entries evicted before they expired.
    pub evictions: IntCounter,
    /// Entries in the cache.
    pub entries: IntGauge,
    /// Bytes in the cache.
    pub bytes: IntGauge,
}

/// The metrics of one reference.
#[derive(Clone)]
pub struct ReferenceMetrics {
    /// Documents in memory.
    pub entries: IntGauge,
    /// Bytes in memory.
    pub bytes: IntGauge,
    /// Documents whose fields do not have the declared or sampled types.
    pub unfit: IntGauge,
    /// Time since the copy was last known to match the server.
    pub age: Gauge,
    /// Time to read the whole collection.
    pub seconds: Histogram,
    /// Reads of the whole collection that succeeded.
    pub refreshed: IntCounter,
    /// Reads of the whole collection that failed.
    pub failed: IntCounter,
    /// Changes received from a change stream.
    pub changes: IntCounter,
    /// Cache hits, misses, coalesced look-ups and evictions with `mode = "on_demand"`.
    cache: [IntCounter; 4],
}

impl ReferenceMetrics {
    /// Resolves all series of `reference`.
    pub fn new(metrics: &Metrics, reference: &str) -> Self {
        Self {
            entries: metrics.reference_entries.of([reference]),
            bytes: metrics.reference_bytes.of([reference]),
            unfit: metrics.reference_unfit.of([reference]),
            age: metrics.reference_age_seconds.of([reference]),
            seconds: metrics.reference_refresh_seconds.of([reference]),
            refreshed: metrics.reference_refreshes_total.of([reference, "ok"]),
            failed: metrics.reference_refreshes_total.of([reference, "failed"]),
            changes: metrics.reference_changes_total.of([reference]),
            cache: [
                metrics.reference_cache_total.of([reference, "hit"]),
                metrics.reference_cache_total.of([reference, "miss"]),
                metrics.reference_cache_total.of([reference, "coalesced"]),
                metrics.reference_cache_evictions_total.of([reference]),
            ],
        }
    }

    /// Updates the metrics.
    pub fn show(&self, reference: &Reference, now: Instant) {
        self.entries.set(reference.entries() as i64);
        self.bytes.set(reference.bytes() as i64);
        self.unfit.set(reference.unfit() as i64);
        if let Some(on_demand) = reference.asks() {
            let now = on_demand.cache().stats();
            for (series, now) in self
                .cache
                .iter()
                .zip([now.hits, now.misses, now.coalesced, now.evictions])
            {
                series.inc_by(now.saturating_sub(series.get()));
            }
        }
        if let Some(age) = reference.age(now) {
            self.age.set(age.as_secs_f64());
        }
    }
}

/// One consumer's contribution to a gauge that the consumers of a pipeline share. Dropping it subtracts the contribution.
pub struct Part {
    gauge: IntGauge,
    last: i64,
}

impl Part {
    /// A contribution of 0.
    pub fn of(gauge: &IntGauge) -> Part {
        Part {
            gauge: gauge.clone(),
            last: 0,
        }
    }

    /// Sets this contribution and leaves the others as they are.
    pub fn set(&mut self, value: i64) {
        self.gauge.add(value - self.last);
        self.last = value;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A gauge that shows the largest value that any consumer of a pipeline has set.
#[derive(Clone)]
pub struct Largest {
    gauge: Gauge,
    parts: Arc<Mutex<BTreeMap<u64, f64>>>,
}

impl Largest {
    fn of(gauge: Gauge) -> Largest {
        Largest {
            gauge,
            parts: Arc::default(),
        }
    }

    /// One consumer's value, 0 until it is set. Dropping it removes the value.
    pub fn part(&self) -> LargestPart {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let number = parts.last_key_value().map_or(0, |(last, _)| last + 1);
        parts.insert(number, 0.0);
        LargestPart {
            of: self.clone(),
            number,
        }
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<u64, f64>)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts);
        self.gauge.set(parts.values().copied().fold(0.0, f64::max));
    }
}

/// See [`Largest::part`].
pub struct LargestPart {
    of: Largest,
    number: u64,
}

impl LargestPart {
    /// Sets this value.
    pub fn set(&self, value: f64) {
        self.of.change(|parts| {
            parts.insert(self.number, value);
        });
    }
}

impl Drop for LargestPart {
    fn drop(&mut self) {
        self.of.change(|parts| {
            parts.remove(&self.number);
        });
    }
}

/// Counters and timers that a consumer loop updates for every record. They reach shared memory only at [`LocalPipeline::flush`], the timers also
/// when this is dropped.
pub struct LocalPipeline {
    /// Records taken from Kafka.
    pub received: LocalIntCounter,
    /// Bytes of keys and values.
    pub record_bytes: LocalIntCounter,
    /// CPU time to decode one record, in seconds.
    pub decode: LocalHistogram,
    /// Time from admission to the end of an event, in seconds.
    pub event: LocalHistogram,
}

impl LocalPipeline {
    /// Adds what was collected to the shared metrics.
    pub fn flush(&self) {
        self.received.flush();
        self.record_bytes.flush();
        self.decode.flush();
        self.event.flush();
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
        for series in [
            r#"records_total{outcome="dead_lettered",pipeline="p"}"#,
            r#"dead_letters_total{class="permanent",pipeline="p"}"#,
            r#"rebalances_total{kind="assigned",pipeline="p"}"#,
            r#"rebalances_total{kind="lost",pipeline="p"}"#,
            r#"max_in_flight{pipeline="p"}"#,
        ] {
            assert!(text(&metrics).contains(&format!("messina_{series} 0")), "{series}");
        }
        assert_eq!(text(&metrics).matches("messina_rebalances_total{").count(), 3);
        let local = pipeline.local();
        local.received.inc();
        local.decode.observe(0.000_002);
        assert!(text(&metrics).contains("messina_received_total{pipeline=\"p\"} 0"));
        local.flush();
        assert!(text(&metrics).contains("messina_received_total{pipeline=\"p\"} 1"));
        assert!(text(&metrics).contains("messina_stage_seconds_count{pipeline=\"p\",stage=\"decode\"} 1"));
    }

    #[test]
    fn batches_count_on_when_a_pipeline_is_made_anew() {
        let metrics = Metrics::new().unwrap();
        let series = PipelineMetrics::new(&metrics, "p").grouped("row");
        for _ in 0..2 {
            let (stats, mut last) = (GroupStats::default(), (0, 0));
            for _ in 0..3 {
                stats.count(10);
                series.show(&stats, &mut last);
            }
        }
        assert_eq!((series.batches.get(), series.rows.get()), (6, 60));
    }

    #[test]
    fn the_consumer_with_most_is_shown() {
        let largest = Largest::of(Gauge::new("g", "g").unwrap());
        let (one, two, three) = (largest.part(), largest.part(), largest.part());
        one.set(0.2);
        two.set(1.0);
        three.set(0.1);
        assert_eq!(largest.gauge.get(), 1.0);
        drop(two);
        assert_eq!(largest.gauge.get(), 0.2);
        let four = largest.part();
        four.set(0.3);
        one.set(0.0);
        assert_eq!(largest.gauge.get(), 0.3);
        drop((one, three, four));
        assert_eq!(largest.gauge.get(), 0.0);
    }

    #[test]
    fn the_parts_of_a_gauge_add_up() {
        let gauge = IntGauge::new("g", "g").unwrap();
        let (mut one, mut two) = (Part::of(&gauge), Part::of(&gauge));
        one.set(5);
        two.set(7);
        one.set(3);
        assert_eq!(gauge.get(), 10);
        drop(two);
        assert_eq!(gauge.get(), 3);
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
        let third = pipeline.partition("t", 3);
        third.lag_seconds.set(1.5);
        assert!(text(&metrics).contains("messina_lag_seconds{partition=\"3\",pipeline=\"p\",topic=\"t\"} 1.5"));
        third.lag_records.set(4);
        let fourth = pipeline.partition("t", 4);
        fourth.lag_records.set(-1);
        assert_eq!(metrics.lag_records.sum(), 3);
        drop(third);
        assert!(!text(&metrics).contains("partition=\"3\""));
    }
}
