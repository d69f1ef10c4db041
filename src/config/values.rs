//! Reads single values: text, numbers, durations, sizes, paths, lists, bindings.
//!
//! In an environment variable a number is also accepted as text, because there are no quotes to tell which was meant.

use std::ops::RangeBounds;
use std::path::PathBuf;
use std::time::Duration;

use super::codes;
use super::diagnostic::Diagnostic;
use super::document::Value;
use super::reader::{Field, all};
use super::shape::Shape;
use super::size::parse_duration;
use super::{Binding, Size, Spanned};

/// Reads any string.
pub(super) fn string(field: Field<'_>) -> Option<Spanned<String>> {
    if field.draws(Shape::Text(r"\S")) {
        return None;
    }
    match &field.node.value {
        Value::String(text) => Some(Spanned::new(text.clone(), field.span())),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime
            if field.cx.sources.is_environment(field.span()) =>
        {
            Some(Spanned::new(
                field.cx.sources.written(field.span()).to_owned(),
                field.span(),
            ))
        }
        _ => field.wrong_type("a string"),
    }
}

/// Reads a string that is not blank.
pub(super) fn text(field: Field<'_>) -> Option<Spanned<String>> {
    let value = string(field.clone())?;
    if value.trim().is_empty() {
        return field.malformed("text with something in it", "write a value, or remove the key");
    }
    Some(value)
}

/// Reads a string that is not blank, without its position.
pub(super) fn plain_text(field: Field<'_>) -> Option<String> {
    text(field).map(|text| text.value)
}

/// Whether a name has only letters, digits and `_`, and does not start with a digit: Avro, CQL markers and expressions
/// all accept that.
pub(crate) fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Reads `true` or `false`.
pub(super) fn boolean(field: Field<'_>) -> Option<bool> {
    if field.draws(Shape::Boolean) {
        return None;
    }
    match field.node.value {
        Value::Boolean(boolean) => Some(boolean),
        _ => field.wrong_type("`true` or `false`"),
    }
}

pub(super) fn spanned_boolean(field: Field<'_>) -> Option<Spanned<bool>> {
    let span = field.span();
    boolean(field).map(|value| Spanned::new(value, span))
}

/// Reads a whole number above 0.
pub(super) fn count(field: Field<'_>) -> Option<Spanned<usize>> {
    if field.draws(Shape::Count) {
        return None;
    }
    let Value::Integer(number) = field.node.value else {
        return field.wrong_type("a whole number");
    };
    match number.and_then(|number| usize::try_from(number).ok()) {
        Some(number) if number > 0 => Some(Spanned::new(number, field.span())),
        _ => field.malformed("a whole number above 0", "write 1 or more"),
    }
}

/// Reads a number from 0 to 1.
pub(super) fn share(field: Field<'_>) -> Option<f64> {
    if field.draws(Shape::Share) {
        return None;
    }
    number_in(&field, 0.0..=1.0, "a number from 0 to 1")
}

/// Reads a number from 0 and below 1, for a limit that something may be above.
pub(super) fn share_below_one(field: Field<'_>) -> Option<f64> {
    if field.draws(Shape::ShareBelowOne) {
        return None;
    }
    number_in(&field, 0.0..1.0, "a number from 0 and below 1")
}

fn number_in(field: &Field<'_>, range: impl RangeBounds<f64>, what: &str) -> Option<f64> {
    let number = match field.node.value {
        Value::Float(number) => number,
        Value::Integer(Some(number)) => number as f64,
        _ => return field.wrong_type(what),
    };
    if range.contains(&number) {
        return Some(number);
    }
    field.malformed(what, "one per cent is 0.01")
}

/// Reads `"250ms"`, `"30s"`, `"5m"`, `"2h"` or `"30d"`.
pub(super) fn duration(field: Field<'_>) -> Option<Duration> {
    if field.draws(Shape::Duration) {
        return None;
    }
    const REMEDY: &str = "a number and a unit: \"250ms\", \"30s\", \"5m\", \"2h\" or \"30d\"";
    match &field.node.value {
        Value::String(text) => parse_duration(text).or_else(|| field.malformed("a duration", REMEDY)),
        Value::Integer(_) | Value::Float(_) => field.malformed("a duration with a unit", REMEDY),
        _ => field.wrong_type("a duration such as \"30s\""),
    }
}

/// Reads a duration above 0.
pub(super) fn positive_duration(field: Field<'_>) -> Option<Duration> {
    above_zero(field, "remove the key to have the default")
}

/// The same for a key that has no default.
pub(super) fn required_duration(field: Field<'_>) -> Option<Duration> {
    above_zero(field, "write more than 0, such as \"30s\"; this key has no default")
}

fn above_zero(field: Field<'_>, remedy: &str) -> Option<Duration> {
    if field.draws(Shape::PositiveDuration) {
        return None;
    }
    let value = duration(field.clone())?;
    if value.is_zero() {
        return field.malformed("a duration above 0", remedy);
    }
    Some(value)
}

/// Reads `"64MiB"`, `"1GB"` or a number of bytes.
pub(super) fn size(field: Field<'_>) -> Option<Spanned<Size>> {
    if field.draws(Shape::Size) {
        return None;
    }
    const REMEDY: &str = "a number and a unit: \"512KiB\", \"64MiB\", \"1GB\"; a plain number counts bytes";
    let size = match &field.node.value {
        Value::String(text) => Size::parse(text),
        Value::Integer(number) => number.and_then(|number| u64::try_from(number).ok()).map(Size),
        _ => return field.wrong_type("a size such as \"64MiB\""),
    };
    match size {
        Some(size) => Some(Spanned::new(size, field.span())),
        None => field.malformed("a size", REMEDY),
    }
}

/// Reads a path, as written.
pub(super) fn path(field: Field<'_>) -> Option<Spanned<PathBuf>> {
    let span = field.span();
    text(field).map(|text| Spanned::new(PathBuf::from(text.value), span))
}

/// Reads a non-empty list of strings, or one string with commas.
pub(super) fn texts(field: Field<'_>) -> Option<Vec<Spanned<String>>> {
    if field.draws(Shape::Texts) {
        return None;
    }
    match &field.node.value {
        Value::Array(items) if items.is_empty() => field.malformed("a list with something in it", "write at least one"),
        Value::Array(items) => all(field.fields(items).into_iter().map(text)),
        Value::String(_) => separated(field),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime
            if field.cx.sources.is_environment(field.span()) =>
        {
            separated(field)
        }
        _ => field.wrong_type("a list of strings, or one string"),
    }
}

fn separated(field: Field<'_>) -> Option<Vec<Spanned<String>>> {
    let whole = text(field.clone())?;
    if !whole.contains(',') {
        return Some(vec![whole]);
    }
    let mut start = 0;
    let mut texts = Vec::new();
    for part in whole.split(',') {
        let span = field.cx.sources.part(&whole, start..start + part.len());
        start += part.len() + 1;
        if !part.trim().is_empty() {
            texts.push(Spanned::new(part.trim().to_owned(), span));
        }
    }
    if texts.is_empty() {
        return field.malformed("text with something in it", "write at least one");
    }
    Some(texts)
}

/// Reads `{ name = "expression", … }`, in the order written.
pub(super) fn bindings(field: Field<'_>) -> Option<Vec<Binding>> {
    if field.draws(Shape::Bindings) {
        return None;
    }
    let section = field.section()?;
    all(section.table.entries.iter().map(|entry| {
        let expression = text(section.field_of(entry))?;
        if !is_identifier(&entry.key) {
            let message = format!("`{}` cannot be a name in `{}`", entry.key.value, section.path);
            let finding = Diagnostic::error(codes::BAD_NAME, message);
            let label = "letters, digits and `_` only, not a digit first";
            let finding = finding.at(section.cx.sources, entry.key.span, label);
            section
                .cx
                .report(finding.help("it is the name of a field or of a marker: choose another"));
            return None;
        }
        Some(Binding {
            name: entry.key.clone(),
            expression,
        })
    }))
}
