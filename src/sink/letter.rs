//! The headers of a dead letter: their names, and how they are read back.
//!
//! The writer appends its headers to the record's own, starting with [`PIPELINE`]. So the last [`PIPELINE`] separates the two, even if a dead letter
//! was consumed and became a dead letter again.

use rdkafka::Timestamp;
use rdkafka::message::OwnedHeaders;

use crate::kafka::headers::{self, List};
use crate::ledger::own_micros;
use crate::pipeline::failure;

/// Prefix of the names of all our headers.
const OURS: &str = "messina.";
/// The pipeline that dead-lettered the record.
pub const PIPELINE: &str = "messina.pipeline";
/// The record's topic.
pub const TOPIC: &str = "messina.topic";
/// Its partition.
pub const PARTITION: &str = "messina.partition";
/// Its offset.
pub const OFFSET: &str = "messina.offset";
/// Its timestamp, milliseconds since 1970.
pub const TIMESTAMP: &str = "messina.timestamp";
/// The write timestamp of its rows, microseconds since 1970.
pub const WRITE_TIMESTAMP: &str = "messina.write_timestamp";
/// The step that failed.
pub const STEP: &str = "messina.step";
/// The class of the failure.
pub const CLASS: &str = "messina.class";
/// The failure in one word.
pub const REASON: &str = "messina.reason";
/// The failure in words.
pub const MESSAGE: &str = "messina.message";
/// How often the record was tried.
pub const ATTEMPTS: &str = "messina.attempts";
/// The id of the record's schema.
pub const SCHEMA_ID: &str = "messina.schema_id";
/// How often the record was sent back from a dead-letter topic. A replay sets it, not the writer of dead letters; it stays with the record.
pub const REPLAYS: &str = "messina.replays";
/// The pipeline whose dead letter was sent back last. A replay sets it, like the next two.
pub const REPLAY_PIPELINE: &str = "messina.replay_pipeline";
/// The write timestamp that this pipeline had given the record's rows. It means nothing to other pipelines, whose records make other numbers of writes.
pub const REPLAY_WRITE_TIMESTAMP: &str = "messina.replay_write_timestamp";
/// The record's original timestamp, milliseconds since 1970: a topic with `LogAppendTime` gives a record that is sent back a new one.
pub const REPLAY_TIMESTAMP: &str = "messina.replay_timestamp";
/// The headers that a replay sets.
const OF_REPLAYS: [&str; 4] = [REPLAYS, REPLAY_PIPELINE, REPLAY_WRITE_TIMESTAMP, REPLAY_TIMESTAMP];

/// A header: name and value, both arbitrary bytes.
pub type Header = (Vec<u8>, Option<Vec<u8>>);

/// A dead letter, apart from key and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The pipeline that dead-lettered the record.
    pub pipeline: String,
    /// The record's topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its original timestamp, milliseconds since 1970, if it had one.
    pub timestamp_ms: Option<i64>,
    /// The write timestamp of its rows, microseconds since 1970.
    pub write_timestamp_us: Option<i64>,
    /// The step that failed, if the failure was in a step.
    pub step: Option<String>,
    /// The class of the failure.
    pub class: String,
    /// The failure in one word.
    pub reason: String,
    /// The failure in words, which may quote the record: see [`Letter::told`].
    pub message: String,
    /// How often the record was tried.
    pub attempts: u32,
    /// The id of its schema, if it could be read.
    pub schema_id: Option<u32>,
    /// How often it has been sent back. A count that cannot be read becomes the highest number, so that the guard against loops refuses the record.
    pub replays: u32,
    /// The record's own headers, in order.
    pub headers: Vec<Header>,
}

#[cfg(test)]
impl Letter {
    /// A dead letter of the record at offset 9 of a topic, for tests.
    pub(crate) fn example() -> Letter {
        Letter {
            pipeline: "p".into(),
            topic: "orders".into(),
            partition: 4,
            offset: 9,
            timestamp_ms: None,
            write_timestamp_us: None,
            step: None,
            class: "permanent".into(),
            reason: "avro".into(),
            message: String::new(),
            attempts: 1,
            schema_id: None,
            replays: 0,
            headers: Vec::new(),
        }
    }
}

impl Letter {
    /// Reads the headers of a record; `None` if it is not a dead letter of Messina.
    pub fn read(headers: &[Header]) -> Option<Letter> {
        let begin = headers.iter().rposition(|(name, _)| name == PIPELINE.as_bytes())?;
        let (before, from_here) = headers.split_at(begin);
        let text = |name: &str| {
            let (_, value) = from_here.iter().find(|(n, _)| n == name.as_bytes())?;
            std::str::from_utf8(value.as_deref()?).ok()
        };
        let owned = |name: &str| text(name).unwrap_or_default().to_owned();
        let replays = before
            .iter()
            .rfind(|(name, _)| name == REPLAYS.as_bytes())
            .map_or(0, |(_, value)| {
                let text = value.as_deref().and_then(|v| std::str::from_utf8(v).ok());
                text.and_then(|text| text.parse().ok()).unwrap_or(u32::MAX)
            });
        // Other headers after ours were added on the way, by a tool that copies topics.
        let behind = from_here.iter().filter(|(name, _)| !name.starts_with(OURS.as_bytes()));
        let own = before
            .iter()
            .filter(|(name, _)| !OF_REPLAYS.map(str::as_bytes).contains(&&**name));
        Some(Letter {
            pipeline: owned(PIPELINE),
            topic: text(TOPIC)?.to_owned(),
            partition: text(PARTITION)?.parse().ok()?,
            offset: text(OFFSET)?.parse().ok()?,
            timestamp_ms: text(TIMESTAMP).and_then(|t| t.parse().ok()),
            write_timestamp_us: text(WRITE_TIMESTAMP).and_then(|t| t.parse().ok()),
            step: text(STEP).map(str::to_owned),
            class: owned(CLASS),
            reason: owned(REASON),
            message: owned(MESSAGE),
            attempts: text(ATTEMPTS).and_then(|a| a.parse().ok()).unwrap_or(1),
            schema_id: text(SCHEMA_ID).and_then(|id| id.parse().ok()),
            replays,
            headers: own.chain(behind).cloned().collect(),
        })
    }

    /// The failure in words without the record's content, for readers who did not ask for it.
    pub fn told(&self) -> String {
        failure::told(&self.reason, self.step.as_deref(), &self.message)
    }
}

/// What a replay noted about the original of a record that it sent back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Back {
    /// The record's timestamp, milliseconds since 1970.
    first_ms: Option<i64>,
    /// The write timestamp of its rows, if this pipeline noted it.
    noted_us: Option<i64>,
}

impl Back {
    /// `None` for a record that was not sent back. In a dead letter, the headers before [`PIPELINE`] belong to the record inside, and say nothing about the
    /// letter itself.
    pub fn of<L: List>(headers: &L, pipeline: &str) -> Option<Back> {
        let (mut back, mut to_us, mut first_ms, mut noted_us) = (false, false, None, None);
        for (name, value) in ours(headers) {
            if name == PIPELINE.as_bytes() {
                (back, to_us, first_ms, noted_us) = (false, false, None, None);
            } else if name == REPLAYS.as_bytes() {
                back = true;
            } else if name == REPLAY_PIPELINE.as_bytes() {
                to_us = value == Some(pipeline.as_bytes());
            } else if name == REPLAY_TIMESTAMP.as_bytes() {
                first_ms = number(value);
            } else if name == REPLAY_WRITE_TIMESTAMP.as_bytes() {
                noted_us = number(value);
            }
        }
        let noted_us = noted_us.filter(|_| to_us);
        back.then_some(Back { first_ms, noted_us })
    }
}

/// The write timestamp of a record in µs. Usually it is the one `given` by the ledger. A record that was sent back is late: so that younger rows keep
/// their values, it gets its original one, which is what this pipeline noted, or else the record's [timestamp](record_timestamp). The headers are in
/// the log, so the result is the same when the record runs again. Whatever the headers say, they cannot make a row younger than `given`.
pub fn write_timestamp(back: Option<Back>, record_timestamp_ms: Option<i64>, given: i64) -> i64 {
    let Some(back) = back else { return given };
    let noted = back.noted_us.filter(|noted| (0..=given).contains(noted));
    noted.or(own_micros(record_timestamp_ms)).unwrap_or(given)
}

/// The timestamp of a record, milliseconds since 1970. If the brokers set timestamps, a record that was sent back gets its original one, unless that is
/// later. If producers set them, a record that was sent back already has its original one, unless that was 0, which librdkafka takes for "now".
pub fn record_timestamp(timestamp: Timestamp, back: Option<Back>) -> Option<i64> {
    let own = timestamp.to_millis()?;
    let latest = match timestamp {
        Timestamp::LogAppendTime(_) => own,
        Timestamp::CreateTime(_) | Timestamp::NotAvailable => 0,
    };
    let first = back.and_then(|back| back.first_ms);
    Some(first.filter(|first| (0..=latest).contains(first)).unwrap_or(own))
}

/// Our headers only. A record may have many others, whose names need not be compared with each of ours.
fn ours<L: List>(headers: &L) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    headers::all(headers).filter(|(name, _)| name.starts_with(OURS.as_bytes()))
}

/// Removes a noted timestamp of 0 from the headers of an output that goes out with the current time because the record's original timestamp was missing
/// or 0. The note is about the record; a consumer of the output would take 0 for its time, and rows written with it lose against all others.
pub fn without_time_zero(headers: OwnedHeaders) -> OwnedHeaders {
    let is_it = |(name, value): (&[u8], Option<&[u8]>)| name == REPLAY_TIMESTAMP.as_bytes() && number(value) == Some(0);
    if !ours(&headers).any(is_it) {
        return headers;
    }
    let mut others = OwnedHeaders::new();
    for (name, value) in headers::all(&headers).filter(|header| !is_it(*header)) {
        headers::add(&mut others, name, value);
    }
    others
}

fn number(value: Option<&[u8]>) -> Option<i64> {
    std::str::from_utf8(value?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rdkafka::message::Header as Added;

    use super::*;
    use crate::ledger::{Ledger, MAX_RECORD_TIMESTAMP_MS};

    fn headers(list: &[(&str, &str)]) -> Vec<Header> {
        list.iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), Some(value.as_bytes().to_vec())))
            .collect()
    }

    const FIRST: [(&str, &str); 6] = [
        (PIPELINE, "a"),
        (TOPIC, "orders"),
        (PARTITION, "3"),
        (OFFSET, "17"),
        (CLASS, "permanent"),
        (REASON, "avro"),
    ];

    #[test]
    fn own_headers_are_parted_from_ours() {
        let own = [("trace", "1"), ("trace", "2")];
        let letter = Letter::read(&headers(&[&own[..], &FIRST, &[("copied-by", "x")]].concat())).unwrap();
        assert_eq!(
            (letter.topic.as_str(), letter.partition, letter.offset, letter.replays),
            ("orders", 3, 17, 0)
        );
        assert_eq!(
            (letter.timestamp_ms, letter.attempts, letter.schema_id),
            (None, 1, None)
        );
        assert_eq!(
            letter.headers,
            headers(&[("trace", "1"), ("trace", "2"), ("copied-by", "x")])
        );
    }

    #[test]
    fn a_dead_letter_of_a_dead_letter_keeps_the_headers_of_the_first() {
        let second = [(PIPELINE, "b"), (TOPIC, "a-dead"), (PARTITION, "0"), (OFFSET, "5")];
        let letter = Letter::read(&headers(&[&FIRST[..], &second].concat())).unwrap();
        assert_eq!((letter.pipeline.as_str(), letter.topic.as_str()), ("b", "a-dead"));
        assert_eq!(letter.headers, headers(&FIRST));
    }

    #[test]
    fn replays_are_counted_and_a_count_that_cannot_be_read_is_the_highest() {
        let with = |count: &str| Letter::read(&headers(&[&[(REPLAYS, count)][..], &FIRST].concat())).unwrap();
        assert_eq!((with("2").replays, with("2").headers.len()), (2, 0));
        assert_eq!(with("many").replays, u32::MAX);
    }

    #[test]
    fn other_records_are_no_dead_letters() {
        assert_eq!(Letter::read(&[]), None);
        assert_eq!(Letter::read(&headers(&[("trace", "1")])), None);
        assert_eq!(Letter::read(&headers(&[(PIPELINE, "a"), (TOPIC, "orders")])), None);
        assert_eq!(
            Letter::read(&headers(&[
                (PIPELINE, "a"),
                (TOPIC, "t"),
                (PARTITION, "x"),
                (OFFSET, "1")
            ])),
            None
        );
    }

    #[test]
    fn what_a_replay_has_set_is_no_header_of_the_record() {
        let back = [
            (REPLAYS, "1"),
            (REPLAY_PIPELINE, "a"),
            (REPLAY_WRITE_TIMESTAMP, "17"),
            (REPLAY_TIMESTAMP, "5"),
        ];
        let noted = [(WRITE_TIMESTAMP, "17"), (TIMESTAMP, "9000")];
        // Headers before the letter's own may come from anyone.
        let again = [&[("trace", "1")][..], &back, &FIRST, &noted].concat();
        let letter = Letter::read(&headers(&again)).unwrap();
        assert_eq!((letter.replays, letter.write_timestamp_us), (1, Some(17)));
        assert_eq!(letter.headers, headers(&[("trace", "1")]));
        assert_eq!(letter.timestamp_ms, Some(9000));
        assert_eq!(Letter::read(&headers(&FIRST)).unwrap().write_timestamp_us, None);
    }

    #[test]
    fn a_name_that_is_no_text_is_another_name() {
        let sent_back = [(REPLAYS, "1"), (REPLAY_PIPELINE, "p"), (REPLAY_WRITE_TIMESTAMP, "7")];
        let mut list = added(&sent_back);
        headers::add(&mut list, b"caf\xe9", Some(b"1"));
        assert_eq!(write_timestamp(Back::of(&list, "p"), None, 9), 7);
    }

    fn added(list: &[(&str, &str)]) -> OwnedHeaders {
        list.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Added {
                key,
                value: Some(*value),
            })
        })
    }

    /// The write timestamp, for pipeline `a`, of a record of time 5 ms to which the ledger gives 5,900 µs.
    fn written(list: &[(&str, &str)]) -> i64 {
        write_timestamp(Back::of(&added(list), "a"), Some(5), 5900)
    }

    #[test]
    fn the_write_timestamp_of_the_first_time_is_that_pipelines_and_of_records_that_were_sent_back() {
        let noted = |pipeline, us| {
            [
                (REPLAYS, "1"),
                (REPLAY_PIPELINE, pipeline),
                (REPLAY_WRITE_TIMESTAMP, us),
            ]
        };
        assert_eq!(written(&noted("a", "5004")), 5004);
        // It came after a record whose own timestamp was younger.
        assert_eq!(written(&noted("a", "5900")), 5900);
        // Another pipeline of the topic sent it back, or a version of Messina that did not note the timestamp.
        assert_eq!(written(&noted("b", "5004")), 5000);
        assert_eq!(written(&[(REPLAYS, "1")]), 5000);
        assert_eq!(written(&[(REPLAYS, "1"), (REPLAY_WRITE_TIMESTAMP, "5004")]), 5000);
        // It was not sent back.
        assert_eq!(written(&noted("a", "5004")[1..]), 5900);
        // First the record inside a dead letter was sent back, but not the letter; then the letter itself.
        let letter = [&noted("a", "5004")[..], &[(PIPELINE, "p")]].concat();
        assert_eq!(written(&letter), 5900);
        assert_eq!(written(&[&letter[..], &noted("b", "5002")].concat()), 5000);
        assert_eq!(written(&[&letter[..], &noted("a", "5002")].concat()), 5002);
        assert_eq!(written(&[]), 5900);
        for forged in ["5901", "9223372036854775807", "-1", "9999999999999999999", "", "soon"] {
            assert_eq!(written(&noted("a", forged)), 5000, "{forged}");
        }
        // The header has no value.
        let null = added(&[(REPLAYS, "1"), (REPLAY_PIPELINE, "a")]).insert(Added {
            key: REPLAY_WRITE_TIMESTAMP,
            value: None::<&str>,
        });
        assert_eq!(write_timestamp(Back::of(&null, "a"), Some(5), 5900), 5000);
    }

    /// The timestamp of a record with these headers.
    fn stamped(list: &[(&str, &str)], timestamp: Timestamp) -> Option<i64> {
        record_timestamp(timestamp, Back::of(&added(list), "a"))
    }

    #[test]
    fn a_record_that_was_sent_back_has_the_timestamp_of_its_first_time_where_brokers_give_another() {
        let brokers = Timestamp::LogAppendTime(9000);
        let at = |first: &str| stamped(&[(REPLAYS, "1"), (REPLAY_TIMESTAMP, first)], brokers);
        assert_eq!((at("5"), at("9000")), (Some(5), Some(9000)));
        for forged in ["9001", "9223372036854775807", "-1", "", "soon"] {
            assert_eq!(at(forged), Some(9000), "{forged}");
        }
        let back = [(REPLAYS, "1"), (REPLAY_TIMESTAMP, "5")];
        assert_eq!(stamped(&back, Timestamp::CreateTime(9000)), Some(9000));
        // The record had no timestamp, or 0, and was sent back with 0.
        let timeless = [(REPLAYS, "1"), (REPLAY_TIMESTAMP, "0")];
        for again in [Timestamp::CreateTime(9000), brokers] {
            assert_eq!(stamped(&timeless, again), Some(0));
            assert_eq!(stamped(&timeless[1..], again), Some(9000), "it was not sent back");
        }
        for none in [
            Timestamp::NotAvailable,
            Timestamp::CreateTime(-1),
            Timestamp::LogAppendTime(-1),
        ] {
            assert_eq!(stamped(&back, none), None);
        }
    }

    #[test]
    fn a_record_that_was_not_sent_back_itself_has_its_own_timestamp() {
        let brokers = Timestamp::LogAppendTime(9000);
        assert_eq!(stamped(&[], brokers), Some(9000));
        assert_eq!(stamped(&[(REPLAY_TIMESTAMP, "5")], brokers), Some(9000));
        // A dead letter of a record that was sent back, in a dead-letter topic that is consumed.
        let letter = [(REPLAYS, "1"), (REPLAY_TIMESTAMP, "5"), (PIPELINE, "a")];
        assert_eq!(stamped(&letter, brokers), Some(9000));
        // The letter itself was sent back.
        let back = [&letter[..], &[(REPLAYS, "2"), (REPLAY_TIMESTAMP, "7")]].concat();
        assert_eq!(stamped(&back, brokers), Some(7));
    }

    #[test]
    fn a_record_that_was_sent_back_does_not_believe_an_absurd_timestamp() {
        let back = added(&[(REPLAYS, "1")]);
        for absurd in [i64::MAX, MAX_RECORD_TIMESTAMP_MS + 1, -1, i64::MIN] {
            assert_eq!(
                write_timestamp(Back::of(&back, "a"), Some(absurd), 5900),
                5900,
                "{absurd}"
            );
        }
        assert_eq!(write_timestamp(Back::of(&back, "a"), None, 5900), 5900);
    }

    proptest! {
        /// Whatever headers and timestamps say, a record that was sent back is not younger than its place in the log makes it.
        #[test]
        fn nothing_becomes_younger_by_its_headers(
            clock in prop_oneof![Just(i64::MIN), 0..1_800_000_000_000_000i64],
            timestamp in prop_oneof![Just(None), any::<i64>().prop_map(Some), (0..1_800_000_000_000i64).prop_map(Some)],
            noted in any::<i64>(),
        ) {
            let given = Ledger::new(None, clock).admit(0, timestamp).unwrap();
            let noted = noted.to_string();
            let headers = added(&[(REPLAYS, "1"), (REPLAY_PIPELINE, "a"), (REPLAY_WRITE_TIMESTAMP, noted.as_str())]);
            prop_assert!((0..=given).contains(&write_timestamp(Back::of(&headers, "a"), timestamp, given)));
        }
    }
}
