//! Markers in mixed case, like the fields of Java's Avro: a CQL server reports them in lower case, and a pipeline uses the spelling of its statement.

use messina::avro::{Schema, Value};
use rdkafka::producer::BaseRecord;

use crate::support::process::{Messina, finish};
use crate::support::three::local;
use crate::support::{Bench, LONG, until};

const SCHEMA: &str = r#"{"type": "record", "name": "Visit", "fields": [{"name": "userId", "type": "string"}, {"name": "n", "type": "int"}]}"#;

/// Pipelines, each with a table of its name, and what its step contains besides the statement.
const STEPS: [(&str, &str); 2] = [("bound", "bind = { userId = \"event.userId\" }"), ("named", "")];

#[test]
fn a_marker_is_bound_by_the_spelling_of_its_statement() {
    let Some(bench) = Bench::find("a_marker_is_bound_by_the_spelling_of_its_statement") else {
        return;
    };
    let database = bench.database();
    let topic = bench.name("visits");
    bench.kafka.create(&bench, &[&topic], 1);
    let id = bench.registry.register(&bench, &format!("{topic}-value"), SCHEMA);
    let mut text = String::new();
    for (name, bind) in STEPS {
        bench.create_tables(&database, &bench.keyspace, &[(name, "user_id text PRIMARY KEY, n int")]);
        text += &"[pipelines.NAME.source]\ntopics = [\"TOPIC\"]\ngroup = \"GROUP\"\n\
             [[pipelines.NAME.steps]]\nname = \"row\"\n\
             write = \"INSERT INTO NAME (user_id, n) VALUES (:userId, :n)\"\nBIND\n"
            .replace("NAME", name)
            .replace("TOPIC", &topic)
            .replace("GROUP", &bench.name(name))
            .replace("BIND", bind);
    }
    let config = bench.file("markers.toml", &text);
    let local = bench.file("local.toml", &local(&bench, &bench.keyspace));
    let sound = finish(&["check", "--online"], &[&config, &local]);
    assert_eq!(sound.code, Some(0), "{}", sound.stderr);

    let mut value = vec![0];
    value.extend(id.to_be_bytes());
    let record = Value::Record(vec![
        ("userId".into(), Value::String("u1".into())),
        ("n".into(), Value::Int(7)),
    ]);
    Schema::parse(SCHEMA).unwrap().encode(&record, &mut value).unwrap();
    bench
        .kafka
        .send(BaseRecord::to(&topic).key(b"k".as_slice()).payload(&value[..]));
    let messina = Messina::start("messina", &[&config, &local]);
    for (name, _) in STEPS {
        until("the record to be committed", LONG, &[&messina], || {
            (bench.kafka.progress(&bench.name(name), &topic).0 == 1).then_some(())
        });
        let query = format!("SELECT user_id, n FROM {}.{name}", bench.keyspace);
        let rows: Vec<(String, i32)> = database.rows(&bench, &query);
        assert_eq!(rows, [("u1".to_owned(), 7)], "{name}");
    }
    messina.stop();
    drop(messina);
    bench.clean();
}
