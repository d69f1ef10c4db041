//! Converts values to and from SQLite's five storage classes, as the table of [`crate::store::types`] says.
//!
//! Invariants: a value bound for a type reads back as the same value, except for order and duplicates of a set and the order of a map, which follow
//! CQL; collections are JSON text, whose object keys are text as in JSON.

use std::borrow::Cow;
use std::cmp::Ordering;

use rusqlite::types::{Value as Bound, ValueRef};
use serde_json::{Map, Number, Value as Json};

use crate::avro::uuid;
use crate::avro::value::{Unit, Value};
use crate::store::convert::{self, ConvertError, Converted};
use crate::store::decimal;
use crate::store::types::{ColumnType, tuple_field};

/// Converts a value to what is bound.
pub(super) fn bind(value: &Value<'_>, ty: &ColumnType) -> Converted<Bound> {
    if value.is_null() {
        return Ok(Bound::Null);
    }
    Ok(match ty {
        ColumnType::Text | ColumnType::Ascii => Bound::Text(convert::text(value, ty)?.into_owned()),
        ColumnType::Int => Bound::Integer(convert::integer::<i32>(value, ty)?.into()),
        ColumnType::SmallInt => Bound::Integer(convert::integer::<i16>(value, ty)?.into()),
        ColumnType::TinyInt => Bound::Integer(convert::integer::<i8>(value, ty)?.into()),
        ColumnType::BigInt | ColumnType::Counter => Bound::Integer(convert::long(value, ty)?),
        ColumnType::Float => Bound::Real(convert::float(value, ty)?.into()),
        ColumnType::Double => Bound::Real(convert::double(value, ty)?),
        ColumnType::Boolean => Bound::Integer(convert::boolean(value, ty)?.into()),
        ColumnType::Blob => Bound::Blob(convert::blob(value, ty)?.to_vec()),
        ColumnType::Timestamp => Bound::Integer(convert::timestamp_millis(value, ty)?),
        ColumnType::Date => Bound::Integer(convert::date_days(value, ty)?.into()),
        ColumnType::Time => Bound::Integer(convert::time_nanos(value, ty)?),
        ColumnType::Uuid | ColumnType::TimeUuid => Bound::Text(uuid::string(&convert::uuid(value, ty)?)),
        ColumnType::Decimal => {
            let (unscaled, scale) = convert::decimal(value, ty)?;
            // A blob, because with text the column's NUMERIC affinity would make a rounded number.
            Bound::Blob(convert::decimal_text(&unscaled, scale, ty)?.into_bytes())
        }
        ColumnType::Varint => {
            let unscaled = convert::varint(value, ty)?;
            match decimal::to_i64(&unscaled) {
                Some(small) => Bound::Integer(small),
                None => Bound::Blob(convert::decimal_text(&unscaled, 0, ty)?.into_bytes()),
            }
        }
        ColumnType::Inet => Bound::Text(convert::inet(value, ty)?.to_string()),
        ColumnType::Duration => Bound::Text(duration_text(value, ty)?),
        ColumnType::List(_)
        | ColumnType::Set(_)
        | ColumnType::Map(..)
        | ColumnType::Tuple(_)
        | ColumnType::Udt { .. }
        | ColumnType::Vector(..) => Bound::Text(to_json(value, ty)?.to_string()),
        // The column would make one number of "007" and "7". The texts of all other values look like no number.
        ColumnType::Numeric(_) if matches!(value, Value::String(_)) => return Err(convert::mismatch(value, ty)),
        ColumnType::Any | ColumnType::Numeric(_) => bind_untyped(value)?,
    })
}

/// Converts a value to what a write binds. A NaN that SQLite would store as null is refused: a null leaves what is stored, and in a key it makes another row
/// each time.
pub(super) fn bind_written(value: &Value<'_>, ty: &ColumnType) -> Converted<Bound> {
    match bind(value, ty)? {
        Bound::Real(number) if number.is_nan() => Err(ConvertError::Form {
            value: number.to_string(),
            to: "number in SQLite, which would store null".to_owned(),
        }),
        bound => Ok(bound),
    }
}

/// Without a declared type, a value is stored as the type that it has itself.
fn bind_untyped(value: &Value<'_>) -> Converted<Bound> {
    match value {
        Value::List(_) | Value::Map(_) | Value::Record(_) => {
            Ok(Bound::Text(to_json(value, &ColumnType::Any)?.to_string()))
        }
        _ => bind(value, &natural_type(value)),
    }
}

fn natural_type(value: &Value<'_>) -> ColumnType {
    match value {
        Value::Bool(_) => ColumnType::Boolean,
        Value::Int(_) | Value::Long(_) => ColumnType::BigInt,
        Value::Float(_) | Value::Double(_) => ColumnType::Double,
        Value::Bytes(_) => ColumnType::Blob,
        Value::Date(_) => ColumnType::Date,
        Value::Time(..) => ColumnType::Time,
        Value::Timestamp(..) | Value::LocalTimestamp(..) => ColumnType::Timestamp,
        Value::Decimal { .. } => ColumnType::Decimal,
        Value::Uuid(_) => ColumnType::Uuid,
        Value::Duration { .. } => ColumnType::Duration,
        Value::Null | Value::String(_) | Value::List(_) | Value::Map(_) | Value::Record(_) => ColumnType::Text,
    }
}

/// ISO 8601: `P1M2DT3.500S`.
fn duration_text(value: &Value<'_>, ty: &ColumnType) -> Converted<String> {
    let (months, days, nanos) = convert::duration(value, ty)?;
    let millis = nanos / 1_000_000;
    Ok(format!("P{months}M{days}DT{}.{:03}S", millis / 1_000, millis % 1_000))
}

fn to_json(value: &Value<'_>, ty: &ColumnType) -> Converted<Json> {
    if value.is_null() {
        return Ok(Json::Null);
    }
    Ok(match ty {
        ColumnType::List(item) | ColumnType::Set(item) | ColumnType::Vector(item, _) => {
            let items = convert::items(value, ty)?.iter().map(|v| to_json(v, item));
            let mut items = items.collect::<Converted<Vec<_>>>()?;
            if matches!(ty, ColumnType::Set(_)) {
                items.sort_by(in_order);
                items.dedup();
            }
            Json::Array(items)
        }
        ColumnType::Map(key, item) => {
            let pairs = convert::pairs(value, ty)?.iter();
            let mut pairs = pairs
                .map(|(k, v)| Ok((to_json(k, key)?, to_json(v, item)?)))
                .collect::<Converted<Vec<_>>>()?;
            pairs.sort_by(|(a, _), (b, _)| in_order(a, b));
            Json::Object(pairs.into_iter().map(|(k, v)| (key_text(k), v)).collect())
        }
        ColumnType::Tuple(types) => {
            let items = convert::tuple_items(value, types.len(), ty)?;
            Json::Array(
                items
                    .iter()
                    .zip(types)
                    .map(|(v, ty)| to_json(v, ty))
                    .collect::<Converted<_>>()?,
            )
        }
        ColumnType::Udt { fields, .. } => {
            let mut object = Map::new();
            for (name, field) in fields {
                let given = convert::field(value, name, ty)?;
                object.insert(name.clone(), given.map_or(Ok(Json::Null), |v| to_json(v, field))?);
            }
            Json::Object(object)
        }
        ColumnType::Boolean => Json::Bool(convert::boolean(value, ty)?),
        ColumnType::Any => match value {
            Value::List(items) => Json::Array(items.iter().map(|v| to_json(v, ty)).collect::<Converted<_>>()?),
            Value::Map(pairs) => {
                let pair = |(k, v): &(Value<'_>, Value<'_>)| Ok((key_text(to_json(k, ty)?), to_json(v, ty)?));
                Json::Object(pairs.iter().map(pair).collect::<Converted<_>>()?)
            }
            Value::Record(fields) => {
                let pair = |(k, v): &(Cow<'_, str>, Value<'_>)| Ok((k.to_string(), to_json(v, ty)?));
                Json::Object(fields.iter().map(pair).collect::<Converted<_>>()?)
            }
            _ => to_json(value, &natural_type(value))?,
        },
        scalar => match bind(value, scalar)? {
            Bound::Null => Json::Null,
            Bound::Integer(v) => v.into(),
            // JSON has no NaN and no infinity, so they are stored as text.
            Bound::Real(v) => Number::from_f64(v).map_or_else(|| Json::String(v.to_string()), Json::Number),
            Bound::Text(text) => Json::String(text),
            Bound::Blob(bytes) if *scalar == ColumnType::Blob => Json::String(hex(&bytes)),
            Bound::Blob(digits) => Json::String(String::from_utf8_lossy(&digits).into_owned()),
        },
    })
}

/// The key of a JSON object.
fn key_text(key: Json) -> String {
    match key {
        Json::String(text) => text,
        other => other.to_string(),
    }
}

/// The order of a set's items and of a map's keys: numbers by value, texts by their bytes, all others as written.
/// Mixed types still have one order: nothing but numbers begins with a digit or a `-`, and texts begin with a quote.
fn in_order(a: &Json, b: &Json) -> Ordering {
    match (a, b) {
        (Json::String(a), Json::String(b)) => a.cmp(b),
        (Json::Number(x), Json::Number(y)) => match (x.as_i64(), y.as_i64(), x.as_f64(), y.as_f64()) {
            (Some(x), Some(y), ..) => x.cmp(&y),
            (_, _, Some(x), Some(y)) => x.total_cmp(&y),
            _ => Ordering::Equal,
        },
        _ => a.to_string().cmp(&b.to_string()),
    }
}

/// A blob in JSON, in CQL's notation.
fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 + 2 * bytes.len());
    out.push_str("0x");
    bytes.iter().for_each(|byte| convert::push_hex(&mut out, *byte));
    out
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x")?.as_bytes();
    let nibble = |b: u8| char::from(b).to_digit(16).map(|n| n as u8);
    digits.len().is_multiple_of(2).then_some(())?;
    digits
        .chunks_exact(2)
        .map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?))
        .collect()
}

/// Reads a stored value, whoever stored it; a value that does not fit the declared type is an error.
pub(super) fn read(raw: ValueRef<'_>, ty: &ColumnType) -> Converted<Value<'static>> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| convert::form("bytes", ty));
    let wrong = |shown: &str| convert::form(shown, ty);
    match raw {
        ValueRef::Null => Ok(Value::Null),
        ValueRef::Integer(v) => read_integer(v, ty),
        ValueRef::Real(v) => match ty {
            ColumnType::Double | ColumnType::Any => Ok(Value::Double(v)),
            ColumnType::Float => Ok(Value::Float(v as f32)),
            ColumnType::Decimal | ColumnType::Varint => parse_decimal(&v.to_string(), ty),
            ColumnType::Text => Ok(Value::String(Cow::Owned(v.to_string()))),
            _ => Err(wrong(&v.to_string())),
        },
        ValueRef::Text(bytes) if *ty == ColumnType::Blob => Ok(Value::Bytes(Cow::Owned(bytes.to_vec()))),
        ValueRef::Blob(bytes) if matches!(ty, ColumnType::Blob | ColumnType::Any) => {
            Ok(Value::Bytes(Cow::Owned(bytes.to_vec())))
        }
        ValueRef::Blob(bytes) if matches!(ty, ColumnType::Uuid | ColumnType::TimeUuid) && bytes.len() == 16 => {
            convert::uuid(&Value::Bytes(Cow::Borrowed(bytes)), ty).map(Value::Uuid)
        }
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => read_text(text(bytes)?, ty),
    }
}

fn read_integer(v: i64, ty: &ColumnType) -> Converted<Value<'static>> {
    let long = Value::Long(v);
    Ok(match ty {
        ColumnType::Int | ColumnType::SmallInt | ColumnType::TinyInt => Value::Int(convert::integer::<i32>(&long, ty)?),
        ColumnType::BigInt | ColumnType::Counter | ColumnType::Any => long,
        ColumnType::Boolean => Value::Bool(v != 0),
        ColumnType::Timestamp => Value::Timestamp(v, Unit::Millis),
        ColumnType::Date => Value::Date(convert::integer::<i32>(&long, ty)?),
        ColumnType::Time => Value::Time(v.div_euclid(1_000), Unit::Micros),
        ColumnType::Decimal | ColumnType::Varint => Value::Decimal {
            unscaled: Cow::Owned(decimal::from_i64(v)),
            scale: 0,
        },
        ColumnType::Double => Value::Double(v as f64),
        ColumnType::Float => Value::Float(v as f32),
        ColumnType::Text => Value::String(Cow::Owned(v.to_string())),
        _ => return Err(convert::form(&v.to_string(), ty)),
    })
}

fn parse_decimal(text: &str, ty: &ColumnType) -> Converted<Value<'static>> {
    match decimal::parse(text) {
        Some((unscaled, scale)) if *ty == ColumnType::Decimal || scale == 0 => Ok(Value::Decimal {
            unscaled: Cow::Owned(unscaled),
            scale,
        }),
        _ => Err(convert::form(text, ty)),
    }
}

fn read_text(text: String, ty: &ColumnType) -> Converted<Value<'static>> {
    match ty {
        ColumnType::Text | ColumnType::Ascii | ColumnType::Inet | ColumnType::Any => {
            Ok(Value::String(Cow::Owned(text)))
        }
        ColumnType::Uuid | ColumnType::TimeUuid => convert::parse_uuid(&text)
            .map(Value::Uuid)
            .ok_or_else(|| convert::form(&text, ty)),
        ColumnType::Decimal | ColumnType::Varint => parse_decimal(&text, ty),
        ColumnType::Duration => convert::parse_duration(&text).ok_or_else(|| convert::form(&text, ty)),
        ColumnType::List(_)
        | ColumnType::Set(_)
        | ColumnType::Map(..)
        | ColumnType::Tuple(_)
        | ColumnType::Udt { .. }
        | ColumnType::Vector(..) => {
            let json: Json = serde_json::from_str(&text).map_err(|_| convert::form(&text, ty))?;
            from_json(&json, ty)
        }
        _ => Err(convert::form(&text, ty)),
    }
}

fn from_json(json: &Json, ty: &ColumnType) -> Converted<Value<'static>> {
    let wrong = || convert::form(&json.to_string(), ty);
    Ok(match (ty, json) {
        (_, Json::Null) => Value::Null,
        (ColumnType::List(item) | ColumnType::Set(item) | ColumnType::Vector(item, _), Json::Array(items)) => {
            Value::List(items.iter().map(|v| from_json(v, item)).collect::<Converted<_>>()?)
        }
        (ColumnType::Map(key, item), Json::Object(object)) => {
            let pair = |(k, v): (&String, &Json)| Ok((from_json_key(k, key)?, from_json(v, item)?));
            Value::Map(object.iter().map(pair).collect::<Converted<_>>()?)
        }
        (ColumnType::Tuple(types), Json::Array(items)) if items.len() == types.len() => {
            let field =
                |(i, (v, ty)): (usize, (&Json, &ColumnType))| Ok((Cow::Owned(tuple_field(i)), from_json(v, ty)?));
            Value::Record(
                items
                    .iter()
                    .zip(types)
                    .enumerate()
                    .map(field)
                    .collect::<Converted<_>>()?,
            )
        }
        (ColumnType::Udt { fields, .. }, Json::Object(object)) => {
            let field = |(name, ty): &(String, ColumnType)| {
                let value = object.get(name).map_or(Ok(Value::Null), |v| from_json(v, ty))?;
                Ok((Cow::Owned(name.clone()), value))
            };
            Value::Record(fields.iter().map(field).collect::<Converted<_>>()?)
        }
        (ColumnType::Boolean, Json::Bool(v)) => Value::Bool(*v),
        (ColumnType::Blob, Json::String(text)) => Value::Bytes(Cow::Owned(unhex(text).ok_or_else(wrong)?)),
        (ColumnType::Float | ColumnType::Double, Json::String(text)) => {
            read(ValueRef::Real(text.parse().map_err(|_| wrong())?), ty)?
        }
        (_, Json::String(text)) => read_text(text.clone(), ty)?,
        (_, Json::Number(number)) => match number.as_i64() {
            Some(v) => read_integer(v, ty)?,
            None => read(ValueRef::Real(number.as_f64().ok_or_else(wrong)?), ty)?,
        },
        _ => return Err(wrong()),
    })
}

/// A key that is not text is stored as its JSON in text.
fn from_json_key(key: &str, ty: &ColumnType) -> Converted<Value<'static>> {
    let as_text = from_json(&Json::String(key.to_owned()), ty);
    as_text.or_else(|error: ConvertError| match serde_json::from_str(key) {
        Ok(json) => from_json(&json, ty),
        Err(_) => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_double_of_a_collection_comes_back_to_the_last_bit(double in any::<f64>()) {
            let list = Value::List(vec![Value::Double(double)]);
            prop_assert_eq!(through(list.clone(), "list<double>"), list);
        }
    }

    fn through(value: Value<'static>, ty: &str) -> Value<'static> {
        let ty = ColumnType::parse(ty).unwrap();
        let bound = bind(&value, &ty).unwrap();
        read(ValueRef::from(&bound), &ty).unwrap()
    }

    #[test]
    fn what_is_bound_reads_back() {
        let text = |s: &'static str| Value::String(s.into());
        for (value, ty) in [
            (Value::Int(-5), "int"),
            (Value::Bool(true), "boolean"),
            (Value::Timestamp(-1, Unit::Millis), "timestamp"),
            (
                Value::Decimal {
                    unscaled: vec![0x04, 0xe2].into(),
                    scale: 2,
                },
                "decimal",
            ),
            (
                Value::Decimal {
                    unscaled: vec![0x7f; 20].into(),
                    scale: 0,
                },
                "varint",
            ),
            (Value::Uuid([7; 16]), "uuid"),
            (
                Value::Duration {
                    months: 1,
                    days: 2,
                    millis: 3_004,
                },
                "duration",
            ),
            (
                Value::List(vec![
                    Value::Double(1.5),
                    Value::Double(229.930_151_807_317_46),
                    Value::Double(f64::INFINITY),
                ]),
                "list<double>",
            ),
            (
                Value::Map(vec![(Value::Int(1), Value::Bytes(vec![0, 255].into()))]),
                "map<int, blob>",
            ),
            (Value::Map(vec![(text("1"), Value::Bool(false))]), "map<text, boolean>"),
            (
                Value::Record(vec![("field_0".into(), Value::Null), ("field_1".into(), text("x"))]),
                "tuple<int, text>",
            ),
        ] {
            assert_eq!(through(value.clone(), ty), value, "{ty}");
        }
    }

    #[test]
    fn a_nan_is_not_written_except_in_a_collection() {
        let nan = || Value::Double(f64::NAN);
        for (value, ty) in [
            (nan(), ColumnType::Double),
            (nan(), ColumnType::Float),
            (Value::Float(f32::NAN), ColumnType::Double),
            (Value::Float(f32::NAN), ColumnType::Any),
        ] {
            let refused = bind_written(&value, &ty).unwrap_err().to_string();
            assert_eq!(
                refused, "\"NaN\" is not a valid number in SQLite, which would store null",
                "{ty}"
            );
        }
        let infinite = Value::Double(f64::INFINITY);
        assert_eq!(
            bind_written(&infinite, &ColumnType::Double),
            Ok(Bound::Real(f64::INFINITY))
        );
        for ty in [ColumnType::List(Box::new(ColumnType::Double)), ColumnType::Any] {
            let list = bind_written(&Value::List(vec![nan()]), &ty);
            assert_eq!(list, Ok(Bound::Text("[\"NaN\"]".to_owned())), "{ty}");
        }
    }

    #[test]
    fn a_field_that_the_type_does_not_have_is_left_out() {
        let field = |name: &'static str, number| (name.into(), Value::Int(number));
        let ty = ColumnType::Udt {
            name: "address".to_owned(),
            fields: vec![("zip".to_owned(), ColumnType::Int)],
        };
        let record = Value::Record(vec![field("floor", 3), field("zip", 75001)]);
        let bound = bind(&record, &ty).unwrap();
        let zip = Value::Record(vec![field("zip", 75001)]);
        assert_eq!(read(ValueRef::from(&bound), &ty), Ok(zip));
    }

    #[test]
    fn a_set_has_each_item_once_in_order_and_a_map_its_keys() {
        let text = |s: &'static str| Value::String(s.into());
        let longs = |numbers: &[i64]| Value::List(numbers.iter().map(|n| Value::Long(*n)).collect());
        assert_eq!(through(longs(&[10, 9, -1, 10]), "set<bigint>"), longs(&[-1, 9, 10]));
        assert_eq!(through(longs(&[10, 9, 10]), "list<bigint>"), longs(&[10, 9, 10]));
        let doubles = |numbers: &[f64]| Value::List(numbers.iter().map(|n| Value::Double(*n)).collect());
        assert_eq!(
            through(doubles(&[2.5, 1.0, -0.5, 1.0]), "set<double>"),
            doubles(&[-0.5, 1.0, 2.5])
        );
        let texts = |texts: &[&'static str]| Value::List(texts.iter().copied().map(text).collect());
        assert_eq!(
            through(texts(&["b", "a", "B", "b\n", "b"]), "frozen<set<text>>"),
            texts(&["B", "a", "b", "b\n"])
        );
        let map = |keys: &[i64]| Value::Map(keys.iter().map(|k| (Value::Long(*k), text("v"))).collect());
        assert_eq!(through(map(&[10, 9, -1]), "map<bigint, text>"), map(&[-1, 9, 10]));
    }

    #[test]
    fn what_others_stored_is_read_or_refused() {
        assert_eq!(
            read(ValueRef::Real(12.5), &ColumnType::Decimal),
            Ok(Value::Decimal {
                unscaled: vec![125].into(),
                scale: 1
            })
        );
        assert_eq!(read(ValueRef::Integer(1), &ColumnType::Double), Ok(Value::Double(1.0)));
        assert!(read(ValueRef::Integer(1 << 40), &ColumnType::Int).is_err());
        assert!(read(ValueRef::Text(b"soon"), &ColumnType::Timestamp).is_err());
        assert!(read(ValueRef::Text(b"{"), &ColumnType::List(Box::new(ColumnType::Int))).is_err());
        let duration = |text: &str| read(ValueRef::Text(text.as_bytes()), &ColumnType::Duration);
        let (months, days, millis) = (0, 0, 3_500);
        assert_eq!(duration("P0M0DT3.5S"), Ok(Value::Duration { months, days, millis }));
        assert!(duration("P0M0DT3.0005S").is_err());
    }
}
