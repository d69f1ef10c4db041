//! Tests of the log lines of failed attempts.

use futures_util::future::BoxFuture;
use tracing_subscriber::layer::SubscriberExt as _;

use super::tests::{STEPS, bench};
use super::*;
use crate::avro::value::Type;
use crate::custom::{self, CustomStep, StepError};
use crate::store::StoreError;
use crate::telemetry::breadcrumbs::Breadcrumbs;
use crate::telemetry::logging::tests::Lines;

#[tokio::test]
async fn lines_of_one_step_hide_no_other_and_attempts_hide_no_end_of_them() {
    let retry = "on_error = \"null\"\nretry = { max_attempts = 2, max_elapsed = \"1h\" }\n";
    let steps = STEPS
        .replace("WHERE id = :id\"\n", &format!("WHERE id = :id\"\n{retry}"))
        .replace("when = \"user.score > 1.0\"\n", "");
    let mut bench = bench(&steps).await;
    // Two failures for the look-up, which is then given up, and one for the write.
    for _ in 0..3 {
        bench.store.fail_next(StoreError::transient("timeout", "no answer"));
    }
    let log = Breadcrumbs::default();
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(log.clone()));
    assert!(matches!(bench.run(0, 1, "click").await, How::Finished(Outcome::Done)));
    drop(guard);
    let said = |line: ::sentry::Breadcrumb| {
        let step = line.data["step"].as_str().map(str::to_owned);
        format!("{}: {}", step.unwrap(), line.message.unwrap())
    };
    let lines: Vec<_> = log.last(Some("p")).into_iter().map(said).collect();
    assert_eq!(
        lines,
        [
            "user: no answer; trying again",
            "user: no answer; given up, as the step's `…` says",
            "seen: no answer; trying again"
        ]
    );
}

/// A custom step whose errors quote its text: a transient one for id 1, a fatal one for id 2. For other ids it returns a value of another
/// type than it declares.
pub(super) struct Refuses;

impl CustomStep for Refuses {
    fn takes(&self) -> Vec<(String, Type)> {
        vec![("id".to_owned(), Type::Long), ("kind".to_owned(), Type::String)]
    }

    fn gives(&self) -> Vec<(String, Type)> {
        vec![("a".to_owned(), Type::Long)]
    }

    fn run<'a>(&'a self, values: &'a [Value<'a>]) -> BoxFuture<'a, Result<Option<custom::Row>, StepError>> {
        let why = format!("no partner for {:?}", values[1]);
        Box::pin(std::future::ready(match values[0] {
            Value::Long(1) => Err(StepError::transient("away", why)),
            Value::Long(2) => Err(StepError::fatal("gone", why)),
            _ => Ok(Some(vec![Value::Bool(true)])),
        }))
    }
}

#[tokio::test]
async fn the_words_of_what_is_asked_are_in_the_log_whole() {
    let mut bench = bench(STEPS).await;
    bench.user(1, "ann", 2.5);
    let words = "no answer within 1500000 ms: see `request_timeout`";
    bench.store.fail_next(StoreError::transient("timeout", words));
    let log = Lines::default();
    let guard = log.begin();
    assert!(matches!(bench.run(0, 1, "click").await, How::Finished(Outcome::Done)));
    drop(guard);
    let log = log.text();
    assert!(log.contains(&format!("{words}; trying again")), "{log}");
}

#[tokio::test]
async fn what_a_server_may_quote_is_not_in_the_log() {
    let mut bench = bench(STEPS).await;
    bench.user(1, "ann", 2.5);
    let words = "Could not decode JSON string as a map: x. (String was: {\"mail\": \"alice@x.org\"})";
    let log = Lines::default();
    let guard = log.begin();
    for (offset, reason) in (0..).zip(["schema_changing", "server_error", "unknown"]) {
        bench.store.fail_next(StoreError::transient(reason, words));
        let end = bench.run(offset, 1, "click").await;
        assert!(matches!(end, How::Finished(Outcome::Done)), "{end:?}");
    }
    drop(guard);
    let log = log.text();
    assert_eq!(log.matches("Could not decode JSON").count(), 3, "{log}");
    assert!(!log.contains("alice"), "{log}");
}

#[tokio::test]
async fn what_a_step_of_ones_own_quotes_is_not_in_the_log() {
    let steps = r#"
[[pipelines.p.steps]]
name = "partner"
custom = "refuses"
on_error = "null"
retry = { max_attempts = 2 }
"#;
    let mut bench = bench(steps).await;
    let log = Lines::default();
    let guard = log.begin();
    assert!(matches!(
        bench.run(0, 1, "alice@x.org").await,
        How::Finished(Outcome::Done)
    ));
    let mut halts = Vec::new();
    for (offset, id) in [(1, 2), (2, 3)] {
        match bench.run(offset, id, "alice@x.org").await {
            How::Fatal(failure) => halts.push(failure.message),
            other => panic!("{other:?}"),
        }
    }
    drop(guard);
    let log = log.text();
    for what in ["trying again", "given up"] {
        assert!(log.contains(&format!("no partner for String(\"…\"); {what}")), "{log}");
    }
    assert!(!log.contains("alice"), "{log}");
    // Messina's own messages name what the step declares.
    assert_eq!(halts, ["no partner for String(\"…\")", "the returned 'a' is not long"]);
}
