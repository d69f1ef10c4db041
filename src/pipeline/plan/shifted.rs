//! What is said of a version whose values are not those of another, although both are compatible: Avro's rules for that do not look at logical types.

use super::Types;
use super::lossy::first;
use crate::avro::Plan;
use crate::avro::value::Type;
use crate::pipeline::finding::Finding;
use crate::pipeline::program::{Program, Source, event_path};

/// What becomes of a field.
#[derive(Clone, Copy, Default)]
struct Used {
    /// Its number is computed with, or is the output's key: its unit is lost there.
    number: bool,
    /// `string()` makes text of it.
    text: bool,
}

/// What is said of fields whose types are these in another version, where that changes what the pipeline makes of them.
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

/// The types, and what is said of them.
fn shift<'t>(before: &'t Type, now: &'t Type, used: Used) -> Option<(&'t Type, &'t Type, &'static str)> {
    let told = match (before, now) {
        (Type::String, Type::Uuid) | (Type::Uuid, Type::String) => {
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

/// What becomes of each field, by slot.
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
    if let Some(slot) = program.key.as_ref().and_then(|key| slot_of(program, &key.source)) {
        used[slot].number = true;
    }
    used
}

/// The slot of a value that is the input's as it is, by its name too.
fn slot_of(program: &Program, source: &Source) -> Option<usize> {
    match source {
        Source::Event(slot) => Some(*slot),
        Source::Named(index) => slot_of(program, &program.named_value(*index)?.1.source),
        _ => None,
    }
}
