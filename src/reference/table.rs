//! The documents of one reference in memory: found by key, changed one by one, swept after a full read.
//!
//! Swapping a whole map would hold two copies during every refresh and so double the memory, and a change stream changes single documents. A full
//! read marks what it finds with its generation, and removes the rest at its end. Each entry is one allocation. A shard's lock is held for one
//! look-up or one change. Only one task at a time changes the table.
//!
//! Invariants: `entries` and `bytes` match what is held; an entry is found by its key until it is removed, replaced or swept; a generation is reused
//! only after 65,535 others, because reads may fail for days, and marks of the last successful read must not pass for marks of the next.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::mem::size_of;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

const SHARDS: usize = 16;
/// Bytes before key and content: the generation, the flags, the length of the key.
const HEAD: usize = 7;

/// Generation, flags (bit 0: the content is an error; the bits above: the kind), length of the key, key, content.
struct Entry(Box<[u8]>);

impl Entry {
    fn new(generation: u16, flags: u8, key: &[u8], content: &[u8]) -> Entry {
        let mut bytes = Vec::with_capacity(HEAD + key.len() + content.len());
        bytes.extend_from_slice(&generation.to_le_bytes());
        bytes.push(flags);
        bytes.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(content);
        Entry(bytes.into_boxed_slice())
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        let length = u32::from_le_bytes([self.0[3], self.0[4], self.0[5], self.0[6]]) as usize;
        self.0[HEAD..].split_at(length)
    }

    fn generation(&self) -> u16 {
        u16::from_le_bytes([self.0[0], self.0[1]])
    }

    fn bad(&self) -> bool {
        self.0[2] & 1 != 0
    }

    fn kind(&self) -> u8 {
        self.0[2] >> 1
    }

    fn weight(&self) -> u64 {
        self.0.len().next_multiple_of(16) as u64
    }
}

// The set compares entries by their keys only.
impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        self.parts().0
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().0.hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.parts().0 == other.parts().0
    }
}

impl Eq for Entry {}

/// See the module's documentation.
pub struct Table {
    hasher: RandomState,
    shards: Box<[RwLock<HashSet<Entry>>]>,
    entries: AtomicU64,
    bad: AtomicU64,
    /// Bytes of entries; those of the hash tables are computed by [`Table::bytes`].
    content_bytes: AtomicU64,
    /// The generation that was last put or marked, and how many entries have it (`met`).
    newest: AtomicU16,
    met: AtomicU64,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({} entries)", self.entries())
    }
}

impl Default for Table {
    fn default() -> Self {
        Table {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            entries: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            content_bytes: AtomicU64::new(0),
            newest: AtomicU16::new(0),
            met: AtomicU64::new(0),
        }
    }
}

impl Table {
    fn shard(&self, key: &[u8]) -> &RwLock<HashSet<Entry>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    /// Calls `read` with the content of `key`: its bytes, or the error stored in their place.
    pub fn get<R>(&self, key: &[u8], read: impl FnOnce(Result<&[u8], &str>) -> R) -> Option<R> {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        let entry = shard.get(key)?;
        let content = entry.parts().1;
        Some(read(if entry.bad() {
            Err(std::str::from_utf8(content).unwrap_or("it cannot be read"))
        } else {
            Ok(content)
        }))
    }

    /// Stores a document, or the reason why it cannot be used.
    pub fn put(&self, generation: u16, key: &[u8], content: Result<&[u8], &str>) {
        self.put_as(0, generation, key, content);
    }

    /// As [`Table::put`], and stores a `kind` below 128 with it.
    pub fn put_as(&self, kind: u8, generation: u16, key: &[u8], content: Result<&[u8], &str>) {
        let (bad, bytes) = match content {
            Ok(bytes) => (false, bytes),
            Err(reason) => (true, reason.as_bytes()),
        };
        self.replace(key, Entry::new(generation, (kind << 1) | u8::from(bad), key, bytes));
    }

    /// Sets the generation of an entry, if it is held, and changes nothing else.
    pub fn mark(&self, generation: u16, key: &[u8]) {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        let marked = shard.get(key).map(|entry| {
            let mut bytes = entry.0.clone();
            bytes[..2].copy_from_slice(&generation.to_le_bytes());
            Entry(bytes)
        });
        drop(shard);
        if let Some(entry) = marked {
            self.replace(key, entry);
        }
    }

    fn replace(&self, key: &[u8], entry: Entry) {
        if self.newest.swap(entry.generation(), Ordering::Relaxed) != entry.generation() {
            self.met.store(0, Ordering::Relaxed);
        }
        let (bad, weight) = (entry.bad(), entry.weight());
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        let old = shard.replace(entry);
        drop(shard);
        self.forget(old);
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.bad.fetch_add(u64::from(bad), Ordering::Relaxed);
        self.content_bytes.fetch_add(weight, Ordering::Relaxed);
        self.met.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes a document.
    pub fn remove(&self, key: &[u8]) {
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        let old = shard.take(key);
        drop(shard);
        self.forget(old);
    }

    /// Removes the entries of all other generations.
    pub fn sweep(&self, generation: u16) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            for old in shard.extract_if(|entry| entry.generation() != generation) {
                self.forget(Some(old));
            }
            // A table that is less than half full is shrunk, to release its memory.
            if shard.capacity() > 2 * shard.len() {
                shard.shrink_to_fit();
            }
        }
    }

    fn forget(&self, old: Option<Entry>) {
        if let Some(old) = old {
            self.entries.fetch_sub(1, Ordering::Relaxed);
            self.bad.fetch_sub(u64::from(old.bad()), Ordering::Relaxed);
            self.content_bytes.fetch_sub(old.weight(), Ordering::Relaxed);
            let met = old.generation() == self.newest.load(Ordering::Relaxed);
            self.met.fetch_sub(u64::from(met), Ordering::Relaxed);
        }
    }

    /// The generation of an entry.
    pub fn generation(&self, key: &[u8]) -> Option<u16> {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(key).map(Entry::generation)
    }

    /// The kind of an entry.
    pub fn kind(&self, key: &[u8]) -> Option<u8> {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(key).map(Entry::kind)
    }

    /// Number of entries of other generations. This one has to be the last that was put or marked, or one that has met no entry yet.
    pub fn older(&self, generation: u16) -> u64 {
        let met = if self.newest.load(Ordering::Relaxed) == generation {
            self.met.load(Ordering::Relaxed)
        } else {
            0
        };
        self.entries().saturating_sub(met)
    }

    /// Documents held.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Documents held that cannot be used, because a field has the wrong type.
    pub fn bad(&self) -> u64 {
        self.bad.load(Ordering::Relaxed)
    }

    /// Bytes held, including the hash tables.
    pub fn bytes(&self) -> u64 {
        let tables = self.shards.iter().map(|shard| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            // A hash table has a power of two of places, at most 7/8 of them full, and a control byte for each.
            let places = match shard.capacity() {
                0 => 0,
                capacity => (capacity * 8 / 7).next_power_of_two().max(4),
            };
            (places * (size_of::<Entry>() + 1)) as u64
        });
        self.content_bytes.load(Ordering::Relaxed) + tables.sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn content(table: &Table, key: &[u8]) -> Option<Result<Vec<u8>, String>> {
        table.get(key, |found| found.map(<[u8]>::to_vec).map_err(str::to_owned))
    }

    /// Generation, kind and content, by key.
    type Model = HashMap<Vec<u8>, (u16, u8, Result<Vec<u8>, String>)>;

    proptest! {
        #[test]
        fn behaves_like_a_map(calls in prop::collection::vec((0..5u8, 0..20u8, any::<u8>()), 0..200)) {
            let table = Table::default();
            let mut model = Model::new();
            let mut generation = 0;
            for (call, key, value) in calls {
                let key = vec![b's', key];
                match call {
                    0 => {
                        table.put(generation, &key, Ok(&[value]));
                        model.insert(key.clone(), (generation, 0, Ok(vec![value])));
                    }
                    1 => {
                        table.put_as(value >> 1, generation, &key, Err("why"));
                        model.insert(key.clone(), (generation, value >> 1, Err("why".into())));
                    }
                    2 => {
                        table.remove(&key);
                        model.remove(&key);
                    }
                    3 => {
                        table.mark(generation, &key);
                        if let Some((marked, ..)) = model.get_mut(&key) {
                            *marked = generation;
                        }
                    }
                    _ => {
                        table.sweep(generation);
                        model.retain(|_, (g, ..)| *g == generation);
                        generation = generation.wrapping_add(1);
                    }
                }
                prop_assert_eq!(content(&table, &key), model.get(&key).map(|(.., c)| c.clone()));
                prop_assert_eq!(table.generation(&key), model.get(&key).map(|(g, ..)| *g));
                prop_assert_eq!(table.kind(&key), model.get(&key).map(|(_, kind, _)| *kind));
                prop_assert_eq!(table.older(generation), model.values().filter(|(g, ..)| *g != generation).count() as u64);
                prop_assert_eq!(table.entries(), model.len() as u64);
                prop_assert_eq!(table.bad(), model.values().filter(|(.., c)| c.is_err()).count() as u64);
            }
            for key in model.keys().cloned().collect::<Vec<_>>() {
                table.remove(&key);
            }
            prop_assert_eq!(table.content_bytes.load(Ordering::Relaxed), 0);
        }
    }
}
