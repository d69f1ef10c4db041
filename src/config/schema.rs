//! Generates the JSON Schema of the configuration, for editors, from what the readers ask for, with descriptions from `docs/configuration.md`.
//!
//! It is draft 7, the latest that Taplo and the editors based on it know. A `$ref` hides its neighbours there, so everything is written out. The
//! schema covers the form of a single file; rules between keys, files and services are checked by `check`.

use serde_json::{Map, Value, json};

use super::load::draw;
use super::shape::{Drawing, Shape};

mod described;

use described::Descriptions;

/// The schema, indented.
pub fn schema() -> String {
    let drawing = draw();
    let described = Descriptions::read();
    let mut root = Writer { drawing, described }.table("", "");
    if let Some(root) = root.as_object_mut() {
        let head = [
            ("$schema", "http://json-schema.org/draft-07/schema#"),
            ("title", "Configuration of Messina"),
        ];
        for (at, (key, value)) in head.into_iter().enumerate() {
            root.shift_insert(at, key.to_owned(), value.into());
        }
        // Nothing is required at the top: a configuration may be split over several files, and each of them is edited alone.
        root.remove("required");
    }
    format!("{root:#}\n")
}

/// The path of a key below a table.
pub(super) fn below(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

struct Writer {
    drawing: Drawing,
    described: Descriptions,
}

impl Writer {
    /// The schema of the value at a path, with its description and default.
    fn value(&self, path: &str) -> Value {
        let mut noted = self.drawing.shapes_of(path);
        // A value with names or kinds was also recorded as a table.
        if noted
            .iter()
            .any(|shape| matches!(shape, Shape::Named | Shape::Kinds(_)))
        {
            noted.retain(|shape| *shape != Shape::Table);
        }
        noted.dedup();
        let mut shapes: Vec<Value> = noted.iter().map(|shape| self.shape(path, shape)).collect();
        let mut value = match shapes.len() {
            1 => shapes.remove(0),
            _ => json!({ "anyOf": shapes }),
        };
        if let (Some(value), Some(about)) = (value.as_object_mut(), self.described.of(path)) {
            value.shift_insert(0, "description".to_owned(), about.meaning.clone().into());
            if let Some(default) = &about.default {
                value.insert("default".to_owned(), default.clone());
            }
        }
        value
    }

    fn shape(&self, path: &str, shape: &Shape) -> Value {
        match shape {
            Shape::Text(pattern) => json!({ "type": "string", "pattern": pattern }),
            Shape::Word(words) => json!({ "enum": words }),
            Shape::Boolean => json!({ "type": "boolean" }),
            Shape::Count => json!({ "type": "integer", "minimum": 1 }),
            Shape::Share => json!({ "type": "number", "minimum": 0, "maximum": 1 }),
            Shape::ShareBelowOne => json!({ "type": "number", "minimum": 0, "exclusiveMaximum": 1 }),
            Shape::Duration => duration("[0-9]+"),
            Shape::PositiveDuration => duration("0*[1-9][0-9]*"),
            Shape::Size => json!({ "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": r"^\s*[0-9]+\s*([bB]|[kKmMgGtT][iI]?[bB])?\s*$" },
            ] }),
            Shape::Texts => json!({ "anyOf": [text(), { "type": "array", "items": text(), "minItems": 1 }] }),
            Shape::Bindings => json!({
                "type": "object", "propertyNames": { "pattern": IDENTIFIER }, "additionalProperties": text(),
            }),
            Shape::Fields(types) => {
                let of = format!(r"^\s*(array<\s*)*({})(\s*>)*\s*$", types.join("|"));
                let of = json!({ "type": "string", "pattern": of });
                json!({ "anyOf": [
                    { "type": "array", "items": { "type": "string", "pattern": IDENTIFIER }, "minItems": 1 },
                    {
                        "type": "object", "propertyNames": { "pattern": IDENTIFIER }, "additionalProperties": of,
                        "minProperties": 1,
                    },
                ] })
            }
            Shape::Secret => json!({ "anyOf": [
                { "type": "object", "properties": {
                    "env": { "description": "The environment variable that holds it.", "type": "string" },
                    "file": { "description": "The file that holds it.", "type": "string" },
                }, "additionalProperties": false, "minProperties": 1, "maxProperties": 1 },
                text(),
            ] }),
            // `a.b = 1` is a nested table.
            Shape::Properties => json!({
                "type": "object",
                "additionalProperties": { "type": ["string", "number", "boolean", "object"] },
            }),
            Shape::Table => self.table(path, ""),
            Shape::Named => json!({
                "type": "object", "additionalProperties": self.value(&below(path, "NAME")),
            }),
            Shape::Items => json!({ "type": "array", "items": self.value(&format!("{path}[]")) }),
            Shape::Kinds(kinds) => {
                let kinds: Vec<Value> = kinds.iter().map(|kind| self.table(path, kind)).collect();
                json!({ "oneOf": kinds })
            }
        }
    }

    /// A table with the keys of its path, and those of `kind`.
    fn table(&self, path: &str, kind: &str) -> Value {
        let mut properties = Map::new();
        let mut required: Vec<&str> = Vec::new();
        let of_kind = format!("{path}|{kind}");
        for at in [path, of_kind.as_str()] {
            for key in self.drawing.keys_of(at) {
                properties.insert(key.name.to_owned(), self.value(&below(at, key.name)));
                if key.required || key.name == kind {
                    required.push(key.name);
                }
            }
        }
        let mut table = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        if !required.is_empty() {
            table["required"] = json!(required);
        }
        table
    }
}

/// A name in expressions, CQL statements and Avro.
const IDENTIFIER: &str = "^[A-Za-z_][A-Za-z0-9_]*$";

fn text() -> Value {
    json!({ "type": "string", "pattern": r"\S" })
}

fn duration(number: &str) -> Value {
    json!({ "type": "string", "pattern": format!(r"^\s*{number}\s*(us|µs|ms|s|m|h|d)\s*$") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/messina.schema.json");

    #[test]
    fn the_file_beside_the_examples_is_current() {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(FILE, schema()).unwrap();
        }
        assert!(
            std::fs::read_to_string(FILE).unwrap_or_default() == schema(),
            "config/messina.schema.json is old: UPDATE_DOCS=1 cargo test --lib schema writes it anew"
        );
    }

    #[test]
    fn every_key_is_described_and_every_key_of_the_page_is_read() {
        let drawing = draw();
        let described = Descriptions::read();
        let paths = drawing.paths();
        assert!(paths.len() > 100, "{}", paths.len());
        // A key that only holds a section is described through the keys in it.
        let is_section = |path: &str| {
            let holds = |shape| matches!(shape, Shape::Table | Shape::Named | Shape::Items);
            drawing.shapes_of(path).into_iter().all(holds)
        };
        let bare: Vec<&String> = paths
            .iter()
            .filter(|path| described.of(path).is_none() && !is_section(path.as_str()))
            .collect();
        assert!(bare.is_empty(), "docs/configuration.md says nothing of {bare:?}");
        let unread = described.unread(&paths);
        assert!(
            unread.is_empty(),
            "docs/configuration.md has what is not read: {unread:?}"
        );
    }
}
