//! Builds every stage and runs them: connect, type-check, consume; stop in the reverse order.
//!
//! HTTP comes first and goes last, so that probes tell the truth while a service is awaited and while the last records
//! drain. A service that does not answer at the start is waited for, like one that goes away later.

mod build;
mod check;
mod probe;
mod services;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{Config, Diagnostics, Sources};
use crate::pipeline::failure::Failure;
use crate::pipeline::finding::Finding;
use crate::sink;
use crate::source::consumer_loop::{self, End};
use crate::source::status::LoopState;
use crate::store::AnyStore;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::sentry::{Sentry, SentryOptions};

use build::{Built, LoopContext};
pub use check::{check_online, findings_to_diagnostics};
use probe::AppProbe;
use services::Services;

/// Why the application does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong, as far as live services tell.
    #[error("{}", .0.human(false))]
    Config(Diagnostics),
    /// Something of the process itself could not be had: a port, a thread, a file.
    #[error("{0}")]
    Process(String),
}

/// What is made before the runtime, and outlives it.
#[derive(Clone)]
pub struct Telemetry {
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Where failures are reported, if anywhere.
    pub sentry: Option<Arc<Sentry>>,
}

impl Telemetry {
    /// Metrics, and Sentry where the configuration has it. To be called on the main thread, once, before a runtime starts.
    pub fn new(config: &Config) -> Result<Telemetry, StartError> {
        let metrics = Metrics::new().map_err(|e| StartError::Process(format!("metrics: {e}")))?;
        let Some(from) = &config.sentry else {
            return Ok(Telemetry { metrics, sentry: None });
        };
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
        let sentry = Sentry::init(options, &metrics).map_err(|e| StartError::Process(format!("[sentry]: {e}")))?;
        Ok(Telemetry {
            metrics,
            sentry: Some(Arc::new(sentry)),
        })
    }
}

/// What a pipeline came to.
#[derive(Debug)]
pub struct PipelineEnd {
    /// Its name.
    pub pipeline: String,
    /// How each of its loops ended.
    pub ends: Vec<End>,
    /// Records still in the producer's queue when it was given up.
    pub undelivered: i32,
}

/// What a stop came to.
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

/// One pipeline that runs.
struct RunningPipeline {
    name: String,
    producer: Option<Arc<sink::Producer>>,
    loops: Vec<std::thread::JoinHandle<End>>,
}

/// What is known of the pipelines by those who look from outside.
#[derive(Default)]
pub(crate) struct Registered {
    pub(crate) pipelines: Vec<(String, Vec<Arc<LoopState>>)>,
    pub(crate) prepared: bool,
    pub(crate) waiting_for: Option<String>,
}

pub(crate) type Shared = Arc<Mutex<Registered>>;

/// The application while it runs.
pub struct Running {
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Where HTTP listens.
    pub http: SocketAddr,
    probe: Arc<AppProbe>,
    shared: Shared,
    pipelines: Vec<RunningPipeline>,
    stop: watch::Sender<bool>,
    ended: mpsc::UnboundedReceiver<String>,
    http_stop: Option<oneshot::Sender<()>>,
    http_task: tokio::task::JoinHandle<()>,
    shutdown_timeout: Duration,
    _sampler: tokio::task::JoinHandle<()>,
}

/// Connects, type-checks and starts everything. Waits for services that do not answer; `config` was checked offline.
pub async fn start(config: Config, sources: Sources, telemetry: Telemetry) -> Result<Running, StartError> {
    let Telemetry { metrics, sentry } = telemetry;
    metrics.watch_runtime("shared", tokio::runtime::Handle::current());
    metrics.config_generation.of([]).set(1);
    let shared = Shared::default();
    let probe = Arc::new(AppProbe::new(metrics.clone(), shared.clone()));

    let (http_stop, http_stopped) = oneshot::channel::<()>();
    let server = crate::http::bind(config.http.listen)
        .await
        .map_err(|e| StartError::Process(format!("[http] listen = \"{}\": {e}", config.http.listen)))?;
    let http = server.address();
    let http_task = tokio::spawn(server.serve(probe.clone(), async move {
        // Dropping the sender stops too.
        let _ = http_stopped.await;
    }));

    let services = Services::connect(&config, &sources, &shared).await?;
    metrics.watch_registry(services.registry.stats());
    let built = build::pipelines(&config, &sources, &services, &metrics, &shared, &sentry).await?;

    let (stop, stopped) = watch::channel(false);
    let (ended_sender, ended) = mpsc::unbounded_channel();
    let mut caches = Vec::new();
    let mut pipelines = Vec::new();
    for Built {
        name,
        producer,
        parts,
        cache_metrics,
    } in built
    {
        let mut loops = Vec::new();
        caches.extend(cache_metrics);
        for (number, make) in parts.into_iter().enumerate() {
            let stop = stopped.clone();
            let (ended, pipeline) = (ended_sender.clone(), name.clone());
            let (config, store, metrics) = (config.clone(), services.store.clone(), metrics.clone());
            let thread_name = format!("loop-{name}-{number}");
            let thread = std::thread::Builder::new().name(thread_name.clone()).spawn(move || {
                let end = run_loop(&config, store, make, stop, &metrics, &thread_name);
                // Whoever waits for it may have gone.
                let _ = ended.send(pipeline);
                end
            });
            loops.push(thread.map_err(|e| StartError::Process(format!("cannot start a thread: {e}")))?);
        }
        pipelines.push(RunningPipeline { name, producer, loops });
    }
    shared.lock().unwrap_or_else(PoisonError::into_inner).prepared = true;
    let sampler = tokio::spawn(build::sample(caches, metrics.clone()));
    Ok(Running {
        metrics,
        http,
        probe,
        shared,
        pipelines,
        stop,
        ended,
        http_stop: Some(http_stop),
        http_task,
        shutdown_timeout: config.shutdown_timeout,
        _sampler: sampler,
    })
}

/// The life of one consumer's thread: a runtime and a session of its own, then the loop.
fn run_loop(
    config: &Config,
    store: Option<Arc<AnyStore>>,
    make: build::MakeParts,
    stop: watch::Receiver<bool>,
    metrics: &Metrics,
    thread_name: &str,
) -> End {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return End::Halted(Failure::fatal("runtime", error.to_string())),
    };
    let end = runtime.block_on(async {
        let store = match services::store_of_loop(config, store, stop.clone()).await {
            Ok(store) => store,
            Err(end) => return end,
        };
        let io = tokio::runtime::Handle::current();
        metrics.watch_runtime(thread_name, io.clone());
        consumer_loop::run(make(LoopContext { stop, io, store })).await
    });
    // Calls to brokers may still wait for an answer that nobody needs any more.
    runtime.shutdown_background();
    end
}

impl Running {
    /// What `/status` answers.
    pub fn status(&self) -> serde_json::Value {
        crate::http::Probe::status(&*self.probe)
    }

    /// The states of a pipeline's loops; empty for an unknown pipeline.
    pub fn loops(&self, pipeline: &str) -> Vec<Arc<LoopState>> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared
            .pipelines
            .iter()
            .find(|(name, _)| name == pipeline)
            .map(|(_, loops)| loops.clone())
            .unwrap_or_default()
    }

    /// Returns when every loop has ended by itself: nothing is left to run.
    pub async fn all_halted(&mut self) {
        let mut left: usize = self.pipelines.iter().map(|p| p.loops.len()).sum();
        while left > 0 && self.ended.recv().await.is_some() {
            left -= 1;
        }
    }

    /// Drains every pipeline, delivers what is queued, commits, leaves the groups; HTTP goes last.
    pub async fn stop(mut self) -> StopSummary {
        let began = Instant::now();
        let deadline = began + self.shutdown_timeout;
        // No receiver: every loop has ended already.
        let _ = self.stop.send(true);
        let shared = self.shared.clone();
        let reporter = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                for (pipeline, loops) in &shared.lock().unwrap_or_else(PoisonError::into_inner).pipelines {
                    let left: usize = loops.iter().map(|l| l.get().in_flight_records).sum();
                    if left > 0 {
                        tracing::info!(pipeline, in_flight = left, "still draining");
                    }
                }
            }
        });
        let pipelines = std::mem::take(&mut self.pipelines);
        let joined = tokio::task::spawn_blocking(move || {
            pipelines
                .into_iter()
                .map(|pipeline| {
                    let ends = pipeline
                        .loops
                        .into_iter()
                        .map(|thread| {
                            thread
                                .join()
                                .unwrap_or_else(|_| End::Halted(Failure::fatal("internal", "the loop panicked")))
                        })
                        .collect();
                    let left = deadline.saturating_duration_since(Instant::now());
                    let undelivered = pipeline.producer.map_or(0, |producer| sink::flush(&producer, left));
                    PipelineEnd {
                        pipeline: pipeline.name,
                        ends,
                        undelivered,
                    }
                })
                .collect()
        })
        .await;
        reporter.abort();
        drop(self.http_stop.take());
        // The server has its own bound on how long open requests may take.
        let _ = (&mut self.http_task).await;
        tracing::info!(seconds = began.elapsed().as_secs_f64(), "stopped");
        StopSummary {
            pipelines: joined.unwrap_or_default(),
        }
    }
}

/// Findings as the diagnostics that `check` prints.
pub(crate) fn config_error(findings: Vec<Finding>, sources: &Sources) -> StartError {
    StartError::Config(findings_to_diagnostics(findings, sources))
}
