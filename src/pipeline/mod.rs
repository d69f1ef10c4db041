//! A pipeline as it runs, and the way of an event through it.
//!
//! ```text
//! config ──parse──► Parsed ──prepare (store)──► Program ──compile (writer schema)──► SchemaPlan
//!                                                  │                                    │
//!                              Event ──run_steps───┴──encode────────────────────────────┘──► sink
//! ```

pub mod completions;
pub mod evaluate;
pub mod event;
pub mod expression;
pub mod failure;
pub mod finding;
pub mod plan;
pub mod policy;
pub mod prepare;
pub mod program;
pub mod runner;
pub mod schemas;
pub mod story;
