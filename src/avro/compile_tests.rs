//! Tests of the compiler: the operations that a schema becomes.

use super::*;
use crate::avro::program::{Check, Scalar, Small};
use crate::avro::want::Edge;

fn program(json: &str) -> Program {
    let program = compile(&Schema::parse(json).unwrap(), &Want::default(), 0).unwrap();
    assert!(program.verify());
    program
}

/// A record `R` with fields `f0`, `f1`, … of these types.
fn record(types: &[&str]) -> String {
    let fields: Vec<String> = types
        .iter()
        .enumerate()
        .map(|(i, ty)| format!(r#"{{"name":"f{i}","type":{ty}}}"#))
        .collect();
    format!(r#"{{"type":"record","name":"R","fields":[{}]}}"#, fields.join(","))
}

#[test]
fn neighbours_of_fixed_size_are_one_operation() {
    let fixed = r#"{"type":"fixed","name":"F","size":3}"#;
    let inner = r#"{"type":"record","name":"S","fields":[{"name":"x","type":"double"},{"name":"n","type":"null"}]}"#;
    assert_eq!(
        program(&record(&["\"float\"", fixed, inner, "\"int\""])).ops,
        [Op::Fixed { size: 15 }, Op::Int { usual: 1 }, Op::End]
    );
}

#[test]
fn what_is_reached_from_elsewhere_is_not_fused_away() {
    // The float is reached with and without the doubles, so it must not be merged with them.
    let ops = program(&record(&[
        "[\"null\",{\"type\":\"array\",\"items\":[\"double\"]}]",
        "\"float\"",
    ]))
    .ops;
    assert_eq!(ops[ops.len() - 2..], [Op::Fixed { size: 4 }, Op::End]);
    let ops = program(&record(&[
        r#"["null",{"type":"record","name":"S","fields":[{"name":"s","type":"string"},{"name":"d","type":"double"}]}]"#,
        "\"float\"",
    ]))
    .ops;
    assert_eq!(
        ops,
        [
            Op::Nullable { some: 2, null: 3 },
            Op::String,
            Op::Fixed { size: 8 },
            Op::Fixed { size: 4 },
            Op::End
        ]
    );
}

#[test]
fn nullable_types_are_fused_in_both_orders() {
    let ops = program(&record(&[
        r#"["null","string"]"#,
        r#"["long","null"]"#,
        r#"["null","boolean"]"#,
    ]))
    .ops;
    assert_eq!(
        ops,
        [
            Op::NullableString { some: 2 },
            Op::NullableLong { some: 0, usual: 1 },
            Op::Nullable { some: 2, null: 4 },
            Op::Boolean,
            Op::End
        ]
    );
}

#[test]
fn a_nullable_record_of_fixed_size_has_a_short_way() {
    let money = r#"["null",{"type":"record","name":"Money","fields":[
        {"name":"amount","type":{"type":"fixed","name":"D","size":8}},
        {"name":"currency","type":{"type":"enum","name":"C","symbols":["EUR","USD"]}}]}]"#;
    let program = program(&record(&[money, "\"int\""]));
    assert_eq!(
        program.ops,
        [
            Op::NullableSmall { some: 2, table: 0 },
            Op::Nullable { some: 2, null: 4 },
            Op::Fixed { size: 8 },
            Op::Enum { symbols: 2 },
            Op::Int { usual: 1 },
            Op::End
        ]
    );
    let check = Check {
        offset: 8,
        limit: 4,
        forbidden: 1,
    };
    assert_eq!(
        program.smalls,
        [Small {
            size: 9,
            checks: vec![check],
            next: 4
        }]
    );
}

#[test]
fn a_short_way_leads_behind_its_own_union() {
    // The size of the outer record is not fixed, that of the inner one is.
    let outer = r#"["null",{"type":"record","name":"O","fields":[
        {"name":"s","type":["null",{"type":"record","name":"S","fields":[{"name":"b","type":"boolean"}]}]},
        {"name":"t","type":"string"}]}]"#;
    let program = program(&record(&[outer, "\"int\""]));
    assert_eq!(program.smalls.len(), 1);
    assert_eq!(program.ops[program.smalls[0].next as usize], Op::String);
}

#[test]
fn arrays_and_maps_of_simple_types_are_one_operation() {
    let array = |items: &str| program(&format!(r#"{{"type":"array","items":{items}}}"#)).ops[0];
    assert_eq!(array("\"int\""), Op::Ints);
    assert_eq!(array("\"long\""), Op::Longs);
    assert_eq!(array("\"double\""), Op::FixedItems { size: 8 });
    assert_eq!(array("\"null\""), Op::EmptyItems);
    assert_eq!(array(r#"{"type":"record","name":"E","fields":[]}"#), Op::EmptyItems);
    let map = program(r#"{"type":"map","values":["null","string","double"]}"#);
    assert_eq!(map.ops[0], Op::ScalarMap { table: 0 });
    assert_eq!(
        map.scalars[0].branches,
        [Scalar::Fixed(0), Scalar::String, Scalar::Fixed(8)]
    );
}

#[test]
fn a_linked_list_needs_no_place_to_return_to_and_a_tree_does() {
    let list = program(&record(&["\"int\"", r#"["null","R"]"#]));
    assert_eq!(list.ops[list.ops.len() - 2..], [Op::Jump { target: 2 }, Op::Return]);
    let tree = program(&record(&[r#"["null","R"]"#, r#"["null","R"]"#]));
    assert!(tree.ops.iter().any(|op| matches!(op, Op::Call { .. })));
}

#[test]
fn a_record_that_doubles_at_each_level_is_compiled_once_per_level() {
    let mut json = r#"{"type":"record","name":"R0","fields":[{"name":"x","type":"string"}]}"#.to_owned();
    for i in 1..25 {
        let p = i - 1;
        json = format!(
            r#"{{"type":"record","name":"R{i}","fields":[{{"name":"a","type":{json}}},{{"name":"b","type":"R{p}"}}]}}"#
        );
    }
    let program = program(&json);
    assert!(program.ops.len() < 3_000, "{} operations", program.ops.len());
}

#[test]
fn marks_stand_around_what_is_wanted() {
    let schema = Schema::parse(&record(&["\"int\"", "\"long\"", r#"["null","string"]"#])).unwrap();
    let (mut want, mut asked) = (Want::default(), 0);
    for edge in [Edge::Start, Edge::End] {
        want.ask(&[Step::Field(2)], edge, &mut asked);
    }
    want.number(&mut 0, &mut [0; 2]);
    let ops = compile(&schema, &want, 2).unwrap().ops;
    let (start, end) = (Op::Mark { mark: 0 }, Op::Mark { mark: 1 });
    assert_eq!(
        ops,
        [
            Op::Int { usual: 1 },
            Op::Long { usual: 1 },
            start,
            Op::NullableString { some: 2 },
            end,
            Op::End
        ]
    );
}

#[test]
fn the_rich_schema_is_a_hundred_operations() {
    let program = program(include_str!("../../tests/schemas/event.avsc"));
    assert!(program.ops.len() < 110, "{} operations", program.ops.len());
}
