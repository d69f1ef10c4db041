//! What a dead letter says of itself: the names of its headers, and how they are read back.
//!
//! The writer puts its headers behind the record's own, and begins with [`PIPELINE`]. So the last [`PIPELINE`] parts the two, even
//! where a dead letter was consumed and became a dead letter again.

/// Begins the names of all headers of ours.
const OURS: &str = "messina.";
/// The pipeline that gave the record up.
pub const PIPELINE: &str = "messina.pipeline";
/// The record's topic.
pub const TOPIC: &str = "messina.topic";
/// Its partition.
pub const PARTITION: &str = "messina.partition";
/// Its offset.
pub const OFFSET: &str = "messina.offset";
/// Its timestamp, milliseconds since 1970.
pub const TIMESTAMP: &str = "messina.timestamp";
/// The step that it failed in.
pub const STEP: &str = "messina.step";
/// The class of the failure.
pub const CLASS: &str = "messina.class";
/// The failure in one word.
pub const REASON: &str = "messina.reason";
/// The failure in words.
pub const MESSAGE: &str = "messina.message";
/// How often it was tried.
pub const ATTEMPTS: &str = "messina.attempts";
/// The id of its schema.
pub const SCHEMA_ID: &str = "messina.schema_id";
/// How often the record was sent back from a dead-letter topic. Not the writer's: a replay sets it, and it stays with the record.
pub const REPLAYS: &str = "messina.replays";

/// A header: name and value.
pub type Header = (String, Option<Vec<u8>>);

/// A dead letter, apart from key and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The pipeline that gave the record up.
    pub pipeline: String,
    /// The record's topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, milliseconds since 1970, if it had one.
    pub timestamp_ms: Option<i64>,
    /// The step that it failed in, if it was in one.
    pub step: Option<String>,
    /// The class of the failure.
    pub class: String,
    /// The failure in one word.
    pub reason: String,
    /// The failure in words.
    pub message: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The id of its schema, as far as it could be read.
    pub schema_id: Option<u32>,
    /// How often it was sent back already. A count that cannot be read is the highest: whoever guards against loops refuses it.
    pub replays: u32,
    /// The record's own headers, in order.
    pub headers: Vec<Header>,
}

impl Letter {
    /// Reads the headers of a record; none where it is no dead letter of Messina's.
    pub fn read(headers: &[Header]) -> Option<Letter> {
        let begin = headers.iter().rposition(|(name, _)| name == PIPELINE)?;
        let (before, from_here) = headers.split_at(begin);
        let text = |name: &str| {
            let (_, value) = from_here.iter().find(|(n, _)| n == name)?;
            std::str::from_utf8(value.as_deref()?).ok()
        };
        let owned = |name: &str| text(name).unwrap_or_default().to_owned();
        let replays = before
            .iter()
            .rfind(|(name, _)| name == REPLAYS)
            .map_or(0, |(_, value)| {
                let text = value.as_deref().and_then(|v| std::str::from_utf8(v).ok());
                text.and_then(|text| text.parse().ok()).unwrap_or(u32::MAX)
            });
        // What came behind ours was put there on the way, by a tool that copies topics.
        let behind = from_here.iter().filter(|(name, _)| !name.starts_with(OURS));
        let own = before.iter().filter(|(name, _)| name != REPLAYS).chain(behind);
        Some(Letter {
            pipeline: owned(PIPELINE),
            topic: text(TOPIC)?.to_owned(),
            partition: text(PARTITION)?.parse().ok()?,
            offset: text(OFFSET)?.parse().ok()?,
            timestamp_ms: text(TIMESTAMP).and_then(|t| t.parse().ok()),
            step: text(STEP).map(str::to_owned),
            class: owned(CLASS),
            reason: owned(REASON),
            message: owned(MESSAGE),
            attempts: text(ATTEMPTS).and_then(|a| a.parse().ok()).unwrap_or(1),
            schema_id: text(SCHEMA_ID).and_then(|id| id.parse().ok()),
            replays,
            headers: own.cloned().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> Vec<Header> {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), Some(value.as_bytes().to_vec())))
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
}
