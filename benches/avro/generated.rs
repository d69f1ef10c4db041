//! What code generated for one schema could achieve: the event schema as straight-line code, without interpreting a plan.
//!
//! A limit to compare with, not a competitor: nobody writes such code for a schema that a registry delivers at run time. It
//! does what a plan of the three paths does (checks all of the datum, checks that text is UTF-8, finds three values), for
//! the encodings in the benchmark's data: unions and enums with one-byte indexes, blocks without sizes, lengths of two
//! bytes.

use messina::avro::PADDING;

/// The three values that are read.
pub struct Wanted<'a> {
    pub ts: i64,
    pub partner_id: &'a [u8],
    pub user_id: &'a [u8],
}

/// Reads `bytes[start..end]`, which is followed by [`PADDING`] bytes.
pub fn event(bytes: &[u8], start: usize, end: usize) -> Option<Wanted<'_>> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("bmi2")
    {
        // SAFETY: the machine has these features.
        return unsafe { with_avx512(bytes, start, end) };
    }
    walk(bytes, start, end)
}

/// # Safety
/// The machine has these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn with_avx512(bytes: &[u8], start: usize, end: usize) -> Option<Wanted<'_>> {
    walk(bytes, start, end)
}

#[inline(always)]
fn walk(bytes: &[u8], start: usize, end: usize) -> Option<Wanted<'_>> {
    (start <= end && end + PADDING <= bytes.len()).then_some(())?;
    let mut at = At { bytes, at: start, end };
    let at = &mut at;
    at.string()?;
    at.symbol(7)?;
    let ts = at.read_long()?;
    at.number(8)?;
    at.number(4)?;
    let partner_id = at.string()?;
    at.nullable_number()?;
    at.nullable_string()?;
    let user_id = at.string()?;
    at.pass(16)?;
    at.items(|at| at.number(4))?;
    at.nullable_string()?;
    at.nullable(At::geo)?;
    at.nullable_number()?;
    at.nullable(|at| at.symbol(4))?;
    at.symbol(6)?;
    at.nullable_string()?;
    at.nullable_string()?;
    at.string()?;
    at.number(4)?;
    at.number(4)?;
    at.boolean()?;
    at.string()?;
    at.string()?;
    at.nullable_string()?;
    at.bytes()?;
    at.string()?;
    at.nullable(At::geo)?;
    at.items(|at| {
        at.string()?;
        at.nullable_string()?;
        at.number(4)?;
        at.bytes()?;
        at.string()?;
        while at.tag()? {
            at.string()?;
        }
        at.items(At::property)
    })?;
    match at.index(4)? {
        0 => {}
        1 => {
            at.symbol(4)?;
            at.string()?;
            at.nullable_string()?;
            at.boolean()?;
        }
        2 => {
            at.string()?;
            at.pass(16)?;
        }
        _ => {
            at.string()?;
            at.pass(8)?;
        }
    }
    for _ in 0..2 {
        at.nullable(|at| {
            at.pass(8)?;
            at.symbol(5)
        })?;
    }
    at.nullable(At::geo)?;
    at.items(|at| {
        at.symbol(6)?;
        at.number(8)?;
        at.pass(4)
    })?;
    at.items(At::property)?;
    at.items(|at| at.string().map(|_| ()))?;
    at.bytes()?;
    at.pass(12)?;
    at.boolean()?;
    at.number(4)?;
    at.nullable_fixed(16)?;
    at.number(4)?;
    (at.at == at.end).then_some(Wanted {
        ts,
        partner_id,
        user_id,
    })
}

/// A position in a datum. Invariant: `at <= end`, and [`PADDING`] bytes follow `end`.
struct At<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> At<'a> {
    #[inline(always)]
    fn byte(&self, offset: usize) -> u8 {
        debug_assert!(offset < PADDING);
        // SAFETY: the invariant.
        unsafe { *self.bytes.get_unchecked(self.at + offset) }
    }

    #[inline(always)]
    fn word(&self, offset: usize) -> u64 {
        debug_assert!(offset + 8 <= PADDING);
        // SAFETY: the invariant.
        let bytes = unsafe {
            self.bytes
                .as_ptr()
                .add(self.at + offset)
                .cast::<[u8; 8]>()
                .read_unaligned()
        };
        u64::from_le_bytes(bytes)
    }

    #[inline(always)]
    fn pass(&mut self, count: usize) -> Option<()> {
        // Checked before it moves, so that the invariant holds; counts are small.
        let next = self.at + count;
        (next <= self.end).then_some(())?;
        self.at = next;
        Some(())
    }

    #[inline(always)]
    fn length(&self, offset: usize) -> usize {
        ((!self.word(offset) & 0x8080_8080_8080_8080).trailing_zeros() as usize >> 3) + 1
    }

    #[inline(always)]
    fn number(&mut self, most: usize) -> Option<()> {
        if self.byte(0) < 0x80 {
            return self.pass(1);
        }
        let length = self.length(0);
        (length <= most).then_some(())?;
        self.pass(length)
    }

    #[inline(always)]
    fn read_long(&mut self) -> Option<i64> {
        let (word, length) = (self.word(0), self.length(0));
        (length <= 8).then_some(())?;
        self.pass(length)?;
        let groups = (0..length).map(|i| ((word >> (8 * i)) & 0x7f) << (7 * i));
        let raw: u64 = groups.sum();
        Some(((raw >> 1) as i64) ^ -((raw & 1) as i64))
    }

    #[inline(always)]
    fn symbol(&mut self, symbols: u8) -> Option<()> {
        self.index(symbols).map(|_| ())
    }

    #[inline(always)]
    fn index(&mut self, count: u8) -> Option<u8> {
        let index = self.byte(0);
        (index & 1 == 0 && index < 2 * count).then_some(())?;
        self.pass(1)?;
        Some(index >> 1)
    }

    #[inline(always)]
    fn tag(&mut self) -> Option<bool> {
        self.index(2).map(|index| index == 1)
    }

    #[inline(always)]
    fn boolean(&mut self) -> Option<()> {
        (self.byte(0) < 2).then_some(())?;
        self.pass(1)
    }

    #[inline(always)]
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let (first, second) = (usize::from(self.byte(0)), usize::from(self.byte(1)));
        (first & 1 == 0).then_some(())?;
        let (prefix, length) = if first < 0x80 {
            (1, first >> 1)
        } else {
            (second < 0x80).then_some(())?;
            (2, ((first & 0x7f) >> 1) | (second << 6))
        };
        let start = self.at + prefix;
        self.pass(prefix + length)?;
        // SAFETY: it lies before `end`.
        Some(unsafe { self.bytes.get_unchecked(start..start + length) })
    }

    #[inline(always)]
    fn string(&mut self) -> Option<&'a [u8]> {
        let text = self.bytes()?;
        is_utf8(text).then_some(text)
    }

    #[inline(always)]
    fn nullable_string(&mut self) -> Option<()> {
        let (tag, first) = (self.byte(0), self.byte(1));
        if tag & !2 != 0 || (tag != 0 && first & 0x81 != 0) {
            return if self.tag()? {
                self.string().map(|_| ())
            } else {
                Some(())
            };
        }
        let length = usize::from(first >> 1) & usize::from(tag >> 1).wrapping_neg();
        self.pass(1 + usize::from(tag >> 1) + length)?;
        // SAFETY: it lies before `end`.
        is_utf8(unsafe { self.bytes.get_unchecked(self.at - length..self.at) }).then_some(())
    }

    #[inline(always)]
    fn nullable_number(&mut self) -> Option<()> {
        let (tag, length) = (self.byte(0), self.length(1));
        (tag & !2 == 0 && (tag == 0 || length <= 8)).then_some(())?;
        self.pass(1 + length * usize::from(tag >> 1))
    }

    #[inline(always)]
    fn nullable_fixed(&mut self, size: usize) -> Option<()> {
        let tag = self.byte(0);
        (tag & !2 == 0).then_some(())?;
        self.pass(1 + size * usize::from(tag >> 1))
    }

    #[inline(always)]
    fn nullable(&mut self, some: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        if self.tag()? { some(self) } else { Some(()) }
    }

    #[inline(always)]
    fn items(&mut self, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        loop {
            match self.index(64)? {
                0 => return Some(()),
                count => (0..count).try_for_each(|_| item(self))?,
            }
        }
    }

    #[inline(always)]
    fn geo(&mut self) -> Option<()> {
        self.string()?;
        self.nullable_string()?;
        self.nullable_string()?;
        self.nullable_fixed(8)?;
        self.nullable_fixed(8)
    }

    #[inline(always)]
    fn property(&mut self) -> Option<()> {
        self.string()?;
        match self.index(5)? {
            0 => Some(()),
            1 => self.string().map(|_| ()),
            2 => self.number(8),
            3 => self.pass(8),
            _ => self.boolean(),
        }
    }
}

#[inline(always)]
fn is_utf8(text: &[u8]) -> bool {
    let ascii = if text.len() < 64 {
        // SAFETY: text lies in a datum, with 64 bytes behind it.
        unsafe { high_bits(text.as_ptr()) & !(u64::MAX << text.len()) == 0 }
    } else {
        text.is_ascii()
    };
    ascii || simdutf8::basic::from_utf8(text).is_ok()
}

/// The highest bits of 64 bytes.
///
/// # Safety
/// They are readable.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn high_bits(at: *const u8) -> u64 {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_movemask_epi8};
    (0..4).fold(0, |bits, part| {
        // SAFETY: as the caller says.
        let mask = unsafe { _mm_movemask_epi8(_mm_loadu_si128(at.add(16 * part).cast())) };
        bits | (u64::from(mask as u32) << (16 * part))
    })
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn high_bits(at: *const u8) -> u64 {
    (0..64).fold(0, |bits, i| {
        // SAFETY: as the caller says.
        bits | (u64::from(unsafe { *at.add(i) } >> 7) << i)
    })
}
