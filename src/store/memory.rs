//! A store of canned answers, for unit tests of other modules.
//!
//! It tests a pipeline's logic without a server, with failures and delays on demand. Invariants: a statement has the markers and columns that it was
//! registered with; every write is kept in order, and so is every row of a batch; nulls are treated as in the other stores.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cache::append_key;
use super::types::ColumnType;
use super::{
    Column, EncodedRow, Gather, Kind, Marker, Prepared, Row, Statement, StatementOptions, Store, StoreError, cql,
};
use crate::avro::value::Value;

/// See the module's documentation. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    statements: Vec<(String, Vec<Marker>, Vec<Column>)>,
    tables: Vec<(String, String)>,
    rows: Vec<(String, Vec<u8>, Row)>,
    writes: Vec<Written>,
    encoded: Vec<Written>,
    failures: VecDeque<StoreError>,
    latency: Duration,
    calls: u64,
}

/// A write as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The statement.
    pub cql: String,
    /// Marker names and the values bound to them.
    pub values: Vec<(String, Value<'static>)>,
    /// Microseconds since 1970.
    pub timestamp_us: i64,
    /// Whether it was to be written without a batch.
    pub alone: bool,
}

impl MemoryStore {
    /// An empty store. Statements that are not declared have markers and columns of any type.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares the types of a statement.
    pub fn declare(&self, cql: &str, markers: &[(&str, ColumnType)], columns: &[(&str, ColumnType)]) {
        let markers = markers
            .iter()
            .map(|(name, ty)| Marker {
                name: (*name).to_owned(),
                ty: ty.clone(),
            })
            .collect();
        let columns = columns
            .iter()
            .map(|(name, ty)| Column {
                name: (*name).to_owned(),
                ty: ty.clone(),
            })
            .collect();
        self.state().statements.push((cql.to_owned(), markers, columns));
    }

    /// Sets the table of a statement from now on, as for a store that keeps the newest value of each cell.
    pub fn tell(&self, cql: &str, table: &str) {
        self.state().tables.push((cql.to_owned(), table.to_owned()));
    }

    /// Adds a row that a look-up by these values finds.
    pub fn answer(&self, cql: &str, values: &[Value<'_>], row: Row) {
        let mut key = Vec::new();
        append_key(values, &mut key);
        self.state().rows.push((cql.to_owned(), key, row));
    }

    /// The next look-up or write fails like this; several calls queue up.
    pub fn fail_next(&self, error: StoreError) {
        self.state().failures.push_back(error);
    }

    /// Every look-up and write takes this long.
    pub fn set_latency(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// All writes so far.
    pub fn writes(&self) -> Vec<Written> {
        self.state().writes.clone()
    }

    /// The rows that were encoded for batches so far, which are never written.
    pub fn encoded(&self) -> Vec<Written> {
        self.state().encoded.clone()
    }

    /// Look-ups and writes so far, failed ones included.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    async fn pass(&self) -> Result<(), StoreError> {
        let (latency, failure) = {
            let mut state = self.state();
            state.calls += 1;
            (state.latency, state.failures.pop_front())
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        failure.map_or(Ok(()), Err)
    }

    pub(super) async fn write_alone(
        &self,
        statement: &Statement,
        values: &[Value<'_>],
        timestamp_us: i64,
    ) -> Result<(), StoreError> {
        self.keep(statement, values, timestamp_us, true).await
    }

    async fn keep(
        &self,
        statement: &Statement,
        values: &[Value<'_>],
        timestamp_us: i64,
        alone: bool,
    ) -> Result<(), StoreError> {
        statement.expect(Kind::Write, values)?;
        self.pass().await?;
        let written = Written::of(statement, values, timestamp_us, alone);
        self.state().writes.push(written);
        Ok(())
    }

    pub(super) fn encode(&self, statement: &Statement, values: &[Value<'_>], timestamp_us: i64) -> Option<EncodedRow> {
        let written = Written::of(statement, values, timestamp_us, false);
        self.state().encoded.push(written);
        EncodedRow::of_place(Box::default()).ok()
    }
}

impl Written {
    fn of(statement: &Statement, values: &[Value<'_>], timestamp_us: i64, alone: bool) -> Written {
        let named = statement.markers.iter().zip(values);
        let values = named
            .map(|(marker, value)| (marker.name.clone(), value.clone().into_owned()))
            .collect();
        Written {
            cql: statement.cql.to_string(),
            values,
            timestamp_us,
            alone,
        }
    }
}

impl Store for MemoryStore {
    async fn prepare(&self, text: &str, options: &StatementOptions) -> Result<Statement, StoreError> {
        let declared = self.state().statements.iter().find(|(cql, ..)| cql == text).cloned();
        let told = self.state().tables.iter().find(|(cql, _)| cql == text).cloned();
        let (mut markers, columns) = match declared {
            Some((_, markers, columns)) => (markers, columns),
            None => undeclared(text),
        };
        if options.ttl == Some(cql::Ttl::Bound) {
            markers.push(Marker {
                name: cql::TTL_MARKER.to_owned(),
                ty: ColumnType::Int,
            });
        }
        Ok(Statement {
            key: match options.kind {
                Kind::Write => cql::key_markers(text, &[], &markers),
                Kind::Lookup => Box::default(),
            },
            markers: markers.into(),
            columns: columns.into(),
            partition_key: Box::default(),
            cql: text.into(),
            kind: options.kind,
            rows: options.rows,
            table: told.map(|(_, table)| table.into()),
            inner: Prepared::Memory(options.group),
        })
    }

    async fn lookup(&self, statement: &Statement, values: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        statement.expect(Kind::Lookup, values)?;
        if values.iter().any(Value::is_null) {
            return Ok(None);
        }
        self.pass().await?;
        let mut wanted = Vec::new();
        append_key(values, &mut wanted);
        let state = self.state();
        let found = state
            .rows
            .iter()
            .filter(|(cql, key, _)| *cql == *statement.cql && *key == wanted);
        let mut gather = Gather::new(statement);
        for (.., row) in found {
            if !gather.add(row.clone())? {
                break;
            }
        }
        Ok(gather.end())
    }

    async fn write(&self, statement: &Statement, values: &[Value<'_>], timestamp_us: i64) -> Result<(), StoreError> {
        self.keep(statement, values, timestamp_us, false).await
    }
}

/// Markers by name and, for a look-up, the bare names of the select list.
fn undeclared(text: &str) -> (Vec<Marker>, Vec<Column>) {
    let scanned = cql::scan(text);
    let markers = scanned.markers().map(|name| Marker {
        name: name.to_owned(),
        ty: ColumnType::Any,
    });
    let markers = markers.collect();
    let list = if scanned.is_word(0, "select") {
        scanned.find_word("from").unwrap_or(0)
    } else {
        0
    };
    let columns = (1..list)
        .filter(|i| *i + 1 == list || scanned.is_symbol(*i + 1, ','))
        .map(|i| Column {
            name: scanned.str(i).trim_matches('"').to_owned(),
            ty: ColumnType::Any,
        })
        .collect();
    (markers, columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::cluster::Scratch;
    use crate::retry::Class;
    use crate::store::sqlite::{SqliteOptions, SqliteStore};

    #[tokio::test]
    async fn a_statement_that_another_store_has_prepared_is_a_misuse() {
        let scratch = Scratch::new().unwrap();
        let sqlite = SqliteStore::open(&SqliteOptions::new(scratch.database())).unwrap();
        let sql = "CREATE TABLE t (k text PRIMARY KEY, v bigint) WITHOUT ROWID";
        sqlite.execute_script(sql).await.unwrap();
        let memory = MemoryStore::new();
        let (write, lookup) = (StatementOptions::write(), StatementOptions::lookup());
        let put = sqlite.prepare("INSERT INTO t (k, v) VALUES (:k, :v)", &write).await;
        let get = memory.prepare("SELECT v FROM t WHERE k = :k", &lookup).await;
        let key = [Value::String("a".into())];
        for error in [
            memory.lookup(&put.unwrap(), &[]).await.unwrap_err(),
            sqlite.lookup(&get.unwrap(), &key).await.unwrap_err(),
        ] {
            assert_eq!((error.class, error.label), (Class::Fatal, "misuse"), "{error}");
        }
    }
}
