//! Writes a row in its own request: if its statement has no groups, or if it must not share a batch.
//!
//! The timestamp is in the request, and the driver takes it from the statement's handle. So each write has its own handle, and returns it for the
//! next one.

use std::sync::PoisonError;

use ::scylla::statement::prepared::PreparedStatement;

use super::bind::{Bind, Encoded, Nulls};
use super::{ScyllaStatement, ScyllaStore};
use crate::avro::value::Value;
use crate::store::{Kind, Prepared, Statement, StoreError, classify, foreign_statement};

/// The most handles kept for a statement.
const HANDLES: usize = 1024;

impl ScyllaStore {
    /// Writes a row in its own request, whether or not its statement has groups.
    pub(in crate::store) async fn write_alone(
        &self,
        statement: &Statement,
        values: &[Value<'_>],
        timestamp_us: i64,
    ) -> Result<(), StoreError> {
        let Prepared::Scylla(inner) = &statement.inner else {
            return Err(foreign_statement());
        };
        statement.expect(Kind::Write, values)?;
        statement.expect_partition_key(values)?;
        let mut prepared = inner.handle();
        prepared.set_timestamp(Some(timestamp_us));
        let bind = Bind {
            values,
            markers: &statement.markers,
            nulls: Nulls::Unset,
        };
        let error = match self.session().execute_unpaged(&prepared, &bind).await {
            Ok(result) => {
                inner.give_back(prepared);
                inner.warn(statement, &result);
                return Ok(());
            }
            Err(e) => StoreError {
                not_applied: !prepared.get_is_idempotent() && classify::not_applied(&e, inner.plain, inner.adds),
                ..self.failed(&e)
            },
        };
        let bytes = || Encoded::new(values, &statement.markers, (0, timestamp_us)).map_or(0, |row| row.len());
        let error = classify::write_of(error, bytes);
        Err(Box::pin(self.judge(statement, inner, error)).await)
    }
}

impl ScyllaStatement {
    /// A handle for the caller's own use.
    pub(super) fn handle(&self) -> PreparedStatement {
        let spare = self.handles.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| self.prepared.clone())
    }

    pub(super) fn give_back(&self, handle: PreparedStatement) {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if handles.len() < HANDLES {
            handles.push(handle);
        }
    }
}
