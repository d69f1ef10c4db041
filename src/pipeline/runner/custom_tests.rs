//! Tests of custom steps: when they run, and what follows their failures.

use std::future::{pending, ready};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::tests::{Bench, bench_with, canned, process_and_leave};
use super::*;
use crate::avro::value::Type;
use crate::breaker::gate::NOT_ASKED;
use crate::custom::{CustomStep, CustomSteps, Row, StepError};
use crate::pipeline::event::Tenure;
use crate::reference::References;
use crate::sink::PRODUCER_OVER;

const OWN: &str = r#"
[[pipelines.p.steps]]
name = "own"
custom = "own"
timeout = "50ms"
on_missing = "dead_letter"
on_error = "null"
retry = { max_attempts = 2 }
"#;

/// A step that calls this function for each record.
struct Does<F>(F);

impl<F, R> CustomStep for Does<F>
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<Option<Row>, StepError>> + Send + 'static,
{
    fn takes(&self) -> Vec<(String, Type)> {
        Vec::new()
    }

    fn gives(&self) -> Vec<(String, Type)> {
        vec![("a".to_owned(), Type::Long)]
    }

    fn run<'a>(&'a self, _: &'a [Value<'a>]) -> BoxFuture<'a, Result<Option<Row>, StepError>> {
        Box::pin((self.0)())
    }
}

/// A bench with this step as `own`.
async fn bench(step: impl CustomStep, steps: &str) -> Bench {
    let (store, customs) = (canned(), CustomSteps::new().with("own", step));
    let any = AnyStore::Memory(store.clone());
    bench_with(any, store, &References::default(), &customs, steps).await
}

#[tokio::test]
async fn a_step_that_hangs_is_ended_and_its_policy_asked() {
    let no_answer = "[[pipelines.p.steps]]\nname = \"no_answer\"\nfilter = \"own.a == null\"\n";
    let mut bench = bench(Does(pending), &format!("{OWN}{no_answer}")).await;
    assert!(matches!(bench.run(0, 1, "click").await, How::Finished(Outcome::Done)));
    assert_eq!(bench.runtime.steps[0].step.retries.get(), 1);
}

/// Otherwise the next owner of the partition would run the record concurrently.
#[tokio::test]
async fn an_attempt_ends_with_the_tenure_of_its_partition() {
    // Long enough for a slow machine.
    let long = Duration::from_secs(120);
    let mut bench = bench(Does(pending), &OWN.replace("50ms", "1h")).await;
    let left = tokio::time::timeout(long, process_and_leave(&mut bench, 0)).await;
    assert!(matches!(left, Ok(How::Abandoned)), "{left:?}");
    assert_eq!(bench.runtime.steps[0].step.retries.get(), 0);
    // A caller that asks late is told, too.
    let tenure = Tenure::default();
    tenure.end();
    assert!(tokio::time::timeout(long, tenure.ended()).await.is_ok());
}

#[tokio::test]
async fn the_word_of_an_open_breaker_is_a_steps_own_and_its_attempts_count() {
    let mut bench = bench(Does(|| ready(Err(StepError::transient(NOT_ASKED, "")))), OWN).await;
    assert!(matches!(bench.run(0, 1, "click").await, How::Finished(Outcome::Done)));
    assert_eq!(bench.runtime.steps[0].step.retries.get(), 1);
}

#[tokio::test]
async fn the_word_of_a_producer_that_is_over_is_a_steps_own_and_starts_nothing_again() {
    let mut bench = bench(Does(|| ready(Err(StepError::permanent(PRODUCER_OVER, "")))), OWN).await;
    match bench.run(0, 1, "click").await {
        How::Fatal(failure) => assert_eq!(failure.step.as_deref(), Some("own")),
        other => panic!("{other:?}"),
    }
}

/// The effects of a custom step are not undone: a charge for a record that is then skipped would stand.
#[tokio::test]
async fn a_step_begins_when_those_before_it_let_the_record_go_on() {
    let look_up = |name: &str| {
        format!(
            "[[pipelines.p.steps]]\nname = \"{name}\"\nlookup = \"SELECT name, score FROM users WHERE id = :id\"\n\
             on_missing = \"skip\"\n"
        )
    };
    let begun = Arc::new(AtomicUsize::new(0));
    let counts = begun.clone();
    let hangs = Does(move || {
        counts.fetch_add(1, Ordering::Relaxed);
        pending()
    });
    let steps = format!("{}{OWN}{}", look_up("before"), look_up("behind"));
    let mut bench = bench(hangs, &steps).await;
    let each = [0, 1, 2].map(|index| Stage::Together(vec![index]));
    assert_eq!(bench.runtime.program.stages, each);
    assert!(matches!(
        bench.run(0, 404, "click").await,
        How::Finished(Outcome::Skipped)
    ));
    assert_eq!(begun.load(Ordering::Relaxed), 0);
}
