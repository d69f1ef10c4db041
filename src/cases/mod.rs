//! Test cases of a pipeline, for `messina test`: one record each, and its expected result.
//!
//! The application itself runs the pipeline, in this process, with an embedded Kafka, registry and database. So a case goes the same way as every
//! record: framing, schema, steps, output, dead letter. Nothing outside the process is asked, except by custom steps, which run with all their
//! effects. Before each case the tables contain only its rows, the references only its documents, and `now()` is its time. Caches are off, because
//! rows differ between cases.

mod documents;
pub mod file;
pub(crate) mod from_json;
mod judge;
pub mod report;
mod run;
mod stage;
mod tables;

pub use run::{Error, run};
