//! Execution settings of one step's statement, where they differ from `[scylla]`.

use std::time::Duration;

use super::reader::Section;
use super::scylla::{CONSISTENCY, SERIAL_CONSISTENCY};
use super::values::{boolean, positive_duration};
use super::{Consistency, SerialConsistency};

/// The execution settings of a step's statement. Where one is absent, the store's setting applies.
#[derive(Clone, Debug, Default)]
pub struct Execution {
    /// Consistency level.
    pub consistency: Option<Consistency>,
    /// Consistency level of the serial phase of a conditional write.
    pub serial_consistency: Option<SerialConsistency>,
    /// If the first replica has not answered a look-up for this long, a second one is asked.
    pub speculative_after: Option<Duration>,
    /// Whether a look-up may read without the whole partition key of its table.
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
