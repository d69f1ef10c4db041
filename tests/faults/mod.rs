//! The promises under faults: real parts are killed, frozen, cut off and refused, and what is left behind is judged from outside.
//!
//! Each file breaks one kind of part. A test has a short form, and under `MESSINA_TEST_LONG` the full one. Waits are for conditions, never for
//! a time; what takes how long is printed and noted for `benches/figures faults`, and docs/reliability.md tells it.

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

/// Records a second where a service breaks. All of them are read again at the end, which takes as long as the rest: the short form has fewer.
pub fn rate() -> i64 {
    if is_long() { 1000 } else { 500 }
}

/// Records that are processed between two faults: those of two seconds.
pub fn between() -> u64 {
    2 * rate().cast_unsigned()
}

/// One pipeline that looks up, writes and publishes, in order by key.
pub fn pipelines(name: &str) -> [Pipeline<'_>; 1] {
    [Pipeline {
        name,
        order: "key",
        cache: None,
        writes: true,
    }]
}

/// Waits until so many more records have ended; how long that took.
pub fn more(messina: &Messina, count: u64, when: &str) -> Duration {
    let (before, began) = (messina.ended_records(), Instant::now());
    until(&format!("{count} more records {when}"), LONG, &[messina], || {
        (messina.ended_records() >= before + count).then_some(())
    });
    began.elapsed()
}
