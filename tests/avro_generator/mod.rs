//! Random schemas, data and encodings, for the tests that compare with apache-avro.
//!
//! Everything follows from one seed, so a failure is reproduced by its seed. The seeds in turn follow from one number, so a
//! run is reproduced by running it again. `AVRO_SEED` sets that number, `AVRO_CASES` and `AVRO_DATA` the number of schemas
//! and of data per schema. The data are apache-avro's values. The encoder here is a third implementation, which writes
//! blocks in all the ways that the specification allows.
#![allow(dead_code)] // Each test file uses a part.

use std::collections::HashMap;

use apache_avro::types::Value as Theirs;
use apache_avro::{Days, Decimal, Duration, Millis, Months, Uuid};
use messina::avro::value::{Unit, Value};
use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;
use serde_json::{Value as Json, json};

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

/// The number in the variable; without one, `short` in an ordinary run and `long` in a long one (`./test --long`).
pub fn amount(name: &str, short: usize, long: usize) -> usize {
    let is_long = std::env::var("MESSINA_TEST_LONG").is_ok_and(|value| !value.is_empty());
    variable(name).map_or(if is_long { long } else { short }, |n| n as usize)
}

/// This many schemas in an ordinary run and in a long one; the same ones each time.
pub fn cases(short: u32, long: u32) -> ProptestConfig {
    ProptestConfig {
        cases: amount("AVRO_CASES", short as usize, long as usize) as u32,
        rng_seed: RngSeed::Fixed(variable("AVRO_SEED").unwrap_or(20)),
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A number of any magnitude.
    pub fn long(&mut self) -> i64 {
        let shift = self.below(64);
        self.next() as i64 >> shift
    }

    pub fn int(&mut self) -> i32 {
        let shift = self.below(32);
        self.next() as i32 >> shift
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// Mostly short; with characters of all UTF-8 lengths.
    pub fn text(&mut self) -> String {
        let length = match self.below(10) {
            0 => 0,
            1..=6 => self.below(12),
            7 | 8 => self.below(80),
            _ => self.below(300),
        };
        let ascii = self.below(3) > 0;
        let letters = ['a', 'Z', '7', ' ', 'é', 'ß', '東', '€', '𝄞', '\u{0}', '\u{10ffff}'];
        (0..length)
            .map(|_| letters[self.below(if ascii { 4 } else { letters.len() })])
            .collect()
    }
}

/// Makes a random schema (a record), and knows its named types.
pub struct Generator {
    pub random: Random,
    /// Named types defined so far: full name to definition.
    pub named: HashMap<String, Json>,
    /// Records that are still being defined. They may be referred to only where a datum can end.
    open: Vec<String>,
    names: usize,
    /// How many more values the datum may have before it must end.
    budget: usize,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        Generator {
            random: Random(seed),
            named: HashMap::new(),
            open: Vec::new(),
            names: 0,
            budget: 0,
        }
    }

    /// A generator of data for a given schema, whose names must be unique without their namespaces.
    pub fn of(json: &Json, seed: u64) -> Generator {
        let mut generator = Generator::new(seed);
        generator.learn(json);
        generator
    }

    fn learn(&mut self, json: &Json) {
        match json {
            Json::Array(list) => list.iter().for_each(|part| self.learn(part)),
            Json::Object(object) => {
                object.values().for_each(|part| self.learn(part));
                let named = ["record", "enum", "fixed"].iter().any(|kind| json["type"] == *kind);
                if let (Some(name), true) = (json["name"].as_str(), named) {
                    self.named.insert(name.to_owned(), json.clone());
                }
            }
            _ => {}
        }
    }

    pub fn schema(&mut self) -> Json {
        self.record(4)
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("N{}", self.names)
    }

    fn record(&mut self, depth: usize) -> Json {
        let name = self.name();
        self.open.push(name.clone());
        let count = if self.random.one_in(12) {
            0
        } else {
            1 + self.random.below(7)
        };
        let count = if depth == 4 { count.max(2) } else { count };
        let fields: Vec<Json> = (0..count)
            .map(|number| json!({ "name": format!("f{number}"), "type": self.ty(depth - 1, false) }))
            .collect();
        self.open.pop();
        let json = json!({ "type": "record", "name": name, "fields": fields });
        self.named.insert(name, json.clone());
        json
    }

    /// A random type; `optional` if recursion can end there.
    fn ty(&mut self, depth: usize, optional: bool) -> Json {
        if optional && !self.open.is_empty() && self.random.one_in(6) {
            return json!(self.open[self.random.below(self.open.len())]);
        }
        if !self.named.is_empty() && self.random.one_in(8) {
            let mut names: Vec<&String> = self.named.keys().collect();
            names.sort();
            return json!(names[self.random.below(names.len())]);
        }
        match self.random.below(if depth == 0 { 14 } else { 22 }) {
            0..=9 => self.primitive(),
            10 | 11 => {
                let symbols = if self.random.one_in(6) {
                    64 + self.random.below(100)
                } else {
                    1 + self.random.below(9)
                };
                let name = self.name();
                let symbols: Vec<String> = (0..symbols).map(|number| format!("S{number}")).collect();
                let json = json!({ "type": "enum", "name": name, "symbols": symbols });
                self.named.insert(name, json.clone());
                json
            }
            12 | 13 => self.fixed(),
            14 | 15 => {
                let items = self.ty(depth - 1, true);
                json!({ "type": "array", "items": items })
            }
            16 => {
                let values = self.ty(depth - 1, true);
                json!({ "type": "map", "values": values })
            }
            17..=19 => self.union(depth - 1),
            _ => self.record(depth),
        }
    }

    fn primitive(&mut self) -> Json {
        let logical = |ty: &str, logical: &str| json!({ "type": ty, "logicalType": logical });
        match self.random.below(26) {
            0 => json!("null"),
            1 | 2 => json!("boolean"),
            3 | 4 => json!("int"),
            5 | 6 => json!("long"),
            7 => json!("float"),
            8 => json!("double"),
            9 | 10 => json!("bytes"),
            11..=14 => json!("string"),
            15 => logical("int", "date"),
            16 => logical("int", "time-millis"),
            17 => logical("long", "time-micros"),
            18 => logical("long", "timestamp-millis"),
            19 => logical("long", "timestamp-micros"),
            20 => logical("long", "timestamp-nanos"),
            21 => logical("long", "local-timestamp-micros"),
            22 => logical("string", "uuid"),
            23 => json!({ "type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 3 }),
            24 => logical("string", "no-such-type"),
            _ => json!("string"),
        }
    }

    fn fixed(&mut self) -> Json {
        let name = self.name();
        let json = match self.random.below(5) {
            0 => json!({ "type": "fixed", "name": name, "size": 12, "logicalType": "duration" }),
            1 => json!({ "type": "fixed", "name": name, "size": 16, "logicalType": "uuid" }),
            2 => {
                json!({ "type": "fixed", "name": name, "size": 8, "logicalType": "decimal", "precision": 18, "scale": 4 })
            }
            _ => json!({ "type": "fixed", "name": name, "size": 1 + self.random.below(40) }),
        };
        self.named.insert(name, json.clone());
        json
    }

    fn union(&mut self, depth: usize) -> Json {
        let mut branches = Vec::new();
        let mut kinds = Vec::new();
        let null = self.random.below(4) > 0;
        if null {
            branches.push(json!("null"));
            kinds.push("null".to_owned());
        }
        let count = if self.random.one_in(2) {
            1
        } else {
            1 + self.random.below(5)
        };
        for _ in 0..count {
            let before = self.named.clone();
            let branch = self.ty(depth, null);
            let kind = self.kind(&branch);
            if kind == "union" || kinds.contains(&kind) {
                self.named = before;
                continue;
            }
            kinds.push(kind);
            branches.push(branch);
        }
        if branches.is_empty() {
            branches.push(json!("string"));
        }
        if self.random.one_in(3) {
            branches.reverse();
            // A definition must come before references to it.
            if branches.iter().any(|branch| branch.to_string().contains("\"name\"")) {
                branches.reverse();
            }
        }
        Json::Array(branches)
    }

    /// The kind of a type: a union may have only one branch of each.
    fn kind(&self, ty: &Json) -> String {
        match ty {
            Json::String(name) => name.clone(),
            Json::Array(_) => "union".to_owned(),
            object => object
                .get("name")
                .or(object.get("type"))
                .and_then(Json::as_str)
                .unwrap()
                .to_owned(),
        }
    }

    /// The definition of a type that may be given by name.
    pub fn resolve<'a>(&'a self, ty: &'a Json) -> &'a Json {
        let short = |name: &'a str| name.rsplit('.').next().unwrap_or(name);
        ty.as_str().and_then(|name| self.named.get(short(name))).unwrap_or(ty)
    }

    /// A random datum of a type.
    pub fn value(&mut self, ty: &Json, depth: usize) -> Theirs {
        let ty = self.resolve(ty).clone();
        if depth == 0 {
            self.budget = 300;
        }
        self.budget = self.budget.saturating_sub(1);
        let end = depth > 12 || self.budget == 0;
        if let Json::Array(branches) = &ty {
            let mut branch = self.random.below(branches.len());
            if end {
                let null = branches.iter().position(|branch| branch == "null");
                let simple = branches
                    .iter()
                    .position(|branch| self.resolve(branch).get("fields").is_none());
                branch = null.or(simple).unwrap_or(branch);
            }
            let value = self.value(&branches[branch], depth + 1);
            return Theirs::Union(branch as u32, Box::new(value));
        }
        let random = &mut self.random;
        let kind = ty.as_str().or(ty["type"].as_str()).unwrap();
        match (kind, ty.get("logicalType").and_then(Json::as_str).unwrap_or_default()) {
            ("null", _) => Theirs::Null,
            ("boolean", _) => Theirs::Boolean(random.one_in(2)),
            ("int", "date") => Theirs::Date(random.int()),
            ("int", "time-millis") => Theirs::TimeMillis(random.int()),
            ("int", _) => Theirs::Int(random.int()),
            ("long", "time-micros") => Theirs::TimeMicros(random.long()),
            ("long", "timestamp-millis") => Theirs::TimestampMillis(random.long()),
            ("long", "timestamp-micros") => Theirs::TimestampMicros(random.long()),
            ("long", "timestamp-nanos") => Theirs::TimestampNanos(random.long()),
            ("long", "local-timestamp-micros") => Theirs::LocalTimestampMicros(random.long()),
            ("long", _) => Theirs::Long(random.long()),
            ("float", _) => Theirs::Float(random.int() as f32 / 8.0),
            ("double", _) => Theirs::Double(random.long() as f64 / 8.0),
            // apache-avro cannot write an empty decimal.
            ("bytes", "decimal") => {
                let length = 1 + random.below(9);
                Theirs::Decimal(Decimal::from(random.bytes(length)))
            }
            ("bytes", _) => {
                let length = if random.one_in(8) {
                    random.below(300)
                } else {
                    random.below(20)
                };
                Theirs::Bytes(random.bytes(length))
            }
            ("string", "uuid") => Theirs::Uuid(Uuid::from_slice(&random.bytes(16)).unwrap()),
            ("string", _) => Theirs::String(random.text()),
            ("fixed", "duration") => {
                let mut part = || random.next() as u32;
                Theirs::Duration(Duration::new(
                    Months::new(part()),
                    Days::new(part()),
                    Millis::new(part()),
                ))
            }
            ("fixed", "uuid") => Theirs::Uuid(Uuid::from_slice(&random.bytes(16)).unwrap()),
            ("fixed", "decimal") => {
                let number = random.long() >> 8;
                Theirs::Decimal(Decimal::from(number.to_be_bytes()))
            }
            ("fixed", _) => {
                let size = ty["size"].as_u64().unwrap() as usize;
                Theirs::Fixed(size, random.bytes(size))
            }
            ("enum", _) => {
                let symbols = ty["symbols"].as_array().unwrap();
                let index = random.below(symbols.len());
                Theirs::Enum(index as u32, symbols[index].as_str().unwrap().to_owned())
            }
            ("array", _) => {
                let count = if end { 0 } else { self.count() };
                Theirs::Array((0..count).map(|_| self.value(&ty["items"], depth + 1)).collect())
            }
            ("map", _) => {
                let count = if end { 0 } else { self.count() };
                let entry = |_| (self.random.text(), self.value(&ty["values"], depth + 1));
                Theirs::Map((0..count).map(entry).collect())
            }
            ("record", _) => {
                let fields = ty["fields"].as_array().unwrap();
                let field = |field: &Json| {
                    (
                        field["name"].as_str().unwrap().to_owned(),
                        self.value(&field["type"], depth + 1),
                    )
                };
                Theirs::Record(fields.iter().map(field).collect())
            }
            other => panic!("no value for {other:?}"),
        }
    }

    /// Whether the schema has unions other than of null and one type. apache-avro resolves those to whatever happens to fit.
    pub fn wide_unions(&self, ty: &Json) -> bool {
        match ty {
            Json::Array(list) => {
                list.len() > 2
                    || (list.len() == 2 && !list.contains(&json!("null")))
                    || list.iter().any(|part| self.wide_unions(part))
            }
            Json::Object(object) if object["type"] == "enum" => false,
            Json::Object(object) => {
                let fields = object
                    .get("fields")
                    .and_then(Json::as_array)
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                let mut parts = fields
                    .iter()
                    .chain(["type", "items", "values"].iter().filter_map(|key| object.get(*key)));
                parts.any(|part| self.wide_unions(part))
            }
            _ => false,
        }
    }

    fn count(&mut self) -> usize {
        match self.random.below(8) {
            0 | 1 => 0,
            2..=5 => self.random.below(4),
            6 => self.random.below(12),
            _ => 8 + self.random.below(20),
        }
    }

    /// Writes a datum in blocks of random sizes, some of which include their length in bytes.
    pub fn encode(&mut self, ty: &Json, value: &Theirs, out: &mut Vec<u8>) {
        let ty = self.resolve(ty).clone();
        match value {
            Theirs::Null => {}
            Theirs::Boolean(value) => out.push(u8::from(*value)),
            Theirs::Int(value) | Theirs::Date(value) | Theirs::TimeMillis(value) => put_long(out, (*value).into()),
            Theirs::Long(value)
            | Theirs::TimeMicros(value)
            | Theirs::TimestampMillis(value)
            | Theirs::TimestampMicros(value)
            | Theirs::TimestampNanos(value)
            | Theirs::LocalTimestampMicros(value) => put_long(out, *value),
            Theirs::Float(value) => out.extend(value.to_le_bytes()),
            Theirs::Double(value) => out.extend(value.to_le_bytes()),
            Theirs::Bytes(value) => put_bytes(out, value),
            Theirs::String(value) => put_bytes(out, value.as_bytes()),
            Theirs::Fixed(_, value) => out.extend(value),
            Theirs::Enum(index, _) => put_long(out, (*index).into()),
            Theirs::Uuid(uuid) if ty["type"] == "string" => put_bytes(out, uuid.to_string().as_bytes()),
            Theirs::Uuid(uuid) => out.extend(uuid.as_bytes()),
            Theirs::Duration(value) => out.extend(<[u8; 12]>::from(*value)),
            Theirs::Decimal(value) => {
                let bytes = Vec::<u8>::try_from(value).unwrap();
                if ty["type"] == "bytes" {
                    put_bytes(out, &bytes)
                } else {
                    out.extend(bytes)
                }
            }
            Theirs::Union(branch, inner) => {
                put_long(out, (*branch).into());
                self.encode(&ty[*branch as usize], inner, out);
            }
            Theirs::Record(fields) => {
                for (number, (_, value)) in fields.iter().enumerate() {
                    self.encode(&ty["fields"][number]["type"], value, out);
                }
            }
            Theirs::Array(items) => {
                let items: Vec<Vec<u8>> = items
                    .iter()
                    .map(|item| self.encoded(&ty["items"], None, item))
                    .collect();
                self.blocks(&items, out);
            }
            Theirs::Map(entries) => {
                let entry = |(key, value): (&String, &Theirs)| self.encoded(&ty["values"], Some(key), value);
                let entries: Vec<Vec<u8>> = entries.iter().map(entry).collect();
                self.blocks(&entries, out);
            }
            other => panic!("no encoding for {other:?}"),
        }
    }

    fn encoded(&mut self, ty: &Json, key: Option<&str>, value: &Theirs) -> Vec<u8> {
        let mut out = Vec::new();
        key.into_iter().for_each(|key| put_bytes(&mut out, key.as_bytes()));
        self.encode(ty, value, &mut out);
        out
    }

    fn blocks(&mut self, items: &[Vec<u8>], out: &mut Vec<u8>) {
        let mut left = items;
        while !left.is_empty() {
            let (block, rest) = left.split_at(1 + self.random.below(left.len()));
            let bytes = block.concat();
            if self.random.one_in(2) {
                put_long(out, -(block.len() as i64));
                put_long(out, bytes.len() as i64);
            } else {
                put_long(out, block.len() as i64);
            }
            out.extend(bytes);
            left = rest;
        }
        out.push(0);
    }
}

/// Runs a test with the stack that apache-avro's recursion needs.
pub fn with_stack<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .stack_size(1 << 30)
            .spawn_scoped(scope, test)
            .unwrap();
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.extend(bytes);
}

/// apache-avro's value as ours, with 0 for every scale. It can read a decimal of no bytes, which is zero, but cannot return
/// it.
pub fn ours(value: &Theirs) -> Value<'static> {
    match value {
        Theirs::Null => Value::Null,
        Theirs::Boolean(value) => Value::Bool(*value),
        Theirs::Int(value) => Value::Int(*value),
        Theirs::Long(value) => Value::Long(*value),
        Theirs::Float(value) => Value::Float(*value),
        Theirs::Double(value) => Value::Double(*value),
        Theirs::Bytes(value) | Theirs::Fixed(_, value) => Value::Bytes(value.clone().into()),
        Theirs::String(value) | Theirs::Enum(_, value) => Value::String(value.clone().into()),
        Theirs::Union(_, value) => ours(value),
        Theirs::Array(items) => Value::List(items.iter().map(ours).collect()),
        Theirs::Map(entries) => {
            let entries = entries
                .iter()
                .map(|(key, value)| (Value::String(key.clone().into()), ours(value)));
            sorted(Value::Map(entries.collect()))
        }
        Theirs::Record(fields) => Value::Record(
            fields
                .iter()
                .map(|(name, value)| (name.clone().into(), ours(value)))
                .collect(),
        ),
        Theirs::Date(value) => Value::Date(*value),
        Theirs::TimeMillis(value) => Value::Time((*value).into(), Unit::Millis),
        Theirs::TimeMicros(value) => Value::Time(*value, Unit::Micros),
        Theirs::TimestampMillis(value) => Value::Timestamp(*value, Unit::Millis),
        Theirs::TimestampMicros(value) => Value::Timestamp(*value, Unit::Micros),
        Theirs::TimestampNanos(value) => Value::Timestamp(*value, Unit::Nanos),
        Theirs::LocalTimestampMillis(value) => Value::LocalTimestamp(*value, Unit::Millis),
        Theirs::LocalTimestampMicros(value) => Value::LocalTimestamp(*value, Unit::Micros),
        Theirs::LocalTimestampNanos(value) => Value::LocalTimestamp(*value, Unit::Nanos),
        Theirs::Uuid(uuid) => Value::Uuid(*uuid.as_bytes()),
        Theirs::Decimal(value) => Value::Decimal {
            unscaled: Vec::<u8>::try_from(value).unwrap_or_default().into(),
            scale: 0,
        },
        Theirs::Duration(value) => {
            let part = |bytes: [u8; 4]| u32::from_le_bytes(bytes);
            let raw = <[u8; 12]>::from(*value);
            let [a, b, c, d, e, f, g, h, i, j, k, l] = raw;
            Value::Duration {
                months: part([a, b, c, d]),
                days: part([e, f, g, h]),
                millis: part([i, j, k, l]),
            }
        }
        other => panic!("no value of ours for {other:?}"),
    }
}

/// A value with map entries sorted and only the last entry of each key, and without the scales of decimals, which
/// apache-avro's values do not have.
pub fn sorted(value: Value<'_>) -> Value<'static> {
    match value.into_owned() {
        Value::List(items) => Value::List(items.into_iter().map(sorted).collect()),
        Value::Map(entries) => {
            let mut kept: Vec<(Value<'static>, Value<'static>)> = Vec::new();
            for (key, value) in entries {
                kept.retain(|(other, _)| *other != key);
                kept.push((key, sorted(value)));
            }
            kept.sort_by(|(a, _), (b, _)| format!("{a:?}").cmp(&format!("{b:?}")));
            Value::Map(kept)
        }
        Value::Record(fields) => Value::Record(fields.into_iter().map(|(name, value)| (name, sorted(value))).collect()),
        Value::Decimal { unscaled, .. } => Value::Decimal { unscaled, scale: 0 },
        other => other,
    }
}

/// An output schema that the input resolves to: fields dropped, moved, added, made nullable, made wider.
pub fn change(generator: &mut Generator, json: &Json) -> Json {
    let mut fields = Vec::new();
    let named = |ty: &Json| ty.is_object() && ty.get("name").is_some() || ty.to_string().contains("\"name\":");
    for field in json["fields"].as_array().unwrap() {
        let ty = &field["type"];
        // A definition must stay if other fields refer to it.
        if !named(ty) && generator.random.one_in(5) {
            continue;
        }
        let ty = match (ty.as_str().unwrap_or_default(), generator.random.below(3)) {
            ("int", 0) => json!("long"),
            ("int", 1) => json!("double"),
            ("float", 0) => json!("double"),
            ("string", 0) => json!("bytes"),
            ("string" | "long" | "boolean" | "double", 1) => json!(["null", ty]),
            _ => ty.clone(),
        };
        if generator.random.one_in(6) {
            let number = fields.len();
            fields.push(json!({ "name": format!("added{number}"), "type": ["null", "string"], "default": null }));
        }
        fields.push(json!({ "name": field["name"], "type": ty }));
    }
    if generator.random.one_in(2) && !fields.iter().any(|field| named(&field["type"])) {
        fields.reverse();
    }
    json!({ "type": "record", "name": json["name"], "fields": fields })
}
