//! Tests of encoding: conversions, refusals, and error messages.

use super::*;
use crate::avro::value::Unit;
use proptest::prelude::*;

fn encode(schema: &str, value: Value<'_>) -> Result<Vec<u8>, String> {
    let schema = Schema::parse(schema).unwrap();
    let mut out = vec![9];
    let done = schema.encode(&value, &mut out);
    assert_eq!(out[0], 9);
    if done.is_err() {
        assert_eq!(out.len(), 1, "nothing is left of what failed");
    }
    done.map(|()| out[1..].to_vec()).map_err(|error| error.to_string())
}

fn error(schema: &str, value: Value<'_>) -> String {
    encode(schema, value).unwrap_err()
}

fn text(s: &str) -> Value<'_> {
    Value::String(s.into())
}

#[test]
fn numbers_become_any_number_that_holds_them() {
    assert_eq!(encode("\"long\"", Value::Int(-1)), Ok(vec![1]));
    assert_eq!(encode("\"int\"", Value::Long(5)), Ok(vec![10]));
    assert_eq!(
        error("\"int\"", Value::Long(1 << 40)),
        "\"1099511627776\" does not fit int"
    );
    assert_eq!(encode("\"float\"", Value::Int(3)), Ok(3f32.to_le_bytes().to_vec()));
    assert_eq!(
        error("\"float\"", Value::Int((1 << 24) + 1)),
        "\"16777217\" does not fit float"
    );
    assert_eq!(
        encode("\"double\"", Value::Float(0.5)),
        Ok(0.5f64.to_le_bytes().to_vec())
    );
    assert_eq!(error("\"float\"", Value::Double(0.1)), "\"0.1\" does not fit float");
    assert_eq!(
        error("\"long\"", Value::Double(1.0)),
        "a double cannot be written as long"
    );
    assert_eq!(
        error("\"boolean\"", Value::Int(1)),
        "an int cannot be written as boolean"
    );
}

#[test]
fn text_and_bytes_become_each_other() {
    assert_eq!(encode("\"bytes\"", text("é")), Ok(vec![4, 0xc3, 0xa9]));
    assert_eq!(
        encode("\"string\"", Value::Bytes(b"ab"[..].into())),
        Ok(vec![4, b'a', b'b'])
    );
    assert_eq!(
        error("\"string\"", Value::Bytes([0xff][..].into())),
        "1 bytes does not fit string"
    );
    let fixed = r#"{"type":"fixed","name":"F","size":2}"#;
    assert_eq!(encode(fixed, Value::Bytes(b"ab"[..].into())), Ok(vec![b'a', b'b']));
    assert_eq!(
        error(fixed, Value::Bytes(b"abc"[..].into())),
        "3 bytes does not fit fixed(2)"
    );
    let symbols = r#"{"type":"enum","name":"E","symbols":["A","B"]}"#;
    assert_eq!(encode(symbols, text("B")), Ok(vec![2]));
    assert_eq!(error(symbols, text("C")), "this string does not fit enum");
}

#[test]
fn times_change_their_unit_exactly() {
    let micros = r#"{"type":"long","logicalType":"timestamp-micros"}"#;
    assert_eq!(
        encode(micros, Value::Timestamp(-1, Unit::Millis)),
        encode("\"long\"", Value::Long(-1000))
    );
    assert_eq!(
        error(micros, Value::Timestamp(1001, Unit::Nanos)),
        "a timestamp of \"1001\" nanos does not fit timestamp-micros"
    );
    assert_eq!(
        error(micros, Value::Date(1)),
        "a date cannot be written as timestamp-micros"
    );
    assert_eq!(
        encode(micros, Value::Long(3)),
        Ok(vec![6]),
        "a number in the type's own unit"
    );
    assert_eq!(
        error("\"long\"", Value::Timestamp(1, Unit::Millis)),
        "a timestamp cannot be written as long"
    );
    let millis = r#"{"type":"int","logicalType":"time-millis"}"#;
    assert_eq!(encode(millis, Value::Time(5_000_000, Unit::Nanos)), Ok(vec![10]));
    assert_eq!(
        error(millis, Value::Time(i64::MAX / 1000 * 1000, Unit::Micros))
            .split(" does")
            .count(),
        2
    );
}

#[test]
fn decimals_change_their_scale_exactly() {
    let decimal = r#"{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}"#;
    let value = |unscaled: i64, scale| Value::Decimal {
        unscaled: unscaled.to_be_bytes().to_vec().into(),
        scale,
    };
    assert_eq!(encode(decimal, value(-5, 2)), Ok(vec![2, 0xfb]));
    assert_eq!(encode(decimal, value(15, 1)), Ok(vec![4, 0, 150]));
    assert!(encode(decimal, value(1_230, 3)).is_ok());
    assert_eq!(
        error(decimal, value(1_234, 3)),
        "this decimal does not fit decimal(6, 2)"
    );
    assert_eq!(
        error(decimal, value(1_000_000, 2)),
        "this decimal does not fit decimal(6, 2)",
        "seven digits"
    );
    assert_eq!(encode(decimal, Value::Int(3)), Ok(vec![4, 1, 44]));
    let fixed = r#"{"type":"fixed","name":"F","size":4,"logicalType":"decimal","precision":6,"scale":2}"#;
    assert_eq!(encode(fixed, value(-5, 2)), Ok(vec![255, 255, 255, 0xfb]));
    assert_eq!(encode(fixed, value(15, 1)), Ok(vec![0, 0, 0, 150]));
    assert!(error(fixed, value(i64::MAX, 2)).ends_with("does not fit decimal(6, 2)"));
    let wide = r#"{"type":"fixed","name":"F","size":20,"logicalType":"decimal","precision":46,"scale":30}"#;
    assert_eq!(encode(wide, value(-1, 30)), Ok(vec![255; 20]));
    let unscaled = 10i128.pow(34).to_be_bytes().to_vec().into();
    let written = encode(wide, Value::Decimal { unscaled, scale: 25 }).unwrap();
    let text = decimal::text(&written, 30);
    assert_eq!(
        text,
        Some(format!("1000000000.{}", "0".repeat(30))),
        "40 digits are beyond 128 bits"
    );
    assert_eq!(error("\"bytes\"", value(1, 0)), "a decimal cannot be written as bytes");
    let both = format!("[{fixed},{decimal}]").replace("\"scale\":2}]", "\"scale\":1}]");
    assert_eq!(
        encode(&both, value(5, 1)),
        Ok(vec![2, 2, 5]),
        "the branch of its scale, not the first that takes it"
    );
}

#[test]
fn uuids_are_text_or_bytes() {
    let string = r#"{"type":"string","logicalType":"uuid"}"#;
    let fixed = r#"{"type":"fixed","name":"F","size":16,"logicalType":"uuid"}"#;
    assert_eq!(encode(fixed, Value::Uuid([3; 16])), Ok(vec![3; 16]));
    assert_eq!(
        encode(fixed, text("03030303-0303-0303-0303-030303030303")),
        Ok(vec![3; 16])
    );
    let written = encode(string, Value::Uuid([0xab; 16])).unwrap();
    assert_eq!(&written[1..], b"abababab-abab-abab-abab-abababababab");
    for form in [
        "abababab-abab-abab-abab-abababababab",
        "ABABABAB-ABAB-ABAB-ABAB-ABABABABABAB",
        "abababababababababababababababab",
        "{abababab-abab-abab-abab-abababababab}",
        "urn:uuid:abababab-abab-abab-abab-abababababab",
    ] {
        assert_eq!(encode(string, text(form)).as_ref(), Ok(&written), "{form}");
    }
    assert_eq!(error(string, text("x")), "this string does not fit uuid");
    assert!(encode("\"string\"", Value::Uuid([3; 16])).is_ok());
}

#[test]
fn unions_take_the_branch_that_suits() {
    let union = r#"["null","int","long","string","double"]"#;
    assert_eq!(encode(union, Value::Null), Ok(vec![0]));
    assert_eq!(
        encode(union, Value::Long(1)),
        Ok(vec![4, 2]),
        "not int, though it would fit"
    );
    assert_eq!(encode(union, Value::Float(1.0)).unwrap()[0], 8);
    assert_eq!(encode(union, Value::Uuid([0; 16])).unwrap()[0], 6);
    assert_eq!(
        error(r#"["int","string"]"#, Value::Null),
        "null cannot be written as int | string"
    );
    assert_eq!(
        error(union, Value::Bool(true)),
        "a boolean cannot be written as int | long | string | double or null"
    );
    assert_eq!(
        error(r#"["null","int"]"#, Value::Long(1 << 40)),
        "\"1099511627776\" does not fit int"
    );
    let records = r#"[{"type":"record","name":"A","fields":[{"name":"a","type":"int"}]},
        {"type":"record","name":"B","fields":[{"name":"b","type":"int"}]}]"#;
    assert_eq!(
        encode(records, Value::Record(vec![("b".into(), Value::Int(1))])),
        Ok(vec![2, 2])
    );
}

#[test]
fn records_are_filled_by_name() {
    let record = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},
        {"name":"b","type":["null","string"],"default":null},{"name":"c","type":"int","aliases":["old"]}]}"#;
    let fields = |names: &[&'static str]| {
        Value::Record(
            names
                .iter()
                .enumerate()
                .map(|(i, name)| ((*name).into(), Value::Int(i as i32)))
                .collect(),
        )
    };
    assert_eq!(encode(record, fields(&["c", "a"])), Ok(vec![2, 0, 0]));
    assert_eq!(encode(record, fields(&["old", "a"])), Ok(vec![2, 0, 0]));
    assert_eq!(error(record, fields(&["a"])), "field c is missing and has no default");
    assert_eq!(error(record, fields(&["a", "c", "d"])), "R has no field \"d\"");
    assert_eq!(
        error(record, fields(&["a", "b", "c"])),
        "field b: an int cannot be written as string"
    );
    let map = Value::Map(vec![(text("a"), Value::Int(1)), (text("c"), Value::Int(1))]);
    assert_eq!(encode(record, map), Ok(vec![2, 0, 2]));
}

#[test]
fn arrays_and_maps_are_one_block() {
    let array = r#"{"type":"array","items":"int"}"#;
    assert_eq!(encode(array, Value::List(vec![])), Ok(vec![0]));
    assert_eq!(encode(array, Value::List(vec![Value::Int(1); 2])), Ok(vec![4, 2, 2, 0]));
    let wrong = Value::List(vec![Value::Int(1), text("x")]);
    assert_eq!(error(array, wrong), "field [1]: a string cannot be written as int");
    let map = r#"{"type":"map","values":"int"}"#;
    assert_eq!(
        encode(map, Value::Map(vec![(text("k"), Value::Int(1))])),
        Ok(vec![2, 2, b'k', 2, 0])
    );
    assert_eq!(
        encode(map, Value::Record(vec![("k".into(), Value::Int(1))])),
        Ok(vec![2, 2, b'k', 2, 0])
    );
    let keys = Value::Map(vec![(Value::Int(1), Value::Int(1))]);
    assert_eq!(error(map, keys), "a map cannot be written as map<int>");
}

#[test]
fn a_value_nested_without_bound_is_refused() {
    let list = r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#;
    let mut value = Value::Null;
    for _ in 0..1_000 {
        value = Value::Record(vec![("next".into(), value)]);
    }
    assert!(error(list, value).ends_with("nested too deeply"));
}

proptest! {
    #[test]
    fn longs_are_read_back(value in any::<i64>(), shift in 0..64u32) {
        let schema = Schema::parse("\"long\"").unwrap();
        let mut out = Vec::new();
        schema.encode(&Value::Long(value >> shift), &mut out).unwrap();
        prop_assert_eq!(schema.decode(&out), Ok(Value::Long(value >> shift)));
    }

    #[test]
    fn what_is_written_as_another_number_is_the_same_number(value in any::<i64>(), shift in 0..64u32) {
        let value = value >> shift;
        for ty in ["\"int\"", "\"float\"", "\"double\""] {
            let schema = Schema::parse(ty).unwrap();
            let mut out = Vec::new();
            if schema.encode(&Value::Long(value), &mut out).is_ok() {
                let back = match schema.decode(&out).unwrap() {
                    Value::Int(v) => i128::from(v),
                    Value::Float(v) => v as i128,
                    Value::Double(v) => v as i128,
                    other => panic!("{other:?}"),
                };
                prop_assert_eq!(back, i128::from(value));
            } else {
                prop_assert!(value.unsigned_abs() > 1 << 24);
            }
        }
    }
}

/// Two records with the same field names, each of which can contain either of them.
const TWINS: &str = r#"{"type":"record","name":"A","fields":[{"name":"next","type":["null","A",
    {"type":"record","name":"B","fields":[{"name":"next","type":["null","A","B"]},{"name":"x","type":"string"}]}]},
    {"name":"x","type":"int"}]}"#;

fn twin<'v>(next: Value<'v>, x: Value<'v>) -> Value<'v> {
    Value::Record(vec![("next".into(), next), ("x".into(), x)])
}

/// Nested twins, from the inside out: the first has `innermost` as its `x`, the others have those of `xs`.
fn twins(xs: &[bool], innermost: Value<'static>) -> Value<'static> {
    let x = |int: &bool| if *int { Value::Int(1) } else { text("s") };
    xs.iter()
        .fold(twin(Value::Null, innermost), |next, int| twin(next, x(int)))
}

#[test]
fn a_deep_value_is_not_tried_by_each_branch_of_each_level() {
    let none = twin(twins(&[false; 60], Value::Bool(true)), Value::Int(1));
    assert!(error(TWINS, none).contains("cannot be written"));
    // Each level is a B. As an A, it fails only at its last field.
    let all = twin(twins(&[false; 60], text("s")), Value::Int(1));
    assert_eq!(encode(TWINS, all).unwrap().len(), 60 * 3 + 1 + 1 + 2 + 1);
    // No branch matches without a conversion, and one accepts it with one.
    let bytes = twin(twins(&[false; 60], Value::Bytes(b"s"[..].into())), Value::Int(1));
    assert_eq!(encode(TWINS, bytes).unwrap().len(), 60 * 3 + 1 + 1 + 2 + 1);
}

proptest! {
    #[test]
    fn what_unions_remember_is_what_they_would_find_again(xs in prop::collection::vec(any::<bool>(), 0..100)) {
        let written = encode(TWINS, twin(twins(&xs, text("s")), Value::Int(1))).unwrap();
        // From the outermost: which branch each is, then null, then each x from the innermost.
        let branch = |int: &bool| if *int { 2 } else { 4 };
        let x = |int: &bool| if *int { vec![2] } else { vec![2, b's'] };
        let mut expected: Vec<u8> = xs.iter().rev().map(branch).collect();
        expected.extend([4, 0, 2, b's']);
        expected.extend(xs.iter().flat_map(x));
        expected.push(2);
        prop_assert_eq!(written, expected);
    }
}
