//! Records that can never succeed end where the configuration says, with their bytes and the reason, while the stream goes on.

use std::collections::HashMap;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use crate::support::Bench;
use crate::support::kafka::Record;
use crate::support::process::Messina;
use crate::support::three::{PIPELINES, Three};

const RECORDS: u64 = 8000;
/// Number of bad records of each kind in each topic; of the large ones there is only one.
const BAD: u32 = 3;
const TEN_MEGABYTES: usize = 10 * 1024 * 1024;
/// The key of a record of 10 MB that is not even Avro, among the navigation events.
const HUGE: &str = "bad-garbage-9000";

/// The expected `messina.reason`, by the kind in the record's key; None if the record does not become a dead letter.
fn reason(pipeline: &str, kind: &str) -> Option<&'static str> {
    match (kind, pipeline) {
        ("text" | "empty" | "short" | "wrong_magic", _) => Some("framing"),
        ("unknown_schema", _) => Some("registry"),
        ("garbage" | "truncated" | "trailing", _) => Some("avro"),
        ("tombstone", "orders") => Some("tombstone"),
        // Valid Avro that does not fit: the output topic of navigation has a lower limit, and the database refuses so large a row of
        // reactions.
        ("large", "navigation") => Some("delivery"),
        ("large", "reactions") => Some("invalid"),
        ("tombstone" | "large", _) => None,
        _ => panic!("unknown kind of bad record: {kind}"),
    }
}

fn kind(record: &Record) -> Option<&str> {
    let (kind, _number) = record.key_text().strip_prefix("bad-")?.rsplit_once('-')?;
    Some(kind)
}

#[test]
fn bad_input() {
    let Some(bench) = Bench::find("bad_input") else { return };
    let three = Three::new(&bench, RECORDS, BAD, 2000);
    three.load(&bench.keyspace);
    let schemas = three.produce(&["--only-topics"]);
    // No compression: brokers measure the compressed size, and ten million zeros would be small.
    bench.kafka.configure(
        &bench,
        &bench.name("navigation-enriched"),
        "max.message.bytes",
        "1048576",
    );
    let plain = bench.file(
        "plain.toml",
        "[pipelines.navigation.sink.properties]\n\"compression.type\" = \"none\"\n",
    );
    let schema = u32::try_from(schemas[bench.name("navigation")].as_u64().unwrap()).unwrap();
    let mut huge = vec![0xff; TEN_MEGABYTES];
    huge[0] = 0;
    huge[1..5].copy_from_slice(&schema.to_be_bytes());
    let headers = OwnedHeaders::new().insert(Header {
        key: "trace",
        value: Some("of the producer"),
    });
    bench.kafka.send(
        BaseRecord::to(&bench.name("navigation"))
            .key(HUGE.as_bytes())
            .payload(&huge[..])
            .headers(headers),
    );
    three.produce(&[]);

    let [config, local] = three.configs();
    let messina = Messina::start("messina", &[config, local, &plain]);
    three.wait_for_end(&messina);
    messina.stop();
    // All good records are there, and none of the bad ones is lost.
    let found = three.verify(&["--sample=0", "--no-duplicates"]);
    assert_eq!(found["found"], RECORDS);
    for pipeline in PIPELINES {
        dead_letters(&bench, pipeline);
    }
    drop(messina);
    bench.clean();
}

/// Each dead letter is its input record, byte for byte, with the reason; each bad input record ends as it must.
fn dead_letters(bench: &Bench, pipeline: &str) {
    let topic = bench.name(pipeline);
    let inputs: HashMap<(i32, i64), Record> = bench
        .kafka
        .read(&topic)
        .into_iter()
        .map(|r| ((r.partition, r.offset), r))
        .collect();
    let mut wanted: HashMap<(i32, i64), &'static str> = inputs
        .iter()
        .filter_map(|(place, record)| Some((*place, reason(pipeline, kind(record)?)?)))
        .collect();
    let letters = bench.kafka.read(&bench.name(&format!("{pipeline}-dead-letters")));
    for letter in &letters {
        let header = |name: &str| letter.header(&format!("messina.{name}")).unwrap_or_default();
        let place = (header("partition").parse().unwrap(), header("offset").parse().unwrap());
        let input = &inputs[&place];
        let about = letter.about();
        assert!(
            letter.key == input.key && letter.value == input.value,
            "other bytes than the input's: {about}"
        );
        let reason = wanted
            .remove(&place)
            .unwrap_or_else(|| panic!("unexpected, or twice: {about}"));
        assert_eq!(header("reason"), reason, "{about}");
        assert_eq!(
            (header("pipeline"), header("topic"), header("class")),
            (pipeline, &*topic, "permanent"),
            "{about}"
        );
        assert_eq!(header("timestamp"), input.timestamp.to_string(), "{about}");
        assert!(
            !header("message").is_empty() && header("attempts").parse::<u32>().unwrap() > 0,
            "{about}"
        );
        assert_eq!(
            letter.headers[..input.headers.len()],
            input.headers,
            "the headers of the input are kept: {about}"
        );
        if letter.key_text() == HUGE {
            assert_eq!(letter.value.as_ref().map(Vec::len), Some(TEN_MEGABYTES));
            assert_eq!(letter.header("trace"), Some("of the producer"));
        }
    }
    assert!(wanted.is_empty(), "{pipeline}: no dead letters of {wanted:?}");
    println!("{pipeline}: {} dead letters, each as it must be", letters.len());
}
