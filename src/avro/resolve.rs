//! Avro's schema resolution: how data of a writer's type become data of an output's type, decided once per pair of types.
//!
//! The rules are those of the specification ("Schema Resolution"): fields by name and alias, defaults for what the writer lacks, unions by the
//! matching branch, numbers to wider numbers, string to bytes and back, enum symbols by name. In addition, logical types are converted: a timestamp
//! changes its unit, a decimal its scale, and a lossy conversion is an error of that record instead of a wrong value. Names of types need not agree,
//! because an output has its own schema, except where a union has several records, enums or fixed types.

use std::collections::HashMap;

use super::default;
use super::encode_error::EncodeError;
use super::names;
use super::relation::Relation;
use super::schema::{Field, NodeId, Schema, Shape};

/// A conversion's number in its [`Resolution`].
pub(crate) type ConversionId = usize;

/// What to do with the data of one type.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Conversion {
    /// Copy the bytes unchanged.
    Copy,
    /// Decode the value and encode it.
    Value,
    /// For each of the writer's symbols: its index in the output, or that of the output's default symbol, if any.
    Symbols(Vec<Option<usize>>),
    /// For each of the writer's branches: the conversion of its datum, if the output has a place for it.
    Branches(Vec<Option<ConversionId>>),
    /// Write the index of a branch before the datum.
    Wrap {
        /// The index.
        branch: usize,
        /// The conversion of the datum.
        inner: ConversionId,
    },
    /// The conversion of an array's items.
    Items(ConversionId),
    /// The conversion of a map's values.
    Entries(ConversionId),
    /// Where each of the output's fields comes from.
    Fields(Vec<Source>),
    /// No datum can be converted.
    Impossible,
}

/// Where a field of an output comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// A field of the input.
    Input {
        /// Its number.
        field: usize,
        /// What to do with it.
        conversion: ConversionId,
    },
    /// A default, encoded.
    Default(Vec<u8>),
}

/// A conversion, and the two types that it connects.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub writer: NodeId,
    pub output: NodeId,
    pub conversion: Conversion,
}

/// The conversions between two schemas that an output needs.
#[derive(Debug, Default)]
pub(crate) struct Resolution {
    pub steps: Vec<Step>,
}

/// Decides conversions between two schemas.
pub(crate) struct Resolver<'s> {
    pub writer: &'s Schema,
    pub output: &'s Schema,
    pub relation: Relation<'s>,
    pub resolution: Resolution,
    known: HashMap<(NodeId, NodeId), ConversionId>,
    /// Depth of the conversions that are being decided, one within the other.
    level: usize,
}

/// Nesting limit: deeper types count as impossible to convert. Data never nest as deeply.
const MAX_LEVELS: usize = 256;

impl<'s> Resolver<'s> {
    pub fn new(writer: &'s Schema, output: &'s Schema) -> Resolver<'s> {
        let relation = Relation::new(writer, output);
        Resolver {
            writer,
            output,
            relation,
            resolution: Resolution::default(),
            known: HashMap::new(),
            level: 0,
        }
    }

    /// The conversion of data of `from` to data of `to`.
    ///
    /// # Errors
    /// A default that is not of its field's type.
    pub fn convert(&mut self, from: NodeId, to: NodeId) -> Result<ConversionId, EncodeError> {
        if let Some(id) = self.known.get(&(from, to)) {
            return Ok(*id);
        }
        let id = self.resolution.steps.len();
        self.known.insert((from, to), id);
        self.resolution.steps.push(Step {
            writer: from,
            output: to,
            conversion: Conversion::Impossible,
        });
        if self.level < MAX_LEVELS {
            self.level += 1;
            let decided = self.decide(from, to);
            self.level -= 1;
            self.resolution.steps[id].conversion = decided?;
        }
        Ok(id)
    }

    fn decide(&mut self, from: NodeId, to: NodeId) -> Result<Conversion, EncodeError> {
        if self.relation.same_bytes(from, to) {
            return Ok(Conversion::Copy);
        }
        if !self.relation.resolves(from, to) {
            return Ok(Conversion::Impossible);
        }
        let (writer, output) = (self.writer, self.output);
        Ok(match (&writer.node(from).shape, &output.node(to).shape) {
            (Shape::Union(branches), _) => {
                let mut conversions = Vec::with_capacity(branches.len());
                for branch in branches {
                    conversions.push(self.branch(branches, *branch, to)?);
                }
                Conversion::Branches(conversions)
            }
            (_, Shape::Union(branches)) => match self.relation.choose(&[], from, branches) {
                Some(branch) => Conversion::Wrap {
                    branch,
                    inner: self.convert(from, branches[branch])?,
                },
                None => Conversion::Impossible,
            },
            (Shape::Record { fields: from, .. }, Shape::Record { fields: to, .. }) => {
                Conversion::Fields(self.fields(from, to)?)
            }
            (Shape::Array(from), Shape::Array(to)) => Conversion::Items(self.convert(*from, *to)?),
            (Shape::Map(from), Shape::Map(to)) => Conversion::Entries(self.convert(*from, *to)?),
            (
                Shape::Enum { symbols: from, .. },
                Shape::Enum {
                    symbols: to, default, ..
                },
            ) => {
                let place = |symbol| to.iter().position(|known| known == symbol).or(*default);
                Conversion::Symbols(from.iter().map(place).collect())
            }
            _ => Conversion::Value,
        })
    }

    /// The conversion of data of `from`, one of the branches `siblings` of a writer's union, if `to` has a place for them. The
    /// branch to wrap it in depends on the siblings, so the result cannot be cached by the two types alone.
    fn branch(&mut self, siblings: &[NodeId], from: NodeId, to: NodeId) -> Result<Option<ConversionId>, EncodeError> {
        let output = self.output;
        let Shape::Union(branches) = &output.node(to).shape else {
            let takes = self.relation.takes(siblings, from, to);
            return takes.then(|| self.convert(from, to)).transpose();
        };
        let Some(branch) = self.relation.choose(siblings, from, branches) else {
            return Ok(None);
        };
        let inner = self.convert(from, branches[branch])?;
        let id = self.resolution.steps.len();
        self.resolution.steps.push(Step {
            writer: from,
            output: to,
            conversion: Conversion::Wrap { branch, inner },
        });
        Ok(Some(id))
    }

    fn fields(&mut self, from: &[Field], to: &[Field]) -> Result<Vec<Source>, EncodeError> {
        let mut sources = Vec::with_capacity(to.len());
        let mut given = Given::new(from);
        for (number, field) in to.iter().enumerate() {
            let source = match (given.source_of(number, field), &field.default) {
                (Some(number), _) => {
                    let conversion = self.convert(from[number].node, field.node);
                    let conversion = conversion.map_err(|error| error.within(&format!(".{}", field.name)))?;
                    Source::Input {
                        field: number,
                        conversion,
                    }
                }
                (None, Some(json)) => {
                    let mut bytes = Vec::new();
                    default::encode(self.output, field.node, json, &mut bytes)
                        .map_err(|error| error.within(&format!(".{}", field.name)))?;
                    Source::Default(bytes)
                }
                // `resolves` has already checked that every field has a source.
                (None, None) => Source::Default(Vec::new()),
            };
            sources.push(source);
        }
        Ok(sources)
    }
}

/// The fields of a writer's record, for look-ups by the fields of an output's record.
pub(crate) struct Given<'a> {
    fields: &'a [Field],
    /// Field numbers by name. Built at the first field that is not at the same position in both records, because a record may
    /// have very many fields.
    numbers: Option<HashMap<&'a str, usize>>,
    /// Field numbers by alias. Built at the first look-up by alias.
    aliases: Option<HashMap<&'a str, usize>>,
}

impl<'a> Given<'a> {
    pub fn new(fields: &'a [Field]) -> Given<'a> {
        Given {
            fields,
            numbers: None,
            aliases: None,
        }
    }

    /// The number of the writer's field that field `number` of the output takes, by its name or by one of its aliases.
    pub fn source_of(&mut self, number: usize, field: &Field) -> Option<usize> {
        // Names are unique. If fields are only appended, every field is found here.
        if self.fields.get(number).is_some_and(|same| same.name == field.name) {
            return Some(number);
        }
        let fields = self.fields;
        let numbers = self.numbers.get_or_insert_with(|| {
            let named = fields.iter().enumerate();
            named.map(|(number, field)| (field.name.as_str(), number)).collect()
        });
        let mut names = std::iter::once(&field.name).chain(&field.aliases);
        names.find_map(|name| numbers.get(name.as_str()).copied())
    }

    /// The number of the writer's field that has `name` as an alias, because the field had that name before. Resolution itself looks
    /// only at the output's aliases.
    pub fn renamed(&mut self, name: &str) -> Option<usize> {
        let fields = self.fields;
        let aliases = self.aliases.get_or_insert_with(|| {
            let numbered = fields.iter().enumerate();
            let named = numbered.flat_map(|(number, field)| field.aliases.iter().map(move |alias| (alias, number)));
            named.map(|(alias, number)| (alias.as_str(), number)).collect()
        });
        aliases.get(name).copied()
    }
}

/// Whether two named types match by name: equal, by an alias, or equal except for the namespace.
pub(crate) fn same_name(from: &Shape, to: &Shape) -> bool {
    match (from.name(), to.name()) {
        (Some(from), Some(name)) => {
            from == name
                || to.aliases().iter().any(|alias| alias == from)
                || names::short_name(from) == names::short_name(name)
        }
        _ => false,
    }
}
