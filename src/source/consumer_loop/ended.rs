//! Takes ended events back: counts them in the ledger, releases their lanes, reuses their memory.

use std::time::Instant;

use super::Loop;
use crate::lanes::LaneId;
use crate::outcome::Outcome;
use crate::pipeline::completions::{Batch, Completion, How};
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::pipeline::story::story;
use crate::retry::Class;
use crate::sink::PRODUCER_OVER;
use crate::sink::limits::Verdict;
use crate::source::assignment::Completion as Counted;
use crate::telemetry::sentry::Report;

impl Loop {
    pub(super) fn take_ended(&mut self, batch: &mut Batch) {
        self.completions.take(batch);
        // Read the clock once for all of them.
        let now = Instant::now();
        for lane in batch.lane_releases.drain(..) {
            self.leave(lane, now);
        }
        for mut event in batch.going_on.drain(..) {
            event.restore_completions(self.completions.clone());
            self.run(event, now);
        }
        for completion in batch.completions.drain(..) {
            self.ended(completion, now);
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
        for what in batch.panicked.drain(..) {
            self.halt(Failure::fatal("panic", format!("a task that {what} panicked")));
        }
    }

    fn leave(&mut self, lane: LaneId, now: Instant) {
        if let Some((lane, event)) = self.lanes.leave(lane) {
            self.start(lane, event, now);
        }
    }

    pub(super) fn ended(&mut self, Completion { mut event, how }: Completion, now: Instant) {
        let finished = match &how {
            How::Finished(outcome) => self.count(&event, *outcome, now),
            How::Abandoned | How::Undelivered(_) | How::StartAgain(_) | How::Fatal(_) => false,
        };
        if event.span.is_some() {
            self.end_span(&mut event, &how, finished, now);
        }
        match how {
            How::Finished(_) => {}
            // Its probe will not be answered any more.
            How::Abandoned if event.probe => self.parts.runtime.gates.sink.returned(),
            How::Abandoned => {}
            How::Undelivered(failure) => {
                self.note_error(failure.to_string());
                if self.transactions.is_some() {
                    self.undelivered_in_transaction(event, failure);
                    return;
                }
                if failure.class == Class::Permanent
                    && let Some(partition) = self.partition(&event.origin.topic, event.origin.partition)
                    // Once its assignment is over, another record may have its offset.
                    && self.held.get(&partition).is_some_and(|held| held.ticket == event.origin.ticket)
                {
                    let input = (partition, event.origin.offset);
                    self.refused
                        .insert(input, failure.clone(), |partition| self.held.contains_key(&partition));
                }
                event.restore_completions(self.completions.clone());
                let runtime = self.parts.runtime.clone();
                match failure.class {
                    Class::Transient => self
                        .workers
                        .spawn(async move { runtime.send_again(event, failure).await }),
                    Class::Permanent => self.workers.spawn(async move { runtime.fail(event, failure).await }),
                    Class::Fatal => {
                        self.show(&event, "halted", Some(&failure), now);
                        self.halt(failure);
                        self.release(event, false);
                        return;
                    }
                };
                return;
            }
            How::StartAgain(failure) => {
                self.show(&event, "abandoned", Some(&failure), now);
                // Its lane is not passed on: what waits behind it must not overtake it.
                event.lane = None;
                self.start_again(&failure, event.probe);
            }
            How::Fatal(failure) => {
                self.show(&event, "halted", Some(&failure), now);
                event.lane = None; // as above
                // The failure was counted where the event ended.
                self.halt_uncounted(failure);
            }
        }
        if let Some(lane) = event.lane.take() {
            self.leave(lane, now);
        }
        self.release(event, finished);
    }

    /// An output was refused after its turn was over, or the producer cannot be used any more.
    fn start_again(&mut self, failure: &Failure, probe: bool) {
        if failure.reason == PRODUCER_OVER {
            // Events that still run here publish nothing any more.
            self.end_tenures(|_| true);
            // Otherwise the outputs in its queue would be waited for.
            if !std::mem::replace(&mut self.withdrawn, true)
                && let Some(producer) = self.parts.runtime.producer()
            {
                producer.withdraw();
            }
            if let Some(why) = self.parts.runtime.denied() {
                // The halt counts it as what it is, and it says nothing about the brokers.
                if probe {
                    self.parts.runtime.gates.sink.returned();
                }
                return self.halt(Failure::fatal("delivery", why));
            }
        }
        let runtime = &self.parts.runtime;
        runtime.metrics.failed("sink", "transient", "error");
        runtime.gates.sink.failed(probe);
        self.give_way(failure.to_string());
    }

    /// Gives up this consumer for another one, which starts from the last commit.
    pub(super) fn give_way(&mut self, why: String) {
        self.note_error(why.clone());
        // If the process stops, its next start begins at the last commit anyway. If dead letters have stopped intake, another consumer would admit
        // records again.
        if self.stopped_by_limit && self.stopping.is_none() {
            tracing::error!(pipeline = %self.name(), "{why}; uncommitted records run again when the pipeline is restarted");
        }
        if self.stopping.is_some() || self.stopped_by_limit {
            return;
        }
        tracing::error!(pipeline = %self.name(), "{why}; starting again from the last commit");
        self.replace = Some(why);
        self.stop();
    }

    /// Drops an event that waits for its turn or its schema; its record runs again, here or elsewhere.
    pub(super) fn let_go(&mut self, mut event: Box<Event>) {
        if event.span.is_some() {
            self.end_span(&mut event, &How::Abandoned, false, Instant::now());
        }
        self.parts.runtime.metrics.given_up.inc();
        self.take_back(event, true);
    }

    /// An event is over; `finished` says whether its offset counts.
    pub(super) fn release(&mut self, event: Box<Event>, finished: bool) {
        if !finished {
            self.parts.runtime.metrics.given_up.inc();
            // No drain waits for it.
            self.assignment.give_up(event.origin.ticket, 1);
        }
        self.take_back(event, finished);
    }

    /// Frees what an event holds; one that is not `clean` spoils its transaction.
    fn take_back(&mut self, event: Box<Event>, clean: bool) {
        self.left_transaction(event.transaction, clean);
        if event.held() > 0 {
            self.completions.let_go(event.held());
        }
        self.parts.budget.release(event.own_weight());
        self.pool(event);
    }

    fn pool(&mut self, event: Box<Event>) {
        let event = event.recycle();
        if self.pool.len() < self.pool_limit {
            self.pool.push(event);
        }
    }

    /// Shows an ended event in the tap, if somebody looks.
    fn show(&self, event: &Event, outcome: &str, failure: Option<&Failure>, now: Instant) {
        let tap = &self.parts.state.tap;
        if tap.is_open() {
            let runtime = &self.parts.runtime;
            tap.offer(outcome, now, &|showing| {
                story(runtime, event, outcome, failure, now, showing)
            });
        }
    }

    /// Ends the span of a traced event, unless the event goes on; `finished` says whether its offset counts.
    fn end_span(&self, event: &mut Event, how: &How, finished: bool, now: Instant) {
        let Some(tracer) = &self.parts.runtime.tracer else {
            return;
        };
        match how {
            How::Finished(outcome) if finished => {
                let failure = event.failure.clone();
                tracer.end(event, outcome.as_str(), failure, now);
            }
            // It is processed again, here or elsewhere; what it has published already names this span.
            How::Finished(_) | How::Abandoned => tracer.end(event, "abandoned", None, now),
            How::Undelivered(failure) if failure.class == Class::Fatal => {
                tracer.end(event, "halted", Some(failure.clone()), now);
            }
            How::Undelivered(failure) if self.transactions.is_some() => {
                tracer.end(event, "abandoned", Some(failure.clone()), now);
            }
            How::StartAgain(failure) => tracer.end(event, "abandoned", Some(failure.clone()), now),
            How::Undelivered(_) => {}
            How::Fatal(failure) => tracer.end(event, "halted", Some(failure.clone()), now),
        }
    }

    /// Counts a finished event, and returns whether its offset counts. If its assignment is over, it does not, and the record runs again.
    pub(super) fn count(&mut self, event: &Event, outcome: Outcome, now: Instant) -> bool {
        // The brokers accept outputs, whoever owns the partition by now.
        if event.produced.is_some() {
            self.parts.runtime.gates.sink.succeeded();
        }
        match self.assignment.finished(event.origin.ticket, event.origin.offset) {
            Ok(Counted::Counted) => {}
            Ok(Counted::Stale) => return false,
            Err(error) => {
                self.halt(Failure::fatal("internal", error.to_string()));
                return false;
            }
        }
        let metrics = &self.parts.runtime.metrics;
        match outcome {
            Outcome::Done => metrics.done.inc(),
            Outcome::Skipped => metrics.skipped.inc(),
            Outcome::DeadLettered => metrics.dead_lettered.inc(),
        }
        self.show(event, outcome.as_str(), None, now);
        // A dead letter may end at once, and would make the others look fast.
        if outcome != Outcome::DeadLettered {
            let took = now.saturating_duration_since(event.admitted);
            self.metrics.event.observe(took.as_secs_f64());
        }
        let known = outcome == Outcome::DeadLettered && self.parts.limits.is_some() && !self.is_new(event);
        let verdict = self.parts.limits.as_mut().map(|limits| match outcome {
            Outcome::Skipped => limits.skipped(now),
            Outcome::DeadLettered if known => limits.verdict(),
            outcome => limits.record(outcome == Outcome::DeadLettered, now),
        });
        if let Some(Verdict::Stop(reason)) = verdict
            && !self.stopped_by_limit
        {
            self.stopped_by_limit = true;
            self.gauges.dead_letter_stop.set(1);
            let message = format!("intake stopped: {reason}; send SIGHUP or restart once the cause is fixed");
            tracing::error!(pipeline = %self.name(), "{message}");
            // The loop goes on, so nothing else reports this.
            if let Some(sentry) = &self.parts.runtime.sentry {
                sentry.report(Report {
                    pipeline: &self.parts.runtime.program.name,
                    step: "dead_letter",
                    class: "fatal",
                    level: ::sentry::Level::Fatal,
                    topic: None,
                    error: &message,
                });
            }
            self.note_error(message);
        }
        true
    }

    /// Whether this dead letter was not counted before: its record may have ended so already, and run again because that was not committed.
    fn is_new(&mut self, event: &Event) -> bool {
        let partition = self.partition(&event.origin.topic, event.origin.partition);
        partition.is_none_or(|partition| {
            let input = (partition, event.origin.offset);
            self.counted
                .insert(input, (), |partition| self.held.contains_key(&partition))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::limits::{Limits, StopAbove, Window};
    use crate::source::consumer_loop::tests::idle::{taken, with_one_finished};

    /// A filter skips all but one of 200, and that one fails.
    #[tokio::test]
    async fn records_that_are_skipped_hide_no_dead_letters_in_a_row_from_the_limits() {
        let mut this = with_one_finished().await;
        // Above the share that dead letters have here.
        let allowed = StopAbove {
            ratio: Some(0.01),
            consecutive: Some(9),
        };
        this.parts.limits = Some(Limits::new(allowed, Window::default()));
        let now = Instant::now();
        for offset in 1..=2000 {
            assert!(!this.stopped_by_limit, "before {offset}");
            let outcome = if offset % 200 == 0 {
                Outcome::DeadLettered
            } else {
                Outcome::Skipped
            };
            let (event, how) = (taken(&mut this, offset), How::Finished(outcome));
            this.ended(Completion { event, how }, now);
        }
        assert!(this.stopped_by_limit);
    }
}
