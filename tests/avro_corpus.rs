//! Replays the fuzzing corpus, both its seeds and what it has found: see `fuzz/`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test that fails says so by panicking.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    // This file is compiled in the main package and in the one in `fuzz`.
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = ["fuzz/corpus", "corpus"].map(|folder| package.join(folder).join(target));
    let folder = folder.iter().find(|folder| folder.is_dir()).unwrap();
    let mut inputs = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        check(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 1, "{} is empty", folder.display());
}

#[test]
fn framing() {
    replay("framing", checks::framing);
}

#[test]
fn plan() {
    replay("plan", checks::plan);
}

#[test]
fn schema() {
    replay("schema", checks::schema);
}

#[test]
fn splice() {
    replay("splice", checks::splice);
}
