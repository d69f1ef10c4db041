//! What a pipeline, or one of its consumers, publishes with: topics, a producer and, under `exactly_once`, its transactions.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::services::{reached, wait};
use super::{Shared, StartError};
use crate::config::{self, Config, Order};
use crate::kafka::asker::Asker;
use crate::kafka::login::Logins;
use crate::kafka::range::{self, TopicError};
use crate::kafka::{self, SMALL_BATCH};
use crate::retry::Jitter;
use crate::sink::batches::Batches;
use crate::sink::dead_letters::{COMPACTED, COMPACTED_HELP, DeadLetters};
use crate::sink::turnstile::Turnstile;
use crate::sink::{self, Sink};
use crate::source::consumer_loop::TransactionParts;
use crate::telemetry::handles::PipelineMetrics;
use crate::telemetry::kafka::KafkaMetrics;
use crate::telemetry::metrics::Metrics;

/// The time limit of one query to the brokers.
const ASK: Duration = Duration::from_secs(10);

/// What all clients of a pipeline share about the brokers.
#[derive(Clone, Default)]
pub(super) struct Brokers {
    pub(super) batches: Arc<Batches>,
    /// The largest number of brokers that was seen at one time.
    pub(super) count: Arc<AtomicUsize>,
    pub(super) logins: Logins,
}

/// Waits for the topics that a pipeline publishes to, and asks for their record limits and the number of brokers. Brokers with automatic topic creation create
/// the topics now.
pub(super) async fn topics(
    config: &Config,
    pipeline: &config::Pipeline,
    shared: &Shared,
    jitter: &mut Jitter,
) -> Result<(Batches, usize), StartError> {
    let mut count = kafka::named(&config.kafka);
    let sink = pipeline.sink.iter().map(|s| s.topic.value.as_str());
    let topics: Vec<&str> = sink
        .chain(pipeline.dead_letter.iter().map(|d| d.topic.value.as_str()))
        .collect();
    if topics.is_empty() {
        return Ok((Batches::default(), count));
    }
    let name = &pipeline.name.value;
    let properties = pipeline.sink.as_ref().map_or(&[][..], |s| &s.properties);
    let make = || -> Result<Arc<Asker>, StartError> {
        let client = kafka::client(&config.kafka, &config.kafka.producer_properties, properties);
        let asker = Asker::new(client.map_err(|e| StartError::client(name, &e))?);
        Ok(Arc::new(asker.map_err(|e| StartError::client(name, &e))?))
    };
    let mut asker = make()?;
    for topic in &topics {
        count = wait_for_topic(&mut asker, &make, topic, ASK, shared, jitter).await;
    }
    let has_size = asker.config().get("batch.size").is_some();
    let batches = Batches::ask(asker, &topics).await;
    // Users who set their own batch size know the limit.
    for (topic, untold) in batches.untold().filter(|_| !has_size) {
        tracing::warn!(
            pipeline = %name, topic,
            "the brokers do not report the topic's max.message.bytes: {}; until the next start, batches are limited to {SMALL_BATCH} bytes: {}",
            untold.why,
            untold.help()
        );
    }
    if let Some(letters) = &pipeline.dead_letter
        && batches.wants_key(&letters.topic)
    {
        tracing::warn!(
            pipeline = %name, topic = letters.topic.as_str(),
            "the dead-letter topic {COMPACTED}: {COMPACTED_HELP}"
        );
    }
    Ok((batches, count))
}

/// Waits for a topic and returns the number of brokers. A client that gets no answer within `limit` is recreated, because librdkafka has copied the login and
/// read the certificates, and they may have been wrong.
async fn wait_for_topic(
    asker: &mut Arc<Asker>,
    make: &impl Fn() -> Result<Arc<Asker>, StartError>,
    topic: &str,
    limit: Duration,
    shared: &Shared,
    jitter: &mut Jitter,
) -> usize {
    let mut attempt = 0;
    loop {
        let (asks, name) = (asker.clone(), topic.to_owned());
        let answer = tokio::task::spawn_blocking(move || {
            range::partitions_and_brokers(asks.client(), &name, limit).map_err(|error| {
                // Drained whatever the answer is, because the client's queue would grow as long as the topic is
                // awaited.
                let reasons = asks.reasons();
                match error {
                    TopicError::Silent(_) => (format!("{error}{reasons}"), true),
                    TopicError::Missing(_) | TopicError::Refused { .. } => (error.to_string(), false),
                }
            })
        });
        let (reason, silent) = match answer.await {
            Ok(Ok((_, brokers))) => {
                reached(shared);
                return brokers;
            }
            Ok(Err(refusal)) => refusal,
            Err(error) => (format!("topic '{topic}': {error}"), false),
        };
        wait(shared, &reason, &mut attempt, jitter).await;
        if silent {
            match make() {
                Ok(made) => {
                    let old = std::mem::replace(asker, made);
                    // Dropping it waits for the client's threads.
                    tokio::task::spawn_blocking(move || drop(old));
                }
                Err(error) => tracing::warn!("the brokers' login cannot be read again: {error}"),
            }
        }
    }
}

/// A producer and what publishes through it; empty for a pipeline that publishes nothing.
#[derive(Clone, Default)]
pub(super) struct Output {
    pub(super) producer: Option<Arc<sink::Producer>>,
    pub(super) sink: Option<Sink>,
    pub(super) dead_letters: Option<DeadLetters>,
    turnstile: Option<Arc<Turnstile>>,
    /// After this time the brokers abort a transaction.
    timeout: Duration,
}

/// The name of a producer in metrics; with transactions it contains the consumer's number.
pub(super) fn client_name(number: Option<usize>) -> String {
    number.map_or_else(|| "producer".to_owned(), |number| format!("producer-{number}"))
}

/// Creates the producer. `queue_bytes` bounds what it holds; a consumer's number and a transactional id make it transactional.
pub(super) fn make(
    config: &Config,
    pipeline: &config::Pipeline,
    pipeline_metrics: &PipelineMetrics,
    metrics: &Arc<Metrics>,
    brokers: &Brokers,
    queue_bytes: usize,
    transactions: Option<(usize, &str)>,
) -> Result<Output, Box<dyn std::error::Error>> {
    if pipeline.sink.is_none() && pipeline.dead_letter.is_none() {
        return Ok(Output::default());
    }
    let properties = pipeline.sink.as_ref().map_or(&[][..], |s| &s.properties);
    let id = transactions.map(|(_, id)| id);
    let client = kafka::producer(&config.kafka, properties, queue_bytes, brokers.batches.bytes(), id)?;
    let name = client_name(transactions.map(|(number, _)| number));
    let statistics = KafkaMetrics::new(metrics, &pipeline.name, &name);
    let turnstile = transactions.map(|_| Arc::new(Turnstile::default()));
    let ordered = pipeline.order != Order::None;
    let producer = sink::producer(
        &client,
        pipeline_metrics.clone(),
        statistics,
        ordered,
        turnstile.clone(),
        brokers.batches.clone(),
        brokers.logins.clone(),
    )?;
    let (of, properties) = (config.kafka.clone(), properties.to_vec());
    let again = move || kafka::client(&of, &of.producer_properties, &properties);
    brokers.logins.keep(&producer, &client, again);
    let timeout = client.get("transaction.timeout.ms").and_then(|ms| ms.parse().ok());
    Ok(Output {
        sink: pipeline.sink.as_ref().map(|s| Sink::new(producer.clone(), &s.topic)),
        dead_letters: pipeline
            .dead_letter
            .as_ref()
            .map(|d| DeadLetters::new(producer.clone(), &d.topic, &pipeline.name)),
        producer: Some(producer),
        turnstile,
        timeout: timeout.map_or(kafka::TRANSACTION_TIMEOUT, Duration::from_millis),
    })
}

/// The output that all consumers of a pipeline without transactions share. The final flush also takes the producer from here: a reference kept
/// elsewhere would keep a replaced producer alive, and flush that one.
pub(super) struct SharedOutput(Mutex<Output>);

impl SharedOutput {
    /// Shares the first output. With transactions it is empty: each consumer has its own output, and replaces it when it is
    /// recreated.
    pub(super) fn of(outputs: &[Output]) -> SharedOutput {
        let first = outputs.first().filter(|output| output.turnstile.is_none());
        SharedOutput(Mutex::new(first.cloned().unwrap_or_default()))
    }

    /// The output, or a new one if its producer has failed fatally.
    pub(super) fn get(&self, make: impl FnOnce() -> Result<Output, String>) -> Result<Output, String> {
        // A panic while it was locked has left the previous output in place.
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = output
            .producer
            .as_ref()
            .filter(|producer| producer.fatal().is_some())
            .cloned();
        if let Some(over) = over {
            *output = make()?;
            // librdkafka has put outputs back into its queue. They would stay there as long as another consumer holds
            // the old producer.
            over.withdraw();
        }
        Ok(output.clone())
    }

    /// The current producer, if there is one.
    pub(super) fn producer(&self) -> Option<Arc<sink::Producer>> {
        let output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        output.producer.clone()
    }
}

impl Output {
    /// Metrics show this producer from now on, because a loop publishes with it.
    pub(super) fn show(&self) {
        if let Some(producer) = &self.producer {
            producer.show();
        }
    }

    /// What a loop commits with; none without transactions.
    pub(super) fn transactions(&self, pipeline: &config::Pipeline) -> Option<TransactionParts> {
        let (producer, turnstile) = self.producer.clone().zip(self.turnstile.clone())?;
        let interval = pipeline.transaction_interval.as_ref().map(|interval| interval.value);
        Some(TransactionParts {
            producer,
            turnstile,
            interval: interval.unwrap_or(config::Pipeline::TRANSACTION_INTERVAL),
            // Below the brokers' limit, to leave time for the commit itself.
            limit: self.timeout * 3 / 4,
        })
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::client::ClientContext as _;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::Producer as _;
    use rdkafka::types::RDKafkaRespErr;
    use rdkafka::{ClientConfig, Statistics};

    use super::*;
    use crate::sink::tests::give_up;

    /// An output; a transactional id makes it transactional.
    fn output(metrics: &Arc<Metrics>, id: Option<&str>) -> Output {
        let toml = r#"
[kafka]
brokers = "127.0.0.1:1"
[registry]
url = "http://127.0.0.1:1"
[pipelines.p.source]
topics = ["in"]
group = "g"
[pipelines.p.sink]
topic = "out"
"#;
        let (config, _) = config::load_str(vec![("t.toml".into(), toml.into())], std::iter::empty()).unwrap();
        let handles = PipelineMetrics::new(metrics, "p");
        let transactions = id.map(|id| (0, id));
        let (pipeline, brokers) = (&config.pipelines["p"], Brokers::default());
        make(&config, pipeline, &handles, metrics, &brokers, 1 << 20, transactions).unwrap()
    }

    #[tokio::test]
    async fn a_secret_may_come_and_a_property_that_is_refused_never_will() {
        let refusal = async |property: &str| {
            let toml = format!(
                "[kafka]\nbrokers = \"127.0.0.1:1\"\nproducer_properties = {{ {property} }}\n[registry]\nurl = \"http://r:8081\"\n\
                 [pipelines.p]\nsource = {{ topics = \"t\", group = \"g\" }}\nsink = {{ topic = \"out\" }}\n"
            );
            let loaded = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty());
            let (config, _) = loaded.unwrap_or_else(|e| panic!("{}", e.human(false)));
            let (shared, mut jitter) = (Shared::default(), Jitter::new(1));
            let asked = topics(&config, &config.pipelines["p"], &shared, &mut jitter).await;
            asked.unwrap_err()
        };
        let missing = refusal("\"sasl.password\" = { file = \"/is/not/there\" }").await;
        assert!(matches!(missing, StartError::Away(_)), "{missing}");
        let refused = refusal("\"socket.keepalive.enable\" = \"perhaps\"").await;
        assert!(matches!(refused, StartError::Process(_)), "{refused}");
    }

    #[tokio::test]
    async fn a_client_without_an_answer_is_made_anew_of_what_is_configured_by_then() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("out", 1, 1).unwrap();
        let asker = |brokers: &str| {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", brokers);
            Arc::new(Asker::new(config).unwrap())
        };
        let make = || Ok(asker(&cluster.bootstrap_servers()));
        let mut asks = asker("127.0.0.1:1");
        let (limit, shared, mut jitter) = (Duration::from_secs(2), Shared::default(), Jitter::new(1));
        let waits = wait_for_topic(&mut asks, &make, "out", limit, &shared, &mut jitter);
        assert_eq!(tokio::time::timeout(Duration::from_secs(60), waits).await.unwrap(), 1);
        assert!(shared.lock().unwrap().waiting_for.is_none());
    }

    #[tokio::test]
    async fn who_waits_for_brokers_is_told_why_they_do_not_answer() {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1");
        let make = || -> Result<Arc<Asker>, StartError> { Ok(Arc::new(Asker::new(config.clone()).unwrap())) };
        let mut asks = make().unwrap();
        let (limit, shared, mut jitter) = (Duration::from_secs(2), Shared::default(), Jitter::new(1));
        let waits = wait_for_topic(&mut asks, &make, "out", limit, &shared, &mut jitter);
        let told = async {
            loop {
                let known = shared.lock().unwrap().waiting_for.clone();
                if let Some(waiting) = known {
                    break waiting.what;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let why = tokio::select! {
            _ = waits => panic!("nobody is there"),
            why = told => why,
        };
        assert!(why.starts_with("the brokers do not answer: "), "{why}");
        assert!(why.contains("Connection refused"), "{why}");
    }

    #[tokio::test]
    async fn brokers_are_counted_where_topics_are_asked_for_and_by_name_elsewhere() {
        let cluster = MockCluster::new(3).unwrap();
        cluster.create_topic("out", 1, 1).unwrap();
        let bootstrap = cluster.bootstrap_servers();
        let one = bootstrap.split(',').next().unwrap();
        for (sink, known) in [("", 1), ("sink = { topic = \"out\" }", 3)] {
            let toml = format!(
                "[kafka]\nbrokers = \"{one}\"\n[registry]\nurl = \"http://r:8081\"\n\
                 [pipelines.p]\nsource = {{ topics = \"t\", group = \"g\" }}\n{sink}\n"
            );
            let (config, _) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
            let (shared, mut jitter) = (Shared::default(), Jitter::new(1));
            let asked = topics(&config, &config.pipelines["p"], &shared, &mut jitter).await;
            assert_eq!(asked.unwrap().1, known, "{sink}");
        }
    }

    #[test]
    fn nobody_but_its_consumer_keeps_a_producer_with_transactions() {
        let outputs = [output(&Metrics::new().unwrap(), Some("id"))];
        let shared = SharedOutput::of(&outputs);
        let producer = outputs[0].producer.clone().unwrap();
        drop(outputs);
        assert!(shared.producer().is_none());
        assert_eq!(Arc::strong_count(&producer), 1);
    }

    #[test]
    fn a_producer_that_is_over_is_replaced_once() {
        let metrics = Metrics::new().unwrap();
        let shared = SharedOutput::of(&[output(&metrics, None)]);
        let get = || {
            let output = shared.get(|| Ok(output(&metrics, None))).unwrap();
            output.show();
            output.producer.unwrap()
        };
        let shown = |producer: &sink::Producer, queued| {
            producer.client().context().stats(Statistics {
                msg_cnt: queued,
                ..Statistics::default()
            });
            metrics.kafka_producer_queue_records.of(["p", "producer"]).get()
        };
        let first = get();
        assert_eq!(shown(&first, 7), 7);
        assert!(Arc::ptr_eq(&first, &get()));
        give_up(&first, RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert!(first.fatal().is_some() && !first.is_withdrawn());
        let second = get();
        assert!(first.is_withdrawn(), "what it still has comes back");
        assert!(first.fatal().unwrap().contains("a test"), "and why is not forgotten");
        assert!(!Arc::ptr_eq(&first, &second) && second.fatal().is_none());
        assert!(Arc::ptr_eq(&second, &get()));
        assert!(Arc::ptr_eq(&second, &shared.producer().unwrap()));
        // Nothing holds the old producer, and its figures are no longer shown.
        assert_eq!(Arc::strong_count(&first), 1);
        assert_eq!(shown(&second, 5), 5);
        assert_ne!(shown(&first, 9), 9);
        second.withdraw();
        assert!(!Arc::ptr_eq(&second, &get()));
    }
}
