//! Exact conversions between types: the single conversions of [`encode`](super::encode).
//!
//! `None` means that values of this kind never convert; `Some(None)` that this value does not.

use std::collections::BTreeMap;

use super::schema::{Logical, Node, NodeId, Schema, Shape};
use super::value::{Unit, Value};

/// The number that an `int` or `long` with this logical type has for a value. A plain number is assumed to be in the unit
/// of the target type. A time is not converted to a plain number, because its unit would be lost.
pub(crate) fn integer(logical: Option<Logical>, value: &Value<'_>) -> Option<Option<i64>> {
    Some(match (logical, value) {
        (_, Value::Int(number)) => Some((*number).into()),
        (_, Value::Long(number)) => Some(*number),
        (Some(Logical::Date), Value::Date(days)) => Some((*days).into()),
        (Some(Logical::Time(to)), Value::Time(time, from)) => change_unit(*time, *from, to),
        (Some(Logical::Timestamp(to)), Value::Timestamp(time, from)) => change_unit(*time, *from, to),
        (Some(Logical::LocalTimestamp(to)), Value::LocalTimestamp(time, from)) => change_unit(*time, *from, to),
        _ => return None,
    })
}

/// A time in another unit, if that is exact.
pub(crate) fn change_unit(time: i64, from: Unit, to: Unit) -> Option<i64> {
    let per_second = |unit| match unit {
        Unit::Millis => 1_000,
        Unit::Micros => 1_000_000,
        Unit::Nanos => 1_000_000_000,
    };
    let (from, to): (i64, i64) = (per_second(from), per_second(to));
    if to >= from {
        time.checked_mul(to / from)
    } else {
        let by = from / to;
        (time % by == 0).then_some(time / by)
    }
}

/// The number that a `float` or `double` has for a value.
pub(crate) fn float(value: &Value<'_>) -> Option<Option<f64>> {
    Some(match value {
        Value::Float(number) => Some((*number).into()),
        Value::Double(number) => Some(*number),
        Value::Int(number) => Some((*number).into()),
        // Compared as 128 bits, because 2^63 as a double is one more than the largest long.
        Value::Long(number) => Some(*number as f64).filter(|double| *double as i128 == i128::from(*number)),
        _ => return None,
    })
}

/// A double as a float, if that is exact. NaN stays NaN.
pub(crate) fn single(number: f64) -> Option<f32> {
    let single = number as f32;
    (f64::from(single) == number || number.is_nan()).then_some(single)
}

/// Whether a value has the node's type without a conversion.
pub(crate) fn natural(node: &Node, value: &Value<'_>) -> bool {
    match (&node.shape, node.logical, value) {
        (Shape::Int, Some(Logical::Date), Value::Date(_)) => true,
        (Shape::Int | Shape::Long, Some(Logical::Time(to)), Value::Time(_, from)) => to == *from,
        (Shape::Long, Some(Logical::Timestamp(to)), Value::Timestamp(_, from)) => to == *from,
        (Shape::Long, Some(Logical::LocalTimestamp(to)), Value::LocalTimestamp(_, from)) => to == *from,
        (_, Some(Logical::Decimal { scale: to, .. }), Value::Decimal { scale: from, .. }) => {
            i64::from(to) == i64::from(*from)
        }
        (_, Some(Logical::Uuid), Value::Uuid(_)) => true,
        (_, Some(Logical::Duration), Value::Duration { .. }) => true,
        (Shape::Null, None, Value::Null) => true,
        (Shape::Boolean, None, Value::Bool(_)) => true,
        (Shape::Int, None, Value::Int(_)) => true,
        (Shape::Long, None, Value::Long(_)) => true,
        (Shape::Float, None, Value::Float(_)) => true,
        (Shape::Double, None, Value::Double(_)) => true,
        (Shape::String | Shape::Enum { .. }, None, Value::String(_)) => true,
        (Shape::Bytes | Shape::Fixed { .. }, None, Value::Bytes(_)) => true,
        (Shape::Array(_), None, Value::List(_)) => true,
        (Shape::Map(_), None, Value::Map(_)) => true,
        (Shape::Record { .. }, None, Value::Record(_)) => true,
        _ => false,
    }
}

/// A union, and the address of a value that is tried on it. Values do not move while they are written.
pub(crate) type Asked = (NodeId, usize);

/// The cache key of a union and a value, if the answer is worth caching: if several branches may take a value that has
/// parts, each branch asks again about the unions inside.
pub(crate) fn asked(schema: &Schema, id: NodeId, branches: &[NodeId], value: &Value<'_>) -> Option<Asked> {
    let parts = matches!(value, Value::List(_) | Value::Map(_) | Value::Record(_));
    (parts && several(schema, branches, value)).then(|| (id, std::ptr::from_ref(value).addr()))
}

/// Whether a branch of a union may take a value: null goes to null, and everything else to the others.
pub(crate) fn candidate(schema: &Schema, branch: NodeId, value: &Value<'_>) -> bool {
    value.is_null() == (schema.node(branch).shape == Shape::Null)
}

/// Whether several branches of a union may take a value.
pub(crate) fn several(schema: &Schema, branches: &[NodeId], value: &Value<'_>) -> bool {
    let mut candidates = branches.iter().filter(|branch| candidate(schema, **branch, value));
    candidates.nth(1).is_some()
}

/// Tells whether a value, with everything in it, has a type without a conversion. That tells two records of a union
/// apart, because a value does not know which one it came from.
pub(crate) struct Suits<'s> {
    schema: &'s Schema,
    /// The answers of unions. Without this cache, the time would double with each level of a deep value.
    known: BTreeMap<Asked, bool>,
}

impl<'s> Suits<'s> {
    pub fn new(schema: &'s Schema) -> Suits<'s> {
        let known = BTreeMap::new();
        Suits { schema, known }
    }

    pub fn ask(&mut self, id: NodeId, value: &Value<'_>) -> bool {
        let node = self.schema.node(id);
        match (&node.shape, value) {
            (Shape::Union(branches), value) => self.union(id, branches, value),
            (Shape::Record { fields, .. }, Value::Record(values)) => {
                fields.len() == values.len()
                    && fields
                        .iter()
                        .zip(values)
                        .all(|(field, (name, value))| field.name == *name && self.ask(field.node, value))
            }
            (Shape::Array(items), Value::List(values)) => values.iter().all(|value| self.ask(*items, value)),
            (Shape::Map(values), Value::Map(entries)) => entries.iter().all(|(_, value)| self.ask(*values, value)),
            _ => natural(node, value),
        }
    }

    fn union(&mut self, id: NodeId, branches: &[NodeId], value: &Value<'_>) -> bool {
        let asked = asked(self.schema, id, branches, value);
        if let Some(known) = asked.and_then(|asked| self.known.get(&asked)) {
            return *known;
        }
        let suits = branches.iter().any(|branch| self.ask(*branch, value));
        if let Some(asked) = asked {
            self.known.insert(asked, suits);
        }
        suits
    }
}

/// The kind of a value, for messages.
pub(crate) fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Int(_) => "an int",
        Value::Long(_) => "a long",
        Value::Float(_) => "a float",
        Value::Double(_) => "a double",
        Value::String(_) => "a string",
        Value::Bytes(_) => "bytes",
        Value::Date(_) => "a date",
        Value::Time(..) => "a time",
        Value::Timestamp(..) => "a timestamp",
        Value::LocalTimestamp(..) => "a local timestamp",
        Value::Decimal { .. } => "a decimal",
        Value::Uuid(_) => "a UUID",
        Value::Duration { .. } => "a duration",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
        Value::Record(_) => "a record",
    }
}

/// A value, for messages: numbers as they are, the rest by kind, because texts may be long or private.
pub(crate) fn describe(value: &Value<'_>) -> String {
    match value {
        Value::Int(number) => format!("\"{number}\""),
        Value::Long(number) => format!("\"{number}\""),
        Value::Float(number) => format!("\"{number}\""),
        Value::Double(number) => format!("\"{number}\""),
        Value::Time(time, unit) | Value::Timestamp(time, unit) | Value::LocalTimestamp(time, unit) => {
            format!("{} of \"{time}\" {unit}", kind(value))
        }
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        other => format!("this {}", kind(other).trim_start_matches("a ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_change_only_exactly() {
        assert_eq!(change_unit(5, Unit::Millis, Unit::Micros), Some(5_000));
        assert_eq!(change_unit(-5_000, Unit::Micros, Unit::Millis), Some(-5));
        assert_eq!(change_unit(5_001, Unit::Micros, Unit::Millis), None);
        assert_eq!(change_unit(i64::MAX, Unit::Millis, Unit::Nanos), None);
    }

    #[test]
    fn numbers_are_not_rounded() {
        assert_eq!(float(&Value::Long(1 << 53)), Some(Some(9_007_199_254_740_992.0)));
        assert_eq!(float(&Value::Long((1 << 53) + 1)), Some(None));
        assert_eq!(float(&Value::Long(i64::MAX)), Some(None));
        assert_eq!(float(&Value::Long(i64::MIN)), Some(Some(i64::MIN as f64)));
        assert_eq!(single(0.1), None);
        assert_eq!(single(0.5), Some(0.5));
        assert!(single(f64::NAN).unwrap().is_nan());
        assert_eq!(single(1e300), None);
        assert_eq!(single(f64::INFINITY), Some(f32::INFINITY));
    }

    #[test]
    fn a_time_is_no_plain_number() {
        assert_eq!(integer(None, &Value::Timestamp(1, Unit::Millis)), None);
        assert_eq!(
            integer(Some(Logical::Timestamp(Unit::Millis)), &Value::Long(1)),
            Some(Some(1))
        );
        assert_eq!(integer(None, &Value::Double(1.0)), None);
    }
}
