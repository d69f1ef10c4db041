//! The same records as JSON, read and written with simd-json: what a user without Avro pays.
//!
//! Bytes are text with one character per byte, as in Avro's own JSON encoding. simd-json writes into its input, so each record
//! is copied first, as a record from Kafka would be; its buffers and the output are reused.

use serde::Serialize;
use simd_json::prelude::*;
use simd_json::{BorrowedValue, Buffers};

/// A new field: its name, and a function of the record's number and time that gives its value.
pub type Field = (&'static str, fn(usize, i64) -> BorrowedValue<'static>);

/// Records as JSON, and reused buffers.
pub struct Json {
    records: Vec<Vec<u8>>,
    input: Vec<u8>,
    buffers: Buffers,
    pub out: Vec<u8>,
}

impl Json {
    pub fn of<T: Serialize>(records: impl Iterator<Item = T>) -> Json {
        let text = |record| {
            let mut value = serde_json::to_value(record).expect("a record is JSON");
            bytes_to_text(&mut value);
            value.to_string().into_bytes()
        };
        Json {
            records: records.map(text).collect(),
            input: Vec::new(),
            buffers: Buffers::default(),
            out: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Average size of a record, in bytes.
    pub fn mean(&self) -> f64 {
        self.records.iter().map(Vec::len).sum::<usize>() as f64 / self.records.len() as f64
    }

    /// Reads a record, adds fields computed from its `ts`, and writes it.
    pub fn enrich(&mut self, number: usize, new: &[Field]) {
        self.input.clear();
        self.input.extend_from_slice(&self.records[number]);
        let value = simd_json::to_borrowed_value_with_buffers(&mut self.input, &mut self.buffers);
        let mut value = value.expect("what was written is JSON");
        let ts = value.get_i64("ts").expect("a record has its time");
        let fields = value.as_object_mut().expect("a record is an object");
        for (name, make) in new {
            fields.insert((*name).into(), make(number, ts));
        }
        self.out.clear();
        value.write(&mut self.out).expect("memory takes what is written");
    }
}

/// Turns lists of numbers, which is how serde serializes bytes, into text. The one other list of numbers in the records is left
/// alone by its name.
fn bytes_to_text(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                if name != "segments" {
                    bytes_to_text(value);
                }
            }
        }
        serde_json::Value::Array(items) => {
            let character =
                |item: &serde_json::Value| item.as_u64().and_then(|byte| u8::try_from(byte).ok()).map(char::from);
            match items.iter().map(character).collect::<Option<String>>() {
                Some(text) if !items.is_empty() => *value = text.into(),
                _ => items.iter_mut().for_each(bytes_to_text),
            }
        }
        _ => {}
    }
}
