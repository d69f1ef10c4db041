//! Fuzz target: see `checks::plan`.
#![no_main]
#![allow(dead_code)] // The checks are shared.

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::plan(data));
