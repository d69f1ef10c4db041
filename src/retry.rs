//! Error classes and retry delays.
//!
//! Every foreign error gets a [`Class`] where it enters Messina, and the class alone decides what follows. Delays grow, are capped and have jitter, so
//! that many waiting events do not return to a recovering server at the same moment.
//!
//! Invariant: a delay is below the ceiling of its attempt, and no ceiling is above the maximum.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// What an error means for the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// It may pass (time-out, unavailable, overloaded): retried, for as long as it takes.
    Transient,
    /// This record will never succeed (bad bytes, wrong type, invalid request): a dead letter at once.
    Permanent,
    /// No record can succeed (credentials refused, table gone, fenced): the pipeline halts, and nothing is committed past the record.
    Fatal,
}

impl Class {
    /// The value of the `class` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Transient => "transient",
            Class::Permanent => "permanent",
            Class::Fatal => "fatal",
        }
    }
}

/// Capped exponential back-off with full jitter: `random_between(0, min(max, initial * factor ^ attempt))`.
///
/// The formula is the "full jitter" of Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015
/// (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>), there with factor 2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    factor: f64,
}

impl Backoff {
    /// Ceilings of `initial`, `initial * factor`, `initial * factor²` and so on, none above `max`. A factor below 1 counts as 1.
    pub fn new(initial: Duration, max: Duration, factor: f64) -> Backoff {
        Backoff {
            initial,
            max,
            factor: factor.max(1.0),
        } // `max` also turns NaN into 1
    }

    /// The delay before a retry. `attempt` is 0 for the first retry; all 64 bits of `random` must be random.
    pub fn delay(&self, attempt: u32, random: u64) -> Duration {
        let ceiling = u64::try_from(self.ceiling(attempt).as_nanos()).unwrap_or(u64::MAX);
        // The high half of the product spreads 64 random bits evenly over 0..ceiling (Lemire, "Fast Random Integer Generation in
        // an Interval", 2019, without its rejection step: the bias is far below a nanosecond).
        let nanos = (u128::from(ceiling) * u128::from(random)) >> 64;
        Duration::from_nanos(nanos as u64)
    }

    /// The longest delay that [`Backoff::delay`] may give for this attempt.
    pub fn ceiling(&self, attempt: u32) -> Duration {
        if self.initial >= self.max || self.initial.is_zero() {
            return self.initial.min(self.max);
        }
        let power = self.factor.powi(i32::try_from(attempt).unwrap_or(i32::MAX));
        let seconds = (self.initial.as_secs_f64() * power).min(self.max.as_secs_f64());
        Duration::try_from_secs_f64(seconds).map_or(self.max, |ceiling| ceiling.min(self.max))
    }
}

/// A small generator for jitter; not for anything that must be unpredictable. It is xorshift64*, from Sebastiano Vigna, "An experimental exploration
/// of Marsaglia's xorshift generators, scrambled", 2016 (shifts 12, 25, 27; multiplier M32).
#[derive(Debug, Clone)]
pub struct Jitter {
    state: u64,
}

impl Jitter {
    /// A generator whose numbers depend on `seed` alone.
    pub fn new(seed: u64) -> Jitter {
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15; // 2^64 / golden ratio, odd: different seeds stay different
        let state = seed.wrapping_mul(SPREAD);
        Jitter {
            state: if state == 0 { SPREAD } else { state },
        } // zero is the one state that never changes
    }

    /// A generator that differs from all others, in this process and in others. The process id cannot serve as a seed: in a container it is always the
    /// same.
    pub fn unique() -> Jitter {
        // `RandomState` has random keys, so the hash of nothing is already a random number.
        Jitter::new(RandomState::new().build_hasher().finish())
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn delays_stay_below_their_ceiling_and_ceilings_grow_to_the_maximum(
            initial_ms in 0..10_000u64,
            max_ms in 0..100_000u64,
            factor in prop_oneof![0.0..4.0f64, Just(f64::NAN), Just(f64::INFINITY)],
            attempt in prop_oneof![0..20u32, any::<u32>()],
            random in any::<u64>(),
        ) {
            let max = Duration::from_millis(max_ms);
            let backoff = Backoff::new(Duration::from_millis(initial_ms), max, factor);
            let ceiling = backoff.ceiling(attempt);
            prop_assert!(ceiling <= max);
            prop_assert!(backoff.delay(attempt, random) <= ceiling);
            prop_assert!(backoff.ceiling(attempt.saturating_add(1)) >= ceiling);
            prop_assert_eq!(backoff.delay(attempt, 0), Duration::ZERO);
        }
    }

    #[test]
    fn ceilings_double_and_the_jitter_is_full() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 2.0);
        let ceilings: Vec<u128> = (0..6).map(|attempt| backoff.ceiling(attempt).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1000, 1000]);
        let mut jitter = Jitter::new(7);
        let mut delays: Vec<Duration> = (0..10_000).map(|_| backoff.delay(9, jitter.next_u64())).collect();
        delays.sort();
        assert!(delays[0] < Duration::from_millis(2) && delays[9999] > Duration::from_millis(998));
        for quarter in 1..4u64 {
            let (is, due) = (delays[2500 * quarter as usize].as_millis() as i64, 250 * quarter as i64);
            assert!((is - due).abs() < 25, "quantile {quarter}/4 is {is} ms");
        }
    }

    #[test]
    fn jitter_follows_from_its_seed_and_never_sticks() {
        let numbers = |seed| {
            let mut jitter = Jitter::new(seed);
            [jitter.next_u64(), jitter.next_u64(), jitter.next_u64()]
        };
        assert_eq!(numbers(3), numbers(3));
        assert_ne!(numbers(3), numbers(4));
        let [a, b, c] = numbers(0);
        assert!(a != b && b != c && a != 0);
    }

    #[test]
    fn no_two_unique_ones_are_alike() {
        assert_ne!(Jitter::unique().next_u64(), Jitter::unique().next_u64());
    }

    #[test]
    fn huge_durations_do_not_overflow() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::MAX, 1e300);
        assert!(backoff.delay(u32::MAX, u64::MAX) > Duration::from_secs(1));
        assert_eq!(
            Backoff::new(Duration::MAX, Duration::from_secs(1), 2.0).ceiling(0),
            Duration::from_secs(1)
        );
    }
}
