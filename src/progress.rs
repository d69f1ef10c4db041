//! The stall watchdog of one partition: lag without progress for too long is a stall.
//!
//! A consumer can be alive, in its group and polling, and still make no progress: a record that never finishes, a paused partition that nothing
//! resumes, a fetcher that lost its leader. No single part notices that; the position, observed from outside, does.
//!
//! Invariants: no stall without lag; a position that changes, up or down, restarts the wait; a stall is reported at every observation until it ends;
//! time without observations does not count.

use std::time::{Duration, Instant};

/// What an observation showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The position moves, there is no lag, or it has not stood still for long enough.
    Moving,
    /// There is lag and the position has not changed for this long.
    Stalled(Duration),
}

/// Watches one partition.
#[derive(Debug, Clone)]
pub struct Progress {
    limit: Duration,
    /// The position that does not move although there is lag, and when that was first seen.
    standing: Option<(i64, Instant)>,
}

impl Progress {
    /// A watchdog that reports a stall after `limit`.
    pub fn new(limit: Duration) -> Progress {
        Progress { limit, standing: None }
    }

    /// Takes in an observation: `lag` in records behind the end of the partition, `position` the first unfinished offset.
    pub fn observe(&mut self, lag: u64, position: i64, now: Instant) -> Health {
        if lag == 0 {
            self.standing = None;
            return Health::Moving;
        }
        match self.standing {
            Some((standing, since)) if standing == position => {
                let stood = now.saturating_duration_since(since);
                if stood >= self.limit {
                    Health::Stalled(stood)
                } else {
                    Health::Moving
                }
            }
            _ => {
                self.standing = Some((position, now));
                Health::Moving
            }
        }
    }

    /// Excludes `time` before the next observation: the whole process was stopped, so nothing could progress and nothing was observed.
    pub fn unseen(&mut self, time: Duration) {
        if let Some((_, since)) = &mut self.standing {
            *since += time;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn lag_without_progress_is_a_stall_until_it_moves() {
        let mut progress = Progress::new(LIMIT);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(progress.observe(5, 10, at(0)), Health::Moving);
        assert_eq!(progress.observe(900, 10, at(29)), Health::Moving);
        assert_eq!(progress.observe(900, 10, at(30)), Health::Stalled(LIMIT));
        assert_eq!(
            progress.observe(900, 10, at(40)),
            Health::Stalled(Duration::from_secs(40))
        );
        assert_eq!(progress.observe(900, 11, at(41)), Health::Moving);
        assert_eq!(progress.observe(900, 11, at(70)), Health::Moving);
        assert_eq!(progress.observe(0, 11, at(71)), Health::Moving);
        assert_eq!(
            progress.observe(1, 11, at(100)),
            Health::Moving,
            "idle time is not standing still"
        );
        assert_eq!(progress.observe(1, 11, at(130)), Health::Stalled(LIMIT));
        assert_eq!(
            progress.observe(1, 3, at(131)),
            Health::Moving,
            "a rewind is a movement"
        );
    }

    #[test]
    fn what_nobody_looked_at_is_no_standing() {
        let mut progress = Progress::new(LIMIT);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        progress.unseen(LIMIT);
        assert_eq!(progress.observe(5, 10, at(0)), Health::Moving);
        assert_eq!(progress.observe(5, 10, at(10)), Health::Moving);
        progress.unseen(Duration::from_secs(300));
        assert_eq!(progress.observe(5, 10, at(310)), Health::Moving);
        assert_eq!(progress.observe(5, 10, at(329)), Health::Moving);
        assert_eq!(progress.observe(5, 10, at(330)), Health::Stalled(LIMIT));
    }

    proptest! {
        #[test]
        fn stalled_exactly_when_the_history_says_so(
            steps in prop::collection::vec((0..3u64, 0..3i64, 0..20u64), 1..60),
        ) {
            let start = Instant::now();
            let mut progress = Progress::new(LIMIT);
            let mut history: Vec<(u64, i64, Instant)> = Vec::new();
            let mut now = start;
            for (lag, position, seconds) in steps {
                now += Duration::from_secs(seconds);
                history.push((lag, position, now));
                let same = history.iter().rev().take_while(|(l, p, _)| *l > 0 && *p == position).last();
                let stood = same.map_or(Duration::ZERO, |(_, _, since)| now - *since);
                let expected = if stood >= LIMIT { Health::Stalled(stood) } else { Health::Moving };
                prop_assert_eq!(progress.observe(lag, position, now), expected);
            }
        }
    }
}
