//! `messina tap`: shows records of a running process as they end, with what each step did.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::ask::Process;
use super::clean::plain;
use super::time::Moment;
use super::trouble::Trouble;
use crate::http::MOST;
use crate::shutdown;

/// How long one request waits for records, and how much longer its answer may take.
const WINDOW: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// The characters that are percent-encoded in a name within a path.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// Show records of a running pipeline as they end: the input, inputs and results of each step, and the output.
///
/// Names, types and lengths are shown. Values are shown only if the process has `[http] tap = "values"`.
#[derive(Debug, clap::Args)]
pub struct Tap {
    /// The pipeline.
    #[arg(value_name = "PIPELINE")]
    pipeline: String,
    #[command(flatten)]
    process: Process,
    /// Exit after N records.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// At most N records per second, spread evenly.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=MOST as u64))]
    rate: u64,
    /// Only records with this outcome.
    #[arg(long, value_name = "OUTCOME", value_parser = ["done", "skipped", "dead_lettered", "halted"])]
    outcome: Option<String>,
    /// Print one JSON object per record.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Tap) -> anyhow::Result<ExitCode> {
    // A single thread is enough: requests are short, and a signal may end one in the middle.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let code = runtime.block_on(async {
        let mut signal = std::pin::pin!(shutdown::requested());
        let mut total = Total::default();
        let end = loop {
            let wanted = (args.records - total.shown).min(args.rate);
            let began = Instant::now();
            let (process, path) = (args.process, args.path(wanted));
            let asked = tokio::task::spawn_blocking(move || process.ask(&path, PATIENCE));
            let answer = tokio::select! {
                signal = &mut signal => break signal.map(|_| ()).context("cannot listen to signals"),
                answer = asked => answer.context("the request")?,
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => break Err(args.unreachable(&error)),
            };
            match answer.status {
                _ if answer.is_anothers() => break Err(Trouble::Unavailable(args.process.not_messina()).into()),
                200 => args.print(&answer.body, &mut total, &mut io::stdout().lock())?,
                // Too many clients are looking. Each look ends within seconds, so try again.
                429 => {}
                404 | 400 if is_refusal(&answer.body) => break Err(Trouble::Usage(plain(&answer.body)).into()),
                404 | 400 => break Err(Trouble::Unavailable(args.process.not_messina()).into()),
                _ => {
                    break Err(
                        Trouble::Unavailable(format!("{}: {}", args.process.address(), plain(&answer.body))).into(),
                    );
                }
            }
            if total.shown >= args.records {
                break Ok(());
            }
            let rest = WINDOW.saturating_sub(began.elapsed());
            tokio::select! {
                signal = &mut signal => break signal.map(|_| ()).context("cannot listen to signals"),
                () = tokio::time::sleep(rest) => {}
            }
        };
        if total.looked {
            total.tell();
        }
        end.map(|()| ExitCode::SUCCESS)
    });
    runtime.shutdown_background();
    code
}

/// The answer of the process. Records are kept as raw text, because numbers might change if they were parsed and
/// written again.
#[derive(Debug, serde::Deserialize)]
struct Answer<'a> {
    shows: String,
    ended: u64,
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
}

/// The totals over all answers.
#[derive(Debug, Default)]
struct Total {
    /// Whether any answer was accepted.
    looked: bool,
    shown: u64,
    ended: u64,
    shapes: bool,
}

impl Total {
    fn tell(&self) {
        let shapes = if self.shapes {
            "; values are not shown: the process needs [http] tap = \"values\" for that"
        } else {
            ""
        };
        say!(
            "{} shown of {} that ended while looking{shapes}",
            self.shown,
            self.ended
        );
    }
}

impl Tap {
    fn path(&self, records: u64) -> String {
        let outcome = self.outcome.iter().map(|outcome| format!("&outcome={outcome}"));
        let outcome: String = outcome.collect();
        format!(
            "/tap/{}?records={records}&seconds={}{outcome}",
            utf8_percent_encode(&self.pipeline, ENCODED),
            WINDOW.as_secs()
        )
    }

    fn unreachable(&self, error: &io::Error) -> anyhow::Error {
        let address = self.process.address();
        let message =
            format!("{address} does not answer: {error}; give the process's [http] listen address with --listen");
        Trouble::Unavailable(message).into()
    }

    fn print(&self, body: &str, total: &mut Total, out: &mut dyn Write) -> anyhow::Result<()> {
        let foreign = |error: serde_json::Error| Trouble::unavailable("the answer is not from Messina", &error);
        let answer: Answer<'_> = serde_json::from_str(body).map_err(foreign)?;
        total.looked = true;
        total.shapes = answer.shows == "shapes";
        total.ended += answer.ended;
        for record in answer.records {
            if self.json {
                writeln!(out, "{record}")?;
            } else {
                let record: Json = serde_json::from_str(record.get()).map_err(foreign)?;
                out.write_all(plain(&in_words(&record)).as_bytes())?;
            }
            total.shown += 1;
        }
        out.flush()?;
        Ok(())
    }
}

/// Whether this is a message of `/tap/PIPELINE`: about an unknown pipeline, or about a query that it does not accept.
fn is_refusal(words: &str) -> bool {
    words.starts_with("there is no ") || words.starts_with('`')
}

/// Text without its quotes. Other JSON is left as it is.
fn word(json: &Json) -> String {
    match json {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn in_words(record: &Json) -> String {
    let mut out = format!(
        "{} {}:{}",
        word(&record["topic"]),
        record["partition"],
        record["offset"]
    );
    if !record["key"].is_null() {
        out.push_str(&format!("  key {}", word(&record["key"])));
    }
    if let Some(ms) = record["timestamp_ms"].as_i64() {
        out.push_str(&format!("  {}", Moment(ms).text()));
    }
    let seconds = record["seconds"].as_f64().unwrap_or(0.0);
    out.push_str(&format!("  {} in {:.1} ms\n", word(&record["outcome"]), seconds * 1e3));
    let mut line = |what: &str, text: &str| out.push_str(&format!("  {what:<9} {text}\n"));
    line("in", &fields(&record["event"], None));
    for step in record["steps"].as_array().into_iter().flatten() {
        let mut text = word(&step["step"]);
        if let Some(took) = step.get("took") {
            text.push_str(&format!(" ({})", fields(took, None)));
        }
        match step.get("gave") {
            Some(gave) => text.push_str(&format!(": {}", fields(gave, None))),
            None => text.push_str(&format!(": {}", word(&step["came_to"]))),
        }
        line(&word(&step["does"]), &text);
    }
    let output = &record["output"];
    if !output.is_null() {
        let set: Vec<&str> = output["set"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .collect();
        let key = Some(&output["key"]).filter(|key| !key.is_null());
        let key = key.map(|key| format!(", key {}", word(key))).unwrap_or_default();
        line(
            "publish",
            &format!(
                "{}{key}: {}",
                word(&output["topic"]),
                fields(&output["value"], Some(&set))
            ),
        );
    }
    let failure = &record["failure"];
    if !failure.is_null() {
        let step = failure["step"]
            .as_str()
            .map(|step| format!("{step}: "))
            .unwrap_or_default();
        let (class, reason) = (word(&failure["class"]), word(&failure["reason"]));
        line(
            "failure",
            &format!("{step}{class}, {reason}: {}", word(&failure["message"])),
        );
    }
    out
}

/// `name = value, ...`, only of the named fields if there are names. JSON other than an object is left as it is.
fn fields(json: &Json, named: Option<&[&str]>) -> String {
    let Json::Object(object) = json else {
        return word(json);
    };
    let wanted = object
        .iter()
        .filter(|(name, _)| named.is_none_or(|named| named.contains(&name.as_str())));
    let fields: Vec<String> = wanted.map(|(name, of)| format!("{name} = {}", word(of))).collect();
    fields.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        tap: Tap,
    }

    fn printed(body: &str, more: &[&str]) -> String {
        let tap = Line::try_parse_from(["tap", "p"].iter().chain(more)).unwrap().tap;
        let mut out = Vec::new();
        let mut total = Total::default();
        tap.print(body, &mut total, &mut out).unwrap();
        assert_eq!((total.shown, total.ended, total.shapes), (1, 3, false));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn any_name_makes_a_path() {
        let path = |name: &str| Line::try_parse_from(["tap", name]).unwrap().tap.path(3);
        assert_eq!(path("web_clicks-2"), "/tap/web_clicks-2?records=3&seconds=1");
        assert_eq!(path("a b/é?"), "/tap/a%20b%2F%C3%A9%3F?records=3&seconds=1");
        assert_eq!(path("a.b~%\u{7f}"), "/tap/a%2Eb%7E%25%7F?records=3&seconds=1");
    }

    #[test]
    fn json_is_printed_as_it_came_and_words_are_fit_for_a_terminal() {
        let record = "{\"topic\":\"t\",\"partition\":0,\"offset\":1,\"event\":{\"text\":\"a\u{202e}b\u{7f}\u{9b}\\u001b\",\"number\":1.50},\
                      \"outcome\":\"done\"}";
        let body = format!("{{\"shows\":\"values\",\"ended\":3,\"records\":[{record}]}}\n");
        assert_eq!(printed(&body, &["--json"]), format!("{record}\n"));
        let words = printed(&body, &[]);
        assert!(
            words.contains("text = a\u{fffd}b\u{fffd}\u{fffd}\u{fffd}, number"),
            "{words}"
        );
    }

    #[test]
    fn a_record_is_told_in_the_order_of_its_way() {
        let record = json!({
            "topic": "clicks", "partition": 3, "offset": 7, "timestamp_ms": 0, "key": "6 bytes", "schema_id": 1,
            "event": {"user": "text of 3 bytes", "n": "int"},
            "steps": [
                {"step": "real", "does": "filter", "came_to": "kept"},
                {"step": "who", "does": "look up", "came_to": "found", "took": {"id": "text of 3 bytes"}, "gave": {"tier": "text of 4 bytes"}},
                {"step": "seen", "does": "write", "came_to": "written", "took": {"id": "text of 3 bytes"}},
            ],
            "output": {"topic": "rich", "key": null, "schema_id": 2, "value": {"user": "text of 3 bytes", "tier": "text of 4 bytes"}, "set": ["tier"]},
            "outcome": "done", "failure": null, "seconds_to_producer": 0.001, "seconds": 0.0042,
        });
        assert_eq!(
            in_words(&record),
            "clicks 3:7  key 6 bytes  1970-01-01T00:00:00.000Z  done in 4.2 ms\n\
             \x20 in        user = text of 3 bytes, n = int\n\
             \x20 filter    real: kept\n\
             \x20 look up   who (id = text of 3 bytes): tier = text of 4 bytes\n\
             \x20 write     seen (id = text of 3 bytes): written\n\
             \x20 publish   rich: tier = text of 4 bytes\n"
        );
    }

    #[test]
    fn a_failure_says_where_and_why() {
        let record = json!({
            "topic": "t", "partition": 0, "offset": 1, "timestamp_ms": null, "key": null, "event": "7 bytes", "steps": [], "output": null,
            "outcome": "dead_lettered", "seconds": 0.0,
            "failure": {"step": "who", "class": "permanent", "reason": "missing", "message": "the look-up found no row", "attempts": 1},
        });
        let text = in_words(&record);
        assert!(
            text.ends_with("  failure   who: permanent, missing: the look-up found no row\n"),
            "{text}"
        );
    }
}
