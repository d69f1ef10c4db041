//! A CQL write: its statement and values.

use super::super::policy::Policy;
use super::names::{Builder, Columns};
use super::parse::ParsedStep;
use super::{Action, Place};
use crate::config::{self, OnError, Step as StepConfig};
use crate::store::cql::Ttl;
use crate::store::group::GroupOptions;
use crate::store::{AnyStore, Kind, Statement, StatementOptions};

/// A write, ready to run.
#[derive(Debug)]
pub struct Write {
    /// The statement.
    pub statement: Statement,
    /// Its values, in the order of its markers.
    pub binds: Vec<Place>,
    /// The marker of a TTL that is computed from the clock: the remaining time is computed at each attempt.
    pub waning: Option<usize>,
    /// Its position among the writes, from 0. It is added to the write timestamp in microseconds, so that of two writes to one row the later
    /// step wins.
    pub place: i64,
    /// Whether it may be repeated.
    pub idempotent: bool,
    /// When it stops trying.
    pub policy: Policy,
}

/// How its rows share batches. If the step counts attempts, each row is written alone, because the failure of a batch
/// is not attributable to one row.
pub(crate) fn grouping(write: &config::Write) -> Option<GroupOptions> {
    let counted = write.errors.on_error != OnError::Retry;
    write.group.as_ref().filter(|_| !counted).map(GroupOptions::from)
}

impl Builder {
    pub(super) async fn write(
        &mut self,
        step: &StepConfig,
        write: &config::Write,
        parsed: &ParsedStep,
        store: Option<&AnyStore>,
    ) -> Option<(Action, Columns)> {
        let idempotent = write.idempotent();
        let options = StatementOptions {
            kind: Kind::Write,
            ttl: match (write.ttl, &write.ttl_seconds) {
                (Some(ttl), _) => Some(Ttl::Fixed(ttl)),
                (None, Some(_)) => Some(Ttl::Bound),
                (None, None) => None,
            },
            group: grouping(write),
            idempotent,
            timeout: write.timeout,
            ..StatementOptions::from(&write.execution)
        };
        let statement = self.statement(store, &write.cql, &options).await?;
        let binds = self.binds(step, &statement, &write.cql, parsed);
        let place = self.writes;
        self.writes += 1;
        let ready = Write {
            statement,
            binds,
            waning: None,
            place,
            idempotent,
            policy: Policy::from(&write.errors),
        };
        Some((Action::Write(Box::new(ready)), Columns::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StepKind;

    #[test]
    fn rows_whose_attempts_are_counted_share_no_batch() {
        let shares = |keys: &str| {
            let text = format!(
                "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\n[scylla]\nnodes = [\"s:9042\"]\n\
                 [pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n[[pipelines.p.steps]]\nname = \"w\"\n\
                 write = \"INSERT INTO k.t (a) VALUES (:a)\"\ngroup = {{}}\n{keys}"
            );
            let (config, _) = config::load_str(vec![("t.toml".into(), text)], std::iter::empty()).unwrap();
            match &config.pipelines["p"].steps[0].kind {
                StepKind::Write(write) => grouping(write).is_some(),
                other => panic!("{other:?}"),
            }
        };
        assert!(shares(""));
        for on_error in ["skip", "dead_letter"] {
            assert!(!shares(&format!(
                "on_error = \"{on_error}\"\nretry = {{ max_attempts = 2 }}"
            )));
        }
    }
}
