//! A look-up in a reference: its key, and the fields that it provides to later steps.

use std::sync::Arc;

use super::super::finding::Finding;
use super::names::{Builder, Columns, columns};
use super::parse::ParsedStep;
use super::{Action, Place};
use crate::avro::value::Type;
use crate::config::{self, MissingDeadline, OnMissing};
use crate::reference::{Reference, References};
use crate::store::types::bindable;

/// A look-up in a reference, ready to run.
#[derive(Debug)]
pub struct Refer {
    /// The collection.
    pub reference: Arc<Reference>,
    /// The key to look up.
    pub key: Place,
    /// What to do without a document.
    pub on_missing: OnMissing,
    /// How long to wait for a document, and what to do then.
    pub missing: Option<MissingDeadline>,
}

/// The finding about a value that cannot be the key of a reference; none if it can.
pub fn wrong_key(key: &Place, ty: &Type, reference: &Reference) -> Option<Finding> {
    let why = bindable(ty, &reference.shape.key_type).err()?;
    let shape = &reference.shape;
    let message = format!(
        "the key of reference '{}' cannot take {}: {why}, which {}.{} is",
        shape.name, key.what, shape.collection, shape.key
    );
    let help = "look it up by another field, or convert with a CEL function such as string(...) or int(...)";
    Some(Finding::new(key.span, message).help(help))
}

impl Builder {
    pub(super) fn refer(
        &mut self,
        index: usize,
        wanted: &config::ReferenceStep,
        parsed: &ParsedStep,
        references: &References,
    ) -> Option<(Action, Columns)> {
        let Some(reference) = references.get(&wanted.reference) else {
            let message = format!("there is no reference '{}'", wanted.reference.value);
            let finding = Finding::new(wanted.reference.span, message);
            self.findings.push(finding.help("declare it: [references.NAME]"));
            return None;
        };
        let (_, e, span) = parsed.binds.first()?;
        let key = self.place(e, *span)?;
        if let Some(ty) = self.static_type(e) {
            self.findings.extend(wrong_key(&key, &ty, reference));
        }
        let columns = columns(index, reference.shape.fields.iter().cloned());
        let refer = Refer {
            reference: reference.clone(),
            key,
            on_missing: wanted.on_missing,
            missing: wanted.missing_deadline.clone(),
        };
        Some((Action::Reference(Box::new(refer)), columns))
    }
}
