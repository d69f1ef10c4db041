//! A pipeline as it will run: expressions parsed, statements prepared, every value's place decided.
//!
//! Made in two stages, because they need different things: [`parse`] needs only the configuration and serves `check`
//! offline; [`Parsed::prepare`] needs the store, whose answer to a statement gives the types of markers and columns.
//! What depends on the schema of a record is the [plan](super::plan)'s.
//!
//! Invariant: a source names a value that exists when it is asked for: steps only see the steps before them.

use std::sync::Arc;

use super::expression::{
    Computed, Expression, ExpressionError, Interpreter, RecordField, Reference, parse as parse_expression,
};
use super::failure::Failure;
use super::finding::Finding;
use super::prepare::PrepareError;
use crate::avro::value::{Type, Unit, Value};
use crate::config::{Binding, OnMissing, Pipeline, Span, Spanned, Step as StepConfig, StepKind};
use crate::retry::Class;
use crate::store::cache::{Cache, CacheOptions};
use crate::store::types::{bindable, result_type};
use crate::store::{AnyStore, Kind, Statement, StatementOptions, Store};

/// Where a value comes from, at run time.
#[derive(Debug, Clone)]
pub enum Source {
    /// A field of the event, by its slot in the plan.
    Event(usize),
    /// A property of the record.
    Record(RecordField),
    /// A column of a look-up's row.
    Column {
        /// Index of the step.
        step: usize,
        /// Index of the column.
        column: usize,
    },
    /// A value of a `set` step.
    Named(usize),
    /// Always the same.
    Constant(Value<'static>),
    /// The wall clock.
    Now,
    /// CEL over other sources.
    Computed(Box<ComputedSource>),
}

/// A general expression with its inputs resolved.
#[derive(Debug, Clone)]
pub struct ComputedSource {
    /// The expression.
    pub expression: Computed,
    /// Where its inputs come from, in its order.
    pub inputs: Vec<Source>,
}

/// A step, ready to run.
#[derive(Debug)]
pub struct Step {
    /// Its name.
    pub name: Arc<str>,
    /// Runs only where this is true.
    pub when: Option<Place>,
    /// What it does.
    pub action: Action,
}

/// What a step does.
#[derive(Debug)]
pub enum Action {
    /// One row by CQL.
    Lookup(Box<Lookup>),
    /// One row written by CQL.
    Write(Box<Write>),
    /// Goes on only where true.
    Filter(Place),
    /// Names values, from this index of [`super::event::Event::named`] on.
    Set {
        /// Index of the first.
        first: usize,
        /// Name and value of each.
        values: Vec<(String, Place)>,
    },
}

/// A look-up, ready to run.
#[derive(Debug)]
pub struct Lookup {
    /// The statement.
    pub statement: Statement,
    /// Its values, in the order of its markers.
    pub binds: Vec<Place>,
    /// Rows in memory.
    pub cache: Option<Arc<Cache>>,
    /// Without a row.
    pub on_missing: OnMissing,
}

/// A write, ready to run.
#[derive(Debug)]
pub struct Write {
    /// The statement.
    pub statement: Statement,
    /// Its values, in the order of its markers.
    pub binds: Vec<Place>,
    /// Whether it may be repeated.
    pub idempotent: bool,
}

/// A source, and where the configuration asks for it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The source.
    pub source: Source,
    /// The expression's place.
    pub span: Span,
}

/// Steps that run together, or one that runs alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Look-ups that do not need one another, or writes.
    Together(Vec<usize>),
    /// A filter, or names.
    Alone(usize),
}

/// A pipeline, ready for the schemas of its records.
#[derive(Debug)]
pub struct Program {
    /// The pipeline's name.
    pub name: Arc<str>,
    /// The fields of the event that anything asks for, by slot: path, and one place that asks.
    pub paths: Vec<(String, Span)>,
    /// The steps, as declared.
    pub steps: Vec<Step>,
    /// The order in which they run.
    pub stages: Vec<Stage>,
    /// How many values the `set` steps name.
    pub named: usize,
    /// The fields that the sink adds: name, and value.
    pub outputs: Vec<(Spanned<String>, Place)>,
    /// The key of the output.
    pub key: Option<Place>,
    /// The interpreter of general expressions.
    pub interpreter: Interpreter,
}

/// A step with its expressions parsed.
#[derive(Debug)]
struct ParsedStep {
    when: Option<(Expression, Span)>,
    binds: Vec<(Spanned<String>, Expression)>,
}

/// A pipeline with its expressions parsed, and nothing prepared.
#[derive(Debug)]
pub struct Parsed<'c> {
    config: &'c Pipeline,
    steps: Vec<ParsedStep>,
    outputs: Vec<(Spanned<String>, Expression, Span)>,
    key: Option<(Expression, Span)>,
}

/// Parses every expression of a pipeline; all that is wrong with them at once.
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
            StepKind::Filter(_) | StepKind::Reference(_) => Vec::new(),
        };
        let mut binds: Vec<_> = bindings
            .into_iter()
            .filter_map(|b| expression(&b.expression, &known, &mut findings).map(|(e, _)| (b.name.clone(), e)))
            .collect();
        if let StepKind::Filter(filter) = &step.kind
            && let Some((e, span)) = expression(&filter.expression, &known, &mut findings)
        {
            binds.push((Spanned::new(String::new(), span), e));
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
                ExpressionError::Syntax(_) => {
                    "write a path such as event.user.id, a literal such as 'x', or a CEL expression"
                }
                ExpressionError::UnknownName { .. } => {
                    "fields of the event start with event., those of the record with record., columns with the name of an earlier step"
                }
                ExpressionError::UnknownRecordField(_) => "Avro fields are below event., not record.",
                ExpressionError::WholeStep(_) => "name a column of the step's statement",
            };
            findings.push(Finding::new(text.span, error.to_string()).help(help));
            None
        }
    }
}

/// What one value of an earlier step is called, and its type.
struct StepNames {
    name: String,
    columns: Vec<(String, Type, Source)>,
}

/// Collects what preparing a pipeline finds out.
struct Builder {
    paths: Vec<(String, Span)>,
    known: Vec<StepNames>,
    findings: Vec<Finding>,
    unavailable: Option<Failure>,
}

impl Parsed<'_> {
    /// Prepares every statement and resolves every name; all that is wrong at once.
    pub async fn prepare(&self, store: Option<&AnyStore>) -> Result<Program, PrepareError> {
        let mut b = Builder {
            paths: Vec::new(),
            known: Vec::new(),
            findings: Vec::new(),
            unavailable: None,
        };
        let mut steps = Vec::new();
        let mut named = 0;
        for (index, (step, parsed)) in self.config.steps.iter().zip(&self.steps).enumerate() {
            let when = parsed.when.as_ref().and_then(|(e, span)| b.place(e, *span));
            let (action, columns) = match &step.kind {
                StepKind::Lookup(lookup) => {
                    let options = StatementOptions {
                        kind: Kind::Lookup,
                        timeout: lookup.timeout,
                        ..StatementOptions::default()
                    };
                    let Some(statement) = b.statement(store, &lookup.cql, &options).await else {
                        continue;
                    };
                    let binds = b.binds(step, &statement, &lookup.cql, parsed);
                    let columns = statement
                        .columns()
                        .iter()
                        .enumerate()
                        .map(|(column, c)| {
                            (
                                c.name.clone(),
                                result_type(&c.ty).nullable(),
                                Source::Column { step: index, column },
                            )
                        })
                        .collect();
                    let cache = lookup.cache.as_ref().map(|c| {
                        Arc::new(Cache::new(CacheOptions {
                            ttl: c.ttl,
                            missing_ttl: c.missing_ttl,
                            max_bytes: usize::try_from(c.max_bytes.bytes()).unwrap_or(usize::MAX),
                        }))
                    });
                    (
                        Action::Lookup(Box::new(Lookup {
                            statement,
                            binds,
                            cache,
                            on_missing: lookup.on_missing,
                        })),
                        columns,
                    )
                }
                StepKind::Write(write) => {
                    let options = StatementOptions {
                        kind: Kind::Write,
                        ttl: write.ttl,
                        idempotent: write.idempotent(),
                        timeout: write.timeout,
                        ..StatementOptions::default()
                    };
                    let Some(statement) = b.statement(store, &write.cql, &options).await else {
                        continue;
                    };
                    let binds = b.binds(step, &statement, &write.cql, parsed);
                    let idempotent = write.idempotent();
                    (
                        Action::Write(Box::new(Write {
                            statement,
                            binds,
                            idempotent,
                        })),
                        Vec::new(),
                    )
                }
                StepKind::Filter(_) => {
                    let Some((name, e)) = parsed.binds.first() else {
                        continue;
                    };
                    let Some(place) = b.place(e, name.span) else { continue };
                    (Action::Filter(place), Vec::new())
                }
                StepKind::Set(bindings) => {
                    let first = named;
                    let mut values = Vec::new();
                    let mut columns = Vec::new();
                    for (binding, (name, e)) in bindings.iter().zip(&parsed.binds) {
                        let Some(place) = b.place(e, binding.expression.span) else {
                            continue;
                        };
                        let ty = b.static_type(e).unwrap_or(Type::Any);
                        columns.push((name.value.clone(), ty, Source::Named(named)));
                        values.push((name.value.clone(), place));
                        named += 1;
                    }
                    (Action::Set { first, values }, columns)
                }
                StepKind::Reference(reference) => {
                    b.findings.push(Finding::new(
                        reference.reference.span,
                        "references are not supported yet",
                    ));
                    continue;
                }
            };
            b.known.push(StepNames {
                name: step.name.value.clone(),
                columns,
            });
            steps.push(Step {
                name: Arc::from(step.name.as_str()),
                when,
                action,
            });
        }
        let outputs = self
            .outputs
            .iter()
            .filter_map(|(name, e, span)| b.place(e, *span).map(|place| (name.clone(), place)))
            .collect();
        let key = self.key.as_ref().and_then(|(e, span)| b.place(e, *span));
        if let Some(failure) = b.unavailable {
            return Err(PrepareError::Unavailable(failure));
        }
        if !b.findings.is_empty() {
            return Err(PrepareError::Findings(b.findings));
        }
        let stages = stages(&steps);
        Ok(Program {
            name: Arc::from(self.config.name.as_str()),
            paths: b.paths,
            steps,
            stages,
            named,
            outputs,
            key,
            interpreter: Interpreter::default(),
        })
    }
}

impl Builder {
    async fn statement(
        &mut self,
        store: Option<&AnyStore>,
        cql: &Spanned<String>,
        options: &StatementOptions,
    ) -> Option<Statement> {
        let Some(store) = store else {
            self.findings.push(
                Finding::new(cql.span, "this step needs a database, and none is configured")
                    .help("add a [scylla] section, or store = \"sqlite:PATH\""),
            );
            return None;
        };
        match store.prepare(cql, options).await {
            Ok(statement) => Some(statement),
            Err(error) if error.class == Class::Transient => {
                self.unavailable = Some(Failure::transient(error.label, format!("the database: {error}")));
                None
            }
            Err(error) => {
                self.findings.push(Finding::new(
                    cql.span,
                    format!("the database refuses this statement: {error}"),
                ));
                None
            }
        }
    }

    fn binds(
        &mut self,
        step: &StepConfig,
        statement: &Statement,
        cql: &Spanned<String>,
        parsed: &ParsedStep,
    ) -> Vec<Place> {
        for (name, _) in &parsed.binds {
            if !statement.markers().iter().any(|m| m.name == name.value) {
                let markers: Vec<_> = statement.markers().iter().map(|m| format!(":{}", m.name)).collect();
                self.findings.push(
                    Finding::new(
                        name.span,
                        format!(
                            "step '{}' binds '{}', which its statement does not have",
                            step.name.value, name.value
                        ),
                    )
                    .help(format!(
                        "its markers are {}",
                        if markers.is_empty() {
                            "none".to_owned()
                        } else {
                            markers.join(", ")
                        }
                    )),
                );
            }
        }
        statement
            .markers()
            .iter()
            .filter_map(|marker| {
                let bound = parsed.binds.iter().find(|(name, _)| name.value == marker.name);
                let (place, ty) = match bound {
                    Some((name, e)) => (self.place(e, name.span)?, self.static_type(e)),
                    None => (
                        Place {
                            source: self.slot(&marker.name, cql.span),
                            span: cql.span,
                        },
                        None,
                    ),
                };
                if let Some(ty) = ty
                    && let Err(why) = bindable(&ty, &marker.ty)
                {
                    self.findings.push(mismatch(place.span, &marker.name, &why));
                }
                Some(place)
            })
            .collect()
    }

    fn slot(&mut self, path: &str, span: Span) -> Source {
        let slot = self.paths.iter().position(|(p, _)| p == path).unwrap_or_else(|| {
            self.paths.push((path.to_owned(), span));
            self.paths.len() - 1
        });
        Source::Event(slot)
    }

    fn place(&mut self, expression: &Expression, span: Span) -> Option<Place> {
        let source = match expression {
            Expression::Path(reference) => self.reference(reference, span)?,
            Expression::Constant(value) => Source::Constant(value.clone()),
            Expression::Now => Source::Now,
            Expression::Computed(computed) => {
                let inputs = computed
                    .inputs
                    .iter()
                    .map(|r| self.reference(r, span))
                    .collect::<Option<Vec<_>>>()?;
                Source::Computed(Box::new(ComputedSource {
                    expression: computed.clone(),
                    inputs,
                }))
            }
        };
        Some(Place { source, span })
    }

    fn reference(&mut self, reference: &Reference, span: Span) -> Option<Source> {
        match reference {
            Reference::Event(path) => Some(self.slot(path, span)),
            Reference::Record(field) => Some(Source::Record(field.clone())),
            Reference::Step { step, column } => {
                let known = self.known.iter().find(|s| s.name == *step)?;
                if let Some((_, _, source)) = known.columns.iter().find(|(name, _, _)| name == column) {
                    return Some(source.clone());
                }
                let names: Vec<_> = known.columns.iter().map(|(name, _, _)| name.as_str()).collect();
                let help = match names.as_slice() {
                    [] => format!("step '{step}' answers no columns"),
                    names => format!("step '{step}' answers {}", names.join(", ")),
                };
                self.findings
                    .push(Finding::new(span, format!("step '{step}' has no column '{column}'")).help(help));
                None
            }
        }
    }

    /// The type of an expression where no schema is needed to know it.
    fn static_type(&self, expression: &Expression) -> Option<Type> {
        let of = |reference: &Reference| match reference {
            Reference::Event(_) => None,
            Reference::Record(field) => Some(field.value_type()),
            Reference::Step { step, column } => self
                .known
                .iter()
                .find(|s| s.name == *step)?
                .columns
                .iter()
                .find(|(name, _, _)| name == column)
                .map(|(_, ty, _)| ty.clone()),
        };
        match expression {
            Expression::Path(reference) => of(reference),
            Expression::Constant(value) => constant_type(value),
            Expression::Now => Some(NOW),
            Expression::Computed(computed) => {
                let inputs: Vec<Type> = computed.inputs.iter().map(|r| of(r).unwrap_or(Type::Any)).collect();
                computed.result_type(&inputs)
            }
        }
    }
}

/// The type of `now()`.
pub const NOW: Type = Type::Timestamp(Unit::Micros);

/// The type of a literal.
pub fn constant_type(value: &Value<'_>) -> Option<Type> {
    Some(match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Long(_) => Type::Long,
        Value::Double(_) => Type::Double,
        Value::String(_) => Type::String,
        Value::Bytes(_) => Type::Bytes,
        _ => return None,
    })
}

/// What is said where a value does not fit a marker.
pub fn mismatch(span: Span, marker: &str, why: &str) -> Finding {
    Finding::new(span, format!("marker :{marker} cannot take this value: {why}")).help(
        "bind another field, change the column's type, or convert with a CEL function such as string(...) or int(...)",
    )
}

impl Program {
    /// Whether events of one key may run at the same time: no look-up reads a table that a write changes, and every write keeps
    /// the newest value by the record's own timestamp.
    pub fn commutes(&self) -> bool {
        let mut read = Vec::new();
        let mut written = Vec::new();
        for step in &self.steps {
            match &step.action {
                Action::Lookup(lookup) => read.push(lookup.statement.table()),
                Action::Write(write) if write.idempotent => written.push(write.statement.table()),
                Action::Write(_) => return false,
                Action::Filter(_) | Action::Set { .. } => {}
            }
        }
        written.iter().all(|table| table.is_some() && !read.contains(table))
            && (written.is_empty() || !read.contains(&None))
    }
}

/// Groups neighbouring look-ups that do not need one another, and neighbouring writes.
fn stages(steps: &[Step]) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let together = match &step.action {
            Action::Filter(_) | Action::Set { .. } => {
                stages.push(Stage::Alone(index));
                continue;
            }
            Action::Lookup(_) | Action::Write(_) => stages.last_mut().and_then(|stage| match stage {
                Stage::Together(members) => {
                    let same_kind = members.iter().all(|m| same_kind(&steps[*m].action, &step.action));
                    let needs = members.iter().any(|m| needs(step, *m));
                    (same_kind && !needs).then_some(members)
                }
                Stage::Alone(_) => None,
            }),
        };
        match together {
            Some(members) => members.push(index),
            None => stages.push(Stage::Together(vec![index])),
        }
    }
    stages
}

fn same_kind(a: &Action, b: &Action) -> bool {
    matches!(
        (a, b),
        (Action::Lookup(_), Action::Lookup(_)) | (Action::Write(_), Action::Write(_))
    )
}

fn needs(step: &Step, other: usize) -> bool {
    let binds: &[Place] = match &step.action {
        Action::Lookup(l) => &l.binds,
        Action::Write(w) => &w.binds,
        Action::Filter(_) | Action::Set { .. } => &[],
    };
    binds
        .iter()
        .chain(&step.when)
        .any(|place| source_needs(&place.source, other))
}

fn source_needs(source: &Source, step: usize) -> bool {
    match source {
        Source::Column { step: s, .. } => *s == step,
        Source::Computed(c) => c.inputs.iter().any(|i| source_needs(i, step)),
        Source::Event(_) | Source::Record(_) | Source::Named(_) | Source::Constant(_) | Source::Now => false,
    }
}
