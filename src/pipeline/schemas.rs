//! From a schema id to a plan: the schema is fetched and compiled, and the output schema registered, once per id.
//!
//! Kept while there is room: plans, and the verdict that a schema breaks the pipeline (schemas are immutable, so both stay true). Never kept:
//! transient failures. The registry client remembers unknown ids for a short time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::failure::Failure;
use super::finding::Finding;
use super::plan::{Output, OutputSchema, SchemaPlan, compile, lacking, shifted};
use super::program::Program;
use crate::avro::Schema;
use crate::avro::value::Type;
use crate::registry::lru::Lru;
use crate::registry::{Fetched, Registry, RegistryError};
use crate::retry::Class;

/// Where output schemas are registered.
#[derive(Debug, Clone)]
pub struct OutputSubject {
    /// How the output schema is made.
    pub schema: OutputSchema,
    /// The subject: the sink's topic and `-value`.
    pub subject: String,
    /// The id, if the schema was read from that subject. Its text has its references resolved here, and the registry may not know it
    /// in that form.
    pub known: Option<u32>,
    /// How the schema gets its id.
    pub registering: Registering,
}

/// What to do with an output schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registering {
    /// Register it.
    Register,
    /// Require that it is registered.
    MustExist,
    /// Change nothing: ask the registry what it would do. For checks without effects.
    Ask {
        /// Whether it would be registered; otherwise it must be there already.
        register: bool,
    },
}

/// The plans of one pipeline, by schema id.
pub struct Schemas {
    program: Arc<Program>,
    registry: Arc<Registry>,
    output: Option<OutputSubject>,
    plans: Mutex<Lru<Result<Arc<SchemaPlan>, Failure>>>,
    /// The type of each field in the first plan that has it and was kept; later plans are compared with these.
    first: Mutex<Vec<Type>>,
    /// Whether a check may not read the output's subject, so that it is unknown what is registered there.
    hidden: AtomicBool,
    /// The schemas whose output schema was missing while records waited for it.
    missing: Mutex<Lru<()>>,
}

/// Why a schema cannot be used now, or ever.
#[derive(Debug)]
pub enum Unusable {
    /// The pipeline's types do not fit it.
    Findings(Vec<Finding>),
    /// A check found that its output schema would get no id. For a start this is a failure.
    Output(Vec<Finding>),
    /// It could not be fetched, parsed or registered.
    Failure(Failure),
}

/// The size of a plan in bytes, or of the reason why there is none.
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
            first: Mutex::default(),
            hidden: AtomicBool::new(false),
            missing: Mutex::default(),
        }
    }

    /// Adds a plan, for tests without a registry.
    #[cfg(test)]
    pub(crate) fn set(&self, id: u32, plan: Arc<SchemaPlan>) {
        self.keep(id, Ok(plan));
    }

    fn keep(&self, id: u32, plan: Result<Arc<SchemaPlan>, Failure>) {
        let weight = weight(&plan);
        if let Ok(SchemaPlan { plan, .. }) = plan.as_deref() {
            let mut first = self.first();
            first.resize(plan.slots(), Type::Null);
            for (slot, ty) in first.iter_mut().enumerate() {
                if *ty == Type::Null {
                    *ty = plan.slot_type(slot);
                }
            }
        }
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.insert(id, plan, weight);
    }

    fn first(&self) -> MutexGuard<'_, Vec<Type>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a check may not read the output's subject.
    pub fn hidden(&self) -> bool {
        self.hidden.load(Ordering::Relaxed)
    }

    fn missing(&self) -> MutexGuard<'_, Lru<()>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plan of `id`, if it was resolved before.
    pub fn known(&self, id: u32) -> Option<Result<Arc<SchemaPlan>, Failure>> {
        self.plans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    /// Fetches and compiles `id`. The failure is transient if another attempt may succeed.
    pub async fn resolve(&self, id: u32) -> Result<Arc<SchemaPlan>, Failure> {
        if let Some(known) = self.known(id) {
            return known;
        }
        let fetched = self.registry.schema(id).await;
        let fetched = fetched.map_err(|e| Failure::new(e.class(), "registry", format!("schema {id}: {e}")))?;
        // Only lasting results are kept: a plan, and types that do not fit. A missing output schema may still be
        // registered.
        let result = match self.plan(&fetched, true).await {
            Ok((plan, mut warnings)) => {
                warnings.extend(lacking(&self.program, &plan.plan, "this schema"));
                for warning in warnings {
                    tracing::warn!(pipeline = %self.program.name, schema = id, "{}", warning.message);
                }
                Ok(plan)
            }
            Err(Unusable::Failure(failure)) => return Err(failure),
            Err(Unusable::Findings(findings) | Unusable::Output(findings)) => Err(Failure::permanent(
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

    /// Compiles a schema that was fetched already, keeps the plan, and returns the warnings. For the type check.
    pub async fn learn(&self, fetched: &Fetched) -> Result<Vec<Finding>, Unusable> {
        let (plan, warnings) = self.plan(fetched, false).await?;
        self.keep(fetched.id, Ok(plan));
        Ok(warnings)
    }

    /// Compiles a fetched schema and makes sure that its output schema is registered. `records_wait` is false for the type check.
    async fn plan(&self, fetched: &Fetched, records_wait: bool) -> Result<(Arc<SchemaPlan>, Vec<Finding>), Unusable> {
        let writer = fetched.parsed().map_err(|e| {
            Unusable::Failure(Failure::permanent(
                "schema",
                format!("schema {} cannot be parsed: {e}", fetched.id),
            ))
        })?;
        let output_schema = self.output.as_ref().map(|o| &o.schema);
        let compiled = compile(&self.program, Arc::new(writer), output_schema).map_err(Unusable::Findings)?;
        let mut warnings = compiled.warnings;
        warnings.extend(shifted(&self.program, &self.first(), &compiled.plan));
        let output = match (compiled.output, &self.output) {
            (Some((splice, schema)), Some(subject)) => {
                let registered = self.register(fetched.id, &schema, subject, records_wait).await;
                let schema_id = registered.map_err(|failure| self.refused(failure, &schema, subject))?;
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
        Ok((Arc::new(plan), warnings))
    }

    /// The id of the output schema of schema `of`.
    async fn register(&self, of: u32, schema: &Schema, to: &OutputSubject, records_wait: bool) -> Result<u32, Failure> {
        if let Some(id) = to.known {
            return Ok(id);
        }
        let OutputSubject {
            subject, registering, ..
        } = to;
        let in_words = |e: RegistryError| {
            // A rejection is the schema's fault, and is counted as such.
            let rejected = matches!(e, RegistryError::Rejected { .. });
            let reason = if rejected { "schema" } else { "registry" };
            Failure::new(e.class(), reason, format!("output schema under {subject}: {e}"))
        };
        // Looked up first, for a schema that is registered already: followers answer while the leader is away, and so does a
        // registry that is read-only.
        let known = if records_wait && *registering == Registering::MustExist {
            // The partition would wait at each repeated query, and records keep coming, so only the first query for a
            // schema is patient.
            let patient = self.missing().get(of).is_none();
            let known = self.registry.lookup_for_records(subject, schema.json(), patient).await;
            match &known {
                Ok(None) => self.missing().insert(of, (), 0),
                Ok(Some(_)) => self.missing().remove(of),
                Err(_) => {}
            }
            known
        } else {
            self.registry.lookup(subject, schema.json()).await
        };
        let known = match known {
            // A login that may write a subject need not be allowed to read it.
            Err(RegistryError::Refused { .. }) if *registering == Registering::Register => None,
            Err(RegistryError::Refused { status: 403, .. })
                if *registering == (Registering::Ask { register: true }) =>
            {
                self.hidden.store(true, Ordering::Relaxed);
                return Ok(0);
            }
            known => known.map_err(in_words)?,
        };
        if let Some(id) = known {
            return Ok(id);
        }
        if *registering == Registering::Register {
            let mut registered = self.registry.register(subject, schema.json()).await;
            // Some registries answer alike for an incompatible schema and while they are read-only.
            if matches!(registered, Err(RegistryError::Refused { status: 409, .. }))
                && let Err(rejected @ RegistryError::Rejected { .. }) = self.compatible(subject, schema).await
            {
                registered = Err(rejected);
            }
            if matches!(registered, Err(RegistryError::Rejected { .. })) {
                // Another process may have registered the same text since the look-up, which some registries answer with a conflict.
                match self.registry.lookup(subject, schema.json()).await {
                    Ok(Some(id)) => return Ok(id),
                    // A login that may not read the subject, or a gateway without such a path, will not answer later
                    // either.
                    Err(RegistryError::Refused {
                        status: 401 | 403 | 404 | 405,
                        ..
                    }) => {}
                    Err(error) if error.class() == Class::Transient => return Err(in_words(error)),
                    Ok(None) | Err(_) => {}
                }
            }
            return registered.map_err(in_words);
        }
        if *registering == (Registering::Ask { register: true }) {
            // There is no id yet.
            return self.compatible(subject, schema).await.map(|()| 0).map_err(in_words);
        }
        Err(Failure::permanent(
            "schema",
            format!(
                "the output schema is not registered under {subject}: register it (`messina check --online` shows its text), \
                 or set [registry] register = true"
            ),
        ))
    }

    /// Asks the registry whether it would accept a schema; the error says why not.
    async fn compatible(&self, subject: &str, schema: &Schema) -> Result<(), RegistryError> {
        let answer = self.registry.compatible(subject, schema.json()).await?;
        if answer.compatible {
            return Ok(());
        }
        Err(RegistryError::Rejected {
            subject: subject.to_owned(),
            message: format!(
                "it is incompatible with an earlier version: {}",
                answer.messages.join("; ")
            ),
        })
    }

    /// The error about an output schema without an id. A check adds the schema's text, because a derived schema that has to
    /// be registered is shown nowhere else.
    fn refused(&self, failure: Failure, schema: &Schema, to: &OutputSubject) -> Unusable {
        match (to.registering, self.program.sink) {
            (Registering::Ask { .. }, Some(span)) if failure.class == Class::Permanent => {
                let help = format!("the output schema is {}", schema.json());
                Unusable::Output(vec![Finding::new(span, failure.message).help(help)])
            }
            _ => Unusable::Failure(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::config;
    use crate::demo::registry::{DemoRegistry, Fault};
    use crate::demo::schemas::Subjects;
    use crate::pipeline::program::parse;
    use crate::reference::References;
    use crate::registry::RegistryOptions;
    use crate::telemetry::breadcrumbs::Breadcrumbs;

    const CLICK: &str = r#"{"type":"record","name":"Click","fields":[{"name":"id","type":"long"}]}"#;

    /// What a type check does with the output schema of `CLICK` with one more field, under `o-value`: its id, or the
    /// failure.
    async fn registered(demo: &DemoRegistry, registering: Registering) -> Result<u32, Unusable> {
        id_at(&[demo], registering, false).await
    }

    /// The same with these registries, and with records waiting or not.
    async fn id_at(demos: &[&DemoRegistry], registering: Registering, records_wait: bool) -> Result<u32, Unusable> {
        let urls = demos.iter().map(|demo| demo.url()).collect();
        let (plan, _) = schemas(urls, registering).await.plan(&click(7), records_wait).await?;
        Ok(plan.output.as_ref().unwrap().schema_id)
    }

    /// `CLICK` under an id.
    fn click(id: u32) -> Fetched {
        Fetched {
            id,
            version: None,
            schema: CLICK.into(),
            references: Vec::new(),
        }
    }

    /// The plans of a pipeline that adds a field to `CLICK`, with registries at these addresses.
    async fn schemas(urls: Vec<String>, registering: Registering) -> Schemas {
        schemas_with("event.id", urls, registering).await
    }

    /// The same, with this expression as the field's value.
    async fn schemas_with(n: &str, urls: Vec<String>, registering: Registering) -> Schemas {
        let toml = format!(
            "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\n\
             [pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n\
             [pipelines.p.sink]\ntopic = \"o\"\nset = {{ n = \"{n}\" }}\n"
        );
        let (config, _) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
        let parsed = parse(&config.pipelines["p"]).unwrap();
        let program = parsed.prepare(None, &References::default(), &Default::default()).await;
        let registry = Registry::new(RegistryOptions {
            urls,
            ..RegistryOptions::default()
        });
        let output = OutputSubject {
            schema: OutputSchema::Appended,
            subject: "o-value".into(),
            known: None,
            registering,
        };
        Schemas::new(Arc::new(program.unwrap()), Arc::new(registry.unwrap()), Some(output))
    }

    #[tokio::test]
    async fn an_id_that_no_registry_gives_is_not_asked_for() {
        let schemas = schemas(vec!["http://127.0.0.1:1".to_owned()], Registering::MustExist).await;
        let failure = schemas.resolve(u32::MAX).await.unwrap_err();
        assert_eq!((failure.class, failure.reason), (Class::Permanent, "registry"));
        assert!(failure.message.contains("4294967295 is unknown"), "{failure}");
    }

    #[tokio::test]
    async fn records_wait_for_who_may_know_the_output_schema() {
        let (a, b) = (
            DemoRegistry::start().await.unwrap(),
            DemoRegistry::start().await.unwrap(),
        );
        let id = registered(&a, Registering::Register).await.unwrap();
        let class = async |records_wait| match id_at(&[&a, &b], Registering::MustExist, records_wait).await {
            Err(Unusable::Failure(failure)) => failure.class,
            other => panic!("{other:?}"),
        };
        a.on_request(|_, _| Fault::Status(503));
        assert_eq!(class(true).await, Class::Transient);
        assert_eq!(class(false).await, Class::Permanent, "a start does not wait");
        // As a follower that has not read the schema yet.
        let first = AtomicBool::new(true);
        a.on_request(move |_, _| match first.swap(false, Ordering::Relaxed) {
            true => Fault::Answer(404, r#"{"error_code":40403,"message":"Schema not found"}"#),
            false => Fault::None,
        });
        assert_eq!(id_at(&[&a], Registering::MustExist, true).await.unwrap(), id);
        let mut asked = b.requests();
        assert_eq!(asked, 2, "once by each of the first two");
        let schemas = schemas(vec![b.url()], Registering::MustExist).await;
        for (of, times) in [(7, 3), (7, 1), (8, 3)] {
            let Err(Unusable::Failure(missing)) = schemas.plan(&click(of), true).await else {
                panic!("it is there")
            };
            assert_eq!((missing.class, missing.reason), (Class::Permanent, "schema"));
            asked += times;
            assert_eq!(b.requests(), asked, "patience is for each schema once: {of}");
        }
    }

    #[tokio::test]
    async fn what_the_registry_refuses_is_counted_as_the_schemas_fault() {
        let demo = DemoRegistry::start().await.unwrap();
        demo.on_request(|_, _| Fault::Answer(409, r#"{"error_code":409,"message":"not backward"}"#));
        let Err(Unusable::Failure(refused)) = registered(&demo, Registering::Register).await else {
            panic!("it is registered")
        };
        assert_eq!((refused.class, refused.reason), (Class::Permanent, "schema"));
        assert!(refused.message.contains("not backward"), "{refused}");
        demo.on_request(|_, _| Fault::Status(503));
        let Err(Unusable::Failure(away)) = registered(&demo, Registering::Register).await else {
            panic!("it is registered")
        };
        assert_eq!((away.class, away.reason), (Class::Transient, "registry"));
    }

    #[tokio::test]
    async fn a_registry_that_takes_nothing_for_the_time_being_is_waited_for_whatever_its_status() {
        let demo = DemoRegistry::start().await.unwrap();
        for answer in [
            Fault::Answer(
                409,
                r#"{"error_code":0,"message":"Unsupported write operation. Storage is read-only."}"#,
            ),
            Fault::Answer(409, "<html>"),
        ] {
            demo.on_request(move |_, path| match path == "/subjects/o-value/versions" {
                true => answer,
                false => Fault::None,
            });
            let Err(Unusable::Failure(waits)) = registered(&demo, Registering::Register).await else {
                panic!("it is registered")
            };
            assert_eq!((waits.class, waits.reason), (Class::Transient, "registry"), "{waits}");
        }
    }

    #[tokio::test]
    async fn a_conflict_without_a_code_is_the_schemas_fault_where_it_is_incompatible() {
        let demo = DemoRegistry::start().await.unwrap();
        let refused = async |compatibility: Fault| {
            demo.on_request(move |_, path| match path {
                "/subjects/o-value/versions" => Fault::Answer(409, r#"{"error_code":0,"message":"conflict"}"#),
                path if path.starts_with("/compatibility") => compatibility,
                _ => Fault::None,
            });
            match registered(&demo, Registering::Register).await {
                Err(Unusable::Failure(failure)) => failure,
                other => panic!("{other:?}"),
            }
        };
        let told = r#"{"is_compatible":false,"messages":["n has no default"]}"#;
        let incompatible = refused(Fault::Answer(200, told)).await;
        assert_eq!((incompatible.class, incompatible.reason), (Class::Permanent, "schema"));
        assert!(incompatible.message.contains("n has no default"), "{incompatible}");
        for nothing_against_it in [Fault::None, Fault::Status(503), Fault::Status(409)] {
            let waits = refused(nothing_against_it).await;
            assert_eq!((waits.class, waits.reason), (Class::Transient, "registry"), "{waits}");
            assert!(waits.message.contains("conflict"), "{waits}");
        }
    }

    #[tokio::test]
    async fn what_was_refused_and_cannot_be_looked_up_for_the_moment_waits() {
        let demo = DemoRegistry::start().await.unwrap();
        for (again, class, reason) in [
            (Fault::Status(503), Class::Transient, "registry"),
            // A login that may write but not read.
            (Fault::Status(403), Class::Permanent, "schema"),
            (Fault::Status(404), Class::Permanent, "schema"),
            (Fault::None, Class::Permanent, "schema"),
        ] {
            let first = AtomicBool::new(true);
            demo.on_request(move |_, path| match path {
                "/subjects/o-value" if !first.swap(false, Ordering::Relaxed) => again,
                "/subjects/o-value/versions" => Fault::Answer(409, r#"{"error_code":409,"message":"conflict"}"#),
                _ => Fault::None,
            });
            let Err(Unusable::Failure(refused)) = registered(&demo, Registering::Register).await else {
                panic!("it is registered")
            };
            assert_eq!((refused.class, refused.reason), (class, reason), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_schema_that_lacks_what_has_asks_for_is_told_once() {
        let demo = DemoRegistry::start().await.unwrap();
        let subjects = Subjects::of(&demo.url()).unwrap();
        let lacks = subjects.post("t-value", CLICK, &[]).await.unwrap();
        let more = CLICK.replace("}]}", r#"},{"name":"n2","type":"long"}]}"#);
        let complete = subjects.post("t-value", &more, &[]).await.unwrap();
        let has = "has(event.n2) ? event.n2 : 0";
        let schemas = schemas_with(has, vec![demo.url()], Registering::Register).await;
        let log = Breadcrumbs::default();
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(log.clone()));
        for id in [lacks, complete, lacks] {
            assert!(schemas.resolve(id).await.is_ok());
        }
        drop(guard);
        let told: Vec<_> = log
            .last(Some("p"))
            .into_iter()
            .filter_map(|line| line.message)
            .collect();
        assert_eq!(
            told,
            ["this schema has no event.n2: has() of it is false for each of its records"]
        );
    }

    #[tokio::test]
    async fn of_two_that_register_one_text_at_once_both_get_its_id() {
        let demo = DemoRegistry::start().await.unwrap();
        let id = registered(&demo, Registering::Register).await.unwrap();
        // Another process registers it between this one's look-up and its own attempt.
        let first = AtomicBool::new(true);
        demo.on_request(move |_, path| match path {
            "/subjects/o-value" if first.swap(false, Ordering::Relaxed) => {
                Fault::Answer(404, r#"{"error_code":40401,"message":"Subject not found"}"#)
            }
            "/subjects/o-value/versions" => {
                Fault::Answer(409, r#"{"error_code":409,"message":"An artifact exists already"}"#)
            }
            _ => Fault::None,
        });
        assert_eq!(registered(&demo, Registering::Register).await.unwrap(), id);
    }

    #[tokio::test]
    async fn an_id_that_a_registry_calls_an_unknown_subject_is_unknown() {
        let demo = DemoRegistry::start().await.unwrap();
        let class = async |id: u32| {
            let schemas = schemas(vec![demo.url()], Registering::MustExist).await;
            schemas.resolve(id).await.unwrap_err().class
        };
        demo.on_request(|_, _| Fault::Answer(404, r#"{"error_code":40401,"message":"No artifact with this id"}"#));
        assert_eq!(class(7).await, Class::Permanent);
        demo.on_request(|_, _| Fault::Answer(404, r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#));
        assert_eq!(class(7).await, Class::Transient, "it may be another server's");
    }

    #[tokio::test]
    async fn a_check_asks_what_the_registry_would_say_and_registers_nothing() {
        let demo = DemoRegistry::start().await.unwrap();
        let ask = |register| Registering::Ask { register };
        assert_eq!(
            registered(&demo, ask(true)).await.unwrap(),
            0,
            "there is no earlier version"
        );
        let Err(Unusable::Output(found)) = registered(&demo, ask(false)).await else {
            panic!("nothing is registered")
        };
        assert!(found[0].message.contains("not registered under o-value"), "{found:?}");
        let help = found[0].help.as_deref().unwrap();
        assert!(help.contains(r#""name":"n""#), "the text to register: {help}");

        demo.on_request(|_, path| match path.starts_with("/compatibility") {
            true => Fault::Answer(200, r#"{"is_compatible":false,"messages":["n has no default"]}"#),
            false => Fault::None,
        });
        let Err(Unusable::Output(found)) = registered(&demo, ask(true)).await else {
            panic!("it is not compatible")
        };
        assert!(found[0].message.contains("n has no default"), "{found:?}");

        // A registered schema needs no further query.
        let id = registered(&demo, Registering::Register).await.unwrap();
        for register in [true, false] {
            assert_eq!(registered(&demo, ask(register)).await.unwrap(), id);
        }
        assert_eq!(registered(&demo, Registering::MustExist).await.unwrap(), id);
        demo.on_request(|_, _| Fault::Status(503));
        assert!(matches!(registered(&demo, ask(true)).await, Err(Unusable::Failure(_))));

        // A login that may write but not read.
        demo.on_request(|_, path| match path == "/subjects/o-value" {
            true => Fault::Answer(403, r#"{"error_code":40301,"message":"User is denied"}"#),
            false => Fault::None,
        });
        assert_eq!(registered(&demo, Registering::Register).await.unwrap(), id);
        assert_eq!(registered(&demo, ask(true)).await.unwrap(), 0);
    }
}
