//! The offline checks of a configuration, without schemas and without a database.
//!
//! Each file checks one topic and reports everything that it finds. Expressions and statements are only scanned for the names in them; types are
//! checked by the pipeline's plan.

mod addresses;
mod caches;
mod clients;
mod conditions;
mod cql;
mod delivery;
mod expression;
mod group;
mod names;
mod order;
mod pipelines;
mod placeholders;
mod properties;
mod references;
mod statements;
mod world;

use super::diagnostic::Diagnostic;
use super::{Config, Sources, Span, codes};
pub(crate) use cql::{tables, written};
pub use names::is_step_name;
pub use order::commutes;

/// All errors and warnings about `config` that can be found offline, in no particular order.
pub fn check(config: &Config, sources: &Sources) -> Vec<Diagnostic> {
    let mut report = Report {
        sources,
        findings: Vec::new(),
    };
    world::check(config, &mut report);
    addresses::check(config, &mut report);
    placeholders::check(&mut report);
    properties::check(config, &mut report);
    group::check(config, &mut report);
    pipelines::check(config, &mut report);
    references::check(config, &mut report);
    for pipeline in config.pipelines.values() {
        delivery::check(config, pipeline, &mut report);
        names::check(pipeline, &config.references, &mut report);
        statements::check(config, pipeline, &mut report);
        caches::check(config, pipeline, &mut report);
        conditions::check(config, pipeline, &mut report);
    }
    clients::check(config, &mut report);
    report.findings
}

/// The findings so far.
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
