//! The partitions of this consumer, and what may still be done with each: a state machine without I/O.
//!
//! ```text
//!               assigned         started, Start taken            revoked              drained or deadline
//!  unassigned ───────────► starting ───────────► running ───────────────► draining ─────────────────────► unassigned
//!                             │                     │                        │
//!                             └─────────────────────┴──────── lost ──────────┴──────► unassigned, nothing committed
//! ```
//!
//! Consumers lose records in rebalances: a partition leaves while its records are in flight, a commit is for a partition that another member owns by
//! now, a completion counts for the wrong assignment. So librdkafka's callback is deferred: the loop passes the list in, continues to poll and to
//! finish records, and calls `(incremental_)unassign` only when [`Action::Unassign`] says so. After each call the loop carries out what
//! [`Assignment::next_action`] returns, in order.
//!
//! Invariants:
//! - each revocation is answered by one `Unassign`, once all its partitions are drained or its deadline has passed;
//! - a lost partition has no ledger, so it cannot be committed;
//! - a [`Ticket`] of an older assignment changes nothing;
//! - a record that was refused while its partition was starting is fetched again: `Start` names its offset;
//! - between the decision to start a partition at an offset and its `Start`, which the loop may delay, no record is taken in, because it would be
//!   from elsewhere.

use std::collections::VecDeque;
use std::time::Instant;

use crate::ledger::{Ledger, LedgerError, Position};

pub use interface::{Action, Completion, Held, Intake, Partition, Phase, Ticket};

mod interface;

#[derive(Debug)]
enum State {
    Unassigned,
    /// `floor` is the lowest offset that was delivered and is not finished: fetching must not start above it. `rewound` is the write clock of a log
    /// that went back before the group's offset did; the group's offset then only counts if it is below `floor`.
    Starting {
        floor: Option<i64>,
        rewound: Option<i64>,
    },
    /// The loop has to start fetching at `from`. Records delivered before that come from elsewhere and are refused.
    Ready {
        ledger: Ledger,
        from: Option<i64>,
    },
    Running(Ledger),
    Draining(Ledger),
}

/// A partition that is, or once was, assigned.
#[derive(Debug)]
struct Place {
    partition: Partition,
    epoch: u32,
    state: State,
    /// Records of this assignment that are still in flight in the ledger but will not come back.
    given_up: usize,
}

/// A revocation that waits for its partitions. Those that were never assigned have no ticket and are not waited for.
#[derive(Debug)]
struct Revocation {
    members: Vec<(Partition, Option<Ticket>)>,
    deadline: Instant,
}

/// The partitions of one consumer. See the module's page for the states and the invariants.
#[derive(Debug, Default)]
pub struct Assignment {
    /// One for each partition that was ever assigned, at its slot.
    places: Vec<Place>,
    /// Slots by topic and partition number.
    slots: Vec<Vec<Option<u32>>>,
    revocations: Vec<Revocation>,
    actions: VecDeque<Action>,
    /// Writes of each record; see [`Ledger::with_writes`].
    writes: usize,
    /// The last epoch given out. Each assignment of a partition gets one, so it does not wrap within the life of a process.
    epoch: u32,
}

impl Assignment {
    /// Without any partition.
    pub fn new() -> Assignment {
        Assignment::default()
    }

    /// Without any partition, for records that make `writes` writes each.
    pub fn with_writes(writes: usize) -> Assignment {
        Assignment {
            writes,
            ..Assignment::default()
        }
    }

    /// The group assigned these partitions to this consumer. librdkafka gets the answer once their committed offsets are known.
    ///
    /// A partition that was still held starts again; its former assignment is forgotten without a commit.
    pub fn assigned(&mut self, partitions: &[Partition]) {
        let mut starting = Vec::with_capacity(partitions.len());
        for &partition in partitions {
            let Some(slot) = self.slot_or_new(partition) else {
                continue;
            };
            let (floor, rewound) = match &self.places[slot as usize].state {
                State::Unassigned => (None, None),
                State::Starting { floor, rewound } => (*floor, *rewound),
                State::Ready { ledger, from } => (*from, clock_of_rewound(ledger)),
                State::Running(ledger) | State::Draining(ledger) => (
                    ledger.position().map(|position| position.offset),
                    clock_of_rewound(ledger),
                ),
            };
            self.end(slot);
            starting.push((partition, self.begin(slot, State::Starting { floor, rewound })));
        }
        if !starting.is_empty() {
            self.actions.push_back(Action::FetchCommitted(starting));
        }
        self.settle(None); // a revocation may have waited for a partition that is now assigned again
    }

    /// The group's committed offset of a starting partition is known (`None`: there is none), with the clock from its metadata (`i64::MIN` if that held
    /// none). The partition runs once its `Start` is taken. Ignored if the assignment is over.
    pub fn started(&mut self, ticket: Ticket, committed: Option<i64>, clock: i64) {
        self.ready(ticket, |floor, rewound| {
            let clock = rewound.map_or(clock, |own| own.max(clock));
            match (floor, committed) {
                (Some(floor), Some(committed)) if rewound.is_some() && floor < committed => {
                    (Ledger::rewound(floor, clock), Some(floor))
                }
                _ => (Ledger::new(committed, clock), committed.or(floor)),
            }
        });
    }

    /// As [`Assignment::started`], if the group has no offset and starts at the end: the end is now at `end`, and committable at once.
    pub fn started_at_end(&mut self, ticket: Ticket, end: i64) {
        self.ready(ticket, |floor, rewound| {
            let from = floor.unwrap_or(end);
            let ledger = match rewound {
                Some(clock) => Ledger::rewound(from, clock),
                None => Ledger::beginning(from),
            };
            (ledger, Some(from))
        });
    }

    /// Sets the leader epoch that was committed with the group's offset, at which a partition has [started](Assignment::started).
    pub fn committed_in(&mut self, ticket: Ticket, leader_epoch: i32) {
        if let Some(Place {
            state: State::Ready { ledger, .. },
            ..
        }) = self.current(ticket)
        {
            ledger.begins_after(leader_epoch);
        }
    }

    fn ready(&mut self, ticket: Ticket, start: impl FnOnce(Option<i64>, Option<i64>) -> (Ledger, Option<i64>)) {
        let writes = self.writes;
        let Some(place) = self.current(ticket) else { return };
        let State::Starting { floor, rewound } = place.state else {
            return;
        };
        let (ledger, from) = start(floor, rewound);
        let ledger = ledger.with_writes(writes);
        place.state = State::Ready { ledger, from };
        let partition = place.partition;
        self.actions.push_back(Action::Start {
            partition,
            ticket,
            from,
        });
    }

    /// The group revokes these partitions and waits for `Unassign`. What is in flight may finish until `deadline`.
    ///
    /// The list may be empty or hold partitions that were never assigned: librdkafka waits for an answer in any case.
    pub fn revoked(&mut self, partitions: &[Partition], deadline: Instant) {
        let members = partitions
            .iter()
            .map(|&partition| (partition, self.ticket(partition)))
            .collect();
        for &partition in partitions {
            let Some(slot) = self.slot(partition) else { continue };
            if let State::Starting { .. } | State::Ready { .. } = self.places[slot as usize].state {
                self.end(slot); // nothing is in flight, and there is nothing to commit
            }
            let state = &mut self.places[slot as usize].state;
            *state = match std::mem::replace(state, State::Unassigned) {
                State::Running(ledger) | State::Draining(ledger) => State::Draining(ledger),
                State::Unassigned | State::Starting { .. } | State::Ready { .. } => State::Unassigned,
            };
        }
        self.revocations.push(Revocation { members, deadline });
        self.settle(None);
    }

    /// The group has already assigned these partitions to others. Nothing is committed; `Unassign` follows at once.
    pub fn lost(&mut self, partitions: &[Partition]) {
        for &partition in partitions {
            if let Some(slot) = self.slot(partition) {
                self.end(slot);
            }
        }
        self.settle(None); // an older revocation may have waited for one of these
        self.actions.push_back(Action::Unassign(partitions.to_vec()));
    }

    /// The membership ended while revocations were pending (the member was fenced, or the assignment was lost during the drain): everything held is
    /// lost. Pending revocations are answered at once, without a commit.
    pub fn lost_all(&mut self) {
        for slot in 0..self.places.len() as u32 {
            self.end(slot);
        }
        self.settle(None);
    }

    /// Answers the revocations whose deadline has passed. To be called at [`Assignment::next_deadline`].
    pub fn tick(&mut self, now: Instant) {
        self.settle(Some(now));
    }

    /// When `tick` is due at the latest; `None` when no revocation is pending.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.revocations.iter().map(|revocation| revocation.deadline).min()
    }

    /// The next action, if any. Call this after each call that changes the assignment, until it returns `None`, and carry out each action before
    /// looking at the next record: once its `Start` is taken, a partition admits records. An action that cannot be carried out yet may be taken later.
    pub fn next_action(&mut self) -> Option<Action> {
        let mut action = self.actions.pop_front()?;
        if let Action::Start { ticket, from, .. } = &mut action
            && let Some(place) = self.current(*ticket)
        {
            place.state = match std::mem::replace(&mut place.state, State::Unassigned) {
                State::Ready { ledger, from: at } => {
                    *from = at;
                    State::Running(ledger)
                }
                other => other,
            };
        }
        Some(action)
    }

    /// Whether a record of this partition would be admitted.
    pub fn accepts(&self, partition: Partition) -> bool {
        self.place(partition)
            .is_some_and(|place| matches!(place.state, State::Running(_)))
    }

    /// Sets the leader epoch of the records of this partition that are admitted next.
    pub fn leads(&mut self, partition: Partition, leader_epoch: i32) {
        if let Some(slot) = self.slot(partition)
            && let State::Running(ledger) = &mut self.places[slot as usize].state
        {
            ledger.leads(leader_epoch);
        }
    }

    /// Admits a record that the consumer returned. `record_timestamp_ms` as in [`Ledger::admit`].
    ///
    /// # Errors
    /// Those of [`Ledger::admit`]. On [`LedgerError::Behind`], drop the record and call [`Assignment::rewind`].
    pub fn admit(
        &mut self,
        partition: Partition,
        offset: i64,
        record_timestamp_ms: Option<i64>,
    ) -> Result<Intake, LedgerError> {
        let Some(slot) = self.slot(partition) else {
            return Ok(Intake::Refused);
        };
        let place = &mut self.places[slot as usize];
        match &mut place.state {
            State::Running(ledger) => {
                let due = ledger.due().filter(|due| *due < offset);
                let timestamp = ledger.admit(offset, record_timestamp_ms)?;
                Ok(Intake::Admitted {
                    ticket: Ticket {
                        slot,
                        epoch: place.epoch,
                    },
                    timestamp,
                    due,
                })
            }
            // It starts at the group's offset, or at the one that will be committed as such, in any case.
            State::Ready { ledger, .. } if ledger.uncommitted().is_some() && !ledger.is_rewound() => {
                Ok(Intake::Refused)
            }
            State::Starting { floor, .. } | State::Ready { from: floor, .. } => {
                *floor = Some(floor.map_or(offset, |floor| floor.min(offset)));
                Ok(Intake::Refused)
            }
            State::Unassigned | State::Draining(_) => Ok(Intake::Refused),
        }
    }

    /// Counts a record as finished: all its effects are acknowledged.
    ///
    /// # Errors
    /// [`LedgerError::NotInFlight`] if this assignment is current, but the record is not in flight.
    pub fn finished(&mut self, ticket: Ticket, offset: i64) -> Result<Completion, LedgerError> {
        let Some(place) = self.current(ticket) else {
            return Ok(Completion::Stale);
        };
        match &mut place.state {
            State::Running(ledger) => ledger.finish(offset)?,
            State::Draining(ledger) => {
                ledger.finish(offset)?;
                if ledger.in_flight() <= place.given_up {
                    self.settle(None);
                }
            }
            State::Unassigned | State::Starting { .. } | State::Ready { .. } => {
                return Err(LedgerError::NotInFlight { offset });
            }
        }
        Ok(Completion::Counted)
    }

    /// `count` more records in flight will not come back. No revocation waits for them; nothing is committed past them.
    pub fn give_up(&mut self, ticket: Ticket, count: usize) {
        if let Some(place) = self.current(ticket) {
            place.given_up += count;
            self.settle(None);
        }
    }

    /// The consumer returned `offset` although a later one was due. librdkafka (2.12) does not repeat records by itself, so the log went back: the
    /// topic was recreated, or truncated. False if the partition is not running.
    ///
    /// The partition gets a new assignment, whose write clock continues the old one. It starts at `offset`, or at the first unfinished record if that
    /// is earlier, because a truncated log may still hold it. The `Start` that follows seeks, so all records from there on come again, including those
    /// that were in flight; other records may have their offsets now.
    pub fn rewind(&mut self, partition: Partition, offset: i64) -> bool {
        let Some(slot) = self.slot(partition) else { return false };
        let State::Running(ledger) = &self.places[slot as usize].state else {
            return false;
        };
        let Some(position) = ledger.position() else {
            return false;
        };
        let from = offset.min(position.offset);
        let ledger = Ledger::rewound(from, ledger.clock()).with_writes(self.writes);
        let from = Some(from);
        self.end(slot);
        let ticket = self.begin(slot, State::Ready { ledger, from });
        self.actions.push_back(Action::Start {
            partition,
            ticket,
            from,
        });
        true
    }

    /// Whether [`Assignment::rewind`] to `offset` repeats finished records, because it starts at the first unfinished one if that is earlier.
    pub fn repeats(&self, partition: Partition, offset: i64) -> bool {
        match self.place(partition).map(|place| &place.state) {
            Some(State::Running(ledger)) => {
                ledger.span() > ledger.in_flight() && ledger.first_unfinished().is_some_and(|first| first < offset)
            }
            _ => false,
        }
    }

    /// Nothing done since the last commit counts: running partitions start again from the group's offset, draining ones end without a commit, and so do
    /// those that have drained and wait for their commit.
    pub fn restart(&mut self) {
        self.actions.retain(|action| !matches!(action, Action::Commit(_)));
        let mut starting = Vec::new();
        for slot in 0..self.places.len() as u32 {
            let place = &self.places[slot as usize];
            let partition = place.partition;
            let (floor, rewound) = match &place.state {
                State::Running(ledger) => (ledger.uncommitted(), clock_of_rewound(ledger)),
                // It was about to start where nothing of the old log is unfinished; after a restart that may be above the group's offset.
                State::Ready { ledger, from } if ledger.is_rewound() => (*from, clock_of_rewound(ledger)),
                State::Draining(_) => {
                    self.end(slot);
                    continue;
                }
                State::Unassigned | State::Starting { .. } | State::Ready { .. } => continue,
            };
            self.end(slot);
            starting.push((partition, self.begin(slot, State::Starting { floor, rewound })));
        }
        if !starting.is_empty() {
            self.actions.push_back(Action::FetchCommitted(starting));
        }
        self.settle(None); // a revocation may have waited for an assignment that has ended
    }

    /// What may be committed now, for running and draining partitions. Report acknowledgements by [`Assignment::committed`].
    pub fn committable(&self) -> impl Iterator<Item = (Partition, Ticket, Position)> {
        self.held()
            .filter_map(|held| Some((held.partition, held.ticket, held.ledger?.committable()?)))
    }

    /// The broker acknowledged the commit of `offset`. Ignored if the assignment is over.
    pub fn committed(&mut self, ticket: Ticket, offset: i64) {
        if let Some(Place {
            state: State::Running(ledger) | State::Draining(ledger),
            ..
        }) = self.current(ticket)
        {
            ledger.committed(offset);
        }
    }

    /// All partitions held, in the order of their first assignment. To stop, pass them all to [`Assignment::revoked`].
    pub fn held(&self) -> impl Iterator<Item = Held<'_>> {
        self.places.iter().zip(0..).filter_map(|(place, slot)| {
            let (phase, ledger) = match &place.state {
                State::Unassigned => return None,
                State::Starting { .. } | State::Ready { .. } => (Phase::Starting, None),
                State::Running(ledger) => (Phase::Running, Some(ledger)),
                State::Draining(ledger) => (Phase::Draining, Some(ledger)),
            };
            Some(Held {
                partition: place.partition,
                ticket: Ticket {
                    slot,
                    epoch: place.epoch,
                },
                phase,
                ledger,
            })
        })
    }

    /// Whether this partition is held, in whatever phase.
    pub fn holds(&self, partition: Partition) -> bool {
        self.ticket(partition).is_some()
    }

    /// Answers each revocation that has nothing left to wait for, or whose deadline has passed at `now`.
    fn settle(&mut self, now: Option<Instant>) {
        let ready = |this: &Assignment, revocation: &Revocation| {
            now.is_some_and(|now| revocation.deadline <= now)
                || !revocation
                    .members
                    .iter()
                    .any(|&(_, ticket)| ticket.is_some_and(|ticket| this.is_busy(ticket)))
        };
        // Search from the start after each answer: another revocation of the same partition may have waited for the assignment that just ended.
        while let Some(at) = self.revocations.iter().position(|revocation| ready(self, revocation)) {
            let revocation = self.revocations.remove(at);
            self.answer(&revocation);
        }
    }

    fn answer(&mut self, revocation: &Revocation) {
        let mut positions = Vec::new();
        for &(partition, ticket) in &revocation.members {
            let Some(ticket) = ticket else { continue };
            if let Some(Place {
                state: State::Draining(ledger),
                ..
            }) = self.current(ticket)
            {
                positions.extend(ledger.committable().map(|position| (partition, position)));
                self.end(ticket.slot);
            }
        }
        if !positions.is_empty() {
            self.actions.push_back(Action::Commit(positions));
        }
        // A partition that was assigned again meanwhile is no longer part of this revocation.
        let partitions = revocation.members.iter().map(|&(partition, _)| partition);
        let gone = partitions
            .filter(|&partition| self.ticket(partition).is_none())
            .collect();
        self.actions.push_back(Action::Unassign(gone));
    }

    /// Whether this assignment is current and draining, and records that will come back are still in flight.
    fn is_busy(&self, ticket: Ticket) -> bool {
        self.places
            .get(ticket.slot as usize)
            .is_some_and(|place| match &place.state {
                State::Draining(ledger) => place.epoch == ticket.epoch && ledger.in_flight() > place.given_up,
                State::Unassigned | State::Starting { .. } | State::Ready { .. } | State::Running(_) => false,
            })
    }

    /// Begins a new assignment of the partition at `slot`.
    fn begin(&mut self, slot: u32, state: State) -> Ticket {
        self.epoch = self.epoch.wrapping_add(1);
        let place = &mut self.places[slot as usize];
        place.epoch = self.epoch;
        place.state = state;
        place.given_up = 0;
        Ticket {
            slot,
            epoch: self.epoch,
        }
    }

    /// Ends the assignment of the partition at `slot`, if there is one.
    fn end(&mut self, slot: u32) {
        let place = &mut self.places[slot as usize];
        if !matches!(place.state, State::Unassigned) {
            place.state = State::Unassigned;
            let ticket = Ticket {
                slot,
                epoch: place.epoch,
            };
            self.actions.push_back(Action::Forget {
                partition: place.partition,
                ticket,
            });
        }
    }

    /// The ticket of the partition's assignment, if it is held.
    pub fn ticket(&self, partition: Partition) -> Option<Ticket> {
        let slot = self.slot(partition)?;
        let place = &self.places[slot as usize];
        (!matches!(place.state, State::Unassigned)).then_some(Ticket {
            slot,
            epoch: place.epoch,
        })
    }

    /// The place of this assignment, unless it is over.
    fn current(&mut self, ticket: Ticket) -> Option<&mut Place> {
        let place = self.places.get_mut(ticket.slot as usize)?;
        (place.epoch == ticket.epoch && !matches!(place.state, State::Unassigned)).then_some(place)
    }

    fn place(&self, partition: Partition) -> Option<&Place> {
        self.places.get(self.slot(partition)? as usize)
    }

    fn slot(&self, partition: Partition) -> Option<u32> {
        let index = usize::try_from(partition.index).ok()?;
        *self.slots.get(usize::from(partition.topic))?.get(index)?
    }

    /// The slot of a partition; a new one if it was never assigned. `None` for a negative number, which Kafka does not assign.
    fn slot_or_new(&mut self, partition: Partition) -> Option<u32> {
        if let Some(slot) = self.slot(partition) {
            return Some(slot);
        }
        let (topic, index) = (usize::from(partition.topic), usize::try_from(partition.index).ok()?);
        if self.slots.len() <= topic {
            self.slots.resize_with(topic + 1, Vec::new);
        }
        let of_topic = &mut self.slots[topic];
        if of_topic.len() <= index {
            of_topic.resize(index + 1, None);
        }
        let slot = self.places.len() as u32; // Kafka supports far fewer than four billion partitions
        of_topic[index] = Some(slot);
        self.places.push(Place {
            partition,
            epoch: 0,
            state: State::Unassigned,
            given_up: 0,
        });
        Some(slot)
    }
}

/// The write clock of a log that went back, until the group's offset has been set back, too.
fn clock_of_rewound(ledger: &Ledger) -> Option<i64> {
    ledger.is_rewound().then(|| ledger.clock())
}

#[cfg(test)]
mod tests;
