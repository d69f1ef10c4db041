//! Commits, and the end: what may be committed is, with the write clock in the metadata.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::{End, Loop};
use crate::ledger::encode_clock;
use crate::pipeline::failure::Failure;
use crate::source::assignment::{Partition, Ticket};

/// How long the last commit is waited for. Without it records are processed again, and nothing is lost.
const LAST_COMMIT: Duration = Duration::from_secs(10);

impl Loop {
    /// Commits what may be, beside the loop: librdkafka answers an asynchronous commit only through a callback that the binding
    /// does not set. One at a time; what is refused is offered again with the next.
    pub(super) fn commit(&mut self) {
        if self.committing {
            return;
        }
        let positions: Vec<_> = self.assignment.committable().collect();
        if positions.is_empty() {
            return;
        }
        let list = self.commit_list(
            positions
                .iter()
                .map(|(p, _, position)| (*p, position.offset, position.clock)),
        );
        let offsets = positions
            .into_iter()
            .map(|(p, ticket, position)| (p, ticket, position.offset))
            .collect();
        let (consumer, answer) = (self.parts.consumer.clone(), self.committed.0.clone());
        self.committing = true;
        self.parts.io.spawn_blocking(move || {
            let result = consumer.commit(&list, CommitMode::Sync);
            // The consumer must not be kept alive by an answer that nobody reads.
            drop(consumer);
            // The loop may have ended meanwhile.
            let _ = answer.send((offsets, result));
        });
    }

    pub(super) fn commit_list(&self, positions: impl Iterator<Item = (Partition, i64, i64)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset, clock) in positions {
            let mut element = list.add_partition(self.topic(partition), partition.index);
            element.set_metadata(encode_clock(clock));
            if let Err(error) = element.set_offset(Offset::Offset(offset)) {
                tracing::error!(pipeline = %self.name(), offset, "not committed: {error}");
            }
        }
        list
    }

    pub(super) fn commit_answered(&mut self, offsets: Vec<(Partition, Ticket, i64)>, result: KafkaResult<()>) {
        self.committing = false;
        if let Err(error) = result {
            self.commit_failed(&error);
            if self.last_commit.is_some() {
                // The end is not held up by brokers that refuse.
                self.last_commit = Some(Instant::now());
            }
            return;
        }
        self.parts.runtime.metrics.commits.inc();
        for (partition, ticket, offset) in offsets {
            self.assignment.committed(ticket, offset);
            if let Some(held) = self.held.get_mut(&partition).filter(|held| held.ticket == ticket) {
                held.metrics.committed_offset.set(offset);
            }
        }
    }

    /// A commit that failed is made again with the next; only records behind it would be processed twice.
    pub(super) fn commit_failed(&mut self, error: &KafkaError) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NoOffset) {
            return;
        }
        self.parts.runtime.metrics.commit_failures.inc();
        if let Some(suppressed) = self.parts.runtime.told("commit") {
            tracing::warn!(pipeline = %self.name(), suppressed, "commit: {error}");
        }
        self.note_error(format!("commit: {error}"));
    }

    pub(super) fn stop(&mut self) {
        if self.stopping.is_none() {
            self.stopping = Some(Instant::now() + self.parts.drain_timeout);
            self.pause(true);
            tracing::info!(pipeline = %self.name(), in_flight = self.parts.budget.records(), "draining");
        }
    }

    pub(super) fn halt(&mut self, failure: Failure) {
        if self.halted.is_none() {
            tracing::error!(pipeline = %self.name(), reason = failure.reason, "pipeline halted: {failure}");
            self.note_error(failure.to_string());
            self.halted = Some(failure);
            self.stop();
        }
    }

    /// Whether the loop is over: everything back, or the deadline passed. Then the last commit is made.
    pub(super) fn end(&mut self, now: Instant) -> Option<End> {
        let deadline = self.stopping?;
        // What waits for a schema, or behind a lane that was not given on, is not waited for.
        let waiting = self.lanes.queued() + self.held.values().map(|h| h.parked.len()).sum::<usize>();
        let left = self.parts.budget.records();
        let running = left.saturating_sub(waiting);
        if running > 0 && now < deadline {
            return None;
        }
        if !self.last_commit_is_over(now) {
            return None;
        }
        Some(match self.halted.take() {
            Some(failure) => End::Halted(failure),
            None if left == 0 => End::Drained,
            None => End::Abandoned(left),
        })
    }

    /// Answers what the group still waits for, commits a last time, and says whether that is over: acknowledged, or given up.
    fn last_commit_is_over(&mut self, now: Instant) -> bool {
        let Some(deadline) = self.last_commit else {
            self.take_notices();
            // Drains that were pending end now, as if their deadlines had passed.
            self.assignment.tick(now + Duration::from_secs(365 * 86_400));
            self.act();
            if !self.unanswered.is_empty() {
                self.unanswered.clear();
                self.assign(&[]);
            }
            self.last_commit = Some(now + LAST_COMMIT);
            self.commit();
            return !self.committing && self.assignment.committable().next().is_none();
        };
        // One that was under way may have left something over.
        self.commit();
        (!self.committing && self.assignment.committable().next().is_none()) || now >= deadline
    }

    pub(super) fn consumer_closes(&mut self) {
        for held in self.held.values() {
            held.abandoned.store(true, Ordering::Relaxed);
        }
        self.parts.consumer.context().close();
        self.metrics.flush();
    }
}
