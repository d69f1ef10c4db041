//! `/tap/PIPELINE`: records of a running pipeline as they end.
//!
//! | query parameter | | default |
//! | --- | --- | --- |
//! | `records` | how many at most, 1 to 100 | 10 |
//! | `seconds` | how long to wait for them, 0.1 to 20; they are spread over that time | 1 |
//! | `outcome` | only this outcome: `done`, `skipped`, `dead_lettered`, `halted` | all |
//!
//! Through DNS rebinding, a foreign web page can make its own name resolve to this address, and then read the answers as if they came from its own
//! server. So a request is refused if its `Host` is a name that anybody could register.
//!
//! The answer is `{"shows": "shapes" | "values", "ended": N, "records": [...]}`. `ended` also counts records that were not sampled, and records
//! that do not fit: the text of all records is at most 4 MiB. The answer comes when there are as many records as requested, or when the time is
//! over.

use std::net::IpAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Probe, TEXT, response};
use crate::outcome::Outcome;

/// The most records per request.
pub const MOST: usize = 100;

/// The longest wait per request.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The answer to a request with a foreign `Host`.
pub(super) const FOREIGN: &str = "records are not shown to this Host: it must be an IP address, a name without a dot, or one that ends in \
                                  .localhost, .local, .internal or .svc. A foreign web page can have any other name\n";

/// Suffixes of names that nobody can register.
const KNOWN: [&str; 4] = [".localhost", ".local", ".internal", ".svc"];

/// Whether a value of `Host` is an address, or a name that nobody can register in the public DNS.
pub(super) fn is_known(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let ip = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    if ip.unwrap_or(name).parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    !name.contains('.') || KNOWN.iter().any(|end| name.ends_with(end))
}

/// The parameters of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The most records.
    pub records: usize,
    /// How long to wait for them.
    pub patience: Duration,
    /// Only records with this outcome.
    pub outcome: Option<String>,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// `[http] tap` is off.
    Off,
    /// There is no such pipeline. Holds the names of the existing ones.
    Unknown(Vec<String>),
    /// Too many clients are looking already.
    Busy,
}

/// Waits for records, and answers with them.
pub(super) async fn answer(probe: &dyn Probe, pipeline: &str, query: &str) -> Response<Full<Bytes>> {
    let wanted = match Wanted::read(query) {
        Ok(wanted) => wanted,
        Err(why) => return response(StatusCode::BAD_REQUEST, TEXT, why + "\n"),
    };
    let patience = wanted.patience;
    let looker = match probe.tap(pipeline, wanted) {
        Ok(looker) => looker,
        Err(refused) => return response(refused.status(), TEXT, refused.in_words(pipeline) + "\n"),
    };
    let seen = looker.look(patience).await;
    let answer = Answer {
        shows: looker.showing().as_str(),
        ended: seen.ended,
        records: &seen.records,
    };
    // A struct of text and numbers can always be serialised.
    let mut body = serde_json::to_vec(&answer).unwrap_or_default();
    body.push(b'\n');
    response(StatusCode::OK, "application/json", body)
}

/// The body of the answer. It borrows the records, which are already text.
#[derive(Serialize)]
struct Answer<'a> {
    shows: &'a str,
    ended: u64,
    records: &'a [Box<RawValue>],
}

impl Wanted {
    fn read(query: &str) -> Result<Wanted, String> {
        let mut wanted = Wanted {
            records: 10,
            patience: Duration::from_secs(1),
            outcome: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "records" => {
                    let records = value.parse().ok().filter(|n| (1..=MOST).contains(n));
                    wanted.records = records.ok_or(format!("`records` is a number from 1 to {MOST}"))?;
                }
                "seconds" => {
                    let longest = PATIENCE.as_secs_f64();
                    let seconds = value.parse().ok().filter(|s| (0.1..=longest).contains(s));
                    let seconds = seconds.ok_or(format!("`seconds` is a number from 0.1 to {longest}"))?;
                    wanted.patience = Duration::from_secs_f64(seconds);
                }
                "outcome" => {
                    let mut known = Outcome::ALL.map(Outcome::as_str).into_iter().chain(["halted"]);
                    let outcome = known.find(|known| *known == value);
                    let outcome = outcome.ok_or("`outcome` is done, skipped, dead_lettered or halted")?;
                    wanted.outcome = Some(outcome.to_owned());
                }
                _ => {
                    return Err(format!(
                        "there is no `{key}` here; there are records, seconds and outcome"
                    ));
                }
            }
        }
        Ok(wanted)
    }

    /// The time between two samples.
    pub fn gap(&self) -> Duration {
        self.patience / u32::try_from(self.records).unwrap_or(u32::MAX)
    }
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Refused::Off => StatusCode::FORBIDDEN,
            Refused::Unknown(_) => StatusCode::NOT_FOUND,
            Refused::Busy => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    fn in_words(&self, pipeline: &str) -> String {
        match self {
            Refused::Off => "records are not shown: [http] tap = \"off\"".to_owned(),
            Refused::Unknown(names) if names.is_empty() => {
                format!("there is no pipeline {pipeline} yet: the process is starting")
            }
            Refused::Unknown(names) => format!("there is no pipeline {pipeline}: there are {}", names.join(", ")),
            Refused::Busy => "the largest number of viewers is reached: try again".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_or_refused() {
        let wanted = Wanted::read("records=4&seconds=0.5&outcome=dead_lettered").unwrap();
        assert_eq!((wanted.records, wanted.outcome.as_deref()), (4, Some("dead_lettered")));
        assert_eq!(wanted.gap(), Duration::from_millis(125));
        assert_eq!(Wanted::read("").unwrap().records, 10);
        for (query, part) in [
            ("records=0", "1 to 100"),
            ("records=101", "1 to 100"),
            ("seconds=NaN", "0.1 to 20"),
            ("seconds=21", "0.1 to 20"),
            ("outcome=lost", "skipped"),
            ("record=1", "there is no `record`"),
        ] {
            let why = Wanted::read(query).unwrap_err();
            assert!(why.contains(part), "{query}: {why}");
        }
    }
}
