//! Converts values to and from CEL.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use cel::objects::{Key, Map};

use crate::avro::value::Value;
use crate::avro::{decimal_text, rescale, uuid};
use crate::store::decimal::to_i64;

pub(super) fn to_cel(value: &Value<'_>) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(v) => cel::Value::Bool(*v),
        Value::Int(v) | Value::Date(v) => cel::Value::Int(i64::from(*v)),
        Value::Long(v) | Value::Time(v, _) | Value::Timestamp(v, _) | Value::LocalTimestamp(v, _) => {
            cel::Value::Int(*v)
        }
        Value::Float(v) => cel::Value::Float(f64::from(*v)),
        Value::Double(v) => cel::Value::Float(*v),
        Value::String(v) => cel::Value::String(Arc::new(v.to_string())),
        Value::Bytes(v) => cel::Value::Bytes(Arc::new(v.to_vec())),
        Value::Decimal { unscaled, scale } => cel::Value::Float(decimal_to_f64(unscaled, *scale)),
        Value::Uuid(v) => cel::Value::String(Arc::new(uuid::string(v))),
        Value::Duration { months, days, millis } => cel::Value::List(Arc::new(
            [*months, *days, *millis]
                .iter()
                .map(|v| cel::Value::Int(i64::from(*v)))
                .collect(),
        )),
        Value::List(v) => cel::Value::List(Arc::new(v.iter().map(to_cel).collect())),
        Value::Map(v) => cel::Value::Map(Map {
            map: Arc::new(
                v.iter()
                    .map(|(k, v)| (map_key(k), to_cel(v)))
                    .collect::<HashMap<_, _>>(),
            ),
        }),
        Value::Record(v) => cel::Value::Map(Map {
            map: Arc::new(
                v.iter()
                    .map(|(k, v)| (Key::String(Arc::new(k.to_string())), to_cel(v)))
                    .collect::<HashMap<_, _>>(),
            ),
        }),
    }
}

/// From this magnitude on, the interpreter does not convert a double to an int.
const BEYOND_INT: f64 = 9_223_372_036_854_775_808.0;

/// A key of a map as CEL sees it: CEL looks up every whole number as an int, whatever its type, and has no other numbers as
/// keys.
pub(super) fn map_key(key: &Value<'_>) -> Key {
    match key {
        Value::Int(i) | Value::Date(i) => Key::Int(i64::from(*i)),
        Value::Long(i) | Value::Time(i, _) | Value::Timestamp(i, _) | Value::LocalTimestamp(i, _) => Key::Int(*i),
        Value::Bool(b) => Key::Bool(*b),
        Value::String(s) => Key::String(Arc::new(s.to_string())),
        Value::Uuid(u) => Key::String(Arc::new(uuid::string(u))),
        Value::Float(v) => number_key(f64::from(*v), v),
        Value::Double(v) => number_key(*v, v),
        Value::Decimal { unscaled, scale } => match rescale(unscaled, *scale, 0).and_then(|whole| to_i64(&whole)) {
            Some(whole) => Key::Int(whole),
            None => Key::String(Arc::new(
                decimal_text(unscaled, *scale).unwrap_or_else(|| format!("{key:?}")),
            )),
        },
        other => Key::String(Arc::new(format!("{other:?}"))),
    }
}

/// `own` is the number in its own type, for its text.
fn number_key(number: f64, own: &impl ToString) -> Key {
    if number.fract() == 0.0 && number.abs() < BEYOND_INT {
        Key::Int(number as i64)
    } else {
        Key::String(Arc::new(own.to_string()))
    }
}

pub(super) fn from_cel(value: cel::Value) -> Result<Value<'static>, String> {
    Ok(match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(v) => Value::Bool(v),
        cel::Value::Int(v) => Value::Long(v),
        cel::Value::UInt(v) => Value::Long(i64::try_from(v).map_err(|_| "a uint that is larger than a long holds")?),
        cel::Value::Float(v) => Value::Double(v),
        cel::Value::String(v) => Value::String(Cow::Owned(Arc::unwrap_or_clone(v))),
        cel::Value::Bytes(v) => Value::Bytes(Cow::Owned(Arc::unwrap_or_clone(v))),
        cel::Value::List(v) => Value::List(v.iter().cloned().map(from_cel).collect::<Result<_, _>>()?),
        other => return Err(format!("an expression cannot return a {:?}", other.type_of())),
    })
}

/// `unscaled × 10^-scale` without its fraction. None if it does not fit into an int.
pub(super) fn whole(unscaled: &[u8], scale: i32) -> Option<i64> {
    decimal_text(unscaled, scale)?.split('.').next()?.parse().ok()
}

/// `unscaled × 10^-scale` as the nearest double (lossy beyond 53 bits).
pub(super) fn decimal_to_f64(unscaled: &[u8], scale: i32) -> f64 {
    let negative = unscaled.first().is_some_and(|b| b & 0x80 != 0);
    let mut magnitude = 0.0f64;
    for byte in unscaled {
        let byte = if negative { !byte } else { *byte };
        magnitude = magnitude * 256.0 + f64::from(byte);
    }
    let signed = if negative { -(magnitude + 1.0) } else { magnitude };
    signed / 10f64.powi(scale)
}
