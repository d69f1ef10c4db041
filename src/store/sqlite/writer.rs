//! The thread that writes: takes what has come in, runs it in one transaction, and answers after the commit.
//!
//! Why: SQLite has one writer at a time, and a commit costs far more than a row; under load a transaction serves all who
//! came while the last one was committed, and alone a write is committed at once.
//!
//! Invariants: no answer before its commit; a write that fails fails alone (its statement is undone, the others stand)
//! unless SQLite gave up the whole transaction, which then fails for all in it; one that cannot begin fails for all who
//! are queued; the thread ends when the store goes,
//! after what was sent before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::types::Value as Bound;
use tokio::sync::{Semaphore, oneshot};

use super::parse::{Change, Term};
use super::sql::{EXPIRES, TIMESTAMP, quoted};
use super::table::Table;
use super::{invalid, judge, now_millis};
use crate::store::cql::{TTL_MARKER, Ttl};
use crate::store::{Marker, StoreError, classify};

/// Writes in one transaction at most.
const GROUP: usize = 500;
/// Longest time that a transaction takes up further writes.
const GROUP_TIME: Duration = Duration::from_millis(5);
/// Writes waiting at most; more wait in their tasks.
const QUEUE: usize = 8 * GROUP;
/// How often expired rows are cleared away.
const SWEEP: Duration = Duration::from_secs(60);

/// A change, prepared.
#[derive(Debug)]
pub(super) struct Write {
    sql: String,
    pub(super) ttl: Option<Ttl>,
    pub(super) markers: Box<[Marker]>,
    /// Columns of the primary key and the markers that bind them.
    pub(super) key_markers: Vec<(String, usize)>,
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread can be asked for.
pub(super) enum Job {
    Prepare {
        change: Change,
        reply: Reply<(Write, Table)>,
    },
    Write {
        write: Arc<Write>,
        values: Vec<Bound>,
        /// How long the row lives, in milliseconds.
        life_ms: Option<i64>,
        timestamp_us: i64,
        reply: Reply<()>,
    },
    Script {
        sql: String,
        reply: Reply<()>,
    },
}

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Handle {
    jobs: Sender<(Job, tokio::sync::OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

impl Handle {
    /// Starts the thread.
    pub(super) fn start(
        connection: Connection,
        generation: Arc<AtomicU64>,
        place: Arc<str>,
    ) -> Result<Handle, StoreError> {
        let (jobs, queue) = channel();
        let writer = Writer {
            connection,
            generation,
            place,
            expiring: Vec::new(),
            swept: Instant::now(),
        };
        std::thread::Builder::new()
            .name("messina-sqlite".into())
            .spawn(move || writer.run(&queue))
            .map_err(|e| StoreError::fatal("thread", format!("the writer's thread cannot start: {e}")))?;
        Ok(Handle {
            jobs,
            room: Arc::new(Semaphore::new(QUEUE)),
        })
    }

    /// Queues a job, waiting for room.
    pub(super) async fn send(&self, job: Job) -> Result<(), StoreError> {
        let permit = self.room.clone().acquire_owned().await.map_err(|_| gone())?;
        self.jobs.send((job, permit)).map_err(|_| gone())
    }
}

fn gone() -> StoreError {
    StoreError::fatal("thread", "the thread that writes to SQLite has ended")
}

/// The thread's answer; none means that the thread is gone.
pub(super) fn answered<T>(answer: Result<Result<T, StoreError>, oneshot::error::RecvError>) -> Result<T, StoreError> {
    answer.unwrap_or_else(|_| Err(gone()))
}

struct Writer {
    connection: Connection,
    generation: Arc<AtomicU64>,
    /// See [`super::place`].
    place: Arc<str>,
    /// Tables that a statement with a TTL writes; they have an index for the sweep.
    expiring: Vec<String>,
    swept: Instant,
}

type Queue = Receiver<(Job, tokio::sync::OwnedSemaphorePermit)>;

impl Writer {
    fn run(mut self, queue: &Queue) {
        loop {
            match queue.recv_timeout(SWEEP.saturating_sub(self.swept.elapsed())) {
                Ok((job, _permit)) => self.take(job, queue),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.swept.elapsed() >= SWEEP {
                self.sweep();
            }
        }
    }

    fn take(&mut self, job: Job, queue: &Queue) {
        match job {
            Job::Write { .. } => {
                if let Some(other) = self.group(job, queue) {
                    self.take(other, queue);
                }
            }
            Job::Prepare { change, reply } => drop(reply.send(self.prepare(change))),
            Job::Script { sql, reply } => {
                let done = self.connection.execute_batch(&sql).map_err(|e| classify::sqlite(&e));
                self.generation.fetch_add(1, Ordering::Release);
                drop(reply.send(done));
            }
        }
    }

    /// One transaction, and the answers. Returns a job of another kind that ended the group.
    fn group(&mut self, first: Job, queue: &Queue) -> Option<Job> {
        let start = Instant::now();
        let now = now_millis();
        let mut waiting: Vec<(Reply<()>, Result<(), StoreError>)> = Vec::new();
        let mut begun = self
            .connection
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(|e| classify::sqlite(&e));
        // All who are queued have waited for the lock by then: each would else wait for it anew, one after the other.
        let locked = begun.is_err();
        let mut next = Some(first);
        let other = loop {
            match next.take() {
                Some(Job::Write {
                    write,
                    values,
                    life_ms,
                    timestamp_us,
                    reply,
                }) => {
                    let done = match &begun {
                        Ok(()) => self.write(&write, values, timestamp_us, (now, life_ms)),
                        Err(e) => Err(e.clone()),
                    };
                    if begun.is_ok() && self.connection.is_autocommit() {
                        // SQLite has rolled the transaction back: nothing of it stands.
                        begun = Err(done.as_ref().err().cloned().unwrap_or_else(rolled_back));
                    }
                    waiting.push((reply, done));
                }
                other => break other,
            }
            if !locked && (waiting.len() >= GROUP || start.elapsed() >= GROUP_TIME || begun.is_err()) {
                break None;
            }
            next = queue.try_recv().ok().map(|(job, _permit)| job);
        };
        let committed = begun.and_then(|()| {
            self.connection
                .execute_batch("COMMIT")
                .map_err(|e| classify::sqlite(&e))
        });
        if committed.is_err() && !self.connection.is_autocommit() {
            // The error that matters is the commit's; a transaction that cannot be ended fails the next BEGIN too.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        for (reply, done) in waiting {
            // An asker who is gone has no use for the answer; the write stands.
            let _ = reply.send(committed.clone().and(done));
        }
        other
    }

    fn write(
        &self,
        write: &Write,
        values: Vec<Bound>,
        timestamp_us: i64,
        (now, life_ms): (i64, Option<i64>),
    ) -> Result<(), StoreError> {
        let run = || -> rusqlite::Result<usize> {
            let mut statement = self.connection.prepare_cached(&write.sql)?;
            let end = life_ms.map(|life| now.saturating_add(life));
            let own = [
                Bound::Integer(timestamp_us),
                end.map_or(Bound::Null, Bound::Integer),
                Bound::Integer(now),
            ];
            let count = statement.parameter_count();
            for (i, value) in values.into_iter().chain(own).take(count).enumerate() {
                statement.raw_bind_parameter(i + 1, value)?;
            }
            statement.raw_execute()
        };
        run().map(|_| ()).map_err(|e| judge(&self.connection, &write.sql, &e))
    }

    /// Gives the table Messina's columns, if it has them not, and makes the statement.
    fn prepare(&mut self, change: Change) -> Result<(Write, Table), StoreError> {
        let run = |sql: &str| self.connection.execute_batch(sql).map_err(|e| classify::sqlite(&e));
        let mut table = Table::read(&self.connection, &change.table, &self.place)?;
        let name = quoted(&change.table);
        // First, so that a statement that is refused leaves the table as it was.
        let sql = change.sql(&table).map_err(invalid)?;
        for column in [TIMESTAMP, EXPIRES] {
            if !table.has(column) {
                run(&format!("ALTER TABLE {name} ADD COLUMN {column} INTEGER"))?;
            }
        }
        if change.ttl.is_some() {
            let index = quoted(&format!("{EXPIRES}_{}", change.table));
            run(&format!(
                "CREATE INDEX IF NOT EXISTS {index} ON {name} ({EXPIRES}) WHERE {EXPIRES} IS NOT NULL"
            ))?;
            if !self.expiring.contains(&change.table) {
                self.expiring.push(change.table.clone());
            }
        }
        table = Table::read(&self.connection, &change.table, &self.place)?;
        self.generation.fetch_add(1, Ordering::Release);
        self.connection.prepare_cached(&sql).map_err(|e| classify::sqlite(&e))?;
        let names = change.marker_names();
        let column_of = |marker: &str| {
            change
                .columns
                .iter()
                .find(|(_, term)| matches!(term, Term::Marker(name) if name == marker))
                .map(|(c, _)| c)
        };
        let own = (change.ttl == Some(Ttl::Bound)).then(|| Marker {
            name: TTL_MARKER.to_owned(),
            ty: crate::store::ColumnType::Int,
        });
        let markers: Box<[Marker]> = names
            .iter()
            .map(|name| Marker {
                name: (*name).to_owned(),
                ty: column_of(name).map_or(crate::store::ColumnType::Any, |column| table.type_of(column)),
            })
            .chain(own)
            .collect();
        let key_markers = change
            .columns
            .iter()
            .filter(|(column, _)| table.key().any(|key| key.eq_ignore_ascii_case(column)))
            .filter_map(|(column, term)| match term {
                Term::Marker(marker) => names.iter().position(|n| n == marker).map(|i| (column.clone(), i)),
                Term::Literal(_) => None,
            })
            .collect();
        Ok((
            Write {
                sql,
                ttl: change.ttl,
                markers,
                key_markers,
            },
            table,
        ))
    }

    /// Deletes expired rows. What cannot be deleted now can be at the next sweep; look-ups do not see it either way.
    fn sweep(&mut self) {
        self.swept = Instant::now();
        for table in &self.expiring {
            let sql = format!("DELETE FROM {} WHERE {EXPIRES} <= ?1", quoted(table));
            let swept = self
                .connection
                .prepare_cached(&sql)
                .and_then(|mut s| s.execute([now_millis()]));
            match swept {
                Ok(rows) => tracing::debug!(table, rows, "expired rows are deleted"),
                Err(error) => tracing::warn!(table, %error, "expired rows could not be deleted"),
            }
        }
    }
}

fn rolled_back() -> StoreError {
    StoreError::transient("rolled_back", "SQLite rolled the transaction back")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::parse;

    #[test]
    fn a_lock_of_another_process_is_waited_for_once_by_all_who_are_queued() {
        let path = std::env::temp_dir().join(format!("messina-locked-{}.db", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let other = Connection::open(&path).unwrap();
        other
            .execute_batch("CREATE TABLE t (id bigint PRIMARY KEY, n bigint)")
            .unwrap();
        let connection = Connection::open(&path).unwrap();
        connection.busy_timeout(Duration::ZERO).unwrap();
        let mut writer = Writer {
            connection,
            generation: Arc::default(),
            place: "".into(),
            expiring: Vec::new(),
            swept: Instant::now(),
        };
        let change = parse::change("INSERT INTO t (id, n) VALUES (:id, :n)").unwrap();
        let write = Arc::new(writer.prepare(change).unwrap().0);
        let (jobs, queue) = channel();
        let room = Arc::new(Semaphore::new(QUEUE));
        let mut take_all = || {
            let mut answers = Vec::new();
            for id in 0..=GROUP as i64 {
                let (reply, answer) = oneshot::channel();
                let job = Job::Write {
                    write: write.clone(),
                    values: vec![Bound::Integer(id), Bound::Integer(1)],
                    life_ms: None,
                    timestamp_us: 1,
                    reply,
                };
                let sent = jobs.send((job, room.clone().try_acquire_owned().unwrap()));
                assert!(sent.is_ok());
                answers.push(answer);
            }
            writer.take(queue.recv().unwrap().0, &queue);
            answers
        };
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        for mut answer in take_all() {
            assert_eq!(answer.try_recv().unwrap().unwrap_err().label, "busy");
        }
        other.execute_batch("ROLLBACK").unwrap();
        assert_eq!(take_all()[0].try_recv().unwrap(), Ok(()));
        std::fs::remove_file(&path).unwrap();
    }
}
