//! Derives the output schema of a sink without `schema`: the input schema with the new fields appended.
//!
//! Name, namespace, docs and everything else of the input schema are kept. A new field that may be null is a union with null first and null as its
//! default, so that the schema stays compatible in both directions. For the same reason a record that is taken whole from the input keeps the
//! defaults of its fields.
//!
//! A recursive record would get the new fields wherever it occurs. So its output is a record with another name (`Node_enriched`) that has the input's
//! fields and the new ones; inside, the input's record is unchanged.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

use super::default;
use super::schema::{NodeId, Schema, Shape};
use super::schema_error::SchemaError;
use super::value::{Type, Unit};
use super::{inline, names, parse};

/// A field to append.
#[derive(Debug, Clone, PartialEq)]
pub struct NewField {
    /// Its name, which the input must not have.
    pub name: String,
    /// Its type; nullable becomes `["null", T]` with null as the default.
    pub ty: Type,
    /// The input's type, if the field is copied whole from the input.
    pub node: Option<NodeId>,
}

/// Why an output schema cannot be derived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// Only records have fields.
    #[error("the input schema is not a record: fields cannot be appended")]
    NotARecord,
    /// The name is already taken.
    #[error(
        "new field \"{name}\": the input schema \"{record}\" has a field \"{taken}\" already; give the sink a schema or choose another name"
    )]
    Clash {
        /// The new field.
        name: String,
        /// The field, or other new field, that has the name.
        taken: String,
        /// The input's record.
        record: String,
    },
    /// Not an Avro name.
    #[error("\"{0}\" is not a name that Avro allows (letters, digits and underscores)")]
    Name(String),
    /// A type that Avro lacks, or that is not known in advance.
    #[error("{ty} has no Avro type of its own: {hint}")]
    NoType {
        /// The type.
        ty: String,
        /// What to do.
        hint: &'static str,
    },
    /// A new field of a type that Avro lacks.
    #[error("new field \"{field}\": {error}")]
    Field {
        /// The field.
        field: String,
        /// What is wrong with it.
        error: Box<OutputError>,
    },
    /// The result is not a valid schema. This happens if the input schema is at the limits of the parser.
    #[error("derived schema: {0}")]
    Schema(#[from] SchemaError),
}

/// The schema of `input`'s record with `fields` appended.
///
/// # Errors
/// An input that is not a record; a name that is taken or invalid; a type that Avro does not have.
pub fn append_fields(input: &Schema, fields: &[NewField]) -> Result<Schema, OutputError> {
    let own = input.fields().ok_or(OutputError::NotARecord)?;
    let record = input.node(input.root()).shape.name().unwrap_or_default();
    let mut json: Json = serde_json::from_str(input.json()).map_err(|error| SchemaError::Json(error.to_string()))?;
    // A record may be wrapped: {"type": {"type": "record", …}}.
    let mut object = &mut json;
    while object.get("fields").is_none() {
        object = object.get_mut("type").ok_or(OutputError::NotARecord)?;
    }
    let list = object
        .get_mut("fields")
        .and_then(Json::as_array_mut)
        .ok_or(OutputError::NotARecord)?;
    let known = input
        .nodes
        .iter()
        .filter_map(|node| node.shape.name())
        .map(names::short_name)
        .map(str::to_owned);
    let mut writer = TypeWriter { taken: known.collect() };
    for (number, field) in fields.iter().enumerate() {
        if !names::is_plain_name(&field.name) {
            return Err(OutputError::Name(field.name.clone()));
        }
        let existing = own
            .iter()
            .map(|field| &field.name)
            .chain(fields[..number].iter().map(|field| &field.name));
        if let Some(taken) = existing.clone().find(|name| **name == field.name) {
            return Err(OutputError::Clash {
                name: field.name.clone(),
                taken: taken.clone(),
                record: record.to_owned(),
            });
        }
        let hint = format!("{}_{}", names::short_name(record), field.name);
        let ty = writer.write(&field.ty, field.node.map(|node| (input, node)), &hint);
        let ty = ty.map_err(|error| OutputError::Field {
            field: field.name.clone(),
            error: Box::new(error),
        })?;
        let mut json = json!({ "name": field.name, "type": ty });
        if field.ty.is_nullable() {
            json["default"] = Json::Null;
        }
        list.push(json);
    }
    if input.facts(input.root()).recursive {
        json = rename(
            input,
            json,
            &writer.name(&format!("{}_enriched", names::short_name(record))),
        )?;
    }
    Ok(Schema::parse(&json.to_string())?)
}

/// The schema `json`, which is `input` with more fields, as a record with another name. Where it contains itself, it
/// contains the record of the input instead.
fn rename(input: &Schema, mut json: Json, name: &str) -> Result<Json, OutputError> {
    let original: Json = serde_json::from_str(input.json()).map_err(|error| SchemaError::Json(error.to_string()))?;
    let definitions = parse::definitions(&original)?;
    let full = input.node(input.root()).shape.name().unwrap_or_default();
    while json.get("fields").is_none() {
        json = json["type"].take();
    }
    json["name"] = Json::from(name);
    json["namespace"] = Json::from(full.rfind('.').map_or("", |dot| &full[..dot]));
    Ok(inline::inline(&json, |name| definitions.get(name).copied()).unwrap_or(json))
}

/// The Avro type of a type, as JSON.
///
/// Types that Avro requires to have a name (records, durations) are named after `Value`. An enum becomes a string, and
/// fixed becomes bytes, because a second definition of a named type is worth less than a plain type.
///
/// # Errors
/// Types that Avro lacks: a decimal of unbounded precision, a map whose keys are not strings, a type known only per record.
pub fn avro_type(ty: &Type) -> Result<Json, OutputError> {
    TypeWriter { taken: HashSet::new() }.write(ty, None, "Value")
}

/// A type of the input, from which an output type is derived.
type Origin<'s> = Option<(&'s Schema, NodeId)>;

/// The type itself, or the only other type in a union with null. None if there are several others.
fn beside_null((schema, node): (&Schema, NodeId)) -> Origin<'_> {
    let Shape::Union(branches) = &schema.node(node).shape else {
        return Some((schema, node));
    };
    let mut others = branches.iter().filter(|id| schema.node(**id).shape != Shape::Null);
    match (others.next(), others.next()) {
        (Some(only), None) => Some((schema, *only)),
        _ => None,
    }
}

/// Without a name: the type of the items of a list or map. With one: the type and default of that field of a record.
fn within<'s>(from: Origin<'s>, name: Option<&str>) -> (Origin<'s>, Option<&'s Json>) {
    let Some((schema, node)) = from else {
        return (None, None);
    };
    match (&schema.node(node).shape, name) {
        (Shape::Array(inner) | Shape::Map(inner), None) => (Some((schema, *inner)), None),
        (Shape::Record { fields, .. }, Some(name)) => match fields.iter().find(|field| field.name == name) {
            Some(field) => (Some((schema, field.node)), field.default.as_ref()),
            None => (None, None),
        },
        _ => (None, None),
    }
}

/// Whether a derived type accepts a default. It may lack something of the input's type: several records in a union lose the
/// defaults of their fields.
fn has(ty: &Json, value: &Json) -> bool {
    let schema = Schema::parse(&ty.to_string());
    schema.is_ok_and(|schema| default::encode(&schema, schema.root(), value, &mut Vec::new()).is_ok())
}

struct TypeWriter {
    /// Names that are taken by types.
    taken: HashSet<String>,
}

impl TypeWriter {
    /// A name that no other type has.
    fn name(&mut self, hint: &str) -> String {
        let mut name = hint.to_owned();
        let mut number = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{hint}_{number}");
            number += 1;
        }
        name
    }

    fn write(&mut self, ty: &Type, from: Origin<'_>, hint: &str) -> Result<Json, OutputError> {
        let from = from.and_then(beside_null);
        let none = |hint| {
            Err(OutputError::NoType {
                ty: ty.to_string(),
                hint,
            })
        };
        let logical = |ty: &str, logical: String| json!({ "type": ty, "logicalType": logical });
        Ok(match ty {
            Type::Null => json!("null"),
            Type::Bool => json!("boolean"),
            Type::Int => json!("int"),
            Type::Long => json!("long"),
            Type::Float => json!("float"),
            Type::Double => json!("double"),
            Type::String | Type::Enum(_) => json!("string"),
            Type::Bytes | Type::Fixed(_) => json!("bytes"),
            Type::Date => logical("int", ty.to_string()),
            Type::Time(Unit::Millis) => logical("int", ty.to_string()),
            Type::Time(_) | Type::Timestamp(_) | Type::LocalTimestamp(_) => logical("long", ty.to_string()),
            Type::Decimal { precision: 0, .. } => {
                return none("its precision is not known; give the sink a schema, or make it a string");
            }
            Type::Decimal { precision, scale } => {
                json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale })
            }
            Type::Uuid => logical("string", "uuid".to_owned()),
            Type::Duration => {
                let name = self.name(&format!("{hint}_duration"));
                json!({ "type": "fixed", "name": name, "size": 12, "logicalType": "duration" })
            }
            Type::List(items) => json!({ "type": "array", "items": self.write(items, within(from, None).0, hint)? }),
            Type::Map(key, values) if **key == Type::String => {
                json!({ "type": "map", "values": self.write(values, within(from, None).0, hint)? })
            }
            Type::Map(..) => return none("the keys of Avro's maps are strings"),
            Type::Record(fields) => {
                let name = self.name(hint);
                let mut list = Vec::with_capacity(fields.len());
                for (field, ty) in fields {
                    if !names::is_plain_name(field) {
                        return Err(OutputError::Name(field.clone()));
                    }
                    let (from, default) = within(from, Some(field));
                    let written = self.write(ty, from, &format!("{hint}_{field}"))?;
                    let default = if ty.is_nullable() {
                        Some(Json::Null)
                    } else {
                        default.filter(|default| has(&written, default)).cloned()
                    };
                    let mut json = json!({ "name": field, "type": written });
                    if let Some(default) = default {
                        json["default"] = default;
                    }
                    list.push(json);
                }
                json!({ "type": "record", "name": name, "fields": list })
            }
            Type::Union(types) => Json::Array(self.union(types, hint)?),
            Type::Nullable(inner) => {
                let mut branches = vec![json!("null")];
                match inner.as_ref() {
                    Type::Union(types) => branches.extend(self.union(types, hint)?),
                    other => branches.push(self.write(other, from, hint)?),
                }
                Json::Array(branches)
            }
            Type::Any => return none("it is only known when a record is there; give the sink a schema"),
        })
    }

    /// The branches of a union. Two branches of the same kind are allowed only if they have names.
    fn union(&mut self, types: &[Type], hint: &str) -> Result<Vec<Json>, OutputError> {
        let mut branches: Vec<Json> = Vec::with_capacity(types.len());
        for ty in types {
            let branch = self.write(ty, None, hint)?;
            let kind = |json: &Json| json.get("type").unwrap_or(json).clone();
            let named = |json: &Json| json.get("name").is_some();
            if branches.contains(&branch) {
                continue;
            }
            if !named(&branch)
                && branches
                    .iter()
                    .any(|other| !named(other) && kind(other) == kind(&branch))
            {
                let ty = Type::Union(types.to_vec()).to_string();
                return Err(OutputError::NoType {
                    ty,
                    hint: "a union has only one branch of each kind",
                });
            }
            branches.push(branch);
        }
        Ok(branches)
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
