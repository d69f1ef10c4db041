//! `messina run --dry-run` shows what a pipeline would do with real records, and does none of it.

use messina::avro::{Schema, Value};
use messina::registry::framing;
use rdkafka::producer::BaseRecord;
use serde_json::{Value as Json, json};

use crate::support::Bench;
use crate::support::process::finish;

const CLICK: &str = r#"{"type": "record", "name": "Click", "fields": [{"name": "id", "type": "long"}, {"name": "user", "type": "string"}]}"#;

#[test]
fn a_dry_run_has_no_effect() {
    let Some(bench) = Bench::find("a_dry_run_has_no_effect") else {
        return;
    };
    let database = bench.database();
    bench.create_tables(
        &database,
        &bench.keyspace,
        &[
            ("users", "user text PRIMARY KEY, segment text"),
            (
                "history",
                "user text, id bigint, segment text, PRIMARY KEY ((user), id)",
            ),
        ],
    );
    database.run(
        &bench,
        &format!(
            "INSERT INTO {}.users (user, segment) VALUES ('u1', 'gold')",
            bench.keyspace
        ),
    );
    let [topic, output, letters] = ["clicks", "clicks-enriched", "clicks-dead"].map(|name| bench.name(name));
    bench.kafka.create(&bench, &[&topic, &output, &letters], 2);
    let id = bench.registry.register(&bench, &format!("{topic}-value"), CLICK);
    let schema = Schema::parse(CLICK).unwrap();
    let send = |number: i64, user: &str| {
        let record = vec![
            ("id".into(), Value::Long(number)),
            ("user".into(), Value::String(user.to_owned().into())),
        ];
        let mut value = framing::header(id).to_vec();
        schema.encode(&Value::Record(record), &mut value).unwrap();
        bench.kafka.send(
            BaseRecord::to(&topic)
                .partition(0)
                .key(user.as_bytes())
                .payload(value.as_slice()),
        );
    };
    send(1, "u1");
    send(2, "u2");
    bench.kafka.send(
        BaseRecord::to(&topic)
            .partition(0)
            .key(&b"\xff"[..])
            .payload(&b"{}"[..]),
    );
    bench.kafka.send(BaseRecord::to(&topic).partition(0).key(&b"u1"[..]));
    let config = bench.file(
        "dry.toml",
        &format!(
            r#"
            [kafka]
            brokers = "{}"
            [registry]
            url = "{}"
            register = true
            [scylla]
            nodes = ["{}"]
            keyspace = "{}"
            [pipelines.clicks]
            source = {{ topics = "{topic}", group = "{topic}" }}
            [[pipelines.clicks.steps]]
            name = "profile"
            lookup = "SELECT segment FROM users WHERE user = :user"
            [[pipelines.clicks.steps]]
            name = "keep"
            write = "INSERT INTO history (user, id, segment) VALUES (:user, :id, :segment)"
            bind = {{ segment = "profile.segment" }}
            [pipelines.clicks.sink]
            topic = "{output}"
            set = {{ segment = "profile.segment" }}
            [pipelines.clicks.dead_letter]
            topic = "{letters}"
            "#,
            bench.kafka.brokers,
            bench.registry.url,
            bench.nodes.join("\", \""),
            bench.keyspace
        ),
    );
    let told = finish(
        &["run", "--dry-run", "--since", "1h", "--records", "4", "--json"],
        &[&config],
    );
    let told_of = told.json_lines();
    assert_eq!(told_of.len(), 4);
    let parts = |json: &Json| {
        [
            &json["outcome"],
            &json["lookups"]["profile"],
            &json["writes"][0]["values"],
            &json["publish"]["value"],
        ]
        .map(Json::clone)
    };
    let done = |lookup: Json, user: &str, id: i64, segment: Json| {
        [
            json!("done"),
            lookup,
            json!({"user": user, "id": id, "segment": segment}),
            json!({"id": id, "user": user, "segment": segment}),
        ]
    };
    assert_eq!(
        parts(&told_of[0]),
        done(json!({"segment": "gold"}), "u1", 1, json!("gold"))
    );
    assert_eq!(parts(&told_of[1]), done(Json::Null, "u2", 2, Json::Null));
    assert_eq!(told_of[0]["publish"]["topic"], json!(output));
    assert_eq!(
        (&told_of[0]["key"], &told_of[0]["publish"]["key"]),
        (&json!("u1"), &json!("u1"))
    );
    assert_eq!(
        (&told_of[2]["outcome"], &told_of[2]["failure"]["reason"]),
        (&json!("dead_lettered"), &json!("framing"))
    );
    assert_eq!(
        (&told_of[2]["failure"]["topic"], &told_of[2]["key"]),
        (&json!(letters), &json!("\\xff"))
    );
    assert_eq!(
        (&told_of[3]["outcome"], &told_of[3]["offset"]),
        (&json!("skipped"), &json!(3))
    );
    assert!(
        told.stderr
            .contains("1 dead_lettered, 2 done, 1 skipped; nothing was written"),
        "{}",
        told.stderr
    );

    let told = finish(&["run", "--dry-run", "--since", "1h", "--records", "3"], &[&config]);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    for says in [
        "  look up  profile: segment = \"gold\"\n",
        "  look up  profile: no row\n",
        "  write    keep: user = \"u1\", id = 1, segment = \"gold\"\n",
        &format!("  publish  {output}, key u1: segment = \"gold\"\n"),
        &format!("  failure  {letters}: "),
    ] {
        assert!(told.stdout.contains(says), "does not say {says:?}: {}", told.stdout);
    }

    // With live traffic, records from before its start are not shown.
    let live = std::thread::spawn({
        let config = config.clone();
        move || finish(&["run", "--dry-run", "--records", "1", "--json"], &[&config])
    });
    let mut number = 100;
    while !live.is_finished() {
        send(number, "u1");
        number += 1;
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let told_of = live.join().unwrap().json_lines();
    assert!(
        told_of[0]["publish"]["value"]["id"].as_i64().unwrap() >= 100,
        "{}",
        told_of[0]
    );

    for topic in [&output, &letters] {
        assert_eq!(bench.kafka.read(topic).len(), 0, "{topic}");
    }
    let rows: Vec<(String,)> = database.rows(&bench, &format!("SELECT user FROM {}.history", bench.keyspace));
    assert!(rows.is_empty(), "{rows:?}");
    assert_eq!(bench.kafka.progress(&topic, &topic).0, 0, "something is committed");
    assert!(
        !bench.registry.has(&bench, &format!("{output}-value")),
        "a schema is registered"
    );

    let refused = finish(&["run", "--dry-run", "--pipeline", "orders"], &[&config]);
    assert_eq!(refused.code, Some(64), "{}", refused.stderr);
    assert!(refused.stderr.contains("there are clicks"), "{}", refused.stderr);
    assert_eq!(
        finish(&["run", "--records", "3"], &[&config]).code,
        Some(64),
        "without --dry-run"
    );
    bench.clean();
}
