//! `messina dead-letters replay`: sends records back unchanged to the topics that they came from.
//!
//! Bytes, key, headers and timestamp are the record's own, and so is the partition, so that order by key holds as far as possible. Three safeguards:
//! nothing is sent without `--yes`; `--max` caps a replay; and a header counts how often a record was sent back, which prevents endless loops.

mod choice;
mod summary;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::filter::{Filter, Place, Spot};
use super::reader::{Part, Reader, Record};
use super::returning::{Return, Sender, way_back};
use super::{Context, Target};
use crate::cli::clean::clean;
use crate::cli::trouble::Trouble;
use crate::cli::{answer, runtime};
use crate::shutdown;
use crate::source::bounds::Pace;
use choice::{Choice, Verdict};
use summary::{Left, Summary, told};

/// Send records back.
#[derive(Debug, clap::Args)]
pub struct Replay {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    filter: Filter,
    /// Send the records. Without it, only report what would be sent.
    #[arg(long)]
    yes: bool,
    /// Only the dead letter at this place. May be repeated.
    #[arg(long, value_name = "PARTITION:OFFSET", conflicts_with_all = ["from_offset", "behind"])]
    only: Vec<Place>,
    /// In this partition, only dead letters from this offset on, as a finished replay prints it. May be repeated.
    #[arg(long, value_name = "PARTITION:OFFSET")]
    behind: Vec<Place>,
    /// Send to this topic instead of the one that each record came from.
    #[arg(long, value_name = "TOPIC")]
    to: Option<String>,
    /// Send at most N records.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    max: u64,
    /// Send at most N records per second.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Leave out records that were sent back N times or more.
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_replays: u32,
    /// Resume here, as a replay that was stopped prints it. Earlier dead letters are read but not sent, so that their duplicates are not sent either.
    #[arg(long, value_name = "PARTITION:OFFSET")]
    from_offset: Option<Place>,
    /// Of the topics that are read, resume in this one.
    #[arg(long, value_name = "TOPIC", requires = "from_offset")]
    from_topic: Option<String>,
    /// Print the summary as one JSON object on stdout, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// Parses `100` or `100/s`.
pub(in crate::cli) fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse::<f64>();
    match number {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("write how many a second, above 0: 100, or 100/s".to_owned()),
    }
}

/// How often to check for a signal while a record waits for its turn.
const LOOK: Duration = Duration::from_millis(100);
/// Where every topic begins.
const BEGINNING: Place = Place {
    partition: 0,
    offset: 0,
};

impl Replay {
    /// The first place from which records may be sent, among all that are read.
    fn begin(&self, context: &Context) -> Result<Spot, Trouble> {
        let on = self.from_offset.filter(|_| self.from_topic.is_none());
        if on.is_some() || !self.only.is_empty() || !self.behind.is_empty() {
            context.only_topic()?;
        }
        let topic = match &self.from_topic {
            None => 0,
            Some(from) => context.topics.iter().position(|topic| topic == from).ok_or_else(|| {
                let topics = context.topics.join(", ");
                Trouble::Usage(format!(
                    "--from-topic {from}: it is not one of the topics that are read: {topics}"
                ))
            })?,
        };
        let place = self.from_offset.unwrap_or(BEGINNING);
        Ok(Spot { topic, place })
    }
}

/// Sends the records back, or reports what would be sent.
pub fn run(args: &Replay) -> anyhow::Result<ExitCode> {
    let context = args.target.resolve()?;
    let from = args.begin(&context)?;
    if let Some(to) = args.to.as_ref().filter(|to| context.topics.contains(to)) {
        return Err(Trouble::Usage(format!("`{to}` is the topic that is read: choose another for --to")).into());
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    let runtime = listen(interrupted.clone())?;
    let reader = Reader::new(&context)?;
    let mut sender = Sender::new(&context)?;
    let mut summary = Summary::default();
    let went = go(args, from, &context, &reader, &mut sender, &interrupted, &mut summary);
    // Records on their way may still arrive, whatever ended the reading.
    let finished = sender.finish();
    let (sent, pending) = sender.standing();
    runtime.shutdown_background();
    let left = Left::new(&args.only, pending, summary.next);
    let said = answer(&told(args, &context.topics, &summary, sent, &left));
    // Report first why the replay ended: a failure to write the summary must not hide it.
    went?;
    finished?;
    said?;
    Ok(if summary.interrupted {
        ExitCode::from(130)
    } else {
        ExitCode::SUCCESS
    })
}

fn listen(interrupted: Arc<AtomicBool>) -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = runtime(Some(1))?;
    runtime.spawn(async move {
        if shutdown::requested().await.is_ok() {
            interrupted.store(true, Ordering::Relaxed);
        }
    });
    Ok(runtime)
}

fn go(
    args: &Replay,
    from: Spot,
    context: &Context,
    reader: &Reader,
    sender: &mut Sender,
    interrupted: &AtomicBool,
    summary: &mut Summary,
) -> anyhow::Result<()> {
    let mut choice = Choice::new(args, context.pipeline.as_deref());
    let mut pace = args.rate.map(|rate| Pace::new(rate, Instant::now()));
    let out = &mut io::stdout().lock();
    summary.next = Some(from);
    for (topic, part) in reader.parts_of_all(&context.topics, args.filter.since)? {
        let Some(part) = left_of(part, args) else { continue };
        let at = |offset| Spot {
            topic,
            place: Place {
                partition: part.partition,
                offset,
            },
        };
        let mut end = at(part.from);
        summary.next = Some(end.max(from));
        let read = reader.read(&part, &mut |record| {
            let spot = at(record.place.offset);
            summary.next = Some(spot.max(from));
            end = spot.behind();
            if interrupted.load(Ordering::Relaxed) {
                summary.interrupted = true;
                return Ok(ControlFlow::Break(()));
            }
            let verdict = choice.judge(&record);
            if spot < from {
                // It was sent back before, so a later copy of the same record is not sent. Records that have arrived here since then cannot be told
                // apart from it.
                summary.before += u64::from(verdict == Verdict::Send);
                return Ok(ControlFlow::Continue(()));
            }
            let (Verdict::Send, Some(letter)) = (verdict, &record.letter) else {
                summary.count(verdict);
                return Ok(ControlFlow::Continue(()));
            };
            if summary.chosen == args.max {
                return Ok(ControlFlow::Break(()));
            }
            let back = way_back(letter, args.to.as_deref());
            if args.yes && !wait_for_turn(pace.as_mut(), interrupted) {
                summary.interrupted = true;
                return Ok(ControlFlow::Break(()));
            }
            summary.count(verdict);
            if args.yes {
                sender.send(spot, &record, &back)?;
                summary.next = Some(spot.behind());
            } else {
                sender.partitions(spot, back.topic)?;
                if !args.json {
                    writeln!(out, "{}", clean(&in_words(&part.topic, &record, &back)))?;
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if read.is_break() {
            return Ok(());
        }
        summary.ends.insert(end);
    }
    summary.next = None;
    Ok(())
}

/// Describes what would be sent, and why it was a dead letter.
fn in_words(topic: &str, record: &Record, back: &Return<'_>) -> String {
    let partition = back.partition.map_or_else(String::new, |p| format!("/{p}"));
    let bytes = record.value.as_ref().map_or(0, Vec::len);
    format!(
        "{} of {topic}: {bytes} bytes to {}{partition}; {}: {}",
        record.place,
        back.topic,
        back.letter.reason,
        back.letter.told()
    )
}

/// The part that `--behind` leaves, or that contains the places of `--only`; `None` if it contains none of them.
fn left_of(mut part: Part, args: &Replay) -> Option<Part> {
    let behind = args.behind.iter().filter(|place| place.partition == part.partition);
    let first = behind.map(|place| place.offset).max();
    part.from = part.from.max(first.unwrap_or(0));
    if !args.only.is_empty() {
        let offsets = args
            .only
            .iter()
            .filter(|place| place.partition == part.partition)
            .map(|place| place.offset);
        let (first, last) = (offsets.clone().min()?, offsets.max()?);
        part.from = part.from.max(first);
        part.to = part.to.min(last.saturating_add(1));
    }
    Some(part)
}

/// Waits until the next record is due. Returns false if a signal came first.
fn wait_for_turn(pace: Option<&mut Pace>, interrupted: &AtomicBool) -> bool {
    let Some(pace) = pace else { return true };
    while let Err(rest) = pace.take(Instant::now()) {
        if interrupted.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(rest.min(LOOK));
    }
    true
}
