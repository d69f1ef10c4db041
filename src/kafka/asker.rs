//! A client that queries the brokers and can say why they do not answer. librdkafka's error only says that there was no answer; its log has the
//! reason.
//!
//! It is a producer that publishes nothing: brokers with automatic topic creation do not create topics for a consumer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};

/// The most reasons to report: each broker has its own reason why it cannot be reached.
const MOST_REASONS: usize = 3;
/// How long to drain log lines that are queued already.
const TAKES: Duration = Duration::from_millis(50);

/// A client for queries.
pub struct Asker {
    config: ClientConfig,
    producer: BaseProducer<Reasons>,
}

impl Asker {
    /// Creates a client with these properties.
    ///
    /// # Errors
    /// What librdkafka rejects about them.
    pub fn new(config: ClientConfig) -> Result<Asker, KafkaError> {
        let producer = config.create_with_context(Reasons::default())?;
        Ok(Asker { config, producer })
    }

    /// The configuration that it was created with.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// The client that sends the queries.
    pub fn client(&self) -> &Client<Reasons> {
        self.producer.client()
    }

    /// Why there was no answer, to be appended to the error.
    pub fn reasons(&self) -> String {
        // Nothing else polls the client's queue.
        self.producer.poll(TAKES);
        self.client().context().told()
    }
}

/// The errors that librdkafka logs while it tries to connect.
#[derive(Clone, Default)]
pub struct Reasons(Arc<Mutex<Vec<String>>>);

impl Reasons {
    /// The distinct reasons, to be appended to an error.
    pub fn told(&self) -> String {
        let reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.iter().map(|reason| format!("; {reason}")).collect()
    }
}

impl ClientContext for Reasons {
    fn log(&self, level: RDKafkaLogLevel, _facility: &str, message: &str) {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The format is `[thrd:…]: …: reason (after 3ms in state …)`. Address and reason are kept, once for each pair.
        let reason = message.split_once("]: ").map_or(message, |(_, rest)| rest);
        let reason = reason.split(" (after ").next().unwrap_or(reason);
        if level as i32 <= RDKafkaLogLevel::Error as i32
            && reasons.len() < MOST_REASONS
            && !reasons.iter().any(|r| r == reason)
        {
            reasons.push(reason.to_owned());
        }
    }

    fn error(&self, _error: KafkaError, _reason: &str) {
        // The log has the same text.
    }
}

impl ConsumerContext for Reasons {}

impl ProducerContext for Reasons {
    type DeliveryOpaque = ();

    fn delivery(&self, _delivered: &DeliveryResult<'_>, _opaque: ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_no_answer_is_told_why() {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1");
        let asker = Asker::new(config).unwrap();
        assert!(asker.client().fetch_metadata(None, Duration::from_secs(3)).is_err());
        let reasons = asker.reasons();
        assert!(
            reasons.starts_with("; ") && reasons.contains("Connection refused"),
            "{reasons}"
        );
    }

    #[test]
    fn a_reason_is_told_once_and_of_few_brokers() {
        let reasons = Reasons::default();
        let say = |level, broker: &str| {
            let line = format!("[thrd:{broker}]: {broker}: refused (after 3ms in state CONNECT)");
            reasons.log(level, "FAIL", &line);
        };
        say(RDKafkaLogLevel::Warning, "w:1");
        for broker in ["a:1", "a:1", "b:1", "c:1", "d:1"] {
            say(RDKafkaLogLevel::Error, broker);
        }
        assert_eq!(reasons.told(), "; a:1: refused; b:1: refused; c:1: refused");
    }
}
