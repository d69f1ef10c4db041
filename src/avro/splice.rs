//! The output datum as pieces of the input datum: runs of bytes that pass unchanged, converted parts, and new fields.
//!
//! It is compiled once per writer schema and output schema. A record has no framing, so the fields of nested records are pieces of the same list, and
//! neighbouring runs are merged: an output that only appends fields is one copy plus the new values.

use std::sync::Arc;

use super::converted::Renamed;
use super::direct::Direct;
use super::draft::Draft;
use super::encode;
use super::encode_error::{EncodeError, EncodeProblem};
use super::path::PathError;
use super::plan::Plan;
use super::resolve::{ConversionId, Resolution};
use super::schema::{NodeId, Schema};
use super::transcode::Transcoder;
use super::value::Value;
use super::want::Mark;

/// Why an output cannot be made of an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpliceError {
    /// Only records can be enriched.
    #[error("the {0} schema is not a record")]
    NotARecord(&'static str),
    /// A value is supplied for a field that the output does not have.
    #[error("the output schema has no field \"{0}\"")]
    UnknownField(String),
    /// A field of the output that nobody supplies.
    #[error(
        "field \"{field}\" of the output schema has no source: the input has no such field, nothing sets it, and it has no default{}",
        .renamed.as_ref().map(|source| format!("; the input's \"{source}\" has that name as an alias: give the output's field the alias \"{source}\", or set it")).unwrap_or_default()
    )]
    NoSource {
        /// The field, as a path.
        field: String,
        /// The input's field that has its name for an alias.
        renamed: Option<String>,
    },
    /// A field of the output whose type does not take the input's.
    #[error("field \"{field}\" is {from} in the input, which the output schema's {to} cannot take")]
    Incompatible {
        /// The field, as a path.
        field: String,
        /// The input's type.
        from: String,
        /// The output's type.
        to: String,
    },
    /// A default of the output schema that is not of its type.
    #[error("output schema: {0}")]
    Default(EncodeError),
    /// The output takes only some of the input's fields, or converts some: such a plan is compiled together with its
    /// output, by [`Plan::compile_with_output`].
    #[error("the plan does not mark what the output needs")]
    NeedsMarks,
}

/// Why a plan and its output cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A path is wrong.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The output is.
    #[error(transparent)]
    Splice(#[from] SpliceError),
}

/// A compiled output. Immutable; `Send` and `Sync`.
#[derive(Debug)]
pub struct Splice {
    pub(crate) writer: Arc<Schema>,
    pub(crate) output: Arc<Schema>,
    pub(crate) pieces: Vec<Piece<Place>>,
    pub(crate) resolution: Resolution,
    pub(crate) renamed: Vec<Renamed>,
    pub(crate) new_fields: usize,
}

/// A part of the output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece<P> {
    /// Input, unchanged.
    Copy { from: P, to: P },
    /// Always the same.
    Literal(Vec<u8>),
    /// A value that is supplied, to be written as the type of a field.
    New {
        value: usize,
        node: NodeId,
        direct: Option<Direct>,
        field: String,
    },
    /// Input, converted. The field, and the input's that it is made of, are for messages.
    Convert {
        from: P,
        to: P,
        conversion: ConversionId,
        field: String,
        source: String,
    },
}

/// A position in the input, as a run leaves it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place {
    Start,
    End,
    Mark(Mark),
}

impl Splice {
    /// Compiles an output for a plan that was compiled without one: possible when all of the input passes unchanged, with
    /// fields before or behind it. `new_fields` are the fields whose values are supplied, in the order of the values.
    ///
    /// # Errors
    /// An output that the input does not resolve to, or one that needs [`Plan::compile_with_output`].
    pub fn compile(plan: &Plan, output: Arc<Schema>, new_fields: &[&str]) -> Result<Splice, SpliceError> {
        Draft::of(plan.writer(), &output, new_fields)?.finish(plan.writer(), output, &[])
    }

    /// The schema of what is built.
    pub fn output(&self) -> &Arc<Schema> {
        &self.output
    }

    /// Appends the output datum, without framing, to `out`, after a run of the plan on the same input. `new` are the
    /// values of the new fields. When it fails, `out` is as before.
    ///
    /// # Errors
    /// A new value that does not fit its field, or a value of the input that loses something in the field's new type.
    pub fn build(
        &self,
        buf: &[u8],
        start: usize,
        end: usize,
        marks: &[u32],
        new: &[Value<'_>],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let length = out.len();
        let result = self.pieces(buf, (start, end), marks, new, out);
        if result.is_err() {
            out.truncate(length);
        }
        result
    }

    fn pieces(
        &self,
        buf: &[u8],
        (start, end): (usize, usize),
        marks: &[u32],
        new: &[Value<'_>],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if new.len() != self.new_fields {
            return Err(EncodeProblem::Caller.into());
        }
        let caller = || EncodeError::from(EncodeProblem::Caller);
        let place = |place: Place| match place {
            Place::Start => Some(start),
            Place::End => Some(end),
            Place::Mark(mark) => marks.get(mark as usize).map(|position| *position as usize),
        };
        for piece in &self.pieces {
            match piece {
                Piece::Copy { from, to } => {
                    let range = place(*from).zip(place(*to)).and_then(|(from, to)| buf.get(from..to));
                    out.extend_from_slice(range.ok_or_else(caller)?);
                }
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::New {
                    value,
                    direct: Some(direct),
                    ..
                } if direct.put(&new[*value], out) => {}
                Piece::New { value, node, field, .. } => {
                    let done = encode::encode(&self.output, *node, &new[*value], out);
                    done.map_err(|error| error.within(&format!(".{field}")))?;
                }
                Piece::Convert {
                    from,
                    to,
                    conversion,
                    field,
                    ..
                } => {
                    let range = place(*from).zip(place(*to)).ok_or_else(caller)?;
                    let (writer, output) = (&*self.writer, &*self.output);
                    let transcoder = Transcoder {
                        writer,
                        output,
                        resolution: &self.resolution,
                    };
                    let done = transcoder.convert(*conversion, buf, range, out);
                    done.map_err(|error| error.within(&format!(".{field}")))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "splice_tests.rs"]
mod tests;
