//! Lists the parts of an input, by path, that an output has in another type or not at all, where a value may turn out not to fit.

use std::collections::HashSet;

use super::resolve::{Conversion, ConversionId, Given, Source, Step};
use super::schema::Shape;
use super::splice::{Piece, Splice};
use super::types::{name_of, type_of};
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

/// A branch of a union of the input, or a symbol of an enum, that has no place in the output. Null is none: records with it may be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// Where the output would have it, as in [`Converted`].
    pub field: String,
    /// Where the input has it.
    pub source: String,
    /// The branch: its name, or its type where it has none. Or the symbols of one enum, the first of them by name.
    pub from: String,
}

/// A field of the output that has its default in every record, although a field of the input that nothing takes has its name for an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// Where the output has it, as in [`Converted`].
    pub field: String,
    /// Where the input has the other one.
    pub source: String,
}

/// What symbols without a place are called; nothing where there are none. A few are named: an enum may have thousands.
pub(crate) fn symbols_told<'s>(mut symbols: impl Iterator<Item = &'s str>) -> Option<String> {
    let first: Vec<&str> = symbols.by_ref().take(5).collect();
    if first.is_empty() {
        return None;
    }
    let more = match symbols.count() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    Some(format!("symbol {}{more}", first.join(", ")))
}

impl Splice {
    /// What passes from the input to the output in another type. A record that is in several places is told of in one.
    pub fn converted(&self) -> Vec<Converted> {
        self.walk().found
    }

    /// What may be in the input and cannot be in the output: a record that has it is none.
    pub fn unplaced(&self) -> Vec<Unplaced> {
        self.walk().unplaced
    }

    /// What the output leaves out under its newer name.
    pub fn renamed(&self) -> Vec<Renamed> {
        self.walk().renamed
    }

    fn walk(&self) -> Walk<'_> {
        let mut walk = Walk {
            splice: self,
            seen: vec![false; self.resolution.steps.len()],
            found: Vec::new(),
            unplaced: Vec::new(),
            renamed: self.renamed.clone(),
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
        walk
    }
}

struct Walk<'s> {
    splice: &'s Splice,
    /// Records that were walked through: one may be within itself.
    seen: Vec<bool>,
    found: Vec<Converted>,
    unplaced: Vec<Unplaced>,
    renamed: Vec<Renamed>,
}

impl Walk<'_> {
    fn conversion(&mut self, id: ConversionId, field: &str, source: &str) {
        let splice = self.splice;
        let step = &splice.resolution.steps[id];
        match &step.conversion {
            Conversion::Copy | Conversion::Impossible => {}
            Conversion::Symbols(places) => self.symbols(step, places, field, source),
            Conversion::Value => self.found.push(Converted {
                field: field.to_owned(),
                source: source.to_owned(),
                from: type_of(&splice.writer, step.writer),
                to: type_of(&splice.output, step.output),
            }),
            Conversion::Branches(conversions) => {
                for (number, inner) in conversions.iter().enumerate() {
                    match inner {
                        Some(inner) => self.conversion(*inner, field, source),
                        None => self.branch(step, number, field, source),
                    }
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

    /// Notes a branch without a place.
    fn branch(&mut self, step: &Step, number: usize, field: &str, source: &str) {
        let writer = &self.splice.writer;
        if let Shape::Union(branches) = &writer.node(step.writer).shape
            && writer.node(branches[number]).shape != Shape::Null
        {
            self.unplaced.push(Unplaced {
                field: field.to_owned(),
                source: source.to_owned(),
                from: name_of(writer, branches[number]),
            });
        }
    }

    /// Notes the symbols without a place.
    fn symbols(&mut self, step: &Step, places: &[Option<usize>], field: &str, source: &str) {
        if let Shape::Enum { symbols, .. } = &self.splice.writer.node(step.writer).shape {
            let missing = symbols.iter().zip(places).filter(|(_, place)| place.is_none());
            let from = symbols_told(missing.map(|(symbol, _)| symbol.as_str()));
            self.unplaced.extend(from.map(|from| Unplaced {
                field: field.to_owned(),
                source: source.to_owned(),
                from,
            }));
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
        let mut given = Given::new(from);
        // What another field of the output takes is not left out.
        let taken: HashSet<usize> = sources
            .iter()
            .filter_map(|made| match made {
                Source::Input { field, .. } => Some(*field),
                Source::Default(_) => None,
            })
            .collect();
        for (to, made) in to.iter().zip(sources) {
            let field = format!("{field}.{}", to.name);
            let source = |number: usize| format!("{source}.{}", from[number].name);
            match made {
                Source::Input {
                    field: number,
                    conversion,
                } => self.conversion(*conversion, &field, &source(*number)),
                Source::Default(_) => {
                    let left_out = given.renamed(&to.name).filter(|number| !taken.contains(number));
                    let source = left_out.map(source);
                    self.renamed.extend(source.map(|source| Renamed { field, source }));
                }
            }
        }
    }
}
