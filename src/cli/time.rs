//! Points in time on the command line: RFC 3339, or how long ago.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::avro::json::to_json;
use crate::avro::value::{Unit, Value};
use crate::calendar;
use crate::config::parse_duration;

/// A moment, milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl Moment {
    /// The moment as RFC 3339, in UTC.
    pub fn text(self) -> String {
        match to_json(&Value::Timestamp(self.0, Unit::Millis)) {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        }
    }
}

/// Reads `2026-11-24T10:00:00Z`, `2026-11-24T11:00:00.250+01:00`, `2026-11-24`, or `2h` for two hours ago.
pub fn parse(text: &str) -> Result<Moment, String> {
    parse_at(text, since_1970())
        .ok_or_else(|| "write 2026-11-24T10:00:00Z, 2026-11-24, or how long ago: 30m, 2h, 7d".to_owned())
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn parse_at(text: &str, now: Duration) -> Option<Moment> {
    if let Some(ago) = parse_duration(text) {
        return millis(now.saturating_sub(ago)).map(Moment);
    }
    let (date, rest) = text.split_at_checked(10)?;
    let (year, month, day) = (
        number(date.get(0..4)?)?,
        number(date.get(5..7)?)?,
        number(date.get(8..10)?)?,
    );
    let dashes = date.as_bytes()[4] == b'-' && date.as_bytes()[7] == b'-';
    if !dashes {
        return None;
    }
    let midnight = calendar::days(year, month, day)? * 86_400_000;
    if rest.is_empty() {
        return Some(Moment(midnight));
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, zone) = rest.split_at(rest.find(['Z', 'z', '+', '-'])?);
    let (hms, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    if hms.len() != 8 || hms.as_bytes()[2] != b':' || hms.as_bytes()[5] != b':' || fraction.is_empty() {
        return None;
    }
    let (hour, minute, second) = (number(&hms[0..2])?, number(&hms[3..5])?, number(&hms[6..8])?);
    if hour > 23 || minute > 59 || second > 60 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let millis = number(&format!("{fraction:0<3}")[..3])?;
    let offset = match zone {
        "Z" | "z" => 0,
        zone => {
            let (sign, hm) = zone.split_at(1);
            let (hours, minutes) = hm.split_once(':').filter(|(h, m)| h.len() == 2 && m.len() == 2)?;
            let minutes = number(hours)? * 60 + number(minutes).filter(|m| *m < 60)?;
            if sign == "-" { -minutes } else { minutes }
        }
    };
    Some(Moment(
        midnight + ((hour * 60 + minute - offset) * 60 + second) * 1000 + millis,
    ))
}

fn millis(since: Duration) -> Option<i64> {
    i64::try_from(since.as_millis()).ok()
}

fn number(digits: &str) -> Option<i64> {
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn at(text: &str) -> Option<i64> {
        parse_at(text, NOW).map(|moment| moment.0)
    }

    #[test]
    fn moments_are_read() {
        assert_eq!(at("2h"), Some((1_000_000 - 7200) * 1000));
        assert_eq!(at("1970-01-02"), Some(86_400_000));
        assert_eq!(at("2024-06-07T06:00:00.123Z"), Some(1_717_740_000_123));
        assert_eq!(at("2024-06-07T08:00:00.1234+02:00"), Some(1_717_740_000_123));
        assert_eq!(at("2024-06-07 05:30:00-00:30"), Some(1_717_740_000_000));
        assert_eq!(at("2000-02-29"), Some(11_016 * 86_400_000));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        let wrong = [
            "",
            "soon",
            "2",
            "2024",
            "2024-13-01",
            "2023-02-29",
            "2024-06-07T",
            "2024-06-07T06:00",
            "2024-06-07T06:00:00",
            "2024-06-07T24:00:00Z",
            "2024-06-07T06:00:00.Z",
            "2024-06-07T06:00:00+2",
            "2024/06/07",
            "20é4-06-07",
            "2024-06-07Tüüüü",
        ];
        for text in wrong {
            assert_eq!(at(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_moment_that_is_printed_is_read_back(ms in -62_135_596_800_000i64..253_402_300_800_000) {
            prop_assert_eq!(at(&Moment(ms).text()), Some(ms));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = at(&text);
        }
    }
}
