//! The flat program that a schema becomes, executed by [`run`](super::run).
//!
//! An operation is eight bytes, and handles one type or a common combination of types: a nullable string, a union of primitives, an array of ints.
//! Operations that need more space keep it in a table of the program.
//!
//! Invariants, checked by [`Program::verify`] at compile time: every target is an operation of the program, every table index is valid, every mark is
//! below `marks`, and the last operation ends the program, returns or jumps.

use std::ops::Range;

use super::vector::Level;
use super::want::Mark;

/// Index of an operation in the program.
pub(crate) type Target = u32;

/// How deeply a datum may be nested. Each array, each map and each record that is called (recursive, or large and used
/// more than once) counts one.
///
/// A call in tail position needs no return address and does not count: a linked list may be as long as the datum.
pub const MAX_DEPTH: usize = 256;

/// One operation. In the fused ones that begin with `Nullable`, `some` is the index of the branch that is not null, as
/// encoded in the datum: 0 or 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// A boolean.
    Boolean,
    /// An `int` that usually takes `usual` bytes: 1 to 8, as for `Long`.
    Int { usual: u8 },
    /// A `long` that usually takes `usual` bytes: 1 to 8.
    Long { usual: u8 },
    /// `size` bytes.
    Fixed { size: u32 },
    /// Bytes with a length prefix.
    Bytes,
    /// A string with a length prefix.
    String,
    /// An enum of `symbols` symbols.
    Enum { symbols: u32 },
    /// A union of null and `int`.
    NullableInt { some: u8 },
    /// A union of null and a `long` that usually takes `usual` bytes.
    NullableLong { some: u8, usual: u8 },
    /// A union of null and `size` bytes.
    NullableFixed { some: u8, size: u32 },
    /// A union of null and bytes.
    NullableBytes { some: u8 },
    /// A union of null and string.
    NullableString { some: u8 },
    /// A union of null and an enum of `symbols` symbols.
    NullableEnum { some: u8, symbols: u32 },
    /// A union of null and a record of fixed size: `smalls[table]`.
    NullableSmall { some: u8, table: u32 },
    /// A union of null and the type whose operations follow. Jumps to `null` on null.
    Nullable { some: u8, null: Target },
    /// A union: jumps to `jumps[table + index]`.
    Union { branches: u16, table: u32 },
    /// A union of scalars: `scalars[table]`.
    Scalars { table: u32 },
    /// Starts an array or map. Jumps to `exit` if it has no items.
    Items { exit: Target },
    /// Ends an item. Jumps to `body` if there is another item, and falls through otherwise.
    Next { body: Target },
    /// A whole array of int.
    Ints,
    /// A whole array of long.
    Longs,
    /// A whole array of items of `size` bytes each, not 0.
    FixedItems { size: u32 },
    /// A whole array of bytes.
    BytesItems,
    /// A whole array of strings.
    Strings,
    /// A whole array of items that take no bytes.
    EmptyItems,
    /// A whole map of a union of scalars: `scalars[table]`.
    ScalarMap { table: u32 },
    /// At the start of an array's item: jumps to the target in `picks[table]` for the item's number, if there is one.
    Pick { table: u32 },
    /// The key of a map's entry: jumps to the target in `keys[table]` for this key, if there is one.
    Key { table: u32 },
    /// Calls the operations at `target`, which end with `Return`.
    Call { target: Target },
    /// Returns from a call.
    Return,
    /// Jumps to `target`.
    Jump { target: Target },
    /// Records the position as `mark`.
    Mark { mark: Mark },
    /// Records the position as `first` and as the mark after it: where one wanted field ends, another often starts.
    Marks { first: Mark },
    /// Ends the datum.
    End,
}

/// One branch of a union of scalars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    /// This many bytes; null has none.
    Fixed(u32),
    /// A boolean.
    Boolean,
    /// An int.
    Int,
    /// A long.
    Long,
    /// Bytes with a length prefix.
    Bytes,
    /// A string with a length prefix.
    String,
    /// An enum with this many symbols.
    Enum(u32),
}

/// A union of scalars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scalars {
    pub branches: Vec<Scalar>,
    pub lanes: Lanes,
}

/// A union of at most eight scalars, prepared so that a datum of it is passed without branching: each word has one byte
/// per branch. `branches` is 0 if the union does not qualify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lanes {
    pub branches: u8,
    /// The size of each branch whose size is fixed.
    pub fixed: u64,
    /// All bits set for each branch that is a string or bytes.
    pub text: u64,
    /// All bits set for each branch that is a number.
    pub number: u64,
    /// The rules for each branch: a set of the constants below.
    pub rules: u64,
}

impl Lanes {
    /// A string or bytes: the length must be one byte, and not negative.
    pub const TEXT: u8 = 1;
    /// A boolean: the byte must be 0 or 1.
    pub const BOOLEAN: u8 = 1 << 1;
    /// An `int`: must be short enough to be valid whatever its value.
    pub const INT: u8 = 1 << 2;
    /// A `long`: must be short enough to end within one word.
    pub const LONG: u8 = 1 << 3;
    /// A string, which must be UTF-8.
    pub const STRING: u8 = 1 << 4;

    /// The lanes of a union with these branches.
    pub fn of(branches: &[Scalar]) -> Lanes {
        let mut lanes = Lanes::default();
        if branches.len() > 8 {
            return lanes;
        }
        for (number, branch) in branches.iter().enumerate() {
            let (lane, all) = (8 * number, 0xff << (8 * number));
            let rules = match branch {
                Scalar::Fixed(size @ 0..=63) => {
                    lanes.fixed |= u64::from(*size) << lane;
                    0
                }
                Scalar::Boolean => {
                    lanes.fixed |= 1 << lane;
                    Lanes::BOOLEAN
                }
                Scalar::Int | Scalar::Long => {
                    lanes.number |= all;
                    if *branch == Scalar::Int {
                        Lanes::INT
                    } else {
                        Lanes::LONG
                    }
                }
                Scalar::Bytes | Scalar::String => {
                    lanes.text |= all;
                    Lanes::TEXT | if *branch == Scalar::String { Lanes::STRING } else { 0 }
                }
                Scalar::Fixed(_) | Scalar::Enum(_) => return Lanes::default(),
            };
            lanes.rules |= u64::from(rules) << lane;
        }
        lanes.branches = branches.len() as u8;
        lanes
    }
}

/// A record of fixed size: at most [`Small::MAX_SIZE`] bytes, some of which may be restricted in value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Small {
    /// Size in bytes.
    pub size: u32,
    /// Checks of the record's booleans and enums.
    pub checks: Vec<Check>,
    /// The operation after the union. `NullableSmall` is followed by the same union in its general form, for unusual
    /// data.
    pub next: Target,
}

impl Small {
    /// Small enough for the record to lie within the padding after a datum.
    pub const MAX_SIZE: u32 = 56;
}

/// A byte of restricted value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Check {
    /// Offset in the record.
    pub offset: u8,
    /// The value must be below this.
    pub limit: u8,
    /// Bits that must be clear: 1 for the index of an enum, which is never negative.
    pub forbidden: u8,
}

/// What to do with the value of a wanted key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyTarget {
    /// The key.
    pub key: String,
    /// Marks to clear, because an earlier entry with the same key may have set them.
    pub marks: Range<Mark>,
    /// The operations for its value.
    pub target: Target,
}

/// A compiled schema.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Program {
    pub ops: Vec<Op>,
    /// Jump targets of unions.
    pub jumps: Vec<Target>,
    pub scalars: Vec<Scalars>,
    pub smalls: Vec<Small>,
    /// Item numbers and their targets, sorted by number.
    pub picks: Vec<Vec<(u32, Target)>>,
    pub keys: Vec<Vec<KeyTarget>>,
    /// How many positions a run records.
    pub marks: u32,
    /// A range that holds every mark that some data leave unset, and perhaps others in between.
    pub conditional: Range<Mark>,
    /// The vector version that this machine can run.
    pub level: Level,
}

/// The program counter: points to the next operation.
///
/// Invariant: `next` points to one of the program's operations. [`Program::verify`] guarantees it, and is asserted for
/// every compiled program: every target is an operation, and every operation that can fall through has another after it.
#[derive(Clone, Copy)]
pub(crate) struct Counter<'p> {
    ops: &'p [Op],
    next: *const Op,
}

impl<'p> Counter<'p> {
    /// The first operation.
    #[inline(always)]
    pub fn new(program: &'p Program) -> Counter<'p> {
        Counter {
            ops: &program.ops,
            next: program.ops.as_ptr(),
        }
    }

    /// Returns the next operation, and advances to the one after it.
    #[inline(always)]
    pub fn fetch(&mut self) -> Op {
        // SAFETY: `next` points into the program, which is borrowed. The operation after it exists or is never fetched,
        // and the pointer is at most one past the last operation.
        unsafe {
            let op = *self.next;
            self.next = self.next.add(1);
            op
        }
    }

    /// Jumps to a target of the program.
    #[inline(always)]
    pub fn go(&mut self, target: Target) {
        debug_assert!((target as usize) < self.ops.len());
        // SAFETY: a target is an operation of the program.
        self.next = unsafe { self.ops.as_ptr().add(target as usize) };
    }

    /// The operation that was fetched last, if there was no jump since.
    #[inline(always)]
    pub fn fetched(&self) -> Op {
        let at = self.next().saturating_sub(1) as usize;
        self.ops.get(at).copied().unwrap_or(Op::End)
    }

    /// Returns to where a call came from.
    #[inline(always)]
    pub fn back(&mut self, place: Target) {
        // A recorded return target is an operation. `min` keeps any other number inside the program, too.
        self.go(place.min(self.ops.len() as Target - 1));
    }

    /// The index of the next operation, as a target.
    #[inline(always)]
    pub fn next(&self) -> Target {
        ((self.next as usize - self.ops.as_ptr() as usize) / size_of::<Op>()) as Target
    }
}

impl Program {
    /// Whether the invariants of this module hold.
    pub fn verify(&self) -> bool {
        let target = |target: &Target| (*target as usize) < self.ops.len();
        let op = |op: &Op| match op {
            Op::Nullable { null: t, .. } | Op::Items { exit: t } | Op::Next { body: t } => target(t),
            Op::Call { target: t } | Op::Jump { target: t } => target(t),
            Op::Union { branches, table } => (*table as usize) + (*branches as usize) <= self.jumps.len(),
            Op::Scalars { table } | Op::ScalarMap { table } => (*table as usize) < self.scalars.len(),
            Op::NullableSmall { table, .. } => (*table as usize) < self.smalls.len(),
            Op::Pick { table } => (*table as usize) < self.picks.len(),
            Op::Key { table } => (*table as usize) < self.keys.len(),
            Op::Mark { mark } => *mark < self.marks,
            Op::Marks { first } => self.marks > 1 && *first < self.marks - 1,
            Op::FixedItems { size } => *size > 0,
            Op::Int { usual } | Op::Long { usual } | Op::NullableLong { usual, .. } => (1..=8).contains(usual),
            _ => true,
        };
        let small = |small: &Small| {
            let inside = |check: &Check| u32::from(check.offset) < small.size;
            small.size <= Small::MAX_SIZE && target(&small.next) && small.checks.iter().all(inside)
        };
        let key = |key: &KeyTarget| target(&key.target) && key.marks.end <= self.marks;
        matches!(self.ops.last(), Some(Op::End | Op::Return | Op::Jump { .. }))
            && self.ops.iter().all(op)
            && self.jumps.iter().all(target)
            && self.smalls.iter().all(small)
            && self.picks.iter().flatten().all(|(_, t)| target(t))
            && self.keys.iter().flatten().all(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_eight_bytes() {
        assert_eq!(size_of::<Op>(), 8);
    }

    #[test]
    fn a_target_outside_is_found() {
        let mut program = Program {
            ops: vec![Op::Items { exit: 2 }, Op::Next { body: 1 }, Op::End],
            ..Program::default()
        };
        assert!(program.verify());
        program.ops[0] = Op::Items { exit: 3 };
        assert!(!program.verify());
        program.ops = vec![Op::Int { usual: 1 }];
        assert!(!program.verify(), "runs off its end");
    }
}
