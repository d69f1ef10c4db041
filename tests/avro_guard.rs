//! Nothing is read before a datum or behind its padding: each borders on a page that faults.
//!
//! A read beyond the end of a vector usually goes unnoticed. Here memory ends where the datum's padding ends (or the datum
//! itself, without padding), so one byte too many ends the process. This covers everything that the machine can run, including
//! AVX-512, which Miri does not have.

#![allow(clippy::unwrap_used, clippy::panic)] // A test that fails says so by panicking.

mod avro_generator;

use std::sync::Arc;

use avro_generator::{Generator, amount};
use messina::avro::{PADDING, Plan, Schema, Splice};
use serde_json::Value as Json;

/// Memory between two pages that cannot be read.
struct Fenced {
    start: *mut u8,
    page: usize,
    pages: usize,
}

impl Fenced {
    fn new(pages: usize) -> Fenced {
        // SAFETY: asks for a number.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
        let length = (pages + 2) * page;
        let (rights, kind) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, which nothing else knows.
        let whole = unsafe { libc::mmap(std::ptr::null_mut(), length, rights, kind, -1, 0) };
        assert_ne!(whole, libc::MAP_FAILED);
        let start = whole.cast::<u8>().wrapping_add(page);
        // SAFETY: the pages between the first and the last of what was just mapped.
        let answer = unsafe { libc::mprotect(start.cast(), pages * page, libc::PROT_READ | libc::PROT_WRITE) };
        assert_eq!(answer, 0);
        Fenced { start, page, pages }
    }

    /// The readable bytes.
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped, readable and writable, zeroed by the system, and borrowed from here alone.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.page * self.pages) }
    }

    /// A copy that ends at the end of the memory.
    fn at_the_end(&mut self, parts: [&[u8]; 2]) -> &[u8] {
        let length = parts[0].len() + parts[1].len();
        let bytes = self.bytes();
        let from = bytes.len() - length;
        bytes[from..from + parts[0].len()].copy_from_slice(parts[0]);
        bytes[from + parts[0].len()..].copy_from_slice(parts[1]);
        &bytes[from..]
    }

    /// A copy that starts at the start of the memory.
    fn at_the_start(&mut self, part: &[u8]) -> &[u8] {
        let bytes = &mut self.bytes()[..part.len()];
        bytes.copy_from_slice(part);
        bytes
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        let whole = self.start.wrapping_sub(self.page);
        // SAFETY: what `new` mapped; no borrow outlives this value.
        unsafe { libc::munmap(whole.cast(), (self.pages + 2) * self.page) };
    }
}

/// Runs, reads and splices a datum at both ends of the memory, with and without padding. All must give the same answer.
fn pass(fenced: &mut Fenced, plan: &Plan, splice: &Splice, datum: &[u8]) {
    let mut marks = vec![0; plan.marks()];
    let answer = plan.run(datum, 0, datum.len(), &mut marks);
    let (found, mut expected) = (marks.clone(), Vec::new());
    let built = splice.build(datum, 0, datum.len(), &marks, &[], &mut expected);
    for garbage in [0x00, 0x02, 0x80, 0xff] {
        let padding = [garbage; PADDING];
        for behind in [&padding[..], &padding[..PADDING - 1], &[]] {
            let bytes = fenced.at_the_end([datum, behind]);
            assert_eq!(plan.run(bytes, 0, datum.len(), &mut marks), answer);
            if answer.is_ok() {
                assert_eq!(marks, found);
                for slot in 0..plan.slots() {
                    let _ = plan.value(slot, bytes, &marks);
                }
                let mut out = Vec::new();
                assert_eq!(
                    splice.build(bytes, 0, datum.len(), &marks, &[], &mut out).is_ok(),
                    built.is_ok()
                );
                assert_eq!(out, expected);
            }
        }
    }
    let bytes = fenced.at_the_start(datum);
    assert_eq!(plan.run(bytes, 0, datum.len(), &mut marks), answer);
}

fn fenced(generator: &mut Generator, json: &Json, data: usize) {
    let schema = Arc::new(Schema::parse(&json.to_string()).unwrap());
    let paths: &[&str] = if json["fields"][0]["name"] == "f0" {
        &["", "f0", "f1"]
    } else {
        &["", "user.id", "items[1].sku"]
    };
    // The output differs from the input, so that pieces are copied and one is newly encoded.
    let mut other = json.clone();
    let fields = other["fields"].as_array_mut().unwrap();
    fields.insert(0, serde_json::json!({"name": "new", "type": "int", "default": 7}));
    let output = Arc::new(Schema::parse(&other.to_string()).unwrap());
    let (plan, splice) = Plan::compile_with_output(Arc::clone(&schema), paths, output, &[]).unwrap();
    let mut memory = Fenced::new(32);
    for _ in 0..data {
        let value = generator.value(json, 0);
        let mut datum = Vec::new();
        generator.encode(json, &value, &mut datum);
        if datum.len() > 100_000 {
            continue;
        }
        pass(&mut memory, &plan, &splice, &datum);
        // Cut data would continue beyond the end of memory; changed bytes may be lengths that lead there.
        for _ in 0..8 {
            let cut = generator.random.below(datum.len() + 1);
            pass(&mut memory, &plan, &splice, &datum[..cut]);
            if let Some(byte) = datum.get(cut).copied() {
                datum[cut] = generator.random.next() as u8;
                pass(&mut memory, &plan, &splice, &datum);
                datum[cut] = byte;
            }
        }
    }
}

#[test]
fn random_data_are_read_inside_their_memory() {
    for seed in 0..amount("AVRO_CASES", 60, 600) as u64 {
        let mut generator = Generator::new(seed);
        let json = generator.schema();
        fenced(&mut generator, &json, 10);
    }
}

#[test]
fn rich_data_are_read_inside_their_memory() {
    let json: Json = serde_json::from_str(include_str!("schemas/event.avsc")).unwrap();
    fenced(&mut Generator::of(&json, 7), &json, amount("AVRO_CASES", 60, 600));
}

/// Text of every length up to several vectors, at the very end of memory.
#[test]
fn text_of_any_length_is_read_inside_its_memory() {
    let schema = r#"{"type":"record","name":"R","fields":[{"name":"f0","type":["null","string"]},{"name":"f1","type":"string"}]}"#;
    let schema = Arc::new(Schema::parse(schema).unwrap());
    let plan = Plan::compile(schema, &["", "f0"]).unwrap();
    let mut memory = Fenced::new(2);
    let mut marks = vec![0; plan.marks()];
    for length in 0..400usize {
        for letter in ["a", "é", "€", "𝄞"] {
            let text = letter.repeat(length / letter.len());
            let mut datum = vec![2];
            avro_generator::put_bytes(&mut datum, text.as_bytes());
            avro_generator::put_bytes(&mut datum, text.as_bytes());
            for (from, to) in [(0, datum.len()), (0, datum.len() - 1), (1, datum.len())] {
                let cut = &datum[from..to];
                let answer = plan.run(cut, 0, cut.len(), &mut marks);
                let bytes = memory.at_the_end([cut, &[0xff; PADDING]]);
                assert_eq!(
                    plan.run(bytes, 0, cut.len(), &mut marks),
                    answer,
                    "{length} bytes of {letter}"
                );
                let bytes = memory.at_the_end([cut, &[]]);
                assert_eq!(
                    plan.run(bytes, 0, cut.len(), &mut marks),
                    answer,
                    "{length} bytes of {letter}"
                );
            }
        }
    }
}
