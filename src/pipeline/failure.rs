//! Why an event could not continue: the content of its dead letter, log line and counter.

use std::sync::Arc;

use crate::custom::StepError;
use crate::retry::Class;
use crate::store::StoreError;
use crate::telemetry::scrub::scrub;

/// The longest message that a failure keeps, in bytes. Each failed record keeps one until its letter is delivered, and the budget does not count it.
const LONGEST: usize = 4096;

/// A failure of one event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The error class, which decides the policy.
    pub class: Class,
    /// A short word for metrics and headers, such as `framing` or `missing`; docs/reliability.md lists them all.
    pub reason: &'static str,
    /// The step in which it happened; none outside of steps.
    pub step: Option<Arc<str>>,
    /// The number of attempts.
    pub attempts: u32,
    /// In words, at most about 4 KiB. Content of the record is quoted in it, and only the dead letter shows it: see [`Failure::scrubbed`].
    pub message: String,
    /// Whether it is certain that the operation was not applied; see [`StoreError::not_applied`].
    pub not_applied: bool,
}

impl Failure {
    /// A failure of this class, outside of steps. A long message is truncated.
    pub fn new(class: Class, reason: &'static str, message: impl Into<String>) -> Failure {
        let mut message = message.into();
        if message.len() > LONGEST {
            message.truncate(message.floor_char_boundary(LONGEST));
            message.shrink_to_fit();
        }
        Failure {
            class,
            reason,
            step: None,
            attempts: 1,
            message,
            not_applied: false,
        }
    }

    /// A failure that a retry cannot fix.
    pub fn permanent(reason: &'static str, message: impl Into<String>) -> Failure {
        Failure::new(Class::Permanent, reason, message)
    }

    /// A failure that may pass.
    pub fn transient(reason: &'static str, message: impl Into<String>) -> Failure {
        Failure::new(Class::Transient, reason, message)
    }

    /// A failure after which the pipeline cannot continue.
    pub fn fatal(reason: &'static str, message: impl Into<String>) -> Failure {
        Failure::new(Class::Fatal, reason, message)
    }

    /// The same, in a step.
    pub fn in_step(mut self, step: &Arc<str>) -> Failure {
        self.step = Some(step.clone());
        self
    }

    /// The same without the record's content, for log lines and `/status`.
    pub fn scrubbed(&self) -> Failure {
        Failure {
            message: told(self.reason, self.step.as_deref(), &self.message),
            ..self.clone()
        }
    }

    /// The label under which it is counted: its step, or outside of steps its reason.
    pub fn stage(&self) -> &str {
        self.step.as_deref().unwrap_or(self.reason)
    }
}

/// A failure's message without the record's content, given the failure's reason and step.
pub fn told(reason: &str, step: Option<&str>, message: &str) -> String {
    // Messages with this reason mention only schemas and the configuration. In a step the author chooses the reason, so
    // it means nothing.
    if reason == "schema" && step.is_none() {
        message.to_owned()
    } else {
        scrub(message)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure {
            not_applied: error.not_applied,
            ..Failure::new(error.class, error.label, error.message)
        }
    }
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Failure {
        let message = match error.class {
            // A fatal failure makes no dead letter; only the log line and `/status` show it, and they show it
            // unchanged.
            Class::Fatal => scrub(&error.message),
            Class::Transient | Class::Permanent => error.message,
        };
        Failure::new(error.class, error.reason, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::{Schema, Value};
    use crate::store::convert;
    use crate::store::types::ColumnType;

    #[test]
    fn what_a_record_holds_is_in_the_letter_and_not_in_the_line() {
        let form = convert::form("alice@x.org", &ColumnType::Uuid);
        let range = convert::integer::<i8>(&Value::Int(31_337), &ColumnType::TinyInt).unwrap_err();
        for (error, value) in [(form, "alice@x.org"), (range, "31337")] {
            let failure = Failure::permanent("type", error.to_string());
            assert!(failure.message.contains(value), "{failure}");
            assert!(!failure.scrubbed().to_string().contains(value), "{failure}");
        }
    }

    #[test]
    fn names_and_ids_of_schemas_are_in_the_line() {
        let schema =
            r#"{"type":"record","name":"R","fields":[{"name":"price","type":{"type":"map","values":"float"}}]}"#;
        let prices = Value::Map(vec![(Value::String("it's \"alice".into()), Value::Double(40_000.1))]);
        let record = Value::Record(vec![("price".into(), prices)]);
        let error = Schema::parse(schema)
            .unwrap()
            .encode(&record, &mut Vec::new())
            .unwrap_err();
        let failure = Failure::permanent("encode", error.to_string());
        assert!(failure.message.contains("40000"), "{failure}");
        let line = failure.scrubbed().to_string();
        assert!(line.contains("field price["), "{line}");
        assert!(!line.contains("40000") && !line.contains("alice"), "{line}");

        let failure = Failure::permanent(
            "schema",
            "schema 100123 breaks the pipeline: no field \"usr\" in the event",
        );
        assert_eq!(failure.scrubbed(), failure);
        let custom = failure_of("4111");
        assert!(!custom.scrubbed().to_string().contains("4111"), "{custom}");

        // The key of a map stands for a field here.
        let named = Value::Map(vec![(Value::String("a\"alice".into()), Value::Int(1))]);
        let error = Schema::parse(schema)
            .unwrap()
            .encode(&named, &mut Vec::new())
            .unwrap_err();
        let failure = Failure::permanent("encode", error.to_string());
        assert!(!failure.scrubbed().to_string().contains("alice"), "{failure}");
    }

    #[test]
    fn of_a_long_message_the_beginning_stays() {
        for character in ["x", "é", "€", "😀"] {
            let message = format!("x{}", character.repeat(1 << 20));
            let failure = Failure::permanent("schema", message.as_str());
            let length = failure.message.len();
            assert!(length <= LONGEST && length + character.len() > LONGEST, "{length}");
            assert!(message.starts_with(&failure.message));
            assert!(failure.message.capacity() < 2 * LONGEST, "the rest is still held");
        }
        let whole = "é".repeat(LONGEST / 2);
        assert_eq!(Failure::permanent("schema", whole.as_str()).message, whole);
    }

    /// A failure of a step whose author uses one of our reasons.
    fn failure_of(secret: &str) -> Failure {
        Failure::from(StepError::permanent("schema", format!("no such card: \"{secret}\""))).in_step(&"cards".into())
    }
}
