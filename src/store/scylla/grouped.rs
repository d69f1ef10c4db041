//! Grouped writes on CQL: one unlogged batch for rows of one partition, or of several if that is declared.
//!
//! A batch has one timestamp but each row has its own, so the statement gets a marker for it (`USING TIMESTAMP`), invisible to others. A waiting row
//! is held in wire format, is compared by the encoded cells of its partition key, and is encoded once. A single row has its timestamp in the request,
//! as without groups, because ScyllaDB refuses `USING TIMESTAMP` more than three days ahead in a statement, but not in a batch or a request.
//!
//! Invariants: a batch is unlogged and idempotent; a statement that is not idempotent, or whose partition is not bound, has no groups; a row that
//! cannot be encoded fails before it joins others; a refused batch is logged here, because if each of its rows is then accepted singly, nothing else
//! would report it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::scylla::statement::batch::{Batch, BatchStatement, BatchType};
use ::scylla::statement::prepared::PreparedStatement;

use super::bind::{Encoded, Unstamped};
use super::{ScyllaStatement, ScyllaStore};
use crate::avro::value::Value;
use crate::retry::Class;
use crate::store::group::{self, Came, GroupOptions, GroupStats};
use crate::store::{Kind, Prepared, Statement, StatementOptions, StoreError, classify, cql, foreign_statement};
use crate::telemetry::limit::Limiter;
use crate::telemetry::scrub::scrub;

/// How often refused batches of a statement are logged, per reason.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A row of a write in wire format, to be sent in a batch with others.
#[derive(Debug)]
pub struct EncodedRow {
    row: Encoded,
    place: Box<[u8]>,
}

impl EncodedRow {
    /// The size of its values in bytes.
    pub fn bytes(&self) -> usize {
        self.row.len()
    }

    /// What rows that may share a batch have in common, to be taken once: the partition key, or nothing if a batch may span partitions.
    pub fn take_place(&mut self) -> Box<[u8]> {
        std::mem::take(&mut self.place)
    }
}

#[cfg(test)]
impl EncodedRow {
    /// A row without values.
    pub(crate) fn of_place(place: Box<[u8]>) -> Result<EncodedRow, StoreError> {
        let row = Encoded::new(&[], &[], (0, 0))?;
        Ok(EncodedRow { row, place })
    }
}

/// The waiting rows, by statement and partition.
pub(super) type Groups = group::Groups<(u64, Box<[u8]>), Encoded>;

/// How the rows of a statement are grouped.
#[derive(Debug)]
pub(super) struct Grouping {
    pub(super) options: GroupOptions,
    pub(super) stats: Arc<GroupStats>,
    /// A number that is unique among the statements of all sessions.
    statement: u64,
    /// The statement for batches, with a marker for the timestamp.
    stamped: PreparedStatement,
    /// The index of that marker among all markers.
    stamp: usize,
    /// The indexes of the partition key among the statement's own markers; empty if a batch may span partitions.
    key: Vec<usize>,
    /// Keeps refused batches from filling the log.
    limiter: Limiter<&'static str>,
}

fn refused(message: &str) -> StoreError {
    StoreError::permanent("invalid", message)
}

/// Refuses to group a statement that must not be repeated.
pub(super) fn check(options: &StatementOptions) -> Result<(), StoreError> {
    if options.group.is_some() && !options.idempotent {
        return Err(refused(
            "a batch may be repeated, so what is grouped has to be idempotent: remove `group`",
        ));
    }
    Ok(())
}

impl Grouping {
    /// The grouping of a statement; `stamped` is the same statement with a marker for the timestamp.
    pub(super) fn of(
        group: GroupOptions,
        prepared: &PreparedStatement,
        stamped: PreparedStatement,
    ) -> Result<Grouping, StoreError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let specs = stamped.get_variable_col_specs().as_slice();
        let stamp = specs.iter().position(|spec| spec.name() == cql::TIMESTAMP_MARKER);
        let stamp =
            stamp.ok_or_else(|| refused("the database knows no marker of the timestamp, so rows cannot be grouped"))?;
        let key: Vec<usize> = prepared
            .get_variable_pk_indexes()
            .iter()
            .map(|i| usize::from(i.index))
            .collect();
        if key.is_empty() && !group.across_partitions {
            return Err(refused(
                "its partition key is not bound by markers alone, so rows of one partition cannot be grouped: bind it, or remove `group`",
            ));
        }
        Ok(Grouping {
            options: group,
            stats: Arc::default(),
            statement: NEXT.fetch_add(1, Ordering::Relaxed),
            stamped,
            stamp,
            key: if group.across_partitions { Vec::new() } else { key },
            limiter: Limiter::new(TELL_EVERY),
        })
    }

    /// Logs a batch that the database refuses.
    fn tell(&self, statement: &Statement, rows: usize, error: &StoreError) {
        if let Some(suppressed) = self.limiter.admit(error.label, Instant::now()) {
            tracing::warn!(
                statement = statement.cql(),
                reason = error.label,
                rows,
                suppressed,
                "a batch is refused, and its rows are written one by one: {}",
                scrub(&error.message)
            );
        }
    }
}

impl ScyllaStore {
    /// Encodes a row for [`ScyllaStore::write_rows`]. `None` if its statement has no groups, if the row fills one by itself, or if it cannot be encoded:
    /// then write it alone, which reports why.
    pub fn encode(&self, statement: &Statement, values: &[Value<'_>], timestamp_us: i64) -> Option<EncodedRow> {
        let Prepared::Scylla(inner) = &statement.inner else {
            return None;
        };
        let grouping = inner.group.as_ref()?;
        statement.expect(Kind::Write, values).ok()?;
        statement.expect_partition_key(values).ok()?;
        let row = Encoded::new(values, &statement.markers, (grouping.stamp, timestamp_us)).ok()?;
        let place = row.key(&grouping.key);
        (row.len() < grouping.options.max_bytes).then_some(EncodedRow { row, place })
    }

    /// Writes rows of one statement in one batch.
    pub async fn write_rows(&self, statement: &Statement, rows: Vec<EncodedRow>) -> Result<(), StoreError> {
        let Prepared::Scylla(inner) = &statement.inner else {
            return Err(foreign_statement());
        };
        let Some(grouping) = &inner.group else {
            return Err(foreign_statement());
        };
        let count = rows.len();
        let rows = rows.into_iter().map(|row| row.row).collect();
        self.send(grouping, inner, statement, rows).await?;
        grouping.stats.count(count);
        Ok(())
    }

    /// Writes a row as [`crate::store::Store::write`] does, and returns how long its request took, without the wait for other rows before it.
    pub(in crate::store) async fn write_timed(
        &self,
        statement: &Statement,
        values: &[Value<'_>],
        timestamp_us: i64,
    ) -> Result<Duration, StoreError> {
        let Prepared::Scylla(inner) = &statement.inner else {
            return Err(foreign_statement());
        };
        let Some(grouping) = &inner.group else {
            let began = Instant::now();
            self.write_alone(statement, values, timestamp_us).await?;
            return Ok(began.elapsed());
        };
        statement.expect(Kind::Write, values)?;
        statement.expect_partition_key(values)?;
        self.write_grouped(grouping, inner, statement, values, timestamp_us)
            .await
    }

    /// Writes a row with others, or alone if its batch is refused.
    async fn write_grouped(
        &self,
        grouping: &Grouping,
        inner: &ScyllaStatement,
        statement: &Statement,
        values: &[Value<'_>],
        timestamp_us: i64,
    ) -> Result<Duration, StoreError> {
        let row = Encoded::new(values, &statement.markers, (grouping.stamp, timestamp_us))?;
        let (key, bytes) = ((grouping.statement, row.key(&grouping.key)), row.len());
        let send = |rows| self.send(grouping, inner, statement, rows);
        let came = self
            .groups
            .write(key, row, bytes, &grouping.options, &grouping.stats, send)
            .await;
        match came {
            Came::Written(took) => Ok(took),
            Came::Failed(error) => Err(error),
            Came::Alone => {
                let began = Instant::now();
                Box::pin(self.write_alone(statement, values, timestamp_us)).await?;
                Ok(began.elapsed())
            }
        }
    }

    async fn send(
        &self,
        grouping: &Grouping,
        inner: &ScyllaStatement,
        statement: &Statement,
        rows: Vec<Encoded>,
    ) -> Result<(), StoreError> {
        let (count, bytes) = (rows.len(), rows.iter().map(Encoded::len).sum::<usize>());
        let sent = if let [row] = rows.as_slice() {
            let mut prepared = inner.handle();
            prepared.set_timestamp(Some(row.timestamp_us));
            let sent = self.session().execute_unpaged(&prepared, Unstamped(row)).await;
            inner.give_back(prepared);
            sent
        } else {
            let prepared = &inner.prepared;
            let statements = vec![BatchStatement::PreparedStatement(grouping.stamped.clone()); rows.len()];
            let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
            batch.set_is_idempotent(true);
            batch.set_request_timeout(prepared.get_request_timeout());
            if let Some(level) = prepared.get_consistency() {
                batch.set_consistency(level);
            }
            self.session().batch(&batch, rows).await
        };
        let result = match sent.map_err(|e| self.failed(&e)) {
            Ok(result) => result,
            Err(error) => {
                let error = Box::pin(self.judge(statement, inner, classify::write_of(error, || bytes))).await;
                if count > 1 && error.class == Class::Permanent {
                    grouping.tell(statement, count, &error);
                }
                return Err(error);
            }
        };
        inner.warn(statement, &result);
        Ok(())
    }
}
