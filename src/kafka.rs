//! What consumers and producers share in their use of librdkafka: properties, error classes, log lines.

pub mod asker;
pub mod epoch;
pub mod headers;
pub mod login;
pub mod low;
pub mod member;
pub mod metadata;
pub mod range;
pub mod rights;

use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::config::{Assignor, GroupProtocol, Kafka, Pipeline, Property, SecretError, real_name};
use crate::retry::Class;
use crate::telemetry::limit::Limiter;

/// The error class, which decides the policy, of an error from librdkafka.
pub fn classify(error: &KafkaError) -> Class {
    match error.rdkafka_error_code() {
        Some(code) => classify_code(code),
        // Errors of the binding itself: librdkafka refuses a property or a string, or cannot create a client.
        None => Class::Fatal,
    }
}

fn classify_code(code: Code) -> Class {
    match code {
        // The record itself is rejected.
        Code::MessageSizeTooLarge
        // The batch is larger than a segment of the topic.
        | Code::MessageBatchTooLarge
        | Code::InvalidMessage
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTimestamp => Class::Permanent,
        // The client is unusable from here on.
        Code::Fatal
        | Code::Fenced
        | Code::ProducerFenced
        | Code::InvalidProducerEpoch
        | Code::TransactionalIdAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::UnsupportedVersion
        | Code::UnsupportedForMessageFormat
        | Code::InvalidArgument => Class::Fatal,
        // Brokers, leaders, topics and permissions come back, and the queue gets room again. If a batch is rejected
        // because of another record in it (`InvalidDifferentRecord`), the broker would accept this record in a batch of
        // its own.
        _ => Class::Transient,
    }
}

/// Properties that set which authorities are trusted.
const TRUSTED: [&str; 3] = ["ssl.ca.location", "ssl.ca.pem", "ssl.ca.certificate.stores"];

/// Whether a property says where the brokers are, who the client is, or whom it trusts.
pub fn is_identity(name: &str) -> bool {
    let starts = [
        "bootstrap.",
        "security.",
        "sasl.",
        "ssl.",
        "https.",
        "enable.sasl.",
        "enable.ssl.",
    ];
    starts.iter().any(|start| name.starts_with(start))
}

/// The system's certificate authorities: a file or a directory. librdkafka would leave this to OpenSSL, and an OpenSSL built from source looks in
/// a directory where nobody has put any.
fn system_authorities() -> Option<String> {
    let found = openssl_probe::probe();
    let place = found.cert_file.or_else(|| found.cert_dir.into_iter().next())?;
    place.into_os_string().into_string().ok()
}

/// Properties of every client, under librdkafka's own names; later ones win. Aliases are resolved because librdkafka would apply two aliases of one
/// property in no defined order.
pub fn client(kafka: &Kafka, kind: &[Property], pipeline: &[Property]) -> Result<ClientConfig, SecretError> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.brokers.as_str());
    config.set("client.id", "messina");
    config.set("log.connection.close", "false");
    for property in kafka.properties.iter().chain(kind).chain(pipeline) {
        config.set(real_name(property.name.as_str()), property.value.reveal()?);
    }
    let tls = config
        .get("security.protocol")
        .is_some_and(|protocol| protocol.to_ascii_lowercase().ends_with("ssl"));
    if tls
        && TRUSTED.iter().all(|property| config.get(property).is_none())
        && let Some(authorities) = system_authorities()
    {
        config.set("ssl.ca.location", authorities);
    }
    // librdkafka emits its `debug` lines only at that log level.
    let debug = config.get("debug").is_some();
    config.set_log_level(if debug {
        RDKafkaLogLevel::Debug
    } else {
        RDKafkaLogLevel::Info
    });
    Ok(config)
}

/// A consumer for commands, which reads assigned partitions. librdkafka requires a group id before it assigns partitions. The consumer
/// never joins the group, and only the caller commits to it.
pub fn reader(kafka: &Kafka, pipeline: &[Property], group: &str) -> Result<ClientConfig, SecretError> {
    let mut config = client(kafka, &kafka.consumer_properties, pipeline)?;
    config.set("group.id", group);
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    // If retention has removed the wanted offset, the records that are still there must not be skipped.
    config.set("auto.offset.reset", "earliest");
    Ok(config)
}

/// The most that a consumer prefetches, in bytes: 70 ms at 200,000 records/s of 600 bytes. Eight times as much took 70 MB more memory and was no faster.
const PREFETCHED: usize = 8 * 1024 * 1024;

/// librdkafka's default of `transaction.timeout.ms`.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// librdkafka's default of `message.max.bytes`.
const MESSAGE_BYTES: usize = 1_000_000;

/// The number of broker addresses in the configuration.
pub fn named(kafka: &Kafka) -> usize {
    kafka.brokers.split(',').count()
}

/// The interval between statistics reports. librdkafka queues them without a bound if nobody polls the client, so only clients whose statistics are
/// exported have one.
const REPORT_MS: &str = "1000";

/// The consumer of a pipeline. `queue_bytes` bounds what librdkafka prefetches from all `brokers` together.
pub fn consumer(
    kafka: &Kafka,
    pipeline: &Pipeline,
    number: usize,
    queue_bytes: usize,
    brokers: usize,
) -> Result<ClientConfig, SecretError> {
    let source = &pipeline.source;
    let mut config = client(kafka, &kafka.consumer_properties, &source.properties)?;
    config.set("statistics.interval.ms", REPORT_MS);
    let queue = queue_bytes.min(PREFETCHED);
    // The response that fills the queue may exceed the queue's bound, and is several times as large once decompressed. The brokers do not know of
    // each other, so each may send one more response. A batch that is larger than the limit is still sent, alone.
    let answers = (queue / 4).clamp(MESSAGE_BYTES, 2 * 1024 * 1024);
    let own = |name: &str| config.get(name).and_then(|bytes| bytes.parse::<usize>().ok());
    let most = own("receive.message.max.bytes").map_or(usize::MAX, |most| most.saturating_sub(512));
    // Not every broker leads partitions of the topic.
    let least = (queue / 64).clamp(64 * 1024, 128 * 1024);
    let answer = (answers / brokers.max(1)).max(least).min(most);
    // librdkafka creates no consumer whose `fetch.max.bytes` is below `message.max.bytes`, and what users set must be valid whatever the number of
    // brokers is today. For a consumer, `message.max.bytes` bounds only the first guess at the decompressed size of an LZ4 batch.
    let fetched = own("fetch.max.bytes").unwrap_or(answer);
    let largest = own("message.max.bytes").unwrap_or_else(|| fetched.min(answer).clamp(1000, MESSAGE_BYTES));
    let mut default = |name: &str, value: &str| {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    };
    default("message.max.bytes", &largest.to_string());
    default("queued.max.messages.kbytes", &(queue / 1024).max(1).to_string());
    default("queued.min.messages", "20000");
    default("fetch.max.bytes", &answer.max(largest).to_string());
    default(
        "fetch.message.max.bytes",
        &(queue / 32).clamp(64 * 1024, 1024 * 1024).to_string(),
    );
    default("fetch.wait.max.ms", "100");
    // How long a full queue delays the next fetch. librdkafka's default of one second is an idle second for a fast
    // pipeline.
    default("fetch.queue.backoff.ms", "20");
    default("enable.partition.eof", "false");
    config.set("group.id", source.group.as_str());
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    // Where a group starts is set when its partitions are assigned. This applies to an offset that the log no longer has: what is left must not be
    // skipped.
    config.set("auto.offset.reset", "earliest");
    match source.group_protocol {
        GroupProtocol::Classic => {
            config.set("group.protocol", "classic");
            config.set(
                "partition.assignment.strategy",
                match source.assignor {
                    Assignor::CooperativeSticky => "cooperative-sticky",
                    Assignor::Range => "range",
                    Assignor::RoundRobin => "roundrobin",
                },
            );
        }
        GroupProtocol::Consumer => {
            config.set("group.protocol", "consumer");
        }
    }
    if let Some(id) = instance(pipeline, number) {
        config.set("group.instance.id", id);
    }
    Ok(config)
}

/// The `group.instance.id` of the pipeline's consumer with this number, if it has one.
///
/// Under the classic protocol the id ends in a digest of the topics. Brokers give a returning static member its previous partitions, whatever it
/// subscribes to now (KAFKA-12759). So with other topics it must return as another member. The other protocol compares the topics.
pub fn instance(pipeline: &Pipeline, number: usize) -> Option<String> {
    let id = configured_instance(pipeline, number)?;
    Some(match pipeline.source.group_protocol {
        GroupProtocol::Classic => {
            let mut topics: Vec<&str> = pipeline.source.topics.iter().map(|topic| topic.as_str()).collect();
            topics.sort_unstable();
            let [a, b, c, d, ..] = openssl::sha::sha256(topics.join("\n").as_bytes());
            format!("{id}-{:08x}", u32::from_be_bytes([a, b, c, d]))
        }
        GroupProtocol::Consumer => id,
    })
}

/// The configured part of the id. If there are several consumers, their number is appended.
pub fn configured_instance(pipeline: &Pipeline, number: usize) -> Option<String> {
    let id = &pipeline.source.instance_id.as_ref()?.value;
    Some(match *pipeline.consumers > 1 {
        true => format!("{id}-{number}"),
        false => id.clone(),
    })
}

/// librdkafka's default of `batch.size`.
const BATCH_BYTES: usize = 1_000_000;

/// A batch size that topics accept: the default of Java's producer, and few topics have a lower limit. A larger record is sent as a batch of its own.
pub const SMALL_BATCH: usize = 16 << 10;

/// How large a producer's batches may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchBytes {
    /// The upper limit, even if users set more.
    pub most: usize,
    /// The size if users have not set `batch.size`.
    pub unset: usize,
}

impl Default for BatchBytes {
    /// librdkafka's own default.
    fn default() -> BatchBytes {
        BatchBytes {
            most: usize::MAX,
            unset: BATCH_BYTES,
        }
    }
}

/// The producer of a pipeline. `queue_bytes` bounds the undelivered records that librdkafka holds, and `batch` the size of a batch. A `transactional_id`
/// makes it transactional.
pub fn producer(
    kafka: &Kafka,
    pipeline: &[Property],
    queue_bytes: usize,
    batch: BatchBytes,
    transactional_id: Option<&str>,
) -> Result<ClientConfig, SecretError> {
    let mut config = client(kafka, &kafka.producer_properties, pipeline)?;
    config.set("statistics.interval.ms", REPORT_MS);
    let own = |name: &str| config.get(name).and_then(|number| number.parse::<usize>().ok());
    // The brokers and the budget decide which record is too large. But a record that can never fit into the queue would
    // be retried for ever.
    let room = own("queue.buffering.max.kbytes").map_or(usize::MAX, |kbytes| kbytes.saturating_mul(1024));
    let largest = own("message.max.bytes").unwrap_or(queue_bytes.clamp(1 << 20, 100 << 20).min(room));
    let mut default = |name: &str, value: &str| {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    };
    default("enable.idempotence", "true");
    default("request.required.acks", "all");
    default("compression.codec", "lz4");
    // 5 ms, the usual default, adds 5 ms to each record at low rates and saves nothing at high rates
    // (docs/benchmarks.md).
    default("queue.buffering.max.ms", "1");
    // Java's partitioner, so that Java and Messina send a key to the same partition.
    default("partitioner", "murmur2_random");
    match transactional_id {
        // Retriable errors are retried without a limit: 0 means none.
        None => default("message.timeout.ms", "0"),
        // A record cannot take longer than its transaction; librdkafka enforces that.
        Some(id) => default("transactional.id", id),
    }
    default("message.max.bytes", &largest.to_string());
    default(
        "queue.buffering.max.kbytes",
        &(queue_bytes.max(largest) / 1024 + 1).to_string(),
    );
    default("sticky.partitioning.linger.ms", "10");
    let wanted: Option<usize> = config.get("batch.size").and_then(|bytes| bytes.parse().ok());
    let size = batch.most.min(wanted.unwrap_or(batch.unset));
    if size < wanted.unwrap_or(BATCH_BYTES) {
        config.set("batch.size", size.to_string());
    }
    Ok(config)
}

/// Logs a line of librdkafka's own log.
pub fn log(pipeline: &str, level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::error!(pipeline, facility, "librdkafka: {message}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(pipeline, facility, "librdkafka: {message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(pipeline, facility, "librdkafka: {message}"),
        RDKafkaLogLevel::Debug => tracing::debug!(pipeline, facility, "librdkafka: {message}"),
    }
}

/// The shortest time between two log lines about the same error.
pub const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Logs an error that librdkafka reports outside of any call: mostly a broker that went away, to which it reconnects by itself. The error of a partition
/// is reported with each of its fetches, twice a second, so `told` limits how often each reason is logged.
pub fn log_error(pipeline: &str, told: &Limiter<String>, error: &KafkaError, reason: &str) {
    let Some(suppressed) = told.admit(reason.to_owned(), Instant::now()) else {
        return;
    };
    if is_grave(error) {
        tracing::error!(pipeline, suppressed, "librdkafka: {error}: {reason}");
    } else {
        tracing::warn!(pipeline, suppressed, "librdkafka: {error}: {reason}");
    }
}

/// Whether the error will not pass by itself. If librdkafka cannot start the thread of a broker, the partitions of that broker
/// stand still.
fn is_grave(error: &KafkaError) -> bool {
    classify(error) == Class::Fatal || error.rdkafka_error_code() == Some(Code::CriticalSystemResource)
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    #[test]
    fn without_a_file_the_authorities_of_the_system_are_trusted() {
        let trusted = |properties: &str| {
            let toml = format!(
                "[kafka]\nbrokers = \"k:9093\"\nproperties = {{ {properties} }}\n[registry]\nurl = \"http://r:8081\"\n"
            );
            let (config, _) = crate::config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
            let client = client(&config.kafka, &[], &[]).unwrap();
            client.get("ssl.ca.location").map(str::to_owned)
        };
        assert_eq!(trusted("\"security.protocol\" = \"SASL_SSL\""), system_authorities());
        assert_eq!(trusted("\"security.protocol\" = \"sasl_plaintext\""), None);
        let own = trusted("\"security.protocol\" = \"ssl\", \"ssl.ca.location\" = \"/ca.pem\"");
        assert_eq!(own.as_deref(), Some("/ca.pem"));
        assert_eq!(trusted("\"security.protocol\" = \"ssl\", \"ssl.ca.pem\" = \"x\""), None);
    }

    /// A configuration with one pipeline, and these properties for all clients.
    fn config_with(properties: &str) -> crate::config::Config {
        let toml = format!(
            "[kafka]\nbrokers = \"127.0.0.1:1,127.0.0.1:2\"\nproperties = {{ {properties} }}\n[registry]\nurl = \"http://r:8081\"\n\
             [pipelines.p.source]\ntopics = \"t\"\ngroup = \"g\"\n"
        );
        crate::config::load_str(vec![("t.toml".into(), toml)], std::iter::empty())
            .unwrap()
            .0
    }

    #[test]
    fn a_consumer_is_made_of_any_share_and_of_any_largest_message() {
        for (queue, properties) in [
            (1 << 20, ""),
            (8 << 20, "\"message.max.bytes\" = 10000000"),
            (64 << 10, "\"message.max.bytes\" = 1000"),
            // Whatever the number of brokers is today.
            (8 << 20, "\"fetch.max.bytes\" = 800000"),
            (8 << 20, "\"receive.message.max.bytes\" = 1000000"),
        ] {
            let config = config_with(properties);
            for brokers in [1, 3, 100] {
                let consumer = consumer(&config.kafka, &config.pipelines["p"], 0, queue, brokers).unwrap();
                let made: Result<BaseConsumer, KafkaError> = consumer.create();
                assert!(made.is_ok(), "{queue} {brokers} {properties}: {:?}", made.err());
            }
        }
    }

    #[test]
    fn the_answers_of_all_brokers_together_are_as_large_as_that_of_one() {
        const MIB: usize = 1 << 20;
        let numbers = |properties: &str, queue: usize, brokers: usize| {
            let config = config_with(properties);
            assert_eq!(named(&config.kafka), 2);
            let consumer = consumer(&config.kafka, &config.pipelines["p"], 0, queue, brokers).unwrap();
            let number = |name: &str| consumer.get(name).unwrap().parse::<usize>().unwrap();
            (number("fetch.max.bytes"), number("message.max.bytes"))
        };
        for brokers in [0, 1] {
            assert_eq!(numbers("", 64 * MIB, brokers), (2 * MIB, MESSAGE_BYTES));
            assert_eq!(numbers("", MIB, brokers), (MESSAGE_BYTES, MESSAGE_BYTES));
        }
        assert_eq!(numbers("", 8 * MIB, 2), (MIB, MESSAGE_BYTES));
        assert_eq!(numbers("", 8 * MIB, 16), (MIB / 8, MIB / 8));
        assert_eq!(numbers("", MIB, 100), (64 << 10, 64 << 10));
        let own = "\"message.max.bytes\" = 300000";
        assert_eq!(numbers(own, 8 * MIB, 16), (300_000, 300_000));
        let own = "\"fetch.max.bytes\" = 5000000";
        assert_eq!(numbers(own, 8 * MIB, 16), (5_000_000, MIB / 8));
    }

    #[test]
    fn only_clients_that_are_polled_report() {
        let config = config_with("");
        let kafka = &config.kafka;
        let every = |client: Result<ClientConfig, SecretError>| {
            client.unwrap().get("statistics.interval.ms").map(str::to_owned)
        };
        // librdkafka's default is no reports.
        assert_eq!(every(client(kafka, &kafka.producer_properties, &[])), None);
        assert_eq!(every(reader(kafka, &[], "g")), None);
        let reports = Some(REPORT_MS.to_owned());
        assert_eq!(every(consumer(kafka, &config.pipelines["p"], 0, 1 << 20, 1)), reports);
        assert_eq!(
            every(producer(kafka, &[], 1 << 20, BatchBytes::default(), None)),
            reports
        );
    }

    #[test]
    fn a_command_skips_nothing_where_retention_has_overtaken_it() {
        let config = config_with("");
        let reader = reader(&config.kafka, &[], "g").unwrap();
        assert_eq!(reader.get("auto.offset.reset"), Some("earliest"));
    }

    #[test]
    fn a_property_has_one_value_whichever_of_its_names_it_has() {
        let toml = "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r:8081\"\n\
                    [kafka.properties]\n\"linger.ms\" = 1000\n\"fetch.message.max.bytes\" = 1000\n\"sasl.mechanisms\" = \"PLAIN\"\n\
                    [pipelines.p]\nsource = { topics = \"t\", group = \"g\", properties = { \"max.partition.fetch.bytes\" = 2000 } }\n\
                    [pipelines.p.sink]\ntopic = \"o\"\n[pipelines.p.sink.properties]\n\"queue.buffering.max.ms\" = 7\n\"acks\" = \"-1\"\n\
                    \"compression.type\" = \"zstd\"\n\"delivery.timeout.ms\" = 9000\n\"sasl.mechanism\" = \"SCRAM-SHA-256\"\n";
        let (config, _) = crate::config::load_str(vec![("t.toml".into(), toml.into())], std::iter::empty()).unwrap();
        let pipeline = &config.pipelines["p"];
        let consumer = consumer(&config.kafka, pipeline, 0, 1 << 20, 1).unwrap();
        let sink = pipeline.sink.as_ref().unwrap();
        let producer = producer(&config.kafka, &sink.properties, 1 << 20, BatchBytes::default(), None).unwrap();
        for (client, name, real, value) in [
            (
                &consumer,
                "max.partition.fetch.bytes",
                "fetch.message.max.bytes",
                "2000",
            ),
            (&consumer, "sasl.mechanism", "sasl.mechanisms", "PLAIN"),
            (&producer, "linger.ms", "queue.buffering.max.ms", "7"),
            (&producer, "acks", "request.required.acks", "-1"),
            (&producer, "compression.type", "compression.codec", "zstd"),
            (&producer, "delivery.timeout.ms", "message.timeout.ms", "9000"),
            (&producer, "sasl.mechanism", "sasl.mechanisms", "SCRAM-SHA-256"),
        ] {
            assert_eq!((client.get(name), client.get(real)), (None, Some(value)), "{name}");
        }
    }

    #[test]
    fn with_other_topics_a_static_member_is_another_one_where_brokers_do_not_look_at_them() {
        let named = |topics: &str, more: &str, consumers: usize| {
            let toml = format!(
                "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r:8081\"\n[pipelines.p]\nconsumers = {consumers}\n\
                 [pipelines.p.source]\ntopics = {topics}\ngroup = \"g\"\n{more}\n"
            );
            let (config, _) = crate::config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
            let consumer = consumer(&config.kafka, &config.pipelines["p"], consumers - 1, 1 << 20, 1).unwrap();
            consumer.get("group.instance.id").map(str::to_owned)
        };
        let fixed = "instance_id = \"pod-0\"";
        let both = named("[\"a\", \"b\"]", fixed, 1).unwrap();
        let digest = both.strip_prefix("pod-0-").unwrap();
        assert!(
            digest.len() == 8 && digest.bytes().all(|b| b.is_ascii_hexdigit()),
            "{both}"
        );
        assert_eq!(named("[\"b\", \"a\"]", fixed, 1), Some(both.clone()));
        assert_eq!(named("[\"a\", \"b\"]", fixed, 3), Some(format!("pod-0-2-{digest}")));
        for other in ["[\"a\"]", "[\"ab\"]", "[\"a\", \"b\", \"c\"]"] {
            assert_ne!(named(other, fixed, 1), Some(both.clone()), "{other}");
        }
        let by_the_brokers = format!("{fixed}\ngroup_protocol = \"consumer\"");
        assert_eq!(named("[\"a\"]", &by_the_brokers, 1).as_deref(), Some("pod-0"));
        assert_eq!(named("[\"a\"]", &by_the_brokers, 2).as_deref(), Some("pod-0-1"));
        assert_eq!(named("[\"a\"]", "", 1), None);
    }

    #[test]
    fn the_largest_record_has_room_in_the_queue() {
        let toml = "[kafka]\nbrokers = \"k:1\"\nproperties = { \"message.max.bytes\" = 200000000 }\n[registry]\nurl = \"http://r:8081\"\n";
        let (config, _) = crate::config::load_str(vec![("t.toml".into(), toml.into())], std::iter::empty()).unwrap();
        let producer = producer(&config.kafka, &[], 1 << 20, BatchBytes::default(), None).unwrap();
        let room: usize = producer.get("queue.buffering.max.kbytes").unwrap().parse().unwrap();
        assert!(room * 1024 > 200_000_000, "{room}");
    }

    /// Such a record would be refused for lack of room at every attempt, and never for its size.
    #[test]
    fn no_record_is_larger_than_a_queue_that_users_have_made_small() {
        let largest = |properties: &str| {
            let config = config_with(properties);
            let producer = producer(&config.kafka, &[], 64 << 20, BatchBytes::default(), None).unwrap();
            producer.get("message.max.bytes").unwrap().parse::<usize>().unwrap()
        };
        assert_eq!(largest("\"queue.buffering.max.kbytes\" = 500"), 500 << 10);
        assert_eq!(largest("\"queue.buffering.max.kbytes\" = 2000000"), 64 << 20);
        assert_eq!(largest(""), 64 << 20);
    }

    #[test]
    fn an_error_that_comes_again_and_again_is_logged_once() {
        use tracing_subscriber::layer::SubscriberExt;

        let (kept, told) = (
            crate::telemetry::breadcrumbs::Breadcrumbs::default(),
            Limiter::new(TOLD_EVERY),
        );
        let error = KafkaError::Global(Code::Unknown);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(kept.clone()), || {
            for _ in 0..10 {
                log_error("p", &told, &error, "Fetch from broker 1 failed: in [0]");
            }
            log_error("p", &told, &error, "Fetch from broker 1 failed: in [1]");
        });
        assert_eq!(kept.last(Some("p")).len(), 2);
    }

    #[test]
    fn errors_have_classes() {
        assert_eq!(classify_code(Code::MessageSizeTooLarge), Class::Permanent);
        assert_eq!(classify_code(Code::MessageBatchTooLarge), Class::Permanent);
        assert_eq!(classify_code(Code::BrokerTransportFailure), Class::Transient);
        assert_eq!(classify_code(Code::QueueFull), Class::Transient);
        assert_eq!(classify_code(Code::InvalidRecord), Class::Permanent);
        assert_eq!(classify_code(Code::InvalidTimestamp), Class::Permanent);
        assert_eq!(classify_code(Code::InvalidMessageSize), Class::Permanent);
        assert_eq!(classify_code(Code::InvalidDifferentRecord), Class::Transient);
        assert_eq!(classify_code(Code::Fenced), Class::Fatal);
        assert_eq!(classify_code(Code::ProducerFenced), Class::Fatal);
        assert_eq!(classify_code(Code::InvalidProducerEpoch), Class::Fatal);
        assert_eq!(classify(&KafkaError::Canceled), Class::Fatal);
        let is_grave = |code| is_grave(&KafkaError::Global(code));
        assert!(is_grave(Code::Fatal) && is_grave(Code::CriticalSystemResource));
        assert!(!is_grave(Code::BrokerTransportFailure));
    }
}
