//! A breaker that tasks on several threads share. Requests that may not go wait here, and are woken when it closes.
//!
//! While nothing fails, passing and reporting are one relaxed load each: no lock, no shared write. A failure takes the lock.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntGauge};
use tokio::sync::Notify;

use super::{Breaker, Rules, State, Verdict};
use crate::retry::Jitter;
use crate::telemetry::metrics::Metrics;

/// Waiting requests continue spread over this time, not all in the same instant.
const SPREAD: Duration = Duration::from_millis(200);

/// An opening is logged at most this often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Failure reason of a request that was not made because a breaker was open.
pub const NOT_ASKED: &str = "breaker_open";

const CALM: u8 = 0;
const LISTENING: u8 = 1;
const OPEN: u8 = 2;

/// Metrics of one breaker.
#[derive(Debug, Clone)]
pub struct BreakerMetrics {
    /// 0 closed, 1 half-open, 2 open.
    pub state: IntGauge,
    /// Times it opened.
    pub opens: IntCounter,
}

impl BreakerMetrics {
    /// The series of one dependency, exported from now on.
    pub fn new(metrics: &Metrics, dependency: &str) -> BreakerMetrics {
        BreakerMetrics {
            state: metrics.breaker_state.of([dependency]),
            opens: metrics.breaker_opens_total.of([dependency]),
        }
    }
}

/// The breakers of what a pipeline depends on.
#[derive(Debug, Clone)]
pub struct Gates {
    /// The database.
    pub store: Arc<Gate>,
    /// MongoDB, for references that ask for each document.
    pub mongo: Arc<Gate>,
    /// The schema registry.
    pub registry: Arc<Gate>,
    /// The brokers, as the pipeline's producer sees them.
    pub sink: Arc<Gate>,
}

impl Default for Gates {
    /// Closed breakers without metrics, with the default rules.
    fn default() -> Gates {
        let gate = |name| Arc::new(Gate::new(name, Rules::default(), None));
        Gates {
            store: gate("store"),
            mongo: gate("mongo"),
            registry: gate("registry"),
            sink: gate("sink"),
        }
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct Gate {
    name: String,
    mode: AtomicU8,
    inner: Mutex<Inner>,
    closed: Notify,
    metrics: Option<BreakerMetrics>,
}

#[derive(Debug)]
struct Inner {
    breaker: Breaker,
    jitter: Jitter,
    opened: Option<Instant>,
    /// When an opening was last logged. A flapping breaker does not log each opening.
    told: Option<Instant>,
}

/// The right to make one request, through which its result is reported. A probe that is dropped without a report is given
/// back.
#[must_use = "a request that may be made must be reported"]
#[derive(Debug)]
pub struct Pass<'g> {
    gate: &'g Gate,
    probe: bool,
}

impl Gate {
    /// A closed breaker for the dependency of this name.
    pub fn new(name: impl Into<String>, rules: Rules, metrics: Option<BreakerMetrics>) -> Gate {
        Gate {
            name: name.into(),
            mode: AtomicU8::new(CALM),
            inner: Mutex::new(Inner {
                breaker: Breaker::new(rules),
                jitter: Jitter::unique(),
                opened: None,
                told: None,
            }),
            closed: Notify::new(),
            metrics,
        }
    }

    /// The dependency.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The current state.
    pub fn state(&self) -> State {
        self.inner().breaker.state()
    }

    /// Whether requests have to wait.
    pub fn is_open(&self) -> bool {
        self.mode.load(Ordering::Relaxed) == OPEN
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // The breaker's methods do not panic, and each leaves it consistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to make a request, or the time at which to ask again.
    pub fn pass(&self) -> Result<Pass<'_>, Instant> {
        if !self.is_open() {
            return Ok(Pass {
                gate: self,
                probe: false,
            });
        }
        let mut inner = self.inner();
        let random = inner.jitter.next_u64();
        match inner.breaker.admit(Instant::now(), random) {
            Verdict::Go => Ok(Pass {
                gate: self,
                probe: false,
            }),
            Verdict::Probe => {
                self.publish(&inner);
                Ok(Pass {
                    gate: self,
                    probe: true,
                })
            }
            Verdict::Wait(until) => Err(until),
        }
    }

    /// A request was answered, with a [`Pass`] or without. Costs one load while nothing fails.
    pub fn succeeded(&self) {
        if self.mode.load(Ordering::Relaxed) == CALM {
            return;
        }
        let mut inner = self.inner();
        let closed = inner.breaker.succeeded(Instant::now());
        self.publish(&inner);
        if closed {
            let opened = inner.opened.take();
            if let Some(opened) = opened.filter(|opened| inner.told == Some(*opened)) {
                let seconds = opened.elapsed().as_secs_f64();
                tracing::info!(dependency = self.name, seconds, "answers again: the breaker is closed");
            }
            drop(inner);
            self.closed.notify_waiters();
        }
    }

    /// A request failed with a transient error, with a [`Pass`] or without. `probe` says that it was a probe reported by
    /// [`Pass::sent`], which is then no longer out.
    pub fn failed(&self, probe: bool) {
        let mut inner = self.inner();
        let random = inner.jitter.next_u64();
        let opened = inner.breaker.failed(Instant::now(), probe, random);
        self.publish(&inner);
        if opened {
            let now = Instant::now();
            inner.opened = Some(now);
            if let Some(metrics) = &self.metrics {
                metrics.opens.inc();
            }
            if inner.told.is_none_or(|told| now.duration_since(told) >= TELL_EVERY) {
                inner.told = Some(now);
                tracing::warn!(
                    dependency = self.name,
                    "does not answer: the breaker is open, and one probe per second is sent"
                );
            }
        }
    }

    /// A probe reported by [`Pass::sent`] is no longer out, and its result says nothing about the dependency.
    pub fn returned(&self) {
        let mut inner = self.inner();
        inner.breaker.returned();
        self.publish(&inner);
    }

    fn publish(&self, inner: &Inner) {
        let state = inner.breaker.state();
        let mode = match state {
            State::Closed if inner.breaker.listens() => LISTENING,
            State::Closed => CALM,
            State::HalfOpen | State::Open => OPEN,
        };
        self.mode.store(mode, Ordering::Relaxed);
        if let Some(metrics) = &self.metrics {
            metrics.state.set(match state {
                State::Closed => 0,
                State::HalfOpen => 1,
                State::Open => 2,
            });
        }
    }

    /// Waits until `until`. If the breaker closes earlier, waits only a random moment more, so that not all continue at
    /// once.
    pub async fn wait(&self, until: Instant) {
        let closed = self.closed.notified();
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = closed => {
                let random = self.inner().jitter.next_u64();
                let moment = SPREAD.as_nanos() as u64;
                let moment = Duration::from_nanos(((u128::from(moment) * u128::from(random)) >> 64) as u64);
                tokio::time::sleep(moment).await;
            }
        }
    }
}

impl Pass<'_> {
    /// The request was answered.
    pub fn succeeded(mut self) {
        self.probe = false;
        self.gate.succeeded();
    }

    /// Whether this is one of the few requests that an open breaker lets through.
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// The request was made; its result will be reported to the [`Gate`] later.
    pub fn sent(mut self) {
        self.probe = false;
    }

    /// The request failed with a transient error.
    pub fn failed(mut self) {
        let probe = std::mem::take(&mut self.probe);
        self.gate.failed(probe);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.gate.returned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::Backoff;

    /// Delay until a probe is due.
    const AT_ONCE: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(3600);

    fn open(delay: Duration) -> Arc<Gate> {
        let rules = Rules {
            many: 3,
            delay: Backoff::new(delay, delay, 1.0),
            ..Rules::default()
        };
        let gate = Arc::new(Gate::new("store", rules, None));
        (0..3).for_each(|_| gate.pass().unwrap().failed());
        assert!(gate.is_open());
        gate
    }

    #[tokio::test]
    async fn those_who_wait_are_woken_when_it_closes() {
        let gate = open(AT_ONCE);
        let began = Instant::now();
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let gate = gate.clone();
                tokio::spawn(async move { gate.wait(Instant::now() + Duration::from_secs(60)).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(30)).await;
        gate.pass().unwrap().succeeded();
        assert_eq!(gate.state(), State::Closed);
        for task in waiting {
            task.await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn a_probe_that_is_not_made_is_given_back() {
        assert!(open(LONG).pass().is_err(), "the first probe is not due yet");
        let gate = open(AT_ONCE);
        let probe = gate.pass().unwrap();
        assert_eq!(gate.state(), State::HalfOpen);
        drop(probe);
        assert_eq!(gate.state(), State::Open);
    }

    #[test]
    fn a_failure_gives_back_no_probe_but_its_own() {
        let gate = open(AT_ONCE);
        let (first, second) = (gate.pass().unwrap(), gate.pass().unwrap());
        assert!(first.is_probe());
        first.sent();
        second.failed();
        gate.failed(false);
        assert_eq!(gate.state(), State::HalfOpen, "the first is still out");
        gate.failed(true);
        assert_eq!(gate.state(), State::Open);
    }

    #[test]
    fn a_success_of_anybody_closes_it_and_failures_leave_it_open() {
        let gate = open(LONG);
        gate.failed(false);
        assert!(gate.is_open());
        gate.succeeded();
        assert_eq!((gate.state(), gate.is_open()), (State::Closed, false));
        assert!(gate.pass().is_ok());
    }
}
