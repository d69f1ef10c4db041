//! Only Messina's Avro and framing modules, from their own files, under the crate's own name.
//!
//! Why: sanitizers and Miri need everything compiled for them, and the whole crate would bring OpenSSL, librdkafka and SQLite
//! along: minutes of C for code that needs three small crates. The fuzz targets, and the unit tests of `src/avro` under Miri,
//! therefore use this package, which builds in seconds. The ordinary tests run the same `checks` with the whole crate.
//!
//! Invariant: nothing is copied here; both modules are the files of `src`.

#[path = "../src/avro/mod.rs"]
pub mod avro;

/// What the registry client knows about bytes.
#[path = "../src/registry"]
pub mod registry {
    pub mod framing;
}
