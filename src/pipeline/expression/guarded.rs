//! Finds paths that an expression tests with has() before it uses them; a version of the input may lack them.
//!
//! A path is guarded by has() of the same path: within has() itself, in the branch of `has(PATH) ? … : …`, and behind `has(PATH) && …`.

use cel::common::ast::{EntryExpr, Expr, LiteralValue, SelectExpr, operators};

use super::types::input;
use super::{Computed, Reference, free_path};
use crate::avro::value::Type;

impl Computed {
    /// Whether every use of an input is guarded by has().
    pub fn is_guarded(&self, input: usize) -> bool {
        self.guarded.get(input).copied().unwrap_or(false)
    }
}

/// The paths that are used without a guard; in `tree` they have not been cut out yet. `steps` are the names of the steps before.
pub(super) fn bare_paths(tree: &Expr, steps: &[&str]) -> Vec<Reference> {
    let mut look = Look {
        steps,
        bound: Vec::new(),
        asked: Vec::new(),
        bare: Vec::new(),
    };
    look.at(tree);
    look.bare
}

/// Whether a condition holds for no record of these inputs, because it tests by has() something that none of them has.
pub(super) fn never_holds(condition: &Expr, inputs: &[Type]) -> bool {
    let Expr::Call(call) = condition else {
        return false;
    };
    match (call.func_name.as_str(), call.args.as_slice()) {
        (operators::LOGICAL_AND, operands) => operands.iter().any(|operand| never_holds(&operand.expr, inputs)),
        (operators::NOT_EQUALS, [value, null]) => {
            let absent = |name: &str| input(name).and_then(|i| inputs.get(i)) == Some(&Type::Null);
            matches!(null.expr, Expr::Literal(LiteralValue::Null))
                && matches!(&value.expr, Expr::Ident(name) if absent(name))
        }
        _ => false,
    }
}

struct Look<'a> {
    steps: &'a [&'a str],
    /// The variables of the enclosing comprehensions.
    bound: Vec<String>,
    /// The paths that has() guards at this point.
    asked: Vec<Reference>,
    bare: Vec<Reference>,
}

impl Look<'_> {
    /// The path that an expression is. An invalid path is reported when it is cut out.
    fn path(&self, expr: &Expr) -> Option<Reference> {
        free_path(expr, self.steps, &self.bound).ok().flatten()
    }

    /// The path that an expression tests, if it is has().
    fn tested(&self, expr: &Expr) -> Option<Reference> {
        let Expr::Select(select) = expr else {
            return None;
        };
        let operand = Expr::Select(SelectExpr {
            test: false,
            ..select.clone()
        });
        select.test.then(|| self.path(&operand)).flatten()
    }

    /// The paths that exist whenever a condition holds.
    fn asks(&self, condition: &Expr) -> Vec<Reference> {
        match condition {
            Expr::Call(call) if call.func_name == operators::LOGICAL_AND => {
                call.args.iter().flat_map(|operand| self.asks(&operand.expr)).collect()
            }
            _ => self.tested(condition).into_iter().collect(),
        }
    }

    /// Visits an expression that is reached only if the condition holds.
    fn behind(&mut self, condition: &Expr, expr: &Expr) {
        let around = self.asked.len();
        let asks = self.asks(condition);
        self.asked.extend(asks);
        self.at(expr);
        self.asked.truncate(around);
    }

    fn at(&mut self, expr: &Expr) {
        if let Some(path) = self.path(expr) {
            if !self.asked.contains(&path) {
                self.bare.push(path);
            }
            return;
        }
        match expr {
            Expr::Select(_) if self.tested(expr).is_some() => {}
            Expr::Select(select) => self.at(&select.operand.expr),
            Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
                (operators::CONDITIONAL, [condition, then, other]) => {
                    self.at(&condition.expr);
                    self.behind(&condition.expr, &then.expr);
                    self.at(&other.expr);
                }
                (operators::LOGICAL_AND, [first, second]) => {
                    self.at(&first.expr);
                    self.behind(&first.expr, &second.expr);
                }
                (_, args) => {
                    let operands = call.target.as_deref().into_iter().chain(args);
                    operands.for_each(|operand| self.at(&operand.expr));
                }
            },
            Expr::List(list) => list.elements.iter().for_each(|e| self.at(&e.expr)),
            Expr::Map(map) => map.entries.iter().for_each(|e| self.entry(&e.expr)),
            Expr::Struct(of) => of.entries.iter().for_each(|e| self.entry(&e.expr)),
            Expr::Comprehension(c) => {
                self.at(&c.iter_range.expr);
                self.at(&c.accu_init.expr);
                let depth = self.bound.len();
                self.bound.extend([c.iter_var.clone(), c.accu_var.clone()]);
                self.bound.extend(c.iter_var2.clone());
                for part in [&c.loop_cond, &c.loop_step, &c.result] {
                    self.at(&part.expr);
                }
                self.bound.truncate(depth);
            }
            Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    fn entry(&mut self, entry: &EntryExpr) {
        match entry {
            EntryExpr::MapEntry(entry) => {
                self.at(&entry.key.expr);
                self.at(&entry.value.expr);
            }
            EntryExpr::StructField(field) => self.at(&field.value.expr),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Expression, parse};
    use super::*;

    #[test]
    fn a_path_is_guarded_where_has_of_it_leads_to_each_of_its_uses() {
        for (expression, guarded) in [
            ("has(event.a)", true),
            ("!has(event.a)", true),
            ("has(event.a) ? event.a : ''", true),
            ("has(event.a) ? string(event.a) + event.a : ''", true),
            ("has(event.a) && event.a > 1", true),
            ("has(event.a) && event.b > 1 && (event.b > 2 || event.a > 1)", true),
            ("event.b > 1 && has(event.a) ? [1].exists(i, event.a > i) : false", true),
            ("has(event.a) ? (event.b > 1 ? {'x': event.a}['x'] : 0) : 0", true),
            ("event.a > 1 && has(event.a)", false),
            ("has(event.a) ? '' : event.a", false),
            ("!has(event.a) ? '' : event.a", false),
            ("has(event.a) || event.a > 1", false),
            ("has(event.b) ? event.a : ''", false),
            ("has(event.a) ? event.a.b : ''", false),
            ("(has(event.a) ? event.a : 1) + event.a", false),
            ("has(event.a) || event.b > 1 ? event.a : ''", false),
            ("event.a != null ? event.a : ''", false),
        ] {
            let Ok(Expression::Computed(computed)) = parse(expression, &[]) else {
                panic!("{expression}")
            };
            let is_a = |reference: &Reference| matches!(reference, Reference::Event(path) if path.starts_with('a'));
            let inputs = computed.inputs.iter().enumerate();
            let all = inputs
                .filter(|(_, reference)| is_a(reference))
                .all(|(input, _)| computed.is_guarded(input));
            assert_eq!(all, guarded, "{expression}");
            let inputs = computed.inputs.iter().enumerate();
            for (input, reference) in inputs.filter(|(_, reference)| **reference == Reference::Event("b".into())) {
                assert_eq!(
                    computed.is_guarded(input),
                    expression.contains("has(event.b)"),
                    "{expression}: {reference:?}"
                );
            }
        }
    }
}
