//! Why a text is not a schema, and where in it.

/// Why a text is not a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The text is not JSON.
    #[error("schema is not JSON: {0}")]
    Json(String),
    /// Something in it is wrong; `place` says where, as names of records and fields.
    #[error("{place}: {problem}")]
    Invalid {
        /// For example `com.acme.Event.user.geo` or `Event.items[]`.
        place: String,
        /// What is wrong there.
        problem: SchemaProblem,
    },
}

/// What can be wrong in a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaProblem {
    /// A type that is neither primitive nor defined before it is used.
    #[error("unknown type \"{name}\"{}", hint(.nearest))]
    UnknownType {
        /// The name, as written.
        name: String,
        /// A known name that it resembles.
        nearest: Option<String>,
    },
    /// A required attribute is missing, or not of the right kind.
    #[error("\"{0}\" is missing or not of the right kind")]
    Attribute(&'static str),
    /// Neither a name, nor an object, nor a union.
    #[error("a type must be a name, an object or an array of types")]
    NotAType,
    /// Not a valid name.
    #[error("\"{0}\" is not a name")]
    Name(String),
    /// A second, different definition of one name.
    #[error("\"{0}\" is defined twice, differently")]
    Redefined(String),
    /// Two fields of the same name.
    #[error("field \"{0}\" occurs twice")]
    DuplicateField(String),
    /// Two symbols of the same name.
    #[error("symbol \"{0}\" occurs twice")]
    DuplicateSymbol(String),
    /// An enum's default that is not one of its symbols.
    #[error("default \"{0}\" is none of the symbols")]
    EnumDefault(String),
    /// A union directly in a union.
    #[error("a union cannot contain a union")]
    NestedUnion,
    /// Two branches of the same kind, or with the same name.
    #[error("two branches are \"{0}\"")]
    DuplicateBranch(String),
    /// A record that always contains itself, so that no datum of it is finite.
    #[error("record \"{0}\" contains itself and never ends")]
    Endless(String),
    /// Nested deeper than [`MAX_NESTING`](super::schema::MAX_NESTING).
    #[error("nested too deeply")]
    TooDeep,
}

fn hint(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map(|name| format!(" (did you mean \"{name}\"?)"))
        .unwrap_or_default()
}
