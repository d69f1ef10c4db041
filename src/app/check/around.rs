//! Checks the environment for `check --online`: certificates that expire soon, and clocks that disagree.
//!
//! An expired certificate ends every new connection; a wrong clock spoils TTLs, `now()` and lag. Pure, except that it reads files and asks the
//! database for its time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::certificates;
use crate::config::Config;
use crate::pipeline::finding::Finding;
use crate::store::AnyStore;
use crate::store::StoreError;

/// A certificate with fewer days left is worth a warning.
const SOON: i64 = 30;
const DAY: i64 = 86_400;
/// Clocks that differ by more than this are worth a warning.
const SKEW: Duration = Duration::from_secs(2);
/// A finding, and whether it is only a warning.
pub(super) type Found = (Finding, bool);

/// Certificates of the configuration that have expired, or will within 30 days.
pub(super) async fn certificates(config: &Config) -> Vec<Found> {
    let now = now().as_secs().cast_signed();
    let judged = certificates::files(config)
        .await
        .into_iter()
        .filter_map(|(file, place)| {
            // A file that cannot be read is reported by the client that uses it.
            let end = certificates::end(&std::fs::read(&file.path).ok()?, file.authority)?;
            let (message, warning) = judge(end - now, file.authority)?;
            let finding = Finding::new(place, format!("{}: {message}", file.path.display()));
            let help = "renew it; the new file is read at the next start, and at SIGHUP unless it is for the brokers";
            Some((finding.help(help), warning))
        });
    judged.collect()
}

/// The finding about a certificate with this many seconds left, if any.
fn judge(left: i64, authority: bool) -> Option<(String, bool)> {
    let days = left / DAY;
    let what = if authority { "the authority" } else { "the certificate" };
    if left < 0 {
        return Some((format!("{what} expired {} days ago", -days), false));
    }
    (days < SOON).then(|| (format!("{what} expires in {days} days"), true))
}

/// Whether the database's clock and this machine's disagree.
pub(super) async fn clocks(config: &Config, store: Option<&AnyStore>) -> Result<Option<Found>, StoreError> {
    let (Some(AnyStore::Scylla(store)), Some(section)) = (store, &config.scylla) else {
        return Ok(None);
    };
    let before = now();
    let theirs = store.clock().await?;
    let ours = middle(before, now());
    let place = section.nodes.first().map_or(section.span, |node| node.span);
    Ok(disagreement(ours, theirs).map(|message| {
        let help = "synchronise the clocks (NTP): TTLs of rows, now() and lag depend on them";
        (Finding::new(place, message).help(help), true)
    }))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The time half-way between a question and its answer; the question's, if the clock was set back in between.
fn middle(before: Duration, after: Duration) -> Duration {
    before + after.saturating_sub(before) / 2
}

fn disagreement(ours: Duration, theirs: Duration) -> Option<String> {
    let (apart, way) = match ours.checked_sub(theirs) {
        Some(ahead) => (ahead, "behind"),
        None => (theirs - ours, "ahead of"),
    };
    (apart > SKEW).then(|| {
        format!(
            "the database's clock is {:.1} s {way} this machine's",
            apart.as_secs_f64()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_told_of_thirty_days_before_their_end() {
        assert_eq!(judge(400 * DAY, false), None);
        let warned = ("the certificate expires in 29 days".to_owned(), true);
        assert_eq!(judge(30 * DAY - 1, false), Some(warned));
        let refused = ("the authority expired 3 days ago".to_owned(), false);
        assert_eq!(judge(-3 * DAY - 5, true), Some(refused));
    }

    #[test]
    fn a_clock_that_is_set_back_during_the_question_has_a_middle_too() {
        let at = Duration::from_millis;
        assert_eq!(middle(at(1_000), at(1_500)), at(1_250));
        assert_eq!(middle(at(1_000), at(400)), at(1_000));
    }

    #[test]
    fn clocks_disagree_by_more_than_two_seconds() {
        let at = Duration::from_millis;
        assert_eq!(disagreement(at(10_000), at(11_999)), None);
        let ahead = disagreement(at(10_000), at(13_500));
        assert_eq!(
            ahead.as_deref(),
            Some("the database's clock is 3.5 s ahead of this machine's")
        );
        let behind = disagreement(at(10_000), at(7_000));
        assert_eq!(
            behind.as_deref(),
            Some("the database's clock is 3.0 s behind this machine's")
        );
    }
}
