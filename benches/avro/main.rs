//! What reading and enriching an Avro record costs, compared with the libraries that a user could take instead.
//!
//! The work: read three fields of a record, check all of it, and write it again with four new fields at the end. The other
//! libraries build the whole record for that. Prints one JSON line at the end; the single times go to stderr.
//!
//! `vs_generated` is the time of straight-line code for this schema divided by ours, for the extraction.
//!
//! `AVRO_RECORDS` and `AVRO_ROUNDS` set the number of records (20,000) and of rounds (15).
//! `AVRO_COUNT=extract` (or `splice`, `both`, or one of them prefixed with `flat_`) does that work once, inside `counted`, for
//! a tool that counts instructions: `benches/avro/instructions`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A benchmark that cannot be made says so by panicking.

mod event;
mod generated;
mod json;
mod measure;

use std::hint::black_box;
use std::sync::Arc;

use apache_avro::Schema as TheirSchema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Theirs;
use apache_avro::writer::datum::GenericDatumWriter;
use event::{Event, Flat, Generator, without_decimals};
use json::Json;
use measure::{Competitor, least};
use messina::avro::{PADDING, Plan, Schema, Splice, Unit, Value};
use serde_avro_fast::ser::SerializerConfig;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: measure::Counting = measure::Counting;

const EVENT: &str = include_str!("../../tests/schemas/event.avsc");
const ENRICHED: &str = include_str!("../../tests/schemas/event_enriched.avsc");
const NEW: &[&str] = &["segment", "user_score", "country", "processed_at"];
const PATHS: &[&str] = &["ts", "partner_id", "user.id"];
const FLAT: &str = r#"{"type":"record","name":"Flat","fields":[
    {"name":"id","type":"string"},{"name":"ts","type":"long"},{"name":"user","type":"string"},
    {"name":"page","type":"string"},{"name":"campaign","type":["null","long"],"default":null},
    {"name":"amount","type":"double"},{"name":"count","type":"int"},{"name":"mobile","type":"boolean"}]}"#;
const FLAT_ENRICHED: &str = r#"{"type":"record","name":"Flat","fields":[
    {"name":"id","type":"string"},{"name":"ts","type":"long"},{"name":"user","type":"string"},
    {"name":"page","type":"string"},{"name":"campaign","type":["null","long"],"default":null},
    {"name":"amount","type":"double"},{"name":"count","type":"int"},{"name":"mobile","type":"boolean"},
    {"name":"segment","type":["null","string"],"default":null},{"name":"processed_at","type":"long"}]}"#;

const JSON_NEW: &[json::Field] = &[
    ("segment", |number, _| found(number).0.into()),
    ("user_score", |number, _| found(number).1.into()),
    ("country", |number, _| found(number).2.into()),
    ("processed_at", |_, ts| (ts * 1000).into()),
];
const JSON_FLAT_NEW: &[json::Field] = &[
    ("segment", |number, _| found(number).0.into()),
    ("processed_at", |_, ts| (ts * 1000).into()),
];

/// Data one after the other, as in a fetch from Kafka.
struct Batch {
    bytes: Vec<u8>,
    ranges: Vec<(usize, usize)>,
}

impl Batch {
    fn of(data: impl Iterator<Item = Vec<u8>>) -> Batch {
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        for datum in data {
            let start = bytes.len();
            bytes.extend(datum);
            ranges.push((start, bytes.len()));
        }
        bytes.resize(bytes.len() + PADDING, 0xff);
        Batch { bytes, ranges }
    }

    fn data(&self) -> impl Iterator<Item = &[u8]> {
        self.ranges.iter().map(|(start, end)| &self.bytes[*start..*end])
    }

    fn mean(&self) -> f64 {
        (self.bytes.len() - PADDING) as f64 / self.ranges.len() as f64
    }
}

/// The values of the new fields, as a look-up would find them.
fn found(number: usize) -> (Option<&'static str>, Option<f64>, Option<&'static str>) {
    let segment = (!number.is_multiple_of(4)).then_some(["gold", "new-customer", "bargain-hunter"][number % 3]);
    let score = (!number.is_multiple_of(5)).then_some(number as f64 * 0.5);
    (segment, score, Some("FR"))
}

fn text(value: Option<&'static str>) -> Value<'static> {
    match value {
        Some(text) => Value::String(text.into()),
        None => Value::Null,
    }
}

fn double(value: Option<f64>) -> Value<'static> {
    match value {
        Some(score) => Value::Double(score),
        None => Value::Null,
    }
}

/// Reads the wanted values of all data.
fn extract(plan: &Plan, batch: &Batch, marks: &mut [u32]) {
    for (start, end) in &batch.ranges {
        plan.run(&batch.bytes, *start, *end, marks).unwrap();
        for slot in 0..plan.slots() {
            let value = plan.value(slot, &batch.bytes, marks).unwrap();
            black_box(&value);
            value.release();
        }
    }
}

/// Reads the wanted values of all data and builds the output.
fn enrich(plan: &Plan, splice: &Splice, batch: &Batch, marks: &mut [u32], out: &mut Vec<u8>, flat: bool) {
    for (number, (start, end)) in batch.ranges.iter().enumerate() {
        plan.run(&batch.bytes, *start, *end, marks).unwrap();
        for slot in 1..plan.slots() {
            let value = plan.value(slot, &batch.bytes, marks).unwrap();
            black_box(&value);
            value.release();
        }
        build(plan, splice, batch, number, marks, out, flat);
    }
}

/// Builds the output of one datum after its run.
fn build(plan: &Plan, splice: &Splice, batch: &Batch, number: usize, marks: &[u32], out: &mut Vec<u8>, flat: bool) {
    let (start, end) = batch.ranges[number];
    let value = plan.value(0, &batch.bytes, marks).unwrap();
    let (Value::Timestamp(ts, _) | Value::Long(ts)) = &value else {
        unreachable!("ts is a long")
    };
    let ts = *ts;
    value.release();
    let (segment, score, country) = found(number);
    out.clear();
    let result = if flat {
        let values = [text(segment), Value::Long(ts * 1000)];
        let result = splice.build(&batch.bytes, start, end, marks, &values, out);
        let [segment, at] = values;
        segment.release();
        at.release();
        result
    } else {
        let values = [
            text(segment),
            double(score),
            text(country),
            Value::Timestamp(ts * 1000, Unit::Micros),
        ];
        let result = splice.build(&batch.bytes, start, end, marks, &values, out);
        let [segment, score, country, at] = values;
        segment.release();
        score.release();
        country.release();
        at.release();
        result
    };
    result.unwrap();
    black_box(&out);
}

/// The only function that an instruction-counting tool looks at.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    black_box(0);
}

/// Does one kind of work once. The output is built after an uncounted run, so that it is counted alone.
fn count(kind: &str, plan: &Plan, splice: &Splice, batch: &Batch) {
    let (mut marks, mut out) = (vec![0; plan.marks()], Vec::with_capacity(8192));
    let flat = kind.starts_with("flat_");
    match kind.trim_start_matches("flat_") {
        "extract" => counted(&mut || extract(plan, batch, &mut marks)),
        "both" => counted(&mut || enrich(plan, splice, batch, &mut marks, &mut out, flat)),
        "splice" => {
            for (number, (start, end)) in batch.ranges.iter().enumerate() {
                plan.run(&batch.bytes, *start, *end, &mut marks).unwrap();
                counted(&mut || build(plan, splice, batch, number, &marks, &mut out, flat));
            }
        }
        other => panic!("AVRO_COUNT: there is no \"{other}\""),
    }
}

fn serde_enrich(number: usize, event: Event<'_>, config: &mut SerializerConfig<'_>, out: Vec<u8>) -> Vec<u8> {
    let (segment, user_score, country) = found(number);
    let processed_at = event.ts * 1000;
    let enriched = event.enrich(segment, user_score, country, processed_at);
    serde_avro_fast::to_datum(&enriched, out, config).unwrap()
}

fn flat_enrich(number: usize, flat: Flat<'_>, config: &mut SerializerConfig<'_>, out: Vec<u8>) -> Vec<u8> {
    serde_avro_fast::to_datum(&flat.enrich(found(number).0), out, config).unwrap()
}

fn apache_enrich(number: usize, value: Theirs, writer: &GenericDatumWriter<'_>) -> Vec<u8> {
    let Theirs::Record(mut fields) = value else {
        unreachable!("an event is a record")
    };
    let Theirs::TimestampMillis(ts) = fields[2].1 else {
        unreachable!("ts is a timestamp")
    };
    let (segment, score, country) = found(number);
    let nullable = |value: Option<Theirs>| match value {
        None => Theirs::Union(0, Box::new(Theirs::Null)),
        Some(value) => Theirs::Union(1, Box::new(value)),
    };
    let text = |text: Option<&str>| nullable(text.map(|text| Theirs::String(text.to_owned())));
    fields.push((NEW[0].to_owned(), text(segment)));
    fields.push((NEW[1].to_owned(), nullable(score.map(Theirs::Double))));
    fields.push((NEW[2].to_owned(), text(country)));
    fields.push((NEW[3].to_owned(), Theirs::TimestampMicros(ts * 1000)));
    writer.write_value_to_vec(Theirs::Record(fields)).unwrap()
}

fn apache_flat_enrich(number: usize, value: Theirs, writer: &GenericDatumWriter<'_>) -> Vec<u8> {
    let Theirs::Record(mut fields) = value else {
        unreachable!("it is a record")
    };
    let Theirs::Long(ts) = fields[1].1 else {
        unreachable!("ts is a long")
    };
    let segment = match found(number).0 {
        None => Theirs::Union(0, Box::new(Theirs::Null)),
        Some(text) => Theirs::Union(1, Box::new(Theirs::String(text.to_owned()))),
    };
    fields.push(("segment".to_owned(), segment));
    fields.push(("processed_at".to_owned(), Theirs::Long(ts * 1000)));
    writer.write_value_to_vec(Theirs::Record(fields)).unwrap()
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn compile(schema: &str, paths: &[&str], output: &str, new: &[&str]) -> (Plan, Splice) {
    let (schema, output) = (Schema::parse(schema).unwrap(), Schema::parse(output).unwrap());
    Plan::compile_with_output(Arc::new(schema), paths, Arc::new(output), new).unwrap()
}

fn main() {
    let (records, rounds) = (number("AVRO_RECORDS", 20_000), number("AVRO_ROUNDS", 15));
    let mut generator = Generator::new(7);

    let (event, enriched) = (without_decimals(EVENT), without_decimals(ENRICHED));
    let mut config = SerializerConfig::new(&event);
    let events = Batch::of(
        (0..records).map(|number| serde_avro_fast::to_datum_vec(&generator.event(number), &mut config).unwrap()),
    );
    let (flat, flat_enriched) = (FLAT.parse().unwrap(), FLAT_ENRICHED.parse().unwrap());
    let mut config = SerializerConfig::new(&flat);
    let flats = Batch::of(
        (0..records).map(|number| serde_avro_fast::to_datum_vec(&generator.flat(number), &mut config).unwrap()),
    );
    let (plan, splice) = compile(EVENT, PATHS, ENRICHED, NEW);
    let (flat_plan, flat_splice) = compile(FLAT, &["ts", "id", "user"], FLAT_ENRICHED, &["segment", "processed_at"]);
    if let Ok(kind) = std::env::var("AVRO_COUNT") {
        return if kind.starts_with("flat_") {
            count(&kind, &flat_plan, &flat_splice, &flats)
        } else {
            count(&kind, &plan, &splice, &events)
        };
    }
    eprintln!(
        "{records} records, {:.0} and {:.0} bytes on average",
        events.mean(),
        flats.mean()
    );

    let (portable, portable_splice) = compile(EVENT, PATHS, ENRICHED, NEW);
    let portable = portable.for_any_machine();
    let mut marks = [&plan, &plan, &plan, &plan, &flat_plan].map(|plan| vec![0; plan.marks()]);
    let [check_marks, extract_marks, enrich_marks, portable_marks, flat_marks] = &mut marks;
    let (mut out, mut portable_out, mut flat_out) = (
        Vec::with_capacity(8192),
        Vec::with_capacity(8192),
        Vec::with_capacity(8192),
    );

    let (their_event, their_enriched) = (
        TheirSchema::parse_str(EVENT).unwrap(),
        TheirSchema::parse_str(ENRICHED).unwrap(),
    );
    let (their_flat, their_flat_enriched) = (
        TheirSchema::parse_str(FLAT).unwrap(),
        TheirSchema::parse_str(FLAT_ENRICHED).unwrap(),
    );
    let flat_reader = GenericDatumReader::builder(&their_flat).build().unwrap();
    let flat_writer = GenericDatumWriter::builder(&their_flat_enriched).build().unwrap();
    let reader = GenericDatumReader::builder(&their_event).build().unwrap();
    let writer = GenericDatumWriter::builder(&their_enriched).build().unwrap();
    let (mut enriched_config, mut flat_config) =
        (SerializerConfig::new(&enriched), SerializerConfig::new(&flat_enriched));
    let (mut serde_out, mut serde_flat_out) = (Vec::with_capacity(8192), Vec::with_capacity(8192));

    // All competitors produce the same output, as the first records confirm.
    for (number, datum) in events.data().enumerate().take(500) {
        let one = Batch::of([datum.to_vec()].into_iter());
        let ours = {
            enrich(&plan, &splice, &one, enrich_marks, &mut out, false);
            out.clone()
        };
        let event: Event<'_> = serde_avro_fast::from_datum_slice(datum, &event).unwrap();
        let theirs = reader.read_value(&mut &*datum).unwrap();
        let expected = reader_of(&their_enriched, &apache_enrich(0, theirs, &writer));
        assert_eq!(reader_of(&their_enriched, &ours), expected, "record {number}");
        let values = (event.ts, event.partner_id.as_bytes(), event.user.id.as_bytes());
        let serde = serde_enrich(0, event, &mut enriched_config, Vec::new());
        assert_eq!(reader_of(&their_enriched, &serde), expected, "record {number}");
        enrich(
            &portable,
            &portable_splice,
            &one,
            portable_marks,
            &mut portable_out,
            false,
        );
        assert_eq!(portable_out, ours, "record {number}");
        let wanted = generated::event(&one.bytes, 0, datum.len()).expect("the bench's data are usual");
        assert_eq!(
            (wanted.ts, wanted.partner_id, wanted.user_id),
            values,
            "record {number}"
        );
        assert!(
            generated::event(&one.bytes, 0, datum.len() - 1).is_none(),
            "record {number}"
        );
    }

    for (number, datum) in flats.data().enumerate().take(500) {
        let one = Batch::of([datum.to_vec()].into_iter());
        enrich(&flat_plan, &flat_splice, &one, flat_marks, &mut flat_out, true);
        let expected = reader_of(&their_flat_enriched, &flat_out);
        let value = flat_reader.read_value(&mut &*datum).unwrap();
        let flat: Flat<'_> = apache_avro::from_value(&value).unwrap();
        let serde = flat_writer.write_ser_to_vec(&flat.enrich(found(0).0)).unwrap();
        assert_eq!(
            reader_of(&their_flat_enriched, &serde),
            expected,
            "flat record {number}"
        );
        let value = apache_flat_enrich(0, value, &flat_writer);
        assert_eq!(
            reader_of(&their_flat_enriched, &value),
            expected,
            "flat record {number}"
        );
    }

    let before = measure::allocations();
    extract(&plan, &events, extract_marks);
    let extract_allocations = measure::allocations() - before;
    enrich(&plan, &splice, &events, enrich_marks, &mut out, false);
    let before = measure::allocations();
    enrich(&plan, &splice, &events, enrich_marks, &mut out, false);
    let enrich_allocations = measure::allocations() - before;
    eprintln!("allocations: {extract_allocations} to extract, {enrich_allocations} to extract and splice");

    let times = least(
        vec![
            Competitor::new("check and mark only", records, || {
                for (start, end) in &events.ranges {
                    plan.run(&events.bytes, *start, *end, check_marks).unwrap();
                    black_box(&check_marks);
                }
            }),
            Competitor::new("extract", records, || extract(&plan, &events, extract_marks)),
            Competitor::new("extract and splice", records, || {
                enrich(&plan, &splice, &events, enrich_marks, &mut out, false);
            }),
            Competitor::new("extract and splice, without AVX-512", records, || {
                enrich(
                    &portable,
                    &portable_splice,
                    &events,
                    portable_marks,
                    &mut portable_out,
                    false,
                );
            }),
            Competitor::new("extract by code made for the schema", records, || {
                for (start, end) in &events.ranges {
                    black_box(generated::event(&events.bytes, *start, *end).unwrap());
                }
            }),
            Competitor::new("serde_avro_fast, typed", records, || {
                for (number, datum) in events.data().enumerate() {
                    let event: Event<'_> = serde_avro_fast::from_datum_slice(datum, &event).unwrap();
                    serde_out.clear();
                    serde_out = serde_enrich(number, event, &mut enriched_config, std::mem::take(&mut serde_out));
                    black_box(&serde_out);
                }
            }),
            Competitor::new("apache-avro, value", records, || {
                for (number, datum) in events.data().enumerate() {
                    let value = reader.read_value(&mut &*datum).unwrap();
                    black_box(apache_enrich(number, value, &writer));
                }
            }),
            Competitor::new("flat: extract and splice", records, || {
                enrich(&flat_plan, &flat_splice, &flats, flat_marks, &mut flat_out, true);
            }),
            Competitor::new("flat: serde_avro_fast, typed", records, || {
                for (number, datum) in flats.data().enumerate() {
                    let record: Flat<'_> = serde_avro_fast::from_datum_slice(datum, &flat).unwrap();
                    serde_flat_out.clear();
                    serde_flat_out = flat_enrich(number, record, &mut flat_config, std::mem::take(&mut serde_flat_out));
                    black_box(&serde_flat_out);
                }
            }),
            Competitor::new("flat: apache-avro, value", records, || {
                for (number, datum) in flats.data().enumerate() {
                    let value = flat_reader.read_value(&mut &*datum).unwrap();
                    black_box(apache_flat_enrich(number, value, &flat_writer));
                }
            }),
            Competitor::new("flat: apache-avro, serde", records, || {
                for (number, datum) in flats.data().enumerate() {
                    let value = flat_reader.read_value(&mut &*datum).unwrap();
                    let flat: Flat<'_> = apache_avro::from_value(&value).unwrap();
                    black_box(flat_writer.write_ser_to_vec(&flat.enrich(found(number).0)).unwrap());
                }
            }),
        ],
        rounds,
    );
    let &[
        _,
        extract,
        enrich,
        portable,
        generated,
        serde,
        apache,
        flat,
        serde_flat,
        ..,
    ] = times.as_slice()
    else {
        unreachable!("as many times as competitors")
    };
    let tenths = |value: f64| (value * 10.0).round() / 10.0;
    let line = json!({
        "ns_extract": tenths(extract),
        "ns_extract_splice": tenths(enrich),
        "vs_serde_avro_fast": tenths(serde / enrich),
        "vs_apache_avro": tenths(apache / enrich),
        "vs_generated": (generated / extract * 100.0).round() / 100.0,
        "portable_vs_serde_avro_fast": tenths(serde / portable),
        "allocations_per_record": (extract_allocations + enrich_allocations) as f64 / records as f64,
        "flat_vs_serde_avro_fast": tenths(serde_flat / flat),
    });
    least_as_json(records, rounds);
    println!("{line}");
}

/// The same records as JSON. Runs last, because its many small allocations make all other allocations more expensive.
fn least_as_json(records: usize, rounds: usize) {
    let mut generator = Generator::new(7);
    let mut events = Json::of((0..records).map(|number| generator.event(number)));
    let mut flats = Json::of((0..records).map(|number| generator.flat(number)));
    eprintln!("as JSON {:.0} and {:.0} bytes on average", events.mean(), flats.mean());
    least(
        vec![
            Competitor::new("simd-json, value", records, || {
                for number in 0..events.len() {
                    events.enrich(number, JSON_NEW);
                    black_box(&events.out);
                }
            }),
            Competitor::new("flat: simd-json, value", records, || {
                for number in 0..flats.len() {
                    flats.enrich(number, JSON_FLAT_NEW);
                    black_box(&flats.out);
                }
            }),
        ],
        rounds,
    );
}

/// A datum as apache-avro reads it.
fn reader_of(schema: &TheirSchema, datum: &[u8]) -> Theirs {
    let reader = GenericDatumReader::builder(schema).build().unwrap();
    let mut rest = datum;
    let value = reader.read_value(&mut rest).unwrap();
    assert!(rest.is_empty(), "bytes are left");
    value
}
