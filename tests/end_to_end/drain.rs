//! SIGTERM under load: everything in flight is finished and committed, so that a restart repeats nothing.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use crate::support::numbers::{Numbers, Pipeline, duplicates};
use crate::support::process::Messina;
use crate::support::{Bench, LONG, until};

const RATE: i64 = 3000;
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// What a stop may take beyond the drain: leaving the group, closing connections.
const CLOSING: Duration = Duration::from_secs(5);

#[test]
fn drain_on_sigterm() {
    let Some(bench) = Bench::find("drain_on_sigterm") else {
        return;
    };
    let pipelines = [Pipeline {
        name: "drained",
        order: "key",
        cache: None,
        writes: true,
    }];
    let numbers = Numbers::new(&bench, 8, &pipelines);
    let configs = numbers.config(SHUTDOWN_TIMEOUT, &pipelines);
    let configs = configs.each_ref().map(|path| path as &Path);
    let load = numbers.load(RATE, i64::MAX);
    for life in 1..=3 {
        let messina = Messina::start(&format!("messina, life {life}"), &configs);
        until("4000 more records to be processed", LONG, &[&messina], || {
            (messina.ended_records() >= 4000).then_some(())
        });
        let (code, took) = messina.terminate(SHUTDOWN_TIMEOUT + CLOSING);
        assert_eq!(code, Some(0), "{}", messina.tail());
        let published: HashSet<_> = numbers.outputs("drained").into_iter().map(|o| o.place).collect();
        let committed = bench.kafka.committed(&numbers.group("drained"), &numbers.topic);
        let wanted: HashSet<_> = (0..)
            .zip(&committed)
            .flat_map(|(p, end)| (0..*end).map(move |offset| (p, offset)))
            .collect();
        let (early, late) = (
            published.difference(&wanted).count(),
            wanted.difference(&published).count(),
        );
        println!(
            "life {life}: stopped in {took:.1?}; {} records published, {} committed",
            published.len(),
            wanted.len()
        );
        assert_eq!(
            (early, late),
            (0, 0),
            "published and not committed, committed and not published\n{}",
            messina.tail()
        );
    }
    let sent = load.stop();
    let messina = Messina::start("messina, last life", &configs);
    until("every record to be committed", LONG, &[&messina], || {
        (bench.kafka.progress(&numbers.group("drained"), &numbers.topic).0 == sent as u64).then_some(())
    });
    messina.stop();
    assert_eq!(
        duplicates(&numbers.outputs("drained"), sent),
        0,
        "duplicates after clean stops"
    );
    let rows: Vec<(i64,)> = bench
        .database()
        .rows(&bench, &format!("SELECT seq FROM {}.numbers", bench.keyspace));
    assert_eq!(rows.len() as i64, sent, "rows");
    drop(messina);
    bench.clean();
}
