//! Execution settings of one step's statement, where they differ from `[scylla]`.

use std::time::Duration;

use super::reader::Section;
use super::scylla::{CONSISTENCY, SERIAL_CONSISTENCY};
use super::values::{boolean, positive_duration};
use super::{Consistency, SerialConsistency};

/// What a step says of the execution of its statement; what it does not say is the store's.
#[derive(Clone, Debug, Default)]
pub struct Execution {
    /// Consistency level.
    pub consistency: Option<Consistency>,
    /// Consistency level of the serial phase of a conditional write.
    pub serial_consistency: Option<SerialConsistency>,
    /// A look-up asks a second replica when the first has not answered for this long.
    pub speculative_after: Option<Duration>,
    /// A look-up may read without its table's whole partition key.
    pub scan: bool,
}

impl Execution {
    pub(super) fn of_lookup(section: &mut Section<'_>) -> Option<Self> {
        let consistency = section.optional("consistency", |field| field.choice(&CONSISTENCY));
        let speculative_after = section.optional("speculative_after", positive_duration);
        let scan = section.or("scan", false, boolean);
        Some(Self {
            consistency: consistency?,
            serial_consistency: None,
            speculative_after: speculative_after?,
            scan: scan?,
        })
    }

    pub(super) fn of_write(section: &mut Section<'_>) -> Option<Self> {
        let consistency = section.optional("consistency", |field| field.choice(&CONSISTENCY));
        let serial_consistency = section.optional("serial_consistency", |field| field.choice(&SERIAL_CONSISTENCY));
        Some(Self {
            consistency: consistency?,
            serial_consistency: serial_consistency?,
            ..Self::default()
        })
    }
}
