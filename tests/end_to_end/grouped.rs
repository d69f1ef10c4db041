//! `group`: rows of one partition are written together, and what is promised of each row holds as ever.

use std::collections::HashMap;
use std::path::Path;

use crate::support::numbers::{Numbers, Pipeline, who};
use crate::support::process::Messina;
use crate::support::{Bench, LONG, three, until};

const RECORDS: i64 = 20_000;
/// The record whose life the database refuses.
const BAD: i64 = 7_777;

#[test]
fn grouped_writes_survive_kill_9_and_one_bad_row_ends_alone() {
    let Some(bench) = Bench::find("grouped_writes") else {
        return;
    };
    let pipelines = [Pipeline {
        name: "grouped",
        order: "key",
        cache: None,
        writes: true,
    }];
    let numbers = Numbers::new(&bench, 4, &pipelines);
    let database = bench.database();
    let table = [("by_who", "who text, seq bigint, place bigint, PRIMARY KEY (who, seq)")];
    bench.create_tables(&database, &bench.keyspace, &table);
    let text = "[registry]\nregister = true\n[scylla]\ndatacenter = \"dc1\"\n\
         [pipelines.grouped]\norder = \"key\"\nmax_in_flight = 1024\n\
         [pipelines.grouped.source]\ntopics = [\"TOPIC\"]\ngroup = \"GROUP\"\n\
         [[pipelines.grouped.steps]]\nname = \"row\"\n\
         write = \"INSERT INTO by_who (who, seq, place) VALUES (:who, :seq, :place)\"\n\
         bind = { place = \"record.offset\" }\n\
         ttl_seconds = \"event.seq == BAD ? -5 : 864000\"\n\
         group = { linger = \"5ms\", max_rows = 20 }\n\
         [pipelines.grouped.dead_letter]\ntopic = \"LETTERS\"\n"
        .replace("TOPIC", &numbers.topic)
        .replace("GROUP", &numbers.group("grouped"))
        .replace("BAD", &BAD.to_string())
        .replace("LETTERS", &bench.name("grouped-dead-letters"));
    let configs = [
        bench.file("grouped.toml", &text),
        bench.file("local.toml", &three::local(&bench, &bench.keyspace)),
    ];
    let configs = configs.each_ref().map(|path| path as &Path);
    numbers.fill(RECORDS / 2);

    let messina = Messina::start("messina, first life", &configs);
    until("a part of the records to be processed", LONG, &[&messina], || {
        (messina.ended_records() >= RECORDS as u64 / 5).then_some(())
    });
    messina.kill();
    // The second life has work of its own, however far the first one came.
    numbers.load_from(RECORDS / 2, 1_000_000, RECORDS).wait();
    let messina = Messina::start("messina", &configs);
    until("every record to be committed", LONG, &[&messina], || {
        let committed = bench.kafka.progress(&numbers.group("grouped"), &numbers.topic).0;
        (committed == RECORDS as u64).then_some(())
    });
    // The figures of groups follow once a second.
    let (rows, batches) = until("batches to be counted", LONG, &[&messina], || {
        let (rows, batches) = (
            messina.metric("messina_grouped_rows_total"),
            messina.metric("messina_write_batches_total"),
        );
        (batches > 0.0).then_some((rows, batches))
    });
    println!("{rows} rows in {batches} batches: {:.1} each", rows / batches);
    assert!(rows > batches, "rows went together");
    messina.stop();

    let query = format!("SELECT seq, who, ttl(place) FROM {}.by_who", bench.keyspace);
    let found: Vec<(i64, String, Option<i32>)> = database.rows(&bench, &query);
    let found: HashMap<i64, (String, Option<i32>)> = found.into_iter().map(|(seq, w, life)| (seq, (w, life))).collect();
    for seq in (0..RECORDS).filter(|seq| *seq != BAD) {
        let (by, life) = found.get(&seq).unwrap_or_else(|| panic!("record {seq} has no row"));
        assert_eq!(*by, who(seq));
        assert!(
            life.is_some_and(|life| life > 800_000),
            "record {seq} lives for {life:?} s"
        );
    }
    assert_eq!(found.len() as i64, RECORDS - 1, "the bad one has no row");
    let letters = bench.kafka.read(&bench.name("grouped-dead-letters"));
    assert!(!letters.is_empty(), "the bad one is a dead letter");
    let value = numbers.record(BAD, &who(BAD));
    assert!(letters.iter().all(|letter| letter.value.as_ref() == Some(&value)));
    drop(messina);
    bench.clean();
}
