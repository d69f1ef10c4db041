//! Computes how many bytes a row takes in memory.
//!
//! The bounds of the cache and of the records in flight are on memory, not on bytes on the wire. Invariant: within a few percent of what an allocator
//! reserves (`tests/cache_memory.rs` counts it).

use std::borrow::Cow;
use std::mem::size_of;

use super::Hit;
use crate::avro::value::Value;
use crate::store::Row;

/// What an allocator reserves for `n` bytes: common ones round to 16.
pub(super) fn allocated(n: usize) -> usize {
    n.next_multiple_of(16)
}

/// The memory of an answer, apart from its slot in the cache.
pub fn row_bytes(value: &Hit) -> usize {
    match value.as_ref() {
        // All misses share one value.
        None => 0,
        Some(row) => {
            allocated(size_of::<Option<Row>>() + 2 * size_of::<usize>())
                + allocated(row.len() * size_of::<Value<'static>>())
                + row.iter().map(heap_bytes).sum::<usize>()
        }
    }
}

/// The heap memory of a value, without the value itself. Borrowed parts do not count.
pub fn heap_bytes(value: &Value<'_>) -> usize {
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
        Value::String(text) => owned_bytes(text),
        Value::Bytes(bytes) | Value::Decimal { unscaled: bytes, .. } => owned_bytes(bytes),
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
                    .map(|(name, v)| owned_bytes(name) + heap_bytes(v))
                    .sum::<usize>()
        }
    }
}

#[expect(clippy::ptr_arg, reason = "whether it is owned is the question")]
fn owned_bytes<T: AsRef<[u8]> + ToOwned + ?Sized>(value: &Cow<'_, T>) -> usize {
    match value {
        Cow::Owned(_) => allocated(T::as_ref(value).len()),
        Cow::Borrowed(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_borrows_holds_its_parts_alone() {
        let texts = Value::List(vec![Value::String("x".repeat(1000).into()); 10]);
        assert_eq!(heap_bytes(&texts.borrowed()), 10 * size_of::<Value<'static>>());
        assert_eq!(heap_bytes(&texts), 10 * (size_of::<Value<'static>>() + 1008));
        let numbers = Value::List(vec![Value::Int(1); 10_000]);
        assert_eq!(heap_bytes(&numbers), 320_000);
    }
}
