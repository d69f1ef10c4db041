//! Checks references: steps name an existing one, a server is configured, and the fields are valid.

use super::super::suggest::{list, nearest};
use super::super::{Config, StepKind, codes};
use super::Report;
use crate::config::Diagnostic;

pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    if config.mongo.is_none()
        && let Some(reference) = config.references.values().next()
    {
        let message = format!("reference `{}` needs a server, and there is none", reference.name.value);
        let help = "add a section [mongo] with uri = { env = \"MONGO_URI\" }";
        report.error(codes::NO_STORE, message, reference.name.span, "read from MongoDB", help);
    }
    for reference in config.references.values() {
        for (index, field) in reference.fields.iter().enumerate() {
            let Some(other) = reference.fields[..index]
                .iter()
                .find(|other| *other.name == *field.name)
            else {
                continue;
            };
            let finding = Diagnostic::error(codes::CONFLICT, format!("`{}` is named twice", field.name.value));
            report.findings.push(
                finding
                    .at(report.sources, field.name.span, "again here")
                    .with(report.sources, other.name.span, "first here")
                    .help("remove one of them"),
            );
        }
    }
    let names: Vec<&str> = config.references.keys().map(String::as_str).collect();
    for step in config.pipelines.values().flat_map(|pipeline| &pipeline.steps) {
        let StepKind::Reference(wanted) = &step.kind else {
            continue;
        };
        if names.contains(&wanted.reference.as_str()) {
            continue;
        }
        let name = wanted.reference.as_str();
        let label = nearest(name, names.iter().copied());
        let label = label.map_or("not declared".to_owned(), |near| format!("did you mean `{near}`?"));
        let help = match names[..] {
            [] => format!("add a section [references.{name}] with `collection` and `fields`"),
            _ => format!("there are {}", list(&names)),
        };
        let message = format!("there is no reference `{name}`");
        report.error(codes::UNKNOWN_REFERENCE, message, wanted.reference.span, label, help);
    }
}
