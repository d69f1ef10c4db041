//! The OpenMetrics text format, converted from the Prometheus format, for scrapers that request it.
//!
//! The two differ little (<https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>): the name of a counter's family lacks
//! `_total`, its samples have it; `le` is a float in canonical form; help escapes the double quote; the text ends with `# EOF`. So metrics are
//! declared once, and there is one encoder.

/// The `Content-Type` of [`from_prometheus`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a scraper with this `Accept` header wants OpenMetrics: the header names it, and not with `q=0`.
pub fn accepted(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        parts
            .next()
            .is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"))
            && parts.all(|parameter| match parameter.split_once('=') {
                Some(("q", quality)) => quality.trim().parse::<f32>().is_ok_and(|quality| quality > 0.0),
                _ => true,
            })
    })
}

/// The text of [`Metrics::render`](super::Metrics::render) as OpenMetrics.
pub fn from_prometheus(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 32);
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap_or((help, ""));
            out.push_str("# HELP ");
            out.push_str(family(name));
            out.push(' ');
            out.push_str(&help.replace('"', "\\\""));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            out.push_str("# TYPE ");
            // OpenMetrics requires the suffix `_total` in the samples of a counter. A counter without it gets the type `unknown`.
            let named = kind != "counter" || name.ends_with("_total");
            out.push_str(if kind == "counter" { family(name) } else { name });
            out.push(' ');
            out.push_str(if named { kind } else { "unknown" });
        } else if let Some((before, after)) = line.split_once("le=\"") {
            out.push_str(before);
            out.push_str("le=\"");
            let (bound, after) = after.split_once('"').unwrap_or((after, ""));
            out.push_str(bound);
            if bound.bytes().all(|b| b.is_ascii_digit()) {
                out.push_str(".0");
            }
            out.push('"');
            out.push_str(after);
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    out.push_str("# EOF\n");
    out
}

fn family(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn a_scraper_says_what_it_wants() {
        for (accept, wanted) in [
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                true,
            ),
            ("text/plain", false),
            ("*/*", false),
            ("", false),
            ("application/openmetrics-text; q=0", false),
            ("text/plain, Application/OpenMetrics-Text ; q=0.2", true),
        ] {
            assert_eq!(accepted(accept), wanted, "{accept}");
        }
    }

    #[test]
    fn families_bounds_help_and_the_end_are_openmetrics() {
        let metrics = Metrics::new().unwrap();
        metrics.records_total.of(["navigation", "done"]).inc_by(3);
        metrics.step_seconds.of(["navigation", "profile"]).observe(0.5);
        metrics.concurrency_limit.of(["navigation"]).set(7);
        let text = from_prometheus(&String::from_utf8(metrics.render()).unwrap());
        for line in [
            "# HELP messina_records Records finished, by how they ended: done, skipped or dead_lettered.",
            "# TYPE messina_records counter",
            r#"messina_records_total{outcome="done",pipeline="navigation"} 3"#,
            r#"messina_step_seconds_bucket{pipeline="navigation",step="profile",le="1.0"} 1"#,
            r#"messina_step_seconds_bucket{pipeline="navigation",step="profile",le="0.3"} 0"#,
            r#"messina_step_seconds_bucket{pipeline="navigation",step="profile",le="+Inf"} 1"#,
            r#"messina_concurrency_limit{pipeline="navigation"} 7"#,
            r#"# HELP messina_concurrency_limit Current limit of events worked on at the same time: configured, or found with max_in_flight = \"auto\"."#,
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
        assert!(!text.contains("_total counter"));
    }
}
