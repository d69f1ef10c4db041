//! Promise 7: a consumer of committed records sees each record once, whatever happens to the processes that wrote it.
//!
//! Covers kills, rebalances, a member that is frozen for longer than its session or its transaction time-out and then goes on, a drain that runs out of time,
//! and an output that the brokers refuse. Each test also counts the aborted outputs: if there are none, it has shown nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::BaseRecord;

use crate::support::numbers::{Numbers, Pipeline, duplicates};
use crate::support::process::Messina;
use crate::support::proxy::{Proxy, Weather};
use crate::support::three::SHORT_SESSION;
use crate::support::{Bench, LONG, is_long, until};

const NAME: &str = "once";
const RATE: i64 = 3000;
const PIPELINES: [Pipeline<'static>; 1] = [Pipeline {
    name: NAME,
    order: "key",
    cache: None,
    writes: true,
}];

/// The stream, and configuration files for as many members as the test has.
struct Scene<'b> {
    bench: &'b Bench,
    numbers: Numbers<'b>,
    base: [PathBuf; 2],
    partitions: i32,
    /// A consumer of committed records, and one of all records.
    readers: [BaseConsumer; 2],
}

impl<'b> Scene<'b> {
    fn new(bench: &'b Bench, partitions: i32, shutdown_timeout: Duration) -> Scene<'b> {
        let numbers = Numbers::new(bench, partitions, &PIPELINES);
        let base = numbers.config(shutdown_timeout, &PIPELINES);
        let readers = ["read_committed", "read_uncommitted"].map(|isolation| {
            let mut config = ClientConfig::new();
            config
                .set("bootstrap.servers", &bench.kafka.brokers)
                .set("group.id", "test-tools")
                .set("isolation.level", isolation);
            config.create().unwrap()
        });
        Scene {
            bench,
            numbers,
            base,
            partitions,
            readers,
        }
    }

    /// Starts a member with transactions; `more` is an overlay on its configuration.
    fn start(&self, name: &str, more: &str) -> Messina {
        self.start_with(name, 15_000, more)
    }

    fn start_with(&self, name: &str, timeout_ms: u32, more: &str) -> Messina {
        let text = format!(
            "{SHORT_SESSION}[pipelines.{NAME}]\ndelivery = \"exactly_once\"\ntransaction_interval = \"200ms\"\n\
             [pipelines.{NAME}.sink.properties]\n\"transaction.timeout.ms\" = {timeout_ms}\n{more}"
        );
        let file = self
            .bench
            .file(&format!("{}.toml", name.replace([' ', ','], "-")), &text);
        let [numbers, local] = self.base.each_ref().map(|path| path as &Path);
        Messina::start(name, &[numbers, local, &file])
    }

    fn committed(&self) -> u64 {
        self.bench
            .kafka
            .progress(&self.numbers.group(NAME), &self.numbers.topic)
            .0
    }

    fn settled(&self, sent: i64, processes: &[&Messina]) {
        until("every record to be committed", LONG, processes, || {
            (self.committed() == sent as u64).then_some(())
        });
    }

    fn output(&self) -> String {
        self.bench.name(&format!("{NAME}-enriched"))
    }

    /// Number of aborted records in the output topic.
    fn aborted(&self) -> usize {
        let topic = self.output();
        self.bench.kafka.read_uncommitted(&topic).len() - self.bench.kafka.read(&topic).len()
    }

    /// The end of each partition of the output, as seen by a consumer of committed records and by one of all records. They differ while a transaction is open.
    fn ends(&self) -> Vec<[i64; 2]> {
        let topic = self.output();
        let end = |reader: &BaseConsumer, partition| {
            until("the end of a partition", LONG, &[], || {
                let ends = reader.fetch_watermarks(&topic, partition, Duration::from_secs(20));
                ends.ok().map(|(_, end)| end)
            })
        };
        (0..self.partitions)
            .map(|partition| self.readers.each_ref().map(|reader| end(reader, partition)))
            .collect()
    }

    /// A transaction that a member left open hides whatever follows it, until its time-out, when the brokers abort it.
    fn wait_until_nothing_is_open(&self) {
        until("no transaction to be open any more", LONG, &[], || {
            let is_open = self.ends().iter().any(|[committed, all]| committed < all);
            if is_open {
                std::thread::sleep(Duration::from_millis(200));
            }
            (!is_open).then_some(())
        });
    }

    /// Freezes the member while outputs of its open transaction are in the log; between two transactions, and when one begins, there are none. Transactions of
    /// the others end meanwhile, unless they are starved; then one cannot tell whose transaction is open, so it tries again.
    fn freeze_in_transaction(&self, messina: &Messina, others: &[&Messina]) {
        for _ in 0..20 {
            until("it to be at work", LONG, &[messina], || {
                (messina.in_flight() > 0).then_some(())
            });
            messina.freeze();
            let before = self.ends();
            let ended: Vec<u64> = others.iter().map(|other| other.ended_records()).collect();
            std::thread::sleep(Duration::from_secs(2));
            let is_held = |([was, _], [is, all]): (&[i64; 2], &[i64; 2])| was == is && is < all;
            let after = self.ends();
            let have_worked = others
                .iter()
                .zip(&ended)
                .all(|(other, was)| other.ended_records() > *was);
            if have_worked && before.iter().zip(&after).any(is_held) {
                return;
            }
            messina.thaw();
        }
        panic!("{} was in no transaction\n{}", messina.name, messina.tail());
    }

    /// Each of `0..sent` is visible once to a consumer of committed records, and has its row.
    fn verify(&self, sent: i64) {
        self.wait_until_nothing_is_open();
        let repeated = duplicates(&self.numbers.outputs(NAME), sent);
        let rows: Vec<(i64,)> = self
            .bench
            .database()
            .rows(self.bench, &format!("SELECT seq FROM {}.numbers", self.bench.keyspace));
        assert_eq!((repeated, rows.len() as i64), (0, sent), "duplicates, rows");
    }
}

#[test]
fn kill_9_leaves_each_record_once() {
    let Some(bench) = Bench::find("kill_9_leaves_each_record_once") else {
        return;
    };
    let scene = Scene::new(&bench, 8, Duration::from_secs(20));
    // A static member: each life aborts what the last one left open, and need not wait for its session to expire.
    let member = format!(
        "[pipelines.{NAME}.source]\ninstance_id = \"{}\"\n",
        bench.name("member")
    );
    let load = scene.numbers.load(RATE, i64::MAX);
    let lives = if is_long() { 30 } else { 5 };
    let mut committed = 0;
    for life in 1..=lives {
        let messina = scene.start(&format!("life {life}"), &member);
        until("more to be committed, and some not", LONG, &[&messina], || {
            let ended = messina.ended_records();
            (scene.committed() > committed + 1000 && ended > 1000 && messina.in_flight() > 0).then_some(())
        });
        messina.kill();
        committed = scene.committed();
    }
    let sent = load.stop();
    let messina = scene.start("last life", &member);
    scene.settled(sent, &[&messina]);
    assert!(messina.metric("messina_transactions_total") > 0.0);
    messina.stop();
    let aborted = scene.aborted();
    println!("{sent} records, {lives} kills: {aborted} outputs thrown away, none seen twice");
    assert!(aborted > 0, "no kill hit a transaction with output in it");
    scene.verify(sent);
    drop(messina);
    drop(scene);
    bench.clean();
}

#[test]
fn members_that_come_and_go_leave_each_record_once() {
    let Some(bench) = Bench::find("members_that_come_and_go_leave_each_record_once") else {
        return;
    };
    const PARTITIONS: usize = 12;
    let scene = Scene::new(&bench, PARTITIONS as i32, Duration::from_secs(20));
    let load = scene.numbers.load(RATE, i64::MAX);
    let first = scene.start("first member", "");
    until("the first member to work", LONG, &[&first], || {
        (first.ended_records() > 2000).then_some(())
    });
    for round in 1..=3 {
        // 5000 ms is how long the killed member's transaction stays open.
        let second = scene.start_with(&format!("second member, round {round}"), 5000, "");
        let both = [&first, &second];
        until("the partitions to be shared", LONG, &both, || {
            (first.partitions() == PARTITIONS / 2 && second.partitions() == PARTITIONS / 2).then_some(())
        });
        let before = second.ended_records();
        until("the second member to work", LONG, &both, || {
            (second.ended_records() > before + 2000).then_some(())
        });
        if round == 2 {
            second.kill();
        } else {
            second.stop();
        }
        until("the first member to have all partitions back", LONG, &[&first], || {
            (first.partitions() == PARTITIONS).then_some(())
        });
    }
    let sent = load.stop();
    scene.settled(sent, &[&first]);
    let aborts = first.lines("transaction aborted").len();
    first.stop();
    scene.verify(sent);
    println!(
        "{sent} records, three joins, two leaves, one kill: {} outputs thrown away, {aborts} aborts of the first",
        scene.aborted()
    );
    drop(first);
    drop(scene);
    bench.clean();
}

#[test]
fn a_member_that_stood_still_publishes_nothing_that_is_seen() {
    let Some(bench) = Bench::find("a_member_that_stood_still_publishes_nothing_that_is_seen") else {
        return;
    };
    const PARTITIONS: usize = 8;
    let scene = Scene::new(&bench, PARTITIONS as i32, Duration::from_secs(20));
    let load = scene.numbers.load(RATE, i64::MAX);
    // Its transaction time-out is far longer than its session, so it is the group that fences it.
    let zombie = scene.start_with("the one that stands still", 120_000, "");
    let other = scene.start("the other", "");
    until("the partitions to be shared", LONG, &[&zombie, &other], || {
        (zombie.partitions() == PARTITIONS / 2 && other.partitions() == PARTITIONS / 2).then_some(())
    });
    let before = zombie.ended_records();
    until("it to work", LONG, &[&zombie, &other], || {
        (zombie.ended_records() > before + 2000).then_some(())
    });
    scene.freeze_in_transaction(&zombie, &[&other]);
    until("the other to have all partitions", LONG, &[&other], || {
        (other.partitions() == PARTITIONS).then_some(())
    });
    let before = other.ended_records();
    until("the other to work", LONG, &[&other], || {
        (other.ended_records() > before + 2000).then_some(())
    });
    zombie.thaw();
    // It aborts its transaction and joins again, or finds itself fenced and ends; both are right.
    until("it to join again or to end", LONG, &[&other], || {
        (other.partitions() < PARTITIONS || zombie.ended().is_some()).then_some(())
    });
    let sent = load.stop();
    scene.settled(sent, &[&other]);
    if zombie.ended().is_none() {
        zombie.signal();
    }
    let (fate, _) = zombie.wait_for_end(LONG, || {});
    assert!(matches!(fate, Some(0 | 70)), "{fate:?}\n{}", zombie.tail());
    other.stop();
    let aborted = scene.aborted();
    println!("{sent} records; the one that stood still ended with {fate:?}; {aborted} outputs thrown away");
    assert!(aborted > 0, "it stood still without output in its transaction");
    scene.verify(sent);
    drop((zombie, other));
    drop(scene);
    bench.clean();
}

/// The brokers abort its transaction on time-out, which fences its producer.
#[test]
fn a_member_that_stood_still_for_longer_than_its_transaction_goes_on() {
    let Some(bench) = Bench::find("a_member_that_stood_still_for_longer_than_its_transaction_goes_on") else {
        return;
    };
    let scene = Scene::new(&bench, 4, Duration::from_secs(20));
    let load = scene.numbers.load(RATE, i64::MAX);
    let messina = scene.start_with("the one that stands still", 5000, "");
    until("it to commit", LONG, &[&messina], || {
        (scene.committed() > 2000).then_some(())
    });
    scene.freeze_in_transaction(&messina, &[]);
    // Now the brokers have aborted it.
    scene.wait_until_nothing_is_open();
    let before = scene.committed();
    messina.thaw();
    until("it to commit again", LONG, &[&messina], || {
        (scene.committed() > before).then_some(())
    });
    let sent = load.stop();
    scene.settled(sent, &[&messina]);
    let fenced = messina.lines("the producer was fenced").len();
    assert!(fenced > 0, "it was never fenced\n{}", messina.tail());
    // A consumer may be replaced for other reasons, too; each one is logged.
    let told = messina.lines("starting again from the last commit").len() as f64;
    let figures = ["messina_halted", "messina_consumer_rebuilds_total"].map(|name| messina.metric(name));
    assert_eq!(figures, [0.0, told], "halted, rebuilt\n{}", messina.tail());
    messina.stop();
    println!("{sent} records; {} outputs thrown away", scene.aborted());
    scene.verify(sent);
    drop(messina);
    drop(scene);
    bench.clean();
}

/// Records of every second key wait for a row; the others are published.
fn waiting() -> String {
    format!(
        "[[pipelines.{NAME}.steps]]\nname = \"person\"\n\
         lookup = \"SELECT number FROM people WHERE who = :who\"\non_missing = \"retry\"\n\
         [[pipelines.{NAME}.steps]]\nname = \"row\"\n\
         write = \"INSERT INTO numbers (seq, who, place) VALUES (:seq, :who, :place)\"\nbind = {{ place = \"record.offset\" }}\n"
    )
}

/// Each abort restarts every partition before it has stood still long enough to count as stalled.
#[test]
fn transactions_that_are_thrown_away_again_and_again_are_a_stall() {
    let Some(bench) = Bench::find("transactions_that_are_thrown_away_again_and_again_are_a_stall") else {
        return;
    };
    const RECORDS: i64 = 300;
    let scene = Scene::new(&bench, 4, Duration::from_secs(2));
    scene.numbers.fill(RECORDS);
    let more = format!("{}[pipelines.{NAME}.source]\nstall_timeout = \"8s\"\n", waiting());
    let messina = scene.start_with("one that waits", 4000, &more);
    until("the stall to be told", LONG, &[&messina], || {
        let (ready, why) = messina.readiness()?;
        (!ready && why.contains("make no progress")).then_some(())
    });
    let (aborts, committed) = (messina.metric("messina_transactions_total"), scene.committed());
    assert!(aborts > 1.0 && committed == 0, "{aborts} aborts\n{}", messina.tail());
    assert!(messina.metric("messina_stalled_partitions") > 0.0);
    messina.stop();
    let messina = scene.start("one that does not", "");
    scene.settled(RECORDS, &[&messina]);
    assert!(messina.is_ready());
    messina.stop();
    println!("a stall after {aborts} aborts");
    scene.verify(RECORDS);
    drop(messina);
    drop(scene);
    bench.clean();
}

/// One step reads the table that another one writes, so a partition processes one record after the other.
fn one_after_another() -> String {
    format!(
        "[[pipelines.{NAME}.steps]]\nname = \"person\"\nlookup = \"SELECT number FROM people WHERE who = :who\"\n\
         [[pipelines.{NAME}.steps]]\nname = \"earlier\"\nlookup = \"SELECT place FROM numbers WHERE seq = :seq\"\n\
         [[pipelines.{NAME}.steps]]\nname = \"row\"\n\
         write = \"INSERT INTO numbers (seq, who, place) VALUES (:seq, :who, :place)\"\nbind = {{ place = \"record.offset\" }}\n"
    )
}

/// A record takes 20 ms, so all that may be in flight takes more than three times as long as a transaction may be open.
#[test]
fn a_backlog_that_takes_longer_than_a_transaction_may_is_committed_in_parts() {
    let Some(bench) = Bench::find("a_backlog_that_takes_longer_than_a_transaction_may_is_committed_in_parts") else {
        return;
    };
    const RECORDS: i64 = 600;
    let drain = Duration::from_secs(20);
    let mut scene = Scene::new(&bench, 1, drain);
    let in_one_lane = Pipeline {
        order: "partition",
        ..PIPELINES[0]
    };
    scene.base = scene.numbers.config(drain, &[in_one_lane]);
    scene.numbers.fill(RECORDS);
    let database = Proxy::new("127.0.0.1:0", &bench.nodes[0], 1);
    database.set(Weather {
        delay: Duration::from_millis(5),
        ..Weather::default()
    });
    let more = format!("{}[scylla]\nnodes = [\"{}\"]\n", one_after_another(), database.address);
    let messina = scene.start_with("a slow one", 4000, &more);
    scene.settled(RECORDS, &[&messina]);
    let aborts = messina.lines("transaction aborted").len();
    assert!(aborts > 0, "it was fast enough\n{}", messina.tail());
    messina.stop();
    println!("{RECORDS} records, {aborts} aborts told");
    scene.verify(RECORDS);
    drop(messina);
    drop(scene);
    bench.clean();
}

#[test]
fn what_comes_to_idle_partitions_between_two_starts_is_taken_where_a_group_begins_at_the_end() {
    let Some(bench) =
        Bench::find("what_comes_to_idle_partitions_between_two_starts_is_taken_where_a_group_begins_at_the_end")
    else {
        return;
    };
    const RECORDS: i64 = 300;
    let scene = Scene::new(&bench, 4, Duration::from_secs(20));
    let at_end = format!("[pipelines.{NAME}.source]\noffset_reset = \"latest\"\n");
    let first = scene.start("first start", &at_end);
    until("where the partitions begin to be committed", LONG, &[&first], || {
        (first.metric("messina_transactions_total") > 0.0).then_some(())
    });
    first.stop();
    scene.numbers.fill(RECORDS);
    let second = scene.start("second start", &at_end);
    scene.settled(RECORDS, &[&second]);
    second.stop();
    scene.verify(RECORDS);
    drop((first, second));
    drop(scene);
    bench.clean();
}

#[test]
fn a_drain_that_runs_out_of_time_is_thrown_away() {
    let Some(bench) = Bench::find("a_drain_that_runs_out_of_time_is_thrown_away") else {
        return;
    };
    const RECORDS: i64 = 300;
    let scene = Scene::new(&bench, 4, Duration::from_secs(2));
    scene.numbers.fill(RECORDS);
    let messina = scene.start("one that waits", &waiting());
    until("some to end, and others not", LONG, &[&messina], || {
        (messina.ended_records() > 50 && messina.in_flight() > 50).then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    messina.signal();
    let (code, _) = messina.wait_for_end(LONG, || {});
    assert_eq!(code, Some(0), "{}", messina.tail());
    let (seen, aborted) = (scene.numbers.outputs(NAME).len(), scene.aborted());
    println!(
        "{seen} outputs seen, {aborted} thrown away, {} committed",
        scene.committed()
    );
    assert!(aborted > 50, "{aborted} outputs were thrown away");
    assert_eq!((seen, scene.committed()), (0, 0), "{}", messina.tail());
    let messina = scene.start("one that does not", "");
    scene.settled(RECORDS, &[&messina]);
    messina.stop();
    scene.verify(RECORDS);
    drop(messina);
    drop(scene);
    bench.clean();
}

#[test]
fn an_output_that_is_refused_is_a_dead_letter_once() {
    let Some(bench) = Bench::find("an_output_that_is_refused_is_a_dead_letter_once") else {
        return;
    };
    const RECORDS: i64 = 2000;
    let scene = Scene::new(&bench, 4, Duration::from_secs(20));
    let output = scene.output();
    bench.kafka.configure(&bench, &output, "max.message.bytes", "30000");
    scene.numbers.fill(RECORDS);
    let big = scene.numbers.record(-1, &"x".repeat(60_000));
    bench.kafka.send(
        BaseRecord::to(&scene.numbers.topic)
            .key(b"big".as_slice())
            .payload(&big),
    );
    let messina = scene.start("messina", "\"compression.type\" = \"none\"\n");
    scene.settled(RECORDS + 1, &[&messina]);
    messina.stop();
    let letters = bench.kafka.read(&bench.name(&format!("{NAME}-dead-letters")));
    let [letter] = &letters[..] else {
        panic!("{} dead letters\n{}", letters.len(), messina.tail())
    };
    assert_eq!(
        (letter.key_text(), letter.header("messina.reason")),
        ("big", Some("delivery"))
    );
    assert!(scene.aborted() > 0, "nothing was thrown away\n{}", messina.tail());
    assert_eq!(duplicates(&scene.numbers.outputs(NAME), RECORDS), 0);
    drop(messina);
    drop(scene);
    bench.clean();
}
