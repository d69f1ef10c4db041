//! Tests of derived schemas.

use std::sync::Arc;

use apache_avro::Schema as TheirSchema;
use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};

use super::*;
use crate::avro::{Plan, Splice};

fn field(name: &str, ty: Type) -> NewField {
    NewField {
        name: name.into(),
        ty,
        node: None,
    }
}

const INPUT: &str = r#"{"type":"record","name":"Event","namespace":"a.b","doc":"kept","fields":[
    {"name":"id","type":"string","doc":"kept too"},
    {"name":"geo","type":{"type":"record","name":"Event_place","fields":[]}}]}"#;

#[test]
fn fields_are_appended_and_the_rest_stays() {
    let input = Schema::parse(INPUT).unwrap();
    let fields = [
        field("score", Type::Double.nullable()),
        field("seen", Type::Timestamp(Unit::Millis)),
        field("tags", Type::List(Box::new(Type::String.nullable()))),
        field(
            "place",
            Type::Record(vec![("x".into(), Type::Int.nullable())]).nullable(),
        ),
        field("wait", Type::Duration),
    ];
    let output = append_fields(&input, &fields).unwrap();
    let json: Json = serde_json::from_str(output.json()).unwrap();
    assert_eq!(
        (&json["name"], &json["namespace"], &json["doc"]),
        (&json!("Event"), &json!("a.b"), &json!("kept"))
    );
    assert_eq!(json["fields"][0]["doc"], "kept too");
    assert_eq!(
        json["fields"][2],
        json!({"name": "score", "type": ["null", "double"], "default": null})
    );
    let seen = json!({"name": "seen", "type": {"type": "long", "logicalType": "timestamp-millis"}});
    assert_eq!(json["fields"][3], seen);
    assert_eq!(
        json["fields"][5]["type"][1]["name"], "Event_place_2",
        "the first name is taken"
    );
    for new in &fields {
        assert_eq!(output.field_type(&new.name), Some(new.ty.clone()), "{}", new.name);
    }
}

#[test]
fn clashes_name_both() {
    let input = Schema::parse(INPUT).unwrap();
    let error = append_fields(&input, &[field("id", Type::Int)])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("new field \"id\"") && error.contains("\"a.b.Event\" has a field \"id\""),
        "{error}"
    );
    assert!(append_fields(&input, &[field("n", Type::Int), field("n", Type::Int)]).is_err());
    assert_eq!(
        append_fields(&input, &[field("a-b", Type::Int)]),
        Err(OutputError::Name("a-b".into()))
    );
    let array = Schema::parse(r#"{"type":"array","items":"int"}"#).unwrap();
    assert_eq!(append_fields(&array, &[]), Err(OutputError::NotARecord));
}

#[test]
fn types_that_avro_lacks_say_what_to_do() {
    let input = Schema::parse(INPUT).unwrap();
    let error = |ty| append_fields(&input, &[field("x", ty)]).unwrap_err().to_string();
    assert!(error(Type::Decimal { precision: 0, scale: 0 }).contains("new field \"x\": decimal has no Avro type"));
    assert!(error(Type::Any).contains("give the sink a schema"));
    assert!(error(Type::Map(Box::new(Type::Int), Box::new(Type::Int))).contains("keys of Avro's maps are strings"));
    assert!(error(Type::Union(vec![Type::Long, Type::Timestamp(Unit::Millis)])).contains("only one branch"));
}

#[test]
fn every_type_that_has_one_is_read_back() {
    let units = [Unit::Millis, Unit::Micros, Unit::Nanos];
    let mut types = vec![
        Type::Null,
        Type::Bool,
        Type::Int,
        Type::Long,
        Type::Float,
        Type::Double,
        Type::String,
    ];
    types.extend([
        Type::Bytes,
        Type::Date,
        Type::Uuid,
        Type::Duration,
        Type::Decimal { precision: 9, scale: 2 },
    ]);
    types.extend(units.map(Type::Time));
    types.extend(units.map(Type::Timestamp));
    types.extend(units.map(Type::LocalTimestamp));
    types.push(Type::Map(
        Box::new(Type::String),
        Box::new(Type::List(Box::new(Type::Date))),
    ));
    types.push(Type::Union(vec![Type::Int, Type::String]).nullable());
    for ty in types {
        let json = avro_type(&ty).unwrap();
        assert_eq!(Schema::parse(&json.to_string()).unwrap().root_type(), ty);
    }
    assert_eq!(avro_type(&Type::Enum(vec!["A".into()])), Ok(json!("string")));
    assert_eq!(avro_type(&Type::Fixed(3)), Ok(json!("bytes")));
    // Two members of a union that become the same type are one branch.
    assert_eq!(
        avro_type(&Type::Union(vec![Type::Enum(vec![]), Type::String])),
        Ok(json!(["string"]))
    );
}

#[test]
fn a_wrapped_record_is_found() {
    let input = Schema::parse(&format!(r#"{{"type":{INPUT}}}"#)).unwrap();
    assert!(
        append_fields(&input, &[field("x", Type::Int)])
            .unwrap()
            .field_type("x")
            .is_some()
    );
}

#[test]
fn a_record_that_contains_itself_stays_as_it_is_inside() {
    let tree = r#"{"type":"record","name":"x.T","aliases":["U"],"fields":[
        {"name":"kind","type":{"type":"enum","name":"K","symbols":["A"]}},
        {"name":"left","type":["null","T"]},{"name":"right","type":["null","T"]},{"name":"k","type":"K"}]}"#;
    let input = Schema::parse(tree).unwrap();
    let output = append_fields(&input, &[field("score", Type::Double)]).unwrap();
    assert_eq!(output.node(output.root()).shape.name(), Some("x.T_enriched"));
    assert_eq!(output.fields().unwrap().len(), 5);
    let plan = Plan::compile(Arc::new(input), &[]).unwrap();
    let splice = Splice::compile(&plan, Arc::new(output), &["score"]);
    assert!(splice.is_ok(), "the input's bytes are as they were: {splice:?}");
}

/// The schema derived from an input whose carts have the additional fields `more`. It copies a nullable cart and a list
/// of carts.
fn with_carts(more: &str) -> Schema {
    let input = Schema::parse(&format!(
        r#"{{"type":"record","name":"E","fields":[
            {{"name":"cart","type":["null",{{"type":"record","name":"Cart","fields":[{{"name":"total","type":"int"}}{more}]}}]}},
            {{"name":"carts","type":{{"type":"array","items":"Cart"}}}}]}}"#
    ))
    .unwrap();
    let plan = Plan::compile(Arc::new(input.clone()), &["cart", "carts"]).unwrap();
    let field = |name: &str, slot| NewField {
        name: name.into(),
        ty: plan.slot_type(slot),
        node: plan.slot_node(slot),
    };
    append_fields(&input, &[field("basket", 0), field("baskets", 1)]).unwrap()
}

/// A registry compares the two as readers do: a field that the older one lacks must have a default.
#[test]
fn a_record_that_is_taken_whole_may_get_fields_with_defaults() {
    let more = r#",{"name":"currency","type":{"type":"enum","name":"C","symbols":["EUR","USD"]},"default":"EUR"},
        {"name":"codes","type":{"type":"array","items":"string"},"default":[]},
        {"name":"shop","type":{"type":"record","name":"S","fields":[{"name":"city","type":"string","default":"Paris"}]},"default":{}},
        {"name":"by","type":["string","int"],"default":"card"}"#;
    let theirs = |schema: &Schema| TheirSchema::parse_str(schema.json()).unwrap();
    let (before, after) = (theirs(&with_carts("")), theirs(&with_carts(more)));
    let compatible = SchemaCompatibility::can_read(&before, &after).unwrap();
    assert_eq!(compatible, Compatibility::Full);
    // A default that does not match its type is dropped, because the registry would refuse the whole schema.
    let json: Json = serde_json::from_str(with_carts(r#",{"name":"n","type":"int","default":"x"}"#).json()).unwrap();
    assert_eq!(
        json["fields"][2]["type"][1]["fields"],
        json!([{"name": "total", "type": "int"}, {"name": "n", "type": "int"}])
    );
}
