//! The promises under faults: real services are killed, frozen, cut off or made to refuse, and what is left behind is judged from outside.
//!
//! Each file breaks one kind of service. A test has a short form, and a full one under `MESSINA_TEST_LONG`. Tests wait for conditions, never
//! for a fixed time; the times measured are printed and recorded for `benches/figures faults`, and docs/reliability.md reports them.

mod brokers;
mod database;
mod kills;
mod network;
mod poison;
mod registry;
mod sizes;
mod soak;
mod storm;

use std::time::{Duration, Instant};

use crate::support::numbers::Pipeline;
use crate::support::process::Messina;
use crate::support::{LONG, is_long, until};

/// Records per second in tests that break a service. All are read again at the end, which takes as long as the rest, so the short form has
/// fewer.
pub fn rate() -> i64 {
    if is_long() { 1000 } else { 500 }
}

/// Records that are processed between two faults: two seconds' worth.
pub fn between() -> u64 {
    2 * rate().cast_unsigned()
}

/// One pipeline that looks up, writes and publishes, ordered by key.
pub fn pipelines(name: &str) -> [Pipeline<'_>; 1] {
    [Pipeline {
        name,
        order: "key",
        cache: None,
        writes: true,
    }]
}

/// Waits until this many more records have ended, and returns how long that took.
pub fn more(messina: &Messina, count: u64, when: &str) -> Duration {
    let (before, began) = (messina.ended_records(), Instant::now());
    until(&format!("{count} more records {when}"), LONG, &[messina], || {
        (messina.ended_records() >= before + count).then_some(())
    });
    began.elapsed()
}
