//! Tests of rows whose batch has failed: each is written singly, at that stage and no other.

use super::tests::{Bench, bench};
use super::*;
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

/// Of each row that was written, whether it was to be in no batch.
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
