//! Decides which transaction may send.
//!
//! Under `exactly_once` every event belongs to the transaction that was open, or next to be opened, when it was taken in. Its look-ups and writes do
//! not wait for that transaction; its output does. So the I/O of the next transaction continues while this one is committed.
//!
//! Invariants: while a transaction is not open, none of its outputs is handed to the producer; once it is over, none ever is. Handing over happens
//! under [`Turnstile::pass`], so that a transaction cannot end between the check and the hand-over.

use std::cmp::Ordering;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

/// The open transaction of one producer, by number; numbers grow.
#[derive(Debug, Default)]
pub struct Turnstile {
    open: RwLock<u64>,
    changed: Notify,
}

impl Turnstile {
    /// Opens this transaction; all earlier ones are over.
    pub fn open(&self, transaction: u64) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = transaction;
        self.changed.notify_waiters();
    }

    /// Waits until this transaction is open; false once it is over.
    pub async fn come(&self, transaction: u64) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the check, so no change is missed.
            changed.as_mut().enable();
            let open = *self.read();
            match transaction.cmp(&open) {
                Ordering::Less => return false,
                Ordering::Equal => return true,
                Ordering::Greater => changed.await,
            }
        }
    }

    /// Keeps this transaction open until the guard is dropped; `None` if it is not open.
    pub fn pass(&self, transaction: u64) -> Option<RwLockReadGuard<'_, u64>> {
        Some(self.read()).filter(|open| **open == transaction)
    }

    fn read(&self) -> RwLockReadGuard<'_, u64> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn each_waits_for_its_own_and_comes_never_when_that_is_over() {
        let turnstile = Arc::new(Turnstile::default());
        let come = |transaction| {
            let turnstile = turnstile.clone();
            tokio::spawn(async move { turnstile.come(transaction).await })
        };
        let (second, third) = (come(2), come(3));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!second.is_finished() && !third.is_finished());
        assert!(turnstile.pass(2).is_none());
        turnstile.open(2);
        assert!(second.await.unwrap());
        assert!(turnstile.pass(2).is_some() && turnstile.pass(3).is_none());
        turnstile.open(4);
        assert!(!third.await.unwrap());
        assert!(turnstile.pass(2).is_none());
    }
}
