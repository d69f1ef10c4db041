//! One bit per record, by its number: which records were seen, in 25 kB per 200,000 records.

/// A set of numbers below a length that is known from the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    length: u64,
}

impl Bitmap {
    /// An empty set of numbers below `length`.
    pub fn new(length: u64) -> Bitmap {
        Bitmap {
            words: vec![0; length.div_ceil(64) as usize],
            length,
        }
    }

    /// Adds a number, and returns whether it is new; `None` if it is not below the length.
    pub fn add(&mut self, number: u64) -> Option<bool> {
        if number >= self.length {
            return None;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        Some(new)
    }

    /// Whether the number is in the set.
    pub fn has(&self, number: u64) -> bool {
        number < self.length && self.words[(number / 64) as usize] & (1 << (number % 64)) != 0
    }

    /// How many numbers are in the set.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many numbers are in this set and not in `other`, which has the same length.
    pub fn without(&self, other: &Bitmap) -> u64 {
        self.words
            .iter()
            .zip(&other.words)
            .map(|(a, b)| u64::from((a & !b).count_ones()))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(ours in prop::collection::vec(0u64..300, 0..200), theirs in prop::collection::vec(0u64..200, 0..200)) {
            let (mut a, mut b) = (Bitmap::new(200), Bitmap::new(200));
            let (mut x, mut y) = (BTreeSet::new(), BTreeSet::new());
            for number in ours {
                let expected = (number < 200).then(|| x.insert(number));
                prop_assert_eq!(a.add(number), expected);
            }
            for number in theirs {
                prop_assert_eq!(b.add(number), Some(y.insert(number)));
            }
            prop_assert_eq!(a.count(), x.len() as u64);
            prop_assert_eq!(a.without(&b), x.difference(&y).count() as u64);
            prop_assert!((0..300).all(|n| a.has(n) == x.contains(&n)));
        }
    }
}
