//! Tests of events at a producer, most of which reach no broker.

use rdkafka::message::Header;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::dead_letters::DeadLetters;
use super::*;
use crate::pipeline::completions::{Batch, Completion, Completions};
use crate::pipeline::event::{Content, Origin, Tenure};
use crate::source::assignment::Ticket;
use crate::telemetry::metrics::Metrics;

/// Makes librdkafka give a producer up with this error.
pub(crate) fn give_up(producer: &Producer, error: RDKafkaRespErr) {
    // SAFETY: the client lives as long as the borrowed producer, and the reason ends with a null byte.
    unsafe {
        rdkafka::bindings::rd_kafka_test_fatal_error(producer.client().native_ptr(), error, c"a test".as_ptr());
    }
}

pub(super) fn alone() -> Arc<Producer> {
    with_order(true)
}

fn with_order(ordered: bool) -> Arc<Producer> {
    made(&Metrics::new().unwrap(), ordered)
}

fn made(metrics: &Arc<Metrics>, ordered: bool) -> Arc<Producer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", "127.0.0.1:1");
    made_with(config, metrics, ordered)
}

pub(super) fn made_with(config: ClientConfig, metrics: &Arc<Metrics>, ordered: bool) -> Arc<Producer> {
    made_of(config, metrics, ordered, Batches::default())
}

pub(super) fn made_of(
    mut config: ClientConfig,
    metrics: &Arc<Metrics>,
    ordered: bool,
    batches: Batches,
) -> Arc<Producer> {
    config.set("enable.idempotence", "true");
    let (of_pipeline, statistics) = (
        PipelineMetrics::new(metrics, "p"),
        KafkaMetrics::new(metrics, "p", "producer"),
    );
    producer(
        &config,
        of_pipeline,
        statistics,
        ordered,
        None,
        Arc::new(batches),
        Logins::default(),
    )
    .unwrap()
}

pub(super) fn event(completions: &Arc<Completions>, offset: i64, abandoned: bool) -> Box<Event> {
    let origin = Origin {
        ticket: Ticket::unassigned(),
        topic: Arc::from("in"),
        partition: 0,
        offset,
        timestamp_ms: None,
        write_timestamp_us: 0,
    };
    let content = Content {
        value: Some(b"in"),
        key: None,
        headers: None,
    };
    let tenure = Arc::<Tenure>::default();
    if abandoned {
        tenure.end();
    }
    Event::new(None, origin, content, tenure, completions.clone(), Instant::now())
}

/// Sends the outputs of two events to the producer; the partition of the second leaves afterwards.
fn one_stays_and_one_leaves(sink: &Sink, completions: &Arc<Completions>) {
    for (offset, leaves) in [(0, false), (1, true)] {
        let event = event(completions, offset, false);
        let tenure = event.tenure.clone();
        assert!(sink.send(event, b"out", None, Instant::now()).is_ok());
        if leaves {
            tenure.end();
        }
    }
}

/// The first two completions, ordered by offset.
async fn two(completions: &Completions) -> Vec<Completion> {
    first(completions, 2).await
}

/// At least the first `count` completions, ordered by offset.
async fn first(completions: &Completions, count: usize) -> Vec<Completion> {
    let (mut batch, mut ended) = (Batch::default(), Vec::new());
    while ended.len() < count {
        completions.ready().await;
        completions.take(&mut batch);
        ended.append(&mut batch.completions);
    }
    ended.sort_by_key(|completion| completion.event.origin.offset);
    ended
}

#[tokio::test]
async fn what_is_queued_where_librdkafka_gives_the_producer_up_runs_again() {
    let (producer, completions) = (alone(), Arc::<Completions>::default());
    let sink = Sink::new(producer.clone(), "out");
    one_stays_and_one_leaves(&sink, &completions);
    give_up(
        &producer,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
    );
    let ended = two(&completions).await;
    match (&ended[0].how, &ended[1].how) {
        (How::StartAgain(failure), How::Abandoned) => assert_eq!(failure.reason, PRODUCER_OVER),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nothing_is_sent_of_a_partition_that_has_left() {
    let (producer, completions) = (alone(), Arc::default());
    let (ours, left) = (event(&completions, 0, false), event(&completions, 1, true));
    let sink = Sink::new(producer.clone(), "out");
    assert!(sink.may_send(&ours).await && !sink.may_send(&left).await);
    let dead_letters = DeadLetters::new(producer, "dead", "p");
    assert!(dead_letters.may_send(&ours).await && !dead_letters.may_send(&left).await);
    // The check came before the partition left.
    let (failure, left) = sink.send(left, b"out", None, Instant::now()).unwrap_err();
    assert!(failure.reason == OVER && !left.tenure.has_outputs());
}

/// Outputs taken back are neither refused nor dead-lettered: events of partitions that stay run again, those of partitions that left are abandoned.
#[tokio::test]
async fn what_is_withdrawn_comes_back_and_nothing_is_taken_after_it() {
    let (producer, completions) = (alone(), Arc::<Completions>::default());
    let sink = Sink::new(producer.clone(), "out");
    one_stays_and_one_leaves(&sink, &completions);
    assert_eq!(producer.fatal(), None);
    sink.withdraw();
    let ended = two(&completions).await;
    match (&ended[0].how, &ended[1].how) {
        (How::StartAgain(failure), How::Abandoned) => assert_eq!(failure.reason, PRODUCER_OVER),
        other => panic!("{other:?}"),
    }
    assert!(producer.fatal().is_some());
    let late = event(&completions, 2, false);
    let tenure = late.tenure.clone();
    let (failure, late) = sink.send(late, b"out", None, Instant::now()).unwrap_err();
    assert_eq!((failure.reason, failure.class), (PRODUCER_OVER, Class::Fatal));
    assert!(!tenure.has_outputs());
    let dead_letters = DeadLetters::new(producer, "dead", "p");
    let (failure, late) = dead_letters.send(late).unwrap_err();
    assert_eq!(failure.reason, PRODUCER_OVER);
    drop(late.recycle());
}

/// A consumer of such an output would take the record's time, 0, for the output's.
#[test]
fn an_output_as_of_now_says_nothing_of_a_first_time_of_zero() {
    let (producer, completions) = (alone(), Arc::<Completions>::default());
    let sink = Sink::new(producer, "out");
    // A refused event comes back with the headers that would have been sent.
    sink.withdraw();
    let sent = |timestamp_ms, first: &str| -> Vec<String> {
        let mut event = event(&completions, 0, false);
        event.origin.timestamp_ms = timestamp_ms;
        let list = [
            ("trace", "1"),
            (letter::REPLAYS, "1"),
            (letter::REPLAY_TIMESTAMP, first),
        ];
        event.headers = Some(list.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header {
                key,
                value: Some(*value),
            })
        }));
        let (_, event) = sink.send(event, b"out", None, Instant::now()).unwrap_err();
        let headers = event.headers.as_ref().unwrap();
        let names = kafka::headers::all(headers).map(|(name, _)| String::from_utf8_lossy(name).into_owned());
        let names = names.collect();
        drop(event.recycle());
        names
    };
    for now in [None, Some(0)] {
        assert_eq!(sent(now, "0"), ["trace", letter::REPLAYS], "{now:?}");
        assert_eq!(sent(now, "5").len(), 3, "{now:?}");
    }
    assert_eq!(sent(Some(5), "0").len(), 3);
}

#[test]
fn of_producers_of_one_name_that_is_shown_with_which_a_loop_publishes() {
    let metrics = Metrics::new().unwrap();
    let shown = |producer: &Producer, queued| {
        producer.client().context().stats(Statistics {
            msg_cnt: queued,
            ..Statistics::default()
        });
        metrics.kafka_producer_queue_records.of(["p", "producer"]).get()
    };
    let first = made(&metrics, true);
    assert_eq!(shown(&first, 7), 0, "it waits for its loop");
    first.show();
    assert_eq!(shown(&first, 7), 7);
    // A reload that fails creates such a producer.
    let trial = made(&metrics, true);
    assert_eq!(shown(&trial, 1), 7);
    drop(trial);
    assert_eq!(shown(&first, 8), 8);
    // Another consumer keeps a reference until it has something to send.
    first.withdraw();
    let second = made(&metrics, true);
    second.show();
    assert_eq!((shown(&second, 5), shown(&first, 9)), (5, 5));
    drop(first);
    assert_eq!(metrics.kafka_producer_queue_records.of(["p", "producer"]).get(), 5);
}

#[tokio::test]
async fn a_partition_has_outputs_from_the_producer_on_to_their_end_where_their_order_is_kept() {
    for ordered in [true, false] {
        let (producer, completions) = (with_order(ordered), Arc::<Completions>::default());
        let sink = Sink::new(producer.clone(), "out");
        let (one, other) = (event(&completions, 0, false), event(&completions, 1, false));
        let tenures = [one.tenure.clone(), other.tenure.clone()];
        for event in [one, other] {
            assert!(!event.tenure.has_outputs());
            assert!(sink.send(event, b"out", None, Instant::now()).is_ok());
        }
        assert_eq!(tenures.each_ref().map(|of| of.has_outputs()), [ordered; 2]);
        sink.withdraw();
        let mut ended = two(&completions).await;
        drop(ended.remove(0).event.recycle());
        assert_eq!(tenures.each_ref().map(|of| of.has_outputs()), [false, ordered]);
    }
}

/// A producer that keeps an order, and whose first output the brokers refuse.
fn refused_once(topic: &str, refusal: RDKafkaRespErr) -> (MockCluster<'static, DefaultProducerContext>, Arc<Producer>) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topic, 1, 1).unwrap();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers());
    let producer = made_with(config, &Metrics::new().unwrap(), true);
    cluster.request_errors(RDKafkaApiKey::Produce, &[refusal]);
    (cluster, producer)
}

/// Otherwise it would become a dead letter again, or its transaction be discarded, forever.
#[tokio::test]
async fn a_dead_letter_that_brokers_refuse_for_good_ends_its_pipeline() {
    let (_cluster, producer) = refused_once("dead", RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD);
    let completions = Arc::<Completions>::default();
    let mut event = event(&completions, 0, false);
    event.failure = Some(Failure::permanent("avro", "no datum"));
    event.pending = Outcome::DeadLettered;
    let dead_letters = DeadLetters::new(producer, "dead", "p");
    assert!(dead_letters.send(event).is_ok());
    let ended = first(&completions, 1).await;
    match &ended[0].how {
        How::Undelivered(failure) => assert_eq!(failure.class, Class::Fatal, "{failure}"),
        how => panic!("{how:?}"),
    }
}

/// Its dead letter may wait for long, and must not cause the withdrawal of the producer.
#[tokio::test]
async fn a_partition_has_no_output_any_more_that_brokers_have_refused_for_good() {
    let (_cluster, producer) = refused_once("out", RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
    let completions = Arc::default();
    let event = event(&completions, 0, false);
    let tenure = event.tenure.clone();
    let sink = Sink::new(producer, "out");
    assert!(sink.send(event, b"out", None, Instant::now()).is_ok());
    let ended = first(&completions, 1).await;
    match &ended[0].how {
        How::Undelivered(failure) => assert_eq!(failure.class, Class::Permanent),
        other => panic!("{other:?}"),
    }
    assert!(!tenure.has_outputs());
}

/// A producer whose first transaction has begun, with a topic to publish to.
fn transactional() -> (
    MockCluster<'static, DefaultProducerContext>,
    Arc<Producer>,
    Arc<Completions>,
) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("out", 1, 1).unwrap();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers());
    config.set("transactional.id", "p-0");
    let producer = made_with(config, &Metrics::new().unwrap(), true);
    transactions::init(&producer, |_| true).unwrap();
    (cluster, producer, Arc::default())
}

/// An abort discards what is queued when it begins. Records queued again after that used to wait for the end of the call, ten seconds later.
#[tokio::test]
async fn what_is_on_its_way_behind_a_refused_output_does_not_hold_up_the_abort() {
    let (cluster, producer, completions) = transactional();
    let sink = Sink::new(producer.clone(), "out");
    let send = |offset| {
        let event = event(&completions, offset, false);
        assert!(sink.send(event, b"out", None, Instant::now()).is_ok());
    };
    // This adds the partition to the transaction.
    send(0);
    first(&completions, 1).await;
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        ],
    );
    cluster.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    // Two batches: the second is in flight when the first is refused.
    send(1);
    tokio::time::sleep(Duration::from_millis(150)).await;
    send(2);
    first(&completions, 1).await;
    let began = Instant::now();
    transactions::abort(&producer, None, |_| true).unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(7), "{took:?}");
}

/// Brokers put off requests while they write the end of the previous transaction. An abort before librdkafka asks again would concern a transaction that the
/// brokers do not have.
#[tokio::test]
async fn an_abort_right_after_a_commit_lets_the_transaction_begin() {
    let (cluster, producer, completions) = transactional();
    let sink = Sink::new(producer.clone(), "out");
    let send = |offset| {
        let event = event(&completions, offset, false);
        assert!(sink.send(event, b"out", None, Instant::now()).is_ok());
    };
    send(0);
    first(&completions, 1).await;
    transactions::commit(&producer, None, |_| true).unwrap();
    let opened = Instant::now();
    cluster.request_errors(
        RDKafkaApiKey::AddPartitionsToTxn,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS],
    );
    send(1);
    transactions::abort(&producer, Some(opened), |_| true).unwrap();
    let ended = first(&completions, 1).await;
    let how = &ended[0].how;
    assert!(
        matches!(how, How::Finished(_)),
        "thrown away before it was in the transaction: {how:?}"
    );
}
