//! A stream of small numbered records, for tests that look at order, duplicates and offsets record by record.
//!
//! Record `seq` belongs to one of a few keys, so that many records of a key are in flight at once. The input is encoded here, byte by byte; the
//! output is decoded by apache-avro with the schema from the registry. The output names the input record that it came from, so that what was
//! published can be compared with what was committed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::kafka::Record;
use super::process::Messina;
use super::{Bench, LONG, until_told};

const SCHEMA: &str = r#"{"type": "record", "name": "Number", "namespace": "com.acme.test", "fields": [
    {"name": "seq", "type": "long"}, {"name": "who", "type": "string"}]}"#;
/// A later version of the schema.
const EVOLVED: &str = r#"{"type": "record", "name": "Number", "namespace": "com.acme.test", "fields": [
    {"name": "seq", "type": "long"}, {"name": "who", "type": "string"}, {"name": "extra", "type": "long", "default": 0}]}"#;
/// Tables of the pipelines here; `people` has a row for every second key.
const TABLES: [(&str, &str); 2] = [
    ("people", "who text PRIMARY KEY, number bigint"),
    ("numbers", "seq bigint PRIMARY KEY, who text, place bigint"),
];
/// Distinct keys.
const KEYS: u64 = 64;

/// `max_in_flight` of each pipeline.
pub const MAX_IN_FLIGHT: u64 = 512;

/// Bytes fetched per partition at a time: so few that the records in flight come from many fetches.
const FETCH_BYTES: u32 = 4096;

/// A pipeline over the numbers.
pub struct Pipeline<'a> {
    /// Its name; its group, output and dead-letter topics are named after it.
    pub name: &'a str,
    /// `order`.
    pub order: &'a str,
    /// `cache` of the look-up, in TOML.
    pub cache: Option<&'a str>,
    /// Whether it writes a row for each record.
    pub writes: bool,
}

/// The stream of one test; its topic is `numbers`.
pub struct Numbers<'b> {
    bench: &'b Bench,
    /// The input topic.
    pub topic: String,
    /// The schema's id in the registry.
    pub schema_id: u32,
    /// The version with one more field, once it is registered.
    evolved: Cell<Option<u32>>,
}

/// An output record, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The input's number.
    pub seq: i64,
    /// The input's key.
    pub who: String,
    /// What the look-up found.
    pub number: Option<i64>,
    /// Partition and offset of the input record.
    pub place: (i32, i64),
    /// Partition and offset of the output record.
    pub at: (i32, i64),
}

/// The key of a record.
pub fn who(seq: i64) -> String {
    format!("k{:02}", key_number(seq))
}

/// Spreads neighbouring records over unrelated keys (multiplication by 2^64 divided by the golden ratio).
fn key_number(seq: i64) -> u64 {
    (seq.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % KEYS
}

/// What the look-up must find for a record.
pub fn number(seq: i64) -> Option<i64> {
    let key = key_number(seq);
    key.is_multiple_of(2).then_some(key as i64 * 10)
}

impl<'b> Numbers<'b> {
    /// Creates topics, tables and the schema.
    pub fn new(bench: &'b Bench, partitions: i32, pipelines: &[Pipeline<'_>]) -> Numbers<'b> {
        let topic = bench.name("numbers");
        let outputs = pipelines
            .iter()
            .flat_map(|p| ["enriched", "dead-letters"].map(|s| bench.name(&format!("{}-{s}", p.name))));
        let topics: Vec<String> = std::iter::once(topic.clone()).chain(outputs).collect();
        bench.kafka.create(
            bench,
            &topics.iter().map(String::as_str).collect::<Vec<_>>(),
            partitions,
        );
        let database = bench.database();
        bench.create_tables(&database, &bench.keyspace, &TABLES);
        for key in (0..KEYS).step_by(2) {
            database.run(
                bench,
                &format!(
                    "INSERT INTO {}.people (who, number) VALUES ('k{key:02}', {})",
                    bench.keyspace,
                    key * 10
                ),
            );
        }
        let schema_id = bench.registry.register(bench, &format!("{topic}-value"), SCHEMA);
        Numbers {
            bench,
            topic,
            schema_id,
            evolved: Cell::new(None),
        }
    }

    /// A second input topic with the same schema.
    pub fn another(&self, name: &str, partitions: i32) -> Numbers<'b> {
        let topic = self.bench.name(name);
        self.bench.kafka.create(self.bench, &[&topic], partitions);
        let schema_id = self
            .bench
            .registry
            .register(self.bench, &format!("{topic}-value"), SCHEMA);
        Numbers {
            bench: self.bench,
            topic,
            schema_id,
            evolved: Cell::new(None),
        }
    }

    /// Switches to another topic, of one partition on these brokers.
    pub fn kept_by(&mut self, brokers: &[i32], properties: &[(&str, &str)]) {
        self.topic = self.bench.name("kept-numbers");
        self.bench.kafka.create_on(self.bench, &self.topic, brokers, properties);
        let subject = format!("{}-value", self.topic);
        self.schema_id = self.bench.registry.register(self.bench, &subject, SCHEMA);
    }

    /// Registers a later version of the schema, which every third record uses from now on.
    pub fn evolve(&self) {
        let subject = format!("{}-value", self.topic);
        self.evolved
            .set(Some(self.bench.registry.register(self.bench, &subject, EVOLVED)));
    }

    /// Writes records whose values can never be decoded, and waits until they are delivered.
    pub fn send_bad(&self, count: i64) {
        let producer = self.bench.kafka.producer();
        for number in 0..count {
            let (key, value) = (who(number), format!("bad {number}"));
            put(&producer, &self.topic, &key, value.as_bytes());
        }
        producer.flush(Duration::from_secs(60)).unwrap();
    }

    /// The consumer group of a pipeline.
    pub fn group(&self, pipeline: &str) -> String {
        self.bench.name(&format!("{pipeline}-group"))
    }

    /// Waits until a pipeline has committed this many records. A failure shows how far it came in each partition, and where that begins and
    /// ends.
    pub fn committed(&self, pipeline: &str, records: i64, processes: &[&Messina]) {
        let (kafka, group) = (&self.bench.kafka, self.group(pipeline));
        let seen = RefCell::new((Vec::new(), Vec::new()));
        let what = || {
            let seen = seen.borrow();
            let (committed, ends) = &*seen;
            let there: i64 = ends.iter().map(|(_, end)| end).sum();
            let done: i64 = committed.iter().sum();
            format!("{records} records to be committed: {done} of {there} are, {committed:?} of {ends:?}")
        };
        until_told(&what, LONG, processes, || {
            let found = (kafka.committed(&group, &self.topic), kafka.ends(&self.topic));
            let done: i64 = found.0.iter().sum();
            *seen.borrow_mut() = found;
            (done == records).then_some(())
        });
    }

    /// The configuration that runs these pipelines in one process.
    pub fn config(&self, shutdown_timeout: Duration, pipelines: &[Pipeline<'_>]) -> [PathBuf; 2] {
        let mut text = format!(
            "shutdown_timeout = \"{}s\"\n[registry]\nregister = true\n",
            shutdown_timeout.as_secs()
        );
        text += "[scylla]\ndatacenter = \"dc1\"\n";
        for Pipeline {
            name,
            order,
            cache,
            writes,
        } in pipelines
        {
            let cache = cache.map_or(String::new(), |cache| format!("cache = {cache}\n"));
            let write = "[[pipelines.NAME.steps]]\nname = \"row\"\n\
                 write = \"INSERT INTO numbers (seq, who, place) VALUES (:seq, :who, :place)\"\nbind = { place = \"record.offset\" }\n";
            let pipeline = "[pipelines.NAME]\norder = \"ORDER\"\nmax_in_flight = LIMIT\n\
                 [pipelines.NAME.source]\ntopics = [\"TOPIC\"]\ngroup = \"GROUP\"\n\
                 properties = { \"max.partition.fetch.bytes\" = FETCH }\n\
                 [[pipelines.NAME.steps]]\nname = \"person\"\nlookup = \"SELECT number FROM people WHERE who = :who\"\nCACHE\
                 WRITE[pipelines.NAME.sink]\ntopic = \"PREFIXNAME-enriched\"\n\
                 set = { number = \"person.number\", source_partition = \"record.partition\", source_offset = \"record.offset\" }\n\
                 [pipelines.NAME.dead_letter]\ntopic = \"PREFIXNAME-dead-letters\"\n"
                .replace("WRITE", if *writes { write } else { "" })
                .replace("CACHE", &cache)
                .replace("GROUP", &self.group(name))
                .replace("TOPIC", &self.topic)
                .replace("PREFIX", &self.bench.prefix)
                .replace("ORDER", order)
                .replace("FETCH", &FETCH_BYTES.to_string())
                .replace("LIMIT", &MAX_IN_FLIGHT.to_string())
                .replace("NAME", name);
            text += &pipeline;
        }
        let local = super::three::local(self.bench, &self.bench.keyspace);
        [("numbers.toml", text), ("local.toml", local)].map(|(name, text)| self.bench.file(name, &text))
    }

    /// Starts writing records, `rate` per second, up to `count` of them.
    pub fn load(&self, rate: i64, count: i64) -> Load {
        self.load_from(0, rate, count)
    }

    /// The same, starting at record `first`; `count` includes those before it.
    pub fn load_from(&self, first: i64, rate: i64, count: i64) -> Load {
        let (producer, topic) = (self.bench.kafka.producer(), self.topic.clone());
        let ids = (self.schema_id, self.evolved.get());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            let mut sent = first;
            while sent < count && !stopped.load(Ordering::Relaxed) {
                let due = first + (began.elapsed().as_secs_f64() * rate as f64) as i64;
                while sent < due.min(count) {
                    send(&producer, &topic, ids, sent);
                    sent += 1;
                }
                producer.poll(Duration::from_millis(2));
            }
            // After an outage, a leader may have to wait for a replica, more than once.
            if let Err(error) = producer.flush(LONG) {
                let open = producer.in_flight_count();
                panic!("{open} of {sent} records are not there after {LONG:?}: {error}");
            }
            sent
        });
        Load {
            stop,
            thread: Some(thread),
        }
    }

    /// The value of a record with a key of the caller's choice.
    pub fn record(&self, seq: i64, who: &str) -> Vec<u8> {
        framed(self.schema_id, seq, who)
    }

    /// Writes records as fast as possible.
    pub fn fill(&self, count: i64) {
        assert_eq!(self.load(1_000_000, count).wait(), count);
    }

    /// The output of a pipeline, decoded.
    pub fn outputs(&self, pipeline: &str) -> Vec<Output> {
        let mut schemas = HashMap::new();
        let records = self.bench.kafka.read(&self.bench.name(&format!("{pipeline}-enriched")));
        records.iter().map(|record| self.decode(record, &mut schemas)).collect()
    }

    /// The good input records with their numbers.
    pub fn inputs(&self) -> Vec<(i64, Record)> {
        let records = self.bench.kafka.read(&self.topic);
        records
            .into_iter()
            .filter(|record| record.value.as_ref().is_some_and(|value| value[0] == 0))
            .map(|record| (get_long(&record.value.as_deref().unwrap()[5..]), record))
            .collect()
    }

    /// Writes one bad record with this key and value.
    pub fn send_secret(&self, key: &str, value: &str) {
        self.bench.kafka.send(
            BaseRecord::to(&self.topic)
                .key(key.as_bytes())
                .payload(value.as_bytes()),
        );
    }

    /// Partition and offset of each bad record.
    pub fn bad(&self) -> Vec<(i32, i64)> {
        let mut places = Vec::new();
        for record in self.bench.kafka.read(&self.topic) {
            if record.value.as_ref().is_some_and(|value| value[0] != 0) {
                places.push((record.partition, record.offset));
            }
        }
        places
    }

    /// The offset of the first bad record of each partition that has one.
    pub fn first_bad(&self) -> HashMap<i32, i64> {
        let mut first = HashMap::new();
        for (partition, offset) in self.bad() {
            first.entry(partition).or_insert(offset);
        }
        first
    }

    fn decode(&self, record: &Record, schemas: &mut HashMap<u32, Schema>) -> Output {
        let (header, mut datum) = record.value.as_deref().unwrap().split_at(5);
        assert_eq!(header[0], 0, "the magic byte");
        let id = u32::from_be_bytes(header[1..].try_into().unwrap());
        let schema = schemas
            .entry(id)
            .or_insert_with(|| Schema::parse_str(&self.bench.registry.schema(self.bench, id)).unwrap());
        let reader = GenericDatumReader::builder(schema).build().unwrap();
        let Value::Record(fields) = reader.read_value(&mut datum).unwrap() else {
            panic!("the output is no record");
        };
        assert!(datum.is_empty(), "{} bytes behind the datum", datum.len());
        let fields: HashMap<String, Value> = fields.into_iter().collect();
        let long = |name: &str| long(&fields[name]);
        let Value::String(who) = &fields["who"] else {
            panic!("`who` is no string")
        };
        let output = Output {
            seq: long("seq").unwrap(),
            who: who.clone(),
            number: long("number"),
            place: (
                i32::try_from(long("source_partition").unwrap()).unwrap(),
                long("source_offset").unwrap(),
            ),
            at: (record.partition, record.offset),
        };
        assert_eq!(record.key_text(), output.who, "the output keeps the input's key");
        output
    }
}

fn long(value: &Value) -> Option<i64> {
    match value {
        Value::Union(_, inner) => long(inner),
        Value::Null => None,
        Value::Long(number) => Some(*number),
        Value::Int(number) => Some(i64::from(*number)),
        other => panic!("{other:?} is no whole number"),
    }
}

/// Reads Avro's zigzag varint at the start of these bytes.
fn get_long(from: &[u8]) -> i64 {
    let mut raw = 0_u64;
    for (shift, byte) in (0..).step_by(7).zip(from) {
        raw |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (raw >> 1).cast_signed() ^ -(raw & 1).cast_signed()
}

/// Writes Avro's zigzag varint.
fn put_long(number: i64, into: &mut Vec<u8>) {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

fn send(producer: &BaseProducer, topic: &str, (id, evolved): (u32, Option<u32>), seq: i64) {
    let key = who(seq);
    let evolved = evolved.filter(|_| seq % 3 == 0);
    let mut value = framed(evolved.unwrap_or(id), seq, &key);
    if evolved.is_some() {
        put_long(seq, &mut value);
    }
    put(producer, topic, &key, &value);
}

fn put(producer: &BaseProducer, topic: &str, key: &str, value: &[u8]) {
    let mut record = BaseRecord::to(topic).key(key).payload(value);
    while let Err((error, refused)) = producer.send(record) {
        assert!(error.to_string().contains("Queue full"), "{error}");
        record = refused;
        producer.poll(Duration::from_millis(10));
    }
}

/// A record's value, encoded.
fn framed(schema_id: u32, seq: i64, who: &str) -> Vec<u8> {
    let mut value = vec![0];
    value.extend_from_slice(&schema_id.to_be_bytes());
    put_long(seq, &mut value);
    put_long(who.len() as i64, &mut value);
    value.extend_from_slice(who.as_bytes());
    value
}

/// A background load that writes records into the topic.
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<i64>>,
}

impl Load {
    /// Stops it, and returns how many records there are.
    pub fn stop(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Waits until all are written, and returns how many there are.
    pub fn wait(mut self) -> i64 {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

/// Fails if a record of `0..sent` is missing or wrong in the outputs; returns how many repetitions there are.
pub fn duplicates(outputs: &[Output], sent: i64) -> usize {
    let mut times = BTreeMap::new();
    for output in outputs {
        *times.entry(output.seq).or_insert(0) += 1;
        assert_eq!(
            (&*output.who, output.number),
            (&*who(output.seq), number(output.seq)),
            "{output:?}"
        );
    }
    let missing: Vec<i64> = (0..sent).filter(|seq| !times.contains_key(seq)).collect();
    assert!(
        missing.is_empty(),
        "{} records have no output, for example {:?}",
        missing.len(),
        &missing[..missing.len().min(5)]
    );
    assert_eq!(
        times.len() as i64,
        sent,
        "there are outputs of records that were never sent"
    );
    outputs.len() - times.len()
}
