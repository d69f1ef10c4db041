//! Decides which dead letters are sent back.

use std::collections::{HashMap, HashSet};

use super::Replay;
use crate::cli::dead_letters::reader::Record;

/// What becomes of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Send,
    /// Not selected by the arguments.
    Other,
    /// Sent back too often already.
    Guarded,
    /// The same record as an earlier one: a crash has repeated its dead letter, or another pipeline that reads its topic has published one, too.
    Repeated,
    /// Not one of Messina's dead letters, so its origin is unknown.
    Foreign,
}

/// Judges dead letters one after another.
pub struct Choice<'a> {
    args: &'a Replay,
    pipeline: Option<&'a str>,
    /// The origins of chosen records, in this replay and in those that it resumes: for each topic the partition, offset and timestamp. The timestamp
    /// is needed because a recreated topic uses the same offsets again.
    origins: HashMap<String, HashSet<(i32, i64, Option<i64>)>>,
}

impl<'a> Choice<'a> {
    /// Chooses among what the arguments select, and only dead letters of this pipeline if one is named.
    pub fn new(args: &'a Replay, pipeline: Option<&'a str>) -> Choice<'a> {
        Choice {
            args,
            pipeline,
            origins: HashMap::new(),
        }
    }

    /// Decides what becomes of a dead letter.
    pub fn judge(&mut self, record: &Record) -> Verdict {
        let asked = self.args.only.is_empty() || self.args.only.contains(&record.place);
        if !asked
            || !self
                .args
                .filter
                .takes(self.pipeline, record.letter.as_ref(), record.time)
        {
            return Verdict::Other;
        }
        let Some(letter) = &record.letter else {
            return Verdict::Foreign;
        };
        if letter.replays >= self.args.max_replays {
            return Verdict::Guarded;
        }
        let of_topic = self.origins.entry(letter.topic.clone()).or_default();
        if !of_topic.insert((letter.partition, letter.offset, letter.timestamp_ms)) {
            return Verdict::Repeated;
        }
        Verdict::Send
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::dead_letters::filter::Place;
    use crate::cli::dead_letters::replay::tests::args;
    use crate::sink::letter::Letter;

    fn record(offset: i64, origin: i64, replays: u32) -> Record {
        Record {
            place: Place { partition: 0, offset },
            time: None,
            key: None,
            value: None,
            headers: Vec::new(),
            letter: Some(Letter {
                offset: origin,
                replays,
                ..Letter::example()
            }),
        }
    }

    fn verdicts(args: &Replay, records: &[Record]) -> Vec<Verdict> {
        let mut choice = Choice::new(args, None);
        records.iter().map(|record| choice.judge(record)).collect()
    }

    #[test]
    fn the_guard_leaves_out_what_was_sent_back_too_often() {
        let records = [
            record(0, 10, 0),
            record(1, 11, 2),
            record(2, 12, 3),
            record(3, 13, u32::MAX),
        ];
        use Verdict::{Guarded, Send};
        assert_eq!(verdicts(&args(&[]), &records), [Send, Send, Guarded, Guarded]);
        assert_eq!(
            verdicts(&args(&["--max-replays", "1"]), &records),
            [Send, Guarded, Guarded, Guarded]
        );
    }

    #[test]
    fn a_record_goes_back_once_however_often_it_is_in_the_topic() {
        let records = [record(0, 10, 0), record(1, 10, 0), record(2, 11, 0)];
        assert_eq!(
            verdicts(&args(&[]), &records),
            [Verdict::Send, Verdict::Repeated, Verdict::Send]
        );
    }

    #[test]
    fn another_record_with_the_offset_of_one_before_goes_back_too() {
        let made = |offset, timestamp_ms| {
            let mut record = record(offset, 10, 0);
            record.letter.as_mut().unwrap().timestamp_ms = Some(timestamp_ms);
            record
        };
        let records = [made(0, 1), made(1, 2), made(2, 1)];
        use Verdict::{Repeated, Send};
        assert_eq!(verdicts(&args(&[]), &records), [Send, Send, Repeated]);
    }

    #[test]
    fn only_what_is_asked_for_is_sent_and_what_came_from_nowhere_is_not() {
        let mut foreign = record(5, 0, 0);
        foreign.letter = None;
        let records = [record(0, 10, 0), record(1, 11, 0), foreign];
        use Verdict::{Foreign, Other, Send};
        assert_eq!(verdicts(&args(&["--only", "0:1"]), &records), [Other, Send, Other]);
        assert_eq!(verdicts(&args(&[]), &records), [Send, Send, Foreign]);
        assert_eq!(
            verdicts(&args(&["--reason", "missing"]), &records),
            [Other, Other, Other]
        );
    }
}
