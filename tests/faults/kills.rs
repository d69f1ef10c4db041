//! Promises 1 to 3: two members are killed at random moments, again and again, and nothing is lost, early or out of order.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use crate::support::database::Database;
use crate::support::figures;
use crate::support::finished::Finished;
use crate::support::process::Messina;
use crate::support::random::Random;
use crate::support::three::{PIPELINES, Three};
use crate::support::{Bench, LONG, is_long, until};

/// Which table and column hold the ids of each pipeline's rows.
const ROWS: [(&str, &str); 3] = [
    ("events_by_user", "event_id"),
    ("orders_by_user", "order_id"),
    ("reactions_by_campaign", "reaction_id"),
];
/// The long form checks rows after every so many kills, the short form after each kill.
const ROWS_EACH: usize = 10;
/// Upper limit of a life: a member may die while it joins, while the other takes over, or at work.
const LONGEST_LIFE_MS: u64 = 8000;

struct Form {
    records: u64,
    kills: usize,
    /// Records per second, chosen so that the stream outlasts the kills.
    rate: u64,
    pool: u32,
}

fn form() -> Form {
    let (records, kills, pool) = if is_long() {
        (2_000_000, 50, 20_000)
    } else {
        (60_000, 6, 5000)
    };
    // On average, a kill takes half the longest life. Checking what is left takes half as long again in the short form, and four times
    // as long in the long form, which has more records.
    let halves = if is_long() { 10 } else { 3 };
    let seconds = kills as u64 * LONGEST_LIFE_MS * halves / 4 / 1000;
    Form {
        records,
        kills,
        rate: records / seconds.max(1),
        pool,
    }
}

#[test]
fn two_members_killed_at_random() {
    let Some(bench) = Bench::find_alone("two_members_killed_at_random") else {
        return;
    };
    let form = form();
    let mut random = Random::seeded("two_members_killed_at_random");
    let three = Three::new(&bench, form.records, 0, form.pool).with_short_session();
    three.load(&bench.keyspace);
    three.produce(&["--only-topics"]);
    let database = bench.database();
    let mut finished = Finished::new(&bench);
    let rate = format!("--rate={}", form.rate);
    let (mut unfinished, mut at_work) = (0, 0);
    let mut lives = 0;
    let mut life = |name: &str| {
        lives += 1;
        Messina::start(&format!("{name}, life {lives}"), &three.configs())
    };
    std::thread::scope(|scope| {
        let load = scope.spawn(|| three.produce(&[&rate]));
        let mut members = [life("first"), life("second")];
        until("the members to begin", LONG, &members.each_ref(), || {
            (three.progress().0 > 0).then_some(())
        });
        for kill in 1..=form.kills {
            std::thread::sleep(Duration::from_millis(random.below(LONGEST_LIFE_MS)));
            let victim = random.below(2) as usize;
            at_work += usize::from(!load.is_finished());
            members[victim].kill();
            let committed = finished.committed();
            let rows = (!is_long() || kill.is_multiple_of(ROWS_EACH)).then(|| rows(&bench, &database));
            let open = finished.open(&committed, rows.as_deref());
            println!(
                "kill {kill} of {}: {}; {} records committed, {open} of them unfinished",
                form.kills,
                members[victim].name,
                committed.iter().flatten().sum::<i64>()
            );
            unfinished += open;
            members[victim] = life(["first", "second"][victim]);
        }
        load.join().unwrap();
        three.wait_for_end(&members[0]);
        for member in &members {
            // A process that gets SIGTERM before it handles it would just die.
            member.ready();
            member.stop();
        }
    });
    assert_eq!(unfinished, 0, "committed offsets that were not finished");
    // Checks every id and every row, and every field and column of this many records of each pipeline.
    let found = three.verify(&["--sample=5000"]);
    assert_eq!(found["found"], form.records);
    assert_eq!(found["rows_found"], form.records);
    let sum = |name: &str| {
        PIPELINES
            .iter()
            .map(|p| found["pipelines"][p][name].as_u64().unwrap())
            .sum::<u64>()
    };
    // Reactions have no order.
    let out_of_order: u64 = ["navigation", "orders"]
        .iter()
        .map(|p| found["pipelines"][p]["out_of_order"].as_u64().unwrap())
        .sum();
    figures::note(
        "kills",
        &json!({
            "kills": form.kills, "kills_at_work": at_work, "records": form.records, "lost": sum("missing"), "out_of_order": out_of_order, "unfinished_commits": unfinished,
            "dead_lettered_wrongly": sum("dead_unexpected"), "duplicated_percent": sum("duplicated") as f64 * 100.0 / form.records as f64,
        }),
    );
    bench.clean();
}

/// Numbers of the records that have a row, by pipeline.
fn rows(bench: &Bench, database: &Database) -> Vec<HashSet<u64>> {
    ROWS.iter()
        .map(|(table, id)| {
            let cql = format!("SELECT CAST({id} AS text) FROM {}.{table}", bench.keyspace);
            let ids = database.rows::<(String,)>(bench, &cql);
            ids.iter()
                .map(|(id,)| u64::from_str_radix(&id[24..], 16).unwrap())
                .collect()
        })
        .collect()
}
