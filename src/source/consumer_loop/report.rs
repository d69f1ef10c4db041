//! What is seen from outside: the status and the gauges, brought up to date a few times a second.

use std::time::Instant;

use rdkafka::consumer::Consumer;

use super::Loop;
use crate::progress::Health;
use crate::source::assignment::Phase;
use crate::source::status::{LoopStatus, PartitionStatus};

/// How many of the last failures the status shows.
const LAST_ERRORS: usize = 8;
/// Records that may wait in one partition's ledger behind an unfinished one, 24 bytes each. They would all be processed again
/// after a crash, so intake stops there.
const LONGEST_LEDGER: usize = 200_000;

impl Loop {
    pub(super) fn note_error(&mut self, message: String) {
        if self.last_errors.len() == LAST_ERRORS {
            self.last_errors.pop_front();
        }
        self.last_errors.push_back(message);
    }

    pub(super) fn publish_status(&mut self, state: &'static str) {
        let now = Instant::now();
        let wall_ms = crate::pipeline::evaluate::now_micros() / 1000;
        let metrics = self.parts.runtime.metrics.clone();
        let mut partitions = Vec::new();
        let mut stalled = 0;
        self.ledger_full = self
            .assignment
            .held()
            .any(|at| at.ledger.is_some_and(|l| l.span() > LONGEST_LEDGER));
        for at in self.assignment.held() {
            let topic = &self.topics[usize::from(at.partition.topic)];
            let position = at.ledger.and_then(|l| l.last_admitted()).map(|o| o + 1);
            let unfinished = at.ledger.and_then(|l| l.position()).map(|p| p.offset);
            let extent = self.parts.consumer.context().extent(topic, at.partition.index);
            let in_flight = at.ledger.map_or(0, |l| l.in_flight());
            let lag = match (unfinished, extent) {
                (Some(_), Some(extent)) if extent.exhausted && in_flight == 0 => Some(0),
                (Some(unfinished), Some(extent)) => Some((extent.end - unfinished).max(0)),
                _ => None,
            };
            let mut lag_seconds = 0.0;
            let mut is_stalled = false;
            if let Some(held) = self.held.get_mut(&at.partition) {
                if let (Some(lag), Some(timestamp)) = (lag, held.last_timestamp_ms)
                    && lag > 0
                {
                    lag_seconds = (wall_ms - timestamp).max(0) as f64 / 1000.0;
                }
                if let Some(lag) = lag {
                    let health = held.progress.observe(lag.unsigned_abs(), unfinished.unwrap_or(0), now);
                    is_stalled = matches!(health, Health::Stalled { .. });
                    if is_stalled && !held.stalled {
                        tracing::error!(
                            pipeline = %self.parts.runtime.program.name, topic = %topic, partition = at.partition.index, lag,
                            unfinished, full = self.parts.budget.is_full(), paused = self.paused, "no progress"
                        );
                    }
                    held.stalled = is_stalled;
                    held.metrics.lag_records.set(lag);
                }
                held.metrics.lag_seconds.set(lag_seconds);
                if let Some(position) = position {
                    held.metrics.position.set(position);
                }
            }
            stalled += i64::from(is_stalled);
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
                end: extent.map(|e| e.end),
                lag_records: lag,
                lag_seconds,
                in_flight,
                stalled: is_stalled,
            });
        }
        metrics.in_flight_records.set(self.parts.budget.records() as i64);
        metrics.in_flight_bytes.set(self.parts.budget.bytes() as i64);
        metrics.concurrency_load.set(self.parts.budget.load());
        metrics.assigned_partitions.set(partitions.len() as i64);
        metrics.stalled_partitions.set(stalled);
        metrics
            .paused_partitions
            .set(if self.paused { partitions.len() as i64 } else { 0 });
        let halted = match (&self.halted, self.stopped_by_limit) {
            (Some(failure), _) => Some(failure.to_string()),
            (None, true) => Some("too many dead letters".to_owned()),
            (None, false) => None,
        };
        self.parts.state.set(LoopStatus {
            state,
            in_flight_records: self.parts.budget.records(),
            in_flight_bytes: self.parts.budget.bytes(),
            full: self.parts.budget.is_full(),
            paused: self.paused,
            waiting_for_schema: self.held.values().map(|h| h.parked.len()).sum(),
            halted,
            partitions,
            last_errors: self.last_errors.iter().cloned().collect(),
        });
    }
}
