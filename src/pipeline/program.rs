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
use super::policy::Policy;
use super::prepare::PrepareError;
use crate::avro::value::{Type, Unit, Value};
use crate::config::{self, Binding, MissingDeadline, OnMissing, Pipeline, Span, Spanned, Step as StepConfig, StepKind};
use crate::custom::{CustomStep, CustomSteps, fits};
use crate::reference::{self, References};
use crate::retry::Class;
use crate::store::cache::{Cache, CacheOptions, Hit};
use crate::store::cql::{TTL_MARKER, Ttl};
use crate::store::group::GroupOptions;
use crate::store::types::bindable;
use crate::store::{AnyStore, Kind, Rows, Statement, StatementOptions, Store};

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
    /// All rows of a look-up, as records.
    Rows {
        /// Index of the step.
        step: usize,
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
    /// One document of a collection in memory.
    Reference(Box<Refer>),
    /// One row written by CQL.
    Write(Box<Write>),
    /// A step of one's own.
    Custom(Box<Custom>),
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
    /// How long a row is waited for, and what then.
    pub missing: Option<MissingDeadline>,
    /// When it stops trying.
    pub policy: Policy,
    /// What stands for no row where all rows are taken: empty lists.
    pub none: Option<Hit>,
}

/// A look-up in a reference, ready to run.
#[derive(Debug)]
pub struct Refer {
    /// The collection.
    pub reference: Arc<reference::Reference>,
    /// What it is looked up by.
    pub key: Place,
    /// Without a document.
    pub on_missing: OnMissing,
    /// How long a document is waited for, and what then.
    pub missing: Option<MissingDeadline>,
}

/// A step of one's own, ready to run.
pub struct Custom {
    /// The step.
    pub step: Arc<dyn CustomStep>,
    /// What it takes, by name and type.
    pub takes: Vec<(String, Type)>,
    /// The values of these.
    pub binds: Vec<Place>,
    /// What it gives, by name and type.
    pub gives: Vec<(String, Type)>,
    /// Where it gives nothing.
    pub on_missing: OnMissing,
    /// When it stops trying.
    pub policy: Policy,
}

impl std::fmt::Debug for Custom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Custom");
        shown
            .field("takes", &self.takes)
            .field("gives", &self.gives)
            .finish_non_exhaustive()
    }
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
    /// When it stops trying.
    pub policy: Policy,
}

/// A source, and where the configuration asks for it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The source.
    pub source: Source,
    /// The expression's place.
    pub span: Span,
    /// What findings call the value: its path, or what it is otherwise.
    pub what: Box<str>,
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
    /// Name, expression, and the expression's place.
    binds: Vec<(Spanned<String>, Expression, Span)>,
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
    pub async fn prepare(
        &self,
        store: Option<&AnyStore>,
        references: &References,
        customs: &CustomSteps,
    ) -> Result<Program, PrepareError> {
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
                        rows: match lookup.rows {
                            config::Rows::First => Rows::First,
                            config::Rows::List { max, truncate } => Rows::List { max, truncate },
                        },
                        timeout: lookup.timeout,
                        ..StatementOptions::from(&lookup.execution)
                    };
                    let Some(statement) = b.statement(store, &lookup.cql, &options).await else {
                        continue;
                    };
                    let binds = b.binds(step, &statement, &lookup.cql, parsed);
                    let columns = b.columns(index, &statement, lookup.cql.span);
                    let none = statement.records().map(|_| {
                        let empty = statement.columns().iter().map(|_| Value::List(Vec::new()));
                        Arc::new(Some(empty.collect()))
                    });
                    let cache = lookup
                        .cache
                        .as_ref()
                        .map(|c| Arc::new(Cache::new(CacheOptions::from(c))));
                    (
                        Action::Lookup(Box::new(Lookup {
                            statement,
                            binds,
                            cache,
                            on_missing: lookup.on_missing,
                            missing: lookup.missing_deadline.clone(),
                            policy: Policy::from(&lookup.errors),
                            none,
                        })),
                        columns,
                    )
                }
                StepKind::Write(write) => {
                    let options = StatementOptions {
                        kind: Kind::Write,
                        ttl: match (write.ttl, &write.ttl_seconds) {
                            (Some(ttl), _) => Some(Ttl::Fixed(ttl)),
                            (None, Some(_)) => Some(Ttl::Bound),
                            (None, None) => None,
                        },
                        group: write.group.as_ref().map(GroupOptions::from),
                        idempotent: write.idempotent(),
                        timeout: write.timeout,
                        ..StatementOptions::from(&write.execution)
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
                            policy: Policy::from(&write.errors),
                        })),
                        Vec::new(),
                    )
                }
                StepKind::Filter(_) => {
                    let Some((_, e, span)) = parsed.binds.first() else {
                        continue;
                    };
                    let Some(place) = b.place(e, *span) else { continue };
                    (Action::Filter(place), Vec::new())
                }
                StepKind::Set(_) => {
                    let first = named;
                    let mut values = Vec::new();
                    let mut columns = Vec::new();
                    for (name, e, span) in &parsed.binds {
                        let Some(place) = b.place(e, *span) else {
                            continue;
                        };
                        let ty = b.static_type(e).unwrap_or(Type::Any);
                        columns.push((name.value.clone(), ty, Source::Named(named)));
                        values.push((name.value.clone(), place));
                        named += 1;
                    }
                    (Action::Set { first, values }, columns)
                }
                StepKind::Reference(wanted) => {
                    let Some(reference) = references.get(&wanted.reference) else {
                        let message = format!("there is no reference '{}'", wanted.reference.value);
                        let finding = Finding::new(wanted.reference.span, message);
                        b.findings.push(finding.help("declare it: [references.NAME]"));
                        continue;
                    };
                    let Some((_, e, span)) = parsed.binds.first() else {
                        continue;
                    };
                    let Some(key) = b.place(e, *span) else { continue };
                    if let Some(ty) = b.static_type(e) {
                        b.findings.extend(wrong_key(&key, &ty, reference));
                    }
                    let fields = reference.shape.fields.iter().enumerate();
                    let columns = fields
                        .map(|(column, (name, ty))| {
                            (
                                name.clone(),
                                ty.clone().nullable(),
                                Source::Column { step: index, column },
                            )
                        })
                        .collect();
                    let refer = Refer {
                        reference: reference.clone(),
                        key,
                        on_missing: wanted.on_missing,
                        missing: wanted.missing_deadline.clone(),
                    };
                    (Action::Reference(Box::new(refer)), columns)
                }
                StepKind::Custom(wanted) => {
                    let Some(custom) = b.custom(wanted, parsed, customs) else {
                        continue;
                    };
                    let gives = custom.gives.iter().enumerate();
                    let columns = gives
                        .map(|(column, (name, ty))| {
                            (
                                name.clone(),
                                ty.clone().nullable(),
                                Source::Column { step: index, column },
                            )
                        })
                        .collect();
                    (Action::Custom(Box::new(custom)), columns)
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
    /// What a look-up gives to later expressions.
    fn columns(&mut self, step: usize, statement: &Statement, span: Span) -> Vec<(String, Type, Source)> {
        let gives = statement.gives().enumerate();
        let mut columns: Vec<_> = gives
            .map(|(column, (name, ty))| (name.to_owned(), ty.nullable(), Source::Column { step, column }))
            .collect();
        if let Some(records) = statement.records() {
            if columns.iter().any(|(name, ..)| name == ROWS) {
                let message = "a column is named 'rows', which is the name of all rows together";
                self.findings
                    .push(Finding::new(span, message).help("give it another name: SELECT rows AS ..."));
            }
            columns.push((ROWS.to_owned(), records.nullable(), Source::Rows { step }));
        }
        columns
    }

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
                let message = format!("the database refuses this statement: {error}");
                self.findings
                    .push(Finding::new(cql.span, message).help("compare its names and types with those of the table"));
                None
            }
        }
    }

    /// A step of one's own, with the values of what it takes.
    fn custom(&mut self, wanted: &config::Custom, parsed: &ParsedStep, customs: &CustomSteps) -> Option<Custom> {
        let name = &wanted.custom;
        let Some(step) = customs.get(name) else {
            let known: Vec<_> = customs.names().collect();
            let message = format!("this program has no step '{}' of its own", name.value);
            let help = if known.is_empty() {
                "register it in Rust: see the documentation of messina::custom; the plain `messina` has none".to_owned()
            } else {
                format!("it has {}", known.join(", "))
            };
            self.findings.push(Finding::new(name.span, message).help(help));
            return None;
        };
        let (takes, gives) = (step.takes(), step.gives());
        for (bound, ..) in &parsed.binds {
            if !takes.iter().any(|(taken, _)| *taken == bound.value) {
                let names: Vec<_> = takes.iter().map(|(taken, _)| taken.as_str()).collect();
                let message = format!("step '{}' takes no '{}'", name.value, bound.value);
                let help = format!(
                    "it takes {}",
                    if names.is_empty() {
                        "nothing".to_owned()
                    } else {
                        names.join(", ")
                    }
                );
                self.findings.push(Finding::new(bound.span, message).help(help));
            }
        }
        let mut binds = Vec::new();
        for (taken, wanted) in &takes {
            let bound = parsed.binds.iter().find(|(bound, ..)| bound.value == *taken);
            let (place, ty) = match bound {
                Some((_, e, span)) => (self.place(e, *span)?, self.static_type(e)),
                None => (
                    Place {
                        source: self.slot(taken, name.span),
                        span: name.span,
                        what: format!("event.{taken}").into(),
                    },
                    None,
                ),
            };
            if let Some(ty) = ty {
                self.findings.extend(not_taken(&place, &ty, taken, wanted));
            }
            binds.push(place);
        }
        Some(Custom {
            step: step.clone(),
            takes,
            binds,
            gives,
            on_missing: wanted.on_missing,
            policy: Policy::from(&wanted.errors),
        })
    }

    fn binds(
        &mut self,
        step: &StepConfig,
        statement: &Statement,
        cql: &Spanned<String>,
        parsed: &ParsedStep,
    ) -> Vec<Place> {
        for (name, ..) in &parsed.binds {
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
                let bound = parsed.binds.iter().find(|(name, ..)| name.value == marker.name);
                let (place, ty) = match bound {
                    Some((_, e, span)) => (self.place(e, *span)?, self.static_type(e)),
                    None => (
                        Place {
                            source: self.slot(&marker.name, cql.span),
                            span: cql.span,
                            what: format!("event.{}", marker.name).into(),
                        },
                        None,
                    ),
                };
                if let Some(ty) = ty
                    && let Err(why) = bindable(&ty, &marker.ty)
                {
                    self.findings.push(mismatch(&place, &marker.name, &why));
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
        Some(Place {
            source,
            span,
            what: what(expression).into(),
        })
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

/// What all rows of a look-up together are called.
const ROWS: &str = "rows";

/// The type of `now()`.
pub const NOW: Type = Type::Timestamp(Unit::Micros);

/// What findings call an expression.
fn what(expression: &Expression) -> String {
    match expression {
        Expression::Path(Reference::Event(path)) if path.is_empty() => "event".to_owned(),
        Expression::Path(Reference::Event(path)) => format!("event.{path}"),
        Expression::Path(Reference::Record(field)) => format!("record.{}", field.name()),
        Expression::Path(Reference::Step { step, column }) => format!("{step}.{column}"),
        Expression::Constant(_) => "this literal".to_owned(),
        Expression::Now => "now()".to_owned(),
        Expression::Computed(_) => "what this expression gives".to_owned(),
    }
}

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
pub fn mismatch(place: &Place, marker: &str, why: &str) -> Finding {
    Finding::new(
        place.span,
        format!("marker :{marker} cannot take {}: {why}", place.what),
    )
    .help(
        "bind another field, change the column's type, or convert with a CEL function such as string(...) or int(...)",
    )
}

/// What is said where a value cannot be given to a step of one's own; nothing where it can.
pub fn not_taken(place: &Place, ty: &Type, name: &str, wanted: &Type) -> Option<Finding> {
    let why = fits(ty, wanted).err()?;
    let message = format!("'{name}' cannot take {}: {why}", place.what);
    let help = "bind another field, or convert with a CEL function such as string(...) or int(...)";
    Some(Finding::new(place.span, message).help(help))
}

/// What is said where a value cannot be the key of a reference; nothing where it can.
pub fn wrong_key(key: &Place, ty: &Type, reference: &reference::Reference) -> Option<Finding> {
    let why = bindable(ty, &reference.shape.key_type).err()?;
    let shape = &reference.shape;
    let message = format!(
        "the key of reference '{}' cannot take {}: {why}, which {}.{} is",
        shape.name, key.what, shape.collection, shape.key
    );
    let help = "look it up by another field, or convert with a CEL function such as string(...) or int(...)";
    Some(Finding::new(key.span, message).help(help))
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
                // What a step of one's own keeps in mind nobody knows.
                Action::Write(_) | Action::Custom(_) => return false,
                Action::Filter(_) | Action::Set { .. } | Action::Reference(_) => {}
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
            Action::Lookup(_) | Action::Reference(_) | Action::Write(_) | Action::Custom(_) => {
                stages.last_mut().and_then(|stage| match stage {
                    Stage::Together(members) => {
                        let same_kind = members.iter().all(|m| same_kind(&steps[*m].action, &step.action));
                        let needs = members.iter().any(|m| needs(step, *m));
                        (same_kind && !needs).then_some(members)
                    }
                    Stage::Alone(_) => None,
                })
            }
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
        (
            Action::Lookup(_) | Action::Reference(_) | Action::Custom(_),
            Action::Lookup(_) | Action::Reference(_) | Action::Custom(_)
        ) | (Action::Write(_), Action::Write(_))
    )
}

fn needs(step: &Step, other: usize) -> bool {
    let binds: &[Place] = match &step.action {
        Action::Lookup(l) => &l.binds,
        Action::Reference(r) => std::slice::from_ref(&r.key),
        Action::Write(w) => &w.binds,
        Action::Custom(c) => &c.binds,
        Action::Filter(_) | Action::Set { .. } => &[],
    };
    binds
        .iter()
        .chain(&step.when)
        .any(|place| source_needs(&place.source, other))
}

fn source_needs(source: &Source, step: usize) -> bool {
    match source {
        Source::Column { step: s, .. } | Source::Rows { step: s } => *s == step,
        Source::Computed(c) => c.inputs.iter().any(|i| source_needs(i, step)),
        Source::Event(_) | Source::Record(_) | Source::Named(_) | Source::Constant(_) | Source::Now => false,
    }
}
