//! Resolves a path in a schema.
//!
//! A step into a union enters every branch that can take it: `payment.amount` finds the amount of any kind of payment. So a path may have several
//! sources, of which a datum has at most one.

use super::names;
use super::path::{self, Part, PathError, PathProblem};
use super::schema::{NodeId, Schema, Shape};
use super::types;
use super::value::Type;
use super::want::Step;

/// A path with more sources than this is refused.
const MAX_SOURCES: usize = 256;

/// What a path selects.
#[derive(Debug, PartialEq)]
pub(crate) struct Selection {
    /// Where the value may be.
    pub sources: Vec<Source>,
    /// The type of the value, nullable where it may be absent.
    pub ty: Type,
}

/// One place where a value may be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Source {
    /// The steps to it from the outermost type.
    pub trail: Vec<Step>,
    /// Its type.
    pub node: NodeId,
}

/// Finds what `path` selects in the data of `schema`.
pub(crate) fn select(schema: &Schema, path: &str) -> Result<Selection, PathError> {
    let parts = path::parse(path)?;
    let fail = |problem| PathError {
        path: path.to_owned(),
        problem,
    };
    let mut sources = vec![Source {
        trail: Vec::new(),
        node: schema.root(),
    }];
    let mut absent = false;
    for (depth, part) in parts.iter().enumerate() {
        let mut found = Vec::new();
        for source in &sources {
            for (branch, candidate) in open(schema, source) {
                match step(schema, candidate, part) {
                    Some((step, node)) => {
                        let trail = source.trail.iter().cloned().chain(branch).chain([step]).collect();
                        found.push(Source { trail, node });
                    }
                    None => absent = true,
                }
            }
            absent |= matches!(part, Part::Index(_)) || leads_to_map(schema, source);
        }
        if found.is_empty() {
            return Err(fail(missing(schema, &sources, &parts[..depth], part)));
        }
        if found.len() > MAX_SOURCES {
            return Err(fail(PathProblem::TooLarge));
        }
        let items_without_bytes = |source: &Source| matches!(part, Part::Index(_)) && schema.facts(source.node).empty;
        if found.iter().any(items_without_bytes) {
            return Err(fail(PathProblem::EmptyItems {
                within: within(&parts[..depth]),
            }));
        }
        sources = found;
    }
    let ty = types::either(
        sources
            .iter()
            .map(|source| types::type_of(schema, source.node))
            .collect(),
    );
    Ok(Selection {
        sources,
        ty: if absent { ty.nullable() } else { ty },
    })
}

/// The types that a datum at `source` may have: its own, or the branches of its union with the step to each.
fn open(schema: &Schema, source: &Source) -> Vec<(Option<Step>, NodeId)> {
    match &schema.node(source.node).shape {
        Shape::Union(branches) => branches
            .iter()
            .enumerate()
            .map(|(number, branch)| (Some(Step::Branch(number)), *branch))
            .collect(),
        _ => vec![(None, source.node)],
    }
}

fn leads_to_map(schema: &Schema, source: &Source) -> bool {
    open(schema, source)
        .iter()
        .any(|(_, node)| matches!(schema.node(*node).shape, Shape::Map(_)))
}

/// The step that `part` means for a datum of `node`, and where it leads.
fn step(schema: &Schema, node: NodeId, part: &Part) -> Option<(Step, NodeId)> {
    match (&schema.node(node).shape, part) {
        (Shape::Record { fields, .. }, Part::Name(name) | Part::Key(name)) => {
            let number = fields.iter().position(|field| field.name == *name)?;
            Some((Step::Field(number), fields[number].node))
        }
        (Shape::Map(values), Part::Name(key) | Part::Key(key)) => Some((Step::Key(key.clone()), *values)),
        (Shape::Array(items), Part::Index(index)) => Some((Step::Item(*index), *items)),
        _ => None,
    }
}

/// What an error calls the part before the one that fails.
fn within(parts: &[Part]) -> String {
    if parts.is_empty() {
        "the event".to_owned()
    } else {
        format!("\"{}\"", path::text(parts))
    }
}

/// Why none of the sources has the part.
fn missing(schema: &Schema, sources: &[Source], before: &[Part], part: &Part) -> PathProblem {
    let candidates: Vec<NodeId> = sources
        .iter()
        .flat_map(|source| open(schema, source))
        .map(|(_, node)| node)
        .collect();
    let mut fields: Vec<String> = Vec::new();
    let mut records = 0;
    for candidate in candidates {
        if let Shape::Record { fields: own, .. } = &schema.node(candidate).shape {
            records += 1;
            let new = own
                .iter()
                .map(|field| &field.name)
                .filter(|name| !fields.contains(name));
            let new: Vec<String> = new.cloned().collect();
            fields.extend(new);
        }
    }
    let within = within(before);
    match part {
        Part::Name(name) | Part::Key(name) if records > 0 => {
            let nearest = names::nearest(name, fields.iter().map(String::as_str)).map(str::to_owned);
            PathProblem::NoField {
                name: name.clone(),
                within,
                fields,
                nearest,
            }
        }
        _ => {
            let wanted = match part {
                Part::Name(name) => format!("field \"{name}\""),
                Part::Index(index) => format!("item {index}"),
                Part::Key(key) => format!("key \"{key}\""),
            };
            let ty = types::either(
                sources
                    .iter()
                    .map(|source| types::type_of(schema, source.node))
                    .collect(),
            );
            PathProblem::NoPart {
                wanted,
                within,
                ty: ty.to_string(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::value::Unit;

    fn rich() -> Schema {
        Schema::parse(include_str!("../../tests/schemas/event.avsc")).unwrap()
    }

    #[test]
    fn types_are_nullable_where_something_may_be_absent() {
        let schema = rich();
        let ty = |path: &str| select(&schema, path).unwrap().ty;
        assert_eq!(ty("event_id"), Type::Uuid);
        assert_eq!(ty("user.id"), Type::String);
        assert_eq!(ty("campaign_id"), Type::Long.nullable());
        assert_eq!(ty("user.geo.country"), Type::String.nullable());
        assert_eq!(
            ty("items[0].unit_price"),
            Type::Decimal {
                precision: 12,
                scale: 2
            }
            .nullable()
        );
        assert_eq!(ty("user.first_seen"), Type::Timestamp(Unit::Millis).nullable());
        assert_eq!(ty("payment.last4"), Type::String.nullable());
        assert!(matches!(ty("props['x']"), Type::Nullable(t) if matches!(*t, Type::Union(_))));
        assert_eq!(ty("items[2].category.parent.parent.name"), Type::String.nullable());
    }

    #[test]
    fn a_step_into_a_union_takes_every_branch_that_has_it() {
        let record = |name: &str, ty: &str| {
            format!(r#"{{"type":"record","name":"{name}","fields":[{{"name":"x","type":"{ty}"}}]}}"#)
        };
        let union = format!("[{},{}]", record("A", "int"), record("B", "int"));
        let schema = Schema::parse(&union).unwrap();
        let selection = select(&schema, "x").unwrap();
        assert_eq!(
            (selection.sources.len(), selection.ty),
            (2, Type::Int),
            "every branch has it: never absent"
        );
        let union = format!("[{},{},\"string\"]", record("A", "int"), record("B", "long"));
        let schema = Schema::parse(&union).unwrap();
        assert_eq!(
            select(&schema, "x").unwrap().ty,
            Type::Union(vec![Type::Int, Type::Long]).nullable()
        );
    }

    #[test]
    fn errors_help() {
        let schema = rich();
        let error = |path: &str| select(&schema, path).unwrap_err().to_string();
        assert_eq!(
            error("user.geo.contry"),
            "path \"user.geo.contry\": no field \"contry\" in \"user.geo\" (did you mean \"country\"?); it has country, region, \
             city, lat, lon"
        );
        assert!(error("usr").contains("no field \"usr\" in the event (did you mean \"user\"?)"));
        assert_eq!(
            error("partner_id.x"),
            "path \"partner_id.x\": \"partner_id\" is string, which has no field \"x\""
        );
        assert_eq!(
            error("tags['x']"),
            "path \"tags['x']\": \"tags\" is array<string>, which has no key \"x\""
        );
        assert!(error("user[1]").contains("which has no item 1"));
    }

    #[test]
    fn items_without_bytes_cannot_be_pointed_at() {
        let schema = Schema::parse(r#"{"type":"array","items":"null"}"#).unwrap();
        assert!(select(&schema, "[0]").unwrap_err().to_string().contains("always null"));
    }
}
