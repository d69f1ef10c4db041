//! Cases of a pipeline, for `messina test`: one record each, and what must come of it.
//!
//! The pipeline is run by the application itself, in this process, with an embedded Kafka, registry and database around it, so that a case goes
//! the way of every record: framing, schema, steps, output, dead letter. Nothing outside of the process is asked, but by steps of one's own, which
//! run as they are, with all their effects. Before each case the tables hold
//! its rows, and references its documents, and nothing else, and `now()` is its time; caches are left out, since rows differ between cases.

mod documents;
pub mod file;
pub(crate) mod from_json;
mod judge;
pub mod report;
mod run;
mod stage;
mod tables;

pub use run::{Error, run};
