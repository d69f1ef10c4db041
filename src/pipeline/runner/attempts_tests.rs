//! What the log says of attempts that fail.

use tracing_subscriber::layer::SubscriberExt as _;

use super::tests::{STEPS, bench};
use super::*;
use crate::store::StoreError;
use crate::telemetry::breadcrumbs::Breadcrumbs;

#[tokio::test]
async fn lines_of_one_step_hide_no_other_and_attempts_hide_no_end_of_them() {
    let retry = "on_error = \"null\"\nretry = { max_attempts = 2, max_elapsed = \"1h\" }\n";
    let steps = STEPS
        .replace("WHERE id = :id\"\n", &format!("WHERE id = :id\"\n{retry}"))
        .replace("when = \"user.score > 1.0\"\n", "");
    let mut bench = bench(&steps).await;
    // Two for the look-up, which is given up then, and one for the write.
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
