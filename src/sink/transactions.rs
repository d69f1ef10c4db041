//! A producer's transactions: begun, committed with the consumer's offsets, aborted.
//!
//! The calls of librdkafka block, for as long as brokers make them; all of these are made beside the loop. Its errors say themselves what
//! follows: the call again, an abort, or the end. A failure that says nothing is tried again, because both other answers are final.

use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;

use super::Producer;

/// For one call, before it is made again.
const CALL: Duration = Duration::from_secs(10);
/// Between calls that fail at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Why a transaction did not end as it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// It is to be aborted; what was in it runs again.
    #[error("{0}")]
    Abort(String),
    /// The producer cannot go on.
    #[error("{0}")]
    Fatal(String),
    /// The loop has ended, and nobody waits for it.
    #[error("given up")]
    GivenUp,
}

/// Takes the transactional id: what another process of the same id left open is aborted, and that process is fenced.
pub fn init(producer: &Producer, given_up: impl Fn() -> bool) -> Result<(), TransactionError> {
    again(producer, given_up, || producer.init_transactions(CALL))?;
    begin(producer)
}

/// Commits what was sent since the last call, and these offsets with it; then begins the next.
pub fn commit(
    producer: &Producer,
    offsets: Option<(&TopicPartitionList, &ConsumerGroupMetadata)>,
    given_up: impl Fn() -> bool,
) -> Result<(), TransactionError> {
    if let Some((offsets, group)) = offsets {
        again(producer, &given_up, || {
            producer.send_offsets_to_transaction(offsets, group, CALL)
        })?;
    }
    again(producer, given_up, || producer.commit_transaction(CALL))?;
    begin(producer)
}

/// Throws away what was sent since the last commit; then begins the next.
pub fn abort(producer: &Producer, given_up: impl Fn() -> bool) -> Result<(), TransactionError> {
    again(producer, given_up, || producer.abort_transaction(CALL))?;
    begin(producer)
}

fn begin(producer: &Producer) -> Result<(), TransactionError> {
    producer
        .begin_transaction()
        .map_err(|error| TransactionError::Fatal(error.to_string()))
}

/// Calls until it succeeds, or cannot.
fn again(
    producer: &Producer,
    given_up: impl Fn() -> bool,
    call: impl Fn() -> Result<(), KafkaError>,
) -> Result<(), TransactionError> {
    loop {
        let error = match call() {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if let Some(fatal) = producer.fatal() {
            return Err(TransactionError::Fatal(fatal));
        }
        if let KafkaError::Transaction(inner) = &error {
            if inner.is_fatal() {
                return Err(TransactionError::Fatal(error.to_string()));
            }
            if inner.txn_requires_abort() {
                return Err(TransactionError::Abort(error.to_string()));
            }
            if !inner.is_retriable() {
                // An argument or a state that librdkafka refuses: the same call would be refused again.
                return Err(TransactionError::Fatal(error.to_string()));
            }
        }
        if given_up() {
            return Err(TransactionError::GivenUp);
        }
        tracing::debug!(
            pipeline = producer.client().context().pipeline(),
            "transaction: {error}; trying again"
        );
        std::thread::sleep(PAUSE);
    }
}
