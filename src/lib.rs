//! Messina consumes Confluent-framed Avro from Kafka, enriches every record by look-ups in ScyllaDB (or any CQL database),
//! writes rows back, publishes enriched Avro to Kafka, and commits an offset only when everything that the record was to
//! cause has happened.
//!
//! ```text
//!  Kafka ──► consumer loop (one per consumer, on a thread with a current-thread runtime; beyond the cores several share one)
//!              │  poll ► frame ► registry (cached) ► Avro extract            CPU: inline, never deferred
//!              │  admit: ledger and budget; over it, stop taking records and go on polling
//!              ▼
//!            lanes ──► tasks on the loop's runtime, bounded by max_in_flight   I/O: green threads
//!              │  steps: look-ups at the same time; then writes
//!              │  encode: the input's bytes and the new fields, spliced
//!              ▼
//!            sink ──► producer, delivery report ──► outcome ──► ledger ──► commit the first unfinished offset
//!                                                     └─► dead-letter topic ──► ledger
//! ```
//!
//! A program of one's own may rely, between minor versions, on [`custom`] and on [`cli::main`] and [`cli::main_with`]. All other modules are public for the
//! tests and benches of this repository alone.
//!
//! The modules follow that way. `DESIGN.md` says where to change what.

/// A line on stderr, where `eprintln!` panics once nobody reads it.
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
