//! `messina replay` runs a pipeline over a past range and not one record more, keeps its rate, and continues where it was
//! stopped.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use messina::avro::json::to_json;
use messina::avro::{Unit, Value};

use crate::support::numbers::{Numbers, Output, Pipeline};
use crate::support::process::{Messina, finish};
use crate::support::{Bench, LONG, until};

const BLOCK: i64 = 1000;

/// The current time as the command line takes it; nothing else happens in this millisecond.
fn moment() -> String {
    std::thread::sleep(Duration::from_millis(50));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let text = to_json(&Value::Timestamp(now.as_millis() as i64, Unit::Millis));
    std::thread::sleep(Duration::from_millis(50));
    text.as_str().unwrap().to_owned()
}

fn numbers_of(outputs: &[Output]) -> BTreeSet<i64> {
    outputs.iter().map(|output| output.seq).collect()
}

#[test]
fn a_range_is_replayed_and_no_more() {
    let Some(bench) = Bench::find("a_range_is_replayed_and_no_more") else {
        return;
    };
    let pipelines = [Pipeline {
        name: "p",
        order: "key",
        cache: None,
        writes: true,
    }];
    let numbers = Numbers::new(&bench, 3, &pipelines);
    let block = |number: i64| {
        numbers
            .load_from(number * BLOCK, 1_000_000, (number + 1) * BLOCK)
            .wait()
    };
    block(0);
    let from = moment();
    block(1);
    let to = moment();
    block(2);
    let configs = numbers.config(Duration::from_secs(30), &pipelines);
    let configs = configs.each_ref().map(|path| path as &Path);

    let range = ["replay", "--from", &from, "--to", &to];
    let done = finish(&range, &configs);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("all 1000 offsets are done"), "{}", done.stderr);
    let outputs = numbers.outputs("p");
    assert_eq!(outputs.len() as i64, BLOCK, "each once");
    assert_eq!(numbers_of(&outputs), (BLOCK..2 * BLOCK).collect());
    assert_eq!(
        bench.kafka.progress(&numbers.group("p"), &numbers.topic).0,
        0,
        "the pipeline's own group"
    );
    let again = finish(&range, &configs);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("nothing is left to replay"), "{}", again.stderr);
    assert_eq!(numbers.outputs("p").len() as i64, BLOCK);

    // By offset: one partition, at a limited rate, stopped halfway and continued.
    let end = bench.kafka.ends(&numbers.topic)[1].1;
    let places = [format!("1:{}", end - 600), format!("1:{}", end - 100)];
    let arguments = [
        "replay",
        "--from-offset",
        &places[0],
        "--to-offset",
        &places[1],
        "--rate",
        "20/s",
    ];
    let began = Instant::now();
    let replay = Messina::spawn("the replay", &arguments, &configs, false);
    let more = || numbers.outputs("p").len() as i64 - BLOCK;
    until("some records to be replayed", LONG, &[&replay], || {
        (more() > 20).then_some(())
    });
    replay.signal();
    let (code, took) = (replay.wait_for_end(LONG, || {}).0, began.elapsed());
    assert_eq!(code, Some(130), "{}", replay.tail());
    let same = format!(
        "go on with --from-offset {} --to-offset {} --group ",
        places[0], places[1]
    );
    assert!(!replay.lines(&same).is_empty(), "{}", replay.tail());
    let first = more();
    let most = (took.as_secs_f64() * 20.0) as i64 + 25;
    assert!((20..500).contains(&first) && first <= most, "{first} in {took:?}");
    let rest = finish(&arguments[..5], &configs);
    assert_eq!(rest.code, Some(0), "{}", rest.stderr);
    assert!(
        !rest.stderr.contains(", 0 of them done before"),
        "it began anew: {}",
        rest.stderr
    );
    let all = numbers.outputs("p");
    let of_range: BTreeSet<(i32, i64)> = all[..]
        .iter()
        .map(|output| output.place)
        .filter(|place| place.0 == 1)
        .collect();
    for offset in end - 600..end - 100 {
        assert!(of_range.contains(&(1, offset)), "offset {offset} was left out");
    }
    let beyond = all
        .iter()
        .filter(|o| o.seq < BLOCK || o.seq >= 2 * BLOCK)
        .all(|o| o.place.0 == 1 && (end - 600..end - 100).contains(&o.place.1));
    assert!(beyond, "something outside of both ranges was replayed");

    let group = numbers.group("p");
    for (flags, says) in [
        (vec!["replay"], "--from"),
        (
            vec!["replay", "--from", "1h", "--group", &group],
            "pipeline's own group",
        ),
        (vec!["replay", "--from-offset", "9:0"], "no such partition"),
        (
            vec!["replay", "--from-offset", "1:0", "--to-offset", "0:9"],
            "partition 0 has no --from-offset",
        ),
        (
            vec!["replay", "--from", "1h", "--pipeline", "q"],
            "there is no pipeline `q`",
        ),
    ] {
        let refused = finish(&flags, &configs);
        assert_eq!(refused.code, Some(64), "{flags:?}: {}", refused.stderr);
        assert!(
            refused.stderr.contains(says),
            "{flags:?} does not say {says:?}: {}",
            refused.stderr
        );
    }
    drop(replay);
    bench.clean();
}
