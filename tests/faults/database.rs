//! Promise 5 when the database fails: it is frozen, killed, or loses a datacenter. A slow dependency slows Messina down and never breaks it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{between, more, pipelines, rate};
use crate::support::figures;
use crate::support::judge::judge;
use crate::support::numbers::Numbers;
use crate::support::process::Messina;
use crate::support::three::SHORT_SESSION;
use crate::support::watch::Watch;
use crate::support::{Bench, LONG, is_long, until};

/// How much memory may grow while everything waits, in MiB: far below `[limits] memory`, which is 256.
const GROWTH: f64 = 64.0;
/// By when the first record must be through after a freeze of one minute. Asserted only in the full form, because `./test` may run beside
/// other load.
const RESUME: Duration = Duration::from_secs(5);

/// Assignments, revocations and losses together: a consumer that stays in its group sees none.
fn rebalances(messina: &Messina) -> f64 {
    messina.metric("messina_rebalances_total")
}

#[test]
fn database_frozen_and_killed() {
    frozen_and_killed("database_frozen_and_killed", "");
}

/// The same when rows of all keys share batches.
#[test]
fn database_frozen_and_killed_amid_batches() {
    let steps = "[[pipelines.outage.steps]]\nname = \"person\"\n\
         lookup = \"SELECT number FROM people WHERE who = :who\"\ncache = { ttl = \"1m\" }\n\
         [[pipelines.outage.steps]]\nname = \"row\"\n\
         write = \"INSERT INTO numbers (seq, who, place) VALUES (:seq, :who, :place)\"\n\
         bind = { place = \"record.offset\" }\ngroup = { across_partitions = true }\n";
    frozen_and_killed("database_frozen_and_killed_amid_batches", steps);
}

/// `more_config` is an overlay on the configuration.
fn frozen_and_killed(name: &str, more_config: &str) {
    let Some(bench) = Bench::find_with(name, &["cassandra"], &[]) else {
        return;
    };
    let services = bench.own();
    let freezes: &[u64] = if is_long() { &[60, 600] } else { &[15] };
    let numbers = Numbers::new(&bench, 8, &pipelines("outage"));
    let [config, local] = numbers.config(Duration::from_secs(30), &pipelines("outage"));
    // The freeze is longer than the session, so a consumer that sent no heartbeats meanwhile would be removed from its group.
    let over = bench.file("over.toml", &(SHORT_SESSION.to_owned() + more_config));
    let messina = Messina::start("messina", &[&config, &local, &over]);
    messina.ready();
    let load = numbers.load(rate(), i64::MAX);
    more(&messina, between(), "before the freeze");
    let watch = Watch::over(&messina);
    let began = Instant::now();
    let group = numbers.group("outage");
    let members = bench.kafka.member_ids(&group);
    assert_eq!(members.len(), 1);
    let (joined, before) = (rebalances(&messina), watch.peak_after(Duration::from_secs(2)));

    let mut resumes = Vec::new();
    for &seconds in freezes {
        services.freeze(&["cassandra"]);
        std::thread::sleep(Duration::from_secs(seconds));
        let standing = messina.ended_records();
        services.thaw(&["cassandra"]);
        let first = more(&messina, 1, "after the thaw");
        let thawed = Instant::now();
        let waited = standing + rate().cast_unsigned() * seconds;
        until("the records that waited", LONG * 6, &[&messina], || {
            (messina.ended_records() >= waited).then_some(())
        });
        println!(
            "frozen for {seconds} s at {standing} records: first record {first:.1?} after the thaw, the backlog after {:.1?} more",
            thawed.elapsed()
        );
        resumes.push(first);
    }
    let resume = resumes[0];
    assert!(
        !is_long() || resume < RESUME,
        "{resume:.1?} until the first record after a thaw"
    );
    let frozen = watch.seen().peak(0.0, began.elapsed().as_secs_f64());
    println!("{before:.0} MiB before, {frozen:.0} MiB at most");
    assert!(
        frozen < before + GROWTH,
        "memory: {before:.0} MiB before, {frozen:.0} MiB while it was frozen"
    );

    services.kill(&["cassandra"]);
    std::thread::sleep(Duration::from_secs(2));
    services.start(&["cassandra"]);
    let back = more(&messina, 1, "after the restart");
    more(&messina, between(), "after the restart");
    println!("killed: first record {back:.1?} after it answered again");

    let sent = load.stop();
    numbers.committed("outage", sent, &[&messina]);
    watch.stop();
    assert_eq!(rebalances(&messina), joined, "the consumer left its group");
    assert_eq!(
        bench.kafka.member_ids(&group),
        members,
        "the consumer was put out of its group"
    );
    messina.stop();
    let judgement = judge(&bench, &numbers, "outage", sent);
    assert_eq!(judgement.duplicated, 0, "nothing was to run again");
    let mut figures = judgement.figures();
    figures["resume_s"] = json!(resume.as_secs_f64());
    figures["resume_after_restart_s"] = json!(back.as_secs_f64());
    figures["frozen_s"] = json!(freezes);
    figures["resumes_s"] = json!(resumes.iter().map(Duration::as_secs_f64).collect::<Vec<_>>());
    figures["memory_grew_mb"] = json!((frozen - before).max(0.0));
    figures::note(name, &figures);
    drop(messina);
    bench.clean();
}

#[test]
fn one_of_two_datacenters_gone() {
    let Some(bench) = Bench::find_with("one_of_two_datacenters_gone", &["cassandra-2dc"], &[]) else {
        return;
    };
    let services = bench.own();
    let numbers = Numbers::new(&bench, 8, &pipelines("outage"));
    let [config, local] = numbers.config(Duration::from_secs(30), &pipelines("outage"));
    let failover = bench.file("failover.toml", "[scylla]\nfailover = true\n");
    let messina = Messina::start("messina", &[&config, &local, &failover]);
    messina.ready();
    let load = numbers.load(rate(), i64::MAX);
    more(&messina, between(), "with both datacenters");
    let watch = Watch::over(&messina);
    let joined = rebalances(&messina);
    services.kill(&["cassandra-2dc-1"]);
    let moved = more(&messina, between(), "with the other datacenter");
    services.start(&["cassandra-2dc-1"]);
    more(&messina, between(), "with both again");
    let sent = load.stop();
    numbers.committed("outage", sent, &[&messina]);
    watch.stop();
    assert_eq!(rebalances(&messina), joined, "the consumer left its group");
    messina.stop();
    let judgement = judge(&bench, &numbers, "outage", sent);
    println!(
        "the preferred datacenter killed: {} records later after {moved:.1?}",
        between()
    );
    let mut figures = judgement.figures();
    figures["moved_s"] = json!(moved.as_secs_f64());
    figures::note("one_of_two_datacenters_gone", &figures);
    drop(messina);
    bench.clean();
}
