//! What can be known about a configuration offline, without schemas and without a database.
//!
//! Each file judges one thing and reports all that it finds. Expressions and statements are only scanned for the names in them:
//! types are the matter of the pipeline's plan.

mod cql;
mod expression;
mod names;
mod pipelines;
mod properties;
mod statements;
mod world;

use super::diagnostic::Diagnostic;
use super::{Config, Sources, Span, codes};

/// Everything that can be said against `config` offline, errors and warnings, in no particular order.
pub fn check(config: &Config, sources: &Sources) -> Vec<Diagnostic> {
    let mut report = Report {
        sources,
        findings: Vec::new(),
    };
    unsupported(config, &mut report);
    world::check(config, &mut report);
    properties::check(config, &mut report);
    pipelines::check(config, &mut report);
    for pipeline in config.pipelines.values() {
        names::check(pipeline, &mut report);
        statements::check(pipeline, &mut report);
    }
    report.findings
}

/// What has been found so far.
struct Report<'a> {
    sources: &'a Sources,
    findings: Vec<Diagnostic>,
}

impl Report<'_> {
    /// Adds a finding with a label at its place and a remedy.
    fn error(
        &mut self,
        code: codes::Code,
        message: String,
        span: Span,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.findings.push(
            Diagnostic::error(code, message)
                .at(self.sources, span, label)
                .help(help),
        );
    }

    fn warning(
        &mut self,
        code: codes::Code,
        message: String,
        span: Span,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.findings.push(
            Diagnostic::warning(code, message)
                .at(self.sources, span, label)
                .help(help),
        );
    }
}

fn unsupported(config: &Config, report: &mut Report<'_>) {
    if let Some(mongo) = &config.mongo {
        let message = "`[mongo]` is not yet supported in this version".to_owned();
        report.error(
            codes::NOT_SUPPORTED,
            message,
            mongo.span,
            "",
            "remove the section, and the references that need it",
        );
    }
    for (name, reference) in &config.references {
        let message = format!("`[references.{name}]` is not yet supported in this version");
        let help = "remove it; a `lookup` with a cache reads a table that seldom changes nearly as fast";
        report.error(codes::NOT_SUPPORTED, message, reference.name.span, "", help);
    }
}
