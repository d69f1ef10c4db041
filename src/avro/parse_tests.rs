//! Tests of the parser: accepted schemas, and error messages.

use super::*;

fn error(json: &str) -> String {
    Schema::parse(json).unwrap_err().to_string()
}

#[test]
fn names_resolve_across_namespaces() {
    let schema = Schema::parse(
        r#"{"type":"record","name":"A","namespace":"x","fields":[
            {"name":"b","type":{"type":"fixed","name":"y.B","size":2}},
            {"name":"c","type":"y.B"},
            {"name":"d","type":{"type":"enum","name":"D","symbols":["P"]}},
            {"name":"e","type":["null","x.D","A"]}]}"#,
    )
    .unwrap();
    let fields = schema.fields().unwrap();
    assert_eq!(fields[0].node, fields[1].node);
    assert_eq!(schema.node(fields[2].node).shape.name(), Some("x.D"));
    let Shape::Union(branches) = &schema.node(fields[3].node).shape else {
        panic!("not a union")
    };
    assert_eq!((branches[1], branches[2]), (fields[2].node, schema.root()));
}

#[test]
fn a_name_outside_namespaces_is_found_from_within_one() {
    let fixed = r#"{"type":"fixed","name":"Bare","size":2}"#;
    let root = r#"{"type":"record","name":"x.A","fields":[{"name":"b","type":"Bare"}]}"#;
    let schema = Schema::parse_with_references(root, &[fixed]).unwrap();
    assert_eq!(schema.node(schema.fields().unwrap()[0].node).shape.name(), Some("Bare"));
    assert_eq!(Schema::parse(schema.json()).unwrap().root_type(), schema.root_type());
}

#[test]
fn errors_name_the_place() {
    assert_eq!(
        error(
            r#"{"type":"record","name":"Event","namespace":"com.acme","fields":[{"name":"user","type":
            {"type":"record","name":"User","fields":[{"name":"ids","type":{"type":"array","items":"strng"}}]}}]}"#
        ),
        "com.acme.Event.user.ids[]: unknown type \"strng\" (did you mean \"string\"?)"
    );
    assert_eq!(
        error(r#"{"type":"array"}"#),
        "schema: \"items\" is missing or not of the right kind"
    );
    assert_eq!(error(r#"["int","int"]"#), "schema: two branches are \"int\"");
    assert_eq!(error(r#"["int",["null"]]"#), "schema: a union cannot contain a union");
    assert_eq!(
        error("3"),
        "schema: a type must be a name, an object or an array of types"
    );
    assert!(error("{").starts_with("schema is not JSON: "));
    assert_eq!(
        error(r#"{"type":"enum","name":"E","symbols":["A","A"]}"#),
        "E: symbol \"A\" occurs twice"
    );
    assert_eq!(
        error(r#"{"type":"enum","name":"E","symbols":["A"],"default":"B"}"#),
        "E: default \"B\" is none of the symbols"
    );
    assert_eq!(
        error(r#"{"type":"fixed","name":"F","size":-1}"#),
        "F: \"size\" is missing or not of the right kind"
    );
    assert_eq!(
        error(r#"{"type":"fixed","name":"int","size":1}"#),
        "schema: \"int\" is not a name"
    );
    assert_eq!(
        error(r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"a","type":"int"}]}"#),
        "R: field \"a\" occurs twice"
    );
}

#[test]
fn a_record_that_never_ends_is_refused_and_one_that_may_end_is_not() {
    let endless = r#"{"type":"record","name":"R","fields":[{"name":"a","type":
        {"type":"record","name":"S","fields":[{"name":"b","type":"R"}]}}]}"#;
    assert!(error(endless).contains("never ends"), "{}", error(endless));
    for ty in [
        r#"["null","R"]"#,
        r#"{"type":"array","items":"R"}"#,
        r#"{"type":"map","values":"R"}"#,
    ] {
        Schema::parse(&format!(
            r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":{ty}}}]}}"#
        ))
        .unwrap();
    }
}

#[test]
fn one_definition_repeated_is_one_type() {
    let money = r#"{"type":"record","name":"Money","fields":[{"name":"n","type":"long"}]}"#;
    let twice = format!(
        r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":{money}}},{{"name":"b","type":{money}}}]}}"#
    );
    let schema = Schema::parse(&twice).unwrap();
    assert_eq!(schema.fields().unwrap()[0].node, schema.fields().unwrap()[1].node);
    let differs = twice.replacen("long", "int", 1);
    assert!(error(&differs).contains("defined twice"));
}

#[test]
fn an_enum_or_fixed_that_two_references_describe_each_in_its_words_is_one_type() {
    let parse = |first: &str, second: &str| {
        let of = |name: &str, ty: &str| {
            format!(r#"{{"type":"record","name":"m.{name}","fields":[{{"name":"a","type":{{"name":"m.T",{ty}}}}}]}}"#)
        };
        let root = r#"{"type":"record","name":"m.R","fields":[{"name":"x","type":"m.X"},{"name":"y","type":"m.Y"}]}"#;
        Schema::parse_with_references(root, &[of("X", first).as_str(), of("Y", second).as_str()])
    };
    let (letters, bytes) = (r#""type":"enum","symbols":["A","B"]"#, r#""type":"fixed","size":8"#);
    for ty in [letters, bytes] {
        let schema = parse(ty, &format!(r#"{ty},"doc":"in other words""#)).unwrap();
        assert_eq!(schema.json().matches(r#""name":"m.T""#).count(), 1, "{}", schema.json());
        assert_eq!(Schema::parse(schema.json()).unwrap().root_type(), schema.root_type());
    }
    for (ty, other) in [
        (letters, r#""type":"enum","symbols":["B","A"]"#),
        (letters, r#""type":"enum","symbols":["A","B"],"default":"A""#),
        (letters, r#""type":"enum","symbols":["A","B"],"aliases":["U"]"#),
        (letters, bytes),
        (bytes, r#""type":"fixed","size":9"#),
        (
            bytes,
            r#""type":"fixed","size":8,"logicalType":"decimal","precision":4"#,
        ),
        (bytes, r#""type":"record","fields":[]"#),
    ] {
        let error = parse(ty, other).unwrap_err().to_string();
        assert!(error.contains("defined twice"), "{other}: {error}");
    }
}

#[test]
fn references_are_inlined_where_they_are_first_used() {
    let geo = r#"{"type":"record","name":"Geo","namespace":"c","doc":"where","fields":[{"name":"k","type":
        {"type":"enum","name":"Kind","symbols":["A"]}}]}"#;
    let user = r#"{"type":"record","name":"User","namespace":"u","fields":[{"name":"geo","type":["null","c.Geo"]}]}"#;
    let root = r#"{"type":"record","name":"E","fields":[{"name":"k","type":"c.Kind"},{"name":"u","type":"u.User"},
        {"name":"v","type":"u.User"},{"name":"g","type":"c.Geo"}]}"#;
    let schema = Schema::parse_with_references(root, &[geo, user]).unwrap();
    assert!(schema.json().contains("\"doc\":\"where\""));
    assert_eq!(schema.json().matches("symbols").count(), 1);
    let alone = Schema::parse(schema.json()).unwrap();
    assert_eq!(alone.root_type(), schema.root_type());
    let missing = Schema::parse_with_references(root, &[geo]).unwrap_err().to_string();
    assert_eq!(missing, "E.u: unknown type \"u.User\"");
    let broken = Schema::parse_with_references(root, &[geo, r#"{"type":"array"}"#])
        .unwrap_err()
        .to_string();
    assert!(broken.starts_with("reference 2: "), "{broken}");
}

#[test]
fn a_chain_of_references_without_end_is_refused() {
    let mut references = vec![r#"{"type":"fixed","name":"N0","size":1}"#.to_owned()];
    for i in 1..5000 {
        let p = i - 1;
        references.push(format!(
            r#"{{"type":"record","name":"N{i}","fields":[{{"name":"x","type":"N{p}"}}]}}"#
        ));
    }
    let references: Vec<&str> = references.iter().map(String::as_str).collect();
    let error = Schema::parse_with_references("\"N4999\"", &references).unwrap_err();
    assert_eq!(error.to_string(), "schema: nested too deeply");
}

#[test]
fn the_rich_schema_is_read() {
    let schema = Schema::parse(include_str!("../../tests/schemas/event.avsc")).unwrap();
    assert_eq!(schema.fields().unwrap().len(), 25);
    assert_eq!(schema.fields().unwrap()[5].aliases, ["advertiser_id"]);
}
