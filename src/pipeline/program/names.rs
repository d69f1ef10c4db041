//! Resolves the names in expressions: fields of the event to slots, values of earlier steps to their places; and the types that are known without a
//! schema.

use std::collections::BTreeSet;

use super::super::expression::{Expression, Reference};
use super::super::failure::Failure;
use super::super::finding::Finding;
use super::{ComputedSource, Place, Source};
use crate::avro::value::{Type, Unit, Value};
use crate::config::Span;

/// What a step provides to later expressions: name, type, and source.
pub(super) type Columns = Vec<(String, Type, Source)>;

/// The columns of a step's row, any of which may be null.
pub(super) fn columns<N: Into<String>>(step: usize, gives: impl IntoIterator<Item = (N, Type)>) -> Columns {
    let gives = gives.into_iter().enumerate();
    gives
        .map(|(column, (name, ty))| (name.into(), ty.nullable(), Source::Column { step, column }))
        .collect()
}

/// The name of an earlier step, and its columns.
pub(super) struct StepNames {
    pub(super) name: String,
    pub(super) columns: Columns,
}

/// Collects the results of preparing a pipeline.
#[derive(Default)]
pub(super) struct Builder {
    pub(super) paths: Vec<(String, Span)>,
    /// The slots of paths that the input must have, because some use is not guarded by has().
    pub(super) needed: BTreeSet<usize>,
    /// See [`super::Program::unbound`].
    pub(super) unbound: BTreeSet<usize>,
    pub(super) known: Vec<StepNames>,
    pub(super) findings: Vec<Finding>,
    pub(super) unavailable: Option<Failure>,
    /// The number of values that the `set` steps name.
    pub(super) named: usize,
    /// The number of writes.
    pub(super) writes: i64,
}

impl Builder {
    pub(super) fn slot(&mut self, path: &str, span: Span) -> Source {
        let slot = self.asked(path, span);
        self.needed.insert(slot);
        Source::Event(slot)
    }

    /// The event's field by the name of a marker or an input that nothing is bound to.
    pub(super) fn unbound(&mut self, name: &str, span: Span) -> Source {
        let before = self.paths.len();
        let source = self.slot(name, span);
        // If something else asked for the field before, the finding is there.
        self.unbound.extend(before..self.paths.len());
        source
    }

    /// The slot of a path, which the input may lack as far as this use is concerned.
    fn asked(&mut self, path: &str, span: Span) -> usize {
        self.paths.iter().position(|(p, _)| p == path).unwrap_or_else(|| {
            self.paths.push((path.to_owned(), span));
            self.paths.len() - 1
        })
    }

    /// Where an expression's value comes from; none, with a finding, if it names something that does not exist.
    pub(super) fn place(&mut self, expression: &Expression, span: Span) -> Option<Place> {
        let source = match expression {
            Expression::Path(reference) => self.reference(reference, span, false)?,
            Expression::Constant(value) => Source::Constant(value.clone()),
            Expression::Now => Source::Now(NOW),
            Expression::Computed(computed) => {
                let inputs = computed
                    .inputs
                    .iter()
                    .enumerate()
                    .map(|(input, r)| self.reference(r, span, computed.is_guarded(input)))
                    .collect::<Option<Vec<_>>>()?;
                Source::Computed(Box::new(ComputedSource {
                    expression: computed.clone(),
                    inputs,
                }))
            }
        };
        Some(Place {
            source,
            span,
            what: what(expression).into(),
        })
    }

    fn reference(&mut self, reference: &Reference, span: Span, guarded: bool) -> Option<Source> {
        match reference {
            Reference::Event(path) if guarded => Some(Source::Event(self.asked(path, span))),
            Reference::Event(path) => Some(self.slot(path, span)),
            Reference::Record(field) => Some(Source::Record(field.clone())),
            Reference::Step { step, column } => {
                let known = self.known.iter().find(|s| s.name == *step)?;
                if let Some((_, _, source)) = known.columns.iter().find(|(name, _, _)| name == column) {
                    return Some(source.clone());
                }
                let names: Vec<_> = known.columns.iter().map(|(name, _, _)| name.as_str()).collect();
                let help = match names.as_slice() {
                    [] => format!("step '{step}' returns no columns"),
                    names => format!("step '{step}' returns {}", names.join(", ")),
                };
                self.findings
                    .push(Finding::new(span, format!("step '{step}' has no column '{column}'")).help(help));
                None
            }
        }
    }

    /// The type of an expression, if it is known without a schema.
    pub(super) fn static_type(&self, expression: &Expression) -> Option<Type> {
        let of = |reference: &Reference| match reference {
            Reference::Event(_) => None,
            Reference::Record(field) => Some(field.value_type()),
            Reference::Step { step, column } => self
                .known
                .iter()
                .find(|s| s.name == *step)?
                .columns
                .iter()
                .find(|(name, _, _)| name == column)
                .map(|(_, ty, _)| ty.clone()),
        };
        match expression {
            Expression::Path(reference) => of(reference),
            Expression::Constant(value) => constant_type(value),
            Expression::Now => Some(Type::Timestamp(NOW)),
            Expression::Computed(computed) => {
                let inputs: Vec<Type> = computed.inputs.iter().map(|r| of(r).unwrap_or(Type::Any)).collect();
                computed.result_type(&inputs)
            }
        }
    }
}

/// The unit of `now()` unless a field asks for another.
const NOW: Unit = Unit::Micros;

/// What findings call a field of the event.
pub fn event_path(path: &str) -> String {
    let dot = if path.is_empty() || path.starts_with('[') {
        ""
    } else {
        "."
    };
    format!("event{dot}{path}")
}

/// What findings call an expression.
fn what(expression: &Expression) -> String {
    match expression {
        Expression::Path(Reference::Event(path)) => event_path(path),
        Expression::Path(Reference::Record(field)) => format!("record.{}", field.name()),
        Expression::Path(Reference::Step { step, column }) => format!("{step}.{column}"),
        Expression::Constant(_) => "this literal".to_owned(),
        Expression::Now => "now()".to_owned(),
        Expression::Computed(_) => "what this expression gives".to_owned(),
    }
}

/// The type of a literal.
pub fn constant_type(value: &Value<'_>) -> Option<Type> {
    Some(match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Long(_) => Type::Long,
        Value::Double(_) => Type::Double,
        Value::String(_) => Type::String,
        Value::Bytes(_) => Type::Bytes,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use crate::config;
    use crate::pipeline::prepare::NotPrepared;
    use crate::pipeline::program::parse;
    use crate::reference::References;

    #[tokio::test]
    async fn what_uses_a_name_that_failed_is_not_told_as_well() {
        let toml = "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\n\
             [pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n\
             [[pipelines.p.steps]]\nname = \"first\"\nset = { a = \"event.a\" }\n\
             [[pipelines.p.steps]]\nname = \"calc\"\nset = { label = \"first.nothing\", other = \"event.b\" }\n\
             [pipelines.p.sink]\ntopic = \"o\"\nset = { x = \"calc.label\", y = \"calc.lable\" }\n";
        let (config, _) = config::load_str(vec![("t.toml".into(), toml.to_owned())], std::iter::empty()).unwrap();
        let parsed = parse(&config.pipelines["p"]).unwrap();
        let prepared = parsed.prepare(None, &References::default(), &Default::default()).await;
        let findings = match prepared {
            Err(NotPrepared::Findings(findings)) => findings,
            other => panic!("{other:?}"),
        };
        let messages: Vec<_> = findings.iter().map(|finding| finding.message.as_str()).collect();
        let wanted = [
            "step 'first' has no column 'nothing'",
            "step 'calc' has no column 'lable'",
        ];
        assert_eq!(messages, wanted);
        assert_eq!(findings[1].help.as_deref(), Some("step 'calc' returns label, other"));
    }
}
