//! The status of a consumer loop: written by the loop a few times a second, read by probes, metrics and the status page.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::tap::Tap;

/// State of a loop that stopped because of too many dead letters: it admits no records, but still polls and stays in its group.
pub const STOPPED_BY_LIMIT: &str = "dead letters";

/// Status of a partition.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionStatus {
    /// Topic.
    pub topic: String,
    /// Number within the topic.
    pub partition: i32,
    /// `starting`, `running` or `draining`.
    pub phase: &'static str,
    /// Offset of the next record to admit.
    pub position: Option<i64>,
    /// First offset that is not finished: the one to commit.
    pub unfinished: Option<i64>,
    /// The group's committed offset, as far as it is known. It stays behind while commits fail.
    pub committed: Option<i64>,
    /// End of what can be read from the partition, as far as it is known.
    pub end: Option<i64>,
    /// Records between the first unfinished one and the end, plus those after the end that open transactions withhold.
    pub lag_records: Option<i64>,
    /// Seconds. While there is lag that can be read: the age of the first unfinished record whose timestamp is above 0 and not in the future; if there is
    /// none, the age of the record taken last, or the time since the partition was last at its end. 0 otherwise.
    pub lag_seconds: f64,
    /// Records in flight.
    pub in_flight: usize,
    /// Whether it makes no progress although it has lag or, with transactions, finished records that are not committed.
    pub stalled: bool,
}

/// Status of a loop.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LoopStatus {
    /// `connecting`, `joining`, `running`, `stopping`, `rebuilding`, `stopped`, `halted`, or [`STOPPED_BY_LIMIT`].
    pub state: &'static str,
    /// Its thread, also the name of its runtime in metrics; `None` before it has one. Other loops may run on it.
    pub thread: Option<String>,
    /// Records in flight.
    pub in_flight_records: usize,
    /// Bytes in flight.
    pub in_flight_bytes: usize,
    /// The current limit of records in flight.
    pub concurrency_limit: usize,
    /// Whether intake waits for room.
    pub full: bool,
    /// Whether partitions are paused.
    pub paused: bool,
    /// Records that wait for a schema.
    pub waiting_for_schema: usize,
    /// What the loop waits for before it joins its group, and why it does not have it yet.
    pub waiting_for: Option<String>,
    /// Why the loop has halted, if it has.
    pub halted: Option<String>,
    /// The partitions assigned.
    pub partitions: Vec<PartitionStatus>,
    /// The latest failures, newest last.
    pub last_errors: Vec<String>,
    /// Whether the loop has ended, whatever `state` says: a loop in state `halted` may still drain.
    #[serde(skip)]
    pub over: bool,
}

impl LoopStatus {
    /// Whether the loop has nothing to do on its thread any more, or for now: at most it waits elsewhere for its consumer to close.
    pub fn has_left_its_thread(&self) -> bool {
        self.over || matches!(self.state, "rebuilding" | "stopped")
    }

    /// The loop has ended for good.
    fn halt(&mut self) {
        self.state = "halted";
        self.waiting_for = None;
        // After a panic the last status is still in place.
        self.end();
    }

    /// The loop has ended and holds nothing any more: what it has not finished runs again.
    fn end(&mut self) {
        (self.in_flight_records, self.in_flight_bytes, self.waiting_for_schema) = (0, 0, 0);
        (self.full, self.paused) = (false, false);
        self.partitions = Vec::new();
        self.over = true;
    }
}

/// Shared between a loop and the readers of its status.
#[derive(Debug)]
pub struct LoopState {
    started: Instant,
    beat_ms: AtomicU64,
    status: Mutex<LoopStatus>,
    /// Shows single records on request.
    pub tap: Tap,
}

impl Default for LoopState {
    fn default() -> Self {
        LoopState {
            started: Instant::now(),
            beat_ms: AtomicU64::new(0),
            status: Mutex::new(LoopStatus {
                state: "connecting",
                ..LoopStatus::default()
            }),
            tap: Tap::default(),
        }
    }
}

impl LoopState {
    /// A state whose loop has not completed a round for this long.
    #[cfg(test)]
    pub(crate) fn silent_since(long: Duration) -> LoopState {
        LoopState {
            started: Instant::now() - long,
            ..LoopState::default()
        }
    }

    /// The loop has completed another round.
    pub fn beat(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat_ms.store(now, Ordering::Relaxed);
    }

    /// Time since the loop completed a round.
    pub fn silent_for(&self) -> Duration {
        self.started
            .elapsed()
            .saturating_sub(Duration::from_millis(self.beat_ms.load(Ordering::Relaxed)))
    }

    /// Replaces the status, but keeps the thread.
    pub fn set(&self, status: LoopStatus) {
        let mut now = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = now.thread.take();
        *now = LoopStatus { thread, ..status };
    }

    /// Sets the loop's thread.
    pub fn runs_on(&self, thread: &str) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.thread = Some(thread.to_owned());
    }

    /// Sets what the loop still needs before it can begin; `None` if nothing. The next [`LoopState::set`] clears it.
    pub fn waits_for(&self, what: Option<String>) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.waiting_for = what;
    }

    /// The loop has ended in the state that it reported last.
    pub fn ended(&self) {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).end();
    }

    /// The loop has panicked, and its consumer has yet to be closed. After that, [`LoopState::halted`] reports why.
    pub fn fallen(&self) {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).halt();
    }

    /// The loop has ended for good; true if it had not said why.
    pub fn halted(&self, why: &str) -> bool {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.halt();
        let unsaid = status.halted.is_none();
        status.halted.get_or_insert_with(|| why.to_owned());
        unsaid
    }

    /// A copy of the status.
    pub fn get(&self) -> LoopStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_stays() {
        let state = LoopState::default();
        state.runs_on("loop-1");
        state.set(LoopStatus {
            state: "running",
            ..LoopStatus::default()
        });
        let status = state.get();
        assert_eq!((status.state, status.thread.as_deref()), ("running", Some("loop-1")));
    }

    #[test]
    fn what_is_waited_for_is_told_until_the_loop_begins_or_halts() {
        let state = LoopState::default();
        state.waits_for(Some("a token".to_owned()));
        let told = |state: &LoopState| (state.get().state, state.get().waiting_for);
        assert_eq!(told(&state), ("connecting", Some("a token".to_owned())));
        state.set(LoopStatus {
            state: "joining",
            ..LoopStatus::default()
        });
        assert_eq!(told(&state), ("joining", None));
        state.waits_for(Some("a token".to_owned()));
        state.halted("fenced");
        assert_eq!(told(&state), ("halted", None));
    }

    #[test]
    fn one_that_has_halted_has_nothing_in_hand() {
        let state = LoopState::default();
        let had = PartitionStatus {
            topic: "t".to_owned(),
            partition: 0,
            phase: "running",
            position: Some(3),
            unfinished: Some(1),
            committed: Some(1),
            end: Some(9),
            lag_records: Some(8),
            lag_seconds: 4.0,
            in_flight: 2,
            stalled: true,
        };
        state.set(LoopStatus {
            state: "running",
            in_flight_records: 3,
            in_flight_bytes: 300,
            concurrency_limit: 3,
            full: true,
            paused: true,
            waiting_for_schema: 1,
            partitions: vec![had],
            ..LoopStatus::default()
        });
        state.halted("it panicked");
        let status = state.get();
        assert!(status.partitions.is_empty() && !status.full && !status.paused);
        let in_hand = (
            status.in_flight_records,
            status.in_flight_bytes,
            status.waiting_for_schema,
        );
        assert_eq!((in_hand, status.concurrency_limit), ((0, 0, 0), 3));
    }

    #[test]
    fn one_that_has_fallen_is_shown_as_halted_before_anybody_says_why() {
        let state = LoopState::default();
        state.set(LoopStatus {
            state: "running",
            in_flight_records: 3,
            ..LoopStatus::default()
        });
        state.fallen();
        let status = state.get();
        assert_eq!((status.state, status.halted, status.over), ("halted", None, true));
        assert_eq!(status.in_flight_records, 0);
        assert!(state.halted("it panicked"), "it is counted then");
    }

    /// A consumer that replaces it completes rounds again.
    #[test]
    fn a_loop_is_over_when_it_has_ended_and_not_when_it_says_that_it_halts() {
        let state = LoopState::default();
        let says = |word| {
            state.set(LoopStatus {
                state: word,
                ..LoopStatus::default()
            });
            state.get().has_left_its_thread()
        };
        assert_eq!(
            ["running", "halted", "rebuilding", "stopped"].map(says),
            [false, false, true, true]
        );
        assert!(!says("halted"));
        state.ended();
        assert!(state.get().has_left_its_thread());
        assert!(!says("running"));
    }

    #[test]
    fn the_first_reason_of_a_halt_stays() {
        let state = LoopState::default();
        assert!(state.halted("no login"));
        assert!(!state.halted("something else"));
        let status = state.get();
        assert_eq!((status.state, status.halted.as_deref()), ("halted", Some("no login")));
        // Now a loop ends that said so while it drained.
        let told = Some("fenced".to_owned());
        state.set(LoopStatus {
            state: "stopping",
            halted: told.clone(),
            ..LoopStatus::default()
        });
        assert!(!state.halted("fenced"));
        assert_eq!((state.get().state, state.get().halted), ("halted", told));
    }
}
