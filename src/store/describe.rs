//! Describes a table for `messina init`, which writes a pipeline around it.
//!
//! Columns and types come from a prepared `SELECT *`, as they will for the pipeline's own statements; the key comes from the database's schema.

use super::{AnyStore, Column, StatementOptions, Store, StoreError};

/// A table: its columns and which of them are its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// Its name, as statements write it: without its keyspace, if that is the store's own.
    pub name: String,
    /// All columns, with their types.
    pub columns: Vec<Column>,
    /// The partition key's columns. For SQLite the whole primary key.
    pub partition_key: Vec<String>,
    /// The clustering key's columns.
    pub clustering_key: Vec<String>,
    /// The columns that are lists and not frozen: repeating a write of one duplicates its elements. SQLite has none.
    pub open_lists: Vec<String>,
}

impl Description {
    /// The columns of the whole primary key, in order.
    pub fn key(&self) -> impl Iterator<Item = &Column> {
        let names = self.partition_key.iter().chain(&self.clustering_key);
        names.filter_map(|name| self.columns.iter().find(|column| column.name == *name))
    }

    /// The columns outside the key.
    pub fn rest(&self) -> impl Iterator<Item = &Column> {
        let in_key = |name| self.partition_key.contains(name) || self.clustering_key.contains(name);
        self.columns.iter().filter(move |column| !in_key(&column.name))
    }
}

/// Describes a table; `name` is `table`, or `keyspace.table` if the store is a CQL server.
///
/// # Errors
/// If there is no such table; the error of a CQL server lists those that exist.
pub async fn describe(store: &AnyStore, keyspace: Option<&str>, name: &str) -> Result<Description, StoreError> {
    let options = StatementOptions {
        scan: true,
        ..StatementOptions::lookup()
    };
    let all = store
        .prepare(&format!("SELECT * FROM {}", quoted_table(name)), &options)
        .await;
    let (own, table) = name.split_once('.').map_or((keyspace, name), |(k, t)| (Some(k), t));
    let (columns, (partition_key, clustering_key)) = match (store, all) {
        (AnyStore::Scylla(scylla), Ok(statement)) => {
            let key = scylla.primary_key(own.unwrap_or_default(), table);
            let missing = || StoreError::permanent("invalid", format!("{name} is no table: a view, or just made"));
            (statement.columns().to_vec(), key.ok_or_else(missing)?)
        }
        (AnyStore::Scylla(scylla), Err(mut error)) => {
            let known = scylla.tables_of(own.unwrap_or_default());
            if !known.is_empty() {
                error.message = format!("{}; the keyspace has {}", error.message, known.join(", "));
            }
            return Err(error);
        }
        (AnyStore::Sqlite(sqlite), all) => (all?.columns().to_vec(), (sqlite.primary_key(table)?, Vec::new())),
        (_, all) => (all?.columns().to_vec(), (Vec::new(), Vec::new())),
    };
    let open_lists = match store {
        AnyStore::Scylla(scylla) => scylla.open_lists(own.unwrap_or_default(), table),
        _ => Vec::new(),
    };
    Ok(Description {
        name: name.to_owned(),
        columns,
        partition_key,
        clustering_key,
        open_lists: open_lists.into_iter().map(|list| list.name).collect(),
    })
}

/// Words that CQL or SQLite does not accept as a name without quotes.
const WORDS: &str = " add all allow alter and any apply as asc authorize batch begin by case check columnfamily commit create cross default \
     delete desc describe distinct drop else entries escape execute exists false foreign from full grant group having if in index infinity inner \
     insert into is isnull join keyspace left like limit match materialized mbean mbeans modify nan natural norecursive not notnull null \
     of offset on or order outer primary references rename replace revoke right schema select set table then to token transaction true truncate \
     union unique unlogged unset update use using values view when where with ";

/// Whether a statement may write this name without quotes, and a marker may have it.
pub fn is_bare(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(plain)
        && !WORDS.contains(&format!(" {name} "))
}

/// A name as a statement writes it: in quotes only if necessary.
pub fn quoted(name: &str) -> String {
    if is_bare(name) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// `table` or `keyspace.table` as a statement writes it.
pub fn quoted_table(name: &str) -> String {
    name.split('.').map(quoted).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ColumnType;
    use crate::store::sqlite::{SqliteOptions, SqliteStore};

    #[test]
    fn names_are_quoted_where_they_must_be() {
        assert_eq!(quoted("user_id"), "user_id");
        assert_eq!(quoted("Name"), "\"Name\"");
        assert_eq!(quoted("order"), "\"order\"");
        assert_eq!(quoted("true"), "\"true\"");
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        assert_eq!(quoted_table("ks.table"), "ks.\"table\"");
    }

    #[tokio::test]
    async fn a_table_of_sqlite_is_described() {
        let scratch = crate::demo::cluster::Scratch::new().unwrap();
        let store = SqliteStore::open(&SqliteOptions::new(scratch.database())).unwrap();
        let sql = "CREATE TABLE t (a text, b bigint, c \"list<text>\", PRIMARY KEY (b, a)) WITHOUT ROWID";
        store.execute_script(sql).await.unwrap();
        let store = AnyStore::Sqlite(store);
        let found = describe(&store, None, "t").await.unwrap();
        assert_eq!(found.partition_key, ["b", "a"]);
        assert_eq!(found.key().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        let rest: Vec<_> = found.rest().collect();
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].ty, ColumnType::List(Box::new(ColumnType::Text)));
        assert!(describe(&store, None, "u").await.unwrap_err().message.contains('u'));
    }
}
