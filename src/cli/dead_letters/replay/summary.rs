//! The summary of a replay, including how to resume one that ended early.

use std::collections::BTreeSet;

use serde_json::json;

use super::Replay;
use super::choice::Verdict;
use crate::cli::dead_letters::filter::{Place, Spot};
use crate::cli::time::Moment;

/// The result of a replay.
#[derive(Debug, Default)]
pub struct Summary {
    pub read: u64,
    /// Chosen to be sent.
    pub chosen: u64,
    pub guarded: u64,
    pub repeated: u64,
    pub foreign: u64,
    /// Records before the place to resume from. They count as sent before, even if they arrived there since.
    pub before: u64,
    /// For each partition that was read to its end: the place behind what was read.
    pub ends: BTreeSet<Spot>,
    /// The first place that was not looked at, because the cap, a signal or an error came first.
    pub next: Option<Spot>,
    pub interrupted: bool,
}

impl Summary {
    /// Counts one more record that was read.
    pub fn count(&mut self, verdict: Verdict) {
        self.read += 1;
        match verdict {
            Verdict::Send => self.chosen += 1,
            Verdict::Other => {}
            Verdict::Guarded => self.guarded += 1,
            Verdict::Repeated => self.repeated += 1,
            Verdict::Foreign => self.foreign += 1,
        }
    }

    /// Where the next replay may begin: behind everything that this one read. Empty if something was left over or excluded by choice, because
    /// beginning there would hide that, too. A time would not do: a record that a transaction or a producer held back arrives late with an old
    /// timestamp.
    fn behind(&self, args: &Replay, sent: u64, left: &Left) -> BTreeSet<Spot> {
        let looked_at_all = args.only.is_empty() && args.from_offset.is_none();
        let all = looked_at_all && self.read == self.chosen + self.repeated + self.foreign;
        if sent > 0 && all && left.next.is_none() && left.only.is_empty() {
            let ends = self.ends.iter().filter(|end| end.place.offset > 0);
            ends.copied().collect()
        } else {
            BTreeSet::new()
        }
    }
}

/// Up to this number, records that have not arrived are named one by one. If there are more, brokers are down, and one place says enough.
const NAMED: usize = 20;

/// What a replay that ends early leaves over.
#[derive(Debug)]
pub struct Left {
    /// The place to resume from. Everything before it has arrived, except what `only` names.
    next: Option<Spot>,
    /// The places to name: what has not arrived, and the places of `--only` that were not looked at.
    only: BTreeSet<Spot>,
    /// Whether some records behind `next` have arrived already.
    again: bool,
}

impl Left {
    /// `pending` have not arrived; `unread` is the first place that was not looked at.
    pub fn new(only: &[Place], pending: BTreeSet<Spot>, unread: Option<Spot>) -> Left {
        if only.is_empty() && pending.len() > NAMED {
            return Left {
                next: pending.first().copied(),
                only: BTreeSet::new(),
                again: true,
            };
        }
        // If the producer refused the record at `unread`, that record was looked at, and is named.
        let next = unread.map(|spot| if pending.contains(&spot) { spot.behind() } else { spot });
        // With `--only`, a replay reads one topic.
        let named = only.iter().map(|place| Spot {
            topic: 0,
            place: *place,
        });
        let unread = named.filter(|spot| next.is_some_and(|next| *spot >= next));
        Left {
            next,
            only: unread.chain(pending).collect(),
            again: false,
        }
    }
}

/// The places of each topic that has any.
fn by_topic<'t>(topics: &'t [String], spots: &BTreeSet<Spot>) -> Vec<(&'t str, Vec<Place>)> {
    let of = |number: usize| {
        spots
            .iter()
            .filter(|spot| spot.topic == number)
            .map(|spot| spot.place)
            .collect::<Vec<_>>()
    };
    let all = topics
        .iter()
        .enumerate()
        .map(|(number, topic)| (topic.as_str(), of(number)));
    all.filter(|(_, places)| !places.is_empty()).collect()
}

/// The same as command-line options, one entry per topic. If several topics are read, each is named.
fn options(topics: &[String], spots: &BTreeSet<Spot>, option: &str) -> Vec<String> {
    let one = |(topic, places): (&str, Vec<Place>)| {
        let topic = (topics.len() > 1).then(|| format!("--topic {topic}"));
        let places = places.iter().map(|place| format!("{option} {place}"));
        topic.into_iter().chain(places).collect::<Vec<_>>().join(" ")
    };
    by_topic(topics, spots).into_iter().map(one).collect()
}

fn in_json(args: &Replay, topics: &[String], summary: &Summary, sent: u64, left: &Left) -> serde_json::Value {
    let next = left.next;
    json!({
        "dry_run": !args.yes, "read": summary.read, "chosen": summary.chosen, "sent": sent, "guarded": summary.guarded,
        "repeated": summary.repeated, "foreign": summary.foreign, "before": summary.before, "next": next.map(|spot| spot.place.to_string()),
        "next_topic": next.and_then(|spot| topics.get(spot.topic)),
        "only_left": places(topics, &left.only), "again": left.again,
        "since": args.filter.since.map(Moment::text), "until": args.filter.until.map(Moment::text),
        "behind": places(topics, &summary.behind(args, sent, left)),
    })
}

/// The places by topic, as JSON.
fn places(topics: &[String], spots: &BTreeSet<Spot>) -> serde_json::Value {
    let of_topic = |(topic, places): (&str, Vec<Place>)| {
        let places: Vec<String> = places.iter().map(Place::to_string).collect();
        (topic.to_owned(), places)
    };
    by_topic(topics, spots).into_iter().map(of_topic).collect()
}

/// The filter's times as absolute times, for a later command: by then, a relative time such as `2h` would exclude records that have become older.
fn moments(args: &Replay) -> String {
    let one = |option: &str, moment: Option<Moment>| moment.map(|moment| format!(" {option} {}", moment.text()));
    let both = [one("--since", args.filter.since), one("--until", args.filter.until)];
    both.into_iter().flatten().collect()
}

fn how_to_go_on(args: &Replay, topics: &[String], left: &Left) -> String {
    let mut steps = options(topics, &left.only, "--only");
    let mut stopped = "not all have arrived".to_owned();
    if let Some(Spot { topic, place }) = left.next {
        let topic = topics.get(topic).filter(|_| topics.len() > 1);
        let (of, from) = topic.map_or_else(Default::default, |topic| {
            (format!(" of {topic}"), format!("--from-topic {topic} "))
        });
        stopped = format!("stopped before {place}{of}");
        if args.only.is_empty() {
            steps.push(format!("{from}--from-offset {place}"));
        }
    }
    if steps.is_empty() {
        return String::new();
    }
    let moments = moments(args);
    for step in &mut steps {
        step.push_str(&moments);
    }
    let again = if left.again {
        "; records after it that have arrived are sent again"
    } else {
        ""
    };
    format!("{stopped}: go on with {}{again}\n", steps.join(", and then with "))
}

/// The text at the end of a replay.
pub fn told(args: &Replay, topics: &[String], summary: &Summary, sent: u64, left: &Left) -> String {
    if args.json {
        return format!("{}\n", in_json(args, topics, summary, sent, left));
    }
    let mut text = if args.yes {
        format!("{sent} sent")
    } else {
        format!("{} would be sent", summary.chosen)
    };
    text.push_str(&format!(", of {} dead letters read", summary.read));
    let left_out = [
        (summary.guarded, format!("sent back {} times already", args.max_replays)),
        (summary.repeated, "there twice".to_owned()),
        (summary.foreign, "not dead letters of Messina".to_owned()),
    ];
    for (count, why) in left_out.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!("; {count} left out: {why}"));
    }
    if summary.before > 0 {
        text.push_str(&format!(
            "; {} before --from-offset counted as sent, including any that came there since",
            summary.before
        ));
    }
    text.push('\n');
    text.push_str(&how_to_go_on(args, topics, left));
    for behind in options(topics, &summary.behind(args, sent, left), "--behind") {
        text.push_str(&format!(
            "they stay in the topic: next time, {behind} leaves out these and all before them\n"
        ));
    }
    if !args.yes && summary.chosen > 0 {
        text.push_str("--yes sends them\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::dead_letters::replay::tests::args;

    #[test]
    fn where_to_go_on_is_said_with_the_topic_where_there_are_several() {
        let topics = ["a", "b"].map(str::to_owned);
        let spot = |topic| Spot {
            topic,
            place: Place {
                partition: 2,
                offset: 17,
            },
        };
        let on = |topics: &[String], next| {
            let left = Left::new(&[], BTreeSet::new(), Some(next));
            how_to_go_on(&args(&[]), topics, &left)
        };
        assert_eq!(
            on(&topics[..1], spot(0)),
            "stopped before 2:17: go on with --from-offset 2:17\n"
        );
        assert_eq!(
            on(&topics, spot(1)),
            "stopped before 2:17 of b: go on with --from-topic b --from-offset 2:17\n"
        );
        let json = |next| {
            let left = Left::new(&[], BTreeSet::new(), next);
            let line = in_json(&args(&[]), &topics, &Summary::default(), 0, &left);
            json!([line["next"], line["next_topic"]])
        };
        assert_eq!(json(Some(spot(0))), json!(["2:17", "a"]));
        assert_eq!(json(None), json!([null, null]));
    }

    #[test]
    fn of_the_places_that_were_named_those_that_are_left_are_said() {
        let topics = ["dead".to_owned()];
        let spot = |place: &str| Spot {
            topic: 0,
            place: place.parse().unwrap(),
        };
        let args = args(&["--only", "2:4", "--only", "1:9", "--only", "1:20", "--only", "1:12"]);
        let left = |pending: &[&str], unread: Option<&str>| {
            let pending = pending.iter().map(|place| spot(place)).collect();
            let left = Left::new(&args.only, pending, unread.map(spot));
            let json = in_json(&args, &topics, &Summary::default(), 0, &left);
            let text = told(&args, &topics, &Summary::default(), 0, &left);
            (
                json["only_left"].clone(),
                text.lines().nth(1).unwrap_or_default().to_owned(),
            )
        };
        assert_eq!(
            left(&[], Some("1:13")),
            (
                json!({"dead": ["1:20", "2:4"]}),
                "stopped before 1:13: go on with --only 1:20 --only 2:4".to_owned()
            )
        );
        let refused = "stopped before 1:21: go on with --only 1:9 --only 2:4";
        assert_eq!(
            left(&["1:9"], Some("1:21")),
            (json!({"dead": ["1:9", "2:4"]}), refused.to_owned()),
            "those between them have arrived"
        );
        assert_eq!(left(&[], None), (json!({}), String::new()));
    }

    #[test]
    fn what_has_not_arrived_is_named_apart_from_the_place_to_go_on_from() {
        let topics = ["a", "b"].map(str::to_owned);
        let at = |(topic, offset): (usize, i64)| Spot {
            topic,
            place: Place { partition: 0, offset },
        };
        let on = |topics: &[String], pending: &[(usize, i64)], unread: Option<(usize, i64)>| {
            let pending = pending.iter().copied().map(at).collect();
            how_to_go_on(&args(&[]), topics, &Left::new(&[], pending, unread.map(at)))
        };
        assert_eq!(
            on(&topics[..1], &[(0, 5)], Some((0, 300))),
            "stopped before 0:300: go on with --only 0:5, and then with --from-offset 0:300\n"
        );
        assert_eq!(
            on(&topics[..1], &[(0, 5), (0, 7)], Some((0, 7))),
            "stopped before 0:8: go on with --only 0:5 --only 0:7, and then with --from-offset 0:8\n",
            "the producer did not take the last"
        );
        assert_eq!(
            on(&topics, &[(0, 5), (1, 2)], Some((1, 3))),
            "stopped before 0:3 of b: go on with --topic a --only 0:5, and then with --topic b --only 0:2, \
             and then with --from-topic b --from-offset 0:3\n"
        );
        assert_eq!(
            on(&topics[..1], &[(0, 5)], None),
            "not all have arrived: go on with --only 0:5\n"
        );
        let many: Vec<(usize, i64)> = (5..30).map(|offset| (0, offset)).collect();
        assert_eq!(
            on(&topics[..1], &many, Some((0, 300))),
            "stopped before 0:5: go on with --from-offset 0:5; records after it that have arrived are sent again\n"
        );
        let again = |pending: &[(usize, i64)]| {
            let pending = pending.iter().copied().map(at).collect();
            let left = Left::new(&[], pending, Some(at((0, 300))));
            in_json(&args(&[]), &topics, &Summary::default(), 0, &left)["again"].clone()
        };
        assert_eq!((again(&many), again(&many[..1])), (json!(true), json!(false)));
    }

    #[test]
    fn a_time_that_was_so_long_ago_is_the_same_when_it_goes_on() {
        let topics = ["dead".to_owned()];
        let at = |place: &str| Spot {
            topic: 0,
            place: place.parse().unwrap(),
        };
        let left = Left::new(&[], BTreeSet::from([at("0:5")]), Some(at("0:300")));
        let args = args(&["--since", "2h", "--until", "2026-11-24T10:00:00.25Z"]);
        let (since, until) = (args.filter.since.unwrap().text(), "2026-11-24T10:00:00.250Z");
        assert_eq!(
            how_to_go_on(&args, &topics, &left),
            format!(
                "stopped before 0:300: go on with --only 0:5 --since {since} --until {until}, \
                 and then with --from-offset 0:300 --since {since} --until {until}\n"
            )
        );
        let json = in_json(&args, &topics, &Summary::default(), 0, &left);
        assert_eq!((&json["since"], &json["until"]), (&json!(since), &json!(until)));
        assert_eq!(crate::cli::time::parse(&since), Ok(args.filter.since.unwrap()));
    }

    #[test]
    fn what_was_left_out_is_not_hidden_the_next_time() {
        let topics = ["a", "b"].map(str::to_owned);
        let end = |topic, place: &str| Spot {
            topic,
            place: place.parse().unwrap(),
        };
        let left = |pending| Left::new(&[], pending, None);
        let said = |topics: &[String], arguments: &[&str], guarded, read, left: &Left| {
            let summary = Summary {
                ends: BTreeSet::from([end(0, "0:17"), end(0, "1:0"), end(0, "2:5"), end(1, "0:3")]),
                read,
                chosen: 2,
                guarded,
                repeated: 1,
                foreign: 1,
                ..Summary::default()
            };
            told(&args(arguments), topics, &summary, 2, left)
        };
        let hints = |arguments: &[&str], guarded, read| {
            let said = said(&topics[..1], arguments, guarded, read, &left(BTreeSet::new()));
            said.contains(": next time, --behind 0:17 --behind 2:5 leaves out these and all before them\n")
        };
        assert!(hints(&["--yes"], 0, 4));
        assert!(hints(&["--yes", "--reason", "avro"], 0, 4), "all had that reason");
        assert!(!hints(&["--yes", "--reason", "avro"], 0, 5));
        assert!(!hints(&["--yes"], 1, 5));
        assert!(!hints(&["--yes", "--only", "0:1"], 0, 4));
        assert!(!hints(&["--yes", "--from-offset", "0:1"], 0, 4));
        let pending = left(BTreeSet::from([end(0, "0:4")]));
        assert!(!said(&topics[..1], &["--yes"], 0, 4, &pending).contains("--behind"));
        let several = said(&topics, &["--yes"], 0, 4, &left(BTreeSet::new()));
        assert!(
            several.contains(": next time, --topic a --behind 0:17 --behind 2:5 leaves")
                && several.contains(": next time, --topic b --behind 0:3 leaves"),
            "{several}"
        );
        let json = said(&topics, &["--yes", "--json"], 0, 4, &left(BTreeSet::new()));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["behind"], json!({"a": ["0:17", "2:5"], "b": ["0:3"]}));
    }
}
