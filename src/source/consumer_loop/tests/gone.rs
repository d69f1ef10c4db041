//! Tests of records that retention deletes before they are read, and of those that are read all the same.

use super::*;

/// The mock cluster keeps 5 MiB of a partition.
const BYTES: usize = 100 << 10;

/// Records without a value, of that size, each in a batch of its own.
fn give_large(load: &Load, count: usize) {
    let key = vec![b'k'; BYTES];
    for _ in 0..count {
        let record = BaseRecord::<[u8], [u8]>::to("in").key(&key).partition(0);
        load.producer.send(record).map_err(|(error, _)| error).unwrap();
        load.producer.flush(Duration::from_secs(10)).unwrap();
    }
}

/// A group that has stopped after its first record.
fn stopped_behind_one() -> (MockCluster<'static, DefaultProducerContext>, Load) {
    let bench = Bench::start(1, Duration::ZERO, Duration::from_secs(60));
    let load = Load::new(&bench);
    load.send(0);
    until("its commit", || {
        bench.metrics.partition("in", 0).committed_offset.get() == 1
    });
    let Bench {
        cluster, stop, thread, ..
    } = bench;
    stop.send(true).unwrap();
    assert!(matches!(thread.join().unwrap(), End::Drained));
    (cluster, load)
}

/// Starts the group again, which commits the end. Returns where the log began and ended, and how many records were
/// gone.
fn started_again(cluster: MockCluster<'static, DefaultProducerContext>) -> (i64, i64, u64) {
    let asks: BaseConsumer = client(&cluster.bootstrap_servers()).create().unwrap();
    let (low, end) = asks.fetch_watermarks("in", 0, Duration::from_secs(60)).unwrap();
    let bench = Bench::join(cluster, Duration::ZERO, Duration::from_secs(60));
    until("what is left", || {
        bench.metrics.partition("in", 0).committed_offset.get() == end
    });
    let gone = bench.all_metrics.passed_over_records_total.of(["p", "in"]).get();
    until("it to be told", || {
        let errors = bench.state.get().last_errors;
        errors.iter().any(|error| error.contains("no longer has")) == (gone > 0)
    });
    assert!(matches!(bench.end(), End::Drained));
    (low, end, gone)
}

#[test]
fn what_retention_took_before_it_was_read_is_told_and_counted() {
    let (cluster, load) = stopped_behind_one();
    give_large(&load, 70);
    let (low, end, gone) = started_again(cluster);
    assert!(low > 1 && end == 71, "{low} {end}");
    assert_eq!(gone, low.abs_diff(1));
}

#[test]
fn what_is_still_there_is_not_told() {
    let (cluster, load) = stopped_behind_one();
    give_large(&load, 10);
    assert_eq!(started_again(cluster), (0, 11, 0));
}
