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

/// Before a drain's deadline nothing more is handed over for so long: brokers that are well acknowledge what they have within it, and a drain that is
/// merely slow leaves nothing to take back.
const LAST_CALL: Duration = Duration::from_secs(1);

impl Loop {
    /// The group has given these partitions to others already.
    pub(super) fn withdraw_what_is_lost(&mut self, is_lost: impl Fn(&Held<'_>) -> bool) {
        if self.withdraw(is_lost) {
            self.give_way("partitions were lost before brokers had taken their outputs".to_owned());
        }
    }

    /// A drain ends at its deadline with outputs that no broker has taken. Before a stop's deadline nothing more is handed over either: then the end
    /// has nothing to take back from other consumers that publish with the same producer.
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

    /// Takes back what the producer has where any of it is of these partitions; whether it was.
    pub(super) fn withdraw(&self, leaves: impl Fn(&Held<'_>) -> bool) -> bool {
        // First: what is handed over hereafter is refused, and what comes back is abandoned and no failure.
        self.end_tenures(&leaves);
        let of_those = self.assignment.held().filter(|at| leaves(at));
        let has_outputs = of_those
            .filter_map(|at| self.held.get(&at.partition))
            .any(|held| held.tenure.has_outputs());
        if has_outputs && let Some(sink) = &self.parts.runtime.sink {
            // Nothing that still runs here is published any more.
            self.end_tenures(|_| true);
            sink.withdraw();
        }
        has_outputs
    }

    /// What still runs of these partitions may give up.
    pub(super) fn end_tenures(&self, of: impl Fn(&Held<'_>) -> bool) {
        for at in self.assignment.held().filter(|at| of(at)) {
            if let Some(held) = self.held.get(&at.partition) {
                held.tenure.end();
            }
        }
    }
}
