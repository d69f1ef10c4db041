//! The store on ScyllaDB, Cassandra and other CQL servers, by ScyllaDB's own driver.
//!
//! Why these choices, from measurements: a plain `Session` with prepared statements held by [`Statement`], since a
//! `CachingSession` looks each one up by its text for up to 0.5 µs more a request (the driver prepares again by itself
//! when the schema changes, either way); cached result metadata; one connection a shard, for fewer system calls.
//!
//! Invariants: a write's timestamp is the caller's (in the request, which means what `USING TIMESTAMP` does; a clause
//! in the text wins over it); a null is bound as UNSET; a statement that is not idempotent is never repeated by the
//! driver.

pub mod bind;
pub mod connect;
pub mod row;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::scylla::client::session::Session;
use ::scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use ::scylla::response::query_result::QueryResult;
use ::scylla::response::{PagingState, PagingStateResponse};
use ::scylla::statement as driver;
use ::scylla::statement::prepared::PreparedStatement;

use self::bind::{Bind, Nulls};
use super::types::ColumnType;
use super::{
    Column, Consistency, Kind, Marker, Prepared, Row, SerialConsistency, Statement, StatementOptions, Store,
    StoreError, classify, cql, foreign_statement,
};
use crate::avro::value::Value;
pub use connect::{ScyllaOptions, Secret, TlsOptions};

/// An open session.
pub struct ScyllaStore {
    /// Boxed: it is large, and stores are moved about while an application is put together.
    session: Box<Session>,
}

impl std::fmt::Debug for ScyllaStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScyllaStore")
    }
}

/// What [`Statement`] holds for this store.
#[derive(Debug)]
pub struct ScyllaStatement {
    prepared: PreparedStatement,
    warned: AtomicBool,
}

impl ScyllaStore {
    /// Connects: fails transiently while no node answers, fatally for a wrong password, keyspace or datacenter.
    pub async fn connect(options: &ScyllaOptions) -> Result<Self, StoreError> {
        Ok(ScyllaStore {
            session: Box::new(connect::connect(options).await?),
        })
    }

    /// The driver's session, for its metrics and for what a store does not do (schema, paging).
    pub fn session(&self) -> &Session {
        &self.session
    }

    fn configure(&self, prepared: &mut PreparedStatement, options: &StatementOptions, select_all_pages: bool) {
        prepared.set_is_idempotent(options.idempotent);
        prepared.set_use_cached_result_metadata(true);
        prepared.set_request_timeout(options.timeout);
        if let Some(consistency) = options.consistency {
            prepared.set_consistency(consistency.into());
        }
        if let Some(serial) = options.serial_consistency {
            prepared.set_serial_consistency(Some(serial.into()));
        }
        if options.kind == Kind::Lookup && !select_all_pages {
            prepared.set_page_size(1);
        }
        if let Some(after) = options.speculative_after.filter(|_| options.idempotent) {
            let policy = SimpleSpeculativeExecutionPolicy {
                max_retry_count: 1,
                retry_interval: after,
            };
            let profile = self.session.get_default_execution_profile_handle().pointee_to_builder();
            let profile = profile.speculative_execution_policy(Some(Arc::new(policy))).build();
            prepared.set_execution_profile_handle(Some(profile.into_handle()));
        }
    }
}

impl Store for ScyllaStore {
    async fn prepare(&self, text: &str, options: &StatementOptions) -> Result<Statement, StoreError> {
        let sent = match options.ttl {
            Some(ttl) => cql::with_ttl(text, ttl).map_err(|e| StoreError::permanent("invalid", e))?,
            None => text.to_owned(),
        };
        let mut prepared = self
            .session
            .prepare(sent.as_str())
            .await
            .map_err(|e| classify::prepare(&e))?;
        let specs = prepared.get_variable_col_specs().iter();
        let table = specs
            .map(|s| s.table_spec())
            .next()
            .map(|t| format!("{}.{}", t.ks_name(), t.table_name()));
        let markers: Box<[Marker]> = prepared
            .get_variable_col_specs()
            .iter()
            .map(|spec| Marker {
                name: spec.name().to_owned(),
                ty: ColumnType::from(spec.typ()),
            })
            .collect();
        let columns: Box<[Column]> = prepared
            .get_current_result_set_col_specs()
            .get()
            .iter()
            .map(|spec| Column {
                name: spec.name().to_owned(),
                ty: ColumnType::from(spec.typ()),
            })
            .collect();
        check_kind(text, &markers, &columns, options)?;
        // An aggregate is computed over pages of this size inside the server, so it keeps the driver's own.
        self.configure(&mut prepared, options, cql::scan(text).selects_function());
        let mut partition_key: Vec<_> = prepared.get_variable_pk_indexes().to_vec();
        partition_key.sort_by_key(|index| index.sequence);
        Ok(Statement {
            markers,
            columns: if options.kind == Kind::Lookup {
                columns
            } else {
                Box::default()
            },
            partition_key: partition_key.iter().map(|index| usize::from(index.index)).collect(),
            cql: text.into(),
            kind: options.kind,
            table: table.map(String::into_boxed_str),
            inner: Prepared::Scylla(ScyllaStatement {
                prepared,
                warned: AtomicBool::new(false),
            }),
        })
    }

    async fn lookup(&self, statement: &Statement, values: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        let Prepared::Scylla(inner) = &statement.inner else {
            return Err(foreign_statement());
        };
        statement.expect(Kind::Lookup, values)?;
        if values.iter().any(Value::is_null) {
            return Ok(None);
        }
        let mut state = PagingState::start();
        loop {
            let bind = Bind {
                values,
                markers: &statement.markers,
                nulls: Nulls::Refused,
            };
            let (result, next) = self
                .session
                .execute_single_page(&inner.prepared, &bind, state)
                .await
                .map_err(|e| classify::execution(&e))?;
            inner.warn(statement, &result);
            if let Some(row) = row::first(result, &statement.columns)? {
                return Ok(Some(row));
            }
            // A page may be empty though rows follow: the server counts filtered and deleted ones.
            match next {
                PagingStateResponse::HasMorePages { state: more } => state = more,
                PagingStateResponse::NoMorePages => return Ok(None),
            }
        }
    }

    async fn write(&self, statement: &Statement, values: &[Value<'_>], timestamp_us: i64) -> Result<(), StoreError> {
        let Prepared::Scylla(inner) = &statement.inner else {
            return Err(foreign_statement());
        };
        statement.expect(Kind::Write, values)?;
        if let Some(i) = statement.partition_key.iter().find(|i| values[**i].is_null()) {
            let name = &statement.markers[*i].name;
            return Err(StoreError::permanent(
                "null_key",
                format!("marker :{name} of the partition key is null"),
            ));
        }
        // A handle of its own for its own timestamp: a clone of the handle takes 40 ns.
        let mut prepared = inner.prepared.clone();
        prepared.set_timestamp(Some(timestamp_us));
        let bind = Bind {
            values,
            markers: &statement.markers,
            nulls: Nulls::Unset,
        };
        let result = self
            .session
            .execute_unpaged(&prepared, &bind)
            .await
            .map_err(|e| classify::execution(&e))?;
        inner.warn(statement, &result);
        Ok(())
    }
}

impl ScyllaStatement {
    /// Logs the server's warnings once per statement: they are about the statement, not about the record.
    fn warn(&self, statement: &Statement, result: &QueryResult) {
        if let Some(warning) = result.warnings().next()
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                statement = statement.cql(),
                warning,
                "the database warns about a statement"
            );
        }
    }
}

/// A look-up gives columns, a write does not (but for the answer of a conditional one), and both can be repeated unless
/// declared otherwise.
fn check_kind(
    text: &str,
    markers: &[Marker],
    columns: &[Column],
    options: &StatementOptions,
) -> Result<(), StoreError> {
    let scanned = cql::scan(text);
    let is_select = scanned.is_word(0, "select");
    let refused = match options.kind {
        Kind::Lookup if !is_select || columns.is_empty() => Some("a lookup is a SELECT".to_owned()),
        Kind::Write if is_select => Some("a write is an INSERT, UPDATE or DELETE, not a SELECT".to_owned()),
        Kind::Write if options.idempotent => cql::unrepeatable(text, markers)
            .map(|why| format!("the statement cannot be repeated: {why}; declare idempotent = false to accept that")),
        _ => None,
    };
    refused.map_or(Ok(()), |message| Err(StoreError::permanent("invalid", message)))
}

impl From<Consistency> for driver::Consistency {
    fn from(level: Consistency) -> Self {
        match level {
            Consistency::Any => driver::Consistency::Any,
            Consistency::One => driver::Consistency::One,
            Consistency::Two => driver::Consistency::Two,
            Consistency::Three => driver::Consistency::Three,
            Consistency::Quorum => driver::Consistency::Quorum,
            Consistency::All => driver::Consistency::All,
            Consistency::LocalQuorum => driver::Consistency::LocalQuorum,
            Consistency::EachQuorum => driver::Consistency::EachQuorum,
            Consistency::LocalOne => driver::Consistency::LocalOne,
        }
    }
}

impl From<SerialConsistency> for driver::SerialConsistency {
    fn from(level: SerialConsistency) -> Self {
        match level {
            SerialConsistency::Serial => driver::SerialConsistency::Serial,
            SerialConsistency::LocalSerial => driver::SerialConsistency::LocalSerial,
        }
    }
}
