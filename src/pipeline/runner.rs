//! Runs the steps of one event, and ends it: published, skipped or dead-lettered.
//!
//! What may pass is tried again here, with jittered back-off, for as long as it takes, while the event keeps its place in the
//! ledger and its lane; the consumer loop meanwhile stops taking records once the budget is full. What cannot pass goes to the
//! dead-letter topic at once. Only when the partition has left does a retrying event give up.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;

use super::completions::How;
use super::evaluate::{holds, key_bytes, value};
use super::event::Event;
use super::failure::Failure;
use super::program::{Action, Lookup, Place, Program, Stage, Step, Write};
use crate::avro::value::Value;
use crate::config::OnMissing;
use crate::outcome::Outcome;
use crate::registry::framing::header;
use crate::retry::{Backoff, Class};
use crate::sink::Sink;
use crate::sink::dead_letters::DeadLetters;
use crate::store::cache::{Hit, append_key};
use crate::store::{AnyStore, Store, StoreError};
use crate::telemetry::handles::{PipelineMetrics, StepMetrics};
use crate::telemetry::limit::Limiter;
use crate::telemetry::sentry::{Report, Sentry};
use crate::turns::Go;

/// Everything that the events of one pipeline share.
#[derive(Clone)]
pub struct Runtime {
    /// What is run.
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
    /// Between attempts.
    pub backoff: Backoff,
    /// Keeps repeated failures from filling the log.
    pub limiter: Arc<Limiter<&'static str>>,
    /// Where failures that end a record are reported, if anywhere.
    pub sentry: Option<Arc<Sentry>>,
}

/// The metrics of one step.
#[derive(Clone)]
pub struct StepHandles {
    /// Requests and failures.
    pub step: StepMetrics,
    /// Rows written.
    pub rows: Option<prometheus::IntCounter>,
}

/// How the steps ended.
enum Flow {
    Continue,
    Skip,
    Abandon,
}

/// What one look-up or write came to.
enum Answer {
    NotRun,
    Row(Hit),
    Written,
    Missing(OnMissing),
    Abandon,
}

/// What follows a failed attempt.
enum Next {
    Retry,
    Abandon,
}

thread_local! {
    /// The output under construction; librdkafka copies it.
    static OUTPUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Runtime {
    /// Whether a failure of this kind is to be logged now, and how many were not since the last.
    pub fn told(&self, kind: &'static str) -> Option<u64> {
        self.limiter.admit(kind, Instant::now())
    }

    /// Runs an event whose datum has been read to its end, or to the producer's queue.
    pub async fn process(&self, mut event: Box<Event>) {
        let flow = self.run_steps(&mut event).await;
        let over = matches!(&flow, Ok(Flow::Abandon)) || matches!(&flow, Err(failure) if failure.class == Class::Fatal);
        if !over
            && let Some(turn) = &mut event.turn
            && turn.come().await == Go::Never
        {
            event.complete(How::Abandoned);
            return;
        }
        match flow {
            Ok(Flow::Continue) => self.publish(event).await,
            Ok(Flow::Skip) => event.complete(How::Finished(Outcome::Skipped)),
            Ok(Flow::Abandon) => event.complete(How::Abandoned),
            Err(failure) => self.fail(event, failure).await,
        }
    }

    async fn run_steps(&self, event: &mut Event) -> Result<Flow, Failure> {
        event.rows.resize_with(self.program.steps.len(), || None);
        event.named.resize_with(self.program.named, || Value::Null);
        for stage in &self.program.stages {
            let flow = match stage {
                Stage::Alone(index) => self.run_alone(*index, event)?,
                Stage::Together(members) => match members.as_slice() {
                    [index] => {
                        let answer = self.ask(*index, event).await?;
                        self.take(*index, answer, event)?
                    }
                    many => {
                        let answers = join_all(many.iter().map(|index| self.ask(*index, event))).await;
                        let mut flow = Flow::Continue;
                        for (index, answer) in many.iter().zip(answers) {
                            if let Flow::Continue = flow {
                                flow = self.take(*index, answer?, event)?;
                            }
                        }
                        flow
                    }
                },
            };
            if !matches!(flow, Flow::Continue) {
                return Ok(flow);
            }
        }
        Ok(Flow::Continue)
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
                Ok(if keep { Flow::Continue } else { Flow::Skip })
            }
            Action::Set { first, values } => {
                for (i, (_, place)) in values.iter().enumerate() {
                    let owned = value(&self.program, &place.source, event)
                        .map_err(in_step)?
                        .into_owned();
                    event.named[first + i] = owned;
                }
                Ok(Flow::Continue)
            }
            Action::Lookup(_) | Action::Write(_) => Ok(Flow::Continue),
        }
    }

    /// Stores the answer of a step; says whether the event goes on.
    fn take(&self, index: usize, answer: Answer, event: &mut Event) -> Result<Flow, Failure> {
        let step = &self.program.steps[index];
        match answer {
            Answer::NotRun | Answer::Written | Answer::Missing(OnMissing::Null | OnMissing::Retry) => {}
            Answer::Row(row) => event.rows[index] = Some(row),
            Answer::Missing(OnMissing::Skip) => return Ok(Flow::Skip),
            Answer::Missing(OnMissing::DeadLetter) => {
                return Err(Failure::permanent("missing", "the look-up found no row").in_step(&step.name));
            }
            Answer::Abandon => return Ok(Flow::Abandon),
        }
        Ok(Flow::Continue)
    }

    async fn ask(&self, index: usize, event: &Event) -> Result<Answer, Failure> {
        let step = &self.program.steps[index];
        if let Some(when) = &step.when
            && !holds(&self.program, &when.source, event).map_err(|f| f.in_step(&step.name))?
        {
            return Ok(Answer::NotRun);
        }
        let Some(store) = &self.store else {
            return Err(Failure::fatal("internal", "a step needs a database and there is none").in_step(&step.name));
        };
        let result = match &step.action {
            Action::Lookup(lookup) => self.look_up(index, step, lookup, store, event).await,
            Action::Write(write) => self.write(index, step, write, store, event).await,
            Action::Filter(_) | Action::Set { .. } => Ok(Answer::NotRun),
        };
        result.map_err(|f| f.in_step(&step.name))
    }

    fn binds<'e>(&'e self, binds: &'e [Place], event: &'e Event) -> Result<Vec<Value<'e>>, Failure> {
        binds
            .iter()
            .map(|place| value(&self.program, &place.source, event))
            .collect()
    }

    async fn look_up(
        &self,
        index: usize,
        step: &Step,
        lookup: &Lookup,
        store: &AnyStore,
        event: &Event,
    ) -> Result<Answer, Failure> {
        let values = self.binds(&lookup.binds, event)?;
        let key = lookup.cache.as_ref().map(|_| {
            let mut key = Vec::new();
            append_key(&values, &mut key);
            key
        });
        let metrics = &self.steps[index].step;
        let mut attempt = 0;
        loop {
            let result = match (&lookup.cache, &key) {
                (Some(cache), Some(key)) => match cache.get(key, Instant::now()) {
                    Some(hit) => Ok(hit),
                    None => cache
                        .get_or_load(key, Instant::now(), || async {
                            let started = Instant::now();
                            let row = store.lookup(&lookup.statement, &values).await?;
                            metrics.succeeded(started.elapsed());
                            Ok(row)
                        })
                        .await
                        .map(|(hit, _)| hit),
                },
                _ => {
                    let started = Instant::now();
                    store.lookup(&lookup.statement, &values).await.map(|row| {
                        metrics.succeeded(started.elapsed());
                        Arc::new(row)
                    })
                }
            };
            match result {
                Ok(row) if row.is_some() => return Ok(Answer::Row(row)),
                Ok(_) if lookup.on_missing == OnMissing::Retry => {
                    if let Next::Abandon = self.wait(event, attempt).await {
                        return Ok(Answer::Abandon);
                    }
                    metrics.retries.inc();
                }
                Ok(_) => return Ok(Answer::Missing(lookup.on_missing)),
                Err(error) => {
                    if let Next::Abandon = self.after_error(step, metrics, event, attempt, error, true).await? {
                        return Ok(Answer::Abandon);
                    }
                }
            }
            attempt += 1;
        }
    }

    async fn write(
        &self,
        index: usize,
        step: &Step,
        write: &Write,
        store: &AnyStore,
        event: &Event,
    ) -> Result<Answer, Failure> {
        let values = self.binds(&write.binds, event)?;
        let handles = &self.steps[index];
        let mut attempt = 0;
        loop {
            let started = Instant::now();
            match store
                .write(&write.statement, &values, event.origin.write_timestamp_us)
                .await
            {
                Ok(()) => {
                    handles.step.succeeded(started.elapsed());
                    if let Some(rows) = &handles.rows {
                        rows.inc();
                    }
                    return Ok(Answer::Written);
                }
                Err(error) => {
                    if let Next::Abandon = self
                        .after_error(step, &handles.step, event, attempt, error, write.idempotent)
                        .await?
                    {
                        return Ok(Answer::Abandon);
                    }
                }
            }
            attempt += 1;
        }
    }

    /// Decides on a failed attempt and waits before the next; the error where there is none.
    async fn after_error(
        &self,
        step: &Step,
        metrics: &StepMetrics,
        event: &Event,
        attempt: u32,
        error: StoreError,
        idempotent: bool,
    ) -> Result<Next, Failure> {
        let mut class = error.class;
        let mut message = error.to_string();
        if class == Class::Transient && !idempotent {
            // It may have happened: repeating could do it twice.
            class = Class::Permanent;
            message = format!("{message}; the write is not idempotent and was not repeated");
        }
        if class != Class::Transient {
            return Err(Failure {
                class,
                reason: error.label,
                step: None,
                message,
            });
        }
        metrics.failed("transient", "warn");
        metrics.retries.inc();
        if let Some(suppressed) = self.told(error.label) {
            tracing::warn!(
                pipeline = %self.program.name, step = %step.name, reason = error.label, attempt, suppressed,
                "{message}; trying again"
            );
        }
        Ok(self.wait(event, attempt).await)
    }

    async fn wait(&self, event: &Event, attempt: u32) -> Next {
        if event.is_abandoned() {
            return Next::Abandon;
        }
        tokio::time::sleep(self.backoff.delay(attempt, random(event, attempt))).await;
        if event.is_abandoned() {
            Next::Abandon
        } else {
            Next::Retry
        }
    }

    async fn publish(&self, mut event: Box<Event>) {
        let Some(sink) = &self.sink else {
            event.complete(How::Finished(Outcome::Done));
            return;
        };
        let sent = OUTPUT.with_borrow_mut(|output| {
            output.clear();
            match self.encode(&mut event, output) {
                Err(failure) => Err((failure, event)),
                Ok(()) => {
                    event.pending = Outcome::Done;
                    // A refused record keeps its output for the next attempt.
                    sink.send(event, output).map_err(|(failure, mut event)| {
                        event.output.clone_from(output);
                        (failure, event)
                    })
                }
            }
        });
        match sent {
            Ok(()) => {}
            Err((failure, event)) if failure.class == Class::Transient => self.send_again(event, failure).await,
            Err((failure, event)) => self.fail(event, failure).await,
        }
    }

    /// Builds the output record: framing and value into `output`, the key into the event.
    fn encode(&self, event: &mut Event, output: &mut Vec<u8>) -> Result<(), Failure> {
        let started = Instant::now();
        let Some(plan) = event.plan.clone() else {
            return Err(Failure::fatal(
                "internal",
                "an event without a schema was to be published",
            ));
        };
        let Some(made) = &plan.output else {
            return Err(Failure::fatal(
                "internal",
                "an event without an output schema was to be published",
            ));
        };
        let mut new = Vec::with_capacity(self.program.outputs.len());
        for (_, place) in &self.program.outputs {
            new.push(value(&self.program, &place.source, event)?);
        }
        let key = match &self.program.key {
            Some(place) => key_bytes(&value(&self.program, &place.source, event)?)?,
            None => event.key().map(<[u8]>::to_vec),
        };
        output.extend_from_slice(&header(made.schema_id));
        made.splice
            .build(
                event.padded(),
                event.datum_start,
                event.datum_end(),
                &event.marks,
                &new,
                output,
            )
            .map_err(|e| Failure::permanent("encode", e.to_string()))?;
        event.output_key = key;
        self.metrics.encode.observe(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Hands an event to the producer again, after what may pass has passed. Serves outputs and dead letters.
    pub async fn send_again(&self, mut event: Box<Event>, mut failure: Failure) {
        loop {
            self.metrics.failed("sink", "transient", "warn");
            if let Some(suppressed) = self.told(failure.reason) {
                tracing::warn!(pipeline = %self.program.name, reason = failure.reason, suppressed, "{failure}; sending again");
            }
            event.attempts += 1;
            if let Next::Abandon = self.wait(&event, event.attempts).await {
                event.complete(How::Abandoned);
                return;
            }
            let sent = match (&self.sink, &self.dead_letters) {
                (_, Some(dead_letters)) if event.pending == Outcome::DeadLettered => dead_letters.send(event),
                (Some(sink), _) => {
                    let output = std::mem::take(&mut event.output);
                    sink.send(event, &output).map_err(|(failure, mut event)| {
                        event.output = output;
                        (failure, event)
                    })
                }
                _ => Err((
                    Failure::fatal("internal", "an event was sent, and there is nowhere to send it"),
                    event,
                )),
            };
            match sent {
                Ok(()) => return,
                Err((f, e)) if f.class == Class::Transient => (failure, event) = (f, e),
                Err((f, e)) => return self.fail(e, f).await,
            }
        }
    }

    /// Ends an event that cannot succeed: as a dead letter, or by stopping its pipeline.
    pub async fn fail(&self, mut event: Box<Event>, failure: Failure) {
        self.report(&event, &failure);
        let already_dead = event.pending == Outcome::DeadLettered;
        let Some(dead_letters) = self
            .dead_letters
            .as_ref()
            .filter(|_| failure.class == Class::Permanent && !already_dead)
        else {
            let stage = failure.step.as_deref().unwrap_or(failure.reason);
            self.metrics.failed(stage, failure.class.as_str(), "fatal");
            event.complete(How::Fatal(failure));
            return;
        };
        let stage = failure.step.as_deref().unwrap_or(failure.reason);
        self.metrics.failed(stage, "permanent", "error");
        if let Some(suppressed) = self.told(failure.reason) {
            tracing::warn!(
                pipeline = %self.program.name, topic = %event.origin.topic, partition = event.origin.partition,
                offset = event.origin.offset, reason = failure.reason, suppressed, "dead letter: {failure}"
            );
        }
        event.pending = Outcome::DeadLettered;
        event.failure = Some(failure);
        match dead_letters.send(event) {
            Ok(()) => {}
            Err((failure, event)) if failure.class == Class::Transient => {
                Box::pin(self.send_again(event, failure)).await
            }
            Err((failure, event)) => event.complete(How::Fatal(failure)),
        }
    }
}

impl Runtime {
    fn report(&self, event: &Event, failure: &Failure) {
        let Some(sentry) = &self.sentry else { return };
        let level = if failure.class == Class::Fatal {
            sentry::Level::Fatal
        } else {
            sentry::Level::Error
        };
        sentry.report(Report {
            pipeline: self.program.name.clone(),
            step: failure.step.clone().unwrap_or_else(|| Arc::from(failure.reason)),
            class: failure.class.as_str(),
            level,
            topic: Some(event.origin.topic.clone()),
            error: failure.message.clone(),
        });
    }
}

/// A number that differs between events, attempts and moments, for the jitter.
fn random(event: &Event, attempt: u32) -> u64 {
    let now = event.admitted.elapsed().as_nanos() as u64;
    (event.origin.offset.cast_unsigned() ^ now.rotate_left(17) ^ (u64::from(attempt) << 48))
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests;
