//! Messina's Avro and framing alone, from their own files, under the crate's own name.
//!
//! Why: what runs under sanitizers and Miri is compiled for them, and the whole crate would bring OpenSSL, librdkafka and SQLite
//! along: minutes of C for what needs three small crates. So the fuzz targets, and the unit tests of `src/avro` when they run
//! under Miri, take this package, which builds in seconds. The same `checks` run in the ordinary tests with the whole crate.
//!
//! Invariant: nothing is copied here; both modules are the files of `src`.

#[path = "../src/avro/mod.rs"]
pub mod avro;

/// What the registry's client knows about bytes.
#[path = "../src/registry"]
pub mod registry {
    pub mod framing;
}
