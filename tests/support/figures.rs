//! What a test measured, for `benches/figures faults`: one line of JSON per test, printed and appended to `$MESSINA_FIGURES`.

use std::io::Write;

use serde_json::{Value, json};

/// Records the figures of a test.
pub fn note(test: &str, figures: &Value) {
    let line = json!({"test": test, "long": super::is_long(), "figures": figures});
    println!("figures: {line}");
    if let Some(path) = std::env::var_os("MESSINA_FIGURES") {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        writeln!(file, "{line}").unwrap();
    }
}
