//! References on a real server that speaks MongoDB's protocol: loaded completely, followed by change stream, and kept whatever fails.
//!
//! The first test uses the server of `MONGO_URI`. The others start one of their own on other ports, because they kill it; it requires a
//! password (SCRAM), and the connection uses TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/own.rs"]
mod own;

use std::sync::Arc;
use std::time::{Duration, Instant};

use messina::avro::value::{Type, Value};
use messina::breaker::Rules;
use messina::breaker::gate::Gate;
use messina::reference::codec::key_of_value;
use messina::reference::follow::Follower;
use messina::reference::on_demand::OnDemand;
use messina::reference::server::Server;
use messina::reference::{Reference, Shape};
use messina::retry::{Backoff, Class};
use messina::store::cache::{CacheOptions, Hit};
use messina::store::{ColumnType, StoreError};
use messina::telemetry::handles::ReferenceMetrics;
use messina::telemetry::metrics::Metrics;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use own::Own;
use tokio::task::JoinHandle;

const DOCUMENTS: i64 = 200_000;

fn shape(collection: &str) -> Shape {
    let text = |name: &str| (name.to_owned(), Type::String);
    Shape {
        name: "partners".into(),
        collection: collection.to_owned(),
        key: "_id".to_owned(),
        key_type: ColumnType::BigInt,
        fields: vec![text("name"), text("country"), text("vat")],
        max_bytes: 64 << 20,
    }
}

fn partner(id: i64) -> Document {
    doc! {
        "_id": id, "name": format!("Partner {id}"), "country": "FR", "vat": format!("FR{id:011}"),
        "notes": "what no pipeline asks for, and a projection leaves on the server".repeat(3),
    }
}

/// A reference that is followed, and the collection that its test changes.
struct Followed {
    reference: Arc<Reference>,
    metrics: ReferenceMetrics,
    collection: Collection<Document>,
    task: JoinHandle<()>,
    /// How long the first load took.
    loading: Duration,
}

impl Followed {
    async fn start(uri: &str, collection: &str, refresh: Duration) -> Followed {
        Followed::of(uri, shape(collection), refresh).await
    }

    async fn of(uri: &str, shape: Shape, refresh: Duration) -> Followed {
        let collection = shape.collection.clone();
        let server = Server::open(uri, None).await.unwrap();
        server.keep();
        let fields = ["_id", "name", "country", "vat"].map(str::to_owned);
        let source = server.source(&collection, fields);
        let reference = Arc::new(Reference::new(shape));
        let metrics = ReferenceMetrics::new(&Metrics::new().unwrap(), "partners");
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1), 2.0);
        let mut follower = Follower::new(reference.clone(), source, refresh, backoff, metrics.clone());
        let began = Instant::now();
        follower.read().await.unwrap();
        let loading = began.elapsed();
        let (database, name) = collection.split_once('.').unwrap();
        let client = Client::with_uri_str(uri).await.unwrap();
        Followed {
            reference,
            metrics,
            collection: client.database(database).collection(name),
            task: tokio::spawn(follower.run()),
            loading,
        }
    }

    fn name(&self, id: i64) -> Option<String> {
        let row = self.reference.find(&Value::Long(id)).unwrap()?;
        match &row[0] {
            Value::String(name) => Some(name.to_string()),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the look-up finds `wanted`, and returns how long that took.
    async fn until(&self, id: i64, wanted: Option<&str>, limit: Duration) -> Duration {
        let began = Instant::now();
        while self.name(id).as_deref() != wanted {
            assert!(
                began.elapsed() < limit,
                "{id} is still {:?}, not {wanted:?}",
                self.name(id)
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        began.elapsed()
    }

    async fn rename(&self, id: i64, name: &str) {
        let update = self
            .collection
            .update_one(doc! { "_id": id }, doc! { "$set": { "name": name } });
        assert_eq!(update.await.unwrap().matched_count, 1);
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn fill(uri: &str, collection: &str, documents: i64) {
    let (database, name) = collection.split_once('.').unwrap();
    let client = Client::with_uri_str(uri).await.unwrap();
    let collection = client.database(database).collection::<Document>(name);
    let all: Vec<i64> = (0..documents).collect();
    for ids in all.chunks(5000) {
        collection.insert_many(ids.iter().map(|id| partner(*id))).await.unwrap();
    }
}

/// The server named by the environment, if any.
fn uri() -> Option<String> {
    let uri = std::env::var("MONGO_URI").ok();
    assert!(
        uri.is_some() || std::env::var("CI").as_deref() != Ok("true"),
        "MONGO_URI is not set"
    );
    uri
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs mongo"]
async fn two_hundred_thousand_documents_are_loaded_and_an_update_is_seen_within_a_second() {
    let Some(uri) = uri() else { return };
    let database = format!("t{:x}", std::process::id());
    let collection = format!("{database}.partners");
    fill(&uri, &collection, DOCUMENTS).await;
    let partners = Followed::start(&uri, &collection, Duration::from_secs(300)).await;
    assert_eq!(partners.reference.entries(), DOCUMENTS as u64);
    for id in [0, 1, DOCUMENTS / 2, DOCUMENTS - 1] {
        assert_eq!(partners.name(id), Some(format!("Partner {id}")));
    }
    let bytes = partners.reference.bytes();
    let mut delays = Vec::new();
    for round in 0..7 {
        let name = format!("renamed {round}");
        partners.rename(7, &name).await;
        delays.push(partners.until(7, Some(&name), Duration::from_secs(20)).await);
    }
    delays.sort();
    println!(
        "load {:?}, {bytes} bytes ({:.1} a document), update to visible: median {:?}, worst {:?}",
        partners.loading,
        bytes as f64 / DOCUMENTS as f64,
        delays[3],
        delays[6]
    );
    println!("figure refresh_ms {:.1}", delays[3].as_secs_f64() * 1e3);
    println!("figure load_ms {}", partners.loading.as_millis());
    println!("figure document_bytes {:.1}", bytes as f64 / DOCUMENTS as f64);
    assert!(delays[3] < Duration::from_secs(1), "{delays:?}");
    assert!(bytes < 40 << 20, "{bytes}");
    partners.collection.delete_one(doc! { "_id": 8 }).await.unwrap();
    partners.until(8, None, Duration::from_secs(20)).await;
    partners.collection.insert_one(partner(DOCUMENTS)).await.unwrap();
    let last = format!("Partner {DOCUMENTS}");
    partners.until(DOCUMENTS, Some(&last), Duration::from_secs(20)).await;
    // A document of the wrong type fails the records that need it, and is counted.
    let misfit = partners
        .collection
        .update_one(doc! { "_id": 9 }, doc! { "$set": { "vat": 9 } });
    misfit.await.unwrap();
    let began = Instant::now();
    let error = loop {
        match partners.reference.find(&Value::Long(9)) {
            Err(error) => break error,
            Ok(_) => assert!(began.elapsed() < Duration::from_secs(20), "the misfit is not seen"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(error.class, Class::Permanent);
    assert_eq!(
        error.message,
        format!("a document of {collection}: field vat is int, but string is expected")
    );
    assert_eq!(partners.reference.unfit(), 1);
    let client = Client::with_uri_str(&uri).await.unwrap();
    client.database(&database).drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs mongo"]
async fn of_two_documents_with_one_key_the_other_is_found_when_the_found_one_ends() {
    let Some(uri) = uri() else { return };
    let database = format!("d{:x}", std::process::id());
    let collection = format!("{database}.partners");
    fill(&uri, &collection, 2).await;
    let client = Client::with_uri_str(&uri).await.unwrap();
    let documents = client.database(&database).collection::<Document>("partners");
    let same = doc! { "$set": { "vat": "FR" } };
    assert_eq!(documents.update_many(doc! {}, same).await.unwrap().modified_count, 2);
    let shape = Shape {
        key: "vat".to_owned(),
        key_type: ColumnType::Text,
        ..shape(&collection)
    };
    let partners = Followed::of(&uri, shape, Duration::from_secs(300)).await;
    let found = || {
        let row = partners.reference.find(&Value::String("FR".into())).unwrap();
        row.map(|row| row[0].clone())
    };
    let first = found().unwrap();
    let Value::String(name) = &first else {
        panic!("{first:?}")
    };
    documents.delete_one(doc! { "name": &**name }).await.unwrap();
    let began = Instant::now();
    while found().is_none_or(|other| other == first) {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "the other one is not found: {:?}",
            found()
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    client.database(&database).drop().await.unwrap();
}

/// A URI with TLS and this user.
fn uri_of(own: &Own, port: u16, user: &str) -> String {
    let ca = own.certificate("ca.pem");
    format!(
        "mongodb://{user}localhost:{}/?directConnection=true&tls=true&tlsCAFile={}&serverSelectionTimeoutMS=3000",
        port + 1,
        ca.display()
    )
}

/// As when the server has a new password before the file has it.
async fn a_login_that_is_refused_is_read_again(before: &str, after: &str) {
    let file = std::env::temp_dir().join(format!("messina-mongo-uri-{}", std::process::id()));
    std::fs::write(&file, before).unwrap();
    let toml = format!(
        "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n[mongo]\nuri = {{ file = '{}' }}\n",
        file.display()
    );
    let (config, _) = messina::config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
    let secret = config.mongo.unwrap().uri;
    let server = Server::open(before, Some(secret)).await.unwrap();
    let source = server.source("crm.partners", ["name".to_owned()]);
    let key = key_of_value(&Value::Int(7)).unwrap();
    let find = || source.find("_id", vec![7.into()], &key);
    for _ in 0..2 {
        let refused = find().await.unwrap_err();
        assert_eq!((refused.class, refused.label), (Class::Transient, "auth"), "{refused}");
    }
    std::fs::write(&file, format!("{after}\n")).unwrap();
    assert_eq!(find().await.unwrap_err().label, "auth", "with the old one");
    let found = find().await.unwrap().unwrap();
    assert_eq!(found.get_str("name").unwrap(), "Partner 7");
    std::fs::remove_file(file).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs mongo"]
async fn what_is_held_is_kept_through_a_server_that_is_killed_and_comes_back_empty() {
    if uri().is_none() {
        return;
    }
    let own = Own::start(
        "mongo",
        "mongo-killed",
        &[("MONGO_PORT", "27317"), ("MONGO_AUTH", "messina:test-password")],
    );
    let wrong = Server::open(&uri_of(&own, 27_317, "messina:wrong@"), None)
        .await
        .unwrap();
    let refused = wrong
        .source("crm.partners", ["name".to_owned()])
        .sample()
        .await
        .unwrap_err();
    assert_eq!((refused.class, refused.label), (Class::Fatal, "auth"), "{refused}");
    assert!(!refused.message.contains("wrong"), "{refused}");

    let uri = uri_of(&own, 27_317, "messina:test-password@");
    fill(&uri, "crm.partners", 2000).await;
    a_login_that_is_refused_is_read_again(&uri_of(&own, 27_317, "messina:wrong@"), &uri).await;
    let partners = Followed::start(&uri, "crm.partners", Duration::from_secs(2)).await;
    partners.rename(1, "before").await;
    partners.until(1, Some("before"), Duration::from_secs(20)).await;
    own.run("kill9", "mongo");
    let killed = Instant::now();
    while killed.elapsed() < Duration::from_secs(4) {
        assert_eq!(partners.name(1).as_deref(), Some("before"));
        assert_eq!(partners.reference.entries(), 2000);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let age = partners.reference.age(Instant::now()).unwrap();
    assert!(age > Duration::from_secs(2), "the age tells: {age:?}");
    // The server loses everything: changes cannot be resumed, and the collection is then empty, which is not believed.
    own.run("restart", "mongo");
    // Of the next two failed loads, at least one began after the restart and found the collection empty.
    let (began, failed) = (Instant::now(), partners.metrics.failed.get());
    while partners.metrics.failed.get() < failed + 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "no two readings were tried");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(partners.reference.entries(), 2000);
    assert_eq!(partners.name(1999).as_deref(), Some("Partner 1999"));
    // Filled again, with one document missing and one changed: the copy follows, and loses nothing meanwhile.
    let refilled = tokio::spawn({
        let uri = uri.clone();
        async move { fill(&uri, "crm.partners", 1999).await }
    });
    refilled.await.unwrap();
    partners.until(1, Some("Partner 1"), Duration::from_secs(60)).await;
    partners.until(1999, None, Duration::from_secs(60)).await;
    assert_eq!(partners.reference.entries(), 1999);
    partners.rename(2, "after").await;
    partners.until(2, Some("after"), Duration::from_secs(20)).await;
    let age = partners.reference.age(Instant::now()).unwrap();
    assert!(age < Duration::from_secs(5), "it is current again: {age:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs mongo"]
async fn without_change_streams_the_schedule_brings_changes_and_a_sudden_loss_is_believed_when_it_stays() {
    if uri().is_none() {
        return;
    }
    let own = Own::start(
        "mongo",
        "mongo-alone",
        &[("MONGO_PORT", "27327"), ("MONGO_REPLICA_SET", "none")],
    );
    let uri = uri_of(&own, 27_327, "");
    fill(&uri, "crm.partners", 1000).await;
    let partners = Followed::start(&uri, "crm.partners", Duration::from_millis(400)).await;
    partners.rename(3, "by schedule").await;
    partners.until(3, Some("by schedule"), Duration::from_secs(20)).await;
    assert_eq!(partners.metrics.changes.get(), 0);
    assert_eq!(partners.metrics.failed.get(), 0);
    partners
        .collection
        .delete_many(doc! { "_id": { "$gte": 100 } })
        .await
        .unwrap();
    partners.until(999, None, Duration::from_secs(20)).await;
    assert!(partners.metrics.failed.get() > 1, "the first readings were doubted");
    assert_eq!(partners.reference.entries(), 100);
}

async fn look_up(reference: &Reference, key: &Value<'_>) -> Result<Hit, StoreError> {
    let gate = Gate::new("mongo", Rules::default(), None);
    reference.look_up(key, &gate, false).await.map(|(found, _)| found)
}

/// A collection that is asked for each document: found by keys of any type, cached for its TTL, shared by concurrent look-ups, and
/// served stale while the server is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs mongo"]
async fn documents_are_asked_for_one_by_one_and_kept_for_a_while() {
    if uri().is_none() {
        return;
    }
    let own = Own::start("mongo", "mongo-on-demand", &[("MONGO_PORT", "27337")]);
    let uri = uri_of(&own, 27_337, "");
    fill(&uri, "crm.partners", 1000).await;
    let client = Client::with_uri_str(&uri).await.unwrap();
    let collection = client.database("crm").collection::<Document>("partners");
    let reference = |ttl, missing_ttl, stale| {
        let uri = uri.clone();
        async move {
            let source = Server::open(&uri, None).await.unwrap();
            source.keep();
            let fields = ["_id", "name", "country", "vat"].map(str::to_owned);
            let options = CacheOptions {
                ttl,
                missing_ttl,
                max_bytes: 1 << 20,
                stale,
            };
            let asks = OnDemand::new(source.source("crm.partners", fields), options);
            Arc::new(Reference::on_demand(shape("crm.partners"), asks))
        }
    };
    const HOUR: Duration = Duration::from_secs(3600);
    let kept = reference(HOUR, HOUR, Duration::ZERO).await;
    let name = |row: &Option<messina::store::Row>| row.as_ref().map(|row| row[0].clone());
    let partner = |id: i64| Some(Value::String(format!("Partner {id}").into()));

    // A thousand look-ups of one document, and a thousand of a missing one, are two requests.
    let asked: Vec<_> = (0..2000)
        .map(|i| {
            let kept = kept.clone();
            tokio::spawn(async move { look_up(&kept, &Value::Long(if i % 2 == 0 { 7 } else { -1 })).await })
        })
        .collect();
    for (i, asked) in asked.into_iter().enumerate() {
        let found = asked.await.unwrap().unwrap();
        assert_eq!(name(&found), if i % 2 == 0 { partner(7) } else { None });
    }
    let stats = kept.asks().unwrap().cache().stats();
    assert_eq!(
        (stats.misses, stats.hits + stats.coalesced, stats.entries),
        (2, 1998, 2)
    );
    assert!(kept.bytes() > 0 && kept.entries() == 2);

    // A cached document lives for its TTL; otherwise the server's current one is returned.
    let fresh = reference(Duration::from_millis(1), Duration::ZERO, Duration::ZERO).await;
    assert_eq!(name(&look_up(&fresh, &Value::Int(7)).await.unwrap()), partner(7));
    let update = collection.update_one(doc! { "_id": 7_i64 }, doc! { "$set": { "name": "renamed" } });
    assert_eq!(update.await.unwrap().matched_count, 1);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let renamed = Some(Value::String("renamed".into()));
    assert_eq!(name(&look_up(&fresh, &Value::Long(7)).await.unwrap()), renamed);
    assert_eq!(
        name(&look_up(&kept, &Value::Long(7)).await.unwrap()),
        partner(7),
        "for an hour"
    );
    assert_eq!(name(&look_up(&fresh, &Value::Null).await.unwrap()), None);
    let update = collection.update_one(doc! { "_id": 8_i64 }, doc! { "$set": { "vat": 8 } });
    update.await.unwrap();
    let error = look_up(&fresh, &Value::Long(8)).await.unwrap_err();
    assert_eq!(
        (error.class, error.label),
        (Class::Permanent, "reference_type"),
        "{error}"
    );

    // Without the server, a document that is not cached is a transient failure; an expired one is still served if that is declared.
    let stale = reference(Duration::from_millis(1), Duration::ZERO, HOUR).await;
    assert_eq!(name(&look_up(&stale, &Value::Long(9)).await.unwrap()), partner(9));
    own.run("kill9", "mongo");
    tokio::time::sleep(Duration::from_millis(5)).await;
    let error = look_up(&fresh, &Value::Long(9)).await.unwrap_err();
    assert_eq!(error.class, Class::Transient, "{error}");
    assert_eq!(name(&look_up(&stale, &Value::Long(9)).await.unwrap()), partner(9));
    assert_eq!(name(&look_up(&kept, &Value::Long(7)).await.unwrap()), partner(7));
}
