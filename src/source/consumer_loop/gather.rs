//! Rows that wait for others, to be written in one batch whatever their partitions; of each step one batch is open at most.
//!
//! Invariants: a row is in one batch, in the order in which the rows came; a batch has no more rows or bytes than its step declares; it is not held for
//! longer than the step's linger and one turn of the loop.

use std::time::Instant;

use super::Loop;
use crate::pipeline::runner::Member;
use crate::store::group::GroupOptions;

/// The open batches of a loop.
#[derive(Debug)]
pub(super) struct Gathering<T> {
    open: Vec<Open<T>>,
}

#[derive(Debug)]
struct Open<T> {
    step: usize,
    rows: Vec<T>,
    bytes: usize,
    until: Instant,
}

impl<T> Default for Gathering<T> {
    fn default() -> Self {
        Gathering { open: Vec::new() }
    }
}

impl<T> Gathering<T> {
    /// Takes in a row of this many bytes, fewer than a batch has. What it gives is to be written.
    fn add(&mut self, step: usize, row: T, bytes: usize, now: Instant, options: &GroupOptions) -> Option<Vec<T>> {
        let Some(at) = self.open.iter().position(|open| open.step == step) else {
            self.open(step, row, bytes, now, options);
            return None;
        };
        if self.open[at].bytes + bytes > options.max_bytes {
            let full = self.open.swap_remove(at).rows;
            self.open(step, row, bytes, now, options);
            return Some(full);
        }
        let open = &mut self.open[at];
        open.rows.push(row);
        open.bytes += bytes;
        let is_full = open.rows.len() >= options.max_rows || open.bytes >= options.max_bytes;
        is_full.then(|| self.open.swap_remove(at).rows)
    }

    fn open(&mut self, step: usize, row: T, bytes: usize, now: Instant, options: &GroupOptions) {
        self.open.push(Open {
            step,
            rows: vec![row],
            bytes,
            until: now + options.linger,
        });
    }

    /// A batch that has waited long enough.
    fn take_due(&mut self, now: Instant) -> Option<Vec<T>> {
        let at = self.open.iter().position(|open| open.until <= now)?;
        Some(self.open.swap_remove(at).rows)
    }

    /// When the first batch has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.iter().map(|open| open.until).min()
    }
}

impl Loop {
    pub(super) fn gather(&mut self, member: Member) {
        let (step, bytes, since) = (member.step, member.row.bytes(), member.since);
        let batch = match self.parts.runtime.sharing(step) {
            Some(options) => self.gathering.add(step, member, bytes, since, options),
            None => Some(vec![member]),
        };
        if let Some(members) = batch {
            self.write_together(members);
        }
    }

    pub(super) fn write_what_is_due(&mut self, now: Instant) {
        while let Some(members) = self.gathering.take_due(now) {
            self.write_together(members);
        }
    }

    fn write_together(&self, members: Vec<Member>) {
        if let Some(step) = members.first().map(|member| member.step) {
            self.parts
                .io
                .spawn(self.parts.runtime.clone().write_together(step, members));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const MAX_ROWS: usize = 5;
    const MAX_BYTES: usize = 100;
    const LINGER: Duration = Duration::from_millis(2);

    proptest! {
        #[test]
        fn every_row_goes_once_in_order_and_no_batch_is_too_large_or_held_too_long(
            rows in prop::collection::vec((0..3usize, 1..MAX_BYTES, 0..1500u64), 0..200),
        ) {
            let options = GroupOptions {
                linger: LINGER,
                max_rows: MAX_ROWS,
                max_bytes: MAX_BYTES,
                across_partitions: true,
            };
            let mut now = Instant::now();
            let mut gathering = Gathering::default();
            let mut written = vec![Vec::new(); 3];
            let mut take = |step: usize, batch: Vec<(usize, usize, Instant)>, now: Instant| {
                assert!(!batch.is_empty() && batch.len() <= MAX_ROWS);
                assert!(batch.iter().map(|(_, bytes, _)| bytes).sum::<usize>() <= MAX_BYTES);
                // A row comes within 1.5 ms of the one before, and the loop turns with each.
                assert!(batch.iter().all(|(.., at)| now - *at <= LINGER + Duration::from_micros(1500)));
                written[step].extend(batch.into_iter().map(|(number, ..)| number));
            };
            let mut wanted = vec![Vec::new(); 3];
            for (number, (step, bytes, pause)) in rows.into_iter().enumerate() {
                now += Duration::from_micros(pause);
                wanted[step].push(number);
                if let Some(batch) = gathering.add(step, (step, (number, bytes, now)), bytes, now, &options) {
                    take(step, batch.into_iter().map(|(_, row)| row).collect(), now);
                }
                while let Some(batch) = gathering.take_due(now) {
                    let step = batch[0].0;
                    take(step, batch.into_iter().map(|(_, row)| row).collect(), now);
                }
                prop_assert!(gathering.due().is_none_or(|due| due > now && due <= now + LINGER));
            }
            while let Some(due) = gathering.due() {
                let batch = gathering.take_due(due).unwrap();
                let step = batch[0].0;
                take(step, batch.into_iter().map(|(_, row)| row).collect(), due);
            }
            prop_assert_eq!(written, wanted);
        }
    }
}
