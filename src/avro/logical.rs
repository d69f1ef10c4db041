//! Finds the logical type of an annotated type.
//!
//! A logical type that is unknown, or does not suit the underlying type (a `date` on a string, a `decimal` without precision), is ignored, as the
//! specification requires: the data still have the underlying type.

use serde_json::{Map, Value as Json};

use super::schema::{Logical, Shape};
use super::value::Unit;

/// The logical type of a type with this shape and these attributes.
pub(crate) fn of(shape: &Shape, attributes: &Map<String, Json>) -> Option<Logical> {
    let name = attributes.get("logicalType")?.as_str()?;
    match (shape, name) {
        (Shape::Int, "date") => Some(Logical::Date),
        (Shape::Int, "time-millis") => Some(Logical::Time(Unit::Millis)),
        (Shape::Long, "time-micros") => Some(Logical::Time(Unit::Micros)),
        (Shape::Long, "time-nanos") => Some(Logical::Time(Unit::Nanos)),
        (Shape::Long, "timestamp-millis") => Some(Logical::Timestamp(Unit::Millis)),
        (Shape::Long, "timestamp-micros") => Some(Logical::Timestamp(Unit::Micros)),
        (Shape::Long, "timestamp-nanos") => Some(Logical::Timestamp(Unit::Nanos)),
        (Shape::Long, "local-timestamp-millis") => Some(Logical::LocalTimestamp(Unit::Millis)),
        (Shape::Long, "local-timestamp-micros") => Some(Logical::LocalTimestamp(Unit::Micros)),
        (Shape::Long, "local-timestamp-nanos") => Some(Logical::LocalTimestamp(Unit::Nanos)),
        (Shape::String, "uuid") => Some(Logical::Uuid),
        (Shape::Fixed { size: 16, .. }, "uuid") => Some(Logical::Uuid),
        (Shape::Fixed { size: 12, .. }, "duration") => Some(Logical::Duration),
        (Shape::Bytes, "decimal") => decimal(attributes, None),
        (Shape::Fixed { size, .. }, "decimal") => decimal(attributes, Some(*size)),
        _ => None,
    }
}

fn decimal(attributes: &Map<String, Json>, size: Option<usize>) -> Option<Logical> {
    let number = |json: &Json| json.as_u64().and_then(|n| i32::try_from(n).ok()).map(|n| n as u32);
    let precision = attributes.get("precision").and_then(number)?;
    let scale = match attributes.get("scale") {
        Some(scale) => number(scale)?,
        None => 0,
    };
    let fits = size.is_none_or(|size| precision <= digits_of(size));
    (precision > 0 && scale <= precision && fits).then_some(Logical::Decimal { precision, scale })
}

/// How many decimal digits always fit into a two's-complement integer of `size` bytes: `floor(log10(2^(8·size − 1) − 1))`.
pub(crate) fn digits_of(size: usize) -> u32 {
    // The "− 1" never matters: no power of two above 1 is a power of ten.
    if size == 0 {
        0
    } else {
        (((8 * size - 1) as f64) * std::f64::consts::LOG10_2).floor() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logical(shape: &Shape, json: &str) -> Option<Logical> {
        let Json::Object(attributes) = serde_json::from_str(json).unwrap() else {
            panic!("not an object")
        };
        of(shape, &attributes)
    }

    #[test]
    fn what_does_not_suit_is_ignored() {
        assert_eq!(logical(&Shape::Int, r#"{"logicalType":"date"}"#), Some(Logical::Date));
        assert_eq!(logical(&Shape::Long, r#"{"logicalType":"date"}"#), None);
        assert_eq!(logical(&Shape::Long, r#"{"logicalType":"beats"}"#), None);
        assert_eq!(logical(&Shape::Bytes, r#"{"logicalType":"decimal"}"#), None);
        assert_eq!(
            logical(&Shape::Bytes, r#"{"logicalType":"decimal","precision":2,"scale":3}"#),
            None
        );
        assert_eq!(
            logical(&Shape::Bytes, r#"{"logicalType":"decimal","precision":4}"#),
            Some(Logical::Decimal { precision: 4, scale: 0 })
        );
    }

    #[test]
    fn a_fixed_decimal_must_hold_its_digits() {
        let fixed = |size| Shape::Fixed {
            name: "F".into(),
            aliases: vec![],
            size,
        };
        assert!(logical(&fixed(8), r#"{"logicalType":"decimal","precision":18,"scale":4}"#).is_some());
        assert!(logical(&fixed(8), r#"{"logicalType":"decimal","precision":19,"scale":4}"#).is_none());
        assert_eq!([1, 2, 4, 8, 16].map(digits_of), [2, 4, 9, 18, 38]);
    }
}
