//! Executes a [`Program`] on a datum: checks all of it, and records the positions that the program marks.
//!
//! One loop, one `match`: no allocation, no copy, no call of its own kind. Nesting lives in a fixed array of frames, so a
//! hostile datum can exhaust neither the stack nor the memory, and every operation either reads at least one byte or
//! leads on, so the time is bounded by the datum's length, whatever counts it claims.

use super::careful::{self, Found};
use super::cursor::Cursor;
use super::error::DatumError;
use super::program::{Counter, MAX_DEPTH, Op, Program};
use super::scan::{Block, Window};
#[cfg(target_arch = "x86_64")]
use super::vector::Avx512;
use super::vector::{Level, Portable, Vector};

/// The position of what is absent.
pub(crate) const UNSET: u32 = u32::MAX;

/// Frames that most schemas can do with; they are cleared at each run, so there should be few.
const FEW: usize = 8;

/// Checks the datum in `window`. `marks` receives the positions, plus `base`, and must have room for the program's marks.
#[inline]
pub(crate) fn run(program: &Program, window: Window<'_>, base: u32, marks: &mut [u32]) -> Result<(), DatumError> {
    let marks = marks.get_mut(..program.marks as usize).ok_or(DatumError::Caller)?;
    marks.fill(UNSET);
    match program.level {
        // SAFETY: the level says that the machine has these features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(_) => unsafe { with_avx512(program, &window, base, marks) },
        Level::Portable => {
            // SAFETY: any machine can run this version.
            let start = unsafe { Cursor::<Portable>::new(&window) };
            with_frames(program, &window, start, base, marks)
        }
    }
}

/// # Safety
/// The machine has these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn with_avx512(program: &Program, window: &Window<'_>, base: u32, marks: &mut [u32]) -> Result<(), DatumError> {
    // SAFETY: as the caller says.
    let start = unsafe { Cursor::<Avx512>::new(window) };
    with_frames(program, window, start, base, marks)
}

#[inline(always)]
fn with_frames<V: Vector>(
    program: &Program,
    window: &Window<'_>,
    start: Cursor<'_, V>,
    base: u32,
    marks: &mut [u32],
) -> Result<(), DatumError> {
    if program.depth <= FEW {
        execute::<V, FEW>(program, window, start, base, marks)
    } else {
        execute::<V, MAX_DEPTH>(program, window, start, base, marks)
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

impl Frame {
    fn of(left: u32, block_end: u32) -> Frame {
        Frame {
            left,
            done: 0,
            block_end,
        }
    }
}

// Indexing of operations and tables never panics: that is what `Program::verify` states.
#[inline(always)]
fn execute<V: Vector, const FRAMES: usize>(
    program: &Program,
    window: &Window<'_>,
    mut cursor: Cursor<'_, V>,
    base: u32,
    marks: &mut [u32],
) -> Result<(), DatumError> {
    let mut frames = [Frame::default(); FRAMES];
    let mut open = 0;
    let mut pc = Counter::new(program);
    loop {
        let start = cursor;
        let op = pc.fetch();
        let usual = match op {
            Op::Boolean => cursor.boolean(),
            Op::Int => cursor.int(),
            Op::Long => cursor.long(),
            Op::Fixed { size } => cursor.fixed(size as usize),
            Op::Bytes => cursor.bytes(),
            Op::String => cursor.string(),
            Op::Enum { symbols } => cursor.symbol(symbols),
            Op::NullableInt { some } => cursor.nullable_int(some),
            Op::NullableLong { some } => cursor.nullable_long(some),
            Op::NullableFixed { some, size } => cursor.nullable_fixed(some, size as usize),
            Op::NullableBytes { some } => cursor.nullable_bytes(some),
            Op::NullableString { some } => cursor.nullable_string(some),
            Op::NullableEnum { some, symbols } => cursor.nullable_enum(some, symbols),
            Op::NullableSmall { some, table } => {
                let small = &program.smalls[table as usize];
                if cursor.nullable_small(some, small) {
                    pc.go(small.next);
                }
                // If not, the same union follows in parts.
                true
            }
            Op::Nullable { some, null } => match cursor.nullable(some) {
                Some(present) => {
                    if !present {
                        pc.go(null);
                    }
                    true
                }
                None => false,
            },
            Op::Union { branches, table } => match cursor.branch(branches.into()) {
                Some(index) => {
                    pc.go(program.jumps[(table + index) as usize]);
                    true
                }
                None => false,
            },
            Op::Scalars { table } => cursor.lanes(&program.scalars[table as usize].lanes),
            Op::Items { exit } => match cursor.block() {
                Some(0) => {
                    pc.go(exit);
                    true
                }
                Some(count) => {
                    let at = start.position();
                    *frames.get_mut(open).ok_or(DatumError::Depth { at })? = Frame::of(count, Block::UNSIZED);
                    open += 1;
                    true
                }
                None => false,
            },
            Op::Next { body } => {
                // A loop is open: its body has as many returns as calls.
                let frame = &mut frames[open - 1];
                if frame.left > 1 {
                    frame.left -= 1;
                    frame.done += 1;
                    pc.go(body);
                    true
                } else if frame.block_end != Block::UNSIZED {
                    false
                } else {
                    match cursor.block() {
                        Some(0) => {
                            open -= 1;
                            true
                        }
                        Some(count) => {
                            frame.left = count;
                            frame.done += 1;
                            pc.go(body);
                            true
                        }
                        None => false,
                    }
                }
            }
            Op::Ints => items(&mut cursor, Cursor::ints),
            Op::Longs => items(&mut cursor, Cursor::longs),
            Op::BytesItems => items(&mut cursor, |cursor, _| u64::from(cursor.bytes())),
            Op::Strings => items(&mut cursor, |cursor, _| u64::from(cursor.string())),
            Op::FixedItems { size } => items(&mut cursor, |cursor, left| {
                // What does not fit in a word is more than there is.
                let bytes = left
                    .checked_mul(size.into())
                    .and_then(|bytes| usize::try_from(bytes).ok());
                if cursor.fixed(bytes.unwrap_or(usize::MAX)) {
                    left
                } else {
                    0
                }
            }),
            Op::ScalarMap { table } => {
                let lanes = &program.scalars[table as usize].lanes;
                items(&mut cursor, |cursor, _| {
                    u64::from(cursor.string() && cursor.lanes(lanes))
                })
            }
            Op::Pick { table } => {
                let done = frames[open - 1].done;
                if let Some((_, target)) = program.picks[table as usize].iter().find(|(number, _)| *number == done) {
                    pc.go(*target);
                }
                true
            }
            Op::EmptyItems | Op::Key { .. } => false,
            Op::Call { target } => {
                let at = cursor.position();
                let frame = frames.get_mut(open).ok_or(DatumError::Depth { at })?;
                frame.left = pc.next();
                open += 1;
                pc.go(target);
                true
            }
            Op::Return => {
                // What returns was called.
                open -= 1;
                pc.back(frames[open].left);
                true
            }
            Op::Jump { target } => {
                pc.go(target);
                true
            }
            Op::Mark { mark } => {
                marks[mark as usize] = base + cursor.position() as u32;
                true
            }
            Op::End => {
                let (count, at) = (cursor.left(), cursor.position());
                return if count == 0 {
                    Ok(())
                } else {
                    Err(DatumError::Trailing { count, at })
                };
            }
        };
        if usual {
            continue;
        }
        let at = start.position();
        if let Op::Next { .. } = op {
            let block_end = frames[open - 1].block_end;
            if block_end != Block::UNSIZED && block_end as usize != at {
                return Err(DatumError::BlockSize { at });
            }
        }
        let passed = careful::pass(program, *window, at, op)?;
        cursor.go(passed.at);
        match (op, passed.found) {
            (_, Found::Nothing) => {}
            (_, Found::Target(target)) => pc.go(target),
            (_, Found::Key(target, cleared)) => {
                marks[cleared].fill(UNSET);
                pc.go(target);
            }
            (Op::Next { .. }, Found::End) => open -= 1,
            (Op::Items { exit }, Found::End) => pc.go(exit),
            (Op::Next { body }, Found::Block { count, end }) => {
                let frame = &mut frames[open - 1];
                frame.left = count;
                frame.block_end = end;
                frame.done += 1;
                pc.go(body);
            }
            (_, Found::Block { count, end }) => {
                *frames.get_mut(open).ok_or(DatumError::Depth { at })? = Frame::of(count, end);
                open += 1;
            }
            (_, Found::End) => {}
        }
    }
}

/// Passes a whole array or map whose blocks do not say their size; whether it could. `some_items` passes at most so many
/// items, and says how many; 0 when something is unusual.
#[inline(always)]
fn items<'w, V: Vector>(cursor: &mut Cursor<'w, V>, some_items: impl Fn(&mut Cursor<'w, V>, u64) -> u64) -> bool {
    loop {
        let mut left = match cursor.block() {
            None => return false,
            Some(0) => return true,
            Some(count) => u64::from(count),
        };
        while left > 0 {
            match some_items(cursor, left) {
                0 => return false,
                count => left -= count,
            }
        }
    }
}
