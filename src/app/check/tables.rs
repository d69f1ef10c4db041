//! Asks the database for `check --online` whether the pipeline may use its tables.
//!
//! Not covered: logins other than user and password, such as client certificates, because their role is not known; functions; views.

use crate::config::{self, Config, Span, StepKind};
use crate::pipeline::finding::Finding;
use crate::pipeline::program::{Action, Program};
use crate::store::AnyStore;
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
