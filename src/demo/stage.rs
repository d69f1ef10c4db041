//! The environment of a demo run: cluster, registry, database, and the demo's two clients.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::cluster::{self, INPUT_PARTITIONS, Scratch, Topics};
use super::cpu::{Meter, Part};
use super::generator::{self, Deliveries};
use super::registry::{DemoRegistry, Fault};
use super::run::DemoError;
use super::streams::{FOREIGN_SCHEMA, Stream};
use super::world::World;
use super::{Places, config_text, database, schemas, verifier};
use crate::app::{self, Running, StartError, Telemetry};
use crate::config::{self, Diagnostics};
use crate::custom::CustomSteps;
use crate::telemetry::metrics::Metrics;

/// How long the consumer groups may take to form; the mock cluster waits three seconds for further members.
const JOIN: Duration = Duration::from_secs(60);
/// How long a request to the cluster may take.
const ASK: Duration = Duration::from_secs(10);

/// See the module's documentation. The fields are dropped in their order: the clients before the cluster, the
/// directory last.
pub struct Stage {
    /// The generator's client.
    pub producer: Arc<BaseProducer<Deliveries>>,
    /// The verifier's client.
    pub consumer: Arc<BaseConsumer>,
    /// The streams, in the order of [`schemas::VALUES`].
    pub streams: Arc<[Stream]>,
    /// Their topics.
    pub topics: Arc<[Topics]>,
    registry: DemoRegistry,
    cluster: MockCluster<'static, DefaultProducerContext>,
    scratch: Scratch,
}

impl Stage {
    /// Starts everything, and tells the meter which thread belongs to which part.
    pub async fn build(scratch: Scratch, meter: &mut Meter) -> Result<Stage, DemoError> {
        database::create(&scratch.database(), &World::default())?;
        let topics: Arc<[Topics]> = schemas::VALUES.iter().map(|(topic, _)| Topics::of(topic)).collect();
        let cluster = cluster::start(&topics)?;
        let brokers = cluster.bootstrap_servers();
        meter.claim(Part::Cluster);
        // A client has started all of its threads once it has the cluster's metadata.
        let producer = generator::producer(&brokers)?;
        producer.client().fetch_metadata(None, ASK)?;
        meter.claim(Part::Generator);
        let consumer = verifier::consumer(&brokers, &topics)?;
        consumer.fetch_metadata(None, ASK)?;
        meter.claim(Part::Verifier);
        let registry = DemoRegistry::start().await?;
        // Answered at once. An unknown id would be requested twice more, and its partitions would wait.
        let foreign = format!("/schemas/ids/{FOREIGN_SCHEMA}");
        registry.on_request(move |_, path| {
            if path == foreign {
                Fault::Answer(200, r#"{"schemaType":"JSON","schema":"{}"}"#)
            } else {
                Fault::None
            }
        });
        let ids = schemas::register(&registry.url()).await.map_err(DemoError::Registry)?;
        Ok(Stage {
            producer: Arc::new(producer),
            consumer: Arc::new(consumer),
            streams: Stream::all(ids).into(),
            topics,
            registry,
            cluster,
            scratch,
        })
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.scratch.database()
    }

    /// Starts Messina.
    pub async fn start(&self) -> Result<(Running, Arc<Metrics>), DemoError> {
        let places = Places {
            brokers: self.cluster.bootstrap_servers(),
            registry: self.registry.url(),
            store: self.database().display().to_string(),
            http: free_address(),
        };
        let texts = vec![("demo.toml".to_owned(), config_text(&places))];
        let (config, sources) = config::load_str(texts, std::iter::empty()).map_err(DemoError::Config)?;
        let findings = Diagnostics::new(config::check(&config, &sources));
        if findings.has_errors() {
            return Err(DemoError::Config(findings));
        }
        let metrics = Metrics::new().map_err(|e| StartError::Process(format!("metrics: {e}")))?;
        let telemetry = Telemetry {
            metrics: metrics.clone(),
            sentry: None,
            tracer: None,
        };
        Ok((
            app::start(config, sources, telemetry, &CustomSteps::new()).await?,
            metrics,
        ))
    }

    /// Waits until the pipelines have all partitions; the error says why they do not.
    pub async fn joined(&self, running: &Running) -> Result<(), String> {
        for stream in self.streams.iter() {
            running
                .joined(stream.job.name(), INPUT_PARTITIONS as usize, JOIN)
                .await?;
        }
        Ok(())
    }

    /// Records of a stream's input that its group has not committed.
    pub fn uncommitted(&self, stream: usize) -> Result<i64, DemoError> {
        let name = self.streams[stream].job.name();
        let consumer: BaseConsumer = cluster::client(&self.cluster.bootstrap_servers())
            .set("group.id", format!("{name}-enrichment"))
            .set("enable.auto.commit", "false")
            .create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.topics[stream].input, 0, INPUT_PARTITIONS - 1);
        let mut left = 0;
        for element in consumer.committed_offsets(list, ASK)?.elements() {
            let (_, end) = consumer.fetch_watermarks(element.topic(), element.partition(), ASK)?;
            left += match element.offset() {
                Offset::Offset(offset) => end - offset,
                _ => end,
            };
        }
        Ok(left)
    }

    /// Stops the parts that do not stop by being dropped.
    pub async fn close(self) {
        self.registry.stop().await;
    }
}

/// The usual address of the status page, or a free one if that is in use.
fn free_address() -> String {
    let usual = Places::default().http;
    match TcpListener::bind(&usual) {
        Ok(_) => usual,
        Err(_) => "127.0.0.1:0".to_owned(),
    }
}
