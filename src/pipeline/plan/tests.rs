//! Tests of plans: the findings of checking a pipeline against a schema.

use super::*;
use crate::config;
use crate::demo::cluster::Scratch;
use crate::pipeline::expression::{Expression, Interpreter, parse};
use crate::pipeline::program;
use crate::reference::References;
use crate::store::AnyStore;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::{SqliteOptions, SqliteStore};

/// The messages about what does not fit in a pipeline with this sink.
async fn found(schema: &str, sink: &str, output: OutputSchema) -> Result<(), String> {
    found_with(None, schema, sink, output).await
}

/// The same with a database; `rest` follows the sink's topic.
async fn found_with(store: Option<&AnyStore>, schema: &str, rest: &str, output: OutputSchema) -> Result<(), String> {
    let compiled = compiled(store, schema, rest, output).await;
    compiled
        .map(|_| ())
        .map_err(|found| found.into_iter().map(|f| f.message).collect::<Vec<_>>().join("; "))
}

async fn compiled(
    store: Option<&AnyStore>,
    schema: &str,
    rest: &str,
    output: OutputSchema,
) -> Result<Compiled, Vec<Finding>> {
    let toml = format!(
        "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\n[pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n\
         [pipelines.p.sink]\ntopic = \"o\"\n{rest}\n"
    );
    let (config, _) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
    let parsed = program::parse(&config.pipelines["p"]).unwrap();
    let mut program = parsed
        .prepare(store, &References::default(), &Default::default())
        .await
        .unwrap();
    if let OutputSchema::Fixed(schema) = &output {
        program.publish_as(schema);
    }
    compile(&program, Arc::new(Schema::parse(schema).unwrap()), Some(&output))
}

#[tokio::test]
async fn new_fields_are_compared_with_those_of_a_given_schema() {
    let input = r#"{"type": "record", "name": "E", "fields": [{"name": "id", "type": "long"}, {"name": "name", "type": ["null", "string"]},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "tags", "type": {"type": "array", "items": "string"}}]}"#;
    let output = r#"{"type": "record", "name": "O", "fields": [{"name": "id", "type": "long"}, {"name": "score", "type": "double"},
        {"name": "label", "type": ["null", "string"], "default": null}, {"name": "all", "type": {"type": "array", "items": "string"}, "default": []}]}"#;
    let output = OutputSchema::Fixed(Arc::new(Schema::parse(output).unwrap()));
    let findings = async |set: &str| found(input, &format!("set = {{ {set} }}"), output.clone()).await;
    for good in [
        "score = \"event.id\"",
        "score = \"double(event.price)\"",
        "score = \"2.5\", label = \"event.name\"",
        "score = \"3\", label = \"null\"",
        "score = \"3\", all = \"event.tags.map(t, t + '!')\"",
    ] {
        assert_eq!(findings(good).await, Ok(()), "{good}");
    }
    for (bad, why) in [
        (
            "score = \"event.price\"",
            "event.price: decimal(9, 2) does not go into double",
        ),
        ("score = \"event.name\"", "event.name: string does not go into double"),
        (
            "score = \"string(event.id)\"",
            "what this expression gives: string does not go into double",
        ),
        ("score = \"null\"", "this literal: null does not go into double"),
    ] {
        let wanted = format!("field 'score' of the output schema cannot take {why}");
        assert_eq!(findings(bad).await, Err(wanted), "{bad}");
    }
    let both = findings("score = \"event.price\", label = \"event.id\"")
        .await
        .unwrap_err();
    assert_eq!(both.matches("does not go into").count(), 2, "{both}");
}

#[tokio::test]
async fn an_expression_cannot_end_in_a_map() {
    let input = r#"{"type": "record", "name": "E", "fields": [{"name": "id", "type": "long"},
        {"name": "a", "type": {"type": "record", "name": "P", "fields": [{"name": "x", "type": "long"}]}},
        {"name": "b", "type": ["null", "P"]}, {"name": "all", "type": {"type": "array", "items": "P"}},
        {"name": "tags", "type": {"type": "map", "values": "long"}}]}"#;
    let output = r#"{"type": "record", "name": "O", "fields": [
        {"name": "p", "type": ["null", "long", "P2", {"type": "map", "values": "long"}, {"type": "array", "items": "P2"}], "default": null}]}"#;
    let record = r#"{"type": "record", "name": "P2", "fields": [{"name": "x", "type": "long"}]}"#;
    let output = output.replacen(r#""P2""#, record, 1);
    let output = OutputSchema::Fixed(Arc::new(Schema::parse(&output).unwrap()));
    let set = |value: &str| format!("set = {{ p = \"{value}\" }}");
    for good in [
        "event.a",
        "event.tags",
        "event.b.x + 1",
        "event.id > 1 ? event.a.x : event.b.x",
        "{'x': event.id}['x']",
        "event.tags['a'] + event.all[int(event.id)].x",
        "event.id > 1 ? event.id : null",
    ] {
        assert_eq!(found(input, &set(good), output.clone()).await, Ok(()), "{good}");
    }
    for bad in [
        "{'x': event.id}",
        "[{'x': event.id}]",
        "event.b != null ? event.b : event.a",
        "event.id > 1 ? event.tags : null",
        "event.id > 1 ? (event.id > 2 ? event.a : null) : event.tags",
        "event.all[int(event.id)]",
    ] {
        let wanted = "what this expression gives is a map or contains one, which an expression cannot return";
        for output in [output.clone(), OutputSchema::Appended] {
            assert_eq!(found(input, &set(bad), output).await, Err(wanted.to_owned()), "{bad}");
        }
    }
}

#[tokio::test]
async fn a_time_that_became_a_number_is_not_taken_for_another_unit() {
    let input = r#"{"type": "record", "name": "E", "fields": [{"name": "id", "type": "long"},
        {"name": "updated", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
        {"name": "created", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "seen", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "all", "type": {"type": "array", "items": {"type": "long", "logicalType": "timestamp-micros"}}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}}]}"#;
    let output = r#"{"type": "record", "name": "O", "fields": [
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}], "default": null},
        {"name": "n", "type": ["null", "long"], "default": null}]}"#;
    let output = OutputSchema::Fixed(Arc::new(Schema::parse(output).unwrap()));
    let write = "INSERT INTO t (id, at, n) VALUES (:id, :at, :n)";
    let store = MemoryStore::new();
    let markers = [
        ("id", ColumnType::BigInt),
        ("at", ColumnType::Timestamp),
        ("n", ColumnType::BigInt),
    ];
    store.declare(write, &markers, &[]);
    let store = AnyStore::Memory(store);
    let newest = "event.updated != null ? event.updated : event.created";
    let bound = async |at: &str| {
        let rest = format!(
            "[[pipelines.p.steps]]\nname = \"x\"\nset = {{ at = \"{at}\" }}\n\
             [[pipelines.p.steps]]\nname = \"w\"\nwrite = \"{write}\"\nbind = {{ at = \"{at}\", n = \"{at}\" }}\n\
             [[pipelines.p.steps]]\nname = \"v\"\nwrite = \"{write}\"\nbind = {{ at = \"x.at\", n = \"event.id\" }}\n\
             [scylla]\nnodes = [\"s:9042\"]\nkeyspace = \"k\""
        );
        found_with(Some(&store), input, &rest, OutputSchema::Appended).await
    };
    let set = async |at: &str| {
        found(
            input,
            &format!("set = {{ at = \"{at}\", n = \"{at}\" }}"),
            output.clone(),
        )
        .await
    };
    for good in [
        format!("({newest}) / 1000"),
        "event.seen > 0 ? event.seen : null".to_owned(),
        "event.id + 1".to_owned(),
        "event.all[size(event.all) - 1] / 1000".to_owned(),
    ] {
        assert_eq!(bound(&good).await, Ok(()), "{good}");
        assert_eq!(set(&good).await, Ok(()), "{good}");
    }
    for bad in [
        newest,
        "event.created + 1",
        "event.id > 0 ? event.seen : event.created",
        "int(event.day)",
        "event.all[size(event.all) - 1]",
    ] {
        let error = bound(bad).await.unwrap_err();
        assert_eq!(
            error.matches("would be taken for timestamp-millis").count(),
            2,
            "{bad}: {error}"
        );
        let error = set(bad).await.unwrap_err();
        assert_eq!(
            error.matches("would be taken for timestamp-millis").count(),
            1,
            "{bad}: {error}"
        );
    }
}

#[tokio::test]
async fn a_list_of_times_that_became_numbers_is_not_taken_for_another_unit() {
    let times = |unit: &str| {
        format!(r#"["null", {{"type": "array", "items": {{"type": "long", "logicalType": "timestamp-{unit}"}}}}]"#)
    };
    let schema = |unit: &str| {
        let times = times(unit);
        format!(r#"{{"type": "record", "name": "E", "fields": [{{"name": "all", "type": {times}, "default": null}}]}}"#)
    };
    let write = "INSERT INTO t (id, seen) VALUES (:id, :seen)";
    let store = MemoryStore::new();
    let seen = ColumnType::List(Box::new(ColumnType::Timestamp));
    store.declare(write, &[("id", ColumnType::Text), ("seen", seen)], &[]);
    let store = AnyStore::Memory(store);
    for some in [
        "size(event.all) > 0 ? event.all : null",
        "event.all.filter(t, t > 0)",
        "event.all.map(t, t)",
        "event.all.map(t, t > 0, t).filter(t, t > 1)",
        "[event.all.map(t, t)[0]]",
    ] {
        let bound = format!(
            "[[pipelines.p.steps]]\nname = \"w\"\nwrite = \"{write}\"\nbind = {{ id = \"record.topic\", seen = \"{some}\" }}\n\
             [scylla]\nnodes = [\"s:9042\"]\nkeyspace = \"k\""
        );
        for (unit, fits) in [("millis", true), ("micros", false)] {
            let output = OutputSchema::Fixed(Arc::new(Schema::parse(&schema("millis")).unwrap()));
            let set = found(&schema(unit), &format!("set = {{ all = \"{some}\" }}"), output).await;
            let written = found_with(Some(&store), &schema(unit), &bound, OutputSchema::Appended).await;
            for told in [set, written] {
                match told {
                    Ok(()) => assert!(fits, "{some} in {unit}"),
                    Err(error) => assert!(
                        !fits && error.contains("would be taken for timestamp-millis"),
                        "{some} in {unit}: {error}"
                    ),
                }
            }
        }
    }
}

#[tokio::test]
async fn remedies_are_such_as_the_pipeline_does_not_have_yet() {
    let input = r#"{"type": "record", "name": "E", "fields": [{"name": "id", "type": "long"},
        {"name": "tags", "type": {"type": "array", "items": "string"}}]}"#;
    let helps = |found: Result<Compiled, Vec<Finding>>| -> String {
        let found = found.unwrap_err().into_iter();
        found.filter_map(|finding| finding.help).collect()
    };
    let given = r#"{"type": "record", "name": "O", "fields": [{"name": "id", "type": "long"}, {"name": "more", "type": "long"}]}"#;
    let given = OutputSchema::Fixed(Arc::new(Schema::parse(given).unwrap()));
    let told = helps(compiled(None, input, "", given).await);
    assert!(
        told.contains("or it needs a default") && !told.contains("give the sink"),
        "{told}"
    );
    let list = "set = { x = \"event.tags.map(t, t)\" }";
    let told = helps(compiled(None, input, list, OutputSchema::Appended).await);
    assert!(told.contains("for a list, give the sink a `schema`"), "{told}");

    let write = "INSERT INTO t (id, v) VALUES (:id, :v)";
    let store = MemoryStore::new();
    store.declare(write, &[("id", ColumnType::BigInt), ("v", ColumnType::BigInt)], &[]);
    let store = AnyStore::Memory(store);
    let told = async |bind: &str| {
        let rest = format!(
            "[[pipelines.p.steps]]\nname = \"w\"\nwrite = \"{write}\"\n{bind}\n\
             [scylla]\nnodes = [\"s:9042\"]\nkeyspace = \"k\""
        );
        helps(compiled(Some(&store), input, &rest, OutputSchema::Appended).await)
    };
    let unbound = told("").await;
    assert!(unbound.contains("add bind = { v = \"event.FIELD\" }"), "{unbound}");
    let bound = told("bind = { v = \"event.v\" }").await;
    assert!(bound.starts_with("see the fields"), "{bound}");
}

#[tokio::test]
async fn a_literal_that_its_column_does_not_take_is_found() {
    let input = r#"{"type": "record", "name": "E", "fields": [{"name": "id", "type": "long"}]}"#;
    let write = "INSERT INTO t (id, v) VALUES (:id, :v)";
    for (ty, good, bad) in [
        (ColumnType::TinyInt, "100", "300"),
        (ColumnType::Uuid, "'7d444840-9dc0-41d1-b245-5ffdce74fad2'", "'7d44'"),
        (ColumnType::Ascii, "'Rome'", "'é'"),
        (ColumnType::Inet, "'::1'", "'localhost'"),
    ] {
        let store = MemoryStore::new();
        store.declare(write, &[("id", ColumnType::BigInt), ("v", ty.clone())], &[]);
        let store = AnyStore::Memory(store);
        for (literal, fits) in [(good, true), ("null", true), (bad, false)] {
            for (bound, what) in [(literal, "this literal"), ("x.v", "x.v")] {
                let rest = format!(
                    "[[pipelines.p.steps]]\nname = \"x\"\nset = {{ v = \"{literal}\" }}\n\
                     [[pipelines.p.steps]]\nname = \"w\"\nwrite = \"{write}\"\nbind = {{ v = \"{bound}\" }}\n\
                     [scylla]\nnodes = [\"s:9042\"]\nkeyspace = \"k\""
                );
                let told = found_with(Some(&store), input, &rest, OutputSchema::Appended).await;
                let cannot = format!("marker :v cannot take {what}: ");
                assert_eq!(told.is_ok(), fits, "{literal} in {ty}: {told:?}");
                assert!(
                    told.is_ok() || told.is_err_and(|error| error.starts_with(&cannot)),
                    "{literal}"
                );
                // Only some records get there, or have the value, and the others could always be written.
                for step in ["x", "w"] {
                    let name = format!("name = \"{step}\"\n");
                    let rest = rest.replace(&name, &format!("{name}when = \"event.id == 7\"\n"));
                    let told = found_with(Some(&store), input, &rest, OutputSchema::Appended).await;
                    let refused = !fits && step == "x" && bound == literal;
                    assert_eq!(told.is_err(), refused, "{literal} in {ty}, {step}: {told:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_life_that_no_row_has_is_found_under_the_name_of_its_key() {
    let input = r#"{"type": "record", "name": "E", "fields": [{"name": "id", "type": "long"}, {"name": "name", "type": "string"}]}"#;
    let store = AnyStore::Memory(MemoryStore::new());
    let told = async |life: &str| {
        let rest = format!(
            "[[pipelines.p.steps]]\nname = \"x\"\nset = {{ life = \"-5\" }}\n\
             [[pipelines.p.steps]]\nname = \"w\"\nwrite = \"INSERT INTO t (id) VALUES (:id)\"\nttl_seconds = \"{life}\"\n\
             [scylla]\nnodes = [\"s:9042\"]\nkeyspace = \"k\""
        );
        let compiled = compiled(Some(&store), input, &rest, OutputSchema::Appended).await;
        let finding = |found: Finding| (found.message, found.help.unwrap_or_default());
        compiled.map_or_else(
            |found| found.into_iter().map(finding).collect::<Vec<_>>(),
            |_| Vec::new(),
        )
    };
    for good in ["0", "null", "1", "630720000", "event.id"] {
        let told = told(good).await;
        assert!(told.is_empty(), "{good}: {told:?}");
    }
    for (bad, what) in [
        ("-5", "this literal: a time to live of -5 s"),
        ("630720001", "this literal: a time to live of 630720001 s"),
        ("1728000000", "this literal: a time to live of 1728000000 s"),
        ("5000000000", "this literal: "),
        ("x.life", "x.life: a time to live of -5 s"),
        ("event.name", "event.name: "),
    ] {
        let told = told(bad).await;
        assert_eq!(told.len(), 1, "{bad}: {told:?}");
        let (message, help) = &told[0];
        assert!(
            message.starts_with(&format!("`ttl_seconds` cannot take {what}")),
            "{message}"
        );
        assert!(!help.contains("column"), "{help}");
    }
}

#[tokio::test]
async fn a_time_that_is_finer_than_its_field_is_told_and_the_clock_never_is() {
    let input = r#"{"type": "record", "name": "E", "fields": [{"name": "id", "type": "long"},
        {"name": "created", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
        {"name": "seen", "type": {"type": "long", "logicalType": "timestamp-millis"}}]}"#;
    let output = |field: &str, unit: &str| {
        let json = format!(
            r#"{{"type": "record", "name": "O", "fields": [{{"name": "{field}", "type":
            ["null", {{"type": "long", "logicalType": "timestamp-{unit}"}}], "default": null}}]}}"#
        );
        OutputSchema::Fixed(Arc::new(Schema::parse(&json).unwrap()))
    };
    let told = async |value: &str, unit: &str| {
        let rest =
            format!("set = {{ at = \"{value}\" }}\n[[pipelines.p.steps]]\nname = \"x\"\nset = {{ clock = \"now()\" }}");
        let compiled = compiled(None, input, &rest, output("at", unit)).await.unwrap();
        compiled.warnings.into_iter().map(|f| f.message).collect::<Vec<_>>()
    };
    for unit in ["millis", "micros", "nanos"] {
        for good in ["now()", "event.seen", "null"] {
            assert_eq!(told(good, unit).await, Vec::<String>::new(), "{good} in {unit}");
        }
    }
    assert_eq!(told("event.created / 1000", "millis").await, Vec::<String>::new());
    for fine in ["event.created", "x.clock"] {
        assert_eq!(
            told(fine, "millis").await,
            [format!(
                "field 'at' of the output schema is timestamp-millis and {fine} is timestamp-micros: \
                 a record whose time is finer than the field becomes a dead letter"
            )]
        );
        assert_eq!(told(fine, "micros").await, Vec::<String>::new());
    }
    // The same holds for a field that passes through without being set.
    let passing = compiled(None, input, "", output("created", "millis")).await.unwrap();
    let help = passing.warnings[0].help.as_deref().unwrap();
    assert!(help.contains("{ created = \"event.created / 1000\" }"), "{help}");
}

#[tokio::test]
async fn a_literal_that_its_field_does_not_hold_is_found_and_a_double_in_a_float_is_told() {
    let input = r#"{"type": "record", "name": "E", "fields": [{"name": "price", "type": ["null", "double"]},
        {"name": "share", "type": "float"}]}"#;
    let output = r#"{"type": "record", "name": "O", "fields": [
        {"name": "rate", "type": ["null", "float"], "default": null}, {"name": "n", "type": "int", "default": 0},
        {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["ACTIVE", "GONE"]}, "default": "GONE"}]}"#;
    let output = OutputSchema::Fixed(Arc::new(Schema::parse(output).unwrap()));
    let told = async |set: &str| {
        let rest = format!("set = {{ {set} }}\n[[pipelines.p.steps]]\nname = \"x\"\nset = {{ kind = \"'ACTVE'\" }}");
        let compiled = compiled(None, input, &rest, output.clone()).await;
        compiled
            .map(|compiled| compiled.warnings.len())
            .map_err(|found| found[0].message.clone())
    };
    for good in [
        "kind = \"'ACTIVE'\", rate = \"0.5\", n = \"7\"",
        "rate = \"event.share\"",
        "rate = \"null\"",
        "rate = \"3\"",
    ] {
        assert_eq!(told(good).await, Ok(0), "{good}");
    }
    for (bad, what) in [
        (
            "kind = \"'ACTVE'\"",
            "'kind' of the output schema cannot take this literal: ",
        ),
        ("kind = \"x.kind\"", "'kind' of the output schema cannot take x.kind: "),
        (
            "rate = \"0.1\"",
            "'rate' of the output schema cannot take this literal: ",
        ),
        (
            "n = \"3000000000\"",
            "'n' of the output schema cannot take this literal: ",
        ),
    ] {
        let error = told(bad).await.unwrap_err();
        assert!(error.contains(what), "{bad}: {error}");
    }
    for rounded in ["rate = \"event.price\"", "rate = \"event.price * 2.0\""] {
        assert_eq!(told(rounded).await, Ok(1), "{rounded}");
    }
}

#[tokio::test]
async fn a_branch_of_the_input_that_the_output_has_no_place_for_is_told() {
    let record =
        |name: &str| format!(r#"{{"type": "record", "name": "{name}", "fields": [{{"name": "id", "type": "long"}}]}}"#);
    let schema = |branches: &str| {
        format!(
            r#"{{"type": "record", "name": "E", "fields": [{{"name": "paid", "type": {{"type": "array", "items": [{branches}]}}}}]}}"#
        )
    };
    let (payment, refund) = (record("Payment"), record("x.Refund"));
    let told = async |input: String, output: String| {
        let output = OutputSchema::Fixed(Arc::new(Schema::parse(&schema(&output)).unwrap()));
        let compiled = compiled(None, &schema(&input), "", output).await.unwrap();
        compiled.warnings.into_iter().map(|f| f.message).collect::<Vec<_>>()
    };
    let both = format!("\"null\", {payment}, {refund}");
    assert_eq!(told(both.clone(), both.clone()).await, Vec::<String>::new());
    assert_eq!(
        told(both.clone(), format!("\"null\", {refund}, {payment}")).await,
        Vec::<String>::new()
    );
    assert_eq!(
        told(both, payment).await,
        [
            "event.paid[] may be x.Refund, which has no place in field 'paid[]' of the output schema: \
          a record that has it becomes a dead letter"
        ]
    );
}

#[tokio::test]
async fn a_number_or_symbol_of_the_input_that_the_output_does_not_hold_is_told() {
    let schema =
        |ty: &str| format!(r#"{{"type": "record", "name": "E", "fields": [{{"name": "v", "type": ["null", {ty}]}}]}}"#);
    let told = async |from: &str, to: &str, set: &str| {
        let output = OutputSchema::Fixed(Arc::new(Schema::parse(&schema(to)).unwrap()));
        let compiled = compiled(None, &schema(from), set, output).await.unwrap();
        compiled.warnings.into_iter().map(|f| f.message).collect::<Vec<_>>()
    };
    let decimal = |precision: u32, scale: u32| {
        format!(r#"{{"type": "bytes", "logicalType": "decimal", "precision": {precision}, "scale": {scale}}}"#)
    };
    let plain = |ty: &str| format!("\"{ty}\"");
    let passes_or_is_set = ["", "set = { v = \"event.v\" }"];
    for (from, to) in [
        (plain("long"), plain("double")),
        (plain("long"), plain("float")),
        (plain("int"), plain("float")),
        (decimal(12, 4), decimal(12, 2)),
        (decimal(12, 2), decimal(9, 2)),
    ] {
        for set in passes_or_is_set {
            let messages = told(&from, &to, set).await;
            assert_eq!(messages.len(), 1, "{from} to {to}: {messages:?}");
            let what = "a record whose number the field does not hold exactly becomes a dead letter";
            assert!(messages[0].ends_with(what), "{messages:?}");
        }
    }
    for (from, to) in [
        (plain("int"), plain("long")),
        (plain("int"), plain("double")),
        (plain("float"), plain("double")),
        (decimal(9, 2), decimal(12, 4)),
    ] {
        for set in passes_or_is_set {
            assert_eq!(told(&from, &to, set).await, Vec::<String>::new(), "{from} to {to}");
        }
    }
    let kinds =
        |symbols: &str, more: &str| format!(r#"{{"type": "enum", "name": "Kind", "symbols": [{symbols}]{more}}}"#);
    let both = kinds(r#""PAID", "REFUNDED""#, "");
    let many = kinds(r#""A", "B", "PAID", "C", "D", "E", "F", "G""#, "");
    let list = |ty: &str| format!(r#"{{"type": "array", "items": {ty}}}"#);
    for set in passes_or_is_set {
        for (from, symbols) in [(&both, "REFUNDED"), (&many, "A, B, C, D, E and 2 more")] {
            let message = format!(
                "event.v may be symbol {symbols}, which has no place in field 'v' of the output schema: \
                 a record that has it becomes a dead letter"
            );
            assert_eq!(told(from, &kinds(r#""PAID""#, ""), set).await, [message]);
        }
        let wider = kinds(r#""REFUNDED", "PAID", "LOST""#, "");
        assert_eq!(told(&both, &wider, set).await, Vec::<String>::new());
        let messages = told(&list(&decimal(12, 4)), &list(&decimal(12, 2)), set).await;
        assert_eq!(messages.len(), 1, "{messages:?}");
    }
    let messages = told(&list(&both), &list(&kinds(r#""PAID""#, "")), passes_or_is_set[1]).await;
    assert!(
        messages[0].starts_with("event.v may have symbol REFUNDED, "),
        "{messages:?}"
    );
    // An enum's default applies only to values that pass through: a symbol that `set` gives exists or not.
    let other = kinds(r#""PAID""#, r#", "default": "PAID""#);
    for (set, count) in passes_or_is_set.into_iter().zip([0, 1]) {
        assert_eq!(told(&both, &other, set).await.len(), count, "{set}");
    }
    let output = OutputSchema::Fixed(Arc::new(Schema::parse(&schema(&plain("double"))).unwrap()));
    let rounded = compiled(None, &schema(&plain("long")), passes_or_is_set[1], output)
        .await
        .unwrap();
    let help = rounded.warnings[0].help.as_deref().unwrap();
    assert!(
        help.ends_with(", or give it by `set` as double(...), which rounds"),
        "{help}"
    );
}

#[tokio::test]
async fn a_union_of_several_records_that_is_set_is_told() {
    let record =
        |name: &str| format!(r#"{{"type": "record", "name": "{name}", "fields": [{{"name": "id", "type": "long"}}]}}"#);
    let schema = |branches: &str| {
        format!(
            r#"{{"type": "record", "name": "E", "fields": [{{"name": "paid", "type": {{"type": "array", "items": [{branches}]}}}}]}}"#
        )
    };
    let told = async |branches: String, set: &str| {
        let schema = schema(&branches);
        let output = OutputSchema::Fixed(Arc::new(Schema::parse(&schema).unwrap()));
        let compiled = compiled(None, &schema, set, output).await.unwrap();
        compiled.warnings.into_iter().map(|f| f.message).collect::<Vec<_>>()
    };
    let both = format!("\"null\", {}, {}", record("Payment"), record("Refund"));
    let set = "set = { paid = \"event.paid\" }";
    assert_eq!(
        told(both.clone(), set).await,
        [
            "event.paid may be one of several records, enums or fixed types, and a value that `set` gives goes by what is in it, not by its name"
        ]
    );
    let again = "set = { again = \"event.paid\" }";
    let appended = compiled(None, &schema(&both), again, OutputSchema::Appended)
        .await
        .unwrap();
    assert_eq!(appended.warnings.len(), 1, "{:?}", appended.warnings);
    let none = Vec::<String>::new();
    assert_eq!(told(both, "").await, none);
    assert_eq!(told(format!("\"null\", {}", record("Payment")), set).await, none);
}

#[tokio::test]
async fn a_finer_time_is_told_wherever_it_passes() {
    let time = |unit: &str| format!(r#"{{"type": "long", "logicalType": "timestamp-{unit}"}}"#);
    let schema = |unit: &str, at: &str| {
        let time = time(unit);
        format!(
            r#"{{"type": "record", "name": "E", "fields": [
            {at}
            {{"name": "user", "type": {{"type": "record", "name": "U", "fields": [
                {{"name": "n", "type": "long"}}, {{"name": "since", "type": ["null", {time}]}}, {{"name": "next", "type": ["null", "U"]}}]}}}},
            {{"name": "items", "type": {{"type": "array", "items": {{"type": "record", "name": "I", "fields": [
                {{"name": "at", "type": {time}}}]}}}}}},
            {{"name": "times", "type": {{"type": "map", "values": {time}}}}}]}}"#
        )
    };
    let own = |unit: &str| format!(r#"{{"name": "at", "type": {}}},"#, time(unit));
    let alias = |unit: &str| format!(r#"{{"name": "seen", "aliases": ["at"], "type": {}}},"#, time(unit));
    let input = schema("micros", &own("micros"));
    let told = async |rest: &str, output: String| {
        let output = OutputSchema::Fixed(Arc::new(Schema::parse(&output).unwrap()));
        compiled(None, &input, rest, output).await.unwrap().warnings
    };
    for unit in ["micros", "nanos"] {
        assert_eq!(told("", schema(unit, &alias(unit))).await, Vec::new(), "{unit}");
    }
    let warnings = told("", schema("millis", &alias("millis"))).await;
    let messages: Vec<&str> = warnings.iter().map(|f| f.message.as_str()).collect();
    let wanted = [
        ("seen", "at"),
        ("user.since", "user.since"),
        ("user.next.since", "user.next.since"),
        ("items[].at", "items[].at"),
        ("times[]", "times[]"),
    ];
    let wanted = wanted.map(|(field, source)| {
        format!(
            "field '{field}' of the output schema is timestamp-millis and event.{source} is timestamp-micros: \
             a record whose time is finer than the field becomes a dead letter"
        )
    });
    assert_eq!(messages, wanted);
    let help = |at: usize| warnings[at].help.as_deref().unwrap();
    assert!(help(0).contains("{ seen = \"event.at / 1000\" }"), "{}", help(0));
    assert_eq!(help(1), "make the field timestamp-micros in the sink's `schema`");
    // And a list that is set as a whole, about which the other fields of the input say nothing.
    let list = r#"{"type": "record", "name": "E", "fields": [{"name": "all", "type": {"type": "array", "items":
        {"type": "record", "name": "I", "fields": [{"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}]}}}]}"#;
    let warnings = told("set = { all = \"event.items\" }", list.to_owned()).await;
    assert_eq!(warnings.len(), 1);
    let message = &warnings[0].message;
    assert!(
        message
            .starts_with("field 'all' of the output schema has timestamp-millis and event.items has timestamp-micros"),
        "{message}"
    );
}

#[tokio::test]
async fn a_field_that_the_input_renamed_is_told_where_the_output_has_its_default_instead() {
    let schema = |total: &str, rest: &str| {
        format!(
            r#"{{"type": "record", "name": "E", "fields": [{{"name": "id", "type": "long"}}, {{{total}, "type": "long"{rest}}},
            {{"name": "items", "type": {{"type": "array", "items": {{"type": "record", "name": "I", "fields": [
                {{{total}, "type": "long"{rest}}}]}}}}}}]}}"#
        )
    };
    let input = schema(r#""name": "total", "aliases": ["amount"]"#, "");
    let told = async |set: &str, name: &str| {
        let output = OutputSchema::Fixed(Arc::new(Schema::parse(&schema(name, ", \"default\": 0")).unwrap()));
        compiled(None, &input, set, output).await.unwrap().warnings
    };
    let of = |field: &str, source: &str| {
        format!(
            "field '{field}' of the output schema has its default in every record, although event.{source} has that name as an alias"
        )
    };
    let warnings = told("", r#""name": "amount""#).await;
    let messages: Vec<&str> = warnings.iter().map(|f| f.message.as_str()).collect();
    assert_eq!(messages, [of("amount", "total"), of("items[].amount", "items[].total")]);
    let help = |at: usize| warnings[at].help.as_deref().unwrap();
    assert_eq!(
        help(0),
        "add the alias 'total' to the field in the sink's `schema`, or give it by `set`"
    );
    assert_eq!(help(1), "add the alias 'total' to the field in the sink's `schema`");
    assert_eq!(
        told("set = { amount = \"event.total\" }", r#""name": "amount""#)
            .await
            .len(),
        1,
        "in the list alone"
    );
    assert_eq!(told("", r#""name": "amount", "aliases": ["total"]"#).await, Vec::new());
    assert_eq!(
        told("", r#""name": "total", "type": "long"}, {"name": "amount""#).await,
        Vec::new(),
        "another field of the output has it"
    );
    assert_eq!(
        told("", r#""name": "other""#).await,
        Vec::new(),
        "the input says nothing of it"
    );
    // Without a default the field cannot be made at all, and the error explains why, too.
    let output = Schema::parse(&schema(r#""name": "amount""#, "")).unwrap();
    let error = found(&input, "", OutputSchema::Fixed(Arc::new(output)))
        .await
        .unwrap_err();
    assert!(
        error.contains("\"amount\" of the output schema has no source") && error.contains("the alias \"total\""),
        "{error}"
    );
}

#[tokio::test]
async fn a_field_that_the_records_of_a_list_do_not_have_is_found() {
    let input = r#"{"type": "record", "name": "E", "fields": [{"name": "items", "type": {"type": "array", "items":
        {"type": "record", "name": "I", "fields": [{"name": "discount", "type": ["null", "double"]}]}}}]}"#;
    let set = async |text: &str| found(input, &format!("set = {{ x = \"{text}\" }}"), OutputSchema::Appended).await;
    assert_eq!(set("event.items.exists(i, i.discount > 0.5)").await, Ok(()));
    assert_eq!(
        set("event.items.exists(i, i.discont > 0.5)").await,
        Err("there is no field 'discont' where this expression asks for it".to_owned())
    );
}

#[tokio::test]
async fn a_key_of_a_type_that_has_no_bytes_is_found() {
    let schema = r#"{"type": "record", "name": "E", "fields": [{"name": "id", "type": "long"}, {"name": "price", "type": ["null", "double"]},
        {"name": "tags", "type": {"type": "array", "items": "string"}}, {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["a"]}}]}"#;
    let findings = async |key: &str| found(schema, &format!("key = \"{key}\""), OutputSchema::Appended).await;
    for good in ["event.id", "event.kind", "string(event.price)", "event.id + 1"] {
        assert_eq!(findings(good).await, Ok(()), "{good}");
    }
    for (bad, ty) in [
        ("event.price", "double"),
        ("event.tags", "array"),
        ("event.price * 2.0", "double"),
    ] {
        let error = findings(bad).await.unwrap_err();
        assert!(
            error.starts_with("a key is text, bytes, a UUID or a whole number, and"),
            "{error}"
        );
        assert!(error.contains(ty), "{error}");
    }
}

#[tokio::test]
async fn a_field_that_may_be_null_in_the_key_of_a_write_is_told() {
    let input = r#"{"type": "record", "name": "E", "fields": [{"name": "id", "type": "long"}, {"name": "kind", "type": ["null", "string"]},
        {"name": "user", "type": ["null", {"type": "record", "name": "U", "fields": [{"name": "id", "type": "string"}]}]}]}"#;
    let scratch = Scratch::new().unwrap();
    let store = SqliteStore::open(&SqliteOptions::new(scratch.database())).unwrap();
    let table = "CREATE TABLE t (id bigint, owner text, kind text, PRIMARY KEY (id, owner)) WITHOUT ROWID";
    store.execute_script(table).await.unwrap();
    let store = AnyStore::Sqlite(store);
    let told = async |steps: &str| {
        let compiled = compiled(Some(&store), input, steps, OutputSchema::Appended)
            .await
            .unwrap();
        compiled.warnings.into_iter().map(|f| f.message).collect::<Vec<_>>()
    };
    let write = |owner: &str| {
        format!(
            "[[pipelines.p.steps]]\nname = \"w\"\nwrite = \"INSERT INTO t (id, owner, kind) VALUES (:id, :owner, :kind)\"\n\
             bind = {{ owner = \"{owner}\" }}\n"
        )
    };
    assert_eq!(
        told(&write("event.user.id")).await,
        [
            "marker :owner is in the primary key and event.user.id may be null: a record without it becomes a dead letter, or halts \
          a pipeline without a topic for these"
        ]
    );
    let none = Vec::<String>::new();
    assert_eq!(told(&write("string(event.id)")).await, none);
    let guarded = write("event.user.id") + "when = \"event.user.id != null\"\n";
    assert_eq!(told(&guarded).await, none);
    let filtered = filter_step("event.user.id != null") + "\n" + &write("event.user.id");
    assert_eq!(told(&filtered).await, none);
    let looked_up_by = |field: &str, on_missing: &str| {
        let bind = format!("bind = {{ owner = \"{field}\" }}");
        let step =
            "[[pipelines.p.steps]]\nname = \"l\"\nlookup = \"SELECT kind FROM t WHERE id = :id AND owner = :owner\"";
        format!(
            "{step}\n{bind}\non_missing = \"{on_missing}\"\n{}",
            write("event.user.id")
        )
    };
    for ends in ["skip", "dead_letter"] {
        assert_eq!(told(&looked_up_by("event.user.id", ends)).await, none, "{ends}");
        assert_eq!(told(&looked_up_by("event.kind", ends)).await.len(), 1, "{ends}");
    }
    assert_eq!(told(&looked_up_by("event.user.id", "null")).await.len(), 1);
}

fn filter_step(text: &str) -> String {
    format!("[[pipelines.p.steps]]\nname = \"f\"\nfilter = \"{text}\"")
}

#[tokio::test]
async fn operands_that_have_no_such_operator_are_found_in_their_place() {
    let input = r#"{"type": "record", "name": "E", "fields": [{"name": "id", "type": "long"}, {"name": "total", "type": "double"},
        {"name": "name", "type": ["null", "string"]}]}"#;
    let filter = async |text: &str| {
        let step = filter_step(text);
        compiled(None, input, &step, OutputSchema::Appended).await
    };
    for good in [
        "string(record.key) == 'u1'",
        "event.id == 42",
        "event.total * 100.0 > 5000",
        "event.name != null && event.name != 'x'",
    ] {
        assert!(filter(good).await.is_ok(), "{good}");
    }
    let never = " for every record";
    let fails = " is not defined: every record that comes here fails";
    for (text, what, rest, help, runs) in [
        (
            "record.key == 'u1'",
            "bytes == string is false",
            never,
            "string(...)",
            true,
        ),
        ("event.id == '42'", "int == string is false", never, "int(...)", true),
        (
            "event.id in ['42']",
            "int in a list of string is false",
            never,
            "int(...)",
            true,
        ),
        (
            "event.id > 1 && event.total * 100 > 5000",
            "double * int",
            fails,
            "100.0",
            true,
        ),
        (
            "record.topic == 'b' ? event.total * 100 > 5000 : false",
            "double * int",
            fails,
            "100.0",
            true,
        ),
        ("[].all(i, event.total * 100 > i)", "double * int", fails, "100.0", true),
        ("event.total * 100 > 5000", "double * int", fails, "100.0", false),
        (
            "(event.id == '42') == (event.total * 100 > 5000)",
            "double * int",
            fails,
            "100.0",
            false,
        ),
        ("event.total % 2.0 > 1.0", "double % double", fails, "int(...)", false),
        ("event.name - 'x' == ''", "string - string", fails, "string(...)", false),
    ] {
        let found = match filter(text).await {
            Ok(compiled) if runs => compiled.warnings,
            Err(found) if !runs => found,
            other => panic!("{text}: {:?}", other.map(|compiled| compiled.warnings)),
        };
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert_eq!(found[0].message, format!("{what}{rest}"), "{text}");
        assert!(
            found[0].help.as_deref().is_some_and(|told| told.contains(help)),
            "{text}: {found:?}"
        );
    }
}

#[tokio::test]
async fn what_a_when_or_an_earlier_filter_leads_around_may_run() {
    let input = r#"{"type": "record", "name": "E", "fields": [{"name": "id", "type": "long"}, {"name": "total", "type": "double"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "made", "type": {"type": "long", "logicalType": "timestamp-micros"}}]}"#;
    let told = async |rest: &str| {
        let compiled = compiled(None, input, rest, OutputSchema::Appended).await;
        compiled.map(|c| c.warnings.len()).map_err(|found| found.len())
    };
    let step = |what: &str| format!("[[pipelines.p.steps]]\nname = \"s\"\n{what}\n");
    let when = |condition: &str| format!("when = \"{condition}\"\n");
    let by_topic = "record.topic == 'b'";
    let filter = filter_step(by_topic) + "\n";
    for wrong in ["event.total * 100 > 5000", "event.made == event.at"] {
        let set = format!("set = {{ x = \"{wrong}\" }}\n");
        for guarded in [
            step(&(when(by_topic) + &set)),
            format!("{filter}{}", step(&set)),
            format!("{filter}{}", step(&(when(wrong) + "set = { x = \"event.id\" }"))),
            format!("{set}{filter}"),
        ] {
            assert_eq!(told(&guarded).await, Ok(1), "{guarded}");
        }
        for bare in [
            step(&set),
            set.clone(),
            format!("{}{filter}", step(&set)),
            step(&(when(wrong) + "set = { x = \"event.id\" }")),
            filter_step(wrong),
        ] {
            assert_eq!(told(&bare).await, Err(1), "{bare}");
        }
    }
}

#[tokio::test]
async fn an_expression_for_several_versions_runs_with_each() {
    let version = |ty: &str| format!(r#"{{"type": "record", "name": "E", "fields": [{{"name": "v", "type": {ty}}}]}}"#);
    let told = async |ty: &str, text: &str| {
        let step = filter_step(text);
        let compiled = compiled(None, &version(ty), &step, OutputSchema::Appended)
            .await
            .unwrap();
        compiled.warnings.into_iter().map(|f| f.message).collect::<Vec<_>>()
    };
    let either = "event.v == 42 || event.v == '42'";
    assert_eq!(
        told("\"long\"", either).await,
        ["int == string is false for every record"]
    );
    assert_eq!(
        told("\"string\"", either).await,
        ["string == int is false for every record"]
    );
    assert_eq!(
        told("\"int\"", "event.v != 'X'").await,
        ["int != string is true for every record"]
    );
    let by_topic = "record.topic == 'B' ? event.v / 1000 > record.timestamp : event.v > record.timestamp";
    for (unit, warnings) in [("millis", 0), ("micros", 1)] {
        let time = format!(r#"{{"type": "long", "logicalType": "timestamp-{unit}"}}"#);
        assert_eq!(told(&time, by_topic).await.len(), warnings, "{unit}");
    }
}

#[tokio::test]
async fn a_version_may_lack_a_field_that_has_asks_for() {
    let version = |more: &str| {
        format!(r#"{{"type": "record", "name": "E", "fields": [{{"name": "id", "type": "long"}}{more}]}}"#)
    };
    let coupon = r#", {"name": "coupon", "type": ["null", "string"], "default": null}"#;
    let (old, new) = (version(""), version(coupon));
    let set = |text: &str| format!("set = {{ c = \"{text}\" }}");
    let text = "has(event.coupon) ? event.coupon : ''";
    let Ok(Expression::Computed(computed)) = parse(text, &[]) else {
        panic!("{text}")
    };
    let coupon_of = Value::Record(vec![
        ("id".into(), Value::Long(7)),
        ("coupon".into(), Value::String("x".into())),
    ]);
    let none = Value::Record(vec![("id".into(), Value::Long(7))]);
    for (schema, record, ty, given) in [
        (&old, none, Type::String, ""),
        (&new, coupon_of, Type::String.nullable(), "x"),
    ] {
        let compiled = compiled(None, schema, &set(text), OutputSchema::Appended)
            .await
            .unwrap();
        assert_eq!(compiled.warnings, Vec::new());
        let (_, output) = compiled.output.unwrap();
        assert_eq!(output.field_type("c"), Some(ty), "{schema}");
        let (plan, mut datum) = (compiled.plan, Vec::new());
        plan.writer().encode(&record, &mut datum).unwrap();
        let mut marks = vec![0; plan.marks()];
        plan.run(&datum, 0, datum.len(), &mut marks).unwrap();
        let coupon = plan.value(0, &datum, &marks).unwrap();
        let c = computed.evaluate(&Interpreter::default(), &[coupon]);
        assert_eq!(c, Ok(Value::String(given.into())), "{schema}");
    }
    let fits = async |schema: &str, rest: &str| found(schema, rest, OutputSchema::Appended).await.is_ok();
    let filter = filter_step("has(event.coupon) && event.coupon.startsWith('a')");
    let elsewhere = format!("{filter}\n[[pipelines.p.steps]]\nname = \"s\"\nset = {{ c = \"event.coupon\" }}\n");
    for (rest, fits_old) in [
        (filter, true),
        (set("has(event.coupon)"), true),
        (set("has(event.coupon) ? string(event.coupon) : null"), true),
        (set("event.coupon"), false),
        (set("event.coupon != null ? event.coupon : ''"), false),
        (set("has(event.coupon) || event.coupon == 'a'"), false),
        (elsewhere, false),
    ] {
        assert_eq!(fits(&old, &rest).await, fits_old, "{rest}");
        assert!(fits(&new, &rest).await, "{rest}");
    }
    let ready = version(r#", {"name": "ready", "type": "boolean"}"#);
    for condition in [
        "has(event.ready) ? event.ready : null",
        "has(event.ready) && event.ready",
    ] {
        let step = filter_step(condition);
        assert!(fits(&old, &step).await && fits(&ready, &step).await, "{condition}");
    }
    assert!(!fits(&ready, &filter_step("null")).await, "it never holds");
}

#[tokio::test]
async fn a_uuid_that_was_a_string_is_told_where_its_text_shows() {
    let version = |logical: &str| {
        let input = format!(
            r#"{{"type": "record", "name": "E", "fields": [{{"name": "id", "type": {{"type": "string"{logical}}}}}]}}"#
        );
        Arc::new(Schema::parse(&input).unwrap())
    };
    let (old, new) = (version(""), version(r#", "logicalType": "uuid""#));
    let write = "INSERT INTO t (id) VALUES (:id)";
    for (ty, set, told) in [
        (ColumnType::Uuid, "", 0),
        (ColumnType::Text, "", 1),
        (ColumnType::Uuid, "set = { again = \"event.id\" }", 1),
        (ColumnType::Uuid, "set = { n = \"size(event.id)\" }", 1),
        (ColumnType::Uuid, "key = \"event.id\"", 1),
    ] {
        let store = MemoryStore::new();
        store.declare(write, &[("id", ty.clone())], &[]);
        let toml = format!(
            "[kafka]\nbrokers = \"k:9092\"\n[registry]\nurl = \"http://r:8081\"\n[scylla]\nnodes = [\"s:9042\"]\nkeyspace = \"k\"\n\
             [pipelines.p.source]\ntopics = [\"t\"]\ngroup = \"g\"\n[pipelines.p.sink]\ntopic = \"o\"\n{set}\n\
             [[pipelines.p.steps]]\nname = \"w\"\nwrite = \"{write}\"\nbind = {{ id = \"event.id\" }}\n"
        );
        let (config, _) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
        let parsed = program::parse(&config.pipelines["p"]).unwrap();
        let program = parsed
            .prepare(
                Some(&AnyStore::Memory(store)),
                &References::default(),
                &Default::default(),
            )
            .await
            .unwrap();
        let plan = |writer: &Arc<Schema>| compile(&program, writer.clone(), None).unwrap().plan;
        let found = shifted(&program, &[plan(&old).slot_type(0)], &plan(&new));
        assert_eq!(found.len(), told, "{ty} {set}: {found:?}");
    }
}

#[tokio::test]
async fn times_that_count_in_different_units_do_not_meet() {
    let input = r#"{"type": "record", "name": "E", "fields": [
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "made", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
        {"name": "all", "type": {"type": "array", "items": {"type": "long", "logicalType": "timestamp-micros"}}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}}]}"#;
    let filter = async |text: &str| {
        let steps = format!(
            "[[pipelines.p.steps]]\nname = \"s\"\nset = {{ clock = \"now()\" }}\n{}",
            filter_step(text)
        );
        found_with(None, input, &steps, OutputSchema::Appended).await
    };
    for good in [
        "s.clock / 1000 - event.at < 60000",
        "s.clock - event.made < 60000000",
        "record.timestamp - event.at > 5",
        "event.at > 1700000000000",
        "event.at + 5 > record.timestamp",
        "event.day == 19000",
        "event.made / 1000 == event.at",
        "event.all[size(event.all) - 1] > event.made",
    ] {
        assert_eq!(filter(good).await, Ok(()), "{good}");
    }
    for guarded in [
        "record.topic == 'B' ? event.made / 1000 > record.timestamp : event.made > record.timestamp",
        "event.day > 0 && event.made == event.at",
    ] {
        assert_eq!(filter(guarded).await, Ok(()), "{guarded}");
    }
    for bad in [
        "s.clock - event.at < 60000",
        "s.clock - event.at < 60000 && event.day > 0",
        "event.made == event.at",
        "event.at + 5 > s.clock - 5",
        "record.timestamp <= event.made",
        "event.at - event.day > 0",
        "event.all[size(event.all) - 1] > event.at",
    ] {
        let error = filter(bad).await.unwrap_err();
        assert!(error.contains("counts as timestamp-"), "{bad}: {error}");
    }
}
