//! The defects that a record can have, and how a good record is damaged.

/// The id of a schema that is not Avro.
pub const FOREIGN_SCHEMA: u32 = 999_999;

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The first byte is not Confluent's magic byte.
    WrongMagic,
    /// JSON in place of Avro.
    NotAvro,
    /// The datum breaks off.
    Truncated,
    /// Bytes follow the datum.
    Trailing,
    /// The schema is not an Avro schema.
    ForeignSchema,
    /// No value at all.
    Tombstone,
}

/// All of them.
pub const DEFECTS: [Defect; 6] = [
    Defect::WrongMagic,
    Defect::NotAvro,
    Defect::Truncated,
    Defect::Trailing,
    Defect::ForeignSchema,
    Defect::Tombstone,
];

/// Damages a good value. A tombstone has no value, and is left to the caller.
pub fn spoil(value: &mut Vec<u8>, defect: Defect, sequence: u64) {
    match defect {
        Defect::WrongMagic => value[0] = 1,
        Defect::NotAvro => {
            value.clear();
            value.extend_from_slice(format!("{{\"sequence\": {sequence}, \"kind\": \"test\"}}").as_bytes());
        }
        Defect::Truncated => value.truncate(value.len() * 3 / 4),
        Defect::Trailing => value.extend_from_slice(&[0, 0, 0]),
        Defect::ForeignSchema => value[1..5].copy_from_slice(&FOREIGN_SCHEMA.to_be_bytes()),
        Defect::Tombstone => {}
    }
}
