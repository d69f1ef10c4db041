//! `group`: rows of one partition, or of any, are written together, and each row still keeps all promises.

use std::collections::HashMap;
use std::path::Path;

use crate::support::numbers::{Numbers, Pipeline, who};
use crate::support::process::Messina;
use crate::support::{Bench, LONG, three, until};

const RECORDS: i64 = 20_000;
/// The record whose TTL the database refuses.
const BAD: i64 = 7_777;
/// The pipelines, each with a table of its name. In the second, rows of any partition share a batch.
const NAMES: [&str; 2] = ["by_partition", "shared"];

#[test]
fn grouped_writes_survive_kill_9_and_one_bad_row_ends_alone() {
    let Some(bench) = Bench::find("grouped_writes") else {
        return;
    };
    let pipelines = NAMES.map(|name| Pipeline {
        name,
        order: "key",
        cache: None,
        writes: true,
    });
    let numbers = Numbers::new(&bench, 4, &pipelines);
    let database = bench.database();
    let mut text = "[registry]\nregister = true\n[scylla]\ndatacenter = \"dc1\"\n".to_owned();
    for (name, more) in NAMES.into_iter().zip(["", ", across_partitions = true"]) {
        let table = [(name, "who text, seq bigint, place bigint, PRIMARY KEY (who, seq)")];
        bench.create_tables(&database, &bench.keyspace, &table);
        text += &"[pipelines.NAME]\norder = \"key\"\nmax_in_flight = 1024\n\
             [pipelines.NAME.source]\ntopics = [\"TOPIC\"]\ngroup = \"GROUP\"\n\
             [[pipelines.NAME.steps]]\nname = \"row\"\n\
             write = \"INSERT INTO NAME (who, seq, place) VALUES (:who, :seq, :place)\"\n\
             bind = { place = \"record.offset\" }\n\
             ttl_seconds = \"event.seq == BAD ? -5 : 864000\"\n\
             group = { linger = \"5ms\", max_rows = 20 MORE }\n\
             [pipelines.NAME.dead_letter]\ntopic = \"LETTERS\"\n"
            .replace("MORE", more)
            .replace("TOPIC", &numbers.topic)
            .replace("GROUP", &numbers.group(name))
            .replace("BAD", &BAD.to_string())
            .replace("LETTERS", &letters(&bench, name))
            .replace("NAME", name);
    }
    let configs = [
        bench.file("grouped.toml", &text),
        bench.file(
            "local.toml",
            &(three::local(&bench, &bench.keyspace) + three::SHORT_SESSION),
        ),
    ];
    let configs = configs.each_ref().map(|path| path as &Path);
    numbers.fill(RECORDS / 2);

    let messina = Messina::start("messina, first life", &configs);
    until("a part of the records to be processed", LONG, &[&messina], || {
        (messina.ended_records() >= RECORDS as u64 / 5).then_some(())
    });
    messina.kill();
    // Gives the second life work to do, however far the first one came.
    numbers.load_from(RECORDS / 2, 1_000_000, RECORDS).wait();
    let messina = Messina::start("messina", &configs);
    for name in NAMES {
        until("every record to be committed", LONG, &[&messina], || {
            let committed = bench.kafka.progress(&numbers.group(name), &numbers.topic).0;
            (committed == RECORDS as u64).then_some(())
        });
        // The metrics of groups are updated once a second.
        let figure = |metric| messina.metric(&format!("{metric}{{pipeline=\"{name}\",step=\"row\"}}"));
        let (rows, batches) = until("batches to be counted", LONG, &[&messina], || {
            let (rows, batches) = (
                figure("messina_grouped_rows_total"),
                figure("messina_write_batches_total"),
            );
            (batches > 0.0).then_some((rows, batches))
        });
        println!("{name}: {rows} rows in {batches} batches, {:.1} each", rows / batches);
        assert!(rows > batches, "rows went together");
    }
    messina.stop();

    let value = numbers.record(BAD, &who(BAD));
    for name in NAMES {
        let query = format!("SELECT seq, who, ttl(place) FROM {}.{name}", bench.keyspace);
        let found: Vec<(i64, String, Option<i32>)> = database.rows(&bench, &query);
        let found: HashMap<i64, (String, Option<i32>)> =
            found.into_iter().map(|(seq, w, life)| (seq, (w, life))).collect();
        for seq in (0..RECORDS).filter(|seq| *seq != BAD) {
            let (by, life) = found
                .get(&seq)
                .unwrap_or_else(|| panic!("{name}: record {seq} has no row"));
            assert_eq!(*by, who(seq));
            assert!(
                life.is_some_and(|life| life > 800_000),
                "{name}: record {seq} lives for {life:?} s"
            );
        }
        assert_eq!(found.len() as i64, RECORDS - 1, "{name}: the bad one has no row");
        let letters = bench.kafka.read(&letters(&bench, name));
        assert!(!letters.is_empty(), "{name}: the bad one is a dead letter");
        assert!(letters.iter().all(|letter| letter.value.as_ref() == Some(&value)));
    }
    drop(messina);
    bench.clean();
}

#[test]
fn a_linger_is_no_time_of_the_database() {
    let Some(bench) = Bench::find("lingering_writes") else {
        return;
    };
    let pipeline = Pipeline {
        name: "lone",
        order: "key",
        cache: None,
        writes: true,
    };
    let numbers = Numbers::new(&bench, 1, &[pipeline]);
    let text = "[registry]\nregister = true\n[scylla]\ndatacenter = \"dc1\"\n\
         [pipelines.lone.source]\ntopics = [\"TOPIC\"]\ngroup = \"GROUP\"\n\
         [[pipelines.lone.steps]]\nname = \"row\"\n\
         write = \"INSERT INTO numbers (seq, who, place) VALUES (:seq, :who, :place)\"\nbind = { place = \"record.offset\" }\n\
         group = { linger = \"1s\" }\n"
        .replace("TOPIC", &numbers.topic)
        .replace("GROUP", &numbers.group("lone"));
    let configs = [
        bench.file("lone.toml", &text),
        bench.file("local.toml", &three::local(&bench, &bench.keyspace)),
    ];
    let messina = Messina::start("messina", &configs.each_ref().map(|path| path as &Path));
    // One after the other, so that each waits for a linger of its own.
    for rows in 1..=4 {
        numbers.fill(1);
        numbers.committed("lone", rows, &[&messina]);
    }
    let seconds = |what| messina.metric(&format!("messina_step_seconds_{what}"));
    assert_eq!(seconds("count"), 4.0);
    assert!(seconds("sum") < 3.5, "{} s", seconds("sum"));
    messina.stop();
    drop(messina);
    bench.clean();
}

fn letters(bench: &Bench, name: &str) -> String {
    bench.name(&format!("{name}-dead-letters"))
}
