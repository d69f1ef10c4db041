//! Makes a schema's JSON self-contained: the first use of a type of a referenced schema is replaced by its definition. Docs, orders and attributes
//! that Messina does not know are kept unchanged.

use std::collections::HashSet;

use serde_json::{Map, Value as Json};

use super::names;

/// Levels of JSON that are followed: far more than a parsed schema can have, unless its types form a circle.
const MAX_LEVELS: usize = 400;

/// `document` with the definitions that `definition` finds by full name inlined. None if nested without bound.
pub(crate) fn inline<'j>(document: &Json, definition: impl Fn(&str) -> Option<&'j Json>) -> Option<Json> {
    Inliner {
        definition,
        done: HashSet::new(),
    }
    .node(document, "", 0)
}

struct Inliner<F> {
    definition: F,
    /// Full names that are already defined in the output.
    done: HashSet<String>,
}

impl<'j, F: Fn(&str) -> Option<&'j Json>> Inliner<F> {
    fn node(&mut self, json: &Json, namespace: &str, level: usize) -> Option<Json> {
        if level > MAX_LEVELS {
            return None;
        }
        match json {
            Json::String(name) => self.name(name, namespace, level),
            Json::Array(branches) => {
                let branches = branches.iter().map(|branch| self.node(branch, namespace, level + 1));
                branches.collect::<Option<Vec<_>>>().map(Json::Array)
            }
            Json::Object(object) => self.object(object, namespace, level),
            other => Some(other.clone()),
        }
    }

    fn name(&mut self, name: &str, namespace: &str, level: usize) -> Option<Json> {
        if names::PRIMITIVES.contains(&name) {
            return Some(Json::from(name));
        }
        let (qualified, _) = names::full_name(name, None, namespace);
        // As in parsing: a name that is unknown in the namespace is looked up without one.
        let full = if (self.definition)(&qualified).is_some() {
            qualified
        } else {
            name.to_owned()
        };
        match (self.definition)(&full) {
            Some(Json::Object(object)) if !self.done.contains(&full) => {
                let mut object = object.clone();
                let space = full.rfind('.').map_or("", |dot| &full[..dot]);
                object.insert("name".to_owned(), Json::from(names::short_name(&full)));
                object.insert("namespace".to_owned(), Json::from(space));
                self.object(&object, namespace, level + 1)
            }
            _ => Some(Json::String(full)),
        }
    }

    fn object(&mut self, object: &Map<String, Json>, namespace: &str, level: usize) -> Option<Json> {
        let mut space = namespace.to_owned();
        let kind = object.get("type").and_then(Json::as_str).unwrap_or_default();
        if let ("record" | "error" | "enum" | "fixed", Some(name)) = (kind, object.get("name").and_then(Json::as_str)) {
            let own = object.get("namespace").and_then(Json::as_str);
            let (full, own) = names::full_name(name, own, namespace);
            if !self.done.insert(full.clone()) {
                return Some(Json::String(full));
            }
            space = own;
        }
        let mut out = Map::new();
        for (key, value) in object {
            let value = match (key.as_str(), kind) {
                ("items", "array") | ("values", "map") => self.node(value, &space, level + 1)?,
                ("type", _) if !value.is_string() => self.node(value, &space, level + 1)?,
                ("type", kind) if !COMPLEX.contains(&kind) => self.node(value, &space, level + 1)?,
                ("fields", _) => Json::Array(self.fields(value, &space, level + 1)?),
                _ => value.clone(),
            };
            out.insert(key.clone(), value);
        }
        Some(Json::Object(out))
    }

    fn fields(&mut self, fields: &Json, namespace: &str, level: usize) -> Option<Vec<Json>> {
        let fields = fields.as_array().map(Vec::as_slice).unwrap_or_default();
        let field = |field: &Json| {
            let mut field = field.clone();
            if let Some(ty) = field.get_mut("type") {
                *ty = self.node(ty, namespace, level + 1)?;
            }
            Some(field)
        };
        fields.iter().map(field).collect()
    }
}

const COMPLEX: [&str; 6] = ["record", "error", "enum", "fixed", "array", "map"];
