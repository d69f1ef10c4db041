//! Static analysis of an expression: the type of its result, the unit of a time that it computes, fields that its records do not have, and operators
//! that do not fit their operands.

mod mistakes;

use std::fmt;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, LiteralValue, operators};

use super::guarded::never_holds;
use super::{Computed, INPUT, literal};
use crate::avro::value::{Type, Unit, Value};

impl Computed {
    /// The type of the result, if it follows from the expression and the types of its inputs. It is nullable if an input is,
    /// or if an operator meets a null literal.
    pub fn result_type(&self, inputs: &[Type]) -> Option<Type> {
        let result = infer(&self.tree.expr, inputs)?;
        // An input that never exists and is guarded by has() makes nothing null.
        let makes_null = |(i, ty): (usize, &Type)| {
            let never = *ty == Type::Null && self.is_guarded(i);
            ty.is_nullable() && !never
        };
        Some(
            if inputs.iter().enumerate().any(makes_null) || writes_null(&self.tree.expr, true) {
                result.nullable()
            } else {
                result
            },
        )
    }

    /// The types of times that the resulting number counts as, given the `times` of each input: a time enters as a plain number in its own
    /// unit, and leaves as one. Empty if the number is no time; several if branches differ. For a list, those of its items.
    pub fn counts(&self, times: &[Vec<Type>], inputs: &[Type]) -> Vec<Type> {
        let fields = Fields {
            times,
            ..Fields::of(inputs)
        };
        fields.counts(&self.tree.expr)
    }

    /// Whether every result that is not null is a map, or a list that contains one: an expression cannot end in one.
    pub fn ends_in_map(&self, inputs: &[Type]) -> bool {
        Fields::of(inputs).is_map(&self.tree.expr)
    }

    /// A field that the expression uses and no record of these inputs has, so that it would always be null. A field that has() tests may be
    /// missing.
    pub fn unknown_field(&self, inputs: &[Type]) -> Option<UnknownField> {
        let mut fields = Fields::of(inputs);
        fields.look(&self.tree.expr);
        let Fields { unknown, tested, .. } = fields;
        unknown.into_iter().find(|field| !tested.contains(&field.name.as_str()))
    }

    /// An operator or function that fails on its operands whenever it is reached, or gives the same answer for every record. One that no
    /// record can bypass takes precedence. An expression that uses type() is not judged, because one place in it may have several types.
    pub fn mistaken(&self, inputs: &[Type]) -> Option<Mistaken> {
        let mut fields = Fields::of(inputs);
        fields.look(&self.tree.expr);
        let first = fields.mistaken.into_iter().min_by_key(|mistaken| !mistaken.fails);
        first.filter(|_| !fields.asks_type)
    }

    /// Two times in different units, one of which is subtracted from or compared with the other, and whether every record gets
    /// there. See [`Computed::counts`].
    pub fn different_units(&self, times: &[Vec<Type>], inputs: &[Type]) -> Option<(Type, Type, bool)> {
        let mut fields = Fields {
            times,
            ..Fields::of(inputs)
        };
        fields.look(&self.tree.expr);
        fields.units.into_iter().min_by_key(|(.., always)| !always)
    }
}

/// The unit of a time type; the inner none is for days.
pub fn unit(ty: &Type) -> Option<Option<Unit>> {
    match ty {
        Type::Date => Some(None),
        Type::Time(unit) | Type::Timestamp(unit) | Type::LocalTimestamp(unit) => Some(Some(*unit)),
        _ => None,
    }
}

/// The type itself if it is a time, or the time type of a list's items.
pub fn time(ty: &Type) -> Option<&Type> {
    match ty.non_null() {
        Type::List(item) => time(item),
        ty => unit(ty).map(|_| ty),
    }
}

/// An operator or a function on operands that it does not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistaken {
    /// What is wrong.
    pub message: String,
    /// The remedy.
    pub help: &'static str,
    /// Whether every record fails: not if a condition, `&&`, `||` or an empty list may bypass it, nor if the operator gives an
    /// answer.
    pub fails: bool,
}

impl Mistaken {
    fn fails(what: impl fmt::Display, help: &'static str) -> Mistaken {
        Mistaken {
            message: format!("{what} is not defined: every record that comes here fails"),
            help,
            fails: true,
        }
    }
}

/// CEL's view of a type, apart from null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    List,
    Map,
}

impl Kind {
    /// The kind of an operator's or function's result, if it is the same for all operands.
    fn given_by(function: &str) -> Option<Kind> {
        Some(match function {
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
            | "contains" => Kind::Bool,
            "string" => Kind::String,
            "int" | "size" => Kind::Int,
            "uint" => Kind::Uint,
            "double" => Kind::Double,
            "bytes" => Kind::Bytes,
            _ => return None,
        })
    }

    fn of(ty: &Type) -> Option<Kind> {
        Some(match ty.non_null() {
            Type::Bool => Kind::Bool,
            Type::Int | Type::Long | Type::Date | Type::Time(_) | Type::Timestamp(_) | Type::LocalTimestamp(_) => {
                Kind::Int
            }
            Type::Float | Type::Double | Type::Decimal { .. } => Kind::Double,
            Type::String | Type::Enum(_) | Type::Uuid => Kind::String,
            Type::Bytes | Type::Fixed(_) => Kind::Bytes,
            Type::List(_) | Type::Duration => Kind::List,
            Type::Map(..) | Type::Record(_) => Kind::Map,
            _ => return None,
        })
    }

    fn is_number(self) -> bool {
        matches!(self, Kind::Int | Kind::Uint | Kind::Double)
    }

    /// Whether a value of one kind may equal a value of the other.
    fn equals(self, other: Kind) -> bool {
        self == other || self.is_number() && other.is_number()
    }

    /// How to convert two kinds to a common one.
    fn remedy(self, other: Kind) -> &'static str {
        match (self, other) {
            (a, b) if a.is_number() && b.is_number() => {
                "make both numbers of one kind: 100.0 for 100, or double(...) or int(...) around one of them; cents of what is not \
                 negative are int(x * 100.0 + 0.5)"
            }
            (Kind::Bytes, Kind::String) | (Kind::String, Kind::Bytes) => {
                "make text of the bytes with string(...), or bytes of the text with bytes(...)"
            }
            _ => {
                "make both of one kind with string(...), int(...), double(...) or bytes(...); where records differ, dyn(...) says so"
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Bool => "bool",
            Kind::Int => "int",
            Kind::Uint => "uint",
            Kind::Double => "double",
            Kind::String => "string",
            Kind::Bytes => "bytes",
            Kind::List => "list",
            Kind::Map => "map",
        })
    }
}

/// A field that a record does not have, and those that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// The requested name.
    pub name: String,
    /// The existing names.
    pub known: Vec<String>,
}

/// Looks for fields that their records do not have, and for operators on operands that they do not accept.
struct Fields<'a> {
    inputs: &'a [Type],
    /// See [`Computed::counts`].
    times: &'a [Vec<Type>],
    /// The variables of the enclosing comprehensions whose types are known.
    bound: Vec<(&'a str, Type)>,
    unknown: Vec<UnknownField>,
    /// The fields that has() tests: they may be missing.
    tested: Vec<&'a str>,
    mistaken: Vec<Mistaken>,
    units: Vec<(Type, Type, bool)>,
    asks_type: bool,
    /// Whether a record may bypass the current part, or continue although it fails.
    guarded: bool,
    /// Whether a record may bypass the current part.
    bypassed: bool,
}

impl<'a> Fields<'a> {
    fn of(inputs: &'a [Type]) -> Fields<'a> {
        Fields {
            inputs,
            times: &[],
            bound: Vec::new(),
            unknown: Vec::new(),
            tested: Vec::new(),
            mistaken: Vec::new(),
            units: Vec::new(),
            asks_type: false,
            guarded: false,
            bypassed: false,
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
                let (guarded, bypassed) = (self.guarded, self.bypassed);
                for (i, e) in call.target.as_deref().into_iter().chain(&call.args).enumerate() {
                    self.guarded = guarded
                        || match call.func_name.as_str() {
                            operators::CONDITIONAL => i > 0,
                            // An error in one operand is ignored if the other operand decides.
                            operators::LOGICAL_AND | operators::LOGICAL_OR => true,
                            _ => false,
                        };
                    self.bypassed = bypassed
                        || i > 0
                            && [operators::CONDITIONAL, operators::LOGICAL_AND, operators::LOGICAL_OR]
                                .contains(&call.func_name.as_str());
                    self.look(&e.expr);
                }
                (self.guarded, self.bypassed) = (guarded, bypassed);
                let mistaken = self.mistaken(call).map(|mistaken| Mistaken {
                    fails: mistaken.fails && !guarded,
                    ..mistaken
                });
                self.mistaken.extend(mistaken);
                let units = self.different_units(call);
                self.units.extend(units.map(|(a, b)| (a, b, !bypassed)));
                self.asks_type |= call.func_name == "type";
            }
            Expr::List(list) => list.elements.iter().for_each(|e| self.look(&e.expr)),
            Expr::Comprehension(c) => {
                self.look(&c.iter_range.expr);
                self.look(&c.accu_init.expr);
                let item = match self.shape(&c.iter_range.expr) {
                    Some(Type::List(item)) if c.iter_var2.is_none() => *item,
                    _ => Type::Any,
                };
                let around = self.bound.len();
                self.bound.push((&c.iter_var, item));
                self.bound.extend(c.iter_var2.as_deref().map(|name| (name, Type::Any)));
                let around_it = (self.guarded, self.bypassed);
                (self.guarded, self.bypassed) = (true, true);
                for part in [&c.loop_cond, &c.loop_step, &c.result] {
                    self.look(&part.expr);
                }
                (self.guarded, self.bypassed) = around_it;
                self.bound.truncate(around);
            }
            // The values of maps and messages are not checked.
            Expr::Map(_) | Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    /// The type of an input, of a variable, or of a part of one, apart from null.
    fn shape(&self, expr: &Expr) -> Option<Type> {
        Some(self.whole(expr)?.non_null().clone())
    }

    fn whole(&self, expr: &Expr) -> Option<Type> {
        Some(match expr {
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
        })
    }

    /// The kind of a value whenever it exists and is not null.
    fn kind(&self, expr: &Expr) -> Option<Kind> {
        match expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Some(Kind::Bool),
                LiteralValue::Bytes(_) => Some(Kind::Bytes),
                LiteralValue::Double(_) => Some(Kind::Double),
                LiteralValue::Int(_) => Some(Kind::Int),
                LiteralValue::UInt(_) => Some(Kind::Uint),
                LiteralValue::String(_) => Some(Kind::String),
                LiteralValue::Null => None,
            },
            Expr::List(_) => Some(Kind::List),
            Expr::Map(_) => Some(Kind::Map),
            Expr::Comprehension(c) => match &c.accu_init.expr {
                Expr::List(_) => Some(Kind::List),
                Expr::Literal(LiteralValue::Boolean(_)) => Some(Kind::Bool),
                _ => self.kind(&c.result.expr),
            },
            Expr::Call(call) => {
                let arg = |i: usize| call.args.get(i).and_then(|arg| self.kind(&arg.expr));
                match call.func_name.as_str() {
                    name if let Some(kind) = Kind::given_by(name) => Some(kind),
                    operators::NEGATE => arg(0),
                    operators::ADD
                    | operators::SUBSTRACT
                    | operators::MULTIPLY
                    | operators::DIVIDE
                    | operators::MODULO => arg(0).filter(|kind| arg(1) == Some(*kind)),
                    operators::CONDITIONAL => match (&call.args.get(1)?.expr, &call.args.get(2)?.expr) {
                        (Expr::Literal(LiteralValue::Null), other) | (other, Expr::Literal(LiteralValue::Null)) => {
                            self.kind(other)
                        }
                        (a, b) => self.kind(a).filter(|kind| self.kind(b) == Some(*kind)),
                    },
                    operators::INDEX => Kind::of(&self.shape(expr)?),
                    _ => None,
                }
            }
            _ => Kind::of(&self.shape(expr)?),
        }
    }

    fn may_be_null(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Literal(literal) => matches!(literal, LiteralValue::Null),
            Expr::Call(call) if call.func_name == operators::CONDITIONAL => {
                call.args.iter().skip(1).any(|branch| self.may_be_null(&branch.expr))
            }
            Expr::Call(call) if call.func_name != operators::INDEX => false,
            Expr::List(_) | Expr::Map(_) | Expr::Comprehension(_) => false,
            _ => self.whole(expr).is_none_or(|ty| ty.is_nullable()),
        }
    }

    fn different_units(&self, call: &CallExpr) -> Option<(Type, Type)> {
        let (operators::SUBSTRACT
        | operators::EQUALS
        | operators::NOT_EQUALS
        | operators::LESS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS) = call.func_name.as_str()
        else {
            return None;
        };
        let [a, b] = call.args.as_slice() else {
            return None;
        };
        let (a, b) = (self.counts(&a.expr), self.counts(&b.expr));
        if a.iter().any(|a| b.iter().any(|b| unit(a) == unit(b))) {
            return None;
        }
        a.into_iter().next().zip(b.into_iter().next())
    }

    fn counts(&self, expr: &Expr) -> Vec<Type> {
        match expr {
            Expr::Ident(name) if let Some(i) = input(name) => self.times.get(i).cloned().unwrap_or_default(),
            Expr::Call(call) if call.func_name != operators::INDEX => {
                let arg = |i: usize| {
                    let arg = call.args.get(i);
                    arg.map(|a| self.counts(&a.expr)).unwrap_or_default()
                };
                match call.func_name.as_str() {
                    "int" => arg(0),
                    operators::CONDITIONAL => [arg(1), arg(2)].concat(),
                    // A number that is added to a time has no unit of its own. The difference of two times is no time.
                    operators::ADD | operators::SUBSTRACT => {
                        let (a, b) = (arg(0), arg(1));
                        match (a.is_empty(), b.is_empty()) {
                            (_, true) => a,
                            (true, _) if call.func_name == operators::ADD => b,
                            _ => Vec::new(),
                        }
                    }
                    _ => Vec::new(),
                }
            }
            Expr::List(list) => list.elements.iter().flat_map(|e| self.counts(&e.expr)).collect(),
            // map() and filter() start with a list, and each round adds to it.
            Expr::Comprehension(c) if matches!(c.accu_init.expr, Expr::List(_)) => {
                let mut items = match self.shape(&c.iter_range.expr) {
                    Some(Type::List(item) | Type::Map(item, _)) if c.iter_var2.is_none() => vec![*item],
                    _ => self.counts(&c.iter_range.expr),
                };
                if items.is_empty() {
                    items.push(Type::Any);
                }
                let counted = items.into_iter().flat_map(|item| {
                    let mut within = Fields {
                        times: self.times,
                        bound: self.bound.clone(),
                        ..Fields::of(self.inputs)
                    };
                    within.bound.push((&c.iter_var, item));
                    within.counts(&c.loop_step.expr)
                });
                counted.collect()
            }
            // An item of a list that the expression builds.
            Expr::Call(call) if call.func_name == operators::INDEX && self.shape(expr).is_none() => call
                .args
                .first()
                .map(|list| self.counts(&list.expr))
                .unwrap_or_default(),
            // A part of an input, by an index, a key, a field or a macro's variable.
            _ => self.shape(expr).and_then(|ty| time(&ty).cloned()).into_iter().collect(),
        }
    }
}

/// The number of the input that a variable stands for.
pub(super) fn input(name: &str) -> Option<usize> {
    name.strip_prefix(INPUT)?.parse().ok()
}

fn infer(expr: &Expr, inputs: &[Type]) -> Option<Type> {
    match expr {
        Expr::Ident(name) => given_back(inputs.get(input(name)?)?),
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
                name if let Some(kind) = Kind::given_by(name) => match kind {
                    Kind::Bool => Some(Type::Bool),
                    Kind::Int => Some(Type::Long),
                    Kind::Double => Some(Type::Double),
                    Kind::String => Some(Type::String),
                    Kind::Bytes => Some(Type::Bytes),
                    Kind::Uint | Kind::List | Kind::Map => None,
                },
                // If this branch is only null, the other one decides the type.
                operators::CONDITIONAL if never_holds(&call.args.first()?.expr, inputs) => match arg(2)? {
                    Type::Null => arg(1).map(Type::nullable),
                    ty => Some(ty),
                },
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
        // all() and exists() start with true or false, and end with one.
        Expr::Comprehension(c) if matches!(literal(&c.accu_init.expr), Some(Value::Bool(_))) => Some(Type::Bool),
        // exists_one() compares its count.
        Expr::Comprehension(c) => infer(&c.result.expr, inputs),
        _ => None,
    }
}

/// Whether a null literal reaches an operator that does not accept null, so that the whole expression is null; `taken` says that this
/// place accepts null.
fn writes_null(expr: &Expr, taken: bool) -> bool {
    match expr {
        Expr::Literal(LiteralValue::Null) => !taken,
        Expr::Call(call) => {
            let takes = |i: usize| match call.func_name.as_str() {
                operators::EQUALS | operators::NOT_EQUALS => true,
                // No map has a null key.
                operators::IN => {
                    i == 0
                        && call
                            .args
                            .get(1)
                            .is_some_and(|within| matches!(within.expr, Expr::List(_)))
                }
                operators::CONDITIONAL => i > 0 && taken,
                _ => false,
            };
            let operands = call.target.as_deref().into_iter().chain(&call.args);
            operands.enumerate().any(|(i, e)| writes_null(&e.expr, takes(i)))
        }
        Expr::List(list) => list.elements.iter().any(|e| writes_null(&e.expr, true)),
        Expr::Select(select) => writes_null(&select.operand.expr, false),
        Expr::Comprehension(c) => [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result]
            .iter()
            .any(|part| writes_null(&part.expr, false)),
        Expr::Map(_) | Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => false,
    }
}

/// The type of an input that CEL returns unchanged.
fn given_back(input: &Type) -> Option<Type> {
    let ty = match input.non_null() {
        Type::Int | Type::Long | Type::Date | Type::Time(_) | Type::Timestamp(_) | Type::LocalTimestamp(_) => {
            Type::Long
        }
        Type::Float | Type::Double | Type::Decimal { .. } => Type::Double,
        Type::String | Type::Enum(_) | Type::Uuid => Type::String,
        Type::Bytes | Type::Fixed(_) => Type::Bytes,
        Type::Bool => Type::Bool,
        Type::List(item) => Type::List(Box::new(given_back(item)?)),
        _ => return None,
    };
    Some(if input.is_nullable() { ty.nullable() } else { ty })
}
