//! The ledger of one partition: which records are in flight, and which offset may be committed.
//!
//! Records of a partition finish in any order, but Kafka keeps only one offset per partition. That offset must never pass a record whose effects are
//! not all acknowledged, or a crash loses the record. So the ledger keeps every record from the first unfinished one on, and offers that record's
//! offset for commit.
//!
//! It also keeps the partition's write clock. Every CQL write carries a timestamp in microseconds, derived from the record's own, and two records of
//! one millisecond must not share one. The state of the clock is stored in the metadata of the commit, so that a replay derives the same timestamps
//! again (as long as the log still holds the same records).
//!
//! Invariants:
//! - the committable offset is never above an unfinished one, and never goes back;
//! - write timestamps strictly increase, are never negative, and are the same when replayed from any [`Position`];
//! - the front of the ring is unfinished, so finished records cost memory only behind an unfinished one ([`Ledger::waiting_bytes`]).

use std::collections::VecDeque;

/// Latest record timestamp that is accepted: 9999-12-31T23:59:59.999Z, in milliseconds since the Unix epoch.
///
/// A later timestamp counts as none; otherwise a single broken producer could use up the write clock.
pub const MAX_RECORD_TIMESTAMP_MS: i64 = 253_402_300_799_999;

/// A record's own timestamp in µs; `None` if it is absent, negative or above [`MAX_RECORD_TIMESTAMP_MS`].
pub fn own_micros(record_timestamp_ms: Option<i64>) -> Option<i64> {
    record_timestamp_ms
        .filter(|ms| (0..=MAX_RECORD_TIMESTAMP_MS).contains(ms))
        .map(|ms| ms * 1000)
}

/// Prefix of the commit metadata; the digit is the version of the format.
const CLOCK_PREFIX: &str = "messina1:";

/// Latest clock that is accepted from commit metadata: twice the latest that a record can set. A clock also runs ahead of its records, by a few µs for each,
/// but no log is long enough to get this far.
const MAX_CLOCK: i64 = 2 * 1000 * MAX_RECORD_TIMESTAMP_MS;

/// How many records are searched for a timestamp. If a topic has none, whole ledgers would otherwise be searched a few times a second.
const LOOKED_AT: usize = 256;

/// Each record reserves a multiple of this many write timestamps. If it reserved exactly one per write, removing a write from a pipeline would give records
/// that run again lower timestamps than the first time, and new values could lose against the old ones.
const STEP: usize = 8;

/// Capacity that a ring keeps once it has grown that far. Otherwise it would grow and shrink with the records in flight, and be copied again and again.
const KEPT: usize = 2048;

/// An unknown leader epoch, as in Kafka's protocol.
pub const NO_EPOCH: i32 = -1;

/// A place in a partition from which processing can resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The offset to commit: the next one to consume after a restart.
    pub offset: i64,
    /// The last write timestamp, in µs, handed out below `offset`; `i64::MIN` if there was none. Commit it by [`encode_clock`].
    pub clock: i64,
    /// The leader epoch of the record before `offset`, or [`NO_EPOCH`]. Brokers use it to detect that their log is no longer the one that was read.
    pub leader_epoch: i32,
}

/// Why the ledger refused a call. The ledger is unchanged after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The offset was already passed: it is below the committed offset or not above the last admitted one.
    #[error("offset {offset} came although {expected} or a later one was due")]
    Behind {
        /// The offset that came.
        offset: i64,
        /// The lowest offset that would have been in order.
        expected: i64,
    },
    /// The offset was never admitted here, or is finished already.
    #[error("offset {offset} is not in flight")]
    NotInFlight {
        /// The offset to be finished.
        offset: i64,
    },
    /// The clock is at the end of its range.
    #[error("no write timestamp is left after {clock} µs")]
    ClockExhausted {
        /// The last write timestamp handed out.
        clock: i64,
    },
}

/// What is in flight in one partition during one assignment. See the module's page for the invariants.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Admitted records from the first unfinished one on; offsets strictly increase.
    ring: VecDeque<Entry>,
    /// The clock as it was before the front of the ring, or the latest one when the ring is empty.
    clock_before: i64,
    /// The last write timestamp handed out.
    clock: i64,
    /// The leader epoch of the record before the front of the ring, or of the latest one when the ring is empty.
    epoch_before: i32,
    /// The leader epoch of the records that are admitted next.
    leader_epoch: i32,
    /// Write timestamps that each record reserves: one per write, so that the later write wins, rounded up to a multiple of [`STEP`].
    writes: i64,
    /// The lowest offset that may come next, once any is known.
    next: Option<i64>,
    /// The first offset of this assignment: its declared start, or else that of the first record.
    first: Option<i64>,
    last_admitted: Option<i64>,
    committed: Option<i64>,
    /// The log went back, and the group's committed offset has not been set back with it yet.
    rewound: bool,
    in_flight: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: i64,
    /// The last of its write timestamps.
    timestamp: i64,
    /// The record's own timestamp in µs; `i64::MIN` without one.
    own: i64,
    leader_epoch: i32,
    finished: bool,
}

impl Ledger {
    /// A ledger that starts at `committed`, the group's committed offset (`None`: the group has none, any offset may come first).
    ///
    /// `clock` is the last write timestamp in µs that was handed out below that offset, `i64::MIN` if there is none.
    pub fn new(committed: Option<i64>, clock: i64) -> Ledger {
        Ledger {
            ring: VecDeque::new(),
            clock_before: clock,
            clock,
            epoch_before: NO_EPOCH,
            leader_epoch: NO_EPOCH,
            writes: 1,
            next: committed,
            first: None,
            last_admitted: None,
            committed,
            rewound: false,
            in_flight: 0,
        }
    }

    /// A ledger that begins at `offset` because the group has no committed offset.
    ///
    /// That offset is committable before any record: otherwise the next start with `auto.offset.reset = latest` would skip records that arrived in an idle
    /// partition meanwhile.
    pub fn beginning(offset: i64) -> Ledger {
        Ledger::at(offset, i64::MIN)
    }

    /// A ledger of a log that went back to `offset`. That offset is committable before any record, because the group's offset, which may be higher, belongs
    /// to a log that no longer exists. `clock` is the last write timestamp that was handed out for the old log.
    pub fn rewound(offset: i64, clock: i64) -> Ledger {
        Ledger {
            rewound: true,
            ..Ledger::at(offset, clock)
        }
    }

    /// Starts at an offset that the group has not committed yet.
    fn at(offset: i64, clock: i64) -> Ledger {
        Ledger {
            next: Some(offset),
            first: Some(offset),
            ..Ledger::new(None, clock)
        }
    }

    /// The same ledger for records that make `writes` writes each: a record gets eight write timestamps, or the next multiple of eight that has room for its
    /// writes.
    pub fn with_writes(self, writes: usize) -> Ledger {
        let room = writes.max(1).checked_next_multiple_of(STEP);
        let writes = room.and_then(|room| i64::try_from(room).ok()).unwrap_or(i64::MAX);
        Ledger { writes, ..self }
    }

    /// Sets the leader epoch that was committed with the group's offset, at which this ledger starts.
    pub fn begins_after(&mut self, leader_epoch: i32) {
        if self.committed.is_some() {
            self.epoch_before = leader_epoch;
        }
    }

    /// Sets the leader epoch of the records that are admitted next.
    pub fn leads(&mut self, leader_epoch: i32) {
        self.leader_epoch = leader_epoch;
    }

    /// Admits the record at `offset` and returns the write timestamp of its first write in µs; each further write gets one more. The timestamp is `max(own,
    /// previous + 1)`: `own` is the record's [own timestamp](own_micros) or 0, `previous` the last write timestamp of the record before.
    ///
    /// Offsets strictly increase. Gaps are legal: compaction and transaction markers leave them.
    ///
    /// # Errors
    /// [`LedgerError::Behind`] for an offset already passed, [`LedgerError::ClockExhausted`] at the end of the clock.
    pub fn admit(&mut self, offset: i64, record_timestamp_ms: Option<i64>) -> Result<i64, LedgerError> {
        let expected = self.next.unwrap_or(0);
        if offset < expected {
            return Err(LedgerError::Behind { offset, expected });
        }
        let own = own_micros(record_timestamp_ms);
        let after = self
            .clock
            .checked_add(1)
            .ok_or(LedgerError::ClockExhausted { clock: self.clock })?;
        let timestamp = own.unwrap_or(0).max(after);
        let last = timestamp
            .checked_add(self.writes - 1)
            .ok_or(LedgerError::ClockExhausted { clock: self.clock })?;
        self.ring.push_back(Entry {
            offset,
            timestamp: last,
            own: own.unwrap_or(i64::MIN),
            leader_epoch: self.leader_epoch,
            finished: false,
        });
        self.clock = last;
        self.next = Some(offset.saturating_add(1));
        self.first.get_or_insert(offset);
        self.last_admitted = Some(offset);
        self.in_flight += 1;
        Ok(timestamp)
    }

    /// The lowest offset that may come next; `None` while none is known.
    pub fn due(&self) -> Option<i64> {
        self.next
    }

    /// Notes that every effect of the record at `offset` is acknowledged.
    ///
    /// Amortised constant time if offsets are dense, otherwise logarithmic in the number of offsets missing from the ring.
    ///
    /// # Errors
    /// [`LedgerError::NotInFlight`] for an offset that was never admitted or is finished already.
    pub fn finish(&mut self, offset: i64) -> Result<(), LedgerError> {
        let unknown = LedgerError::NotInFlight { offset };
        let index = self.index_of(offset).ok_or(unknown)?;
        let entry = self
            .ring
            .get_mut(index)
            .filter(|entry| !entry.finished)
            .ok_or(unknown)?;
        entry.finished = true;
        self.in_flight -= 1;
        while let Some(front) = self.ring.front().filter(|front| front.finished) {
            self.clock_before = front.timestamp;
            self.epoch_before = front.leader_epoch;
            self.ring.pop_front();
        }
        // Give back memory that records behind a slow one needed once. Half of the new capacity stays free, so that copies remain rare.
        if self.ring.capacity() > KEPT && self.ring.len() < self.ring.capacity() / 4 {
            self.ring.shrink_to((self.ring.len() * 2).max(KEPT));
        }
        Ok(())
    }

    /// The position to commit: the first unfinished offset, or the next expected one. `None` when nothing is new.
    ///
    /// A partition may end in transaction markers or compacted records. They are never delivered, and nothing proves that all records before them were, so
    /// they are not committed past until [`Ledger::admit`] takes the next record.
    ///
    /// If the group has no committed offset, that of the first record is committable at once. Otherwise a start after a crash could begin elsewhere
    /// (`auto.offset.reset = latest` would skip what was in flight).
    pub fn committable(&self) -> Option<Position> {
        self.position()
            .filter(|position| self.committed.is_none_or(|committed| committed < position.offset))
    }

    /// The first unfinished offset or the next expected one, committed or not; `None` while no offset is known.
    pub fn position(&self) -> Option<Position> {
        let offset = self.first_unfinished().or(self.next)?;
        Some(Position {
            offset,
            clock: self.clock_before,
            leader_epoch: self.epoch_before,
        })
    }

    /// Notes that the broker acknowledged the commit of `offset`. Acknowledgements may come late and out of order.
    pub fn committed(&mut self, offset: i64) {
        self.committed = self.committed.max(Some(offset));
        self.rewound = false;
    }

    /// Records admitted and not finished.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Records that a restart from the group's offset repeats: all from the first unfinished one on. If a committable offset is not acknowledged yet, all
    /// from the last acknowledged one on, counted by offsets.
    pub fn left(&self) -> usize {
        match (self.committable(), self.uncommitted(), self.next) {
            (Some(_), Some(from), Some(next)) => distance(from, next).max(self.span()),
            _ => self.span(),
        }
    }

    /// Records held, including finished ones behind an unfinished one: what a crash at this moment repeats. The loop bounds it, because one stuck record does
    /// not keep the others from finishing.
    pub fn span(&self) -> usize {
        self.ring.len()
    }

    /// Memory of the finished records behind an unfinished one: their entries (32 bytes each), times two because a growing ring doubles its capacity. The
    /// loop counts it in its budget, where a finished record no longer counts otherwise.
    pub fn waiting_bytes(&self) -> usize {
        (self.ring.len() - self.in_flight) * 2 * size_of::<Entry>()
    }

    /// The lowest offset in flight.
    pub fn first_unfinished(&self) -> Option<i64> {
        self.ring.front().map(|entry| entry.offset)
    }

    /// Timestamp of the first unfinished record that has a usable one, in ms since the Unix epoch. A record without one must not hide how late the partition
    /// is, so those behind it are searched. Not usable are 0, from a producer without a clock, and times after `now_ms`, from a wrong clock. The write
    /// timestamp is no substitute: after one record with a late date, those of all others are as late.
    pub fn first_unfinished_ms(&self, now_ms: i64) -> Option<i64> {
        let first = self.ring.iter().take(LOOKED_AT);
        first.map(|entry| entry.own / 1000).find(|ms| (1..=now_ms).contains(ms))
    }

    /// Where to start again so that everything uncommitted runs, finished or not; `None` while no offset is known.
    pub fn uncommitted(&self) -> Option<i64> {
        self.committed.or(self.first)
    }

    /// Whether the log went back and nothing has been committed since. The group's offset, if above [`Ledger::uncommitted`], then belongs to a log that no
    /// longer exists.
    pub fn is_rewound(&self) -> bool {
        self.rewound
    }

    /// The highest offset admitted in this assignment.
    pub fn last_admitted(&self) -> Option<i64> {
        self.last_admitted
    }

    /// The last write timestamp handed out, in µs; `i64::MIN` if there is none.
    pub fn clock(&self) -> i64 {
        self.clock
    }

    /// Index of `offset` in the ring. Offsets strictly increase, so the distance to either end bounds the index from both sides; if no offset is missing, the
    /// bounds meet and nothing is searched.
    fn index_of(&self, offset: i64) -> Option<usize> {
        let (front, back) = (self.ring.front()?.offset, self.ring.back()?.offset);
        if !(front..=back).contains(&offset) {
            return None;
        }
        let last = self.ring.len() - 1;
        let mut high = last.min(distance(front, offset));
        let mut low = last.saturating_sub(distance(offset, back));
        while low < high {
            let middle = low.midpoint(high);
            if self.ring.get(middle)?.offset < offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.ring
            .get(low)
            .is_some_and(|entry| entry.offset == offset)
            .then_some(low)
    }
}

/// How far `to` is above `from`, as a number of ring entries.
fn distance(from: i64, to: i64) -> usize {
    usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX)
}

/// The commit metadata that carries `clock`: `messina1:` and the number in base 36.
pub fn encode_clock(clock: i64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut digits = Vec::with_capacity(13); // 36^13 > 2^64
    let mut rest = clock.unsigned_abs();
    loop {
        digits.push(char::from(DIGITS[(rest % 36) as usize]));
        rest /= 36;
        if rest == 0 {
            break;
        }
    }
    let sign = if clock < 0 { "-" } else { "" };
    let mut metadata = String::with_capacity(CLOCK_PREFIX.len() + sign.len() + digits.len());
    metadata.push_str(CLOCK_PREFIX);
    metadata.push_str(sign);
    metadata.extend(digits.iter().rev());
    metadata
}

/// Reads what [`encode_clock`] wrote. `None` for another program's metadata, an unknown version or an impossible clock; the clock then starts afresh.
pub fn decode_clock(metadata: &[u8]) -> Option<i64> {
    let digits = std::str::from_utf8(metadata).ok()?.strip_prefix(CLOCK_PREFIX)?;
    let clock = i64::from_str_radix(digits, 36).ok()?;
    (clock <= MAX_CLOCK).then_some(clock)
}

#[cfg(test)]
mod tests;
