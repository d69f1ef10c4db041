//! A position in a datum that moves forward: the fast half of reading.
//!
//! Each function handles common data with few instructions and fewer branches. Numbers and lengths are read before it is known that they are there,
//! which the padding allows; a union with null is passed without a branch where possible. Anything else, and everything that is wrong, is left to the
//! careful half, `scan`, which starts again at the same operation; so both report the same errors, and this half has none of its own. A function that
//! returns false (or None) may have moved: the caller goes back to where the operation started.
//!
//! Invariant, on which all `unsafe` here depends: before and after a function that succeeds, `at <= end`, and the bytes from `at` to [`PADDING`]
//! after `end` are readable. [`Window::new`] guarantees that. A function that fails may leave `at` past the end; then nothing is read there,
//! because the caller restores the cursor that it had before.
//!
//! Why it is fast: the next position depends on the bytes at this one, so that chain determines the time of a run and is kept short. Checks stand
//! beside it, as predicted branches. Where the data decide (null or not), both next positions are computed and one is selected. Where the schema
//! implies how long a number is, that length is predicted too.

use std::hint::select_unpredictable;
use std::marker::PhantomData;

use super::program::{Lanes, Small};
use super::scan::{HIGH_BITS, PADDING, Window};
use super::vector::Vector;

/// An `int` of at most this many bytes is valid whatever its value.
const SHORT_INT: usize = 4;

/// The same for a `long`, whose end must show in one word.
const SHORT_LONG: usize = 8;

/// A position. `V` is the version of the vectorised operations.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'w, V> {
    at: *const u8,
    end: *const u8,
    /// The address that positions count from.
    origin: *const u8,
    version: PhantomData<(&'w u8, V)>,
}

impl<'w, V: Vector> Cursor<'w, V> {
    /// A cursor at the start of a datum, which has the position `base`.
    ///
    /// # Safety
    /// The machine can run `V`.
    #[inline(always)]
    pub unsafe fn new(window: &'w Window<'_>, base: u32) -> Cursor<'w, V> {
        let at = window.start();
        Cursor {
            at,
            // SAFETY: the window's end lies inside its bytes.
            end: unsafe { at.add(window.end()) },
            origin: at.wrapping_sub(base as usize),
            version: PhantomData,
        }
    }

    /// The current position. It fits in 32 bits, because `base` plus the datum's length has been checked before.
    #[inline(always)]
    pub fn position(&self) -> u32 {
        (self.at as usize).wrapping_sub(self.origin as usize) as u32
    }

    /// Bytes left after this position, without the padding.
    #[inline(always)]
    pub fn left(&self) -> usize {
        (self.end as usize).wrapping_sub(self.at as usize)
    }

    /// This cursor, moved to `position` bytes after the start of `window`, which must be its own.
    #[inline(always)]
    pub fn at(self, window: &Window<'_>, position: usize) -> Self {
        // SAFETY: not past the end: the careful half returns no such position, and `min` would keep it inside.
        let at = unsafe { window.start().add(position.min(window.end())) };
        Cursor { at, ..self }
    }

    /// Bytes between the start of `window`, which must be this cursor's, and this position.
    #[inline(always)]
    pub fn offset(self, window: &Window<'_>) -> usize {
        self.at as usize - window.start() as usize
    }

    #[inline(always)]
    fn peek<const OFFSET: usize>(&self) -> u8 {
        const { assert!(OFFSET < PADDING) }
        // SAFETY: at most `end`, plus less than the padding.
        unsafe { *self.at.add(OFFSET) }
    }

    /// The eight bytes at `OFFSET`, the first in the lowest bits.
    #[inline(always)]
    fn word<const OFFSET: usize>(&self) -> u64 {
        const { assert!(OFFSET + 8 <= PADDING) }
        // SAFETY: at most `end` plus the padding; the read needs no alignment.
        u64::from_le_bytes(unsafe { self.at.add(OFFSET).cast::<[u8; 8]>().read_unaligned() })
    }

    /// Moves forward by `count` bytes. Returns whether that many were left.
    #[inline(always)]
    fn advance(&mut self, count: usize) -> bool {
        let inside = count <= self.left();
        // Move unconditionally: otherwise the new position would wait for the comparison.
        self.at = self.at.wrapping_add(count);
        inside
    }

    /// Moves forward by one of two counts. Returns whether that many bytes were left.
    #[inline(always)]
    fn advance_either(&mut self, first: bool, counts: (usize, usize)) -> bool {
        let before = self.at;
        self.at = select_unpredictable(first, before.wrapping_add(counts.0), before.wrapping_add(counts.1));
        // Counts are far too small to wrap around the address space.
        (self.at as usize).wrapping_sub(before as usize) <= self.end as usize - before as usize
    }

    /// Moves past a boolean.
    #[inline(always)]
    pub fn boolean(&mut self) -> bool {
        self.peek::<0>() <= 1 && self.advance(1)
    }

    /// Length in bytes of the number at `OFFSET`; 9 if it is more than eight.
    #[inline(always)]
    fn number<const OFFSET: usize>(&self) -> usize {
        ((!self.word::<OFFSET>() & HIGH_BITS).trailing_zeros() as usize >> 3) + 1
    }

    /// Whether the number at `OFFSET` takes exactly `length` bytes, at most eight.
    #[inline(always)]
    fn is_number<const OFFSET: usize>(&self, length: u8) -> bool {
        let shift = 64 - 8 * u32::from(length);
        let last = 1u64 << 63;
        // The high bits of all its bytes but the last must be set, and that of the last clear.
        (self.word::<OFFSET>() & HIGH_BITS.wrapping_shr(shift)) == (HIGH_BITS ^ last).wrapping_shr(shift)
    }

    /// Moves past an `int` that usually takes `usual` bytes.
    #[inline(always)]
    pub fn int(&mut self, usual: u8) -> bool {
        if self.is_number::<0>(usual) {
            return self.advance(usual.into());
        }
        if self.is_number::<0>(2) {
            return self.advance(2);
        }
        unforeseen();
        let length = self.number::<0>();
        length <= SHORT_INT && self.advance(length)
    }

    /// Moves past a `long` that usually takes `usual` bytes.
    #[inline(always)]
    pub fn long(&mut self, usual: u8) -> bool {
        if self.is_number::<0>(usual) {
            return self.advance(usual.into());
        }
        unforeseen();
        let length = self.number::<0>();
        length <= SHORT_LONG && self.advance(length)
    }

    /// Moves past `size` bytes.
    #[inline(always)]
    pub fn fixed(&mut self, size: usize) -> bool {
        self.advance(size)
    }

    /// A length that is encoded in at most two bytes, and in how many.
    #[inline(always)]
    fn length(&self) -> Option<(usize, usize)> {
        let first = self.peek::<0>();
        if first & 0x81 == 0 {
            return Some((usize::from(first >> 1), 1));
        }
        let second = self.peek::<1>();
        let short = first & 1 == 0 && second < 0x80;
        short.then(|| (usize::from(first & 0x7f) >> 1 | usize::from(second) << 6, 2))
    }

    /// Moves past bytes with a length prefix.
    #[inline(always)]
    pub fn bytes(&mut self) -> bool {
        match self.length() {
            Some((length, prefix)) => self.advance(prefix + length),
            None => false,
        }
    }

    /// Moves past a string.
    #[inline(always)]
    pub fn string(&mut self) -> bool {
        let first = self.peek::<0>();
        if first & 0x81 == 0 {
            let length = usize::from(first >> 1);
            // SAFETY: the text is inside the datum; the machine can run `V`.
            return self.advance(1 + length) && unsafe { V::is_short_utf8(self.at.sub(length), length) };
        }
        self.long_string()
    }

    /// Moves past a string of at least 64 bytes.
    #[inline(always)]
    fn long_string(&mut self) -> bool {
        match self.length() {
            Some((length, 2)) if length >= 64 => {
                // SAFETY: the text is inside the datum; the machine can run `V`.
                self.advance(2 + length) && unsafe { V::is_long_utf8(self.at.sub(length), length) }
            }
            _ => false,
        }
    }

    /// Moves past an enum of `symbols` symbols.
    #[inline(always)]
    pub fn symbol(&mut self, symbols: u32) -> bool {
        let first = self.peek::<0>();
        first & 0x81 == 0 && u32::from(first >> 1) < symbols && self.advance(1)
    }

    /// Moves past the index of a nullable union. Returns whether the value is not null. `some` is the encoded index of
    /// the other branch.
    #[inline(always)]
    pub fn nullable(&mut self, some: u8) -> Option<bool> {
        let tag = self.peek::<0>();
        (tag & !2 == 0 && self.advance(1)).then_some(tag == some)
    }

    /// Moves past the index of one of `branches` branches, and returns it.
    #[inline(always)]
    pub fn branch(&mut self, branches: u32) -> Option<u32> {
        let tag = self.peek::<0>();
        let usual = tag & 0x81 == 0 && u32::from(tag >> 1) < branches && self.advance(1);
        usual.then_some(u32::from(tag >> 1))
    }

    /// Moves past a nullable `int`.
    #[inline(always)]
    pub fn nullable_int(&mut self, some: u8) -> bool {
        self.nullable_number::<SHORT_INT>(some)
    }

    /// Moves past a nullable `long` that usually takes `usual` bytes.
    #[inline(always)]
    pub fn nullable_long(&mut self, some: u8, usual: u8) -> bool {
        let tag = self.peek::<0>();
        let present = tag == some;
        if usual > 1 && (tag & !2 == 0) & (!present | self.is_number::<1>(usual)) {
            return self.advance_either(present, (1 + usize::from(usual), 1));
        }
        self.nullable_number::<SHORT_LONG>(some)
    }

    #[inline(always)]
    fn nullable_number<const SHORT: usize>(&mut self, some: u8) -> bool {
        let tag = self.peek::<0>();
        let (present, length) = (tag == some, self.number::<1>());
        let unusual = (tag & !2 != 0) | (present & (length > SHORT));
        !unusual && self.advance_either(present, (1 + length, 1))
    }

    /// Moves past a nullable value of `size` bytes.
    #[inline(always)]
    pub fn nullable_fixed(&mut self, some: u8, size: usize) -> bool {
        let tag = self.peek::<0>();
        tag & !2 == 0 && self.advance_either(tag == some, (size.saturating_add(1), 1))
    }

    /// Moves past nullable bytes.
    #[inline(always)]
    pub fn nullable_bytes(&mut self, some: u8) -> bool {
        match self.nullable(some) {
            Some(true) => self.bytes(),
            Some(false) => true,
            None => false,
        }
    }

    /// Moves past a nullable enum of `symbols` symbols.
    #[inline(always)]
    pub fn nullable_enum(&mut self, some: u8, symbols: u32) -> bool {
        let (tag, index) = (self.peek::<0>(), self.peek::<1>());
        let present = tag == some;
        let wrong = present & ((index & 0x81 != 0) | (u32::from(index >> 1) >= symbols));
        !(wrong | (tag & !2 != 0)) && self.advance_either(present, (2, 1))
    }

    /// Moves past a nullable string.
    #[inline(always)]
    pub fn nullable_string(&mut self, some: u8) -> bool {
        let (tag, first) = (self.peek::<0>(), self.peek::<1>());
        let present = tag == some;
        let length = usize::from(first >> 1);
        let unusual = (tag & !2 != 0) | (present & (first & 0x81 != 0));
        if !unusual {
            let inside = self.advance_either(present, (2 + length, 1));
            let length = length & mask(present);
            // SAFETY: the text, if there is any, is inside the datum; the machine can run `V`.
            return inside && unsafe { V::is_short_utf8(self.at.sub(length), length) };
        }
        // Long text is common, so it is handled here and not by the careful half.
        tag == some && self.advance(1) && self.long_string()
    }

    /// Moves past a nullable record of fixed size. Returns false if something is unusual.
    #[inline(always)]
    pub fn nullable_small(&mut self, some: u8, small: &Small) -> bool {
        let tag = self.peek::<0>();
        let present = tag == some;
        let mut unusual = tag & !2 != 0;
        for check in &small.checks {
            // SAFETY: `Program::verify` has checked that offsets are below 56; `%` keeps any other in the padding.
            debug_assert!(u32::from(check.offset) < Small::MAX_SIZE);
            let byte = unsafe { *self.at.add(1 + usize::from(check.offset % Small::MAX_SIZE as u8)) };
            unusual |= present & ((byte >= check.limit) | (byte & check.forbidden != 0));
        }
        !unusual && self.advance_either(present, (1 + small.size as usize, 1))
    }

    /// Moves past a union of scalars. Returns false if something is unusual.
    #[inline(always)]
    pub fn lanes(&mut self, lanes: &Lanes) -> bool {
        let (tag, first) = (self.peek::<0>(), self.peek::<1>());
        let (branch, number) = (u32::from(tag >> 1), self.number::<1>());
        let lane = |lanes: u64| lanes.wrapping_shr(8 * branch) as u8;
        let rules = lane(lanes.rules);
        let rule = |broken: bool, rule: u8| u8::from(broken) * rule;
        let broken = rule(first & 0x81 != 0, Lanes::TEXT)
            | rule(first > 1, Lanes::BOOLEAN)
            | rule(number > SHORT_INT, Lanes::INT)
            | rule(number > SHORT_LONG, Lanes::LONG);
        let outside = (tag & 0x81 != 0) | (branch >= u32::from(lanes.branches));
        if outside | (rules & broken != 0) {
            // Long text is common, so it is handled here and not by the careful half.
            return !outside && rules & Lanes::STRING != 0 && self.advance(1) && self.long_string();
        }
        let text = lane(lanes.text) & (1 + (first >> 1));
        let size = lane(lanes.fixed) | text | (lane(lanes.number) & number as u8);
        let length = usize::from(text.wrapping_sub(1)) & mask(rules & Lanes::STRING != 0);
        // SAFETY: the text, if there is any, is inside the datum; the machine can run `V`.
        self.advance(1 + usize::from(size)) && unsafe { V::is_short_utf8(self.at.sub(length), length) }
    }

    /// Moves past the head of a block of items that take at least one byte each. Returns their number, 0 at the end.
    #[inline(always)]
    pub fn block(&mut self) -> Option<u32> {
        let first = self.peek::<0>();
        let count = usize::from(first >> 1);
        if first & 0x81 == 0 && count < self.left() {
            // SAFETY: at least one byte is left.
            self.at = unsafe { self.at.add(1) };
            return Some(count as u32);
        }
        None
    }

    /// Moves past some of `left` `int`s. Returns how many, or 0 if something is unusual.
    #[inline(always)]
    pub fn ints(&mut self, left: u64) -> u64 {
        // Four continuation bytes in a row: an `int` of five bytes, or longer.
        self.numbers(left, |pairs| pairs & pairs >> 2)
    }

    /// Moves past some of `left` `long`s. Returns how many, or 0 if something is unusual.
    #[inline(always)]
    pub fn longs(&mut self, left: u64) -> u64 {
        // Eight continuation bytes in a row: a `long` of nine bytes, or longer.
        self.numbers(left, |pairs| {
            let fours = pairs & pairs >> 2;
            fours & fours >> 4
        })
    }

    /// Moves past those of `left` numbers that end within the next 64 bytes, and returns how many. Returns 0 if one of
    /// them is too long to be valid whatever its value: `too_long` decides that from the places where two continuation
    /// bytes meet.
    #[inline(always)]
    fn numbers(&mut self, left: u64, too_long: impl Fn(u64) -> u64) -> u64 {
        const { assert!(PADDING >= 64) }
        // SAFETY: 64 bytes are readable from any position; the machine can run `V`.
        let high = unsafe { V::high_bits(self.at) };
        let count = left.min(u64::from((!high).count_ones()));
        if count == 0 {
            return 0;
        }
        // SAFETY: at least `count` bits are set; the machine can run `V`.
        let last = unsafe { V::nth_bit(!high, count as u32) };
        let inside = high & u64::MAX >> (63 - last);
        if too_long(inside & inside >> 1) == 0 && self.advance(last as usize + 1) {
            count
        } else {
            0
        }
    }
}

/// Tells the compiler that this path is seldom taken.
#[cold]
#[inline(always)]
fn unforeseen() {}

/// All bits set, or none.
#[inline(always)]
fn mask(all: bool) -> usize {
    usize::from(all).wrapping_neg()
}
