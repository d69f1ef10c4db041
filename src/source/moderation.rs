//! Limits how often the thread of a busy consumer loop is woken.
//!
//! Loops and the requests of their events share a thread. A slow database answers requests one by one, and each answer would wake the thread; at some
//! thousand records a second the wake-ups, partly in the kernel, cost more than the work. So a thread that is woken often rests before it polls, and
//! then handles together what has arrived, like the interrupt moderation of network cards. docs/benchmarks.md shows the effect. If wake-ups are few
//! enough to be cheap, nothing waits for a rest. A rest is always short compared to a record's latency, because a rate that is bounded by the records
//! in flight is their number divided by the latency (Little's law), and would fall.
//!
//! Invariant: a thread rests only if it was woken `OFTEN` times within `WITHIN`, no longer ago than `FOR` and a rest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;

/// A rest takes this fraction of a record's latency, and no longer than [`LONGEST`].
const PART: u32 = 32;
const LONGEST: Duration = Duration::from_micros(500);
/// Shorter rests are left out: the kernel takes about as long to wake a sleeping thread.
const SHORTEST: Duration = Duration::from_micros(50);

/// This many wake-ups within [`WITHIN`] count as often: 8,000 a second, some 5 % of a core.
const OFTEN: u32 = 64;
const WITHIN: Duration = Duration::from_millis(8);

/// How long the thread rests before wake-ups are counted again, which alone shows how many there would be without rests.
const FOR: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
enum Moderation {
    Counting { since: Instant, wakes: u32 },
    Resting { until: Instant },
}

impl Moderation {
    /// The next call of [`Moderation::rests`] is the first that is counted.
    fn new(now: Instant) -> Moderation {
        Moderation::Resting { until: now }
    }

    /// The thread has nothing to do at `now`; returns whether it should rest before it waits.
    fn rests(&mut self, now: Instant) -> bool {
        *self = match *self {
            Moderation::Counting { since, wakes } if wakes < OFTEN => Moderation::Counting {
                since,
                wakes: wakes + 1,
            },
            Moderation::Counting { since, .. } if now.duration_since(since) <= WITHIN => {
                Moderation::Resting { until: now + FOR }
            }
            Moderation::Resting { until } if now < until => *self,
            Moderation::Counting { .. } | Moderation::Resting { .. } => Moderation::Counting { since: now, wakes: 1 },
        };
        matches!(self, Moderation::Resting { .. })
    }
}

/// How long a thread rests at a time: the shortest rest that suits one of its loops with records. Not at all if no loop has records.
#[derive(Debug, Default)]
pub struct Rests {
    least: AtomicU64,
    /// The rest that suits each loop, in microseconds.
    loops: Mutex<HashMap<u64, u64>>,
}

impl Rests {
    fn get(&self) -> Option<Duration> {
        Some(Duration::from_micros(self.least.load(Ordering::Relaxed))).filter(|rest| *rest >= SHORTEST)
    }

    fn change(&self, with: impl FnOnce(&mut HashMap<u64, u64>)) {
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        with(&mut loops);
        let least = loops.values().copied().min().unwrap_or(0);
        self.least.store(least, Ordering::Relaxed);
    }
}

/// One loop's share in the rests of its thread.
#[derive(Debug, Default)]
pub struct Rest {
    thread: Arc<Rests>,
    number: u64,
}

impl Rest {
    /// For the loop with this number, which is unique on the thread.
    pub fn new(thread: Arc<Rests>, number: u64) -> Rest {
        Rest { thread, number }
    }

    /// Sets how long a record takes now, from its admission to its end; `None` if no record came.
    pub fn follow(&self, record: Option<Duration>) {
        self.thread.change(|loops| match record {
            Some(record) => {
                let rest = (record / PART).min(LONGEST);
                loops.insert(self.number, rest.as_micros() as u64);
            }
            None => {
                loops.remove(&self.number);
            }
        });
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.follow(None);
    }
}

/// Moderates the wake-ups of the current-thread runtime that this builds.
pub fn moderate(runtime: &mut Builder, rest: Arc<Rests>) -> &mut Builder {
    moderate_with(runtime, rest, std::thread::sleep)
}

fn moderate_with(
    runtime: &mut Builder,
    rest: Arc<Rests>,
    sleep: impl Fn(Duration) + Send + Sync + 'static,
) -> &mut Builder {
    let moderation = Mutex::new(Moderation::new(Instant::now()));
    runtime.on_thread_park(move || {
        let Some(rest) = rest.get() else {
            return;
        };
        let rests = {
            let mut moderation = moderation.lock().unwrap_or_else(PoisonError::into_inner);
            moderation.rests(Instant::now())
        };
        if rests {
            sleep(rest);
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;

    use super::*;

    /// Each time at which the thread has nothing to do, and whether it rests then; a rest takes its time.
    fn run(gaps: impl IntoIterator<Item = u64>) -> Vec<(Instant, bool)> {
        let mut now = Instant::now();
        let mut moderation = Moderation::new(now);
        let step = |gap| {
            now += Duration::from_micros(gap);
            let seen = (now, moderation.rests(now));
            if seen.1 {
                now += LONGEST;
            }
            seen
        };
        gaps.into_iter().map(step).collect()
    }

    #[test]
    fn who_is_woken_seldom_never_rests() {
        let every = WITHIN.as_micros() as u64 / u64::from(OFTEN) + 1;
        assert!(run(vec![every; 10_000]).iter().all(|(_, rests)| !rests));
    }

    #[test]
    fn who_is_woken_often_rests_nearly_always_and_stops_when_it_is_quiet() {
        let busy = run(vec![20; 10_000]);
        let rested = busy.iter().filter(|(_, rests)| *rests).count();
        // 192 rests in 100 ms, then 64 wake-ups that are counted.
        assert!(rested > 10_000 * 70 / 100, "{rested}");
        let quiet = run([vec![20; 65], vec![FOR.as_micros() as u64], vec![1000; 1000]].concat());
        assert!(quiet[64].1);
        assert!(quiet[65..].iter().all(|(_, rests)| !rests));
    }

    #[test]
    fn a_rest_is_short_beside_a_record_and_never_long() {
        let thread = Arc::new(Rests::default());
        let rest = Rest::new(thread.clone(), 0);
        let mut of = |us| {
            rest.follow(Some(Duration::from_micros(us)));
            thread.get().map_or(0, |rest| rest.as_micros())
        };
        assert_eq!(
            [0, 300, 1_500, 1_600, 6_400, 16_000, 60_000_000].map(&mut of),
            [0, 0, 0, 50, 200, 500, 500]
        );
        assert_eq!(Rests::default().get(), None);
    }

    #[test]
    fn a_thread_rests_as_suits_all_of_its_loops_that_have_records() {
        let thread = Arc::new(Rests::default());
        let [fast, slow] = [0, 1].map(|number| Rest::new(thread.clone(), number));
        let get = || thread.get().map_or(0, |rest| rest.as_micros());
        slow.follow(Some(Duration::from_millis(12)));
        assert_eq!(get(), 375);
        fast.follow(Some(Duration::from_millis(8)));
        assert_eq!(get(), 250);
        fast.follow(Some(Duration::from_millis(1)));
        assert_eq!(get(), 0, "too short to be one");
        fast.follow(None);
        assert_eq!(get(), 375, "no record has come to it");
        fast.follow(Some(Duration::from_millis(1)));
        drop(fast);
        assert_eq!(get(), 375, "it has ended");
        drop(slow);
        assert_eq!(get(), 0);
    }

    proptest! {
        #[test]
        fn a_rest_has_its_reason(gaps in prop::collection::vec(prop_oneof![0..50u64, 0..300u64, 0..200_000u64], 0..2000)) {
            let seen = run(gaps);
            for (i, (now, _)) in seen.iter().enumerate().filter(|(_, (_, rests))| *rests) {
                let reason = (0..=i).rev().take_while(|j| *now - seen[*j].0 <= FOR).any(|j| {
                    j >= OFTEN as usize && seen[j].0 - seen[j - OFTEN as usize].0 <= WITHIN
                });
                prop_assert!(reason);
            }
        }
    }

    /// Relies on the runtime to call the hook whenever its thread has nothing to do.
    #[test]
    fn a_runtime_whose_thread_is_woken_often_rests() {
        let rests = Arc::new(AtomicUsize::new(0));
        let count = rests.clone();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let rests_of_thread = Arc::new(Rests::default());
        let rest = Rest::new(rests_of_thread.clone(), 0);
        rest.follow(Some(Duration::from_millis(8)));
        let runtime = moderate_with(&mut builder, rests_of_thread, move |rest| {
            assert_eq!(rest, Duration::from_micros(250));
            count.fetch_add(1, Ordering::Relaxed);
        });
        let (there, mut asked) = tokio::sync::mpsc::unbounded_channel::<()>();
        let (back, answered) = std::sync::mpsc::channel::<()>();
        let peer = std::thread::spawn(move || while there.send(()).is_ok() && answered.recv().is_ok() {});
        let deadline = Instant::now() + Duration::from_secs(60);
        runtime.build().unwrap().block_on(async move {
            while rests.load(Ordering::Relaxed) == 0 && Instant::now() < deadline {
                asked.recv().await.unwrap();
                back.send(()).unwrap();
            }
            assert!(rests.load(Ordering::Relaxed) > 0);
        });
        peer.join().unwrap();
    }
}
