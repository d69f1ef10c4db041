//! The model of `messina size`: CPU per record, cores and pods for a rate, records in flight, and whether memory, connections and order allow them.
//!
//! The cost is a sum over the parts of the way of a record, fitted to measurements (`benches/e2e/run sizing` repeats them, and reports the error of
//! the sum). Records in flight follow from Little's law, L = λ W (J. D. C. Little, A Proof for the Queuing Formula: L = λW, Operations Research 9,
//! 1961). Pure: configuration in, numbers out.

use std::time::Duration;

use crate::app::memory;
use crate::config::{self, Config, Order, Pipeline, ReferenceStep, StepKind, Write};
use crate::pipeline::event::Event;
use crate::pipeline::program::grouping;
use crate::source::consumer_loop::AT_WORK;

/// CPU of the whole process, in µs, on one core of the machine of docs/benchmarks.md. Fitted to the pipelines of `benches/e2e/run sizing`.
mod cost {
    /// Read from Kafka, taken in, its Avro marked and checked, counted, committed: a record of no bytes.
    pub const RECORD: f64 = 0.70;
    /// The same, for a thousand bytes of its value; unpacking is most of it.
    pub const RECORD_KB: f64 = 1.0;
    /// Encoded and published, without its bytes.
    pub const PUBLISH: f64 = 1.3;
    /// The same, for a thousand bytes; packing is most of it.
    pub const PUBLISH_KB: f64 = 1.9;
    /// What of these falls on librdkafka's threads and that of delivery reports, beside the consumer's own: of a record, a thousand bytes of it, an output,
    /// and a thousand bytes of that.
    pub const BESIDE: f64 = 0.2;
    pub const BESIDE_KB: f64 = 0.6;
    pub const PUBLISH_BESIDE: f64 = 0.8;
    pub const PUBLISH_BESIDE_KB: f64 = 1.3;
    /// A SELECT; a document of MongoDB's, which was not measured, is taken for one.
    pub const LOOKUP: f64 = 2.4;
    /// A look-up that the cache answers.
    pub const HIT: f64 = 1.0;
    /// A look-up in a reference. Not measured by itself: a hash table without the cache's bookkeeping.
    pub const REFERENCE: f64 = 0.4;
    /// An INSERT.
    pub const WRITE: f64 = 2.8;
    /// What a row that may go to the database with others takes beside its part of their request.
    pub const GROUPED: f64 = 0.25;
    /// A wait for the database, at most: the longer it takes, the more is in flight, and the less of it is in the processor's caches when the answer comes.
    pub const WAIT: f64 = 5.0;
    /// What of it a row pays that goes with others; they share the rest.
    pub const WAIT_GROUPED: f64 = 2.0;
    /// A thousand bytes of `record.datum` in a row.
    pub const DATUM_KB: f64 = 0.6;
    /// A filter, a name, a condition: an expression that is more than a path. Not measured by itself.
    pub const EXPRESSION: f64 = 0.5;
}

/// How long the database takes when a wait for it costs half of what it costs at most.
const HALF_COLD: Duration = Duration::from_millis(10);
/// From the producer to the brokers' acknowledgement, beside its linger: a guess for a broker in the same place.
const DELIVERY: Duration = Duration::from_millis(5);
/// What a process has in memory that has nothing in flight, and what one record keeps beside its value and its output: the line through what
/// docs/benchmarks.md has for 1,024 and 8,192 in flight. Most of the latter is the request and what waits for its answer.
const PROCESS_BYTES: f64 = 84e6;
const EVENT_BYTES: f64 = 11_600.0;
/// What a row has in a batch beside the datum.
const ROW_BYTES: f64 = 100.0;
/// A budget that was full takes records in again from here on.
const LOW_WATER: f64 = 0.8;

/// What is known of the load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Records a second, over all pods.
    pub rate: f64,
    /// Bytes of a record's value.
    pub bytes: f64,
    /// Share of the look-ups with a cache that it answers, 0 to 1.
    pub hit_ratio: f64,
    /// How long the database takes to answer, on average.
    pub store_latency: Duration,
    /// Connections of a process with MongoDB, each of which has one request at a time.
    pub connections: u32,
    /// How long a record waits in the producer for others.
    pub linger: Duration,
    /// Partitions of the source: no more pods than these have work.
    pub partitions: usize,
    /// Cores of a pod.
    pub cores: f64,
    /// How much of its cores a pod may use at that rate, 0 to 1: what is left is for catching up, and for peaks.
    pub utilisation: f64,
    /// How many times as long this machine takes for the same work.
    pub machine: f64,
}

/// What a pipeline needs.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Needs {
    /// CPU for a record, by part, in µs.
    pub parts: Vec<(String, f64)>,
    /// CPU for a record, µs.
    pub cpu_us: f64,
    /// What of it falls on the consumer's own thread, which has one core at most.
    pub loop_us: f64,
    /// Cores that the rate keeps busy.
    pub cores: f64,
    /// Pods.
    pub pods: usize,
    /// Whether the rate is out of reach: pods without a partition would be needed, or a partition keeps its consumer busier than it may be.
    pub too_few_partitions: bool,
    /// Whether it is a partition's consumer that cannot keep up, whatever cores a pod has.
    pub partitions_are_full: bool,
    /// Consumers of a pod (`consumers`): each has one thread.
    pub consumers: usize,
    /// Records in flight in the busiest pod, on average, by Little's law.
    pub in_flight: f64,
    /// A bound that leaves room for a database that is four times slower for a while (`max_in_flight`).
    pub max_in_flight: usize,
    /// Memory of a pod at that bound, or at what `[limits] memory` lets in where that is less; caches and references are full.
    pub memory_bytes: f64,
    /// Records a second of one key, at most, where they run one after the other.
    pub of_key: Option<f64>,
    /// What does not suffice, in words.
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
    // Of a record: seconds that its steps wait, and documents that MongoDB is asked for.
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
    // Records a second of one partition, and the requests that these have at MongoDB at a time.
    let each = load.rate / partitions as f64;
    let asked = each * documents * latency;
    let of_cores = borne(load.cores * load.utilisation, each * cpu_us / 1e6);
    let of_connections = borne(f64::from(load.connections) * load.utilisation, asked);
    let of_pod = of_cores.min(of_connections);
    // A partition is one consumer, and that one core.
    let of_consumer = borne(load.utilisation, each * loop_us / 1e6);
    // Kafka gives out partitions whole, and to consumers: the busiest pod may bear more than its even share. With as many pods as partitions none does.
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
    // Its task counts while a record is at a step.
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

/// Whether MongoDB is asked for each document that is not in the reference's cache.
fn is_on_demand(config: &Config, wanted: &ReferenceStep) -> bool {
    let reference = config.references.get(wanted.reference.as_str());
    reference.is_some_and(|reference| reference.on_demand.is_some())
}

/// Rows of a batch that has one of so many bytes, and the seconds that it waits for others; none where it goes by itself at once.
fn batch(write: &Write, row: f64) -> Option<(f64, f64)> {
    let group = grouping(write).filter(|group| row < group.max_bytes as f64)?;
    let rows = if group.across_partitions {
        (group.max_bytes as f64 / row).floor().min(group.max_rows as f64)
    } else {
        // Keys are taken to differ: no two rows that wait are of one partition.
        1.0
    };
    Some((rows, group.linger.as_secs_f64()))
}

/// Memory of a pod at that bound, and what is to be said where `[limits] memory` lets in fewer records than are in flight. `weight` is what the budget counts of
/// one, `keeps` what it takes.
fn of_memory(config: &Config, weight: f64, keeps: f64, in_flight: f64, max_in_flight: usize) -> (f64, Option<String>) {
    let (limit, pipelines) = (memory::limit(config) as f64, config.pipelines.len().max(1) as f64);
    let share = memory::share(config, 0, config.pipelines.len()) as f64;
    // Half of a share is for what is in flight.
    let held = share / 2.0 / weight;
    let caches_and_references = (limit - share * pipelines).max(0.0);
    let at_the_bound = held.min(max_in_flight as f64) * keeps;
    let too_little = (in_flight > LOW_WATER * held).then(|| {
        const MIB: f64 = 1_048_576.0;
        let wanted = in_flight / LOW_WATER;
        let mib = ((limit + (2.0 * wanted * weight - share) * pipelines) / MIB).ceil();
        // Queues may be full meanwhile: all of `memory` counts.
        let pod = PROCESS_BYTES + mib * MIB + wanted * (keeps - weight).max(0.0);
        format!(
            "[limits] memory has room for {held:.0} of these records, but {wanted:.0} must fit: raise it to {mib:.0}MiB, and the memory of a pod to \
             {:.0} MB",
            pod / 1e6
        )
    });
    (PROCESS_BYTES + caches_and_references + at_the_bound, too_little)
}

/// Partitions of the busiest pod, whose consumers may all be among those that have one more than others.
fn of_busiest(partitions: usize, pods: usize, consumers: usize) -> usize {
    let members = pods * consumers;
    consumers * (partitions / members) + consumers.min(partitions % members)
}

/// Whole partitions that keep no more than `room` busy, of cores or connections, where one keeps `each` busy.
fn borne(room: f64, each: f64) -> usize {
    // What fits exactly is not lost to rounding.
    (room / each + 1e-9) as usize
}

#[cfg(test)]
mod tests;
