//! A producer that cannot go on, and what becomes of its consumer.
//!
//! Brokers raise the epoch of a transactional id, and so fence the producer that has it, when its transaction outlasts `transaction.timeout.ms` (they were out of
//! reach for so long, or the process stood still), and when another process takes the id. They do not say which of these it was. The first
//! passes: the consumer makes way for another one, whose producer takes the id with a new epoch. Two processes with one id would fence each other for
//! ever, so who is fenced again soon halts.
//!
//! Or brokers know nothing of what the producer goes on with or ends, or librdkafka is in no state to go on or to begin anything: its consumer makes way
//! likewise. An abort soon after a commit can be answered so (see [`TransactionError::Forgotten`]), as often as that happens, and no twin is behind it: what
//! bounds it is that three new consumers in a row without a commit are followed by none.
//!
//! Nothing is done twice by that. Taking the id aborts what was open under it, and nothing of the old epoch is committed after it. A commit that is answered by a
//! fence was made before it, or never is: its offsets moved with its outputs, or neither did, and the next consumer starts from the group's offsets, which it
//! is told once that is settled.

use std::time::{Duration, Instant};

use crate::pipeline::failure::Failure;
use crate::sink::transactions::TransactionError;
use crate::source::consumer_loop::Loop;

/// Who is fenced twice within it has a twin.
const TWIN: Duration = Duration::from_secs(600);

pub(super) fn halting(error: &TransactionError) -> Failure {
    Failure::fatal(
        "transaction",
        format!(
            "{error}. If the producer was fenced, another process has its transactional id (instance_id, or host and port of [http]), or \
             this one stood still for longer than `transaction.timeout.ms`; what it had not committed was thrown away"
        ),
    )
}

impl Loop {
    /// Nothing of the producer will be committed any more, because of this.
    pub(super) fn given_up(&mut self, error: &TransactionError, now: Instant) {
        let Some(this) = &mut self.transactions else { return };
        let (known, has_committed) = (this.dead, this.has_committed);
        // Behind a commit that was made none is open.
        if !known && !this.aborting && !matches!(error, TransactionError::NotBegun(_)) {
            self.parts.runtime.metrics.transactions_aborted.inc();
        }
        this.die();
        let again = self
            .fenced
            .is_some_and(|last| now.saturating_duration_since(last) < TWIN);
        match error {
            // Each output that comes back tells of it, and so does a call that was under way: it is one fence.
            TransactionError::Fenced(_) | TransactionError::Forgotten(_) | TransactionError::NotBegun(_) if known => {}
            TransactionError::Fenced(reason) if !again => {
                self.fenced = Some(now);
                self.give_way(format!(
                    "the producer was fenced, by the time-out of its transaction or by another process with its transactional id: {reason}"
                ));
            }
            TransactionError::Forgotten(reason) | TransactionError::NotBegun(reason) => {
                // Records that are taken again and again are no progress here.
                self.took = has_committed;
                self.give_way(reason.clone());
            }
            TransactionError::Abort(_)
            | TransactionError::Fenced(_)
            | TransactionError::Fatal(_)
            | TransactionError::GivenUp => self.halt(halting(error)),
        }
    }
}
