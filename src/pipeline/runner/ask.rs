//! Runs one look-up or write of one event: attempts at the store until there is an answer or the step's policy ends them.
//!
//! An attempt needs a pass of the store's breaker. While that is open, the event waits at no cost to the store; the wait counts as time, not as an
//! attempt. Without a limit declared by the step, an event waits as long as it takes, unless its partition leaves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::attempts::Attempts;
use super::{Answer, Runtime};
use crate::avro::value::Value;
use crate::breaker::gate::{NOT_ASKED, Pass};
use crate::pipeline::evaluate::{holds, life_left, value};
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::pipeline::policy::Policy;
use crate::pipeline::program::{Action, Lookup, Place, Write};
use crate::retry::Class;
use crate::store::cache::{Hit, Origin, append_key, heap_bytes};
use crate::store::{AnyStore, Row, Store, StoreError};

/// As many values as fit without an allocation.
pub(super) type Few<'e> = SmallVec<[Value<'e>; 8]>;

impl Runtime {
    pub(super) async fn ask(&self, index: usize, event: &Event) -> Result<Answer, Failure> {
        let step = &self.program.steps[index];
        if event.is_answered(index) {
            return Ok(Answer::Null);
        }
        if let Some(when) = &step.when
            && !holds(&self.program, &when.source, event).map_err(|f| f.in_step(&step.name))?
        {
            return Ok(Answer::Null);
        }
        if let Action::Reference(refer) = &step.action {
            let answer = self.refer(index, refer, event).await;
            return answer.map_err(|f| f.in_step(&step.name));
        }
        if let Action::Custom(custom) = &step.action {
            let answer = Box::pin(self.custom(index, custom, event)).await;
            return answer.map_err(|f| f.in_step(&step.name));
        }
        let Some(store) = &self.store else {
            return Err(Failure::fatal("internal", "a step needs a database and there is none").in_step(&step.name));
        };
        let _at_step = self.steps[index].step.enter(1);
        let asking = |policy: Policy| self.attempts(index, event, policy, Some(&self.gates.store));
        let result = match &step.action {
            Action::Lookup(lookup) => asking(lookup.policy).look_up(lookup, store).await,
            Action::Write(write) => {
                let answer = asking(write.policy).write(write, store).await;
                if let (Ok(Answer::Written), Some(rows)) = (&answer, &self.steps[index].rows) {
                    rows.inc();
                }
                answer
            }
            Action::Filter(_) | Action::Set { .. } | Action::Reference(_) | Action::Custom(_) => Ok(Answer::Null),
        };
        result.map_err(|f| f.in_step(&step.name))
    }

    /// The values of a statement's markers. That of a `waning` TTL is null: it is computed when the row is written.
    pub(super) fn binds<'e>(
        &'e self,
        binds: &'e [Place],
        waning: Option<usize>,
        event: &'e Event,
    ) -> Result<Few<'e>, Failure> {
        let mut values = Few::with_capacity(binds.len());
        for value in self.each_bind(binds, waning, event) {
            values.push(value?);
        }
        Ok(values)
    }

    /// The same on the heap, for callers that hold the values while they wait: otherwise their futures would contain
    /// the inline buffer.
    fn held_binds<'e>(
        &'e self,
        binds: &'e [Place],
        waning: Option<usize>,
        event: &'e Event,
    ) -> Result<Vec<Value<'e>>, Failure> {
        let mut values = Vec::with_capacity(binds.len());
        for value in self.each_bind(binds, waning, event) {
            values.push(value?);
        }
        Ok(values)
    }

    fn each_bind<'e>(
        &'e self,
        binds: &'e [Place],
        waning: Option<usize>,
        event: &'e Event,
    ) -> impl Iterator<Item = Result<Value<'e>, Failure>> {
        binds.iter().enumerate().map(move |(index, place)| {
            if waning == Some(index) {
                Ok(Value::Null)
            } else {
                value(&self.program, &place.source, event)
            }
        })
    }

    /// Sets the remaining time of a TTL that is computed from the clock.
    pub(super) fn wane<'e>(
        &'e self,
        write: &'e Write,
        event: &'e Event,
        values: &mut [Value<'e>],
    ) -> Result<(), Failure> {
        let Some(life) = write.waning else { return Ok(()) };
        values[life] = life_left(&self.program, &write.binds[life].source, event)?;
        Ok(())
    }
}

impl Attempts<'_> {
    async fn look_up(&mut self, lookup: &Lookup, store: &AnyStore) -> Result<Answer, Failure> {
        let values = self.runtime.held_binds(&lookup.binds, None, self.event)?;
        let _held = self.event.hold_while(values.iter().map(heap_bytes).sum());
        let key = lookup.cache.as_ref().map(|_| {
            let mut key = Vec::new();
            append_key(&values, &mut key);
            key
        });
        let key = key.as_deref();
        loop {
            self.notice_an_open_breaker();
            let result = match (&lookup.cache, key) {
                // If an old row is acceptable, do not wait for another event's probe.
                (Some(cache), Some(key))
                    if self.runtime.gates.store.is_open()
                        && cache.is_loading(key)
                        && old_row(lookup, Some(key)).is_some() =>
                {
                    Err(not_asked())
                }
                (Some(cache), Some(key)) => {
                    let load = || self.select(Some(key), lookup, store, &values);
                    cache.get_or_load(key, Instant::now(), load).await
                }
                _ => self
                    .select(None, lookup, store, &values)
                    .await
                    .map(|row| (Arc::new(row), Origin::Loaded)),
            };
            match result {
                Ok((row, origin)) if row.is_some() => return Ok(Answer::of(row, origin)),
                Ok(_) => {
                    if let Some(answer) = self.after_missing(lookup.on_missing, lookup.missing.as_ref()).await {
                        return Ok(answer);
                    }
                }
                Err(error) => {
                    if error.class == Class::Transient
                        && let Some(row) = old_row(lookup, key)
                    {
                        self.metrics.stale();
                        return Ok(Answer::Row(row));
                    }
                    self.own = !error.of_another;
                    if let Some(answer) = Box::pin(self.after_error(error.into(), true)).await? {
                        return Ok(answer);
                    }
                }
            }
        }
    }

    /// Reads the row from the store; `key` is its key in the cache.
    async fn select(
        &self,
        key: Option<&[u8]>,
        lookup: &Lookup,
        store: &AnyStore,
        values: &[Value<'_>],
    ) -> Result<Option<Row>, StoreError> {
        if values.iter().any(Value::is_null) {
            // No request is sent, so nothing is learned about the store.
            return store.lookup(&lookup.statement, values).await;
        }
        let pass = match self.runtime.gates.store.pass() {
            Ok(pass) => pass,
            // If an old row is acceptable, do not wait at an open breaker.
            Err(_) if old_row(lookup, key).is_some() => return Err(not_asked()),
            Err(_) => Box::pin(self.pass_when_it_closes()).await?,
        };
        let started = Instant::now();
        let result = store.lookup(&lookup.statement, values).await;
        self.report(pass, result.map(|row| (row, started.elapsed())))
    }

    async fn write(&mut self, write: &Write, store: &AnyStore) -> Result<Answer, Failure> {
        let mut values = self.runtime.held_binds(&write.binds, write.waning, self.event)?;
        let _held = self.event.hold_while(values.iter().map(heap_bytes).sum());
        let timestamp = self.event.origin.write_timestamp_us.saturating_add(write.place);
        loop {
            self.notice_an_open_breaker();
            let result = match self.pass().await {
                Ok(pass) => {
                    let waned = self.runtime.wane(write, self.event, &mut values);
                    waned.map_err(|failure| Failure {
                        attempts: self.tries.made().max(1),
                        ..failure
                    })?;
                    // After its batch has failed a row is written alone: one row may be at fault, and a new batch would keep
                    // failing because of it.
                    let result = if self.event.alone || self.tries.made() > 0 {
                        let started = Instant::now();
                        let written = Box::pin(store.write_alone(&write.statement, &values, timestamp)).await;
                        written.map(|()| started.elapsed())
                    } else {
                        store.write_timed(&write.statement, &values, timestamp).await
                    };
                    self.report(pass, result.map(|took| ((), took)))
                }
                Err(not_asked) => Err(not_asked),
            };
            match result {
                Ok(()) => return Ok(Answer::Written),
                Err(error) => {
                    if let Some(answer) = Box::pin(self.after_error(error.into(), write.idempotent)).await? {
                        return Ok(answer);
                    }
                }
            }
        }
    }

    /// The step's time limit runs while the event waits at the breaker.
    fn notice_an_open_breaker(&mut self) {
        if self.runtime.gates.store.is_open() {
            self.tries.held_up(Instant::now());
        }
    }

    /// Waits until the breaker admits a request. Fails if the step's time limit has passed, or if the event's partition
    /// has left.
    ///
    /// Rare paths are boxed, here and below, because the future is created and copied for each event.
    async fn pass(&self) -> Result<Pass<'_>, StoreError> {
        match self.runtime.gates.store.pass() {
            Ok(pass) => Ok(pass),
            Err(_) => Box::pin(self.pass_when_it_closes()).await,
        }
    }

    async fn pass_when_it_closes(&self) -> Result<Pass<'_>, StoreError> {
        let gate = &self.runtime.gates.store;
        let mut tries = self.tries;
        loop {
            let passed = gate.pass();
            let now = Instant::now();
            let next = match passed {
                Ok(pass) if !self.event.is_abandoned() => return Ok(pass),
                Ok(_) => now,
                Err(next) => next,
            };
            tries.held_up(now);
            let deadline = self.policy.deadline(tries);
            if self.event.is_abandoned() || deadline.is_some_and(|deadline| now >= deadline) {
                return Err(not_asked());
            }
            gate.wait(deadline.map_or(next, |deadline| next.min(deadline))).await;
        }
    }

    /// Reports the result of a request to the breaker, and the duration of an answer to the metrics.
    fn report<T>(&self, pass: Pass<'_>, result: Result<(T, Duration), StoreError>) -> Result<T, StoreError> {
        match &result {
            Ok((_, took)) => {
                pass.succeeded();
                self.metrics.succeeded(*took);
            }
            Err(error) if error.is_outage() => pass.failed(),
            // Such an error is often detected without a request, or by a request that reports to the breaker itself, so
            // it says nothing about the store.
            Err(_) => drop(pass),
        }
        result.map(|(answer, _)| answer)
    }
}

/// A cached row, even if expired, as far as the cache may still serve it.
fn old_row(lookup: &Lookup, key: Option<&[u8]>) -> Option<Hit> {
    lookup.cache.as_ref()?.get_stale(key?, Instant::now())
}

fn not_asked() -> StoreError {
    let message = "the database was not asked: other requests got no answer, and its breaker is open";
    StoreError::transient(NOT_ASKED, message)
}
