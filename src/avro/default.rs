//! Converts a schema's default, which is JSON, to the bytes of its type.
//!
//! Bytes and fixed are written as text whose characters are the bytes (U+0000 to U+00FF). The default of a union belongs to its first branch or,
//! since version 1.12 of the specification, to any: the first branch that accepts it is chosen.

use serde_json::Value as Json;

use super::encode::{put_bytes, put_long};
use super::encode_error::{EncodeError, EncodeProblem};
use super::schema::{NodeId, Schema, Shape};
use super::types;

/// Nesting limit. Defaults can lead to each other: an absent field takes its default, which may again lack fields.
const MAX_LEVELS: usize = 64;

/// Values that one default may have. Without a limit, a few records whose defaults contain records would make millions.
const MAX_VALUES: usize = 100_000;

/// Appends the datum of a default. If the default does not match the type, nothing is appended.
pub(crate) fn encode(schema: &Schema, id: NodeId, default: &Json, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let length = out.len();
    Writer { schema, out, values: 0 }.put(id, default, 0).ok_or_else(|| {
        out.truncate(length);
        let ty = types::type_of(schema, id).to_string();
        EncodeProblem::Default {
            default: default.to_string(),
            ty,
        }
        .into()
    })
}

struct Writer<'s, 'o> {
    schema: &'s Schema,
    out: &'o mut Vec<u8>,
    values: usize,
}

impl Writer<'_, '_> {
    fn put(&mut self, id: NodeId, json: &Json, level: usize) -> Option<()> {
        self.values += 1;
        if level > MAX_LEVELS || self.values > MAX_VALUES {
            return None;
        }
        let schema = self.schema;
        match (&schema.node(id).shape, json) {
            (Shape::Null, Json::Null) => {}
            (Shape::Boolean, Json::Bool(value)) => self.out.push(u8::from(*value)),
            (Shape::Int, Json::Number(number)) => put_long(self.out, i32::try_from(number.as_i64()?).ok()?.into()),
            (Shape::Long, Json::Number(number)) => put_long(self.out, number.as_i64()?),
            (Shape::Float, json) => self.out.extend_from_slice(&(float(json)? as f32).to_le_bytes()),
            (Shape::Double, json) => self.out.extend_from_slice(&float(json)?.to_le_bytes()),
            (Shape::String, Json::String(text)) => put_bytes(self.out, text.as_bytes()),
            (Shape::Bytes, Json::String(text)) => put_bytes(self.out, &latin1(text)?),
            (Shape::Fixed { size, .. }, Json::String(text)) => {
                self.out
                    .extend_from_slice(&latin1(text).filter(|bytes| bytes.len() == *size)?);
            }
            (Shape::Enum { symbols, .. }, Json::String(symbol)) => {
                put_long(self.out, symbols.iter().position(|known| known == symbol)? as i64);
            }
            (Shape::Array(items), Json::Array(values)) => {
                if !values.is_empty() {
                    put_long(self.out, values.len() as i64);
                }
                values.iter().try_for_each(|value| self.put(*items, value, level + 1))?;
                self.out.push(0);
            }
            (Shape::Map(values), Json::Object(entries)) => {
                if !entries.is_empty() {
                    put_long(self.out, entries.len() as i64);
                }
                for (key, value) in entries {
                    put_bytes(self.out, key.as_bytes());
                    self.put(*values, value, level + 1)?;
                }
                self.out.push(0);
            }
            (Shape::Record { fields, .. }, Json::Object(values)) => {
                for field in fields {
                    let value = values.get(&field.name).or(field.default.as_ref())?;
                    self.put(field.node, value, level + 1)?;
                }
            }
            (Shape::Union(branches), json) => return self.union(branches, json, level),
            _ => return None,
        }
        Some(())
    }

    fn union(&mut self, branches: &[NodeId], json: &Json, level: usize) -> Option<()> {
        let length = self.out.len();
        branches.iter().enumerate().find_map(|(number, branch)| {
            put_long(self.out, number as i64);
            let done = self.put(*branch, json, level + 1);
            if done.is_none() {
                self.out.truncate(length);
            }
            done
        })
    }
}

/// A number. Those that JSON cannot represent (NaN, infinities) are text, as in Java's library.
fn float(json: &Json) -> Option<f64> {
    match json {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" | "INF" => Some(f64::INFINITY),
            "-Infinity" | "-INF" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(schema: &str, default: &str) -> Option<Vec<u8>> {
        let schema = Schema::parse(schema).unwrap();
        let mut out = vec![9];
        let done = encode(
            &schema,
            schema.root(),
            &serde_json::from_str(default).unwrap(),
            &mut out,
        );
        assert_eq!(out[0], 9);
        if done.is_err() {
            assert_eq!(out.len(), 1, "nothing is left of a default that is not of its type");
        }
        done.ok().map(|()| out[1..].to_vec())
    }

    #[test]
    fn defaults_are_written_as_their_type() {
        assert_eq!(bytes("\"int\"", "-1"), Some(vec![1]));
        assert_eq!(bytes("\"int\"", "3000000000"), None);
        assert_eq!(bytes("\"int\"", "1.5"), None);
        assert_eq!(bytes("\"float\"", "1"), Some(1f32.to_le_bytes().to_vec()));
        assert_eq!(bytes("\"bytes\"", "\"\\u00ff\\u0000\""), Some(vec![4, 255, 0]));
        assert_eq!(bytes("\"bytes\"", "\"\\u0100\""), None);
        assert_eq!(bytes(r#"{"type":"fixed","name":"F","size":2}"#, "\"a\""), None);
        assert_eq!(bytes(r#"["null","string"]"#, "null"), Some(vec![0]));
        assert_eq!(bytes(r#"["null","string"]"#, "\"x\""), Some(vec![2, 2, b'x']));
        assert_eq!(bytes(r#"{"type":"array","items":"int"}"#, "[]"), Some(vec![0]));
        assert_eq!(
            bytes(r#"{"type":"map","values":"int"}"#, r#"{"a":1}"#),
            Some(vec![2, 2, b'a', 2, 0])
        );
        assert_eq!(
            bytes(r#"{"type":"enum","name":"E","symbols":["A","B"]}"#, "\"B\""),
            Some(vec![2])
        );
        let record = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":7},{"name":"b","type":"int"}]}"#;
        assert_eq!(bytes(record, r#"{"b":1}"#), Some(vec![14, 2]));
        assert_eq!(bytes(record, r#"{"a":1}"#), None);
    }

    #[test]
    fn defaults_that_lead_in_a_circle_end() {
        let record = r#"{"type":"record","name":"R","fields":[{"name":"next","type":["R","null"],"default":{}}]}"#;
        assert_eq!(bytes(record, "{}"), None);
    }
}
