//! Promise 6 with transactional producers: an open transaction withholds everything that follows it. That is a stall, and a new consumer would
//! not help.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::numbers::{Numbers, Pipeline, duplicates, who};
use crate::support::process::Messina;
use crate::support::{Bench, LONG, until};

const NAME: &str = "reader";
/// Number of records before the transaction.
const BEFORE: i64 = 10;
/// Time-out of one call of the producer.
const CALL: Duration = Duration::from_secs(30);

#[test]
fn an_open_transaction_of_the_input_is_a_stall_until_it_ends() {
    let Some(bench) = Bench::find("an_open_transaction_of_the_input_is_a_stall_until_it_ends") else {
        return;
    };
    let pipelines = [Pipeline {
        name: NAME,
        order: "key",
        cache: None,
        writes: false,
    }];
    let numbers = Numbers::new(&bench, 1, &pipelines);
    let [config, local] = numbers.config(Duration::from_secs(20), &pipelines);
    let soon = format!("[pipelines.{NAME}.source]\nstall_timeout = \"8s\"\n");
    let soon = bench.file("soon.toml", &soon);
    numbers.fill(BEFORE);
    let messina = Messina::start("messina", &[&config, &local, &soon]);
    let committed = || bench.kafka.committed(&numbers.group(NAME), &numbers.topic)[0];
    until("the records before it", LONG, &[&messina], || {
        (committed() == BEFORE).then_some(())
    });
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &bench.kafka.brokers)
        .set("transactional.id", bench.name("open"))
        .set("transaction.timeout.ms", "600000")
        .create()
        .unwrap();
    producer.init_transactions(CALL).unwrap();
    producer.begin_transaction().unwrap();
    let key = who(BEFORE);
    let value = numbers.record(BEFORE, &key);
    let record = BaseRecord::to(&numbers.topic).key(&key).payload(&value);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(CALL).unwrap();
    // One more record behind it, from a producer without transactions.
    let sent = numbers.load_from(BEFORE + 1, 1_000_000, BEFORE + 2).wait();
    until("the stall to be told", LONG, &[&messina], || {
        let (ready, why) = messina.readiness()?;
        (!ready && why.contains("1 partitions make no progress")).then_some(())
    });
    assert!(messina.metric("messina_stalled_partitions") > 0.0);
    assert_eq!(messina.metric("messina_lag_records") as i64, 2, "{}", messina.tail());
    assert!(!messina.lines("no progress").is_empty(), "{}", messina.tail());
    // Longer than it takes until a broken consumer is replaced.
    std::thread::sleep(Duration::from_secs(12));
    assert!(!messina.is_ready());
    assert_eq!(committed(), BEFORE);
    producer.commit_transaction(CALL).unwrap();
    until("what it withheld", LONG, &[&messina], || {
        (committed() == sent).then_some(())
    });
    until("the end of the stall", LONG, &[&messina], || {
        (messina.is_ready() && messina.metric("messina_lag_records") as i64 == 0).then_some(())
    });
    assert_eq!(
        messina.metric("messina_consumer_rebuilds_total") as u64,
        0,
        "{}",
        messina.tail()
    );
    messina.stop();
    assert_eq!(duplicates(&numbers.outputs(NAME), sent), 0);
    drop(messina);
    bench.clean();
}
