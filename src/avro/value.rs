//! The values of a pipeline and their types: what an Avro field holds, what a CQL column returns and what an expression computes.
//!
//! A value borrows from the record's bytes or from a cached row where it can, so reading a field allocates nothing. `Null` stands for an explicit null
//! and for an absent field; writes bind it as UNSET.

use std::borrow::Cow;
use std::fmt;

/// The unit of a time or timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Thousandths of a second.
    Millis,
    /// Millionths of a second.
    Micros,
    /// Billionths of a second.
    Nanos,
}

/// One value. `'a` is the lifetime of the record or row that it borrows from; a `Value<'static>` owns everything.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// An explicit null, or an absent field.
    Null,
    /// `boolean`.
    Bool(bool),
    /// `int`, 32 bits.
    Int(i32),
    /// `long`, 64 bits.
    Long(i64),
    /// `float`, 32 bits.
    Float(f32),
    /// `double`, 64 bits.
    Double(f64),
    /// `string`, and the symbol of an `enum`.
    String(Cow<'a, str>),
    /// `bytes` and `fixed`.
    Bytes(Cow<'a, [u8]>),
    /// Days since 1970-01-01.
    Date(i32),
    /// Time of day since midnight, in the unit.
    Time(i64, Unit),
    /// Instant since 1970-01-01T00:00:00Z, in the unit.
    Timestamp(i64, Unit),
    /// Date and time without a zone, since 1970-01-01T00:00:00, in the unit.
    LocalTimestamp(i64, Unit),
    /// `unscaled × 10^-scale`; `unscaled` is a big-endian two's-complement integer, empty meaning zero.
    Decimal {
        /// Big-endian two's complement.
        unscaled: Cow<'a, [u8]>,
        /// Digits after the decimal point.
        scale: i32,
    },
    /// The 16 bytes of a UUID, in network order.
    Uuid([u8; 16]),
    /// Avro's `duration`: three independent unsigned amounts.
    Duration {
        /// Calendar months.
        months: u32,
        /// Days.
        days: u32,
        /// Milliseconds.
        millis: u32,
    },
    /// `array`; CQL list and set.
    List(Vec<Value<'a>>),
    /// `map`, in wire order; CQL map (whose keys need not be strings).
    Map(Vec<(Value<'a>, Value<'a>)>),
    /// `record`, in field order; CQL UDT.
    Record(Vec<(Cow<'a, str>, Value<'a>)>),
}

/// The type of a value, known before any record is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// Always null.
    Null,
    /// See [`Value::Bool`]; likewise for the others.
    Bool,
    /// 32-bit integer.
    Int,
    /// 64-bit integer.
    Long,
    /// 32-bit float.
    Float,
    /// 64-bit float.
    Double,
    /// Text.
    String,
    /// Symbols of an enum; its values are [`Value::String`].
    Enum(Vec<String>),
    /// Bytes of any length.
    Bytes,
    /// Bytes of a fixed length.
    Fixed(usize),
    /// Days.
    Date,
    /// Time of day.
    Time(Unit),
    /// Instant.
    Timestamp(Unit),
    /// Date and time without a zone.
    LocalTimestamp(Unit),
    /// Decimal of at most `precision` digits (0: unbounded), `scale` of them after the decimal point (for a CQL decimal: any number).
    Decimal {
        /// Total digits, 0 if unbounded.
        precision: u32,
        /// Digits after the decimal point.
        scale: u32,
    },
    /// UUID.
    Uuid,
    /// Months, days, milliseconds.
    Duration,
    /// List of items of one type.
    List(Box<Type>),
    /// Map from a key type to a value type.
    Map(Box<Type>, Box<Type>),
    /// Named fields in order.
    Record(Vec<(String, Type)>),
    /// One of several non-null types.
    Union(Vec<Type>),
    /// The type, or null.
    Nullable(Box<Type>),
    /// Known only per record, as for the result of a general expression.
    Any,
}

impl Value<'_> {
    /// Detaches the value from what it borrows from.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Null => Value::Null,
            Value::Bool(v) => Value::Bool(v),
            Value::Int(v) => Value::Int(v),
            Value::Long(v) => Value::Long(v),
            Value::Float(v) => Value::Float(v),
            Value::Double(v) => Value::Double(v),
            Value::String(v) => Value::String(Cow::Owned(v.into_owned())),
            Value::Bytes(v) => Value::Bytes(Cow::Owned(v.into_owned())),
            Value::Date(v) => Value::Date(v),
            Value::Time(v, u) => Value::Time(v, u),
            Value::Timestamp(v, u) => Value::Timestamp(v, u),
            Value::LocalTimestamp(v, u) => Value::LocalTimestamp(v, u),
            Value::Decimal { unscaled, scale } => Value::Decimal {
                unscaled: Cow::Owned(unscaled.into_owned()),
                scale,
            },
            Value::Uuid(v) => Value::Uuid(v),
            Value::Duration { months, days, millis } => Value::Duration { months, days, millis },
            Value::List(v) => Value::List(v.into_iter().map(Value::into_owned).collect()),
            Value::Map(v) => Value::Map(v.into_iter().map(|(k, v)| (k.into_owned(), v.into_owned())).collect()),
            Value::Record(v) => Value::Record(
                v.into_iter()
                    .map(|(k, v)| (Cow::Owned(k.into_owned()), v.into_owned()))
                    .collect(),
            ),
        }
    }

    /// A view of the value that borrows from it.
    pub fn borrowed(&self) -> Value<'_> {
        match self {
            Value::Null => Value::Null,
            Value::Bool(v) => Value::Bool(*v),
            Value::Int(v) => Value::Int(*v),
            Value::Long(v) => Value::Long(*v),
            Value::Float(v) => Value::Float(*v),
            Value::Double(v) => Value::Double(*v),
            Value::String(v) => Value::String(Cow::Borrowed(v)),
            Value::Bytes(v) => Value::Bytes(Cow::Borrowed(v)),
            Value::Date(v) => Value::Date(*v),
            Value::Time(v, u) => Value::Time(*v, *u),
            Value::Timestamp(v, u) => Value::Timestamp(*v, *u),
            Value::LocalTimestamp(v, u) => Value::LocalTimestamp(*v, *u),
            Value::Decimal { unscaled, scale } => Value::Decimal {
                unscaled: Cow::Borrowed(unscaled),
                scale: *scale,
            },
            Value::Uuid(v) => Value::Uuid(*v),
            Value::Duration { months, days, millis } => Value::Duration {
                months: *months,
                days: *days,
                millis: *millis,
            },
            Value::List(v) => Value::List(v.iter().map(Value::borrowed).collect()),
            Value::Map(v) => Value::Map(v.iter().map(|(k, v)| (k.borrowed(), v.borrowed())).collect()),
            Value::Record(v) => Value::Record(
                v.iter()
                    .map(|(k, v)| (Cow::Borrowed(k.as_ref()), v.borrowed()))
                    .collect(),
            ),
        }
    }

    /// Drops the value, faster than `drop`. Nearly all values borrow or are numbers, so there is nothing to free; this checks that first, while a
    /// compiled drop saves registers and goes through a jump table.
    #[inline(always)]
    pub fn release(self) {
        #[cold]
        #[inline(never)]
        fn free(value: Value<'_>) {
            drop(value);
        }
        match &self {
            Value::String(Cow::Owned(_))
            | Value::Bytes(Cow::Owned(_))
            | Value::Decimal {
                unscaled: Cow::Owned(_),
                ..
            }
            | Value::List(_)
            | Value::Map(_)
            | Value::Record(_) => free(self),
            _ => std::mem::forget(self),
        }
    }

    /// Whether this is [`Value::Null`].
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }
}

impl Type {
    /// The type without its nullability.
    pub fn non_null(&self) -> &Type {
        match self {
            Type::Nullable(t) => t.non_null(),
            t => t,
        }
    }

    /// The type, or null; idempotent.
    pub fn nullable(self) -> Type {
        match self {
            Type::Nullable(_) | Type::Null | Type::Any => self,
            t => Type::Nullable(Box::new(t)),
        }
    }

    /// Whether null is among its values.
    pub fn is_nullable(&self) -> bool {
        matches!(self, Type::Nullable(_) | Type::Null | Type::Any)
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Millis => "millis",
            Unit::Micros => "micros",
            Unit::Nanos => "nanos",
        })
    }
}

/// Uses Avro's words, as the messages of the type check do: `timestamp-millis`, `array<string>`, `long or null`.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("boolean"),
            Type::Int => f.write_str("int"),
            Type::Long => f.write_str("long"),
            Type::Float => f.write_str("float"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Enum(_) => f.write_str("enum"),
            Type::Bytes => f.write_str("bytes"),
            Type::Fixed(n) => write!(f, "fixed({n})"),
            Type::Date => f.write_str("date"),
            Type::Time(u) => write!(f, "time-{u}"),
            Type::Timestamp(u) => write!(f, "timestamp-{u}"),
            Type::LocalTimestamp(u) => write!(f, "local-timestamp-{u}"),
            Type::Decimal { precision: 0, .. } => f.write_str("decimal"),
            Type::Decimal { precision, scale } => write!(f, "decimal({precision}, {scale})"),
            Type::Uuid => f.write_str("uuid"),
            Type::Duration => f.write_str("duration"),
            Type::List(t) => write!(f, "array<{t}>"),
            Type::Map(k, v) if **k == Type::String => write!(f, "map<{v}>"),
            Type::Map(k, v) => write!(f, "map<{k}, {v}>"),
            Type::Record(_) => f.write_str("record"),
            Type::Union(ts) => {
                for (i, t) in ts.iter().enumerate() {
                    write!(f, "{}{t}", if i > 0 { " | " } else { "" })?;
                }
                Ok(())
            }
            Type::Nullable(t) => write!(f, "{t} or null"),
            Type::Any => f.write_str("any"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that own memory, and ones that do not. Under Miri this finds memory that is leaked or freed twice.
    #[test]
    fn what_a_value_owns_is_freed_with_it() {
        let text = String::from("text");
        let bytes = || Cow::Owned(vec![1, 2]);
        let owned = || Value::String(Cow::Owned(text.clone()));
        for value in [
            Value::Null,
            Value::Long(i64::MIN),
            Value::Uuid([0xff; 16]),
            Value::String(Cow::Borrowed(&text)),
            Value::String(Cow::Owned(String::new())),
            owned(),
            Value::Bytes(Cow::Borrowed(text.as_bytes())),
            Value::Bytes(bytes()),
            Value::Decimal {
                unscaled: bytes(),
                scale: 2,
            },
            Value::List(vec![owned(), Value::Null]),
            Value::Map(vec![(owned(), owned())]),
            Value::Record(vec![(Cow::Owned(text.clone()), owned())]),
        ] {
            value.clone().release();
            assert_eq!(value, value.clone());
        }
    }
}
