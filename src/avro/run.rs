//! Executes a [`Program`] on a datum: validates all of it, and records the positions that the program marks.
//!
//! It is one loop with one `match`: no allocation, no copy, no recursion. Nesting uses a fixed array of frames, so a hostile datum can exhaust
//! neither stack nor memory. Every operation reads at least one byte or moves on in the program, so the datum's length bounds the time, whatever
//! counts it claims.

use super::careful::{self, Found};
use super::cursor::Cursor;
use super::error::DatumError;
use super::frames::{Frame, Frames};
use super::program::{Counter, Op, Program};
use super::scan::{Block, Window};
#[cfg(target_arch = "x86_64")]
use super::vector::Avx512;
use super::vector::{Level, Portable, Vector};

/// The mark of an absent value.
pub(crate) const UNSET: u32 = u32::MAX;

/// Validates the datum in `window`. `marks` receives the positions, plus `base`, and must have room for the program's marks.
/// On error their contents are meaningless.
#[inline]
pub(crate) fn run(program: &Program, window: Window<'_>, base: u32, marks: &mut [u32]) -> Result<(), DatumError> {
    let marks = marks.get_mut(..program.marks as usize).ok_or(DatumError::Caller)?;
    let conditional = program.conditional.start as usize..program.conditional.end as usize;
    if cfg!(debug_assertions) {
        marks.fill(UNSET);
    } else if !conditional.is_empty() {
        marks[conditional.clone()].fill(UNSET);
    }
    let result = match program.level {
        // SAFETY: the level says that the machine has these features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(_) => unsafe { with_avx512(program, &window, base, marks) },
        Level::Portable => {
            // SAFETY: any machine can run this version.
            let start = unsafe { Cursor::<Portable>::new(&window, base) };
            execute(program, &window, start, marks)
        }
    };
    if cfg!(debug_assertions) && result.is_ok() {
        let mut always = (0..marks.len()).filter(|mark| !conditional.contains(mark));
        debug_assert!(
            always.all(|mark| marks[mark] != UNSET),
            "a mark keeps what another datum left"
        );
    }
    result
}

/// # Safety
/// The machine has these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn with_avx512(program: &Program, window: &Window<'_>, base: u32, marks: &mut [u32]) -> Result<(), DatumError> {
    // SAFETY: the caller guarantees it.
    let start = unsafe { Cursor::<Avx512>::new(window, base) };
    execute(program, window, start, marks)
}

// Indexing of operations, tables and marks never panics, because `Program::verify` has checked the bounds.
#[inline(always)]
fn execute<V: Vector>(
    program: &Program,
    window: &Window<'_>,
    mut here: Cursor<'_, V>,
    marks: &mut [u32],
) -> Result<(), DatumError> {
    let mut frames = Frames::new();
    let mut pc = Counter::new(program);
    loop {
        let op = pc.fetch();
        let mut cursor = here;
        let usual = match op {
            Op::Boolean => cursor.boolean(),
            Op::Int { usual } => cursor.int(usual),
            Op::Long { usual } => cursor.long(usual),
            Op::Fixed { size } => cursor.fixed(size as usize),
            Op::Bytes => cursor.bytes(),
            Op::String => cursor.string(),
            Op::Enum { symbols } => cursor.symbol(symbols),
            Op::NullableInt { some } => cursor.nullable_int(some),
            Op::NullableLong { some, usual } => cursor.nullable_long(some, usual),
            Op::NullableFixed { some, size } => cursor.nullable_fixed(some, size as usize),
            Op::NullableBytes { some } => cursor.nullable_bytes(some),
            Op::NullableString { some } => cursor.nullable_string(some),
            Op::NullableEnum { some, symbols } => cursor.nullable_enum(some, symbols),
            Op::NullableSmall { some, table } => {
                let small = &program.smalls[table as usize];
                if cursor.nullable_small(some, small) {
                    pc.go(small.next);
                } else {
                    // The same union follows in its general form.
                    cursor = here;
                }
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
                    frames.push(Frame::of(count, Block::UNSIZED), here.offset(window))?;
                    true
                }
                None => false,
            },
            Op::Next { body } => {
                // The innermost frame is this loop's, because every call in its body has returned.
                let frame = frames.last();
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
                            frames.pop();
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
                // On overflow: more bytes than any datum has.
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
                let done = frames.last().done;
                if let Some((_, target)) = program.picks[table as usize].iter().find(|(number, _)| *number == done) {
                    pc.go(*target);
                }
                true
            }
            Op::EmptyItems | Op::Key { .. } => false,
            Op::Call { target } => {
                frames.push(Frame::of(pc.next(), Block::UNSIZED), here.offset(window))?;
                pc.go(target);
                true
            }
            Op::Return => {
                // The innermost frame is that of the call.
                pc.back(frames.last().left);
                frames.pop();
                true
            }
            Op::Jump { target } => {
                pc.go(target);
                true
            }
            Op::Mark { mark } => {
                marks[mark as usize] = here.position();
                true
            }
            Op::Marks { first } => {
                let first = first as usize;
                marks[first..first + 2].fill(here.position());
                true
            }
            Op::End => {
                let (count, at) = (here.left(), here.offset(window));
                return if count == 0 {
                    Ok(())
                } else {
                    Err(DatumError::Trailing { count, at })
                };
            }
        };
        if usual {
            here = cursor;
        } else {
            // Only the cursor has changed, and it is dropped.
            let (at, next) = unusual(program, window, here.offset(window), pc, &mut frames, marks)?;
            here = here.at(window, at);
            pc = next;
        }
    }
}

/// Executes the last fetched operation carefully, at position `at`. Returns the position and operation after it.
#[cold]
#[inline(never)]
fn unusual<'p>(
    program: &Program,
    window: &Window<'_>,
    at: usize,
    mut pc: Counter<'p>,
    frames: &mut Frames,
    marks: &mut [u32],
) -> Result<(usize, Counter<'p>), DatumError> {
    let op = pc.fetched();
    if let Op::Next { .. } = op {
        let block_end = frames.last().block_end;
        if block_end != Block::UNSIZED && block_end as usize != at {
            return Err(DatumError::BlockSize { at });
        }
    }
    let passed = careful::pass(program, *window, at, op)?;
    match (op, passed.found) {
        (_, Found::Nothing) => {}
        (_, Found::Target(target)) => pc.go(target),
        (_, Found::Key(target, cleared)) => {
            marks[cleared].fill(UNSET);
            pc.go(target);
        }
        (Op::Next { .. }, Found::End) => frames.pop(),
        (Op::Items { exit }, Found::End) => pc.go(exit),
        (Op::Next { body }, Found::Block { count, end }) => {
            let frame = frames.last();
            frame.left = count;
            frame.block_end = end;
            frame.done += 1;
            pc.go(body);
        }
        (_, Found::Block { count, end }) => frames.push(Frame::of(count, end), at)?,
        (_, Found::End) => {}
    }
    Ok((passed.at, pc))
}

/// Moves past a whole array or map whose blocks do not state their size. Returns whether it could. `some_items` moves
/// past at most the given number of items and returns how many; 0 if something is unusual.
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
