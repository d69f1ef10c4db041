//! Reads the answers of a process for the view: `/status`, `/metrics`, and why it is not ready or not live.
//!
//! The process may have another version, so missing parts are absent, not errors. Invariant: no text in an [`Answers`] contains control characters or
//! characters that change the writing direction, so that text from outside cannot control the terminal.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::series::Series;
use crate::cli::ask::{Answer, Place};
use crate::cli::clean::clean;

/// How long each answer may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// `/status`, as far as the view shows it. `src/app/probe.rs` and `src/source/status.rs` say what the fields mean.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub config: Configuration,
    pub uptime_seconds: Option<f64>,
    #[serde(default)]
    pub breakers: serde_json::Map<String, Value>,
    /// The field that identifies an answer of `/status`; the only one that is required.
    pub pipelines: BTreeMap<String, Pipeline>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Configuration {
    pub generation: Option<u64>,
    pub last_reload_successful: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pipeline {
    pub received: Option<u64>,
    pub done: Option<u64>,
    pub skipped: Option<u64>,
    pub dead_lettered: Option<u64>,
    pub published: Option<u64>,
    pub lag_records: Option<i64>,
    #[serde(default)]
    pub stages: serde_json::Map<String, Value>,
    #[serde(default)]
    pub loops: Vec<Loop>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Loop {
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub in_flight_records: u64,
    #[serde(default)]
    pub concurrency_limit: u64,
    #[serde(default)]
    pub full: bool,
    #[serde(default)]
    pub paused: bool,
    #[serde(default)]
    pub waiting_for_schema: u64,
    pub halted: Option<String>,
    #[serde(default)]
    pub partitions: Vec<Partition>,
    #[serde(default)]
    pub last_errors: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Partition {
    #[serde(default)]
    pub topic: String,
    #[serde(default)]
    pub partition: i64,
    #[serde(default)]
    pub phase: String,
    pub position: Option<i64>,
    pub lag_records: Option<i64>,
    pub lag_seconds: Option<f64>,
    #[serde(default)]
    pub in_flight: u64,
    #[serde(default)]
    pub stalled: bool,
}

/// The answers of a process at one time.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    pub status: Status,
    pub series: Series,
    /// Why `/readyz` is not ready; empty if it is.
    pub not_ready: Vec<String>,
    /// Why `/livez` is not live; empty if it is.
    pub not_live: Vec<String>,
}

impl Answers {
    /// Requests the four answers of a process.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub(super) fn fetch(place: &Place) -> Result<Answers, String> {
        let get = |path: &str| place.ask(path, PATIENCE).map_err(|error| error.to_string());
        let good = |path: &str| {
            let answer = get(path)?;
            match answer.status {
                200 => Ok(answer.body),
                0 => Err(format!("what answers at {path} does not speak HTTP")),
                status => Err(format!("{path} answers with HTTP status {status}")),
            }
        };
        let status = good("/status")?;
        Answers::read(&status, &good("/metrics")?, &get("/readyz")?, &get("/livez")?)
    }

    /// Parses the four answers.
    ///
    /// # Errors
    /// What differs from an answer of Messina's.
    pub(super) fn read(status: &str, metrics: &str, readyz: &Answer, livez: &Answer) -> Result<Answers, String> {
        let wrong = |error| format!("the answer from /status is not Messina's: {error}");
        let mut status: Value = serde_json::from_str(status).map_err(wrong)?;
        clean_all(&mut status);
        let reasons = |answer: &Answer| match answer.status {
            200 => Vec::new(),
            status if answer.body.is_empty() => vec![format!("HTTP status {status}")],
            _ => answer.body.lines().map(|line| clean(line).into_owned()).collect(),
        };
        Ok(Answers {
            status: Status::deserialize(status).map_err(wrong)?,
            series: Series::parse(metrics),
            not_ready: reasons(readyz),
            not_live: reasons(livez),
        })
    }
}

#[cfg(test)]
impl Answers {
    /// The answers of a real process, stored in tests/top: number 1, and number 2 nine seconds later.
    pub(super) fn stored(number: u8) -> Answers {
        let read =
            |name: String| std::fs::read_to_string(format!("{}/tests/top/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        Answers::of(
            &read(format!("status.{number}.json")),
            &read(format!("metrics.{number}.txt")),
        )
    }

    /// The answers of a process that is ready and live.
    pub(super) fn of(status: &str, metrics: &str) -> Answers {
        let yes = said(200, "ok");
        Answers::read(status, metrics, &yes, &yes).unwrap()
    }
}

/// The answer of a probe.
#[cfg(test)]
pub(super) fn said(status: u16, body: &str) -> Answer {
    Answer {
        status,
        body: body.to_owned(),
    }
}

fn clean_all(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(cleaned) = clean(text) {
                *text = cleaned;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(clean_all),
        Value::Object(fields) => {
            *fields = std::mem::take(fields)
                .into_iter()
                .map(|(name, mut value)| {
                    clean_all(&mut value);
                    (clean(&name).into_owned(), value)
                })
                .collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yes() -> Answer {
        said(200, "ok")
    }

    #[test]
    fn what_is_not_said_is_absent() {
        let answer = Answers::read(
            r#"{"pipelines": {"p": {"loops": [{"partitions": [{}]}]}}}"#,
            "",
            &yes(),
            &yes(),
        )
        .unwrap();
        let pipeline = &answer.status.pipelines["p"];
        assert_eq!(
            (pipeline.done, pipeline.loops[0].partitions[0].lag_records),
            (None, None)
        );
        assert_eq!(
            (answer.status.config.generation, answer.status.uptime_seconds),
            (None, None)
        );
        let null = r#"{"pipelines": {"p": {"done": null, "lag_records": null}}, "uptime_seconds": null}"#;
        assert!(Answers::read(null, "", &yes(), &yes()).is_ok());
    }

    #[test]
    fn what_is_not_messinas_is_said() {
        for other in ["", "<html>", "{}", r#"{"pipelines": 3}"#] {
            let error = Answers::read(other, "", &yes(), &yes()).unwrap_err();
            assert!(error.contains("not Messina's"), "{error}");
        }
    }

    #[test]
    fn reasons_are_lines_and_none_is_not_lost() {
        let status = r#"{"pipelines": {}}"#;
        let ready = said(503, "pipeline a: halted\npipeline b: joining");
        let answer = Answers::read(status, "", &ready, &said(500, "")).unwrap();
        assert_eq!(answer.not_ready, ["pipeline a: halted", "pipeline b: joining"]);
        assert_eq!(answer.not_live, ["HTTP status 500"]);
    }

    #[test]
    fn control_characters_do_not_come_through() {
        assert_eq!(
            clean("a\x1b[2J\u{9b}1m\r\nb\tc\u{202e}d\u{7f}"),
            "a\u{fffd}[2J\u{fffd}1m\u{fffd} b c\u{fffd}d\u{fffd}"
        );
        assert!(matches!(clean("Zoë: « 日本 »"), Cow::Borrowed(_)));
        let status = r#"{"version": "1\u001b", "pipelines": {"p\u0007": {"loops": [{"halted": "x\u001b]0;y\u0007", "last_errors": ["\u0000"]}]}}}"#;
        let metrics = "messina_x{step=\"a\x1bb\"} 1\n";
        let answer = Answers::read(status, metrics, &said(503, "\x1bc"), &said(503, "\u{85}")).unwrap();
        let said = format!("{answer:?}");
        assert!(said.contains('\u{fffd}'), "{said}");
        // As `Debug` writes a control character.
        assert!(!said.contains("\\u{") && !said.contains("\\0"), "{said}");
    }
}
