//! The warning about a schema version that lacks a field which has() tests: the version may use another name, or the path may be misspelt.

use crate::avro::value::Type;
use crate::avro::{PathProblem, Plan};
use crate::pipeline::finding::Finding;
use crate::pipeline::program::{Program, event_path};

/// The warnings about optional fields that the version of this plan does not have; `version` is its name in them.
pub fn lacking(program: &Program, plan: &Plan, version: &str) -> Vec<Finding> {
    let told = program.optional.iter().filter_map(|slot| {
        if plan.slot_type(*slot) != Type::Null {
            return None;
        }
        let (path, span) = program.paths.get(*slot)?;
        // A field of type null exists.
        let error = Plan::compile(plan.writer().clone(), &[path.as_str()]).err()?;
        let help = match error.problem {
            PathProblem::NoField {
                nearest: Some(near), ..
            } => format!("did you mean \"{near}\"?"),
            _ => "see the fields of the input schema in the registry".to_owned(),
        };
        let path = event_path(path);
        let message = format!("{version} has no {path}: has() of it is false for each of its records");
        Some(Finding::new(*span, message).help(help))
    });
    told.collect()
}
