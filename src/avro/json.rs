//! Values as JSON, for display, text columns and expressions.
//!
//! This is JSON as people write it, not Avro's JSON encoding: a union's value stands for itself, and times are readable.
//!
//! | value | JSON |
//! | --- | --- |
//! | null, boolean, int, long, string | the same |
//! | float, double | a number; not-a-number and the infinities as text |
//! | bytes | text, Base64 (RFC 4648, padded) |
//! | date | `"2024-06-07"` |
//! | time | `"06:05:04.003"`, with three, six or nine digits according to its unit |
//! | timestamp | `"2024-06-07T06:05:04.003Z"` (RFC 3339) |
//! | local timestamp | the same without `Z` |
//! | decimal | text, `"12.30"` |
//! | uuid | text of 36 characters |
//! | duration | ISO 8601, `"P1M2DT3.004S"` |
//! | array | an array |
//! | map, record | an object; map keys that are not text are written as their JSON |

use serde_json::{Map, Value as Json};

use super::decimal;
use super::uuid;
use super::value::{Unit, Value};

/// A value as JSON. Total: every value has a JSON form.
pub fn to_json(value: &Value<'_>) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::from(*value),
        Value::Int(value) => Json::from(*value),
        Value::Long(value) => Json::from(*value),
        Value::Float(value) => number(f64::from(*value), value.to_string()),
        Value::Double(value) => number(*value, value.to_string()),
        Value::String(text) => Json::from(text.as_ref()),
        Value::Bytes(bytes) => Json::from(base64(bytes)),
        Value::Date(days) => Json::from(date((*days).into())),
        Value::Time(time, unit) => Json::from(clock(*time, *unit)),
        Value::Timestamp(time, unit) => Json::from(instant(*time, *unit) + "Z"),
        Value::LocalTimestamp(time, unit) => Json::from(instant(*time, *unit)),
        Value::Decimal { unscaled, scale } => match decimal::text(unscaled, *scale) {
            Some(text) => Json::from(text),
            None => Json::from(format!("{}e{}", base64(unscaled), -i64::from(*scale))),
        },
        Value::Uuid(uuid) => Json::from(uuid::string(uuid)),
        Value::Duration { months, days, millis } => {
            Json::from(format!("P{months}M{days}DT{}.{:03}S", millis / 1000, millis % 1000))
        }
        Value::List(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Map(entries) => Json::Object(
            entries
                .iter()
                .map(|(key, value)| (key_text(key), to_json(value)))
                .collect::<Map<_, _>>(),
        ),
        Value::Record(fields) => Json::Object(
            fields
                .iter()
                .map(|(name, value)| (name.to_string(), to_json(value)))
                .collect::<Map<_, _>>(),
        ),
    }
}

fn key_text(key: &Value<'_>) -> String {
    match to_json(key) {
        Json::String(text) => text,
        other => other.to_string(),
    }
}

/// `digits` are the value's own digits. A `float` must not get those of the `double` that it becomes.
fn number(value: f64, digits: String) -> Json {
    match digits.parse().ok().and_then(serde_json::Number::from_f64) {
        Some(number) => Json::Number(number),
        None if value.is_nan() => Json::from("NaN"),
        None => Json::from(if value > 0.0 { "Infinity" } else { "-Infinity" }),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// A day, counted from 1970-01-01, in the proleptic Gregorian calendar, as `YYYY-MM-DD`.
///
/// The arithmetic is Howard Hinnant's `civil_from_days` ("chrono-Compatible Low-Level Date Algorithms"): years begin in
/// March, so that the leap day is the last.
fn date(days: i64) -> String {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let sign = if year < 0 { "-" } else { "" };
    format!("{sign}{:04}-{month:02}-{day:02}", year.abs())
}

fn per_second(unit: Unit) -> (i64, usize) {
    match unit {
        Unit::Millis => (1_000, 3),
        Unit::Micros => (1_000_000, 6),
        Unit::Nanos => (1_000_000_000, 9),
    }
}

/// A time of day. Beyond 24 hours it is written with as many hours as it has.
fn clock(time: i64, unit: Unit) -> String {
    let (per_second, digits) = per_second(unit);
    let sign = if time < 0 { "-" } else { "" };
    let (seconds, rest) = (
        time.unsigned_abs() / per_second as u64,
        time.unsigned_abs() % per_second as u64,
    );
    format!(
        "{sign}{:02}:{:02}:{:02}.{rest:0digits$}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn instant(time: i64, unit: Unit) -> String {
    let per_day = per_second(unit).0 * 86_400;
    format!(
        "{}T{}",
        date(time.div_euclid(per_day)),
        clock(time.rem_euclid(per_day), unit)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    #[test]
    fn times_are_legible() {
        let json = |value: Value<'_>| to_json(&value);
        assert_eq!(json(Value::Date(19_881)), "2024-06-07");
        assert_eq!(json(Value::Date(-1)), "1969-12-31");
        assert_eq!(json(Value::Date(11_016)), "2000-02-29");
        assert_eq!(json(Value::Date(-719_529)), "-0001-12-31");
        assert_eq!(
            json(Value::Timestamp(1_717_740_000_123, Unit::Millis)),
            "2024-06-07T06:00:00.123Z"
        );
        assert_eq!(
            json(Value::LocalTimestamp(-1, Unit::Nanos)),
            "1969-12-31T23:59:59.999999999"
        );
        assert_eq!(json(Value::Time(3_723_004_005, Unit::Micros)), "01:02:03.004005");
        assert_eq!(
            json(Value::Duration {
                months: 1,
                days: 2,
                millis: 3004
            }),
            "P1M2DT3.004S"
        );
        for extreme in [i64::MIN, i64::MAX] {
            for unit in [Unit::Millis, Unit::Micros, Unit::Nanos] {
                let _ = (json(Value::Timestamp(extreme, unit)), json(Value::Time(extreme, unit)));
            }
        }
        let _ = (json(Value::Date(i32::MIN)), json(Value::Date(i32::MAX)));
    }

    #[test]
    fn numbers_keep_their_digits() {
        assert_eq!(to_json(&Value::Float(0.1)).to_string(), "0.1");
        assert_eq!(to_json(&Value::Double(0.1)).to_string(), "0.1");
        assert_eq!(to_json(&Value::Long(i64::MIN)).to_string(), i64::MIN.to_string());
        assert_eq!(to_json(&Value::Double(f64::NAN)), "NaN");
        assert_eq!(to_json(&Value::Float(f32::NEG_INFINITY)), "-Infinity");
    }

    #[test]
    fn bytes_are_base64() {
        let text = |bytes: &'static [u8]| to_json(&Value::Bytes(Cow::Borrowed(bytes)));
        assert_eq!(
            [text(b""), text(b"f"), text(b"fo"), text(b"foo")],
            ["", "Zg==", "Zm8=", "Zm9v"]
        );
        assert_eq!(text(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn maps_and_records_are_objects() {
        let map = Value::Map(vec![
            (Value::Int(1), Value::Null),
            (Value::String("b".into()), Value::Bool(true)),
        ]);
        let record = Value::Record(vec![("m".into(), map), ("l".into(), Value::List(vec![Value::Int(2)]))]);
        assert_eq!(to_json(&record).to_string(), r#"{"m":{"1":null,"b":true},"l":[2]}"#);
    }
}
