//! Why an event could not go on: what the dead letter, the log line and the counter say of it.

use std::sync::Arc;

use crate::custom::StepError;
use crate::retry::Class;
use crate::store::StoreError;

/// A failure of one event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What policy follows.
    pub class: Class,
    /// A short word for metrics and headers: `framing`, `schema`, `avro`, `expression`, `missing`, `encode`, or the store's.
    pub reason: &'static str,
    /// The step it happened in; none outside of steps.
    pub step: Option<Arc<str>>,
    /// How often what failed was tried.
    pub attempts: u32,
    /// In words, without the record's content.
    pub message: String,
    /// Whether it is certain that what failed has not been done; see [`StoreError::not_applied`].
    pub not_applied: bool,
}

impl Failure {
    /// A failure of this class, outside of steps.
    pub fn new(class: Class, reason: &'static str, message: impl Into<String>) -> Failure {
        Failure {
            class,
            reason,
            step: None,
            attempts: 1,
            message: message.into(),
            not_applied: false,
        }
    }

    /// A failure that repeating cannot mend.
    pub fn permanent(reason: &'static str, message: impl Into<String>) -> Failure {
        Failure::new(Class::Permanent, reason, message)
    }

    /// A failure that may pass.
    pub fn transient(reason: &'static str, message: impl Into<String>) -> Failure {
        Failure::new(Class::Transient, reason, message)
    }

    /// A failure that the pipeline cannot go on from.
    pub fn fatal(reason: &'static str, message: impl Into<String>) -> Failure {
        Failure::new(Class::Fatal, reason, message)
    }

    /// The same, in a step.
    pub fn in_step(mut self, step: &Arc<str>) -> Failure {
        self.step = Some(step.clone());
        self
    }

    /// Where it is counted: its step; outside of steps its reason.
    pub fn stage(&self) -> &str {
        self.step.as_deref().unwrap_or(self.reason)
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
        Failure::new(error.class, error.reason, error.message)
    }
}
