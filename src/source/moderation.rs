//! How often the thread of a busy consumer loop is woken.
//!
//! A loop and the requests of its events share one thread. A database that takes its time answers them one by one, and each answer would wake the thread:
//! at some thousand records a second wake-ups cost more than the work, since the kernel has its part in each. So a thread that is woken often rests before
//! it looks, and then finds together what has come meanwhile, as network cards do it with their interrupts. docs/benchmarks.md has what it gives. Where
//! wake-ups are few enough to be cheap nothing waits for a rest.
//!
//! Invariant: who rests was woken `OFTEN` times within `WITHIN`, and that is no longer ago than `FOR` and a rest.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;

/// What an answer may wait for, at most, before it is looked at.
const REST: Duration = Duration::from_micros(500);

/// So many wake-ups within [`WITHIN`] are often: 8,000 a second, some 5 % of a core.
const OFTEN: u32 = 64;
const WITHIN: Duration = Duration::from_millis(8);

/// How long is rested before wake-ups are counted anew, for nothing else tells how many there would be.
const FOR: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
enum Moderation {
    Counting { since: Option<Instant>, wakes: u32 },
    Resting { until: Instant },
}

impl Moderation {
    const fn new() -> Moderation {
        Moderation::Counting { since: None, wakes: 0 }
    }

    /// The thread has nothing to do at this time: whether it should rest before it waits.
    fn rests(&mut self, now: Instant) -> bool {
        match self {
            Moderation::Counting { since, wakes } => {
                let began = *since.get_or_insert(now);
                if *wakes < OFTEN {
                    *wakes += 1;
                    return false;
                }
                if now.duration_since(began) > WITHIN {
                    (*since, *wakes) = (Some(now), 1);
                    return false;
                }
                *self = Moderation::Resting { until: now + FOR };
                true
            }
            Moderation::Resting { until } if now < *until => true,
            Moderation::Resting { .. } => {
                *self = Moderation::Counting {
                    since: Some(now),
                    wakes: 1,
                };
                false
            }
        }
    }
}

/// Moderates the wake-ups of the current-thread runtime that this builds.
pub fn moderate(runtime: &mut Builder) -> &mut Builder {
    moderate_with(runtime, || std::thread::sleep(REST))
}

fn moderate_with(runtime: &mut Builder, rest: impl Fn() + Send + Sync + 'static) -> &mut Builder {
    let moderation = Mutex::new(Moderation::new());
    runtime.on_thread_park(move || {
        let rests = {
            let mut moderation = moderation.lock().unwrap_or_else(PoisonError::into_inner);
            moderation.rests(Instant::now())
        };
        if rests {
            rest();
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    /// When the thread has nothing to do, and whether it rests then; a rest takes its time.
    fn run(gaps: impl IntoIterator<Item = u64>) -> Vec<(Instant, bool)> {
        let (mut now, mut moderation) = (Instant::now(), Moderation::new());
        let step = |gap| {
            now += Duration::from_micros(gap);
            let seen = (now, moderation.rests(now));
            if seen.1 {
                now += REST;
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
        // 192 rests of 100 ms, then 64 wake-ups that are counted.
        assert!(rested > 10_000 * 70 / 100, "{rested}");
        let quiet = run([vec![20; 65], vec![FOR.as_micros() as u64], vec![1000; 1000]].concat());
        assert!(quiet[64].1);
        assert!(quiet[65..].iter().all(|(_, rests)| !rests));
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

    /// What it relies on the runtime for: asked whenever its thread has nothing to do.
    #[test]
    fn a_runtime_whose_thread_is_woken_often_rests() {
        let rests = Arc::new(AtomicUsize::new(0));
        let count = rests.clone();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = moderate_with(&mut builder, move || {
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
