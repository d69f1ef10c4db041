//! Grouped writes: rows of one partition that are on their way at the same time become one batch.
//!
//! Single rows cost client and server a request each; fifty rows of one partition in one unlogged batch cost the server a third and the client a
//! tenth of that. The first row opens a group and waits for the linger; the row that fills the group sends it at once. So no row needs its own task
//! or timer, and no thread is in between.
//!
//! Invariants: a row is acknowledged with its batch, not before. A batch that fails for good is repeated row by row, each by its own writer, so that
//! a row fails alone. A batch that fails transiently is not repeated either: whoever retries its row keeps it out of groups. A group whose sender is
//! dropped (its record's partition has left) loses no row: the others then write for themselves. No group has more rows or bytes than declared.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::StoreError;
use crate::retry::Class;

/// How the rows of a write are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupOptions {
    /// How long the first row of a group waits for others. Zero takes only the rows that are ready at this moment.
    pub linger: Duration,
    /// The most rows in a batch.
    pub max_rows: usize,
    /// The most bytes of values in a batch. A larger row is written alone.
    pub max_bytes: usize,
    /// Whether rows of different partitions share a batch.
    pub across_partitions: bool,
}

impl From<&crate::config::WriteGroup> for GroupOptions {
    fn from(from: &crate::config::WriteGroup) -> Self {
        GroupOptions {
            linger: from.linger,
            max_rows: from.max_rows,
            max_bytes: usize::try_from(from.max_bytes.bytes()).unwrap_or(usize::MAX),
            across_partitions: from.across_partitions,
        }
    }
}

/// Counters of grouping, for metrics.
#[derive(Debug, Default)]
pub struct GroupStats {
    batches: AtomicU64,
    rows: AtomicU64,
}

impl GroupStats {
    /// Batches that were written, and the rows in them.
    pub fn sent(&self) -> (u64, u64) {
        (self.batches.load(Ordering::Relaxed), self.rows.load(Ordering::Relaxed))
    }

    pub(crate) fn count(&self, rows: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

/// The outcome of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Came {
    /// Written by a request that took this long.
    Written(Duration),
    /// Not written, for a reason that applies to all rows of the batch. For all but the sender the error is marked as another caller's.
    Failed(StoreError),
    /// The batch was refused or never sent: the row has to be written alone.
    Alone,
}

/// The message to a waiting member of a group.
enum Told<R> {
    Came(Came),
    /// The group is closed and this member has to send it.
    Send(Batch<R>),
}

/// Rows to be sent, and the members that wait for them.
struct Batch<R> {
    rows: Vec<R>,
    waiting: Vec<oneshot::Sender<Told<R>>>,
}

/// A group that still takes rows.
struct Open<R> {
    id: u64,
    bytes: usize,
    batch: Batch<R>,
}

/// What happened to a row that joined.
enum Joined<R> {
    /// It opened this group; its writer sends the group when the linger is over.
    First(u64, oneshot::Receiver<Told<R>>),
    /// Another writer sends it.
    Member(oneshot::Receiver<Told<R>>),
    /// It filled its group: its writer sends the group now.
    Full(Batch<R>),
}

/// The open groups, by the key that rows of a group share.
pub(super) struct Groups<K, R> {
    open: Mutex<State<K, R>>,
}

struct State<K, R> {
    groups: HashMap<K, Open<R>>,
    next: u64,
}

impl<K, R> Default for Groups<K, R> {
    fn default() -> Self {
        Groups {
            open: Mutex::new(State {
                groups: HashMap::new(),
                next: 0,
            }),
        }
    }
}

impl<K: Hash + Eq + Clone, R> Groups<K, R> {
    fn state(&self) -> MutexGuard<'_, State<K, R>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a row of this many bytes together with others of the same key. One of their writers calls `send` with all rows.
    /// A row that is as large as a whole group is written alone.
    pub(super) async fn write<F>(
        &self,
        key: K,
        row: R,
        bytes: usize,
        options: &GroupOptions,
        stats: &GroupStats,
        send: impl FnOnce(Vec<R>) -> F,
    ) -> Came
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        if bytes >= options.max_bytes {
            return Came::Alone;
        }
        let batch = match self.join(&key, row, bytes, options) {
            Joined::Full(batch) => batch,
            Joined::Member(answer) => match answer.await {
                Ok(Told::Came(came)) => return came,
                Ok(Told::Send(batch)) => batch,
                Err(_) => return Came::Alone,
            },
            Joined::First(id, mut answer) => {
                let leader = Leader {
                    groups: self,
                    key: &key,
                    id,
                };
                let waited = if options.linger.is_zero() {
                    tokio::task::yield_now().await;
                    None
                } else {
                    tokio::time::timeout(options.linger, &mut answer).await.ok()
                };
                let told = match waited {
                    Some(told) => told,
                    None => match leader.close() {
                        Some(batch) => Ok(Told::Send(batch)),
                        // Another writer has closed the group, and answers.
                        None => answer.await,
                    },
                };
                match told {
                    Ok(Told::Came(came)) => return came,
                    Ok(Told::Send(batch)) => batch,
                    Err(_) => return Came::Alone,
                }
            }
        };
        let Batch { rows, waiting } = batch;
        let (count, sent) = (rows.len(), Instant::now());
        let came = match send(rows).await {
            Ok(()) => {
                stats.count(count);
                Came::Written(sent.elapsed())
            }
            Err(error) if error.class == Class::Permanent && count > 1 => Came::Alone,
            Err(error) => Came::Failed(error),
        };
        let theirs = match &came {
            Came::Failed(error) => Came::Failed(error.clone().for_others()),
            Came::Written(_) | Came::Alone => came.clone(),
        };
        for member in waiting {
            // A member that is gone does not need the answer.
            let _ = member.send(Told::Came(theirs.clone()));
        }
        came
    }

    fn join(&self, key: &K, row: R, bytes: usize, options: &GroupOptions) -> Joined<R> {
        let mut state = self.state();
        let (sender, answer) = oneshot::channel();
        let mut closed = None;
        if let Some(open) = state.groups.get_mut(key) {
            if open.bytes + bytes <= options.max_bytes {
                open.batch.rows.push(row);
                open.bytes += bytes;
                if open.batch.rows.len() >= options.max_rows || open.bytes >= options.max_bytes {
                    let full = state.groups.remove(key).map(|open| open.batch);
                    // The group existed a moment ago, under this lock.
                    return full.map_or(Joined::Member(answer), Joined::Full);
                }
                open.batch.waiting.push(sender);
                return Joined::Member(answer);
            }
            closed = state.groups.remove(key).map(|open| open.batch);
        }
        let id = state.next;
        state.next += 1;
        let batch = Batch {
            rows: vec![row],
            waiting: vec![sender],
        };
        state.groups.insert(key.clone(), Open { id, bytes, batch });
        drop(state);
        if let Some(batch) = closed {
            hand_over(batch);
        }
        Joined::First(id, answer)
    }
}

/// The writer that opened a group. If it is dropped while it waits, another member sends the group.
struct Leader<'g, K: Hash + Eq + Clone, R> {
    groups: &'g Groups<K, R>,
    key: &'g K,
    id: u64,
}

impl<K: Hash + Eq + Clone, R> Leader<'_, K, R> {
    /// Takes the group, unless another writer has closed it.
    fn close(&self) -> Option<Batch<R>> {
        let mut state = self.groups.state();
        let is_it = state.groups.get(self.key).is_some_and(|open| open.id == self.id);
        if !is_it {
            return None;
        }
        state.groups.remove(self.key).map(|open| open.batch)
    }
}

impl<K: Hash + Eq + Clone, R> Drop for Leader<'_, K, R> {
    fn drop(&mut self) {
        if let Some(mut batch) = self.close() {
            // The first waiting member is this one.
            batch.waiting.remove(0);
            hand_over(batch);
        }
    }
}

/// Gives a closed group to the first member that is still waiting.
fn hand_over<R>(mut batch: Batch<R>) {
    while !batch.waiting.is_empty() {
        let member = batch.waiting.remove(0);
        match member.send(Told::Send(batch)) {
            Ok(()) => return,
            Err(Told::Send(back)) => batch = back,
            Err(Told::Came(_)) => return,
        }
    }
}

#[cfg(test)]
mod tests;
