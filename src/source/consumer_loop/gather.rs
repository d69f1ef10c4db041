//! Gathers rows of grouped writes: per step, one batch is open for each partition, or a single one if partitions do not matter.
//!
//! Invariants: a row is in one batch, in the order in which the rows of its partition came; a batch has no more rows or bytes than its step declares;
//! it is not held for longer than the step's linger and one turn of the loop, nor when nothing can join it.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::time::Instant;

use foldhash::quality::RandomState;

use super::{AT_WORK, Loop};
use crate::pipeline::runner::Member;
use crate::store::group::GroupOptions;

/// What the rows of a batch have in common: the step, and the partition if it matters.
type Place = (usize, Box<[u8]>);

/// The open batches of a loop.
#[derive(Debug)]
pub(super) struct Gathering<T> {
    open: HashMap<Place, Open<T>, RandomState>,
    /// When each batch has to be closed, including those that were full earlier and are gone.
    due: BinaryHeap<Reverse<(Instant, u64, Place)>>,
    next: u64,
    /// Rows in all open batches.
    rows: usize,
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
            rows: 0,
        }
    }
}

impl<T> Gathering<T> {
    /// Adds a row of this many bytes, fewer than a batch may have. Returns a batch that has to be written, if any.
    fn add(&mut self, place: Place, row: T, bytes: usize, now: Instant, options: &GroupOptions) -> Option<Vec<T>> {
        let batch = self.join(place, row, bytes, now, options);
        self.rows += 1;
        self.rows -= batch.as_ref().map_or(0, Vec::len);
        batch
    }

    fn join(&mut self, place: Place, row: T, bytes: usize, now: Instant, options: &GroupOptions) -> Option<Vec<T>> {
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
        self.take_first()
    }

    /// The batch that has waited longest.
    fn take_first(&mut self) -> Option<Vec<T>> {
        self.due()?;
        let Reverse((_, _, place)) = self.due.pop()?;
        let rows = self.open.remove(&place)?.rows;
        self.rows -= rows.len();
        Some(rows)
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
        // The event waits with its row, and behind others if the database is slow.
        member.event.hold(bytes);
        // If its batch fails or may not be written, the event needs a task of its own, as do all of the batch at the same moment.
        member.event.reserve(AT_WORK);
        self.parts.budget.hold_more(bytes + AT_WORK);
        let batch = self.gathering.add(place, member, bytes, since, &options);
        if let Some(members) = batch {
            self.write_together(members);
        }
    }

    /// Writes the batches that have waited long enough; all batches if no row can join them.
    pub(super) fn write_what_is_due(&mut self, now: Instant) {
        let nobody_comes = self.nobody_comes();
        let take = |gathering: &mut Gathering<Member>| {
            if nobody_comes {
                gathering.take_first()
            } else {
                gathering.take_due(now)
            }
        };
        while let Some(members) = take(&mut self.gathering) {
            self.write_together(members);
        }
    }

    /// Whether no row can come before one of these is written: nothing is admitted until something ends, and everything in flight waits here, in a lane
    /// behind what is here, or for a schema. Anything at the database or the brokers would end and let others in.
    fn nobody_comes(&self) -> bool {
        if self.gathering.rows == 0 || !self.is_closed() {
            return false;
        }
        let parked: usize = self.held.values().map(|held| held.parked.len()).sum();
        self.gathering.rows + self.lanes.queued() + parked >= self.parts.budget.records()
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
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::budget::Budget;
    use crate::lanes::{Entered, Lanes, Order};
    use crate::pipeline::event::Event;
    use crate::source::bounds::Bounds;
    use crate::source::consumer_loop::tests::idle::{taken, with_one_finished};
    use crate::store::EncodedRow;

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
            // The loop makes one turn per row, and each row comes within 1.5 ms of the one before.
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
                prop_assert_eq!(gathering.rows, gathering.open.values().map(|open| open.rows.len()).sum::<usize>());
            }
            while let Some(due) = gathering.due() {
                written.take(gathering.take_first().unwrap(), due);
            }
            prop_assert_eq!(written.0, wanted);
            prop_assert!(gathering.open.is_empty() && gathering.due.is_empty() && gathering.rows == 0);
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

    /// An event whose row waits for an hour, in a batch of its own.
    fn gathers(this: &mut Loop, event: Box<Event>) {
        let options = GroupOptions {
            linger: Duration::from_secs(3600),
            ..OPTIONS
        };
        let row = EncodedRow::of_place(event.origin.offset.to_be_bytes().into()).unwrap();
        this.gather(Member {
            step: 0,
            options,
            row,
            event,
            since: Instant::now(),
        });
    }

    fn left(this: &mut Loop) -> usize {
        this.write_what_is_due(Instant::now());
        this.gathering.rows
    }

    #[tokio::test]
    async fn rows_that_nobody_can_join_wait_no_longer() {
        let mut this = with_one_finished().await;
        this.parts.budget = Budget::new(4, 1 << 20);
        this.lanes = Lanes::new(Order::Partition);
        for offset in 1..=2 {
            let event = taken(&mut this, offset);
            gathers(&mut this, event);
        }
        let [first, behind] = [3, 4].map(|offset| {
            let event = taken(&mut this, offset);
            let lane = this.lanes.lane_of(0, None);
            this.lanes.enter_lane(lane, event)
        });
        assert!(!this.takes_records());
        assert_eq!(left(&mut this), 2, "one is out, and lets others in when it is back");
        let Entered::Run(lane, mut event) = first else {
            panic!("its lane is free")
        };
        assert!(matches!(behind, Entered::Queued));
        event.lane = Some(lane);
        gathers(&mut this, event);
        assert_eq!(left(&mut this), 0);
    }

    /// It may need a task if its batch fails; from then on the task counts itself.
    #[tokio::test]
    async fn a_row_counts_a_task_until_it_leaves_its_batch() {
        for alone in [false, true] {
            let mut this = with_one_finished().await;
            this.weigh();
            let before = this.parts.budget.bytes();
            let event = taken(&mut this, 1);
            let weight = event.own_weight();
            gathers(&mut this, event);
            assert!(this.parts.budget.bytes() >= before + weight + AT_WORK, "at once");
            this.weigh();
            assert_eq!(this.parts.budget.bytes(), before + weight + AT_WORK);
            let mut member = this.gathering.take_first().unwrap().pop().unwrap();
            if alone {
                member.event.go_on_alone();
            } else {
                member.event.pass_stage();
            }
            this.weigh();
            assert_eq!(this.parts.budget.bytes(), before + weight, "alone: {alone}");
        }
    }

    #[tokio::test]
    async fn rows_wait_for_what_time_lets_in() {
        let mut this = with_one_finished().await;
        let event = taken(&mut this, 1);
        gathers(&mut this, event);
        assert_eq!(left(&mut this), 1, "another record may come");
        // A replay at its pace.
        let bounds = Bounds::new(HashMap::new(), Some(1e-6), Instant::now());
        bounds.took();
        this.parts.bounds = Some(Arc::new(bounds));
        assert!(!this.takes_records());
        assert_eq!(left(&mut this), 1);
        this.stopping = Some(Instant::now());
        assert_eq!(left(&mut this), 0, "nothing comes any more");
    }
}
