//! The `metrics!` macro: turns a struct of typed fields into a set of Prometheus metrics.
//!
//! A metric is declared once: the field's name is its name, the doc comment its help text, and the labels beside it fix at compile time how many
//! values a caller must give. `/metrics` and `docs/metrics.md` are both generated from that declaration, so they cannot disagree.
//!
//! Invariant: `Family::of` takes exactly as many values as labels were declared, so it cannot fail.

use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts};

/// The prefix of every metric's name.
pub const PREFIX: &str = "messina";

/// A kind of labelled metric of the `prometheus` crate, built from one declaration.
pub trait Vector: Sized + Clone + prometheus::core::Collector + 'static {
    /// One series of the metric.
    type Series;
    /// The Prometheus type, as the text format spells it.
    const KIND: &'static str;
    /// Builds the metric. `buckets` are upper bounds in seconds, used only by histograms.
    fn build(opts: Opts, labels: &[&str], buckets: &[f64]) -> Result<Self, prometheus::Error>;
    /// The series with these label values, created at zero if it is new. Panics if the number of values is wrong, which [`Family`] rules out.
    fn series(&self, values: &[&str]) -> Self::Series;
    /// Removes the series with these label values. False if there was none.
    fn remove(&self, values: &[&str]) -> bool;
}

macro_rules! vector {
    ($ty:ident, $series:ident, $kind:literal, $opts:ident, $buckets:ident => $build:expr) => {
        impl Vector for $ty {
            type Series = prometheus::$series;
            const KIND: &'static str = $kind;
            fn build($opts: Opts, labels: &[&str], $buckets: &[f64]) -> Result<Self, prometheus::Error> {
                $ty::new($build, labels)
            }
            fn series(&self, values: &[&str]) -> Self::Series {
                self.with_label_values(values)
            }
            fn remove(&self, values: &[&str]) -> bool {
                self.remove_label_values(values).is_ok()
            }
        }
    };
}

vector!(IntCounterVec, IntCounter, "counter", opts, _buckets => opts);
vector!(CounterVec, Counter, "counter", opts, _buckets => opts);
vector!(IntGaugeVec, IntGauge, "gauge", opts, _buckets => opts);
vector!(GaugeVec, Gauge, "gauge", opts, _buckets => opts);
vector!(HistogramVec, Histogram, "histogram", opts, buckets => HistogramOpts::from(opts).buckets(buckets.to_vec()));

/// One declared metric: all its series, which differ in `N` labels.
#[derive(Clone)]
pub struct Family<V, const N: usize>(pub(super) V);

impl<V: Vector, const N: usize> Family<V, N> {
    /// The series with these label values, in the order of the declaration; created at zero if it is new. It looks the labels up in a locked
    /// map, so keep the result instead of calling this for every record.
    pub fn of(&self, values: [&str; N]) -> V::Series {
        self.0.series(&values)
    }

    /// Removes a series, such as that of a revoked partition, so that no stale value is exported.
    pub fn forget(&self, values: [&str; N]) {
        self.0.remove(&values);
    }
}

impl<V: Vector, const N: usize> Family<V, N> {
    /// Removes all series that have all of these label values.
    pub fn forget_each(&self, of: &[(&str, &str)]) {
        let labels: Vec<String> = self
            .0
            .desc()
            .iter()
            .flat_map(|desc| desc.variable_labels.clone())
            .collect();
        for family in self.0.collect() {
            for metric in family.get_metric() {
                let value = |name: &str| metric.get_label().iter().find(|l| l.name() == name).map(|l| l.value());
                if of.iter().all(|(name, wanted)| value(name) == Some(*wanted)) {
                    let values: Vec<&str> = labels.iter().filter_map(|label| value(label)).collect();
                    self.0.remove(&values);
                }
            }
        }
    }
}

impl<const N: usize> Family<IntGaugeVec, N> {
    /// Of the series whose label `name` is `value`: the value of label `by`, and the series' value.
    pub fn by(&self, name: &str, value: &str, by: &str) -> Vec<(String, i64)> {
        let families = self.0.collect();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        metrics
            .filter_map(|metric| {
                let label = |wanted: &str| {
                    metric
                        .get_label()
                        .iter()
                        .find(|l| l.name() == wanted)
                        .map(|l| l.value())
                };
                let by = label(by)?.to_owned();
                (label(name) == Some(value)).then(|| (by, metric.get_gauge().get_value() as i64))
            })
            .collect()
    }

    /// The sum over all series.
    pub fn sum(&self) -> i64 {
        let families = self.0.collect();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        metrics.map(|metric| metric.get_gauge().get_value()).sum::<f64>() as i64
    }
}

/// A declared metric, for the generated reference.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Full name, prefix included.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Label names, in the order in which [`Family::of`] takes them.
    pub labels: &'static [&'static str],
    /// The help text, from the doc comment.
    pub help: String,
    /// Upper bounds of a histogram's buckets, in seconds; empty for other metrics.
    pub buckets: Vec<f64>,
}

/// Joins the lines of a doc comment into one help text.
pub(super) fn help(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Declares the struct of all metrics, its constructor and its description.
macro_rules! metrics {
    (
        $(#[$attr:meta])*
        $vis:vis struct $name:ident {
            $( $(#[doc = $doc:literal])+ $field:ident: $ty:ident [$($label:literal),*] $(within $buckets:expr)?, )+
        }
    ) => {
        $(#[$attr])*
        $vis struct $name {
            $( $(#[doc = $doc])+ pub $field: Family<$ty, { <[&str]>::len(&[$($label),*]) }>, )+
        }

        impl $name {
            /// Builds all metrics and registers them.
            pub(super) fn declare(registry: &prometheus::Registry) -> Result<Self, prometheus::Error> {
                Ok(Self {
                    $( $field: {
                        #[allow(unused_mut, unused_assignments, reason = "only histograms have buckets")]
                        let mut buckets: Vec<f64> = Vec::new();
                        $( buckets = seconds($buckets); )?
                        let opts = prometheus::Opts::new(stringify!($field), help(concat!($($doc, "\n"),+))).namespace(PREFIX);
                        let vector = <$ty as Vector>::build(opts, &[$($label),*], &buckets)?;
                        registry.register(Box::new(vector.clone()))?;
                        Family(vector)
                    }, )+
                })
            }

            /// Removes the series of all metrics whose label `name` is `value`, once what they describe is gone for good.
            pub fn forget_all(&self, name: &str, value: &str) {
                self.forget_each(&[(name, value)]);
            }

            /// Removes the series of all metrics that have all of these label values.
            pub fn forget_each(&self, of: &[(&str, &str)]) {
                $( self.$field.forget_each(of); )+
            }

            /// All declarations, in source order.
            pub(super) fn declarations() -> Vec<Declared> {
                vec![$( Declared {
                    name: format!("{PREFIX}_{}", stringify!($field)),
                    kind: <$ty as Vector>::KIND,
                    labels: &[$($label),*],
                    help: help(concat!($($doc, "\n"),+)),
                    #[allow(unused_mut, unused_assignments, reason = "only histograms have buckets")]
                    buckets: { let mut buckets = Vec::new(); $( buckets = seconds($buckets); )? buckets },
                }, )+]
            }
        }
    };
}
pub(super) use metrics;
