//! The range of a replay, and the position of its group in it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::cli::trouble::Trouble;
use crate::kafka::range::{self, ASK, Part};

/// If a partition is silent for this long during the search for its end, the search fails.
const SILENCE: Duration = Duration::from_secs(30);

/// The range to replay: one part per partition. No part is empty.
pub struct Range {
    consumer: BaseConsumer,
    parts: Vec<Part>,
    /// By part: the offset of its last record. Behind it there may be offsets without a record, such as transaction markers.
    last: Vec<i64>,
    /// By part: the number of remaining offsets, if none of their records exists any more; otherwise 0.
    gone: Vec<AtomicI64>,
}

impl Range {
    /// Finds the last record of each part. `consumer` must be in the replay's group and have `enable.partition.eof`.
    ///
    /// # Errors
    /// In words.
    pub fn find(consumer: BaseConsumer, parts: Vec<Part>) -> Result<Range, String> {
        let mut range = Range {
            consumer,
            parts: Vec::new(),
            last: Vec::new(),
            gone: Vec::new(),
        };
        for part in parts {
            if let Some(last) = range.last_of(&part)? {
                range.parts.push(part);
                range.last.push(last);
                range.gone.push(AtomicI64::new(0));
            }
        }
        Ok(range)
    }

    /// By partition: the first offset behind the range.
    pub fn ends(&self) -> HashMap<(String, i32), i64> {
        let ends = self.parts.iter().map(|p| ((p.topic.clone(), p.partition), p.to));
        ends.collect()
    }

    /// The number of offsets from the beginning to the last record, of all parts together.
    pub fn total(&self) -> i64 {
        self.parts
            .iter()
            .zip(&self.last)
            .map(|(part, last)| last + 1 - part.from)
            .sum()
    }

    fn last_of(&self, part: &Part) -> Result<Option<i64>, String> {
        let name = format!("topic {}, partition {}", part.topic, part.partition);
        if part.from >= part.to {
            return Ok(None);
        }
        let mut back = 1;
        loop {
            let from = (part.to - back).max(part.from);
            let found = self.last_since(part, from).map_err(|e| format!("{name}: {e}"))?;
            if found.is_some() || from == part.from {
                return Ok(found);
            }
            back *= 8;
        }
    }

    fn last_since(&self, part: &Part, from: i64) -> Result<Option<i64>, String> {
        self.read(part, from, |offset| offset + 1 == part.to)
    }

    /// Reads a part from an offset. Returns the last record, or the first for which `enough` is true.
    fn read(&self, part: &Part, from: i64, enough: impl Fn(i64) -> bool) -> Result<Option<i64>, String> {
        let in_words = |e: KafkaError| e.to_string();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&part.topic, part.partition, Offset::Offset(from))
            .map_err(in_words)?;
        self.consumer.assign(&list).map_err(in_words)?;
        let (mut last, mut heard) = (None, Instant::now());
        while heard.elapsed() < SILENCE {
            match self.consumer.poll(Duration::from_millis(100)) {
                None => {}
                Some(Err(KafkaError::PartitionEOF(partition))) if partition == part.partition => return Ok(last),
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(in_words(error)),
                Some(Err(_)) => {}
                // Left over from what was fetched for an earlier assignment.
                Some(Ok(message)) if message.partition() != part.partition || message.topic() != part.topic => {}
                Some(Ok(message)) if message.offset() >= part.to => return Ok(last),
                Some(Ok(message)) => {
                    heard = Instant::now();
                    last = Some(message.offset());
                    if enough(message.offset()) {
                        return Ok(last);
                    }
                }
            }
        }
        Err("no records arrive, although its end is not reached".to_owned())
    }

    /// Commits the beginning of each part in which the group has no position yet. Returns how many offsets the group had done before.
    ///
    /// # Errors
    /// If the group has the position of another range, or if it has members and refuses the commit.
    pub fn begin(&self) -> Result<i64, Trouble> {
        let committed = self.committed().map_err(Trouble::Unavailable)?;
        for (part, committed) in self.parts.iter().zip(&committed) {
            if let Some(place) = *committed
                && !self.is_of(part, place).map_err(Trouble::Unavailable)?
            {
                let Part {
                    topic,
                    partition,
                    from,
                    to,
                } = part;
                return Err(Trouble::Usage(format!(
                    "the group stands at offset {place} of topic {topic}, partition {partition}, and the range is {from} to {to}: it is the group of another \
                     range, choose another --group"
                )));
            }
        }
        self.start(&committed).map_err(Trouble::Unavailable)
    }

    /// Whether a group at this position may belong to the part. A replay begins at the part's beginning and does not go beyond its end. A position
    /// before the beginning is possible only if retention or compaction has since deleted everything in between.
    fn is_of(&self, part: &Part, place: i64) -> Result<bool, String> {
        if place >= part.from {
            return Ok(place <= part.to);
        }
        let before = Part {
            to: part.from,
            ..part.clone()
        };
        Ok(self.read(&before, place, |_| true)?.is_none())
    }

    fn start(&self, committed: &[Option<i64>]) -> Result<i64, String> {
        self.consumer.unassign().map_err(|e| e.to_string())?;
        let mut list = TopicPartitionList::new();
        for (part, committed) in self.parts.iter().zip(committed) {
            if committed.is_none() {
                list.add_partition_offset(&part.topic, part.partition, Offset::Offset(part.from))
                    .map_err(|e| e.to_string())?;
            }
        }
        if list.count() > 0 {
            let done = self.consumer.commit(&list, CommitMode::Sync);
            done.map_err(|e| {
                format!("the group refuses the start of the range: {e}; is another replay running in it?")
            })?;
        }
        self.done()
    }

    /// The number of offsets that are done.
    ///
    /// # Errors
    /// In words.
    pub fn done(&self) -> Result<i64, String> {
        let ends = self.parts.iter().zip(&self.last).zip(&self.gone);
        let done = ends.zip(self.committed()?).map(|(((part, last), gone), committed)| {
            let end = last + 1;
            if gone.load(Ordering::Relaxed) > 0 {
                return end - part.from;
            }
            committed.unwrap_or(part.from).clamp(part.from, end) - part.from
        });
        Ok(done.sum())
    }

    /// The number of offsets that count as done although the replay never reached them; see [`Range::look_again`].
    pub fn gone(&self) -> i64 {
        self.gone.iter().map(|gone| gone.load(Ordering::Relaxed)).sum()
    }

    /// Checks whether the rest of each part still exists. If compaction or retention has deleted the last records meanwhile, no record will come
    /// whose commit would complete the part.
    ///
    /// # Errors
    /// In words.
    pub fn look_again(&self) -> Result<(), String> {
        let ends = self.parts.iter().zip(&self.last).zip(&self.gone);
        for (((part, last), gone), committed) in ends.zip(self.committed()?) {
            let next = committed.unwrap_or(part.from).max(part.from);
            // Check parts that were gone before, too: a later commit shows that more of them was done.
            let is_gone = next <= *last && self.read(part, next, |_| true)?.is_none();
            gone.store(if is_gone { last + 1 - next } else { 0 }, Ordering::Relaxed);
        }
        self.consumer.unassign().map_err(|e| e.to_string())
    }

    /// The number of offsets at the beginnings that retention has deleted by now, whether the replay had reached them or not.
    ///
    /// # Errors
    /// In words.
    pub fn taken(&self) -> Result<i64, String> {
        let in_words = |e: KafkaError| e.to_string();
        let mut list = TopicPartitionList::new();
        for part in &self.parts {
            list.add_partition_offset(&part.topic, part.partition, Offset::Beginning)
                .map_err(in_words)?;
        }
        let found = range::offsets(&self.consumer, &list).map_err(in_words)?;
        let taken = self.parts.iter().zip(&self.last).map(|(part, last)| {
            let begin = found.find_partition(&part.topic, part.partition);
            match begin.map(|begin| begin.offset()) {
                Some(Offset::Offset(begin)) => begin.clamp(part.from, last + 1) - part.from,
                _ => 0,
            }
        });
        Ok(taken.sum())
    }

    fn committed(&self) -> Result<Vec<Option<i64>>, String> {
        let mut list = TopicPartitionList::new();
        for part in &self.parts {
            list.add_partition(&part.topic, part.partition);
        }
        let silent = |e: KafkaError| format!("cannot fetch the group's committed offsets: {e}");
        let found = self.consumer.committed_offsets(list, ASK).map_err(silent)?;
        // An unknown position must not be taken for the beginning.
        range::without_error(&found).map_err(silent)?;
        let offset = |part: &Part| match found.find_partition(&part.topic, part.partition)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok(self.parts.iter().map(offset).collect())
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

    use super::*;

    const TOPIC: &str = "t";

    /// Whether the group may begin in a range from this offset on: the number of offsets it has done before, or the error message.
    fn begin(range: &mut Range, from: i64) -> Result<i64, String> {
        range.parts[0].from = from;
        match range.begin() {
            Ok(done) => Ok(done),
            Err(Trouble::Usage(message)) => Err(message),
            Err(error @ (Trouble::Unavailable(_) | Trouble::Config)) => panic!("{error}"),
        }
    }

    /// Offsets 0 to 9, in a group that has done the first `committed` of them.
    fn range(brokers: &str, committed: i64) -> Range {
        let mut client = ClientConfig::new();
        for (name, value) in [
            ("bootstrap.servers", brokers),
            ("group.id", "g"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "earliest"),
        ] {
            client.set(name, value);
        }
        let range = Range {
            consumer: client.create().unwrap(),
            parts: vec![Part {
                topic: TOPIC.to_owned(),
                partition: 0,
                from: 0,
                to: 10,
            }],
            last: vec![9],
            gone: vec![AtomicI64::new(0)],
        };
        commit(&range, committed);
        range
    }

    fn commit(range: &Range, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(TOPIC, 0, Offset::Offset(offset)).unwrap();
        // The group's coordinator may not be known yet.
        let began = Instant::now();
        while let Err(error) = range.consumer.commit(&list, CommitMode::Sync) {
            assert!(began.elapsed() < SILENCE, "{error}");
        }
    }

    fn produce(brokers: &str, count: usize, bytes: usize) {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
        let payload = vec![0_u8; bytes];
        for _ in 0..count {
            let record = BaseRecord::<(), [u8]>::to(TOPIC).partition(0).payload(&payload);
            producer.send(record).map_err(|(error, _)| error).unwrap();
            // Flush each record, so that it is a batch of its own.
            producer.flush(Duration::from_secs(30)).unwrap();
        }
    }

    /// A cluster with this number of records in the topic, and its address.
    fn cluster(records: usize) -> (MockCluster<'static, DefaultProducerContext>, String) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        produce(&brokers, records, 10);
        (cluster, brokers)
    }

    #[test]
    fn a_replay_is_done_where_the_partition_ends_before_its_last_record() {
        let (_cluster, brokers) = cluster(9);
        for (committed, done, gone) in [(5, 5, 0), (9, 10, 1)] {
            let range = range(&brokers, committed);
            assert_eq!((range.done(), range.gone()), (Ok(committed), 0));
            range.look_again().unwrap();
            assert_eq!((range.done(), range.gone()), (Ok(done), gone));
        }
    }

    #[test]
    fn what_was_done_after_all_is_not_gone() {
        let (_cluster, brokers) = cluster(8);
        let range = range(&brokers, 8);
        for (committed, gone) in [(8, 2), (10, 0)] {
            commit(&range, committed);
            range.look_again().unwrap();
            assert_eq!((range.done(), range.gone()), (Ok(10), gone));
        }
    }

    #[test]
    fn a_replay_is_done_where_only_later_records_are_left() {
        let (_cluster, brokers) = cluster(12);
        let range = range(&brokers, 9);
        range.look_again().unwrap();
        assert_eq!((range.done(), range.gone()), (Ok(9), 0), "the last record is there");
        assert_eq!(range.taken(), Ok(0));
        // The mock cluster keeps five megabytes of a partition.
        produce(&brokers, 8, 900_000);
        range.look_again().unwrap();
        assert_eq!((range.done(), range.gone()), (Ok(range.total()), 1));
        assert_eq!(range.taken(), Ok(range.total()), "what was done before as well");
    }

    #[test]
    fn a_group_of_another_range_is_refused() {
        let (_cluster, brokers) = cluster(12);
        for (committed, from, done) in [
            (5, 5, Some(0)),
            (9, 5, Some(4)),
            (10, 5, Some(5)),
            (11, 5, None),
            (3, 5, None),
        ] {
            let mut range = range(&brokers, committed);
            let said = begin(&mut range, from);
            assert_eq!(said.clone().ok(), done, "{committed} from {from}: {said:?}");
            if let Err(message) = said {
                assert!(message.contains(&format!("stands at offset {committed} of topic t, partition 0")));
            }
            assert_eq!(range.committed(), Ok(vec![Some(committed)]), "it stays where it is");
        }
    }

    #[test]
    fn a_group_that_retention_has_overtaken_goes_on() {
        let (_cluster, brokers) = cluster(12);
        let mut range = range(&brokers, 3);
        // The mock cluster keeps five megabytes of a partition.
        produce(&brokers, 8, 900_000);
        let (from, to) = range.consumer.fetch_watermarks(TOPIC, 0, ASK).unwrap();
        assert!(from > 12, "{from}");
        (range.parts[0].to, range.last[0]) = (to, to - 1);
        assert_eq!(begin(&mut range, from), Ok(0));
        let said = begin(&mut range, from + 1);
        assert!(said.is_err(), "there is a record in between: {said:?}");
    }

    #[test]
    fn a_group_that_says_an_error_does_not_stand_at_the_beginning() {
        let (_cluster, brokers) = cluster(1);
        let mut range = range(&brokers, 5);
        range.parts[0].partition = 7;
        let said = range.committed().unwrap_err();
        assert!(
            said.starts_with("cannot fetch the group's committed offsets: "),
            "{said}"
        );
    }
}
