//! The demo's records: the content of each, and its expected result.
//!
//! A record is derived from its stream and its number alone. The generator creates it from them; the verifier creates it again, with the exact bytes
//! that Messina must publish, the rows that it must write and the outcome that it must have. Nothing is remembered per record.
//!
//! Most of a datum is copied from one of [`BODIES`] bodies that are encoded once; what differs between records (number, time, user) comes first in
//! every schema.

mod defects;
pub mod navigation;
pub mod orders;
mod parts;
pub mod reactions;

use std::sync::Arc;

use defects::{DEFECTS, spoil};
pub use defects::{Defect, FOREIGN_SCHEMA};

use super::datum::Datum;
use super::random::{Random, Zipf};
use super::world::{USERS, World};

/// Different bodies per stream.
pub const BODIES: usize = 128;
/// The header with the number of a defective record, whose value may not contain it.
pub const SEQUENCE_HEADER: &str = "sequence";

/// One in this many records has each of the defects: 0.5 % of all have one.
const DEFECT_ONCE_IN: u64 = 1200;
/// One in this many records comes hours after its event.
const LATE_ONCE_IN: u64 = 100;
const HOUR_MS: i64 = 3_600_000;

/// The outcome that a record must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Enriched, in the output topic.
    Published,
    /// In no topic.
    Skipped,
    /// In the dead-letter topic, with this reason.
    DeadLettered(&'static str),
}

/// The random properties of a record.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Number of the record in its stream, from 0.
    pub sequence: u64,
    /// Whose record it is.
    pub user: usize,
    /// Which body it has.
    pub body: usize,
    /// Seed of the properties that only one stream has.
    pub other: u64,
    /// How long before its Kafka timestamp the event happened.
    pub lateness_ms: i64,
    /// What is wrong with it.
    pub defect: Option<Defect>,
}

impl Draw {
    /// Whether the pipelines must mark it as late: by more than an hour.
    pub fn is_late(&self) -> bool {
        self.lateness_ms > HOUR_MS
    }
}

/// A table that a pipeline writes to, as the verifier reads it back.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The columns to read; the first is the record's number.
    pub columns: &'static str,
    /// Whether a later record of the same user replaces the row.
    pub last_of_user: bool,
}

/// What one pipeline consumes, and what it must do with it.
pub trait Job: Send + Sync {
    /// The pipeline, and its input topic.
    fn name(&self) -> &'static str;
    /// The outcome of a record without defects.
    fn fate(&self, draw: &Draw) -> Fate;
    /// The outcome of a record without a value.
    fn tombstone(&self) -> Fate;
    /// Appends the datum of a record whose event happened at `time_ms`.
    fn datum(&self, draw: &Draw, time_ms: i64, datum: &mut Datum);
    /// Appends the fields that the sink adds, all but the last, `processed_at`.
    fn enrichment(&self, draw: &Draw, datum: &mut Datum);
    /// Appends the key of the output record.
    fn output_key(&self, draw: &Draw, key: &mut Vec<u8>);
    /// Whether the outputs of one user come in the order of their records.
    fn is_ordered(&self) -> bool;
    /// The maximum size of a datum, in bytes.
    fn largest(&self) -> usize;
    /// The tables that it writes.
    fn tables(&self) -> &'static [Table];
    /// The steps that write them.
    fn write_steps(&self) -> &'static [&'static str];
    /// Whether a record that reaches the writes is written to this table.
    fn writes(&self, table: usize, draw: &Draw) -> bool;
    /// Whether a row of this table matches the record.
    fn row_is_right(&self, table: usize, draw: &Draw, row: &rusqlite::Row<'_>) -> rusqlite::Result<bool>;
}

/// A record as it goes to Kafka. Its memory is reused.
#[derive(Debug, Default)]
pub struct Message {
    /// The key.
    pub key: Vec<u8>,
    /// The value; not looked at when `has_value` is false.
    pub value: Datum,
    /// False for a tombstone.
    pub has_value: bool,
}

/// A job, with the random properties of its records.
pub struct Stream {
    /// What is consumed, and what must be done with it.
    pub job: Box<dyn Job>,
    family: u64,
    header: [u8; 5],
    world: Arc<World>,
    users: Arc<Zipf>,
}

impl Stream {
    /// The three streams, whose schemas have these ids: navigation, orders, reactions.
    pub fn all(schema_ids: [u32; 3]) -> Vec<Stream> {
        let world = Arc::<World>::default();
        let users = Arc::new(Zipf::new(USERS, 10));
        let jobs: [Box<dyn Job>; 3] = [
            Box::new(navigation::Navigation::new(world.clone())),
            Box::new(orders::Orders::new(world.clone())),
            Box::new(reactions::Reactions::new(world.clone())),
        ];
        let numbered = jobs.into_iter().zip(schema_ids).zip(1..);
        numbered
            .map(|((job, id), family)| Stream {
                job,
                family,
                header: crate::registry::framing::header(id),
                world: world.clone(),
                users: users.clone(),
            })
            .collect()
    }

    /// The random properties of record `sequence`.
    pub fn draw(&self, sequence: u64) -> Draw {
        let mut random = Random::new(self.family, sequence);
        let user = self.users.draw(&mut random);
        let body = random.below(BODIES as u64) as usize;
        let late = random.once_in(LATE_ONCE_IN);
        let seconds = random.below(if late { 72 * 3600 } else { 30 }) as i64;
        let defect = DEFECTS.get(random.below(DEFECT_ONCE_IN) as usize).copied();
        let lateness_ms = 1000 * seconds + if late { HOUR_MS + 1 } else { 0 };
        Draw {
            sequence,
            user,
            body,
            other: random.bits(),
            lateness_ms,
            defect,
        }
    }

    /// The outcome that the record must have.
    pub fn fate(&self, draw: &Draw) -> Fate {
        match draw.defect {
            None => self.job.fate(draw),
            Some(Defect::WrongMagic | Defect::NotAvro) => Fate::DeadLettered("framing"),
            Some(Defect::Truncated | Defect::Trailing) => Fate::DeadLettered("avro"),
            Some(Defect::ForeignSchema) => Fate::DeadLettered("registry"),
            Some(Defect::Tombstone) => self.job.tombstone(),
        }
    }

    /// Writes the record with this Kafka timestamp into `message`.
    pub fn write(&self, draw: &Draw, timestamp_ms: i64, message: &mut Message) {
        message.key.clear();
        message.key.extend_from_slice(self.world.user_id(draw.user).as_bytes());
        message.value.0.clear();
        message.value.fixed(&self.header);
        self.job
            .datum(draw, timestamp_ms - draw.lateness_ms, &mut message.value);
        message.has_value = draw.defect != Some(Defect::Tombstone);
        if let Some(defect) = draw.defect {
            spoil(&mut message.value.0, defect, draw.sequence);
        }
    }

    /// Whether the record must be written to this table, even if a later record of the same user replaces its row.
    pub fn writes(&self, table: usize, draw: &Draw) -> bool {
        self.fate(draw) == Fate::Published && self.job.writes(table, draw)
    }
}

#[cfg(test)]
mod tests;
