//! One run of the demo, from the empty cluster to the report.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use serde_json::{Map, Value};

use super::cpu::{self, Meter, Part, Spent};
use super::database::{self, Rows};
use super::display::Display;
use super::flow::{Flow, Stop};
use super::report::{PipelineReport, Report};
use super::stage::Stage;
use super::streams::Stream;
use super::verifier::Seen;
use super::{generator, verifier};
use crate::app::{Running, StartError};
use crate::config::Diagnostics;
use crate::telemetry::metrics::Metrics;

/// How many of a hundred records are of each stream, in the order of the streams.
const SHARES: [u64; 3] = [60, 15, 25];
/// How long nothing may happen before the run is given up.
const STANDSTILL: Duration = Duration::from_secs(60);
/// Between two looks at how far the streams are.
const LOOK: Duration = Duration::from_millis(20);

/// Why there is no report. What goes wrong once records are on their way is in the report.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The embedded Kafka, or a client of it.
    #[error("embedded Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// The database.
    #[error("embedded database: {0}")]
    Database(#[from] rusqlite::Error),
    /// The registry.
    #[error("embedded registry: {0}")]
    Registry(String),
    /// A directory, a port or a thread.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// The demo's own configuration.
    #[error("the demo's configuration:\n{}", .0.human(false))]
    Config(Diagnostics),
    /// Messina.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The consumer groups did not form, or a loop ended before the first record.
    #[error("the pipelines do not run: {0}")]
    NotRunning(String),
}

/// Runs the demo with `records` records of all streams together, on a multi-thread Tokio runtime. An interrupt (SIGINT) ends
/// it early: what was made until then is accounted for.
///
/// # Errors
/// See [`DemoError`].
pub async fn run(records: u64) -> Result<Report, DemoError> {
    let mut meter = Meter::new();
    let stage = Stage::build(&mut meter).await?;
    let (running, metrics) = stage.start().await?;
    let page = format!("http://{}", running.http);
    eprintln!("Three pipelines start; the status page is {page}/");
    if let Err(why) = stage.joined(&running).await {
        running.stop().await;
        return Err(DemoError::NotRunning(why));
    }
    let mut show = Show::begin(&stage, records, running, metrics)?;
    meter.begin();
    let mut problems: Vec<String> = show.watch().await.into_iter().collect();
    let time = show.time();
    let (spent, status) = (show.spent(&meter), show.running.status());
    let (seen, ends, metrics) = show.end(&mut problems).await;

    let mut pipelines = Vec::new();
    for (number, stream) in stage.streams.iter().enumerate() {
        let end = &ends[number];
        let mut pipeline = figures(stream, end, &metrics, &status);
        pipeline.cpu = spent.loops[number] + shared_cpu(&spent, end.made, ends.iter().map(|e| e.made).sum());
        match seen.get(number) {
            Some(seen) => {
                let rows = database::verify(&stage.database(), stream, end.made)?;
                pipeline.account(stream, seen, rows);
                problems.extend(seen.examples.iter().cloned());
            }
            None => pipeline.lost = end.made,
        }
        pipeline.uncommitted = stage.uncommitted(number)?;
        pipelines.push(pipeline);
    }
    stage.close().await;
    let mut report = Report {
        time,
        pipelines,
        spent,
        peak_memory: cpu::peak_memory(),
        page,
        problems,
    };
    report.judge();
    Ok(report)
}

/// How far a stream came.
struct End {
    made: u64,
    time: Duration,
}

/// What Messina says of a pipeline.
fn figures(stream: &Stream, end: &End, metrics: &Metrics, status: &Value) -> PipelineReport {
    let name = stream.job.name();
    let count = |outcome| metrics.records_total.of([name, outcome]).get();
    let stages = status["pipelines"][name]["stages"].as_object();
    PipelineReport {
        name: name.to_owned(),
        made: end.made,
        consumed: metrics.received_total.of([name]).get(),
        skipped: count("skipped"),
        rows_written: stream
            .job
            .write_steps()
            .iter()
            .map(|step| metrics.rows_written_total.of([name, step]).get())
            .sum(),
        rows: Rows::default(),
        time: end.time,
        stages: stages
            .into_iter()
            .flatten()
            .filter_map(|(stage, figures)| Some((stage.clone(), quantiles(figures)?)))
            .collect(),
        ..PipelineReport::default()
    }
}

/// `p50_us` and `p99_us` of a stage that has run.
fn quantiles(figures: &Value) -> Option<Value> {
    let figure = |name: &str| {
        figures
            .get(name)
            .filter(|value| value.is_number())
            .map(|value| (name.to_owned(), value.clone()))
    };
    let all: Map<String, Value> = [figure("p50_us")?, figure("p99_us")?].into_iter().collect();
    Some(Value::Object(all))
}

/// A pipeline's share, by records, of what no consumer loop spent: workers, the store's writer, librdkafka's threads.
fn shared_cpu(spent: &Spent, records: u64, all: u64) -> Duration {
    let shared = spent.messina.saturating_sub(spent.loops.iter().sum());
    shared.mul_f64(records as f64 / all.max(1) as f64)
}

/// How many of `records` each stream gets.
fn shares(records: u64) -> [u64; 3] {
    let [_, orders, reactions] = SHARES.map(|share| records * share / 100);
    [records - orders - reactions, orders, reactions]
}

/// Records on their way: the application, the generator, the verifier and the display.
struct Show {
    running: Running,
    metrics: Arc<Metrics>,
    names: Vec<&'static str>,
    flows: Arc<[Arc<Flow>]>,
    ends: Vec<Option<Duration>>,
    display: Display,
    began: Instant,
    stop_generator: Arc<Stop>,
    stop_verifier: Arc<Stop>,
    generating: JoinHandle<Result<(), String>>,
    verifying: JoinHandle<Result<Vec<Seen>, String>>,
}

impl Show {
    fn begin(stage: &Stage, records: u64, running: Running, metrics: Arc<Metrics>) -> Result<Show, DemoError> {
        let names: Vec<&str> = stage.streams.iter().map(|stream| stream.job.name()).collect();
        let planned = stage.streams.iter().zip(shares(records));
        let flows: Arc<[Arc<Flow>]> = planned
            .map(|(stream, planned)| Flow::new(planned, stream.job.largest(), stream.job.name(), &metrics))
            .collect();
        let (stop_generator, stop_verifier) = (Arc::<Stop>::default(), Arc::<Stop>::default());
        let verifying = {
            let (consumer, streams, topics) = (stage.consumer.clone(), stage.streams.clone(), stage.topics.clone());
            let (flows, stop) = (flows.clone(), stop_verifier.clone());
            thread(verifier::THREAD, move || {
                verifier::run(&consumer, &streams, &topics, &flows, &stop)
            })?
        };
        let generating = {
            let (producer, streams) = (stage.producer.clone(), stage.streams.clone());
            let (flows, stop) = (flows.clone(), stop_generator.clone());
            thread(generator::THREAD, move || {
                generator::run(&producer, &streams, &flows, &stop)
            })?
        };
        let rows = names
            .iter()
            .zip(flows.iter())
            .map(|(name, flow)| ((*name).to_owned(), flow.clone()));
        Ok(Show {
            display: Display::new(rows, metrics.clone()),
            ends: vec![None; names.len()],
            running,
            metrics,
            names,
            flows,
            began: Instant::now(),
            stop_generator,
            stop_verifier,
            generating,
            verifying,
        })
    }

    /// Waits until the end of every record is known; what went wrong otherwise.
    async fn watch(&mut self) -> Option<String> {
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let mut listening = true;
        let (mut before, mut moved) = (0, Instant::now());
        loop {
            tokio::select! {
                // Without signals there is no interrupt, and nothing else is amiss.
                signal = &mut interrupted, if listening => {
                    listening = false;
                    if signal.is_ok() {
                        self.stop_generator.interrupt();
                    }
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = Instant::now();
            self.display.tick(now);
            for (end, flow) in self.ends.iter_mut().zip(self.flows.iter()) {
                let made_all = flow.made() == flow.planned || self.stop_generator.is_interrupted();
                if end.is_none() && made_all && flow.settled() >= flow.made() {
                    *end = Some(now - self.began);
                }
            }
            if self.ends.iter().all(Option::is_some) {
                self.display.draw(now);
                return None;
            }
            for name in &self.names {
                for state in self.running.loops(name) {
                    if let Some(why) = state.get().halted {
                        return Some(format!("{name} has halted: {why}"));
                    }
                }
            }
            if self.generating.is_finished() || self.verifying.is_finished() {
                return Some("the run was broken off".to_owned());
            }
            let all = self.flows.iter().map(|flow| flow.made() + flow.settled()).sum::<u64>();
            if all != before {
                (before, moved) = (all, now);
            } else if now - moved > STANDSTILL {
                return Some(format!("nothing has happened for {} s", STANDSTILL.as_secs()));
            }
        }
    }

    /// From the first record to the last one settled.
    fn time(&self) -> Duration {
        let end = |end: &Option<Duration>| end.unwrap_or_else(|| self.began.elapsed());
        self.ends.iter().map(end).max().unwrap_or_default()
    }

    fn spent(&self, meter: &Meter) -> Spent {
        let named = [(generator::THREAD, Part::Generator), (verifier::THREAD, Part::Verifier)];
        let loops: Vec<String> = self.names.iter().map(|name| format!("loop-{name}-")).collect();
        meter.spent(&named, &loops)
    }

    /// Ends everything in its order: generator, Messina, verifier.
    async fn end(self, problems: &mut Vec<String>) -> (Vec<Seen>, Vec<End>, Arc<Metrics>) {
        let time = self.time();
        self.stop_generator.stop();
        match self.generating.join() {
            Ok(result) => problems.extend(result.err()),
            Err(_) => problems.push("the generator panicked".to_owned()),
        }
        let summary = self.running.stop().await;
        if !summary.is_clean() {
            problems.push(format!("the pipelines did not stop cleanly: {:?}", summary.pipelines));
        }
        self.stop_verifier.stop();
        let seen = self
            .verifying
            .join()
            .unwrap_or_else(|_| Err("the verifier panicked".to_owned()));
        let end = |(flow, end): (&Arc<Flow>, &Option<Duration>)| End {
            made: flow.made(),
            time: end.unwrap_or(time),
        };
        let ends = self.flows.iter().zip(&self.ends).map(end).collect();
        let seen = seen.unwrap_or_else(|error| {
            problems.push(error);
            Vec::new()
        });
        (seen, ends, self.metrics)
    }
}

fn thread<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_in_a_share() {
        for records in [0, 1, 2, 3, 99, 100, 200_000, 1_000_003] {
            assert_eq!(shares(records).iter().sum::<u64>(), records);
        }
        assert_eq!(shares(200_000), [120_000, 30_000, 50_000]);
    }
}
