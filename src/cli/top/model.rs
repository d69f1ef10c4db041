//! Computes what is shown from the answers: rates and quantiles of the last ten seconds, and states in words, worst first. Pure: the time is an
//! argument.
//!
//! A rate is the growth of a counter between the newest answer and the youngest that is at least ten seconds older, or the oldest, as on the status
//! page. A counter that fell has been reset, and has no rate until the next answer. After a restart of the process, everything before it is
//! discarded.

mod state;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::answer::{self, Answers, Loop};
use super::series::Series;
use state::state;

/// The period over which rates are computed.
const WINDOW: Duration = Duration::from_secs(10);

/// How many rates are kept for the graph.
const KEPT: usize = 512;

/// The severity of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mood {
    Good,
    /// It waits for something, and continues by itself.
    Warn,
    /// Somebody must act.
    Bad,
}

/// A process, as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    pub version: String,
    pub generation: Option<u64>,
    /// Whether the configuration that was offered last was rejected.
    pub rejected: bool,
    pub uptime: Option<f64>,
    pub not_ready: Vec<String>,
    pub not_live: Vec<String>,
    /// Used CPU, in cores.
    pub cpu: Option<f64>,
    /// Used memory, in bytes.
    pub memory: Option<f64>,
    /// Share of `[limits] memory` in use.
    pub budget: Option<f64>,
    /// Dependencies, and the states of their breakers.
    pub breakers: Vec<(String, String)>,
    pub pipelines: Vec<Pipeline>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline {
    pub name: String,
    pub state: (Mood, String),
    /// What delays it, in sentences.
    pub trouble: Vec<String>,
    /// Records that ended per second, whatever their outcome.
    pub rate: Option<f64>,
    /// Records taken from Kafka per second.
    pub taken: Option<f64>,
    pub published: Option<f64>,
    pub dead_rate: Option<f64>,
    pub dead_letters: Option<u64>,
    pub lag_records: Option<i64>,
    /// The lag of the partition that is furthest behind.
    pub lag_seconds: Option<f64>,
    pub in_flight: u64,
    /// The most that may be in flight; 0 before it is known.
    pub bound: u64,
    /// Whether intake waits for room.
    pub full: bool,
    /// Failed attempts per second.
    pub errors: Option<f64>,
    pub stages: Vec<Stage>,
    /// Worst first.
    pub partitions: Vec<answer::Partition>,
    pub failures: Vec<Failure>,
    /// Newest first. Each text occurs once, with its number among the last errors.
    pub last_errors: Vec<(String, usize)>,
    /// Rates between consecutive answers, newest last.
    pub history: Vec<Option<u64>>,
}

/// A stage of the way of a record, or a step of the pipeline.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stage {
    pub name: String,
    pub is_step: bool,
    /// Calls per second. For a step, only those that reached its store and succeeded.
    pub calls: Option<f64>,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    /// Share of look-ups that the cache answered; none without a cache, or without look-ups.
    pub cache: Option<f64>,
    pub in_flight: Option<f64>,
    pub errors: Option<f64>,
}

/// A kind of failure at a step, since the start.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    pub step: String,
    pub class: String,
    pub level: String,
    pub total: f64,
    pub rate: Option<f64>,
}

#[derive(Debug)]
struct Sample {
    at: Duration,
    answer: Answers,
}

/// The answers that rates are computed from.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
    rates: BTreeMap<String, VecDeque<Option<u64>>>,
}

impl History {
    /// Adds an answer that came `at`, a time since an arbitrary beginning.
    pub(super) fn push(&mut self, at: Duration, answer: Answers) {
        if let Some(before) = self.samples.back()
            && answer.status.uptime_seconds < before.answer.status.uptime_seconds
        {
            self.samples.clear();
        }
        self.rates.retain(|name, _| answer.status.pipelines.contains_key(name));
        for (name, pipeline) in &answer.status.pipelines {
            let before = self.samples.back();
            let rate = before.and_then(|before| {
                let then = ended(before.answer.status.pipelines.get(name)?);
                grown(ended(pipeline), then, at.saturating_sub(before.at))
            });
            let rates = self.rates.entry(name.clone()).or_default();
            // The first answer has no rate, because none came before it. It must not leave a gap either.
            if before.is_some() || !rates.is_empty() {
                rates.push_back(rate.map(|rate| rate.round() as u64));
            }
            if rates.len() > KEPT {
                rates.pop_front();
            }
        }
        self.samples.push_back(Sample { at, answer });
        while self
            .samples
            .get(1)
            .is_some_and(|second| at.saturating_sub(second.at) >= WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// The model to show; `None` before the first answer.
    pub(super) fn model(&self) -> Option<Model> {
        let now = self.samples.back()?;
        let then = (self.samples.len() > 1).then(|| &self.samples[0]);
        let (status, series) = (&now.answer.status, &now.answer.series);
        let window = Window { now, then };
        let breakers = status.breakers.iter();
        let (used, limit) = (
            series.sum("messina_budget_used_bytes", &[]),
            series.sum("messina_budget_limit_bytes", &[]),
        );
        Some(Model {
            version: status.version.clone(),
            generation: status.config.generation,
            rejected: status.config.last_reload_successful == Some(false),
            uptime: status.uptime_seconds,
            not_ready: now.answer.not_ready.clone(),
            not_live: now.answer.not_live.clone(),
            cpu: window.rate("messina_process_cpu_seconds_total", &[]),
            memory: series.sum("messina_process_resident_memory_bytes", &[]),
            budget: used
                .zip(limit)
                .filter(|(_, limit)| *limit > 0.0)
                .map(|(used, limit)| used / limit),
            breakers: breakers
                .filter_map(|(name, state)| Some((name.clone(), state.as_str()?.to_owned())))
                .collect(),
            pipelines: status
                .pipelines
                .keys()
                .map(|name| self.pipeline(name, &window))
                .collect(),
        })
    }

    fn pipeline(&self, name: &str, window: &Window<'_>) -> Pipeline {
        let status = &window.now.answer.status.pipelines[name];
        let then = window.then.and_then(|then| then.answer.status.pipelines.get(name));
        let rate = |of: fn(&answer::Pipeline) -> Option<u64>| grown(of(status), of(then?), window.length());
        let of = [("pipeline", name)];
        let series = &window.now.answer.series;
        let stopped = series
            .sum("messina_dead_letter_stop", &of)
            .is_some_and(|stop| stop > 0.0);
        let (state, trouble) = state(&status.loops, stopped);
        let mut partitions: Vec<_> = status.loops.iter().flat_map(|one| &one.partitions).cloned().collect();
        let behind = |p: &answer::Partition| (p.stalled, p.lag_records.unwrap_or(0));
        partitions.sort_by(|a, b| {
            behind(b)
                .cmp(&behind(a))
                .then_with(|| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)))
        });
        Pipeline {
            name: name.to_owned(),
            state,
            trouble,
            rate: rate(ended),
            taken: rate(|p| p.received),
            published: rate(|p| p.published),
            dead_rate: rate(|p| p.dead_lettered),
            dead_letters: status.dead_lettered,
            lag_records: status.lag_records,
            lag_seconds: partitions.iter().filter_map(|p| p.lag_seconds).reduce(f64::max),
            in_flight: status.loops.iter().map(|one| one.in_flight_records).sum(),
            bound: status.loops.iter().map(|one| one.concurrency_limit).sum(),
            full: status.loops.iter().any(|one| one.full),
            errors: window.rate("messina_failures_total", &of),
            stages: stages(status)
                .map(|(stage, is_step)| window.stage(name, stage, is_step))
                .collect(),
            partitions,
            failures: window.failures(name),
            last_errors: last_errors(&status.loops),
            history: self.rates.get(name).into_iter().flatten().copied().collect(),
        }
    }
}

/// Two answers, between which counters have grown.
struct Window<'a> {
    now: &'a Sample,
    then: Option<&'a Sample>,
}

impl Window<'_> {
    fn length(&self) -> Duration {
        self.then
            .map_or(Duration::ZERO, |then| self.now.at.saturating_sub(then.at))
    }

    fn then(&self) -> Option<&Series> {
        self.then.map(|then| &then.answer.series)
    }

    /// Growth per second of the counters with these labels. A new counter counts from 0.
    fn rate(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let now = self.now.answer.series.sum(name, labels)?;
        let then = self.then()?.sum(name, labels).unwrap_or(0.0);
        per_second(now - then, self.length())
    }

    fn stage(&self, pipeline: &str, name: &str, is_step: bool) -> Stage {
        let both = [("pipeline", pipeline), ("step", name)];
        let of_stage = [("pipeline", pipeline), ("stage", name)];
        let own = format!("messina_{name}_seconds");
        let (family, labels) = match name {
            _ if is_step => ("messina_step_seconds", &both[..]),
            "decode" | "encode" => ("messina_stage_seconds", &of_stage[..]),
            _ => (own.as_str(), &both[..1]),
        };
        let series = &self.now.answer.series;
        let none = [None; 2];
        let [p50, p99] = self
            .then()
            .map_or(none, |then| series.quantiles(then, family, labels, [0.5, 0.99]));
        let step = |family: &str| self.rate(family, &both).filter(|_| is_step);
        let (hits, misses) = (step("messina_cache_hits_total"), step("messina_cache_misses_total"));
        Stage {
            name: name.to_owned(),
            is_step,
            calls: self.rate(&format!("{family}_count"), labels),
            p50,
            p99,
            cache: hits.zip(misses).filter(|(h, m)| h + m > 0.0).map(|(h, m)| h / (h + m)),
            in_flight: series.sum("messina_step_in_flight", &both).filter(|_| is_step),
            errors: step("messina_failures_total"),
        }
    }

    fn failures(&self, pipeline: &str) -> Vec<Failure> {
        let of = [("pipeline", pipeline)];
        let all = self
            .now
            .answer
            .series
            .of("messina_failures_total", &of)
            .filter(|one| one.value > 0.0);
        let mut failures: Vec<Failure> = all
            .map(|one| {
                let [step, class, level] = ["step", "class", "level"].map(|label| one.label(label).to_owned());
                let labels = [
                    ("pipeline", pipeline),
                    ("step", &step),
                    ("class", &class),
                    ("level", &level),
                ];
                let rate = self.rate("messina_failures_total", &labels);
                Failure {
                    total: one.value,
                    rate,
                    step,
                    class,
                    level,
                }
            })
            .collect();
        let weight = |failure: &Failure| (failure.rate.unwrap_or(0.0), failure.total);
        failures.sort_by(|a, b| {
            let (a, b) = (weight(a), weight(b));
            b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1))
        });
        failures
    }
}

/// Growth per second of a counter; `None` if it is unknown or was reset.
fn grown(now: Option<u64>, then: Option<u64>, time: Duration) -> Option<f64> {
    per_second(now?.checked_sub(then?)? as f64, time)
}

fn per_second(growth: f64, time: Duration) -> Option<f64> {
    (growth >= 0.0 && time > Duration::ZERO).then(|| growth / time.as_secs_f64())
}

/// Records that ended: done, skipped or dead-lettered.
fn ended(pipeline: &answer::Pipeline) -> Option<u64> {
    Some(pipeline.done? + pipeline.skipped? + pipeline.dead_lettered?)
}

/// The stages of a pipeline in the order in which a record passes them, and whether each is a step.
fn stages(pipeline: &answer::Pipeline) -> impl Iterator<Item = (&str, bool)> {
    let has = |name: &'static str| pipeline.stages.contains_key(name).then_some((name, false));
    let steps = pipeline
        .stages
        .keys()
        .filter_map(|name| Some((name.strip_prefix("step:")?, true)));
    has("decode")
        .into_iter()
        .chain(steps)
        .chain(["encode", "delivery", "event"].into_iter().filter_map(has))
}

fn last_errors(loops: &[Loop]) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = Vec::new();
    for error in loops.iter().flat_map(|one| one.last_errors.iter().rev()) {
        match found.iter_mut().find(|(said, _)| said == error) {
            Some((_, times)) => *times += 1,
            None => found.push((error.clone(), 1)),
        }
    }
    found
}

#[cfg(test)]
mod tests;
