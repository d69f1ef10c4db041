//! Updates the status and the gauges of the loop a few times a second.

use std::time::Instant;

use rdkafka::consumer::Consumer;

use super::Loop;
use super::transaction::Transactions;
use super::watchdogs::Sight;
use crate::source::assignment::Phase;
use crate::source::context::Answer;
use crate::source::status::{LoopStatus, PartitionStatus};

/// How many of the last failures the status shows.
const LAST_ERRORS: usize = 8;
/// Records that may wait in one partition's ledger behind an unfinished one. They would all be processed again after a crash, so intake stops there.
/// The budget bounds their memory.
const LONGEST_LEDGER: usize = 200_000;

impl Loop {
    pub(super) fn note_error(&mut self, message: String) {
        if self.last_errors.len() == LAST_ERRORS {
            self.last_errors.pop_front();
        }
        self.last_errors.push_back(message);
    }

    /// Whether intake waits for room.
    pub(super) fn is_full(&self) -> bool {
        self.parts.budget.is_full() || self.ledger_full
    }

    /// Updates what events in flight hold beyond their own size: rows and the like, the workers that run them, and the finished records that wait
    /// behind them.
    pub(super) fn weigh(&mut self) {
        let held = self.completions.held().saturating_add(self.waiting_bytes);
        // Tasks that fetch a schema only hold up their own partitions, so they do not count.
        let at_work = self.workers.bytes(self.resolving.len());
        self.parts.budget.hold(held.saturating_add(at_work));
    }

    /// Also returns a reason if librdkafka fetches nothing although there are records and nothing on our side holds them up.
    pub(super) fn publish_status(&mut self, state: &'static str) -> Option<String> {
        self.look_at_ledgers();
        let now = Instant::now();
        if self.holds_intake() {
            self.watchdogs.intake_is_held(now);
        }
        self.watchdogs.look(now);
        let wall_ms = crate::pipeline::evaluate::now_micros() / 1000;
        let mut partitions = Vec::new();
        let mut stalled = 0;
        let mut of_topics = vec![0; self.topics.len()];
        let mut fetches_nothing = None;
        let mut caught_up = true;
        let may_ask =
            self.stopping.is_none() && self.halted.is_none() && !self.owes_an_answer() && !self.complains(now);
        let misses_a_broker = self.misses_a_broker(now);
        let open = may_ask && self.takes_records() && !self.paused;
        let takes = std::mem::take(&mut self.took_since_status);
        for at in self.assignment.held() {
            let topic = &self.topics[usize::from(at.partition.topic)];
            let position = at.ledger.and_then(|l| l.last_admitted()).map(|o| o + 1);
            let unfinished = at.ledger.and_then(|l| l.position()).map(|p| p.offset);
            let extent = self.parts.consumer.context().extent(topic, at.partition.index);
            let in_flight = at.ledger.map_or(0, |l| l.in_flight());
            let running = at.phase == Phase::Running;
            // Nothing is fetched from paused partitions, so librdkafka's end does not change; what arrives meanwhile is lag all the same.
            let rests = self.paused || self.held.get(&at.partition).is_some_and(|held| held.waits);
            let more = extent
                .filter(|e| running && (rests || e.answer == Answer::End))
                .and_then(|e| self.ends.beyond(at.partition, e.next, now));
            // The leader of a paused partition may have no connection because nothing is fetched.
            if misses_a_broker && !rests && extent.is_some_and(|e| !e.leader_up) {
                self.ends.put_off(at.partition, now);
            }
            let end = extent.and_then(|e| e.end).max(more);
            let at_end = in_flight == 0
                && more.is_none()
                && extent.is_some_and(|e| e.fetched && (e.passed || unfinished >= Some(e.next)));
            let behind = if at_end {
                Some(0)
            } else {
                end.zip(unfinished).map(|(end, u)| (end - u).max(0))
            };
            // If the group has no offset, the position is unknown before the first record, and so is the number of records.
            let lag = behind.filter(|_| unfinished.is_some());
            // Some of the withheld records may have become readable since.
            let withheld = extent.map_or(0, |e| (e.end.unwrap_or(0) + e.withheld - end.unwrap_or(0)).max(0));
            let unread = lag.map(|lag| lag + withheld);
            caught_up &= running && unread == Some(0);
            let mut lag_seconds = 0.0;
            let answer = extent.map_or(Answer::None, |e| e.answer);
            let seen = Sight {
                starting: at.phase == Phase::Starting && self.stopping.is_none(),
                lag: behind.map(i64::unsigned_abs),
                withheld: withheld.unsigned_abs(),
                // Records in librdkafka's queue may belong to other partitions; while the queue is read, those of this one come in time.
                fetched: extent.filter(|e| e.queue_empty || takes).map(|e| e.next),
                some: running && (answer != Answer::End || (position.is_none() && !at_end)),
                unfinished,
                committed: at.ledger.and_then(|l| l.uncommitted()),
                uncommitted: at.ledger.is_some_and(|l| l.committable().is_some()),
                commits: self.transactions.as_ref().map_or(0, Transactions::commits),
                position,
                // Brokers that refuse a partition would refuse another consumer as well.
                free: open
                    && in_flight == 0
                    && running
                    && (lag > Some(0) || answer != Answer::Error)
                    && extent.is_some_and(|e| e.leader_up),
            };
            let watched = self.watchdogs.observe(at.partition, &seen, now);
            let is_stalled = watched.stalled;
            if watched.stalls_now {
                tracing::error!(
                    pipeline = %self.parts.runtime.program.name, topic = %topic, partition = at.partition.index, lag,
                    withheld, unfinished, committed = seen.committed, starting = seen.starting, full = self.is_full(),
                    paused = self.paused, "no progress"
                );
            }
            if watched.fetches_nothing {
                let (index, count) = (
                    at.partition.index,
                    lag.map_or_else(String::new, |lag| format!("{lag} ")),
                );
                fetches_nothing = Some(format!("{topic}/{index} has {count}records and none of them arrives"));
            }
            if let Some(held) = self.held.get_mut(&at.partition) {
                // As far as is known no record waits, so the next one is no older than this.
                if unread == Some(0) {
                    held.since_ms = Some(wall_ms);
                }
                // Whatever its timestamp says, the record was taken before now; one of 0 or below is from a producer without a clock.
                held.since_ms = held.since_ms.filter(|ms| *ms > 0).map(|ms| ms.min(wall_ms));
                // Outputs are as late as the first unfinished record; if none is in flight, the next record is not known yet.
                let oldest_ms = at.ledger.and_then(|l| l.first_unfinished_ms(wall_ms));
                if let (Some(lag), Some(timestamp)) = (lag, oldest_ms.or(held.since_ms))
                    && lag > 0
                {
                    lag_seconds = (wall_ms - timestamp) as f64 / 1000.0;
                }
                if let Some(unread) = unread {
                    held.metrics.lag_records.set(unread);
                }
                held.metrics.lag_seconds.set(lag_seconds);
                if let Some(position) = position {
                    held.metrics.position.set(position);
                }
            }
            stalled += i64::from(is_stalled);
            of_topics[usize::from(at.partition.topic)] += 1;
            partitions.push(PartitionStatus {
                topic: topic.to_string(),
                partition: at.partition.index,
                phase: match at.phase {
                    Phase::Starting => "starting",
                    Phase::Running => "running",
                    Phase::Draining => "draining",
                },
                position,
                unfinished,
                committed: self.held.get(&at.partition).and_then(|held| held.committed),
                end,
                lag_records: unread,
                lag_seconds,
                in_flight,
                stalled: is_stalled,
            });
        }
        // What the previous consumer left was committed all the same, or another one has processed it.
        if caught_up && !partitions.is_empty() {
            self.left_before = 0;
        }
        self.watchdogs.keep(|partition| self.assignment.holds(partition));
        self.ends.keep(|partition| self.assignment.holds(partition));
        if may_ask {
            self.ask_for_ends(now);
        }
        if stalled > 0 {
            self.look_at_the_producer(now);
        }
        let gauges = &mut self.gauges;
        gauges.in_flight_records.set(self.parts.budget.records() as i64);
        gauges.in_flight_bytes.set(self.parts.budget.bytes() as i64);
        gauges.concurrency_limit.set(self.parts.budget.max_records() as i64);
        gauges.assigned_partitions.set(partitions.len() as i64);
        for (gauge, assigned) in gauges.of_topics.iter_mut().zip(of_topics) {
            gauge.set(assigned);
        }
        gauges.stalled_partitions.set(stalled);
        let paused = if self.paused {
            partitions.len()
        } else {
            self.held.values().filter(|held| held.waits).count()
        };
        gauges.paused_partitions.set(paused as i64);
        gauges.concurrency_load.set(self.parts.budget.load());
        gauges.in_flight_bytes_load.set(self.parts.budget.bytes_load());
        let halted = match (&self.halted, self.stopped_by_limit) {
            (Some(failure), _) => Some(failure.to_string()),
            (None, true) => Some("too many dead letters".to_owned()),
            (None, false) => None,
        };
        self.parts.state.set(LoopStatus {
            state,
            in_flight_records: self.parts.budget.records(),
            in_flight_bytes: self.parts.budget.bytes(),
            concurrency_limit: self.parts.budget.max_records(),
            full: self.is_full(),
            paused: self.paused,
            waiting_for_schema: self.held.values().map(|h| h.parked.len()).sum(),
            halted,
            partitions,
            last_errors: self.last_errors.iter().cloned().collect(),
            ..LoopStatus::default()
        });
        fetches_nothing
    }

    fn look_at_ledgers(&mut self) {
        (self.ledger_full, self.waiting_bytes) = (false, 0);
        for ledger in self.assignment.held().filter_map(|at| at.ledger) {
            self.ledger_full |= ledger.span() > LONGEST_LEDGER;
            self.waiting_bytes += ledger.waiting_bytes();
        }
        self.weigh();
    }
}
