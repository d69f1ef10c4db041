//! `messina dead-letters replay`: sends records back to where they came from, as they were.
//!
//! Bytes, key, headers and timestamp are the record's own, and so is the partition, so that order by key holds as far as it can. Three
//! things keep a replay from doing harm: without `--yes` nothing is sent; `--max` caps it; and a header counts how often a record was
//! sent back, so that one that cannot succeed does not go round for ever.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::filter::{Filter, Place, Spot};
use super::reader::{Part, Reader, Record};
use super::returning::{Sender, way_back};
use super::{Context, Target};
use crate::cli::answer;
use crate::cli::clean::clean;
use crate::cli::time::Moment;
use crate::cli::trouble::Trouble;
use crate::shutdown;
use crate::source::bounds::Pace;

/// Sends records back.
#[derive(Debug, clap::Args)]
pub struct Replay {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    filter: Filter,
    /// Send them. Without it, only what would be sent is said.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Send nothing, and say what would be sent: the default.
    #[arg(long)]
    dry_run: bool,
    /// Only the dead letter at this place; may be repeated.
    #[arg(long, value_name = "PARTITION:OFFSET", conflicts_with = "from_offset")]
    only: Vec<Place>,
    /// Send them to this topic, instead of the one that each came from.
    #[arg(long, value_name = "TOPIC")]
    to: Option<String>,
    /// So many at most.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    max: u64,
    /// So many a second at most.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Leave out what was sent back so often already.
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_replays: u32,
    /// Go on from here: what a replay that was stopped names at its end.
    #[arg(long, value_name = "PARTITION:OFFSET")]
    from_offset: Option<Place>,
    /// The summary as one JSON object on stdout, and nothing else there.
    #[arg(long)]
    json: bool,
}

/// `100` or `100/s`.
pub(in crate::cli) fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse::<f64>();
    match number {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("write how many a second, above 0: 100, or 100/s".to_owned()),
    }
}

/// Between two looks for a signal while a record waits for its turn.
const LOOK: Duration = Duration::from_millis(100);
/// Where a topic begins at the earliest.
const BEGINNING: Place = Place {
    partition: 0,
    offset: 0,
};

/// What becomes of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Send,
    /// Not asked for.
    Other,
    /// Sent back too often already.
    Guarded,
    /// The same record as one before it: a dead letter that a crash repeated.
    Repeated,
    /// Not one of Messina's: where it came from is unknown.
    Foreign,
}

/// What came of a replay.
#[derive(Debug, Default)]
struct Summary {
    /// When it began to read: what fails again is younger.
    began: Option<Moment>,
    read: u64,
    /// Chosen to be sent.
    chosen: u64,
    guarded: u64,
    repeated: u64,
    foreign: u64,
    /// The first that was not looked at, where the cap, a signal or an error came first.
    next: Option<Spot>,
    interrupted: bool,
}

struct Choice<'a> {
    args: &'a Replay,
    pipeline: Option<&'a str>,
    /// Origins of what was chosen: as many as `--max` at most.
    origins: HashSet<(String, i32, i64)>,
}

impl Choice<'_> {
    fn judge(&mut self, record: &Record) -> Verdict {
        let asked = self.args.only.is_empty() || self.args.only.contains(&record.place);
        if !asked
            || !self
                .args
                .filter
                .takes(self.pipeline, record.letter.as_ref(), record.time)
        {
            return Verdict::Other;
        }
        let Some(letter) = &record.letter else {
            return Verdict::Foreign;
        };
        if letter.replays >= self.args.max_replays {
            return Verdict::Guarded;
        }
        if !self
            .origins
            .insert((letter.topic.clone(), letter.partition, letter.offset))
        {
            return Verdict::Repeated;
        }
        Verdict::Send
    }
}

/// Sends them back, or says what would be.
pub fn run(args: &Replay) -> anyhow::Result<ExitCode> {
    let context = match args.target.resolve()? {
        Ok(context) => context,
        Err(code) => return Ok(code),
    };
    if args.from_offset.is_some() || !args.only.is_empty() {
        context.only_topic()?;
    }
    if let Some(to) = args.to.as_ref().filter(|to| context.topics.contains(to)) {
        return Err(Trouble::Usage(format!("`{to}` is the topic that is read: choose another for --to")).into());
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    let runtime = listen(interrupted.clone())?;
    let reader = Reader::new(&context)?;
    let mut sender = Sender::new(&context)?;
    let mut summary = Summary {
        began: Some(Moment::now()),
        ..Summary::default()
    };
    let went = go(args, &context, &reader, &mut sender, &interrupted, &mut summary);
    // What is under way may arrive, whatever ended the reading.
    let finished = sender.finish();
    let (sent, pending) = sender.standing();
    runtime.shutdown_background();
    let left = Left::new(&args.only, pending, summary.next);
    let said = answer(&told(args, &context.topics, &summary, sent, &left));
    // Why it ended comes first: that its words cannot be written hides nothing.
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.spawn(async move {
        if shutdown::requested().await.is_ok() {
            interrupted.store(true, Ordering::Relaxed);
        }
    });
    Ok(runtime)
}

fn go(
    args: &Replay,
    context: &Context,
    reader: &Reader,
    sender: &mut Sender,
    interrupted: &AtomicBool,
    summary: &mut Summary,
) -> anyhow::Result<()> {
    let mut choice = Choice {
        args,
        pipeline: context.pipeline.as_deref(),
        origins: HashSet::new(),
    };
    let mut pace = args.rate.map(|rate| Pace::new(rate, Instant::now()));
    let out = &mut io::stdout().lock();
    for (number, topic) in context.topics.iter().enumerate() {
        let at = |place| Some(Spot { topic: number, place });
        summary.next = at(args.from_offset.unwrap_or(BEGINNING));
        for part in reader.parts(topic, args.filter.since)? {
            let Some(part) = left_of(part, args) else { continue };
            summary.next = at(Place {
                partition: part.partition,
                offset: part.from,
            });
            let read = reader.read(&part, &mut |record| {
                let spot = Spot {
                    topic: number,
                    place: record.place,
                };
                summary.next = Some(spot);
                if interrupted.load(Ordering::Relaxed) {
                    summary.interrupted = true;
                    return Ok(ControlFlow::Break(()));
                }
                let verdict = choice.judge(&record);
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
                    summary.next = at(behind(spot.place));
                } else {
                    sender.partitions(spot, back.topic)?;
                    if !args.json {
                        let partition = back.partition.map_or_else(String::new, |p| format!("/{p}"));
                        let bytes = record.value.as_ref().map_or(0, Vec::len);
                        let line = format!(
                            "{} of {topic}: {bytes} bytes to {}{partition}; {}: {}",
                            record.place, back.topic, letter.reason, letter.message
                        );
                        writeln!(out, "{}", clean(&line))?;
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
            if read.is_break() {
                return Ok(());
            }
        }
    }
    summary.next = None;
    Ok(())
}

/// The place behind one.
fn behind(place: Place) -> Place {
    Place {
        offset: place.offset.saturating_add(1),
        ..place
    }
}

/// The part that is left of it behind `--from-offset`, or that holds what `--only` names; none if nothing is.
fn left_of(mut part: Part, args: &Replay) -> Option<Part> {
    if let Some(from) = args.from_offset {
        if part.partition < from.partition {
            return None;
        }
        if part.partition == from.partition {
            part.from = part.from.max(from.offset);
        }
    }
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

/// Waits until another record is due; false if a signal came first.
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

impl Summary {
    fn count(&mut self, verdict: Verdict) {
        self.read += 1;
        match verdict {
            Verdict::Send => self.chosen += 1,
            Verdict::Other => {}
            Verdict::Guarded => self.guarded += 1,
            Verdict::Repeated => self.repeated += 1,
            Verdict::Foreign => self.foreign += 1,
        }
    }
}

/// What a replay leaves that ends early.
#[derive(Debug)]
struct Left {
    /// The place to go on from: all before it have arrived.
    next: Option<Spot>,
    /// Of the places that `--only` names, those that have not arrived and those that were not looked at.
    only: BTreeSet<Place>,
}

impl Left {
    /// `pending` have not arrived; `unread` is the first that was not looked at.
    fn new(only: &[Place], pending: BTreeSet<Spot>, unread: Option<Spot>) -> Left {
        let next = pending.first().copied().or(unread);
        // It reads one topic.
        let pending: BTreeSet<Place> = pending.into_iter().map(|spot| spot.place).collect();
        let is_left = |place: &Place| pending.contains(place) || unread.is_some_and(|unread| *place >= unread.place);
        let only = only.iter().copied().filter(is_left).collect();
        Left { next, only }
    }
}

/// The topics that are read behind a spot's own.
fn topics_behind(topics: &[String], spot: Spot) -> &[String] {
    topics.get(spot.topic + 1..).unwrap_or_default()
}

fn in_json(args: &Replay, topics: &[String], summary: &Summary, sent: u64, left: &Left) -> serde_json::Value {
    let next = left.next;
    json!({
        "dry_run": !args.yes, "began": summary.began.map(Moment::text), "read": summary.read, "chosen": summary.chosen, "sent": sent, "guarded": summary.guarded,
        "repeated": summary.repeated, "foreign": summary.foreign, "next": next.map(|spot| spot.place.to_string()),
        "next_topic": next.and_then(|spot| topics.get(spot.topic)),
        "topics_left": next.map(|spot| topics_behind(topics, spot)).unwrap_or_default(),
        "only_left": left.only.iter().map(Place::to_string).collect::<Vec<_>>(),
    })
}

fn how_to_go_on(args: &Replay, topics: &[String], next: Spot, only: &BTreeSet<Place>) -> String {
    let place = next.place;
    if !args.only.is_empty() {
        if only.is_empty() {
            return String::new();
        }
        let only: String = only.iter().map(|place| format!(" --only {place}")).collect();
        return format!("stopped before {place}: go on with{only}\n");
    }
    let topic = match topics.get(next.topic) {
        Some(topic) if topics.len() > 1 => topic,
        _ => return format!("stopped before {place}: go on with --from-offset {place}\n"),
    };
    let mut text = format!("stopped before {place} of {topic}: go on with --topic {topic} --from-offset {place}\n");
    let behind = topics_behind(topics, next);
    if !behind.is_empty() {
        text.push_str(&format!(
            "and then with --topic for each that comes behind it: {}\n",
            behind.join(", ")
        ));
    }
    text
}

/// What is said at the end.
fn told(args: &Replay, topics: &[String], summary: &Summary, sent: u64, left: &Left) -> String {
    if args.json {
        return format!("{}\n", in_json(args, topics, summary, sent, left));
    }
    let mut text = if args.yes {
        format!("{sent} sent")
    } else {
        format!("{} would be sent", summary.chosen)
    };
    text.push_str(&format!(", of {} dead letters read", summary.read));
    let left_out = [
        (summary.guarded, format!("sent back {} times already", args.max_replays)),
        (summary.repeated, "twice in the topic".to_owned()),
        (summary.foreign, "not dead letters of Messina".to_owned()),
    ];
    for (count, why) in left_out.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!("; {count} left out: {why}"));
    }
    text.push('\n');
    if let Some(next) = left.next {
        text.push_str(&how_to_go_on(args, topics, next, &left.only));
    }
    // It would hide what was left out by choice, too.
    let looked_at_all = args.only.is_empty() && args.from_offset.is_none();
    let all = looked_at_all && summary.read == summary.chosen + summary.repeated + summary.foreign;
    if let Some(began) = summary.began.filter(|_| sent > 0 && left.next.is_none() && all) {
        text.push_str(&format!(
            "they stay in the topic: --since {} leaves out these, and all before, the next time\n",
            began.text()
        ));
    }
    if !args.yes && summary.chosen > 0 {
        text.push_str("--yes sends them\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::letter::Letter;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        replay: Replay,
    }

    fn args(more: &[&str]) -> Replay {
        let line = ["replay", "-c", "f.toml"].iter().chain(more);
        Line::try_parse_from(line).unwrap().replay
    }

    fn record(offset: i64, origin: i64, replays: u32) -> Record {
        Record {
            place: Place { partition: 0, offset },
            time: None,
            key: None,
            value: None,
            headers: Vec::new(),
            letter: Some(Letter {
                pipeline: "p".into(),
                topic: "t".into(),
                partition: 0,
                offset: origin,
                timestamp_ms: None,
                write_timestamp_us: None,
                step: None,
                class: "permanent".into(),
                reason: "avro".into(),
                message: String::new(),
                attempts: 1,
                schema_id: None,
                replays,
                headers: Vec::new(),
            }),
        }
    }

    fn verdicts(args: &Replay, records: &[Record]) -> Vec<Verdict> {
        let mut choice = Choice {
            args,
            pipeline: None,
            origins: HashSet::new(),
        };
        records.iter().map(|record| choice.judge(record)).collect()
    }

    #[test]
    fn the_guard_leaves_out_what_was_sent_back_too_often() {
        let records = [
            record(0, 10, 0),
            record(1, 11, 2),
            record(2, 12, 3),
            record(3, 13, u32::MAX),
        ];
        use Verdict::{Guarded, Send};
        assert_eq!(verdicts(&args(&[]), &records), [Send, Send, Guarded, Guarded]);
        assert_eq!(
            verdicts(&args(&["--max-replays", "1"]), &records),
            [Send, Guarded, Guarded, Guarded]
        );
    }

    #[test]
    fn a_record_goes_back_once_however_often_it_is_in_the_topic() {
        let records = [record(0, 10, 0), record(1, 10, 0), record(2, 11, 0)];
        assert_eq!(
            verdicts(&args(&[]), &records),
            [Verdict::Send, Verdict::Repeated, Verdict::Send]
        );
    }

    #[test]
    fn only_what_is_asked_for_is_sent_and_what_came_from_nowhere_is_not() {
        let mut foreign = record(5, 0, 0);
        foreign.letter = None;
        let records = [record(0, 10, 0), record(1, 11, 0), foreign];
        use Verdict::{Foreign, Other, Send};
        assert_eq!(verdicts(&args(&["--only", "0:1"]), &records), [Other, Send, Other]);
        assert_eq!(verdicts(&args(&[]), &records), [Send, Send, Foreign]);
        assert_eq!(
            verdicts(&args(&["--reason", "missing"]), &records),
            [Other, Other, Other]
        );
    }

    #[test]
    fn a_replay_goes_on_from_a_place() {
        let part = |partition| Part {
            topic: "dead".into(),
            partition,
            from: 5,
            to: 50,
        };
        let range = |args: &Replay, partition| left_of(part(partition), args).map(|part| (part.from, part.to));
        let on = args(&["--from-offset", "2:17"]);
        assert_eq!([1, 2, 3].map(|p| range(&on, p)), [None, Some((17, 50)), Some((5, 50))]);
        let early = args(&["--from-offset", "2:1"]);
        assert_eq!(range(&early, 2), Some((5, 50)));
        let only = args(&["--only", "1:9", "--only", "1:20"]);
        assert_eq!([0, 1].map(|p| range(&only, p)), [None, Some((9, 21))]);
    }

    #[test]
    fn where_to_go_on_is_said_with_the_topic_and_those_behind_it() {
        let topics = ["a", "b", "c"].map(str::to_owned);
        let spot = |topic| Spot {
            topic,
            place: Place {
                partition: 2,
                offset: 17,
            },
        };
        let on = |topics: &[String], next| how_to_go_on(&args(&[]), topics, next, &BTreeSet::new());
        assert_eq!(
            on(&topics[..1], spot(0)),
            "stopped before 2:17: go on with --from-offset 2:17\n"
        );
        assert_eq!(
            on(&topics, spot(1)),
            "stopped before 2:17 of b: go on with --topic b --from-offset 2:17\n\
             and then with --topic for each that comes behind it: c\n"
        );
        assert_eq!(
            on(&topics, spot(2)),
            "stopped before 2:17 of c: go on with --topic c --from-offset 2:17\n"
        );
        let json = |next| {
            let left = Left::new(&[], BTreeSet::new(), next);
            let line = in_json(&args(&[]), &topics, &Summary::default(), 0, &left);
            json!([line["next"], line["next_topic"], line["topics_left"]])
        };
        assert_eq!(json(Some(spot(0))), json!(["2:17", "a", ["b", "c"]]));
        assert_eq!(json(None), json!([null, null, []]));
    }

    #[test]
    fn of_the_places_that_were_named_those_that_are_left_are_said() {
        let topics = ["dead".to_owned()];
        let spot = |place: &str| Spot {
            topic: 0,
            place: place.parse().unwrap(),
        };
        let args = args(&["--only", "2:4", "--only", "1:9", "--only", "1:20", "--only", "1:12"]);
        let left = |pending: &[&str], unread: Option<&str>| {
            let pending = pending.iter().map(|place| spot(place)).collect();
            let left = Left::new(&args.only, pending, unread.map(spot));
            let json = in_json(&args, &topics, &Summary::default(), 0, &left);
            let text = told(&args, &topics, &Summary::default(), 0, &left);
            (
                json["only_left"].clone(),
                text.lines().nth(1).unwrap_or_default().to_owned(),
            )
        };
        assert_eq!(
            left(&[], Some("1:13")),
            (
                json!(["1:20", "2:4"]),
                "stopped before 1:13: go on with --only 1:20 --only 2:4".to_owned()
            )
        );
        let refused = "stopped before 1:9: go on with --only 1:9 --only 2:4";
        assert_eq!(
            left(&["1:9"], Some("1:21")),
            (json!(["1:9", "2:4"]), refused.to_owned()),
            "those between them have arrived"
        );
        assert_eq!(left(&[], None), (json!([]), String::new()));
    }

    #[test]
    fn what_was_left_out_is_not_hidden_the_next_time() {
        let topics = ["dead".to_owned()];
        let hints = |arguments: &[&str], guarded, read| {
            let summary = Summary {
                began: Some(Moment(0)),
                read,
                chosen: 2,
                guarded,
                repeated: 1,
                foreign: 1,
                ..Summary::default()
            };
            let left = Left::new(&[], BTreeSet::new(), None);
            told(&args(arguments), &topics, &summary, 2, &left).contains("--since")
        };
        assert!(hints(&["--yes"], 0, 4));
        assert!(hints(&["--yes", "--reason", "avro"], 0, 4), "all had that reason");
        assert!(!hints(&["--yes", "--reason", "avro"], 0, 5));
        assert!(!hints(&["--yes"], 1, 5));
        assert!(!hints(&["--yes", "--only", "0:1"], 0, 4));
        assert!(!hints(&["--yes", "--from-offset", "0:1"], 0, 4));
    }

    #[test]
    fn rates_are_read() {
        assert_eq!((rate("100"), rate("0.5/s")), (Ok(100.0), Ok(0.5)));
        for wrong in ["", "0", "-1", "fast", "1/m", "inf", "NaN"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_signal_ends_the_wait_for_a_turn() {
        let interrupted = AtomicBool::new(true);
        assert!(wait_for_turn(None, &interrupted));
        let mut pace = Pace::new(0.001, Instant::now());
        assert!(wait_for_turn(Some(&mut pace), &interrupted), "the first is due at once");
        assert!(!wait_for_turn(Some(&mut pace), &interrupted));
    }

    #[test]
    fn sending_has_to_be_asked_for() {
        assert!(!args(&[]).yes);
        assert!(Line::try_parse_from(["replay", "-c", "f", "--yes", "--dry-run"]).is_err());
        assert!(Line::try_parse_from(["replay", "-c", "f", "--max", "0"]).is_err());
    }
}
