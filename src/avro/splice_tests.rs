//! Tests of outputs: their pieces, and the data built from them.

use super::*;
use crate::avro::relation::Relation;
use crate::avro::value::Unit;

fn schema(json: &str) -> Arc<Schema> {
    Arc::new(Schema::parse(json).unwrap())
}

/// A record `R` with these fields, each given as JSON without the braces.
fn record(fields: &[&str]) -> Arc<Schema> {
    schema(&record_json("R", fields))
}

fn record_json(name: &str, fields: &[&str]) -> String {
    let fields: Vec<String> = fields.iter().map(|field| format!("{{{field}}}")).collect();
    format!(r#"{{"type":"record","name":"{name}","fields":[{}]}}"#, fields.join(","))
}

/// Builds the output of `input` with the values `new`, and decodes it.
fn build(
    from: &Arc<Schema>,
    to: &Arc<Schema>,
    input: &Value<'_>,
    new: &[(&str, Value<'_>)],
) -> Result<Value<'static>, String> {
    let names: Vec<&str> = new.iter().map(|(name, _)| *name).collect();
    let values: Vec<Value<'_>> = new.iter().map(|(_, value)| value.clone()).collect();
    let (plan, splice) =
        Plan::compile_with_output(Arc::clone(from), &[], Arc::clone(to), &names).map_err(|e| e.to_string())?;
    let mut buf = vec![1, 2, 3];
    from.encode(input, &mut buf).unwrap();
    let mut marks = vec![0; plan.marks()];
    plan.run(&buf, 3, buf.len(), &mut marks).unwrap();
    let mut out = vec![9];
    let done = splice.build(&buf, 3, buf.len(), &marks, &values, &mut out);
    if done.is_err() {
        assert_eq!(out, [9], "nothing is left of what failed");
    }
    done.map_err(|error| error.to_string())?;
    Ok(to.decode(&out[1..]).unwrap().into_owned())
}

fn fields<'a>(fields: &[(&'a str, Value<'a>)]) -> Value<'a> {
    Value::Record(
        fields
            .iter()
            .map(|(name, value)| ((*name).into(), value.clone()))
            .collect(),
    )
}

fn text(s: &str) -> Value<'_> {
    Value::String(s.into())
}

#[test]
fn an_output_that_appends_is_one_copy() {
    let from = schema(include_str!("../../tests/schemas/event.avsc"));
    let new = crate::avro::NewField {
        name: "score2".into(),
        ty: crate::avro::Type::Double.nullable(),
        node: None,
    };
    let to = Arc::new(crate::avro::append_fields(&from, &[new]).unwrap());
    let plan = Plan::compile(Arc::clone(&from), &["event_id"]).unwrap();
    let splice = Splice::compile(&plan, to, &["score2"]).unwrap();
    assert_eq!(splice.pieces.len(), 2);
    assert_eq!(
        splice.pieces[0],
        Piece::Copy {
            from: Place::Start,
            to: Place::End
        }
    );
    assert!(matches!(&splice.pieces[1], Piece::New { value: 0, .. }));
}

#[test]
fn fields_are_taken_by_name_and_alias_and_moved_dropped_and_added() {
    let from = record(&[
        r#""name":"a","type":"string""#,
        r#""name":"b","type":"int""#,
        r#""name":"c","type":"int""#,
    ]);
    let to = record(&[
        r#""name":"c","type":"int""#,
        r#""name":"n","type":"string""#,
        r#""name":"z","type":"string","aliases":["a"]"#,
        r#""name":"d","type":["null","int"],"default":null"#,
        r#""name":"e","type":"string","default":"é""#,
    ]);
    let input = fields(&[("a", text("x")), ("b", Value::Int(1)), ("c", Value::Int(2))]);
    assert_eq!(
        build(&from, &to, &input, &[("n", text("new"))]).unwrap(),
        fields(&[
            ("c", Value::Int(2)),
            ("n", text("new")),
            ("z", text("x")),
            ("d", Value::Null),
            ("e", text("é"))
        ])
    );
}

#[test]
fn many_fields_are_found_without_a_look_at_all_for_each() {
    const FIELDS: usize = 100_000;
    let of = |numbers: Vec<usize>| {
        let fields = numbers
            .iter()
            .map(|number| format!(r#""name":"f{number}","type":"null""#));
        let fields: Vec<String> = fields.collect();
        record(&fields.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let from = of((0..FIELDS).collect());
    let appended = of((0..=FIELDS).collect());
    let reversed = of((0..FIELDS).rev().collect());
    let new = format!("f{FIELDS}");
    let draft = Draft::of(&from, &appended, &[new.as_str()]);
    assert!(draft.is_ok(), "{:?}", draft.err());
    let draft = Draft::of(&from, &reversed, &[]);
    assert!(draft.is_ok(), "{:?}", draft.err());
    assert!(Relation::new(&from, &from).same_bytes(from.root(), from.root()));
    assert!(Relation::new(&from, &reversed).resolves(from.root(), reversed.root()));
    assert!(!Relation::new(&from, &appended).resolves(from.root(), appended.root()));
}

#[test]
fn a_new_value_takes_the_place_of_the_inputs() {
    let from = record(&[r#""name":"a","type":"int""#]);
    assert_eq!(
        build(&from, &from, &fields(&[("a", Value::Int(1))]), &[("a", Value::Long(5))]).unwrap(),
        fields(&[("a", Value::Int(5))])
    );
    let error = build(&from, &from, &fields(&[("a", Value::Int(1))]), &[("a", text("x"))]).unwrap_err();
    assert_eq!(error, "field a: a string cannot be written as int");
}

#[test]
fn records_within_records_are_pieces_too() {
    let inner = record_json("I", &[r#""name":"x","type":"int""#, r#""name":"y","type":"int""#]);
    let from = record(&[
        r#""name":"p","type":"int""#,
        &format!(r#""name":"i","type":{inner}"#),
        r#""name":"q","type":"int""#,
    ]);
    let wider = record_json(
        "I",
        &[r#""name":"x","type":"int""#, r#""name":"y","type":["null","int"]"#],
    );
    let to = record(&[
        r#""name":"p","type":"int""#,
        &format!(r#""name":"i","type":{wider}"#),
        r#""name":"q","type":"int""#,
    ]);
    let (_, splice) = Plan::compile_with_output(Arc::clone(&from), &[], Arc::clone(&to), &[]).unwrap();
    assert_eq!(
        splice.pieces.len(),
        3,
        "p and x; the index; y and q: {:?}",
        splice.pieces
    );
    let i = fields(&[("x", Value::Int(2)), ("y", Value::Int(3))]);
    let input = fields(&[("p", Value::Int(1)), ("i", i), ("q", Value::Int(4))]);
    assert_eq!(build(&from, &to, &input, &[]).unwrap(), input);
    let last = record(&[r#""name":"p","type":"int""#, &format!(r#""name":"i","type":{wider}"#)]);
    let i = fields(&[("x", Value::Int(2)), ("y", Value::Int(3))]);
    let shorter = fields(&[("p", Value::Int(1)), ("i", i)]);
    assert_eq!(build(&from, &last, &input, &[]).unwrap(), shorter);
}

/// Converts a field from one type to another.
fn convert(from: &str, to: &str, value: Value<'_>) -> Result<Value<'static>, String> {
    let ty = |json: &str| format!(r#""name":"f","type":{json}"#);
    let (from, to) = (record(&[&ty(from)]), record(&[&ty(to)]));
    let built = build(&from, &to, &fields(&[("f", value)]), &[])?;
    let Value::Record(mut fields) = built else {
        panic!("not a record")
    };
    Ok(fields.remove(0).1)
}

#[test]
fn fields_are_converted() {
    assert_eq!(convert("\"int\"", "\"long\"", Value::Int(1)), Ok(Value::Long(1)));
    assert_eq!(convert("\"int\"", "\"double\"", Value::Int(1)), Ok(Value::Double(1.0)));
    assert_eq!(
        convert("\"float\"", "\"double\"", Value::Float(0.5)),
        Ok(Value::Double(0.5))
    );
    assert_eq!(
        convert("\"string\"", "\"bytes\"", text("a")),
        Ok(Value::Bytes(b"a"[..].into()))
    );
    assert_eq!(
        convert("\"bytes\"", "\"string\"", Value::Bytes(b"a"[..].into())),
        Ok(text("a"))
    );
    assert!(convert("\"bytes\"", "\"string\"", Value::Bytes([255][..].into())).is_err());
    let stamp = |unit| format!(r#"{{"type":"long","logicalType":"timestamp-{unit}"}}"#);
    let millis = Value::Timestamp(5, Unit::Millis);
    assert_eq!(
        convert(&stamp("millis"), &stamp("micros"), millis.clone()),
        Ok(Value::Timestamp(5000, Unit::Micros))
    );
    assert!(convert(&stamp("micros"), &stamp("millis"), Value::Timestamp(5, Unit::Micros)).is_err());
    assert_eq!(convert(&stamp("millis"), "\"long\"", millis), Ok(Value::Long(5)));
    let decimal = |p, s| format!(r#"{{"type":"bytes","logicalType":"decimal","precision":{p},"scale":{s}}}"#);
    let value = |unscaled: &'static [u8], scale| Value::Decimal {
        unscaled: unscaled.into(),
        scale,
    };
    assert_eq!(
        convert(&decimal(4, 1), &decimal(6, 2), value(&[5], 1)),
        Ok(value(&[50], 2))
    );
    assert_eq!(
        convert(&decimal(4, 2), &decimal(6, 2), value(&[5], 2)),
        Ok(value(&[5], 2)),
        "as it is"
    );
    assert_eq!(
        convert("\"bytes\"", &decimal(12, 2), Value::Bytes([5][..].into())),
        Ok(value(&[5], 2)),
        "bytes may be declared to be a number"
    );
    let error = convert("\"string\"", &decimal(12, 2), text("12.50")).unwrap_err();
    assert_eq!(
        error,
        "field \"f\" is string in the input, which the output schema's decimal(12, 2) cannot take"
    );
    let nullable = format!(r#"["null",{}]"#, decimal(12, 2));
    let error = convert(r#"["null","string"]"#, &nullable, text("12.50")).unwrap_err();
    assert_eq!(
        error,
        "field f: string of the input has no place in decimal(12, 2) or null"
    );
    assert!(convert("\"string\"", &nullable, text("12.50")).is_err());
    let uuid = r#"{"type":"string","logicalType":"uuid"}"#;
    assert!(convert("\"string\"", uuid, text("no")).is_err());
    assert!(convert("\"string\"", "\"int\"", text("1")).is_err());
}

#[test]
fn unions_are_resolved_by_branch() {
    let (a, b) = (
        record_json("A", &[r#""name":"x","type":"int""#]),
        record_json("B", &[r#""name":"x","type":"int""#]),
    );
    let from = format!(r#"["null","string",{a},{b}]"#);
    let to = format!(r#"[{b},{a},"null","bytes","string"]"#);
    assert_eq!(convert(&from, &to, Value::Null), Ok(Value::Null));
    assert_eq!(
        convert(&from, &to, text("s")),
        Ok(text("s")),
        "the branch that is the same, not the first that takes it"
    );
    assert_eq!(
        convert("\"int\"", r#"["null","int"]"#, Value::Int(1)),
        Ok(Value::Int(1))
    );
    assert_eq!(
        convert(r#"["null","int"]"#, "\"int\"", Value::Int(1)),
        Ok(Value::Int(1))
    );
    let error = convert(r#"["null","int"]"#, "\"int\"", Value::Null).unwrap_err();
    assert_eq!(error, "field f: null of the input has no place in int");
    assert_eq!(
        convert(r#"["null","int"]"#, r#"["long","null"]"#, Value::Int(7)),
        Ok(Value::Long(7))
    );
    // B is the second of the writer's records and the first of the output's. Its data must stay a B.
    let from = record(&[&format!(r#""name":"f","type":{from}"#)]);
    let to = record(&[&format!(r#""name":"f","type":{to}"#)]);
    let (plan, splice) = Plan::compile_with_output(from, &[], to, &[]).unwrap();
    let mut marks = vec![0; plan.marks()];
    let (buf, mut out) = ([6, 10], Vec::new());
    plan.run(&buf, 0, 2, &mut marks).unwrap();
    splice.build(&buf, 0, 2, &marks, &[], &mut out).unwrap();
    assert_eq!(out, [0, 10]);
}

/// Data of a union keep their name: they do not become another type only because its fields would fit.
#[test]
fn what_a_union_tells_apart_by_name_does_not_become_another() {
    let payment = record_json("Payment", &[r#""name":"x","type":"int""#]);
    let fields_of_refund = [r#""name":"x","type":"int""#, r#""name":"why","type":"string""#];
    let refund = record_json("Refund", &fields_of_refund);
    // Takes an encoded record and the number of its branch: `build` would encode it as the first that accepts it.
    let convert = |from: &str, to: &str, branch: u8, datum: &[u8]| -> Result<Vec<u8>, String> {
        let ty = |json: &str| record(&[&format!(r#""name":"f","type":{json}"#)]);
        let (from, to) = (ty(from), ty(to));
        let (plan, splice) = Plan::compile_with_output(from, &[], to, &[]).map_err(|error| error.to_string())?;
        let buf = [&[2 * branch][..], datum].concat();
        let (mut marks, mut out) = (vec![0; plan.marks()], Vec::new());
        plan.run(&buf, 0, buf.len(), &mut marks).unwrap();
        let built = splice.build(&buf, 0, buf.len(), &marks, &[], &mut out);
        built.map(|()| out).map_err(|error| error.to_string())
    };
    let (paid, refunded): (&[u8], &[u8]) = (&[10], &[10, 2, b'y']);
    let both = format!(r#"["null",{payment},{refund}]"#);
    let one = format!(r#"["null",{payment}]"#);
    assert_eq!(convert(&both, &one, 1, paid), Ok(vec![2, 10]));
    let error = convert(&both, &one, 2, refunded).unwrap_err();
    assert_eq!(error, "field f: Refund of the input has no place in record or null");
    let two = format!("[{payment},{refund}]");
    assert_eq!(convert(&two, &payment, 0, paid), Ok(vec![10]));
    let error = convert(&two, &payment, 1, refunded).unwrap_err();
    assert_eq!(error, "field f: Refund of the input has no place in Payment");
    // Nor does it become the first of several branches that would accept it.
    let other = record_json("Other", &[r#""name":"x","type":"int""#]);
    let error = convert(&format!(r#"["null",{other}]"#), &both, 1, paid).unwrap_err();
    assert_eq!(
        error,
        "field f: Other of the input has no place in record | record or null"
    );
    assert!(
        convert(&format!("[{other}]"), &both, 0, paid)
            .unwrap_err()
            .contains("is record in the input")
    );
    // If there is only one candidate, the names may differ. An alias counts as a name.
    assert_eq!(convert(&one, &format!(r#"["null",{other}]"#), 1, paid), Ok(vec![2, 10]));
    let alias = payment.replace(r#""name":"Payment""#, r#""name":"Paid","aliases":["Payment"]"#);
    assert_eq!(convert(&two, &format!("[{alias},{refund}]"), 0, paid), Ok(vec![0, 10]));
    assert_eq!(
        convert(&two, &format!("[{alias},{refund}]"), 1, refunded),
        Ok(vec![2, 10, 2, b'y'])
    );
    // Enums and fixed types are matched by name too.
    let symbols = |name: &str| format!(r#"{{"type":"enum","name":"{name}","symbols":["A"]}}"#);
    let enums = format!("[{},{}]", symbols("E"), symbols("F"));
    assert_eq!(convert(&enums, &symbols("E"), 0, &[0]), Ok(vec![0]));
    assert_eq!(
        convert(&enums, &symbols("E"), 1, &[0]),
        Err("field f: F of the input has no place in E".to_owned())
    );
    let bytes = |name: &str| format!(r#"{{"type":"fixed","name":"{name}","size":1}}"#);
    let error = convert(&format!("[{},{}]", bytes("E"), bytes("F")), &bytes("E"), 1, &[7]).unwrap_err();
    assert_eq!(error, "field f: F of the input has no place in E");
}

#[test]
fn enums_are_resolved_by_symbol() {
    let symbols = |list: &str, more: &str| format!(r#"{{"type":"enum","name":"S","symbols":[{list}]{more}}}"#);
    let from = symbols(r#""A","B""#, "");
    assert_eq!(convert(&from, &symbols(r#""A","B","C""#, ""), text("B")), Ok(text("B")));
    assert_eq!(convert(&from, &symbols(r#""C","B""#, ""), text("B")), Ok(text("B")));
    assert_eq!(
        convert(&from, &symbols(r#""C""#, r#","default":"C""#), text("B")),
        Ok(text("C"))
    );
    let error = convert(&from, &symbols(r#""C""#, ""), text("B")).unwrap_err();
    assert_eq!(error, "field f: symbol \"B\" of the input has no place in S");
    assert_eq!(convert(&from, "\"string\"", text("B")), Ok(text("B")));
}

#[test]
fn changes_inside_arrays_maps_and_recursion_are_made() {
    let item = |ty: &str| {
        record_json(
            "I",
            &[r#""name":"k","type":"string""#, &format!(r#""name":"n","type":{ty}"#)],
        )
    };
    let list = |ty: &str| format!(r#"{{"type":"array","items":{}}}"#, item(ty));
    let value = |n: Value<'static>| Value::List(vec![fields(&[("k", text("a")), ("n", n)]); 3]);
    assert_eq!(
        convert(&list("\"int\""), &list(r#"["null","long"]"#), value(Value::Int(4))),
        Ok(value(Value::Long(4)))
    );
    let map = |ty: &str| format!(r#"{{"type":"map","values":{ty}}}"#);
    let of = |v: Value<'static>| Value::Map(vec![(text("a"), v.clone()), (text("b"), v)]);
    assert_eq!(
        convert(&map("\"float\""), &map("\"double\""), of(Value::Float(0.5))),
        Ok(of(Value::Double(0.5)))
    );
    let tree = |n: &str| {
        record_json(
            "T",
            &[
                &format!(r#""name":"n","type":"{n}""#),
                r#""name":"t","type":["null","T"]"#,
            ],
        )
    };
    let value = |n: fn(i32) -> Value<'static>| {
        fields(&[
            ("n", n(1)),
            (
                "t",
                fields(&[("n", n(2)), ("t", fields(&[("n", n(3)), ("t", Value::Null)]))]),
            ),
        ])
    };
    assert_eq!(
        convert(&tree("int"), &tree("double"), value(Value::Int)),
        Ok(value(|n| Value::Double(n.into())))
    );
}

#[test]
fn what_cannot_be_built_is_said_beforehand() {
    let from = record(&[r#""name":"a","type":"int""#]);
    let to = |field: &str| record(&[field]);
    let error = |to: &Arc<Schema>, new: &[&str]| {
        Plan::compile_with_output(Arc::clone(&from), &[], Arc::clone(to), new)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(error(&to(r#""name":"b","type":"int""#), &[]).contains("field \"b\" of the output schema has no source"));
    assert!(error(&to(r#""name":"a","type":"string""#), &[]).contains("field \"a\" is int in the input"));
    assert!(
        error(&to(r#""name":"b","type":"int","default":"x""#), &[]).contains("the default \"x\" is not of type int")
    );
    assert_eq!(error(&from, &["x"]), "the output schema has no field \"x\"");
    assert_eq!(error(&schema("\"int\""), &[]), "the output schema is not a record");
    let plan = Plan::compile(Arc::clone(&from), &[]).unwrap();
    let wide = to(r#""name":"a","type":"double""#);
    assert!(
        Splice::compile(&plan, wide, &[]).is_ok(),
        "the whole record is one field"
    );
    let two = record(&[r#""name":"a","type":"int""#, r#""name":"b","type":"int""#]);
    let plan = Plan::compile(two, &[]).unwrap();
    assert_eq!(
        Splice::compile(&plan, Arc::clone(&from), &[]).unwrap_err(),
        SpliceError::NeedsMarks
    );
    let bad = Plan::compile_with_output(Arc::clone(&from), &["x"], Arc::clone(&from), &[]);
    assert!(matches!(bad, Err(PlanError::Path(_))));
}

#[test]
fn as_many_values_as_new_fields() {
    let from = record(&[r#""name":"a","type":"int""#]);
    let plan = Plan::compile(Arc::clone(&from), &[]).unwrap();
    let splice = Splice::compile(&plan, from, &["a"]).unwrap();
    let mut out = Vec::new();
    assert!(splice.build(&[2], 0, 1, &[], &[], &mut out).is_err());
    assert!(splice.build(&[2], 0, 1, &[], &[Value::Int(3)], &mut out).is_ok());
    assert_eq!(out, [6]);
}

#[test]
fn the_rich_schema_is_enriched_with_one_copy() {
    let from = schema(include_str!("../../tests/schemas/event.avsc"));
    let to = schema(include_str!("../../tests/schemas/event_enriched.avsc"));
    let new = ["processed_at", "segment", "user_score", "country"];
    let plan = Plan::compile(from, &["event_id"]).unwrap();
    let splice = Splice::compile(&plan, to, &new).unwrap();
    assert_eq!(
        splice.pieces[0],
        Piece::Copy {
            from: Place::Start,
            to: Place::End
        }
    );
    assert_eq!(splice.pieces.len(), 5);
}

/// Each block takes three bytes and claims 65,536 items without bytes, which take one byte each in the output.
#[test]
fn items_without_bytes_do_not_fill_the_memory() {
    let from = record(&[r#""name":"f","type":{"type":"array","items":"null"}"#]);
    let to = record(&[r#""name":"f","type":{"type":"array","items":["null","string"]}"#]);
    let (plan, splice) = Plan::compile_with_output(Arc::clone(&from), &[], Arc::clone(&to), &[]).unwrap();
    let convert = |blocks: usize| {
        let mut buf = [0x80, 0x80, 0x08].repeat(blocks);
        buf.push(0);
        let end = buf.len();
        buf.extend_from_slice(&[0; crate::avro::PADDING]);
        let mut marks = vec![0; plan.marks()];
        plan.run(&buf, 0, end, &mut marks).unwrap();
        let mut out = Vec::new();
        let done = splice.build(&buf, 0, end, &marks, &[], &mut out);
        done.map(|_| out.len()).map_err(|error| error.to_string())
    };
    assert_eq!(convert(1), Ok(3 + 65_536 + 1));
    assert!(convert(20_000).is_err());
}
