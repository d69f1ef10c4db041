//! The whole of Messina as a process, against real Kafka, a real registry and a real CQL database: the promises of DESIGN.md, seen
//! from outside.
//!
//! Each file is one promise. Without the services (`KAFKA_BROKERS`, `REGISTRY_URL`, `SCYLLA_NODES`, `MESSINA_TEST_PYTHON`) a test
//! says so and passes, or fails if `CI=true`. `MESSINA_BIN` names the binary under test; the default is the one that Cargo built.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../faults/mod.rs"]
mod faults;
#[path = "../security/mod.rs"]
mod security;

mod bad_input;
mod check_online;
mod costs;
mod dead_letters;
mod drain;
mod dry_run;
mod evolution;
mod exactly_once;
mod grouped;
mod init;
mod markers;
mod mistyped;
mod newcomer;
mod order;
mod processors;
mod rebalance;
mod references;
mod reload;
mod replay;
mod retention;
mod stream;
mod tap;
mod traces;
mod withheld;
