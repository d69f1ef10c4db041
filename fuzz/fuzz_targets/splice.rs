//! Fuzz target: see `checks::splice`.
#![no_main]
#![allow(dead_code)] // The checks are shared.

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::splice(data));
