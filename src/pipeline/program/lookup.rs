//! A CQL look-up: its statement and values, and the columns that it provides to later steps.

use std::sync::Arc;
use std::time::Duration;

use super::super::finding::Finding;
use super::super::policy::Policy;
use super::names::{Builder, Columns, columns};
use super::parse::ParsedStep;
use super::{Action, Place, Source};
use crate::avro::value::Value;
use crate::config::{self, MissingDeadline, OnMissing, Span, Step as StepConfig};
use crate::store::cache::{Cache, CacheOptions, Hit};
use crate::store::{AnyStore, Kind, Statement, StatementOptions};

/// The name of all rows of a look-up together.
const ROWS: &str = "rows";

/// A look-up, ready to run.
#[derive(Debug)]
pub struct Lookup {
    /// The statement.
    pub statement: Statement,
    /// Its values, in the order of its markers.
    pub binds: Vec<Place>,
    /// The cache of its rows.
    pub cache: Option<Arc<Cache>>,
    /// What to do without a row.
    pub on_missing: OnMissing,
    /// How long to wait for a row, and what to do then.
    pub missing: Option<MissingDeadline>,
    /// When it stops trying.
    pub policy: Policy,
    /// The result without a row if all rows are wanted: empty lists.
    pub none: Option<Hit>,
}

impl Builder {
    pub(super) async fn lookup(
        &mut self,
        index: usize,
        step: &StepConfig,
        lookup: &config::Lookup,
        parsed: &ParsedStep,
        store: Option<&AnyStore>,
    ) -> Option<(Action, Columns)> {
        let options = StatementOptions {
            kind: Kind::Lookup,
            rows: lookup.rows,
            timeout: lookup.timeout,
            ..StatementOptions::from(&lookup.execution)
        };
        let statement = self.statement(store, &lookup.cql, &options).await?;
        let binds = self.binds(step, &statement, &lookup.cql, parsed);
        let columns = self.columns_of(index, &statement, lookup.cql.span);
        let none = statement.records().map(|_| {
            let empty = statement.columns().iter().map(|_| Value::List(Vec::new()));
            Arc::new(Some(empty.collect()))
        });
        let cache = lookup.cache.as_ref().map(|kept| {
            let mut options = CacheOptions::from(kept);
            // Every attempt must ask for a row that is awaited: a cached absence would use up its time.
            if lookup.on_missing == OnMissing::Retry {
                options.missing_ttl = Duration::ZERO;
            }
            Arc::new(Cache::new(options))
        });
        let ready = Lookup {
            statement,
            binds,
            cache,
            on_missing: lookup.on_missing,
            missing: lookup.missing_deadline.clone(),
            policy: Policy::from(&lookup.errors),
            none,
        };
        Some((Action::Lookup(Box::new(ready)), columns))
    }

    /// The columns that a look-up provides to later expressions.
    fn columns_of(&mut self, step: usize, statement: &Statement, span: Span) -> Columns {
        let mut columns = columns(step, statement.gives());
        if let Some(records) = statement.records() {
            if columns.iter().any(|(name, ..)| name == ROWS) {
                let message = "a column is named 'rows', which is the name of all rows together";
                self.findings
                    .push(Finding::new(span, message).help("give it another name: SELECT rows AS ..."));
            }
            columns.push((ROWS.to_owned(), records.nullable(), Source::Rows { step }));
        }
        columns
    }
}
