//! The bucket bounds of the histograms: finer at the usual times, and round, so that `le` is easy to read.

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

/// Six bounds per decade, from `first` to `last`, in nanoseconds.
fn six(first: u64, last: u64) -> impl Iterator<Item = u64> {
    let all = (1..=9).flat_map(|decade| [10, 15, 20, 30, 50, 70].map(|bound| bound * 10_u64.pow(decade)));
    all.filter(move |bound| (first..=last).contains(bound))
}

/// Bounds for CPU work, in nanoseconds: 100 ns to 1 s, six per decade up to 1 ms and three above.
pub(super) fn cpu() -> impl Iterator<Item = u64> {
    six(100, MS).chain([2, 5, 10, 20, 50, 100, 200, 500, 1_000].map(|bound| bound * MS))
}

/// Bounds for one request to a server, in nanoseconds: 1 µs (an embedded store) to 15 s, six per decade.
pub(super) fn io() -> impl Iterator<Item = u64> {
    six(1_000, 15 * S)
}

/// Bounds for the whole time of an event, which may wait through an outage, in nanoseconds: 15 µs to 15 min.
pub(super) fn event() -> impl Iterator<Item = u64> {
    six(15_000, 15 * S).chain([30, 60, 150, 300, 900].map(|bound| bound * S))
}

/// Converts nanoseconds to seconds. Dividing two exact numbers rounds only once, so a bound prints as written
/// (`0.000015`).
pub(super) fn seconds(nanos: impl Iterator<Item = u64>) -> Vec<f64> {
    nanos.map(|n| n as f64 / 1e9).collect()
}
