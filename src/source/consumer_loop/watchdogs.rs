//! The stall watchdogs of the partitions that the loop holds.
//!
//! They outlive single assignments: a restart of a partition, as after each aborted transaction, is not progress. A starting partition has no
//! position, and before anything is committed or read none is known; both may last for ever, and are watched like lag.
//!
//! These are not signs of a broken consumer:
//! - lag of an open transaction: another consumer would not get those records either;
//! - a consumer that fetches records that nobody may read, such as those of aborted transactions;
//! - a consumer that had no room: librdkafka fetches nothing while its queue, one for all partitions, is full, and then begins with the same
//!   partitions. Others may wait for long, and another consumer would serve them no better;
//! - a process that itself stood still (stopped, frozen, or on a machine that was): it has taken nothing either;
//! - a loop that holds its intake for the moment that a registry may take to answer.
//!
//! Under transactions readers see nothing of finished records until they are committed, so finished and uncommitted records are work too. Otherwise the
//! last records of a batch would count as done while their commit is not answered, and those of a slow stream while every commit fails. This goes by the
//! records taken and not by the end of the partition, which transaction markers move without a record.
//!
//! Invariants: a partition has its watchdogs as long as it is held, whatever happens to its assignments; under transactions only commits count as
//! progress, because finished records beyond them run again after an abort.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::progress::{Health, Progress};
use crate::source::assignment::Partition;

/// The time between two observations counts for at most this, and at most half of the stall time: the loop observes a few times a second, so in a longer
/// gap it was held up. But a gap counts for something, or a loop that is held up again and again would never notice a stall.
const LONGEST_GAP: Duration = Duration::from_secs(5);

/// An observation of a partition.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sight {
    /// It has to start, and has not yet.
    pub(super) starting: bool,
    /// The lag in records, as far as the end is known.
    pub(super) lag: Option<u64>,
    /// Records after these that nobody can read yet.
    pub(super) withheld: u64,
    /// The next offset to fetch, unless fetched records wait in vain to be taken.
    pub(super) fetched: Option<i64>,
    /// There are records, but their number is unknown; or none has come and it is unknown whether there are any.
    pub(super) some: bool,
    /// The first unfinished offset.
    pub(super) unfinished: Option<i64>,
    /// The offset from which it would be processed again.
    pub(super) committed: Option<i64>,
    /// The first unfinished offset is not committed.
    pub(super) uncommitted: bool,
    /// Transactions that this consumer has committed.
    pub(super) commits: u64,
    /// The next offset to admit.
    pub(super) position: Option<i64>,
    /// Nothing on our side keeps records from arriving.
    pub(super) free: bool,
}

/// The result of an observation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Watched {
    /// There is work, and no progress.
    pub(super) stalled: bool,
    /// It was not stalled at the observation before.
    pub(super) stalls_now: bool,
    /// There are records, nothing on our side holds them up, and none arrives.
    pub(super) fetches_nothing: bool,
}

#[derive(Debug)]
struct Watchdog {
    progress: Progress,
    intake: Progress,
    stalled: bool,
    /// The last known place.
    place: i64,
    /// The last known offset to fetch next.
    fetched: i64,
    /// The value of `fetched` when everything that may be read had last been fetched.
    ended: i64,
    /// When records were last seen to wait for a commit that has not come since.
    owed: Option<Instant>,
    /// The number of committed transactions when records were last seen to wait for a commit.
    commits: u64,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Watchdogs {
    stall_after: Duration,
    /// The interval between commits of transactions, if only these count as progress.
    interval: Option<Duration>,
    /// When the partitions were last observed.
    looked: Option<Instant>,
    by_partition: HashMap<Partition, Watchdog>,
}

impl Watchdogs {
    pub(super) fn new(stall_after: Duration, interval: Option<Duration>) -> Watchdogs {
        Watchdogs {
            stall_after,
            interval,
            looked: None,
            by_partition: HashMap::new(),
        }
    }

    /// Begins an observation of all partitions, each by [`Watchdogs::observe`].
    pub(super) fn look(&mut self, now: Instant) {
        let Some(last) = self.looked.replace(now) else { return };
        let gap = now.saturating_duration_since(last);
        let unseen = gap.saturating_sub(self.longest_gap());
        if unseen.is_zero() {
            return;
        }
        for watchdog in self.by_partition.values_mut() {
            watchdog.progress.unseen(unseen);
            watchdog.intake.unseen(unseen);
        }
    }

    /// Intake is held, so it is no sign of a broken consumer that nothing has arrived since the last observation. Call this before [`Watchdogs::look`],
    /// which handles what exceeds a usual gap.
    pub(super) fn intake_is_held(&mut self, now: Instant) {
        let gap = self
            .looked
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let held = gap.min(self.longest_gap());
        for watchdog in self.by_partition.values_mut() {
            watchdog.intake.unseen(held);
        }
    }

    fn longest_gap(&self) -> Duration {
        LONGEST_GAP.min(self.stall_after / 2)
    }

    pub(super) fn observe(&mut self, partition: Partition, seen: &Sight, now: Instant) -> Watched {
        let limit = self.stall_after.saturating_add(self.interval.unwrap_or_default());
        let watchdog = self.by_partition.entry(partition).or_insert_with(|| Watchdog {
            progress: Progress::new(limit),
            intake: Progress::new(self.stall_after),
            stalled: false,
            place: -1,
            fetched: -1,
            ended: -1,
            owed: None,
            commits: 0,
        });
        let place = if self.interval.is_some() {
            seen.committed
        } else {
            seen.unfinished
        };
        let place = place.unwrap_or(watchdog.place);
        if place != watchdog.place {
            watchdog.owed = None;
        }
        watchdog.place = place;
        if self.interval.is_some() && seen.uncommitted {
            watchdog.owed = Some(now);
        }
        watchdog.fetched = seen.fetched.unwrap_or(watchdog.fetched);
        // For a partition that leaves, nothing may be known any more.
        let Some(work) = seen.lag.max((seen.starting || seen.some).then_some(1)) else {
            return Watched {
                stalled: watchdog.stalled,
                ..Watched::default()
            };
        };
        // After an abort librdkafka's statistics are behind, and for a moment everything seems to be read.
        let owes = watchdog
            .owed
            .is_some_and(|last| now.saturating_duration_since(last) < LONGEST_GAP);
        // Records of aborted transactions are never delivered. If everything that may be read has been fetched, it is progress that they are passed.
        // This is added to the other progress and does not replace it: otherwise the sum would change whenever there seems to be more for a moment.
        if owes {
            // What finishes while a transaction is committed waits for the next one, which may take as long again.
            watchdog.commits = seen.commits;
        } else if work == 0 {
            watchdog.ended = watchdog.fetched;
        }
        let place = watchdog
            .place
            .wrapping_add(watchdog.ended)
            .wrapping_add_unsigned(watchdog.commits);
        let to_do = work.max(u64::from(owes)) + seen.withheld;
        let health = watchdog.progress.observe(to_do, place, now);
        let stalled = matches!(health, Health::Stalled(_));
        let was = std::mem::replace(&mut watchdog.stalled, stalled);
        let waiting = if seen.free { work } else { 0 };
        let place = seen.position.unwrap_or(-1).max(watchdog.fetched);
        let intake = watchdog.intake.observe(waiting, place, now);
        Watched {
            stalled,
            stalls_now: stalled && !was,
            fetches_nothing: matches!(intake, Health::Stalled(_)),
        }
    }

    /// Forgets the partitions that are not held any more.
    pub(super) fn keep(&mut self, held: impl Fn(Partition) -> bool) {
        self.by_partition.retain(|partition, _| held(*partition));
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics;

    use super::*;
    use crate::source::consumer_loop::tests::idle::{report, with_one_finished};

    const P: Partition = Partition { topic: 0, index: 0 };
    const LIMIT: Duration = Duration::from_secs(60);

    fn running(unfinished: i64, committed: i64) -> Sight {
        Sight {
            lag: Some(100),
            unfinished: Some(unfinished),
            committed: Some(committed),
            position: Some(unfinished + 5),
            ..Sight::default()
        }
    }

    const STARTING: Sight = Sight {
        starting: true,
        lag: None,
        withheld: 0,
        fetched: None,
        some: false,
        unfinished: None,
        committed: None,
        uncommitted: false,
        commits: 0,
        position: None,
        free: false,
    };

    /// The second in which the partition is first called stalled, if `sight` gives the observation of each second; `None` if not within ten minutes.
    fn stalls(interval: Option<Duration>, sight: impl Fn(u64) -> Sight) -> Option<u64> {
        let (mut dogs, start) = (Watchdogs::new(LIMIT, interval), Instant::now());
        let mut seen = (0..600).map(|second| {
            let watched = dogs.observe(P, &sight(second), start + Duration::from_secs(second));
            assert!(watched.stalled || !watched.stalls_now);
            (second, watched)
        });
        let first = seen.find(|(_, watched)| watched.stalled)?;
        assert!(first.1.stalls_now);
        Some(first.0)
    }

    #[test]
    fn transactions_that_are_aborted_again_and_again_are_a_stall() {
        // Each transaction is aborted after 45 s; until then some more records have finished.
        let aborted = |second: u64| match second % 45 {
            0 => STARTING,
            1 => running(1000, 1000),
            _ => running(1050, 1000),
        };
        assert_eq!(stalls(Some(Duration::from_secs(1)), aborted), Some(62));
        let committed = |second: u64| running(1000 + second as i64, 1000 + second as i64 / 30 * 30);
        assert_eq!(stalls(Some(Duration::from_secs(1)), committed), None);
    }

    /// Everything has been read and has finished.
    fn read_to_the_end(unfinished: i64, committed: i64) -> Sight {
        Sight {
            lag: Some(0),
            uncommitted: committed < unfinished,
            fetched: Some(unfinished),
            free: true,
            ..running(unfinished, committed)
        }
    }

    #[test]
    fn what_finishes_behind_a_commit_waits_for_the_next_one_and_that_is_no_stall() {
        // In flight for 40 s, finished for 40 s, and then committed.
        let slow = |second: u64| {
            let (round, at) = (second as i64 / 80, second % 80);
            Sight {
                lag: Some(u64::from(at < 40)),
                commits: second / 40,
                ..read_to_the_end(7 + round + i64::from(at >= 40), 7 + round)
            }
        };
        assert_eq!(stalls(Some(Duration::from_millis(500)), slow), None);
        // More comes all the time, and this is the first of it: it belongs to the next transaction, and each commit takes 45 s.
        let steady = |second: u64| {
            let finished = 7 + second as i64;
            Sight {
                commits: second / 45,
                uncommitted: true,
                ..running(finished, if second < 90 { 7 } else { finished / 45 * 45 })
            }
        };
        assert_eq!(stalls(Some(Duration::from_millis(500)), steady), None);
    }

    #[test]
    fn what_has_finished_and_is_not_committed_is_a_stall_of_transactions_and_no_broken_consumer() {
        let interval = Some(Duration::from_secs(1));
        // Its commit is not answered, or every commit fails while a record comes now and then.
        assert_eq!(stalls(interval, |_| read_to_the_end(9, 7)), Some(61));
        let slow = |second: u64| read_to_the_end(9 + second as i64 / 10, 7);
        assert_eq!(stalls(interval, slow), Some(61));
        // Without transactions readers see finished records anyway, and alerts report commits that fail.
        assert_eq!(stalls(None, |_| read_to_the_end(9, 7)), None);
        let committed = |second: u64| read_to_the_end(9 + second as i64, 7 + second as i64 / 30 * 30);
        assert_eq!(stalls(interval, committed), None);
        let (mut dogs, start) = (Watchdogs::new(LIMIT, interval), Instant::now());
        for second in 0..600 {
            let watched = dogs.observe(P, &read_to_the_end(9, 7), start + Duration::from_secs(second));
            assert!(!watched.fetches_nothing);
        }
    }

    /// What was thrown away has not been delivered again yet, and librdkafka reports that everything has been read.
    #[test]
    fn commits_that_fail_one_after_the_other_are_a_stall() {
        let interval = Some(Duration::from_secs(1));
        let aborted = |second: u64| match second % 3 {
            0 => STARTING,
            1 => read_to_the_end(7, 7),
            _ => read_to_the_end(9, 7),
        };
        // Counts from the first record that waits for a commit.
        assert_eq!(stalls(interval, aborted), Some(63));
        // It is never delivered again, because retention has deleted it.
        let vanishes = |second: u64| read_to_the_end(if second < 30 { 9 } else { 7 }, 7);
        assert_eq!(stalls(interval, vanishes), None);
    }

    /// The end is after what can be committed, and moves with each marker.
    #[test]
    fn markers_behind_the_last_record_are_no_stall() {
        let markers = |second: u64| Sight {
            fetched: Some(9 + second as i64 / 20),
            ..read_to_the_end(7, 7)
        };
        assert_eq!(stalls(Some(Duration::from_secs(1)), markers), None);
    }

    #[test]
    fn a_partition_that_never_starts_is_a_stall() {
        assert_eq!(stalls(None, |_| STARTING), Some(60));
        // A partition that had made progress starts again.
        let anew = |second| {
            if second < 100 {
                running(second as i64, 0)
            } else {
                STARTING
            }
        };
        assert_eq!(stalls(None, anew), Some(159));
        let soon = |second| {
            if second % 50 < 10 {
                STARTING
            } else {
                running(second as i64, 0)
            }
        };
        assert_eq!(stalls(None, soon), None);
    }

    #[test]
    fn a_first_record_that_never_arrives_is_noticed() {
        let first = Sight {
            some: true,
            free: true,
            ..Sight::default()
        };
        assert_eq!(stalls(None, |_| first), Some(60));
        let (mut dogs, start) = (Watchdogs::new(LIMIT, None), Instant::now());
        assert!(!dogs.observe(P, &first, start).fetches_nothing);
        assert!(dogs.observe(P, &first, start + LIMIT).fetches_nothing);
        let held = Sight { free: false, ..first };
        assert!(!dogs.observe(P, &held, start + LIMIT).fetches_nothing);
        // Nothing is known, so nothing is reported.
        assert_eq!(stalls(None, |_| Sight::default()), None);
        assert_eq!(
            stalls(None, |_| Sight {
                lag: Some(0),
                ..Sight::default()
            }),
            None
        );
    }

    #[test]
    fn one_that_has_nothing_is_no_stall_however_often_it_seemed_to() {
        // What waits in the consumer's queue belongs to another partition.
        let seemed = |second: u64| Sight {
            lag: (!second.is_multiple_of(50)).then_some(0),
            some: second.is_multiple_of(50),
            free: true,
            ..Sight::default()
        };
        let (mut dogs, start) = (Watchdogs::new(LIMIT, None), Instant::now());
        for second in 0..600 {
            let watched = dogs.observe(P, &seemed(second), start + Duration::from_secs(second));
            assert_eq!(watched, Watched::default(), "{second}");
        }
        // It could not start for long, and then has no records.
        let (late, end) = (start + LIMIT * 20, start + LIMIT * 21);
        dogs.observe(P, &STARTING, late);
        assert!(dogs.observe(P, &STARTING, end).stalls_now);
        assert_eq!(dogs.observe(P, &seemed(1), end), Watched::default());
    }

    #[test]
    fn at_its_end_and_no_more_answers_is_a_stall() {
        let unanswered = |_| Sight {
            lag: Some(0),
            some: true,
            unfinished: Some(7),
            ..Sight::default()
        };
        assert_eq!(stalls(None, unanswered), Some(60));
    }

    /// Records that nobody may read, such as those of aborted transactions, are fetched but not delivered.
    #[test]
    fn a_consumer_that_fetches_on_is_not_broken() {
        let sight = |fetched: Option<i64>| Sight {
            free: true,
            position: Some(7),
            fetched,
            ..running(7, 7)
        };
        let (mut dogs, start) = (Watchdogs::new(LIMIT, None), Instant::now());
        let mut broken = |second: u64, fetched| {
            let now = start + Duration::from_secs(second);
            dogs.observe(P, &sight(fetched), now).fetches_nothing
        };
        for second in 0..600 {
            assert!(!broken(second, Some(100 + second as i64)), "{second}");
        }
        // Now nothing that it fetches is delivered, neither of this partition nor of others.
        assert!((600..659).all(|second| !broken(second, None)));
        assert!(broken(659, None));
        let (mut dogs, start) = (Watchdogs::new(LIMIT, None), Instant::now());
        let stands = |second: u64| second.is_multiple_of(2).then_some(700);
        let first = (0..600).find(|second| {
            let now = start + Duration::from_secs(*second);
            dogs.observe(P, &sight(stands(*second)), now).fetches_nothing
        });
        assert_eq!(first, Some(60), "it stands, too");
    }

    #[test]
    fn what_an_open_transaction_withholds_is_a_stall_and_no_broken_consumer() {
        let withheld = |unfinished: i64| Sight {
            lag: Some(0),
            withheld: 3,
            unfinished: Some(unfinished),
            position: Some(unfinished),
            fetched: Some(unfinished),
            free: true,
            ..Sight::default()
        };
        assert_eq!(stalls(None, |_| withheld(7)), Some(60));
        // One transaction after the other, and always one that is open.
        assert_eq!(stalls(None, |second| withheld(second as i64 / 30)), None);
        let (mut dogs, start) = (Watchdogs::new(LIMIT, None), Instant::now());
        for second in 0..600 {
            let watched = dogs.observe(P, &withheld(7), start + Duration::from_secs(second));
            assert!(!watched.fetches_nothing);
        }
        // One transaction after another is aborted, so nothing is delivered.
        let aborted = |second: u64| Sight {
            fetched: Some(second as i64 / 30),
            ..withheld(7)
        };
        assert_eq!(stalls(None, aborted), None);
        // At times there seems to be one more record, because the consumer's queue has records of other partitions.
        let seems = |second: u64| Sight {
            lag: Some(u64::from(second.is_multiple_of(7))),
            fetched: Some(8),
            ..withheld(7)
        };
        assert_eq!(stalls(None, seems), Some(61));
        // The records before the open transaction can be read.
        let behind = Sight {
            lag: Some(2),
            ..withheld(5)
        };
        dogs.observe(P, &behind, start + LIMIT * 10);
        assert!(dogs.observe(P, &behind, start + LIMIT * 11).fetches_nothing);
    }

    #[test]
    fn a_process_that_was_stopped_has_seen_no_stall() {
        let free = Sight {
            free: true,
            ..running(7, 0)
        };
        let (mut dogs, start) = (Watchdogs::new(LIMIT, None), Instant::now());
        let mut seen = |seconds: f64| {
            let now = start + Duration::from_secs_f64(seconds);
            dogs.look(now);
            dogs.observe(P, &free, now)
        };
        for seconds in [0.0, 0.25, 300.25] {
            assert_eq!(seen(seconds), Watched::default(), "{seconds}");
        }
        let first = (1..600_u32).find(|looks| {
            let watched = seen(300.25 + f64::from(*looks) / 4.0);
            assert_eq!(watched.stalled, watched.fetches_nothing);
            watched.stalled
        });
        // The gap counts as five seconds.
        assert_eq!(first, Some(219));
    }

    #[test]
    fn a_loop_that_is_held_up_again_and_again_sees_a_stall() {
        let (mut dogs, start) = (Watchdogs::new(LIMIT, None), Instant::now());
        let first = (0..600).find(|round| {
            let now = start + Duration::from_secs(20) * *round;
            dogs.look(now);
            dogs.observe(P, &running(7, 0), now).stalled
        });
        assert_eq!(first, Some(12));
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let (mut dogs, start) = (Watchdogs::new(LIMIT, None), Instant::now());
        dogs.observe(P, &running(7, 0), start);
        dogs.keep(|partition| partition == P);
        assert!(dogs.observe(P, &running(7, 0), start + LIMIT).stalled);
        dogs.keep(|_| false);
        assert!(!dogs.observe(P, &running(7, 0), start + LIMIT).stalled);
    }

    #[test]
    fn half_of_the_time_is_no_part_of_the_wait_where_intake_is_held_for_so_long() {
        let free = Sight {
            free: true,
            ..running(7, 0)
        };
        let (mut dogs, start) = (Watchdogs::new(LIMIT, None), Instant::now());
        let mut seen = (0..600_u32).map(|looks| {
            let now = start + Duration::from_millis(250) * looks;
            if looks.is_multiple_of(2) {
                dogs.intake_is_held(now);
            }
            dogs.look(now);
            (looks, dogs.observe(P, &free, now))
        });
        let first = seen.find(|(_, watched)| watched.stalled);
        assert!(first.is_some_and(|(looks, watched)| looks == 240 && !watched.fetches_nothing));
        let first = seen.find(|(_, watched)| watched.fetches_nothing);
        assert_eq!(first.map(|(looks, _)| looks), Some(479));
    }

    #[tokio::test]
    async fn a_consumer_is_not_broken_because_intake_is_held() {
        let mut this = with_one_finished().await;
        this.watchdogs = Watchdogs::new(Duration::from_millis(200), None);
        let broker = statistics::Broker {
            state: "UP".to_owned(),
            ..statistics::Broker::default()
        };
        // The next record is in the log, but does not arrive.
        let partition = statistics::Partition {
            ls_offset: 50,
            hi_offset: 50,
            next_offset: 1,
            ..statistics::Partition::default()
        };
        report(&this, partition, Some(broker));
        this.hold_until = Some(Instant::now() + LIMIT);
        for _ in 0..10 {
            assert_eq!(this.publish_status("running"), None);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        this.hold_until = None;
        let began = Instant::now();
        while this.publish_status("running").is_none() {
            assert!(began.elapsed() < LIMIT, "it is never called broken");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
