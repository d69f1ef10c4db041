//! Remembers something of records whose offsets are not committed, also for the next consumer: they run again after an abort, and there.
//!
//! Invariants: what is committed is forgotten; so are records of a log that went back or of a partition that was given back; and if there are many,
//! those of an earlier consumer in partitions that this one does not hold. The rest are records without a commit, whose number the ledgers bound.

use std::collections::BTreeMap;

use crate::source::assignment::Partition;

/// From this many on, records of partitions that are not held are looked for.
pub(super) const MANY: usize = 1000;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Uncommitted<T> {
    inputs: BTreeMap<(Partition, i64), T>,
    /// How many were left when they were looked through last. It is done again only when they are twice as many.
    left: usize,
}

// A derived one would demand the same of what is remembered.
impl<T> Default for Uncommitted<T> {
    fn default() -> Self {
        Uncommitted {
            inputs: BTreeMap::new(),
            left: 0,
        }
    }
}

impl<T> Uncommitted<T> {
    /// Remembers this of the record at this offset, and returns whether it is a new one; `held` says which partitions are held.
    pub(super) fn insert(&mut self, input: (Partition, i64), what: T, held: impl Fn(Partition) -> bool) -> bool {
        if self.inputs.len() >= MANY.max(2 * self.left) {
            self.inputs.retain(|(partition, _), _| held(*partition));
            self.left = self.inputs.len();
        }
        self.inputs.insert(input, what).is_none()
    }

    /// What is remembered of the record at this offset.
    pub(super) fn get(&self, input: (Partition, i64)) -> Option<&T> {
        self.inputs.get(&input)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Forgets records before `offset`, which do not run again.
    pub(super) fn committed(&mut self, partition: Partition, offset: i64) {
        let before = (partition, i64::MIN)..(partition, offset);
        // Not all are looked through: commits are frequent, and most have nothing to forget.
        while let Some((input, _)) = self.inputs.range(before.clone()).next() {
            let input = *input;
            self.inputs.remove(&input);
        }
    }

    /// Forgets the records of these partitions. Their logs went back, or may do so before the partitions return, and other records then have these
    /// offsets.
    pub(super) fn forget(&mut self, partitions: &[Partition]) {
        self.inputs.retain(|(of, _), _| !partitions.contains(of));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Partition = Partition { topic: 0, index: 0 };
    const LEFT: Partition = Partition { topic: 0, index: 1 };

    fn counted(inputs: impl IntoIterator<Item = (Partition, i64)>) -> Uncommitted<()> {
        let mut counted = Uncommitted::default();
        for input in inputs {
            counted.insert(input, (), |partition| partition == HELD);
        }
        counted
    }

    #[test]
    fn one_is_new_until_it_is_committed() {
        let mut counted = counted([(HELD, 4), (HELD, 5), (LEFT, 4)]);
        let new = |counted: &mut Uncommitted<()>| {
            [(HELD, 4), (HELD, 5), (LEFT, 4)].map(|at| counted.insert(at, (), |_| true))
        };
        assert_eq!(new(&mut counted), [false, false, false]);
        counted.committed(HELD, 5);
        assert_eq!(new(&mut counted), [true, false, false]);
    }

    #[test]
    fn what_stood_in_a_log_that_went_back_is_forgotten() {
        let mut counted = counted([(HELD, 4), (HELD, 5), (LEFT, 4)]);
        counted.forget(&[HELD]);
        assert_eq!(counted.inputs, BTreeMap::from([((LEFT, 4), ())]));
    }

    #[test]
    fn many_that_have_left_are_forgotten_and_none_that_is_held() {
        let many = MANY as i64;
        let mut counted = counted((0..many).map(|at| (LEFT, at)).chain((0..2 * many).map(|at| (HELD, at))));
        assert_eq!(counted.len(), 2 * MANY);
        assert!(counted.insert((LEFT, 0), (), |_| true) && !counted.insert((HELD, 0), (), |_| true));
    }
}
