//! Outputs of partitions that leave before brokers have taken them: where an order is promised, they are taken back.
//!
//! The producer tries for as long as it takes, so its queue outlives the assignment that an output came from. A member that is cut off for longer than its
//! session, or whose drain ends while an output has no leader to go to, would publish old values of a key later on, behind the newer ones of the next
//! owner. None of them is committed: who has the partition next publishes them in their turn.
//!
//! librdkafka empties its queue as a whole or not at all, and what stays here has lost outputs then, behind which others must not go. So the producer is
//! given up with its queue, and each consumer that publishes with it makes way for another one, which starts from the last commit. What is on its way
//! to a broker may arrive all the same: only `exactly_once` fences that.

use std::time::Instant;

use super::Loop;
use crate::source::assignment::Phase;

impl Loop {
    /// The group has given all partitions to others already.
    pub(super) fn withdraw_what_is_lost(&mut self) {
        if self.withdraw(|_| true) {
            self.give_way("partitions were lost before brokers had taken their outputs".to_owned());
        }
    }

    /// A drain ends at its deadline with outputs that no broker has taken.
    pub(super) fn withdraw_what_does_not_drain(&mut self, now: Instant) {
        let is_over = self.assignment.next_deadline().is_some_and(|deadline| now >= deadline);
        if is_over && self.withdraw(|phase| phase == Phase::Draining) {
            self.give_way("partitions left before brokers had taken their outputs".to_owned());
        }
    }

    /// Takes back what the producer has where any of it is of partitions in these phases; whether it was.
    pub(super) fn withdraw(&self, leaves: impl Fn(Phase) -> bool) -> bool {
        let mut has_outputs = false;
        for at in self.assignment.held().filter(|at| leaves(at.phase)) {
            let held = self.held.get(&at.partition);
            if let Some(held) = held.filter(|held| held.tenure.has_outputs()) {
                // Before it comes back: what is abandoned is no failure.
                held.tenure.end();
                has_outputs = true;
            }
        }
        if has_outputs && let Some(sink) = &self.parts.runtime.sink {
            sink.withdraw();
        }
        has_outputs
    }
}
