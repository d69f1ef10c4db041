//! A circuit breaker for one dependency. During an outage only a few probes reach the dependency, not every event in flight.
//!
//! Without it, a frozen database would be asked again and again by each of `max_in_flight` events when it can least bear it, and an event deep in its
//! back-off would wait up to ten seconds more after the database is back. An open breaker lets single probes through, at most a second apart, and
//! closes at the first success. Then all waiting events continue.
//!
//! Closed, open and half-open are the terms of Michael Nygard, "Release It!", 2007. Half-open is an open breaker with a probe out. [`Breaker`] is
//! pure; [`gate::Gate`] is what tasks share.
//!
//! Invariants: a breaker delays, and never changes an error into another one; closed, it delays nobody; open, it has at most [`Rules::probes`] probes
//! out, and always knows the time of the next one; any success closes it.

pub mod gate;

use std::time::{Duration, Instant};

use crate::retry::Backoff;

/// When to open, and how to probe.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// This many failures in a row open the breaker at once.
    pub many: u32,
    /// This many failures in a row open it if the first was at least [`Rules::span`] ago.
    pub few: u32,
    /// See [`Rules::few`].
    pub span: Duration,
    /// It also opens if at least this many requests were counted in one [`Rules::window`] and at least half of them failed.
    pub minimum: u32,
    /// The period over which failures are counted.
    pub window: Duration,
    /// Probes that may be out at the same time.
    pub probes: u32,
    /// Delay between probes; half of it is jitter.
    pub delay: Backoff,
    /// A probe without a report for this long counts as lost.
    pub lost: Duration,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            many: 20,
            few: 5,
            span: Duration::from_secs(1),
            minimum: 50,
            window: Duration::from_secs(5),
            probes: 5,
            delay: Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 2.0),
            lost: Duration::from_secs(30),
        }
    }
}

/// State of a breaker, as shown by metrics and the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Every request may be made.
    Closed,
    /// A probe is out.
    HalfOpen,
    /// No request may be made until the next probe is due.
    Open,
}

impl State {
    /// `closed`, `half_open` or `open`.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::HalfOpen => "half_open",
            State::Open => "open",
        }
    }
}

/// Whether a request may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Go,
    /// Yes, as a probe: [`Breaker::succeeded`], [`Breaker::failed`] or [`Breaker::returned`] must follow.
    Probe,
    /// Not before this time.
    Wait(Instant),
}

/// Counts since the first failure, which decide whether the breaker opens.
#[derive(Debug, Clone, Copy)]
struct Window {
    began: Instant,
    failures: u32,
    successes: u32,
    in_a_row: u32,
    row_began: Instant,
}

#[derive(Debug, Clone, Copy)]
enum Inner {
    /// No failure lately.
    Calm,
    Watching(Window),
    Open {
        next: Instant,
        out: u32,
        attempt: u32,
    },
}

/// See the module's page. The time and random numbers are arguments.
#[derive(Debug)]
pub struct Breaker {
    rules: Rules,
    inner: Inner,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(rules: Rules) -> Breaker {
        Breaker {
            rules,
            inner: Inner::Calm,
        }
    }

    /// The current state.
    pub fn state(&self) -> State {
        match self.inner {
            Inner::Calm | Inner::Watching(_) => State::Closed,
            Inner::Open { out: 0, .. } => State::Open,
            Inner::Open { .. } => State::HalfOpen,
        }
    }

    /// Whether successes have to be reported: not while it is closed and nothing has failed lately.
    pub fn listens(&self) -> bool {
        !matches!(self.inner, Inner::Calm)
    }

    /// Whether a request may be made now. Every bit of `random` must be random.
    pub fn admit(&mut self, now: Instant, random: u64) -> Verdict {
        let rules = self.rules;
        let Inner::Open { next, out, attempt } = &mut self.inner else {
            return Verdict::Go;
        };
        if now < *next {
            return Verdict::Wait(*next);
        }
        if *out >= rules.probes {
            // Probes time out by themselves, but if one was lost, the others must not wait for it for ever.
            if now < *next + rules.lost {
                return Verdict::Wait(now + rules.delay.ceiling(*attempt));
            }
            *out = 0;
        }
        *out += 1;
        *attempt = attempt.saturating_add(1);
        *next = now + jittered(rules.delay, *attempt, random);
        Verdict::Probe
    }

    /// A request was answered. True if that closed the breaker.
    pub fn succeeded(&mut self, now: Instant) -> bool {
        match &mut self.inner {
            Inner::Calm => {}
            Inner::Watching(window) => {
                window.successes = window.successes.saturating_add(1);
                window.in_a_row = 0;
                if now.saturating_duration_since(window.began) >= self.rules.window {
                    self.inner = Inner::Calm;
                }
            }
            Inner::Open { .. } => {
                self.inner = Inner::Calm;
                return true;
            }
        }
        false
    }

    /// A request failed with a transient error. True if that opened the breaker.
    pub fn failed(&mut self, now: Instant, probe: bool, random: u64) -> bool {
        let rules = self.rules;
        let fresh = Window {
            began: now,
            failures: 0,
            successes: 0,
            in_a_row: 0,
            row_began: now,
        };
        let mut window = match self.inner {
            Inner::Open { .. } => {
                if probe {
                    self.returned();
                }
                // Requests that were under way when it opened say nothing new.
                return false;
            }
            Inner::Calm => fresh,
            Inner::Watching(window) => window,
        };
        if now.saturating_duration_since(window.began) >= rules.window {
            // A run of failures continues across windows.
            window = Window {
                in_a_row: window.in_a_row,
                row_began: window.row_began,
                ..fresh
            };
        }
        if window.in_a_row == 0 {
            window.row_began = now;
        }
        window.failures = window.failures.saturating_add(1);
        window.in_a_row = window.in_a_row.saturating_add(1);
        let row = window.in_a_row >= rules.many
            || (window.in_a_row >= rules.few && now.saturating_duration_since(window.row_began) >= rules.span);
        let half =
            window.failures.saturating_add(window.successes) >= rules.minimum && window.failures >= window.successes;
        if row || half {
            self.inner = Inner::Open {
                next: now + jittered(rules.delay, 0, random),
                out: 0,
                attempt: 0,
            };
            return true;
        }
        self.inner = Inner::Watching(window);
        false
    }

    /// A probe was not made after all.
    pub fn returned(&mut self) {
        if let Inner::Open { out, .. } = &mut self.inner {
            *out = out.saturating_sub(1);
        }
    }
}

/// A random delay between half of the ceiling and the ceiling.
fn jittered(delay: Backoff, attempt: u32, random: u64) -> Duration {
    delay.ceiling(attempt) / 2 + delay.delay(attempt, random) / 2
}

#[cfg(test)]
mod tests;
