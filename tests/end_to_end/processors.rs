//! `config/processors.toml` unchanged except for addresses and names: three processors in one process, with Kafka, the CQL database and
//! MongoDB, from the first record to the last.

use std::collections::{HashMap, HashSet};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use mongodb::Client;
use mongodb::bson::{Document, doc};

use crate::support::Bench;
use crate::support::kafka::Record;
use crate::support::process::Messina;
use crate::support::three::{PIPELINES, Three, local};

const RECORDS: u64 = 6000;
/// Campaigns have the ids 1 to 500; the last hundred have no document.
const CAMPAIGNS: i64 = 400;

/// The kind of an old event, which some of the ordering users have in their history before the start.
const LONG_AGO: &str = "long ago";

/// The fields of a record, read by an independent decoder with the registry's schema. `schemas` caches those that were fetched already.
fn fields(bench: &Bench, schemas: &mut HashMap<u32, Schema>, record: &Record) -> Vec<(String, Value)> {
    let value = record.value.as_deref().unwrap();
    let id = u32::from_be_bytes(value[1..5].try_into().unwrap());
    let schema = schemas
        .entry(id)
        .or_insert_with(|| Schema::parse_str(&bench.registry.schema(bench, id)).unwrap());
    let reader = GenericDatumReader::builder(schema).build().unwrap();
    match reader.read_value(&mut &value[5..]).unwrap() {
        Value::Record(fields) => fields,
        other => panic!("{other:?}"),
    }
}

fn field<'v>(record: &'v [(String, Value)], name: &str) -> &'v Value {
    let (_, value) = record.iter().find(|(known, _)| known == name).unwrap();
    unwrapped(value)
}

fn unwrapped(value: &Value) -> &Value {
    match value {
        Value::Union(_, inner) => inner,
        value => value,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Null => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn processors() {
    let Some(bench) = Bench::find("processors") else { return };
    let uri = std::env::var("MONGO_URI").expect("MONGO_URI is set where the services run");
    let three = Three::new(&bench, RECORDS, 0, 2000);
    three.load(&bench.keyspace);
    three.produce(&[]);
    let mut schemas = HashMap::new();
    let input = bench.kafka.read(&bench.name("navigation"));
    let mut partners: Vec<String> = input
        .iter()
        .take(200)
        .map(|record| {
            text(field(&fields(&bench, &mut schemas, record), "partner_id"))
                .unwrap()
                .to_owned()
        })
        .collect();
    partners.sort();
    partners.dedup();
    // Whatever else orders find was written by the other pipeline by then, which may be nothing. The key of an order is its user.
    let orders = bench.kafka.read(&bench.name("orders"));
    let known: HashSet<&str> = orders.iter().take(200).map(Record::key_text).collect();
    let database = bench.database();
    for user in &known {
        let row = format!("('{user}', 0, uuid(), '{LONG_AGO}')");
        let table = format!("{}.events_by_user", bench.keyspace);
        database.run(
            &bench,
            &format!("INSERT INTO {table} (user_id, event_time, event_id, kind) VALUES {row}"),
        );
    }
    let mongo = bench.wait(async { Client::with_uri_str(&uri).await.unwrap().database(&bench.keyspace) });
    bench.wait(async {
        let documents = partners
            .iter()
            .map(|id| doc! { "_id": id, "name": format!("Partner {id}"), "country": "FR", "vat": "FR1" });
        mongo
            .collection::<Document>("partners")
            .insert_many(documents)
            .await
            .unwrap();
        let campaigns = (1..=CAMPAIGNS).map(
            |id| doc! { "_id": id, "title": format!("Campaign {id}"), "budget": 1.5, "tags": ["a", format!("{id}")] },
        );
        mongo
            .collection::<Document>("campaigns")
            .insert_many(campaigns)
            .await
            .unwrap();
    });

    let mut shipped = std::fs::read_to_string("config/processors.toml").unwrap();
    for pipeline in PIPELINES {
        shipped = shipped.replace(&format!("\"{pipeline}"), &format!("\"{}{pipeline}", bench.prefix));
    }
    let shipped = shipped.replace("\"crm.", &format!("\"{}.", bench.keyspace));
    let config = bench.file("processors.toml", &shipped.replace("\"paris\"", "\"dc1\""));
    let local = bench.file("local.toml", &local(&bench, &bench.keyspace));
    let messina = Messina::start("messina", &[&config, &local]);
    messina.ready();
    three.wait_for_end(&messina);
    messina.stop();

    let mut published = 0;
    for pipeline in PIPELINES {
        let records = bench.kafka.read(&bench.name(&format!("{pipeline}-enriched")));
        published += records.len() as u64;
        let mut found = 0;
        for output in records.iter().take(300) {
            let record = fields(&bench, &mut schemas, output);
            match pipeline {
                "navigation" => {
                    let id = text(field(&record, "partner_id")).unwrap();
                    let wanted = partners.iter().any(|p| p == id).then(|| format!("Partner {id}"));
                    assert_eq!(text(field(&record, "partner_name")), wanted.as_deref());
                    found += u64::from(wanted.is_some());
                }
                "reactions" => {
                    let Value::Record(campaign) = field(&record, "campaign") else {
                        panic!("{record:?}")
                    };
                    let Value::Long(id) = field(campaign, "id") else {
                        panic!("{campaign:?}")
                    };
                    let wanted = (*id <= CAMPAIGNS).then(|| format!("Campaign {id}"));
                    assert_eq!(text(field(&record, "campaign_title")), wanted.as_deref());
                    found += u64::from(wanted.is_some());
                }
                _ => {
                    let Value::Array(kinds) = field(&record, "recent_kinds") else {
                        panic!("{record:?}")
                    };
                    assert!(kinds.len() <= 20);
                    // The history is sorted by age, oldest first.
                    let is_known = known.contains(output.key_text());
                    let first = kinds.first().and_then(|kind| text(unwrapped(kind)));
                    assert_eq!(first == Some(LONG_AGO), is_known, "{kinds:?}");
                    found += u64::from(is_known);
                }
            }
        }
        println!(
            "{pipeline}: {} records, {found} of the first 300 enriched",
            records.len()
        );
        assert!(found > 0, "{pipeline}");
        assert!(
            bench
                .kafka
                .read(&bench.name(&format!("{pipeline}-dead-letters")))
                .is_empty()
        );
    }
    assert_eq!(published, RECORDS);
    drop(messina);
    bench.wait(async { mongo.drop().await.unwrap() });
    bench.clean();
}
