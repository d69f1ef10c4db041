//! The limits of a replay: an end in each partition, and a rate.
//!
//! The rate limiter holds at most a quarter of a second, so that a wait is not followed by a burst.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many seconds' worth of records may be taken at once.
const BURST: f64 = 0.25;

/// See the module's page. Shared by the consumers of a pipeline.
#[derive(Debug)]
pub struct Bounds {
    /// The first offset of each partition that is not taken, by topic. Nothing is taken from other partitions.
    ends: HashMap<String, HashMap<i32, i64>>,
    pace: Option<Mutex<Pace>>,
}

/// A rate limiter without bursts.
#[derive(Debug)]
pub struct Pace {
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl Pace {
    /// `per_second` must be above 0; the first may be taken at once.
    pub fn new(per_second: f64, now: Instant) -> Pace {
        Pace {
            per_second,
            tokens: 1.0,
            filled: now,
        }
    }

    /// Takes one, if one may be taken now; otherwise returns how long it takes until then.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        if self.has_room(now) {
            self.tokens -= 1.0;
            return Ok(());
        }
        let seconds = (1.0 - self.tokens) / self.per_second;
        Err(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    fn has_room(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min((self.per_second * BURST).max(1.0));
        self.filled = now;
        self.tokens >= 1.0
    }
}

impl Bounds {
    /// Up to these ends, and at most `per_second` records a second if that is given.
    pub fn new(ends: HashMap<(String, i32), i64>, per_second: Option<f64>, now: Instant) -> Bounds {
        let pace = per_second.map(|per_second| Mutex::new(Pace::new(per_second, now)));
        let mut by_topic: HashMap<String, HashMap<i32, i64>> = HashMap::new();
        for ((topic, partition), end) in ends {
            by_topic.entry(topic).or_default().insert(partition, end);
        }
        Bounds { ends: by_topic, pace }
    }

    /// Whether a record is before the end of its partition.
    pub fn contains(&self, topic: &str, partition: i32, offset: i64) -> bool {
        let end = self.ends.get(topic).and_then(|ends| ends.get(&partition));
        end.is_some_and(|end| offset < *end)
    }

    /// Whether another record may be taken now.
    pub fn has_room(&self, now: Instant) -> bool {
        let Some(pace) = &self.pace else { return true };
        pace.lock().unwrap_or_else(PoisonError::into_inner).has_room(now)
    }

    /// A record was taken.
    pub fn took(&self) {
        if let Some(pace) = &self.pace {
            pace.lock().unwrap_or_else(PoisonError::into_inner).tokens -= 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_behind_the_end_is_taken() {
        let now = Instant::now();
        let ends = [("t", 1, 10), ("t", 2, 20), ("v", 1, 30)].map(|(t, p, end)| ((t.to_owned(), p), end));
        let bounds = Bounds::new(HashMap::from(ends), None, now);
        let places = [
            ("t", 1, 9),
            ("t", 1, 10),
            ("t", 2, 19),
            ("v", 1, 29),
            ("v", 1, 30),
            ("t", 0, 0),
            ("v", 2, 0),
            ("u", 1, 0),
        ];
        let taken = places.map(|(t, p, o)| bounds.contains(t, p, o));
        assert_eq!(taken, [true, false, true, true, false, false, false, false]);
        assert!(bounds.has_room(now));
    }

    #[test]
    fn the_pace_is_kept_and_a_wait_is_no_burst() {
        let mut now = Instant::now();
        let bounds = Bounds::new(HashMap::new(), Some(100.0), now);
        let mut taken = 0;
        let mut run = |steps: u32, step: Duration| {
            taken = 0;
            for _ in 0..steps {
                now += step;
                while bounds.has_room(now) {
                    bounds.took();
                    taken += 1;
                }
            }
            taken
        };
        let in_ten_seconds = run(1000, Duration::from_millis(10));
        assert!((990..=1002).contains(&in_ten_seconds), "{in_ten_seconds}");
        assert_eq!(run(1, Duration::from_secs(3600)), 25);
        let slow = Bounds::new(HashMap::new(), Some(0.5), now);
        assert!(slow.has_room(now), "the first comes at once");
        slow.took();
        assert!(!slow.has_room(now + Duration::from_secs(1)));
        assert!(slow.has_room(now + Duration::from_secs(2)));
    }

    #[test]
    fn who_has_to_wait_is_told_how_long() {
        let begin = Instant::now();
        let mut pace = Pace::new(4.0, begin);
        assert_eq!(pace.take(begin), Ok(()));
        assert_eq!(pace.take(begin), Err(Duration::from_millis(250)));
        assert_eq!(pace.take(begin + Duration::from_millis(250)), Ok(()));
        // Nothing was taken for an hour, for example because nobody asked for records.
        let later = begin + Duration::from_secs(3600);
        assert_eq!(pace.take(later), Ok(()));
        assert_eq!(pace.take(later), Err(Duration::from_millis(250)));
    }
}
