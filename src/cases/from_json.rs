//! Converts JSON as people write it to values of a known type, for test cases and tools; the inverse of [`json`](crate::avro::json). It is not used
//! for records.
//!
//! In addition to what [`to_json`](crate::avro::json::to_json) writes, a date, a time or a timestamp may be a whole number in the unit of its type,
//! and a decimal a number. Omitted fields of a record get their defaults.

use std::borrow::Cow;

use serde_json::Value as Json;

use crate::avro::uuid;
use crate::avro::value::{Type, Unit, Value};
use crate::calendar;
use crate::store::convert;

/// Converts JSON to a value of this type.
///
/// # Errors
/// Where it does not fit, and what was expected there.
pub fn from_json(json: &Json, ty: &Type) -> Result<Value<'static>, String> {
    at(json, ty, "")
}

fn at(json: &Json, ty: &Type, place: &str) -> Result<Value<'static>, String> {
    let wrong = |expected: &str| {
        let place = if place.is_empty() { "the value" } else { place };
        let found = convert::shorten(&json.to_string(), 60);
        Err(format!("{place}: expected {expected}, found {found}"))
    };
    let found = match (ty, json) {
        (Type::Nullable(_) | Type::Null | Type::Any, Json::Null) => Some(Value::Null),
        (Type::Nullable(inner), _) => return at(json, inner, place),
        (Type::Any, _) => Some(natural(json)),
        (Type::Bool, Json::Bool(value)) => Some(Value::Bool(*value)),
        (Type::Int, Json::Number(n)) => n.as_i64().and_then(|n| i32::try_from(n).ok()).map(Value::Int),
        (Type::Long, Json::Number(n)) => n.as_i64().map(Value::Long),
        (Type::Float, _) => float(json).map(|value| Value::Float(value as f32)),
        (Type::Double, _) => float(json).map(Value::Double),
        (Type::String, Json::String(text)) => Some(Value::String(Cow::Owned(text.clone()))),
        (Type::Enum(symbols), Json::String(text)) if symbols.contains(text) => {
            Some(Value::String(Cow::Owned(text.clone())))
        }
        (Type::Bytes | Type::Fixed(_), Json::String(text)) => base64(text).map(|bytes| Value::Bytes(Cow::Owned(bytes))),
        (Type::Date, Json::Number(n)) => n.as_i64().and_then(|n| i32::try_from(n).ok()).map(Value::Date),
        (Type::Date, Json::String(text)) => day(text).and_then(|days| i32::try_from(days).ok()).map(Value::Date),
        (Type::Time(unit), Json::Number(n)) => n.as_i64().map(|n| Value::Time(n, *unit)),
        (Type::Time(unit), Json::String(text)) => clock(text)
            .and_then(|nanos| in_unit(nanos, *unit))
            .map(|time| Value::Time(time, *unit)),
        (Type::Timestamp(unit), Json::Number(n)) => n.as_i64().map(|n| Value::Timestamp(n, *unit)),
        (Type::Timestamp(unit), Json::String(text)) => {
            let nanos = text.strip_suffix(['Z', 'z']).and_then(instant);
            nanos
                .and_then(|nanos| in_unit(nanos, *unit))
                .map(|time| Value::Timestamp(time, *unit))
        }
        (Type::LocalTimestamp(unit), Json::Number(n)) => n.as_i64().map(|n| Value::LocalTimestamp(n, *unit)),
        (Type::LocalTimestamp(unit), Json::String(text)) => instant(text)
            .and_then(|nanos| in_unit(nanos, *unit))
            .map(|time| Value::LocalTimestamp(time, *unit)),
        (Type::Decimal { .. }, Json::String(text)) => decimal(text),
        (Type::Decimal { .. }, Json::Number(number)) => decimal(&number.to_string()),
        (Type::Uuid, Json::String(text)) => uuid::parse(text.as_bytes()).map(Value::Uuid),
        (Type::Duration, Json::String(text)) => convert::parse_duration(text),
        (Type::List(item), Json::Array(items)) => {
            let items = items.iter().enumerate();
            let items = items.map(|(number, json)| at(json, item, &format!("{place}[{number}]")));
            return items.collect::<Result<_, _>>().map(Value::List);
        }
        (Type::Map(key, value), Json::Object(object)) => {
            let entry = |(name, json): (&String, &Json)| {
                let place = format!("{place}['{name}']");
                let text = Json::String(name.clone());
                // Keys other than text are written as their JSON.
                let key = at(&text, key, &place).or_else(|error| {
                    let other = serde_json::from_str(name).map_err(|_| error)?;
                    at(&other, key, &place)
                })?;
                Ok((key, at(json, value, &place)?))
            };
            return object.iter().map(entry).collect::<Result<_, String>>().map(Value::Map);
        }
        (Type::Record(fields), Json::Object(object)) => {
            let field = |(name, json): (&String, &Json)| {
                let place = format!("{place}{}{name}", if place.is_empty() { "" } else { "." });
                match fields.iter().find(|(known, _)| known == name) {
                    Some((_, ty)) => Ok((Cow::Owned(name.clone()), at(json, ty, &place)?)),
                    None => Err(format!("{place}: there is no such field")),
                }
            };
            return object
                .iter()
                .map(field)
                .collect::<Result<_, String>>()
                .map(Value::Record);
        }
        (Type::Union(types), _) => match types.iter().find_map(|ty| at(json, ty, place).ok()) {
            Some(value) => Some(value),
            // If exactly one member of the union is of the JSON's kind, its error says more than that none fits.
            None => match types.iter().filter(|ty| of_kind(ty, json)).collect::<Vec<_>>()[..] {
                [only] => return at(json, only, place),
                _ => None,
            },
        },
        _ => None,
    };
    match found {
        Some(value) => Ok(value),
        None => wrong(&expected(ty)),
    }
}

/// The conversion if the type is not known.
fn natural(json: &Json) -> Value<'static> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Long(number),
            None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Cow::Owned(text.clone())),
        Json::Array(items) => Value::List(items.iter().map(natural).collect()),
        Json::Object(object) => {
            let field = |(name, json): (&String, &Json)| (Cow::Owned(name.clone()), natural(json));
            Value::Record(object.iter().map(field).collect())
        }
    }
}

fn of_kind(ty: &Type, json: &Json) -> bool {
    match json {
        Json::Object(_) => matches!(ty, Type::Record(_) | Type::Map(..)),
        Json::Array(_) => matches!(ty, Type::List(_)),
        _ => false,
    }
}

fn expected(ty: &Type) -> String {
    match ty {
        Type::Null => "null".to_owned(),
        Type::Bool => "true or false".to_owned(),
        Type::Int => "a whole number of 32 bits".to_owned(),
        Type::Long => "a whole number of 64 bits".to_owned(),
        Type::Float | Type::Double => "a number".to_owned(),
        Type::String => "text".to_owned(),
        Type::Enum(symbols) => format!("one of {}", symbols.join(", ")),
        Type::Bytes | Type::Fixed(_) => "bytes in Base64".to_owned(),
        Type::Date => "a date, \"2024-06-07\"".to_owned(),
        Type::Time(_) => "a time, \"06:05:04.003\", no finer than the type's unit".to_owned(),
        Type::Timestamp(_) => "a timestamp, \"2024-06-07T06:05:04.003Z\", no finer than the type's unit".to_owned(),
        Type::LocalTimestamp(_) => {
            "a local timestamp, \"2024-06-07T06:05:04.003\", no finer than the type's unit".to_owned()
        }
        Type::Decimal { .. } => "a decimal, \"12.30\"".to_owned(),
        Type::Uuid => "a UUID of 36 characters".to_owned(),
        Type::Duration => "a duration, \"P1M2DT3.004S\"".to_owned(),
        Type::List(_) => "an array".to_owned(),
        Type::Map(..) | Type::Record(_) => "an object".to_owned(),
        Type::Union(types) => types.iter().map(expected).collect::<Vec<_>>().join(" or "),
        Type::Nullable(inner) => format!("{} or null", expected(inner)),
        Type::Any => "anything".to_owned(),
    }
}

fn float(json: &Json) -> Option<f64> {
    match json {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn decimal(text: &str) -> Option<Value<'static>> {
    let (unscaled, scale) = crate::store::decimal::parse(text)?;
    Some(Value::Decimal {
        unscaled: Cow::Owned(unscaled),
        scale,
    })
}

/// Decodes Base64 as in RFC 4648, with padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.trim_end_matches('=');
    if text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in digits.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for c in chunk {
            bits = bits << 6 | u32::from(digit(*c)?);
        }
        bits <<= 6 * (4 - chunk.len());
        bytes.extend(&bits.to_be_bytes()[1..chunk.len()]);
    }
    Some(bytes)
}

fn digits(text: &str) -> Option<i64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Days from 1970-01-01 to `YYYY-MM-DD` in the proleptic Gregorian calendar.
fn day(text: &str) -> Option<i64> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let mut parts = text.splitn(3, '-').map(digits);
    let (year, month, day) = (sign * parts.next()??, parts.next()??, parts.next()??);
    if year.abs() > 10_000_000 {
        return None;
    }
    calendar::days(year, month, day)
}

/// Nanoseconds since midnight.
fn clock(text: &str) -> Option<i128> {
    let (hms, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = hms.splitn(3, ':').map(digits);
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    if hours > 23 || minutes > 59 || seconds > 59 || fraction.len() > 9 {
        return None;
    }
    let nanos = digits(fraction)? * 10_i64.pow(9 - fraction.len() as u32);
    Some(i128::from((hours * 60 + minutes) * 60 + seconds) * 1_000_000_000 + i128::from(nanos))
}

/// Nanoseconds since 1970, of a date and time without a zone.
pub(super) fn instant(text: &str) -> Option<i128> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    Some(i128::from(day(date)?) * 86_400_000_000_000 + clock(time)?)
}

fn in_unit(nanos: i128, unit: Unit) -> Option<i64> {
    let per = match unit {
        Unit::Millis => 1_000_000,
        Unit::Micros => 1_000,
        Unit::Nanos => 1,
    };
    (nanos % per == 0).then(|| i64::try_from(nanos / per).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::json::to_json;
    use serde_json::json;

    #[test]
    fn what_was_written_reads_back() {
        let values = [
            (Value::Date(-1), Type::Date),
            (Value::Date(19_881), Type::Date),
            (Value::Date(-800_000), Type::Date),
            (Value::Time(21_904_003, Unit::Millis), Type::Time(Unit::Millis)),
            (Value::Timestamp(-1, Unit::Nanos), Type::Timestamp(Unit::Nanos)),
            (
                Value::Timestamp(1_717_740_304_003, Unit::Millis),
                Type::Timestamp(Unit::Millis),
            ),
            (
                Value::LocalTimestamp(5, Unit::Micros),
                Type::LocalTimestamp(Unit::Micros),
            ),
            (Value::Bytes(Cow::Borrowed(b"\x00\xff")), Type::Bytes),
            (Value::Bytes(Cow::Borrowed(b"")), Type::Bytes),
            (Value::Bytes(Cow::Borrowed(b"abc")), Type::Bytes),
            (Value::Uuid([7; 16]), Type::Uuid),
            (Value::Double(f64::INFINITY), Type::Double),
            (Value::Float(0.1), Type::Float),
            (
                Value::Duration {
                    months: 1,
                    days: 2,
                    millis: 3_004,
                },
                Type::Duration,
            ),
            (
                Value::Map(vec![(Value::Int(3), Value::Null)]),
                Type::Map(Box::new(Type::Int), Box::new(Type::Bool.nullable())),
            ),
        ];
        for (value, ty) in values {
            let json = to_json(&value);
            assert_eq!(from_json(&json, &ty), Ok(value), "{json}");
        }
        assert_eq!(
            from_json(&json!("12.30"), &Type::Decimal { precision: 9, scale: 2 }).map(|v| to_json(&v)),
            Ok(json!("12.30"))
        );
    }

    #[test]
    fn a_year_that_no_date_has_is_none() {
        assert_eq!(day("10000000-01-01"), Some(3_651_705_472));
        for year in ["10000001", "-10000001", "9223372036854775807", "-9223372036854775807"] {
            assert_eq!(day(&format!("{year}-01-01")), None, "{year}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_place() {
        let inner = Type::Record(vec![("n".to_owned(), Type::Int)]);
        let ty = Type::Record(vec![
            ("a".to_owned(), Type::List(Box::new(inner.nullable()))),
            ("e".to_owned(), Type::Enum(vec!["X".to_owned(), "Y".to_owned()])),
        ]);
        let error = |json: Json| from_json(&json, &ty).unwrap_err();
        assert_eq!(
            error(json!({"a": [null, {"n": "x"}]})),
            "a[1].n: expected a whole number of 32 bits, found \"x\""
        );
        assert_eq!(error(json!({"e": "Z"})), "e: expected one of X, Y, found \"Z\"");
        assert_eq!(error(json!({"f": 1})), "f: there is no such field");
        assert_eq!(error(json!(7)), "the value: expected an object, found 7");
        for text in ["2023-02-29", "2024-13-01", "2024-00-01", "x", "2024-1"] {
            assert!(from_json(&json!(text), &Type::Date).is_err(), "{text}");
        }
        for text in [
            "2024-06-07T06:05:04.0031Z",
            "2024-06-07T24:00:00Z",
            "2024-06-07T06:05:04",
        ] {
            assert!(
                from_json(&json!(text), &Type::Timestamp(Unit::Millis)).is_err(),
                "{text}"
            );
        }
        for text in ["=", "A===", "AA=A", "AAA", "A\u{e9}=="] {
            assert!(from_json(&json!(text), &Type::Bytes).is_err(), "{text}");
        }
    }

    #[test]
    fn a_union_takes_the_branch_that_fits() {
        let record = Type::Record(vec![("n".to_owned(), Type::Int)]);
        let ty = Type::Union(vec![Type::Int, Type::String, record]);
        assert_eq!(from_json(&json!(3), &ty), Ok(Value::Int(3)));
        assert_eq!(from_json(&json!("3"), &ty), Ok(Value::String("3".into())));
        assert_eq!(
            from_json(&json!({"n": true}), &ty).unwrap_err(),
            "n: expected a whole number of 32 bits, found true"
        );
    }
}
