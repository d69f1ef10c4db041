//! The cache of look-ups: bounded by bytes, with one lifetime for rows and one for misses, and one query for concurrent look-ups of a key.
//!
//! We have our own because a hit must need no task and no allocation, concurrent misses must share a query without caching its error, and the weight
//! must include the cache's own tables to keep the memory promise. Each shard is a slab under CLOCK (second chance) with an index by 64-bit hash. A
//! shard's lock is held for an access, never across a query.
//!
//! Invariants:
//! - an expired entry is never returned, except by [`Cache::get_stale`];
//! - `bytes` counts keys, rows and tables as allocated, and is at most `max_bytes` after every insertion;
//! - at most one load per key runs at a time; a load that is dropped hands over to the next caller; an error is returned to all who waited for that
//!   load, marked as another's, and is not kept.

mod key;
mod weight;

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, BuildHasherDefault};
use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use tokio::sync::watch;

use self::weight::allocated;
use super::{Row, StoreError};
use crate::lanes::AsIs;
pub use key::append_key;
pub use weight::{heap_bytes, row_bytes};

/// An answer: a row, or the knowledge that there is none.
pub type Hit = Arc<Option<Row>>;

/// How much to keep, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct CacheOptions {
    /// Lifetime of a row; zero keeps none.
    pub ttl: Duration,
    /// Lifetime of a miss; zero keeps none.
    pub missing_ttl: Duration,
    /// Memory for entries and tables, in bytes. Zero keeps nothing, but identical look-ups still share one query.
    pub max_bytes: usize,
    /// How long an expired row is kept for [`Cache::get_stale`]; zero keeps none.
    pub stale: Duration,
}

impl From<&crate::config::Cache> for CacheOptions {
    fn from(from: &crate::config::Cache) -> Self {
        CacheOptions {
            ttl: from.ttl,
            missing_ttl: from.missing_ttl,
            max_bytes: usize::try_from(from.max_bytes.bytes()).unwrap_or(usize::MAX),
            stale: from.stale_on_error.unwrap_or_default(),
        }
    }
}

/// Counters since the start, and what is held now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Answers from memory.
    pub hits: u64,
    /// Look-ups that ran a query.
    pub misses: u64,
    /// Look-ups that shared another's query.
    pub coalesced: u64,
    /// Entries evicted for space before they expired.
    pub evictions: u64,
    /// Entries held.
    pub entries: u64,
    /// Bytes held.
    pub bytes: u64,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From memory.
    Cached,
    /// From this call's own query.
    Loaded,
    /// From another call's query that was already running.
    Shared,
    /// From memory although expired, by [`Cache::get_stale`].
    Stale,
}

/// See the module's documentation. One per step.
#[derive(Debug)]
pub struct Cache {
    options: CacheOptions,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    max_shard_bytes: usize,
    missing: Hit,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    coalesced: AtomicU64,
    evictions: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
}

type Outcome = Option<Result<Hit, StoreError>>;

#[derive(Debug, Default)]
struct Shard {
    /// Slot by hash of the key. Two keys with the same 64-bit hash share a slot: the later one replaces the other.
    index: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    hand: usize,
    entry_bytes: usize,
    /// The share of this shard in the counter `bytes`.
    reported: usize,
    flights: HashMap<Box<[u8]>, watch::Receiver<Outcome>>,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    key: Box<[u8]>,
    value: Hit,
    end: Instant,
    bytes: u32,
    used: bool,
}

impl Entry {
    /// Whether it is a row that has not expired, or has expired but is still kept.
    fn is_kept(&self, now: Instant, stale: Duration) -> bool {
        self.value.is_some() && self.end.checked_add(stale).is_none_or(|end| end > now)
    }
}

impl Cache {
    /// An empty cache.
    pub fn new(options: CacheOptions) -> Self {
        // Small caches have few shards, so that each still holds many entries.
        let shards = (options.max_bytes / (256 << 10)).clamp(1, 16).next_power_of_two();
        Cache {
            options,
            hasher: RandomState::default(),
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            max_shard_bytes: options.max_bytes / shards,
            missing: Arc::new(None),
            counters: Counters::default(),
        }
    }

    /// The answer in memory, if there is one, without a task or an allocation. Counts a hit; a miss is not counted.
    pub fn get(&self, key: &[u8], now: Instant) -> Option<Hit> {
        let found = self.peek(key, now);
        if found.is_some() {
            self.count_hit();
        }
        found
    }

    /// Like [`Cache::get`], but counts no hit: whoever uses the answer does.
    pub fn peek(&self, key: &[u8], now: Instant) -> Option<Hit> {
        let (hash, mut shard) = self.shard(key);
        self.find(&mut shard, hash, key, now)
    }

    /// Counts a hit found by [`Cache::peek`].
    pub fn count_hit(&self) {
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a query for the key is running.
    pub fn is_loading(&self, key: &[u8]) -> bool {
        self.shard(key).1.flights.contains_key(key)
    }

    /// The row in memory, expired or not; never an absence. Counts nothing.
    pub fn get_stale(&self, key: &[u8], now: Instant) -> Option<Hit> {
        if self.options.stale.is_zero() {
            return None;
        }
        let (hash, mut shard) = self.shard(key);
        let slot = *shard.index.get(&hash)?;
        let entry = shard.slots.get_mut(slot as usize)?.as_mut()?;
        if *entry.key != *key || !entry.is_kept(now, self.options.stale) {
            return None;
        }
        entry.used = true;
        Some(entry.value.clone())
    }

    /// Forgets that there is no row, for a caller that waits for the row and asks again. An existing row stays.
    pub fn forget_absence(&self, key: &[u8]) {
        let (hash, mut shard) = self.shard(key);
        let Some(slot) = shard.index.get(&hash).copied() else {
            return;
        };
        let entry = shard.slots.get(slot as usize).and_then(Option::as_ref);
        if entry.is_some_and(|entry| *entry.key == *key && entry.value.is_none()) {
            self.remove(&mut shard, slot);
            self.report(&mut shard);
        }
    }

    /// The answer in memory, or of the running query for the same key, or of `load`.
    ///
    /// `now` is when the caller asks; a row's lifetime counts from there, so a slow query does not extend it.
    pub async fn get_or_load<F, L>(&self, key: &[u8], now: Instant, load: F) -> Result<(Hit, Origin), StoreError>
    where
        F: FnOnce() -> L,
        L: Future<Output = Result<Option<Row>, StoreError>>,
    {
        loop {
            let mut waiting = match self.join(key, now) {
                Joined::Hit(hit) => return Ok((hit, Origin::Cached)),
                Joined::Leader(flight) => return flight.run(now, load).await.map(|hit| (hit, Origin::Loaded)),
                Joined::Follower(waiting) => waiting,
            };
            // An error here means that the leader was dropped: the next caller takes over.
            if let Ok(outcome) = waiting.wait_for(Option::is_some).await
                && let Some(outcome) = outcome.clone()
            {
                self.counters.coalesced.fetch_add(1, Ordering::Relaxed);
                return outcome.map(|hit| (hit, Origin::Shared)).map_err(StoreError::for_others);
            }
        }
    }

    /// Counters since the start, and what is held now.
    pub fn stats(&self) -> CacheStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats {
            hits: read(&self.counters.hits),
            misses: read(&self.counters.misses),
            coalesced: read(&self.counters.coalesced),
            evictions: read(&self.counters.evictions),
            entries: read(&self.counters.entries),
            bytes: read(&self.counters.bytes),
        }
    }

    fn shard(&self, key: &[u8]) -> (u64, MutexGuard<'_, Shard>) {
        let hash = self.hasher.hash_one(key);
        // The index uses the lowest and the topmost bits, so the shard is chosen by others.
        let shard = &self.shards[(hash >> 40) as usize & (self.shards.len() - 1)];
        // Nothing panics under the lock, and a shard is consistent between any two of its operations.
        (hash, shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn find(&self, shard: &mut Shard, hash: u64, key: &[u8], now: Instant) -> Option<Hit> {
        let slot = *shard.index.get(&hash)?;
        let entry = shard.slots.get_mut(slot as usize)?.as_mut()?;
        if *entry.key != *key {
            return None;
        }
        if entry.end <= now {
            if !entry.is_kept(now, self.options.stale) {
                self.remove(shard, slot);
                self.report(shard);
            }
            return None;
        }
        entry.used = true;
        Some(entry.value.clone())
    }

    /// Finds the answer or the running flight, or starts a flight. All under one lock, so two flights never start.
    fn join<'k>(&self, key: &'k [u8], now: Instant) -> Joined<'_, 'k> {
        let (hash, mut shard) = self.shard(key);
        if let Some(hit) = self.find(&mut shard, hash, key, now) {
            self.counters.hits.fetch_add(1, Ordering::Relaxed);
            return Joined::Hit(hit);
        }
        if let Some(flight) = shard.flights.get(key) {
            return Joined::Follower(flight.clone());
        }
        self.counters.misses.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = watch::channel(None);
        shard.flights.insert(key.into(), receiver);
        Joined::Leader(Flight {
            cache: self,
            key,
            sender,
        })
    }

    fn insert(&self, shard: &mut Shard, hash: u64, key: &[u8], value: &Hit, now: Instant) {
        let ttl = if value.is_some() {
            self.options.ttl
        } else {
            self.options.missing_ttl
        };
        // In any case the old entry is outdated: the row has changed or is gone.
        if let Some(slot) = shard.index.get(&hash).copied() {
            self.remove(shard, slot);
            self.report(shard);
        }
        let bytes = allocated(key.len()) + row_bytes(value);
        let Some(end) = now
            .checked_add(ttl)
            .filter(|_| !ttl.is_zero() && bytes < self.max_shard_bytes / 2)
        else {
            return;
        };
        let entry = Entry {
            hash,
            key: key.into(),
            value: value.clone(),
            end,
            bytes: bytes as u32,
            used: false,
        };
        // Removed entries use up places in the index; when these run out the index would double, and not shrink again.
        if shard.index.len() == shard.index.capacity() && !shard.free.is_empty() {
            shard.compact();
        }
        let slot = shard.free.pop().unwrap_or_else(|| {
            if shard.slots.len() == shard.slots.capacity() {
                // Grow by an eighth, not twofold, because reserved memory counts.
                shard.slots.reserve_exact((shard.slots.len() / 8).max(16));
            }
            shard.slots.push(None);
            (shard.slots.len() - 1) as u32
        });
        shard.slots[slot as usize] = Some(entry);
        shard.index.insert(hash, slot);
        shard.entry_bytes += bytes;
        self.counters.entries.fetch_add(1, Ordering::Relaxed);
        let mut keep = slot;
        while shard.bytes() > self.max_shard_bytes && self.evict(shard, keep, now) {
            // The tables may have the size that many small entries needed, and leave no room for fewer, larger ones.
            if shard.free.len() > shard.slots.len() / 8 {
                shard.compact();
                keep = shard.index.get(&hash).copied().unwrap_or(keep);
            }
        }
        self.report(shard);
    }

    /// Evicts one entry other than `keep`: the first after the hand that was not used since the hand last passed it.
    fn evict(&self, shard: &mut Shard, keep: u32, now: Instant) -> bool {
        // Within two rounds every entry is met once with its mark cleared.
        for _ in 0..2 * shard.slots.len() {
            let slot = shard.hand;
            shard.hand = (shard.hand + 1) % shard.slots.len();
            match &mut shard.slots[slot] {
                Some(entry) if slot as u32 != keep && (!entry.used || entry.end <= now) => {
                    // Dropping an expired entry is not an eviction.
                    if entry.end > now {
                        self.counters.evictions.fetch_add(1, Ordering::Relaxed);
                    }
                    self.remove(shard, slot as u32);
                    return true;
                }
                Some(entry) => entry.used = false,
                None => {}
            }
        }
        false
    }

    fn remove(&self, shard: &mut Shard, slot: u32) {
        if let Some(entry) = shard.slots.get_mut(slot as usize).and_then(Option::take) {
            shard.index.remove(&entry.hash);
            shard.free.push(slot);
            shard.entry_bytes -= entry.bytes as usize;
            self.counters.entries.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn report(&self, shard: &mut Shard) {
        let bytes = shard.bytes();
        // Wrapping is correct: the sum over all shards is right in two's complement.
        self.counters
            .bytes
            .fetch_add((bytes as u64).wrapping_sub(shard.reported as u64), Ordering::Relaxed);
        shard.reported = bytes;
    }
}

impl Shard {
    /// Frees the slots of removed entries. Every remaining entry moves, so call it only after many insertions or removals.
    fn compact(&mut self) {
        // The entry that the hand would reach last is the newest, and stays behind the others.
        self.slots.rotate_left(self.hand);
        self.slots.retain(Option::is_some);
        self.slots.shrink_to_fit();
        (self.free, self.hand) = (Vec::new(), 0);
        // The spare room is how many entries may come and go before the next compaction.
        let room = self.slots.len() + self.slots.len() / 8;
        self.index = HashMap::with_capacity_and_hasher(room, BuildHasherDefault::default());
        for (slot, entry) in self.slots.iter().flatten().enumerate() {
            self.index.insert(entry.hash, slot as u32);
        }
    }

    /// Entries and tables, as allocated. Flights in progress are the records' own memory, not the cache's.
    fn bytes(&self) -> usize {
        // The hash map has a power of two of buckets, at most 7/8 of them full, with a control byte for each.
        let buckets = match self.index.capacity() {
            0 => 0,
            small @ 1..8 => (small + 1).next_power_of_two(),
            capacity => (capacity * 8 / 7).next_power_of_two(),
        };
        self.entry_bytes
            + allocated(self.slots.capacity() * size_of::<Option<Entry>>())
            + allocated(self.free.capacity() * size_of::<u32>())
            + allocated(buckets * (size_of::<(u64, u32)>() + 1) + 16)
    }
}

enum Joined<'c, 'k> {
    Hit(Hit),
    Leader(Flight<'c, 'k>),
    Follower(watch::Receiver<Outcome>),
}

/// The right to load one key. If it is dropped without an outcome, the right passes to the next caller.
struct Flight<'c, 'k> {
    cache: &'c Cache,
    key: &'k [u8],
    sender: watch::Sender<Outcome>,
}

impl Flight<'_, '_> {
    async fn run<F, L>(self, now: Instant, load: F) -> Result<Hit, StoreError>
    where
        F: FnOnce() -> L,
        L: Future<Output = Result<Option<Row>, StoreError>>,
    {
        let outcome = load().await.map(|row| {
            if row.is_some() {
                Arc::new(row)
            } else {
                self.cache.missing.clone()
            }
        });
        if let Ok(hit) = &outcome {
            // Before the flight ends, so that the next caller finds either the flight or the entry.
            let (hash, mut shard) = self.cache.shard(self.key);
            self.cache.insert(&mut shard, hash, self.key, hit, now);
        }
        self.sender.send_replace(Some(outcome.clone()));
        outcome
    }
}

impl Drop for Flight<'_, '_> {
    fn drop(&mut self) {
        let (_, mut shard) = self.cache.shard(self.key);
        shard.flights.remove(self.key);
        if shard.flights.is_empty() {
            shard.flights.shrink_to(64);
        }
    }
}

#[cfg(test)]
mod tests;
