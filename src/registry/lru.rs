//! A cache by schema id with least-recently-used eviction. Ids come from records, and a topic may contain every id of its registry.
//!
//! What is in use is an `Arc` and outlives its eviction; it is created again when it is requested again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Maximum total weight of the entries, in bytes.
const MOST: usize = 64 << 20;

/// Overhead of an entry in bytes, added to the weight given for it.
const EACH: usize = 512;

/// Values by schema id.
#[derive(Debug)]
pub(crate) struct Lru<V> {
    entries: HashMap<u32, Entry<V>>,
    weight: usize,
    /// Counts the uses; each entry records the number of its last use.
    uses: AtomicU64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight: usize,
    used: AtomicU64,
}

impl<V> Default for Lru<V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            weight: 0,
            uses: AtomicU64::new(0),
        }
    }
}

impl<V> Lru<V> {
    pub fn get(&self, id: u32) -> Option<&V> {
        let entry = self.entries.get(&id)?;
        entry.used.store(self.next(), Ordering::Relaxed);
        Some(&entry.value)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn remove(&mut self, id: u32) {
        if let Some(entry) = self.entries.remove(&id) {
            self.weight -= entry.weight;
        }
    }

    /// Inserts a value of `weight` bytes. Even if it is too heavy it stays until the next insertion, because whoever waited for it reads it now.
    pub fn insert(&mut self, id: u32, value: V, weight: usize) {
        self.remove(id);
        let weight = weight + EACH;
        let used = AtomicU64::new(self.next());
        self.entries.insert(id, Entry { value, weight, used });
        self.weight += weight;
        if self.weight > MOST {
            self.make_room();
        }
    }

    fn next(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    /// Evicts down to three quarters of the limit, so that not every insertion has to search all entries.
    fn make_room(&mut self) {
        let used = |(id, entry): (&u32, &Entry<V>)| (entry.used.load(Ordering::Relaxed), *id);
        let mut oldest: Vec<(u64, u32)> = self.entries.iter().map(used).collect();
        oldest.sort_unstable();
        oldest.pop();
        for (_, id) in oldest {
            if self.weight <= MOST / 4 * 3 {
                break;
            }
            self.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes_in_its_turn() {
        let mut recent = Lru::default();
        for id in 0..10_000 {
            recent.insert(id, id, MOST / 100);
            assert_eq!(recent.get(0), Some(&0));
            assert_eq!(recent.get(id), Some(&id));
            assert!(recent.len() <= 100 && recent.weight <= MOST);
        }
        assert!(recent.len() > 70, "{}", recent.len());
        assert_eq!(recent.get(5_000), None);
    }

    #[test]
    fn one_that_is_too_heavy_is_held_until_the_next_comes() {
        let mut recent = Lru::default();
        recent.insert(1, (), 2 * MOST);
        assert!(recent.get(1).is_some());
        recent.insert(2, (), 1);
        assert!(recent.get(1).is_none() && recent.get(2).is_some());
    }

    #[test]
    fn what_is_replaced_is_weighed_once() {
        let mut recent = Lru::default();
        recent.insert(2, (), 1);
        for _ in 0..1_000 {
            recent.insert(1, (), MOST / 10);
        }
        assert_eq!(recent.len(), 2);
        recent.remove(1);
        recent.remove(2);
        assert_eq!(recent.weight, 0);
    }
}
