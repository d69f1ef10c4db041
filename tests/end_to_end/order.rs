//! Promise 3: with `order = "key"` the output of each key has the order of the input, many records being in flight.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use crate::support::numbers::{Numbers, Output, Pipeline, duplicates};
use crate::support::process::Messina;
use crate::support::{Bench, LONG, until};

const RECORDS: i64 = 30_000;

/// How often a record of a key comes after a later one of that key, in the partition that the key has.
fn inversions(outputs: &[Output]) -> usize {
    let mut last: HashMap<&str, (i32, i64)> = HashMap::new();
    let mut count = 0;
    for output in outputs {
        if let Some((partition, seq)) = last.insert(&output.who, (output.at.0, output.seq)) {
            assert_eq!(partition, output.at.0, "the key {} is in two partitions", output.who);
            count += usize::from(output.seq < seq);
        }
    }
    count
}

#[test]
fn order_by_key() {
    let Some(bench) = Bench::find("order_by_key") else {
        return;
    };
    let pipelines = [
        Pipeline {
            name: "uncached",
            order: "key",
            cache: None,
            writes: false,
        },
        // Short-lived rows: answers from memory and from the database come in turns.
        Pipeline {
            name: "cached",
            order: "key",
            cache: Some("{ ttl = \"20ms\", missing_ttl = \"5ms\" }"),
            writes: false,
        },
        // What the test would see if lanes did not hold.
        Pipeline {
            name: "unordered",
            order: "none",
            cache: None,
            writes: false,
        },
    ];
    let numbers = Numbers::new(&bench, 6, &pipelines);
    numbers.fill(RECORDS);
    let configs = numbers.config(Duration::from_secs(30), &pipelines);
    let messina = Messina::start("messina", &configs.each_ref().map(|path| path as &Path));
    until(
        "every record to be committed by the three groups",
        LONG,
        &[&messina],
        || {
            let done = |p: &Pipeline<'_>| bench.kafka.progress(&numbers.group(p.name), &numbers.topic).0;
            pipelines.iter().all(|p| done(p) == RECORDS as u64).then_some(())
        },
    );
    messina.stop();
    for Pipeline { name, order, .. } in &pipelines {
        let outputs = numbers.outputs(name);
        let out_of_order = inversions(&outputs);
        println!(
            "{name}: {out_of_order} of {} records out of order, order = {order:?}",
            outputs.len()
        );
        assert_eq!(duplicates(&outputs, RECORDS), 0, "{name}: duplicates");
        // What has no order shows that the test would see it.
        assert_eq!(
            out_of_order == 0,
            *order != "none",
            "{name}: {out_of_order} records out of order"
        );
    }
    drop(messina);
    bench.clean();
}
