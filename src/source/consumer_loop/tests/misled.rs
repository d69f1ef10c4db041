//! Outputs that stand still: because of their producer, which can be replaced, and because of an outage, where replacing it
//! does not help.

use rdkafka::bindings as c;
use rdkafka::mocking::MockCoordinator;
use rdkafka::producer::BaseProducer;

use super::*;

/// The broker that leads the output topic, and the former leader.
const LEADER: i32 = 2;
const BEFORE: i32 = 1;

/// A topic that is deleted and created again begins with a lower epoch. Nobody has asked for it in between.
#[test]
fn a_producer_that_keeps_to_a_leader_of_before_is_made_anew() {
    // The client lives as long as its cluster, whose C handle is obtained from it.
    let host: &'static BaseProducer = Box::leak(Box::new(
        ClientConfig::new()
            .set("test.mock.num.brokers", "2")
            .create::<BaseProducer>()
            .unwrap(),
    ));
    let cluster = host.client().mock_cluster().unwrap();
    cluster
        .coordinator(MockCoordinator::Group("g".to_owned()), BEFORE)
        .unwrap();
    for (topic, leader) in [("in", BEFORE), ("out", LEADER)] {
        cluster.create_topic(topic, 1, 1).unwrap();
        cluster.partition_leader(topic, 0, Some(leader)).unwrap();
    }
    // SAFETY: the client is never dropped, and the name ends with a null byte.
    let pushed = unsafe {
        let handle = c::rd_kafka_handle_mock_cluster(host.client().native_ptr());
        c::rd_kafka_mock_partition_push_leader_response(handle, c"out".as_ptr(), 0, BEFORE, 7)
    };
    assert_eq!(pushed, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
    let stall_after = Duration::from_secs(3);
    let bench = Bench::run(cluster, Duration::ZERO, stall_after, TOML.to_owned() + OUTPUT);
    Load::new(&bench).send(0);
    // A request before this would still get the former answer.
    until("another producer", || bench.metrics.consumer_rebuilds.get() > 0);
    assert_eq!(published(&bench, 1), [0]);
    // On a busy machine the next consumer may be called broken in its first seconds.
    assert!(bench.metrics.consumer_rebuilds.get() <= 2);
    assert!(matches!(bench.end(), End::Drained));
}

/// The leader is there, and is the one that librdkafka knows: another producer would get the same answers.
#[test]
fn an_outage_of_the_output_topic_is_a_stall_and_no_producer_is_made_anew() {
    let cluster = cluster(1);
    cluster.create_topic("out", 1, 1).unwrap();
    let latency = Duration::from_secs(4);
    let bench = Bench::run(cluster, latency, Duration::from_secs(6), TOML.to_owned() + OUTPUT);
    Load::new(&bench).send(0);
    // While its row is written.
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS;
    bench
        .cluster
        .request_errors(RDKafkaApiKey::Produce, &vec![refusal; 5000]);
    until("the stall", || {
        bench.state.get().partitions.iter().any(|partition| partition.stalled)
    });
    // As long as it takes to check who leads.
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(bench.metrics.consumer_rebuilds.get(), 0);
    bench.cluster.clear_request_errors(RDKafkaApiKey::Produce);
    assert_eq!(published(&bench, 1), [0]);
    assert!(matches!(bench.end(), End::Drained));
}
