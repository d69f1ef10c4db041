//! Withdraws outputs of partitions that leave before brokers have accepted them, if the pipeline is ordered.
//!
//! The producer retries for ever, so its queue outlives the assignment that an output came from. A member that is cut off for longer than its
//! session, or whose drain ends while an output has no leader, would later publish old values of a key, behind the newer ones of the next owner. None
//! of them is committed: the next owner of the partition publishes them in turn.
//!
//! librdkafka empties its queue completely or not at all, so partitions that stay also lose outputs, and later ones must not overtake those. So the
//! producer is given up with its queue, and each consumer that publishes with it gives way to a new one, which starts from the last commit. Outputs
//! that are on their way to a broker may still arrive; only `exactly_once` fences those.

use std::time::{Duration, Instant};

use super::Loop;
use crate::sink::Sink;
use crate::source::assignment::{Held, Phase};

/// For this long before a drain's deadline nothing more is handed to the producer: healthy brokers acknowledge what they have within it, so a drain
/// that is merely slow leaves nothing to withdraw.
const LAST_CALL: Duration = Duration::from_secs(1);

impl Loop {
    /// The group has already assigned these partitions to others.
    pub(super) fn withdraw_what_is_lost(&mut self, is_lost: impl Fn(&Held<'_>) -> bool) {
        if self.withdraw(is_lost) {
            self.give_way("partitions were lost before brokers had taken their outputs".to_owned());
        }
    }

    /// Withdraws outputs that no broker has accepted when a drain reaches its deadline. Shortly before a stop's deadline nothing more is handed over
    /// either, so that the end does not have to withdraw outputs of other consumers that share the producer.
    pub(super) fn withdraw_what_does_not_drain(&mut self, now: Instant) {
        if !self.parts.runtime.sink.as_ref().is_some_and(Sink::keeps_order) {
            return;
        }
        let soon = now + LAST_CALL.min(self.parts.drain_timeout / 10);
        if self.stopping.is_some_and(|deadline| soon >= deadline) {
            self.end_tenures(|_| true);
        }
        let Some(deadline) = self.assignment.next_deadline().filter(|deadline| soon >= *deadline) else {
            return;
        };
        let is_draining = |at: &Held<'_>| at.phase == Phase::Draining;
        self.end_tenures(is_draining);
        if now >= deadline && self.withdraw(is_draining) {
            self.give_way("partitions left before brokers had taken their outputs".to_owned());
        }
    }

    /// Withdraws everything that the producer has, if any of it is of these partitions; returns whether it was.
    pub(super) fn withdraw(&self, leaves: impl Fn(&Held<'_>) -> bool) -> bool {
        // First, so that later outputs are refused, and those that come back count as abandoned and not as failures.
        self.end_tenures(&leaves);
        let of_those = self.assignment.held().filter(|at| leaves(at));
        let has_outputs = of_those
            .filter_map(|at| self.held.get(&at.partition))
            .any(|held| held.tenure.has_outputs());
        if has_outputs && let Some(sink) = &self.parts.runtime.sink {
            // Events that still run here publish nothing any more.
            self.end_tenures(|_| true);
            sink.withdraw();
        }
        has_outputs
    }

    /// Events of these partitions that still run may give up.
    pub(super) fn end_tenures(&self, of: impl Fn(&Held<'_>) -> bool) {
        for at in self.assignment.held().filter(|at| of(at)) {
            if let Some(held) = self.held.get(&at.partition) {
                held.tenure.end();
            }
        }
    }
}
