//! A pipeline as it will run: expressions parsed, statements prepared, the place of every value decided.
//!
//! It is built in two stages. [`parse`] needs only the configuration and serves the offline `check`. [`Parsed::prepare`] needs the store, which
//! reports the types of markers and columns. Everything that depends on the schema of a record is in the [plan](super::plan).
//!
//! Each kind of step has its own file; `names` resolves the names in expressions, `statement` is common to look-ups and writes, `stages` decides what
//! runs concurrently.
//!
//! Invariant: a value exists when it is used, because steps only see the steps before them.

mod clock;
mod custom;
mod lookup;
mod names;
mod parse;
mod reference;
mod stages;
mod statement;
mod write;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::expression::{Computed, Interpreter, RecordField};
use super::prepare::NotPrepared;
use crate::avro::Schema;
use crate::avro::value::{Type, Unit, Value};
use crate::config::{Span, Spanned, StepKind};
use crate::custom::CustomSteps;
use crate::reference::References;
use crate::store::AnyStore;
pub use custom::{Custom, misnamed, not_taken};
pub use lookup::Lookup;
use names::{Builder, Columns, StepNames};
pub use names::{constant_type, event_path};
use parse::ParsedStep;
pub use parse::{Parsed, parse};
pub use reference::{Refer, wrong_key};
use stages::stages;
pub use statement::{called, mismatch};
pub use write::Write;
pub(crate) use write::grouping;

/// Where a value comes from at run time.
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
    /// A constant.
    Constant(Value<'static>),
    /// The wall clock, in this unit.
    Now(Unit),
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
    /// The condition under which it runs.
    pub when: Option<Place>,
    /// What it does.
    pub action: Action,
}

/// What a step does.
#[derive(Debug)]
pub enum Action {
    /// Reads a row by CQL.
    Lookup(Box<Lookup>),
    /// Reads a document of a collection in memory.
    Reference(Box<Refer>),
    /// Writes a row by CQL.
    Write(Box<Write>),
    /// Runs a custom step.
    Custom(Box<Custom>),
    /// Continues only if true.
    Filter(Place),
    /// Names values, from this index of [`super::event::Event::named`] on.
    Set {
        /// The index of the first.
        first: usize,
        /// The name and value of each.
        values: Vec<(String, Place)>,
    },
}

/// A source, and the place in the configuration that uses it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The source.
    pub source: Source,
    /// The place of the expression.
    pub span: Span,
    /// What findings call the value: its path, or another description.
    pub what: Box<str>,
}

/// Steps that run concurrently, or one that runs alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Look-ups that do not need one another, or writes, or a single custom step.
    Together(Vec<usize>),
    /// A filter or a `set` step.
    Alone(usize),
}

/// A pipeline, ready for the schemas of its records.
#[derive(Debug)]
pub struct Program {
    /// The pipeline's name.
    pub name: Arc<str>,
    /// The fields of the event that anything uses, by slot: the path, and one place that uses it.
    pub paths: Vec<(String, Span)>,
    /// The slots of fields that the input may lack, in ascending order: has() guards each of their uses.
    pub optional: Vec<usize>,
    /// The slots of fields that only the name of a marker or of an input asks for first, because nothing is bound to it.
    pub unbound: BTreeSet<usize>,
    /// The steps, as declared.
    pub steps: Vec<Step>,
    /// The order in which they run.
    pub stages: Vec<Stage>,
    /// How many values the `set` steps name.
    pub named: usize,
    /// The fields that the sink adds: names and values.
    pub outputs: Vec<(Spanned<String>, Place)>,
    /// The key of the output.
    pub key: Option<Place>,
    /// Where the sink is declared.
    pub sink: Option<Span>,
    /// The interpreter of general expressions.
    pub interpreter: Interpreter,
}

impl Parsed<'_> {
    /// Prepares every statement and resolves every name; reports all findings at once.
    pub async fn prepare(
        &self,
        store: Option<&AnyStore>,
        references: &References,
        customs: &CustomSteps,
    ) -> Result<Program, NotPrepared> {
        let mut b = Builder::default();
        let mut steps = Vec::new();
        for (index, (step, parsed)) in self.config.steps.iter().zip(&self.steps).enumerate() {
            let when = parsed.when.as_ref().and_then(|(e, span)| b.place(e, *span));
            let prepared = match &step.kind {
                StepKind::Lookup(lookup) => b.lookup(index, step, lookup, parsed, store).await,
                StepKind::Write(write) => b.write(step, write, parsed, store).await,
                StepKind::Filter(_) => b.filter(parsed),
                StepKind::Set(_) => Some(b.set(parsed)),
                StepKind::Reference(wanted) => b.refer(index, wanted, parsed, references),
                StepKind::Custom(wanted) => b.custom(index, wanted, parsed, customs),
            };
            let Some((action, columns)) = prepared else { continue };
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
            return Err(NotPrepared::Unavailable(failure));
        }
        if !b.findings.is_empty() {
            return Err(NotPrepared::Findings(b.findings));
        }
        let stages = stages(&steps);
        let mut program = Program {
            name: Arc::from(self.config.name.as_str()),
            optional: (0..b.paths.len()).filter(|slot| !b.needed.contains(slot)).collect(),
            unbound: b.unbound,
            paths: b.paths,
            steps,
            stages,
            named: b.named,
            outputs,
            key,
            sink: self.config.sink.as_ref().map(|sink| sink.span),
            interpreter: Interpreter::default(),
        };
        program.let_lives_wane();
        Ok(program)
    }
}

impl Builder {
    fn filter(&mut self, parsed: &ParsedStep) -> Option<(Action, Columns)> {
        let (_, e, span) = parsed.binds.first()?;
        Some((Action::Filter(self.place(e, *span)?), Columns::new()))
    }

    fn set(&mut self, parsed: &ParsedStep) -> (Action, Columns) {
        let first = self.named;
        let mut values = Vec::new();
        let mut columns = Columns::new();
        for (name, e, span) in &parsed.binds {
            let Some(place) = self.place(e, *span) else {
                // What is wrong has been told, and the program ends here: what uses this name is not wrong as well.
                columns.push((name.value.clone(), Type::Any, Source::Constant(Value::Null)));
                continue;
            };
            let ty = self.static_type(e).unwrap_or(Type::Any);
            columns.push((name.value.clone(), ty, Source::Named(self.named)));
            values.push((name.value.clone(), place));
            self.named += 1;
        }
        (Action::Set { first, values }, columns)
    }
}

impl Program {
    /// Adapts the sink's fields to this schema: a `now()` that is finer than its field would not fit into it.
    pub fn publish_as(&mut self, schema: &Schema) {
        let unit = |ty: &Type| match ty {
            Type::Timestamp(unit) => Some(*unit),
            _ => None,
        };
        for (name, place) in &mut self.outputs {
            if let Source::Now(own) = &mut place.source
                && let Some(ty) = schema.field_type(&name.value)
            {
                let wanted = match ty.non_null() {
                    Type::Union(members) => members.iter().find_map(unit),
                    ty => unit(ty),
                };
                *own = wanted.unwrap_or(*own);
            }
        }
    }

    /// The value of a `set` step with this index, and the step.
    pub fn named_value(&self, index: usize) -> Option<(&Step, &Place)> {
        self.steps.iter().find_map(|step| match &step.action {
            Action::Set { first, values } => {
                let (_, place) = values.get(index.checked_sub(*first)?)?;
                Some((step, place))
            }
            _ => None,
        })
    }

    /// How many of its steps are writes.
    pub fn writes(&self) -> usize {
        let is_write = |step: &&Step| matches!(step.action, Action::Write(_));
        self.steps.iter().filter(is_write).count()
    }

    /// Whether any of its steps asks a service; what is in memory answers at once.
    pub fn asks(&self) -> bool {
        self.steps.iter().any(|step| match &step.action {
            Action::Lookup(_) | Action::Write(_) | Action::Custom(_) => true,
            Action::Reference(refer) => refer.reference.is_on_demand(),
            Action::Filter(_) | Action::Set { .. } => false,
        })
    }

    /// Whether events of one key may run at the same time: no look-up reads a table that a write changes, and every write keeps
    /// the newest value by the record's own timestamp.
    pub fn commutes(&self) -> bool {
        let mut read = Vec::new();
        let mut written = Vec::new();
        for step in &self.steps {
            match &step.action {
                Action::Lookup(lookup) => read.push(lookup.statement.table()),
                Action::Write(write) if write.idempotent => written.push(write.statement.table()),
                // Nothing is known of the state that a custom step keeps.
                Action::Write(_) | Action::Custom(_) => return false,
                Action::Filter(_) | Action::Set { .. } | Action::Reference(_) => {}
            }
        }
        written.iter().all(|table| table.is_some() && !read.contains(table))
            && (written.is_empty() || !read.contains(&None))
    }
}
