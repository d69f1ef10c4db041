//! Decides which records are traced: those whose producer requests it, a share of the others, and never more than a number per second.
//!
//! The decision is made once, when a record is admitted, and nothing is written into an untraced record: no header ever names a span that was left
//! out on purpose. Pure: the second is an argument, and chance is a hash of the record's position.

use std::sync::atomic::{AtomicU64, Ordering};

/// A limit on the number of traced records per second, shared by all loops.
#[derive(Debug)]
pub struct Bound {
    per_second: u32,
    /// The second and the count within it, each as 32 bits of one word.
    state: AtomicU64,
}

impl Bound {
    /// A limit of this many per second.
    pub fn new(per_second: u32) -> Bound {
        Bound {
            per_second,
            state: AtomicU64::new(0),
        }
    }

    /// Whether another record is admitted in this second. Seconds may be counted from any start.
    pub fn admits(&self, second: u32) -> bool {
        let next = |state: u64| {
            let (last, count) = ((state >> 32) as u32, state as u32);
            // Another thread may have counted in a later second already.
            let (second, count) = if second > last { (second, 0) } else { (last, count) };
            (count < self.per_second).then(|| u64::from(second) << 32 | u64::from(count + 1))
        };
        self.state
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .is_ok()
    }
}

/// Whether a trace is started for a record that has none: for `share` of all records, evenly. The same record always gets the same answer under
/// the same seed.
pub fn begins(share: f64, seed: u64, partition: i32, offset: i64) -> bool {
    let place = mixed(seed ^ u64::from(partition.cast_unsigned()));
    let random = mixed(place ^ offset.cast_unsigned());
    // 53 bits, the precision of an `f64`, so the result is always below 1.
    ((random >> 11) as f64) / ((1_u64 << 53) as f64) < share
}

/// SplitMix64's finaliser (<https://prng.di.unimi.it/splitmix64.c>).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_has_its_bound_and_the_next_one_its_own() {
        let bound = Bound::new(3);
        let admitted = |second| (0..10).filter(|_| bound.admits(second)).count();
        assert_eq!([0, 1, 1, 7].map(admitted), [3, 3, 0, 3]);
        // A late call counts in the later second of the others.
        assert_eq!(admitted(6), 0);
    }

    #[test]
    fn threads_share_the_bound() {
        let bound = Bound::new(1000);
        let admitted: usize = std::thread::scope(|scope| {
            let count = || (0..1000).filter(|_| bound.admits(1)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1000);
    }

    #[test]
    fn none_and_all() {
        for offset in 0..1000 {
            assert!(!begins(0.0, 1, 0, offset));
            assert!(begins(1.0, 1, 0, offset));
        }
    }

    proptest! {
        #[test]
        fn the_share_is_met(share in 0.001..1.0f64, seed in any::<u64>(), partition in 0..100i32) {
            const RECORDS: i64 = 20_000;
            let begun = (0..RECORDS).filter(|&offset| begins(share, seed, partition, offset)).count() as f64;
            let expected = share * RECORDS as f64;
            // Six standard deviations of a binomial distribution.
            let room = 6.0 * (expected * (1.0 - share)).sqrt() + 1.0;
            prop_assert!((begun - expected).abs() <= room, "{begun} of {RECORDS}, and {share} is the share");
        }
    }
}
