//! Tests of what a rebalance does beside a drain: outputs that brokers have not accepted when their partition leaves, and what is fetched meanwhile.

use super::*;

/// The number of outputs in the topic.
fn outputs(bench: &Bench) -> i64 {
    let consumer: BaseConsumer = client(&bench.cluster.bootstrap_servers()).create().unwrap();
    let (_, end) = consumer.fetch_watermarks("out", 0, Duration::from_secs(10)).unwrap();
    end
}

fn committed(bench: &Bench, partition: i32) -> i64 {
    bench.metrics.partition("in", partition).committed_offset.get()
}

/// A loop that has published and committed the first record of each of these partitions. From here on outputs stay with the producer, because their
/// broker is down.
fn without_the_sink(partitions: i32, toml: String) -> (Bench, Load) {
    let cluster = with_sink_apart(partitions);
    let bench = Bench::run(cluster, Duration::ZERO, Duration::from_secs(60), toml);
    let load = Load::new(&bench);
    (0..partitions).for_each(|partition| load.send(partition));
    until("the first commits", || {
        (0..partitions).all(|partition| committed(&bench, partition) == 1)
    });
    bench.cluster.broker_down(SINK).unwrap();
    (bench, load)
}

/// The member was cut off for longer than its session: its output, if delivered later, would come after those of the next owner.
#[test]
fn an_output_of_a_partition_that_was_lost_is_left_to_the_next_owner() {
    let (bench, load) = without_the_sink(1, TOML.to_owned() + OUTPUT);
    load.send(0);
    until("the second row", || bench.written(0).len() == 2);
    // By then the producer has its output.
    std::thread::sleep(Duration::from_secs(1));
    let gone = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID;
    bench.cluster.request_errors(RDKafkaApiKey::Heartbeat, &[gone]);
    // It runs at the next owner, which is the same consumer here.
    until("the second record to run again", || bench.store.writes().len() == 3);
    bench.cluster.broker_up(SINK).unwrap();
    until("its output", || bench.metrics.published.get() >= 2);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(outputs(&bench), 2);
    assert!(matches!(bench.end(), End::Drained));
}

#[test]
fn outputs_that_are_left_at_the_end_of_a_drain_are_left_to_the_next_owner() {
    let toml = format!("shutdown_timeout = \"2s\"\n{TOML}{OUTPUT}");
    let (bench, load) = without_the_sink(2, toml);
    (0..2).for_each(|partition| load.give_many(partition, &RECORD, 3));
    until("the rows", || {
        (0..2).all(|partition| bench.written(partition).len() == 4)
    });
    let other = member(&bench.cluster.bootstrap_servers());
    until("the other member to have a partition", || {
        let _ = other.poll(Duration::from_millis(10));
        other.assignment().unwrap().count() == 1
    });
    until("another consumer", || bench.metrics.consumer_rebuilds.get() > 0);
    bench.cluster.broker_up(SINK).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    // Outputs of the partition that stays, if the new consumer has it by now; the other member publishes nothing.
    let more = outputs(&bench) - 2;
    assert!(more <= 3, "{more}");
    assert!(!matches!(bench.end(), End::Halted(_)));
}

/// librdkafka also pauses partitions that stay, until it has an answer.
#[test]
fn what_stays_goes_on_while_the_group_does_not_say_where_the_rest_begins() {
    let bench = Bench::start(2, Duration::ZERO, Duration::from_secs(3));
    let load = Load::new(&bench);
    let other = member(&bench.cluster.bootstrap_servers());
    let mut kept = None;
    until("each to have a partition", || {
        let _ = other.poll(Duration::from_millis(10));
        let running = bench.state.get().partitions;
        kept = running.first().map(|partition| partition.partition);
        let settled = running.len() == 1 && running[0].phase == "running";
        settled && other.assignment().unwrap().count() == 1
    });
    let kept = kept.unwrap();
    load.send(kept);
    until("its first row", || bench.written(kept).len() == 1);
    // The group does not say where the other member's partition begins.
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN;
    bench
        .cluster
        .request_errors(RDKafkaApiKey::OffsetFetch, &vec![refusal; 5000]);
    other.unsubscribe();
    until("the other partition to be given", || {
        let _ = other.poll(Duration::from_millis(10));
        let partitions = bench.state.get().partitions;
        partitions.iter().any(|partition| partition.phase == "starting")
    });
    (0..5).for_each(|_| load.send(kept));
    until("the rows", || bench.written(kept).len() == 6);
    // Longer than it takes to ask for the end of what is not fetched, and to call that a stall.
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(bench.metrics.consumer_rebuilds.get(), 0);
    bench.cluster.clear_request_errors(RDKafkaApiKey::OffsetFetch);
    until("the rest to begin", || {
        let partitions = bench.state.get().partitions;
        partitions.len() == 2 && partitions.iter().all(|partition| partition.phase == "running")
    });
    assert!(matches!(bench.end(), End::Drained));
}

/// librdkafka revokes only the partitions of such a topic, calls them lost, and keeps the others.
#[test]
fn partitions_of_a_topic_that_may_not_be_read_any_more_leave_alone() {
    let cluster = cluster(1);
    cluster.create_topic("closed", 1, 1).unwrap();
    let toml = TOML.replace("[\"in\"]", "[\"in\", \"closed\"]");
    let bench = Bench::run(cluster, Duration::ZERO, Duration::from_secs(60), toml);
    let load = Load::new(&bench);
    let held = |topic: &str| bench.state.get().partitions.iter().any(|at| at.topic == topic);
    until("both topics", || held("in") && held("closed"));
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    bench.cluster.topic_error("closed", refusal).unwrap();
    until("the topic to leave", || !held("closed"));
    for _ in 0..10 {
        load.send(0);
        std::thread::sleep(Duration::from_millis(100));
    }
    until("the rows", || bench.written(0).len() == 10);
    until("their commit", || committed(&bench, 0) == 10);
    assert_eq!(bench.state.get().state, "running");
    assert!(matches!(bench.end(), End::Drained));
}
