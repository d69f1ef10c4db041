//! The progress display of the demo: one updated line per pipeline on a terminal, occasional lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flow::Flow;
use super::summary::{duration, grouped};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::quantile::{quantile, snapshot};

/// Time between two drawings on a terminal.
const REDRAW: Duration = Duration::from_millis(250);
/// Time between two lines elsewhere.
const LINE: Duration = Duration::from_secs(2);
/// Weight of a new rate in the moving average.
const WEIGHT: f64 = 0.3;

/// The headings of [`Row::columns`].
const HEAD: &str = "pipeline    done  published   skipped    dead  records/s  behind      p50      p99";

/// One pipeline, as it is drawn.
struct Row {
    name: String,
    flow: Arc<Flow>,
    /// Records settled when the rate was last computed, and the average rate.
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

    /// Draws if it is time for it.
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
        self.rows.iter_mut().for_each(|row| row.take_rate(passed));
        let mut text = String::new();
        if self.terminal {
            if self.drawn {
                text.push_str(&up(self.rows.len() + 1));
            }
            // Disable wrapping, so that a long line is cut off: a wrapped one would be two lines to move up.
            text.push_str("\x1b[?7l");
            text.push_str(&format!("\x1b[2K{HEAD}\n"));
            self.rows
                .iter()
                .for_each(|row| text.push_str(&format!("\x1b[2K{}\n", row.columns(&self.metrics))));
            text.push_str("\x1b[?7h");
        } else {
            self.rows
                .iter()
                .for_each(|row| text.push_str(&format!("{}\n", row.line(&self.metrics))));
        }
        self.drawn = true;
        // Errors are ignored: whoever closed stderr does not want the progress.
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

    /// For a terminal, below [`HEAD`].
    fn columns(&self, metrics: &Metrics) -> String {
        let flow = &self.flow;
        let share = 100 * flow.settled() / flow.planned.max(1);
        format!(
            "{:<11}{share:>4}%{:>11}{:>10}{:>8}{:>11}{:>8}{:>9}{:>9}",
            self.name,
            grouped(flow.published()),
            grouped(flow.skipped()),
            grouped(flow.dead_lettered()),
            grouped(self.rate as u64),
            grouped(self.behind()),
            took(metrics, &self.name, 0.5),
            took(metrics, &self.name, 0.99),
        )
    }

    /// For a log.
    fn line(&self, metrics: &Metrics) -> String {
        let flow = &self.flow;
        format!(
            "{}: {} of {}, published {}, skipped {}, dead letters {}, {} a second, behind {}, p50 {}, p99 {}",
            self.name,
            grouped(flow.settled()),
            grouped(flow.planned),
            grouped(flow.published()),
            grouped(flow.skipped()),
            grouped(flow.dead_lettered()),
            grouped(self.rate as u64),
            grouped(self.behind()),
            took(metrics, &self.name, 0.5),
            took(metrics, &self.name, 0.99),
        )
    }

    /// Records that are made and not yet settled.
    fn behind(&self) -> u64 {
        self.flow.made().saturating_sub(self.flow.settled())
    }
}

/// A quantile of the time that an event takes, from its admission to its end.
fn took(metrics: &Metrics, pipeline: &str, q: f64) -> String {
    let event = snapshot(&metrics.event_seconds.of([pipeline]));
    quantile(&event, q).map_or_else(|| "-".to_owned(), duration)
}

/// The escape sequence that moves the cursor up by this many lines.
fn up(lines: usize) -> String {
    format!("\x1b[{lines}A")
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
        for part in ["orders", "1,200 of 10,000", "2,400 a second", "behind 300", "ms"] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        let columns = row.columns(&metrics);
        assert_eq!(columns.chars().count(), HEAD.chars().count(), "{columns}");
        assert!(
            HEAD.len() <= 82 && columns.starts_with("orders       12%      1,200"),
            "{columns}"
        );
    }
}
