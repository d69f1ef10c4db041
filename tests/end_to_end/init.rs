//! `messina init` on real services: according to `check --online`, what it drafts fits the registered schemas and the database's
//! tables.

use std::path::Path;

use crate::support::Bench;
use crate::support::process::{Finished, finish};

/// A topic's schema, and the flags for tables; one pipeline is drafted for each.
const DRAFTS: [(&str, &str, &str); 7] = [
    ("profiles", "event", "--table profiles"),
    ("both", "event", "--table profiles --write history"),
    ("parts", "event", "--table by_day --bind day=event.event_date"),
    ("lists", "event", "--write tagged"),
    ("quoted", "reaction", "--table Campaigns --test"),
    ("tested", "reaction", "--table users --write reactions --test"),
    (
        "interop",
        "interop",
        "--table users --bind user_id=string(record.offset)",
    ),
];

fn ok(what: &str, finished: &Finished) {
    assert_eq!(
        finished.code,
        Some(0),
        "{what}:\n{}{}",
        finished.stdout,
        finished.stderr
    );
}

#[test]
fn drafts_fit_the_services() {
    let Some(bench) = Bench::find("drafts_fit_the_services") else {
        return;
    };
    let database = bench.database();
    bench.create_tables(&database, &bench.keyspace, &[]);
    let address = format!("CREATE TYPE {}.address (street text, zip int)", bench.keyspace);
    database.run(&bench, &address);
    bench.create_tables(
        &database,
        &bench.keyspace,
        &[
            ("profiles", "user_id text PRIMARY KEY, segment text, score double, home frozen<address>, tags set<text>, \"Odd One\" int"),
            ("users", "user_id text PRIMARY KEY, segment text, score double, at timestamp"),
            ("history", "user_id text, ts timestamp, event_id uuid, total decimal, segment text, PRIMARY KEY ((user_id), ts, event_id)"),
            ("by_day", "user_id text, day date, seq int, n bigint, names map<text, bigint>, PRIMARY KEY ((user_id, day), seq)"),
            ("tagged", "user_id text PRIMARY KEY, tags list<text>"),
            ("\"Campaigns\"", "\"campaignId\" bigint PRIMARY KEY, \"order\" text, \"Title\" text"),
            ("reactions", "campaign_id bigint, at timestamp, reaction_id uuid, user_id text, kind text, segment text, PRIMARY KEY ((campaign_id), at, reaction_id)"),
            ("counts", "user_id text PRIMARY KEY, n counter"),
        ],
    );
    for schema in ["event", "reaction", "interop"] {
        let path = format!("{}/tests/schemas/{schema}.avsc", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        bench
            .registry
            .register(&bench, &format!("{}-value", bench.name(schema)), &text);
        let outputs = ["", "-enriched", "-dead-letters"].map(|end| bench.name(&format!("{schema}{end}")));
        bench.kafka.create(&bench, &outputs.each_ref().map(String::as_str), 1);
    }
    let out = |name: &str| bench.folder.join(format!("{name}.toml"));
    let init = |schema: &str, name: &str, flags: &str| {
        let (topic, nodes, out) = (bench.name(schema), bench.nodes.join(","), out(name));
        let mut arguments = vec!["init", "--topic", &topic, "--brokers", &bench.kafka.brokers];
        arguments.extend([
            "--registry",
            &bench.registry.url,
            "--nodes",
            &nodes,
            "--keyspace",
            &bench.keyspace,
        ]);
        arguments.extend(["--name", name, "--out", out.to_str().unwrap()]);
        arguments.extend(flags.split_whitespace());
        finish(&arguments, &[])
    };
    for (name, schema, flags) in DRAFTS {
        ok(name, &init(schema, name, flags));
        let config = out(name);
        let configs: [&Path; 1] = [&config];
        ok(name, &finish(&["check"], &configs));
        ok(name, &finish(&["check", "--online"], &configs));
        if flags.contains("--test") {
            let cases = bench.folder.join(format!("{name}.test.toml"));
            let tested = finish(&["test", cases.to_str().unwrap()], &[]);
            ok(name, &tested);
            assert!(tested.stdout.ends_with("1 passed, 0 failed\n"), "{}", tested.stdout);
        }
    }
    let both = std::fs::read_to_string(out("both")).unwrap();
    assert!(
        both.contains("home = \"profile.home\"") && both.contains("segment = \"profile.segment\""),
        "{both}"
    );
    assert!(both.contains("left out: column Odd One"), "{both}");
    let parts = std::fs::read_to_string(out("parts")).unwrap();
    assert!(
        parts.contains("# rows = \"list\""),
        "one of many rows is taken, and that is said: {parts}"
    );

    let lists = std::fs::read_to_string(out("lists")).unwrap();
    assert!(
        lists.contains("left out: column tags, a list that is not frozen"),
        "{lists}"
    );

    for (schema, flags, code, says) in [
        (
            "event",
            "--table nothing",
            64,
            "the keyspace has Campaigns, by_day, counts",
        ),
        ("event", "--write counts", 64, "has counters"),
        ("event", "--table profiles --test", 64, "user-defined type"),
        ("nowhere", "--table profiles", 64, "--schema FILE"),
    ] {
        let refused = init(schema, "refused", flags);
        assert_eq!(refused.code, Some(code), "{flags}: {}", refused.stderr);
        assert!(
            refused.stderr.contains(says),
            "{flags} does not say {says:?}: {}",
            refused.stderr
        );
        assert!(!out("refused").exists(), "{flags}");
    }
    bench.clean();
}
