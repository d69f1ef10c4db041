//! The first stage: parses every expression of a pipeline, from the configuration alone.

use super::super::expression::{Expression, ExpressionError, has_keyword_behind_dot, parse as parse_expression};
use super::super::finding::Finding;
use crate::config::{Binding, Pipeline, Span, Spanned, StepKind, codes};
use crate::store::cql::TTL_MARKER;

/// A step with its expressions parsed.
#[derive(Debug)]
pub(super) struct ParsedStep {
    pub(super) when: Option<(Expression, Span)>,
    /// The name, the expression, and the expression's place.
    pub(super) binds: Vec<(Spanned<String>, Expression, Span)>,
}

/// A pipeline whose expressions are parsed, but with nothing prepared.
#[derive(Debug)]
pub struct Parsed<'c> {
    pub(super) config: &'c Pipeline,
    pub(super) steps: Vec<ParsedStep>,
    pub(super) outputs: Vec<(Spanned<String>, Expression, Span)>,
    pub(super) key: Option<(Expression, Span)>,
}

/// Parses every expression of a pipeline; reports all errors at once.
pub fn parse(config: &Pipeline) -> Result<Parsed<'_>, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut known: Vec<&str> = Vec::new();
    let mut steps = Vec::new();
    for step in &config.steps {
        let when = step.when.as_ref().and_then(|e| expression(e, &known, &mut findings));
        let bindings: Vec<&Binding> = match &step.kind {
            StepKind::Lookup(l) => l.bind.iter().collect(),
            StepKind::Write(w) => w.bind.iter().collect(),
            StepKind::Set(values) => values.iter().collect(),
            StepKind::Custom(custom) => custom.bind.iter().collect(),
            StepKind::Filter(_) | StepKind::Reference(_) => Vec::new(),
        };
        let life = match &step.kind {
            StepKind::Write(write) => write.ttl_seconds.as_ref(),
            StepKind::Lookup(_)
            | StepKind::Filter(_)
            | StepKind::Set(_)
            | StepKind::Reference(_)
            | StepKind::Custom(_) => None,
        };
        let mut binds: Vec<_> = bindings
            .into_iter()
            .filter_map(|b| expression(&b.expression, &known, &mut findings).map(|(e, span)| (b.name.clone(), e, span)))
            .collect();
        if let Some(life) = life
            && let Some((e, span)) = expression(life, &known, &mut findings)
        {
            binds.push((Spanned::new(TTL_MARKER.to_owned(), span), e, span));
        }
        let alone = match &step.kind {
            StepKind::Filter(filter) => Some(&filter.expression),
            StepKind::Reference(reference) => Some(&reference.key),
            StepKind::Lookup(_) | StepKind::Write(_) | StepKind::Set(_) | StepKind::Custom(_) => None,
        };
        if let Some(alone) = alone
            && let Some((e, span)) = expression(alone, &known, &mut findings)
        {
            binds.push((Spanned::new(String::new(), span), e, span));
        }
        steps.push(ParsedStep { when, binds });
        known.push(&step.name);
    }
    let mut outputs = Vec::new();
    let mut key = None;
    if let Some(sink) = &config.sink {
        for b in &sink.set {
            if let Some((e, span)) = expression(&b.expression, &known, &mut findings) {
                outputs.push((b.name.clone(), e, span));
            }
        }
        key = sink.key.as_ref().and_then(|e| expression(e, &known, &mut findings));
    }
    if findings.is_empty() {
        Ok(Parsed {
            config,
            steps,
            outputs,
            key,
        })
    } else {
        Err(findings)
    }
}

fn expression(text: &Spanned<String>, steps: &[&str], findings: &mut Vec<Finding>) -> Option<(Expression, Span)> {
    match parse_expression(text, steps) {
        Ok(expression) => Some((expression, text.span)),
        Err(error) => {
            let help = match &error {
                ExpressionError::Syntax(_) if has_keyword_behind_dot(text) => {
                    "in, true, false and null are words of CEL: in a path, write them in brackets, event['in']"
                }
                ExpressionError::Syntax(_) => {
                    "write a path such as event.user.id, a literal such as 'x', or a CEL expression"
                }
                ExpressionError::UnknownName { .. } => {
                    "fields of the event start with event., those of the record with record., columns with the name of an earlier step; text is in quotes of its own, as in \"'x'\""
                }
                ExpressionError::UnknownRecordField(_) => "Avro fields are below event., not record.",
                ExpressionError::UnknownFunction(name) if name == "now" => {
                    "now() must stand alone: give it a name in an earlier `set` step, and calculate with that"
                }
                ExpressionError::UnknownFunction(_) => {
                    "CEL here has size, type, string, int, uint, double, bool, bytes, contains, startsWith, endsWith, has, all, exists, exists_one, map and filter"
                }
                ExpressionError::WholeStep(_) => "name a column of the step's statement",
            };
            findings.push(
                Finding::new(text.span, error.to_string())
                    .code(codes::EXPRESSION)
                    .help(help),
            );
            None
        }
    }
}
