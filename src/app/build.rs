//! Makes the parts of the application out of the configuration: connections, prepared pipelines, consumers, producers.
//!
//! The memory of `[limits]` is shared out here: caches take what they declare; of the rest each pipeline has the same share,
//! a quarter of it for what its consumers prefetch, a quarter for its producer's queue, half for records in flight.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::services::{Services, backoff, wait};
use super::{Shared, StartError, config_error};
use crate::budget::Budget;
use crate::config::{self, Config, Sources};
use crate::kafka;
use crate::lanes::Order;
use crate::pipeline::prepare::{NotPrepared, Prepared, prepare};
use crate::pipeline::program::Action;
use crate::pipeline::runner::{Runtime, StepHandles};
use crate::pipeline::schemas::Registering;
use crate::retry::Jitter;
use crate::sink::dead_letters::DeadLetters;
use crate::sink::limits::{Limits, StopAbove, Window};
use crate::sink::{self, Sink};
use crate::source::consumer_loop::Parts;
use crate::source::context::{self, SourceContext};
use crate::source::status::LoopState;
use crate::store::AnyStore;
use crate::store::cache::{Cache, CacheStats};
use crate::telemetry::handles::{CacheMetrics, PipelineMetrics};
use crate::telemetry::kafka::KafkaMetrics;
use crate::telemetry::limit::Limiter;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::sentry::Sentry;

/// How often one kind of failure is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Lag without progress for this long is a stall.
const STALL_AFTER: Duration = Duration::from_secs(60);
/// Over what the share of dead letters is judged.
const LIMITS_WINDOW: Window = Window {
    length: Duration::from_secs(60),
    minimum: 1000,
};

/// What a loop's own thread adds to its parts.
pub(super) struct LoopContext {
    /// How it is told to stop.
    pub(super) stop: watch::Receiver<bool>,
    /// Its runtime.
    pub(super) io: Handle,
    /// Its session with the database.
    pub(super) store: Option<Arc<AnyStore>>,
}

/// Makes the parts of one loop, on its thread.
pub(super) type MakeParts = Box<dyn FnOnce(LoopContext) -> Parts + Send>;

/// A pipeline that is ready to be started.
pub(super) struct Built {
    pub(super) name: String,
    pub(super) producer: Option<Arc<sink::Producer>>,
    pub(super) parts: Vec<MakeParts>,
    pub(super) cache_metrics: Vec<(Arc<Cache>, CacheMetrics)>,
}

/// Prepares all pipelines; services that do not answer are waited for.
pub(super) async fn pipelines(
    config: &Config,
    sources: &Sources,
    services: &Services,
    metrics: &Arc<Metrics>,
    shared: &Shared,
    sentry: &Option<Arc<Sentry>>,
) -> Result<Vec<Built>, StartError> {
    let registering = if config.registry.register {
        Registering::Register
    } else {
        Registering::MustExist
    };
    let mut jitter = Jitter::new(u64::from(std::process::id()));
    let mut prepared = Vec::new();
    let mut findings = Vec::new();
    for pipeline in config.pipelines.values() {
        let mut attempt = 0;
        loop {
            match prepare(pipeline, services.store.as_deref(), &services.registry, registering).await {
                Ok(done) => {
                    for warning in &done.warnings {
                        tracing::warn!(pipeline = %pipeline.name.value, "{}", warning.message);
                    }
                    prepared.push((pipeline, done));
                    break;
                }
                Err(NotPrepared::Findings(found)) => {
                    findings.extend(found);
                    break;
                }
                Err(NotPrepared::Unavailable(failure)) => {
                    wait(shared, &failure.message, &mut attempt, &mut jitter).await
                }
            }
        }
    }
    if !findings.is_empty() {
        return Err(config_error(findings, sources));
    }
    let caches = prepared.iter().map(|(pipeline, _)| cache_bytes(pipeline)).sum();
    let memory = usize::try_from(config.limits.memory.bytes()).unwrap_or(usize::MAX);
    metrics.budget_limit_bytes.of([]).set(memory as i64);
    let share = memory.saturating_sub(caches).max(1 << 20) / prepared.len().max(1);
    let mut built = Vec::new();
    for (pipeline, prepared) in prepared {
        let this = build(config, pipeline, prepared, metrics, shared, sentry, share)?;
        if let Some(producer) = &this.producer {
            let topics = pipeline
                .sink
                .iter()
                .map(|s| &s.topic)
                .chain(pipeline.dead_letter.iter().map(|d| &d.topic));
            for topic in topics {
                wait_for_topic(producer, &topic.value, shared, &mut jitter).await;
            }
        }
        built.push(this);
    }
    Ok(built)
}

fn cache_bytes(pipeline: &config::Pipeline) -> usize {
    let caches = pipeline.steps.iter().filter_map(|step| match &step.kind {
        config::StepKind::Lookup(lookup) => lookup.cache.as_ref().map(|c| c.max_bytes.bytes()),
        _ => None,
    });
    usize::try_from(caches.sum::<u64>()).unwrap_or(usize::MAX)
}

fn build(
    config: &Config,
    pipeline: &config::Pipeline,
    prepared: Prepared,
    metrics: &Arc<Metrics>,
    shared: &Shared,
    sentry: &Option<Arc<Sentry>>,
    share: usize,
) -> Result<Built, StartError> {
    let name = pipeline.name.value.clone();
    let in_words = |e: &dyn std::fmt::Display| StartError::Process(format!("pipeline {name}: {e}"));
    let pipeline_metrics = PipelineMetrics::new(metrics, &name);
    pipeline_metrics.max_in_flight.set(*pipeline.max_in_flight as i64);
    let consumers = (*pipeline.consumers).max(1);

    let mut producer = None;
    if pipeline.sink.is_some() || pipeline.dead_letter.is_some() {
        let properties = pipeline.sink.as_ref().map_or(&[][..], |s| &s.properties);
        let client = kafka::producer(&config.kafka, properties, share / 4).map_err(|e| in_words(&e))?;
        let statistics = KafkaMetrics::new(metrics, &name, "producer");
        let ordered = pipeline.order != config::Order::None;
        producer =
            Some(sink::producer(&client, pipeline_metrics.clone(), statistics, ordered).map_err(|e| in_words(&e))?);
    }
    let output = pipeline
        .sink
        .as_ref()
        .zip(producer.clone())
        .map(|(s, p)| Sink::new(p, &s.topic.value));
    let dead_letters = pipeline
        .dead_letter
        .as_ref()
        .zip(producer.clone())
        .map(|(d, p)| DeadLetters::new(p, &d.topic.value, &name));

    let mut cache_metrics = Vec::new();
    let mut steps = Vec::new();
    for step in &prepared.program.steps {
        let rows = matches!(step.action, Action::Write(_)).then(|| pipeline_metrics.rows_written(&step.name));
        steps.push(StepHandles {
            step: pipeline_metrics.step(&step.name),
            rows,
        });
        if let Action::Lookup(lookup) = &step.action
            && let Some(cache) = &lookup.cache
        {
            cache_metrics.push((cache.clone(), pipeline_metrics.cache(&step.name)));
        }
    }
    let runtime = Runtime {
        program: prepared.program,
        store: None,
        sink: output,
        dead_letters,
        metrics: pipeline_metrics,
        steps,
        backoff: backoff(),
        limiter: Arc::new(Limiter::new(LOG_EVERY)),
        sentry: sentry.clone(),
    };

    let mut states = Vec::new();
    let mut parts: Vec<MakeParts> = Vec::new();
    for number in 0..consumers {
        let state = Arc::new(LoopState::default());
        states.push(state.clone());
        let client =
            kafka::consumer(&config.kafka, pipeline, number, share / 4 / consumers).map_err(|e| in_words(&e))?;
        let statistics = KafkaMetrics::new(metrics, &name, &format!("consumer-{number}"));
        let consumer = context::consumer(&client, SourceContext::new(&name, statistics)).map_err(|e| in_words(&e))?;
        let consumer = Arc::new(consumer);
        let max_in_flight = (*pipeline.max_in_flight / consumers).max(1);
        let budget = Budget::new(max_in_flight, share / 2 / consumers);
        let order = match pipeline.order {
            config::Order::None => Order::None,
            config::Order::Key => Order::Key,
            config::Order::Partition => Order::Partition,
        };
        let limits = pipeline.dead_letter.as_ref().and_then(|d| d.stop_above).map(|above| {
            let above = StopAbove {
                ratio: above.ratio,
                consecutive: above.consecutive,
            };
            Limits::new(above, LIMITS_WINDOW)
        });
        let topics = pipeline.source.topics.iter().map(|t| t.value.clone()).collect();
        let tombstone = pipeline.source.on_tombstone;
        let (schemas, runtime) = (prepared.schemas.clone(), runtime.clone());
        let drain_timeout = config.shutdown_timeout;
        parts.push(Box::new(move |LoopContext { stop, io, store }| Parts {
            consumer,
            topics,
            tombstone,
            order,
            budget,
            pool: max_in_flight.min(4096),
            limits,
            schemas,
            runtime: Arc::new(Runtime { store, ..runtime }),
            io,
            state,
            drain_timeout,
            stall_after: STALL_AFTER,
            stop,
        }));
    }
    shared
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pipelines
        .push((name.clone(), states));
    Ok(Built {
        name,
        producer,
        parts,
        cache_metrics,
    })
}

/// Waits until a topic that is published to is there; brokers that make topics by themselves make it now.
async fn wait_for_topic(producer: &Arc<sink::Producer>, topic: &str, shared: &Shared, jitter: &mut Jitter) {
    let mut attempt = 0;
    loop {
        let (asked, name) = (producer.clone(), topic.to_owned());
        let answer = tokio::task::spawn_blocking(move || sink::topic_exists(&asked, &name)).await;
        let reason = match answer {
            Ok(Ok(true)) => return,
            Ok(Ok(false)) => format!("the brokers have no topic '{topic}'"),
            Ok(Err(error)) => format!("topic '{topic}': {error}"),
            Err(error) => format!("topic '{topic}': {error}"),
        };
        wait(shared, &reason, &mut attempt, jitter).await;
    }
}

/// Brings the figures of the caches into the metrics, once a second, for as long as the application runs.
pub(super) async fn sample(caches: Vec<(Arc<Cache>, CacheMetrics)>, metrics: Arc<Metrics>) {
    let mut last = vec![CacheStats::default(); caches.len()];
    let mut interval =
        tokio::time::interval_at((Instant::now() + Duration::from_secs(1)).into(), Duration::from_secs(1));
    loop {
        interval.tick().await;
        let mut bytes = 0;
        for ((cache, to), last) in caches.iter().zip(&mut last) {
            let now = cache.stats();
            to.hits.inc_by(now.hits - last.hits);
            to.misses.inc_by(now.misses - last.misses);
            to.coalesced.inc_by(now.coalesced - last.coalesced);
            to.evictions.inc_by(now.evictions - last.evictions);
            to.entries.set(now.entries as i64);
            to.bytes.set(now.bytes as i64);
            bytes += now.bytes as i64;
            *last = now;
        }
        metrics.budget_used_bytes.of(["cache"]).set(bytes);
        let parts = [
            ("messina_in_flight_bytes", "in_flight"),
            ("messina_kafka_fetch_queue_bytes", "fetch_queue"),
            ("messina_kafka_producer_queue_bytes", "producer_queue"),
        ];
        for family in metrics.gather() {
            if let Some((_, part)) = parts.iter().find(|(name, _)| *name == family.name()) {
                let used: f64 = family.get_metric().iter().map(|m| m.get_gauge().get_value()).sum();
                metrics.budget_used_bytes.of([part]).set(used as i64);
            }
        }
    }
}
