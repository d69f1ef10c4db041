//! Reads mimalloc's statistics when metrics are rendered (40 µs).
//!
//! A release build does not count how much of its memory is in use, because that would cost each allocation.

use mimalloc::MiMalloc;
use serde::Deserialize;

/// The allocator's statistics that are exported.
#[derive(Debug, Deserialize)]
pub(super) struct Figures {
    pub(super) committed: Count,
    /// Bytes given back to the system so far.
    pub(super) purged: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Count {
    /// The current number of bytes.
    pub(super) current: i64,
}

/// The current statistics; `None` if the allocator has none.
pub(super) fn figures() -> Option<Figures> {
    let text = MiMalloc::stats_json().ok()?;
    serde_json::from_slice(text.to_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_understood() {
        let figures = figures().unwrap();
        assert!(figures.committed.current >= 0, "{figures:?}");
    }
}
