//! Tests of starting partitions: the group returns the offsets of some and not of others, or the log is not the one that was read.

use rdkafka::message::BorrowedMessage;

use super::idle::{P, idle_with_transactions, taken, with_one_finished};
use super::*;
use crate::ledger::{Ledger, NO_EPOCH};
use crate::outcome::Outcome;
use crate::pipeline::completions::{Completion, How};
use crate::source::assignment::Action;
use crate::source::consumer_loop::ends::tests::three_records;

/// A partition of a topic that the mock cluster does not have yet. It refuses the offset, as brokers do for a topic that may not be read any more.
const REFUSED: Partition = Partition { topic: 1, index: 0 };

/// A loop that has finished the first record of its partition, and whose consumer reaches this cluster.
async fn reaching(cluster: &MockCluster<'static, DefaultProducerContext>) -> Loop {
    reaches(with_one_finished().await, cluster)
}

/// The consumer of this loop reaches this cluster.
fn reaches(mut this: Loop, cluster: &MockCluster<'static, DefaultProducerContext>) -> Loop {
    let statistics = KafkaMetrics::new(&Metrics::new().unwrap(), "p", "consumer-0");
    let context = SourceContext::new("p", statistics, Logins::default(), Arc::default());
    let consumer = context::consumer(&client(&cluster.bootstrap_servers()), context).unwrap();
    this.parts.consumer = Arc::new(consumer);
    this
}

/// The same with both partitions assigned.
async fn assigned(cluster: &MockCluster<'static, DefaultProducerContext>) -> Loop {
    let mut this = reaching(cluster).await;
    this.topics.push("other".into());
    this.assignment.assigned(&[P, REFUSED]);
    this
}

/// Asks for the offsets that are due; returns the partitions that start.
fn starts(this: &mut Loop) -> Vec<Partition> {
    let mut started = Vec::new();
    while let Some(action) = this.assignment.next_action() {
        match action {
            Action::FetchCommitted(partitions) => this.fetch_committed(partitions, 0),
            Action::Start { partition, .. } => started.push(partition),
            _ => {}
        }
    }
    started
}

/// Takes the next answer.
async fn answered(this: &mut Loop) {
    let fetched = tokio::time::timeout(LONG, this.fetched.1.recv()).await;
    this.offsets_fetched(fetched.unwrap().unwrap());
}

/// The partitions that start next.
async fn next(this: &mut Loop) -> Vec<Partition> {
    loop {
        let started = starts(this);
        if !started.is_empty() {
            return started;
        }
        answered(this).await;
    }
}

#[tokio::test]
async fn a_partition_whose_offset_is_refused_keeps_no_other_from_starting() {
    let cluster = cluster(1);
    let mut this = assigned(&cluster).await;
    this.unanswered.insert(REFUSED);
    this.answered = false;
    assert!(this.owes_an_answer());
    assert_eq!(next(&mut this).await, [P]);
    answered(&mut this).await;
    assert!(!this.owes_an_answer(), "librdkafka would fetch nothing");
    cluster.create_topic("other", 1, 1).unwrap();
    assert_eq!(next(&mut this).await, [REFUSED]);
    assert!(this.halted.is_none(), "{:?}", this.halted);
}

#[tokio::test]
async fn what_was_given_back_is_not_asked_for_any_more() {
    let cluster = cluster(1);
    let mut this = assigned(&cluster).await;
    assert_eq!(next(&mut this).await, [P]);
    this.assignment.revoked(&[REFUSED], Instant::now());
    assert!(starts(&mut this).is_empty());
    answered(&mut this).await;
    let began = Instant::now();
    while this.fetched.1.sender_strong_count() > 1 {
        assert!(began.elapsed() < LONG, "it is still asked for");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(this.fetched.1.try_recv().is_err(), "it was asked for again");
}

/// A second assignment would replace the first.
#[tokio::test]
async fn an_assignment_of_the_eager_protocol_starts_as_a_whole() {
    let cluster = cluster(1);
    let mut this = assigned(&cluster).await;
    this.cooperative = false;
    this.unanswered.extend([P, REFUSED]);
    // Each attempt has two answers.
    for _ in 0..6 {
        assert!(starts(&mut this).is_empty());
        answered(&mut this).await;
    }
    cluster.create_topic("other", 1, 1).unwrap();
    assert_eq!(next(&mut this).await, [P, REFUSED]);
}

/// The mock cluster knows no end of an epoch without records, like brokers for an epoch that they have lost; its groups have the epoch of the
/// leader.
#[test]
fn a_log_that_is_not_the_one_that_was_read_is_found_out_at_the_next_start() {
    let bench = Bench::start(1, Duration::ZERO, Duration::from_secs(60));
    let load = Load::new(&bench);
    (0..3).for_each(|_| load.send(0));
    let committed = |bench: &Bench, offset: i64| {
        until("the commit", || {
            bench.metrics.partition("in", 0).committed_offset.get() == offset
        });
    };
    committed(&bench, 3);
    let Bench {
        cluster, stop, thread, ..
    } = bench;
    stop.send(true).unwrap();
    assert!(matches!(thread.join().unwrap(), End::Drained));
    cluster.partition_leader("in", 0, Some(1)).unwrap();
    let bench = Bench::join(cluster, Duration::ZERO, Duration::from_secs(60));
    until("all that the log has to run again", || bench.written(0).len() == 3);
    // The mock cluster only accepts commits with the epoch of its leader.
    load.send(0);
    committed(&bench, 4);
    assert!(matches!(bench.end(), End::Drained));
}

/// librdkafka begins an assignment when no commit is under way any more, and refuses a seek until then. The loop does not try if it knows of a
/// commit.
#[tokio::test]
async fn a_start_that_cannot_be_validated_at_once_is_with_its_first_record() {
    for (commit, waits) in [("none", false), ("known", true), ("not waited for", true)] {
        // Its consumer would not close before the commit is over.
        let mut this = ManuallyDrop::new(with_one_finished().await);
        this.cooperative = false;
        if commit == "known" {
            this.committing = true;
        } else if commit == "not waited for" {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset("in", 0, Offset::Offset(7)).unwrap();
            this.parts.consumer.commit(&list, CommitMode::Async).unwrap();
        }
        this.assign(&[(P, Some(7), 3)]);
        assert!(this.halted.is_none(), "{:?}", this.halted);
        assert_eq!(this.unvalidated.get(&P), waits.then_some(&(7, 3)), "{commit}");
    }
}

/// The next record that comes.
async fn fetched(consumer: &StreamConsumer<SourceContext>) -> BorrowedMessage<'_> {
    let record = async {
        loop {
            if let Ok(message) = consumer.recv().await {
                break message;
            }
        }
    };
    tokio::time::timeout(LONG, record).await.unwrap()
}

/// The records have the epoch 0, and the mock cluster knows no end of another one.
#[tokio::test]
async fn a_partition_is_validated_before_its_first_record_and_where_it_starts_again() {
    let (cluster, _) = three_records(1, 0);
    let mut this = reaching(&cluster).await;
    let consumer = this.parts.consumer.clone();
    let due = |this: &Loop| {
        let mut held = this.assignment.held();
        held.find_map(|at| at.ledger).and_then(Ledger::due)
    };
    (this.cooperative, this.committing) = (false, true);
    this.assign(&[(P, Some(1), 0)]);
    let first = fetched(&consumer).await;
    this.admit(&first);
    assert!(this.halted.is_none(), "{:?}", this.halted);
    assert!(this.unvalidated.is_empty());
    assert_eq!((first.offset(), due(&this)), (1, Some(1)), "it is not taken in");
    let again = fetched(&consumer).await;
    this.admit(&again);
    assert_eq!((again.offset(), due(&this)), (1, Some(2)));

    // As after an abort of a transaction: the group returns where to continue, in an epoch that the log has lost.
    this.assignment.restart();
    while this.assignment.next_action().is_some() {}
    let ticket = this.assignment.ticket(P).unwrap();
    this.assignment.started(ticket, Some(2), i64::MIN);
    this.assignment.committed_in(ticket, 5);
    this.act();
    assert!(this.halted.is_none(), "{:?}", this.halted);
    assert_eq!(
        fetched(&consumer).await.offset(),
        0,
        "the log is not the one that was read"
    );
}

/// A record that comes again is published again, so its earlier outputs must not be committed.
#[tokio::test]
async fn what_had_finished_behind_a_record_of_a_log_that_went_back_is_thrown_away() {
    let (cluster, _) = three_records(1, 0);
    let mut this = reaches(idle_with_transactions().await, &cluster);
    let consumer = this.parts.consumer.clone();
    this.cooperative = false;
    this.assign(&[(P, Some(1), NO_EPOCH)]);
    let [_unfinished, event] = [0, 1].map(|offset| {
        let mut event = taken(&mut this, offset);
        event.transaction = this.transactions.as_mut().unwrap().admit(Instant::now());
        event
    });
    let how = How::Finished(Outcome::Done);
    this.ended(Completion { event, how }, Instant::now());
    let again = fetched(&consumer).await;
    assert_eq!(again.offset(), 1);
    this.admit(&again);
    assert!(this.halted.is_none(), "{:?}", this.halted);
    this.transact(Instant::now());
    assert_eq!(this.parts.runtime.metrics.transactions_aborted.get(), 1);
}
