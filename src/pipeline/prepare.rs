//! The type check of a pipeline against live services: statements prepared, schemas of all versions compiled.
//!
//! `check --online` and every start use it. Only a start registers output schemas; a check asks whether it could. A version that breaks the pipeline
//! is an error for the check. A start continues as long as another version of the topic fits, because a schema that somebody else registered must not
//! keep a pipeline from coming back. Records of the broken version become dead letters with that reason, or wait while the registry accepts no output
//! schema.

use std::sync::Arc;

use super::failure::Failure;
use super::finding::Finding;
use super::plan::{OutputSchema, SchemaPlan, lacking};
use super::program::{Program, parse};
use super::schemas::{OutputSubject, Registering, Schemas, Unusable};
use crate::avro::Schema;
use crate::config::{Pipeline, SinkSchema, Span};
use crate::custom::CustomSteps;
use crate::reference::References;
use crate::registry::Registry;
use crate::retry::Class;
use crate::store::AnyStore;

/// A pipeline that may run.
pub struct Prepared {
    /// The program.
    pub program: Arc<Program>,
    /// Its plans; those of the live schemas are compiled already.
    pub schemas: Arc<Schemas>,
    /// What an operator should know, although the pipeline may run.
    pub warnings: Vec<Finding>,
    /// Why some live schemas break the pipeline while others fit: their records become dead letters. Always empty for a
    /// check.
    pub broken: Vec<Finding>,
}

/// Why a pipeline cannot run.
#[derive(Debug)]
pub enum NotPrepared {
    /// Something is wrong with it.
    Findings(Vec<Finding>),
    /// A service does not answer; another attempt may succeed.
    Unavailable(Failure),
}

/// Prepares a pipeline and checks it against all live versions of its topics' schemas.
pub async fn prepare(
    config: &Pipeline,
    store: Option<&AnyStore>,
    references: &References,
    registry: &Arc<Registry>,
    registering: Registering,
    customs: &CustomSteps,
) -> Result<Prepared, NotPrepared> {
    let parsed = parse(config).map_err(NotPrepared::Findings)?;
    let mut program = parsed.prepare(store, references, customs).await?;
    let (mut findings, mut warnings) = program.of_the_clock(config);
    let output = match &config.sink {
        None => None,
        Some(sink) => {
            let subject = format!("{}-value", sink.topic.value);
            let (schema, known) = output_schema(sink.schema.as_ref(), &subject, registry).await?;
            Some(OutputSubject {
                schema,
                subject,
                known,
                registering,
            })
        }
    };
    if let Some(OutputSubject {
        schema: OutputSchema::Fixed(schema),
        ..
    }) = &output
    {
        program.publish_as(schema);
    }
    let program = Arc::new(program);
    let schemas = Arc::new(Schemas::new(program.clone(), registry.clone(), output));
    let mut broken = Vec::new();
    let mut unregistered: Option<(Arc<SchemaPlan>, String)> = None;
    for topic in &config.source.topics {
        let subject = format!("{}-value", topic.value);
        let versions = registry
            .versions(&subject)
            .await
            .map_err(|e| registry_failure(&subject, topic.span, e))?;
        if versions.is_empty() {
            warnings.push(
                Finding::new(
                    topic.span,
                    format!("subject {subject} has no schema yet: the pipeline's types are not checked"),
                )
                .help("register the topic's schema before its first record"),
            );
        }
        // Findings, each with the versions that it concerns.
        let mut unfit: Vec<(Finding, Vec<String>)> = Vec::new();
        let mut unpublished: Vec<(Finding, Vec<String>)> = Vec::new();
        let mut doubtful: Vec<(Finding, Vec<String>)> = Vec::new();
        let mut fit = 0;
        let mut away = None;
        for fetched in &versions {
            let (found, all) = match schemas.learn(fetched).await {
                Ok(found) => {
                    fit += 1;
                    (found, &mut doubtful)
                }
                Err(Unusable::Findings(found)) => (found, &mut unfit),
                // Records are written with the newest version from now on.
                Err(Unusable::Output(found)) if versions.last().is_some_and(|newest| newest.id == fetched.id) => {
                    (found, &mut unfit)
                }
                Err(Unusable::Output(found)) => (found, &mut unpublished),
                Err(Unusable::Failure(failure)) if failure.class == Class::Transient => {
                    let waits = format!("{failure}; records of this schema wait");
                    away = away.or(Some(failure));
                    (vec![Finding::new(topic.span, waits)], &mut doubtful)
                }
                Err(Unusable::Failure(failure)) => (vec![Finding::new(topic.span, failure.message)], &mut unfit),
            };
            let name = fetched.version.map_or_else(
                || format!("schema {}", fetched.id),
                |version| format!("version {version} is schema {}", fetched.id),
            );
            // The registry compares a new output schema with registered ones, and a check registers none. So compare
            // consecutive ones here.
            if registering == (Registering::Ask { register: true })
                && !schemas.hidden()
                && let Some(Ok(plan)) = schemas.known(fetched.id)
                && let Some(output) = plan.output.as_ref().filter(|output| output.schema_id == 0)
            {
                let named = format!("{subject}: {name}");
                if let Some((older, of)) = &unregistered
                    && let Some(older) = &older.output
                    && !output.schema.reads(&older.schema)
                {
                    warnings.push(unread(topic.span, of, &named));
                }
                unregistered = Some((plan, named));
            }
            for finding in found {
                match all.iter_mut().find(|(known, _)| *known == finding) {
                    Some((_, versions)) => versions.push(name.clone()),
                    None => all.push((finding, vec![name.clone()])),
                }
            }
        }
        // If the registry accepts no new schema but knows the outputs of other versions, those can run.
        if let Some(failure) = away
            && (fit == 0 || matches!(registering, Registering::Ask { .. }))
        {
            return Err(NotPrepared::Unavailable(failure));
        }
        let in_versions = |(mut finding, versions): (Finding, Vec<String>)| {
            finding.message = format!("{} ({subject}: {})", finding.message, versions.join(", "));
            finding
        };
        let dead_letters = |mut finding: Finding| {
            finding.message.push_str(": records of this schema become dead letters");
            finding
        };
        warnings.extend(doubtful.into_iter().map(in_versions));
        // Records are written with this version from now on.
        if let Some(Ok(newest)) = versions.last().and_then(|newest| schemas.known(newest.id)) {
            warnings.extend(lacking(
                &program,
                &newest.plan,
                &format!("the newest version of {subject}"),
            ));
        }
        // Old versions may be out of use, so a start continues and warns about them.
        if fit > 0 {
            warnings.extend(unpublished.into_iter().map(in_versions).map(dead_letters));
        } else {
            unfit.extend(unpublished);
        }
        let unfit = unfit.into_iter().map(in_versions);
        match registering {
            Registering::Register | Registering::MustExist if fit > 0 => broken.extend(unfit),
            Registering::Register | Registering::MustExist | Registering::Ask { .. } => findings.extend(unfit),
        }
    }
    findings.dedup();
    if findings.is_empty() {
        Ok(Prepared {
            program,
            schemas,
            warnings,
            broken,
        })
    } else {
        Err(NotPrepared::Findings(findings))
    }
}

/// The warning that the previous output schema keeps this one from being registered.
fn unread(span: Span, older: &str, newer: &str) -> Finding {
    let message = format!(
        "the output schema for ({newer}) cannot read that for ({older}), and the registry has neither: under the rule BACKWARD it refuses it at \
         the start, and records of the newer version become dead letters"
    );
    Finding::new(span, message)
        .help("give each field that the newer version adds a default, or the output's subject another rule")
}

/// The output schema, and its id if it is read from the `output` subject itself.
async fn output_schema(
    declared: Option<&SinkSchema>,
    output: &str,
    registry: &Registry,
) -> Result<(OutputSchema, Option<u32>), NotPrepared> {
    let mut known = None;
    let (parsed, span) = match declared {
        None => return Ok((OutputSchema::Appended, None)),
        Some(SinkSchema::Inline(json)) => (Schema::parse(json), json.span),
        Some(SinkSchema::File(path)) => {
            let text = std::fs::read_to_string(&path.value).map_err(|e| {
                NotPrepared::Findings(vec![Finding::new(
                    path.span,
                    format!("cannot read {}: {e}", path.value.display()),
                )])
            })?;
            (Schema::parse(&text), path.span)
        }
        Some(SinkSchema::Subject(subject)) => {
            let versions = registry
                .versions(&subject.value)
                .await
                .map_err(|e| registry_failure(&subject.value, subject.span, e))?;
            let Some(latest) = versions.last() else {
                return Err(NotPrepared::Findings(vec![
                    Finding::new(subject.span, format!("the registry has no subject {}", subject.value))
                        .help("register the output schema first, or leave `schema` out to append to the input schema"),
                ]));
            };
            known = (subject.value == output).then_some(latest.id);
            (latest.parsed(), subject.span)
        }
    };
    match parsed {
        Ok(schema) => Ok((OutputSchema::Fixed(Arc::new(schema)), known)),
        Err(error) => Err(NotPrepared::Findings(vec![Finding::new(
            span,
            format!("the output schema: {error}"),
        )])),
    }
}

fn registry_failure(subject: &str, span: Span, error: crate::registry::RegistryError) -> NotPrepared {
    match error.class() {
        Class::Transient => {
            NotPrepared::Unavailable(Failure::transient("registry", format!("subject {subject}: {error}")))
        }
        Class::Permanent | Class::Fatal => {
            NotPrepared::Findings(vec![Finding::new(span, format!("subject {subject}: {error}"))])
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use hyper::Method;

    use super::*;
    use crate::config;
    use crate::demo::registry::{DemoRegistry, Fault};
    use crate::demo::schemas::Subjects;
    use crate::registry::RegistryOptions;

    /// A pipeline from `in` to `out`, and the registry that it asks.
    struct Asking {
        server: DemoRegistry,
        subjects: Subjects,
        registry: Arc<Registry>,
        config: config::Config,
    }

    impl Asking {
        async fn start() -> Asking {
            Asking::with("sink = { topic = \"out\" }").await
        }

        /// The same, with this sink.
        async fn with(sink: &str) -> Asking {
            let server = DemoRegistry::start().await.unwrap();
            let options = RegistryOptions {
                urls: vec![server.url()],
                ..RegistryOptions::default()
            };
            let toml = format!(
                "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\n\
                 [pipelines.p]\nsource = {{ topics = [\"in\"], group = \"g\" }}\n{sink}\n"
            );
            let (config, _) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
            Asking {
                subjects: Subjects::of(&server.url()).unwrap(),
                registry: Arc::new(Registry::new(options).unwrap()),
                server,
                config,
            }
        }

        /// Registers a version of the input with only this field.
        async fn come(&self, field: &str) {
            let fields = format!(r#"[{{"name": "{field}", "type": "long"}}]"#);
            let version = format!(r#"{{"type": "record", "name": "E", "fields": {fields}}}"#);
            self.subjects.post("in-value", &version, &[]).await.unwrap();
        }

        async fn prepare(&self, registering: Registering) -> Result<Prepared, NotPrepared> {
            let pipeline = &self.config.pipelines["p"];
            let (references, customs) = (References::default(), CustomSteps::default());
            prepare(pipeline, None, &references, &self.registry, registering, &customs).await
        }
    }

    #[tokio::test]
    async fn an_output_schema_that_nobody_registers_is_found_by_a_check() {
        let asking = Asking::start().await;
        let come = async |field: &str| asking.come(field).await;
        // Counts the findings that keep it from running, and those that break single versions.
        let found = async |registering| match asking.prepare(registering).await {
            Ok(prepared) => (Vec::new(), prepared.broken),
            Err(NotPrepared::Findings(found)) => (found, Vec::new()),
            Err(NotPrepared::Unavailable(failure)) => panic!("{failure}"),
        };
        let counts = async |registering| {
            let (refused, broken) = found(registering).await;
            (refused.len(), broken.len())
        };
        come("a").await;
        let (refused, _) = found(Registering::Ask { register: false }).await;
        assert_eq!(
            refused[0].message,
            "the output schema is not registered under out-value: register it (`messina check --online` shows its text), or set \
             [registry] register = true (in-value: version 1 is schema 1)"
        );
        assert_eq!(counts(Registering::MustExist).await, (1, 0));
        assert_eq!(counts(Registering::Ask { register: true }).await, (0, 0));
        // The registry accepts the output of the newer version, but not that of the older one.
        come("b").await;
        let first = AtomicBool::new(true);
        asking.server.on_request(move |method, path| {
            let registers = method == Method::POST && path == "/subjects/out-value/versions";
            match registers && first.swap(false, Ordering::Relaxed) {
                true => Fault::Answer(409, r#"{"error_code":409,"message":"incompatible"}"#),
                false => Fault::None,
            }
        });
        assert_eq!(counts(Registering::Register).await, (0, 1));
        asking.server.on_request(|_, _| Fault::None);
        let ask = Registering::Ask { register: false };
        assert_eq!(counts(ask).await, (0, 0), "a check goes on");
        let warnings = asking.prepare(ask).await.unwrap().warnings;
        assert!(
            warnings[0].message.contains("not registered under out-value"),
            "{warnings:?}"
        );
        assert!(warnings[0].help.is_some(), "the text to register");
        assert_eq!(counts(Registering::MustExist).await, (0, 1), "a start goes on");
        asking
            .server
            .on_request(|_, path| match path.starts_with("/compatibility") {
                true => Fault::Answer(200, r#"{"is_compatible":false}"#),
                false => Fault::None,
            });
        let ask = Registering::Ask { register: true };
        assert_eq!(counts(ask).await, (0, 0));
        assert_eq!(asking.prepare(ask).await.unwrap().warnings.len(), 1);
        // This is the newest version.
        come("c").await;
        assert_eq!(counts(ask).await, (1, 0));
        asking.server.on_request(|_, _| Fault::None);
        assert_eq!(counts(Registering::Ask { register: false }).await, (1, 0));
        assert_eq!(counts(Registering::MustExist).await, (0, 1), "of both versions");
    }

    #[tokio::test]
    async fn outputs_that_are_new_and_do_not_read_one_another_are_told_by_a_check() {
        let asking = Asking::start().await;
        let backward = async |registering| {
            let prepared = asking.prepare(registering).await.unwrap();
            let told = prepared.warnings.into_iter().map(|warning| warning.message);
            told.filter(|message| message.contains("BACKWARD")).collect::<Vec<_>>()
        };
        let (ask, none) = (Registering::Ask { register: true }, Vec::<String>::new());
        asking.come("a").await;
        let more = r#"{"type": "record", "name": "E", "fields": [{"name": "a", "type": "long"},
            {"name": "c", "type": "long", "default": 0}]}"#;
        asking.subjects.post("in-value", more, &[]).await.unwrap();
        assert_eq!(backward(ask).await, none, "what is added has a default");
        asking.come("b").await;
        let told = backward(ask).await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with(
                "the output schema for (in-value: version 3 is schema 3) cannot read that for (in-value: version 2 is schema 2)"
            ),
            "{told:?}"
        );
        // A login that may not read the subject cannot know whether it has them.
        asking.server.on_request(|_, path| match path == "/subjects/out-value" {
            true => Fault::Status(403),
            false => Fault::None,
        });
        assert_eq!(backward(ask).await, none);
        asking.server.on_request(|_, _| Fault::None);
        // The registry has compared registered schemas already.
        assert_eq!(backward(Registering::Register).await, none);
        assert_eq!(backward(ask).await, none);
    }

    #[tokio::test]
    async fn a_version_whose_values_are_others_although_it_is_compatible_is_told() {
        let sink = "sink = { topic = \"out\", key = \"event.id\", set = { s = \"event.at / 1000\", p = \"string(event.price)\", \
                    o = \"event.other\", d = \"event.price > 1.0\" } }";
        let version = |id: &str, unit: &str, scale: u32| {
            format!(
                r#"{{"type": "record", "name": "E", "fields": [{{"name": "id", "type": {{"type": "string"{id}}}}},
                {{"name": "at", "type": {{"type": "long", "logicalType": "timestamp-{unit}"}}}},
                {{"name": "other", "type": {{"type": "long", "logicalType": "timestamp-{unit}"}}}},
                {{"name": "price", "type": {{"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": {scale}}}}}]}}"#
            )
        };
        let asking = Asking::with(sink).await;
        let told = async || {
            let prepared = asking.prepare(Registering::Ask { register: true }).await.unwrap();
            let told = prepared.warnings.into_iter().map(|warning| warning.message);
            told.collect::<Vec<_>>()
        };
        let of_old = version("", "millis", 2);
        asking.subjects.post("in-value", &of_old, &[]).await.unwrap();
        let of_same = of_old.replace("\"E\"", "\"E\", \"doc\": \"again\"");
        asking.subjects.post("in-value", &of_same, &[]).await.unwrap();
        assert_eq!(told().await, Vec::<String>::new());
        let of_new = version(", \"logicalType\": \"uuid\"", "micros", 3);
        asking.subjects.post("in-value", &of_new, &[]).await.unwrap();
        let mut warnings = told().await;
        warnings.sort();
        let wanted = [
            "event.at is timestamp-micros here and timestamp-millis in another version: what an expression or a key makes of its number differs",
            "event.id is uuid here and string in another version: its text is in lower case with hyphens where it is uuid, and as it was written where it is string",
            "event.price is decimal(9, 3) here and decimal(9, 2) in another version: what string() makes of it has other digits",
        ];
        assert_eq!(
            warnings,
            wanted.map(|told| format!("{told} (in-value: version 3 is schema 3)"))
        );
    }

    #[tokio::test]
    async fn a_field_that_has_asks_for_and_the_newest_version_lacks_is_told() {
        let asking =
            Asking::with("sink = { topic = \"out\", set = { n = \"has(event.coupon) ? event.coupon : 0\" } }").await;
        let told = async || {
            let prepared = asking.prepare(Registering::Register).await.unwrap();
            assert!(prepared.broken.is_empty(), "{:?}", prepared.broken);
            let told = prepared.warnings.into_iter();
            told.map(|warning| (warning.message, warning.help.unwrap_or_default()))
                .collect::<Vec<_>>()
        };
        let lacks = |help: &str| {
            let message =
                "the newest version of in-value has no event.coupon: has() of it is false for each of its records";
            vec![(message.to_owned(), help.to_owned())]
        };
        asking.come("a").await;
        assert_eq!(
            told().await,
            lacks("see the fields of the input schema in the registry")
        );
        asking.come("coupon").await;
        assert_eq!(told().await, Vec::new(), "the newer one has it");
        asking.come("coupons").await;
        assert_eq!(told().await, lacks("did you mean \"coupons\"?"), "it has another name");
    }

    #[tokio::test]
    async fn a_field_that_the_first_version_lacks_is_compared_from_the_one_on_that_has_it() {
        let asking =
            Asking::with("sink = { topic = \"out\", set = { s = \"has(event.at) ? event.at / 1000 : 0\" } }").await;
        asking.come("id").await;
        for unit in ["millis", "micros"] {
            let version = format!(
                r#"{{"type": "record", "name": "E", "fields": [
                {{"name": "at", "type": {{"type": "long", "logicalType": "timestamp-{unit}"}}}}]}}"#
            );
            asking.subjects.post("in-value", &version, &[]).await.unwrap();
        }
        let prepared = asking.prepare(Registering::Register).await.unwrap();
        let [warning] = prepared.warnings.as_slice() else {
            panic!("{:?}", prepared.warnings)
        };
        let told = &warning.message;
        assert!(
            told.starts_with("event.at is timestamp-micros here and timestamp-millis in another version")
                && told.ends_with("(in-value: version 3 is schema 3)"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn a_subjects_own_version_has_its_id_whatever_it_refers_to() {
        let asking = Asking::with("sink = { topic = \"out\", schema = { subject = \"out-value\" } }").await;
        asking.come("id").await;
        let referred = r#"{"type": "record", "name": "Geo", "fields": [{"name": "lat", "type": "double"}]}"#;
        asking.subjects.post("Geo", referred, &[]).await.unwrap();
        let output = r#"{"type": "record", "name": "O", "fields": [{"name": "id", "type": "long"},
            {"name": "at", "type": ["null", "Geo"], "default": null}]}"#;
        let id = asking.subjects.post("out-value", output, &["Geo"]).await.unwrap();
        let ask = |register| Registering::Ask { register };
        for registering in [Registering::MustExist, Registering::Register, ask(true), ask(false)] {
            let prepared = asking.prepare(registering).await.unwrap();
            let input = asking.registry.versions("in-value").await.unwrap();
            let plan = prepared.schemas.known(input[0].id).unwrap().unwrap();
            assert_eq!(plan.output.as_ref().unwrap().schema_id, id, "{registering:?}");
        }
        let versions = asking.registry.versions("out-value").await.unwrap();
        assert_eq!(versions.len(), 1, "no copy with what it refers to within it");
    }

    #[tokio::test]
    async fn a_registry_that_takes_no_new_schema_is_waited_for_by_that_schemas_records_alone() {
        let asking = Asking::start().await;
        asking.come("a").await;
        let read_only = |method: &Method, path: &str| match (method.as_str(), path) {
            ("POST", "/subjects/out-value/versions") => Fault::Answer(
                422,
                r#"{"error_code":42205,"message":"Subject out-value is in read-only mode"}"#,
            ),
            _ => Fault::None,
        };
        asking.server.on_request(read_only);
        let away = async |registering| match asking.prepare(registering).await {
            Err(NotPrepared::Unavailable(failure)) => failure.message,
            Err(NotPrepared::Findings(found)) => panic!("{found:?}"),
            Ok(_) => panic!("it may run"),
        };
        assert!(
            away(Registering::Register).await.contains("read-only"),
            "nothing fits yet"
        );
        asking.server.on_request(|_, _| Fault::None);
        assert!(asking.prepare(Registering::Register).await.is_ok());
        asking.come("b").await;
        asking.server.on_request(read_only);
        let prepared = asking.prepare(Registering::Register).await.unwrap();
        assert!(prepared.broken.is_empty(), "{:?}", prepared.broken);
        let [warning] = prepared.warnings.as_slice() else {
            panic!("{:?}", prepared.warnings)
        };
        let told = &warning.message;
        assert!(
            told.contains("read-only") && told.contains("records of this schema wait (in-value: version 2 is"),
            "{told}"
        );
        // A registry that is away is awaited, even if it holds some of the schemas; a check also waits if it cannot ask
        // about one version.
        asking.server.on_request(|_, _| Fault::Status(503));
        assert!(away(Registering::Register).await.contains("503"));
        asking
            .server
            .on_request(|_, path| match path.starts_with("/compatibility") {
                true => Fault::Status(503),
                false => Fault::None,
            });
        assert!(away(Registering::Ask { register: true }).await.contains("503"));
    }
}
