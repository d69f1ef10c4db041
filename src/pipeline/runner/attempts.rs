//! What follows a failed attempt of a step, or one that found no row.
//!
//! It is shared by look-ups, writes, references and custom steps, which differ in what they ask, not in when they ask again. Without a limit declared
//! by the step, an event waits as long as it takes, unless its partition leaves.

use std::borrow::Cow;
use std::time::Instant;

use super::{Answer, Next, Runtime, random};
use crate::breaker::gate::{Gate, NOT_ASKED};
use crate::config::{MissingDeadline, OnError, OnMissing};
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::pipeline::policy::{Policy, Tries};
use crate::pipeline::program::{Action, Step};
use crate::retry::Class;
use crate::telemetry::handles::StepMetrics;
use crate::telemetry::scrub::scrub;

/// Reasons whose server message may quote the record: requests rejected while the nodes have different schemas, and errors inside the server.
const QUOTING: [&str; 3] = ["schema_changing", "server_error", "unknown"];

/// The text that the log shows of a transient error. It is scrubbed if it may quote the record, which the text of a custom step's `author` may, too. Other
/// texts contain useful advice and numbers.
pub(super) fn words<'a>(message: &'a str, reason: &str, author: bool) -> Cow<'a, str> {
    if author || QUOTING.contains(&reason) {
        Cow::Owned(scrub(message))
    } else {
        Cow::Borrowed(message)
    }
}

/// What attempts need, and their history.
pub(super) struct Attempts<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) step: &'a Step,
    pub(super) metrics: &'a StepMetrics,
    pub(super) event: &'a Event,
    pub(super) policy: Policy,
    /// Failed attempts since the last answer; an answer without a row also ends an outage.
    pub(super) tries: Tries,
    /// Attempts that found no row.
    pub(super) missed: Tries,
    /// Whether the last request was its own, and not that of another event that waits for the same row. A request is counted
    /// once.
    pub(super) own: bool,
    /// The breaker of the service that is asked, if it has one.
    gate: Option<&'a Gate>,
}

impl Runtime {
    pub(super) fn attempts<'a>(
        &'a self,
        index: usize,
        event: &'a Event,
        policy: Policy,
        gate: Option<&'a Gate>,
    ) -> Attempts<'a> {
        Attempts {
            runtime: self,
            step: &self.program.steps[index],
            metrics: &self.steps[index].step,
            event,
            policy,
            tries: Tries::default(),
            missed: Tries::default(),
            own: true,
            gate,
        }
    }

    /// Waits before the next attempt; less if `deadline` comes first, or if the breaker closes meanwhile.
    pub(super) async fn wait(
        &self,
        gate: Option<&Gate>,
        event: &Event,
        attempt: u32,
        deadline: Option<Instant>,
    ) -> Next {
        if event.is_abandoned() {
            return Next::Abandon;
        }
        let until = Instant::now() + self.backoff.delay(attempt, random(event, attempt));
        let until = deadline.map_or(until, |deadline| until.min(deadline));
        match gate {
            Some(gate) => gate.wait(until).await,
            None => tokio::time::sleep_until(until.into()).await,
        }
        Next::of(event)
    }
}

impl Attempts<'_> {
    /// What follows a failed attempt: an answer, or none if there is another attempt, after the wait in here.
    pub(super) async fn after_error(&mut self, error: Failure, idempotent: bool) -> Result<Option<Answer>, Failure> {
        let now = Instant::now();
        // Without a breaker the reason was chosen by the author of a custom step, and the attempt was made.
        let asked = self.gate.is_none() || error.reason != NOT_ASKED;
        if asked {
            self.tries.failed(now);
        } else {
            self.tries.held_up(now);
        }
        let attempts = self.tries.made();
        if error.class != Class::Transient {
            return Err(Failure { attempts, ..error });
        }
        // The write may have been applied, and a repetition could apply it twice.
        let twice = asked && !error.not_applied && !idempotent;
        if twice || self.policy.is_over(self.tries, now) {
            let what = if twice {
                "the write is not idempotent and was not repeated"
            } else {
                "given up, as the step's `retry` says"
            };
            let answer = match self.policy.on_error {
                OnError::Retry | OnError::DeadLetter => {
                    let message = format!("{error}; {what}");
                    return Err(Failure {
                        class: Class::Permanent,
                        attempts,
                        message,
                        ..error
                    });
                }
                // Not treated as a missing row, because nobody knows whether it is missing.
                OnError::Null => Answer::Null,
                OnError::Skip => Answer::Missing(OnMissing::Skip),
            };
            self.metrics.failed("transient", "error");
            self.tell(&error, what);
            return Ok(Some(answer));
        }
        if asked && self.own {
            self.metrics.transient.inc();
            self.metrics.retries.inc();
            self.tell(&error, "trying again");
        }
        // An open breaker decides itself when requests continue.
        let next = if asked && !self.gate.is_some_and(Gate::is_open) {
            self.wait(self.tries, self.policy.deadline(self.tries)).await
        } else {
            Next::of(self.event)
        };
        Ok(match next {
            Next::Retry => None,
            Next::Abandon => Some(Answer::Abandon),
        })
    }

    /// What follows an attempt without a row: an answer, or none if there is another attempt, after the wait in here.
    pub(super) async fn after_missing(
        &mut self,
        on_missing: OnMissing,
        end: Option<&MissingDeadline>,
    ) -> Option<Answer> {
        if on_missing != OnMissing::Retry {
            return Some(Answer::Missing(on_missing));
        }
        let now = Instant::now();
        self.tries = Tries::default();
        self.missed.failed(now);
        let elapsed = self.missed.elapsed(now);
        if let Some(end) = end
            && elapsed >= end.deadline
        {
            return Some(Answer::Missing(end.then));
        }
        let deadline = end.and_then(|end| now.checked_add(end.deadline - elapsed));
        match self.wait(self.missed, deadline).await {
            Next::Retry => {
                self.metrics.retries.inc();
                None
            }
            Next::Abandon => Some(Answer::Abandon),
        }
    }

    async fn wait(&self, tries: Tries, deadline: Option<Instant>) -> Next {
        let attempt = tries.made().saturating_sub(1);
        self.runtime.wait(self.gate, self.event, attempt, deadline).await
    }

    fn tell(&self, error: &Failure, what: &'static str) {
        let step = &self.step.name;
        if let Some(suppressed) = self.runtime.told_of(error.reason, Some(step), what) {
            let author = matches!(self.step.action, Action::Custom(_));
            let message = words(&error.message, error.reason, author);
            tracing::warn!(
                pipeline = %self.runtime.program.name, step = %step, reason = error.reason,
                attempts = self.tries.made(), suppressed, "{message}; {what}"
            );
        }
    }
}
