//! Exactly once: commits what was published since the last commit together with the offsets it came from.
//!
//! The loop cuts a transaction every interval ([`Tally`]), waits until all of its events have ended, and commits beside the loop. Outputs of records
//! that are taken in meanwhile wait at the turnstile. What cannot be committed (an event that did not finish, a refused delivery, a drain that ran
//! out of time, lost partitions) is aborted, and every partition starts again from the group's offset.
//!
//! Fencing has two parts. The group's metadata, taken before the offsets are sent, carries the generation: the brokers refuse the offsets of a member
//! that was thrown out. The transactional id carries an epoch: a process that starts with the same id ends what its predecessor left open, and fences
//! it.

mod fence;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use tokio::sync::mpsc;

use self::fence::halting;
use super::commit::LAST_COMMIT;
use super::{End, Loop, Parts};
use crate::ledger::Position;
use crate::pipeline::completions::Batch;
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::pipeline::runner::Runtime;
use crate::retry::Class;
use crate::shutdown::LEAVE_COMMIT;
use crate::sink::transactions::{self, TransactionError};
use crate::sink::turnstile::Turnstile;
use crate::sink::{self, BATCH_MATE, PURGED};
use crate::source::assignment::{Partition, Phase, Ticket};
use crate::source::context;
use crate::source::tally::{Step, Tally};

/// The longest pause after an abort; shorter than the last commit may take.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a commit may still take when the drain has used up its time.
const GRACE: Duration = Duration::from_secs(5);

/// The parts of a loop's transactions.
pub struct TransactionParts {
    /// The loop's own producer, which has a transactional id.
    pub producer: Arc<sink::Producer>,
    /// The turnstile of that producer.
    pub turnstile: Arc<Turnstile>,
    /// How long a transaction is open.
    pub interval: Duration,
    /// How long it may last; less than the brokers' own limit.
    pub limit: Duration,
}

/// An output that was refused: its input, its bytes, and why.
struct Suspect {
    input: (Partition, i64),
    bytes: usize,
    failure: Failure,
}

/// The result of a task beside the loop.
pub(super) enum Answer {
    Committed(Result<(), TransactionError>, Duration),
    Aborted(Result<(), TransactionError>),
}

/// The transactions of a loop.
pub(super) struct Transactions {
    parts: TransactionParts,
    tally: Tally,
    /// A commit or an abort is under way.
    busy: bool,
    /// An abort is under way or has failed; its transaction is counted already.
    aborting: bool,
    /// Offsets have to be committed although nothing was admitted.
    offsets_only: bool,
    /// Drained partitions that wait for a commit before they are given back, and until when they wait.
    leaving: Vec<(Partition, Position)>,
    leave_by: Option<Instant>,
    /// The group gets no answer before that commit is over.
    blocked: bool,
    /// When it gets one all the same, because the call under way is not answered.
    give_back_by: Option<Instant>,
    /// The producer cannot continue.
    dead: bool,
    /// Commits made, including those that only hold where partitions begin.
    commits: u64,
    /// The offsets in the commit under way; without a ticket if the partition has left its ledger.
    committing: Vec<(Partition, Option<Ticket>, i64)>,
    /// The largest output that was refused in the open transaction. Brokers refuse whole batches, so its neighbours are refused with it.
    suspect: Option<Suspect>,
    /// The transaction that was aborted last; deliveries of it may still be reported.
    aborted: u64,
    /// Partitions whose log went back meanwhile: refused outputs of the old log say nothing about the new one.
    gone: HashSet<Partition>,
    /// An output of the open transaction was refused with a transient error.
    refused: bool,
    /// Transactions aborted for such an error since the last commit: the more, the longer the pause before the next.
    aborts_in_a_row: u32,
    pub(super) answers: (mpsc::UnboundedSender<Answer>, mpsc::UnboundedReceiver<Answer>),
}

/// Takes the transactional id before joining the group, because the group's offsets are not settled before. If a stop ends the wait, the records that the
/// previous consumer `left` run again.
pub(super) async fn init(parts: &mut Parts, left: usize) -> Result<Option<Transactions>, End> {
    let Some(from) = parts.transactions.take() else {
        return Ok(None);
    };
    let (producer, stopped) = (from.producer.clone(), parts.stop.clone());
    let (runtime, state) = (parts.runtime.clone(), parts.state.clone());
    let goes_on = move |error: &str| {
        if *stopped.borrow() || stopped.has_changed().is_err() {
            return false;
        }
        state.waits_for(Some(format!("its transactional id: {error}")));
        tell(&runtime, "transactional id", error);
        true
    };
    let mut task = parts.io.spawn_blocking(move || transactions::init(&producer, goes_on));
    let result = loop {
        parts.state.beat();
        context::take_reports(&parts.consumer);
        tokio::select! {
            result = &mut task => break result,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    };
    match result {
        Ok(Ok(())) => {}
        Ok(Err(TransactionError::GivenUp)) => return Err(End::stopped(left)),
        // Another producer can take the id, and after three in a row without a commit the pipeline halts.
        Ok(Err(TransactionError::Forgotten(why) | TransactionError::NotBegun(why))) => {
            tracing::error!(pipeline = %parts.runtime.program.name, "{why}; another producer takes the transactional id");
            return Err(End::Replaced {
                why,
                took: false,
                left,
                waits_for: None,
            });
        }
        Ok(Err(error)) => return Err(End::Halted(halting(&error))),
        Err(error) => return Err(End::Halted(Failure::fatal("internal", error.to_string()))),
    }
    Ok(Some(Transactions::new(from)))
}

/// Logs that a call is made again, for as long as it takes; `kind` names its purpose.
fn tell(runtime: &Runtime, kind: &'static str, error: &str) {
    if let Some(suppressed) = runtime.told(kind) {
        tracing::warn!(pipeline = %runtime.program.name, suppressed, "{kind}: {error}; trying again");
    }
}

/// Decides whether to repeat a call: as long as somebody waits for its answer.
fn as_long_as(
    answer: mpsc::UnboundedSender<Answer>,
    runtime: Arc<Runtime>,
    kind: &'static str,
) -> impl Fn(&str) -> bool {
    move |error| {
        if answer.is_closed() {
            return false;
        }
        tell(&runtime, kind, error);
        true
    }
}

impl Transactions {
    /// How many transactions were committed.
    pub(super) fn commits(&self) -> u64 {
        self.commits
    }

    /// The transactions of a producer that has taken its transactional id, from the first one on.
    pub(super) fn new(from: TransactionParts) -> Transactions {
        let tally = Tally::new(from.interval, from.limit);
        from.turnstile.open(tally.open());
        Transactions {
            parts: from,
            tally,
            busy: false,
            aborting: false,
            offsets_only: false,
            leaving: Vec::new(),
            leave_by: None,
            blocked: false,
            give_back_by: None,
            dead: false,
            commits: 0,
            committing: Vec::new(),
            suspect: None,
            aborted: 0,
            gone: HashSet::new(),
            refused: false,
            aborts_in_a_row: 0,
            answers: mpsc::unbounded_channel(),
        }
    }

    /// A partition's log went back: refused outputs of the old log say nothing about the new one. If finished records `repeat`, their outputs must not be
    /// committed.
    pub(super) fn went_back(&mut self, partition: Partition, repeats: bool) {
        self.suspect.take_if(|suspect| suspect.input.0 == partition);
        self.gone.insert(partition);
        if repeats {
            self.tally.spoil_all();
        }
    }

    /// Whether offsets have to be committed, with or without records. Each is reported once: what the commit does not carry is noted again.
    fn has_offsets(&mut self) -> bool {
        std::mem::take(&mut self.offsets_only) || !self.leaving.is_empty()
    }

    /// Interval between commits.
    pub(super) fn interval(&self) -> Duration {
        self.parts.interval
    }

    /// When something is due, if time alone makes it so.
    pub(super) fn due(&self) -> Option<Instant> {
        if !self.is_idle() {
            return None;
        }
        [self.tally.due(), self.leave_by].into_iter().flatten().min()
    }

    /// Partitions that are in no ledger any more and whose commit is not confirmed.
    pub(super) fn uncommitted(&self) -> usize {
        let carried = self.committing.iter().filter(|(_, ticket, _)| ticket.is_none());
        self.leaving.len() + carried.count()
    }

    /// Keeps no partition for a commit any more. Those that no commit carries yet are never committed, because others have them by then; returns their
    /// number.
    fn let_go(&mut self) -> usize {
        self.blocked = false;
        (self.leave_by, self.give_back_by) = (None, None);
        std::mem::take(&mut self.leaving).len()
    }

    /// Whether the transaction that new events belong to has room for another one.
    pub(super) fn has_room(&self) -> bool {
        self.tally.has_room()
    }

    /// Admits an event; returns the transaction that it belongs to.
    pub(super) fn admit(&mut self, now: Instant) -> u64 {
        self.tally.admit(now)
    }

    /// Whether a commit or an abort can be begun.
    fn is_idle(&self) -> bool {
        !self.busy && !self.dead
    }

    /// Nothing more of this producer will ever be committed.
    fn die(&mut self) {
        self.dead = true;
        self.blocked = false;
        self.parts.turnstile.open(u64::MAX);
    }
}

/// The next answer from beside the loop; without transactions, never ready.
pub(super) async fn answer(transactions: &mut Option<Transactions>) -> Option<Answer> {
    match transactions {
        Some(transactions) => transactions.answers.1.recv().await,
        None => std::future::pending().await,
    }
}

impl Loop {
    /// Commits or aborts what is due.
    pub(super) fn transact(&mut self, now: Instant) {
        let hurry = self.stopping.is_some() || self.assignment.next_deadline().is_some();
        let Some(this) = self.transactions.as_mut().filter(|this| this.is_idle()) else {
            return;
        };
        let must = this.has_offsets();
        match this.tally.next(now, hurry, must) {
            Step::Commit => self.commit_transaction(),
            Step::Abort => self.abort_transaction("an event did not finish"),
            Step::Wait if this.leave_by.is_some_and(|by| now >= by) => {
                self.abort_transaction("the partitions that leave did not drain in time");
            }
            Step::Wait => {}
        }
    }

    /// Notes whether there is an offset that no transaction carries because nothing was admitted: the beginning of a partition. While a commit is under
    /// way, the offset may be in that one.
    pub(super) fn note_offsets_without_records(&mut self) {
        if let Some(this) = &mut self.transactions {
            this.offsets_only =
                this.is_idle() && !this.tally.is_used() && self.assignment.committable().next().is_some();
        }
    }

    /// Aborts if a drain reaches its deadline with unfinished events: their outputs cannot be told from those of other events.
    pub(super) fn abort_what_does_not_drain(&mut self, now: Instant) {
        let idle = self.transactions.as_ref().is_some_and(Transactions::is_idle);
        if !idle || self.assignment.next_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let undrained = |at: crate::source::assignment::Held<'_>| {
            at.phase == Phase::Draining && at.ledger.is_some_and(|ledger| ledger.in_flight() > 0)
        };
        if self.assignment.held().any(undrained) {
            self.abort_transaction("partitions that leave did not drain in time");
        }
    }

    /// Aborts because partitions have gone to others already: nothing that came from them may be committed.
    pub(super) fn abort_what_is_lost(&mut self) {
        if self
            .transactions
            .as_ref()
            .is_some_and(|this| this.is_idle() && this.tally.is_used())
        {
            self.abort_transaction("partitions were lost");
        }
    }

    /// Whether the group has to wait for a commit.
    pub(super) fn waits_for_commit(&self) -> bool {
        self.transactions.as_ref().is_some_and(|this| this.blocked)
    }

    /// Until when to wait for a call that holds up partitions from now on. If the drain has used up its time, the group has patience for no more than this
    /// after it.
    fn give_back_by(&self, now: Instant) -> Instant {
        now.min(self.drain_by) + LEAVE_COMMIT
    }

    /// Keeps drained partitions until they are committed.
    pub(super) fn leave_with_commit(&mut self, positions: Vec<(Partition, Position)>) {
        let now = Instant::now();
        let over = self.last_commit.is_some_and(|by| now >= by);
        let (leave_by, give_back_by) = (self.drain_by.max(now + GRACE), self.give_back_by(now));
        let Some(this) = self.transactions.as_mut().filter(|this| !this.dead && !over) else {
            return self.run_again(positions.len());
        };
        this.blocked = true;
        this.leaving.extend(positions);
        this.leave_by.get_or_insert(leave_by);
        if this.busy {
            this.give_back_by.get_or_insert(give_back_by);
        }
    }

    /// Gives up on the commit that partitions wait for, when its time is over. A commit under way that carries them may still succeed: it has the
    /// generation that they leave behind, and their next owner gets no offset before it is settled.
    pub(super) fn leave_without_commit(&mut self, now: Instant) {
        let last = self.last_commit;
        let Some(this) = self.transactions.as_mut().filter(|this| this.blocked) else {
            return;
        };
        let by = [this.give_back_by, last].into_iter().flatten().min();
        if by.is_some_and(|by| now >= by) {
            let partitions = this.let_go();
            self.give_back_at_last(partitions);
        }
    }

    fn commit_transaction(&mut self) {
        let held: Vec<_> = self.assignment.committable().collect();
        let group = self.parts.consumer.group_metadata();
        let give_back_by = self.give_back_by(Instant::now());
        let Some(this) = &mut self.transactions else { return };
        let leaving = std::mem::take(&mut this.leaving);
        this.leave_by = None;
        this.give_back_by = this.blocked.then_some(give_back_by);
        this.committing = held
            .iter()
            .map(|(partition, ticket, position)| (*partition, Some(*ticket), position.offset))
            .chain(
                leaving
                    .iter()
                    .map(|(partition, position)| (*partition, None, position.offset)),
            )
            .collect();
        this.busy = true;
        let (producer, answer) = (this.parts.producer.clone(), this.answers.0.clone());
        let positions = held
            .iter()
            .map(|(partition, _, position)| (*partition, *position))
            .chain(leaving);
        let list = self.commit_list(positions);
        let goes_on = as_long_as(answer.clone(), self.parts.runtime.clone(), "commit of a transaction");
        let beside = self.beside("commits a transaction");
        self.parts.io.spawn_blocking(move || {
            let _beside = beside;
            let started = Instant::now();
            let result = match &group {
                _ if list.count() == 0 => transactions::commit(&producer, None, goes_on),
                Some(group) => transactions::commit(&producer, Some((&list, group)), goes_on),
                // Outputs without their offsets would come again.
                None => Err(TransactionError::Abort("the consumer is in no group".to_owned())),
            };
            // The loop may have ended meanwhile.
            let _ = answer.send(Answer::Committed(result, started.elapsed()));
        });
    }

    pub(super) fn abort_transaction(&mut self, reason: &str) {
        let in_ledgers = self.left_in_ledgers();
        let Some(this) = &mut self.transactions else { return };
        let left = in_ledgers + this.uncommitted();
        this.let_go();
        this.committing.clear();
        // From here on none of its outputs is handed to the producer.
        this.aborted = this.tally.open();
        let opened = this.tally.opened();
        let over = this.tally.aborted();
        this.parts.turnstile.open(over);
        (this.busy, this.aborting) = (true, true);
        this.offsets_only = false;
        let (producer, answer) = (this.parts.producer.clone(), this.answers.0.clone());
        self.run_again(left);
        self.parts.runtime.metrics.transactions_aborted.inc();
        if let Some(suppressed) = self.parts.runtime.told("transaction") {
            tracing::warn!(pipeline = %self.name(), suppressed, "transaction aborted, and what was in it runs again: {reason}");
        }
        self.note_error(format!("transaction aborted: {reason}"));
        let pause = self.pause_after_abort();
        self.assignment.restart();
        let goes_on = as_long_as(answer.clone(), self.parts.runtime.clone(), "abort of a transaction");
        let beside = self.beside("aborts a transaction");
        self.parts.io.spawn_blocking(move || {
            let _beside = beside;
            let result = transactions::abort(&producer, opened, goes_on);
            std::thread::sleep(pause);
            // The loop may have ended meanwhile.
            let _ = answer.send(Answer::Aborted(result));
        });
    }

    /// How long the turnstile stays shut after an abort: otherwise outputs that brokers refuse for the moment would run again at once, and again.
    fn pause_after_abort(&mut self) -> Duration {
        let random = self.jitter.next_u64();
        let Some(this) = &mut self.transactions else {
            return Duration::ZERO;
        };
        let refused = std::mem::take(&mut this.refused);
        // A record refused for good becomes a dead letter when it runs again, which is progress.
        if this.suspect.is_some() {
            this.aborts_in_a_row = 0;
        }
        if !refused || this.suspect.is_some() || self.stopping.is_some() {
            return Duration::ZERO;
        }
        let delay = self.parts.runtime.backoff.delay(this.aborts_in_a_row, random);
        this.aborts_in_a_row += 1;
        delay.min(LONGEST_PAUSE)
    }

    pub(super) fn transaction_answered(&mut self, answer: Answer) {
        let Some(this) = &mut self.transactions else { return };
        this.busy = false;
        this.give_back_by = None;
        match answer {
            Answer::Committed(result @ (Ok(()) | Err(TransactionError::NotBegun(_))), took) => {
                let open = this.tally.committed(Instant::now());
                this.commits += 1;
                this.aborts_in_a_row = 0;
                this.gone.clear();
                this.blocked = !this.leaving.is_empty();
                // If no new transaction was begun, none of its outputs may be handed over.
                if result.is_ok() {
                    this.parts.turnstile.open(open);
                }
                let committed = std::mem::take(&mut this.committing);
                let metrics = &self.parts.runtime.metrics;
                metrics.commits.inc();
                metrics.transactions_committed.inc();
                metrics.transaction_commit.observe(took.as_secs_f64());
                for (partition, ticket, offset) in committed {
                    self.refused.committed(partition, offset);
                    self.counted.committed(partition, offset);
                    let Some(ticket) = ticket else { continue };
                    self.assignment.committed(ticket, offset);
                    if let Some(held) = self.held.get_mut(&partition).filter(|held| held.ticket == ticket) {
                        held.committed(offset);
                    }
                }
                if let Err(error) = result {
                    self.given_up(&error, Instant::now());
                }
            }
            Answer::Committed(Err(TransactionError::Abort(reason)), _) => {
                self.parts.runtime.metrics.commit_failures.inc();
                self.abort_transaction(&reason);
            }
            Answer::Aborted(result) => {
                // By now all its deliveries are reported.
                self.take_ended(&mut Batch::default());
                let Some(this) = &mut self.transactions else { return };
                if let Some(Suspect { input, failure, .. }) = this.suspect.take()
                    && self.assignment.holds(input.0)
                {
                    self.refused
                        .insert(input, failure, |partition| self.held.contains_key(&partition));
                }
                // After the above, so that the next consumer knows what was refused, too.
                if let Err(error) = result {
                    return self.given_up(&error, Instant::now());
                }
                this.aborting = false;
                this.gone.clear();
                this.tally.opens(Instant::now());
                this.parts.turnstile.open(this.tally.open());
            }
            Answer::Committed(Err(error), _) => {
                self.parts.runtime.metrics.commit_failures.inc();
                self.given_up(&error, Instant::now());
            }
        }
    }

    /// The brokers did not accept an output, so its transaction cannot be committed.
    pub(super) fn undelivered_in_transaction(&mut self, event: Box<Event>, failure: Failure) {
        let Some(this) = &mut self.transactions else { return };
        let origin = &event.origin;
        let mut probe = event.probe;
        let current = [this.tally.open(), this.aborted].contains(&event.transaction);
        if let Some(error) = transactions::given_up(&this.parts.producer) {
            self.given_up(&error, Instant::now());
        } else if failure.class == Class::Fatal {
            self.halt(failure);
        } else if current {
            // A purged output only counts as news if nothing else was refused.
            let told = failure.reason == PURGED && (this.refused || this.suspect.is_some());
            let alone = failure.class == Class::Transient && failure.reason != BATCH_MATE && !told;
            if alone && event.transaction == this.tally.open() {
                this.refused = true;
                let runtime = &self.parts.runtime;
                runtime.metrics.failed("sink", "transient", "warn");
                if let Some(suppressed) = runtime.told(failure.reason) {
                    tracing::warn!(pipeline = %self.name(), reason = failure.reason, suppressed, "{failure}; its transaction is aborted");
                }
                runtime.gates.sink.failed(std::mem::take(&mut probe));
            }
            let bytes = event.refused_bytes;
            let partition = self.partition(&origin.topic, origin.partition);
            if let (Some(this), Some(partition)) = (&mut self.transactions, partition) {
                let larger = this.suspect.as_ref().is_none_or(|suspect| bytes > suspect.bytes);
                // If its assignment ended, other than by the abort, another record may have its offset.
                let stands = if event.transaction == this.aborted {
                    !this.gone.contains(&partition)
                } else {
                    self.held
                        .get(&partition)
                        .is_some_and(|held| held.ticket == origin.ticket)
                };
                if failure.class == Class::Permanent && larger && stands {
                    this.suspect = Some(Suspect {
                        input: (partition, origin.offset),
                        bytes,
                        failure,
                    });
                }
                this.tally.spoil(event.transaction);
            }
        }
        if probe {
            // This probe will not be answered any more, and probes that are out hold back others.
            self.parts.runtime.gates.sink.returned();
        }
        self.release(event, false);
    }

    /// The event has come back; `finished` says whether its offset counts.
    pub(super) fn left_transaction(&mut self, transaction: u64, finished: bool) {
        if let Some(this) = &mut self.transactions {
            if !finished {
                this.tally.spoil(transaction);
            }
            this.tally.ended(transaction);
        }
    }

    /// Commits a last time, or aborts what cannot be committed; returns whether that is over.
    pub(super) fn last_transaction_is_over(&mut self, now: Instant) -> bool {
        let deadline = *self.last_commit.get_or_insert(now + LAST_COMMIT);
        self.note_offsets_without_records();
        let Some(this) = self.transactions.as_mut().filter(|_| now < deadline) else {
            return true;
        };
        if this.dead {
            return true;
        }
        if this.busy {
            return false;
        }
        let unfinished = this.tally.unfinished();
        let must = this.has_offsets();
        match this.tally.next(now, true, must) {
            Step::Commit => self.commit_transaction(),
            Step::Abort => self.abort_transaction("an event did not finish"),
            Step::Wait if unfinished > 0 => self.abort_transaction("not everything finished in time"),
            Step::Wait => return true,
        }
        false
    }
}

#[cfg(test)]
mod tests;
