//! Arithmetic on decimals of any size: change of scale, number of digits, text.
//!
//! A decimal is `unscaled × 10^-scale`, with `unscaled` in big-endian two's complement of any length, as in Avro and CQL. All operations are exact or
//! refused; nothing is rounded.

/// Decimals with more digits are refused: a scale of a billion would exhaust the memory, and the time for reading and writing digits grows with the
/// square of their number.
pub(crate) const MAX_DIGITS: usize = 5000;

/// The divisor that extracts digits, and how many it extracts at once.
const AT_ONCE: (u64, usize) = (1_000_000_000, 9);

/// A decimal as a sign and decimal digits, the most significant first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digits {
    pub(crate) negative: bool,
    pub(crate) digits: Vec<u8>,
}

impl Digits {
    /// From big-endian two's complement. There are no leading zeros, so zero has no digits. None beyond [`MAX_DIGITS`].
    fn read(unscaled: &[u8]) -> Option<Digits> {
        let negative = sign(unscaled) != 0;
        let mut magnitude = if negative { negate(unscaled) } else { unscaled.to_vec() };
        // 10^5000 has some 2,077 bytes, so anything longer than half of `MAX_DIGITS` has too many digits.
        let zeros = magnitude.iter().take_while(|byte| **byte == 0).count();
        magnitude.drain(..zeros);
        if magnitude.len() > MAX_DIGITS / 2 {
            return None;
        }
        let mut digits = Vec::new();
        while !magnitude.is_empty() {
            let mut rest = 0u64;
            for byte in &mut magnitude {
                let value = rest << 8 | u64::from(*byte);
                *byte = (value / AT_ONCE.0) as u8;
                rest = value % AT_ONCE.0;
            }
            for _ in 0..AT_ONCE.1 {
                digits.push((rest % 10) as u8);
                rest /= 10;
            }
            let zeros = magnitude.iter().take_while(|byte| **byte == 0).count();
            magnitude.drain(..zeros);
        }
        // The group that was extracted last may have leading zeros.
        let zeros = digits.iter().rev().take_while(|digit| **digit == 0).count();
        digits.truncate(digits.len() - zeros);
        digits.reverse();
        (digits.len() <= MAX_DIGITS).then_some(Digits { negative, digits })
    }

    /// To big-endian two's complement, as short as possible; zero takes one byte.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut little: Vec<u8> = Vec::new();
        for digit in &self.digits {
            let mut carry = u32::from(*digit);
            for byte in &mut little {
                let value = u32::from(*byte) * 10 + carry;
                *byte = value as u8;
                carry = value >> 8;
            }
            if carry > 0 {
                little.push(carry as u8);
            }
        }
        little.push(0);
        little.reverse();
        let mut bytes = if self.negative { negate(&little) } else { little };
        bytes.drain(..sign_bytes(&bytes));
        bytes
    }
}

/// Two's complement of the opposite sign, one byte longer.
fn negate(bytes: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = std::iter::once(&sign(bytes)).chain(bytes).map(|byte| !byte).collect();
    for byte in out.iter_mut().rev() {
        let (sum, carry) = byte.overflowing_add(1);
        *byte = sum;
        if !carry {
            break;
        }
    }
    out
}

/// The byte that extends a number at the front: all bits are the sign.
fn sign(bytes: &[u8]) -> u8 {
    match bytes.first() {
        Some(0x80..) => 0xff,
        _ => 0,
    }
}

/// How many bytes at the start only repeat the sign.
fn sign_bytes(bytes: &[u8]) -> usize {
    let repeats = |pair: &[u8]| (pair[0] == 0 && pair[1] & 0x80 == 0) || (pair[0] == 0xff && pair[1] & 0x80 != 0);
    bytes.windows(2).take_while(|pair| repeats(pair)).count()
}

/// The same number without leading bytes that only repeat the sign. Needed because databases compare numbers by value, but
/// hash the bytes of a key.
pub fn shortest(bytes: &[u8]) -> &[u8] {
    &bytes[sign_bytes(bytes)..]
}

/// Shortest big-endian two's complement of an integer.
pub fn from_i64(value: i64) -> Vec<u8> {
    shortest(&value.to_be_bytes()).to_vec()
}

/// The integer, if it fits; empty is zero.
pub fn to_i64(unscaled: &[u8]) -> Option<i64> {
    let short = shortest(unscaled);
    let mut bytes = [sign(short); 8];
    bytes[8usize.checked_sub(short.len())?..].copy_from_slice(short);
    Some(i64::from_be_bytes(bytes))
}

/// The unscaled integer of the same decimal with another scale, as short as possible. None if digits would be lost.
pub(crate) fn rescale(unscaled: &[u8], from: i32, to: i32) -> Option<Vec<u8>> {
    let mut number = Digits::read(unscaled)?;
    let more = i64::from(to) - i64::from(from);
    if number.digits.is_empty() {
        return Some(vec![0]);
    }
    if more >= 0 {
        if more as usize + number.digits.len() > MAX_DIGITS {
            return None;
        }
        number.digits.extend(std::iter::repeat_n(0, more as usize));
    } else {
        let keep = number.digits.len().checked_sub(usize::try_from(-more).ok()?)?;
        if number.digits[keep..].iter().any(|digit| *digit != 0) {
            return None;
        }
        number.digits.truncate(keep);
    }
    Some(number.write())
}

/// Whether the integer may have at most `digits` digits, judged by its length alone: counting them takes quadratic time.
pub(crate) fn may_have(unscaled: &[u8], digits: i64) -> bool {
    // A digit takes less than 5/12 of a byte. The 2 covers the sign bit and rounding.
    (unscaled.len() - sign_bytes(unscaled)) as i64 <= digits * 5 / 12 + 2
}

/// What [`rescale`] returns, if it has at most `precision` digits: a buffer, and where the number starts in it. Calculates with
/// 128 bits, which hold nearly all numbers, and not digit by digit. None means that it is undecided.
pub(crate) fn small(unscaled: &[u8], from: i32, to: i32, precision: u32) -> Option<([u8; 16], usize)> {
    let mut bytes = [sign(unscaled); 16];
    bytes[16usize.checked_sub(unscaled.len())?..].copy_from_slice(unscaled);
    let mut number = i128::from_be_bytes(bytes);
    match to.checked_sub(from)? {
        0 => {}
        more @ 1.. => number = number.checked_mul(10i128.checked_pow(more.unsigned_abs())?)?,
        fewer => {
            let factor = 10i128.checked_pow(fewer.unsigned_abs())?;
            if number % factor != 0 {
                return None;
            }
            number /= factor;
        }
    }
    // A limit beyond 128 bits is larger than any such number.
    let limit = 10u128.checked_pow(precision);
    if limit.is_some_and(|limit| number.unsigned_abs() >= limit) {
        return None;
    }
    let bits = 129 - (number ^ (number >> 127)).leading_zeros();
    Some((number.to_be_bytes(), 16 - bits.div_ceil(8) as usize))
}

/// How many decimal digits the integer has; 0 for zero. None beyond [`MAX_DIGITS`].
pub(crate) fn digits(unscaled: &[u8]) -> Option<usize> {
    Digits::read(unscaled).map(|number| number.digits.len())
}

/// The integer in `size` bytes, sign-extended. None if it does not fit.
pub(crate) fn resize(unscaled: &[u8], size: usize) -> Option<Vec<u8>> {
    let short = shortest(unscaled);
    let mut out = vec![sign(short); size.checked_sub(short.len())?];
    out.extend_from_slice(short);
    Some(out)
}

/// The decimal as text: `-12.30`. None beyond any sensible size.
pub fn text(unscaled: &[u8], scale: i32) -> Option<String> {
    // Nearly all numbers fit in 64 bits. So does zero, which has no `Digits`.
    let (negative, mut digits) = match to_i64(unscaled) {
        Some(small) => (small < 0, small.unsigned_abs().to_string()),
        None => {
            let number = Digits::read(unscaled)?;
            let digits = number.digits.iter().map(|digit| char::from(b'0' + digit)).collect();
            (number.negative, digits)
        }
    };
    if scale > 0 {
        let scale = usize::try_from(scale).ok().filter(|scale| *scale <= MAX_DIGITS)?;
        let missing = (scale + 1).saturating_sub(digits.len());
        digits.insert_str(0, &"0".repeat(missing));
        digits.insert(digits.len() - scale, '.');
    } else if digits != "0" {
        let zeros = usize::try_from(-i64::from(scale))
            .ok()
            .filter(|zeros| *zeros <= MAX_DIGITS)?;
        digits.extend(std::iter::repeat_n('0', zeros));
    }
    Some(if negative { format!("-{digits}") } else { digits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn short(value: i128) -> Vec<u8> {
        let bytes = value.to_be_bytes();
        bytes[sign_bytes(&bytes)..].to_vec()
    }

    #[test]
    fn text_has_its_point() {
        assert_eq!(text(&short(-1230), 2).unwrap(), "-12.30");
        assert_eq!(text(&short(5), 3).unwrap(), "0.005");
        assert_eq!(text(&short(0), 2).unwrap(), "0.00");
        assert_eq!(text(&[], 0).unwrap(), "0");
        assert_eq!(text(&[0; 20], -3).unwrap(), "0");
        assert_eq!(text(&short(7), -3).unwrap(), "7000");
        assert_eq!(text(&short(7), i32::MAX), None);
        assert_eq!(text(&short(7), i32::MIN), None);
    }

    #[test]
    fn digits_are_never_lost() {
        assert_eq!(rescale(&short(1230), 2, 1), Some(short(123)));
        assert_eq!(rescale(&short(1230), 2, 0), None);
        assert_eq!(rescale(&short(1230), 2, 4), Some(short(123_000)));
        assert_eq!(rescale(&[], 2, i32::MIN), Some(vec![0]));
        assert_eq!(rescale(&short(1), 0, i32::MAX), None);
        assert_eq!(rescale(&vec![0x7f; 100_000], 0, 1), None);
        assert_eq!(resize(&short(-128), 1), Some(vec![0x80]));
        assert_eq!(resize(&short(128), 1), None);
        assert_eq!(resize(&[], 2), Some(vec![0, 0]));
    }

    #[test]
    fn what_is_small_needs_no_digits() {
        let small = |unscaled: &[u8], from, to, precision| {
            small(unscaled, from, to, precision).map(|(bytes, start)| bytes[start..].to_vec())
        };
        assert_eq!(small(&short(1230), 2, 2, 4), Some(short(1230)));
        assert_eq!(small(&short(1230), 2, 2, 3), None);
        assert_eq!(small(&short(1230), 2, 1, 3), Some(short(123)));
        assert_eq!(small(&short(1230), 2, 0, 4), None);
        assert_eq!(small(&short(-1230), 2, 4, 6), Some(short(-123_000)));
        assert_eq!(small(&[0, 0, 5], 0, 0, 1), Some(vec![5]));
        assert_eq!(small(&[], 2, 2, 0), Some(vec![0]));
        assert_eq!(small(&short(1), 0, 0, 0), None);
        assert_eq!(small(&short(1), i32::MIN, i32::MAX, 9), None);
        assert_eq!(small(&[0; 17], 0, 0, 9), None);
        for value in [i128::MIN, i128::MAX] {
            assert_eq!(small(&short(value), 0, 0, 39), Some(short(value)));
            assert_eq!(small(&short(value), 0, 0, u32::MAX), Some(short(value)));
            assert_eq!(small(&short(value), 0, 0, 38), None);
            assert_eq!(small(&short(value), 0, 1, 40), None);
        }
    }

    proptest! {
        #[test]
        fn what_is_small_is_as_by_its_digits(
            (value, shift, zeros) in (any::<i128>(), 0..128u32, 0..39u32),
            whole in any::<bool>(),
            (from, to) in (-20i32..20, -20i32..20),
            precision in 0..45u32,
        ) {
            let value = value >> shift;
            let value = value - value % 10i128.pow(zeros);
            let unscaled = if whole { value.to_be_bytes().to_vec() } else { short(value) };
            let done = small(&unscaled, from, to, precision);
            if let Some((bytes, start)) = &done {
                let number = &bytes[*start..];
                prop_assert_eq!(rescale(&unscaled, from, to), Some(number.to_vec()));
                prop_assert!(digits(number).is_some_and(|digits| digits <= precision as usize));
            }
            prop_assert_eq!(small(&unscaled, from, from, 39).map(|(bytes, _)| bytes), Some(value.to_be_bytes()));
        }

        #[test]
        fn integers_survive(value in any::<i128>(), shift in 0..128u32) {
            let value = value >> shift;
            let bytes = value.to_be_bytes();
            prop_assert_eq!(rescale(&bytes, 0, 0), Some(short(value)));
            prop_assert_eq!(text(&bytes, 0), Some(value.to_string()));
            prop_assert_eq!(digits(&bytes), Some(if value == 0 { 0 } else { value.unsigned_abs().to_string().len() }));
            prop_assert_eq!(resize(&short(value), 16), Some(bytes.to_vec()));
            let digits = value.to_string().trim_start_matches('-').len() as i64;
            prop_assert!(may_have(&bytes, digits));
            prop_assert!(!may_have(&[0x7f; 100], digits));
        }

        #[test]
        fn a_change_of_scale_can_be_undone(value in any::<i64>(), from in -20i32..20, more in 0i32..20) {
            let wider = rescale(&value.to_be_bytes(), from, from + more).unwrap();
            prop_assert_eq!(rescale(&wider, from + more, from), Some(short(value.into())));
        }
    }
}
