//! One consumer: polls, decodes, admits, dispatches, takes back, commits. The heart of Messina.
//!
//! Each round handles, in this order: what librdkafka's callbacks reported; ended events; new records while budget and transaction have room, at most
//! a wave of workers at a time; due work (commits, deadlines, the status). Then it sleeps until there is something to do. When the budget is full the
//! loop stops taking records at once. If that lasts, it pauses the partitions and keeps polling, so that it stays in its group. It does not pause at
//! once, because a pause discards what librdkafka has prefetched.
//!
//! Invariants: an offset is committed only as the ledger allows; every admitted event comes back exactly once; after a fatal failure nothing is taken
//! in, and what is in flight may still finish and be committed.

mod adapt;
mod beside;
mod commit;
mod ended;
mod ends;
mod gather;
mod gone;
mod intake;
mod kept_out;
mod membership;
mod passed_over;
mod places;
mod rebuild;
mod refused;
mod report;
mod transaction;
mod uncommitted;
mod watchdogs;
mod withdraw;
mod workers;

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use self::adapt::{Gauges, Hearing, Seen};
use self::ends::Ends;
use self::gather::Gathering;
use self::rebuild::Kept;
pub use self::rebuild::run_and_rebuild;
use self::refused::Refused;
use self::uncommitted::Uncommitted;
use self::watchdogs::Watchdogs;
use super::assignment::{Assignment, Partition, Ticket};
use super::bounds::Bounds;
use super::context::SourceContext;
use super::moderation::Rest;
use super::read::Plans;
use super::status::{LoopState, STOPPED_BY_LIMIT};
use crate::budget::Budget;
use crate::concurrency::Concurrency;
use crate::config::{OffsetReset, OnTombstone};
use crate::lanes::{Lanes, Order};
use crate::pipeline::completions::{Batch, Completions};
use crate::pipeline::event::{Event, Tenure};
use crate::pipeline::failure::Failure;
use crate::pipeline::plan::SchemaPlan;
use crate::pipeline::runner::{Member, Runtime};
use crate::pipeline::schemas::Schemas;
use crate::retry::Jitter;
use crate::sink::limits::{Limits, Verdict};
use crate::telemetry::PartitionMetrics;
use crate::telemetry::handles::LocalPipeline;
use crate::turns::Turns;

pub use transaction::TransactionParts;
use transaction::Transactions;
pub(crate) use workers::AT_WORK;
use workers::Workers;

/// Records taken per round before ended events are handled again.
const ROUND: usize = 256;
/// How long intake is refused before the partitions are paused: a pause discards what was fetched, and librdkafka takes up to a second to continue after it.
const PAUSE_AFTER: Duration = Duration::from_secs(2);
/// How long the registry may take to answer before a partition that waits for it is paused by itself.
const PATIENCE: Duration = Duration::from_millis(250);
/// After such a pause, how long the registry gets no time at all: a partition whose records each name another schema is soon fetched again, and waits again.
const IMPATIENT_FOR: Duration = Duration::from_secs(10);
/// Interval between commits.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// A member that has not joined yet is not closed earlier than this after its subscription. The group's answer to the first join request contains the
/// member's id. A member that goes before cannot leave the group, which then waits for it until its session times out.
const NAMED_AFTER: Duration = Duration::from_secs(2);
/// How long a consumer may take to close. Brokers that do not answer delay it for as long as librdkafka waits for them (`socket.timeout.ms`, a minute), but
/// what takes far longer never ends.
const CLOSES_WITHIN: Duration = Duration::from_secs(300);
/// Interval between status updates.
const STATUS_EVERY: Duration = Duration::from_millis(250);

/// The parts of a loop.
pub struct Parts {
    /// The consumer; subscribed by the loop.
    pub consumer: Arc<StreamConsumer<SourceContext>>,
    /// The topics.
    pub topics: Vec<String>,
    /// Where partitions begin for which the group has no offset.
    pub offset_reset: OffsetReset,
    /// How records without a value end.
    pub tombstone: OnTombstone,
    /// The order of events.
    pub order: Order,
    /// This loop's share of the pipeline's budget.
    pub budget: Budget,
    /// Adapts the budget's limit of records; `None` if that is fixed.
    pub concurrency: Option<Concurrency>,
    /// How many ended events are kept for reuse: as many as may be in flight.
    pub pool: usize,
    /// When dead letters count as an outage; not shared with other loops. A consumer that replaces another one takes over its limits.
    pub limits: Option<Limits>,
    /// Plans by schema.
    pub schemas: Arc<Schemas>,
    /// Runs the events.
    pub runtime: Arc<Runtime>,
    /// Where tasks run.
    pub io: Handle,
    /// The published status of the loop.
    pub state: Arc<LoopState>,
    /// The loop's share in the rests of its thread.
    pub rest: Arc<Rest>,
    /// Whether the group keeps the member's place for a while after it ends (`group.instance.id`).
    pub static_member: bool,
    /// Whether the group uses the classic protocol, in which members join and leave by requests of their own.
    pub classic: bool,
    /// How long a drain may take, before a rebalance and at the end.
    pub drain_timeout: Duration,
    /// How long lag without progress is not yet a stall.
    pub stall_after: Duration,
    /// True once the process stops.
    pub stop: watch::Receiver<bool>,
    /// Commits outputs together with the offsets they came from; `None` under `at_least_once`.
    pub transactions: Option<TransactionParts>,
    /// The limits of a replay; without them everything is taken.
    pub bounds: Option<Arc<Bounds>>,
}

/// How a loop ended.
#[derive(Debug)]
pub enum End {
    /// Everything in flight finished and was committed.
    Drained,
    /// The deadline came first, some events came back unfinished, or the last commit was not acknowledged. This many records will be processed again,
    /// including finished ones behind an unfinished one.
    Abandoned(usize),
    /// It could not go on.
    Halted(Failure),
    /// Another consumer has to replace it and start from the last commit. It stood still although nothing held it up; or an output was refused after its turn
    /// was over; or brokers have forgotten its transactional id, have no transaction of its producer, or fenced it; or that producer cannot begin or continue
    /// a transaction; or its group keeps it out for now.
    Replaced {
        /// The reason, in words.
        why: String,
        /// Whether it had taken records; if brokers know nothing of its transactions, whether it had committed one.
        took: bool,
        /// Records that run again.
        left: usize,
        /// What the next one has to wait for before its group lets it in, if so.
        waits_for: Option<&'static str>,
    },
}

impl End {
    /// The end of a consumer that was told to stop and leaves this many records.
    fn stopped(left: usize) -> End {
        match left {
            0 => End::Drained,
            left => End::Abandoned(left),
        }
    }
}

/// What the loop keeps for a partition in addition to its ledger.
struct Held {
    ticket: Ticket,
    begun: Instant,
    tenure: Arc<Tenure>,
    parked: VecDeque<Box<Event>>,
    /// Since when there have been parked events without a break.
    parked_since: Option<Instant>,
    /// Paused by itself, as long as events are parked.
    waits: bool,
    /// The next record is no older than this: the time of the record taken last, or a later time at which no record was seen to wait.
    since_ms: Option<i64>,
    /// The group's committed offset, as far as it is known.
    committed: Option<i64>,
    metrics: PartitionMetrics,
}

impl Held {
    /// Notes the group's committed offset.
    fn committed(&mut self, offset: i64) {
        self.committed = Some(offset);
        self.metrics.committed_offset.set(offset);
    }
}

/// Where a partition is to start.
enum Begin {
    /// At the group's offset, if it has one, with the write clock and the leader epoch stored with it.
    Committed(Option<i64>, i64, i32),
    /// At its end, which is this offset, because the group has none.
    End(i64),
}

/// The group's answer about its committed offsets.
enum Fetched {
    /// Where these start.
    Known(Vec<(Ticket, Begin)>),
    /// It has not answered for these in this many attempts, so it is asked again.
    Unknown(Vec<(Partition, Ticket)>, u32),
}

type Resolved = (u32, Result<Arc<SchemaPlan>, Failure>);
/// The offsets of a commit that have arrived, whether it was begun at the end of the loop, and its result.
type Committed = (Vec<(Partition, Ticket, i64)>, bool, KafkaResult<()>);
/// The number of a commit of leaving partitions; if it failed, why, and how many of its partitions did not arrive.
type Left = (u64, Result<(), (KafkaError, usize)>);

struct Loop {
    parts: Parts,
    topics: Vec<Arc<str>>,
    /// Index in `topics` of the topic of the record taken last.
    last_topic: u16,
    assignment: Assignment,
    held: HashMap<Partition, Held, foldhash::fast::RandomState>,
    watchdogs: Watchdogs,
    ends: Ends,
    /// Assigned by the group, but not yet passed to librdkafka: offsets are being fetched.
    unanswered: HashSet<Partition>,
    /// Whether librdkafka has an answer to the last assignment, even if that lacks some of `unanswered`.
    answered: bool,
    cooperative: bool,
    lanes: Lanes<Box<Event>>,
    /// Replaces the lanes if events of one key may run at the same time.
    turns: Option<Turns<Ticket>>,
    completions: Arc<Completions>,
    workers: Workers,
    gathering: Gathering<Member>,
    plans: Plans,
    /// Schemas that the registry is being asked for, and since when.
    resolving: HashMap<u32, Instant>,
    /// Intake is held until this time, or until a schema is known.
    hold_until: Option<Instant>,
    /// Until this time intake is not held for a schema, because a partition was paused by itself.
    impatient_until: Option<Instant>,
    resolved: (mpsc::UnboundedSender<Resolved>, mpsc::UnboundedReceiver<Resolved>),
    fetched: (mpsc::UnboundedSender<Fetched>, mpsc::UnboundedReceiver<Fetched>),
    #[expect(
        clippy::vec_box,
        reason = "an event keeps its box on its way: the producer's queue holds it by pointer"
    )]
    pool: Vec<Box<Event>>,
    pool_limit: usize,
    metrics: LocalPipeline,
    full_since: Option<Instant>,
    paused: bool,
    stopping: Option<Instant>,
    last_commit: Option<Instant>,
    transactions: Option<Transactions>,
    /// When brokers last fenced its producer, or that of a consumer that it replaces.
    fenced: Option<Instant>,
    /// Up to where records that are gone from their log were reported: before the next commit the same place may be read again.
    gone_until: HashMap<Partition, i64>,
    /// Start offsets, with the leader epoch before each, that librdkafka was not ready to validate.
    unvalidated: HashMap<Partition, (i64, i32)>,
    /// Deadline of the drain that began last.
    drain_by: Instant,
    committing: bool,
    committed: (mpsc::UnboundedSender<Committed>, mpsc::UnboundedReceiver<Committed>),
    /// The commit before partitions are given back: its number, until when it is waited for, and the number of partitions.
    leaving: Option<(u64, Instant, usize)>,
    commits_left: u64,
    left: (mpsc::UnboundedSender<Left>, mpsc::UnboundedReceiver<Left>),
    /// Records that run again elsewhere or later, counted since the loop began to stop: aborts threw them away, or their partitions left without a commit.
    thrown_away: usize,
    /// Records that the previous consumer left, until this one has taken a record or caught up.
    left_before: usize,
    halted: Option<Failure>,
    /// Why another consumer has to replace this one.
    replace: Option<String>,
    /// What that one has to wait for before its group lets it in, if so.
    waits_for: Option<&'static str>,
    /// Its producer cannot be used any more and was withdrawn.
    withdrawn: bool,
    took: bool,
    /// Something came out of librdkafka's queue since the last status.
    took_since_status: bool,
    hearing: Hearing,
    last_complaint: Option<Instant>,
    /// When the producer was last checked for sending to former leaders.
    looked_at_producer: Option<Instant>,
    /// When librdkafka last reported that it cannot reach a broker.
    last_unreachable: Option<Instant>,
    seen: Option<Seen>,
    gauges: Gauges,
    refused: Refused,
    /// The dead letters that `stop_above` has counted. Their records end in the same way when they run again. Counted each time, a few of them would stop
    /// intake while something else holds up the commit, such as an output topic that may not be written to.
    counted: Uncommitted<()>,
    stopped_by_limit: bool,
    /// So many finished records wait behind an unfinished one that the ledger has to be bounded.
    ledger_full: bool,
    /// Memory of such records in all ledgers, as of the last status.
    waiting_bytes: usize,
    joined: bool,
    /// All partitions were lost in this epoch of the member, and the group has not answered since.
    lost: Option<i32>,
    last_errors: VecDeque<String>,
    jitter: Jitter,
}

/// Runs one consumer until it is told to stop or cannot go on. `kept` is what it takes over from the previous consumer and leaves to the next.
async fn run(mut parts: Parts, kept: &mut Kept) -> End {
    if let Some(limits) = kept.limits.take() {
        parts.limits = Some(limits);
    }
    let transactions = match transaction::init(&mut parts, kept.left).await {
        Ok(transactions) => transactions,
        Err(end) => {
            kept.limits = parts.limits.take();
            parts.consumer.context().close();
            // Dropping it waits for librdkafka's threads, and other loops may run on this thread.
            let io = parts.io.clone();
            drop(io.spawn_blocking(move || drop(parts)));
            return end;
        }
    };
    let topics: Vec<&str> = parts.topics.iter().map(String::as_str).collect();
    if let Err(error) = parts.consumer.subscribe(&topics) {
        return End::Halted(Failure::fatal(
            "subscribe",
            format!("cannot subscribe to {}: {error}", topics.join(", ")),
        ));
    }
    let named_by = Instant::now() + NAMED_AFTER;
    let consumer = parts.consumer.clone();
    let mut this = Loop::new(parts, transactions, std::mem::take(&mut kept.refused));
    this.counted = std::mem::take(&mut kept.counted);
    this.fenced = kept.fenced;
    this.left_before = kept.left;
    this.gone_until = std::mem::take(&mut kept.gone_until);
    let end = AssertUnwindSafe(this.live(&consumer, named_by)).catch_unwind().await;
    if end.is_err() {
        this.consumer_closes();
        // Its last status says that it runs, and closing the consumer may take minutes.
        this.parts.state.fallen();
    }
    *kept = Kept {
        refused: std::mem::take(&mut this.refused),
        limits: this.parts.limits.take(),
        counted: std::mem::take(&mut this.counted),
        fenced: this.fenced,
        left: this.left_before,
        gone_until: std::mem::take(&mut this.gone_until),
    };
    // Dropping it waits until its consumer is closed, and other loops may run on this thread.
    let (io, name) = (this.parts.io.clone(), this.name());
    let closing = io.spawn_blocking(move || drop((this, consumer)));
    let closed = closes(CLOSES_WITHIN, closing).await;
    let end = end.unwrap_or_else(|panic| resume_unwind(panic));
    if closed {
        return end;
    }
    tracing::error!(
        pipeline = %name, seconds = CLOSES_WITHIN.as_secs(),
        "a consumer did not close in time and is abandoned: it may keep its place in the group until the process is restarted"
    );
    unclosed(end)
}

/// Whether closing a consumer ends in time, even by a panic.
async fn closes(within: Duration, closing: impl Future) -> bool {
    tokio::time::timeout(within, closing).await.is_ok()
}

/// The end of a loop whose consumer never closes: the next one would wait for what this one holds, without a message.
fn unclosed(end: End) -> End {
    match end {
        End::Replaced { why, .. } => {
            let seconds = CLOSES_WITHIN.as_secs();
            let message = format!("{why}; the consumer could not be replaced: it had not closed after {seconds} s");
            End::Halted(Failure::fatal("consumer", message))
        }
        End::Drained | End::Abandoned(_) | End::Halted(_) => end,
    }
}

/// However the loop ends, even by a panic: from here on the group is answered at once, otherwise the consumer could not close.
impl Drop for Loop {
    fn drop(&mut self) {
        self.parts.consumer.context().close();
        self.completions.close();
        // Events that still run will not come back to the loop.
        let left = self.parts.budget.records();
        self.parts.runtime.metrics.given_up.inc_by(left as u64);
    }
}

impl Loop {
    fn new(parts: Parts, transactions: Option<Transactions>, refused: Refused) -> Loop {
        let metrics = parts.runtime.metrics.local();
        let stopped_by_limit = parts
            .limits
            .as_ref()
            .is_some_and(|limits| limits.verdict() != Verdict::Go);
        let mut gauges = Gauges::new(&parts.runtime.metrics, &parts.topics);
        gauges.dead_letter_stop.set(i64::from(stopped_by_limit));
        Loop {
            topics: parts.topics.iter().map(|t| Arc::from(t.as_str())).collect(),
            last_topic: 0,
            assignment: Assignment::with_writes(parts.runtime.program.writes()),
            held: HashMap::default(),
            ends: Ends::new(parts.stall_after),
            watchdogs: Watchdogs::new(parts.stall_after, transactions.as_ref().map(Transactions::interval)),
            unanswered: HashSet::new(),
            answered: true,
            cooperative: true,
            lanes: Lanes::new(parts.order),
            turns: parts.runtime.program.commutes().then(|| {
                // Without an output nobody can see the order.
                Turns::new(if parts.runtime.sink.is_some() {
                    parts.order
                } else {
                    Order::None
                })
            }),
            completions: Arc::default(),
            workers: Workers::new(parts.runtime.clone(), parts.io.clone()),
            gathering: Gathering::default(),
            plans: Plans::default(),
            resolving: HashMap::new(),
            hold_until: None,
            impatient_until: None,
            resolved: mpsc::unbounded_channel(),
            fetched: mpsc::unbounded_channel(),
            pool: Vec::new(),
            pool_limit: parts.pool,
            metrics,
            full_since: None,
            paused: false,
            stopping: None,
            last_commit: None,
            transactions,
            fenced: None,
            gone_until: HashMap::new(),
            unvalidated: HashMap::new(),
            drain_by: Instant::now(),
            committing: false,
            committed: mpsc::unbounded_channel(),
            leaving: None,
            commits_left: 0,
            left: mpsc::unbounded_channel(),
            thrown_away: 0,
            left_before: 0,
            halted: None,
            replace: None,
            waits_for: None,
            withdrawn: false,
            took: false,
            took_since_status: false,
            hearing: Hearing::default(),
            last_complaint: None,
            looked_at_producer: None,
            last_unreachable: None,
            seen: None,
            gauges,
            refused,
            counted: Uncommitted::default(),
            stopped_by_limit,
            ledger_full: false,
            waiting_bytes: 0,
            joined: false,
            lost: None,
            last_errors: VecDeque::new(),
            jitter: Jitter::unique(),
            parts,
        }
    }

    /// Runs the loop and leaves the group.
    async fn live(&mut self, consumer: &StreamConsumer<SourceContext>, named_by: Instant) -> End {
        let end = self.turn(consumer).await;
        self.wait_for_ends().await;
        if !self.joined {
            tokio::time::sleep_until(named_by.into()).await;
        }
        self.consumer_closes();
        self.leave_group(consumer).await;
        // It has no partitions any more, and nothing updates the status after this.
        self.assignment = Assignment::new();
        let _ = self.publish_status(match &end {
            End::Halted(_) => "halted",
            End::Drained | End::Abandoned(_) => "stopped",
            End::Replaced { .. } => "rebuilding",
        });
        self.parts.state.ended();
        end
    }

    async fn turn(&mut self, consumer: &StreamConsumer<SourceContext>) -> End {
        let mut stream = consumer.stream();
        let mut batch = Batch::default();
        let mut next_commit = Instant::now() + COMMIT_EVERY;
        let mut next_status = Instant::now();
        loop {
            self.parts.state.beat();
            self.take_notices();
            self.act();
            self.take_ended(&mut batch);
            self.weigh();
            self.take_resolved();

            if self.takes_records() && !self.holds_intake() {
                for _ in 0..ROUND {
                    match stream.next().now_or_never() {
                        Some(Some(message)) => self.take(message),
                        _ => break,
                    }
                    if self.parts.budget.is_full()
                        || !self.is_paced()
                        || self.workers.are_a_wave()
                        || self.holds_intake()
                        || !self.transaction_has_room()
                    {
                        break;
                    }
                }
            }
            self.regulate();
            self.workers.go_first().await;

            let now = Instant::now();
            // Before the transaction: it carries the offsets of what has drained, or an abort withdraws them.
            self.act();
            self.transact(now);
            // By now a full transaction has made room for the next one.
            self.write_what_is_due(now);
            if now >= next_commit {
                self.commit();
                next_commit = now + COMMIT_EVERY;
            }
            if now >= next_status {
                self.moderate();
                self.metrics.flush();
                self.adapt();
                self.look_for_membership();
                let fetches_nothing = self.publish_status(self.phase());
                self.watch(fetches_nothing);
                next_status = now + STATUS_EVERY;
            }
            self.abort_what_does_not_drain(now);
            self.withdraw_what_does_not_drain(now);
            self.assignment.tick(now);
            self.act();
            self.leave_at_last(now);
            self.leave_without_commit(now);
            if let Some(end) = self.end(now) {
                return end;
            }

            let due = self.transactions.as_ref().and_then(Transactions::due);
            let rows = self.gathering.due().unwrap_or(next_status);
            let held = self.hold_until.filter(|until| *until > now).unwrap_or(next_status);
            let wake = due
                .unwrap_or(next_status)
                .min(rows)
                .min(held)
                .min(next_commit)
                .min(next_status)
                .into();
            let polls = (self.takes_records() && !self.holds_intake())
                || self.paused
                || self.stopping.is_some()
                || self.halted.is_some();
            tokio::select! {
                () = self.completions.ready() => {}
                message = stream.next(), if polls => {
                    // A stopping loop admits nothing; what is not admitted is not committed past.
                    if let Some(message) = message && self.stopping.is_none() {
                        self.take(message);
                    }
                }
                Some((id, plan)) = self.resolved.1.recv() => self.schema_known(id, plan),
                Some((offsets, last, result)) = self.committed.1.recv() => self.commit_answered(offsets, last, result),
                Some((number, result)) = self.left.1.recv() => self.leave_answered(number, result),
                Some(ends) = self.ends.answers.1.recv() => self.ends.answered(ends),
                Some(answer) = transaction::answer(&mut self.transactions) => self.transaction_answered(answer),
                Some(fetched) = self.fetched.1.recv() => self.offsets_fetched(fetched),
                () = tokio::time::sleep_until(wake) => {}
                _ = self.parts.stop.changed(), if self.stopping.is_none() => self.stop(),
            }
        }
    }

    fn phase(&self) -> &'static str {
        if self.halted.is_some() {
            "halted"
        } else if self.stopped_by_limit {
            STOPPED_BY_LIMIT
        } else if self.stopping.is_some() {
            "stopping"
        } else if !self.joined || self.lost.is_some() {
            "joining"
        } else {
            "running"
        }
    }

    fn takes_records(&self) -> bool {
        !self.is_closed() && self.is_paced()
    }

    /// Whether nothing is admitted before something ends. The pace of a replay does not count, because it only waits for time.
    fn is_closed(&self) -> bool {
        self.is_full()
            || self.stopping.is_some()
            || self.halted.is_some()
            || self.stopped_by_limit
            || !self.transaction_has_room()
    }

    fn transaction_has_room(&self) -> bool {
        self.transactions.as_ref().is_none_or(Transactions::has_room)
    }

    /// Whether intake is held for the moment that the registry may take to answer: too short for a pause, and not a lack of room.
    fn holds_intake(&self) -> bool {
        self.hold_until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether the pace of a replay allows another record.
    fn is_paced(&self) -> bool {
        let bounds = self.parts.bounds.as_ref();
        bounds.is_none_or(|bounds| bounds.has_room(Instant::now()))
    }

    /// Pauses the partitions when the budget has been full for a while, and resumes them when there is room.
    fn regulate(&mut self) {
        let full = !self.takes_records();
        match (full, self.full_since) {
            (false, _) => self.full_since = None,
            (true, None) => self.full_since = Some(Instant::now()),
            (true, Some(_)) => {}
        }
        let long = self.full_since.is_some_and(|since| since.elapsed() >= PAUSE_AFTER);
        if long && !self.paused {
            self.pause(true);
            if self.paused {
                self.parts.runtime.metrics.pauses.inc();
            }
        } else if !full && self.paused {
            self.pause(false);
        }
    }

    fn pause(&mut self, pause: bool) {
        let done = self.parts.consumer.assignment().and_then(|list| {
            if pause {
                self.parts.consumer.pause(&list)
            } else {
                self.parts.consumer.resume(&self.without_waiting(&list))
            }
        });
        match done {
            Ok(()) => self.paused = pause,
            Err(error) => self.note_error(format!("{}: {error}", if pause { "pause" } else { "resume" })),
        }
    }

    /// The partitions of a list that are not paused by themselves.
    fn without_waiting(&self, list: &TopicPartitionList) -> TopicPartitionList {
        let mut others = TopicPartitionList::with_capacity(list.count());
        for element in list.elements() {
            let partition = self.partition(element.topic(), element.partition());
            let held = partition.and_then(|partition| self.held.get(&partition));
            if !held.is_some_and(|held| held.waits) {
                others.add_partition(element.topic(), element.partition());
            }
        }
        others
    }
}

#[cfg(test)]
mod tests;
