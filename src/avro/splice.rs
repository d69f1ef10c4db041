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

/// Why an output cannot be made from an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpliceError {
    /// Only records can be enriched.
    #[error("the {0} schema is not a record")]
    NotARecord(&'static str),
    /// A value is supplied for a field that the output does not have.
    #[error("the output schema has no field \"{0}\"")]
    UnknownField(String),
    /// A field of the output that has no source.
    #[error(
        "field \"{field}\" of the output schema has no source: the input has no such field, nothing sets it, and it has no default{}",
        .renamed.as_ref().map(|source| format!("; the input's \"{source}\" has that name as an alias: give the output's field the alias \"{source}\", or set it")).unwrap_or_default()
    )]
    NoSource {
        /// The field, as a path.
        field: String,
        /// The input's field that has this field's name as an alias.
        renamed: Option<String>,
    },
    /// A field of the output whose type cannot take the input's.
    #[error("field \"{field}\" is {from} in the input, which the output schema's {to} cannot take")]
    Incompatible {
        /// The field, as a path.
        field: String,
        /// The input's type.
        from: String,
        /// The output's type.
        to: String,
    },
    /// A default of the output schema that does not match its type.
    #[error("output schema: {0}")]
    Default(EncodeError),
    /// The output takes only some of the input's fields, or converts some. Such an output must be compiled together
    /// with its plan, by [`Plan::compile_with_output`].
    #[error("the plan does not mark what the output needs")]
    NeedsMarks,
}

/// Why a plan and its output cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A path is wrong.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The output is wrong.
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
    /// Bytes that are always the same.
    Literal(Vec<u8>),
    /// A supplied value, to be written as the type of a field.
    New {
        value: usize,
        node: NodeId,
        direct: Option<Direct>,
        field: String,
    },
    /// Input, converted. `field`, and `source`, the input's field that it is made from, are for messages.
    Convert {
        from: P,
        to: P,
        conversion: ConversionId,
        field: String,
        source: String,
    },
}

/// A position in the input that is known after a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place {
    Start,
    End,
    Mark(Mark),
}

impl Splice {
    /// Compiles an output for a plan that was compiled without one. This is possible if all of the input is copied
    /// unchanged, with fields added before or after it. `new_fields` are the fields whose values are supplied, in the
    /// order of the values.
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

    /// Appends the output datum, without framing, to `out`. The plan must have been run on the same input. `new` are
    /// the values of the new fields. On error `out` is unchanged.
    ///
    /// # Errors
    /// A new value that does not fit its field, or an input value that would lose something in the field's new type.
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
