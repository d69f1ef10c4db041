//! Checks the names of pipelines and steps, and which values a step may use.

use super::super::suggest::nearest;
use super::super::values::is_identifier;
use super::super::{Binding, Pipeline, Reference, Spanned, Step, StepKind, codes};
use super::Report;
use super::expression::heads;
use crate::config::Diagnostic;
use std::collections::BTreeMap;

/// Names that every expression can use. A step with such a name would hide it.
const RESERVED: [&str; 3] = ["event", "record", "now"];

/// Words reserved by CEL.
const CEL_WORDS: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

pub(super) fn check(pipeline: &Pipeline, references: &BTreeMap<String, Reference>, report: &mut Report<'_>) {
    for (index, step) in pipeline.steps.iter().enumerate() {
        step_name(step, report);
        let (before, from_here) = pipeline.steps.split_at(index);
        if let Some(other) = before.iter().find(|other| *other.name == *step.name) {
            let message = format!("two steps of `{}` are named `{}`", pipeline.name.value, step.name.value);
            report.findings.push(
                Diagnostic::error(codes::DUPLICATE_STEP, message)
                    .at(report.sources, step.name.span, "the name is taken")
                    .with(report.sources, other.name.span, "by this step")
                    .help("give one of them another name: later expressions use it, and metrics carry it"),
            );
        }
        for expression in expressions(step) {
            uses(expression, before, from_here, references, report);
        }
    }
    if let Some(sink) = &pipeline.sink {
        let set = sink.set.iter().map(|binding| &binding.expression);
        for expression in sink.key.iter().chain(set) {
            uses(expression, &pipeline.steps, &[], references, report);
        }
    }
}

/// Whether a step can have this name: expressions must be able to use it.
pub fn is_step_name(name: &str) -> bool {
    is_identifier(name) && !is_reserved(name)
}

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || CEL_WORDS.contains(&name)
}

fn step_name(step: &Step, report: &mut Report<'_>) {
    let name = step.name.as_str();
    let (label, help) = if is_reserved(name) {
        (
            "reserved",
            "expressions have a meaning for this word already: choose another",
        )
    } else if !is_identifier(name) {
        (
            "letters, digits and `_` only, not a digit first",
            "expressions use the name as in `profile.score`",
        )
    } else {
        return;
    };
    report.error(
        codes::BAD_NAME,
        format!("a step cannot be named `{name}`"),
        step.name.span,
        label,
        help,
    );
}

/// The expressions of a step, in the order written.
pub(super) fn expressions(step: &Step) -> Vec<&Spanned<String>> {
    fn values(bindings: &[Binding]) -> Vec<&Spanned<String>> {
        bindings.iter().map(|binding| &binding.expression).collect()
    }
    let mut expressions: Vec<_> = step.when.iter().collect();
    expressions.extend(match &step.kind {
        StepKind::Lookup(lookup) => values(&lookup.bind),
        StepKind::Write(write) => {
            let mut all = values(&write.bind);
            all.extend(&write.ttl_seconds);
            all
        }
        StepKind::Filter(filter) => vec![&filter.expression],
        StepKind::Set(set) => values(set),
        StepKind::Reference(reference) => vec![&reference.key],
        StepKind::Custom(custom) => values(&custom.bind),
    });
    expressions
}

/// Checks the names in an expression, which can use the values of the steps in `before`. `from_here` is the expression's own step
/// and the ones after it.
fn uses(
    expression: &Spanned<String>,
    before: &[Step],
    from_here: &[Step],
    references: &BTreeMap<String, Reference>,
    report: &mut Report<'_>,
) {
    for head in heads(expression) {
        if RESERVED.contains(&head.name) {
            continue;
        }
        let name = head.name;
        let span = report.sources.part(expression, head.range);
        if let Some(step) = before.iter().find(|step| *step.name == name) {
            let Some((label, help)) = lacks(step, head.member.as_ref().map(|(member, _)| *member), references) else {
                continue;
            };
            let span = head
                .member
                .map_or(span, |(_, range)| report.sources.part(expression, range));
            report.error(
                codes::STEP_WITHOUT_VALUES,
                format!("step `{name}` does not give this value"),
                span,
                label,
                help,
            );
        } else if let Some(step) = from_here.iter().find(|step| *step.name == name) {
            let finding = Diagnostic::error(codes::LATER_STEP, format!("step `{name}` has not run here"));
            report.findings.push(
                finding
                    .at(report.sources, span, "used here")
                    .with(report.sources, step.name.span, "runs here")
                    .help(format!("move step `{name}` before the step that uses it")),
            );
        } else {
            let gives = |step: &&Step| !matches!(step.kind, StepKind::Write(_) | StepKind::Filter(_));
            let mut known: Vec<&str> = before.iter().filter(gives).map(|step| step.name.as_str()).collect();
            known.extend(["event", "record"]);
            let label = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if head.member.is_none() => format!("did you mean `event.{name}`?"),
                None => "no such name here".to_owned(),
            };
            let message = format!("unknown name `{name}` in an expression");
            let mut help = format!("an expression begins with {}", super::super::suggest::list(&known));
            if head.member.is_none() {
                help.push_str(&format!("; text is in quotes of its own: \"'{name}'\""));
            }
            report.error(codes::UNKNOWN_NAME, message, span, label, help);
        }
    }
}

/// Why `step` does not provide `member`, and a remedy. `None` if it does provide it, or if only the database knows.
fn lacks(step: &Step, member: Option<&str>, references: &BTreeMap<String, Reference>) -> Option<(String, String)> {
    let kind = match &step.kind {
        // Only the database, or the custom step's code, knows what these provide.
        StepKind::Lookup(_) | StepKind::Custom(_) => return None,
        StepKind::Reference(wanted) => {
            let fields = &references.get(wanted.reference.as_str())?.fields;
            let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
            let member = member?;
            if names.contains(&member) {
                return None;
            }
            let label = nearest(member, names.iter().copied());
            let label = label.map_or("not kept".to_owned(), |near| format!("did you mean `{near}`?"));
            let name = wanted.reference.as_str();
            let help = format!("[references.{name}] keeps {}", super::super::suggest::list(&names));
            return Some((label, help));
        }
        StepKind::Set(set) => {
            let names: Vec<&str> = set.iter().map(|binding| binding.name.as_str()).collect();
            let member = member?;
            if names.contains(&member) {
                return None;
            }
            let label = nearest(member, names.iter().copied());
            let label = label.map_or("not set".to_owned(), |near| format!("did you mean `{near}`?"));
            return Some((label, format!("the step sets {}", super::super::suggest::list(&names))));
        }
        StepKind::Write(_) => "a write",
        StepKind::Filter(_) => "a filter",
    };
    Some((
        format!("{kind} gives no values"),
        "only `lookup`, `reference`, `set` and `custom` steps give values to later ones".to_owned(),
    ))
}
