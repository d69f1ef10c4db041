//! Records that retention has deleted before a pipeline reads them cannot be processed. They are logged and counted, and no others are
//! missing.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::support::numbers::{Numbers, Pipeline};
use crate::support::process::Messina;
use crate::support::{Bench, LONG, until};

const NAME: &str = "late";
const RECORDS: i64 = 100;
/// The group's committed offset, and the log's first offset when the pipeline starts.
const COMMITTED: i64 = 10;
const LOW: i64 = 50;

#[test]
fn what_retention_took_before_it_was_read_is_told_and_counted() {
    let Some(bench) = Bench::find("what_retention_took_before_it_was_read_is_told_and_counted") else {
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
    numbers.fill(RECORDS);
    let group = numbers.group(NAME);
    bench.kafka.commit(&group, &numbers.topic, 0, COMMITTED);
    bench.kafka.delete_before(&bench, &numbers.topic, 0, LOW);
    let messina = Messina::start("messina", &[&config, &local]);
    until("what is left", LONG, &[&messina], || {
        (bench.kafka.committed(&group, &numbers.topic)[0] == RECORDS).then_some(())
    });
    let told = messina.lines("records are gone before they were read");
    assert_eq!(told.len(), 1, "{}", messina.tail());
    let line: Value = serde_json::from_str(&told[0]).unwrap();
    assert_eq!(line["topic"], numbers.topic);
    let figures = ["partition", "from", "to", "records"].map(|field| line[field].as_i64());
    assert_eq!(figures, [0, COMMITTED, LOW, LOW - COMMITTED].map(Some), "{line}");
    assert_eq!(
        messina.metric("messina_passed_over_records_total") as i64,
        LOW - COMMITTED
    );
    messina.stop();
    let outputs: BTreeSet<i64> = numbers.outputs(NAME).iter().map(|output| output.seq).collect();
    assert_eq!(outputs, (LOW..RECORDS).collect());
    drop(messina);
    bench.clean();
}
