//! Replaces a consumer that has stalled, or that can keep the order only by starting again, by a new one in the same process.
//!
//! librdkafka consumers have stopped delivering after a rebalance, silently and for good (rust-rdkafka issues 638 and 665); a new consumer helps. If
//! new ones stall as well, the cause is elsewhere, and the pipeline halts.
//!
//! A broker may refuse an output finally although another attempt would succeed, for example when its disk is full. In an ordered pipeline later records
//! of its key may be in the topic by then, so everything is processed again from the last commit; the same applies when librdkafka has given the producer
//! up. This is repeated as long as it takes, with growing pauses. The pauses are short again when a run has learned of an output that is refused for good:
//! its record becomes a dead letter next time, which is progress.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::refused::Refused;
use super::uncommitted::Uncommitted;
use super::{End, Parts, run};
use crate::pipeline::failure::Failure;
use crate::pipeline::runner::Runtime;
use crate::retry::{Backoff, Jitter};
use crate::sink::limits::Limits;
use crate::source::assignment::Partition;
use crate::source::status::LoopState;

/// The most new consumers in a row that take no record, or make no commit.
const REBUILDS: u32 = 3;

/// After a consumer that ran for this long, the count of replacements in a row starts again.
const LONG_RUN: Duration = Duration::from_secs(60);

/// The pause before a consumer that waits for its group to let it in is as long as after so many replaced in a row; it does not grow beyond that.
const MANY: u32 = 8;

/// How often a waiting loop shows that it is alive.
const BEAT: Duration = Duration::from_secs(1);

/// The pauses between consumers, because the group notices each new one.
fn pauses() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(30), 2.0)
}

/// How many consumers in a row were replaced.
#[derive(Debug, Default)]
struct Patience {
    in_a_row: u32,
    in_vain: u32,
}

impl Patience {
    /// Counts another replaced consumer, which ran for `ran`. `took` is that of [`End::Replaced`]; `learned` says whether it met an output that is refused
    /// for good and was not known. Returns how many were replaced before it in a row, or `None` if another one is not worth a try.
    fn another(&mut self, took: bool, learned: bool, ran: Duration) -> Option<u32> {
        self.in_vain = if took { 1 } else { self.in_vain + 1 };
        let anew = learned || ran >= LONG_RUN;
        self.in_a_row = if anew { 1 } else { self.in_a_row + 1 };
        (self.in_vain <= REBUILDS).then_some(self.in_a_row - 1)
    }
}

/// What a consumer leaves to its successor. Without it:
/// - an output that brokers refuse would have consumers replaced for ever, and its dead letters would never be too many;
/// - each consumer would count dead letters again that the one before has counted;
/// - two processes with one transactional id would never stop fencing each other;
/// - each consumer would count again what is gone from the log;
/// - a stop before the successor takes a record would not report what runs again.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) refused: Refused,
    pub(super) limits: Option<Limits>,
    pub(super) counted: Uncommitted<()>,
    pub(super) fenced: Option<Instant>,
    /// Records that run again.
    pub(super) left: usize,
    pub(super) gone_until: HashMap<Partition, i64>,
}

/// What remains of a consumer that is to be replaced.
struct Last {
    runtime: Arc<Runtime>,
    state: Arc<LoopState>,
    stop: watch::Receiver<bool>,
}

impl Last {
    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits for `pause`, but not once the process stops, because the next consumer would end at once.
    async fn pause(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        while Instant::now() < until && !self.is_stopped() {
            self.state.beat();
            let next = until.min(Instant::now() + BEAT);
            let _ = tokio::time::timeout_at(next.into(), self.stop.wait_for(|stop| *stop)).await;
        }
    }
}

/// Runs one consumer after another, as long as each has to be replaced; `make` makes the parts of each.
pub async fn run_and_rebuild(mut make: impl FnMut() -> Result<Parts, String>) -> End {
    let mut patience = Patience::default();
    let (pauses, mut jitter) = (pauses(), Jitter::unique());
    let mut last: Option<Last> = None;
    let mut kept = Kept::default();
    let mut unmade = 0;
    loop {
        let parts = match (make(), &mut last) {
            (Ok(parts), _) => parts,
            (Err(error), None) => return End::Halted(Failure::fatal("consumer", error)),
            // The first consumer could be made, so this may pass: a file with a secret is just being written, for example.
            (Err(_), Some(last)) if last.is_stopped() => return End::stopped(kept.left),
            (Err(error), Some(last)) => {
                tracing::warn!(pipeline = %last.runtime.program.name, "cannot make a new consumer: {error}; trying again");
                last.pause(pauses.delay(unmade, jitter.next_u64())).await;
                unmade += 1;
                continue;
            }
        };
        unmade = 0;
        let last = last.insert(Last {
            runtime: parts.runtime.clone(),
            state: parts.state.clone(),
            stop: parts.stop.clone(),
        });
        let began = Instant::now();
        let (why, took, waits_for) = match run(parts, &mut kept).await {
            End::Replaced {
                why,
                took,
                left,
                waits_for,
            } => {
                kept.left = left;
                (why, took, waits_for)
            }
            end @ (End::Drained | End::Abandoned(_) | End::Halted(_)) => return end,
        };
        // Closing it may have taken so long that another one was started in its place, under the same name.
        if last.is_stopped() {
            return End::stopped(kept.left);
        }
        let before = if let Some(what) = waits_for {
            // Otherwise `/readyz` would not say why there is none. However often the group is asked, that is not in vain.
            last.state.waits_for(Some(what.to_owned()));
            Some(MANY)
        } else {
            patience.another(took, kept.refused.learned(), began.elapsed())
        };
        let Some(before) = before else {
            let message = format!("{REBUILDS} new consumers got no further than the first: {why}");
            return End::Halted(Failure::fatal("stalled", message));
        };
        last.pause(pauses.delay(before, jitter.next_u64())).await;
        if last.is_stopped() {
            return End::stopped(kept.left);
        }
        // As under the classic protocol, where librdkafka itself asks again, this is no rebuild.
        if waits_for.is_none() {
            last.runtime.metrics.consumer_rebuilds.inc();
            tracing::warn!(pipeline = %last.runtime.program.name, before, "a new consumer takes its place");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_new_ones_in_a_row_and_a_record_starts_the_count_anew() {
        let mut patience = Patience::default();
        let mut another = |took| patience.another(took, false, Duration::from_secs(30));
        assert_eq!([true, false, false].map(&mut another), [Some(0), Some(1), Some(2)]);
        assert_eq!(another(true), Some(3));
        assert_eq!([false, false, false].map(another), [Some(4), Some(5), None]);
    }

    #[test]
    fn one_that_waits_for_its_group_waits_as_long_as_any() {
        assert_eq!(pauses().ceiling(MANY), pauses().ceiling(u32::MAX));
    }

    #[test]
    fn one_that_has_run_for_long_is_followed_at_once() {
        let mut patience = Patience::default();
        let mut another = |seconds| patience.another(true, false, Duration::from_secs(seconds));
        assert_eq!([1, 1, 60, 1].map(&mut another), [Some(0), Some(1), Some(0), Some(1)]);
    }

    /// Otherwise, if brokers refuse many records one by one, each would wait longer than the one before.
    #[test]
    fn one_that_has_learned_what_is_refused_for_good_is_followed_at_once() {
        let mut patience = Patience::default();
        let mut another = |learned| patience.another(true, learned, Duration::from_secs(1));
        let learns = [false, false, true, true, false];
        assert_eq!(learns.map(&mut another), [Some(0), Some(1), Some(0), Some(0), Some(1)]);
    }
}
