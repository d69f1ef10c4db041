//! SIGTERM under load: everything in flight is finished and committed, so that a restart repeats nothing.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use crate::support::numbers::{MAX_IN_FLIGHT, Numbers, Pipeline, duplicates};
use crate::support::process::Messina;
use crate::support::{Bench, LONG, until};

/// More than can be processed in that time, so that there is always something in flight.
const RATE: i64 = 6000;
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an unhindered stop may take: a moment for what is in flight, the last commit, and leaving the group.
const STOP: Duration = Duration::from_secs(5);

#[test]
fn drain_on_sigterm() {
    let Some(bench) = Bench::find_alone("drain_on_sigterm") else {
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
        until("a commit to be acknowledged", STOP * 4, &[&messina], || {
            (messina.metric("messina_commits_total") > 0.0).then_some(())
        });
        // SIGHUP stops nothing: it only reads again what can be read again.
        messina.hang_up();
        until("the answer to SIGHUP", STOP, &[&messina], || {
            (!messina.lines("SIGHUP: logins read again").is_empty()).then_some(())
        });
        let ended = messina.ended_records();
        let mut in_flight = vec![messina.in_flight()];
        messina.signal();
        let (code, took) =
            messina.wait_for_end(SHUTDOWN_TIMEOUT, || in_flight.extend(messina.in_flight_while_it_ends()));
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
        let most = in_flight.iter().max().unwrap();
        println!(
            "life {life}: {ended} ended and {} in flight at SIGTERM, stopped in {took:.1?}",
            in_flight[0]
        );
        println!(
            "  {} records published, {} committed, at most {most} in flight",
            published.len(),
            wanted.len()
        );
        assert!(took < STOP, "{took:.1?} is too long for a stop\n{}", messina.tail());
        assert!(
            *most <= MAX_IN_FLIGHT,
            "{in_flight:?} in flight during the drain: it takes new records"
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
    numbers.committed("drained", sent, &[&messina]);
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
