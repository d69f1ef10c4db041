//! Values and conditions as the configuration writes them: paths, literals, `now()`, and CEL for the rest.
//!
//! A plain path (`event.user.id`, `profile.score`) becomes a [`Reference`] and never reaches the interpreter. In a general
//! expression every maximal path is cut out of the syntax tree and replaced by a variable, so that the interpreter is given
//! exactly the scalars that the expression needs and no tree of the event is built.
//!
//! What CEL sees: integers of all widths as `int`, floats as `double`, text, enum symbols and UUIDs as `string`, bytes and
//! fixed as `bytes`, dates as `int` days, times and timestamps as `int` in their own unit, decimals as `double`, records and
//! maps as `map`, arrays as `list`, an absent value as `null`. `==` and `!=` work on null; what fails on a null
//! (`null > 1`), or asks for a key or an index that is not there, gives null, and a condition that is null does not hold, as in SQL.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use cel::common::ast::{Expr, LiteralValue, operators};
use cel::{Context, Env, ExecutionError, IdedExpr, Program};

use crate::avro::value::{Type, Unit, Value};

/// What a path points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A field of the event, as a path below `event`; empty for the event itself.
    Event(String),
    /// A property of the Kafka record.
    Record(RecordField),
    /// A column that a look-up answers, or a name that a `set` step gives.
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
    /// Its name behind `record.`.
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

/// A general expression: CEL whose variables `v0`, `v1`, … stand for `inputs`.
#[derive(Debug, Clone)]
pub struct Computed {
    tree: Arc<IdedExpr>,
    /// What the variables stand for, in order.
    pub inputs: Vec<Reference>,
    names: Arc<[String]>,
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
}

/// Parses an expression; `steps` are the names of the steps that come before it.
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
    cut_paths(&mut tree, steps, &mut inputs, &mut bound)?;
    let names = (0..inputs.len()).map(|i| format!("{INPUT}{i}")).collect();
    Ok(Expression::Computed(Computed {
        tree: Arc::new(tree),
        inputs,
        names,
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

/// The head and the parts of `head.a[0]['k']`, or none where the expression is anything else.
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
            let mut path = String::new();
            for part in &parts {
                match part {
                    Part::Field(name) if path.is_empty() => path.push_str(name),
                    Part::Field(name) => {
                        path.push('.');
                        path.push_str(name);
                    }
                    Part::Index(i) => path.push_str(&format!("[{i}]")),
                    Part::Key(k) => path.push_str(&format!("['{k}']")),
                }
            }
            Reference::Event(path)
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
            [Part::Field(column)] => Reference::Step {
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

/// Replaces every path by a variable. `bound` are the variables of the comprehensions around.
fn cut_paths(
    node: &mut IdedExpr,
    steps: &[&str],
    inputs: &mut Vec<Reference>,
    bound: &mut Vec<String>,
) -> Result<(), ExpressionError> {
    let head_is_bound = chain(&node.expr).is_some_and(|(head, _)| bound.iter().any(|b| b == head));
    if !head_is_bound && let Some(reference) = path_of(&node.expr, steps)? {
        node.expr = Expr::Ident(variable(reference, inputs));
        return Ok(());
    }
    match &mut node.expr {
        Expr::Select(select) if select.test => {
            // has(event.a): whether the value is there.
            let operand = Expr::Select(cel::common::ast::SelectExpr {
                test: false,
                ..select.clone()
            });
            let bound_head = chain(&operand).is_some_and(|(head, _)| bound.iter().any(|b| b == head));
            if !bound_head && let Some(reference) = path_of(&operand, steps)? {
                let id = node.id;
                let expr = |expr| IdedExpr { id, expr };
                let ident = Expr::Ident(variable(reference, inputs));
                let null = Expr::Literal(LiteralValue::Null);
                node.expr = call(operators::NOT_EQUALS, [expr(ident), expr(null)]);
                return Ok(());
            }
            cut_paths(&mut select.operand, steps, inputs, bound)?;
            // CEL's own has() asks for the key alone, and a field that is null has one.
            let value = Expr::Select(cel::common::ast::SelectExpr {
                test: false,
                ..select.clone()
            });
            let id = node.id;
            let test = std::mem::take(&mut node.expr);
            let expr = |expr| IdedExpr { id, expr };
            let not_null = call(
                operators::NOT_EQUALS,
                [expr(value), expr(Expr::Literal(LiteralValue::Null))],
            );
            node.expr = call(operators::LOGICAL_AND, [expr(test), expr(not_null)]);
            Ok(())
        }
        Expr::Select(select) => cut_paths(&mut select.operand, steps, inputs, bound),
        Expr::Call(call) => {
            if let Some(target) = &mut call.target {
                cut_paths(target, steps, inputs, bound)?;
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
            cut_paths(&mut c.iter_range, steps, inputs, bound)?;
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

fn call(operator: &str, args: [IdedExpr; 2]) -> Expr {
    Expr::Call(cel::common::ast::CallExpr {
        func_name: operator.to_owned(),
        target: None,
        args: args.into(),
    })
}

/// Begins the names of inputs in an expression's tree: no name that can be written begins so, and none of a macro's variables is taken for one.
const INPUT: char = '@';

fn variable(reference: Reference, inputs: &mut Vec<Reference>) -> String {
    let index = inputs.iter().position(|r| *r == reference).unwrap_or_else(|| {
        inputs.push(reference);
        inputs.len() - 1
    });
    format!("{INPUT}{index}")
}

/// The interpreter's functions and operators, made once per pipeline.
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
    /// Evaluates over the values of `inputs`, in their order. CEL has no operators on null: as in SQL, what is computed from an absent
    /// value is absent, wherever in the inputs it is missing. The error is CEL's own, in words.
    pub fn evaluate(&self, interpreter: &Interpreter, inputs: &[Value<'_>]) -> Result<Value<'static>, String> {
        let mut context = Context::with_env(interpreter.0.clone());
        for (name, value) in self.names.iter().zip(inputs) {
            context.add_variable_from_value(name.as_str(), to_cel(value));
        }
        let result = match cel::Value::resolve(&self.tree, &context) {
            Ok(result) => from_cel(result),
            Err(ExecutionError::NoSuchKey(_) | ExecutionError::IndexOutOfBounds(_)) => return Ok(Value::Null),
            Err(error) => Err(error.to_string()),
        };
        match result {
            Err(_) if inputs.iter().any(holds_null) => Ok(Value::Null),
            result => result,
        }
    }

    /// The type of the result, where it follows from the shape of the expression and the types of its inputs. It may be null
    /// wherever an input may be.
    pub fn result_type(&self, inputs: &[Type]) -> Option<Type> {
        let result = infer(&self.tree.expr, inputs)?;
        Some(if inputs.iter().any(Type::is_nullable) {
            result.nullable()
        } else {
            result
        })
    }

    /// The types of times whose number the expression gives, where `inputs` are those of each input: a time comes in as a plain number in
    /// its own unit, and as one it goes out. None where the number is another, several where branches differ.
    pub fn counts(&self, inputs: &[Vec<Type>]) -> Vec<Type> {
        counts(&self.tree.expr, inputs)
    }

    /// A field that is asked for and that no record of these inputs has, which would be null for ever. One that has() asks for may be missing.
    pub fn unknown_field(&self, inputs: &[Type]) -> Option<UnknownField> {
        let mut fields = Fields {
            inputs,
            bound: Vec::new(),
            unknown: Vec::new(),
            tested: Vec::new(),
        };
        fields.look(&self.tree.expr);
        let Fields { unknown, tested, .. } = fields;
        unknown.into_iter().find(|field| !tested.contains(&field.name.as_str()))
    }
}

/// A field that a record does not have, and those that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// The name that is asked for.
    pub name: String,
    /// The names that there are.
    pub known: Vec<String>,
}

/// Looks for fields that their records do not have.
struct Fields<'a> {
    inputs: &'a [Type],
    /// The variables of the comprehensions around whose types are known.
    bound: Vec<(&'a str, Type)>,
    unknown: Vec<UnknownField>,
    /// The fields that has() asks for: they may be missing.
    tested: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    fn look(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Select(select) => {
                self.look(&select.operand.expr);
                if select.test {
                    self.tested.push(&select.field);
                } else if let Some(Type::Record(fields)) = self.shape(&select.operand.expr)
                    && !fields.iter().any(|(name, _)| *name == select.field)
                {
                    self.unknown.push(UnknownField {
                        name: select.field.clone(),
                        known: fields.into_iter().map(|(name, _)| name).collect(),
                    });
                }
            }
            Expr::Call(call) => {
                let target = call.target.as_deref();
                target.into_iter().chain(&call.args).for_each(|e| self.look(&e.expr));
            }
            Expr::List(list) => list.elements.iter().for_each(|e| self.look(&e.expr)),
            Expr::Comprehension(c) => {
                self.look(&c.iter_range.expr);
                self.look(&c.accu_init.expr);
                let item = match self.shape(&c.iter_range.expr) {
                    Some(Type::List(item)) if c.iter_var2.is_none() => *item,
                    _ => Type::Any,
                };
                self.bound.push((&c.iter_var, item));
                for part in [&c.loop_cond, &c.loop_step, &c.result] {
                    self.look(&part.expr);
                }
                self.bound.pop();
            }
            // In the values of a map or a message nothing is looked for.
            Expr::Map(_) | Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    /// The type of an input, of a variable, or of what is in one.
    fn shape(&self, expr: &Expr) -> Option<Type> {
        let ty = match expr {
            Expr::Ident(name) => match self.bound.iter().rfind(|(bound, _)| bound == name) {
                Some((_, ty)) => ty.clone(),
                None => self.inputs.get(input(name)?)?.clone(),
            },
            Expr::Select(select) if !select.test => match self.shape(&select.operand.expr)? {
                Type::Record(fields) => fields.into_iter().find(|(name, _)| *name == select.field)?.1,
                _ => return None,
            },
            Expr::Call(call) if call.func_name == operators::INDEX => match self.shape(&call.args.first()?.expr)? {
                Type::List(item) | Type::Map(_, item) => *item,
                _ => return None,
            },
            _ => return None,
        };
        Some(ty.non_null().clone())
    }
}

fn counts(expr: &Expr, inputs: &[Vec<Type>]) -> Vec<Type> {
    match expr {
        Expr::Ident(name) => input(name).and_then(|i| inputs.get(i)).cloned().unwrap_or_default(),
        Expr::Call(call) => {
            let arg = |i: usize| {
                let arg = call.args.get(i);
                arg.map(|a| counts(&a.expr, inputs)).unwrap_or_default()
            };
            match call.func_name.as_str() {
                "int" => arg(0),
                operators::CONDITIONAL => [arg(1), arg(2)].concat(),
                // What is added to a time has no unit of its own. The difference of two is no time.
                operators::ADD if arg(0).is_empty() => arg(1),
                operators::ADD | operators::SUBSTRACT if arg(1).is_empty() => arg(0),
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

/// The number of the input that a variable stands for.
fn input(name: &str) -> Option<usize> {
    name.strip_prefix(INPUT)?.parse().ok()
}

fn infer(expr: &Expr, inputs: &[Type]) -> Option<Type> {
    match expr {
        Expr::Ident(name) => {
            let input = inputs.get(input(name)?)?;
            Some(match input.non_null() {
                Type::Int | Type::Long | Type::Date | Type::Time(_) | Type::Timestamp(_) | Type::LocalTimestamp(_) => {
                    rewrap(Type::Long, input)
                }
                Type::Float | Type::Double | Type::Decimal { .. } => rewrap(Type::Double, input),
                Type::String | Type::Enum(_) | Type::Uuid => rewrap(Type::String, input),
                Type::Bytes | Type::Fixed(_) => rewrap(Type::Bytes, input),
                Type::Bool => rewrap(Type::Bool, input),
                _ => return None,
            })
        }
        Expr::Literal(_) => match literal(expr)? {
            Value::Bool(_) => Some(Type::Bool),
            Value::Long(_) => Some(Type::Long),
            Value::Double(_) => Some(Type::Double),
            Value::String(_) => Some(Type::String),
            Value::Bytes(_) => Some(Type::Bytes),
            Value::Null => Some(Type::Null),
            _ => None,
        },
        Expr::Call(call) => {
            let arg = |i: usize| call.args.get(i).and_then(|a| infer(&a.expr, inputs));
            match call.func_name.as_str() {
                operators::EQUALS
                | operators::NOT_EQUALS
                | operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS
                | operators::LOGICAL_AND
                | operators::LOGICAL_OR
                | operators::LOGICAL_NOT
                | operators::IN
                | "bool"
                | "startsWith"
                | "endsWith"
                | "contains"
                | "matches" => Some(Type::Bool),
                "string" => Some(Type::String),
                "int" | "size" => Some(Type::Long),
                "double" => Some(Type::Double),
                "bytes" => Some(Type::Bytes),
                operators::CONDITIONAL => match (arg(1)?, arg(2)?) {
                    (Type::Null, t) | (t, Type::Null) => Some(t.nullable()),
                    (a, b) if a.non_null() == b.non_null() => Some(if a.is_nullable() || b.is_nullable() {
                        a.nullable()
                    } else {
                        a
                    }),
                    _ => None,
                },
                operators::ADD | operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO => {
                    let (a, b) = (arg(0)?, arg(1)?);
                    (a.non_null() == b.non_null()).then(|| a.non_null().clone())
                }
                operators::NEGATE => arg(0),
                _ => None,
            }
        }
        // all() and exists() begin with true or false, and end so.
        Expr::Comprehension(c) if matches!(literal(&c.accu_init.expr), Some(Value::Bool(_))) => Some(Type::Bool),
        _ => None,
    }
}

/// Whether a value is null, or has one in it.
fn holds_null(value: &Value<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::List(items) => items.iter().any(holds_null),
        Value::Map(entries) => entries.iter().any(|(_, value)| holds_null(value)),
        Value::Record(fields) => fields.iter().any(|(_, value)| holds_null(value)),
        _ => false,
    }
}

fn rewrap(t: Type, like: &Type) -> Type {
    if like.is_nullable() { t.nullable() } else { t }
}

fn to_cel(value: &Value<'_>) -> cel::Value {
    use cel::objects::{Key, Map};
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(v) => cel::Value::Bool(*v),
        Value::Int(v) | Value::Date(v) => cel::Value::Int(i64::from(*v)),
        Value::Long(v) | Value::Time(v, _) | Value::Timestamp(v, _) | Value::LocalTimestamp(v, _) => {
            cel::Value::Int(*v)
        }
        Value::Float(v) => cel::Value::Float(f64::from(*v)),
        Value::Double(v) => cel::Value::Float(*v),
        Value::String(v) => cel::Value::String(Arc::new(v.to_string())),
        Value::Bytes(v) => cel::Value::Bytes(Arc::new(v.to_vec())),
        Value::Decimal { unscaled, scale } => cel::Value::Float(decimal_to_f64(unscaled, *scale)),
        Value::Uuid(v) => cel::Value::String(Arc::new(uuid_text(v))),
        Value::Duration { months, days, millis } => cel::Value::List(Arc::new(
            [*months, *days, *millis]
                .iter()
                .map(|v| cel::Value::Int(i64::from(*v)))
                .collect(),
        )),
        Value::List(v) => cel::Value::List(Arc::new(v.iter().map(to_cel).collect())),
        Value::Map(v) => cel::Value::Map(Map {
            map: Arc::new(
                v.iter()
                    .map(|(k, v)| {
                        let key = match k {
                            Value::Int(i) => Key::Int(i64::from(*i)),
                            Value::Long(i) => Key::Int(*i),
                            Value::Bool(b) => Key::Bool(*b),
                            Value::String(s) => Key::String(Arc::new(s.to_string())),
                            Value::Uuid(u) => Key::String(Arc::new(uuid_text(u))),
                            other => Key::String(Arc::new(format!("{other:?}"))),
                        };
                        (key, to_cel(v))
                    })
                    .collect::<HashMap<_, _>>(),
            ),
        }),
        Value::Record(v) => cel::Value::Map(Map {
            map: Arc::new(
                v.iter()
                    .map(|(k, v)| (Key::String(Arc::new(k.to_string())), to_cel(v)))
                    .collect::<HashMap<_, _>>(),
            ),
        }),
    }
}

fn from_cel(value: cel::Value) -> Result<Value<'static>, String> {
    Ok(match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(v) => Value::Bool(v),
        cel::Value::Int(v) => Value::Long(v),
        cel::Value::UInt(v) => Value::Long(i64::try_from(v).map_err(|_| format!("{v} is larger than a long holds"))?),
        cel::Value::Float(v) => Value::Double(v),
        cel::Value::String(v) => Value::String(Cow::Owned(Arc::unwrap_or_clone(v))),
        cel::Value::Bytes(v) => Value::Bytes(Cow::Owned(Arc::unwrap_or_clone(v))),
        cel::Value::List(v) => Value::List(v.iter().cloned().map(from_cel).collect::<Result<_, _>>()?),
        other => return Err(format!("an expression cannot end in a {:?}", other.type_of())),
    })
}

/// `unscaled × 10^-scale` as the nearest double (lossy beyond 53 bits).
fn decimal_to_f64(unscaled: &[u8], scale: i32) -> f64 {
    let negative = unscaled.first().is_some_and(|b| b & 0x80 != 0);
    let mut magnitude = 0.0f64;
    for byte in unscaled {
        let byte = if negative { !byte } else { *byte };
        magnitude = magnitude * 256.0 + f64::from(byte);
    }
    let signed = if negative { -(magnitude + 1.0) } else { magnitude };
    signed / 10f64.powi(scale)
}

/// The usual 8-4-4-4-12 form of a UUID.
pub fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn computed(text: &str, steps: &[&str]) -> Computed {
        match parse(text, steps).unwrap() {
            Expression::Computed(c) => c,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn plain_paths_never_reach_the_interpreter() {
        let path = |t: &str| match parse(t, &["profile"]).unwrap() {
            Expression::Path(r) => r,
            other => panic!("{t}: {other:?}"),
        };
        assert_eq!(path("event.user.id"), Reference::Event("user.id".into()));
        assert_eq!(path("event.items[0].sku"), Reference::Event("items[0].sku".into()));
        assert_eq!(path("event.tags['x y']"), Reference::Event("tags['x y']".into()));
        assert_eq!(path("record.offset"), Reference::Record(RecordField::Offset));
        assert_eq!(
            path("profile.score"),
            Reference::Step {
                step: "profile".into(),
                column: "score".into()
            }
        );
        assert!(matches!(parse(" now() ", &[]).unwrap(), Expression::Now));
        assert!(matches!(parse("'a'", &[]).unwrap(), Expression::Constant(Value::String(s)) if s == "a"));
        assert!(matches!(
            parse("-3", &[]).unwrap(),
            Expression::Constant(Value::Long(-3))
        ));
    }

    #[test]
    fn paths_inside_an_expression_become_variables_once() {
        let c = computed("event.kind != 'heartbeat' && (event.n > 3 || event.kind == 'x')", &[]);
        assert_eq!(
            c.inputs,
            [Reference::Event("kind".into()), Reference::Event("n".into())]
        );
        let run = |kind: &str, n| {
            c.evaluate(
                &Interpreter::default(),
                &[Value::String(Cow::Borrowed(kind)), Value::Int(n)],
            )
            .unwrap()
        };
        assert_eq!(run("heartbeat", 9), Value::Bool(false));
        assert_eq!(run("click", 2), Value::Bool(false));
        assert_eq!(run("x", 2), Value::Bool(true));
        assert_eq!(c.result_type(&[Type::String, Type::Int]), Some(Type::Bool));
    }

    #[test]
    fn comprehensions_keep_their_variables() {
        let c = computed("event.items.exists(i, i.qty > event.least)", &[]);
        assert_eq!(
            c.inputs,
            [Reference::Event("items".into()), Reference::Event("least".into())]
        );
        let item = |q| Value::Record(vec![(Cow::Borrowed("qty"), Value::Int(q))]);
        let items = Value::List(vec![item(1), item(5)]);
        let run = |least| {
            c.evaluate(&Interpreter::default(), &[items.borrowed(), Value::Int(least)])
                .unwrap()
        };
        assert_eq!(run(4), Value::Bool(true));
        assert_eq!(run(5), Value::Bool(false));
    }

    #[test]
    fn a_macro_may_call_its_variable_as_it_likes() {
        for name in ["v0", "v1", "i"] {
            let c = computed(&format!("event.ids.exists({name}, {name} == event.wanted)"), &[]);
            let ids = Value::List(vec![Value::Int(1), Value::Int(2)]);
            let run = |wanted| {
                c.evaluate(&Interpreter::default(), &[ids.borrowed(), Value::Int(wanted)])
                    .unwrap()
            };
            assert_eq!((run(2), run(3)), (Value::Bool(true), Value::Bool(false)), "{name}");
        }
    }

    #[test]
    fn has_asks_for_presence() {
        let c = computed("has(event.user.email)", &[]);
        assert_eq!(
            c.evaluate(&Interpreter::default(), &[Value::Null]).unwrap(),
            Value::Bool(false)
        );
        assert_eq!(
            c.evaluate(&Interpreter::default(), &[Value::Int(1)]).unwrap(),
            Value::Bool(true)
        );
    }

    fn object(fields: &[(&'static str, Value<'static>)]) -> Value<'static> {
        Value::Record(fields.iter().map(|(name, v)| ((*name).into(), v.clone())).collect())
    }

    #[test]
    fn what_is_absent_within_an_input_is_null() {
        let run = |text: &str, inputs: &[Value<'_>]| computed(text, &["p"]).evaluate(&Interpreter::default(), inputs);
        let text = |t: &'static str| Value::String(t.into());
        let flags = Value::Map(vec![(text("new"), text("yes"))]);
        assert_eq!(run("p.flags['vip'] == 'yes'", &[flags.borrowed()]), Ok(Value::Null));
        assert_eq!(run("p.flags['new'] == 'yes'", &[flags]), Ok(Value::Bool(true)));
        let address = object(&[("floor", Value::Null), ("city", text("Rome"))]);
        assert_eq!(run("p.address.floor > 3", &[address.borrowed()]), Ok(Value::Null));
        assert_eq!(run("p.address.city == 'Rome'", &[address]), Ok(Value::Bool(true)));
        assert_eq!(
            run("p.tags[event.n] == 'a'", &[Value::List(vec![]), Value::Int(0)]),
            Ok(Value::Null)
        );
        let items = |discounts: &[Value<'static>]| {
            let item = |discount: &Value<'static>| object(&[("discount", discount.clone())]);
            Value::List(discounts.iter().map(item).collect())
        };
        let some = "event.items.exists(i, i.discount > 0.5)";
        assert_eq!(run(some, &[items(&[Value::Null])]), Ok(Value::Null));
        assert_eq!(
            run(some, &[items(&[Value::Null, Value::Double(0.9)])]),
            Ok(Value::Bool(true))
        );
        assert_eq!(run(some, &[items(&[Value::Double(0.1)])]), Ok(Value::Bool(false)));
        // What fails for another reason is an error still.
        assert!(run("event.a / event.b > 1", &[Value::Int(1), Value::Int(0)]).is_err());
        assert!(run(some, &[items(&[text("x")])]).is_err());
    }

    #[test]
    fn a_field_that_no_record_has_is_found() {
        let address = Type::Record(vec![("floor".into(), Type::Int.nullable())]).nullable();
        let list = Type::List(Box::new(address.clone()));
        let unknown = |text: &str, ty: &Type| {
            let found = computed(text, &["p"]).unknown_field(std::slice::from_ref(ty));
            found.map(|field| (field.name, field.known))
        };
        for (text, ty) in [
            ("p.address.floor > 3", &address),
            ("has(p.address.flor) ? p.address.flor > 3 : false", &address),
            ("event.items.exists(i, i.floor > 3)", &list),
            ("event.items.map(i, i.floor).exists(f, f > 3)", &list),
            (
                "p.flags['vip'] == 'yes'",
                &Type::Map(Box::new(Type::String), Box::new(Type::String)),
            ),
            ("p.address.flor > 3", &Type::Any),
        ] {
            assert_eq!(unknown(text, ty), None, "{text}");
        }
        for (text, ty) in [
            ("p.address.flor > 3", &address),
            ("event.items.exists(i, i.flor > 3)", &list),
            ("event.items.filter(i, size(string(i.flor)) > 3)", &list),
            ("p.all[0].flor > 3", &list),
        ] {
            assert_eq!(
                unknown(text, ty),
                Some(("flor".to_owned(), vec!["floor".to_owned()])),
                "{text}"
            );
        }
    }

    #[test]
    fn has_asks_for_presence_within_an_input() {
        let run = |text: &str, inputs: &[Value<'_>]| computed(text, &["p"]).evaluate(&Interpreter::default(), inputs);
        let address = |floor| object(&[("floor", floor)]);
        for (text, value, there) in [
            ("has(p.address.floor)", address(Value::Int(0)), true),
            ("has(p.address.floor)", address(Value::Null), false),
            ("has(p.address.door)", address(Value::Int(1)), false),
            (
                "has(p.address.floor) && p.address.floor > 3",
                address(Value::Null),
                false,
            ),
            (
                "!has(p.address.floor) || p.address.floor > 3",
                address(Value::Int(4)),
                true,
            ),
            (
                "event.items.exists(i, has(i.floor))",
                Value::List(vec![address(Value::Null)]),
                false,
            ),
            (
                "event.items.all(i, has(i.floor))",
                Value::List(vec![address(Value::Int(1))]),
                true,
            ),
        ] {
            assert_eq!(run(text, &[value]), Ok(Value::Bool(there)), "{text}");
        }
        let some = "event.items.filter(i, has(i.floor)).map(i, i.floor)";
        let items = Value::List(vec![address(Value::Null), address(Value::Int(2))]);
        assert_eq!(run(some, &[items]), Ok(Value::List(vec![Value::Long(2)])));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(
            matches!(parse("evnt.a", &["profile"]), Err(ExpressionError::UnknownName { name, .. }) if name == "evnt")
        );
        assert!(matches!(parse("record.ofset == 1", &[]), Err(ExpressionError::UnknownRecordField(f)) if f == "ofset"));
        assert!(matches!(
            parse("profile == 1", &["profile"]),
            Err(ExpressionError::WholeStep(_))
        ));
        assert!(matches!(parse("1 +", &[]), Err(ExpressionError::Syntax(_))));
    }

    #[test]
    fn types_follow_from_shapes() {
        let t = |text: &str, inputs: &[Type]| computed(text, &["p"]).result_type(inputs);
        assert_eq!(
            t("p.a == null ? 'none' : p.a", &[Type::String.nullable()]),
            Some(Type::String.nullable())
        );
        assert_eq!(t("p.a * 2.0", &[Type::Double]), Some(Type::Double));
        assert_eq!(t("string(p.a)", &[Type::Int]), Some(Type::String));
        assert_eq!(t("p.a.map(x, x)", &[Type::List(Box::new(Type::Int))]), None);
    }

    #[test]
    fn a_time_keeps_its_unit_as_a_number() {
        let (millis, micros) = (Type::Timestamp(Unit::Millis), Type::Timestamp(Unit::Micros));
        let counts = |text: &str| computed(text, &["p"]).counts(&[vec![micros.clone()], vec![millis.clone()]]);
        for text in [
            "p.a != null ? p.a : null",
            "p.a + 1",
            "1 + p.a",
            "p.a - 1",
            "int(p.a)",
            "p.a == p.b ? p.a : p.a + 5",
        ] {
            let found = counts(text);
            assert!(
                !found.is_empty() && found.iter().all(|ty| *ty == micros),
                "{text}: {found:?}"
            );
        }
        assert_eq!(counts("p.a != null ? p.a : p.b"), [micros.clone(), millis.clone()]);
        for text in ["p.a / 1000", "p.a - p.b", "p.a + p.b", "p.a > p.b", "string(p.a)"] {
            assert_eq!(counts(text), [], "{text}");
        }
    }

    #[test]
    fn decimals_and_uuids() {
        assert_eq!(decimal_to_f64(&[0x30, 0x39], 2), 123.45);
        assert_eq!(decimal_to_f64(&[0xff], 0), -1.0);
        assert_eq!(decimal_to_f64(&[], 3), 0.0);
        assert_eq!(uuid_text(&[0x12; 16]), "12121212-1212-1212-1212-121212121212");
    }
}
