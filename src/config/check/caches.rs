//! Checks for look-ups whose caches hide the writes of their own pipeline.
//!
//! A write does not change caches: a cached row is returned unchanged until the cache's `ttl` is over. In a pipeline whose order makes events wait
//! for one another, that is unexpected. Where none waits, it is so for what an event itself has written before it looks up. Writes of other pipelines
//! have no order with respect to look-ups, cached or not, and there `ttl` is just the possible age.

use super::super::{Config, Diagnostic, Lookup, Order, Pipeline, StepKind, codes};
use super::Report;
use super::cql::tables;

pub(super) fn check(config: &Config, pipeline: &Pipeline, report: &mut Report<'_>) {
    let keyspace = config.scylla.as_ref().and_then(|scylla| scylla.keyspace.as_ref());
    let keyspace = keyspace.map(|keyspace| keyspace.as_str());
    for (index, step) in pipeline.steps.iter().enumerate() {
        let StepKind::Lookup(Lookup {
            cql,
            cache: Some(cache),
            ..
        }) = &step.kind
        else {
            continue;
        };
        let read = tables(cql, keyspace);
        // Without an order, only the steps before it have run for certain when a look-up runs: those of the same event.
        let ordered = match pipeline.order {
            Order::None => &pipeline.steps[..index],
            Order::Key | Order::Partition => &pipeline.steps[..],
        };
        let written = ordered.iter().find_map(|other| {
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
        let whose = match pipeline.order {
            Order::None => "it wrote itself",
            Order::Key | Order::Partition => "earlier ones wrote",
        };
        let help = format!(
            "remove `cache` if an event must see what {whose}; otherwise it sees that after `ttl` at the latest, or after `missing_ttl` where \
             there was no row: make both as short as a row may be old"
        );
        report.findings.push(
            Diagnostic::warning(codes::HIDDEN_WRITE, message)
                .at(report.sources, cache.span, "writes do not update this cache")
                .with(report.sources, write.cql.span, "written here")
                .help(help),
        );
    }
}
