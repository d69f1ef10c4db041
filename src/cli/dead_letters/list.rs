//! `messina dead-letters list`: one line per dead letter, or counts by kind.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;

use serde_json::json;

use super::filter::Filter;
use super::reader::{Reader, Record};
use super::{Target, table};
use crate::cli::time::Moment;
use crate::sink::letter::Letter;

/// The most lines of a table, which is kept in memory, unless --limit says otherwise.
const LINES: u64 = 1000;

/// List dead letters.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    filter: Filter,
    /// Print at most N dead letters. Default: 1000 in a table, all with --json.
    #[arg(long, value_name = "N", conflicts_with = "summary")]
    limit: Option<u64>,
    /// Count dead letters by pipeline, step and reason.
    #[arg(long)]
    summary: bool,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    letters: u64,
    first: Option<Moment>,
    last: Option<Moment>,
}

/// Lists them.
pub fn run(args: &List) -> anyhow::Result<ExitCode> {
    let context = args.target.resolve()?;
    let reader = Reader::new(&context)?;
    let limit = args.limit.unwrap_or(if args.json { u64::MAX } else { LINES });
    let out = &mut io::stdout().lock();
    let (mut rows, mut seen, mut more) = (Vec::new(), 0, false);
    let mut counts: BTreeMap<[String; 3], Count> = BTreeMap::new();
    for (_, part) in reader.parts_of_all(&context.topics, args.filter.since)? {
        let read = reader.read(&part, &mut |record| {
            if !args
                .filter
                .takes(context.pipeline.as_deref(), record.letter.as_ref(), record.time)
            {
                return Ok(ControlFlow::Continue(()));
            }
            if args.summary {
                count(&mut counts, &record);
                return Ok(ControlFlow::Continue(()));
            }
            if seen == limit {
                more = true;
                return Ok(ControlFlow::Break(()));
            }
            seen += 1;
            if args.json {
                writeln!(out, "{}", line(&part.topic, &record))?;
            } else {
                rows.push(row(&part.topic, &record));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if read.is_break() {
            break;
        }
    }
    match (args.summary, args.json) {
        (true, json) => summary(out, &counts, json)?,
        (false, true) => {}
        (false, false) => {
            const HEADS: [&str; 9] = [
                "PLACE", "TIME", "RECORD", "PIPELINE", "STEP", "REASON", "ATTEMPTS", "SCHEMA", "REPLAYS",
            ];
            if context.topics.len() == 1 {
                rows.iter_mut().for_each(|row| drop(row.remove(0)));
                table::print(out, &HEADS, &rows)?;
            } else {
                let heads: Vec<&str> = ["TOPIC"].into_iter().chain(HEADS).collect();
                table::print(out, &heads, &rows)?;
            }
        }
    }
    out.flush()?;
    if more {
        say!("there are more than {limit}: --limit, or a filter, shows others");
    }
    Ok(ExitCode::SUCCESS)
}

/// The cells of a row, the topic first.
fn row(topic: &str, record: &Record) -> Vec<String> {
    let time = record.time.map_or_else(String::new, Moment::text);
    let mut cells = vec![topic.to_owned(), record.place.to_string(), time];
    match &record.letter {
        Some(letter) => cells.extend([
            format!("{}/{}:{}", letter.topic, letter.partition, letter.offset),
            letter.pipeline.clone(),
            letter.step.clone().unwrap_or_else(|| "-".to_owned()),
            letter.reason.clone(),
            letter.attempts.to_string(),
            letter.schema_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
            letter.replays.to_string(),
        ]),
        None => cells.push("not a dead letter of Messina".to_owned()),
    }
    cells
}

/// The JSON of a line. `show --json` starts with it, too.
pub(super) fn line(topic: &str, record: &Record) -> serde_json::Value {
    let letter = record.letter.as_ref();
    json!({
        "topic": topic,
        "partition": record.place.partition,
        "offset": record.place.offset,
        "time": record.time.map(Moment::text),
        "record": letter.map(|l| json!({
            "topic": l.topic,
            "partition": l.partition,
            "offset": l.offset,
            "time": l.timestamp_ms.map(|ms| Moment(ms).text()),
        })),
        "pipeline": letter.map(|l| &l.pipeline),
        "step": letter.and_then(|l| l.step.as_ref()),
        "class": letter.map(|l| &l.class),
        "reason": letter.map(|l| &l.reason),
        "message": letter.map(Letter::told),
        "attempts": letter.map(|l| l.attempts),
        "schema_id": letter.and_then(|l| l.schema_id),
        "replays": letter.map(|l| l.replays),
        "key_bytes": record.key.as_ref().map(Vec::len),
        "value_bytes": record.value.as_ref().map(Vec::len),
    })
}

fn count(counts: &mut BTreeMap<[String; 3], Count>, record: &Record) {
    let kind = match &record.letter {
        Some(l) => [
            l.pipeline.clone(),
            l.step.clone().unwrap_or_else(|| "-".to_owned()),
            l.reason.clone(),
        ],
        None => ["-", "-", "not a dead letter of Messina"].map(str::to_owned),
    };
    let count = counts.entry(kind).or_default();
    count.letters += 1;
    count.first = [count.first, record.time].into_iter().flatten().min();
    count.last = count.last.max(record.time);
}

fn summary(out: &mut dyn Write, counts: &BTreeMap<[String; 3], Count>, as_json: bool) -> io::Result<()> {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(count.letters));
    let text = |moment: Option<Moment>| moment.map(Moment::text);
    if as_json {
        for ([pipeline, step, reason], count) in counts {
            let line = json!({
                "pipeline": pipeline, "step": step, "reason": reason, "dead_letters": count.letters,
                "first": text(count.first), "last": text(count.last),
            });
            writeln!(out, "{line}")?;
        }
        return Ok(());
    }
    let rows: Vec<Vec<String>> = counts
        .into_iter()
        .map(|(kind, count)| {
            let times = [count.first, count.last].map(|t| text(t).unwrap_or_default());
            [count.letters.to_string()]
                .into_iter()
                .chain(kind.iter().cloned())
                .chain(times)
                .collect()
        })
        .collect();
    let heads = ["DEAD LETTERS", "PIPELINE", "STEP", "REASON", "FIRST", "LAST"];
    table::print(out, &heads, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::dead_letters::filter::Place;

    #[test]
    fn rows_and_counts_have_no_class_as_there_is_only_one() {
        let record = Record {
            place: Place {
                partition: 2,
                offset: 7,
            },
            time: Some(Moment(0)),
            key: None,
            value: None,
            letter: Some(Letter::example()),
            headers: Vec::new(),
        };
        let cells = row("dead", &record);
        assert_eq!(cells[3..7], ["orders/4:9", "p", "-", "avro"]);
        let (mut counts, mut out) = (BTreeMap::new(), Vec::new());
        count(&mut counts, &record);
        summary(&mut out, &counts, false).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "DEAD LETTERS  PIPELINE  STEP  REASON  FIRST                     LAST\n\
             1             p         -     avro    1970-01-01T00:00:00.000Z  1970-01-01T00:00:00.000Z\n"
        );
    }
}
