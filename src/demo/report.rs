//! What a run of the demo came to: every record accounted for, and the figures, for people and as one JSON line.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::cpu::{Part, Spent};
use super::database::Rows;
use super::streams::{Fate, Stream};
use super::verifier::Seen;

/// What was found out about one stream.
#[derive(Debug, Clone, Default)]
pub struct PipelineReport {
    /// The pipeline.
    pub name: String,
    /// Records made for it.
    pub made: u64,
    /// Records that it says it took.
    pub consumed: u64,
    /// Different records in the output topic.
    pub published: u64,
    /// Records that it says it skipped.
    pub skipped: u64,
    /// Different records in the dead-letter topic.
    pub dead_lettered: u64,
    /// Rows that it says it wrote.
    pub rows_written: u64,
    /// Rows in its tables.
    pub rows: Rows,
    /// Records of which an effect is missing, missing rows included.
    pub lost: u64,
    /// Records that were published or dead-lettered again.
    pub duplicated: u64,
    /// Records and rows that should not be there, or not with this content.
    pub wrong: u64,
    /// Outputs out of a promised order.
    pub reordered: u64,
    /// Records at the end of the partitions that the group has not committed.
    pub uncommitted: i64,
    /// From the first record made to the last one settled.
    pub time: Duration,
    /// CPU time: its loops', and its share by records of what the pipelines have in common.
    pub cpu: Duration,
    /// `p50_us` and `p99_us` by stage, as `/status` tells them.
    pub stages: Map<String, Value>,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// From the first record made to the last one settled.
    pub time: Duration,
    /// Each stream.
    pub pipelines: Vec<PipelineReport>,
    /// CPU time in that time.
    pub spent: Spent,
    /// The most memory held, in bytes.
    pub peak_memory: u64,
    /// Where the status page was.
    pub page: String,
    /// Everything that does not add up; empty is what a run is for.
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
        // What is skipped leaves no trace but the count.
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

    fn stage(&self, stage: &str, figure: &str) -> String {
        let micros = self
            .stages
            .get(stage)
            .and_then(|s| s.get(figure))
            .and_then(Value::as_f64);
        micros.map_or_else(|| "-".to_owned(), |us| duration(us / 1e6))
    }
}

impl Report {
    /// Adds what does not add up in the pipelines to the problems; to be called once.
    pub fn judge(&mut self) {
        let found: Vec<String> = self.pipelines.iter().flat_map(PipelineReport::problems).collect();
        self.problems.extend(found);
    }

    /// Whether everything adds up.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }

    fn sum(&self, of: impl Fn(&PipelineReport) -> u64) -> u64 {
        self.pipelines.iter().map(of).sum()
    }

    fn part(&self, part: Part) -> Duration {
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

    /// The same for people.
    pub fn human(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let records = self.sum(|p| p.made);
        writeln!(
            out,
            "{} records in {:.1} s: {} a second. Lost: {}. Duplicated: {}.\n",
            grouped(records),
            self.time.as_secs_f64(),
            grouped(rate(records, self.time) as u64),
            grouped(self.sum(|p| p.lost)),
            grouped(self.sum(|p| p.duplicated)),
        )?;
        writeln!(
            out,
            "{:<12}{:>10}{:>11}{:>9}{:>14}{:>9}{:>11}{:>15}   event p50, p99",
            "pipeline", "consumed", "published", "skipped", "dead letters", "rows", "records/s", "CPU µs/record",
        )?;
        for p in &self.pipelines {
            writeln!(
                out,
                "{:<12}{:>10}{:>11}{:>9}{:>14}{:>9}{:>11}{:>15.1}   {}, {}",
                p.name,
                grouped(p.consumed),
                grouped(p.published),
                grouped(p.skipped),
                grouped(p.dead_lettered),
                grouped(p.rows_written),
                grouped(rate(p.made, p.time) as u64),
                per_record(p.cpu, p.made),
                p.stage("event", "p50_us"),
                p.stage("event", "p99_us"),
            )?;
        }
        writeln!(out, "\nStages, p50 and p99:")?;
        for p in &self.pipelines {
            let stage = |(name, _): (&String, _)| {
                format!(
                    "{} {}, {}",
                    name.trim_start_matches("step:"),
                    p.stage(name, "p50_us"),
                    p.stage(name, "p99_us")
                )
            };
            let stages: Vec<String> = p
                .stages
                .iter()
                .filter(|(name, _)| *name != "event")
                .map(stage)
                .collect();
            writeln!(out, "  {:<12}{}", p.name, stages.join("; "))?;
        }
        writeln!(
            out,
            "\nCPU per record: Messina {:.1} µs; around it the generator {:.1}, the embedded Kafka {:.1}, the verifier {:.1}.\n\
             Memory: {:.0} MB at most, the embedded Kafka's topics included.\n",
            per_record(self.spent.messina, records),
            per_record(self.part(Part::Generator), records),
            per_record(self.part(Part::Cluster), records),
            per_record(self.part(Part::Verifier), records),
            self.peak_memory as f64 / 1e6,
        )?;
        if self.is_ok() {
            writeln!(
                out,
                "Verified: each record is published, skipped or a dead letter, as its content demands. {} outputs are byte for byte\n\
                 what they must be, {} rows are in the database with the right values, {} dead letters carry the right reason,\n\
                 keys are in order where order is asked for, and every offset is committed.\n",
                grouped(self.sum(|p| p.published)),
                grouped(self.sum(|p| p.rows.found)),
                grouped(self.sum(|p| p.dead_lettered)),
            )?;
        } else {
            writeln!(out, "It does not add up:")?;
            self.problems
                .iter()
                .try_for_each(|problem| writeln!(out, "  {problem}"))?;
            writeln!(out)?;
        }
        writeln!(
            out,
            "Look next:\n  messina demo --config            the configuration that ran: three pipelines in TOML\n  \
             messina demo --records 2000000   a longer run, to watch {}/ meanwhile\n  \
             messina check -c FILE            what is wrong with a configuration of your own\n  \
             README.md                        what Messina promises, and how to run it on your services",
            self.page
        )
    }
}

/// Records per second.
fn rate(records: u64, time: Duration) -> f64 {
    if time.is_zero() {
        0.0
    } else {
        records as f64 / time.as_secs_f64()
    }
}

/// Microseconds per record, to two digits.
fn per_record(time: Duration, records: u64) -> f64 {
    rounded(time.as_secs_f64() * 1e6 / records.max(1) as f64, 2)
}

fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds in the unit that suits them: `12 µs`, `3.4 ms`, `1.2 s`.
pub fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    if value < 10.0 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
