//! Tests of `ttl_seconds`: the lifetime of rows that expire at a time of their record.

use std::time::Duration;

use super::tests::bench;
use super::*;
use crate::pipeline::completions::Batch;
use crate::pipeline::evaluate::now_micros;
use crate::pipeline::story::story;
use crate::store::StoreError;
use crate::store::memory::Written;
use crate::tap::Showing;

/// The TTLs of the rows written by events whose rows expire this many seconds from now. The first attempt fails after a while.
async fn lives(ends: &[i64]) -> Vec<i64> {
    let steps = r#"
[[pipelines.p.steps]]
name = "s"
set = { clock = "now()" }
[[pipelines.p.steps]]
name = "z"
set = { seconds = "s.clock / 1000000" }
[[pipelines.p.steps]]
name = "w"
write = "INSERT INTO t (kind) VALUES (:kind)"
ttl_seconds = "event.id - z.seconds"
"#;
    let mut bench = bench(steps).await;
    bench.store.set_latency(Duration::from_millis(1100));
    for _ in ends {
        bench.store.fail_next(StoreError::transient("timeout", "no answer"));
    }
    let now = now_micros() / 1_000_000;
    let ends = ends.iter().enumerate();
    let events: Vec<_> = ends
        .map(|(offset, end)| bench.event(offset as i64, now + end, "click", false))
        .collect();
    join_all(events.into_iter().map(|event| bench.runtime.process(event))).await;
    let mut batch = Batch::default();
    bench.completions.take(&mut batch);
    for completion in &batch.completions {
        let how = &completion.how;
        assert!(matches!(how, How::Finished(Outcome::Done)), "{how:?}");
    }
    let writes = bench.store.writes();
    writes.iter().map(|write| life_of(write).unwrap()).collect()
}

/// The TTL that a row was written with.
pub(super) fn life_of(write: &Written) -> Option<i64> {
    match write.values.last() {
        Some((_, Value::Null)) => None,
        Some((_, Value::Int(life))) => Some(i64::from(*life)),
        Some((_, Value::Long(life))) => Some(*life),
        other => panic!("{other:?}"),
    }
}

/// The TTL of the row of an event with this `id`, and the TTL that `tap` shows. `left` declares the value `left` of step `z`.
async fn life(left: &str, ttl_seconds: &str, id: i64) -> (Option<i64>, serde_json::Value) {
    let steps = format!(
        "[[pipelines.p.steps]]\nname = \"s\"\nset = {{ clock = \"now()\" }}\n\
         [[pipelines.p.steps]]\nname = \"z\"\n{left}\n\
         [[pipelines.p.steps]]\nname = \"w\"\nwrite = \"INSERT INTO t (kind) VALUES (:kind)\"\nttl_seconds = \"{ttl_seconds}\"\n"
    );
    let mut bench = bench(&steps).await;
    let event = bench.event(0, id, "click", false);
    bench.runtime.process(event).await;
    let ended = bench.ended();
    assert!(matches!(ended.how, How::Finished(Outcome::Done)), "{:?}", ended.how);
    let told = story(
        &bench.runtime,
        &ended.event,
        "done",
        None,
        std::time::Instant::now(),
        Showing::Values,
    );
    let took = &told["steps"][2]["took"]["messina_ttl"];
    (life_of(&bench.store.writes()[0]), took.clone())
}

#[tokio::test]
async fn a_life_from_the_clock_is_what_is_left_when_the_row_is_written() {
    let life = lives(&[100]).await[0];
    assert!((50..=99).contains(&life), "{life} s");
}

/// In CQL a TTL of 0 means for ever, and a negative one is an error.
#[tokio::test]
async fn a_row_whose_life_is_over_is_written_and_goes_at_once() {
    assert_eq!(lives(&[1, 0, -3600]).await, [1, 1, 1]);
}

#[tokio::test]
async fn a_zero_that_stands_for_no_end_is_for_ever() {
    let soon = now_micros() / 1_000_000 + 100;
    let reckoned = "event.id - s.clock / 1000000";
    // With a step that does not always run, 0 means for ever, as usual.
    let some = format!("set = {{ left = \"{reckoned}\" }}\nwhen = \"event.id != 0\"");
    let or_none = "z.left != null ? z.left : 0";
    assert_eq!(life(&some, or_none, 0).await.0, Some(0));
    assert!(matches!(life(&some, or_none, soon).await.0, Some(50..=100)));
    // With a step that always runs, only a literal 0 means for ever, and a computed one does not.
    let branch = format!("event.id == 0 ? 0 : (event.id == 1 ? 0 : {reckoned})");
    let all = format!("set = {{ left = \"{branch}\" }}");
    for (left, ttl) in [(all.as_str(), "z.left"), ("set = { left = \"1\" }", branch.as_str())] {
        assert_eq!(life(left, ttl, 0).await.0, Some(0), "{ttl}");
        assert_eq!(life(left, ttl, 1).await.0, Some(0), "{ttl}");
        assert!(matches!(life(left, ttl, soon).await.0, Some(50..=100)), "{ttl}");
        assert_eq!(life(left, ttl, soon - 200).await.0, Some(1), "{ttl}");
    }
}

#[tokio::test]
async fn the_life_that_is_told_of_is_the_one_that_is_written() {
    let over = now_micros() / 1_000_000 - 100;
    let (life, told) = life(
        "set = { seconds = \"s.clock / 1000000\" }",
        "event.id - z.seconds",
        over,
    )
    .await;
    assert_eq!((life, told), (Some(1), serde_json::json!(1)));
}
