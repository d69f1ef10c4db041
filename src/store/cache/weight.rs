//! How many bytes a row takes in memory.
//!
//! Why: the bounds of the cache and of what is in flight are on memory, not on what was on the wire. Invariant: within a few percent of what an allocator
//! sets aside (`tests/cache_memory.rs` counts it).

use std::borrow::Cow;
use std::mem::size_of;

use super::Hit;
use crate::avro::value::Value;
use crate::store::Row;

/// What an allocator sets aside for `n` bytes: the usual ones round to 16.
pub(super) fn allocated(n: usize) -> usize {
    n.next_multiple_of(16)
}

/// What an answer holds, apart from its place in the cache.
pub fn row_bytes(value: &Hit) -> usize {
    match value.as_ref() {
        // All misses share one.
        None => 0,
        Some(row) => {
            allocated(size_of::<Option<Row>>() + 2 * size_of::<usize>())
                + allocated(row.len() * size_of::<Value<'static>>())
                + row.iter().map(heap_bytes).sum::<usize>()
        }
    }
}

/// What a value holds beside itself.
pub fn heap_bytes(value: &Value<'static>) -> usize {
    match value {
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Long(_)
        | Value::Float(_)
        | Value::Double(_)
        | Value::Date(_)
        | Value::Time(..)
        | Value::Timestamp(..)
        | Value::LocalTimestamp(..)
        | Value::Uuid(_)
        | Value::Duration { .. } => 0,
        Value::String(s) => allocated(s.len()),
        Value::Bytes(b) => allocated(b.len()),
        Value::Decimal { unscaled, .. } => allocated(unscaled.len()),
        Value::List(items) => {
            allocated(items.capacity() * size_of::<Value<'static>>()) + items.iter().map(heap_bytes).sum::<usize>()
        }
        Value::Map(pairs) => {
            allocated(pairs.capacity() * 2 * size_of::<Value<'static>>())
                + pairs.iter().map(|(k, v)| heap_bytes(k) + heap_bytes(v)).sum::<usize>()
        }
        Value::Record(fields) => {
            allocated(fields.capacity() * (size_of::<Cow<'static, str>>() + size_of::<Value<'static>>()))
                + fields
                    .iter()
                    .map(|(name, v)| allocated(name.len()) + heap_bytes(v))
                    .sum::<usize>()
        }
    }
}
