//! The content of the HTTP answers: liveness by progress, readiness by assignment, and the full status.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use prometheus::proto::MetricFamily;
use serde_json::{Value, json};

use super::{Known, Shared};
use crate::http::{Probe, Refused, Wanted};
use crate::source::status::{LoopStatus, STOPPED_BY_LIMIT};
use crate::tap::{Looker, Showing};
use crate::telemetry::metrics::{Metrics, revision};
use crate::telemetry::quantile::quantile;

/// A loop that has not completed a round for this long is not alive. The longest call that blocks a loop, and the loops that share its
/// thread, is a seek: ten seconds.
const SILENT: Duration = Duration::from_secs(60);

/// What HTTP shows of the application.
pub struct AppProbe {
    metrics: Arc<Metrics>,
    shared: Shared,
    started: Instant,
    /// What may be shown of records.
    tap: Option<Showing>,
}

impl AppProbe {
    pub(super) fn new(metrics: Arc<Metrics>, shared: Shared, tap: Option<Showing>) -> AppProbe {
        AppProbe {
            metrics,
            shared,
            started: Instant::now(),
            tap,
        }
    }

    /// The figures of all stages, by pipeline. Collected in one pass because there may be hundreds.
    fn stages(families: &[MetricFamily]) -> HashMap<&str, HashMap<String, Value>> {
        let mut found: HashMap<&str, HashMap<String, Value>> = HashMap::new();
        for family in families {
            let name = family.name().trim_start_matches("messina_");
            if !matches!(
                name,
                "stage_seconds" | "step_seconds" | "delivery_seconds" | "event_seconds"
            ) {
                continue;
            }
            for metric in family.get_metric() {
                let label = |wanted: &str| {
                    metric
                        .get_label()
                        .iter()
                        .find(|l| l.name() == wanted)
                        .map(|l| l.value())
                };
                let Some(pipeline) = label("pipeline") else {
                    continue;
                };
                let stage = match (name, label("stage"), label("step")) {
                    ("stage_seconds", Some(stage), _) => stage.to_owned(),
                    ("step_seconds", _, Some(step)) => format!("step:{step}"),
                    (name, _, _) => name.trim_end_matches("_seconds").to_owned(),
                };
                let histogram = metric.get_histogram();
                let micros = |q: f64| quantile(histogram, q).map(|s| (s * 1e7).round() / 10.0);
                found.entry(pipeline).or_default().insert(
                    stage,
                    json!({"count": histogram.get_sample_count(), "p50_us": micros(0.5), "p95_us": micros(0.95), "p99_us": micros(0.99)}),
                );
            }
        }
        found
    }

    /// The stages of a pipeline, in the order in which a record passes them.
    fn on_the_way(mut found: HashMap<String, Value>, steps: &[(Arc<str>, bool)]) -> Value {
        let steps = steps.iter().map(|(step, _)| format!("step:{step}"));
        let way = std::iter::once("decode".to_owned()).chain(steps);
        let way = way.chain(["encode", "delivery", "event"].map(str::to_owned));
        way.filter_map(|stage| found.remove_entry(&stage)).collect()
    }

    /// The hits and misses of the caches of a pipeline's look-ups, by step.
    fn caches(&self, pipeline: &str, steps: &[(Arc<str>, bool)]) -> Value {
        let metrics = &self.metrics;
        let cached = steps.iter().filter(|(_, cached)| *cached);
        let cached = cached.map(|(step, _)| {
            let of = [pipeline, &**step];
            let (hits, misses) = (
                metrics.cache_hits_total.of(of).get(),
                metrics.cache_misses_total.of(of).get(),
            );
            let asked = hits + misses;
            let figures = json!({
                "hits": hits,
                "misses": misses,
                "hit_ratio": (asked > 0).then(|| hits as f64 / asked as f64),
                "entries": metrics.cache_entries.of(of).get(),
                "bytes": metrics.cache_bytes.of(of).get(),
            });
            (step.to_string(), figures)
        });
        Value::Object(cached.collect())
    }
}

/// Whether a loop should have completed a round within this time. Nothing is expected of it before its first round, while its consumer is
/// closed in order to be recreated, and after its last round. A halted loop goes round until it has drained.
fn is_dead(status: &LoopStatus, silent: Duration) -> bool {
    silent > SILENT && status.state != "connecting" && !status.has_left_its_thread()
}

impl Probe for AppProbe {
    fn live(&self) -> Result<(), String> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.given_up.retain(|(_, state)| state.strong_count() > 0);
        for (pipeline, state) in &shared.given_up {
            let Some(state) = state.upgrade() else { continue };
            let silent = state.silent_for();
            if is_dead(&state.get(), silent) {
                return Err(format!(
                    "a loop of pipeline {pipeline}, abandoned by a reload, has been unresponsive for {} s",
                    silent.as_secs()
                ));
            }
        }
        for Known {
            name: pipeline, loops, ..
        } in &shared.pipelines
        {
            for (number, state) in loops.iter().enumerate() {
                let silent = state.silent_for();
                if is_dead(&state.get(), silent) {
                    return Err(format!(
                        "loop {number} of pipeline {pipeline} has been unresponsive for {} s",
                        silent.as_secs()
                    ));
                }
            }
        }
        Ok(())
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reasons = Vec::new();
        if !shared.prepared {
            let waiting = shared.waiting_for.as_ref();
            reasons.push(waiting.map_or_else(|| "starting".to_owned(), |waiting| waiting.what.clone()));
        }
        for Known {
            name: pipeline, loops, ..
        } in &shared.pipelines
        {
            for (number, state) in loops.iter().enumerate() {
                let status = state.get();
                let about = |what: String| format!("pipeline {pipeline}, loop {number}: {what}");
                match (&status.halted, &status.waiting_for, status.state) {
                    (Some(why), _, STOPPED_BY_LIMIT) => reasons.push(about(format!("stopped: {why}"))),
                    (Some(why), ..) => reasons.push(about(format!("halted: {why}"))),
                    (None, Some(what), state) => reasons.push(about(format!("{state}: waits for {what}"))),
                    (None, None, "running") => {}
                    (None, None, state) => reasons.push(about(state.to_owned())),
                }
                // Its last report may be old.
                let silent = state.silent_for();
                if is_dead(&status, silent) {
                    reasons.push(about(format!("unresponsive for {} s", silent.as_secs())));
                }
                let stalled = status.partitions.iter().filter(|p| p.stalled).count();
                if stalled > 0 {
                    reasons.push(about(format!("{stalled} partitions make no progress")));
                }
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn status(&self) -> Value {
        let (ready, families) = (self.ready().is_ok(), self.metrics.gather());
        let mut stages = Self::stages(&families);
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pipelines = serde_json::Map::new();
        for Known {
            name: pipeline,
            loops,
            steps,
        } in &shared.pipelines
        {
            let count = |outcome: &str| self.metrics.records_total.of([pipeline, outcome]).get();
            let states: Vec<_> = loops.iter().map(|l| l.get()).collect();
            let lag: i64 = states
                .iter()
                .flat_map(|s| &s.partitions)
                .filter_map(|p| p.lag_records)
                .sum();
            pipelines.insert(
                pipeline.clone(),
                json!({
                    "received": self.metrics.received_total.of([pipeline]).get(),
                    "done": count("done"),
                    "skipped": count("skipped"),
                    "dead_lettered": count("dead_lettered"),
                    "published": self.metrics.published_total.of([pipeline]).get(),
                    "lag_records": lag,
                    "stages": Self::on_the_way(stages.remove(pipeline.as_str()).unwrap_or_default(), steps),
                    "cache": self.caches(pipeline, steps),
                    "loops": states,
                }),
            );
        }
        let breakers: serde_json::Map<String, Value> = shared
            .breakers
            .iter()
            .map(|gate| (gate.name().to_owned(), json!(gate.state().as_str())))
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "revision": revision(),
            "config": {
                "generation": self.metrics.config_generation.of([]).get(),
                "last_reload_successful": self.metrics.config_last_reload_successful.of([]).get() == 1,
            },
            "uptime_seconds": self.started.elapsed().as_secs_f64(),
            "ready": ready,
            "waiting_for": shared.waiting_for.as_ref().map(|waiting| &waiting.what),
            "breakers": breakers,
            "pipelines": pipelines,
        })
    }

    fn metrics(&self) -> Vec<u8> {
        self.metrics.ready.of([]).set(i64::from(self.ready().is_ok()));
        self.metrics.render()
    }

    fn tap(&self, pipeline: &str, wanted: Wanted) -> Result<Arc<Looker>, Refused> {
        let showing = self.tap.ok_or(Refused::Off)?;
        let gap = wanted.gap();
        let looker = Looker::new(showing, wanted.outcome, wanted.records, gap);
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = shared.pipelines.iter().find(|known| known.name == pipeline) else {
            return Err(Refused::Unknown(
                shared.pipelines.iter().map(|known| known.name.clone()).collect(),
            ));
        };
        if known.loops.iter().all(|state| state.tap.open(&looker)) {
            Ok(looker)
        } else {
            Err(Refused::Busy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::status::LoopState;

    /// Everything is prepared, and the only pipeline has this loop.
    fn has_one_loop(shared: &Shared, state: &Arc<LoopState>) {
        let mut shared = shared.lock().unwrap();
        shared.prepared = true;
        shared.pipelines.push(Known {
            name: "p".to_owned(),
            loops: vec![state.clone()],
            steps: Vec::new(),
        });
    }

    #[test]
    fn only_a_loop_that_should_go_round_is_dead() {
        let long = SILENT + Duration::from_secs(1);
        let says = |state, over| LoopStatus {
            state,
            over,
            ..LoopStatus::default()
        };
        for state in ["joining", "running", "stopping", "halted", STOPPED_BY_LIMIT] {
            let status = says(state, false);
            assert!(is_dead(&status, long) && !is_dead(&status, SILENT), "{state}");
            assert!(!is_dead(&says(state, true), long), "{state}");
        }
        // librdkafka closes a consumer, and may wait for brokers.
        for state in ["connecting", "rebuilding", "stopped"] {
            assert!(!is_dead(&says(state, false), long), "{state}");
        }
    }

    #[test]
    fn a_loop_that_stands_still_is_neither_alive_nor_ready_whatever_it_said_last() {
        let shared = Shared::default();
        let probe = AppProbe::new(Metrics::new().unwrap(), shared.clone(), None);
        let state = Arc::new(LoopState::silent_since(SILENT + Duration::from_secs(1)));
        state.set(LoopStatus {
            state: "running",
            ..LoopStatus::default()
        });
        has_one_loop(&shared, &state);
        assert!(probe.live().is_err());
        let reasons = probe.ready().unwrap_err();
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        assert!(
            reasons[0].starts_with("pipeline p, loop 0: unresponsive for 6"),
            "{reasons:?}"
        );
        state.beat();
        assert!(probe.live().is_ok() && probe.ready().is_ok());
    }

    /// Its successor is healthy, and runs on another thread.
    #[test]
    fn a_loop_that_a_reload_has_given_up_is_not_alive_until_it_has_ended() {
        let shared = Shared::default();
        let probe = AppProbe::new(Metrics::new().unwrap(), shared.clone(), None);
        has_one_loop(&shared, &Arc::default());
        let stuck = Arc::new(LoopState::silent_since(SILENT + Duration::from_secs(1)));
        let says = |state| {
            stuck.set(LoopStatus {
                state,
                ..LoopStatus::default()
            });
        };
        shared
            .lock()
            .unwrap()
            .given_up
            .push(("p".to_owned(), Arc::downgrade(&stuck)));
        says("running");
        let why = probe.live().unwrap_err();
        assert!(
            why.starts_with("a loop of pipeline p, abandoned by a reload, has been unresponsive for 6"),
            "{why}"
        );
        // Closing its consumer may take any time.
        says("stopped");
        assert_eq!(probe.live(), Ok(()));
        says("running");
        assert!(probe.live().is_err());
        drop(stuck);
        assert_eq!(probe.live(), Ok(()));
        assert!(shared.lock().unwrap().given_up.is_empty());
    }

    #[test]
    fn a_loop_that_dead_letters_have_stopped_is_not_called_halted() {
        let shared = Shared::default();
        let probe = AppProbe::new(Metrics::new().unwrap(), shared.clone(), None);
        let state = Arc::new(LoopState::default());
        has_one_loop(&shared, &state);
        for (word, told) in [(STOPPED_BY_LIMIT, "stopped"), ("halted", "halted")] {
            state.set(LoopStatus {
                state: word,
                halted: Some("why".to_owned()),
                ..LoopStatus::default()
            });
            assert_eq!(probe.ready(), Err(vec![format!("pipeline p, loop 0: {told}: why")]));
        }
    }

    #[test]
    fn each_pipeline_has_its_own_stages_in_the_order_of_a_records_way() {
        let (metrics, shared) = (Metrics::new().unwrap(), Shared::default());
        let probe = AppProbe::new(metrics.clone(), shared.clone(), None);
        for (name, steps) in [("a", ["z", "x"]), ("b", ["x", "y"])] {
            shared.lock().unwrap().pipelines.push(Known {
                name: name.to_owned(),
                loops: Vec::new(),
                steps: steps.map(|step| (Arc::<str>::from(step), false)).to_vec(),
            });
        }
        for (pipeline, step, times) in [("a", "x", 1), ("a", "z", 2), ("b", "x", 3), ("gone", "x", 4)] {
            (0..times).for_each(|_| metrics.step_seconds.of([pipeline, step]).observe(0.001));
        }
        metrics.stage_seconds.of(["a", "encode"]).observe(0.001);
        metrics.delivery_seconds.of(["b"]).observe(0.001);
        let status = probe.status();
        let counts = |pipeline: &str| -> Vec<(String, u64)> {
            let stages = status["pipelines"][pipeline]["stages"].as_object().unwrap();
            let count = |(name, stage): (&String, &Value)| (name.clone(), stage["count"].as_u64().unwrap());
            stages.iter().map(count).collect()
        };
        let expected = |counts: &[(&str, u64)]| -> Vec<(String, u64)> {
            counts
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect()
        };
        assert_eq!(counts("a"), expected(&[("step:z", 2), ("step:x", 1), ("encode", 1)]));
        assert_eq!(counts("b"), expected(&[("step:x", 3), ("delivery", 1)]));
    }

    #[test]
    fn the_status_is_ready_when_the_probe_is() {
        let metrics = Metrics::new().unwrap();
        let shared = Shared::default();
        let probe = AppProbe::new(metrics, shared.clone(), None);
        let ready = |expected: bool| {
            assert_eq!(probe.ready().is_ok(), expected);
            assert_eq!(probe.status()["ready"], expected);
        };
        ready(false);
        let state = Arc::new(LoopState::default());
        has_one_loop(&shared, &state);
        ready(false);
        assert_eq!(probe.ready(), Err(vec!["pipeline p, loop 0: connecting".to_owned()]));
        state.waits_for(Some("its transactional id: no coordinator".to_owned()));
        let waits = "pipeline p, loop 0: connecting: waits for its transactional id: no coordinator";
        assert_eq!(probe.ready(), Err(vec![waits.to_owned()]));
        state.set(LoopStatus {
            state: "running",
            ..LoopStatus::default()
        });
        ready(true);
        state.halted("the login was refused");
        ready(false);
    }
}
