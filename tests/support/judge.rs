//! What a pipeline of numbers must have left behind, whatever was broken meanwhile.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::Bench;
use super::numbers::{Numbers, Output, duplicates};

/// The result of the checks. A violated promise has failed the test before.
#[derive(Debug, Clone, Copy)]
pub struct Judgement {
    /// Records sent.
    pub sent: i64,
    /// Records that came out more than once; every repetition counts.
    pub duplicated: usize,
}

impl Judgement {
    /// For `benches/figures`.
    pub fn figures(&self) -> Value {
        json!({
            "records": self.sent, "lost": 0, "out_of_order": 0, "dead_lettered_wrongly": 0,
            "duplicated_percent": self.duplicated as f64 * 100.0 / self.sent as f64,
        })
    }
}

/// Checks output, order, rows and dead letters of a pipeline that has processed `sent` good records. The rows are compared with
/// the input topic: one per record, with the record's key and offset.
pub fn judge(bench: &Bench, numbers: &Numbers<'_>, pipeline: &str, sent: i64) -> Judgement {
    let letters: i64 = bench
        .kafka
        .ends(&bench.name(&format!("{pipeline}-dead-letters")))
        .iter()
        .map(|(_, end)| end)
        .sum();
    assert_eq!(letters, 0, "dead letters of good records");
    judge_good(bench, numbers, pipeline, sent)
}

/// The same if there were bad records, whose dead letters the test checks itself.
pub fn judge_good(bench: &Bench, numbers: &Numbers<'_>, pipeline: &str, sent: i64) -> Judgement {
    let outputs = numbers.outputs(pipeline);
    let duplicated = duplicates(&outputs, sent);
    let out_of_order = out_of_order(&outputs);
    assert_eq!(out_of_order, 0, "first appearances out of order");
    rows(bench, numbers, sent);
    Judgement { sent, duplicated }
}

/// How often a record first appears after a later record of its key.
pub fn out_of_order(outputs: &[Output]) -> usize {
    let (mut seen, mut last) = (HashSet::new(), HashMap::<&str, i64>::new());
    let mut count = 0;
    for output in outputs.iter().filter(|output| seen.insert(output.seq)) {
        let before = last.insert(&output.who, output.seq).unwrap_or(-1);
        count += usize::from(output.seq < before);
    }
    count
}

fn rows(bench: &Bench, numbers: &Numbers<'_>, sent: i64) {
    let wanted: HashMap<i64, (String, i64)> = numbers
        .inputs()
        .into_iter()
        .map(|(seq, record)| (seq, (record.key_text().to_owned(), record.offset)))
        .collect();
    assert_eq!(wanted.len() as i64, sent, "records in the input topic");
    let found: Vec<(i64, String, i64)> = bench.database().rows(
        bench,
        &format!("SELECT seq, who, place FROM {}.numbers", bench.keyspace),
    );
    let wrong: Vec<_> = found
        .iter()
        .filter(|(seq, who, place)| wanted.get(seq).is_none_or(|w| (&w.0, w.1) != (who, *place)))
        .take(3)
        .collect();
    assert!(wrong.is_empty(), "rows that differ from the input: {wrong:?}");
    assert_eq!(found.len() as i64, sent, "rows");
}
