//! Asks the server which columns of a table were dropped.
//!
//! A server discards the values of a dropped column by their timestamps, all up to the time of the drop, also in a column that was added again by that
//! name. Write timestamps are those of records, so that an older record loses its value there without an error.

use ::scylla::statement::{Consistency, Statement};
use ::scylla::value::CqlTimestamp;

use super::ScyllaStore;

const DROPPED: &str =
    "SELECT column_name, dropped_time FROM system_schema.dropped_columns WHERE keyspace_name = ? AND table_name = ?";

impl ScyllaStore {
    /// The columns that were ever dropped from a table (`keyspace.table`, as the server spells it), whether or not they were added again, each with the
    /// time of its last drop in milliseconds since 1970. Empty if the server does not tell.
    pub async fn dropped_columns(&self, table: &str) -> Vec<(String, i64)> {
        self.dropped(table).await.unwrap_or_default()
    }

    async fn dropped(&self, table: &str) -> Option<Vec<(String, i64)>> {
        let mut dropped = Statement::new(DROPPED);
        // The session's own level may be one that only writes accept.
        dropped.set_consistency(Consistency::One);
        let answer = self.session().query_unpaged(dropped, table.split_once('.')?).await;
        let rows = answer.ok()?.into_rows_result().ok()?;
        let rows = rows.rows::<(String, CqlTimestamp)>().ok()?;
        rows.map(|row| row.ok().map(|(column, time)| (column, in_millis(time.0))))
            .collect()
    }
}

/// ScyllaDB keeps microseconds in this column of milliseconds.
fn in_millis(time: i64) -> i64 {
    // No drop is of the year 5138 or later.
    const LAST: i64 = 100_000_000_000_000;
    if time > LAST { time / 1000 } else { time }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_microseconds_is_read_as_that() {
        assert_eq!(in_millis(1_764_000_000_000), 1_764_000_000_000);
        assert_eq!(in_millis(1_764_000_000_000_000), 1_764_000_000_000);
    }
}
