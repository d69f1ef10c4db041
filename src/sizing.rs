//! What a pipeline costs before it runs: CPU for a record, cores and pods for a rate, and how many records are in flight meanwhile.
//!
//! The cost is a sum of what each part of the way takes, fitted to measurements (`benches/e2e/run sizing` makes them anew, and says how far the sum is
//! off). Records in flight follow from Little's law, L = λ W (J. D. C. Little, A Proof for the Queuing Formula: L = λW, Operations Research
//! 9, 1961). Pure: configuration in, numbers out.

use std::time::Duration;

use crate::config::{Pipeline, StepKind};

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
    /// A SELECT.
    pub const LOOKUP: f64 = 2.4;
    /// A look-up that the cache answers.
    pub const HIT: f64 = 1.0;
    /// A look-up in a reference. Not measured by itself: a hash table without the cache's bookkeeping.
    pub const REFERENCE: f64 = 0.4;
    /// An INSERT.
    pub const WRITE: f64 = 2.8;
    /// A row that goes to the database with others.
    pub const GROUPED: f64 = 0.3;
    /// A wait for the database, at most: the longer it takes, the more is in flight, and the less of it is in the processor's caches when the answer comes.
    pub const WAIT: f64 = 5.0;
    /// The same for a row that goes with others.
    pub const WAIT_GROUPED: f64 = 2.0;
    /// A thousand bytes of `record.datum` in a row.
    pub const DATUM_KB: f64 = 0.6;
    /// A filter, a name, a condition: an expression that is more than a path. Not measured by itself.
    pub const EXPRESSION: f64 = 0.5;
}

/// How long the database takes when a wait for it costs half of what it costs at most.
const HALF_COLD: Duration = Duration::from_millis(10);
/// The part of the cost that falls on the consumer's own thread, which has one core at most.
const OF_THE_LOOP: f64 = 0.8;
/// From the producer to the brokers' acknowledgement, beside its linger: a guess for a broker in the same place.
const DELIVERY: Duration = Duration::from_millis(5);
/// What one record keeps in memory beside its bytes, twice its value and its output.
const EVENT_BYTES: f64 = 8_000.0;

/// What is known of the load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Records a second, over all pods.
    pub rate: f64,
    /// Bytes of a record's value.
    pub bytes: f64,
    /// Share of the look-ups with a cache that it answers, 0 to 1.
    pub hit_ratio: f64,
    /// How long the database takes to answer.
    pub store_latency: Duration,
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
    /// Bytes in flight at that bound.
    pub in_flight_bytes: f64,
}

/// What `pipeline` needs under `load`.
pub fn needs(pipeline: &Pipeline, load: &Load) -> Needs {
    let kilobytes = load.bytes / 1000.0;
    let mut parts = vec![("read and decode".to_owned(), cost::RECORD + cost::RECORD_KB * kilobytes)];
    let mut waits = Duration::ZERO;
    let latency = load.store_latency.as_secs_f64();
    let cold = latency / (latency + HALF_COLD.as_secs_f64());
    for step in &pipeline.steps {
        let condition = if step.when.is_some() { cost::EXPRESSION } else { 0.0 };
        let own = match &step.kind {
            StepKind::Lookup(lookup) => {
                let asks = if lookup.cache.is_some() {
                    1.0 - load.hit_ratio
                } else {
                    1.0
                };
                waits += load.store_latency.mul_f64(asks);
                asks * (cost::LOOKUP + cold * cost::WAIT) + (1.0 - asks) * cost::HIT
            }
            StepKind::Write(write) => {
                waits += load.store_latency;
                let datum = write.bind.iter().filter(|bind| bind.expression.value == "record.datum");
                let bytes = datum.count() as f64 * cost::DATUM_KB * kilobytes;
                match &write.group {
                    Some(group) => {
                        waits += group.linger;
                        cost::GROUPED + cold * cost::WAIT_GROUPED + bytes
                    }
                    None => cost::WRITE + cold * cost::WAIT + bytes,
                }
            }
            StepKind::Reference(_) => cost::REFERENCE,
            StepKind::Filter(_) | StepKind::Custom(_) => cost::EXPRESSION,
            StepKind::Set(values) => cost::EXPRESSION * values.len() as f64,
        };
        parts.push((step.name.value.clone(), own + condition));
    }
    if pipeline.sink.is_some() {
        parts.push((
            "encode and publish".to_owned(),
            cost::PUBLISH + cost::PUBLISH_KB * kilobytes,
        ));
        // On average a record waits for half of the linger.
        waits += load.linger / 2 + DELIVERY;
    }
    parts.iter_mut().for_each(|(_, us)| *us *= load.machine);
    let cpu_us: f64 = parts.iter().map(|(_, us)| us).sum();
    let cores = load.rate * cpu_us / 1e6;
    let partitions = load.partitions.max(1);
    let each = cores / partitions as f64;
    let of_pod = borne(load.cores * load.utilisation, each);
    // A partition is one consumer, and that one core.
    let of_consumer = borne(load.utilisation, each * OF_THE_LOOP);
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
    let in_flight = load.rate * most as f64 / partitions as f64 * waits.as_secs_f64();
    let max_in_flight = ((in_flight * 4.0) as usize).next_power_of_two().max(64);
    Needs {
        parts,
        cpu_us,
        cores,
        pods,
        too_few_partitions: load.partitions == 0 || of_pod == 0 || of_consumer == 0,
        partitions_are_full: of_consumer == 0,
        consumers,
        in_flight,
        max_in_flight,
        in_flight_bytes: max_in_flight as f64 * (2.0 * load.bytes + EVENT_BYTES),
    }
}

/// Partitions of the busiest pod, whose consumers may all be among those that have one more than others.
fn of_busiest(partitions: usize, pods: usize, consumers: usize) -> usize {
    let members = pods * consumers;
    consumers * (partitions / members) + consumers.min(partitions % members)
}

/// Whole partitions that keep no more than `room` cores busy, where one keeps `each` busy.
fn borne(room: f64, each: f64) -> usize {
    // What fits exactly is not lost to rounding.
    (room / each + 1e-9) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn pipeline(steps: &str) -> Pipeline {
        let text = format!(
            "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n[scylla]\nnodes = [\"s:1\"]\n[pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n\
             [pipelines.p.sink]\ntopic = \"o\"\n{steps}"
        );
        let (config, _) = config::load_str(vec![("t.toml".into(), text)], std::iter::empty())
            .unwrap_or_else(|e| panic!("{}", e.human(false)));
        config.pipelines["p"].clone()
    }

    const LOOKUP: &str = "[[pipelines.p.steps]]\nname = \"l\"\nlookup = \"SELECT a FROM k.t WHERE b = :b\"\n";
    const LOAD: Load = Load {
        rate: 200_000.0,
        bytes: 617.0,
        hit_ratio: 0.95,
        store_latency: Duration::from_millis(2),
        linger: Duration::from_millis(5),
        partitions: 20,
        cores: 1.0,
        utilisation: 0.6,
        machine: 1.0,
    };

    #[test]
    fn a_cache_saves_what_it_answers_and_the_parts_are_the_whole() {
        let asks = needs(&pipeline(LOOKUP), &LOAD);
        let cached = needs(
            &pipeline(&format!("{LOOKUP}cache = {{ ttl = \"1m\", max_bytes = \"1MiB\" }}\n")),
            &LOAD,
        );
        // 2 ms: a sixth of what a wait costs at most.
        let saved = 0.95 * (cost::LOOKUP + cost::WAIT / 6.0 - cost::HIT);
        assert!((asks.cpu_us - cached.cpu_us - saved).abs() < 1e-9);
        let sum: f64 = asks.parts.iter().map(|(_, us)| us).sum();
        assert!((sum - asks.cpu_us).abs() < 1e-9);
        let in_all = |needs: &Needs| needs.in_flight * needs.pods as f64;
        assert!(in_all(&cached) < in_all(&asks));
    }

    #[test]
    fn little_s_law_gives_what_is_in_flight() {
        let needs = needs(&pipeline(LOOKUP), &LOAD);
        // Seven of twenty partitions; 2 ms at the database, 2.5 ms of the linger, 5 ms of delivery.
        let expected = 200_000.0 * 7.0 / 20.0 * 0.0095;
        assert_eq!(needs.pods, 3);
        assert!((needs.in_flight - expected).abs() < 1e-6, "{needs:?}");
        assert!(needs.max_in_flight as f64 >= 4.0 * expected);
    }

    #[test]
    fn more_pods_than_partitions_have_no_work() {
        let few = Load { partitions: 2, ..LOAD };
        let needs = needs(&pipeline(LOOKUP), &few);
        assert_eq!(needs.pods, 2);
        assert!(needs.too_few_partitions);
        // More cores to a pod would do.
        assert!(!needs.partitions_are_full);
        assert!(needs.consumers >= 1 && needs.consumers <= 2);
    }

    #[test]
    fn a_partition_is_one_consumer_and_that_one_core() {
        let of = |partitions, rate| Load {
            partitions,
            rate,
            cores: 4.0,
            ..LOAD
        };
        let one = needs(&pipeline(LOOKUP), &of(1, 200_000.0));
        assert_eq!((one.pods, one.consumers, one.too_few_partitions), (1, 1, true));
        assert!(one.partitions_are_full);
        let write = "[[pipelines.p.steps]]\nname = \"w\"\nwrite = \"INSERT INTO k.t (a, b) VALUES (:a, :b)\"\n";
        let steps = pipeline(&format!("{LOOKUP}{write}"));
        let six = needs(&steps, &of(6, 1_300_000.0));
        assert_eq!((six.pods, six.consumers, six.too_few_partitions), (6, 1, true));
        let enough = needs(&steps, &of(60, 1_300_000.0));
        assert!(enough.consumers > 1 && !enough.too_few_partitions, "{enough:?}");
    }

    /// Whether the partitions are enough; if so, that no pod and no consumer bears more than it may, and that there is no pod too many.
    fn is_borne(pipeline: &Pipeline, load: &Load) -> bool {
        const ROUNDING: f64 = 1e-6;
        let needs = needs(pipeline, load);
        let share = load.partitions.div_ceil(needs.pods);
        assert!(needs.pods <= load.partitions, "{load:?}: {needs:?}");
        assert!((1..=share).contains(&needs.consumers), "{load:?}: {needs:?}");
        if needs.too_few_partitions {
            return false;
        }
        let cores_of = |partitions: usize| needs.cores * partitions as f64 / load.partitions as f64;
        let room = load.cores * load.utilisation;
        // Kafka gives the partitions to consumers in turn, and the first of these may be all of one pod.
        let busiest = |pods: usize, consumers: usize| {
            let given = (0..load.partitions).filter(|partition| partition % (pods * consumers) < consumers);
            cores_of(given.count())
        };
        assert!(
            busiest(needs.pods, needs.consumers) <= room + ROUNDING,
            "{load:?}: {needs:?}"
        );
        let of_consumer = |share: usize, consumers| OF_THE_LOOP * cores_of(share.div_ceil(consumers));
        let bears = |share, consumers| of_consumer(share, consumers) <= load.utilisation + ROUNDING;
        assert!(bears(share, needs.consumers), "{load:?}: {needs:?}");
        if needs.pods > 1 {
            let share = load.partitions.div_ceil(needs.pods - 1);
            let consumers = (1..=share).find(|consumers| bears(share, *consumers)).unwrap();
            assert!(busiest(needs.pods - 1, consumers) > room, "{load:?}: {needs:?}");
        }
        true
    }

    #[test]
    fn the_busiest_pod_and_its_busiest_consumer_bear_their_whole_partitions() {
        let pipeline = pipeline(LOOKUP);
        let mut enough = 0;
        // Three decades.
        for step in 0..=60_u32 {
            let rate = 10_000.0 * 10_f64.powf(f64::from(step) / 20.0);
            for partitions in 1..=60 {
                for cores in [1.0, 4.0, 8.0] {
                    let load = Load {
                        rate,
                        partitions,
                        cores,
                        ..LOAD
                    };
                    enough += usize::from(is_borne(&pipeline, &load));
                }
            }
        }
        assert!(enough > 1000, "{enough}");
    }

    /// The consumers that have one partition more than others may all be of one pod.
    #[test]
    fn partitions_are_given_to_consumers_and_not_to_pods() {
        assert_eq!(of_busiest(20, 3, 1), 7);
        assert_eq!(of_busiest(20, 3, 4), 8);
        assert_eq!(of_busiest(20, 3, 10), 10);
        assert_eq!(of_busiest(20, 1, 3), 20);
        let write = "[[pipelines.p.steps]]\nname = \"w\"\nwrite = \"INSERT INTO k.t (a, b) VALUES (:a, :b)\"\n";
        let load = Load {
            rate: 600_000.0,
            cores: 4.0,
            ..LOAD
        };
        // A third of a core for a partition, so that seven fit, of which a consumer bears two. Of twelve consumers in three pods eight would have two.
        let needs = needs(&pipeline(&format!("{LOOKUP}{write}")), &load);
        assert_eq!((needs.pods, needs.consumers), (4, 3), "{needs:?}");
    }

    #[test]
    fn a_rate_of_nothing_needs_one_pod_and_no_partitions_are_too_few() {
        let idle = needs(&pipeline(LOOKUP), &Load { rate: 0.0, ..LOAD });
        assert_eq!((idle.pods, idle.consumers, idle.too_few_partitions), (1, 1, false));
        let none = needs(&pipeline(LOOKUP), &Load { partitions: 0, ..LOAD });
        assert_eq!((none.pods, none.consumers, none.too_few_partitions), (1, 1, true));
    }

    #[test]
    fn a_slower_database_costs_more_up_to_a_bound() {
        let at = |ms| {
            let load = Load {
                store_latency: Duration::from_millis(ms),
                ..LOAD
            };
            needs(&pipeline(LOOKUP), &load).cpu_us
        };
        let free = at(0);
        assert!((at(10) - free - cost::WAIT / 2.0).abs() < 1e-9);
        assert!(at(10) < at(100) && at(100_000) < free + cost::WAIT);
    }

    #[test]
    fn a_slower_machine_needs_more_of_everything() {
        let slow = Load { machine: 2.0, ..LOAD };
        let (here, there) = (needs(&pipeline(LOOKUP), &LOAD), needs(&pipeline(LOOKUP), &slow));
        assert!((there.cpu_us - 2.0 * here.cpu_us).abs() < 1e-9);
        assert!(there.pods >= here.pods);
    }
}
