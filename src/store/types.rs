//! Column types, and the one table of what goes where between Avro, CQL and SQLite.
//!
//! Why: the type check of a pipeline and the conversion at run time ([`super::convert`]) must never disagree, so both
//! follow this table. Invariant: what [`bindable`] refuses fails at run time too; what it allows fails at run time only
//! for a value that is out of the column's range or malformed, and that is said below.
//!
//! | CQL | accepts, Avro | returns, Avro | in SQLite |
//! | --- | --- | --- | --- |
//! | `text` | `string`, enum, `uuid` (canonical form) | `string` | TEXT |
//! | `ascii` | the same, ASCII only | `string` | refused: declare `text` (SQLite would turn digits into numbers) |
//! | `tinyint` `smallint` `int` | `int`, `long`, in range | `int` | INTEGER |
//! | `bigint` `counter` | `int`, `long` | `long` | INTEGER |
//! | `varint` | `int`, `long`, decimal of scale 0, a whole CQL `decimal` | decimal | INTEGER, or the digits as BLOB beyond 64 bits |
//! | `decimal` | decimal, `int`, `long` | decimal | the digits as BLOB (NUMERIC would round them) |
//! | `float` | `float`, `int` within ±2^24, `double` rounded to nearest | `float` | REAL; NaN is refused (SQLite would store null) |
//! | `double` | `double`, `float`, `int`, `long` within ±2^53 | `double` | REAL; NaN is refused (SQLite would store null) |
//! | `boolean` | `boolean` | `boolean` | INTEGER 0 or 1 |
//! | `blob` | `bytes`, fixed | `bytes` | BLOB |
//! | `timestamp` | timestamp of any unit and local timestamp read as UTC, both floored to ms; `long` as ms | `timestamp-millis` | INTEGER, ms |
//! | `date` | `date` | `date` | INTEGER, days since 1970-01-01 |
//! | `time` | time of any unit | `time-micros` (floored) | INTEGER, ns since midnight |
//! | `uuid` `timeuuid` | `uuid`, a `string` or 16 bytes that hold one (`timeuuid`: version 1) | `uuid` | TEXT |
//! | `inet` | `string` with an address, 4 or 16 bytes | `string` | TEXT |
//! | `duration` | `duration` | `duration` (fails if negative or finer than 1 ms) | TEXT, as ISO 8601 with all parts and a fraction: `P1M2DT3.5S` |
//! | `list` `set` `vector` | array of what the item type accepts, without nulls | array | TEXT, JSON |
//! | `map` | map of what the key and value types accept, without nulls | map | TEXT, JSON |
//! | `tuple` | record with as many fields, by position | record `field_0`, … | TEXT, JSON |
//! | UDT | record, by field name; missing fields are null; extra fields are dropped if the record has all fields of the UDT | record | TEXT, JSON |
//! | none declared, or another name | | | as stored: INTEGER, REAL, TEXT, BLOB; no text under a name such as `STRING`: declare `text` (SQLite would turn digits into numbers) |
//!
//! Null goes everywhere, as UNSET (so no tombstones). SQLite columns are declared by CQL's names (`"list<text>"` in
//! quotes); SQL's `integer` is `bigint`, `real` is `double`, `varchar` is `text`. SQLite would store a NaN as
//! null, so a write refuses it, except in a collection; no row is found by one.

use std::fmt;

use crate::avro::value::{Type, Unit};

/// The type of a marker or of a result column.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "CQL's own names")]
pub enum ColumnType {
    Text,
    Ascii,
    Int,
    BigInt,
    SmallInt,
    TinyInt,
    Float,
    Double,
    Boolean,
    Blob,
    Timestamp,
    Date,
    Time,
    Uuid,
    TimeUuid,
    Decimal,
    Varint,
    Inet,
    Duration,
    Counter,
    List(Box<ColumnType>),
    Set(Box<ColumnType>),
    Map(Box<ColumnType>, Box<ColumnType>),
    Tuple(Vec<ColumnType>),
    Udt {
        name: String,
        fields: Vec<(String, ColumnType)>,
    },
    /// Item type and number of items.
    Vector(Box<ColumnType>, usize),
    /// SQLite without a declared type, or with a type that is not in the table.
    Any,
    /// The marker of a SQLite column whose declared type, given here, is not in the table, and whose affinity makes numbers of texts: `007` and `7` would be
    /// one. A user-defined type is such a name too, and a record goes into it as JSON.
    Numeric(String),
}

/// Whether every non-null value of `from` fits into `to`, apart from range and format. The error names both sides.
pub fn bindable(from: &Type, to: &ColumnType) -> Result<(), String> {
    let fits = match (from, to) {
        (Type::Nullable(inner), _) => return bindable(inner, to),
        (Type::Union(members), _) => return members.iter().try_for_each(|member| bindable(member, to)),
        (Type::Null | Type::Any, _) | (_, ColumnType::Any) => true,
        (Type::Record(fields), ColumnType::Udt { name, fields: wanted }) => return record_to_udt(fields, name, wanted),
        (Type::Record(fields), ColumnType::Tuple(items)) => {
            return if fields.len() == items.len() {
                fields
                    .iter()
                    .zip(items)
                    .try_for_each(|((name, f), t)| bindable(f, t).map_err(|e| format!("in field {name}: {e}")))
            } else {
                Err(format!(
                    "a record of {} fields does not go into {to}, which has {}",
                    fields.len(),
                    items.len()
                ))
            };
        }
        (Type::List(from), ColumnType::List(to) | ColumnType::Set(to) | ColumnType::Vector(to, _)) => {
            return bindable(from, to).map_err(|e| format!("in items: {e}"));
        }
        (Type::Map(from_key, from_value), ColumnType::Map(key, value)) => {
            bindable(from_key, key).map_err(|e| format!("in keys: {e}"))?;
            return bindable(from_value, value).map_err(|e| format!("in values: {e}"));
        }
        (from, to) => scalar_bindable(from, to),
    };
    if fits {
        Ok(())
    } else {
        Err(format!("{from} does not go into {to}"))
    }
}

fn record_to_udt(fields: &[(String, Type)], udt: &str, wanted: &[(String, ColumnType)]) -> Result<(), String> {
    // A newer schema may have one more field. But if the UDT has a field that the record lacks, the two may be one field under two names.
    let complete = wanted.iter().all(|(name, _)| fields.iter().any(|(own, _)| own == name));
    for (name, from) in fields {
        let Some((_, to)) = wanted.iter().find(|(wanted, _)| wanted == name) else {
            if complete {
                continue;
            }
            let names: Vec<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
            return Err(format!(
                "field {name} of the record is not in {udt}, which has {}",
                names.join(", ")
            ));
        };
        bindable(from, to).map_err(|e| format!("in field {name}: {e}"))?;
    }
    Ok(())
}

fn scalar_bindable(from: &Type, to: &ColumnType) -> bool {
    use ColumnType as C;
    match to {
        C::Text | C::Ascii => matches!(from, Type::String | Type::Enum(_) | Type::Uuid),
        C::Int | C::BigInt | C::SmallInt | C::TinyInt | C::Counter => matches!(from, Type::Int | Type::Long),
        C::Varint => matches!(from, Type::Int | Type::Long | Type::Decimal { scale: 0, .. }),
        C::Decimal => matches!(from, Type::Int | Type::Long | Type::Decimal { .. }),
        C::Float => matches!(from, Type::Float | Type::Double | Type::Int),
        C::Double => matches!(from, Type::Float | Type::Double | Type::Int | Type::Long),
        C::Boolean => matches!(from, Type::Bool),
        C::Blob => matches!(from, Type::Bytes | Type::Fixed(_)),
        C::Timestamp => matches!(from, Type::Timestamp(_) | Type::LocalTimestamp(_) | Type::Long),
        C::Date => matches!(from, Type::Date),
        C::Time => matches!(from, Type::Time(_)),
        C::Uuid | C::TimeUuid => matches!(from, Type::Uuid | Type::String | Type::Fixed(16)),
        C::Inet => matches!(from, Type::String | Type::Fixed(4 | 16)),
        C::Duration => matches!(from, Type::Duration),
        C::Any => true,
        C::Numeric(_) => !matches!(from, Type::String | Type::Enum(_)),
        C::List(_) | C::Set(_) | C::Map(..) | C::Tuple(_) | C::Udt { .. } | C::Vector(..) => false,
    }
}

/// The type of the values that a result column returns. The column itself may also be null.
pub fn result_type(ty: &ColumnType) -> Type {
    match ty {
        ColumnType::Text | ColumnType::Ascii | ColumnType::Inet => Type::String,
        ColumnType::Int | ColumnType::SmallInt | ColumnType::TinyInt => Type::Int,
        ColumnType::BigInt | ColumnType::Counter => Type::Long,
        ColumnType::Float => Type::Float,
        ColumnType::Double => Type::Double,
        ColumnType::Boolean => Type::Bool,
        ColumnType::Blob => Type::Bytes,
        ColumnType::Timestamp => Type::Timestamp(Unit::Millis),
        ColumnType::Date => Type::Date,
        ColumnType::Time => Type::Time(Unit::Micros),
        ColumnType::Uuid | ColumnType::TimeUuid => Type::Uuid,
        ColumnType::Decimal | ColumnType::Varint => Type::Decimal { precision: 0, scale: 0 },
        ColumnType::Duration => Type::Duration,
        ColumnType::List(item) | ColumnType::Set(item) | ColumnType::Vector(item, _) => {
            Type::List(Box::new(result_type(item)))
        }
        ColumnType::Map(key, value) => Type::Map(Box::new(result_type(key)), Box::new(result_type(value))),
        ColumnType::Tuple(items) => Type::Record(
            items
                .iter()
                .enumerate()
                .map(|(i, item)| (tuple_field(i), result_type(item).nullable()))
                .collect(),
        ),
        ColumnType::Udt { fields, .. } => Type::Record(
            fields
                .iter()
                .map(|(name, ty)| (name.clone(), result_type(ty).nullable()))
                .collect(),
        ),
        ColumnType::Any | ColumnType::Numeric(_) => Type::Any,
    }
}

/// The record field that holds item `index` of a tuple.
pub fn tuple_field(index: usize) -> String {
    format!("field_{index}")
}

/// How deep a declared type may be nested, `frozen` included.
pub const MAX_LEVELS: usize = 32;

impl ColumnType {
    /// Reads a declared type: CQL's names, nested and `frozen` ones included, and SQL's usual words for them. `None`
    /// for a name that is not in the table, such as a UDT's, and for more than [`MAX_LEVELS`].
    pub fn parse(declared: &str) -> Option<ColumnType> {
        ColumnType::parse_within(declared, MAX_LEVELS)
    }

    fn parse_within(declared: &str, levels: usize) -> Option<ColumnType> {
        let declared = declared.trim();
        if let Some((outer, inner)) = declared.strip_suffix('>').and_then(|d| d.split_once('<')) {
            let levels = levels.checked_sub(1)?;
            let parts = split_parameters(inner);
            let parse = |part: &str| ColumnType::parse_within(part, levels);
            let part = |i: usize| parts.get(i).and_then(|p| parse(p)).map(Box::new);
            return match (outer.trim().to_ascii_lowercase().as_str(), parts.len()) {
                ("frozen", 1) => parse(inner),
                ("list", 1) => Some(ColumnType::List(part(0)?)),
                ("set", 1) => Some(ColumnType::Set(part(0)?)),
                ("map", 2) => Some(ColumnType::Map(part(0)?, part(1)?)),
                ("vector", 2) => Some(ColumnType::Vector(part(0)?, parts[1].trim().parse().ok()?)),
                ("tuple", _) => parts
                    .iter()
                    .map(|p| parse(p))
                    .collect::<Option<_>>()
                    .map(ColumnType::Tuple),
                _ => None,
            };
        }
        let name = declared
            .split('(')
            .next()
            .unwrap_or(declared)
            .trim()
            .to_ascii_lowercase();
        Some(match name.as_str() {
            "text" | "varchar" | "char" | "clob" => ColumnType::Text,
            "ascii" => ColumnType::Ascii,
            "int" => ColumnType::Int,
            "bigint" | "integer" => ColumnType::BigInt,
            "smallint" => ColumnType::SmallInt,
            "tinyint" => ColumnType::TinyInt,
            "float" => ColumnType::Float,
            "double" | "real" | "double precision" => ColumnType::Double,
            "boolean" | "bool" => ColumnType::Boolean,
            "blob" => ColumnType::Blob,
            "timestamp" => ColumnType::Timestamp,
            "date" => ColumnType::Date,
            "time" => ColumnType::Time,
            "uuid" => ColumnType::Uuid,
            "timeuuid" => ColumnType::TimeUuid,
            "decimal" => ColumnType::Decimal,
            "varint" => ColumnType::Varint,
            "inet" => ColumnType::Inet,
            "duration" => ColumnType::Duration,
            "counter" => ColumnType::Counter,
            _ => return None,
        })
    }
}

/// Splits `a, map<b, c>` at its outer commas.
fn split_parameters(inner: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (i, c) in inner.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&inner[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    parts
}

/// Written as CQL declares it.
impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ColumnType::Text => "text",
            ColumnType::Ascii => "ascii",
            ColumnType::Int => "int",
            ColumnType::BigInt => "bigint",
            ColumnType::SmallInt => "smallint",
            ColumnType::TinyInt => "tinyint",
            ColumnType::Float => "float",
            ColumnType::Double => "double",
            ColumnType::Boolean => "boolean",
            ColumnType::Blob => "blob",
            ColumnType::Timestamp => "timestamp",
            ColumnType::Date => "date",
            ColumnType::Time => "time",
            ColumnType::Uuid => "uuid",
            ColumnType::TimeUuid => "timeuuid",
            ColumnType::Decimal => "decimal",
            ColumnType::Varint => "varint",
            ColumnType::Inet => "inet",
            ColumnType::Duration => "duration",
            ColumnType::Counter => "counter",
            ColumnType::Any => "any",
            ColumnType::Udt { name, .. } => name,
            ColumnType::Numeric(declared) => {
                return write!(
                    f,
                    "{declared} (in which SQLite turns digits into numbers: declare it text)"
                );
            }
            ColumnType::List(item) => return write!(f, "list<{item}>"),
            ColumnType::Set(item) => return write!(f, "set<{item}>"),
            ColumnType::Map(key, value) => return write!(f, "map<{key}, {value}>"),
            ColumnType::Vector(item, n) => return write!(f, "vector<{item}, {n}>"),
            ColumnType::Tuple(items) => {
                let items: Vec<String> = items.iter().map(ToString::to_string).collect();
                return write!(f, "tuple<{}>", items.join(", "));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_print_as_they_parse() {
        for s in [
            "text",
            "bigint",
            "list<int>",
            "map<text, set<uuid>>",
            "tuple<int, text>",
            "vector<float, 3>",
        ] {
            assert_eq!(ColumnType::parse(s).expect(s).to_string(), s);
        }
        assert_eq!(
            ColumnType::parse("FROZEN<List<VARCHAR>>").expect("frozen").to_string(),
            "list<text>"
        );
        assert_eq!(ColumnType::parse("varchar(20)"), Some(ColumnType::Text));
        assert_eq!(ColumnType::parse("map<text>"), None);
        assert_eq!(ColumnType::parse("address"), None);
    }

    #[test]
    fn a_type_has_levels_up_to_a_bound() {
        let nested = |levels: usize| format!("{}text{}", "list<".repeat(levels), ">".repeat(levels));
        let deepest = nested(MAX_LEVELS);
        assert_eq!(ColumnType::parse(&deepest).expect("not too deep").to_string(), deepest);
        assert_eq!(ColumnType::parse(&nested(MAX_LEVELS + 1)), None);
        assert_eq!(ColumnType::parse(&nested(100_000)), None);
    }

    #[test]
    fn a_mismatch_names_both_sides_and_the_place() {
        let record = Type::Record(vec![("zip".into(), Type::Long)]);
        let udt = ColumnType::Udt {
            name: "address".into(),
            fields: vec![("zip".into(), ColumnType::Text)],
        };
        assert_eq!(
            bindable(&record, &udt).unwrap_err(),
            "in field zip: long does not go into text"
        );
        assert_eq!(
            bindable(&Type::String, &ColumnType::Int).unwrap_err(),
            "string does not go into int"
        );
        let list = Type::List(Box::new(Type::Double)).nullable();
        assert_eq!(
            bindable(&list, &ColumnType::List(Box::new(ColumnType::Int))).unwrap_err(),
            "in items: double does not go into int"
        );
        let unknown = Type::Record(vec![("street".into(), Type::String)]);
        assert_eq!(
            bindable(&unknown, &udt).unwrap_err(),
            "field street of the record is not in address, which has zip"
        );
    }

    #[test]
    fn no_text_goes_where_sqlite_makes_a_number_of_it() {
        let column = ColumnType::Numeric("STRING".to_owned());
        assert_eq!(
            bindable(&Type::String.nullable(), &column).unwrap_err(),
            "string does not go into STRING (in which SQLite turns digits into numbers: declare it text)"
        );
        assert!(bindable(&Type::Enum(vec!["A".to_owned()]), &column).is_err());
        let record = Type::Record(vec![("zip".to_owned(), Type::String)]);
        for ty in [Type::Long, Type::Any, Type::List(Box::new(Type::String)), record] {
            assert_eq!(bindable(&ty, &column), Ok(()), "{ty}");
        }
    }

    #[test]
    fn a_record_may_have_a_field_more_than_the_type_that_it_goes_into() {
        let record = |names: &[&str]| {
            let fields = names.iter().map(|name| ((*name).to_owned(), Type::String));
            Type::Record(fields.collect())
        };
        let udt = |names: &[&str]| ColumnType::Udt {
            name: "address".into(),
            fields: names
                .iter()
                .map(|name| ((*name).to_owned(), ColumnType::Text))
                .collect(),
        };
        assert_eq!(bindable(&record(&["zip", "floor"]), &udt(&["zip"])), Ok(()));
        assert_eq!(bindable(&record(&["zip"]), &udt(&["zip", "street"])), Ok(()));
        assert_eq!(
            bindable(&record(&["zip", "road"]), &udt(&["zip", "street"])),
            Err("field road of the record is not in address, which has zip, street".to_owned()),
            "they may be one"
        );
    }

    #[test]
    fn a_union_fits_when_all_its_members_do() {
        let union = Type::Union(vec![Type::Int, Type::Long]);
        assert!(bindable(&union, &ColumnType::BigInt).is_ok());
        assert!(bindable(&Type::Union(vec![Type::Int, Type::String]), &ColumnType::BigInt).is_err());
    }

    /// A column accepts what it returns.
    #[test]
    fn results_can_be_bound_again() {
        for s in [
            "text",
            "int",
            "bigint",
            "smallint",
            "tinyint",
            "float",
            "double",
            "boolean",
            "blob",
            "timestamp",
            "date",
            "time",
            "uuid",
            "timeuuid",
            "decimal",
            "varint",
            "inet",
            "duration",
            "list<int>",
            "map<text, double>",
            "tuple<int, text>",
        ] {
            let ty = ColumnType::parse(s).expect(s);
            assert_eq!(bindable(&result_type(&ty), &ty), Ok(()), "{s}");
        }
    }
}
