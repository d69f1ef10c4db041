//! Generates `docs/metrics.md` from the declaration of the metrics.
//!
//! A test fails when the file in the repository differs (`UPDATE_DOCS=1 cargo test` writes it).

use std::fmt::Write;

use super::declare::Declared;
use super::metrics::declared;

const HEAD: &str = "\
# Metrics
<!-- Generated from src/telemetry/metrics.rs: UPDATE_DOCS=1 cargo test --lib reference -->

`GET /metrics` returns the Prometheus text format, or OpenMetrics if the scraper accepts it (counter families are then named
without `_total`). Times are in seconds, sizes in bytes. Label values are bounded by the configuration and the number of
partitions: no label ever holds a key, an id or a message.

A timer records successes only. Failures count in `messina_failures_total` instead, so that fast refusals do not lower a latency.

The label `client` is `consumer-N` or `producer` (`producer-N` under `exactly_once`). `runtime` is a thread of consumer loops, or
`shared` for the rest of the process.

";

/// The whole page, in Markdown.
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    page.push_str("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n");
    let metrics = declared();
    for metric in &metrics {
        let labels = metric
            .labels
            .iter()
            .map(|l| format!("`{l}`"))
            .collect::<Vec<_>>()
            .join(", ");
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | {} | {labels} | {} |",
            metric.name,
            metric.kind,
            metric.help.replace('|', "\\|")
        );
    }
    page.push_str("\n## Buckets\nUpper bounds of the histograms' buckets, in seconds.\n\n| metric | first | last | number |\n| --- | --- | --- | --- |\n");
    for Declared { name, buckets, .. } in &metrics {
        if let (Some(first), Some(last)) = (buckets.first(), buckets.last()) {
            let _ = writeln!(page, "| `{name}` | {first} | {last} | {} |", buckets.len());
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_in_docs_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
            std::fs::write(path, reference()).unwrap();
        }
        let file = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            file == reference(),
            "docs/metrics.md is stale: UPDATE_DOCS=1 cargo test --lib reference writes it anew"
        );
    }
}
