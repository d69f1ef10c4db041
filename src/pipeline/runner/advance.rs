//! Runs as much of an event as needs no I/O: in the consumer loop, at once, without a task.
//!
//! Filters, names, cache hits and documents of references are in memory. An event that needs nothing else ends here. Any other is returned at the
//! stage where it has to wait, and `process` continues from there. Only the common case is handled here; everything unusual is left to `process`,
//! which meets it again.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use super::{Answer, Flow, Member, Runtime, keep_small};
use crate::config::OnMissing;
use crate::outcome::Outcome;
use crate::pipeline::completions::How;
use crate::pipeline::evaluate::{holds, value};
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::pipeline::program::{Action, Lookup, Refer, Stage};
use crate::store::cache::append_key;
use crate::turns::Go;

thread_local! {
    /// The cache key of a look-up, under construction.
    static KEY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How far an event got.
#[derive(Debug)]
pub enum Advance {
    /// To its end, or to the producer's queue.
    Ended,
    /// To a step where it has to wait, or where something is unusual: `process` continues.
    Waits(Box<Event>),
    /// To a grouped write: its row waits for others.
    Joins(Member),
    /// To the producer, which refused it.
    Refused(Failure, Box<Event>),
}

impl Runtime {
    /// Runs an event whose datum has been read as far as it gets without waiting. `now` is the current time.
    pub fn advance(&self, mut event: Box<Event>, now: Instant) -> Advance {
        if event.is_abandoned() {
            event.complete(How::Abandoned);
            return Advance::Ended;
        }
        self.make_room(&mut event);
        let mut left_out = None;
        while let Some(stage) = self.program.stages.get(event.stage) {
            let flow = match stage {
                Stage::Alone(index) => self.run_alone(*index, &mut event).ok(),
                Stage::Together(members) => self.answer_now(members, &mut event, now),
            };
            match flow {
                Some(Flow::Continue) => event.pass_stage(),
                Some(Flow::Skip(step)) => {
                    left_out = Some(step);
                    break;
                }
                Some(Flow::Abandon | Flow::GoOn) => return Advance::Waits(event),
                None => {
                    return match self.row(stage, &event) {
                        Some((step, options, row)) => Advance::Joins(Member {
                            step,
                            options,
                            row,
                            event,
                            since: now,
                        }),
                        None => Advance::Waits(event),
                    };
                }
            }
        }
        if !may_end(&mut event) {
            return Advance::Waits(event);
        }
        if left_out.is_some() {
            event.left_out = left_out;
            event.complete(How::Finished(Outcome::Skipped));
            return Advance::Ended;
        }
        let Some(sink) = &self.sink else {
            event.complete(How::Finished(Outcome::Done));
            return Advance::Ended;
        };
        if sink.is_transactional() {
            return Advance::Waits(event);
        }
        match self.hand_over(sink, event) {
            Ok(()) => Advance::Ended,
            Err((failure, event)) => Advance::Refused(failure, event),
        }
    }

    /// The answers of a stage's steps, if all are in memory. If only some are, these are marked as answered.
    fn answer_now(&self, members: &[usize], event: &mut Event, now: Instant) -> Option<Flow> {
        let mut all = true;
        for &index in members {
            // It was answered on an earlier visit.
            if event.is_answered(index) {
                continue;
            }
            let Some(answer) = self.answer_of(index, event, now) else {
                all = false;
                continue;
            };
            let found = match &answer {
                Answer::Row(_) | Answer::Own(_) => Some(true),
                Answer::Missing(_) => Some(false),
                Answer::Null | Answer::Written | Answer::Abandon => None,
            };
            let over = match self.take(index, answer, event) {
                Ok(Flow::Continue) => {
                    event.answered |= 1 << index;
                    None
                }
                Ok(flow) if all && may_end(event) => Some(flow),
                // An earlier step may still end the event or fail, and has precedence, as it does in `process`. This step is asked
                // again, and counted then.
                Ok(_) | Err(_) => {
                    all = false;
                    continue;
                }
            };
            if let Some(found) = found {
                self.count(index, found);
            }
            if over.is_some() {
                return over;
            }
        }
        all.then_some(Flow::Continue)
    }

    /// Counts an answer from memory that was used.
    fn count(&self, index: usize, found: bool) {
        match &self.program.steps[index].action {
            Action::Lookup(lookup) => {
                if let Some(cache) = &lookup.cache {
                    cache.count_hit();
                }
            }
            _ => self.steps[index].count_found(found),
        }
    }

    fn answer_of(&self, index: usize, event: &Event, now: Instant) -> Option<Answer> {
        let step = &self.program.steps[index];
        // There is no bit for this step.
        if index >= Event::ANSWERS {
            return None;
        }
        if let Some(when) = &step.when
            && !holds(&self.program, &when.source, event).ok()?
        {
            return Some(Answer::Null);
        }
        match &step.action {
            Action::Lookup(lookup) => self.cached(lookup, event, now),
            Action::Reference(refer) => self.referred(refer, event),
            Action::Write(_) | Action::Custom(_) | Action::Filter(_) | Action::Set { .. } => None,
        }
    }

    fn cached(&self, lookup: &Lookup, event: &Event, now: Instant) -> Option<Answer> {
        let cache = lookup.cache.as_ref()?;
        let values = self.binds(&lookup.binds, None, event).ok()?;
        let hit = KEY.with_borrow_mut(|key| {
            key.clear();
            append_key(&values, key);
            let hit = cache.peek(key, now);
            keep_small(key);
            hit
        })?;
        match lookup.on_missing {
            _ if hit.is_some() => Some(Answer::Row(hit)),
            OnMissing::Retry => None,
            on_missing => Some(Answer::Missing(on_missing)),
        }
    }

    fn referred(&self, refer: &Refer, event: &Event) -> Option<Answer> {
        if refer.reference.is_on_demand() {
            return None;
        }
        let key = value(&self.program, &refer.key.source, event).ok()?;
        let found = refer.reference.find(&key).ok()?;
        if found.is_none() && refer.on_missing == OnMissing::Retry {
            return None;
        }
        Some(if found.is_some() {
            Answer::Own(Arc::new(found))
        } else {
            Answer::Missing(refer.on_missing)
        })
    }
}

/// Whether an event may end now: it has no turn, or its turn has come.
fn may_end(event: &mut Event) -> bool {
    let come = event.turn.as_mut().map(|turn| turn.has_come());
    matches!(come, None | Some(Some(Go::Publish)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::runner::KEPT;
    use crate::pipeline::runner::tests::bench;

    #[tokio::test]
    async fn a_thread_keeps_the_memory_of_a_small_key_and_not_of_a_large_one() {
        let steps = r#"
[[pipelines.p.steps]]
name = "user"
lookup = "SELECT name FROM users WHERE kind = :kind"
cache = { ttl = "1h" }
"#;
        let mut bench = bench(steps).await;
        for (offset, size) in [(0, 100), (1, 10_000_000)] {
            let event = bench.event(offset, 1, &"x".repeat(size), false);
            let advance = bench.runtime.advance(event, Instant::now());
            assert!(matches!(advance, Advance::Waits(_)), "it is in no cache");
            let kept = KEY.with_borrow(Vec::capacity);
            assert!(kept <= KEPT, "{kept}");
            assert_eq!(kept > 0, size <= KEPT);
        }
    }
}
