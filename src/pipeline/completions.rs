//! Returns ended events, from tasks and delivery reports, to their consumer loop.
//!
//! One lock and at most one wake-up per batch: a push to an empty list wakes the loop, and the loop takes the whole list at once. No channel and no
//! allocation per record.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::event::{Event, Origin};
use super::failure::Failure;
use crate::lanes::LaneId;
use crate::outcome::Outcome;

/// How an event came back.
#[derive(Debug)]
pub enum How {
    /// All its effects have happened.
    Finished(Outcome),
    /// Its output or dead letter was handed to the producer, and delivery failed; the event can make either again.
    Undelivered(Failure),
    /// It has to be processed again from the last commit. Either its output was refused, and later outputs of its key may already be in the
    /// topic, so that sending it now would place it behind them; or the producer is unusable.
    StartAgain(Failure),
    /// It cannot continue, and its pipeline must not commit past it.
    Fatal(Failure),
    /// Its partition was taken away; the next owner will process it.
    Abandoned,
}

/// An event that has come back.
#[derive(Debug)]
pub struct Completion {
    /// The event.
    pub event: Box<Event>,
    /// How it ended.
    pub how: How,
}

#[derive(Debug, Default)]
struct Inbox {
    completions: Vec<Completion>,
    #[expect(clippy::vec_box, reason = "an event keeps its box on its way")]
    going_on: Vec<Box<Event>>,
    lane_releases: Vec<LaneId>,
    vanished: Vec<Origin>,
    panicked: Vec<&'static str>,
    /// The loop is gone.
    closed: bool,
}

/// The list that a consumer loop takes its ended events from.
#[derive(Debug, Default)]
pub struct Completions {
    inbox: Mutex<Inbox>,
    notify: Notify,
    /// Bytes that the loop's events hold beyond what they were admitted with.
    held: AtomicUsize,
}

impl Completions {
    fn with<T>(&self, add: impl FnOnce(&mut Inbox) -> T) -> T {
        // A poisoned lock means a panic while pushing onto a vector; the vector itself is whole.
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = inbox.completions.is_empty()
            && inbox.going_on.is_empty()
            && inbox.lane_releases.is_empty()
            && inbox.vanished.is_empty()
            && inbox.panicked.is_empty();
        let result = add(&mut inbox);
        drop(inbox);
        if was_empty {
            self.notify.notify_one();
        }
        result
    }

    /// Adds an event that has ended.
    pub fn push(&self, completion: Completion) {
        self.with(|inbox| inbox.completions.push(completion));
    }

    /// Adds an event that has not ended and continues in the loop; if the loop is gone, the event is dropped.
    pub fn go_on(&self, event: Box<Event>) {
        let refused = self.with(|inbox| {
            if inbox.closed {
                return Some(event);
            }
            inbox.going_on.push(event);
            None
        });
        // Not dropped under the lock, because its turn notifies the next event of its key.
        drop(refused);
    }

    /// Closes the list because the loop is gone: events that would continue in it are dropped, now and later, so that
    /// nothing waits for their turns.
    pub fn close(&self) {
        let left = self.with(|inbox| {
            inbox.closed = true;
            std::mem::take(&mut inbox.going_on)
        });
        drop(left);
    }

    /// Frees a lane before its event ends, because its output is in the producer's queue, which keeps the order.
    pub fn release_lane(&self, lane: LaneId) {
        self.with(|inbox| inbox.lane_releases.push(lane));
    }

    /// Notes an event that was dropped before it ended: a bug, which halts its pipeline.
    pub fn vanished(&self, origin: Origin) {
        self.with(|inbox| inbox.vanished.push(origin));
    }

    /// Notes that a task without an event panicked; `what` says what it was doing.
    pub fn panicked(&self, what: &'static str) {
        self.with(|inbox| inbox.panicked.push(what));
    }

    /// Counts bytes that an event holds in addition.
    pub fn hold(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Releases bytes that an event no longer holds.
    pub fn let_go(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that the loop's events hold beyond what they were admitted with.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Waits until there is something to take.
    pub async fn ready(&self) {
        self.notify.notified().await;
    }

    /// Takes everything; the given buffers are cleared and reused.
    pub fn take(&self, batch: &mut Batch) {
        batch.completions.clear();
        batch.going_on.clear();
        batch.lane_releases.clear();
        batch.vanished.clear();
        batch.panicked.clear();
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut inbox.completions, &mut batch.completions);
        std::mem::swap(&mut inbox.going_on, &mut batch.going_on);
        std::mem::swap(&mut inbox.lane_releases, &mut batch.lane_releases);
        std::mem::swap(&mut inbox.vanished, &mut batch.vanished);
        std::mem::swap(&mut inbox.panicked, &mut batch.panicked);
    }
}

/// The content of one [`Completions::take`].
#[derive(Debug, Default)]
pub struct Batch {
    /// Events that ended.
    pub completions: Vec<Completion>,
    /// Events that continue in the loop.
    pub going_on: Vec<Box<Event>>,
    /// Lanes to free.
    pub lane_releases: Vec<LaneId>,
    /// Events that were dropped before they ended.
    pub vanished: Vec<Origin>,
    /// What tasks without an event were doing when they panicked.
    pub panicked: Vec<&'static str>,
}
