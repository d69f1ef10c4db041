//! Tests of the loop on librdkafka's mock cluster, whose group and fetches use the real protocol: what a rebalance waits for, and what happens to a
//! consumer that gets no more records. `idle` tests what needs no broker, `leaving` what a rebalance does beside a drain, `gone` retention, `starting`
//! partitions whose offsets the group does not return, `misled` outputs that stall.

mod gone;
pub(super) mod idle;
mod leaving;
mod misled;
mod starting;

use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, RebalanceProtocol};
use rdkafka::message::OwnedHeaders;
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use super::*;
use crate::avro::{Schema, Value};
use crate::breaker::gate::Gates;
use crate::config::{self, Delivery, GroupProtocol};
use crate::kafka::{self, BatchBytes, login::Logins, metadata};
use crate::ledger::decode_clock;
use crate::pipeline::plan::OutputSchema;
use crate::pipeline::runner::StepHandles;
use crate::pipeline::{plan, program};
use crate::reference::References;
use crate::registry::{Registry, RegistryOptions};
use crate::retry::Backoff;
use crate::sink::batches::Batches;
use crate::sink::dead_letters::DeadLetters;
use crate::sink::limits::{StopAbove, Window};
use crate::sink::turnstile::Turnstile;
use crate::sink::{self, Sink};
use crate::source::bounds::Bounds;
use crate::source::context;
use crate::store::AnyStore;
use crate::store::memory::{MemoryStore, Written};
use crate::tap::{Looker, Showing};
use crate::telemetry::handles::PipelineMetrics;
use crate::telemetry::kafka::KafkaMetrics;
use crate::telemetry::limit::Limiter;
use crate::telemetry::metrics::Metrics;

const TOML: &str = r#"
[kafka]
brokers = "mock"
[registry]
url = "http://127.0.0.1:1"
[scylla]
nodes = ["s:9042"]
[pipelines.p]
order = "none"
[pipelines.p.source]
topics = ["in"]
group = "g"
[[pipelines.p.steps]]
name = "row"
write = "INSERT INTO t (p, k) VALUES (:p, :k)"
bind = { p = "record.partition", k = "record.offset" }
"#;

/// Makes the pipeline publish, with a producer that keeps the order, whatever the pipeline's own order is.
const OUTPUT: &str = r#"
[pipelines.p.sink]
topic = "out"
set = { place = "record.offset" }
"#;

/// Makes it write dead letters, and stop after two.
const DEAD_LETTERS: &str = r#"
[pipelines.p.dead_letter]
topic = "dead"
stop_above = { consecutive = 1 }
"#;

/// The statement that it executes.
const ROW: &str = "INSERT INTO t (p, k) VALUES (:p, :k)";

/// An empty record of the schema with the id 7.
const RECORD: [u8; 5] = [0, 0, 0, 0, 7];

/// An empty record of another schema, which only the registry knows; that is down.
const UNKNOWN: [u8; 5] = [0, 0, 0, 0, 9];

const LONG: Duration = Duration::from_secs(90);

/// The broker of [`with_sink_apart`] that leads the output topic and nothing else.
const SINK: i32 = 2;

/// The brokers' answer to a producer whose transactional id has another epoch by now. A producer without such an id gets the same answer when its epoch
/// is too old.
const FENCE: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH;

fn exactly_once() -> String {
    TOML.replace("order = \"none\"", "order = \"none\"\ndelivery = \"exactly_once\"")
}

struct Bench {
    cluster: MockCluster<'static, DefaultProducerContext>,
    store: MemoryStore,
    metrics: PipelineMetrics,
    all_metrics: Arc<Metrics>,
    state: Arc<LoopState>,
    /// The schemas, and the plan of the one that they know.
    schemas: std::sync::mpsc::Receiver<(Arc<Schemas>, Arc<SchemaPlan>)>,
    stop: watch::Sender<bool>,
    thread: std::thread::JoinHandle<End>,
}

fn client(brokers: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", brokers).set("group.id", "g");
    for (name, value) in [
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("session.timeout.ms", "6000"),
        ("heartbeat.interval.ms", "300"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "earliest"),
        ("statistics.interval.ms", "500"),
        ("topic.metadata.refresh.interval.ms", "1000"),
    ] {
        client.set(name, value);
    }
    client
}

/// The same in a group whose broker assigns; then the broker sets the times, too.
fn assigned_client(brokers: &str) -> ClientConfig {
    let mut client = client(brokers);
    for name in [
        "partition.assignment.strategy",
        "session.timeout.ms",
        "heartbeat.interval.ms",
    ] {
        client.remove(name);
    }
    client.set("group.protocol", "consumer");
    client
}

/// The runtime of this pipeline, its schemas, and the plan of the one that they know.
async fn prepared(
    pipeline: &config::Pipeline,
    store: MemoryStore,
    metrics: &PipelineMetrics,
) -> (Runtime, Arc<Schemas>, Arc<SchemaPlan>) {
    let store = Arc::new(AnyStore::Memory(store));
    let parsed = program::parse(pipeline).unwrap();
    let program = Arc::new(
        parsed
            .prepare(Some(&store), &References::default(), &Default::default())
            .await
            .unwrap(),
    );
    let schema = Schema::parse(r#"{"type": "record", "name": "E", "fields": []}"#).unwrap();
    let output = pipeline.sink.is_some().then_some(OutputSchema::Appended);
    let compiled = plan::compile(&program, Arc::new(schema), output.as_ref()).unwrap();
    let options = RegistryOptions {
        urls: vec!["http://127.0.0.1:1".to_owned()],
        ..RegistryOptions::default()
    };
    let registry = Arc::new(Registry::new(options).unwrap());
    let schemas = Arc::new(Schemas::new(program.clone(), registry, None));
    let plan = Arc::new(SchemaPlan {
        plan: compiled.plan,
        output: compiled.output.map(|(splice, schema)| plan::Output {
            splice,
            schema,
            schema_id: 8,
        }),
    });
    schemas.set(7, plan.clone());
    let steps = vec![StepHandles {
        step: metrics.step("row"),
        rows: Some(metrics.rows_written("row")),
        found: None,
    }];
    let runtime = Runtime {
        program,
        store: Some(store),
        sink: None,
        dead_letters: None,
        metrics: metrics.clone(),
        steps,
        backoff: Backoff::new(Duration::from_millis(50), Duration::from_millis(200), 2.0),
        gates: Gates::default(),
        limiter: Arc::new(Limiter::new(Duration::from_secs(1))),
        sentry: None,
        tracer: None,
    };
    (runtime, schemas, plan)
}

/// A producer that keeps the order, with a transactional id or without.
fn producer_of(
    config: &config::Config,
    brokers: &str,
    all_metrics: &Arc<Metrics>,
    metrics: &PipelineMetrics,
    transactional_id: Option<&str>,
) -> (Arc<sink::Producer>, Option<Arc<Turnstile>>) {
    let turnstile = transactional_id.map(|_| Arc::new(Turnstile::default()));
    let mut properties = kafka::producer(&config.kafka, &[], 1 << 20, BatchBytes::default(), transactional_id).unwrap();
    let made = sink::producer(
        properties.set("bootstrap.servers", brokers),
        metrics.clone(),
        KafkaMetrics::new(all_metrics, "p", "producer"),
        true,
        turnstile.clone(),
        Arc::new(Batches::default()),
        Logins::default(),
    );
    (made.unwrap(), turnstile)
}

fn cluster(partitions: i32) -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("in", partitions, 1).unwrap();
    cluster
}

/// The same with a separate broker for the output topic.
fn with_sink_apart(partitions: i32) -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(2).unwrap();
    cluster.coordinator(MockCoordinator::Group("g".to_owned()), 1).unwrap();
    cluster.create_topic("in", partitions, 1).unwrap();
    for partition in 0..partitions {
        cluster.partition_leader("in", partition, Some(1)).unwrap();
    }
    cluster.create_topic("out", 1, 1).unwrap();
    cluster.partition_leader("out", 0, Some(SINK)).unwrap();
    cluster
}

impl Bench {
    /// A loop on its own thread, as the application runs it, with a cluster of its own.
    fn start(partitions: i32, latency: Duration, stall_after: Duration) -> Bench {
        Bench::join(cluster(partitions), latency, stall_after)
    }

    /// The same with this cluster.
    fn join(cluster: MockCluster<'static, DefaultProducerContext>, latency: Duration, stall_after: Duration) -> Bench {
        Bench::run(cluster, latency, stall_after, TOML.to_owned())
    }

    /// The same with this pipeline.
    fn run(
        cluster: MockCluster<'static, DefaultProducerContext>,
        latency: Duration,
        stall_after: Duration,
        toml: String,
    ) -> Bench {
        Bench::bounded(cluster, latency, stall_after, toml, None)
    }

    /// The same within these bounds.
    fn bounded(
        cluster: MockCluster<'static, DefaultProducerContext>,
        latency: Duration,
        stall_after: Duration,
        toml: String,
        bounds: Option<Arc<Bounds>>,
    ) -> Bench {
        let store = MemoryStore::new();
        store.set_latency(latency);
        Bench::on(store, cluster, stall_after, toml, bounds)
    }

    /// The same with this store.
    fn on(
        store: MemoryStore,
        cluster: MockCluster<'static, DefaultProducerContext>,
        stall_after: Duration,
        toml: String,
        bounds: Option<Arc<Bounds>>,
    ) -> Bench {
        let brokers = cluster.bootstrap_servers();
        let metrics = Metrics::new().unwrap();
        let of_pipeline = PipelineMetrics::new(&metrics, "p");
        let all_metrics = metrics.clone();
        let (stop, stopped) = watch::channel(false);
        let (known, schemas) = std::sync::mpsc::channel();
        let (given, handles) = (store.clone(), of_pipeline.clone());
        let state = Arc::new(LoopState::default());
        let of_loop = state.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let end = runtime.block_on(async {
                let (config, _) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
                let pipeline = &config.pipelines["p"];
                let classic = pipeline.source.group_protocol == GroupProtocol::Classic;
                let topics: Vec<String> = pipeline.source.topics.iter().map(|topic| (**topic).clone()).collect();
                let publishes = pipeline.sink.is_some();
                let transactional_id = (*pipeline.delivery == Delivery::ExactlyOnce).then_some("p-0");
                let gives_up = pipeline.dead_letter.is_some();
                let (order, offset_reset) = (pipeline.order, pipeline.source.offset_reset);
                let max_in_flight = *pipeline.max_in_flight;
                let drain_timeout = config.shutdown_timeout;
                let limits = pipeline.dead_letter.as_ref().and_then(|d| d.stop_above).map(|above| {
                    let above = StopAbove {
                        ratio: above.ratio,
                        consecutive: above.consecutive,
                    };
                    Limits::new(above, Window::default())
                });
                let (runtime, schemas, plan) = prepared(pipeline, given, &handles).await;
                let _ = known.send((schemas.clone(), plan));
                let make_producer = || producer_of(&config, &brokers, &metrics, &handles, transactional_id);
                let mut producer = publishes.then(make_producer);
                let mut is_first = true;
                run_and_rebuild(|| {
                    // Each producer takes its transactional id only once.
                    let is_over = |(producer, turnstile): &(Arc<sink::Producer>, Option<Arc<Turnstile>>)| {
                        producer.fatal().is_some() || (turnstile.is_some() && !is_first)
                    };
                    if producer.as_ref().is_some_and(is_over) {
                        producer = Some(make_producer());
                    }
                    is_first = false;
                    let (producer, turnstile) = producer.clone().unzip();
                    let mut runtime = runtime.clone();
                    runtime.dead_letters = producer
                        .clone()
                        .filter(|_| gives_up)
                        .map(|producer| DeadLetters::new(producer, "dead", "p"));
                    runtime.sink = producer.clone().map(|producer| Sink::new(producer, "out"));
                    let statistics = KafkaMetrics::new(&metrics, "p", "consumer-0");
                    let properties = if classic {
                        client(&brokers)
                    } else {
                        assigned_client(&brokers)
                    };
                    let context = SourceContext::new("p", statistics, Logins::default(), Arc::default());
                    let consumer = context::consumer(&properties, context).unwrap();
                    Ok(Parts {
                        consumer: Arc::new(consumer),
                        topics: topics.clone(),
                        offset_reset,
                        tombstone: OnTombstone::Skip,
                        order,
                        budget: Budget::new(max_in_flight, 1 << 20),
                        concurrency: None,
                        pool: 100,
                        limits: limits.clone(),
                        schemas: schemas.clone(),
                        runtime: Arc::new(runtime),
                        io: Handle::current(),
                        state: of_loop.clone(),
                        rest: Arc::default(),
                        static_member: false,
                        classic,
                        drain_timeout,
                        stall_after,
                        stop: stopped.clone(),
                        transactions: producer
                            .zip(turnstile.flatten())
                            .map(|(producer, turnstile)| TransactionParts {
                                producer,
                                turnstile,
                                interval: Duration::from_millis(100),
                                limit: Duration::from_secs(30),
                            }),
                        bounds: bounds.clone(),
                    })
                })
                .await
            });
            runtime.shutdown_background();
            end
        });
        Bench {
            cluster,
            store,
            metrics: of_pipeline,
            all_metrics,
            state,
            schemas,
            stop,
            thread,
        }
    }

    /// The offsets of a partition whose rows were written.
    fn written(&self, partition: i32) -> BTreeSet<i64> {
        let offset = |value: &Value<'_>| match value {
            Value::Long(offset) => Some(*offset),
            Value::Int(offset) => Some(i64::from(*offset)),
            _ => None,
        };
        let rows = self.rows(partition);
        rows.iter().filter_map(|row| offset(&row.values[1].1)).collect()
    }

    /// The rows of a partition that were written.
    fn rows(&self, partition: i32) -> Vec<Written> {
        let wanted = Value::Long(i64::from(partition));
        let of_partition = |value: &Value<'_>| *value == wanted || *value == Value::Int(partition);
        let mut rows = self.store.writes();
        rows.retain(|row| of_partition(&row.values[0].1));
        rows
    }

    fn end(self) -> End {
        self.stop.send(true).unwrap();
        self.thread.join().unwrap()
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LONG, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Another member of the group, which is never closed: when the group reported a change at that moment, librdkafka (2.12) has waited for ever for the
/// answer to an assignment that was given up.
fn member(brokers: &str) -> ManuallyDrop<BaseConsumer> {
    let member: BaseConsumer = client(brokers).create().unwrap();
    member.subscribe(&["in"]).unwrap();
    ManuallyDrop::new(member)
}

struct Load {
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Load {
    fn new(bench: &Bench) -> Load {
        Load::at(&bench.cluster.bootstrap_servers())
    }

    fn at(brokers: &str) -> Load {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers);
        Load {
            producer: config.create().unwrap(),
        }
    }

    fn send_with_key(&self, partition: i32, key: &[u8]) {
        let record = BaseRecord::<[u8], [u8]>::to("in").payload(&RECORD).key(key);
        let sent = self.producer.send(record.partition(partition));
        sent.map_err(|(error, _)| error).unwrap();
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }

    fn send(&self, partition: i32) {
        self.give(partition, &RECORD);
    }

    fn give(&self, partition: i32, value: &[u8]) {
        self.give_many(partition, value, 1);
    }

    /// Sends this many records at once, because the mock cluster returns one batch per fetch.
    fn give_many(&self, partition: i32, value: &[u8], count: usize) {
        for _ in 0..count {
            let record = BaseRecord::<(), _>::to("in").payload(value).partition(partition);
            self.producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }
}

#[test]
fn partitions_are_drained_and_committed_before_they_are_given_back() {
    // On a busy machine the mock cluster may answer a member's SyncGroup with InvalidRequest, refuse the other's commits while the first joins again, and
    // remove the other from the group, which no broker does.
    let is_committed = |attempt| {
        let (committed, count, refused) = give_back();
        assert!(
            committed == Offset::Offset(count) || refused,
            "attempt {attempt}: given back with work in flight: {committed:?} of {count}"
        );
        committed == Offset::Offset(count)
    };
    assert!((1..=5).any(is_committed), "never committed before");
}

/// Gives one of two partitions to another member. Returns what was committed of it, how many of its records were written, and whether the group refused a
/// commit.
fn give_back() -> (Offset, i64, bool) {
    let bench = Bench::start(2, Duration::from_millis(800), Duration::from_secs(60));
    let load = Load::new(&bench);
    let send = || {
        (0..2).for_each(|partition| load.send(partition));
        std::thread::sleep(Duration::from_millis(50));
    };
    until("the first rows", || {
        send();
        bench.store.writes().len() > 10
    });
    // From now on something is always in flight. Another member takes one of the partitions.
    let other = member(&bench.cluster.bootstrap_servers());
    let mut partition = None;
    until("the other member to have a partition", || {
        send();
        let _ = other.poll(Duration::from_millis(1));
        let list = other.assignment().unwrap();
        partition = list.elements().first().map(|e| e.partition());
        partition.is_some()
    });
    let partition = partition.unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition("in", partition);
    let answer = other.committed_offsets(asked, Duration::from_secs(10)).unwrap();
    let committed = answer.elements()[0].offset();
    // What was in flight is written by now, even if it was not waited for.
    std::thread::sleep(Duration::from_millis(1500));
    let written = bench.written(partition);
    let count = written.len() as i64;
    assert!(count > 10, "{written:?}");
    assert_eq!(written, (0..count).collect());
    if committed == Offset::Offset(count) {
        // The clock of the last row; its record has seven more timestamps.
        let last = bench.rows(partition).iter().map(|row| row.timestamp_us).max();
        let clock = decode_clock(metadata::of(&answer, "in", partition));
        assert_eq!(clock, last.map(|last| last + 7));
    }
    let metrics = bench.metrics.clone();
    let end = bench.end();
    let refused = metrics.commit_failures.get() > 0;
    assert!(matches!(end, End::Drained) || refused, "{end:?}");
    (committed, count, refused)
}

#[test]
fn a_partition_that_waits_for_a_schema_is_given_back_at_once() {
    let cluster = cluster(2);
    let load = Load::at(&cluster.bootstrap_servers());
    for partition in 0..2 {
        load.send(partition);
        (0..3).for_each(|_| load.give(partition, &UNKNOWN));
    }
    // Longer than this test waits.
    let toml = format!("shutdown_timeout = \"2m\"\n{TOML}");
    let bench = Bench::run(cluster, Duration::ZERO, Duration::from_secs(60), toml);
    until("records to wait", || bench.state.get().waiting_for_schema == 6);
    let other = member(&bench.cluster.bootstrap_servers());
    until("the other member to have a partition", || {
        let _ = other.poll(Duration::from_millis(10));
        other.assignment().unwrap().count() == 1
    });
    until("what is left to be seen", || {
        let status = bench.state.get();
        (status.waiting_for_schema, status.in_flight_records) == (3, 3)
    });
    // On a busy machine the mock cluster may take away the other partition, too, which no broker does.
    let end = bench.end();
    assert!(matches!(end, End::Abandoned(_) | End::Drained), "{end:?}");
}

#[test]
fn without_a_coordinator_partitions_are_given_back_all_the_same() {
    let bench = Bench::start(2, Duration::ZERO, Duration::from_secs(60));
    let load = Load::new(&bench);
    let send = || (0..2).for_each(|partition| load.send(partition));
    until("the first rows", || {
        send();
        (0..2).all(|partition| !bench.written(partition).is_empty())
    });
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR;
    bench
        .cluster
        .request_errors(RDKafkaApiKey::OffsetCommit, &vec![refusal; 5000]);
    let other = member(&bench.cluster.bootstrap_servers());
    let mut taken = None;
    until("the other member to have a partition", || {
        send();
        let _ = other.poll(Duration::from_millis(10));
        taken = other.assignment().unwrap().elements().first().map(|e| e.partition());
        taken.is_some()
    });
    let kept = 1 - taken.unwrap();
    let before = bench.written(kept).len();
    until("rows of the partition that stays", || {
        send();
        let _ = other.poll(Duration::from_millis(10));
        bench.written(kept).len() > before + 10
    });
    bench.cluster.clear_request_errors(RDKafkaApiKey::OffsetCommit);
    // The consumer may still be looking for the coordinator.
    let end = bench.end();
    assert!(matches!(end, End::Drained | End::Abandoned(_)), "{end:?}");
}

#[test]
fn a_last_commit_that_the_group_refuses_for_a_moment_is_made_again() {
    let bench = Bench::start(1, Duration::ZERO, Duration::from_secs(60));
    let load = Load::new(&bench);
    until("the first row", || {
        load.send(0);
        !bench.written(0).is_empty()
    });
    // The answer while a rebalance is between its two halves. Some of these meet the commits that are made every second.
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS;
    bench
        .cluster
        .request_errors(RDKafkaApiKey::OffsetCommit, &[refusal; 12]);
    let before = bench.written(0).len();
    (0..20).for_each(|_| load.send(0));
    until("twenty rows more", || bench.written(0).len() >= before + 20);
    let written = bench.written(0).len() as i64;
    let brokers = bench.cluster.bootstrap_servers();
    let Bench {
        cluster: _cluster,
        stop,
        thread,
        ..
    } = bench;
    stop.send(true).unwrap();
    assert!(matches!(thread.join().unwrap(), End::Drained));
    let other: BaseConsumer = client(&brokers).create().unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition("in", 0);
    let answer = other.committed_offsets(asked, Duration::from_secs(10)).unwrap();
    assert_eq!(answer.elements()[0].offset(), Offset::Offset(written));
}

#[test]
fn what_the_group_has_not_acknowledged_at_the_end_is_left() {
    let bench = Bench::start(1, Duration::ZERO, Duration::from_secs(60));
    let load = Load::new(&bench);
    load.send(0);
    let committed = || bench.metrics.partition("in", 0).committed_offset.get();
    until("the first commit", || committed() == 1);
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
    bench
        .cluster
        .request_errors(RDKafkaApiKey::OffsetCommit, &vec![refusal; 5000]);
    (0..3).for_each(|_| load.send(0));
    until("the rows", || bench.written(0).len() == 4);
    let end = bench.end();
    assert!(matches!(end, End::Abandoned(3)), "{end:?}");
}

#[test]
fn a_loop_that_panics_leaves_no_series_of_its_partitions_and_is_shown_as_halted() {
    let bench = Bench::start(1, Duration::ZERO, Duration::from_secs(60));
    let load = Load::new(&bench);
    let position = || bench.metrics.partition("in", 0).position.get();
    until("the first rows to be seen", || {
        load.send(0);
        position() > 1
    });
    // A time that no clock can represent makes the end of a record panic.
    let looker = Looker::new(Showing::Shapes, None, 1, Duration::MAX);
    assert!(bench.state.tap.open(&looker));
    until("the panic", || {
        load.send(0);
        bench.thread.is_finished()
    });
    assert_eq!(position(), 0, "a new one");
    let status = bench.state.get();
    // The reason is added, and counted, when the end of the loop is noticed.
    assert_eq!((status.state, status.halted, status.over), ("halted", None, true));
    assert!(bench.thread.join().is_err());
}

#[test]
fn any_bytes_may_stand_beside_the_offset_of_the_group() {
    let cluster = cluster(1);
    let other: BaseConsumer = client(&cluster.bootstrap_servers()).create().unwrap();
    let mut list = TopicPartitionList::new();
    metadata::tests::add(&mut list, "in", 0, b"caf\xe9");
    list.set_partition_offset("in", 0, Offset::Offset(0)).unwrap();
    until("the offset", || other.commit(&list, CommitMode::Sync).is_ok());
    let kept = other.committed_offsets(list, Duration::from_secs(10)).unwrap();
    assert_eq!(metadata::of(&kept, "in", 0), b"caf\xe9");
    let bench = Bench::join(cluster, Duration::ZERO, Duration::from_secs(60));
    let load = Load::new(&bench);
    until("the first row", || {
        load.send(0);
        !bench.written(0).is_empty()
    });
    assert!(matches!(bench.end(), End::Drained));
}

#[test]
fn an_idle_partition_shows_the_offset_of_the_group() {
    let cluster = cluster(1);
    let brokers = cluster.bootstrap_servers();
    let load = Load::at(&brokers);
    (0..3).for_each(|_| load.send(0));
    let other: BaseConsumer = client(&brokers).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("in", 0, Offset::Offset(3)).unwrap();
    until("the offset", || other.commit(&list, CommitMode::Sync).is_ok());
    let bench = Bench::join(cluster, Duration::ZERO, Duration::from_secs(60));
    until("the offset to be shown", || {
        let shown = bench.metrics.partition("in", 0);
        (shown.position.get(), shown.committed_offset.get()) == (3, 3)
    });
    assert!(bench.written(0).is_empty());
    assert!(matches!(bench.end(), End::Drained));
}

/// A loop in its second start: its group began after the first record, five records came while it was away, and its first fetches are refused like this.
fn begun_at_the_end_twice(refusals: &[RDKafkaRespErr]) -> Bench {
    let cluster = cluster(1);
    let load = Load::at(&cluster.bootstrap_servers());
    load.send(0);
    let toml = TOML.replace("group = \"g\"", "group = \"g\"\noffset_reset = \"latest\"");
    let start = |cluster| Bench::run(cluster, Duration::ZERO, Duration::from_secs(60), toml.clone());
    let bench = start(cluster);
    until("the partition to run", || {
        let partitions = bench.state.get().partitions;
        partitions.first().is_some_and(|partition| partition.phase == "running")
    });
    let Bench {
        cluster, stop, thread, ..
    } = bench;
    stop.send(true).unwrap();
    assert!(matches!(thread.join().unwrap(), End::Drained));
    (0..5).for_each(|_| load.send(0));
    cluster.request_errors(RDKafkaApiKey::Fetch, refusals);
    start(cluster)
}

#[test]
fn what_comes_to_an_idle_partition_between_two_starts_is_taken_where_a_group_begins_at_the_end() {
    let bench = begun_at_the_end_twice(&[]);
    until("what came meanwhile", || bench.written(0) == (1..6).collect());
    assert!(matches!(bench.end(), End::Drained));
}

/// Retention may pass a group that was away for long. What is still in the log is not skipped, wherever a new group would begin.
#[test]
fn an_offset_that_the_log_has_no_longer_is_no_reason_to_begin_at_the_end() {
    // The answer to the first fetch may be discarded because the position is validated meanwhile.
    let bench = begun_at_the_end_twice(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE; 2]);
    until("all that the log has", || bench.written(0) == (0..6).collect());
    assert!(matches!(bench.end(), End::Drained));
}

/// The mock cluster forgets the offsets of transactions, so there is no second start here.
#[test]
fn where_an_idle_partition_begins_at_its_end_is_committed_by_one_transaction() {
    let cluster = cluster(1);
    cluster.create_topic("out", 1, 1).unwrap();
    let load = Load::at(&cluster.bootstrap_servers());
    load.send(0);
    // The commit takes longer than the time to the next check of what may be committed.
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS;
    cluster.request_errors(RDKafkaApiKey::EndTxn, &[refusal; 6]);
    let toml = exactly_once().replace("group = \"g\"", "group = \"g\"\noffset_reset = \"latest\"");
    let bench = Bench::run(cluster, Duration::ZERO, Duration::from_secs(60), toml + OUTPUT);
    let committed = || bench.metrics.partition("in", 0).committed_offset.get();
    until("the end to be committed", || committed() == 1);
    // For longer than a few commit intervals.
    std::thread::sleep(3 * COMMIT_EVERY);
    assert_eq!(bench.metrics.transactions_committed.get(), 1);
    load.send(0);
    until("the record that came", || committed() == 2);
    assert_eq!(bench.written(0), BTreeSet::from([1]));
    assert!(matches!(bench.end(), End::Drained));
}

/// If the offset of a leaving partition were left to a transaction that then fails, its next owner would publish its outputs again.
#[test]
fn what_a_drain_has_published_is_committed_with_where_it_came_from() {
    let cluster = cluster(2);
    cluster.create_topic("out", 1, 1).unwrap();
    let load = Load::at(&cluster.bootstrap_servers());
    let latency = Duration::from_secs(8);
    let bench = Bench::run(cluster, latency, Duration::from_secs(60), exactly_once() + OUTPUT);
    (0..2).for_each(|partition| load.send(partition));
    until("the records", || bench.metrics.received.get() == 2);
    let other = member(&bench.cluster.bootstrap_servers());
    until("the other member to have a partition", || {
        let _ = other.poll(Duration::from_millis(10));
        other.assignment().unwrap().count() > 0
    });
    assert_eq!(bench.store.writes().len(), 2, "given back before it was drained");
    std::thread::sleep(Duration::from_secs(1));
    // On a busy machine the two records may arrive in different rounds.
    let committed = bench.metrics.transactions_committed.get();
    assert!((1..=2).contains(&committed), "{committed}");
    assert!(matches!(bench.end(), End::Drained));
}

#[test]
fn a_partition_without_a_leader_keeps_no_other_from_starting_where_a_group_begins_at_the_end() {
    let cluster = cluster(2);
    cluster.partition_leader("in", 0, None).unwrap();
    let toml = TOML.replace("group = \"g\"", "group = \"g\"\noffset_reset = \"latest\"");
    let bench = Bench::run(cluster, Duration::ZERO, Duration::from_secs(60), toml);
    let load = Load::new(&bench);
    until("a row of the other partition", || {
        load.send(1);
        !bench.written(1).is_empty()
    });
    bench.cluster.partition_leader("in", 0, Some(1)).unwrap();
    until("a row of the one that has a leader again", || {
        load.send(0);
        !bench.written(0).is_empty()
    });
    assert!(matches!(bench.end(), End::Drained));
}

/// Another consumer would not get its records either, and this one has other partitions to serve.
#[test]
fn a_partition_without_a_leader_is_a_stall_and_no_broken_consumer() {
    let cluster = cluster(2);
    cluster.partition_leader("in", 0, None).unwrap();
    let bench = Bench::join(cluster, Duration::ZERO, Duration::from_secs(3));
    let load = Load::new(&bench);
    until("a row of the other partition", || {
        load.send(1);
        !bench.written(1).is_empty()
    });
    // Three times the stall time.
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(bench.metrics.consumer_rebuilds.get(), 0);
    let partitions = bench.state.get().partitions;
    let stalled = partitions.iter().filter(|partition| partition.stalled);
    assert_eq!(stalled.map(|partition| partition.partition).collect::<Vec<_>>(), [0]);
    assert!(matches!(bench.end(), End::Drained));
}

/// With lanes, as the store does not say which table is written, and with turns, as nothing reads it.
#[test]
fn outputs_of_a_key_stay_in_order_though_an_earlier_answer_of_the_store_takes_longer() {
    for in_turns in [false, true] {
        let cluster = cluster(1);
        cluster.create_topic("out", 1, 1).unwrap();
        let store = MemoryStore::new();
        store.set_latency(Duration::from_secs(4));
        if in_turns {
            store.tell(ROW, "k.t");
        }
        let toml = TOML.replace("order = \"none\"", "order = \"key\"") + OUTPUT;
        let bench = Bench::on(store, cluster, Duration::from_secs(60), toml, None);
        let load = Load::new(&bench);
        load.send_with_key(0, b"one");
        until("the store to be asked", || bench.store.calls() == 1);
        bench.store.set_latency(Duration::ZERO);
        load.send_with_key(0, b"one");
        load.send_with_key(0, b"another");
        assert_eq!(published(&bench, 3), [2, 0, 1], "in turns: {in_turns}");
        let rows = bench.rows(0);
        let at = |offset| rows.iter().position(|row| row.values[1].1 == Value::Long(offset));
        assert_eq!(at(1) < at(0), in_turns, "only a lane holds the row back, too");
        assert!(matches!(bench.end(), End::Drained));
    }
}

/// Nothing waits for a worker, and the brokers of the output are down: only the budget ends a round of intake.
#[test]
fn a_round_takes_no_more_than_the_budget_has_room_for() {
    let cluster = with_sink_apart(1);
    Load::at(&cluster.bootstrap_servers()).give_many(0, &RECORD, 200);
    cluster.broker_down(SINK).unwrap();
    let (without_steps, _) = TOML.split_once("[[pipelines.p.steps]]").unwrap();
    let toml = without_steps.replace("order = \"none\"", "order = \"none\"\nmax_in_flight = 16") + OUTPUT;
    let bench = Bench::run(cluster, Duration::ZERO, Duration::from_secs(60), toml);
    until("the budget to be full", || bench.state.get().full);
    // For longer than a few status updates.
    std::thread::sleep(4 * STATUS_EVERY);
    assert_eq!(bench.state.get().in_flight_records, 16);
    assert_eq!(bench.metrics.received.get(), 16);
    bench.cluster.broker_up(SINK).unwrap();
    until("all outputs", || bench.metrics.published.get() >= 200);
    assert!(matches!(bench.end(), End::Drained));
}

#[test]
fn a_partition_that_waits_for_a_schema_holds_up_no_other() {
    let cluster = cluster(2);
    let load = Load::at(&cluster.bootstrap_servers());
    (0..20).for_each(|_| load.give(0, &UNKNOWN));
    let toml = TOML.replace("order = \"none\"", "order = \"none\"\nmax_in_flight = 16");
    let bench = Bench::run(cluster, Duration::ZERO, Duration::from_secs(5), toml);
    until("records to wait", || bench.state.get().waiting_for_schema >= 4);
    (0..30).for_each(|_| load.send(1));
    until("the rows of the other partition", || bench.written(1).len() == 30);
    let waiting = bench.state.get().waiting_for_schema;
    assert!((4..=8).contains(&waiting), "its share of the budget: {waiting}");
    // Longer than the stall time.
    std::thread::sleep(Duration::from_secs(7));
    (0..30).for_each(|_| load.send(1));
    until("rows again", || bench.written(1).len() == 60);
    assert_eq!(bench.metrics.consumer_rebuilds.get(), 0);
    assert!(bench.written(0).is_empty());
    let (schemas, plan) = bench.schemas.recv().unwrap();
    schemas.set(9, plan);
    until("what waited, and what was behind it", || {
        bench.written(0) == (0..20).collect()
    });
    assert!(matches!(bench.end(), End::Drained));
}

/// A record that waits for a schema is in no transaction: otherwise none would be committed, and at the end the last one would be thrown away.
#[test]
fn a_partition_that_waits_for_a_schema_holds_up_no_transaction() {
    let cluster = cluster(2);
    cluster.create_topic("out", 1, 1).unwrap();
    let load = Load::at(&cluster.bootstrap_servers());
    load.give(0, &UNKNOWN);
    let bench = Bench::run(
        cluster,
        Duration::ZERO,
        Duration::from_secs(60),
        exactly_once() + OUTPUT,
    );
    until("the record to wait", || bench.state.get().waiting_for_schema == 1);
    let committed = || bench.metrics.partition("in", 1).committed_offset.get();
    (0..30).for_each(|_| load.send(1));
    until("the other partition's commit", || committed() == 30);
    load.send(1);
    until("the last row", || bench.written(1).len() == 31);
    let metrics = bench.metrics.clone();
    assert!(matches!(bench.end(), End::Abandoned(1)));
    assert_eq!(metrics.transactions_aborted.get(), 0);
}

/// The partition is paused at its end, and a seek alone would not resume it.
#[test]
fn a_replay_goes_on_after_an_abort_behind_its_end() {
    let cluster = cluster(1);
    for topic in ["out", "dead"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let load = Load::at(&cluster.bootstrap_servers());
    load.give_many(0, &RECORD, 3);
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    cluster.request_errors(RDKafkaApiKey::Produce, &[refusal]);
    let ends = HashMap::from([(("in".to_owned(), 0), 2)]);
    let bounds = Some(Arc::new(Bounds::new(ends, None, Instant::now())));
    let toml = [&exactly_once(), OUTPUT, DEAD_LETTERS].concat();
    let bench = Bench::bounded(cluster, Duration::ZERO, Duration::from_secs(60), toml, bounds);
    let committed = || bench.metrics.partition("in", 0).committed_offset.get();
    until("the replay to be done", || committed() == 2);
    assert!(bench.metrics.transactions_aborted.get() > 0);
    assert!(matches!(bench.end(), End::Drained));
}

/// A loop that has committed one record after requests were refused like this, and its metrics as text.
fn committed_after(request: RDKafkaApiKey, refusals: &[RDKafkaRespErr]) -> (Bench, String) {
    let cluster = cluster(1);
    cluster.create_topic("out", 1, 1).unwrap();
    Load::at(&cluster.bootstrap_servers()).send(0);
    cluster.request_errors(request, refusals);
    let long = Duration::from_secs(60);
    let bench = Bench::run(cluster, Duration::ZERO, long, exactly_once() + OUTPUT);
    let committed = || bench.metrics.partition("in", 0).committed_offset.get();
    until("the commit", || committed() == 1);
    let text = String::from_utf8(bench.all_metrics.render()).unwrap();
    (bench, text)
}

#[test]
fn what_brokers_refuse_for_the_moment_is_told_and_runs_again() {
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_POLICY_VIOLATION;
    let (bench, text) = committed_after(RDKafkaApiKey::Produce, &[refusal; 6]);
    // librdkafka may itself purge what follows a refusal.
    assert!(bench.metrics.transactions_aborted.get() >= 6);
    let told = "messina_failures_total{class=\"transient\",level=\"warn\",pipeline=\"p\",step=\"sink\"} ";
    let count = text.lines().find_map(|line| line.strip_prefix(told)).unwrap();
    assert!(count.parse::<f64>().unwrap() >= 6.0, "{text}");
    assert!(matches!(bench.end(), End::Drained));
}

/// An ACL that is removed has the same effect: no output is requested then, and librdkafka discards what is queued.
#[test]
fn a_transaction_that_takes_no_topic_is_told_and_runs_again() {
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    let (bench, text) = committed_after(RDKafkaApiKey::AddPartitionsToTxn, &[refusal; 3]);
    assert!(text.contains("pipeline=\"p\",step=\"sink\"} "), "{text}");
    assert!(matches!(bench.end(), End::Drained));
}

/// A coordinator may answer like this while something is wrong with its disk.
#[test]
fn an_abort_that_brokers_refuse_without_a_reason_is_made_again() {
    let cluster = cluster(1);
    cluster.create_topic("out", 1, 1).unwrap();
    Load::at(&cluster.bootstrap_servers()).send(0);
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_POLICY_VIOLATION;
    cluster.request_errors(RDKafkaApiKey::Produce, &[refusal]);
    let unknown = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN;
    cluster.request_errors(RDKafkaApiKey::EndTxn, &[unknown; 2]);
    let long = Duration::from_secs(60);
    let bench = Bench::run(cluster, Duration::ZERO, long, exactly_once() + OUTPUT);
    let committed = || bench.metrics.partition("in", 0).committed_offset.get();
    until("the commit", || committed() == 1);
    assert!(bench.metrics.transactions_aborted.get() > 0);
    assert_eq!(bench.metrics.consumer_rebuilds.get(), 0);
    assert!(matches!(bench.end(), End::Drained));
}

/// As after seven days without a transaction. librdkafka aborts, and asks for no new id if offsets are refused and no output.
#[test]
fn a_transactional_id_that_brokers_have_forgotten_is_taken_anew() {
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING;
    let (bench, _) = committed_after(RDKafkaApiKey::AddOffsetsToTxn, &[refusal]);
    assert_eq!(bench.metrics.consumer_rebuilds.get(), 1);
    assert!(matches!(bench.end(), End::Drained));
}

/// As after a transaction that outlasted its time-out, whichever request comes first.
#[test]
fn a_transactional_id_that_was_fenced_is_taken_anew() {
    for request in [
        RDKafkaApiKey::AddPartitionsToTxn,
        RDKafkaApiKey::Produce,
        RDKafkaApiKey::AddOffsetsToTxn,
        RDKafkaApiKey::EndTxn,
    ] {
        let (bench, _) = committed_after(request, &[FENCE]);
        assert_eq!(bench.metrics.consumer_rebuilds.get(), 1, "{request:?}");
        let end = bench.end();
        assert!(matches!(end, End::Drained), "{request:?}: {end:?}");
    }
}

/// As for an abort that comes while the last commit is still being written: brokers answer librdkafka that there is nothing to end.
#[test]
fn a_producer_of_which_brokers_have_no_transaction_is_made_anew() {
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE;
    for request in [
        RDKafkaApiKey::AddPartitionsToTxn,
        RDKafkaApiKey::AddOffsetsToTxn,
        RDKafkaApiKey::EndTxn,
    ] {
        let (bench, _) = committed_after(request, &[refusal]);
        assert_eq!(bench.metrics.consumer_rebuilds.get(), 1, "{request:?}");
        let end = bench.end();
        assert!(matches!(end, End::Drained), "{request:?}: {end:?}");
    }
}

/// Another process has the id.
#[test]
fn a_transactional_id_that_is_fenced_again_soon_halts() {
    let cluster = cluster(1);
    cluster.create_topic("out", 1, 1).unwrap();
    Load::at(&cluster.bootstrap_servers()).send(0);
    cluster.request_errors(RDKafkaApiKey::AddOffsetsToTxn, &[FENCE; 2]);
    let long = Duration::from_secs(60);
    let bench = Bench::run(cluster, Duration::ZERO, long, exactly_once() + OUTPUT);
    until("the halt", || bench.thread.is_finished());
    assert_eq!(bench.metrics.consumer_rebuilds.get(), 1);
    let end = bench.thread.join().unwrap();
    let right =
        matches!(&end, End::Halted(failure) if failure.message.contains("another process has its transactional id"));
    assert!(right, "{end:?}");
}

#[test]
fn a_registry_that_answers_is_waited_for_without_a_pause() {
    let cluster = cluster(1);
    Load::at(&cluster.bootstrap_servers()).give_many(0, &UNKNOWN, 300);
    let bench = Bench::join(cluster, Duration::ZERO, Duration::from_secs(60));
    let (schemas, plan) = bench.schemas.recv().unwrap();
    schemas.set(9, plan);
    until("the rows", || bench.written(0) == (0..300).collect());
    assert_eq!(bench.metrics.pauses.get(), 0);
    assert!(matches!(bench.end(), End::Drained));
}

/// A pause would discard what was fetched, again and again.
#[test]
fn a_replay_at_a_slow_pace_is_not_paused() {
    let cluster = cluster(1);
    Load::at(&cluster.bootstrap_servers()).give_many(0, &RECORD, 100);
    let ends = HashMap::from([(("in".to_owned(), 0), 100)]);
    let bounds = Some(Arc::new(Bounds::new(ends, Some(4.0), Instant::now())));
    let long = Duration::from_secs(60);
    let bench = Bench::bounded(cluster, Duration::ZERO, long, TOML.to_owned(), bounds);
    until("the first row", || !bench.written(0).is_empty());
    // A few times longer than it takes to pause.
    std::thread::sleep(4 * PAUSE_AFTER);
    assert_eq!(bench.metrics.pauses.get(), 0);
    assert!((8..100).contains(&bench.written(0).len()));
    assert!(matches!(bench.end(), End::Drained));
}

#[test]
fn a_member_without_partitions_that_ends_while_the_group_joins_leaves_when_that_is_over() {
    let cluster = cluster(1);
    let brokers = cluster.bootstrap_servers();
    let first = member(&brokers);
    until("the first member to have the only partition", || {
        let _ = first.poll(Duration::from_millis(10));
        first.assignment().unwrap().count() == 1
    });
    let bench = Bench::join(cluster, Duration::ZERO, Duration::from_secs(60));
    until("the loop to be a member", || {
        let _ = first.poll(Duration::from_millis(10));
        bench.state.get().state == "running"
    });
    // For five seconds after a third member has come, the mock cluster answers no join request. The loop hears of that with its next heartbeat, and ends
    // in the middle of it.
    let third = member(&brokers);
    std::thread::sleep(Duration::from_millis(2500));
    let Bench {
        cluster: _cluster,
        stop,
        thread,
        ..
    } = bench;
    stop.send(true).unwrap();
    assert!(matches!(thread.join().unwrap(), End::Drained));
    // Its join request was answered together with the third member's.
    let protocol = third.rebalance_protocol();
    assert!(
        matches!(protocol, RebalanceProtocol::Cooperative),
        "it had gone before it could say so"
    );
}

#[test]
fn a_member_without_partitions_is_one_where_the_broker_assigns() {
    let cluster = cluster(1);
    let brokers = cluster.bootstrap_servers();
    let first: BaseConsumer = assigned_client(&brokers).create().unwrap();
    first.subscribe(&["in"]).unwrap();
    let first = ManuallyDrop::new(first);
    until("the first member to have the only partition", || {
        let _ = first.poll(Duration::from_millis(10));
        first.assignment().unwrap().count() == 1
    });
    let toml = TOML.replace("group = \"g\"", "group = \"g\"\ngroup_protocol = \"consumer\"");
    let bench = Bench::run(cluster, Duration::ZERO, Duration::from_secs(60), toml);
    until("the loop to be a member", || {
        let _ = first.poll(Duration::from_millis(10));
        bench.state.get().state == "running"
    });
    assert!(bench.state.get().partitions.is_empty());
    assert_eq!(first.assignment().unwrap().count(), 1);
    assert!(matches!(bench.end(), End::Drained));
}

#[test]
fn a_consumer_to_which_nothing_is_delivered_is_made_anew() {
    let bench = Bench::start(1, Duration::ZERO, Duration::from_secs(3));
    let load = Load::new(&bench);
    until("the first row", || {
        load.send(0);
        bench.written(0).len() > 1
    });
    let before = bench.written(0).len();
    assert_eq!(bench.metrics.consumer_rebuilds.get(), 0);
    // Every fetch is answered with an error that librdkafka does not report.
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE;
    bench.cluster.request_errors(RDKafkaApiKey::Fetch, &vec![error; 5000]);
    // A fetch that was under way may still bring something.
    std::thread::sleep(Duration::from_secs(1));
    (0..20).for_each(|_| load.send(0));
    until("another consumer", || bench.metrics.consumer_rebuilds.get() > 0);
    bench.cluster.clear_request_errors(RDKafkaApiKey::Fetch);
    until("all rows", || {
        let written = bench.written(0);
        written.len() >= before + 20 && written == (0..written.len() as i64).collect()
    });
    assert!(matches!(bench.end(), End::Drained));
}

/// The first `count` distinct outputs, by the offsets of their records, in the order in which each comes first.
fn published(bench: &Bench, count: usize) -> Vec<i64> {
    let consumer: BaseConsumer = client(&bench.cluster.bootstrap_servers()).create().unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset("out", 0, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let mut first = Vec::new();
    until("the last output", || {
        if let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) {
            // Framing, and one small number, zigzag.
            let place = i64::from(record.payload().unwrap()[5] >> 1);
            if !first.contains(&place) {
                first.push(place);
            }
        }
        first.len() == count
    });
    first
}

/// What a pipeline whose producer keeps the order publishes for eight records, by their offsets, if brokers answer one batch like this.
fn published_after(answer: RDKafkaRespErr) -> Vec<i64> {
    let cluster = cluster(1);
    cluster.create_topic("out", 1, 1).unwrap();
    let slow = Duration::from_millis(500);
    let bench = Bench::run(cluster, slow, Duration::from_secs(30), TOML.to_owned() + OUTPUT);
    let load = Load::new(&bench);
    (0..3).for_each(|_| load.send(0));
    until("the first rows", || bench.written(0).len() == 3);
    // While its row is written.
    load.send(0);
    bench.cluster.request_errors(RDKafkaApiKey::Produce, &[answer]);
    until("another consumer", || bench.metrics.consumer_rebuilds.get() > 0);
    (0..4).for_each(|_| load.send(0));
    until("the last row", || bench.written(0).len() == 8);
    let first = published(&bench, 8);
    assert_eq!(bench.metrics.consumer_rebuilds.get(), 1);
    assert!(matches!(bench.end(), End::Drained));
    first
}

#[test]
fn an_output_that_a_broker_refuses_is_published_by_the_next_consumer_in_its_place() {
    // A broker that does not say what is wrong: librdkafka gives up the batch.
    let first = published_after(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN);
    assert_eq!(first, (0..8).collect::<Vec<_>>());
}

/// Brokers refuse the next output for the moment, and the loop has to end at once: `again` records run again, including finished ones behind that of the
/// output.
fn ends_without_a_successor_at_a_refusal(bench: Bench, again: usize) {
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN;
    bench.cluster.request_errors(RDKafkaApiKey::Produce, &[refusal]);
    until("the refusal", || {
        let errors = bench.state.get().last_errors;
        errors.iter().any(|error| error.contains("topic out"))
    });
    let metrics = bench.metrics.clone();
    let end = bench.end();
    assert!(matches!(end, End::Abandoned(left) if left == again), "{end:?}");
    assert_eq!(metrics.consumer_rebuilds.get(), 0);
}

#[test]
fn intake_that_dead_letters_have_stopped_stays_stopped_when_an_output_is_refused() {
    let cluster = cluster(1);
    cluster.create_topic("out", 1, 1).unwrap();
    cluster.create_topic("dead", 1, 1).unwrap();
    let (slow, toml) = (Duration::from_secs(4), [TOML, OUTPUT, DEAD_LETTERS].concat());
    let bench = Bench::run(cluster, slow, Duration::from_secs(60), toml);
    let load = Load::new(&bench);
    load.send(0);
    (0..2).for_each(|_| load.give(0, b"garbage"));
    until("intake to stop", || bench.state.get().halted.is_some());
    // The output of the record whose row is being written.
    ends_without_a_successor_at_a_refusal(bench, 3);
}

/// librdkafka reads at most 100,000 headers of a record.
#[test]
fn a_record_of_which_the_headers_cannot_be_read_is_a_dead_letter() {
    let cluster = cluster(1);
    cluster.create_topic("out", 1, 1).unwrap();
    cluster.create_topic("dead", 1, 1).unwrap();
    let toml = [TOML, OUTPUT, "[pipelines.p.dead_letter]\ntopic = \"dead\"\n"].concat();
    let bench = Bench::run(cluster, Duration::ZERO, Duration::from_secs(60), toml);
    let load = Load::new(&bench);
    for count in [100_001, 1] {
        let mut headers = OwnedHeaders::new();
        (0..count).for_each(|_| kafka::headers::add(&mut headers, b"h", None));
        let record = BaseRecord::<(), _>::to("in").payload(&RECORD[..]).partition(0);
        let sent = load.producer.send(record.headers(headers));
        sent.map_err(|(error, _)| error).unwrap();
    }
    until("the output", || bench.metrics.published.get() == 1);
    until("the dead letter", || bench.metrics.dead_lettered.get() == 1);
    assert_eq!(published(&bench, 1), [1]);
    let text = String::from_utf8(bench.all_metrics.render()).unwrap();
    assert!(text.contains(r#"step="headers"} 1"#), "{text}");
    assert!(matches!(bench.end(), End::Drained));
}

#[test]
fn one_that_is_told_to_stop_while_it_drains_to_be_replaced_has_no_successor() {
    let cluster = cluster(1);
    cluster.create_topic("out", 1, 1).unwrap();
    let bench = Bench::run(
        cluster,
        Duration::from_secs(4),
        Duration::from_secs(60),
        TOML.to_owned() + OUTPUT,
    );
    let load = Load::new(&bench);
    load.send(0);
    until("the first record to be taken", || {
        bench.state.get().in_flight_records == 1
    });
    std::thread::sleep(Duration::from_secs(2));
    load.send(0);
    // The first record's output; the second one's row is still being written then.
    ends_without_a_successor_at_a_refusal(bench, 2);
}

/// A loop whose consumer was replaced: brokers have refused the second record's output for the moment, and the third's for good.
fn replaced_beside_a_refused_output(dead_letters: &str) -> Bench {
    let cluster = cluster(1);
    cluster.create_topic("out", 1, 1).unwrap();
    cluster.create_topic("dead", 1, 1).unwrap();
    let (slow, toml) = (Duration::from_secs(3), [TOML, OUTPUT, dead_letters].concat());
    let bench = Bench::run(cluster, slow, Duration::from_secs(60), toml);
    let load = Load::new(&bench);
    load.send(0);
    until("the first output", || bench.metrics.published.get() == 1);
    until("its end to be seen", || bench.state.get().in_flight_records == 0);
    load.send(0);
    // So that each record is a batch by itself: one fetch would return both.
    until("the second record to be taken", || {
        bench.state.get().in_flight_records == 1
    });
    std::thread::sleep(Duration::from_millis(300));
    load.send(0);
    // While their rows are written.
    let refusals = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD,
    ];
    bench.cluster.request_errors(RDKafkaApiKey::Produce, &refusals);
    until("another consumer", || bench.metrics.consumer_rebuilds.get() > 0);
    bench
}

#[test]
fn an_output_that_brokers_refuse_for_good_is_not_published_again_by_the_next_consumer() {
    let dead_letters = "[pipelines.p.dead_letter]\ntopic = \"dead\"\n";
    let bench = replaced_beside_a_refused_output(dead_letters);
    Load::new(&bench).send(0);
    let mut first = published(&bench, 3);
    first.sort_unstable();
    assert_eq!(first, [0, 1, 3]);
    until("the dead letters", || bench.metrics.dead_lettered.get() == 2);
    assert_eq!(bench.metrics.consumer_rebuilds.get(), 1);
    assert!(matches!(bench.end(), End::Drained));
}

#[test]
fn the_next_consumer_counts_dead_letters_on_and_none_twice() {
    let bench = replaced_beside_a_refused_output(DEAD_LETTERS);
    // The third record's, by each consumer.
    until("its dead letter again", || bench.metrics.dead_lettered.get() == 2);
    // One more in a row than is allowed: the second record's row, which would end the row of dead letters, is still being written.
    Load::new(&bench).give(0, b"garbage");
    until("intake to stop", || bench.state.get().halted.is_some());
    assert_eq!(bench.metrics.dead_lettered.get(), 3);
    assert!(matches!(bench.end(), End::Drained));
}

#[tokio::test]
async fn a_consumer_that_is_never_closed_is_given_up() {
    assert!(!closes(Duration::ZERO, std::future::pending::<()>()).await);
    assert!(closes(CLOSES_WITHIN, tokio::task::spawn_blocking(|| ())).await);
}

#[test]
fn a_consumer_that_is_never_closed_has_no_successor() {
    let replaced = End::Replaced {
        why: "in/0 has records and none of them arrives".to_owned(),
        took: true,
        left: 0,
        waits_for: None,
    };
    let End::Halted(failure) = unclosed(replaced) else {
        panic!("it would be made anew beside the other");
    };
    assert!(
        failure
            .message
            .contains("none of them arrives; the consumer could not be replaced"),
        "{failure}"
    );
    assert!(matches!(unclosed(End::Drained), End::Drained));
}

#[test]
fn a_producer_that_librdkafka_gives_up_is_made_anew() {
    // For the batch that has to be acknowledged next, this means that broker and producer disagree on what has been written.
    let first = published_after(RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(first, (0..8).collect::<Vec<_>>());
}

/// librdkafka continues with that producer, and brokers refuse all that it sends; another producer has an epoch of its own.
#[test]
fn a_producer_whose_epoch_brokers_refuse_is_made_anew() {
    let first = published_after(FENCE);
    assert_eq!(first, (0..8).collect::<Vec<_>>());
}

/// Otherwise it would be recreated for ever, and write the same rows each time.
#[test]
fn a_producer_that_brokers_do_not_let_be_halts_its_pipeline() {
    let cluster = cluster(1);
    cluster.create_topic("out", 1, 1).unwrap();
    // The answer of brokers before 2.8 if IdempotentWrite on the cluster is missing.
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[refusal; 5]);
    let toml = TOML.to_owned() + OUTPUT;
    let bench = Bench::run(cluster, Duration::ZERO, Duration::from_secs(30), toml);
    Load::new(&bench).send(0);
    until("the loop to end", || bench.thread.is_finished());
    let End::Halted(failure) = bench.thread.join().unwrap() else {
        panic!("nothing says why it has ended");
    };
    assert!(failure.message.contains("IdempotentWrite"), "{failure}");
    assert_eq!(bench.metrics.consumer_rebuilds.get(), 0);
    let text = String::from_utf8(bench.all_metrics.render()).unwrap();
    let failures: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("messina_failures_total{"))
        .collect();
    let counted = |what: &str| failures.iter().any(|line| line.contains(what));
    assert!(
        counted(r#"step="delivery""#) && !counted(r#"step="sink""#),
        "once, and as what it is: {failures:?}"
    );
}

/// Its permission may be removed for a minute, which passes.
#[test]
fn a_producer_that_brokers_do_not_let_be_any_more_is_made_anew() {
    let cluster = cluster(1);
    cluster.create_topic("out", 1, 1).unwrap();
    let (slow, drain) = (Duration::from_secs(3), Duration::from_secs(30));
    let bench = Bench::run(cluster, slow, drain, TOML.to_owned() + OUTPUT);
    let load = Load::new(&bench);
    load.send(0);
    until("the first output", || bench.metrics.published.get() == 1);
    until("its end to be seen", || bench.state.get().in_flight_records == 0);
    load.send(0);
    // While its row is written: the mock cluster refuses whoever produces next. The producer that replaces the one that is given up is refused.
    until("the second record", || bench.state.get().in_flight_records == 1);
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    bench.cluster.request_errors(RDKafkaApiKey::InitProducerId, &[refusal]);
    let over = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    bench.cluster.request_errors(RDKafkaApiKey::Produce, &[over]);
    assert_eq!(published(&bench, 2), [0, 1]);
    assert!(bench.metrics.consumer_rebuilds.get() > 1);
    assert!(matches!(bench.end(), End::Drained));
}

/// Two batches are under way. The first is refused because replicas are missing, and the mock cluster accepts the second, as a broker does that does not
/// know the producer yet. librdkafka then reports the first as delivered, too.
#[test]
fn an_output_that_only_a_later_batch_speaks_for_is_published_again() {
    let cluster = cluster(1);
    cluster.create_topic("out", 1, 1).unwrap();
    let slow = Duration::from_millis(1500);
    let bench = Bench::run(cluster, slow, Duration::from_secs(30), TOML.to_owned() + OUTPUT);
    let load = Load::new(&bench);
    load.send(0);
    until("the first row", || bench.written(0).len() == 1);
    load.send(0);
    std::thread::sleep(Duration::from_millis(100));
    load.send(0);
    // While their rows are written.
    bench
        .cluster
        .broker_round_trip_time(1, Duration::from_millis(400))
        .unwrap();
    bench.cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS],
    );
    published(&bench, 3);
    assert!(matches!(bench.end(), End::Drained));
}
