//! Custom steps: written in Rust, registered by name, and used in TOML beside the declared steps.
//!
//! Your program is the whole of `messina` plus these steps:
//!
//! ```no_run
//! use futures_util::FutureExt;
//! use futures_util::future::BoxFuture;
//! use messina::custom::{CustomStep, CustomSteps, Row, StepError, Type, Value};
//!
//! /// The length of a text.
//! struct Length;
//!
//! impl CustomStep for Length {
//!     fn takes(&self) -> Vec<(String, Type)> {
//!         vec![("text".to_owned(), Type::String)]
//!     }
//!
//!     fn gives(&self) -> Vec<(String, Type)> {
//!         vec![("length".to_owned(), Type::Long)]
//!     }
//!
//!     fn run<'a>(&'a self, values: &'a [Value<'a>]) -> BoxFuture<'a, Result<Option<Row>, StepError>> {
//!         async move {
//!             Ok(match &values[0] {
//!                 Value::String(text) => Some(vec![Value::Long(text.chars().count() as i64)]),
//!                 _ => None,
//!             })
//!         }
//!         .boxed()
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     // Called only by commands that run or check pipelines, so that a health probe loads nothing.
//!     messina::cli::main_with(|| Ok(CustomSteps::new().with("length", Length)))
//! }
//! ```
//!
//! In the configuration:
//!
//! ```toml
//! [[pipelines.visits.steps]]
//! name = "path"
//! custom = "length"
//! bind = { text = "event.url" }
//! ```
//!
//! What a step can rely on, and what it must tolerate:
//!
//! - It is type-checked at the start like any other step. Each value that it receives has the type that it declares, or is null.
//! - It runs for many records concurrently.
//! - It may run more than once for one record, so its effects must be idempotent.
//!
//! Steps are compiled in, not loaded as plug-ins: the compiler checks them, and a call costs a record no more than a virtual call.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, mpsc};

use futures_util::future::BoxFuture;

pub use crate::avro::value::{Type, Unit, Value};
pub use crate::retry::Class;

/// The result of a step: its values in the order of [`CustomStep::gives`].
pub type Row = Vec<Value<'static>>;

/// A custom step. One instance serves all pipelines that name it, on several threads.
///
/// A step that owns a Tokio runtime must shut it down in the background, because dropping a runtime waits for everything that blocks on it, and panics
/// in async code:
///
/// ```
/// use tokio::runtime::Runtime;
///
/// struct Client {
///     runtime: Option<Runtime>,
/// }
///
/// impl Drop for Client {
///     fn drop(&mut self) {
///         if let Some(runtime) = self.runtime.take() {
///             runtime.shutdown_background();
///         }
///     }
/// }
/// ```
pub trait CustomStep: Send + Sync + 'static {
    /// The inputs of the step: names and types. `bind` gives an expression for each name; without one, the event's field of that name is used. Called
    /// once, when the step is registered.
    fn takes(&self) -> Vec<(String, Type)>;

    /// The outputs of the step: later expressions use them as `STEP.name`. Each may be null. Called once, when the step is registered.
    fn gives(&self) -> Vec<(String, Type)>;

    /// Runs the step for one record. `values` are the inputs in the order of [`CustomStep::takes`]. `None` means no row: the step's `on_missing`
    /// decides what follows.
    ///
    /// The future runs on the current-thread runtime of a consumer's thread. Move long computations and blocking calls to another thread;
    /// `tokio::task::block_in_place` panics. That runtime ends, with all tasks on it, when the thread's pipelines are stopped, halt or are replaced by a
    /// reload, but the step lives on: tasks and clients that outlive a record need a runtime that the step owns.
    ///
    /// The future is dropped while it waits when the step's `timeout` is over, the record's partition moves away, or the consumer ends. Work that it
    /// has handed to another thread then continues beside the next attempt: give that work its own deadline.
    ///
    /// # Errors
    /// A transient error is retried as the step's `on_error` and `retry` say. A permanent error makes the record a dead letter, or halts a pipeline
    /// without `[dead_letter]`. A fatal error halts the pipeline.
    fn run<'a>(&'a self, values: &'a [Value<'a>]) -> BoxFuture<'a, Result<Option<Row>, StepError>>;
}

/// A shared step.
impl<S: CustomStep + ?Sized> CustomStep for Arc<S> {
    fn takes(&self) -> Vec<(String, Type)> {
        (**self).takes()
    }

    fn gives(&self) -> Vec<(String, Type)> {
        (**self).gives()
    }

    fn run<'a>(&'a self, values: &'a [Value<'a>]) -> BoxFuture<'a, Result<Option<Row>, StepError>> {
        (**self).run(values)
    }
}

/// Why a custom step failed for a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    pub(crate) class: Class,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl StepError {
    /// An error that may pass: the step is retried. `reason` is one word for log lines and the header of a dead letter; it must not contain content of
    /// the record.
    pub fn transient(reason: &'static str, message: impl Into<String>) -> StepError {
        StepError {
            class: Class::Transient,
            reason,
            message: message.into(),
        }
    }

    /// An error that will not pass for this record. The record becomes a dead letter, or halts a pipeline without `[dead_letter]`.
    pub fn permanent(reason: &'static str, message: impl Into<String>) -> StepError {
        StepError {
            class: Class::Permanent,
            reason,
            message: message.into(),
        }
    }

    /// An error that will not pass for any record: the pipeline halts.
    pub fn fatal(reason: &'static str, message: impl Into<String>) -> StepError {
        StepError {
            class: Class::Fatal,
            reason,
            message: message.into(),
        }
    }

    /// Whether the error is transient, permanent or fatal.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The `reason` that was passed to the constructor.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

/// A step with its declared inputs and outputs.
#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) step: Arc<dyn CustomStep>,
    pub(crate) takes: Vec<(String, Type)>,
    pub(crate) gives: Vec<(String, Type)>,
}

/// The custom steps of a program, by the names that `custom = "NAME"` uses.
#[derive(Clone, Default)]
pub struct CustomSteps(BTreeMap<String, Registered>);

impl CustomSteps {
    /// No steps.
    pub fn new() -> CustomSteps {
        CustomSteps::default()
    }

    /// Adds a step, or replaces the step of that name. Only this calls `takes` and `gives`, so that a panic in them cannot come at a reload.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, step: impl CustomStep) -> CustomSteps {
        let (takes, gives) = (step.takes(), step.gives());
        let step = Arc::new(step);
        self.0.insert(name.into(), Registered { step, takes, gives });
        self
    }

    /// The step of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Registered> {
        self.0.get(name)
    }

    /// The names of all steps.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Drops the steps on a thread of their own. A runtime that a step owns waits, possibly for ever, for whatever blocks on it, and panics if it is
    /// dropped in async code. The returned channel closes when all steps are dropped.
    pub(crate) fn let_go(self) -> mpsc::Receiver<Infallible> {
        let (held, gone) = mpsc::channel();
        if self.0.is_empty() {
            return gone;
        }
        // If no thread can be started, `spawn` drops the closure, and so the steps, here.
        drop(std::thread::Builder::new().spawn(move || {
            drop(self);
            drop(held);
        }));
        gone
    }
}

impl fmt::Debug for CustomSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Whether a value of type `from` can be passed where `to` is taken; if not, why.
pub(crate) fn fits(from: &Type, to: &Type) -> Result<(), String> {
    let (from, to) = (from.non_null(), to.non_null());
    let fits = match (from, to) {
        (Type::Null, _) | (Type::Int, Type::Long) | (Type::Float, Type::Double) => true,
        (Type::Union(parts), to) => parts.iter().all(|part| fits(part, to).is_ok()),
        (from, to) => are_all(from, to),
    };
    if fits {
        Ok(())
    } else {
        Err(format!("{from} is not {to}"))
    }
}

/// Whether every value of type `from` is, without conversion, a value of type `to`. [`is_a`] is the same check for one value.
fn are_all(from: &Type, to: &Type) -> bool {
    match (from, to) {
        // These types are known only when a record is seen, and checked then.
        (Type::Any, _) | (_, Type::Any) => true,
        (Type::Null, to) => to.is_nullable(),
        (from, Type::Nullable(to)) => are_all(from.non_null(), to),
        (Type::Union(parts), to) => parts.iter().all(|part| are_all(part, to)),
        (from, Type::Union(parts)) => parts.iter().any(|part| are_all(from, part)),
        (Type::List(from), Type::List(to)) => are_all(from, to),
        (Type::Map(from_keys, from), Type::Map(to_keys, to)) => are_all(from_keys, to_keys) && are_all(from, to),
        (Type::Record(from), Type::Record(to)) => {
            let mut both = from.iter().zip(to);
            from.len() == to.len() && both.all(|((name, from), (wanted, to))| name == wanted && are_all(from, to))
        }
        (Type::Enum(_), Type::String)
        | (Type::Fixed(_), Type::Bytes)
        // Precision 0 means unbounded.
        | (Type::Decimal { .. }, Type::Decimal { precision: 0, .. }) => true,
        (from, to) => from == to,
    }
}

/// Converts a value to the type that the step declares in `takes`.
pub(crate) fn taken<'v>(value: Value<'v>, ty: &Type) -> Result<Value<'v>, String> {
    match (value, ty.non_null()) {
        (Value::Int(value), Type::Long) => Ok(Value::Long(value.into())),
        (Value::Float(value), Type::Double) => Ok(Value::Double(value.into())),
        (value, ty) if value.is_null() || is_a(&value, ty) => Ok(value),
        (_, ty) => Err(format!("a value is not {ty}")),
    }
}

/// Whether a row matches what the step declares in `gives`; if not, why.
pub(crate) fn given(row: &[Value<'_>], declared: &[(String, Type)]) -> Result<(), String> {
    if row.len() != declared.len() {
        return Err(format!(
            "it returned {} values, but declares {}",
            row.len(),
            declared.len()
        ));
    }
    let wrong = row
        .iter()
        .zip(declared)
        .find(|(value, (_, ty))| !value.is_null() && !is_a(value, ty.non_null()));
    match wrong {
        Some((_, (name, ty))) => Err(format!("the returned '{name}' is not {}", ty.non_null())),
        None => Ok(()),
    }
}

/// Whether a value, with everything inside it, is of type `ty`. No schema has checked the values that custom steps and general expressions make.
fn is_a(value: &Value<'_>, ty: &Type) -> bool {
    match (value, ty) {
        (Value::Null, ty) if ty.is_nullable() => true,
        (value, Type::Nullable(ty)) => is_a(value, ty),
        (value, Type::Union(parts)) => parts.iter().any(|part| is_a(value, part)),
        (Value::List(items), Type::List(ty)) => items.iter().all(|item| is_a(item, ty)),
        (Value::Map(entries), Type::Map(keys, values)) => entries
            .iter()
            .all(|(key, value)| is_a(key, keys) && is_a(value, values)),
        (Value::Record(fields), Type::Record(declared)) => {
            let mut both = fields.iter().zip(declared);
            fields.len() == declared.len()
                && both.all(|((name, value), (wanted, ty))| name == wanted && is_a(value, ty))
        }
        (Value::String(symbol), Type::Enum(symbols)) => symbols.iter().any(|known| known == symbol),
        (Value::Bytes(bytes), Type::Fixed(size)) => bytes.len() == *size,
        (Value::Time(_, unit), Type::Time(wanted))
        | (Value::Timestamp(_, unit), Type::Timestamp(wanted))
        | (Value::LocalTimestamp(_, unit), Type::LocalTimestamp(wanted)) => unit == wanted,
        (_, Type::Any)
        | (Value::Bool(_), Type::Bool)
        | (Value::Int(_), Type::Int)
        | (Value::Long(_), Type::Long)
        | (Value::Float(_), Type::Float)
        | (Value::Double(_), Type::Double)
        | (Value::String(_), Type::String)
        | (Value::Bytes(_), Type::Bytes)
        | (Value::Date(_), Type::Date)
        | (Value::Decimal { .. }, Type::Decimal { .. })
        | (Value::Uuid(_), Type::Uuid)
        | (Value::Duration { .. }, Type::Duration) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn types_widen_and_nothing_else() {
        for (from, to) in [
            (Type::Int, Type::Long),
            (Type::Long.nullable(), Type::Long),
            (Type::Enum(vec!["a".into()]), Type::String),
            (Type::Null, Type::Uuid),
            (Type::Any, Type::Uuid),
            (Type::Union(vec![Type::Int, Type::Long]), Type::Long),
            // The schema evolves into the type that its step takes.
            (Type::Int, Type::Union(vec![Type::Int, Type::String])),
            (
                Type::Union(vec![Type::Int, Type::String]).nullable(),
                Type::Union(vec![Type::String, Type::Int, Type::Bool]),
            ),
            (decimal(9, 2), decimal(0, 0)),
            (list(Type::String), list(Type::String.nullable())),
            (list(Type::Enum(vec!["a".into()])), list(Type::String)),
        ] {
            assert_eq!(fits(&from, &to), Ok(()), "{from} as {to}");
        }
        for (from, to) in [
            (Type::Long, Type::Int),
            (Type::String, Type::Uuid),
            (Type::Union(vec![Type::Int, Type::String]), Type::Long),
            // A value is widened only by itself: not to a member of a union, and not inside a list.
            (Type::Int, Type::Union(vec![Type::Long, Type::String])),
            (list(Type::Int), list(Type::Long)),
            (list(Type::String.nullable()), list(Type::String)),
            (decimal(0, 0), decimal(9, 2)),
            (decimal(9, 2), decimal(9, 3)),
        ] {
            assert!(fits(&from, &to).is_err(), "{from} as {to}");
        }
    }

    fn decimal(precision: u32, scale: u32) -> Type {
        Type::Decimal { precision, scale }
    }

    fn list(items: Type) -> Type {
        Type::List(Box::new(items))
    }

    #[test]
    fn what_fits_is_taken_and_each_type_fits_itself() {
        let text = || Value::String("a".into());
        let bytes = || Value::Bytes(vec![0_u8; 2].into());
        let map = |values| Type::Map(Box::new(Type::String), Box::new(values));
        let record = |ty| Type::Record(vec![("f".to_owned(), ty)]);
        let cent = || Value::Decimal {
            unscaled: vec![1_u8].into(),
            scale: 2,
        };
        let duration = Value::Duration {
            months: 1,
            days: 2,
            millis: 3,
        };
        let all = [
            (Type::Null, Value::Null),
            (Type::Bool, Value::Bool(true)),
            (Type::Int, Value::Int(1)),
            (Type::Long, Value::Long(1)),
            (Type::Float, Value::Float(1.0)),
            (Type::Double, Value::Double(1.0)),
            (Type::String, text()),
            (Type::Enum(vec!["a".to_owned()]), text()),
            (Type::Bytes, bytes()),
            (Type::Fixed(2), bytes()),
            (Type::Date, Value::Date(1)),
            (Type::Time(Unit::Millis), Value::Time(1, Unit::Millis)),
            (Type::Timestamp(Unit::Micros), Value::Timestamp(1, Unit::Micros)),
            (Type::LocalTimestamp(Unit::Nanos), Value::LocalTimestamp(1, Unit::Nanos)),
            (decimal(9, 2), cent()),
            (decimal(0, 0), cent()),
            (Type::Uuid, Value::Uuid([1; 16])),
            (Type::Duration, duration),
            (list(Type::String), Value::List(vec![text()])),
            (list(Type::String.nullable()), Value::List(vec![text(), Value::Null])),
            (map(Type::Long), Value::Map(vec![(text(), Value::Long(1))])),
            (map(Type::Long.nullable()), Value::Map(vec![(text(), Value::Null)])),
            (record(Type::Int), Value::Record(vec![("f".into(), Value::Int(1))])),
            (
                record(Type::Int.nullable()),
                Value::Record(vec![("f".into(), Value::Null)]),
            ),
            (Type::Union(vec![Type::Int, Type::String]), Value::Int(1)),
            (
                Type::Union(vec![Type::Long, list(Type::String)]),
                Value::List(vec![text()]),
            ),
            (Type::Long.nullable(), Value::Null),
        ];
        for (from, value) in &all {
            assert_eq!(fits(from, from), Ok(()), "{from} as itself");
            assert_eq!(fits(from, &Type::Any), Ok(()), "{from} as any");
            for (to, _) in &all {
                let taken = taken(value.clone(), to);
                assert!(fits(from, to).is_err() || taken.is_ok(), "{from} as {to}: {taken:?}");
            }
        }
        assert_eq!(fits(&Type::Any, &Type::Any), Ok(()));
    }

    /// Counts how often `takes` and `gives` are called.
    struct Counts(AtomicUsize);

    impl CustomStep for Counts {
        fn takes(&self) -> Vec<(String, Type)> {
            self.0.fetch_add(1, Ordering::Relaxed);
            vec![("text".to_owned(), Type::String)]
        }

        fn gives(&self) -> Vec<(String, Type)> {
            self.0.fetch_add(1, Ordering::Relaxed);
            vec![("length".to_owned(), Type::Long)]
        }

        fn run<'a>(&'a self, _: &'a [Value<'a>]) -> BoxFuture<'a, Result<Option<Row>, StepError>> {
            Box::pin(std::future::ready(Ok(None)))
        }
    }

    #[test]
    fn a_step_that_is_shared_is_one_and_is_asked_once_what_it_takes_and_gives() {
        let step = Arc::new(Counts(AtomicUsize::new(0)));
        let shared: Arc<dyn CustomStep> = step.clone();
        let steps = CustomSteps::new().with("own", shared);
        for _ in 0..2 {
            let own = steps.get("own").unwrap();
            assert_eq!(own.takes, [("text".to_owned(), Type::String)]);
            assert_eq!(own.gives, [("length".to_owned(), Type::Long)]);
        }
        assert_eq!(step.0.load(Ordering::Relaxed), 2);
    }

    /// A step whose drop blocks until the test lets it end.
    struct Stays(Mutex<mpsc::Receiver<Infallible>>);

    impl CustomStep for Stays {
        fn takes(&self) -> Vec<(String, Type)> {
            Vec::new()
        }

        fn gives(&self) -> Vec<(String, Type)> {
            Vec::new()
        }

        fn run<'a>(&'a self, _: &'a [Value<'a>]) -> BoxFuture<'a, Result<Option<Row>, StepError>> {
            Box::pin(std::future::ready(Ok(None)))
        }
    }

    impl Drop for Stays {
        fn drop(&mut self) {
            let _ = self.0.lock().unwrap().recv();
        }
    }

    #[test]
    fn steps_that_do_not_end_hold_up_nobody_who_lets_them_go() {
        let (go, until) = mpsc::channel();
        let steps = CustomSteps::new().with("own", Stays(Mutex::new(until)));
        let gone = steps.let_go();
        assert_eq!(gone.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(go);
        assert_eq!(gone.recv(), Err(mpsc::RecvError));
    }

    #[test]
    fn where_there_are_no_steps_no_thread_lets_them_go() {
        let gone = CustomSteps::new().let_go();
        assert_eq!(gone.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }

    #[test]
    fn an_error_tells_its_class_and_reason() {
        let error = StepError::transient("away", "no answer");
        assert_eq!((error.class(), error.reason()), (Class::Transient, "away"));
        assert_eq!(error.to_string(), "no answer");
    }

    #[test]
    fn what_a_step_gives_is_held_against_what_it_declares() {
        let declared = [("a".to_owned(), Type::Long), ("b".to_owned(), Type::String)];
        assert_eq!(given(&[Value::Long(1), Value::Null], &declared), Ok(()));
        assert_eq!(
            given(&[Value::Long(1)], &declared),
            Err("it returned 1 values, but declares 2".into())
        );
        let wrong = given(&[Value::Long(1), Value::Long(2)], &declared).unwrap_err();
        assert!(wrong.starts_with("the returned 'b' is not "), "{wrong}");
    }

    #[test]
    fn what_is_inside_of_what_a_step_gives_is_held_against_it_too() {
        let text = |text: &'static str| Value::String(text.into());
        let record = |fields: &[(&'static str, Value<'static>)]| {
            Value::Record(
                fields
                    .iter()
                    .map(|(name, value)| ((*name).into(), value.clone()))
                    .collect(),
            )
        };
        let millis = Type::Timestamp(Unit::Millis);
        let pair = Type::Record(vec![("a".into(), Type::Long), ("b".into(), Type::String.nullable())]);
        let (long, null) = (|| Value::Long(1), || Value::Null);
        for (ty, right, wrong) in [
            (
                Type::List(Box::new(millis)),
                Value::List(vec![Value::Timestamp(1, Unit::Millis)]),
                vec![
                    Value::List(vec![Value::Timestamp(1, Unit::Millis), long()]),
                    Value::List(vec![null()]),
                ],
            ),
            (
                Type::List(Box::new(Type::Long.nullable())),
                Value::List(vec![null(), long()]),
                vec![Value::List(vec![Value::Int(1)])],
            ),
            (
                Type::Map(Box::new(Type::String), Box::new(Type::Long)),
                Value::Map(vec![(text("k"), long())]),
                vec![
                    Value::Map(vec![(long(), long())]),
                    Value::Map(vec![(text("k"), text("v"))]),
                ],
            ),
            (
                pair,
                record(&[("a", long()), ("b", null())]),
                vec![
                    record(&[("a", long())]),
                    record(&[("a", long()), ("c", null())]),
                    record(&[("a", null()), ("b", null())]),
                    record(&[("a", long()), ("b", long())]),
                ],
            ),
            (Type::Enum(vec!["up".into()]), text("up"), vec![text("down")]),
            (
                Type::Fixed(2),
                Value::Bytes(vec![0_u8; 2].into()),
                vec![Value::Bytes(vec![0_u8; 3].into())],
            ),
            (
                Type::Union(vec![Type::Long, Type::List(Box::new(Type::String))]),
                Value::List(vec![text("x")]),
                vec![Value::List(vec![long()]), text("x")],
            ),
            (
                Type::List(Box::new(Type::Any)),
                Value::List(vec![null(), long()]),
                vec![],
            ),
        ] {
            let declared = [("x".to_owned(), ty)];
            assert_eq!(given(std::slice::from_ref(&right), &declared), Ok(()), "{right:?}");
            for wrong in wrong {
                assert!(given(std::slice::from_ref(&wrong), &declared).is_err(), "{wrong:?}");
            }
        }
    }

    #[test]
    fn what_a_step_is_given_has_the_declared_type_or_is_null() {
        assert_eq!(taken(Value::Int(3), &Type::Long), Ok(Value::Long(3)));
        assert_eq!(taken(Value::Null, &Type::Long), Ok(Value::Null));
        assert!(taken(Value::Bool(true), &Type::Long).is_err());
        let millis = Value::Timestamp(1, Unit::Millis);
        assert!(taken(millis, &Type::Timestamp(Unit::Micros)).is_err());
        // A step that returns this list would halt its pipeline.
        let longs = Type::List(Box::new(Type::Long));
        let list = |item| Value::List(vec![Value::Long(1), item]);
        assert_eq!(taken(list(Value::Long(2)), &longs), Ok(list(Value::Long(2))));
        assert!(taken(list(Value::String("x".into())), &longs).is_err());
    }
}
