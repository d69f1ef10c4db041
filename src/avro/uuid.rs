//! UUIDs as text.
//!
//! Reading is lenient, because producers write them in more ways than RFC 9562 allows: with or without hyphens (in their places), in upper or lower
//! case, in braces, or after `urn:uuid:`. Writing uses the RFC's lower-case form.

/// The 16 bytes of a UUID in one of its text forms.
pub fn parse(text: &[u8]) -> Option<[u8; 16]> {
    let text = text.strip_prefix(b"urn:uuid:").unwrap_or(text);
    let text = text
        .strip_prefix(b"{")
        .and_then(|text| text.strip_suffix(b"}"))
        .unwrap_or(text);
    let mut bare = [0; 32];
    if let Ok(text) = <&[u8; 36]>::try_from(text) {
        if HYPHENS.iter().any(|at| text[*at] != b'-') {
            return None;
        }
        bare[..8].copy_from_slice(&text[..8]);
        bare[8..12].copy_from_slice(&text[9..13]);
        bare[12..16].copy_from_slice(&text[14..18]);
        bare[16..20].copy_from_slice(&text[19..23]);
        bare[20..].copy_from_slice(&text[24..]);
    } else {
        bare = *<&[u8; 32]>::try_from(text).ok()?;
    }
    let (mut out, mut all) = ([0; 16], 0);
    for (byte, [high, low]) in out.iter_mut().zip(bare.as_chunks().0) {
        let (high, low) = (DIGITS[usize::from(*high)], DIGITS[usize::from(*low)]);
        all |= high | low;
        *byte = high << 4 | low & 15;
    }
    (all & NO_DIGIT == 0).then_some(out)
}

/// Where the hyphens of the long form are.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
/// The value of a character that is not a digit.
const NO_DIGIT: u8 = 0x80;
/// The value of each character as a hexadecimal digit. A table, because this runs for every record.
static DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        let digit = b"0123456789abcdef"[value as usize];
        digits[digit as usize] = value;
        digits[digit.to_ascii_uppercase() as usize] = value;
        value += 1;
    }
    digits
};

/// The text of a UUID: 36 characters, lower case.
pub fn text(uuid: &[u8; 16]) -> [u8; 36] {
    let mut out = [b'-'; 36];
    let mut at = 0;
    for byte in uuid {
        if matches!(at, 8 | 13 | 18 | 23) {
            at += 1;
        }
        for digit in [byte >> 4, byte & 15] {
            out[at] = b"0123456789abcdef"[digit as usize];
            at += 1;
        }
    }
    out
}

/// The same, as a `String`.
pub fn string(uuid: &[u8; 16]) -> String {
    text(uuid).into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_usual_form_is_read() {
        let uuid: [u8; 16] = std::array::from_fn(|i| i as u8 * 17);
        for form in [
            "00112233-4455-6677-8899-aabbccddeeff",
            "00112233-4455-6677-8899-AABBCCDDEEFF",
            "00112233445566778899aabbccddeeff",
            "{00112233-4455-6677-8899-aabbccddeeff}",
            "urn:uuid:00112233-4455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(parse(form.as_bytes()), Some(uuid), "{form}");
        }
        assert_eq!(string(&uuid), "00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn what_is_none_is_refused() {
        for form in [
            "",
            "00112233-4455-6677-8899-aabbccddeef",
            "00112233-4455-6677-8899-aabbccddeeffa",
            "0011223-34455-6677-8899-aabbccddeeff",
            "g0112233-4455-6677-8899-aabbccddeeff",
            "{00112233-4455-6677-8899-aabbccddeeff",
            "001122334455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(parse(form.as_bytes()), None, "{form}");
        }
    }

    proptest! {
        #[test]
        fn text_is_read_back(uuid in any::<[u8; 16]>()) {
            prop_assert_eq!(parse(&text(&uuid)), Some(uuid));
        }

        #[test]
        fn no_bytes_are_a_crash(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let _ = parse(&bytes);
        }
    }
}
