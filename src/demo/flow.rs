//! The progress of each stream, shared by generator, verifier and display, and the limit on how far the generator may be ahead.
//!
//! The mock cluster drops what a partition holds beyond 5 MiB, read or not. So at most `WINDOW_BYTES` of a stream are between generator and verifier:
//! even if all of them were in one partition of input or output, each would still be there when it is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prometheus::IntCounter;

use crate::telemetry::metrics::Metrics;

/// Maximum number of uncompressed bytes on their way. The rest of the 5 MiB is for the batch that is half read, because the cluster keeps or drops a
/// batch as a whole.
const WINDOW_BYTES: usize = 4_000_000;
/// Maximum number of bytes that outputs and dead letters add to the input: new fields, headers.
const ADDED_BYTES: usize = 500;

/// The counts of one stream.
#[derive(Debug)]
pub struct Flow {
    /// Records to make in all.
    pub planned: u64,
    /// Maximum number of records on their way.
    window: u64,
    made: AtomicU64,
    published: AtomicU64,
    dead_lettered: AtomicU64,
    skipped: IntCounter,
}

impl Flow {
    /// For `planned` records of up to `largest` bytes of the pipeline `name`.
    pub fn new(planned: u64, largest: usize, name: &str, metrics: &Metrics) -> Arc<Flow> {
        Arc::new(Flow {
            planned,
            window: (WINDOW_BYTES / (largest + ADDED_BYTES)) as u64,
            made: AtomicU64::new(0),
            published: AtomicU64::new(0),
            dead_lettered: AtomicU64::new(0),
            skipped: metrics.records_total.of([name, "skipped"]),
        })
    }

    /// Records made so far.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    /// Notes that one more record was made.
    pub fn make(&self) {
        self.made.fetch_add(1, Ordering::Release);
    }

    /// Notes that a record was seen in the output topic for the first time.
    pub fn publish(&self) {
        self.published.fetch_add(1, Ordering::Release);
    }

    /// Notes that a record was seen in the dead-letter topic for the first time.
    pub fn dead_letter(&self) {
        self.dead_lettered.fetch_add(1, Ordering::Release);
    }

    /// Records seen in the output topic.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Records seen in the dead-letter topic.
    pub fn dead_lettered(&self) -> u64 {
        self.dead_lettered.load(Ordering::Acquire)
    }

    /// Records that the pipeline says it skipped.
    pub fn skipped(&self) -> u64 {
        self.skipped.get()
    }

    /// Records whose outcome is known.
    pub fn settled(&self) -> u64 {
        self.published() + self.dead_lettered() + self.skipped()
    }

    /// Records that are still to be made.
    pub fn left(&self) -> u64 {
        self.planned - self.made()
    }

    /// How many of them may be made now.
    pub fn room(&self) -> u64 {
        let on_their_way = self.made().saturating_sub(self.settled());
        self.window.saturating_sub(on_their_way).min(self.left())
    }
}

/// Tells a thread whether to go on.
#[derive(Debug, Default)]
pub struct Stop {
    interrupted: AtomicBool,
    stopped: AtomicBool,
}

impl Stop {
    /// Asks the thread to begin nothing new.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Release);
    }

    /// Asks the thread to end.
    pub fn stop(&self) {
        self.interrupt();
        self.stopped.store(true, Ordering::Release);
    }

    /// Whether to begin nothing new.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    /// Whether to end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Sleeps until it is time to end.
    pub fn wait(&self) {
        while !self.is_stopped() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_window_is_on_its_way() {
        let metrics = Metrics::new().expect("metrics");
        let flow = Flow::new(20_000, 1500, "orders", &metrics);
        let fill = || {
            let before = flow.made();
            while flow.room() > 0 {
                flow.make();
            }
            flow.made() - before
        };
        assert_eq!(fill(), 2000);
        (0..30).for_each(|_| flow.publish());
        (0..5).for_each(|_| flow.dead_letter());
        metrics.records_total.of(["orders", "skipped"]).inc_by(65);
        assert_eq!((flow.settled(), fill()), (100, 100));
        metrics.records_total.of(["orders", "skipped"]).inc_by(50_000);
        fill();
        assert_eq!(flow.made(), 20_000);
    }
}
