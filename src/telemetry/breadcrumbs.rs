//! Keeps the last warnings and errors of each pipeline, for the Sentry event that follows them.
//!
//! An event says what failed. What led to it (a breaker that opened, a commit that was refused) is in the log, on another system. So an event
//! includes the last lines of its pipeline and of the process.
//!
//! Invariants: bounded memory, sixteen lines per pipeline; a line is scrubbed before it is kept; lines that the log leaves out (its filter, its
//! limits) are not kept either, so that a flood costs nothing here.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use sentry::Level;
use sentry::protocol::{Breadcrumb, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::scrub::scrub;

/// Number of lines that are kept per pipeline, and that an event includes.
const KEPT: usize = 16;

/// Number of pipelines that are remembered. Only a process that has loaded many configurations has more.
const PIPELINES: usize = 256;

/// The last lines. Clones share them: one is a layer of the log, Sentry reads the other.
#[derive(Debug, Clone, Default)]
pub struct Breadcrumbs(Arc<Mutex<HashMap<String, VecDeque<Breadcrumb>>>>);

impl Breadcrumbs {
    /// The last lines of this pipeline and of no pipeline, oldest first. Without a name, the last lines of all.
    pub fn last(&self, pipeline: Option<&str>) -> Vec<Breadcrumb> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines: Vec<_> = match pipeline {
            Some(name) => [name, ""].iter().filter_map(|of| kept.get(*of)).flatten().collect(),
            None => kept.values().flatten().collect(),
        };
        lines.sort_by_key(|line| line.timestamp);
        lines.into_iter().rev().take(KEPT).rev().cloned().collect()
    }

    fn keep(&self, pipeline: String, line: Breadcrumb) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= PIPELINES && !kept.contains_key(&pipeline) {
            kept.clear();
        }
        let lines = kept.entry(pipeline).or_default();
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

impl<S: Subscriber> Layer<S> for Breadcrumbs {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warning,
            _ => return,
        };
        let mut line = Line::default();
        event.record(&mut line);
        let breadcrumb = Breadcrumb {
            timestamp: SystemTime::now(),
            ty: "log".into(),
            category: Some(event.metadata().target().into()),
            level,
            message: Some(line.message),
            data: line.fields,
        };
        self.keep(line.pipeline, breadcrumb);
    }
}

/// The contents of a log line.
#[derive(Default)]
struct Line {
    pipeline: String,
    message: String,
    fields: BTreeMap<String, Value>,
}

impl Line {
    fn text(&mut self, field: &Field, text: &str) {
        match field.name() {
            "message" => self.message = scrub(text),
            "pipeline" => text.clone_into(&mut self.pipeline),
            name => drop(self.fields.insert(name.into(), scrub(text).into())),
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.insert(field.name().into(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.insert(field.name().into(), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.insert(field.name().into(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    fn after(say: impl FnOnce()) -> Breadcrumbs {
        let kept = Breadcrumbs::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(kept.clone()), say);
        kept
    }

    fn messages(lines: &[Breadcrumb]) -> Vec<&str> {
        lines.iter().filter_map(|line| line.message.as_deref()).collect()
    }

    #[test]
    fn an_event_sees_the_lines_of_its_pipeline_and_of_the_process() {
        let kept = after(|| {
            tracing::warn!("breaker open");
            tracing::info!(pipeline = "a", "taken");
            tracing::error!(pipeline = %"a", step = "profile", offset = 1_234_567, attempts = 3_u64, "refused: \"bob\"");
            tracing::warn!(pipeline = "b", "commit");
        });
        let lines = kept.last(Some("a"));
        assert_eq!(messages(&lines), ["breaker open", "refused: \"…\""]);
        assert_eq!((lines[0].level, lines[1].level), (Level::Warning, Level::Error));
        assert_eq!(lines[1].data["step"], "profile");
        assert_eq!(
            (&lines[1].data["offset"], &lines[1].data["attempts"]),
            (&1_234_567.into(), &3.into())
        );
        assert!(lines[1].category.as_deref().unwrap().ends_with("breadcrumbs::tests"));
        assert_eq!(messages(&kept.last(None)).len(), 3);
    }

    #[test]
    fn a_loud_pipeline_takes_no_room_from_a_quiet_one() {
        let kept = after(|| {
            tracing::warn!(pipeline = "quiet", "once");
            (0..10 * KEPT).for_each(|n| tracing::warn!(pipeline = "loud", "line {n}"));
            (0..10 * PIPELINES)
                .for_each(|n| tracing::warn!(pipeline = format!("gone {}", n % (PIPELINES - 3)), "gone"));
        });
        assert_eq!(messages(&kept.last(Some("quiet"))), ["once"]);
        let loud = kept.last(Some("loud"));
        assert_eq!(
            (loud.len(), loud[KEPT - 1].message.as_deref()),
            (KEPT, Some("line 159"))
        );
        let lines: usize = kept.0.lock().unwrap().values().map(VecDeque::len).sum();
        assert!(lines <= PIPELINES * KEPT);
    }
}
