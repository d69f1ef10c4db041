//! Decodes rows from the wire: each column directly from the answer's buffer into a [`Value`].
//!
//! Format: CQL binary protocol v4, section 6. Invariants: the result follows the table of [`crate::store::types`]; a malformed or foreign value is an
//! error of this row, never a panic; the empty value that some types have in addition to null reads as null.

use std::borrow::Cow;
use std::net::IpAddr;

use ::scylla::deserialize::row::ColumnIterator;
use ::scylla::frame::response::result::{CollectionType, ColumnType as Driver, NativeType};
use ::scylla::response::query_result::{ColumnSpecs, QueryResult};

use super::bind::fixed_in_vector;
use crate::avro::value::{Unit, Value};
use crate::store::convert::{self, ConvertError};
use crate::store::types::{ColumnType, tuple_field};
use crate::store::{Column, Gather, StoreError};

/// Why a column could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum ReadError {
    #[error("{0} bytes are not a value of type {1}")]
    Length(usize, String),
    #[error("a text that is not UTF-8")]
    NotUtf8,
    #[error(transparent)]
    Convert(#[from] ConvertError),
}

/// Passes the rows of an answer to `gather`; false as soon as it wants no more. With `compare` the answer may have more columns than these, which
/// are left out.
pub(super) fn gather(
    result: QueryResult,
    columns: &[Column],
    compare: bool,
    gather: &mut Gather,
) -> Result<bool, StoreError> {
    let unreadable = |what: String| StoreError::permanent("value", what);
    let rows = result.into_rows_result().map_err(|e| unreadable(e.to_string()))?;
    let added = check_columns(rows.column_specs(), columns, compare)?;
    let rows = rows
        .rows::<ColumnIterator<'_, '_>>()
        .map_err(|e| unreadable(e.to_string()))?;
    for row in rows {
        let mut values = Vec::with_capacity(columns.len());
        let row = row.map_err(|e| unreadable(e.to_string()))?;
        let planned = row.filter(|raw| !raw.as_ref().is_ok_and(|raw| added.contains(&raw.index)));
        for (raw, column) in planned.zip(columns) {
            let raw = raw.map_err(|e| unreadable(e.to_string()))?;
            let value = match raw.slice {
                None => Value::Null,
                Some(slice) => read(slice.as_slice(), &column.ty)
                    .map_err(|e| unreadable(format!("result column {}: {e}", column.name)))?,
            };
            values.push(value);
        }
        if !gather.add(values.into_boxed_slice())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the types are the same as planned.
pub(super) fn are_still<'p, 'f, 'd: 'f>(
    planned: impl IntoIterator<Item = &'p ColumnType>,
    mut found: impl Iterator<Item = &'f Driver<'d>>,
) -> bool {
    let mut planned = planned.into_iter();
    planned.all(|ty| found.next().is_some_and(|now| is_still(ty, now))) && found.next().is_none()
}

/// Whether a type is the same as planned. A UDT may have gained fields, which are left out; the others keep their positions, by which they are read. For
/// scalars nothing is allocated, because this runs for each answer.
fn is_still(planned: &ColumnType, found: &Driver<'_>) -> bool {
    use ColumnType as Planned;
    match (planned, found) {
        (
            Planned::List(planned),
            Driver::Collection {
                typ: CollectionType::List(found),
                ..
            },
        )
        | (
            Planned::Set(planned),
            Driver::Collection {
                typ: CollectionType::Set(found),
                ..
            },
        ) => is_still(planned, found),
        (
            Planned::Map(key, value),
            Driver::Collection {
                typ: CollectionType::Map(found_key, found_value),
                ..
            },
        ) => is_still(key, found_key) && is_still(value, found_value),
        (Planned::Vector(planned, length), Driver::Vector { typ, dimensions }) => {
            *length == usize::from(*dimensions) && is_still(planned, typ)
        }
        (Planned::Tuple(planned), Driver::Tuple(found)) => are_still(planned, found.iter()),
        (Planned::Udt { fields, .. }, Driver::UserDefinedType { definition, .. }) => {
            let found = &definition.field_types;
            let mut pairs = fields.iter().zip(found);
            fields.len() <= found.len() && pairs.all(|((name, ty), (now, found))| name == now && is_still(ty, found))
        }
        _ => *planned == ColumnType::from(found),
    }
}

/// The positions of columns to leave out. Refuses an answer whose columns have other types than these, if the server reports them: the bytes of one type would
/// be read as another's.
pub(super) fn check_columns(
    found: ColumnSpecs<'_, '_>,
    columns: &[Column],
    compare: bool,
) -> Result<Vec<usize>, StoreError> {
    if compare {
        return added_columns(found.iter().map(|spec| (spec.name(), spec.typ())), columns);
    }
    let planned = columns.iter().map(|column| &column.ty);
    if are_still(planned, found.iter().map(|spec| spec.typ())) {
        return Ok(Vec::new());
    }
    let why = "a column of the look-up is of another type than at the start: restart";
    Err(StoreError::fatal("columns_changed", why))
}

/// The positions of columns that were added to the table since the pipeline was checked: `SELECT *` returns them among the others, which keep their order.
/// Refuses an answer in which a planned column is missing or has another type, because its values would be misread.
fn added_columns<'n>(
    found: impl Iterator<Item = (&'n str, &'n Driver<'n>)>,
    columns: &[Column],
) -> Result<Vec<usize>, StoreError> {
    let mut planned = columns.iter().peekable();
    let mut added = Vec::new();
    let mut same = true;
    for (place, (name, ty)) in found.enumerate() {
        match planned.next_if(|column| column.name == name) {
            Some(column) => same &= is_still(&column.ty, ty),
            None => added.push(place),
        }
    }
    if same && planned.peek().is_none() {
        return Ok(added);
    }
    Err(StoreError::fatal(
        "columns_changed",
        "a column of the table is gone or of another type since the start, and the look-up selects `*`: restart, or name the columns",
    ))
}

fn read(bytes: &[u8], ty: &ColumnType) -> Result<Value<'static>, ReadError> {
    if bytes.is_empty() && !matches!(ty, ColumnType::Text | ColumnType::Ascii | ColumnType::Blob) {
        return Ok(Value::Null);
    }
    Ok(match ty {
        ColumnType::Text | ColumnType::Ascii => {
            let text = simdutf8::basic::from_utf8(bytes).map_err(|_| ReadError::NotUtf8)?;
            Value::String(Cow::Owned(text.to_owned()))
        }
        ColumnType::Blob => Value::Bytes(Cow::Owned(bytes.to_vec())),
        ColumnType::Int => Value::Int(i32::from_be_bytes(fixed(bytes, ty)?)),
        ColumnType::SmallInt => Value::Int(i32::from(i16::from_be_bytes(fixed(bytes, ty)?))),
        ColumnType::TinyInt => Value::Int(i32::from(i8::from_be_bytes(fixed(bytes, ty)?))),
        ColumnType::BigInt | ColumnType::Counter => Value::Long(i64::from_be_bytes(fixed(bytes, ty)?)),
        ColumnType::Float => Value::Float(f32::from_be_bytes(fixed(bytes, ty)?)),
        ColumnType::Double => Value::Double(f64::from_be_bytes(fixed(bytes, ty)?)),
        ColumnType::Boolean => Value::Bool(fixed::<1>(bytes, ty)? != [0]),
        ColumnType::Timestamp => Value::Timestamp(i64::from_be_bytes(fixed(bytes, ty)?), Unit::Millis),
        ColumnType::Date => Value::Date((u32::from_be_bytes(fixed(bytes, ty)?) ^ 1 << 31) as i32),
        ColumnType::Time => Value::Time(i64::from_be_bytes(fixed(bytes, ty)?).div_euclid(1_000), Unit::Micros),
        ColumnType::Uuid | ColumnType::TimeUuid => Value::Uuid(fixed(bytes, ty)?),
        ColumnType::Varint => Value::Decimal {
            unscaled: Cow::Owned(bytes.to_vec()),
            scale: 0,
        },
        ColumnType::Decimal => {
            let mut rest = bytes;
            let scale = i32::from_be_bytes(fixed(take(&mut rest, 4, ty)?, ty)?);
            Value::Decimal {
                unscaled: Cow::Owned(rest.to_vec()),
                scale,
            }
        }
        ColumnType::Inet => Value::String(Cow::Owned(match bytes.len() {
            4 => IpAddr::from(fixed::<4>(bytes, ty)?).to_string(),
            _ => IpAddr::from(fixed::<16>(bytes, ty)?).to_string(),
        })),
        ColumnType::Duration => {
            let mut rest = bytes;
            let wrong = |_| length(bytes, ty);
            let months = i32::try_from(vint(&mut rest, ty)?).map_err(wrong)?;
            let days = i32::try_from(vint(&mut rest, ty)?).map_err(wrong)?;
            convert::duration_value(months, days, vint(&mut rest, ty)?)?
        }
        ColumnType::List(item) | ColumnType::Set(item) => {
            let mut rest = bytes;
            let count = count(&mut rest, ty)?;
            let mut items = Vec::with_capacity(count.min(rest.len() / 4));
            for _ in 0..count {
                items.push(read_nullable(cell(&mut rest, ty)?, item)?);
            }
            Value::List(items)
        }
        ColumnType::Map(key, item) => {
            let mut rest = bytes;
            let count = count(&mut rest, ty)?;
            let mut pairs = Vec::with_capacity(count.min(rest.len() / 8));
            for _ in 0..count {
                let key = read_nullable(cell(&mut rest, ty)?, key)?;
                pairs.push((key, read_nullable(cell(&mut rest, ty)?, item)?));
            }
            Value::Map(pairs)
        }
        ColumnType::Vector(item, n) => {
            let mut rest = bytes;
            let mut items = Vec::with_capacity((*n).min(bytes.len()));
            for left in (1..=*n).rev() {
                let size = if fixed_in_vector(item) {
                    rest.len() / left
                } else {
                    usize::try_from(unsigned_vint(&mut rest, ty)?).map_err(|_| length(bytes, ty))?
                };
                items.push(read(take(&mut rest, size, ty)?, item)?);
            }
            Value::List(items)
        }
        ColumnType::Tuple(types) => {
            let mut rest = bytes;
            let mut fields = Vec::with_capacity(types.len());
            for (i, ty) in types.iter().enumerate() {
                fields.push((Cow::Owned(tuple_field(i)), read_field(&mut rest, ty)?));
            }
            Value::Record(fields)
        }
        ColumnType::Udt { fields: types, .. } => {
            let mut rest = bytes;
            let mut fields = Vec::with_capacity(types.len());
            for (name, ty) in types {
                fields.push((Cow::Owned(name.clone()), read_field(&mut rest, ty)?));
            }
            Value::Record(fields)
        }
        ColumnType::Any | ColumnType::Numeric(_) => Value::Bytes(Cow::Owned(bytes.to_vec())),
    })
}

fn read_nullable(bytes: Option<&[u8]>, ty: &ColumnType) -> Result<Value<'static>, ReadError> {
    bytes.map_or(Ok(Value::Null), |bytes| read(bytes, ty))
}

/// A value written before fields were added to its type ends before them.
fn read_field(rest: &mut &[u8], ty: &ColumnType) -> Result<Value<'static>, ReadError> {
    if rest.is_empty() {
        Ok(Value::Null)
    } else {
        read_nullable(cell(rest, ty)?, ty)
    }
}

fn length(bytes: &[u8], ty: &ColumnType) -> ReadError {
    ReadError::Length(bytes.len(), ty.to_string())
}

fn fixed<const N: usize>(bytes: &[u8], ty: &ColumnType) -> Result<[u8; N], ReadError> {
    bytes.try_into().map_err(|_| length(bytes, ty))
}

fn take<'b>(rest: &mut &'b [u8], n: usize, ty: &ColumnType) -> Result<&'b [u8], ReadError> {
    let (head, tail) = rest.split_at_checked(n).ok_or_else(|| length(rest, ty))?;
    *rest = tail;
    Ok(head)
}

/// A value after its length; a negative length is null.
fn cell<'b>(rest: &mut &'b [u8], ty: &ColumnType) -> Result<Option<&'b [u8]>, ReadError> {
    let size = i32::from_be_bytes(fixed(take(rest, 4, ty)?, ty)?);
    usize::try_from(size).ok().map(|n| take(rest, n, ty)).transpose()
}

fn count(rest: &mut &[u8], ty: &ColumnType) -> Result<usize, ReadError> {
    let count = i32::from_be_bytes(fixed(take(rest, 4, ty)?, ty)?);
    usize::try_from(count).map_err(|_| length(rest, ty))
}

fn unsigned_vint(rest: &mut &[u8], ty: &ColumnType) -> Result<u64, ReadError> {
    let first = take(rest, 1, ty)?[0];
    let extra = first.leading_ones() as usize;
    let start = if extra >= 8 {
        0
    } else {
        u64::from(first & (0xff >> extra))
    };
    Ok(take(rest, extra, ty)?
        .iter()
        .fold(start, |value, byte| value << 8 | u64::from(*byte)))
}

fn vint(rest: &mut &[u8], ty: &ColumnType) -> Result<i64, ReadError> {
    let value = unsigned_vint(rest, ty)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

impl From<&Driver<'_>> for ColumnType {
    fn from(ty: &Driver<'_>) -> Self {
        let boxed = |ty: &Driver<'_>| Box::new(ColumnType::from(ty));
        match ty {
            Driver::Native(native) => match native {
                NativeType::Ascii => ColumnType::Ascii,
                NativeType::Boolean => ColumnType::Boolean,
                NativeType::Blob => ColumnType::Blob,
                NativeType::Counter => ColumnType::Counter,
                NativeType::Date => ColumnType::Date,
                NativeType::Decimal => ColumnType::Decimal,
                NativeType::Double => ColumnType::Double,
                NativeType::Duration => ColumnType::Duration,
                NativeType::Float => ColumnType::Float,
                NativeType::Int => ColumnType::Int,
                NativeType::BigInt => ColumnType::BigInt,
                NativeType::Text => ColumnType::Text,
                NativeType::Timestamp => ColumnType::Timestamp,
                NativeType::Inet => ColumnType::Inet,
                NativeType::SmallInt => ColumnType::SmallInt,
                NativeType::TinyInt => ColumnType::TinyInt,
                NativeType::Time => ColumnType::Time,
                NativeType::Timeuuid => ColumnType::TimeUuid,
                NativeType::Uuid => ColumnType::Uuid,
                NativeType::Varint => ColumnType::Varint,
                _ => ColumnType::Any,
            },
            Driver::Collection { typ, .. } => match typ {
                CollectionType::List(item) => ColumnType::List(boxed(item)),
                CollectionType::Set(item) => ColumnType::Set(boxed(item)),
                CollectionType::Map(key, value) => ColumnType::Map(boxed(key), boxed(value)),
                _ => ColumnType::Any,
            },
            Driver::Vector { typ, dimensions } => ColumnType::Vector(boxed(typ), usize::from(*dimensions)),
            Driver::UserDefinedType { definition, .. } => ColumnType::Udt {
                name: definition.name.to_string(),
                fields: definition
                    .field_types
                    .iter()
                    .map(|(name, ty)| (name.to_string(), ty.into()))
                    .collect(),
            },
            Driver::Tuple(items) => ColumnType::Tuple(items.iter().map(ColumnType::from).collect()),
            _ => ColumnType::Any,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::scylla::frame::response::result::{ColumnSpec, TableSpec, UserDefinedType};
    use proptest::prelude::*;

    use super::*;
    use crate::retry::Class;

    #[test]
    fn what_is_malformed_is_an_error() {
        assert!(read(&[0; 3], &ColumnType::Int).is_err());
        assert!(read(&[0xff], &ColumnType::Text).is_err());
        let list = ColumnType::List(Box::new(ColumnType::Int));
        assert!(
            read(&[0x7f, 0xff, 0xff, 0xff], &list).is_err(),
            "a count beyond the bytes"
        );
        assert_eq!(read(&[], &ColumnType::Int), Ok(Value::Null));
        assert_eq!(read(&[], &ColumnType::Text), Ok(Value::String("".into())));
    }

    #[test]
    fn columns_that_were_added_are_left_out_and_other_changes_refused() {
        let (int, text) = (Driver::Native(NativeType::Int), Driver::Native(NativeType::Text));
        let columns = ["b", "d"].map(|name| Column {
            name: name.to_owned(),
            ty: ColumnType::Int,
        });
        let added = |found: &[(&str, &Driver<'_>)]| added_columns(found.iter().copied(), &columns);
        assert_eq!(added(&[("b", &int), ("d", &int)]), Ok(vec![]));
        assert_eq!(
            added(&[("a", &text), ("b", &int), ("c", &int), ("d", &int), ("e", &text)]),
            Ok(vec![0, 2, 4])
        );
        for found in [
            &[("b", &int)][..],
            &[("b", &int), ("c", &int)],
            &[("d", &int), ("b", &int)],
            &[("b", &int), ("d", &text)],
        ] {
            let error = added(found).unwrap_err();
            assert_eq!(error.class, Class::Fatal, "{found:?}");
            assert!(error.message.contains("name the columns"), "{error}");
        }
    }

    #[test]
    fn an_answer_of_another_type_is_refused_though_its_values_have_the_same_size() {
        let columns = ["a", "b"].map(|name| Column {
            name: name.to_owned(),
            ty: ColumnType::BigInt,
        });
        let check = |types: &[NativeType]| {
            let spec =
                |ty: &NativeType| ColumnSpec::borrowed("c", Driver::Native(ty.clone()), TableSpec::borrowed("k", "t"));
            let specs: Vec<_> = types.iter().map(spec).collect();
            check_columns(ColumnSpecs::new(&specs), &columns, false)
        };
        assert_eq!(check(&[NativeType::BigInt, NativeType::BigInt]), Ok(vec![]));
        for found in [
            &[NativeType::BigInt, NativeType::Double][..],
            &[NativeType::Timestamp, NativeType::BigInt],
            &[NativeType::BigInt],
        ] {
            let error = check(found).unwrap_err();
            assert_eq!(
                (error.class, error.label),
                (Class::Fatal, "columns_changed"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_type_within_another_is_compared_too_and_fields_that_were_added_are_none_of_it() {
        let (int, text) = (Driver::Native(NativeType::Int), Driver::Native(NativeType::Text));
        let list = |item: &Driver<'static>| Driver::Collection {
            frozen: false,
            typ: CollectionType::List(Box::new(item.clone())),
        };
        let map = |value: &Driver<'static>| Driver::Collection {
            frozen: true,
            typ: CollectionType::Map(Box::new(text.clone()), Box::new(value.clone())),
        };
        let vector = |dimensions| Driver::Vector {
            typ: Box::new(int.clone()),
            dimensions,
        };
        let tuple = |item: &Driver<'static>| Driver::Tuple(vec![int.clone(), item.clone()]);
        let address = |fields: &[(&'static str, &Driver<'static>)]| Driver::UserDefinedType {
            frozen: true,
            definition: Arc::new(UserDefinedType {
                name: "address".into(),
                keyspace: "k".into(),
                field_types: fields
                    .iter()
                    .map(|(name, ty)| ((*name).into(), (*ty).clone()))
                    .collect(),
            }),
        };
        for (planned, found, still) in [
            (list(&int), list(&int), true),
            (list(&int), list(&text), false),
            (map(&int), map(&text), false),
            (vector(3), vector(3), true),
            (vector(3), vector(4), false),
            (tuple(&int), tuple(&int), true),
            (tuple(&int), tuple(&text), false),
            (address(&[("a", &int)]), address(&[("a", &int), ("b", &text)]), true),
            (
                address(&[("a", &int), ("b", &text)]),
                address(&[("a", &int), ("b", &int)]),
                false,
            ),
            (address(&[("a", &int), ("b", &text)]), address(&[("a", &int)]), false),
            // Created again with the fields in another order.
            (
                address(&[("a", &int), ("b", &int)]),
                address(&[("b", &int), ("a", &int)]),
                false,
            ),
            (list(&int), int.clone(), false),
        ] {
            assert_eq!(
                is_still(&ColumnType::from(&planned), &found),
                still,
                "{planned:?}, {found:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_read_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for ty in [
                "int", "bigint", "decimal", "duration", "inet", "text", "date", "time", "list<text>",
                "map<int, list<duration>>", "tuple<int, text>", "vector<float, 3>", "vector<text, 3>",
            ] {
                let _ = read(&bytes, &ColumnType::parse(ty).unwrap());
            }
        }
    }
}
