//! Messina is a stream processor. It reads Confluent-framed Avro from Kafka, enriches each record with rows from ScyllaDB (or any CQL database) and
//! documents from MongoDB, writes rows back, and publishes enriched Avro to Kafka. It commits an offset only when every effect of its record, and of
//! all records before it, is acknowledged.
//!
//! **Public API.** Programs with custom steps use [`custom`], [`cli::main`] and [`cli::main_with`]. Only these follow Semantic Versioning. All other
//! modules are public for the tests and benches of this repository, and may change at any time.
//!
//! ```text
//!  Kafka ──► consumer loop (one per consumer, on a thread with a current-thread runtime; consumers beyond the cores share threads)
//!              │  poll ► frame ► registry (cached) ► Avro extract            CPU: inline, never deferred
//!              │  admit: ledger and budget; when it is full, stop taking records but keep polling
//!              ▼
//!            lanes ──► tasks on the loop's runtime, bounded by max_in_flight   I/O: green threads
//!              │  steps: look-ups concurrently; then writes
//!              │  encode: the input's bytes and the new fields, spliced
//!              ▼
//!            sink ──► producer, delivery report ──► outcome ──► ledger ──► commit the first unfinished offset
//!                                                     └─► dead-letter topic ──► ledger
//! ```
//!
//! The modules below are listed in this order. `DESIGN.md` explains the design, and where to change what.

/// Writes a line to stderr. Unlike `eprintln!` it does not panic when stderr is closed.
macro_rules! say {
    ($($words:tt)*) => {
        drop(std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("{}\n", format_args!($($words)*)),
        ))
    };
}

pub mod cli;

pub mod app;
pub mod certificates;
pub mod config;
pub mod shutdown;
pub mod sizing;

pub mod kafka;
pub mod source;

pub mod avro;
pub mod registry;

pub mod breaker;
pub mod budget;
pub mod calendar;
pub mod concurrency;
pub mod lanes;
pub mod ledger;
pub mod outcome;
pub mod progress;
mod proxy;
pub mod retry;
pub mod turns;

pub mod cases;
pub mod custom;
pub mod pipeline;
pub mod reference;
pub mod store;

pub mod sink;
pub mod tap;

pub mod demo;
pub mod http;
pub mod telemetry;
