//! Reads Prometheus' text format: series by name and labels, and quantiles of a histogram between two samples.

use std::collections::{BTreeMap, HashMap};

use prometheus::proto;

use crate::cli::clean::clean;
use crate::telemetry::quantile::{quantile, since};

/// One series of a family: its labels, and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct One {
    labels: Vec<(String, String)>,
    pub value: f64,
}

impl One {
    /// The value of a label; empty if the series does not have it.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels
            .iter()
            .find(|(of, _)| of == name)
            .map_or("", |(_, value)| value)
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == *value)
    }
}

/// All series of `/metrics`, by family and by their `pipeline` label, which is empty for series without one. The index pays, because nearly each
/// look-up is for one pipeline among what may be hundreds.
#[derive(Debug, Clone, Default)]
pub(super) struct Series(HashMap<String, BTreeMap<String, Vec<One>>>);

impl Series {
    /// Parses the text. Invalid lines are ignored.
    pub(super) fn parse(text: &str) -> Series {
        let mut series = Series::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, one)) = sample(line) {
                let family = series.0.entry(name.to_owned()).or_default();
                family.entry(one.label("pipeline").to_owned()).or_default().push(one);
            }
        }
        series
    }

    /// The series of a family that have these labels.
    pub(super) fn of<'a>(&'a self, name: &str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a One> {
        self.among(name, labels).filter(move |one| one.has(labels))
    }

    /// The candidates for `of`: the series of one pipeline if the labels name it, otherwise the whole family.
    fn among<'a>(&'a self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &'a One> {
        let family = self.0.get(name);
        let (one, all) = match labels.iter().find(|(label, _)| *label == "pipeline") {
            Some((_, pipeline)) => (family.and_then(|family| family.get(*pipeline)), None),
            None => (None, family.map(BTreeMap::values)),
        };
        one.into_iter().chain(all.into_iter().flatten()).flatten()
    }

    /// The sum of the series with these labels; `None` if there is no such series.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.of(name, labels).map(|one| one.value).reduce(|a, b| a + b)
    }

    /// Quantiles, in seconds, of what the histogram `name` with these labels recorded since `then`; `None` if it recorded nothing.
    pub(super) fn quantiles<const N: usize>(
        &self,
        then: &Series,
        name: &str,
        labels: &[(&str, &str)],
        wanted: [f64; N],
    ) -> [Option<f64>; N] {
        let (now, then) = (self.histogram(name, labels), then.histogram(name, labels));
        // A new histogram had recorded nothing before.
        let new = if then.get_bucket().is_empty() {
            now
        } else {
            since(&now, &then)
        };
        wanted.map(|q| quantile(&new, q))
    }

    fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> proto::Histogram {
        let mut buckets: Vec<(f64, u64)> = self
            .of(&format!("{name}_bucket"), labels)
            .filter_map(|one| Some((one.label("le").parse().ok()?, one.value as u64)))
            .collect();
        buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(buckets.last().map_or(0, |(_, count)| *count));
        let bucket = |(bound, count)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        histogram.set_bucket(buckets.into_iter().map(bucket).collect());
        histogram
    }
}

/// Parses `name{label="value",…} 1.5`, or the same without labels.
fn sample(line: &str) -> Option<(&str, One)> {
    let (name, rest) = line.split_at(line.find(['{', ' '])?);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some((name, One { labels, value }))
}

/// Parses the labels, and returns what follows the closing brace. A value may contain any character; quotes, backslashes and newlines are
/// escaped.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, text) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = text.char_indices();
        rest = loop {
            match chars.next()? {
                (at, '"') => break &text[at + 1..],
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, c) => value.push(c),
            }
        };
        labels.push((name.to_owned(), clean(&value).into_owned()));
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};

    use super::*;

    #[test]
    fn what_the_encoder_writes_is_read_back() {
        let registry = Registry::new();
        let counter = IntCounterVec::new(Opts::new("n_total", "help \\ {x=\"y\"} 3"), &["pipeline", "step"]).unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        counter.with_label_values(&["a", "x"]).inc_by(2);
        counter.with_label_values(&["a", "q\"},\\ ="]).inc_by(3);
        counter.with_label_values(&["b", "x"]).inc_by(7);
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        let series = Series::parse(&String::from_utf8(text).unwrap());
        assert_eq!(series.sum("n_total", &[("pipeline", "a")]), Some(5.0));
        assert_eq!(series.sum("n_total", &[("step", "q\"},\\ =")]), Some(3.0));
        assert_eq!(series.sum("n_total", &[]), Some(12.0));
        assert_eq!(series.sum("n_total", &[("pipeline", "c")]), None);
        assert_eq!(series.sum("m_total", &[]), None);
    }

    #[test]
    fn a_look_up_finds_what_a_filter_over_all_does() {
        let lines = [
            "n{step=\"x\",pipeline=\"a\"} 1",
            "n{pipeline=\"a\",step=\"y\"} 2",
            "n{pipeline=\"b\",step=\"x\"} 3",
            "n{pipeline=\"\",step=\"x\"} 4",
            "n{step=\"x\"} 5",
            "n 6",
        ];
        let series = Series::parse(&lines.join("\n"));
        let all = lines.map(|line| sample(line).unwrap().1);
        let labels = [
            ("pipeline", "a"),
            ("pipeline", "b"),
            ("pipeline", "c"),
            ("pipeline", ""),
            ("step", "x"),
            ("step", "y"),
            ("step", ""),
        ];
        let mut asked: Vec<Vec<(&str, &str)>> = vec![vec![]];
        asked.extend(labels.map(|label| vec![label]));
        asked.extend(labels.iter().flat_map(|one| labels.map(|other| vec![*one, other])));
        for of in asked {
            let mut found: Vec<f64> = series.of("n", &of).map(|one| one.value).collect();
            found.sort_by(f64::total_cmp);
            let filtered = all.iter().filter(|one| one.has(&of)).map(|one| one.value);
            assert_eq!(found, filtered.collect::<Vec<_>>(), "{of:?}");
        }
    }

    #[test]
    fn a_look_up_for_a_pipeline_looks_at_no_other() {
        let step = |pipeline: usize, step: usize| format!("n{{pipeline=\"p{pipeline}\",step=\"s{step}\"}} 1\n");
        let text: String = (0..200).flat_map(|p| (0..5).map(move |s| step(p, s))).collect();
        let series = Series::parse(&text);
        let looked_at = |labels: &[(&str, &str)]| series.among("n", labels).count();
        assert_eq!(looked_at(&[("pipeline", "p7"), ("step", "s3")]), 5);
        assert_eq!(looked_at(&[("step", "s3"), ("pipeline", "p199")]), 5);
        assert_eq!(looked_at(&[("pipeline", "p200")]), 0);
        assert_eq!(looked_at(&[("step", "s3")]), 1000);
        assert_eq!(series.sum("n", &[("pipeline", "p7"), ("step", "s3")]), Some(1.0));
    }

    #[test]
    fn a_quantile_is_of_what_came_between() {
        let registry = Registry::new();
        let opts = HistogramOpts::new("s", "seconds").buckets(vec![1.0, 2.0, 4.0]);
        let histogram = HistogramVec::new(opts, &["step"]).unwrap();
        registry.register(Box::new(histogram.clone())).unwrap();
        let look = || {
            let mut text = Vec::new();
            TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
            Series::parse(&String::from_utf8(text).unwrap())
        };
        let of = [("step", "a")];
        let none = look();
        histogram.with_label_values(&["b"]).observe(0.5);
        let a = histogram.with_label_values(&["a"]);
        (0..100).for_each(|_| a.observe(0.5));
        let then = look();
        assert_eq!(then.quantiles(&none, "s", &of, [1.0]), [Some(1.0)], "a new one");
        assert_eq!(then.quantiles(&then, "s", &of, [0.5]), [None]);
        a.observe(3.0);
        a.observe(9.0);
        assert_eq!(look().quantiles(&then, "s", &of, [0.5, 1.0]), [Some(4.0), Some(4.0)]);
    }

    #[test]
    fn what_is_no_sample_is_left_out() {
        let series = Series::parse("a\nb{\nc{x=\"1} 2\nd{x=\"1\"}\ne 1 1700000000\nf x\n\n# g 1\n");
        assert_eq!(series.0.keys().collect::<Vec<_>>(), ["e"]);
    }
}
