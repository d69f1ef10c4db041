//! Runs the demo once, from the empty cluster to the report.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use serde_json::{Map, Value};

use super::cluster::Scratch;
use super::cpu::{self, Meter, Spent};
use super::database::{self, Rows};
use super::report::{PipelineReport, Report};
use super::show::{End, Show};
use super::stage::Stage;
use super::streams::Stream;
use crate::app::{Running, StartError};
use crate::config::Diagnostics;
use crate::shutdown::Signals;
use crate::telemetry::metrics::Metrics;

/// Why there is no report. Most failures after the first record are in the report instead.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The embedded Kafka, or a client of it.
    #[error("embedded Kafka")]
    Kafka(#[from] KafkaError),
    /// The database.
    #[error("embedded database")]
    Database(#[from] rusqlite::Error),
    /// The registry.
    #[error("embedded registry: {0}")]
    Registry(String),
    /// A directory, a port or a thread.
    #[error(transparent)]
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

/// Runs the demo with `records` records of all streams together, on a multi-thread Tokio runtime. SIGINT, SIGTERM or SIGHUP ends it early: the
/// records made until then are accounted for, and before the first record there is no report. The second signal ends the process at once.
///
/// # Errors
/// See [`DemoError`].
pub async fn run(records: u64) -> Result<Option<Report>, DemoError> {
    // Before the directory is created, so that no signal leaves it behind.
    let signals = Signals::listen_to_all()?;
    let scratch = Scratch::new()?;
    // Signals have a task of their own, because this one waits for threads, the cluster and the database.
    let mut interrupted = tokio::spawn(signals.requested(scratch.removal()));
    let mut meter = Meter::new();
    let (stage, running, metrics) = tokio::select! {
        biased;
        _ = &mut interrupted => return Ok(None),
        begun = begin(scratch, &mut meter) => begun?,
    };
    let page = page(&running);
    let mut show = Show::begin(&stage, records, running, metrics)?;
    meter.begin();
    let mut problems: Vec<String> = show.watch(interrupted).await.into_iter().collect();
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
    Ok(Some(report))
}

/// Everything that comes before the first record.
async fn begin(scratch: Scratch, meter: &mut Meter) -> Result<(Stage, Running, Arc<Metrics>), DemoError> {
    let stage = Stage::build(scratch, meter).await?;
    let (running, metrics) = stage.start().await?;
    say!("Three pipelines start; the status page is {}/", page(&running));
    if let Err(why) = stage.joined(&running).await {
        running.stop().await;
        return Err(DemoError::NotRunning(why));
    }
    Ok((stage, running, metrics))
}

fn page(running: &Running) -> String {
    format!("http://{}", running.http)
}

/// The figures that Messina itself reports about a pipeline.
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

/// A pipeline's share, by number of records, of the CPU time spent outside of the consumer loops: workers, the store's writer, librdkafka's threads.
fn shared_cpu(spent: &Spent, records: u64, all: u64) -> Duration {
    let shared = spent.messina.saturating_sub(spent.loops.iter().sum());
    shared.mul_f64(records as f64 / all.max(1) as f64)
}
