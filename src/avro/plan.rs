//! A compiled plan: what to extract from the data of one writer schema.
//!
//! Compile it once per schema and set of paths, run it once per record, and ask it for values as they are needed. It has no state: what a run finds
//! is in the caller's `marks`, beside the record's bytes. So any number of threads can use one plan for any number of records in flight.

use std::ops::Range;
use std::sync::Arc;

use super::compile;
use super::decode::{self, Short};
use super::draft::Draft;
use super::error::DatumError;
use super::path::{PathError, PathProblem};
use super::program::Program;
use super::run::{self, UNSET};
use super::scan::{PADDING, Window};
use super::schema::{NodeId, Schema};
use super::select;
use super::splice::{PlanError, Splice};
use super::value::{Type, Value};
use super::vector::Level;
use super::want::{Edge, Mark, Step, Want};

/// Data up to this length are padded on the stack if their buffer has no room after them.
const SMALL_DATUM: usize = 2048;

/// A compiled extraction. Immutable; `Send` and `Sync`.
#[derive(Debug)]
pub struct Plan {
    writer: Arc<Schema>,
    program: Program,
    slots: Vec<Slot>,
}

/// One wanted path.
#[derive(Debug)]
struct Slot {
    ty: Type,
    sources: Vec<Ends>,
}

/// One place where a slot's value may be.
#[derive(Debug, Clone, Copy)]
struct Ends {
    start: Mark,
    end: Mark,
    node: NodeId,
    short: Short,
}

impl Plan {
    /// Compiles the extraction of `paths` (without `event.`) from data of `writer`; slot *n* is path *n*.
    ///
    /// # Errors
    /// A path that is malformed, or that the schema does not have. The error lists what the schema has.
    pub fn compile(writer: Arc<Schema>, paths: &[&str]) -> Result<Plan, PathError> {
        Plan::compile_wanting(writer, paths, |_| Vec::new()).map(|(plan, _)| plan)
    }

    /// Compiles the extraction of `paths` together with an output: how data of `output` are built from the same input.
    ///
    /// `new_fields` are the fields of `output` whose values the pipeline supplies.
    ///
    /// # Errors
    /// Those of [`Plan::compile`] and of [`Splice::compile`].
    pub fn compile_with_output(
        writer: Arc<Schema>,
        paths: &[&str],
        output: Arc<Schema>,
        new_fields: &[&str],
    ) -> Result<(Plan, Splice), PlanError> {
        let draft = Draft::of(&writer, &output, new_fields)?;
        let (plan, marks) = Plan::compile_wanting(writer, paths, |ask| draft.ask(ask))?;
        let splice = draft.finish(&plan.writer, output, &marks)?;
        Ok((plan, splice))
    }

    /// Compiles the extraction of `paths`, with the additional marks that `ask` requests.
    fn compile_wanting(
        writer: Arc<Schema>,
        paths: &[&str],
        ask: impl FnOnce(&mut Ask<'_>) -> Vec<Mark>,
    ) -> Result<(Plan, Vec<Mark>), PathError> {
        let (mut want, mut asked) = (Want::default(), 0);
        let mut slots = Vec::with_capacity(paths.len());
        for path in paths {
            let selection = select::select(&writer, path)?;
            let sources = selection.sources.iter().map(|source| Ends {
                start: want.ask(&source.trail, Edge::Start, &mut asked),
                end: want.ask(&source.trail, Edge::End, &mut asked),
                node: source.node,
                short: Short::of(&writer, source.node),
            });
            slots.push(Slot {
                sources: sources.collect(),
                ty: selection.ty,
            });
        }
        let mut further = ask(&mut Ask {
            want: &mut want,
            asked: &mut asked,
        });
        let mut marks = vec![0; asked as usize];
        let mut count = 0;
        want.number(&mut count, &mut marks);
        for source in slots.iter_mut().flat_map(|slot| &mut slot.sources) {
            source.start = marks[source.start as usize];
            source.end = marks[source.end as usize];
        }
        further.iter_mut().for_each(|mark| *mark = marks[*mark as usize]);
        let too_large = |_| PathError {
            path: paths.join("\", \""),
            problem: PathProblem::TooLarge,
        };
        let program = compile::compile(&writer, &want, count).map_err(too_large)?;
        Ok((Plan { writer, program, slots }, further))
    }

    /// The same plan without AVX-512, for comparison.
    #[must_use]
    pub fn for_any_machine(mut self) -> Plan {
        self.program.level = Level::Portable;
        self
    }

    /// The same plan with more slots, for paths that the schema does not have: their values are null. `slots` are their numbers, ascending.
    ///
    /// # Panics
    /// If a number is beyond the slots before it, which is a mistake of the caller.
    #[must_use]
    pub fn with_absent(mut self, slots: &[usize]) -> Plan {
        for slot in slots {
            let (ty, sources) = (Type::Null, Vec::new());
            self.slots.insert(*slot, Slot { ty, sources });
        }
        self
    }

    /// The schema of the data.
    pub fn writer(&self) -> &Arc<Schema> {
        &self.writer
    }

    /// The number of slots: one per path.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The type of a slot's values. It is nullable if a union on the way contains null or a branch without the rest of
    /// the path, or if an index or key on the way may be absent.
    ///
    /// # Panics
    /// If there is no such slot, which is a mistake of the caller.
    pub fn slot_type(&self, slot: usize) -> Type {
        self.slots[slot].ty.clone()
    }

    /// The writer's type of a slot's values, if they come from exactly one place.
    ///
    /// # Panics
    /// As [`Plan::slot_type`].
    pub fn slot_node(&self, slot: usize) -> Option<NodeId> {
        match self.slots[slot].sources.as_slice() {
            [only] => Some(only.node),
            _ => None,
        }
    }

    /// How many positions a run records.
    pub fn marks(&self) -> usize {
        self.program.marks as usize
    }

    /// Validates the whole datum `buf[start..end]`, and records where the wanted values are.
    ///
    /// `marks` needs room for [`Plan::marks`] positions; they count from the start of `buf`. If `buf` has at least
    /// [`PADDING`] bytes after `end`, nothing is copied.
    ///
    /// # Errors
    /// The first reason why the bytes are not a datum of the schema; its position counts from `start`. The contents of `marks`
    /// are then meaningless.
    pub fn run(&self, buf: &[u8], start: usize, end: usize, marks: &mut [u32]) -> Result<(), DatumError> {
        if end >= u32::MAX as usize {
            return Err(DatumError::TooLarge { bytes: end });
        }
        let datum = buf.get(start..end).ok_or(DatumError::Caller)?;
        match Window::new(&buf[start..], end - start) {
            Some(window) => run::run(&self.program, window, start as u32, marks),
            None => self.run_copy(datum, start as u32, marks),
        }
    }

    /// Runs on a copy of the datum, with padding.
    #[cold]
    fn run_copy(&self, datum: &[u8], base: u32, marks: &mut [u32]) -> Result<(), DatumError> {
        let (mut small, mut large);
        let padded: &mut [u8] = if datum.len() <= SMALL_DATUM {
            small = [0; SMALL_DATUM + PADDING];
            &mut small
        } else {
            large = vec![0; datum.len() + PADDING];
            &mut large
        };
        padded[..datum.len()].copy_from_slice(datum);
        let window = Window::new(padded, datum.len()).ok_or(DatumError::Caller)?;
        run::run(&self.program, window, base, marks)
    }

    /// The value of a slot after a run; null if it is absent. Text, bytes and symbols are borrowed; records, arrays and
    /// maps are built.
    ///
    /// # Errors
    /// What a run does not check: a string that should be a UUID but is not, nesting too deep to build, an array of
    /// nulls too long to build. Also the consequences of passing bytes or marks other than the run's.
    #[inline(always)]
    pub fn value<'a>(&'a self, slot: usize, buf: &'a [u8], marks: &[u32]) -> Result<Value<'a>, DatumError> {
        match self.find(slot, marks) {
            None => Ok(Value::Null),
            Some((source, range)) => {
                decode::decode(&self.writer, (source.node, source.short), buf, range.start, range.end)
            }
        }
    }

    /// The encoded bytes of a slot after a run (a union includes its index); None if it is absent.
    pub fn raw<'a>(&self, slot: usize, buf: &'a [u8], marks: &[u32]) -> Option<&'a [u8]> {
        let (_, range) = self.find(slot, marks)?;
        buf.get(range)
    }

    /// The slot's source that this datum has, and its place.
    #[inline(always)]
    fn find(&self, slot: usize, marks: &[u32]) -> Option<(&Ends, Range<usize>)> {
        self.slots
            .get(slot)?
            .sources
            .iter()
            .find_map(|source| Some((source, source.place(marks)?)))
    }
}

impl Ends {
    /// Where the last run found it, if it did.
    #[inline(always)]
    fn place(&self, marks: &[u32]) -> Option<Range<usize>> {
        let (start, end) = (*marks.get(self.start as usize)?, *marks.get(self.end as usize)?);
        (start != UNSET && end != UNSET).then_some(start as usize..end as usize)
    }
}

/// Lets an output request additional marks.
pub(crate) struct Ask<'a> {
    want: &'a mut Want,
    asked: &'a mut u32,
}

impl Ask<'_> {
    /// Requests the start or end of the field at the end of `trail`.
    pub fn ask(&mut self, trail: &[Step], edge: Edge) -> Mark {
        self.want.ask(trail, edge, self.asked)
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
