//! Promise 3: with `order = "key"` the outputs of each key keep the order of the inputs while many records are in
//! flight.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use crate::support::numbers::{Numbers, Output, Pipeline, duplicates};
use crate::support::process::Messina;
use crate::support::{Bench, LONG, until};

const RECORDS: i64 = 30_000;

/// How often a record follows a later one of its key in the key's partition.
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
        // The rows are cached for a short time, so answers come from memory and from the database in turn.
        Pipeline {
            name: "cached",
            order: "key",
            cache: Some("{ ttl = \"20ms\", missing_ttl = \"5ms\" }"),
            writes: false,
        },
        // Shows what the test would see without lanes.
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
        // The pipeline without order proves that the test can detect disorder.
        assert_eq!(
            out_of_order == 0,
            *order != "none",
            "{name}: {out_of_order} records out of order"
        );
    }
    drop(messina);
    bench.clean();
}
