//! Rows that wait for others, to be written in one batch: of each step one batch is open for each partition, or for all where these do not matter.
//!
//! Invariants: a row is in one batch, in the order in which the rows of its place came; a batch has no more rows or bytes than its step declares; it
//! is not held for longer than the step's linger and one turn of the loop.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::time::Instant;

use foldhash::quality::RandomState;

use super::Loop;
use crate::pipeline::runner::Member;
use crate::store::group::GroupOptions;

/// What the rows of a batch have in common: the step, and the partition where it matters.
type Place = (usize, Box<[u8]>);

/// The open batches of a loop.
#[derive(Debug)]
pub(super) struct Gathering<T> {
    open: HashMap<Place, Open<T>, RandomState>,
    /// When each was to be closed, those that were full before among them.
    due: BinaryHeap<Reverse<(Instant, u64, Place)>>,
    next: u64,
}

#[derive(Debug)]
struct Open<T> {
    id: u64,
    rows: Vec<T>,
    bytes: usize,
}

impl<T> Default for Gathering<T> {
    fn default() -> Self {
        Gathering {
            open: HashMap::default(),
            due: BinaryHeap::new(),
            next: 0,
        }
    }
}

impl<T> Gathering<T> {
    /// Takes in a row of this many bytes, fewer than a batch has. What it gives is to be written.
    fn add(&mut self, place: Place, row: T, bytes: usize, now: Instant, options: &GroupOptions) -> Option<Vec<T>> {
        let (due, next) = (&mut self.due, &mut self.next);
        let mut begin = |place: &Place, row| {
            let id = *next;
            *next += 1;
            due.push(Reverse((now + options.linger, id, place.clone())));
            let rows = vec![row];
            Open { id, rows, bytes }
        };
        let mut entry = match self.open.entry(place) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                let open = begin(entry.key(), row);
                entry.insert(open);
                return None;
            }
        };
        let open = entry.get_mut();
        if open.bytes + bytes > options.max_bytes {
            let open = begin(entry.key(), row);
            return Some(entry.insert(open).rows);
        }
        open.rows.push(row);
        open.bytes += bytes;
        let is_full = open.rows.len() >= options.max_rows || open.bytes >= options.max_bytes;
        is_full.then(|| entry.remove().rows)
    }

    /// A batch that has waited long enough.
    fn take_due(&mut self, now: Instant) -> Option<Vec<T>> {
        self.due().filter(|due| *due <= now)?;
        let Reverse((_, _, place)) = self.due.pop()?;
        self.open.remove(&place).map(|open| open.rows)
    }

    /// When the first batch has waited long enough.
    pub(super) fn due(&mut self) -> Option<Instant> {
        while let Some(Reverse((due, id, place))) = self.due.peek() {
            if self.open.get(place).is_some_and(|open| open.id == *id) {
                return Some(*due);
            }
            self.due.pop();
        }
        None
    }
}

impl Loop {
    pub(super) fn gather(&mut self, mut member: Member) {
        let place = (member.step, member.row.take_place());
        let (bytes, since, options) = (member.row.bytes(), member.since, member.options);
        // It waits with its row, and behind others where the database is slow.
        member.event.hold(bytes);
        let batch = self.gathering.add(place, member, bytes, since, &options);
        if let Some(members) = batch {
            self.write_together(members);
        }
    }

    pub(super) fn write_what_is_due(&mut self, now: Instant) {
        while let Some(members) = self.gathering.take_due(now) {
            self.write_together(members);
        }
    }

    fn write_together(&mut self, members: Vec<Member>) {
        if let Some(step) = members.first().map(|member| member.step) {
            let runtime = self.parts.runtime.clone();
            self.workers.spawn(runtime.write_together(step, members));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const LINGER: Duration = Duration::from_millis(2);
    const OPTIONS: GroupOptions = GroupOptions {
        linger: LINGER,
        max_rows: 5,
        max_bytes: 100,
        across_partitions: false,
    };

    /// Number, place and bytes of a row, and when it came.
    type Row = (usize, Place, usize, Instant);

    /// What has been written, by place.
    #[derive(Default)]
    struct Written(BTreeMap<Place, Vec<usize>>);

    impl Written {
        fn take(&mut self, batch: Vec<Row>, now: Instant) {
            assert!(!batch.is_empty() && batch.len() <= OPTIONS.max_rows);
            assert!(batch.iter().map(|(_, _, bytes, _)| bytes).sum::<usize>() <= OPTIONS.max_bytes);
            assert!(batch.iter().all(|(_, place, ..)| *place == batch[0].1), "one place");
            // The loop turns with each row, which comes within 1.5 ms of the one before.
            assert!(
                batch
                    .iter()
                    .all(|(.., at)| now - *at <= LINGER + Duration::from_micros(1500))
            );
            let numbers = batch.iter().map(|(number, ..)| *number);
            self.0.entry(batch[0].1.clone()).or_default().extend(numbers);
        }
    }

    proptest! {
        #[test]
        fn every_row_goes_once_in_order_and_no_batch_is_too_large_or_held_too_long(
            rows in prop::collection::vec((0..2usize, 0..3u8, 1..OPTIONS.max_bytes, 0..1500u64), 0..200),
        ) {
            let mut now = Instant::now();
            let mut gathering = Gathering::default();
            let (mut written, mut wanted) = (Written::default(), BTreeMap::<Place, Vec<usize>>::new());
            for (number, (step, partition, bytes, pause)) in rows.into_iter().enumerate() {
                now += Duration::from_micros(pause);
                let place: Place = (step, Box::new([partition]));
                wanted.entry(place.clone()).or_default().push(number);
                let row = (number, place.clone(), bytes, now);
                if let Some(batch) = gathering.add(place, row, bytes, now, &OPTIONS) {
                    written.take(batch, now);
                }
                while let Some(batch) = gathering.take_due(now) {
                    written.take(batch, now);
                }
                prop_assert!(gathering.due().is_none_or(|due| due > now && due <= now + LINGER));
            }
            while let Some(due) = gathering.due() {
                written.take(gathering.take_due(due).unwrap(), due);
            }
            prop_assert_eq!(written.0, wanted);
            prop_assert!(gathering.open.is_empty() && gathering.due.is_empty());
        }
    }

    #[test]
    fn a_full_batch_goes_at_once_and_another_place_goes_on_waiting() {
        let mut gathering = Gathering::default();
        let now = Instant::now();
        let place = |partition: u8| -> Place { (0, Box::new([partition])) };
        assert_eq!(gathering.add(place(2), 0, 1, now, &OPTIONS), None);
        for row in 1..5 {
            assert_eq!(gathering.add(place(1), row, 1, now, &OPTIONS), None);
        }
        assert_eq!(gathering.add(place(1), 5, 1, now, &OPTIONS), Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(gathering.due(), Some(now + LINGER));
        assert_eq!(gathering.take_due(now), None);
        assert_eq!(gathering.take_due(now + LINGER), Some(vec![0]));
        assert_eq!(gathering.due(), None);
    }
}
