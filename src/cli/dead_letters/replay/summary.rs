//! What came of a replay, and how to go on where it ended early.

use std::collections::BTreeSet;

use serde_json::json;

use super::Replay;
use super::choice::Verdict;
use crate::cli::dead_letters::filter::{Place, Spot};
use crate::cli::time::Moment;

/// What came of a replay.
#[derive(Debug, Default)]
pub struct Summary {
    /// When it began to read: what fails again is younger.
    pub began: Option<Moment>,
    pub read: u64,
    /// Chosen to be sent.
    pub chosen: u64,
    pub guarded: u64,
    pub repeated: u64,
    pub foreign: u64,
    /// The first that was not looked at, where the cap, a signal or an error came first.
    pub next: Option<Spot>,
    pub interrupted: bool,
}

impl Summary {
    /// One more was read.
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
}

/// What a replay leaves that ends early.
#[derive(Debug)]
pub struct Left {
    /// The place to go on from: all before it have arrived.
    next: Option<Spot>,
    /// Of the places that `--only` names, those that have not arrived and those that were not looked at.
    only: BTreeSet<Place>,
}

impl Left {
    /// `pending` have not arrived; `unread` is the first that was not looked at.
    pub fn new(only: &[Place], pending: BTreeSet<Spot>, unread: Option<Spot>) -> Left {
        let next = pending.first().copied().or(unread);
        // It reads one topic.
        let pending: BTreeSet<Place> = pending.into_iter().map(|spot| spot.place).collect();
        let is_left = |place: &Place| pending.contains(place) || unread.is_some_and(|unread| *place >= unread.place);
        let only = only.iter().copied().filter(is_left).collect();
        Left { next, only }
    }
}

fn in_json(args: &Replay, topics: &[String], summary: &Summary, sent: u64, left: &Left) -> serde_json::Value {
    let next = left.next;
    json!({
        "dry_run": !args.yes, "began": summary.began.map(Moment::text), "read": summary.read, "chosen": summary.chosen, "sent": sent, "guarded": summary.guarded,
        "repeated": summary.repeated, "foreign": summary.foreign, "next": next.map(|spot| spot.place.to_string()),
        "next_topic": next.and_then(|spot| topics.get(spot.topic)),
        "only_left": left.only.iter().map(Place::to_string).collect::<Vec<_>>(),
    })
}

fn how_to_go_on(args: &Replay, topics: &[String], next: Spot, only: &BTreeSet<Place>) -> String {
    let place = next.place;
    if !args.only.is_empty() {
        if only.is_empty() {
            return String::new();
        }
        let only: String = only.iter().map(|place| format!(" --only {place}")).collect();
        return format!("stopped before {place}: go on with{only}\n");
    }
    let topic = match topics.get(next.topic) {
        Some(topic) if topics.len() > 1 => topic,
        _ => return format!("stopped before {place}: go on with --from-offset {place}\n"),
    };
    format!("stopped before {place} of {topic}: go on with --from-topic {topic} --from-offset {place}\n")
}

/// What is said at the end.
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
    text.push('\n');
    if let Some(next) = left.next {
        text.push_str(&how_to_go_on(args, topics, next, &left.only));
    }
    // It would hide what was left out by choice, too.
    let looked_at_all = args.only.is_empty() && args.from_offset.is_none();
    let all = looked_at_all && summary.read == summary.chosen + summary.repeated + summary.foreign;
    if let Some(began) = summary.began.filter(|_| sent > 0 && left.next.is_none() && all) {
        text.push_str(&format!(
            "they stay in the topic: --since {} leaves out these, and all before, the next time\n",
            began.text()
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
        let on = |topics: &[String], next| how_to_go_on(&args(&[]), topics, next, &BTreeSet::new());
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
                json!(["1:20", "2:4"]),
                "stopped before 1:13: go on with --only 1:20 --only 2:4".to_owned()
            )
        );
        let refused = "stopped before 1:9: go on with --only 1:9 --only 2:4";
        assert_eq!(
            left(&["1:9"], Some("1:21")),
            (json!(["1:9", "2:4"]), refused.to_owned()),
            "those between them have arrived"
        );
        assert_eq!(left(&[], None), (json!([]), String::new()));
    }

    #[test]
    fn what_was_left_out_is_not_hidden_the_next_time() {
        let topics = ["dead".to_owned()];
        let hints = |arguments: &[&str], guarded, read| {
            let summary = Summary {
                began: Some(Moment(0)),
                read,
                chosen: 2,
                guarded,
                repeated: 1,
                foreign: 1,
                ..Summary::default()
            };
            let left = Left::new(&[], BTreeSet::new(), None);
            told(&args(arguments), &topics, &summary, 2, &left).contains("--since")
        };
        assert!(hints(&["--yes"], 0, 4));
        assert!(hints(&["--yes", "--reason", "avro"], 0, 4), "all had that reason");
        assert!(!hints(&["--yes", "--reason", "avro"], 0, 5));
        assert!(!hints(&["--yes"], 1, 5));
        assert!(!hints(&["--yes", "--only", "0:1"], 0, 4));
        assert!(!hints(&["--yes", "--from-offset", "0:1"], 0, 4));
    }
}
