//! What can be wrong with a record, and how a good one is spoiled.

/// A schema id that no registry has given.
pub const UNKNOWN_SCHEMA: u32 = 999_999;

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The first byte is not Confluent's.
    WrongMagic,
    /// JSON in place of Avro.
    NotAvro,
    /// The datum breaks off.
    Truncated,
    /// Bytes follow the datum.
    Trailing,
    /// The registry does not know the schema's id.
    UnknownSchema,
    /// No value at all.
    Tombstone,
}

/// All of them.
pub const DEFECTS: [Defect; 6] = [
    Defect::WrongMagic,
    Defect::NotAvro,
    Defect::Truncated,
    Defect::Trailing,
    Defect::UnknownSchema,
    Defect::Tombstone,
];

/// Makes a good value a bad one. A tombstone has none, and is left to the caller.
pub fn spoil(value: &mut Vec<u8>, defect: Defect, sequence: u64) {
    match defect {
        Defect::WrongMagic => value[0] = 1,
        Defect::NotAvro => {
            value.clear();
            value.extend_from_slice(format!("{{\"sequence\": {sequence}, \"kind\": \"test\"}}").as_bytes());
        }
        Defect::Truncated => value.truncate(value.len() * 3 / 4),
        Defect::Trailing => value.extend_from_slice(&[0, 0, 0]),
        Defect::UnknownSchema => value[1..5].copy_from_slice(&UNKNOWN_SCHEMA.to_be_bytes()),
        Defect::Tombstone => {}
    }
}
