//! Tests of what runs without a task: an event goes as far as it needs no I/O, and no further, with the same outcome as in a task.

use super::tests::{Bench, LOOKUP, STEPS, bench, bench_on};
use super::*;
use crate::avro::value::Type;
use crate::lanes::Order;
use crate::pipeline::completions::Batch;
use crate::reference::{Reference, References, Shape};
use crate::store::StoreError;
use crate::store::cache::CacheStats;
use crate::store::memory::MemoryStore;
use crate::store::types::ColumnType;
use crate::turns::Turns;

fn waits(advance: Advance) -> Box<Event> {
    match advance {
        Advance::Waits(event) => event,
        other => panic!("{other:?}"),
    }
}

fn cached() -> String {
    STEPS.replace(
        "WHERE id = :id\"\n",
        "WHERE id = :id\"\ncache = { ttl = \"1h\", missing_ttl = \"1h\" }\n",
    )
}

/// Runs one event, so that its row is in the cache afterwards.
async fn ask_once(bench: &mut Bench, id: i64) {
    let event = bench.event(0, id, "click", false);
    let event = waits(bench.runtime.advance(event, Instant::now()));
    bench.runtime.process(event).await;
    bench.end();
}

#[tokio::test]
async fn who_is_filtered_out_ends_at_once() {
    let mut bench = bench(STEPS).await;
    let event = bench.event(0, 1, "bot", false);
    assert!(matches!(bench.runtime.advance(event, Instant::now()), Advance::Ended));
    assert!(matches!(bench.end(), How::Finished(Outcome::Skipped)));
}

#[tokio::test]
async fn of_a_partition_that_has_left_nothing_is_begun() {
    let mut bench = bench(STEPS).await;
    let event = bench.event(0, 1, "bot", true);
    assert!(matches!(bench.runtime.advance(event, Instant::now()), Advance::Ended));
    assert!(matches!(bench.end(), How::Abandoned));
}

#[tokio::test]
async fn a_hit_ends_at_once_and_a_write_is_waited_for() {
    let mut bench = bench(&cached()).await;
    bench.user(1, "ann", 0.5);
    bench.user(2, "bob", 2.5);
    ask_once(&mut bench, 1).await;
    assert_eq!((bench.store.calls(), bench.store.writes().len()), (1, 0));
    let event = bench.event(1, 1, "click", false);
    assert!(
        matches!(bench.runtime.advance(event, Instant::now()), Advance::Ended),
        "its condition wants no write"
    );
    assert!(matches!(bench.end(), How::Finished(Outcome::Done)));

    let mut event = bench.event(2, 2, "click", false);
    event = waits(bench.runtime.advance(event, Instant::now()));
    assert_eq!(event.stage, 1, "the filter is behind it, the look-up is not");
    bench.runtime.process(event).await;
    bench.end();
    event = bench.event(3, 2, "click", false);
    event = waits(bench.runtime.advance(event, Instant::now()));
    assert_eq!(event.stage, 2, "only the write is left");
    bench.runtime.process(event).await;
    bench.end();
    assert_eq!(
        (bench.store.calls(), bench.store.writes().len()),
        (4, 2),
        "two look-ups, two writes"
    );
}

/// A bench that skips missing users, and has cached that 404 is missing.
async fn skips_404() -> Bench {
    let steps = cached().replace(
        "missing_ttl = \"1h\" }\n",
        "missing_ttl = \"1h\" }\non_missing = \"skip\"\n",
    );
    let mut bench = bench(&steps).await;
    ask_once(&mut bench, 404).await;
    bench
}

#[tokio::test]
async fn what_is_known_to_be_missing_ends_as_the_step_says() {
    let mut bench = skips_404().await;
    let event = bench.event(1, 404, "click", false);
    assert!(matches!(bench.runtime.advance(event, Instant::now()), Advance::Ended));
    assert!(matches!(bench.end(), How::Finished(Outcome::Skipped)));
    assert_eq!(bench.store.calls(), 1);
}

/// Hits and misses of the cache of a look-up.
fn hits_and_misses(bench: &Bench, index: usize) -> (u64, u64) {
    let Action::Lookup(lookup) = &bench.runtime.program.steps[index].action else {
        unreachable!()
    };
    let CacheStats { hits, misses, .. } = lookup.cache.as_ref().unwrap().stats();
    (hits, misses)
}

#[tokio::test]
async fn what_is_known_to_be_missing_is_one_hit_however_it_ends() {
    for on_missing in ["null", "skip", "dead_letter"] {
        let steps = format!(
            "[[pipelines.p.steps]]\nname = \"user\"\nlookup = \"{LOOKUP}\"\ncache = {{ ttl = \"1h\", missing_ttl = \"1h\" }}\n\
             on_missing = \"{on_missing}\"\n[pipelines.p.dead_letter]\ntopic = \"d\"\n"
        );
        let mut bench = bench(&steps).await;
        ask_once(&mut bench, 404).await;
        assert_eq!(hits_and_misses(&bench, 0), (0, 1), "{on_missing}");
        let event = bench.event(1, 404, "click", false);
        if let Advance::Waits(event) = bench.runtime.advance(event, Instant::now()) {
            bench.runtime.process(event).await;
        }
        bench.end();
        assert_eq!(hits_and_misses(&bench, 0), (1, 1), "{on_missing}");
    }
}

#[tokio::test]
async fn a_skip_that_waits_for_its_turn_is_one_hit() {
    let mut bench = skips_404().await;
    let mut turns = Turns::new(Order::Partition);
    let before = turns.next(0, None);
    let mut event = bench.event(1, 404, "click", false);
    event.turn = turns.next(0, None);
    let event = waits(bench.runtime.advance(event, Instant::now()));
    before.unwrap().pass();
    bench.runtime.process(event).await;
    assert!(matches!(bench.end(), How::Finished(Outcome::Skipped)));
    assert_eq!(hits_and_misses(&bench, 1), (1, 1));
}

#[tokio::test]
async fn a_document_that_is_missing_is_counted_once() {
    let beside = format!("[[pipelines.p.steps]]\nname = \"user\"\nlookup = \"{LOOKUP}\"\n");
    for (on_missing, beside) in [
        ("null", ""),
        ("skip", ""),
        ("dead_letter", ""),
        ("skip", &*beside),
        ("dead_letter", &*beside),
    ] {
        let steps = format!(
            "{beside}[[pipelines.p.steps]]\nname = \"member\"\nreference = \"members\"\nkey = \"event.id\"\n\
             on_missing = \"{on_missing}\"\n[pipelines.p.dead_letter]\ntopic = \"d\"\n[mongo]\nuri = \"mongodb://m:27017\"\n\
             [references.members]\ncollection = \"crm.members\"\nfields = {{ name = \"string\" }}\n"
        );
        let members = Reference::new(Shape {
            name: "members".into(),
            collection: "crm.members".into(),
            key: "_id".into(),
            key_type: ColumnType::BigInt,
            fields: vec![("name".into(), Type::String)],
            max_bytes: 1 << 20,
        });
        let store = MemoryStore::new();
        let columns = [("name", ColumnType::Text), ("score", ColumnType::Double)];
        store.declare(LOOKUP, &[("id", ColumnType::BigInt)], &columns);
        let references = References::new([Arc::new(members)]);
        let mut bench = bench_on(AnyStore::Memory(store.clone()), store, &references, &steps).await;
        let event = bench.event(0, 404, "click", false);
        if let Advance::Waits(event) = bench.runtime.advance(event, Instant::now()) {
            bench.runtime.process(event).await;
        }
        bench.end();
        let (found, missing) = bench.runtime.steps.last().unwrap().found.as_ref().unwrap();
        assert_eq!((found.get(), missing.get()), (0, 1), "{on_missing} {beside}");
    }
}

#[tokio::test]
async fn of_two_look_ups_the_one_that_has_its_answer_is_not_asked_again() {
    let both = r#"
[[pipelines.p.steps]]
name = "user"
lookup = "SELECT name, score FROM users WHERE id = :id"
cache = { ttl = "1h", missing_ttl = "1h" }
[[pipelines.p.steps]]
name = "again"
lookup = "SELECT name, score FROM users WHERE id = :id"
"#;
    let mut bench = bench(both).await;
    bench.user(1, "ann", 0.5);
    ask_once(&mut bench, 1).await;
    assert_eq!(bench.store.calls(), 2);
    let event = bench.event(1, 1, "click", false);
    let event = waits(bench.runtime.advance(event, Instant::now()));
    assert!(event.is_answered(0) && !event.is_answered(1));
    assert!(event.rows[0].is_some());
    // As after a grouped write, when an event returns to the loop and passes here once more.
    let event = waits(bench.runtime.advance(event, Instant::now()));
    let Action::Lookup(user) = &bench.runtime.program.steps[0].action else {
        unreachable!()
    };
    assert_eq!(user.cache.as_ref().unwrap().stats().hits, 1);
    bench.runtime.process(event).await;
    assert!(matches!(bench.end(), How::Finished(Outcome::Done)));
    assert_eq!(bench.store.calls(), 3);
}

#[tokio::test]
async fn a_skip_that_is_in_memory_comes_behind_the_look_up_before_it() {
    let both = r#"
[[pipelines.p.steps]]
name = "user"
lookup = "SELECT name, score FROM users WHERE id = :id"
[[pipelines.p.steps]]
name = "again"
lookup = "SELECT name, score FROM users WHERE id = :id"
cache = { ttl = "1h", missing_ttl = "1h" }
on_missing = "skip"
"#;
    let mut bench = bench(both).await;
    ask_once(&mut bench, 404).await;
    assert_eq!(bench.store.calls(), 2);
    bench
        .store
        .fail_next(StoreError::permanent("invalid", "no such column"));
    let event = bench.event(1, 404, "click", false);
    let event = waits(bench.runtime.advance(event, Instant::now()));
    bench.runtime.process(event).await;
    match bench.end() {
        How::Fatal(failure) => assert_eq!(failure.step.as_deref(), Some("user")),
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.store.calls(), 3);
}

#[tokio::test]
async fn a_turn_that_has_not_come_is_waited_for() {
    let mut bench = bench(STEPS).await;
    let mut turns = Turns::new(Order::Partition);
    let before = turns.next(0, None);
    let mut event = bench.event(0, 1, "bot", false);
    event.turn = turns.next(0, None);
    let event = waits(bench.runtime.advance(event, Instant::now()));
    let runtime = bench.runtime.clone();
    let task = tokio::spawn(async move { runtime.process(event).await });
    tokio::task::yield_now().await;
    before.unwrap().pass();
    task.await.unwrap();
    assert!(matches!(bench.end(), How::Finished(Outcome::Skipped)));
    let mut event = bench.event(1, 1, "bot", false);
    event.turn = turns.next(0, None);
    assert!(
        matches!(bench.runtime.advance(event, Instant::now()), Advance::Ended),
        "nobody is before it any more"
    );
    bench.end();
}

#[tokio::test]
async fn what_would_go_on_in_a_loop_that_is_gone_holds_nobody_up() {
    let mut bench = bench(STEPS).await;
    let mut turns = Turns::new(Order::Partition);
    let mut events = [0, 1, 2].map(|offset| bench.event(offset, 1, "click", false));
    events.iter_mut().for_each(|event| event.turn = turns.next(0, None));
    let [before, after, mut last] = events;
    before.go_on();
    bench.completions.close();
    after.go_on();
    assert_eq!(last.turn.as_mut().unwrap().come().await, Go::Never);
    let mut batch = Batch::default();
    bench.completions.take(&mut batch);
    assert!(batch.going_on.is_empty() && batch.completions.is_empty() && batch.vanished.is_empty());
    // The event in between does not hold it up either.
    last.complete(How::Abandoned);
    bench.end();
}

#[tokio::test]
async fn a_failure_is_left_to_the_task() {
    let mut bench = bench(STEPS).await;
    bench
        .store
        .fail_next(StoreError::permanent("invalid", "no such column"));
    let event = bench.event(0, 1, "click", false);
    let event = waits(bench.runtime.advance(event, Instant::now()));
    bench.runtime.process(event).await;
    assert!(matches!(bench.end(), How::Fatal(_)));
}
