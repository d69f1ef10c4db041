//! Asks the database for `check --online` whether the pipeline may use its tables, and whether it keeps what is written to their columns.
//!
//! Not covered: logins other than user and password, such as client certificates, because their role is not known; functions; views.

use crate::avro::json::to_json;
use crate::avro::value::{Unit, Value};
use crate::config::{self, Config, Span, Spanned, StepKind, written};
use crate::pipeline::finding::Finding;
use crate::pipeline::program::{Action, Program};
use crate::store::AnyStore;
use crate::store::cql::scan;
use crate::store::scylla::rights::Permission;

/// Findings about tables that the user may not read or write.
pub(super) async fn refused(
    config: &Config,
    pipeline: &config::Pipeline,
    program: &Program,
    store: Option<&AnyStore>,
) -> Vec<Finding> {
    let user = config.scylla.as_ref().and_then(|scylla| scylla.username.as_deref());
    let (Some(AnyStore::Scylla(store)), Some(user)) = (store, user) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (step, declared) in program.steps.iter().zip(&pipeline.steps) {
        let Some((table, place, permission)) = needs(&step.action, &declared.kind) else {
            continue;
        };
        if store.lacks(user, table, permission).await {
            let what = match permission {
                Permission::Select => "read",
                Permission::Modify => "write to",
            };
            let message = format!("the database does not let user '{user}' {what} {table}");
            let help = format!("grant it: GRANT {} ON TABLE {table} TO \"{user}\"", permission.name());
            findings.push(Finding::new(place, message).help(help));
        }
    }
    findings
}

/// The table of a step's statement, the statement's place, and the permission that it needs.
fn needs<'a>(action: &'a Action, declared: &StepKind) -> Option<(&'a str, Span, Permission)> {
    match (action, declared) {
        (Action::Lookup(lookup), StepKind::Lookup(declared)) => {
            Some((lookup.statement.table()?, declared.cql.span, Permission::Select))
        }
        (Action::Write(write), StepKind::Write(declared)) => {
            Some((write.statement.table()?, declared.cql.span, Permission::Modify))
        }
        _ => None,
    }
}

/// Warnings about written columns that were dropped and added again.
pub(super) async fn dropped(pipeline: &config::Pipeline, program: &Program, store: Option<&AnyStore>) -> Vec<Finding> {
    let Some(AnyStore::Scylla(store)) = store else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (step, declared) in program.steps.iter().zip(&pipeline.steps) {
        if let (Action::Write(write), StepKind::Write(declared)) = (&step.action, &declared.kind)
            && let Some(table) = write.statement.table()
        {
            let dropped = store.dropped_columns(table).await;
            findings.extend(discarded(table, &declared.cql, &dropped));
        }
    }
    findings
}

/// Warnings about the columns that a statement writes and that were once dropped, each at a time in milliseconds since 1970. A statement with a condition has
/// the database's own timestamp, which is newer.
fn discarded(table: &str, cql: &Spanned<String>, dropped: &[(String, i64)]) -> Vec<Finding> {
    if dropped.is_empty() || scan(cql).has_word("if") {
        return Vec::new();
    }
    let columns = written(cql).unwrap_or_default();
    let again = dropped.iter().filter(|(column, _)| columns.contains(column));
    let told = again.map(|(column, time)| {
        let time = to_json(&Value::Timestamp(*time, Unit::Millis));
        let message = format!(
            "column {column} of {table} was dropped at {} and added again: the database discards its values of records up to that time",
            time.as_str().unwrap_or_default()
        );
        Finding::new(cql.span, message).help("give the column another name, if such records are still to come or to be replayed")
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_column_that_was_dropped_is_told_with_the_time() {
        let text = "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n\
                    [pipelines.p]\nsource = { topics = [\"t\"], group = \"g\" }\n";
        let (config, _) = config::load_str(vec![("t.toml".into(), text.into())], std::iter::empty()).unwrap();
        let place = config.pipelines["p"].span;
        let dropped = [("b".to_owned(), 86_400_250), ("C d".to_owned(), 0), ("e".to_owned(), 0)];
        let told = |cql: &str| {
            let cql = Spanned::new(cql.to_owned(), place);
            let found = discarded("k.t", &cql, &dropped);
            found.into_iter().map(|finding| finding.message).collect::<Vec<_>>()
        };
        let message = |column: &str, time: &str| {
            format!(
                "column {column} of k.t was dropped at {time} and added again: the database discards its values of records up to that time"
            )
        };
        let b = message("b", "1970-01-02T00:00:00.250Z");
        assert_eq!(told("INSERT INTO t (id, B) VALUES (:id, :b)"), [b.as_str()]);
        assert_eq!(
            told("UPDATE t SET b = :b, \"C d\" = :c WHERE id = :id"),
            [b, message("C d", "1970-01-01T00:00:00.000Z")]
        );
        for unaffected in [
            "INSERT INTO t (id, a) VALUES (:b, :e)",
            "INSERT INTO t (id, b) VALUES (:id, :b) IF NOT EXISTS",
            "DELETE b FROM t WHERE id = :id",
        ] {
            assert_eq!(told(unaffected), [""; 0], "{unaffected}");
        }
    }
}
