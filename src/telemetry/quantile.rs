//! Quantiles from a histogram's buckets, as PromQL computes them.
//!
//! The status page and the demo's summary show the same values as a dashboard, so they must use the same estimate: find the bucket that contains the
//! rank, and interpolate linearly within it. See `histogram_quantile` in Prometheus' documentation of query functions, and `bucketQuantile` in its
//! `promql/quantile.go`.

use prometheus::Histogram;
use prometheus::core::Metric;
use prometheus::proto;

/// The `q` quantile (0 to 1) of what `histogram` observed, in its unit. `None` without observations, or if `q` is out of range. The lowest bucket is
/// assumed to begin at 0. If the quantile lies beyond the last bound, the result is the last bound, because no more is known: a result equal to it
/// means "at least".
pub fn quantile(histogram: &proto::Histogram, q: f64) -> Option<f64> {
    let count = histogram.get_sample_count();
    if count == 0 || !(0.0..=1.0).contains(&q) {
        return None;
    }
    let rank = q * count as f64;
    let (mut start, mut below) = (0.0, 0u64);
    for bucket in histogram.get_bucket() {
        let (end, upto) = (bucket.upper_bound(), bucket.cumulative_count());
        if end.is_infinite() {
            break;
        }
        if upto as f64 >= rank && upto > below {
            return Some(start + (end - start) * ((rank - below as f64) / (upto - below) as f64));
        }
        (start, below) = (end, upto);
    }
    Some(start)
}

/// A histogram's current state, for computing quantiles.
pub fn snapshot(histogram: &Histogram) -> proto::Histogram {
    histogram.metric().get_histogram().clone()
}

/// What was observed between two snapshots of one histogram.
pub fn since(now: &proto::Histogram, before: &proto::Histogram) -> proto::Histogram {
    let mut difference = proto::Histogram::default();
    difference.set_sample_count(now.get_sample_count().saturating_sub(before.get_sample_count()));
    difference.set_sample_sum(now.get_sample_sum() - before.get_sample_sum());
    let buckets = now.get_bucket().iter().zip(before.get_bucket()).map(|(n, b)| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(n.upper_bound());
        bucket.set_cumulative_count(n.cumulative_count().saturating_sub(b.cumulative_count()));
        bucket
    });
    difference.set_bucket(buckets.collect());
    difference
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::HistogramOpts;
    use proptest::prelude::*;

    fn histogram(bounds: &[f64], values: &[f64]) -> Histogram {
        let histogram = Histogram::with_opts(HistogramOpts::new("h", "h").buckets(bounds.to_vec())).unwrap();
        values.iter().for_each(|v| histogram.observe(*v));
        histogram
    }

    #[test]
    fn it_interpolates_within_the_bucket() {
        let h = snapshot(&histogram(&[1.0, 2.0, 4.0], &[0.5, 1.5, 1.6, 3.0]));
        assert_eq!(quantile(&h, 0.0), Some(0.0));
        assert_eq!(quantile(&h, 0.25), Some(1.0));
        assert_eq!(quantile(&h, 0.5), Some(1.5));
        assert_eq!(quantile(&h, 0.75), Some(2.0));
        assert_eq!(quantile(&h, 0.875), Some(3.0));
        assert_eq!(quantile(&h, 1.0), Some(4.0));
    }

    #[test]
    fn beyond_the_last_bound_the_last_bound_is_the_answer() {
        let h = snapshot(&histogram(&[1.0, 2.0], &[0.5, 100.0, 100.0]));
        assert_eq!(quantile(&h, 0.9), Some(2.0));
    }

    #[test]
    fn nothing_observed_or_asked_wrongly_gives_nothing() {
        let h = snapshot(&histogram(&[1.0], &[]));
        assert_eq!(quantile(&h, 0.5), None);
        let h = snapshot(&histogram(&[1.0], &[0.5]));
        assert_eq!(quantile(&h, 1.1), None);
        assert_eq!(quantile(&h, f64::NAN), None);
    }

    #[test]
    fn a_difference_holds_only_what_is_new() {
        let h = histogram(&[1.0, 2.0, 4.0], &[0.5, 0.5, 0.5]);
        let before = snapshot(&h);
        h.observe(3.0);
        let new = since(&snapshot(&h), &before);
        assert_eq!(new.get_sample_count(), 1);
        assert_eq!(quantile(&new, 0.5), Some(3.0));
    }

    proptest! {
        #[test]
        fn the_answer_lies_in_the_bucket_of_the_true_quantile(mut values in prop::collection::vec(0.001f64..900.0, 1..200), q in 0.001f64..1.0) {
            let bounds: Vec<f64> = (0..11).map(|n| f64::from(1 << n)).collect();
            let h = snapshot(&histogram(&bounds, &values));
            values.sort_by(f64::total_cmp);
            let exact = values[((q * values.len() as f64).ceil() as usize).clamp(1, values.len()) - 1];
            let end = *bounds.iter().find(|b| **b >= exact).unwrap();
            let start = bounds.iter().rev().find(|b| **b < exact).copied().unwrap_or(0.0);
            let answer = quantile(&h, q).unwrap();
            prop_assert!(answer >= start && answer <= end, "{answer} not in {start}..{end}");
        }
    }
}
