//! Events back: counted in the ledger, their lane given on, their memory used again.

use std::time::Instant;

use super::Loop;
use crate::lanes::LaneId;
use crate::outcome::Outcome;
use crate::pipeline::completions::{Batch, Completion, How};
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::retry::Class;
use crate::sink::limits::Verdict;
use crate::source::assignment::Completion as Counted;

impl Loop {
    pub(super) fn take_ended(&mut self, batch: &mut Batch) {
        self.completions.take(batch);
        for lane in batch.lane_releases.drain(..) {
            self.leave(lane);
        }
        for completion in batch.completions.drain(..) {
            self.ended(completion);
        }
        for origin in batch.vanished.drain(..) {
            self.halt(Failure::fatal(
                "internal",
                format!(
                    "the task of {}/{} offset {} ended without a result",
                    origin.topic, origin.partition, origin.offset
                ),
            ));
        }
    }

    pub(super) fn leave(&mut self, lane: LaneId) {
        if let Some((lane, event)) = self.lanes.leave(lane) {
            self.start(lane, event);
        }
    }

    pub(super) fn ended(&mut self, Completion { mut event, how }: Completion) {
        match how {
            How::Finished(outcome) => {
                self.count(&event, outcome);
            }
            How::Abandoned => {}
            How::Undelivered(failure) => {
                self.note_error(failure.to_string());
                event.restore_completions(self.completions.clone());
                let runtime = self.parts.runtime.clone();
                match failure.class {
                    Class::Transient => self
                        .parts
                        .io
                        .spawn(async move { runtime.send_again(event, failure).await }),
                    Class::Permanent => self.parts.io.spawn(async move { runtime.fail(event, failure).await }),
                    Class::Fatal => {
                        self.halt(failure);
                        self.release(event);
                        return;
                    }
                };
                return;
            }
            How::Fatal(failure) => {
                // Its lane is not given on: what waits behind it must not overtake it.
                event.lane = None;
                self.halt(failure);
            }
        }
        if let Some(lane) = event.lane.take() {
            self.leave(lane);
        }
        self.release(event);
    }

    pub(super) fn release(&mut self, event: Box<Event>) {
        self.parts.budget.release(event.own_weight());
        self.pool(event);
    }

    pub(super) fn pool(&mut self, event: Box<Event>) {
        let event = event.recycle();
        if self.pool.len() < self.pool_limit {
            self.pool.push(event);
        }
    }

    pub(super) fn count(&mut self, event: &Event, outcome: Outcome) {
        match self.assignment.finished(event.origin.ticket, event.origin.offset) {
            Ok(Counted::Counted) => {}
            Ok(Counted::Stale) => return,
            Err(error) => {
                self.halt(Failure::fatal("internal", error.to_string()));
                return;
            }
        }
        let metrics = &self.parts.runtime.metrics;
        match outcome {
            Outcome::Done => metrics.done.inc(),
            Outcome::Skipped => metrics.skipped.inc(),
            Outcome::DeadLettered => metrics.dead_lettered.inc(),
        }
        let now = Instant::now();
        metrics.event.observe(now.duration_since(event.admitted).as_secs_f64());
        if let Some(limits) = &mut self.parts.limits
            && let Verdict::Stop(reason) = limits.record(outcome == Outcome::DeadLettered, now)
            && !self.stopped_by_limit
        {
            self.stopped_by_limit = true;
            metrics.dead_letter_stop.set(1);
            let message = format!("intake stopped: {reason}; restart when the cause is mended");
            tracing::error!(pipeline = %self.name(), "{message}");
            self.note_error(message);
        }
    }
}
