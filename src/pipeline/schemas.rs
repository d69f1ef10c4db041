//! From a schema id to a plan: fetched, compiled, the output schema registered, once per id.
//!
//! Kept while there is room: a plan, and the verdict that a schema breaks the pipeline (schemas are immutable, so both stay
//! true).
//! Never kept: a failure that may pass. The registry client remembers unknown ids, shortly.

use std::sync::{Arc, Mutex, PoisonError};

use super::failure::Failure;
use super::finding::Finding;
use super::plan::{Output, OutputSchema, SchemaPlan, compile};
use super::program::Program;
use crate::avro::Schema;
use crate::registry::recent::Recent;
use crate::registry::{Fetched, Registry};

/// Where output schemas go.
#[derive(Debug, Clone)]
pub struct OutputSubject {
    /// How the output schema is made.
    pub schema: OutputSchema,
    /// The subject that it is registered under: the sink's topic and `-value`.
    pub subject: String,
    /// How the schema gets its id.
    pub registering: Registering,
}

/// What happens to an output schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registering {
    /// It is registered.
    Register,
    /// It must be there.
    MustExist,
    /// The same, for a check: a version without it is an error, whatever others there are.
    Check,
    /// Nothing: it would be registered, or is not needed.
    Skip,
}

/// The plans of one pipeline, by schema id.
pub struct Schemas {
    program: Arc<Program>,
    registry: Arc<Registry>,
    output: Option<OutputSubject>,
    plans: Mutex<Recent<Result<Arc<SchemaPlan>, Failure>>>,
}

/// Why a schema cannot be used now, or ever.
#[derive(Debug)]
pub enum Unusable {
    /// The pipeline's types do not fit it.
    Findings(Vec<Finding>),
    /// It could not be fetched, parsed or registered.
    Failure(Failure),
}

/// Bytes that a plan takes, or why there is none.
pub fn weight(plan: &Result<Arc<SchemaPlan>, Failure>) -> usize {
    match plan {
        Ok(plan) => plan.weight(),
        Err(failure) => failure.message.len(),
    }
}

impl Schemas {
    /// An empty set of plans.
    pub fn new(program: Arc<Program>, registry: Arc<Registry>, output: Option<OutputSubject>) -> Schemas {
        Schemas {
            program,
            registry,
            output,
            plans: Mutex::default(),
        }
    }

    /// Makes a plan known, for tests that have no registry.
    #[cfg(test)]
    pub(crate) fn set(&self, id: u32, plan: Arc<SchemaPlan>) {
        self.keep(id, Ok(plan));
    }

    fn keep(&self, id: u32, plan: Result<Arc<SchemaPlan>, Failure>) {
        let weight = weight(&plan);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.insert(id, plan, weight);
    }

    /// The plan of `id`, if it was resolved before.
    pub fn known(&self, id: u32) -> Option<Result<Arc<SchemaPlan>, Failure>> {
        self.plans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    /// Fetches and compiles `id`. The failure is transient where another attempt may succeed.
    pub async fn resolve(&self, id: u32) -> Result<Arc<SchemaPlan>, Failure> {
        if let Some(known) = self.known(id) {
            return known;
        }
        let fetched = self.registry.schema(id).await.map_err(|e| Failure {
            class: e.class(),
            reason: "registry",
            step: None,
            attempts: 1,
            message: format!("schema {id}: {e}"),
            not_applied: false,
        })?;
        // Kept is what stays true: a plan, and types that do not fit. An output schema that is missing may be registered.
        let result = match self.plan(&fetched).await {
            Ok((plan, warnings)) => {
                for warning in warnings {
                    tracing::warn!(pipeline = %self.program.name, schema = id, "{}", warning.message);
                }
                Ok(plan)
            }
            Err(Unusable::Failure(failure)) => return Err(failure),
            Err(Unusable::Findings(findings)) => Err(Failure::permanent(
                "schema",
                format!(
                    "schema {id} breaks the pipeline: {}",
                    findings
                        .iter()
                        .map(|f| f.message.as_str())
                        .collect::<Vec<_>>()
                        .join("; ")
                ),
            )),
        };
        self.keep(id, result.clone());
        result
    }

    /// Compiles a schema that was fetched already, and keeps the plan; gives what should be known although it fits. Serves the type check.
    pub async fn learn(&self, fetched: &Fetched) -> Result<Vec<Finding>, Unusable> {
        let (plan, warnings) = self.plan(fetched).await?;
        self.keep(fetched.id, Ok(plan));
        Ok(warnings)
    }

    /// Compiles one fetched schema, and makes sure that its output schema is registered.
    async fn plan(&self, fetched: &Fetched) -> Result<(Arc<SchemaPlan>, Vec<Finding>), Unusable> {
        let references: Vec<&str> = fetched.references.iter().map(String::as_str).collect();
        let writer = Schema::parse_with_references(&fetched.schema, &references).map_err(|e| {
            Unusable::Failure(Failure::permanent(
                "schema",
                format!("schema {} cannot be parsed: {e}", fetched.id),
            ))
        })?;
        let output_schema = self.output.as_ref().map(|o| &o.schema);
        let compiled = compile(&self.program, Arc::new(writer), output_schema).map_err(Unusable::Findings)?;
        let output = match (compiled.output, &self.output) {
            (Some((splice, schema)), Some(subject)) => {
                let schema_id = self.register(&schema, subject).await.map_err(Unusable::Failure)?;
                Some(Output {
                    splice,
                    schema,
                    schema_id,
                })
            }
            _ => None,
        };
        let plan = SchemaPlan {
            plan: compiled.plan,
            output,
        };
        Ok((Arc::new(plan), compiled.warnings))
    }

    async fn register(&self, schema: &Schema, to: &OutputSubject) -> Result<u32, Failure> {
        let in_words = |e: crate::registry::RegistryError| Failure {
            class: e.class(),
            reason: "registry",
            step: None,
            attempts: 1,
            message: format!("output schema under {}: {e}", to.subject),
            not_applied: false,
        };
        match to.registering {
            Registering::Register => {
                return self
                    .registry
                    .register(&to.subject, schema.json())
                    .await
                    .map_err(in_words);
            }
            Registering::Skip => return Ok(0),
            Registering::MustExist | Registering::Check => {}
        }
        match self
            .registry
            .lookup(&to.subject, schema.json())
            .await
            .map_err(in_words)?
        {
            Some(id) => Ok(id),
            None => Err(Failure::permanent(
                "schema",
                format!(
                    "the output schema is not registered under {}: register it, or set [registry] register = true",
                    to.subject
                ),
            )),
        }
    }
}
