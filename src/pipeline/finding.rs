//! A finding of a pipeline's check: a sentence, a position in the configuration, and a remedy.

use crate::config::Span;
use crate::config::codes::{self, Code};

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Place in the configuration.
    pub span: Span,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// What kind of finding it is: mostly one of types.
    pub code: Code,
}

impl Finding {
    /// A finding without a remedy.
    pub fn new(span: Span, message: impl Into<String>) -> Finding {
        Finding {
            span,
            message: message.into(),
            help: None,
            code: codes::TYPES,
        }
    }

    /// Says that it is of another kind.
    pub fn code(mut self, code: Code) -> Finding {
        self.code = code;
        self
    }

    /// Adds the remedy.
    pub fn help(mut self, help: impl Into<String>) -> Finding {
        self.help = Some(help.into());
        self
    }
}
