//! Findings: what is wrong, where, and what to do about it; as text for people, and as JSON.
//!
//! A finding contains everything needed to print it, including the offending line. Secrets in it are masked from the start.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::codes::Code;
use super::{Sources, Span};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot run.
    Error,
    /// The configuration can run, but probably not as intended.
    Warning,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Stable code.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Where it is; `None` if it concerns no particular place.
    pub place: Option<Place>,
    /// Other places involved.
    pub related: Vec<Place>,
    /// What to do about it.
    pub help: Vec<String>,
}

/// A place in a file, with its line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The file as it was named on the command line, or `$NAME` for an environment variable, whose text is `NAME=value`.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line, with secrets masked, cut if it is very long.
    pub text: String,
    /// First underlined character of `text`, from 0.
    pub underline_start: usize,
    /// How many characters are underlined, at least 1.
    pub underline_length: usize,
    /// The label beside the underline; may be empty.
    pub label: String,
}

impl Diagnostic {
    /// An error.
    pub fn error(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            place: None,
            related: vec![],
            help: vec![],
        }
    }

    /// A warning.
    pub fn warning(code: Code, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, message)
        }
    }

    /// Sets the place of the finding; `label` explains what is underlined.
    #[must_use]
    pub fn at(mut self, sources: &Sources, span: Span, label: impl Into<String>) -> Self {
        self.place = Some(sources.place(span, label.into()));
        self
    }

    /// Adds another place that is involved.
    #[must_use]
    pub fn with(mut self, sources: &Sources, span: Span, label: impl Into<String>) -> Self {
        self.related.push(sources.place(span, label.into()));
        self
    }

    /// Adds a remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }
}

/// All findings of a configuration, in the order of files and lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Sorts the findings by place, and drops repetitions. Findings without a place come last.
    pub fn new(mut findings: Vec<Diagnostic>) -> Self {
        let place = |d: &Diagnostic| d.place.as_ref().map(|p| (p.file.clone(), p.line, p.column));
        findings.sort_by_cached_key(|d| (d.place.is_none(), place(d), d.severity, d.code.id, d.message.clone()));
        findings.dedup();
        Self(findings)
    }

    /// Each finding.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// Whether there are no findings.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them is an error, so that the configuration cannot run.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|d| d.severity == Severity::Error)
    }

    /// The findings as text for people; `colour` adds ANSI escapes.
    pub fn human(&self, colour: bool) -> String {
        let mut out = String::new();
        for finding in &self.0 {
            finding.write_human(&mut out, colour);
            out.push('\n');
        }
        let count = |severity| self.0.iter().filter(|d| d.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        let _ = match (errors, warnings) {
            (0, 0) => Ok(()),
            (0, n) => writeln!(out, "{}", plural(n, "warning")),
            (n, 0) => writeln!(out, "{}", plural(n, "error")),
            (e, w) => writeln!(out, "{}, {}", plural(e, "error"), plural(w, "warning")),
        };
        out
    }

    /// As one JSON array of objects with the fields of [`Diagnostic`].
    ///
    /// # Errors
    /// No known cause: the fields are text and numbers.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

impl From<Vec<Diagnostic>> for Diagnostics {
    fn from(findings: Vec<Diagnostic>) -> Self {
        Self::new(findings)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.human(false))
    }
}

impl std::error::Error for Diagnostics {}

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const BLUE: &str = "\x1b[1;34m";
const RESET: &str = "\x1b[0m";

impl Diagnostic {
    /// Results are dropped because writing to a string cannot fail.
    fn write_human(&self, out: &mut String, colour: bool) {
        let paint = |style: &str, text: &str| match colour {
            true => format!("{style}{text}{RESET}"),
            false => text.to_owned(),
        };
        let (word, strong) = match self.severity {
            Severity::Error => ("error", RED),
            Severity::Warning => ("warning", YELLOW),
        };
        let head = paint(strong, &format!("{word}[{}]", self.code.id));
        let _ = writeln!(out, "{head}{}", paint(BOLD, &format!(": {}", self.message)));
        let places = self
            .place
            .iter()
            .map(|p| (p, '^', strong))
            .chain(self.related.iter().map(|p| (p, '-', BLUE)));
        let width = places
            .clone()
            .map(|(p, ..)| p.line.to_string().len())
            .max()
            .unwrap_or(1);
        for (index, (place, mark, style)) in places.enumerate() {
            let arrow = paint(BLUE, if index == 0 { "-->" } else { ":::" });
            let bar = paint(BLUE, "|");
            let _ = writeln!(
                out,
                "{:width$}{arrow} {}:{}:{}",
                "", place.file, place.line, place.column
            );
            let _ = writeln!(out, "{:width$} {bar}", "");
            let number = paint(BLUE, &format!("{:>width$}", place.line));
            let _ = writeln!(out, "{number} {bar} {}", place.text);
            let marks = mark.to_string().repeat(place.underline_length);
            let note = paint(style, format!("{marks} {}", place.label).trim_end());
            let _ = writeln!(out, "{:width$} {bar} {:2$}{note}", "", "", place.underline_start);
        }
        for help in &self.help {
            let _ = writeln!(
                out,
                "{:width$} {} {}",
                "",
                paint(BLUE, "="),
                paint(BOLD, "help:") + " " + help
            );
        }
    }
}
