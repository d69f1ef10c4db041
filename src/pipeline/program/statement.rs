//! What look-ups and writes have in common: a statement that the database prepares, and values for its markers.

use super::super::failure::Failure;
use super::super::finding::Finding;
use super::Place;
use super::names::Builder;
use super::parse::ParsedStep;
use crate::config::{Spanned, Step as StepConfig};
use crate::retry::Class;
use crate::store::types::bindable;
use crate::store::{AnyStore, Statement, StatementOptions, Store};

impl Builder {
    /// The statement as the database prepares it; none where that fails, and why is noted.
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
            if !statement.markers().iter().any(|m| m.name == name.value) {
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
                let bound = parsed.binds.iter().find(|(name, ..)| name.value == marker.name);
                let (place, ty) = match bound {
                    Some((_, e, span)) => (self.place(e, *span)?, self.static_type(e)),
                    None => (
                        Place {
                            source: self.slot(&marker.name, cql.span),
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

/// What is said where a value does not fit a marker.
pub fn mismatch(place: &Place, marker: &str, why: &str) -> Finding {
    Finding::new(
        place.span,
        format!("marker :{marker} cannot take {}: {why}", place.what),
    )
    .help(
        "bind another field, change the column's type, or convert with a CEL function such as string(...) or int(...)",
    )
}
