//! Promise 5 when the schema registry fails: it is down at the start, or down when a record arrives whose schema is not known yet.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{between, more, pipelines, rate};
use crate::support::figures;
use crate::support::judge::judge;
use crate::support::numbers::Numbers;
use crate::support::process::Messina;
use crate::support::watch::Watch;
use crate::support::{Bench, LONG, until};

#[test]
fn registry_down() {
    let Some(bench) = Bench::find_with("registry_down", &["registry"], &[]) else {
        return;
    };
    let services = bench.own();
    let numbers = Numbers::new(&bench, 8, &pipelines("outage"));
    let configs = numbers.config(Duration::from_secs(30), &pipelines("outage"));

    services.kill(&["registry"]);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listen = bench.file("listen.toml", &format!("[http]\nlisten = \"{address}\"\n"));
    let messina = Messina::start("messina", &[&configs[0], &configs[1], &listen]);
    messina.listens_on(address);
    messina.ready();
    until("readiness to name the registry", LONG, &[&messina], || {
        let (ready, why) = messina.readiness()?;
        assert!(!ready, "ready without a registry");
        why.contains("registry").then_some(())
    });
    let watch = Watch::over(&messina);
    services.start(&["registry"]);
    let began = Instant::now();
    let load = numbers.load(rate(), i64::MAX);
    more(&messina, between(), "after the registry came");
    println!(
        "{} records {:.1?} after the registry answered",
        between(),
        began.elapsed()
    );

    let sent = load.stop();
    numbers.evolve();
    // The registry's database (H2) writes to its file half a second after the registry has answered, later on a slow machine. Killed at once, it
    // would not know the schema after the restart, and its records would rightly become dead letters.
    std::thread::sleep(Duration::from_secs(6));
    services.kill(&["registry"]);
    let load = numbers.load_from(sent, rate(), i64::MAX);
    until("records to wait for their schema", LONG, &[&messina], || {
        (messina.waiting_for_schema() > 0).then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    services.start(&["registry"]);
    let began = Instant::now();
    until("the records that wait to have their schema", LONG, &[&messina], || {
        (messina.waiting_for_schema() == 0).then_some(())
    });
    let back = began.elapsed();
    println!("no record waits {back:.1?} after the registry answered again");
    more(&messina, between(), "after the registry came back");
    let sent = load.stop();
    numbers.committed("outage", sent, &[&messina]);
    watch.stop();
    messina.stop();
    let judgement = judge(&bench, &numbers, "outage", sent);
    assert_eq!(judgement.duplicated, 0, "nothing was to run again");
    let mut figures = judgement.figures();
    figures["resume_s"] = json!(back.as_secs_f64());
    figures::note("registry_down", &figures);
    drop(messina);
    bench.clean();
}
