//! Converts a pipeline's value to what a column accepts, and back, independently of any database.
//!
//! CQL and SQLite bind the same values; the rules (ranges, units, forms) are implemented once, here, as the table of [`super::types`] defines them.
//! Invariant: nothing is changed silently except as the table says (flooring to the column's unit, rounding of a double into a `float`). Callers
//! handle nulls: no function here takes one.

use std::borrow::Cow;
use std::net::IpAddr;

use super::decimal;
use super::types::ColumnType;
use crate::avro::value::{Unit, Value};
use crate::avro::{rescale, uuid};

/// Errors show at most so many characters of a value: they go to headers, and to logs, which leave out what they quote.
const SHOWN: usize = 64;

/// A value that its column does not accept, or that Avro cannot represent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// Another type.
    #[error("a value of type {from} does not go into {to}")]
    Mismatch {
        /// Avro's word for the value's type.
        from: &'static str,
        /// The column's type.
        to: String,
    },
    /// The right type, but too large, too small or too precise.
    #[error("{value:?} is out of range for {to}")]
    Range {
        /// The value, shortened.
        value: String,
        /// The column's type.
        to: String,
    },
    /// The right type, but malformed.
    #[error("{value:?} is not a valid {to}")]
    Form {
        /// The value, shortened.
        value: String,
        /// The column's type.
        to: String,
    },
    /// A null where the column does not allow one.
    #[error("null inside {0}")]
    Null(String),
}

/// Result of a conversion.
pub type Converted<T> = Result<T, ConvertError>;

const NANOS_PER_DAY: i64 = 86_400_000_000_000;

/// Avro's word for the type of a value.
pub fn type_name(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Int(_) => "int",
        Value::Long(_) => "long",
        Value::Float(_) => "float",
        Value::Double(_) => "double",
        Value::String(_) => "string",
        Value::Bytes(_) => "bytes",
        Value::Date(_) => "date",
        Value::Time(..) => "time",
        Value::Timestamp(..) => "timestamp",
        Value::LocalTimestamp(..) => "local-timestamp",
        Value::Decimal { .. } => "decimal",
        Value::Uuid(_) => "uuid",
        Value::Duration { .. } => "duration",
        Value::List(_) => "array",
        Value::Map(_) => "map",
        Value::Record(_) => "record",
    }
}

/// The error for a value of another type than the column's.
pub fn mismatch(value: &Value<'_>, to: &ColumnType) -> ConvertError {
    ConvertError::Mismatch {
        from: type_name(value),
        to: to.to_string(),
    }
}

fn range(value: impl ToString, to: &ColumnType) -> ConvertError {
    ConvertError::Range {
        value: shorten(&value.to_string(), SHOWN),
        to: to.to_string(),
    }
}

/// The error for a text that is malformed for the column.
pub fn form(value: &str, to: &ColumnType) -> ConvertError {
    ConvertError::Form {
        value: shorten(value, SHOWN),
        to: to.to_string(),
    }
}

/// A text, cut behind this many characters.
pub fn shorten(value: &str, most: usize) -> String {
    match value.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// `text` and `ascii`.
pub fn text<'v>(value: &'v Value<'_>, to: &ColumnType) -> Converted<Cow<'v, str>> {
    let text = match value {
        Value::String(s) => Cow::Borrowed(s.as_ref()),
        Value::Uuid(bytes) => Cow::Owned(uuid::string(bytes)),
        _ => return Err(mismatch(value, to)),
    };
    if *to == ColumnType::Ascii && !text.is_ascii() {
        return Err(form(&text, to));
    }
    Ok(text)
}

/// `bigint` and `counter`.
pub fn long(value: &Value<'_>, to: &ColumnType) -> Converted<i64> {
    match value {
        Value::Int(v) => Ok(i64::from(*v)),
        Value::Long(v) => Ok(*v),
        _ => Err(mismatch(value, to)),
    }
}

/// `int`, `smallint`, `tinyint`.
pub fn integer<T: TryFrom<i64>>(value: &Value<'_>, to: &ColumnType) -> Converted<T> {
    let v = long(value, to)?;
    T::try_from(v).map_err(|_| range(v, to))
}

/// `float`.
pub fn float(value: &Value<'_>, to: &ColumnType) -> Converted<f32> {
    match value {
        Value::Float(v) => Ok(*v),
        Value::Double(v) => {
            let narrow = *v as f32;
            if v.is_finite() && narrow.is_infinite() {
                Err(range(v, to))
            } else {
                Ok(narrow)
            }
        }
        Value::Int(v) if v.unsigned_abs() <= 1 << 24 => Ok(*v as f32),
        Value::Int(v) => Err(range(v, to)),
        _ => Err(mismatch(value, to)),
    }
}

/// `double`.
pub fn double(value: &Value<'_>, to: &ColumnType) -> Converted<f64> {
    match value {
        Value::Float(v) => Ok(f64::from(*v)),
        Value::Double(v) => Ok(*v),
        Value::Int(v) => Ok(f64::from(*v)),
        Value::Long(v) if v.unsigned_abs() <= 1 << 53 => Ok(*v as f64),
        Value::Long(v) => Err(range(v, to)),
        _ => Err(mismatch(value, to)),
    }
}

/// `boolean`.
pub fn boolean(value: &Value<'_>, to: &ColumnType) -> Converted<bool> {
    match value {
        Value::Bool(v) => Ok(*v),
        _ => Err(mismatch(value, to)),
    }
}

/// `blob`.
pub fn blob<'v>(value: &'v Value<'_>, to: &ColumnType) -> Converted<&'v [u8]> {
    match value {
        Value::Bytes(v) => Ok(v),
        _ => Err(mismatch(value, to)),
    }
}

/// `timestamp`: milliseconds since 1970, floored (an instant before 1970 rounds away from 1970).
pub fn timestamp_millis(value: &Value<'_>, to: &ColumnType) -> Converted<i64> {
    match value {
        Value::Timestamp(v, unit) | Value::LocalTimestamp(v, unit) => Ok(match unit {
            Unit::Millis => *v,
            Unit::Micros => v.div_euclid(1_000),
            Unit::Nanos => v.div_euclid(1_000_000),
        }),
        Value::Long(v) => Ok(*v),
        _ => Err(mismatch(value, to)),
    }
}

/// `date`: days since 1970.
pub fn date_days(value: &Value<'_>, to: &ColumnType) -> Converted<i32> {
    match value {
        Value::Date(days) => Ok(*days),
        _ => Err(mismatch(value, to)),
    }
}

/// `time`: nanoseconds since midnight, below a day.
pub fn time_nanos(value: &Value<'_>, to: &ColumnType) -> Converted<i64> {
    let Value::Time(v, unit) = value else {
        return Err(mismatch(value, to));
    };
    let factor = match unit {
        Unit::Millis => 1_000_000,
        Unit::Micros => 1_000,
        Unit::Nanos => 1,
    };
    v.checked_mul(factor)
        .filter(|nanos| (0..NANOS_PER_DAY).contains(nanos))
        .ok_or_else(|| range(v, to))
}

/// `uuid`, and `timeuuid`, which must be of version 1.
pub fn uuid(value: &Value<'_>, to: &ColumnType) -> Converted<[u8; 16]> {
    let bytes = match value {
        Value::Uuid(bytes) => *bytes,
        Value::String(s) => parse_uuid(s).ok_or_else(|| form(s, to))?,
        Value::Bytes(b) => <[u8; 16]>::try_from(b.as_ref()).map_err(|_| range(format!("{} bytes", b.len()), to))?,
        _ => return Err(mismatch(value, to)),
    };
    if *to == ColumnType::TimeUuid && bytes[6] >> 4 != 1 {
        return Err(form(&uuid::string(&bytes), to));
    }
    Ok(bytes)
}

/// Reads 32 hexadecimal digits with hyphens in the usual places, or with none: the forms of [`uuid::parse`] that CQL has too.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    matches!(text.len(), 32 | 36).then(|| uuid::parse(text.as_bytes()))?
}

/// Two lower-case hexadecimal digits.
pub fn push_hex(out: &mut String, byte: u8) {
    for nibble in [byte >> 4, byte & 15] {
        out.push(char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }));
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    bytes.iter().for_each(|byte| push_hex(&mut out, *byte));
    out
}

/// `decimal`: unscaled number and scale.
pub fn decimal<'v>(value: &'v Value<'_>, to: &ColumnType) -> Converted<(Cow<'v, [u8]>, i32)> {
    match value {
        Value::Decimal { unscaled, scale } if unscaled.is_empty() => Ok((Cow::Borrowed(&[0]), *scale)),
        Value::Decimal { unscaled, scale } => Ok((Cow::Borrowed(decimal::shortest(unscaled)), *scale)),
        Value::Int(v) => Ok((Cow::Owned(decimal::from_i64(i64::from(*v))), 0)),
        Value::Long(v) => Ok((Cow::Owned(decimal::from_i64(*v)), 0)),
        _ => Err(mismatch(value, to)),
    }
}

/// `varint`: big-endian two's complement. Each decimal value carries its own scale, so a value of any scale may be whole.
pub fn varint<'v>(value: &'v Value<'_>, to: &ColumnType) -> Converted<Cow<'v, [u8]>> {
    let (unscaled, scale) = decimal(value, to)?;
    if scale == 0 {
        return Ok(unscaled);
    }
    match rescale(&unscaled, scale, 0) {
        Some(whole) => Ok(Cow::Owned(whole)),
        None => Err(range(decimal_text(&unscaled, scale, to)?, to)),
    }
}

/// The digits of a decimal; too many are an error.
pub fn decimal_text(unscaled: &[u8], scale: i32, to: &ColumnType) -> Converted<String> {
    let text = decimal::to_text(unscaled, scale);
    text.ok_or_else(|| range("a decimal of more than 5,000 digits", to))
}

/// `inet`.
pub fn inet(value: &Value<'_>, to: &ColumnType) -> Converted<IpAddr> {
    match value {
        Value::String(s) => s.parse().map_err(|_| form(s, to)),
        Value::Bytes(b) => match b.len() {
            4 => Ok(IpAddr::from(
                <[u8; 4]>::try_from(b.as_ref()).map_err(|_| mismatch(value, to))?,
            )),
            16 => Ok(IpAddr::from(
                <[u8; 16]>::try_from(b.as_ref()).map_err(|_| mismatch(value, to))?,
            )),
            n => Err(range(format!("{n} bytes"), to)),
        },
        _ => Err(mismatch(value, to)),
    }
}

/// `duration`: months, days, nanoseconds.
pub fn duration(value: &Value<'_>, to: &ColumnType) -> Converted<(i32, i32, i64)> {
    let Value::Duration { months, days, millis } = value else {
        return Err(mismatch(value, to));
    };
    let amount = |v: u32| i32::try_from(v).map_err(|_| range(v, to));
    Ok((amount(*months)?, amount(*days)?, i64::from(*millis) * 1_000_000))
}

/// Converts a CQL duration to Avro's. Fails for what Avro cannot represent: negative amounts, and fractions of a millisecond.
pub fn duration_value(months: i32, days: i32, nanos: i64) -> Converted<Value<'static>> {
    let whole = u32::try_from(nanos / 1_000_000).ok().filter(|_| nanos % 1_000_000 == 0);
    match (u32::try_from(months), u32::try_from(days), whole) {
        (Ok(months), Ok(days), Some(millis)) => Ok(Value::Duration { months, days, millis }),
        _ => Err(range(format!("{months}mo{days}d{nanos}ns"), &ColumnType::Duration)),
    }
}

/// Reads a duration in ISO 8601 like `P1M2DT3.5S`, with all parts present; `None` if it has fractions of a millisecond.
pub fn parse_duration(text: &str) -> Option<Value<'static>> {
    let number = |digits: &str| -> Option<u32> {
        // Digits only: `parse` would accept a sign.
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    let (months, rest) = text.strip_prefix('P')?.split_once('M')?;
    let (days, rest) = rest.split_once("DT")?;
    let (seconds, fraction) = rest.strip_suffix('S')?.split_once('.')?;
    let padded = format!("{fraction:0<3}");
    let (millis, finer) = padded.split_at_checked(3)?;
    if fraction.is_empty() || finer.bytes().any(|b| b != b'0') {
        return None;
    }
    Some(Value::Duration {
        months: number(months)?,
        days: number(days)?,
        millis: number(seconds)?.checked_mul(1_000)?.checked_add(number(millis)?)?,
    })
}

/// Whether a literal, whose type the column accepts, is in range and well-formed. A literal is never a collection.
pub fn check(literal: &Value<'_>, to: &ColumnType) -> Converted<()> {
    match to {
        _ if literal.is_null() => Ok(()),
        ColumnType::Text | ColumnType::Ascii => text(literal, to).map(|_| ()),
        ColumnType::Int => integer::<i32>(literal, to).map(|_| ()),
        ColumnType::SmallInt => integer::<i16>(literal, to).map(|_| ()),
        ColumnType::TinyInt => integer::<i8>(literal, to).map(|_| ()),
        ColumnType::BigInt | ColumnType::Counter => long(literal, to).map(|_| ()),
        ColumnType::Float => float(literal, to).map(|_| ()),
        ColumnType::Double => double(literal, to).map(|_| ()),
        ColumnType::Uuid | ColumnType::TimeUuid => uuid(literal, to).map(|_| ()),
        ColumnType::Inet => inet(literal, to).map(|_| ()),
        // For these the type alone decides about a literal.
        ColumnType::Boolean
        | ColumnType::Blob
        | ColumnType::Timestamp
        | ColumnType::Date
        | ColumnType::Time
        | ColumnType::Decimal
        | ColumnType::Varint
        | ColumnType::Duration
        | ColumnType::List(_)
        | ColumnType::Set(_)
        | ColumnType::Map(..)
        | ColumnType::Tuple(_)
        | ColumnType::Udt { .. }
        | ColumnType::Vector(..)
        | ColumnType::Any
        | ColumnType::Numeric(_) => Ok(()),
    }
}

/// The value of a field of a UDT: in a record, or in a map with string keys (which expressions produce).
pub fn field<'v, 'a>(value: &'v Value<'a>, name: &str, to: &ColumnType) -> Converted<Option<&'v Value<'a>>> {
    match value {
        Value::Record(fields) => Ok(fields.iter().find(|(field, _)| field == name).map(|(_, v)| v)),
        Value::Map(pairs) => Ok(pairs
            .iter()
            .find(|(key, _)| matches!(key, Value::String(k) if k == name))
            .map(|(_, v)| v)),
        _ => Err(mismatch(value, to)),
    }
}

/// The items of a list, a set, or a vector that has the right number of items.
pub fn items<'v, 'a>(value: &'v Value<'a>, to: &ColumnType) -> Converted<&'v [Value<'a>]> {
    let Value::List(items) = value else {
        return Err(mismatch(value, to));
    };
    if let ColumnType::Vector(_, n) = to
        && items.len() != *n
    {
        return Err(range(format!("a list of {} items", items.len()), to));
    }
    match items.iter().any(Value::is_null) {
        true => Err(ConvertError::Null(to.to_string())),
        false => Ok(items),
    }
}

/// The pairs of a map.
pub fn pairs<'v, 'a>(value: &'v Value<'a>, to: &ColumnType) -> Converted<&'v [(Value<'a>, Value<'a>)]> {
    let Value::Map(pairs) = value else {
        return Err(mismatch(value, to));
    };
    match pairs.iter().any(|(k, v)| k.is_null() || v.is_null()) {
        true => Err(ConvertError::Null(to.to_string())),
        false => Ok(pairs),
    }
}

/// The values of a tuple's items: a record's fields, or a list.
pub fn tuple_items<'v, 'a>(value: &'v Value<'a>, arity: usize, to: &ColumnType) -> Converted<Vec<&'v Value<'a>>> {
    let items: Vec<_> = match value {
        Value::Record(fields) => fields.iter().map(|(_, v)| v).collect(),
        Value::List(items) => items.iter().collect(),
        _ => return Err(mismatch(value, to)),
    };
    if items.len() == arity {
        Ok(items)
    } else {
        Err(range(format!("{} items", items.len()), to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        assert_eq!(integer::<i8>(&Value::Int(-128), &ColumnType::TinyInt), Ok(-128));
        let error = integer::<i16>(&Value::Long(40_000), &ColumnType::SmallInt).unwrap_err();
        assert_eq!(error.to_string(), "\"40000\" is out of range for smallint");
        assert!(double(&Value::Long((1 << 53) + 1), &ColumnType::Double).is_err());
        assert!(float(&Value::Double(1e300), &ColumnType::Float).is_err());
        assert!(time_nanos(&Value::Time(86_400_000, Unit::Millis), &ColumnType::Time).is_err());
        assert!(time_nanos(&Value::Time(i64::MAX, Unit::Millis), &ColumnType::Time).is_err());
        let half = Value::Decimal {
            unscaled: vec![5].into(),
            scale: 1,
        };
        assert_eq!(
            varint(&half, &ColumnType::Varint).unwrap_err().to_string(),
            "\"0.5\" is out of range for varint"
        );
    }

    #[test]
    fn a_decimal_that_is_whole_is_a_varint_whatever_its_scale() {
        for (unscaled, scale, whole) in [(500, 2, 5), (5, -2, 500), (-500, 1, -50), (0, 3, 0), (7, 0, 7)] {
            let unscaled = decimal::from_i64(unscaled).into();
            let value = Value::Decimal { unscaled, scale };
            let bound = varint(&value, &ColumnType::Varint).map(Cow::into_owned);
            assert_eq!(bound, Ok(decimal::from_i64(whole)), "{value:?}");
        }
        for (unscaled, scale) in [(5, 1), (501, 2), (5, i32::MIN)] {
            let unscaled = decimal::from_i64(unscaled).into();
            let value = Value::Decimal { unscaled, scale };
            assert!(varint(&value, &ColumnType::Varint).is_err(), "{value:?}");
        }
    }

    #[test]
    fn timestamps_are_floored_to_milliseconds() {
        let millis = |v, unit| timestamp_millis(&Value::Timestamp(v, unit), &ColumnType::Timestamp);
        assert_eq!(millis(1_999, Unit::Micros), Ok(1));
        assert_eq!(millis(-1, Unit::Micros), Ok(-1));
        assert_eq!(millis(-1_000_001, Unit::Nanos), Ok(-2));
    }

    #[test]
    fn a_duration_is_read_with_a_fraction_of_any_length() {
        let read = |text: &str| match parse_duration(text)? {
            Value::Duration { months, days, millis } => Some((months, days, millis)),
            other => panic!("{other:?}"),
        };
        for (fraction, millis) in [
            ("5", 500),
            ("05", 50),
            ("005", 5),
            ("0", 0),
            ("5000000000000", 500),
            ("0040", 4),
        ] {
            let text = format!("P1M2DT3.{fraction}S");
            assert_eq!(read(&text), Some((1, 2, 3_000 + millis)), "{text}");
        }
        assert_eq!(read("P0M0DT4294967.295S"), Some((0, 0, u32::MAX)));
        for bad in [
            "P1M2DT3S",
            "P1M2DT3.S",
            "P1M2DT.5S",
            "P1M2DT3.0005S",
            "P1M2DT3.+5S",
            "P1M2DT3.5éS",
            "P1M2DT3.ééS",
            "P+1M2DT3.5S",
            "P1M-2DT3.5S",
            "P1MDT3.5S",
            "P0M0DT4294967.296S",
            "P0M0DT9223372036854775807.000S",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn forms_are_checked() {
        let good = Value::String("7d444840-9dc0-11d1-b245-5ffdce74fad2".into());
        assert!(uuid(&good, &ColumnType::TimeUuid).is_ok());
        let version_4 = Value::String("7d444840-9dc0-41d1-b245-5ffdce74fad2".into());
        assert!(uuid(&version_4, &ColumnType::Uuid).is_ok());
        assert!(uuid(&version_4, &ColumnType::TimeUuid).is_err());
        let bare = Value::String("7D4448409DC011D1B2455FFDCE74FAD2".into());
        assert_eq!(uuid(&bare, &ColumnType::Uuid), uuid(&good, &ColumnType::Uuid));
        for bad in [
            "",
            "7d444840",
            "7d444840-9dc0-11d1-b2455-ffdce74fad2",
            "ré444840-9dc0-11d1-b245-5ffdce74fad",
            "zd444840-9dc0-11d1-b245-5ffdce74fad2",
            "{7d444840-9dc0-11d1-b245-5ffdce74fad2}",
            "urn:uuid:7d444840-9dc0-11d1-b245-5ffdce74fad2",
        ] {
            assert!(uuid(&Value::String(bad.into()), &ColumnType::Uuid).is_err(), "{bad}");
        }
        assert!(text(&Value::String("é".into()), &ColumnType::Ascii).is_err());
        assert!(inet(&Value::String("::1".into()), &ColumnType::Inet).is_ok());
        assert!(inet(&Value::String("localhost".into()), &ColumnType::Inet).is_err());
    }
}
