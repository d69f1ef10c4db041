//! Converts decimals between the form of Avro and CQL (big-endian two's complement and a scale) and digits.
//!
//! SQLite has no decimal type, and this one job does not justify a big-number library. Invariant: exact, or refused if it has more digits than any
//! sensible number, because time grows with the square of their number and anybody may send a megabyte of them. Text made here reads back to the same
//! unscaled number and scale.

use crate::avro::decimal::{Digits, MAX_DIGITS, text};
pub use crate::avro::decimal::{from_i64, shortest, to_i64};

/// Digits of `unscaled × 10^-scale`, without an exponent unless the scale is negative: `-12.50`, `0.001`, `5E+3`. `None` beyond 5,000 digits.
pub fn to_text(unscaled: &[u8], scale: i32) -> Option<String> {
    if scale >= 0 {
        return text(unscaled, scale);
    }
    Some(format!("{}E+{}", text(unscaled, 0)?, scale.unsigned_abs()))
}

/// Reads `[-+]digits[.digits][e[+-]digits]` into an unscaled number and a scale; `None` if it is anything else,
/// or has more than 5,000 digits.
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
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    if whole.len() + fraction.len() > MAX_DIGITS {
        return None;
    }
    let digits = whole.bytes().chain(fraction.bytes());
    let digits = digits.map(|c| c.is_ascii_digit().then(|| c - b'0'));
    let digits = digits.collect::<Option<Vec<u8>>>()?;
    let scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
    Some((Digits { negative, digits }.write(), scale))
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

    /// A megabyte of digits would occupy the thread for an hour.
    #[test]
    fn what_no_number_needs_is_refused() {
        let most = "9".repeat(MAX_DIGITS);
        let (unscaled, scale) = parse(&most).unwrap();
        assert_eq!(to_text(&unscaled, scale), Some(most.clone()));
        assert_eq!(parse(&format!("{most}0")), None);
        let digits = [vec![1], vec![0; MAX_DIGITS]].concat();
        let more = Digits { negative: true, digits }.write();
        assert_eq!(to_text(&more, 0), None);
        for bytes in [vec![0x7f; 1 << 20], vec![0x80; 1 << 20]] {
            assert_eq!(to_text(&bytes, 2), None);
        }
        assert_eq!(to_text(&[vec![0; 1 << 20], vec![7]].concat(), 0).unwrap(), "7");
        assert_eq!(parse(&"9".repeat(1 << 20)), None);
        // The zero before the point does not count as a digit.
        let small = to_text(&[7], MAX_DIGITS as i32).unwrap();
        assert_eq!(parse(&small), Some((vec![7], MAX_DIGITS as i32)));
        assert_eq!(to_text(&[7], i32::MAX), None);
        assert_eq!(to_text(&[7], i32::MIN).unwrap(), "7E+2147483648");
    }

    proptest! {
        #[test]
        fn text_keeps_every_digit(bytes in prop::collection::vec(any::<u8>(), 1..40), scale in -40i32..40) {
            let (unscaled, read_scale) = parse(&to_text(&bytes, scale).unwrap()).unwrap();
            prop_assert_eq!(unscaled, shortest(&bytes));
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
