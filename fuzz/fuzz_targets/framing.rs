//! Fuzz target: see `checks::framing`.
#![no_main]
#![allow(dead_code)] // The checks are shared.

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::framing(data));
