//! Promise 5 when the network is bad: 200 ms of delay each way, chunks that arrive late, and connections that break, to the brokers, the
//! database and the registry.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{between, more, pipelines, rate};
use crate::support::Bench;
use crate::support::figures;
use crate::support::judge::judge;
use crate::support::numbers::Numbers;
use crate::support::process::Messina;
use crate::support::proxy::{Proxy, Weather};
use crate::support::watch::Watch;

/// The broker's second listener, and the address that it advertises: the proxy's.
const LISTENER: &str = "127.0.0.1:17095";
const ADVERTISED: &str = "127.0.0.1:17096";

const BAD: Weather = Weather {
    delay: Duration::from_millis(200),
    stalled_of_1000: 20,
    stall: Duration::from_millis(400),
};

#[test]
fn delayed_and_lossy_network() {
    let properties = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("proxied.properties");
    let text = format!(
        "listeners=PLAINTEXT://127.0.0.1:17092,PROXIED://{LISTENER},CONTROLLER://127.0.0.1:27092\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:17092,PROXIED://{ADVERTISED}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
    );
    std::fs::write(&properties, text).unwrap();
    let settings = [("KAFKA_EXTRA_PROPERTIES", properties.to_str().unwrap())];
    let Some(bench) = Bench::find_with("delayed_and_lossy_network", &["kafka", "cassandra"], &settings) else {
        return;
    };
    let numbers = Numbers::new(&bench, 8, &pipelines("outage"));
    let brokers = Proxy::new(ADVERTISED, LISTENER, 1);
    let database = Proxy::new("127.0.0.1:0", &bench.nodes[0], 2);
    let (host, path) = bench
        .registry
        .url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap_or((bench.registry.url.trim_start_matches("http://"), ""));
    let registry = Proxy::new("127.0.0.1:0", host, 3);
    let [config, local] = numbers.config(Duration::from_secs(30), &pipelines("outage"));
    let far = bench.file(
        "far.toml",
        &format!(
            "[kafka]\nbrokers = \"{ADVERTISED}\"\n\
             [scylla]\nnodes = [\"{}\"]\n[registry]\nurl = \"http://{}/{path}\"\n",
            database.address, registry.address
        ),
    );
    // From the start, because Messina asks the registry then.
    for proxy in [&brokers, &database, &registry] {
        proxy.set(BAD);
    }
    let messina = Messina::start("messina", &[&config, &local, &far]);
    messina.ready();
    let load = numbers.load(rate(), i64::MAX);
    let watch = Watch::over(&messina);
    let group = numbers.group("outage");
    let began = Instant::now();
    more(&messina, between(), "in bad weather");
    let members = bench.kafka.member_ids(&group);
    assert_eq!(members.len(), 1);
    let broken = (brokers.break_all(), database.break_all());
    more(&messina, between(), "after the connections broke");
    let again = (brokers.break_all(), database.break_all());
    more(&messina, between(), "after they broke again");
    let took = began.elapsed();
    for proxy in [&brokers, &database, &registry] {
        proxy.set(Weather::default());
    }
    let sent = load.stop();
    numbers.committed("outage", sent, &[&messina]);
    watch.stop();
    assert_eq!(
        bench.kafka.member_ids(&group),
        members,
        "the consumer was put out of its group"
    );
    messina.stop();
    println!(
        "{} records in bad weather took {took:.1?}; connections to brokers and database that broke: {broken:?}, {again:?}",
        3 * between()
    );
    assert!(
        broken.0 > 0 && broken.1 > 0 && again.0 > 0 && again.1 > 0,
        "nothing broke: {broken:?}, {again:?}"
    );
    assert!(registry.carried() > 0, "the registry was not asked through the proxy");
    let judgement = judge(&bench, &numbers, "outage", sent);
    let mut figures = judgement.figures();
    figures["connections_broken"] = json!(broken.0 + broken.1 + again.0 + again.1);
    figures::note("delayed_and_lossy_network", &figures);
    drop(messina);
    bench.clean();
}
