//! Filters of `messina dead-letters`, and places in a topic (`PARTITION:OFFSET`) as the command line takes them.

use std::fmt;
use std::str::FromStr;

use crate::cli::time::{self, Moment};
use crate::sink::letter::Letter;

/// Only dead letters that match all of these.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filter {
    /// Only this reason: avro, framing, missing, …
    #[arg(long)]
    pub reason: Option<String>,
    /// Only this step.
    #[arg(long)]
    pub step: Option<String>,
    /// Only records of this input topic.
    #[arg(long, value_name = "TOPIC")]
    pub original_topic: Option<String>,
    /// Only dead letters published at or after this time: 2026-11-24T10:00:00Z, 2026-11-24, or how long ago (2h, 7d).
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub since: Option<Moment>,
    /// Only dead letters published before this time.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub until: Option<Moment>,
}

impl Filter {
    /// Whether a record of the topic matches. `letter` is `None` if the record is not a dead letter of Messina's.
    pub fn takes(&self, pipeline: Option<&str>, letter: Option<&Letter>, time: Option<Moment>) -> bool {
        let says = |wanted: Option<&str>, has: fn(&Letter) -> Option<&str>| {
            wanted.is_none_or(|wanted| letter.and_then(has) == Some(wanted))
        };
        says(pipeline, |l| Some(&l.pipeline))
            && says(self.reason.as_deref(), |l| Some(&l.reason))
            && says(self.step.as_deref(), |l| l.step.as_deref())
            && says(self.original_topic.as_deref(), |l| Some(&l.topic))
            && self.since.is_none_or(|since| time.is_some_and(|time| time >= since))
            && self.until.is_none_or(|until| time.is_some_and(|time| time < until))
    }
}

/// A place in a topic, `PARTITION:OFFSET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Place, Self::Err> {
        let read = || {
            let (partition, offset) = text.split_once(':')?;
            let place = Place {
                partition: partition.parse().ok()?,
                offset: offset.parse().ok()?,
            };
            (place.partition >= 0 && place.offset >= 0).then_some(place)
        };
        read().ok_or("write PARTITION:OFFSET, such as 0:1234")
    }
}

/// A place among everything that a command reads. The order is the order of reading, also across topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// The number of the topic.
    pub topic: usize,
    /// The place in it.
    pub place: Place,
}

impl Spot {
    /// The place after this one.
    pub fn behind(self) -> Spot {
        let offset = self.place.offset.saturating_add(1);
        let place = Place { offset, ..self.place };
        Spot { place, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        Letter {
            pipeline: "orders".into(),
            step: Some("profile".into()),
            reason: "invalid".into(),
            ..Letter::example()
        }
    }

    #[test]
    fn a_letter_has_to_fit_every_filter() {
        let letter = letter();
        let time = Some(Moment(1000));
        let takes = |filter: &Filter| filter.takes(None, Some(&letter), time);
        assert!(takes(&Filter::default()));
        let fitting = Filter {
            reason: Some("invalid".into()),
            step: Some("profile".into()),
            original_topic: Some("orders".into()),
            since: Some(Moment(1000)),
            until: Some(Moment(1001)),
        };
        assert!(takes(&fitting));
        let other = || Some("other".to_owned());
        let base = || fitting.clone();
        for wrong in [
            Filter {
                reason: other(),
                ..base()
            },
            Filter {
                step: other(),
                ..base()
            },
            Filter {
                original_topic: other(),
                ..base()
            },
            Filter {
                since: Some(Moment(1001)),
                ..base()
            },
            Filter {
                until: Some(Moment(1000)),
                ..base()
            },
        ] {
            assert!(!takes(&wrong), "{wrong:?}");
        }
        assert!(fitting.takes(Some("orders"), Some(&letter), time));
        assert!(!fitting.takes(Some("navigation"), Some(&letter), time));
    }

    #[test]
    fn what_is_no_dead_letter_fits_no_filter_about_one() {
        assert!(Filter::default().takes(None, None, None));
        assert!(!Filter::default().takes(Some("orders"), None, None));
        let reason = Filter {
            reason: Some("avro".into()),
            ..Filter::default()
        };
        assert!(!reason.takes(None, None, Some(Moment(0))));
    }

    #[test]
    fn places_are_read_as_they_are_printed() {
        let place = Place {
            partition: 3,
            offset: 17,
        };
        assert_eq!(place.to_string().parse(), Ok(place));
        for wrong in ["", "3", "3:", ":3", "-1:3", "3:-1", "a:b", "3:4:5"] {
            let refused = wrong.parse::<Place>();
            // Commands without a list take places too.
            assert_eq!(refused, Err("write PARTITION:OFFSET, such as 0:1234"), "{wrong}");
        }
    }
}
