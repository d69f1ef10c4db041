//! The interface between assignment and consumer loop: names of partitions and assignments, actions, and answers.
//!
//! Plain values without behaviour; [`assignment`](super) documents their guarantees.

#[cfg(doc)]
use super::Assignment;
use crate::ledger::{Ledger, Position};

/// A partition of one of the source's topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// Index of the topic in the loop's own list of topics.
    pub topic: u16,
    /// Kafka's number of the partition within the topic.
    pub index: i32,
}

/// Identifies one assignment of one partition. It travels with each record and returns with its completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub(super) slot: u32,
    pub(super) epoch: u32,
}

impl Ticket {
    /// For a record that does not come from a group's assignment.
    pub fn unassigned() -> Ticket {
        Ticket { slot: 0, epoch: 0 }
    }

    /// A small number that identifies the partition, the same for all its assignments.
    pub fn slot(self) -> u32 {
        self.slot
    }
}

/// What the loop has to do, in the order of the actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fetch the committed offsets and metadata of these, until the group answers, and report by [`Assignment::started`] or
    /// [`Assignment::started_at_end`].
    FetchCommitted(Vec<(Partition, Ticket)>),
    /// Seek to `from` and resume. `None`: the group has no offset, and `offset_reset` decides.
    Start {
        /// The partition to resume.
        partition: Partition,
        /// Its assignment.
        ticket: Ticket,
        /// The offset of the first record to fetch.
        from: Option<i64>,
    },
    /// This assignment is over: drop what is queued for it, cancel what runs if possible, and commit nothing more for it.
    Forget {
        /// The partition that leaves, or is assigned again.
        partition: Partition,
        /// The assignment that is over.
        ticket: Ticket,
    },
    /// Commit these now and wait for the answer, within the time that the group allows; an `Unassign` follows.
    Commit(Vec<(Partition, Position)>),
    /// Answer a revocation: call `incremental_unassign` with these (cooperative), or `unassign` (eager).
    Unassign(Vec<Partition>),
}

/// What happened to a record that the consumer returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// It is in flight.
    Admitted {
        /// To be passed to [`Assignment::finished`].
        ticket: Ticket,
        /// Its write timestamp in µs.
        timestamp: i64,
        /// The offset that was due, if this one is later. The offsets between were compacted, belong to transaction markers, or
        /// are gone.
        due: Option<i64>,
    },
    /// Drop it: the partition is not running. The record is neither lost nor committed past.
    Refused,
}

/// What happened to a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// The record was in flight and is finished.
    Counted,
    /// It belongs to an assignment that is over and was ignored.
    Stale,
}

/// State of a partition, for the status page and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Assigned; its committed offset is not known yet.
    Starting,
    /// Records are admitted.
    Running,
    /// Revoked; nothing new is admitted, and what is in flight may finish.
    Draining,
}

/// A partition that this consumer holds.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// The partition.
    pub partition: Partition,
    /// Its assignment.
    pub ticket: Ticket,
    /// Its state.
    pub phase: Phase,
    /// What is in flight, once it runs.
    pub ledger: Option<&'a Ledger>,
}
