//! The transactions of a producer: begun, committed with the consumer's offsets, aborted.
//!
//! librdkafka's calls block as long as the brokers take, so all of them are made beside the loop. Their errors tell what follows: repeat the call,
//! abort, use another producer, or end. An error that tells nothing is retried, because all other answers are final. The caller is informed of each
//! failure before a retry (`goes_on`), and may give up.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;

use super::Producer;

/// Time-out of one call; after it the call is repeated.
const CALL: Duration = Duration::from_secs(10);
/// Time-out of the first call of an abort. A call discards what is queued when it begins, and waits for what is in flight. A request in flight behind a
/// refused output is refused because of it; librdkafka (2.12) then queues its records again, and only another call discards those.
const FIRST_ABORT: Duration = Duration::from_secs(1);
/// Pause between calls that fail at once.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause before the abort of a transaction that has just begun; a loaded machine that runs tests needs more.
const SETTLES: Duration = Duration::from_millis(if cfg!(test) { 800 } else { 100 });
/// How long a transaction counts as just begun. Brokers may still be writing the end of the previous one, and then put off the first request for this one;
/// librdkafka (2.12) asks again after 20 ms.
const BEGINNING: Duration = Duration::from_secs(1);

/// Why a transaction did not end as it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// It has to be aborted; its events run again.
    #[error("{0}")]
    Abort(String),
    /// Another producer has to take the transactional id. A commit that ended like this either was not made, or was made before the next producer has the
    /// id. The cases:
    ///
    /// - The brokers have forgotten the transactional id. librdkafka (2.12) never takes it again for a transaction of offsets alone, so after an abort the
    ///   brokers would refuse the next transaction as well.
    /// - The brokers have no transaction open under the id. librdkafka (2.12) asks them to abort a transaction that they have not begun, if its first request
    ///   for it was not answered, or was put off because they took longer than [`abort`] waits to end the last one. It gives the producer up because of
    ///   their answer.
    /// - The producer was withdrawn.
    /// - librdkafka is in the wrong state for the call, for example because it took a response for the end of another call (see
    ///   [`TransactionError::NotBegun`]). Whether a commit was made is settled when another producer takes the id, and the group's offsets show it.
    #[error("{0}")]
    Forgotten(String),
    /// The call succeeded, but the next transaction cannot begin, although nothing is wrong with the producer. If a call takes longer than its first wait,
    /// librdkafka (2.12) can mistake its response for the end of the next call, and not change its state. Another producer does not inherit that.
    #[error("{0}")]
    NotBegun(String),
    /// The transactional id has a newer epoch: brokers aborted the transaction by its time-out, or another process took the id. The brokers do not tell
    /// librdkafka which of the two, and it gives the producer up.
    #[error("{0}")]
    Fenced(String),
    /// The producer cannot continue.
    #[error("{0}")]
    Fatal(String),
    /// The loop has ended, and nobody waits for the call.
    #[error("given up")]
    GivenUp,
}

/// Takes the transactional id. This aborts what another process with the same id left open, and fences that process.
pub fn init(producer: &Producer, goes_on: impl Fn(&str) -> bool) -> Result<(), TransactionError> {
    again(producer, goes_on, || producer.init_transactions(CALL))?;
    begin(producer)
}

/// Commits what was sent since the last call, together with these offsets, then begins the next transaction.
pub fn commit(
    producer: &Producer,
    offsets: Option<(&TopicPartitionList, &ConsumerGroupMetadata)>,
    goes_on: impl Fn(&str) -> bool,
) -> Result<(), TransactionError> {
    if let Some((offsets, group)) = offsets {
        again(producer, &goes_on, || {
            producer.send_offsets_to_transaction(offsets, group, CALL)
        })?;
    }
    again(producer, goes_on, || producer.commit_transaction(CALL))?;
    begin(producer)
}

/// Discards what was sent since the last commit, then begins the next transaction. `opened` is when the previous one ended, if there was one.
pub fn abort(
    producer: &Producer,
    opened: Option<Instant>,
    goes_on: impl Fn(&str) -> bool,
) -> Result<(), TransactionError> {
    // Once an abort has begun, librdkafka does not repeat a request that was put off. It still asks the brokers to abort the transaction, which they do not
    // have, and gives the producer up because of their answer.
    if opened.is_some_and(|opened| opened.elapsed() < BEGINNING) {
        std::thread::sleep(SETTLES);
    }
    let timeout = Cell::new(FIRST_ABORT);
    let call = || past_a_stale_answer(|| producer.abort_transaction(timeout.replace(CALL)));
    // If brokers refuse an abort for a reason that librdkafka does not know, its error asks for an abort: the next call starts over.
    while let Err(error) = again(producer, &goes_on, call) {
        match error {
            TransactionError::Abort(why) if goes_on(&why) => std::thread::sleep(PAUSE),
            TransactionError::Abort(_) => return Err(TransactionError::GivenUp),
            error => return Err(error),
        }
    }
    begin(producer)
}

/// Calls once more if librdkafka says that its state is wrong for the call. This happens if librdkafka's thread is late with an abort, and carries out what
/// both that call and the next one asked for. The second call then mistakes a response to the first for the response to its own next request, does not send
/// that request (2.12), and its last one is refused. The call after that starts with nothing left over.
fn past_a_stale_answer(call: impl Fn() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    match call() {
        Err(KafkaError::Transaction(error))
            if error.code() == RDKafkaErrorCode::State && !error.is_fatal() && !error.is_retriable() =>
        {
            call()
        }
        answer => answer,
    }
}

fn begin(producer: &Producer) -> Result<(), TransactionError> {
    producer.begin_transaction().map_err(|error| {
        given_up(producer)
            .unwrap_or_else(|| TransactionError::NotBegun(format!("no transaction can be begun: {error}")))
    })
}

/// Why librdkafka gave the producer up, if it did.
pub fn given_up(producer: &Producer) -> Option<TransactionError> {
    let why = producer.fatal()?;
    Some(if producer.is_fenced() {
        TransactionError::Fenced(why)
    } else if producer.has_nothing_open() {
        TransactionError::Forgotten(format!("brokers have no transaction of this producer: {why}"))
    } else if producer.is_withdrawn() {
        TransactionError::Forgotten(why)
    } else {
        TransactionError::Fatal(why)
    })
}

/// Repeats the call until it succeeds or cannot succeed.
fn again(
    producer: &Producer,
    goes_on: impl Fn(&str) -> bool,
    call: impl Fn() -> Result<(), KafkaError>,
) -> Result<(), TransactionError> {
    loop {
        let error = match call() {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if let Some(fatal) = given_up(producer) {
            return Err(fatal);
        }
        if let KafkaError::Transaction(inner) = &error {
            if inner.is_fatal() {
                return Err(TransactionError::Fatal(error.to_string()));
            }
            if inner.code() == RDKafkaErrorCode::InvalidProducerIdMapping {
                return Err(TransactionError::Forgotten(format!(
                    "brokers have forgotten the transactional id: {error}"
                )));
            }
            if inner.txn_requires_abort() {
                return Err(TransactionError::Abort(error.to_string()));
            }
            // librdkafka refuses an argument or its state, and would refuse the same call again. Another producer is in another state.
            if !inner.is_retriable() {
                return Err(match inner.code() {
                    RDKafkaErrorCode::State => {
                        TransactionError::Forgotten(format!("the producer cannot go on with its transaction: {error}"))
                    }
                    _ => TransactionError::Fatal(error.to_string()),
                });
            }
        }
        if !goes_on(&error.to_string()) {
            return Err(TransactionError::GivenUp);
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use rdkafka::ClientConfig;
    use rdkafka::types::RDKafkaRespErr;

    use super::*;
    use crate::sink::tests::{alone, give_up, made_with};
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn who_waits_is_told_of_each_failure_and_may_give_up() {
        let producer = alone();
        let (calls, told) = (Cell::new(0), RefCell::new(Vec::new()));
        let call = || {
            calls.set(calls.get() + 1);
            if calls.get() < 3 {
                Err(KafkaError::AdminOpCreation(format!("no answer {}", calls.get())))
            } else {
                Ok(())
            }
        };
        let tell = |error: &str| told.borrow_mut().push(error.to_owned());
        let goes_on = |error: &str| {
            tell(error);
            true
        };
        assert_eq!(again(&producer, goes_on, call), Ok(()));
        assert_eq!(told.borrow().len(), 2);
        for (one, words) in told.take().iter().zip(["no answer 1", "no answer 2"]) {
            assert!(one.contains(words), "{one}");
        }

        calls.set(0);
        let gives_up = |error: &str| {
            tell(error);
            false
        };
        assert_eq!(again(&producer, gives_up, call), Err(TransactionError::GivenUp));
        assert_eq!((calls.get(), told.borrow().len()), (1, 1));
    }

    #[test]
    fn an_abort_that_is_refused_for_the_state_is_called_once_more() {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1");
        config.set("transactional.id", "p-0");
        let producer = made_with(config, &Metrics::new().unwrap(), true);
        let calls = Cell::new(0);
        let refused_until = |enough: u32| {
            calls.set(0);
            past_a_stale_answer(|| {
                calls.set(calls.get() + 1);
                if calls.get() < enough {
                    // No transaction has begun.
                    producer.abort_transaction(CALL)
                } else {
                    Ok(())
                }
            })
        };
        assert_eq!((refused_until(2), calls.get()), (Ok(()), 2));
        let refused = refused_until(u32::MAX).unwrap_err();
        assert_eq!(
            (refused.rdkafka_error_code(), calls.get()),
            (Some(RDKafkaErrorCode::State), 2)
        );
    }

    #[test]
    fn a_producer_that_cannot_go_on_though_nothing_is_wrong_with_it_makes_way() {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1");
        config.set("transactional.id", "p-0");
        let producer = made_with(config, &Metrics::new().unwrap(), true);
        // The producer has not taken its id.
        let refused = begin(&producer);
        assert!(matches!(refused, Err(TransactionError::NotBegun(_))), "{refused:?}");
        // So there is nothing to commit or to abort either.
        for refused in [commit(&producer, None, |_| true), abort(&producer, None, |_| true)] {
            assert!(matches!(refused, Err(TransactionError::Forgotten(_))), "{refused:?}");
        }
        assert_eq!(given_up(&producer), None);
    }

    #[test]
    fn what_passes_is_told_from_what_else_librdkafka_gives_a_producer_up_for() {
        for (error, fenced, forgotten) in [
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR__FENCED, true, false),
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, false, true),
            (
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
                false,
                false,
            ),
        ] {
            let producer = alone();
            assert_eq!(given_up(&producer), None);
            give_up(&producer, error);
            let call = || Err(KafkaError::AdminOpCreation("no answer".to_owned()));
            for result in [again(&producer, |_| true, call), begin(&producer)] {
                match result {
                    Err(TransactionError::Fenced(_)) => assert!(fenced),
                    Err(TransactionError::Forgotten(_)) => assert!(forgotten),
                    Err(TransactionError::Fatal(_)) => assert!(!fenced && !forgotten),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}
