//! A topic's schema changes under a running pipeline: records that still fit go on, others become dead letters with that reason, and the
//! pipeline neither stops nor fails to restart. Schemas that are not Avro are refused, naming their type.

use std::collections::BTreeMap;

use messina::avro::{Schema, Value};
use rdkafka::producer::BaseRecord;

use crate::support::process::{Messina, finish};
use crate::support::{Bench, LONG, until};

/// The first version, and one that is compatible with it.
const FITTING: [&str; 2] = [
    r#"{"type":"record","name":"Click","fields":[{"name":"user_id","type":"string"},{"name":"kind","type":"string"}]}"#,
    r#"{"type":"record","name":"Click","fields":[{"name":"by","type":["null","string"],"default":null},
        {"name":"kind","type":"string"},{"name":"user_id","type":"string"}]}"#,
];

/// Versions that break the pipeline, and what the message must say.
const BREAKING: [(&str, &str); 2] = [
    (
        r#"{"type":"record","name":"Click","fields":[{"name":"user_id","type":"int"},{"name":"kind","type":"string"}]}"#,
        ":user_id",
    ),
    (
        r#"{"type":"record","name":"Click","fields":[{"name":"user_id","type":"string"}]}"#,
        "no field",
    ),
];

/// Schemas of other types than Avro.
const FOREIGN: [(&str, &str); 2] = [
    (
        "JSON",
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object"}"#,
    ),
    ("PROTOBUF", "syntax = \"proto3\"; message M { string user_id = 1; }"),
];

fn text(bench: &Bench, topic: &str) -> String {
    let store = bench.folder.join("rows.db");
    format!(
        r#"
store = "sqlite:{}"
[kafka]
brokers = "{}"
[registry]
url = "{}"
register = true
[http]
listen = "127.0.0.1:0"
[pipelines.clicks]
order = "partition"
[pipelines.clicks.source]
topics = ["{topic}"]
group = "{}"
[[pipelines.clicks.steps]]
name = "seen"
write = "INSERT INTO clicks (user_id, kind) VALUES (:user_id, :kind)"
[pipelines.clicks.sink]
topic = "{}"
set = {{ label = "event.kind" }}
[pipelines.clicks.dead_letter]
topic = "{}"
"#,
        store.display(),
        bench.kafka.brokers,
        bench.registry.url,
        bench.name("clicks-group"),
        bench.name("clicks-out"),
        bench.name("clicks-dead"),
    )
}

struct Clicks<'b> {
    bench: &'b Bench,
    topic: String,
    sent: u64,
}

impl Clicks<'_> {
    /// Sends a record with this schema id: encoded with `schema` if it is Avro, otherwise arbitrary bytes.
    fn send(&mut self, id: u32, schema: Option<&str>) {
        let mut value = vec![0];
        value.extend(id.to_be_bytes());
        if let Some(json) = schema {
            let schema = Schema::parse(json).unwrap();
            let fields = schema.fields().unwrap().iter().map(|field| {
                let value = match field.name.as_str() {
                    "by" => Value::Null,
                    "user_id" if json.contains(r#""user_id","type":"int""#) => Value::Int(7),
                    name => Value::String(format!("{name} {}", self.sent).into()),
                };
                (field.name.clone().into(), value)
            });
            schema.encode(&Value::Record(fields.collect()), &mut value).unwrap();
        } else {
            // These bytes would be a valid record of the first version, and must not be taken for one.
            value.extend([2, b'u', 2, b'k']);
        }
        self.bench
            .kafka
            .send(BaseRecord::to(&self.topic).key(b"k".as_slice()).payload(&value[..]));
        self.sent += 1;
    }

    fn wait(&self, messina: &Messina) {
        until("every record to be committed", LONG, &[messina], || {
            let group = self.bench.name("clicks-group");
            (self.bench.kafka.progress(&group, &self.topic).0 == self.sent).then_some(())
        });
    }
}

#[test]
fn evolution() {
    let Some(bench) = Bench::find("evolution") else { return };
    let topic = bench.name("clicks");
    let subject = format!("{topic}-value");
    let out = bench.name("clicks-out");
    bench
        .kafka
        .create(&bench, &[&topic, &out, &bench.name("clicks-dead")], 1);
    let table = "CREATE TABLE clicks (user_id TEXT PRIMARY KEY, kind TEXT)";
    rusqlite::Connection::open(bench.folder.join("rows.db"))
        .unwrap()
        .execute_batch(table)
        .unwrap();
    for subject in [&subject, &format!("{out}-value")] {
        bench.registry.allow_anything(&bench, subject);
    }
    let config = bench.file("clicks.toml", &text(&bench, &topic));
    let fitting = FITTING.map(|schema| bench.registry.register(&bench, &subject, schema));

    let messina = Messina::start("first", &[&config]);
    let mut clicks = Clicks {
        bench: &bench,
        topic: topic.clone(),
        sent: 0,
    };
    for (id, schema) in fitting.iter().zip(FITTING) {
        clicks.send(*id, Some(schema));
    }
    clicks.wait(&messina);

    // New versions are registered while it runs, and their records arrive between records that fit.
    let breaking = BREAKING.map(|(schema, _)| bench.registry.register(&bench, &subject, schema));
    let foreign = FOREIGN.map(|(kind, schema)| {
        let subject = bench.name(&format!("foreign-{kind}-value"));
        bench.registry.register_as(&bench, &subject, kind, schema)
    });
    for (id, (schema, _)) in breaking.iter().zip(BREAKING) {
        clicks.send(*id, Some(schema));
        clicks.send(fitting[1], Some(FITTING[1]));
    }
    for id in foreign {
        clicks.send(id, None);
        clicks.send(fitting[0], Some(FITTING[0]));
    }
    clicks.wait(&messina);

    let mut wanted = BTreeMap::new();
    for (id, (_, says)) in breaking.iter().zip(BREAKING) {
        wanted.insert(*id, ("schema", says));
    }
    for (id, (kind, _)) in foreign.iter().zip(FOREIGN) {
        wanted.insert(*id, ("registry", kind));
    }
    let letters = bench.kafka.read(&bench.name("clicks-dead"));
    assert_eq!(letters.len(), 4, "{letters:?}");
    for letter in &letters {
        let value = letter.value.as_ref().unwrap();
        let id = u32::from_be_bytes(value[1..5].try_into().unwrap());
        let (reason, says) = wanted.remove(&id).unwrap();
        assert_eq!(letter.header("messina.reason"), Some(reason), "{}", letter.about());
        let message = letter.header("messina.message").unwrap();
        assert!(message.contains(says), "does not say {says}: {message}");
        // Each is logged as an error that names the schema, once its records arrive. Of the schemas that the registry does not return as
        // Avro, only the first is logged for a while.
        let told = messina.lines("ERROR");
        if reason == "registry" && !told.iter().any(|line| line.contains(says)) {
            assert!(told.iter().any(|line| line.contains("only AVRO")), "{told:?}");
            continue;
        }
        let of_it = told
            .iter()
            .any(|line| line.contains(says) && line.contains(&id.to_string()));
        assert!(of_it, "no error says {says} of schema {id}: {told:?}");
    }
    assert!(wanted.is_empty(), "no dead letters of {wanted:?}");
    for (metric, least) in [("messina_failures_total", 4.0), ("messina_dead_letters_total", 4.0)] {
        assert!(
            messina.metric(metric) >= least,
            "{metric} is {}",
            messina.metric(metric)
        );
    }
    // The metrics that alerts use (deploy/prometheus): failures at level error, and permanent dead letters.
    let metrics = messina.get("/metrics").unwrap();
    for (metric, label) in [
        ("messina_failures_total{", r#"level="error""#),
        ("messina_dead_letters_total{", r#"class="permanent""#),
    ] {
        let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
        let counted = metrics
            .lines()
            .filter(|line| line.starts_with(metric) && line.contains(label))
            .filter_map(count);
        assert!(counted.sum::<f64>() >= 4.0, "{metric} with {label}: {metrics}");
    }
    assert_eq!(bench.kafka.read(&out).len(), 6, "what fits goes on");
    messina.stop();

    // The breaking versions are live now: the pipeline starts all the same, and logs them.
    let messina = Messina::start("second", &[&config]);
    clicks.send(fitting[0], Some(FITTING[0]));
    clicks.send(breaking[0], Some(BREAKING[0].0));
    clicks.wait(&messina);
    let told = messina.lines("ERROR");
    for (_, says) in BREAKING {
        assert!(
            told.iter().any(|line| line.contains(says)),
            "no error says {says}: {told:?}"
        );
    }
    messina.stop();
    assert_eq!(bench.kafka.read(&out).len(), 7);
    assert_eq!(bench.kafka.read(&bench.name("clicks-dead")).len(), 5);

    // A check tolerates none of it.
    let found = finish(&["check", "--online"], &[&config]);
    assert_eq!(found.code, Some(78), "{}", found.stderr);
    for (_, says) in BREAKING {
        assert!(found.stderr.contains(says), "does not say {says}: {}", found.stderr);
    }
    for (kind, _) in FOREIGN {
        let topic = bench.name(&format!("foreign-{kind}"));
        bench.kafka.create(&bench, &[&topic], 1);
        let config = bench.file("foreign.toml", &text(&bench, &topic));
        let found = finish(&["check", "--online"], &[&config]);
        assert_eq!(found.code, Some(78), "{}", found.stderr);
        let says = format!("is {kind}: only AVRO is supported");
        assert!(found.stderr.contains(&says), "does not say {says}: {}", found.stderr);
    }
    bench.clean();
}
