//! A custom step: the values of its inputs, and its outputs for later steps.

use std::sync::Arc;
use std::time::Duration;

use super::super::finding::Finding;
use super::super::policy::Policy;
use super::names::{Builder, Columns, columns};
use super::parse::ParsedStep;
use super::{Action, Place};
use crate::avro::value::Type;
use crate::config::{self, OnMissing};
use crate::custom::{CustomStep, CustomSteps, Registered, fits};

/// A custom step, ready to run.
pub struct Custom {
    /// The step.
    pub step: Arc<dyn CustomStep>,
    /// Its inputs, by name and type.
    pub takes: Vec<(String, Type)>,
    /// The values of the inputs.
    pub binds: Vec<Place>,
    /// Its outputs, by name and type.
    pub gives: Vec<(String, Type)>,
    /// What to do if it gives nothing.
    pub on_missing: OnMissing,
    /// How long one attempt may take.
    pub timeout: Duration,
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

/// The finding about a value that a custom step cannot take; none if it can.
pub fn not_taken(place: &Place, ty: &Type, name: &str, wanted: &Type) -> Option<Finding> {
    let why = fits(ty, wanted).err()?;
    let message = format!("'{name}' cannot take {}: {why}", place.what);
    let help = "bind another field, or take `Type::Any`; CEL gives text, long, double and boolean";
    Some(Finding::new(place.span, message).help(help))
}

/// What a step names and the program does not have: the custom step itself, or one of its inputs. No service is needed
/// to check it.
pub fn misnamed(wanted: &config::Custom, customs: &CustomSteps) -> Vec<Finding> {
    let name = &wanted.custom;
    let Some(own) = customs.get(name) else {
        let known: Vec<_> = customs.names().collect();
        let message = format!("this program has no custom step '{}'", name.value);
        let help = if known.is_empty() {
            "register it in Rust: see the documentation of messina::custom; the plain `messina` has none".to_owned()
        } else {
            format!("it has {}", known.join(", "))
        };
        return vec![Finding::new(name.span, message).help(help)];
    };
    let names: Vec<_> = own.takes.iter().map(|(taken, _)| taken.as_str()).collect();
    let help = if names.is_empty() {
        "it takes nothing".to_owned()
    } else {
        format!("it takes {}", names.join(", "))
    };
    let more = wanted.bind.iter().map(|bound| &bound.name);
    more.filter(|bound| !names.contains(&bound.as_str()))
        .map(|bound| {
            let message = format!("step '{}' takes no '{}'", name.value, bound.value);
            Finding::new(bound.span, message).help(help.clone())
        })
        .collect()
}

impl Builder {
    pub(super) fn custom(
        &mut self,
        index: usize,
        wanted: &config::Custom,
        parsed: &ParsedStep,
        customs: &CustomSteps,
    ) -> Option<(Action, Columns)> {
        self.findings.extend(misnamed(wanted, customs));
        let name = &wanted.custom;
        let Registered { step, takes, gives } = customs.get(name)?.clone();
        let mut binds = Vec::new();
        for (taken, wanted) in &takes {
            let bound = parsed.binds.iter().find(|(bound, ..)| bound.value == *taken);
            let (place, ty) = match bound {
                Some((_, e, span)) => (self.place(e, *span)?, self.static_type(e)),
                None => (
                    Place {
                        source: self.unbound(taken, name.span),
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
        let columns = columns(index, gives.iter().cloned());
        let custom = Custom {
            step,
            takes,
            binds,
            gives,
            on_missing: wanted.on_missing,
            timeout: wanted.timeout,
            policy: Policy::from(&wanted.errors),
        };
        Some((Action::Custom(Box::new(custom)), columns))
    }
}
