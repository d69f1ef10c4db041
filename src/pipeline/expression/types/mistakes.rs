//! Which operators and functions accept which kinds of operands, as the interpreter implements them.

use std::slice;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, Expr, operators};

use super::{Fields, Kind, Mistaken, literal};
use crate::avro::uuid;
use crate::avro::value::{Type, Value};

/// The number of decimal digits that a double always keeps.
const DOUBLE_DIGITS: u32 = 15;

/// Whether the type is a decimal that may have more digits than a double keeps.
fn is_wide(ty: &Type) -> bool {
    matches!(ty.non_null(), Type::Decimal { precision, .. } if *precision == 0 || *precision > DOUBLE_DIGITS)
}

/// Whether it is a literal that a double holds exactly; a whole number with many digits is not.
fn is_exact(expr: &Expr) -> bool {
    match literal(expr) {
        Some(Value::Long(number)) => number.unsigned_abs() <= 1 << 53,
        other => other.is_some(),
    }
}

/// What to write instead of a literal that is of the type's kind but equals none of its values; none if it may equal
/// one.
fn instead_of(literal: &Value<'_>, ty: &Type) -> Option<&'static str> {
    match (ty, literal) {
        (Type::Enum(symbols), Value::String(text)) if symbols.iter().all(|symbol| symbol != text) => Some(
            "write a symbol as the schema has it; if versions of the schema differ in their symbols, this may be intended",
        ),
        (Type::Float, Value::Double(number)) if f64::from(*number as f32) != *number => Some(
            "a float cannot have exactly this value: compare with a range, or compare its text, as in string(event.rate) == '0.1'",
        ),
        (Type::Uuid, Value::String(text))
            if uuid::parse(text.as_bytes()).is_none_or(|uuid| uuid::text(&uuid) != *text.as_bytes()) =>
        {
            Some("write the UUID in small letters, with its hyphens")
        }
        _ => None,
    }
}

impl Fields<'_> {
    pub(super) fn mistaken(&self, call: &CallExpr) -> Option<Mistaken> {
        let sign = call.func_name.trim_matches(['_', '@']);
        let arg = |i: usize| self.kind(&call.args.get(i)?.expr);
        match call.func_name.as_str() {
            operators::LOGICAL_NOT | operators::CONDITIONAL => {
                let of = arg(0).filter(|kind| *kind != Kind::Bool)?;
                let what = match sign {
                    "!" => format!("!{of}"),
                    _ => format!("{of} ? … : …"),
                };
                Some(Mistaken::fails(
                    what,
                    "compare it with something, as in event.count > 0",
                ))
            }
            operators::NEGATE => {
                let of = arg(0).filter(|kind| !matches!(kind, Kind::Int | Kind::Double))?;
                Some(Mistaken::fails(
                    format!("-{of}"),
                    "make a number of it with int(...) or double(...)",
                ))
            }
            operators::EQUALS | operators::NOT_EQUALS => {
                let (a, b) = (arg(0)?, arg(1)?);
                let null = call.args.iter().all(|arg| self.may_be_null(&arg.expr));
                if a.equals(b) {
                    return self.rounded(call, sign).or_else(|| self.never_equal(call, sign));
                }
                (!null).then(|| Mistaken {
                    message: format!("{a} {sign} {b} is {} for every record", sign == "!="),
                    help: a.remedy(b),
                    fails: false,
                })
            }
            operators::IN => {
                let (value, within) = (&call.args.first()?.expr, &call.args.get(1)?.expr);
                let never = self.keyless(value, within).or_else(|| self.never_in(value, within));
                never.or_else(|| self.rounded_in(value, within))
            }
            operators::INDEX => self.keyless(&call.args.get(1)?.expr, &call.args.first()?.expr),
            operators::LOGICAL_AND | operators::LOGICAL_OR => {
                let of = [arg(0), arg(1)]
                    .into_iter()
                    .flatten()
                    .find(|kind| *kind != Kind::Bool)?;
                Some(Mistaken {
                    message: format!(
                        "{sign} of {of} is not defined: a record fails where the other operand does not decide"
                    ),
                    help: "compare it with something, as in event.count > 0",
                    fails: false,
                })
            }
            "size" | "string" | "int" | "uint" | "double" | "bool" | "bytes" | "contains" | "startsWith"
            | "endsWith" => self.misapplied(call),
            _ => {
                let (a, b) = (arg(0)?, arg(1)?);
                let defined = match call.func_name.as_str() {
                    operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS => {
                        a.equals(b) && !matches!(a, Kind::List | Kind::Map)
                    }
                    operators::ADD => match a {
                        Kind::List => matches!(b, Kind::List | Kind::Map),
                        Kind::Bool | Kind::Map => false,
                        _ => a == b,
                    },
                    operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE => a == b && a.is_number(),
                    operators::MODULO => a == b && matches!(a, Kind::Int | Kind::Uint),
                    _ => true,
                };
                let help = match (sign, a, b) {
                    ("%", Kind::Double, Kind::Double) => "it is for whole numbers: int(...)",
                    _ => a.remedy(b),
                };
                (!defined).then(|| Mistaken::fails(format!("{a} {sign} {b}"), help))
            }
        }
    }

    /// Whether a function or a method gets an operand that it does not accept.
    fn misapplied(&self, call: &CallExpr) -> Option<Mistaken> {
        let name = call.func_name.as_str();
        let takes = |kind: Kind| match name {
            "size" => matches!(kind, Kind::String | Kind::Bytes | Kind::List | Kind::Map),
            "string" => !matches!(kind, Kind::List | Kind::Map),
            "int" | "uint" | "double" => kind.is_number() || kind == Kind::String,
            "bool" => matches!(kind, Kind::Bool | Kind::String),
            "bytes" => matches!(kind, Kind::String | Kind::Bytes),
            _ => kind == Kind::String,
        };
        let given = call.target.as_deref().into_iter().chain(&call.args);
        let of = given.filter_map(|e| self.kind(&e.expr)).find(|kind| !takes(*kind))?;
        let help = match (name, of) {
            ("contains", Kind::List | Kind::Map) => {
                "for an item of a list or a key of a map, use in, as in 'x' in event.tags"
            }
            ("contains" | "startsWith" | "endsWith", _) => "it is for text alone: string(...)",
            ("size", _) => "it is for text, bytes, lists and maps",
            ("bool", _) => "compare it with something, as in event.count > 0",
            ("int" | "uint" | "double", Kind::Bool) => "write a condition, as in event.vip ? 1 : 0",
            (_, Kind::List | Kind::Map) => "name an item or a field of it",
            _ => "make text of it first: string(...)",
        };
        Some(Mistaken::fails(format!("{name} of {of}"), help))
    }

    /// Whether a decimal with more digits than a double keeps is compared with something other than a literal.
    fn rounded(&self, call: &CallExpr, sign: &str) -> Option<Mistaken> {
        let [a, b] = call.args.as_slice() else {
            return None;
        };
        let decimal = |expr: &Expr| self.shape(expr).is_some_and(|ty| is_wide(&ty));
        let written = literal(&a.expr).is_some() || literal(&b.expr).is_some();
        (!written && (decimal(&a.expr) || decimal(&b.expr))).then(|| Mistaken {
            message: format!("{sign} compares a decimal as a double, by {DOUBLE_DIGITS} digits"),
            help: "compare what keeps all digits: string(...), or int(...) of whole numbers",
            fails: false,
        })
    }

    /// Whether a decimal with more digits than a double keeps is searched for, or is among the searched items. Exact literals
    /// do not count.
    fn rounded_in(&self, value: &Expr, within: &Expr) -> Option<Mistaken> {
        let wide = |expr: &Expr| self.shape(expr).is_some_and(|ty| is_wide(&ty));
        let items = match within {
            Expr::List(list) => list
                .elements
                .iter()
                .any(|item| !is_exact(&item.expr) && (wide(value) || wide(&item.expr))),
            _ => match self.shape(within)? {
                Type::List(item) => wide(value) || is_wide(&item),
                // The keys of a map keep all their digits.
                Type::Map(..) => wide(value),
                _ => false,
            },
        };
        (items && !is_exact(value)).then(|| Mistaken {
            message: format!("in compares a decimal as a double, by {DOUBLE_DIGITS} digits"),
            help: "look for what keeps all digits, string(...) or int(...) of whole numbers, among texts or whole numbers",
            fails: false,
        })
    }

    /// Whether a literal is compared with a value that it can never equal.
    fn never_equal(&self, call: &CallExpr, sign: &str) -> Option<Mistaken> {
        let [a, b] = call.args.as_slice() else {
            return None;
        };
        let (ty, help) = self
            .none_of(&a.expr, slice::from_ref(b))
            .or_else(|| self.none_of(&b.expr, slice::from_ref(a)))?;
        Some(Mistaken {
            message: format!("{ty} {sign} this literal is {} for every record", sign == "!="),
            help,
            fails: false,
        })
    }

    /// The type of a value that can equal none of these literals, and what to write instead; none if one is no literal.
    fn none_of(&self, value: &Expr, literals: &[IdedExpr]) -> Option<(Type, &'static str)> {
        let ty = self.shape(value)?;
        let mut instead = literals
            .iter()
            .map(|item| literal(&item.expr).and_then(|literal| instead_of(&literal, &ty)));
        let help = instead.next()??;
        instead.all(|one| one.is_some()).then_some((ty, help))
    }

    /// Whether a key is looked up in a map whose keys are of a kind that CEL's maps cannot have.
    fn keyless(&self, key: &Expr, within: &Expr) -> Option<Mistaken> {
        let is_none = |kind: &Kind| matches!(kind, Kind::Bytes | Kind::List | Kind::Map);
        let Type::Map(keys, _) = self.shape(within)? else {
            return None;
        };
        let of = Kind::of(&keys).filter(is_none)?;
        Some(Mistaken {
            message: format!("a key of a map whose keys are {of} cannot be looked up: CEL's maps have no such keys"),
            help: "give the column a map whose keys are texts or whole numbers",
            // For any other key the answer is that it is not there.
            fails: self.kind(key).is_some_and(|kind| is_none(&kind)),
        })
    }

    /// Whether the value's kind is not among the searched ones, or the value can equal none of the literals there.
    fn never_in(&self, value: &Expr, within: &Expr) -> Option<Mistaken> {
        let of = self.kind(within)?;
        if !matches!(of, Kind::List | Kind::Map) {
            let value = self.kind(value)?;
            let help = "it looks for an item in a list, or for a key in a map; for text, use contains(...)";
            return Some(Mistaken::fails(format!("{value} in {of}"), help));
        }
        let value_kind = self.kind(value)?;
        let (items, null) = match within {
            Expr::List(list) if list.optional_indices.is_empty() => {
                let items = list.elements.iter().map(|item| self.kind(&item.expr));
                let null = list.elements.iter().any(|item| self.may_be_null(&item.expr));
                (items.collect::<Option<Vec<_>>>()?, null)
            }
            _ => match self.shape(within)? {
                Type::List(item) => (vec![Kind::of(&item)?], item.is_nullable()),
                // A map keeps a key that is not a whole number as text.
                Type::Map(key, _) if Kind::of(&key)? == Kind::Double => (vec![Kind::Double, Kind::String], false),
                Type::Map(key, _) => (vec![Kind::of(&key)?], false),
                Type::Record(_) => (vec![Kind::String], false),
                _ => return None,
            },
        };
        let item = *items.first()?;
        if items.iter().any(|item| item.equals(value_kind)) || null && self.may_be_null(value) {
            let Expr::List(list) = within else {
                return None;
            };
            let (ty, help) = self.none_of(value, &list.elements)?;
            return Some(Mistaken {
                message: format!("{ty} in these literals is false for every record"),
                help,
                fails: false,
            });
        }
        Some(Mistaken {
            message: format!("{value_kind} in a {of} of {item} is false for every record"),
            help: value_kind.remedy(item),
            fails: false,
        })
    }
}
