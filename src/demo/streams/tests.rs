//! Tests of the streams against apache-avro: the encoded data match their description, and the expected result of each record follows from it.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use proptest::prelude::*;

use super::defects::FOREIGN_SCHEMA;
use super::*;
use crate::demo::schemas;

fn streams() -> Vec<Stream> {
    Stream::all([11, 12, 13])
}

/// Decodes a datum with an independent implementation; returns the record's fields by name.
fn decode(name: &str, datum: &[u8]) -> Vec<(String, Value)> {
    let referred = [schemas::GEO, schemas::MONEY].map(|text| Schema::parse_str(text).expect("a schema"));
    let text = schemas::VALUES
        .iter()
        .find(|(stream, _)| *stream == name)
        .expect("a stream")
        .1;
    let (schema, _) = Schema::parse_str_with_list(text, [schemas::GEO, schemas::MONEY]).expect("a schema");
    let mut rest = datum;
    let reader = GenericDatumReader::builder(&schema).writer_schemata(referred.iter().chain([&schema]).collect());
    let value = reader
        .expect("schemas")
        .build()
        .and_then(|reader| reader.read_value(&mut rest))
        .expect("a datum");
    assert!(rest.is_empty(), "{name}: {} bytes are left", rest.len());
    match value {
        Value::Record(fields) => fields,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_body_is_a_datum_of_its_schema() {
    for stream in streams() {
        let mut bodies = 0u128;
        for sequence in 0..5000 {
            let mut draw = stream.draw(sequence);
            draw.defect = None;
            if bodies & (1 << draw.body) != 0 {
                continue;
            }
            bodies |= 1 << draw.body;
            let mut message = Message::default();
            stream.write(&draw, 1_700_000_000_000, &mut message);
            let fields = decode(stream.job.name(), &message.value.0[5..]);
            assert_eq!(fields[0], ("sequence".to_owned(), Value::Long(sequence as i64)));
            assert!(message.value.0.len() <= stream.job.largest() + 5);
        }
        assert_eq!(bodies, u128::MAX, "{}", stream.job.name());
    }
}

#[test]
fn fates_come_in_the_shares_that_are_told() {
    for stream in streams() {
        let (mut defects, mut late, mut fates) = (0u32, 0u32, [0u32; 3]);
        for sequence in 0..50_000 {
            let draw = stream.draw(sequence);
            defects += u32::from(draw.defect.is_some());
            late += u32::from(draw.is_late());
            fates[match stream.fate(&draw) {
                Fate::Published => 0,
                Fate::Skipped => 1,
                Fate::DeadLettered(_) => 2,
            }] += 1;
        }
        let name = stream.job.name();
        assert!((200..300).contains(&defects), "{name}: {defects}");
        assert!((400..600).contains(&late), "{name}: {late}");
        assert!(
            fates[0] > 25_000 && fates[2] > 150 && fates[2] < 500,
            "{name}: {fates:?}"
        );
    }
}

#[test]
fn every_defect_spoils_the_value_in_its_way() {
    let stream = &streams()[1];
    let draw = |defect| Draw {
        defect,
        ..stream.draw(7)
    };
    let bytes = |defect| {
        let mut message = Message::default();
        stream.write(&draw(defect), 1_700_000_000_000, &mut message);
        (message.has_value, message.value.0)
    };
    let (_, good) = bytes(None);
    assert_eq!(good[..5], [0, 0, 0, 0, 12]);
    let (_, wrong) = bytes(Some(Defect::WrongMagic));
    assert!(wrong[0] == 1 && wrong[1..] == good[1..]);
    let (_, cut) = bytes(Some(Defect::Truncated));
    assert!(cut.len() < good.len() && good.starts_with(&cut));
    let (_, long) = bytes(Some(Defect::Trailing));
    assert!(long.len() > good.len() && long.starts_with(&good));
    let (_, foreign) = bytes(Some(Defect::ForeignSchema));
    assert!(foreign[1..5] == FOREIGN_SCHEMA.to_be_bytes() && foreign[5..] == good[5..]);
    assert!(bytes(Some(Defect::NotAvro)).1.starts_with(b"{\"sequence\": 7"));
    assert!(!bytes(Some(Defect::Tombstone)).0);
    assert_eq!(
        stream.fate(&draw(Some(Defect::Tombstone))),
        Fate::DeadLettered("tombstone")
    );
}

proptest! {
    #[test]
    fn a_record_is_made_again_as_it_was(sequence in 0u64..1_000_000, timestamp in 0i64..4_000_000_000_000) {
        for stream in streams() {
            let mut first = Message::default();
            let mut second = Message::default();
            stream.write(&stream.draw(sequence + 1), timestamp, &mut second);
            stream.write(&stream.draw(sequence), timestamp, &mut first);
            stream.write(&stream.draw(sequence), timestamp, &mut second);
            prop_assert_eq!(first.key, second.key);
            prop_assert_eq!(first.value.0, second.value.0);
            prop_assert_eq!(first.has_value, second.has_value);
        }
    }
}
