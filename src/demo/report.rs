//! The result of a demo run: whether every record is accounted for, and the figures, for people and as one JSON line.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::cpu::{Part, Spent};
use super::database::Rows;
use super::streams::{Fate, Stream};
use super::verifier::Seen;

/// The results of one stream.
#[derive(Debug, Clone, Default)]
pub struct PipelineReport {
    /// The pipeline.
    pub name: String,
    /// Records made for it.
    pub made: u64,
    /// Records consumed, by its own count.
    pub consumed: u64,
    /// Different records in the output topic.
    pub published: u64,
    /// Records skipped, by its own count.
    pub skipped: u64,
    /// Different records in the dead-letter topic.
    pub dead_lettered: u64,
    /// Rows written, by its own count.
    pub rows_written: u64,
    /// Rows in its tables.
    pub rows: Rows,
    /// Records of which an effect is missing, and missing rows.
    pub lost: u64,
    /// Records that were published or dead-lettered again.
    pub duplicated: u64,
    /// Records and rows that should not be there, or not with this content.
    pub wrong: u64,
    /// Outputs out of a promised order.
    pub reordered: u64,
    /// Records at the ends of the partitions that the group has not committed.
    pub uncommitted: i64,
    /// From the first record made to the last one settled.
    pub time: Duration,
    /// CPU time: that of its loops, and its share, by number of records, of what the pipelines have in common.
    pub cpu: Duration,
    /// `p50_us` and `p99_us` by stage, from `/status`.
    pub stages: Map<String, Value>,
}

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// From the first record made to the last one settled.
    pub time: Duration,
    /// The results of each stream.
    pub pipelines: Vec<PipelineReport>,
    /// CPU time spent during `time`.
    pub spent: Spent,
    /// Peak memory in bytes.
    pub peak_memory: u64,
    /// Where the status page was.
    pub page: String,
    /// Everything that does not add up; empty after a good run.
    pub problems: Vec<String>,
}

impl PipelineReport {
    /// Compares what was seen of a stream with what each of its records demands.
    pub fn account(&mut self, stream: &Stream, seen: &Seen, rows: Rows) {
        let mut skips = 0;
        for sequence in 0..self.made {
            match stream.fate(&stream.draw(sequence)) {
                Fate::Published => self.lost += u64::from(!seen.published.has(sequence)),
                Fate::DeadLettered(_) => self.lost += u64::from(!seen.dead_lettered.has(sequence)),
                Fate::Skipped => skips += 1,
            }
        }
        // Skipped records leave no trace except the count.
        self.lost += skips.max(self.skipped) - self.skipped + rows.lost;
        self.published = seen.published.count();
        self.dead_lettered = seen.dead_lettered.count();
        self.rows = rows;
        self.duplicated = seen.duplicated;
        self.wrong = seen.wrong + rows.wrong + self.skipped.saturating_sub(skips);
        self.reordered = seen.reordered;
    }

    fn problems(&self) -> Vec<String> {
        let found = [
            (self.lost != 0, format!("{} records or rows are lost", self.lost)),
            (self.wrong != 0, format!("{} records or rows are wrong", self.wrong)),
            (
                self.duplicated != 0,
                format!("{} records came twice, and nothing was restarted", self.duplicated),
            ),
            (
                self.reordered != 0,
                format!("{} outputs overtook an earlier one of their key", self.reordered),
            ),
            (
                self.uncommitted != 0,
                format!("{} records are not committed", self.uncommitted),
            ),
            (
                self.consumed < self.made,
                format!("{} of {} records were consumed", self.consumed, self.made),
            ),
        ];
        let named = |(_, what)| format!("{}: {what}", self.name);
        found.into_iter().filter(|(is, _)| *is).map(named).collect()
    }

    fn json(&self) -> Value {
        json!({
            "consumed": self.consumed,
            "published": self.published,
            "skipped": self.skipped,
            "dead_lettered": self.dead_lettered,
            "rows_written": self.rows_written,
            "rows_found": self.rows.found,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "wrong": self.wrong,
            "reordered": self.reordered,
            "uncommitted": self.uncommitted,
            "throughput": rate(self.made, self.time).round(),
            "cpu_us_per_record": per_record(self.cpu, self.made),
            "stages": self.stages,
        })
    }
}

impl Report {
    /// Adds the problems of the pipelines. Call it once.
    pub fn judge(&mut self) {
        let found: Vec<String> = self.pipelines.iter().flat_map(PipelineReport::problems).collect();
        self.problems.extend(found);
    }

    /// Whether everything adds up.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn sum(&self, of: impl Fn(&PipelineReport) -> u64) -> u64 {
        self.pipelines.iter().map(of).sum()
    }

    pub(super) fn part(&self, part: Part) -> Duration {
        self.spent.demo.get(&part).copied().unwrap_or_default()
    }

    /// All figures in one JSON object.
    pub fn json(&self) -> Value {
        let records = self.sum(|p| p.made);
        let pipelines: Map<String, Value> = self.pipelines.iter().map(|p| (p.name.clone(), p.json())).collect();
        json!({
            "records": records,
            "seconds": rounded(self.time.as_secs_f64(), 3),
            "records_per_second": rate(records, self.time).round(),
            "cpu_us_per_record": per_record(self.spent.messina, records),
            "generator_cpu_us_per_record": per_record(self.part(Part::Generator), records),
            "verifier_cpu_us_per_record": per_record(self.part(Part::Verifier), records),
            "cluster_cpu_us_per_record": per_record(self.part(Part::Cluster), records),
            "peak_rss_mb": rounded(self.peak_memory as f64 / 1e6, 1),
            "lost": self.sum(|p| p.lost),
            "duplicated": self.sum(|p| p.duplicated),
            "wrong": self.sum(|p| p.wrong),
            "reordered": self.sum(|p| p.reordered),
            "ok": self.is_ok(),
            "problems": self.problems,
            "pipelines": pipelines,
        })
    }
}

/// Records per second.
pub(super) fn rate(records: u64, time: Duration) -> f64 {
    if time.is_zero() {
        0.0
    } else {
        records as f64 / time.as_secs_f64()
    }
}

/// Microseconds per record, to two digits.
pub(super) fn per_record(time: Duration, records: u64) -> f64 {
    rounded(time.as_secs_f64() * 1e6 / records.max(1) as f64, 2)
}

fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
