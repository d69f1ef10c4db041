//! Remembers records whose outputs the brokers refuse for good.
//!
//! Brokers refuse a batch as a whole. The other records of the batch run again, and would meet such an output in their next batch too, for ever. So
//! it is remembered, also by the next consumer: when its record runs again, that becomes a dead letter, and none of its output is published.

use super::uncommitted::Uncommitted;
use crate::pipeline::failure::Failure;
use crate::source::assignment::Partition;

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Refused {
    by_input: Uncommitted<Failure>,
    /// A new one was added since this was last asked.
    learned: bool,
}

impl Refused {
    /// Remembers why the output of the record at this offset is refused; `held` says which partitions are held.
    pub(super) fn insert(&mut self, input: (Partition, i64), failure: Failure, held: impl Fn(Partition) -> bool) {
        self.learned |= self.by_input.insert(input, failure, held);
    }

    /// Whether a new one was added since the last call.
    pub(super) fn learned(&mut self) -> bool {
        std::mem::take(&mut self.learned)
    }

    /// Why the brokers would refuse the output of the record at this offset, if they did before.
    pub(super) fn get(&self, input: (Partition, i64)) -> Option<&Failure> {
        self.by_input.get(input)
    }

    /// See [`Uncommitted::committed`].
    pub(super) fn committed(&mut self, partition: Partition, offset: i64) {
        self.by_input.committed(partition, offset);
    }

    /// See [`Uncommitted::forget`].
    pub(super) fn forget(&mut self, partitions: &[Partition]) {
        self.by_input.forget(partitions);
    }
}

#[cfg(test)]
mod tests {
    use super::super::uncommitted::MANY;
    use super::*;

    const HELD: Partition = Partition { topic: 0, index: 0 };
    const LEFT: Partition = Partition { topic: 0, index: 1 };

    fn refused(inputs: impl IntoIterator<Item = (Partition, i64)>) -> Refused {
        let mut refused = Refused::default();
        for input in inputs {
            let failure = Failure::permanent("delivery", "invalid");
            refused.insert(input, failure, |partition| partition == HELD);
        }
        refused
    }

    #[test]
    fn what_is_committed_is_forgotten() {
        let mut refused = refused([(HELD, 4), (HELD, 5), (LEFT, 4)]);
        refused.committed(HELD, 5);
        assert!(refused.get((HELD, 4)).is_none());
        assert!(refused.get((HELD, 5)).is_some() && refused.get((LEFT, 4)).is_some());
    }

    #[test]
    fn what_is_refused_again_is_nothing_new() {
        let mut refused = refused([(HELD, 4)]);
        assert!(refused.learned() && !refused.learned());
        let mut again = |offset| {
            refused.insert((HELD, offset), Failure::permanent("delivery", "invalid"), |_| true);
            refused.learned()
        };
        assert_eq!([4, 5, 5].map(&mut again), [false, true, false]);
    }

    #[test]
    fn what_stood_in_a_log_that_went_back_is_forgotten() {
        let mut refused = refused([(HELD, 4), (HELD, 5), (LEFT, 4)]);
        refused.forget(&[HELD]);
        assert!(refused.get((HELD, 4)).is_none() && refused.get((HELD, 5)).is_none());
        assert!(refused.get((LEFT, 4)).is_some());
    }

    #[test]
    fn many_that_have_left_are_forgotten_and_none_that_is_held() {
        let many = MANY as i64;
        let refused = refused((0..many).map(|at| (LEFT, at)).chain((0..2 * many).map(|at| (HELD, at))));
        assert_eq!(refused.by_input.len(), 2 * MANY);
        assert!(refused.get((LEFT, 0)).is_none() && refused.get((HELD, 0)).is_some());
    }
}
