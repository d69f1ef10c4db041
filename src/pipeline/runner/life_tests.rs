//! How long rows live that end at a time of their record.

use std::time::Duration;

use super::tests::bench;
use super::*;
use crate::pipeline::completions::Batch;
use crate::pipeline::evaluate::now_micros;
use crate::store::StoreError;

/// The lives of the rows that were written: of each event the one that ends so many seconds from now. The first attempt fails, and the answer to it takes a while.
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
    let lives = writes.iter().map(|write| match write.values.last() {
        Some((_, Value::Int(life))) => i64::from(*life),
        Some((_, Value::Long(life))) => *life,
        other => panic!("{other:?}"),
    });
    lives.collect()
}

#[tokio::test]
async fn a_life_from_the_clock_is_what_is_left_when_the_row_is_written() {
    let life = lives(&[100]).await[0];
    assert!((50..=99).contains(&life), "{life} s");
}

/// 0 is for ever in CQL, and what is below it is refused.
#[tokio::test]
async fn a_row_whose_life_is_over_is_written_and_goes_at_once() {
    assert_eq!(lives(&[1, 0, -3600]).await, [1, 1, 1]);
}
