//! Encodes values on the wire: each directly into the request's buffer, in the form of its marker's type.
//!
//! Format: CQL binary protocol v4, section 6. Invariant: the encoding follows the table of [`crate::store::types`] and the conversions of
//! [`crate::store::convert`]; scalars need no allocation.

use ::scylla::serialize::SerializationError;
use ::scylla::serialize::row::{RowSerializationContext, SerializeRow};
use ::scylla::serialize::writers::{CellOverflowError, CellValueBuilder, CellWriter, RowWriter, WrittenCellProof};
use scylla_cql_core::serialize::row::SerializedValues;
use std::cell::RefCell;
use std::net::IpAddr;

use crate::avro::value::Value;
use crate::store::convert::{self, ConvertError, Converted};
use crate::store::types::ColumnType;
use crate::store::{Marker, StoreError};

/// What a null among the values means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nulls {
    /// UNSET: leave what is stored.
    Unset,
    /// An error: look-ups answer nulls without asking.
    Refused,
}

/// The values of one execution.
pub(super) struct Bind<'b, 'v> {
    pub(super) values: &'b [Value<'v>],
    pub(super) markers: &'b [Marker],
    pub(super) nulls: Nulls,
}

/// The most memory that a thread keeps for the next row, in bytes.
const KEPT: usize = 64 * 1024;

/// The protocol allows a statement fewer than 65,536 markers.
#[derive(Debug, thiserror::Error)]
#[error("{0} values are more than a statement takes")]
struct TooMany(usize);

/// A value that could not be bound, and its marker.
#[derive(Debug, thiserror::Error)]
#[error("marker :{marker}: {error}")]
struct BindError {
    marker: String,
    error: ConvertError,
}

thread_local! {
    /// A row under construction.
    static ROW: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Builds a row in a buffer that the thread keeps. A row's size is not known in advance, and a new buffer would grow some eight times.
fn with_row<T>(make: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    ROW.with_borrow_mut(|row| {
        row.clear();
        let made = make(row);
        if row.capacity() > KEPT {
            *row = Vec::new();
        }
        made
    })
}

impl SerializeRow for Bind<'_, '_> {
    /// Not cell by cell into the driver's buffer, because that starts empty and would grow.
    fn serialize(&self, _: &RowSerializationContext<'_>, writer: &mut RowWriter) -> Result<(), SerializationError> {
        let too_many = |_| SerializationError::new(TooMany(self.values.len()));
        let count = u16::try_from(self.values.len()).map_err(too_many)?;
        with_row(|row| {
            row.extend_from_slice(&count.to_be_bytes());
            for (value, marker) in self.values.iter().zip(self.markers) {
                bind(value, marker, self.nulls, CellWriter::new(row)).map_err(SerializationError::new)?;
            }
            let whole = SerializedValues::new_from_frame(&mut row.as_slice()).map_err(SerializationError::new)?;
            writer.append_serialize_row(&whole);
            Ok(())
        })
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

fn bind(value: &Value<'_>, marker: &Marker, nulls: Nulls, cell: CellWriter<'_>) -> Result<(), BindError> {
    let written = match (value, nulls) {
        (Value::Null, Nulls::Unset) => Ok(cell.set_unset()),
        (Value::Null, Nulls::Refused) => Err(ConvertError::Null(marker.ty.to_string())),
        (value, _) => write(value, &marker.ty, cell),
    };
    written.map(|_| ()).map_err(|error| BindError {
        marker: marker.name.clone(),
        error,
    })
}

/// The values of a write in wire format, and its timestamp: a row that waits to be sent with others.
#[derive(Debug)]
pub(super) struct Encoded {
    /// The values before the timestamp's marker, and those after it.
    values: [SerializedValues; 2],
    pub(super) timestamp_us: i64,
}

impl Encoded {
    /// Encodes the values; the timestamp goes before the marker with the given index (or after all).
    pub(super) fn new(
        values: &[Value<'_>],
        markers: &[Marker],
        timestamp: (usize, i64),
    ) -> Result<Encoded, StoreError> {
        let (place, timestamp_us) = timestamp;
        let invalid = |error: String| StoreError::permanent("value", error);
        let part = |values: &[Value<'_>], markers: &[Marker]| {
            let count = u16::try_from(values.len()).map_err(|_| invalid(TooMany(values.len()).to_string()))?;
            with_row(|row| {
                row.extend_from_slice(&count.to_be_bytes());
                for (value, marker) in values.iter().zip(markers) {
                    bind(value, marker, Nulls::Unset, CellWriter::new(row)).map_err(|e| invalid(e.to_string()))?;
                }
                SerializedValues::new_from_frame(&mut row.as_slice()).map_err(|e| invalid(e.to_string()))
            })
        };
        let (before, behind) = values.split_at(place.min(values.len()));
        let (markers_before, markers_behind) = markers.split_at(place.min(markers.len()));
        Ok(Encoded {
            values: [part(before, markers_before)?, part(behind, markers_behind)?],
            timestamp_us,
        })
    }

    /// The size of the values in bytes, without the timestamp.
    pub(super) fn len(&self) -> usize {
        self.values.iter().map(SerializedValues::buffer_size).sum()
    }

    /// The given cells of the statement's own, concatenated with their lengths: equal only for equal values.
    pub(super) fn key(&self, cells: &[usize]) -> Box<[u8]> {
        let mut key = Vec::new();
        for wanted in cells {
            let mut own = self.values.iter().flat_map(SerializedValues::iter);
            if let Some(cell) = own.nth(*wanted).and_then(|cell| cell.as_value()) {
                key.extend_from_slice(&(cell.len() as u32).to_be_bytes());
                key.extend_from_slice(cell);
            }
        }
        key.into()
    }
}

impl SerializeRow for Encoded {
    fn serialize(&self, _: &RowSerializationContext<'_>, writer: &mut RowWriter) -> Result<(), SerializationError> {
        let [before, behind] = &self.values;
        writer.append_serialize_row(before);
        // Eight bytes are never too long.
        let _ = writer.make_cell_writer().set_value(&self.timestamp_us.to_be_bytes());
        writer.append_serialize_row(behind);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        false
    }
}

/// The same row without the timestamp, which is in the request.
pub(super) struct Unstamped<'e>(pub(super) &'e Encoded);

impl SerializeRow for Unstamped<'_> {
    fn serialize(&self, _: &RowSerializationContext<'_>, writer: &mut RowWriter) -> Result<(), SerializationError> {
        self.0.values.iter().for_each(|part| writer.append_serialize_row(part));
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.0.values.iter().all(SerializedValues::is_empty)
    }
}

type Written<'b> = Converted<WrittenCellProof<'b>>;

fn write<'b>(value: &Value<'_>, ty: &ColumnType, cell: CellWriter<'b>) -> Written<'b> {
    let too_long = |_: CellOverflowError| ConvertError::Range {
        value: "a value of 2 GiB".into(),
        to: ty.to_string(),
    };
    let written = match ty {
        ColumnType::Text | ColumnType::Ascii => cell.set_value(convert::text(value, ty)?.as_bytes()),
        ColumnType::Int => cell.set_value(&convert::integer::<i32>(value, ty)?.to_be_bytes()),
        ColumnType::SmallInt => cell.set_value(&convert::integer::<i16>(value, ty)?.to_be_bytes()),
        ColumnType::TinyInt => cell.set_value(&convert::integer::<i8>(value, ty)?.to_be_bytes()),
        ColumnType::BigInt | ColumnType::Counter => cell.set_value(&convert::long(value, ty)?.to_be_bytes()),
        ColumnType::Float => cell.set_value(&convert::float(value, ty)?.to_be_bytes()),
        ColumnType::Double => cell.set_value(&convert::double(value, ty)?.to_be_bytes()),
        ColumnType::Boolean => cell.set_value(&[u8::from(convert::boolean(value, ty)?)]),
        ColumnType::Blob => cell.set_value(convert::blob(value, ty)?),
        ColumnType::Timestamp => cell.set_value(&convert::timestamp_millis(value, ty)?.to_be_bytes()),
        // Days as an unsigned number with 1970-01-01 in the middle.
        ColumnType::Date => cell.set_value(&(convert::date_days(value, ty)? as u32 ^ 1 << 31).to_be_bytes()),
        ColumnType::Time => cell.set_value(&convert::time_nanos(value, ty)?.to_be_bytes()),
        ColumnType::Uuid | ColumnType::TimeUuid => cell.set_value(&convert::uuid(value, ty)?),
        ColumnType::Varint => cell.set_value(&convert::varint(value, ty)?),
        ColumnType::Decimal => {
            let (unscaled, scale) = convert::decimal(value, ty)?;
            let mut builder = cell.into_value_builder();
            builder.append_bytes(&scale.to_be_bytes());
            builder.append_bytes(&unscaled);
            builder.finish()
        }
        ColumnType::Inet => match convert::inet(value, ty)? {
            IpAddr::V4(ip) => cell.set_value(&ip.octets()),
            IpAddr::V6(ip) => cell.set_value(&ip.octets()),
        },
        ColumnType::Duration => {
            let (months, days, nanos) = convert::duration(value, ty)?;
            let mut builder = cell.into_value_builder();
            for part in [i64::from(months), i64::from(days), nanos] {
                append_vint(&mut builder, part);
            }
            builder.finish()
        }
        ColumnType::List(item) | ColumnType::Set(item) => {
            let items = convert::items(value, ty)?;
            let mut builder = cell.into_value_builder();
            append_count(&mut builder, items.len(), ty)?;
            for value in items {
                write(value, item, builder.make_sub_writer())?;
            }
            builder.finish()
        }
        ColumnType::Map(key, item) => {
            let pairs = convert::pairs(value, ty)?;
            let mut builder = cell.into_value_builder();
            append_count(&mut builder, pairs.len(), ty)?;
            for (k, v) in pairs {
                write(k, key, builder.make_sub_writer())?;
                write(v, item, builder.make_sub_writer())?;
            }
            builder.finish()
        }
        ColumnType::Tuple(types) => {
            let items = convert::tuple_items(value, types.len(), ty)?;
            let mut builder = cell.into_value_builder();
            for (value, ty) in items.into_iter().zip(types) {
                write_nullable(Some(value), ty, builder.make_sub_writer())?;
            }
            builder.finish()
        }
        ColumnType::Udt { fields, .. } => {
            let mut builder = cell.into_value_builder();
            for (name, field) in fields {
                write_nullable(convert::field(value, name, ty)?, field, builder.make_sub_writer())?;
            }
            builder.finish()
        }
        ColumnType::Vector(item, _) => {
            let items = convert::items(value, ty)?;
            let mut builder = cell.into_value_builder();
            for value in items {
                write_vector_item(value, item, &mut builder)?;
            }
            builder.finish()
        }
        ColumnType::Any | ColumnType::Numeric(_) => return Err(convert::mismatch(value, ty)),
    };
    written.map_err(too_long)
}

fn write_nullable<'b>(value: Option<&Value<'_>>, ty: &ColumnType, cell: CellWriter<'b>) -> Written<'b> {
    match value {
        None | Some(Value::Null) => Ok(cell.set_null()),
        Some(value) => write(value, ty, cell),
    }
}

fn append_count(builder: &mut CellValueBuilder<'_>, count: usize, ty: &ColumnType) -> Converted<()> {
    let count = i32::try_from(count).map_err(|_| ConvertError::Range {
        value: format!("{count} items"),
        to: ty.to_string(),
    })?;
    builder.append_bytes(&count.to_be_bytes());
    Ok(())
}

/// Items of a fixed size are written without a length; others follow their length as an unsigned vint.
fn write_vector_item(value: &Value<'_>, item: &ColumnType, builder: &mut CellValueBuilder<'_>) -> Converted<()> {
    if fixed_in_vector(item) {
        write(value, item, builder.make_sub_writer_without_size())?;
        return Ok(());
    }
    let mut bytes = Vec::new();
    write(value, item, CellWriter::new(&mut bytes))?;
    let body = bytes.get(4..).unwrap_or_default();
    append_unsigned_vint(builder, body.len() as u64);
    builder.append_bytes(body);
    Ok(())
}

/// The types whose items have no length in a vector (Cassandra's `valueLengthIfFixed`).
pub(super) fn fixed_in_vector(ty: &ColumnType) -> bool {
    match ty {
        ColumnType::Boolean
        | ColumnType::Float
        | ColumnType::Double
        | ColumnType::Int
        | ColumnType::BigInt
        | ColumnType::Timestamp
        | ColumnType::Uuid
        | ColumnType::TimeUuid => true,
        ColumnType::Vector(item, _) => fixed_in_vector(item),
        _ => false,
    }
}

fn append_vint(builder: &mut CellValueBuilder<'_>, value: i64) {
    append_unsigned_vint(builder, (value << 1 ^ value >> 63) as u64);
}

/// The protocol's vint: the first byte begins with as many ones as bytes follow.
fn append_unsigned_vint(builder: &mut CellValueBuilder<'_>, value: u64) {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    let extra = bits.saturating_sub(1) / 7;
    if extra >= 8 {
        builder.append_bytes(&[0xff]);
        return builder.append_bytes(&value.to_be_bytes());
    }
    let marked = value | u64::from(!(0xffu8 >> extra)) << (8 * extra);
    builder.append_bytes(&marked.to_be_bytes()[7 - extra..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::value::Unit;
    use ::scylla::frame::response::result::{CollectionType, ColumnType as Driver, NativeType};
    use ::scylla::serialize::value::SerializeValue;
    use ::scylla::value::{CqlDate, CqlDecimal, CqlDuration, CqlTime, CqlTimestamp, CqlVarint};
    use proptest::prelude::*;

    fn ours(value: &Value<'_>, ty: &ColumnType) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(value, ty, CellWriter::new(&mut bytes)).expect("binds");
        bytes
    }

    fn theirs(value: &impl SerializeValue, ty: NativeType) -> Vec<u8> {
        let mut bytes = Vec::new();
        value
            .serialize(&Driver::Native(ty), CellWriter::new(&mut bytes))
            .expect("binds");
        bytes
    }

    /// The number of values of a row on the wire, and their bytes.
    fn cells(row: &impl SerializeRow) -> (usize, Vec<u8>) {
        let mut bytes = Vec::new();
        let mut writer = RowWriter::new(&mut bytes);
        row.serialize(&RowSerializationContext::empty(), &mut writer)
            .expect("binds");
        (writer.value_count(), bytes)
    }

    fn longs(values: &[i64]) -> (usize, Vec<u8>) {
        let cells = values.iter().flat_map(|v| ours(&Value::Long(*v), &ColumnType::BigInt));
        (values.len(), cells.collect())
    }

    proptest! {
        #[test]
        fn a_row_has_its_timestamp_at_the_marker_in_a_batch_and_not_by_itself(
            own in prop::collection::vec(any::<i64>(), 0..6), place in 0..6usize, at in any::<i64>()
        ) {
            let place = place % (own.len() + 1);
            let values: Vec<Value<'_>> = own.iter().copied().map(Value::Long).collect();
            let marker = || Marker { name: "x".into(), ty: ColumnType::BigInt };
            let markers: Vec<Marker> = own.iter().map(|_| marker()).collect();
            let row = Encoded::new(&values, &markers, (place, at)).expect("binds");
            let mut stamped = own.clone();
            stamped.insert(place, at);
            prop_assert_eq!(cells(&row), longs(&stamped));
            prop_assert_eq!(cells(&Unstamped(&row)), longs(&own));
            prop_assert_eq!(row.timestamp_us, at);
            // The cells of the key are written as on the wire.
            let all: Vec<usize> = (0..own.len()).collect();
            prop_assert_eq!(row.key(&all).into_vec(), longs(&own).1);
        }

        #[test]
        fn scalars_are_written_as_the_driver_writes_them(long: i64, int: i32, double: f64, s in "\\PC*") {
            prop_assert_eq!(ours(&Value::Long(long), &ColumnType::BigInt), theirs(&long, NativeType::BigInt));
            prop_assert_eq!(ours(&Value::Int(int), &ColumnType::Int), theirs(&int, NativeType::Int));
            prop_assert_eq!(ours(&Value::Double(double), &ColumnType::Double), theirs(&double, NativeType::Double));
            prop_assert_eq!(ours(&Value::String(s.as_str().into()), &ColumnType::Text), theirs(&s, NativeType::Text));
            let date = CqlDate((i64::from(int) + (1 << 31)) as u32);
            prop_assert_eq!(ours(&Value::Date(int), &ColumnType::Date), theirs(&date, NativeType::Date));
            let at = Value::Timestamp(long, Unit::Millis);
            prop_assert_eq!(ours(&at, &ColumnType::Timestamp), theirs(&CqlTimestamp(long), NativeType::Timestamp));
            let nanos = long.rem_euclid(86_400_000_000_000);
            prop_assert_eq!(ours(&Value::Time(nanos, Unit::Nanos), &ColumnType::Time), theirs(&CqlTime(nanos), NativeType::Time));
            let unscaled = long.to_be_bytes().to_vec();
            let decimal = Value::Decimal { unscaled: unscaled.clone().into(), scale: int };
            // In as few bytes as the number needs, because a key is found by its bytes.
            let shortest = crate::store::decimal::from_i64(long);
            let driver = CqlDecimal::from_signed_be_bytes_and_exponent(shortest.clone(), int);
            prop_assert_eq!(ours(&decimal, &ColumnType::Decimal), theirs(&driver, NativeType::Decimal));
            let varint = CqlVarint::from_signed_bytes_be_slice(&shortest);
            let whole = Value::Decimal { unscaled: unscaled.into(), scale: 0 };
            prop_assert_eq!(ours(&whole, &ColumnType::Varint), theirs(&varint, NativeType::Varint));
            prop_assert_eq!(ours(&Value::Long(long), &ColumnType::Varint), theirs(&varint, NativeType::Varint));
        }

        #[test]
        fn durations_are_written_as_the_driver_writes_them(months in 0..=i32::MAX, days in 0..=i32::MAX, millis: u32) {
            let value = Value::Duration { months: months as u32, days: days as u32, millis };
            let driver = CqlDuration { months, days, nanoseconds: i64::from(millis) * 1_000_000 };
            prop_assert_eq!(ours(&value, &ColumnType::Duration), theirs(&driver, NativeType::Duration));
        }

        #[test]
        fn lists_are_written_as_the_driver_writes_them(items: Vec<i32>) {
            let ty = Driver::Collection { frozen: false, typ: CollectionType::List(Box::new(Driver::Native(NativeType::Int))) };
            let mut wanted = Vec::new();
            SerializeValue::serialize(&items, &ty, CellWriter::new(&mut wanted)).expect("binds");
            let value = Value::List(items.into_iter().map(Value::Int).collect());
            prop_assert_eq!(ours(&value, &ColumnType::List(Box::new(ColumnType::Int))), wanted);
        }

        #[test]
        fn vectors_are_written_as_the_driver_writes_them(items in prop::collection::vec("\\PC{0,200}", 3)) {
            let ty = Driver::Vector { typ: Box::new(Driver::Native(NativeType::Text)), dimensions: 3 };
            let mut wanted = Vec::new();
            SerializeValue::serialize(&items, &ty, CellWriter::new(&mut wanted)).expect("binds");
            let value = Value::List(items.into_iter().map(|s| Value::String(s.into())).collect());
            prop_assert_eq!(ours(&value, &ColumnType::Vector(Box::new(ColumnType::Text), 3)), wanted);
        }
    }

    #[test]
    fn a_field_that_the_type_does_not_have_is_left_out() {
        let field = |name: &'static str, number| (name.into(), Value::Int(number));
        let ty = ColumnType::Udt {
            name: "address".to_owned(),
            fields: vec![("zip".to_owned(), ColumnType::Int)],
        };
        let more = Value::Record(vec![field("floor", 3), field("zip", 75001)]);
        let zip = Value::Record(vec![field("zip", 75001)]);
        assert_eq!(ours(&more, &ty), ours(&zip, &ty));
    }

    #[test]
    fn a_null_inside_a_list_is_refused() {
        let value = Value::List(vec![Value::Null]);
        let mut bytes = Vec::new();
        let error = write(
            &value,
            &ColumnType::List(Box::new(ColumnType::Int)),
            CellWriter::new(&mut bytes),
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "null inside list<int>");
    }
}
