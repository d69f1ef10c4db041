//! Kafka seen from outside: topics, their contents, and what groups have committed.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::{Bench, LONG, until};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(20);
/// How long a topic may give nothing while it is read; longer means that something is wrong.
const SILENCE: Duration = Duration::from_secs(60);
/// How long to go on listening to a partition after it has reported its end.
const AT_END: Duration = Duration::from_secs(1);
/// The largest record that is allowed, in bytes: a value of 10 MB with some room.
pub const BIGGEST: &str = "16777216";

/// The broker.
pub struct Kafka {
    /// Bootstrap servers.
    pub brokers: String,
    admin: AdminClient<DefaultClientContext>,
    /// For single records: creating a producer takes half a second.
    sender: OnceLock<BaseProducer>,
    /// One consumer per group. It never subscribes; it only asks for offsets.
    groups: Mutex<HashMap<String, BaseConsumer>>,
}

/// A record, copied out of librdkafka's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; none for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    /// A header's value as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }

    /// Its key and headers, readable.
    pub fn about(&self) -> String {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)));
        format!("{} with {}", self.key_text(), headers.collect::<Vec<_>>().join(", "))
    }

    /// The key as text.
    pub fn key_text(&self) -> &str {
        self.key.as_deref().map_or("", |key| std::str::from_utf8(key).unwrap())
    }
}

/// Repeats the request until brokers answer: a leader or coordinator that has just moved needs another attempt.
fn patiently<T>(what: &str, ask: impl Fn() -> KafkaResult<T>) -> T {
    let began = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(began.elapsed() < LONG, "{what}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Kafka {
    /// Connects on the first use.
    pub fn new(brokers: &str) -> Kafka {
        let admin = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
        Kafka {
            brokers: brokers.to_owned(),
            admin,
            sender: OnceLock::new(),
            groups: Mutex::default(),
        }
    }

    /// A producer that keeps order and takes large values. Its batches are small so that a fetch can be small, too.
    pub fn producer(&self) -> BaseProducer {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("enable.idempotence", "true")
            // After a flush everything must be delivered, so no record may time out meanwhile.
            .set("message.timeout.ms", "0");
        config
            .set("message.max.bytes", BIGGEST)
            .set("queue.buffering.max.messages", "200000");
        config
            .set("linger.ms", "5")
            .set("batch.num.messages", "16")
            .set("compression.type", "lz4");
        config.create().unwrap()
    }

    /// Sends one record and waits until it is delivered.
    pub fn send(&self, record: BaseRecord<'_, [u8], [u8]>) {
        let sender = self.sender.get_or_init(|| self.producer());
        sender.send(record).map_err(|(error, _)| error).unwrap();
        let began = Instant::now();
        // A flush checks only every tenth of a second.
        while sender.in_flight_count() > 0 {
            assert!(began.elapsed() < REQUEST, "a record is not there after {REQUEST:?}");
            sender.poll(Duration::from_millis(1));
        }
    }

    /// Creates topics with this many partitions, the brokers' default replication and room for large records, and waits until they have leaders.
    pub fn create(&self, bench: &Bench, topics: &[&str], partitions: i32) {
        let new: Vec<_> = topics
            .iter()
            .map(|name| NewTopic::new(name, partitions, TopicReplication::Fixed(-1)).set("max.message.bytes", BIGGEST))
            .collect();
        for result in bench
            .wait(self.admin.create_topics(&new, &AdminOptions::new()))
            .unwrap()
        {
            result.unwrap();
        }
        until("the leaders of new topics", LONG, &[], || {
            topics.iter().all(|t| self.partitions(t) == partitions).then_some(())
        });
    }

    /// Creates a topic of one partition on these brokers, the first as leader, and waits until it has one.
    pub fn create_on(&self, bench: &Bench, topic: &str, brokers: &[i32], properties: &[(&str, &str)]) {
        let assignment = [brokers];
        let new = properties.iter().fold(
            NewTopic::new(topic, 1, TopicReplication::Variable(&assignment)),
            |new, (name, value)| new.set(name, value),
        );
        for result in bench
            .wait(self.admin.create_topics([&new], &AdminOptions::new()))
            .unwrap()
        {
            result.unwrap();
        }
        until("the leader of a new topic", LONG, &[], || {
            (self.partitions(topic) == 1).then_some(())
        });
    }

    /// Sets one property of a topic; the others return to their defaults.
    pub fn configure(&self, bench: &Bench, topic: &str, name: &str, value: &str) {
        self.configure_all(bench, topic, &[(name, value)]);
    }

    /// The same for several properties.
    pub fn configure_all(&self, bench: &Bench, topic: &str, properties: &[(&str, &str)]) {
        let unset = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let change = properties
            .iter()
            .fold(unset, |change, (name, value)| change.set(name, value));
        for result in bench
            .wait(self.admin.alter_configs([&change], &AdminOptions::new()))
            .unwrap()
        {
            result.unwrap();
        }
    }

    /// Topics with this prefix. Lists all topics, because brokers would create a topic that is asked for by name.
    pub fn topics(&self, prefix: &str) -> Vec<String> {
        let metadata = patiently("all topics", || self.admin.inner().fetch_metadata(None, REQUEST));
        let names = metadata.topics().iter().map(|t| t.name().to_owned());
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    /// Deletes topics with this prefix.
    pub fn delete_all(&self, bench: &Bench, prefix: &str) {
        let topics = self.topics(prefix);
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        // What could not be deleted does no harm: names are unique.
        let _ = bench.wait(self.admin.delete_topics(&topics, &AdminOptions::new()));
    }

    /// Partitions that have a leader.
    fn partitions(&self, topic: &str) -> i32 {
        let metadata = patiently("the partitions of a topic", || {
            self.admin.inner().fetch_metadata(Some(topic), REQUEST)
        });
        let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
        partitions.filter(|p| p.leader() >= 0).count() as i32
    }

    fn with_group<T>(&self, group: &str, ask: impl FnOnce(&BaseConsumer) -> T) -> T {
        let mut groups = self.groups.lock().unwrap();
        let consumer = groups.entry(group.to_owned()).or_insert_with(|| {
            let mut config = ClientConfig::new();
            config
                .set("bootstrap.servers", &self.brokers)
                .set("group.id", group)
                .set("enable.auto.commit", "false");
            config.create().unwrap()
        });
        ask(consumer)
    }

    /// First offset and end offset of each partition.
    pub fn ends(&self, topic: &str) -> Vec<(i64, i64)> {
        let partitions = self.partitions(topic);
        self.with_group("test-tools", |c| {
            (0..partitions)
                .map(|p| patiently("the ends of a topic", || c.fetch_watermarks(topic, p, REQUEST)))
                .collect()
        })
    }

    /// The group's committed offset of each partition; 0 if it has none.
    pub fn committed(&self, group: &str, topic: &str) -> Vec<i64> {
        let partitions = self.partitions(topic);
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        let list = self.with_group(group, |c| {
            patiently("committed offsets", || c.committed_offsets(list.clone(), REQUEST))
        });
        let offset = |p| match list.find_partition(topic, p).unwrap().offset() {
            Offset::Offset(offset) => offset,
            _ => 0,
        };
        (0..partitions).map(offset).collect()
    }

    /// Commits an offset of a partition for a group without members.
    pub fn commit(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .unwrap();
        self.with_group(group, |c| {
            patiently("a commit", || c.commit(&list, CommitMode::Sync));
        });
    }

    /// Deletes the records of a partition before this offset, as retention does.
    pub fn delete_before(&self, bench: &Bench, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .unwrap();
        let deleted = bench.wait(self.admin.delete_records(&list, &AdminOptions::new()));
        for element in deleted.unwrap().elements() {
            element.error().unwrap();
        }
    }

    /// Number of members of the group.
    pub fn members(&self, group: &str) -> usize {
        self.member_ids(group).len()
    }

    /// The member ids that the coordinator assigned, in order: a member that was removed gets a new one when it rejoins.
    pub fn member_ids(&self, group: &str) -> Vec<String> {
        let list = self.with_group("test-tools", |c| {
            patiently("the members of a group", || c.fetch_group_list(Some(group), REQUEST))
        });
        let members = list.groups().iter().flat_map(|group| group.members());
        let mut ids: Vec<String> = members.map(|member| member.id().to_owned()).collect();
        ids.sort_unstable();
        ids
    }

    /// Number of records that the group has committed, and number of records in the topic. Partitions must begin at 0.
    pub fn progress(&self, group: &str, topic: &str) -> (u64, u64) {
        let committed: i64 = self.committed(group, topic).iter().sum();
        let there: i64 = self.ends(topic).iter().map(|(_, end)| end).sum();
        (committed as u64, there as u64)
    }

    /// All committed records of a topic up to its current end, partition by partition, in order.
    pub fn read(&self, topic: &str) -> Vec<Record> {
        self.read_isolated(topic, "read_committed")
    }

    /// The same, aborted records included.
    pub fn read_uncommitted(&self, topic: &str) -> Vec<Record> {
        self.read_isolated(topic, "read_uncommitted")
    }

    fn read_isolated(&self, topic: &str, isolation: &str) -> Vec<Record> {
        let ends = self.ends(topic);
        let mut list = TopicPartitionList::new();
        let mut open = HashMap::new();
        for (partition, (low, high)) in (0..).zip(ends).filter(|(_, (low, high))| low < high) {
            list.add_partition_offset(topic, partition, Offset::Offset(low))
                .unwrap();
            open.insert(partition, high);
        }
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", "test-tools")
            .set("isolation.level", isolation)
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().unwrap();
        consumer.assign(&list).unwrap();
        let mut records = Vec::new();
        let mut heard = Instant::now();
        let mut trouble = None;
        // Transaction markers may follow the last record, so its offset does not show that the end is reached. A new leader may not know yet how far its
        // partition goes, so a reported end does not count if more records follow within `AT_END`.
        let mut ended: HashMap<i32, Instant> = HashMap::new();
        while !open.is_empty() {
            open.retain(|partition, _| ended.get(partition).is_none_or(|since| since.elapsed() < AT_END));
            assert!(
                heard.elapsed() < SILENCE,
                "{topic}: {} partitions are not read to their end; the last error: {trouble:?}",
                open.len()
            );
            let Some(message) = consumer.poll(Duration::from_millis(200)) else {
                continue;
            };
            let message = match message {
                Ok(message) => message,
                Err(KafkaError::PartitionEOF(partition)) => {
                    ended.insert(partition, Instant::now());
                    continue;
                }
                // A connection to a broker that was just killed breaks; librdkafka opens another one and continues where it was.
                Err(error) => {
                    trouble = Some(error);
                    continue;
                }
            };
            heard = Instant::now();
            ended.remove(&message.partition());
            if open
                .get(&message.partition())
                .is_some_and(|end| message.offset() + 1 >= *end)
            {
                open.remove(&message.partition());
            }
            let headers = message.headers().into_iter().flat_map(|h| h.iter());
            records.push(Record {
                partition: message.partition(),
                offset: message.offset(),
                timestamp: message.timestamp().to_millis().unwrap(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers: headers
                    .map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec()))
                    .collect(),
            });
        }
        records.sort_by_key(|r| (r.partition, r.offset));
        records
    }
}
