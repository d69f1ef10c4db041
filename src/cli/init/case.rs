//! The case file of `messina init`: one record whose row exists. Running it fills in the expected result.
//!
//! Every field gets a value of its type. The table's row gets the values of the fields that find it.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::draft::{Bound, Draft, Step};
use super::guess::Leaf;
use super::text::string;
use crate::avro::value::Type;
use crate::store::describe::Description;
use crate::store::{Column, ColumnType, result_type};

/// What `now()` returns in the case.
const NOW: &str = "2026-05-01T12:00:00Z";
/// A version 1 UUID, as `timeuuid` requires.
const UUID: &str = "50554d6e-29bb-11e5-b345-feff819cdc9f";
/// The same in Base64.
const UUID_BYTES: &str = "UFVNbim7EeWzRf7/gZzcnw==";
const ADDRESS: &str = "192.0.2.1";
const ADDRESS_BYTES: &str = "wAACAQ==";

/// The names that the file refers to.
pub struct Names<'a> {
    /// The input topic.
    pub topic: &'a str,
    /// The configuration files, the pipeline's own last.
    pub configs: &'a [String],
    /// This file.
    pub file: &'a str,
    /// The file of the schema.
    pub schema: &'a str,
}

/// The text of the file. The expectation is still empty.
///
/// # Errors
/// In words, if the embedded database of `messina test` cannot have such a table.
pub fn text(draft: &Draft, root: &Type, names: &Names<'_>) -> Result<String, String> {
    let configs: Vec<String> = names.configs.iter().map(|config| string(config)).collect();
    let mut out = format!(
        "# Cases, run without any service:   messina test {}\n# The record is made up: replace it with one that you know. The expectation was filled \
         in by running it, as `--update` does.\nconfig = [{}]\nschemas = {{ {} = {} }}\n\n[tables]\n",
        names.file,
        configs.join(", "),
        string(names.topic),
        string(names.schema)
    );
    let mut tables: BTreeMap<&str, &Description> = BTreeMap::new();
    for step in draft.lookup.iter().chain(&draft.write) {
        tables.insert(bare(&step.table.name), &step.table);
    }
    for (name, table) in &tables {
        out.push_str(&format!("{} = {}\n", key(name), string(&columns(table)?)));
    }
    let overrides = overrides(draft);
    let record = sample(root, &mut Vec::new(), &overrides);
    let named = draft.lookup.as_ref().map_or_else(
        || "a record is written and published".to_owned(),
        |_| "a record whose row is there is enriched".to_owned(),
    );
    out.push_str(&format!("\n[[cases]]\nname = {}\nnow = \"{NOW}\"\n", string(&named)));
    if let Some(step) = &draft.lookup {
        match row(step, draft, &record) {
            Some(row) => {
                let row = toml::Value::try_from(row).map_err(|e| e.to_string())?;
                out.push_str(&format!("rows.{} = [{row}]\n", key(bare(&step.table.name))));
            }
            None => out.push_str(&format!(
                "# rows.{} = [{{ … }}]   # the row that is to be found\n",
                key(bare(&step.table.name))
            )),
        }
    }
    let json = serde_json::to_string_pretty(&record).map_err(|e| e.to_string())?;
    out.push_str(&format!(
        "record.key = \"k1\"\nrecord.value = '''\n{json}\n'''\nexpect = '''{{}}'''\n"
    ));
    Ok(out)
}

/// A name as a TOML key.
fn key(name: &str) -> String {
    let plain = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if plain { name.to_owned() } else { string(name) }
}

fn bare(table: &str) -> &str {
    table.rsplit('.').next().unwrap_or(table)
}

/// The columns as between the parentheses of CREATE TABLE.
fn columns(table: &Description) -> Result<String, String> {
    let mut parts = Vec::new();
    for Column { name, ty } in &table.columns {
        if has_udt(ty) {
            return Err(format!(
                "--test: column {name} of table {} is of the user-defined type {ty}, and the embedded database of `messina test` has none: leave \
                 --test out",
                table.name
            ));
        }
        let ty = match ty {
            // In the embedded store, digits would become numbers.
            ColumnType::Ascii => "text".to_owned(),
            ColumnType::Any => {
                return Err(format!(
                    "--test: column {name} of table {} has no CQL type, and `messina test` declares tables in CQL: leave --test out",
                    table.name
                ));
            }
            ty => ty.to_string(),
        };
        parts.push(format!("{} {ty}", column_name(name)));
    }
    let names = |names: &[String]| names.iter().map(|n| column_name(n)).collect::<Vec<_>>().join(", ");
    let mut primary = format!("({})", names(&table.partition_key));
    if !table.clustering_key.is_empty() {
        primary.push_str(&format!(", {}", names(&table.clustering_key)));
    }
    parts.push(format!("PRIMARY KEY ({primary})"));
    Ok(parts.join(", "))
}

fn column_name(name: &str) -> String {
    crate::store::describe::quoted(name)
}

fn has_udt(ty: &ColumnType) -> bool {
    match ty {
        ColumnType::Udt { .. } => true,
        ColumnType::List(item) | ColumnType::Set(item) | ColumnType::Vector(item, _) => has_udt(item),
        ColumnType::Map(key, value) => has_udt(key) || has_udt(value),
        ColumnType::Tuple(items) => items.iter().any(has_udt),
        _ => false,
    }
}

/// Values that columns require beyond the field's own type, by path.
fn overrides(draft: &Draft) -> BTreeMap<Vec<String>, Json> {
    let steps = draft.lookup.iter().chain(&draft.write);
    steps
        .flat_map(|step| &step.bind)
        .filter_map(|bound| {
            let leaf = leaf(bound, draft)?;
            let value = asked(&leaf.ty, &bound.column.ty, &mut leaf.path.clone())?;
            Some((leaf.path.clone(), value))
        })
        .collect()
}

/// The value that a column requires, if not every value of the field's type would do.
fn asked(field: &Type, column: &ColumnType, path: &mut Vec<String>) -> Option<Json> {
    let field = field.non_null();
    let bytes = matches!(field, Type::Bytes | Type::Fixed(_));
    Some(match (column, field) {
        (ColumnType::Uuid | ColumnType::TimeUuid, _) => Json::from(if bytes { UUID_BYTES } else { UUID }),
        (ColumnType::Inet, _) => Json::from(if bytes { ADDRESS_BYTES } else { ADDRESS }),
        (ColumnType::List(of) | ColumnType::Set(of), Type::List(item)) => Json::Array(vec![asked(item, of, path)?]),
        (ColumnType::Vector(of, count), Type::List(item)) => {
            let one = asked(item, of, path).unwrap_or_else(|| sample(item, path, &BTreeMap::new()));
            Json::Array(vec![one; *count])
        }
        _ => return None,
    })
}

/// The field that a marker is bound to, if it is bound to one.
fn leaf<'d>(bound: &Bound, draft: &'d Draft) -> Option<&'d Leaf> {
    draft.leaves.iter().find(|leaf| leaf.expression() == bound.expression)
}

/// The row that the record finds; `None` if its key comes from an expression.
fn row(step: &Step, draft: &Draft, record: &Json) -> Option<Map<String, Json>> {
    let mut row = Map::new();
    for bound in &step.bind {
        let leaf = leaf(bound, draft)?;
        let value = leaf.path.iter().try_fold(record, |json, name| json.get(name))?;
        row.insert(bound.column.name.clone(), in_column(value, &leaf.ty, &bound.column.ty));
    }
    let bound: Vec<String> = row.keys().cloned().collect();
    for column in step.table.columns.iter().filter(|column| !bound.contains(&column.name)) {
        let value = match column.ty {
            ColumnType::Uuid | ColumnType::TimeUuid => json!(UUID),
            ColumnType::Inet => json!(ADDRESS),
            ColumnType::Vector(ref item, count) => {
                let item = sample(&result_type(item), &mut vec![column.name.clone()], &BTreeMap::new());
                json!(vec![item; count])
            }
            _ => sample(
                &result_type(&column.ty),
                &mut vec![column.name.clone()],
                &BTreeMap::new(),
            ),
        };
        if !value.is_null() {
            row.insert(column.name.clone(), value);
        }
    }
    Some(row)
}

/// A field's value in the form of its column.
fn in_column(value: &Json, field: &Type, column: &ColumnType) -> Json {
    match (column, field.non_null(), value) {
        (ColumnType::Timestamp, Type::LocalTimestamp(_), Json::String(text)) => json!(format!("{text}Z")),
        (ColumnType::Uuid | ColumnType::TimeUuid, ..) => json!(UUID),
        (ColumnType::Inet, ..) => json!(ADDRESS),
        (ColumnType::Decimal | ColumnType::Varint, _, Json::Number(number)) => json!(number.to_string()),
        _ => value.clone(),
    }
}

/// A value of a type, as JSON. Text is the name of its field.
fn sample(ty: &Type, path: &mut Vec<String>, overrides: &BTreeMap<Vec<String>, Json>) -> Json {
    if let Some(value) = overrides.get(path) {
        return value.clone();
    }
    let name = path.last().map_or("value", String::as_str);
    match ty {
        Type::Nullable(inner) => sample(inner, path, overrides),
        Type::Null | Type::Any => Json::Null,
        Type::Bool => json!(true),
        Type::Int | Type::Long => json!(1),
        Type::Float | Type::Double => json!(1.5),
        Type::String => json!(format!("{name}-1")),
        Type::Enum(symbols) => json!(symbols.first()),
        Type::Bytes => json!("AQ=="),
        Type::Fixed(size) => json!(zeros(*size)),
        Type::Date => json!("2026-05-01"),
        Type::Time(_) => json!("11:59:58.000"),
        Type::Timestamp(_) => json!("2026-05-01T11:59:58.000Z"),
        Type::LocalTimestamp(_) => json!("2026-05-01T11:59:58.000"),
        Type::Decimal { precision, scale } => json!(decimal(*precision, *scale)),
        Type::Uuid => json!(UUID),
        Type::Duration => json!("P0M1DT0.000S"),
        // A list of an infinitely recursive type stays empty.
        Type::List(item) if is_finite(item) => json!([sample(item, path, overrides)]),
        Type::List(_) => json!([]),
        Type::Map(..) => json!({}),
        Type::Record(fields) => {
            let mut object = Map::new();
            for (name, ty) in fields {
                path.push(name.clone());
                object.insert(name.clone(), sample(ty, path, overrides));
                path.pop();
            }
            Json::Object(object)
        }
        Type::Union(types) => types.first().map_or(Json::Null, |ty| sample(ty, path, overrides)),
    }
}

fn is_finite(ty: &Type) -> bool {
    match ty.non_null() {
        Type::Any => false,
        Type::Record(fields) => fields
            .iter()
            .all(|(_, ty)| matches!(ty, Type::Nullable(_)) || is_finite(ty)),
        _ => true,
    }
}

/// The number 1, if the digits allow it.
fn decimal(precision: u32, scale: u32) -> String {
    let zeros = "0".repeat(scale as usize);
    match (precision == 0 || precision > scale, scale) {
        (true, 0) => "1".to_owned(),
        (true, _) => format!("1.{zeros}"),
        (false, 0) => "0".to_owned(),
        (false, _) => format!("0.{zeros}"),
    }
}

/// `size` zero bytes in Base64.
fn zeros(size: usize) -> String {
    let mut text = "AAAA".repeat(size / 3);
    text.push_str(["", "AA==", "AAA="][size % 3]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::Schema;
    use crate::cases::from_json::from_json;

    /// Every type has a sample that is a value of it, and that can be encoded.
    #[test]
    fn samples_are_values_of_their_types() {
        let read = |file: &str| {
            let path = format!("{}/tests/schemas/{file}.avsc", env!("CARGO_MANIFEST_DIR"));
            std::fs::read_to_string(path).unwrap()
        };
        for file in ["event", "interop", "money", "order", "reaction"] {
            let money = read("money");
            let references = if file == "order" {
                vec![money.as_str()]
            } else {
                Vec::new()
            };
            let schema = Schema::parse_with_references(&read(file), &references).unwrap();
            let json = sample(&schema.root_type(), &mut Vec::new(), &BTreeMap::new());
            let value = from_json(&json, &schema.root_type()).unwrap_or_else(|e| panic!("{file}: {e}"));
            schema
                .encode(&value, &mut Vec::new())
                .unwrap_or_else(|e| panic!("{file}: {e}"));
        }
    }

    #[test]
    fn decimals_and_fixed_fit() {
        assert_eq!(decimal(9, 2), "1.00");
        assert_eq!(decimal(2, 2), "0.00");
        assert_eq!(decimal(0, 0), "1");
        assert_eq!(
            (zeros(0), zeros(1), zeros(5)),
            (String::new(), "AA==".into(), "AAAAAAA=".into())
        );
    }
}
