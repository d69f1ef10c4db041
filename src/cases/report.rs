//! The report of a test run, for people and as JUnit XML for build servers, including the steps that no case exercised.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::file::Case;
use super::judge::Effects;
use crate::config::{Pipeline, StepKind};

/// How often each step has run, by its name.
pub type Covered = BTreeMap<String, u64>;

/// The verdicts of all cases, and what they covered of each pipeline.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order of the file.
    pub verdicts: Vec<Verdict>,
    /// Files whose cases have no verdicts, and why, in words.
    pub broken: Vec<(String, String)>,
    coverage: BTreeMap<String, Coverage>,
}

/// How one case ended.
#[derive(Debug)]
pub struct Verdict {
    /// The number of the case in its file: names need not be unique.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// Its pipeline.
    pub pipeline: String,
    /// What is wrong; empty if the case passed.
    pub failures: Vec<String>,
    /// The actual effects; `None` if the case was not run.
    pub effects: Option<Effects>,
    /// How long it took.
    pub took: Duration,
}

impl Verdict {
    /// A verdict without failures so far.
    pub fn new(number: usize, case: &Case, pipeline: &str, took: Duration) -> Verdict {
        Verdict {
            number,
            name: case.name.get_ref().clone(),
            pipeline: pipeline.to_owned(),
            failures: Vec::new(),
            effects: None,
            took,
        }
    }

    /// A verdict for a case that could not be run.
    pub fn not_run(number: usize, case: &Case, pipeline: &str, why: &str) -> Verdict {
        Verdict {
            failures: vec![format!("not run: {why}")],
            ..Verdict::new(number, case, pipeline, Duration::ZERO)
        }
    }
}

/// What the cases of one pipeline covered.
#[derive(Debug, Default)]
struct Coverage {
    cases: usize,
    /// Steps that make requests, or write: name, number of cases in which the step ran, and whether it has a condition.
    steps: Vec<(String, usize, bool)>,
}

impl Report {
    /// Cases that failed.
    pub fn failed(&self) -> usize {
        self.verdicts.iter().filter(|v| !v.failures.is_empty()).count()
    }

    /// Adds the steps that a case ran.
    pub(super) fn covered(
        &mut self,
        name: &str,
        pipeline: &Pipeline,
        before: &Covered,
        after: &Covered,
        verdict: &Verdict,
    ) {
        let coverage = self.coverage.entry(name.to_owned()).or_insert_with(|| Coverage {
            cases: 0,
            steps: pipeline
                .steps
                .iter()
                .filter(|step| asks(&step.kind))
                .map(|step| (step.name.value.clone(), 0, step.when.is_some()))
                .collect(),
        });
        if verdict.effects.is_none() {
            return;
        }
        coverage.cases += 1;
        for (step, count, _) in &mut coverage.steps {
            *count += usize::from(after.get(step) > before.get(step));
        }
    }

    /// Adds the coverage of another file's cases.
    pub fn take_coverage(&mut self, other: Report) {
        for (name, theirs) in other.coverage {
            let ours = self.coverage.entry(name).or_default();
            ours.cases += theirs.cases;
            for (step, count, conditional) in theirs.steps {
                match ours.steps.iter_mut().find(|(known, ..)| *known == step) {
                    Some((_, sum, _)) => *sum += count,
                    None => ours.steps.push((step, count, conditional)),
                }
            }
        }
    }

    /// The report as text for people.
    pub fn human(&self) -> String {
        let mut text = String::new();
        for verdict in &self.verdicts {
            let mark = if verdict.failures.is_empty() { "ok  " } else { "FAIL" };
            let _ = writeln!(text, "{mark} {}: {}", verdict.pipeline, verdict.name);
            for line in verdict.failures.iter().flat_map(|failure| failure.lines()) {
                let _ = writeln!(text, "       {line}");
            }
        }
        for line in self.gaps() {
            let _ = writeln!(text, "not tried: {line}");
        }
        // Why has been said on stderr.
        for (file, _) in &self.broken {
            let _ = writeln!(text, "no result: {file}");
        }
        let failed = self.failed();
        let _ = write!(text, "{} passed, {failed} failed", self.verdicts.len() - failed);
        let _ = match self.broken.len() {
            0 => writeln!(text),
            1 => writeln!(text, ", 1 file without result"),
            files => writeln!(text, ", {files} files without result"),
        };
        text
    }

    /// Steps and branches that no case has exercised.
    pub fn gaps(&self) -> Vec<String> {
        let mut gaps = Vec::new();
        for (pipeline, coverage) in &self.coverage {
            for (step, count, conditional) in &coverage.steps {
                if *count == 0 {
                    gaps.push(format!("{pipeline}: step {step}"));
                } else if *conditional && *count == coverage.cases {
                    gaps.push(format!("{pipeline}: step {step} left out by its `when`"));
                }
            }
        }
        gaps
    }

    /// The report as JUnit XML, which build servers read.
    pub fn junit(&self) -> String {
        let seconds = |time: Duration| format!("{:.3}", time.as_secs_f64());
        let total = self.verdicts.iter().map(|v| v.took).sum();
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let _ = writeln!(
            xml,
            "<testsuite name=\"messina\" tests=\"{}\" failures=\"{}\" errors=\"{}\" time=\"{}\">",
            self.verdicts.len() + self.broken.len(),
            self.failed(),
            self.broken.len(),
            seconds(total)
        );
        for verdict in &self.verdicts {
            let _ = write!(
                xml,
                "  <testcase classname=\"{}\" name=\"{}\" time=\"{}\"",
                escaped(&verdict.pipeline),
                escaped(&verdict.name),
                seconds(verdict.took)
            );
            if verdict.failures.is_empty() {
                xml.push_str("/>\n");
                continue;
            }
            let _ = writeln!(
                xml,
                ">\n    <failure message=\"{}\">{}</failure>\n  </testcase>",
                escaped(&verdict.failures[0]),
                escaped(&verdict.failures.join("\n"))
            );
        }
        for (file, why) in &self.broken {
            let _ = writeln!(
                xml,
                "  <testcase classname=\"messina\" name=\"{}\">\n    <error message=\"{}\">{}</error>\n  </testcase>",
                escaped(file),
                escaped(why.lines().next().unwrap_or_default()),
                escaped(why)
            );
        }
        xml.push_str("</testsuite>\n");
        xml
    }
}

/// Whether a step's executions are counted.
fn asks(kind: &StepKind) -> bool {
    match kind {
        StepKind::Lookup(_) | StepKind::Write(_) | StepKind::Reference(_) | StepKind::Custom(_) => true,
        StepKind::Filter(_) | StepKind::Set(_) => false,
    }
}

/// Text in XML 1.0, which has no way to write control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(name: &str, failures: &[&str]) -> Verdict {
        Verdict {
            number: 0,
            name: name.to_owned(),
            pipeline: "p".to_owned(),
            failures: failures.iter().map(|f| (*f).to_owned()).collect(),
            effects: None,
            took: Duration::from_millis(12),
        }
    }

    #[test]
    fn a_report_says_what_failed_and_what_was_not_tried() {
        let steps = vec![
            ("a".to_owned(), 0, false),
            ("b".to_owned(), 2, true),
            ("c".to_owned(), 1, true),
        ];
        let report = Report {
            verdicts: vec![
                verdict("one", &[]),
                verdict("two <&>", &["value.a: expected 1,\ncame \"2\""]),
            ],
            broken: vec![],
            coverage: [("p".to_owned(), Coverage { cases: 2, steps })].into(),
        };
        assert_eq!(
            report.human(),
            "ok   p: one\nFAIL p: two <&>\n       value.a: expected 1,\n       came \"2\"\n\
             not tried: p: step a\nnot tried: p: step b left out by its `when`\n1 passed, 1 failed\n"
        );
        let junit = report.junit();
        assert!(
            junit.contains("<testsuite name=\"messina\" tests=\"2\" failures=\"1\" errors=\"0\" time=\"0.024\">"),
            "{junit}"
        );
        assert!(junit.contains("name=\"two &lt;&amp;&gt;\""), "{junit}");
        assert!(junit.contains("came &quot;2&quot;"), "{junit}");
    }

    #[test]
    fn a_file_without_result_is_told_and_is_an_error_for_build_servers() {
        let report = Report {
            verdicts: vec![verdict("one", &[])],
            broken: vec![("bad.toml".to_owned(), "line 3: <what>\nand more".to_owned())],
            ..Report::default()
        };
        assert_eq!(
            report.human(),
            "ok   p: one\nno result: bad.toml\n1 passed, 0 failed, 1 file without result\n"
        );
        let junit = report.junit();
        assert!(junit.contains("tests=\"2\" failures=\"0\" errors=\"1\""), "{junit}");
        assert!(
            junit.contains(
                "name=\"bad.toml\">\n    <error message=\"line 3: &lt;what&gt;\">line 3: &lt;what&gt;&#10;and more</error>"
            ),
            "{junit}"
        );
    }
}
