//! The CQL database from the outside, by the driver itself.

use std::collections::HashMap;
use std::hash::Hash;

use futures_util::TryStreamExt;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;

use super::Bench;

/// A connection of the test's own.
pub struct Database {
    session: Session,
}

impl Bench {
    /// Connects.
    pub fn database(&self) -> Database {
        let session = self
            .wait(SessionBuilder::new().known_nodes(&self.nodes).build())
            .unwrap();
        Database { session }
    }

    /// Makes a keyspace, and tables in it: name and columns.
    pub fn create_tables(&self, database: &Database, keyspace: &str, tables: &[(&str, &str)]) {
        let replication = "{'class': 'NetworkTopologyStrategy', 'dc1': 1}";
        database.run(
            self,
            &format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication}"),
        );
        for (name, columns) in tables {
            database.run(self, &format!("CREATE TABLE {keyspace}.{name} ({columns})"));
        }
    }

    /// Drops the keyspaces of this test.
    pub(super) fn drop_keyspaces(&self) {
        let database = self.database();
        let all: Vec<(String,)> = database.rows(self, "SELECT keyspace_name FROM system_schema.keyspaces");
        for (keyspace,) in all.into_iter().filter(|(name,)| name.starts_with(&self.keyspace)) {
            database.run(self, &format!("DROP KEYSPACE {keyspace}"));
        }
    }
}

impl Database {
    /// Runs a statement that answers nothing.
    pub fn run(&self, bench: &Bench, cql: &str) {
        bench.wait(self.session.query_unpaged(cql, ())).unwrap();
    }

    /// All rows of a statement.
    pub fn rows<R>(&self, bench: &Bench, cql: &str) -> Vec<R>
    where
        R: for<'f, 'm> DeserializeRow<'f, 'm> + 'static,
    {
        bench.wait(async {
            let pager = self.session.query_iter(cql, ()).await.unwrap();
            pager.rows_stream::<R>().unwrap().try_collect().await.unwrap()
        })
    }

    /// Rows of two columns, of which the first is unique.
    pub fn map<K, V>(&self, bench: &Bench, cql: &str) -> HashMap<K, V>
    where
        K: Eq + Hash,
        (K, V): for<'f, 'm> DeserializeRow<'f, 'm> + 'static,
    {
        self.rows::<(K, V)>(bench, cql).into_iter().collect()
    }
}
