//! What must hold for any bytes: shared by the fuzz targets and the test that replays their corpus.

use std::sync::{Arc, LazyLock};

use messina::avro::{DatumError, PADDING, Plan, Schema, Splice};
use messina::registry::framing;

/// Schemas with every kind of operation: plain and nullable types, enums, small records, unions, arrays, maps, extracted
/// items and keys, types without bytes, and recursion with and without a stack.
const SCHEMAS: [(&str, &[&str]); 6] = [
    (
        include_str!("../tests/schemas/event.avsc"),
        &["ts", "user.id", "items[1].sku", "props['ctr']"],
    ),
    (
        r#"{"type":"record","name":"Tree","fields":[{"name":"v","type":"int"},
        {"name":"l","type":["null","Tree"]},{"name":"r","type":["Tree","null"]}]}"#,
        &["l.v", "r"],
    ),
    (
        r#"{"type":"record","name":"R","fields":[{"name":"i","type":{"type":"array","items":"int"}},
        {"name":"l","type":{"type":"array","items":"long"}},{"name":"n","type":{"type":"array","items":"null"}},
        {"name":"d","type":{"type":"array","items":"double"}},{"name":"b","type":{"type":"array","items":"bytes"}}]}"#,
        &["i[0]", "l[3]", "b"],
    ),
    (
        r#"{"type":"map","values":{"type":"map","values":["null","string","int","long","boolean","bytes","float"]}}"#,
        &["['a']['b']"],
    ),
    (
        r#"{"type":"record","name":"N","fields":[{"name":"a","type":["null","int"]},{"name":"b","type":["long","null"]},
        {"name":"c","type":["null","string"]},{"name":"d","type":["null","bytes"]},{"name":"e","type":["null",
        {"type":"enum","name":"E","symbols":["X","Y","Z"]}]},{"name":"f","type":["null",{"type":"fixed","name":"F",
        "size":9}]},{"name":"g","type":["null",{"type":"record","name":"S","fields":[{"name":"x","type":"boolean"},
        {"name":"y","type":"E"},{"name":"z","type":"float"}]}]},{"name":"u","type":["string","int","S","null"]}]}"#,
        &["a", "g.y", "u"],
    ),
    (
        r#"{"type":"array","items":{"type":"array","items":{"type":"record","name":"P","fields":[
        {"name":"k","type":"string"},{"name":"p","type":["null",{"type":"array","items":"P"}]}]}}}"#,
        &["[0][1].k"],
    ),
];

/// The plans of these schemas, compiled once so that most of the time goes to data.
static PLANS: LazyLock<Vec<(Arc<Schema>, Plan)>> = LazyLock::new(|| {
    let compile = |(json, paths): &(&str, &[&str])| {
        let schema = Arc::new(Schema::parse(json).expect("a schema"));
        let plan = Plan::compile(Arc::clone(&schema), paths).expect("a plan");
        (schema, plan)
    };
    SCHEMAS.iter().map(compile).collect()
});

/// Framing: parsing returns what would be written.
pub fn framing(data: &[u8]) {
    if let Ok((id, offset)) = framing::parse(data) {
        assert_eq!(&data[..offset], &framing::header(id));
    }
}

/// Running a plan: the first byte chooses the schema. The answer does not depend on the bytes behind the datum, and the
/// decoder agrees with it.
pub fn plan(data: &[u8]) {
    let Some((choice, datum)) = data.split_first() else {
        return;
    };
    let (schema, plan) = &PLANS[usize::from(*choice) % SCHEMAS.len()];
    let mut marks = vec![0; plan.marks()];
    let answer = plan.run(datum, 0, datum.len(), &mut marks);
    for garbage in [0x00, 0x80, 0xff] {
        let padded = padded(datum, garbage);
        let mut others = vec![0; plan.marks()];
        assert_eq!(plan.run(&padded, 0, datum.len(), &mut others), answer);
        if answer.is_ok() {
            assert_eq!(others, marks);
        }
    }
    if answer.is_ok() {
        for slot in 0..plan.slots() {
            // Refused only for reasons that a run does not check.
            if let Err(error) = plan.value(slot, datum, &marks) {
                assert!(later(error), "{error}");
            }
        }
    }
    match (answer, schema.decode(datum)) {
        (Ok(()), Err(error)) => assert!(later(error), "{error}"),
        (Err(error), Ok(_)) => panic!("decoded what was refused: {error}"),
        _ => {}
    }
}

/// The datum followed by as many bytes as a run may read, and not one more: a sanitizer finds any read beyond them.
fn padded(datum: &[u8], garbage: u8) -> Box<[u8]> {
    let mut padded = Vec::with_capacity(datum.len() + PADDING);
    padded.extend_from_slice(datum);
    padded.extend_from_slice(&[garbage; PADDING]);
    padded.into_boxed_slice()
}

/// Errors that are found only when a value is requested.
fn later(error: DatumError) -> bool {
    matches!(
        error,
        DatumError::Uuid { .. } | DatumError::EmptyItems { .. } | DatumError::Depth { .. }
    )
}

/// Schemas: any text is either refused, or a schema that can be compiled and run.
pub fn schema(data: &[u8]) {
    let Ok(json) = std::str::from_utf8(data) else { return };
    let Ok(schema) = Schema::parse(json) else { return };
    let _ = schema.root_type();
    let schema = Arc::new(schema);
    if let Ok(plan) = Plan::compile(Arc::clone(&schema), &[""]) {
        let mut marks = vec![0; plan.marks()];
        let _ = plan.run(data, 0, data.len(), &mut marks);
    }
    // The schema resolves to itself.
    let _ = Plan::compile_with_output(Arc::clone(&schema), &[], schema, &[]);
}

const FROM: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":"string"},
    {"name":"c","type":["null","long"]},{"name":"d","type":{"type":"array","items":"int"}},
    {"name":"e","type":{"type":"record","name":"I","fields":[{"name":"x","type":"float"},{"name":"y","type":"bytes"}]}},
    {"name":"f","type":{"type":"map","values":["null","string","long"]}}]}"#;

/// Fields that are moved, widened, made nullable, dropped or new; items and branches that are converted.
const TO: [&str; 2] = [
    r#"{"type":"record","name":"R","fields":[{"name":"b","type":["null","string"]},{"name":"a","type":"double"},
    {"name":"n","type":"int","default":7},{"name":"d","type":{"type":"array","items":"long"}},
    {"name":"e","type":{"type":"record","name":"I","fields":[{"name":"y","type":"bytes"},{"name":"x","type":"double"}]}},
    {"name":"f","type":{"type":"map","values":["long","string","null"]}}]}"#,
    r#"{"type":"record","name":"R","fields":[{"name":"d","type":{"type":"array","items":"double"}},
    {"name":"c","type":["long","null","string"]},{"name":"b","type":"bytes"},{"name":"a","type":["null","int"]}]}"#,
];

static SPLICES: LazyLock<Vec<(Arc<Schema>, Plan, Splice)>> = LazyLock::new(|| {
    let writer = Arc::new(Schema::parse(FROM).expect("a schema"));
    let compile = |json: &&str| {
        let output = Arc::new(Schema::parse(json).expect("a schema"));
        let (plan, splice) =
            Plan::compile_with_output(Arc::clone(&writer), &["a", "f['k']"], Arc::clone(&output), &[]).expect("a plan");
        (output, plan, splice)
    };
    TO.iter().map(compile).collect()
});

/// Splicing: the result is a datum of the output schema, whatever follows the input in memory. The first byte chooses the
/// output.
pub fn splice(data: &[u8]) {
    let Some((choice, datum)) = data.split_first() else {
        return;
    };
    let (output, plan, splice) = &SPLICES[usize::from(*choice) % TO.len()];
    let mut marks = vec![0; plan.marks()];
    let mut out = vec![1];
    let read = plan.run(datum, 0, datum.len(), &mut marks);
    let built = splice.build(datum, 0, datum.len(), &marks, &[], &mut out);
    match (read, &built) {
        (Ok(()), Ok(())) => {
            assert_eq!(out[0], 1);
            assert!(output.decode(&out[1..]).is_ok(), "{out:?}");
            let padded = padded(datum, 0x80);
            let mut again = vec![1];
            assert_eq!(splice.build(&padded, 0, datum.len(), &marks, &[], &mut again), built);
            assert_eq!(again, out);
        }
        (_, Err(_)) => assert_eq!(out, [1]),
        // After a run that failed, the marks are arbitrary: any answer is right.
        (Err(_), Ok(())) => {}
    }
}
