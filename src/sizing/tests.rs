//! Tests of the model, against manual calculations and measurements.

use super::*;

fn load(texts: &[(&str, &str)]) -> Config {
    let texts = texts
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let (config, _) =
        config::load_str(texts.collect(), std::iter::empty()).unwrap_or_else(|e| panic!("{}", e.human(false)));
    config
}

fn ordered(order: &str, steps: &str) -> Config {
    let text = format!(
        "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n[scylla]\nnodes = [\"s:1\"]\n[pipelines.p]\norder = \"{order}\"\n\
         [pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n[pipelines.p.sink]\ntopic = \"o\"\n{steps}"
    );
    load(&[("t.toml", &text)])
}

fn steps(steps: &str) -> Config {
    ordered("none", steps)
}

/// The needs of the only pipeline.
fn of(config: &Config, load: &Load) -> Needs {
    let pipeline = config.pipelines.values().next().unwrap();
    needs(config, pipeline, load)
}

const LOOKUP: &str = "[[pipelines.p.steps]]\nname = \"l\"\nlookup = \"SELECT a FROM k.t WHERE b = :b\"\n";
/// It writes the table that `LOOKUP` reads.
const WRITE: &str = "[[pipelines.p.steps]]\nname = \"w\"\nwrite = \"INSERT INTO k.t (a, b) VALUES (:a, :b)\"\n";
const LOAD: Load = Load {
    rate: 200_000.0,
    bytes: 617.0,
    hit_ratio: 0.95,
    store_latency: Duration::from_millis(2),
    connections: 100,
    linger: Duration::from_millis(5),
    partitions: 20,
    cores: 1.0,
    utilisation: 0.6,
    machine: 1.0,
};

#[test]
fn a_cache_saves_what_it_answers_and_the_parts_are_the_whole() {
    let asks = of(&steps(LOOKUP), &LOAD);
    let cached = of(
        &steps(&format!("{LOOKUP}cache = {{ ttl = \"1m\", max_bytes = \"1MiB\" }}\n")),
        &LOAD,
    );
    // At 2 ms a wait costs a sixth of its maximum.
    let saved = 0.95 * (cost::LOOKUP + cost::WAIT / 6.0 - cost::HIT);
    assert!((asks.cpu_us - cached.cpu_us - saved).abs() < 1e-9);
    let sum: f64 = asks.parts.iter().map(|(_, us)| us).sum();
    assert!((sum - asks.cpu_us).abs() < 1e-9);
    let in_all = |needs: &Needs| needs.in_flight * needs.pods as f64;
    assert!(in_all(&cached) < in_all(&asks));
}

#[test]
fn little_s_law_gives_what_is_in_flight() {
    let needs = of(&steps(LOOKUP), &LOAD);
    // The busiest pod has seven of twenty partitions. A record waits 2 ms for the database, 2.5 ms for the linger and 5 ms for delivery.
    let expected = 200_000.0 * 7.0 / 20.0 * 0.0095;
    assert_eq!(needs.pods, 3);
    assert!((needs.in_flight - expected).abs() < 1e-6, "{needs:?}");
    assert!(needs.max_in_flight as f64 >= 4.0 * expected);
}

#[test]
fn more_pods_than_partitions_have_no_work() {
    let few = Load { partitions: 2, ..LOAD };
    let needs = of(&steps(LOOKUP), &few);
    assert_eq!(needs.pods, 2);
    assert!(needs.too_few_partitions);
    // More cores per pod would be enough.
    assert!(!needs.partitions_are_full);
    assert!(needs.consumers >= 1 && needs.consumers <= 2);
}

#[test]
fn a_partition_is_one_consumer_and_that_one_core() {
    let load = |partitions, rate| Load {
        partitions,
        rate,
        cores: 4.0,
        ..LOAD
    };
    let one = of(&steps(LOOKUP), &load(1, 200_000.0));
    assert_eq!((one.pods, one.consumers, one.too_few_partitions), (1, 1, true));
    assert!(one.partitions_are_full);
    let both = steps(&format!("{LOOKUP}{WRITE}"));
    let six = of(&both, &load(6, 1_300_000.0));
    assert_eq!((six.pods, six.consumers, six.too_few_partitions), (6, 1, true));
    let enough = of(&both, &load(60, 1_300_000.0));
    assert!(enough.consumers > 1 && !enough.too_few_partitions, "{enough:?}");
}

/// Whether the partitions are enough. If so, asserts that no pod and no consumer bears more than it may, and that there is no pod too many.
fn is_borne(config: &Config, load: &Load) -> bool {
    const ROUNDING: f64 = 1e-6;
    let needs = of(config, load);
    let share = load.partitions.div_ceil(needs.pods);
    assert!(needs.pods <= load.partitions, "{load:?}: {needs:?}");
    assert!((1..=share).contains(&needs.consumers), "{load:?}: {needs:?}");
    if needs.too_few_partitions {
        return false;
    }
    let cores_of = |partitions: usize| needs.cores * partitions as f64 / load.partitions as f64;
    let room = load.cores * load.utilisation;
    // Kafka assigns the partitions to consumers in turn, and the first consumers may all be of one pod.
    let busiest = |pods: usize, consumers: usize| {
        let given = (0..load.partitions).filter(|partition| partition % (pods * consumers) < consumers);
        cores_of(given.count())
    };
    assert!(
        busiest(needs.pods, needs.consumers) <= room + ROUNDING,
        "{load:?}: {needs:?}"
    );
    let of_consumer = |share: usize, consumers| cores_of(share.div_ceil(consumers)) * needs.loop_us / needs.cpu_us;
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
    let config = steps(LOOKUP);
    let mut enough = 0;
    // Three decades of rates.
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
                enough += usize::from(is_borne(&config, &load));
            }
        }
    }
    assert!(enough > 1000, "{enough}");
}

/// The consumers that have one partition more than others may all be in one pod.
#[test]
fn partitions_are_given_to_consumers_and_not_to_pods() {
    assert_eq!(of_busiest(20, 3, 1), 7);
    assert_eq!(of_busiest(20, 3, 4), 8);
    assert_eq!(of_busiest(20, 3, 10), 10);
    assert_eq!(of_busiest(20, 1, 3), 20);
    let load = Load {
        rate: 600_000.0,
        cores: 4.0,
        ..LOAD
    };
    // A partition needs a third of a core, so a pod can bear seven, and a consumer two. Of twelve consumers in three pods, eight would have two
    // partitions, so one pod could get eight.
    let needs = of(&steps(&format!("{LOOKUP}{WRITE}")), &load);
    assert_eq!((needs.pods, needs.consumers), (4, 3), "{needs:?}");
}

#[test]
fn a_rate_of_nothing_needs_one_pod_and_no_partitions_are_too_few() {
    let idle = of(&steps(LOOKUP), &Load { rate: 0.0, ..LOAD });
    assert_eq!((idle.pods, idle.consumers, idle.too_few_partitions), (1, 1, false));
    let none = of(&steps(LOOKUP), &Load { partitions: 0, ..LOAD });
    assert_eq!((none.pods, none.consumers, none.too_few_partitions), (1, 1, true));
}

#[test]
fn a_slower_database_costs_more_up_to_a_bound() {
    let at = |ms| {
        let load = Load {
            store_latency: Duration::from_millis(ms),
            ..LOAD
        };
        of(&steps(LOOKUP), &load).cpu_us
    };
    let free = at(0);
    assert!((at(10) - free - cost::WAIT / 2.0).abs() < 1e-9);
    assert!(at(10) < at(100) && at(100_000) < free + cost::WAIT);
}

#[test]
fn a_slower_machine_needs_more_of_everything() {
    let slow = Load { machine: 2.0, ..LOAD };
    let (here, there) = (of(&steps(LOOKUP), &LOAD), of(&steps(LOOKUP), &slow));
    assert!((there.cpu_us - 2.0 * here.cpu_us).abs() < 1e-9);
    assert!(there.pods >= here.pods);
}

/// The jobs of benches/e2e, at its hit ratio, on a database that answers at once. The measured values are medians of `us_by_part` from
/// `benches/e2e/run`.
#[test]
fn the_consumer_s_own_thread_has_the_share_that_was_measured() {
    let peers = ("peers.toml", include_str!("../../benches/e2e/peers.toml"));
    let cached = ("cached.toml", include_str!("../../benches/e2e/cached.toml"));
    let grouped = ("grouped.toml", include_str!("../../benches/e2e/grouped.toml"));
    let load_of = Load {
        hit_ratio: 0.935,
        store_latency: Duration::ZERO,
        ..LOAD
    };
    for (texts, measured) in [
        (vec![peers], 0.77),
        (vec![peers, cached], 0.72),
        (vec![peers, grouped], 0.62),
    ] {
        let needs = of(&load(&texts), &load_of);
        let share = needs.loop_us / needs.cpu_us;
        assert!((share - measured).abs() < 0.05, "{texts:?}: {share}");
    }
    // A large value is mostly compressed and decompressed on other threads.
    let large = Load {
        bytes: 100_000.0,
        ..load_of
    };
    let needs = of(&load(&[peers]), &large);
    assert!(needs.loop_us < needs.cpu_us / 2.0, "{needs:?}");
}

/// The MiB that docs/benchmarks.md reports for each number in flight.
#[test]
fn memory_at_a_bound_is_what_was_measured() {
    for (bound, measured) in [(1024, 93.0), (8192, 181.0)] {
        // A record takes 9.5 ms, and the bound is four times what is in flight.
        let load = Load {
            rate: f64::from(bound) / 4.0 / 0.0095 * 0.99,
            partitions: 1,
            ..LOAD
        };
        let needs = of(&steps(LOOKUP), &load);
        assert_eq!(needs.max_in_flight, bound as usize);
        let off = needs.memory_bytes / (measured * 1_048_576.0) - 1.0;
        assert!(off.abs() < 0.02, "{needs:?}");
    }
}

#[test]
fn records_that_the_budget_does_not_let_in_are_told_with_the_budget_that_does() {
    let mut config = steps(&format!("{LOOKUP}{WRITE}bind = {{ a = \"record.datum\" }}\n"));
    let load = Load {
        rate: 20_000.0,
        bytes: 10_000.0,
        store_latency: Duration::from_millis(500),
        linger: Duration::from_millis(1),
        ..LOAD
    };
    let short = of(&config, &load);
    let [why] = &short.not_enough[..] else {
        panic!("{short:?}");
    };
    assert!(why.starts_with("[limits] memory has room for 4"), "{why}");
    let (_, wanted) = why.split_once("raise it to ").unwrap();
    let (wanted, _) = wanted.split_once("MiB").unwrap();
    config.limits.memory.value = config::Size(wanted.parse::<u64>().unwrap() << 20);
    let enough = of(&config, &load);
    assert!(enough.not_enough.is_empty(), "{enough:?}");
    // Records that are not admitted take no memory.
    assert!(short.memory_bytes < enough.memory_bytes);
    assert!(enough.memory_bytes < enough.max_in_flight as f64 * 2.0 * load.bytes);
    // The model assumes full caches.
    let cache = format!("{LOOKUP}cache = {{ ttl = \"1m\", max_bytes = \"32MiB\" }}\n");
    let (with, without) = (
        of(&steps(&cache), &Load { hit_ratio: 0.0, ..LOAD }),
        of(&steps(LOOKUP), &LOAD),
    );
    assert!((with.memory_bytes - without.memory_bytes - f64::from(32 << 20)).abs() < 1.0);
}

/// Tasks that wait for a slow database take most of the memory: the budget admits fewer than are in flight, and the pod stays below the chart's limit.
#[test]
fn tasks_that_wait_for_a_slow_database_count() {
    let load = Load {
        store_latency: Duration::from_millis(200),
        linger: Duration::from_millis(1),
        ..LOAD
    };
    let needs = of(&steps(&format!("{LOOKUP}{WRITE}")), &load);
    assert_eq!(needs.max_in_flight, 65_536);
    let [why] = &needs.not_enough[..] else {
        panic!("{needs:?}");
    };
    assert!(why.starts_with("[limits] memory has room for 13"), "{why}");
    assert!(needs.memory_bytes < f64::from(512 << 20), "{needs:?}");
}

#[test]
fn a_reference_on_demand_asks_and_waits_and_takes_a_connection() {
    let step = "[[pipelines.p.steps]]\nname = \"r\"\nreference = \"r\"\nkey = \"event.id\"\n\
                [mongo]\nuri = \"mongodb://h\"\n[references.r]\ncollection = \"d.c\"\nfields = [\"name\"]\n";
    let on_demand = steps(&format!("{step}mode = \"on_demand\"\ncache = {{ ttl = \"1m\" }}\n"));
    let slow = Load {
        store_latency: Duration::from_millis(20),
        ..LOAD
    };
    let (memory, asks) = (of(&steps(step), &slow), of(&on_demand, &slow));
    assert!((memory.parts[1].1 - cost::REFERENCE).abs() < 1e-9);
    let expected = 0.05 * (cost::LOOKUP + cost::WAIT * 2.0 / 3.0) + 0.95 * cost::HIT;
    assert!((asks.parts[1].1 - expected).abs() < 1e-9);
    // Each partition has ten requests open at a time, so a pod can bear six partitions.
    assert_eq!((memory.pods, asks.pods), (2, 4));
    let more = Load {
        connections: 1000,
        ..slow
    };
    assert_eq!(of(&on_demand, &more).pods, 2);
    // The busiest pod has five of twenty partitions. A record waits for MongoDB (5 % of the records), for the linger and for delivery.
    let expected = 50_000.0 * (0.05 * 0.02 + 0.0025 + 0.005);
    assert!((asks.in_flight - expected).abs() < 1e-6, "{asks:?}");
    assert!(asks.not_enough.is_empty(), "{asks:?}");
    let many = Load {
        rate: 1_400_000.0,
        cores: 8.0,
        ..slow
    };
    let short = of(&on_demand, &many);
    let [why] = &short.not_enough[..] else {
        panic!("{short:?}");
    };
    assert!(
        why.contains("keeps 70 busy: raise maxPoolSize of its uri to 117"),
        "{why}"
    );
}

#[test]
fn rows_share_a_request_as_far_as_their_group_lets_them() {
    const ACROSS: &str = "group = { across_partitions = true }";
    let bytes = |bytes| Load {
        bytes,
        store_latency: Duration::ZERO,
        ..LOAD
    };
    let write = |keys: &str| steps(&format!("{WRITE}bind = {{ a = \"record.datum\" }}\n{keys}\n"));
    let own = |keys: &str, load: &Load| of(&write(keys), load).parts[1].1 - cost::DATUM_KB * load.bytes / 1000.0;
    for (keys, rows) in [
        ("group = {}", 1.0),
        (ACROSS, 5.0),
        ("group = { across_partitions = true, max_bytes = \"64KiB\" }", 50.0),
        ("group = { across_partitions = true, max_rows = 4 }", 4.0),
    ] {
        let expected = cost::GROUPED + cost::WRITE / rows;
        assert!((own(keys, &bytes(617.0)) - expected).abs() < 1e-9, "{keys}");
    }
    // Rows that are written at once and by themselves.
    for (keys, of_bytes) in [
        ("", 617.0),
        ("group = { across_partitions = true }\non_error = \"skip\"", 617.0),
        (ACROSS, 4000.0),
    ] {
        assert!((own(keys, &bytes(of_bytes)) - cost::WRITE).abs() < 1e-9, "{keys}");
    }
    // A group in which rows never meet costs at least as much as no group, plus the linger.
    for ms in [0, 2, 12, 1000] {
        let load = Load {
            store_latency: Duration::from_millis(ms),
            partitions: 1,
            ..LOAD
        };
        let (alone, grouped) = (of(&write(""), &load), of(&write("group = {}"), &load));
        assert!(grouped.cpu_us > alone.cpu_us);
        // The group's default linger is 2 ms.
        assert!((grouped.in_flight - alone.in_flight - load.rate * 0.002).abs() < 1e-6);
    }
}

#[test]
fn a_pipeline_that_reads_what_it_writes_is_bound_by_its_order() {
    let both = format!("{LOOKUP}{WRITE}");
    let slow = Load { rate: 2_000.0, ..LOAD };
    let partition = ordered("partition", &both);
    // Two steps of 2 ms: 250 records/s per partition.
    let why = of(&partition, &LOAD).not_enough;
    let limit = "order = \"partition\" runs one record of a partition at a time: 3000 records/s at most at this utilisation, whatever the pods";
    assert_eq!(why, [limit]);
    assert!(of(&partition, &slow).not_enough.is_empty());
    let key = of(&ordered("key", &both), &LOAD);
    assert_eq!(key.of_key.map(f64::round), Some(250.0));
    assert!(key.not_enough.is_empty());
    for (order, steps) in [
        ("none", both.clone()),
        ("key", LOOKUP.to_owned()),
        ("partition", both.replace("INSERT INTO k.t", "INSERT INTO k.other")),
    ] {
        let needs = of(&ordered(order, &steps), &LOAD);
        assert!(
            needs.of_key.is_none() && needs.not_enough.is_empty(),
            "{order}: {needs:?}"
        );
    }
}

#[test]
fn a_database_that_never_answers_overflows_nothing() {
    for asks in ["", "cache = { ttl = \"1m\" }\n"] {
        let load = Load {
            store_latency: Duration::MAX,
            ..LOAD
        };
        let needs = of(&steps(&format!("{LOOKUP}{asks}{WRITE}")), &load);
        assert_eq!(needs.max_in_flight, usize::MAX);
        assert!(needs.memory_bytes.is_finite(), "{needs:?}");
    }
}
