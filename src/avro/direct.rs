//! Writes new values that have exactly the type of their field, as nearly all have, without any decision.
//!
//! This is only an optimization: the result is what `encode` would write, and values of other types are left to it.

use super::encode::put_tagged;
use super::schema::{Logical, NodeId, Schema, Shape};
use super::value::{Unit, Value};

/// A field whose values can be written this way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Direct {
    kind: Kind,
    /// How null is written, if the field may be null.
    null: Option<u8>,
    /// What precedes any other value: the index of its branch in a union with null. It is a byte, and the number of
    /// bytes (0 or 1).
    tag: (u8, u8),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Int,
    Long,
    Timestamp(Unit),
    Double,
    Boolean,
}

impl Direct {
    /// Some if the type is one of the simple ones, or a union of one with null.
    pub fn of(schema: &Schema, node: NodeId) -> Option<Direct> {
        let (node, null, tag) = match &schema.node(node).shape {
            Shape::Union(branches) => match branches.as_slice() {
                [null, node] if schema.node(*null).shape == Shape::Null => (*node, Some(0), (2, 1)),
                [node, null] if schema.node(*null).shape == Shape::Null => (*node, Some(2), (0, 1)),
                _ => return None,
            },
            _ => (node, None, (0, 0)),
        };
        let node = schema.node(node);
        let kind = match (&node.shape, node.logical) {
            (Shape::String, None) => Kind::Text,
            (Shape::Int, None) => Kind::Int,
            (Shape::Long, None) => Kind::Long,
            (Shape::Long, Some(Logical::Timestamp(unit))) => Kind::Timestamp(unit),
            (Shape::Double, None) => Kind::Double,
            (Shape::Boolean, None) => Kind::Boolean,
            _ => return None,
        };
        Some(Direct { kind, null, tag })
    }

    /// Appends the value if it has the type. Returns whether it did.
    #[inline(always)]
    pub fn put(self, value: &Value<'_>, out: &mut Vec<u8>) -> bool {
        match (self.kind, value) {
            (Kind::Text, Value::String(text)) => {
                put_tagged(out, self.tag, text.len() as i64);
                out.extend_from_slice(text.as_bytes());
            }
            (Kind::Int | Kind::Long, Value::Int(number)) => put_tagged(out, self.tag, (*number).into()),
            (Kind::Long, Value::Long(number)) => put_tagged(out, self.tag, *number),
            (Kind::Timestamp(unit), Value::Timestamp(number, own)) if unit == *own => {
                put_tagged(out, self.tag, *number);
            }
            (Kind::Double, Value::Double(number)) => {
                let (byte, count) = self.tag;
                let bytes = u128::from(number.to_bits()) << (8 * count) | u128::from(byte);
                let before = out.len();
                out.extend_from_slice(&bytes.to_le_bytes());
                out.truncate(before + 8 + usize::from(count));
            }
            (Kind::Boolean, Value::Bool(value)) => {
                let (byte, count) = self.tag;
                let before = out.len();
                out.extend_from_slice(&(u16::from(*value) << (8 * count) | u16::from(byte)).to_le_bytes());
                out.truncate(before + 1 + usize::from(count));
            }
            (_, Value::Null) => match self.null {
                Some(null) => out.push(null),
                None => return false,
            },
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::encode;

    #[test]
    fn the_same_bytes_as_the_encoder_writes() {
        let values = [
            Value::Null,
            Value::Bool(true),
            Value::Int(-7),
            Value::Long(i64::MIN),
            Value::Long(12_345_678_901),
            Value::Double(f64::MIN_POSITIVE),
            Value::String("größe".into()),
            Value::Timestamp(1_760_000_000_000, Unit::Millis),
            Value::Timestamp(1_760_000_000_000, Unit::Micros),
            Value::Date(3),
            Value::Float(0.5),
        ];
        let plain = [
            r#""string""#,
            r#""int""#,
            r#""long""#,
            r#""double""#,
            r#""boolean""#,
            r#"{"type":"long","logicalType":"timestamp-millis"}"#,
            r#"{"type":"string","logicalType":"uuid"}"#,
        ];
        let mut written = 0;
        for ty in plain {
            for json in [ty.to_owned(), format!(r#"["null",{ty}]"#), format!(r#"[{ty},"null"]"#)] {
                let schema = Schema::parse(&json).unwrap();
                let Some(direct) = Direct::of(&schema, schema.root()) else {
                    assert!(ty.contains("uuid"));
                    continue;
                };
                for value in &values {
                    let (mut ours, mut expected) = (vec![9], vec![9]);
                    let done = direct.put(value, &mut ours);
                    let result = encode::encode(&schema, schema.root(), value, &mut expected);
                    if done {
                        assert_eq!((result, &ours), (Ok(()), &expected), "{value:?} as {json}");
                        written += 1;
                    } else {
                        assert_eq!(ours, [9], "{value:?} as {json}");
                    }
                }
            }
        }
        assert!(written > 30, "{written}");
    }
}
