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
    /// The path in the output. `[]` stands for the items of a list or the values of a map.
    pub field: String,
    /// The path in the input.
    pub source: String,
    /// The input's type.
    pub from: Type,
    /// The output's type.
    pub to: Type,
}

/// A branch of a union in the input, or a symbol of an enum, that has no place in the output. Null is not reported, because records with it
/// may be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// The path that it would have in the output, as in [`Converted`].
    pub field: String,
    /// The path in the input.
    pub source: String,
    /// The branch, by its name, or by its type if it has none; or the symbols of one enum, the first few of them by
    /// name.
    pub from: String,
}

/// A field of the output that has its default in every record, although an input field that nothing takes has its name as an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// The path in the output, as in [`Converted`].
    pub field: String,
    /// The path of that other field in the input.
    pub source: String,
}

/// How messages list symbols without a place; None if there are none. Only a few are named, because an enum may have
/// thousands.
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
    /// The scalars that pass from the input to the output in another type. A record in several places is reported once.
    pub fn converted(&self) -> Vec<Converted> {
        self.walk().found
    }

    /// What the input may contain and the output cannot. A record that contains it cannot be converted.
    pub fn unplaced(&self) -> Vec<Unplaced> {
        self.walk().unplaced
    }

    /// Input fields that the output leaves out because they have a newer name.
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
    /// Records that have been visited, because a record may contain itself.
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

    /// Reports a branch without a place.
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

    /// Reports the symbols without a place.
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
        // A field that another field of the output takes is not left out.
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
