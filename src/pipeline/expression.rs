//! Values and conditions of the configuration: paths, literals, `now()`, and CEL for the rest.
//!
//! A plain path (`event.user.id`, `profile.score`) becomes a [`Reference`] and never reaches the interpreter. In a general expression every maximal
//! path is cut out of the syntax tree and replaced by a variable, so that the interpreter gets exactly the values that the expression needs and no
//! tree of the event is built.
//!
//! Types in CEL: integers of all widths are `int`; floats `double`; text, enum symbols and UUIDs `string`; bytes and fixed `bytes`; dates `int` in
//! days; times and timestamps `int` in their own unit; decimals `double` (`string(PATH)` gives text with all their digits, as for floats; `int(PATH)`
//! the whole number); records and maps `map`; arrays `list`; an absent value `null`.
//!
//! Null: `==`, `!=` and the search of `in` in a list treat null as a value of its own, unlike SQL: `!= 'test'` holds for an absent value. An operator
//! that fails on a null (`null > 1`), orders something that is not a number (`0.0 / 0.0 > 1.0`), or uses a missing key or index, gives null; a
//! condition that is null does not hold, as in SQL.

mod convert;
mod guarded;
mod inputs;
mod types;

use std::borrow::Cow;
use std::sync::Arc;

use cel::common::ast::{CallExpr, Expr, ListExpr, LiteralValue, operators};
use cel::common::value::Val;
use cel::{Context, Env, ExecutionError, IdedExpr, Program};

use crate::avro::path;
use crate::avro::value::{Type, Unit, Value};
use crate::config::values::is_identifier;
use convert::from_cel;
use guarded::bare_paths;
use inputs::{Inputs, Seen, for_ever_for_zero, take_lists};
pub use types::{Mistaken, UnknownField, time, unit};

/// What a path refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A field of the event, as a path below `event`; empty for the event itself.
    Event(String),
    /// A property of the Kafka record.
    Record(RecordField),
    /// A column of a look-up, or a name from a `set` step.
    Step {
        /// Name of the step.
        step: String,
        /// Name of the column.
        column: String,
    },
}

/// The properties of a record that expressions can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordField {
    /// `record.key`: bytes, or null.
    Key,
    /// `record.topic`.
    Topic,
    /// `record.partition`.
    Partition,
    /// `record.offset`.
    Offset,
    /// `record.timestamp`: milliseconds, or null where the record has none.
    Timestamp,
    /// `record.datum`: the value's Avro bytes, without the Confluent framing.
    Datum,
}

impl RecordField {
    /// Its name after `record.`.
    pub fn name(&self) -> &'static str {
        match self {
            RecordField::Key => "key",
            RecordField::Topic => "topic",
            RecordField::Partition => "partition",
            RecordField::Offset => "offset",
            RecordField::Timestamp => "timestamp",
            RecordField::Datum => "datum",
        }
    }

    /// The type of the property.
    pub fn value_type(&self) -> Type {
        match self {
            RecordField::Key => Type::Bytes.nullable(),
            RecordField::Topic => Type::String,
            RecordField::Partition => Type::Int,
            RecordField::Offset => Type::Long,
            RecordField::Timestamp => Type::Timestamp(Unit::Millis).nullable(),
            RecordField::Datum => Type::Bytes,
        }
    }
}

/// A parsed value or condition.
#[derive(Debug, Clone)]
pub enum Expression {
    /// A plain path.
    Path(Reference),
    /// A literal.
    Constant(Value<'static>),
    /// The wall clock when the record is processed.
    Now,
    /// Anything else: CEL over the inputs.
    Computed(Computed),
}

/// A general expression: CEL whose variables `@0`, `@1`, … stand for `inputs`.
#[derive(Debug, Clone)]
pub struct Computed {
    /// The complete tree, with all literals, for static analysis.
    tree: Arc<IdedExpr>,
    /// The tree that is evaluated: variables in it stand for `lists`.
    run: Arc<IdedExpr>,
    lists: Arc<[Box<dyn Val>]>,
    /// What the variables stand for, in order.
    pub inputs: Vec<Reference>,
    /// How CEL sees each input.
    seen: Arc<[Seen]>,
    /// Whether has() guards each input.
    guarded: Arc<[bool]>,
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// Not CEL.
    #[error("this is not an expression: {0}")]
    Syntax(String),
    /// A path that starts with an unknown name.
    #[error("there is no '{name}' here; known are event, record{}", .steps.iter().map(|s| format!(", {s}")).collect::<String>())]
    UnknownName {
        /// The name.
        name: String,
        /// The steps before this one.
        steps: Vec<String>,
    },
    /// `record.x` for an unknown x.
    #[error("a record has no '{0}'; it has key, topic, partition, offset, timestamp and datum")]
    UnknownRecordField(String),
    /// A step's name without a column.
    #[error("'{0}' is a step; name one of its columns, as in {0}.column")]
    WholeStep(String),
    /// A function that CEL does not have here.
    #[error("there is no function '{0}'")]
    UnknownFunction(String),
}

/// Stands for a literal 0 in a lifetime. A computed lifetime may also come to 0, and is then over, while the literal
/// means for ever.
pub(super) const FOR_EVER: i64 = i64::MIN;

/// What CEL reads as a literal or an operator, even after a dot.
const KEYWORDS: [&str; 4] = ["false", "in", "null", "true"];

/// A field or a column as it is written after its owner: `.name`, or `['name']` if CEL does not accept `.name` as a
/// path.
pub fn member(name: &str) -> String {
    let part = if is_identifier(name) && !KEYWORDS.contains(&name) {
        path::Part::Name
    } else {
        path::Part::Key
    };
    part(name.to_owned()).to_string()
}

/// Whether a keyword follows a dot: CEL does not accept that as a path, but its author means one.
pub fn has_keyword_behind_dot(text: &str) -> bool {
    text.split('.').skip(1).any(|part| {
        let end = part.find(|c: char| !(c.is_alphanumeric() || c == '_'));
        KEYWORDS.contains(&&part[..end.unwrap_or(part.len())])
    })
}

/// Parses an expression; `steps` are the names of the steps before it.
pub fn parse(text: &str, steps: &[&str]) -> Result<Expression, ExpressionError> {
    let trimmed = text.trim();
    if trimmed == "now()" {
        return Ok(Expression::Now);
    }
    let program = Program::compile(trimmed).map_err(|e| {
        let text = e.to_string();
        ExpressionError::Syntax(
            text.lines()
                .map(str::trim)
                .filter(|l| !l.is_empty())
                .collect::<Vec<_>>()
                .join("; "),
        )
    })?;
    let mut tree = program.expression().clone();
    if let Some(constant) = literal(&tree.expr) {
        return Ok(Expression::Constant(constant));
    }
    if let Some(reference) = path_of(&tree.expr, steps)? {
        return Ok(Expression::Path(reference));
    }
    let mut inputs = Vec::new();
    let mut bound = Vec::new();
    let bare = bare_paths(&tree.expr, steps);
    cut_paths(&mut tree, steps, &mut inputs, &mut bound)?;
    let mut run = tree.clone();
    let mut lists = Vec::new();
    take_lists(&mut run, &mut lists);
    let (inputs, seen): (Vec<_>, Vec<_>) = inputs.into_iter().unzip();
    let guarded = inputs.iter().map(|input| !bare.contains(input)).collect();
    Ok(Expression::Computed(Computed {
        tree: Arc::new(tree),
        run: Arc::new(run),
        lists: lists.into(),
        inputs,
        seen: seen.into(),
        guarded,
    }))
}

fn literal(expr: &Expr) -> Option<Value<'static>> {
    match expr {
        Expr::Literal(l) => Some(match l {
            LiteralValue::Boolean(v) => Value::Bool(*v.inner()),
            LiteralValue::Bytes(v) => Value::Bytes(Cow::Owned(v.inner().to_vec())),
            LiteralValue::Double(v) => Value::Double(*v.inner()),
            LiteralValue::Int(v) => Value::Long(*v.inner()),
            LiteralValue::UInt(v) => Value::Long(i64::try_from(*v.inner()).ok()?),
            LiteralValue::String(v) => Value::String(Cow::Owned(v.inner().to_string())),
            LiteralValue::Null => Value::Null,
        }),
        Expr::Call(call) if call.func_name == operators::NEGATE && call.args.len() == 1 => {
            match literal(&call.args[0].expr)? {
                Value::Long(v) => v.checked_neg().map(Value::Long),
                Value::Double(v) => Some(Value::Double(-v)),
                _ => None,
            }
        }
        _ => None,
    }
}

enum Part<'a> {
    Field(&'a str),
    Index(i64),
    Key(&'a str),
}

/// The head and the parts of `head.a[0]['k']`; none if the expression is anything else.
fn chain(expr: &Expr) -> Option<(&str, Vec<Part<'_>>)> {
    match expr {
        Expr::Ident(name) => Some((name, Vec::new())),
        Expr::Select(select) if !select.test => {
            let (head, mut parts) = chain(&select.operand.expr)?;
            parts.push(Part::Field(&select.field));
            Some((head, parts))
        }
        Expr::Call(call) if call.func_name == operators::INDEX && call.args.len() == 2 => {
            let (head, mut parts) = chain(&call.args[0].expr)?;
            parts.push(match &call.args[1].expr {
                Expr::Literal(LiteralValue::Int(i)) if *i.inner() >= 0 => Part::Index(*i.inner()),
                Expr::Literal(LiteralValue::String(s)) => Part::Key(s.inner()),
                _ => return None,
            });
            Some((head, parts))
        }
        _ => None,
    }
}

fn path_of(expr: &Expr, steps: &[&str]) -> Result<Option<Reference>, ExpressionError> {
    let Some((head, parts)) = chain(expr) else {
        return Ok(None);
    };
    let reference = match head {
        "event" => {
            let mut text = String::new();
            for part in &parts {
                match part {
                    Part::Field(name) if text.is_empty() => text.push_str(name),
                    Part::Field(name) => {
                        text.push('.');
                        text.push_str(name);
                    }
                    Part::Index(i) => text.push_str(&format!("[{i}]")),
                    Part::Key(k) => text.push_str(&path::Part::Key((*k).to_owned()).to_string()),
                }
            }
            Reference::Event(text)
        }
        "record" => Reference::Record(match parts.as_slice() {
            [Part::Field("key")] => RecordField::Key,
            [Part::Field("topic")] => RecordField::Topic,
            [Part::Field("partition")] => RecordField::Partition,
            [Part::Field("offset")] => RecordField::Offset,
            [Part::Field("timestamp")] => RecordField::Timestamp,
            [Part::Field("datum")] => RecordField::Datum,
            [Part::Field(other), ..] => return Err(ExpressionError::UnknownRecordField((*other).to_owned())),
            _ => return Err(ExpressionError::UnknownRecordField(String::new())),
        }),
        step if steps.contains(&step) => match parts.as_slice() {
            [Part::Field(column) | Part::Key(column)] => Reference::Step {
                step: step.to_owned(),
                column: (*column).to_owned(),
            },
            [] => return Err(ExpressionError::WholeStep(step.to_owned())),
            _ => return Ok(None),
        },
        other => {
            return Err(ExpressionError::UnknownName {
                name: other.to_owned(),
                steps: steps.iter().map(|s| (*s).to_owned()).collect(),
            });
        }
    };
    Ok(Some(reference))
}

/// The path that an expression is, unless its head is a variable of an enclosing comprehension.
fn free_path(expr: &Expr, steps: &[&str], bound: &[String]) -> Result<Option<Reference>, ExpressionError> {
    if chain(expr).is_some_and(|(head, _)| bound.iter().any(|b| b == head)) {
        return Ok(None);
    }
    path_of(expr, steps)
}

/// Replaces every path by a variable. `bound` are the variables of the enclosing comprehensions. A path inside `string()` is an input
/// of its own; so is one inside `int()`, and one that a macro iterates over.
fn cut_paths(
    node: &mut IdedExpr,
    steps: &[&str],
    inputs: &mut Vec<(Reference, Seen)>,
    bound: &mut Vec<String>,
) -> Result<(), ExpressionError> {
    if let Some(reference) = free_path(&node.expr, steps, bound)? {
        node.expr = Expr::Ident(variable(reference, Seen::Plain, inputs));
        return Ok(());
    }
    match &mut node.expr {
        Expr::Select(select) if select.test => {
            // has(event.a): whether the value exists and is not null.
            let operand = Expr::Select(cel::common::ast::SelectExpr {
                test: false,
                ..select.clone()
            });
            if let Some(reference) = free_path(&operand, steps, bound)? {
                let expr = Expr::Ident(variable(reference, Seen::Plain, inputs));
                node.expr = not_null(IdedExpr { id: node.id, expr });
                return Ok(());
            }
            cut_paths(&mut select.operand, steps, inputs, bound)?;
            // CEL's own has() only asks for the key, which a null field has, too; and it fails if the operand is null or absent.
            let value = Expr::Select(cel::common::ast::SelectExpr {
                test: false,
                ..select.clone()
            });
            let mut first = there(&select.operand);
            let id = node.id;
            let expr = |expr| IdedExpr { id, expr };
            for next in [std::mem::take(&mut node.expr), not_null(expr(value))] {
                first = call(operators::LOGICAL_AND, [expr(first), expr(next)]);
            }
            node.expr = first;
            Ok(())
        }
        Expr::Select(select) => cut_paths(&mut select.operand, steps, inputs, bound),
        Expr::Call(call) => {
            if !exists(call) {
                return Err(ExpressionError::UnknownFunction(call.func_name.clone()));
            }
            if let Some(target) = &mut call.target {
                cut_paths(target, steps, inputs, bound)?;
            }
            let seen = match call.func_name.as_str() {
                "string" => Seen::Text,
                "int" => Seen::Whole,
                _ => Seen::Plain,
            };
            if seen != Seen::Plain
                && let (None, [of]) = (&call.target, call.args.as_mut_slice())
                && let Some(reference) = free_path(&of.expr, steps, bound)?
            {
                of.expr = Expr::Ident(variable(reference, seen, inputs));
                return Ok(());
            }
            call.args
                .iter_mut()
                .try_for_each(|a| cut_paths(a, steps, inputs, bound))
        }
        Expr::List(list) => list
            .elements
            .iter_mut()
            .try_for_each(|e| cut_paths(e, steps, inputs, bound)),
        Expr::Map(map) => map.entries.iter_mut().try_for_each(|e| match &mut e.expr {
            cel::common::ast::EntryExpr::MapEntry(m) => {
                cut_paths(&mut m.key, steps, inputs, bound)?;
                cut_paths(&mut m.value, steps, inputs, bound)
            }
            cel::common::ast::EntryExpr::StructField(f) => cut_paths(&mut f.value, steps, inputs, bound),
        }),
        Expr::Struct(s) => s.entries.iter_mut().try_for_each(|e| match &mut e.expr {
            cel::common::ast::EntryExpr::MapEntry(m) => {
                cut_paths(&mut m.key, steps, inputs, bound)?;
                cut_paths(&mut m.value, steps, inputs, bound)
            }
            cel::common::ast::EntryExpr::StructField(f) => cut_paths(&mut f.value, steps, inputs, bound),
        }),
        Expr::Comprehension(c) => {
            match free_path(&c.iter_range.expr, steps, bound)? {
                Some(reference) if c.iter_var2.is_none() => {
                    c.iter_range.expr = Expr::Ident(variable(reference, Seen::Keys, inputs));
                }
                _ => cut_paths(&mut c.iter_range, steps, inputs, bound)?,
            }
            cut_paths(&mut c.accu_init, steps, inputs, bound)?;
            let depth = bound.len();
            bound.extend([c.iter_var.clone(), c.accu_var.clone()]);
            bound.extend(c.iter_var2.clone());
            for part in [&mut c.loop_cond, &mut c.loop_step, &mut c.result] {
                cut_paths(part, steps, inputs, bound)?;
            }
            bound.truncate(depth);
            Ok(())
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Ok(()),
    }
}

/// Whether a function of this name exists, or a method if it is called as one. The interpreter is asked by a call without arguments.
fn exists(call: &CallExpr) -> bool {
    if !call.func_name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return true; // An operator.
    }
    let ided = |expr| IdedExpr { id: 0, expr };
    let target = call.target.as_ref();
    let probe = ided(Expr::Call(CallExpr {
        func_name: call.func_name.clone(),
        target: target.map(|_| Box::new(ided(Expr::Literal(LiteralValue::Null)))),
        args: Vec::new(),
    }));
    let context = Context::with_env(Interpreter::default().0);
    !matches!(
        cel::Value::resolve(&probe, &context),
        Err(ExecutionError::UndeclaredReference(_))
    )
}

/// Whether a value exists and is not null, with every field, key and index on the path to it. Any other error in it fails as it would anyway.
fn there(value: &IdedExpr) -> Expr {
    let id = value.id;
    let ided = |expr| IdedExpr { id, expr };
    let known = match &value.expr {
        Expr::Select(select) if !select.test => {
            let field = Expr::Literal(LiteralValue::String(select.field.clone().into()));
            Some((
                &*select.operand,
                call(operators::IN, [ided(field), (*select.operand).clone()]),
            ))
        }
        Expr::Call(indexed) if indexed.func_name == operators::INDEX => match indexed.args.as_slice() {
            [of, index] => {
                let kind = |of| ided(call("type", [of]));
                let list = call(
                    operators::EQUALS,
                    [kind(of.clone()), kind(ided(Expr::List(ListExpr::default())))],
                );
                let item = call(operators::LESS, [index.clone(), ided(call("size", [of.clone()]))]);
                let key = call(operators::IN, [index.clone(), of.clone()]);
                Some((of, call(operators::CONDITIONAL, [ided(list), ided(item), ided(key)])))
            }
            _ => None,
        },
        _ => None,
    };
    let itself = not_null(value.clone());
    match known {
        Some((of, within)) => {
            let known = call(operators::LOGICAL_AND, [ided(there(of)), ided(within)]);
            call(operators::LOGICAL_AND, [ided(known), ided(itself)])
        }
        None => itself,
    }
}

fn not_null(value: IdedExpr) -> Expr {
    let null = IdedExpr {
        id: value.id,
        expr: Expr::Literal(LiteralValue::Null),
    };
    call(operators::NOT_EQUALS, [value, null])
}

fn call<const N: usize>(function: &str, args: [IdedExpr; N]) -> Expr {
    Expr::Call(CallExpr {
        func_name: function.to_owned(),
        target: None,
        args: args.into(),
    })
}

/// Prefix of the variables for inputs in an expression's tree. No name that users can write starts with it, and a macro's own variables, such as
/// `@result`, have no number after it.
const INPUT: char = '@';

fn variable(reference: Reference, seen: Seen, inputs: &mut Vec<(Reference, Seen)>) -> String {
    let input = (reference, seen);
    let index = inputs.iter().position(|known| *known == input).unwrap_or_else(|| {
        inputs.push(input);
        inputs.len() - 1
    });
    format!("{INPUT}{index}")
}

/// The interpreter's functions and operators, created once per pipeline.
#[derive(Clone)]
pub struct Interpreter(Arc<Env>);

impl Default for Interpreter {
    fn default() -> Self {
        Interpreter(Arc::new(Env::stdlib()))
    }
}

impl std::fmt::Debug for Interpreter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interpreter")
    }
}

impl Computed {
    /// From here on gives `FOR_EVER` for a literal 0 in a branch whose value is the whole result.
    pub fn zero_to_for_ever(&mut self) {
        for_ever_for_zero(Arc::make_mut(&mut self.run));
    }

    /// Evaluates the expression over the values of `inputs`, in their order. CEL has no operators on null, so, as in SQL, a result
    /// computed from an absent value is absent, at whatever depth of an input it is missing. The error contains no values.
    pub fn evaluate(&self, interpreter: &Interpreter, inputs: &[Value<'_>]) -> Result<Value<'static>, String> {
        let inputs = Inputs::of(inputs, &self.seen, &self.lists)?;
        let mut context = Context::with_env(interpreter.0.clone());
        context.set_variable_resolver(&inputs);
        match cel::Value::resolve(&self.run, &context) {
            Ok(result) => from_cel(result),
            Err(ExecutionError::NoSuchKey(_) | ExecutionError::IndexOutOfBounds(_)) => Ok(Value::Null),
            Err(error) if meets_null(&error) || meets_nan(&error) => Ok(Value::Null),
            Err(error) => Err(told(&error)),
        }
    }
}

/// Whether an operator or function failed because of a null. A failure over values that exist is an error, whatever else is absent. If both
/// operands of `&&` or `||` fail, the right one decides.
fn meets_null(error: &ExecutionError) -> bool {
    let null = |value: &cel::Value| matches!(value, cel::Value::Null);
    match error {
        ExecutionError::NoSuchOverload(call) => call.argument_types().iter().any(|ty| ty == NULL),
        ExecutionError::UnexpectedType { got, .. } => got == NULL,
        ExecutionError::UnsupportedTargetType { target } | ExecutionError::NotSupportedAsMethod { target, .. } => {
            null(target)
        }
        ExecutionError::UnsupportedKeyType(key) => null(key),
        ExecutionError::UnsupportedBinaryOperator(_, a, b)
        | ExecutionError::ValuesNotComparable(a, b)
        | ExecutionError::UnsupportedIndex(a, b) => null(a) || null(b),
        _ => false,
    }
}

/// Whether an ordering comparison failed because one of the numbers is NaN: CEL orders all others, of any types.
fn meets_nan(error: &ExecutionError) -> bool {
    let ExecutionError::NoSuchOverload(call) = error else {
        return false;
    };
    let orders = matches!(
        call.function(),
        operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS
    );
    let is_number = |ty: &String| matches!(ty.as_str(), "double" | "int" | "uint");
    orders && call.argument_types().iter().all(is_number)
}

/// CEL's name for the type of null.
const NULL: &str = "null_type";

/// An error in words, with names and types only. CEL's own messages contain the values, and this text is logged.
fn told(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchOverload(call) => {
            format!(
                "{} is not defined for {}",
                call.function(),
                call.argument_types().join(" and ")
            )
        }
        ExecutionError::UnsupportedBinaryOperator(operator, a, b) => {
            format!("{operator} is not defined for {} and {}", a.type_of(), b.type_of())
        }
        ExecutionError::ValuesNotComparable(a, b) => {
            format!("{} and {} cannot be compared", a.type_of(), b.type_of())
        }
        ExecutionError::UnsupportedIndex(index, of) => {
            format!("this {} cannot index a {}", index.type_of(), of.type_of())
        }
        ExecutionError::UnsupportedKeyType(key) => format!("a {} cannot be the key of a map", key.type_of()),
        ExecutionError::UnsupportedTargetType { target } => {
            format!("this method is not defined for a {}", target.type_of())
        }
        ExecutionError::NotSupportedAsMethod { method, target } => {
            format!("method {method} is not defined for a {}", target.type_of())
        }
        ExecutionError::UnexpectedType { got, want } => format!("{got} where {want} is expected"),
        ExecutionError::FunctionError { function, message } => format!("{function}(): {message}"),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".to_owned(),
        ExecutionError::Overflow(operator, ..) => format!("{operator} overflows an int"),
        ExecutionError::DuplicateKey(_) => "a map has a key twice".to_owned(),
        ExecutionError::UndeclaredReference(_)
        | ExecutionError::InvalidArgumentCount { .. }
        | ExecutionError::MissingArgumentOrTarget => error.to_string(),
        _ => "it cannot be evaluated".to_owned(),
    }
}

#[cfg(test)]
mod tests;
