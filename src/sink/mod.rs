//! Publishes events to the output topic and the dead-letter topic.
//!
//! Both use one producer per pipeline. A record handed to it carries its [`Event`]; the delivery report, read by the producer's own thread, returns
//! the event to its consumer loop. So nothing waits for a delivery, and no channel is needed per record. The producer is idempotent and has no
//! time-out: librdkafka retries what it can, in order. A reported failure is therefore final, or a purge of a producer that is over or was withdrawn
//! because partitions left with outputs in its queue.

pub mod batches;
pub mod dead_letters;
pub mod letter;
pub mod limits;
pub mod producer;
pub mod transactions;
pub mod turnstile;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::statistics::{self, Statistics};

use batches::{Batches, weight};
pub use producer::Producer;
use turnstile::Turnstile;

use crate::kafka;
use crate::kafka::login::Logins;
use crate::outcome::Outcome;
use crate::pipeline::completions::How;
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::retry::Class;
use crate::telemetry::handles::PipelineMetrics;
use crate::telemetry::kafka::KafkaMetrics;
use crate::telemetry::limit::Limiter;

/// The reason of a refusal by a producer that librdkafka has given up, or that was withdrawn. A new producer would accept the record.
pub const PRODUCER_OVER: &str = "producer_over";

/// The error for a delivery report without an offset: no broker has acknowledged that record. librdkafka infers the delivery because the brokers accepted a
/// later batch of the partition, but the inference can be wrong: a broker that does not know a producer accepts its first batch with any sequence number.
/// If it had refused the batch before, for example because replicas were missing, that batch is lost. Publishing again may duplicate, but loses nothing.
const UNPROVEN: KafkaError = KafkaError::MessageProduction(RDKafkaErrorCode::RequestTimedOut);

/// The record that the brokers acknowledged, or the reason to publish it again. `idempotent`: brokers number the producer's batches, and so return an
/// offset with each delivery.
pub fn acknowledged<'d, 'm>(
    delivered: &'d DeliveryResult<'m>,
    idempotent: bool,
) -> Result<&'d BorrowedMessage<'m>, (&'d KafkaError, &'d BorrowedMessage<'m>)> {
    match delivered {
        Ok(message) if idempotent && message.offset() < 0 => Err((&UNPROVEN, message)),
        Ok(message) => Ok(message),
        Err((error, message)) => Err((error, message)),
    }
}

/// The reason of an output that librdkafka discarded together with its transaction, without being asked to.
pub const PURGED: &str = "purged";

/// The reason of an output that brokers refused because of another record in its batch.
pub const BATCH_MATE: &str = "batch_mate";

/// The reason of a refusal that a retry cannot mend: the event's transaction is over, and so is the event.
pub const OVER: &str = "transaction_over";

/// What the producer's thread needs to bring events back.
pub struct SinkContext {
    metrics: PipelineMetrics,
    statistics: KafkaMetrics,
    /// Whether a loop publishes with this producer. Statistics are not shown before that, because another producer of the same name may be in use.
    shown: AtomicBool,
    /// Why another producer has to take its place, if the reason is not librdkafka's.
    over: OnceLock<String>,
    /// The topics that it publishes to, as of the last statistics report.
    topics: Mutex<HashMap<String, statistics::Topic>>,
    /// Number of statistics reports so far.
    reports: AtomicU64,
    ordered: bool,
    idempotent: bool,
    turnstile: Option<Arc<Turnstile>>,
    batches: Arc<Batches>,
    logins: Logins,
    /// Limits how often an error is logged.
    told: Limiter<String>,
}

impl SinkContext {
    /// Whether the producer has to keep the order of outputs. A transactional one need not: a transaction is discarded as a whole.
    fn keeps_order(&self) -> bool {
        self.ordered && self.turnstile.is_none()
    }
}

/// The output topic of a pipeline.
#[derive(Clone)]
pub struct Sink {
    producer: Arc<Producer>,
    topic: Arc<str>,
    /// The topic takes no record without a key.
    wants_key: bool,
}

/// Creates the producer of one pipeline, or of one of its consumers. `ordered`: the order of its events matters. A transactional producer has a
/// `turnstile`. `batches` holds the limits of its topics.
pub fn producer(
    config: &ClientConfig,
    metrics: PipelineMetrics,
    statistics: KafkaMetrics,
    ordered: bool,
    turnstile: Option<Arc<Turnstile>>,
    batches: Arc<Batches>,
    logins: Logins,
) -> Result<Arc<Producer>, KafkaError> {
    let context = SinkContext {
        metrics,
        statistics,
        shown: AtomicBool::new(false),
        over: OnceLock::new(),
        topics: Mutex::default(),
        reports: AtomicU64::default(),
        ordered,
        idempotent: config.get("enable.idempotence") == Some("true"),
        turnstile,
        batches,
        logins,
        told: Limiter::new(kafka::TOLD_EVERY),
    };
    Producer::start(config, context).map(Arc::new)
}

/// Waits until everything handed over has been delivered, or until the time-out. Returns how many records are still in the queue.
pub fn flush(producer: &Producer, timeout: Duration) -> i32 {
    // The count shows a time-out.
    let _ = producer.flush(timeout);
    producer.in_flight_count()
}

/// Waits until the event's transaction is open, if the producer is transactional. False once the transaction is over, or the event's partition has left:
/// an old output must not follow what the partition's next owner publishes.
async fn may_send(producer: &Producer, event: &Event) -> bool {
    if let Some(turnstile) = &producer.client().context().turnstile
        && !turnstile.come(event.transaction).await
    {
        return false;
    }
    !event.is_abandoned()
}

impl Sink {
    /// Publishes to `topic`.
    pub fn new(producer: Arc<Producer>, topic: &str) -> Sink {
        let wants_key = producer.client().context().batches.wants_key(topic);
        Sink {
            producer,
            topic: Arc::from(topic),
            wants_key,
        }
    }

    /// The output topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Waits until the event may be sent; false if it never may.
    pub async fn may_send(&self, event: &Event) -> bool {
        may_send(&self.producer, event).await
    }

    /// Whether events wait for a transaction.
    pub fn is_transactional(&self) -> bool {
        self.producer.client().context().turnstile.is_some()
    }

    /// Whether the producer has to keep the order of outputs.
    pub fn keeps_order(&self) -> bool {
        self.producer.client().context().keeps_order()
    }

    /// The producer that publishes.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Takes back everything in the producer's queue; another producer has to take its place.
    pub fn withdraw(&self) {
        self.producer.withdraw();
    }

    /// Hands an event's output, with the event's headers, to the producer. On refusal the event comes back.
    pub fn send(
        &self,
        mut event: Box<Event>,
        output: &[u8],
        key: Option<&[u8]>,
        now: Instant,
    ) -> Result<(), (Failure, Box<Event>)> {
        if self.wants_key && key.is_none() {
            let message = format!(
                "topic {}: it is compacted, or was at the start, and takes no record without a key",
                self.topic
            );
            return Err((Failure::permanent("delivery", message), event));
        }
        if self.keeps_order() {
            event.count_output();
            if event.is_abandoned() {
                event.uncount_output();
                return Err((Failure::transient(OVER, "its partition has left"), event));
            }
        }
        let timestamp = event.origin.timestamp_ms;
        let mut headers = event.headers.take();
        // librdkafka replaces such a timestamp by the current time.
        if matches!(timestamp, None | Some(0)) {
            headers = headers.map(letter::without_time_zero);
        }
        let made = Made {
            key,
            headers,
            value: Some(output),
            timestamp,
            now,
        };
        send(&self.producer, &self.topic, event, made).map_err(|(failure, mut event)| {
            event.uncount_output();
            (failure, event)
        })
    }
}

/// A record to publish.
struct Made<'a> {
    key: Option<&'a [u8]>,
    headers: Option<OwnedHeaders>,
    value: Option<&'a [u8]>,
    /// Milliseconds since 1970; `None` is the current time.
    timestamp: Option<i64>,
    now: Instant,
}

fn send(producer: &Producer, topic: &str, mut event: Box<Event>, made: Made<'_>) -> Result<(), (Failure, Box<Event>)> {
    let Made {
        key,
        headers,
        value,
        timestamp,
        now,
    } = made;
    let turnstile = producer.client().context().turnstile.as_deref();
    let pass = turnstile.map(|turnstile| turnstile.pass(event.transaction).filter(|_| !event.is_abandoned()));
    if let Some(None) = pass {
        event.headers = headers;
        return Err((Failure::transient(OVER, "its transaction is over"), event));
    }
    if producer.is_withdrawn() {
        event.headers = headers;
        let why = producer.fatal().unwrap_or_default();
        let message = format!("topic {topic}: the producer was withdrawn: {why}");
        return Err((Failure::fatal(PRODUCER_OVER, message), event));
    }
    // From here on the producer's queue keeps the order, so the lane may go on as soon as the record is queued.
    let lane = event.lane.take();
    let turn = event.turn.take();
    let completions = lane.as_ref().and_then(|_| event.completions());
    event.produced = Some(now);
    let record = BaseRecord {
        topic,
        partition: None,
        payload: value,
        key,
        timestamp,
        headers,
        delivery_opaque: event,
    };
    match producer.send(record) {
        Ok(()) => {
            // Another consumer may have withdrawn the producer before this record was queued.
            if producer.is_withdrawn() {
                producer.withdraw();
            }
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
            let mut failure = failure(topic, &error);
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
                if turnstile.is_some() {
                    // This spoils the transaction; its loop learns why the producer was given up when it aborts.
                    (failure.class, failure.reason) = (Class::Transient, OVER);
                } else {
                    failure.reason = PRODUCER_OVER;
                    if let Some(why) = producer.fatal() {
                        failure.message = format!("topic {topic}: the producer was given up: {why}");
                    }
                }
            }
            Err((failure, event))
        }
    }
}

fn failure(topic: &str, error: &KafkaError) -> Failure {
    let reason = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => "producer_queue_full",
        Some(RDKafkaErrorCode::InvalidDifferentRecord) => BATCH_MATE,
        _ => "delivery",
    };
    Failure::new(kafka::classify(error), reason, format!("topic {topic}: {error}"))
}

impl ClientContext for SinkContext {
    fn stats(&self, statistics: Statistics) {
        if self.shown.load(Ordering::Acquire) {
            self.statistics.observe(&statistics);
        }
        *self.topics.lock().unwrap_or_else(PoisonError::into_inner) = statistics.topics;
        self.reports.fetch_add(1, Ordering::Relaxed);
    }

    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log(self.metrics.pipeline(), level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::log_error(self.metrics.pipeline(), &self.told, &error, reason);
        self.logins.refused(&error);
    }
}

impl ProducerContext for SinkContext {
    type DeliveryOpaque = Box<Event>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, mut event: Box<Event>) {
        match acknowledged(delivered, self.idempotent) {
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
                if delivered.is_ok() {
                    failure.message = format!(
                        "topic {}: no broker said that it was delivered; publishing it again",
                        message.topic()
                    );
                }
                let purged = [RDKafkaErrorCode::PurgeQueue, RDKafkaErrorCode::PurgeInflight];
                if error.rdkafka_error_code().is_some_and(|code| purged.contains(&code)) {
                    // Three cases: librdkafka purges the queue of a producer that it gives up, and that of a transaction that brokers refuse; we purge
                    // that of a producer that is withdrawn.
                    if event.is_abandoned() {
                        event.complete(How::Abandoned);
                    } else if self.turnstile.is_some() {
                        // The transaction runs again as a whole.
                        (failure.class, failure.reason) = (Class::Transient, PURGED);
                        event.complete(How::Undelivered(failure));
                    } else {
                        failure.reason = PRODUCER_OVER;
                        let why = self.over.get().map_or("librdkafka has given it up", String::as_str);
                        failure.message = format!(
                            "topic {}: the producer was given up with this in its queue: {why}",
                            message.topic()
                        );
                        event.complete(How::StartAgain(failure));
                    }
                    return;
                }
                let too_large = [
                    RDKafkaErrorCode::MessageSizeTooLarge,
                    RDKafkaErrorCode::MessageBatchTooLarge,
                ];
                if error.rdkafka_error_code().is_some_and(|code| too_large.contains(&code))
                    && self.batches.would_take(message.topic(), weight(message))
                {
                    // The batch was refused, but by the limit read at the start this record alone would be accepted: a dead letter would be wrong.
                    failure.class = Class::Fatal;
                    failure.message +=
                        "; the topic takes less than at the start (max.message.bytes, segment.bytes): restart";
                }
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::InvalidProducerEpoch) {
                    if self.turnstile.is_none() {
                        // librdkafka (2.12) raises the producer's epoch for each batch that is refused for good. After 32,768 of them the
                        // epoch wraps around, and from then on brokers refuse everything. A new producer has an epoch of its own.
                        let _ = self.over.set(failure.message.clone());
                        failure.reason = PRODUCER_OVER;
                        event.complete(How::StartAgain(failure));
                        return;
                    }
                    // The brokers ended the transaction, by its time-out or because another process took the id. librdkafka gives the producer up, the
                    // loop checks for that, and the record runs again under the consumer that takes over.
                    failure.class = Class::Transient;
                }
                if event.pending != Outcome::DeadLettered {
                    if self.keeps_order() && failure.class == Class::Transient {
                        event.complete(How::StartAgain(failure));
                        return;
                    }
                    event.refused_bytes = message.payload_len();
                    event.headers = message.headers().map(rdkafka::message::BorrowedHeaders::detach);
                } else if failure.class == Class::Permanent {
                    // A dead letter that cannot be published has nowhere else to go.
                    failure.class = Class::Fatal;
                }
                // The producer no longer holds this output. A dead letter that waits must not cause the withdrawal of other events' outputs.
                event.uncount_output();
                event.complete(How::Undelivered(failure));
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
