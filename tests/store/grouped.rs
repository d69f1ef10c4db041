//! Grouped writes on a real server: batches of one partition, a timestamp for each row, and one bad row that fails alone.

use std::collections::BTreeMap;
use std::time::Duration;

use messina::avro::value::Value;
use messina::retry::Class;
use messina::store::cql::Ttl;
use messina::store::group::GroupOptions;
use messina::store::{AnyStore, Statement, StatementOptions, Store, StoreError};

use super::wire::Log;
use super::{ab, items, lookup, now_us, scylla, sqlite, string, unique};

const PUT: &str = "INSERT INTO items (id, seq, a, b) VALUES (:id, :seq, :a, :b)";

/// A linger that is never reached: groups are sent only when they are full.
const FULL: GroupOptions = GroupOptions {
    linger: Duration::from_secs(600),
    max_rows: 10,
    max_bytes: 16 << 10,
    across_partitions: false,
};

async fn grouped(store: &AnyStore, cql: &str, group: GroupOptions) -> Result<Statement, StoreError> {
    let options = StatementOptions {
        group: Some(group),
        ..StatementOptions::write()
    };
    store.prepare(cql, &options).await
}

type Row = (Value<'static>, i32, Value<'static>, i64);

/// Writes all rows at once, each with its own timestamp.
async fn put_all(store: &AnyStore, put: &Statement, rows: &[(Row, i64)]) -> Vec<Result<(), StoreError>> {
    let writes = rows.iter().map(|((id, seq, a, b), at)| async move {
        let values = [id.clone(), Value::Int(*seq), a.clone(), Value::Long(*b)];
        store.write(put, &values, *at).await
    });
    futures_util::future::join_all(writes).await
}

fn row(id: &Value<'static>, seq: i32, a: &str, b: i64) -> Row {
    (id.clone(), seq, string(a), b)
}

#[tokio::test]
async fn cql_rows_of_one_partition_go_together_and_keep_their_own_timestamps() {
    let Some(fixture) = scylla().await else { return };
    let store = &fixture.store;
    let put = grouped(store, PUT, FULL).await.unwrap();
    assert_eq!(put.markers().len(), 4, "the timestamp's marker is nobody's business");
    assert_eq!(put.partition_key(), [0]);
    let (_, get) = items(store).await;
    let (one, two) = (string(&unique("one")), string(&unique("two")));
    // Twenty rows of two partitions. The newest version of each row comes first, so the result must not depend on the
    // order of arrival.
    let mut rows: Vec<(Row, i64)> = Vec::new();
    for seq in 0..5 {
        for id in [&one, &two] {
            rows.push((row(id, seq, "newest", i64::from(seq)), 3_000 + i64::from(seq)));
            rows.push((row(id, seq, "older", -1), 2_000 + i64::from(seq)));
        }
    }
    for done in put_all(store, &put, &rows).await {
        done.unwrap();
    }
    for seq in 0..5 {
        for id in [&one, &two] {
            let found = store.lookup(&get, &[id.clone(), Value::Int(seq)]).await.unwrap();
            assert_eq!(found, ab("newest", i64::from(seq)));
        }
    }
    assert_eq!(put.grouped().unwrap().sent(), (2, 20), "one batch for each partition");
    // The row has its own timestamp on the server.
    let at = lookup(
        store,
        "SELECT writetime(b) AS at FROM items WHERE id = :id AND seq = :seq",
    )
    .await;
    let found = store.lookup(&at, &[one.clone(), Value::Int(4)]).await.unwrap().unwrap();
    assert_eq!(*found, [Value::Long(3_004)]);
    // A null leaves the stored value unchanged, in a batch too.
    let nothing: Vec<(Row, i64)> = (0..10)
        .map(|seq| ((one.clone(), seq % 5, Value::Null, 7), 4_000))
        .collect();
    assert!(put_all(store, &put, &nothing).await.iter().all(Result::is_ok));
    assert_eq!(
        store.lookup(&get, &[one, Value::Int(2)]).await.unwrap(),
        ab("newest", 7)
    );
}

#[tokio::test]
async fn cql_one_bad_row_of_a_batch_fails_alone() {
    let Some(fixture) = scylla().await else { return };
    let store = &fixture.store;
    let put = grouped(store, PUT, FULL).await.unwrap();
    let (_, get) = items(store).await;
    let id = string(&unique("bad"));
    let mut rows: Vec<(Row, i64)> = (0..10).map(|seq| (row(&id, seq, "good", 1), 1)).collect();
    // An empty clustering key is allowed. The server refuses an empty partition key, and the store itself a value that is
    // not text.
    let empty: Vec<(Row, i64)> = (0..10).map(|seq| (row(&string(""), seq, "bad", 1), 1)).collect();
    rows[3].0.2 = Value::Bool(true);
    rows.push((row(&id, 99, "good", 1), 1));
    let done = put_all(store, &put, &rows).await;
    for (i, done) in done.iter().enumerate() {
        match done {
            Ok(()) => assert_ne!(i, 3),
            Err(error) => assert_eq!((i, error.label), (3, "value"), "{error}"),
        }
    }
    assert_eq!(
        store.lookup(&get, &[id.clone(), Value::Int(99)]).await.unwrap(),
        ab("good", 1)
    );
    for done in put_all(store, &put, &empty).await {
        assert_eq!(
            done.unwrap_err().class,
            Class::Permanent,
            "the server refuses the batch, and each row of it"
        );
    }

    // Only the server can refuse the TTL of the third row: the batch fails, and the other rows are then written one by
    // one.
    let options = StatementOptions {
        group: Some(FULL),
        ttl: Some(Ttl::Bound),
        ..StatementOptions::write()
    };
    let put = store.prepare(PUT, &options).await.unwrap();
    let (log, _logging) = Log::start();
    let key = unique("life");
    let id = string(&key);
    let writes = (0..10).map(|seq| {
        let life = if seq == 2 { -5 } else { 1000 };
        let values = [
            id.clone(),
            Value::Int(seq),
            string("a"),
            Value::Long(1),
            Value::Int(life),
        ];
        let put = &put;
        async move { store.write(put, &values, 1).await }
    });
    let done = futures_util::future::join_all(writes).await;
    let failed: BTreeMap<usize, Class> = done
        .iter()
        .enumerate()
        .filter_map(|(i, done)| done.as_ref().err().map(|e| (i, e.class)))
        .collect();
    assert_eq!(failed, BTreeMap::from([(2, Class::Permanent)]));
    let told = log.lines("a batch is refused");
    assert_eq!(told.len(), 1, "{told:?}");
    for part in [PUT, "reason=\"invalid\"", "rows=10"] {
        assert!(told[0].contains(part), "{part}: {told:?}");
    }
    assert!(!told[0].contains(&key), "{told:?}");
    let life = lookup(store, "SELECT ttl(b) AS life FROM items WHERE id = :id AND seq = :seq").await;
    let found = store.lookup(&life, &[id, Value::Int(9)]).await.unwrap().unwrap();
    assert!(
        matches!(found[0], Value::Int(left) if (900..=1000).contains(&left)),
        "{found:?}"
    );
}

/// This is how the rows of a failed batch are written.
#[tokio::test]
async fn cql_a_row_that_is_to_go_alone_waits_for_no_others_and_keeps_its_timestamp() {
    let Some(fixture) = scylla().await else { return };
    let store = &fixture.store;
    let put = grouped(store, PUT, FULL).await.unwrap();
    let (_, get) = items(store).await;
    let id = string(&unique("alone"));
    for (a, b, at) in [("newest", 1, 3_000), ("older", 2, 2_000)] {
        let values = [id.clone(), Value::Int(1), string(a), Value::Long(b)];
        store.write_alone(&put, &values, at).await.unwrap();
    }
    assert_eq!(store.lookup(&get, &[id, Value::Int(1)]).await.unwrap(), ab("newest", 1));
    assert_eq!(put.grouped().unwrap().sent(), (0, 0));
}

#[tokio::test]
async fn cql_partitions_share_a_batch_only_where_that_is_declared() {
    let Some(fixture) = scylla().await else { return };
    let store = &fixture.store;
    let group = GroupOptions {
        across_partitions: true,
        ..FULL
    };
    let put = grouped(store, PUT, group).await.unwrap();
    let (_, get) = items(store).await;
    let ids: Vec<_> = (0..10).map(|_| string(&unique("across"))).collect();
    let rows: Vec<(Row, i64)> = ids.iter().map(|id| (row(id, 1, "a", 1), 1)).collect();
    assert!(put_all(store, &put, &rows).await.iter().all(Result::is_ok));
    assert_eq!(put.grouped().unwrap().sent(), (1, 10));
    for id in ids {
        assert_eq!(store.lookup(&get, &[id, Value::Int(1)]).await.unwrap(), ab("a", 1));
    }
    // Updates and deletes are grouped, too, although their USING clause stands elsewhere.
    let id = string(&unique("verbs"));
    let soon = GroupOptions {
        linger: Duration::from_millis(2),
        ..FULL
    };
    let update = grouped(store, "UPDATE items SET a = :a WHERE id = :id AND seq = :seq", soon)
        .await
        .unwrap();
    assert_eq!(update.partition_key(), [1]);
    let at = now_us();
    store
        .write(&update, &[string("a"), id.clone(), Value::Int(1)], at)
        .await
        .unwrap();
    let delete = grouped(store, "DELETE FROM items WHERE id = :id AND seq = :seq", soon)
        .await
        .unwrap();
    store
        .write(&delete, &[id.clone(), Value::Int(1)], at - 1)
        .await
        .unwrap();
    let only = lookup(store, "SELECT a FROM items WHERE id = :id AND seq = :seq").await;
    let key = [id, Value::Int(1)];
    assert!(store.lookup(&only, &key).await.unwrap().is_some(), "an older delete");
    store.write(&delete, &key, at + 1).await.unwrap();
    assert_eq!(store.lookup(&only, &key).await.unwrap(), None);
}

#[tokio::test]
async fn what_cannot_be_grouped_is_refused() {
    let embedded = sqlite().await.unwrap();
    let error = grouped(&embedded.store, PUT, FULL).await.unwrap_err();
    assert!(error.message.contains("by itself"), "{error}");
    let Some(fixture) = scylla().await else { return };
    for (cql, idempotent, why) in [
        (
            "INSERT INTO items (id, seq, a) VALUES ('one', :seq, :a)",
            true,
            "partition key",
        ),
        ("UPDATE counts SET n = n + :step WHERE id = :id", false, "idempotent"),
        (
            "UPDATE counts SET n = n + :step WHERE id = :id",
            true,
            "custom timestamp",
        ),
        (
            "INSERT INTO items (id, seq, a) VALUES (:id, :seq, :a) IF NOT EXISTS",
            true,
            "custom timestamp",
        ),
    ] {
        let options = StatementOptions {
            group: Some(FULL),
            idempotent,
            ..StatementOptions::write()
        };
        let error = fixture.store.prepare(cql, &options).await.unwrap_err();
        assert_eq!(error.class, Class::Permanent, "{error}");
        assert!(
            error.message.to_lowercase().contains(&why.to_lowercase()),
            "{cql}: {error}"
        );
    }
}
