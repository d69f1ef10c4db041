//! Fused operations: one operation for a common combination of types.
//!
//! Fusing is only an optimization: each does exactly what the operations of its parts would do.

use super::compile::{Compiler, TooLarge};
use super::program::{Check, Lanes, Op, Scalar, Scalars, Small};
use super::schema::{Logical, NodeId, Schema, Shape};
use super::value::Unit;

/// A union of scalars is fused if it has at most this many branches, so that its index is one byte.
const MAX_SCALARS: usize = 64;

/// The index of an enum with at most this many symbols is one byte.
const MAX_BYTE_SYMBOLS: usize = 63;

/// Compiles the type to one operation, if there is one for it.
pub(super) fn fused(compiler: &mut Compiler<'_>, id: NodeId) -> Result<bool, TooLarge> {
    let schema = compiler.schema;
    let op = match &schema.node(id).shape {
        Shape::Null => return Ok(true),
        Shape::Union(branches) => match union(compiler, branches) {
            Some(op) => op,
            None => return Ok(false),
        },
        Shape::Array(items) if schema.facts(*items).empty => Op::EmptyItems,
        Shape::Array(items) => match scalar(schema, *items) {
            Some(Scalar::Int) => Op::Ints,
            Some(Scalar::Long) => Op::Longs,
            Some(Scalar::Fixed(size)) => Op::FixedItems { size },
            Some(Scalar::Bytes) => Op::BytesItems,
            Some(Scalar::String) => Op::Strings,
            _ => return Ok(false),
        },
        Shape::Map(values) => match &schema.node(*values).shape {
            Shape::Union(branches) => match scalars(compiler, branches) {
                Some(table) => Op::ScalarMap { table },
                None => return Ok(false),
            },
            _ => return Ok(false),
        },
        Shape::Record { .. } => return Ok(false),
        _ => match scalar(schema, id) {
            Some(Scalar::Fixed(size)) => Op::Fixed { size },
            Some(Scalar::Boolean) => Op::Boolean,
            Some(Scalar::Int) => Op::Int {
                usual: usual(schema, id),
            },
            Some(Scalar::Long) => Op::Long {
                usual: usual(schema, id),
            },
            Some(Scalar::Bytes) => Op::Bytes,
            Some(Scalar::String) => Op::String,
            Some(Scalar::Enum(symbols)) => Op::Enum { symbols },
            None => return Ok(false),
        },
    };
    compiler.emit(op)?;
    Ok(true)
}

/// For a union of null and one other type: the number of that branch, and its index as encoded.
pub(super) fn nullable(schema: &Schema, branches: &[NodeId]) -> Option<(usize, u8)> {
    let null = |branch: usize| schema.node(branches[branch]).shape == Shape::Null;
    match branches.len() {
        2 if null(0) && !null(1) => Some((1, 2)),
        2 if null(1) && !null(0) => Some((0, 0)),
        _ => None,
    }
}

fn union(compiler: &mut Compiler<'_>, branches: &[NodeId]) -> Option<Op> {
    let Some((branch, some)) = nullable(compiler.schema, branches) else {
        return scalars(compiler, branches).map(|table| Op::Scalars { table });
    };
    match scalar(compiler.schema, branches[branch])? {
        Scalar::Int => Some(Op::NullableInt { some }),
        Scalar::Long => Some(Op::NullableLong {
            some,
            usual: usual(compiler.schema, branches[branch]),
        }),
        Scalar::Fixed(size) => Some(Op::NullableFixed { some, size }),
        Scalar::Bytes => Some(Op::NullableBytes { some }),
        Scalar::String => Some(Op::NullableString { some }),
        Scalar::Enum(symbols) => Some(Op::NullableEnum { some, symbols }),
        Scalar::Boolean => None,
    }
}

/// The record's layout, if its size is fixed and small. A nullable union of such a record has a fast path.
pub(super) fn small_record(schema: &Schema, id: NodeId) -> Option<Small> {
    let mut small = Small::default();
    let record = matches!(schema.node(id).shape, Shape::Record { .. });
    (record && measure(schema, id, &mut small)).then_some(small)
}

/// Adds a type to the layout of a record. Returns false if its size is not fixed or the record gets too large.
fn measure(schema: &Schema, id: NodeId, small: &mut Small) -> bool {
    if schema.facts(id).empty {
        return true;
    }
    if schema.facts(id).recursive {
        return false;
    }
    let byte = |limit, forbidden, small: &mut Small| {
        small.checks.push(Check {
            offset: small.size as u8,
            limit,
            forbidden,
        });
        small.size += 1;
    };
    match &schema.node(id).shape {
        Shape::Boolean => byte(2, 0, small),
        Shape::Enum { symbols, .. } if symbols.len() <= MAX_BYTE_SYMBOLS => byte(2 * symbols.len() as u8, 1, small),
        Shape::Record { fields, .. } => return fields.iter().all(|field| measure(schema, field.node, small)),
        _ => match scalar(schema, id) {
            Some(Scalar::Fixed(size)) => small.size = small.size.saturating_add(size),
            _ => return false,
        },
    }
    small.size <= Small::MAX_SIZE
}

/// Adds the table of a union of scalars.
fn scalars(compiler: &mut Compiler<'_>, branches: &[NodeId]) -> Option<u32> {
    if branches.is_empty() || branches.len() > MAX_SCALARS {
        return None;
    }
    let table = branches
        .iter()
        .map(|branch| scalar(compiler.schema, *branch))
        .collect::<Option<Vec<_>>>()?;
    let lanes = Lanes::of(&table);
    compiler.program.scalars.push(Scalars { branches: table, lanes });
    Some(compiler.program.scalars.len() as u32 - 1)
}

/// How many bytes a number usually takes; the schema implies it for times. A wrong guess costs only a little time.
fn usual(schema: &Schema, id: NodeId) -> u8 {
    match schema.node(id).logical {
        // From 1992 to 4840.
        Some(Logical::Date) => 3,
        Some(Logical::Time(Unit::Millis)) => 4,
        Some(Logical::Time(Unit::Micros)) => 6,
        // From July 1970 to 2039.
        Some(Logical::Timestamp(Unit::Millis) | Logical::LocalTimestamp(Unit::Millis)) => 6,
        // From 1978 to 3111.
        Some(Logical::Timestamp(Unit::Micros) | Logical::LocalTimestamp(Unit::Micros)) => 8,
        _ => 1,
    }
}

/// A scalar type.
fn scalar(schema: &Schema, id: NodeId) -> Option<Scalar> {
    Some(match &schema.node(id).shape {
        Shape::Null => Scalar::Fixed(0),
        Shape::Boolean => Scalar::Boolean,
        Shape::Int => Scalar::Int,
        Shape::Long => Scalar::Long,
        Shape::Float => Scalar::Fixed(4),
        Shape::Double => Scalar::Fixed(8),
        Shape::Bytes => Scalar::Bytes,
        Shape::String => Scalar::String,
        Shape::Fixed { size, .. } => Scalar::Fixed(*size as u32),
        Shape::Enum { symbols, .. } => Scalar::Enum(symbols.len() as u32),
        _ => return None,
    })
}
