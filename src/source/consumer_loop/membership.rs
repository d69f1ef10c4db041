//! The loop's part in its group: handles what the callbacks reported, and carries out the actions of the assignment.
//!
//! Blocking calls to the group (committed offsets) run beside the loop, which keeps polling meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::ends::all_ends;
use super::passed_over::passed_over;
use super::{Begin, Fetched, Held, Loop};
use crate::config::OffsetReset;
use crate::kafka::{epoch, member, metadata};
use crate::ledger::decode_clock;
use crate::pipeline::failure::Failure;
use crate::source::assignment::{self, Action, Partition, Phase, Ticket};
use crate::source::context::{Notice, held_of};

/// How long the group is asked for its committed offsets before it is asked again.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Attempts to fetch end offsets: without a limit, one partition without a leader would keep all others from starting.
const ATTEMPTS_AT_ENDS: u32 = 5;

/// The first partition of the list that has an error, and the error.
pub(super) fn refusal(offsets: &TopicPartitionList) -> Option<String> {
    offsets.elements().iter().find_map(|element| {
        let error = element.error().err()?;
        Some(format!("{}/{}: {error}", element.topic(), element.partition()))
    })
}

/// The group's offset in a partition, if it has one.
fn committed(offsets: &TopicPartitionList, topic: &str, partition: i32) -> Option<i64> {
    let element = offsets.find_partition(topic, partition)?;
    match element.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

/// The group's offset if no write clock is stored with it: another program has committed it, such as a tool that moved it.
fn committed_by_another(offsets: &TopicPartitionList, topic: &str, partition: i32) -> Option<i64> {
    let clock = decode_clock(metadata::of(offsets, topic, partition));
    committed(offsets, topic, partition).filter(|_| clock.is_none())
}

impl Loop {
    pub(super) fn take_notices(&mut self) {
        for notice in self.parts.consumer.context().take() {
            match notice {
                Notice::Assigned {
                    partitions,
                    cooperative,
                } => {
                    self.cooperative = cooperative;
                    (self.joined, self.lost) = (true, None);
                    let partitions = self.known(&partitions);
                    tracing::info!(pipeline = %self.name(), partitions = partitions.len(), "partitions assigned");
                    self.parts.runtime.metrics.rebalanced("assigned");
                    self.unanswered.extend(&partitions);
                    self.answered = false;
                    if partitions.is_empty() {
                        self.assign(&[]);
                    }
                    self.assignment.assigned(&partitions);
                }
                Notice::Revoked {
                    partitions,
                    cooperative,
                    lost,
                } => {
                    self.cooperative = cooperative;
                    let partitions = self.known(&partitions);
                    tracing::info!(pipeline = %self.name(), partitions = partitions.len(), lost, "partitions revoked");
                    self.parts
                        .runtime
                        .metrics
                        .rebalanced(if lost { "lost" } else { "revoked" });
                    if lost {
                        // If a topic is gone or may not be read any more, librdkafka takes away only its partitions. It keeps the others, and the group
                        // does not assign them again.
                        let stays = |at: assignment::Held<'_>| {
                            at.phase != Phase::Draining && !partitions.contains(&at.partition)
                        };
                        let all = !self.cooperative || !self.assignment.held().any(stays);
                        self.abort_what_is_lost();
                        self.withdraw_what_is_lost(|at| all || partitions.contains(&at.partition));
                        self.assignment.lost(&partitions);
                        if all {
                            // Pending drains have nothing left to wait for.
                            self.assignment.lost_all();
                            self.lost = Some(member::epoch(&*self.parts.consumer));
                        }
                    } else {
                        self.drain_by = Instant::now() + self.parts.drain_timeout;
                        self.give_up_what_waits(&partitions);
                        self.assignment.revoked(&partitions, self.drain_by);
                    }
                }
                Notice::Fatal(error, reason) => self.halt(Failure::fatal("kafka", format!("{error}: {reason}"))),
            }
        }
    }

    /// Drops the records of these partitions that wait for a schema: they may wait for ever, and the group with them. They had no effects yet and nothing
    /// is committed past them, so they run at the next owner of their partition.
    pub(super) fn give_up_what_waits(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            let Some(held) = self.held.get_mut(partition) else {
                continue;
            };
            let (ticket, parked) = (held.ticket, std::mem::take(&mut held.parked));
            self.assignment.give_up(ticket, parked.len());
            for event in parked {
                self.let_go(event);
            }
        }
    }

    /// Checks whether the group has this member when no callback says so. If the broker assigns, librdkafka (2.12) makes no callback for an assignment
    /// without partitions, and the state in its statistics stays `init`.
    pub(super) fn look_for_membership(&mut self) {
        if self.parts.classic || (self.joined && self.lost.is_none()) {
            return;
        }
        let epoch = member::epoch(&*self.parts.consumer);
        if epoch > 0 && self.lost != Some(epoch) {
            (self.joined, self.lost) = (true, None);
        }
    }

    /// Whether a rebalance is unanswered. Until it is answered, librdkafka fetches nothing, not even from partitions that stay.
    pub(super) fn owes_an_answer(&self) -> bool {
        self.leaving.is_some()
            || self.waits_for_commit()
            || self.assignment.next_deadline().is_some()
            || (!self.answered
                && self
                    .unanswered
                    .iter()
                    .any(|partition| self.assignment.holds(*partition)))
    }

    pub(super) fn known(&self, partitions: &[(String, i32)]) -> Vec<Partition> {
        partitions
            .iter()
            .filter_map(|(topic, index)| self.partition(topic, *index))
            .collect()
    }

    pub(super) fn partition(&self, topic: &str, index: i32) -> Option<Partition> {
        let topic = self.topics.iter().position(|t| **t == *topic)?;
        Some(Partition {
            topic: u16::try_from(topic).ok()?,
            index,
        })
    }

    pub(super) fn partition_of(&mut self, message: &BorrowedMessage<'_>) -> Option<Partition> {
        let index = message.partition();
        // Each access to a message's topic name checks it for UTF-8, so a single topic is not looked up.
        match self.topics.as_slice() {
            [_] => Some(Partition { topic: 0, index }),
            _ => self.partition_in_turn(message.topic(), index),
        }
    }

    /// As [`Loop::partition`], for consecutive records: they come in runs of one topic, so the last topic is tried first.
    pub(super) fn partition_in_turn(&mut self, topic: &str, index: i32) -> Option<Partition> {
        let last = self.last_topic;
        if self.topics.get(usize::from(last)).is_some_and(|t| **t == *topic) {
            return Some(Partition { topic: last, index });
        }
        let partition = self.partition(topic, index)?;
        self.last_topic = partition.topic;
        Some(partition)
    }

    pub(super) fn topic(&self, partition: Partition) -> &Arc<str> {
        &self.topics[usize::from(partition.topic)]
    }

    pub(super) fn name(&self) -> Arc<str> {
        self.parts.runtime.program.name.clone()
    }

    /// Carries out the actions of the assignment. Those that come after the commit of leaving partitions, or after the last commit, wait until that is
    /// over.
    pub(super) fn act(&mut self) {
        let mut starts = Vec::new();
        while self.leaving.is_none()
            && !self.waits_for_commit()
            && !self.last_commit_is_under_way()
            && let Some(action) = self.assignment.next_action()
        {
            match action {
                // A stopping loop starts nothing new; the group is answered at the end.
                Action::FetchCommitted(_) if self.stopping.is_some() => {}
                Action::FetchCommitted(partitions) => self.fetch_committed(partitions, 0),
                Action::Start {
                    partition,
                    ticket,
                    from,
                } => {
                    self.hold(partition, ticket, from);
                    let leader_epoch = self.epoch_before(ticket);
                    if self.unanswered.remove(&partition) {
                        starts.push((partition, from, leader_epoch));
                    } else if let Some(from) = from {
                        self.seek(partition, from, leader_epoch);
                        // A replay may have paused it at its end.
                        if self.parts.bounds.is_some() {
                            self.wait_no_more(partition);
                        }
                    }
                }
                Action::Forget { partition, ticket } => self.forget(partition, ticket),
                Action::Commit(positions) if self.transactions.is_some() => self.leave_with_commit(positions),
                Action::Commit(positions) => self.commit_leaving(&positions),
                Action::Unassign(partitions) => {
                    // Keep the order of the actions.
                    if !starts.is_empty() {
                        self.assign(&std::mem::take(&mut starts));
                    }
                    self.unassign(&partitions);
                }
            }
        }
        if !starts.is_empty() {
            self.assign(&starts);
        }
    }

    pub(super) fn hold(&mut self, partition: Partition, ticket: Ticket, from: Option<i64>) {
        self.unvalidated.remove(&partition);
        let metrics = self
            .parts
            .runtime
            .metrics
            .partition(self.topic(partition), partition.index);
        // An idle partition has no record and no commit that would set it.
        if let Some(from) = from {
            metrics.position.set(from);
        }
        let started = self.assignment.held().find(|at| at.ticket == ticket);
        // If the group has no offset, the beginning of the partition is not committed yet.
        let ledger = started.and_then(|at| at.ledger).filter(|l| l.committable().is_none());
        let committed = ledger.and_then(|l| l.uncommitted());
        let mut held = Held {
            ticket,
            begun: Instant::now(),
            tenure: Arc::default(),
            parked: VecDeque::new(),
            parked_since: None,
            waits: false,
            since_ms: None,
            committed: None,
            metrics,
        };
        if let Some(committed) = committed {
            held.committed(committed);
        }
        self.held.insert(partition, held);
    }

    /// Fetches the group's offsets beside the loop. If the group has none and a partition would begin at its end, the end is fetched and becomes the
    /// group's offset. Otherwise the next start would find another end, and skip what came to an idle partition before. If no broker gives the end,
    /// librdkafka decides. A partition whose offset is refused, for example because its topic may not be read any more, does not keep others from
    /// starting.
    pub(super) fn fetch_committed(&mut self, partitions: Vec<(Partition, Ticket)>, attempt: u32) {
        let consumer = self.parts.consumer.clone();
        // Without the cooperative protocol, a second assignment would replace the first.
        let whole = !self.cooperative && partitions.iter().any(|(at, _)| self.unanswered.contains(at));
        let named: Vec<_> = partitions
            .iter()
            .map(|(p, ticket)| (*p, self.topic(*p).to_string(), *ticket))
            .collect();
        let answer = self.fetched.0.clone();
        let at_end = self.parts.offset_reset == OffsetReset::Latest;
        // In a replay the clock begins with its range, on purpose.
        let keeps_a_clock = self.parts.runtime.program.writes() > 0 && self.parts.bounds.is_none();
        let backoff = self.parts.runtime.backoff;
        let random = self.jitter.next_u64();
        let pipeline = self.name();
        let topics = self.parts.topics.clone();
        let beside = self.beside("fetches committed offsets");
        self.parts.io.spawn_blocking(move || {
            let _beside = beside;
            let mut list = TopicPartitionList::with_capacity(named.len());
            for (partition, topic, _) in &named {
                list.add_partition(topic, partition.index);
            }
            let (offsets, refusal) = match consumer.committed_offsets(list, FETCH_TIMEOUT) {
                Ok(offsets) => {
                    let refusal = refusal(&offsets);
                    (offsets, refusal)
                }
                Err(error) => (TopicPartitionList::new(), Some(error.to_string())),
            };
            let waits = whole && refusal.is_some();
            let (named, unknown): (Vec<_>, Vec<_>) = named.into_iter().partition(|(partition, topic, _)| {
                let found = offsets.find_partition(topic, partition.index);
                // An error of one partition must not be taken for "no offset": its write clock would start afresh.
                !waits && found.is_some_and(|element| element.error().is_ok())
            });
            let anew: Vec<_> = named
                .iter()
                .filter(|(partition, topic, _)| at_end && committed(&offsets, topic, partition.index).is_none())
                .map(|(partition, topic, _)| (*partition, topic.clone()))
                .collect();
            let mut attempt_at_ends = 0;
            let ends = all_ends(&*consumer, anew.clone(), || {
                attempt_at_ends += 1;
                if attempt_at_ends >= ATTEMPTS_AT_ENDS || answer.is_closed() {
                    return false;
                }
                std::thread::sleep(backoff.delay(attempt_at_ends - 1, random.rotate_left(attempt_at_ends)));
                !answer.is_closed()
            });
            let endless: Vec<_> = anew
                .iter()
                .filter(|(partition, _)| !ends.contains_key(partition))
                .map(|(partition, topic)| format!("{topic}/{}", partition.index))
                .collect();
            if !endless.is_empty() && !answer.is_closed() {
                tracing::warn!(
                    pipeline = %pipeline, partitions = %endless.join(", "),
                    "cannot fetch the end offsets of partitions: each partition begins at its end at the time when that can be fetched"
                );
            }
            for (partition, topic, _) in named.iter().filter(|_| keeps_a_clock) {
                let partition = partition.index;
                if let Some(offset) = committed_by_another(&offsets, topic, partition) {
                    tracing::warn!(
                        pipeline = %pipeline, topic = %topic, partition, offset,
                        "the group's offset was not committed by Messina: the write clock begins with the next record, and rows that earlier records \
                         wrote with a later timestamp stay"
                    );
                }
            }
            let known = named
                .iter()
                .map(|(partition, topic, ticket)| {
                    let clock = decode_clock(metadata::of(&offsets, topic, partition.index));
                    let begin = match ends.get(partition) {
                        Some(end) => Begin::End(*end),
                        None => {
                            let offset = committed(&offsets, topic, partition.index);
                            let leader_epoch = epoch::beside(&offsets, topic, partition.index);
                            Begin::Committed(offset, clock.unwrap_or(i64::MIN), leader_epoch)
                        }
                    };
                    (*ticket, begin)
                })
                .collect();
            let begun: Vec<_> = anew
                .into_iter()
                .filter_map(|(partition, topic)| Some((partition, topic, *ends.get(&partition)?)))
                .collect();
            // The answer goes first, because partitions wait for it. The loop may have ended meanwhile.
            if answer.send(Fetched::Known(known)).is_err() {
                return;
            }
            for (topic, partition, records) in passed_over(&*consumer, &topics, &begun, || answer.is_closed()) {
                tracing::warn!(
                    pipeline = %pipeline, topic = %topic, partition, records,
                    "a partition without an offset begins at its end, as offset_reset says, and its records are skipped; the group has offsets in \
                     other topics of the pipeline"
                );
            }
            // The pause below must not keep the consumer alive.
            drop(consumer);
            if unknown.is_empty() || answer.is_closed() {
                return;
            }
            let error = refusal.unwrap_or_default();
            tracing::warn!(pipeline = %pipeline, "cannot fetch committed offsets: {error}; trying again");
            std::thread::sleep(backoff.delay(attempt, random));
            let unknown = unknown.into_iter().map(|(partition, _, ticket)| (partition, ticket));
            // The loop may have ended meanwhile.
            let _ = answer.send(Fetched::Unknown(unknown.collect(), attempt + 1));
        });
    }

    /// Starts the partitions that can start, and asks again for the others, unless they were given back meanwhile or the loop is stopping.
    pub(super) fn offsets_fetched(&mut self, fetched: Fetched) {
        // A stopping loop starts nothing new; the group is answered at the end.
        if self.stopping.is_some() {
            return;
        }
        let (mut partitions, attempt) = match fetched {
            Fetched::Known(begins) => {
                for (ticket, begin) in begins {
                    match begin {
                        Begin::Committed(offset, clock, leader_epoch) => {
                            self.assignment.started(ticket, offset, clock);
                            self.assignment.committed_in(ticket, leader_epoch);
                        }
                        Begin::End(end) => self.assignment.started_at_end(ticket, end),
                    }
                }
                return;
            }
            Fetched::Unknown(partitions, attempt) => (partitions, attempt),
        };
        partitions.retain(|(partition, ticket)| self.assignment.ticket(*partition) == Some(*ticket));
        if partitions.is_empty() {
            return;
        }
        // Partitions that stay are not fetched before librdkafka has an answer.
        if self.cooperative && !self.answered {
            self.assign(&[]);
        }
        self.fetch_committed(partitions, attempt);
    }

    pub(super) fn assign(&mut self, starts: &[(Partition, Option<i64>, i32)]) {
        self.answered = true;
        let mut list = TopicPartitionList::with_capacity(starts.len());
        let begins = match self.parts.offset_reset {
            OffsetReset::Earliest => Offset::Invalid,
            OffsetReset::Latest => Offset::End,
        };
        for (partition, from, leader_epoch) in starts {
            let offset = from.map_or(begins, Offset::Offset);
            if let Err(error) = list.add_partition_offset(self.topic(*partition), partition.index, offset) {
                self.halt(Failure::fatal("assign", error.to_string()));
            }
            epoch::set_last(&mut list, *leader_epoch);
        }
        // librdkafka keeps the pause of an earlier assignment of the same partition; nothing else would lift it.
        if let Err(error) = self.parts.consumer.resume(&list) {
            self.note_error(format!("resume: {error}"));
        }
        let assigned = if self.cooperative {
            self.parts.consumer.incremental_assign(&list)
        } else {
            self.parts.consumer.assign(&list)
        };
        if let Err(error) = assigned {
            // Without an answer librdkafka would wait for ever.
            self.halt(Failure::fatal("assign", error.to_string()));
        }
        self.validate(starts);
        if self.paused {
            // New partitions join the pause.
            self.pause(true);
        }
    }

    pub(super) fn unassign(&mut self, partitions: &[Partition]) {
        self.refused.forget(partitions);
        self.counted.forget(partitions);
        self.gone_until.retain(|partition, _| !partitions.contains(partition));
        self.unvalidated.retain(|partition, _| !partitions.contains(partition));
        let result = if self.cooperative {
            let mut list = TopicPartitionList::with_capacity(partitions.len());
            for partition in partitions {
                if !self.unanswered.remove(partition) {
                    list.add_partition(self.topic(*partition), partition.index);
                }
            }
            // At the end of the loop, `unanswered` was answered as a whole and is empty, but its partitions are not assigned.
            let list = held_of(&*self.parts.consumer, &list);
            self.parts.consumer.incremental_unassign(&list)
        } else {
            self.unanswered.clear();
            self.parts.consumer.unassign()
        };
        if let Err(error) = result {
            self.halt(Failure::fatal("unassign", error.to_string()));
        }
    }

    /// An assignment is over: what waits is dropped, what runs may give up.
    pub(super) fn forget(&mut self, partition: Partition, ticket: Ticket) {
        let Some(held) = self.held.remove(&partition) else {
            return;
        };
        if held.ticket != ticket {
            self.held.insert(partition, held);
            return;
        }
        // It may start again without a new assignment, which would have resumed it.
        if held.waits {
            self.wait_no_more(partition);
        }
        held.tenure.end();
        if let Some(turns) = &mut self.turns {
            turns.forget(ticket);
        }
        for event in held.parked.into_iter().chain(self.lanes.drop_partition(ticket.slot())) {
            self.let_go(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::encode_clock;

    #[test]
    fn an_offset_without_a_write_clock_is_of_another() {
        let mut list = TopicPartitionList::new();
        let clocks = [encode_clock(7), encode_clock(i64::MIN)];
        let beside = [
            clocks[0].as_bytes(),
            clocks[1].as_bytes(),
            b"",
            b"caf\xe9",
            b"messina1:?",
        ];
        for (partition, beside) in (0..).zip(beside) {
            metadata::tests::add(&mut list, "in", partition, beside);
            list.set_partition_offset("in", partition, Offset::Offset(5)).unwrap();
        }
        list.add_partition("in", 5);
        let found: Vec<_> = (0..7)
            .map(|partition| committed_by_another(&list, "in", partition))
            .collect();
        assert_eq!(found, [None, None, Some(5), Some(5), Some(5), None, None]);
    }
}
