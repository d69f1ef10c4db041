//! Tests of the step alone, its type check, and the pipeline end to end on an embedded Kafka and registry.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use messina::app::{self, StartError, Telemetry};
use messina::cases;
use messina::cli::ConfigFiles;
use messina::config;
use messina::demo::registry::DemoRegistry;
use messina::telemetry::metrics::Metrics;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::*;

const PIPELINE: &str = include_str!("pipeline.toml");
const VISIT: &str = include_str!("visit.avsc");
/// How long a slow machine may take.
const LONG: Duration = Duration::from_secs(120);

#[tokio::test]
async fn the_step_knows_its_networks() {
    let geo = Geo::new();
    let run = async |ip: &'static str| geo.run(&[Value::String(ip.into())]).await;
    let country = |country: &'static str| Ok(Some(vec![Value::String(country.into())]));
    assert_eq!(run("192.0.2.77").await, country("FR"));
    assert_eq!(run("198.51.100.3").await, country("DE"));
    assert_eq!(run("198.51.100.200").await, country("IT"));
    assert_eq!(run("2001:db8::1").await, country("PT"));
    assert_eq!(run("203.0.113.1").await, Ok(None));
    assert_eq!(geo.run(&[Value::Null]).await, Ok(None));
    assert!(run("nonsense").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cases_of_the_pipeline_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/geo");
    let file = cases::file::parse(include_str!("pipeline.test.toml")).unwrap();
    let files = file.config.iter().map(|config| folder.join(config)).collect();
    let (config, sources, _) = ConfigFiles { files }.load().unwrap();
    let report = cases::run(&file, &folder, config, sources, &steps(), None)
        .await
        .unwrap();
    assert_eq!((report.verdicts.len(), report.failed()), (4, 0), "{}", report.human());
}

/// Kafka, and a registry that has the schema of the visits.
struct Services {
    cluster: MockCluster<'static, rdkafka::producer::DefaultProducerContext>,
    registry: DemoRegistry,
    schema_id: u32,
}

impl Services {
    async fn start() -> Services {
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["visits", "visits-enriched", "visits-dead-letters"] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        let registry = DemoRegistry::start().await.unwrap();
        let answer = reqwest::Client::new()
            .post(format!("{}/subjects/visits-value/versions", registry.url()))
            .json(&serde_json::json!({ "schema": VISIT }))
            .send()
            .await
            .unwrap();
        let answer: serde_json::Value = answer.json().await.unwrap();
        let schema_id = answer["id"].as_u64().unwrap() as u32;
        Services {
            cluster,
            registry,
            schema_id,
        }
    }

    /// Starts the pipeline with a change to its text.
    async fn run(&self, from: &str, to: &str) -> Result<app::Running, StartError> {
        assert!(PIPELINE.contains(from));
        let places = format!(
            "[kafka]\nbrokers = \"{}\"\n[http]\nlisten = \"127.0.0.1:0\"\n[registry]\nurl = \"{}\"\n",
            self.cluster.bootstrap_servers(),
            self.registry.url()
        );
        let texts = vec![
            ("pipeline.toml".to_owned(), PIPELINE.replace(from, to)),
            ("places.toml".to_owned(), places),
        ];
        let (config, sources) = config::load_str(texts, std::iter::empty()).unwrap();
        assert!(config::check(&config, &sources).is_empty());
        let telemetry = Telemetry {
            metrics: Metrics::new().unwrap(),
            sentry: None,
            tracer: None,
        };
        app::start(config, sources, telemetry, &steps()).await
    }

    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.cluster.bootstrap_servers());
        client
    }

    fn send(&self, addresses: &[Option<&str>]) {
        let producer: BaseProducer = self.client().create().unwrap();
        let schema = Schema::parse_str(VISIT).unwrap();
        let writer = GenericDatumWriter::builder(&schema).build().unwrap();
        for (i, ip) in addresses.iter().enumerate() {
            let ip = match ip {
                None => Avro::Union(0, Box::new(Avro::Null)),
                Some(ip) => Avro::Union(1, Box::new(Avro::String((*ip).to_owned()))),
            };
            let visit = Avro::Record(vec![
                ("url".to_owned(), Avro::String(format!("/{i}"))),
                ("client".to_owned(), Avro::Record(vec![("ip".to_owned(), ip)])),
            ]);
            let mut value = vec![0];
            value.extend(self.schema_id.to_be_bytes());
            value.extend(writer.write_value_to_vec(visit).unwrap());
            producer
                .send(BaseRecord::<(), [u8]>::to("visits").payload(&value))
                .map_err(|e| e.0)
                .unwrap();
        }
        producer.flush(LONG).unwrap();
    }

    /// Reads this many records of a topic.
    fn read(&self, topic: &str, count: usize) -> Vec<Vec<u8>> {
        let consumer: BaseConsumer = self
            .client()
            .set("group.id", format!("test-{topic}"))
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(topic, 0, rdkafka::Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let (mut values, began) = (Vec::new(), Instant::now());
        while values.len() < count {
            assert!(began.elapsed() < LONG, "{} of {count} records in {topic}", values.len());
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                values.push(message.payload().unwrap().to_vec());
            }
        }
        values
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pipeline_runs_with_a_step_of_its_own() {
    let services = Services::start().await;
    let running = services.run("geo", "geo").await.unwrap();
    // A known address, an unknown one, none at all, one filtered out by the step's result, and a text that is not an
    // address.
    services.send(&[
        Some("192.0.2.1"),
        Some("203.0.113.1"),
        None,
        Some("198.51.100.200"),
        Some("nonsense"),
    ]);
    let visit = VISIT.trim_end();
    let output = Schema::parse_str(&format!(
        "{}{}",
        &visit[..visit.len() - 2],
        r#", {"name": "country", "type": ["null", "string"]}]}"#
    ));
    let output = output.unwrap();
    // The pipeline has its own threads, so blocking here is fine.
    let (enriched, letters) = (
        services.read("visits-enriched", 3),
        services.read("visits-dead-letters", 1),
    );
    let reader = GenericDatumReader::builder(&output).build().unwrap();
    let mut found = BTreeMap::new();
    for value in enriched {
        let Avro::Record(fields) = reader.read_value(&mut &value[5..]).unwrap() else {
            panic!("a record")
        };
        let fields: BTreeMap<_, _> = fields.into_iter().collect();
        let Avro::String(url) = &fields["url"] else {
            panic!("a url")
        };
        let Avro::Union(_, country) = &fields["country"] else {
            panic!("a country or null")
        };
        found.insert(url.clone(), (**country).clone());
    }
    let country = |country: &str| Avro::String(country.to_owned());
    let wanted = [("/0", country("FR")), ("/1", Avro::Null), ("/2", Avro::Null)];
    assert_eq!(found, wanted.map(|(url, country)| (url.to_owned(), country)).into());
    let bad = letters[0].windows(8).any(|part| part == b"nonsense");
    assert!(bad, "the dead letter is the record that has no address");
    let metrics = Arc::downgrade(&running.metrics);
    let summary = running.stop().await;
    assert!(summary.is_clean());
    let began = Instant::now();
    while metrics.strong_count() > 0 {
        assert!(began.elapsed() < LONG, "what has been stopped leaves something running");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    services.registry.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_step_is_type_checked_before_the_first_record() {
    let services = Services::start().await;
    for (from, to, wanted) in [
        (
            "custom = \"geo\"",
            "custom = \"gio\"",
            "this program has no custom step 'gio'",
        ),
        ("event.client.ip", "event.client", "'ip' cannot take event.client"),
        ("{ ip =", "{ address =", "step 'geo' takes no 'address'"),
        ("\"geo.country\"", "\"geo.city\"", "step 'geo' has no column 'city'"),
    ] {
        match services.run(from, to).await {
            Err(StartError::Config(findings)) => {
                let text = findings.human(false);
                assert!(text.contains(wanted) && text.contains("help:"), "{to}: {text}");
            }
            other => panic!("{to}: {:?}", other.map(|_| "it runs")),
        }
    }
    services.registry.stop().await;
}
