//! Collects librdkafka's callbacks, which come inside a poll on the loop's own thread, in a list that the loop reads.
//!
//! Nothing is done inside a callback. In particular the loop answers a rebalance (`assign`, `unassign`) later, when the committed offsets are known
//! or the partitions are drained. Only while the consumer closes, when there is no loop any more, is it answered at once.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{FutureExt, StreamExt};
use rdkafka::bindings::RD_KAFKA_OFFSET_INVALID;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::{self, Statistics};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, TopicPartitionList};

use crate::kafka;
use crate::kafka::login::Logins;
use crate::telemetry::kafka::KafkaMetrics;
use crate::telemetry::limit::Limiter;

/// What a callback said.
#[derive(Debug)]
pub enum Notice {
    /// The group gives these partitions.
    Assigned {
        /// Topic and partition.
        partitions: Vec<(String, i32)>,
        /// Whether the rest of the assignment stays.
        cooperative: bool,
    },
    /// The group takes these partitions.
    Revoked {
        /// Topic and partition.
        partitions: Vec<(String, i32)>,
        /// Whether the rest of the assignment stays.
        cooperative: bool,
        /// Whether they have gone already.
        lost: bool,
    },
    /// The consumer cannot go on.
    Fatal(KafkaError, String),
}

/// What the brokers answered to librdkafka's last request for records of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// None has come.
    None,
    /// An error.
    Error,
    /// Records, or that there are none, and where the partition ends.
    End,
}

/// Where a partition ends and how far librdkafka has fetched it, from its statistics.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// The last answer.
    pub answer: Answer,
    /// The offset behind the last record that can be read, as of the last answer that said so.
    pub end: Option<i64>,
    /// Offsets behind that which no consumer can read yet: a transaction that is still open has one of them, and withholds all.
    pub withheld: i64,
    /// The offset that it fetches from.
    pub next: i64,
    /// Everything up to the end has been fetched, markers of transactions included, which are never delivered.
    pub fetched: bool,
    /// Nothing that was fetched of it waits to be taken: it has come out of the queue, or there was nothing.
    pub passed: bool,
    /// The offset behind what came out of the queue last, markers of transactions included; below 0 where nothing has.
    pub taken: i64,
    /// So many messages of it have come.
    received: u64,
    /// Nothing that was fetched waits to be taken, of any partition: librdkafka has one queue for all that a consumer holds.
    pub queue_empty: bool,
    /// The connection to the broker that leads it is up.
    pub leader_up: bool,
}

impl Extent {
    /// What the statistics say; an error leaves the end as it was known `before`.
    fn of(partition: &statistics::Partition, leader_up: bool, before: Option<&Extent>) -> Extent {
        // The end of committed transactions is what a consumer can reach.
        let end = [partition.ls_offset, partition.hi_offset].into_iter().find(|o| *o >= 0);
        let answer = match (end, partition.hi_offset) {
            (Some(_), _) => Answer::End,
            (None, UNKNOWN_OFFSET) => Answer::None,
            (None, _) => Answer::Error,
        };
        let queue_empty = partition.fetchq_cnt == 0;
        Extent {
            answer,
            end: end.or(before.and_then(|b| b.end)),
            withheld: match end {
                Some(end) => (partition.hi_offset - end).max(0),
                None => before.map_or(0, |b| b.withheld),
            },
            next: partition.next_offset,
            fetched: end.is_some_and(|end| partition.next_offset >= end),
            // A marker that comes out of the queue moves the place of the application like a record. What retention or compaction took away does not:
            // what was passed stays so until more has come.
            passed: queue_empty
                || partition.rxmsgs == 0
                || partition.app_offset >= partition.next_offset
                || before.is_some_and(|b| b.passed && b.received == partition.rxmsgs),
            taken: partition.app_offset,
            received: partition.rxmsgs,
            queue_empty,
            leader_up,
        }
    }
}

/// What librdkafka gives for an offset that it has not learned.
const UNKNOWN_OFFSET: i64 = RD_KAFKA_OFFSET_INVALID as i64;

type Extents = HashMap<(String, i32), Extent>;

/// The context of one consumer.
pub struct SourceContext {
    pipeline: String,
    statistics: KafkaMetrics,
    notices: Mutex<Vec<Notice>>,
    extents: Mutex<Extents>,
    reports: AtomicU64,
    /// Those, and lines of the log: what a poll takes and does not yield.
    heard: AtomicU64,
    waits: AtomicBool,
    closing: AtomicBool,
    logins: Logins,
    brokers: Arc<AtomicUsize>,
    /// Errors that were logged.
    told: Limiter<String>,
}

impl SourceContext {
    /// A context without notices. `brokers` is the most that there were at one time, as far as is known: one that is down is not told of, and comes back.
    pub fn new(pipeline: &str, statistics: KafkaMetrics, logins: Logins, brokers: Arc<AtomicUsize>) -> SourceContext {
        SourceContext {
            pipeline: pipeline.to_owned(),
            statistics,
            notices: Mutex::default(),
            extents: Mutex::default(),
            reports: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            logins,
            brokers,
            told: Limiter::new(kafka::TOLD_EVERY),
        }
    }

    pub(super) fn notice(&self, notice: Notice) {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).push(notice);
    }

    /// Takes what the callbacks said since the last time.
    pub fn take(&self) -> Vec<Notice> {
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The extent of a partition as of the last statistics.
    pub fn extent(&self, topic: &str, partition: i32) -> Option<Extent> {
        let extents = self.extents.lock().unwrap_or_else(PoisonError::into_inner);
        extents.get(&(topic.to_owned(), partition)).copied()
    }

    /// How often librdkafka has reported its statistics: once a second, as long as it is polled and works.
    pub fn reports(&self) -> u64 {
        self.reports.load(Ordering::Relaxed)
    }

    /// Whether the consumer waits for its loop: what is reported meanwhile is not shown, for another consumer of its name may still run.
    pub fn waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Release);
    }

    /// From now on rebalances are answered at once: the loop has ended.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.statistics.close();
    }
}

/// What of `list` is assigned to the consumer. The group may take what it gave while the consumer closed, which took nothing then, and
/// librdkafka refuses to take away what is not there, and with it the whole answer.
pub fn held_of<C: Consumer<SourceContext>>(consumer: &C, list: &TopicPartitionList) -> TopicPartitionList {
    let mut both = TopicPartitionList::new();
    if let Ok(held) = consumer.assignment() {
        for element in held.elements() {
            if list.find_partition(element.topic(), element.partition()).is_some() {
                both.add_partition(element.topic(), element.partition());
            }
        }
    }
    both
}

fn partitions(list: &TopicPartitionList) -> Vec<(String, i32)> {
    list.elements()
        .iter()
        .map(|e| (e.topic().to_owned(), e.partition()))
        .collect()
}

impl ClientContext for SourceContext {
    fn stats(&self, statistics: Statistics) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        self.reports.fetch_add(1, Ordering::Relaxed);
        // The group's coordinator and bootstrap addresses have the id -1, and so has the leader of a partition without one.
        let brokers = || statistics.brokers.values().filter(|broker| broker.nodeid >= 0);
        let known: HashSet<i32> = brokers().map(|broker| broker.nodeid).collect();
        self.brokers.fetch_max(known.len(), Ordering::Relaxed);
        if self.waits.load(Ordering::Acquire) {
            return;
        }
        self.statistics.observe(&statistics);
        let up = brokers().filter(|broker| broker.state == "UP");
        let up: HashSet<i32> = up.map(|broker| broker.nodeid).collect();
        let mut extents = self.extents.lock().unwrap_or_else(PoisonError::into_inner);
        for topic in statistics.topics.values() {
            for partition in topic.partitions.values() {
                // -1 is where records wait that have no partition yet.
                if partition.partition >= 0 {
                    let leader_up = up.contains(&partition.leader);
                    let place = (topic.topic.clone(), partition.partition);
                    let extent = Extent::of(partition, leader_up, extents.get(&place));
                    extents.insert(place, extent);
                }
            }
        }
    }

    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        kafka::log(&self.pipeline, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::log_error(&self.pipeline, &self.told, &error, reason);
        self.logins.refused(&error);
        if kafka::classify(&error) == crate::retry::Class::Fatal {
            self.notice(Notice::Fatal(error, reason.to_owned()));
        }
    }
}

impl ConsumerContext for SourceContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let assigned = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            let answered = match (assigned, cooperative) {
                (true, true) => consumer.incremental_assign(&TopicPartitionList::new()),
                (false, true) => consumer.incremental_unassign(&held_of(consumer, list)),
                (_, false) => consumer.unassign(),
            };
            if let Err(error) = answered {
                tracing::debug!(pipeline = self.pipeline, "while closing: {error}");
            }
            return;
        }
        self.notice(if assigned {
            Notice::Assigned {
                partitions: partitions(list),
                cooperative,
            }
        } else {
            // The binding calls for no other code.
            Notice::Revoked {
                partitions: partitions(list),
                cooperative,
                lost: consumer.assignment_lost(),
            }
        });
    }
}

/// Creates the consumer.
pub fn consumer(config: &ClientConfig, context: SourceContext) -> KafkaResult<StreamConsumer<SourceContext>> {
    rdkafka::config::ClientConfig::create_with_context(config, context)
}

/// Takes all reports that wait for a consumer which has not subscribed, so that no record comes: librdkafka queues one a second, without a bound.
pub fn take_reports(consumer: &StreamConsumer<SourceContext>) {
    let (context, mut stream) = (consumer.context(), consumer.stream());
    // A poll takes one report or line of the log, and yields nothing for it. With `debug` a poll may itself be such a line.
    for _ in 0..10_000 {
        let before = context.heard.load(Ordering::Relaxed);
        if stream.next().now_or_never().is_none() && context.heard.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn partition(hi: i64, next: i64, queue: i64) -> statistics::Partition {
        statistics::Partition {
            ls_offset: hi,
            hi_offset: hi,
            next_offset: next,
            fetchq_cnt: queue,
            ..statistics::Partition::default()
        }
    }

    #[test]
    fn a_partition_without_a_leader_has_none_that_is_up() {
        let metrics = Metrics::new().unwrap();
        let statistics = KafkaMetrics::new(&metrics, "p", "consumer-0");
        let context = SourceContext::new("p", statistics, Logins::default(), Arc::default());
        let broker = |name: &str, nodeid| {
            let broker = statistics::Broker {
                nodeid,
                state: "UP".to_owned(),
                ..statistics::Broker::default()
            };
            (name.to_owned(), broker)
        };
        let led_by = |index: i32, leader| {
            let partition = statistics::Partition {
                partition: index,
                leader,
                ..partition(0, 0, 0)
            };
            (index, partition)
        };
        let topic = statistics::Topic {
            topic: "in".to_owned(),
            partitions: HashMap::from([led_by(0, 1), led_by(1, -1), led_by(2, 2)]),
            ..statistics::Topic::default()
        };
        context.stats(Statistics {
            brokers: HashMap::from([broker("GroupCoordinator", -1), broker("b:9092/1", 1)]),
            topics: HashMap::from([("in".to_owned(), topic)]),
            ..Statistics::default()
        });
        let up = [0, 1, 2].map(|index| context.extent("in", index).unwrap().leader_up);
        assert_eq!(up, [true, false, false]);
    }

    #[test]
    fn the_most_brokers_that_there_were_at_one_time_are_known_by_their_ids() {
        let metrics = Metrics::new().unwrap();
        let statistics = KafkaMetrics::new(&metrics, "p", "consumer-0");
        let brokers = Arc::new(AtomicUsize::new(1));
        let context = SourceContext::new("p", statistics, Logins::default(), brokers.clone());
        let known = |ids: &[i32]| {
            let told = ids.iter().enumerate().map(|(number, id)| {
                let broker = statistics::Broker {
                    nodeid: *id,
                    ..statistics::Broker::default()
                };
                (number.to_string(), broker)
            });
            context.stats(Statistics {
                brokers: told.collect(),
                ..Statistics::default()
            });
            brokers.load(Ordering::Relaxed)
        };
        assert_eq!(known(&[-1, -1]), 1, "it has not connected yet");
        assert_eq!(known(&[-1, 1, 2, 2, 3]), 3);
        assert_eq!(known(&[1, 2]), 3, "what is down comes back");
    }

    #[test]
    fn an_error_leaves_the_end_and_says_so() {
        let never = Extent::of(&partition(UNKNOWN_OFFSET, UNKNOWN_OFFSET, 0), true, None);
        assert_eq!((never.answer, never.end, never.fetched), (Answer::None, None, false));
        let first = Extent::of(&partition(10, 10, 3), true, Some(&never));
        assert_eq!((first.answer, first.end, first.fetched), (Answer::End, Some(10), true));
        assert!(!first.queue_empty);
        assert!(!Extent::of(&partition(10, 9, 0), true, None).fetched);
        let refused = Extent::of(&partition(-1, 10, 0), true, Some(&first));
        assert_eq!(
            (refused.answer, refused.end, refused.fetched),
            (Answer::Error, Some(10), false)
        );
    }

    #[test]
    fn what_waits_in_the_queue_of_all_is_of_a_partition_unless_it_cannot_be() {
        let passed = |app_offset: i64, queue: i64, rxmsgs: u64| {
            let partition = statistics::Partition {
                app_offset,
                rxmsgs,
                ..partition(10, 10, queue)
            };
            Extent::of(&partition, true, None).passed
        };
        assert!(!passed(UNKNOWN_OFFSET, 7, 10) && !passed(9, 7, 10));
        assert!(passed(10, 7, 10), "the last that was fetched has been taken");
        assert!(passed(UNKNOWN_OFFSET, 0, 10), "nothing waits of any");
        assert!(passed(UNKNOWN_OFFSET, 7, 0), "nothing has come of it");
    }

    #[test]
    fn what_was_passed_stays_so_until_more_has_come() {
        let of = |end: i64, rxmsgs: u64, before: Option<&Extent>| {
            let partition = statistics::Partition {
                app_offset: 100,
                rxmsgs,
                // They are of others.
                ..partition(end, end, 7)
            };
            Extent::of(&partition, true, before)
        };
        let read = of(100, 10, None);
        // Retention took what came next, all of it.
        let reset = of(150, 10, Some(&read));
        assert!(read.passed && reset.passed && of(150, 10, Some(&reset)).passed);
        let more = of(151, 11, Some(&reset));
        assert!(!more.passed && !of(151, 11, Some(&more)).passed);
    }

    #[test]
    fn what_an_open_transaction_withholds_is_behind_the_end() {
        let open = statistics::Partition {
            ls_offset: 7,
            ..partition(10, 7, 0)
        };
        let open = Extent::of(&open, true, None);
        assert_eq!((open.end, open.fetched, open.withheld), (Some(7), true, 3));
        let refused = Extent::of(&partition(-1, 7, 0), true, Some(&open));
        assert_eq!(refused.withheld, 3);
        let committed = Extent::of(&partition(11, 7, 0), true, Some(&refused));
        assert_eq!((committed.end, committed.withheld), (Some(11), 0));
        // Of brokers without transactions librdkafka gives the one for the other, and at first neither is known.
        assert_eq!(
            Extent::of(&partition(UNKNOWN_OFFSET, UNKNOWN_OFFSET, 0), true, None).withheld,
            0
        );
    }
}
