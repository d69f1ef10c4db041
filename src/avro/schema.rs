//! A schema: its types as an arena of nodes, with names resolved to node numbers.
//!
//! Everything that reads or writes Avro here uses this arena. `parse` builds it once per schema id. It never changes, so threads share it freely.
//!
//! Invariants: every [`NodeId`] in a schema is one of its nodes; no datum is endless (a record never contains itself without a union, array or map
//! between); nesting, where it is not recursion by name, is at most [`MAX_NESTING`].

use super::schema_error::SchemaError;
use super::value::{Type, Unit};
use super::{parse, types};

/// How deeply types may be nested, not counting recursion.
pub const MAX_NESTING: usize = 128;

/// A type's number in its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

/// One type: its encoding, and its logical type.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// How its data are encoded.
    pub shape: Shape,
    /// Its logical type, if it has one that is known and valid. Others are ignored, as the specification requires.
    pub logical: Option<Logical>,
}

/// How data of a type are encoded.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// No bytes.
    Null,
    /// One byte, 0 or 1.
    Boolean,
    /// Zigzag varint of 32 bits.
    Int,
    /// Zigzag varint of 64 bits.
    Long,
    /// Four bytes, little-endian IEEE 754.
    Float,
    /// Eight bytes, little-endian IEEE 754.
    Double,
    /// A `long` length, then that many bytes.
    Bytes,
    /// A `long` length, then that many bytes of UTF-8.
    String,
    /// `size` bytes.
    Fixed {
        /// Full name.
        name: String,
        /// Aliases, as full names.
        aliases: Vec<String>,
        /// Size in bytes.
        size: usize,
    },
    /// The index of a symbol, as an `int`.
    Enum {
        /// Full name.
        name: String,
        /// Aliases, as full names.
        aliases: Vec<String>,
        /// Symbols, in order.
        symbols: Vec<String>,
        /// Index of the symbol that a reader uses in place of a symbol it does not know.
        default: Option<usize>,
    },
    /// Blocks of items, ended by an empty block.
    Array(NodeId),
    /// Blocks of string keys and values, ended by an empty block.
    Map(NodeId),
    /// The index of a branch, then its datum.
    Union(Vec<NodeId>),
    /// Fields, one after the other.
    Record {
        /// Full name.
        name: String,
        /// Aliases, as full names.
        aliases: Vec<String>,
        /// Fields, in order.
        fields: Vec<Field>,
    },
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its aliases.
    pub aliases: Vec<String>,
    /// Its type.
    pub node: NodeId,
    /// The value that a reader uses if the writer has no such field.
    pub default: Option<serde_json::Value>,
}

/// What a value means beyond its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logical {
    /// `date` on `int`.
    Date,
    /// `time-millis` on `int`, `time-micros` on `long`; also `time-nanos` on `long`, which is Messina's own (CQL's `time`).
    Time(Unit),
    /// `timestamp-millis`, `-micros`, `-nanos` on `long`.
    Timestamp(Unit),
    /// `local-timestamp-millis`, `-micros`, `-nanos` on `long`.
    LocalTimestamp(Unit),
    /// `decimal` on `bytes` and `fixed`.
    Decimal {
        /// Total digits.
        precision: u32,
        /// Digits after the decimal point.
        scale: u32,
    },
    /// `uuid` on `string` and `fixed(16)`.
    Uuid,
    /// `duration` on `fixed(12)`.
    Duration,
}

/// A parsed schema. Immutable; `Send` and `Sync`.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    pub(crate) nodes: Vec<Node>,
    pub(crate) facts: Vec<Facts>,
    pub(crate) root: NodeId,
    pub(crate) json: String,
}

/// Facts about a node that hold for all its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Facts {
    /// Recursive: a datum of this type may contain another datum of the same type.
    pub recursive: bool,
    /// Its data take no bytes: null, a fixed type of size 0, or a record of only such types.
    pub empty: bool,
    /// A record that a program contains once and calls, instead of inlining it at each use.
    pub shared: bool,
}

impl Schema {
    /// Parses a schema that refers to no others.
    pub fn parse(json: &str) -> Result<Schema, SchemaError> {
        parse::parse(json, &[])
    }

    /// Parses a schema with the schemas that it refers to. Each of `references` must come after those that it refers to
    /// itself, which is the order in which the registry's references are resolved. A type may be defined twice if both
    /// definitions are the same; those of an enum or a fixed type may differ in their docs.
    pub fn parse_with_references(json: &str, references: &[&str]) -> Result<Schema, SchemaError> {
        parse::parse(json, references)
    }

    /// The type of a whole datum.
    pub fn root_type(&self) -> Type {
        types::type_of(self, self.root)
    }

    /// The schema as self-contained JSON: types of referenced schemas are inlined where they are first used.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The outermost type.
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// One type.
    pub fn node(&self, id: NodeId) -> &Node {
        // In range by this module's invariant.
        &self.nodes[id.0 as usize]
    }

    pub(crate) fn facts(&self, id: NodeId) -> Facts {
        self.facts[id.0 as usize]
    }

    /// The fields of the outermost record, if the outermost type is one.
    pub fn fields(&self) -> Option<&[Field]> {
        match &self.node(self.root).shape {
            Shape::Record { fields, .. } => Some(fields),
            _ => None,
        }
    }

    /// The type of one of the outermost record's fields.
    pub fn field_type(&self, name: &str) -> Option<Type> {
        let field = self.fields()?.iter().find(|field| field.name == name)?;
        Some(types::type_of(self, field.node))
    }
}

impl Shape {
    /// The full name of a named type.
    pub fn name(&self) -> Option<&str> {
        match self {
            Shape::Fixed { name, .. } | Shape::Enum { name, .. } | Shape::Record { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The aliases of a named type, as full names.
    pub fn aliases(&self) -> &[String] {
        match self {
            Shape::Fixed { aliases, .. } | Shape::Enum { aliases, .. } | Shape::Record { aliases, .. } => aliases,
            _ => &[],
        }
    }

    /// The specification's word for this kind of type.
    pub fn kind(&self) -> &'static str {
        match self {
            Shape::Null => "null",
            Shape::Boolean => "boolean",
            Shape::Int => "int",
            Shape::Long => "long",
            Shape::Float => "float",
            Shape::Double => "double",
            Shape::Bytes => "bytes",
            Shape::String => "string",
            Shape::Fixed { .. } => "fixed",
            Shape::Enum { .. } => "enum",
            Shape::Array(_) => "array",
            Shape::Map(_) => "map",
            Shape::Union(_) => "union",
            Shape::Record { .. } => "record",
        }
    }

    /// The types directly inside this one: items, values, branches or fields.
    pub(crate) fn children(&self) -> Vec<NodeId> {
        match self {
            Shape::Array(items) | Shape::Map(items) => vec![*items],
            Shape::Union(branches) => branches.clone(),
            Shape::Record { fields, .. } => fields.iter().map(|field| field.node).collect(),
            _ => Vec::new(),
        }
    }
}
