//! Says a thing once, and then counts it for a while.
//!
//! A broken dependency fails for every record in the same way. Logging or reporting each failure would drown the one
//! line that matters and cost more than the work itself. A [`Limiter`] lets the first of a kind through, and the next
//! one only after an interval, together with how many were held back in between.
//!
//! Invariants: no clock of its own (the caller passes the time); bounded memory, whatever the keys.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most kinds remembered at once. Beyond it, those whose interval is over are forgotten, and then all.
const KINDS: usize = 1024;

/// Lets one occurrence per kind and interval through.
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
    kinds: Mutex<HashMap<K, Kind, S>>,
}

#[derive(Debug)]
struct Kind {
    last: Instant,
    suppressed: u64,
}

impl<K: Hash + Eq> Limiter<K> {
    /// One occurrence of each kind every `every`.
    pub fn new(every: Duration) -> Self {
        Self::hashed(every)
    }
}

impl<K: Hash + Eq, S: BuildHasher + Default> Limiter<K, S> {
    /// The same, with a hash of one's own.
    pub fn hashed(every: Duration) -> Self {
        Self {
            every,
            kinds: Mutex::default(),
        }
    }

    /// Whether this occurrence is to be told: `Some` with the number of those held back since the last one that was.
    pub fn admit(&self, kind: K, now: Instant) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kinds.get_mut(&kind) {
            if now.saturating_duration_since(known.last) < self.every {
                known.suppressed += 1;
                return None;
            }
            known.last = now;
            return Some(std::mem::take(&mut known.suppressed));
        }
        if kinds.len() >= KINDS {
            kinds.retain(|_, k| now.saturating_duration_since(k.last) < self.every);
            if kinds.len() >= KINDS {
                kinds.clear();
            }
        }
        kinds.insert(
            kind,
            Kind {
                last: now,
                suppressed: 0,
            },
        );
        Some(0)
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
        assert!(limiter.kinds.lock().unwrap().len() <= KINDS);
    }
}
