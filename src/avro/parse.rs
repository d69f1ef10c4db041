//! Parses JSON text to a [`Schema`].
//!
//! Names are resolved only here: full names with namespaces, types of referenced schemas, recursion. Where the specification leaves room, schemas are
//! read as the library that wrote them means it: a name without namespace that is unknown in its namespace is looked up without one, as Java does,
//! and unknown attributes are ignored. Defaults are kept as they are and evaluated when needed, because a wrong default in a writer's schema does not
//! make its data unreadable.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

use super::schema::{Field, Node, NodeId, Schema, Shape};
use super::schema_error::{SchemaError, SchemaProblem};
use super::{facts, inline, logical, names};

/// Parses a schema after the schemas that it refers to.
pub(crate) fn parse(json: &str, references: &[&str]) -> Result<Schema, SchemaError> {
    let read = |text: &str| serde_json::from_str::<Json>(text).map_err(|error| SchemaError::Json(error.to_string()));
    let documents = references
        .iter()
        .map(|text| read(text))
        .collect::<Result<Vec<Json>, _>>()?;
    let document = read(json)?;
    let mut parser = Parser::default();
    for (number, reference) in documents.iter().enumerate() {
        parser.place = vec![format!("reference {}: ", number + 1)];
        parser.node(reference, "")?;
    }
    parser.place.clear();
    let root = parser.node(&document, "")?;
    let facts = facts::of(&parser.nodes).map_err(|problem| parser.error(problem))?;
    let text = if references.is_empty() {
        json.to_owned()
    } else {
        inline::inline(&document, |name| {
            parser.names.get(name).map(|definition| definition.json)
        })
        .ok_or(parser.error(SchemaProblem::TooDeep))?
        .to_string()
    };
    Ok(Schema {
        nodes: parser.nodes,
        facts,
        root,
        json: text,
    })
}

/// The definition of every named type in a schema's JSON, by full name.
pub(crate) fn definitions(document: &Json) -> Result<HashMap<String, &Json>, SchemaError> {
    let mut parser = Parser::default();
    parser.node(document, "")?;
    Ok(parser
        .names
        .into_iter()
        .map(|(name, definition)| (name, definition.json))
        .collect())
}

/// A named type.
struct Definition<'j> {
    id: NodeId,
    json: &'j Json,
}

#[derive(Default)]
struct Parser<'j> {
    nodes: Vec<Node>,
    names: HashMap<String, Definition<'j>>,
    place: Vec<String>,
}

impl<'j> Parser<'j> {
    fn error(&self, problem: SchemaProblem) -> SchemaError {
        let place = self.place.concat();
        SchemaError::Invalid {
            place: if place.is_empty() { "schema".to_owned() } else { place },
            problem,
        }
    }

    fn push(&mut self, shape: Shape) -> NodeId {
        self.nodes.push(Node { shape, logical: None });
        NodeId((self.nodes.len() - 1) as u32)
    }

    /// Parses a part of a type. `place` is the name of the part in error messages.
    fn part(&mut self, json: &'j Json, namespace: &str, place: String) -> Result<NodeId, SchemaError> {
        self.place.push(place);
        let id = self.node(json, namespace)?;
        self.place.pop();
        Ok(id)
    }

    fn node(&mut self, json: &'j Json, namespace: &str) -> Result<NodeId, SchemaError> {
        match json {
            Json::String(name) => self.named(name, namespace),
            Json::Array(branches) => self.union(branches, namespace),
            Json::Object(object) => match object.get("type") {
                Some(Json::String(name)) => self.object(name, json, object, namespace),
                Some(nested) => self.node(nested, namespace),
                None => Err(self.error(SchemaProblem::Attribute("type"))),
            },
            _ => Err(self.error(SchemaProblem::NotAType)),
        }
    }

    /// Resolves a type that is referred to by name.
    fn named(&mut self, name: &str, namespace: &str) -> Result<NodeId, SchemaError> {
        if let Some(shape) = primitive(name) {
            return Ok(self.push(shape));
        }
        let (full, _) = names::full_name(name, None, namespace);
        match self.names.get(&full).or_else(|| self.names.get(name)) {
            Some(definition) => Ok(definition.id),
            None => {
                let known = self.names.keys().map(String::as_str).chain(names::PRIMITIVES);
                let nearest = names::nearest(name, known).map(str::to_owned);
                Err(self.error(SchemaProblem::UnknownType {
                    name: name.to_owned(),
                    nearest,
                }))
            }
        }
    }

    fn union(&mut self, branches: &'j [Json], namespace: &str) -> Result<NodeId, SchemaError> {
        let mut ids = Vec::with_capacity(branches.len());
        let mut seen = std::collections::HashSet::new();
        for (number, branch) in branches.iter().enumerate() {
            let id = self.part(branch, namespace, format!("[branch {number}]"))?;
            let shape = &self.nodes[id.0 as usize].shape;
            let name = shape.name().unwrap_or(shape.kind()).to_owned();
            if matches!(shape, Shape::Union(_)) {
                return Err(self.error(SchemaProblem::NestedUnion));
            }
            if !seen.insert(name.clone()) {
                return Err(self.error(SchemaProblem::DuplicateBranch(name)));
            }
            ids.push(id);
        }
        Ok(self.push(Shape::Union(ids)))
    }

    fn object(
        &mut self,
        kind: &'j str,
        json: &'j Json,
        object: &'j Map<String, Json>,
        namespace: &str,
    ) -> Result<NodeId, SchemaError> {
        let id = match kind {
            "array" => {
                let items = object
                    .get("items")
                    .ok_or_else(|| self.error(SchemaProblem::Attribute("items")))?;
                let items = self.part(items, namespace, "[]".to_owned())?;
                self.push(Shape::Array(items))
            }
            "map" => {
                let values = object
                    .get("values")
                    .ok_or_else(|| self.error(SchemaProblem::Attribute("values")))?;
                let values = self.part(values, namespace, "{}".to_owned())?;
                self.push(Shape::Map(values))
            }
            "record" | "error" | "enum" | "fixed" => return self.definition(kind, json, object, namespace),
            name => match primitive(name) {
                Some(shape) => self.push(shape),
                None => return self.named(name, namespace),
            },
        };
        self.annotate(id, object);
        Ok(id)
    }

    fn annotate(&mut self, id: NodeId, object: &Map<String, Json>) {
        let node = &mut self.nodes[id.0 as usize];
        node.logical = logical::of(&node.shape, object);
    }

    /// A record, enum or fixed.
    fn definition(
        &mut self,
        kind: &str,
        json: &'j Json,
        object: &'j Map<String, Json>,
        namespace: &str,
    ) -> Result<NodeId, SchemaError> {
        let name = object.get("name").and_then(Json::as_str);
        let name = name.ok_or_else(|| self.error(SchemaProblem::Attribute("name")))?;
        let own = object.get("namespace").and_then(Json::as_str);
        let (full, space) = names::full_name(name, own, namespace);
        if !names::is_full_name(&full) || names::PRIMITIVES.contains(&full.as_str()) {
            return Err(self.error(SchemaProblem::Name(full)));
        }
        let aliases = strings(object.get("aliases"));
        let aliases: Vec<String> = aliases
            .iter()
            .map(|alias| names::full_name(alias, None, &space).0)
            .collect();
        if let Some(known) = self.names.get(&full) {
            let node = &self.nodes[known.id.0 as usize];
            // Two referenced schemas may each define the same enum or fixed type, with different docs. Java treats that as one type too.
            let same = known.json == json
                || self
                    .leaf(kind, &full, &aliases, object)?
                    .is_some_and(|shape| node.logical == logical::of(&shape, object) && node.shape == shape);
            return if same {
                Ok(known.id)
            } else {
                Err(self.error(SchemaProblem::Redefined(full)))
            };
        }
        if self.place.last().is_none_or(|place| place.ends_with(' ')) {
            self.place.push(full.clone());
        }
        // Reserve the node and register the name before parsing the fields, because they may refer to it.
        let id = self.push(Shape::Record {
            name: full.clone(),
            aliases: Vec::new(),
            fields: Vec::new(),
        });
        self.names.insert(full.clone(), Definition { id, json });
        let shape = match self.leaf(kind, &full, &aliases, object)? {
            Some(shape) => shape,
            None => self.record(full, aliases, object, &space)?,
        };
        self.nodes[id.0 as usize].shape = shape;
        self.annotate(id, object);
        Ok(id)
    }

    /// An enum or fixed type; None for any other kind.
    fn leaf(
        &self,
        kind: &str,
        name: &str,
        aliases: &[String],
        object: &Map<String, Json>,
    ) -> Result<Option<Shape>, SchemaError> {
        let (name, aliases) = (name.to_owned(), aliases.to_vec());
        match kind {
            "enum" => self.enumeration(name, aliases, object).map(Some),
            "fixed" => {
                let size = object
                    .get("size")
                    .and_then(Json::as_u64)
                    .and_then(|size| i32::try_from(size).ok());
                let size = size.ok_or_else(|| self.error(SchemaProblem::Attribute("size")))? as usize;
                Ok(Some(Shape::Fixed { name, aliases, size }))
            }
            _ => Ok(None),
        }
    }

    fn enumeration(
        &self,
        name: String,
        aliases: Vec<String>,
        object: &Map<String, Json>,
    ) -> Result<Shape, SchemaError> {
        let symbols = object.get("symbols").and_then(Json::as_array);
        let symbols = symbols.ok_or_else(|| self.error(SchemaProblem::Attribute("symbols")))?;
        let symbols = symbols
            .iter()
            .map(|symbol| symbol.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>();
        let symbols = symbols.ok_or_else(|| self.error(SchemaProblem::Attribute("symbols")))?;
        let mut seen = std::collections::HashSet::new();
        if let Some(symbol) = symbols.iter().find(|symbol| !seen.insert(symbol.as_str())) {
            return Err(self.error(SchemaProblem::DuplicateSymbol(symbol.clone())));
        }
        let default = match object.get("default").and_then(Json::as_str) {
            None => None,
            Some(default) => match symbols.iter().position(|symbol| symbol == default) {
                None => return Err(self.error(SchemaProblem::EnumDefault(default.to_owned()))),
                index => index,
            },
        };
        Ok(Shape::Enum {
            name,
            aliases,
            symbols,
            default,
        })
    }

    fn record(
        &mut self,
        name: String,
        aliases: Vec<String>,
        object: &'j Map<String, Json>,
        namespace: &str,
    ) -> Result<Shape, SchemaError> {
        let list = object.get("fields").and_then(Json::as_array);
        let list = list.ok_or_else(|| self.error(SchemaProblem::Attribute("fields")))?;
        let mut fields: Vec<Field> = Vec::with_capacity(list.len());
        let mut seen = std::collections::HashSet::new();
        for field in list {
            let name = field.get("name").and_then(Json::as_str);
            let name = name.ok_or_else(|| self.error(SchemaProblem::Attribute("name")))?;
            if !names::is_name(name) {
                return Err(self.error(SchemaProblem::Name(name.to_owned())));
            }
            if !seen.insert(name) {
                return Err(self.error(SchemaProblem::DuplicateField(name.to_owned())));
            }
            let ty = field
                .get("type")
                .ok_or_else(|| self.error(SchemaProblem::Attribute("type")))?;
            let node = self.part(ty, namespace, format!(".{name}"))?;
            let aliases = strings(field.get("aliases"));
            fields.push(Field {
                name: name.to_owned(),
                aliases,
                node,
                default: field.get("default").cloned(),
            });
        }
        Ok(Shape::Record { name, aliases, fields })
    }
}

fn strings(json: Option<&Json>) -> Vec<String> {
    let list = json.and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn primitive(name: &str) -> Option<Shape> {
    Some(match name {
        "null" => Shape::Null,
        "boolean" => Shape::Boolean,
        "int" => Shape::Int,
        "long" => Shape::Long,
        "float" => Shape::Float,
        "double" => Shape::Double,
        "bytes" => Shape::Bytes,
        "string" => Shape::String,
        _ => return None,
    })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
