//! Data that fastavro wrote, stored: they are read as what they were, and written again as the same value.
//!
//! `tests/tools/avro_corpus.py` made them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test that fails says so by panicking.

use std::sync::Arc;

use messina::avro::{PADDING, Plan, Schema, Value};
use serde_json::Value as Json;

const DATA: &[u8] = include_bytes!("corpus/fastavro.bin");
const VALUES: &str = include_str!("corpus/fastavro.json");

fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Whether a value is what the JSON says: bytes are text there, one letter a byte.
fn same(value: &Value<'_>, json: &Json) -> bool {
    match (value, json) {
        (Value::Null, Json::Null) => true,
        (Value::Bool(value), Json::Bool(json)) => value == json,
        (Value::Int(value), json) => json.as_i64() == Some((*value).into()),
        (Value::Long(value), json) => json.as_i64() == Some(*value),
        (Value::Float(value), json) => json.as_f64() == Some((*value).into()),
        (Value::Double(value), json) => json.as_f64() == Some(*value),
        (Value::String(value), Json::String(json)) => value.as_ref() == json,
        (Value::Bytes(value), Json::String(json)) => latin(value) == *json,
        (Value::List(items), Json::Array(json)) => {
            items.len() == json.len() && items.iter().zip(json).all(|(value, json)| same(value, json))
        }
        (Value::Map(entries), Json::Object(json)) => {
            let entry = |(key, value): &(Value<'_>, Value<'_>)| match key {
                Value::String(key) => json.get(key.as_ref()).is_some_and(|json| same(value, json)),
                _ => false,
            };
            entries.len() == json.len() && entries.iter().all(entry)
        }
        (Value::Record(fields), Json::Object(json)) => {
            let field = |(name, value): &(_, _)| {
                json.get::<str>(AsRef::as_ref(name))
                    .is_some_and(|json| same(value, json))
            };
            fields.len() == json.len() && fields.iter().all(field)
        }
        _ => false,
    }
}

#[test]
fn what_fastavro_wrote_is_read_and_written_again() {
    let entries: Json = serde_json::from_str(VALUES).unwrap();
    let (mut rest, mut count) = (DATA, 0);
    for entry in entries.as_array().unwrap() {
        let schema = Arc::new(Schema::parse(&entry["schema"].to_string()).unwrap());
        let names: Vec<String> = schema
            .fields()
            .unwrap_or_default()
            .iter()
            .map(|field| field.name.clone())
            .collect();
        let paths: Vec<&str> = names.iter().map(String::as_str).chain([""]).collect();
        let plan = Plan::compile(Arc::clone(&schema), &paths).unwrap();
        let mut marks = vec![0; plan.marks()];
        for expected in entry["values"].as_array().unwrap() {
            let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            let (datum, behind) = rest[4..].split_at(length);
            rest = behind;
            let whole = schema.decode(datum).unwrap();
            assert!(same(&whole, expected), "{whole:?} is not {expected}");
            for padding in [0, PADDING] {
                let mut buf = datum.to_vec();
                buf.resize(length + padding, 0xff);
                plan.run(&buf, 0, length, &mut marks).unwrap();
                for (slot, path) in paths.iter().enumerate() {
                    let expected = if path.is_empty() { expected } else { &expected[*path] };
                    let value = plan.value(slot, &buf, &marks).unwrap();
                    assert!(same(&value, expected), "{path}: {value:?} is not {expected}");
                }
            }
            let mut again = Vec::new();
            schema.encode(&whole, &mut again).unwrap();
            assert_eq!(schema.decode(&again).unwrap(), whole);
            for cut in 0..length.min(300) {
                assert!(plan.run(datum, 0, cut, &mut marks).is_err(), "{cut} bytes of {length}");
            }
            count += 1;
        }
    }
    assert!(rest.is_empty());
    assert!(count > 200, "{count}");
}
