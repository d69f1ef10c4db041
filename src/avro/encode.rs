//! Encodes a [`Value`] to the bytes of a schema's node.
//!
//! A value rarely has exactly the type of its field: a database returns an `int` where the schema has a `long`, an expression computes in 64 bits. So
//! every lossless conversion is made, and checked on the value: numbers to any number type that holds them exactly, text to bytes and UTF-8 bytes to
//! text, times to another unit and decimals to another scale if no digit is lost, and anything to the first branch of a union that accepts it.
//! Everything else is an error, never a rounded or truncated value.
//!
//! Arrays and maps are written in the shortest form: one block, without a size.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::convert::{self, Asked, Suits};
use super::decimal;
use super::decode::MAX_LEVELS;
use super::default;
use super::encode_error::{EncodeError, EncodeProblem};
use super::schema::{Field, Logical, Node, NodeId, Schema, Shape};
use super::types;
use super::uuid;
use super::value::Value;

impl Schema {
    /// Appends the datum of a whole value to `out`. On error `out` is unchanged.
    pub fn encode(&self, value: &Value<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encode(self, self.root(), value, out)
    }
}

/// Appends the datum of a value as a node's type to `out`. On error `out` is unchanged.
pub(crate) fn encode(schema: &Schema, id: NodeId, value: &Value<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let length = out.len();
    let mut encoder = Encoder {
        schema,
        out,
        suits: Suits::new(schema),
        within: false,
        taken: BTreeMap::new(),
    };
    let result = encoder.value(id, value, 0);
    if result.is_err() {
        out.truncate(length);
    }
    result
}

/// Appends a `long` (or `int`).
#[inline]
pub(crate) fn put_long(out: &mut Vec<u8>, value: i64) {
    put_tagged(out, (0, 0), value);
}

/// Appends an optional byte (`tag`: the byte, and 1 or 0 for how many), then a `long`.
#[inline(always)]
pub(crate) fn put_tagged(out: &mut Vec<u8>, (byte, count): (u8, u8), value: i64) {
    let raw = ((value << 1) ^ (value >> 63)) as u64;
    if raw >= 1 << 56 {
        return put_large(out, (byte, count), raw);
    }
    // Opens gaps between the groups of seven bits: two groups, four, then eight.
    let word = raw & 0x0fff_ffff | (raw & 0x00ff_ffff_f000_0000) << 4;
    let word = word & 0x0000_3fff_0000_3fff | (word & 0x0fff_c000_0fff_c000) << 2;
    let word = word & 0x007f_007f_007f_007f | (word & 0x3f80_3f80_3f80_3f80) << 1;
    let length = (70 - (raw | 1).leading_zeros() as usize) / 7;
    let more = 0x8080_8080_8080_8080 & !(u64::MAX << (8 * (length - 1)));
    let bytes = u128::from(word | more) << (8 * count) | u128::from(byte);
    let before = out.len();
    // Append all 16 bytes at once, then remove the excess.
    out.extend_from_slice(&bytes.to_le_bytes());
    out.truncate(before + usize::from(count) + length);
}

#[cold]
#[inline(never)]
fn put_large(out: &mut Vec<u8>, (byte, count): (u8, u8), mut raw: u64) {
    out.extend((0..count).map(|_| byte));
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// Appends bytes or text with a length prefix.
#[inline]
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

/// The fields of a record, or the entries of a map whose keys are text.
fn entries<'v>(value: &'v Value<'_>) -> Option<Vec<(&'v str, &'v Value<'v>)>> {
    match value {
        Value::Record(fields) => Some(fields.iter().map(|(name, value)| (name.as_ref(), value)).collect()),
        Value::Map(entries) => {
            let entry = |(key, value): &'v (Value<'_>, Value<'_>)| match key {
                Value::String(key) => Some((key.as_ref(), value)),
                _ => None,
            };
            entries.iter().map(entry).collect()
        }
        _ => None,
    }
}

struct Encoder<'s, 'o> {
    schema: &'s Schema,
    out: &'o mut Vec<u8>,
    suits: Suits<'s>,
    /// Whether an enclosing union is trying its branches.
    within: bool,
    /// The branch that took each value, while an enclosing union tries its branches: each of them asks about the same
    /// inner values again.
    taken: BTreeMap<Asked, Option<usize>>,
}

impl Encoder<'_, '_> {
    fn value(&mut self, id: NodeId, value: &Value<'_>, level: usize) -> Result<(), EncodeError> {
        if level > MAX_LEVELS {
            return Err(EncodeProblem::Depth.into());
        }
        let schema = self.schema;
        let node = schema.node(id);
        match (&node.shape, value) {
            (Shape::Union(branches), value) => return self.union(id, branches, value, level),
            (Shape::Null, Value::Null) => {}
            (Shape::Boolean, Value::Bool(value)) => self.out.push(u8::from(*value)),
            (Shape::Int | Shape::Long, _) => {
                let number = convert::integer(node.logical, value).ok_or_else(|| self.mismatch(id, value))?;
                let number = number.filter(|n| node.shape == Shape::Long || i32::try_from(*n).is_ok());
                put_long(self.out, number.ok_or_else(|| self.unfit(id, value))?);
            }
            (Shape::Float | Shape::Double, _) => {
                let number = convert::float(value).ok_or_else(|| self.mismatch(id, value))?;
                let number = number.ok_or_else(|| self.unfit(id, value))?;
                if node.shape == Shape::Double {
                    self.out.extend_from_slice(&number.to_le_bytes());
                } else {
                    let single = convert::single(number).ok_or_else(|| self.unfit(id, value))?;
                    self.out.extend_from_slice(&single.to_le_bytes());
                }
            }
            (Shape::String, _) => self.text(id, node, value)?,
            (Shape::Bytes | Shape::Fixed { .. }, Value::Decimal { .. } | Value::Int(_) | Value::Long(_)) => {
                self.decimal(id, node, value)?;
            }
            (Shape::Bytes, Value::Bytes(bytes)) if node.logical.is_none() => put_bytes(self.out, bytes),
            (Shape::Bytes, Value::String(text)) if node.logical.is_none() => put_bytes(self.out, text.as_bytes()),
            (Shape::Fixed { size, .. }, _) => self.fixed(id, node, *size, value)?,
            (Shape::Enum { symbols, .. }, Value::String(symbol)) => {
                let index = symbols.iter().position(|known| known == symbol);
                put_long(self.out, index.ok_or_else(|| self.unfit(id, value))? as i64);
            }
            (Shape::Array(items), Value::List(values)) => self.array(*items, values, level)?,
            (Shape::Map(values), _) => {
                let entries = entries(value).ok_or_else(|| self.mismatch(id, value))?;
                self.map(*values, &entries, level)?;
            }
            (Shape::Record { fields, .. }, _) => {
                let entries = entries(value).ok_or_else(|| self.mismatch(id, value))?;
                self.record(id, fields, &entries, level)?;
            }
            _ => return Err(self.mismatch(id, value)),
        }
        Ok(())
    }

    fn array(&mut self, items: NodeId, values: &[Value<'_>], level: usize) -> Result<(), EncodeError> {
        if !values.is_empty() {
            put_long(self.out, values.len() as i64);
        }
        for (number, value) in values.iter().enumerate() {
            self.value(items, value, level + 1)
                .map_err(|error| error.within(&format!("[{number}]")))?;
        }
        self.out.push(0);
        Ok(())
    }

    fn map(&mut self, values: NodeId, entries: &[(&str, &Value<'_>)], level: usize) -> Result<(), EncodeError> {
        if !entries.is_empty() {
            put_long(self.out, entries.len() as i64);
        }
        for (key, value) in entries {
            put_bytes(self.out, key.as_bytes());
            self.value(values, value, level + 1)
                .map_err(|error| error.within(&format!("[{key:?}]")))?;
        }
        self.out.push(0);
        Ok(())
    }

    fn record(
        &mut self,
        id: NodeId,
        fields: &[Field],
        values: &[(&str, &Value<'_>)],
        level: usize,
    ) -> Result<(), EncodeError> {
        let is = |field: &Field, name: &str| field.name == name || field.aliases.iter().any(|alias| alias == name);
        if let Some((unknown, _)) = values
            .iter()
            .find(|(name, _)| !fields.iter().any(|field| is(field, name)))
        {
            let ty = self.schema.node(id).shape.name().unwrap_or_default().to_owned();
            return Err(EncodeProblem::UnknownField {
                field: (*unknown).to_owned(),
                ty,
            }
            .into());
        }
        for (number, field) in fields.iter().enumerate() {
            // Values mostly come in the order of the fields.
            let here = values.get(number).filter(|(name, _)| field.name == *name);
            let found = here.or_else(|| values.iter().find(|(name, _)| is(field, name)));
            match (found, &field.default) {
                (Some((_, value)), _) => self
                    .value(field.node, value, level + 1)
                    .map_err(|error| error.within(&format!(".{}", field.name)))?,
                (None, Some(default)) => default::encode(self.schema, field.node, default, self.out)
                    .map_err(|error| error.within(&format!(".{}", field.name)))?,
                (None, None) => return Err(EncodeProblem::MissingField(field.name.clone()).into()),
            }
        }
        Ok(())
    }

    fn union(&mut self, id: NodeId, branches: &[NodeId], value: &Value<'_>, level: usize) -> Result<(), EncodeError> {
        let asked = convert::asked(self.schema, id, branches, value);
        if let Some(taken) = asked.and_then(|asked| self.taken.get(&asked).copied()) {
            let number = taken.ok_or_else(|| self.mismatch(id, value))?;
            put_long(self.out, number as i64);
            return self.value(branches[number], value, level);
        }
        let within = self.within;
        self.within |= asked.is_some();
        let number = self.branch(id, branches, value, level);
        self.within = within;
        if let Some(asked) = asked.filter(|_| within) {
            self.taken.insert(asked, number.as_ref().ok().copied());
        }
        number.map(|_| ())
    }

    /// Writes the value as the first branch that accepts it, and returns that branch. Branches that match the value
    /// with all its parts are tried first, then those that match its own type, then the others.
    fn branch(
        &mut self,
        id: NodeId,
        branches: &[NodeId],
        value: &Value<'_>,
        level: usize,
    ) -> Result<usize, EncodeError> {
        let schema = self.schema;
        let start = self.out.len();
        let several = convert::several(schema, branches, value);
        let mut failure = None;
        for wanted in 0..3 {
            for (number, branch) in branches.iter().enumerate() {
                if !convert::candidate(schema, *branch, value) || self.rank(several, *branch, value) != wanted {
                    continue;
                }
                put_long(self.out, number as i64);
                match self.value(*branch, value, level) {
                    Ok(()) => return Ok(number),
                    Err(error) => {
                        self.out.truncate(start);
                        failure = Some(error);
                    }
                }
            }
        }
        // With several branches, no single failure is the reason.
        Err(failure.filter(|_| !several).unwrap_or_else(|| self.mismatch(id, value)))
    }

    fn rank(&mut self, several: bool, branch: NodeId, value: &Value<'_>) -> u8 {
        match (several, convert::natural(self.schema.node(branch), value)) {
            (false, _) => 0,
            (true, true) if self.suits.ask(branch, value) => 0,
            (true, true) => 1,
            (true, false) => 2,
        }
    }

    fn text(&mut self, id: NodeId, node: &Node, value: &Value<'_>) -> Result<(), EncodeError> {
        match value {
            Value::Uuid(uuid) => put_bytes(self.out, &uuid::text(uuid)),
            // Parsed leniently, but written in the specification's form, because other readers accept nothing else.
            Value::String(text) if node.logical == Some(Logical::Uuid) => {
                let uuid = uuid::parse(text.as_bytes()).ok_or_else(|| self.unfit(id, value))?;
                put_bytes(self.out, &uuid::text(&uuid));
            }
            Value::String(text) => put_bytes(self.out, text.as_bytes()),
            Value::Bytes(bytes) if node.logical.is_none() => {
                simdutf8::basic::from_utf8(bytes).map_err(|_| self.unfit(id, value))?;
                put_bytes(self.out, bytes);
            }
            _ => return Err(self.mismatch(id, value)),
        }
        Ok(())
    }

    fn fixed(&mut self, id: NodeId, node: &Node, size: usize, value: &Value<'_>) -> Result<(), EncodeError> {
        match (node.logical, value) {
            (None, Value::Bytes(bytes)) if bytes.len() == size => self.out.extend_from_slice(bytes),
            (None, Value::Bytes(_)) => return Err(self.unfit(id, value)),
            (Some(Logical::Uuid), Value::Uuid(uuid)) => self.out.extend_from_slice(uuid),
            (Some(Logical::Uuid), Value::String(text)) => {
                let uuid = uuid::parse(text.as_bytes()).ok_or_else(|| self.unfit(id, value))?;
                self.out.extend_from_slice(&uuid);
            }
            (Some(Logical::Duration), Value::Duration { months, days, millis }) => {
                [months, days, millis]
                    .iter()
                    .for_each(|amount| self.out.extend_from_slice(&amount.to_le_bytes()));
            }
            _ => return Err(self.mismatch(id, value)),
        }
        Ok(())
    }

    fn decimal(&mut self, id: NodeId, node: &Node, value: &Value<'_>) -> Result<(), EncodeError> {
        let Some(Logical::Decimal { precision, scale }) = node.logical else {
            return Err(self.mismatch(id, value));
        };
        let (unscaled, from) = match value {
            Value::Decimal { unscaled, scale } => (Cow::Borrowed(unscaled.as_ref()), *scale),
            Value::Int(number) => (Cow::Owned(number.to_be_bytes().to_vec()), 0),
            Value::Long(number) => (Cow::Owned(number.to_be_bytes().to_vec()), 0),
            _ => return Err(self.mismatch(id, value)),
        };
        let small = decimal::small(&unscaled, from, scale as i32, precision);
        let unscaled = match &small {
            Some((bytes, start)) => Cow::Borrowed(&bytes[*start..]),
            None => {
                // Rescaling may remove digits that are zeros, so the number may have these in addition to `precision`.
                let digits = i64::from(precision) + (i64::from(from) - i64::from(scale)).max(0);
                let large = Some(unscaled).filter(|unscaled| decimal::may_have(unscaled, digits));
                let large = large.and_then(|unscaled| decimal::rescale(&unscaled, from, scale as i32));
                let large = large.ok_or_else(|| self.unfit(id, value))?;
                if decimal::digits(&large).is_none_or(|digits| digits > precision as usize) {
                    return Err(self.unfit(id, value));
                }
                Cow::Owned(large)
            }
        };
        match &node.shape {
            Shape::Fixed { size, .. } => {
                let bytes = decimal::resize(&unscaled, *size).ok_or_else(|| self.unfit(id, value))?;
                self.out.extend_from_slice(&bytes);
            }
            _ => put_bytes(self.out, &unscaled),
        }
        Ok(())
    }

    #[cold]
    fn mismatch(&self, id: NodeId, value: &Value<'_>) -> EncodeError {
        let ty = types::type_of(self.schema, id).to_string();
        EncodeProblem::Mismatch {
            value: convert::kind(value),
            ty,
        }
        .into()
    }

    #[cold]
    fn unfit(&self, id: NodeId, value: &Value<'_>) -> EncodeError {
        let ty = types::type_of(self.schema, id).to_string();
        EncodeProblem::DoesNotFit {
            value: convert::describe(value),
            ty,
        }
        .into()
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
