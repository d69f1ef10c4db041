//! The CQL database seen from outside, through the driver itself.

use std::collections::HashMap;
use std::hash::Hash;

use futures_util::TryStreamExt;
use openssl::ssl::{SslConnector, SslFiletype, SslMethod};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use scylla::statement::{Consistency, Statement};

use super::Bench;

/// A connection of the test's own.
pub struct Database {
    session: Session,
}

impl Bench {
    /// Connects.
    pub fn database(&self) -> Database {
        let mut builder = SessionBuilder::new().known_nodes(&self.nodes);
        if let Some(own) = &self.own
            && own.variable("SCYLLA_TLS_NODES").is_some()
        {
            let tls = own.tls();
            let mut context = SslConnector::builder(SslMethod::tls_client()).unwrap();
            context.set_ca_file(tls.join("ca.pem")).unwrap();
            context.set_certificate_chain_file(tls.join("client.crt")).unwrap();
            context
                .set_private_key_file(tls.join("client.key"), SslFiletype::PEM)
                .unwrap();
            builder = builder.tls_context(Some(context)).user("cassandra", "cassandra");
        }
        let session = self.wait(builder.build()).unwrap();
        Database { session }
    }

    /// Makes a keyspace, and tables in it: name and columns.
    pub fn create_tables(&self, database: &Database, keyspace: &str, tables: &[(&str, &str)]) {
        let replicas: String = self.datacenters.iter().map(|name| format!(", '{name}': 1")).collect();
        let replication = format!("{{'class': 'NetworkTopologyStrategy'{replicas}}}");
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
    /// Runs a statement that returns no rows.
    pub fn run(&self, bench: &Bench, cql: &str) {
        self.try_run(bench, cql).unwrap();
    }

    /// The same for a statement that the server may refuse.
    pub fn try_run(&self, bench: &Bench, cql: &str) -> Result<(), String> {
        let answer = bench.wait(self.session.query_unpaged(cql, ()));
        answer.map(drop).map_err(|error| error.to_string())
    }

    /// All rows of a statement, merged from all replicas, because a replica that was down gets what it missed only
    /// later.
    pub fn rows<R>(&self, bench: &Bench, cql: &str) -> Vec<R>
    where
        R: for<'f, 'm> DeserializeRow<'f, 'm> + 'static,
    {
        bench.wait(async {
            let mut statement = Statement::new(cql);
            statement.set_consistency(Consistency::All);
            let pager = self.session.query_iter(statement, ()).await.unwrap();
            pager.rows_stream::<R>().unwrap().try_collect().await.unwrap()
        })
    }

    /// Rows of two columns, the first of which is unique.
    pub fn map<K, V>(&self, bench: &Bench, cql: &str) -> HashMap<K, V>
    where
        K: Eq + Hash,
        (K, V): for<'f, 'm> DeserializeRow<'f, 'm> + 'static,
    {
        self.rows::<(K, V)>(bench, cql).into_iter().collect()
    }
}
