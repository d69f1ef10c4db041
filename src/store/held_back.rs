//! A store for dry runs: it executes look-ups, and notes writes instead of executing them.

use std::sync::{Mutex, PoisonError};

use super::scylla::ScyllaStore;
use super::sqlite::SqliteStore;
use super::{AnyStore, Kind, Row, Statement, StatementOptions, Store, StoreError};
use crate::avro::value::Value;

/// A write that was recorded instead of executed.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Which statement it is: [`Statement::identity`].
    pub statement: usize,
    /// The values by marker. A null leaves what is stored unchanged.
    pub values: Vec<(String, Value<'static>)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct HeldBack {
    asked: Asked,
    held: Mutex<Vec<Held>>,
}

/// The store that answers look-ups.
#[derive(Debug)]
enum Asked {
    Scylla(ScyllaStore),
    Sqlite(SqliteStore),
}

impl HeldBack {
    /// The same store, with writes recorded instead of executed.
    pub fn of(store: AnyStore) -> AnyStore {
        let asked = match store {
            AnyStore::Scylla(store) => Asked::Scylla(store),
            AnyStore::Sqlite(store) => Asked::Sqlite(store),
            AnyStore::HeldBack(_) => return store,
            #[cfg(test)]
            AnyStore::Memory(_) => return store,
        };
        AnyStore::HeldBack(HeldBack {
            asked,
            held: Mutex::default(),
        })
    }

    /// The writes recorded since the last call.
    pub fn take(&self) -> Vec<Held> {
        std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store for HeldBack {
    async fn prepare(&self, cql: &str, options: &StatementOptions) -> Result<Statement, StoreError> {
        match &self.asked {
            Asked::Scylla(store) => store.prepare(cql, options).await,
            Asked::Sqlite(store) => store.prepare(cql, options).await,
        }
    }

    async fn lookup(&self, statement: &Statement, values: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        match &self.asked {
            Asked::Scylla(store) => store.lookup(statement, values).await,
            Asked::Sqlite(store) => store.lookup(statement, values).await,
        }
    }

    async fn write(&self, statement: &Statement, values: &[Value<'_>], _timestamp_us: i64) -> Result<(), StoreError> {
        statement.expect(Kind::Write, values)?;
        statement.expect_partition_key(values)?;
        let names = statement.markers().iter().map(|marker| marker.name.clone());
        let held = Held {
            statement: statement.identity(),
            values: names
                .zip(values.iter().map(|value| value.clone().into_owned()))
                .collect(),
        };
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(held);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::cluster::Scratch;
    use crate::store::sqlite::SqliteOptions;

    fn text(text: &'static str) -> Value<'static> {
        Value::String(text.into())
    }

    #[tokio::test]
    async fn look_ups_are_answered_from_a_copy_and_writes_are_noted() {
        let scratch = Scratch::new().unwrap();
        let (original, copy) = (scratch.database(), scratch.database().with_extension("copy"));
        let store = SqliteStore::open(&SqliteOptions::new(&original)).unwrap();
        let sql = "CREATE TABLE t (k text PRIMARY KEY, v bigint) WITHOUT ROWID; INSERT INTO t VALUES ('a', 1)";
        store.execute_script(sql).await.unwrap();
        SqliteStore::copy(&original, &copy).unwrap();
        let held = HeldBack::of(AnyStore::Sqlite(SqliteStore::open(&SqliteOptions::new(&copy)).unwrap()));

        let (write, lookup) = (StatementOptions::write(), StatementOptions::lookup());
        let insert = "INSERT INTO t (k, v) VALUES (:k, :v)";
        let insert = held.prepare(insert, &write).await.unwrap();
        held.write(&insert, &[text("b"), Value::Long(2)], 7).await.unwrap();
        let refused = held
            .write(&insert, &[Value::Null, Value::Long(2)], 7)
            .await
            .unwrap_err();
        assert_eq!(refused.label, "null_key");
        let select = "SELECT v FROM t WHERE k = :k";
        let select = held.prepare(select, &lookup).await.unwrap();
        let row = async |key: &'static str| held.lookup(&select, &[text(key)]).await;
        assert_eq!(row("a").await.unwrap().unwrap()[0], Value::Long(1));
        assert_eq!(row("b").await.unwrap(), None, "it was held back");

        let AnyStore::HeldBack(held) = &held else {
            panic!("not held back")
        };
        let noted = held.take();
        assert_eq!(noted.len(), 1);
        assert_eq!(noted[0].statement, insert.identity());
        assert_eq!(
            noted[0].values,
            [("k".to_owned(), text("b")), ("v".to_owned(), Value::Long(2))]
        );
        assert!(held.take().is_empty());
        // Preparing the write added Messina's column to the copy only.
        let all = store
            .prepare(
                "SELECT messina_timestamp FROM t WHERE k = :k",
                &StatementOptions::lookup(),
            )
            .await;
        assert!(all.is_err(), "the original was changed");
        let missing = SqliteStore::copy(&scratch.database().with_extension("no"), &copy).unwrap_err();
        assert!(missing.message.contains(".no"), "{missing}");
    }
}
