//! Facts about the types of a schema: which are recursive, which have no bytes, which are large enough to be compiled once. Schemas that no datum can
//! satisfy, or that are nested dangerously deep, are refused here.

use super::graph;
use super::schema::{Facts, MAX_NESTING, Node, Shape};
use super::schema_error::SchemaProblem;

/// A record of at most this many types, itself included, is inlined at each of its uses.
const INLINE_WEIGHT: usize = 64;

/// The facts of every node, or why the schema is refused. Linear time.
pub(crate) fn of(nodes: &[Node]) -> Result<Vec<Facts>, SchemaProblem> {
    let edges: Vec<Vec<usize>> = nodes
        .iter()
        .map(|node| node.shape.children().into_iter().map(|id| id.0 as usize).collect())
        .collect();
    refuse_endless(nodes, &edges)?;
    let components = graph::components(&edges);
    let mut uses = vec![0usize; nodes.len()];
    edges.iter().flatten().for_each(|child| uses[*child] += 1);
    let mut facts = vec![Facts::default(); nodes.len()];
    let mut weight = vec![1usize; nodes.len()];
    let mut height = vec![0usize; nodes.len()];
    // Components of children come first, so the facts of a child outside this component are final.
    for (component, members) in components.nodes.iter().enumerate() {
        let cyclic = components.cyclic[component];
        for &node in members {
            let outside = |child: &&usize| components.of[**child] != component;
            let below = edges[node]
                .iter()
                .filter(outside)
                .map(|child| height[*child] + 1)
                .max()
                .unwrap_or(0);
            if below > MAX_NESTING {
                return Err(SchemaProblem::TooDeep);
            }
            height[node] = below;
            let record = matches!(nodes[node].shape, Shape::Record { .. });
            weight[node] = edges[node].iter().filter(outside).fold(1, |sum, child| {
                sum.saturating_add(if facts[*child].shared { 1 } else { weight[*child] })
            });
            facts[node].recursive = cyclic;
            facts[node].empty = match &nodes[node].shape {
                Shape::Null | Shape::Fixed { size: 0, .. } => true,
                Shape::Record { .. } => edges[node].iter().all(|child| facts[*child].empty),
                _ => false,
            };
            facts[node].shared = record && (cyclic || (uses[node] > 1 && weight[node] > INLINE_WEIGHT));
        }
        let top = members.iter().map(|node| height[*node]).max().unwrap_or(0);
        members.iter().for_each(|node| height[*node] = top);
    }
    Ok(facts)
}

/// Refuses a record whose fields lead back to it without a union, array or map in between: it has no finite datum.
fn refuse_endless(nodes: &[Node], edges: &[Vec<usize>]) -> Result<(), SchemaProblem> {
    let must: Vec<Vec<usize>> = nodes
        .iter()
        .zip(edges)
        .map(|(node, edges)| {
            if matches!(node.shape, Shape::Record { .. }) {
                edges.clone()
            } else {
                Vec::new()
            }
        })
        .collect();
    let components = graph::components(&must);
    let endless = components
        .nodes
        .iter()
        .zip(&components.cyclic)
        .find(|(_, cyclic)| **cyclic);
    match endless.and_then(|(members, _)| members.iter().find_map(|node| nodes[*node].shape.name())) {
        Some(name) => Err(SchemaProblem::Endless(name.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::avro::schema::Schema;

    #[test]
    fn what_has_no_bytes_is_known() {
        let empty = |json: &str| {
            let schema = Schema::parse(json).unwrap();
            schema.facts(schema.root()).empty
        };
        assert!(empty("\"null\""));
        assert!(empty(r#"{"type":"fixed","name":"F","size":0}"#));
        assert!(empty(
            r#"{"type":"record","name":"R","fields":[{"name":"a","type":"null"}]}"#
        ));
        assert!(!empty(r#"["null"]"#));
        assert!(!empty(r#"{"type":"array","items":"null"}"#));
    }

    #[test]
    fn recursion_is_known() {
        let schema = Schema::parse(include_str!("../../tests/schemas/event.avsc")).unwrap();
        let recursive: Vec<&str> = (schema.nodes.iter().zip(&schema.facts))
            .filter(|(_, facts)| facts.recursive)
            .filter_map(|(node, _)| node.shape.name())
            .collect();
        assert_eq!(recursive, ["com.acme.events.Category"]);
        assert!(!schema.facts(schema.root()).recursive);
    }
}
