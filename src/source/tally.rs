//! Which transaction an event belongs to, and when a transaction may be committed: logic without I/O.
//!
//! A transaction is open for an interval. Then it is cut: records taken in from then on belong to the next one. When all of its events have ended,
//! all their outputs are in it, and the first unfinished offset of every partition is behind it, so it can be committed. An event that ended without
//! finishing spoils it, because the offsets then do not describe its content.
//!
//! A transaction that has not ended within its limit is aborted, and would be taken in again unchanged; so the next one may have half as many events.
//! One that has as many as it may is cut at once; if it ends soon, the next may have twice as many.
//!
//! Invariants: a commit is requested only when all events of the open transaction have finished; transaction numbers grow, and those of aborted
//! transactions are not reused.

use std::time::{Duration, Instant};

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Commit the open transaction, then call [`Tally::committed`].
    Commit,
    /// Abort it, and call [`Tally::aborted`] at once.
    Abort,
}

/// The transactions of one consumer.
#[derive(Debug)]
pub struct Tally {
    interval: Duration,
    limit: Duration,
    open: u64,
    /// The transaction that new events belong to: `open`, or the one after it once `open` is cut.
    admitting: u64,
    of_open: usize,
    of_next: usize,
    /// The most events that one transaction may have.
    most: usize,
    /// Events that were admitted to the open transaction so far, and to the next one.
    taken: usize,
    next_taken: usize,
    /// When the first event of the open transaction was admitted, and that of the next one.
    since: Option<Instant>,
    next_since: Option<Instant>,
    /// When the open transaction could begin to publish.
    opened: Option<Instant>,
    spoiled: bool,
    next_spoiled: bool,
}

impl Tally {
    /// Transactions are cut after `interval`, and aborted if they have not ended after `limit`. The first one has the number 1.
    pub fn new(interval: Duration, limit: Duration) -> Tally {
        Tally {
            interval,
            limit,
            open: 1,
            admitting: 1,
            of_open: 0,
            of_next: 0,
            most: usize::MAX,
            taken: 0,
            next_taken: 0,
            since: None,
            next_since: None,
            opened: None,
            spoiled: false,
            next_spoiled: false,
        }
    }

    /// The number of the open transaction.
    pub fn open(&self) -> u64 {
        self.open
    }

    /// When the open transaction could begin to publish; `None` for the first one.
    pub fn opened(&self) -> Option<Instant> {
        self.opened
    }

    /// Events of the open transaction that have not ended.
    pub fn unfinished(&self) -> usize {
        self.of_open
    }

    /// Whether anything was admitted since the last commit.
    pub fn is_used(&self) -> bool {
        self.since.is_some() || self.spoiled
    }

    /// Whether the transaction that new events belong to has room for another one.
    pub fn has_room(&self) -> bool {
        let taken = if self.admitting == self.open {
            self.taken
        } else {
            self.next_taken
        };
        taken < self.most
    }

    /// Admits an event; returns the transaction that it belongs to.
    pub fn admit(&mut self, now: Instant) -> u64 {
        let (count, taken, since) = if self.admitting == self.open {
            (&mut self.of_open, &mut self.taken, &mut self.since)
        } else {
            (&mut self.of_next, &mut self.next_taken, &mut self.next_since)
        };
        *count += 1;
        *taken += 1;
        since.get_or_insert(now);
        self.admitting
    }

    /// An event has ended. If its transaction is over, nothing changes.
    pub fn ended(&mut self, transaction: u64) {
        if transaction == self.open {
            self.of_open = self.of_open.saturating_sub(1);
        } else if transaction == self.admitting {
            self.of_next = self.of_next.saturating_sub(1);
        }
    }

    /// An event of this transaction did not finish, so the transaction cannot be committed.
    pub fn spoil(&mut self, transaction: u64) {
        self.spoiled |= transaction == self.open;
        self.next_spoiled |= transaction == self.admitting && self.admitting > self.open;
    }

    /// Nothing that was published since the last commit may be committed.
    pub fn spoil_all(&mut self) {
        self.spoil(self.open);
        self.spoil(self.admitting);
    }

    /// What to do now. `hurry` cuts before the interval is over; `must` asks for a commit even if nothing was admitted.
    pub fn next(&mut self, now: Instant, hurry: bool, must: bool) -> Step {
        if self.spoiled {
            return Step::Abort;
        }
        let full = self.taken >= self.most;
        let due = match self.since {
            Some(since) => hurry || must || full || now.saturating_duration_since(since) >= self.interval,
            None => must,
        };
        if due && self.admitting == self.open {
            self.admitting += 1;
        }
        match self.since {
            _ if self.admitting > self.open && self.of_open == 0 => Step::Commit,
            Some(since) if now >= self.over(since) => {
                self.most = (self.taken / 2).max(1);
                Step::Abort
            }
            _ => Step::Wait,
        }
    }

    /// When [`Tally::next`] has to be called again, if time alone changes its answer.
    pub fn due(&self) -> Option<Instant> {
        let since = self.since?;
        Some(if self.admitting == self.open {
            since + self.interval
        } else {
            self.over(since)
        })
    }

    /// When the open transaction, whose first event came at `since`, reaches its limit.
    fn over(&self, since: Instant) -> Instant {
        self.opened.map_or(since, |opened| opened.max(since)) + self.limit
    }

    /// The commit was acknowledged: the next transaction is open; returns its number. Its limit runs from `now`, because its outputs had to wait until
    /// now.
    pub fn committed(&mut self, now: Instant) -> u64 {
        // Double the size only if the transaction took at most a quarter of the limit since it was opened, so that twice as many events take half of the
        // limit and not all of it. Work done while the previous transaction was open counts, too; but the commit of that one may have been slow, so half
        // of the limit is allowed from the first event on.
        let quick = |since: Instant| now <= since + self.limit / 2 && now + self.limit * 3 / 4 <= self.over(since);
        if self.taken >= self.most && self.since.is_some_and(quick) {
            self.most = self.most.saturating_mul(2);
        }
        self.opens(now);
        self.open = self.admitting.max(self.open + 1);
        self.admitting = self.open;
        self.of_open = std::mem::take(&mut self.of_next);
        self.taken = std::mem::take(&mut self.next_taken);
        self.since = self.next_since.take();
        self.spoiled = std::mem::take(&mut self.next_spoiled);
        self.open
    }

    /// An abort is over: the limit of the open transaction runs from `now`, as after a commit.
    pub fn opens(&mut self, now: Instant) {
        self.opened = Some(now);
    }

    /// The open transaction, and what was admitted to the next one, are over. Returns a number above all of theirs, which no event has.
    pub fn aborted(&mut self) -> u64 {
        let over = self.admitting + 1;
        self.open = over + 1;
        self.admitting = self.open;
        (self.of_open, self.of_next) = (0, 0);
        (self.taken, self.next_taken) = (0, 0);
        (self.since, self.next_since) = (None, None);
        (self.spoiled, self.next_spoiled) = (false, false);
        over
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);
    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_transaction_is_cut_and_waits_for_its_own_events_only() {
        let mut tally = Tally::new(INTERVAL, LIMIT);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(tally.next(at(1000), false, false), Step::Wait, "nothing was taken in");
        let (a, b) = (tally.admit(at(1000)), tally.admit(at(1001)));
        tally.ended(a);
        tally.ended(b);
        assert_eq!(tally.next(at(1050), false, false), Step::Wait);
        let c = tally.admit(at(1099));
        assert_eq!((tally.next(at(1100), false, false), a, c), (Step::Wait, 1, 1));
        let d = tally.admit(at(1101));
        assert_eq!((d, tally.next(at(1102), false, false)), (2, Step::Wait));
        tally.ended(c);
        assert_eq!(tally.next(at(1103), false, false), Step::Commit);
        assert_eq!(tally.committed(at(1104)), 2);
        assert_eq!(tally.due(), Some(at(1201)));
        assert_eq!(
            tally.next(at(1150), true, false),
            Step::Wait,
            "cut early, and not ended"
        );
        tally.ended(d);
        assert_eq!(tally.next(at(1151), true, false), Step::Commit);
    }

    #[test]
    fn what_does_not_end_or_ends_otherwise_is_aborted() {
        let mut tally = Tally::new(INTERVAL, LIMIT);
        let now = Instant::now();
        let stuck = tally.admit(now);
        assert_eq!(tally.next(now + INTERVAL, false, false), Step::Wait);
        assert_eq!(tally.next(now + LIMIT, false, false), Step::Abort);
        let over = tally.aborted();
        assert!(stuck < over && over < tally.open());
        tally.ended(stuck);
        let next = tally.admit(now);
        assert_eq!((next, tally.unfinished()), (tally.open(), 1));
        tally.spoil(stuck);
        assert_eq!(tally.next(now, false, false), Step::Wait, "the spoiled one is over");
        tally.spoil(next);
        assert_eq!(tally.next(now, false, false), Step::Abort);
    }

    #[test]
    fn a_commit_can_be_asked_for_without_events() {
        let mut tally = Tally::new(INTERVAL, LIMIT);
        let now = Instant::now();
        assert_eq!(tally.next(now, true, false), Step::Wait);
        assert_eq!(tally.next(now, false, true), Step::Commit);
        assert_eq!(tally.committed(now), 2);
    }

    /// Its outputs had to wait for the commit before it, so for the brokers it begins only then.
    #[test]
    fn a_long_commit_is_no_part_of_the_next_transaction() {
        let mut tally = Tally::new(INTERVAL, LIMIT);
        let now = Instant::now();
        let first = tally.admit(now);
        tally.ended(first);
        assert_eq!(tally.next(now + INTERVAL, false, false), Step::Commit);
        let second = tally.admit(now + INTERVAL);
        let answered = now + INTERVAL + LIMIT;
        assert_eq!(tally.committed(answered), second);
        assert_eq!(tally.next(answered, false, false), Step::Wait);
        assert_eq!(tally.next(answered + LIMIT, false, false), Step::Abort);
        tally.aborted();
        tally.admit(answered);
        tally.opens(answered + LIMIT);
        assert_eq!(
            tally.next(answered + LIMIT, false, false),
            Step::Wait,
            "nor a long abort"
        );
        assert_eq!(tally.next(answered + 2 * LIMIT, false, false), Step::Abort);
    }

    /// Simulates a consumer with 1024 events in flight, each of which makes `requests` requests one after another, at a database that answers `answers`
    /// of them in each tenth of a second, in order of arrival, for `ticks` such tenths. Returns the number of commits and of aborts.
    fn consumes(tally: &mut Tally, ticks: u32, answers: usize, requests: u32) -> (u32, u32) {
        let start = tally.opened.unwrap_or_else(Instant::now);
        let (mut in_flight, mut commits, mut aborts) = (VecDeque::new(), 0, 0);
        for tick in 0..ticks {
            let now = start + INTERVAL * tick;
            while in_flight.len() < 1024 && tally.has_room() {
                in_flight.push_back((tally.admit(now), requests));
            }
            for _ in 0..answers.min(in_flight.len()) {
                match in_flight.pop_front() {
                    Some((transaction, 1)) => tally.ended(transaction),
                    Some((transaction, left)) => in_flight.push_back((transaction, left - 1)),
                    None => {}
                }
            }
            match tally.next(now, false, false) {
                Step::Wait => {}
                Step::Commit => {
                    tally.committed(now);
                    commits += 1;
                }
                Step::Abort => {
                    tally.aborted();
                    in_flight.clear();
                    aborts += 1;
                }
            }
        }
        tally.aborted();
        (commits, aborts)
    }

    #[test]
    fn what_is_too_much_for_one_transaction_is_less_in_the_next() {
        let mut tally = Tally::new(INTERVAL, LIMIT);
        // 100 answers within the limit: 1024 events are too many, and so are 512, 256 and 128.
        let (commits, aborts) = consumes(&mut tally, 3000, 1, 1);
        assert_eq!((aborts, tally.most), (4, 64));
        assert!(commits > 30, "{commits} commits");
        // The database has become faster.
        let (_, aborts) = consumes(&mut tally, 100, 200, 1);
        assert_eq!((aborts, tally.most), (0, 2048));
        // No event ends any more.
        consumes(&mut tally, 3000, 0, 1);
        assert_eq!(tally.most, 1);
    }

    /// Events of the next transaction run while one is open, and are almost done when that commits: this does not make the next one quick.
    #[test]
    fn what_was_done_before_it_was_opened_is_work_of_a_transaction() {
        let mut tally = Tally::new(INTERVAL, LIMIT);
        let (commits, aborts) = consumes(&mut tally, 6000, 3, 3);
        assert!(commits > 60 && aborts <= 6, "{commits} commits, {aborts} aborts");
    }

    #[derive(Debug, Clone)]
    enum Call {
        Admit,
        End(usize),
        Spoil(usize),
        Next { ms: u64, hurry: bool },
    }

    fn call() -> impl Strategy<Value = Call> {
        prop_oneof![
            4 => Just(Call::Admit),
            4 => any::<usize>().prop_map(Call::End),
            1 => any::<usize>().prop_map(Call::Spoil),
            4 => (0..150u64, any::<bool>()).prop_map(|(ms, hurry)| Call::Next { ms, hurry }),
        ]
    }

    proptest! {
        /// Compares with a list of all events: a commit holds all finished events of its number and nothing else, and no number is used twice.
        #[test]
        fn only_whole_transactions_are_committed(calls in prop::collection::vec(call(), 1..300)) {
            let mut tally = Tally::new(INTERVAL, LIMIT);
            let mut now = Instant::now();
            // Maps the number of a transaction to its events: (running, finished, failed).
            let mut model: BTreeMap<u64, (usize, usize, usize)> = BTreeMap::new();
            let mut over = 0;
            let pick = |model: &BTreeMap<u64, (usize, usize, usize)>, n: usize| {
                let out: Vec<u64> = model.iter().filter(|(_, m)| m.0 > 0).map(|(number, _)| *number).collect();
                (!out.is_empty()).then(|| out[n % out.len()])
            };
            for call in calls {
                match call {
                    Call::Admit => {
                        let number = tally.admit(now);
                        prop_assert!(number > over);
                        model.entry(number).or_default().0 += 1;
                    }
                    Call::End(n) => if let Some(number) = pick(&model, n) {
                        let entry = model.entry(number).or_default();
                        entry.0 -= 1;
                        entry.1 += 1;
                        tally.ended(number);
                    },
                    Call::Spoil(n) => if let Some(number) = pick(&model, n).filter(|number| *number > over) {
                        let entry = model.entry(number).or_default();
                        entry.0 -= 1;
                        entry.2 += 1;
                        tally.spoil(number);
                        tally.ended(number);
                    },
                    Call::Next { ms, hurry } => {
                        now += Duration::from_millis(ms);
                        let open = tally.open();
                        match tally.next(now, hurry, false) {
                            Step::Wait => {}
                            Step::Commit => {
                                let (out, finished, failed) = model.remove(&open).unwrap_or_default();
                                prop_assert_eq!((out, failed), (0, 0));
                                prop_assert!(finished > 0);
                                over = open;
                                prop_assert!(tally.committed(now) > over);
                            }
                            Step::Abort => {
                                over = tally.aborted();
                                prop_assert!(model.keys().all(|number| *number < over));
                                prop_assert!(tally.open() > over);
                            }
                        }
                        let out = model.get(&tally.open()).map_or(0, |m| m.0);
                        prop_assert_eq!(tally.unfinished(), out);
                    }
                }
            }
        }
    }
}
