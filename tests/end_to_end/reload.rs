//! A configuration is applied while the process runs: changed pipelines are drained and replaced, the others do not notice, and a configuration that
//! cannot be applied leaves everything as it was.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::numbers::{MAX_IN_FLIGHT, Numbers, Pipeline, duplicates};
use crate::support::process::Messina;
use crate::support::{Bench, LONG, figures, is_long, until};

const RATE: i64 = 2000;
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);

/// The configuration file, and its original contents.
struct File {
    path: PathBuf,
    first: String,
}

impl File {
    /// Replaces the file atomically, as a deployment does.
    fn write(&self, text: &str) {
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, &self.path).unwrap();
    }

    /// The original text with one more line, or comment, in the section of the pipeline that changes.
    fn with(&self, line: &str) -> String {
        let section = "[pipelines.changing]\n";
        assert!(self.first.contains(section));
        self.first.replace(section, &format!("{section}{line}\n"))
    }
}

/// How many configurations had this outcome.
fn count(messina: &Messina, outcome: &str) -> f64 {
    messina.metric(&format!("messina_config_reloads_total{{outcome=\"{outcome}\"}}"))
}

/// Records of a pipeline that have ended.
fn done(messina: &Messina, pipeline: &str) -> f64 {
    messina.metric(&format!(
        "messina_records_total{{outcome=\"done\",pipeline=\"{pipeline}\"}}"
    ))
}

#[test]
fn reload_replaces_what_changed_and_nothing_else() {
    let Some(bench) = Bench::find("reload_replaces_what_changed_and_nothing_else") else {
        return;
    };
    let reloads = if is_long() { 20 } else { 12 };
    let pipeline = |name| Pipeline {
        name,
        order: "key",
        cache: None,
        writes: false,
    };
    let (steady, changing, guest) = (pipeline("steady"), pipeline("changing"), pipeline("guest"));
    let all = [steady, changing, guest];
    let numbers = Numbers::new(&bench, 4, &all);
    let configs = numbers.config(SHUTDOWN_TIMEOUT, &all);
    let with_guest = std::fs::read_to_string(&configs[0]).unwrap();
    let without_guest = with_guest[..with_guest.find("[pipelines.guest]").unwrap()].to_owned();
    let limit = format!("max_in_flight = {MAX_IN_FLIGHT}\n");
    let file = File {
        path: configs[0].clone(),
        first: without_guest.clone(),
    };
    file.write(&file.first);
    let load = numbers.load(RATE, i64::MAX);
    let configs = configs.each_ref().map(|path| path as &Path);
    let messina = Messina::start_keeping_all("messina", &configs);
    let processed = |pipeline: &str, least: f64| {
        until(
            &format!("{pipeline} to process {least} records"),
            LONG,
            &[&messina],
            || (done(&messina, pipeline) >= least).then_some(()),
        );
    };
    let offer = |outcome: &str| {
        let before = count(&messina, outcome);
        messina.hang_up();
        until(&format!("a configuration to be {outcome}"), LONG, &[&messina], || {
            (count(&messina, outcome) == before + 1.0).then_some(())
        });
    };

    // The rate of the untouched pipeline by itself, once it has caught up.
    processed("steady", 3.0 * RATE as f64);
    processed("changing", 1.0);
    let rate =
        |messina: &Messina, from: f64, began: Instant| (done(messina, "steady") - from) / began.elapsed().as_secs_f64();
    let (from, began) = (done(&messina, "steady"), Instant::now());
    std::thread::sleep(Duration::from_secs(3));
    let alone = rate(&messina, from, began);
    let rebalances = messina.metric("messina_rebalances_total{kind=\"assigned\",pipeline=\"steady\"}");

    let (from, began) = (done(&messina, "steady"), Instant::now());
    let (mut taken, mut rejected, mut last) = (0, 0, String::new());
    for number in 1..=reloads {
        let before = done(&messina, "changing");
        // Every fourth configuration is rejected: it has an unknown key, changes a limit of the whole process, or uses a column that is not looked
        // up.
        if number % 4 == 0 {
            let broken = match number / 4 % 3 {
                1 => file.with("max_in_flihgt = 7"),
                2 => file.first.clone() + "\n[limits]\nmemory = \"900MiB\"\n",
                _ => file
                    .first
                    .replace("number = \"person.number\"", "number = \"person.nothing\""),
            };
            file.write(&broken);
            offer("rejected");
            rejected += 1;
            assert_eq!(messina.metric("messina_config_last_reload_successful"), 0.0);
        } else {
            let wanted = format!("max_in_flight = {}\n", MAX_IN_FLIGHT - number);
            let (head, tail) = file.first.split_once("[pipelines.changing]").unwrap();
            last = format!(
                "# The {number}th.\n{head}[pipelines.changing]{}",
                tail.replace(&limit, &wanted)
            );
            file.write(&last);
            offer("taken");
            taken += 1;
            assert_eq!(messina.metric("messina_config_last_reload_successful"), 1.0);
            let shown = messina.metric("messina_max_in_flight{pipeline=\"changing\"}");
            assert_eq!(shown, (MAX_IN_FLIGHT - number) as f64, "{}", messina.tail());
        }
        assert_eq!(messina.metric("messina_config_generation"), f64::from(1 + taken));
        processed("changing", before + 200.0);
    }
    let during = rate(&messina, from, began);
    assert_eq!(
        messina.metric("messina_rebalances_total{kind=\"assigned\",pipeline=\"steady\"}"),
        rebalances,
        "a pipeline that did not change keeps its partitions"
    );
    for (line, text) in [("MES0101", "max_in_flihgt"), ("MES0004", "limits")] {
        assert!(
            messina.lines(line).iter().any(|l| l.contains(text)),
            "{line}: {}",
            messina.tail()
        );
    }

    // The same configuration again is no change, and stops nothing.
    file.write(&last);
    offer("unchanged");
    // A pipeline is added and removed again, which leaves no series behind.
    file.write(&with_guest);
    offer("taken");
    processed("guest", 1000.0);
    file.write(&without_guest);
    offer("taken");
    let metrics = messina.get("/metrics").unwrap();
    assert!(!metrics.contains("guest"), "a pipeline that is gone is exported");
    let nodes = messina.metric("messina_cql_nodes{runtime=\"shared\"}");
    assert!(nodes >= 1.0, "the session that prepares is not exported: {metrics}");
    let status = messina.status().unwrap();
    assert_eq!(status["config"]["generation"], taken + 3);
    assert_eq!(status["revision"], option_env!("MESSINA_REVISION").unwrap_or("unknown"));
    assert_eq!(
        status["pipelines"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["changing", "steady"]
    );

    let sent = load.stop();
    for name in ["steady", "changing"] {
        until(&format!("all of {name} to be committed"), LONG, &[&messina], || {
            (bench.kafka.progress(&numbers.group(name), &numbers.topic).0 == sent as u64).then_some(())
        });
    }
    messina.stop();
    // Fails if anything is missing or wrong.
    let twice: usize = ["steady", "changing"]
        .map(|name| duplicates(&numbers.outputs(name), sent))
        .iter()
        .sum();
    assert_eq!(twice, 0, "what is replaced is drained, and repeats nothing");
    figures::note(
        "reload",
        &json!({"lost": 0, "duplicated": twice, "reloads": taken + 3, "rejected": rejected, "rate_ratio": (during / alone * 100.0).round() / 100.0}),
    );
    drop(messina);
    bench.clean();
}

/// Two pipelines of one topic. One of them has no dead-letter topic, so it halts at the first record that it cannot read. Also returns their mended
/// configuration, and the file as it is now.
fn safe_and_fragile(bench: &Bench) -> (Numbers<'_>, [PathBuf; 2], String, File) {
    let pipeline = |name| Pipeline {
        name,
        order: "key",
        cache: None,
        writes: false,
    };
    let pipelines = [pipeline("safe"), pipeline("fragile")];
    let numbers = Numbers::new(bench, 2, &pipelines);
    let configs = numbers.config(SHUTDOWN_TIMEOUT, &pipelines);
    let mended = std::fs::read_to_string(&configs[0]).unwrap();
    let file = File {
        path: configs[0].clone(),
        first: mended[..mended.find("[pipelines.fragile.dead_letter]").unwrap()].to_owned(),
    };
    file.write(&file.first);
    (numbers, configs, mended, file)
}

fn fragile_has_halted(messina: &Messina) -> Option<()> {
    let (ready, why) = messina.readiness()?;
    (!ready && why.contains("fragile") && why.contains("halted: the first byte is")).then_some(())
}

#[test]
fn watched_files_are_taken_and_what_has_halted_is_tried_again() {
    let Some(bench) = Bench::find("watched_files_are_taken_and_what_has_halted_is_tried_again") else {
        return;
    };
    let (numbers, configs, mended, file) = safe_and_fragile(&bench);
    let configs = configs.each_ref().map(|path| path as &Path);
    numbers.fill(100);
    numbers.send_bad(1);
    let messina = Messina::start_watching("messina", &configs);
    let halted = |times: usize| {
        until(
            &format!("the pipeline to halt {times} times"),
            LONG,
            &[&messina],
            || fragile_has_halted(&messina),
        );
    };
    halted(1);
    // The file does not change: SIGHUP claims that the cause is fixed, which it is not.
    messina.hang_up();
    until("the pipeline to be tried again", LONG, &[&messina], || {
        (count(&messina, "taken") == 1.0).then_some(())
    });
    halted(2);
    // The change is noticed without a signal.
    file.write(&mended);
    until("the change to be taken", LONG, &[&messina], || {
        (count(&messina, "taken") == 2.0).then_some(())
    });
    until("both to get to the end", LONG, &[&messina], || {
        let end = |name| bench.kafka.progress(&numbers.group(name), &numbers.topic);
        ["safe", "fragile"]
            .iter()
            .all(|name| end(name) == (101, 101))
            .then_some(())
    });
    assert!(messina.is_ready(), "{}", messina.tail());
    messina.stop();
    for name in ["safe", "fragile"] {
        assert_eq!(duplicates(&numbers.outputs(name), 100), 0, "{name}");
    }
    drop(messina);
    bench.clean();
}

#[test]
fn what_halts_while_a_configuration_waits_is_not_made_anew_with_it() {
    let Some(bench) = Bench::find("what_halts_while_a_configuration_waits_is_not_made_anew_with_it") else {
        return;
    };
    let (numbers, configs, _, file) = safe_and_fragile(&bench);
    let configs = configs.each_ref().map(|path| path as &Path);
    let messina = Messina::start_watching("messina", &configs);
    until("both to run", LONG, &[&messina], || messina.is_ready().then_some(()));
    let counted = |outcome: &str, least: f64| {
        until(
            &format!("{least} configurations to be {outcome}"),
            LONG,
            &[&messina],
            || (count(&messina, outcome) >= least).then_some(()),
        );
    };
    let replaced = |name: &str| {
        let drained = messina.lines("draining, to be replaced or removed");
        drained.iter().any(|line| line.contains(name))
    };

    // The first of the two now needs a table that does not exist yet.
    file.write(&file.first.replacen("FROM people", "FROM later", 1));
    counted("rejected", 1.0);
    numbers.send_bad(1);
    until("the pipeline to halt", LONG, &[&messina], || {
        fragile_has_halted(&messina)
    });
    // By now, an attempt that began before the halt is over.
    counted("rejected", count(&messina, "rejected") + 1.0);
    let later = ("later", "who text PRIMARY KEY, number bigint");
    bench.create_tables(&bench.database(), &bench.keyspace, &[later]);
    counted("taken", 1.0);
    assert!(replaced("safe") && !replaced("fragile"), "{}", messina.tail());
    // SIGHUP says that the cause is fixed.
    messina.hang_up();
    counted("taken", 2.0);
    assert!(replaced("fragile"), "{}", messina.tail());
    drop(messina);
    bench.clean();
}

#[test]
fn a_static_member_that_gets_another_topic_reads_it() {
    let Some(bench) = Bench::find("a_static_member_that_gets_another_topic_reads_it") else {
        return;
    };
    let pipelines = [Pipeline {
        name: "static",
        order: "key",
        cache: None,
        writes: false,
    }];
    let numbers = Numbers::new(&bench, 2, &pipelines);
    let more = numbers.another("more-numbers", 2);
    let configs = numbers.config(SHUTDOWN_TIMEOUT, &pipelines);
    // Static members do not leave: the old one, with only the first topic, stays in the group until its session expires. So the session is short.
    let first = std::fs::read_to_string(&configs[0]).unwrap().replace(
        "properties = {",
        "group_protocol = \"classic\"\ninstance_id = \"member\"\nproperties = { \"session.timeout.ms\" = 6000,",
    );
    let file = File {
        path: configs[0].clone(),
        first,
    };
    file.write(&file.first);
    numbers.fill(100);
    let configs = configs.each_ref().map(|path| path as &Path);
    let messina = Messina::start("messina", &configs);
    let all_is_read = |numbers: &Numbers<'_>| {
        let topic = &numbers.topic;
        until(&format!("all of {topic} to be committed"), LONG, &[&messina], || {
            (bench.kafka.progress(&numbers.group("static"), topic) == (100, 100)).then_some(())
        });
    };
    all_is_read(&numbers);
    let both = format!("\"{}\", \"{}\"", numbers.topic, more.topic);
    file.write(&file.first.replace(&format!("\"{}\"", numbers.topic), &both));
    messina.hang_up();
    until("the other topic to be taken", LONG, &[&messina], || {
        (count(&messina, "taken") == 1.0).then_some(())
    });
    assert_eq!(more.load_from(100, 1_000_000, 200).wait(), 200);
    all_is_read(&more);
    messina.stop();
    assert_eq!(duplicates(&numbers.outputs("static"), 200), 0);
    drop(messina);
    bench.clean();
}
