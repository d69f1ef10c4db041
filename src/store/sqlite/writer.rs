//! The writer thread: collects incoming writes, executes them in one transaction, and answers after the commit.
//!
//! SQLite has one writer at a time, and a commit costs far more than a row. Under load a transaction includes all writes that arrived during the last
//! commit; a single write is committed at once.
//!
//! Invariants: no answer before its commit; a write that fails fails alone: its statement is undone, and the others stand. If SQLite refuses or gives
//! up the whole transaction for good because of one of its rows, each is written again in its own transaction; a transient failure fails all of its
//! writes, and a transaction that cannot begin fails all queued ones. Expired rows, however many, are deleted in portions, with writes in between.
//! The thread ends when the store is dropped, after everything that was sent before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::types::Value as Bound;
use tokio::sync::{Semaphore, oneshot};

use super::parse::{Change, Term};
use super::sql::{EXPIRES, TIMESTAMP, quoted, sweep};
use super::table::Table;
use super::{invalid, judge, now_millis};
use crate::retry::Class;
use crate::store::cql::{TTL_MARKER, Ttl};
use crate::store::{Marker, StoreError, classify};

/// The most writes in one transaction, and the most expired rows that one deletes.
const GROUP: usize = 500;
/// How long a transaction accepts further writes.
const GROUP_TIME: Duration = Duration::from_millis(5);
/// The most writes in the queue; more wait in their tasks.
const QUEUE: usize = 8 * GROUP;
/// How often expired rows are deleted.
const SWEEP: Duration = Duration::from_secs(60);
/// How far the wall clock may run ahead between two sweeps.
const AHEAD: Duration = Duration::from_secs(60);
/// How long a wall clock that ran further ahead is not believed: it may be set back, and what a sweep has deleted is gone.
const DOUBT: Duration = Duration::from_secs(3600);

/// A prepared change.
#[derive(Debug)]
pub(super) struct Write {
    sql: String,
    pub(super) ttl: Option<Ttl>,
    pub(super) markers: Box<[Marker]>,
    /// Columns of the primary key, and the markers that bind them.
    pub(super) key_markers: Vec<(String, usize)>,
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A request to the thread.
pub(super) enum Job {
    Prepare {
        change: Change,
        reply: Reply<(Write, Table)>,
    },
    Write(Asked),
    Script {
        sql: String,
        reply: Reply<()>,
    },
}

/// A row to be written, and where to send the answer.
pub(super) struct Asked {
    pub(super) write: Arc<Write>,
    pub(super) values: Vec<Bound>,
    /// The TTL of the row, in milliseconds.
    pub(super) life_ms: Option<i64>,
    pub(super) timestamp_us: i64,
    pub(super) reply: Reply<()>,
}

/// The sending side of the thread's queue.
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
        let writer = Writer::new(connection, generation, place);
        std::thread::Builder::new()
            .name("messina-sqlite".into())
            .spawn(move || writer.run(&queue))
            .map_err(|e| StoreError::fatal("thread", format!("the writer's thread cannot start: {e}")))?;
        Ok(Handle {
            jobs,
            room: Arc::new(Semaphore::new(QUEUE)),
        })
    }

    /// Queues a job, waiting for space.
    pub(super) async fn send(&self, job: Job) -> Result<(), StoreError> {
        let permit = self.room.clone().acquire_owned().await.map_err(|_| gone())?;
        self.jobs.send((job, permit)).map_err(|_| gone())
    }
}

fn gone() -> StoreError {
    StoreError::fatal("thread", "the thread that writes to SQLite has ended")
}

/// The thread's answer; a missing answer means that the thread has ended.
pub(super) fn answered<T>(answer: Result<Result<T, StoreError>, oneshot::error::RecvError>) -> Result<T, StoreError> {
    answer.unwrap_or_else(|_| Err(gone()))
}

struct Writer {
    connection: Connection,
    generation: Arc<AtomicU64>,
    /// See [`super::place`].
    place: Arc<str>,
    expiring: Vec<Expiring>,
    swept: Instant,
    /// When the wall clock was last believed, and what it said then, in milliseconds since 1970.
    believed: (Instant, i64),
    /// Since when the wall clock is doubted, and what it said then.
    doubted: Option<(Instant, i64)>,
}

/// A table that a statement with a TTL writes; it has an index for the sweep.
struct Expiring {
    table: String,
    /// Deletes as many rows as one transaction may.
    sql: String,
    /// When the running sweep began, by the wall clock: it deletes what had expired by then.
    until: Option<i64>,
}

type Queue = Receiver<(Job, tokio::sync::OwnedSemaphorePermit)>;

impl Writer {
    fn new(connection: Connection, generation: Arc<AtomicU64>, place: Arc<str>) -> Writer {
        let now = Instant::now();
        Writer {
            connection,
            generation,
            place,
            expiring: Vec::new(),
            swept: now,
            believed: (now, now_millis()),
            doubted: None,
        }
    }

    fn run(mut self, queue: &Queue) {
        loop {
            match queue.recv_timeout(self.rests()) {
                Ok((job, _permit)) => self.take(job, queue),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.rests().is_zero() {
                self.sweep(Instant::now(), now_millis());
            }
        }
    }

    /// How long until expired rows are deleted again.
    fn rests(&self) -> Duration {
        if self.sweeps() {
            return Duration::ZERO;
        }
        SWEEP.saturating_sub(self.swept.elapsed())
    }

    /// Whether a sweep is running.
    fn sweeps(&self) -> bool {
        self.expiring.iter().any(|expiring| expiring.until.is_some())
    }

    fn take(&mut self, job: Job, queue: &Queue) {
        match job {
            Job::Write(_) => {
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

    /// Runs one transaction and sends the answers. Returns a job of another kind that ended the group.
    fn group(&mut self, first: Job, queue: &Queue) -> Option<Job> {
        let start = Instant::now();
        let now = now_millis();
        let mut waiting: Vec<(Asked, Result<(), StoreError>)> = Vec::new();
        let mut begun = self.begin();
        // All queued writes have waited for the lock by then. Otherwise each would wait for it again, one after the other.
        let locked = begun.is_err();
        let mut next = Some(first);
        let other = loop {
            match next.take() {
                Some(Job::Write(asked)) => {
                    let done = match &begun {
                        Ok(()) => self.write(&asked, now),
                        Err(e) => Err(e.clone()),
                    };
                    if begun.is_ok() && self.connection.is_autocommit() {
                        // SQLite has rolled the transaction back, with all of its writes.
                        begun = Err(done.as_ref().err().cloned().unwrap_or_else(rolled_back));
                    }
                    waiting.push((asked, done));
                }
                other => break other,
            }
            if !locked && (waiting.len() >= GROUP || start.elapsed() >= GROUP_TIME || begun.is_err()) {
                break None;
            }
            next = queue.try_recv().ok().map(|(job, _permit)| job);
        };
        let committed = begun.and_then(|()| self.commit());
        if committed.is_err() {
            self.roll_back();
        }
        let refused = matches!(&committed, Err(error) if error.class == Class::Permanent);
        if refused && waiting.len() > 1 {
            // One of the rows is the cause, but for a constraint that is checked at the commit SQLite does not say which.
            self.each_by_itself(waiting, now);
            return other;
        }
        for (asked, done) in waiting {
            // A caller that is gone does not need the answer; the write is kept.
            let _ = asked.reply.send(committed.clone().and(done));
        }
        other
    }

    /// After a transaction was refused, writes its rows again in order, each in its own transaction, and sends the answers. If a transaction cannot begin, the
    /// rows after it have waited for the lock too, and fail with it.
    fn each_by_itself(&self, refused: Vec<(Asked, Result<(), StoreError>)>, now: i64) {
        let mut begun = Ok(());
        for (asked, _) in refused {
            begun = begun.and_then(|()| self.begin());
            let done = begun.clone().and_then(|()| self.write(&asked, now));
            let done = done.and_then(|()| self.commit());
            if done.is_err() {
                self.roll_back();
            }
            let _ = asked.reply.send(done);
        }
    }

    fn begin(&self) -> Result<(), StoreError> {
        let begun = self.connection.execute_batch("BEGIN IMMEDIATE");
        begun.map_err(|e| classify::sqlite(&e))
    }

    fn commit(&self) -> Result<(), StoreError> {
        let committed = self.connection.execute_batch("COMMIT");
        committed.map_err(|e| classify::sqlite(&e))
    }

    /// Ends a failed transaction, unless SQLite has ended it.
    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // The earlier error is the one that matters; if the transaction cannot be ended, the next BEGIN fails too.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    fn write(&self, asked: &Asked, now: i64) -> Result<(), StoreError> {
        let sql = &asked.write.sql;
        let run = || -> rusqlite::Result<usize> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let end = asked.life_ms.map(|life| now.saturating_add(life));
            let own = [
                Bound::Integer(asked.timestamp_us),
                end.map_or(Bound::Null, Bound::Integer),
                Bound::Integer(now),
            ];
            let count = statement.parameter_count();
            for (i, value) in asked.values.iter().chain(&own).take(count).enumerate() {
                statement.raw_bind_parameter(i + 1, value)?;
            }
            statement.raw_execute()
        };
        run().map(|_| ()).map_err(|e| judge(&self.connection, sql, &e))
    }

    /// Adds Messina's columns to the table if they are missing, and prepares the statement.
    fn prepare(&mut self, change: Change) -> Result<(Write, Table), StoreError> {
        let run = |sql: &str| self.connection.execute_batch(sql).map_err(|e| classify::sqlite(&e));
        let mut table = Table::read(&self.connection, &change.table, &self.place)?;
        let name = quoted(&change.table);
        // First, so that a refused statement leaves the table unchanged.
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
            if !self.expiring.iter().any(|expiring| expiring.table == change.table) {
                self.expiring.push(Expiring {
                    table: change.table.clone(),
                    sql: sweep(&change.table, &table, GROUP),
                    until: None,
                });
            }
        }
        table = Table::read(&self.connection, &change.table, &self.place)?;
        self.generation.fetch_add(1, Ordering::Release);
        self.connection.prepare_cached(&sql).map_err(|e| classify::sqlite(&e))?;
        let names = change.marker_names();
        let column_of = |marker: &str| {
            change
                .terms()
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
            .terms()
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

    /// Whether the wall clock has not run ahead of the monotonic clock, or has stayed at its new time for long enough.
    fn believes(&mut self, now: Instant, wall: i64) -> bool {
        let ahead = AHEAD.as_millis() as i64;
        // How much further the wall clock has gone than time has.
        let strays = |(then, said): (Instant, i64)| {
            let passed = now.saturating_duration_since(then).as_millis() as i64;
            wall.saturating_sub(said).saturating_sub(passed)
        };
        if strays(self.believed) > ahead {
            // If the wall clock was set again meanwhile, the doubt starts over.
            let stands = |since: &(Instant, i64)| (-ahead..=ahead).contains(&strays(*since));
            let since = self.doubted.filter(stands).unwrap_or((now, wall));
            self.doubted = Some(since);
            if now.saturating_duration_since(since.0) < DOUBT {
                return false;
            }
        }
        self.believed = (now, wall);
        self.doubted = None;
        true
    }

    /// Deletes expired rows, one transaction for each table, and starts a sweep if none is running. Rows that cannot be deleted now are deleted by the next
    /// sweep; look-ups do not see them either way. `wall` is what the wall clock says at `now`.
    fn sweep(&mut self, now: Instant, wall: i64) {
        self.swept = now;
        if !self.sweeps() {
            if !self.believes(now, wall) {
                return;
            }
            self.expiring
                .iter_mut()
                .for_each(|expiring| expiring.until = Some(wall));
        }
        for Expiring { table, sql, until } in &mut self.expiring {
            let Some(expired) = *until else { continue };
            let swept = self
                .connection
                .prepare_cached(sql)
                .and_then(|mut s| s.execute([expired]));
            let more = match swept {
                Ok(rows) => {
                    tracing::debug!(table, rows, "expired rows are deleted");
                    rows == GROUP
                }
                Err(error) => {
                    tracing::warn!(table, %error, "expired rows could not be deleted");
                    false
                }
            };
            if !more {
                *until = None;
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
    use crate::demo::cluster::Scratch;
    use crate::store::sqlite::parse;

    type Answer = oneshot::Receiver<Result<(), StoreError>>;

    const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint)";
    const INSERT: &str = "INSERT INTO t (id, n) VALUES (:id, :n)";

    /// A writer on an empty file with these tables, and its statement.
    fn writer(path: &std::path::Path, tables: &str, insert: &str) -> (Writer, Arc<Write>) {
        let connection = Connection::open(path).unwrap();
        connection.busy_timeout(Duration::ZERO).unwrap();
        connection.execute_batch(tables).unwrap();
        let mut writer = Writer::new(connection, Arc::default(), "".into());
        let write = writer.prepare(parse::change(insert).unwrap()).unwrap().0;
        (writer, Arc::new(write))
    }

    /// Queues rows of an id and a number.
    fn queued(write: &Arc<Write>, rows: impl Iterator<Item = (i64, i64)>) -> (Queue, Vec<Answer>) {
        let (jobs, queue) = channel();
        let room = Arc::new(Semaphore::new(QUEUE));
        let answers = rows.map(|(id, n)| {
            let (reply, answer) = oneshot::channel();
            let asked = Asked {
                write: write.clone(),
                values: vec![Bound::Integer(id), Bound::Integer(n)],
                life_ms: None,
                timestamp_us: 1,
                reply,
            };
            let sent = jobs.send((Job::Write(asked), room.clone().try_acquire_owned().unwrap()));
            assert!(sent.is_ok());
            answer
        });
        let answers = answers.collect();
        (queue, answers)
    }

    #[test]
    fn a_lock_of_another_process_is_waited_for_once_by_all_who_are_queued() {
        let scratch = Scratch::new().unwrap();
        let (mut writer, write) = writer(&scratch.database(), TABLE, INSERT);
        let other = Connection::open(scratch.database()).unwrap();
        let mut take_all = || {
            let (queue, answers) = queued(&write, (0..=GROUP as i64).map(|id| (id, 1)));
            writer.take(queue.recv().unwrap().0, &queue);
            answers
        };
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        for mut answer in take_all() {
            assert_eq!(answer.try_recv().unwrap().unwrap_err().label, "busy");
        }
        other.execute_batch("ROLLBACK").unwrap();
        assert_eq!(take_all()[0].try_recv().unwrap(), Ok(()));
    }

    /// The fifth of ten rows is refused: by the table's foreign key at the commit, or by its trigger together with the whole transaction.
    #[test]
    fn of_the_rows_that_share_a_transaction_one_that_is_refused_takes_no_other_with_it() {
        let deferred = "CREATE TABLE p (id bigint PRIMARY KEY); INSERT INTO p VALUES (1);\
             CREATE TABLE t (id bigint PRIMARY KEY, n bigint REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED)";
        let rolling_back = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint);\
             CREATE TRIGGER positive BEFORE INSERT ON t WHEN NEW.n < 0 BEGIN SELECT RAISE(ROLLBACK, 'negative'); END";
        for tables in [deferred, rolling_back] {
            let scratch = Scratch::new().unwrap();
            let (mut writer, write) = writer(&scratch.database(), tables, INSERT);
            let (queue, answers) = queued(&write, (0..10).map(|id| (id, if id == 4 { -1 } else { 1 })));
            while let Ok((job, _)) = queue.try_recv() {
                writer.take(job, &queue);
            }
            for (id, mut answer) in answers.into_iter().enumerate() {
                let label = answer.try_recv().unwrap().err().map(|error| error.label);
                assert_eq!(label, (id == 4).then_some("constraint"), "row {id} of {tables}");
            }
            assert_eq!(rows(&writer.connection), 9, "{tables}");
        }
    }

    /// The number of rows in the table.
    fn rows(connection: &Connection) -> usize {
        let count = connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, u32>(0));
        count.unwrap() as usize
    }

    /// A writer of this table, whose rows expire, and its statement.
    fn expiring(path: &std::path::Path, table: &str) -> (Writer, Arc<Write>) {
        let (mut writer, write) = writer(path, table, INSERT);
        let mut change = parse::change(INSERT).unwrap();
        change.ttl = Some(Ttl::Bound);
        writer.prepare(change).unwrap();
        (writer, write)
    }

    /// Inserts three groups of expired rows, and one row that does not expire.
    fn fill(writer: &Writer) {
        let (wall, last) = (writer.believed.1, 3 * GROUP);
        let sql = format!(
            "WITH RECURSIVE i (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i WHERE n < {last}) \
             INSERT INTO t (id, n, {EXPIRES}) SELECT n, n, iif(n = {last}, NULL, {wall}) FROM i"
        );
        writer.connection.execute_batch(&sql).unwrap();
        assert_eq!(rows(&writer.connection), last + 1);
    }

    /// After hours without a sweep there may be millions.
    #[test]
    fn expired_rows_are_cleared_away_in_turns_whatever_the_key() {
        let of_two = "CREATE TABLE t (id bigint, n bigint, PRIMARY KEY (n, id)) WITHOUT ROWID";
        for table in [TABLE, of_two] {
            let scratch = Scratch::new().unwrap();
            let (mut writer, _) = expiring(&scratch.database(), table);
            fill(&writer);
            let wall = writer.believed.1;
            let mut left = Vec::new();
            loop {
                writer.sweep(Instant::now(), wall);
                left.push(rows(&writer.connection));
                if !writer.rests().is_zero() {
                    break;
                }
            }
            // The last turn finds none, and ends the sweep.
            assert_eq!(left, [2 * GROUP + 1, GROUP + 1, 1, 1], "{table}");
        }
    }

    #[test]
    fn a_write_goes_between_two_turns_of_a_sweep() {
        let scratch = Scratch::new().unwrap();
        let (mut writer, write) = expiring(&scratch.database(), TABLE);
        fill(&writer);
        writer.sweep(Instant::now(), writer.believed.1);
        let (queue, mut answers) = queued(&write, [(-1, 1)].into_iter());
        // The writer ends when no sender is left, which it checks once a turn.
        writer.run(&queue);
        assert_eq!(answers[0].try_recv().unwrap(), Ok(()));
        let left = rows(&Connection::open(scratch.database()).unwrap());
        assert_eq!(left, GROUP + 2, "one turn before it, one behind it");
    }

    #[test]
    fn a_sweep_that_fails_rests() {
        let scratch = Scratch::new().unwrap();
        let (mut writer, _) = expiring(&scratch.database(), TABLE);
        fill(&writer);
        let other = Connection::open(scratch.database()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        writer.sweep(Instant::now(), writer.believed.1);
        assert!(!writer.rests().is_zero());
        other.execute_batch("ROLLBACK").unwrap();
        writer.sweep(Instant::now(), writer.believed.1);
        assert_eq!(rows(&writer.connection), 2 * GROUP + 1);
    }

    #[test]
    fn a_clock_that_runs_ahead_for_a_while_deletes_no_row() {
        let scratch = Scratch::new().unwrap();
        let (mut writer, _) = expiring(&scratch.database(), TABLE);
        let (start, wall) = writer.believed;
        let hour = 3_600_000;
        let insert = format!("INSERT INTO t (id, {EXPIRES}) VALUES (1, ?1), (2, ?2)");
        let ends = [wall + 30_000, wall + 10 * hour];
        writer.connection.execute(&insert, ends).unwrap();
        // The number of rows after a sweep this many minutes after the start, by a clock that is this many hours ahead.
        let mut left = |minutes: i64, ahead: i64| {
            let now = start + Duration::from_secs(60 * minutes as u64);
            writer.sweep(now, wall + 60_000 * minutes + ahead * hour);
            rows(&writer.connection)
        };
        assert_eq!(left(1, 24), 2);
        assert_eq!(left(2, 0), 1, "the one whose life is over");
        // The hour of doubt about one wrong time does not count for another wrong time, later or earlier.
        for minutes in 3..122 {
            let ahead = match minutes {
                ..33 => 5,
                33..62 => 24,
                _ => 12,
            };
            assert_eq!(left(minutes, ahead), 1, "in minute {minutes}");
        }
        assert_eq!(left(122, 12), 0, "it has been so for an hour");
    }
}
