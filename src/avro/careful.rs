//! Executes one operation of a program carefully: the slow half of reading, for everything that the fast half leaves.
//!
//! It runs each operation again from its start, so it defines what the operations are and which errors they report. It handles what most data never
//! contain: large numbers, blocks with sizes, wanted map keys, and everything that is wrong.

use std::ops::Range;

use super::error::DatumError;
use super::program::{Op, Program, Scalar, Target};
use super::scan::{Block, Window};

/// The result of an operation.
pub(super) struct Passed {
    /// The position after the operation.
    pub at: usize,
    pub found: Found,
}

/// Where the program continues.
pub(super) enum Found {
    /// With the next operation.
    Nothing,
    /// With another operation.
    Target(Target),
    /// With another operation, after clearing marks that an earlier entry with the same key may have set.
    Key(Target, Range<usize>),
    /// A block of items. Their number fits in 32 bits, because each takes at least one byte and positions have 32 bits.
    Block { count: u32, end: u32 },
    /// No more blocks.
    End,
}

/// Executes an operation that reads, at position `at`.
#[cold]
#[inline(never)]
pub(super) fn pass(program: &Program, window: Window<'_>, at: usize, op: Op) -> Result<Passed, DatumError> {
    let nullable = |some: u8, read: &dyn Fn(usize) -> Result<usize, DatumError>| {
        let (present, next) = nullable(window, at, some)?;
        if present { read(next) } else { Ok(next) }
    };
    let at = match op {
        Op::Boolean => window.boolean(at)?,
        Op::Int { .. } => window.int(at)?,
        Op::Long { .. } => window.long(at)?,
        Op::Fixed { size } => window.skip(at, size as usize)?,
        Op::Bytes => window.bytes(at)?,
        Op::String => window.string(at)?,
        Op::Enum { symbols } => window.symbol(at, symbols)?,
        Op::NullableInt { some } => nullable(some, &|at| window.int(at))?,
        Op::NullableLong { some, .. } => nullable(some, &|at| window.long(at))?,
        Op::NullableFixed { some, size } => nullable(some, &|at| window.skip(at, size as usize))?,
        Op::NullableBytes { some } => nullable(some, &|at| window.bytes(at))?,
        Op::NullableString { some } => nullable(some, &|at| window.string(at))?,
        Op::NullableEnum { some, symbols } => nullable(some, &|at| window.symbol(at, symbols))?,
        Op::Nullable { some, null } => {
            let (present, at) = self::nullable(window, at, some)?;
            let found = if present { Found::Nothing } else { Found::Target(null) };
            return Ok(Passed { at, found });
        }
        Op::Union { branches, table } => {
            let (index, at) = window.branch(at, branches.into())?;
            let found = Found::Target(program.jumps[(table + index) as usize]);
            return Ok(Passed { at, found });
        }
        Op::Scalars { table } => scalar(window, at, &program.scalars[table as usize].branches)?,
        Op::Items { .. } | Op::Next { .. } => {
            let block = window.block(at)?;
            let found = match block.count {
                0 => Found::End,
                count => Found::Block {
                    count: count as u32,
                    end: block.end,
                },
            };
            return Ok(Passed { at: block.next, found });
        }
        Op::Ints => items(window, at, |at| window.int(at))?,
        Op::Longs => items(window, at, |at| window.long(at))?,
        Op::BytesItems => items(window, at, |at| window.bytes(at))?,
        Op::Strings => items(window, at, |at| window.string(at))?,
        Op::FixedItems { size } => items(window, at, |at| window.skip(at, size as usize))?,
        Op::ScalarMap { table } => {
            let branches = &program.scalars[table as usize].branches;
            items(window, at, |at| scalar(window, window.string(at)?, branches))?
        }
        Op::EmptyItems => empty_items(window, at)?,
        Op::Key { table } => {
            let (key, at) = window.text(at)?;
            let mut keys = program.keys[table as usize].iter();
            let found = match keys.find(|wanted| wanted.key.as_bytes() == key) {
                None => Found::Nothing,
                Some(wanted) => {
                    let marks = wanted.marks.start as usize..wanted.marks.end as usize;
                    Found::Key(wanted.target, marks)
                }
            };
            return Ok(Passed { at, found });
        }
        // These read nothing, or the operations after them read the same bytes.
        Op::NullableSmall { .. } | Op::Pick { .. } | Op::Call { .. } | Op::Return => at,
        Op::Jump { .. } | Op::Mark { .. } | Op::Marks { .. } | Op::End => at,
    };
    Ok(Passed {
        at,
        found: Found::Nothing,
    })
}

/// Whether a nullable union is not null, and the position after its index.
fn nullable(window: Window<'_>, at: usize, some: u8) -> Result<(bool, usize), DatumError> {
    let tag = window.byte(at);
    if tag & !2 == 0 {
        return Ok((tag == some, window.inside(at + 1)?));
    }
    let (index, next) = window.branch(at, 2)?;
    Ok((index == u32::from(some >> 1), next))
}

/// The position after a union of scalars.
fn scalar(window: Window<'_>, at: usize, branches: &[Scalar]) -> Result<usize, DatumError> {
    let (index, next) = window.branch(at, branches.len() as u32)?;
    match branches[index as usize] {
        Scalar::Fixed(size) => window.skip(next, size as usize),
        Scalar::Boolean => window.boolean(next),
        Scalar::Int => window.int(next),
        Scalar::Long => window.long(next),
        Scalar::Bytes => window.bytes(next),
        Scalar::String => window.string(next),
        Scalar::Enum(symbols) => window.symbol(next, symbols),
    }
}

/// The position after a whole array or map. `item` reads one item, of at least one byte.
fn items(
    window: Window<'_>,
    mut at: usize,
    item: impl Fn(usize) -> Result<usize, DatumError>,
) -> Result<usize, DatumError> {
    loop {
        let block = window.block(at)?;
        at = block.next;
        if block.count == 0 {
            return Ok(at);
        }
        for _ in 0..block.count {
            at = item(at)?;
        }
        if block.end != Block::UNSIZED && block.end as usize != at {
            return Err(DatumError::BlockSize { at });
        }
    }
}

/// The position after an array whose items take no bytes: only the heads of blocks are read, whatever they claim.
fn empty_items(window: Window<'_>, mut at: usize) -> Result<usize, DatumError> {
    loop {
        let block = window.sized_block(at)?;
        at = block.next;
        if block.count == 0 {
            return Ok(at);
        }
        if block.end != Block::UNSIZED && block.end as usize != at {
            return Err(DatumError::BlockSize { at });
        }
    }
}
