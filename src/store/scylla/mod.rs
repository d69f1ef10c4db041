//! The store on ScyllaDB, Cassandra and other CQL servers, with ScyllaDB's own driver.
//!
//! Choices based on measurements: a plain `Session` with prepared statements held by [`Statement`], because a `CachingSession` looks each one up by
//! its text, up to 0.5 µs more per request (either way the driver prepares again by itself when the schema changes); cached result metadata, except
//! for `SELECT *`, whose columns change with the table; one connection per shard, for fewer system calls.
//!
//! Invariants: a write's timestamp is the caller's (in the request, which means the same as `USING TIMESTAMP`; a clause in the text wins over it); a
//! null is bound as UNSET; the driver never repeats a statement that is not idempotent.

mod alone;
pub mod bind;
pub mod connect;
mod diagnose;
mod dropped;
mod grouped;
mod handshake;
mod paging;
mod renew;
pub mod rights;
pub mod row;
mod taken;
mod watch;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ::scylla::client::session::Session;
use ::scylla::frame::response::result::{CollectionType, ColumnType as Driver};
use ::scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use ::scylla::response::query_result::QueryResult;
use ::scylla::response::{PagingState, PagingStateResponse};
use ::scylla::statement as driver;
use ::scylla::statement::prepared::PreparedStatement;
use tokio::sync::Notify;

use self::bind::{Bind, Nulls};
use self::taken::Taken;
use self::watch::Watch;
use super::group::{GroupOptions, GroupStats};
use super::types::ColumnType;
use super::{
    Column, Consistency, Gather, Kind, Marker, Prepared, Row, SerialConsistency, Statement, StatementOptions, Store,
    StoreError, classify, cql, foreign_statement,
};
use crate::avro::value::Value;
pub use connect::{ScyllaOptions, Secret};
pub use grouped::EncodedRow;
pub use watch::DriverFigures;

/// An open session, and what is needed to open another one when the credentials change.
pub struct ScyllaStore {
    /// The lock is never held for long: it costs 30 ns per request, and each loop has its own session.
    session: RwLock<Arc<Session>>,
    /// Boxed because they are large, and stores are moved while an application is built.
    options: Box<ScyllaOptions>,
    /// A hash of the session's credentials.
    credentials: AtomicU64,
    /// Notified when no node could be connected to.
    unconnected: Notify,
    /// Rows that wait for others of their group.
    groups: grouped::Groups,
    watch: Watch,
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
    /// Handles of finished writes, for reuse: the timestamp belongs to the handle, and cloning one updates a dozen reference counts.
    handles: Mutex<Vec<PreparedStatement>>,
    warned: AtomicBool,
    group: Option<Box<grouped::Grouping>>,
    /// The server sorts its rows over several partitions, and does not page such results.
    unpaged: bool,
    /// It selects `*`, so an answer may have columns that did not exist when it was prepared.
    all_columns: bool,
    /// The marker whose empty text or blob finds no row.
    sole_key: Option<usize>,
    /// It writes to one partition and without a condition, so a refusal can prove that nothing was applied.
    plain: bool,
    /// It may change a counter.
    adds: bool,
    /// Whether the database still accepts it, after a refusal to execute it.
    taken: Taken,
}

impl ScyllaStore {
    /// Connects: fails transiently while no node answers, fatally for a wrong password, keyspace or datacenter.
    pub async fn connect(options: &ScyllaOptions) -> Result<Self, StoreError> {
        // Hashed before the credentials are used, so that a change in between is noticed later. Whoever uses unreadable ones reports that.
        let credentials = options.credentials().unwrap_or_default();
        let watch = Watch {
            datacenter: options.datacenter.clone().filter(|_| !options.failover),
            ..Watch::default()
        };
        Ok(ScyllaStore {
            session: RwLock::new(Arc::new(connect::connect(options, watch.retries()).await?)),
            options: Box::new(options.clone()),
            credentials: AtomicU64::new(credentials),
            unconnected: Notify::new(),
            groups: grouped::Groups::default(),
            watch,
        })
    }

    /// The driver's current figures.
    pub fn driver(&self) -> DriverFigures {
        self.watch.figures(&self.session())
    }

    /// The driver's session, for its metrics and for what a store does not offer (schema, paging). It is replaced when the credentials change, so
    /// get it again for each request.
    pub fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The columns of a table's partition key and of its clustering key; `None` if the table does not exist.
    pub(super) fn primary_key(&self, keyspace: &str, table: &str) -> Option<(Vec<String>, Vec<String>)> {
        let state = self.session().get_cluster_state();
        let table = state.get_keyspace(keyspace)?.tables.get(table)?;
        Some((table.partition_key.clone(), table.clustering_key.clone()))
    }

    /// The columns of a table that are lists and not frozen, sorted; empty if the table does not exist.
    pub(super) fn open_lists(&self, keyspace: &str, table: &str) -> Vec<Column> {
        let state = self.session().get_cluster_state();
        let table = state.get_keyspace(keyspace).and_then(|k| k.tables.get(table));
        let columns = table.into_iter().flat_map(|table| &table.columns);
        let open = columns.filter(|(_, column)| is_open_list(&column.typ));
        let mut lists: Vec<Column> = open
            .map(|(name, column)| Column {
                name: name.clone(),
                ty: ColumnType::from(&column.typ),
            })
            .collect();
        lists.sort_by(|a, b| a.name.cmp(&b.name));
        lists
    }

    /// The names of a keyspace's tables, sorted; empty if the keyspace does not exist.
    pub(super) fn tables_of(&self, keyspace: &str) -> Vec<String> {
        let state = self.session().get_cluster_state();
        let tables = state.get_keyspace(keyspace).map(|keyspace| keyspace.tables.keys());
        let mut names: Vec<String> = tables.into_iter().flatten().cloned().collect();
        names.sort();
        names
    }

    /// The server's clock, as the time since 1970.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn clock(&self) -> Result<Duration, StoreError> {
        const CLOCK: &str = "SELECT toUnixTimestamp(now()) FROM system.local";
        let mut clock = driver::Statement::new(CLOCK);
        // The session's own level may be one that only writes accept.
        clock.set_consistency(driver::Consistency::One);
        let answer = self.session().query_unpaged(clock, ()).await;
        let answer = answer.map_err(|e| classify::execution(&e))?;
        let unread = |e: &dyn std::fmt::Display| StoreError::transient("protocol", format!("the server's clock: {e}"));
        let rows = answer.into_rows_result().map_err(|e| unread(&e))?;
        let (millis,) = rows.single_row::<(i64,)>().map_err(|e| unread(&e))?;
        Ok(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
    }

    async fn prepared(&self, text: &str) -> Result<PreparedStatement, StoreError> {
        let prepared = self.session().prepare(text).await;
        prepared.map_err(|e| classify::prepare(&e))
    }

    /// Refuses a look-up with each_quorum if the server does not support that for reads, like ScyllaDB. Cassandra does; neither reports it before a statement
    /// is executed.
    async fn check_each_quorum(&self) -> Result<(), StoreError> {
        let mut read = driver::Statement::new("SELECT key FROM system.local");
        read.set_consistency(driver::Consistency::EachQuorum);
        let answer = self.session().query_unpaged(read, ()).await;
        match answer.map_err(|e| classify::execution(&e)) {
            Err(error) if error.label == "consistency" => Err(StoreError::permanent("invalid", error.message)),
            // Any other outcome says nothing about the level.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Refuses a look-up that leaves part of its partition key unbound: every node would be asked for every record. Returns whether the server does not
    /// page its result.
    fn check_partition_key(
        &self,
        scanned: &cql::Scanned<'_>,
        prepared: &PreparedStatement,
        options: &StatementOptions,
    ) -> Result<bool, StoreError> {
        let columns = prepared.get_current_result_set_col_specs();
        let Some(spec) = columns.get().iter().map(|column| column.table_spec()).next() else {
            return Ok(false);
        };
        let table = spec.table_name();
        let Some((key, _)) = self.primary_key(spec.ks_name(), table) else {
            return Ok(false);
        };
        let whole = !prepared.get_variable_pk_indexes().is_empty()
            || cql::compares_all(scanned.text, key.iter().map(String::as_str));
        if !options.scan && !whole {
            let key = key.join(", ");
            let message = format!(
                "it reads {table} without its whole partition key ({key}), so every node would be asked for every record: bind the key, or declare scan = true"
            );
            return Err(StoreError::permanent("invalid", message));
        }
        paging::is_unpaged(scanned, &key, prepared.get_page_size())
    }

    /// The marker that is a table's whole partition key, if that is one column: no row can have an empty one, and a server refuses to look for it. The parts
    /// of a key of several columns may be empty, and the key of a view.
    fn sole_key(
        &self,
        scanned: &cql::Scanned<'_>,
        table: Option<&(String, String)>,
        partition_key: &[usize],
    ) -> Option<usize> {
        let ([marker], Some((keyspace, name))) = (partition_key, table) else {
            return None;
        };
        let (key, _) = self.primary_key(keyspace, name)?;
        // Of several values in IN, Cassandra reports the last one as the key.
        let one = matches!(key.as_slice(), [column] if scanned.equals(column));
        one.then_some(*marker)
    }

    /// Refuses a write that cannot be repeated because of a list. The text alone does not show which columns are lists that are not frozen.
    async fn check_lists(&self, text: &str, table: Option<(&str, &str)>) -> Result<(), StoreError> {
        let uses = cql::list_uses(text);
        let Some((keyspace, name)) = table.filter(|_| !uses.is_empty()) else {
            return Ok(());
        };
        if self.primary_key(keyspace, name).is_none() {
            // The table may have just been created. If it stays unknown, nothing can be said about it.
            let _ = self.session().refresh_metadata().await;
        }
        let lists = self.open_lists(keyspace, name);
        let why = uses.iter().find_map(|used| doubled(used, &lists));
        why.map_or(Ok(()), |why| Err(unrepeatable(&why)))
    }

    /// Interprets a failed request of the statement: if the database no longer accepts the statement as it was prepared, no record is to blame.
    async fn judge(&self, statement: &Statement, inner: &ScyllaStatement, error: StoreError) -> StoreError {
        // A value that could not be bound was never sent.
        if error.label == "value" {
            return error;
        }
        let life = |marker: &Marker| marker.name == cql::TTL_MARKER;
        let error = classify::life_of(error, statement.markers.iter().any(life));
        self.judge_answer(statement, inner, error).await
    }

    /// The same for an answer that cannot be read.
    async fn judge_answer(&self, statement: &Statement, inner: &ScyllaStatement, error: StoreError) -> StoreError {
        let by_id = error.label == "other_id";
        let prepare = async {
            let now = self.prepared(inner.prepared.get_statement()).await?;
            // A server that knows both ids may still execute the statement by the old one.
            if by_id && now.get_id() != inner.prepared.get_id() {
                let why = "all nodes have another id for the statement than at the start, as after an upgrade; restart";
                return Err(StoreError::permanent("other_id", why));
            }
            inner.check_types(statement, &now)
        };
        let agree = async { matches!(self.session().check_schema_agreement().await, Ok(Some(_))) };
        inner.taken.judge(error, prepare, agree).await
    }

    fn configure(&self, prepared: &mut PreparedStatement, options: &StatementOptions, scanned: &cql::Scanned<'_>) {
        prepared.set_is_idempotent(options.idempotent);
        // The columns behind `*` change with the table, so there each answer carries its own metadata.
        prepared.set_use_cached_result_metadata(!scanned.selects_all());
        prepared.set_request_timeout(options.timeout);
        if let Some(consistency) = options.consistency {
            prepared.set_consistency(consistency.into());
        }
        if let Some(serial) = options.serial_consistency {
            prepared.set_serial_consistency(Some(serial.into()));
        }
        // The server computes an aggregate over pages of this size, so an aggregate keeps the driver's default.
        if options.kind == Kind::Lookup && !paging::may_aggregate(scanned) {
            prepared.set_page_size(paging::page(options.rows));
        }
        if let Some(after) = options.speculative_after.filter(|_| options.idempotent) {
            let policy = SimpleSpeculativeExecutionPolicy {
                max_retry_count: 1,
                retry_interval: after,
            };
            let profile = self
                .session()
                .get_default_execution_profile_handle()
                .pointee_to_builder();
            let profile = profile.speculative_execution_policy(Some(Arc::new(policy))).build();
            prepared.set_execution_profile_handle(Some(profile.into_handle()));
        }
    }
}

impl Store for ScyllaStore {
    async fn prepare(&self, text: &str, options: &StatementOptions) -> Result<Statement, StoreError> {
        grouped::check(options)?;
        let level = options.consistency.unwrap_or(self.options.consistency);
        if options.kind == Kind::Lookup && level == Consistency::Any {
            let why =
                "no row is read with the consistency level any, which is for writes alone: give the look-up another";
            return Err(StoreError::permanent("invalid", why));
        }
        let using = |timestamp| {
            let ttl = options.ttl;
            cql::with_using(text, cql::Using { ttl, timestamp }).map_err(|e| StoreError::permanent("invalid", e))
        };
        let mut prepared = self.prepared(&using(false)?).await?;
        if options.kind == Kind::Lookup && level == Consistency::EachQuorum {
            self.check_each_quorum().await?;
        }
        let group = match options.group {
            Some(group) => {
                let stamped = self.prepared(&using(true)?).await?;
                Some(Box::new(grouped::Grouping::of(group, &prepared, stamped)?))
            }
            None => None,
        };
        let specs = prepared.get_variable_col_specs().iter();
        let table = specs
            .map(|s| s.table_spec())
            .next()
            .map(|t| (t.ks_name().to_owned(), t.table_name().to_owned()));
        let scanned = cql::scan(text);
        let markers: Vec<Marker> = prepared
            .get_variable_col_specs()
            .iter()
            .map(|spec| Marker {
                name: scanned.marker(spec.name()).unwrap_or(spec.name()).to_owned(),
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
        if options.kind == Kind::Write && options.idempotent {
            let table = table
                .as_ref()
                .map(|(keyspace, table)| (keyspace.as_str(), table.as_str()));
            self.check_lists(text, table).await?;
        }
        let key = match (&table, options.kind) {
            (Some((keyspace, name)), Kind::Write) => {
                let (mut columns, clustering) = self.primary_key(keyspace, name).unwrap_or_default();
                columns.extend(clustering);
                cql::key_markers(text, &columns, &markers)
            }
            _ => Box::default(),
        };
        self.configure(&mut prepared, options, &scanned);
        let unpaged = options.kind == Kind::Lookup && self.check_partition_key(&scanned, &prepared, options)?;
        let mut partition_key: Vec<_> = prepared.get_variable_pk_indexes().to_vec();
        partition_key.sort_by_key(|index| index.sequence);
        let partition_key: Box<[usize]> = partition_key.iter().map(|index| usize::from(index.index)).collect();
        let sole_key = self.sole_key(&scanned, table.as_ref(), &partition_key);
        Ok(Statement {
            markers: markers.into(),
            columns: if options.kind == Kind::Lookup {
                columns
            } else {
                Box::default()
            },
            partition_key,
            key,
            cql: text.into(),
            kind: options.kind,
            rows: options.rows,
            table: table.map(|(keyspace, table)| format!("{keyspace}.{table}").into_boxed_str()),
            inner: Prepared::Scylla(ScyllaStatement {
                prepared,
                handles: Mutex::default(),
                warned: AtomicBool::new(false),
                group,
                unpaged,
                all_columns: scanned.selects_all(),
                sole_key,
                plain: !scanned.has_word("if") && !scanned.has_word("in"),
                adds: scanned.has_symbol('+') || scanned.has_symbol('-'),
                taken: Taken::default(),
            }),
        })
    }

    async fn lookup(&self, statement: &Statement, values: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        let Prepared::Scylla(inner) = &statement.inner else {
            return Err(foreign_statement());
        };
        statement.expect(Kind::Lookup, values)?;
        let is_empty = |marker: usize| match (&values[marker], &statement.markers[marker].ty) {
            (Value::String(text), ColumnType::Text | ColumnType::Ascii) => text.is_empty(),
            (Value::Bytes(bytes), ColumnType::Blob) => bytes.is_empty(),
            _ => false,
        };
        if values.iter().any(Value::is_null) || inner.sole_key.is_some_and(is_empty) {
            return Ok(None);
        }
        let mut state = PagingState::start();
        let mut gather = Gather::new(statement);
        let error = loop {
            let bind = Bind {
                values,
                markers: &statement.markers,
                nulls: Nulls::Refused,
            };
            let (result, next) = if inner.unpaged {
                match self.session().execute_unpaged(&inner.prepared, &bind).await {
                    Ok(all) => (all, PagingStateResponse::NoMorePages),
                    Err(e) => break self.failed(&e),
                }
            } else {
                match self.session().execute_single_page(&inner.prepared, &bind, state).await {
                    Ok(page) => page,
                    Err(e) => break self.failed(&e),
                }
            };
            inner.warn(statement, &result);
            match row::gather(result, &statement.columns, inner.all_columns, &mut gather) {
                Ok(true) => {}
                Ok(false) => return Ok(gather.end()),
                Err(error) => return Err(Box::pin(self.judge_answer(statement, inner, error)).await),
            }
            // A page may be empty although rows follow: the server also counts filtered and deleted rows.
            match next {
                PagingStateResponse::HasMorePages { state: more } => state = more,
                PagingStateResponse::NoMorePages => return Ok(gather.end()),
            }
        };
        Err(Box::pin(self.judge(statement, inner, error)).await)
    }

    async fn write(&self, statement: &Statement, values: &[Value<'_>], timestamp_us: i64) -> Result<(), StoreError> {
        self.write_timed(statement, values, timestamp_us).await.map(|_| ())
    }
}

impl ScyllaStatement {
    /// How its rows are grouped, if they are.
    pub(super) fn grouping(&self) -> Option<&GroupOptions> {
        self.group.as_ref().map(|group| &group.options)
    }

    pub(super) fn grouped(&self) -> Option<&Arc<GroupStats>> {
        self.group.as_ref().map(|group| &group.stats)
    }

    /// Refuses a statement whose markers or columns have other types now that it was prepared again.
    fn check_types(&self, statement: &Statement, now: &PreparedStatement) -> Result<(), StoreError> {
        let markers = statement.markers.iter().map(|marker| &marker.ty);
        let columns = now.get_current_result_set_col_specs();
        let same = row::are_still(markers, now.get_variable_col_specs().iter().map(|spec| spec.typ()))
            && (statement.kind == Kind::Write
                || row::check_columns(columns.get(), &statement.columns, self.all_columns).is_ok());
        if same {
            return Ok(());
        }
        let why = "a column or a marker of it is of another type than at the start; restart";
        Err(StoreError::permanent("columns_changed", why))
    }

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

/// A look-up returns columns, a write does not (except the answer of a conditional one), and both can be repeated unless
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
        Kind::Write if options.idempotent => {
            let why = cql::unrepeatable(text, markers);
            return why.map_or(Ok(()), |why| Err(unrepeatable(&why)));
        }
        _ => None,
    };
    refused.map_or(Ok(()), |message| Err(StoreError::permanent("invalid", message)))
}

fn unrepeatable(why: &str) -> StoreError {
    let message = format!("the statement cannot be repeated: {why}; declare idempotent = false to accept that");
    StoreError::permanent("invalid", message)
}

/// Whether a column is a list whose elements can be written one by one.
fn is_open_list(ty: &Driver<'_>) -> bool {
    matches!(
        ty,
        Driver::Collection {
            frozen: false,
            typ: CollectionType::List(_)
        }
    )
}

/// Why a use of a column cannot be repeated, if the column is among these lists.
fn doubled(used: &cql::ListUse, lists: &[Column]) -> Option<String> {
    let find = |column: &str| lists.iter().find(|list| list.name == column);
    let remedy = |ty: &ColumnType| format!("make the column frozen<{ty}> or a set");
    match used {
        cql::ListUse::Whole(column) => find(column).map(|Column { name, ty }| {
            let remedy = remedy(ty);
            format!("it writes the whole list {name}, which would have each element twice ({remedy})")
        }),
        cql::ListUse::Json => lists.first().map(|Column { name, ty }| {
            let remedy = remedy(ty);
            format!("it may write the whole list {name}, which would have each element twice ({remedy})")
        }),
        cql::ListUse::Element(column) => find(column).map(|Column { name, .. }| {
            format!("it changes an element of the list {name} by its index, and would change another one (make the column a set or a map)")
        }),
    }
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

#[cfg(test)]
mod tests {
    use ::scylla::frame::response::result::NativeType;

    use super::*;

    #[test]
    fn a_list_that_is_not_frozen_is_not_written_whole() {
        let list = |frozen| Driver::Collection {
            frozen,
            typ: CollectionType::List(Box::new(Driver::Native(NativeType::Int))),
        };
        assert!(is_open_list(&list(false)));
        assert!(!is_open_list(&list(true)));
        assert!(!is_open_list(&Driver::Native(NativeType::Int)));
        let lists = [Column {
            name: "tags".to_owned(),
            ty: ColumnType::List(Box::new(ColumnType::Int)),
        }];
        let why = |cql: &str| cql::list_uses(cql).iter().find_map(|used| doubled(used, &lists));
        for cql in [
            "INSERT INTO t (id, tags) VALUES (:id, :v)",
            "INSERT INTO t JSON :v",
            "UPDATE t SET a = 1, tags = :v WHERE id = :id",
        ] {
            let why = why(cql).unwrap();
            assert!(
                why.contains("tags") && why.contains("frozen<list<int>>"),
                "{cql}: {why}"
            );
        }
        for cql in [
            "DELETE tags[:i] FROM t WHERE id = :id",
            "UPDATE t SET tags[:i] = :v WHERE id = :id",
        ] {
            assert!(why(cql).unwrap().contains("index"), "{cql}");
        }
        for cql in [
            "INSERT INTO t (id, other) VALUES (:tags, :v)",
            "UPDATE t SET other = :v WHERE id = :tags",
            "UPDATE t SET other[:i] = :v WHERE id = :id",
            "DELETE other[:i], tags FROM t WHERE id = :id",
        ] {
            assert_eq!(why(cql), None, "{cql}");
        }
    }
}
