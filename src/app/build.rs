//! Makes the parts of the application out of the configuration: connections, prepared pipelines, consumers, producers.
//!
//! The memory of `[limits]` is shared out here: caches take what they declare; of the rest each pipeline has the same share,
//! a quarter of it for what its consumers prefetch, a quarter for its producer's queue, half for records in flight.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{Shared, StartError, config_error};
use crate::budget::Budget;
use crate::config::{self, Config, Diagnostic, Diagnostics, Sources, codes};
use crate::kafka;
use crate::lanes::Order;
use crate::pipeline::failure::Failure;
use crate::pipeline::finding::Finding;
use crate::pipeline::prepare::{NotPrepared, Prepared, prepare};
use crate::pipeline::program::Action;
use crate::pipeline::runner::{Runtime, StepHandles};
use crate::pipeline::schemas::Registering;
use crate::registry::{Registry, RegistryOptions};
use crate::retry::{Backoff, Class, Jitter};
use crate::sink::dead_letters::DeadLetters;
use crate::sink::limits::{Limits, StopAbove, Window};
use crate::sink::{self, Sink};
use crate::source::consumer_loop::{End, Parts};
use crate::source::context::{self, SourceContext};
use crate::source::status::LoopState;
use crate::store::cache::{Cache, CacheStats};
use crate::store::scylla::{ScyllaOptions, ScyllaStore, TlsOptions};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{AnyStore, Consistency, SerialConsistency};
use crate::telemetry::handles::{CacheMetrics, PipelineMetrics};
use crate::telemetry::kafka::KafkaMetrics;
use crate::telemetry::limit::Limiter;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::sentry::Sentry;

/// Between attempts at what may pass: 50 ms, doubling to 10 s.
const BACKOFF: (Duration, Duration, f64) = (Duration::from_millis(50), Duration::from_secs(10), 2.0);
/// How often one kind of failure is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Lag without progress for this long is a stall.
const STALL_AFTER: Duration = Duration::from_secs(60);
/// Over what the share of dead letters is judged.
const LIMITS_WINDOW: Window = Window {
    length: Duration::from_secs(60),
    minimum: 1000,
};

pub(super) fn backoff() -> Backoff {
    Backoff::new(BACKOFF.0, BACKOFF.1, BACKOFF.2)
}

/// What the pipelines share.
pub struct Services {
    /// The schema registry.
    pub registry: Arc<Registry>,
    /// The database, if there is one.
    pub store: Option<Arc<AnyStore>>,
}

impl Services {
    /// Connects; a database that does not answer is waited for.
    pub(super) async fn connect(config: &Config, sources: &Sources, shared: &Shared) -> Result<Services, StartError> {
        let mut attempt = 0;
        let mut jitter = Jitter::new(u64::from(std::process::id()));
        loop {
            match Services::connect_once(config).await {
                Ok(services) => return Ok(services),
                Err(NotPrepared::Findings(findings)) => return Err(config_error(findings, sources)),
                Err(NotPrepared::Unavailable(failure)) => {
                    wait(shared, &failure.message, &mut attempt, &mut jitter).await
                }
            }
        }
    }

    async fn connect_once(config: &Config) -> Result<Services, NotPrepared> {
        let registry = registry(config)?;
        Ok(Services {
            registry: Arc::new(registry),
            store: store(config).await?.map(Arc::new),
        })
    }
}

async fn wait(shared: &Shared, reason: &str, attempt: &mut u32, jitter: &mut Jitter) {
    tracing::warn!(attempt = *attempt, "not ready: {reason}; trying again");
    shared.lock().unwrap_or_else(PoisonError::into_inner).waiting_for = Some(reason.to_owned());
    tokio::time::sleep(backoff().delay(*attempt, jitter.next_u64())).await;
    *attempt += 1;
}

fn registry(config: &Config) -> Result<Registry, NotPrepared> {
    let from = &config.registry;
    let place = from.urls.first().map(|u| u.span);
    let at =
        |message: String| NotPrepared::Findings(place.map(|span| Finding::new(span, message)).into_iter().collect());
    let mut options = RegistryOptions {
        urls: from.urls.iter().map(|u| u.value.clone()).collect(),
        timeout: from.timeout,
        ..RegistryOptions::default()
    };
    match &from.auth {
        Some(config::RegistryAuth::Basic { username, password }) => {
            options.username = Some(username.clone());
            options.password = Some(password.reveal().map_err(|e| at(e.to_string()))?);
        }
        Some(config::RegistryAuth::Bearer(token)) => {
            options.bearer = Some(token.reveal().map_err(|e| at(e.to_string()))?)
        }
        None => {}
    }
    if let Some(tls) = &from.tls {
        options.ca = tls.ca.as_ref().map(|p| p.value.clone());
        options.cert = tls.cert.as_ref().map(|p| p.value.clone());
        options.key = tls.key.as_ref().map(|p| p.value.clone());
    }
    Registry::new(options).map_err(|e| at(format!("[registry]: {e}")))
}

async fn store(config: &Config) -> Result<Option<AnyStore>, NotPrepared> {
    if let (Some(path), Some(store)) = (config.sqlite_path(), &config.store) {
        return match SqliteStore::open(&SqliteOptions::new(path)) {
            Ok(sqlite) => Ok(Some(AnyStore::Sqlite(sqlite))),
            Err(error) => Err(NotPrepared::Findings(vec![Finding::new(store.span, error.to_string())])),
        };
    }
    let Some(from) = &config.scylla else { return Ok(None) };
    let place = from.nodes.first().map(|n| n.span);
    let options = ScyllaOptions {
        nodes: from.nodes.iter().map(|n| n.value.clone()).collect(),
        keyspace: from.keyspace.as_ref().map(|k| k.value.clone()),
        datacenter: from.datacenter.as_ref().map(|d| d.value.clone()),
        rack: from.rack.as_ref().map(|r| r.value.clone()),
        failover: from.failover,
        consistency: consistency(from.consistency),
        serial_consistency: match from.serial_consistency {
            config::SerialConsistency::Serial => SerialConsistency::Serial,
            config::SerialConsistency::LocalSerial => SerialConsistency::LocalSerial,
        },
        username: from.username.clone(),
        password: from.password.clone().map(|secret| {
            let reveal: crate::store::scylla::Secret = Arc::new(move || secret.reveal().map_err(|e| e.to_string()));
            reveal
        }),
        tls: from.tls.as_ref().map(|tls| TlsOptions {
            ca: tls.ca.as_ref().map(|p| p.value.clone()),
            cert: tls.cert.as_ref().map(|p| p.value.clone()),
            key: tls.key.as_ref().map(|p| p.value.clone()),
            ..TlsOptions::default()
        }),
        compression: match from.compression {
            config::Compression::None => None,
            config::Compression::Lz4 => Some(scylla::client::Compression::Lz4),
            config::Compression::Snappy => Some(scylla::client::Compression::Snappy),
        },
        request_timeout: from.timeout,
        ..ScyllaOptions::default()
    };
    match ScyllaStore::connect(&options).await {
        Ok(scylla) => Ok(Some(AnyStore::Scylla(scylla))),
        Err(error) if error.class == Class::Transient => Err(NotPrepared::Unavailable(Failure::transient(
            error.label,
            format!("the database: {error}"),
        ))),
        Err(error) => Err(NotPrepared::Findings(
            place
                .map(|span| Finding::new(span, format!("the database: {error}")))
                .into_iter()
                .collect(),
        )),
    }
}

fn consistency(from: config::Consistency) -> Consistency {
    match from {
        config::Consistency::Any => Consistency::Any,
        config::Consistency::One => Consistency::One,
        config::Consistency::Two => Consistency::Two,
        config::Consistency::Three => Consistency::Three,
        config::Consistency::Quorum => Consistency::Quorum,
        config::Consistency::All => Consistency::All,
        config::Consistency::LocalQuorum => Consistency::LocalQuorum,
        config::Consistency::EachQuorum => Consistency::EachQuorum,
        config::Consistency::LocalOne => Consistency::LocalOne,
    }
}

/// Checks everything that live services tell, with no effect on any of them.
pub async fn check_online(config: &Config, sources: &Sources) -> Result<Diagnostics, String> {
    let services = match Services::connect_once(config).await {
        Ok(services) => services,
        Err(NotPrepared::Findings(findings)) => return Ok(findings_to_diagnostics(findings, sources)),
        Err(NotPrepared::Unavailable(failure)) => return Err(failure.message),
    };
    let mut all = Vec::new();
    for pipeline in config.pipelines.values() {
        match prepare(
            pipeline,
            services.store.as_deref(),
            &services.registry,
            Registering::Skip,
        )
        .await
        {
            Ok(prepared) => all.extend(prepared.warnings.into_iter().map(|w| diagnostic(w, sources, true))),
            Err(NotPrepared::Findings(findings)) => {
                all.extend(findings.into_iter().map(|f| diagnostic(f, sources, false)));
            }
            Err(NotPrepared::Unavailable(failure)) => return Err(failure.message),
        }
        all.extend(
            topics(config, pipeline)
                .await?
                .into_iter()
                .map(|f| diagnostic(f, sources, false)),
        );
    }
    Ok(Diagnostics::new(all))
}

/// Topics that are not there.
async fn topics(config: &Config, pipeline: &config::Pipeline) -> Result<Vec<Finding>, String> {
    let client = kafka::client(
        &config.kafka,
        &config.kafka.consumer_properties,
        &pipeline.source.properties,
    )
    .map_err(|e| e.to_string())?;
    let wanted: Vec<_> = pipeline
        .source
        .topics
        .iter()
        .chain(pipeline.sink.as_ref().map(|s| &s.topic))
        .chain(pipeline.dead_letter.as_ref().map(|d| &d.topic))
        .cloned()
        .collect();
    let result = tokio::task::spawn_blocking(move || {
        use rdkafka::consumer::{BaseConsumer, Consumer};
        let consumer: BaseConsumer = client.create().map_err(|e| e.to_string())?;
        let metadata = consumer
            .fetch_metadata(None, Duration::from_secs(10))
            .map_err(|e| format!("the brokers: {e}"))?;
        Ok(wanted
            .into_iter()
            .filter(|topic| {
                !metadata
                    .topics()
                    .iter()
                    .any(|t| t.name() == topic.value && !t.partitions().is_empty())
            })
            .map(|topic| {
                Finding::new(topic.span, format!("the brokers have no topic '{}'", topic.value)).help("create it first")
            })
            .collect())
    })
    .await;
    result.unwrap_or_else(|e| Err(e.to_string()))
}

fn diagnostic(finding: Finding, sources: &Sources, warning: bool) -> Diagnostic {
    let Finding { span, message, help } = finding;
    let diagnostic = if warning {
        Diagnostic::warning(codes::TYPES, message)
    } else {
        Diagnostic::error(codes::TYPES, message)
    };
    let diagnostic = diagnostic.at(sources, span, "");
    match help {
        Some(help) => diagnostic.help(help),
        None => diagnostic,
    }
}

/// Findings as the diagnostics that people read.
pub fn findings_to_diagnostics(findings: Vec<Finding>, sources: &Sources) -> Diagnostics {
    Diagnostics::new(findings.into_iter().map(|f| diagnostic(f, sources, false)).collect())
}

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

/// The database as a loop uses it: a session on the loop's own runtime, so that no answer has to wake another thread (measured:
/// 20 µs of CPU a record with one shared runtime, 12 with this). The embedded store has threads of its own and is shared.
pub(super) async fn store_of_loop(
    config: &Config,
    prepared_by: Option<Arc<AnyStore>>,
    mut stop: watch::Receiver<bool>,
) -> Result<Option<Arc<AnyStore>>, End> {
    if !matches!(prepared_by.as_deref(), Some(AnyStore::Scylla(_))) {
        return Ok(prepared_by);
    }
    let mut attempt = 0;
    let mut jitter = Jitter::new(u64::from(std::process::id()));
    loop {
        let failure = match store(config).await {
            Ok(store) => return Ok(store.map(Arc::new)),
            Err(NotPrepared::Unavailable(failure)) => failure,
            Err(NotPrepared::Findings(findings)) => {
                let message = findings
                    .first()
                    .map_or_else(|| "the database".to_owned(), |f| f.message.clone());
                return Err(End::Halted(Failure::fatal("database", message)));
            }
        };
        tracing::warn!(attempt, "not ready: {failure}; trying again");
        tokio::select! {
            () = tokio::time::sleep(backoff().delay(attempt, jitter.next_u64())) => attempt += 1,
            _ = stop.changed() => return Err(End::Drained),
        }
    }
}

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
