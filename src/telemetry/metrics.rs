//! Declares every metric that Messina exports; there are no others.
//!
//! They are on their own registry (no global), so that a test or a second instance in one process sees only its own values. Names use base units
//! (seconds, bytes); a counter ends in `_total`. Labels are bounded by the configuration and the number of partitions: never a key, an id or a
//! message.
//!
//! Invariants: a timer is observed on success and dropped on failure, and the failure is counted by class and level. Code that runs per record holds
//! resolved series (`handles`) and does not look up labels.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    CounterVec, Encoder, GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, Registry, TEXT_FORMAT, TextEncoder,
};

use super::buckets::{cpu, event, io, seconds};
use super::declare::{Declared, Family, PREFIX, Vector, help, metrics};
use super::logging::LogFile;
use super::partitions::Holders;
use super::process::Sampler;
use crate::certificates::CertificateFile;
use crate::registry::RegistryStats;
use crate::store::scylla::DriverFigures;

metrics! {
    /// The declared metrics, by field. `metrics.records_total.of(["navigation", "done"])` is one series.
    pub struct Families {
        // The way of a record
        /// Records taken from Kafka, whatever becomes of them.
        received_total: IntCounterVec ["pipeline"],
        /// Records finished, by how they ended: done, skipped or dead_lettered.
        records_total: IntCounterVec ["pipeline", "outcome"],
        /// Records taken but given up before they were finished; they run again elsewhere or later. Their partition was revoked, their transaction was
        /// aborted, or their consumer ended. Taken = finished + in flight + given up.
        given_up_records_total: IntCounterVec ["pipeline"],
        /// Bytes of the keys and values taken from Kafka.
        record_bytes_total: IntCounterVec ["pipeline"],
        /// Records published to the output topic and acknowledged by the brokers.
        published_total: IntCounterVec ["pipeline"],
        /// Rows written to the store and acknowledged. Conditional writes count whether or not their condition held.
        rows_written_total: IntCounterVec ["pipeline", "step"],
        /// Batches written by a write with `group`. The rows of a failed batch are written one by one and count in none. The average rows of a batch are
        /// `messina_grouped_rows_total` over this.
        write_batches_total: IntCounterVec ["pipeline", "step"],
        /// Rows written in batches.
        grouped_rows_total: IntCounterVec ["pipeline", "step"],
        /// Time of a CPU stage for one record: decode or encode.
        stage_seconds: HistogramVec ["pipeline", "stage"] within cpu(),
        /// Time of a step's request until its answer. Answers from a cache, failures, and the linger of a `group` do not count.
        step_seconds: HistogramVec ["pipeline", "step"] within io(),
        /// Time from handing a record to the producer until the brokers acknowledged it.
        delivery_seconds: HistogramVec ["pipeline"] within io(),
        /// Time from the admission of an event until it was done or skipped, retries included. Dead letters do not count.
        event_seconds: HistogramVec ["pipeline"] within event(),

        // Failures
        /// Failed attempts, by class (transient, permanent, fatal) and level. warn: it is retried. error: it is not retried; the record becomes a dead
        /// letter, is skipped or goes on without the answer as `on_error` says, or runs again from the last commit. fatal: the pipeline stops.
        failures_total: IntCounterVec ["pipeline", "step", "class", "level"],
        /// State of a dependency's circuit breaker: 0 closed, 1 half-open (a probe is out), 2 open. The dependency is store, mongo, registry, or sink
        /// and the pipeline's name.
        breaker_state: IntGaugeVec ["dependency"],
        /// Times that a dependency's circuit breaker opened.
        breaker_opens_total: IntCounterVec ["dependency"],
        /// Attempts that repeat a failed one.
        retries_total: IntCounterVec ["pipeline", "step"],
        /// Records published to the dead-letter topic and acknowledged, by the class of the reason.
        dead_letters_total: IntCounterVec ["pipeline", "class"],
        /// Consumers of the pipeline that have stopped intake, because more of their records became dead letters than `stop_above` allows.
        dead_letter_stop: IntGaugeVec ["pipeline"],

        /// Consumers of the pipeline that have halted and do not continue.
        halted: IntGaugeVec ["pipeline"],
        /// 1 while the process is ready, as in /readyz: connected, checked, in its groups, and nowhere halted or stalled.
        ready: IntGaugeVec [],

        // Load
        /// Records admitted and not yet finished.
        in_flight_records: IntGaugeVec ["pipeline"],
        /// Events at a step that asks the store: waiting for its answer, for the next attempt or for the breaker.
        step_in_flight: IntGaugeVec ["pipeline", "step"],
        /// Bytes of the records admitted and not yet finished, plus 8 KiB for each task at work on them, and 64 for each finished record that waits in
        /// its partition behind an unfinished one.
        in_flight_bytes: IntGaugeVec ["pipeline"],
        /// `messina_in_flight_bytes` over what the memory budget allows a consumer. At 1 intake stops until it is down to 0.8. Of several consumers, the
        /// highest.
        in_flight_bytes_ratio: GaugeVec ["pipeline"],
        /// Current limit of events worked on at the same time: configured, or found with max_in_flight = "auto".
        concurrency_limit: IntGaugeVec ["pipeline"],
        /// Configured limit of events worked on at the same time; with max_in_flight = "auto" the upper one.
        max_in_flight: IntGaugeVec ["pipeline"],
        /// Events being worked on over max_in_flight. 1 means that the concurrency is used up. Of several consumers, the highest.
        concurrency_load_ratio: GaugeVec ["pipeline"],
        /// Bytes that the process may hold for records, caches and queues together.
        budget_limit_bytes: IntGaugeVec [],
        /// Bytes of the budget in use, by part: fetch_queue, in_flight, cache, reference, producer_queue.
        budget_used_bytes: IntGaugeVec ["part"],
        /// Partitions paused now. Either intake has stood still for two seconds (the budget is used up, a transaction is full, more than 200,000 records
        /// wait behind one of their partition, or `stop_above` has stopped it), or the consumer ends, or records wait for their schema.
        paused_partitions: IntGaugeVec ["pipeline"],
        /// Times that a pipeline's partitions were paused because intake had stood still for two seconds, or that one was paused to wait for a schema.
        pauses_total: IntCounterVec ["pipeline"],

        // Partitions
        /// Records between the first unfinished record and the end of the partition, including those in and behind open transactions.
        lag_records: IntGaugeVec ["pipeline", "topic", "partition"],
        /// Age of the first unfinished record, while there is lag that can be read; 0 without lag. Records without a timestamp, or with one that is not
        /// above 0 or lies in the future, do not count; if none counts, the age of the record taken last, or the time since the partition was last at
        /// its end.
        lag_seconds: GaugeVec ["pipeline", "topic", "partition"],
        /// Offset of the next record to take; 0 while unknown.
        position: IntGaugeVec ["pipeline", "topic", "partition"],
        /// Last committed offset, by this process or before; 0 if there is none.
        committed_offset: IntGaugeVec ["pipeline", "topic", "partition"],
        /// Records that retention deleted before they were processed; an upper bound.
        passed_over_records_total: IntCounterVec ["pipeline", "topic"],
        /// Partitions assigned to this process.
        assigned_partitions: IntGaugeVec ["pipeline"],
        /// Partitions of an input topic assigned to this process.
        topic_assigned_partitions: IntGaugeVec ["pipeline", "topic"],
        /// Partitions with lag that make no progress. Under `exactly_once`, finished records that are not committed count as lag here.
        stalled_partitions: IntGaugeVec ["pipeline"],
        /// Consumers recreated, which continue from the last commit: because they stalled; because brokers had forgotten their transactional id, fenced
        /// its producer, or had no transaction of it; because that producer could not begin a transaction or go on with one; or to publish again what
        /// brokers refused, or had not accepted when its partition was revoked.
        consumer_rebuilds_total: IntCounterVec ["pipeline"],
        /// Rebalances, by kind: assigned, revoked or lost.
        rebalances_total: IntCounterVec ["pipeline", "kind"],
        /// Commits acknowledged by the brokers.
        commits_total: IntCounterVec ["pipeline"],
        /// Commits that failed.
        commit_failures_total: IntCounterVec ["pipeline"],
        /// Transactions that ended, by outcome: committed or aborted. Only under `exactly_once`.
        transactions_total: IntCounterVec ["pipeline", "outcome"],
        /// Time to commit a transaction, from sending the offsets until the brokers' acknowledgement.
        transaction_commit_seconds: HistogramVec ["pipeline"] within io(),

        // Caches of look-ups
        /// Look-ups answered by the cache, cached absences included.
        cache_hits_total: IntCounterVec ["pipeline", "step"],
        /// Look-ups that had to ask the store.
        cache_misses_total: IntCounterVec ["pipeline", "step"],
        /// Look-ups that shared the request of another one for the same key.
        cache_coalesced_total: IntCounterVec ["pipeline", "step"],
        /// Entries evicted before they expired, to keep within the cache's bytes.
        cache_evictions_total: IntCounterVec ["pipeline", "step"],
        /// Expired rows served because the store failed.
        cache_stale_total: IntCounterVec ["pipeline", "step"],
        /// Entries in the cache.
        cache_entries: IntGaugeVec ["pipeline", "step"],
        /// Bytes in the cache.
        cache_bytes: IntGaugeVec ["pipeline", "step"],

        // References
        /// Documents of a reference held in memory.
        reference_entries: IntGaugeVec ["reference"],
        /// Bytes that a reference holds, its tables included.
        reference_bytes: IntGaugeVec ["reference"],
        /// Documents of a reference whose fields do not have the declared or sampled types; records that need them fail. Always 0 with mode =
        /// "on_demand", which does not keep them.
        reference_unfit: IntGaugeVec ["reference"],
        /// Time since the copy in memory was last known to be what the server has.
        reference_age_seconds: GaugeVec ["reference"],
        /// Time to read a whole collection.
        reference_refresh_seconds: HistogramVec ["reference"] within event(),
        /// Reads of a whole collection, by outcome: ok or failed (the documents in memory are then kept).
        reference_refreshes_total: IntCounterVec ["reference", "outcome"],
        /// Changes received from a change stream.
        reference_changes_total: IntCounterVec ["reference"],
        /// Look-ups in a reference with mode = "on_demand", by cache outcome: hit, miss (a request) or coalesced (another's request).
        reference_cache_total: IntCounterVec ["reference", "outcome"],
        /// Documents that the cache of a reference with mode = "on_demand" evicted before they expired, for room.
        reference_cache_evictions_total: IntCounterVec ["reference"],
        /// Look-ups in a reference, by outcome: found or missing.
        reference_lookups_total: IntCounterVec ["pipeline", "step", "outcome"],

        // Schema registry
        /// Requests to the schema registry, by outcome: ok, unknown, refused (the registry rejects the schema) or failed (no answer, or none about the
        /// schema).
        registry_requests_total: IntCounterVec ["outcome"],
        /// Schemas in memory, by id.
        registry_schemas: IntGaugeVec [],

        // librdkafka, from its statistics; client is "consumer-N" or "producer", under exactly_once "producer-N"
        /// Records waiting in the client's local fetch queues.
        kafka_fetch_queue_records: IntGaugeVec ["pipeline", "client"],
        /// Bytes waiting in the client's local fetch queues.
        kafka_fetch_queue_bytes: IntGaugeVec ["pipeline", "client"],
        /// Records in the producer's queues, in flight to the brokers included.
        kafka_producer_queue_records: IntGaugeVec ["pipeline", "client"],
        /// Bytes in the producer's queues, in flight to the brokers included.
        kafka_producer_queue_bytes: IntGaugeVec ["pipeline", "client"],
        /// Bytes sent to the brokers.
        kafka_transmitted_bytes_total: IntCounterVec ["pipeline", "client"],
        /// Bytes received from the brokers.
        kafka_received_bytes_total: IntCounterVec ["pipeline", "client"],
        /// Requests sent to the brokers.
        kafka_requests_total: IntCounterVec ["pipeline", "client"],
        /// Requests that could not be sent or timed out.
        kafka_request_failures_total: IntCounterVec ["pipeline", "client"],
        /// Broker connections that are up. If only connections to a bootstrap address or the group's coordinator are up, they count as 1. Exported from
        /// a client's first report until it is closed.
        kafka_brokers_up: IntGaugeVec ["pipeline", "client"],
        /// Broker connections that were lost.
        kafka_disconnects_total: IntCounterVec ["pipeline", "client"],
        /// Mean round trip to a broker in the last statistics interval.
        kafka_broker_rtt_mean_seconds: GaugeVec ["pipeline", "client", "broker"],
        /// 99th percentile of the round trip to a broker in the last statistics interval.
        kafka_broker_rtt_p99_seconds: GaugeVec ["pipeline", "client", "broker"],

        // The CQL driver; runtime is that of the consumer loops whose session it is, or "shared" of the one that prepares. Its own counters are left off: each
        // request would pay for them, and requests, failures and times are in the steps' metrics.
        /// Database nodes that requests may go to: those of the preferred datacenter, or all.
        cql_nodes: IntGaugeVec ["runtime"],
        /// Those of `messina_cql_nodes` that the driver is connected to.
        cql_nodes_connected: IntGaugeVec ["runtime"],
        /// Failed requests that the driver itself retried, mostly on another node. Retries of a look-up with speculative_after count where it was
        /// prepared: runtime is shared.
        cql_retries_total: IntCounterVec ["runtime"],

        // Certificates
        /// When the certificates of a configured file expire, in seconds since 1970-01-01T00:00:00Z: the earliest of a chain, the latest of several
        /// authorities. This is the file as it is now, which may be newer than what connections use (registry and database re-read theirs within a
        /// minute). The brokers' file is read once: for it, the expiry at that time counts if it is earlier.
        certificate_expiry_timestamp_seconds: IntGaugeVec ["file"],

        // Process
        /// CPU time used, user and system.
        process_cpu_seconds_total: CounterVec [],
        /// Resident memory.
        process_resident_memory_bytes: IntGaugeVec [],
        /// Highest resident memory so far.
        process_peak_resident_memory_bytes: IntGaugeVec [],
        /// Memory that the allocator has committed, including what it gave back since (purged). 0 in a program with another allocator than mimalloc.
        allocator_committed_bytes: IntGaugeVec [],
        /// Memory that the allocator gave back to the system.
        allocator_purged_bytes_total: IntCounterVec [],
        /// Open file descriptors.
        process_open_fds: IntGaugeVec [],
        /// Limit of open file descriptors.
        process_max_fds: IntGaugeVec [],
        /// Threads.
        process_threads: IntGaugeVec [],
        /// Start of the process, in seconds since 1970-01-01T00:00:00Z.
        process_start_time_seconds: GaugeVec [],

        // Tokio; runtime is "shared" or that of a thread of consumer loops
        /// Worker threads of the runtime.
        runtime_workers: IntGaugeVec ["runtime"],
        /// Time that the runtime's workers spent working. Its rate over `messina_runtime_workers` is their utilisation.
        runtime_busy_seconds_total: CounterVec ["runtime"],
        /// Tasks that are alive.
        runtime_tasks: IntGaugeVec ["runtime"],
        /// Tasks waiting in the runtime's global queue.
        runtime_queue_depth: IntGaugeVec ["runtime"],

        // Messina itself
        /// Events for Sentry, by outcome: sent, suppressed (too many of one kind), dropped (the queue was full) or failed (Sentry did not accept them).
        sentry_events_total: IntCounterVec ["outcome"],
        /// Spans for the collector, by outcome: exported, suppressed (over max_spans_per_second), dropped (the queue was full) or failed (the collector
        /// did not accept them).
        trace_spans_total: IntCounterVec ["outcome"],
        /// Lines that could not be written to the log file, for example because the disk is full.
        log_lines_lost_total: IntCounterVec [],
        /// Always 1; the labels are the running version and the revision that it was built from, or unknown.
        build_info: IntGaugeVec ["version", "revision"],
        /// Number of the current configuration; the first since the start is 1.
        config_generation: IntGaugeVec [],
        /// Configurations offered to the running process (SIGHUP, `--watch`), by outcome: taken, unchanged or rejected.
        config_reloads_total: IntCounterVec ["outcome"],
        /// 1 if the configuration offered last (SIGHUP, `--watch`) was taken or unchanged, 0 if it was rejected.
        config_last_reload_successful: IntGaugeVec [],
    }
}

/// The revision of the source that this was built from, as the build supplied it: two builds of one version differ by it. The compiler tells Cargo that it
/// read the variable, so another value causes a rebuild.
pub fn revision() -> &'static str {
    option_env!("MESSINA_REVISION").unwrap_or("unknown")
}

/// All metrics and the registry that exports them. The declared ones are reached as fields: `metrics.lag_records`.
pub struct Metrics {
    families: Families,
    registry: Registry,
    sampler: Mutex<Sampler>,
    /// Kept here rather than with a pipeline: a reload creates a new pipeline, while a consumer of the old one may still run beside it.
    pub(super) holders: Holders,
}

impl std::ops::Deref for Metrics {
    type Target = Families;
    fn deref(&self) -> &Families {
        &self.families
    }
}

impl Metrics {
    /// Creates and registers all metrics.
    ///
    /// # Errors
    /// Only if a declaration is wrong (a duplicate name, an invalid label), which a test of this module rules out.
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let families = Families::declare(&registry)?;
        families.build_info.of([env!("CARGO_PKG_VERSION"), revision()]).set(1);
        let sampler = Mutex::new(Sampler::new(&families));
        Ok(Arc::new(Self {
            families,
            registry,
            sampler,
            holders: Holders::default(),
        }))
    }

    /// From now on, exports this runtime's workers, tasks and busy time under `name`.
    pub fn watch_runtime(&self, name: &str, runtime: tokio::runtime::Handle) {
        let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        sampler.watch(&self.families, name, runtime);
    }

    /// Stops exporting this runtime.
    pub fn forget_runtime(&self, name: &str) {
        let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        sampler.forget(&self.families, name);
    }

    /// From now on, exports the requests to the schema registry. A process has one registry.
    pub fn watch_registry(&self, stats: &Arc<RegistryStats>) {
        let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        sampler.watch_registry(&self.families, Arc::clone(stats));
    }

    /// Exports when the certificates in these files expire, and no longer those of other files.
    pub fn watch_certificates(&self, files: Vec<CertificateFile>) {
        let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        sampler.watch_certificates(&self.families, files);
    }

    /// From now on, exports how many lines this log file loses.
    pub fn watch_log(&self, file: LogFile) {
        let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        sampler.watch_log(file);
    }

    /// Exports the figures of a session's CQL driver until `figures` returns `None`.
    pub fn watch_driver(&self, runtime: &str, figures: impl Fn() -> Option<DriverFigures> + Send + 'static) {
        let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        sampler.watch_driver(&self.families, runtime, Box::new(figures));
    }

    /// The Prometheus text format, version 0.0.4 ([`Metrics::CONTENT_TYPE`]). Values that are not counted as they happen (process, runtimes, registry, driver,
    /// certificates, log file) are read now. A family that cannot be encoded is left out; the others are still there.
    pub fn render(&self) -> Vec<u8> {
        self.sampler.lock().unwrap_or_else(PoisonError::into_inner).sample();
        let encoder = TextEncoder::new();
        let mut text = Vec::with_capacity(64 * 1024);
        for family in self.registry.gather() {
            let before = text.len();
            if encoder.encode(std::slice::from_ref(&family), &mut text).is_err() {
                text.truncate(before);
            }
        }
        text
    }

    /// The current values of all families, for the status page; see [`Metrics::render`].
    pub fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.registry.gather()
    }

    /// The `Content-Type` of [`Metrics::render`].
    pub const CONTENT_TYPE: &str = TEXT_FORMAT;
}

/// Name and meaning of every metric, in the order of this file.
pub fn declared() -> Vec<Declared> {
    Families::declarations()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn declarations_follow_the_conventions() {
        const LABELS: &[&str] = &[
            "pipeline",
            "step",
            "stage",
            "topic",
            "partition",
            "outcome",
            "class",
            "level",
            "kind",
            "part",
            "client",
            "broker",
            "dependency",
            "runtime",
            "version",
            "revision",
            "reference",
            "file",
        ];
        for metric in declared() {
            let name = &metric.name;
            assert!(
                !metric.help.is_empty() && metric.help.ends_with('.'),
                "{name}: {}",
                metric.help
            );
            assert_eq!(
                metric.kind == "counter",
                name.ends_with("_total"),
                "{name} is a {}",
                metric.kind
            );
            assert!(
                !name.ends_with("_ms") && !name.ends_with("_kb"),
                "{name} is not in base units"
            );
            assert!(
                metric.labels.iter().all(|l| LABELS.contains(l)),
                "{name} has an unbounded label"
            );
            assert_eq!(metric.kind == "histogram", !metric.buckets.is_empty(), "{name}");
            assert!(
                metric.buckets.windows(2).all(|w| w[0] < w[1]),
                "{name}: bounds are not in order"
            );
        }
    }

    #[test]
    fn what_is_counted_is_rendered() {
        let metrics = Metrics::new().unwrap();
        metrics.records_total.of(["navigation", "done"]).inc_by(3);
        metrics.step_seconds.of(["navigation", "profile"]).observe(0.000_014);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        metrics.watch_runtime("shared", runtime.handle().clone());
        let stats = Arc::<RegistryStats>::default();
        metrics.watch_registry(&stats);
        stats.ok.store(2, Ordering::Relaxed);
        metrics.render();
        stats.ok.store(5, Ordering::Relaxed);
        let text = String::from_utf8(metrics.render()).unwrap();
        let build = format!(
            "messina_build_info{{revision=\"{}\",version=\"{}\"}} 1",
            option_env!("MESSINA_REVISION").unwrap_or("unknown"),
            env!("CARGO_PKG_VERSION")
        );
        for line in [
            build.as_str(),
            r#"messina_registry_requests_total{outcome="ok"} 5"#,
            "# HELP messina_records_total Records finished, by how they ended: done, skipped or dead_lettered.",
            "# TYPE messina_records_total counter",
            r#"messina_records_total{outcome="done",pipeline="navigation"} 3"#,
            r#"messina_step_seconds_bucket{pipeline="navigation",step="profile",le="0.00001"} 0"#,
            r#"messina_step_seconds_bucket{pipeline="navigation",step="profile",le="0.000015"} 1"#,
            r#"messina_runtime_workers{runtime="shared"} 1"#,
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
        }
        for name in [
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_open_fds",
            "process_threads",
        ] {
            let line = text
                .lines()
                .find(|l| l.starts_with(&format!("messina_{name} ")))
                .unwrap();
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() > 0.0, "{line}");
        }
    }

    #[test]
    fn two_instances_share_nothing_and_a_forgotten_series_is_gone() {
        let (a, b) = (Metrics::new().unwrap(), Metrics::new().unwrap());
        a.lag_records.of(["p", "t", "0"]).set(7);
        assert!(!String::from_utf8(b.render()).unwrap().contains("messina_lag_records{"));
        a.lag_records.forget(["p", "t", "0"]);
        assert!(!String::from_utf8(a.render()).unwrap().contains("messina_lag_records{"));
    }

    #[test]
    fn what_has_each_label_is_forgotten_and_nothing_else() {
        let metrics = Metrics::new().unwrap();
        for (pipeline, step) in [("p", "a"), ("p", "b"), ("q", "a")] {
            metrics.cache_bytes.of([pipeline, step]).set(1);
        }
        metrics.assigned_partitions.of(["p"]).set(1);
        metrics.forget_each(&[("pipeline", "p"), ("step", "a")]);
        let text = String::from_utf8(metrics.render()).unwrap();
        let left = |line: &str| text.lines().any(|l| l == line);
        assert!(!left(r#"messina_cache_bytes{pipeline="p",step="a"} 1"#), "{text}");
        for line in [
            r#"messina_cache_bytes{pipeline="p",step="b"} 1"#,
            r#"messina_cache_bytes{pipeline="q",step="a"} 1"#,
            r#"messina_assigned_partitions{pipeline="p"} 1"#,
        ] {
            assert!(left(line), "no {line} in\n{text}");
        }
    }
}
