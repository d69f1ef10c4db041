//! Tests of requests to a server, how often they are sent and by whom, and of the meaning of its errors.

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::avro::value::Value;
use crate::breaker::Rules;
use crate::breaker::gate::{Gate, NOT_ASKED};
use crate::certificates::tests::pem;
use crate::reference::Shape;
use crate::reference::fake::{member, nothing, refused};
use crate::reference::on_demand::OnDemand;
use crate::retry::Backoff;
use crate::store::cache::CacheOptions;
use crate::store::types::ColumnType;

/// A secondary. Each command takes the time `takes`.
async fn secondary(takes: Duration) -> (String, UnboundedReceiver<Document>) {
    member(false, takes, |_| Some(nothing())).await
}

#[tokio::test]
async fn what_is_followed_is_read_from_the_primary_whatever_the_connection_string_prefers() {
    let (address, mut commands) = secondary(Duration::ZERO).await;
    let uri = format!("mongodb://{address}/?replicaSet=rs&readPreference=secondary&serverSelectionTimeoutMS=1000");
    let server = Server::open(&uri, None).await.unwrap();
    let source = server.source("crm.partners", []);
    assert!(source.read(false).await.is_ok());
    assert!(commands.try_recv().unwrap().contains_key("find"));
    let (read, watched) = tokio::join!(source.read(true), source.watch(None));
    assert!(read.is_err() && watched.is_err());
    assert!(commands.try_recv().is_err(), "the secondary was asked");
}

#[tokio::test]
async fn what_is_followed_is_read_with_what_only_the_primary_has_yet() {
    let (address, mut commands) = member(true, Duration::ZERO, |_| Some(nothing())).await;
    let uri = format!("mongodb://{address}/?replicaSet=rs&readConcernLevel=majority");
    let server = Server::open(&uri, None).await.unwrap();
    let source = server.source("crm.partners", []);
    for (followed, level) in [(true, "local"), (false, "majority")] {
        assert!(source.read(followed).await.is_ok());
        let find = commands.try_recv().unwrap();
        let concern = find.get_document("readConcern").unwrap();
        assert_eq!(concern.get_str("level").unwrap(), level, "followed: {followed}");
    }
}

/// An on-demand reference that caches nothing.
fn on_demand(server: &Server) -> (OnDemand, Shape) {
    let options = CacheOptions {
        ttl: Duration::ZERO,
        missing_ttl: Duration::ZERO,
        max_bytes: 0,
        stale: Duration::ZERO,
    };
    let shape = Shape {
        name: "partners".into(),
        collection: "crm.partners".to_owned(),
        key: "_id".to_owned(),
        key_type: ColumnType::BigInt,
        fields: Vec::new(),
        max_bytes: 0,
    };
    (OnDemand::new(server.source("crm.partners", []), options), shape)
}

#[tokio::test]
async fn the_wait_for_a_connection_is_no_wait_for_an_answer() {
    let (address, _commands) = secondary(Duration::from_millis(50)).await;
    let uri = format!("mongodb://{address}/?replicaSet=rs&readPreference=secondary&maxPoolSize=1");
    let server = Server::open(&uri, None).await.unwrap();
    let (asks, shape) = &on_demand(&server);
    let gate = &Gate::new("mongo", Rules::default(), None);
    let find = |id| async move { asks.find(shape, &Value::Long(id), gate, false).await };
    // This opens the connection.
    find(0).await.unwrap();
    server.login().patience = Duration::from_secs(1);
    for found in join_all((1..=30).map(find)).await {
        assert!(found.is_ok(), "{found:?}");
    }
}

#[tokio::test]
async fn nobody_waits_for_a_connection_while_the_breaker_is_open() {
    let usual = Server::open("mongodb://127.0.0.1:1", None).await.unwrap();
    assert_eq!(usual.login().room.available_permits(), 100);
    let server = Server::open("mongodb://127.0.0.1:1/?maxPoolSize=1", None)
        .await
        .unwrap();
    let (asks, shape) = on_demand(&server);
    let hour = Duration::from_secs(3600);
    let rules = Rules {
        many: 1,
        delay: Backoff::new(hour, hour, 1.0),
        ..Rules::default()
    };
    let gate = Gate::new("mongo", rules, None);
    let room = server.login().room.clone();
    let taken = room.try_acquire().unwrap();
    let (one, other) = (Value::Long(1), Value::Long(2));
    let mut waits = std::pin::pin!(asks.find(&shape, &one, &gate, false));
    assert!(waits.as_mut().now_or_never().is_none());
    gate.failed(false);
    assert_eq!(
        asks.find(&shape, &other, &gate, false).await.unwrap_err().label,
        NOT_ASKED
    );
    drop(taken);
    assert_eq!(waits.await.unwrap_err().label, NOT_ASKED);
}

#[tokio::test]
async fn a_certificate_that_is_renewed_under_its_name_is_taken() {
    let path = std::env::temp_dir().join(format!("messina-mongo-{}.pem", std::process::id()));
    let uri = format!("mongodb://127.0.0.1:9/?tls=true&tlsCAFile={}", path.display());
    let text = format!("[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n[mongo]\nuri = \"{uri}\"\n");
    let (config, _) = crate::config::load_str(vec![("m.toml".into(), text)], std::iter::empty()).unwrap();
    let (old, new) = (pem(1_900_000_000), pem(1_950_000_000));
    std::fs::write(&path, &old).unwrap();
    let server = Server::open(&uri, Some(config.mongo.unwrap().uri)).await.unwrap();
    server.keep();
    let held = |server: &Server| server.login().files.clone();
    server.log_in_again().await;
    assert_eq!(held(&server), [(path.clone(), Some(old))]);
    std::fs::write(&path, &new).unwrap();
    server.log_in_again().await;
    assert_eq!(held(&server), [(path.clone(), Some(new))]);
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn what_the_driver_cannot_read_of_a_connection_string_is_not_told() {
    for uri in [
        "mongodb://messina:s3cr?et@127.0.0.1:1/",
        "mongodb://messina:s3cr/et@127.0.0.1:1/",
        "mongodb://messina@s3cr:et@127.0.0.1:1/",
    ] {
        let told = Server::open(uri, None).await.unwrap_err();
        assert_eq!((told.class, told.label), (Class::Fatal, "config"), "{told}");
        let told = told.to_string();
        assert!(told.contains("percent-encoded"), "{told}");
        assert!(!told.contains("s3cr") && !told.contains("et@"), "{told}");
    }
}

#[tokio::test]
async fn what_cannot_pass_is_told_from_what_may() {
    for (code, wanted) in [
        (13, (Class::Fatal, "forbidden")),
        (18, (Class::Fatal, "auth")),
        (31249, (Class::Permanent, "invalid")),
        (31250, (Class::Permanent, "invalid")),
        (10334, (Class::Transient, "server")),
    ] {
        let (address, _commands) = member(true, Duration::ZERO, move |_| Some(refused(code))).await;
        let server = Server::open(&format!("mongodb://{address}/?replicaSet=rs"), None)
            .await
            .unwrap();
        let error = server.source("crm.partners", []).sample().await.unwrap_err();
        assert_eq!((error.class, error.label), wanted, "{error}");
        assert_eq!(error.message.contains("`changeStream`"), code == 13, "{error}");
    }
}

#[tokio::test]
async fn a_stream_that_cannot_be_resumed_is_told_from_one_that_may() {
    // Lost history, a rejected token, a cursor that is gone for good; and another error.
    for (code, wanted) in [(286, true), (260, true), (280, true), (10334, false)] {
        let (address, _commands) = member(true, Duration::ZERO, move |_| Some(refused(code))).await;
        let server = Server::open(&format!("mongodb://{address}/?replicaSet=rs"), None)
            .await
            .unwrap();
        let Err(error) = server.source("crm.partners", []).watch(None).await else {
            panic!("{code} is no refusal")
        };
        assert_eq!(cannot_resume(&error), wanted, "{error}");
    }
}

#[tokio::test]
async fn a_login_that_may_read_and_not_follow_is_told_so() {
    for (code, wanted) in [(13, Err("forbidden")), (40573, Ok(())), (0, Ok(()))] {
        let (address, mut commands) = member(true, Duration::ZERO, move |command| match command {
            "aggregate" if code == 0 => {
                Some(doc! { "ok": 1, "cursor": { "id": 7_i64, "ns": "crm.partners", "firstBatch": [] } })
            }
            "aggregate" => Some(refused(code)),
            _ => Some(nothing()),
        })
        .await;
        let server = Server::open(&format!("mongodb://{address}/?replicaSet=rs"), None)
            .await
            .unwrap();
        let source = server.source("crm.partners", []);
        assert!(source.sample().await.is_ok());
        assert_eq!(source.may_follow().await.map_err(|error| error.label), wanted);
        // A stream that was opened has been closed.
        let closed = std::iter::from_fn(|| commands.try_recv().ok()).any(|command| command.contains_key("killCursors"));
        assert_eq!(closed, code == 0);
    }
}

#[test]
fn a_change_tells_when_it_was_made_whatever_our_clock_says() {
    let change = |time| Change {
        operation: "delete".to_owned(),
        document: None,
        key: None,
        time,
    };
    let now = Instant::now();
    let clock = UNIX_EPOCH + Duration::from_millis(1_000_500);
    let age = |time: Option<u32>| {
        let time = time.map(|time| Timestamp { time, increment: 1 });
        now.duration_since(change(time).made(now, clock))
    };
    assert_eq!(age(Some(990)), Duration::from_millis(10_500));
    assert_eq!(age(Some(u32::MAX)), Duration::ZERO, "the server's clock is ahead");
    assert_eq!(age(None), Duration::ZERO);
    assert_eq!(change(None).made(now, UNIX_EPOCH - Duration::from_secs(1)), now);
}

#[test]
fn a_login_refused_while_running_may_pass() {
    for label in ["auth", "forbidden"] {
        let refused = while_running(StoreError::fatal(label, "MongoDB: SCRAM failure"));
        assert_eq!((refused.class, refused.label), (Class::Transient, label));
    }
    assert_eq!(while_running(StoreError::fatal("config", "")).class, Class::Fatal);
    assert_eq!(
        while_running(StoreError::permanent("invalid", "")).class,
        Class::Permanent
    );
}

#[test]
fn connections_are_as_many_as_the_connection_string_says() {
    let of = |mongo: &str| {
        let text = format!(
            "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n[pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n{mongo}"
        );
        let (config, _) = crate::config::load_str(vec![("t.toml".into(), text)], std::iter::empty()).unwrap();
        connections(config.mongo.as_ref())
    };
    assert_eq!(of("[mongo]\nuri = \"mongodb://h/?replicaSet=rs&maxPoolSize=250\""), 250);
    for unsaid in [
        "",
        "[mongo]\nuri = \"mongodb://h\"",
        "[mongo]\nuri = { env = \"NOT_SET_HERE\" }",
    ] {
        assert_eq!(of(unsaid), POOL, "{unsaid}");
    }
}
