//! Periodic work of the loop beside its status: adapts the budget's limit to the store (`max_in_flight = "auto"`), and detects a consumer or a
//! producer that has stalled.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;

use super::{Loop, STATUS_EVERY};
use crate::concurrency::Answers;
use crate::pipeline::runner::StepHandles;
use crate::telemetry::handles::{LargestPart, Part, PipelineMetrics};

/// This loop's parts of the gauges that the consumers of a pipeline share.
pub(super) struct Gauges {
    pub(super) in_flight_records: Part,
    pub(super) in_flight_bytes: Part,
    pub(super) concurrency_limit: Part,
    pub(super) concurrency_load: LargestPart,
    pub(super) in_flight_bytes_load: LargestPart,
    pub(super) assigned_partitions: Part,
    /// Assigned partitions of each topic, in the order of the configuration.
    pub(super) of_topics: Vec<Part>,
    pub(super) stalled_partitions: Part,
    pub(super) paused_partitions: Part,
    pub(super) dead_letter_stop: Part,
}

impl Gauges {
    pub(super) fn new(metrics: &PipelineMetrics, topics: &[String]) -> Gauges {
        let of_topic = |topic: &String| Part::of(&metrics.topic_assigned_partitions(topic));
        Gauges {
            in_flight_records: Part::of(&metrics.in_flight_records),
            in_flight_bytes: Part::of(&metrics.in_flight_bytes),
            concurrency_limit: Part::of(&metrics.concurrency_limit),
            concurrency_load: metrics.concurrency_load.part(),
            in_flight_bytes_load: metrics.in_flight_bytes_load.part(),
            assigned_partitions: Part::of(&metrics.assigned_partitions),
            of_topics: topics.iter().map(of_topic).collect(),
            stalled_partitions: Part::of(&metrics.stalled_partitions),
            paused_partitions: Part::of(&metrics.paused_partitions),
            dead_letter_stop: Part::of(&metrics.dead_letter_stop),
        }
    }
}

/// librdkafka is not called silent before this, however short the stall time is, because it reports once a second.
const SHORTEST_SILENCE: Duration = Duration::from_secs(5);

/// Interval between queries for the leaders of the output topics: one may take some seconds.
const LEADERS_EVERY: Duration = Duration::from_secs(10);

/// The steps' counters when the limit was last updated.
#[derive(Debug)]
pub(super) struct Seen {
    answers: Vec<Answers>,
    failures: u64,
}

impl Seen {
    fn of(steps: &[StepHandles]) -> Seen {
        let answers = steps.iter().map(|step| Answers {
            count: step.step.seconds.get_sample_count(),
            seconds: step.step.seconds.get_sample_sum(),
        });
        Seen {
            answers: answers.collect(),
            failures: steps.iter().map(|step| step.step.transient.get()).sum(),
        }
    }

    /// The difference to `before`: the answers of each step, and the failures of all.
    fn since(&self, before: &Seen) -> (Vec<Answers>, u64) {
        let fresh = self.answers.iter().zip(&before.answers).map(|(now, before)| Answers {
            count: now.count.saturating_sub(before.count),
            seconds: (now.seconds - before.seconds).max(0.0),
        });
        (fresh.collect(), self.failures.saturating_sub(before.failures))
    }
}

/// Whether librdkafka still reports: it delivers its statistics once a second, to those who poll.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    reports: u64,
    silent: u32,
}

impl Hearing {
    /// Takes in the number of reports and whether the loop polls; true if it has polled for `limit` without a report. Counts rounds and not time,
    /// because a loop that was held up itself has not polled.
    fn lost(&mut self, reports: u64, polls: bool, limit: Duration) -> bool {
        if !polls || reports != self.reports {
            *self = Hearing { reports, silent: 0 };
            return false;
        }
        self.silent = self.silent.saturating_add(1);
        STATUS_EVERY * self.silent >= limit
    }
}

impl Loop {
    /// Adapts the budget's limit to how the store has answered since the last time.
    pub(super) fn adapt(&mut self) {
        let Some(concurrency) = &mut self.parts.concurrency else {
            return;
        };
        let now = Seen::of(&self.parts.runtime.steps);
        let fresh = self.seen.as_ref().map(|before| now.since(before));
        self.seen = Some(now);
        // The counters are older than this consumer, and what was before it says nothing about now.
        let Some((answers, failed)) = fresh else {
            return;
        };
        let parked: usize = self.held.values().map(|held| held.parked.len()).sum();
        let budget = &mut self.parts.budget;
        let limit = concurrency.observe(&answers, failed, budget.records().saturating_sub(parked));
        budget.set_max_records(limit);
        // Events that wait for a schema send no requests to the store. They would fill up a limit that has shrunk, which only answers can raise. So
        // they are set apart, within the upper bound.
        budget.set_apart(parked.min(concurrency.max().saturating_sub(limit)));
    }

    /// Adapts the rests of the thread to how long records have taken since the metrics were last flushed.
    pub(super) fn moderate(&self) {
        let events = &self.metrics.event;
        let mean = events.get_sample_sum() / events.get_sample_count() as f64;
        // Without a record that was done or skipped there is no mean.
        self.parts.rest.follow(Duration::try_from_secs_f64(mean).ok());
    }

    /// Replaces the consumer if it stands still and nothing on our side holds it up.
    pub(super) fn watch(&mut self, fetches_nothing: Option<String>) {
        let polls = self.joined && (self.takes_records() || self.paused);
        let limit = self.parts.stall_after.max(SHORTEST_SILENCE);
        let deaf = self.hearing.lost(self.parts.consumer.context().reports(), polls, limit);
        let (why, limit) = match fetches_nothing {
            Some(why) => (why, self.parts.stall_after),
            None if deaf => ("librdkafka has fallen silent".to_owned(), limit),
            None => return,
        };
        // If dead letters have stopped intake, another consumer would admit records again.
        if self.stopping.is_some() || self.replace.is_some() || self.stopped_by_limit {
            return;
        }
        tracing::error!(
            pipeline = %self.name(), seconds = limit.as_secs(), partitions = self.held.len(),
            in_flight = self.parts.budget.records(), full = self.is_full(), paused = self.paused,
            "the consumer is stalled: {why}"
        );
        self.note_error(format!("the consumer is stalled: {why}"));
        self.replace = Some(why);
        self.stop();
    }

    /// Checks, beside the loop, whether a stall is due to a producer that still sends to a former leader. That producer is then withdrawn: its outputs
    /// come back, and each consumer that publishes with it gives way.
    pub(super) fn look_at_the_producer(&mut self, now: Instant) {
        let every = LEADERS_EVERY.max(self.parts.stall_after);
        let looked = self
            .looked_at_producer
            .is_some_and(|last| now.duration_since(last) < every);
        if looked || self.stopping.is_some() || self.parts.runtime.producer().is_none() {
            return;
        }
        self.looked_at_producer = Some(now);
        let (runtime, beside) = (
            self.parts.runtime.clone(),
            self.beside("asks who leads the output topics"),
        );
        self.parts.io.spawn_blocking(move || {
            let _beside = beside;
            if let Some(producer) = runtime.producer() {
                producer.withdraw_if_misled();
            }
        });
    }

    /// Whether librdkafka reported fetch errors within the stall time: then it is not silent.
    pub(super) fn complains(&self, now: Instant) -> bool {
        self.within_the_stall_time(self.last_complaint, now)
    }

    /// Whether librdkafka reported within the stall time that it cannot reach a broker. A connection alone says nothing: it may be down because nobody
    /// needs it.
    pub(super) fn misses_a_broker(&self, now: Instant) -> bool {
        self.within_the_stall_time(self.last_unreachable, now)
    }

    fn within_the_stall_time(&self, last: Option<Instant>, now: Instant) -> bool {
        last.is_some_and(|last| now.duration_since(last) < self.parts.stall_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::concurrency::Concurrency;
    use crate::source::consumer_loop::tests::idle::{P, taken, with_one_finished};

    /// A loop whose limit adapts between 2 and 100.
    async fn adaptive() -> Loop {
        let mut this = with_one_finished().await;
        this.parts.concurrency = Some(Concurrency::new(2, 100, 1));
        this
    }

    #[tokio::test]
    async fn records_that_wait_for_a_schema_leave_a_limit_that_has_shrunk_to_the_others() {
        let mut this = adaptive().await;
        let runtime = this.parts.runtime.clone();
        let step = &runtime.steps[0].step;
        this.adapt();
        for offset in 1..=50 {
            let event = taken(&mut this, offset);
            this.held.get_mut(&P).unwrap().parked.push_back(event);
        }
        for _ in 0..100 {
            step.transient.inc();
            this.adapt();
        }
        assert_eq!(this.parts.budget.max_records(), 2);
        assert!(this.takes_records());
        let _others = [51, 52].map(|offset| taken(&mut this, offset));
        assert!(!this.takes_records());
        for _ in 0..10 {
            (0..100).for_each(|_| step.succeeded(Duration::from_millis(1)));
            this.adapt();
        }
        let limit = this.parts.budget.max_records();
        assert!((3..10).contains(&limit), "by what works, not by what waits: {limit}");
        assert!(this.takes_records());
    }

    #[tokio::test]
    async fn what_waits_for_a_schema_stays_within_the_upper_bound() {
        let mut this = adaptive().await;
        this.adapt();
        for offset in 1..=50 {
            let event = taken(&mut this, offset);
            this.held.get_mut(&P).unwrap().parked.push_back(event);
        }
        this.adapt();
        assert_eq!(this.parts.budget.max_records(), 100);
        let _others: Vec<_> = (51..=100).map(|offset| taken(&mut this, offset)).collect();
        assert!(!this.takes_records());
    }

    #[tokio::test]
    async fn what_steps_did_before_a_consumer_came_moves_no_limit() {
        let mut this = adaptive().await;
        let transient = this.parts.runtime.steps[0].step.transient.clone();
        transient.inc_by(1000);
        this.adapt();
        assert_eq!(this.parts.budget.max_records(), 100);
        transient.inc();
        this.adapt();
        assert_eq!(this.parts.budget.max_records(), 70);
    }

    #[test]
    fn silence_counts_only_while_the_loop_listens() {
        let mut hearing = Hearing::default();
        let limit = STATUS_EVERY * 4;
        assert!(!hearing.lost(1, true, limit));
        for _ in 0..3 {
            assert!(!hearing.lost(1, true, limit));
        }
        assert!(!hearing.lost(1, false, limit), "it does not poll");
        for _ in 0..3 {
            assert!(!hearing.lost(1, true, limit));
        }
        assert!(!hearing.lost(2, true, limit), "a report");
        for _ in 0..3 {
            assert!(!hearing.lost(2, true, limit));
        }
        assert!(hearing.lost(2, true, limit));
    }
}
