//! Tests of steps against canned answers: writes, outcomes and retries.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::attempts_tests::Refuses;
use super::*;
use crate::avro::{Schema, Value};
use crate::breaker::gate::Gate;
use crate::breaker::{Rules, State};
use crate::config;
use crate::custom::CustomSteps;
use crate::demo::cluster::Scratch;
use crate::pipeline::completions::{Batch, Completion, Completions};
use crate::pipeline::event::{Content, Origin, Tenure};
use crate::pipeline::plan::{self, OutputSchema, SchemaPlan};
use crate::pipeline::policy::Policy;
use crate::pipeline::program;
use crate::pipeline::story::story;
use crate::reference::on_demand::OnDemand;
use crate::reference::server::Server;
use crate::reference::{Reference, References, Shape, codec};
use crate::source::assignment::{Action, Assignment, Intake, Partition};
use crate::store::cache::CacheOptions;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::types::ColumnType;
use crate::store::{StatementOptions, Store as _, StoreError};
use crate::tap::Showing;
use crate::telemetry::metrics::Metrics;

pub(super) const LOOKUP: &str = "SELECT name, score FROM users WHERE id = :id";
const WRITE: &str = "INSERT INTO seen (id, kind, score) VALUES (:id, :kind, :score)";
const SCHEMA: &str = r#"{"type": "record", "name": "E", "fields": [
    {"name": "id", "type": "long"}, {"name": "kind", "type": "string"}, {"name": "note", "type": ["null", "string"]}]}"#;

pub(super) struct Bench {
    pub(super) runtime: Arc<Runtime>,
    plan: Arc<SchemaPlan>,
    pub(super) store: MemoryStore,
    pub(super) completions: Arc<Completions>,
    assignment: Assignment,
    families: Arc<Metrics>,
}

fn toml(steps: &str) -> String {
    format!(
        "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\n[scylla]\nnodes = [\"s:9042\"]\nkeyspace = \"k\"\n\
         [pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n{steps}"
    )
}

/// A store that knows the statements of these tests.
pub(super) fn canned() -> MemoryStore {
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
    store
}

pub(super) async fn bench(steps: &str) -> Bench {
    let store = canned();
    bench_on(AnyStore::Memory(store.clone()), store, &References::default(), steps).await
}

/// The same with any store, and references; `store` is the one with canned answers, if `any` is that.
pub(super) async fn bench_on(any: AnyStore, store: MemoryStore, references: &References, steps: &str) -> Bench {
    let customs = CustomSteps::new().with("refuses", Refuses);
    bench_with(any, store, references, &customs, steps).await
}

/// The same with custom steps.
pub(super) async fn bench_with(
    any: AnyStore,
    store: MemoryStore,
    references: &References,
    customs: &CustomSteps,
    steps: &str,
) -> Bench {
    let (config, _) = config::load_str(vec![("t.toml".into(), toml(steps))], std::iter::empty()).unwrap();
    let pipeline = &config.pipelines["p"];
    let any = Arc::new(any);
    let program = Arc::new(
        program::parse(pipeline)
            .unwrap()
            .prepare(Some(&any), references, customs)
            .await
            .unwrap(),
    );
    let compiled = plan::compile(&program, Arc::new(Schema::parse(SCHEMA).unwrap()), None).unwrap();
    let families = Metrics::new().unwrap();
    let metrics = PipelineMetrics::new(&families, "p");
    let steps = program
        .steps
        .iter()
        .map(|s| StepHandles {
            step: metrics.step(&s.name),
            rows: Some(metrics.rows_written(&s.name)),
            found: Some(metrics.reference_lookups(&s.name)),
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
        gates: Gates::default(),
        limiter: Arc::new(Limiter::new(Duration::from_secs(1))),
        sentry: None,
        tracer: None,
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
        families,
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
    /// Its events have an output from here on.
    pub(super) fn publishes(&mut self) {
        let schema = Arc::new(Schema::parse(SCHEMA).unwrap());
        let compiled = plan::compile(&self.runtime.program, schema, Some(&OutputSchema::Appended)).unwrap();
        let (splice, schema) = compiled.output.unwrap();
        self.plan = Arc::new(SchemaPlan {
            plan: compiled.plan,
            output: Some(plan::Output {
                splice,
                schema,
                schema_id: 8,
            }),
        });
    }

    pub(super) fn event(&mut self, offset: i64, id: i64, kind: &str, abandoned: bool) -> Box<Event> {
        let partition = Partition { topic: 0, index: 0 };
        let Ok(Intake::Admitted { ticket, timestamp, .. }) = self.assignment.admit(partition, offset, Some(1000))
        else {
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
        let tenure = Arc::<Tenure>::default();
        if abandoned {
            tenure.end();
        }
        let mut event = Event::new(None, origin, content, tenure, self.completions.clone(), Instant::now());
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

    pub(super) async fn run(&mut self, offset: i64, id: i64, kind: &str) -> How {
        let event = self.event(offset, id, kind, false);
        // As the loop does.
        match self.runtime.advance(event, Instant::now()) {
            Advance::Ended => {}
            Advance::Waits(event) => self.runtime.process(event).await,
            Advance::Joins(_) => panic!("the store has no groups"),
            Advance::Refused(failure, _) => panic!("{failure}"),
        }
        self.end()
    }

    pub(super) fn end(&self) -> How {
        self.ended().how
    }

    pub(super) fn ended(&self) -> Completion {
        let mut batch = Batch::default();
        self.completions.take(&mut batch);
        assert_eq!(batch.completions.len(), 1, "an event comes back exactly once");
        assert!(batch.vanished.is_empty());
        batch.completions.remove(0)
    }

    pub(super) fn user(&self, id: i64, name: &str, score: f64) {
        let row = vec![Value::String(Cow::Owned(name.to_owned())), Value::Double(score)];
        self.store.answer(LOOKUP, &[Value::Long(id)], row.into());
    }
}

pub(super) const STEPS: &str = r#"
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
        writes[1].timestamp_us, 1_000_008,
        "two records of one millisecond have different timestamps"
    );
}

const TWO_WRITES: &str = r#"
[[pipelines.p.steps]]
name = "a"
write = "INSERT INTO t (id, a) VALUES (:id, :a)"
bind = { a = "event.kind" }
[[pipelines.p.steps]]
name = "b"
write = "INSERT INTO t (id, b) VALUES (:id, :b)"
bind = { b = "event.kind" }
"#;

/// SQLite keeps one timestamp per row: what the earlier write sets would be lost if the later one came first.
#[tokio::test]
async fn a_write_of_the_embedded_store_waits_for_the_one_before() {
    let scratch = Scratch::new().unwrap();
    let store = SqliteStore::open(&SqliteOptions::new(scratch.database())).unwrap();
    let table = "CREATE TABLE t (id bigint PRIMARY KEY, a text CHECK (a <> 'bot'), b text) WITHOUT ROWID";
    store.execute_script(table).await.unwrap();
    let mut bench = bench_on(
        AnyStore::Sqlite(store),
        MemoryStore::new(),
        &References::default(),
        TWO_WRITES,
    )
    .await;
    assert!(matches!(bench.run(0, 1, "click").await, How::Finished(Outcome::Done)));
    match bench.run(1, 2, "bot").await {
        How::Fatal(failure) => assert_eq!(
            (failure.step.as_deref(), failure.reason),
            (Some("a"), "constraint"),
            "{failure}"
        ),
        other => panic!("{other:?}"),
    }
    let store = bench.runtime.store.clone().unwrap();
    let select = "SELECT a, b FROM t WHERE id = :id";
    let select = store.prepare(select, &StatementOptions::lookup()).await.unwrap();
    let row = async |id| store.lookup(&select, &[Value::Long(id)]).await.unwrap();
    let click = Value::String(Cow::Borrowed("click"));
    assert_eq!(row(1).await.unwrap()[..], [click.clone(), click]);
    assert_eq!(row(2).await, None, "the second did not wait for the first");
}

/// The state of a custom step is unknown, and so is the table of a statement if the store does not report it.
#[tokio::test]
async fn events_of_a_key_run_at_the_same_time_where_nothing_reads_what_they_write() {
    const SEEN: &str = "INSERT INTO seen (id, kind) VALUES (:id, :kind)";
    let step = |name: &str, what: &str| format!("[[pipelines.p.steps]]\nname = \"{name}\"\n{what}\n");
    let filter = step("human", "filter = \"event.kind != 'bot'\"");
    let own = step("own", "custom = \"refuses\"");
    let read = step("user", &format!("lookup = \"{LOOKUP}\""));
    let write = step("seen", &format!("write = \"{SEEN}\""));
    let untold: &[(&str, &str)] = &[];
    let (seen, users, read_too) = ((SEEN, "k.seen"), (LOOKUP, "k.users"), (LOOKUP, "k.seen"));
    for (steps, told, wanted) in [
        (filter.clone(), untold, true),
        (filter + &own, untold, false),
        (read.clone(), untold, true),
        (write.clone(), untold, false),
        (write.clone(), &[seen], true),
        (write.clone() + "idempotent = false\n", &[seen], false),
        (read.clone() + &write, &[seen, users], true),
        (read.clone() + &write, &[seen], false),
        (read + &write, &[seen, read_too], false),
    ] {
        let store = canned();
        told.iter().for_each(|(cql, table)| store.tell(cql, table));
        let any = AnyStore::Memory(store.clone());
        let bench = bench_on(any, store, &References::default(), &steps).await;
        assert_eq!(bench.runtime.program.commutes(), wanted, "{steps} {told:?}");
    }
}

#[tokio::test]
async fn a_pipeline_asks_a_service_where_a_step_does() {
    let lookup = format!("lookup = \"{LOOKUP}\"");
    for (what, wanted) in [
        ("filter = \"event.id > 0\"", false),
        ("set = { number = \"event.id\" }", false),
        (lookup.as_str(), true),
        ("write = \"INSERT INTO seen (id, kind) VALUES (:id, :kind)\"", true),
        ("custom = \"refuses\"", true),
    ] {
        let bench = bench(&format!("[[pipelines.p.steps]]\nname = \"s\"\n{what}\n")).await;
        assert_eq!(bench.runtime.program.asks(), wanted, "{what}");
    }
}

/// Each event that waits gets a task, and the future is copied into it.
#[tokio::test]
async fn the_future_of_an_event_stays_small() {
    let mut bench = bench(STEPS).await;
    let event = bench.event(0, 1, "click", false);
    let future = bench.runtime.process(event);
    let size = std::mem::size_of_val(&future);
    // Mostly the driver's own size.
    assert!(size <= 6144, "{size} bytes");
    future.await;
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
    fail(&bench, 1000);
    assert!(matches!(process_and_leave(&mut bench, 0).await, How::Abandoned));
    let calls = bench.store.calls();
    let event = bench.event(1, 1, "click", true);
    bench.runtime.process(event).await;
    assert!(matches!(bench.end(), How::Abandoned));
    assert_eq!(bench.store.calls(), calls, "nothing is begun");
}

#[tokio::test]
async fn no_write_is_begun_once_the_partition_has_left() {
    let mut bench = bench(STEPS).await;
    bench.user(1, "ann", 2.5);
    bench.store.set_latency(Duration::from_millis(50));
    assert!(matches!(process_and_leave(&mut bench, 0).await, How::Abandoned));
    assert_eq!((bench.store.calls(), bench.store.writes().len()), (1, 0));
}

/// Runs an event whose partition leaves while it waits for the first time.
pub(super) async fn process_and_leave(bench: &mut Bench, offset: i64) -> How {
    let event = bench.event(offset, 1, "click", false);
    let (runtime, tenure) = (bench.runtime.clone(), event.tenure.clone());
    let processed = tokio::spawn(async move { runtime.process(event).await });
    // On this thread, so it gets as far as its first wait.
    tokio::task::yield_now().await;
    tenure.end();
    processed.await.unwrap();
    bench.end()
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

/// A write that is not idempotent, and first fails with this error.
async fn fails_once_at_its_write(error: StoreError) -> Bench {
    let steps = STEPS.replace("when = \"user.score > 1.0\"\n", "") + "idempotent = false\n";
    let mut bench = bench(&steps).await;
    bench.user(1, "ann", 2.5);
    let event = bench.event(0, 1, "click", false);
    // The look-up succeeds, the write fails.
    let runtime = bench.runtime.clone();
    bench.store.set_latency(Duration::from_millis(20));
    let store = bench.store.clone();
    let fails = tokio::spawn(async move {
        while store.calls() < 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        store.fail_next(error);
    });
    runtime.process(event).await;
    fails.await.unwrap();
    bench
}

#[tokio::test]
async fn a_write_that_is_not_idempotent_is_never_repeated() {
    let bench = fails_once_at_its_write(StoreError::transient("timeout", "no answer")).await;
    match bench.end() {
        How::Fatal(failure) => assert!(failure.message.contains("not repeated"), "{failure}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.store.calls(), 2);
}

#[tokio::test]
async fn a_write_that_was_certainly_not_applied_is_made_again_idempotent_or_not() {
    for label in ["unavailable", "other_id"] {
        let refused = StoreError {
            not_applied: true,
            ..StoreError::transient(label, "too few nodes are alive")
        };
        let bench = fails_once_at_its_write(refused).await;
        assert!(!matches!(bench.end(), How::Fatal(_)), "{label}");
        assert_eq!(bench.store.writes().len(), 1, "{label}");
        assert_eq!(bench.store.calls(), 3, "{label}");
    }
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

/// CQL keeps the newer of two writes to a cell, and a delete hides writes with the same timestamp.
#[tokio::test]
async fn the_write_of_a_later_step_is_newer() {
    let two = STEPS.to_owned()
        + "[[pipelines.p.steps]]\nname = \"again\"\nwrite = \"INSERT INTO seen (id, kind, score) VALUES (:id, :kind, :score)\"\n\
           bind = { score = \"user.score\" }\n";
    let mut bench = bench(&two).await;
    assert_eq!(bench.runtime.program.writes(), 2);
    bench.user(7, "Ada", 1.5);
    assert!(matches!(bench.run(0, 7, "click").await, How::Finished(Outcome::Done)));
    let mut stamps: Vec<_> = bench.store.writes().iter().map(|write| write.timestamp_us).collect();
    stamps.sort_unstable();
    assert_eq!(stamps[1], stamps[0] + 1);
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

/// `STEPS` with these keys in the look-up.
fn looking_up(keys: &str) -> String {
    STEPS.replace("WHERE id = :id\"\n", &format!("WHERE id = :id\"\n{keys}\n"))
}

fn fail(bench: &Bench, times: usize) {
    for _ in 0..times {
        bench.store.fail_next(StoreError::transient("timeout", "no answer"));
    }
}

#[tokio::test]
async fn a_bounded_step_gives_up_as_it_says_and_an_unbounded_one_never() {
    for (on_error, calls) in [("null", 3), ("skip", 3), ("dead_letter", 3)] {
        let steps = looking_up(&format!(
            "on_error = \"{on_error}\"\nretry = {{ max_attempts = 3, max_elapsed = \"1h\" }}"
        ));
        let mut bench = bench(&(steps + "[pipelines.p.dead_letter]\ntopic = \"d\"\n")).await;
        bench.user(1, "ann", 2.5);
        fail(&bench, 3);
        match (on_error, bench.run(0, 1, "click").await) {
            // The condition of the write is null, so nothing is written.
            ("null", How::Finished(Outcome::Done)) => assert!(bench.store.writes().is_empty()),
            ("skip", How::Finished(Outcome::Skipped)) => {}
            ("dead_letter", How::Fatal(failure)) => {
                assert_eq!((failure.class, failure.attempts), (Class::Permanent, 3));
                assert!(failure.message.contains("given up"), "{failure}");
            }
            (_, other) => panic!("{on_error}: {other:?}"),
        }
        assert_eq!(bench.store.calls(), calls);
        fail(&bench, 2);
        assert!(
            matches!(bench.run(1, 1, "click").await, How::Finished(Outcome::Done)),
            "two failures are not three"
        );
        assert_eq!(bench.store.writes().len(), 1);
    }
}

#[tokio::test]
async fn rows_that_nobody_knows_of_are_null_and_not_none() {
    let steps = looking_up("rows = \"list\"\non_error = \"null\"\nretry = { max_attempts = 1 }")
        .replace("user.score > 1.0", "size(user.rows) == 0")
        .replace("score = \"user.score\"", "score = \"1.5\"");
    let mut bench = bench(&steps).await;
    fail(&bench, 1);
    assert!(matches!(bench.run(0, 1, "click").await, How::Finished(Outcome::Done)));
    assert!(bench.store.writes().is_empty(), "an outage makes nobody a newcomer");
    assert!(matches!(bench.run(1, 1, "click").await, How::Finished(Outcome::Done)));
    assert_eq!(bench.store.writes().len(), 1);
}

#[tokio::test]
async fn large_rows_that_were_fetched_for_an_event_count_to_its_end() {
    // The cache may evict a row while the event that asked for it waits.
    for (cache, fetched) in [("", 2), ("\ncache = { ttl = \"1h\" }", 1)] {
        let steps = looking_up(&format!("rows = \"list\"{cache}"))
            .replace("user.score > 1.0", "size(user.rows) > 9")
            .replace("score = \"user.score\"", "score = \"1.5\"");
        let mut bench = bench(&steps).await;
        for _ in 0..4 {
            bench.user(1, &"x".repeat(1000), 0.5);
        }
        bench.user(2, "bob", 0.5);
        let mut held = Vec::new();
        for (offset, id) in [(0, 1), (1, 1), (2, 2)] {
            let event = bench.event(offset, id, "click", false);
            bench.runtime.process(event).await;
            held.push(bench.ended().event.held());
        }
        assert_eq!(held.iter().filter(|held| **held >= 4000).count(), fetched, "{held:?}");
        assert!(
            held[0] >= 4000 && held[2] == 0,
            "the last has a row of the usual size: {held:?}"
        );
        assert_eq!(bench.completions.held(), held.iter().sum::<usize>());
    }
}

#[tokio::test]
async fn values_that_a_step_names_count_as_rows_do() {
    let steps = "[[pipelines.p.steps]]\nname = \"s\"\nset = { a = \"event.kind + event.kind\", b = \"event.id\" }\n";
    let mut bench = bench(steps).await;
    for (offset, kind, least) in [(0, "x".repeat(1000), 2000), (1, "click".to_owned(), 0)] {
        let event = bench.event(offset, 1, &kind, false);
        assert!(matches!(bench.runtime.advance(event, Instant::now()), Advance::Ended));
        let held = bench.ended().event.held();
        assert!(held >= least && (held > 0) == (least > 0), "{held}");
    }
}

#[tokio::test]
async fn values_that_a_step_binds_count_while_it_waits_and_no_longer() {
    let write = format!("write = \"{WRITE}\"\nbind = {{ kind = \"event.kind + event.kind\", score = \"1.5\" }}");
    let lookup = "lookup = \"SELECT a FROM t WHERE k = :k\"\nbind = { k = \"event.kind + event.kind\" }".to_owned();
    for step in [write, lookup] {
        let mut bench = bench(&format!("[[pipelines.p.steps]]\nname = \"s\"\n{step}\n")).await;
        bench.store.set_latency(Duration::from_millis(50));
        let kind = "x".repeat(10_000);
        let events: Vec<_> = (0..8).map(|offset| bench.event(offset, 1, &kind, false)).collect();
        let all = join_all(events.into_iter().map(|event| bench.runtime.process(event)));
        let meanwhile = async {
            tokio::task::yield_now().await;
            bench.completions.held()
        };
        let (_, held) = tokio::join!(all, meanwhile);
        assert!(held >= 8 * 20_000, "{held} with {step}");
        assert_eq!(bench.completions.held(), 0, "{step}");
    }
}

#[tokio::test]
async fn a_row_that_does_not_come_is_waited_for_as_long_as_the_step_says() {
    let keys = "on_missing = \"retry\"\nmissing_deadline = \"80ms\"\nmissing_then = \"skip\"";
    // A cached absence is not accepted as an answer.
    for cache in ["", "\ncache = { ttl = \"1h\", missing_ttl = \"1h\" }"] {
        let mut bench = bench(&looking_up(&format!("{keys}{cache}"))).await;
        let began = Instant::now();
        assert!(matches!(
            bench.run(0, 404, "click").await,
            How::Finished(Outcome::Skipped)
        ));
        assert!(began.elapsed() >= Duration::from_millis(80), "{:?}", began.elapsed());
        assert!(bench.store.calls() > 2, "{} with '{cache}'", bench.store.calls());
        let (store, event) = (bench.store.clone(), bench.event(1, 7, "click", false));
        let late = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let row = vec![Value::String("eve".into()), Value::Double(9.0)];
            store.answer(LOOKUP, &[Value::Long(7)], row.into());
        });
        bench.runtime.process(event).await;
        late.await.unwrap();
        assert!(matches!(bench.end(), How::Finished(Outcome::Done)));
        assert_eq!(bench.store.writes().len(), 1);
    }
}

#[tokio::test]
async fn failures_and_misses_have_each_their_own_count_and_time() {
    let mut bench = bench(STEPS).await;
    let event = bench.event(0, 1, "click", false);
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
    let policy = Policy::from(&config::ErrorPolicy {
        on_error: config::OnError::Null,
        max_attempts: Some(3),
        max_elapsed: minute,
    });
    let end = config::MissingDeadline {
        deadline: minute,
        then: OnMissing::Skip,
    };
    let timeout = || Failure::from(StoreError::transient("timeout", "no answer"));
    let mut attempts = bench.runtime.attempts(1, &event, policy, None);
    attempts.tries.held_up(Instant::now() - hour);
    for miss in 0..5 {
        let answer = attempts.after_missing(OnMissing::Retry, Some(&end)).await;
        assert!(
            answer.is_none(),
            "an outage takes nothing from the wait for a row: {miss}"
        );
    }
    for failure in 0..2 {
        let answer = attempts.after_error(timeout(), true).await;
        assert!(matches!(answer, Ok(None)), "misses are no failures: {failure}");
    }
    let answer = attempts.after_missing(OnMissing::Retry, Some(&end)).await;
    assert!(answer.is_none());
    for failure in 0..2 {
        let answer = attempts.after_error(timeout(), true).await;
        assert!(
            matches!(answer, Ok(None)),
            "the store has answered in between: {failure}"
        );
    }
    let answer = attempts.after_error(timeout(), true).await;
    assert!(matches!(answer, Ok(Some(Answer::Null))), "the third in a row");
    // The first miss was long ago.
    attempts.missed = Default::default();
    attempts.missed.held_up(Instant::now() - hour);
    attempts.tries = Default::default();
    let answer = attempts.after_error(timeout(), true).await;
    assert!(matches!(answer, Ok(None)), "nor is the wait for a row an outage");
    let answer = attempts.after_missing(OnMissing::Retry, Some(&end)).await;
    assert!(matches!(answer, Some(Answer::Missing(OnMissing::Skip))));
    event.complete(How::Abandoned);
}

#[tokio::test]
async fn an_old_row_is_served_while_the_store_fails_and_no_longer() {
    let keys = "cache = { ttl = \"20ms\", stale_on_error = \"1h\" }";
    let mut bench = bench(&looking_up(keys)).await;
    bench.user(1, "ann", 0.5);
    assert!(matches!(bench.run(0, 1, "click").await, How::Finished(Outcome::Done)));
    tokio::time::sleep(Duration::from_millis(30)).await;
    fail(&bench, 1);
    assert!(matches!(bench.run(1, 1, "click").await, How::Finished(Outcome::Done)));
    assert_eq!(bench.store.calls(), 2, "asked once, and answered by the old row");
    // An open breaker does not delay it either.
    (0..20).for_each(|_| bench.runtime.gates.store.failed(false));
    assert!(matches!(bench.run(2, 1, "click").await, How::Finished(Outcome::Done)));
    assert_eq!(bench.store.calls(), 2);
    bench.runtime.gates.store.succeeded();
    assert!(matches!(bench.run(3, 1, "click").await, How::Finished(Outcome::Done)));
    assert_eq!(bench.store.calls(), 3, "a store that answers is asked");
}

pub(super) const REFERRED: &str = r#"
[mongo]
uri = "mongodb://127.0.0.1:1"
[references.partners]
collection = "crm.partners"
fields = { name = "string" }
mode = "on_demand"
cache = { ttl = "30s", stale_on_error = "1h" }
[[pipelines.p.steps]]
name = "partner"
reference = "partners"
key = "event.id"
on_missing = "skip"
"#;

#[tokio::test]
async fn an_old_document_is_served_and_counted_while_mongo_fails_and_without_asking_while_its_breaker_is_open() {
    for (open, patience_ms) in [(false, 20), (true, 3_600_000)] {
        // Nothing listens there.
        let uri = format!("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS={patience_ms}");
        let server = Server::open(&uri, None).await.unwrap();
        let options = CacheOptions {
            ttl: Duration::from_secs(30),
            missing_ttl: Duration::ZERO,
            max_bytes: 1 << 20,
            stale: Duration::from_secs(3600),
        };
        let asks = OnDemand::new(server.source("crm.partners", []), options);
        let key = codec::key_of_value(&Value::Long(1)).unwrap();
        let loaded = Instant::now() - Duration::from_secs(60);
        let row: crate::store::Row = Box::new([Value::String("Ada".into())]);
        asks.cache()
            .get_or_load(&key, loaded, || async { Ok(Some(row)) })
            .await
            .unwrap();
        let shape = Shape {
            name: "partners".into(),
            collection: "crm.partners".to_owned(),
            key: "_id".to_owned(),
            key_type: ColumnType::BigInt,
            fields: vec![("name".to_owned(), crate::avro::value::Type::String)],
            max_bytes: 1 << 20,
        };
        let references = References::new([Arc::new(Reference::on_demand(shape, asks))]);
        let store = MemoryStore::new();
        let mut bench = bench_on(AnyStore::Memory(store.clone()), store, &references, REFERRED).await;
        let hour = Duration::from_secs(3600);
        let rules = Rules {
            many: 1,
            delay: Backoff::new(hour, hour, 1.0),
            ..Rules::default()
        };
        let gate = Arc::new(Gate::new("mongo", rules, None));
        Arc::get_mut(&mut bench.runtime).unwrap().gates.mongo = gate.clone();
        if open {
            gate.failed(false);
        }
        let run = tokio::time::timeout(Duration::from_secs(60), bench.run(0, 1, "click"));
        assert!(matches!(run.await, Ok(How::Finished(Outcome::Done))));
        assert!(gate.is_open(), "it was told of the failure");
        assert_eq!(bench.families.cache_stale_total.of(["p", "partner"]).get(), 1);
    }
}

#[tokio::test]
async fn only_who_asks_for_a_row_holds_a_probe() {
    let mut bench = bench(&looking_up("cache = { ttl = \"20ms\", stale_on_error = \"1h\" }")).await;
    bench.user(1, "ann", 0.5);
    assert!(matches!(bench.run(0, 1, "click").await, How::Finished(Outcome::Done)));
    tokio::time::sleep(Duration::from_millis(30)).await;
    let rules = Rules {
        many: 1,
        probes: 3,
        delay: Backoff::new(Duration::ZERO, Duration::ZERO, 1.0),
        ..Rules::default()
    };
    let gate = Arc::new(Gate::new("store", rules, None));
    Arc::get_mut(&mut bench.runtime).unwrap().gates.store = gate.clone();
    gate.failed(false);
    // The store does not answer. Each event is polled until it waits.
    bench.store.set_latency(Duration::from_secs(3600));
    let mut asking = Vec::new();
    for (offset, id) in [(1, 1), (2, 2), (3, 2), (4, 2)] {
        let event = bench.event(offset, id, "click", false);
        let runtime = bench.runtime.clone();
        asking.push(tokio::spawn(async move { runtime.process(event).await }));
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.store.calls(), 3, "one for each row");
    let event = bench.event(5, 1, "click", false);
    bench.runtime.process(event).await;
    assert!(
        matches!(bench.end(), How::Finished(Outcome::Done)),
        "an old row does, whoever probes for a new one"
    );
    assert!(gate.pass().is_ok(), "two are out of three");
    asking.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Failures that are counted cut the limit on concurrency.
#[tokio::test]
async fn a_failed_request_that_many_wait_for_is_counted_once() {
    let mut bench = bench(&looking_up("cache = { ttl = \"1h\" }")).await;
    bench.user(1, "ann", 0.5);
    fail(&bench, 1);
    bench.store.set_latency(Duration::from_millis(200));
    let events: Vec<_> = (0..50).map(|offset| bench.event(offset, 1, "click", false)).collect();
    join_all(events.into_iter().map(|event| bench.runtime.process(event))).await;
    let mut batch = Batch::default();
    bench.completions.take(&mut batch);
    let done = |c: &Completion| matches!(c.how, How::Finished(Outcome::Done));
    assert_eq!(batch.completions.iter().filter(|c| done(c)).count(), 50);
    let step = &bench.runtime.steps[1].step;
    assert_eq!(bench.store.calls(), 2);
    assert_eq!((step.transient.get(), step.retries.get()), (1, 1));
}

#[tokio::test]
async fn an_outage_is_met_by_probes_and_ends_for_all_at_once() {
    let mut bench = bench(STEPS).await;
    bench.user(1, "ann", 0.5);
    fail(&bench, 25);
    let events: Vec<_> = (0..200).map(|offset| bench.event(offset, 1, "click", false)).collect();
    let tasks: Vec<_> = events
        .into_iter()
        .map(|event| {
            let runtime = bench.runtime.clone();
            tokio::spawn(async move { runtime.process(event).await })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(120), task)
            .await
            .unwrap()
            .unwrap();
    }
    let mut batch = Batch::default();
    bench.completions.take(&mut batch);
    let done = batch
        .completions
        .iter()
        .filter(|c| matches!(c.how, How::Finished(Outcome::Done)));
    assert_eq!(done.count(), 200, "nothing is lost, and nothing is given up");
    assert_eq!(bench.runtime.gates.store.state(), State::Closed);
    assert_eq!(bench.store.calls(), 225);
}

#[tokio::test]
async fn what_is_refused_of_one_partition_or_while_schemas_differ_opens_no_breaker() {
    let mut bench = bench(STEPS).await;
    bench.user(1, "ann", 2.5);
    let hour = Duration::from_secs(3600);
    let rules = Rules {
        delay: Backoff::new(hour, hour, 1.0),
        ..Rules::default()
    };
    let gate = Arc::new(Gate::new("store", rules, None));
    Arc::get_mut(&mut bench.runtime).unwrap().gates.store = gate.clone();
    for label in ["schema_changing", "other_id", "rate_limit", "tombstones"] {
        for _ in 0..30 {
            bench.store.fail_next(StoreError::transient(label, "refused"));
        }
    }
    let run = tokio::time::timeout(Duration::from_secs(60), bench.run(0, 1, "click"));
    assert!(
        matches!(run.await, Ok(How::Finished(Outcome::Done))),
        "it waits at an open breaker"
    );
    assert_eq!(gate.state(), State::Closed);
    assert_eq!(bench.store.calls(), 120 + 2);
}

#[tokio::test]
async fn an_event_that_waits_at_an_open_breaker_gives_up_when_its_time_is_over_or_its_partition_leaves() {
    let keys = "on_error = \"skip\"\nretry = { max_elapsed = \"50ms\" }";
    let mut bench = bench(&looking_up(keys)).await;
    bench.user(1, "ann", 0.5);
    (0..20).for_each(|_| bench.runtime.gates.store.failed(false));
    fail(&bench, 1000);
    assert!(matches!(
        bench.run(0, 1, "click").await,
        How::Finished(Outcome::Skipped)
    ));
    let mut bench = self::bench(STEPS).await;
    (0..20).for_each(|_| bench.runtime.gates.store.failed(false));
    assert!(matches!(process_and_leave(&mut bench, 0).await, How::Abandoned));
    assert_eq!(bench.store.calls(), 0, "the probe is for others");
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

#[tokio::test]
async fn what_is_told_of_an_event_is_what_its_steps_did() {
    let mut bench = bench(STEPS).await;
    bench.user(1, "Ada", 2.0);
    bench.user(2, "Bob", 0.5);
    let mut told = Vec::new();
    for (offset, id, kind) in [(0, 1, "click"), (1, 2, "click"), (2, 3, "click"), (3, 1, "bot")] {
        let event = bench.event(offset, id, kind, false);
        bench.runtime.process(event).await;
        let ended = bench.ended();
        let How::Finished(outcome) = ended.how else {
            panic!("{:?}", ended.how)
        };
        let told_of = story(
            &bench.runtime,
            &ended.event,
            outcome.as_str(),
            None,
            Instant::now(),
            Showing::Values,
        );
        told.push(told_of["steps"].clone());
    }
    let kept = json!({"step": "human", "does": "filter", "came_to": "kept"});
    let user = |id: i64, row: Option<Json>| {
        let (came_to, mut step) = (
            if row.is_some() { "found" } else { "no row" },
            json!({"step": "user", "does": "look up"}),
        );
        step["came_to"] = json!(came_to);
        step["took"] = json!({"id": id});
        if let Some(row) = row {
            step["gave"] = row;
        }
        step
    };
    let seen = json!({"step": "seen", "does": "write", "came_to": "written", "took": {"id": 1, "kind": "click", "score": 2.0}});
    let not = json!({"step": "seen", "does": "write", "came_to": "not run"});
    assert_eq!(
        told[0],
        json!([kept, user(1, Some(json!({"name": "Ada", "score": 2.0}))), seen])
    );
    assert_eq!(
        told[1],
        json!([kept, user(2, Some(json!({"name": "Bob", "score": 0.5}))), not])
    );
    assert_eq!(told[2], json!([kept, user(3, None), not]));
    assert_eq!(
        told[3],
        json!([{"step": "human", "does": "filter", "came_to": "left out"}])
    );

    let gives_up = "on_error = \"skip\"\nretry = { max_attempts = 1, max_elapsed = \"1h\" }\n";
    let waits = "on_missing = \"retry\"\nmissing_deadline = \"5ms\"\nmissing_then = \"skip\"";
    let filter =
        |name: &str, filter: &str| format!("[[pipelines.p.steps]]\nname = \"{name}\"\nfilter = \"{filter}\"\n");
    let left_out = |name: &str| json!({"step": name, "does": "filter", "came_to": "left out"});
    let mut waited = user(3, None);
    waited["came_to"] = json!("left out");
    let writes = TWO_WRITES.replace("bind = { a", &format!("{gives_up}bind = {{ a"));
    for (steps, failures, expected) in [
        (filter("none", "event.id < 0"), 0, json!([left_out("none")])),
        (
            writes + &filter("later", "event.id > 0"),
            1,
            json!([
                {"step": "a", "does": "write", "came_to": "left out", "took": {"id": 3, "a": "click"}},
                {"step": "b", "does": "write", "came_to": "not known", "took": {"id": 3, "b": "click"}}
            ]),
        ),
        (looking_up(waits), 0, json!([kept, waited])),
        (
            looking_up(gives_up) + &filter("high", "user.score > 1.0"),
            0,
            json!([kept, user(3, None), not, left_out("high")]),
        ),
    ] {
        let mut bench = self::bench(&steps).await;
        fail(&bench, failures);
        let event = bench.event(0, 3, "click", false);
        // As the loop does.
        match bench.runtime.advance(event, Instant::now()) {
            Advance::Ended => {}
            Advance::Waits(event) => bench.runtime.process(event).await,
            other => panic!("{other:?}"),
        }
        let Completion { event, how } = bench.ended();
        assert!(matches!(how, How::Finished(Outcome::Skipped)), "{how:?}: {steps}");
        let now = Instant::now();
        let told = story(&bench.runtime, &event, "skipped", None, now, Showing::Values);
        assert_eq!(told["steps"], expected, "{steps}");
    }

    let event = bench.event(9, 1, "click", false);
    let failure = Failure::permanent("missing", "gone").in_step(&"user".into());
    let told = story(
        &bench.runtime,
        &event,
        "dead_lettered",
        Some(&failure),
        Instant::now(),
        Showing::Shapes,
    );
    assert_eq!(
        told["steps"],
        json!([kept, {"step": "user", "does": "look up", "came_to": "failed", "took": {"id": "long"}}])
    );
    assert_eq!(
        (&told["key"], &told["event"]["kind"]),
        (&json!("1 bytes"), &json!("text of 5 bytes"))
    );
    assert_eq!(told["failure"]["message"], "gone");
    event.complete(How::Abandoned);
}
