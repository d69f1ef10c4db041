//! The type of a schema's node in the vocabulary of the type check.
//!
//! A [`Type`] is a tree, while a schema may be a cyclic graph: recursion is cut off as [`Type::Any`], and so is anything larger than a person would
//! read.

use super::schema::{Logical, NodeId, Schema, Shape};
use super::value::Type;

/// Beyond this many parts, the rest of a type is `any`.
const MAX_PARTS: usize = 10_000;
/// Beyond this many levels, the rest of a type is `any`.
const MAX_LEVELS: usize = 64;

/// The type of the values of a node.
pub(crate) fn type_of(schema: &Schema, id: NodeId) -> Type {
    Builder {
        schema,
        open: Vec::new(),
        level: 0,
        parts: 0,
    }
    .node(id)
}

/// What messages call a node: its name if it has one, because the type alone does not tell two records apart.
pub(crate) fn name_of(schema: &Schema, id: NodeId) -> String {
    let name = schema.node(id).shape.name().map(str::to_owned);
    name.unwrap_or_else(|| type_of(schema, id).to_string())
}

/// One type for values of any of `types`: that type if they are all the same, otherwise a union without duplicates.
/// Nullable if one of them is.
pub(crate) fn either(types: Vec<Type>) -> Type {
    let nullable = types.iter().any(|t| matches!(t, Type::Nullable(_) | Type::Null));
    let mut distinct: Vec<Type> = Vec::new();
    for ty in types {
        let parts = match ty.non_null().clone() {
            Type::Null => continue,
            Type::Union(parts) => parts,
            part => vec![part],
        };
        for part in parts {
            if !distinct.contains(&part) {
                distinct.push(part);
            }
        }
    }
    let ty = match distinct.len() {
        0 => return Type::Null,
        1 => distinct.swap_remove(0),
        _ => Type::Union(distinct),
    };
    if nullable { ty.nullable() } else { ty }
}

struct Builder<'s> {
    schema: &'s Schema,
    /// The records that are being built, to detect recursion.
    open: Vec<NodeId>,
    /// Depth of what is being built, including lists, maps and unions.
    level: usize,
    parts: usize,
}

impl Builder<'_> {
    fn node(&mut self, id: NodeId) -> Type {
        self.parts += 1;
        let deep = self.open.len() > MAX_LEVELS || self.level > 4 * MAX_LEVELS;
        if self.parts > MAX_PARTS || deep || self.open.contains(&id) {
            return Type::Any;
        }
        self.level += 1;
        let ty = self.known(id);
        self.level -= 1;
        ty
    }

    fn known(&mut self, id: NodeId) -> Type {
        let node = self.schema.node(id);
        if let Some(logical) = node.logical {
            return logical_type(logical);
        }
        match &node.shape {
            Shape::Null => Type::Null,
            Shape::Boolean => Type::Bool,
            Shape::Int => Type::Int,
            Shape::Long => Type::Long,
            Shape::Float => Type::Float,
            Shape::Double => Type::Double,
            Shape::Bytes => Type::Bytes,
            Shape::String => Type::String,
            Shape::Fixed { size, .. } => Type::Fixed(*size),
            Shape::Enum { symbols, .. } => {
                // Symbols are copied wherever the enum is used.
                self.parts += symbols.len() / 16;
                Type::Enum(symbols.clone())
            }
            Shape::Array(items) => Type::List(Box::new(self.node(*items))),
            Shape::Map(values) => Type::Map(Box::new(Type::String), Box::new(self.node(*values))),
            Shape::Union(branches) => either(branches.iter().map(|branch| self.node(*branch)).collect()),
            Shape::Record { fields, .. } => {
                self.open.push(id);
                let fields = fields
                    .iter()
                    .map(|field| (field.name.clone(), self.node(field.node)))
                    .collect();
                self.open.pop();
                Type::Record(fields)
            }
        }
    }
}

fn logical_type(logical: Logical) -> Type {
    match logical {
        Logical::Date => Type::Date,
        Logical::Time(unit) => Type::Time(unit),
        Logical::Timestamp(unit) => Type::Timestamp(unit),
        Logical::LocalTimestamp(unit) => Type::LocalTimestamp(unit),
        Logical::Decimal { precision, scale } => Type::Decimal { precision, scale },
        Logical::Uuid => Type::Uuid,
        Logical::Duration => Type::Duration,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::value::Unit;

    fn ty(json: &str) -> Type {
        Schema::parse(json).unwrap().root_type()
    }

    #[test]
    fn a_large_enum_that_is_used_often_is_not_copied_without_end() {
        let symbols: Vec<String> = (0..16_000).map(|i| format!("S{i}")).collect();
        let symbols = serde_json::to_string(&symbols).unwrap();
        let uses: String = (0..200).map(|i| format!(r#",{{"name":"g{i}","type":"E"}}"#)).collect();
        let json = format!(
            r#"{{"type":"record","name":"R","fields":[{{"name":"f","type":{{"type":"enum","name":"E","symbols":{symbols}}}}}{uses}]}}"#
        );
        let Type::Record(fields) = ty(&json) else { panic!() };
        assert!(matches!(&fields[0].1, Type::Enum(symbols) if symbols.len() == 16_000));
        let copies = fields.iter().filter(|(_, ty)| matches!(ty, Type::Enum(_))).count();
        assert_eq!((copies, fields.len()), (10, 201), "the rest is any");
    }

    #[test]
    fn unions_lose_their_null() {
        assert_eq!(ty(r#"["null","long"]"#), Type::Long.nullable());
        assert_eq!(ty(r#"["null"]"#), Type::Null);
        assert_eq!(ty(r#"["int","string"]"#), Type::Union(vec![Type::Int, Type::String]));
        assert_eq!(
            ty(r#"["int","null","string"]"#),
            Type::Union(vec![Type::Int, Type::String]).nullable()
        );
    }

    #[test]
    fn logical_types_say_what_they_are() {
        assert_eq!(
            ty(r#"{"type":"long","logicalType":"timestamp-micros"}"#),
            Type::Timestamp(Unit::Micros)
        );
        assert_eq!(ty(r#"{"type":"string","logicalType":"uuid"}"#), Type::Uuid);
        assert_eq!(
            ty(r#"{"type":"string","logicalType":"date"}"#),
            Type::String,
            "date is not for strings"
        );
        assert_eq!(ty(r#"{"type":"long","logicalType":"beats"}"#), Type::Long);
    }

    #[test]
    fn recursion_ends_in_any() {
        let t = ty(r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#);
        assert_eq!(t, Type::Record(vec![("next".into(), Type::Any)]));
    }

    #[test]
    fn a_type_that_doubles_at_each_level_stays_small() {
        let mut json = r#"{"type":"record","name":"R0","fields":[{"name":"x","type":"int"}]}"#.to_owned();
        for i in 1..25 {
            let p = i - 1;
            json = format!(
                r#"{{"type":"record","name":"R{i}","fields":[{{"name":"a","type":{json}}},{{"name":"b","type":"R{p}"}}]}}"#
            );
        }
        let _ = ty(&json);
    }
}
