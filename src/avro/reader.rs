//! Reads the primitives of Avro's binary encoding in sequence, from bytes that need no padding.
//!
//! It is the counterpart of `scan` outside the hot path: it returns what it reads, and trusts nothing. Both accept the same bytes.

use super::error::DatumError;
use super::scan;

/// Zero-byte values that may be built, beyond one for each byte of input. More are refused, because five bytes can
/// claim billions of them.
const MAX_EMPTY_VALUES: u64 = 65_536;

/// Limit on the items for which a list reserves memory in advance, whatever a block claims.
const MAX_RESERVE: u64 = 1_024;

/// Reads at a position that moves.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    /// The position.
    pub at: usize,
    /// Zero-byte values that may still be built.
    pub empties: u64,
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

    /// Counts one more zero-byte value.
    pub fn claim_empty(&mut self) -> Result<(), DatumError> {
        let left = self.empties.checked_sub(1);
        self.empties = left.ok_or(DatumError::EmptyItems { count: 1, at: self.at })?;
        Ok(())
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DatumError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest
            .get(..count)
            .ok_or(DatumError::Truncated { at: self.bytes.len() })?;
        self.at += count;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DatumError> {
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

    pub fn boolean(&mut self) -> Result<bool, DatumError> {
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

    /// Reads all items of an array or map with `item`, which reads one. `empty` means that items take no bytes: a block
    /// can claim any number of those, so their number is limited.
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
}
