//! What look-ups and writes share: a prepared statement, and values for its markers.

use super::super::expression::Expression;
use super::super::failure::Failure;
use super::super::finding::Finding;
use super::Place;
use super::names::Builder;
use super::parse::ParsedStep;
use crate::config::{Span, Spanned, Step as StepConfig};
use crate::retry::Class;
use crate::store::cql::TTL_MARKER;
use crate::store::types::bindable;
use crate::store::{AnyStore, Marker, Statement, StatementOptions, Store};

impl Builder {
    /// The statement as prepared by the database; none if that fails, with the reason noted.
    pub(super) async fn statement(
        &mut self,
        store: Option<&AnyStore>,
        cql: &Spanned<String>,
        options: &StatementOptions,
    ) -> Option<Statement> {
        let Some(store) = store else {
            self.findings.push(
                Finding::new(cql.span, "this step needs a database, and none is configured")
                    .help("add a [scylla] section, or store = \"sqlite:PATH\""),
            );
            return None;
        };
        match store.prepare(cql, options).await {
            Ok(statement) => Some(statement),
            Err(error) if error.class == Class::Transient => {
                self.unavailable = Some(Failure::transient(error.label, format!("the database: {error}")));
                None
            }
            Err(error) => {
                let message = format!("the database refuses this statement: {error}");
                self.findings
                    .push(Finding::new(cql.span, message).help("compare its names and types with those of the table"));
                None
            }
        }
    }

    /// Where the values of the statement's markers come from.
    pub(super) fn binds(
        &mut self,
        step: &StepConfig,
        statement: &Statement,
        cql: &Spanned<String>,
        parsed: &ParsedStep,
    ) -> Vec<Place> {
        for (name, ..) in &parsed.binds {
            let takes = |m: &Marker| bound(parsed, &m.name).is_some_and(|(bound, ..)| bound == name);
            if !statement.markers().iter().any(takes) {
                let markers: Vec<_> = statement.markers().iter().map(|m| format!(":{}", m.name)).collect();
                self.findings.push(
                    Finding::new(
                        name.span,
                        format!(
                            "step '{}' binds '{}', which its statement does not have",
                            step.name.value, name.value
                        ),
                    )
                    .help(format!(
                        "its markers are {}",
                        if markers.is_empty() {
                            "none".to_owned()
                        } else {
                            markers.join(", ")
                        }
                    )),
                );
            }
        }
        statement
            .markers()
            .iter()
            .filter_map(|marker| {
                let (place, ty) = match bound(parsed, &marker.name) {
                    Some((_, e, span)) => (self.place(e, *span)?, self.static_type(e)),
                    None => (
                        Place {
                            source: self.unbound(&marker.name, cql.span),
                            span: cql.span,
                            what: format!("event.{}", marker.name).into(),
                        },
                        None,
                    ),
                };
                if let Some(ty) = ty
                    && let Err(why) = bindable(&ty, &marker.ty)
                {
                    self.findings.push(mismatch(&place, &marker.name, &why));
                }
                Some(place)
            })
            .collect()
    }
}

/// What a marker is bound to. As in CQL, its case does not matter; but an exact match wins, because quoted markers and those of SQLite may
/// differ in case only.
fn bound<'p>(parsed: &'p ParsedStep, marker: &str) -> Option<&'p (Spanned<String>, Expression, Span)> {
    let binds = || parsed.binds.iter();
    binds()
        .find(|(name, ..)| name.value == marker)
        .or_else(|| binds().find(|(name, ..)| name.eq_ignore_ascii_case(marker)))
}

/// What findings call a marker. That of a bound TTL has the name of its key, because nobody wrote the marker.
pub fn called(marker: &str) -> String {
    match marker {
        TTL_MARKER => "`ttl_seconds`".to_owned(),
        _ => format!("marker :{marker}"),
    }
}

/// The finding about a value that does not fit a marker.
pub fn mismatch(place: &Place, marker: &str, why: &str) -> Finding {
    let help = match marker {
        TTL_MARKER => {
            "it is a whole number of seconds: take another field, or convert with a CEL function such as int(...)"
        }
        _ => {
            "bind another field, change the column's type, or convert with a CEL function such as string(...) or int(...)"
        }
    };
    let message = format!("{} cannot take {}: {why}", called(marker), place.what);
    Finding::new(place.span, message).help(help)
}

#[cfg(test)]
mod tests {
    use crate::config;
    use crate::demo::cluster::Scratch;
    use crate::pipeline::prepare::NotPrepared;
    use crate::pipeline::program::{Action, parse};
    use crate::reference::References;
    use crate::store::AnyStore;
    use crate::store::sqlite::{SqliteOptions, SqliteStore};

    /// What the markers `:userId` and `:n` are bound to, or the errors.
    async fn found(bind: &str) -> Result<String, String> {
        let scratch = Scratch::new().unwrap();
        let store = SqliteStore::open(&SqliteOptions::new(scratch.database())).unwrap();
        let table = "CREATE TABLE t (id text PRIMARY KEY, n bigint) WITHOUT ROWID";
        store.execute_script(table).await.unwrap();
        let toml = format!(
            "store = \"sqlite::memory:\"\n[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\n\
             [pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n[[pipelines.p.steps]]\nname = \"w\"\n\
             write = \"INSERT INTO t (id, n) VALUES (:userId, :n)\"\nbind = {{ {bind} }}\n"
        );
        let (config, _) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
        let store = AnyStore::Sqlite(store);
        let parsed = parse(&config.pipelines["p"]).unwrap();
        let prepared = parsed
            .prepare(Some(&store), &References::default(), &Default::default())
            .await;
        match prepared {
            Ok(program) => match &program.steps[0].action {
                Action::Write(write) => Ok(write.binds.iter().map(|place| format!("{} ", place.what)).collect()),
                other => panic!("{other:?}"),
            },
            Err(NotPrepared::Findings(findings)) => Err(findings.into_iter().map(|f| f.message).collect()),
            Err(NotPrepared::Unavailable(failure)) => panic!("{failure}"),
        }
    }

    #[tokio::test]
    async fn the_case_of_a_marker_does_not_count_for_what_it_is_bound_to() {
        for (bind, wanted) in [
            ("", "event.userId event.n "),
            ("userId = \"event.user.id\"", "event.user.id event.n "),
            ("USERID = \"event.user.id\", N = \"event.a\"", "event.user.id event.a "),
        ] {
            assert_eq!(found(bind).await.as_deref(), Ok(wanted), "{bind}");
        }
        // If two binds differ only in case, one of them has no marker.
        let refused = found("USERID = \"event.a\", userId = \"event.b\"").await;
        let why = "step 'w' binds 'USERID', which its statement does not have";
        assert_eq!(refused, Err(why.to_owned()));
    }
}
