//! Wrong credentials are refused, and the message says which of them is wrong and why.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::secrets::tells_nothing;
use super::settings::{self, Kafka, Settings};
use crate::faults::pipelines;
use crate::support::certificates::{expired, stranger};
use crate::support::numbers::Numbers;
use crate::support::process::{Messina, finish};
use crate::support::proxy::Proxy;
use crate::support::{Bench, LONG, until};

/// A name that resolves to this machine but is in no certificate.
const OTHER_HOST: &str = "127.0.0.9";
const WRONG: &str = "wr0ng-s3cret";
/// How many cases run at a time: each of them mostly waits.
const AT_ONCE: usize = 4;

#[test]
fn wrong_credentials_are_refused() {
    let Some((bench, right)) = settings::find("wrong_credentials_are_refused") else {
        return;
    };
    let numbers = Numbers::new(&bench, 1, &pipelines("secure"));
    let configs = numbers.config(std::time::Duration::from_secs(30), &pipelines("secure"));
    let (other, old) = (stranger(&bench.folder), expired(&bench.own().tls(), &bench.folder));
    let elsewhere = |address: &str| Proxy::new(&format!("{OTHER_HOST}:0"), address, 1).address;
    let (broker, node) = (
        elsewhere(&right.brokers.replace("localhost", "127.0.0.1")),
        elsewhere(&right.nodes),
    );
    let registry = right.registry_url.strip_prefix("https://localhost:").unwrap();
    let (port, path) = registry.split_once('/').unwrap();
    let registry = elsewhere(&format!("127.0.0.1:{port}"));
    let tokens = right.token_endpoint.replace("https://localhost:", "127.0.0.1:");
    let tokens = elsewhere(tokens.trim_end_matches("/token"));
    let mongo = elsewhere(&right.mongo.replace("localhost", "127.0.0.1"));

    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = right.clone();
        change(&mut settings);
        settings
    };
    let certificate = |change: &dyn Fn(&mut Settings)| {
        let mut settings = right.clone().kafka(Kafka::Certificate);
        change(&mut settings);
        settings
    };
    let bearer = |change: &dyn Fn(&mut Settings)| {
        let mut settings = right.clone().bearer();
        change(&mut settings);
        settings
    };
    let mongo_certificate = |change: &dyn Fn(&mut Settings)| {
        let mut settings = right.clone().mongo_certificate();
        change(&mut settings);
        settings
    };
    let oauth = |change: &dyn Fn(&mut Settings)| {
        let mut settings = right.clone().oauth();
        change(&mut settings);
        settings
    };
    // What is wrong, the settings, and what the message must contain: the service and the cause.
    let cases: Vec<(&str, Settings, &[&str])> = vec![
        ("nothing wrong", right.clone(), &[]),
        (
            "brokers, wrong CA",
            with(&|s| s.kafka_tls.ca.clone_from(&other)),
            &["the brokers", "certificate"],
        ),
        (
            "brokers, wrong password",
            with(&|s| WRONG.clone_into(&mut s.kafka_password)),
            &["the brokers", "uthentication failed"],
        ),
        (
            "brokers, wrong host",
            with(&|s| s.brokers = broker.to_string()),
            &["the brokers", "certificate"],
        ),
        (
            "brokers, expired certificate",
            certificate(&|s| s.kafka_tls.client = Some(old.clone())),
            &["the brokers", "certificate"],
        ),
        (
            "brokers, no certificate",
            certificate(&|s| s.kafka_tls.client = None),
            &["the brokers", "certificate"],
        ),
        (
            "database, wrong CA",
            with(&|s| s.database_tls.ca.clone_from(&other)),
            &["the database", "certificate"],
        ),
        (
            "database, wrong password",
            with(&|s| WRONG.clone_into(&mut s.database_password)),
            &["the database", "incorrect"],
        ),
        (
            "database, wrong host",
            with(&|s| s.nodes = node.to_string()),
            &["the database", "certificate"],
        ),
        (
            "database, expired certificate",
            with(&|s| s.database_tls.client = Some(old.clone())),
            &["the database", "certificate"],
        ),
        (
            "database, no certificate",
            with(&|s| s.database_tls.client = None),
            &["the database", "certificate"],
        ),
        (
            "registry, wrong CA",
            with(&|s| s.registry_tls.ca.clone_from(&other)),
            &["schema registry", "certificate"],
        ),
        (
            "registry, wrong password",
            with(&|s| WRONG.clone_into(&mut s.registry_secret)),
            &["schema registry", "401"],
        ),
        (
            "registry, wrong host",
            with(&|s| s.registry_url = format!("https://{registry}/{path}")),
            &["schema registry", "certificate"],
        ),
        (
            "registry, wrong token",
            bearer(&|s| WRONG.clone_into(&mut s.registry_secret)),
            &["schema registry", "401"],
        ),
        (
            "registry, expired certificate",
            bearer(&|s| s.registry_tls.client = Some(old.clone())),
            &["schema registry", "certificate"],
        ),
        (
            "registry, no certificate",
            bearer(&|s| s.registry_tls.client = None),
            &["schema registry", "certificate"],
        ),
        (
            "registry, wrong client secret",
            oauth(&|s| WRONG.clone_into(&mut s.registry_secret)),
            &[
                "token endpoint",
                "schema registry",
                "401",
                "invalid_client",
                "`client_secret`",
            ],
        ),
        (
            "registry, wrong scope",
            oauth(&|s| "everything".clone_into(&mut s.token_scope)),
            &["token endpoint", "schema registry", "400", "`scope`"],
        ),
        (
            "registry, wrong CA of the token endpoint",
            oauth(&|s| s.token_ca.clone_from(&other)),
            &["token endpoint", "schema registry", "certificate verify failed"],
        ),
        (
            "registry, wrong host of the token endpoint",
            oauth(&|s| s.token_endpoint = format!("https://{tokens}/token")),
            &["token endpoint", "schema registry", "certificate verify failed"],
        ),
        (
            "MongoDB, wrong CA",
            with(&|s| s.mongo_tls.ca.clone_from(&other)),
            &["MongoDB", "certificate"],
        ),
        (
            "MongoDB, wrong password",
            with(&|s| WRONG.clone_into(&mut s.mongo_password)),
            &["MongoDB", "Authentication failed"],
        ),
        (
            "MongoDB, wrong host",
            with(&|s| s.mongo = mongo.to_string()),
            &["MongoDB", "certificate"],
        ),
        (
            "MongoDB, expired certificate",
            mongo_certificate(&|s| s.mongo_tls.client = Some(old.clone())),
            &["MongoDB", "certificate expired"],
        ),
        (
            "MongoDB, no certificate",
            mongo_certificate(&|s| s.mongo_tls.client = None),
            &["MongoDB", "client certificate", "tlsCertificateKeyFile"],
        ),
    ];
    let (cases, unclear) = (Mutex::new(cases.into_iter()), Mutex::new(Vec::new()));
    let next = || cases.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((what, settings, says)) = next() {
                    let unsaid = refused(&bench, &configs, what, &settings, says);
                    unclear.lock().unwrap().extend(unsaid);
                }
            });
        }
    });
    let unclear = unclear.into_inner().unwrap();
    assert!(unclear.is_empty(), "{unclear:#?}");
    bench.clean();
}

/// Fails if wrong settings are accepted, or if right ones (`says` is empty) are refused. Returns the expected texts
/// that are missing.
fn refused(bench: &Bench, configs: &[PathBuf; 2], what: &str, settings: &Settings, says: &[&str]) -> Vec<String> {
    let secure = settings.file(bench, &what.replace([',', ' '], "-"));
    let files: [&Path; 3] = [&configs[0], &configs[1], &secure];
    let found = finish(&["check", "--online"], &files);
    println!("{what}: {:?}\n{}", found.code, found.stderr);
    tells_nothing(what, &found.stderr);
    assert!(!found.stderr.contains(WRONG), "{what}: a wrong secret is a secret too");
    let wanted = if says.is_empty() {
        found.code == Some(0)
    } else {
        matches!(found.code, Some(69 | 78))
    };
    assert!(wanted, "{what}: exit {:?}", found.code);
    // A process that starts waits for the brokers, and logs the same reason meanwhile.
    if what.starts_with("brokers") {
        let messina = Messina::start(what, &files);
        until("a start to say why", LONG, &[&messina], || {
            let mut lines = messina.lines("not ready: the brokers do not answer").into_iter();
            lines.find(|line| says.iter().all(|text| line.contains(text)))
        });
        tells_nothing(what, &messina.all());
        assert!(!messina.all().contains(WRONG), "{what}: the log tells a wrong secret");
    }
    says.iter()
        .filter(|text| !found.stderr.contains(**text))
        .map(|text| format!("{what}: does not say {text:?}"))
        .collect()
}
