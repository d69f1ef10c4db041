//! Checks for look-ups whose caches hide the writes of their own pipeline.
//!
//! A write does not change caches: a cached row is returned unchanged until the cache's `ttl` is over. In a pipeline whose order makes events wait
//! for one another, that is unexpected. Writes of other pipelines have no order with respect to look-ups, cached or not, and there `ttl` is just the
//! possible age.

use super::super::{Config, Diagnostic, Lookup, Order, Pipeline, StepKind, codes};
use super::Report;
use super::cql::tables;

pub(super) fn check(config: &Config, pipeline: &Pipeline, report: &mut Report<'_>) {
    if pipeline.order == Order::None {
        return;
    }
    let keyspace = config.scylla.as_ref().and_then(|scylla| scylla.keyspace.as_ref());
    let keyspace = keyspace.map(|keyspace| keyspace.as_str());
    for step in &pipeline.steps {
        let StepKind::Lookup(Lookup {
            cql,
            cache: Some(cache),
            ..
        }) = &step.kind
        else {
            continue;
        };
        let read = tables(cql, keyspace);
        let written = pipeline.steps.iter().find_map(|other| {
            let StepKind::Write(write) = &other.kind else {
                return None;
            };
            // If a write names several tables, the first is the one that it changes; it only reads the others.
            let table = tables(&write.cql, keyspace).into_iter().next()?;
            read.contains(&table).then_some((other, write, table))
        });
        let Some((writer, write, table)) = written else {
            continue;
        };
        let message = format!(
            "`{}` keeps rows of {table}, which step `{}` writes: an event may find a row as it was before the write, or none",
            step.name.value, writer.name.value
        );
        report.findings.push(
            Diagnostic::warning(codes::HIDDEN_WRITE, message)
                .at(report.sources, cache.span, "writes do not update this cache")
                .with(report.sources, write.cql.span, "written here")
                .help(
                    "remove `cache` if an event must see what earlier ones wrote; otherwise it sees that after `ttl` at the latest, or after \
                     `missing_ttl` where there was no row: make both as short as a row may be old",
                ),
        );
    }
}
