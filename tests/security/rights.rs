//! `check --online` finds missing rights, and says who lacks which right on what, and which command grants it.

use std::path::Path;
use std::time::Duration;

use rdkafka::producer::BaseRecord;

use super::settings;
use crate::faults::pipelines;
use crate::support::numbers::Numbers;
use crate::support::process::{Messina, finish};
use crate::support::random::Random;
use crate::support::{Bench, LONG, until};

const PASSWORD: &str = "l1mited-s3cret";

/// Creates a Kafka user without any rights.
fn make(bench: &Bench, user: &str) {
    let (ok, answer) = bench.tool("scram", &[format!("--user={user}"), format!("--password={PASSWORD}")]);
    assert!(ok, "{answer}");
}

/// Adds an ACL. A resource with an ACL is closed to every user whom none names; one without any is open.
pub fn allow(bench: &Bench, user: &str, operation: &str, kind: &str, name: &str) {
    acl(bench, &[], user, operation, kind, name);
}

/// Removes an ACL.
pub fn remove(bench: &Bench, user: &str, operation: &str, kind: &str, name: &str) {
    acl(bench, &["--remove"], user, operation, kind, name);
}

fn acl(bench: &Bench, what: &[&str], user: &str, operation: &str, kind: &str, name: &str) {
    let arguments = [("user", user), ("operation", operation), ("kind", kind), ("name", name)];
    let mut arguments = arguments.map(|(name, value)| format!("--{name}={value}")).to_vec();
    arguments.extend(what.iter().map(|what| (*what).to_owned()));
    let (ok, answer) = bench.tool("acl", &arguments);
    assert!(ok, "{answer}");
}

#[test]
fn missing_rights_are_told_before_the_start() {
    let Some((bench, mut settings)) = settings::find("missing_rights_are_told_before_the_start") else {
        return;
    };
    let (user, role) = (bench.name("limited"), format!("{}_limited", bench.keyspace));
    settings.kafka_user.clone_from(&user);
    PASSWORD.clone_into(&mut settings.kafka_password);
    settings.database_user.clone_from(&role);
    PASSWORD.clone_into(&mut settings.database_password);
    let numbers = Numbers::new(&bench, 1, &pipelines("secure"));
    let configs = numbers.config(Duration::from_secs(30), &pipelines("secure"));
    let secure = settings.file(&bench, "limited");
    make(&bench, &user);
    let allow = |user: &str, operation: &str, kind: &str, name: &str| allow(&bench, user, operation, kind, name);
    let database = bench.database();
    let run = |cql: String| database.run(&bench, &cql);
    run(format!(
        "CREATE ROLE {role} WITH PASSWORD = '{PASSWORD}' AND LOGIN = true"
    ));
    run(format!("GRANT SELECT ON KEYSPACE {} TO {role}", bench.keyspace));

    // The dead-letter topic has no ACL, so it is open.
    let (output, group) = (bench.name("secure-enriched"), numbers.group("secure"));
    allow("somebody", "read", "topic", &numbers.topic);
    allow(&user, "describe", "topic", &output);
    allow("somebody", "read", "group", &group);
    let check = || finish(&["check", "--online"], &[&configs[0], &configs[1], &secure]);
    let mut wanted = vec![
        format!("do not let user '{user}' read topic '{}'", numbers.topic),
        format!(
            "--allow-principal User:{user} --operation Read --topic {}",
            numbers.topic
        ),
        format!("do not let user '{user}' write to topic '{output}'"),
        format!("--allow-principal User:{user} --operation Write --topic {output}"),
        format!("do not report the limits of topic '{output}' (max.message.bytes)"),
        "grant DescribeConfigs on it".to_owned(),
        format!("do not let user '{user}' be a member of group '{group}'"),
        format!("--operation Read --group {group}"),
        format!("does not let user '{role}' write to {}.numbers", bench.keyspace),
        format!("GRANT MODIFY ON TABLE {}.numbers TO \"{role}\"", bench.keyspace),
    ];
    let found = check();
    assert_eq!(found.code, Some(78), "{}", found.stderr);
    wanted.retain(|text| !found.stderr.contains(text));
    assert!(wanted.is_empty(), "not told: {wanted:#?}\n{}", found.stderr);
    assert_eq!(
        found.stderr.matches("error[").count(),
        4,
        "and no more: {}",
        found.stderr
    );

    allow(&user, "read", "topic", &numbers.topic);
    for topic in [&output, &bench.name("secure-dead-letters")] {
        allow(&user, "write", "topic", topic);
        allow(&user, "describe_configs", "topic", topic);
    }
    allow(&user, "read", "group", &group);
    run(format!("GRANT MODIFY ON TABLE {}.numbers TO {role}", bench.keyspace));
    // A new right takes a moment to reach the brokers.
    until("nothing to be found", LONG, &[], || {
        let found = check();
        println!("{}", found.stderr);
        (found.code == Some(0) && !found.stderr.contains("max.message.bytes")).then_some(())
    });
    run(format!("DROP ROLE {role}"));
    bench.clean();
}

/// A user who may write to a topic need not be allowed to read its batch limit, and brokers refuse a batch above it as a whole.
#[test]
fn good_records_are_no_dead_letters_where_nobody_tells_what_a_topic_takes() {
    const RECORDS: i64 = 300;
    const LENGTH: usize = 2000;
    let name = "good_records_are_no_dead_letters_where_nobody_tells_what_a_topic_takes";
    let Some((bench, mut settings)) = settings::find(name) else {
        return;
    };
    let user = bench.name("writer");
    settings.kafka_user.clone_from(&user);
    PASSWORD.clone_into(&mut settings.kafka_password);
    let numbers = Numbers::new(&bench, 1, &pipelines("secure"));
    let configs = numbers.config(Duration::from_secs(30), &pipelines("secure"));
    let secure = settings.file(&bench, "writer");
    make(&bench, &user);
    let (output, group) = (bench.name("secure-enriched"), numbers.group("secure"));
    allow(&bench, &user, "read", "topic", &numbers.topic);
    allow(&bench, &user, "read", "group", &group);
    allow(&bench, &user, "write", "topic", &output);
    bench.kafka.configure(&bench, &output, "max.message.bytes", "20000");
    let mut random = Random::from(7);
    for seq in 0..RECORDS {
        // Random text, so that it cannot be compressed.
        let who: String = (0..LENGTH).map(|_| char::from(b'!' + random.below(90) as u8)).collect();
        let value = numbers.record(seq, &who);
        bench
            .kafka
            .send(BaseRecord::to(&numbers.topic).key(who.as_bytes()).payload(&value[..]));
    }
    // A long linger, so that batches are as full as possible.
    let linger = bench.file(
        "linger.toml",
        "[pipelines.secure.sink.properties]\n\"linger.ms\" = 50\n",
    );
    let files: [&Path; 4] = [&configs[0], &configs[1], &secure, &linger];
    let messina = Messina::start("messina", &files);
    numbers.committed("secure", RECORDS, &[&messina]);
    assert!(
        !messina.lines("do not report the topic's max.message.bytes").is_empty(),
        "{}",
        messina.tail()
    );
    messina.stop();
    let letters = bench.kafka.read(&bench.name("secure-dead-letters"));
    assert!(letters.is_empty(), "a good record: {}", letters[0].about());
    assert_eq!(bench.kafka.read(&output).len(), RECORDS as usize);
    drop(messina);
    bench.clean();
}
