//! The stack of a run: open loops over items, and calls. It is a fixed array, so that no datum can exhaust memory. It is not cleared, which would
//! cost 27 ns for a flat record, which takes 61 in all, and 20 ns for a rich one.
//!
//! Invariant, on which the `unsafe` here depends: `top < MAX_DEPTH + 1`, and the frames up to `top` have been written. The first frame belongs to
//! nothing and always exists, so even a program that closed more than it had opened would read valid frames.

use std::mem::MaybeUninit;

use super::error::DatumError;
use super::program::MAX_DEPTH;
use super::scan::Block;

/// An open loop, or a call.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    /// Items left in the block, including the current one. For a call: where it returns to.
    pub left: u32,
    /// Number of items before the current one.
    pub done: u32,
    /// Where the block must end, or [`Block::UNSIZED`].
    pub block_end: u32,
}

impl Frame {
    #[inline(always)]
    pub fn of(left: u32, block_end: u32) -> Frame {
        Frame {
            left,
            done: 0,
            block_end,
        }
    }
}

/// The open frames.
pub(super) struct Frames {
    frames: [MaybeUninit<Frame>; MAX_DEPTH + 1],
    top: usize,
}

impl Frames {
    /// Only the first frame.
    #[inline(always)]
    pub fn new() -> Frames {
        let mut frames = [const { MaybeUninit::uninit() }; MAX_DEPTH + 1];
        frames[0] = MaybeUninit::new(Frame::of(0, Block::UNSIZED));
        Frames { frames, top: 0 }
    }

    /// Opens a frame. `at` is the position for the error.
    #[inline(always)]
    pub fn push(&mut self, frame: Frame, at: usize) -> Result<(), DatumError> {
        let next = self.frames.get_mut(self.top + 1).ok_or(DatumError::Depth { at })?;
        next.write(frame);
        self.top += 1;
        Ok(())
    }

    /// The frame that was opened last.
    #[inline(always)]
    pub fn last(&mut self) -> &mut Frame {
        debug_assert!(self.top <= MAX_DEPTH);
        // SAFETY: by the invariant of this module.
        unsafe { self.frames.get_unchecked_mut(self.top).assume_init_mut() }
    }

    /// Closes the frame that was opened last.
    #[inline(always)]
    pub fn pop(&mut self) {
        self.top = self.top.saturating_sub(1);
    }
}
