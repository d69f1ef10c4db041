//! Tests of lanes against a map with one queue per key.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Enter {
        partition: u32,
        key: Option<u8>,
    },
    /// The n-th item that is out ends (modulo how many there are).
    Leave(usize),
    Drop(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u32, prop::option::weighted(0.9, 0..4u8)).prop_map(|(partition, key)| Step::Enter { partition, key }),
        5 => any::<usize>().prop_map(Step::Leave),
        1 => (0..3u32).prop_map(Step::Drop),
    ]
}

/// An item knows where it belongs and when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    partition: u32,
    key: Option<u8>,
    number: usize,
}

type Name = (u32, Option<u8>);

/// The lane of an item, if it has one.
fn name(order: Order, item: Item) -> Option<Name> {
    match order {
        Order::None => None,
        Order::Key => item.key.map(|key| (item.partition, Some(key))),
        Order::Partition => Some((item.partition, None)),
    }
}

/// Brings an item into the lane of its partition and key.
fn enter<T>(lanes: &mut Lanes<T>, partition: u32, key: Option<&[u8]>, item: T) -> Entered<T> {
    let lane = lanes.lane_of(partition, key);
    lanes.enter_lane(lane, item)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn behaves_like_a_queue_per_lane(
        order in prop_oneof![Just(Order::None), Just(Order::Key), Just(Order::Partition)],
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let mut lanes = Lanes::new(order);
        let mut waiting: BTreeMap<Name, VecDeque<Item>> = BTreeMap::new();
        let mut out: Vec<(LaneId, Item)> = Vec::new();
        let (mut entered, mut ended) = (0, 0);
        for step in steps {
            match step {
                Step::Enter { partition, key } => {
                    let item = Item { partition, key, number: entered };
                    entered += 1;
                    let lane = name(order, item);
                    let busy = lane.is_some() && out.iter().any(|(_, other)| name(order, *other) == lane);
                    let bytes = key.map(|key| [key]);
                    match enter(&mut lanes, partition, bytes.as_ref().map(|bytes| bytes.as_slice()), item) {
                        Entered::Run(id, same) => {
                            prop_assert!(!busy, "two items of one lane are out");
                            prop_assert_eq!(same, item);
                            out.push((id, item));
                        }
                        Entered::Queued => {
                            prop_assert!(busy, "an item waits for nothing");
                            waiting.entry(lane.unwrap()).or_default().push_back(item);
                        }
                    }
                }
                Step::Leave(n) => {
                    if out.is_empty() {
                        continue;
                    }
                    let (id, item) = out.swap_remove(n % out.len());
                    ended += 1;
                    let due = name(order, item).and_then(|lane| waiting.get_mut(&lane)?.pop_front());
                    let next = lanes.leave(id);
                    prop_assert_eq!(next.as_ref().map(|(_, item)| *item), due);
                    out.extend(next);
                }
                Step::Drop(partition) => {
                    let mut due = Vec::new();
                    for ((_, _), queue) in waiting.iter_mut().filter(|((of, _), _)| *of == partition) {
                        due.extend(queue.drain(..));
                    }
                    let mut dropped = lanes.drop_partition(partition);
                    ended += dropped.len();
                    for key in [None, Some(0), Some(1), Some(2), Some(3)] {
                        let numbers = dropped.iter().filter(|item| order == Order::Partition || item.key == key);
                        prop_assert!(numbers.map(|item| item.number).is_sorted());
                    }
                    due.sort_by_key(|item| item.number);
                    dropped.sort_by_key(|item| item.number);
                    prop_assert_eq!(dropped, due);
                }
            }
            let queued: usize = waiting.values().map(VecDeque::len).sum();
            prop_assert_eq!(lanes.queued(), queued);
            prop_assert_eq!(entered, ended + out.len() + queued);
            let ordered = out.iter().filter(|(_, item)| name(order, *item).is_some()).count();
            prop_assert_eq!(lanes.lanes.len(), ordered);
        }
        while let Some((id, _)) = out.pop() {
            out.extend(lanes.leave(id));
        }
        prop_assert_eq!((lanes.queued(), lanes.lanes.len()), (0, 0));
    }
}

#[test]
fn keys_that_share_a_hash_share_a_lane() {
    let mut lanes = Lanes::new(Order::Key);
    let key = LaneKey { partition: 0, hash: 7 };
    let Entered::Run(id, "first") = lanes.enter_lane(lane(key), "first") else {
        panic!("an empty lane is free")
    };
    assert_eq!(lanes.enter_lane(lane(key), "second"), Entered::Queued);
    let Entered::Run(other, "third") = lanes.enter_lane(lane(LaneKey { partition: 1, hash: 7 }), "third") else {
        panic!("another partition is another lane")
    };
    let (id, second) = lanes.leave(id).unwrap();
    assert_eq!(second, "second");
    assert_eq!(lanes.leave(id), None);
    assert_eq!(lanes.leave(other), None);
    assert_eq!(lanes.lanes.len(), 0);
}

#[test]
fn a_partition_that_comes_back_waits_for_the_item_still_out() {
    let mut lanes = Lanes::new(Order::Key);
    let Entered::Run(old, 1) = enter(&mut lanes, 0, Some(b"k"), 1) else {
        panic!("an empty lane is free")
    };
    assert_eq!(enter(&mut lanes, 0, Some(b"k"), 2), Entered::Queued);
    assert_eq!(lanes.drop_partition(0), vec![2]);
    assert_eq!(enter(&mut lanes, 0, Some(b"k"), 3), Entered::Queued);
    let (new, item) = lanes.leave(old).unwrap();
    assert_eq!(item, 3);
    assert_eq!(lanes.leave(new), None);
}

#[test]
fn the_slab_is_used_again() {
    let mut lanes = Lanes::new(Order::Partition);
    let Entered::Run(mut id, _) = enter(&mut lanes, 0, None, 0) else {
        panic!("an empty lane is free")
    };
    for round in 0..1000 {
        assert_eq!(enter(&mut lanes, 0, None, round), Entered::Queued);
        assert_eq!(enter(&mut lanes, 0, None, round), Entered::Queued);
        id = lanes.leave(id).unwrap().0;
        id = lanes.leave(id).unwrap().0;
    }
    assert_eq!(lanes.leave(id), None);
    assert_eq!(lanes.places.len(), 2);
}

fn lane(key: LaneKey) -> Lane {
    Lane(LaneId { key, ordered: true })
}
