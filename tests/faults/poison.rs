//! Promise 5 with bad data: one value in a hundred is damaged at random, and every record still ends where it must.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use crate::support::figures;
use crate::support::process::Messina;
use crate::support::three::{PIPELINES, Three};
use crate::support::watch::cpu_seconds;
use crate::support::{Bench, is_long};

/// How much more CPU a record may cost if one in a hundred is damaged. Asserted only in the full form, because the short one is over
/// before the process is warm.
const DEARER: f64 = 1.05;

#[test]
fn damaged_values() {
    let Some(bench) = Bench::find_alone("damaged_values") else {
        return;
    };
    let (records, rounds) = if is_long() { (1_000_000, 2) } else { (20_000, 1) };
    let three = Three::new(&bench, records, 0, 5000);
    three.load(&bench.keyspace);
    three.produce(&["--only-topics"]);
    // The two take turns, and the lowest CPU of each counts, because any disturbance only adds to it.
    let (mut clean, mut damaged) = (f64::MAX, f64::MAX);
    for round in 0..rounds {
        three.produce(&[]);
        clean = clean.min(run(&three, records));
        three.produce(&["--damage=0.01", &format!("--label={round}")]);
        damaged = damaged.min(run(&three, records));
    }
    let (mut lost, mut letters, mut wounded) = (0, 0, 0);
    for pipeline in PIPELINES {
        let found = account(&bench, pipeline);
        lost += found.lost;
        letters += found.letters;
        wounded += found.damaged;
    }
    println!(
        "{letters} dead letters of {wounded} damaged records; CPU a record {:.1} µs clean, {:.1} µs with damage",
        clean * 1e6,
        damaged * 1e6
    );
    assert!(letters > 0 && wounded >= letters, "{letters} dead letters of {wounded}");
    assert!(
        !is_long() || damaged < clean * DEARER,
        "a record costs {:.1} % more CPU with damage",
        (damaged / clean - 1.0) * 100.0
    );
    figures::note(
        "damaged_values",
        &json!({
            "records": records * rounds, "lost": lost, "dead_letters": letters, "dead_lettered_wrongly": 0,
            "cpu_us_clean": clean * 1e6, "cpu_us_damaged": damaged * 1e6, "cpu_ratio": damaged / clean,
        }),
    );
    bench.clean();
}

/// CPU seconds per record of a process that works through what is in the topic.
fn run(three: &Three<'_>, records: u64) -> f64 {
    let messina = Messina::start("messina", &three.configs());
    three.wait_for_end(&messina);
    let used = cpu_seconds(messina.id());
    messina.stop();
    std::thread::sleep(Duration::from_millis(100));
    used / records as f64
}

/// What became of a pipeline's records.
struct Account {
    lost: usize,
    letters: usize,
    /// Damaged input records.
    damaged: usize,
}

/// Checks that each numbered record is in the output or among the dead letters exactly once, and that only damaged ones are dead
/// letters.
fn account(bench: &Bench, pipeline: &str) -> Account {
    let numbered = |topic: &str| {
        let records = bench.kafka.read(&bench.name(topic));
        records
            .into_iter()
            .filter_map(|r| Some((r.header("number")?.to_owned(), r)))
            .collect::<Vec<_>>()
    };
    let inputs = numbered(pipeline);
    let damaged = inputs
        .iter()
        .filter(|(_, record)| record.header("damaged") == Some("true"))
        .count();
    let sent: HashSet<String> = inputs.into_iter().map(|(number, _)| number).collect();
    let mut ended = HashSet::new();
    for (number, record) in numbered(&format!("{pipeline}-enriched")) {
        assert!(ended.insert(number), "twice in the output: {}", record.about());
    }
    let mut letters = 0;
    for (number, record) in numbered(&format!("{pipeline}-dead-letters")) {
        letters += 1;
        assert_eq!(
            record.header("damaged"),
            Some("true"),
            "a good record: {}",
            record.about()
        );
        assert_eq!(record.header("messina.class"), Some("permanent"), "{}", record.about());
        assert!(
            ended.insert(number),
            "in the output, or twice a dead letter: {}",
            record.about()
        );
    }
    let lost = sent.difference(&ended).count();
    assert_eq!(
        (lost, ended.len()),
        (0, sent.len()),
        "{pipeline}: records that ended nowhere, records that ended"
    );
    let every: i64 = bench
        .kafka
        .ends(&bench.name(&format!("{pipeline}-dead-letters")))
        .iter()
        .map(|(_, end)| end)
        .sum();
    assert_eq!(every, letters as i64, "dead letters of records without damage");
    Account { lost, letters, damaged }
}
