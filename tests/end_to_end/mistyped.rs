//! Pipelines that do not fit the live schemas, tables and collections, with one mistake each: each is refused before a record is read, and
//! the message names path, version, marker, both types and a remedy. The snapshot shows the messages as people read them.

use std::path::Path;
use std::time::Instant;

use mongodb::Client;
use mongodb::bson::doc;

use crate::support::Bench;
use crate::support::process::finish;
use crate::support::three::local;

/// The first version; the second also has the field `late`.
const SCHEMA: &str = r#"{"type": "record", "name": "Event", "namespace": "com.acme.test", "fields": [
    {"name": "user", "type": "string"},
    {"name": "partner_id", "type": "long"},
    {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "amount", "type": "double"},
    {"name": "count", "type": "int"},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["click", "view"]}},
    {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "tags", "type": {"type": "array", "items": "string"}},
    {"name": "address", "type": {"type": "record", "name": "Address", "fields": [
        {"name": "city", "type": "string"}, {"name": "zip", "type": ["null", "int"], "default": null}]}},
    {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
    {"name": "raw", "type": "bytes"},
    {"name": "flag", "type": "boolean"},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    {"name": "counts", "type": {"type": "map", "values": "long"}}LATE
]}"#;

const TABLES: [(&str, &str); 3] = [
    (
        "profiles",
        "user text PRIMARY KEY, name text, score double, age int, tags frozen<list<text>>, worth decimal",
    ),
    ("pairs", "a text, b bigint, v text, PRIMARY KEY ((a, b))"),
    (
        "events",
        "user text, at timestamp, amount double, n int, big bigint, flag boolean, id uuid, tags frozen<list<text>>, day date, \
         price decimal, raw blob, counts map<text, bigint>, note text, PRIMARY KEY (user, at)",
    ),
];

const CONFIG: &str = r#"[registry]
register = true

[mongo]
uri = { env = "MONGO_URI" }

[references.partners]
collection = "KEYSPACE.partners"
fields = ["name"]

[pipelines.p.source]
topics = ["TOPIC"]
group = "TOPIC-group"

[[pipelines.p.steps]]
name = "keep"
filter = "event.flag"

[[pipelines.p.steps]]
name = "profile"
lookup = "SELECT name, score, age, worth FROM profiles WHERE user = :user"
bind = { user = "event.user" }

[[pipelines.p.steps]]
name = "partner"
reference = "partners"
key = "event.partner_id"

[[pipelines.p.steps]]
name = "row"
when = "event.count > 0"
write = "INSERT INTO events (user, at, amount, n, big, flag, id, tags, day, price, raw, counts, note) VALUES (:user, :at, :amount, :n, :big, :flag, :id, :tags, :day, :price, :raw, :counts, :note)"
bind = { at = "event.ts", n = "event.count", big = "event.partner_id", note = "profile.name" }

[pipelines.p.sink]
topic = "TOPIC-enriched"
set = { score = "profile.score", partner = "partner.name" }
"#;

/// Name of the mistake, the text that is replaced, and its replacement.
const MISTAKES: [(&str, &str, &str); 37] = [
    ("an unknown field", "user = \"event.user\"", "user = \"event.usr\""),
    (
        "an unknown field of a record",
        "note = \"profile.name\"",
        "note = \"event.address.town\"",
    ),
    (
        "a field that the first version lacks",
        "note = \"profile.name\"",
        "note = \"event.late\"",
    ),
    ("string into timestamp", "at = \"event.ts\"", "at = \"event.user\""),
    ("double into int", "n = \"event.count\"", "n = \"event.amount\""),
    ("timestamp into int", "n = \"event.count\"", "n = \"event.ts\""),
    (
        "enum into double",
        "n = \"event.count\"",
        "n = \"event.count\", amount = \"event.kind\"",
    ),
    (
        "boolean into bigint",
        "big = \"event.partner_id\"",
        "big = \"event.flag\"",
    ),
    ("bytes into text", "note = \"profile.name\"", "note = \"event.raw\""),
    (
        "string into boolean",
        "big = \"event.partner_id\"",
        "big = \"event.partner_id\", flag = \"event.user\"",
    ),
    ("array into text", "note = \"profile.name\"", "note = \"event.tags\""),
    (
        "string into list",
        "big = \"event.partner_id\"",
        "big = \"event.partner_id\", tags = \"event.user\"",
    ),
    (
        "record into text",
        "note = \"profile.name\"",
        "note = \"event.address\"",
    ),
    (
        "map into list",
        "big = \"event.partner_id\"",
        "big = \"event.partner_id\", tags = \"event.counts\"",
    ),
    (
        "timestamp into date",
        "big = \"event.partner_id\"",
        "big = \"event.partner_id\", day = \"event.ts\"",
    ),
    (
        "decimal into double",
        "big = \"event.partner_id\"",
        "big = \"event.partner_id\", amount = \"event.price\"",
    ),
    (
        "nullable int into uuid",
        "big = \"event.partner_id\"",
        "big = \"event.partner_id\", id = \"event.address.zip\"",
    ),
    (
        "a column of text into int",
        "n = \"event.count\"",
        "n = \"profile.name\"",
    ),
    (
        "a column of double into bigint",
        "big = \"event.partner_id\"",
        "big = \"profile.score\"",
    ),
    (
        "an unknown column of a look-up",
        "score = \"profile.score\"",
        "score = \"profile.scores\"",
    ),
    ("a literal into int", "n = \"event.count\"", "n = \"'seven'\""),
    ("the clock into int", "n = \"event.count\"", "n = \"now()\""),
    (
        "the key of the record into text",
        "note = \"profile.name\"",
        "note = \"record.key\"",
    ),
    (
        "the offset into text",
        "note = \"profile.name\"",
        "note = \"record.offset\"",
    ),
    (
        "CEL of another type",
        "note = \"profile.name\"",
        "note = \"event.count + 1\"",
    ),
    (
        "a condition that is no boolean",
        "when = \"event.count > 0\"",
        "when = \"event.user\"",
    ),
    (
        "a filter that is no boolean",
        "filter = \"event.flag\"",
        "filter = \"event.count\"",
    ),
    ("an unknown table", "FROM profiles", "FROM profilez"),
    ("an unknown selected column", "SELECT name, score", "SELECT name, skore"),
    (
        "an unknown written column",
        "counts, note) VALUES",
        "counts, notes) VALUES",
    ),
    (
        "a part of the partition key",
        "SELECT name, score, age, worth FROM profiles WHERE user = :user",
        "SELECT v AS name, a AS score FROM pairs WHERE a = :user ALLOW FILTERING",
    ),
    (
        "no partition key at all",
        " FROM profiles WHERE user = :user\"\nbind = { user = \"event.user\" }",
        " FROM profiles\"",
    ),
    (
        "a field whose type does not follow",
        "partner = \"partner.name\"",
        "partner = \"event.tags.map(t, t)\"",
    ),
    (
        "a decimal of unknown precision in Avro",
        "partner = \"partner.name\"",
        "partner = \"profile.worth\"",
    ),
    ("a field that is there already", "set = { score =", "set = { amount ="),
    (
        "the key of a reference",
        "key = \"event.partner_id\"",
        "key = \"event.user\"",
    ),
    (
        "a field that no document has",
        "fields = [\"name\"]",
        "fields = [\"name\", \"vat\"]",
    ),
];

#[test]
fn mistyped() {
    let Some(bench) = Bench::find("mistyped") else { return };
    let uri = std::env::var("MONGO_URI").expect("MONGO_URI is set where the services run");
    let topic = bench.name("events");
    let mongo = bench.wait(async { Client::with_uri_str(&uri).await.unwrap().database(&bench.keyspace) });
    let partners = mongo.collection("partners");
    bench.wait(async { partners.insert_one(doc! { "_id": 1, "name": "Ada" }).await.unwrap() });
    bench.create_tables(&bench.database(), &bench.keyspace, &TABLES);
    bench.kafka.create(&bench, &[&topic, &format!("{topic}-enriched")], 1);
    let subject = format!("{topic}-value");
    let late = r#", {"name": "late", "type": "string", "default": ""}"#;
    let ids = ["", late].map(|more| bench.registry.register(&bench, &subject, &SCHEMA.replace("LATE", more)));
    let good = CONFIG.replace("TOPIC", &topic).replace("KEYSPACE", &bench.keyspace);
    // Shorter than the tests' session time-out: `check` would warn otherwise.
    let local = format!("shutdown_timeout = \"5s\"\n{}", local(&bench, &bench.keyspace));
    let local = bench.file("local.toml", &local);
    let sound = finish(&["check", "--online"], &[&bench.file("sound.toml", &good), &local]);
    assert_eq!(sound.code, Some(0), "{}", sound.stderr);
    println!("figure typecheck_ms {}", twenty_steps(&bench, &good, &local));

    let mut said = String::new();
    for (what, from, to) in MISTAKES {
        let (from, to) = (from.replace("TOPIC", &topic), to.replace("TOPIC", &topic));
        assert!(good.contains(&from), "{what}: nothing to replace");
        let config = bench.file("p.toml", &good.replacen(&from, &to, 1));
        let found = finish(&["check", "--online"], &[&config, &local]);
        assert_eq!(found.code, Some(78), "{what}: {}", found.stderr);
        assert!(found.stderr.contains("= help:"), "{what}: no remedy: {}", found.stderr);
        said.push_str(&format!("=== {what}\n{}\n", found.stderr));
    }
    let mut plain = said
        .replace(&format!("{}/", bench.folder.display()), "")
        .replace(&bench.prefix, "")
        .replace(&bench.keyspace, "ks");
    for (id, name) in ids.into_iter().zip(["ID-1", "ID-2"]) {
        for end in [",", ")"] {
            plain = plain.replace(&format!("is schema {id}{end}"), &format!("is schema {name}{end}"));
        }
    }
    // Drops log lines, which contain the time.
    let plain: Vec<&str> = plain.lines().filter(|line| !line.starts_with("20")).collect();
    insta::assert_snapshot!("mistyped", plain.join("\n"));
    bench.wait(async { mongo.drop().await.unwrap() });
    bench.clean();
}

/// How many milliseconds `check --online` takes for a pipeline of twenty steps, including the process and its connections; the median of
/// five.
fn twenty_steps(bench: &Bench, good: &str, local: &Path) -> u128 {
    let (before, sink) = good.split_once("[pipelines.p.sink]").unwrap();
    let mut text = before.to_owned();
    for number in 5..=20 {
        let step = format!(
            "[[pipelines.p.steps]]\nname = \"step_{number}\"\n\
             lookup = \"SELECT name, age FROM profiles WHERE user = :user\"\n"
        );
        text.push_str(&step);
    }
    text.push_str("[pipelines.p.sink]");
    text.push_str(sink);
    assert_eq!(text.matches("[[pipelines.p.steps]]").count(), 20);
    let config = bench.file("twenty.toml", &text);
    let mut took: Vec<_> = (0..5)
        .map(|_| {
            let began = Instant::now();
            let found = finish(&["check", "--online"], &[&config, local]);
            assert_eq!(found.code, Some(0), "{}", found.stderr);
            began.elapsed().as_millis()
        })
        .collect();
    took.sort_unstable();
    took[2]
}
