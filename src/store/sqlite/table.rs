//! Reads a table's columns, declared types and primary key from SQLite.
//!
//! Markers and result columns get their types from here. Invariant: Messina's own two columns are never shown.

use rusqlite::Connection;

use super::sql::{EXPIRES, TIMESTAMP, quoted};
use super::{declared_type, invalid};
use crate::store::{ColumnType, StoreError, classify};

/// A table as declared.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(String, ColumnType)>,
    /// The columns that are collections and not frozen.
    unfrozen: Vec<String>,
    key: Vec<String>,
}

impl Table {
    /// Reads a table, which must exist. `place` names the file in the error, if that could be in doubt.
    pub(super) fn read(connection: &Connection, name: &str, place: &str) -> Result<Table, StoreError> {
        let mut table = Table {
            columns: Vec::new(),
            unfrozen: Vec::new(),
            key: Vec::new(),
        };
        let mut key: Vec<(i64, String)> = Vec::new();
        let sql = format!("PRAGMA table_info({})", quoted(name));
        let mut statement = connection.prepare(&sql).map_err(|e| classify::sqlite(&e))?;
        let mut rows = statement.query([]).map_err(|e| classify::sqlite(&e))?;
        while let Some(row) = rows.next().map_err(|e| classify::sqlite(&e))? {
            let get = || -> rusqlite::Result<(String, String, i64)> { Ok((row.get(1)?, row.get(2)?, row.get(5)?)) };
            let (column, declared, place) = get().map_err(|e| classify::sqlite(&e))?;
            if ["true", "false"].iter().any(|word| column.eq_ignore_ascii_case(word)) {
                // SQLite renames such a column of an inner query.
                return Err(invalid(format!(
                    "SQLite cannot look up a column that is called {column}: rename it in table {name}"
                )));
            }
            let ty = declared_type(name, &column, &declared)?;
            if place > 0 {
                key.push((place, column.clone()));
            }
            if is_unfrozen(&declared, &ty) {
                table.unfrozen.push(column.clone());
            }
            table.columns.push((column, ty));
        }
        if table.columns.is_empty() {
            return Err(invalid(format!("SQLite has no table {name}{place}")));
        }
        key.sort();
        table.key = key.into_iter().map(|(_, column)| column).collect();
        Ok(table)
    }

    /// Whether it has this column, Messina's included. SQLite's names ignore case.
    pub(super) fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|(name, _)| name.eq_ignore_ascii_case(column))
    }

    /// The declared type of a column.
    pub(super) fn type_of(&self, column: &str) -> ColumnType {
        let found = self.columns.iter().find(|(name, _)| name.eq_ignore_ascii_case(column));
        found.map_or(ColumnType::Any, |(_, ty)| ty.clone())
    }

    /// Whether the column is a collection that CQL does not store when empty, but returns as null.
    pub(super) fn is_unfrozen(&self, column: &str) -> bool {
        self.unfrozen.iter().any(|name| name.eq_ignore_ascii_case(column))
    }

    /// The primary key's columns in order.
    pub(super) fn key(&self) -> impl Iterator<Item = &str> {
        self.key.iter().map(String::as_str)
    }

    /// Its columns without Messina's.
    pub(super) fn visible(&self) -> impl Iterator<Item = &str> {
        self.columns
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| *name != TIMESTAMP && *name != EXPIRES)
    }

    /// The marker that binds the first column of the primary key.
    pub(super) fn partition_key(&self, markers: &[(String, usize)]) -> Box<[usize]> {
        let first = self.key.first();
        let bound = first.and_then(|key| markers.iter().find(|(column, _)| column.eq_ignore_ascii_case(key)));
        bound.map(|(_, marker)| *marker).into_iter().collect()
    }
}

fn is_unfrozen(declared: &str, ty: &ColumnType) -> bool {
    let frozen = declared.trim_start().to_ascii_lowercase().starts_with("frozen");
    !frozen && matches!(ty, ColumnType::List(_) | ColumnType::Set(_) | ColumnType::Map(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_that_has_no_name_in_an_inner_query_is_refused() {
        let connection = Connection::open_in_memory().unwrap();
        let sql =
            "CREATE TABLE t (k text PRIMARY KEY, \"null\" text); CREATE TABLE f (k text PRIMARY KEY, \"False\" text)";
        connection.execute_batch(sql).unwrap();
        assert!(Table::read(&connection, "t", "").unwrap().has("null"));
        let refused = Table::read(&connection, "f", "").err().unwrap().to_string();
        assert!(refused.contains("a column that is called False"), "{refused}");
    }

    #[test]
    fn collections_are_frozen_as_they_are_declared() {
        for (declared, unfrozen) in [
            ("list<int>", true),
            ("SET<text>", true),
            ("map<text, frozen<list<int>>>", true),
            ("frozen<set<text>>", false),
            ("Frozen <map<text, int>>", false),
            ("tuple<int, text>", false),
            ("vector<float, 3>", false),
            ("text", false),
        ] {
            let ty = ColumnType::parse(declared).unwrap();
            assert_eq!(is_unfrozen(declared, &ty), unfrozen, "{declared}");
        }
    }
}
