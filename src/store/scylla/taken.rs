//! Determines whether the database still accepts a statement that it refused to execute.
//!
//! It answers "invalid" both to a value that it cannot accept, which concerns one record, and to a statement whose table or column is gone, which
//! concerns all, with messages that differ between servers. In these cases a refusal is not about the record either:
//! - A column has another type, because its table was dropped and created again: its values cannot be read, or are refused.
//! - Nodes have different schemas: the one that executed the statement may lag, and the statement is prepared where it is accepted.
//! - After an upgrade a server calls the statement by another id, and no longer executes it by the old one. During the upgrade nodes differ, which
//!   passes; once all use the new id, it does not.
//!
//! Invariants: a statement is prepared again at most once in [`AGAIN`], except for messages that name what is gone; refusals in between wait for the
//! result; if the result is unknown, the statement is retried.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::retry::Class;
use crate::store::{StoreError, no_longer_taken};

/// How long a result is valid.
const AGAIN: Duration = Duration::from_secs(5);
/// Time limit of a preparation; the driver sets none.
const LIMIT: Duration = Duration::from_secs(10);

/// Words of Cassandra and ScyllaDB for a table, a column or a keyspace that does not exist.
const GONE: [&str; 5] = [
    "unconfigured table",
    "does not exist",
    "Undefined",
    "Unknown identifier",
    "Unrecognized name",
];

/// What is known about one statement, and since when.
#[derive(Debug, Default)]
pub(super) struct Taken(Mutex<Option<(Instant, Found)>>);

#[derive(Debug, Clone)]
enum Found {
    /// It is accepted under a schema that all nodes have: a refusal is due to the record.
    Taken,
    /// It is refused, with the reason.
    Refused(StoreError),
    /// Nodes have different schemas, or do not say.
    Unsettled,
}

impl Taken {
    /// Interprets an error of the statement. `prepare` prepares it again, and `agree` tells whether all nodes have the same schema.
    pub(super) async fn judge(
        &self,
        error: StoreError,
        prepare: impl Future<Output = Result<(), StoreError>>,
        agree: impl Future<Output = bool>,
    ) -> StoreError {
        let doubtful = match error.class {
            Class::Permanent => matches!(error.label, "invalid" | "syntax" | "value"),
            Class::Transient => error.label == "other_id",
            Class::Fatal => false,
        };
        if !doubtful {
            return error;
        }
        let met = Instant::now();
        let gone = GONE.iter().any(|words| error.message.contains(words));
        let mut known = self.0.lock().await;
        let trusted = |(since, found): &&(Instant, Found)| {
            *since >= met || since.elapsed() < AGAIN && !(gone && matches!(found, Found::Taken))
        };
        let found = match known.as_ref().filter(trusted) {
            Some((_, found)) => found.clone(),
            None => {
                let ask = async {
                    if let Err(refused) = prepare.await
                        && refused.class == Class::Permanent
                    {
                        return Found::Refused(refused);
                    }
                    if agree.await { Found::Taken } else { Found::Unsettled }
                };
                let found = timeout(LIMIT, ask).await.unwrap_or(Found::Unsettled);
                *known = Some((Instant::now(), found.clone()));
                found
            }
        };
        match found {
            Found::Taken => error,
            Found::Refused(refused) => no_longer_taken(&refused),
            Found::Unsettled => {
                let message = format!("{error}: it is retried until all nodes have one schema");
                StoreError {
                    not_applied: error.not_applied,
                    ..StoreError::transient("schema_changing", message)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn invalid() -> StoreError {
        StoreError::permanent("invalid", "unconfigured table")
    }

    #[tokio::test]
    async fn a_statement_that_is_no_longer_taken_is_fatal_for_all_and_asked_for_once() {
        let (taken, asked) = (Taken::default(), AtomicU32::new(0));
        let judge = || {
            let prepare = async {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Err(invalid())
            };
            taken.judge(invalid(), prepare, async { true })
        };
        let (one, other) = tokio::join!(judge(), judge());
        for error in [one, other, judge().await] {
            assert_eq!((error.class, error.label), (Class::Fatal, "invalid"), "{error}");
        }
        assert_eq!(asked.into_inner(), 1);
    }

    #[tokio::test]
    async fn a_refusal_of_one_record_stays_that_and_other_errors_ask_nothing() {
        let unread = StoreError::permanent("value", "8 bytes are not a value of type int");
        for own in [invalid(), unread] {
            for prepared in [Ok(()), Err(StoreError::transient("timeout", "no answer"))] {
                let taken = Taken::default();
                let judged = taken.judge(own.clone(), async { prepared }, async { true }).await;
                assert_eq!(judged, own);
            }
        }
        for error in [
            StoreError::permanent("too_large", "a key of 64 KiB"),
            StoreError::transient("timeout", "no answer"),
        ] {
            let taken = Taken::default();
            let class = error.class;
            let judged = taken.judge(error, async { Err(invalid()) }, async { false }).await;
            assert_eq!(judged.class, class);
            assert!(taken.0.lock().await.is_none());
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_or_is_refused_for_another_type_is_fatal() {
        for own in [
            invalid(),
            StoreError::permanent("value", "8 bytes are not a value of type int"),
        ] {
            let (taken, retyped) = (Taken::default(), StoreError::permanent("columns_changed", "restart"));
            let judged = taken.judge(own, async { Err(retyped) }, async { true }).await;
            assert_eq!(
                (judged.class, judged.label),
                (Class::Fatal, "columns_changed"),
                "{judged}"
            );
        }
    }

    #[tokio::test]
    async fn another_id_passes_unless_all_nodes_have_it() {
        let other = || StoreError::transient("other_id", "prepared statement id changed");
        let mismatch = StoreError::transient("schema_changing", "ids differ");
        for (prepared, class) in [
            (Err(StoreError::permanent("other_id", "restart")), Class::Fatal),
            (Err(mismatch), Class::Transient),
            (Ok(()), Class::Transient),
        ] {
            let taken = Taken::default();
            let judged = taken.judge(other(), async { prepared }, async { true }).await;
            assert_eq!((judged.class, judged.label), (class, "other_id"), "{judged}");
        }
    }

    #[tokio::test]
    async fn a_refusal_while_nodes_have_different_schemas_may_pass() {
        let (taken, asked) = (Taken::default(), AtomicU32::new(0));
        for not_applied in [false, true] {
            let agree = async {
                asked.fetch_add(1, Ordering::Relaxed);
                false
            };
            let refused = StoreError {
                not_applied,
                ..invalid()
            };
            let judged = taken.judge(refused, async { Ok(()) }, agree).await;
            assert_eq!((judged.class, judged.label), (Class::Transient, "schema_changing"));
            assert_eq!(judged.not_applied, not_applied, "what is sure stays so");
            assert!(judged.message.contains("unconfigured table"), "{judged}");
        }
        assert_eq!(asked.into_inner(), 1, "what was found out is kept");
    }

    #[tokio::test]
    async fn words_that_name_what_is_gone_are_not_answered_from_memory() {
        let (taken, asked) = (Taken::default(), AtomicU32::new(0));
        let judge = |error: StoreError, prepared: Result<(), StoreError>| {
            let prepare = async {
                asked.fetch_add(1, Ordering::Relaxed);
                prepared
            };
            taken.judge(error, prepare, async { true })
        };
        let own = || StoreError::permanent("invalid", "Expected 8 or 0 byte long for date (4)");
        for _ in 0..2 {
            assert_eq!(judge(own(), Ok(())).await, own());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(judge(invalid(), Err(invalid())).await.class, Class::Fatal);
        assert_eq!(judge(own(), Ok(())).await.class, Class::Fatal, "for all, from then on");
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }
}
