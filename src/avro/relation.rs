//! Compares a writer's type with an output's type: are the bytes identical, and does a conversion exist?
//!
//! Types may be recursive, so both are questions about a graph. A pair that is asked about while it is being examined is assumed to hold; if it turns
//! out not to, everything concluded from it is discarded.

use std::collections::HashMap;

use super::resolve::{Given, same_name};
use super::schema::{Logical, Node, NodeId, Schema, Shape};

/// Levels of types that are compared. For deeper types the answer is no.
const MAX_LEVELS: usize = 512;

impl Schema {
    /// Whether data of another schema can be converted to this one, though perhaps not every datum.
    pub fn reads(&self, writer: &Schema) -> bool {
        Relation::new(writer, self).resolves(writer.root(), self.root())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Question {
    SameBytes,
    Resolves,
}

type Pair = (Question, NodeId, NodeId);

/// What is known about pairs of types of two schemas.
pub(crate) struct Relation<'s> {
    writer: &'s Schema,
    output: &'s Schema,
    known: HashMap<Pair, bool>,
    /// Pairs in the order in which they were examined, so that conclusions from a wrong assumption can be discarded.
    order: Vec<Pair>,
    level: usize,
}

impl<'s> Relation<'s> {
    pub fn new(writer: &'s Schema, output: &'s Schema) -> Relation<'s> {
        Relation {
            writer,
            output,
            known: HashMap::new(),
            order: Vec::new(),
            level: 0,
        }
    }

    /// Whether every datum of `from` resolves to a datum of `to` with exactly the same bytes.
    pub fn same_bytes(&mut self, from: NodeId, to: NodeId) -> bool {
        self.ask(Question::SameBytes, from, to)
    }

    /// Whether data of `from` can be converted to data of `to`, though perhaps not every datum.
    pub fn resolves(&mut self, from: NodeId, to: NodeId) -> bool {
        self.ask(Question::Resolves, from, to)
    }

    fn ask(&mut self, question: Question, from: NodeId, to: NodeId) -> bool {
        let pair = (question, from, to);
        if let Some(known) = self.known.get(&pair) {
            return *known;
        }
        if self.level > MAX_LEVELS {
            return false;
        }
        let begun = self.order.len();
        self.order.push(pair);
        self.known.insert(pair, true);
        self.level += 1;
        let holds = match question {
            Question::SameBytes => self.look_same(from, to),
            Question::Resolves => self.look_resolves(from, to),
        };
        self.level -= 1;
        if !holds {
            let forget: Vec<Pair> = self.order.drain(begun..).collect();
            for pair in forget {
                if self.known.get(&pair) == Some(&true) {
                    self.known.remove(&pair);
                }
            }
            self.known.insert(pair, false);
        }
        holds
    }

    fn look_same(&mut self, from: NodeId, to: NodeId) -> bool {
        let (writer, output) = (self.writer, self.output);
        let (a, b) = (writer.node(from), output.node(to));
        match (&a.shape, &b.shape) {
            (Shape::Record { fields: from, .. }, Shape::Record { fields: to, .. }) => {
                let mut given = Given::new(from);
                from.len() == to.len()
                    && to.iter().enumerate().all(|(number, field)| {
                        given.source_of(number, field) == Some(number) && self.same_bytes(from[number].node, field.node)
                    })
            }
            (Shape::Union(from), Shape::Union(to)) => {
                from.len() <= to.len()
                    && from.iter().enumerate().all(|(number, branch)| {
                        // Names are unique in a union, so a named branch at the same position needs no search.
                        let named = writer
                            .node(*branch)
                            .shape
                            .name()
                            .is_some_and(|name| output.node(to[number]).shape.name() == Some(name));
                        self.same_bytes(*branch, to[number])
                            && (named || self.choose(from, *branch, to) == Some(number))
                    })
            }
            (Shape::Array(from), Shape::Array(to)) | (Shape::Map(from), Shape::Map(to)) => self.same_bytes(*from, *to),
            (Shape::Enum { symbols: from, .. }, Shape::Enum { symbols: to, .. }) => to.starts_with(from),
            _ => same_scalar(a, b),
        }
    }

    fn look_resolves(&mut self, from: NodeId, to: NodeId) -> bool {
        let (writer, output) = (self.writer, self.output);
        let (a, b) = (writer.node(from), output.node(to));
        match (&a.shape, &b.shape) {
            (Shape::Union(branches), Shape::Union(to)) => branches
                .iter()
                .any(|branch| self.choose(branches, *branch, to).is_some()),
            (Shape::Union(branches), _) => branches.iter().any(|branch| self.takes(branches, *branch, to)),
            (_, Shape::Union(branches)) => self.choose(&[], from, branches).is_some(),
            (Shape::Record { fields: from, .. }, Shape::Record { fields: to, .. }) => {
                let mut given = Given::new(from);
                to.iter()
                    .enumerate()
                    .all(|(number, field)| match given.source_of(number, field) {
                        Some(number) => self.resolves(from[number].node, field.node),
                        None => field.default.is_some(),
                    })
            }
            (Shape::Array(from), Shape::Array(to)) | (Shape::Map(from), Shape::Map(to)) => self.resolves(*from, *to),
            (Shape::Enum { .. }, Shape::Enum { .. }) => true,
            _ => same_scalar(a, b) || converts(a, b),
        }
    }

    /// Whether data of `from`, a branch of a writer's union, can be converted to data of `to`, which is not a union.
    pub fn takes(&mut self, siblings: &[NodeId], from: NodeId, to: NodeId) -> bool {
        self.akin((siblings, from), (&[], to)) && self.resolves(from, to)
    }

    /// Whether the names permit converting `from` to `to`. Either may be a branch of a union. If such a union has several
    /// types of the kind, only the name tells which of them is meant, so the names must match.
    fn akin(&self, (siblings, from): (&[NodeId], NodeId), (branches, to): (&[NodeId], NodeId)) -> bool {
        let (writer, output) = (self.writer, self.output);
        let (a, b) = (&writer.node(from).shape, &output.node(to).shape);
        let several = |schema: &Schema, branches: &[NodeId]| {
            let mut alike = branches.iter().filter(|id| schema.node(**id).shape.kind() == a.kind());
            alike.nth(1).is_some()
        };
        a.name().is_none()
            || b.name().is_none()
            || same_name(a, b)
            || !(several(writer, siblings) || several(output, branches))
    }

    /// The branch of an output's union that takes data of `from`. `from` is not a union itself, but may be one of the
    /// writer's branches `siblings`.
    pub fn choose(&mut self, siblings: &[NodeId], from: NodeId, branches: &[NodeId]) -> Option<usize> {
        let (writer, output) = (self.writer, self.output);
        let node = writer.node(from);
        let exact = |branch: &NodeId| {
            let to = output.node(*branch);
            match (node.shape.name(), to.shape.name()) {
                (Some(from), Some(to)) => from == to,
                (None, None) => node.shape.kind() == to.shape.kind() && node.logical == to.logical,
                _ => false,
            }
        };
        let near = |branch: &NodeId| {
            let to = &output.node(*branch).shape;
            same_name(&node.shape, to) || (node.shape.name().is_none() && node.shape.kind() == to.kind())
        };
        let all = || 0..branches.len();
        let exact = all().filter(|number| exact(&branches[*number]));
        let near = all().filter(|number| near(&branches[*number]));
        exact.chain(near).chain(all()).find(|number| {
            let to = branches[*number];
            self.akin((siblings, from), (branches, to)) && self.resolves(from, to)
        })
    }
}

/// Whether the bytes of one scalar type mean the same in another.
fn same_scalar(from: &Node, to: &Node) -> bool {
    let shapes = match (&from.shape, &to.shape) {
        (Shape::Int, Shape::Int | Shape::Long) | (Shape::Long, Shape::Long) => true,
        (Shape::String, Shape::String | Shape::Bytes) | (Shape::Bytes, Shape::Bytes) => true,
        (Shape::Fixed { size: from, .. }, Shape::Fixed { size: to, .. }) => from == to,
        (Shape::Null | Shape::Boolean | Shape::Float | Shape::Double, to) => *to == from.shape,
        _ => false,
    };
    let meaning = match (from.logical, to.logical) {
        (_, None) => true,
        // A string must be checked to be a UUID. Other logical types hold for any number or bytes.
        (None, Some(Logical::Uuid)) => matches!(from.shape, Shape::Fixed { .. }),
        // The digits in a string are not the two's complement of a number.
        (None, Some(Logical::Decimal { .. })) => from.shape != Shape::String,
        (None, Some(_)) => true,
        (
            Some(Logical::Decimal {
                precision: p1,
                scale: s1,
            }),
            Some(Logical::Decimal {
                precision: p2,
                scale: s2,
            }),
        ) => s1 == s2 && p1 <= p2,
        (Some(from), Some(to)) => from == to,
    };
    shapes && meaning
}

/// Whether values of one scalar type can be written as another, though perhaps not all of them.
fn converts(from: &Node, to: &Node) -> bool {
    use Shape::{Bytes, Double, Enum, Fixed, Float, Int, Long, String};
    match (from.logical, to.logical) {
        (None, None) => matches!(
            (&from.shape, &to.shape),
            (Int | Long | Float, Float | Double) | (Double, Double) | (Bytes, String) | (Enum { .. }, String)
        ),
        (Some(from), Some(to)) => matches!(
            (from, to),
            (Logical::Time(_), Logical::Time(_))
                | (Logical::Timestamp(_), Logical::Timestamp(_))
                | (Logical::LocalTimestamp(_), Logical::LocalTimestamp(_))
                | (Logical::Decimal { .. }, Logical::Decimal { .. })
                | (Logical::Uuid, Logical::Uuid)
        ),
        (None, Some(Logical::Uuid)) => matches!((&from.shape, &to.shape), (String, String | Fixed { .. })),
        (Some(Logical::Uuid), None) => matches!((&from.shape, &to.shape), (Fixed { .. }, String)),
        _ => false,
    }
}
