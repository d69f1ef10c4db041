//! Tests of outputs that the producer refuses: what its breaker learns, and what happens to the outputs.

use std::time::Duration;

use rdkafka::ClientConfig;

use super::tests::{STEPS, bench};
use super::*;
use crate::breaker::gate::Gate;
use crate::breaker::{Rules, State};
use crate::kafka::login::Logins;
use crate::sink;
use crate::sink::batches::Batches;
use crate::telemetry::kafka::KafkaMetrics;
use crate::telemetry::metrics::Metrics;

/// The sink of a producer that reaches no broker, and has room for one record.
pub(super) fn narrow(runtime: &Runtime) -> Sink {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", "127.0.0.1:1");
    config.set("queue.buffering.max.messages", "1");
    let metrics = Metrics::new().unwrap();
    let statistics = KafkaMetrics::new(&metrics, "p", "producer");
    let (of_pipeline, batches) = (runtime.metrics.clone(), Arc::new(Batches::default()));
    let producer = sink::producer(&config, of_pipeline, statistics, true, None, batches, Logins::default());
    Sink::new(producer.unwrap(), "out")
}

#[tokio::test]
async fn a_refused_probe_gives_back_no_other() {
    let mut bench = bench(STEPS).await;
    bench.publishes();
    let pause = Duration::from_millis(1);
    let rules = Rules {
        many: 1,
        delay: Backoff::new(pause, pause, 1.0),
        ..Rules::default()
    };
    let gate = Arc::new(Gate::new("sink", rules, None));
    let mut runtime = (*bench.runtime).clone();
    runtime.gates.sink = gate.clone();
    let sink = narrow(&runtime);
    let first = bench.event(0, 1, "click", false);
    assert!(sink.send(first, b"out", None, Instant::now()).is_ok());
    runtime.sink = Some(sink);
    gate.failed(false);
    let probe = loop {
        match gate.pass() {
            Ok(pass) => break pass,
            Err(next) => gate.wait(next).await,
        }
    };
    let event = bench.event(1, 1, "click", false);
    let tenure = event.tenure.clone();
    let full = Failure::transient("producer_queue_full", "the queue is full");
    let refused = tokio::spawn(async move { runtime.send_again(event, full).await });
    // It is refused again and again, each time as a probe.
    for _ in 0..50 {
        tokio::time::sleep(pause).await;
        assert_eq!(gate.state(), State::HalfOpen, "the other probe is out");
    }
    tenure.end();
    refused.await.unwrap();
    drop(probe);
    assert_eq!(gate.state(), State::Open);
}

#[tokio::test]
async fn an_output_that_has_no_room_is_made_again_for_each_attempt() {
    let mut bench = bench(STEPS).await;
    bench.publishes();
    let mut runtime = (*bench.runtime).clone();
    let sink = narrow(&runtime);
    let first = bench.event(0, 1, "click", false);
    assert!(sink.send(first, b"out", None, Instant::now()).is_ok());
    runtime.sink = Some(sink);
    let event = bench.event(1, 1, "click", false);
    let tenure = event.tenure.clone();
    let made = runtime.metrics.encode.clone();
    let refused = tokio::spawn(async move { runtime.publish(event).await });
    // If the output were kept, it would be encoded only once.
    let again = async {
        while made.get_sample_count() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), again).await.unwrap();
    tenure.end();
    refused.await.unwrap();
}
