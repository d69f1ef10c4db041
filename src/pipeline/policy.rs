//! When a step stops retrying: after a number of attempts, or a time after the first failure, whichever comes first.
//!
//! Pure: the time is an argument. Invariants: without a declared limit there is none; waiting at an open breaker is not an attempt, but its time
//! counts; a step makes at least one attempt unless the breaker was open all the time.

use std::time::{Duration, Instant};

use crate::config::{ErrorPolicy, OnError};

/// What a step declares, prepared for use.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// What follows the last attempt.
    pub on_error: OnError,
    max_attempts: u32,
    max_elapsed: Duration,
}

/// Attempts of one event at one step with the same result: they failed, or found no row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tries {
    made: u32,
    since: Option<Instant>,
}

impl From<&ErrorPolicy> for Policy {
    fn from(config: &ErrorPolicy) -> Policy {
        Policy {
            on_error: config.on_error,
            max_attempts: config
                .max_attempts
                .map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX)),
            max_elapsed: config.max_elapsed,
        }
    }
}

impl Tries {
    /// Attempts made so far.
    pub fn made(self) -> u32 {
        self.made
    }

    /// Counts an attempt that did not give the wanted result.
    pub fn failed(&mut self, now: Instant) {
        self.made = self.made.saturating_add(1);
        self.held_up(now);
    }

    /// Starts the clock because something prevents an attempt. It runs from the first such delay, or from the first
    /// failure.
    pub fn held_up(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// How long ago the first attempt failed.
    pub fn elapsed(self, now: Instant) -> Duration {
        self.since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

impl Policy {
    /// Retries without a limit.
    pub const ENDLESS: Policy = Policy {
        on_error: OnError::Retry,
        max_attempts: u32::MAX,
        max_elapsed: Duration::MAX,
    };

    /// The time at which the step stops trying, once something has kept it from succeeding.
    pub fn deadline(&self, tries: Tries) -> Option<Instant> {
        match self.on_error {
            OnError::Retry => None,
            OnError::Null | OnError::Skip | OnError::DeadLetter => tries.since?.checked_add(self.max_elapsed),
        }
    }

    /// Whether the latest attempt was the last one.
    pub fn is_over(&self, tries: Tries, now: Instant) -> bool {
        match self.on_error {
            OnError::Retry => false,
            OnError::Null | OnError::Skip | OnError::DeadLetter => {
                tries.made >= self.max_attempts || self.deadline(tries).is_some_and(|deadline| now >= deadline)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn over_exactly_when_the_list_of_attempts_says_so(
            on_error in prop_oneof![Just(OnError::Retry), Just(OnError::Null), Just(OnError::Skip), Just(OnError::DeadLetter)],
            max_attempts in prop::option::of(1..6usize),
            max_elapsed in 1..5000u64,
            steps in prop::collection::vec((any::<bool>(), 0..900u64), 1..30),
        ) {
            let max_elapsed = Duration::from_millis(max_elapsed);
            let policy = Policy::from(&ErrorPolicy { on_error, max_attempts, max_elapsed });
            let start = Instant::now();
            let (mut now, mut tries, mut attempts, mut first) = (start, Tries::default(), 0, None);
            prop_assert!(policy.deadline(tries).is_none() && !policy.is_over(tries, now));
            for (attempted, ms) in steps {
                now += Duration::from_millis(ms);
                first = first.or(Some(now));
                if attempted {
                    attempts += 1;
                    tries.failed(now);
                } else {
                    tries.held_up(now);
                }
                let late = first.is_some_and(|first| now - first >= max_elapsed);
                let bounded = on_error != OnError::Retry;
                prop_assert_eq!(policy.is_over(tries, now), bounded && (late || max_attempts.is_some_and(|max| attempts >= max)));
                prop_assert_eq!(policy.deadline(tries), first.filter(|_| bounded).map(|first| first + max_elapsed));
                prop_assert_eq!(tries.made() as usize, attempts);
            }
        }
    }
}
