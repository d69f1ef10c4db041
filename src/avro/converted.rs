//! What of an input an output has in another type, by path: where a value may turn out not to fit.

use super::resolve::{Conversion, ConversionId, Source, Step};
use super::schema::Shape;
use super::splice::{Piece, Splice};
use super::types::type_of;
use super::value::Type;

/// A scalar that is read as one type and written as another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// Where the output has it, as a path; what is in a list or map is behind `[]`.
    pub field: String,
    /// Where the input has it.
    pub source: String,
    /// The input's type.
    pub from: Type,
    /// The output's type.
    pub to: Type,
}

impl Splice {
    /// What passes from the input to the output in another type. A record that is in several places is told of in one.
    pub fn converted(&self) -> Vec<Converted> {
        let mut walk = Walk {
            splice: self,
            seen: vec![false; self.resolution.steps.len()],
            found: Vec::new(),
        };
        for piece in &self.pieces {
            if let Piece::Convert {
                conversion,
                field,
                source,
                ..
            } = piece
            {
                walk.conversion(*conversion, field, source);
            }
        }
        walk.found
    }
}

struct Walk<'s> {
    splice: &'s Splice,
    /// Records that were walked through: one may be within itself.
    seen: Vec<bool>,
    found: Vec<Converted>,
}

impl Walk<'_> {
    fn conversion(&mut self, id: ConversionId, field: &str, source: &str) {
        let splice = self.splice;
        let step = &splice.resolution.steps[id];
        match &step.conversion {
            Conversion::Copy | Conversion::Symbols(_) | Conversion::Impossible => {}
            Conversion::Value => self.found.push(Converted {
                field: field.to_owned(),
                source: source.to_owned(),
                from: type_of(&splice.writer, step.writer),
                to: type_of(&splice.output, step.output),
            }),
            Conversion::Branches(branches) => {
                for inner in branches.iter().flatten() {
                    self.conversion(*inner, field, source);
                }
            }
            Conversion::Wrap { inner, .. } => self.conversion(*inner, field, source),
            Conversion::Items(inner) | Conversion::Entries(inner) => {
                self.conversion(*inner, &format!("{field}[]"), &format!("{source}[]"));
            }
            Conversion::Fields(sources) => {
                if !std::mem::replace(&mut self.seen[id], true) {
                    self.fields(step, sources, field, source);
                }
            }
        }
    }

    fn fields(&mut self, step: &Step, sources: &[Source], field: &str, source: &str) {
        let splice = self.splice;
        let shapes = (
            &splice.writer.node(step.writer).shape,
            &splice.output.node(step.output).shape,
        );
        let (Shape::Record { fields: from, .. }, Shape::Record { fields: to, .. }) = shapes else {
            return;
        };
        for (to, made) in to.iter().zip(sources) {
            if let Source::Input {
                field: number,
                conversion,
            } = made
            {
                let (field, source) = (
                    format!("{field}.{}", to.name),
                    format!("{source}.{}", from[*number].name),
                );
                self.conversion(*conversion, &field, &source);
            }
        }
    }
}
