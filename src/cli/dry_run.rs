//! `messina run --dry-run`: shows what a pipeline would do with the next records of its topics.
//!
//! Partitions are assigned without a group. Nothing is committed, written, registered or published. Values are shown, because whoever runs it may read
//! the topic.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use super::clean::plain;
use super::time::{self, Moment};
use super::trouble::Trouble;
use super::{ConfigFiles, runtime};
use crate::app::dry_run::{Effects, Incoming, Rehearsal, room_for_copy};
use crate::config::{Config, LogFormat, Pipeline};
use crate::custom::CustomSteps;
use crate::demo::cluster::Scratch;
use crate::kafka::{self, range};
use crate::pipeline::story;
use crate::shutdown::Signals;
use crate::sink::letter::{Back, record_timestamp};
use crate::telemetry::logging;

/// How many records may be read ahead of the one in process.
const AHEAD: usize = 16;

/// Options of `--dry-run`.
#[derive(Debug, clap::Args)]
pub struct DryRun {
    /// Show what would happen to the next records, values included, without writing, publishing, committing or joining a group.
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    /// The pipeline. Optional if there is only one.
    #[arg(long, value_name = "NAME", requires = "dry_run")]
    pipeline: Option<String>,
    /// Number of records.
    #[arg(long, value_name = "N", default_value_t = 10, requires = "dry_run", value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Start at the first record of this time or later: 2026-11-24T10:00:00Z, or 2h for two hours ago. Default: records that arrive from now on.
    #[arg(long, value_name = "TIME", requires = "dry_run", value_parser = time::parse)]
    since: Option<Moment>,
    /// Print one JSON object per record, with the whole output.
    #[arg(long, requires = "dry_run")]
    json: bool,
}

impl DryRun {
    /// Whether a dry run is requested.
    pub fn is_wanted(&self) -> bool {
        self.dry_run
    }
}

/// Shows what would happen to the next records.
pub fn run(args: &DryRun, files: &ConfigFiles, customs: &CustomSteps) -> anyhow::Result<ExitCode> {
    let (config, sources) = files.taken(&[])?;
    logging::init("error", LogFormat::Auto, None, None)?;
    let runtime = runtime(Some(2))?;
    let code = runtime.block_on(async {
        let pipeline = chosen(&config, args.pipeline.as_deref())?.clone();
        // Listen before the directory is created: then neither the first nor a second signal leaves a copy of the database behind.
        let signals = Signals::listen_to_all().context("cannot listen to signals")?;
        let room = room_for_copy(&config).map_err(|e| Trouble::unavailable("cannot copy the database", &e))?;
        let removal = room.as_ref().map(Scratch::removal);
        let last = move || {
            if let Some(remove) = removal {
                remove();
            }
        };
        let mut signal = std::pin::pin!(signals.requested(last));
        let opened = tokio::select! {
            biased;
            _ = &mut signal => {
                say!("stopped before the first record");
                return Ok(ExitCode::SUCCESS);
            }
            opened = Rehearsal::open(config.clone(), &sources, &pipeline, customs, room) => opened,
        };
        let rehearsal = opened.map_err(Trouble::not_started)?;
        rehearse(args, &config, &pipeline, rehearsal, signal).await
    });
    // The reader may wait for a record that never comes.
    runtime.shutdown_background();
    code
}

/// The pipeline that the arguments mean.
pub(super) fn chosen<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c Pipeline, Trouble> {
    match (name, config.pipelines.len()) {
        (Some(name), _) => config.pipelines.get(name).ok_or_else(|| {
            Trouble::Usage(format!(
                "there is no pipeline `{name}`: there are {}",
                config.pipeline_names()
            ))
        }),
        (None, 1) => config
            .pipelines
            .values()
            .next()
            .ok_or_else(|| Trouble::Usage("there is no pipeline".to_owned())),
        (None, _) => Err(Trouble::Usage(format!(
            "say which pipeline, --pipeline NAME: {}",
            config.pipeline_names()
        ))),
    }
}

async fn rehearse(
    args: &DryRun,
    config: &Config,
    pipeline: &Pipeline,
    mut rehearsal: Rehearsal,
    mut signal: impl Future<Output = &'static str> + Unpin,
) -> anyhow::Result<ExitCode> {
    let consumer = consumer(config, pipeline)?;
    let topics: Vec<String> = pipeline.source.topics.iter().map(|topic| topic.value.clone()).collect();
    let since = args.since.map(|since| since.0);
    let (sender, mut records) = mpsc::channel(AHEAD);
    let topics_read = topics.clone();
    tokio::task::spawn_blocking(move || read(&consumer, &topics_read, since, &sender));
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    say!(
        "waiting for {} records of {}; Ctrl-C ends",
        args.records,
        topics.join(", ")
    );
    while counts.values().sum::<u64>() < args.records {
        let record: Incoming = tokio::select! {
            _ = &mut signal => break,
            record = records.recv() => match record {
                Some(record) => record.map_err(Trouble::Unavailable)?,
                None => break,
            }
        };
        let effects = tokio::select! {
            _ = &mut signal => break,
            effects = rehearsal.run(&record) => effects,
        };
        *counts.entry(effects.outcome).or_default() += 1;
        let text = if args.json {
            format!("{}\n", in_json(&record, &effects, pipeline))
        } else {
            plain(&in_words(&record, &effects, pipeline))
        };
        io::stdout().lock().write_all(text.as_bytes())?;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(outcome, count)| format!("{count} {outcome}"))
        .collect();
    let counts = if counts.is_empty() {
        "no record".to_owned()
    } else {
        counts.join(", ")
    };
    say!("{counts}; nothing was written, published or committed");
    Ok(ExitCode::SUCCESS)
}

fn consumer(config: &Config, pipeline: &Pipeline) -> anyhow::Result<BaseConsumer> {
    let group = format!("messina-dry-run-{}", std::process::id());
    let made = kafka::reader(&config.kafka, &pipeline.source.properties, &group)?.create();
    made.map_err(|e| Trouble::unavailable("cannot make a consumer", &e))
}

/// Sends records until the receiver is gone.
fn read(consumer: &BaseConsumer, topics: &[String], since: Option<i64>, to: &mpsc::Sender<Result<Incoming, String>>) {
    if let Err(error) = try_to_read(consumer, topics, since, to) {
        // If the receiver is gone, nobody needs the error.
        let _ = to.blocking_send(Err(error));
    }
}

fn try_to_read(
    consumer: &BaseConsumer,
    topics: &[String],
    since: Option<i64>,
    to: &mpsc::Sender<Result<Incoming, String>>,
) -> Result<(), String> {
    let in_words = |e: KafkaError| format!("Kafka: {e}");
    let mut list = TopicPartitionList::new();
    for topic in topics {
        for part in range::parts(consumer, topic, since, None)? {
            let from = if since.is_some() { part.from } else { part.to };
            list.add_partition_offset(topic, part.partition, Offset::Offset(from))
                .map_err(in_words)?;
        }
    }
    consumer.assign(&list).map_err(in_words)?;
    while !to.is_closed() {
        match consumer.poll(Duration::from_millis(100)) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(in_words(error)),
            // A broker that went away may come back.
            Some(Err(error)) => say!("warning: Kafka: {error}"),
            Some(Ok(message)) => {
                // A dry run writes no row, so it does not matter which pipeline's write timestamp the header contains.
                let back = message.headers().and_then(|headers| Back::of(headers, ""));
                let record = Incoming {
                    topic: message.topic().to_owned(),
                    partition: message.partition(),
                    offset: message.offset(),
                    timestamp_ms: record_timestamp(message.timestamp(), back),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                };
                if to.blocking_send(Ok(record)).is_err() {
                    break;
                }
            }
        }
    }
    Ok(())
}

fn key_text(key: Option<&[u8]>) -> Option<String> {
    key.map(story::key_text)
}

fn in_json(record: &Incoming, effects: &Effects, pipeline: &Pipeline) -> Json {
    let lookups: serde_json::Map<String, Json> = effects.lookups.iter().cloned().collect();
    let writes = effects.writes.iter();
    let writes: Vec<Json> = writes
        .map(|write| json!({"step": write.step, "statement": write.statement, "values": write.values}))
        .collect();
    let published = effects.published.as_ref();
    let published =
        published.map(|out| json!({"topic": out.topic, "key": key_text(out.key.as_deref()), "value": out.value}));
    let failure = effects.failure.as_ref().map(|failure| {
        json!({
            "topic": pipeline.dead_letter.as_ref().map(|letters| &letters.topic.value), "step": failure.step.as_deref(),
            "class": failure.class.as_str(), "reason": failure.reason, "message": failure.message,
        })
    });
    json!({
        "topic": record.topic, "partition": record.partition, "offset": record.offset,
        "time": record.timestamp_ms.map(|ms| Moment(ms).text()), "key": key_text(record.key.as_deref()),
        "outcome": effects.outcome, "lookups": lookups, "writes": writes, "publish": published, "failure": failure,
        "seconds": effects.took.as_secs_f64(),
    })
}

fn in_words(record: &Incoming, effects: &Effects, pipeline: &Pipeline) -> String {
    let fields = |json: &Json, names: Option<&[String]>| -> String {
        let Json::Object(object) = json else {
            return json.to_string();
        };
        let named = object
            .iter()
            .filter(|(name, _)| names.is_none_or(|names| names.contains(name)));
        named
            .map(|(name, value)| format!("{name} = {value}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut out = format!("{} {}:{}", record.topic, record.partition, record.offset);
    if let Some(key) = key_text(record.key.as_deref()) {
        out.push_str(&format!("  key {key}"));
    }
    if let Some(ms) = record.timestamp_ms {
        out.push_str(&format!("  {}", Moment(ms).text()));
    }
    out.push_str(&format!(
        "  {} in {:.1} ms\n",
        effects.outcome,
        effects.took.as_secs_f64() * 1e3
    ));
    for (step, found) in &effects.lookups {
        let found = if found.is_null() {
            "no row".to_owned()
        } else {
            fields(found, None)
        };
        out.push_str(&format!("  look up  {step}: {found}\n"));
    }
    for write in &effects.writes {
        out.push_str(&format!(
            "  write    {}: {}\n",
            write.step,
            fields(&Json::Object(write.values.clone()), None)
        ));
    }
    if let Some(published) = &effects.published {
        let key = key_text(published.key.as_deref())
            .map(|key| format!(", key {key}"))
            .unwrap_or_default();
        let set = fields(&published.value, Some(&published.set));
        out.push_str(&format!("  publish  {}{key}: {set}\n", published.topic));
    }
    if let Some(failure) = &effects.failure {
        let to = pipeline
            .dead_letter
            .as_ref()
            .map_or("no dead-letter topic", |letters| &letters.topic.value);
        out.push_str(&format!("  failure  {to}: {failure}\n"));
    }
    if effects.outcome == "waiting" {
        out.push_str("  it waits for what it needs, and would be retried\n");
    }
    out
}
