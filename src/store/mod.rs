//! The databases: look-ups and writes in CQL, by ScyllaDB (or any CQL server) or by the embedded SQLite.
//!
//! Why: a pipeline is checked and run against [`Store`], never against a driver, so that the same statements and steps
//! work on both, pass one test suite (`tests/store.rs`), and fail in the same words.
//!
//! Invariants:
//! - a statement's markers and result columns, with their types, are the database's own answer, not read out of CQL;
//! - an acknowledged write is as durable as the store promises: for CQL at the consistency level asked for, for SQLite
//!   after the commit of its transaction;
//! - the value [`Value::Null`] never overwrites: a write binds it as UNSET, and a look-up by it finds nothing;
//! - every write carries the timestamp that the caller made from its record, so a replay converges;
//! - every failure has a [`Class`], made in [`classify`] and nowhere else.

pub mod cache;
pub mod classify;
pub mod convert;
pub mod cql;
pub mod decimal;
pub mod memory;
pub mod scylla;
pub mod sqlite;
pub mod types;

use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use crate::avro::value::Value;
use crate::retry::Class;
pub use types::{ColumnType, bindable, result_type};

/// A named marker of a prepared statement. A name that the statement uses twice is listed twice.
#[derive(Debug, Clone, PartialEq)]
pub struct Marker {
    /// The name behind the colon.
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

/// CQL consistency levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "CQL's own names")]
pub enum Consistency {
    Any,
    One,
    Two,
    Three,
    Quorum,
    All,
    LocalQuorum,
    EachQuorum,
    LocalOne,
}

impl FromStr for Consistency {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Ok(match s.to_ascii_lowercase().as_str() {
            "any" => Consistency::Any,
            "one" => Consistency::One,
            "two" => Consistency::Two,
            "three" => Consistency::Three,
            "quorum" => Consistency::Quorum,
            "all" => Consistency::All,
            "local_quorum" => Consistency::LocalQuorum,
            "each_quorum" => Consistency::EachQuorum,
            "local_one" => Consistency::LocalOne,
            _ => {
                return Err(format!(
                    "unknown consistency {s:?}; one of any, one, two, three, quorum, all, local_quorum, each_quorum, local_one"
                ));
            }
        })
    }
}

/// CQL consistency levels of the Paxos phase of a conditional statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "CQL's own names")]
pub enum SerialConsistency {
    Serial,
    LocalSerial,
}

impl FromStr for SerialConsistency {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.to_ascii_lowercase().as_str() {
            "serial" => Ok(SerialConsistency::Serial),
            "local_serial" => Ok(SerialConsistency::LocalSerial),
            _ => Err(format!("unknown serial consistency {s:?}; one of serial, local_serial")),
        }
    }
}

/// How a statement is prepared and executed. What is `None` is the store's own setting.
#[derive(Debug, Clone)]
pub struct StatementOptions {
    /// Look-up or write.
    pub kind: Kind,
    /// Life of what a write stores, in whole seconds; SQLite and CQL alike.
    pub ttl: Option<Duration>,
    /// Whether running it twice is the same as running it once. `true` (the default) refuses statements of which that
    /// is known to be wrong, and lets the driver repeat the others by itself.
    pub idempotent: bool,
    /// Longest wait for an answer, all of the driver's attempts together. CQL only.
    pub timeout: Option<Duration>,
    /// CQL only.
    pub consistency: Option<Consistency>,
    /// CQL only.
    pub serial_consistency: Option<SerialConsistency>,
    /// Ask a second replica when the first has not answered for this long; idempotent statements on CQL only.
    pub speculative_after: Option<Duration>,
}

impl Default for StatementOptions {
    fn default() -> Self {
        StatementOptions {
            kind: Kind::Lookup,
            ttl: None,
            idempotent: true,
            timeout: None,
            consistency: None,
            serial_consistency: None,
            speculative_after: None,
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
    /// The whole story, for people.
    pub message: String,
}

impl StoreError {
    /// An error that will not pass for this record (or, while preparing, for this statement).
    pub fn permanent(label: &'static str, message: impl Into<String>) -> Self {
        StoreError {
            class: Class::Permanent,
            label,
            message: message.into(),
        }
    }

    /// An error that will not pass for any record.
    pub fn fatal(label: &'static str, message: impl Into<String>) -> Self {
        StoreError {
            class: Class::Fatal,
            label,
            message: message.into(),
        }
    }

    /// An error that may pass by itself.
    pub fn transient(label: &'static str, message: impl Into<String>) -> Self {
        StoreError {
            class: Class::Transient,
            label,
            message: message.into(),
        }
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
    cql: Box<str>,
    kind: Kind,
    table: Option<Box<str>>,
    inner: Prepared,
}

#[derive(Debug)]
enum Prepared {
    Scylla(scylla::ScyllaStatement),
    Sqlite(sqlite::SqliteStatement),
    Memory(memory::MemoryStatement),
}

impl Statement {
    /// The markers, in the order in which values are bound.
    pub fn markers(&self) -> &[Marker] {
        &self.markers
    }

    /// The result columns; empty for a write.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The statement as declared, before the store adapted it.
    pub fn cql(&self) -> &str {
        &self.cql
    }

    /// Indexes into [`Statement::markers`] of the partition key's columns, in the key's order. Empty when the statement
    /// does not bind the whole partition key: it is then not routed, and a look-up scans. For SQLite the first column
    /// of the primary key stands for the partition key.
    pub fn partition_key(&self) -> &[usize] {
        &self.partition_key
    }

    /// The table, as `keyspace.table`, where the store knows it and keeps the newest value cell by cell, whatever the order in
    /// which writes arrive. None otherwise: the embedded store compares rows as a whole.
    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// What it was prepared for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Fails unless there is one value per marker and the statement is of this kind: a caller's mistake otherwise.
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
}

fn foreign_statement() -> StoreError {
    StoreError::fatal("misuse", "the statement was prepared by a store of another kind")
}

/// A database that answers look-ups and takes writes.
pub trait Store {
    /// Prepares a statement: fails permanently for one that the database refuses, and transiently while it is away.
    fn prepare(
        &self,
        cql: &str,
        options: &StatementOptions,
    ) -> impl Future<Output = Result<Statement, StoreError>> + Send;

    /// The first row of a look-up, or `None`. A null among the values finds nothing, without asking.
    fn lookup(
        &self,
        statement: &Statement,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Option<Row>, StoreError>> + Send;

    /// Executes a write; `Ok` means durable, as the store promises it. Nulls leave what is stored. `timestamp_us` is
    /// the write's time in microseconds since 1970: the newest one wins, in whichever order they arrive.
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
    /// Canned answers, for `messina test` and for tests.
    Memory(memory::MemoryStore),
}

impl Store for AnyStore {
    async fn prepare(&self, cql: &str, options: &StatementOptions) -> Result<Statement, StoreError> {
        match self {
            AnyStore::Scylla(s) => s.prepare(cql, options).await,
            AnyStore::Sqlite(s) => s.prepare(cql, options).await,
            AnyStore::Memory(s) => s.prepare(cql, options).await,
        }
    }

    async fn lookup(&self, statement: &Statement, values: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        match self {
            AnyStore::Scylla(s) => s.lookup(statement, values).await,
            AnyStore::Sqlite(s) => s.lookup(statement, values).await,
            AnyStore::Memory(s) => s.lookup(statement, values).await,
        }
    }

    async fn write(&self, statement: &Statement, values: &[Value<'_>], timestamp_us: i64) -> Result<(), StoreError> {
        match self {
            AnyStore::Scylla(s) => s.write(statement, values, timestamp_us).await,
            AnyStore::Sqlite(s) => s.write(statement, values, timestamp_us).await,
            AnyStore::Memory(s) => s.write(statement, values, timestamp_us).await,
        }
    }
}
