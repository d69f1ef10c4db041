//! Encodes one document as bytes: its key, and its fields by their types, in one allocation and without names.
//!
//! A reference may hold millions of values, and a tree of them would take three to five times the memory. A field is encoded by its declared or
//! sampled type, so neither its name nor its type is stored. A value that does not fit its type is reported, with both sides, and never changed
//! silently.
//!
//! Invariants: `decode` returns what `encode` accepted, given the same type; two keys have the same bytes exactly if a step may find one by the
//! other: numbers by value, an ObjectId and a UUID by their text.

use std::borrow::Cow;

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{RawBsonRef, RawDocument};

use crate::avro::uuid;
use crate::avro::value::{Type, Unit, Value};
use crate::store::decimal;

/// A double holds every integer up to this size exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The binary subtypes that are found as bytes: those that a query can list one by one.
pub(super) const BYTES: [BinarySubtype; 5] = [
    BinarySubtype::Generic,
    BinarySubtype::BinaryOld,
    BinarySubtype::UuidOld,
    BinarySubtype::Md5,
    BinarySubtype::UserDefined(0x80),
];

/// The key bytes of a document's value; `None` for a value that cannot be a key.
pub fn key_of_bson(value: RawBsonRef<'_>) -> Option<Vec<u8>> {
    Some(match value {
        RawBsonRef::String(s) | RawBsonRef::Symbol(s) => tagged(b's', s.as_bytes()),
        RawBsonRef::ObjectId(id) => tagged(b's', id.to_hex().as_bytes()),
        RawBsonRef::Binary(b) => match uuid(b.subtype, b.bytes) {
            Some(uuid) => tagged(b's', &uuid::text(&uuid)),
            None if BYTES.contains(&b.subtype) => tagged(b'b', b.bytes),
            None => return None,
        },
        RawBsonRef::Int32(_) | RawBsonRef::Int64(_) | RawBsonRef::Double(_) => {
            tagged(b'n', &whole(value)?.to_be_bytes())
        }
        _ => return None,
    })
}

/// The key bytes of a step's value; `None` for a value that finds no document.
pub fn key_of_value(value: &Value<'_>) -> Option<Vec<u8>> {
    Some(match value {
        Value::String(s) => tagged(b's', s.as_bytes()),
        Value::Uuid(u) => tagged(b's', &uuid::text(u)),
        Value::Bytes(b) => tagged(b'b', b),
        Value::Int(i) => tagged(b'n', &i64::from(*i).to_be_bytes()),
        Value::Long(i) => tagged(b'n', &i.to_be_bytes()),
        Value::Double(d) => tagged(b'n', &exact(*d)?.to_be_bytes()),
        _ => return None,
    })
}

/// A step's value that has these key bytes.
pub fn value_of_key(key: &[u8]) -> Value<'_> {
    let Some((tag, rest)) = key.split_first() else {
        return Value::Null;
    };
    match (tag, <[u8; 8]>::try_from(rest)) {
        (b's', _) => Value::String(String::from_utf8_lossy(rest)),
        (b'n', Ok(number)) => Value::Long(i64::from_be_bytes(number)),
        _ => Value::Bytes(Cow::Borrowed(rest)),
    }
}

/// The key bytes of a document by this field, if its value is usable.
pub fn key_of_document(field: &str, document: &RawDocument) -> Option<Vec<u8>> {
    document.get(field).ok().flatten().and_then(key_of_bson)
}

/// Tells values with the same key bytes apart. To the server they are different, and each may be the `_id` of its own document.
pub fn kind(value: RawBsonRef<'_>) -> u8 {
    match value {
        RawBsonRef::ObjectId(_) => 1,
        RawBsonRef::Binary(b) if b.subtype == BinarySubtype::Uuid => 2,
        RawBsonRef::Binary(b) => 3 + BYTES.iter().take_while(|known| **known != b.subtype).count() as u8,
        _ => 0,
    }
}

/// The bytes of an `_id` of any type. They identify a document if another field is the key.
pub fn identity(value: RawBsonRef<'_>) -> Vec<u8> {
    let bytes = key_of_bson(value).unwrap_or_else(|| {
        let text = format!("{value:?}");
        tagged(b'x', text.as_bytes())
    });
    tagged(kind(value), &bytes)
}

fn tagged(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + bytes.len());
    key.push(tag);
    key.extend_from_slice(bytes);
    key
}

fn exact(d: f64) -> Option<i64> {
    (d.fract() == 0.0 && d.abs() <= EXACT).then_some(d as i64)
}

fn whole(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(i) => Some(i64::from(i)),
        RawBsonRef::Int64(i) => Some(i),
        RawBsonRef::Double(d) => exact(d),
        _ => None,
    }
}

fn uuid(subtype: BinarySubtype, bytes: &[u8]) -> Option<[u8; 16]> {
    (subtype == BinarySubtype::Uuid)
        .then(|| bytes.try_into().ok())
        .flatten()
}

/// BSON's name for the type of a value.
pub fn type_name(value: RawBsonRef<'_>) -> &'static str {
    match value {
        RawBsonRef::Double(_) => "double",
        RawBsonRef::String(_) => "string",
        RawBsonRef::Array(_) => "array",
        RawBsonRef::Document(_) => "object",
        RawBsonRef::Boolean(_) => "bool",
        RawBsonRef::Null | RawBsonRef::Undefined => "null",
        RawBsonRef::Int32(_) => "int",
        RawBsonRef::Int64(_) => "long",
        RawBsonRef::Timestamp(_) => "timestamp",
        RawBsonRef::Binary(_) => "binData",
        RawBsonRef::ObjectId(_) => "objectId",
        RawBsonRef::DateTime(_) => "date",
        RawBsonRef::Symbol(_) => "symbol",
        RawBsonRef::Decimal128(_) => "decimal",
        _ => "another type",
    }
}

/// Encodes the fields of a document and appends them; the error names the field and both types.
pub fn encode_document(fields: &[(String, Type)], document: &RawDocument, out: &mut Vec<u8>) -> Result<(), String> {
    for (name, ty) in fields {
        let value = document.get(name).map_err(|e| format!("field {name}: {e}"))?;
        encode(ty, value.unwrap_or(RawBsonRef::Null), out)
            .map_err(|found| format!("field {name} is {found}, but {ty} is expected"))?;
    }
    Ok(())
}

/// Encodes one value by its type and appends it; the error names what was found instead.
fn encode(ty: &Type, value: RawBsonRef<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    if matches!(value, RawBsonRef::Null | RawBsonRef::Undefined) {
        out.push(0);
        return Ok(());
    }
    out.push(1);
    let wrong = || type_name(value).to_owned();
    match ty {
        Type::Nullable(inner) => {
            out.pop();
            return encode(inner, value, out);
        }
        Type::Bool => out.push(u8::from(value.as_bool().ok_or_else(wrong)?)),
        Type::Int => {
            let i = whole(value).and_then(|i| i32::try_from(i).ok()).ok_or_else(wrong)?;
            signed(i64::from(i), out);
        }
        Type::Long => signed(whole(value).ok_or_else(wrong)?, out),
        Type::Double => {
            let d = match value {
                RawBsonRef::Double(d) => d,
                RawBsonRef::Int32(i) => f64::from(i),
                RawBsonRef::Int64(i) if i.unsigned_abs() <= 1 << 53 => i as f64,
                _ => return Err(wrong()),
            };
            out.extend_from_slice(&d.to_le_bytes());
        }
        Type::String => match value {
            RawBsonRef::String(s) | RawBsonRef::Symbol(s) => sized(s.as_bytes(), out),
            RawBsonRef::ObjectId(id) => sized(id.to_hex().as_bytes(), out),
            _ => return Err(wrong()),
        },
        Type::Bytes => sized(value.as_binary().ok_or_else(wrong)?.bytes, out),
        Type::Timestamp(Unit::Millis) => signed(value.as_datetime().ok_or_else(wrong)?.timestamp_millis(), out),
        Type::Uuid => {
            let found = value.as_binary().and_then(|b| uuid(b.subtype, b.bytes));
            out.extend_from_slice(&found.ok_or_else(wrong)?);
        }
        Type::Decimal { .. } => {
            let (unscaled, scale) = match value {
                RawBsonRef::Decimal128(d) => decimal::parse(&d.to_string()).ok_or_else(wrong)?,
                _ => (decimal::from_i64(whole(value).ok_or_else(wrong)?), 0),
            };
            signed(i64::from(scale), out);
            sized(&unscaled, out);
        }
        Type::List(item) => {
            let array = value.as_array().ok_or_else(wrong)?;
            unsigned(array.into_iter().count() as u64, out);
            for element in array {
                let element = element.map_err(|e| e.to_string())?;
                if element == RawBsonRef::Null && !item.is_nullable() {
                    return Err("an array with null".to_owned());
                }
                encode(item, element, out).map_err(|found| format!("an array of {found}"))?;
            }
        }
        Type::Record(fields) => {
            let document = value.as_document().ok_or_else(wrong)?;
            encode_document(fields, document, out).map_err(|e| format!("an object whose {e}"))?;
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

fn unsigned(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn signed(n: i64, out: &mut Vec<u8>) {
    unsigned((n.cast_unsigned() << 1) ^ (n >> 63).cast_unsigned(), out);
}

fn sized(bytes: &[u8], out: &mut Vec<u8>) {
    unsigned(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Decodes the fields of a document. `None` only for bytes that [`encode_document`] did not write for these fields.
pub fn decode_document(fields: &[(String, Type)], mut bytes: &[u8]) -> Option<Vec<Value<'static>>> {
    fields.iter().map(|(_, ty)| decode(ty, &mut bytes)).collect()
}

fn decode(ty: &Type, bytes: &mut &[u8]) -> Option<Value<'static>> {
    if let Type::Nullable(inner) = ty {
        return decode(inner, bytes);
    }
    if take(bytes, 1)?[0] == 0 {
        return Some(Value::Null);
    }
    Some(match ty {
        Type::Bool => Value::Bool(take(bytes, 1)?[0] != 0),
        Type::Int => Value::Int(i32::try_from(take_signed(bytes)?).ok()?),
        Type::Long => Value::Long(take_signed(bytes)?),
        Type::Double => Value::Double(f64::from_le_bytes(take(bytes, 8)?.try_into().ok()?)),
        Type::String => Value::String(Cow::Owned(std::str::from_utf8(take_sized(bytes)?).ok()?.to_owned())),
        Type::Bytes => Value::Bytes(Cow::Owned(take_sized(bytes)?.to_vec())),
        Type::Timestamp(unit) => Value::Timestamp(take_signed(bytes)?, *unit),
        Type::Uuid => Value::Uuid(take(bytes, 16)?.try_into().ok()?),
        Type::Decimal { .. } => {
            let scale = i32::try_from(take_signed(bytes)?).ok()?;
            let unscaled = Cow::Owned(take_sized(bytes)?.to_vec());
            Value::Decimal { unscaled, scale }
        }
        Type::List(item) => {
            let count = take_unsigned(bytes)?;
            Value::List((0..count).map(|_| decode(item, bytes)).collect::<Option<_>>()?)
        }
        Type::Record(fields) => {
            let read = |(name, ty): &(String, Type)| Some((Cow::Owned(name.clone()), decode(ty, bytes)?));
            Value::Record(fields.iter().map(read).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

fn take<'b>(bytes: &mut &'b [u8], n: usize) -> Option<&'b [u8]> {
    let (head, tail) = bytes.split_at_checked(n)?;
    *bytes = tail;
    Some(head)
}

fn take_unsigned(bytes: &mut &[u8]) -> Option<u64> {
    let (mut n, mut shift) = (0u64, 0);
    loop {
        let byte = take(bytes, 1)?[0];
        n |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(n);
        }
        shift += 7;
    }
}

fn take_signed(bytes: &mut &[u8]) -> Option<i64> {
    let n = take_unsigned(bytes)?;
    Some((n >> 1).cast_signed() ^ -(n & 1).cast_signed())
}

fn take_sized<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::try_from(take_unsigned(bytes)?).ok()?;
    take(bytes, length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::oid::ObjectId;
    use mongodb::bson::{DateTime, Document, RawDocumentBuf, doc};
    use proptest::prelude::*;

    fn fields(types: &[(&str, Type)]) -> Vec<(String, Type)> {
        types
            .iter()
            .map(|(name, ty)| ((*name).to_owned(), ty.clone()))
            .collect()
    }

    fn through(types: &[(&str, Type)], document: &Document) -> Result<Vec<Value<'static>>, String> {
        let (raw, mut out) = (RawDocumentBuf::try_from(document).unwrap(), Vec::new());
        encode_document(&fields(types), &raw, &mut out)?;
        Ok(decode_document(&fields(types), &out).expect("what was encoded is decoded"))
    }

    #[test]
    fn every_type_comes_back_and_an_absent_field_is_null() {
        let id = ObjectId::new();
        let uuid = mongodb::bson::Uuid::new();
        let document = doc! {
            "b": true, "i": 7, "l": 1_i64 << 40, "whole": 3.0, "d": 2.5, "s": "ü", "o": id, "u": uuid,
            "t": DateTime::from_millis(-5), "list": ["a", "b"], "r": { "x": 1, "y": null }, "n": null,
            "dec": "12.50".parse::<mongodb::bson::Decimal128>().unwrap(),
        };
        let text = |s: &str| Value::String(Cow::Owned(s.to_owned()));
        let record = Type::Record(fields(&[("x", Type::Long), ("y", Type::String)]));
        let types = [
            ("b", Type::Bool),
            ("i", Type::Int),
            ("l", Type::Long),
            ("whole", Type::Long),
            ("d", Type::Double),
            ("s", Type::String),
            ("o", Type::String),
            ("u", Type::Uuid),
            ("t", Type::Timestamp(Unit::Millis)),
            ("list", Type::List(Box::new(Type::String))),
            ("r", record),
            ("n", Type::String),
            ("absent", Type::Long),
            ("dec", Type::Decimal { precision: 0, scale: 0 }),
        ];
        let wanted = vec![
            Value::Bool(true),
            Value::Int(7),
            Value::Long(1 << 40),
            Value::Long(3),
            Value::Double(2.5),
            text("ü"),
            text(&id.to_hex()),
            Value::Uuid(uuid.bytes()),
            Value::Timestamp(-5, Unit::Millis),
            Value::List(vec![text("a"), text("b")]),
            Value::Record(vec![("x".into(), Value::Long(1)), ("y".into(), Value::Null)]),
            Value::Null,
            Value::Null,
            Value::Decimal {
                unscaled: vec![0x04, 0xe2].into(),
                scale: 2,
            },
        ];
        assert_eq!(through(&types, &document).unwrap(), wanted);
    }

    #[test]
    fn what_does_not_fit_is_named_with_both_types() {
        let error = through(&[("vat", Type::String)], &doc! { "vat": 7 }).unwrap_err();
        assert_eq!(error, "field vat is int, but string is expected");
        let error = through(&[("n", Type::Int)], &doc! { "n": 1_i64 << 40 }).unwrap_err();
        assert_eq!(error, "field n is long, but int is expected");
        for beyond in [(1_i64 << 53) + 1, -(1_i64 << 53) - 1] {
            let error = through(&[("d", Type::Double)], &doc! { "d": beyond }).unwrap_err();
            assert_eq!(error, "field d is long, but double is expected");
            let last = beyond - beyond.signum();
            let held = through(&[("d", Type::Double)], &doc! { "d": last });
            assert_eq!(held, Ok(vec![Value::Double(last as f64)]));
        }
        let list = Type::List(Box::new(Type::Long));
        let error = through(&[("l", list)], &doc! { "l": [1, "x"] }).unwrap_err();
        assert_eq!(error, "field l is an array of string, but array<long> is expected");
    }

    #[test]
    fn keys_agree_between_documents_and_steps() {
        let id = ObjectId::new();
        let binary = mongodb::bson::RawBinaryRef {
            subtype: BinarySubtype::Generic,
            bytes: &[1; 8],
        };
        let pairs = [
            (RawBsonRef::Int32(5), Value::Long(5)),
            (RawBsonRef::Double(5.0), Value::Int(5)),
            (RawBsonRef::String("a"), Value::String("a".into())),
            (RawBsonRef::Binary(binary), Value::Bytes(vec![1; 8].into())),
            (RawBsonRef::ObjectId(id), Value::String(id.to_hex().into())),
        ];
        for (bson, value) in pairs {
            let key = key_of_bson(bson);
            assert_eq!(key, key_of_value(&value), "{bson:?}");
            let value = key.as_deref().map(value_of_key).unwrap();
            assert_eq!(key, key_of_value(&value), "{bson:?}");
        }
        assert_ne!(key_of_bson(RawBsonRef::String("5")), key_of_value(&Value::Long(5)));
        assert_eq!(key_of_bson(RawBsonRef::Double(0.5)), None);
        assert_eq!(key_of_value(&Value::Null), None);
    }

    proptest! {
        #[test]
        fn numbers_and_text_of_any_kind_come_back(l in any::<i64>(), i in any::<i32>(), d in any::<f64>(), s in ".*") {
            let types = [("l", Type::Long), ("i", Type::Int), ("d", Type::Double), ("s", Type::String)];
            let got = through(&types, &doc! { "l": l, "i": i, "d": d, "s": s.as_str() }).unwrap();
            prop_assert_eq!(&got[..2], &[Value::Long(l), Value::Int(i)]);
            let Value::Double(back) = &got[2] else { panic!("a double") };
            prop_assert_eq!(back.to_bits(), d.to_bits());
            prop_assert_eq!(&got[3], &Value::String(s.into()));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let list = Type::List(Box::new(Type::Decimal { precision: 0, scale: 0 }));
            let types = fields(&[("a", list), ("b", Type::String), ("c", Type::Uuid)]);
            let _ = decode_document(&types, &bytes);
        }
    }
}
