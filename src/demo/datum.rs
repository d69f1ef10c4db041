//! A small writer of Avro's binary encoding, for the demo only.
//!
//! It shares no code with the crate's encoder, so that the code under test did not make what Messina reads, nor what its output is compared with. The
//! caller knows the schema; nothing is checked here.
//!
//! Encoding: "Binary Encoding" in the Avro specification, 1.12.

/// A datum under construction.
#[derive(Debug, Default, Clone)]
pub struct Datum(pub Vec<u8>);

impl Datum {
    /// `int`, `long`, the index of a union's branch or of an enum's symbol, days, milliseconds: a zigzag varint.
    pub fn long(&mut self, value: i64) -> &mut Self {
        let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
        self
    }

    /// `string`, which is encoded like `bytes`.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.bytes(value.as_bytes())
    }

    /// `bytes`: the length and the bytes.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.long(value.len() as i64).fixed(value)
    }

    /// `fixed`: the bytes alone.
    pub fn fixed(&mut self, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(value);
        self
    }

    /// `boolean`.
    pub fn boolean(&mut self, value: bool) -> &mut Self {
        self.0.push(u8::from(value));
        self
    }

    /// `double`.
    pub fn double(&mut self, value: f64) -> &mut Self {
        self.fixed(&value.to_le_bytes())
    }

    /// `float`.
    pub fn float(&mut self, value: f32) -> &mut Self {
        self.fixed(&value.to_le_bytes())
    }

    /// `decimal` on `bytes`: the unscaled value in the fewest bytes of big-endian two's complement.
    pub fn decimal(&mut self, unscaled: i64) -> &mut Self {
        let bytes = unscaled.to_be_bytes();
        let sign = if unscaled < 0 { 0xFF } else { 0 };
        let spare = |i: &usize| bytes[*i] == sign && (bytes[*i + 1] ^ sign) & 0x80 == 0;
        let start = (0..7).take_while(spare).count();
        self.bytes(&bytes[start..])
    }

    /// The value of `["null", T]`, or null.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        self.long(i64::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
        self
    }

    /// `array` and `map` in one block; for a map, `write` writes key and value.
    pub fn list<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        if items.len() > 0 {
            self.long(items.len() as i64);
            items.for_each(|item| write(self, item));
        }
        self.long(0)
    }
}

/// Reads a `long`; returns the value and its length in bytes.
pub fn read_long(bytes: &[u8]) -> Option<(i64, usize)> {
    let (mut value, mut shift) = (0u64, 0u32);
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7F).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(((value >> 1).cast_signed() ^ -(value & 1).cast_signed(), at + 1));
        }
        shift += 7;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_specification_s_examples() {
        for (value, bytes) in [
            (0, vec![0]),
            (-1, vec![1]),
            (1, vec![2]),
            (-64, vec![0x7F]),
            (64, vec![0x80, 1]),
        ] {
            let mut datum = Datum::default();
            datum.long(value);
            assert_eq!(datum.0, bytes);
        }
        let mut datum = Datum::default();
        datum.text("foo").list([3i64, 27].iter(), |d, n| {
            d.long(*n);
        });
        assert_eq!(datum.0, [6, 0x66, 0x6F, 0x6F, 4, 6, 0x36, 0]);
    }

    proptest! {
        #[test]
        fn longs_come_back(value: i64, after in prop::collection::vec(any::<u8>(), 0..4)) {
            let mut datum = Datum::default();
            datum.long(value);
            let length = datum.0.len();
            datum.fixed(&after);
            prop_assert_eq!(read_long(&datum.0), Some((value, length)));
        }

        #[test]
        fn decimals_are_the_shortest_two_s_complement(unscaled: i64, shift in 0u32..64) {
            let unscaled = unscaled >> shift;
            let mut datum = Datum::default();
            datum.decimal(unscaled);
            let bytes = &datum.0[1..];
            let negative = i64::from(bytes[0]) >> 7;
            prop_assert_eq!(bytes.iter().fold(-negative, |value, byte| (value << 8) | i64::from(*byte)), unscaled);
            let shorter = bytes.len() > 1 && matches!((bytes[0], bytes[1] >> 7), (0, 0) | (0xFF, 1));
            prop_assert!(!shorter, "{:?}", bytes);
        }
    }
}
