//! Formats numbers for the view: three digits and a unit, as on the status page. Unknown numbers are a dash.

/// An unknown number.
pub(super) const NONE: &str = "–";

/// Three significant digits; whole numbers from 100 on.
fn significant(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 99.95 => return format!("{value:.0}"),
        v if v >= 9.995 => 1,
        v if v >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A count: whole to 9999, then thousands and millions.
pub(super) fn count(value: f64) -> String {
    match value.abs() {
        v if v >= 999_500.0 => format!("{} M", significant(value / 1e6)),
        v if v >= 9999.5 => format!("{} k", significant(value / 1e3)),
        _ => significant(value),
    }
}

/// A count, or a dash.
pub(super) fn known(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), count)
}

/// A time, in a suitable unit.
pub(super) fn seconds(value: Option<f64>) -> String {
    match value {
        None => NONE.to_owned(),
        Some(0.0) => "0 s".to_owned(),
        Some(v) if v < 1e-3 => format!("{} µs", significant(v * 1e6)),
        Some(v) if v < 1.0 => format!("{} ms", significant(v * 1e3)),
        Some(v) if v < 300.0 => format!("{} s", significant(v)),
        Some(v) if v < 7200.0 => format!("{:.0} min", (v / 60.0).floor()),
        Some(v) if v < 172_800.0 => format!("{:.0} h", (v / 3600.0).floor()),
        Some(v) => format!("{:.0} d", (v / 86_400.0).floor()),
    }
}

/// A ratio as a percentage.
pub(super) fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), |v| format!("{} %", significant(v * 100.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let counts = [
            0.0, 0.04, 1.5, 9.999, 12.34, 99.99, 4432.4, 9999.0, 12_345.0, 999_600.0, 2.5e6, -3.0,
        ];
        let texts = [
            "0", "0.04", "1.5", "10", "12.3", "100", "4432", "9999", "12.3 k", "1 M", "2.5 M", "-3",
        ];
        assert_eq!(counts.map(count), texts);
        let times = [0.0, 42e-6, 0.0123, 1.5, 299.0, 301.0, 7201.0, 400_000.0];
        let texts = ["0 s", "42 µs", "12.3 ms", "1.5 s", "299 s", "5 min", "2 h", "4 d"];
        assert_eq!(times.map(|time| seconds(Some(time))), texts);
        assert_eq!(percent(Some(0.98765)), "98.8 %");
        assert_eq!([known(None), seconds(None), percent(None)], [NONE; 3]);
    }
}
