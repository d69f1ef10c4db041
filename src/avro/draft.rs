//! Decides where each part of an output comes from: the symbolic half of a splice.
//!
//! Positions are spots in the schema here. Once the pieces are known, so are the spots that need marks, and a plan that is compiled with its output
//! places the marks there.

use std::collections::HashSet;
use std::sync::Arc;

use super::converted::Renamed;
use super::default;
use super::direct::Direct;
use super::encode;
use super::plan::Ask;
use super::resolve::{Given, Resolution, Resolver};
use super::schema::{Field, NodeId, Schema, Shape};
use super::splice::{Piece, Place, Splice, SpliceError};
use super::types;
use super::want::{Edge, Mark, Step};

/// A position in the input, in terms of the schema: in the record at the end of `trail`, before field `field`. The start
/// of a nested record is the start of that field, and its end is the start of the next, so each position has one name.
#[derive(Debug, Clone, PartialEq)]
struct Spot {
    trail: Vec<usize>,
    field: usize,
}

/// An output whose marks have not been requested yet.
pub(crate) struct Draft {
    pieces: Vec<Piece<Spot>>,
    resolution: Resolution,
    renamed: Vec<Renamed>,
    fields: usize,
    new_fields: usize,
}

impl Draft {
    /// Decides where everything in the output comes from.
    pub fn of(writer: &Schema, output: &Schema, new_fields: &[&str]) -> Result<Draft, SpliceError> {
        let from = writer.fields().ok_or(SpliceError::NotARecord("input"))?;
        let to = output.fields().ok_or(SpliceError::NotARecord("output"))?;
        if let Some(unknown) = new_fields
            .iter()
            .find(|name| !to.iter().any(|field| field.name == **name))
        {
            return Err(SpliceError::UnknownField((*unknown).to_owned()));
        }
        let mut drafter = Drafter {
            resolver: Resolver::new(writer, output),
            pieces: Vec::new(),
            renamed: Vec::new(),
        };
        drafter.record(&[], ("", ""), from, to, new_fields)?;
        let Drafter {
            resolver,
            pieces,
            renamed,
        } = drafter;
        Ok(Draft {
            pieces,
            resolution: resolver.resolution,
            renamed,
            fields: from.len(),
            new_fields: new_fields.len(),
        })
    }

    /// Requests the marks, in the order of the pieces.
    pub fn ask(&self, ask: &mut Ask<'_>) -> Vec<Mark> {
        let mut marks = Vec::new();
        for piece in &self.pieces {
            if let Piece::Copy { from, to } | Piece::Convert { from, to, .. } = piece {
                let trail = |spot: &Spot, field| -> Vec<Step> {
                    spot.trail.iter().copied().chain([field]).map(Step::Field).collect()
                };
                if self.whole(from).is_none() {
                    marks.push(ask.ask(&trail(from, from.field), Edge::Start));
                }
                if self.whole(to).is_none() {
                    marks.push(ask.ask(&trail(to, to.field - 1), Edge::End));
                }
            }
        }
        marks
    }

    /// The finished output, with the marks that were requested.
    pub fn finish(self, writer: &Arc<Schema>, output: Arc<Schema>, marks: &[Mark]) -> Result<Splice, SpliceError> {
        let mut marks = marks.iter();
        let mut place = |spot: &Spot| match self.whole(spot) {
            Some(place) => Ok(place),
            None => marks
                .next()
                .map(|mark| Place::Mark(*mark))
                .ok_or(SpliceError::NeedsMarks),
        };
        let mut pieces = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            pieces.push(match piece {
                Piece::Copy { from, to } => Piece::Copy {
                    from: place(from)?,
                    to: place(to)?,
                },
                Piece::Literal(bytes) => Piece::Literal(bytes.clone()),
                Piece::New {
                    value,
                    node,
                    direct,
                    field,
                } => Piece::New {
                    value: *value,
                    node: *node,
                    direct: *direct,
                    field: field.clone(),
                },
                Piece::Convert {
                    from,
                    to,
                    conversion,
                    field,
                    source,
                } => Piece::Convert {
                    from: place(from)?,
                    to: place(to)?,
                    conversion: *conversion,
                    field: field.clone(),
                    source: source.clone(),
                },
            });
        }
        let (resolution, renamed, new_fields) = (self.resolution, self.renamed, self.new_fields);
        Ok(Splice {
            writer: Arc::clone(writer),
            output,
            pieces,
            resolution,
            renamed,
            new_fields,
        })
    }

    /// The place of a spot that needs no mark: the start or the end of the datum.
    fn whole(&self, spot: &Spot) -> Option<Place> {
        match (spot.trail.as_slice(), spot.field) {
            ([], 0) => Some(Place::Start),
            ([], field) if field == self.fields => Some(Place::End),
            _ => None,
        }
    }
}

struct Drafter<'s> {
    resolver: Resolver<'s>,
    pieces: Vec<Piece<Spot>>,
    renamed: Vec<Renamed>,
}

impl Drafter<'_> {
    /// Adds the pieces of an output record that is made from the input record at the end of `trail`. `path` and `source` are the output's and the
    /// input's path.
    fn record(
        &mut self,
        trail: &[usize],
        (path, source): (&str, &str),
        from: &[Field],
        to: &[Field],
        new_fields: &[&str],
    ) -> Result<(), SpliceError> {
        let mut given = Given::new(from);
        let (mut taken, mut renamed) = (HashSet::new(), Vec::new());
        for (number, field) in to.iter().enumerate() {
            let path = joined(path, &field.name);
            if let Some(value) = new_fields.iter().position(|name| *name == field.name) {
                self.pieces.push(Piece::New {
                    value,
                    node: field.node,
                    direct: Direct::of(self.resolver.output, field.node),
                    field: path,
                });
                continue;
            }
            match (given.source_of(number, field), &field.default) {
                (Some(number), _) => {
                    taken.insert(number);
                    let source = joined(source, &from[number].name);
                    self.field(trail, (path, source), from, number, field.node)?;
                }
                (None, Some(json)) => {
                    let mut bytes = Vec::new();
                    default::encode(self.resolver.output, field.node, json, &mut bytes)
                        .map_err(|error| SpliceError::Default(error.within(&format!(".{path}"))))?;
                    self.literal(bytes);
                    renamed.extend(given.renamed(&field.name).map(|number| (number, path)));
                }
                (None, None) => {
                    let renamed = given.renamed(&field.name).map(|number| from[number].name.clone());
                    return Err(SpliceError::NoSource { field: path, renamed });
                }
            }
        }
        // A field that another field of the output takes is not left out.
        renamed.retain(|(number, _)| !taken.contains(number));
        self.renamed.extend(renamed.into_iter().map(|(number, field)| Renamed {
            field,
            source: joined(source, &from[number].name),
        }));
        Ok(())
    }

    /// Adds the pieces of an output field of type `to` that is made from field `number` of the input record.
    fn field(
        &mut self,
        trail: &[usize],
        (path, source): (String, String),
        from: &[Field],
        number: usize,
        to: NodeId,
    ) -> Result<(), SpliceError> {
        let node = from[number].node;
        let start = spot(trail, number);
        let end = self.end_of(trail, number, from.len());
        let (writer, output) = (self.resolver.writer, self.resolver.output);
        let (shape, target) = (&writer.node(node).shape, &output.node(to).shape);
        if self.resolver.relation.same_bytes(node, to) {
            self.copy(start, end);
            return Ok(());
        }
        if let (Shape::Record { fields: from, .. }, Shape::Record { fields: to, .. }) = (shape, target) {
            let trail: Vec<usize> = trail.iter().copied().chain([number]).collect();
            return self.record(&trail, (&path, &source), from, to, &[]);
        }
        if let (false, Shape::Union(branches)) = (matches!(shape, Shape::Union(_)), target)
            && let Some(branch) = self.resolver.relation.choose(&[], node, branches)
            && self.resolver.relation.same_bytes(node, branches[branch])
        {
            let mut index = Vec::new();
            encode::put_long(&mut index, branch as i64);
            self.literal(index);
            self.copy(start, end);
            return Ok(());
        }
        if !self.resolver.relation.resolves(node, to) {
            let (from, to) = (
                types::type_of(writer, node).to_string(),
                types::type_of(output, to).to_string(),
            );
            return Err(SpliceError::Incompatible { field: path, from, to });
        }
        let conversion = self.resolver.convert(node, to);
        let conversion = conversion.map_err(|error| SpliceError::Default(error.within(&format!(".{path}"))))?;
        self.pieces.push(Piece::Convert {
            from: start,
            to: end,
            conversion,
            field: path,
            source,
        });
        Ok(())
    }

    /// The spot after field `number` of the record at the end of `trail`, which has `fields` fields.
    fn end_of(&self, trail: &[usize], number: usize, fields: usize) -> Spot {
        match trail.split_last() {
            Some((last, before)) if number + 1 == fields => self.end_of(before, *last, self.fields_at(before)),
            _ => Spot {
                trail: trail.to_vec(),
                field: number + 1,
            },
        }
    }

    /// How many fields the input's record at the end of `trail` has.
    fn fields_at(&self, trail: &[usize]) -> usize {
        let writer = self.resolver.writer;
        let mut fields = writer.fields().unwrap_or_default();
        for number in trail {
            if let Shape::Record { fields: inner, .. } = &writer.node(fields[*number].node).shape {
                fields = inner;
            }
        }
        fields.len()
    }

    fn literal(&mut self, bytes: Vec<u8>) {
        match self.pieces.last_mut() {
            Some(Piece::Literal(before)) => before.extend(bytes),
            _ => self.pieces.push(Piece::Literal(bytes)),
        }
    }

    fn copy(&mut self, from: Spot, to: Spot) {
        match self.pieces.last_mut() {
            Some(Piece::Copy { to: before, .. }) if *before == from => *before = to,
            _ => self.pieces.push(Piece::Copy { from, to }),
        }
    }
}

/// The path of a field of the record at `path`.
fn joined(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// The spot before field `number` of the record at the end of `trail`.
fn spot(trail: &[usize], number: usize) -> Spot {
    match trail.split_last() {
        Some((last, before)) if number == 0 => spot(before, *last),
        _ => Spot {
            trail: trail.to_vec(),
            field: number,
        },
    }
}
