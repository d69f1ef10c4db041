//! No datum and no schema costs more time or memory than its length justifies.
//!
//! Each shape is one that could: many small blocks, sizes and counts without data, recursion, repeated keys, names that are
//! looked up. Each is made in two lengths. The cost of the long one may grow as its length does, with a margin for what else the
//! machine does; quadratic growth would be far outside. The allocator records the most memory that a thread holds. Alone in its
//! file, because an allocator belongs to the whole process.

#![allow(clippy::unwrap_used, clippy::panic)] // A test that fails says so by panicking.

mod avro_generator;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use avro_generator::{put_bytes, put_long};
use messina::avro::{Plan, Schema, Splice};

struct Counting;

thread_local! {
    /// Bytes that this thread holds now, and the most it has held.
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

fn hold(more: usize, less: usize) {
    // A thread that is ending has no counter any more, and nothing worth counting.
    let _ = HELD.try_with(|held| {
        let now = (held.get().0 + more).saturating_sub(less);
        held.set((now, held.get().1.max(now)));
    });
}

// SAFETY: everything is passed on to the system's allocator; only counters are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        hold(layout.size(), 0);
        // SAFETY: the caller's own promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        hold(0, layout.size());
        // SAFETY: the caller's own promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most memory that `work` holds in addition to what was held before.
fn memory(work: impl FnOnce()) -> usize {
    let (before, _) = HELD.get();
    HELD.set((before, before));
    work();
    HELD.get().1 - before
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into what it is given.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(answer, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The shortest time of several rounds.
fn time(work: impl Fn()) -> Duration {
    let round = |_| {
        let before = cpu();
        work();
        cpu() - before
    };
    (0..5).map(round).min().unwrap()
}

/// How many times longer the long form is, and how many times more it may cost.
const LONGER: usize = 16;
const DEARER: u32 = 3 * LONGER as u32;

/// Measures both forms of a shape.
fn linear(what: &str, short: impl Fn(), long: impl Fn()) {
    let (short, long) = (time(short), time(long));
    println!("{what}: {short:?}, {LONGER} times as long: {long:?}");
    // Below this, the clock and the caches matter more than the work.
    let floor = Duration::from_micros(20);
    assert!(long <= DEARER * short.max(floor), "{what}: {short:?} and {long:?}");
}

/// A plan and a splice for a record with one field of this type, which is encoded like the type alone; the paths start in that
/// field.
fn compile(json: &str, paths: &[&str]) -> (Arc<Schema>, Plan, Splice) {
    let json = format!(r#"{{"type":"record","name":"Whole","fields":[{{"name":"f","type":{json}}}]}}"#);
    let schema = Arc::new(Schema::parse(&json).unwrap());
    let paths: Vec<String> = paths.iter().map(|path| format!("f{path}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let (plan, splice) = Plan::compile_with_output(Arc::clone(&schema), &paths, Arc::clone(&schema), &[]).unwrap();
    (schema, plan, splice)
}

/// A name, a schema, paths into it, and a function that makes a datum of about this many bytes, which need not be valid.
type Shape = (
    &'static str,
    &'static str,
    &'static [&'static str],
    fn(usize) -> Vec<u8>,
);

fn blocks(length: usize, block: &[u8]) -> Vec<u8> {
    let mut datum = block.repeat(length / block.len());
    datum.push(0);
    datum
}

const SHAPES: [Shape; 12] = [
    (
        "blocks of one int",
        r#"{"type":"array","items":"int"}"#,
        &["", "[0]", "[9999999]"],
        |n| blocks(n, &[2, 4]),
    ),
    (
        "blocks of one long with their size",
        r#"{"type":"array","items":"long"}"#,
        &["[3]"],
        |n| blocks(n, &[1, 2, 4]),
    ),
    ("blocks of one null", r#"{"type":"array","items":"null"}"#, &[""], |n| {
        blocks(n, &[2])
    }),
    ("long strings", r#"{"type":"array","items":"string"}"#, &["[1]"], |n| {
        let mut text = Vec::new();
        put_long(&mut text, 1);
        put_bytes(&mut text, "é€𝄞a".repeat(n / 10).as_bytes());
        text.push(0);
        text
    }),
    ("a string that is bad at its end", r#""string""#, &[""], |n| {
        let mut text = "a".repeat(n).into_bytes();
        text.push(0xff);
        let mut datum = Vec::new();
        put_bytes(&mut datum, &text);
        datum
    }),
    (
        "a key that repeats",
        r#"{"type":"map","values":{"type":"map","values":"int"}}"#,
        &["['a']['b']", "['a']"],
        |n| blocks(n, &[2, 2, b'a', 2, 2, b'b', 2, 0]),
    ),
    (
        "empty arrays in arrays",
        r#"{"type":"array","items":{"type":"array","items":{"type":"array","items":"int"}}}"#,
        &["[1][1]"],
        |n| blocks(n, &[2, 2, 0, 0]),
    ),
    (
        "a list that is linked",
        r#"{"type":"record","name":"L","fields":[{"name":"v","type":"int"},{"name":"n","type":["null","L"]}]}"#,
        &[".n.n.v"],
        |n| {
            let mut datum = [2, 2].repeat(n / 2);
            datum.extend([2, 0]);
            datum
        },
    ),
    (
        "a tree that is only deep",
        r#"{"type":"record","name":"T","fields":[{"name":"l","type":["null","T"]},{"name":"r","type":["null","T"]}]}"#,
        &[".l.l"],
        |n| [2].repeat(n),
    ),
    (
        "unions",
        r#"{"type":"array","items":["null","int","string",{"type":"array","items":"int"}]}"#,
        &["[2]"],
        |n| blocks(n, &[8, 0, 2, 4, 4, 2, b'x', 6, 2, 2, 0]),
    ),
    (
        "numbers of ten bytes",
        r#"{"type":"array","items":"long"}"#,
        &["[2]"],
        |n| {
            let mut block = vec![2];
            put_long(&mut block, i64::MIN);
            blocks(n, &block)
        },
    ),
    (
        "a count that is not there",
        r#"{"type":"array","items":{"type":"array","items":"null"}}"#,
        &[""],
        |n| {
            let mut item = Vec::new();
            put_long(&mut item, 1 << 60);
            item.push(0);
            let mut datum = Vec::new();
            put_long(&mut datum, (n / item.len()) as i64);
            (0..n / item.len()).for_each(|_| datum.extend(&item));
            datum.push(0);
            datum
        },
    ),
];

#[test]
fn a_run_takes_time_for_the_bytes_that_it_passes() {
    for (what, json, paths, make) in SHAPES {
        let (_, plan, _) = compile(json, paths);
        let [short, long] = [1, LONGER].map(|times| make(20_000 * times));
        let run = |datum: &[u8]| {
            let mut marks = vec![0; plan.marks()];
            let _ = plan.run(datum, 0, datum.len(), &mut marks);
        };
        linear(what, || run(&short), || run(&long));
    }
}

/// A run allocates nothing but a padded copy. The decoder and the splice may use what the datum's length justifies: a value of
/// 32 bytes for each byte, and lists that double as they grow.
#[test]
fn no_datum_takes_more_memory_than_its_length_explains() {
    for (what, json, paths, make) in SHAPES {
        let (schema, plan, splice) = compile(json, paths);
        let mut marks = vec![0; plan.marks()];
        for length in [20, 1000, 100_000] {
            let datum = make(length);
            let run = memory(|| _ = plan.run(&datum, 0, datum.len(), &mut marks));
            assert!(
                run <= datum.len() + 200,
                "{what}: a run of {} bytes holds {run}",
                datum.len()
            );
            let decoded = memory(|| drop(schema.decode(&datum)));
            assert!(
                decoded <= 300 * datum.len() + 10_000,
                "{what}: {} bytes decoded hold {decoded}",
                datum.len()
            );
            let mut out = Vec::new();
            let spliced = memory(|| _ = splice.build(&datum, 0, datum.len(), &marks, &[], &mut out));
            assert!(
                spliced <= 4 * datum.len() + 10_000,
                "{what}: {} bytes spliced hold {spliced}",
                datum.len()
            );
        }
    }
}

/// Counts and lengths of 2^60 in a datum of twenty bytes, wherever a schema allows one.
#[test]
fn claims_without_bytes_take_no_memory() {
    for json in [
        r#"{"type":"array","items":"int"}"#,
        r#"{"type":"array","items":"null"}"#,
        r#"{"type":"array","items":{"type":"record","name":"E","fields":[]}}"#,
        r#"{"type":"array","items":"double"}"#,
        r#"{"type":"map","values":"null"}"#,
        r#"{"type":"array","items":{"type":"array","items":"null"}}"#,
        r#""string""#,
        r#""bytes""#,
        r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#,
    ] {
        let (schema, plan, splice) = compile(json, &[""]);
        let mut marks = vec![0; plan.marks()];
        for sign in [1, -1] {
            let mut datum = Vec::new();
            put_long(&mut datum, sign * (1 << 60));
            datum.resize(19, 0x02);
            datum.push(0);
            let mut out = Vec::new();
            let held = memory(|| {
                let _ = plan.run(&datum, 0, datum.len(), &mut marks);
                let _ = schema.decode(&datum);
                let _ = splice.build(&datum, 0, datum.len(), &marks, &[], &mut out);
            });
            assert!(held < 20_000, "{json}: {held} bytes for {datum:?}");
        }
    }
}

/// The schema of a record with one field of this type, because only records can be resolved and compiled.
fn in_a_record(ty: &str) -> String {
    format!(r#"{{"type":"record","name":"R","fields":[{{"name":"f","type":{ty}}}]}}"#)
}

/// A name, and a function that makes a schema of about this many bytes.
type Text = (&'static str, fn(usize) -> String);

const SCHEMAS: [Text; 6] = [
    ("many fields", |n| {
        let mut json = r#"{"type":"record","name":"R","fields":["#.to_owned();
        (0..n / 40).for_each(|i| write!(json, r#"{{"name":"field{i}","type":["null","int"]}},"#).unwrap());
        json + r#"{"name":"z","type":"int"}]}"#
    }),
    ("many symbols", |n| {
        let symbols: Vec<String> = (0..n / 12).map(|i| format!(r#""SYMBOL{i}""#)).collect();
        in_a_record(&format!(
            r#"{{"type":"enum","name":"E","symbols":[{}]}}"#,
            symbols.join(",")
        ))
    }),
    ("many names, each used", |n| {
        let mut json = r#"{"type":"record","name":"R","fields":["#.to_owned();
        for i in 0..n / 120 {
            write!(
                json,
                r#"{{"name":"a{i}","type":{{"type":"fixed","name":"F{i}","size":4}}}},{{"name":"b{i}","type":"F{i}"}},"#
            )
            .unwrap();
        }
        json + r#"{"name":"z","type":"int"}]}"#
    }),
    ("many branches", |n| {
        let branches: Vec<String> = (0..n / 40)
            .map(|i| format!(r#"{{"type":"fixed","name":"F{i}","size":4}}"#))
            .collect();
        in_a_record(&format!("[{}]", branches.join(",")))
    }),
    ("many aliases", |n| {
        let aliases: Vec<String> = (0..n / 10).map(|i| format!(r#""a{i}""#)).collect();
        format!(
            r#"{{"type":"record","name":"R","aliases":[{0}],"fields":[{{"name":"f","type":"int","aliases":[{0}]}}]}}"#,
            aliases.join(",")
        )
    }),
    ("a long default", |n| {
        let items = vec!["1"; n / 2].join(",");
        format!(
            r#"{{"type":"record","name":"R","fields":[{{"name":"f","type":{{"type":"array","items":"int"}},"default":[{items}]}}]}}"#
        )
    }),
];

#[test]
fn a_schema_takes_time_for_its_text() {
    for (what, make) in SCHEMAS {
        let [short, long] = [1, LONGER].map(|times| make(4_000 * times));
        // Parses, resolves the schema to itself, and compiles it. Some are refused for their size, which takes no longer.
        let compile = |text: &str| {
            if let Ok(schema) = Schema::parse(text) {
                let schema = Arc::new(schema);
                let _ = Plan::compile_with_output(Arc::clone(&schema), &[], schema, &[]);
            }
        };
        linear(what, || compile(&short), || compile(&long));
    }
}
