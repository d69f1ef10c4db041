//! `on_error`, `retry`, `missing_deadline`: what a step does when its request keeps failing, and how long it waits for a row.

use std::time::Duration;

use super::codes;
use super::diagnostic::Diagnostic;
use super::reader::{Field, Section};
use super::step::OnMissing;
use super::values::{count, positive_duration};
use super::{Span, Spanned};

/// What happens to an event whose request still fails with a transient error at the last attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// `retry`: attempts go on without limit.
    Retry,
    /// `null`: the columns are null. Look-ups only.
    Null,
    /// `skip`: the event ends as skipped.
    Skip,
    /// `dead_letter`: the event ends as a dead letter.
    DeadLetter,
}

/// How a step handles transient failures.
#[derive(Clone, Debug)]
pub struct ErrorPolicy {
    /// Default [`OnError::Retry`].
    pub on_error: OnError,
    /// Number of attempts, including the first; `None` means that only the time limits them.
    pub max_attempts: Option<usize>,
    /// How long after the first failure the last attempt ends. Default 10 s.
    pub max_elapsed: Duration,
}

/// How long a look-up with `on_missing = "retry"` waits for its row, and what happens then.
#[derive(Clone, Debug)]
pub struct MissingDeadline {
    /// `missing_deadline`.
    pub deadline: Duration,
    /// `missing_then`; never [`OnMissing::Retry`]. Default [`OnMissing::Null`].
    pub then: OnMissing,
}

const ON_ERROR: [(&str, OnError); 4] = [
    ("retry", OnError::Retry),
    ("null", OnError::Null),
    ("skip", OnError::Skip),
    ("dead_letter", OnError::DeadLetter),
];

const ON_WRITE_ERROR: [(&str, OnError); 3] = [
    ("retry", OnError::Retry),
    ("skip", OnError::Skip),
    ("dead_letter", OnError::DeadLetter),
];

const MISSING_THEN: [(&str, OnMissing); 3] = [
    ("null", OnMissing::Null),
    ("skip", OnMissing::Skip),
    ("dead_letter", OnMissing::DeadLetter),
];

/// The default of `retry.max_elapsed`.
const MAX_ELAPSED: Duration = Duration::from_secs(10);

struct Retry {
    span: Span,
    max_attempts: Option<Spanned<usize>>,
    max_elapsed: Option<Duration>,
}

impl Retry {
    fn read(field: Field<'_>) -> Option<Retry> {
        let mut section = field.section()?;
        let span = section.span;
        let max_attempts = section.optional("max_attempts", count);
        let max_elapsed = section.optional("max_elapsed", positive_duration);
        section.finish();
        Some(Retry {
            span,
            max_attempts: max_attempts?,
            max_elapsed: max_elapsed?,
        })
    }
}

impl ErrorPolicy {
    pub(super) fn of_lookup(section: &mut Section<'_>) -> Option<Self> {
        Self::read(section, &ON_ERROR)
    }

    pub(super) fn of_write(section: &mut Section<'_>) -> Option<Self> {
        Self::read(section, &ON_WRITE_ERROR)
    }

    fn read(section: &mut Section<'_>, choices: &[(&'static str, OnError)]) -> Option<Self> {
        let on_error = section.or("on_error", OnError::Retry, |field| field.choice(choices));
        let retry = section.optional("retry", Retry::read);
        let (on_error, retry) = (on_error?, retry?);
        if let Some(retry) = &retry
            && on_error == OnError::Retry
        {
            let message = format!(
                "`{}` limits its attempts, but does not say what happens after the last",
                section.path
            );
            let finding = Diagnostic::error(codes::CONFLICT, message);
            let finding = finding.at(section.cx.sources, retry.span, "needs `on_error`");
            let others: Vec<String> = choices[1..].iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let help = format!(
                "add on_error = {}; or remove `retry`, to retry for ever",
                others.join(" or ")
            );
            section.cx.report(finding.help(help));
            return None;
        }
        Some(Self {
            on_error,
            max_attempts: retry.as_ref().and_then(|r| r.max_attempts.as_ref()).map(|n| n.value),
            max_elapsed: retry.and_then(|r| r.max_elapsed).unwrap_or(MAX_ELAPSED),
        })
    }
}

impl MissingDeadline {
    /// `Some(None)` if the keys are absent.
    pub(super) fn read(section: &mut Section<'_>, on_missing: Option<OnMissing>) -> Option<Option<Self>> {
        let deadline = section.optional("missing_deadline", positive_duration);
        let then = section.optional("missing_then", |field| field.choice(&MISSING_THEN));
        let (deadline, then) = (deadline?, then?);
        let conflict = match (deadline, then, on_missing?) {
            (None, None, _) => return Some(None),
            (Some(deadline), then, OnMissing::Retry) => {
                return Some(Some(Self {
                    deadline,
                    then: then.unwrap_or(OnMissing::Null),
                }));
            }
            (None, Some(_), OnMissing::Retry) => "`missing_then` needs a `missing_deadline`, and there is none",
            (_, _, OnMissing::Null | OnMissing::Skip | OnMissing::DeadLetter) => {
                "there is nothing to wait for without on_missing = \"retry\""
            }
        };
        let place = ["missing_deadline", "missing_then"]
            .into_iter()
            .find_map(|key| section.table.get(key));
        let span = place.map_or(section.span, |entry| entry.key.span);
        let message = format!("{conflict} in `{}`", section.path);
        let finding = Diagnostic::error(codes::CONFLICT, message).at(section.cx.sources, span, "");
        let help = "write on_missing = \"retry\", missing_deadline = \"30s\" and missing_then = \"skip\" together";
        section.cx.report(finding.help(help));
        None
    }
}
