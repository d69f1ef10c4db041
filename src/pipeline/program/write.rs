//! A write by CQL: its statement and values.

use super::super::policy::Policy;
use super::names::{Builder, Columns};
use super::parse::ParsedStep;
use super::{Action, Place};
use crate::config::{self, Step as StepConfig};
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
    /// Its place among the writes, from 0. By so many microseconds it is later than the first: of two that touch one row the later step wins.
    pub place: i64,
    /// Whether it may be repeated.
    pub idempotent: bool,
    /// When it stops trying.
    pub policy: Policy,
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
            group: write.group.as_ref().map(GroupOptions::from),
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
            place,
            idempotent,
            policy: Policy::from(&write.errors),
        };
        Some((Action::Write(Box::new(ready)), Columns::new()))
    }
}
