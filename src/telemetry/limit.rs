//! A rate limiter for messages: reports the first of a kind, and then counts for a while.
//!
//! A broken dependency fails in the same way for every record. Logging or reporting each failure would hide the one line that matters and cost more
//! than the work itself. A [`Limiter`] passes the first message of a kind, and the next one only after an interval, together with the number of
//! suppressed ones.
//!
//! Invariants: no clock of its own (the caller passes the time); bounded memory, whatever the keys.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Maximum number of kinds remembered. Beyond it, kinds whose interval is over are forgotten; if that frees no room, all further kinds count as
/// one.
const KINDS: usize = 1024;

/// Lets one occurrence per kind and interval pass.
///
/// ```
/// # use std::time::{Duration, Instant};
/// # use messina::telemetry::limit::Limiter;
/// let limiter = Limiter::new(Duration::from_secs(10));
/// if let Some(suppressed) = limiter.admit(("navigation", "profile", "timeout"), Instant::now()) {
///     tracing::warn!(pipeline = "navigation", step = "profile", suppressed, "look-up failed");
/// }
/// ```
#[derive(Debug)]
pub struct Limiter<K, S = RandomState> {
    every: Duration,
    known: Mutex<Known<K, S>>,
}

#[derive(Debug)]
struct Known<K, S> {
    kinds: HashMap<K, Kind, S>,
    /// The kinds for which there was no room, as one.
    others: Option<Kind>,
}

#[derive(Debug)]
struct Kind {
    last: Instant,
    suppressed: u64,
}

impl Kind {
    fn told(now: Instant) -> Kind {
        Kind {
            last: now,
            suppressed: 0,
        }
    }

    fn is_recent(&self, now: Instant, every: Duration) -> bool {
        now.saturating_duration_since(self.last) < every
    }

    /// Handles one more occurrence: lets it pass or counts it.
    fn admit(&mut self, now: Instant, every: Duration) -> Option<u64> {
        if self.is_recent(now, every) {
            self.suppressed += 1;
            return None;
        }
        self.last = now;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl<K: Hash + Eq> Limiter<K> {
    /// Lets one occurrence of each kind pass per interval `every`.
    pub fn new(every: Duration) -> Self {
        Self::hashed(every)
    }
}

impl<K: Hash + Eq, S: BuildHasher + Default> Limiter<K, S> {
    /// Like `new`, but with another hash function.
    pub fn hashed(every: Duration) -> Self {
        Self {
            every,
            known: Mutex::new(Known {
                kinds: HashMap::default(),
                others: None,
            }),
        }
    }

    /// Whether this occurrence passes: `Some` with the number suppressed since the last one that passed.
    pub fn admit(&self, kind: K, now: Instant) -> Option<u64> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { kinds, others } = &mut *known;
        if let Some(known) = kinds.get_mut(&kind) {
            return known.admit(now, self.every);
        }
        let mut suppressed = 0;
        if kinds.len() >= KINDS {
            // While further kinds are suppressed, do not look for room either: that means checking all kinds.
            if let Some(others) = others.as_mut() {
                suppressed = others.admit(now, self.every)?;
            }
            kinds.retain(|_, kind| kind.is_recent(now, self.every));
            if kinds.len() >= KINDS {
                *others = Some(Kind::told(now));
                return Some(suppressed);
            }
            *others = None;
        }
        kinds.insert(kind, Kind::told(now));
        Some(suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_kind_is_told_and_the_rest_are_counted() {
        let limiter = Limiter::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(limiter.admit("timeout", at(0)), Some(0));
        assert_eq!(limiter.admit("refused", at(1)), Some(0));
        assert_eq!((2..10).filter_map(|s| limiter.admit("timeout", at(s))).count(), 0);
        assert_eq!(limiter.admit("timeout", at(10)), Some(8));
        assert_eq!(limiter.admit("timeout", at(19)), None);
        assert_eq!(limiter.admit("timeout", at(20)), Some(1));
    }

    #[test]
    fn many_kinds_do_not_grow_it() {
        let limiter = Limiter::new(Duration::from_secs(10));
        let now = Instant::now();
        for kind in 0..10 * KINDS {
            limiter.admit(kind, now);
        }
        assert!(limiter.known.lock().unwrap().kinds.len() <= KINDS);
    }

    #[test]
    fn more_kinds_than_are_remembered_are_told_as_one_and_counted() {
        let limiter = Limiter::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let told = |kinds: std::ops::Range<usize>, seconds| -> Vec<u64> {
            kinds.filter_map(|kind| limiter.admit(kind, at(seconds))).collect()
        };
        // Kinds for which there is no room do not make others forgotten.
        assert_eq!(told(0..3 * KINDS, 0), vec![0_u64; KINDS + 1]);
        assert!(told(0..3 * KINDS, 1).is_empty());
        assert!(told(0..3 * KINDS, 9).is_empty());
        // The first half is still remembered, and passes again with its own counts. Of the other kinds, the next to pass reports how many were
        // suppressed.
        assert_eq!(told(0..KINDS / 2, 10), vec![2_u64; KINDS / 2]);
        let others = 3 * 2 * KINDS as u64 - 1;
        assert_eq!(told(KINDS..KINDS + 2, 10), [others, 0]);
        assert!(told(KINDS..KINDS + 2, 11).is_empty());
    }
}
