//! Rights that are missing are told by `check --online`, each with who lacks it, on what, and the command that gives it.

use std::time::Duration;

use super::settings;
use crate::faults::pipelines;
use crate::support::numbers::Numbers;
use crate::support::process::finish;
use crate::support::{LONG, until};

const PASSWORD: &str = "l1mited-s3cret";

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
    let (ok, answer) = bench.tool("scram", &[format!("--user={user}"), format!("--password={PASSWORD}")]);
    assert!(ok, "{answer}");
    let allow = |user: &str, operation: &str, kind: &str, name: &str| {
        let arguments = [("user", user), ("operation", operation), ("kind", kind), ("name", name)];
        let (ok, answer) = bench.tool("acl", &arguments.map(|(name, value)| format!("--{name}={value}")));
        assert!(ok, "{answer}");
    };
    let database = bench.database();
    let run = |cql: String| database.run(&bench, &cql);
    run(format!(
        "CREATE ROLE {role} WITH PASSWORD = '{PASSWORD}' AND LOGIN = true"
    ));
    run(format!("GRANT SELECT ON KEYSPACE {} TO {role}", bench.keyspace));

    // What has an ACL is closed to all whom none names. What has none, as the topic of dead letters here, is open.
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
    allow(&user, "write", "topic", &output);
    allow(&user, "read", "group", &group);
    run(format!("GRANT MODIFY ON TABLE {}.numbers TO {role}", bench.keyspace));
    // Brokers hear of a right a moment later.
    until("nothing to be found", LONG, &[], || {
        let found = check();
        println!("{}", found.stderr);
        (found.code == Some(0)).then_some(())
    });
    run(format!("DROP ROLE {role}"));
    bench.clean();
}
