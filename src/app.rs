//! Builds the application and runs it: connect, type-check, consume. Stops in the reverse order.
//!
//! HTTP starts first and stops last, so that probes are accurate while a service is awaited and while the last records drain. If a service does not
//! answer at the start, the application waits for it, just as it waits for one that goes away later.

mod build;
mod check;
pub mod dry_run;
mod early;
mod launch;
pub(crate) mod memory;
mod output;
mod probe;
mod references;
mod reload;
mod renewal;
mod services;
mod stop;
mod threads;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::breaker::gate::Gate;
use crate::config::{self, Config, Diagnostics, Sources};
use crate::custom::CustomSteps;
use crate::kafka::login::Logins;
use crate::pipeline::finding::Finding;
use crate::pipeline::prepare::NotPrepared;
use crate::reference::References;
use crate::registry::Registry;
use crate::source::bounds::Bounds;
use crate::source::consumer_loop::End;
use crate::source::status::LoopState;
use crate::store::AnyStore;
use crate::telemetry::breadcrumbs::Breadcrumbs;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::sentry::{Sentry, SentryOptions};
use crate::telemetry::traces::{Tracer, TracerOptions};

use build::{AllSampled, Common};
pub use check::{check_customs, check_online, findings_to_diagnostics};
use launch::RunningPipeline;
use probe::AppProbe;
pub use references::reference_shape;
pub use reload::Taken;
use services::Services;
use threads::Threads;

/// How long closing consumers and HTTP may take beyond `shutdown_timeout`.
pub(crate) const GRACE: Duration = Duration::from_secs(15);

/// The name in metrics of the runtime that belongs to no loop.
const SHARED: &str = "shared";

/// Why the application does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong, as far as live services can tell.
    #[error("{}", .0.human(false))]
    Config(Diagnostics),
    /// Something that may become available: the answer of a service, or a secret.
    #[error("{0}")]
    Away(String),
    /// The process itself could not obtain something: a port, a thread, a client whose properties librdkafka accepts.
    #[error("{0}")]
    Process(String),
}

impl StartError {
    /// Why a client of a pipeline cannot be created.
    fn client(pipeline: &str, error: &(dyn std::error::Error + 'static)) -> StartError {
        let message = format!("pipeline {pipeline}: {error}");
        if error.is::<config::SecretError>() {
            StartError::Away(message)
        } else {
            StartError::Process(message)
        }
    }
}

/// What is created before the runtime and outlives it.
#[derive(Clone)]
pub struct Telemetry {
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Where failures are reported, if Sentry is configured.
    pub sentry: Option<Arc<Sentry>>,
    /// Where spans of records go, if tracing is configured.
    pub tracer: Option<Arc<Tracer>>,
}

impl Telemetry {
    /// Metrics, and Sentry and traces if they are configured. Call it once, on the main thread, before a runtime starts. The log keeps its last lines in
    /// `breadcrumbs`.
    pub fn new(config: &Config, breadcrumbs: Breadcrumbs) -> Result<Telemetry, StartError> {
        let metrics = Metrics::new().map_err(|e| StartError::Process(format!("metrics: {e}")))?;
        let sentry = config.sentry.as_ref().map(|from| sentry(from, breadcrumbs, &metrics));
        let tracer = config.tracing.as_ref().map(|from| tracer(from, &metrics));
        Ok(Telemetry {
            sentry: sentry.transpose()?,
            tracer: tracer.transpose()?,
            metrics,
        })
    }
}

fn sentry(from: &config::Sentry, breadcrumbs: Breadcrumbs, metrics: &Metrics) -> Result<Arc<Sentry>, StartError> {
    let options = SentryOptions {
        dsn: from
            .dsn
            .reveal()
            .map_err(|e| StartError::Process(format!("[sentry] dsn: {e}")))?,
        environment: from.environment.clone(),
        sample_rate: from.sample_rate as f32,
        every: Duration::from_secs(60),
        flush: Duration::from_secs(5),
    };
    let sentry =
        Sentry::init(options, breadcrumbs, metrics).map_err(|e| StartError::Process(format!("[sentry]: {e}")))?;
    Ok(Arc::new(sentry))
}

fn tracer(from: &config::Tracing, metrics: &Metrics) -> Result<Arc<Tracer>, StartError> {
    let in_words = |e: &dyn std::fmt::Display| StartError::Process(format!("[tracing]: {e}"));
    let headers = from
        .headers
        .iter()
        .map(|(name, secret)| Ok((name.clone(), secret.reveal()?)));
    let headers: Result<_, config::SecretError> = headers.collect();
    let options = TracerOptions {
        collector: from.otlp.value.clone(),
        headers: headers.map_err(|e| in_words(&e))?,
        sample_ratio: from.sample_ratio,
        max_spans_per_second: u32::try_from(from.max_spans_per_second).unwrap_or(u32::MAX),
        instance: format!("{}:{}", build::host_name(), std::process::id()),
    };
    Ok(Arc::new(Tracer::new(options, metrics).map_err(|e| in_words(&e))?))
}

/// How a pipeline ended.
#[derive(Debug)]
pub struct PipelineEnd {
    /// Its name.
    pub pipeline: String,
    /// How each of its loops ended.
    pub ends: Vec<End>,
    /// Records still in the producer's queue when it was abandoned.
    pub undelivered: i32,
}

/// The result of a stop.
#[derive(Debug)]
pub struct StopSummary {
    /// Each pipeline.
    pub pipelines: Vec<PipelineEnd>,
}

impl StopSummary {
    /// Whether everything that was in flight finished.
    pub fn is_clean(&self) -> bool {
        self.pipelines
            .iter()
            .all(|p| p.ends.iter().all(|e| matches!(e, End::Drained)) && p.undelivered == 0)
    }
}

/// What probes and `/status` know of one pipeline.
pub(crate) struct Known {
    pub(crate) name: String,
    /// The reported states of its loops.
    pub(crate) loops: Vec<Arc<LoopState>>,
    /// Its steps as declared, and whether each has a cache.
    pub(crate) steps: Vec<(Arc<str>, bool)>,
}

/// What probes and `/status` know of all pipelines.
#[derive(Default)]
pub(crate) struct Registered {
    pub(crate) pipelines: Vec<Known>,
    /// Loops that a reload abandoned, and their pipelines. Another loop runs in their place under the same name. Each stays here until it has
    /// ended after all.
    pub(crate) given_up: Vec<(String, Weak<LoopState>)>,
    pub(crate) breakers: Vec<Arc<Gate>>,
    pub(crate) prepared: bool,
    pub(crate) waiting_for: Option<Waiting>,
}

/// A service that the application waits for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Waiting {
    /// Its last error.
    pub(crate) what: String,
    pub(crate) since: Instant,
}

pub(crate) type Shared = Arc<Mutex<Registered>>;

/// What can be read again while the application runs.
#[derive(Clone)]
pub struct Reload {
    registry: Arc<Registry>,
    logins: Logins,
    credentials: watch::Sender<()>,
    config: Arc<Config>,
}

impl Reload {
    /// Reads the registry's login and certificates again, for all requests from now on, and the brokers' login, for all connections from now
    /// on; if that fails, the old ones stay in use. Database sessions are told to check their certificates and password, and log the result.
    ///
    /// # Errors
    /// What cannot be used, in words.
    pub fn read_again(&self) -> Result<(), String> {
        let registry = services::read_registry_again(&self.config, &self.registry);
        let database = services::scylla_options(&self.config).map_or(Ok(()), |options| {
            options.credentials().map_err(|e| format!("[scylla]: {e}"))?;
            self.credentials.send_replace(());
            Ok(())
        });
        let problems: Vec<String> = [registry, self.logins.read_again(), database]
            .into_iter()
            .filter_map(Result::err)
            .collect();
        match problems.as_slice() {
            [] => Ok(()),
            problems => Err(problems.join("; ")),
        }
    }
}

/// The running application.
pub struct Running {
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The address that HTTP listens on.
    pub http: SocketAddr,
    probe: Arc<AppProbe>,
    shared: Shared,
    common: Common,
    threads: Threads,
    pipelines: Vec<RunningPipeline>,
    sampled: AllSampled,
    /// One message for each loop that has ended.
    ended: (mpsc::UnboundedSender<()>, mpsc::UnboundedReceiver<()>),
    http_stop: Option<oneshot::Sender<()>>,
    http_task: tokio::task::JoinHandle<()>,
    reload: Reload,
    /// The running configuration.
    config: Arc<Config>,
    sources: Sources,
    /// Keeps the references, the registry's certificates and login, and the metrics fresh; ends when dropped.
    _tasks: JoinSet<()>,
}

/// Connects, type-checks and starts everything. Waits for services that do not answer; `config` must have been checked
/// offline.
pub async fn start(
    config: Config,
    sources: Sources,
    telemetry: Telemetry,
    customs: &CustomSteps,
) -> Result<Running, StartError> {
    begin(config, sources, telemetry, customs, None, None, Shared::default()).await
}

/// As [`start`], but takes only the records within `bounds`. It waits for a service no longer than a reload does, because somebody
/// waits for it to finish.
pub async fn start_within(
    config: Config,
    sources: Sources,
    telemetry: Telemetry,
    customs: &CustomSteps,
    bounds: Arc<Bounds>,
) -> Result<Running, StartError> {
    let shared = Shared::default();
    tokio::select! {
        started = begin(config, sources, telemetry, customs, Some(bounds), None, shared.clone()) => started,
        what = services::waited_for(&shared, reload::REACH) => Err(reload::gave_up(&what, reload::REACH)),
    }
}

/// As [`start`], with references that the caller fills.
pub async fn start_with(
    config: Config,
    sources: Sources,
    telemetry: Telemetry,
    customs: &CustomSteps,
    references: Arc<References>,
) -> Result<Running, StartError> {
    begin(
        config,
        sources,
        telemetry,
        customs,
        None,
        Some(references),
        Shared::default(),
    )
    .await
}

async fn begin(
    config: Config,
    sources: Sources,
    telemetry: Telemetry,
    customs: &CustomSteps,
    bounds: Option<Arc<Bounds>>,
    references: Option<Arc<References>>,
    shared: Shared,
) -> Result<Running, StartError> {
    let metrics = telemetry.metrics.clone();
    metrics.watch_runtime(SHARED, tokio::runtime::Handle::current());
    metrics.config_generation.of([]).set(1);
    let certificates = crate::certificates::files(&config).await;
    let certificates: Vec<_> = certificates.into_iter().map(|(file, _)| file).collect();
    metrics.watch_certificates(certificates.clone());
    metrics.config_last_reload_successful.of([]).set(1);
    for outcome in reload::OUTCOMES {
        metrics.config_reloads_total.of([outcome]);
    }
    let probe = Arc::new(AppProbe::new(metrics.clone(), shared.clone(), config.http.tap));

    let (http_stop, http_stopped) = oneshot::channel::<()>();
    let listener = crate::http::Listener::bind(config.http.listen)
        .await
        .map_err(|e| StartError::Process(format!("[http] listen = \"{}\": {e}", config.http.listen)))?;
    let http = listener.address();
    let http_task = tokio::spawn(crate::http::serve(listener, probe.clone(), async move {
        // Dropping the sender stops the server too.
        let _ = http_stopped.await;
    }));

    // Read before connecting, so that files that are renewed while services are awaited count as changed.
    let renewed = renewal::Credentials::of(&config);
    let mut services = Services::connect(&config, &sources, &shared).await?;
    if let Some(references) = references {
        services.references = references.into();
    }
    metrics.watch_registry(services.registry.stats());
    if let Some(store) = &services.store {
        // A look-up that asks a second replica early counts its repetitions in the session that prepared it.
        services::watch_driver(&metrics, SHARED, store);
    }
    let common = Common::new(services, telemetry, shared.clone(), http, customs.clone(), bounds);
    let wanted: Vec<_> = config.pipelines.values().collect();
    let share = memory::share(&config, 0, wanted.len());
    metrics.budget_limit_bytes.of([]).set(memory::limit(&config) as i64);
    let built = build::pipelines(&config, &sources, &common, &wanted, share).await?;
    // While services were awaited, the certificates were read again: show the ones in use now.
    metrics.watch_certificates(Vec::new());
    metrics.watch_certificates(certificates);

    let mut tasks = JoinSet::new();
    let references = &common.services.references;
    let shown = references::load(references, &sources, &metrics, &shared, &mut tasks).await?;

    let sampled = AllSampled::default();
    tasks.spawn(build::sample(sampled.clone(), shown, metrics.clone()));
    let config = Arc::new(config);
    if let Some(renewed) = renewed {
        tasks.spawn(renewed.follow(renewal::EVERY, config.clone(), common.services.registry.clone()));
    }
    let mut running = Running {
        metrics,
        http,
        probe,
        shared,
        threads: Threads::new(config.limits.threads),
        pipelines: Vec::new(),
        sampled,
        ended: mpsc::unbounded_channel(),
        http_stop: Some(http_stop),
        http_task,
        reload: Reload {
            registry: common.services.registry.clone(),
            logins: common.services.logins.clone(),
            credentials: common.services.credentials.clone(),
            config: config.clone(),
        },
        common,
        config,
        sources,
        _tasks: tasks,
    };
    for built in built {
        running.launch(built)?;
    }
    let mut shared = running.shared.lock().unwrap_or_else(PoisonError::into_inner);
    shared.prepared = true;
    shared.waiting_for = None;
    drop(shared);
    Ok(running)
}

impl Running {
    /// What SIGHUP reads again.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// The content of `/status`.
    pub fn status(&self) -> serde_json::Value {
        crate::http::Probe::status(&*self.probe)
    }

    /// The states of a pipeline's loops; empty for an unknown pipeline.
    pub fn loops(&self, pipeline: &str) -> Vec<Arc<LoopState>> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared
            .pipelines
            .iter()
            .find(|known| known.name == pipeline)
            .map(|known| known.loops.clone())
            .unwrap_or_default()
    }

    /// Waits until a pipeline has this many partitions.
    ///
    /// # Errors
    /// In words: it halted, or did not get them in time.
    pub async fn joined(&self, pipeline: &str, partitions: usize, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        loop {
            let states: Vec<_> = self.loops(pipeline).iter().map(|state| state.get()).collect();
            if let Some(why) = states.iter().find_map(|state| state.halted.clone()) {
                return Err(format!("{pipeline}: {why}"));
            }
            let running = states.iter().flat_map(|state| &state.partitions);
            if running.filter(|p| p.phase == "running").count() == partitions {
                return Ok(());
            }
            if Instant::now() > deadline {
                let seconds = limit.as_secs();
                return Err(format!("{pipeline} has not got its partitions in {seconds} s"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns when every loop has ended by itself, so that nothing is left to run.
    pub async fn all_halted(&mut self) {
        while !self.pipelines.iter().all(RunningPipeline::has_ended) {
            // `self` holds a sender, so the channel does not close.
            self.ended.1.recv().await;
        }
    }

    /// Drains every pipeline, delivers what is queued, commits, leaves the groups; HTTP stops last. It does not return while a custom step blocks its
    /// thread. A caller that cannot accept this must bound the call; what is not committed then runs again.
    pub async fn stop(mut self) -> StopSummary {
        let began = Instant::now();
        let deadline = began + self.config.shutdown_timeout;
        for pipeline in &self.pipelines {
            // If there is no receiver, every loop has ended already.
            let _ = pipeline.stop.send(true);
        }
        // The report ends when this is dropped.
        let mut reporter = JoinSet::new();
        reporter.spawn(stop::name_what_runs(
            self.shared.clone(),
            self.metrics.clone(),
            |_: &str| true,
            tokio::time::sleep,
        ));
        let mut pipelines = Vec::new();
        for pipeline in std::mem::take(&mut self.pipelines) {
            pipelines.push(pipeline.join(deadline).await);
        }
        drop(reporter);
        // No loop runs the custom steps any more; the last owner of each drops it.
        drop(std::mem::take(&mut self.common.customs).let_go());
        drop(self.http_stop.take());
        // The server itself bounds how long open requests may take.
        let _ = (&mut self.http_task).await;
        tracing::info!(seconds = began.elapsed().as_secs_f64(), "stopped");
        StopSummary { pipelines }
    }
}

/// A client of the configured schema registry; it sends no request yet.
///
/// # Errors
/// What cannot be used, in words.
pub fn registry(config: &Config) -> Result<Registry, String> {
    services::registry(config).map_err(in_words)
}

/// The configured database, opened as a check opens it, so that nothing in it changes; none if none is configured.
///
/// # Errors
/// What cannot be used or does not answer, in words.
pub async fn database(config: &Config) -> Result<Option<AnyStore>, String> {
    services::store(config, services::Purpose::Check)
        .await
        .map_err(in_words)
}

fn in_words(error: NotPrepared) -> String {
    match error {
        NotPrepared::Findings(findings) => findings.into_iter().map(|f| f.message).collect::<Vec<_>>().join("; "),
        NotPrepared::Unavailable(failure) => failure.message,
    }
}

/// Converts findings to the diagnostics that `check` prints.
pub(crate) fn config_error(findings: Vec<Finding>, sources: &Sources) -> StartError {
    StartError::Config(findings_to_diagnostics(findings, sources))
}
