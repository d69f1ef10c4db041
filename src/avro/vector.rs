//! Vectorised operations on many bytes: the UTF-8 check of text, and finding the ends of numbers.
//!
//! There are two versions, one for every machine and one for x86-64 with AVX-512. Which one the machine can run is determined once, when a program is
//! compiled. Both give the same answers.
//!
//! Sources: John Keiser, Daniel Lemire, "Validating UTF-8 In Less Than One Instruction Per Byte" (2021), for the check of short text that is not
//! ASCII.

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// A version of the operations that this machine can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Level {
    /// Any machine.
    #[default]
    Portable,
    /// x86-64 with AVX-512 and BMI. Only [`Level::detect`] creates it.
    #[cfg(target_arch = "x86_64")]
    Avx512(Detected),
}

/// Proof that this machine has what [`Avx512`] needs.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Detected(());

impl Level {
    /// The best version for this machine.
    pub fn detect() -> Level {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
        {
            return Level::Avx512(Detected(()));
        }
        Level::Portable
    }
}

/// One version of the operations.
pub(crate) trait Vector: Copy {
    /// The highest bits of the 64 bytes at `at`. That of the first byte is the lowest bit.
    ///
    /// # Safety
    /// The 64 bytes are readable, and the machine can run this version.
    unsafe fn high_bits(at: *const u8) -> u64;

    /// The number of the `count`th set bit, counted from 1. At least `count` bits must be set.
    ///
    /// # Safety
    /// The machine can run this version.
    unsafe fn nth_bit(bits: u64, count: u32) -> u32;

    /// Whether `length` bytes, fewer than 64, are UTF-8.
    ///
    /// # Safety
    /// The 64 bytes at `at` are readable, and the machine can run this version.
    #[inline(always)]
    unsafe fn is_short_utf8(at: *const u8, length: usize) -> bool {
        // SAFETY: the caller guarantees it.
        let high = unsafe { Self::high_bits(at) } & !(u64::MAX << length);
        // SAFETY: the caller guarantees it.
        high == 0 || unsafe { Self::is_short_text(at, length) }
    }

    /// Whether `length` bytes, fewer than 64, are UTF-8, if it is known that they are not all ASCII.
    ///
    /// # Safety
    /// They are readable, and the machine can run this version.
    #[inline(always)]
    unsafe fn is_short_text(at: *const u8, length: usize) -> bool {
        // SAFETY: the caller guarantees it.
        unsafe { is_text(at, length) }
    }

    /// Whether `length` bytes, at least 64, are UTF-8.
    ///
    /// # Safety
    /// They are readable, and the machine can run this version.
    #[inline(always)]
    unsafe fn is_long_utf8(at: *const u8, length: usize) -> bool {
        let mut high = 0;
        let mut done = 0;
        // SAFETY (all): each read is 64 bytes inside the text; the last one ends where the text ends.
        while done + 64 < length {
            high |= unsafe { Self::high_bits(at.add(done)) };
            done += 64;
        }
        high |= unsafe { Self::high_bits(at.add(length - 64)) };
        high == 0 || unsafe { is_text(at, length) }
    }
}

/// For any machine.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Vector for Portable {
    // Every x86-64 machine has SSE2.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[inline(always)]
    unsafe fn high_bits(at: *const u8) -> u64 {
        use std::arch::x86_64::{_mm_loadu_si128, _mm_movemask_epi8};
        let mut bits = 0;
        for i in 0..4 {
            // SAFETY: 16 * i + 16 is at most 64.
            let part = unsafe { _mm_movemask_epi8(_mm_loadu_si128(at.add(16 * i).cast())) };
            bits |= u64::from(part as u32) << (16 * i);
        }
        bits
    }

    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    #[inline(always)]
    unsafe fn high_bits(at: *const u8) -> u64 {
        let mut bits = 0;
        for i in 0..8 {
            // SAFETY: 8 * i + 8 is at most 64.
            let word = unsafe { word(at.add(8 * i)) } & HIGH_BITS;
            // Gathers the bits 7, 15, .. in the highest byte: no two partial products overlap.
            bits |= ((word >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i);
        }
        bits
    }

    #[inline(always)]
    unsafe fn nth_bit(mut bits: u64, count: u32) -> u32 {
        for _ in 1..count {
            bits &= bits.wrapping_sub(1);
        }
        bits.trailing_zeros()
    }
}

/// Eight bytes, the first in the lowest bits.
///
/// # Safety
/// They are readable.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline(always)]
unsafe fn word(at: *const u8) -> u64 {
    // SAFETY: the caller guarantees it; the read needs no alignment.
    u64::from_le_bytes(unsafe { at.cast::<[u8; 8]>().read_unaligned() })
}

/// Whether `length` bytes are UTF-8.
///
/// # Safety
/// They are readable.
#[cold]
#[inline(never)]
unsafe fn is_text(at: *const u8, length: usize) -> bool {
    // SAFETY: the caller guarantees it.
    simdutf8::basic::from_utf8(unsafe { std::slice::from_raw_parts(at, length) }).is_ok()
}

/// For x86-64 with AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Avx512, Vector, is_text};

    /// The longest text that is checked in one register. A byte is compared with up to three before it, and a cut-off
    /// sequence shows up to three bytes after the end.
    const SHORT: usize = 60;

    impl Vector for Avx512 {
        #[inline(always)]
        unsafe fn high_bits(at: *const u8) -> u64 {
            // SAFETY: the caller guarantees it.
            unsafe { _mm512_movepi8_mask(_mm512_loadu_si512(at.cast())) }
        }

        #[inline(always)]
        unsafe fn nth_bit(bits: u64, count: u32) -> u32 {
            // SAFETY: the caller guarantees it.
            unsafe { _pdep_u64(1 << (count - 1), bits) }.trailing_zeros()
        }

        #[inline(always)]
        unsafe fn is_short_text(at: *const u8, length: usize) -> bool {
            // SAFETY: the caller guarantees it.
            unsafe {
                if length <= SHORT {
                    is_short_utf8(at, length)
                } else {
                    is_text(at, length)
                }
            }
        }
    }

    const TOO_SHORT: u8 = 1;
    const TOO_LONG: u8 = 1 << 1;
    const OVERLONG_3: u8 = 1 << 2;
    const TOO_LARGE: u8 = 1 << 3;
    const SURROGATE: u8 = 1 << 4;
    const OVERLONG_2: u8 = 1 << 5;
    const TOO_LARGE_1000: u8 = 1 << 6;
    const OVERLONG_4: u8 = 1 << 6;
    const TWO_CONTINUATIONS: u8 = 1 << 7;
    const CARRY: u8 = TOO_SHORT | TOO_LONG | TWO_CONTINUATIONS;

    /// Possible errors in a pair of bytes, by the high half of the first.
    static FIRST_HIGH: [u8; 16] = {
        let mut table = [TOO_LONG; 16];
        (table[8], table[9], table[10], table[11]) = (
            TWO_CONTINUATIONS,
            TWO_CONTINUATIONS,
            TWO_CONTINUATIONS,
            TWO_CONTINUATIONS,
        );
        table[12] = TOO_SHORT | OVERLONG_2;
        table[13] = TOO_SHORT;
        table[14] = TOO_SHORT | OVERLONG_3 | SURROGATE;
        table[15] = TOO_SHORT | TOO_LARGE | TOO_LARGE_1000 | OVERLONG_4;
        table
    };

    /// Possible errors, by the low half of the first.
    static FIRST_LOW: [u8; 16] = {
        let mut table = [CARRY | TOO_LARGE | TOO_LARGE_1000; 16];
        table[0] = CARRY | OVERLONG_3 | OVERLONG_2 | OVERLONG_4;
        table[1] = CARRY | OVERLONG_2;
        (table[2], table[3]) = (CARRY, CARRY);
        table[4] = CARRY | TOO_LARGE;
        table[13] |= SURROGATE;
        table
    };

    /// Possible errors, by the high half of the second.
    static SECOND_HIGH: [u8; 16] = {
        let mut table = [TOO_SHORT; 16];
        table[8] = TOO_LONG | OVERLONG_2 | TWO_CONTINUATIONS | OVERLONG_3 | TOO_LARGE_1000 | OVERLONG_4;
        table[9] = TOO_LONG | OVERLONG_2 | TWO_CONTINUATIONS | OVERLONG_3 | TOO_LARGE;
        table[10] = TOO_LONG | OVERLONG_2 | TWO_CONTINUATIONS | SURROGATE | TOO_LARGE;
        table[11] = table[10];
        table
    };

    /// Whether `length` bytes, at most [`SHORT`], are UTF-8.
    ///
    /// # Safety
    /// The bytes are readable; the machine has AVX-512.
    #[cold]
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn is_short_utf8(at: *const u8, length: usize) -> bool {
        let mask = (1u64 << length) - 1;
        // SAFETY (all): bytes that a mask leaves out are not accessed, so nothing before or after the text is.
        unsafe {
            let text = _mm512_maskz_loadu_epi8(mask, at.cast());
            let table = |table: &[u8; 16]| _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            let half = _mm512_set1_epi8(0x0f);
            let high = |bytes| _mm512_and_si512(_mm512_srli_epi16(bytes, 4), half);
            let before = |count: usize| _mm512_maskz_loadu_epi8(mask << count, at.wrapping_sub(count).cast());
            let (one, two, three) = (before(1), before(2), before(3));
            let special = _mm512_and_si512(
                _mm512_and_si512(
                    _mm512_shuffle_epi8(table(&FIRST_HIGH), high(one)),
                    _mm512_shuffle_epi8(table(&FIRST_LOW), _mm512_and_si512(one, half)),
                ),
                _mm512_shuffle_epi8(table(&SECOND_HIGH), high(text)),
            );
            // The third byte of a sequence of three, and the third and fourth of four, must be continuations that
            // follow a continuation.
            let third = _mm512_subs_epu8(two, _mm512_set1_epi8(0x60));
            let fourth = _mm512_subs_epu8(three, _mm512_set1_epi8(0x70));
            let must = _mm512_and_si512(_mm512_or_si512(third, fourth), _mm512_set1_epi8(0x80u8 as i8));
            let error = _mm512_xor_si512(must, special);
            _mm512_test_epi8_mask(error, error) == 0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether `length` bytes are UTF-8, by the function for that length.
    ///
    /// # Safety
    /// As for those functions.
    unsafe fn judge<V: Vector>(at: *const u8, length: usize) -> bool {
        // SAFETY: the caller guarantees it.
        unsafe {
            if length < 64 {
                V::is_short_utf8(at, length)
            } else {
                V::is_long_utf8(at, length)
            }
        }
    }

    /// Checks the bytes, surrounded by garbage, with each version, and compares with the standard library.
    fn is_utf8(text: &[u8]) {
        let expected = std::str::from_utf8(text).is_ok();
        for garbage in [0x00, 0x80, 0xbf, 0xf0] {
            let mut bytes = vec![garbage; text.len() + 72];
            bytes[8..8 + text.len()].copy_from_slice(text);
            // SAFETY: there are 64 bytes after the text.
            let at = unsafe { bytes.as_ptr().add(8) };
            assert_eq!(unsafe { judge::<Portable>(at, text.len()) }, expected, "{text:?}");
            #[cfg(target_arch = "x86_64")]
            if let Level::Avx512(_) = Level::detect() {
                // SAFETY: as above, and the machine can run it.
                assert_eq!(unsafe { judge::<Avx512>(at, text.len()) }, expected, "{text:?}");
            }
        }
    }

    #[test]
    fn every_pair_of_bytes_is_judged_as_the_standard_library_does() {
        // Miri is a thousand times slower, so there only the limits of what a byte can mean are tried.
        let limits = [
            0x00, 0x7f, 0x80, 0xbf, 0xc1, 0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff,
        ];
        let bytes: Vec<u8> = if cfg!(miri) {
            limits.to_vec()
        } else {
            (0..=255).collect()
        };
        for &first in &bytes {
            for &second in &bytes {
                is_utf8(&[first, second]);
            }
            for second in [0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0] {
                for third in [0x00, 0x7f, 0x80, 0xbf, 0xc0, 0xf4] {
                    is_utf8(&[first, second, third]);
                    is_utf8(&[first, second, third, 0x80]);
                    is_utf8(&[first, second, third, 0xc3]);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn text_and_what_is_nearly_text(text in "[aé東𝄞\u{7ff}\u{800}\u{ffff}\u{10000}]{0,50}", cut in any::<usize>(), byte in any::<u8>(), pad in 0..130usize) {
            let mut bytes = vec![b'x'; pad];
            bytes.extend(text.as_bytes());
            is_utf8(&bytes);
            if !bytes.is_empty() {
                let at = cut % bytes.len();
                is_utf8(&bytes[..at]);
                bytes[at] = byte;
                is_utf8(&bytes);
            }
        }

        #[test]
        fn high_bits_are_those_of_the_bytes(bytes in proptest::collection::vec(any::<u8>(), 64), count in 1u32..64) {
            let expected = bytes.iter().rev().fold(0u64, |bits, byte| bits << 1 | u64::from(byte >> 7));
            // SAFETY: there are 64 bytes; `nth_bit` accesses no memory.
            prop_assert_eq!(unsafe { Portable::high_bits(bytes.as_ptr()) }, expected);
            let count = 1 + count % expected.count_ones().max(1);
            let plain = unsafe { Portable::nth_bit(expected, count) };
            #[cfg(target_arch = "x86_64")]
            if let Level::Avx512(_) = Level::detect() {
                prop_assert_eq!(unsafe { Avx512::high_bits(bytes.as_ptr()) }, expected);
                prop_assert_eq!(unsafe { Avx512::nth_bit(expected, count) }, plain);
            }
        }
    }
}
