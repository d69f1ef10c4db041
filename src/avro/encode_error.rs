//! Why a value cannot be written as a type, and in which field.

use super::error::DatumError;

/// Why a value cannot be written as a type. Permanent: the same value fails again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", if .place.is_empty() { String::new() } else { format!("field {}: ", .place.trim_start_matches('.')) })]
pub struct EncodeError {
    /// The field, as a path; empty for a whole datum. Map keys in it are quoted, because they come from the record.
    pub place: String,
    /// What is wrong.
    pub problem: EncodeProblem,
}

/// What can be wrong with a value for a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeProblem {
    /// No value of this kind can be written as that type.
    #[error("{value} cannot be written as {ty}")]
    Mismatch {
        /// The kind of value.
        value: &'static str,
        /// The type.
        ty: String,
    },
    /// This value cannot be written without loss.
    #[error("{value} does not fit {ty}")]
    DoesNotFit {
        /// The value.
        value: String,
        /// The type.
        ty: String,
    },
    /// A record lacks a field that has no default.
    #[error("field {0} is missing and has no default")]
    MissingField(String),
    /// A record has a field that the type lacks. The name may be a map key from the record.
    #[error("{ty} has no field {field:?}")]
    UnknownField {
        /// The field.
        field: String,
        /// The record's name.
        ty: String,
    },
    /// A default that does not match the field's type.
    #[error("the default {default} is not of type {ty}")]
    Default {
        /// The default, as JSON.
        default: String,
        /// The type.
        ty: String,
    },
    /// Nested too deeply.
    #[error("nested too deeply")]
    Depth,
    /// A value of the input (a branch, or a symbol) that the output's type cannot take.
    #[error("{value} of the input has no place in {ty}")]
    NoPlace {
        /// The writer's type, or symbol.
        value: String,
        /// The output's type.
        ty: String,
    },
    /// The input could not be read.
    #[error("{0}")]
    Datum(DatumError),
    /// The number of values differs from the number of new fields, or positions lie outside the buffer. A mistake of
    /// the caller, not of the data.
    #[error("values or marks that do not belong to the plan")]
    Caller,
}

impl From<EncodeProblem> for EncodeError {
    fn from(problem: EncodeProblem) -> EncodeError {
        EncodeError {
            place: String::new(),
            problem,
        }
    }
}

impl From<DatumError> for EncodeError {
    fn from(error: DatumError) -> EncodeError {
        EncodeProblem::Datum(error).into()
    }
}

impl EncodeError {
    /// The error as seen from one level further out: `part` is put in front of its path.
    pub(crate) fn within(mut self, part: &str) -> EncodeError {
        self.place.insert_str(0, part);
        self
    }
}
