//! What follows from an expression before any record is there: the type of its result, the times that its number counts, and
//! fields that its records do not have.

use cel::IdedExpr;
use cel::common::ast::{Expr, operators};

use super::{Computed, INPUT, literal};
use crate::avro::value::{Type, Value};

impl Computed {
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

    /// Whether the result is a map, or a list with one in it, wherever it is not null: an expression cannot end in one.
    pub fn ends_in_map(&self, inputs: &[Type]) -> bool {
        Fields::of(inputs).is_map(&self.tree.expr)
    }

    /// A field that is asked for and that no record of these inputs has, which would be null for ever. One that has() asks for may be missing.
    pub fn unknown_field(&self, inputs: &[Type]) -> Option<UnknownField> {
        let mut fields = Fields::of(inputs);
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
    fn of(inputs: &'a [Type]) -> Fields<'a> {
        Fields {
            inputs,
            bound: Vec::new(),
            unknown: Vec::new(),
            tested: Vec::new(),
        }
    }

    fn is_map(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Map(_) => true,
            Expr::List(list) => list.elements.iter().any(|e| self.is_map(&e.expr)),
            Expr::Call(call) if call.func_name == operators::CONDITIONAL => {
                let mut one = false;
                for IdedExpr { expr, .. } in call.args.iter().skip(1) {
                    match self.is_map(expr) {
                        true => one = true,
                        false if matches!(literal(expr), Some(Value::Null)) => {}
                        false => return false,
                    }
                }
                one
            }
            _ => matches!(self.shape(expr), Some(Type::Record(_) | Type::Map(..))),
        }
    }

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
        // exists_one() compares what it has counted.
        Expr::Comprehension(c) => infer(&c.result.expr, inputs),
        _ => None,
    }
}

fn rewrap(t: Type, like: &Type) -> Type {
    if like.is_nullable() { t.nullable() } else { t }
}
