//! Renews certificates and password while the store is in use.
//!
//! The driver reads certificates once, when it opens a session, so rotated ones would end the session at its next connections. It asks for the
//! password at each connection; it is renewed together with them, so that a wrong one is noticed at once and not when a connection breaks. Whoever
//! renews certificates sends no signal, and the expiry of the old ones breaks no connection: each node that restarts would be lost, without a failed
//! request as long as another datacenter answers. So the files are checked regularly.
//!
//! A session is opened with the new content of the files and replaces the old one. Requests in flight end on the old one, which is dropped after the
//! last of them. Statements stay valid: they belong to no session, and if a node does not know one, the driver prepares it there again.
//!
//! Invariants: a session is opened only if the files differ from those of the current one, so that an outage is not made worse; the old session is
//! used until the new one is connected and checked.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ::scylla::errors::ExecutionError;
use tokio::sync::watch;

use super::{ScyllaOptions, ScyllaStore, connect};
use crate::certificates;
use crate::retry::{Backoff, Jitter};
use crate::store::{StoreError, classify};

/// Pause before the files are checked when no node can be connected to.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest and longest pause between attempts with files that are not accepted yet: they may have been changed before the server, or one before the other.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

impl ScyllaOptions {
    /// A hash of the current certificates, key and password, for comparison.
    ///
    /// # Errors
    /// What cannot be read, in words.
    pub fn credentials(&self) -> Result<u64, String> {
        let mut hasher = DefaultHasher::new();
        if let Some(password) = &self.password {
            password()?.hash(&mut hasher);
        }
        let files = self.tls.iter().flat_map(|tls| [&tls.ca, &tls.cert, &tls.key]);
        certificates::hash(files.flatten(), &mut hasher)?;
        Ok(hasher.finish())
    }
}

impl ScyllaStore {
    /// Keeps the session's credentials equal to the files. Checks the files at each change of `again`, when no node can be connected to, and, if there are
    /// certificates, at the interval `every`. Returns when `again` can change no more.
    pub async fn keep_credentials(&self, every: Duration, mut again: watch::Receiver<()>) {
        let has_certificates = self.options.tls.is_some();
        loop {
            tokio::select! {
                changed = again.changed() => if changed.is_err() {
                    return;
                },
                () = self.unconnected.notified() => tokio::time::sleep(LOOK).await,
                () = tokio::time::sleep(every), if has_certificates => {}
            }
            self.renew().await;
        }
    }

    async fn renew(&self) {
        let backoff = Backoff::new(AGAIN.0, AGAIN.1, 2.0);
        let mut jitter = Jitter::unique();
        for attempt in 0.. {
            let found = match self.options.credentials() {
                Ok(found) if found == self.credentials.load(Ordering::Relaxed) => return,
                Ok(found) => found,
                Err(error) => {
                    return tracing::warn!(
                        "cannot renew certificates and password of the database: {error}; the old ones stay in use"
                    );
                }
            };
            match connect::connect(&self.options, self.watch.retries()).await {
                Ok(session) => {
                    *self.session.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(session);
                    self.credentials.store(found, Ordering::Relaxed);
                    return tracing::info!(
                        "certificates or password of the database have changed: they were read again, and a new session is in use"
                    );
                }
                Err(error) => tracing::warn!(
                    attempt,
                    "certificates or password of the database have changed, and are refused: {error}; the old session stays in use; trying again"
                ),
            }
            tokio::time::sleep(backoff.delay(attempt, jitter.next_u64())).await;
        }
    }

    /// Classifies a failed execution. If no node can be connected to, the credentials may be the reason, so they are checked.
    pub(super) fn failed(&self, error: &ExecutionError) -> StoreError {
        if let ExecutionError::ConnectionPoolError(_) = error {
            self.unconnected.notify_one();
        }
        classify::execution(error)
    }
}
