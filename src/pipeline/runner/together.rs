//! Rows of a grouped write: the loop gathers them, and their events continue when their batch is written.
//!
//! A row that waits in its own task costs two wake-ups, a channel and the memory of the task. Here the event itself waits in the batch, and one task
//! serves the whole batch. If a batch fails, each of its events takes the path through `ask`, which retries its row alone, as the step declares, and
//! so finds the faulty one.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;

use super::attempts::words;
use super::{Advance, Runtime, random};
use crate::config::OnError;
use crate::pipeline::completions::How;
use crate::pipeline::evaluate::holds;
use crate::pipeline::event::Event;
use crate::pipeline::program::{Action, Stage, Write};
use crate::retry::Class;
use crate::store::group::GroupOptions;
use crate::store::{EncodedRow, StoreError};

/// An event that waits until its row is written together with others.
#[derive(Debug)]
pub struct Member {
    /// The step that writes.
    pub step: usize,
    /// How its rows are grouped.
    pub options: GroupOptions,
    /// The row.
    pub row: EncodedRow,
    /// The event that the row belongs to.
    pub event: Box<Event>,
    /// When it joined.
    pub since: Instant,
}

impl Runtime {
    /// The grouped write that a stage consists of. None for an event that writes alone, and for a step that counts attempts: the failure of a
    /// batch is not attributable to one row.
    pub(super) fn grouped(&self, stage: &Stage, event: &Event) -> Option<(usize, &Write, &GroupOptions)> {
        let Stage::Together(members) = stage else { return None };
        let [index] = members.as_slice() else { return None };
        let Action::Write(write) = &self.program.steps[*index].action else {
            return None;
        };
        let options = self.store.as_ref()?.grouping(&write.statement)?;
        (!event.alone && write.policy.on_error == OnError::Retry).then_some((*index, write, options))
    }

    /// The row that an event would write together with others at this stage, with its step and grouping; none if anything is unusual, which `process`
    /// then handles.
    pub(super) fn row(&self, stage: &Stage, event: &Event) -> Option<(usize, GroupOptions, EncodedRow)> {
        let (index, write, options) = self.grouped(stage, event)?;
        if self.gates.store.is_open() {
            return None;
        }
        if let Some(when) = &self.program.steps[index].when
            && !holds(&self.program, &when.source, event).ok()?
        {
            return None;
        }
        let mut values = self.binds(&write.binds, write.waning, event).ok()?;
        self.wane(write, event, &mut values).ok()?;
        let store = self.store.as_ref()?;
        let timestamp = event.origin.write_timestamp_us.saturating_add(write.place);
        let row = store.encode(&write.statement, &values, timestamp)?;
        Some((index, *options, row))
    }

    /// Writes the rows of one step, those of all `members`, in one batch, and lets their events continue.
    pub async fn write_together(self: Arc<Self>, step: usize, members: Vec<Member>) {
        // One pass for all of them, because they are one request. At an open breaker each event waits alone.
        let (action, pass) = (&self.program.steps[step].action, self.gates.store.pass());
        let (Action::Write(write), Some(store), Ok(pass)) = (action, &self.store, pass) else {
            return members.into_iter().for_each(|member| member.event.go_on_alone());
        };
        let mut rows = Vec::with_capacity(members.len());
        let mut events = Vec::with_capacity(members.len());
        for Member { row, event, .. } in members {
            if event.is_abandoned() {
                event.complete(How::Abandoned);
                continue;
            }
            rows.push(row);
            events.push(event);
        }
        if rows.is_empty() {
            return;
        }
        let handles = &self.steps[step];
        let waiting = handles.step.enter(rows.len());
        let sent = Instant::now();
        let result = store.write_rows(&write.statement, rows).await;
        drop(waiting);
        let now = Instant::now();
        if let Err(error) = result {
            if error.is_outage() {
                pass.failed();
            } else {
                // The error says nothing about the store.
                drop(pass);
            }
            self.after_failure(step, &error, &events).await;
            // Each is written alone.
            return events.into_iter().for_each(|event| event.go_on_alone());
        }
        pass.succeeded();
        let took = now.saturating_duration_since(sent);
        let mut refused = Vec::new();
        for mut event in events {
            handles.step.succeeded(took);
            if let Some(rows) = &handles.rows {
                rows.inc();
            }
            event.pass_stage();
            match self.advance(event, now) {
                Advance::Ended => {}
                Advance::Waits(event) | Advance::Joins(Member { event, .. }) => event.go_on(),
                Advance::Refused(failure, event) => refused.push(self.refused(event, failure)),
            }
        }
        join_all(refused).await;
    }

    /// Reports that their batch has failed, and waits if the error may pass.
    async fn after_failure(&self, step: usize, error: &StoreError, events: &[Box<Event>]) {
        if error.class == Class::Transient {
            let (metrics, name) = (&self.steps[step].step, &self.program.steps[step].name);
            metrics.transient.inc_by(events.len() as u64);
            metrics.retries.inc_by(events.len() as u64);
            if let Some(suppressed) = self.told_of(error.label, Some(name), "trying again") {
                let message = words(&error.message, error.label, false);
                tracing::warn!(
                    pipeline = %self.program.name, step = %name, reason = error.label,
                    rows = events.len(), suppressed, "{message}; trying again"
                );
            }
            // An open breaker decides itself when requests continue.
            if let Some(event) = events.first()
                && !self.gates.store.is_open()
            {
                let until = Instant::now() + self.backoff.delay(0, random(event, 0));
                self.gates.store.wait(until).await;
            }
        }
    }
}
