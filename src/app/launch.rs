//! Starts the loops of a pipeline, each on a thread, and observes how they end.
//!
//! Invariant: however a loop ends, including by a panic, its end is counted and reported once, and a successor finds its place free.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Instant;

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::build::{self, Built, LoopContext};
use super::output::SharedOutput;
use super::threads::LoopThread;
use super::{PipelineEnd, Running, StartError, services};
use crate::config::Config;
use crate::pipeline::failure::Failure;
use crate::sink;
use crate::source::consumer_loop::{self, End};
use crate::source::status::LoopState;
use crate::store::AnyStore;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::sentry::{Report, Sentry};

/// A running pipeline.
pub(super) struct RunningPipeline {
    pub(super) name: String,
    /// Its memory, in bytes.
    pub(super) share: usize,
    pub(super) output: Arc<SharedOutput>,
    pub(super) loops: Vec<RunningLoop>,
    /// The number of loops that have not ended.
    pub(super) alive: Arc<AtomicUsize>,
    pub(super) stop: watch::Sender<bool>,
}

/// A running loop of a pipeline.
pub(super) struct RunningLoop {
    pub(super) task: JoinHandle<End>,
    /// The thread that it runs on; gone when all loops there have ended.
    pub(super) thread: Weak<LoopThread>,
    pub(super) state: Arc<LoopState>,
}

impl RunningPipeline {
    pub(super) fn has_ended(&self) -> bool {
        self.alive.load(Ordering::Acquire) == 0
    }

    /// Abandons the loops that have not ended, and returns their states, each of which exists until its loop has ended after all. What they have not
    /// committed runs again. Their threads get no more loops, because whatever blocks the loop may block the thread; a loop that is only closing its
    /// consumer does so on another thread, and leaves its own usable.
    pub(super) fn give_up(&mut self) -> Vec<Weak<LoopState>> {
        let (ended, given_up): (Vec<_>, Vec<_>) = std::mem::take(&mut self.loops)
            .into_iter()
            .partition(|of_loop| of_loop.task.is_finished());
        self.loops = ended;
        let leave = |of_loop: RunningLoop| {
            if !of_loop.state.get().has_left_its_thread()
                && let Some(thread) = of_loop.thread.upgrade()
            {
                thread.shun();
            }
            Arc::downgrade(&of_loop.state)
        };
        given_up.into_iter().map(leave).collect()
    }

    /// Waits for its loops, which have been told to stop, and delivers what is queued.
    pub(super) async fn join(self, deadline: Instant) -> PipelineEnd {
        let mut ends = Vec::new();
        for of_loop in self.loops {
            // Panics of the loop are caught, so the task fails only if its runtime is gone.
            let gone = |_| End::Halted(Failure::fatal("internal", "the runtime of the loop has ended"));
            ends.push(of_loop.task.await.unwrap_or_else(gone));
        }
        let output = self.output;
        let flush = move || {
            let left = deadline.saturating_duration_since(Instant::now());
            output.producer().map_or(0, |producer| {
                let undelivered = sink::flush(&producer, left);
                producer.close_statistics();
                undelivered
            })
        };
        PipelineEnd {
            pipeline: self.name,
            ends,
            undelivered: tokio::task::spawn_blocking(flush).await.unwrap_or_default(),
        }
    }
}

/// The life of one consumer: opens the session of its thread, then runs the loop.
async fn run_loop(
    config: &Config,
    thread: &LoopThread,
    prepared_by: Option<Arc<AnyStore>>,
    credentials: watch::Receiver<()>,
    mut make: build::MakeParts,
    stop: watch::Receiver<bool>,
    state: &LoopState,
) -> End {
    let store = match services::store_of_thread(config, thread, prepared_by, credentials, stop.clone(), state).await {
        Ok(store) => store,
        Err(end) => return end,
    };
    let context = LoopContext {
        stop,
        io: thread.io.clone(),
        store,
        rest: Arc::new(thread.rest()),
    };
    consumer_loop::run_and_rebuild(|| make(context.clone())).await
}

impl Running {
    /// Starts the loops of a pipeline. A loop whose thread cannot be started is shown as halted.
    pub(super) fn launch(&mut self, built: Built) -> Result<(), StartError> {
        let Built {
            share,
            output,
            parts,
            known,
            sink,
            sampled,
        } = built;
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, states) = (known.name.clone(), known.loops.clone());
        shared.pipelines.push(known);
        // Keeps them sorted by name, however often they are replaced.
        shared.pipelines.sort_by(|one, other| one.name.cmp(&other.name));
        shared.breakers.push(sink);
        drop(shared);
        let mut all = self.sampled.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.clone(), sampled);
        drop(all);
        // The loops of a predecessor have ended, and so has its breaker.
        self.metrics.halted.of([&name]).set(0);
        self.metrics.breaker_state.of([&build::sink_gate(&name)]).set(0);
        if let Some(pipeline) = self.config.pipelines.get(&name) {
            let limit = *pipeline.max_in_flight as i64;
            self.metrics.max_in_flight.of([&name]).set(limit);
        }
        let (stop, stopped) = watch::channel(false);
        let alive = Arc::new(AtomicUsize::new(parts.len()));
        let mut loops = Vec::new();
        let mut launched = Ok(());
        for (number, (make, state)) in parts.into_iter().zip(states).enumerate() {
            let tell = Tell {
                alive: alive.clone(),
                ended: self.ended.0.clone(),
            };
            let (stop, kept, of_loop) = (stopped.clone(), stopped.clone(), state.clone());
            let (config, store, metrics, sentry) = (
                self.config.clone(),
                self.common.services.store.clone(),
                self.metrics.clone(),
                self.common.sentry.clone(),
            );
            let credentials = self.common.services.credentials.subscribe();
            let pipeline = name.clone();
            let thread = match self.threads.next(&self.metrics) {
                Ok(thread) => thread,
                // The other loops run, and can be stopped.
                Err(error) => {
                    let why = format!("cannot start a thread: {error}");
                    let (sentry, failure) = (self.common.sentry.as_deref(), Failure::fatal("thread", why.clone()));
                    tell_halted(&self.metrics, sentry, &name, &state, &failure);
                    launched = Err(StartError::Process(why));
                    continue;
                }
            };
            tracing::debug!(pipeline, consumer = number, thread = thread.name(), "a consumer starts");
            state.runs_on(thread.name());
            let (io, runs_on) = (thread.io.clone(), Arc::downgrade(&thread));
            let task = io.spawn(async move {
                let _tell = tell;
                let end = caught(run_loop(&config, &thread, store, credentials, make, stop, &of_loop)).await;
                // Before the end is reported, so that a successor finds the thread's place free.
                drop(thread);
                // An abandoned loop has a successor under the same name: do not report it as halted.
                if let End::Halted(failure) = &end
                    && kept.has_changed().is_ok()
                {
                    tell_halted(&metrics, sentry.as_deref(), &pipeline, &of_loop, failure);
                }
                end
            });
            loops.push(RunningLoop {
                task,
                thread: runs_on,
                state,
            });
        }
        self.pipelines.push(RunningPipeline {
            name,
            share,
            output,
            loops,
            alive,
            stop,
        });
        launched
    }
}

/// How a loop ended. A panic is reported like any other end.
async fn caught(run: impl Future<Output = End>) -> End {
    // Unwind safe, because everything that it worked on is dropped with it.
    let ended = AssertUnwindSafe(run).catch_unwind().await;
    ended.unwrap_or_else(|_| End::Halted(Failure::fatal("panic", "it panicked")))
}

/// Reports that a loop has halted.
fn tell_halted(metrics: &Metrics, sentry: Option<&Sentry>, pipeline: &str, state: &LoopState, failure: &Failure) {
    metrics.halted.of([pipeline]).inc();
    let stage = failure.stage();
    let class = failure.class.as_str();
    if let Some(sentry) = sentry {
        // If a record was the cause, it was reported with its topic already; this report is one more of its kind.
        sentry.report(Report {
            pipeline,
            step: stage,
            class,
            level: ::sentry::Level::Fatal,
            topic: None,
            error: &failure.message,
        });
    }
    if state.halted(&failure.to_string()) {
        // The loop has not reported it: it halted before its first round, between two consumers, or by a panic.
        metrics.failures_total.of([pipeline, stage, class, "fatal"]).inc();
        tracing::error!(pipeline, reason = failure.reason, "pipeline halted: {failure}");
    }
}

/// Reports, when dropped, that a loop has ended.
struct Tell {
    alive: Arc<AtomicUsize>,
    ended: mpsc::UnboundedSender<()>,
}

impl Drop for Tell {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Release);
        // The receiver may be gone.
        let _ = self.ended.send(());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::app::threads::Threads;
    use crate::source::status::LoopStatus;
    use crate::telemetry::breadcrumbs::Breadcrumbs;
    use crate::telemetry::sentry::SentryOptions;

    #[tokio::test]
    async fn a_panic_halts_a_loop_and_is_counted_like_any_halt() {
        let metrics = Metrics::new().unwrap();
        let state = LoopState::default();
        let End::Halted(failure) = caught(async { panic!("a bug") }).await else {
            panic!("it did not halt");
        };
        tell_halted(&metrics, None, "p", &state, &failure);
        assert_eq!(state.get().halted.as_deref(), Some("it panicked"));
        assert_eq!(metrics.halted.of(["p"]).get(), 1);
        let counted = metrics.failures_total.of(["p", "panic", "fatal", "fatal"]).get();
        assert_eq!(counted, 1);
        assert!(matches!(caught(async { End::Drained }).await, End::Drained));
    }

    #[tokio::test]
    async fn a_thread_beside_which_a_consumer_is_closed_takes_other_loops() {
        let says = |state| {
            let told = LoopState::default();
            told.set(LoopStatus {
                state,
                ..LoopStatus::default()
            });
            told
        };
        let fallen = says("running");
        fallen.fallen();
        for (state, takes) in [
            (says("stopping"), false),
            (says("halted"), false),
            (says("rebuilding"), true),
            (says("stopped"), true),
            (fallen, true),
        ] {
            let told = state.get();
            let (metrics, mut threads) = (Metrics::new().unwrap(), Threads::new(Some(1)));
            let thread = threads.next(&metrics).unwrap();
            let mut unclosed = RunningPipeline {
                name: "p".to_owned(),
                share: 0,
                output: Arc::new(SharedOutput::of(&[])),
                loops: vec![RunningLoop {
                    task: tokio::spawn(std::future::pending()),
                    thread: Arc::downgrade(&thread),
                    state: Arc::new(state),
                }],
                alive: Arc::new(AtomicUsize::new(1)),
                stop: watch::channel(false).0,
            };
            assert_eq!(unclosed.give_up().len(), 1);
            let next = threads.next(&metrics).unwrap();
            assert_eq!(Arc::ptr_eq(&thread, &next), takes, "{told:?}");
        }
    }

    #[test]
    fn a_halt_without_a_record_is_reported_once() {
        let metrics = Metrics::new().unwrap();
        let options = SentryOptions {
            // Nothing listens there.
            dsn: "http://public@127.0.0.1:9/1".to_owned(),
            environment: None,
            sample_rate: 1.0,
            every: Duration::from_secs(60),
            flush: Duration::from_secs(5),
        };
        let sentry = Sentry::init(options, Breadcrumbs::default(), &metrics).unwrap();
        let fenced = Failure::fatal("transaction", "the producer was fenced");
        for state in [LoopState::default(), LoopState::default()] {
            tell_halted(&metrics, Some(&sentry), "p", &state, &fenced);
        }
        drop(sentry);
        let events = |outcome: &str| metrics.sentry_events_total.of([outcome]).get();
        assert_eq!((events("failed"), events("suppressed")), (1, 1));
    }
}
