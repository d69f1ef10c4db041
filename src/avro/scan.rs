//! Reads the primitives of Avro's binary encoding at a position, without building anything: the careful half of reading. `cursor` has the fast half,
//! which leaves everything unusual or wrong to this one.
//!
//! Every function takes a position and returns the one after what it read. At least [`PADDING`] readable bytes follow the datum's end, so a number
//! or a length can be read first and the end be checked once, afterwards; that order makes reading fast. Bytes past the end only affect which error
//! is found, and an error found there is a truncation.
//!
//! Invariants: positions passed in are at most `end`, and so are those returned.
//!
//! Format: Apache Avro specification 1.12, "Binary encoding".

use super::error::DatumError;

/// Bytes that must be readable after a datum's end.
pub const PADDING: usize = 64;

pub(crate) const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// A datum from byte 0 to `end`, and the padding after it.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a> {
    bytes: &'a [u8],
    end: usize,
}

/// The head of a block of items.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    /// Items in the block; 0 closes the array or map.
    pub count: u64,
    /// Where the items end, if the block states its size; else [`Block::UNSIZED`].
    pub end: u32,
    /// The position after the head.
    pub next: usize,
}

impl Block {
    /// The block does not state its size.
    pub const UNSIZED: u32 = u32::MAX;
}

impl<'a> Window<'a> {
    /// A window on the datum `bytes[..end]`. None if there is too little padding after it, or if it is too long for
    /// positions of 32 bits.
    pub fn new(bytes: &'a [u8], end: usize) -> Option<Window<'a>> {
        (end < u32::MAX as usize && end.checked_add(PADDING)? <= bytes.len()).then_some(Window { bytes, end })
    }

    /// Where the datum starts. Its bytes, and the padding, are readable from there.
    #[inline(always)]
    pub fn start(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    #[inline(always)]
    pub fn end(self) -> usize {
        self.end
    }

    #[inline(always)]
    pub fn byte(self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// Eight bytes, the first in the lowest bits.
    #[inline(always)]
    fn word(self, at: usize) -> u64 {
        self.bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// The position, unless it is past the end.
    #[inline(always)]
    pub fn inside(self, at: usize) -> Result<usize, DatumError> {
        if at <= self.end { Ok(at) } else { Err(self.truncated()) }
    }

    /// The position `count` bytes further on.
    #[inline(always)]
    pub fn skip(self, at: usize, count: usize) -> Result<usize, DatumError> {
        if count <= self.end - at {
            Ok(at + count)
        } else {
            Err(self.truncated())
        }
    }

    #[cold]
    pub fn truncated(self) -> DatumError {
        DatumError::Truncated { at: self.end }
    }

    /// The error found at a position; past the end it is a truncation.
    #[cold]
    pub fn fault(self, at: usize, error: DatumError) -> DatumError {
        if at < self.end { error } else { self.truncated() }
    }

    /// The error of the number at `at`, which may have `limit` bytes: a truncation or an overflow.
    #[cold]
    fn overflow(self, at: usize, limit: usize) -> DatumError {
        let left = self.end - at;
        if left < limit && (at..self.end).all(|at| self.byte(at) >= 0x80) {
            return self.truncated();
        }
        DatumError::VarintOverflow {
            bits: if limit == 5 { 32 } else { 64 },
            at,
        }
    }

    /// The position after an `int`.
    #[inline(always)]
    pub fn int(self, at: usize) -> Result<usize, DatumError> {
        if self.byte(at) < 0x80 {
            return self.inside(at + 1);
        }
        let terminators = !self.word(at) & HIGH_BITS;
        let length = (terminators.trailing_zeros() as usize >> 3) + 1;
        if length > 5 || (length == 5 && self.byte(at + 4) > 0x0f) {
            return Err(self.overflow(at, 5));
        }
        self.inside(at + length)
    }

    /// The position after a `long`.
    #[inline(always)]
    pub fn long(self, at: usize) -> Result<usize, DatumError> {
        if self.byte(at) < 0x80 {
            return self.inside(at + 1);
        }
        let terminators = !self.word(at) & HIGH_BITS;
        if terminators == 0 {
            return self.read_long(at).map(|(_, next)| next);
        }
        self.inside(at + (terminators.trailing_zeros() as usize >> 3) + 1)
    }

    /// A `long`, and the position after it.
    #[inline(never)]
    pub fn read_long(self, at: usize) -> Result<(i64, usize), DatumError> {
        let mut value = 0;
        for i in 0..10 {
            let byte = self.byte(at + i);
            if i == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                return Ok((zigzag(value), self.inside(at + i + 1)?));
            }
        }
        Err(self.overflow(at, 10))
    }

    /// An `int`, and the position after it.
    #[inline(always)]
    fn read_int(self, at: usize) -> Result<(i32, usize), DatumError> {
        let first = self.byte(at);
        if first < 0x80 {
            return Ok((zigzag(first.into()) as i32, self.inside(at + 1)?));
        }
        let next = self.int(at)?;
        Ok((self.read_long(at)?.0 as i32, next))
    }

    /// The index of one of `branches` branches, and the position after it.
    #[inline(always)]
    pub fn branch(self, at: usize, branches: u32) -> Result<(u32, usize), DatumError> {
        let (index, next) = self.read_int(at)?;
        if index as u32 >= branches {
            return Err(DatumError::UnionIndex { index, branches, at });
        }
        Ok((index as u32, next))
    }

    /// The position after an enum of `symbols` symbols.
    #[inline(always)]
    pub fn symbol(self, at: usize, symbols: u32) -> Result<usize, DatumError> {
        let (index, next) = self.read_int(at)?;
        if index as u32 >= symbols {
            return Err(DatumError::EnumIndex { index, symbols, at });
        }
        Ok(next)
    }

    /// The position after a boolean.
    #[inline(always)]
    pub fn boolean(self, at: usize) -> Result<usize, DatumError> {
        let value = self.byte(at);
        if value > 1 {
            return Err(self.fault(at, DatumError::Boolean { value, at }));
        }
        self.inside(at + 1)
    }

    /// A length, and the position after it, where that many bytes are left.
    #[inline(always)]
    pub fn length(self, at: usize) -> Result<(usize, usize), DatumError> {
        let first = self.byte(at);
        let (length, next) = if first < 0x80 {
            (zigzag(first.into()), self.inside(at + 1)?)
        } else {
            let second = self.byte(at + 1);
            if second < 0x80 {
                (
                    zigzag(u64::from(first & 0x7f) | u64::from(second) << 7),
                    self.inside(at + 2)?,
                )
            } else {
                self.read_long(at)?
            }
        };
        if length < 0 {
            return Err(DatumError::NegativeLength { at });
        }
        // Compared as 64 bits, so that a length that does not fit a machine word is a truncation.
        if length as u64 > (self.end - next) as u64 {
            return Err(self.truncated());
        }
        Ok((length as usize, next))
    }

    /// The position after bytes with a length prefix.
    #[inline(always)]
    pub fn bytes(self, at: usize) -> Result<usize, DatumError> {
        let (length, next) = self.length(at)?;
        Ok(next + length)
    }

    /// The position after a string.
    #[inline(always)]
    pub fn string(self, at: usize) -> Result<usize, DatumError> {
        let (length, next) = self.length(at)?;
        self.utf8(next, length)?;
        Ok(next + length)
    }

    /// A string's text, and the position after it.
    pub fn text(self, at: usize) -> Result<(&'a [u8], usize), DatumError> {
        let (length, next) = self.length(at)?;
        self.utf8(next, length)?;
        Ok((self.bytes.get(next..next + length).unwrap_or_default(), next + length))
    }

    /// Checks that `length` bytes are UTF-8.
    #[inline(always)]
    pub fn utf8(self, at: usize, length: usize) -> Result<(), DatumError> {
        let high = if length <= 8 {
            self.word(at) & !u64::MAX.checked_shl(8 * length as u32).unwrap_or(0)
        } else if length <= 16 {
            self.word(at) | self.word(at + length - 8)
        } else {
            return self.long_utf8(at, length);
        };
        if high & HIGH_BITS == 0 {
            Ok(())
        } else {
            self.long_utf8(at, length)
        }
    }

    #[inline(never)]
    fn long_utf8(self, at: usize, length: usize) -> Result<(), DatumError> {
        let text = self.bytes.get(at..at + length).unwrap_or_default();
        if text.is_ascii() || simdutf8::basic::from_utf8(text).is_ok() {
            Ok(())
        } else {
            Err(DatumError::Utf8 { at })
        }
    }

    /// The head of a block of items that take at least one byte each.
    #[inline(always)]
    pub fn block(self, at: usize) -> Result<Block, DatumError> {
        let first = self.byte(at);
        if first & 0x81 == 0 {
            // The common case: a short block without a size, or the end.
            let next = self.inside(at + 1)?;
            let block = Block {
                count: u64::from(first >> 1),
                end: Block::UNSIZED,
                next,
            };
            return if block.count <= (self.end - next) as u64 {
                Ok(block)
            } else {
                Err(self.block_count(at, block))
            };
        }
        let block = self.sized_block(at)?;
        let left = if block.end == Block::UNSIZED {
            self.end
        } else {
            block.end as usize
        } - block.next;
        if block.count <= left as u64 {
            Ok(block)
        } else {
            Err(self.block_count(at, block))
        }
    }

    #[cold]
    fn block_count(self, at: usize, block: Block) -> DatumError {
        DatumError::BlockCount {
            count: block.count,
            left: self.end - block.next,
            at,
        }
    }

    /// The head of any block.
    #[inline(never)]
    pub fn sized_block(self, at: usize) -> Result<Block, DatumError> {
        let (count, next) = self.read_long(at)?;
        if count >= 0 {
            return Ok(Block {
                count: count as u64,
                end: Block::UNSIZED,
                next,
            });
        }
        let (size, items) = self.read_long(next)?;
        if size < 0 || size as u64 > (self.end - items) as u64 {
            return Err(DatumError::BlockSize { at: next });
        }
        Ok(Block {
            count: count.unsigned_abs(),
            end: (items + size as usize) as u32,
            next: items,
        })
    }
}

/// The number that a zigzag varint stands for.
#[inline(always)]
pub(crate) fn zigzag(raw: u64) -> i64 {
    (raw >> 1) as i64 ^ -((raw & 1) as i64)
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
