//! Decimals between Avro's and CQL's form (big-endian two's complement and a scale) and digits.
//!
//! Why: SQLite has no decimal, and a driver-neutral value needs no big-number library for this one job. Invariant:
//! exact, or refused where it has more digits than any sensible number: reading and writing them takes time that grows with the square of their
//! number, and anybody may send a megabyte of them. Text made here reads back to the same unscaled number and scale.

/// Digits beyond which a decimal is refused.
const MAX_DIGITS: usize = 4096;
/// Bytes that so many digits have at most, a sign included.
const MAX_BYTES: usize = 1702;

/// Digits of `unscaled × 10^-scale`, without an exponent unless the scale is negative: `-12.50`, `0.001`, `5E+3`. None beyond 4,096 digits.
pub fn to_text(unscaled: &[u8], scale: i32) -> Option<String> {
    let (negative, mut digits) = digits(unscaled)?;
    if scale > 0 {
        let scale = usize::try_from(scale).ok().filter(|scale| *scale <= MAX_DIGITS)?;
        if digits.len() <= scale {
            digits.insert_str(0, &"0".repeat(scale + 1 - digits.len()));
        }
        digits.insert(digits.len() - scale, '.');
    } else if scale < 0 {
        digits.push_str(&format!("E+{}", i64::from(scale).unsigned_abs()));
    }
    if negative {
        digits.insert(0, '-');
    }
    Some(digits)
}

/// Reads `[-+]digits[.digits][e[+-]digits]` into an unscaled number and a scale; `None` if it is anything else,
/// or has more than 4,096 digits.
pub fn parse(text: &str) -> Option<(Vec<u8>, i32)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, unsigned) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() + fraction.len() > MAX_DIGITS {
        return None;
    }
    let mut magnitude = vec![0u8];
    for c in whole.bytes().chain(fraction.bytes()) {
        multiply_add(&mut magnitude, 10, c.is_ascii_digit().then(|| c - b'0')?);
    }
    let scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
    Some((signed(negative, magnitude), scale))
}

/// Shortest big-endian two's complement of an integer.
pub fn from_i64(value: i64) -> Vec<u8> {
    trim(value.to_be_bytes().to_vec())
}

/// The integer, if it fits; empty is zero.
pub fn to_i64(unscaled: &[u8]) -> Option<i64> {
    let fill = if is_negative(unscaled) { 0xff } else { 0 };
    let (head, tail) = unscaled.split_at(unscaled.len().saturating_sub(8));
    let mut bytes = [fill; 8];
    bytes[8 - tail.len()..].copy_from_slice(tail);
    let value = i64::from_be_bytes(bytes);
    (head.iter().all(|b| *b == fill) && (value < 0) == (fill == 0xff)).then_some(value)
}

fn is_negative(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|b| b & 0x80 != 0)
}

/// Sign and decimal digits, without leading zeros; none beyond [`MAX_DIGITS`].
fn digits(bytes: &[u8]) -> Option<(bool, String)> {
    if let Some(small) = to_i64(bytes) {
        return Some((small < 0, small.unsigned_abs().to_string()));
    }
    let negative = is_negative(bytes);
    let mut magnitude = trim(bytes.to_vec());
    if magnitude.len() > MAX_BYTES {
        return None;
    }
    if negative {
        negate(&mut magnitude);
    }
    let mut reversed = Vec::new();
    while magnitude.iter().any(|b| *b != 0) {
        let mut remainder = 0u32;
        for byte in &mut magnitude {
            let value = remainder << 8 | u32::from(*byte);
            *byte = (value / 10) as u8;
            remainder = value % 10;
        }
        reversed.push(b'0' + remainder as u8);
    }
    let digits = reversed.iter().rev().map(|b| char::from(*b)).collect();
    (reversed.len() <= MAX_DIGITS).then_some((negative, digits))
}

/// `magnitude × factor + addend`, in place, growing at the front.
fn multiply_add(magnitude: &mut Vec<u8>, factor: u16, addend: u8) {
    let mut carry = u16::from(addend);
    for byte in magnitude.iter_mut().rev() {
        let value = u16::from(*byte) * factor + carry;
        *byte = value as u8;
        carry = value >> 8;
    }
    if carry > 0 {
        magnitude.insert(0, carry as u8);
    }
}

/// Two's complement of an unsigned magnitude and a sign.
fn signed(negative: bool, mut magnitude: Vec<u8>) -> Vec<u8> {
    magnitude.insert(0, 0);
    if negative {
        negate(&mut magnitude);
    }
    trim(magnitude)
}

fn negate(bytes: &mut [u8]) {
    let mut carry = true;
    for byte in bytes.iter_mut().rev() {
        (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
    }
}

/// Drops leading bytes that only repeat the sign.
fn trim(mut bytes: Vec<u8>) -> Vec<u8> {
    let redundant = bytes.len() - shortest(&bytes).len();
    bytes.drain(..redundant);
    bytes
}

/// The same number without leading bytes that only repeat the sign. Databases compare numbers, and hash the bytes of a key.
pub fn shortest(bytes: &[u8]) -> &[u8] {
    let redundant = bytes
        .windows(2)
        .take_while(|pair| {
            matches!(pair, [0, next] if next & 0x80 == 0) || matches!(pair, [0xff, next] if next & 0x80 != 0)
        })
        .count();
    &bytes[redundant..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_and_writes_the_usual_forms() {
        assert_eq!(to_text(&[0x04, 0xe2], 2).unwrap(), "12.50");
        assert_eq!(to_text(&from_i64(-1), 3).unwrap(), "-0.001");
        assert_eq!(to_text(&[], 0).unwrap(), "0");
        assert_eq!(to_text(&from_i64(5), -3).unwrap(), "5E+3");
        assert_eq!(parse("12.50"), Some((vec![0x04, 0xe2], 2)));
        assert_eq!(parse("-1e-2"), Some((vec![0xff], 2)));
        for bad in ["", ".", "-", "1,5", "1e", "0x1", "1.2.3", "NaN"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    /// A megabyte of digits would hold the thread for an hour.
    #[test]
    fn what_no_number_needs_is_refused() {
        let most = "9".repeat(MAX_DIGITS);
        let (unscaled, scale) = parse(&most).unwrap();
        assert_eq!(to_text(&unscaled, scale), Some(most.clone()));
        assert_eq!(parse(&format!("{most}0")), None);
        let (ten_times, _) = parse(&format!("1{}", "0".repeat(MAX_DIGITS - 1))).unwrap();
        let mut more = ten_times.clone();
        multiply_add(&mut more, 10, 0);
        assert_eq!(to_text(&more, 0), None);
        for bytes in [vec![0x7f; 1 << 20], vec![0x80; 1 << 20]] {
            assert_eq!(to_text(&bytes, 2), None);
        }
        assert_eq!(to_text(&[vec![0; 1 << 20], vec![7]].concat(), 0).unwrap(), "7");
        assert_eq!(parse(&"9".repeat(1 << 20)), None);
        assert_eq!(to_text(&[7], i32::MAX), None);
        assert_eq!(to_text(&[7], i32::MIN).unwrap(), "7E+2147483648");
    }

    proptest! {
        #[test]
        fn text_keeps_every_digit(bytes in prop::collection::vec(any::<u8>(), 1..40), scale in -40i32..40) {
            let (unscaled, read_scale) = parse(&to_text(&bytes, scale).unwrap()).unwrap();
            prop_assert_eq!(unscaled, trim(bytes));
            prop_assert_eq!(read_scale, scale);
        }

        #[test]
        fn integers_agree(value: i64) {
            prop_assert_eq!(to_i64(&from_i64(value)), Some(value));
            prop_assert_eq!(to_text(&from_i64(value), 0), Some(value.to_string()));
            prop_assert_eq!(parse(&value.to_string()), Some((from_i64(value), 0)));
        }

        #[test]
        fn beyond_64_bits_is_said(value: i128) {
            prop_assert_eq!(to_i64(&value.to_be_bytes()), i64::try_from(value).ok());
            prop_assert_eq!(to_text(&value.to_be_bytes(), 0), Some(value.to_string()));
        }
    }
}
