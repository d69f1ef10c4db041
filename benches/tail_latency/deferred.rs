//! Why records are decoded in the consumer's loop: the same consumer in two variants, both with a task for each record. It is decoded in the task
//! (deferred) or before the task starts (inline).
//!
//! Not a benchmark by itself: `benches/tail_latency/run --stacks "inline deferred"` runs it, and reads once a second how long it took from
//! receiving to decoding a record, as a cumulative histogram on one line of JSON. The task then looks up a user and publishes the record.
//!
//! Settings are the peers': KAFKA_BOOTSTRAP, IN_TOPIC, OUT_TOPIC, GROUP, CQL_CONTACT, MAX_IN_FLIGHT, SCHEMA (a file), and MODE, which is inline or
//! deferred.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::prepared::PreparedStatement;
use tokio::sync::Semaphore;

/// The magic byte and the schema's id.
const FRAMING: usize = 5;

fn setting(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

/// Counts in buckets that grow by a factor of 1.25, from one microsecond to ten seconds.
struct Histogram(Vec<AtomicU64>);

impl Histogram {
    fn bound(index: usize) -> f64 {
        1e-6 * 1.25f64.powi(index as i32)
    }

    fn observe(&self, took: Duration) {
        let index = (0..self.0.len() - 1).find(|index| took.as_secs_f64() <= Self::bound(*index));
        self.0[index.unwrap_or(self.0.len() - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// Cumulative counts by upper bound, in seconds.
    fn cumulative(&self) -> BTreeMap<String, u64> {
        let mut sum = 0;
        let last = self.0.len() - 1;
        let bounds = self.0.iter().enumerate().map(|(index, count)| {
            sum += count.load(Ordering::Relaxed);
            let bound = if index == last {
                "inf".to_owned()
            } else {
                Self::bound(index).to_string()
            };
            (bound, sum)
        });
        bounds.collect()
    }
}

struct App {
    reader: GenericDatumReader<'static>,
    session: Session,
    select: PreparedStatement,
    producer: FutureProducer,
    out: String,
    decoded: Histogram,
}

impl App {
    fn decode(&self, payload: &[u8], received: Instant) -> Result<Value> {
        let value = self.reader.read_value(&mut &payload[FRAMING..])?;
        self.decoded.observe(received.elapsed());
        Ok(value)
    }

    async fn enrich(&self, value: Value, message: OwnedMessage) -> Result<()> {
        let user = field(&value, "user").and_then(|user| match field(user, "id") {
            Some(Value::String(id)) => Some(id.as_str()),
            _ => None,
        });
        self.session
            .execute_unpaged(&self.select, (user.context("no user.id")?,))
            .await?;
        let record = FutureRecord::to(&self.out)
            .payload(message.payload().unwrap_or_default())
            .key(message.key().unwrap_or_default());
        let sent = self.producer.send(record, Duration::from_secs(60)).await;
        sent.map(|_| ()).map_err(|(error, _)| error.into())
    }
}

fn field<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    match value {
        Value::Record(fields) => fields.iter().find(|(n, _)| n == name).map(|(_, value)| value),
        _ => None,
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let deferred = setting("MODE")? == "deferred";
    let servers = setting("KAFKA_BOOTSTRAP")?;
    let session = SessionBuilder::new()
        .known_node(setting("CQL_CONTACT")?)
        .build()
        .await?;
    let select = "SELECT segment, score, country FROM bench.profiles WHERE user_id = ?";
    // Leaked, because it lives as long as the process.
    let schema = Box::leak(Box::new(Schema::parse_str(&std::fs::read_to_string(setting(
        "SCHEMA",
    )?)?)?));
    let app = Arc::new(App {
        reader: GenericDatumReader::builder(schema).build()?,
        select: session.prepare(select).await?,
        session,
        producer: ClientConfig::new()
            .set("bootstrap.servers", &servers)
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .create()?,
        out: setting("OUT_TOPIC")?,
        decoded: Histogram((0..74).map(|_| AtomicU64::new(0)).collect()),
    });
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &servers)
        .set("group.id", setting("GROUP")?)
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "100")
        .create()?;
    consumer.subscribe(&[setting("IN_TOPIC")?.as_str()])?;
    let permits = Arc::new(Semaphore::new(setting("MAX_IN_FLIGHT")?.parse()?));
    let told = app.clone();
    tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            every.tick().await;
            println!("{}", serde_json::json!(told.decoded.cumulative()));
        }
    });
    loop {
        let permit = permits.clone().acquire_owned().await?;
        let message = consumer.recv().await?;
        let received = Instant::now();
        let early = if deferred {
            None
        } else {
            Some(app.decode(message.payload().unwrap_or_default(), received)?)
        };
        let (app, message) = (app.clone(), message.detach());
        tokio::spawn(async move {
            let value = match early {
                Some(value) => Ok(value),
                None => app.decode(message.payload().unwrap_or_default(), received),
            };
            let done = match value {
                Ok(value) => app.enrich(value, message).await,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                eprintln!("{error:#}");
                std::process::exit(1);
            }
            drop(permit);
        });
    }
}
