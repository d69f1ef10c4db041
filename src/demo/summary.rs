//! The report for people.

use std::fmt::Write as _;

use serde_json::Value;

use super::Places;
use super::cpu::Part;
use super::report::{PipelineReport, Report, per_record, rate};

impl PipelineReport {
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
    /// The report as text for people.
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
        // An automatically chosen port will be another one the next time.
        let page = if self.page == format!("http://{}", Places::default().http) {
            format!("{}/", self.page)
        } else {
            "the status page that it names".to_owned()
        };
        writeln!(
            out,
            "Look next:\n  messina demo --config            the configuration that ran: three pipelines in TOML\n  \
             messina demo --records 2000000   a longer run, to watch {page} meanwhile\n  \
             messina check -c FILE            what is wrong with a configuration of your own\n  \
             README.md                        what Messina promises, and how to run it on your services",
        )
    }
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
