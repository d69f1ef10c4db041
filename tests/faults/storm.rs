//! Promises 1, 3 and 7 under rebalances: members join and leave all the time, nothing is lost, and hardly anything is repeated; with
//! transactions, nothing at all.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::pipelines;
use crate::support::figures;
use crate::support::judge::judge;
use crate::support::numbers::Numbers;
use crate::support::process::Messina;
use crate::support::random::Random;
use crate::support::{Bench, LONG, is_long, until};

const PARTITIONS: i32 = 32;
const RATE: i64 = 1500;
/// The longest pause between two changes: some come while the group still moves partitions, others when it is at rest.
const LONGEST_PAUSE_MS: u64 = 5000;
/// How many of 1,000 records may come out twice: the promise, which the full form asserts.
const DUPLICATED_OF_1000: usize = 5;
/// The same in the short form, where a single unlucky rebalance repeats a few seconds' worth of records.
const DUPLICATED_OF_1000_SHORT: usize = 10;

#[test]
fn members_join_and_leave() {
    let of_1000 = if is_long() {
        DUPLICATED_OF_1000
    } else {
        DUPLICATED_OF_1000_SHORT
    };
    storm("members_join_and_leave", "storm", "at_least_once", 10, of_1000);
}

#[test]
fn members_join_and_leave_with_transactions() {
    let test = "members_join_and_leave_with_transactions";
    storm(test, "storm_exactly_once", "exactly_once", 6, 0);
}

/// `changes` is the number of the short form.
fn storm(test: &str, figure: &str, delivery: &str, changes: usize, of_1000: usize) {
    let Some(bench) = Bench::find_alone(test) else {
        return;
    };
    let (most, changes) = if is_long() { (8, 100) } else { (4, changes) };
    let mut random = Random::seeded(test);
    let numbers = Numbers::new(&bench, PARTITIONS, &pipelines("storm"));
    let [config, local] = numbers.config(Duration::from_secs(30), &pipelines("storm"));
    let delivered = bench.file(
        "delivery.toml",
        &format!("[pipelines.storm]\ndelivery = \"{delivery}\"\n"),
    );
    let configs: [&Path; 3] = [&config, &local, &delivered];
    let mut started = 0;
    let mut join = || {
        started += 1;
        Messina::start(&format!("member {started}"), &configs)
    };
    let mut members = vec![join()];
    let mut leaving: Vec<Messina> = Vec::new();
    until("the first member to hold all partitions", LONG, &[&members[0]], || {
        (members[0].partitions() == PARTITIONS as usize).then_some(())
    });
    let load = numbers.load(RATE, i64::MAX);
    let (mut joins, mut leaves) = (0, 0);
    for _ in 0..changes {
        std::thread::sleep(Duration::from_millis(random.below(LONGEST_PAUSE_MS)));
        let leave = members.len() == most || members.len() > 1 && random.below(2) == 0;
        if leave {
            let member = members.swap_remove(random.below(members.len() as u64) as usize);
            // A process that gets SIGTERM before it handles it would just die.
            member.ready();
            member.signal();
            leaving.push(member);
            leaves += 1;
        } else {
            members.push(join());
            joins += 1;
        }
    }
    let sent = load.stop();
    for member in &leaving {
        let (code, _) = member.wait_for_end(LONG, || {});
        assert_eq!(code, Some(0), "{} left with {code:?}\n{}", member.name, member.tail());
    }
    let all: Vec<&Messina> = members.iter().collect();
    numbers.committed("storm", sent, &all);
    for member in &members {
        member.stop();
    }
    let judgement = judge(&bench, &numbers, "storm", sent);
    println!(
        "{delivery}: {sent} records, {joins} joins and {leaves} leaves, up to {most} members: {} duplicates",
        judgement.duplicated
    );
    let allowed = sent as usize * of_1000 / 1000;
    assert!(
        judgement.duplicated <= allowed,
        "{} duplicates of {sent} records",
        judgement.duplicated
    );
    let mut figures = judgement.figures();
    figures["joins"] = json!(joins);
    figures["leaves"] = json!(leaves);
    figures::note(figure, &figures);
    drop((members, leaving));
    bench.clean();
}
