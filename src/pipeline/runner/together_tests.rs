//! Tests of grouped writes: a row in a batch is the row that its event would write alone, and when a batch fails, each of its rows is written alone, at that
//! stage and no other.

use super::life_tests::life_of;
use super::tests::{Bench, bench};
use super::*;
use crate::pipeline::evaluate::now_micros;
use crate::store::StoreError;

const TWO_STAGES: &str = r#"
[[pipelines.p.steps]]
name = "first"
write = "INSERT INTO first (id, kind) VALUES (:id, :kind)"
[[pipelines.p.steps]]
name = "human"
filter = "event.kind != 'bot'"
[[pipelines.p.steps]]
name = "second"
write = "INSERT INTO second (id, kind) VALUES (:id, :kind)"
"#;

async fn run(bench: &Bench, event: Box<Event>) {
    match bench.runtime.advance(event, Instant::now()) {
        Advance::Waits(event) => bench.runtime.process(event).await,
        other => panic!("{other:?}"),
    }
    assert!(matches!(bench.end(), How::Finished(Outcome::Done)));
}

/// For each written row, whether it was excluded from batches.
fn alone(bench: &Bench) -> Vec<bool> {
    bench.store.writes().iter().map(|write| write.alone).collect()
}

#[tokio::test]
async fn a_row_that_is_tried_again_is_in_no_batch() {
    let mut bench = bench(TWO_STAGES).await;
    for _ in 0..2 {
        bench.store.fail_next(StoreError::transient("timeout", "no answer"));
    }
    for offset in 0..2 {
        let event = bench.event(offset, 1, "click", false);
        run(&bench, event).await;
    }
    assert_eq!(
        alone(&bench),
        [true, false, false, false],
        "one write of one event has failed"
    );
}

#[tokio::test]
async fn what_was_in_a_batch_that_failed_is_in_batches_again_behind_that_stage() {
    let mut bench = bench(TWO_STAGES).await;
    let mut event = bench.event(0, 1, "click", false);
    event.alone = true;
    run(&bench, event).await;
    assert_eq!(alone(&bench), [true, false]);
}

/// Two writes of one row; the second has a TTL that is computed from the clock.
const GROUPED: &str = r#"
[[pipelines.p.steps]]
name = "first"
when = "event.kind == 'click'"
write = "INSERT INTO row (id, kind) VALUES (:id, :kind)"
group = {}
[[pipelines.p.steps]]
name = "human"
filter = "event.kind != 'bot'"
[[pipelines.p.steps]]
name = "s"
set = { clock = "now()" }
[[pipelines.p.steps]]
name = "z"
set = { seconds = "s.clock / 1000000" }
[[pipelines.p.steps]]
name = "second"
write = "INSERT INTO row (id, kind) VALUES (:id, :kind)"
ttl_seconds = "event.id - z.seconds"
group = {}
"#;

/// Runs an event up to a grouped write, where it joins others.
fn joins(bench: &Bench, event: Box<Event>) -> Member {
    match bench.runtime.advance(event, Instant::now()) {
        Advance::Joins(member) => member,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_row_of_a_batch_has_the_timestamp_and_the_life_that_it_has_by_itself() {
    let mut bench = bench(GROUPED).await;
    let ends = now_micros() / 1_000_000 + 100;
    let event = bench.event(0, ends, "click", false);
    let mut first = joins(&bench, event);
    first.event.pass_stage();
    let second = joins(&bench, first.event);
    assert_eq!((first.step, second.step), (0, 4));
    let rows = bench.store.encoded();
    assert_eq!(rows[0].timestamp_us, second.event.origin.write_timestamp_us);
    assert_eq!(rows[1].timestamp_us, rows[0].timestamp_us + 1, "the later step wins");
    assert!(matches!(life_of(&rows[1]), Some(50..=100)), "{rows:?}");
    second.event.complete(How::Abandoned);
}

#[tokio::test]
async fn an_event_whose_condition_does_not_hold_has_no_row_in_a_batch() {
    let mut bench = bench(GROUPED).await;
    let [click, view] = [(0, "click"), (1, "view")].map(|(offset, kind)| bench.event(offset, 1, kind, false));
    let row = |event: &Event| bench.runtime.row(&bench.runtime.program.stages[0], event);
    assert!(row(&click).is_some());
    // `advance` does not evaluate the conditions of steps that it cannot mark as answered.
    assert!(row(&view).is_none());
    for event in [click, view] {
        event.complete(How::Abandoned);
    }
}
