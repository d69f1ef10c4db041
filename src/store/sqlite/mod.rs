//! The embedded store: the same statements and promises on one file, without a server.
//!
//! One thread writes, in transactions that it shares among all waiting writes (up to 500 writes or 5 ms); a write is acknowledged after the commit.
//! Look-ups run on the caller's thread with one of a few read connections: reading a row from the page cache takes less time than waking another
//! thread, and in WAL mode neither waits for the writer.
//!
//! Promise: a committed write survives `kill -9` of the process. With [`Synchronous::Normal`] a power failure may lose the last commits (but not
//! corrupt the file); [`Synchronous::Full`] syncs each commit to disk first.
//!
//! Permanent differences from CQL:
//! - A write is an upsert by primary key, and the newest timestamp wins for the whole row, not per cell, by a column `messina_timestamp`, which is
//!   added to a table when a statement that writes it is prepared.
//! - A TTL is a column `messina_expires`. Look-ups respect it, and a sweep every minute deletes expired rows, some hundreds at a time. A row lives as
//!   long as the longest-lived of its values.
//! - A delete leaves no tombstone, so an older write that arrives after it brings the row back.

mod compare;
mod parse;
mod sql;
mod table;
mod value;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use self::parse::Select;
use self::table::Table;
use super::types::MAX_LEVELS;
use super::{
    Column, ColumnType, Gather, Kind, Marker, Prepared, Row, Rows, Statement, StatementOptions, Store, StoreError,
    classify, cql, foreign_statement, no_longer_taken,
};
use crate::avro::value::Value;
use crate::retry::Class;

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// The operating system: safe if the process ends, but not if the power fails.
    #[default]
    Normal,
    /// The disk.
    Full,
}

/// Where the file is, and how it is used.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The database file; created if it does not exist.
    pub path: PathBuf,
    /// What a commit waits for.
    pub synchronous: Synchronous,
    /// Connections for look-ups; this many run at once.
    pub readers: usize,
}

impl SqliteOptions {
    /// The defaults for this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        SqliteOptions {
            path: path.into(),
            synchronous: Synchronous::default(),
            readers: 4,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct SqliteStore {
    writer: writer::Handle,
    readers: Box<[Mutex<Connection>]>,
    next_reader: AtomicUsize,
    /// Counts the changes that Messina makes to tables, so that look-ups are adapted again.
    generation: Arc<AtomicU64>,
    /// See [`place`].
    place: Arc<str>,
}

/// What [`Statement`] holds for this store.
#[derive(Debug)]
pub(super) enum SqliteStatement {
    Lookup(Lookup),
    Write(WriteStatement),
}

/// A change, shared with the jobs that carry it to the writer.
#[derive(Debug)]
pub(super) struct WriteStatement(Arc<writer::Write>);

/// A look-up, and its SQL for one generation of the tables.
#[derive(Debug)]
pub(super) struct Lookup {
    select: Select,
    sql: Mutex<(u64, Arc<str>)>,
    /// For each result column, whether an empty collection is null, as in CQL.
    unfrozen: Box<[bool]>,
}

impl SqliteStore {
    /// Opens or creates the file, and starts the writer's thread.
    pub fn open(options: &SqliteOptions) -> Result<Self, StoreError> {
        SqliteStore::open_as(options, &options.path)
    }

    /// The same, but errors name `file` as the place of the tables.
    fn open_as(options: &SqliteOptions, file: &Path) -> Result<Self, StoreError> {
        let writer = connection(options)?;
        let mut readers = Vec::new();
        for _ in 0..options.readers.max(1) {
            let reader = connection(options)?;
            reader
                .pragma_update(None, "query_only", true)
                .map_err(|e| classify::sqlite(&e))?;
            readers.push(Mutex::new(reader));
        }
        let generation = Arc::new(AtomicU64::new(0));
        let place: Arc<str> = place(file).into();
        Ok(SqliteStore {
            writer: writer::Handle::start(writer, generation.clone(), place.clone())?,
            readers: readers.into(),
            next_reader: AtomicUsize::new(0),
            generation,
            place,
        })
    }

    /// A store in memory with the tables of the file but none of their rows, for a check that changes nothing. The file must
    /// exist.
    pub async fn open_tables_of(path: &Path) -> Result<Self, StoreError> {
        if is_yet_to_be_created(path) {
            let message = format!(
                "{}: the file does not exist yet, so its tables cannot be checked: the start creates it, and you create its \
                 tables{}",
                path.display(),
                place(path)
            );
            return Err(StoreError::fatal("cannot_open", message));
        }
        let tables = {
            let mut uri = "file:".to_owned();
            for c in path.to_string_lossy().chars() {
                match c {
                    '%' | '?' | '#' => uri.push_str(&format!("%{:02X}", c as u32)),
                    c => uri.push(c),
                }
            }
            // If there is no log file, nothing is written at all, not even the shared-memory files.
            let log = path.with_file_name(format!(
                "{}-wal",
                path.file_name().unwrap_or_default().to_string_lossy()
            ));
            uri.push_str(if log.exists() { "?mode=ro" } else { "?immutable=1" });
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let read = || -> rusqlite::Result<Vec<String>> {
                let connection = Connection::open_with_flags(&uri, flags)?;
                let sql =
                    "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid";
                let mut statement = connection.prepare(sql)?;
                statement.query_map([], |row| row.get(0))?.collect()
            };
            read().map_err(|e| of_file(path, &e))?
        };
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!(
            "file:messina-check-{}-{number}?mode=memory&cache=shared",
            std::process::id()
        );
        let store = SqliteStore::open_as(&SqliteOptions::new(name), path)?;
        store.execute_script(&tables.join(";\n")).await?;
        Ok(store)
    }

    /// Copies a database file as it is now to a file that does not exist yet. The original is only read.
    ///
    /// # Errors
    /// If the file does not exist, or there is no space.
    pub fn copy(path: &Path, to: &Path) -> Result<(), StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let copy = || Connection::open_with_flags(path, flags)?.execute("VACUUM INTO ?1", [to.to_string_lossy()]);
        copy().map(drop).map_err(|e| of_file(path, &e))
    }

    /// Runs statements that do not belong to a pipeline, such as those that create the demo's tables; in SQLite's dialect.
    pub async fn execute_script(&self, sql: &str) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.writer
            .send(writer::Job::Script {
                sql: sql.to_owned(),
                reply,
            })
            .await?;
        writer::answered(answer.await)
    }

    /// The columns of a table's primary key, in order.
    pub(super) fn primary_key(&self, table: &str) -> Result<Vec<String>, StoreError> {
        Ok(Table::read(&self.reader(), table, &self.place)?
            .key()
            .map(str::to_owned)
            .collect())
    }

    /// A free read connection; if all are busy, waits for the next one.
    fn reader(&self) -> MutexGuard<'_, Connection> {
        let first = self.next_reader.fetch_add(1, Ordering::Relaxed);
        for i in 0..self.readers.len() {
            match self.readers[(first + i) % self.readers.len()].try_lock() {
                Ok(connection) => return connection,
                Err(TryLockError::Poisoned(e)) => return e.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        // A statement that panicked was dropped and thereby reset, so the connection is sound.
        self.readers[first % self.readers.len()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The SQL of a look-up, adapted again if a table may have received Messina's columns since.
    fn sql(&self, lookup: &Lookup, connection: &Connection) -> Result<Arc<str>, StoreError> {
        let now = self.generation.load(Ordering::Acquire);
        let mut cached = lookup.sql.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0 != now {
            let table = Table::read(connection, &lookup.select.table, &self.place)?;
            *cached = (now, lookup.select.sql(&table).into());
        }
        Ok(cached.1.clone())
    }

    fn prepare_lookup(&self, cql: &str, options: &StatementOptions) -> Result<Statement, StoreError> {
        let select = parse::select(cql).map_err(invalid)?;
        let connection = self.reader();
        let generation = self.generation.load(Ordering::Acquire);
        let table = Table::read(&connection, &select.table, &self.place)?;
        select.refuse_other_order(&table).map_err(invalid)?;
        if !options.scan {
            select.refuse_scan(&table).map_err(invalid)?;
        }
        let sql: Arc<str> = select.sql(&table).into();
        let prepared = connection.prepare_cached(&sql).map_err(|e| classify::sqlite(&e))?;
        let markers: Box<[Marker]> = select.markers(&table);
        let columns: Box<[Column]> = prepared
            .column_names()
            .enumerate()
            .map(|(i, name)| Column {
                name: name.to_owned(),
                ty: select.result_type(i, name, &table),
            })
            .collect();
        let unfrozen = prepared
            .column_names()
            .enumerate()
            .map(|(i, name)| select.column(i, name).is_some_and(|column| table.is_unfrozen(column)))
            .collect();
        let lookup = Lookup {
            select,
            unfrozen,
            sql: Mutex::new((generation, sql.clone())),
        };
        Ok(Statement {
            partition_key: table.partition_key(&lookup.select.equalities()),
            key: Box::default(),
            markers,
            columns,
            cql: cql.into(),
            kind: Kind::Lookup,
            rows: options.rows,
            table: None,
            inner: Prepared::Sqlite(SqliteStatement::Lookup(lookup)),
        })
    }
}

impl Store for SqliteStore {
    async fn prepare(&self, text: &str, options: &StatementOptions) -> Result<Statement, StoreError> {
        if options.kind == Kind::Lookup {
            return self.prepare_lookup(text, options);
        }
        let mut change = parse::change(text).map_err(invalid)?;
        if options.group.is_some() {
            return Err(invalid(
                "the embedded store groups all writes by itself: remove `group`".to_owned(),
            ));
        }
        if let Some(ttl) = options.ttl {
            // The same rules as for CQL; the resulting text is not needed here.
            let using = cql::Using {
                ttl: Some(ttl),
                timestamp: false,
            };
            cql::with_using(text, using).map_err(invalid)?;
            change.ttl = Some(ttl);
        }
        let (reply, answer) = oneshot::channel();
        self.writer.send(writer::Job::Prepare { change, reply }).await?;
        let (write, table) = writer::answered(answer.await)?;
        let markers: Box<[Marker]> = write.markers.clone();
        if options.idempotent
            && let Some(why) = cql::unrepeatable(text, &markers)
        {
            return Err(invalid(format!("the statement cannot be repeated: {why}")));
        }
        Ok(Statement {
            partition_key: table.partition_key(&write.key_markers),
            key: write.key_markers.iter().map(|(_, marker)| *marker).collect(),
            markers,
            columns: Box::default(),
            cql: text.into(),
            kind: Kind::Write,
            rows: Rows::First,
            table: None,
            inner: Prepared::Sqlite(SqliteStatement::Write(WriteStatement(Arc::new(write)))),
        })
    }

    async fn lookup(&self, statement: &Statement, values: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        let Prepared::Sqlite(SqliteStatement::Lookup(lookup)) = &statement.inner else {
            return Err(foreign_statement());
        };
        statement.expect(Kind::Lookup, values)?;
        if values.iter().any(Value::is_null) {
            return Ok(None);
        }
        let connection = self.reader();
        let sql = self.sql(lookup, &connection).map_err(refused)?;
        let failed = |e: rusqlite::Error| judge(&connection, &sql, &e);
        let mut prepared = connection.prepare_cached(&sql).map_err(failed)?;
        for (i, (value, marker)) in values.iter().zip(&statement.markers).enumerate() {
            let bound = value::bind(value, &marker.ty).map_err(|e| at_marker(&marker.name, e))?;
            prepared
                .raw_bind_parameter(i + 1, bound)
                .map_err(|e| classify::sqlite(&e))?;
        }
        if prepared.parameter_count() > values.len() {
            prepared
                .raw_bind_parameter(values.len() + 1, now_millis())
                .map_err(|e| classify::sqlite(&e))?;
        }
        let mut rows = prepared.raw_query();
        let mut gather = Gather::new(statement);
        while let Some(row) = rows.next().map_err(failed)? {
            let mut read = Vec::with_capacity(statement.columns.len());
            for (i, (column, unfrozen)) in statement.columns.iter().zip(&lookup.unfrozen).enumerate() {
                let raw = row.get_ref(i).map_err(|e| classify::sqlite(&e))?;
                let value = value::read(raw, &column.ty)
                    .map_err(|e| StoreError::permanent("value", format!("result column {}: {e}", column.name)))?;
                let gone = *unfrozen && is_empty(&value);
                read.push(if gone { Value::Null } else { value });
            }
            if !gather.add(read.into())? {
                break;
            }
        }
        Ok(gather.end())
    }

    async fn write(&self, statement: &Statement, values: &[Value<'_>], timestamp_us: i64) -> Result<(), StoreError> {
        let Prepared::Sqlite(SqliteStatement::Write(WriteStatement(write))) = &statement.inner else {
            return Err(foreign_statement());
        };
        statement.expect(Kind::Write, values)?;
        let mut bound = Vec::with_capacity(values.len());
        for (value, marker) in values.iter().zip(&statement.markers) {
            bound.push(value::bind_written(value, &marker.ty).map_err(|e| at_marker(&marker.name, e))?);
        }
        if let Some(i) = write.key_markers.iter().map(|(_, i)| *i).find(|i| values[*i].is_null()) {
            let name = &statement.markers[i].name;
            return Err(StoreError::permanent(
                "null_key",
                format!("marker :{name} of the primary key is null"),
            ));
        }
        let life_ms = match write.ttl {
            Some(cql::Ttl::Bound) => match bound.pop() {
                Some(rusqlite::types::Value::Integer(seconds)) => {
                    cql::bound_ttl(seconds)?.map(|life| life.as_millis() as i64)
                }
                _ => None,
            },
            Some(cql::Ttl::Fixed(life)) => Some(life.as_millis() as i64),
            None => None,
        };
        let (reply, answer) = oneshot::channel();
        self.writer
            .send(writer::Job::Write(writer::Asked {
                write: write.clone(),
                values: bound,
                life_ms,
                timestamp_us,
                reply,
            }))
            .await?;
        writer::answered(answer.await)
    }
}

fn at_marker(name: &str, error: super::convert::ConvertError) -> StoreError {
    StoreError::permanent("value", format!("marker :{name}: {error}"))
}

/// The error when a statement that was accepted before can no longer be prepared.
fn refused(error: StoreError) -> StoreError {
    match error.class {
        Class::Permanent => no_longer_taken(&error),
        Class::Transient | Class::Fatal => error,
    }
}

/// Interprets the failure of a statement: if the statement is refused when it is prepared again, no record is to blame.
fn judge(connection: &Connection, sql: &str, error: &rusqlite::Error) -> StoreError {
    let error = classify::sqlite(error);
    if error.label != "invalid" {
        return error;
    }
    match connection.prepare(sql) {
        Ok(_) => error,
        Err(e) => refused(classify::sqlite(&e)),
    }
}

fn invalid(message: String) -> StoreError {
    StoreError::permanent("invalid", message)
}

/// A suffix for errors about a file: its full path, unless its path is absolute. From another working directory a relative path means another file.
fn place(file: &Path) -> String {
    match std::path::absolute(file) {
        Ok(whole) if file.is_relative() && file != Path::new(":memory:") => {
            format!(
                " (the file is {}: a relative path counts from the working directory)",
                whole.display()
            )
        }
        _ => String::new(),
    }
}

/// Whether [`SqliteStore::open`] would create the file.
fn is_yet_to_be_created(file: &Path) -> bool {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    file != Path::new(":memory:") && matches!(file.try_exists(), Ok(false)) && folder.is_none_or(Path::is_dir)
}

/// An error that names its file.
fn of_file(file: &Path, error: &rusqlite::Error) -> StoreError {
    let mut error = classify::sqlite(error);
    error.message = format!("{}: {}{}", file.display(), error.message, place(file));
    error
}

fn connection(options: &SqliteOptions) -> Result<Connection, StoreError> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open(&options.path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        // Otherwise a quoted name that matches no column would be a text.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        let synchronous = match options.synchronous {
            Synchronous::Normal => "normal",
            Synchronous::Full => "full",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.set_prepared_statement_cache_capacity(128);
        Ok(connection)
    };
    open().map_err(|e| of_file(&options.path, &e))
}

fn is_empty(collection: &Value<'_>) -> bool {
    match collection {
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => entries.is_empty(),
        _ => false,
    }
}

/// Milliseconds since 1970: TTLs count from here and are compared with it.
fn now_millis() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as i64)
}

/// How deep types are nested.
fn levels(declared: &str) -> usize {
    let depths = declared.chars().scan(0usize, |depth, c| {
        match c {
            '<' => *depth += 1,
            '>' => *depth = depth.saturating_sub(1),
            _ => {}
        }
        Some(*depth)
    });
    depths.max().unwrap_or(0)
}

/// Whether a text stays a text in a column of this declared type, by SQLite's rules of affinity (<https://sqlite.org/datatype3.html>, 3.1).
fn keeps_texts(declared: &str) -> bool {
    let declared = declared.to_ascii_uppercase();
    let of_texts = ["CHAR", "CLOB", "TEXT", "BLOB"];
    declared.trim().is_empty() || !declared.contains("INT") && of_texts.iter().any(|word| declared.contains(word))
}

/// Reads a declared column type; refuses one whose values SQLite would change.
fn declared_type(table: &str, column: &str, declared: &str) -> Result<ColumnType, StoreError> {
    match ColumnType::parse(declared) {
        Some(ColumnType::Ascii) => Err(invalid(format!(
            "column {column} of {table} is declared ascii, in which SQLite turns digits into numbers: declare it text"
        ))),
        Some(ColumnType::Counter) => Err(invalid(format!("column {column} of {table}: SQLite has no counters"))),
        Some(ty) => Ok(ty),
        None if levels(declared) > MAX_LEVELS => Err(invalid(format!(
            "column {column} of {table} is declared with more than {MAX_LEVELS} types within one another"
        ))),
        None if keeps_texts(declared) => Ok(ColumnType::Any),
        None => Ok(ColumnType::Numeric(declared.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_is_told_whole_and_no_path_is_not() {
        assert!(place(Path::new("a.db")).contains("/a.db: a relative path counts"));
        for file in ["/a.db", ":memory:"] {
            assert_eq!(place(Path::new(file)), "");
        }
    }

    #[test]
    fn a_declared_type_of_too_many_levels_is_refused() {
        let nested = |levels: usize| format!("{}text{}", "list<".repeat(levels), ">".repeat(levels));
        assert!(declared_type("t", "c", &nested(MAX_LEVELS)).is_ok());
        let refused = declared_type("t", "c", &nested(100_000)).unwrap_err().to_string();
        assert!(
            refused.contains("column c of t is declared with more than 32 types within one another"),
            "{refused}"
        );
        // Types side by side are not deeper, even if one of them is unknown.
        let beside = format!("tuple<{}address>", "list<int>, ".repeat(2 * MAX_LEVELS));
        assert_eq!(declared_type("t", "c", &beside).unwrap(), ColumnType::Numeric(beside));
    }

    /// Whether SQLite does so is asked of SQLite.
    #[test]
    fn a_name_under_which_digits_become_a_number_is_told_from_others() {
        for (declared, keeps) in [
            ("STRING", false),
            ("address", false),
            ("frozen<address>", false),
            ("datetime", false),
            ("float8", false),
            ("unsigned big int", false),
            ("charint", false),
            ("nvarchar(9)", true),
            ("character varying", true),
            ("tinytext", true),
            ("LongBlob", true),
        ] {
            let connection = Connection::open_in_memory().unwrap();
            let sql = format!("CREATE TABLE t (c \"{declared}\"); INSERT INTO t VALUES ('007')");
            connection.execute_batch(&sql).unwrap();
            let stored = connection.query_row("SELECT typeof(c) FROM t", [], |row| row.get::<_, String>(0));
            assert_eq!(stored.unwrap() == "text", keeps, "{declared}");
            let wanted = match keeps {
                true => ColumnType::Any,
                false => ColumnType::Numeric(declared.to_owned()),
            };
            assert_eq!(declared_type("t", "c", declared).unwrap(), wanted);
        }
        assert_eq!(declared_type("t", "c", "").unwrap(), ColumnType::Any);
    }
}
