//! What is seen while the demo runs: on a terminal a line per pipeline that is drawn again, elsewhere a line now and then.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flow::Flow;
use super::summary::{duration, grouped};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::quantile::{quantile, snapshot};

/// Between two drawings on a terminal.
const REDRAW: Duration = Duration::from_millis(250);
/// Between two lines elsewhere.
const LINE: Duration = Duration::from_secs(2);
/// How much a new rate weighs against the mean of those before.
const WEIGHT: f64 = 0.3;

/// One pipeline, as it is drawn.
struct Row {
    name: String,
    flow: Arc<Flow>,
    /// Records settled when the rate was last taken, and the mean rate.
    before: u64,
    rate: f64,
}

/// Draws on stderr, so that stdout is free for the result.
pub struct Display {
    rows: Vec<Row>,
    metrics: Arc<Metrics>,
    terminal: bool,
    drawn: bool,
    next: Instant,
    before: Instant,
}

impl Display {
    /// For these pipelines.
    pub fn new(rows: impl Iterator<Item = (String, Arc<Flow>)>, metrics: Arc<Metrics>) -> Display {
        let row = |(name, flow)| Row {
            name,
            flow,
            before: 0,
            rate: 0.0,
        };
        let now = Instant::now();
        Display {
            rows: rows.map(row).collect(),
            metrics,
            terminal: std::io::stderr().is_terminal(),
            drawn: false,
            next: now,
            before: now,
        }
    }

    /// Draws if it is time to.
    pub fn tick(&mut self, now: Instant) {
        if now >= self.next {
            self.draw(now);
            self.next = now + if self.terminal { REDRAW } else { LINE };
        }
    }

    /// Draws.
    pub fn draw(&mut self, now: Instant) {
        let passed = now.duration_since(self.before).as_secs_f64();
        self.before = now;
        let mut text = String::new();
        if self.terminal && self.drawn {
            // Up to the first of the lines.
            text.push_str(&format!("\x1b[{}A", self.rows.len()));
        }
        for row in &mut self.rows {
            row.take_rate(passed);
            if self.terminal {
                text.push_str("\x1b[2K");
            }
            text.push_str(&row.line(&self.metrics));
            text.push('\n');
        }
        self.drawn = true;
        // Whoever closed stderr does not want to know.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

impl Row {
    fn take_rate(&mut self, passed: f64) {
        let settled = self.flow.settled();
        if passed > 0.0 {
            let new = settled.saturating_sub(self.before) as f64 / passed;
            self.rate = if self.before == 0 {
                new
            } else {
                self.rate + WEIGHT * (new - self.rate)
            };
        }
        self.before = settled;
    }

    fn line(&self, metrics: &Metrics) -> String {
        let flow = &self.flow;
        let event = snapshot(&metrics.event_seconds.of([&self.name]));
        let took = |q| quantile(&event, q).map_or_else(|| "-".to_owned(), duration);
        format!(
            "{:<11}{:>9} of {:<9} published {:>9}  skipped {:>8}  dead letters {:>6} {:>8}/s  behind {:>6}  p50 {:>7}  p99 {:>7}",
            self.name,
            grouped(flow.settled()),
            grouped(flow.planned),
            grouped(flow.published()),
            grouped(flow.skipped()),
            grouped(flow.dead_lettered()),
            grouped(self.rate as u64),
            grouped(flow.made().saturating_sub(flow.settled())),
            took(0.5),
            took(0.99),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_a_pipeline_is() {
        let metrics = Metrics::new().expect("metrics");
        let flow = Flow::new(10_000, 1000, "orders", &metrics);
        (0..1500).for_each(|_| flow.make());
        (0..1200).for_each(|_| flow.publish());
        metrics.event_seconds.of(["orders"]).observe(0.002);
        let mut row = Row {
            name: "orders".to_owned(),
            flow,
            before: 0,
            rate: 0.0,
        };
        row.take_rate(0.5);
        let line = row.line(&metrics);
        for part in ["orders", "1,200 of 10,000", "2,400/s", "behind    300", "ms"] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
}
