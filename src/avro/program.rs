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

/// Place of an operation in the program.
pub(crate) type Target = u32;

/// How deeply a datum may be nested in arrays, maps and recursive records, each counting one.
///
/// What needs no place to return to does not count: a linked list may be as long as the datum.
pub const MAX_DEPTH: usize = 256;

/// One operation. In the fused ones that begin with `Nullable`, `some` is the index of the branch that is not null, as it
/// stands in the datum: 0 or 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// A boolean.
    Boolean,
    /// An int that usually has so many bytes: 1 to 8, as below.
    Int { usual: u8 },
    /// A long that usually has so many bytes: 1 to 8.
    Long { usual: u8 },
    /// So many bytes.
    Fixed { size: u32 },
    /// Bytes with their length.
    Bytes,
    /// A string with its length.
    String,
    /// An enum of so many symbols.
    Enum { symbols: u32 },
    /// A union of null and int.
    NullableInt { some: u8 },
    /// A union of null and long, which usually has so many bytes.
    NullableLong { some: u8, usual: u8 },
    /// A union of null and so many bytes.
    NullableFixed { some: u8, size: u32 },
    /// A union of null and bytes.
    NullableBytes { some: u8 },
    /// A union of null and string.
    NullableString { some: u8 },
    /// A union of null and an enum of so many symbols.
    NullableEnum { some: u8, symbols: u32 },
    /// A union of null and a record of fixed size: `smalls[table]`.
    NullableSmall { some: u8, table: u32 },
    /// A union of null and what follows; on null, goes to `null`.
    Nullable { some: u8, null: Target },
    /// A union: goes to `jumps[table + index]`.
    Union { branches: u16, table: u32 },
    /// A union of types without parts: `scalars[table]`.
    Scalars { table: u32 },
    /// Starts an array or map; goes to `exit` when it has no items.
    Items { exit: Target },
    /// Ends an item: goes to `body` for the next one, or on when there is none.
    Next { body: Target },
    /// A whole array of int.
    Ints,
    /// A whole array of long.
    Longs,
    /// A whole array of so many bytes each, not 0.
    FixedItems { size: u32 },
    /// A whole array of bytes.
    BytesItems,
    /// A whole array of strings.
    Strings,
    /// A whole array of what has no bytes.
    EmptyItems,
    /// A whole map of a union of types without parts: `scalars[table]`.
    ScalarMap { table: u32 },
    /// At the start of an array's item: goes to the target that `picks[table]` has for its number, or on.
    Pick { table: u32 },
    /// The key of a map's entry: goes to the target that `keys[table]` has for it, or on.
    Key { table: u32 },
    /// Runs the operations at `target` up to their `Return`.
    Call { target: Target },
    /// Ends what was called.
    Return,
    /// Goes to `target`.
    Jump { target: Target },
    /// Records the position.
    Mark { mark: Mark },
    /// Records it as `first` and as the mark behind it: where one wanted field ends, often another starts.
    Marks { first: Mark },
    /// Ends the datum.
    End,
}

/// One branch of a union of types without parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    /// So many bytes; null has none.
    Fixed(u32),
    /// A boolean.
    Boolean,
    /// An int.
    Int,
    /// A long.
    Long,
    /// Bytes with their length.
    Bytes,
    /// A string with its length.
    String,
    /// An enum of so many symbols.
    Enum(u32),
}

/// A union of types without parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scalars {
    pub branches: Vec<Scalar>,
    pub lanes: Lanes,
}

/// What a union of types without parts needs to be passed without a decision: its first eight branches, each with a byte
/// of each word. `branches` is 0 when one of them is not as it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lanes {
    pub branches: u8,
    /// The size of each branch that always has the same.
    pub fixed: u64,
    /// All bits of each branch that is text or bytes.
    pub text: u64,
    /// All bits of each branch that is a number.
    pub number: u64,
    /// What each branch has to keep, of the constants below.
    pub rules: u64,
}

impl Lanes {
    /// Text or bytes: the length is one byte, and not negative.
    pub const TEXT: u8 = 1;
    /// A boolean: the byte is 0 or 1.
    pub const BOOLEAN: u8 = 1 << 1;
    /// An `int`: so short that it needs no look at its value.
    pub const INT: u8 = 1 << 2;
    /// A `long`: so short that a word shows its end.
    pub const LONG: u8 = 1 << 3;
    /// Text.
    pub const STRING: u8 = 1 << 4;

    /// The lanes of some branches.
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

/// A record of fixed size: at most [`Small::MAX_SIZE`] bytes, some of which have a limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Small {
    /// Bytes.
    pub size: u32,
    /// Where the record's fields are booleans and enums.
    pub checks: Vec<Check>,
    /// The operation behind the union: what follows `NullableSmall` is the same union again, for all that is unusual.
    pub next: Target,
}

impl Small {
    /// So that it lies within the bytes that may be read behind a datum's end.
    pub const MAX_SIZE: u32 = 56;
}

/// A byte of limited value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Check {
    /// Where in the record.
    pub offset: u8,
    /// The value is below this.
    pub limit: u8,
    /// Bits that it must not have: 1 for the index of an enum, which is never negative.
    pub forbidden: u8,
}

/// What to do with the value of a wanted key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyTarget {
    /// The key.
    pub key: String,
    /// Marks that an earlier entry of the same key may have left.
    pub marks: Range<Mark>,
    /// The operations for its value.
    pub target: Target,
}

/// A compiled schema.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Program {
    pub ops: Vec<Op>,
    /// Targets of unions.
    pub jumps: Vec<Target>,
    pub scalars: Vec<Scalars>,
    pub smalls: Vec<Small>,
    /// Sorted by number.
    pub picks: Vec<Vec<(u32, Target)>>,
    pub keys: Vec<Vec<KeyTarget>>,
    /// Positions that a run records.
    pub marks: u32,
    /// Those that it does not record of every datum, and perhaps others between them.
    pub conditional: Range<Mark>,
    /// What the machine can run.
    pub level: Level,
}

/// The place of the next operation.
///
/// Invariant: `next` is one of the program's operations. It holds because the program does what [`Program::verify`] says,
/// which is asserted of every program that is compiled: every target is an operation, and behind every one that does not
/// always go elsewhere there is another.
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

    /// The next operation; then it is the one behind it.
    #[inline(always)]
    pub fn fetch(&mut self) -> Op {
        // SAFETY: `next` is an operation of the program, which is borrowed; the one behind it is one too, or is never
        // fetched, and at most one behind the last.
        unsafe {
            let op = *self.next;
            self.next = self.next.add(1);
            op
        }
    }

    /// Goes to a target of the program.
    #[inline(always)]
    pub fn go(&mut self, target: Target) {
        debug_assert!((target as usize) < self.ops.len());
        // SAFETY: a target is an operation of the program.
        self.next = unsafe { self.ops.as_ptr().add(target as usize) };
    }

    /// The operation that was fetched last, if there was no change of course since.
    #[inline(always)]
    pub fn fetched(&self) -> Op {
        let at = self.next().saturating_sub(1) as usize;
        self.ops.get(at).copied().unwrap_or(Op::End)
    }

    /// Goes back to where a call came from.
    #[inline(always)]
    pub fn back(&mut self, place: Target) {
        // A place that was noted is an operation. Were it another number, this would be one all the same.
        self.go(place.min(self.ops.len() as Target - 1));
    }

    /// The place of the next operation, as a target.
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
