//! `messina demo` end to end: what it publishes, skips and gives up is what its own verifier expects, and it says so.

use std::process::Command;

use serde_json::Value;

const RECORDS: u64 = 8000;

#[test]
fn the_demo_verifies_what_it_did() {
    let output = Command::new(env!("CARGO_BIN_EXE_messina"))
        .args(["demo", "--json", "--records", &RECORDS.to_string()])
        // What is embedded listens on this host, and no proxy is asked for it.
        .env("http_proxy", "http://127.0.0.1:9")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().last().unwrap_or_default();
    let summary: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(summary["problems"], serde_json::json!([]), "{line}");
    assert_eq!(summary["ok"], true, "{line}");
    assert_eq!(output.status.code(), Some(0), "{line}");
    assert_eq!(summary["records"], RECORDS);
    let dead_letters: u64 = ["navigation", "orders", "reactions"]
        .iter()
        .map(|name| summary["pipelines"][name]["dead_lettered"].as_u64().unwrap())
        .sum();
    assert!(dead_letters > 0, "bad records were among them: {line}");
}
