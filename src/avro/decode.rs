//! Any datum to a [`Value`]: the general case beside the compiled one.
//!
//! It reads what a plan has found (a value between two marks), whole data for tools, and fields that are converted. It
//! trusts nothing: the same checks as in [`run`](super::run), with the same answers, on bytes that need no padding.

use std::borrow::Cow;

use super::error::DatumError;
use super::program::MAX_DEPTH;
use super::scan;
use super::schema::{Logical, Node, NodeId, Schema, Shape};
use super::uuid;
use super::value::Value;

/// Values without bytes that are built, beyond one for each byte. More are refused: five bytes may claim thousands of
/// millions.
const MAX_EMPTY_VALUES: u64 = 65_536;

/// Items that a list has room for at once, whatever its first block claims.
const MAX_RESERVE: u64 = 1_024;

impl Schema {
    /// The whole datum as a value.
    ///
    /// # Errors
    /// The first thing that keeps the bytes from being a datum of the schema, and what [`Plan::value`](super::Plan::value)
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

/// The value of a node that is encoded in `buf[start..end]`.
pub(crate) fn decode<'a>(
    schema: &'a Schema,
    id: NodeId,
    buf: &'a [u8],
    start: usize,
    end: usize,
) -> Result<Value<'a>, DatumError> {
    Reader::new(buf, start, end)?.value(schema, id, 0)
}

/// Reads at a position that moves.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    /// The position.
    pub at: usize,
    /// Values without bytes that may still be built.
    empties: u64,
}

impl<'a> Reader<'a> {
    /// A reader of `buf[start..end]` whose positions are those of `buf`.
    pub fn new(buf: &'a [u8], start: usize, end: usize) -> Result<Reader<'a>, DatumError> {
        let bytes = buf.get(..end).filter(|_| start <= end).ok_or(DatumError::Caller)?;
        Ok(Reader {
            bytes,
            at: start,
            empties: MAX_EMPTY_VALUES + (end - start) as u64,
        })
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DatumError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest
            .get(..count)
            .ok_or(DatumError::Truncated { at: self.bytes.len() })?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DatumError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// A varint of at most `limit` bytes, the last of which is at most `last`.
    fn varint(&mut self, limit: usize, last: u8) -> Result<i64, DatumError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let mut raw = 0;
        for (i, byte) in rest.iter().take(limit).enumerate() {
            if i + 1 == limit && *byte > last {
                break;
            }
            raw |= u64::from(byte & 0x7f) << (7 * i);
            if *byte < 0x80 {
                self.at += i + 1;
                return Ok(scan::zigzag(raw));
            }
        }
        let bits = if limit == 5 { 32 } else { 64 };
        Err(if rest.len() < limit {
            DatumError::Truncated { at: self.bytes.len() }
        } else {
            DatumError::VarintOverflow { bits, at: self.at }
        })
    }

    pub fn long(&mut self) -> Result<i64, DatumError> {
        self.varint(10, 1)
    }

    pub fn int(&mut self) -> Result<i32, DatumError> {
        self.varint(5, 0x0f).map(|value| value as i32)
    }

    pub fn float(&mut self) -> Result<f32, DatumError> {
        self.array().map(f32::from_le_bytes)
    }

    pub fn double(&mut self) -> Result<f64, DatumError> {
        self.array().map(f64::from_le_bytes)
    }

    fn boolean(&mut self) -> Result<bool, DatumError> {
        let at = self.at;
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [value] => Err(DatumError::Boolean { value, at }),
        }
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], DatumError> {
        let at = self.at;
        let length = self.long()?;
        if length < 0 {
            return Err(DatumError::NegativeLength { at });
        }
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    pub fn string(&mut self) -> Result<&'a str, DatumError> {
        let bytes = self.bytes()?;
        simdutf8::basic::from_utf8(bytes).map_err(|_| DatumError::Utf8 {
            at: self.at - bytes.len(),
        })
    }

    pub fn branch(&mut self, branches: usize) -> Result<usize, DatumError> {
        let at = self.at;
        let index = self.int()?;
        let found = usize::try_from(index).ok().filter(|index| *index < branches);
        found.ok_or(DatumError::UnionIndex {
            index,
            branches: branches as u32,
            at,
        })
    }

    pub fn symbol(&mut self, symbols: usize) -> Result<usize, DatumError> {
        let at = self.at;
        let index = self.int()?;
        let found = usize::try_from(index).ok().filter(|index| *index < symbols);
        found.ok_or(DatumError::EnumIndex {
            index,
            symbols: symbols as u32,
            at,
        })
    }

    /// Reads all items of an array or map with `item`, which reads one. Items without bytes may be claimed in any number:
    /// with `empty`, their number is limited.
    pub fn items<T, E: From<DatumError>>(
        &mut self,
        empty: bool,
        mut item: impl FnMut(&mut Self) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        let mut items = Vec::new();
        loop {
            let at = self.at;
            let count = self.long()?;
            if count == 0 {
                return Ok(items);
            }
            let mut end = None;
            if count < 0 {
                let at = self.at;
                let size = self.long()?;
                let size = usize::try_from(size).ok().filter(|size| *size <= self.left());
                end = Some(self.at + size.ok_or(DatumError::BlockSize { at })?);
            }
            let (count, left) = (count.unsigned_abs(), end.map_or(self.left(), |end| end - self.at));
            if empty && count > self.empties {
                return Err(DatumError::EmptyItems { count, at }.into());
            }
            if !empty && count > left as u64 {
                return Err(DatumError::BlockCount {
                    count,
                    left: self.left(),
                    at,
                }
                .into());
            }
            items.reserve(count.min(MAX_RESERVE) as usize);
            for _ in 0..count {
                items.push(item(self)?);
            }
            if end.is_some_and(|end| end != self.at) {
                return Err(DatumError::BlockSize { at: self.at }.into());
            }
        }
    }

    /// The value of a node, `level` levels deep.
    pub fn value(&mut self, schema: &'a Schema, id: NodeId, level: usize) -> Result<Value<'a>, DatumError> {
        if level > MAX_DEPTH {
            return Err(DatumError::Depth { at: self.at });
        }
        if schema.facts(id).empty {
            self.empties = self
                .empties
                .checked_sub(1)
                .ok_or(DatumError::EmptyItems { count: 1, at: self.at })?;
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

    /// Moves behind the datum of a node, which is `level` levels deep.
    pub fn skip(&mut self, schema: &Schema, id: NodeId, level: usize) -> Result<(), DatumError> {
        if level > MAX_DEPTH {
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
                self.items(empty, |reader| reader.skip(schema, *items, level + 1))
                    .map(|_| ())
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
