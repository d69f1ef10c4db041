//! Sampling of single records of a running pipeline, for `/tap` and `messina tap`: as they end, at a limited rate, while somebody asks.
//!
//! A loop offers each record that ends. While nobody looks, that costs one load of a flag. While somebody looks, a record is described at most
//! as often as requested. The loop never waits for the reader.
//!
//! Invariant: a session holds at most `LARGEST` bytes. Records are held as text, because a tree of values takes many times that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::Notify;

/// How many clients may look at one loop at a time.
const LOOKERS: usize = 4;
/// The most that one session holds, in bytes of JSON. A record that does not fit is counted but not shown.
const LARGEST: usize = 4 << 20;

/// What is shown of a record's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Showing {
    /// Names of fields, types and lengths.
    Shapes,
    /// Values.
    Values,
}

impl Showing {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Showing::Shapes => "shapes",
            Showing::Values => "values",
        }
    }
}

/// One session: a client that looks at one or more loops of a pipeline.
#[derive(Debug)]
pub struct Looker {
    showing: Showing,
    /// Only records with this outcome.
    outcome: Option<String>,
    /// The least time between two samples, so that they are spread over the session.
    gap: Duration,
    seen: Mutex<Seen>,
    enough: Notify,
}

/// The result of a session.
#[derive(Debug, Default)]
pub struct Seen {
    /// The records, in the order in which they ended.
    pub records: Vec<Box<RawValue>>,
    /// How many records with the wanted outcome ended during the session, including those that are not shown.
    pub ended: u64,
    /// Total length of the records' text.
    bytes: usize,
    wanted: usize,
    next: Option<Instant>,
}

impl Looker {
    /// A session that wants `wanted` records, at least `gap` apart.
    pub fn new(showing: Showing, outcome: Option<String>, wanted: usize, gap: Duration) -> Arc<Looker> {
        let seen = Seen {
            wanted,
            ..Seen::default()
        };
        Arc::new(Looker {
            showing,
            outcome,
            gap,
            seen: Mutex::new(seen),
            enough: Notify::new(),
        })
    }

    /// What is shown.
    pub fn showing(&self) -> Showing {
        self.showing
    }

    /// Waits until `wanted` records were seen, but at most for `patience`; returns what there is.
    pub async fn look(&self, patience: Duration) -> Seen {
        let _ = tokio::time::timeout(patience, self.enough.notified()).await;
        std::mem::take(&mut *self.seen())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, outcome: &str, now: Instant, tell: &dyn Fn(Showing) -> Json) {
        if self.outcome.as_deref().is_some_and(|wanted| wanted != outcome) {
            return;
        }
        let mut seen = self.seen();
        seen.ended += 1;
        if seen.records.len() >= seen.wanted || seen.next.is_some_and(|next| now < next) {
            return;
        }
        seen.next = Some(now + self.gap);
        // A JSON tree can always be serialised.
        let Ok(record) = to_raw_value(&tell(self.showing)) else {
            return;
        };
        let bytes = seen.bytes + record.get().len();
        if bytes > LARGEST {
            return;
        }
        seen.bytes = bytes;
        seen.records.push(record);
        if seen.records.len() == seen.wanted {
            self.enough.notify_one();
        }
    }
}

/// Where a loop offers its records.
#[derive(Debug, Default)]
pub struct Tap {
    open: AtomicBool,
    lookers: Mutex<Vec<Weak<Looker>>>,
}

impl Tap {
    /// Adds a session, which lasts until `looker` is dropped. Returns false if there are too many.
    pub fn open(&self, looker: &Arc<Looker>) -> bool {
        let mut lookers = self.lookers();
        lookers.retain(|looker| looker.strong_count() > 0);
        if lookers.len() >= LOOKERS {
            return false;
        }
        lookers.push(Arc::downgrade(looker));
        self.open.store(true, Ordering::Relaxed);
        true
    }

    /// Whether there may be a session.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Offers a record that ended. `tell` describes it, and is called only if a session wants it.
    pub fn offer(&self, outcome: &str, now: Instant, tell: &dyn Fn(Showing) -> Json) {
        let mut lookers = self.lookers();
        lookers.retain(|looker| match looker.upgrade() {
            Some(looker) => {
                looker.offer(outcome, now, tell);
                true
            }
            None => false,
        });
        self.open.store(!lookers.is_empty(), Ordering::Relaxed);
    }

    fn lookers(&self) -> MutexGuard<'_, Vec<Weak<Looker>>> {
        self.lookers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const GAP: Duration = Duration::from_millis(100);

    fn looker(outcome: Option<&str>, wanted: usize) -> Arc<Looker> {
        Looker::new(Showing::Values, outcome.map(str::to_owned), wanted, GAP)
    }

    fn texts(seen: &Seen) -> Vec<&str> {
        seen.records.iter().map(|record| record.get()).collect()
    }

    #[test]
    fn nobody_looks_and_nothing_is_told() {
        let tap = Tap::default();
        assert!(!tap.is_open());
        let looker = looker(None, 1);
        assert!(tap.open(&looker) && tap.is_open());
        drop(looker);
        tap.offer("done", Instant::now(), &|_| panic!("told to nobody"));
        assert!(!tap.is_open(), "who went away costs nothing any more");
    }

    #[tokio::test]
    async fn samples_are_spread_and_the_others_counted() {
        let tap = Tap::default();
        let looker = looker(None, 3);
        assert!(tap.open(&looker));
        let (start, told) = (Instant::now(), Cell::new(0));
        for ms in 0..1000_u64 {
            let tell = |_| {
                told.set(told.get() + 1);
                Json::from(ms)
            };
            tap.offer("done", start + Duration::from_millis(ms), &tell);
        }
        let seen = looker.look(Duration::from_secs(1)).await;
        assert_eq!(texts(&seen), ["0", "100", "200"]);
        assert_eq!(
            (seen.ended, told.get()),
            (1000, 3),
            "what is not shown is not put into words"
        );
    }

    #[tokio::test]
    async fn a_looker_gets_only_what_he_asked_for_and_does_not_wait_for_ever() {
        let tap = Tap::default();
        let (letters, all) = (looker(Some("dead_lettered"), 2), looker(None, 2));
        assert!(tap.open(&letters) && tap.open(&all));
        let now = Instant::now();
        tap.offer("done", now, &|showing| Json::from(showing.as_str()));
        tap.offer("dead_lettered", now + GAP, &|_| Json::from("letter"));
        // All wanted records are there, so this does not wait for an hour.
        let seen = all.look(Duration::from_secs(3600)).await;
        assert_eq!(texts(&seen), [r#""values""#, r#""letter""#]);
        let seen = letters.look(Duration::from_millis(20)).await;
        assert_eq!((texts(&seen), seen.ended), (vec![r#""letter""#], 1));
    }

    #[tokio::test]
    async fn a_look_holds_so_much_and_counts_what_does_not_fit() {
        let tap = Tap::default();
        let looker = looker(None, 100);
        assert!(tap.open(&looker));
        let now = Instant::now();
        for (number, bytes) in [1_000_000, 3_000_000, 1_000_000, LARGEST, 5].into_iter().enumerate() {
            let tell = |_| Json::from("x".repeat(bytes));
            tap.offer("done", now + GAP * u32::try_from(number).unwrap(), &tell);
        }
        let seen = looker.look(Duration::from_millis(20)).await;
        let lengths: Vec<_> = texts(&seen).iter().map(|text| text.len() - 2).collect();
        assert_eq!((lengths, seen.ended), (vec![1_000_000, 3_000_000, 5], 5));
    }

    #[test]
    fn only_a_few_may_look() {
        let tap = Tap::default();
        let mut lookers: Vec<_> = (0..LOOKERS).map(|_| looker(None, 1)).collect();
        assert!(lookers.iter().all(|looker| tap.open(looker)));
        assert!(!tap.open(&looker(None, 1)));
        lookers.pop();
        assert!(tap.open(&looker(None, 1)));
    }
}
