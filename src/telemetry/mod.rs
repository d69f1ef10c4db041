//! Observability: metrics, logs, errors sent to Sentry, and spans sent to a collector.
//!
//! Metrics are declared once in [`metrics`] and used through resolved [`handles`]; `/metrics` and the reference in `docs/metrics.md` are generated
//! from the same declaration.

mod allocator;
pub mod breadcrumbs;
mod buckets;
mod declare;
pub mod handles;
pub mod kafka;
pub mod limit;
pub mod logging;
pub mod metrics;
pub mod openmetrics;
mod partitions;
pub(crate) mod process;
pub mod quantile;
pub mod reference;
pub mod scrub;
pub mod sentry;
pub mod traces;

pub use declare::{Declared, Family};
pub use handles::{CacheMetrics, LocalPipeline, PipelineMetrics, StepMetrics};
pub use kafka::KafkaMetrics;
pub use metrics::Metrics;
pub use partitions::PartitionMetrics;
pub use quantile::quantile;
