//! Look-ups of many rows, and many look-ups of one key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use messina::avro::value::{Type, Value};
use messina::retry::Class;
use messina::store::cache::{Cache, CacheOptions, append_key};
use messina::store::{AnyStore, Rows, Statement, StatementOptions, Store};

use super::{items, lookup, scylla, string, unique};

/// More than ten of the store's own pages, and more than two of the driver's.
const MANY: i32 = 10_001;

async fn list(store: &AnyStore, cql: &str, max: usize, truncate: bool) -> Statement {
    let options = StatementOptions {
        rows: Rows::List { max, truncate },
        ..StatementOptions::lookup()
    };
    store.prepare(cql, &options).await.unwrap()
}

async fn fill(store: &AnyStore, id: &Value<'static>, rows: i32) {
    let (put, _) = items(store).await;
    for chunk in (0..rows).collect::<Vec<_>>().chunks(500) {
        let writes = chunk.iter().map(|i| {
            // Every third row has no `a`.
            let a = if i % 3 == 0 { Value::Null } else { string("a") };
            let values = [id.clone(), Value::Int(*i), a, Value::Long(i64::from(*i))];
            let put = &put;
            async move { store.write(put, &values, 5).await }
        });
        for done in futures_util::future::join_all(writes).await {
            done.unwrap();
        }
    }
}

pub async fn all_rows_are_taken_page_by_page_and_no_more_than_declared(store: &AnyStore) {
    let id = string(&unique("many"));
    fill(store, &id, MANY).await;
    const ALL: &str = "SELECT seq, a, b FROM items WHERE id = :id";
    let key = std::slice::from_ref(&id);
    let all = list(store, ALL, MANY as usize, false).await;
    let row = store.lookup(&all, key).await.unwrap().unwrap();
    let wanted: Vec<_> = (0..MANY).map(Value::Int).collect();
    assert_eq!(
        row[0],
        Value::List(wanted),
        "every row once, in the order of its partition"
    );
    let Value::List(a) = &row[1] else {
        panic!("{:?}", row[1])
    };
    assert_eq!(a.len(), MANY as usize, "a null has its place");
    assert_eq!((&a[0], &a[1]), (&Value::Null, &string("a")));

    let few = list(store, ALL, 1000, false).await;
    let error = store.lookup(&few, key).await.unwrap_err();
    assert_eq!(
        (error.class, error.label),
        (Class::Permanent, "too_many_rows"),
        "{error}"
    );
    let cut = list(store, ALL, 1000, true).await;
    let row = store.lookup(&cut, key).await.unwrap().unwrap();
    assert_eq!(row[0], Value::List((0..1000).map(Value::Int).collect()));
    let exact = list(store, "SELECT seq FROM items WHERE id = :id LIMIT 1000", 1000, false).await;
    assert!(
        store.lookup(&exact, key).await.unwrap().is_some(),
        "just as many as declared"
    );

    assert_eq!(store.lookup(&all, &[string("nobody")]).await.unwrap(), None);
    let types: Vec<_> = all.gives().collect();
    assert_eq!(types[2], ("b", Type::List(Box::new(Type::Long.nullable()))));
    assert!(matches!(all.records(), Some(Type::List(_))));
}

/// The driver's own count of the requests that it sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cql_ten_thousand_look_ups_of_one_absent_key_are_one_query() {
    const ASKERS: usize = 10_000;
    let Some(fixture) = scylla().await else { return };
    let store = Arc::new(&fixture.store);
    let AnyStore::Scylla(session) = &fixture.store else {
        panic!("it is one")
    };
    let get = lookup(&store, "SELECT a, b FROM items WHERE id = :id AND seq = :seq").await;
    let cache = Cache::new(CacheOptions {
        ttl: Duration::from_secs(60),
        missing_ttl: Duration::from_secs(60),
        max_bytes: 1 << 20,
        stale: Duration::ZERO,
    });
    let values = [string(&unique("absent")), Value::Int(1)];
    let mut key = Vec::new();
    append_key(&values, &mut key);
    let requests = || {
        let metrics = session.session().get_metrics();
        metrics.get_requests_unpaged_num() + metrics.get_requests_manually_paged_num()
    };
    let before = requests();
    let now = Instant::now();
    let ask = || cache.get_or_load(&key, now, || store.lookup(&get, &values));
    let answers = futures_util::future::join_all((0..ASKERS).map(|_| ask())).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().0.is_none()));
    let (asked, stats) = (requests() - before, cache.stats());
    println!("{ASKERS} look-ups: {asked} query, {} coalesced", stats.coalesced);
    println!("figure coalesced_queries {asked}");
    assert_eq!(asked, 1);
    // A look-up that begins after the answer has come finds it in the cache; the others have waited for it.
    assert_eq!((stats.misses, stats.coalesced + stats.hits), (1, ASKERS as u64 - 1));
    // Without the cache each look-up is a query, which shows that the count works.
    for _ in 0..3 {
        store.lookup(&get, &values).await.unwrap();
    }
    assert_eq!(requests() - before, 4);
}
