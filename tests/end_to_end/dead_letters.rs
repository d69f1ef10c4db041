//! Dead letters have a way back: they are listed, shown, and sent back to their topic once the cause is fixed. A flood of them
//! stops intake, loses nothing, and intake continues after a restart.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use serde_json::Value;

use crate::support::kafka::Record;
use crate::support::numbers::{Numbers, Pipeline};
use crate::support::process::{Finished, Messina, finish};
use crate::support::{Bench, LONG, until};

const RECORDS: i64 = 600;
const CAP: u64 = 50;
/// Key and value of the record that is not Avro; neither may be shown unless it is asked for.
const GARBAGE: (&str, &str) = ("secret-key", "secret-value: not Avro");
const NAME: &str = "letters";
const LETTERS: Pipeline<'static> = Pipeline {
    name: NAME,
    order: "key",
    cache: None,
    writes: false,
};
/// A record without a row becomes a dead letter; the stream's own step would use null.
const STRICT: &str = "[[pipelines.letters.steps]]\nname = \"person\"\n\
     lookup = \"SELECT number FROM people WHERE who = :who\"\non_missing = \"dead_letter\"\n";

struct Scene<'b> {
    bench: &'b Bench,
    numbers: Numbers<'b>,
    /// The consumer groups of its pipelines.
    groups: Vec<String>,
    configs: Vec<PathBuf>,
}

impl<'b> Scene<'b> {
    fn new(bench: &'b Bench, more: &str) -> Scene<'b> {
        Scene::of(bench, &[LETTERS], more)
    }

    fn of(bench: &'b Bench, pipelines: &[Pipeline<'_>], more: &str) -> Scene<'b> {
        let numbers = Numbers::new(bench, 4, pipelines);
        let mut configs = numbers.config(Duration::from_secs(20), pipelines).to_vec();
        configs.push(bench.file("strict.toml", &format!("{STRICT}{more}")));
        Scene {
            bench,
            groups: pipelines.iter().map(|pipeline| numbers.group(pipeline.name)).collect(),
            numbers,
            configs,
        }
    }

    fn start(&self, name: &str) -> Messina {
        let configs: Vec<&Path> = self.configs.iter().map(PathBuf::as_path).collect();
        Messina::start(name, &configs)
    }

    /// Waits until all groups have committed everything in the topic.
    fn settled(&self, messina: &Messina) {
        until("every record to be committed", LONG, &[messina], || {
            let is_done = |group: &String| {
                let (done, there) = self.bench.kafka.progress(group, &self.numbers.topic);
                done == there
            };
            self.groups.iter().all(is_done).then_some(())
        });
    }

    fn command(&self, arguments: &[&str]) -> Finished {
        let configs: Vec<&Path> = self.configs.iter().map(PathBuf::as_path).collect();
        finish(&[&["dead-letters"], arguments].concat(), &configs)
    }

    /// Runs a command that must succeed, and returns its stdout.
    fn said(&self, arguments: &[&str]) -> String {
        let done = self.command(arguments);
        assert_eq!(done.code, Some(0), "{arguments:?}: {}{}", done.stdout, done.stderr);
        done.stdout
    }

    /// The same, as lines of JSON.
    fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let said = self.said(&[arguments, &["--json"]].concat());
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn sent(&self) -> i64 {
        self.bench
            .kafka
            .ends(&self.numbers.topic)
            .iter()
            .map(|(_, end)| end)
            .sum()
    }

    fn letters(&self) -> Vec<Record> {
        self.bench.kafka.read(&self.bench.name("letters-dead-letters"))
    }

    /// Inserts a row for this key.
    fn person(&self, who: &str) {
        let table = format!("{}.people", self.bench.keyspace);
        let insert = format!("INSERT INTO {table} (who, number) VALUES ('{who}', 1)");
        self.bench.database().run(self.bench, &insert);
    }

    /// The rows of number 7: the key, and the offset of its record.
    fn sevens(&self) -> Vec<(String, i64)> {
        self.bench.database().rows(
            self.bench,
            &format!("SELECT who, place FROM {}.numbers WHERE seq = 7", self.bench.keyspace),
        )
    }

    /// Inserts a row for every key.
    fn mend(&self) {
        let database = self.bench.database();
        for key in (1..64).step_by(2) {
            let row = format!("('k{key:02}', {})", key * 10);
            let table = format!("{}.people", self.bench.keyspace);
            database.run(self.bench, &format!("INSERT INTO {table} (who, number) VALUES {row}"));
        }
    }

    /// The distinct numbers in the output, and the number of records.
    fn arrived(&self) -> (BTreeSet<i64>, usize) {
        let outputs = self.numbers.outputs(NAME);
        (outputs.iter().map(|o| o.seq).collect(), outputs.len())
    }
}

/// The place of a line of `list --json`, in the form that the command line takes.
fn place(line: &Value) -> String {
    format!("{}:{}", line["partition"], line["offset"])
}

/// A record that was sent back is late, so it must not overwrite what younger records have written.
#[test]
fn one_that_was_sent_back_leaves_younger_rows_alone() {
    let Some(bench) = Bench::find("one_that_was_sent_back_leaves_younger_rows_alone") else {
        return;
    };
    let row = "[[pipelines.letters.steps]]\nname = \"row\"\n\
         write = \"INSERT INTO numbers (seq, who, place) VALUES (:seq, :who, :place)\"\nbind = { place = \"record.offset\" }\n";
    let scene = Scene::new(&bench, row);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    scene.person("young");
    for (who, at) in [("late", now - 20_000), ("young", now - 10_000)] {
        let value = scene.numbers.record(7, who);
        let record = BaseRecord::to(&scene.numbers.topic).partition(0).timestamp(at);
        bench.kafka.send(record.key(who.as_bytes()).payload(&value));
    }
    let messina = scene.start("messina");
    scene.settled(&messina);
    assert_eq!(scene.letters().len(), 1);
    scene.person("late");
    scene.said(&["replay", "--yes"]);
    scene.settled(&messina);
    messina.stop();
    assert_eq!(scene.sevens(), [("young".to_owned(), 1)]);
    assert_eq!(scene.arrived().1, 2, "both are in the output");
    drop(messina);
    drop(scene);
    bench.clean();
}

/// The brokers give the record that was sent back a new timestamp, and another pipeline of the topic, which had not failed,
/// writes its row again.
#[test]
fn one_that_gets_a_new_time_leaves_younger_rows_alone() {
    let Some(bench) = Bench::find("one_that_gets_a_new_time_leaves_younger_rows_alone") else {
        return;
    };
    let rows = Pipeline {
        name: "rows",
        writes: true,
        ..LETTERS
    };
    let scene = Scene::of(&bench, &[LETTERS, rows], "");
    let topic = &scene.numbers.topic;
    bench
        .kafka
        .configure(&bench, topic, "message.timestamp.type", "LogAppendTime");
    scene.person("young");
    for who in ["late", "young"] {
        let value = scene.numbers.record(7, who);
        let record = BaseRecord::to(topic).partition(0);
        bench.kafka.send(record.key(who.as_bytes()).payload(&value));
    }
    let messina = scene.start("messina");
    scene.settled(&messina);
    assert_eq!(scene.letters().len(), 1);
    assert_eq!(scene.sevens(), [("young".to_owned(), 1)]);
    scene.person("late");
    scene.said(&["replay", "--yes", "--pipeline", NAME]);
    scene.settled(&messina);
    messina.stop();
    assert_eq!(scene.sevens(), [("young".to_owned(), 1)]);
    let inputs = bench.kafka.read(topic);
    let (first, back) = (&inputs[0], &inputs[2]);
    assert!(back.timestamp > first.timestamp, "the brokers keep the first time");
    assert_eq!(
        back.header("messina.replay_timestamp"),
        Some(&*first.timestamp.to_string())
    );
    let outputs = bench.kafka.read(&bench.name("rows-enriched"));
    assert_eq!(outputs.len(), 3);
    let again = outputs
        .iter()
        .find(|o| o.header("messina.replays") == Some("1"))
        .unwrap();
    assert_eq!(again.timestamp, first.timestamp);
    drop(messina);
    drop(scene);
    bench.clean();
}

#[test]
fn the_way_back() {
    let Some(bench) = Bench::find("the_way_back") else {
        return;
    };
    let scene = Scene::new(&bench, "");
    let elsewhere = bench.name("elsewhere");
    bench.kafka.create(&bench, &[&elsewhere], 1);
    // Records sent there keep their timestamps, which are years old: retention would delete them.
    bench.kafka.configure(&bench, &elsewhere, "retention.ms", "-1");
    scene.numbers.fill(RECORDS);
    let headers = OwnedHeaders::new().insert(Header {
        key: "trace",
        value: Some("of the producer"),
    });
    bench.kafka.send(
        BaseRecord::to(&scene.numbers.topic)
            .key(GARBAGE.0.as_bytes())
            .payload(GARBAGE.1.as_bytes())
            .timestamp(1_700_000_000_000)
            .headers(headers),
    );
    let messina = scene.start("messina");
    scene.settled(&messina);
    let missing = scene.letters().len() as u64 - 1;
    assert!(missing > 2 * CAP, "{missing} records without a row");

    // The records are counted and listed, and nothing of their contents is shown.
    let counts = scene.lines(&["list", "--summary"]);
    let counts: Vec<_> = counts
        .iter()
        .map(|c| (&c["step"], &c["reason"], c["dead_letters"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        counts,
        [
            (&"person".into(), &"missing".into(), missing),
            (&"-".into(), &"framing".into(), 1)
        ]
    );
    let table = scene.said(&["list", "--pipeline", NAME]);
    assert_eq!(table.lines().count() as u64, missing + 2, "{table}");
    assert_eq!(scene.said(&["list", "--limit", "3"]).lines().count(), 4);
    let [garbage] = &scene.lines(&["list", "--reason", "framing"])[..] else {
        panic!("one record is no Avro")
    };
    assert_eq!(garbage["record"]["topic"], *scene.numbers.topic);
    assert_eq!(garbage["record"]["time"], "2023-11-14T22:13:20.000Z");
    assert_eq!(
        (&garbage["class"], &garbage["attempts"], &garbage["replays"]),
        (&"permanent".into(), &1.into(), &0.into())
    );
    let shown = scene.said(&["show", &place(garbage)]);
    for unasked in [&table, &shown, &scene.said(&["list", "--json"])] {
        assert!(!unasked.contains("secret"), "{unasked}");
    }
    assert!(
        shown.contains("trace: of the producer") && shown.contains("magic byte"),
        "{shown}"
    );
    let asked = scene.said(&["show", &place(garbage), "--payload"]);
    assert!(asked.contains(GARBAGE.0) && asked.contains(GARBAGE.1), "{asked}");
    let one = scene.lines(&["list", "--step", "person", "--limit", "1"]).remove(0);
    let json: Value = serde_json::from_str(&scene.said(&["show", &place(&one), "--payload", "--json"])).unwrap();
    assert_eq!(json["value"]["avro"]["who"], json["key"]["text"], "{json:#}");
    assert!(scene.lines(&["list", "--until", "1h"]).is_empty());
    assert_eq!(scene.lines(&["list", "--since", "1h"]).len() as u64, missing + 1);

    // A dry run reports, and sends nothing.
    let before = scene.sent();
    let dry = scene.said(&["replay"]);
    assert!(
        dry.contains(&format!("{} would be sent", missing + 1)) && dry.contains("--yes"),
        "{dry}"
    );
    assert_eq!(scene.sent(), before, "a dry run sends nothing");

    // A replay stops at `--max`, and another one continues from there.
    scene.mend();
    let replay = ["replay", "--yes", "--reason", "missing"];
    let first = scene
        .lines(&[&replay[..], &["--max", &CAP.to_string()]].concat())
        .remove(0);
    assert_eq!(first["sent"], CAP, "{first}");
    assert_eq!(scene.sent(), before + CAP as i64);
    let next = first["next"].as_str().unwrap();
    let rest = scene
        .lines(&[&replay[..], &["--from-offset", next, "--rate", "2000/s"]].concat())
        .remove(0);
    assert_eq!(
        (rest["sent"].as_u64(), &rest["next"]),
        (Some(missing - CAP), &Value::Null),
        "{rest}"
    );
    scene.settled(&messina);
    let (numbers, records) = scene.arrived();
    assert_eq!(numbers, (0..RECORDS).collect(), "every number is in the output");
    assert_eq!(records as i64, RECORDS, "once");
    let inputs = bench.kafka.read(&scene.numbers.topic);
    let back: Vec<&Record> = inputs
        .iter()
        .filter(|r| r.header("messina.replays") == Some("1"))
        .collect();
    assert_eq!(back.len() as u64, missing);
    for record in back {
        let original = inputs
            .iter()
            .find(|r| r.value == record.value && r.headers.is_empty())
            .unwrap();
        let same = |r: &Record| (r.partition, r.timestamp, r.key.clone());
        assert_eq!((same(record), record.headers.len()), (same(original), 4));
    }

    // A record that can never succeed comes back as often as `--max-replays` allows.
    let mut latest = garbage.clone();
    for round in 1..=2u64 {
        let sent = scene
            .lines(&["replay", "--yes", "--max-replays", "2", "--only", &place(&latest)])
            .remove(0);
        assert_eq!((&sent["sent"], &sent["guarded"]), (&1.into(), &0.into()), "{sent}");
        scene.settled(&messina);
        let letters = scene.lines(&["list", "--reason", "framing"]);
        latest = letters.into_iter().find(|l| l["replays"] == round).unwrap();
    }
    let sent = scene
        .lines(&["replay", "--yes", "--max-replays", "2", "--only", &place(&latest)])
        .remove(0);
    assert_eq!((&sent["sent"], &sent["guarded"]), (&0.into(), &1.into()), "{sent}");
    scene.said(&["replay", "--yes", "--only", &place(&latest), "--to", &elsewhere]);
    let [copy] = &bench.kafka.read(&elsewhere)[..] else {
        panic!("one record went elsewhere")
    };
    assert_eq!(
        (copy.key_text(), copy.value.as_deref()),
        (GARBAGE.0, Some(GARBAGE.1.as_bytes()))
    );
    assert_eq!(
        (copy.timestamp, copy.header("trace"), copy.header("messina.replays")),
        (1_700_000_000_000, Some("of the producer"), Some("3"))
    );
    assert!(copy.headers.len() == 5, "{}", copy.about());

    // Exit codes.
    let code = |arguments: &[&str]| scene.command(arguments).code;
    assert_eq!(code(&["list", "--pipeline", "unknown"]), Some(64));
    assert_eq!(code(&["list", "--since", "soon"]), Some(64));
    assert_eq!(code(&["show", "0:999999"]), Some(64));
    let nowhere = bench.name("nowhere");
    assert_eq!(code(&["list", "--topic", &nowhere]), Some(69));
    let only = place(&latest);
    for command in [&["replay"][..], &["replay", "--yes"]] {
        let done = scene.command(&[command, &["--only", &only, "--to", &nowhere]].concat());
        assert_eq!(done.code, Some(69), "{}{}", done.stdout, done.stderr);
        let words = format!("dead letter {only} of");
        assert!(done.stderr.contains(&words), "{}", done.stderr);
    }
    assert!(bench.kafka.topics(&nowhere).is_empty(), "a replay makes no topic");
    messina.stop();
    drop(messina);
    drop(scene);
    bench.clean();
}

/// All of them together exceed the topic's batch limit; each one alone does not.
#[test]
fn they_go_back_to_a_topic_that_takes_small_batches() {
    const LETTERS: u64 = 300;
    let Some(bench) = Bench::find("they_go_back_to_a_topic_that_takes_small_batches") else {
        return;
    };
    let scene = Scene::new(&bench, "");
    let mut state = 1_u64;
    for _ in 0..LETTERS {
        // No framing, and random bytes that cannot be compressed.
        let value: Vec<u8> = (0..2048)
            .map(|place| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if place == 0 { 1 } else { (state >> 56) as u8 }
            })
            .collect();
        let record = BaseRecord::to(&scene.numbers.topic).partition(0);
        bench.kafka.send(record.key(b"odd".as_slice()).payload(&value[..]));
    }
    let messina = scene.start("messina");
    scene.settled(&messina);
    messina.stop();
    assert_eq!(scene.letters().len() as u64, LETTERS);
    bench
        .kafka
        .configure(&bench, &scene.numbers.topic, "max.message.bytes", "100000");
    let sent = scene.lines(&["replay", "--yes"]).remove(0);
    assert_eq!(
        (sent["sent"].as_u64(), &sent["next"]),
        (Some(LETTERS), &Value::Null),
        "{sent}"
    );
    assert_eq!(scene.sent() as u64, 2 * LETTERS);
    drop(messina);
    drop(scene);
    bench.clean();
}

#[test]
fn a_flood_stops_intake() {
    const ALLOWED: u64 = 20;
    let Some(bench) = Bench::find("a_flood_stops_intake") else {
        return;
    };
    let limit = format!("[pipelines.{NAME}.dead_letter.stop_above]\nconsecutive = {ALLOWED}\n");
    let scene = Scene::new(&bench, &limit);
    // No key has a row, as after an operator's mistake.
    bench
        .database()
        .run(&bench, &format!("TRUNCATE {}.people", bench.keyspace));
    // More records than are in flight when the limit is exceeded.
    let count = 40 * crate::support::numbers::MAX_IN_FLIGHT as i64;
    scene.numbers.fill(count);
    let messina = scene.start("messina");
    until("intake to stop", LONG, &[&messina], || {
        (messina.metric("messina_dead_letter_stop") == 1.0).then_some(())
    });
    // The status page lags by a moment.
    std::thread::sleep(Duration::from_secs(1));
    until("what is in flight to end", LONG, &[&messina], || {
        (messina.in_flight() == 0).then_some(())
    });
    let stopped_at = messina.ended_records();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(
        messina.ended_records(),
        stopped_at,
        "intake goes on\n{}",
        messina.tail()
    );
    assert!(!messina.is_ready(), "a stopped pipeline is not ready");
    assert!(
        !messina.lines("intake stopped").is_empty(),
        "nobody was told\n{}",
        messina.tail()
    );
    messina.stop();
    let letters = scene.letters().len() as u64;
    println!("{letters} dead letters of {count} records, {ALLOWED} in a row allowed");
    assert!(
        letters > ALLOWED && letters <= 4 * crate::support::numbers::MAX_IN_FLIGHT,
        "{letters} dead letters"
    );
    let (committed, _) = bench.kafka.progress(&scene.numbers.group(NAME), &scene.numbers.topic);
    assert!(
        committed <= letters,
        "{committed} committed, and only {letters} have ended"
    );

    // The cause is fixed: the stopped pipeline continues by itself, and its dead letters are sent back.
    for key in (0..64).step_by(2) {
        let row = format!("('k{key:02}', {})", key * 10);
        bench.database().run(
            &bench,
            &format!("INSERT INTO {}.people (who, number) VALUES {row}", bench.keyspace),
        );
    }
    scene.mend();
    let messina = scene.start("messina, mended");
    scene.settled(&messina);
    let sent = scene.lines(&["replay", "--yes", "--max", "1000000"]).remove(0);
    assert_eq!(sent["sent"], letters, "{sent}");
    scene.settled(&messina);
    messina.stop();
    let (numbers, records) = scene.arrived();
    assert_eq!(
        (numbers.len() as i64, records as i64),
        (count, count),
        "every number is in the output, once"
    );
    drop(messina);
    drop(scene);
    bench.clean();
}
