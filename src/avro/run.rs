//! Executes a [`Program`] on a datum: checks all of it, and records the positions that the program marks.
//!
//! One loop, one `match`: no allocation, no copy, no call of its own kind. Nesting lives in a fixed array of frames, so a
//! hostile datum can exhaust neither the stack nor the memory, and every operation either reads at least one byte or
//! leads on, so the time is bounded by the datum's length, whatever counts it claims.

use super::error::DatumError;
use super::program::{MAX_DEPTH, Op, Program, Scalar};
use super::scan::{Block, Window};

/// The position of what is absent.
pub(crate) const UNSET: u32 = u32::MAX;

/// Frames that most schemas can do with; they are cleared at each run, so there should be few.
const FEW: usize = 8;

/// Checks the datum in `window`. `marks` receives the positions, plus `base`, and must have room for the program's marks.
pub(crate) fn run(program: &Program, window: Window<'_>, base: u32, marks: &mut [u32]) -> Result<(), DatumError> {
    let marks = marks.get_mut(..program.marks as usize).ok_or(DatumError::Caller)?;
    marks.fill(UNSET);
    if program.depth <= FEW {
        execute::<FEW>(program, window, base, marks)
    } else {
        execute::<MAX_DEPTH>(program, window, base, marks)
    }
}

/// A loop that is open, or a call.
#[derive(Clone, Copy, Default)]
struct Frame {
    /// Items left in the block, this one included; of a call, where it returns to.
    left: u32,
    /// Items before this one.
    done: u32,
    /// Where the block must end, or [`Block::UNSIZED`].
    block_end: u32,
}

// Indexing of operations and tables never panics: that is what `Program::verify` states.
fn execute<const FRAMES: usize>(
    program: &Program,
    window: Window<'_>,
    base: u32,
    marks: &mut [u32],
) -> Result<(), DatumError> {
    let ops = program.ops.as_slice();
    let mut frames = [Frame::default(); FRAMES];
    let mut open = 0;
    let mut pc = 0;
    let mut at = 0;
    loop {
        let op = ops[pc];
        pc += 1;
        match op {
            Op::Boolean => at = window.boolean(at)?,
            Op::Int => at = window.int(at)?,
            Op::Long => at = window.long(at)?,
            Op::Fixed { size } => at = window.skip(at, size as usize)?,
            Op::Bytes => at = window.bytes(at)?,
            Op::String => at = window.string(at)?,
            Op::Enum { symbols } => at = window.symbol(at, symbols)?,
            Op::NullableInt { some } => match nullable(window, at, some)? {
                (true, next) => at = window.int(next)?,
                (false, next) => at = next,
            },
            Op::NullableLong { some } => match nullable(window, at, some)? {
                (true, next) => at = window.long(next)?,
                (false, next) => at = next,
            },
            Op::NullableFixed { some, size } => match nullable(window, at, some)? {
                (true, next) => at = window.skip(next, size as usize)?,
                (false, next) => at = next,
            },
            Op::NullableBytes { some } => match nullable(window, at, some)? {
                (true, next) => at = window.bytes(next)?,
                (false, next) => at = next,
            },
            Op::NullableString { some } => match nullable(window, at, some)? {
                (true, next) => at = window.string(next)?,
                (false, next) => at = next,
            },
            Op::NullableEnum { some, symbols } => match nullable(window, at, some)? {
                (true, next) => at = window.symbol(next, symbols)?,
                (false, next) => at = next,
            },
            Op::NullableSmall { some, table } => {
                let small = &program.smalls[table as usize];
                let tag = window.byte(at);
                let present = tag == some;
                let mut unusual = tag & !2 != 0;
                for check in &small.checks {
                    let byte = window.byte(at + 1 + check.offset as usize);
                    unusual |= present & ((byte >= check.limit) | (byte & check.forbidden != 0));
                }
                if !unusual {
                    at = window.inside(at + 1 + if present { small.size as usize } else { 0 })?;
                    pc = small.next as usize;
                }
            }
            Op::Nullable { some, null } => {
                let (present, next) = nullable(window, at, some)?;
                at = next;
                if !present {
                    pc = null as usize;
                }
            }
            Op::Union { branches, table } => {
                let (index, next) = window.branch(at, branches.into())?;
                at = next;
                pc = program.jumps[(table + index) as usize] as usize;
            }
            Op::Scalars { table } => at = scalar(window, at, &program.scalars[table as usize])?,
            Op::Items { exit } => {
                let block = window.block(at)?;
                if block.count == 0 {
                    at = block.next;
                    pc = exit as usize;
                } else {
                    let frame = frames.get_mut(open).ok_or(DatumError::Depth { at })?;
                    // A block has no more items than bytes, which are counted in 32 bits.
                    *frame = Frame {
                        left: block.count as u32,
                        done: 0,
                        block_end: block.end,
                    };
                    open += 1;
                    at = block.next;
                }
            }
            Op::Next { body } => {
                // A loop is open: its body has as many returns as calls.
                let frame = &mut frames[open - 1];
                frame.left -= 1;
                frame.done += 1;
                if frame.left > 0 {
                    pc = body as usize;
                } else {
                    if frame.block_end != Block::UNSIZED && frame.block_end as usize != at {
                        return Err(DatumError::BlockSize { at });
                    }
                    let block = window.block(at)?;
                    at = block.next;
                    if block.count == 0 {
                        open -= 1;
                    } else {
                        frame.left = block.count as u32;
                        frame.block_end = block.end;
                        pc = body as usize;
                    }
                }
            }
            Op::Ints => at = items(window, at, |at, left| numbers(window, at, left, Window::int))?,
            Op::Longs => at = items(window, at, |at, left| numbers(window, at, left, Window::long))?,
            Op::BytesItems => at = items(window, at, |at, _| Ok((window.bytes(at)?, 1)))?,
            Op::Strings => at = items(window, at, |at, _| Ok((window.string(at)?, 1)))?,
            Op::FixedItems { size } => {
                at = items(window, at, |at, left| {
                    let bytes = left.checked_mul(size.into()).ok_or_else(|| window.truncated())?;
                    Ok((window.skip(at, usize::try_from(bytes).unwrap_or(usize::MAX))?, left))
                })?;
            }
            Op::ScalarMap { table } => {
                let branches = &program.scalars[table as usize];
                at = items(window, at, |at, _| {
                    Ok((scalar(window, window.string(at)?, branches)?, 1))
                })?;
            }
            Op::EmptyItems => at = empty_items(window, at)?,
            Op::Pick { table } => {
                let done = frames[open - 1].done;
                if let Some((_, target)) = program.picks[table as usize].iter().find(|(number, _)| *number == done) {
                    pc = *target as usize;
                }
            }
            Op::Key { table } => {
                let (key, next) = window.text(at)?;
                at = next;
                let found = program.keys[table as usize]
                    .iter()
                    .find(|wanted| wanted.key.as_bytes() == key);
                if let Some(found) = found {
                    marks[found.marks.start as usize..found.marks.end as usize].fill(UNSET);
                    pc = found.target as usize;
                }
            }
            Op::Call { target } => {
                let frame = frames.get_mut(open).ok_or(DatumError::Depth { at })?;
                frame.left = pc as u32;
                open += 1;
                pc = target as usize;
            }
            Op::Return => {
                // What returns was called.
                open -= 1;
                pc = frames[open].left as usize;
            }
            Op::Jump { target } => pc = target as usize,
            Op::Mark { mark } => marks[mark as usize] = base + at as u32,
            Op::End => {
                let count = window.end() - at;
                return if count == 0 {
                    Ok(())
                } else {
                    Err(DatumError::Trailing { count, at })
                };
            }
        }
    }
}

/// Whether a nullable union is not null, and the position behind its index.
#[inline(always)]
fn nullable(window: Window<'_>, at: usize, some: u8) -> Result<(bool, usize), DatumError> {
    let tag = window.byte(at);
    if tag & !2 == 0 {
        return Ok((tag == some, window.inside(at + 1)?));
    }
    let (index, next) = window.branch(at, 2)?;
    Ok((index == u32::from(some >> 1), next))
}

/// Behind a union of types without parts.
#[inline(always)]
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

/// Behind a whole array or map. `some_items` reads at least one and at most so many items at a position, and says where
/// they end and how many they were.
#[inline(always)]
fn items(
    window: Window<'_>,
    mut at: usize,
    mut some_items: impl FnMut(usize, u64) -> Result<(usize, u64), DatumError>,
) -> Result<usize, DatumError> {
    loop {
        let block = window.block(at)?;
        at = block.next;
        if block.count == 0 {
            return Ok(at);
        }
        let mut left = block.count;
        while left > 0 {
            let (next, read) = some_items(at, left)?;
            at = next;
            left -= read;
        }
        if block.end != Block::UNSIZED && block.end as usize != at {
            return Err(DatumError::BlockSize { at });
        }
    }
}

/// Some of `left` numbers: eight at once when all have one byte.
#[inline(always)]
fn numbers<'a>(
    window: Window<'a>,
    at: usize,
    left: u64,
    one: impl Fn(Window<'a>, usize) -> Result<usize, DatumError>,
) -> Result<(usize, u64), DatumError> {
    if left >= 8 && window.short_numbers(at) == 8 {
        return Ok((window.inside(at + 8)?, 8));
    }
    Ok((one(window, at)?, 1))
}

/// Behind an array whose items have no bytes: only the blocks' heads are there, however many items they claim.
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
