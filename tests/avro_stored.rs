//! Stored data that other libraries wrote: they are read as the values that they were, and written again as the same values.
//!
//! `tests/tools/avro_corpus.py` made those of fastavro. `tests/tools/avro_java/run` made those of Apache Avro for Java, and let
//! Java read the spliced output, which is stored too. Here the splice runs again and must produce the same bytes, so what Java
//! has read is what is produced today. With `UPDATE_CORPUS` this file does its part of that script and tests nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test that fails says so by panicking.

mod avro_generator;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use avro_generator::{Generator, change};
use messina::avro::{PADDING, Plan, Schema, Value};
use serde_json::{Value as Json, json};

fn place(name: &str) -> PathBuf {
    // This file is compiled in the main package and in the one in `fuzz`.
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["tests/corpus", "../tests/corpus"].map(|folder| package.join(folder));
    folders.iter().find(|folder| folder.is_dir()).unwrap().join(name)
}

fn stored(name: &str) -> Vec<u8> {
    std::fs::read(place(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn update() -> Option<String> {
    std::env::var("UPDATE_CORPUS").ok()
}

/// The data of a file, each preceded by its length.
struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    fn next(&mut self) -> &'a [u8] {
        let length = u32::from_le_bytes(self.0[..4].try_into().unwrap()) as usize;
        let (datum, rest) = self.0[4..].split_at(length);
        self.0 = rest;
        datum
    }
}

fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Whether a value equals the JSON, where bytes are text with one character per byte, and logical types have their underlying
/// types.
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
        (Value::Date(value), json) => json.as_i64() == Some((*value).into()),
        (Value::Time(value, _) | Value::Timestamp(value, _) | Value::LocalTimestamp(value, _), json) => {
            json.as_i64() == Some(*value)
        }
        (Value::Decimal { unscaled, .. }, Json::String(json)) => latin(unscaled) == *json,
        // A UUID may be text or sixteen bytes.
        (Value::Uuid(value), Json::String(json)) => {
            messina::avro::uuid::parse(json.as_bytes()) == Some(*value) || latin(value) == *json
        }
        (Value::Duration { months, days, millis }, Json::String(json)) => {
            latin(&[months, days, millis].map(|part| part.to_le_bytes()).concat()) == *json
        }
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

/// Reads the data in every way, and returns how many there were.
fn read_all(data: &[u8], entries: &Json) -> usize {
    let (mut data, mut count) = (Data(data), 0);
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
            let datum = data.next();
            let length = datum.len();
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
    assert!(data.0.is_empty());
    count
}

fn entries(name: &str) -> Json {
    serde_json::from_slice(&stored(name)).unwrap()
}

#[test]
fn what_fastavro_wrote_is_read_and_written_again() {
    let count = read_all(&stored("fastavro.bin"), &entries("fastavro.json"));
    assert!(count > 200, "{count}");
}

#[test]
fn what_java_wrote_is_read_and_written_again() {
    if update().is_some() {
        return;
    }
    let count = read_all(&stored("java.bin"), &entries("java.json"));
    assert!(count > 300, "{count}");
}

/// Splices the data that Java wrote, and passes on each output.
fn splice_all(entries: &Json, mut spliced: impl FnMut(&Schema, &[u8], &Json)) {
    let bytes = stored("java.bin");
    let mut data = Data(&bytes);
    for entry in entries.as_array().unwrap() {
        let schema = Arc::new(Schema::parse(&entry["schema"].to_string()).unwrap());
        let output = Arc::new(Schema::parse(&entry["output"].to_string()).unwrap());
        let (plan, splice) = Plan::compile_with_output(schema, &[], Arc::clone(&output), &[]).unwrap();
        let mut marks = vec![0; plan.marks()];
        for resolved in entry["resolved"].as_array().unwrap() {
            let datum = data.next();
            plan.run(datum, 0, datum.len(), &mut marks).unwrap();
            let mut out = Vec::new();
            splice.build(datum, 0, datum.len(), &marks, &[], &mut out).unwrap();
            spliced(&output, &out, resolved);
        }
    }
}

#[test]
fn what_is_spliced_is_what_java_resolves_and_reads() {
    match update().as_deref() {
        None => {}
        Some("schemas") => return write_schemas(),
        Some(_) => {
            let mut bytes = Vec::new();
            splice_all(&entries("java.json"), |_, out, _| {
                bytes.extend(u32::try_from(out.len()).unwrap().to_le_bytes());
                bytes.extend(out);
            });
            return std::fs::write(place("java_spliced.bin"), bytes).unwrap();
        }
    }
    let read_by_java = stored("java_spliced.bin");
    let mut read_by_java = Data(&read_by_java);
    let mut changed = 0;
    splice_all(&entries("java.json"), |output, out, resolved| {
        let value = output.decode(out).unwrap();
        assert!(same(&value, resolved), "{value:?} is not {resolved}");
        assert_eq!(
            out,
            read_by_java.next(),
            "not what Java has read: tests/tools/avro_java/run"
        );
        changed += 1;
    });
    assert!(read_by_java.0.is_empty());
    assert!(changed > 300, "{changed}");
}

/// The schemas of Java's corpus, each with one that it resolves to: generated ones, the interoperability schema, and the rich
/// one.
fn write_schemas() {
    let mut entries = Vec::new();
    let mut add = |generator: &mut Generator, json: &Json| {
        let output = change(generator, json);
        entries.push(json!({ "schema": json, "output": output }));
    };
    for seed in 0..60 {
        let mut generator = Generator::new(seed);
        let json = generator.schema();
        // Large schemas only add length, and no new kinds.
        if json.to_string().len() < 2500 {
            add(&mut generator, &json);
        }
    }
    for text in [include_str!("schemas/interop.avsc"), include_str!("schemas/event.avsc")] {
        let json = serde_json::from_str(text).unwrap();
        let mut generator = Generator::of(&json, 5);
        (0..2).for_each(|_| add(&mut generator, &json));
    }
    std::fs::write(place("java_schemas.json"), Json::Array(entries).to_string()).unwrap();
}
