//! The registry client against two registries: the one in memory, which can be told to fail, and a real one.
//!
//! The real one is at `REGISTRY_URL` (Confluent's API, no login). Without it those tests say so and pass, except under CI.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod tls;

use std::env;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use messina::demo::registry::{DemoRegistry, Fault};
use messina::registry::{Registry, RegistryError, RegistryOptions};
use messina::retry::Class;
use serde_json::{Value, json};

const V1: &str = r#"{"type":"record","name":"Click","fields":[{"name":"id","type":"long"}]}"#;
const V2: &str = r#"{"type":"record","name":"Click","fields":[{"name":"id","type":"long"},{"name":"by","type":["null","string"],"default":null}]}"#;

fn registry(urls: &[String]) -> Registry {
    let options = RegistryOptions {
        urls: urls.to_vec(),
        timeout: Duration::from_secs(5),
        unknown_ttl: Duration::from_millis(500),
        ..RegistryOptions::default()
    };
    Registry::new(options).unwrap()
}

/// Registers what the client itself cannot: other schema types, and references.
async fn post(url: &str, subject: &str, body: Value) -> Value {
    let subject = subject.replace('/', "%2F");
    let request = reqwest::Client::new()
        .post(format!("{url}/subjects/{subject}/versions"))
        .json(&body);
    request.send().await.unwrap().json().await.unwrap()
}

/// Whether the texts are equal apart from white space, which a registry may change.
fn same(a: &str, b: &str) -> bool {
    serde_json::from_str::<Value>(a).unwrap() == serde_json::from_str::<Value>(b).unwrap()
}

/// What every registry must do. Subjects begin with `prefix`, so that a registry can be used again by the next run.
async fn suite(url: &str, prefix: &str) {
    let client = registry(&[url.to_owned()]);
    let subject = format!("{prefix}/clicks of ü-value");

    assert_eq!(client.versions(&subject).await.unwrap(), []);
    assert_eq!(client.lookup(&subject, V1).await.unwrap(), None);
    assert!(client.compatible(&subject, V1).await.unwrap().compatible);
    let first = client.register(&subject, V1).await.unwrap();
    assert_eq!(client.register(&subject, V1).await.unwrap(), first);
    assert_eq!(client.lookup(&subject, V1).await.unwrap(), Some(first));
    assert_eq!(client.lookup(&subject, V2).await.unwrap(), None);
    assert!(client.compatible(&subject, V2).await.unwrap().compatible);
    let second = client.register(&subject, V2).await.unwrap();
    assert_ne!(first, second);

    let versions = client.versions(&subject).await.unwrap();
    assert_eq!(versions.iter().map(|v| v.id).collect::<Vec<_>>(), [first, second]);
    assert!(same(&versions[0].schema, V1) && same(&versions[1].schema, V2));
    assert!(
        Arc::ptr_eq(&versions[1], &client.schema(second).await.unwrap()),
        "not held by id"
    );
    let other = registry(&[url.to_owned()]);
    assert!(other.cached(first).is_none());
    assert!(same(&other.schema(first).await.unwrap().schema, V1));
    assert!(other.cached(first).is_some());

    // A registry that reads ids as Java's `int` refuses the last two as no ids at all.
    for id in [2_000_000_000, 1 << 31, u32::MAX] {
        let missing = client.schema(id).await.unwrap_err();
        assert_eq!(
            (missing.class(), &missing),
            (Class::Permanent, &RegistryError::Unknown { id })
        );
    }
    let invalid = client.register(&subject, r#"{"type":"no such"#).await.unwrap_err();
    assert!(matches!(invalid, RegistryError::Rejected { .. }), "{invalid}");
    assert_eq!(invalid.class(), Class::Permanent);
    references(url, prefix).await;
    other_types(url, prefix).await;
}

/// Click refers to User and Page, and Page to User: each comes once, before those that need it.
async fn references(url: &str, prefix: &str) {
    let user = r#"{"type":"record","name":"User","namespace":"m","fields":[{"name":"id","type":"long"}]}"#;
    let page = r#"{"type":"record","name":"Page","namespace":"m","fields":[{"name":"owner","type":"m.User"}]}"#;
    let click = r#"{"type":"record","name":"Click","namespace":"m","fields":[{"name":"page","type":"m.Page"},{"name":"user","type":"m.User"}]}"#;
    let to = |name: &str| json!({ "name": format!("m.{name}"), "subject": format!("{prefix}-{name}"), "version": 1 });
    post(url, &format!("{prefix}-User"), json!({ "schema": user })).await;
    post(
        url,
        &format!("{prefix}-Page"),
        json!({ "schema": page, "references": [to("User")] }),
    )
    .await;
    let references = [to("Page"), to("User")];
    let answer = post(
        url,
        &format!("{prefix}-Click"),
        json!({ "schema": click, "references": references }),
    )
    .await;
    let id = u32::try_from(answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))).unwrap();
    let fetched = registry(&[url.to_owned()]).schema(id).await.unwrap();
    assert!(same(&fetched.schema, click));
    assert_eq!(fetched.references.len(), 2);
    assert!(same(&fetched.references[0], user) && same(&fetched.references[1], page));
}

async fn other_types(url: &str, prefix: &str) {
    for (kind, schema) in [
        (
            "JSON",
            r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object"}"#,
        ),
        ("PROTOBUF", "syntax = \"proto3\"; message M { int32 a = 1; }"),
    ] {
        let subject = format!("{prefix}-{kind}");
        let answer = post(url, &subject, json!({ "schema": schema, "schemaType": kind })).await;
        let id = u32::try_from(answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))).unwrap();
        let error = registry(&[url.to_owned()]).schema(id).await.unwrap_err();
        assert!(
            matches!(&error, RegistryError::Unsupported { kind: found, .. } if found == kind),
            "{error}"
        );
        assert_eq!(error.class(), Class::Permanent);
    }
}

#[tokio::test]
async fn the_registry_in_memory_does_what_a_registry_must() {
    let demo = DemoRegistry::start().await.unwrap();
    suite(&demo.url(), "demo").await;
    demo.stop().await;
}

#[tokio::test]
async fn a_real_registry_does_what_a_registry_must() {
    let Ok(url) = env::var("REGISTRY_URL") else {
        assert!(env::var_os("CI").is_none(), "REGISTRY_URL is not set");
        eprintln!("skipped: REGISTRY_URL is not set, so there is no real registry to ask");
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    suite(&url, &format!("messina-{now}")).await;
    // Only a real registry has compatibility rules: the default, BACKWARD, forbids a new field without a default.
    let (client, subject) = (registry(&[url]), format!("messina-{now}-rules"));
    client.register(&subject, V1).await.unwrap();
    let worse = V1.replace("]}", r#",{"name":"more","type":"int"}]}"#);
    assert!(!client.compatible(&subject, &worse).await.unwrap().compatible);
    let error = client.register(&subject, &worse).await.unwrap_err();
    assert!(matches!(error, RegistryError::Rejected { .. }), "{error}");
}

#[tokio::test]
async fn a_thousand_at_once_make_one_request() {
    let demo = DemoRegistry::start().await.unwrap();
    let id = registry(&[demo.url()]).register("clicks", V1).await.unwrap();
    demo.on_request(|_, _| Fault::Delay(Duration::from_millis(100)));
    let (client, before) = (Arc::new(registry(&[demo.url()])), demo.requests());
    let asks = (0..1000).map(|_| {
        let client = Arc::clone(&client);
        tokio::spawn(async move { client.schema(id).await })
    });
    for asked in asks.collect::<Vec<_>>() {
        assert_eq!(asked.await.unwrap().unwrap().id, id);
    }
    assert_eq!(demo.requests() - before, 1);
    assert_eq!(client.stats().ok.load(Ordering::Relaxed), 1);
    assert_eq!(client.stats().schemas.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_may_pass_is_asked_again() {
    let demo = DemoRegistry::start().await.unwrap();
    let client = registry(&[demo.url()]);
    let id = client.register("clicks", V1).await.unwrap();
    for status in [500, 503, 429, 401, 403, 404] {
        demo.on_request(move |_, _| Fault::Status(status));
        let error = client.schema(id).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient, "{status}: {error}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
    }
    demo.on_request(|_, _| Fault::None);
    assert_eq!(client.schema(id).await.unwrap().id, id);
}

/// A read-only mode is the registry's state, and says nothing about this schema.
#[tokio::test]
async fn a_registry_that_is_read_only_is_waited_for() {
    let demo = DemoRegistry::start().await.unwrap();
    let client = registry(&[demo.url()]);
    demo.on_request(|_, _| {
        Fault::Answer(
            422,
            r#"{"error_code":42205,"message":"Subject clicks is in read-only mode"}"#,
        )
    });
    let error = client.register("clicks", V1).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    assert!(error.to_string().contains("read-only mode"), "{error}");
    demo.on_request(|_, _| Fault::None);
    assert_eq!(client.register("clicks", V1).await.unwrap(), 1);
}

#[tokio::test]
async fn a_registry_that_compares_with_one_version_alone_is_asked_about_the_latest() {
    let demo = DemoRegistry::start().await.unwrap();
    let client = registry(&[demo.url()]);
    let coded = Fault::Answer(404, r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#);
    for absent in [Fault::Status(404), Fault::Status(405), coded] {
        demo.on_request(move |_, path| match path {
            "/compatibility/subjects/clicks/versions" => absent,
            _ => Fault::Answer(200, r#"{"is_compatible":false,"messages":["no default"]}"#),
        });
        let answer = client.compatible("clicks", V1).await.unwrap();
        assert_eq!(
            (answer.compatible, answer.messages),
            (false, vec!["no default".to_owned()])
        );
    }
}

#[tokio::test]
async fn an_unknown_id_is_asked_for_again_soon_but_not_at_once() {
    let demo = DemoRegistry::start().await.unwrap();
    let client = registry(&[demo.url()]);
    let unknown = async || client.schema(1).await.unwrap_err() == RegistryError::Unknown { id: 1 };
    assert!(unknown().await);
    let began = Instant::now();
    for _ in 0..99 {
        assert!(unknown().await);
    }
    let asked = demo.requests();
    assert!(
        asked == 3 || began.elapsed() >= Duration::from_millis(400),
        "once, and twice more before it is believed: {asked}"
    );
    tokio::time::sleep(Duration::from_millis(620)).await;
    assert!(unknown().await);
    assert_eq!(demo.requests(), asked + 1, "it is no news");
    assert_eq!(client.register("clicks", V1).await.unwrap(), 1);
    tokio::time::sleep(Duration::from_millis(620)).await;
    assert_eq!(client.schema(1).await.unwrap().id, 1);
}

#[tokio::test]
async fn another_address_answers_for_one_that_does_not() {
    let (a, b) = (
        DemoRegistry::start().await.unwrap(),
        DemoRegistry::start().await.unwrap(),
    );
    let client = registry(&[a.url(), b.url()]);
    let id = registry(&[b.url()]).register("clicks", V1).await.unwrap();
    // A follower that has not heard of the id yet does not prove that it is unknown.
    assert_eq!(client.schema(id).await.unwrap().id, id);

    // From now on b is asked first. When it fails, a is asked, which has learnt of the schema in the meantime.
    assert_eq!(registry(&[a.url()]).register("clicks", V1).await.unwrap(), id);
    b.on_request(|_, _| Fault::Status(503));
    assert_eq!(client.lookup("clicks", V1).await.unwrap(), Some(id));
    let asked = b.requests();
    assert_eq!(client.lookup("clicks", V1).await.unwrap(), Some(id));
    assert_eq!(b.requests(), asked, "the one that failed is asked first again");

    let gone = a.url();
    a.stop().await;
    b.on_request(|_, _| Fault::None);
    assert_eq!(client.lookup("clicks", V1).await.unwrap(), Some(id));
    b.stop().await;
    let error = client.lookup("clicks", V1).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    assert!(
        error.to_string().contains("127.0.0.1") || error.to_string().contains(&gone),
        "{error}"
    );
}

#[tokio::test]
async fn an_id_is_unknown_when_all_addresses_say_so_and_not_before() {
    let (a, b) = (
        DemoRegistry::start().await.unwrap(),
        DemoRegistry::start().await.unwrap(),
    );
    let id = registry(&[a.url()]).register("clicks", V1).await.unwrap();
    a.on_request(|_, _| Fault::Status(503));
    let client = registry(&[a.url(), b.url()]);
    let error = client.schema(id).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    assert_eq!(
        client.lookup("clicks", V1).await.unwrap(),
        None,
        "a start does not wait"
    );
    a.on_request(|_, _| Fault::None);
    assert_eq!(client.schema(id).await.unwrap().id, id);
    let unknown = RegistryError::Unknown { id: id + 1 };
    assert_eq!(client.schema(id + 1).await.unwrap_err(), unknown);
}

/// A gateway's error page says nothing about the schema, and an address whose answer cannot be read says nothing about
/// another address that is down.
#[tokio::test]
async fn an_answer_that_is_too_long_is_judged_by_its_status() {
    let (a, b) = (
        DemoRegistry::start().await.unwrap(),
        DemoRegistry::start().await.unwrap(),
    );
    let long: &'static str = " ".repeat(17 << 20).leak();
    a.on_request(move |_, _| Fault::Answer(502, long));
    let error = registry(&[a.url()]).schema(1).await.unwrap_err();
    assert!(matches!(error, RegistryError::Refused { status: 502, .. }), "{error}");
    assert_eq!(error.class(), Class::Transient);
    a.on_request(move |_, _| Fault::Answer(200, long));
    let error = registry(&[a.url()]).schema(1).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
    assert_eq!(error.class(), Class::Permanent);
    b.on_request(|_, _| Fault::Status(503));
    for urls in [[a.url(), b.url()], [b.url(), a.url()]] {
        let error = registry(&urls).schema(1).await.unwrap_err();
        assert!(matches!(error, RegistryError::Refused { status: 503, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_registry_that_hangs_is_given_up_in_time() {
    let demo = DemoRegistry::start().await.unwrap();
    demo.on_request(|_, _| Fault::Delay(Duration::from_secs(30)));
    let options = RegistryOptions {
        urls: vec![demo.url()],
        timeout: Duration::from_millis(200),
        ..Default::default()
    };
    let client = Registry::new(options).unwrap();
    let start = Instant::now();
    let error = client.schema(1).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(error.class(), Class::Transient);
    assert!(error.to_string().contains("timed out"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_no_registry_costs_no_record() {
    let demo = DemoRegistry::start().await.unwrap();
    let client = registry(&[format!("{}/wrong/path", demo.url())]);
    assert_eq!(client.schema(1).await.unwrap_err().class(), Class::Transient);
    assert_eq!(client.versions("clicks").await.unwrap_err().class(), Class::Transient);
}

/// As in Confluent's own resolution: of several references with one name, the first counts.
#[tokio::test]
async fn of_two_versions_of_one_reference_the_first_stands_for_both() {
    let registry_of = DemoRegistry::start().await.unwrap();
    let url = registry_of.url();
    let user = |more: &str| {
        format!(r#"{{"type":"record","name":"User","namespace":"m","fields":[{{"name":"id","type":"long"}}{more}]}}"#)
    };
    let newer = user(r#",{"name":"by","type":["null","string"],"default":null}"#);
    let page = r#"{"type":"record","name":"Page","namespace":"m","fields":[{"name":"owner","type":"m.User"}]}"#;
    let click = r#"{"type":"record","name":"Click","namespace":"m","fields":[{"name":"user","type":"m.User"},{"name":"page","type":"m.Page"}]}"#;
    let to = |name: &str, version: i32| json!({ "name": format!("m.{name}"), "subject": name, "version": version });
    post(&url, "User", json!({ "schema": user("") })).await;
    post(&url, "User", json!({ "schema": newer })).await;
    post(&url, "Page", json!({ "schema": page, "references": [to("User", 1)] })).await;
    let references = [to("User", 2), to("Page", 1)];
    let answer = post(&url, "Click", json!({ "schema": click, "references": references })).await;
    let id = u32::try_from(answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))).unwrap();
    let fetched = registry(&[url]).schema(id).await.unwrap();
    assert_eq!(fetched.references.len(), 2, "{:?}", fetched.references);
    assert!(same(&fetched.references[0], &newer) && same(&fetched.references[1], page));
}

/// Each schema is smaller than the limit of an answer, and their number is allowed; only their total is too large.
#[tokio::test]
async fn a_schema_is_no_larger_with_its_references_than_alone() {
    let demo = DemoRegistry::start().await.unwrap();
    let references: Vec<Value> = (0..40)
        .map(|n| json!({ "name": format!("m.N{n}"), "subject": format!("n{n}"), "version": 1 }))
        .collect();
    let root: &'static str = json!({ "schema": V1, "references": references }).to_string().leak();
    let large: &'static str = json!({ "schema": " ".repeat(1 << 20) }).to_string().leak();
    demo.on_request(move |_, path| Fault::Answer(200, if path.starts_with("/schemas") { root } else { large }));
    let error = registry(&[demo.url()]).schema(1).await.unwrap_err();
    assert!(matches!(error, RegistryError::Reference { .. }), "{error}");
    assert!(error.to_string().contains("with what it refers to"), "{error}");
    assert_eq!(error.class(), Class::Permanent);
    assert_eq!(demo.requests(), 17, "it goes on asking");
}

#[tokio::test]
async fn a_reference_that_leads_nowhere_is_told() {
    let (a, b) = (
        DemoRegistry::start().await.unwrap(),
        DemoRegistry::start().await.unwrap(),
    );
    post(&a.url(), "user", json!({ "schema": V1 })).await;
    let reference = json!({ "name": "Click", "subject": "user", "version": 1 });
    let answer = post(&a.url(), "page", json!({ "schema": V2, "references": [reference] })).await;
    let id = u32::try_from(answer["id"].as_u64().unwrap()).unwrap();
    // The first address loses the subject's versions; the second never had them.
    let loses = |fault: Fault| {
        a.on_request(move |_, path| {
            if path.starts_with("/subjects") {
                fault
            } else {
                Fault::None
            }
        });
    };
    loses(Fault::Status(503));
    let alone = registry(&[a.url()]).schema(id).await.unwrap_err();
    assert_eq!(alone.class(), Class::Transient, "{alone}");
    let client = registry(&[a.url(), b.url()]);
    let error = client.schema(id).await.unwrap_err();
    assert_eq!(error, alone, "the one that does not answer may have it");
    loses(Fault::Answer(
        404,
        r#"{"error_code":40402,"message":"Version not found."}"#,
    ));
    let error = client.schema(id).await.unwrap_err();
    assert!(error.to_string().contains("refers to user version 1"), "{error}");
    assert_eq!(error.class(), Class::Permanent);
}
