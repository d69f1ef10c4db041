//! Clusters of a test's own: one that requires a certificate and a password, and one of two datacenters whose local one is killed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use messina::avro::value::Value;
use messina::certificates::PemFiles;
use messina::retry::Class;
use messina::store::scylla::{ScyllaOptions, ScyllaStore};
use messina::store::{AnyStore, Consistency, Store};

use super::own::Own;
use super::{KEYSPACE, create_schema, items, scylla_options, string, unique};

/// Options with long time-outs, for a server that is busy starting on few cores.
fn patient(nodes: &[&str]) -> ScyllaOptions {
    ScyllaOptions {
        nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        keepalive_timeout: Duration::from_secs(20),
        request_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(20),
        ..ScyllaOptions::default()
    }
}

/// The whole suite again, over TLS with a client certificate, and with a password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs cassandra-tls"]
async fn the_suite_with_client_certificate_and_password() {
    if scylla_options().is_none() {
        return;
    }
    let own = Own::start(
        "cassandra-tls",
        "store-tls",
        &[
            ("CASSANDRA_TLS_PORT", "27443"),
            ("CASSANDRA_JVM_OPTIONS", "-XX:TieredStopAtLevel=1"),
        ],
    );
    let tls = PemFiles {
        ca: Some(own.certificate("ca.pem")),
        cert: Some(own.certificate("client.crt")),
        key: Some(own.certificate("client.key")),
    };
    let options = |password: &str, tls: Option<PemFiles>| {
        let password = password.to_owned();
        ScyllaOptions {
            username: Some("cassandra".to_owned()),
            password: Some(Arc::new(move || Ok(password.clone()))),
            tls,
            consistency: Consistency::LocalOne,
            ..patient(&["127.0.0.1:27443"])
        }
    };
    let wrong = ScyllaStore::connect(&options("wrong", Some(tls.clone())))
        .await
        .unwrap_err();
    assert_eq!(wrong.class, Class::Fatal, "a wrong password: {wrong}");
    let anonymous = PemFiles {
        cert: None,
        key: None,
        ..tls.clone()
    };
    let refused = ScyllaStore::connect(&options("cassandra", Some(anonymous))).await;
    assert!(refused.is_err(), "without a certificate of ours");
    let plain = ScyllaStore::connect(&options("cassandra", None)).await;
    assert!(plain.is_err(), "in plain text");
    let right = options("cassandra", Some(tls));
    create_schema(right.clone()).await;
    let inside = ScyllaOptions {
        keyspace: Some(KEYSPACE.to_owned()),
        ..right
    };
    let store = ScyllaStore::connect(&inside).await.unwrap();
    super::the_whole_suite(&AnyStore::Scylla(store)).await;
}

/// The local datacenter is killed: with `failover` the other one answers, without it nothing answers until it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs cassandra-2dc"]
async fn the_local_datacenter_is_killed_with_and_without_failover() {
    if scylla_options().is_none() {
        return;
    }
    let own = Own::start(
        "cassandra-2dc",
        "store-2dc",
        &[
            ("CASSANDRA_2DC_PORT", "27542"),
            ("CASSANDRA_JVM_OPTIONS", "-XX:TieredStopAtLevel=1"),
        ],
    );
    let both = ["127.0.0.2:27542", "127.0.0.3:27542"];
    let admin = ScyllaStore::connect(&patient(&both)).await.unwrap();
    for cql in [
        "CREATE KEYSPACE k WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 1, 'dc2': 1}",
        "CREATE TABLE k.items (id text, seq int, a text, b bigint, PRIMARY KEY (id, seq))",
    ] {
        admin.session().query_unpaged(cql, ()).await.unwrap();
    }
    let connect = |failover| {
        let options = ScyllaOptions {
            datacenter: Some("dc1".to_owned()),
            keyspace: Some("k".to_owned()),
            failover,
            request_timeout: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(2),
            ..patient(&both)
        };
        async move { AnyStore::Scylla(ScyllaStore::connect(&options).await.unwrap()) }
    };
    let (with, without) = (connect(true).await, connect(false).await);
    let (put_with, get_with) = items(&with).await;
    let (put_without, _) = items(&without).await;
    let values = |name: &str| [string(&unique(name)), Value::Int(1), string("a"), Value::Long(1)];
    with.write(&put_with, &values("before"), 1).await.unwrap();
    without.write(&put_without, &values("before"), 1).await.unwrap();

    let nodes = |store: &AnyStore| match store {
        AnyStore::Scylla(scylla) => (scylla.driver().nodes, scylla.driver().connected),
        _ => unreachable!(),
    };
    assert_eq!(
        (nodes(&with), nodes(&without)),
        ((2, 2), (1, 1)),
        "nodes that requests may go to"
    );

    own.run("kill9", "cassandra-2dc-1");
    let killed = Instant::now();
    for i in 0..50 {
        let row = values(&format!("during-{i}"));
        with.write(&put_with, &row, 1)
            .await
            .unwrap_or_else(|e| panic!("write {i}: {e}"));
        let found = with
            .lookup(&get_with, &row[..2])
            .await
            .unwrap_or_else(|e| panic!("look-up {i}: {e}"));
        assert!(found.is_some());
    }
    let error = without.write(&put_without, &values("during"), 1).await.unwrap_err();
    assert_eq!(error.class, Class::Transient, "it is waited for: {error}");
    assert_eq!(
        (nodes(&with), nodes(&without)),
        ((2, 1), (1, 0)),
        "nodes that are connected"
    );
    println!("with failover: no error in {:?}; without: {error}", killed.elapsed());

    own.run("restart", "cassandra-2dc-1");
    let (began, row) = (Instant::now(), values("after"));
    while let Err(error) = without.write(&put_without, &row, 1).await {
        assert!(began.elapsed() < Duration::from_secs(120), "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("without failover: back {:?} after its restart", began.elapsed());
    println!("figure two_datacenters 1");
}
