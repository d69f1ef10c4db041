//! The model of `messina size`: CPU per record, cores and pods for a rate, records in flight, and whether memory, connections and order allow them.
//!
//! The cost is a sum over the parts of a record's way, fitted to measurements (`benches/e2e/run sizing` repeats them, and reports the error of the
//! sum). Records in flight follow from Little's law, L = λ W (J. D. C. Little, A Proof for the Queuing Formula: L = λW, Operations Research 9, 1961).
//! Pure: configuration in, numbers out.

use std::time::Duration;

use crate::app::memory;
use crate::config::{self, Config, Order, Pipeline, ReferenceStep, StepKind, Write};
use crate::pipeline::event::Event;
use crate::pipeline::program::grouping;
use crate::source::consumer_loop::AT_WORK;

/// CPU of the whole process, in µs, on one core of the machine of docs/benchmarks.md. Fitted to the pipelines of `benches/e2e/run sizing`.
mod cost {
    /// A record of no bytes: read from Kafka, admitted, Avro scanned and checked, counted, committed.
    pub const RECORD: f64 = 0.70;
    /// The same, for each 1,000 bytes of its value; mostly decompression.
    pub const RECORD_KB: f64 = 1.0;
    /// An output of no bytes: encoded and published.
    pub const PUBLISH: f64 = 1.3;
    /// The same, for each 1,000 bytes; mostly compression.
    pub const PUBLISH_KB: f64 = 1.9;
    /// The part of these costs that falls on librdkafka's threads and on the thread of delivery reports, not on the consumer's own thread: for a
    /// record, for 1,000 bytes of it, for an output, and for 1,000 bytes of that.
    pub const BESIDE: f64 = 0.2;
    pub const BESIDE_KB: f64 = 0.6;
    pub const PUBLISH_BESIDE: f64 = 0.8;
    pub const PUBLISH_BESIDE_KB: f64 = 1.3;
    /// A SELECT. A MongoDB document was not measured, and counts the same.
    pub const LOOKUP: f64 = 2.4;
    /// A look-up answered by the cache.
    pub const HIT: f64 = 1.0;
    /// A look-up in a reference. Not measured by itself; it is a hash table without the cache's bookkeeping.
    pub const REFERENCE: f64 = 0.4;
    /// An INSERT.
    pub const WRITE: f64 = 2.8;
    /// What a row that may be grouped costs in addition to its part of the request.
    pub const GROUPED: f64 = 0.25;
    /// The most that a wait for the database costs: the longer it takes, the more is in flight, and the less of it is still in the processor's caches
    /// when the answer comes.
    pub const WAIT: f64 = 5.0;
    /// The part of `WAIT` that each grouped row pays; the group shares the rest.
    pub const WAIT_GROUPED: f64 = 2.0;
    /// 1,000 bytes of `record.datum` in a row.
    pub const DATUM_KB: f64 = 0.6;
    /// A filter, a value of `set`, a condition: an expression beyond a plain path. A custom step counts the same. Not measured by itself.
    pub const EXPRESSION: f64 = 0.5;
}

/// The database latency at which a wait costs half of its maximum.
const HALF_COLD: Duration = Duration::from_millis(10);
/// From the producer to the brokers' acknowledgement, without the linger. A guess for a broker in the same place.
const DELIVERY: Duration = Duration::from_millis(5);
/// The memory of a process with nothing in flight, and of each record in flight in addition to its value and its output: the line through the values of
/// docs/benchmarks.md for 1,024 and 8,192 in flight. Most of `EVENT_BYTES` is the request and what waits for its answer.
const PROCESS_BYTES: f64 = 84e6;
const EVENT_BYTES: f64 = 11_600.0;
/// A row's share of a batch, without the datum.
const ROW_BYTES: f64 = 100.0;
/// A full budget admits records again once it has fallen to this share.
const LOW_WATER: f64 = 0.8;

/// The load to size for.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Records a second, over all pods.
    pub rate: f64,
    /// Bytes of a record's value.
    pub bytes: f64,
    /// Share of the cached look-ups that the cache answers, 0 to 1.
    pub hit_ratio: f64,
    /// Mean response time of the database.
    pub store_latency: Duration,
    /// Connections of one process to MongoDB. Each carries one request at a time.
    pub connections: u32,
    /// How long a record waits in the producer for others.
    pub linger: Duration,
    /// Partitions of the source. Pods beyond this number have no work.
    pub partitions: usize,
    /// Cores of a pod.
    pub cores: f64,
    /// The share of its cores that a pod may use at that rate, 0 to 1. The rest is for catching up, and for peaks.
    pub utilisation: f64,
    /// Factor for this machine: how many times as long it takes for the same work.
    pub machine: f64,
}

/// What a pipeline needs.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Needs {
    /// CPU per record, by part, in µs.
    pub parts: Vec<(String, f64)>,
    /// CPU per record, in µs.
    pub cpu_us: f64,
    /// The part of `cpu_us` on the consumer's own thread, which has one core at most.
    pub loop_us: f64,
    /// Cores that the rate keeps busy.
    pub cores: f64,
    /// Pods.
    pub pods: usize,
    /// Whether the rate is out of reach: it would need pods without a partition, or a partition keeps its consumer busier than allowed.
    pub too_few_partitions: bool,
    /// Whether the reason is that a partition's consumer cannot keep up, however many cores a pod has.
    pub partitions_are_full: bool,
    /// Consumers per pod (`consumers`), each with one thread.
    pub consumers: usize,
    /// Records in flight in the busiest pod, on average, by Little's law.
    pub in_flight: f64,
    /// A value for `max_in_flight` that leaves room for a database that is four times slower for a while.
    pub max_in_flight: usize,
    /// Memory of a pod with full caches and references, and with as many records in flight as that bound allows, or as `[limits] memory` allows if that
    /// is fewer.
    pub memory_bytes: f64,
    /// The most records per second of one key, if they run one after the other.
    pub of_key: Option<f64>,
    /// What is insufficient, in words.
    pub not_enough: Vec<String>,
}

/// What `pipeline` of `config` needs under `load`.
pub fn needs(config: &Config, pipeline: &Pipeline, load: &Load) -> Needs {
    let kilobytes = load.bytes / 1000.0;
    let mut parts = vec![("read and decode".to_owned(), cost::RECORD + cost::RECORD_KB * kilobytes)];
    let mut beside = cost::BESIDE + cost::BESIDE_KB * kilobytes;
    let latency = load.store_latency.as_secs_f64();
    let cold = latency / (latency + HALF_COLD.as_secs_f64());
    let misses = 1.0 - load.hit_ratio;
    let look_up = |asks: f64| asks * (cost::LOOKUP + cold * cost::WAIT) + (1.0 - asks) * cost::HIT;
    // Per record: the seconds that its steps wait, and the documents requested from MongoDB.
    let (mut in_steps, mut documents) = (0.0, 0.0);
    for step in &pipeline.steps {
        let condition = if step.when.is_some() { cost::EXPRESSION } else { 0.0 };
        let own = match &step.kind {
            StepKind::Lookup(lookup) => {
                let asks = if lookup.cache.is_some() { misses } else { 1.0 };
                in_steps += asks * latency;
                look_up(asks)
            }
            StepKind::Reference(wanted) if is_on_demand(config, wanted) => {
                documents += misses;
                in_steps += misses * latency;
                look_up(misses)
            }
            StepKind::Reference(_) => cost::REFERENCE,
            StepKind::Write(write) => {
                in_steps += latency;
                let datum = write.bind.iter().filter(|bind| bind.expression.value == "record.datum");
                let bytes = datum.count() as f64 * load.bytes;
                let alone = cost::WRITE + cold * cost::WAIT;
                let request = match batch(write, ROW_BYTES + bytes) {
                    Some((rows, linger)) => {
                        in_steps += linger;
                        let own = cold * cost::WAIT_GROUPED;
                        cost::GROUPED + own + (alone - own) / rows
                    }
                    None => alone,
                };
                request + cost::DATUM_KB * bytes / 1000.0
            }
            StepKind::Filter(_) | StepKind::Custom(_) => cost::EXPRESSION,
            StepKind::Set(values) => cost::EXPRESSION * values.len() as f64,
        };
        parts.push((step.name.value.clone(), own + condition));
    }
    let mut waits = in_steps;
    if pipeline.sink.is_some() {
        parts.push((
            "encode and publish".to_owned(),
            cost::PUBLISH + cost::PUBLISH_KB * kilobytes,
        ));
        beside += cost::PUBLISH_BESIDE + cost::PUBLISH_BESIDE_KB * kilobytes;
        // On average a record waits for half of the linger.
        waits += load.linger.as_secs_f64() / 2.0 + DELIVERY.as_secs_f64();
    }
    parts.iter_mut().for_each(|(_, us)| *us *= load.machine);
    let cpu_us: f64 = parts.iter().map(|(_, us)| us).sum();
    let loop_us = cpu_us - beside * load.machine;
    let partitions = load.partitions.max(1);
    // Records per second of one partition, and the MongoDB requests that these have open at a time.
    let each = load.rate / partitions as f64;
    let asked = each * documents * latency;
    let of_cores = borne(load.cores * load.utilisation, each * cpu_us / 1e6);
    let of_connections = borne(f64::from(load.connections) * load.utilisation, asked);
    let of_pod = of_cores.min(of_connections);
    // A partition belongs to one consumer, which has one core.
    let of_consumer = borne(load.utilisation, each * loop_us / 1e6);
    // Kafka assigns whole partitions, and assigns them to consumers, so the busiest pod may bear more than an even share. With as many pods as
    // partitions none does.
    let mut pods = partitions.div_ceil(of_pod.max(1));
    let (consumers, most) = loop {
        let consumers = partitions.div_ceil(pods).div_ceil(of_consumer.max(1));
        let most = of_busiest(partitions, pods, consumers);
        if most <= of_pod.max(1) || pods >= partitions {
            break (consumers, most);
        }
        pods += 1;
    };
    let in_flight = each * most as f64 * waits;
    let max_in_flight = ((in_flight * 4.0) as usize)
        .checked_next_power_of_two()
        .unwrap_or(usize::MAX)
        .max(64);
    // A record's task counts only while the record is at a step.
    let at_work = in_steps / waits.max(f64::MIN_POSITIVE);
    let weight = 2.0 * load.bytes + Event::weight(0, 0, 0) as f64 + AT_WORK as f64 * at_work;
    let each_keeps = 2.0 * load.bytes + EVENT_BYTES;
    let (memory_bytes, too_little) = of_memory(config, weight, each_keeps, in_flight, max_in_flight);
    let mut not_enough: Vec<String> = too_little.into_iter().collect();
    let too_few_partitions = load.partitions == 0 || of_cores == 0 || of_consumer == 0;
    if too_few_partitions {
        let why = if of_consumer == 0 {
            "cannot sustain this rate: a partition has one consumer, which uses one core; add partitions"
        } else {
            "cannot keep more pods busy: add partitions, or cores to a pod"
        };
        not_enough.push(format!("{} partitions {why}", load.partitions));
    }
    if of_connections == 0 {
        let (have, needed) = (load.connections, (asked / load.utilisation).ceil());
        not_enough.push(format!(
            "{have} connections with MongoDB, of which one partition keeps {asked:.0} busy: raise maxPoolSize of its uri to {needed:.0}"
        ));
    }
    let in_turn = in_steps > 0.0 && !config::commutes(config, pipeline);
    if in_turn && pipeline.order == Order::Partition && each * in_steps > load.utilisation {
        not_enough.push(format!(
            "order = \"partition\" runs one record of a partition at a time: {:.0} records/s at most at this utilisation, whatever the pods",
            partitions as f64 * load.utilisation / in_steps
        ));
    }
    Needs {
        parts,
        cpu_us,
        loop_us,
        cores: load.rate * cpu_us / 1e6,
        pods,
        too_few_partitions,
        partitions_are_full: of_consumer == 0,
        consumers,
        in_flight,
        max_in_flight,
        memory_bytes,
        of_key: (in_turn && pipeline.order == Order::Key).then(|| 1.0 / in_steps),
        not_enough,
    }
}

/// Whether documents missing from the reference's cache are requested from MongoDB.
fn is_on_demand(config: &Config, wanted: &ReferenceStep) -> bool {
    let reference = config.references.get(wanted.reference.as_str());
    reference.is_some_and(|reference| reference.on_demand.is_some())
}

/// The number of rows in a batch of rows of `row` bytes, and the seconds that such a row waits for others; `None` if the row is sent at once by itself.
fn batch(write: &Write, row: f64) -> Option<(f64, f64)> {
    let group = grouping(write).filter(|group| row < group.max_bytes as f64)?;
    let rows = if group.across_partitions {
        (group.max_bytes as f64 / row).floor().min(group.max_rows as f64)
    } else {
        // Assume distinct keys: no two waiting rows belong to one partition of the table.
        1.0
    };
    Some((rows, group.linger.as_secs_f64()))
}

/// The memory of a pod at that bound, and a complaint if `[limits] memory` admits fewer records than are in flight. `weight` is what the budget counts
/// for one record, `keeps` the memory that it takes.
fn of_memory(config: &Config, weight: f64, keeps: f64, in_flight: f64, max_in_flight: usize) -> (f64, Option<String>) {
    let (limit, pipelines) = (memory::limit(config) as f64, config.pipelines.len().max(1) as f64);
    let share = memory::share(config, 0, config.pipelines.len()) as f64;
    // Half of a pipeline's share is for records in flight.
    let held = share / 2.0 / weight;
    let caches_and_references = (limit - share * pipelines).max(0.0);
    let at_the_bound = held.min(max_in_flight as f64) * keeps;
    let too_little = (in_flight > LOW_WATER * held).then(|| {
        const MIB: f64 = 1_048_576.0;
        let wanted = in_flight / LOW_WATER;
        let mib = ((limit + (2.0 * wanted * weight - share) * pipelines) / MIB).ceil();
        // Queues may be full at the same time, so all of `memory` counts.
        let pod = PROCESS_BYTES + mib * MIB + wanted * (keeps - weight).max(0.0);
        format!(
            "[limits] memory has room for {held:.0} of these records, but {wanted:.0} must fit: raise it to {mib:.0}MiB, and the memory of a pod to \
             {:.0} MB",
            pod / 1e6
        )
    });
    (PROCESS_BYTES + caches_and_references + at_the_bound, too_little)
}

/// Partitions of the busiest pod: all of its consumers may be among those that have one partition more than the others.
fn of_busiest(partitions: usize, pods: usize, consumers: usize) -> usize {
    let members = pods * consumers;
    consumers * (partitions / members) + consumers.min(partitions % members)
}

/// How many whole partitions fit into `room` (cores or connections) if each uses `each`.
fn borne(room: f64, each: f64) -> usize {
    // The epsilon keeps rounding from losing a partition that fits exactly.
    (room / each + 1e-9) as usize
}

#[cfg(test)]
mod tests;
