//! No bytes do harm: truncated and mutated data are refused or read as by apache-avro, except for the differences listed
//! here. Nothing panics, whatever follows them in the buffer.

#![allow(clippy::unwrap_used, clippy::panic)] // A test that fails says so by panicking.

mod avro_generator;

use std::collections::BTreeMap;
use std::io::{Error, Read};
use std::sync::{Arc, Mutex};

use apache_avro::Schema as TheirSchema;
use apache_avro::reader::datum::GenericDatumReader;
use avro_generator::{Generator, cases, ours, sorted};
use messina::avro::{DatumError, PADDING, Plan, Schema};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// apache-avro takes the end of its input for a null in booleans, strings and unions, and so accepts truncated data. This
/// reader ends with another kind of error, which apache-avro does not accept.
struct Ends<'a>(&'a [u8]);

impl Read for Ends<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() && !buf.is_empty() {
            return Err(Error::other("ends here"));
        }
        self.0.read(buf)
    }
}

/// Runs the plan with several kinds of bytes behind the datum; the answer must not depend on them.
fn run(plan: &Plan, datum: &[u8]) -> Result<(), DatumError> {
    let mut marks = vec![0; plan.marks()];
    let answer = plan.run(datum, 0, datum.len(), &mut marks);
    let found = marks.clone();
    for garbage in [0x00, 0x02, 0x80, 0xff] {
        let mut padded = datum.to_vec();
        padded.resize(datum.len() + PADDING, garbage);
        assert_eq!(
            plan.run(&padded, 0, datum.len(), &mut marks),
            answer,
            "garbage {garbage}, {datum:?}"
        );
        if answer.is_ok() {
            assert_eq!(marks, found);
        }
    }
    answer
}

fn mutate(generator: &mut Generator, datum: &mut Vec<u8>) {
    for _ in 0..1 + generator.random.below(3) {
        let random = &mut generator.random;
        let at = if datum.is_empty() { 0 } else { random.below(datum.len()) };
        match random.below(6) {
            0 | 1 if !datum.is_empty() => datum[at] = random.next() as u8,
            2 if !datum.is_empty() => datum[at] ^= 1 << random.below(8),
            3 if !datum.is_empty() => drop(datum.remove(at)),
            4 => datum.insert(at, [0, 1, 2, 0x7f, 0x80, 0xff][random.below(6)]),
            _ => {
                let number = random.long();
                let mut bytes = Vec::new();
                avro_generator::put_long(&mut bytes, number);
                datum.splice(at..at, bytes);
            }
        }
    }
}

/// How the two judged a mutated datum. Only these differences are explained; anything else fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Judgement {
    BothRead,
    BothRefuse,
    /// A text that is not a UUID: apache-avro builds the value at once, a plan reports it when the value is requested.
    RefusedByThemForAUuid,
    /// Millions of items without bytes: reported when requested, too.
    RefusedByThemForEmptyItems,
    /// apache-avro cannot hold a decimal of no bytes, which is zero.
    RefusedByThemForADecimal,
    /// An `int` or an index of more than five bytes, or a `long` of more than ten bytes or more than 64 bits: apache-avro
    /// reads more than the specification allows and drops the excess bits.
    RefusedForANumber,
    /// apache-avro does not check the sizes of blocks.
    RefusedForABlockSize,
    /// A block whose size has no room for its items, although the datum has: not checked either.
    RefusedForABlockCount,
    /// apache-avro limits depth only by its stack.
    RefusedForItsDepth,
}

fn judgement(
    ours: Result<(), DatumError>,
    decoded: Result<(), DatumError>,
    theirs: Result<(), String>,
) -> Result<Judgement, String> {
    match (ours, theirs) {
        (Ok(()), Ok(())) => Ok(Judgement::BothRead),
        (Err(_), Err(_)) => Ok(Judgement::BothRefuse),
        (Ok(()), Err(error)) => match decoded {
            Err(DatumError::Uuid { .. }) => Ok(Judgement::RefusedByThemForAUuid),
            Err(DatumError::EmptyItems { .. }) => Ok(Judgement::RefusedByThemForEmptyItems),
            _ if error.contains("ecimal") => Ok(Judgement::RefusedByThemForADecimal),
            _ => Err(format!("accepted what they refuse: {error}")),
        },
        (Err(error), Ok(())) => match error {
            DatumError::VarintOverflow { .. } => Ok(Judgement::RefusedForANumber),
            DatumError::BlockSize { .. } => Ok(Judgement::RefusedForABlockSize),
            DatumError::BlockCount { .. } => Ok(Judgement::RefusedForABlockCount),
            DatumError::Depth { .. } => Ok(Judgement::RefusedForItsDepth),
            _ => Err(format!("refused what they accept: {error}")),
        },
    }
}

/// Judges 400 mutations of ten data of one schema.
fn judge_mutations(seed: u64, counts: &mut BTreeMap<Judgement, u64>) -> Result<(), TestCaseError> {
    let mut generator = Generator::new(seed);
    let json = generator.schema();
    let theirs = TheirSchema::parse(&json).unwrap();
    let reader = GenericDatumReader::builder(&theirs).build().unwrap();
    let schema = Arc::new(Schema::parse(&json.to_string()).unwrap());
    let plan = Plan::compile(Arc::clone(&schema), &["", "f0"]).unwrap();
    for _ in 0..10 {
        let value = generator.value(&json, 0);
        let mut whole = Vec::new();
        generator.encode(&json, &value, &mut whole);
        for _ in 0..40 {
            let mut datum = whole.clone();
            mutate(&mut generator, &mut datum);
            let answer = run(&plan, &datum);
            let decoded = schema.decode(&datum);
            match (&answer, &decoded) {
                (Ok(()), Err(error)) => prop_assert!(
                    matches!(
                        error,
                        DatumError::Uuid { .. } | DatumError::EmptyItems { .. } | DatumError::Depth { .. }
                    ),
                    "{}",
                    error
                ),
                (Err(_), Ok(_)) => prop_assert!(false, "decoded what was refused: {:?}", answer),
                // Both stop at the same place, except for a text that is not a UUID, which the decoder reports first.
                (Err(a), Err(b)) if !matches!(b, DatumError::Uuid { .. } | DatumError::EmptyItems { .. }) => {
                    prop_assert_eq!(a, b, "{:?}", datum)
                }
                _ => {}
            }
            let mut input = Ends(&datum);
            let read = reader.read_value(&mut input);
            let left = input.0.len();
            let theirs = match &read {
                Ok(_) if left > 0 => Err("trailing bytes".to_owned()),
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
            let judged = judgement(answer, decoded.clone().map(|_| ()), theirs);
            let judged = judged.map_err(|error| TestCaseError::fail(format!("{error}: {datum:?} of {json}")))?;
            *counts.entry(judged).or_default() += 1;
            if let (Judgement::BothRead, Ok(value), Ok(read)) = (judged, decoded, read) {
                prop_assert_eq!(format!("{:?}", sorted(value)), format!("{:?}", ours(&read)));
            }
        }
    }
    Ok(())
}

/// 80,000 mutated data, and three million in a long run. `--nocapture` shows how they were judged.
#[test]
fn mutated_data_are_judged_alike() {
    apache_avro::util::max_allocation_bytes(64 << 20);
    let counts = Mutex::new(BTreeMap::new());
    let mut runner = TestRunner::new(cases(200, 7500));
    let outcome = avro_generator::with_stack(|| {
        runner.run(&any::<u64>(), |seed| judge_mutations(seed, &mut counts.lock().unwrap()))
    });
    let counts = counts.into_inner().unwrap();
    println!("{} mutated data: {counts:?}", counts.values().sum::<u64>());
    outcome.unwrap();
    for both in [Judgement::BothRead, Judgement::BothRefuse] {
        assert!(counts[&both] > 100, "{both:?} does not occur");
    }
}

proptest! {
    #![proptest_config(cases(200, 2000))]

    #[test]
    fn no_prefix_is_accepted(seed in any::<u64>()) {
        let mut generator = Generator::new(seed);
        let json = generator.schema();
        let schema = Arc::new(Schema::parse(&json.to_string()).unwrap());
        let plan = Plan::compile(Arc::clone(&schema), &[""]).unwrap();
        for _ in 0..4 {
            let value = generator.value(&json, 0);
            let mut datum = Vec::new();
            generator.encode(&json, &value, &mut datum);
            prop_assert_eq!(run(&plan, &datum), Ok(()));
            for cut in 0..datum.len().min(2000) {
                prop_assert!(run(&plan, &datum[..cut]).is_err(), "{} bytes of {}", cut, datum.len());
                prop_assert!(schema.decode(&datum[..cut]).is_err(), "{} bytes of {}", cut, datum.len());
            }
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(seed in any::<u64>(), bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut generator = Generator::new(seed);
        let json = generator.schema();
        let schema = Arc::new(Schema::parse(&json.to_string()).unwrap());
        let plan = Plan::compile(Arc::clone(&schema), &["", "f0"]).unwrap();
        let _ = run(&plan, &bytes);
        let _ = schema.decode(&bytes);
        // Marks that do not belong to the bytes: any answer is right, but no panic.
        let marks: Vec<u32> = (0..plan.marks()).map(|_| generator.random.below(70) as u32).collect();
        let _ = plan.value(0, &bytes, &marks);
        let _ = plan.value(1, &bytes, &marks);
        let _ = plan.raw(1, &bytes, &marks);
    }

    #[test]
    fn arbitrary_json_is_no_schema_or_one(seed in any::<u64>()) {
        let mut generator = Generator::new(seed);
        let mut text = generator.schema().to_string().into_bytes();
        for _ in 0..20 {
            mutate(&mut generator, &mut text);
            let text = String::from_utf8_lossy(&text);
            if let Ok(schema) = Schema::parse(&text) {
                let _ = schema.root_type();
                let _ = Plan::compile(Arc::new(schema), &["", "f0"]);
            }
        }
    }
}
