//! The engine of `run --dry-run`: runs a pipeline on real records without any effect, and reports what would be written, published or dead-lettered.
//!
//! Nothing is registered or committed, and no group is joined. Look-ups are executed. Records run one after the other, so each report is about one
//! record. Look-ups do not see what earlier records would have written. The embedded database is copied first, because even preparing a write changes
//! its tables.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value as Json};
use tokio::task::JoinSet;

use super::build::{LOG_EVERY, gate, sink_rules, step_handles};
use super::services::{Purpose, Services, backoff};
use super::{Shared, StartError, config_error, references};
use crate::avro::json::to_json;
use crate::breaker::Rules;
use crate::breaker::gate::Gates;
use crate::config::{self, Config, Sources, StepKind};
use crate::custom::CustomSteps;
use crate::demo::cluster::Scratch;
use crate::outcome::Outcome;
use crate::pipeline::completions::{Batch, Completions, How};
use crate::pipeline::event::{Content, Event, Origin, Tenure};
use crate::pipeline::failure::Failure;
use crate::pipeline::finding::Finding;
use crate::pipeline::prepare::{NotPrepared, prepare};
use crate::pipeline::program::{Action, Program};
use crate::pipeline::runner::Runtime;
use crate::pipeline::schemas::{Registering, Schemas};
use crate::retry::Class;
use crate::source::assignment::Ticket;
use crate::source::read::{Plans, Read, read};
use crate::store::AnyStore;
use crate::store::held_back::{Held, HeldBack};
use crate::store::sqlite::SqliteStore;
use crate::telemetry::handles::PipelineMetrics;
use crate::telemetry::limit::Limiter;
use crate::telemetry::metrics::Metrics;

/// How long a record may be retried; a running pipeline would go on.
const PATIENCE: Duration = Duration::from_secs(10);

/// A record as read.
#[derive(Debug, Clone, Default)]
pub struct Incoming {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
}

/// A row that the pipeline would write.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The step.
    pub step: String,
    /// Its statement.
    pub statement: String,
    /// The values by marker.
    pub values: Map<String, Json>,
}

/// A record that the pipeline would publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// The topic.
    pub topic: String,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Json,
    /// The fields that the sink has set.
    pub set: Vec<String>,
}

/// The effects that a record would have.
#[derive(Debug, Clone, PartialEq)]
pub struct Effects {
    /// `done`, `skipped`, `dead_lettered`, `halted`, or `waiting` if it would be retried.
    pub outcome: &'static str,
    /// The results of the look-ups, by step; null if there was no row or the look-up was not run.
    pub lookups: Vec<(String, Json)>,
    /// The rows.
    pub writes: Vec<Written>,
    /// The output.
    pub published: Option<Published>,
    /// Why it would be a dead letter, or halt the pipeline.
    pub failure: Option<Failure>,
    /// How long it took.
    pub took: Duration,
}

/// A pipeline that runs without effects.
pub struct Rehearsal {
    runtime: Runtime,
    schemas: Arc<Schemas>,
    plans: Plans,
    store: Option<Arc<AnyStore>>,
    completions: Arc<Completions>,
    pipeline: config::Pipeline,
    _followers: JoinSet<()>,
    _copy: Option<Scratch>,
}

/// A directory for the copy of the embedded database, if one is configured.
///
/// # Errors
/// It cannot be created.
pub fn room_for_copy(config: &Config) -> io::Result<Option<Scratch>> {
    config.sqlite_path().map(|_| Scratch::new()).transpose()
}

impl Rehearsal {
    /// Connects and type-checks; services that do not answer are an error. `room` is the result of [`room_for_copy`] for the configuration. It is removed
    /// with the rehearsal, or when this call fails or is dropped.
    ///
    /// # Errors
    /// What is wrong with the pipeline, or which service does not answer.
    pub async fn open(
        mut config: Config,
        sources: &Sources,
        pipeline: &config::Pipeline,
        customs: &CustomSteps,
        room: Option<Scratch>,
    ) -> Result<Rehearsal, StartError> {
        refuse_steps_of_ones_own(pipeline, sources)?;
        let process = |e: &dyn std::fmt::Display| StartError::Process(e.to_string());
        let not_prepared = |error| match error {
            NotPrepared::Findings(findings) => config_error(findings, sources),
            NotPrepared::Unavailable(failure) => StartError::Away(failure.message),
        };
        let metrics = Metrics::new().map_err(|e| process(&e))?;
        let copied = copy_sqlite(&mut config, room.as_ref()).await;
        copied.map_err(StartError::Process)?;
        let services = Services::connect_once(&config, Purpose::Run)
            .await
            .map_err(not_prepared)?;
        // Nothing else holds the store.
        let store = services.store.and_then(Arc::into_inner);
        let store = store.map(|store| Arc::new(HeldBack::of(store)));
        let prepared = prepare(
            pipeline,
            store.as_deref(),
            &services.references.references,
            &services.registry,
            Registering::Ask {
                register: config.registry.register,
            },
            customs,
        );
        let prepared = prepared.await.map_err(not_prepared)?;
        let mut followers = JoinSet::new();
        references::load(
            &services.references,
            sources,
            &metrics,
            &Shared::default(),
            &mut followers,
        )
        .await?;
        let pipeline_metrics = PipelineMetrics::new(&metrics, &pipeline.name.value);
        let runtime = Runtime {
            steps: step_handles(&prepared.program, &pipeline_metrics),
            program: prepared.program,
            store: store.clone(),
            // Without these an event ends where it would be handed to the producer.
            sink: None,
            dead_letters: None,
            metrics: pipeline_metrics,
            backoff: backoff(),
            gates: Gates {
                store: gate(&metrics, "store", Rules::default()),
                mongo: gate(&metrics, "mongo", Rules::default()),
                registry: gate(&metrics, "registry", Rules::default()),
                sink: gate(&metrics, "sink", sink_rules()),
            },
            limiter: Arc::new(Limiter::new(LOG_EVERY)),
            sentry: None,
            tracer: None,
        };
        Ok(Rehearsal {
            runtime,
            schemas: prepared.schemas,
            plans: Plans::default(),
            store,
            completions: Arc::default(),
            pipeline: pipeline.clone(),
            _followers: followers,
            _copy: room,
        })
    }

    /// The effects that a record would have.
    pub async fn run(&mut self, record: &Incoming) -> Effects {
        let began = Instant::now();
        let tenure = Arc::<Tenure>::default();
        let event = self.event(record, tenure.clone(), began);
        let (how, event) = match self.read(event).await {
            Read::Ready(event) => self.process(event, &tenure).await,
            Read::Ends(outcome, event) => (How::Finished(outcome), Some(event)),
            Read::Fails(failure, event) => (How::Fatal(failure), Some(event)),
            Read::Waits(_, event) => (How::Abandoned, Some(event)),
        };
        let mut effects = Effects {
            outcome: "waiting",
            lookups: event.as_deref().map(|event| self.found(event)).unwrap_or_default(),
            writes: self.written(),
            published: None,
            failure: None,
            took: began.elapsed(),
        };
        match how {
            How::Finished(Outcome::Done) => {
                effects.outcome = "done";
                match event.as_deref().map(|event| self.published(event)) {
                    Some(Ok(published)) => effects.published = published,
                    Some(Err(failure)) => self.failed(failure, &mut effects),
                    None => {}
                }
            }
            How::Finished(Outcome::Skipped) => effects.outcome = "skipped",
            How::Finished(Outcome::DeadLettered) => effects.outcome = "dead_lettered",
            How::Fatal(failure) | How::Undelivered(failure) | How::StartAgain(failure) => {
                self.failed(failure, &mut effects)
            }
            How::Abandoned => {}
        }
        effects
    }

    fn failed(&self, failure: Failure, effects: &mut Effects) {
        let ends = failure.class == Class::Permanent && self.pipeline.dead_letter.is_some();
        effects.outcome = if ends { "dead_lettered" } else { "halted" };
        effects.failure = Some(failure);
    }

    fn event(&self, record: &Incoming, tenure: Arc<Tenure>, now: Instant) -> Box<Event> {
        let origin = Origin {
            ticket: Ticket::unassigned(),
            topic: Arc::from(record.topic.as_str()),
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            // Not shown anywhere.
            write_timestamp_us: record.timestamp_ms.unwrap_or(0).saturating_mul(1000),
        };
        let content = Content {
            value: record.value.as_deref(),
            key: record.key.as_deref(),
            headers: None,
        };
        Event::new(None, origin, content, tenure, self.completions.clone(), now)
    }

    /// Reads the record; fetches its schema if it is new.
    async fn read(&mut self, event: Box<Event>) -> Read {
        let tombstone = self.pipeline.source.on_tombstone;
        match read(event, &mut self.plans, tombstone, Instant::now()) {
            Read::Waits(id, event) => {
                match tokio::time::timeout(PATIENCE, self.schemas.resolve(id)).await {
                    Ok(Err(failure)) if failure.class == Class::Transient => return Read::Waits(id, event),
                    Ok(plan) => self.plans.learn(id, plan, Instant::now()),
                    Err(_) => return Read::Waits(id, event),
                }
                read(event, &mut self.plans, tombstone, Instant::now())
            }
            other => other,
        }
    }

    async fn process(&self, event: Box<Event>, tenure: &Tenure) -> (How, Option<Box<Event>>) {
        {
            let mut work = std::pin::pin!(self.runtime.process(event));
            if tokio::time::timeout(PATIENCE, &mut work).await.is_err() {
                tenure.end();
                work.await;
            }
        }
        let mut batch = Batch::default();
        self.completions.take(&mut batch);
        match batch.completions.pop() {
            Some(completion) => (completion.how, Some(completion.event)),
            None => (How::Fatal(Failure::fatal("internal", "the record was lost")), None),
        }
    }

    fn found(&self, event: &Event) -> Vec<(String, Json)> {
        let steps = self.runtime.program.steps.iter().zip(&event.rows);
        steps
            .filter_map(|(step, hit)| {
                let Action::Lookup(lookup) = &step.action else {
                    return None;
                };
                let row = hit.as_ref().and_then(|hit| hit.as_ref().as_ref());
                let found = row.map(|row| {
                    let names = lookup.statement.gives().map(|(name, _)| name.to_owned());
                    Json::Object(names.zip(row.iter().map(to_json)).collect())
                });
                Some((step.name.to_string(), found.unwrap_or(Json::Null)))
            })
            .collect()
    }

    fn written(&self) -> Vec<Written> {
        let Some(AnyStore::HeldBack(store)) = self.store.as_deref() else {
            return Vec::new();
        };
        let program = &self.runtime.program;
        store.take().iter().map(|held| of_step(program, held)).collect()
    }

    fn published(&self, event: &Event) -> Result<Option<Published>, Failure> {
        let Some(sink) = &self.pipeline.sink else {
            return Ok(None);
        };
        let (value, key) = self.runtime.output_of(event)?;
        let output = event.plan.as_ref().and_then(|plan| plan.output.as_ref());
        let (Some(output), Some(datum)) = (output, value.get(crate::registry::framing::HEADER..)) else {
            return Ok(None);
        };
        let decoded = output.schema.decode(datum);
        let decoded = decoded.map_err(|e| Failure::permanent("encode", e.to_string()))?;
        Ok(Some(Published {
            topic: sink.topic.value.clone(),
            key,
            value: to_json(&decoded),
            set: self
                .runtime
                .program
                .outputs
                .iter()
                .map(|(name, _)| name.value.clone())
                .collect(),
        }))
    }
}

/// A write as it is reported. Its step is found by the statement itself, not by the text, which several steps may share.
fn of_step(program: &Program, held: &Held) -> Written {
    let written = program.steps.iter().find_map(|step| match &step.action {
        Action::Write(write) if write.statement.identity() == held.statement => Some((&step.name, &write.statement)),
        _ => None,
    });
    Written {
        step: written.map(|(name, _)| name.to_string()).unwrap_or_default(),
        statement: written
            .map(|(_, statement)| statement.cql().to_owned())
            .unwrap_or_default(),
        values: held
            .values
            .iter()
            .map(|(name, value)| (name.clone(), to_json(value)))
            .collect(),
    }
}

/// The effects of custom code outside of the pipeline cannot be held back.
fn refuse_steps_of_ones_own(pipeline: &config::Pipeline, sources: &Sources) -> Result<(), StartError> {
    let own = pipeline
        .steps
        .iter()
        .find(|step| matches!(step.kind, StepKind::Custom(_)));
    let Some(step) = own else { return Ok(()) };
    let message = format!(
        "step `{}` is a custom step: its side effects cannot be held back",
        step.name.value
    );
    let finding = Finding::new(step.name.span, message)
        .help("`messina test` runs it, with all its side effects: use a program with a harmless step there");
    Err(config_error(vec![finding], sources))
}

/// Replaces the embedded database by a copy.
async fn copy_sqlite(config: &mut Config, room: Option<&Scratch>) -> Result<(), String> {
    let Some(path) = config.sqlite_path().map(str::to_owned) else {
        return Ok(());
    };
    let copy = room.ok_or("there is no room to copy the database to")?.database();
    let to = copy.clone();
    let copied = tokio::task::spawn_blocking(move || SqliteStore::copy(Path::new(&path), &to)).await;
    copied.map_err(|e| e.to_string())?.map_err(|e| e.message)?;
    if let Some(store) = &mut config.store {
        store.value = format!("sqlite:{}", copy.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::Value;
    use crate::pipeline::program;
    use crate::reference::References;
    use crate::store::Store as _;
    use crate::store::sqlite::SqliteOptions;

    #[tokio::test]
    async fn each_row_has_the_name_of_its_step_where_steps_share_a_statement() {
        const INSERT: &str = "INSERT INTO t (id, kind) VALUES (:id, :kind)";
        let scratch = Scratch::new().unwrap();
        let store = SqliteStore::open(&SqliteOptions::new(scratch.database())).unwrap();
        let table = "CREATE TABLE t (id bigint PRIMARY KEY, kind text) WITHOUT ROWID";
        store.execute_script(table).await.unwrap();
        let store = HeldBack::of(AnyStore::Sqlite(store));
        let step = |name: &str, when: &str| {
            format!("[[pipelines.p.steps]]\nname = \"{name}\"\nwhen = \"{when}\"\nwrite = \"{INSERT}\"\n")
        };
        let toml = format!(
            "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\n[scylla]\nnodes = [\"s:9042\"]\nkeyspace = \"k\"\n\
             [pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n{}{}",
            step("low", "event.id < 5"),
            step("high", "event.id > 4")
        );
        let (config, _) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
        let parsed = program::parse(&config.pipelines["p"]).unwrap();
        let (references, customs) = (References::default(), CustomSteps::new());
        let program = parsed.prepare(Some(&store), &references, &customs).await.unwrap();
        for step in &program.steps {
            let Action::Write(write) = &step.action else {
                panic!("{step:?}")
            };
            let values = [Value::Long(7), Value::String("click".into())];
            store.write(&write.statement, &values, 1).await.unwrap();
        }
        let AnyStore::HeldBack(held) = &store else {
            panic!("not held back")
        };
        let written: Vec<_> = held.take().iter().map(|held| of_step(&program, held)).collect();
        let told: Vec<_> = written.iter().map(|row| (&*row.step, &*row.statement)).collect();
        assert_eq!(told, [("low", INSERT), ("high", INSERT)]);
    }
}
