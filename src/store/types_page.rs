//! `docs/types.md`, made from the table of [`super::types`] and from what its functions answer.
//!
//! A page written by hand would drift from the check that it describes. This one is what [`bindable`], [`result_type`] and the
//! codec of references say of each pair, beside the table in words; a test fails when the file differs, or when a row of the
//! table gives another type than the code (`UPDATE_DOCS=1 cargo test --lib types_page` writes it anew).

use std::fmt::Write;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{self, Bson, DateTime, RawDocumentBuf, doc};

use super::types::{ColumnType, bindable, result_type};
use crate::avro::Schema;
use crate::avro::value::Type;
use crate::reference::codec::{encode_document, type_name};

const HEAD: &str = "\
# Types
<!-- Generated from src/store/types.rs: UPDATE_DOCS=1 cargo test --lib types_page -->

How Avro types map to columns, and columns to Avro types. `check --online`, every start and the conversion of each value follow this one table. A union
of null and a type counts as the type, or null. Null is accepted by every column, as UNSET. In an [expression](configuration.md#expressions) a decimal or a
varint is a `double`; `string(PATH)` returns all of its digits, and `int(PATH)` all digits before the point.

## From Avro

For each schema type: its name in Messina's messages, the columns that accept it (a SQLite column without a declared type accepts anything), and the BSON
values that a [reference](configuration.md#mongo-referencesname) field of this type may hold. A whole `double` also counts as an int or a long.

| Avro | name | CQL columns | BSON |
| --- | --- | --- | --- |
";

const MIDDLE: &str = "
## Columns

For each column type: the Avro values that it accepts, with ranges and formats, the Avro type that it returns, and how SQLite stores it. As in CQL, an
empty collection that is not `frozen` becomes null, in SQLite too. A `set` holds each item once, in order; a `map` has its keys in order. SQLite orders
numbers by value, texts by their bytes, and all others by the text that is stored.

";

/// The Avro types, as a schema writes them.
const AVRO: [&str; 28] = [
    r#""boolean""#,
    r#""int""#,
    r#""long""#,
    r#""float""#,
    r#""double""#,
    r#""string""#,
    r#""bytes""#,
    r#"{"type":"enum","name":"E","symbols":["A"]}"#,
    r#"{"type":"fixed","name":"F","size":4}"#,
    r#"{"type":"fixed","name":"F","size":16}"#,
    r#"{"type":"int","logicalType":"date"}"#,
    r#"{"type":"int","logicalType":"time-millis"}"#,
    r#"{"type":"long","logicalType":"time-micros"}"#,
    r#"{"type":"long","logicalType":"timestamp-millis"}"#,
    r#"{"type":"long","logicalType":"timestamp-micros"}"#,
    r#"{"type":"long","logicalType":"timestamp-nanos"}"#,
    r#"{"type":"long","logicalType":"local-timestamp-millis"}"#,
    r#"{"type":"long","logicalType":"local-timestamp-micros"}"#,
    r#"{"type":"long","logicalType":"local-timestamp-nanos"}"#,
    r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":0}"#,
    r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#,
    r#"{"type":"fixed","name":"D","size":8,"logicalType":"decimal","precision":9,"scale":2}"#,
    r#"{"type":"string","logicalType":"uuid"}"#,
    r#"{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}"#,
    r#"{"type":"fixed","name":"D","size":12,"logicalType":"duration"}"#,
    r#"{"type":"array","items":"string"}"#,
    r#"{"type":"map","values":"long"}"#,
    r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#,
];

/// Every column type that has its own row in the table, by its name in CQL; one example of each collection.
const COLUMNS: [&str; 25] = [
    "text",
    "ascii",
    "tinyint",
    "smallint",
    "int",
    "bigint",
    "counter",
    "varint",
    "decimal",
    "float",
    "double",
    "boolean",
    "blob",
    "timestamp",
    "date",
    "time",
    "uuid",
    "timeuuid",
    "inet",
    "duration",
    "list<text>",
    "set<text>",
    "vector<text, 3>",
    "map<text, bigint>",
    "tuple<int>",
];

fn column(name: &str) -> ColumnType {
    ColumnType::parse(name).unwrap()
}

/// The BSON types whose values a reference accepts for a type.
fn bson(ty: &Type) -> String {
    let samples = [
        Bson::from(true),
        Bson::from(1i32),
        Bson::from(1i64),
        Bson::from(0.5),
        Bson::from("text"),
        Bson::ObjectId(ObjectId::new()),
        Bson::DateTime(DateTime::now()),
        Bson::Decimal128("1.5".parse().unwrap()),
        Bson::from(bson::Uuid::new()),
        Bson::from(vec![Bson::from("text")]),
        Bson::from(doc! { "a": 1 }),
    ];
    let fields = [("field".to_owned(), ty.clone())];
    let taken = samples.into_iter().filter_map(|sample| {
        let document = RawDocumentBuf::try_from(&doc! { "field": sample }).unwrap();
        let taken = encode_document(&fields, &document, &mut Vec::new()).is_ok();
        taken.then(|| format!("`{}`", type_name(document.get("field").unwrap().unwrap())))
    });
    taken.collect::<Vec<_>>().join(" ")
}

/// The rows of the table at the top of `types.rs`.
fn table() -> impl Iterator<Item = &'static str> {
    include_str!("types.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .filter(|line| line.starts_with('|'))
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for json in AVRO {
        let ty = Schema::parse(json).unwrap().root_type();
        let mut columns: Vec<String> = COLUMNS
            .iter()
            .filter(|name| bindable(&ty, &column(name)).is_ok())
            .map(|name| format!("`{name}`"))
            .collect();
        let udt = ColumnType::Udt {
            name: "udt".to_owned(),
            fields: vec![("a".to_owned(), ColumnType::Int)],
        };
        if bindable(&ty, &udt).is_ok() {
            columns.push("a UDT with the fields' names".to_owned());
        }
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | `{ty}` | {} | {} |",
            json.trim_matches('"'),
            columns.join(" "),
            bson(&ty)
        );
    }
    page.push_str(MIDDLE);
    table().for_each(|row| page.extend([row, "\n"]));
    page
}

#[test]
fn the_page_in_docs_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/types.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let file = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        file == page(),
        "docs/types.md is stale: UPDATE_DOCS=1 cargo test --lib types_page writes it anew"
    );
}

/// Every column has one row, and the row gives the type that the code returns.
#[test]
fn the_table_says_what_the_code_says() {
    for name in COLUMNS {
        let bare = name.split('<').next().unwrap();
        let quoted = format!("`{bare}`");
        let rows: Vec<Vec<&str>> = table()
            .map(|row| row.split('|').map(str::trim).collect())
            .filter(|cells: &Vec<&str>| cells[1].contains(&quoted))
            .collect();
        assert_eq!(rows.len(), 1, "rows of {bare}");
        let gives = result_type(&column(name)).to_string();
        let gives = gives.split('<').next().unwrap();
        assert!(
            rows[0][3].contains(gives),
            "{bare} gives {gives}, and the table says {}",
            rows[0][3]
        );
        // The row names every type that the column accepts, as far as types and columns share words.
        let takes = rows[0][2];
        for json in AVRO {
            let ty = Schema::parse(json).unwrap().root_type();
            let word = ty.to_string();
            let word = word.split(['(', '<', '-']).next().unwrap();
            let named = takes.contains(word)
                || takes.contains("the same")
                || matches!(word, "local") && takes.contains("timestamp")
                || matches!(word, "fixed") && takes.contains("bytes")
                || matches!(word, "array") && bare != "map";
            assert!(
                named || bindable(&ty, &column(name)).is_err(),
                "{bare} takes {ty}, and the table does not say so: {takes}"
            );
        }
    }
}
