//! A position in a datum that moves forward: the fast half of reading.
//!
//! Each function handles what real data are made of with few instructions and fewer branches: numbers and lengths are
//! looked at before it is known that they are there, which the padding allows, and a union with null is passed without
//! a decision where it can be. Anything else, and everything that is wrong, is left to the careful half, `scan`, which
//! starts again at the same operation: so both find the same errors, and this half has none of its own. A function that
//! answers false (or None) may have moved; the caller goes back to where the operation started.
//!
//! Invariant, on which all `unsafe` here stands: `at <= end`, and the bytes from `at` to [`PADDING`] behind `end` are
//! readable. [`Window::new`] has seen to that, and no function moves `at` by more than what is left.

use std::marker::PhantomData;

use super::program::{Lanes, Small};
use super::scan::{HIGH_BITS, PADDING, Window};
use super::vector::Vector;

/// Bytes of an `int` that need no look at its value.
const SHORT_INT: usize = 4;

/// The same for a `long`: what one word shows.
const SHORT_LONG: usize = 8;

/// A position. `V` is the version of what is done to many bytes at once.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'w, V> {
    at: *const u8,
    end: *const u8,
    window: &'w Window<'w>,
    version: PhantomData<V>,
}

impl<'w, V: Vector> Cursor<'w, V> {
    /// The start of a datum.
    ///
    /// # Safety
    /// The machine can run `V`.
    #[inline(always)]
    pub unsafe fn new(window: &'w Window<'w>) -> Cursor<'w, V> {
        let at = window.start();
        Cursor {
            at,
            // SAFETY: the window's end lies inside its bytes.
            end: unsafe { at.add(window.end()) },
            window,
            version: PhantomData,
        }
    }

    /// Bytes before this position.
    #[inline(always)]
    pub fn position(&self) -> usize {
        self.at as usize - self.window.start() as usize
    }

    /// Bytes behind this position, without the padding.
    #[inline(always)]
    pub fn left(&self) -> usize {
        self.end as usize - self.at as usize
    }

    #[inline(always)]
    fn peek<const OFFSET: usize>(&self) -> u8 {
        const { assert!(OFFSET < PADDING) }
        // SAFETY: at most `end`, plus less than the padding.
        unsafe { *self.at.add(OFFSET) }
    }

    /// Eight bytes, the first in the lowest bits.
    #[inline(always)]
    fn word<const OFFSET: usize>(&self) -> u64 {
        const { assert!(OFFSET + 8 <= PADDING) }
        // SAFETY: at most `end`, plus not more than the padding; nothing is asked of the alignment.
        u64::from_le_bytes(unsafe { self.at.add(OFFSET).cast::<[u8; 8]>().read_unaligned() })
    }

    /// Moves on if so much is left; whether it did.
    #[inline(always)]
    fn advance(&mut self, count: usize) -> bool {
        let inside = count <= self.left();
        if inside {
            // SAFETY: not behind the end.
            self.at = unsafe { self.at.add(count) };
        }
        inside
    }

    /// Goes to a position that the careful half returned. None is behind the end; were one, this would stay inside.
    #[inline(always)]
    pub fn go(&mut self, position: usize) {
        // SAFETY: not behind the end.
        self.at = unsafe { self.window.start().add(position.min(self.window.end())) };
    }

    /// Passes a boolean.
    #[inline(always)]
    pub fn boolean(&mut self) -> bool {
        self.peek::<0>() <= 1 && self.advance(1)
    }

    /// Bytes of the number at so many bytes from here; 9 or more when that is more than eight.
    #[inline(always)]
    fn number<const OFFSET: usize>(&self) -> usize {
        ((!self.word::<OFFSET>() & HIGH_BITS).trailing_zeros() as usize >> 3) + 1
    }

    /// Passes an `int`.
    #[inline(always)]
    pub fn int(&mut self) -> bool {
        let length = if self.peek::<0>() < 0x80 { 1 } else { self.number::<0>() };
        length <= SHORT_INT && self.advance(length)
    }

    /// Passes a `long`.
    #[inline(always)]
    pub fn long(&mut self) -> bool {
        let length = if self.peek::<0>() < 0x80 { 1 } else { self.number::<0>() };
        length <= SHORT_LONG && self.advance(length)
    }

    /// Passes so many bytes.
    #[inline(always)]
    pub fn fixed(&mut self, size: usize) -> bool {
        self.advance(size)
    }

    /// A length of at most two bytes, and how many it has.
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

    /// Passes bytes with their length.
    #[inline(always)]
    pub fn bytes(&mut self) -> bool {
        self.length()
            .is_some_and(|(length, prefix)| self.advance(prefix + length))
    }

    /// Passes a string.
    #[inline(always)]
    pub fn string(&mut self) -> bool {
        if let Some((length, prefix)) = self.length()
            && prefix + length <= self.left()
            // SAFETY: the text is inside the datum, and the padding behind it; the machine can run `V`.
            && unsafe { V::is_utf8(self.at.add(prefix), length) }
        {
            // SAFETY: not behind the end.
            self.at = unsafe { self.at.add(prefix + length) };
            return true;
        }
        false
    }

    /// Passes an enum of so many symbols.
    #[inline(always)]
    pub fn symbol(&mut self, symbols: u32) -> bool {
        let first = self.peek::<0>();
        first & 0x81 == 0 && u32::from(first >> 1) < symbols && self.advance(1)
    }

    /// Passes the index of a nullable union: whether it is not null. `some` is the index of the other branch, as written.
    #[inline(always)]
    pub fn nullable(&mut self, some: u8) -> Option<bool> {
        let tag = self.peek::<0>();
        (tag & !2 == 0 && self.advance(1)).then_some(tag == some)
    }

    /// Passes the index of one of so many branches.
    #[inline(always)]
    pub fn branch(&mut self, branches: u32) -> Option<u32> {
        let tag = self.peek::<0>();
        let usual = tag & 0x81 == 0 && u32::from(tag >> 1) < branches && self.advance(1);
        usual.then_some(u32::from(tag >> 1))
    }

    /// Passes a nullable `int`.
    #[inline(always)]
    pub fn nullable_int(&mut self, some: u8) -> bool {
        self.nullable_number::<SHORT_INT>(some)
    }

    /// Passes a nullable `long`.
    #[inline(always)]
    pub fn nullable_long(&mut self, some: u8) -> bool {
        self.nullable_number::<SHORT_LONG>(some)
    }

    #[inline(always)]
    fn nullable_number<const SHORT: usize>(&mut self, some: u8) -> bool {
        let tag = self.peek::<0>();
        let length = mask(tag == some) & self.number::<1>();
        tag & !2 == 0 && length <= SHORT && self.advance(1 + length)
    }

    /// Passes so many bytes, nullable.
    #[inline(always)]
    pub fn nullable_fixed(&mut self, some: u8, size: usize) -> bool {
        let tag = self.peek::<0>();
        tag & !2 == 0 && self.advance(1 + (mask(tag == some) & size))
    }

    /// Passes nullable bytes.
    #[inline(always)]
    pub fn nullable_bytes(&mut self, some: u8) -> bool {
        match self.nullable(some) {
            Some(true) => self.bytes(),
            Some(false) => true,
            None => false,
        }
    }

    /// Passes a nullable enum of so many symbols.
    #[inline(always)]
    pub fn nullable_enum(&mut self, some: u8, symbols: u32) -> bool {
        let (tag, index) = (self.peek::<0>(), self.peek::<1>());
        let present = tag == some;
        let wrong = present & ((index & 0x81 != 0) | (u32::from(index >> 1) >= symbols));
        !(wrong | (tag & !2 != 0)) && self.advance(1 + usize::from(present))
    }

    /// Passes a nullable string.
    #[inline(always)]
    pub fn nullable_string(&mut self, some: u8) -> bool {
        let (tag, first) = (self.peek::<0>(), self.peek::<1>());
        let present = mask(tag == some);
        let length = usize::from(first >> 1) & present;
        let size = 1 + (present & 1) + length;
        let unusual = usize::from(tag & !2) | (usize::from(first & 0x81) & present);
        if unusual == 0
            && size <= self.left()
            // SAFETY: the text, when there is any, is inside the datum; it starts two bytes behind a position inside it,
            // so there are more than 32 of padding behind it in any case. The machine can run `V`.
            && unsafe { V::is_utf8(self.at.add(2), length) }
        {
            // SAFETY: not behind the end.
            self.at = unsafe { self.at.add(size) };
            return true;
        }
        // Long text is not unusual.
        unusual != 0 && tag == some && self.advance(1) && self.string()
    }

    /// Passes a nullable record of fixed size; whether it could, or something is unusual.
    #[inline(always)]
    pub fn nullable_small(&mut self, some: u8, small: &Small) -> bool {
        let tag = self.peek::<0>();
        let present = tag == some;
        let mut unusual = tag & !2 != 0;
        for check in &small.checks {
            // SAFETY: an offset is below 256, but the checks of a program are below 56: `Program::verify`.
            debug_assert!(u32::from(check.offset) < Small::MAX_SIZE);
            let byte = unsafe { *self.at.add(1 + usize::from(check.offset % Small::MAX_SIZE as u8)) };
            unusual |= present & ((byte >= check.limit) | (byte & check.forbidden != 0));
        }
        !unusual && self.advance(1 + (mask(present) & small.size as usize))
    }

    /// Passes a union of types without parts; whether it could, or something is unusual.
    #[inline(always)]
    pub fn lanes(&mut self, lanes: &Lanes) -> bool {
        let (tag, first) = (self.peek::<0>(), self.peek::<1>());
        let branch = u32::from(tag >> 1);
        let number = self.number::<1>();
        let bit = 1u32.wrapping_shl(branch);
        let has = |branches: u8| u32::from(branches) & bit != 0;
        let unusual = (tag & 0x81 != 0)
            | (branch >= u32::from(lanes.branches))
            | (has(lanes.texts) & (first & 0x81 != 0))
            | (has(lanes.booleans) & (first > 1))
            | (has(lanes.ints) & (number > SHORT_INT))
            | (has(lanes.numbers) & (number > SHORT_LONG));
        let sizes = lanes.fixed
            | (lanes.text_mask & (LOWEST * (1 + u64::from(first >> 1))))
            | (lanes.number_mask & LOWEST.wrapping_mul(number as u64));
        let size = usize::from(sizes.wrapping_shr(8 * branch) as u8);
        if unusual || 1 + size > self.left() {
            // Long text is not unusual.
            return (tag & 0x81 == 0) & (branch < u32::from(lanes.branches)) & has(lanes.strings)
                && self.advance(1)
                && self.string();
        }
        let length = size.wrapping_sub(1) & mask(has(lanes.strings));
        // SAFETY: the text, when there is any, is inside the datum; it starts two bytes behind a position inside it,
        // so there are more than 32 of padding behind it in any case. The machine can run `V`.
        if !unsafe { V::is_utf8(self.at.add(2), length) } {
            return false;
        }
        // SAFETY: not behind the end.
        self.at = unsafe { self.at.add(1 + size) };
        true
    }

    /// Passes the head of a block of items that take at least one byte each: how many there are, 0 at the end.
    #[inline(always)]
    pub fn block(&mut self) -> Option<u32> {
        let first = self.peek::<0>();
        let count = usize::from(first >> 1);
        if first & 0x81 == 0 && count < self.left() {
            // SAFETY: something is left.
            self.at = unsafe { self.at.add(1) };
            return Some(count as u32);
        }
        None
    }

    /// Passes some of `left` `int`s; how many, or 0 when something is unusual.
    #[inline(always)]
    pub fn ints(&mut self, left: u64) -> u64 {
        // Four in a row are an `int` of five bytes, or a longer one.
        self.numbers(left, |pairs| pairs & pairs >> 2)
    }

    /// Passes some of `left` `long`s; how many, or 0 when something is unusual.
    #[inline(always)]
    pub fn longs(&mut self, left: u64) -> u64 {
        // Eight in a row are a `long` of nine bytes, or a longer one.
        self.numbers(left, |pairs| {
            let fours = pairs & pairs >> 2;
            fours & fours >> 4
        })
    }

    /// Passes those of `left` numbers that lie in the next 64 bytes, or none when one of them is too long to be passed
    /// without a look: `too_long` says so of the places where two bytes in a row are not the last of their number.
    #[inline(always)]
    fn numbers(&mut self, left: u64, too_long: impl Fn(u64) -> u64) -> u64 {
        const { assert!(PADDING >= 64) }
        // SAFETY: 64 bytes are readable from any position; the machine can run `V`.
        let high = unsafe { V::high_bits(self.at) };
        let count = left.min(u64::from((!high).count_ones()));
        if count == 0 {
            return 0;
        }
        // SAFETY: so many bits are set; the machine can run `V`.
        let last = unsafe { V::nth_bit(!high, count as u32) };
        let inside = high & u64::MAX >> (63 - last);
        if too_long(inside & inside >> 1) == 0 && self.advance(last as usize + 1) {
            count
        } else {
            0
        }
    }
}

/// A one in the lowest bit of each byte.
const LOWEST: u64 = 0x0101_0101_0101_0101;

/// All bits, or none.
#[inline(always)]
fn mask(all: bool) -> usize {
    usize::from(all).wrapping_neg()
}
