//! One suite for both stores: what a pipeline relies on, whichever database it uses.
//!
//! SQLite always runs. CQL runs against the server named by `SCYLLA_NODES` (`host:port,…`). Without it, those tests say that they are
//! skipped, and fail if `CI=true`, so that nothing is skipped unnoticed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod clusters;
mod grouped;
mod many;
#[path = "../support/own.rs"]
mod own;
mod rotated;
mod shards;
mod wire;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use messina::avro::value::{Type, Unit, Value};
use messina::retry::Class;
use messina::store::cql::Ttl;
use messina::store::scylla::{ScyllaOptions, ScyllaStore};
use messina::store::sqlite::{SqliteOptions, SqliteStore, Synchronous};
use messina::store::{
    AnyStore, ColumnType, Consistency, Row, Rows, Statement, StatementOptions, Store, StoreError, result_type,
};
use tokio::sync::OnceCell;

use many::all_rows_are_taken_page_by_page_and_no_more_than_declared;

const KEYSPACE: &str = "messina_store_suite_2";

/// Columns of the table `kinds`, identical in both dialects except for the quotes.
const KINDS: &[(&str, &str)] = &[
    ("c_text", "text"),
    ("c_int", "int"),
    ("c_bigint", "bigint"),
    ("c_smallint", "smallint"),
    ("c_tinyint", "tinyint"),
    ("c_float", "float"),
    ("c_double", "double"),
    ("c_boolean", "boolean"),
    ("c_blob", "blob"),
    ("c_timestamp", "timestamp"),
    ("c_date", "date"),
    ("c_time", "time"),
    ("c_uuid", "uuid"),
    ("c_timeuuid", "timeuuid"),
    ("c_decimal", "decimal"),
    ("c_varint", "varint"),
    ("c_inet", "inet"),
    ("c_duration", "duration"),
    ("c_list", "list<int>"),
    ("c_set", "set<text>"),
    ("c_map", "map<text, double>"),
    ("c_nested", "map<text, frozen<list<bigint>>>"),
    ("c_tuple", "tuple<int, text>"),
];

struct Fixture {
    store: AnyStore,
    dir: Option<PathBuf>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// Makes a name unique to this test and run.
fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!(
        "{name}-{}-{nanos}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

fn string(s: &str) -> Value<'static> {
    Value::String(s.to_owned().into())
}

async fn sqlite() -> Option<Fixture> {
    let dir = std::env::temp_dir().join(unique("messina-store"));
    std::fs::create_dir_all(&dir).unwrap();
    let store = SqliteStore::open(&SqliteOptions::new(dir.join("store.db"))).unwrap();
    let kinds: Vec<_> = KINDS.iter().map(|(name, ty)| format!("{name} \"{ty}\"")).collect();
    let kinds = kinds.join(", ");
    store
        .execute_script(&format!(
            "CREATE TABLE kinds (id text PRIMARY KEY, {kinds});
             CREATE TABLE items (id text, seq int, a text, b bigint, PRIMARY KEY (id, seq));"
        ))
        .await
        .unwrap();
    Some(Fixture {
        store: AnyStore::Sqlite(store),
        dir: Some(dir),
    })
}

fn scylla_options() -> Option<ScyllaOptions> {
    let nodes = std::env::var("SCYLLA_NODES").unwrap_or_default();
    if nodes.is_empty() {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "SCYLLA_NODES is not set: nothing is skipped in CI"
        );
        eprintln!("skipped: SCYLLA_NODES is not set");
        return None;
    }
    Some(ScyllaOptions {
        nodes: nodes.split(',').map(str::to_owned).collect(),
        consistency: Consistency::LocalOne,
        // Server and tests share few cores here, so a slow answer does not mean a broken connection.
        keepalive_timeout: Duration::from_secs(20),
        request_timeout: Duration::from_secs(20),
        ..ScyllaOptions::default()
    })
}

async fn scylla() -> Option<Fixture> {
    static SCHEMA: OnceCell<()> = OnceCell::const_new();
    let mut options = scylla_options()?;
    SCHEMA.get_or_init(|| create_schema(options.clone())).await;
    options.keyspace = Some(KEYSPACE.to_owned());
    Some(Fixture {
        store: AnyStore::Scylla(ScyllaStore::connect(&options).await.unwrap()),
        dir: None,
    })
}

async fn create_schema(options: ScyllaOptions) {
    let store = ScyllaStore::connect(&options).await.unwrap();
    // Lists are frozen: a frozen list is written whole, so the write can be repeated.
    let column = |(name, ty): &(&str, &str)| match ty.starts_with("list<") {
        true => format!("{name} frozen<{ty}>"),
        false => format!("{name} {ty}"),
    };
    let kinds: Vec<_> = KINDS.iter().map(column).collect();
    let kinds = kinds.join(", ");
    let ks = KEYSPACE;
    for statement in [
        format!(
            "CREATE KEYSPACE IF NOT EXISTS {ks} WITH replication = {{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}}"
        ),
        format!("CREATE TYPE IF NOT EXISTS {ks}.address (street text, zip int)"),
        format!("CREATE TABLE IF NOT EXISTS {ks}.kinds (id text PRIMARY KEY, {kinds})"),
        format!("CREATE TABLE IF NOT EXISTS {ks}.items (id text, seq int, a text, b bigint, PRIMARY KEY (id, seq))"),
        format!(
            "CREATE TABLE IF NOT EXISTS {ks}.homes (id text PRIMARY KEY, home address, homes frozen<list<address>>)"
        ),
        format!("CREATE TABLE IF NOT EXISTS {ks}.counts (id text PRIMARY KEY, n counter)"),
        format!(
            "CREATE TABLE IF NOT EXISTS {ks}.lists (id text PRIMARY KEY, a list<int>, b frozen<list<int>>, m map<int, int>)"
        ),
    ] {
        store.session().query_unpaged(statement, ()).await.unwrap();
    }
}

/// Each generic test, once per store; and all of them one after the other.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        async fn the_whole_suite(store: &AnyStore) {
            $($name(store).await;)+
        }
        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                if let Some(fixture) = super::sqlite().await {
                    super::$name(&fixture.store).await;
                }
            })+
        }
        mod on_cql {
            $(#[tokio::test]
            async fn $name() {
                if let Some(fixture) = super::scylla().await {
                    super::$name(&fixture.store).await;
                }
            })+
        }
    };
}

on_both!(
    types_go_both_ways,
    an_empty_collection_is_null_unless_it_is_frozen,
    wrong_values_are_permanent,
    nulls_leave_what_is_stored,
    a_null_that_is_written_out_removes_what_is_stored,
    an_update_of_nothing_changes_nothing,
    missing_rows_and_null_keys,
    an_empty_key_finds_no_row,
    rows_expire,
    a_short_life_ends_nothing_of_an_older_write,
    the_newest_timestamp_wins,
    updates_insert_and_deletes_respect_timestamps,
    markers_and_columns_have_names_and_types,
    broken_statements_are_permanent,
    statements_that_cannot_be_repeated_are_refused,
    misuse_is_fatal,
    many_writes_at_once,
    the_first_row_of_many,
    all_rows_are_taken_page_by_page_and_no_more_than_declared,
);

async fn write(store: &AnyStore, cql: &str) -> Statement {
    store
        .prepare(cql, &StatementOptions::write())
        .await
        .unwrap_or_else(|e| panic!("{cql}: {e}"))
}

async fn lookup(store: &AnyStore, cql: &str) -> Statement {
    store
        .prepare(cql, &StatementOptions::lookup())
        .await
        .unwrap_or_else(|e| panic!("{cql}: {e}"))
}

/// A look-up that may leave the partition key unbound.
async fn scan(store: &AnyStore, cql: &str) -> Statement {
    let options = StatementOptions {
        scan: true,
        ..StatementOptions::lookup()
    };
    store
        .prepare(cql, &options)
        .await
        .unwrap_or_else(|e| panic!("{cql}: {e}"))
}

async fn items(store: &AnyStore) -> (Statement, Statement) {
    let put = write(store, "INSERT INTO items (id, seq, a, b) VALUES (:id, :seq, :a, :b)").await;
    let get = lookup(store, "SELECT a, b FROM items WHERE id = :id AND seq = :seq").await;
    (put, get)
}

fn ab(a: &str, b: i64) -> Option<Row> {
    Some(Box::new([string(a), Value::Long(b)]))
}

async fn an_empty_collection_is_null_unless_it_is_frozen(store: &AnyStore) {
    let put = write(
        store,
        "INSERT INTO kinds (id, c_set, c_map, c_nested) VALUES (:id, :c_set, :c_map, :c_nested)",
    )
    .await;
    let get = lookup(store, "SELECT c_set, c_map, c_nested FROM kinds WHERE id = :id").await;
    let id = string(&unique("empty"));
    let nested = Value::Map(vec![(string("a"), Value::List(vec![]))]);
    let row = [id.clone(), Value::List(vec![]), Value::Map(vec![]), nested.clone()];
    store.write(&put, &row, now_us()).await.unwrap();
    let found: Option<Row> = Some(Box::new([Value::Null, Value::Null, nested]));
    assert_eq!(store.lookup(&get, &[id]).await.unwrap(), found);
}

async fn types_go_both_ways(store: &AnyStore) {
    let decimal = |digits: i64, scale| Value::Decimal {
        unscaled: digits.to_be_bytes()[6..].to_vec().into(),
        scale,
    };
    let uuid_v1 = [
        0x7d, 0x44, 0x48, 0x40, 0x9d, 0xc0, 0x11, 0xd1, 0xb2, 0x45, 0x5f, 0xfd, 0xce, 0x74, 0xfa, 0xd2,
    ];
    let uuid_text = "7d444840-9dc0-11d1-b245-5ffdce74fad2";
    let bytes = |b: &[u8]| Value::Bytes(b.to_vec().into());
    let long_varint = Value::Decimal {
        unscaled: vec![0x12; 20].into(),
        scale: 0,
    };
    let same = |column, value: Value<'static>| (column, value.clone(), value);
    let cases = [
        same("c_text", string("Zürich\0 ✓")),
        same("c_text", string("")),
        ("c_text", Value::Uuid(uuid_v1), string(uuid_text)),
        same("c_int", Value::Int(i32::MIN)),
        ("c_int", Value::Long(7), Value::Int(7)),
        same("c_bigint", Value::Long(i64::MIN)),
        ("c_bigint", Value::Int(-1), Value::Long(-1)),
        same("c_smallint", Value::Int(-32768)),
        same("c_tinyint", Value::Int(127)),
        same("c_float", Value::Float(1.5e-3)),
        ("c_float", Value::Double(0.1), Value::Float(0.1)),
        same("c_double", Value::Double(-1.0e300)),
        ("c_double", Value::Long(1 << 53), Value::Double(9007199254740992.0)),
        same("c_boolean", Value::Bool(true)),
        same("c_boolean", Value::Bool(false)),
        same("c_blob", bytes(&[0, 255, 1])),
        same("c_blob", bytes(&[])),
        same("c_timestamp", Value::Timestamp(1_700_000_000_123, Unit::Millis)),
        (
            "c_timestamp",
            Value::Timestamp(-1, Unit::Micros),
            Value::Timestamp(-1, Unit::Millis),
        ),
        (
            "c_timestamp",
            Value::Timestamp(1_999_999, Unit::Nanos),
            Value::Timestamp(1, Unit::Millis),
        ),
        (
            "c_timestamp",
            Value::LocalTimestamp(5, Unit::Millis),
            Value::Timestamp(5, Unit::Millis),
        ),
        ("c_timestamp", Value::Long(9), Value::Timestamp(9, Unit::Millis)),
        same("c_date", Value::Date(19_000)),
        same("c_date", Value::Date(-1)),
        same("c_time", Value::Time(86_399_999_999, Unit::Micros)),
        ("c_time", Value::Time(1, Unit::Millis), Value::Time(1_000, Unit::Micros)),
        ("c_time", Value::Time(1_999, Unit::Nanos), Value::Time(1, Unit::Micros)),
        same("c_uuid", Value::Uuid(uuid_v1)),
        ("c_uuid", string(uuid_text), Value::Uuid(uuid_v1)),
        ("c_uuid", bytes(&uuid_v1), Value::Uuid(uuid_v1)),
        same("c_timeuuid", Value::Uuid(uuid_v1)),
        same("c_decimal", decimal(1250, 2)),
        same("c_decimal", decimal(-1250, 20)),
        same(
            "c_decimal",
            Value::Decimal {
                unscaled: vec![0x7f; 30].into(),
                scale: 9,
            },
        ),
        (
            "c_decimal",
            Value::Long(3),
            Value::Decimal {
                unscaled: vec![3].into(),
                scale: 0,
            },
        ),
        (
            "c_varint",
            Value::Int(-2),
            Value::Decimal {
                unscaled: vec![0xfe].into(),
                scale: 0,
            },
        ),
        same("c_varint", long_varint),
        same("c_inet", string("192.0.2.7")),
        same("c_inet", string("2001:db8::1")),
        ("c_inet", bytes(&[127, 0, 0, 1]), string("127.0.0.1")),
        same(
            "c_duration",
            Value::Duration {
                months: 14,
                days: 3,
                millis: 86_400_001,
            },
        ),
        same("c_list", Value::List(vec![Value::Int(3), Value::Int(1), Value::Int(3)])),
        same("c_set", Value::List(vec![string("a"), string("b")])),
        same(
            "c_map",
            Value::Map(vec![
                (string("x"), Value::Double(0.5)),
                (string("y"), Value::Double(2.0)),
            ]),
        ),
        (
            "c_nested",
            Value::Map(vec![(string("x"), Value::List(vec![Value::Int(1)]))]),
            Value::Map(vec![(string("x"), Value::List(vec![Value::Long(1)]))]),
        ),
        (
            "c_tuple",
            Value::Record(vec![("n".into(), Value::Null), ("s".into(), string("t"))]),
            Value::Record(vec![("field_0".into(), Value::Null), ("field_1".into(), string("t"))]),
        ),
    ];
    for (i, (column, value, wanted)) in cases.into_iter().enumerate() {
        let put = write(store, &format!("INSERT INTO kinds (id, {column}) VALUES (:id, :v)")).await;
        let get = lookup(store, &format!("SELECT {column} FROM kinds WHERE id = :id")).await;
        let id = string(&unique("types"));
        store
            .write(&put, &[id.clone(), value.clone()], 1 + i as i64)
            .await
            .unwrap_or_else(|e| panic!("{column}: {e}"));
        let row = store
            .lookup(&get, &[id])
            .await
            .unwrap_or_else(|e| panic!("{column}: {e}"))
            .unwrap();
        assert_eq!(*row, [canonical(wanted)], "{column} of {value:?}");
        let declared = KINDS.iter().find(|(name, _)| *name == column).unwrap().1;
        assert_eq!(get.columns()[0].ty, ColumnType::parse(declared).unwrap(), "{column}");
        assert!(
            fits(&row[0], &result_type(&get.columns()[0].ty)),
            "{column}: {:?}",
            row[0]
        );
    }
}

/// Decimals in the shortest form, which is how they come back.
fn canonical(value: Value<'static>) -> Value<'static> {
    match value {
        Value::Decimal { unscaled, scale } => {
            let mut bytes = unscaled.into_owned();
            while bytes.len() > 1 && (bytes[0] == 0 && bytes[1] < 128 || bytes[0] == 255 && bytes[1] >= 128) {
                bytes.remove(0);
            }
            Value::Decimal {
                unscaled: bytes.into(),
                scale,
            }
        }
        other => other,
    }
}

/// Whether a value has this type: rows must have the types that were announced.
fn fits(value: &Value<'_>, ty: &Type) -> bool {
    match (value, ty) {
        (Value::Null, _) => ty.is_nullable(),
        (v, Type::Nullable(inner)) => fits(v, inner),
        (Value::Bool(_), Type::Bool) | (Value::Int(_), Type::Int) | (Value::Long(_), Type::Long) => true,
        (Value::Float(_), Type::Float) | (Value::Double(_), Type::Double) | (Value::String(_), Type::String) => true,
        (Value::Bytes(_), Type::Bytes) | (Value::Date(_), Type::Date) | (Value::Uuid(_), Type::Uuid) => true,
        (Value::Time(_, a), Type::Time(b)) | (Value::Timestamp(_, a), Type::Timestamp(b)) => a == b,
        (Value::Decimal { .. }, Type::Decimal { .. }) | (Value::Duration { .. }, Type::Duration) => true,
        (Value::List(items), Type::List(item)) => items.iter().all(|v| fits(v, item)),
        (Value::Map(pairs), Type::Map(k, v)) => pairs.iter().all(|(a, b)| fits(a, k) && fits(b, v)),
        (Value::Record(a), Type::Record(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((n, v), (name, ty))| n == name && fits(v, ty))
        }
        _ => false,
    }
}

async fn wrong_values_are_permanent(store: &AnyStore) {
    for (column, value, word) in [
        ("c_int", Value::Long(1 << 40), "out of range for int"),
        ("c_int", string("7"), "string does not go into int"),
        ("c_uuid", string("no"), "not a valid uuid"),
        ("c_timeuuid", Value::Uuid([0x44; 16]), "not a valid timeuuid"),
        ("c_inet", string("localhost"), "not a valid inet"),
        ("c_time", Value::Time(-1, Unit::Nanos), "out of range for time"),
        ("c_list", Value::List(vec![Value::Null]), "null inside list<int>"),
        ("c_text", Value::Int(1), "int does not go into text"),
        ("c_tuple", Value::Record(vec![]), "out of range for tuple<int, text>"),
    ] {
        let put = write(store, &format!("INSERT INTO kinds (id, {column}) VALUES (:id, :v)")).await;
        let error = store
            .write(&put, &[string(&unique("wrong")), value], 1)
            .await
            .unwrap_err();
        assert_eq!((error.class, error.label), (Class::Permanent, "value"), "{error}");
        assert!(
            error.message.contains(word) && error.message.contains(":v"),
            "{column}: {error}"
        );
    }
}

async fn nulls_leave_what_is_stored(store: &AnyStore) {
    let (put, get) = items(store).await;
    let key = [string(&unique("nulls")), Value::Int(1)];
    let values = |a, b| [key[0].clone(), key[1].clone(), a, b];
    store
        .write(&put, &values(string("a"), Value::Long(1)), 10)
        .await
        .unwrap();
    store
        .write(&put, &values(Value::Null, Value::Long(2)), 11)
        .await
        .unwrap();
    assert_eq!(store.lookup(&get, &key).await.unwrap(), ab("a", 2));
    let fresh = [string(&unique("nulls")), Value::Int(1)];
    store
        .write(
            &put,
            &[fresh[0].clone(), fresh[1].clone(), Value::Null, Value::Null],
            10,
        )
        .await
        .unwrap();
    let row = store.lookup(&get, &fresh).await.unwrap().unwrap();
    assert_eq!(*row, [Value::Null, Value::Null], "a row of nothing but its key");
    let error = store
        .write(&put, &[Value::Null, Value::Int(1), string("a"), Value::Null], 12)
        .await
        .unwrap_err();
    assert_eq!((error.class, error.label), (Class::Permanent, "null_key"));
}

async fn a_null_that_is_written_out_removes_what_is_stored(store: &AnyStore) {
    let (put, get) = items(store).await;
    for cql in [
        "INSERT INTO items (id, seq, a, b) VALUES (:id, :seq, NULL, :b)",
        "UPDATE items SET a = null, b = :b WHERE id = :id AND seq = :seq",
    ] {
        let remove = write(store, cql).await;
        let key = [string(&unique("removed")), Value::Int(1)];
        let row = [key[0].clone(), key[1].clone(), string("a"), Value::Long(1)];
        store.write(&put, &row, 10).await.unwrap();
        let value = |marker: &str| match marker {
            "id" => key[0].clone(),
            "seq" => key[1].clone(),
            _ => Value::Null,
        };
        let values: Vec<_> = remove.markers().iter().map(|m| value(&m.name)).collect();
        store.write(&remove, &values, 11).await.unwrap();
        let row = store.lookup(&get, &key).await.unwrap().unwrap();
        assert_eq!(*row, [Value::Null, Value::Long(1)], "{cql}");
    }
}

async fn an_update_of_nothing_changes_nothing(store: &AnyStore) {
    let (put, get) = items(store).await;
    let update = write(store, "UPDATE items SET a = :a, b = :b WHERE id = :id AND seq = :seq").await;
    let key = [string(&unique("nothing")), Value::Int(1)];
    let nothing = [Value::Null, Value::Null, key[0].clone(), key[1].clone()];
    store.write(&update, &nothing, 20).await.unwrap();
    assert_eq!(store.lookup(&get, &key).await.unwrap(), None, "no row is made");
    for (at, a) in [(10, "a"), (11, "b")] {
        let row = [key[0].clone(), key[1].clone(), string(a), Value::Long(1)];
        store.write(&put, &row, at).await.unwrap();
        store.write(&update, &nothing, 20).await.unwrap();
        assert_eq!(
            store.lookup(&get, &key).await.unwrap(),
            ab(a, 1),
            "no timestamp is raised"
        );
    }
    let half = [Value::Null, Value::Long(2), key[0].clone(), key[1].clone()];
    store.write(&update, &half, 20).await.unwrap();
    assert_eq!(store.lookup(&get, &key).await.unwrap(), ab("b", 2));
}

async fn missing_rows_and_null_keys(store: &AnyStore) {
    let (_, get) = items(store).await;
    assert_eq!(
        store.lookup(&get, &[string("nobody"), Value::Int(1)]).await.unwrap(),
        None
    );
    assert_eq!(store.lookup(&get, &[Value::Null, Value::Int(1)]).await.unwrap(), None);
}

async fn an_empty_key_finds_no_row(store: &AnyStore) {
    let (_, get) = items(store).await;
    let found = store.lookup(&get, &[string(""), Value::Int(1)]).await;
    assert_eq!(found, Ok(None));
    let all = StatementOptions {
        rows: Rows::List {
            max: 9,
            truncate: false,
        },
        ..StatementOptions::lookup()
    };
    let get = "SELECT a FROM items WHERE id = :id AND seq IN (1, 2)";
    let get = store.prepare(get, &all).await.unwrap();
    assert_eq!(store.lookup(&get, &[string("")]).await, Ok(None));
    let error = store
        .lookup(&get, &[Value::Bytes(Vec::<u8>::new().into())])
        .await
        .unwrap_err();
    assert_eq!((error.class, error.label), (Class::Permanent, "value"), "{error}");
}

async fn a_short_life_ends_nothing_of_an_older_write(store: &AnyStore) {
    let (put, _) = items(store).await;
    let get = lookup(store, "SELECT b FROM items WHERE id = :id AND seq = :seq").await;
    let options = StatementOptions {
        ttl: Some(Ttl::Fixed(Duration::from_secs(1))),
        ..StatementOptions::write()
    };
    let id = string(&unique("lives"));
    let at = now_us();
    let whole = "INSERT INTO items (id, seq, a, b) VALUES (:id, :seq, :a, :b)";
    let short = [
        ("INSERT INTO items (id, seq, a) VALUES (:id, :seq, :a)", None, true),
        (whole, Some(Value::Null), true),
        (whole, Some(Value::Long(2)), false),
    ];
    for (seq, (cql, b, _)) in (0..).zip(&short) {
        let old = [id.clone(), Value::Int(seq), string("old"), Value::Long(1)];
        store.write(&put, &old, at).await.unwrap();
        let put_short = store.prepare(cql, &options).await.unwrap();
        let mut values = vec![id.clone(), Value::Int(seq), string("new")];
        values.extend(b.clone());
        store.write(&put_short, &values, at + 1).await.unwrap();
    }
    // A row made by an INSERT stays, whatever an UPDATE does to its columns.
    let old = [id.clone(), Value::Int(9), string("old"), Value::Long(1)];
    store.write(&put, &old, at).await.unwrap();
    let update = "UPDATE items SET a = :a, b = :b WHERE id = :id AND seq = :seq";
    let update = store.prepare(update, &options).await.unwrap();
    let new = [string("new"), Value::Long(2), id.clone(), Value::Int(9)];
    store.write(&update, &new, at + 1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    assert!(
        store
            .lookup(&get, &[id.clone(), Value::Int(9)])
            .await
            .unwrap()
            .is_some()
    );
    for (seq, (cql, b, stays)) in (0..).zip(&short) {
        let row = store.lookup(&get, &[id.clone(), Value::Int(seq)]).await.unwrap();
        let expected: Option<Row> = stays.then(|| Box::from([Value::Long(1)]));
        assert_eq!(row, expected, "{cql} of {b:?}");
    }
}

async fn rows_expire(store: &AnyStore) {
    // Prepared before the write, so this look-up has to learn of an expiry that is added later.
    let get = lookup(store, "SELECT a, b FROM items WHERE id = :id AND seq = :seq").await;
    let key = [string(&unique("ttl")), Value::Int(1)];
    assert_eq!(store.lookup(&get, &key).await.unwrap(), None);
    let options = StatementOptions {
        ttl: Some(Ttl::Fixed(Duration::from_secs(2))),
        ..StatementOptions::write()
    };
    let cql = "INSERT INTO items (id, seq, a, b) VALUES (:id, :seq, :a, :b)";
    let put = store.prepare(cql, &options).await.unwrap();
    let values = |a: &str| [key[0].clone(), key[1].clone(), string(a), Value::Long(1)];
    store.write(&put, &values("short"), now_us()).await.unwrap();
    // At once: CQL counts whole seconds, so a TTL of two may leave little more than one.
    assert_eq!(store.lookup(&get, &key).await.unwrap(), ab("short", 1));
    let bound = StatementOptions {
        ttl: Some(Ttl::Bound),
        ..StatementOptions::write()
    };
    let bound = store.prepare(cql, &bound).await.unwrap();
    assert_eq!(
        bound.markers().last().map(|m| (m.name.as_str(), &m.ty)),
        Some(("messina_ttl", &ColumnType::Int))
    );
    let lives = [Value::Int(2), Value::Int(0), Value::Null];
    let bound_key = |seq: usize| [key[0].clone(), Value::Int(10 + seq as i32)];
    for (seq, life) in lives.iter().enumerate() {
        let [id, number] = bound_key(seq);
        let values = [id, number, string("bound"), Value::Long(1), life.clone()];
        store.write(&bound, &values, now_us()).await.unwrap();
        assert_eq!(store.lookup(&get, &bound_key(seq)).await.unwrap(), ab("bound", 1));
    }
    let [id, number] = bound_key(9);
    let never = [id, number, string("bound"), Value::Long(1), Value::Int(-1)];
    let error = store.write(&bound, &never, now_us()).await.unwrap_err();
    assert_eq!(error.class, Class::Permanent, "{error}");
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    assert_eq!(store.lookup(&get, &key).await.unwrap(), None, "after its life");
    for (seq, found) in [(0, None), (1, ab("bound", 1)), (2, ab("bound", 1))] {
        assert_eq!(
            store.lookup(&get, &bound_key(seq)).await.unwrap(),
            found,
            "life {:?}",
            lives[seq]
        );
    }
    let again = write(store, "INSERT INTO items (id, seq, b) VALUES (:id, :seq, :b)").await;
    store
        .write(&again, &[key[0].clone(), key[1].clone(), Value::Long(2)], now_us())
        .await
        .unwrap();
    let row = store.lookup(&get, &key).await.unwrap().unwrap();
    assert_eq!(
        *row,
        [Value::Null, Value::Long(2)],
        "nothing of the expired row comes back"
    );
    for (cql, ttl) in [("DELETE FROM items WHERE id = :id AND seq = :seq", 5_000), (cql, 1_500)] {
        let options = StatementOptions {
            ttl: Some(Ttl::Fixed(Duration::from_millis(ttl))),
            ..StatementOptions::write()
        };
        assert_eq!(store.prepare(cql, &options).await.unwrap_err().class, Class::Permanent);
    }
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64
}

async fn the_newest_timestamp_wins(store: &AnyStore) {
    let (put, get) = items(store).await;
    let key = [string(&unique("newest")), Value::Int(1)];
    let values = |a: &str, b| [key[0].clone(), key[1].clone(), string(a), Value::Long(b)];
    for (a, b, at) in [
        ("first", 1, 1_000),
        ("newest", 3, 3_000),
        ("late", 2, 2_000),
        ("first", 1, 1_000),
    ] {
        store.write(&put, &values(a, b), at).await.unwrap();
    }
    assert_eq!(store.lookup(&get, &key).await.unwrap(), ab("newest", 3));
    store.write(&put, &values("newest", 3), 3_000).await.unwrap();
    assert_eq!(
        store.lookup(&get, &key).await.unwrap(),
        ab("newest", 3),
        "a replay changes nothing"
    );
    store.write(&put, &values("after", 4), 3_001).await.unwrap();
    assert_eq!(
        store.lookup(&get, &key).await.unwrap(),
        ab("after", 4),
        "a microsecond decides"
    );
}

async fn updates_insert_and_deletes_respect_timestamps(store: &AnyStore) {
    let (_, get) = items(store).await;
    let update = write(store, "UPDATE items SET a = :a, b = 7 WHERE id = :id AND seq = :seq").await;
    let delete = write(store, "DELETE FROM items WHERE id = :id AND seq = :seq").await;
    let names: Vec<&str> = update.markers().iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["a", "id", "seq"]);
    let key = [string(&unique("update")), Value::Int(1)];
    store
        .write(&update, &[string("x"), key[0].clone(), key[1].clone()], 10)
        .await
        .unwrap();
    assert_eq!(store.lookup(&get, &key).await.unwrap(), ab("x", 7));
    store.write(&delete, &key, 9).await.unwrap();
    assert_eq!(store.lookup(&get, &key).await.unwrap(), ab("x", 7), "an older delete");
    store.write(&delete, &key, 11).await.unwrap();
    assert_eq!(store.lookup(&get, &key).await.unwrap(), None);
}

async fn markers_and_columns_have_names_and_types(store: &AnyStore) {
    let cql = "SELECT b AS amount, a FROM items WHERE seq = :place AND id = :who LIMIT 1";
    let get = lookup(store, cql).await;
    let markers: Vec<_> = get
        .markers()
        .iter()
        .map(|m| (m.name.as_str(), m.ty.to_string()))
        .collect();
    assert_eq!(markers, [("place", "int".to_owned()), ("who", "text".to_owned())]);
    let columns: Vec<_> = get
        .columns()
        .iter()
        .map(|c| (c.name.as_str(), c.ty.to_string()))
        .collect();
    assert_eq!(columns, [("amount", "bigint".to_owned()), ("a", "text".to_owned())]);
    assert_eq!((get.partition_key(), get.cql()), (&[1][..], cql));
    let put = write(
        store,
        "INSERT INTO items (seq, id, a) VALUES (:place, :who, 'fixed, :text')",
    )
    .await;
    let markers: Vec<_> = put
        .markers()
        .iter()
        .map(|m| (m.name.as_str(), m.ty.to_string()))
        .collect();
    assert_eq!(markers, [("place", "int".to_owned()), ("who", "text".to_owned())]);
    assert_eq!((put.partition_key(), put.columns().len()), (&[1][..], 0));
    // Markers keep the statement's spelling, which a CQL server does not report.
    let get_by = lookup(store, "SELECT a FROM items WHERE id = :userId AND seq = :Place").await;
    let put_by = write(store, "INSERT INTO items (id, seq, a) VALUES (:userId, :Place, :note)").await;
    for (statement, names) in [
        (get_by, &["userId", "Place"][..]),
        (put_by, &["userId", "Place", "note"][..]),
    ] {
        let spelled: Vec<&str> = statement.markers().iter().map(|m| m.name.as_str()).collect();
        assert_eq!(spelled, names, "{}", statement.cql());
    }
    let who = unique("names");
    store.write(&put, &[Value::Int(3), string(&who)], 1).await.unwrap();
    let row = store
        .lookup(&get, &[Value::Int(3), string(&who)])
        .await
        .unwrap()
        .unwrap();
    assert_eq!(*row, [Value::Null, string("fixed, :text")]);
    let part = "SELECT a FROM items WHERE seq = :seq ALLOW FILTERING";
    let declared = scan(store, part).await;
    assert!(declared.partition_key().is_empty(), "the partition key is not bound");
    let key = match store {
        AnyStore::Scylla(_) => "whole partition key (id)",
        _ => "first column of its primary key (id)",
    };
    // These would ask every node. A literal key, or several keys, do restrict the partition.
    for open in [part, "SELECT a FROM items"] {
        let error = store.prepare(open, &StatementOptions::lookup()).await.unwrap_err();
        assert!(error.message.contains(key), "{error}");
    }
    lookup(store, "SELECT a FROM items WHERE id = 'written out'").await;
    lookup(store, "SELECT a FROM items WHERE id IN ('a', 'b')").await;
}

async fn broken_statements_are_permanent(store: &AnyStore) {
    for (cql, options) in [
        ("SELECT a FROM nowhere WHERE id = :id", StatementOptions::lookup()),
        ("SELECT nothing FROM items WHERE id = :id", StatementOptions::lookup()),
        (
            "SELECT \"nobody\" FROM items WHERE id = :id",
            StatementOptions::lookup(),
        ),
        ("SELECT a FORM items", StatementOptions::lookup()),
        (
            "INSERT INTO items (id, seq, nothing) VALUES (:id, :seq, :x)",
            StatementOptions::write(),
        ),
        ("INSERT INTO items (id, a) VALUES (:id, :a)", StatementOptions::write()),
        (
            "INSERT INTO items (id, seq, a) VALUES (:id, :seq)",
            StatementOptions::write(),
        ),
        ("SELECT a FROM items WHERE id = :id", StatementOptions::write()),
        (
            "DELETE FROM items WHERE id = :id AND seq = :seq",
            StatementOptions::lookup(),
        ),
        ("", StatementOptions::write()),
    ] {
        let error = store.prepare(cql, &options).await.expect_err(cql);
        assert_eq!(error.class, Class::Permanent, "{cql}: {error:?}");
        assert!(!error.message.is_empty());
    }
}

async fn statements_that_cannot_be_repeated_are_refused(store: &AnyStore) {
    let cql = "INSERT INTO items (id, seq) VALUES (:id, :seq) IF NOT EXISTS";
    let error = store.prepare(cql, &StatementOptions::write()).await.unwrap_err();
    assert_eq!((error.class, error.label), (Class::Permanent, "invalid"), "{error}");
}

#[tokio::test]
async fn lists_that_would_be_doubled_are_refused_on_cql() {
    let Some(fixture) = scylla().await else { return };
    for (cql, sound) in [
        ("INSERT INTO lists (id, a) VALUES (:id, :v)", false),
        ("UPDATE lists SET a = :v WHERE id = :id", false),
        ("DELETE a[:i] FROM lists WHERE id = :id", false),
        ("UPDATE lists SET a[:i] = :v WHERE id = :id", false),
        ("INSERT INTO lists (id, b) VALUES (:id, :v)", true),
        ("UPDATE lists SET b = :v WHERE id = :id", true),
        ("DELETE m[:i] FROM lists WHERE id = :id", true),
        ("UPDATE lists SET m[:i] = :v WHERE id = :id", true),
        ("DELETE a FROM lists WHERE id = :id", true),
        ("UPDATE lists SET a = a + :v WHERE id = :id", false),
        ("UPDATE lists SET a = a - :v WHERE id = :id", true),
        ("UPDATE lists SET a = a - [1] WHERE id = :id", true),
    ] {
        let options = StatementOptions::write();
        let prepared = fixture.store.prepare(cql, &options).await;
        assert_eq!(prepared.is_ok(), sound, "{cql}: {prepared:?}");
        if let Err(error) = prepared {
            assert!(error.message.contains("cannot be repeated"), "{cql}: {error}");
            let options = StatementOptions {
                idempotent: false,
                ..options
            };
            fixture.store.prepare(cql, &options).await.unwrap();
        }
    }
}

#[tokio::test]
async fn all_columns_of_a_table_that_changes_are_not_mixed_up_on_cql() {
    let Some(fixture) = scylla().await else { return };
    let AnyStore::Scylla(store) = &fixture.store else {
        unreachable!()
    };
    let table = unique("changing").replace('-', "_");
    let session = store.session();
    for cql in [
        format!("CREATE TABLE {table} (id text PRIMARY KEY, b int)"),
        format!("INSERT INTO {table} (id, b) VALUES ('x', 7)"),
    ] {
        session.query_unpaged(cql, ()).await.unwrap();
    }
    let all = lookup(&fixture.store, &format!("SELECT * FROM {table} WHERE id = :id")).await;
    let named = lookup(&fixture.store, &format!("SELECT id, b FROM {table} WHERE id = :id")).await;
    let row: Row = Box::new([string("x"), Value::Int(7)]);
    assert_eq!(store.lookup(&all, &[string("x")]).await.unwrap(), Some(row.clone()));
    for cql in [
        format!("ALTER TABLE {table} ADD a int"),
        format!("INSERT INTO {table} (id, a) VALUES ('x', 8)"),
    ] {
        session.query_unpaged(cql, ()).await.unwrap();
    }
    for get in [&named, &all] {
        assert_eq!(store.lookup(get, &[string("x")]).await.unwrap(), Some(row.clone()));
    }
    session
        .query_unpaged(format!("ALTER TABLE {table} DROP b"), ())
        .await
        .unwrap();
    let error = store.lookup(&all, &[string("x")]).await.unwrap_err();
    assert_eq!((error.class, error.label), (Class::Fatal, "columns_changed"), "{error}");
}

/// Shows what docs/operations.md says about replays.
#[tokio::test]
async fn what_was_deleted_by_hand_comes_back_only_where_the_table_is_emptied_on_cql() {
    let Some(fixture) = scylla().await else { return };
    let AnyStore::Scylla(store) = &fixture.store else {
        unreachable!()
    };
    let table = unique("emptied").replace('-', "_");
    let session = store.session();
    let by_hand = |cql: String| session.query_unpaged(cql, ());
    by_hand(format!("CREATE TABLE {table} (id text PRIMARY KEY, b int)"))
        .await
        .unwrap();
    let put = write(&fixture.store, &format!("INSERT INTO {table} (id, b) VALUES (:id, :b)")).await;
    let get = lookup(&fixture.store, &format!("SELECT b FROM {table} WHERE id = :id")).await;
    let (values, of_record) = ([string("x"), Value::Int(7)], now_us() - 60_000_000);
    let row: Option<Row> = Some(Box::new([Value::Int(7)]));
    store.write(&put, &values, of_record).await.unwrap();
    assert_eq!(store.lookup(&get, &values[..1]).await.unwrap(), row);
    by_hand(format!("DELETE FROM {table} WHERE id = 'x'")).await.unwrap();
    store.write(&put, &values, of_record).await.unwrap();
    assert_eq!(store.lookup(&get, &values[..1]).await.unwrap(), None);
    by_hand(format!("TRUNCATE {table}")).await.unwrap();
    store.write(&put, &values, of_record).await.unwrap();
    assert_eq!(store.lookup(&get, &values[..1]).await.unwrap(), row);
}

#[tokio::test]
async fn a_column_that_was_dropped_is_known_when_it_is_there_again_on_cql() {
    let Some(fixture) = scylla().await else { return };
    let AnyStore::Scylla(store) = &fixture.store else {
        unreachable!()
    };
    let run = |cql: String| async move { store.session().query_unpaged(cql, ()).await.unwrap() };
    let table = unique("dropped").replace('-', "_");
    let full = format!("{KEYSPACE}.{table}");
    run(format!("CREATE TABLE {table} (id text PRIMARY KEY, a int, b int)")).await;
    assert!(store.dropped_columns(&full).await.is_empty());
    run(format!("ALTER TABLE {table} DROP b")).await;
    run(format!("ALTER TABLE {table} ADD b int")).await;
    let dropped = store.dropped_columns(&full).await;
    let [(column, time)] = dropped.as_slice() else {
        panic!("{dropped:?}")
    };
    let ago = now_us() / 1000 - time;
    assert!(column == "b" && ago.abs() < 60_000, "{column} {ago} ms ago");
    assert!(store.dropped_columns("no_keyspace.no_table").await.is_empty());
}

/// If the values of both types have the same size, nothing reveals the change here: unlike ScyllaDB, Cassandra does not report that columns have changed.
#[tokio::test]
async fn a_column_that_becomes_of_another_type_halts_on_cql() {
    let Some(fixture) = scylla().await else { return };
    let AnyStore::Scylla(store) = &fixture.store else {
        unreachable!()
    };
    let run = |cql: String| async move { store.session().query_unpaged(cql, ()).await.unwrap() };
    // The value that is read does not have the four bytes of an int; the value that is written is neither a bigint nor UTF-8.
    for (ty, found) in [("bigint", "8"), ("text", "'eight'")] {
        let table = unique("retyped").replace('-', "_");
        run(format!("CREATE TABLE {table} (id text PRIMARY KEY, b int)")).await;
        let get = lookup(&fixture.store, &format!("SELECT b FROM {table} WHERE id = :id")).await;
        let put = write(&fixture.store, &format!("INSERT INTO {table} (id, b) VALUES (:id, :b)")).await;
        let row = [string("x"), Value::Int(-1)];
        store.write(&put, &row, 1).await.unwrap();
        run(format!("DROP TABLE {table}")).await;
        run(format!("CREATE TABLE {table} (id text PRIMARY KEY, b {ty})")).await;
        run(format!("INSERT INTO {table} (id, b) VALUES ('x', {found})")).await;
        for error in [
            store.lookup(&get, &row[..1]).await.unwrap_err(),
            store.write(&put, &row, 2).await.unwrap_err(),
        ] {
            assert_eq!(
                (error.class, error.label),
                (Class::Fatal, "columns_changed"),
                "{ty}: {error}"
            );
        }
    }
}

async fn misuse_is_fatal(store: &AnyStore) {
    let (put, get) = items(store).await;
    let fatal = |e: StoreError| assert_eq!((e.class, e.label), (Class::Fatal, "misuse"), "{e}");
    fatal(store.lookup(&get, &[Value::Int(1)]).await.unwrap_err());
    fatal(
        store
            .lookup(&put, &[Value::Null, Value::Null, Value::Null, Value::Null])
            .await
            .unwrap_err(),
    );
    fatal(store.write(&get, &[string("x"), Value::Int(1)], 1).await.unwrap_err());
}

async fn many_writes_at_once(store: &AnyStore) {
    let (put, get) = items(store).await;
    let id = string(&unique("many"));
    let writes = (0..2_000).map(|i| {
        let (put, id) = (&put, id.clone());
        async move {
            store
                .write(put, &[id, Value::Int(i), string("a"), Value::Int(i)], 5)
                .await
        }
    });
    for done in futures_util::future::join_all(writes).await {
        done.unwrap();
    }
    let reads = (0..2_000).map(|i| {
        let (get, id) = (&get, id.clone());
        async move { store.lookup(get, &[id, Value::Int(i)]).await }
    });
    for (i, row) in futures_util::future::join_all(reads).await.into_iter().enumerate() {
        assert_eq!(row.unwrap(), ab("a", i as i64));
    }
}

async fn the_first_row_of_many(store: &AnyStore) {
    let (put, _) = items(store).await;
    let id = string(&unique("first"));
    for i in [3, 1, 2] {
        store
            .write(&put, &[id.clone(), Value::Int(i), string("a"), Value::Int(i)], 5)
            .await
            .unwrap();
    }
    let first = lookup(store, "SELECT a, b FROM items WHERE id = :id ORDER BY seq ASC").await;
    assert_eq!(
        store.lookup(&first, std::slice::from_ref(&id)).await.unwrap(),
        ab("a", 1)
    );
    let count = lookup(store, "SELECT count(*) AS n FROM items WHERE id = :id").await;
    assert_eq!(*store.lookup(&count, &[id]).await.unwrap().unwrap(), [Value::Long(3)]);
}

// Tests of only one of the stores.

#[tokio::test]
async fn cql_rows_that_are_sorted_over_several_partitions() {
    let Some(fixture) = scylla().await else { return };
    let store = &fixture.store;
    let (put, _) = items(store).await;
    let ids = [string(&unique("sorted")), string(&unique("sorted"))];
    for (i, id) in ids.iter().enumerate() {
        let values = [id.clone(), Value::Int(i as i32), string("a"), Value::Long(i as i64)];
        store.write(&put, &values, 5).await.unwrap();
    }
    let list = [Value::List(ids.to_vec())];
    // With two markers, Cassandra reports them as the partition key.
    for (several, values) in [(":ids", &list[..]), ("(:x, :y)", &ids[..])] {
        let from = format!("FROM items WHERE id IN {several} ORDER BY seq DESC");
        let sorted = format!("SELECT a, b, seq {from}");
        let newest = lookup(store, &format!("{sorted} LIMIT 1")).await;
        let found = store.lookup(&newest, values).await.unwrap().unwrap();
        assert_eq!(*found, [string("a"), Value::Long(1), Value::Int(1)]);
        let refused = store.prepare(&sorted, &StatementOptions::lookup()).await.unwrap_err();
        assert_eq!(refused.class, Class::Permanent, "{refused}");
        assert!(refused.message.contains("add LIMIT 1"), "{refused}");
        // A function of a single row changes nothing about that.
        let newest = lookup(store, &format!("SELECT seq, writetime(a) AS at {from} LIMIT 1")).await;
        let found = store.lookup(&newest, values).await.unwrap().unwrap();
        assert_eq!(*found, [Value::Int(1), Value::Long(5)]);
    }
    let one = "SELECT a, b FROM items WHERE id = :id ORDER BY seq DESC";
    let one = store.lookup(&lookup(store, one).await, &ids[..1]).await.unwrap();
    assert_eq!(one, ab("a", 0));
}

#[tokio::test]
async fn cql_keys_that_are_empty_in_part() {
    let Some(fixture) = scylla().await else { return };
    let AnyStore::Scylla(store) = &fixture.store else {
        unreachable!()
    };
    let pairs = unique("pairs").replace('-', "_");
    let blobs = unique("blobs").replace('-', "_");
    for cql in [
        format!("CREATE TABLE {pairs} (a text, b text, n int, PRIMARY KEY ((a, b)))"),
        format!("CREATE TABLE {blobs} (k blob PRIMARY KEY, n int)"),
    ] {
        store.session().query_unpaged(cql, ()).await.unwrap();
    }
    // The driver learns of a new table by itself, but later.
    store.session().refresh_metadata().await.unwrap();
    let put = format!("INSERT INTO {pairs} (a, b, n) VALUES (:a, :b, :n)");
    let put = write(&fixture.store, &put).await;
    let key = [string(""), string("x")];
    let row = [key[0].clone(), key[1].clone(), Value::Int(7)];
    store.write(&put, &row, 1).await.unwrap();
    for cql in ["a = :a AND b = :b", "a = :a AND b IN (:b)"] {
        let get = lookup(&fixture.store, &format!("SELECT n FROM {pairs} WHERE {cql}")).await;
        let found: Option<Row> = Some(Box::new([Value::Int(7)]));
        assert_eq!(store.lookup(&get, &key).await, Ok(found), "{cql}");
    }
    let get = lookup(&fixture.store, &format!("SELECT n FROM {blobs} WHERE k = :k")).await;
    let empty = [Value::Bytes(Vec::<u8>::new().into())];
    assert_eq!(store.lookup(&get, &empty).await, Ok(None));
    // An empty key among several hides no row of the others, whatever the server says to it.
    let (put, _) = items(&fixture.store).await;
    let id = string(&unique("beside"));
    let row = [id.clone(), Value::Int(1), string("a"), Value::Long(2)];
    store.write(&put, &row, 1).await.unwrap();
    let get = lookup(&fixture.store, "SELECT a, b FROM items WHERE id IN (:x, :y)").await;
    assert_ne!(store.lookup(&get, &[id, string("")]).await, Ok(None));
}

#[tokio::test]
async fn cql_user_defined_types() {
    let Some(fixture) = scylla().await else { return };
    let store = &fixture.store;
    let put = write(store, "INSERT INTO homes (id, home, homes) VALUES (:id, :home, :homes)").await;
    let get = lookup(store, "SELECT home, homes FROM homes WHERE id = :id").await;
    let id = string(&unique("udt"));
    let home = Value::Record(vec![("zip".into(), Value::Int(75001))]);
    let whole =
        |street: Value<'static>| Value::Record(vec![("street".into(), street), ("zip".into(), Value::Int(75001))]);
    let homes = Value::List(vec![whole(string("Rue de Rivoli"))]);
    store.write(&put, &[id.clone(), home, homes.clone()], 1).await.unwrap();
    let row = store.lookup(&get, &[id]).await.unwrap().unwrap();
    assert_eq!(*row, [whole(Value::Null), homes], "by name; what is not given is null");
    assert_eq!(get.columns()[0].ty.to_string(), "address");
}

#[tokio::test]
async fn cql_counters_and_conditions_when_declared() {
    let Some(fixture) = scylla().await else { return };
    let store = &fixture.store;
    let declared = StatementOptions {
        idempotent: false,
        ..StatementOptions::write()
    };
    let cql = "UPDATE counts SET n = n + :step WHERE id = :id";
    let error = store.prepare(cql, &StatementOptions::write()).await.unwrap_err();
    assert!(error.message.contains("counter"), "{error}");
    let count = store.prepare(cql, &declared).await.unwrap();
    let id = string(&unique("count"));
    for step in [2, 3] {
        store
            .write(&count, &[Value::Int(step), id.clone()], now_us())
            .await
            .unwrap();
    }
    let get = lookup(store, "SELECT n FROM counts WHERE id = :id").await;
    assert_eq!(
        *store.lookup(&get, std::slice::from_ref(&id)).await.unwrap().unwrap(),
        [Value::Long(5)]
    );

    let cql = "INSERT INTO items (id, seq, a) VALUES (:id, :seq, :a) IF NOT EXISTS";
    let once = store.prepare(cql, &declared).await.unwrap();
    for a in ["first", "second"] {
        store
            .write(&once, &[id.clone(), Value::Int(1), string(a)], now_us())
            .await
            .unwrap();
    }
    let get = lookup(store, "SELECT a FROM items WHERE id = :id").await;
    assert_eq!(*store.lookup(&get, &[id]).await.unwrap().unwrap(), [string("first")]);
}

#[tokio::test]
async fn cql_schema_changes_are_prepared_again() {
    let Some(fixture) = scylla().await else { return };
    let AnyStore::Scylla(store) = &fixture.store else {
        unreachable!()
    };
    let table = format!("changing_{}", now_us());
    let run = |cql: String| async move { store.session().query_unpaged(cql, ()).await.unwrap() };
    run(format!("CREATE TABLE {table} (id text PRIMARY KEY, a text)")).await;
    let put = write(&fixture.store, &format!("INSERT INTO {table} (id, a) VALUES (:id, :a)")).await;
    let get = lookup(&fixture.store, &format!("SELECT a FROM {table} WHERE id = :id")).await;
    store.write(&put, &[string("k"), string("1")], 1).await.unwrap();
    run(format!("ALTER TABLE {table} ADD b int")).await;
    store.write(&put, &[string("k"), string("2")], 2).await.unwrap();
    assert_eq!(
        *store.lookup(&get, &[string("k")]).await.unwrap().unwrap(),
        [string("2")]
    );
    let other = write(&fixture.store, &format!("INSERT INTO {table} (id, b) VALUES (:id, :b)")).await;
    let error = store.write(&other, &[string(""), Value::Int(1)], 3).await.unwrap_err();
    assert_eq!((error.class, error.label), (Class::Permanent, "invalid"), "{error}");
    run(format!("DROP TABLE {table}")).await;
    let error = store.lookup(&get, &[string("k")]).await.unwrap_err();
    assert_eq!((error.class, error.label), (Class::Fatal, "invalid"), "{error}");
    let error = store.write(&put, &[string("k"), string("3")], 3).await.unwrap_err();
    assert_eq!((error.class, error.label), (Class::Fatal, "invalid"), "{error}");
}

#[tokio::test]
async fn cql_that_cannot_be_reached_is_transient_and_wrong_names_are_fatal() {
    let away = ScyllaOptions {
        nodes: vec!["127.0.0.1:1".into()],
        ..ScyllaOptions::default()
    };
    let error = ScyllaStore::connect(&away).await.unwrap_err();
    assert_eq!((error.class, error.label), (Class::Transient, "connection"), "{error}");
    let Some(options) = scylla_options() else { return };
    let nowhere = ScyllaOptions {
        keyspace: Some("no_such_keyspace".into()),
        ..options.clone()
    };
    let error = ScyllaStore::connect(&nowhere).await.unwrap_err();
    assert_eq!((error.class, error.label), (Class::Fatal, "keyspace"), "{error}");
    let abroad = ScyllaOptions {
        datacenter: Some("atlantis".into()),
        ..options
    };
    let error = ScyllaStore::connect(&abroad).await.unwrap_err();
    assert!(
        error.class == Class::Fatal && error.message.contains("atlantis"),
        "{error}"
    );
}

#[tokio::test]
async fn sqlite_one_bad_write_fails_alone() {
    let fixture = sqlite().await.unwrap();
    let AnyStore::Sqlite(store) = &fixture.store else {
        unreachable!()
    };
    store
        .execute_script("CREATE TABLE strict_items (id text PRIMARY KEY, a text NOT NULL CHECK (a <> 'bad'))")
        .await
        .unwrap();
    let put = write(&fixture.store, "INSERT INTO strict_items (id, a) VALUES (:id, :a)").await;
    let writes = (0..100).map(|i| {
        let put = &put;
        async move {
            store
                .write(
                    put,
                    &[string(&i.to_string()), string(if i == 50 { "bad" } else { "good" })],
                    1,
                )
                .await
        }
    });
    let done = futures_util::future::join_all(writes).await;
    let error = done[50].as_ref().unwrap_err();
    assert_eq!((error.class, error.label), (Class::Permanent, "constraint"));
    assert_eq!(done.iter().filter(|d| d.is_ok()).count(), 99);
    let count = scan(&fixture.store, "SELECT count(*) AS n FROM strict_items").await;
    assert_eq!(*store.lookup(&count, &[]).await.unwrap().unwrap(), [Value::Long(99)]);
}

#[tokio::test]
async fn sqlite_a_statement_that_is_no_longer_taken_is_fatal() {
    let fixture = sqlite().await.unwrap();
    let AnyStore::Sqlite(store) = &fixture.store else {
        unreachable!()
    };
    let table = "CREATE TABLE going (id text PRIMARY KEY, a text CHECK (json(a) <> ''))";
    store.execute_script(table).await.unwrap();
    let put = write(&fixture.store, "INSERT INTO going (id, a) VALUES (:id, :a)").await;
    let get = lookup(&fixture.store, "SELECT a FROM going WHERE id = :id").await;
    store.write(&put, &[string("k"), string("{}")], 1).await.unwrap();
    let error = store.write(&put, &[string("k"), string("{")], 2).await.unwrap_err();
    assert_eq!(
        (error.class, error.label),
        (Class::Permanent, "invalid"),
        "the record's own fault: {error}"
    );
    assert_eq!(
        *store.lookup(&get, &[string("k")]).await.unwrap().unwrap(),
        [string("{}")]
    );
    store.execute_script("DROP TABLE going").await.unwrap();
    for error in [
        store.lookup(&get, &[string("k")]).await.unwrap_err(),
        store.write(&put, &[string("k"), string("{}")], 3).await.unwrap_err(),
    ] {
        assert_eq!((error.class, error.label), (Class::Fatal, "invalid"), "{error}");
    }
}

#[tokio::test]
async fn sqlite_is_checked_without_being_changed() {
    let dir = std::env::temp_dir().join(unique("messina-check"));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("a%20 file?.db");
    let absent = SqliteStore::open_tables_of(&file).await.unwrap_err();
    assert!(
        absent.message.contains("a%20 file?.db: the file does not exist yet"),
        "{absent}"
    );
    let nowhere = SqliteStore::open_tables_of(&dir.join("no folder/a.db")).await;
    let nowhere = nowhere.unwrap_err().message;
    assert!(
        nowhere.contains("unable to open database file"),
        "the start would not create it: {nowhere}"
    );
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "nothing was made");
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection
        .execute_batch("CREATE TABLE t (id text PRIMARY KEY, a \"list<text>\"); INSERT INTO t VALUES ('x', '[]')")
        .unwrap();
    drop(connection);
    let before = std::fs::read(&file).unwrap();
    let store = AnyStore::Sqlite(SqliteStore::open_tables_of(&file).await.unwrap());
    let put = write(&store, "INSERT INTO t (id, a) VALUES (:id, :a)").await;
    assert_eq!(put.markers()[1].ty.to_string(), "list<text>");
    store.write(&put, &[string("y"), Value::List(vec![])], 1).await.unwrap();
    assert!(std::fs::read(&file).unwrap() == before, "the file is as it was");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "and alone");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn sqlite_hides_its_own_columns_and_uses_the_key() {
    let fixture = sqlite().await.unwrap();
    let AnyStore::Sqlite(store) = &fixture.store else {
        unreachable!()
    };
    let before = lookup(&fixture.store, "SELECT * FROM items WHERE id = :id").await;
    let (put, _) = items(&fixture.store).await;
    let after = lookup(&fixture.store, "SELECT * FROM suite.items WHERE id = :id").await;
    store
        .write(&put, &[string("k"), Value::Int(1), string("a"), Value::Long(2)], 1)
        .await
        .unwrap();
    for get in [before, after] {
        let names: Vec<_> = get.columns().iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["id", "seq", "a", "b"]);
        let row = store.lookup(&get, &[string("k")]).await.unwrap().unwrap();
        assert_eq!(*row, [string("k"), Value::Int(1), string("a"), Value::Long(2)]);
    }
    // SQLite still searches by key in the subquery that leaves expired rows out.
    let path = fixture.dir.as_ref().unwrap().join("store.db");
    let connection = rusqlite::Connection::open(path).unwrap();
    let plan: String = connection
        .query_row(
            "EXPLAIN QUERY PLAN SELECT a FROM (SELECT id, seq, a, b FROM items WHERE messina_expires IS NULL OR \
             messina_expires > 5) AS items WHERE id = 'k' AND seq = 1",
            [],
            |row| row.get(3),
        )
        .unwrap();
    assert!(plan.starts_with("SEARCH"), "{plan}");
}

#[tokio::test]
async fn sqlite_refuses_what_it_would_spoil() {
    let fixture = sqlite().await.unwrap();
    let AnyStore::Sqlite(store) = &fixture.store else {
        unreachable!()
    };
    store
        .execute_script("CREATE TABLE spoiled (id ascii PRIMARY KEY); CREATE TABLE keyless (a text)")
        .await
        .unwrap();
    for (cql, word) in [
        ("INSERT INTO spoiled (id) VALUES (:id)", "declare it text"),
        ("INSERT INTO keyless (a) VALUES (:a)", "no primary key"),
        ("INSERT INTO items (id) VALUES (:id)", "not given in full: seq"),
    ] {
        let error = store.prepare(cql, &StatementOptions::write()).await.unwrap_err();
        assert!(
            error.class == Class::Permanent && error.message.contains(word),
            "{error}"
        );
    }
    let by_order = "SELECT id FROM kinds WHERE c_decimal > :least";
    let error = store.prepare(by_order, &StatementOptions::lookup()).await.unwrap_err();
    assert!(
        error.class == Class::Permanent && error.message.contains("column c_decimal is of type decimal"),
        "{error}"
    );
}

#[tokio::test]
async fn sqlite_takes_no_text_where_its_digits_would_become_a_number() {
    let fixture = sqlite().await.unwrap();
    let AnyStore::Sqlite(store) = &fixture.store else {
        unreachable!()
    };
    let table = "CREATE TABLE named (id STRING PRIMARY KEY, a nvarchar(9), home address)";
    store.execute_script(table).await.unwrap();
    let put = write(
        &fixture.store,
        "INSERT INTO named (id, a, home) VALUES (:id, :a, :home)",
    )
    .await;
    let get = lookup(&fixture.store, "SELECT id, a, home FROM named WHERE id = :id").await;
    let values = [string("007"), string("a"), Value::Null];
    for error in [
        store.write(&put, &values, 1).await.unwrap_err(),
        store.lookup(&get, &values[..1]).await.unwrap_err(),
    ] {
        assert_eq!((error.class, error.label), (Class::Permanent, "value"), "{error}");
        assert!(
            error.message.contains(":id") && error.message.contains("declare it text"),
            "{error}"
        );
    }
    // All else is stored and read as it is: a number, a text in a column of texts, a record as JSON.
    let home = Value::Record(vec![("zip".into(), string("007"))]);
    let values = [Value::Long(7), string("007"), home];
    store.write(&put, &values, 1).await.unwrap();
    let row = store.lookup(&get, &values[..1]).await.unwrap().unwrap();
    assert_eq!(*row, [Value::Long(7), string("007"), string(r#"{"zip":"007"}"#)]);
    assert_eq!(get.columns()[0].ty, ColumnType::Any);
}

#[tokio::test]
async fn sqlite_takes_no_nan_for_a_null() {
    let fixture = sqlite().await.unwrap();
    let AnyStore::Sqlite(store) = &fixture.store else {
        unreachable!()
    };
    let table = "CREATE TABLE by_number (k double PRIMARY KEY, v double)";
    store.execute_script(table).await.unwrap();
    let put = write(&fixture.store, "INSERT INTO by_number (k, v) VALUES (:k, :v)").await;
    let update = write(&fixture.store, "UPDATE by_number SET v = :v WHERE k = :k").await;
    let get = lookup(&fixture.store, "SELECT v FROM by_number WHERE k = :k").await;
    let nan = || Value::Double(f64::NAN);
    let one = || Value::Double(1.0);
    store.write(&put, &[one(), one()], 1).await.unwrap();
    for (statement, values, marker) in [
        (&put, [nan(), one()], ":k"),
        (&put, [one(), nan()], ":v"),
        (&update, [nan(), one()], ":v"),
    ] {
        let error = store.write(statement, &values, 2).await.unwrap_err();
        assert_eq!((error.class, error.label), (Class::Permanent, "value"), "{error}");
        assert!(
            error.message.contains(marker) && error.message.contains("NaN"),
            "{error}"
        );
    }
    assert_eq!(store.lookup(&get, &[nan()]).await, Ok(None));
    let count = scan(&fixture.store, "SELECT count(*) AS n FROM by_number").await;
    assert_eq!(*store.lookup(&count, &[]).await.unwrap().unwrap(), [Value::Long(1)]);
}

#[tokio::test]
async fn sqlite_that_is_no_database_is_fatal() {
    let dir = std::env::temp_dir().join(unique("messina-broken"));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("store.db");
    std::fs::write(
        &path,
        "this is not a database, though it is long enough to be taken for a header of one",
    )
    .unwrap();
    let error = SqliteStore::open(&SqliteOptions::new(&path)).unwrap_err();
    assert_eq!((error.class, error.label), (Class::Fatal, "corrupt"), "{error}");
    assert!(error.message.contains("store.db"), "{error}");
    std::fs::remove_dir_all(dir).unwrap();
}

const CHILD: &str = "MESSINA_TEST_SQLITE_CHILD";

/// Not a test of its own: the process that `sqlite_acknowledged_writes_survive_kill_9` starts and kills.
#[tokio::test]
async fn sqlite_child_that_writes_until_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = Arc::new(SqliteStore::open(&SqliteOptions::new(path)).unwrap());
    let cql = "INSERT INTO items (id, seq, a) VALUES (:id, :seq, :a)";
    let put = Arc::new(store.prepare(cql, &StatementOptions::write()).await.unwrap());
    for batch in 0.. {
        let writes = (0..50).map(|i| {
            let (store, put) = (store.clone(), put.clone());
            async move {
                let seq = batch * 50 + i;
                store
                    .write(&put, &[string("k"), Value::Int(seq), string("a")], 1)
                    .await
                    .unwrap();
                // A single call, so that the line is written whole.
                use std::io::Write as _;
                std::io::stderr().write_all(format!("ack {seq}\n").as_bytes()).unwrap();
            }
        });
        futures_util::future::join_all(writes).await;
    }
}

#[tokio::test]
async fn sqlite_acknowledged_writes_survive_kill_9() {
    use std::io::BufRead as _;
    let fixture = sqlite().await.unwrap();
    let path = fixture.dir.as_ref().unwrap().join("store.db");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sqlite_child_that_writes_until_killed", "--nocapture"])
        .env(CHILD, &path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    let lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        if let Some(seq) = line.strip_prefix("ack ").and_then(|s| s.parse::<i32>().ok()) {
            acknowledged.push(seq);
        }
        if acknowledged.len() == 2_017 {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(
        acknowledged.len() >= 2_017,
        "the child ended early, after {}",
        acknowledged.len()
    );
    let get = lookup(&fixture.store, "SELECT a FROM items WHERE id = :id AND seq = :seq").await;
    for seq in acknowledged {
        let row = fixture
            .store
            .lookup(&get, &[string("k"), Value::Int(seq)])
            .await
            .unwrap();
        assert!(row.is_some(), "acknowledged write {seq} is lost");
    }
}

#[tokio::test]
async fn sqlite_full_synchronous_mode_works_too() {
    let dir = std::env::temp_dir().join(unique("messina-full"));
    std::fs::create_dir_all(&dir).unwrap();
    let options = SqliteOptions {
        synchronous: Synchronous::Full,
        readers: 1,
        ..SqliteOptions::new(dir.join("f.db"))
    };
    let store = SqliteStore::open(&options).unwrap();
    store
        .execute_script("CREATE TABLE t (k int PRIMARY KEY, v text)")
        .await
        .unwrap();
    let put = store
        .prepare("INSERT INTO t (k, v) VALUES (:k, :v)", &StatementOptions::write())
        .await
        .unwrap();
    store.write(&put, &[Value::Int(1), string("x")], 1).await.unwrap();
    let get = store
        .prepare("SELECT v FROM t WHERE k = :k", &StatementOptions::lookup())
        .await
        .unwrap();
    assert_eq!(
        *store.lookup(&get, &[Value::Int(1)]).await.unwrap().unwrap(),
        [string("x")]
    );
    std::fs::remove_dir_all(dir).unwrap();
}

/// SQLite's names are case-insensitive; CQL reads unquoted names in lower case.
#[tokio::test]
async fn sqlite_finds_columns_that_are_declared_in_mixed_case() {
    let dir = std::env::temp_dir().join(unique("messina-mixed"));
    std::fs::create_dir_all(&dir).unwrap();
    let store = SqliteStore::open(&SqliteOptions::new(dir.join("m.db"))).unwrap();
    store
        .execute_script("CREATE TABLE t (userId text PRIMARY KEY, userName text, Score int)")
        .await
        .unwrap();
    let write = async |cql: &str| store.prepare(cql, &StatementOptions::write()).await.unwrap();
    let both = write("INSERT INTO t (userId, userName, score) VALUES (:userId, :userName, :score)").await;
    let one = write("UPDATE t SET userName = :name WHERE userId = :id").await;
    let get = store
        .prepare(
            "SELECT userName, Score FROM t WHERE userId = :id",
            &StatementOptions::lookup(),
        )
        .await
        .unwrap();
    let held = async || store.lookup(&get, &[string("u")]).await.unwrap().unwrap().to_vec();
    for (at, name, score) in [(1, "a", 1), (2, "b", 2)] {
        let values = [string("u"), string(name), Value::Int(score)];
        store.write(&both, &values, at).await.unwrap();
        assert_eq!(held().await, [string(name), Value::Int(score)]);
    }
    let named: Vec<_> = one.markers().iter().map(|marker| marker.name.clone()).collect();
    assert_eq!(named, ["name", "id"]);
    store.write(&one, &[string("c"), string("u")], 3).await.unwrap();
    assert_eq!(held().await, [string("c"), Value::Int(2)]);
    store.write(&one, &[string("old"), string("u")], 2).await.unwrap();
    assert_eq!(held().await, [string("c"), Value::Int(2)]);
    std::fs::remove_dir_all(dir).unwrap();
}

/// The futures run on a multi-threaded runtime, so they must be `Send`.
fn _futures_are_send(store: &AnyStore, statement: &Statement) {
    fn send<F: Future + Send>(_: F) {}
    send(store.lookup(statement, &[]));
    send(store.write(statement, &[], 0));
    send(store.prepare("", &StatementOptions::default()));
}
