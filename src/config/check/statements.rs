//! Checks the statements of look-ups and writes: their kind, their markers, and whether they are idempotent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::suggest::{list, nearest};
use super::super::{Binding, Config, Pipeline, Spanned, StepKind, Write, codes};
use super::Report;
use super::cql::unrepeatable;
use crate::store::cql::{TokenKind, scan};

/// The latest expiry of a row that Cassandra can store in its older format, since 1970: 2038-01-19T03:14:06Z.
const LAST_END: Duration = Duration::from_secs(2_147_483_646);

pub(super) fn check(config: &Config, pipeline: &Pipeline, report: &mut Report<'_>) {
    for step in &pipeline.steps {
        match &step.kind {
            StepKind::Lookup(lookup) => {
                statement_kind(&lookup.cql, "lookup", &["SELECT"], report);
                markers(&lookup.cql, &lookup.bind, report);
            }
            StepKind::Write(write) => {
                statement_kind(&write.cql, "write", &["INSERT", "UPDATE", "DELETE"], report);
                markers(&write.cql, &write.bind, report);
                repeatable(write, report);
                using(&write.cql, report);
                life(write, report);
                if config.scylla.is_some() {
                    end(write, SystemTime::now(), report);
                }
            }
            StepKind::Filter(_) | StepKind::Set(_) | StepKind::Reference(_) | StepKind::Custom(_) => {}
        }
    }
}

fn statement_kind(cql: &Spanned<String>, step: &str, verbs: &[&str], report: &mut Report<'_>) {
    let s = scan(cql);
    let Some(first) = s.tokens.first() else { return };
    if verbs.iter().any(|verb| s.is_word(0, verb)) {
        return;
    }
    let span = report.sources.part(cql, first.span.clone());
    let message = format!("a `{step}` cannot run this statement");
    let help = match step {
        "lookup" => "a look-up reads; a statement that changes rows belongs in a `write`",
        _ => "a write changes rows; a SELECT belongs in a `lookup`, and tables are made outside of Messina",
    };
    report.error(
        codes::WRONG_STATEMENT,
        message,
        span,
        format!("expected {}", list(verbs)),
        help,
    );
}

fn markers(cql: &Spanned<String>, bind: &[Binding], report: &mut Report<'_>) {
    let s = scan(cql);
    if let Some(token) = s.tokens.iter().find(|token| token.kind == TokenKind::Positional) {
        let span = report.sources.part(cql, token.span.clone());
        let message = "positional markers cannot be bound by name".to_owned();
        let help = "write :name, and name it in `bind` or after a field of the event";
        report.error(codes::POSITIONAL_MARKER, message, span, "expected `:name`", help);
        return;
    }
    let names: Vec<&str> = s.markers().collect();
    for binding in bind {
        let name = binding.name.as_str();
        // Unquoted markers are case-insensitive in CQL.
        if names.iter().any(|marker| marker.eq_ignore_ascii_case(name)) {
            continue;
        }
        let near = nearest(name, names.iter().copied());
        let label = near.map_or("no such marker".to_owned(), |near| format!("did you mean `{near}`?"));
        let help = match names[..] {
            [] => "the statement has no markers: write :name where the value belongs".to_owned(),
            _ => format!("the statement has {}", list(&names)),
        };
        let message = format!("the statement has no marker `:{name}`");
        report.error(codes::UNUSED_BIND, message, binding.name.span, label, help);
    }
}

fn repeatable(write: &Write, report: &mut Report<'_>) {
    if !write.idempotent() {
        return;
    }
    let Some(found) = unrepeatable(&write.cql) else {
        return;
    };
    if found.unless.is_some() && write.idempotent_stated.is_some() {
        return; // The user has said that the column is one of those.
    }
    let span = report.sources.part(&write.cql, found.range);
    let message = "this write does not converge when it is repeated after a crash".to_owned();
    let help = match found.unless {
        None => "make it repeatable, with values of the event alone; or say `idempotent = false`: it is then never retried blindly"
            .to_owned(),
        Some(unless) => format!("say `idempotent = true` if the column is {unless}, and `idempotent = false` otherwise"),
    };
    report.error(codes::NOT_REPEATABLE, message, span, found.reason, help);
}

/// A deleted row has no time to live: the database would refuse the clause.
fn life(write: &Write, report: &mut Report<'_>) {
    let s = scan(&write.cql);
    let Some(first) = s.tokens.first().filter(|_| s.is_word(0, "delete")) else {
        return;
    };
    let key = match (&write.ttl, &write.ttl_seconds) {
        (Some(_), _) => "ttl",
        (None, Some(_)) => "ttl_seconds",
        (None, None) => return,
    };
    let span = report.sources.part(&write.cql, first.span.clone());
    let message = format!("`{key}` is for rows that are written, but this statement deletes");
    report.error(
        codes::CONFLICT,
        message,
        span,
        "no row is left",
        format!("remove `{key}`"),
    );
}

/// Cassandra refuses a row that expires too late only when it is written, not when the statement is prepared.
fn end(write: &Write, now: SystemTime, report: &mut Report<'_>) {
    let (Some(ttl), Ok(now)) = (write.ttl, now.duration_since(UNIX_EPOCH)) else {
        return;
    };
    if now.saturating_add(ttl) <= LAST_END {
        return;
    }
    let message = "the row is to live until after 2038-01-19, which Cassandra refuses up to 4.1".to_owned();
    let help = "give it a shorter `ttl`, unless the database is ScyllaDB, or Cassandra 5.0 with storage_compatibility_mode: NONE";
    report.warning(
        codes::LATE_END,
        message,
        write.cql.span,
        "halts at its first record there",
        help,
    );
}

/// Reports what a statement sets in a `USING` clause of its own. The clause ends at SET, at WHERE or at the end; AND
/// joins its parts.
fn using(cql: &Spanned<String>, report: &mut Report<'_>) {
    let s = scan(cql);
    let Some(start) = s.first_word("using") else { return };
    let ends = |i: &usize| s.is_word(*i, "set") || s.is_word(*i, "where");
    let end = (start..s.tokens.len()).find(ends).unwrap_or(s.tokens.len());
    let part = |word: &str| {
        let joined = |i: &usize| (s.is_word(*i, "using") || s.is_word(*i, "and")) && s.is_word(*i + 1, word);
        let found = (start..end).find(joined)?;
        Some(s.tokens[found].span.start..s.tokens[found + 1].span.end)
    };
    for (word, help) in [
        (
            "timestamp",
            "remove the clause: the timestamp is made from the record's own, so that a replay converges",
        ),
        (
            "ttl",
            "remove the clause, and give the step a key such as ttl = \"30d\"",
        ),
    ] {
        let Some(range) = part(word) else { continue };
        let span = report.sources.part(cql, range);
        let message = format!("`USING {}` is set by Messina", word.to_ascii_uppercase());
        report.error(codes::USING, message, span, "not here", help);
    }
}
