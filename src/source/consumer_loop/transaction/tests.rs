//! What spoils a transaction, and what is remembered of an output that was refused in one.

use super::*;
use crate::outcome::Outcome;
use crate::pipeline::completions::{Completion, How};
use crate::source::consumer_loop::tests::idle::{P, idle_with_transactions, taken};

/// The first record of the partition, in the open transaction.
fn in_transaction(this: &mut Loop) -> Box<Event> {
    let mut event = taken(this, 0);
    let transactions = this.transactions.as_mut().unwrap();
    event.transaction = transactions.admit(Instant::now());
    event
}

/// It has published, and its offset is not among those that would be committed with that.
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

/// The start that follows repeats it, though all has come back.
#[tokio::test]
async fn what_an_abort_throws_away_at_the_end_is_left() {
    let mut this = idle_with_transactions().await;
    let event = in_transaction(&mut this);
    let how = How::Finished(Outcome::Done);
    this.ended(Completion { event, how }, Instant::now());
    this.stop();
    this.abort_transaction("a test");
    this.transaction_answered(Answer::Aborted(Ok(())));
    let end = this.end(Instant::now());
    assert!(matches!(end, Some(End::Abandoned(1))), "{end:?}");
}

/// Other records have its offsets by then: they would be dead letters without a look at them.
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

/// When it comes back another record may have that offset.
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

/// librdkafka queues them without a bound, and the coordinator may be away for long.
#[tokio::test]
async fn reports_are_taken_while_the_transactional_id_is_waited_for() {
    let mut this = idle_with_transactions().await;
    this.parts.transactions = this.transactions.take().map(|transactions| transactions.parts);
    // There are no brokers, and nobody who could stop it: it gives up after one call of ten seconds.
    assert!(matches!(init(&mut this.parts).await, Err(End::Drained)));
    let reports = this.parts.consumer.context().reports();
    assert!(reports >= 10, "{reports} of two a second");
}
