//! What a record costs in allocations on its way through a pipeline: no tree of values is built, however large the record
//! is.
//!
//! A counting allocator counts the allocations of the loop's thread: copying the record into a recycled event, reading it,
//! running the steps, encoding, and handing it to a real producer (with librdkafka's mock cluster). Alone in its file,
//! because an allocator belongs to the whole process.

#![allow(clippy::unwrap_used, clippy::panic)] // A test that fails says so by panicking.

mod avro_generator;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use avro_generator::Generator;
use messina::avro::{Schema, Value};
use messina::config::{self, OnTombstone};
use messina::demo::cluster;
use messina::kafka::login::Logins;
use messina::outcome::Outcome;
use messina::pipeline::completions::{Batch, Completions, How};
use messina::pipeline::event::{Content, Event, Origin, Tenure};
use messina::pipeline::expression::{self, Expression, Interpreter};
use messina::pipeline::plan::{self, Output, OutputSchema, SchemaPlan};
use messina::pipeline::program;
use messina::pipeline::runner::Runtime;
use messina::retry::Backoff;
use messina::sink::{self, Sink};
use messina::source::assignment::{Action, Assignment, Intake, Partition};
use messina::source::read::{Plans, Read, read};
use messina::telemetry::handles::PipelineMetrics;
use messina::telemetry::kafka::KafkaMetrics;
use messina::telemetry::limit::Limiter;
use messina::telemetry::metrics::Metrics;
use messina::telemetry::traces::{PipelineTracer, Tracer, TracerOptions};
use rdkafka::message::{Header, OwnedHeaders};

struct Counting;

thread_local! {
    /// Allocations of this thread so far.
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and nothing worth counting.
    let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator; only a counter is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's own promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's own promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's own promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts the allocations of a piece of work.
fn asked<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = ASKED.get();
    let done = work();
    (done, ASKED.get() - before)
}

/// Four of the record's 72 fields, at several depths, and a constant go into the output.
const PIPELINE: &str = r#"
[kafka]
brokers = "k:9092"
[registry]
url = "http://r:8081"
register = true
[pipelines.p.source]
topics = ["t"]
group = "g"
[pipelines.p.sink]
topic = "out"
set = { user_region = "event.user.geo.region", user_id = "event.user.id", kind = "event.event_type", again = "event.items[0].sku", fixed = "'a constant'" }
"#;

/// The allocations of one record, by stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    copied: u64,
    traced: u64,
    read: u64,
    run: u64,
}

#[tokio::test]
async fn no_tree_is_built_of_a_record() {
    let cluster = rdkafka::mocking::MockCluster::new(1).unwrap();
    cluster.create_topic("out", 1, 1).unwrap();
    let (config, _) = config::load_str(vec![("t.toml".into(), PIPELINE.to_owned())], std::iter::empty())
        .unwrap_or_else(|e| panic!("{}", e.human(false)));
    let program = Arc::new(
        program::parse(&config.pipelines["p"])
            .unwrap()
            .prepare(None, &messina::reference::References::default(), &Default::default())
            .await
            .unwrap(),
    );
    let json = include_str!("schemas/event.avsc");
    let compiled = plan::compile(
        &program,
        Arc::new(Schema::parse(json).unwrap()),
        Some(&OutputSchema::Appended),
    )
    .unwrap();
    let schema_plan = Arc::new(SchemaPlan {
        plan: compiled.plan,
        output: compiled.output.map(|(splice, schema)| Output {
            splice,
            schema,
            schema_id: 8,
        }),
    });
    let metrics = Metrics::new().unwrap();
    let of_pipeline = PipelineMetrics::new(&metrics, "p");
    let statistics = KafkaMetrics::new(&metrics, "p", "producer");
    let producer = sink::producer(
        &cluster::client(&cluster.bootstrap_servers()),
        of_pipeline.clone(),
        statistics,
        false,
        None,
        Arc::default(),
        Logins::default(),
    )
    .unwrap();
    let none = TracerOptions {
        collector: "http://127.0.0.1:9".to_owned(),
        headers: Vec::new(),
        sample_ratio: 0.0,
        max_spans_per_second: 1,
        instance: String::new(),
    };
    let tracer = Tracer::new(none, &metrics).unwrap();
    let runtime = Runtime {
        program,
        store: None,
        sink: Some(Sink::new(producer.clone(), "out")),
        dead_letters: None,
        metrics: of_pipeline,
        steps: Vec::new(),
        backoff: Backoff::new(Duration::from_millis(1), Duration::from_millis(2), 2.0),
        gates: messina::breaker::gate::Gates::default(),
        limiter: Arc::new(Limiter::new(Duration::from_secs(1))),
        sentry: None,
        tracer: Some(PipelineTracer::new(Arc::new(tracer), "p", "g")),
    };
    let mut plans = Plans::default();
    plans.learn(7, Ok(schema_plan), Instant::now());

    let partition = Partition { topic: 0, index: 0 };
    let mut assignment = Assignment::new();
    assignment.assigned(&[partition]);
    while let Some(action) = assignment.next_action() {
        if let Action::FetchCommitted(partitions) = action {
            partitions
                .iter()
                .for_each(|(_, ticket)| assignment.started(*ticket, Some(0), i64::MIN));
        }
    }

    let json = serde_json::from_str(json).unwrap();
    let mut generator = Generator::of(&json, 3);
    let mut records: Vec<Vec<u8>> = (0..60)
        .map(|_| {
            let value = generator.value(&json, 0);
            let mut record = vec![0, 0, 0, 0, 7];
            generator.encode(&json, &value, &mut record);
            record
        })
        .filter(|record| record.len() < 8000)
        .collect();
    records.sort_by_key(Vec::len);
    let smallest = records[0].len();
    // The largest first, so that the event's memory is large enough for all that follow.
    records.reverse();
    assert!(
        records.len() > 40 && records[0].len() > 4 * smallest,
        "{smallest} to {}",
        records[0].len()
    );

    let (topic, completions): (Arc<str>, Arc<Completions>) = (Arc::from("t"), Arc::default());
    let tenure = Arc::<Tenure>::default();
    let unsampled = OwnedHeaders::new().insert(Header {
        key: "traceparent",
        value: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
    });
    let (mut spare, mut costs) = (None, Vec::new());
    for (offset, record) in (0..).zip(&records) {
        let Ok(Intake::Admitted { ticket, timestamp, .. }) = assignment.admit(partition, offset, Some(1000)) else {
            panic!("not admitted")
        };
        let origin = Origin {
            ticket,
            topic: topic.clone(),
            partition: 0,
            offset,
            timestamp_ms: Some(1000),
            write_timestamp_us: timestamp,
        };
        let content = Content {
            value: Some(record),
            key: Some(b"a key"),
            headers: (offset % 2 == 0).then(|| unsampled.clone()),
        };
        let now = Instant::now();
        let (mut event, copied) =
            asked(|| Event::new(spare.take(), origin, content, tenure.clone(), completions.clone(), now));
        let ((), traced) = asked(|| runtime.tracer.iter().for_each(|tracer| tracer.begin(&mut event)));
        let (answer, read) = asked(|| read(event, &mut plans, OnTombstone::Skip, now));
        let Read::Ready(event) = answer else {
            panic!("{answer:?}")
        };
        let before = ASKED.get();
        runtime.process(event).await;
        costs.push(Cost {
            copied,
            traced,
            read,
            run: ASKED.get() - before,
        });

        sink::flush(&producer, Duration::from_secs(10));
        let mut batch = Batch::default();
        while batch.completions.is_empty() {
            completions.ready().await;
            completions.take(&mut batch);
        }
        let ended = batch.completions.remove(0);
        assert!(matches!(ended.how, How::Finished(Outcome::Done)), "{:?}", ended.how);
        spare = Some(ended.event.recycle());
    }
    // The first record allocates the memory that the following ones reuse.
    let (first, rest) = costs.split_first().unwrap();
    println!(
        "{first:?}, then {:?} for {} to {smallest} bytes",
        rest[0],
        records[1].len()
    );
    // The topic's name as a C string. It does not grow with the record.
    let expected = Cost {
        copied: 0,
        traced: 0,
        read: 0,
        run: 1,
    };
    for (cost, record) in rest.iter().zip(&records[1..]) {
        assert_eq!(Cost { copied: 0, ..*cost }, expected, "{} bytes", record.len());
    }
    // Once: the records have become so much smaller that the first one's memory is released.
    assert_eq!(rest.iter().map(|cost| cost.copied).sum::<u64>(), 1);
}

/// An expression borrows the text, and its list was built when it was parsed.
#[test]
fn an_expression_copies_no_text_and_makes_no_list() {
    let interpreter = Interpreter::default();
    for text in ["event.kind in ['a', 'b', 'c', 'd']", "event.kind == 'd'"] {
        let Ok(Expression::Computed(computed)) = expression::parse(text, &[]) else {
            panic!("{text}")
        };
        let inputs = [Value::String("d".into())];
        let answer = asked(|| computed.evaluate(&interpreter, &inputs));
        assert_eq!(answer, (Ok(Value::Bool(true)), 0), "{text}");
    }
}
