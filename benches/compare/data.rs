//! Writes the data of the Avro benchmark to files, so that other stacks do the same work on the same bytes:
//! `benches/compare/run`.
//!
//! `compare_data FOLDER` writes events.bin and flats.bin, with each datum's length before it (little-endian, 32 bits).

#![allow(clippy::unwrap_used)] // A benchmark that cannot be made says so by panicking.
#![allow(dead_code)] // The generator is the bench's; it has more than is needed here.

#[path = "../avro/event.rs"]
mod event;

use std::path::{Path, PathBuf};

use event::{Generator, without_decimals};
use serde_avro_fast::ser::SerializerConfig;

const EVENT: &str = include_str!("../../tests/schemas/event.avsc");
const FLAT: &str = include_str!("flat.avsc");
const RECORDS: usize = 20_000;

fn write(path: &Path, data: impl Iterator<Item = Vec<u8>>) {
    let mut bytes = Vec::new();
    for datum in data {
        bytes.extend(u32::try_from(datum.len()).unwrap().to_le_bytes());
        bytes.extend(datum);
    }
    std::fs::write(path, bytes).unwrap();
}

fn main() {
    // Cargo adds an argument of its own.
    let folder = PathBuf::from(
        std::env::args()
            .skip(1)
            .find(|argument| !argument.starts_with('-'))
            .unwrap(),
    );
    // As in the benchmark: one generator makes first the events, then the flat records.
    let mut generator = Generator::new(7);
    let (event, flat) = (without_decimals(EVENT), without_decimals(FLAT));
    let mut config = SerializerConfig::new(&event);
    let events = (0..RECORDS).map(|n| serde_avro_fast::to_datum_vec(&generator.event(n), &mut config).unwrap());
    write(&folder.join("events.bin"), events);
    let mut config = SerializerConfig::new(&flat);
    let flats = (0..RECORDS).map(|n| serde_avro_fast::to_datum_vec(&generator.flat(n), &mut config).unwrap());
    write(&folder.join("flats.bin"), flats);
}
