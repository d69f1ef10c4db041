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

/// The largest buffer that an ended event keeps, in bytes.
const KEPT: usize = 16 * 1024;
/// Any record may use a buffer of this size, in bytes, however small the record is: records of different sizes then share it without new
/// allocations.
const ROOMY: usize = 4 * 1024;
/// The size of a usual row, in bytes. What an event gets from a step is only counted above that.
const SMALL: usize = 1024;
/// librdkafka's overhead for each header beside its name and value, in bytes.
const HEADER: usize = 64;

/// Where an event came from, and how the ledger and the lanes identify it.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The assignment of the partition under which the record was read.
    pub ticket: Ticket,
    /// The topic.
    pub topic: Arc<str>,
    /// Kafka's partition number.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// The record's timestamp, in milliseconds since 1970; none if the record has none.
    pub timestamp_ms: Option<i64>,
    /// The timestamp of every row that the record writes, in microseconds since 1970 (promise 2).
    pub write_timestamp_us: i64,
}

/// One assignment of a partition, shared by all its events.
#[derive(Debug, Default)]
pub struct Tenure {
    over: AtomicBool,
    ended: Notify,
    outputs: AtomicUsize,
}

impl Tenure {
    /// Ends the assignment: work that still runs for the partition may stop.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.ended.notify_waiters();
    }

    /// Returns once the assignment has ended.
    pub async fn ended(&self) {
        // Created before the check, so that no end after this line is missed.
        let ended = self.ended.notified();
        if !self.over.load(Ordering::SeqCst) {
            ended.await;
        }
    }

    /// Whether an ordered producer has outputs of this assignment, as far as the loop knows. After [`Tenure::end`] this misses none, because whoever
    /// hands an output over counts it first, and then checks whether the assignment has ended.
    pub fn has_outputs(&self) -> bool {
        self.outputs.load(Ordering::SeqCst) > 0
    }
}

/// One record in process.
#[derive(Debug)]
pub struct Event {
    /// Where it came from.
    pub origin: Origin,
    /// The lane that it holds; none while it waits for its schema.
    pub lane: Option<LaneId>,
    /// Its turn to be published, if turns keep the order of its key.
    pub turn: Option<Turn>,
    /// Value, padding, key.
    bytes: Vec<u8>,
    value_length: usize,
    key: Option<(usize, usize)>,
    has_value: bool,
    /// Where the Avro datum begins in the value.
    pub datum_start: usize,
    /// The schema id from the Confluent framing, once read.
    pub schema_id: Option<u32>,
    /// The record's headers; in a traced record they name its span.
    pub headers: Option<OwnedHeaders>,
    /// The size of the record's headers, in bytes.
    header_bytes: usize,
    /// Counted bytes that steps have given it.
    held: usize,
    /// The part of `held` that is reserved for a task that it may need, until it has a task or needs none.
    reserved: usize,
    /// Its span, if it is traced.
    pub span: Option<Box<Span>>,
    /// The plan that reads this record's schema; none until the schema is known.
    pub plan: Option<Arc<SchemaPlan>>,
    /// The positions that the plan recorded.
    pub marks: Vec<u32>,
    /// The rows of the look-ups, by step; none if a step did not run or found nothing.
    pub rows: Vec<Option<Hit>>,
    /// The values of the `set` steps, by their index in the program.
    pub named: Vec<Value<'static>>,
    /// The next stage.
    pub stage: usize,
    /// Steps of that stage that have their answer, one bit each; see [`Event::ANSWERS`].
    pub answered: u64,
    /// Whether it writes its row at this stage alone, because its batch has failed or may not be written.
    pub alone: bool,
    /// The step that ended it without an output, as a filter does.
    pub left_out: Option<usize>,
    /// The size of its output that the brokers have refused. The output itself exists only in the producer's queue, which is bounded by memory,
    /// and is encoded again for each attempt.
    pub refused_bytes: usize,
    /// How the event ends once everything it waits for is acknowledged.
    pub pending: Outcome,
    /// The number of delivery attempts after the first.
    pub attempts: u32,
    /// Whether the last attempt was a probe of the producer's breaker.
    pub probe: bool,
    /// Why it is a dead letter, if it is one. Before it is read: why it cannot be.
    pub failure: Option<Failure>,
    /// The transaction that it belongs to; 0 without transactions.
    pub transaction: u64,
    /// When the loop admitted it.
    pub admitted: Instant,
    /// When its output was handed to the producer.
    pub produced: Option<Instant>,
    /// The assignment of its partition.
    pub tenure: Arc<Tenure>,
    /// Whether it is counted among the outputs of `tenure`.
    counted: bool,
    completions: Option<Arc<Completions>>,
}

/// The content of an event, apart from its origin.
pub struct Content<'a> {
    /// The record's value; none for a tombstone.
    pub value: Option<&'a [u8]>,
    /// The record's key.
    pub key: Option<&'a [u8]>,
    /// The record's headers.
    pub headers: Option<OwnedHeaders>,
}

impl Event {
    /// How many steps of a pipeline `answered` can mark; steps with a higher index are never marked.
    pub const ANSWERS: usize = 64;

    /// Whether a step of the next stage has its answer.
    pub fn is_answered(&self, step: usize) -> bool {
        step < Event::ANSWERS && self.answered & (1 << step) != 0
    }

    /// Moves on to the next stage and clears the notes about the current one.
    pub fn pass_stage(&mut self) {
        self.stage += 1;
        self.answered = 0;
        self.alone = false;
        self.unreserve();
    }

    /// Copies the record out of the consumer's memory. `spare` is an ended event whose memory is reused.
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
                left_out: None,
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
        // The budget counts the record's size, not the buffer's, so the buffer must not be much larger.
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

    /// The value followed by readable padding, for the plan; the datum is at `datum_start..value_length`.
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

    /// The event's weight in the budget, in bytes. It assumes that the output is about as large as the value.
    pub fn weight(value: usize, key: usize, headers: usize) -> usize {
        2 * value + key + headers + std::mem::size_of::<Event>()
    }

    /// The weight of this event. Its headers count until it ends, wherever they are.
    pub fn own_weight(&self) -> usize {
        Event::weight(self.value_length, self.key.map_or(0, |(s, e)| e - s), self.header_bytes)
    }

    /// Counts bytes that a step has given it in the budget of its loop, until it ends. Up to the size of a usual row they
    /// are not counted.
    pub fn hold(&mut self, bytes: usize) {
        if bytes > SMALL
            && let Some(completions) = &self.completions
        {
            completions.hold(bytes);
            self.held += bytes;
        }
    }

    /// Counts a task that it may need, until it passes its stage or continues alone.
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

    /// As [`Event::hold`], but counted only while the result lives: for the values that a step binds and holds while it waits for its answer.
    pub fn hold_while(&self, bytes: usize) -> Option<Holding<'_>> {
        let completions = self.completions.as_deref().filter(|_| bytes > SMALL)?;
        completions.hold(bytes);
        Some(Holding { completions, bytes })
    }

    /// The bytes that count until it ends.
    pub fn held(&self) -> usize {
        self.held
    }

    /// The list through which the event returns.
    pub fn completions(&self) -> Option<Arc<Completions>> {
        self.completions.clone()
    }

    /// Gives an event that came back its list again, so that it can be sent once more.
    pub fn restore_completions(&mut self, completions: Arc<Completions>) {
        self.completions = Some(completions);
    }

    /// Whether its partition has left this process.
    pub fn is_abandoned(&self) -> bool {
        self.tenure.over.load(Ordering::SeqCst)
    }

    /// Counts its output: it goes to an ordered producer, which may hold it for longer than the partition is here.
    pub fn count_output(&mut self) {
        if !std::mem::replace(&mut self.counted, true) {
            self.tenure.outputs.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Undoes the count, because the producer has not taken the output or the event has ended.
    pub fn uncount_output(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.tenure.outputs.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Returns the event to its loop.
    pub fn complete(mut self: Box<Event>, how: How) {
        match (self.turn.take(), &how) {
            (Some(turn), How::Finished(_)) => turn.pass(),
            // The turn is dropped, so that later events of the key are not published.
            (_, How::Undelivered(_) | How::StartAgain(_) | How::Fatal(_) | How::Abandoned) | (None, _) => {}
        }
        if let Some(completions) = self.completions.take() {
            completions.push(Completion { event: self, how });
        }
    }

    /// Returns the event to its loop, where it continues at its next stage; it keeps its lane and its turn.
    pub fn go_on(mut self: Box<Event>) {
        if let Some(completions) = self.completions.take() {
            completions.go_on(self);
        }
    }

    /// As [`Event::go_on`], but it writes its row at that stage alone.
    pub fn go_on_alone(mut self: Box<Event>) {
        self.alone = true;
        self.unreserve();
        self.go_on();
    }

    /// Clears the event for reuse; its memory stays.
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
        self.left_out = None;
        self.refused_bytes = 0;
        // One phase of large values must not occupy memory for ever.
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

/// The memory that headers take, in bytes.
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
    fn what_ended_a_record_is_not_told_of_the_next() {
        let mut ended = event(None, b"a");
        ended.left_out = Some(1);
        assert_eq!(event(Some(ended.recycle()), b"b").left_out, None);
    }

    #[test]
    fn records_of_usual_sizes_take_turns_in_one_buffer() {
        let large = event(None, &[7; 4_000]);
        let buffer = large.bytes.as_ptr();
        let small = event(Some(large.recycle()), &[7; 10]);
        assert_eq!(small.bytes.as_ptr(), buffer);
    }
}
