//! Admission control: how many records, and how many bytes of them, may be in flight at once.
//!
//! Stopping and resuming intake has a cost (when partitions are paused, librdkafka discards what it has prefetched), so there is hysteresis: the
//! budget is full at the limit and free again at 80 % of it.
//!
//! Invariants:
//! - if none is admitted while it is full, at most `max_records` records are in flight, not counting those set apart, and only the bytes of the last
//!   one exceed `max_bytes`;
//! - an empty budget is never full, so no record waits for ever.
//!
//! What a record holds later (rows, for example) is unknown when it is admitted; [`Budget::hold`] counts it from then on.

/// Counts what is in flight against the limits. Units: records, and bytes as the caller counts them (the same on admission and on release).
#[derive(Debug, Clone)]
pub struct Budget {
    max_records: usize,
    max_bytes: usize,
    records: usize,
    /// Records in flight that do not count against `max_records`.
    apart: usize,
    bytes: usize,
    /// Bytes that the records in flight hold in addition to `bytes`.
    held: usize,
    full: bool,
}

impl Budget {
    /// A budget of `max_records` records (at least one is always allowed) and `max_bytes` bytes.
    pub fn new(max_records: usize, max_bytes: usize) -> Budget {
        Budget {
            max_records: max_records.max(1),
            max_bytes,
            records: 0,
            apart: 0,
            bytes: 0,
            held: 0,
            full: false,
        }
    }

    /// Changes the limit of records. Records in flight stay; if they exceed the new limit, none is admitted until enough have ended.
    pub fn set_max_records(&mut self, max_records: usize) {
        self.max_records = max_records.max(1);
        self.full |= self.working() >= self.max_records;
        self.settle();
    }

    /// Exempts this many of the records in flight from the limit of records, which leaves it to the others. Their bytes count as before.
    pub fn set_apart(&mut self, records: usize) {
        self.apart = records;
        self.full |= self.working() >= self.max_records;
        self.settle();
    }

    fn working(&self) -> usize {
        self.records.saturating_sub(self.apart)
    }

    /// Admits a record of `bytes` bytes, whatever the limits say. The budget is full once a limit is reached.
    pub fn admit(&mut self, bytes: usize) {
        self.records = self.records.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        self.full |= self.working() >= self.max_records || self.bytes() >= self.max_bytes;
    }

    /// Sets the bytes that the records in flight hold in addition to those they were admitted with.
    pub fn hold(&mut self, bytes: usize) {
        if bytes != self.held {
            self.held = bytes;
            self.full |= self.bytes() >= self.max_bytes;
            self.settle();
        }
    }

    /// Adds to what [`Budget::hold`] set, until it sets it again.
    pub fn hold_more(&mut self, bytes: usize) {
        self.hold(self.held.saturating_add(bytes));
    }

    /// Releases a record of `bytes` bytes. Releasing more than was admitted leaves the budget empty.
    pub fn release(&mut self, bytes: usize) {
        self.records = self.records.saturating_sub(1);
        self.bytes = if self.records == 0 {
            0
        } else {
            self.bytes.saturating_sub(bytes)
        };
        self.settle();
    }

    fn settle(&mut self) {
        let low = self.working() <= low_water(self.max_records) && self.bytes() <= low_water(self.max_bytes);
        if self.records == 0 || low {
            self.full = false;
        }
    }

    /// Whether intake must rest: true once a limit is reached, until both counts are at or below 80 % of their limits.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The limit of records.
    pub fn max_records(&self) -> usize {
        self.max_records
    }

    /// The limit of bytes.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Records in flight.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Bytes in flight, including what is held in addition.
    pub fn bytes(&self) -> usize {
        self.bytes.saturating_add(self.held)
    }

    /// The share of the limit of records that is in use; 1 at the limit.
    pub fn load(&self) -> f64 {
        self.working() as f64 / self.max_records as f64
    }

    /// The share of the limit of bytes that is in use; above 1 when the last record or what is held in addition exceeded it.
    pub fn bytes_load(&self) -> f64 {
        self.bytes() as f64 / self.max_bytes.max(1) as f64
    }
}

/// 80 % of `limit`, rounded down.
fn low_water(limit: usize) -> usize {
    limit - limit.div_ceil(5)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// A record of this many bytes comes.
        Take(usize),
        /// The n-th record in flight ends (modulo their number).
        End(usize),
        /// The records in flight hold this many bytes in addition.
        Hold(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..1200usize).prop_map(Step::Take),
            3 => any::<usize>().prop_map(Step::End),
            1 => (0..1200usize).prop_map(Step::Hold),
        ]
    }

    proptest! {
        #[test]
        fn counts_like_a_list_and_keeps_its_limits(
            max_records in 0..12usize,
            max_bytes in 1..1000usize,
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut budget = Budget::new(max_records, max_bytes);
            let mut in_flight: Vec<usize> = Vec::new();
            let (mut beside, mut paused) = (0, false);
            for step in steps {
                match step {
                    // The loop does not admit either.
                    Step::Take(_) if budget.is_full() => {}
                    Step::Take(bytes) => {
                        prop_assert!(in_flight.is_empty() || budget.bytes() < max_bytes, "only the last is beyond the limit");
                        budget.admit(bytes);
                        in_flight.push(bytes);
                    }
                    Step::End(_) if in_flight.is_empty() => {}
                    Step::End(n) => budget.release(in_flight.swap_remove(n % in_flight.len())),
                    Step::Hold(bytes) => {
                        budget.hold(bytes);
                        beside = bytes;
                    }
                }
                let bytes = in_flight.iter().sum::<usize>() + beside;
                prop_assert_eq!((budget.records(), budget.bytes()), (in_flight.len(), bytes));
                prop_assert!(in_flight.len() <= max_records.max(1));
                if in_flight.len() >= max_records.max(1) || (bytes >= max_bytes && !in_flight.is_empty()) {
                    prop_assert!(budget.is_full());
                }
                if paused && !budget.is_full() {
                    let low = in_flight.len() * 5 <= max_records.max(1) * 4 && bytes * 5 <= max_bytes * 4;
                    prop_assert!(in_flight.is_empty() || low);
                }
                prop_assert!(!(in_flight.is_empty() && budget.is_full()), "an empty budget is free");
                paused = budget.is_full();
            }
        }
    }

    #[test]
    fn full_at_the_limit_and_free_at_four_fifths() {
        let mut budget = Budget::new(10, usize::MAX);
        (0..10).for_each(|_| budget.admit(1));
        assert!(budget.is_full());
        budget.release(1);
        assert!(budget.is_full());
        budget.release(1);
        assert!(!budget.is_full());
        assert_eq!((budget.records(), budget.bytes()), (8, 8));
    }

    #[test]
    fn what_is_held_on_the_way_fills_it_until_it_is_let_go() {
        let mut budget = Budget::new(10, 100);
        budget.admit(20);
        budget.admit(20);
        budget.hold(59);
        assert!(!budget.is_full(), "99 of 100");
        budget.hold(60);
        assert!(budget.is_full());
        budget.hold(41);
        assert!(budget.is_full(), "81 of 100");
        budget.hold(40);
        assert_eq!((budget.records(), budget.bytes(), budget.is_full()), (2, 80, false));
        budget.hold(1000);
        budget.release(20);
        assert!(budget.is_full());
        budget.release(20);
        assert!(!budget.is_full(), "nothing is in flight, whoever holds what");
    }

    #[test]
    fn a_limit_that_moves_is_kept_from_then_on() {
        let mut budget = Budget::new(10, usize::MAX);
        (0..10).for_each(|_| budget.admit(1));
        budget.set_max_records(20);
        assert!(!budget.is_full(), "there is room at once");
        budget.set_max_records(5);
        assert!(budget.is_full());
        (0..5).for_each(|_| budget.release(1));
        assert!(budget.is_full(), "5 of 5");
        budget.release(1);
        assert!(!budget.is_full(), "4 of 5");
    }

    #[test]
    fn what_is_set_apart_leaves_the_limit_to_the_others() {
        let mut budget = Budget::new(100, 200);
        (0..50).for_each(|_| budget.admit(1));
        budget.set_max_records(2);
        assert!(budget.is_full());
        budget.set_apart(50);
        assert!(!budget.is_full(), "none of 2");
        (0..2).for_each(|_| budget.admit(1));
        assert_eq!((budget.is_full(), budget.load()), (true, 1.0));
        budget.release(1);
        assert!(!budget.is_full(), "1 of 2");
        budget.admit(149);
        budget.release(0);
        assert!(budget.is_full(), "its bytes count");
        budget.release(149);
        budget.set_apart(0);
        assert!(budget.is_full(), "50 of 2");
    }

    #[test]
    fn a_record_larger_than_the_budget_lets_no_other_in_before_it_ends() {
        let mut budget = Budget::new(10, 100);
        budget.admit(1);
        assert!(!budget.is_full());
        budget.admit(500);
        budget.release(1);
        assert!(budget.is_full());
        assert_eq!((budget.load(), budget.bytes_load()), (0.1, 5.0));
        budget.release(500);
        assert!(!budget.is_full());
    }

    #[test]
    fn giving_back_too_much_leaves_it_empty() {
        let mut budget = Budget::new(2, 10);
        budget.release(7);
        assert_eq!((budget.records(), budget.bytes(), budget.is_full()), (0, 0, false));
    }
}
