//! Tests of what spoils a transaction, and of what is remembered of an output that was refused in one.

use rdkafka::types::RDKafkaRespErr;

use super::*;
use crate::breaker::State;
use crate::outcome::Outcome;
use crate::pipeline::completions::{Completion, How};
use crate::sink::limits::{Limits, StopAbove, Window};
use crate::sink::tests::give_up;
use crate::source::assignment::Action;
use crate::source::consumer_loop::tests::idle::{P, idle_with_transactions, taken, with_probe_out};
use crate::source::context::Notice;

/// The first record of the partition, in the open transaction.
fn in_transaction(this: &mut Loop) -> Box<Event> {
    let mut event = taken(this, 0);
    let transactions = this.transactions.as_mut().unwrap();
    event.transaction = transactions.admit(Instant::now());
    event
}

/// A loop that has finished the first record of its partition, in the open transaction.
async fn with_one_finished() -> Loop {
    let mut this = idle_with_transactions().await;
    let event = in_transaction(&mut this);
    let how = How::Finished(Outcome::Done);
    this.ended(Completion { event, how }, Instant::now());
    this
}

/// Revokes its partition, which is kept for a commit.
fn leaves(this: &mut Loop) {
    this.drain_by = Instant::now() + this.parts.drain_timeout;
    this.assignment.revoked(&[P], Instant::now());
    this.act();
    assert!(this.waits_for_commit());
}

fn fence() -> TransactionError {
    TransactionError::Fenced("a test".to_owned())
}

/// Answers the abort, or the commit, with this error.
fn answered_by(this: &mut Loop, aborting: bool, error: TransactionError) {
    let answer = if aborting {
        this.abort_transaction("a test");
        Answer::Aborted(Err(error))
    } else {
        Answer::Committed(Err(error), Duration::ZERO)
    };
    this.transaction_answered(answer);
}

fn answered_ok(this: &mut Loop) {
    this.transaction_answered(Answer::Committed(Ok(()), Duration::ZERO));
}

/// The record has published, but its offset is not among those that would be committed with its output.
#[tokio::test]
async fn what_finishes_after_its_partition_was_lost_spoils_its_transaction() {
    for (lost, step) in [(false, Step::Commit), (true, Step::Abort)] {
        let mut this = idle_with_transactions().await;
        let event = in_transaction(&mut this);
        if lost {
            this.assignment.lost(&[P]);
        }
        let how = How::Finished(Outcome::Done);
        this.ended(Completion { event, how }, Instant::now());
        let tally = &mut this.transactions.as_mut().unwrap().tally;
        assert_eq!(tally.next(Instant::now(), true, false), step);
    }
}

/// Others repeat the record, and would publish it again.
#[tokio::test]
async fn what_had_finished_when_its_partition_was_lost_is_thrown_away() {
    let mut this = with_one_finished().await;
    this.parts.consumer.context().notice(Notice::Revoked {
        partitions: vec![("in".to_owned(), 0)],
        cooperative: true,
        lost: true,
    });
    this.take_notices();
    assert_eq!(this.parts.runtime.metrics.transactions_aborted.get(), 1);
    assert!(this.transactions.as_ref().unwrap().busy);
}

#[tokio::test]
async fn what_had_finished_of_a_log_that_went_back_spoils_its_transaction_where_it_comes_again() {
    for (repeats, step) in [(false, Step::Commit), (true, Step::Abort)] {
        let mut this = with_one_finished().await;
        let transactions = this.transactions.as_mut().unwrap();
        transactions.went_back(P, repeats);
        assert_eq!(transactions.tally.next(Instant::now(), true, false), step);
    }
}

/// The next start repeats it, although everything has come back.
#[tokio::test]
async fn what_an_abort_throws_away_at_the_end_is_left() {
    let mut this = with_one_finished().await;
    this.stop();
    this.abort_transaction("a test");
    this.transaction_answered(Answer::Aborted(Ok(())));
    let end = this.end(Instant::now());
    assert!(matches!(end, Some(End::Abandoned(1))), "{end:?}");
}

/// Otherwise its next owner may have continued from there by the time that it is committed.
#[tokio::test]
async fn a_partition_is_kept_at_the_end_until_the_transaction_with_it_is_over() {
    let mut this = with_one_finished().await;
    this.transactions.as_mut().unwrap().busy = true;
    this.stop();
    assert!(this.end(Instant::now()).is_none());
    leaves(&mut this);
    // This was the commit that was under way: the next one carries the partition.
    answered_ok(&mut this);
    this.act();
    assert!(this.waits_for_commit());
    assert!(this.end(Instant::now()).is_none());
    assert!(this.transactions.as_ref().unwrap().busy);
    this.act();
    assert!(this.waits_for_commit());
    answered_ok(&mut this);
    assert!(!this.waits_for_commit());
    assert_eq!(this.assignment.next_action(), Some(Action::Unassign(vec![P])));
    let end = this.end(Instant::now());
    assert!(matches!(end, Some(End::Drained)), "{end:?}");
}

/// The group waits no longer. What the call does not carry is never committed, because others have it.
#[tokio::test]
async fn a_commit_that_is_not_answered_holds_up_a_revocation_for_ten_seconds() {
    for carried in [true, false] {
        let mut this = with_one_finished().await;
        if carried {
            leaves(&mut this);
            this.transact(Instant::now());
        } else {
            this.transactions.as_mut().unwrap().busy = true;
            leaves(&mut this);
        }
        let now = Instant::now();
        this.leave_without_commit(now + LEAVE_COMMIT / 2);
        assert!(this.waits_for_commit());
        this.leave_without_commit(now + LEAVE_COMMIT);
        assert!(!this.waits_for_commit());
        let transactions = this.transactions.as_ref().unwrap();
        assert!(transactions.busy);
        assert_eq!(transactions.uncommitted(), usize::from(carried));
        answered_ok(&mut this);
        assert!(!this.waits_for_commit());
        this.transact(Instant::now());
        let transactions = this.transactions.as_ref().unwrap();
        assert!(!transactions.busy);
        assert_eq!(transactions.uncommitted(), 0);
    }
}

/// Another partition's record is in the open transaction, so an event is waited for, and not a call.
#[tokio::test]
async fn what_drains_with_a_partition_has_the_time_of_the_drain() {
    let mut this = with_one_finished().await;
    this.drain_by = Instant::now() + 3 * LEAVE_COMMIT;
    let transactions = this.transactions.as_mut().unwrap();
    transactions.admit(Instant::now());
    leaves(&mut this);
    this.transact(Instant::now());
    this.leave_without_commit(Instant::now() + 2 * LEAVE_COMMIT);
    assert!(this.waits_for_commit());
}

/// Such a partition has no ledger any more.
#[tokio::test]
async fn what_leaves_at_the_end_and_is_not_committed_is_left() {
    for way in ["aborted", "not answered", "not begun", "forgotten", "fenced"] {
        let mut this = with_one_finished().await;
        this.stop();
        let mut now = Instant::now();
        if way == "not begun" {
            this.transactions.as_mut().unwrap().busy = true;
        }
        leaves(&mut this);
        assert!(this.end(now).is_none(), "{way}");
        match way {
            "aborted" => {
                let refused = TransactionError::Abort("a test".to_owned());
                this.transaction_answered(Answer::Committed(Err(refused), Duration::ZERO));
                this.transaction_answered(Answer::Aborted(Ok(())));
            }
            "forgotten" => {
                let forgotten = TransactionError::Forgotten("a test".to_owned());
                this.transaction_answered(Answer::Committed(Err(forgotten), Duration::ZERO));
            }
            "fenced" => this.transaction_answered(Answer::Committed(Err(fence()), Duration::ZERO)),
            _ => now += LAST_COMMIT,
        }
        this.leave_without_commit(now);
        let end = this.end(now);
        assert!(matches!(end, Some(End::Abandoned(1))), "{way}: {end:?}");
    }
}

/// An abort would not bring the transaction back. The consumer counts as one in vain unless it has committed, and the number of those is
/// bounded.
#[tokio::test]
async fn a_consumer_whose_transactions_brokers_have_forgotten_makes_way_for_another() {
    for (stopping, aborting, has_committed) in [
        (true, false, false),
        (true, true, false),
        (false, false, false),
        (false, true, false),
        (false, false, true),
        (false, true, true),
    ] {
        let mut this = with_one_finished().await;
        this.took = true;
        if has_committed {
            answered_ok(&mut this);
        }
        if stopping {
            this.stop();
        }
        answered_by(&mut this, aborting, TransactionError::Forgotten("a test".to_owned()));
        let end = this.end(Instant::now());
        let right = match &end {
            Some(End::Abandoned(1)) => stopping,
            Some(End::Replaced { took, .. }) => !stopping && *took == has_committed,
            _ => false,
        };
        assert!(right, "aborting: {aborting}, committed: {has_committed}, {end:?}");
    }
}

/// What was committed stays committed, and that is progress.
#[tokio::test]
async fn a_commit_after_which_none_can_be_begun_is_made_and_its_consumer_makes_way() {
    let mut this = with_one_finished().await;
    this.took = true;
    let commits = this.parts.runtime.metrics.transactions_committed.get();
    answered_by(&mut this, false, TransactionError::NotBegun("a test".to_owned()));
    assert_eq!(this.parts.runtime.metrics.transactions_committed.get(), commits + 1);
    assert_eq!(this.parts.runtime.metrics.commit_failures.get(), 0);
    let end = this.end(Instant::now());
    assert!(matches!(end, Some(End::Replaced { took: true, .. })), "{end:?}");
}

/// The abort is done, or the next producer does it. In any case the record runs again, and would be refused again.
#[tokio::test]
async fn what_was_refused_is_remembered_by_the_next_consumer_where_no_transaction_can_be_begun() {
    let mut this = idle_with_transactions().await;
    let event = in_transaction(&mut this);
    this.undelivered_in_transaction(event, Failure::permanent("delivery", "invalid"));
    answered_by(&mut this, true, TransactionError::NotBegun("a test".to_owned()));
    assert!(this.replace.is_some());
    assert!(this.refused.get((P, 0)).is_some());
}

#[tokio::test]
async fn a_transaction_that_ends_with_its_producer_is_counted_as_aborted_once() {
    for (aborting, error, aborted) in [
        (false, fence(), 1),
        (true, fence(), 1),
        (false, TransactionError::Forgotten("a test".to_owned()), 1),
        (true, TransactionError::NotBegun("a test".to_owned()), 1),
        // The transaction was committed.
        (false, TransactionError::NotBegun("a test".to_owned()), 0),
    ] {
        let mut this = with_one_finished().await;
        answered_by(&mut this, aborting, error.clone());
        // An output that comes back reports it, too.
        this.given_up(&error, Instant::now());
        let counted = this.parts.runtime.metrics.transactions_aborted.get();
        assert_eq!(counted, aborted, "aborting: {aborting}, {error:?}");
    }
}

/// The time-out of its transaction may be the cause, and that passes.
#[tokio::test]
async fn a_consumer_that_is_fenced_makes_way_for_another_and_halts_where_that_comes_again_soon() {
    for aborting in [false, true] {
        for before in [None, Some(Instant::now())] {
            let mut this = with_one_finished().await;
            this.fenced = before;
            answered_by(&mut this, aborting, fence());
            match (this.end(Instant::now()), before) {
                (Some(End::Replaced { .. }), None) => assert!(this.fenced.is_some()),
                (Some(End::Halted(failure)), Some(_)) => {
                    let told = failure.to_string();
                    assert!(told.contains("another process has its transactional id"), "{told}");
                }
                other => panic!("aborting: {aborting}, {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_fence_ten_minutes_after_the_last_is_a_first_one_again() {
    let last = Instant::now();
    for (seconds, halts) in [(599, true), (600, false)] {
        let mut this = with_one_finished().await;
        this.fenced = Some(last);
        this.given_up(&fence(), last + Duration::from_secs(seconds));
        assert_eq!((this.halted.is_some(), this.replace.is_some()), (halts, !halts));
    }
}

/// The loop does not end as if the pipeline had halted, and nothing counts as done.
#[tokio::test]
async fn a_fence_during_a_stop_tells_what_it_throws_away() {
    for aborting in [false, true] {
        let mut this = with_one_finished().await;
        this.stop();
        answered_by(&mut this, aborting, fence());
        let end = this.end(Instant::now());
        assert!(matches!(end, Some(End::Abandoned(1))), "aborting: {aborting}, {end:?}");
    }
}

#[tokio::test]
async fn what_the_consumer_before_has_left_is_left_where_no_record_has_come() {
    for joined in [false, true] {
        let mut this = idle_with_transactions().await;
        (this.joined, this.left_before) = (joined, 5);
        this.stop();
        let end = this.end(Instant::now());
        assert!(matches!(end, Some(End::Abandoned(5))), "{end:?}");
    }
}

/// librdkafka has given up the producer by then, and each of its outputs comes back: this is one fence, or one transaction that brokers do not
/// have.
#[tokio::test]
async fn outputs_of_a_producer_that_is_given_up_for_what_passes_come_back_without_a_halt() {
    for (error, halts) in [
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR__FENCED, false),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, false),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, true),
    ] {
        let mut this = idle_with_transactions().await;
        let events = [0, 1].map(|offset| {
            let mut event = taken(&mut this, offset);
            event.transaction = this.transactions.as_mut().unwrap().admit(Instant::now());
            event
        });
        give_up(&this.transactions.as_ref().unwrap().parts.producer, error);
        for event in events {
            let refused = Failure::transient("delivery", "brokers know another epoch");
            this.undelivered_in_transaction(event, refused);
        }
        // The call that was under way reports it, too.
        let told = transactions::given_up(&this.transactions.as_ref().unwrap().parts.producer).unwrap();
        if !halts {
            this.transaction_answered(Answer::Committed(Err(told), Duration::ZERO));
        }
        let end = this.end(Instant::now());
        let right = match &end {
            Some(End::Halted(_)) => halts,
            Some(End::Replaced { left: 2, .. }) => !halts,
            _ => false,
        };
        assert!(right, "{error:?}: {end:?}");
    }
}

/// Its outputs come back purged: nothing is wrong with the brokers, and another producer takes the id.
#[tokio::test]
async fn a_consumer_whose_producer_was_withdrawn_makes_way_for_another() {
    let mut this = idle_with_transactions().await;
    let event = in_transaction(&mut this);
    this.transactions.as_ref().unwrap().parts.producer.withdraw();
    this.undelivered_in_transaction(event, Failure::transient(PURGED, "purged"));
    let end = this.end(Instant::now());
    assert!(matches!(end, Some(End::Replaced { left: 1, .. })), "{end:?}");
}

/// The loop does not know of it yet. By itself such a refusal says nothing; the abort that follows gets the reason.
#[tokio::test]
async fn what_is_handed_to_a_producer_that_was_given_up_spoils_its_transaction() {
    let mut this = idle_with_transactions().await;
    let event = in_transaction(&mut this);
    give_up(
        &this.transactions.as_ref().unwrap().parts.producer,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__FENCED,
    );
    let sink = this.parts.runtime.sink.clone().unwrap();
    let (failure, event) = sink.send(event, b"out", None, Instant::now()).unwrap_err();
    let runtime = this.parts.runtime.clone();
    runtime.refused(event, failure).await;
    this.take_ended(&mut Batch::default());
    assert!(this.halted.is_none(), "{:?}", this.halted);
    let tally = &mut this.transactions.as_mut().unwrap().tally;
    assert_eq!(tally.next(Instant::now(), true, false), Step::Abort);
}

/// Other records have its offsets by then: they would become dead letters unread.
#[tokio::test]
async fn what_an_abort_still_brings_back_of_a_log_that_went_back_is_not_remembered() {
    for went_back in [false, true] {
        let mut this = idle_with_transactions().await;
        let event = in_transaction(&mut this);
        this.abort_transaction("a test");
        if went_back {
            this.transactions.as_mut().unwrap().went_back(P, false);
        }
        this.undelivered_in_transaction(event, Failure::permanent("delivery", "invalid"));
        this.transaction_answered(Answer::Aborted(Ok(())));
        assert_eq!(this.refused.get((P, 0)).is_some(), !went_back);
        assert!(this.transactions.as_ref().unwrap().gone.is_empty());
    }
}

/// The record at this offset becomes a dead letter, in the open transaction.
fn dead_lettered(this: &mut Loop, offset: i64) {
    let mut event = taken(this, offset);
    event.transaction = this.transactions.as_mut().unwrap().admit(Instant::now());
    let how = How::Finished(Outcome::DeadLettered);
    this.ended(Completion { event, how }, Instant::now());
}

/// Its partition begins again, where it began before.
fn starts_again(this: &mut Loop) {
    while let Some(action) = this.assignment.next_action() {
        match action {
            Action::Forget { partition, ticket } => this.forget(partition, ticket),
            Action::FetchCommitted(starting) => this.assignment.started(starting[0].1, Some(0), i64::MIN),
            Action::Start {
                partition,
                ticket,
                from,
            } => this.hold(partition, ticket, from),
            Action::Commit(_) | Action::Unassign(_) => panic!("it stays: {action:?}"),
        }
    }
}

/// Otherwise a few of them would be an outage where transactions are aborted again and again.
#[tokio::test]
async fn a_dead_letter_that_runs_again_after_an_abort_is_counted_once() {
    let mut this = idle_with_transactions().await;
    let allowed = StopAbove {
        ratio: None,
        consecutive: Some(3),
    };
    this.parts.limits = Some(Limits::new(allowed, Window::default()));
    (0..2).for_each(|offset| dead_lettered(&mut this, offset));
    this.abort_transaction("a test");
    this.transaction_answered(Answer::Aborted(Ok(())));
    starts_again(&mut this);
    (0..3).for_each(|offset| dead_lettered(&mut this, offset));
    assert!(!this.stopped_by_limit, "there are three");
    dead_lettered(&mut this, 3);
    assert!(this.stopped_by_limit, "new ones count on");
}

/// After five of these, no other probe would go for half a minute.
#[tokio::test]
async fn a_probe_that_is_refused_is_no_longer_out() {
    let away = || Failure::transient("delivery", "brokers are away");
    for (failure, aborted) in [
        (away(), false),
        (away(), true),
        (Failure::transient(BATCH_MATE, "another was refused"), false),
        (Failure::permanent("delivery", "invalid"), false),
        (Failure::fatal("delivery", "not authorized"), false),
    ] {
        let mut this = idle_with_transactions().await;
        let gate = with_probe_out(&this).await;
        let mut event = in_transaction(&mut this);
        event.probe = true;
        if aborted {
            this.abort_transaction("a test");
        }
        let told = failure.to_string();
        this.undelivered_in_transaction(event, failure);
        assert_eq!(gate.state(), State::Open, "{told}, aborted: {aborted}");
    }
}

/// When the partition comes back, another record may have that offset.
#[tokio::test]
async fn what_was_refused_of_a_partition_that_has_left_is_not_remembered() {
    let mut this = idle_with_transactions().await;
    let event = in_transaction(&mut this);
    this.undelivered_in_transaction(event, Failure::permanent("delivery", "invalid"));
    this.abort_transaction("a test");
    this.assignment.lost(&[P]);
    this.transaction_answered(Answer::Aborted(Ok(())));
    assert!(this.refused.get((P, 0)).is_none());
}

/// librdkafka queues reports without a bound, and the coordinator may be away for long.
#[tokio::test]
async fn reports_are_taken_while_the_transactional_id_is_waited_for() {
    let mut this = idle_with_transactions().await;
    this.parts.transactions = this.transactions.take().map(|transactions| transactions.parts);
    // There are no brokers, and nobody who could stop it, so it gives up after one call of ten seconds.
    let end = init(&mut this.parts, 5).await.err();
    assert!(matches!(end, Some(End::Abandoned(5))), "left before: {end:?}");
    let reports = this.parts.consumer.context().reports();
    assert!(reports >= 10, "{reports} of two a second");
}
