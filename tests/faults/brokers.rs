//! Promises 1 and 5 when brokers fail: one of three is killed, all three are killed, a log loses its end together with its last replica, and a
//! dead-letter topic accepts nothing because a replica is down or its disk is full.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{between, more, pipelines, rate};
use crate::support::figures;
use crate::support::judge::{judge, judge_good};
use crate::support::kafka::Record;
use crate::support::numbers::{MAX_IN_FLIGHT, Numbers, duplicates};
use crate::support::process::Messina;
use crate::support::watch::Watch;
use crate::support::{Bench, LONG, until};

const BROKERS: [&str; 3] = ["kafka-cluster-1", "kafka-cluster-2", "kafka-cluster-3"];
/// Size of the disk that the test fills, in MiB.
const DISK: u32 = 192;
/// Bad records: more than may be in flight, so that intake must stop while they cannot be delivered.
const BAD: i64 = 3 * MAX_IN_FLIGHT as i64;

#[test]
fn brokers_killed() {
    let Some(bench) = Bench::find_with("brokers_killed", &["kafka-cluster"], &[]) else {
        return;
    };
    let services = bench.own();
    let numbers = Numbers::new(&bench, 8, &pipelines("outage"));
    let configs = numbers.config(Duration::from_secs(30), &pipelines("outage"));
    let messina = Messina::start("messina", &configs.each_ref().map(|path| path as &Path));
    messina.ready();
    let load = numbers.load(rate(), i64::MAX);
    more(&messina, between(), "before the first kill");
    let watch = Watch::over(&messina);

    services.kill(&BROKERS[..1]);
    let moved = more(&messina, between(), "with two of three brokers");
    services.start(&BROKERS[..1]);
    more(&messina, between(), "with three again");

    services.kill(&BROKERS);
    std::thread::sleep(Duration::from_secs(3));
    services.start(&["kafka-cluster"]);
    let back = more(&messina, 1, "after all three were killed");
    more(&messina, between(), "after that");
    println!(
        "one of three killed: {} records later after {moved:.1?}; all killed: first record {back:.1?} after they answered",
        between()
    );

    let sent = load.stop();
    numbers.committed("outage", sent, &[&messina]);
    watch.stop();
    messina.stop();
    let judgement = judge(&bench, &numbers, "outage", sent);
    let mut figures = judgement.figures();
    figures["one_killed_s"] = json!(moved.as_secs_f64());
    figures["resume_after_all_killed_s"] = json!(back.as_secs_f64());
    figures::note("brokers_killed", &figures);
    drop(messina);
    bench.clean();
}

/// While no consumer runs, the first of two replicas is lost, and with it the end of the log, which the second never had. New records then make the log
/// longer than before.
#[test]
fn a_log_lost_its_end() {
    const KEPT: i64 = 100;
    const READ: i64 = 150;
    const ALL: i64 = 350;
    let Some(bench) = Bench::find_with("a_log_lost_its_end", &["kafka-cluster"], &[]) else {
        return;
    };
    let services = bench.own();
    let mut numbers = Numbers::new(&bench, 8, &pipelines("outage"));
    let unclean = [("min.insync.replicas", "1"), ("unclean.leader.election.enable", "true")];
    numbers.kept_by(&[1, 2], &unclean);
    let configs = numbers.config(Duration::from_secs(30), &pipelines("outage"));
    let start = || Messina::start("messina", &configs.each_ref().map(|path| path as &Path));
    let group = numbers.group("outage");
    let committed = |messina: &Messina, offset: i64| {
        until("every record to be committed", LONG, &[messina], || {
            (bench.kafka.committed(&group, &numbers.topic) == [offset]).then_some(())
        });
    };

    let messina = start();
    messina.ready();
    assert_eq!(numbers.load(1_000, KEPT).wait(), KEPT);
    committed(&messina, KEPT);
    services.kill(&BROKERS[1..2]);
    assert_eq!(numbers.load_from(KEPT, 1_000, READ).wait(), READ);
    committed(&messina, READ);
    messina.stop();
    drop(messina);

    services.kill(&BROKERS[..1]);
    services.start(&BROKERS[1..2]);
    assert_eq!(numbers.load_from(READ, 1_000, ALL).wait(), ALL);
    let end = KEPT + ALL - READ;
    assert_eq!(bench.kafka.ends(&numbers.topic), [(0, end)], "the end was not lost");
    let messina = start();
    committed(&messina, end);
    messina.stop();
    println!("{} outputs came twice", duplicates(&numbers.outputs("outage"), ALL));
    drop(messina);
    services.start(&BROKERS[..1]);
    bench.clean();
}

/// Why the last of three brokers accepts no dead letters. Their topic requires all three in sync.
#[derive(Clone, Copy)]
enum Fault {
    Killed,
    /// Its disk is full, which ends the broker: Kafka takes a log directory offline if it cannot write to it, and a broker without any other directory
    /// shuts down.
    DiskFull,
}

impl Fault {
    fn begin(self, bench: &Bench) {
        match self {
            Self::Killed => bench.own().kill(&BROKERS[2..]),
            Self::DiskFull => {
                bench.disk().fill();
                let filled = Instant::now();
                until("the broker to give up its full disk", LONG, &[], || {
                    (!bench.own().is_up(BROKERS[2])).then_some(())
                });
                println!("the broker ended {:.1?} after its disk was full", filled.elapsed());
            }
        }
    }

    fn end(self, bench: &Bench) {
        match self {
            Self::Killed => {}
            Self::DiskFull => bench.disk().free(),
        }
        bench.own().start(&BROKERS[2..]);
    }
}

#[test]
fn dead_letters_unwritable() {
    let test = "dead_letters_unwritable";
    if let Some(bench) = Bench::find_with(test, &["kafka-cluster"], &[]) {
        unwritable(test, bench, Fault::Killed);
    }
}

/// The name sorts last of the four tests, on purpose: this test starts the brokers from nothing and leaves nothing of them, so a later test would have
/// to start them from nothing again.
#[test]
fn dead_letters_with_a_full_disk() {
    let test = "dead_letters_with_a_full_disk";
    // Kafka maps its indexes into memory. If there is no room for a page of an index, Kafka does not see a disk error: the broker lives on and answers
    // producers with an unknown error, at which librdkafka gives the records up. Without index entries it is a log that finds no room, and that ends the
    // broker.
    let properties = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-index.properties");
    std::fs::write(&properties, "log.index.interval.bytes=1073741824\n").unwrap();
    let settings = [("KAFKA_EXTRA_PROPERTIES", properties.to_str().unwrap())];
    let disk = ("kafka-cluster", BROKERS[2], DISK);
    if let Some(bench) = Bench::find_with_disk(test, disk, &settings) {
        unwritable(test, bench, Fault::DiskFull);
    }
}

/// Partition and offset of the record that a dead letter is about.
fn place_of(letter: &Record) -> (i64, i64) {
    let number = |name: &str| letter.header(name).unwrap().parse::<i64>().unwrap();
    (number("messina.partition"), number("messina.offset"))
}

/// Prints which bad records have no dead letter although their neighbours have one, and whether it is there a little later: a broker that lags behind is
/// not a loss.
fn tell_missing(bench: &Bench, numbers: &Numbers, letters: &str, places: &[(i64, i64)]) {
    let missing = |places: &[(i64, i64)]| -> Vec<(i64, i64)> {
        let bad = numbers.bad().into_iter();
        bad.map(|(partition, offset)| (partition.into(), offset))
            .filter(|place| places.binary_search(place).is_err())
            .collect()
    };
    println!("without a dead letter: {:?}", missing(places));
    std::thread::sleep(Duration::from_secs(10));
    let (mut later, mut lines) = (Vec::new(), Vec::new());
    for letter in bench.kafka.read(letters) {
        let place = place_of(&letter);
        lines.push((letter.partition, letter.offset, place));
        later.push(place);
    }
    later.sort_unstable();
    println!("ten seconds later: {:?}", missing(&later));
    println!("the letters (partition, offset, of which record): {lines:?}");
    println!("their topic's ends: {:?}", bench.kafka.ends(letters));
}

fn unwritable(test: &str, bench: Bench, fault: Fault) {
    let numbers = Numbers::new(&bench, 8, &pipelines("outage"));
    let letters = bench.name("outage-dead-letters");
    bench.kafka.configure(&bench, &letters, "min.insync.replicas", "3");
    let configs = numbers.config(Duration::from_secs(30), &pipelines("outage"));
    let messina = Messina::start("messina", &configs.each_ref().map(|path| path as &Path));
    messina.ready();
    let load = numbers.load(rate(), i64::MAX);
    more(&messina, between(), "before the kill");
    let watch = Watch::over(&messina);
    fault.begin(&bench);
    more(&messina, between(), "without the bad ones");
    numbers.send_bad(BAD);
    // Full means standing still, not merely at the limit: some of the records in flight are good and still end, and intake resumes only at 80 %.
    let standing = until("the dead letters to stop intake", LONG, &[&messina], || {
        let before = messina.ended_records();
        std::thread::sleep(Duration::from_secs(3));
        (messina.is_full() && messina.ended_records() == before).then_some(before)
    });
    println!(
        "intake stopped at {standing} records, {} in flight",
        messina.in_flight()
    );
    let open: HashMap<i32, i64> = numbers.first_bad();
    let group = numbers.group("outage");
    let committed = bench.kafka.committed(&group, &numbers.topic);
    for (partition, first) in &open {
        let committed = committed[usize::try_from(*partition).unwrap()];
        assert!(
            committed <= *first,
            "{partition}: {committed} is committed, and {first} is bad and not delivered"
        );
    }
    assert!(!open.is_empty());
    let began = Instant::now();
    fault.end(&bench);
    let back = more(&messina, 1, "after the topic takes records again");
    println!(
        "first record {back:.1?} after the broker answered, {:.1?} after its start",
        began.elapsed()
    );
    let sent = load.stop();
    numbers.committed("outage", sent + BAD, &[&messina]);
    watch.stop();
    messina.stop();
    let mut places: Vec<_> = bench
        .kafka
        .read(&letters)
        .iter()
        .map(|letter| {
            assert_eq!(letter.header("messina.reason"), Some("framing"), "{}", letter.about());
            place_of(letter)
        })
        .collect();
    let all = places.len() as i64;
    places.sort_unstable();
    places.dedup();
    if (places.len() as i64) < BAD {
        tell_missing(&bench, &numbers, &letters, &places);
    }
    assert_eq!(places.len() as i64, BAD, "bad records that have a dead letter");
    assert_eq!(all, BAD, "dead letters");
    let judgement = judge_good(&bench, &numbers, "outage", sent);
    let mut figures = judgement.figures();
    figures["resume_s"] = json!(back.as_secs_f64());
    figures::note(test, &figures);
    drop(messina);
    bench.clean();
}
