//! Decodes any datum to a [`Value`]: the general case, beside the compiled one.
//!
//! It reads values that a plan has found (between two marks), whole data for tools, and fields that are converted. It makes the same checks as
//! [`run`](super::run), with the same errors, on bytes that need no padding.

use std::borrow::Cow;

use super::error::DatumError;
use super::reader::Reader;
use super::scan::{HIGH_BITS, zigzag};
use super::schema::{Logical, Node, NodeId, Schema, Shape};
use super::uuid;
use super::value::{Unit, Value};

/// Nesting limit in records, arrays and maps for values that are built, written or converted. Those functions are
/// recursive, and this is what the thread's stack can hold.
pub(crate) const MAX_LEVELS: usize = 128;

impl Schema {
    /// The whole datum as a value.
    ///
    /// # Errors
    /// The first reason why the bytes are not a datum of the schema, and whatever [`Plan::value`](super::Plan::value)
    /// refuses.
    pub fn decode<'a>(&'a self, datum: &'a [u8]) -> Result<Value<'a>, DatumError> {
        let mut reader = Reader::new(datum, 0, datum.len())?;
        let value = reader.value(self, self.root(), 0)?;
        match datum.len() - reader.at {
            0 => Ok(value),
            count => Err(DatumError::Trailing { count, at: reader.at }),
        }
    }
}

/// The fast path for the most common types: a simple type, or a union of one with null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short {
    kind: Kind,
    /// For a union with null: the encoded index of null, and that of the other branch.
    union: Option<(u8, u8)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A string without a logical type.
    Text,
    /// A UUID in a string.
    Uuid,
    /// An `int` without a logical type.
    Int,
    /// A `long` without a logical type.
    Long,
    /// A timestamp.
    Timestamp(Unit),
    Double,
    Boolean,
    /// The symbol of this enum.
    Symbol(NodeId),
    /// Bytes without a logical type.
    Bytes,
    /// A decimal of this scale in bytes.
    Decimal(i32),
    /// Anything else.
    None,
}

impl Short {
    /// The fast path of a type, determined once.
    pub fn of(schema: &Schema, id: NodeId) -> Short {
        let null = |id: &NodeId| schema.node(*id).shape == Shape::Null;
        let (id, union) = match &schema.node(id).shape {
            Shape::Union(branches) => match branches.as_slice() {
                [first, other] if null(first) => (*other, Some((0, 2))),
                [other, second] if null(second) => (*other, Some((2, 0))),
                _ => (id, None),
            },
            _ => (id, None),
        };
        let node = schema.node(id);
        let kind = match (&node.shape, node.logical) {
            (Shape::String, None) => Kind::Text,
            (Shape::String, Some(Logical::Uuid)) => Kind::Uuid,
            (Shape::Int, None) => Kind::Int,
            (Shape::Long, None) => Kind::Long,
            (Shape::Long, Some(Logical::Timestamp(unit))) => Kind::Timestamp(unit),
            (Shape::Double, None) => Kind::Double,
            (Shape::Boolean, None) => Kind::Boolean,
            (Shape::Enum { .. }, None) => Kind::Symbol(id),
            (Shape::Bytes, None) => Kind::Bytes,
            (Shape::Bytes, Some(Logical::Decimal { scale, .. })) => Kind::Decimal(scale as i32),
            _ => Kind::None,
        };
        Short { kind, union }
    }
}

/// The value of a node that is encoded in `buf[start..end]`.
#[inline(always)]
pub(crate) fn decode<'a>(
    schema: &'a Schema,
    (id, short): (NodeId, Short),
    buf: &'a [u8],
    start: usize,
    end: usize,
) -> Result<Value<'a>, DatumError> {
    let inner = match short.union {
        None => start,
        Some((null, _)) if buf.get(start..end) == Some([null].as_slice()) => return Ok(Value::Null),
        Some((_, other)) if buf.get(start) == Some(&other) => start + 1,
        Some(_) => return any(schema, id, buf, start, end),
    };
    // Each arm builds its value where it is returned. Built first, it would be copied, with loads that wait for stores.
    match short.kind {
        Kind::Text => {
            if let Some(text) = text(buf, inner, end) {
                return Ok(Value::String(Cow::Borrowed(text)));
            }
        }
        Kind::Uuid => {
            if let Some(uuid) = counted(buf, inner, end).and_then(uuid::parse) {
                return Ok(Value::Uuid(uuid));
            }
        }
        Kind::Int => {
            if let Some(value) = number32(buf, inner, end) {
                return Ok(Value::Int(value));
            }
        }
        Kind::Long => {
            if let Some(value) = number(buf, inner, end) {
                return Ok(Value::Long(value));
            }
        }
        Kind::Timestamp(unit) => {
            if let Some(value) = number(buf, inner, end) {
                return Ok(Value::Timestamp(value, unit));
            }
        }
        Kind::Double => {
            if let Some(Ok(value)) = buf.get(inner..end).map(<[u8; 8]>::try_from) {
                return Ok(Value::Double(f64::from_le_bytes(value)));
            }
        }
        Kind::Boolean => {
            if let Some([value @ (0 | 1)]) = buf.get(inner..end) {
                return Ok(Value::Bool(*value == 1));
            }
        }
        Kind::Symbol(node) => {
            if let Shape::Enum { symbols, .. } = &schema.node(node).shape
                && let Some(index) = number32(buf, inner, end)
                && let Some(symbol) = usize::try_from(index).ok().and_then(|index| symbols.get(index))
            {
                return Ok(Value::String(Cow::Borrowed(symbol.as_str())));
            }
        }
        Kind::Bytes => {
            if let Some(bytes) = counted(buf, inner, end) {
                return Ok(Value::Bytes(Cow::Borrowed(bytes)));
            }
        }
        Kind::Decimal(scale) => {
            if let Some(unscaled) = counted(buf, inner, end) {
                return Ok(Value::Decimal {
                    unscaled: Cow::Borrowed(unscaled),
                    scale,
                });
            }
        }
        Kind::None => {}
    }
    any(schema, id, buf, start, end)
}

#[cold]
#[inline(never)]
fn any<'a>(schema: &'a Schema, id: NodeId, buf: &'a [u8], start: usize, end: usize) -> Result<Value<'a>, DatumError> {
    Reader::new(buf, start, end)?.value(schema, id, 0)
}

/// The bytes, at most 63, if `buf[start..end]` holds exactly them and their length.
#[inline(always)]
fn counted(buf: &[u8], start: usize, end: usize) -> Option<&[u8]> {
    let (first, bytes) = buf.get(start..end)?.split_first()?;
    (first & 0x81 == 0 && usize::from(first >> 1) == bytes.len()).then_some(bytes)
}

/// The same for a string.
#[inline(always)]
fn text(buf: &[u8], start: usize, end: usize) -> Option<&str> {
    let text = counted(buf, start, end)?;
    if is_ascii(text) {
        // SAFETY: ASCII is UTF-8.
        Some(unsafe { std::str::from_utf8_unchecked(text) })
    } else {
        std::str::from_utf8(text).ok()
    }
}

/// Whether all bytes are ASCII, fast for short text: looks at a chunk of each end, which may overlap.
#[inline(always)]
fn is_ascii(text: &[u8]) -> bool {
    let word = |chunk: &[u8; 8]| u64::from_le_bytes(*chunk);
    let words = |chunk: &[u8; 16]| u128::from_le_bytes(*chunk);
    let bits = match (text.len(), text.first_chunk(), text.last_chunk()) {
        (..=16, Some(first), Some(last)) => word(first) | word(last),
        (17..=32, ..) => match (text.first_chunk(), text.last_chunk()) {
            (Some(first), Some(last)) => {
                let bits = words(first) | words(last);
                bits as u64 | (bits >> 64) as u64
            }
            _ => return text.is_ascii(),
        },
        (33.., ..) => return text.is_ascii(),
        _ => text.iter().fold(0, |bits, byte| bits | u64::from(*byte)),
    };
    bits & HIGH_BITS == 0
}

/// The number of at most eight bytes, if `buf[start..end]` holds exactly one.
#[inline(always)]
fn number(buf: &[u8], start: usize, end: usize) -> Option<i64> {
    let length = end.wrapping_sub(start);
    let word = u64::from_le_bytes(*buf.get(start..)?.first_chunk()?);
    // The first byte without a continuation bit must be the last.
    if !(1..=8).contains(&length) || (!word & HIGH_BITS).trailing_zeros() as usize != 8 * length - 1 || end > buf.len()
    {
        return None;
    }
    // Closes the gaps between the groups of seven bits: eight, four, then two groups.
    let word = word & (u64::MAX >> (64 - 8 * length)) & !HIGH_BITS;
    let word = word & 0x007f_007f_007f_007f | (word & 0x7f00_7f00_7f00_7f00) >> 1;
    let word = word & 0x0000_3fff_0000_3fff | (word & 0x3fff_0000_3fff_0000) >> 2;
    let word = word & 0x0000_0000_0fff_ffff | (word & 0x0fff_ffff_0000_0000) >> 4;
    Some(zigzag(word))
}

/// The same for 32 bits, at most five bytes.
#[inline(always)]
fn number32(buf: &[u8], start: usize, end: usize) -> Option<i32> {
    let value = number(buf, start, end)?;
    i32::try_from(value).ok().filter(|_| end - start <= 5)
}

impl<'a> Reader<'a> {
    /// The value of a node, at nesting depth `level`.
    pub fn value(&mut self, schema: &'a Schema, id: NodeId, level: usize) -> Result<Value<'a>, DatumError> {
        if level > MAX_LEVELS {
            return Err(DatumError::Depth { at: self.at });
        }
        if schema.facts(id).empty {
            self.claim_empty()?;
        }
        let node = schema.node(id);
        Ok(match &node.shape {
            Shape::Null => Value::Null,
            Shape::Boolean => Value::Bool(self.boolean()?),
            Shape::Int => int(node, self.int()?),
            Shape::Long => long(node, self.long()?),
            Shape::Float => Value::Float(self.float()?),
            Shape::Double => Value::Double(self.double()?),
            Shape::Bytes => bytes(node, self.bytes()?),
            Shape::String => {
                let text = self.string()?;
                match node.logical {
                    Some(Logical::Uuid) => {
                        let uuid = uuid::parse(text.as_bytes());
                        Value::Uuid(uuid.ok_or(DatumError::Uuid {
                            at: self.at - text.len(),
                        })?)
                    }
                    _ => Value::String(Cow::Borrowed(text)),
                }
            }
            Shape::Fixed { size, .. } => fixed(node, self.take(*size)?),
            Shape::Enum { symbols, .. } => Value::String(Cow::Borrowed(&symbols[self.symbol(symbols.len())?])),
            Shape::Union(branches) => {
                let branch = self.branch(branches.len())?;
                self.value(schema, branches[branch], level)?
            }
            Shape::Array(items) => {
                let empty = schema.facts(*items).empty;
                Value::List(self.items(empty, |reader| reader.value(schema, *items, level + 1))?)
            }
            Shape::Map(values) => Value::Map(self.items(false, |reader| {
                let key = Value::String(Cow::Borrowed(reader.string()?));
                Ok::<_, DatumError>((key, reader.value(schema, *values, level + 1)?))
            })?),
            Shape::Record { fields, .. } => {
                let mut values = Vec::with_capacity(fields.len());
                for field in fields {
                    let value = self.value(schema, field.node, level + 1)?;
                    values.push((Cow::Borrowed(field.name.as_str()), value));
                }
                Value::Record(values)
            }
        })
    }

    /// Moves past the datum of a node, at nesting depth `level`.
    pub fn skip(&mut self, schema: &Schema, id: NodeId, level: usize) -> Result<(), DatumError> {
        if level > MAX_LEVELS {
            return Err(DatumError::Depth { at: self.at });
        }
        if schema.facts(id).empty {
            return Ok(());
        }
        match &schema.node(id).shape {
            Shape::Null => Ok(()),
            Shape::Boolean => self.boolean().map(|_| ()),
            Shape::Int => self.int().map(|_| ()),
            Shape::Long => self.long().map(|_| ()),
            Shape::Float => self.take(4).map(|_| ()),
            Shape::Double => self.take(8).map(|_| ()),
            Shape::Bytes => self.bytes().map(|_| ()),
            Shape::String => self.string().map(|_| ()),
            Shape::Fixed { size, .. } => self.take(*size).map(|_| ()),
            Shape::Enum { symbols, .. } => self.symbol(symbols.len()).map(|_| ()),
            Shape::Union(branches) => {
                let branch = self.branch(branches.len())?;
                self.skip(schema, branches[branch], level)
            }
            Shape::Array(items) => {
                let empty = schema.facts(*items).empty;
                let item = |reader: &mut Self| {
                    if empty {
                        reader.claim_empty()?;
                    }
                    reader.skip(schema, *items, level + 1)
                };
                self.items(empty, item).map(|_| ())
            }
            Shape::Map(values) => self
                .items(false, |reader| {
                    reader.string()?;
                    reader.skip(schema, *values, level + 1)
                })
                .map(|_| ()),
            Shape::Record { fields, .. } => fields
                .iter()
                .try_for_each(|field| self.skip(schema, field.node, level + 1)),
        }
    }
}

fn int(node: &Node, value: i32) -> Value<'static> {
    match node.logical {
        Some(Logical::Date) => Value::Date(value),
        Some(Logical::Time(unit)) => Value::Time(value.into(), unit),
        _ => Value::Int(value),
    }
}

fn long(node: &Node, value: i64) -> Value<'static> {
    match node.logical {
        Some(Logical::Time(unit)) => Value::Time(value, unit),
        Some(Logical::Timestamp(unit)) => Value::Timestamp(value, unit),
        Some(Logical::LocalTimestamp(unit)) => Value::LocalTimestamp(value, unit),
        _ => Value::Long(value),
    }
}

fn bytes<'a>(node: &Node, value: &'a [u8]) -> Value<'a> {
    match node.logical {
        Some(Logical::Decimal { scale, .. }) => Value::Decimal {
            unscaled: Cow::Borrowed(value),
            scale: scale as i32,
        },
        _ => Value::Bytes(Cow::Borrowed(value)),
    }
}

fn fixed<'a>(node: &Node, value: &'a [u8]) -> Value<'a> {
    let amount = |at: usize| {
        value
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |b| u32::from_le_bytes(*b))
    };
    match (node.logical, value.first_chunk()) {
        (Some(Logical::Uuid), Some(uuid)) => Value::Uuid(*uuid),
        (Some(Logical::Duration), _) => Value::Duration {
            months: amount(0),
            days: amount(4),
            millis: amount(8),
        },
        _ => bytes(node, value),
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
