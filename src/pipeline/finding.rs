//! A finding of a pipeline's check: a sentence, a position in the configuration, and a remedy.

use crate::config::Span;
use crate::config::codes::{self, Code};

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its place in the configuration.
    pub span: Span,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The kind of finding; most concern types.
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

    /// Sets another kind.
    pub fn code(mut self, code: Code) -> Finding {
        self.code = code;
        self
    }

    /// Adds a remedy.
    pub fn help(mut self, help: impl Into<String>) -> Finding {
        self.help = Some(help.into());
        self
    }
}
