//! `group = { … }` of a write step: rows that are written at the same time share a batch.

use std::time::Duration;

use super::codes;
use super::diagnostic::Diagnostic;
use super::reader::Field;
use super::values::{boolean, count, duration, size};
use super::{Size, Span};

/// How the rows of a write are grouped.
#[derive(Clone, Debug)]
pub struct WriteGroup {
    /// Place of the table.
    pub span: Span,
    /// How long the first row of a group waits for others. Default 2 ms; zero takes only the rows that are ready at
    /// that moment.
    pub linger: Duration,
    /// Maximum number of rows in a batch. Default 50.
    pub max_rows: usize,
    /// Maximum number of bytes of a batch's values. Default 16 KiB, or 4 KiB across partitions.
    pub max_bytes: Size,
    /// Whether a batch may hold rows of different partitions.
    pub across_partitions: bool,
}

/// Longest linger: every record waits for it.
const LONGEST: Duration = Duration::from_secs(1);
/// Maximum number of rows, well below the 65,535 that a batch request can count.
const MOST: usize = 10_000;

impl WriteGroup {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let span = section.span;
        let linger = section.or("linger", Duration::from_millis(2), |field| {
            let value = duration(field.clone())?;
            if value > LONGEST {
                return field.malformed("a duration up to 1 s", "every record waits for it: \"2ms\" is usual");
            }
            Some(value)
        });
        let max_rows = section.or("max_rows", 50, |field| {
            let value = count(field.clone())?.value;
            if !(2..=MOST).contains(&value) {
                return field.malformed("a number of rows from 2 to 10,000", "\"max_rows = 50\" is usual");
            }
            Some(value)
        });
        let max_bytes = section.optional("max_bytes", size);
        let across_partitions = section.or("across_partitions", false, boolean);
        section.finish();
        let across_partitions = across_partitions?;
        let default = Size(if across_partitions { 4 << 10 } else { 16 << 10 });
        Some(Self {
            span,
            linger: linger?,
            max_rows: max_rows?,
            max_bytes: max_bytes?.map_or(default, |size| size.value),
            across_partitions,
        })
    }

    /// The finding for grouping a write that cannot be repeated.
    pub(super) fn not_repeatable(section: &super::reader::Section<'_>, span: Span) -> Diagnostic {
        let message = format!("`{}` groups rows that cannot be written twice", section.path);
        Diagnostic::error(codes::CONFLICT, message)
            .at(section.cx.sources, span, "a batch may be repeated as a whole")
            .help("remove `group`, or `idempotent = false` if the write gives the same row each time")
    }
}
