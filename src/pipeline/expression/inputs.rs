//! The interpreter's inputs from a record: borrowed where possible. What is the same for every record is built only once.

use std::collections::HashSet;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};
use cel::common::types::{CelBool, CelDouble, CelInt, CelNull, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, IdedExpr};
use smallvec::SmallVec;

use super::convert::{map_key, to_cel, whole};
use super::{Computed, FOR_EVER, INPUT, literal, told};
use crate::avro::decimal_text;
use crate::avro::value::Value;

/// Prefix of the names of lists that are built once. As with [`INPUT`], no name that users can write starts with it.
const LIST: char = '#';

/// The form in which CEL gets an input. A double would round a decimal, and has other digits than a float.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Its own type.
    Plain,
    /// Decimals and floats as text.
    Text,
    /// A decimal as its whole number, without the fraction.
    Whole,
    /// A map or record as the list of its keys, over which a macro iterates. The interpreter's map orders them differently each time,
    /// but a record must give the same result on replay.
    Keys,
}

impl Computed {
    /// Whether `string()` makes text of an input.
    pub fn makes_text(&self, input: usize) -> bool {
        self.seen.get(input) == Some(&Seen::Text)
    }
}

/// Builds each list of literals that `in` searches, and replaces it by a name: otherwise the interpreter would build it for every
/// record. Other lists stay, because the interpreter recognises its macros by them.
pub(super) fn take_lists(node: &mut IdedExpr, lists: &mut Vec<Box<dyn Val>>) {
    match &mut node.expr {
        Expr::Call(call) => {
            if call.func_name == operators::IN
                && let [_, within] = call.args.as_mut_slice()
                && let Some(list) = constant_list(within)
            {
                within.expr = Expr::Ident(format!("{LIST}{}", lists.len()));
                lists.push(list);
            }
            for part in call.target.as_deref_mut().into_iter().chain(&mut call.args) {
                take_lists(part, lists);
            }
        }
        Expr::Select(select) => take_lists(&mut select.operand, lists),
        Expr::List(list) => list.elements.iter_mut().for_each(|e| take_lists(e, lists)),
        Expr::Comprehension(c) => {
            for part in [
                &mut c.iter_range,
                &mut c.accu_init,
                &mut c.loop_cond,
                &mut c.loop_step,
                &mut c.result,
            ] {
                take_lists(part, lists);
            }
        }
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    take_lists(&mut entry.key, lists);
                    take_lists(&mut entry.value, lists);
                }
            }
        }
        // No expression can create messages.
        Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

/// Replaces by [`FOR_EVER`] each 0 that is a branch of the outermost condition, or of a condition that is itself such a
/// branch.
pub(super) fn for_ever_for_zero(node: &mut IdedExpr) {
    if let Expr::Call(call) = &mut node.expr {
        if call.func_name == operators::CONDITIONAL {
            call.args.iter_mut().skip(1).for_each(for_ever_for_zero);
        }
    } else if matches!(literal(&node.expr), Some(Value::Long(0))) {
        node.expr = Expr::Literal(LiteralValue::Int(FOR_EVER.into()));
    }
}

/// The list as the interpreter builds it, if the node is a list of literals only.
fn constant_list(node: &IdedExpr) -> Option<Box<dyn Val>> {
    let Expr::List(list) = &node.expr else {
        return None;
    };
    if list.elements.iter().any(|e| literal(&e.expr).is_none()) {
        return None;
    }
    let context = Context::empty();
    let made = cel::Value::resolve_val(node, &context).ok()?;
    Some(made.into_owned())
}

/// An input in the form that the interpreter gets.
enum Given<'v> {
    Null,
    Bool(CelBool),
    Int(CelInt),
    Double(CelDouble),
    Text(CelString<'v>),
    Made(Box<dyn Val>),
}

impl<'v> Given<'v> {
    fn of(value: &'v Value<'_>, seen: Seen) -> Result<Given<'v>, String> {
        let value = match (value, seen) {
            (Value::String(text), _) => return Ok(Given::Text(CelString::from(&**text))),
            (Value::Decimal { unscaled, scale }, Seen::Text) => {
                let text = decimal_text(unscaled, *scale).ok_or("a decimal has more digits than are taken")?;
                return Ok(Given::Text(CelString::from(text)));
            }
            (Value::Float(number), Seen::Text) => return Ok(Given::Text(CelString::from(number.to_string()))),
            // A value that no int holds stays a double: int() then fails only when it is evaluated, and not if a condition leads
            // around it.
            (Value::Decimal { unscaled, scale }, Seen::Whole) => {
                whole(unscaled, *scale).map_or_else(|| to_cel(value), cel::Value::Int)
            }
            (Value::Map(entries), Seen::Keys) => {
                let mut known = HashSet::new();
                let keys = entries.iter().map(|(key, _)| map_key(key));
                let once = keys.filter(|key| known.insert(key.clone()));
                cel::Value::List(Arc::new(once.map(cel::Value::from).collect()))
            }
            (Value::Record(fields), Seen::Keys) => {
                let names = fields.iter().map(|(name, _)| Arc::new(name.to_string()));
                cel::Value::List(Arc::new(names.map(cel::Value::String).collect()))
            }
            (value, _) => to_cel(value),
        };
        Ok(match value {
            cel::Value::Null => Given::Null,
            cel::Value::Bool(v) => Given::Bool(CelBool::from(v)),
            cel::Value::Int(v) => Given::Int(CelInt::from(v)),
            cel::Value::Float(v) => Given::Double(CelDouble::from(v)),
            value => Given::Made(Box::<dyn Val>::try_from(value).map_err(|error| told(&error))?),
        })
    }

    fn val(&self) -> &(dyn Val + 'v) {
        match self {
            Given::Null => &CelNull,
            Given::Bool(v) => v,
            Given::Int(v) => v,
            Given::Double(v) => v,
            Given::Text(v) => v,
            Given::Made(v) => v.as_ref(),
        }
    }
}

/// Resolves the names in an expression's tree.
pub(super) struct Inputs<'v> {
    given: SmallVec<[Given<'v>; 4]>,
    lists: &'v [Box<dyn Val>],
}

impl<'v> Inputs<'v> {
    pub(super) fn of(values: &'v [Value<'_>], seen: &[Seen], lists: &'v [Box<dyn Val>]) -> Result<Inputs<'v>, String> {
        let given = values.iter().zip(seen).map(|(value, seen)| Given::of(value, *seen));
        Ok(Inputs {
            given: given.collect::<Result<_, _>>()?,
            lists,
        })
    }
}

impl VariableResolver for Inputs<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        if let Some(index) = name.strip_prefix(INPUT) {
            // A macro's `@result` has the same prefix, but is no number: the interpreter resolves it itself.
            let index: usize = index.parse().ok()?;
            return self.given.get(index).map(|given| CowVal::Borrowed(given.val()));
        }
        let index: usize = name.strip_prefix(LIST)?.parse().ok()?;
        self.lists.get(index).map(|list| CowVal::Borrowed(list.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Expression, Interpreter, parse};
    use super::*;

    #[test]
    fn a_list_that_is_made_once_answers_as_one_that_is_made_each_time() {
        let text = |text: &'static str| Value::String(text.into());
        let values = [
            Value::Null,
            Value::Bool(true),
            Value::Int(-1),
            Value::Long(2),
            Value::Double(2.0),
            Value::Uuid([0; 16]),
            text("a"),
            text("z"),
            Value::List(vec![text("a"), text("z"), Value::Null]),
        ];
        for (expression, lists) in [
            ("p.a in ['a', 'b']", 1),
            ("p.a in []", 1),
            ("p.a in [-1, 2u, 2.5, true, null, 'a', b'a']", 1),
            ("!(p.a in ['a']) || p.a in [2] ? p.a : 'none'", 2),
            ("[p.a in ['a'], p.a in ['b']]", 2),
            ("{p.a in ['a']: p.a in ['z']}[true]", 2),
            ("string(p.a in ['a']).startsWith('t')", 1),
            ("p.a.exists(i, i in ['z'])", 1),
            ("p.a.filter(i, !(i in ['a', null]))", 1),
            ("p.a.map(i, ['x'].exists(x, x == i || i in ['a']))", 1),
            // Not built: lists that are not constant, lists that `in` does not search, and literals that no long holds.
            ("p.a in ['a', p.b]", 0),
            ("p.a.filter(i, 'a' in [i])", 0),
            ("p.a in [['a']]", 0),
            ("p.a in {'a': 1}", 0),
            ("p.a == ['a', 'z', null]", 0),
            ("p.a.map(i, 1)", 0),
            ("p.a in [9223372036854775808u]", 0),
        ] {
            let Ok(Expression::Computed(once)) = parse(expression, &["p"]) else {
                panic!("{expression}");
            };
            assert_eq!(once.lists.len(), lists, "{expression}");
            let each_time = Computed {
                run: once.tree.clone(),
                ..once.clone()
            };
            for value in &values {
                let inputs: Vec<_> = once.inputs.iter().map(|_| value.borrowed()).collect();
                let [a, b] = [&once, &each_time].map(|c| c.evaluate(&Interpreter::default(), &inputs));
                assert_eq!(a, b, "{expression} of {value:?}");
            }
        }
    }
}
