//! A transactional producer that cannot continue, and what happens to its consumer.
//!
//! Brokers raise the epoch of a transactional id, and so fence its producer, in two cases: its transaction outlasts `transaction.timeout.ms` (brokers
//! were unreachable or the process stood still for that long), or another process takes the id. They do not say which. The first case passes: the
//! consumer gives way to a new one, whose producer takes the id with a new epoch. Two processes with one id would fence each other for ever, so a
//! consumer that is fenced again soon halts.
//!
//! The consumer also gives way if brokers do not know the transaction that the producer continues or ends, or if librdkafka is in no
//! state to continue or begin one. An abort soon after a commit can be answered so (see [`TransactionError::Forgotten`]), as often as that happens,
//! without any second process. To bound this, the pipeline halts after three new consumers in a row without a commit.
//!
//! Nothing is done twice by this. Taking the id aborts what was open under it, and nothing of the old epoch is committed afterwards. A commit that
//! was answered by a fence was either made before it or never is: its offsets moved with its outputs, or neither did. The next consumer starts from
//! the group's offsets, which it learns only once that is settled.

use std::time::{Duration, Instant};

use crate::pipeline::failure::Failure;
use crate::sink::transactions::TransactionError;
use crate::source::consumer_loop::Loop;

/// If a producer is fenced twice within this time, another process uses its transactional id.
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
    /// Nothing more of the producer will be committed, because of `error`.
    pub(super) fn given_up(&mut self, error: &TransactionError, now: Instant) {
        let Some(this) = &mut self.transactions else { return };
        let (known, has_committed) = (this.dead, this.commits > 0);
        // After a commit that succeeded, none is open.
        if !known && !this.aborting && !matches!(error, TransactionError::NotBegun(_)) {
            self.parts.runtime.metrics.transactions_aborted.inc();
        }
        this.die();
        let again = self
            .fenced
            .is_some_and(|last| now.saturating_duration_since(last) < TWIN);
        match error {
            // Each output that comes back reports it, and so does a call that was under way: it is one event.
            TransactionError::Fenced(_) | TransactionError::Forgotten(_) | TransactionError::NotBegun(_) if known => {}
            TransactionError::Fenced(reason) if !again => {
                self.fenced = Some(now);
                self.give_way(format!(
                    "the producer was fenced, by the time-out of its transaction or by another process with its transactional id: {reason}"
                ));
            }
            TransactionError::Forgotten(reason) | TransactionError::NotBegun(reason) => {
                // Here it is no progress to take records again and again.
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
