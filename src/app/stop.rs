//! Reports every few seconds what is still running while the application stops, so that a slow stop shows what it waits for.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Shared;
use crate::source::status::LoopStatus;
use crate::telemetry::metrics::Metrics;

/// The interval between two reports.
const EVERY: Duration = Duration::from_secs(5);
/// The most partitions that one report names.
const NAMED: usize = 20;

/// Logs what is in flight in pipelines that leave, by pipeline, partition and step, until it is dropped. `sleep` is Tokio's; a test passes its own clock.
pub(super) async fn name_what_runs<S: Future<Output = ()>>(
    shared: Shared,
    metrics: Arc<Metrics>,
    leaves: impl Fn(&str) -> bool,
    sleep: impl Fn(Duration) -> S,
) {
    loop {
        sleep(EVERY).await;
        let loops: Vec<(String, Vec<LoopStatus>)> = shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pipelines
            .iter()
            .filter(|known| leaves(&known.name))
            .map(|known| (known.name.clone(), known.loops.iter().map(|l| l.get()).collect()))
            .collect();
        for (pipeline, loops) in loops {
            let left: usize = loops.iter().map(|l| l.in_flight_records).sum();
            if left == 0 {
                continue;
            }
            let steps = metrics.step_in_flight.by("pipeline", &pipeline, "step");
            tracing::info!(
                pipeline, in_flight = left, partitions = %partitions(&loops), steps = %self::steps(&steps, left), "still draining"
            );
        }
    }
}

/// `topic/0: 12, topic/3: 1`, the largest counts first.
fn partitions(loops: &[LoopStatus]) -> String {
    let mut counts: Vec<_> = loops
        .iter()
        .flat_map(|l| &l.partitions)
        .filter(|p| p.in_flight > 0)
        .map(|p| (p.in_flight, format!("{}/{}: {}", p.topic, p.partition, p.in_flight)))
        .collect();
    counts.sort_by(|(a, _), (b, _)| b.cmp(a));
    let more = counts.len().saturating_sub(NAMED);
    let mut names: Vec<String> = counts.into_iter().take(NAMED).map(|(_, name)| name).collect();
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}

/// `profile: 10, history: 2, elsewhere: 1`; elsewhere means waiting for a turn, a delivery or a schema.
fn steps(steps: &[(String, i64)], left: usize) -> String {
    let at_steps: i64 = steps.iter().map(|(_, count)| count).sum();
    // An event is at several steps at once when these run together.
    let elsewhere = left as i64 - at_steps;
    let named = steps.iter().filter(|(_, count)| *count > 0);
    let mut names: Vec<String> = named.map(|(step, count)| format!("{step}: {count}")).collect();
    if elsewhere > 0 {
        names.push(format!("elsewhere: {elsewhere}"));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Known;
    use crate::source::status::{LoopState, PartitionStatus};
    use crate::telemetry::logging::tests::Lines;

    fn partition(index: i32, in_flight: usize) -> PartitionStatus {
        PartitionStatus {
            topic: "t".to_owned(),
            partition: index,
            phase: "running",
            position: None,
            unfinished: None,
            committed: None,
            end: None,
            lag_records: None,
            lag_seconds: 0.0,
            in_flight,
            stalled: false,
        }
    }

    #[test]
    fn partitions_and_steps_with_something_in_flight_are_named() {
        let one = LoopStatus {
            partitions: vec![partition(0, 2), partition(1, 0)],
            ..LoopStatus::default()
        };
        let two = LoopStatus {
            partitions: (2..30).map(|index| partition(index, 1 + index as usize)).collect(),
            ..LoopStatus::default()
        };
        assert_eq!(partitions(std::slice::from_ref(&one)), "t/0: 2");
        let many = partitions(&[one, two]);
        assert!(
            many.starts_with("t/29: 30, t/28: 29, ") && many.ends_with(", and 9 more"),
            "{many}"
        );
        let at = [("profile".to_owned(), 3), ("history".to_owned(), 0)];
        assert_eq!(steps(&at, 5), "profile: 3, elsewhere: 2");
        assert_eq!(steps(&at, 3), "profile: 3");
    }

    /// The test controls the clock: time stands until the test lets a sleep end.
    #[tokio::test]
    async fn what_runs_is_named_every_5_s_until_nothing_does() {
        let log = Lines::default();
        let _guard = log.begin();
        let state = Arc::new(LoopState::default());
        let runs = |in_flight: usize| {
            state.set(LoopStatus {
                in_flight_records: in_flight,
                partitions: vec![partition(0, in_flight)],
                ..LoopStatus::default()
            });
        };
        let shared = Shared::default();
        // The other pipeline has as much in flight, but does not leave.
        let known = |name: &str| Known {
            name: name.to_owned(),
            loops: vec![state.clone()],
            steps: Vec::new(),
        };
        shared.lock().unwrap().pipelines = vec![known("orders"), known("stays")];
        let metrics = Metrics::new().unwrap();
        let step = crate::telemetry::handles::PipelineMetrics::new(&metrics, "orders").step("profile");
        let _entered = step.enter(1);

        let (asked, mut sleeps) = tokio::sync::mpsc::unbounded_channel();
        let sleep = move |time: Duration| {
            let (wake, woken) = tokio::sync::oneshot::channel::<()>();
            asked.send((time, wake)).unwrap();
            async move { woken.await.unwrap() }
        };
        let reporter = tokio::spawn(name_what_runs(shared, metrics, |name: &str| name == "orders", sleep));
        let line = |in_flight: usize| {
            format!(
                "still draining pipeline=\"orders\" in_flight={in_flight} partitions=t/0: {in_flight} steps=profile: 1, elsewhere: "
            )
        };
        runs(3);
        let (mut time, mut wake) = sleeps.recv().await.unwrap();
        assert_eq!(log.text(), "", "nothing is said at once");
        let mut said = 0;
        for in_flight in [3, 3, 2, 0, 0] {
            assert_eq!(time, Duration::from_secs(5));
            runs(in_flight);
            wake.send(()).unwrap();
            (time, wake) = sleeps.recv().await.unwrap();
            let text = log.text();
            let lines: Vec<&str> = text.lines().collect();
            let new = &lines[said..];
            if in_flight == 0 {
                assert!(new.is_empty(), "{new:?}");
            } else {
                assert!(new.len() == 1 && new[0].contains(&line(in_flight)), "{new:?}");
            }
            said = lines.len();
        }
        reporter.abort();
    }

    #[test]
    fn the_metrics_know_who_is_at_a_step() {
        let metrics = Metrics::new().unwrap();
        let pipeline = crate::telemetry::handles::PipelineMetrics::new(&metrics, "p");
        let other = crate::telemetry::handles::PipelineMetrics::new(&metrics, "q").step("profile");
        let step = pipeline.step("profile");
        let (one, _two, _other) = (step.enter(1), step.enter(1), other.enter(1));
        assert_eq!(
            metrics.step_in_flight.by("pipeline", "p", "step"),
            [("profile".to_owned(), 2)]
        );
        drop(one);
        assert_eq!(
            metrics.step_in_flight.by("pipeline", "p", "step"),
            [("profile".to_owned(), 1)]
        );
    }
}
