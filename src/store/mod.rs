//! The databases: look-ups and writes in CQL, on ScyllaDB (or any CQL server) or on the embedded SQLite.
//!
//! A pipeline is checked and run against [`Store`], never against a driver, so that the same statements and steps work on both, pass one test suite
//! (`tests/store`), and fail with the same messages.
//!
//! Invariants:
//! - a statement's markers and result columns, with their types, come from the database, not from parsing CQL;
//! - an acknowledged write is as durable as the store promises: for CQL at the requested consistency level, for SQLite after the commit of its
//!   transaction;
//! - [`Value::Null`] never overwrites: a write binds it as UNSET, and a look-up by it finds nothing;
//! - every write carries the timestamp that the caller derived from its record, so a replay converges; except a conditional write (`IF …`), which a
//!   CQL server stamps by its own clock;
//! - every failure has a [`Class`], assigned in [`classify`] and nowhere else.

pub mod cache;
pub mod classify;
pub mod convert;
pub mod cql;
pub mod decimal;
pub mod describe;
pub mod group;
pub mod held_back;
#[cfg(test)]
pub mod memory;
pub mod scylla;
pub mod sqlite;
pub mod types;
#[cfg(test)]
mod types_page;

use std::future::Future;
use std::time::{Duration, Instant};

use crate::avro::value::{Type, Value};
pub use crate::config::{Consistency, Rows, SerialConsistency};
use crate::retry::Class;
pub use scylla::EncodedRow;
pub use types::{ColumnType, bindable, result_type};

/// A named marker of a prepared statement. A name that the statement uses twice is listed twice.
#[derive(Debug, Clone, PartialEq)]
pub struct Marker {
    /// The name after the colon, as the statement spells it first.
    pub name: String,
    /// The type that the database expects.
    pub ty: ColumnType,
}

/// A result column of a prepared statement. Any column may be null in a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its name, or its alias.
    pub name: String,
    /// Its type.
    pub ty: ColumnType,
}

/// One row of a look-up, in the order of [`Statement::columns`].
pub type Row = Box<[Value<'static>]>;

/// What a statement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// A `SELECT`.
    #[default]
    Lookup,
    /// An `INSERT`, `UPDATE` or `DELETE`.
    Write,
}

/// How a statement is prepared and executed. `None` means the store's own setting.
#[derive(Debug, Clone)]
pub struct StatementOptions {
    /// Look-up or write.
    pub kind: Kind,
    /// How much of a look-up's result is taken.
    pub rows: Rows,
    /// TTL of what a write stores, in whole seconds; for SQLite and CQL alike. A bound TTL is one more marker, in seconds.
    pub ttl: Option<cql::Ttl>,
    /// Whether running it twice is the same as running it once. `true` (the default) refuses statements that are known
    /// not to be idempotent, and lets the driver repeat the others by itself.
    pub idempotent: bool,
    /// Longest wait for an answer, over all attempts of the driver. CQL only.
    pub timeout: Option<Duration>,
    /// CQL only.
    pub consistency: Option<Consistency>,
    /// CQL only.
    pub serial_consistency: Option<SerialConsistency>,
    /// Ask a second replica if the first has not answered for this long; idempotent statements on CQL only.
    pub speculative_after: Option<Duration>,
    /// Whether a look-up may leave part of its table's partition key unbound, so that every node is asked. For SQLite the
    /// first column of the primary key stands for the partition key.
    pub scan: bool,
    /// Whether rows that are written at the same time share a batch; idempotent writes on CQL only.
    pub group: Option<group::GroupOptions>,
}

impl From<&crate::config::Execution> for StatementOptions {
    fn from(from: &crate::config::Execution) -> Self {
        StatementOptions {
            consistency: from.consistency,
            serial_consistency: from.serial_consistency,
            speculative_after: from.speculative_after,
            scan: from.scan,
            ..StatementOptions::default()
        }
    }
}

impl Default for StatementOptions {
    fn default() -> Self {
        StatementOptions {
            kind: Kind::Lookup,
            rows: Rows::First,
            ttl: None,
            idempotent: true,
            timeout: None,
            consistency: None,
            serial_consistency: None,
            speculative_after: None,
            scan: false,
            group: None,
        }
    }
}

impl StatementOptions {
    /// A look-up with the store's settings.
    pub fn lookup() -> Self {
        Self::default()
    }

    /// An idempotent write with the store's settings.
    pub fn write() -> Self {
        StatementOptions {
            kind: Kind::Write,
            ..Self::default()
        }
    }
}

/// A failure of a store, ready to be acted on and to be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// What to do about it.
    pub class: Class,
    /// A bounded word for metrics and dead-letter headers, such as `timeout` or `unavailable`.
    pub label: &'static str,
    /// The full explanation, for people.
    pub message: String,
    /// Whether the request certainly had no effect, so that repeating it cannot apply it twice.
    pub not_applied: bool,
    /// Whether the failed request belongs to another caller, whose copy of this error has `false`: one request is one failure, however many waited for it.
    pub of_another: bool,
}

impl StoreError {
    /// An error of this class.
    pub fn new(class: Class, label: &'static str, message: impl Into<String>) -> Self {
        StoreError {
            class,
            label,
            message: message.into(),
            not_applied: false,
            of_another: false,
        }
    }

    /// The same error for callers that waited for another caller's request.
    fn for_others(self) -> Self {
        StoreError {
            of_another: true,
            ..self
        }
    }

    /// An error that is final for this record (or, while preparing, for this statement).
    pub fn permanent(label: &'static str, message: impl Into<String>) -> Self {
        StoreError::new(Class::Permanent, label, message)
    }

    /// An error that is final for every record.
    pub fn fatal(label: &'static str, message: impl Into<String>) -> Self {
        StoreError::new(Class::Fatal, label, message)
    }

    /// An error that may pass by itself.
    pub fn transient(label: &'static str, message: impl Into<String>) -> Self {
        StoreError::new(Class::Transient, label, message)
    }

    /// Whether the store itself may be in trouble. Some transient errors are answers of a healthy store, and other requests may succeed: nodes have different
    /// schemas, a statement has another id, a partition is requested too often or has too many tombstones. The failure of another caller's request is
    /// reported by that caller.
    pub fn is_outage(&self) -> bool {
        const ANSWERED: [&str; 4] = ["schema_changing", "other_id", "rate_limit", "tombstones"];
        self.class == Class::Transient && !self.of_another && !ANSWERED.contains(&self.label)
    }
}

impl From<convert::ConvertError> for StoreError {
    fn from(e: convert::ConvertError) -> Self {
        StoreError::permanent("value", e.to_string())
    }
}

/// A prepared statement; it belongs to the store that prepared it.
#[derive(Debug)]
pub struct Statement {
    markers: Box<[Marker]>,
    columns: Box<[Column]>,
    partition_key: Box<[usize]>,
    /// For a write: the markers of the primary key.
    key: Box<[usize]>,
    cql: Box<str>,
    kind: Kind,
    rows: Rows,
    table: Option<Box<str>>,
    inner: Prepared,
}

#[derive(Debug)]
enum Prepared {
    Scylla(scylla::ScyllaStatement),
    Sqlite(sqlite::SqliteStatement),
    #[cfg(test)]
    Memory(Option<group::GroupOptions>),
}

impl Statement {
    /// The markers, in the order in which values are bound.
    pub fn markers(&self) -> &[Marker] {
        &self.markers
    }

    /// Whether this marker of a write is in the primary key, as far as the store knows.
    pub fn is_key(&self, marker: usize) -> bool {
        self.key.contains(&marker)
    }

    /// The result columns; empty for a write.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The statement as declared, before the store adapted it.
    pub fn cql(&self) -> &str {
        &self.cql
    }

    /// What tells it from others, also from those with the same text: its address. So it holds only while the statement is not moved.
    pub fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Indexes into [`Statement::markers`] of the partition key's columns, in the key's order. Empty if the statement does
    /// not bind the whole partition key: it is then not routed, and a look-up scans. For SQLite the first column of the
    /// primary key stands for the partition key.
    pub fn partition_key(&self) -> &[usize] {
        &self.partition_key
    }

    /// The table, as `keyspace.table`, if the store knows it and keeps the newest value of each cell whatever the order in which
    /// writes arrive. `None` for the embedded store, which compares whole rows.
    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// What a look-up returns, by name and type, in the order of its row; each may be null.
    pub fn gives(&self) -> impl Iterator<Item = (&str, Type)> {
        self.columns.iter().map(|column| {
            let ty = result_type(&column.ty);
            let ty = match self.rows {
                Rows::First => ty,
                Rows::List { .. } => Type::List(Box::new(ty.nullable())),
            };
            (column.name.as_str(), ty)
        })
    }

    /// The type of all rows together, as records; `None` for a look-up of one row.
    pub fn records(&self) -> Option<Type> {
        let Rows::List { .. } = self.rows else { return None };
        let fields = self
            .columns
            .iter()
            .map(|c| (c.name.clone(), result_type(&c.ty).nullable()));
        Some(Type::List(Box::new(Type::Record(fields.collect()))))
    }

    /// Counters of the grouping of its rows; `None` if they are not grouped.
    pub fn grouped(&self) -> Option<&std::sync::Arc<group::GroupStats>> {
        match &self.inner {
            Prepared::Scylla(inner) => inner.grouped(),
            _ => None,
        }
    }

    /// Fails unless there is one value per marker and the statement is of this kind. A failure is a bug of the caller.
    fn expect(&self, kind: Kind, values: &[Value<'_>]) -> Result<(), StoreError> {
        if self.kind != kind {
            return Err(StoreError::fatal(
                "misuse",
                format!("{:?} statement used as {kind:?}: {}", self.kind, self.cql),
            ));
        }
        if values.len() != self.markers.len() {
            let (given, wanted) = (values.len(), self.markers.len());
            return Err(StoreError::fatal(
                "misuse",
                format!("{given} values for {wanted} markers: {}", self.cql),
            ));
        }
        Ok(())
    }

    /// Fails if a marker of the partition key would be null.
    fn expect_partition_key(&self, values: &[Value<'_>]) -> Result<(), StoreError> {
        let Some(i) = self.partition_key.iter().find(|i| values[**i].is_null()) else {
            return Ok(());
        };
        let name = &self.markers[*i].name;
        Err(StoreError::permanent(
            "null_key",
            format!("marker :{name} of the partition key is null"),
        ))
    }
}

/// Gathers the rows of a look-up.
enum Gather {
    First(Option<Row>),
    List {
        max: usize,
        truncate: bool,
        columns: Vec<Vec<Value<'static>>>,
        count: usize,
    },
}

impl Gather {
    fn new(statement: &Statement) -> Gather {
        match statement.rows {
            Rows::First => Gather::First(None),
            Rows::List { max, truncate } => Gather::List {
                max,
                truncate,
                columns: vec![Vec::new(); statement.columns.len()],
                count: 0,
            },
        }
    }

    /// Takes a row; false if no more rows are wanted.
    fn add(&mut self, row: Row) -> Result<bool, StoreError> {
        match self {
            Gather::First(first) => {
                *first = Some(row);
                Ok(false)
            }
            Gather::List {
                max,
                truncate,
                columns,
                count,
            } => {
                if count == max {
                    let message = format!("the look-up found more than the {max} rows of its max_rows");
                    return if *truncate {
                        Ok(false)
                    } else {
                        Err(StoreError::permanent("too_many_rows", message))
                    };
                }
                for (column, value) in columns.iter_mut().zip(row) {
                    column.push(value);
                }
                *count += 1;
                Ok(true)
            }
        }
    }

    /// What was gathered; `None` if there was no row.
    fn end(self) -> Option<Row> {
        match self {
            Gather::First(first) => first,
            Gather::List { count: 0, .. } => None,
            Gather::List { columns, .. } => {
                let lists = columns.into_iter().map(|mut column| {
                    column.shrink_to_fit();
                    Value::List(column)
                });
                Some(lists.collect())
            }
        }
    }
}

/// The error when a statement is refused on preparing it again: no record can succeed.
fn no_longer_taken(refused: &StoreError) -> StoreError {
    let message = format!("the database no longer takes the statement: {refused}");
    StoreError::fatal(refused.label, message)
}

fn foreign_statement() -> StoreError {
    StoreError::fatal("misuse", "the statement was prepared by a store of another kind")
}

/// A database that answers look-ups and takes writes.
pub trait Store {
    /// Prepares a statement. Fails permanently if the database refuses it, transiently while the database is not reachable.
    fn prepare(
        &self,
        cql: &str,
        options: &StatementOptions,
    ) -> impl Future<Output = Result<Statement, StoreError>> + Send;

    /// The first row of a look-up, or `None`; under [`Rows::List`] one row that holds a list for each column, or `None`
    /// if there is no row. If a value is null, nothing is found and the database is not asked.
    fn lookup(
        &self,
        statement: &Statement,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Option<Row>, StoreError>> + Send;

    /// Executes a write; `Ok` means durable, as the store promises it. Nulls leave what is stored unchanged.
    /// `timestamp_us` is the write's time in microseconds since 1970: the newest write wins, in whatever order they arrive.
    fn write(
        &self,
        statement: &Statement,
        values: &[Value<'_>],
        timestamp_us: i64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// The store that a configuration names.
#[derive(Debug)]
pub enum AnyStore {
    /// ScyllaDB, Cassandra or another CQL server.
    Scylla(scylla::ScyllaStore),
    /// The embedded store.
    Sqlite(sqlite::SqliteStore),
    /// Canned answers, for unit tests.
    #[cfg(test)]
    Memory(memory::MemoryStore),
    /// One of the other stores, whose writes are recorded instead of executed.
    HeldBack(held_back::HeldBack),
}

impl AnyStore {
    /// How the rows of a write are grouped, if they are.
    pub fn grouping<'s>(&self, statement: &'s Statement) -> Option<&'s group::GroupOptions> {
        match (self, &statement.inner) {
            (AnyStore::Scylla(_), Prepared::Scylla(inner)) => inner.grouping(),
            #[cfg(test)]
            (AnyStore::Memory(_), Prepared::Memory(group)) => group.as_ref(),
            _ => None,
        }
    }

    /// Encodes a row of a grouped write for [`AnyStore::write_rows`]. `None` if the row fills a batch by itself, or cannot be encoded: then use
    /// [`Store::write`], which reports why.
    pub fn encode(&self, statement: &Statement, values: &[Value<'_>], timestamp_us: i64) -> Option<EncodedRow> {
        match self {
            AnyStore::Scylla(s) => s.encode(statement, values, timestamp_us),
            #[cfg(test)]
            AnyStore::Memory(s) => s.encode(statement, values, timestamp_us),
            _ => None,
        }
    }

    /// Writes rows of one statement in one batch. On failure it is not known which rows were written.
    ///
    /// # Errors
    /// Those of [`Store::write`]; a permanent error says nothing about a single row.
    pub async fn write_rows(&self, statement: &Statement, rows: Vec<EncodedRow>) -> Result<(), StoreError> {
        match self {
            AnyStore::Scylla(s) => s.write_rows(statement, rows).await,
            _ => Err(foreign_statement()),
        }
    }

    /// Writes a row as [`Store::write`] does, and returns how long its request took, without the wait for other rows of its batch.
    ///
    /// # Errors
    /// Those of [`Store::write`].
    pub async fn write_timed(
        &self,
        statement: &Statement,
        values: &[Value<'_>],
        timestamp_us: i64,
    ) -> Result<Duration, StoreError> {
        let began = Instant::now();
        match self {
            AnyStore::Scylla(s) => return s.write_timed(statement, values, timestamp_us).await,
            AnyStore::Sqlite(s) => s.write(statement, values, timestamp_us).await?,
            #[cfg(test)]
            AnyStore::Memory(s) => s.write(statement, values, timestamp_us).await?,
            AnyStore::HeldBack(s) => s.write(statement, values, timestamp_us).await?,
        }
        Ok(began.elapsed())
    }

    /// Writes a row as [`Store::write`] does, but never in a batch with others.
    ///
    /// # Errors
    /// Those of [`Store::write`].
    pub async fn write_alone(
        &self,
        statement: &Statement,
        values: &[Value<'_>],
        timestamp_us: i64,
    ) -> Result<(), StoreError> {
        match self {
            AnyStore::Scylla(s) => s.write_alone(statement, values, timestamp_us).await,
            #[cfg(test)]
            AnyStore::Memory(s) => s.write_alone(statement, values, timestamp_us).await,
            AnyStore::Sqlite(_) | AnyStore::HeldBack(_) => self.write(statement, values, timestamp_us).await,
        }
    }
}

impl Store for AnyStore {
    async fn prepare(&self, cql: &str, options: &StatementOptions) -> Result<Statement, StoreError> {
        match self {
            AnyStore::Scylla(s) => s.prepare(cql, options).await,
            AnyStore::Sqlite(s) => s.prepare(cql, options).await,
            #[cfg(test)]
            AnyStore::Memory(s) => s.prepare(cql, options).await,
            AnyStore::HeldBack(s) => s.prepare(cql, options).await,
        }
    }

    async fn lookup(&self, statement: &Statement, values: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        match self {
            AnyStore::Scylla(s) => s.lookup(statement, values).await,
            AnyStore::Sqlite(s) => s.lookup(statement, values).await,
            #[cfg(test)]
            AnyStore::Memory(s) => s.lookup(statement, values).await,
            AnyStore::HeldBack(s) => s.lookup(statement, values).await,
        }
    }

    async fn write(&self, statement: &Statement, values: &[Value<'_>], timestamp_us: i64) -> Result<(), StoreError> {
        self.write_timed(statement, values, timestamp_us).await.map(|_| ())
    }
}
