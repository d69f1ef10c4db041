//! Tests of decoding: every logical type, and the limits.

use super::*;
use crate::avro::value::Unit;

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
    // Many small claims come to the same.
    let many = r#"{"type":"array","items":{"type":"array","items":"null"}}"#;
    let mut datum = vec![0x80, 0x01];
    (0..64).for_each(|_| datum.extend([0xfe, 0xff, 0x03, 0]));
    datum.push(0);
    assert!(matches!(decode(many, &datum), Err(DatumError::EmptyItems { .. })));
    // A record that doubles at each level, and has not one byte.
    let mut json = r#"{"type":"record","name":"R0","fields":[]}"#.to_owned();
    for i in 1..25 {
        let p = i - 1;
        json = format!(
            r#"{{"type":"record","name":"R{i}","fields":[{{"name":"a","type":{json}}},{{"name":"b","type":"R{p}"}}]}}"#
        );
    }
    assert!(matches!(decode(&json, &[]), Err(DatumError::EmptyItems { .. })));
}
