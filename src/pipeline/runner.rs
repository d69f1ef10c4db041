//! Runs the steps of one event and ends it: published, skipped or dead-lettered.
//!
//! A transient error is retried with jittered back-off, as long as it takes, while the event keeps its place in the ledger and its lane; the consumer
//! loop stops taking records when the budget is full. A permanent error goes to the dead-letter topic at once. An event gives up only when its
//! partition has left: it starts nothing more, and is not published.
//!
//! `advance` runs what needs no waiting, `ask` look-ups and writes, `refer` look-ups in references, `together` rows that share a batch with others;
//! `attempts` handles failures, `publish` the output.

mod advance;
mod ask;
mod attempts;
mod custom;
mod publish;
mod refer;
mod together;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;

pub use advance::Advance;
pub use together::Member;

use super::completions::How;
use super::evaluate::{holds, value};
use super::event::Event;
use super::failure::Failure;
use super::program::{Action, Program, Stage};
use crate::avro::value::Value;
use crate::breaker::gate::Gates;
use crate::config::OnMissing;
use crate::outcome::Outcome;
use crate::retry::{Backoff, Class};
use crate::sink::Sink;
use crate::sink::dead_letters::DeadLetters;
use crate::store::AnyStore;
use crate::store::cache::{Hit, Origin, heap_bytes, row_bytes};
use crate::telemetry::handles::{PipelineMetrics, StepMetrics};
use crate::telemetry::limit::Limiter;
use crate::telemetry::sentry::Sentry;
use crate::telemetry::traces::PipelineTracer;
use crate::turns::Go;

/// The largest buffer that a thread keeps for the next record, in bytes.
const KEPT: usize = 64 * 1024;

/// Frees a buffer in which a large record was encoded, so that not every thread keeps one for ever.
fn keep_small(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT {
        *buffer = Vec::new();
    }
}

/// What the log limiter distinguishes: a failure's reason, its step if it has one, and what follows.
pub type Told = (&'static str, Option<Arc<str>>, &'static str);

/// What all events of one pipeline share.
#[derive(Clone)]
pub struct Runtime {
    /// The program.
    pub program: Arc<Program>,
    /// The database.
    pub store: Option<Arc<AnyStore>>,
    /// The output topic.
    pub sink: Option<Sink>,
    /// The dead-letter topic.
    pub dead_letters: Option<DeadLetters>,
    /// Metrics of the pipeline.
    pub metrics: PipelineMetrics,
    /// Metrics of its steps, by index.
    pub steps: Vec<StepHandles>,
    /// The back-off between attempts.
    pub backoff: Backoff,
    /// The breakers of the services that events need.
    pub gates: Gates,
    /// Keeps repeated failures from flooding the log.
    pub limiter: Arc<Limiter<Told>>,
    /// Where failures that end a record, and dead letters that stop intake, are reported, if Sentry is configured.
    pub sentry: Option<Arc<Sentry>>,
    /// Creates the spans of its records, if tracing is configured.
    pub tracer: Option<PipelineTracer>,
}

/// The metrics of one step.
#[derive(Clone)]
pub struct StepHandles {
    /// Requests and failures.
    pub step: StepMetrics,
    /// Rows written.
    pub rows: Option<prometheus::IntCounter>,
    /// Look-ups in a reference that found a document, and those that did not.
    pub found: Option<(prometheus::IntCounter, prometheus::IntCounter)>,
}

impl StepHandles {
    fn count_found(&self, found: bool) {
        if let Some((hits, misses)) = &self.found {
            if found { hits } else { misses }.inc();
        }
    }
}

/// How a run of the steps ended.
enum Flow {
    Continue,
    /// This step leaves the event out.
    Skip(usize),
    Abandon,
    /// The event continues in the loop, at a write whose rows the loop gathers.
    GoOn,
}

/// The result of one look-up or write.
enum Answer {
    /// The step gives nulls: it did not run, or it failed and may.
    Null,
    /// From a cache, or from a request of another record.
    Row(Hit),
    /// Fetched or created for this event.
    Own(Hit),
    Written,
    Missing(OnMissing),
    Abandon,
}

impl Answer {
    fn of(row: Hit, origin: Origin) -> Answer {
        match origin {
            Origin::Loaded => Answer::Own(row),
            Origin::Cached | Origin::Shared | Origin::Stale => Answer::Row(row),
        }
    }
}

/// What follows a failed attempt.
enum Next {
    Retry,
    Abandon,
}

impl Next {
    /// After a wait: whether the event's partition has left meanwhile.
    fn of(event: &Event) -> Next {
        if event.is_abandoned() {
            Next::Abandon
        } else {
            Next::Retry
        }
    }
}

impl Runtime {
    /// Whether to log a failure of this kind, outside of steps, now, and how many were suppressed since the last.
    pub fn told(&self, kind: &'static str) -> Option<u64> {
        self.told_of(kind, None, "")
    }

    /// The same for a failure with this reason in a step, by what follows it. Otherwise a step that always fails would hide failures of other
    /// steps, and retries would hide that a step gave up.
    fn told_of(&self, reason: &'static str, step: Option<&Arc<str>>, then: &'static str) -> Option<u64> {
        self.limiter.admit((reason, step.cloned(), then), Instant::now())
    }

    /// Runs an event whose datum has been read, to its end or to the producer's queue.
    pub async fn process(&self, mut event: Box<Event>) {
        let flow = self.run_steps(&mut event).await;
        let over = matches!(&flow, Ok(Flow::Abandon | Flow::GoOn))
            || matches!(&flow, Err(failure) if failure.class == Class::Fatal);
        if !over
            && let Some(turn) = &mut event.turn
            && turn.come().await == Go::Never
        {
            event.complete(How::Abandoned);
            return;
        }
        match flow {
            Ok(Flow::Continue) => self.publish(event).await,
            Ok(Flow::Skip(step)) => {
                event.left_out = Some(step);
                event.complete(How::Finished(Outcome::Skipped));
            }
            Ok(Flow::Abandon) => event.complete(How::Abandoned),
            Ok(Flow::GoOn) => event.go_on(),
            Err(failure) => Box::pin(self.fail(event, failure)).await,
        }
    }

    async fn run_steps(&self, event: &mut Event) -> Result<Flow, Failure> {
        self.make_room(event);
        // False at the first stage: `advance` stopped there, so it is not handed back to the loop.
        let mut asked = false;
        while let Some(stage) = self.program.stages.get(event.stage) {
            if asked && self.grouped(stage, event).is_some() {
                return Ok(Flow::GoOn);
            }
            asked = true;
            if event.is_abandoned() {
                return Ok(Flow::Abandon);
            }
            let flow = match stage {
                Stage::Alone(index) => self.run_alone(*index, event)?,
                Stage::Together(members) if members.len() == 1 || self.in_turn(members) => {
                    let mut flow = Flow::Continue;
                    for index in members {
                        let answer = self.ask(*index, event).await?;
                        flow = self.take(*index, answer, event)?;
                        if !matches!(flow, Flow::Continue) {
                            break;
                        }
                    }
                    flow
                }
                Stage::Together(members) => {
                    let asked = members.iter().map(|index| in_place(|| self.ask(*index, event)));
                    let answers = join_all(asked).await;
                    let mut flow = Flow::Continue;
                    for (index, answer) in members.iter().zip(answers) {
                        if let Flow::Continue = flow {
                            flow = self.take(*index, answer?, event)?;
                        }
                    }
                    flow
                }
            };
            if !matches!(flow, Flow::Continue) {
                return Ok(flow);
            }
            event.pass_stage();
        }
        Ok(Flow::Continue)
    }

    /// Whether these steps must run one after the other although none needs another. SQLite keeps one timestamp per row, not per column: if a later
    /// write of the same row came first, what the earlier one sets would be lost.
    fn in_turn(&self, members: &[usize]) -> bool {
        let writes = |index: &usize| matches!(self.program.steps[*index].action, Action::Write(_));
        matches!(self.store.as_deref(), Some(AnyStore::Sqlite(_))) && members.iter().all(writes)
    }

    /// Allocates the places for the results of the steps.
    fn make_room(&self, event: &mut Event) {
        event.rows.resize_with(self.program.steps.len(), || None);
        event.named.resize_with(self.program.named, || Value::Null);
    }

    fn run_alone(&self, index: usize, event: &mut Event) -> Result<Flow, Failure> {
        let step = &self.program.steps[index];
        let in_step = |f: Failure| f.in_step(&step.name);
        if let Some(when) = &step.when
            && !holds(&self.program, &when.source, event).map_err(in_step)?
        {
            return Ok(Flow::Continue);
        }
        match &step.action {
            Action::Filter(condition) => {
                let keep = holds(&self.program, &condition.source, event).map_err(in_step)?;
                Ok(if keep { Flow::Continue } else { Flow::Skip(index) })
            }
            Action::Set { first, values } => {
                let mut bytes = 0;
                for (i, (_, place)) in values.iter().enumerate() {
                    let owned = value(&self.program, &place.source, event)
                        .map_err(in_step)?
                        .into_owned();
                    bytes += heap_bytes(&owned);
                    event.named[first + i] = owned;
                }
                event.hold(bytes);
                Ok(Flow::Continue)
            }
            Action::Lookup(_) | Action::Reference(_) | Action::Write(_) | Action::Custom(_) => Ok(Flow::Continue),
        }
    }

    /// Stores the answer of a step and says whether the event continues.
    fn take(&self, index: usize, answer: Answer, event: &mut Event) -> Result<Flow, Failure> {
        let step = &self.program.steps[index];
        match answer {
            Answer::Null | Answer::Written => {}
            Answer::Missing(OnMissing::Null | OnMissing::Retry) => {
                if let Action::Lookup(lookup) = &step.action {
                    event.rows[index].clone_from(&lookup.none);
                }
            }
            Answer::Row(row) => event.rows[index] = Some(row),
            Answer::Own(row) => {
                // Counted even if a cache holds it too, because the cache may evict it while the event still waits.
                event.hold(row_bytes(&row));
                event.rows[index] = Some(row);
            }
            Answer::Missing(OnMissing::Skip) => return Ok(Flow::Skip(index)),
            Answer::Missing(OnMissing::DeadLetter) => {
                return Err(Failure::permanent("missing", "the look-up found no row").in_step(&step.name));
            }
            Answer::Abandon => return Ok(Flow::Abandon),
        }
        Ok(Flow::Continue)
    }
}

/// A future on the heap that is built there. `Box::pin` would build it on the stack and copy all of its bytes, some thousands of which a request never
/// touches.
fn in_place<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}

/// A number that differs between events, attempts and moments, for the jitter.
fn random(event: &Event, attempt: u32) -> u64 {
    let now = event.admitted.elapsed().as_nanos() as u64;
    (event.origin.offset.cast_unsigned() ^ now.rotate_left(17) ^ (u64::from(attempt) << 48))
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod advance_tests;
#[cfg(test)]
mod attempts_tests;
#[cfg(test)]
mod custom_tests;
#[cfg(test)]
mod life_tests;
#[cfg(test)]
mod publish_tests;
#[cfg(test)]
mod refer_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod together_tests;
