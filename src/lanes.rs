//! Order: which events may run now, and which wait behind another of their lane.
//!
//! Kafka keeps order within a partition; concurrent work loses it. A lane restores it: of the events of one lane, one runs at a time, in their order
//! of arrival. With [`Order::Key`] each key of a partition has a lane, with [`Order::Partition`] each partition, with [`Order::None`] there are none.
//!
//! Lanes are identified by a seeded 64-bit hash of the key. Two keys with the same hash share a lane, which costs a wait but no order. A record
//! without a key has no order to keep under [`Order::Key`] (Kafka itself spreads such records over partitions) and runs at once.
//!
//! Invariants:
//! - at most one item of a lane is out at any time, and the next one is the one that waited longest;
//! - nothing is lost: each item is returned once, by `enter_lane`, `leave` or `drop_partition`;
//! - a lane without an item out takes no memory; waiting items share one slab, so that steady work allocates nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

use foldhash::quality::RandomState;

pub use crate::config::Order;

/// The right to run one item of a lane. It comes with the item and is given back by [`Lanes::leave`] when the item has ended, however it ended. It
/// cannot be copied, so a lane is left exactly once per item.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lane that is never left blocks all that wait in it"]
pub struct LaneId {
    key: LaneKey,
    ordered: bool,
}

/// The lane of an item that has not entered it yet.
#[derive(Debug)]
pub struct Lane(LaneId);

/// What [`Lanes::enter_lane`] made of an item.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered<T> {
    /// The item may run now.
    Run(LaneId, T),
    /// The item waits; [`Lanes::leave`] will hand it out.
    Queued,
}

/// The lanes of one consumer loop. See the module's page for the invariants.
#[derive(Debug)]
pub struct Lanes<T> {
    order: Order,
    seed: RandomState,
    /// Contains a lane exactly while one of its items is out.
    lanes: HashMap<LaneKey, Queue, BuildHasherDefault<AsIs>>,
    /// Slab of waiting items, each linked to the next one of its lane; free places are linked from `free`. As long as the most items that ever waited
    /// at once.
    places: Vec<Place<T>>,
    free: Option<u32>,
    queued: usize,
}

/// The items that wait in one lane: first and last place, if any.
#[derive(Debug, Clone, Copy, Default)]
struct Queue {
    ends: Option<(u32, u32)>,
}

#[derive(Debug)]
struct Place<T> {
    item: Option<T>,
    next: Option<u32>,
}

impl<T> Lanes<T> {
    /// Lanes without any item.
    pub fn new(order: Order) -> Self {
        Lanes {
            order,
            seed: RandomState::default(),
            lanes: HashMap::default(),
            places: Vec::new(),
            free: None,
            queued: 0,
        }
    }

    /// The lane of a record, to be entered by [`Lanes::enter_lane`].
    ///
    /// `partition` is the partition's slot ([`Ticket::slot`](crate::source::assignment::Ticket::slot)), `key` the record's key.
    pub fn lane_of(&self, partition: u32, key: Option<&[u8]>) -> Lane {
        let (hash, ordered) = match (self.order, key) {
            (Order::None, _) | (Order::Key, None) => (0, false),
            (Order::Key, Some(key)) => (self.seed.hash_one((partition, key)), true),
            (Order::Partition, _) => (self.seed.hash_one(partition), true),
        };
        let key = LaneKey { partition, hash };
        Lane(LaneId { key, ordered })
    }

    /// Brings an item into its lane. It may run now if no other item of that lane is out, and waits otherwise.
    pub fn enter_lane(&mut self, Lane(lane): Lane, item: T) -> Entered<T> {
        use std::collections::hash_map::Entry;
        if !lane.ordered {
            return Entered::Run(lane, item);
        }
        let key = lane.key;
        let mut lane = match self.lanes.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(Queue::default());
                return Entered::Run(LaneId { key, ordered: true }, item);
            }
            Entry::Occupied(occupied) => occupied,
        };
        let place = match self.free {
            Some(free) => {
                let place = &mut self.places[free as usize];
                self.free = place.next.take();
                place.item = Some(item);
                free
            }
            None => {
                self.places.push(Place {
                    item: Some(item),
                    next: None,
                });
                (self.places.len() - 1) as u32 // four billion waiting items do not fit in memory
            }
        };
        let ends = &mut lane.get_mut().ends;
        *ends = match *ends {
            Some((first, last)) => {
                self.places[last as usize].next = Some(place);
                Some((first, place))
            }
            None => Some((place, place)),
        };
        self.queued += 1;
        Entered::Queued
    }

    /// Gives a lane back after its item has ended; returns the next item of that lane, which may run now.
    pub fn leave(&mut self, lane: LaneId) -> Option<(LaneId, T)> {
        if !lane.ordered {
            return None;
        }
        let Some((first, last)) = self.lanes.get(&lane.key)?.ends else {
            self.lanes.remove(&lane.key);
            return None;
        };
        let (item, next) = self.free_place(first);
        self.lanes.insert(
            lane.key,
            Queue {
                ends: next.map(|next| (next, last)),
            },
        );
        Some((lane, item?))
    }

    /// Takes out all waiting items of a partition, in the order of each lane, so that what they hold can be given back.
    ///
    /// Items that are out keep their lanes until they leave them. If the partition comes back meanwhile, new items of such a lane wait behind the old
    /// one.
    pub fn drop_partition(&mut self, partition: u32) -> Vec<T> {
        let queues: Vec<Queue> = self
            .lanes
            .iter_mut()
            .filter(|(key, _)| key.partition == partition)
            .map(|(_, queue)| std::mem::take(queue))
            .collect();
        let mut dropped = Vec::new();
        for queue in queues {
            let mut place = queue.ends.map(|(first, _)| first);
            while let Some(at) = place {
                let (item, next) = self.free_place(at);
                dropped.extend(item);
                place = next;
            }
        }
        dropped
    }

    /// Items that wait, in all lanes.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Frees a place of the slab. Returns its item and the next place of its lane.
    fn free_place(&mut self, at: u32) -> (Option<T>, Option<u32>) {
        let place = &mut self.places[at as usize];
        let item = place.item.take();
        let next = std::mem::replace(&mut place.next, self.free);
        self.free = Some(at);
        self.queued -= 1;
        (item, next)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LaneKey {
    partition: u32,
    /// Hash of the partition and, under [`Order::Key`], the key.
    hash: u64,
}

impl Hash for LaneKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Uses a key as its own hash: it is the result of a seeded hash already, and hashing it again would only cost time.
#[derive(Debug, Default)]
pub(crate) struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
