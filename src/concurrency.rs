//! `max_in_flight = "auto"`: derives how many events a consumer works on at a time from the latency of its store.
//!
//! A fixed number is too small for a distant database or too large for a busy one: beyond what a database can work on concurrently, more requests
//! only wait in its queues. The rule is the gradient limiter of Netflix's concurrency-limits (<https://github.com/Netflix/concurrency-limits>,
//! `GradientLimit`): `limit ← limit × gradient + √limit`, with `gradient = min(1, 2 × best latency / latency)`, at least 1/2. It settles where about
//! half of the latency is queueing.
//!
//! It differs in two ways. Latency is compared step by step, so that a changed mix of steps is not a changed latency. And the best latency does not
//! expire, which would let the limit creep up under a standing queue. It is raised only when half of the load did not reduce the latency, because
//! then we are not the cause, and giving way helps nobody.
//!
//! Pure. Invariants: the limit stays between its bounds; it grows only while it is used up; failures cut it.

use crate::config::Pipeline;

/// An interval with fewer answers than this is merged with the next.
const ENOUGH: u64 = 20;
/// Ratio of latency to the best latency up to which our own load is not blamed.
const TOLERANCE: f64 = 2.0;
/// Factor by which failures reduce the limit.
const CUT: f64 = 0.7;
/// Intervals between two cuts, and intervals at the lower bound after which the best latency is measured anew.
const PATIENCE: u32 = 4;
/// One failure in this many answers causes a cut.
const FAILURES: u64 = 20;
/// The initial limit, clamped to its bounds.
const BEGIN: usize = 128;

/// Number and duration of one step's answers since the last observation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answers {
    /// Number of answers.
    pub count: u64,
    /// Sum of their latencies, in seconds.
    pub seconds: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Step {
    pending: Answers,
    /// Best mean latency in seconds; `None` until it is known.
    best: Option<f64>,
}

/// The limit of one consumer.
#[derive(Debug, Clone)]
pub struct Concurrency {
    min: f64,
    max: f64,
    limit: f64,
    steps: Vec<Step>,
    failures: u64,
    /// Since the limit began to shrink: the most events in flight, and the highest ratio of latency to the best latency.
    shrinking: Option<(usize, f64)>,
    at_floor: u32,
    since_cut: u32,
}

impl Concurrency {
    /// A limit between `min` and `max` for a pipeline of `steps` steps; of none, if none of its steps asks a service. No answer will then ever move the
    /// limit, and there is no service to spare, so it is that of a pipeline that declares none.
    pub fn new(min: usize, max: usize, steps: usize) -> Concurrency {
        let min = min.max(1);
        let max = max.max(min);
        let begin = if steps == 0 { Pipeline::MAX_IN_FLIGHT } else { BEGIN };
        Concurrency {
            min: min as f64,
            max: max as f64,
            limit: begin.clamp(min, max) as f64,
            steps: vec![Step::default(); steps],
            failures: 0,
            shrinking: None,
            at_floor: 0,
            since_cut: PATIENCE,
        }
    }

    /// The limit now.
    pub fn limit(&self) -> usize {
        self.limit.round() as usize
    }

    /// The upper bound.
    pub fn max(&self) -> usize {
        self.max as usize
    }

    /// Takes in one interval: the answers of each step, the number of attempts that failed with a transient error, and the events in flight. Returns
    /// the new limit.
    pub fn observe(&mut self, answers: &[Answers], failures: u64, in_flight: usize) -> usize {
        for (step, new) in self.steps.iter_mut().zip(answers) {
            step.pending.count += new.count;
            step.pending.seconds += new.seconds;
        }
        self.failures += failures;
        let count: u64 = self.steps.iter().map(|step| step.pending.count).sum();
        self.since_cut = self.since_cut.saturating_add(1);
        if self.failures > 0 && self.failures * FAILURES >= count {
            if self.since_cut > PATIENCE {
                self.since_cut = 0;
                self.set(self.limit * CUT);
            }
            self.forget();
        } else if count >= ENOUGH {
            self.follow(count, in_flight);
            self.forget();
        }
        self.limit()
    }

    fn forget(&mut self) {
        self.failures = 0;
        self.steps.iter_mut().for_each(|step| step.pending = Answers::default());
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(self.min, self.max);
    }

    fn follow(&mut self, count: u64, in_flight: usize) {
        let mut ratio = 0.0;
        for step in &mut self.steps {
            let Some(mean) = step.mean() else { continue };
            let best = *step.best.get_or_insert(mean);
            if mean < best {
                // One lucky interval is not yet a better database.
                step.best = Some(best + (mean - best) * 0.2);
            }
            ratio += step.pending.count as f64 / count as f64 * (mean / best).max(0.1);
        }
        let gradient = (TOLERANCE / ratio).clamp(0.5, 1.0);
        let target = self.limit * gradient + self.limit.sqrt();
        if target > self.limit {
            self.shrinking = None;
            self.at_floor = 0;
            if in_flight as f64 * 2.0 >= self.limit {
                self.set(target);
            }
            return;
        }
        let (load, before) = self.shrinking.unwrap_or_default();
        let (load, before) = (load.max(in_flight), before.max(ratio));
        self.shrinking = Some((load, before));
        self.set((self.limit + target) / 2.0);
        self.at_floor = if self.limit <= self.min { self.at_floor + 1 } else { 0 };
        if in_flight * 2 <= load || self.at_floor > PATIENCE {
            if ratio > 0.8 * before || self.at_floor > PATIENCE {
                for step in &mut self.steps {
                    step.best = step.mean().or(step.best);
                }
            }
            self.shrinking = None;
            self.at_floor = 0;
        }
    }
}

impl Step {
    fn mean(&self) -> Option<f64> {
        let mean = self.pending.seconds / self.pending.count as f64;
        // `None` without an answer, or if the clock stood still.
        (self.pending.count > 0 && mean > 0.0).then_some(mean)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: std::time::Duration = std::time::Duration::from_millis(250);

    /// A database that works on `capacity` requests at a time; the others wait in its queue.
    struct Database {
        base: f64,
        capacity: f64,
    }

    impl Database {
        fn latency(&self, in_flight: f64) -> f64 {
            self.base * (in_flight / self.capacity).max(1.0)
        }

        /// Runs a saturated pipeline for this many intervals. Returns, for each, the limit and the share of the possible throughput.
        fn run(&self, limit: &mut Concurrency, intervals: usize) -> Vec<(usize, f64)> {
            let mut in_flight = limit.limit() as f64;
            (0..intervals)
                .map(|_| {
                    let latency = self.latency(in_flight);
                    let count = (in_flight / latency * INTERVAL.as_secs_f64()) as u64;
                    let answers = Answers {
                        count,
                        seconds: count as f64 * latency,
                    };
                    in_flight = limit.observe(&[answers], 0, in_flight as usize) as f64;
                    (limit.limit(), in_flight.min(self.capacity) / self.capacity)
                })
                .collect()
        }
    }

    proptest! {
        #[test]
        fn between_its_bounds_whatever_it_sees(
            min in 0..50usize,
            more in 0..5000usize,
            seen in prop::collection::vec((0..5000u64, 0.0..100.0f64, 0..3000u64, 0..10_000usize), 1..200),
        ) {
            let mut limit = Concurrency::new(min, min + more, 2);
            for (count, seconds, failures, in_flight) in seen {
                let before = limit.limit();
                let now = limit.observe(&[Answers { count, seconds }, Answers::default()], failures, in_flight);
                prop_assert!(now >= min.max(1) && now <= (min + more).max(1));
                prop_assert!(now <= before || in_flight * 2 + 1 >= before, "it is not used up, and grows");
            }
        }

        #[test]
        fn settles_near_what_the_database_can_work_on(
            base in 0.000_5..0.05f64,
            capacity in 20..800usize,
        ) {
            let database = Database { base, capacity: capacity as f64 };
            let mut limit = Concurrency::new(4, 8192, 1);
            // The initial limit is arbitrary, so the best latency measured there has to be corrected, too.
            let end = database.run(&mut limit, 600);
            let (last, _) = end[599];
            let used: f64 = end[300..].iter().map(|(_, used)| used).sum::<f64>() / 300.0;
            let most = (3 * capacity).max(3 * BEGIN);
            prop_assert!(last <= most, "{last} for a capacity of {capacity}");
            prop_assert!(used > 0.95, "{used} of the throughput, {last} for a capacity of {capacity}");
        }
    }

    #[test]
    fn where_no_step_asks_it_is_the_fixed_default_from_the_beginning() {
        for (min, max, fixed) in [(16, 4096, 1024), (16, 512, 512), (2000, 4096, 2000)] {
            let mut limit = Concurrency::new(min, max, 0);
            for _ in 0..20 {
                assert_eq!(limit.limit(), fixed);
                limit.observe(&[Answers::default()], 0, fixed);
            }
        }
    }

    #[test]
    fn a_database_that_is_merely_far_away_gets_all() {
        let database = Database {
            base: 0.05,
            capacity: 1e9,
        };
        let mut limit = Concurrency::new(16, 2048, 1);
        let limits = database.run(&mut limit, 120);
        assert_eq!(limits.last().unwrap().0, 2048, "{limits:?}");
    }

    #[test]
    fn latency_that_is_not_our_doing_is_accepted() {
        let mut limit = Concurrency::new(16, 1024, 1);
        Database {
            base: 0.005,
            capacity: 1e9,
        }
        .run(&mut limit, 200);
        assert_eq!(limit.limit(), 1024);
        let slow = Database {
            base: 0.08,
            capacity: 1e9,
        }
        .run(&mut limit, 240);
        assert_eq!(limit.limit(), 1024, "{slow:?}");
        let lean = slow.iter().filter(|(limit, _)| *limit < 512).count();
        assert!(lean < 40, "{lean} intervals at less than half: {slow:?}");
    }

    #[test]
    fn a_database_that_loses_capacity_is_given_less() {
        let mut limit = Concurrency::new(4, 4096, 1);
        Database {
            base: 0.005,
            capacity: 800.0,
        }
        .run(&mut limit, 400);
        let before = limit.limit();
        Database {
            base: 0.005,
            capacity: 100.0,
        }
        .run(&mut limit, 400);
        assert!(limit.limit() < before / 2, "{} after {before}", limit.limit());
    }

    #[test]
    fn failures_cut_it_once_in_a_while_and_down_to_the_lower_bound() {
        let mut limit = Concurrency::new(8, 4096, 1);
        let start = limit.limit();
        let many = Answers {
            count: 100,
            seconds: 0.5,
        };
        limit.observe(&[many], 2, 0);
        assert_eq!(limit.limit(), start, "2 in 100 is no overload");
        limit.observe(&[many], 5, 0);
        assert_eq!(limit.limit(), 90);
        limit.observe(&[many], 100, 0);
        assert_eq!(limit.limit(), 90, "one burst is one cut");
        (0..100).for_each(|_| {
            limit.observe(&[Answers::default()], 3, 0);
        });
        assert_eq!(limit.limit(), 8);
    }

    #[test]
    fn a_change_of_the_mix_is_no_change_of_latency() {
        let mut limit = Concurrency::new(16, 1024, 2);
        let fast = Answers {
            count: 1000,
            seconds: 1.0,
        };
        let slow = Answers {
            count: 1000,
            seconds: 20.0,
        };
        for _ in 0..100 {
            let now = limit.limit();
            limit.observe(
                &[
                    fast,
                    Answers {
                        count: 10,
                        seconds: 0.2,
                    },
                ],
                0,
                now,
            );
        }
        for _ in 0..20 {
            let now = limit.limit();
            limit.observe(
                &[
                    Answers {
                        count: 10,
                        seconds: 0.01,
                    },
                    slow,
                ],
                0,
                now,
            );
            assert_eq!(limit.limit(), 1024);
        }
    }
}
