//! Evaluates values at run time: from a source and an event to a value, borrowed where possible.

use std::borrow::Cow;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use smallvec::SmallVec;

use super::event::Event;
use super::expression::{FOR_EVER, RecordField};
use super::failure::Failure;
use super::program::{Action, Program, Source};
use crate::avro::uuid;
use crate::avro::value::{Type, Unit, Value};

/// The value of `source` for `event`.
pub fn value<'e>(program: &'e Program, source: &'e Source, event: &'e Event) -> Result<Value<'e>, Failure> {
    Ok(match source {
        Source::Event(slot) => {
            let Some(plan) = &event.plan else {
                return Err(Failure::fatal("internal", "a step ran before the schema was known"));
            };
            plan.plan
                .value(*slot, event.padded(), &event.marks)
                .map_err(|e| Failure::permanent("avro", format!("event.{}: {e}", program.paths[*slot].0)))?
        }
        Source::Record(field) => record_field(field, event),
        Source::Column { step, column } => match event.rows.get(*step).and_then(Option::as_ref).map(|hit| &**hit) {
            Some(Some(row)) => row[*column].borrowed(),
            _ => Value::Null,
        },
        Source::Rows { step } => match event.rows.get(*step).and_then(Option::as_ref).map(|hit| &**hit) {
            Some(Some(row)) => records(program, *step, row),
            _ => Value::Null,
        },
        Source::Named(index) => event.named.get(*index).map_or(Value::Null, Value::borrowed),
        Source::Constant(constant) => constant.borrowed(),
        Source::Now(unit) => Value::Timestamp(now(*unit), *unit),
        Source::Computed(computed) => {
            let mut inputs: SmallVec<[Value<'_>; 4]> = SmallVec::with_capacity(computed.inputs.len());
            for input in &computed.inputs {
                inputs.push(value(program, input, event)?);
            }
            computed
                .expression
                .evaluate(&program.interpreter, &inputs)
                .map_err(|error| Failure::permanent("expression", error))?
        }
    })
}

/// The remaining TTL of a row whose lifetime is computed from the clock, as it is bound. An expired row gets one second: 0 would mean for ever, and without
/// a write the row that it replaces would stay.
pub fn life_left<'e>(program: &'e Program, source: &'e Source, event: &'e Event) -> Result<Value<'e>, Failure> {
    Ok(match value(program, source, event)? {
        Value::Long(FOR_EVER) => Value::Int(0),
        Value::Int(..=0) | Value::Long(..=0) => Value::Int(1),
        left => left,
    })
}

/// The rows of a look-up as records, from columns that came as lists.
fn records<'e>(program: &'e Program, step: usize, columns: &'e [Value<'static>]) -> Value<'e> {
    let Action::Lookup(lookup) = &program.steps[step].action else {
        return Value::Null;
    };
    let named: Vec<_> = lookup.statement.columns().iter().zip(columns).collect();
    let count = columns
        .iter()
        .map(|column| if let Value::List(l) = column { l.len() } else { 0 })
        .max();
    let record = |row: usize| {
        let fields = named.iter().map(|(column, values)| {
            let value = match values {
                Value::List(values) => values.get(row).map_or(Value::Null, Value::borrowed),
                _ => Value::Null,
            };
            (Cow::Borrowed(column.name.as_str()), value)
        });
        Value::Record(fields.collect())
    };
    Value::List((0..count.unwrap_or(0)).map(record).collect())
}

/// Whether a condition holds. Null is false, as in a SQL `WHERE`.
pub fn holds(program: &Program, source: &Source, event: &Event) -> Result<bool, Failure> {
    match value(program, source, event)? {
        Value::Bool(b) => Ok(b),
        Value::Null => Ok(false),
        _ => Err(Failure::permanent(
            "expression",
            "a condition gave neither true nor false",
        )),
    }
}

fn record_field<'e>(field: &RecordField, event: &'e Event) -> Value<'e> {
    match field {
        RecordField::Key => event.key().map_or(Value::Null, |k| Value::Bytes(Cow::Borrowed(k))),
        RecordField::Topic => Value::String(Cow::Borrowed(&event.origin.topic)),
        RecordField::Partition => Value::Int(event.origin.partition),
        RecordField::Offset => Value::Long(event.origin.offset),
        RecordField::Timestamp => event
            .origin
            .timestamp_ms
            .map_or(Value::Null, |ms| Value::Timestamp(ms, Unit::Millis)),
        RecordField::Datum => Value::Bytes(Cow::Borrowed(event.datum())),
    }
}

/// The value that [`now_micros`] returns instead of the time; `i64::MIN` means none.
static FIXED: AtomicI64 = AtomicI64::new(i64::MIN);

/// Fixes the time of the process's expressions at these microseconds since 1970, for cases of `messina test`; none releases it.
pub fn fix_now(micros: Option<i64>) {
    FIXED.store(micros.unwrap_or(i64::MIN), Ordering::Relaxed);
}

/// Microseconds since 1970; 0 if the clock is before that.
pub fn now_micros() -> i64 {
    let fixed = FIXED.load(Ordering::Relaxed);
    if fixed != i64::MIN {
        return fixed;
    }
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// The time in this unit, truncated.
fn now(unit: Unit) -> i64 {
    let micros = now_micros();
    match unit {
        Unit::Millis => micros.div_euclid(1_000),
        Unit::Micros => micros,
        Unit::Nanos => micros.saturating_mul(1_000),
    }
}

/// Whether values of this type can be an output key, as far as the type tells.
pub fn can_be_key(ty: &Type) -> bool {
    !matches!(
        ty.non_null(),
        Type::Float
            | Type::Double
            | Type::Decimal { .. }
            | Type::Duration
            | Type::List(_)
            | Type::Map(..)
            | Type::Record(_)
    )
}

/// Appends the bytes of an output key: text and UUIDs as UTF-8, bytes as they are, numbers in decimal. Returns false for null, which
/// means no key.
pub fn append_key_bytes(value: &Value<'_>, to: &mut Vec<u8>) -> Result<bool, Failure> {
    match value {
        Value::Null => return Ok(false),
        Value::String(s) => to.extend_from_slice(s.as_bytes()),
        Value::Bytes(b) => to.extend_from_slice(b),
        Value::Uuid(u) => to.extend_from_slice(&uuid::text(u)),
        Value::Bool(b) => to.extend_from_slice(b.to_string().as_bytes()),
        Value::Int(i) | Value::Date(i) => to.extend_from_slice(i.to_string().as_bytes()),
        Value::Long(i) | Value::Time(i, _) | Value::Timestamp(i, _) | Value::LocalTimestamp(i, _) => {
            to.extend_from_slice(i.to_string().as_bytes());
        }
        _ => {
            return Err(Failure::permanent(
                "encode",
                "a key is text, bytes, a UUID or a whole number",
            ));
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_gives_its_time_in_any_unit() {
        let before = now_micros();
        let (millis, micros, nanos) = (now(Unit::Millis), now(Unit::Micros), now(Unit::Nanos));
        let after = now_micros();
        assert!((before / 1000..=after / 1000).contains(&millis));
        assert!((before..=after).contains(&micros));
        assert!((before * 1000..=after * 1000).contains(&nanos));
    }
}
