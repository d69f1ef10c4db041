//! Whether the database still takes a statement that it refused to run.
//!
//! Why: it answers "invalid" to a value that it cannot take and to a statement whose table or column is gone, in words that differ between servers. The
//! first is about one record, the second about all. Invariant: a statement is prepared again once in [`AGAIN`] at most, and who meets a refusal
//! meanwhile waits for what comes of it.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::retry::Class;
use crate::store::{StoreError, no_longer_taken};

/// What was found out holds for so long.
const AGAIN: Duration = Duration::from_secs(5);
/// The driver sets no time limit to a preparation.
const LIMIT: Duration = Duration::from_secs(10);

/// What is known of one statement: when it was asked for, and why it is refused, if it is.
#[derive(Debug, Default)]
pub(super) struct Taken(Mutex<Option<(Instant, Option<StoreError>)>>);

impl Taken {
    /// What an error of the statement means; `prepare` prepares it again.
    pub(super) async fn judge(
        &self,
        error: StoreError,
        prepare: impl Future<Output = Result<(), StoreError>>,
    ) -> StoreError {
        if error.class != Class::Permanent || !matches!(error.label, "invalid" | "syntax") {
            return error;
        }
        let mut known = self.0.lock().await;
        let refused = match known.take().filter(|(since, _)| since.elapsed() < AGAIN) {
            Some((since, refused)) => {
                *known = Some((since, refused.clone()));
                refused
            }
            None => {
                let refused = match timeout(LIMIT, prepare).await {
                    Ok(Err(refused)) if refused.class == Class::Permanent => Some(refused),
                    // Taken, or nobody knows: the record's own, then.
                    Ok(_) | Err(_) => None,
                };
                *known = Some((Instant::now(), refused.clone()));
                refused
            }
        };
        refused.map_or(error, |refused| no_longer_taken(&refused))
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
            taken.judge(invalid(), async {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Err(invalid())
            })
        };
        let (one, other) = tokio::join!(judge(), judge());
        for error in [one, other, judge().await] {
            assert_eq!((error.class, error.label), (Class::Fatal, "invalid"), "{error}");
        }
        assert_eq!(asked.into_inner(), 1);
    }

    #[tokio::test]
    async fn a_refusal_of_one_record_stays_that_and_other_errors_ask_nothing() {
        for prepared in [Ok(()), Err(StoreError::transient("timeout", "no answer"))] {
            let judged = Taken::default().judge(invalid(), async { prepared }).await;
            assert_eq!(judged, invalid());
        }
        for error in [
            StoreError::permanent("value", "not a number"),
            StoreError::transient("timeout", "no answer"),
        ] {
            let taken = Taken::default();
            let class = error.class;
            assert_eq!(taken.judge(error, async { Err(invalid()) }).await.class, class);
            assert!(taken.0.lock().await.is_none());
        }
    }
}
