//! Reads and writes random schemas and data exactly as apache-avro does.
//!
//! 200 schemas, each with 20 data in an ordinary run and 1,000 in a long one; `avro_generator` says how to change these
//! numbers.

#![allow(clippy::unwrap_used, clippy::panic)] // A test that fails says so by panicking.

mod avro_generator;

use std::sync::{Arc, LazyLock};

use apache_avro::Schema as TheirSchema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Theirs;
use apache_avro::writer::datum::GenericDatumWriter;
use avro_generator::{Generator, amount, cases, change, ours, sorted};
use messina::avro::path::Part;
use messina::avro::{NewField, PADDING, Plan, Schema, Splice, Type, Value, append_fields};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// Number of data per schema.
static DATA: LazyLock<usize> = LazyLock::new(|| amount("AVRO_DATA", 20, 1000));

fn run<'a>(plan: &'a Plan, buf: &'a [u8], end: usize, slots: usize) -> Vec<Value<'static>> {
    let mut marks = vec![0; plan.marks()];
    plan.run(buf, 0, end, &mut marks)
        .unwrap_or_else(|error| panic!("{error}: {:?}", &buf[..end]));
    (0..slots)
        .map(|slot| sorted(plan.value(slot, buf, &marks).unwrap()))
        .collect()
}

/// A random path into a datum, and the value that it leads to; Null if it leads to nothing.
fn path(generator: &mut Generator, ty: &Json, value: &Theirs) -> (Vec<Part>, Option<Theirs>) {
    let (mut ty, mut value, mut parts) = (ty.clone(), Some(value.clone()), Vec::new());
    loop {
        while let (Json::Array(branches), current) = (generator.resolve(&ty).clone(), value.clone()) {
            // Follows only one branch: the datum's own, or a random one if there is no value.
            let (branch, inner) = match current {
                Some(Theirs::Union(branch, inner)) => (branch as usize, Some(*inner)),
                _ => (generator.random.below(branches.len()), None),
            };
            (ty, value) = (branches[branch].clone(), inner);
        }
        let resolved = generator.resolve(&ty).clone();
        if !parts.is_empty() && generator.random.one_in(3) {
            return (parts, value);
        }
        match resolved["type"].as_str().unwrap_or_default() {
            "record" if !resolved["fields"].as_array().unwrap().is_empty() => {
                let fields = resolved["fields"].as_array().unwrap();
                let field = &fields[generator.random.below(fields.len())];
                let name = field["name"].as_str().unwrap();
                parts.push(Part::Name(name.to_owned()));
                value = match value {
                    Some(Theirs::Record(fields)) => fields.into_iter().find(|(own, _)| own == name).map(|(_, v)| v),
                    _ => None,
                };
                ty = field["type"].clone();
            }
            "array" => {
                let index = generator.random.below(4);
                parts.push(Part::Index(index as u32));
                value = match value {
                    Some(Theirs::Array(items)) => items.into_iter().nth(index),
                    _ => None,
                };
                ty = resolved["items"].clone();
            }
            "map" => {
                let keys: Vec<String> = match &value {
                    Some(Theirs::Map(entries)) => entries.keys().cloned().collect(),
                    _ => Vec::new(),
                };
                let key = match keys.len() {
                    0 => "none".to_owned(),
                    n => keys[generator.random.below(n)].clone(),
                };
                value = match value {
                    Some(Theirs::Map(mut entries)) => entries.remove(&key),
                    _ => None,
                };
                parts.push(Part::Key(key));
                ty = resolved["values"].clone();
            }
            _ => return (parts, value),
        }
    }
}

/// The path as text, without a leading dot.
fn text(parts: &[Part]) -> String {
    let text: String = parts.iter().map(Part::to_string).collect();
    text.trim_start_matches('.').to_owned()
}

/// Extracts random paths from random data, and compares the values with those that were encoded.
fn extraction(generator: &mut Generator, json: &Json, data: usize) {
    let theirs = TheirSchema::parse(json).unwrap();
    let writer = GenericDatumWriter::builder(&theirs).build().unwrap();
    let schema = Arc::new(Schema::parse(&json.to_string()).unwrap());
    for _ in 0..data {
        let value = generator.value(json, 0);
        let mut datum = writer.write_value_to_vec(value.clone()).unwrap();
        if generator.random.one_in(2) {
            datum.clear();
            generator.encode(json, &value, &mut datum);
        }
        let end = datum.len();
        let expected = ours(&value);
        assert_eq!(sorted(schema.decode(&datum).unwrap()), expected.clone());
        let picks: Vec<(Vec<Part>, Option<Theirs>)> = (0..4).map(|_| path(generator, json, &value)).collect();
        let mut paths: Vec<String> = picks.iter().map(|(parts, _)| text(parts)).collect();
        paths.push(String::new());
        let refs: Vec<&str> = paths.iter().map(String::as_str).collect();
        // A path to items without bytes is refused, because no position can point at them.
        let Ok(plan) = Plan::compile(Arc::clone(&schema), &refs) else {
            continue;
        };
        datum.resize(end + PADDING, 0xff);
        let values = run(&plan, &datum, end, paths.len());
        for ((pick, value), path) in picks.iter().zip(&values).zip(&paths) {
            let expected = pick.1.as_ref().map_or(Value::Null, ours);
            assert_eq!(value, &expected, "path {} of {}", path, json);
        }
        assert_eq!(&values[4], &expected);
        datum.truncate(end);
        assert_eq!(run(&plan, &datum, end, paths.len()), values, "without padding");
    }
}

/// Builds data of another schema, and compares them with apache-avro's schema resolution. Returns how many were compared.
fn resolution(generator: &mut Generator, json: &Json, changed: &Json, data: usize, compare: bool) -> usize {
    let schema = Arc::new(Schema::parse(&json.to_string()).unwrap());
    let output = Arc::new(Schema::parse(&changed.to_string()).unwrap());
    let (from, to) = (TheirSchema::parse(json).unwrap(), TheirSchema::parse(changed).unwrap());
    let resolving = GenericDatumReader::builder(&from).reader_schema(&to).build().unwrap();
    let reader = GenericDatumReader::builder(&to).build().unwrap();
    let (plan, splice) = Plan::compile_with_output(schema, &[], output, &[]).unwrap();
    let mut marks = vec![0; plan.marks()];
    let mut compared = 0;
    for _ in 0..data {
        let value = generator.value(json, 0);
        let mut datum = Vec::new();
        generator.encode(json, &value, &mut datum);
        plan.run(&datum, 0, datum.len(), &mut marks).unwrap();
        let mut out = Vec::new();
        splice.build(&datum, 0, datum.len(), &marks, &[], &mut out).unwrap();
        let mut rest = &out[..];
        let back = ours(&reader.read_value(&mut rest).unwrap());
        assert!(rest.is_empty());
        // apache-avro's resolution refuses some data that its own writer wrote; those cannot be compared.
        if compare && let Ok(expected) = resolving.read_value(&mut &datum[..]) {
            compared += 1;
            assert_eq!(back, ours(&expected), "{} as {}", json, changed);
        }
    }
    compared
}

proptest! {
    #![proptest_config(cases(200, 200))]

    #[test]
    fn extraction_finds_what_apache_avro_wrote(seed in any::<u64>()) {
        let mut generator = Generator::new(seed);
        let json = generator.schema();
        extraction(&mut generator, &json, *DATA);
    }

    #[test]
    fn what_is_written_is_what_apache_avro_reads(seed in any::<u64>()) {
        let mut generator = Generator::new(seed);
        let json = generator.schema();
        let theirs = TheirSchema::parse(&json).unwrap();
        let reader = GenericDatumReader::builder(&theirs).build().unwrap();
        let schema = Schema::parse(&json.to_string()).unwrap();
        for _ in 0..*DATA {
            let mut datum = Vec::new();
            let value = generator.value(&json, 0);
            generator.encode(&json, &value, &mut datum);
            let value = schema.decode(&datum).unwrap();
            let mut again = Vec::new();
            // In a union of similar branches, such as records with the same fields, or text and enum, a value may be written
            // as another branch.
            schema.encode(&value, &mut again).unwrap();
            let back = reader.read_value(&mut &again[..]).unwrap();
            let (back, expected) = (format!("{:?}", shortest(ours(&back))), format!("{:?}", shortest(sorted(value))));
            prop_assert_eq!(back, expected);
        }
    }

    #[test]
    fn an_appended_output_is_what_apache_avro_reads(seed in any::<u64>()) {
        let mut generator = Generator::new(seed);
        let json = generator.schema();
        let schema = Arc::new(Schema::parse(&json.to_string()).unwrap());
        let new = [
            NewField { name: "new_name".into(), ty: Type::String.nullable(), node: None },
            NewField { name: "new_score".into(), ty: Type::Double, node: None },
            NewField { name: "new_tags".into(), ty: Type::List(Box::new(Type::Long)), node: None },
        ];
        let output = Arc::new(append_fields(&schema, &new).unwrap());
        let theirs = TheirSchema::parse_str(output.json()).unwrap();
        let reader = GenericDatumReader::builder(&theirs).build().unwrap();
        let plan = Plan::compile(Arc::clone(&schema), &[]).unwrap();
        let splice = Splice::compile(&plan, output, &["new_tags", "new_name", "new_score"]).unwrap();
        for round in 0..*DATA {
            let value = generator.value(&json, 0);
            let mut datum = Vec::new();
            generator.encode(&json, &value, &mut datum);
            let name = if round % 2 == 0 { Value::Null } else { Value::String("n".into()) };
            let tags = Value::List(vec![Value::Long(7); round % 3]);
            let values = [tags.clone(), name.clone(), Value::Double(0.5)];
            let mut out = Vec::new();
            splice.build(&datum, 0, datum.len(), &[], &values, &mut out).unwrap();
            let mut rest = &out[..];
            let back = ours(&reader.read_value(&mut rest).unwrap());
            prop_assert!(rest.is_empty());
            let Value::Record(mut fields) = ours(&value) else { panic!("not a record") };
            fields.push(("new_name".into(), name));
            fields.push(("new_score".into(), Value::Double(0.5)));
            fields.push(("new_tags".into(), tags));
            prop_assert_eq!(back, Value::Record(fields));
        }
    }

    #[test]
    fn a_changed_output_is_what_apache_avro_resolves(seed in any::<u64>()) {
        let mut generator = Generator::new(seed);
        let json = generator.schema();
        let changed = change(&mut generator, &json);
        let compare = !generator.wide_unions(&json);
        resolution(&mut generator, &json, &changed, *DATA, compare);
    }
}

/// The schema of a large tracking event: 25 fields at the top, 72 in all, with recursion, unions and most logical types.
fn event() -> Json {
    serde_json::from_str(include_str!("schemas/event.avsc")).unwrap()
}

#[test]
fn the_rich_schema_is_read_as_apache_avro_writes_it() {
    let json = event();
    extraction(&mut Generator::of(&json, 1), &json, 500);
}

/// The Avro project's own schema for interoperability tests, in the shape that it has there.
#[test]
fn the_interoperability_schema_is_read_as_apache_avro_writes_it() {
    let json = serde_json::from_str(include_str!("schemas/interop.avsc")).unwrap();
    let mut generator = Generator::of(&json, 4);
    extraction(&mut generator, &json, 500);
    // apache-avro resolves its union by whatever fits, so here the result only has to be readable. Elsewhere it is compared
    // with Java.
    for _ in 0..20 {
        let changed = change(&mut generator, &json);
        resolution(&mut generator, &json, &changed, 25, false);
    }
}

#[test]
fn the_rich_schema_is_enriched_as_apache_avro_resolves_it() {
    let json = event();
    let mut generator = Generator::of(&json, 2);
    let mut compared = 0;
    for round in 0..20 {
        let changed = if round == 0 {
            mixed(&json)
        } else {
            change(&mut generator, &json)
        };
        compared += resolution(&mut generator, &json, &changed, 25, true);
    }
    assert!(compared > 100, "{compared} of 500");
}

/// An output schema that drops fields, makes one nullable and one wider, and inserts new ones.
fn mixed(json: &Json) -> Json {
    let mut json = json.clone();
    let mut fields = Vec::new();
    for field in json["fields"].as_array().unwrap() {
        match field["name"].as_str().unwrap() {
            "retries" | "is_bot" | "payload" => {}
            "partner_id" => {
                fields.push(json!({ "name": "partner_id", "type": ["null", "string"], "default": null }));
                fields.push(json!({ "name": "partner_name", "type": ["null", "string"], "default": null }));
                fields.push(json!({ "name": "partner_tier", "type": "int", "default": 7 }));
            }
            "schema_rev" => fields.push(json!({ "name": "schema_rev", "type": "long", "default": 3 })),
            _ => fields.push(field.clone()),
        }
    }
    json["fields"] = Json::Array(fields);
    json
}

/// Decimals in their shortest form, which is the one that is written.
fn shortest(value: Value<'static>) -> Value<'static> {
    match value {
        Value::Decimal { unscaled, scale } => {
            let mut bytes = unscaled.into_owned();
            while bytes.len() > 1 && (bytes[0] == 0 && bytes[1] < 0x80 || bytes[0] == 0xff && bytes[1] >= 0x80) {
                bytes.remove(0);
            }
            Value::Decimal {
                unscaled: bytes.into(),
                scale,
            }
        }
        Value::List(items) => Value::List(items.into_iter().map(shortest).collect()),
        Value::Map(entries) => Value::Map(entries.into_iter().map(|(key, value)| (key, shortest(value))).collect()),
        Value::Record(fields) => Value::Record(fields.into_iter().map(|(n, v)| (n, shortest(v))).collect()),
        other => other,
    }
}
