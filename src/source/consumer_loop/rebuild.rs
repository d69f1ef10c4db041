//! A consumer that stands still is closed, and another takes its place in the same process.
//!
//! librdkafka consumers have stopped delivering after a rebalance, silently and for good (rust-rdkafka issues 638 and 665). What
//! helps is a new one. Why not forever: if the new ones stand still as well, the cause is elsewhere, and a process that ends says so.

use super::{End, Parts, run};
use crate::pipeline::failure::Failure;
use crate::source::status::LoopState;

/// Consumers made one after the other without a record from any of them.
const REBUILDS: u32 = 3;

/// How many consumers in a row have stood still without a record.
#[derive(Debug, Default)]
struct Patience {
    in_vain: u32,
}

impl Patience {
    /// Another one has; `took` is whether it had taken records before. True if one more is worth the try.
    fn another(&mut self, took: bool) -> bool {
        self.in_vain = if took { 1 } else { self.in_vain + 1 };
        self.in_vain <= REBUILDS
    }
}

/// Runs consumers, one after the other, for as long as they stand still; `make` makes the parts of each.
pub async fn run_and_rebuild(mut make: impl FnMut() -> Result<Parts, String>) -> End {
    let mut patience = Patience::default();
    loop {
        let parts = match make() {
            Ok(parts) => parts,
            Err(error) => return End::Halted(Failure::fatal("consumer", error)),
        };
        let (state, runtime) = (parts.state.clone(), parts.runtime.clone());
        let (why, took) = match run(parts).await {
            End::Stuck { why, took } => (why, took),
            End::Halted(failure) => {
                halted(&state, failure.to_string());
                return End::Halted(failure);
            }
            end @ (End::Drained | End::Abandoned(_)) => return end,
        };
        if !patience.another(took) {
            let message = format!("{REBUILDS} new consumers stood still like the first: {why}");
            halted(&state, message.clone());
            tracing::error!(pipeline = %runtime.program.name, "pipeline halted: {message}");
            return End::Halted(Failure::fatal("stalled", message));
        }
        runtime.metrics.consumer_rebuilds.inc();
        tracing::warn!(
            pipeline = %runtime.program.name, in_vain = patience.in_vain, "a new consumer takes its place"
        );
    }
}

/// From now on the status says why.
fn halted(state: &LoopState, why: String) {
    let mut status = state.get();
    status.state = "halted";
    status.halted = Some(why);
    state.set(status);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_new_ones_in_a_row_and_a_record_starts_the_count_anew() {
        let mut patience = Patience::default();
        assert!(patience.another(true) && patience.another(false) && patience.another(false));
        assert!(patience.another(true));
        assert!(patience.another(false) && patience.another(false));
        assert!(!patience.another(false));
    }
}
