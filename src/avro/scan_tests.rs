//! Tests of the primitives, each compared with a plain implementation of the specification.

use super::*;
use proptest::prelude::*;

/// Runs `f` on the bytes followed by padding of each kind of garbage; the answer must not depend on it.
fn scan<T: PartialEq + std::fmt::Debug>(bytes: &[u8], f: impl Fn(Window<'_>) -> T) -> T {
    let answers = [0x00, 0x7f, 0x80, 0xff].map(|garbage| {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len() + PADDING, garbage);
        f(Window::new(&padded, bytes.len()).unwrap())
    });
    let [first, rest @ ..] = answers;
    rest.iter().for_each(|answer| assert_eq!(*answer, first));
    first
}

fn varint(value: i64) -> Vec<u8> {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    let mut out = Vec::new();
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
    out
}

#[test]
fn padding_is_required() {
    assert!(Window::new(&[0; PADDING], 0).is_some());
    assert!(Window::new(&[0; PADDING], 1).is_none());
    assert!(Window::new(&[0; PADDING], usize::MAX).is_none());
}

#[test]
fn numbers_have_limits() {
    let overflow = |bits| Err(DatumError::VarintOverflow { bits, at: 0 });
    assert_eq!(scan(&varint(i32::MAX.into()), |w| w.int(0)), Ok(5));
    assert_eq!(scan(&varint(i32::MIN.into()), |w| w.int(0)), Ok(5));
    assert_eq!(scan(&varint(i64::from(i32::MAX) + 1), |w| w.int(0)), overflow(32));
    assert_eq!(
        scan(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], |w| w.int(0)),
        overflow(32),
        "six bytes, though it is 0"
    );
    assert_eq!(scan(&varint(i64::MIN), |w| w.long(0)), Ok(10));
    let tenth = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
    assert_eq!(scan(&tenth, |w| w.long(0)), overflow(64));
    assert_eq!(scan(&tenth[..9], |w| w.long(0)), Err(DatumError::Truncated { at: 9 }));
    assert_eq!(scan(&[0xff; 3], |w| w.int(0)), Err(DatumError::Truncated { at: 3 }));
    assert_eq!(scan(&[], |w| w.int(0)), Err(DatumError::Truncated { at: 0 }));
}

#[test]
fn lengths_are_neither_negative_nor_too_long() {
    assert_eq!(scan(&[0x04, 1, 2], |w| w.bytes(0)), Ok(3));
    assert_eq!(scan(&[0x04, 1], |w| w.bytes(0)), Err(DatumError::Truncated { at: 2 }));
    assert_eq!(
        scan(&[0x03, 1, 2], |w| w.bytes(0)),
        Err(DatumError::NegativeLength { at: 0 })
    );
    assert_eq!(
        scan(&[0x83, 0x01], |w| w.bytes(0)),
        Err(DatumError::NegativeLength { at: 0 })
    );
    assert_eq!(
        scan(&varint(i64::MAX), |w| w.bytes(0)),
        Err(DatumError::Truncated { at: 10 })
    );
    assert_eq!(
        scan(&varint(i64::MIN), |w| w.bytes(0)),
        Err(DatumError::NegativeLength { at: 0 })
    );
}

#[test]
fn indexes_and_booleans_are_checked() {
    assert_eq!(scan(&[0x04], |w| w.branch(0, 3)), Ok((2, 1)));
    let index = |index| {
        Err(DatumError::UnionIndex {
            index,
            branches: 3,
            at: 0,
        })
    };
    assert_eq!(scan(&[0x06], |w| w.branch(0, 3)), index(3));
    assert_eq!(scan(&[0x01], |w| w.branch(0, 3)), index(-1));
    assert_eq!(
        scan(&[0x82, 0x00], |w| w.branch(0, 3)),
        Ok((1, 2)),
        "longer than need be, and yet an int"
    );
    let symbol = Err(DatumError::EnumIndex {
        index: 64,
        symbols: 64,
        at: 0,
    });
    assert_eq!(scan(&[0x80, 0x01], |w| w.symbol(0, 64)), symbol);
    assert_eq!(
        scan(&[2], |w| w.boolean(0)),
        Err(DatumError::Boolean { value: 2, at: 0 })
    );
    assert_eq!(scan(&[], |w| w.boolean(0)), Err(DatumError::Truncated { at: 0 }));
}

#[test]
fn a_block_claims_no_more_than_there_is() {
    let head = |bytes: &[u8]| scan(bytes, |w| w.block(0).map(|block| (block.count, block.end, block.next)));
    assert_eq!(head(&[0]), Ok((0, Block::UNSIZED, 1)));
    assert_eq!(head(&[0x04, 0, 0, 0]), Ok((2, Block::UNSIZED, 1)));
    assert_eq!(
        head(&[0x03, 0x06, 1, 2, 3, 0]),
        Ok((2, 5, 2)),
        "two items in three bytes"
    );
    assert_eq!(
        head(&[0x06, 0, 0]),
        Err(DatumError::BlockCount {
            count: 3,
            left: 2,
            at: 0
        })
    );
    assert_eq!(
        head(&[0x05, 0x02, 1, 0]),
        Err(DatumError::BlockCount {
            count: 3,
            left: 2,
            at: 0
        })
    );
    assert_eq!(head(&[0x03, 0x03, 1, 0]), Err(DatumError::BlockSize { at: 1 }));
    assert_eq!(head(&[0x03, 0x08, 1, 0]), Err(DatumError::BlockSize { at: 1 }));
    assert!(matches!(head(&varint(i64::MIN)), Err(DatumError::Truncated { .. })));
}

proptest! {
    #[test]
    fn what_is_written_is_read(value in any::<i64>(), shift in 0..64u32) {
        let value = value >> shift;
        let bytes = varint(value);
        prop_assert_eq!(scan(&bytes, |w| w.read_long(0)), Ok((value, bytes.len())));
        prop_assert_eq!(scan(&bytes, |w| w.long(0)), Ok(bytes.len()));
        let int = scan(&bytes, |w| w.int(0));
        prop_assert_eq!(int.is_ok(), i32::try_from(value).is_ok());
        for cut in 0..bytes.len() {
            prop_assert_eq!(scan(&bytes[..cut], |w| w.long(0)), Err(DatumError::Truncated { at: cut }));
        }
    }

    #[test]
    fn arbitrary_bytes_give_one_answer_whatever_follows(bytes in proptest::collection::vec(any::<u8>(), 0..14)) {
        prop_assert_eq!(scan(&bytes, |w| w.long(0)), scan(&bytes, |w| w.read_long(0).map(|(_, next)| next)));
        let _ = scan(&bytes, |w| w.int(0));
        let _ = scan(&bytes, |w| w.branch(0, 70));
        let _ = scan(&bytes, |w| w.symbol(0, 3));
        let _ = scan(&bytes, |w| w.length(0));
        let _ = scan(&bytes, |w| w.block(0).map(|block| (block.count, block.end, block.next)));
    }

    #[test]
    fn utf8_is_what_rust_says_it_is(
        bytes in prop_oneof![
            "\\PC{0,40}".prop_map(String::into_bytes),
            proptest::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..40),
        ],
        flip in any::<prop::sample::Index>(), garbage in any::<u8>()
    ) {
        let mut bytes = bytes;
        if garbage > 200 && !bytes.is_empty() {
            let at = flip.index(bytes.len());
            bytes[at] = garbage;
        }
        let ok = scan(&bytes, |w| w.utf8(0, bytes.len()).is_ok());
        prop_assert_eq!(ok, std::str::from_utf8(&bytes).is_ok());
    }
}
