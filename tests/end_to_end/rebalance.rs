//! A second member joins the group and leaves it under load: nothing is lost, and with cooperative-sticky nothing is repeated.

use std::path::Path;
use std::time::Duration;

use crate::support::numbers::{Numbers, Pipeline, duplicates};
use crate::support::process::Messina;
use crate::support::{Bench, LONG, until};

const PARTITIONS: usize = 20;
const RATE: i64 = 5000;

#[test]
fn two_members_rebalance() {
    let Some(bench) = Bench::find("two_members_rebalance") else {
        return;
    };
    let pipelines = [Pipeline {
        name: "shared",
        order: "key",
        cache: None,
        writes: true,
    }];
    let numbers = Numbers::new(&bench, PARTITIONS as i32, &pipelines);
    let configs = numbers.config(Duration::from_secs(30), &pipelines);
    let configs = configs.each_ref().map(|path| path as &Path);
    let load = numbers.load(RATE, i64::MAX);
    let first = Messina::start("first member", &configs);
    until(
        "the first member to hold all partitions and work",
        LONG,
        &[&first],
        || (first.partitions() == PARTITIONS && first.ended_records() > 2000).then_some(()),
    );
    for round in 1..=2 {
        let second = Messina::start(&format!("second member, round {round}"), &configs);
        let both = [&first, &second];
        until("the partitions to be shared", LONG, &both, || {
            (first.partitions() == PARTITIONS / 2 && second.partitions() == PARTITIONS / 2).then_some(())
        });
        let (of_first, of_second) = (first.ended_records(), second.ended_records());
        until("both members to work", LONG, &both, || {
            (first.ended_records() > of_first + 2000 && second.ended_records() > of_second + 2000).then_some(())
        });
        second.stop();
        until("the first member to have all partitions back", LONG, &[&first], || {
            (first.partitions() == PARTITIONS).then_some(())
        });
        let before = first.ended_records();
        until("the first member to go on", LONG, &[&first], || {
            (first.ended_records() > before + 2000).then_some(())
        });
    }
    let sent = load.stop();
    until("every record to be committed", LONG, &[&first], || {
        (bench.kafka.progress(&numbers.group("shared"), &numbers.topic).0 == sent as u64).then_some(())
    });
    first.stop();
    let repeated = duplicates(&numbers.outputs("shared"), sent);
    println!("{sent} records, two joins and two leaves: {repeated} duplicates");
    assert_eq!(repeated, 0, "duplicates\n{}", first.lines("partitions").join("\n"));
    let rows: Vec<(i64,)> = bench
        .database()
        .rows(&bench, &format!("SELECT seq FROM {}.numbers", bench.keyspace));
    assert_eq!(rows.len() as i64, sent, "rows");
    drop(first);
    bench.clean();
}
