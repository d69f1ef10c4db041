//! Defects of other Avro libraries, and what this one does instead: each test names the defect.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test that fails says so by panicking.

use std::sync::Arc;

use messina::avro::{DatumError, Plan, Schema, Splice, Value, decimal_text};

/// The answer of both a run and the decoder, which must agree.
fn judge(schema: &str, datum: &[u8]) -> Result<(), DatumError> {
    let schema = Arc::new(Schema::parse(schema).unwrap());
    let plan = Plan::compile(Arc::clone(&schema), &[""]).unwrap();
    let answer = plan.run(datum, 0, datum.len(), &mut vec![0; plan.marks()]);
    let decoded = schema.decode(datum).map(|_| ());
    assert_eq!(answer.is_ok(), decoded.is_ok(), "{answer:?}, {decoded:?}");
    answer
}

fn decode(schema: &str, datum: &[u8]) -> Result<Value<'static>, DatumError> {
    judge(schema, datum)?;
    Schema::parse(schema).unwrap().decode(datum).map(Value::into_owned)
}

fn varint(value: i64) -> Vec<u8> {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    let mut out = Vec::new();
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
    out
}

/// apache-avro takes the end of its input for a null in booleans, strings and unions: a short payload decodes.
#[test]
fn a_short_payload_is_truncated_not_null() {
    for schema in [
        r#"["null","string"]"#,
        r#""boolean""#,
        r#""string""#,
        r#"["null","long"]"#,
    ] {
        assert_eq!(judge(schema, &[]), Err(DatumError::Truncated { at: 0 }), "{schema}");
    }
    assert_eq!(
        judge(r#"["null","string"]"#, &[2]),
        Err(DatumError::Truncated { at: 1 })
    );
    assert_eq!(
        judge(r#"["null","string"]"#, &[2, 4, b'a']),
        Err(DatumError::Truncated { at: 3 })
    );
}

const TREE: &str =
    r#"{"type":"record","name":"T","fields":[{"name":"l","type":["null","T"]},{"name":"v","type":"int"}]}"#;
const LIST: &str =
    r#"{"type":"record","name":"L","fields":[{"name":"v","type":"int"},{"name":"n","type":["null","L"]}]}"#;

/// apache-avro up to 0.22 exhausts the stack on a kilobyte of a recursive nullable record, and the process aborts.
#[test]
fn deep_recursion_is_an_error_not_an_abort() {
    for depth in [1_000, 1_000_000] {
        assert!(matches!(judge(TREE, &vec![2; depth]), Err(DatumError::Depth { .. })));
    }
    // A list needs no stack in a run, which therefore has no depth limit; building its value has one.
    let mut list = [2, 2].repeat(100_000);
    list.extend([2, 0]);
    let schema = Arc::new(Schema::parse(LIST).unwrap());
    let plan = Plan::compile(Arc::clone(&schema), &["v"]).unwrap();
    let mut marks = vec![0; plan.marks()];
    assert_eq!(plan.run(&list, 0, list.len(), &mut marks), Ok(()));
    assert_eq!(plan.value(0, &list, &marks), Ok(Value::Int(1)));
    assert!(matches!(schema.decode(&list), Err(DatumError::Depth { .. })));
}

/// apache-avro 0.23.0-rc0 refuses valid recursion from ten levels; arrow-avro has none at all.
#[test]
fn recursion_of_a_hundred_levels_is_valid() {
    let mut datum = [2].repeat(100);
    datum.push(0);
    datum.extend([4].repeat(101));
    assert_eq!(judge(TREE, &datum), Ok(()));
}

/// With a reader schema, apache-avro's time doubles with each level: 46 bytes take seconds.
#[test]
fn resolving_a_recursive_type_takes_time_by_its_length() {
    let writer = Arc::new(Schema::parse(LIST).unwrap());
    let wider = LIST.replace("\"v\",\"type\":\"int\"", "\"v\",\"type\":\"long\"");
    let reader = Arc::new(Schema::parse(&wider.replace("\"long\"", "\"double\"")).unwrap());
    let (plan, splice): (Plan, Splice) = Plan::compile_with_output(writer, &[], Arc::clone(&reader), &[]).unwrap();
    let mut datum = [2, 2].repeat(60);
    datum.extend([2, 0]);
    let mut marks = vec![0; plan.marks()];
    let mut out = Vec::new();
    let start = std::time::Instant::now();
    plan.run(&datum, 0, datum.len(), &mut marks).unwrap();
    splice.build(&datum, 0, datum.len(), &marks, &[], &mut out).unwrap();
    assert!(start.elapsed().as_secs() < 1);
    assert_eq!(out.len(), 61 * 9);
    reader.decode(&out).unwrap();
}

/// apache-avro 0.22 refuses a decimal(12, 2) of three bytes where reader and writer are the same schema.
#[test]
fn a_decimal_may_have_any_number_of_bytes() {
    let schema = r#"{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}"#;
    let Value::Decimal { unscaled, scale } = decode(schema, &[6, 0x01, 0xe2, 0x40]).unwrap() else {
        panic!("not a decimal")
    };
    assert_eq!(decimal_text(&unscaled, scale).as_deref(), Some("1234.56"));
}

/// All versions of apache-avro fail on a decimal of no bytes, which is zero.
#[test]
fn an_empty_decimal_is_zero() {
    let schema = r#"{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}"#;
    let Value::Decimal { unscaled, .. } = decode(schema, &[0]).unwrap() else {
        panic!("not a decimal")
    };
    assert!(unscaled.is_empty());
}

/// All versions of apache-avro drop the excess bits in the tenth byte of a varint; fastavro reads eleven bytes.
#[test]
fn numbers_of_more_than_64_bits_are_refused() {
    let overflow = Err(DatumError::VarintOverflow { bits: 64, at: 0 });
    let mut datum = vec![0xff; 9];
    datum.push(2);
    assert_eq!(judge(r#""long""#, &datum), overflow);
    let eleven = [[0x80; 10].as_slice(), &[0]].concat();
    assert_eq!(judge(r#""long""#, &eleven), overflow);
    datum[9] = 1;
    assert_eq!(decode(r#""long""#, &datum), Ok(Value::Long(i64::MIN)));
}

/// goavro decodes ints of more than 32 bits to 0.
#[test]
fn ints_of_more_than_32_bits_are_refused() {
    let overflow = Err(DatumError::VarintOverflow { bits: 32, at: 0 });
    assert_eq!(judge(r#""int""#, &varint(1 << 31)), overflow);
    assert_eq!(
        judge(r#"["null","int"]"#, &[&[2][..], &varint(1 << 31)].concat()),
        Err(DatumError::VarintOverflow { bits: 32, at: 1 })
    );
    let array = [&[4, 2][..], &varint(-(1 << 31) - 1), &[0]].concat();
    assert_eq!(
        judge(r#"{"type":"array","items":"int"}"#, &array),
        Err(DatumError::VarintOverflow { bits: 32, at: 2 })
    );
    assert_eq!(
        decode(r#""int""#, &varint(i64::from(i32::MIN))),
        Ok(Value::Int(i32::MIN))
    );
}

/// serde_avro_fast does not check skipped text and enum indexes; hamba and Java accept text that is not UTF-8.
#[test]
fn what_nobody_asks_for_is_checked_too() {
    let schema = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"},
        {"name":"e","type":{"type":"enum","name":"E","symbols":["X","Y"]}},{"name":"b","type":"boolean"}]}"#;
    let schema = Arc::new(Schema::parse(schema).unwrap());
    let plan = Plan::compile(schema, &[]).unwrap();
    let run = |datum: &[u8]| plan.run(datum, 0, datum.len(), &mut []);
    assert_eq!(run(&[2, b'a', 2, 1]), Ok(()));
    assert_eq!(run(&[2, 0xff, 2, 1]), Err(DatumError::Utf8 { at: 1 }));
    assert!(matches!(run(&[2, b'a', 4, 1]), Err(DatumError::EnumIndex { .. })));
    // Java reads any byte but 1 as false.
    assert_eq!(run(&[2, b'a', 2, 2]), Err(DatumError::Boolean { value: 2, at: 3 }));
}

/// fastavro counts a negative union index from the end, as Python does.
#[test]
fn a_negative_union_index_is_refused() {
    assert_eq!(
        judge(r#"["null","int","string"]"#, &[1, 2, b'a']),
        Err(DatumError::UnionIndex {
            index: -1,
            branches: 3,
            at: 0
        })
    );
}

/// arrow-avro hangs on an array of two billion nulls, which is six bytes long.
#[test]
fn an_array_of_nulls_takes_no_time() {
    let mut datum = varint(2_000_000_000);
    datum.push(0);
    let schema = Arc::new(Schema::parse(r#"{"type":"array","items":"null"}"#).unwrap());
    let plan = Plan::compile(Arc::clone(&schema), &[]).unwrap();
    assert_eq!(plan.run(&datum, 0, datum.len(), &mut []), Ok(()));
    assert!(matches!(schema.decode(&datum), Err(DatumError::EmptyItems { .. })));
}

/// hamba writes blocks with negative counts and their sizes, which is valid.
#[test]
fn blocks_with_sizes_are_read() {
    let items = decode(r#"{"type":"array","items":"int"}"#, &[3, 4, 2, 4, 2, 6, 0]).unwrap();
    assert_eq!(items, Value::List(vec![Value::Int(1), Value::Int(2), Value::Int(3)]));
    assert!(matches!(
        judge(r#"{"type":"array","items":"int"}"#, &[3, 6, 2, 4, 2, 6, 0]),
        Err(DatumError::BlockSize { .. })
    ));
}

/// The prototype took a block count of zero for a block if it was written as a longer varint.
#[test]
fn a_zero_may_be_written_long() {
    for schema in [
        r#"{"type":"array","items":"int"}"#,
        r#"{"type":"map","values":["null","string"]}"#,
    ] {
        assert_eq!(judge(schema, &[0x80, 0x00]), Ok(()), "{schema}");
    }
}

/// A datum of a few bytes that claims 2^60 items takes neither memory nor time.
#[test]
fn claims_are_not_believed() {
    for schema in [
        r#"{"type":"array","items":"int"}"#,
        r#"{"type":"array","items":{"type":"record","name":"R","fields":[{"name":"a","type":["null","R"]}]}}"#,
        r#"{"type":"map","values":"double"}"#,
    ] {
        let datum = [varint(1 << 60), vec![0; 10]].concat();
        assert!(
            matches!(judge(schema, &datum), Err(DatumError::BlockCount { .. })),
            "{schema}"
        );
    }
}
