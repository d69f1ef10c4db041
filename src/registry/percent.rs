//! Percent-encoding undone (RFC 3986, section 2.1), for logins in addresses and for subjects in paths.

/// The text that `encoded` stands for. What is no valid encoding stays as it is; bytes that are no UTF-8 are replaced.
pub(crate) fn decoded(encoded: &str) -> String {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let [byte, tail @ ..] = rest {
        match tail {
            [high, low, tail @ ..] if *byte == b'%' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(digit(*high) << 4 | digit(*low));
                rest = tail;
            }
            _ => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The value of a hexadecimal digit.
fn digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        _ => (byte | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn encodings_are_undone_and_all_else_stays() {
        for (encoded, text) in [
            ("a%2Fb", "a/b"),
            ("%c3%A9", "é"),
            ("100%", "100%"),
            ("%4", "%4"),
            ("%+1", "%+1"),
            ("", ""),
        ] {
            assert_eq!(decoded(encoded), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(text: String) {
            let encoded: String = text.bytes().map(|b| format!("%{b:02X}")).collect();
            prop_assert_eq!(decoded(&encoded), text);
        }
    }
}
