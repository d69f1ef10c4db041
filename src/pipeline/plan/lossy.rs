//! The warning about input values that a field of the output cannot hold: such a record becomes a dead letter; values are never rounded or truncated.

use crate::avro::value::Type;
use crate::avro::{Renamed, Unplaced, change_unit, symbols_told};
use crate::config::Span;
use crate::pipeline::expression::unit;
use crate::pipeline::finding::Finding;

/// The first result of `says` for a pair of corresponding types: the two types themselves, or those within their lists, maps and
/// records.
pub(super) fn first<'t, T>(from: &'t Type, to: &'t Type, says: &impl Fn(&'t Type, &'t Type) -> Option<T>) -> Option<T> {
    let (from, to) = (from.non_null(), to.non_null());
    match (from, to) {
        (Type::List(from), Type::List(to)) | (Type::Map(_, from), Type::Map(_, to)) => first(from, to, says),
        (Type::Record(from), Type::Record(to)) => to.iter().find_map(|(name, to)| {
            let (_, from) = from.iter().find(|(own, _)| own == name)?;
            first(from, to, says)
        }),
        _ => says(from, to),
    }
}

/// A time with a finer unit than its counterpart, the counterpart, and how many of its units are one of the
/// counterpart's.
fn finer<'t>(from: &'t Type, to: &'t Type) -> Option<(&'t Type, &'t Type, i64)> {
    let (own, wanted) = match (from, to) {
        (Type::Time(own), Type::Time(wanted))
        | (Type::Timestamp(own), Type::Timestamp(wanted))
        | (Type::LocalTimestamp(own), Type::LocalTimestamp(wanted)) => (*own, *wanted),
        _ => return None,
    };
    let count = change_unit(1, wanted, own).filter(|count| *count > 1)?;
    Some((from, to, count))
}

/// The warning about a time that a field accepts only if it is a whole number of the field's unit; none if the field
/// accepts every value.
pub(super) fn cut_off(field: &str, what: &str, span: Span, from: &Type, to: &Type) -> Option<Finding> {
    let whole = unit(from.non_null()).is_some();
    let (from, to, count) = first(from, to, &finer)?;
    let has = if whole { "is" } else { "has" };
    let message = format!(
        "field '{field}' of the output schema {has} {to} and {what} {has} {from}: a record whose time is finer than the field becomes a dead letter"
    );
    let by_set = if whole && !field.contains(['.', '[']) {
        format!("cut it off, as in set = {{ {field} = \"{what} / {count}\" }}, or ")
    } else {
        String::new()
    };
    let help = format!("{by_set}make the field {from} in the sink's `schema`");
    Some(Finding::new(span, message).help(help))
}

/// A type some of whose numbers or symbols its counterpart cannot hold, and the counterpart: values are never rounded or truncated. The digits of a CQL
/// decimal are unknown.
fn narrower<'t>(from: &'t Type, to: &'t Type) -> Option<(&'t Type, &'t Type)> {
    let narrow = match (from, to) {
        (Type::Enum(own), Type::Enum(known)) => own != known && own.iter().any(|symbol| !known.contains(symbol)),
        (
            Type::Decimal { precision, scale },
            Type::Decimal {
                precision: to_precision,
                scale: to_scale,
            },
        ) => {
            let whole = |precision: u32, scale: u32| i64::from(precision) - i64::from(scale);
            *precision > 0 && (scale > to_scale || whole(*precision, *scale) > whole(*to_precision, *to_scale))
        }
        (Type::Int | Type::Long | Type::Double, Type::Float) | (Type::Long, Type::Double) => true,
        _ => false,
    };
    narrow.then_some((from, to))
}

/// The warning about a number or a symbol if the field holds only some values of its type.
pub(super) fn narrowed(field: &str, what: &str, span: Span, from: &Type, to: &Type) -> Option<Finding> {
    let whole = !matches!(from.non_null(), Type::List(_) | Type::Map(..) | Type::Record(_));
    let (from, to) = first(from, to, &narrower)?;
    if let (Type::Enum(own), Type::Enum(known)) = (from, to) {
        let missing = own.iter().filter(|symbol| !known.contains(symbol));
        let symbols = symbols_told(missing.map(String::as_str))?;
        let may = if whole { "may be" } else { "may have" };
        return Some(no_place(&format!("{what} {may}"), &symbols, field, span));
    }
    let has = if whole { "is" } else { "has" };
    let message = format!(
        "field '{field}' of the output schema {has} {to} and {what} {has} {from}: a record whose number the field does not hold exactly becomes a dead letter"
    );
    let by_set = if whole && !field.contains(['.', '[']) && (from, to) == (&Type::Long, &Type::Double) {
        ", or give it by `set` as double(...), which rounds"
    } else {
        ""
    };
    let help = format!("make the field {from} in the sink's `schema`{by_set}");
    Some(Finding::new(span, message).help(help))
}

/// The finding about a branch or symbol of the input for which the output has no place.
pub(super) fn left_out(unplaced: &Unplaced, span: Span) -> Finding {
    let Unplaced { field, source, from } = unplaced;
    no_place(&format!("event.{source} may be"), from, field, span)
}

/// The warning about a field of the output that gets no value, because the input's field now has another name.
pub(super) fn renamed(renamed: &Renamed, span: Span) -> Finding {
    let Renamed { field, source } = renamed;
    let message = format!(
        "field '{field}' of the output schema has its default in every record, although event.{source} has that name as an alias"
    );
    let name = source.rsplit('.').next().unwrap_or(source);
    let by_set = if field.contains(['.', '[']) {
        ""
    } else {
        ", or give it by `set`"
    };
    let help = format!("add the alias '{name}' to the field in the sink's `schema`{by_set}");
    Finding::new(span, message).help(help)
}

fn no_place(may_be: &str, from: &str, field: &str, span: Span) -> Finding {
    let message = format!(
        "{may_be} {from}, which has no place in field '{field}' of the output schema: a record that has it becomes a dead letter"
    );
    let help = format!("add {from} to the field's type in the sink's `schema`, or leave such records out by a filter");
    Finding::new(span, message).help(help)
}
