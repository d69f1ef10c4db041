//! Where events go: the output topic, and the dead-letter topic.
//!
//! Both use one producer per pipeline. A record handed to it carries its [`Event`] along; the delivery report, which the
//! producer's own thread reads, brings the event back to its consumer loop, so that nothing waits for a delivery and no
//! channel is made per record. The producer is idempotent and never gives up by time: what librdkafka can retry, it does,
//! in order. A report of failure is therefore final or a purge.

pub mod dead_letters;
pub mod limits;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::statistics::Statistics;

use crate::kafka;
use crate::outcome::Outcome;
use crate::pipeline::completions::How;
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::retry::Class;
use crate::telemetry::handles::PipelineMetrics;
use crate::telemetry::kafka::KafkaMetrics;

/// The producer of one pipeline.
pub type Producer = ThreadedProducer<SinkContext>;

/// What the producer's thread needs to bring events back.
pub struct SinkContext {
    metrics: PipelineMetrics,
    statistics: KafkaMetrics,
    ordered: bool,
}

/// The output topic of a pipeline.
#[derive(Clone)]
pub struct Sink {
    producer: Arc<Producer>,
    topic: Arc<str>,
}

/// Creates the producer of one pipeline; `ordered` is whether the order of its events matters.
pub fn producer(
    config: &ClientConfig,
    metrics: PipelineMetrics,
    statistics: KafkaMetrics,
    ordered: bool,
) -> Result<Arc<Producer>, KafkaError> {
    config
        .create_with_context(SinkContext {
            metrics,
            statistics,
            ordered,
        })
        .map(Arc::new)
}

/// Waits until everything handed over has been delivered, or the time is over; how many are still in the queue.
pub fn flush(producer: &Producer, timeout: Duration) -> i32 {
    // A time-out is told by the count.
    let _ = producer.flush(timeout);
    producer.in_flight_count()
}

/// Asks the brokers for a topic; they may make it for that.
pub fn topic_exists(producer: &Producer, topic: &str) -> Result<bool, KafkaError> {
    let metadata = producer.client().fetch_metadata(Some(topic), Duration::from_secs(10))?;
    Ok(metadata
        .topics()
        .iter()
        .any(|t| t.name() == topic && t.error().is_none() && !t.partitions().is_empty()))
}

impl Sink {
    /// Publishes to `topic`.
    pub fn new(producer: Arc<Producer>, topic: &str) -> Sink {
        Sink {
            producer,
            topic: Arc::from(topic),
        }
    }

    /// Hands the event's output to the producer, with its key and headers. On refusal the event comes back.
    pub fn send(&self, mut event: Box<Event>, output: &[u8]) -> Result<(), (Failure, Box<Event>)> {
        let headers = event.headers.take();
        let key = event.output_key.take();
        send(&self.producer, &self.topic, event, key, headers, Some(output))
    }
}

fn send(
    producer: &Producer,
    topic: &str,
    mut event: Box<Event>,
    key: Option<Vec<u8>>,
    headers: Option<OwnedHeaders>,
    value: Option<&[u8]>,
) -> Result<(), (Failure, Box<Event>)> {
    // The producer's queue keeps the order from here on: the lane may go on as soon as the record is in it.
    let lane = event.lane.take();
    let turn = event.turn.take();
    let completions = event.completions();
    event.produced = Some(Instant::now());
    let timestamp = event.origin.timestamp_ms;
    let record = BaseRecord {
        topic,
        partition: None,
        payload: value,
        key: key.as_deref(),
        timestamp,
        headers,
        delivery_opaque: event,
    };
    match producer.send(record) {
        Ok(()) => {
            if let Some(turn) = turn {
                turn.pass();
            }
            if let (Some(completions), Some(lane)) = (completions, lane) {
                completions.release_lane(lane);
            }
            Ok(())
        }
        Err((error, record)) => {
            let (mut event, headers) = (record.delivery_opaque, record.headers);
            event.lane = lane;
            event.turn = turn;
            event.headers = headers;
            event.output_key = key;
            Err((failure(topic, &error), event))
        }
    }
}

fn failure(topic: &str, error: &KafkaError) -> Failure {
    let reason = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => "producer_queue_full",
        _ => "delivery",
    };
    Failure {
        class: kafka::classify(error),
        reason,
        step: None,
        message: format!("topic {topic}: {error}"),
    }
}

impl ClientContext for SinkContext {
    fn stats(&self, statistics: Statistics) {
        self.statistics.observe(&statistics);
    }

    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log(self.metrics.pipeline(), level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::log_error(self.metrics.pipeline(), &error, reason);
    }
}

impl ProducerContext for SinkContext {
    type DeliveryOpaque = Box<Event>;

    fn delivery(&self, result: &DeliveryResult<'_>, mut event: Box<Event>) {
        match result {
            Ok(_) => {
                if let Some(produced) = event.produced {
                    self.metrics.delivery.observe(produced.elapsed().as_secs_f64());
                }
                match (event.pending, &event.failure) {
                    (Outcome::DeadLettered, Some(failure)) => self.metrics.dead_letter(failure.class.as_str()),
                    _ => self.metrics.published.inc(),
                }
                let outcome = event.pending;
                event.complete(How::Finished(outcome));
            }
            Err((error, message)) => {
                let mut failure = failure(message.topic(), error);
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PurgeQueue) {
                    event.complete(How::Abandoned);
                    return;
                }
                if event.pending != Outcome::DeadLettered {
                    if self.ordered && failure.class == Class::Transient {
                        // Records of its key may be in the topic already that came after it. Sending it now would put it behind
                        // them; starting again from the last commit does not.
                        failure.class = Class::Fatal;
                    }
                    event.output.clear();
                    event.output.extend_from_slice(message.payload().unwrap_or_default());
                    event.headers = message.headers().map(rdkafka::message::BorrowedHeaders::detach);
                    event.output_key = message.key().map(<[u8]>::to_vec);
                } else if failure.class == Class::Permanent {
                    // A dead letter that cannot be published has no further place to go.
                    failure.class = Class::Fatal;
                }
                event.complete(How::Undelivered(failure));
            }
        }
    }
}
