//! Compiles a schema and the wanted positions to a [`Program`].
//!
//! The schema is walked once. Records become the operations of their fields, in order. A record that is recursive, or large and used often, is
//! compiled once and called, so the program is at most a small multiple of the schema. Along wanted paths every use is compiled separately, because
//! it has its own marks.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use super::fuse;
use super::program::{KeyTarget, Op, Program, Target};
use super::schema::{NodeId, Schema, Shape};
use super::vector::Level;
use super::want::{Step, Want};

/// Limit on a program's operations, because wanted paths could otherwise make it arbitrarily large.
const MAX_OPS: usize = 1 << 20;

/// The program would be too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Compiles the program for data of `schema` that records the positions in `want`, which has `marks` marks.
pub(crate) fn compile(schema: &Schema, want: &Want, marks: u32) -> Result<Program, TooLarge> {
    let program = Program {
        marks,
        conditional: want.conditional(),
        level: Level::detect(),
        ..Program::default()
    };
    let mut compiler = Compiler {
        schema,
        program,
        barrier: 0,
        routines: HashMap::new(),
        queue: VecDeque::new(),
        calls: vec![],
    };
    compiler.value(schema.root(), Some(want))?;
    compiler.emit(Op::End)?;
    while let Some(id) = compiler.queue.pop_front() {
        compiler.routine(id)?;
    }
    compiler.link();
    // Panic rather than run a program that reads outside its operations. Only a compiler bug can cause it, never data.
    assert!(compiler.program.verify(), "a compiled program keeps its invariants");
    Ok(compiler.program)
}

/// A call whose target is not set yet.
struct Call {
    at: usize,
    callee: NodeId,
}

pub(super) struct Compiler<'s> {
    pub(super) schema: &'s Schema,
    pub(super) program: Program,
    /// The last jump target. An operation before it must not be merged with one at or after it.
    barrier: usize,
    /// The first operation of each record that is called.
    routines: HashMap<NodeId, Target>,
    queue: VecDeque<NodeId>,
    calls: Vec<Call>,
}

impl Compiler<'_> {
    pub(super) fn emit(&mut self, op: Op) -> Result<usize, TooLarge> {
        if let (Op::Fixed { size }, true) = (op, self.program.ops.len() > self.barrier)
            && let Some(Op::Fixed { size: before }) = self.program.ops.last_mut()
            && let Some(sum) = before.checked_add(size)
        {
            *before = sum;
            return Ok(self.program.ops.len() - 1);
        }
        if let (Op::Mark { mark }, true) = (op, self.program.ops.len() > self.barrier)
            && let Some(last) = self.program.ops.last_mut()
            && *last
                == (Op::Mark {
                    mark: mark.wrapping_sub(1),
                })
        {
            *last = Op::Marks { first: mark - 1 };
            return Ok(self.program.ops.len() - 1);
        }
        if self.program.ops.len() >= MAX_OPS {
            return Err(TooLarge);
        }
        self.program.ops.push(op);
        Ok(self.program.ops.len() - 1)
    }

    /// Makes the next operation a jump target.
    pub(super) fn label(&mut self) -> Target {
        self.barrier = self.program.ops.len();
        self.barrier as Target
    }

    /// Compiles a value, with the marks of its start and end.
    fn value(&mut self, id: NodeId, want: Option<&Want>) -> Result<(), TooLarge> {
        if let Some(mark) = want.and_then(|want| want.start) {
            self.emit(Op::Mark { mark })?;
        }
        self.node(id, want.filter(|want| !want.below.is_empty()))?;
        if let Some(mark) = want.and_then(|want| want.end) {
            self.emit(Op::Mark { mark })?;
        }
        Ok(())
    }

    /// Compiles a value without marks of its own. `want` is what is wanted inside it, if anything.
    pub(super) fn node(&mut self, id: NodeId, want: Option<&Want>) -> Result<(), TooLarge> {
        let facts = self.schema.facts(id);
        if want.is_none() && facts.empty {
            return Ok(());
        }
        if want.is_none() && facts.shared {
            return self.call(id);
        }
        if want.is_none() && fuse::fused(self, id)? {
            return Ok(());
        }
        match &self.schema.node(id).shape {
            Shape::Record { fields, .. } => {
                for (number, field) in fields.iter().enumerate() {
                    self.value(field.node, want.and_then(|want| want.at(&Step::Field(number))))?;
                }
                Ok(())
            }
            Shape::Union(branches) => self.union(branches, want),
            Shape::Array(items) => self.array(*items, want),
            Shape::Map(values) => self.map(*values, want),
            // A scalar: nothing inside it can be wanted.
            _ => fuse::fused(self, id).map(|_| ()),
        }
    }

    fn union(&mut self, branches: &[NodeId], want: Option<&Want>) -> Result<(), TooLarge> {
        let below = |number| want.and_then(|want| want.at(&Step::Branch(number)));
        if let Some((number, some)) = fuse::nullable(self.schema, branches) {
            let small = if want.is_none() {
                fuse::small_record(self.schema, branches[number])
            } else {
                None
            };
            let table = small.map(|small| {
                self.program.smalls.push(small);
                self.program.smalls.len() - 1
            });
            if let Some(table) = table {
                self.emit(Op::NullableSmall {
                    some,
                    table: table as u32,
                })?;
            }
            let start = self.emit(Op::Nullable { some, null: 0 })?;
            self.value(branches[number], below(number))?;
            let end = self.label();
            self.program.ops[start] = Op::Nullable { some, null: end };
            if let Some(table) = table {
                self.program.smalls[table].next = end;
            }
            return Ok(());
        }
        let table = self.program.jumps.len();
        self.program.jumps.resize(table + branches.len(), 0);
        let branch_count = u16::try_from(branches.len()).map_err(|_| TooLarge)?;
        self.emit(Op::Union {
            branches: branch_count,
            table: table as u32,
        })?;
        let mut exits = Vec::new();
        for (number, branch) in branches.iter().enumerate() {
            self.program.jumps[table + number] = self.label();
            self.value(*branch, below(number))?;
            if number + 1 < branches.len() {
                exits.push(self.emit(Op::Jump { target: 0 })?);
            }
        }
        self.land(&exits);
        Ok(())
    }

    /// Makes the jumps at `exits` lead to the next operation.
    fn land(&mut self, exits: &[usize]) -> Target {
        let target = self.label();
        for exit in exits {
            self.program.ops[*exit] = Op::Jump { target };
        }
        target
    }

    fn array(&mut self, items: NodeId, want: Option<&Want>) -> Result<(), TooLarge> {
        let wanted = want.map(|want| want.below.iter()).into_iter().flatten();
        let wanted: Vec<(u32, &Want)> = wanted
            .filter_map(|(step, want)| match step {
                Step::Item(number) => Some((*number, want)),
                _ => None,
            })
            .collect();
        if wanted.is_empty() {
            return self.items(items, None, &[]).map(|_| ());
        }
        let table = self.program.picks.len();
        self.program.picks.push(Vec::new());
        let entries = wanted.iter().map(|(_, want)| *want).collect::<Vec<_>>();
        let targets = self.items(items, Some(Op::Pick { table: table as u32 }), &entries)?;
        self.program.picks[table] = wanted.iter().map(|(number, _)| *number).zip(targets).collect();
        Ok(())
    }

    fn map(&mut self, values: NodeId, want: Option<&Want>) -> Result<(), TooLarge> {
        let wanted = want.map(|want| want.below.iter()).into_iter().flatten();
        let wanted: Vec<(&String, &Want)> = wanted
            .filter_map(|(step, want)| match step {
                Step::Key(key) => Some((key, want)),
                _ => None,
            })
            .collect();
        if wanted.is_empty() {
            return self.items(values, Some(Op::String), &[]).map(|_| ());
        }
        let table = self.program.keys.len();
        self.program.keys.push(Vec::new());
        let entries = wanted.iter().map(|(_, want)| *want).collect::<Vec<_>>();
        let targets = self.items(values, Some(Op::Key { table: table as u32 }), &entries)?;
        let keys = wanted.iter().zip(targets);
        let keys = keys.map(|((key, want), target)| KeyTarget {
            key: (*key).clone(),
            marks: want.marks.clone(),
            target,
        });
        self.program.keys[table] = keys.collect();
        Ok(())
    }

    /// Compiles the loop of an array or map: `head` at the start of every item, then the item of which nothing is wanted,
    /// then one copy for each of `wanted`. Returns where these copies start.
    fn items(&mut self, item: NodeId, head: Option<Op>, wanted: &[&Want]) -> Result<Vec<Target>, TooLarge> {
        let start = self.emit(Op::Items { exit: 0 })?;
        let body = self.label();
        if let Some(head) = head {
            self.emit(head)?;
        }
        self.value(item, None)?;
        self.emit(Op::Next { body })?;
        let (mut exits, mut targets) = (Vec::new(), Vec::new());
        for want in wanted {
            exits.push(self.emit(Op::Jump { target: 0 })?);
            targets.push(self.label());
            self.value(item, Some(want))?;
            self.emit(Op::Next { body })?;
        }
        let exit = self.land(&exits);
        self.program.ops[start] = Op::Items { exit };
        Ok(targets)
    }

    fn call(&mut self, id: NodeId) -> Result<(), TooLarge> {
        let at = self.emit(Op::Call { target: 0 })?;
        self.calls.push(Call { at, callee: id });
        if let Entry::Vacant(routine) = self.routines.entry(id) {
            routine.insert(0);
            self.queue.push_back(id);
        }
        Ok(())
    }

    fn routine(&mut self, id: NodeId) -> Result<(), TooLarge> {
        let target = self.label();
        self.routines.insert(id, target);
        for field in self.schema.node(id).shape.children() {
            self.value(field, None)?;
        }
        self.emit(Op::Return)?;
        Ok(())
    }

    /// Sets the targets of the calls. A call right before a return needs no return address and becomes a jump.
    fn link(&mut self) {
        for call in &self.calls {
            let Some(target) = self.routines.get(&call.callee) else {
                continue;
            };
            let tail = self.program.ops.get(call.at + 1) == Some(&Op::Return);
            self.program.ops[call.at] = if tail {
                Op::Jump { target: *target }
            } else {
                Op::Call { target: *target }
            };
        }
    }
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
