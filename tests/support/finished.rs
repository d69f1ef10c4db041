//! Checks from outside that whatever is committed is finished: the records of the three pipelines below a committed offset must be in the
//! output or among the dead letters.
//!
//! Each check continues reading where the last one stopped, so it can run after each of many kills. Records are identified by the number
//! in their id (`tests/tools/pool.py`), which is found in the bytes without decoding them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::three::PIPELINES;
use super::{Bench, LONG};

/// The first characters of each pipeline's ids, with seed 1: `tests/tools/pipelines.py` defines the tags, `pool.py` the rest.
const IDS: [&str; 3] = [
    "6e617601-0000-4e2e-8000-",
    "6f726401-0000-4e2e-8000-",
    "72656101-0000-4e2e-8000-",
];
/// Suffixes of the topics, beside the input, where a pipeline's records can end.
const ENDS: [&str; 2] = ["-enriched", "-dead-letters"];

/// What has been read so far.
pub struct Finished<'b> {
    bench: &'b Bench,
    consumer: BaseConsumer,
    /// The next offset to read.
    position: HashMap<(String, i32), i64>,
    /// Per pipeline and partition: the numbers of the input records, by offset.
    inputs: [HashMap<i32, Vec<u64>>; 3],
    /// Per pipeline: the numbers that have ended.
    ended: [HashSet<u64>; 3],
}

impl<'b> Finished<'b> {
    /// Starts with nothing read.
    pub fn new(bench: &'b Bench) -> Finished<'b> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &bench.kafka.brokers)
            .set("group.id", "test-tools")
            .set("enable.auto.commit", "false");
        Finished {
            bench,
            consumer: config.create().unwrap(),
            position: HashMap::new(),
            inputs: Default::default(),
            ended: Default::default(),
        }
    }

    /// What the groups have committed, by pipeline and partition. Call it before [`Finished::open`]: a record that ends between the two
    /// calls is the only case in which an early commit is not noticed.
    pub fn committed(&self) -> Vec<Vec<i64>> {
        let ask = |p: &&str| {
            let group = self.bench.name(&format!("{p}-enrichment"));
            self.bench.kafka.committed(&group, &self.bench.name(p))
        };
        PIPELINES.iter().map(ask).collect()
    }

    /// Counts the records below these offsets that have not ended: they were neither published nor dead-lettered, or, if `rows` is given,
    /// have no row (`rows` holds, by pipeline, the numbers that have one).
    pub fn open(&mut self, committed: &[Vec<i64>], rows: Option<&[HashSet<u64>]>) -> usize {
        self.read_on();
        let mut count = 0;
        for (pipeline, committed) in committed.iter().enumerate() {
            let is_open =
                |n: &&u64| !self.ended[pipeline].contains(n) || rows.is_some_and(|rows| !rows[pipeline].contains(n));
            for (partition, end) in (0..).zip(committed).filter(|(_, end)| **end > 0) {
                let inputs = &self.inputs[pipeline][&partition];
                count += inputs[..usize::try_from(*end).unwrap()].iter().filter(is_open).count();
            }
        }
        count
    }

    fn read_on(&mut self) {
        let mut list = TopicPartitionList::new();
        let mut open = HashMap::new();
        for topic in PIPELINES
            .iter()
            .flat_map(|p| ["", ENDS[0], ENDS[1]].map(|s| self.bench.name(&format!("{p}{s}"))))
        {
            for (partition, (_, end)) in (0..).zip(self.bench.kafka.ends(&topic)) {
                let at = *self.position.entry((topic.clone(), partition)).or_insert(0);
                if at < end {
                    list.add_partition_offset(&topic, partition, Offset::Offset(at))
                        .unwrap();
                    open.insert((topic.clone(), partition), end);
                }
            }
        }
        self.consumer.assign(&list).unwrap();
        let began = Instant::now();
        while !open.is_empty() {
            assert!(
                began.elapsed() < LONG,
                "{} partitions are not read to their end",
                open.len()
            );
            let Some(message) = self.consumer.poll(Duration::from_millis(100)) else {
                continue;
            };
            let message = message.unwrap();
            let place = (message.topic().to_owned(), message.partition());
            // Records written since then are left for the next call.
            let Some(end) = open.get(&place).copied() else { continue };
            let (offset, value) = (message.offset(), message.payload().map(<[u8]>::to_vec));
            drop(message);
            self.take(&place, offset, value.as_deref());
            self.position.insert(place.clone(), offset + 1);
            if offset + 1 >= end {
                open.remove(&place);
            }
        }
        self.consumer.unassign().unwrap();
    }

    fn take(&mut self, (topic, partition): &(String, i32), offset: i64, value: Option<&[u8]>) {
        let name = topic.strip_prefix(&self.bench.prefix).unwrap();
        let pipeline = PIPELINES.iter().position(|p| name.starts_with(p)).unwrap();
        let number = number(IDS[pipeline], value.unwrap_or_default())
            .unwrap_or_else(|| panic!("{topic}/{partition} offset {offset}: a record without an id"));
        if name == PIPELINES[pipeline] {
            let inputs = self.inputs[pipeline].entry(*partition).or_default();
            assert_eq!(inputs.len() as i64, offset, "the input topic has no gaps");
            inputs.push(number);
        } else {
            self.ended[pipeline].insert(number);
        }
    }
}

fn number(id: &str, value: &[u8]) -> Option<u64> {
    let at = value.windows(id.len()).position(|w| w == id.as_bytes())? + id.len();
    u64::from_str_radix(std::str::from_utf8(value.get(at..at + 12)?).ok()?, 16).ok()
}
