//! Order when effects commute: events of one key run concurrently, and are published one after another.
//!
//! A lane runs one event at a time, so a key is as slow as its database: at 20 ms per event, 50 events a second, and a hot key holds up its whole
//! partition. If a pipeline's look-ups read nothing that it writes, and its writes carry their own timestamps, only the order of outputs is visible.
//! Then each event gets a [`Turn`]: it runs at once, and waits for the turn of the one before it only when it is about to be published.
//!
//! Invariants: the turn of an event comes after that of every earlier event of its key; an event that is skipped or dead-lettered waits for its own
//! turn before it passes it on; an event that cannot continue breaks the chain, and nothing behind it is published.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use foldhash::quality::RandomState;
use tokio::sync::Notify;

use crate::lanes::{AsIs, Order};

const WAITING: u8 = 0;
const PASSED: u8 = 1;
const BROKEN: u8 = 2;

/// Whether an event may be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// All earlier events of the key have been published or have ended.
    Publish,
    /// An earlier event cannot continue, so this one must not be published.
    Never,
}

#[derive(Debug, Default)]
struct Link {
    state: AtomicU8,
    /// At most one event waits for a link.
    changed: Notify,
}

/// The place of one event among those of its key. Dropping it without [`Turn::pass`] breaks the chain.
#[derive(Debug)]
pub struct Turn {
    before: Option<Arc<Link>>,
    own: Arc<Link>,
}

impl Link {
    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        self.changed.notify_one();
    }
}

impl Turn {
    /// Waits until the previous event has been published or has ended. Returns at once if there is none.
    pub async fn come(&mut self) -> Go {
        if let Some(before) = &self.before {
            loop {
                match before.state.load(Ordering::Acquire) {
                    WAITING => before.changed.notified().await,
                    PASSED => break,
                    _ => return Go::Never,
                }
            }
            self.before = None;
        }
        Go::Publish
    }

    /// The result of [`Turn::come`] if it is known already; `None` if `come` would wait.
    pub fn has_come(&mut self) -> Option<Go> {
        match self.before.as_ref().map(|before| before.state.load(Ordering::Acquire)) {
            None => Some(Go::Publish),
            Some(PASSED) => {
                self.before = None;
                Some(Go::Publish)
            }
            Some(WAITING) => None,
            Some(_) => Some(Go::Never),
        }
    }

    /// Lets the next event of the key go.
    pub fn pass(self) {
        self.own.set(PASSED);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.own.state.load(Ordering::Acquire) == WAITING {
            self.own.set(BROKEN);
        }
    }
}

/// The last event of each key, as long as a later event may have to wait for it.
#[derive(Debug)]
pub struct Turns<A> {
    order: Order,
    seed: RandomState,
    /// By hash of the key: the assignment and the link.
    last: HashMap<u64, (A, Arc<Link>), BuildHasherDefault<AsIs>>,
    sweep_at: usize,
}

impl<A: Copy + Eq + Hash> Turns<A> {
    /// No event yet. With [`Order::None`] no event gets a turn.
    pub fn new(order: Order) -> Turns<A> {
        Turns {
            order,
            seed: RandomState::default(),
            last: HashMap::default(),
            sweep_at: 4096,
        }
    }

    /// The turn of the next event of a key in a partition; `None` if the event has no order to keep. `assignment` identifies the partition's current
    /// assignment: events of an earlier one are not waited for. Two keys with the same hash wait for one another, which costs time but not order.
    pub fn next(&mut self, assignment: A, key: Option<&[u8]>) -> Option<Turn> {
        let hash = match (self.order, key) {
            (Order::None, _) | (Order::Key, None) => return None,
            (Order::Key, Some(key)) => self.seed.hash_one((assignment, key)),
            (Order::Partition, _) => self.seed.hash_one(assignment),
        };
        let own = Arc::new(Link::default());
        let before = self.last.insert(hash, (assignment, own.clone())).map(|(_, link)| link);
        // Keys come and go, so sweep out from time to time those that nobody waits for any more.
        if self.last.len() >= self.sweep_at {
            // Keep broken links: they must hold back the events behind them.
            self.last
                .retain(|_, (_, link)| link.state.load(Ordering::Acquire) != PASSED);
            self.sweep_at = (2 * self.last.len()).max(4096);
        }
        let before = before.filter(|link| link.state.load(Ordering::Acquire) != PASSED);
        Some(Turn { before, own })
    }

    /// Forgets an assignment that has ended. No more events of it may come.
    pub fn forget(&mut self, over: A) {
        self.last.retain(|_, (assignment, _)| *assignment != over);
    }

    /// How many keys are remembered.
    #[cfg(test)]
    fn keys(&self) -> usize {
        self.last.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn events_of_a_key_come_in_order_whatever_finishes_first() {
        let mut turns = Turns::new(Order::Key);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for n in 0..50u64 {
            let key = [u8::try_from(n % 3).unwrap()];
            let mut turn = turns.next(0, Some(&key)).unwrap();
            let seen = seen.clone();
            tasks.push(tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis((n * 7) % 11)).await;
                assert_eq!(turn.come().await, Go::Publish);
                seen.lock().unwrap().push(n);
                turn.pass();
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let seen = seen.lock().unwrap();
        for key in 0..3 {
            let of_key: Vec<u64> = seen.iter().copied().filter(|n| n % 3 == key).collect();
            assert!(of_key.is_sorted(), "{of_key:?}");
        }
        assert_eq!(seen.len(), 50);
    }

    #[tokio::test]
    async fn what_cannot_go_on_stops_all_behind_it() {
        let mut turns = Turns::new(Order::Partition);
        let first = turns.next(0, None).unwrap();
        let mut second = turns.next(0, Some(b"k")).unwrap();
        let mut third = turns.next(0, None).unwrap();
        let mut elsewhere = turns.next(1, None).unwrap();
        drop(first);
        assert_eq!(second.come().await, Go::Never);
        drop(second);
        assert_eq!(third.come().await, Go::Never);
        assert_eq!(elsewhere.come().await, Go::Publish);
    }

    #[test]
    fn what_is_broken_is_not_forgotten_with_old_keys() {
        let mut turns = Turns::new(Order::Key);
        drop(turns.next(0, Some(b"broken")));
        for n in 0..5000u32 {
            turns.next(0, Some(&n.to_le_bytes())).unwrap().pass();
        }
        assert!(turns.keys() < 4096, "{}", turns.keys());
        assert_eq!(turns.next(0, Some(b"broken")).unwrap().has_come(), Some(Go::Never));
        // Broken links stay until their assignment is forgotten.
        turns.next(1, Some(b"another")).unwrap().pass();
        turns.forget(0);
        assert_eq!(turns.keys(), 1);
    }

    #[test]
    fn no_order_takes_no_turn_and_old_keys_are_forgotten() {
        assert!(Turns::new(Order::None).next(0, Some(b"k")).is_none());
        assert!(Turns::new(Order::Key).next(0, None).is_none());
        let mut turns = Turns::new(Order::Key);
        for n in 0..100_000u32 {
            turns.next(0, Some(&n.to_le_bytes())).unwrap().pass();
        }
        assert!(turns.keys() <= 4096, "{}", turns.keys());
    }
}
