//! Tests of plans on data that are written by hand or by the encoder.

use super::*;
use crate::avro::value::Unit;

const ITEM: &str =
    r#"{"type":"record","name":"Item","fields":[{"name":"sku","type":"string"},{"name":"n","type":["null","int"]}]}"#;

fn schema() -> Arc<Schema> {
    let json = format!(
        r#"{{"type":"record","name":"E","fields":[
            {{"name":"id","type":"string"}},
            {{"name":"at","type":{{"type":"long","logicalType":"timestamp-millis"}}}},
            {{"name":"items","type":{{"type":"array","items":{ITEM}}}}},
            {{"name":"best","type":["null","Item"]}},
            {{"name":"tags","type":{{"type":"map","values":["null","string","Item"]}}}},
            {{"name":"uid","type":["null",{{"type":"string","logicalType":"uuid"}}]}}]}}"#
    );
    Arc::new(Schema::parse(&json).unwrap())
}

fn item(sku: &str, n: Option<i32>) -> Value<'_> {
    Value::Record(vec![
        ("sku".into(), Value::String(sku.into())),
        ("n".into(), n.map_or(Value::Null, Value::Int)),
    ])
}

fn event<'a>(items: &[Value<'a>], best: Value<'a>, tags: Vec<(&'a str, Value<'a>)>, uid: Value<'a>) -> Vec<u8> {
    let tags = tags
        .into_iter()
        .map(|(key, value)| (Value::String(key.into()), value))
        .collect();
    let value = Value::Record(vec![
        ("id".into(), Value::String("e1".into())),
        ("at".into(), Value::Timestamp(7, Unit::Millis)),
        ("items".into(), Value::List(items.to_vec())),
        ("best".into(), best),
        ("tags".into(), Value::Map(tags)),
        ("uid".into(), uid),
    ]);
    let mut out = Vec::new();
    schema().encode(&value, &mut out).unwrap();
    out
}

/// The values of `paths`, from a datum between other bytes, with and without room for padding after it.
fn values(datum: &[u8], paths: &[&str]) -> Vec<Value<'static>> {
    let plan = Plan::compile(schema(), paths).unwrap();
    let answer = |padding: usize| {
        let mut buf = b"header".to_vec();
        buf.extend_from_slice(datum);
        buf.resize(buf.len() + padding, 0xff);
        let mut marks = vec![0; plan.marks()];
        plan.run(&buf, 6, 6 + datum.len(), &mut marks).unwrap();
        (0..paths.len())
            .map(|slot| plan.value(slot, &buf, &marks).unwrap().into_owned())
            .collect::<Vec<_>>()
    };
    let values = answer(PADDING);
    assert_eq!(values, answer(0));
    assert_eq!(values, answer(PADDING - 1));
    values
}

#[test]
fn values_are_found() {
    let items = [item("a", Some(1)), item("b", None), item("c", Some(3))];
    let datum = event(
        &items,
        items[1].clone(),
        vec![("x", Value::Null), ("y", Value::String("why".into()))],
        Value::Null,
    );
    let paths = [
        "id",
        "at",
        "items[0].sku",
        "items[2].n",
        "items[1].n",
        "items[3].sku",
        "best.sku",
        "best",
        "tags['y']",
        "tags.x",
    ];
    let found = values(&datum, &paths);
    let string = |s: &'static str| Value::String(s.into());
    assert_eq!(
        found,
        [
            string("e1"),
            Value::Timestamp(7, Unit::Millis),
            string("a"),
            Value::Int(3),
            Value::Null,
            Value::Null,
            string("b"),
            items[1].clone(),
            string("why"),
            Value::Null
        ]
    );
}

#[test]
fn whole_parts_are_built() {
    let items = [item("a", Some(1)), item("b", None)];
    let datum = event(&items, Value::Null, vec![("k", item("z", None))], Value::Null);
    let found = values(&datum, &["items", "tags", "tags.k.sku", ""]);
    assert_eq!(found[0], Value::List(items.to_vec()));
    assert_eq!(found[1], Value::Map(vec![(Value::String("k".into()), item("z", None))]));
    assert_eq!(found[2], Value::String("z".into()));
    assert_eq!(found[3], schema().decode(&datum).unwrap());
}

#[test]
fn of_a_key_that_occurs_twice_the_last_counts() {
    let twice = |first: Value<'static>, last: Value<'static>| {
        values(
            &event(&[], Value::Null, vec![("k", first), ("k", last)], Value::Null),
            &["tags.k", "tags.k.sku"],
        )
    };
    let (a, b) = (item("a", None), item("b", None));
    assert_eq!(twice(a.clone(), b.clone()), [b, Value::String("b".into())]);
    assert_eq!(
        twice(a, Value::Null),
        [Value::Null, Value::Null],
        "nothing is left of the first"
    );
}

#[test]
fn a_path_may_be_asked_for_twice_and_within_another() {
    let datum = event(&[item("a", Some(4))], Value::Null, vec![], Value::Null);
    let found = values(&datum, &["items[0].n", "items[0]", "items[0].n", "items"]);
    assert_eq!(found[0], Value::Int(4));
    assert_eq!(found[0], found[2]);
    assert_eq!(found[1], item("a", Some(4)));
}

#[test]
fn raw_bytes_keep_their_index() {
    let datum = event(&[], item("q", None), vec![], Value::Null);
    let plan = Plan::compile(schema(), &["best", "id", "items[0].sku"]).unwrap();
    let mut marks = vec![0; plan.marks()];
    plan.run(&datum, 0, datum.len(), &mut marks).unwrap();
    assert_eq!(plan.raw(0, &datum, &marks), Some(&[2, 2, b'q', 0][..]));
    assert_eq!(plan.raw(1, &datum, &marks), Some(&[4, b'e', b'1'][..]));
    assert_eq!(plan.raw(2, &datum, &marks), None);
    assert_eq!(plan.raw(9, &datum, &marks), None);
}

#[test]
fn a_text_that_is_no_uuid_is_an_error_when_it_is_asked_for() {
    let json = schema().json().replace(r#","logicalType":"uuid""#, "");
    let loose = Schema::parse(&json).unwrap();
    let good = event(&[], Value::Null, vec![], Value::Uuid([7; 16]));
    assert_eq!(values(&good, &["uid"]), [Value::Uuid([7; 16])]);
    let Value::Record(mut fields) = loose.decode(&good).unwrap() else {
        panic!("not a record")
    };
    fields[5].1 = Value::String("no uuid".into());
    let mut bad = Vec::new();
    loose.encode(&Value::Record(fields), &mut bad).unwrap();
    let plan = Plan::compile(schema(), &["uid", "id"]).unwrap();
    let mut marks = vec![0; plan.marks()];
    plan.run(&bad, 0, bad.len(), &mut marks).unwrap();
    assert!(matches!(plan.value(0, &bad, &marks), Err(DatumError::Uuid { .. })));
    assert_eq!(plan.value(1, &bad, &marks), Ok(Value::String("e1".into())));
}

#[test]
fn no_prefix_is_accepted() {
    let datum = event(
        &[item("ä€𝄞", Some(i32::MIN))],
        item("x", None),
        vec![("k", item("z", Some(1)))],
        Value::Uuid([1; 16]),
    );
    let plan = Plan::compile(schema(), &["id"]).unwrap();
    let mut marks = vec![0; plan.marks()];
    for cut in 0..datum.len() {
        assert!(plan.run(&datum[..cut], 0, cut, &mut marks).is_err());
        assert!(plan.run(&datum, 0, cut, &mut marks).is_err());
    }
    let mut longer = datum.clone();
    longer.push(0);
    let trailing = DatumError::Trailing {
        count: 1,
        at: datum.len(),
    };
    assert_eq!(plan.run(&longer, 0, longer.len(), &mut marks), Err(trailing));
}

#[test]
fn mistakes_of_the_caller_are_errors() {
    let datum = event(&[], Value::Null, vec![], Value::Null);
    let plan = Plan::compile(schema(), &["id"]).unwrap();
    let mut marks = vec![0; plan.marks()];
    assert_eq!(
        plan.run(&datum, 0, datum.len() + 1, &mut marks),
        Err(DatumError::Caller)
    );
    assert_eq!(plan.run(&datum, 2, 1, &mut marks), Err(DatumError::Caller));
    assert_eq!(plan.run(&datum, 0, datum.len(), &mut []), Err(DatumError::Caller));
    assert!(matches!(
        plan.run(&datum, 0, usize::MAX, &mut marks),
        Err(DatumError::TooLarge { .. })
    ));
    assert_eq!(plan.value(7, &datum, &marks), Ok(Value::Null));
    assert_eq!(plan.value(0, &datum, &[]), Ok(Value::Null));
    assert!(plan.value(0, &datum, &[1000, 2000]).is_err());
    assert!(plan.value(0, &datum, &[5, 2]).is_err());
    assert_eq!(plan.raw(0, &datum, &[5, 2]), None);
}

#[test]
fn claims_of_many_items_cost_nothing() {
    let nulls = Arc::new(Schema::parse(r#"{"type":"array","items":"null"}"#).unwrap());
    let plan = Plan::compile(nulls, &[""]).unwrap();
    let mut datum = Vec::new();
    crate::avro::encode::put_long(&mut datum, 1 << 60);
    datum.push(0);
    let mut marks = vec![0; plan.marks()];
    plan.run(&datum, 0, datum.len(), &mut marks).unwrap();
    assert!(matches!(
        plan.value(0, &datum, &marks),
        Err(DatumError::EmptyItems { .. })
    ));
    let strings = Arc::new(Schema::parse(r#"{"type":"array","items":"string"}"#).unwrap());
    let plan = Plan::compile(strings, &[]).unwrap();
    assert!(matches!(
        plan.run(&datum, 0, datum.len(), &mut []),
        Err(DatumError::BlockCount { .. })
    ));
}

#[test]
fn a_long_list_is_passed_over_and_a_deep_tree_is_refused() {
    let list =
        r#"{"type":"record","name":"L","fields":[{"name":"n","type":"int"},{"name":"next","type":["null","L"]}]}"#;
    let plan = Plan::compile(Arc::new(Schema::parse(list).unwrap()), &["", "next.next.n"]).unwrap();
    let mut datum = [4, 2].repeat(100_000);
    datum.extend([4, 0]);
    let mut marks = vec![0; plan.marks()];
    plan.run(&datum, 0, datum.len(), &mut marks).unwrap();
    assert_eq!(plan.value(1, &datum, &marks), Ok(Value::Int(2)));
    assert!(
        matches!(plan.value(0, &datum, &marks), Err(DatumError::Depth { .. })),
        "but not built"
    );
    let tree = r#"{"type":"record","name":"T","fields":[{"name":"sons","type":{"type":"array","items":"T"}}]}"#;
    let plan = Plan::compile(Arc::new(Schema::parse(tree).unwrap()), &[]).unwrap();
    let datum = |depth| [vec![2; depth], vec![0; depth + 1]].concat();
    let run = |depth| plan.run(&datum(depth), 0, 2 * depth + 1, &mut []);
    assert_eq!(run(100), Ok(()));
    assert!(matches!(run(1_000), Err(DatumError::Depth { .. })));
    assert!(matches!(run(1_000_000), Err(DatumError::Depth { .. })));
}

#[test]
fn blocks_with_sizes_are_checked() {
    let array = Arc::new(Schema::parse(&format!(r#"{{"type":"array","items":{ITEM}}}"#)).unwrap());
    let plan = Plan::compile(array, &["[1].sku", ""]).unwrap();
    let item = |sku: u8| [2, sku, 0];
    let datum = [&[3, 12][..], &item(b'a'), &item(b'b'), &[2], &item(b'c'), &[0]].concat();
    let mut marks = vec![0; plan.marks()];
    plan.run(&datum, 0, datum.len(), &mut marks).unwrap();
    assert_eq!(plan.value(0, &datum, &marks), Ok(Value::String("b".into())));
    assert!(matches!(plan.value(1, &datum, &marks), Ok(Value::List(items)) if items.len() == 3));
    for wrong in [10, 14, 11, 100] {
        let mut datum = datum.clone();
        datum[1] = wrong;
        assert!(plan.run(&datum, 0, datum.len(), &mut marks).is_err(), "size {wrong}");
    }
}

#[test]
fn plans_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Plan>();
    shared::<Splice>();
    shared::<Schema>();
}

#[test]
fn slot_types_are_told() {
    let plan = Plan::compile(schema(), &["id", "best.n", "items[0].sku", "tags.x"]).unwrap();
    assert_eq!(plan.slots(), 4);
    let types = [0, 1, 2].map(|slot| plan.slot_type(slot));
    assert_eq!(types, [Type::String, Type::Int.nullable(), Type::String.nullable()]);
    assert!(plan.slot_type(3).is_nullable());
}
