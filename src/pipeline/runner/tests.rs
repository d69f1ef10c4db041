//! Steps against canned answers: what is written, what ends how, what is tried again.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::*;
use crate::avro::{Schema, Value};
use crate::config;
use crate::pipeline::completions::{Batch, Completions};
use crate::pipeline::event::{Content, Origin};
use crate::pipeline::plan::{self, SchemaPlan};
use crate::pipeline::program;
use crate::source::assignment::{Action, Assignment, Intake, Partition};
use crate::store::memory::MemoryStore;
use crate::store::types::ColumnType;
use crate::telemetry::metrics::Metrics;

const LOOKUP: &str = "SELECT name, score FROM users WHERE id = :id";
const WRITE: &str = "INSERT INTO seen (id, kind, score) VALUES (:id, :kind, :score)";
const SCHEMA: &str = r#"{"type": "record", "name": "E", "fields": [
    {"name": "id", "type": "long"}, {"name": "kind", "type": "string"}, {"name": "note", "type": ["null", "string"]}]}"#;

struct Bench {
    runtime: Arc<Runtime>,
    plan: Arc<SchemaPlan>,
    store: MemoryStore,
    completions: Arc<Completions>,
    assignment: Assignment,
}

fn toml(steps: &str) -> String {
    format!(
        "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\n[scylla]\nnodes = [\"s:9042\"]\nkeyspace = \"k\"\n\
         [pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n{steps}"
    )
}

async fn bench(steps: &str) -> Bench {
    let (config, _) = config::load_str(vec![("t.toml".into(), toml(steps))], std::iter::empty()).unwrap();
    let pipeline = &config.pipelines["p"];
    let store = MemoryStore::new();
    store.declare(
        LOOKUP,
        &[("id", ColumnType::BigInt)],
        &[("name", ColumnType::Text), ("score", ColumnType::Double)],
    );
    let write = [
        ("id", ColumnType::BigInt),
        ("kind", ColumnType::Text),
        ("score", ColumnType::Double),
    ];
    store.declare(WRITE, &write, &[]);
    let any = Arc::new(AnyStore::Memory(store.clone()));
    let program = Arc::new(program::parse(pipeline).unwrap().prepare(Some(&any)).await.unwrap());
    let compiled = plan::compile(&program, Arc::new(Schema::parse(SCHEMA).unwrap()), None).unwrap();
    let metrics = Metrics::new().unwrap();
    let metrics = PipelineMetrics::new(&metrics, "p");
    let steps = program
        .steps
        .iter()
        .map(|s| StepHandles {
            step: metrics.step(&s.name),
            rows: Some(metrics.rows_written(&s.name)),
        })
        .collect();
    let runtime = Arc::new(Runtime {
        program,
        store: Some(any),
        sink: None,
        dead_letters: None,
        metrics,
        steps,
        backoff: Backoff::new(Duration::from_millis(1), Duration::from_millis(2), 2.0),
        limiter: Arc::new(Limiter::new(Duration::from_secs(1))),
        sentry: None,
    });
    let mut assignment = Assignment::new();
    assignment.assigned(&[Partition { topic: 0, index: 0 }]);
    while let Some(action) = assignment.next_action() {
        if let Action::FetchCommitted(partitions) = action {
            partitions
                .iter()
                .for_each(|(_, ticket)| assignment.started(*ticket, Some(0), i64::MIN));
        }
    }
    let plan = Arc::new(SchemaPlan {
        plan: compiled.plan,
        output: None,
    });
    Bench {
        runtime,
        plan,
        store,
        completions: Arc::default(),
        assignment,
    }
}

fn datum(id: i64, kind: &str) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 7];
    let schema = Schema::parse(SCHEMA).unwrap();
    let fields = vec![
        (Cow::Borrowed("id"), Value::Long(id)),
        (Cow::Borrowed("kind"), Value::String(Cow::Borrowed(kind))),
        (Cow::Borrowed("note"), Value::Null),
    ];
    schema.encode(&Value::Record(fields), &mut bytes).unwrap();
    bytes
}

impl Bench {
    fn event(&mut self, offset: i64, id: i64, kind: &str, abandoned: bool) -> Box<Event> {
        let partition = Partition { topic: 0, index: 0 };
        let Ok(Intake::Admitted { ticket, timestamp }) = self.assignment.admit(partition, offset, Some(1000)) else {
            panic!("not admitted")
        };
        let origin = Origin {
            ticket,
            topic: Arc::from("t"),
            partition: 0,
            offset,
            timestamp_ms: Some(1000),
            write_timestamp_us: timestamp,
        };
        let value = datum(id, kind);
        let content = Content {
            value: Some(&value),
            key: Some(b"k"),
            headers: None,
        };
        let abandoned = Arc::new(AtomicBool::new(abandoned));
        let mut event = Event::new(
            None,
            origin,
            content,
            abandoned,
            self.completions.clone(),
            Instant::now(),
        );
        event.datum_start = 5;
        event.marks = vec![0; self.plan.plan.marks()];
        let mut marks = std::mem::take(&mut event.marks);
        self.plan
            .plan
            .run(event.padded(), 5, event.datum_end(), &mut marks)
            .unwrap();
        event.marks = marks;
        event.plan = Some(self.plan.clone());
        event
    }

    async fn run(&mut self, offset: i64, id: i64, kind: &str) -> How {
        let event = self.event(offset, id, kind, false);
        self.runtime.process(event).await;
        self.end()
    }

    fn end(&self) -> How {
        let mut batch = Batch::default();
        self.completions.take(&mut batch);
        assert_eq!(batch.completions.len(), 1, "an event comes back exactly once");
        assert!(batch.vanished.is_empty());
        batch.completions.remove(0).how
    }

    fn user(&self, id: i64, name: &str, score: f64) {
        let row = vec![Value::String(Cow::Owned(name.to_owned())), Value::Double(score)];
        self.store.answer(LOOKUP, &[Value::Long(id)], row.into());
    }
}

const STEPS: &str = r#"
[[pipelines.p.steps]]
name = "human"
filter = "event.kind != 'bot'"
[[pipelines.p.steps]]
name = "user"
lookup = "SELECT name, score FROM users WHERE id = :id"
[[pipelines.p.steps]]
name = "seen"
when = "user.score > 1.0"
write = "INSERT INTO seen (id, kind, score) VALUES (:id, :kind, :score)"
bind = { score = "user.score" }
"#;

#[tokio::test]
async fn rows_of_a_look_up_reach_the_write_with_the_records_timestamp() {
    let mut bench = bench(STEPS).await;
    bench.user(1, "ann", 2.5);
    assert!(matches!(bench.run(0, 1, "click").await, How::Finished(Outcome::Done)));
    assert!(matches!(bench.run(1, 1, "click").await, How::Finished(Outcome::Done)));
    let writes = bench.store.writes();
    let values: Vec<_> = writes[0]
        .values
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    let kind = Value::String(Cow::Borrowed("click"));
    assert_eq!(
        values,
        [("id", Value::Long(1)), ("kind", kind), ("score", Value::Double(2.5))]
    );
    assert_eq!(writes[0].timestamp_us, 1_000_000);
    assert_eq!(
        writes[1].timestamp_us, 1_000_001,
        "two records of one millisecond have different timestamps"
    );
}

#[tokio::test]
async fn filters_skip_and_conditions_pass_by() {
    let mut bench = bench(STEPS).await;
    bench.user(1, "ann", 0.5);
    assert!(matches!(bench.run(0, 1, "bot").await, How::Finished(Outcome::Skipped)));
    assert_eq!(bench.store.calls(), 0, "nothing is asked for a record that is skipped");
    assert!(matches!(bench.run(1, 1, "click").await, How::Finished(Outcome::Done)));
    assert!(
        matches!(bench.run(2, 404, "click").await, How::Finished(Outcome::Done)),
        "a missing row is null"
    );
    assert!(bench.store.writes().is_empty());
}

#[tokio::test]
async fn what_may_pass_is_tried_again_until_it_does() {
    let mut bench = bench(STEPS).await;
    bench.user(1, "ann", 2.5);
    for _ in 0..5 {
        bench.store.fail_next(StoreError::transient("timeout", "no answer"));
    }
    assert!(matches!(bench.run(0, 1, "click").await, How::Finished(Outcome::Done)));
    assert_eq!(bench.store.calls(), 5 + 2);
    assert_eq!(bench.store.writes().len(), 1);
}

#[tokio::test]
async fn an_event_whose_partition_has_left_gives_up() {
    let mut bench = bench(STEPS).await;
    bench.store.fail_next(StoreError::transient("timeout", "no answer"));
    let event = bench.event(0, 1, "click", true);
    bench.runtime.process(event).await;
    assert!(matches!(bench.end(), How::Abandoned));
    assert_eq!(bench.store.calls(), 1);
}

#[tokio::test]
async fn without_a_dead_letter_topic_a_permanent_failure_stops_the_pipeline() {
    let mut bench = bench(STEPS).await;
    bench
        .store
        .fail_next(StoreError::permanent("invalid", "no such column"));
    match bench.run(0, 1, "click").await {
        How::Fatal(failure) => {
            assert_eq!(failure.step.as_deref(), Some("user"));
            assert_eq!((failure.class, failure.reason), (Class::Permanent, "invalid"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_write_that_is_not_idempotent_is_never_repeated() {
    let steps = STEPS.replace("when = \"user.score > 1.0\"\n", "") + "idempotent = false\n";
    let mut bench = bench(&steps).await;
    bench.user(1, "ann", 2.5);
    let event = bench.event(0, 1, "click", false);
    // The look-up passes, the write times out.
    let runtime = bench.runtime.clone();
    bench.store.set_latency(Duration::from_millis(20));
    let store = bench.store.clone();
    let fails = tokio::spawn(async move {
        while store.calls() < 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        store.fail_next(StoreError::transient("timeout", "no answer"));
    });
    runtime.process(event).await;
    fails.await.unwrap();
    match bench.end() {
        How::Fatal(failure) => assert!(failure.message.contains("not repeated"), "{failure}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.store.calls(), 2);
}

#[tokio::test]
async fn missing_rows_end_as_the_step_says() {
    let skip = STEPS.replace("WHERE id = :id\"\n", "WHERE id = :id\"\non_missing = \"skip\"\n");
    let mut bench = bench(&skip).await;
    assert!(matches!(
        bench.run(0, 404, "click").await,
        How::Finished(Outcome::Skipped)
    ));
}

#[tokio::test]
async fn a_cached_row_is_asked_for_once() {
    let cached = STEPS.replace("WHERE id = :id\"\n", "WHERE id = :id\"\ncache = { ttl = \"1h\" }\n");
    let mut bench = bench(&cached).await;
    bench.user(1, "ann", 0.5);
    for offset in 0..10 {
        assert!(matches!(
            bench.run(offset, 1, "click").await,
            How::Finished(Outcome::Done)
        ));
    }
    assert_eq!(bench.store.calls(), 1);
}

#[tokio::test]
async fn look_ups_that_do_not_need_one_another_run_together() {
    let two = STEPS.to_owned()
        + "[[pipelines.p.steps]]\nname = \"again\"\nlookup = \"SELECT name, score FROM users WHERE id = :id\"\n\
           [[pipelines.p.steps]]\nname = \"third\"\nlookup = \"SELECT name, score FROM users WHERE id = :id\"\n\
           [[pipelines.p.steps]]\nname = \"fourth\"\nlookup = \"SELECT name, score FROM users WHERE id = :id\"\n\
           when = \"third.score > 0.0\"\n";
    let bench = bench(&two).await;
    let expected = [
        Stage::Alone(0),
        Stage::Together(vec![1]),
        Stage::Together(vec![2]),
        Stage::Together(vec![3, 4]),
        Stage::Together(vec![5]),
    ];
    assert_eq!(bench.runtime.program.stages, expected);
}

#[tokio::test]
async fn an_event_that_is_dropped_is_noticed() {
    let mut bench = bench(STEPS).await;
    let event = bench.event(3, 1, "click", false);
    drop(event);
    let mut batch = Batch::default();
    bench.completions.take(&mut batch);
    assert_eq!(batch.vanished.len(), 1);
    assert_eq!(batch.vanished[0].offset, 3);
}
