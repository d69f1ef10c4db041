//! References and look-ups of many rows, from the record to the output topic: typed, enriched, updated while it runs, and refused by
//! `check --online` if they do not fit.

use std::time::Duration;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use rdkafka::producer::BaseRecord;

use crate::support::process::{Messina, finish};
use crate::support::three::local;
use crate::support::{Bench, LONG, until};

const SCHEMA: &str = r#"{"type": "record", "name": "Visit", "namespace": "com.acme.test", "fields": [
    {"name": "user", "type": "string"}, {"name": "partner_id", "type": "long"}]}"#;

const CONFIG: &str = r#"
[registry]
register = true
[scylla]
datacenter = "dc1"
[mongo]
uri = { env = "MONGO_URI" }
[references.partners]
collection = "DATABASE.partners"
fields = ["name", "since", "address", "tags"]
[references.asked]
collection = "DATABASE.partners"
fields = ["name"]
mode = "on_demand"
cache = { ttl = "1h" }

[pipelines.visits.source]
topics = ["TOPIC"]
group = "TOPIC-group"
[[pipelines.visits.steps]]
name = "partner"
reference = "partners"
key = "event.partner_id"
[[pipelines.visits.steps]]
name = "asked"
reference = "asked"
key = "event.partner_id"
[[pipelines.visits.steps]]
name = "history"
lookup = "SELECT at, amount FROM history WHERE user = :user"
rows = "list"
max_rows = 3
cache = { ttl = "1s" }
[pipelines.visits.sink]
topic = "TOPIC-enriched"
set = { partner = "partner.name", asked = "asked.name", since = "partner.since", tags = "partner.tags", address = "partner.address", city = "string(partner.address.city)", amounts = "history.amount", rows = "history.rows", large = "history.rows.exists(r, r.amount > 1.0)" }
[pipelines.visits.dead_letter]
topic = "TOPIC-dead-letters"
"#;

fn visit(schema: u32, user: &str, partner: i64) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&schema.to_be_bytes());
    bytes.push(u8::try_from(user.len() * 2).unwrap());
    bytes.extend_from_slice(user.as_bytes());
    bytes.push(u8::try_from(partner * 2).unwrap());
    bytes
}

/// The output record of a user, once it has arrived.
fn output(bench: &Bench, topic: &str, user: &str, number: usize, messina: &Messina) -> Vec<(String, Value)> {
    let records = until("an output record", LONG, &[messina], || {
        let all = bench.kafka.read(topic);
        let of_user: Vec<_> = all.into_iter().filter(|r| r.key_text() == user).collect();
        (of_user.len() > number).then_some(of_user)
    });
    let value = records[number].value.as_deref().unwrap();
    let id = u32::from_be_bytes(value[1..5].try_into().unwrap());
    let schema = Schema::parse_str(&bench.registry.schema(bench, id)).unwrap();
    let reader = GenericDatumReader::builder(&schema).build().unwrap();
    match reader.read_value(&mut &value[5..]).unwrap() {
        Value::Record(fields) => fields,
        other => panic!("{other:?}"),
    }
}

fn field<'v>(record: &'v [(String, Value)], name: &str) -> &'v Value {
    let (_, value) = record.iter().find(|(known, _)| known == name).unwrap();
    match value {
        Value::Union(_, inner) => inner,
        value => value,
    }
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

#[test]
fn references() {
    let Some(bench) = Bench::find("references") else { return };
    let uri = std::env::var("MONGO_URI").expect("MONGO_URI is set where the services run");
    let (topic, database) = (bench.name("visits"), bench.keyspace.clone());
    let partners: Collection<Document> = bench.wait(async {
        let client = Client::with_uri_str(&uri).await.unwrap();
        let partners = client.database(&database).collection("partners");
        let since = mongodb::bson::DateTime::from_millis(86_400_000);
        let ada = doc! { "_id": 1, "name": "Ada", "since": since, "tags": ["a", "b"], "address": { "city": "Paris", "zip": 75002 } };
        let bob = doc! { "_id": 2, "name": "Bob", "address": { "city": "Messina" } };
        partners.insert_many([ada, bob]).await.unwrap();
        partners
    });
    let cql = bench.database();
    bench.create_tables(
        &cql,
        &bench.keyspace,
        &[("history", "user text, at bigint, amount double, PRIMARY KEY (user, at)")],
    );
    for (user, at, amount) in [
        ("u1", 1, "0.5"),
        ("u1", 2, "2.5"),
        ("u2", 1, "1.0"),
        ("u2", 2, "1"),
        ("u2", 3, "1"),
        ("u2", 4, "1"),
    ] {
        let table = format!("{}.history", bench.keyspace);
        cql.run(
            &bench,
            &format!("INSERT INTO {table} (user, at, amount) VALUES ('{user}', {at}, {amount})"),
        );
    }
    let (enriched, dead) = (format!("{topic}-enriched"), format!("{topic}-dead-letters"));
    bench.kafka.create(&bench, &[&topic, &enriched, &dead], 1);
    let schema = bench.registry.register(&bench, &format!("{topic}-value"), SCHEMA);
    let config = CONFIG.replace("DATABASE", &database).replace("TOPIC", &topic);
    let local = bench.file("local.toml", &local(&bench, &bench.keyspace));

    for (from, to, says) in [
        (
            "\"event.partner_id\"",
            "\"event.user\"",
            "the key of reference 'partners' cannot take event.user: string does not go into bigint",
        ),
        (
            "\"since\", ",
            "\"since\", \"vat\", ",
            "none of 2 documents has a field `vat`",
        ),
        (
            "\"address\", \"tags\"]",
            "\"address\", \"tags\", \"nmae\"]",
            "none of 2 documents has a field `nmae`",
        ),
    ] {
        let wrong = bench.file("wrong.toml", &config.replacen(from, to, 1));
        let found = finish(&["check", "--online"], &[&wrong, &local]);
        assert_eq!(found.code, Some(78), "{}", found.stderr);
        assert!(found.stderr.contains(says), "{}", found.stderr);
    }

    let config = bench.file("visits.toml", &config);
    let sound = finish(&["check", "--online"], &[&config, &local]);
    assert_eq!(sound.code, Some(0), "{}", sound.stderr);
    let messina = Messina::start("messina", &[&config, &local]);
    messina.ready();
    let send = |user: &str, partner: i64| {
        let value = visit(schema, user, partner);
        bench
            .kafka
            .send(BaseRecord::to(&topic).key(user.as_bytes()).payload(&value));
    };
    send("u1", 1);
    let record = output(&bench, &enriched, "u1", 0, &messina);
    assert_eq!(field(&record, "partner"), &text("Ada"));
    assert_eq!(field(&record, "asked"), &text("Ada"));
    assert_eq!(field(&record, "since"), &Value::TimestampMillis(86_400_000));
    assert_eq!(field(&record, "city"), &text("Paris"));
    let Value::Array(tags) = field(&record, "tags") else {
        panic!("{record:?}")
    };
    assert_eq!(tags, &[text("a"), text("b")]);
    let Value::Record(address) = field(&record, "address") else {
        panic!("{record:?}")
    };
    assert_eq!(field(address, "zip"), &Value::Long(75002));
    let double = |d: f64| Value::Union(1, Box::new(Value::Double(d)));
    assert_eq!(field(&record, "amounts"), &Value::Array(vec![double(0.5), double(2.5)]));
    let Value::Array(rows) = field(&record, "rows") else {
        panic!("{record:?}")
    };
    let Value::Record(second) = &rows[1] else {
        panic!("{rows:?}")
    };
    assert_eq!(
        (field(second, "at"), field(second, "amount")),
        (&Value::Long(2), &Value::Double(2.5))
    );
    assert_eq!(field(&record, "large"), &Value::Boolean(true));
    // Four rows, but only three are declared.
    send("u2", 1);
    let letters = until("a dead letter", LONG, &[&messina], || {
        let all = bench.kafka.read(&dead);
        (!all.is_empty()).then_some(all)
    });
    assert_eq!(letters[0].header("messina.reason"), Some("too_many_rows"));
    // Neither a document nor a row exists: the output has null and an empty list.
    send("u3", 9);
    let record = output(&bench, &enriched, "u3", 0, &messina);
    assert_eq!(field(&record, "partner"), &Value::Null);
    assert_eq!(field(&record, "asked"), &Value::Null);
    assert_eq!(field(&record, "rows"), &Value::Array(vec![]));
    // A changed document is noticed while it runs.
    let rename = partners.update_one(doc! { "_id": 2 }, doc! { "$set": { "name": "Bobby" } });
    bench.wait(async { rename.await.unwrap() });
    until("the change", Duration::from_secs(30), &[&messina], || {
        (messina.metric("messina_reference_changes_total") > 0.0).then_some(())
    });
    send("u4", 2);
    let record = output(&bench, &enriched, "u4", 0, &messina);
    assert_eq!(field(&record, "partner"), &text("Bobby"));
    let held = messina.metric("messina_reference_entries{reference=\"partners\"}");
    assert_eq!(held as u64, 2);
    messina.stop();
    drop(messina);
    bench.wait(async {
        Client::with_uri_str(&uri)
            .await
            .unwrap()
            .database(&database)
            .drop()
            .await
            .unwrap()
    });
    bench.clean();
}
