//! Commits offsets, with the write clock in the metadata, and ends the loop.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rdkafka::consumer::{CommitMode, Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::transaction::Transactions;
use super::{End, Loop};
use crate::kafka::{epoch, member, metadata};
use crate::ledger::{Ledger, Position, encode_clock};
use crate::pipeline::failure::Failure;
use crate::shutdown::LEAVE_COMMIT;
use crate::source::assignment::{Partition, Ticket};
use crate::source::context::SourceContext;

/// How long to wait for the last commit. Without it, records are processed again, but none is lost.
pub(super) const LAST_COMMIT: Duration = Duration::from_secs(10);

/// How long to ask the group which offsets of a refused commit it has. A stop waits for the answer, and has little time.
const ASK: Duration = Duration::from_secs(2);

/// Interval between attempts at a commit that the group refuses while it is between two generations.
const BETWEEN: Duration = Duration::from_millis(100);

/// Whether the group refuses a commit only because it is between two generations.
///
/// While the members receive their assignments, it refuses every commit. While they join, which lasts until the slowest has heard of the rebalance, the
/// broker does not even read the commit: it reads a connection's next request only after it has answered the last one, a join in this case. By then the
/// commit has the previous generation. If the broker assigns, it has the previous epoch until the next heartbeat is answered, which librdkafka then sends
/// at once. If the member was really thrown out, librdkafka says so by calling its partitions lost.
fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::RebalanceInProgress
                | RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::StaleMemberEpoch
        )
    )
}

/// Commits, and commits again while the group refuses for the moment, at most until `until`: otherwise what leaves would run again elsewhere. Once
/// partitions are lost it gives up, because their new owners may be further.
fn commit_until<C: ConsumerContext, T: Consumer<C>>(
    consumer: &T,
    list: &TopicPartitionList,
    until: Option<Instant>,
) -> KafkaResult<()> {
    loop {
        let result = consumer.commit(list, CommitMode::Sync);
        let passing = result.as_ref().is_err_and(is_passing);
        if !passing || until.is_none_or(|until| Instant::now() >= until) || consumer.assignment_lost() {
            return result;
        }
        std::thread::sleep(BETWEEN);
    }
}

/// As [`commit_until`]; also returns which partitions of the list have arrived, in its order. If brokers refuse one topic, librdkafka (2.12) reports all
/// partitions as refused, in its callbacks, too, although brokers have accepted the others. So the group is asked what it has.
fn commit_and_see<C: ConsumerContext, T: Consumer<C>>(
    consumer: &T,
    list: &TopicPartitionList,
    until: Option<Instant>,
) -> (KafkaResult<()>, Vec<bool>) {
    let result = commit_until(consumer, list, until);
    let arrived = match &result {
        Err(error) if list.count() > 1 && is_of_a_topic(error) => arrived(consumer, list),
        _ => vec![result.is_ok(); list.count()],
    };
    (result, arrived)
}

/// Whether the brokers refuse a topic, and not the member or the group.
fn is_of_a_topic(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::UnknownTopicOrPartition)
    )
}

/// For which partitions of the list the group has this offset, with this write clock.
fn arrived<C: ConsumerContext, T: Consumer<C>>(consumer: &T, list: &TopicPartitionList) -> Vec<bool> {
    let elements = list.elements();
    // Ask with names only, so that nothing in the answer comes from the question.
    let mut asked = TopicPartitionList::with_capacity(elements.len());
    for at in &elements {
        asked.add_partition(at.topic(), at.partition());
    }
    let Ok(offsets) = consumer.committed_offsets(asked, ASK) else {
        return vec![false; elements.len()];
    };
    let has = |topic: &str, partition: i32, offset: Offset| {
        offsets.find_partition(topic, partition).is_some_and(|found| {
            found.error().is_ok()
                && found.offset() == offset
                && metadata::of(&offsets, topic, partition) == metadata::of(list, topic, partition)
        })
    };
    elements
        .iter()
        .map(|at| has(at.topic(), at.partition(), at.offset()))
        .collect()
}

impl Loop {
    /// Commits what may be committed, beside the loop: librdkafka answers an asynchronous commit only through a callback that the binding does not set.
    /// One commit at a time; what is refused is part of the next one.
    pub(super) fn commit(&mut self) {
        // Transactions carry their offsets themselves.
        if self.transactions.is_some() {
            return self.note_offsets_without_records();
        }
        if self.committing {
            return;
        }
        let positions: Vec<_> = self.assignment.committable().collect();
        if positions.is_empty() {
            return;
        }
        let list = self.commit_list(positions.iter().map(|(p, _, position)| (*p, *position)));
        let offsets: Vec<_> = positions
            .into_iter()
            .map(|(p, ticket, position)| (p, ticket, position.offset))
            .collect();
        let (consumer, answer) = (self.parts.consumer.clone(), self.committed.0.clone());
        // Only the last commit is retried; after any other one, the next follows.
        let until = self.last_commit;
        self.committing = true;
        let beside = self.beside("commits");
        self.parts.io.spawn_blocking(move || {
            let _beside = beside;
            let (result, arrived) = commit_and_see(&*consumer, &list, until);
            // The consumer must not be kept alive by an answer that nobody reads.
            drop(consumer);
            let offsets = offsets.into_iter().zip(arrived);
            let offsets = offsets.filter_map(|(at, arrived)| arrived.then_some(at)).collect();
            // The loop may have ended meanwhile.
            let _ = answer.send((offsets, until.is_some(), result));
        });
    }

    /// The list for a commit: each offset with its write clock and leader epoch.
    pub(super) fn commit_list(&self, positions: impl Iterator<Item = (Partition, Position)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, position) in positions {
            let Position {
                offset,
                clock,
                leader_epoch,
            } = position;
            let mut element = list.add_partition(self.topic(partition), partition.index);
            element.set_metadata(encode_clock(clock));
            if let Err(error) = element.set_offset(Offset::Offset(offset)) {
                tracing::error!(pipeline = %self.name(), offset, "not committed: {error}");
            }
            epoch::set_last(&mut list, leader_epoch);
        }
        list
    }

    /// `offsets` are those that have arrived; `last` says whether the commit was begun at the end of the loop.
    pub(super) fn commit_answered(
        &mut self,
        offsets: Vec<(Partition, Ticket, i64)>,
        last: bool,
        result: KafkaResult<()>,
    ) {
        self.committing = false;
        if let Err(error) = &result {
            self.commit_failed(error);
            // Brokers that refuse the last commit do not hold up the end. One that was already under way when the end came is not the last.
            if let Some(until) = self.last_commit
                && last
            {
                self.last_commit = Some(until.min(Instant::now()));
            }
        } else {
            self.parts.runtime.metrics.commits.inc();
        }
        for (partition, ticket, offset) in offsets {
            self.refused.committed(partition, offset);
            self.counted.committed(partition, offset);
            self.assignment.committed(ticket, offset);
            if let Some(held) = self.held.get_mut(&partition).filter(|held| held.ticket == ticket) {
                held.committed(offset);
            }
        }
    }

    /// Commits leaving partitions beside the loop, which finishes others meanwhile: without a coordinator the call takes a session time-out and more. The
    /// partitions are given back when it is answered, or after [`LEAVE_COMMIT`].
    pub(super) fn commit_leaving(&mut self, positions: &[(Partition, Position)]) {
        let list = self.commit_list(positions.iter().copied());
        self.commits_left += 1;
        let number = self.commits_left;
        // At the end of the loop there is only the time of the last commit.
        let until = self.last_commit.unwrap_or_else(|| Instant::now() + LEAVE_COMMIT);
        self.leaving = Some((number, until, positions.len()));
        let (consumer, answer) = (self.parts.consumer.clone(), self.left.0.clone());
        let beside = self.beside("commits partitions that leave");
        self.parts.io.spawn_blocking(move || {
            let _beside = beside;
            let (result, arrived) = commit_and_see(&*consumer, &list, Some(until));
            drop(consumer);
            let left = arrived.iter().filter(|arrived| !**arrived).count();
            // The loop may have ended meanwhile.
            let _ = answer.send((number, result.map_err(|error| (error, left))));
        });
    }

    /// A failure comes with the number of partitions that have not arrived.
    pub(super) fn leave_answered(&mut self, number: u64, result: Result<(), (KafkaError, usize)>) {
        let waited_for = self.leaving.take_if(|(waited_for, ..)| *waited_for == number);
        match result {
            Ok(()) => self.parts.runtime.metrics.commits.inc(),
            Err((error, left)) => {
                self.commit_failed(&error);
                self.run_again(waited_for.map_or(0, |_| left));
            }
        }
    }

    /// Gives up on the answer to the commit of partitions that leave, when its time is over.
    pub(super) fn leave_at_last(&mut self, now: Instant) {
        if let Some((.., partitions)) = self.leaving.take_if(|(_, deadline, _)| now >= *deadline) {
            self.give_back_at_last(partitions);
        }
    }

    /// Partitions are given back although a commit was not answered in time; this many are given up with it.
    pub(super) fn give_back_at_last(&mut self, partitions: usize) {
        self.run_again(partitions);
        let message = "the commit before partitions are given back was not answered in time";
        tracing::warn!(pipeline = %self.name(), "{message}; what they had finished may run again");
        self.note_error(message.to_owned());
    }

    /// This many records run again that are in no ledger any more; a partition that has left counts as one. Before the loop stops, they are not reported.
    pub(super) fn run_again(&mut self, records: usize) {
        if self.stopping.is_some() {
            self.thrown_away += records;
        }
    }

    /// Reports a failed commit. The next one makes up for it; until then a crash would only have records processed twice.
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
        // Now, not with the next update: there may be none before the group has let the member go, and until then it would appear to be running.
        let _ = self.publish_status(self.phase());
    }

    pub(super) fn halt(&mut self, failure: Failure) {
        if self.halted.is_none() {
            let stage = failure.stage();
            let metrics = &self.parts.runtime.metrics;
            metrics.failed(stage, failure.class.as_str(), "fatal");
        }
        self.halt_uncounted(failure);
    }

    /// As [`Loop::halt`], for a failure that is counted already.
    pub(super) fn halt_uncounted(&mut self, failure: Failure) {
        if self.halted.is_none() {
            tracing::error!(pipeline = %self.name(), reason = failure.reason, "pipeline halted: {failure}");
            self.note_error(failure.to_string());
            self.halted = Some(failure);
            self.stop();
        }
    }

    /// The end of the loop, once everything has come back or the deadline has passed, and the last commit is over.
    pub(super) fn end(&mut self, now: Instant) -> Option<End> {
        let deadline = self.stopping?;
        // Events that wait for a schema, or in a lane that was not passed on, are not waited for.
        let waiting = self.lanes.queued() + self.held.values().map(|h| h.parked.len()).sum::<usize>();
        let left = self.parts.budget.records();
        let running = left.saturating_sub(waiting);
        if running > 0 && now < deadline {
            return None;
        }
        if self.transactions.is_some() {
            if !self.last_transaction_is_over(now) || !self.answer_the_group(now) {
                return None;
            }
        } else if !self.last_commit_is_over(now) {
            return None;
        }
        // Records that came back unfinished, were thrown away with their transaction, or whose commit was not acknowledged are no longer in flight, but
        // run again.
        let uncommitted = self.transactions.as_ref().map_or(0, Transactions::uncommitted);
        let left = left.max(self.left_in_ledgers() + self.thrown_away + uncommitted);
        // If the member holds no partition, others process what the previous consumer left.
        let others = self.joined && self.lost.is_none() && self.assignment.held().next().is_none();
        let left = left.max(if others { 0 } else { self.left_before });
        Some(match (self.halted.clone(), self.replace.take()) {
            (Some(failure), _) => End::Halted(failure),
            (None, Some(why)) => End::Replaced {
                why,
                took: self.took,
                left,
                waits_for: self.waits_for,
            },
            (None, None) => End::stopped(left),
        })
    }

    /// Records of the held partitions that run again.
    pub(super) fn left_in_ledgers(&self) -> usize {
        self.assignment
            .held()
            .filter_map(|at| at.ledger)
            .map(Ledger::left)
            .sum()
    }

    /// Answers what the group still waits for; false while a commit has to be answered first.
    fn answer_the_group(&mut self, now: Instant) -> bool {
        self.take_notices();
        // Pending drains end now, as if their deadlines had passed.
        let over = now + Duration::from_secs(365 * 86_400);
        self.withdraw_what_does_not_drain(over);
        self.assignment.tick(over);
        self.act();
        if self.leaving.is_some() || self.waits_for_commit() {
            return false;
        }
        if !self.unanswered.is_empty() {
            self.unanswered.clear();
            self.assign(&[]);
        }
        true
    }

    /// Answers what the group still waits for, commits a last time, and says whether that is over: acknowledged, or given up.
    fn last_commit_is_over(&mut self, now: Instant) -> bool {
        let Some(deadline) = self.last_commit else {
            if !self.answer_the_group(now) {
                return false;
            }
            // The time that the commit of leaving partitions took is not granted again, except for a moment, because brokers may have come back.
            let drained = self.stopping.map_or(now, |by| by.min(now));
            self.last_commit = Some((drained + LAST_COMMIT).max(now + Duration::from_secs(1)));
            self.commit();
            return !self.committing && self.assignment.committable().next().is_none();
        };
        // A commit that was under way may not have covered everything.
        self.commit();
        let over = (!self.committing && self.assignment.committable().next().is_none()) || now >= deadline;
        over && self.answer_the_group(now)
    }

    /// Whether the last commit is being waited for. It is retried while the group refuses it, so a partition that is given back meanwhile could be
    /// committed after its new owner has begun.
    pub(super) fn last_commit_is_under_way(&self) -> bool {
        self.committing && self.last_commit.is_some_and(|by| Instant::now() < by)
    }

    pub(super) fn consumer_closes(&mut self) {
        // From here on others have the partitions. The consumer is being replaced already or ends for good, so it does not give way.
        self.withdraw(|_| true);
        for held in self.held.values_mut() {
            held.tenure.end();
            held.metrics.give_up();
        }
        self.parts.consumer.context().close();
        self.metrics.flush();
    }

    /// Leaves the group in cases where librdkafka (2.12) does not when it closes the consumer. Otherwise the group would wait for the member until its
    /// session times out, and accept nobody's commits meanwhile.
    ///
    /// A member of a cooperative group that holds no partition is closed without leaving, so it unsubscribes first. While its join request is unanswered,
    /// that is not enough: librdkafka delays it until the rebalance is over, and if the member holds partitions, the request to leave waits behind the
    /// join request and is given up after five seconds. So the loop keeps answering the group until it has let the member go.
    pub(super) async fn leave_group(&mut self, consumer: &StreamConsumer<SourceContext>) {
        if !self.cooperative || self.parts.static_member {
            return;
        }
        if !self.parts.classic {
            if consumer.assignment().is_ok_and(|list| list.count() == 0) {
                consumer.unsubscribe();
            }
            return;
        }
        consumer.unsubscribe();
        let until = self.stopping.unwrap_or_else(Instant::now);
        let mut stream = consumer.stream();
        while member::has_name(consumer) {
            self.parts.state.beat();
            // Records that are still delivered are not admitted, and so not committed past.
            let _ = tokio::time::timeout(BETWEEN, stream.next()).await;
            if Instant::now() >= until && member::has_name(consumer) {
                tracing::warn!(
                    pipeline = %self.name(),
                    "the group was still joining at the end of shutdown_timeout: it may wait for this member until its session times out"
                );
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;
    use crate::pipeline::completions::{Completion, How};
    use crate::source::consumer_loop::ends::tests::three_records;
    use crate::source::consumer_loop::tests::idle::{P, taken, with_one_finished};

    #[test]
    fn a_commit_of_the_generation_before_is_made_again_and_that_of_a_stranger_is_not() {
        let passing = [
            RDKafkaErrorCode::RebalanceInProgress,
            RDKafkaErrorCode::IllegalGeneration,
            RDKafkaErrorCode::StaleMemberEpoch,
            RDKafkaErrorCode::FencedMemberEpoch,
            RDKafkaErrorCode::UnknownMemberId,
        ]
        .map(|code| is_passing(&KafkaError::ConsumerCommit(code)));
        assert_eq!(passing, [true, true, true, false, false]);
    }

    /// Like brokers, the mock cluster refuses a topic that it does not have.
    #[test]
    fn what_brokers_take_beside_a_topic_that_they_refuse_has_arrived() {
        let (_cluster, consumer) = three_records(2, 0);
        let listed = |places: &[(&str, i32, i64, i64)]| {
            let mut list = TopicPartitionList::new();
            for (topic, partition, offset, clock) in places {
                let mut element = list.add_partition(topic, *partition);
                element.set_metadata(encode_clock(*clock));
                element.set_offset(Offset::Offset(*offset)).unwrap();
            }
            list
        };
        let list = listed(&[("in", 0, 3, 7), ("gone", 0, 5, 7), ("in", 1, 4, 7)]);
        let began = Instant::now();
        loop {
            let (result, arrived) = commit_and_see(&consumer, &list, None);
            assert!(result.is_err(), "not refused");
            if arrived == [true, false, true] {
                break;
            }
            // The first attempts may come before the coordinator is ready.
            assert!(began.elapsed() < Duration::from_secs(60), "{result:?}: {arrived:?}");
        }
        let others = listed(&[("in", 0, 4, 7), ("in", 1, 4, 8)]);
        assert_eq!(arrived(&consumer, &others), [false, false]);
    }

    #[tokio::test]
    async fn a_commit_is_not_made_beside_another() {
        let mut this = with_one_finished().await;
        assert_eq!(this.assignment.committable().count(), 1);
        this.committing = true;
        this.commit();
        // A commit that was begun would hold a sender for its answer.
        assert_eq!(this.committed.1.sender_strong_count(), 1);
    }

    #[tokio::test]
    async fn a_list_of_commits_has_the_write_clock_beside_each_offset() {
        let this = with_one_finished().await;
        let positions: Vec<_> = this.assignment.committable().map(|(p, _, at)| (p, at)).collect();
        let list = this.commit_list(positions.iter().copied());
        assert_eq!(list.elements()[0].offset(), Offset::Offset(1));
        // The record has no timestamp, so its eight write timestamps are those from 0 on.
        assert_eq!(metadata::of(&list, "in", 0), encode_clock(7).as_bytes());
    }

    #[tokio::test]
    async fn a_list_of_commits_has_the_leader_epoch_of_the_record_before_each_offset() {
        let mut this = with_one_finished().await;
        this.assignment.leads(P, 4);
        let (event, how) = (taken(&mut this, 1), How::Finished(Outcome::Done));
        this.ended(Completion { event, how }, Instant::now());
        this.assignment.leads(P, 5);
        let _unfinished = taken(&mut this, 2);
        let positions: Vec<_> = this.assignment.committable().map(|(p, _, at)| (p, at)).collect();
        let list = this.commit_list(positions.iter().copied());
        assert_eq!(list.elements()[0].offset(), Offset::Offset(2));
        assert_eq!(epoch::beside(&list, "in", 0), 4);
    }

    #[tokio::test]
    async fn a_topic_that_is_refused_speaks_for_no_other() {
        for (arrives, left) in [(true, 0), (false, 1)] {
            let mut this = with_one_finished().await;
            let offsets: Vec<_> = this
                .assignment
                .committable()
                .filter(|_| arrives)
                .map(|(p, ticket, position)| (p, ticket, position.offset))
                .collect();
            let refused = KafkaError::ConsumerCommit(RDKafkaErrorCode::TopicAuthorizationFailed);
            this.commit_answered(offsets, false, Err(refused));
            assert_eq!(this.assignment.committable().count(), left);
            assert_eq!(this.held[&P].metrics.committed_offset.get() == 1, arrives);
            assert_eq!(this.parts.runtime.metrics.commit_failures.get(), 1);
        }
    }

    /// The group does not know of it, so the next owner repeats it.
    #[tokio::test]
    async fn what_leaves_at_the_end_without_its_commit_is_left() {
        for (way, left) in [
            ("refused", 1),
            ("another is refused", 0),
            ("not answered", 1),
            ("committed", 0),
        ] {
            let mut this = with_one_finished().await;
            this.stop();
            let now = Instant::now();
            this.assignment.revoked(&[P], now);
            while this.assignment.next_action().is_some() {}
            this.leaving = Some((1, now, 1));
            match way {
                "refused" => {
                    let gone = RDKafkaErrorCode::UnknownMemberId;
                    this.leave_answered(1, Err((KafkaError::ConsumerCommit(gone), 1)));
                }
                "another is refused" => {
                    let closed = RDKafkaErrorCode::TopicAuthorizationFailed;
                    this.leave_answered(1, Err((KafkaError::ConsumerCommit(closed), 0)));
                }
                "committed" => this.leave_answered(1, Ok(())),
                _ => this.leave_at_last(now),
            }
            let end = this.end(now);
            let told = match &end {
                Some(End::Drained) => Some(0),
                Some(End::Abandoned(left)) => Some(*left),
                _ => None,
            };
            assert_eq!(told, Some(left), "{way}: {end:?}");
        }
    }
}
