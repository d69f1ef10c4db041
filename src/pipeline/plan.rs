//! The plan of a pipeline for one writer schema: every path resolved, every type compared, the output's splice compiled.
//!
//! Pure: schemas are passed in parsed, and the caller that registers the output schema fills in its id. Findings name both sides of a mismatch and
//! the origin of each.

mod lacking;
mod lossy;
mod shifted;

use std::collections::HashSet;
use std::sync::Arc;

use super::evaluate::can_be_key;
use super::expression::{time, unit};
use super::finding::Finding;
use super::program::{
    Action, ComputedSource, Place, Program, Source, Step, called, constant_type, mismatch, not_taken, wrong_key,
};
use crate::avro::schema::{NodeId, Shape};
use crate::avro::value::{Type, Unit, Value};
use crate::avro::{Converted, NewField, PathProblem, Plan, Schema, Splice, append_fields};
use crate::config::{OnMissing, Span};
use crate::store::cql::{TTL_MARKER, bound_ttl};
use crate::store::types::{ColumnType, bindable};
use crate::store::{Marker, Statement, convert};

pub use lacking::lacking;
use lossy::{cut_off, left_out, narrowed, renamed};
pub use shifted::shifted;

/// Reads and rewrites the records of one writer schema.
#[derive(Debug)]
pub struct SchemaPlan {
    /// Validates a datum and finds the fields that the program uses.
    pub plan: Plan,
    /// Makes the output; none for a pipeline without a sink.
    pub output: Option<Output>,
}

impl SchemaPlan {
    /// Approximate size in bytes: the parsed and compiled form is a few times as large as the text.
    pub fn weight(&self) -> usize {
        let output = self.output.as_ref().map_or(0, |output| output.schema.json().len());
        4 * (self.plan.writer().json().len() + output)
    }
}

/// Makes the output records of one writer schema.
#[derive(Debug)]
pub struct Output {
    /// Turns input bytes and new fields into output bytes.
    pub splice: Splice,
    /// The output schema.
    pub schema: Arc<Schema>,
    /// The registry's id of the output schema.
    pub schema_id: u32,
}

/// The output schema of a pipeline, as declared.
#[derive(Debug, Clone)]
pub enum OutputSchema {
    /// The input schema with the fields of `set` appended.
    Appended,
    /// One schema for all inputs.
    Fixed(Arc<Schema>),
}

/// A plan whose output schema has no id yet.
#[derive(Debug)]
pub struct Compiled {
    /// See [`SchemaPlan::plan`].
    pub plan: Plan,
    /// The splice, and the schema of the records that it makes.
    pub output: Option<(Splice, Arc<Schema>)>,
    /// Things that can run, but probably not as intended.
    pub warnings: Vec<Finding>,
}

/// Compiles `program` for records of `writer`; `output` is none for a pipeline without a sink.
pub fn compile(
    program: &Program,
    writer: Arc<Schema>,
    output: Option<&OutputSchema>,
) -> Result<Compiled, Vec<Finding>> {
    let (mut findings, mut warnings) = (Vec::new(), Vec::new());
    let (mut paths, mut absent) = (Vec::new(), Vec::new());
    for (slot, (path, span)) in program.paths.iter().enumerate() {
        // One path at a time first, so that every wrong path is reported and not only the first.
        if let Err(error) = Plan::compile(writer.clone(), &[path.as_str()]) {
            if matches!(error.problem, PathProblem::NoField { .. }) && program.optional.contains(&slot) {
                absent.push(slot);
                continue;
            }
            let help = if program.unbound.contains(&slot) {
                format!(
                    "nothing is bound to `{path}`, so it takes the event's field of that name: add bind = {{ {path} = \"event.FIELD\" }}"
                )
            } else {
                "see the fields of the input schema in the registry".to_owned()
            };
            findings.push(Finding::new(*span, error.to_string()).help(help));
        }
        paths.push(path.as_str());
    }
    if !findings.is_empty() {
        return Err(findings);
    }
    let names: Vec<&str> = program.outputs.iter().map(|(name, _)| name.as_str()).collect();
    let whole = program
        .paths
        .first()
        .map(|(_, span)| *span)
        .or(program.outputs.first().map(|(n, _)| n.span));
    let plain = Plan::compile(writer.clone(), &paths).map_err(|e| in_place(whole, e.to_string()))?;
    let plain = plain.with_absent(&absent);
    let types = Types { program, plan: &plain };
    types.check(&mut findings, &mut warnings);
    let new_fields = match output {
        // The schema declares the types, so a type that cannot be inferred from an expression is accepted.
        Some(OutputSchema::Fixed(schema)) => {
            types.given_fields(schema, &mut findings, &mut warnings);
            Vec::new()
        }
        _ => types.new_fields(&mut findings, &mut warnings),
    };
    if !findings.is_empty() {
        return Err(findings);
    }
    let Some(output) = output else {
        return Ok(Compiled {
            plan: plain,
            output: None,
            warnings,
        });
    };
    let of_set = program.outputs.first().map(|(name, _)| name.span);
    // A sink that only copies the input may have no path to point at, but errors in its schema must be reported as
    // well.
    let place = of_set.or(whole).or(program.sink);
    match output {
        OutputSchema::Appended => {
            // One field at a time first, so that each is reported at its place.
            for (field, (_, place)) in new_fields.iter().zip(&program.outputs) {
                if let Err(error) = append_fields(&writer, std::slice::from_ref(field)) {
                    findings.extend(in_place(Some(place.span), error.to_string()));
                }
            }
            if !findings.is_empty() {
                return Err(findings);
            }
            let schema = append_fields(&writer, &new_fields).map_err(|e| in_place(place, e.to_string()))?;
            let schema = Arc::new(schema);
            let splice = Splice::compile(&plain, schema.clone(), &names).map_err(|e| in_place(place, e.to_string()))?;
            Ok(Compiled {
                plan: plain,
                output: Some((splice, schema)),
                warnings,
            })
        }
        OutputSchema::Fixed(schema) => {
            let (plan, splice) = Plan::compile_with_output(writer, &paths, schema.clone(), &names)
                .map_err(|e| with_help(place, e.to_string(), GIVEN))?;
            if let Some(span) = program.sink {
                let passing = splice.converted();
                let told = |c: &Converted| {
                    let what = format!("event.{}", c.source);
                    cut_off(&c.field, &what, span, &c.from, &c.to)
                        .or_else(|| narrowed(&c.field, &what, span, &c.from, &c.to))
                };
                warnings.extend(passing.iter().filter_map(told));
                warnings.extend(splice.unplaced().iter().map(|unplaced| left_out(unplaced, span)));
                warnings.extend(splice.renamed().iter().map(|field| renamed(field, span)));
            }
            Ok(Compiled {
                plan: plan.with_absent(&absent),
                output: Some((splice, schema.clone())),
                warnings,
            })
        }
    }
}

/// The remedy for an output schema that has been given already.
const GIVEN: &str = "a field of the sink's `schema` needs a field of `set` or of the input by its name, of a type that fits; or it needs a default";

fn in_place(span: Option<Span>, message: String) -> Vec<Finding> {
    let help =
        "a field of `set` needs a name that the input lacks and a type that Avro has; or give the sink a `schema`";
    with_help(span, message, help)
}

fn with_help(span: Option<Span>, message: String, help: &str) -> Vec<Finding> {
    span.map(|span| Finding::new(span, message).help(help))
        .into_iter()
        .collect()
}

/// The remedy for a time in another unit.
const UNITS: &str = "in an expression a time is a number in its own unit: convert each to the unit that is needed, as in (...) / 1000 from micros to \
                     millis";

/// Whether a type contains a union of several records, enums or fixed types: a value keeps the content of a branch, but not its
/// name.
fn has_several(schema: &Schema, within: NodeId) -> bool {
    let (mut seen, mut left) = (HashSet::new(), vec![within]);
    while let Some(id) = left.pop() {
        if !seen.insert(id) {
            continue;
        }
        let shape = &schema.node(id).shape;
        if let Shape::Union(branches) = shape {
            let named = branches.iter().map(|branch| &schema.node(*branch).shape);
            let mut kinds = HashSet::new();
            if !named
                .filter(|shape| shape.name().is_some())
                .all(|shape| kinds.insert(shape.kind()))
            {
                return true;
            }
        }
        left.extend(shape.children());
    }
    false
}

/// Whether a column, or each item of its collection, is a timestamp.
fn takes_timestamps(column: &ColumnType) -> bool {
    match column {
        ColumnType::List(item) | ColumnType::Set(item) | ColumnType::Vector(item, _) => takes_timestamps(item),
        _ => *column == ColumnType::Timestamp,
    }
}

/// Why a marker cannot hold a literal of a type that it takes.
fn not_held(literal: &Value<'_>, marker: &Marker) -> Option<String> {
    if let Err(why) = convert::check(literal, &marker.ty) {
        return Some(why.to_string());
    }
    // A null means that there is none.
    let seconds = convert::long(literal, &marker.ty).ok();
    let life = seconds.filter(|_| marker.name == TTL_MARKER)?;
    bound_ttl(life).err().map(|error| error.message)
}

/// Every place where a step uses a value, except its `when`.
fn places_of(step: &Step) -> Vec<&Place> {
    match &step.action {
        Action::Lookup(lookup) => lookup.binds.iter().collect(),
        Action::Write(write) => write.binds.iter().collect(),
        Action::Custom(custom) => custom.binds.iter().collect(),
        Action::Reference(refer) => vec![&refer.key],
        Action::Filter(condition) => vec![condition],
        Action::Set { values, .. } => values.iter().map(|(_, place)| place).collect(),
    }
}

/// The types of all sources, for one writer schema.
struct Types<'a> {
    program: &'a Program,
    plan: &'a Plan,
}

impl Types<'_> {
    fn of(&self, source: &Source) -> Option<Type> {
        Some(match source {
            Source::Event(slot) => self.plan.slot_type(*slot),
            Source::Record(field) => field.value_type(),
            Source::Column { step, column } => match &self.program.steps.get(*step)?.action {
                Action::Lookup(lookup) => lookup.statement.gives().nth(*column)?.1.nullable(),
                Action::Custom(custom) => custom.gives.get(*column)?.1.clone().nullable(),
                Action::Reference(refer) => refer.reference.shape.fields.get(*column)?.1.clone().nullable(),
                _ => return None,
            },
            Source::Rows { step } => match &self.program.steps.get(*step)?.action {
                Action::Lookup(lookup) => lookup.statement.records()?.nullable(),
                _ => return None,
            },
            Source::Named(index) => {
                let (step, place) = self.program.named_value(*index)?;
                let ty = self.of(&place.source)?;
                // If a step does not run, its names are null.
                if step.when.is_some() { ty.nullable() } else { ty }
            }
            Source::Constant(value) => constant_type(value)?,
            Source::Now(unit) => Type::Timestamp(*unit),
            Source::Computed(c) => c.expression.result_type(&self.inputs(c))?,
        })
    }

    /// The node of the input's type, if the source passes an input value on unchanged.
    fn whole(&self, source: &Source) -> Option<NodeId> {
        match source {
            Source::Event(slot) => self.plan.slot_node(*slot),
            Source::Named(index) => {
                let (_, place) = self.program.named_value(*index)?;
                self.whole(&place.source)
            }
            _ => None,
        }
    }

    /// The literal that a source is, directly or by its name.
    fn constant<'s>(&'s self, source: &'s Source) -> Option<&'s Value<'static>> {
        match source {
            Source::Constant(value) => Some(value),
            Source::Named(index) => {
                let (_, place) = self.program.named_value(*index)?;
                self.constant(&place.source)
            }
            _ => None,
        }
    }

    /// Whether a source is set only for some records.
    fn is_set_at_times(&self, source: &Source) -> bool {
        let Source::Named(index) = source else { return false };
        self.program
            .named_value(*index)
            .is_some_and(|(step, place)| step.when.is_some() || self.is_set_at_times(&place.source))
    }

    /// The types of times that a source returns as plain numbers, which is how CEL sees a time.
    fn counts(&self, source: &Source) -> Vec<Type> {
        match source {
            Source::Computed(computed) => computed
                .expression
                .counts(&self.times(computed), &self.inputs(computed)),
            Source::Named(index) => self
                .program
                .named_value(*index)
                .map(|(_, place)| self.counts(&place.source))
                .unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// The types of times that a general expression's inputs are, or return as plain numbers.
    fn times(&self, computed: &ComputedSource) -> Vec<Vec<Type>> {
        let of = |input: &Source| {
            let counts = self.counts(input);
            if !counts.is_empty() {
                return counts;
            }
            let own = self.of(input).and_then(|ty| time(&ty).cloned());
            own.into_iter().collect()
        };
        computed.inputs.iter().map(of).collect()
    }

    /// Why the number of a source would be misread, if it counts a time in another unit.
    fn other_unit(&self, source: &Source, target: &Type) -> Option<String> {
        let target = time(target)?;
        let counts = self.counts(source);
        let other = counts.iter().find(|ty| unit(ty) != unit(target))?;
        Some(format!(
            "its number counts as {other} does, and would be taken for {target}"
        ))
    }

    /// Every place where the configuration uses a value, and whether some records may bypass it: by its step's `when`, or by a filter before it.
    fn places(&self) -> Vec<(&Place, bool)> {
        let (mut places, mut filtered) = (Vec::new(), false);
        for step in &self.program.steps {
            places.extend(step.when.iter().map(|place| (place, filtered)));
            let guarded = filtered || step.when.is_some();
            places.extend(places_of(step).into_iter().map(|place| (place, guarded)));
            filtered |= matches!(step.action, Action::Filter(_));
        }
        let outputs = self.program.outputs.iter().map(|(_, place)| place);
        places.extend(outputs.chain(&self.program.key).map(|place| (place, filtered)));
        places
    }

    /// The types of a general expression's inputs.
    fn inputs(&self, computed: &ComputedSource) -> Vec<Type> {
        let of = |input| self.of(input).unwrap_or(Type::Any);
        computed.inputs.iter().map(of).collect()
    }

    /// Whether a value comes from an expression that ends in a map or record, which fails whenever it is not null.
    fn ends_in_map(&self, place: &Place) -> bool {
        match &place.source {
            Source::Computed(computed) => computed.expression.ends_in_map(&self.inputs(computed)),
            _ => false,
        }
    }

    fn check(&self, findings: &mut Vec<Finding>, warnings: &mut Vec<Finding>) {
        for (place, guarded) in self.places() {
            if self.ends_in_map(place) {
                let message = format!(
                    "{} is a map or contains one, which an expression cannot return",
                    place.what
                );
                findings.push(Finding::new(place.span, message).help(
                    "a record or map is taken whole by a path alone, as in event.user; of more than that, name its fields one by one",
                ));
            }
            let Source::Computed(computed) = &place.source else {
                continue;
            };
            let inputs = self.inputs(computed);
            if let Some(mistaken) = computed.expression.mistaken(&inputs) {
                let found = if mistaken.fails && !guarded {
                    &mut *findings
                } else {
                    &mut *warnings
                };
                found.push(Finding::new(place.span, mistaken.message).help(mistaken.help));
            }
            if let Some((a, b, always)) = computed.expression.different_units(&self.times(computed), &inputs) {
                let message = format!("a number that counts as {a} does and one that counts as {b} does meet here");
                let found = if always && !guarded {
                    &mut *findings
                } else {
                    &mut *warnings
                };
                found.push(Finding::new(place.span, message).help(UNITS));
            }
            if let Some(field) = computed.expression.unknown_field(&inputs) {
                let message = format!("there is no field '{}' where this expression asks for it", field.name);
                let help = match field.known.as_slice() {
                    [] => "the record there has no fields".to_owned(),
                    known => format!("the record there has {}", known.join(", ")),
                };
                findings.push(Finding::new(place.span, message).help(help));
            }
        }
        let mut filtered = false;
        // Fields that an earlier look-up binds where a record without a row ends. A null finds no row, so later steps
        // never see a null in them.
        let mut asked: Vec<usize> = Vec::new();
        for step in &self.program.steps {
            let guarded = filtered || step.when.is_some();
            if let Some(when) = &step.when {
                self.condition(when, findings);
            }
            match &step.action {
                Action::Lookup(l) => {
                    self.markers(&l.statement, &l.binds, guarded, findings, warnings);
                    if step.when.is_none() && matches!(l.on_missing, OnMissing::Skip | OnMissing::DeadLetter) {
                        asked.extend(l.binds.iter().filter_map(|place| match place.source {
                            Source::Event(slot) => Some(slot),
                            _ => None,
                        }));
                    }
                }
                Action::Reference(refer) => {
                    if let Some(ty) = self.of(&refer.key.source) {
                        findings.extend(wrong_key(&refer.key, &ty, &refer.reference));
                    }
                }
                Action::Write(w) => {
                    self.markers(&w.statement, &w.binds, guarded, findings, warnings);
                    if !guarded {
                        self.null_keys(&w.statement, &w.binds, &asked, warnings);
                    }
                }
                Action::Custom(custom) => {
                    for (place, (name, wanted)) in custom.binds.iter().zip(&custom.takes) {
                        if let Some(ty) = self.of(&place.source) {
                            findings.extend(not_taken(place, &ty, name, wanted));
                        }
                    }
                }
                Action::Filter(condition) => {
                    self.condition(condition, findings);
                    filtered = true;
                }
                Action::Set { .. } => {}
            }
        }
        if let Some(key) = &self.program.key
            && let Some(ty) = self.of(&key.source)
            && !can_be_key(&ty)
        {
            let message = format!(
                "a key is text, bytes, a UUID or a whole number, and {} is {ty}",
                key.what
            );
            findings.push(Finding::new(key.span, message).help("make text of it: string(...)"));
        }
    }

    /// `guarded` means that only some records reach the statement.
    fn markers(
        &self,
        statement: &Statement,
        binds: &[Place],
        guarded: bool,
        findings: &mut Vec<Finding>,
        warnings: &mut Vec<Finding>,
    ) {
        for (marker, place) in statement.markers().iter().zip(binds) {
            if let Some(ty) = self.of(&place.source)
                && let Err(why) = bindable(&ty, &marker.ty)
            {
                findings.push(mismatch(place, &marker.name, &why));
            } else if let Some(literal) = self.constant(&place.source)
                && let Some(why) = not_held(literal, marker)
            {
                let message = format!("{} cannot take {}: {why}", called(&marker.name), place.what);
                let help = match marker.name.as_str() {
                    TTL_MARKER => "change the literal: 0 means for ever, or the table's default",
                    _ => "change the literal, or the column's type",
                };
                let found = if guarded || self.is_set_at_times(&place.source) {
                    &mut *warnings
                } else {
                    &mut *findings
                };
                found.push(Finding::new(place.span, message).help(help));
            }
            if takes_timestamps(&marker.ty)
                && let Some(why) = self.other_unit(&place.source, &Type::Timestamp(Unit::Millis))
            {
                let message = format!("marker :{} cannot take {}: {why}", marker.name, place.what);
                findings.push(Finding::new(place.span, message).help(format!("{UNITS}; a path alone needs nothing")));
            }
        }
    }

    /// Warns about fields that may be null and are bound to a primary key of a write, except those that an earlier look-up has `asked` by. A look-up's
    /// value may always be null, and its `on_missing` covers that.
    fn null_keys(&self, statement: &Statement, binds: &[Place], asked: &[usize], warnings: &mut Vec<Finding>) {
        for (index, (marker, place)) in statement.markers().iter().zip(binds).enumerate() {
            if statement.is_key(index)
                && let Source::Event(slot) = place.source
                && let Type::Nullable(_) = self.plan.slot_type(slot)
                && !asked.contains(&slot)
            {
                let (name, what) = (&marker.name, &place.what);
                let message = format!(
                    "marker :{name} is in the primary key and {what} may be null: a record without it becomes a dead letter, or halts a pipeline \
                     without a topic for these"
                );
                let help = format!("give the step when = \"{what} != null\", or bind a field that is never null");
                warnings.push(Finding::new(place.span, message).help(help));
            }
        }
    }

    fn condition(&self, place: &Place, findings: &mut Vec<Finding>) {
        // For a version without the field, `has(event.x) ? event.x : null` is null, which does not hold: not an error.
        let absent = |ty: &Type| *ty == Type::Null && self.constant(&place.source).is_none();
        if let Some(ty) = self.of(&place.source)
            && *ty.non_null() != Type::Bool
            && !absent(&ty)
        {
            findings.push(
                Finding::new(
                    place.span,
                    format!("a condition is true or false, and {} is {ty}", place.what),
                )
                .help("compare it with something, as in event.kind == 'click'"),
            );
        }
    }

    fn given_fields(&self, schema: &Schema, findings: &mut Vec<Finding>, warnings: &mut Vec<Finding>) {
        let cannot = |name: &str, place: &Place, why: String| {
            let message = format!("field '{name}' of the output schema cannot take {}: {why}", place.what);
            Finding::new(place.span, message)
        };
        for (name, place) in &self.program.outputs {
            let ty = self.of(&place.source);
            if let Some(ty) = &ty
                && let Err(why) = schema.takes(&name.value, ty)
            {
                findings.push(cannot(&name.value, place, why).help(
                    "convert it with a CEL function such as string(...), int(...) or double(...), or change the field's type in the sink's `schema`",
                ));
            } else if let Some(target) = schema.field_type(&name.value) {
                if let Some(why) = self.other_unit(&place.source, &target) {
                    findings.push(cannot(&name.value, place, why).help(UNITS));
                }
                match self.constant(&place.source) {
                    Some(literal) => findings.extend(schema.holds(&name.value, literal).err().map(|why| {
                        let help = "change the literal, or the field's type in the sink's `schema`";
                        cannot(&name.value, place, why.to_string()).help(help)
                    })),
                    None => warnings.extend(
                        ty.as_ref()
                            .and_then(|ty| narrowed(&name.value, &place.what, place.span, ty, &target)),
                    ),
                }
                warnings.extend(ty.and_then(|ty| cut_off(&name.value, &place.what, place.span, &ty, &target)));
            }
            warnings.extend(self.several(place));
        }
    }

    /// The finding about a value that loses the information which of several types it was.
    fn several(&self, place: &Place) -> Option<Finding> {
        let whole = self.whole(&place.source);
        whole.filter(|node| has_several(self.plan.writer(), *node))?;
        let message = format!(
            "{} may be one of several records, enums or fixed types, and a value that `set` gives goes by what is in it, not by its name",
            place.what
        );
        let help = "leave it out of `set`: input fields go by name and alias";
        Some(Finding::new(place.span, message).help(help))
    }

    fn new_fields(&self, findings: &mut Vec<Finding>, warnings: &mut Vec<Finding>) -> Vec<NewField> {
        let mut fields = Vec::new();
        for (name, place) in &self.program.outputs {
            warnings.extend(self.several(place));
            match self.of(&place.source) {
                Some(ty) if ty != Type::Any && ty != Type::Null => {
                    fields.push(NewField {
                        name: name.value.clone(),
                        ty,
                        node: self.whole(&place.source),
                    });
                }
                // This has been reported already.
                _ if self.ends_in_map(place) => {}
                _ => findings.push(
                    Finding::new(
                        place.span,
                        format!("the type of '{}' cannot be inferred from this expression", name.value),
                    )
                    .help("state it with a conversion: string(...), int(...), double(...) or bool(...); for a list, give the sink a `schema`"),
                ),
            }
        }
        fields
    }
}

#[cfg(test)]
mod tests;
