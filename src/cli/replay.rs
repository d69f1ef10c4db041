//! `messina replay`: runs a pipeline again over a past range of its topics, in its own consumer group.
//!
//! It is the production pipeline with all its effects. The group's offsets record the progress, so a replay that was stopped resumes where it was.

mod progress;
mod range;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;

use self::progress::Progress;
use self::range::Range;
use super::dead_letters::filter::Place;
use super::dead_letters::replay::rate;
use super::run::{LAST, send_what_waits};
use super::time::{self, Moment};
use super::trouble::Trouble;
use super::{ConfigFiles, dry_run, runtime};
use crate::app::{self, GRACE, Running, Telemetry};
use crate::config::{Config, LogFormat, OffsetReset, Pipeline, Sources};
use crate::custom::CustomSteps;
use crate::kafka::{self, range as parts};
use crate::shutdown::{self, Exit};
use crate::source::bounds::Bounds;
use crate::source::status::LoopState;
use crate::telemetry::breadcrumbs::Breadcrumbs;
use crate::telemetry::logging;

/// How often to check the progress.
const LOOK: Duration = Duration::from_millis(500);
/// How long the progress must stand still until `watch` checks whether the rest of the range still exists.
const STANDS: Duration = Duration::from_secs(15);
/// A stall timeout that is never reached: partitions that are done make no progress, and that is not a stall.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Run a pipeline again over a past range of its topics, in its own consumer group. It writes and publishes as in production. A replay that was stopped
/// resumes with the same group and range. To see first what would happen, use `messina run --dry-run --since TIME`.
#[derive(Debug, clap::Args)]
pub struct Replay {
    #[command(flatten)]
    config: ConfigFiles,
    /// The pipeline. Optional if there is only one.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Start at the first record of this time or later: 2026-11-24T10:00:00Z, 2026-11-24, or how long ago (2h, 7d).
    #[arg(long, value_name = "TIME", value_parser = time::parse, required_unless_present = "from_offset")]
    from: Option<Moment>,
    /// Stop before the first record of this time or later. Default: the current end.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    to: Option<Moment>,
    /// Only this partition, from this offset on. May be repeated. For pipelines with one topic.
    #[arg(long, value_name = "PARTITION:OFFSET", conflicts_with_all = ["from", "to"])]
    from_offset: Vec<Place>,
    /// Stop before this offset of a partition that --from-offset names. May be repeated.
    #[arg(long, value_name = "PARTITION:OFFSET", requires = "from_offset")]
    to_offset: Vec<Place>,
    /// At most N records per second.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// The consumer group, to resume a replay that was stopped. Default: the pipeline's group, followed by the range.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
}

/// Runs the replay.
pub fn run(args: &Replay, customs: &CustomSteps) -> anyhow::Result<ExitCode> {
    let (mut config, sources) = args.config.taken(&[])?;
    logging::init("warn", LogFormat::Auto, None, None)?;
    let (name, group, range) = prepare(args, &mut config)?;
    go(args, config, sources, customs, &name, &group, range)
}

/// Reduces the configuration to the one pipeline, in the replay's group, and finds the range.
fn prepare(args: &Replay, config: &mut Config) -> anyhow::Result<(String, String, Range)> {
    check_range(args).map_err(Trouble::Usage)?;
    let mut pipeline = dry_run::chosen(config, args.pipeline.as_deref())?.clone();
    let group = args.group.clone().unwrap_or_else(|| group_of(args, &pipeline));
    check_group(config, &pipeline, &group).map_err(Trouble::Usage)?;
    let consumer = consumer(config, &pipeline, &group)?;
    let mut found = Vec::new();
    for topic in &pipeline.source.topics {
        let (from, to) = (args.from.map(|from| from.0), args.to.map(|to| to.0));
        let parts = parts::parts(&consumer, topic, from, to).map_err(Trouble::Unavailable)?;
        found.extend(if args.from_offset.is_empty() {
            parts
        } else {
            by_offset(args, &pipeline, parts)?
        });
    }
    let range = Range::find(consumer, found).map_err(Trouble::Unavailable)?;
    let name = pipeline.name.value.clone();
    pipeline.source.group.value.clone_from(&group);
    pipeline.source.instance_id = None;
    pipeline.source.stall_timeout = NEVER;
    // If retention has overtaken the group's position, continue with what is left of the range.
    pipeline.source.offset_reset = OffsetReset::Earliest;
    config.pipelines.clear();
    config.pipelines.insert(name.clone(), pipeline);
    // The daemon may run on this machine with the same address, so take a free port.
    config.http.listen = ([127, 0, 0, 1], 0).into();
    Ok((name, group, range))
}

/// Checks that no range ends before it begins, and that each partition has one range.
fn check_range(args: &Replay) -> Result<(), String> {
    if let (Some(from), Some(to)) = (args.from, args.to)
        && to < from
    {
        return Err(format!("--to {}: it is before --from {}", to.text(), from.text()));
    }
    for (option, places) in [("--from-offset", &args.from_offset), ("--to-offset", &args.to_offset)] {
        let mut seen = BTreeSet::new();
        if let Some(again) = places.iter().find(|place| !seen.insert(place.partition)) {
            return Err(format!(
                "{option} {again}: partition {} has one already",
                again.partition
            ));
        }
    }
    for to in &args.to_offset {
        let from = args.from_offset.iter().find(|from| from.partition == to.partition);
        match from {
            None => {
                let partition = to.partition;
                return Err(format!("--to-offset {to}: partition {partition} has no --from-offset"));
            }
            Some(from) if to.offset < from.offset => {
                return Err(format!("--to-offset {to}: it is before --from-offset {from}"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Checks that no pipeline uses the group: the replay would move its commits, and records would be skipped or processed again.
fn check_group(config: &Config, pipeline: &Pipeline, group: &str) -> Result<(), String> {
    let has_it = |other: &&Pipeline| other.source.group.value == group;
    let whose = match config.pipelines.values().find(has_it) {
        None => return Ok(()),
        Some(own) if own.name.value == pipeline.name.value => "the pipeline's own group".to_owned(),
        Some(other) => format!("the group of pipeline `{}`", other.name.value),
    };
    Err(format!("{group} is {whose}: choose another --group"))
}

fn by_offset(args: &Replay, pipeline: &Pipeline, parts: Vec<parts::Part>) -> Result<Vec<parts::Part>, Trouble> {
    if pipeline.source.topics.len() > 1 {
        let message = "a place is PARTITION:OFFSET of one topic, and the pipeline has several: use --from and --to";
        return Err(Trouble::Usage(message.to_owned()));
    }
    let of = |places: &[Place], partition| {
        places
            .iter()
            .find(|place| place.partition == partition)
            .map(|p| p.offset)
    };
    if let Some(unknown) = args
        .from_offset
        .iter()
        .find(|place| parts.iter().all(|p| p.partition != place.partition))
    {
        return Err(Trouble::Usage(format!(
            "--from-offset {unknown}: the topic has no such partition"
        )));
    }
    let chosen = parts.into_iter().filter_map(|part| {
        let from = of(&args.from_offset, part.partition)?.clamp(part.from, part.to);
        let to = of(&args.to_offset, part.partition)
            .unwrap_or(part.to)
            .clamp(from, part.to);
        Some(parts::Part { from, to, ..part })
    });
    Ok(chosen.collect())
}

/// The default group. It is derived from the range, so that repeating the command resumes the replay.
fn group_of(args: &Replay, pipeline: &Pipeline) -> String {
    let moment = |moment: Option<Moment>| moment.map_or_else(|| "end".to_owned(), |m| m.0.to_string());
    let range = if args.from_offset.is_empty() {
        format!("{}-{}", moment(args.from), moment(args.to))
    } else {
        let from = places_of(&args.from_offset);
        match args.to_offset.as_slice() {
            [] => from,
            to => format!("{from}-to-{}", places_of(to)),
        }
    };
    format!("{}-replay-{range}", pipeline.source.group.value)
}

/// Places as part of a name, independent of the order in which they were given.
fn places_of(places: &[Place]) -> String {
    let mut places = places.to_vec();
    places.sort_unstable();
    let names = places
        .iter()
        .map(|place| format!("{}_{}", place.partition, place.offset));
    names.collect::<Vec<_>>().join("-")
}

fn consumer(config: &Config, pipeline: &Pipeline, group: &str) -> anyhow::Result<BaseConsumer> {
    let mut client = kafka::reader(&config.kafka, &pipeline.source.properties, group)?;
    client.set("enable.partition.eof", "true");
    let made = client.create();
    made.map_err(|e| Trouble::unavailable("cannot make a consumer", &e))
}

fn go(
    args: &Replay,
    config: Config,
    sources: Sources,
    customs: &CustomSteps,
    name: &str,
    group: &str,
    range: Range,
) -> anyhow::Result<ExitCode> {
    let total = range.total();
    let before = range.begin()?;
    let pace = args.rate.map_or_else(
        || "without --rate as fast as the services let it".to_owned(),
        |rate| format!("{rate} records a second at most"),
    );
    say!(
        "{name}: {total} offsets, {before} of them done before; {pace}; {}",
        the_same(args, group)
    );
    if before == total {
        say!("nothing is left to replay");
        return Ok(ExitCode::SUCCESS);
    }
    let telemetry = match Telemetry::new(&config, Breadcrumbs::default()) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            say!("error: {error}");
            return Ok(Exit::Config.into());
        }
    };
    let runtime = runtime(None)?;
    let bounds = Arc::new(Bounds::new(range.ends(), args.rate, Instant::now()));
    let limit = config.shutdown_timeout + GRACE;
    let code = runtime.block_on(async {
        let mut signal = std::pin::pin!(shutdown::requested());
        let start = app::start_within(config, sources, telemetry.clone(), customs, bounds);
        let mut running = tokio::select! {
            started = start => started.map_err(Trouble::not_started)?,
            _ = &mut signal => return Ok(ExitCode::from(130)),
        };
        let range = Arc::new(range);
        let mut progress = Progress::new(total, before);
        let end = tokio::select! {
            end = watch(&mut running, name, &range, total, &mut progress) => end,
            _ = &mut signal => Ended::Stopped,
        };
        // A broker that does not answer can keep a consumer from closing.
        let stopped = tokio::time::timeout(limit, running.stop()).await.is_ok();
        if range.gone() > 0 {
            // The last commit may have completed records that were counted as gone.
            look_again(&range).await;
        }
        let done = match end {
            // Everything was done before the stop; brokers that no longer answer do not change that.
            Ended::Done => total,
            Ended::Halted | Ended::Stopped => looked(&range).await.unwrap_or_else(|| progress.seen()),
        };
        progress.show(done);
        progress.end();
        Ok(match end {
            _ if done == total => {
                let taken = taken(&range).await;
                say!("{name}: {}", all_done(total, range.gone(), taken));
                ExitCode::SUCCESS
            }
            Ended::Halted => {
                say!("error: {name} has halted after {done} of {total} offsets; the log says why");
                Exit::Internal.into()
            }
            _ if !stopped => {
                let seconds = limit.as_secs();
                say!(
                    "error: could not stop in {seconds} s, after {done} of {total} offsets: go on with {}",
                    the_same(args, group)
                );
                Exit::Internal.into()
            }
            Ended::Done | Ended::Stopped => {
                say!(
                    "stopped after {done} of {total} offsets: go on with {}",
                    the_same(args, group)
                );
                ExitCode::from(130)
            }
        })
    });
    send_what_waits(&telemetry, LAST);
    runtime.shutdown_background();
    code
}

/// The arguments that resume the replay. Times are absolute, because `2h` would be a different range by then.
fn the_same(args: &Replay, group: &str) -> String {
    let mut said = String::new();
    for (option, moment) in [("--from", args.from), ("--to", args.to)] {
        if let Some(moment) = moment {
            said.push_str(&format!("{option} {} ", moment.text()));
        }
    }
    for (option, places) in [("--from-offset", &args.from_offset), ("--to-offset", &args.to_offset)] {
        for place in places {
            said.push_str(&format!("{option} {place} "));
        }
    }
    format!("{said}--group {group}")
}

/// The message at the end. Records that are gone are no failure of the replay: a compacted record is superseded, and a record that retention deleted
/// cannot be read any more. It is not known how many of the records that retention has deleted by now were done before.
fn all_done(total: i64, gone: i64, taken: i64) -> String {
    let mut said = format!("all {total} offsets are done");
    if gone > 0 {
        said.push_str(&format!(
            "; {gone} of them were gone from the topic before the replay reached them: compaction or retention"
        ));
    }
    if taken > gone {
        said.push_str(&format!(
            "; retention has deleted {taken} of them by now, and the replay skipped those that it had not reached before"
        ));
    }
    said
}

/// Why a replay ends.
enum Ended {
    Done,
    Halted,
    Stopped,
}

/// Waits for the end, and shows the progress.
async fn watch(running: &mut Running, name: &str, range: &Arc<Range>, total: i64, progress: &mut Progress) -> Ended {
    let mut stands_since = Instant::now();
    loop {
        tokio::select! {
            () = running.all_halted() => return Ended::Halted,
            () = tokio::time::sleep(LOOK) => {}
        }
        if takes_no_more(&running.loops(name)) {
            return Ended::Halted;
        }
        // If the brokers do not answer now, ask again later.
        let Some(done) = looked(range).await else { continue };
        if done > progress.seen() {
            stands_since = Instant::now();
        }
        progress.show(done);
        if done >= total {
            return Ended::Done;
        }
        if stands_since.elapsed() >= STANDS && is_idle(&running.loops(name)) {
            look_again(range).await;
            stands_since = Instant::now();
        }
    }
}

/// Whether a loop has stopped its intake for good. Its thread may live on, as it does when there are too many dead letters.
fn takes_no_more(loops: &[Arc<LoopState>]) -> bool {
    loops.iter().any(|state| state.get().halted.is_some())
}

/// Whether nothing is in flight. A record in flight may still be done, even if it is gone from its topic.
fn is_idle(loops: &[Arc<LoopState>]) -> bool {
    loops.iter().all(|state| state.get().in_flight_records == 0)
}

/// Checks whether the rest of the range still exists. If the brokers do not answer, the caller asks again later.
async fn look_again(range: &Arc<Range>) {
    let range = range.clone();
    let _ = tokio::task::spawn_blocking(move || range.look_again()).await;
}

/// How many offsets retention has deleted by now; 0 if the brokers do not answer any more.
async fn taken(range: &Arc<Range>) -> i64 {
    let range = range.clone();
    let taken = tokio::task::spawn_blocking(move || range.taken()).await;
    taken.ok().and_then(Result::ok).unwrap_or(0)
}

async fn looked(range: &Arc<Range>) -> Option<i64> {
    let range = range.clone();
    let done = tokio::task::spawn_blocking(move || range.done()).await;
    done.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::source::status::{LoopStatus, STOPPED_BY_LIMIT};

    const CONFIG: &str = r#"
        [kafka]
        brokers = "k:9092"
        [registry]
        url = "http://r:8081"
        [pipelines.a]
        source = { topics = "a", group = "g" }
        sink = { topic = "out" }
    "#;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        replay: Replay,
    }

    fn args(more: &[&str]) -> Replay {
        let line = ["replay", "-c", "f.toml"].iter().chain(more);
        Line::try_parse_from(line).unwrap().replay
    }

    #[test]
    fn what_makes_no_range_is_refused() {
        let said = |more: &[&str]| check_range(&args(more));
        let (from, to) = ("--from-offset", "--to-offset");
        assert_eq!(said(&["--from", "1h"]), Ok(()));
        assert_eq!(said(&["--from", "2h", "--to", "1h"]), Ok(()));
        assert_eq!(said(&["--from", "1970-01-02", "--to", "1970-01-02"]), Ok(()));
        assert_eq!(said(&[from, "3:1", from, "4:2", to, "3:1", to, "4:9"]), Ok(()));
        for (wrong, message) in [
            (
                &[from, "3:1", to, "4:2"][..],
                "--to-offset 4:2: partition 4 has no --from-offset",
            ),
            (
                &[from, "3:1", from, "3:2"],
                "--from-offset 3:2: partition 3 has one already",
            ),
            (
                &[from, "3:1", to, "3:2", to, "3:4"],
                "--to-offset 3:4: partition 3 has one already",
            ),
            (
                &[from, "3:5", to, "3:4"],
                "--to-offset 3:4: it is before --from-offset 3:5",
            ),
            (
                &["--from", "1970-01-02", "--to", "1970-01-01"],
                "--to 1970-01-01T00:00:00.000Z: it is before --from 1970-01-02T00:00:00.000Z",
            ),
        ] {
            assert_eq!(said(wrong), Err(message.to_owned()), "{wrong:?}");
        }
    }

    #[test]
    fn each_range_has_a_group_of_its_own() {
        let (config, _) = crate::config::load_str(vec![("c.toml".into(), CONFIG.into())], std::iter::empty()).unwrap();
        let group = |more: &[&str]| group_of(&args(more), &config.pipelines["a"]);
        let (from, to) = ("--from-offset", "--to-offset");
        assert_eq!(group(&[from, "3:1", from, "4:2"]), "g-replay-3_1-4_2");
        assert_eq!(group(&[from, "4:2", from, "3:1"]), "g-replay-3_1-4_2");
        assert_eq!(group(&[from, "3:1", to, "3:2"]), "g-replay-3_1-to-3_2");
        assert_eq!(group(&[from, "3:1", from, "4:2", to, "4:5"]), "g-replay-3_1-4_2-to-4_5");
        assert_eq!(
            group(&["--from", "1970-01-01", "--to", "1970-01-02"]),
            "g-replay-0-86400000"
        );
    }

    #[test]
    fn a_replay_that_did_not_run_all_does_not_end_as_if_it_had() {
        let gone = "; 3 of them were gone from the topic before the replay reached them: compaction or retention";
        let taken =
            "; retention has deleted 4 of them by now, and the replay skipped those that it had not reached before";
        for (numbers, more) in [
            ((0, 0), String::new()),
            ((3, 0), gone.to_owned()),
            ((3, 3), gone.to_owned()),
            ((0, 4), taken.to_owned()),
            ((3, 4), format!("{gone}{taken}")),
        ] {
            let said = all_done(10, numbers.0, numbers.1);
            assert_eq!(said, format!("all 10 offsets are done{more}"), "{numbers:?}");
        }
    }

    #[test]
    fn no_group_of_a_pipeline_is_taken() {
        let two = format!(
            "{CONFIG}\n[pipelines.b]\nsource = {{ topics = \"b\", group = \"h\" }}\nsink = {{ topic = \"out\" }}\n"
        );
        let (config, _) = crate::config::load_str(vec![("c.toml".into(), two)], std::iter::empty()).unwrap();
        let said = |group| check_group(&config, &config.pipelines["a"], group);
        assert_eq!(said("g-replay-1"), Ok(()));
        assert_eq!(
            said("g"),
            Err("g is the pipeline's own group: choose another --group".to_owned())
        );
        assert_eq!(
            said("h"),
            Err("h is the group of pipeline `b`: choose another --group".to_owned())
        );
    }

    #[test]
    fn what_goes_on_is_said_as_it_will_be_the_same() {
        let said = |more: &[&str]| the_same(&args(more), "g");
        let (from, to) = ("--from-offset", "--to-offset");
        assert_eq!(
            said(&["--from", "1970-01-01", "--to", "1970-01-02"]),
            "--from 1970-01-01T00:00:00.000Z --to 1970-01-02T00:00:00.000Z --group g"
        );
        assert_eq!(
            said(&[from, "3:1", from, "4:2", to, "4:9"]),
            "--from-offset 3:1 --from-offset 4:2 --to-offset 4:9 --group g"
        );
        let relative = said(&["--from", "2h"]);
        assert!(!relative.contains("2h"), "{relative}");
        let again = args(&relative.split(' ').collect::<Vec<_>>());
        assert_eq!(the_same(&again, "g"), relative);
    }

    #[test]
    fn what_is_in_flight_is_waited_for() {
        let loops = [Arc::new(LoopState::default()), Arc::new(LoopState::default())];
        assert!(is_idle(&loops));
        loops[1].set(LoopStatus {
            in_flight_records: 1,
            ..LoopStatus::default()
        });
        assert!(!is_idle(&loops));
    }

    #[test]
    fn a_loop_that_lives_and_takes_no_more_ends_a_replay() {
        let loops = [Arc::new(LoopState::default()), Arc::new(LoopState::default())];
        assert!(!takes_no_more(&loops));
        loops[1].set(LoopStatus {
            state: STOPPED_BY_LIMIT,
            halted: Some("too many dead letters".to_owned()),
            ..LoopStatus::default()
        });
        assert!(takes_no_more(&loops));
    }
}
