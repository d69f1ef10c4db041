//! Rows that wait for others, to be written in one batch whatever their partitions; of each step one batch is open at most.
//!
//! Invariants: a batch has no more rows or bytes than its step declares, and is not held for longer than the step's linger and one turn of the loop.

use std::time::Instant;

use super::Loop;
use crate::pipeline::runner::Member;
use crate::store::group::GroupOptions;

/// The open batches of a loop.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    step: usize,
    members: Vec<Member>,
    bytes: usize,
    until: Instant,
}

impl Gathering {
    /// Takes a row in. What it gives is full, and to be written.
    fn add(&mut self, member: Member, options: &GroupOptions) -> Option<Vec<Member>> {
        let (step, bytes) = (member.step, member.row.bytes());
        let mut full = None;
        let mut place = self.open.iter().position(|open| open.step == step);
        if let Some(at) = place
            && self.open[at].bytes + bytes > options.max_bytes
        {
            full = Some(self.open.swap_remove(at).members);
            place = None;
        }
        match place {
            None => self.open.push(Open {
                step,
                bytes,
                until: member.since + options.linger,
                members: vec![member],
            }),
            Some(at) => {
                let open = &mut self.open[at];
                open.members.push(member);
                open.bytes += bytes;
                if open.members.len() >= options.max_rows || open.bytes >= options.max_bytes {
                    full = Some(self.open.swap_remove(at).members);
                }
            }
        }
        full
    }

    /// A batch that has waited long enough.
    fn take_due(&mut self, now: Instant) -> Option<Vec<Member>> {
        let at = self.open.iter().position(|open| open.until <= now)?;
        Some(self.open.swap_remove(at).members)
    }

    /// When the first batch has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.iter().map(|open| open.until).min()
    }
}

impl Loop {
    pub(super) fn gather(&mut self, member: Member) {
        let full = match self.parts.runtime.sharing(member.step) {
            Some(options) => self.gathering.add(member, options),
            None => Some(vec![member]),
        };
        if let Some(members) = full {
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
            self.parts.io.spawn(self.parts.runtime.clone().write_together(step, members));
        }
    }
}
