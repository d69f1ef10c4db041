//! What exactly once costs: CPU per record and rate, compared with at least once, in interleaved rounds over the same records.
//!
//! `benches/figures exactly_once` runs it with a release build. A round is one life of the process, from the first record to the last commit.
//! The lowest CPU and the highest rate of all rounds count, because other load on the machine can only make both worse.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::numbers::{Numbers, Pipeline};
use crate::support::process::Messina;
use crate::support::{Bench, LONG, until};

const ROUNDS: usize = 3;
/// Name of each variant, and the overlay on its pipeline.
const WAYS: [(&str, &str); 4] = [
    ("at_least_once", ""),
    (
        "exactly_once_100ms",
        "delivery = \"exactly_once\"\ntransaction_interval = \"100ms\"\n",
    ),
    ("exactly_once_500ms", "delivery = \"exactly_once\"\n"),
    (
        "exactly_once_2s",
        "delivery = \"exactly_once\"\ntransaction_interval = \"2s\"\n",
    ),
];

#[test]
#[ignore = "a measurement: benches/figures exactly_once"]
fn what_exactly_once_costs() {
    let Some(bench) = Bench::find_alone("what_exactly_once_costs") else {
        return;
    };
    let records: i64 = std::env::var("RECORDS").map_or(400_000, |n| n.parse().unwrap());
    let names: Vec<String> = WAYS
        .iter()
        .flat_map(|(way, _)| (0..ROUNDS).map(move |round| format!("{way}-{round}")))
        .collect();
    let pipelines: Vec<Pipeline<'_>> = names
        .iter()
        .map(|name| Pipeline {
            name,
            order: "key",
            cache: Some("{ ttl = \"1h\" }"),
            writes: false,
        })
        .collect();
    let numbers = Numbers::new(&bench, 8, &pipelines);
    numbers.fill(records);
    let mut best = WAYS.map(|_| (f64::MAX, 0.0_f64));
    for round in 0..ROUNDS {
        for (way, (cpu, rate)) in WAYS.iter().zip(&mut best) {
            let (micros, per_second) = run(&bench, &numbers, way, round, records);
            eprintln!(
                "{}, round {round}: {micros:.2} µs of CPU a record, {per_second:.0} records a second",
                way.0
            );
            (*cpu, *rate) = (cpu.min(micros), rate.max(per_second));
        }
    }
    let all = WAYS.iter().zip(best).map(|((way, _), (cpu, rate))| {
        (
            (*way).to_owned(),
            json!({"cpu_us_per_record": (cpu * 100.0).round() / 100.0, "records_per_s": rate.round()}),
        )
    });
    let mut line: serde_json::Map<_, _> = all.collect();
    line.insert("records".to_owned(), records.into());
    println!("{}", serde_json::Value::Object(line));
    bench.clean();
}

/// CPU in µs per record, and records per second, of one life.
fn run(bench: &Bench, numbers: &Numbers<'_>, (way, more): &(&str, &str), round: usize, records: i64) -> (f64, f64) {
    let name = format!("{way}-{round}");
    let pipeline = [Pipeline {
        name: &name,
        order: "key",
        cache: Some("{ ttl = \"1h\" }"),
        writes: false,
    }];
    let [base, local] = numbers.config(Duration::from_secs(20), &pipeline);
    // Fetches of librdkafka's own default size, because this measures the rate.
    let fetch = format!("[pipelines.{name}.source.properties]\n\"max.partition.fetch.bytes\" = 1048576\n");
    let text = format!("[pipelines.{name}]\nmax_in_flight = 4096\n{more}{fetch}");
    let over = bench.file("way.toml", &text);
    let messina = Messina::start(&name, &[&base as &Path, &local, &over]);
    until("the first records", LONG, &[&messina], || {
        (messina.ended_records() > 0).then_some(())
    });
    let cpu = || messina.metric("messina_process_cpu_seconds_total");
    let (began, cpu_before, ended) = (Instant::now(), cpu(), messina.ended_records());
    until("every record to end", LONG, &[&messina], || {
        (messina.ended_records() >= records as u64).then_some(())
    });
    let (seconds, counted) = (began.elapsed().as_secs_f64(), records as f64 - ended as f64);
    numbers.committed(&name, records, &[&messina]);
    let used = cpu() - cpu_before;
    messina.stop();
    (used * 1e6 / counted, counted / seconds)
}
