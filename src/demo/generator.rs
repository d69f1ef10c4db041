//! The generator: creates the records of all streams and sends them as fast as the flows allow, on its own thread.
//!
//! The streams take turns in proportion to what is left of each, so that all end at about the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::cluster;
use super::flow::{Flow, Stop};
use super::streams::{Message, SEQUENCE_HEADER, Stream};

/// Name of its thread.
pub const THREAD: &str = "demo-generator";
/// Records that a stream sends in a row.
const TURN: u64 = 32;
/// How long it waits if no stream has room.
const PAUSE: Duration = Duration::from_millis(2);
/// How long the last records may take to be delivered.
const FLUSH: Duration = Duration::from_secs(30);

/// Counts deliveries that failed.
#[derive(Default)]
pub struct Deliveries {
    failed: AtomicU64,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The generator's client.
pub fn producer(brokers: &str) -> KafkaResult<BaseProducer<Deliveries>> {
    cluster::client(brokers)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "10")
        .set("batch.size", "131072")
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.kbytes", "32768")
        .create_with_context(Deliveries::default())
}

/// Makes and sends the records that the flows plan, until all are sent or an interrupt; then waits for `stop`,
/// because the kernel forgets the CPU time of a thread that has ended.
///
/// # Errors
/// In words: a record that could not be sent.
pub fn run(
    producer: &BaseProducer<Deliveries>,
    streams: &[Stream],
    flows: &[Arc<Flow>],
    stop: &Stop,
) -> Result<(), String> {
    let mut message = Message::default();
    while !stop.is_interrupted() && flows.iter().any(|flow| flow.left() > 0) {
        // The stream that is furthest behind its share, of those that have room for a turn.
        let turn = streams
            .iter()
            .zip(flows)
            .filter(|(_, flow)| flow.left() > 0 && flow.room() >= TURN.min(flow.left()))
            .max_by(|(_, a), (_, b)| (a.left() * b.planned).cmp(&(b.left() * a.planned)));
        let Some((stream, flow)) = turn else {
            pause(producer);
            continue;
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as i64);
        for _ in 0..TURN.min(flow.left()) {
            send(producer, stream, flow.made(), now, &mut message)?;
            flow.make();
        }
        producer.poll(Duration::ZERO);
    }
    producer
        .flush(FLUSH)
        .map_err(|e| format!("the generator's last records were not delivered: {e}"))?;
    match producer.context().failed.load(Ordering::Relaxed) {
        0 => stop.wait(),
        failed => return Err(format!("{failed} of the generator's records were not delivered")),
    }
    Ok(())
}

fn send(
    producer: &BaseProducer<Deliveries>,
    stream: &Stream,
    sequence: u64,
    now_ms: i64,
    message: &mut Message,
) -> Result<(), String> {
    let draw = stream.draw(sequence);
    stream.write(&draw, now_ms, message);
    let mut record = BaseRecord::to(stream.job.name()).key(&message.key).timestamp(now_ms);
    if message.has_value {
        record = record.payload(&message.value.0);
    }
    if draw.defect.is_some() {
        let value = sequence.to_string();
        record = record.headers(OwnedHeaders::new().insert(Header {
            key: SEQUENCE_HEADER,
            value: Some(&value),
        }));
    }
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                pause(producer);
                record = back;
            }
            Err((error, _)) => return Err(format!("the generator cannot send to {}: {error}", stream.job.name())),
        }
    }
}

/// Sleeps, and then polls without waiting, because rdkafka's `poll` spins through the last millisecond of its
/// time-out.
fn pause(producer: &BaseProducer<Deliveries>) {
    std::thread::sleep(PAUSE);
    producer.poll(Duration::ZERO);
}
