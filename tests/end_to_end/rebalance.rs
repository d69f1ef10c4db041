//! A second member joins the group and leaves it under load: nothing is lost, and with cooperative-sticky nothing is repeated. The same
//! holds if a member leaves while the group waits for another one to join.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

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
    numbers.committed("shared", sent, &[&first]);
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

/// It has joined and got no partition. If it did not announce that it leaves, the others would wait until its session expires.
#[test]
fn a_member_without_partitions_leaves_its_group() {
    let Some(bench) = Bench::find("a_member_without_partitions_leaves_its_group") else {
        return;
    };
    let pipelines = [Pipeline {
        name: "spare",
        order: "key",
        cache: None,
        writes: false,
    }];
    let numbers = Numbers::new(&bench, 1, &pipelines);
    let configs = numbers.config(Duration::from_secs(30), &pipelines);
    let configs = configs.each_ref().map(|path| path as &Path);
    let group = numbers.group("spare");
    let first = Messina::start("first member", &configs);
    until("the partition", LONG, &[&first], || {
        (first.partitions() == 1).then_some(())
    });
    let second = Messina::start("second member", &configs);
    until("the second member to have joined", LONG, &[&first, &second], || {
        (!second.lines("partitions assigned").is_empty() && bench.kafka.members(&group) == 2).then_some(())
    });
    let spare = [&first, &second]
        .into_iter()
        .find(|member| member.partitions() == 0)
        .unwrap();
    spare.stop();
    let left = bench.kafka.members(&group);
    assert_eq!(left, 1, "members of the group after one has stopped");
    drop((first, second));
    bench.clean();
}

/// While a join waits for the slowest member, the broker handles no commits of the others; after it, their generation is outdated.
#[test]
fn a_member_leaves_while_others_join() {
    let Some(bench) = Bench::find("a_member_leaves_while_others_join") else {
        return;
    };
    let pipelines = [Pipeline {
        name: "left",
        order: "key",
        cache: None,
        writes: false,
    }];
    let numbers = Numbers::new(&bench, 4, &pipelines);
    let configs = numbers.config(Duration::from_secs(30), &pipelines);
    let messina = Messina::start("messina", &configs.each_ref().map(|path| path as &Path));
    until("all partitions", LONG, &[&messina], || {
        (messina.partitions() == 4).then_some(())
    });
    let load = numbers.load(1000, i64::MAX);
    until("records", LONG, &[&messina], || {
        (messina.ended_records() > 1000).then_some(())
    });
    let group = numbers.group("left");
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &bench.kafka.brokers)
        .set("group.id", &group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false");
    let slow: BaseConsumer = config.create().unwrap();
    slow.subscribe(&[&numbers.topic]).unwrap();
    // The slow consumer joins. Nobody polls it, so it does not see its empty assignment and does not rejoin for the partitions given to
    // it.
    until("two partitions to be given to it", LONG, &[&messina], || {
        (messina.partitions() == 2).then_some(())
    });
    // Stops it before its next regular commit. A commit that waits already is followed by another one, whatever becomes of it.
    messina.signal();
    until("the drain", LONG, &[], || {
        (!messina.lines("draining").is_empty()).then_some(())
    });
    // Leaves time for the last commit to be sent.
    std::thread::sleep(Duration::from_secs(1));
    let (code, took) = messina.wait_for_end(LONG, || {
        let _ = slow.poll(Duration::from_millis(10));
    });
    assert_eq!(code, Some(0), "{}", messina.tail());
    load.stop();
    let published: HashSet<_> = numbers.outputs("left").into_iter().map(|o| o.place).collect();
    let committed = bench.kafka.committed(&group, &numbers.topic);
    let again = published
        .iter()
        .filter(|(partition, offset)| *offset >= committed[usize::try_from(*partition).unwrap()])
        .count();
    println!("{} records published, left after {took:.1?}", published.len());
    assert_eq!(again, 0, "published and not committed\n{}", messina.tail());
    drop((messina, slow));
    bench.clean();
}
