//! The warning about a schema version whose values differ in meaning from another's although both are compatible, because Avro's rules ignore logical
//! types.

use super::Types;
use super::lossy::first;
use crate::avro::Plan;
use crate::avro::value::Type;
use crate::pipeline::finding::Finding;
use crate::pipeline::program::{Action, Place, Program, Source, Step, event_path};
use crate::store::Statement;
use crate::store::types::ColumnType;

/// How a field is used.
#[derive(Clone, Copy, Default)]
struct Used {
    /// As a number in a computation, or in the output's key: the unit is lost there.
    number: bool,
    /// As the argument of `string()`.
    text: bool,
    /// Unchanged, in a place where its text shows how it was written.
    written: bool,
}

/// The warnings about fields that had the types `other` in another version, if the difference changes what the pipeline
/// does with them.
pub fn shifted(program: &Program, other: &[Type], plan: &Plan) -> Vec<Finding> {
    let used = used(program, plan);
    let mut findings = Vec::new();
    for (slot, ((path, span), before)) in program.paths.iter().zip(other).enumerate() {
        let now = plan.slot_type(slot);
        let Some((before, now, told)) = first(before, &now, &|before, now| shift(before, now, used[slot])) else {
            continue;
        };
        let message = format!(
            "{} is {now} here and {before} in another version: {told}",
            event_path(path)
        );
        findings.push(
            Finding::new(*span, message)
                .help("give the field one type in all versions, or a new name with the new type"),
        );
    }
    findings
}

/// The two types, and the consequence of the difference.
fn shift<'t>(before: &'t Type, now: &'t Type, used: Used) -> Option<(&'t Type, &'t Type, &'static str)> {
    let told = match (before, now) {
        (Type::String, Type::Uuid) | (Type::Uuid, Type::String) if used.number || used.written => {
            "its text is in lower case with hyphens where it is uuid, and as it was written where it is string"
        }
        (Type::Time(a), Type::Time(b))
        | (Type::Timestamp(a), Type::Timestamp(b))
        | (Type::LocalTimestamp(a), Type::LocalTimestamp(b))
            if a != b && used.number =>
        {
            "what an expression or a key makes of its number differs"
        }
        (Type::Decimal { scale: a, .. }, Type::Decimal { scale: b, .. }) if a != b && used.text => {
            "what string() makes of it has other digits"
        }
        _ => return None,
    };
    Some((before, now, told))
}

/// How each field is used, by slot.
fn used(program: &Program, plan: &Plan) -> Vec<Used> {
    let mut used = vec![Used::default(); program.paths.len()];
    for (place, _) in (Types { program, plan }).places() {
        let Source::Computed(computed) = &place.source else {
            continue;
        };
        for (input, source) in computed.inputs.iter().enumerate() {
            if let Some(slot) = slot_of(program, source) {
                used[slot].number = true;
                used[slot].text |= computed.expression.makes_text(input);
            }
        }
    }
    let outputs = program.outputs.iter().map(|(_, place)| place);
    for place in program.steps.iter().flat_map(writing).chain(outputs) {
        if let Some(slot) = slot_of(program, &place.source) {
            used[slot].written = true;
        }
    }
    if let Some(slot) = program.key.as_ref().and_then(|key| slot_of(program, &key.source)) {
        used[slot].number = true;
    }
    used
}

/// Places where a step takes values unchanged and their text shows how they were written.
fn writing(step: &Step) -> Vec<&Place> {
    match &step.action {
        Action::Lookup(lookup) => in_text(&lookup.statement, &lookup.binds),
        Action::Write(write) => in_text(&write.statement, &write.binds),
        Action::Reference(refer) if has_text(&refer.reference.shape.key_type) => vec![&refer.key],
        Action::Custom(custom) => custom.binds.iter().collect(),
        Action::Reference(_) | Action::Filter(_) | Action::Set { .. } => Vec::new(),
    }
}

/// The values that a statement binds to text.
fn in_text<'p>(statement: &Statement, binds: &'p [Place]) -> Vec<&'p Place> {
    let bound = statement.markers().iter().zip(binds);
    let text = bound.filter(|(marker, _)| has_text(&marker.ty));
    text.map(|(_, place)| place).collect()
}

/// Whether a column, or part of it, is text. A column of type `uuid` has one form, however the value was written.
fn has_text(column: &ColumnType) -> bool {
    match column {
        ColumnType::Text | ColumnType::Ascii | ColumnType::Any | ColumnType::Numeric(_) => true,
        ColumnType::List(item) | ColumnType::Set(item) | ColumnType::Vector(item, _) => has_text(item),
        ColumnType::Map(key, value) => has_text(key) || has_text(value),
        ColumnType::Tuple(items) => items.iter().any(has_text),
        ColumnType::Udt { fields, .. } => fields.iter().any(|(_, ty)| has_text(ty)),
        _ => false,
    }
}

/// The slot of an input value that is passed on unchanged, directly or by its name.
fn slot_of(program: &Program, source: &Source) -> Option<usize> {
    match source {
        Source::Event(slot) => Some(*slot),
        Source::Named(index) => slot_of(program, &program.named_value(*index)?.1.source),
        _ => None,
    }
}
