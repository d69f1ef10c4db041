//! An event: the bytes of one record in process, what was read from it, and the partition that it belongs to.
//!
//! The consumer loop creates it, it belongs to exactly one place at a time (a lane, a task, the producer's queue), and it returns to the loop as a
//! [`Completion`]. If it is dropped anywhere else, as by a panic in a task, its `Drop` reports that, so that no offset is ever committed past a
//! record that vanished.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use rdkafka::message::OwnedHeaders;
use tokio::sync::Notify;

use super::completions::{Completion, Completions, How};
use super::failure::Failure;
use super::plan::SchemaPlan;
use crate::avro::PADDING;
use crate::avro::value::Value;
use crate::kafka::headers;
use crate::lanes::LaneId;
use crate::outcome::Outcome;
use crate::source::assignment::Ticket;
use crate::store::cache::Hit;
use crate::telemetry::traces::Span;
use crate::turns::Turn;

/// The most memory that a buffer of an ended event keeps, in bytes.
const KEPT: usize = 16 * 1024;
/// So much a buffer may have for any record, however small, in bytes: records of different sizes take turns in it, and ask for no memory.
const ROOMY: usize = 4 * 1024;
/// So much that an event holds of a step is not counted: a row of the usual size.
const SMALL: usize = 1024;
/// What librdkafka keeps for each header beside its name and value, in bytes.
const HEADER: usize = 64;

/// Where an event came from, and what the ledger and the lanes know it by.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The assignment of the partition that the record was read under.
    pub ticket: Ticket,
    /// Topic.
    pub topic: Arc<str>,
    /// Kafka's number of the partition.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// The record's timestamp, milliseconds since 1970; none where the record has none.
    pub timestamp_ms: Option<i64>,
    /// The timestamp of every row that the record writes, microseconds since 1970 (promise 2).
    pub write_timestamp_us: i64,
}

/// One assignment of a partition, as all of its events know it.
#[derive(Debug, Default)]
pub struct Tenure {
    over: AtomicBool,
    ended: Notify,
    outputs: AtomicUsize,
}

impl Tenure {
    /// The partition has left: what still runs may give up.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.ended.notify_waiters();
    }

    /// Returns once the partition has left.
    pub async fn ended(&self) {
        // Made before the look, for it hears of every end from here on.
        let ended = self.ended.notified();
        if !self.over.load(Ordering::SeqCst) {
            ended.await;
        }
    }

    /// Whether a producer that keeps an order has outputs of it, as far as the loop has heard. Who ends it and asks then misses none: who hands one over
    /// counts it first, and asks then whether it has ended.
    pub fn has_outputs(&self) -> bool {
        self.outputs.load(Ordering::SeqCst) > 0
    }
}

/// One record on its way.
#[derive(Debug)]
pub struct Event {
    /// Where it came from.
    pub origin: Origin,
    /// The lane that it holds, none while it waits for its schema.
    pub lane: Option<LaneId>,
    /// Its turn to be published, where the order of a key is kept that way.
    pub turn: Option<Turn>,
    /// Value, padding, key.
    bytes: Vec<u8>,
    value_length: usize,
    key: Option<(usize, usize)>,
    has_value: bool,
    /// Where the Avro datum begins in the value.
    pub datum_start: usize,
    /// Schema id of the Confluent framing, once read.
    pub schema_id: Option<u32>,
    /// The record's headers; of a traced one they name its span.
    pub headers: Option<OwnedHeaders>,
    /// What the record's headers take, in bytes.
    header_bytes: usize,
    /// What steps gave it, in bytes, as far as it is counted.
    held: usize,
    /// What of that counts for a task which it may come to need, until it has one or needs none.
    reserved: usize,
    /// Its span, where it is traced.
    pub span: Option<Box<Span>>,
    /// What reads this record's schema; none until it is known.
    pub plan: Option<Arc<SchemaPlan>>,
    /// Positions that the plan recorded.
    pub marks: Vec<u32>,
    /// Answers of the look-ups, by step; none where a step did not run or found nothing.
    pub rows: Vec<Option<Hit>>,
    /// Values of the `set` steps, by their index in the program.
    pub named: Vec<Value<'static>>,
    /// The stage that comes next.
    pub stage: usize,
    /// Steps of that stage that have their answer, by bit; see [`Event::ANSWERS`].
    pub answered: u64,
    /// Whether it writes its row at this stage by itself, for the batch that it was in has failed or may not be written.
    pub alone: bool,
    /// Bytes of its output that the brokers have refused. The output itself is nowhere but in the producer's queue, whose bound is one of memory,
    /// and is made again for each attempt.
    pub refused_bytes: usize,
    /// How the event ends once what it waits for is acknowledged.
    pub pending: Outcome,
    /// Attempts to deliver it, after the first.
    pub attempts: u32,
    /// Whether the last of them was a probe of the producer's breaker.
    pub probe: bool,
    /// Why it is a dead letter, once it is one; before it is read, why it cannot be.
    pub failure: Option<Failure>,
    /// The transaction that it belongs to; 0 where there are none.
    pub transaction: u64,
    /// When the loop admitted it.
    pub admitted: Instant,
    /// When its output was handed to the producer.
    pub produced: Option<Instant>,
    /// The assignment of its partition.
    pub tenure: Arc<Tenure>,
    /// Whether it counts among the outputs of that.
    counted: bool,
    completions: Option<Arc<Completions>>,
}

/// What an event is made of, apart from its origin.
pub struct Content<'a> {
    /// The record's value; none for a tombstone.
    pub value: Option<&'a [u8]>,
    /// The record's key.
    pub key: Option<&'a [u8]>,
    /// The record's headers.
    pub headers: Option<OwnedHeaders>,
}

impl Event {
    /// The steps of a pipeline that can be marked in `answered`: those behind them are not.
    pub const ANSWERS: usize = 64;

    /// Whether a step of the stage that comes next has its answer.
    pub fn is_answered(&self, step: usize) -> bool {
        step < Event::ANSWERS && self.answered & (1 << step) != 0
    }

    /// Goes on to the stage behind; what was noted of the one before is over.
    pub fn pass_stage(&mut self) {
        self.stage += 1;
        self.answered = 0;
        self.alone = false;
        self.unreserve();
    }

    /// Copies the record out of the consumer's memory. `spare` is an event that has ended, whose memory is used again.
    pub fn new(
        spare: Option<Box<Event>>,
        origin: Origin,
        content: Content<'_>,
        tenure: Arc<Tenure>,
        completions: Arc<Completions>,
        admitted: Instant,
    ) -> Box<Event> {
        let mut event = spare.unwrap_or_else(|| {
            Box::new(Event {
                origin: origin.clone(),
                lane: None,
                turn: None,
                bytes: Vec::new(),
                value_length: 0,
                key: None,
                has_value: false,
                datum_start: 0,
                schema_id: None,
                headers: None,
                header_bytes: 0,
                held: 0,
                reserved: 0,
                span: None,
                plan: None,
                marks: Vec::new(),
                rows: Vec::new(),
                named: Vec::new(),
                stage: 0,
                answered: 0,
                alone: false,
                refused_bytes: 0,
                pending: Outcome::Done,
                attempts: 0,
                probe: false,
                failure: None,
                transaction: 0,
                admitted,
                produced: None,
                tenure: tenure.clone(),
                counted: false,
                completions: None,
            })
        });
        let value = content.value.unwrap_or_default();
        let needed = value.len() + PADDING + content.key.map_or(0, <[u8]>::len);
        // It weighs what is in it.
        if event.bytes.capacity() > ROOMY.max(4 * needed) {
            event.bytes = Vec::new();
        }
        event.bytes.clear();
        event.bytes.reserve(needed);
        event.bytes.extend_from_slice(value);
        event.bytes.resize(value.len() + PADDING, 0);
        event.key = content.key.map(|key| {
            let start = event.bytes.len();
            event.bytes.extend_from_slice(key);
            (start, event.bytes.len())
        });
        event.origin = origin;
        event.value_length = value.len();
        event.has_value = content.value.is_some();
        event.header_bytes = content.headers.as_ref().map_or(0, header_bytes);
        event.headers = content.headers;
        event.tenure = tenure;
        event.completions = Some(completions);
        event.admitted = admitted;
        event
    }

    /// The record's value; none for a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.has_value.then(|| &self.bytes[..self.value_length])
    }

    /// The record's key.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.map(|(start, end)| &self.bytes[start..end])
    }

    /// The value with readable padding behind it, for the plan; the datum is at `datum_start..value_length`.
    pub fn padded(&self) -> &[u8] {
        &self.bytes
    }

    /// The end of the datum in [`Event::padded`].
    pub fn datum_end(&self) -> usize {
        self.value_length
    }

    /// The Avro datum, without the framing.
    pub fn datum(&self) -> &[u8] {
        &self.bytes[self.datum_start..self.value_length]
    }

    /// What the event weighs in the budget, in bytes: value, key and output are of one order of size.
    pub fn weight(value: usize, key: usize, headers: usize) -> usize {
        2 * value + key + headers + std::mem::size_of::<Event>()
    }

    /// The weight of this event. Its headers count to its end, wherever they are.
    pub fn own_weight(&self) -> usize {
        Event::weight(self.value_length, self.key.map_or(0, |(s, e)| e - s), self.header_bytes)
    }

    /// A step has given it so many bytes of its own. What exceeds a usual row counts in the budget of its loop, to its end.
    pub fn hold(&mut self, bytes: usize) {
        if bytes > SMALL
            && let Some(completions) = &self.completions
        {
            completions.hold(bytes);
            self.held += bytes;
        }
    }

    /// Counts a task that it may come to need, until it passes its stage or goes on alone.
    pub fn reserve(&mut self, bytes: usize) {
        if let Some(completions) = &self.completions {
            completions.hold(bytes);
            self.held += bytes;
            self.reserved += bytes;
        }
    }

    fn unreserve(&mut self) {
        if self.reserved > 0
            && let Some(completions) = &self.completions
        {
            completions.let_go(self.reserved);
            self.held -= self.reserved;
            self.reserved = 0;
        }
    }

    /// As [`Event::hold`], of what is kept only for as long as what is given back: the values that a step binds, which wait for its answer with it.
    pub fn hold_while(&self, bytes: usize) -> Option<Holding<'_>> {
        let completions = self.completions.as_deref().filter(|_| bytes > SMALL)?;
        completions.hold(bytes);
        Some(Holding { completions, bytes })
    }

    /// What counts to its end.
    pub fn held(&self) -> usize {
        self.held
    }

    /// The list that the event comes back by.
    pub fn completions(&self) -> Option<Arc<Completions>> {
        self.completions.clone()
    }

    /// Sends an event that came back on its way again.
    pub fn restore_completions(&mut self, completions: Arc<Completions>) {
        self.completions = Some(completions);
    }

    /// Whether its partition has left this process.
    pub fn is_abandoned(&self) -> bool {
        self.tenure.over.load(Ordering::SeqCst)
    }

    /// Its output goes to a producer that keeps an order, and that may have it for longer than the partition is here.
    pub fn count_output(&mut self) {
        if !std::mem::replace(&mut self.counted, true) {
            self.tenure.outputs.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The producer has not taken the output, or the event is over.
    pub fn uncount_output(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.tenure.outputs.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Hands the event back to its loop.
    pub fn complete(mut self: Box<Event>, how: How) {
        match (self.turn.take(), &how) {
            (Some(turn), How::Finished(_)) => turn.pass(),
            // Dropped: what comes behind it is not published.
            (_, How::Undelivered(_) | How::StartAgain(_) | How::Fatal(_) | How::Abandoned) | (None, _) => {}
        }
        if let Some(completions) = self.completions.take() {
            completions.push(Completion { event: self, how });
        }
    }

    /// Gives the event back to its loop, where it goes on from the stage that comes next; it keeps its lane and its turn.
    pub fn go_on(mut self: Box<Event>) {
        if let Some(completions) = self.completions.take() {
            completions.go_on(self);
        }
    }

    /// The same, and it writes its row at that stage by itself.
    pub fn go_on_alone(mut self: Box<Event>) {
        self.alone = true;
        self.unreserve();
        self.go_on();
    }

    /// Empties the event for reuse; its memory stays.
    pub fn recycle(mut self: Box<Event>) -> Box<Event> {
        self.uncount_output();
        self.completions = None;
        self.lane = None;
        self.turn = None;
        self.schema_id = None;
        self.datum_start = 0;
        self.headers = None;
        self.held = 0;
        self.reserved = 0;
        self.span = None;
        self.plan = None;
        self.rows.clear();
        self.named.clear();
        self.stage = 0;
        self.answered = 0;
        self.alone = false;
        self.refused_bytes = 0;
        // One phase of large values must not be paid for ever.
        if self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        }
        self.pending = Outcome::Done;
        self.attempts = 0;
        self.probe = false;
        self.failure = None;
        self.produced = None;
        self
    }
}

/// Bytes that count in the budget of an event's loop until this is dropped; see [`Event::hold_while`].
#[derive(Debug)]
pub struct Holding<'e> {
    completions: &'e Completions,
    bytes: usize,
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.completions.let_go(self.bytes);
    }
}

/// What headers take in memory, in bytes.
fn header_bytes(headers: &OwnedHeaders) -> usize {
    let one = |(name, value): (&[u8], Option<&[u8]>)| HEADER + name.len() + value.map_or(0, <[u8]>::len);
    headers::all(headers).map(one).sum()
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Some(completions) = self.completions.take() {
            completions.vanished(self.origin.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(spare: Option<Box<Event>>, value: &[u8]) -> Box<Event> {
        let origin = Origin {
            ticket: Ticket::unassigned(),
            topic: "t".into(),
            partition: 0,
            offset: 0,
            timestamp_ms: None,
            write_timestamp_us: 0,
        };
        let content = Content {
            value: Some(value),
            key: Some(b"key"),
            headers: None,
        };
        let (tenure, completions) = (Arc::default(), Arc::default());
        Event::new(spare, origin, content, tenure, completions, Instant::now())
    }

    #[test]
    fn a_small_record_has_no_buffer_of_a_large_one() {
        let mut spare = None;
        for size in [12_000, 100, 12_000, 3_500, 5_000, 1_300, 0] {
            let value = vec![7; size];
            let event = event(spare, &value);
            assert_eq!((event.value(), event.key()), (Some(&value[..]), Some(&b"key"[..])));
            let needed = size + PADDING + 3;
            let capacity = event.bytes.capacity();
            assert!(capacity <= ROOMY.max(4 * needed), "{capacity} for {size}");
            spare = Some(event.recycle());
        }
    }

    #[test]
    fn records_of_usual_sizes_take_turns_in_one_buffer() {
        let large = event(None, &[7; 4_000]);
        let buffer = large.bytes.as_ptr();
        let small = event(Some(large.recycle()), &[7; 10]);
        assert_eq!(small.bytes.as_ptr(), buffer);
    }
}
