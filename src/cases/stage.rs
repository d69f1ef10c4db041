//! The environment of a test run: embedded Kafka, registry and database, and clients for both ends of the topics.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value as Json;

use super::file::CaseFile;
use super::from_json::from_json;
use super::run::Error;
use super::tables::Tables;
use crate::app::{self, Running, Telemetry};
use crate::avro::Schema;
use crate::config::{self, Config, Delivery, OffsetReset, Sources, StepKind};
use crate::custom::CustomSteps;
use crate::demo::cluster::{self, Scratch};
use crate::demo::registry::DemoRegistry;
use crate::demo::schemas::Subjects;
use crate::reference::References;
use crate::registry::{Registry, framing};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::telemetry::metrics::Metrics;

/// How long groups may take to form. The embedded cluster waits three seconds for more members.
const JOIN: Duration = Duration::from_secs(60);
/// How long a pipeline may take to stop. Either all its records have ended by then, or one never will.
const STOP: Duration = Duration::from_secs(1);
/// How long the whole application may take to stop. All cases have been judged by then, and whatever is still open ends with the process.
const CLOSE: Duration = Duration::from_secs(5);
/// How long a request to the cluster may take.
const ASK: Duration = Duration::from_secs(10);

/// A topic's schema, and its id in the embedded registry.
struct Known {
    schema: Schema,
    id: u32,
}

/// An output or a dead letter.
pub struct Out {
    /// Its key, as text.
    pub key: Option<String>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
}

/// The environment; see the module. Fields are dropped in order: clients before the cluster, the directory last.
pub struct Stage {
    /// The application.
    pub running: Running,
    /// The tables.
    pub tables: Tables,
    schemas: BTreeMap<String, Known>,
    client: Registry,
    producer: BaseProducer,
    consumer: BaseConsumer,
    registry: DemoRegistry,
    _cluster: MockCluster<'static, DefaultProducerContext>,
    _scratch: Scratch,
}

/// Refuses a case file without a table that a statement names: the database would only say that it has none.
fn all_declared(file: &CaseFile, config: &Config) -> Result<(), Error> {
    let declared = |table: &str| file.tables.keys().any(|name| name.eq_ignore_ascii_case(table));
    for step in config.pipelines.values().flat_map(|pipeline| &pipeline.steps) {
        let cql = match &step.kind {
            StepKind::Lookup(lookup) => &lookup.cql,
            StepKind::Write(write) => &write.cql,
            StepKind::Filter(_) | StepKind::Set(_) | StepKind::Reference(_) | StepKind::Custom(_) => continue,
        };
        let named = config::tables(cql, None).into_iter().next().unwrap_or_default();
        let table = named.split_once('.').map_or(&*named, |(_, table)| table);
        if !named.is_empty() && !declared(&named) && !declared(table) {
            return Err(Error::File(format!(
                "step '{}' uses the table {table}: declare tables.{table} in the case file, with its columns as in CREATE TABLE",
                step.name.value
            )));
        }
    }
    Ok(())
}

impl Stage {
    /// Starts everything, for the pipelines in `config`.
    pub async fn build(
        file: &CaseFile,
        folder: &Path,
        config: Config,
        sources: Sources,
        customs: &CustomSteps,
        references: Arc<References>,
    ) -> Result<Stage, Error> {
        all_declared(file, &config)?;
        let scratch = Scratch::new().map_err(|e| Error::Environment(e.to_string()))?;
        let store = SqliteStore::open(&SqliteOptions::new(scratch.database()));
        let store = store.map_err(|e| Error::Environment(e.message))?;
        let tables = Tables::create(store, &file.tables).await.map_err(Error::File)?;

        let cluster = MockCluster::new(1).map_err(in_words)?;
        let (mut inputs, mut outputs) = (BTreeSet::new(), BTreeSet::new());
        for pipeline in config.pipelines.values() {
            inputs.extend(pipeline.source.topics.iter().map(|t| t.value.clone()));
            outputs.extend(pipeline.sink.iter().map(|s| s.topic.value.clone()));
            outputs.extend(pipeline.dead_letter.iter().map(|d| d.topic.value.clone()));
        }
        for topic in inputs.union(&outputs) {
            cluster.create_topic(topic, 1, 1).map_err(in_words)?;
        }
        let brokers = cluster.bootstrap_servers();
        let producer: BaseProducer = cluster::client(&brokers).create().map_err(in_words)?;
        let consumer: BaseConsumer = cluster::client(&brokers)
            .set("group.id", "messina-test")
            .set("enable.auto.commit", "false")
            .create()
            .map_err(in_words)?;
        let mut list = TopicPartitionList::new();
        for topic in &outputs {
            list.add_partition_offset(topic, 0, Offset::Beginning)
                .map_err(in_words)?;
        }
        consumer.assign(&list).map_err(in_words)?;

        let registry = DemoRegistry::start()
            .await
            .map_err(|e| Error::Environment(e.to_string()))?;
        let schemas = register(file, folder, &registry.url()).await?;
        let places = format!(
            "store = \"sqlite:{}\"\n[kafka]\nbrokers = \"{brokers}\"\n[registry]\nurl = \"{}\"\nregister = true\n",
            scratch.database().display(),
            registry.url()
        );
        let (config, places) = around(config, &places)?;
        let client = app::registry(&places).map_err(Error::Environment)?;
        let metrics = Metrics::new().map_err(|e| Error::Environment(e.to_string()))?;
        let telemetry = Telemetry {
            metrics,
            sentry: None,
            tracer: None,
        };
        let topics: BTreeMap<String, usize> = config
            .pipelines
            .iter()
            .map(|(name, pipeline)| (name.clone(), pipeline.source.topics.len()))
            .collect();
        let running = app::start_with(config, sources, telemetry, customs, references)
            .await
            .map_err(Error::Start)?;
        // Each pipeline gets one partition of each of its topics.
        for (name, topics) in topics {
            running.joined(&name, topics, JOIN).await.map_err(Error::Environment)?;
        }
        Ok(Stage {
            running,
            tables,
            schemas,
            client,
            producer,
            consumer,
            registry,
            _cluster: cluster,
            _scratch: scratch,
        })
    }

    /// Encodes a value in the topic's schema.
    pub fn encode(&self, topic: &str, value: &Json) -> Result<Vec<u8>, String> {
        let Some(known) = self.schemas.get(topic) else {
            return Err(format!(
                "record: topic {topic} has no schema; name its file under [schemas]"
            ));
        };
        let value = from_json(value, &known.schema.root_type()).map_err(|e| format!("record.value: {e}"))?;
        let mut bytes = framing::header(known.id).to_vec();
        let encoded = known.schema.encode(&value, &mut bytes);
        encoded.map_err(|e| format!("record.value: {e}"))?;
        Ok(bytes)
    }

    /// Decodes a value to JSON, by the schema that it names. The error says in words why it cannot be decoded.
    pub async fn decode(&self, value: &[u8]) -> Result<Json, String> {
        let (id, start) = framing::parse(value).map_err(|e| e.to_string())?;
        self.client.decode(id, &value[start..]).await
    }

    /// Writes a record, and waits for its delivery.
    pub fn send(
        &self,
        topic: &str,
        key: Option<&str>,
        value: Option<&[u8]>,
        timestamp: Option<i64>,
        headers: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let mut record =
            BaseRecord::to(topic).headers(headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
                all.insert(Header {
                    key,
                    value: Some(value),
                })
            }));
        record.key = key.map(str::as_bytes);
        record.payload = value;
        record.timestamp = timestamp;
        self.producer.send(record).map_err(|(error, _)| in_words(error))?;
        self.producer.flush(ASK).map_err(in_words)
    }

    /// The next record of a topic that has this header. Others are skipped: late records of an earlier case may arrive at any time.
    pub fn receive(&self, topic: &str, (name, value): (&str, &str)) -> Result<Out, Error> {
        let began = Instant::now();
        while began.elapsed() < ASK {
            let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(50)) else {
                continue;
            };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
            let headers: BTreeMap<String, String> = headers
                .map(|h| (h.key.to_owned(), h.value.map(text).unwrap_or_default()))
                .collect();
            if message.topic() == topic && headers.get(name).is_some_and(|own| own == value) {
                return Ok(Out {
                    key: message.key().map(text),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers,
                });
            }
        }
        Err(Error::Environment("what was published cannot be read back".to_owned()))
    }

    /// Stops the application and the registry. It gives up waiting for the application after `CLOSE`: while a custom step blocks its
    /// thread, it would never stop.
    pub async fn close(self) {
        let _ = tokio::time::timeout(CLOSE, self.running.stop()).await;
        self.registry.stop().await;
    }
}

fn in_words(error: rdkafka::error::KafkaError) -> Error {
    Error::Environment(format!("the embedded Kafka: {error}"))
}

/// Reads the schemas and registers them.
async fn register(file: &CaseFile, folder: &Path, url: &str) -> Result<BTreeMap<String, Known>, Error> {
    let read = |path: &Path| {
        let path = folder.join(path);
        std::fs::read_to_string(&path).map_err(|e| Error::File(format!("cannot read {}: {e}", path.display())))
    };
    let registry = Subjects::of(url).map_err(Error::Environment)?;
    let mut types: Vec<(String, String)> = Vec::new();
    for path in &file.types {
        let text = read(path)?;
        let name =
            full_name(&text).ok_or_else(|| Error::File(format!("{}: the schema has no name", path.display())))?;
        let used = used(&types, &text);
        registry.post(&name, &text, &names(&used)).await.map_err(Error::File)?;
        types.push((name, text));
    }
    let mut known = BTreeMap::new();
    for (topic, path) in &file.schemas {
        let text = read(path)?;
        let used = used(&types, &text);
        let texts: Vec<&str> = used.iter().map(|(_, text)| text.as_str()).collect();
        let schema = Schema::parse_with_references(&text, &texts)
            .map_err(|e| Error::File(format!("{}: {e}", path.display())))?;
        let subject = format!("{topic}-value");
        let id = registry
            .post(&subject, &text, &names(&used))
            .await
            .map_err(Error::File)?;
        known.insert(topic.clone(), Known { schema, id });
    }
    Ok(known)
}

/// The types that a schema names, and those that they name in turn.
fn used<'t>(types: &'t [(String, String)], text: &str) -> Vec<&'t (String, String)> {
    let mut texts = text.to_owned();
    let mut found = Vec::new();
    for one in types.iter().rev() {
        let short = one.0.rsplit('.').next().unwrap_or(&one.0);
        if texts.contains(&format!("\"{}\"", one.0)) || texts.contains(&format!("\"{short}\"")) {
            texts.push_str(&one.1);
            found.insert(0, one);
        }
    }
    found
}

fn names<'t>(types: &[&'t (String, String)]) -> Vec<&'t str> {
    types.iter().map(|(name, _)| name.as_str()).collect()
}

fn full_name(schema: &str) -> Option<String> {
    let json: Json = serde_json::from_str(schema).ok()?;
    let name = json["name"].as_str()?;
    Some(match json["namespace"].as_str() {
        Some(namespace) if !name.contains('.') => format!("{namespace}.{name}"),
        _ => name.to_owned(),
    })
}

/// The configuration with the embedded services in place of its own; also returns a configuration of the embedded services alone.
fn around(mut config: Config, places: &str) -> Result<(Config, Config), Error> {
    let loaded = config::load_str(vec![("messina test".to_owned(), places.to_owned())], std::iter::empty());
    let (places, _) = loaded.map_err(|findings| Error::Environment(findings.human(false)))?;
    config.kafka = places.kafka.clone();
    config.registry = places.registry.clone();
    config.store.clone_from(&places.store);
    config.scylla = None;
    config.sentry = None;
    config.tracing = None;
    config.shutdown_timeout = STOP;
    config.http.listen = ([127, 0, 0, 1], 0).into();
    for pipeline in config.pipelines.values_mut() {
        pipeline.consumers.value = 1;
        pipeline.delivery.value = Delivery::AtLeastOnce;
        pipeline.source.properties.clear();
        pipeline.source.instance_id = None;
        pipeline.source.offset_reset = OffsetReset::Earliest;
        if let Some(sink) = &mut pipeline.sink {
            sink.properties.clear();
        }
        if let Some(dead_letter) = &mut pipeline.dead_letter {
            dead_letter.stop_above = None;
        }
        for step in &mut pipeline.steps {
            match &mut step.kind {
                StepKind::Lookup(lookup) => lookup.cache = None,
                // The embedded store groups writes by itself.
                StepKind::Write(write) => write.group = None,
                StepKind::Filter(_) | StepKind::Set(_) | StepKind::Reference(_) | StepKind::Custom(_) => {}
            }
        }
    }
    Ok((config, places))
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use futures_util::future::BoxFuture;

    use super::super::file;
    use super::*;
    use crate::avro::value::{Type, Value};
    use crate::custom::{CustomStep, Row, StepError};

    /// Time enough for a slow machine.
    const LONG: Duration = Duration::from_secs(120);

    /// A step that blocks its thread until the test lets it go.
    struct Blocks {
        begun: mpsc::Sender<()>,
        until: Mutex<mpsc::Receiver<()>>,
    }

    impl CustomStep for Blocks {
        fn takes(&self) -> Vec<(String, Type)> {
            Vec::new()
        }

        fn gives(&self) -> Vec<(String, Type)> {
            Vec::new()
        }

        fn run<'a>(&'a self, _: &'a [Value<'a>]) -> BoxFuture<'a, Result<Option<Row>, StepError>> {
            Box::pin(async move {
                let _ = self.begun.send(());
                let _ = self.until.lock().unwrap().recv();
                Ok(None)
            })
        }
    }

    /// A stage around a pipeline with this step.
    async fn stage(step: &str, customs: &CustomSteps) -> Stage {
        let cases = "cases = []\nschemas = { in = \"money.avsc\" }\n";
        let pipeline = format!(
            "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n[pipelines.p]\n\
             source = {{ topics = \"in\", group = \"g\" }}\nsink = {{ topic = \"out\" }}\n\
             steps = [{{ name = \"s\", custom = \"{step}\" }}]\n"
        );
        let loaded = config::load_str(vec![("m.toml".into(), pipeline)], std::iter::empty());
        let (config, sources) = loaded.unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas");
        let file = file::parse(cases).unwrap();
        let built = Stage::build(&file, &folder, config, sources, customs, Arc::default()).await;
        built.unwrap_or_else(|error| panic!("{error}"))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_step_that_blocks_its_thread_does_not_keep_the_stage_open() {
        let (begun, begins) = mpsc::channel();
        let (go, until) = mpsc::channel();
        let until = Mutex::new(until);
        let customs = CustomSteps::new().with("blocks", Blocks { begun, until });
        let stage = stage("blocks", &customs).await;
        let value = serde_json::json!({"amount": "1.5", "currency": "EUR"});
        let value = stage.encode("in", &value).unwrap();
        let sent = stage.send("in", None, Some(&value), None, &BTreeMap::new());
        sent.unwrap();
        begins.recv_timeout(LONG).unwrap();
        tokio::time::timeout(LONG, stage.close()).await.unwrap();
        drop(go);
    }

    /// A step that owns a runtime, which panics if it is dropped in async code.
    struct Owns {
        _runtime: tokio::runtime::Runtime,
        /// Closes after the runtime is dropped.
        _here: mpsc::Sender<()>,
    }

    impl CustomStep for Owns {
        fn takes(&self) -> Vec<(String, Type)> {
            Vec::new()
        }

        fn gives(&self) -> Vec<(String, Type)> {
            Vec::new()
        }

        fn run<'a>(&'a self, _: &'a [Value<'a>]) -> BoxFuture<'a, Result<Option<Row>, StepError>> {
            Box::pin(std::future::ready(Ok(None)))
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_runs_steps_of_ones_own_last_drops_them_outside_of_async_code() {
        let (here, gone) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let owns = Owns {
            _runtime: runtime,
            _here: here,
        };
        let customs = CustomSteps::new().with("own", owns);
        let stage = stage("own", &customs).await;
        drop(customs);
        stage.running.stop().await;
        stage.registry.stop().await;
        assert_eq!(gone.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
