//! Checks for conditional writes beside unconditional ones of the same table.
//!
//! The database stamps conditional writes (`IF …`) by its own clock, while an unconditional write has the time of its record, which is usually older:
//! it is acknowledged, but its values are never seen. Nothing is lost if both name the columns that they write, and none is the same. For two
//! insertions the columns of the table's key are among them, which is not distinguished here, so this is a warning.

use std::ops::Range;

use super::super::{Config, Diagnostic, Pipeline, Step, StepKind, Write, codes};
use super::Report;
use super::cql::{tables, written};
use crate::store::cql::scan;

pub(super) fn check(config: &Config, pipeline: &Pipeline, report: &mut Report<'_>) {
    // The embedded store does not support conditions.
    let Some(scylla) = &config.scylla else { return };
    let keyspace = scylla.keyspace.as_ref().map(|keyspace| keyspace.as_str());
    for (step, write, table) in writes(pipeline, keyspace) {
        let Some(range) = condition(write) else { continue };
        let mut all = config.pipelines.values().flat_map(|other| writes(other, keyspace));
        let plain =
            all.find(|(_, other, changed)| *changed == table && condition(other).is_none() && meet(write, other));
        let Some((other, plain, _)) = plain else { continue };
        let message = format!(
            "`{}` writes {table} with the time of its record, and loses as long as that is older than what `{}` wrote by the database's clock",
            other.name.value, step.name.value
        );
        let place = report.sources.part(&write.cql, range);
        report.findings.push(
            Diagnostic::warning(codes::TWO_CLOCKS, message)
                .at(report.sources, place, "stamped by the database's clock")
                .with(report.sources, plain.cql.span, "stamped with the time of the record")
                .help("make all writes of the table conditional, or none, unless they write different columns"),
        );
    }
}

/// The writes of a pipeline, each with the table that it changes.
fn writes<'c>(
    pipeline: &'c Pipeline,
    keyspace: Option<&'c str>,
) -> impl Iterator<Item = (&'c Step, &'c Write, String)> {
    pipeline.steps.iter().filter_map(move |step| {
        let StepKind::Write(write) = &step.kind else {
            return None;
        };
        let table = tables(&write.cql, keyspace).into_iter().next()?;
        Some((step, write, table))
    })
}

/// Whether two writes may change the same column. A write whose columns are unknown may change any.
fn meet(one: &Write, other: &Write) -> bool {
    let (Some(one), Some(other)) = (written(&one.cql), written(&other.cql)) else {
        return true;
    };
    one.iter().any(|column| other.contains(column))
}

/// The range of the word `IF`, if the write has a condition.
fn condition(write: &Write) -> Option<Range<usize>> {
    let s = scan(&write.cql);
    s.first_word("if").map(|i| s.tokens[i].span.clone())
}
