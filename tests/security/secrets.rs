//! The right credentials work end to end in every form, and neither logs nor pages nor Sentry events contain a secret, a key or
//! a value.

use std::path::Path;
use std::time::Duration;

use super::settings::{
    self, BASIC, DATABASE_PASSWORD, ISSUED_TOKEN, KAFKA_PASSWORD, Kafka, MONGO_PASSWORD, OAUTH_LOGIN, OAUTH_SECRET,
    REGISTRY_PASSWORD, REGISTRY_TOKEN,
};
use super::sink::Sink;
use crate::faults::pipelines;
use crate::support::judge::judge_good;
use crate::support::numbers::Numbers;
use crate::support::process::{Messina, get};
use crate::support::{LONG, until};

const RECORDS: i64 = 2000;
/// Beginnings of the DSN's public key, and of keys and values of records.
const MORE_SECRETS: [&str; 3] = ["0123456789abcdef", "k3y-s3cret", "v4lue-s3cret"];

#[test]
fn right_credentials_and_no_secret_told() {
    let Some((bench, settings)) = settings::find("right_credentials_and_no_secret_told") else {
        return;
    };
    let sink = Sink::new();
    let numbers = Numbers::new(&bench, 4, &pipelines("secure"));
    let configs = numbers.config(Duration::from_secs(30), &pipelines("secure"));
    let debug = bench.file(
        "debug.toml",
        &format!(
            "[log]\nlevel = \"trace\"\n[sentry]\ndsn = \"{}\"\n[pipelines.secure.source]\nproperties = {{ \"debug\" = \"security,conf,broker\" }}\n",
            sink.dsn
        ),
    );
    let ways = [
        settings.clone(),
        settings.clone().kafka(Kafka::Scram("SCRAM-SHA-256")).bearer(),
        settings.clone().kafka(Kafka::Token).oauth(),
        settings.kafka(Kafka::Certificate).bearer().mongo_certificate(),
    ];
    let issuer = ways[0].issuer.clone();
    let mut sent = 0;
    for (number, way) in ways.iter().enumerate() {
        let secure = way.file(&bench, &format!("secure-{number}"));
        let messina = Messina::start_keeping_all(
            &format!("{:?}", way.kafka),
            &[&configs[0], &configs[1], &secure, &debug],
        );
        messina.ready();
        numbers.send_secret("k3y-s3cret", "v4lue-s3cret");
        sent = numbers.load_from(sent, 2000, sent + RECORDS).wait();
        numbers.committed("secure", sent + number as i64 + 1, &[&messina]);
        // The collection is loaded; without it nothing could have been published.
        assert!(
            messina.metric("messina_reference_entries") >= 1.0,
            "no document of MongoDB"
        );
        if number == 0 {
            until("Sentry to hear of the dead letter", LONG, &[&messina], || {
                sink.taken().contains("event_id").then_some(())
            });
        }
        let pages: String = ["/", "/status", "/metrics", "/readyz", "/livez"]
            .iter()
            .map(|path| get(messina.address().unwrap(), path).unwrap().1)
            .collect();
        messina.stop();
        tells_nothing(&format!("{:?}: pages", way.kafka), &pages);
        tells_nothing(&format!("{:?}: logs", way.kafka), &messina.all());
        println!("{:?}: {} lines of logs", way.kafka, messina.all().lines().count());
    }
    let issued = issuer.issued.lock().unwrap().len();
    println!("{issued} tokens were issued for the registry");
    assert!(issued > 1, "a token that is refused was to be fetched anew");
    let events = sink.taken();
    assert!(events.contains("secure"), "no event names the pipeline: {events}");
    // The head of each request contains the sink's own address and public key; the body must not.
    let bodies: String = events.lines().filter(|line| line.starts_with('{')).collect();
    assert!(!bodies.is_empty());
    tells_nothing("Sentry", &bodies);
    let judgement = judge_good(&bench, &numbers, "secure", sent);
    assert_eq!(judgement.duplicated, 0);
    bench.clean();
}

/// Fails if a secret is in the text. Shows only that line, because the whole text may contain more secrets.
pub fn tells_nothing(what: &str, text: &str) {
    for secret in [
        KAFKA_PASSWORD,
        DATABASE_PASSWORD,
        REGISTRY_PASSWORD,
        REGISTRY_TOKEN,
        OAUTH_SECRET,
        ISSUED_TOKEN,
        MONGO_PASSWORD,
        // Secrets in Base64 are readable, too.
        BASIC.trim_start_matches("Basic "),
        OAUTH_LOGIN.trim_start_matches("Basic "),
    ]
    .iter()
    .chain(&MORE_SECRETS)
    {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{what}: {secret:?} is in {line:?}");
    }
}

/// What is printed about a configuration: a finding shows the line, but not the secret in it.
#[test]
fn findings_tell_no_secret() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join("secret-in-the-file.toml");
    let text = format!(
        "[kafka]\nbrokers = \"b:1\"\nproperties = {{ \"sasl.password\" = \"{KAFKA_PASSWORD}\", \"acks\" = \"0\" }}\n\
         [registry]\nurl = \"http://r\"\nusername = \"m\"\npassword = \"{REGISTRY_PASSWORD}\"\nbearer_token = \"{REGISTRY_TOKEN}\"\n\
         [scylla]\nnodes = \"n\"\nusername = \"m\"\npassword = \"{DATABASE_PASSWORD}\" nonsense\n"
    );
    std::fs::write(&path, &text).unwrap();
    for text in [text.clone(), text.replace(" nonsense", "")] {
        std::fs::write(&path, &text).unwrap();
        for format in ["human", "json"] {
            let found = crate::support::process::finish(&["check", "--format", format], &[&path]);
            assert_eq!(found.code, Some(78), "{}", found.stderr);
            tells_nothing("findings", &found.stderr);
            tells_nothing("findings", &found.stdout);
            assert!(!(found.stderr + &found.stdout).is_empty());
        }
    }
}
