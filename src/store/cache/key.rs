//! Encodes the key of a look-up: its bound values as bytes.

use std::borrow::Cow;

use crate::avro::value::{Unit, Value};

/// Appends the key of a look-up: its bound values, each after a tag and, where needed, its length, so that different
/// lists of values never have the same key.
pub fn append_key(values: &[Value<'_>], key: &mut Vec<u8>) {
    for value in values {
        append_value(value, key);
    }
}

fn append_value(value: &Value<'_>, key: &mut Vec<u8>) {
    let unit_tag = |unit: &Unit| match unit {
        Unit::Millis => 0,
        Unit::Micros => 1,
        Unit::Nanos => 2,
    };
    let sized = |key: &mut Vec<u8>, tag: u8, bytes: &[u8]| {
        key.push(tag);
        key.extend_from_slice(&(bytes.len() as u64).to_le_bytes()[..5]);
        key.extend_from_slice(bytes);
    };
    let plain = |key: &mut Vec<u8>, tag: u8, bytes: &[u8]| {
        key.push(tag);
        key.extend_from_slice(bytes);
    };
    match value {
        Value::Null => key.push(0),
        Value::Bool(v) => plain(key, 1, &[u8::from(*v)]),
        Value::Int(v) => plain(key, 2, &v.to_le_bytes()),
        Value::Long(v) => plain(key, 3, &v.to_le_bytes()),
        Value::Float(v) => plain(key, 4, &v.to_bits().to_le_bytes()),
        Value::Double(v) => plain(key, 5, &v.to_bits().to_le_bytes()),
        Value::String(v) => sized(key, 6, v.as_bytes()),
        Value::Bytes(v) => sized(key, 7, v),
        Value::Date(v) => plain(key, 8, &v.to_le_bytes()),
        Value::Time(v, unit) => plain(key, 9 + unit_tag(unit), &v.to_le_bytes()),
        Value::Timestamp(v, unit) => plain(key, 12 + unit_tag(unit), &v.to_le_bytes()),
        Value::LocalTimestamp(v, unit) => plain(key, 15 + unit_tag(unit), &v.to_le_bytes()),
        Value::Decimal { unscaled, scale } => {
            sized(key, 18, unscaled);
            key.extend_from_slice(&scale.to_le_bytes());
        }
        Value::Uuid(v) => plain(key, 19, v),
        Value::Duration { months, days, millis } => {
            key.push(20);
            for part in [months, days, millis] {
                key.extend_from_slice(&part.to_le_bytes());
            }
        }
        Value::List(items) => {
            plain(key, 21, &(items.len() as u64).to_le_bytes());
            append_key(items, key);
        }
        Value::Map(pairs) => {
            plain(key, 22, &(pairs.len() as u64).to_le_bytes());
            for (k, v) in pairs {
                append_value(k, key);
                append_value(v, key);
            }
        }
        Value::Record(fields) => {
            plain(key, 23, &(fields.len() as u64).to_le_bytes());
            for (name, v) in fields {
                append_value(&Value::String(Cow::Borrowed(name)), key);
                append_value(v, key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_values_apart() {
        let key = |values: &[Value<'_>]| {
            let mut key = Vec::new();
            append_key(values, &mut key);
            key
        };
        let text = |s: &'static str| Value::String(s.into());
        assert_ne!(key(&[text("ab"), text("c")]), key(&[text("a"), text("bc")]));
        assert_ne!(key(&[Value::Int(1)]), key(&[Value::Date(1)]));
        assert_ne!(
            key(&[Value::List(vec![Value::Null]), Value::Null]),
            key(&[Value::List(vec![Value::Null, Value::Null])])
        );
        assert_eq!(key(&[text("a")]), key(&[text("a")]));
    }
}
