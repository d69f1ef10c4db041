//! Tests of a loop that does not run and whose clients reach no broker: how it handles what it is given.

use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::{self, Statistics};

use super::*;
use crate::breaker::State;
use crate::breaker::gate::Gate;
use crate::outcome::Outcome;
use crate::pipeline::completions::{Completion, How};
use crate::pipeline::evaluate::now_micros;
use crate::pipeline::event::{Content, Origin};
use crate::source::assignment::{Action, Intake};
use crate::source::context::Notice;
use crate::source::status::PartitionStatus;
use crate::telemetry::breadcrumbs::Breadcrumbs;
use crate::telemetry::sentry::{Sentry, SentryOptions};
use crate::telemetry::traces::PipelineTracer;
use crate::telemetry::traces::tests::{MANY, TAKEN, collector, tracer};

const NOBODY: &str = "127.0.0.1:1";

/// The partition that it has.
pub(in crate::source::consumer_loop) const P: Partition = Partition { topic: 0, index: 0 };

/// A loop of this pipeline that has one partition, from the beginning of its log.
async fn idle(toml: String) -> Loop {
    let (config, _) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
    let pipeline = &config.pipelines["p"];
    let all_metrics = Metrics::new().unwrap();
    let metrics = PipelineMetrics::new(&all_metrics, "p");
    let (mut runtime, schemas, _) = prepared(pipeline, MemoryStore::new(), &metrics).await;
    let transactional_id = (*pipeline.delivery == Delivery::ExactlyOnce).then_some("p-0");
    let (producer, turnstile) = producer_of(&config, NOBODY, &all_metrics, &metrics, transactional_id);
    runtime.sink = Some(Sink::new(producer.clone(), "out"));
    let statistics = KafkaMetrics::new(&all_metrics, "p", "consumer-0");
    let context = SourceContext::new("p", statistics, Logins::default(), Arc::default());
    let consumer = context::consumer(&client(NOBODY), context).unwrap();
    let transactions = turnstile.map(|turnstile| {
        Transactions::new(TransactionParts {
            producer,
            turnstile,
            interval: Duration::from_millis(100),
            limit: Duration::from_secs(30),
        })
    });
    let (_, stop) = watch::channel(false);
    let parts = Parts {
        consumer: Arc::new(consumer),
        topics: pipeline.source.topics.iter().map(|topic| topic.value.clone()).collect(),
        offset_reset: OffsetReset::Earliest,
        tombstone: OnTombstone::Skip,
        order: pipeline.order,
        budget: Budget::new(100, 1 << 20),
        concurrency: None,
        pool: 100,
        limits: None,
        schemas,
        runtime: Arc::new(runtime),
        io: Handle::current(),
        state: Arc::default(),
        rest: Arc::default(),
        static_member: false,
        classic: true,
        drain_timeout: Duration::from_secs(30),
        stall_after: Duration::from_secs(60),
        stop,
        transactions: None,
        bounds: None,
    };
    let mut this = Loop::new(parts, transactions, Refused::default());
    starts(&mut this, P);
    this
}

/// The group assigns this partition to the loop, from the beginning of its log.
fn starts(this: &mut Loop, partition: Partition) {
    this.assignment.assigned(&[partition]);
    let Some(Action::FetchCommitted(starting)) = this.assignment.next_action() else {
        panic!("offsets are fetched");
    };
    this.assignment.started(starting[0].1, Some(0), i64::MIN);
    let Some(Action::Start {
        partition,
        ticket,
        from,
    }) = this.assignment.next_action()
    else {
        panic!("it starts");
    };
    this.hold(partition, ticket, from);
}

/// The same with `exactly_once`, whose producer has not asked for its transactional id.
pub(in crate::source::consumer_loop) async fn idle_with_transactions() -> Loop {
    idle(exactly_once() + OUTPUT).await
}

/// The record at this offset of its partition, after its admission.
pub(in crate::source::consumer_loop) fn taken(this: &mut Loop, offset: i64) -> Box<Event> {
    taken_with(this, offset, None, &RECORD)
}

/// The same with this key and value.
pub(in crate::source::consumer_loop) fn taken_with(
    this: &mut Loop,
    offset: i64,
    key: Option<&[u8]>,
    value: &[u8],
) -> Box<Event> {
    let Ok(Intake::Admitted { ticket, .. }) = this.assignment.admit(P, offset, None) else {
        panic!("not admitted");
    };
    let event = record(this, ticket, offset, key, value);
    this.parts.budget.admit(event.own_weight());
    event
}

/// The same for an assignment that may be current or not.
fn record(this: &Loop, ticket: Ticket, offset: i64, key: Option<&[u8]>, value: &[u8]) -> Box<Event> {
    let origin = Origin {
        ticket,
        topic: this.topics[0].clone(),
        partition: P.index,
        offset,
        timestamp_ms: None,
        write_timestamp_us: 0,
    };
    let content = Content {
        value: Some(value),
        key,
        headers: None,
    };
    let tenure = this.held[&P].tenure.clone();
    let completions = this.completions.clone();
    Event::new(None, origin, content, tenure, completions, Instant::now())
}

/// librdkafka reports these statistics of its partition, and of a broker.
pub(in crate::source::consumer_loop) fn report(
    this: &Loop,
    figures: statistics::Partition,
    broker: Option<statistics::Broker>,
) {
    let topic = statistics::Topic {
        topic: "in".to_owned(),
        partitions: HashMap::from([(P.index, figures)]),
        ..statistics::Topic::default()
    };
    this.parts.consumer.context().stats(Statistics {
        brokers: broker
            .map(|broker| ("b:9092/0".to_owned(), broker))
            .into_iter()
            .collect(),
        topics: HashMap::from([("in".to_owned(), topic)]),
        ..Statistics::default()
    });
}

/// The status of its partition after these statistics of librdkafka.
fn shown(this: &mut Loop, figures: statistics::Partition) -> PartitionStatus {
    report(this, figures, None);
    this.publish_status("running");
    this.parts.state.get().partitions.remove(0)
}

/// librdkafka's statistics of a partition that is fetched to this end, of which the application has taken what lies before `app_offset`.
fn fetched_to(end: i64, app_offset: i64) -> statistics::Partition {
    statistics::Partition {
        ls_offset: end,
        hi_offset: end,
        next_offset: end,
        app_offset,
        rxmsgs: end.unsigned_abs(),
        ..statistics::Partition::default()
    }
}

/// A loop that has finished the first record of its partition.
pub(in crate::source::consumer_loop) async fn with_one_finished() -> Loop {
    let mut this = idle(TOML.to_owned()).await;
    let (event, how) = (taken(&mut this, 0), How::Finished(Outcome::Done));
    this.ended(Completion { event, how }, Instant::now());
    this
}

#[tokio::test]
async fn a_lag_is_as_old_as_the_first_record_that_is_not_finished() {
    let mut this = idle(TOML.to_owned()).await;
    let now_ms = now_micros() / 1000;
    for (offset, timestamp_ms) in [(0, now_ms - 600_000), (1, now_ms)] {
        this.assignment.admit(P, offset, Some(timestamp_ms)).unwrap();
        this.held.get_mut(&P).unwrap().since_ms = Some(timestamp_ms);
    }
    let partition = shown(&mut this, fetched_to(2, 2));
    assert_eq!(partition.lag_records, Some(2));
    assert!(partition.lag_seconds >= 600.0, "{}", partition.lag_seconds);
}

#[tokio::test]
async fn what_the_group_has_is_shown_beside_what_has_finished() {
    let mut this = with_one_finished().await;
    let at = |this: &mut Loop| {
        let shown = shown(this, fetched_to(1, 1));
        (shown.unfinished, shown.committed)
    };
    assert_eq!(at(&mut this), (Some(1), Some(0)));
    let offsets = vec![(P, this.held[&P].ticket, 1)];
    let refused = KafkaError::ConsumerCommit(RDKafkaErrorCode::UnknownMemberId);
    this.commit_answered(Vec::new(), false, Err(refused));
    assert_eq!(at(&mut this), (Some(1), Some(0)));
    this.commit_answered(offsets, false, Ok(()));
    assert_eq!(at(&mut this), (Some(1), Some(1)));
}

#[tokio::test]
async fn a_date_of_the_future_hides_no_lag_and_one_of_no_clock_is_none() {
    let mut this = idle(TOML.to_owned()).await;
    let now_ms = now_micros() / 1000;
    let lag = |this: &mut Loop, offset, timestamp_ms| {
        this.assignment.admit(P, offset, Some(timestamp_ms)).unwrap();
        this.held.get_mut(&P).unwrap().since_ms = Some(timestamp_ms);
        shown(this, fetched_to(9, offset + 1)).lag_seconds
    };
    assert_eq!(lag(&mut this, 0, 0), 0.0);
    assert_eq!(lag(&mut this, 1, -1), 0.0);
    // The record was taken just now.
    assert!(lag(&mut this, 2, now_ms + 3_600_000) < 60.0);
    let since_ms = this.held[&P].since_ms.unwrap();
    assert!(
        (now_ms..now_ms + 60_000).contains(&since_ms),
        "and its age grows from here"
    );
    // This record is late, and has waited behind the others.
    let late = lag(&mut this, 3, now_ms - 600_000);
    assert!((600.0..660.0).contains(&late), "{late}");
}

#[tokio::test]
async fn records_that_wait_behind_those_of_other_partitions_are_lag() {
    let mut this = with_one_finished().await;
    let queued = |app_offset| statistics::Partition {
        fetchq_cnt: 7,
        ..fetched_to(11, app_offset)
    };
    // A record of another partition was taken.
    this.took_since_status = true;
    assert_eq!(shown(&mut this, queued(1)).lag_records, Some(10));
    // What came after the first record was none.
    assert_eq!(shown(&mut this, queued(11)).lag_records, Some(0));
}

#[tokio::test]
async fn what_comes_while_intake_rests_is_lag() {
    let mut this = with_one_finished().await;
    this.ends = Ends::new(Duration::ZERO);
    this.paused = true;
    // The record taken last was an old one.
    this.held.get_mut(&P).unwrap().since_ms = Some(now_micros() / 1000 - 3_600_000);
    assert_eq!(shown(&mut this, fetched_to(1, 1)).lag_records, Some(0));
    let asked = tokio::time::timeout(Duration::from_secs(60), this.ends.answers.1.recv());
    assert!(asked.await.unwrap().is_some(), "nothing tells it unasked");
    this.ends.answered(vec![(P, Some(50))]);
    let partition = shown(&mut this, fetched_to(1, 1));
    assert_eq!(partition.lag_records, Some(49));
    assert!(partition.lag_seconds < 60.0, "{}", partition.lag_seconds);
}

#[tokio::test]
async fn what_was_withheld_when_intake_began_to_rest_is_counted_once() {
    let mut this = with_one_finished().await;
    this.ends = Ends::new(Duration::ZERO);
    this.paused = true;
    let at_the_pause = || statistics::Partition {
        hi_offset: 21,
        ..fetched_to(1, 1)
    };
    assert_eq!(shown(&mut this, at_the_pause()).lag_records, Some(20));
    for (end, lag) in [(11, 20), (71, 70)] {
        this.ends.answered(vec![(P, Some(end))]);
        assert_eq!(shown(&mut this, at_the_pause()).lag_records, Some(lag), "{end}");
    }
}

#[tokio::test]
async fn a_partition_that_ends_in_a_marker_has_no_lag_while_those_of_others_wait() {
    let mut this = with_one_finished().await;
    // The second observation without a change is a stall.
    this.watchdogs = Watchdogs::new(Duration::ZERO, None);
    let queued = || statistics::Partition {
        fetchq_cnt: 500,
        ..fetched_to(2, 2)
    };
    for _ in 0..3 {
        let partition = shown(&mut this, queued());
        assert_eq!((partition.lag_records, partition.stalled), (Some(0), false));
    }
}

#[tokio::test]
async fn what_has_finished_is_a_stall_until_its_transaction_is_committed() {
    let mut this = idle_with_transactions().await;
    this.watchdogs = Watchdogs::new(Duration::ZERO, Some(Duration::ZERO));
    let (event, how) = (taken(&mut this, 0), How::Finished(Outcome::Done));
    this.ended(Completion { event, how }, Instant::now());
    let looks = |this: &mut Loop| {
        let partition = shown(this, fetched_to(1, 1));
        (partition.lag_records, partition.stalled)
    };
    looks(&mut this);
    assert_eq!(looks(&mut this), (Some(0), true));
    this.assignment.committed(this.held[&P].ticket, 1);
    assert_eq!(looks(&mut this), (Some(0), false));
}

#[tokio::test]
async fn a_partition_without_a_record_is_no_stall_while_those_of_others_wait() {
    let mut this = idle(TOML.to_owned()).await;
    this.watchdogs = Watchdogs::new(Duration::ZERO, None);
    // Some had been received before the partition came, or came back, to this consumer.
    let queued = || statistics::Partition {
        fetchq_cnt: 500,
        rxmsgs: 3,
        ..fetched_to(0, Offset::Invalid.to_raw().unwrap())
    };
    for _ in 0..3 {
        let partition = shown(&mut this, queued());
        assert_eq!((partition.lag_records, partition.stalled), (Some(0), false));
    }
}

/// The producer's breaker, with a probe out.
pub(in crate::source::consumer_loop) async fn with_probe_out(this: &Loop) -> Arc<Gate> {
    let gate = this.parts.runtime.gates.sink.clone();
    while !gate.is_open() {
        gate.failed(false);
    }
    let probe = loop {
        match gate.pass() {
            Ok(pass) => break pass,
            Err(next) => gate.wait(next).await,
        }
    };
    assert!(probe.is_probe());
    probe.sent();
    assert_eq!(gate.state(), State::HalfOpen);
    gate
}

/// The state of the producer's breaker after a probe that is out has come back like this, when its partition was lost.
async fn breaker_after(how: How) -> State {
    let mut this = idle(TOML.to_owned()).await;
    let gate = with_probe_out(&this).await;
    let mut event = taken(&mut this, 0);
    event.probe = true;
    event.produced = Some(Instant::now());
    this.assignment.lost(&[P]);
    this.ended(Completion { event, how }, Instant::now());
    gate.state()
}

#[tokio::test]
async fn a_probe_is_heard_of_though_its_partition_has_left() {
    assert_eq!(breaker_after(How::Finished(Outcome::Done)).await, State::Closed);
    // It was withdrawn from the producer, so the next probe may go.
    assert_eq!(breaker_after(How::Abandoned).await, State::Open);
}

#[tokio::test]
async fn probes_of_partitions_that_left_open_no_breaker() {
    let mut this = idle(TOML.to_owned()).await;
    let gate = with_probe_out(&this).await;
    gate.succeeded();
    for offset in 0..100 {
        let mut event = taken(&mut this, offset);
        event.probe = true;
        this.ended(
            Completion {
                event,
                how: How::Abandoned,
            },
            Instant::now(),
        );
    }
    assert_eq!(gate.state(), State::Closed);
}

/// Of four records, one finishes before their partition is lost and one after, one waits for its schema then, and one never comes back.
#[tokio::test]
async fn every_record_that_was_taken_is_finished_given_up_or_in_flight() {
    let mut this = idle(TOML.to_owned()).await;
    let metrics = this.parts.runtime.metrics.clone();
    let [done, late, waiting, _running] = [0, 1, 2, 3].map(|offset| taken(&mut this, offset));
    let finish = |this: &mut Loop, event| {
        let how = How::Finished(Outcome::Done);
        this.ended(Completion { event, how }, Instant::now());
    };
    let counted = |this: &Loop| (metrics.done.get(), metrics.given_up.get(), this.parts.budget.records());
    finish(&mut this, done);
    assert_eq!(counted(&this), (1, 0, 3));
    this.held.get_mut(&P).unwrap().parked.push_back(waiting);
    this.assignment.lost(&[P]);
    this.act();
    assert_eq!(counted(&this), (1, 1, 2));
    finish(&mut this, late);
    assert_eq!(counted(&this), (1, 2, 1));
    drop(this);
    assert_eq!((metrics.done.get(), metrics.given_up.get()), (1, 3));
}

#[tokio::test]
async fn what_a_record_holds_is_free_again_when_it_ends() {
    let mut this = idle(TOML.to_owned()).await;
    let mut event = taken(&mut this, 0);
    let weight = event.own_weight();
    event.hold(5000);
    this.weigh();
    assert_eq!(this.parts.budget.bytes(), weight + 5000);
    let how = How::Finished(Outcome::Done);
    this.ended(Completion { event, how }, Instant::now());
    this.weigh();
    assert_eq!(this.parts.budget.bytes(), 0);
}

/// What waits in the lane runs again at the next owner of the partition, which is this consumer.
#[tokio::test]
async fn a_lane_of_a_partition_that_left_is_free_for_what_comes_back_when_its_last_record_has_ended() {
    let mut this = idle(TOML.replace("order = \"none\"", "order = \"key\"")).await;
    let runtime = Runtime::clone(&this.parts.runtime);
    this.parts.runtime = Arc::new(Runtime { sink: None, ..runtime });
    this.workers = Workers::new(this.parts.runtime.clone(), this.parts.io.clone());
    let plan = this.parts.schemas.known(7).unwrap();
    this.schema_known(7, plan);
    let comes = |this: &mut Loop, offset| {
        let event = taken_with(this, offset, Some(b"key"), &RECORD);
        assert!(this.read(P, event, Instant::now()));
        this.lanes.queued()
    };
    assert_eq!([0, 1, 2].map(|offset| comes(&mut this, offset)), [0, 1, 2]);
    let now = Instant::now();
    this.assignment.revoked(&[P], now);
    this.assignment.tick(now);
    this.act();
    assert_eq!((this.lanes.queued(), this.parts.budget.records()), (0, 1));
    starts(&mut this, P);
    assert_eq!(comes(&mut this, 0), 1, "the first is still out");
    for (queued, done) in [(0, 0), (0, 1)] {
        this.completions.ready().await;
        this.take_ended(&mut Batch::default());
        let metrics = &this.parts.runtime.metrics;
        assert_eq!((this.lanes.queued(), metrics.done.get()), (queued, done));
    }
    assert_eq!(this.parts.budget.records(), 0);
}

#[tokio::test]
async fn what_was_refused_of_a_partition_that_is_given_back_is_forgotten() {
    let mut this = idle(TOML.to_owned()).await;
    let invalid = Failure::permanent("delivery", "invalid");
    this.refused.insert((P, 5), invalid, |_| true);
    this.assignment.revoked(&[P], Instant::now());
    this.act();
    assert!(
        this.refused.get((P, 5)).is_none(),
        "another record may have that offset when it comes back"
    );
}

/// Outputs on their way to healthy brokers are acknowledged by then.
#[tokio::test]
async fn nothing_is_handed_over_in_the_last_moment_of_a_drain() {
    let now = Instant::now();
    let deadline = now + Duration::from_secs(30);
    for of_a_stop in [false, true] {
        let mut this = idle(TOML.to_owned() + OUTPUT).await;
        let sink = this.parts.runtime.sink.clone().unwrap();
        assert!(sink.send(taken(&mut this, 0), b"out", None, now).is_ok());
        let mut others = [taken(&mut this, 1), taken(&mut this, 2)].into_iter();
        if of_a_stop {
            this.stopping = Some(deadline);
        } else {
            this.assignment.revoked(&[P], deadline);
        }
        for (before, refused) in [(2000, false), (500, true)] {
            this.withdraw_what_does_not_drain(deadline - Duration::from_millis(before));
            let sent = sink.send(others.next().unwrap(), b"out", None, now);
            assert_eq!(sent.is_err(), refused, "{before} ms before");
        }
        assert!(this.replace.is_none(), "and nothing is withdrawn");
    }
}

/// Events that still run would be refused one after the other.
#[tokio::test]
async fn a_producer_that_is_over_ends_what_still_runs() {
    let mut this = idle(TOML.to_owned() + OUTPUT).await;
    let (first, second) = (taken(&mut this, 0), taken(&mut this, 1));
    let over = Failure::fatal(crate::sink::PRODUCER_OVER, "another consumer has withdrawn it");
    assert!(!second.is_abandoned());
    let how = How::StartAgain(over);
    this.ended(Completion { event: first, how }, Instant::now());
    assert!(second.is_abandoned() && this.replace.is_some());
}

#[tokio::test]
async fn the_span_of_a_record_that_runs_again_says_so() {
    let (address, requests) = collector(vec![TAKEN; 4]);
    let (tracer, metrics) = tracer(address, 1.0, MANY);
    let tracer = Arc::new(tracer);
    let of_pipeline = PipelineTracer::new(tracer.clone(), "p", "g");
    let mut this = idle(TOML.to_owned()).await;
    let mut runtime = Runtime::clone(&this.parts.runtime);
    runtime.tracer = Some(of_pipeline.clone());
    this.parts.runtime = Arc::new(runtime);
    let [done, without_schema, behind_it, late] = [0, 1, 2, 3].map(|offset| {
        let mut event = taken(&mut this, offset);
        of_pipeline.begin(&mut event);
        event
    });
    let finished = |event| Completion {
        event,
        how: How::Finished(Outcome::Done),
    };
    this.ended(finished(done), Instant::now());
    // The partition is given back, and then lost.
    for (event, leave) in [(without_schema, true), (behind_it, false)] {
        this.held.get_mut(&P).unwrap().parked.push_back(event);
        if leave {
            this.give_up_what_waits(&[P]);
        }
    }
    this.assignment.lost(&[P]);
    this.act();
    this.ended(finished(late), Instant::now());
    tracer.close(LONG);
    assert_eq!(metrics.trace_spans_total.of(["exported"]).get(), 4);
    let mut spans = Vec::new();
    while spans.len() < 4 {
        let (_, body) = requests.recv_timeout(LONG).unwrap();
        let of_request = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        spans.extend(of_request.iter().map(|span| {
            let attributes = span["attributes"].as_array().unwrap();
            let of = |name: &str| attributes.iter().find(|one| one["key"] == name).unwrap()["value"].clone();
            let offset = of("messaging.kafka.offset")["intValue"].as_str().unwrap().to_owned();
            (
                offset,
                of("messina.outcome")["stringValue"].as_str().unwrap().to_owned(),
            )
        }));
    }
    let expected = [
        ("0", "done"),
        ("1", "abandoned"),
        ("2", "abandoned"),
        ("3", "abandoned"),
    ];
    assert_eq!(
        spans,
        expected.map(|(offset, outcome)| (offset.to_owned(), outcome.to_owned()))
    );
}

/// Otherwise its queue would be delivered whenever brokers accept it again.
#[tokio::test]
async fn outputs_are_withdrawn_where_their_partition_leaves_and_not_before() {
    let now = Instant::now();
    let deadline = now + Duration::from_secs(30);
    for (way, leaves) in [("draining", false), ("drained", true), ("lost", true), ("closed", true)] {
        for published in [false, true] {
            let mut this = idle(TOML.to_owned() + OUTPUT).await;
            let sink = this.parts.runtime.sink.clone().unwrap();
            let mut waiting = Some(taken(&mut this, 0));
            if published {
                let event = waiting.take().unwrap();
                assert!(sink.send(event, b"out", None, now).is_ok());
            }
            match way {
                "lost" => this.withdraw_what_is_lost(|_| true),
                "closed" => this.consumer_closes(),
                _ => {
                    this.assignment.revoked(&[P], deadline);
                    this.withdraw_what_does_not_drain(if leaves { deadline } else { now });
                }
            }
            let mut next = record(&this, Ticket::unassigned(), 1, None, &RECORD);
            next.tenure = Arc::default();
            let refused = sink.send(next, b"out", None, now).is_err();
            assert_eq!(refused, published && leaves, "{way}");
            let replaced = published && ["lost", "drained"].contains(&way);
            assert_eq!(this.replace.is_some(), replaced, "{way}");
        }
    }
}

#[tokio::test]
async fn what_is_lost_alone_ends_nothing_of_what_stays() {
    let other = Partition { topic: 0, index: 1 };
    for alone in [true, false] {
        let mut this = idle(TOML.to_owned() + OUTPUT).await;
        starts(&mut this, other);
        let sink = this.parts.runtime.sink.clone().unwrap();
        let (published, stays) = (taken(&mut this, 0), taken(&mut this, 1));
        assert!(sink.send(published, b"out", None, Instant::now()).is_ok());
        let lost = if alone { 1..2 } else { 0..2 };
        this.parts.consumer.context().notice(Notice::Revoked {
            partitions: lost.map(|index| ("in".to_owned(), index)).collect(),
            cooperative: true,
            lost: true,
        });
        this.take_notices();
        assert_eq!(stays.is_abandoned(), !alone);
        assert_eq!(this.replace.is_some(), !alone, "its output is of what stays");
        assert_eq!(this.lost.is_some(), !alone);
        assert!(!this.assignment.holds(other) && this.assignment.holds(P) == alone);
    }
}

/// The lag of its partitions is nobody's concern any more.
#[tokio::test]
async fn a_topic_that_is_taken_away_is_shown_without_partitions() {
    let mut this = idle(TOML.replace("[\"in\"]", "[\"in\", \"closed\"]")).await;
    let metrics = this.parts.runtime.metrics.clone();
    let shown = || ["in", "closed"].map(|topic| metrics.topic_assigned_partitions(topic).get());
    starts(&mut this, Partition { topic: 1, index: 0 });
    this.publish_status("running");
    assert_eq!(shown(), [1, 1]);
    this.parts.consumer.context().notice(Notice::Revoked {
        partitions: vec![("closed".to_owned(), 0)],
        cooperative: true,
        lost: true,
    });
    this.take_notices();
    this.publish_status("running");
    assert_eq!(shown(), [1, 0]);
    // Another consumer has the topic: the sum of all consumers is shown.
    let mut other = Gauges::new(&metrics, &this.parts.topics);
    other.of_topics[1].set(2);
    this.publish_status("running");
    assert_eq!(shown(), [1, 2]);
    drop((this, other));
    assert_eq!(shown(), [0, 0]);
}

#[tokio::test]
async fn ids_that_nobody_knows_are_told_once_for_a_while_and_schemas_that_do_not_fit_each() {
    let mut this = idle(TOML.to_owned()).await;
    for id in 0..100 {
        let unknown = Failure::permanent("registry", format!("the registry does not know {id}"));
        this.schema_known(id, Err(unknown));
    }
    assert_eq!(this.last_errors.len(), 1);
    for id in 100..102 {
        let other = Failure::permanent("schema", format!("schema {id} breaks the pipeline"));
        this.schema_known(id, Err(other));
    }
    assert_eq!(this.last_errors.len(), 3);
}

#[tokio::test]
async fn a_stop_by_dead_letters_is_reported_once() {
    let metrics = Metrics::new().unwrap();
    let options = SentryOptions {
        // Nobody listens there.
        dsn: "http://public@127.0.0.1:9/1".to_owned(),
        environment: None,
        sample_rate: 1.0,
        every: Duration::ZERO,
        flush: Duration::from_millis(200),
    };
    let sentry = Arc::new(Sentry::init(options, Breadcrumbs::default(), &metrics).unwrap());
    let mut this = idle(TOML.to_owned()).await;
    this.parts.runtime = Arc::new(Runtime {
        sentry: Some(sentry.clone()),
        ..(*this.parts.runtime).clone()
    });
    let above = StopAbove {
        ratio: None,
        consecutive: Some(1),
    };
    this.parts.limits = Some(Limits::new(above, Window::default()));
    for offset in 0..3 {
        let (event, how) = (taken(&mut this, offset), How::Finished(Outcome::DeadLettered));
        this.ended(Completion { event, how }, Instant::now());
    }
    assert!(this.stopped_by_limit);
    // Its loop still runs, and must be missed when it does not.
    assert_eq!(this.phase(), STOPPED_BY_LIMIT);
    sentry.close(Duration::from_secs(60));
    let events = ["sent", "failed", "dropped"].map(|how| metrics.sentry_events_total.of([how]).get());
    assert_eq!(events, [0, 1, 0]);
}

#[tokio::test]
async fn dead_letters_make_no_latency_look_good() {
    let mut this = idle(TOML.to_owned()).await;
    let outcomes = [Outcome::DeadLettered, Outcome::Done, Outcome::Skipped];
    for (offset, outcome) in (0..).zip(outcomes) {
        let (event, how) = (taken(&mut this, offset), How::Finished(outcome));
        this.ended(Completion { event, how }, Instant::now());
    }
    assert_eq!(this.metrics.event.get_sample_count(), 2);
    assert_eq!(this.parts.runtime.metrics.dead_lettered.get(), 1);
}

#[tokio::test]
async fn a_halt_is_told_at_once_and_so_is_one_amid_a_drain() {
    for drains in [false, true] {
        let mut this = with_one_finished().await;
        this.publish_status("running");
        let state = this.parts.state.clone();
        if drains {
            this.stop();
            assert_eq!(state.get().state, "stopping");
        }
        this.halt(Failure::fatal("kafka", "fenced"));
        let status = state.get();
        assert_eq!((status.state, status.halted.is_some()), ("halted", true));
    }
}

/// What it has not finished belongs to nobody any more.
#[tokio::test]
async fn a_loop_that_has_ended_shows_no_partitions_and_nothing_in_flight() {
    let mut this = idle(TOML.to_owned()).await;
    this.parts.budget = Budget::new(1, 1 << 20);
    let _unfinished = taken(&mut this, 0);
    this.parts.drain_timeout = Duration::ZERO;
    this.halt(Failure::fatal("kafka", "fenced"));
    let status = this.parts.state.get();
    assert_eq!((status.partitions.len(), status.in_flight_records), (1, 1));
    assert!(status.full && status.paused && status.in_flight_bytes > 0);
    let consumer = this.parts.consumer.clone();
    let end = this.live(&consumer, Instant::now()).await;
    assert!(matches!(end, End::Halted(_)), "{end:?}");
    let status = this.parts.state.get();
    assert_eq!((status.state, status.partitions.len()), ("halted", 0));
    assert_eq!((status.in_flight_records, status.in_flight_bytes), (0, 0));
    assert!(!status.full && !status.paused);
}

#[tokio::test]
async fn only_a_pause_over_the_budget_is_counted() {
    let mut this = idle(TOML.to_owned()).await;
    let pauses = this.parts.runtime.metrics.pauses.clone();
    this.ledger_full = true;
    this.regulate();
    assert!(!this.paused);
    this.full_since = this.full_since.map(|since| since - PAUSE_AFTER);
    this.regulate();
    assert!(this.paused);
    // What is assigned meanwhile is paused, too; then everything leaves.
    this.pause(true);
    this.stop();
    assert_eq!(pauses.get(), 1);
}

/// Each of these partitions has one record in flight, at offset 0, and `behind` finished ones after it.
fn with_many_behind_one(this: &mut Loop, partitions: i32, behind: i64) -> Vec<Ticket> {
    let others: Vec<_> = (1..partitions).map(|index| Partition { index, ..P }).collect();
    this.assignment.assigned(&others);
    if let Some(Action::FetchCommitted(starting)) = this.assignment.next_action() {
        for (_, ticket) in starting {
            this.assignment.started(ticket, Some(0), i64::MIN);
        }
    }
    while this.assignment.next_action().is_some() {}
    let held: Vec<_> = this.assignment.held().map(|at| (at.partition, at.ticket)).collect();
    for (partition, ticket) in &held {
        this.parts.budget.admit(1);
        for offset in 0..=behind {
            this.assignment.admit(*partition, offset, None).unwrap();
        }
        for offset in 1..=behind {
            this.assignment.finished(*ticket, offset).unwrap();
        }
    }
    held.into_iter().map(|(_, ticket)| ticket).collect()
}

#[tokio::test]
async fn what_has_finished_behind_records_of_many_partitions_fills_the_budget_together() {
    let mut this = idle(TOML.to_owned()).await;
    let stuck = with_many_behind_one(&mut this, 50, 400);
    this.publish_status("running");
    assert!(!this.takes_records());
    assert!(this.parts.state.get().full);
    assert_eq!(this.parts.budget.bytes(), 50 + 50 * 400 * 64);
    for ticket in stuck {
        this.assignment.finished(ticket, 0).unwrap();
        this.parts.budget.release(1);
    }
    this.publish_status("running");
    assert!(this.takes_records());
    assert_eq!(this.parts.budget.bytes(), 0);
}

#[tokio::test]
async fn what_has_finished_behind_one_record_is_no_more_than_a_crash_may_repeat() {
    let mut this = idle(TOML.to_owned()).await;
    this.parts.budget = Budget::new(100, usize::MAX);
    let stuck = with_many_behind_one(&mut this, 1, 200_000);
    this.publish_status("running");
    assert!(!this.takes_records() && !this.parts.budget.is_full());
    assert!(this.parts.state.get().full, "intake waits");
    this.assignment.finished(stuck[0], 0).unwrap();
    this.publish_status("running");
    assert!(this.takes_records() && !this.parts.state.get().full);
}

#[tokio::test]
async fn records_of_several_topics_are_told_apart_in_whatever_turn_they_come() {
    let mut this = idle(TOML.to_owned()).await;
    this.topics = vec!["a".into(), "b".into(), "c".into()];
    let turn = ["b", "b", "c", "d", "c", "a", "b", "a"];
    let found = turn.map(|topic| this.partition_in_turn(topic, 7).map(|p| (p.topic, p.index)));
    let places = [1_u16, 1, 2, 9, 2, 0, 1, 0].map(|topic| (topic < 3).then_some((topic, 7_i32)));
    assert_eq!(found, places);
}

#[tokio::test]
async fn however_short_a_stall_is_librdkafka_is_not_silent_between_two_reports() {
    let mut this = idle(TOML.to_owned()).await;
    this.joined = true;
    this.parts.stall_after = Duration::from_secs(1);
    let mut silent_for = |seconds: u32| {
        for _ in 0..seconds * 4 {
            this.watch(None);
        }
        this.replace.is_some()
    };
    assert!(!silent_for(2));
    assert!(silent_for(3));
}

/// If dead letters have stopped intake, no other consumer replaces this one, so it has to drain by itself.
#[tokio::test]
async fn a_drain_waits_for_no_record_that_has_come_back_unfinished() {
    let mut this = idle(TOML.to_owned() + OUTPUT).await;
    let metrics = this.parts.runtime.metrics.clone();
    this.stopped_by_limit = true;
    let [unfinished, running] = [0, 1].map(|offset| taken(&mut this, offset));
    let how = How::StartAgain(Failure::transient("delivery", "no broker took it"));
    this.ended(Completion { event: unfinished, how }, Instant::now());
    assert!(this.replace.is_none() && this.stopping.is_none());
    this.assignment.revoked(&[P], Instant::now() + LONG);
    assert!(this.assignment.next_action().is_none(), "the other may still finish");
    let how = How::Finished(Outcome::Done);
    this.ended(Completion { event: running, how }, Instant::now());
    let mut actions = Vec::new();
    while let Some(action) = this.assignment.next_action() {
        actions.push(action);
    }
    // Nothing is committed past the first record.
    assert!(
        matches!(&actions[..], [Action::Forget { .. }, Action::Unassign(gone)] if *gone == [P]),
        "{actions:?}"
    );
    let counted = (metrics.done.get(), metrics.given_up.get(), this.parts.budget.records());
    assert_eq!(counted, (1, 1, 0));
}
