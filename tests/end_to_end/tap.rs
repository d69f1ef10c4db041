//! `messina tap` shows records of a running process as they end, and their content only if the process allows it.

use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;

use crate::support::numbers::{Numbers, Pipeline, number, who};
use crate::support::process::{Finished, Messina, finish};
use crate::support::{Bench, LONG, until};

fn tap(messina: &Messina, more: &[&str]) -> Finished {
    let listen = messina.address().unwrap().to_string();
    finish(&[&["tap", "tapped", "--listen", &listen], more].concat(), &[])
}

#[test]
fn records_of_a_running_process_are_seen() {
    let Some(bench) = Bench::find("records_of_a_running_process_are_seen") else {
        return;
    };
    let pipelines = [Pipeline {
        name: "tapped",
        order: "key",
        cache: Some("{ ttl = \"1m\" }"),
        writes: true,
    }];
    let numbers = Numbers::new(&bench, 4, &pipelines);
    let configs = numbers.config(Duration::from_secs(20), &pipelines);
    let values = bench.file("values.toml", "[http]\ntap = \"values\"\n");
    let off = bench.file("off.toml", "[http]\ntap = \"off\"\n");
    let [main, local] = configs.each_ref().map(|path| path as &Path);
    let started = |configs: &[&Path]| {
        let messina = Messina::start("messina", configs);
        until("200 more records to be processed", LONG, &[&messina], || {
            (messina.ended_records() >= 200).then_some(())
        });
        messina
    };
    let load = numbers.load(500, i64::MAX);

    let messina = started(&[main, local, &values]);
    let seen = tap(&messina, &["--json", "--records", "8", "--rate", "100"]).json_lines();
    assert_eq!(seen.len(), 8);
    for record in &seen {
        let seq = record["event"]["seq"].as_i64().unwrap();
        let (who, number) = (who(seq), number(seq));
        let found = number.map(|number| serde_json::json!({"number": number}));
        let [person, row] = record["steps"].as_array().unwrap().as_slice() else {
            panic!("{record}")
        };
        assert_eq!(
            (&record["outcome"], &record["key"]),
            (&Json::from("done"), &Json::from(&*who)),
            "{record}"
        );
        assert_eq!(
            (person["took"]["who"].as_str(), person.get("gave")),
            (Some(&*who), found.as_ref()),
            "{record}"
        );
        assert_eq!(
            person["came_to"],
            if found.is_some() { "found" } else { "no row" },
            "{record}"
        );
        assert_eq!(row["took"]["place"], record["offset"], "{record}");
        assert_eq!(record["output"]["value"]["number"], Json::from(number), "{record}");
        assert_eq!(record["output"]["value"]["source_offset"], record["offset"], "{record}");
    }
    let status = messina.status().unwrap();
    let of = &status["pipelines"]["tapped"];
    let stages: Vec<_> = of["stages"].as_object().unwrap().keys().collect();
    assert_eq!(
        stages,
        ["decode", "step:person", "step:row", "encode", "delivery", "event"],
        "{of}"
    );
    let cache = &of["cache"]["person"];
    assert!(
        cache["hits"].as_u64() > Some(0) && cache["hit_ratio"].as_f64() > Some(0.5),
        "{cache}"
    );
    assert!(
        cache["entries"].as_u64() > Some(0) && of["cache"].as_object().unwrap().len() == 1,
        "{of}"
    );
    // Only records that end while somebody watches are shown.
    let bad = std::thread::scope(|scope| {
        let looking = scope.spawn(|| tap(&messina, &["--outcome", "dead_lettered", "-n", "1", "--json"]));
        while !looking.is_finished() {
            numbers.send_bad(1);
            std::thread::sleep(Duration::from_millis(200));
        }
        looking.join().unwrap().json_lines()
    });
    assert_eq!(
        (&bad[0]["failure"]["reason"], &bad[0]["steps"]),
        (&Json::from("framing"), &serde_json::json!([])),
        "{}",
        bad[0]
    );
    let listen = messina.address().unwrap().to_string();
    let unknown = finish(&["tap", "orders", "--listen", &listen], &[]);
    assert_eq!(unknown.code, Some(64), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("there are tapped"), "{}", unknown.stderr);
    messina.stop();
    let nobody = finish(&["tap", "tapped", "--listen", &listen], &[]);
    assert_eq!(nobody.code, Some(69), "{}", nobody.stderr);

    let messina = started(&[main, local]);
    let shapes = tap(&messina, &["--records", "8"]);
    assert!(
        shapes.stdout.contains("person (who = text of 3 bytes): "),
        "{}",
        shapes.stdout
    );
    assert!(
        shapes.stdout.contains("in        seq = long, who = text of 3 bytes\n"),
        "{}",
        shapes.stdout
    );
    assert!(shapes.stderr.contains("values are not shown"), "{}", shapes.stderr);
    // Each key is k and two digits.
    let digits = |text: &str| {
        text.as_bytes()
            .windows(3)
            .any(|w| w[0] == b'k' && w[1].is_ascii_digit() && w[2].is_ascii_digit())
    };
    let told = shapes.stdout.replace(&bench.prefix, "");
    assert!(!digits(&told), "a key is shown: {told}");
    messina.stop();

    let messina = started(&[main, local, &off]);
    let refused = tap(&messina, &[]);
    assert_eq!(refused.code, Some(69), "{}", refused.stderr);
    assert!(refused.stderr.contains("[http] tap = \"off\""), "{}", refused.stderr);
    messina.stop();
    load.stop();
    bench.clean();
}
