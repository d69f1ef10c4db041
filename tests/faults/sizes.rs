//! Promise 5 with records that are too large: brokers refuse a whole batch because of one record, and only that record may become a dead letter.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use super::pipelines;
use crate::support::numbers::{Numbers, duplicates};
use crate::support::process::Messina;
use crate::support::random::Random;
use crate::support::{Bench, LONG};

/// Limit of the output topic, in bytes: a handful of normal records fit in one batch, and none of the too large ones fits at all.
const TAKES: usize = 2000;
const GOOD: i64 = 20_000;
const LARGE: i64 = 5;
/// The smallest segment size that Kafka allows for a topic, in bytes.
const SEGMENT: usize = 1 << 20;

/// One pipeline publishes to a topic that only takes small records, the other to a topic that takes large ones but has smaller segments: there,
/// brokers refuse with another error code.
#[test]
fn neighbours_of_a_record_that_is_too_large() {
    let Some(bench) = Bench::find("neighbours_of_a_record_that_is_too_large") else {
        return;
    };
    let both = ["sizes", "segments"].map(|name| {
        let [pipeline] = pipelines(name);
        pipeline
    });
    let numbers = Numbers::new(&bench, 2, &both);
    let output = bench.name("sizes-enriched");
    bench
        .kafka
        .configure(&bench, &output, "max.message.bytes", &TAKES.to_string());
    let (most, segment) = ((4 * SEGMENT).to_string(), SEGMENT.to_string());
    let segments = [("max.message.bytes", &*most), ("segment.bytes", &*segment)];
    bench
        .kafka
        .configure_all(&bench, &bench.name("segments-enriched"), &segments);
    let mut random = Random::from(7);
    let mut sent = 0;
    for number in 0..LARGE {
        sent = numbers.load_from(sent, 1_000_000, sent + GOOD / LARGE).wait();
        // Random text, so that it cannot be compressed.
        let who: String = (0..2 * TAKES)
            .map(|_| char::from(b'!' + random.below(90) as u8))
            .collect();
        let value = numbers.record(GOOD + number, &who);
        bench
            .kafka
            .send(BaseRecord::to(&numbers.topic).key(&b"large"[..]).payload(&value[..]));
    }
    // A key of a table may not be this long, so the headers make the output large: they are copied to it.
    let beside: Vec<u8> = (0..2 * SEGMENT).map(|_| random.below(256) as u8).collect();
    let headers = OwnedHeaders::new().insert(Header {
        key: "beside",
        value: Some(&beside),
    });
    let value = numbers.record(GOOD + LARGE, "large");
    bench.kafka.send(
        BaseRecord::to(&numbers.topic)
            .key(&b"large"[..])
            .payload(&value[..])
            .headers(headers),
    );
    // All records are there before Messina starts, so its batches are as full as possible.
    let configs = numbers.config(Duration::from_secs(30), &both);
    let messina = Messina::start("messina", &configs.each_ref().map(|path| path as &Path));
    for (pipeline, refused) in [("sizes", LARGE + 1), ("segments", 1)] {
        numbers.committed(pipeline, GOOD + LARGE + 1, &[&messina]);
        let found = bench.kafka.read(&bench.name(&format!("{pipeline}-dead-letters")));
        for letter in &found {
            assert_eq!(
                letter.key_text(),
                "large",
                "{pipeline}: a good record: {}",
                letter.about()
            );
            let text = |name: &str| letter.header(name).unwrap_or_default().to_owned();
            assert_eq!(
                (text("messina.class"), text("messina.reason")),
                ("permanent".to_owned(), "delivery".to_owned())
            );
        }
        let places: HashSet<_> = found
            .iter()
            .map(|l| (l.header("messina.partition"), l.header("messina.offset")))
            .collect();
        let refused = refused as usize;
        assert_eq!(
            (found.len(), places.len()),
            (refused, refused),
            "{pipeline}: dead letters"
        );
    }
    assert_eq!(messina.metric("messina_consumer_rebuilds_total") as u64, 0);
    messina.stop();
    assert_eq!(duplicates(&numbers.outputs("sizes"), GOOD), 0);
    drop(messina);
    bench.clean();
}

/// A topic's limit can be lowered while batches are still as large as the old limit allowed. Brokers refuse these, and none of their records may
/// become a dead letter because of it.
#[test]
fn topic_takes_less_than_at_the_start() {
    let Some(bench) = Bench::find("topic_takes_less_than_at_the_start") else {
        return;
    };
    let numbers = Numbers::new(&bench, 2, &pipelines("sizes"));
    let output = bench.name("sizes-enriched");
    let configs = numbers.config(Duration::from_secs(30), &pipelines("sizes"));
    let configs = configs.each_ref().map(|path| path as &Path);
    let messina = Messina::start("first", &configs);
    let sent = numbers.load(1_000_000, GOOD / 2).wait();
    numbers.committed("sizes", sent, &[&messina]);
    bench
        .kafka
        .configure(&bench, &output, "max.message.bytes", &TAKES.to_string());
    let sent = numbers.load_from(sent, 1_000_000, GOOD).wait();
    let (code, _) = messina.wait_for_end(LONG, || {});
    assert_eq!(code, Some(70), "{}", messina.tail());
    let told = messina.lines("max.message.bytes");
    assert!(told.iter().any(|line| line.contains("restart")), "{}", messina.tail());
    let again = Messina::start("second", &configs);
    numbers.committed("sizes", sent, &[&again]);
    again.stop();
    // Records behind a refused batch may have been delivered already. They are published again behind it, so duplicates are allowed here.
    duplicates(&numbers.outputs("sizes"), sent);
    let letters = bench.kafka.read(&bench.name("sizes-dead-letters"));
    assert!(letters.is_empty(), "a good record: {}", letters[0].about());
    drop((messina, again));
    bench.clean();
}
