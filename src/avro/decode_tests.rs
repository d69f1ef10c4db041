//! Tests of decoding: every logical type, and the limits.

use super::*;
use crate::avro::value::Unit;
use proptest::prelude::*;

fn decode(schema: &str, datum: &[u8]) -> Result<Value<'static>, DatumError> {
    let schema = Schema::parse(schema).unwrap();
    schema.decode(datum).map(Value::into_owned)
}

fn logical(ty: &str, logical: &str) -> String {
    format!(r#"{{"type":"{ty}","logicalType":"{logical}"}}"#)
}

#[test]
fn logical_types_have_values_of_their_own() {
    assert_eq!(decode(&logical("int", "date"), &[3]), Ok(Value::Date(-2)));
    assert_eq!(
        decode(&logical("int", "time-millis"), &[2]),
        Ok(Value::Time(1, Unit::Millis))
    );
    assert_eq!(
        decode(&logical("long", "time-micros"), &[2]),
        Ok(Value::Time(1, Unit::Micros))
    );
    for (name, unit) in [
        ("millis", Unit::Millis),
        ("micros", Unit::Micros),
        ("nanos", Unit::Nanos),
    ] {
        assert_eq!(
            decode(&logical("long", &format!("timestamp-{name}")), &[2]),
            Ok(Value::Timestamp(1, unit))
        );
        let local = logical("long", &format!("local-timestamp-{name}"));
        assert_eq!(decode(&local, &[2]), Ok(Value::LocalTimestamp(1, unit)));
    }
    let decimal = r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#;
    let value = |unscaled: &'static [u8]| {
        Ok(Value::Decimal {
            unscaled: unscaled.into(),
            scale: 2,
        })
    };
    assert_eq!(decode(decimal, &[4, 1, 2]), value(&[1, 2]));
    assert_eq!(decode(decimal, &[0]), value(&[]), "no bytes are zero");
    let fixed = r#"{"type":"fixed","name":"F","size":2,"logicalType":"decimal","precision":4,"scale":2}"#;
    assert_eq!(decode(fixed, &[1, 2]), value(&[1, 2]));
    let uuid = r#"{"type":"fixed","name":"F","size":16,"logicalType":"uuid"}"#;
    assert_eq!(decode(uuid, &[7; 16]), Ok(Value::Uuid([7; 16])));
    let duration = r#"{"type":"fixed","name":"F","size":12,"logicalType":"duration"}"#;
    let amounts = [1, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0];
    assert_eq!(
        decode(duration, &amounts),
        Ok(Value::Duration {
            months: 1,
            days: 2,
            millis: 256
        })
    );
    assert_eq!(decode(&logical("long", "beats"), &[2]), Ok(Value::Long(1)));
}

#[test]
fn nothing_is_left_over() {
    assert_eq!(
        decode("\"int\"", &[2, 0]),
        Err(DatumError::Trailing { count: 1, at: 1 })
    );
    assert_eq!(decode("\"int\"", &[]), Err(DatumError::Truncated { at: 0 }));
}

#[test]
fn values_without_bytes_are_limited() {
    let nulls = r#"{"type":"array","items":"null"}"#;
    assert_eq!(decode(nulls, &[6, 0]), Ok(Value::List(vec![Value::Null; 3])));
    let mut datum = Vec::new();
    crate::avro::encode::put_long(&mut datum, 1 << 40);
    datum.push(0);
    assert!(matches!(decode(nulls, &datum), Err(DatumError::EmptyItems { .. })));
    // Many small claims add up to the same.
    let many = r#"{"type":"array","items":{"type":"array","items":"null"}}"#;
    let mut datum = vec![0x80, 0x01];
    (0..64).for_each(|_| datum.extend([0xfe, 0xff, 0x03, 0]));
    datum.push(0);
    assert!(matches!(decode(many, &datum), Err(DatumError::EmptyItems { .. })));
    // A record that doubles at each level, but takes no bytes.
    let mut json = r#"{"type":"record","name":"R0","fields":[]}"#.to_owned();
    for i in 1..25 {
        let p = i - 1;
        json = format!(
            r#"{{"type":"record","name":"R{i}","fields":[{{"name":"a","type":{json}}},{{"name":"b","type":"R{p}"}}]}}"#
        );
    }
    assert!(matches!(decode(&json, &[]), Err(DatumError::EmptyItems { .. })));
}

/// Types with a fast path, then some without.
const SHORT: [&str; 10] = [
    r#""string""#,
    r#"{"type":"string","logicalType":"uuid"}"#,
    r#""int""#,
    r#""long""#,
    r#"{"type":"long","logicalType":"timestamp-micros"}"#,
    r#""double""#,
    r#""boolean""#,
    r#"{"type":"enum","name":"E","symbols":["A","B","C"]}"#,
    r#""bytes""#,
    r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#,
];
const OTHER: [&str; 4] = [
    r#""float""#,
    r#"{"type":"int","logicalType":"date"}"#,
    r#"{"type":"fixed","name":"F","size":3}"#,
    r#"{"type":"array","items":"int"}"#,
];

/// A type by itself, and in a union with null.
fn forms(ty: &str) -> [String; 3] {
    [ty.to_owned(), format!(r#"["null",{ty}]"#), format!(r#"[{ty},"null"]"#)]
}

#[test]
fn simple_types_have_a_short_way_in_a_union_with_null_too() {
    for json in SHORT.iter().flat_map(|ty| forms(ty)) {
        let schema = Schema::parse(&json).unwrap();
        let short = Short::of(&schema, schema.root());
        assert_ne!(short.kind, Kind::None, "{json}");
        assert_eq!(short.union.is_some(), json.starts_with('['), "{json}");
    }
    let several = Schema::parse(r#"["null","string","int"]"#).unwrap();
    let short = Short::of(&several, several.root());
    assert_eq!((short.kind, short.union), (Kind::None, None));
}

proptest! {
    #[test]
    fn the_short_way_leads_to_the_same(
        noise in prop::collection::vec(prop_oneof![0..=4u8, 0..=255u8], 0..70),
        behind in prop::collection::vec(0..=255u8, 0..12),
    ) {
        let some = |count: usize| noise.iter().take(count).copied();
        let mut number: Vec<u8> = some(noise.len() % 10).map(|byte| byte | 0x80).collect();
        if let Some(last) = number.last_mut() {
            *last &= 0x7f;
        }
        let counted = |bytes: &[u8]| [&[2 * bytes.len() as u8][..], bytes].concat();
        let payloads: [Vec<u8>; 6] = [
            some(1).collect(),
            some(8).collect(),
            number,
            counted(&noise),
            counted(b"00112233-4455-6677-8899-aAbBcCdDeEfF"),
            noise.clone(),
        ];
        let several = r#"["null","string","int"]"#.to_owned();
        let types = SHORT.iter().chain(&OTHER).flat_map(|ty| forms(ty)).chain([several]);
        for json in types {
            let schema = Schema::parse(&json).unwrap();
            let id = schema.root();
            let short = Short::of(&schema, id);
            for payload in &payloads {
                for branch in [vec![], vec![0], vec![2], vec![0x80, 0]] {
                    let buf = [vec![7], branch, payload.clone(), behind.clone()].concat();
                    let whole = buf.len() - behind.len();
                    for end in [whole - 1, whole, buf.len() + 1] {
                        let quick = super::decode(&schema, (id, short), &buf, 1, end);
                        let slow = super::any(&schema, id, &buf, 1, end);
                        // NaN is not equal to itself.
                        let same = quick == slow || format!("{quick:?}") == format!("{slow:?}");
                        prop_assert!(same, "{json}: {quick:?} and {slow:?} of {buf:?} up to {end}");
                    }
                }
            }
        }
    }
}
