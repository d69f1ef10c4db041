//! Creates the parts of the application from the configuration: connections, prepared pipelines, consumers, producers. `memory` computes how much
//! memory each may use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::early::Early;
use super::output::{Brokers, SharedOutput};
use super::references::Shown;
use super::services::{Services, backoff, reached, read_registry_again, wait};
use super::{Known, Shared, StartError, Telemetry, config_error, output};
use crate::breaker::Rules;
use crate::breaker::gate::{BreakerMetrics, Gate, Gates};
use crate::budget::Budget;
use crate::concurrency::Concurrency;
use crate::config::{self, Config, GroupProtocol, Sources};
use crate::custom::CustomSteps;
use crate::kafka;
use crate::pipeline::prepare::{NotPrepared, Prepared, prepare};
use crate::pipeline::program::{Action, Program, Step};
use crate::pipeline::runner::{Runtime, StepHandles};
use crate::pipeline::schemas::Registering;
use crate::retry::Jitter;
use crate::sink::limits::{Limits, Window};
use crate::source::bounds::Bounds;
use crate::source::consumer_loop::Parts;
use crate::source::context::{self, SourceContext};
use crate::source::moderation::Rest;
use crate::source::status::LoopState;
use crate::store::AnyStore;
use crate::store::cache::{Cache, CacheStats};
use crate::store::group::GroupStats;
use crate::telemetry::handles::{CacheMetrics, GroupMetrics, PipelineMetrics};
use crate::telemetry::kafka::KafkaMetrics;
use crate::telemetry::limit::Limiter;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::sentry::Sentry;
use crate::telemetry::traces::{PipelineTracer, Tracer};

/// How often one kind of failure is logged.
pub(super) const LOG_EVERY: Duration = Duration::from_secs(10);
/// When a producer's breaker opens: its queue stays full because nothing is delivered, or deliveries fail. A queue that is
/// full for a moment is only back-pressure.
pub(super) fn sink_rules() -> Rules {
    Rules {
        many: 1000,
        span: Duration::from_secs(5),
        minimum: u32::MAX,
        ..Rules::default()
    }
}

pub(super) fn gate(metrics: &Metrics, dependency: &str, rules: Rules) -> Arc<Gate> {
    Arc::new(Gate::new(
        dependency,
        rules,
        Some(BreakerMetrics::new(metrics, dependency)),
    ))
}

fn consumer_name(number: usize) -> String {
    format!("consumer-{number}")
}

/// The names in metrics of a pipeline's librdkafka clients.
pub(super) fn clients(pipeline: &config::Pipeline) -> BTreeSet<String> {
    let numbers = 0..(*pipeline.consumers).max(1);
    let mut names: BTreeSet<String> = numbers.clone().map(consumer_name).collect();
    if pipeline.sink.is_none() && pipeline.dead_letter.is_none() {
        return names;
    }
    if *pipeline.delivery == config::Delivery::ExactlyOnce {
        names.extend(numbers.map(|number| output::client_name(Some(number))));
    } else {
        names.insert(output::client_name(None));
    }
    names
}

/// The name of the breaker of a pipeline's producer.
pub(super) fn sink_gate(pipeline: &str) -> String {
    format!("sink {pipeline}")
}

/// The window over which the share of dead letters is computed.
const LIMITS_WINDOW: Window = Window {
    length: Duration::from_secs(60),
    minimum: 1000,
};

/// What a loop's thread contributes to its parts.
#[derive(Clone)]
pub(super) struct LoopContext {
    /// Signals the loop to stop.
    pub(super) stop: watch::Receiver<bool>,
    /// Its runtime.
    pub(super) io: Handle,
    /// The thread's session with the database.
    pub(super) store: Option<Arc<AnyStore>>,
    /// How long the thread may rest at a time.
    pub(super) rest: Arc<Rest>,
}

/// Creates the parts of one loop, on its thread; called again whenever the consumer has to be replaced.
pub(super) type MakeParts = Box<dyn FnMut(LoopContext) -> Result<Parts, String> + Send>;

/// A pipeline that is ready to be started.
pub(super) struct Built {
    /// Its name, and what probes and `/status` see of it.
    pub(super) known: Known,
    /// Its memory, in bytes.
    pub(super) share: usize,
    /// The output that all its consumers share; with transactions, the first consumer's.
    pub(super) output: Arc<SharedOutput>,
    pub(super) parts: Vec<MakeParts>,
    /// Its producer's breaker.
    pub(super) sink: Arc<Gate>,
    pub(super) sampled: Sampled,
}

/// Parts of a pipeline that keep their own counts, and the series that export these.
#[derive(Default)]
pub(super) struct Sampled {
    /// Each with the counts that were exported last.
    pub(super) caches: Vec<(Arc<Cache>, CacheMetrics, CacheStats)>,
    groups: Vec<(Arc<GroupStats>, GroupMetrics, (u64, u64))>,
}

/// The same for all running pipelines, by name.
pub(super) type AllSampled = Arc<Mutex<BTreeMap<String, Sampled>>>;

/// What all pipelines are built with, at the start and at each reload.
pub(super) struct Common {
    pub(super) services: Services,
    pub(super) metrics: Arc<Metrics>,
    pub(super) shared: Shared,
    pub(super) sentry: Option<Arc<Sentry>>,
    tracer: Option<Arc<Tracer>>,
    pub(super) http: SocketAddr,
    pub(super) customs: CustomSteps,
    /// Which records a replay takes; none takes all.
    bounds: Option<Arc<Bounds>>,
    store: Arc<Gate>,
    mongo: Arc<Gate>,
    registry: Arc<Gate>,
}

impl Common {
    pub(super) fn new(
        services: Services,
        telemetry: Telemetry,
        shared: Shared,
        http: SocketAddr,
        customs: CustomSteps,
        bounds: Option<Arc<Bounds>>,
    ) -> Common {
        let Telemetry {
            metrics,
            sentry,
            tracer,
        } = telemetry;
        let store = gate(&metrics, "store", Rules::default());
        let registry = gate(&metrics, "registry", Rules::default());
        let mut known = vec![store.clone(), registry.clone()];
        let asks = services.references.references.all().any(|r| r.is_on_demand());
        let mongo = if asks {
            let mongo = gate(&metrics, "mongo", Rules::default());
            known.push(mongo.clone());
            mongo
        } else {
            Gates::default().mongo
        };
        shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .breakers
            .extend(known);
        Common {
            services,
            metrics,
            shared,
            sentry,
            tracer,
            http,
            customs,
            bounds,
            store,
            mongo,
            registry,
        }
    }
}

/// Prepares these pipelines, each of which may use `share` bytes; waits for services that do not answer.
pub(super) async fn pipelines(
    config: &Config,
    sources: &Sources,
    common: &Common,
    wanted: &[&config::Pipeline],
    share: usize,
) -> Result<Vec<Built>, StartError> {
    let registering = if config.registry.register {
        Registering::Register
    } else {
        Registering::MustExist
    };
    let (services, shared) = (&common.services, &common.shared);
    let store = services.store.as_deref();
    let mut jitter = Jitter::unique();
    let mut prepared = Vec::new();
    let mut findings = Vec::new();
    for pipeline in wanted {
        let mut attempt = 0;
        loop {
            let references = &services.references.references;
            match prepare(
                pipeline,
                store,
                references,
                &services.registry,
                registering,
                &common.customs,
            )
            .await
            {
                Ok(done) => {
                    reached(shared);
                    for warning in &done.warnings {
                        tracing::warn!(pipeline = %pipeline.name.value, "{}", warning.message);
                    }
                    for broken in &done.broken {
                        tracing::error!(
                            pipeline = %pipeline.name.value,
                            "{}: records of this schema become dead letters", broken.message
                        );
                    }
                    prepared.push((pipeline, done));
                    break;
                }
                Err(NotPrepared::Findings(found)) => {
                    findings.extend(found);
                    break;
                }
                Err(NotPrepared::Unavailable(failure)) => {
                    wait(shared, &failure.message, &mut attempt, &mut jitter).await;
                    // The registry's login may be the cause, and before everything runs nothing else reads it again.
                    if failure.reason == "registry"
                        && let Err(error) = read_registry_again(config, &services.registry)
                    {
                        tracing::warn!("the registry's login cannot be read again: {error}");
                    }
                }
            }
        }
    }
    if !findings.is_empty() {
        return Err(config_error(findings, sources));
    }
    let mut built = Vec::new();
    for (pipeline, prepared) in prepared {
        let (batches, count) = output::topics(config, pipeline, shared, &mut jitter).await?;
        let brokers = Brokers {
            batches: Arc::new(batches),
            count: Arc::new(AtomicUsize::new(count)),
            logins: services.logins.clone(),
        };
        built.push(build(config, pipeline, prepared, common, share, &brokers)?);
    }
    Ok(built)
}

/// The transactional id: stable for the same consumer at the same place, so that a process aborts the transaction that its
/// predecessor left open, and never used by two at once.
fn transactional_id(pipeline: &config::Pipeline, http: SocketAddr, number: usize) -> String {
    let instance = match &pipeline.source.instance_id {
        Some(id) => id.value.clone(),
        None => format!("{}:{}", host_name(), http.port()),
    };
    format!(
        "{}.{}.{instance}.{number}",
        pipeline.source.group.value, pipeline.name.value
    )
}

pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
    name.map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

fn tracer(common: &Common, pipeline: &config::Pipeline) -> Option<PipelineTracer> {
    let tracer = common.tracer.clone()?;
    Some(PipelineTracer::new(tracer, &pipeline.name, &pipeline.source.group))
}

/// The metrics of a program's steps.
pub(super) fn step_handles(program: &Program, metrics: &PipelineMetrics) -> Vec<StepHandles> {
    let handles = |step: &Step| StepHandles {
        step: metrics.step(&step.name),
        rows: matches!(step.action, Action::Write(_)).then(|| metrics.rows_written(&step.name)),
        found: matches!(step.action, Action::Reference(_)).then(|| metrics.reference_lookups(&step.name)),
    };
    program.steps.iter().map(handles).collect()
}

fn build(
    config: &Config,
    pipeline: &config::Pipeline,
    prepared: Prepared,
    common: &Common,
    share: usize,
    brokers: &Brokers,
) -> Result<Built, StartError> {
    let (metrics, http) = (&common.metrics, common.http);
    let name = pipeline.name.value.clone();
    let gates = Gates {
        store: common.store.clone(),
        mongo: common.mongo.clone(),
        registry: common.registry.clone(),
        sink: gate(metrics, &sink_gate(&name), sink_rules()),
    };
    let pipeline_metrics = PipelineMetrics::new(metrics, &name);
    let consumers = (*pipeline.consumers).max(1);

    let exactly_once = *pipeline.delivery == config::Delivery::ExactlyOnce;
    // Transactions belong to a producer, so each consumer needs a producer of its own.
    let producers = if exactly_once { consumers } else { 1 };
    let mut outputs = Vec::new();
    for number in 0..producers {
        let id = exactly_once.then(|| transactional_id(pipeline, http, number));
        let made = output::make(
            config,
            pipeline,
            &pipeline_metrics,
            metrics,
            brokers,
            share / 4 / producers,
            id.as_deref().map(|id| (number, id)),
        );
        outputs.push(made.map_err(|e| StartError::client(&name, &*e))?);
    }
    let shared = Arc::new(SharedOutput::of(&outputs));

    let mut sampled = Sampled::default();
    let steps = step_handles(&prepared.program, &pipeline_metrics);
    for step in &prepared.program.steps {
        if let Action::Lookup(lookup) = &step.action
            && let Some(cache) = &lookup.cache
        {
            let series = pipeline_metrics.cache(&step.name);
            sampled.caches.push((cache.clone(), series, CacheStats::default()));
        }
        if let Action::Write(write) = &step.action
            && let Some(stats) = write.statement.grouped()
        {
            let series = pipeline_metrics.grouped(&step.name);
            sampled.groups.push((stats.clone(), series, (0, 0)));
        }
    }
    let steps_count = if prepared.program.asks() { steps.len() } else { 0 };
    let has_cache = |step: &Step| matches!(&step.action, Action::Lookup(lookup) if lookup.cache.is_some());
    let steps_seen = prepared.program.steps.iter();
    let steps_seen = steps_seen.map(|step| (step.name.clone(), has_cache(step))).collect();
    let runtime = Runtime {
        program: prepared.program,
        store: None,
        sink: None,
        dead_letters: None,
        metrics: pipeline_metrics,
        steps,
        backoff: backoff(),
        gates: gates.clone(),
        limiter: Arc::new(Limiter::new(LOG_EVERY)),
        sentry: common.sentry.clone(),
        tracer: tracer(common, pipeline),
    };

    let mut states = Vec::new();
    let mut parts: Vec<MakeParts> = Vec::new();
    for number in 0..consumers {
        let state = Arc::new(LoopState::default());
        states.push(state.clone());
        let make_consumer = {
            let (kafka, pipeline, metrics) = (config.kafka.clone(), pipeline.clone(), metrics.clone());
            let (logins, count) = (brokers.logins.clone(), brokers.count.clone());
            move || -> Result<_, Box<dyn std::error::Error>> {
                let name = &pipeline.name.value;
                let known = count.load(Ordering::Relaxed);
                let client = kafka::consumer(&kafka, &pipeline, number, share / 4 / consumers, known)?;
                let statistics = KafkaMetrics::new(&metrics, name, &consumer_name(number));
                let context = SourceContext::new(name, statistics, logins.clone(), count.clone());
                let consumer = Arc::new(context::consumer(&client, context)?);
                let (kafka, properties) = (kafka.clone(), pipeline.source.properties.clone());
                let again = move || kafka::client(&kafka, &kafka.consumer_properties, &properties);
                logins.keep(&consumer, &client, again);
                Ok(consumer)
            }
        };
        // Created now, so that wrong properties end the start.
        let first = make_consumer().map_err(|e| StartError::client(&name, &*e))?;
        let mut first = Some(Early::new(first));
        let max_in_flight = (*pipeline.max_in_flight / consumers).max(1);
        let concurrency = pipeline
            .min_in_flight
            .map(|min| Concurrency::new(min / consumers, max_in_flight, steps_count));
        let budget = Budget::new(
            concurrency.as_ref().map_or(max_in_flight, Concurrency::limit),
            share / 2 / consumers,
        );
        let stop_above = pipeline.dead_letter.as_ref().and_then(|d| d.stop_above);
        let limits = stop_above.map(|above| Limits::new(above, LIMITS_WINDOW));
        let topics: Vec<String> = pipeline.source.topics.iter().map(|t| t.value.clone()).collect();
        let (tombstone, offset_reset) = (pipeline.source.on_tombstone, pipeline.source.offset_reset);
        let mut output = Some(outputs[if exactly_once { number } else { 0 }].clone());
        let make_output = {
            let (config, pipeline, metrics) = (config.clone(), pipeline.clone(), metrics.clone());
            let (pipeline_metrics, brokers) = (runtime.metrics.clone(), brokers.clone());
            let shared = (!exactly_once).then(|| shared.clone());
            let id = exactly_once.then(|| transactional_id(&pipeline, http, number));
            let make = move |id: Option<(usize, &str)>| {
                let queue = share / 4 / producers;
                output::make(&config, &pipeline, &pipeline_metrics, &metrics, &brokers, queue, id)
                    .map_err(|e| e.to_string())
            };
            move || match &shared {
                Some(shared) => shared.get(|| make(None)),
                // A producer registers its transactional id only once, so a recreated consumer gets a new producer with the same
                // id.
                None => make(id.as_deref().map(|id| (number, id))),
            }
        };
        let pipeline = pipeline.clone();
        let (schemas, runtime, bounds) = (prepared.schemas.clone(), runtime.clone(), common.bounds.clone());
        let (drain_timeout, stall_after) = (config.shutdown_timeout, pipeline.source.stall_timeout);
        parts.push(Box::new(move |LoopContext { stop, io, store, rest }| {
            let output = match output.take() {
                Some(output) => output,
                None => make_output()?,
            };
            output.show();
            Ok(Parts {
                consumer: match first.take() {
                    Some(early) => early.take(),
                    None => make_consumer().map_err(|e| e.to_string())?,
                },
                topics: topics.clone(),
                offset_reset,
                tombstone,
                order: pipeline.order,
                budget: budget.clone(),
                concurrency: concurrency.clone(),
                pool: max_in_flight.min(4096),
                limits: limits.clone(),
                schemas: schemas.clone(),
                transactions: output.transactions(&pipeline),
                runtime: Arc::new(Runtime {
                    store,
                    sink: output.sink,
                    dead_letters: output.dead_letters,
                    ..runtime.clone()
                }),
                io,
                state: state.clone(),
                rest,
                bounds: bounds.clone(),
                static_member: pipeline.source.instance_id.is_some(),
                classic: pipeline.source.group_protocol == GroupProtocol::Classic,
                drain_timeout,
                stall_after,
                stop,
            })
        }));
    }
    Ok(Built {
        known: Known {
            name,
            loops: states,
            steps: steps_seen,
        },
        share,
        output: shared,
        parts,
        sink: gates.sink,
        sampled,
    })
}

/// Exports the counts of caches and grouped writes to the metrics once a second, as long as the application runs.
pub(super) async fn sample(sampled: AllSampled, references: Shown, metrics: Arc<Metrics>) {
    let mut interval =
        tokio::time::interval_at((Instant::now() + Duration::from_secs(1)).into(), Duration::from_secs(1));
    loop {
        interval.tick().await;
        let mut bytes = 0;
        for of in sampled.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            for (cache, to, last) in &mut of.caches {
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
            for (stats, to, last) in &mut of.groups {
                to.show(stats, last);
            }
        }
        metrics.budget_used_bytes.of(["cache"]).set(bytes);
        let mut held = 0;
        for (reference, to) in &references {
            to.show(reference, Instant::now());
            held += reference.bytes() as i64;
        }
        metrics.budget_used_bytes.of(["reference"]).set(held);
        let parts = [
            ("in_flight", metrics.in_flight_bytes.sum()),
            ("fetch_queue", metrics.kafka_fetch_queue_bytes.sum()),
            ("producer_queue", metrics.kafka_producer_queue_bytes.sum()),
        ];
        for (part, used) in parts {
            metrics.budget_used_bytes.of([part]).set(used);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::app::services::Purpose;

    /// A registry without schemas. After it has refused a request, the token file contains the right token.
    async fn registry(listener: TcpListener, file: PathBuf) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            let (status, body) = if String::from_utf8(request).unwrap().contains("Bearer right") {
                ("404 Not Found", r#"{"error_code": 40401, "message": "unknown"}"#)
            } else {
                std::fs::write(&file, "right").unwrap();
                ("401 Unauthorized", "")
            };
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_login_of_the_registry_that_is_wrong_at_the_start_is_read_again() {
        let file = std::env::temp_dir().join(format!("messina-registry-token-{}", std::process::id()));
        std::fs::write(&file, "wrong").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let toml = format!(
            "[kafka]\nbrokers = \"127.0.0.1:1\"\n[registry]\nurl = \"http://{address}\"\nbearer_token = {{ file = '{}' }}\n\
             [pipelines.p]\nsource = {{ topics = \"t\", group = \"g\" }}\n",
            file.display()
        );
        let (config, sources) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
        let server = tokio::spawn(registry(listener, file.clone()));
        let services = Services::connect_once(&config, Purpose::Run).await.unwrap();
        let telemetry = Telemetry {
            metrics: Metrics::new().unwrap(),
            sentry: None,
            tracer: None,
        };
        let (shared, customs) = (Shared::default(), CustomSteps::default());
        let common = Common::new(services, telemetry, shared.clone(), address, customs, None);
        let wanted = [&config.pipelines["p"]];
        let made = pipelines(&config, &sources, &common, &wanted, 1 << 20);
        let made = tokio::time::timeout(Duration::from_secs(30), made).await.unwrap();
        assert_eq!(made.unwrap_or_else(|e| panic!("{e}")).len(), 1);
        assert!(shared.lock().unwrap().waiting_for.is_none());
        server.abort();
        std::fs::remove_file(&file).unwrap();
    }
}
