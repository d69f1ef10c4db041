//! Reproducible random numbers: a 64-bit generator and Zipf's distribution.
//!
//! The demo derives a record from its number alone, so that the verifier can create it again instead of remembering it.

/// SplitMix64: one addition and a mix per number, and any seed is a good one.
/// See Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

/// Increment of the state; it also spreads neighbouring numbers over all seeds.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The mix of SplitMix64: every bit of the result depends on every bit of `z`.
pub fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Random {
    /// The sequence number `number` of a family of sequences.
    pub fn new(family: u64, number: u64) -> Random {
        Random(mix(family ^ number.wrapping_mul(STEP)))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number from 0 to `end`, exclusive. The bias is below `end` / 2^64.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(end)) >> 64) as u64
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of the items; they must not be empty.
    pub fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
}

/// Zipf's distribution with exponent 1 over `0..n`, in Mandelbrot's form: rank `r` is drawn in proportion to `1 / (r
/// + 1 + shift)`. A shift keeps the first few ranks from being drawn most of the time.
#[derive(Debug)]
pub struct Zipf {
    /// The inverse of the distribution: rank `r` is drawn by 32-bit numbers up to `upto[r]`.
    upto: Vec<u32>,
}

impl Zipf {
    /// A table of `n` ranks; at least one.
    pub fn new(n: usize, shift: usize) -> Zipf {
        let weight = |rank: usize| 1.0 / (rank + 1 + shift) as f64;
        let total: f64 = (0..n).map(weight).sum();
        let mut sum = 0.0;
        let upto = (0..n).map(|rank| {
            sum += weight(rank);
            (sum / total * f64::from(u32::MAX)) as u32
        });
        Zipf { upto: upto.collect() }
    }

    /// Draws a rank.
    pub fn draw(&self, random: &mut Random) -> usize {
        let number = (random.bits() >> 32) as u32;
        // Because of rounding, the last bound may be a little below the greatest number.
        self.upto
            .partition_point(|upto| *upto < number)
            .min(self.upto.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_always_the_same_and_unlike_its_neighbour() {
        let take = |family, number| {
            let mut random = Random::new(family, number);
            [random.bits(), random.bits(), random.bits()]
        };
        assert_eq!(take(1, 7), take(1, 7));
        assert_ne!(take(1, 7), take(1, 8));
        assert_ne!(take(1, 7), take(2, 7));
    }

    #[test]
    fn numbers_stay_below_their_end_and_reach_all_of_it() {
        let mut seen = [0u32; 7];
        let mut random = Random::new(3, 3);
        (0..7000).for_each(|_| seen[random.below(7) as usize] += 1);
        assert!(seen.iter().all(|n| (800..1200).contains(n)), "{seen:?}");
    }

    #[test]
    fn ranks_come_as_often_as_zipf_says() {
        let mut random = Random::new(1, 1);
        for shift in [0, 10] {
            let zipf = Zipf::new(1000, shift);
            let mut counts = vec![0u32; 1000];
            (0..200_000).for_each(|_| counts[zipf.draw(&mut random)] += 1);
            let harmonic: f64 = (shift + 1..=shift + 1000).map(|n| 1.0 / n as f64).sum();
            for rank in [0, 1, 9] {
                let share = 1.0 / (rank + 1 + shift) as f64 / harmonic;
                let seen = f64::from(counts[rank]) / 200_000.0;
                assert!(
                    (seen / share - 1.0).abs() < 0.08,
                    "rank {rank}: {seen} instead of {share}"
                );
            }
        }
        assert_eq!(Zipf::new(1, 0).draw(&mut random), 0);
    }
}
