//! The configuration: TOML files, then environment variables, read into typed sections in which every value keeps its position.
//!
//! An operator learns of every mistake before a record is consumed, with the line and a remedy. There are two steps: [`load`] reads and types all
//! files and reports all errors; if there are none, [`check`] checks what can be known offline. The pipeline's plan checks what needs schemas or a
//! database, and reports at the same positions through [`Sources`].
//!
//! Invariants: a [`Config`] exists only if every key was known and every value had its type; a secret is never printed; nothing here uses the
//! network.

mod changes;
mod check;
pub mod codes;
pub mod diagnostic;
mod document;
mod environment;
mod execution;
mod kafka;
mod load;
mod mongo;
mod pipeline;
mod policy;
mod process;
mod reader;
mod redact;
mod registry;
pub mod report;
pub mod schema;
mod scylla;
mod secret;
mod shape;
mod sink;
mod size;
mod source;
mod span;
mod step;
pub(crate) mod suggest;
mod tls;
pub(crate) mod values;
mod write_group;

use std::collections::BTreeMap;
use std::time::Duration;

pub use changes::{Changes, changes};
pub use check::{check, commutes, is_step_name};
pub(crate) use check::{tables, written};
pub use diagnostic::{Diagnostic, Diagnostics, Place, Severity};
pub use environment::variables;
pub use execution::Execution;
pub use kafka::{Kafka, Property, PropertyValue, real_name};
pub use load::{load, load_str};
pub use mongo::{Mongo, Reference, ReferenceField};
pub use pipeline::{Delivery, Order, Pipeline};
pub use policy::{ErrorPolicy, MissingDeadline, OnError};
pub use process::{Http, Limits, Log, LogFormat, Sentry, Tracing};
pub use registry::{Oauth, Registry, RegistryAuth};
pub use scylla::{Consistency, Scylla, SerialConsistency};
pub use secret::{Secret, SecretError};
pub use sink::{DeadLetter, Sink, SinkSchema, StopAbove};
pub use size::{Size, parse_duration};
pub use source::{Assignor, GroupProtocol, OffsetReset, OnTombstone, Source};
pub use span::{FileId, Schemas, Sources, Span, Spanned};
pub use step::{Binding, Cache, Custom, Filter, Lookup, OnMissing, ReferenceStep, Rows, Step, StepKind, Write};
pub use tls::Tls;
pub use write_group::WriteGroup;

/// The whole configuration: what every process needs, and its pipelines.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[kafka]`: the Kafka cluster.
    pub kafka: Kafka,
    /// `[registry]`: the schema registry.
    pub registry: Registry,
    /// `[scylla]`: the CQL database for look-ups and writes.
    pub scylla: Option<Scylla>,
    /// `store = "sqlite:PATH"`: the embedded store, in place of `[scylla]`. The whole string, prefix included: `check` has verified the prefix, and
    /// [`Config::sqlite_path`] removes it.
    pub store: Option<Spanned<String>>,
    /// `[mongo]`: the server that references are read from.
    pub mongo: Option<Mongo>,
    /// `[references.NAME]`: MongoDB collections for look-ups.
    pub references: BTreeMap<String, Reference>,
    /// `[http]`: metrics, probes and status.
    pub http: Http,
    /// `[log]`: what is logged, and in which format.
    pub log: Log,
    /// `[sentry]`: where errors are reported, if configured.
    pub sentry: Option<Sentry>,
    /// `[tracing]`: where spans are sent, if configured.
    pub tracing: Option<Tracing>,
    /// `[limits]`: the process's memory budget.
    pub limits: Limits,
    /// `shutdown_timeout`: how long a shutdown may take before in-flight work is abandoned uncommitted. Default 30 s.
    pub shutdown_timeout: Duration,
    /// `[pipelines.NAME]`, by name.
    pub pipelines: BTreeMap<String, Pipeline>,
}

impl Config {
    /// The path of the embedded store, if configured: `store` without `sqlite:`.
    pub fn sqlite_path(&self) -> Option<&str> {
        self.store.as_ref().and_then(|store| store.strip_prefix("sqlite:"))
    }

    /// The names of the pipelines, for messages: `a, b`.
    pub fn pipeline_names(&self) -> String {
        self.pipelines.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}
