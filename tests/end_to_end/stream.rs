//! Promises 1 and 2: the rich stream of three pipelines arrives exactly, even if the process is killed meanwhile.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use crate::support::database::Database;
use crate::support::process::Messina;
use crate::support::three::{PIPELINES, Three};
use crate::support::{Bench, LONG, is_long, until};

/// Number of records in the short form and in the long form.
fn records() -> u64 {
    if is_long() { 1_000_000 } else { 30_000 }
}

/// Number of distinct records; the others differ from them only in their ids.
fn pool() -> u32 {
    if is_long() { 20_000 } else { 5000 }
}

#[test]
fn three_pipelines_exact_output() {
    let Some(bench) = Bench::find("three_pipelines_exact_output") else {
        return;
    };
    let three = Three::new(&bench, records(), 0, pool());
    three.load(&bench.keyspace);
    three.produce(&[]);
    let messina = Messina::start("messina", &three.configs());
    messina.ready();
    let began = Instant::now();
    three.wait_for_end(&messina);
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} records in {seconds:.1} s, {:.0} a second",
        records(),
        records() as f64 / seconds
    );
    messina.stop();
    // Compares every field of every record and every column of every row, not a sample.
    let found = three.verify(&["--sample=0", "--no-duplicates"]);
    assert_eq!(found["found"], records());
    assert_eq!(found["rows_found"], records());
    drop(messina);
    bench.clean();
}

#[test]
fn kill_9_and_restart() {
    let Some(bench) = Bench::find("kill_9_and_restart") else {
        return;
    };
    let three = Three::new(&bench, records(), 0, pool()).with_short_session();
    three.load(&bench.keyspace);
    three.produce(&[]);
    let database = bench.database();
    let mut early = HashMap::new();
    for (number, part) in (1..).zip([0.15, 0.4, 0.65, 0.85]) {
        let (committed, all) = three.progress();
        let messina = Messina::start(&format!("messina, life {number}"), &three.configs());
        until(
            &format!("{:.0} % to be processed", part * 100.0),
            LONG,
            &[&messina],
            || {
                let ended = committed + messina.ended_records();
                (ended as f64 >= part * all as f64).then_some(())
            },
        );
        messina.kill();
        println!("killed after {} of {all} records were committed", three.progress().0);
        if early.is_empty() {
            early = write_times(&bench, &database, &bench.keyspace);
        }
    }
    let messina = Messina::start("messina, last life", &three.configs());
    three.wait_for_end(&messina);
    messina.stop();

    let found = three.verify(&["--sample=0"]);
    for pipeline in PIPELINES {
        println!(
            "{pipeline}: {} duplicates in the output topic",
            found["pipelines"][pipeline]["duplicated"]
        );
    }
    let late = write_times(&bench, &database, &bench.keyspace);
    // Compares only the rows of orders: each is written once, and again by a replay. A user's last order changes as orders
    // arrive.
    early.retain(|row, _| row.starts_with("order"));
    assert!(!early.is_empty(), "no row was written before the first kill");
    let changed = early.iter().filter(|(row, time)| late.get(*row) != Some(time)).count();
    assert_eq!(
        changed,
        0,
        "of {} rows so many have another write time than before the kills",
        early.len()
    );
    uninterrupted(&bench, &three, &database, &late);
    bench.clean();
}

/// Write times come from the records alone, so a run without kills, into tables of its own, gives every row the same write
/// time.
fn uninterrupted(bench: &Bench, three: &Three<'_>, database: &Database, killed: &HashMap<String, i64>) {
    let keyspace = format!("{}_replay", bench.keyspace);
    three.load(&keyspace);
    let configs = three.replay_of("orders", &keyspace);
    let messina = Messina::start("messina, replay", &configs.each_ref().map(|path| path as &Path));
    until(
        "the replay of the orders to be committed",
        LONG * 2,
        &[&messina],
        || {
            let (done, there) = bench.kafka.progress(&bench.name("replay"), &bench.name("orders"));
            (done == there).then_some(())
        },
    );
    messina.stop();
    let replayed = write_times(bench, database, &keyspace);
    let differing = killed
        .iter()
        .filter(|(key, time)| replayed.get(*key) != Some(time))
        .count();
    println!(
        "{} of {} write times differ between the killed run and a run in one piece",
        differing,
        killed.len()
    );
    assert_eq!((differing, replayed.len()), (0, killed.len()));
}

/// The write times of the orders, and of each user's last order, in microseconds.
fn write_times(bench: &Bench, database: &Database, keyspace: &str) -> HashMap<String, i64> {
    let select = |key: &str, table: &str| format!("SELECT {key}, writetime(status) FROM {keyspace}.{table}");
    let orders = database.map::<String, i64>(bench, &select("CAST(order_id AS text)", "orders_by_user"));
    let last = database.map::<String, i64>(bench, &select("user_id", "last_order_by_user"));
    let named = |table: &'static str| move |(key, time): (String, i64)| (format!("{table} {key}"), time);
    orders
        .into_iter()
        .map(named("order"))
        .chain(last.into_iter().map(named("user")))
        .collect()
}
