//! Confluent's framing: five bytes before each Avro datum that identify its writer schema.
//!
//! Byte 0 is the magic byte, always 0; bytes 1 to 4 are the schema's id in the registry, big-endian; the datum follows. Format: "Wire format" in
//! Confluent's Schema Registry documentation. Whether the id exists is not known here.

/// The only magic byte there is.
pub const MAGIC: u8 = 0;

/// Bytes before the datum.
pub const HEADER: usize = 5;

/// Why a value is not a framed datum. Each error is permanent, because the bytes never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// Shorter than the header.
    #[error("{0} bytes are too short for a schema id: Confluent framing begins with 5")]
    Short(usize),
    /// Something else begins here: plain Avro, JSON, text.
    #[error("the first byte is {0:#04x} instead of Confluent's magic byte 0x00")]
    Magic(u8),
}

/// The schema's id, and where the datum begins in `value`.
///
/// # Errors
/// When `value` is too short or begins with another byte.
pub fn parse(value: &[u8]) -> Result<(u32, usize), FramingError> {
    match value {
        [MAGIC, a, b, c, d, ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), HEADER)),
        [MAGIC, ..] | [] => Err(FramingError::Short(value.len())),
        [other, ..] => Err(FramingError::Magic(*other)),
    }
}

/// The five bytes to write before a datum of this schema.
pub fn header(id: u32) -> [u8; HEADER] {
    let [a, b, c, d] = id.to_be_bytes();
    [MAGIC, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_format() {
        assert_eq!(header(0x0102_0304), [0, 1, 2, 3, 4]);
        assert_eq!(parse(&[0, 0, 0, 0, 7, 0xff]), Ok((7, 5)));
        assert_eq!(parse(&[0, 0xff, 0xff, 0xff, 0xff]), Ok((u32::MAX, 5)));
        assert_eq!(parse(&[]), Err(FramingError::Short(0)));
        assert_eq!(parse(&[0, 0, 0, 7]), Err(FramingError::Short(4)));
        assert_eq!(parse(b"{}"), Err(FramingError::Magic(b'{')));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(id: u32, datum: Vec<u8>) {
            let mut value = header(id).to_vec();
            value.extend_from_slice(&datum);
            let (read, offset) = parse(&value).unwrap();
            prop_assert_eq!((read, &value[offset..]), (id, &datum[..]));
        }

        #[test]
        fn any_bytes_are_framed_exactly_when_they_begin_so(value: Vec<u8>) {
            match parse(&value) {
                Ok((id, offset)) => prop_assert_eq!(&value[..offset], &header(id)[..]),
                Err(FramingError::Magic(byte)) => prop_assert!(byte != MAGIC && value[0] == byte),
                Err(FramingError::Short(n)) => prop_assert!(n < HEADER && n == value.len() && value.first().is_none_or(|b| *b == MAGIC)),
            }
        }
    }
}
