//! Dead-letter limits (`stop_above`): more dead letters than this are an outage, not bad data.
//!
//! Without a limit, a wrong deployment (a producer's new schema, a table of the wrong type) turns a whole stream into dead letters while everything
//! looks healthy. With one, intake stops and an alert fires; the records wait safely in Kafka.
//!
//! Invariants: skipped records do not interrupt a run of dead letters, because where a filter skips most they would hide that all others fail; the
//! ratio counts only when enough records ended within the window; once stopped, it stays stopped, whatever is still in flight.

use std::time::{Duration, Instant};

pub use crate::config::StopAbove;

/// How finely the window slides: it covers between 59/60 and 60/60 of its length.
const BUCKETS: usize = 60;

/// How the ratio looks back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// How far it looks back.
    pub length: Duration,
    /// How many records must have ended within it before the ratio means anything.
    pub minimum: u64,
}

impl Default for Window {
    /// One minute, and a thousand records.
    fn default() -> Self {
        Window {
            length: Duration::from_secs(60),
            minimum: 1000,
        }
    }
}

/// Whether intake may go on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// Go on.
    Go,
    /// Stop intake; commit nothing past what is not acknowledged.
    Stop(StopReason),
}

/// Which limit was exceeded, and by how much.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum StopReason {
    /// Too large a share of the recent records.
    #[error(
        "{dead_letters} of the last {records} records became dead letters, which is more than the ratio of {limit} allows"
    )]
    Ratio {
        /// Dead letters within the window.
        dead_letters: u64,
        /// Records that ended within the window, dead letters included.
        records: u64,
        /// The ratio that is allowed.
        limit: f64,
    },
    /// Too many in a row.
    #[error("{count} records in a row, not counting skipped ones, became dead letters; {limit} are allowed")]
    Consecutive {
        /// Dead letters since the last record that was neither a dead letter nor skipped.
        count: u64,
        /// How many are allowed.
        limit: u64,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    records: u64,
    dead_letters: u64,
}

/// The dead-letter limits of one pipeline.
#[derive(Debug, Clone)]
pub struct Limits {
    allowed: StopAbove,
    minimum: u64,
    bucket_length: Duration,
    buckets: [Counts; BUCKETS],
    /// The index of the bucket that counts now, and when it began.
    current: usize,
    began: Option<Instant>,
    /// The sum of all buckets.
    sum: Counts,
    consecutive: u64,
    /// When the last dead letter was counted.
    last: Option<Instant>,
    stopped: Option<StopReason>,
}

/// Dead letters farther apart than this do not count as in a row: the records skipped between them do not show that the steps work.
const IN_A_ROW: Duration = Duration::from_secs(3600);

impl Limits {
    /// Limits that have counted nothing yet. A window shorter than 60 ns counts as 60 ns.
    pub fn new(allowed: StopAbove, window: Window) -> Limits {
        Limits {
            allowed,
            minimum: window.minimum,
            bucket_length: (window.length / BUCKETS as u32).max(Duration::from_nanos(1)),
            buckets: [Counts::default(); BUCKETS],
            current: 0,
            began: None,
            sum: Counts::default(),
            consecutive: 0,
            last: None,
            stopped: None,
        }
    }

    /// Counts a record that ended and was not skipped. `now` may be earlier than in a previous call, and then counts as that call's time.
    pub fn record(&mut self, is_dead_letter: bool, now: Instant) -> Verdict {
        let goes_on = |last: Instant| now.saturating_duration_since(last) <= IN_A_ROW;
        if !is_dead_letter || !self.last.is_none_or(goes_on) {
            self.consecutive = 0;
        }
        if is_dead_letter {
            self.consecutive = self.consecutive.saturating_add(1);
            self.last = Some(now);
        }
        self.count(is_dead_letter, now)
    }

    /// Counts a skipped record: it counts for the ratio, but does not show that the steps after the filter work.
    pub fn skipped(&mut self, now: Instant) -> Verdict {
        self.count(false, now)
    }

    fn count(&mut self, is_dead_letter: bool, now: Instant) -> Verdict {
        self.slide(now);
        for counts in [&mut self.sum, &mut self.buckets[self.current]] {
            counts.records += 1;
            counts.dead_letters += u64::from(is_dead_letter);
        }
        self.stopped = self.stopped.or_else(|| self.judge());
        self.verdict()
    }

    /// The verdict as it stands, without counting anything.
    pub fn verdict(&self) -> Verdict {
        self.stopped.map_or(Verdict::Go, Verdict::Stop)
    }

    fn judge(&self) -> Option<StopReason> {
        let Counts { records, dead_letters } = self.sum;
        if let Some(limit) = self.allowed.consecutive.filter(|limit| self.consecutive > *limit) {
            return Some(StopReason::Consecutive {
                count: self.consecutive,
                limit,
            });
        }
        let judged = records > 0 && records >= self.minimum;
        let limit = self
            .allowed
            .ratio
            .filter(|limit| judged && dead_letters as f64 > limit * records as f64)?;
        Some(StopReason::Ratio {
            dead_letters,
            records,
            limit,
        })
    }

    /// Lets buckets fall out of the window until `now` lies in the current one.
    fn slide(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let steps = now.saturating_duration_since(began).as_nanos() / self.bucket_length.as_nanos();
        if steps == 0 {
            return;
        }
        if steps >= BUCKETS as u128 {
            self.buckets = [Counts::default(); BUCKETS];
            self.sum = Counts::default();
            self.began = Some(now);
            return;
        }
        for _ in 0..steps {
            self.current = (self.current + 1) % BUCKETS;
            let gone = std::mem::take(&mut self.buckets[self.current]);
            self.sum.records -= gone.records;
            self.sum.dead_letters -= gone.dead_letters;
        }
        self.began = Some(began + self.bucket_length * steps as u32);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: StopAbove = StopAbove {
        ratio: Some(0.01),
        consecutive: Some(10),
    };

    #[test]
    fn more_in_a_row_than_allowed_is_a_stop_that_lasts() {
        let mut limits = Limits::new(BOTH, Window::default());
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(limits.record(false, now), Verdict::Go);
            (0..10).for_each(|_| assert_eq!(limits.record(true, now), Verdict::Go));
        }
        let stop = Verdict::Stop(StopReason::Consecutive { count: 11, limit: 10 });
        assert_eq!(limits.record(true, now), stop);
        assert_eq!(limits.record(false, now), stop);
        assert_eq!(limits.verdict(), stop);
    }

    #[test]
    fn what_is_skipped_ends_no_row_and_an_hour_does() {
        let mut limits = Limits::new(BOTH, Window::default());
        let mut now = Instant::now();
        for _ in 0..100 {
            now += IN_A_ROW + Duration::from_secs(1);
            assert_eq!(limits.record(true, now), Verdict::Go);
        }
        for in_a_row in 2..=10 {
            (0..999).for_each(|_| assert_eq!(limits.skipped(now), Verdict::Go));
            now += IN_A_ROW;
            assert_eq!(limits.record(true, now), Verdict::Go, "{in_a_row}");
        }
        let stop = Verdict::Stop(StopReason::Consecutive { count: 11, limit: 10 });
        assert_eq!(limits.record(true, now), stop);
    }

    #[test]
    fn the_ratio_waits_for_enough_records() {
        let ratio = StopAbove {
            ratio: Some(0.01),
            consecutive: None,
        };
        let mut limits = Limits::new(ratio, Window::default());
        let now = Instant::now();
        (0..999).for_each(|n| assert_eq!(limits.record(n % 2 == 0, now), Verdict::Go));
        let reason = StopReason::Ratio {
            dead_letters: 500,
            records: 1000,
            limit: 0.01,
        };
        assert_eq!(limits.record(false, now), Verdict::Stop(reason));
        assert!(reason.to_string().starts_with("500 of the last 1000 records"));
    }

    #[test]
    fn exactly_the_ratio_is_allowed() {
        let mut limits = Limits::new(BOTH, Window::default());
        let now = Instant::now();
        (0..2000).for_each(|n| assert_eq!(limits.record(n % 100 == 99, now), Verdict::Go, "{n}"));
    }

    #[test]
    fn no_limit_never_stops() {
        let mut limits = Limits::new(
            StopAbove {
                ratio: None,
                consecutive: None,
            },
            Window {
                minimum: 0,
                ..Window::default()
            },
        );
        let now = Instant::now();
        (0..5000).for_each(|_| assert_eq!(limits.record(true, now), Verdict::Go));
    }

    proptest! {
        #[test]
        fn the_window_counts_what_a_list_counts(
            records in prop::collection::vec((any::<bool>(), prop_oneof![0..3u64, 0..200u64]), 1..200),
        ) {
            let window = Window { length: Duration::from_secs(60), minimum: 1 };
            let mut limits = Limits::new(StopAbove { ratio: None, consecutive: None }, window);
            let mut list: Vec<(bool, Duration)> = Vec::new();
            let start = Instant::now();
            let mut passed = Duration::ZERO;
            for (dead, half_seconds) in records {
                passed += Duration::from_millis(500 * half_seconds);
                limits.record(dead, start + passed);
                list.push((dead, passed));
                // The window ends with the current bucket, so what is certainly inside and what may be inside differ by one bucket.
                let within = |length: u64| list.iter().filter(|(_, at)| passed - *at < Duration::from_secs(length)).count() as u64;
                prop_assert!((within(59)..=within(60)).contains(&limits.sum.records));
                let sum = limits.buckets.iter().fold(Counts::default(), |sum, bucket| Counts {
                    records: sum.records + bucket.records,
                    dead_letters: sum.dead_letters + bucket.dead_letters,
                });
                prop_assert_eq!((limits.sum.records, limits.sum.dead_letters), (sum.records, sum.dead_letters));
            }
        }
    }
}
