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

/// What a callback reported.
#[derive(Debug)]
pub enum Notice {
    /// The group assigns these partitions.
    Assigned {
        /// Topic and partition.
        partitions: Vec<(String, i32)>,
        /// Whether the rest of the assignment stays.
        cooperative: bool,
    },
    /// The group revokes these partitions.
    Revoked {
        /// Topic and partition.
        partitions: Vec<(String, i32)>,
        /// Whether the rest of the assignment stays.
        cooperative: bool,
        /// Whether they were lost: others may have them already.
        lost: bool,
    },
    /// The consumer cannot go on.
    Fatal(KafkaError, String),
}

/// The brokers' answer to librdkafka's last fetch of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// No answer yet.
    None,
    /// An error.
    Error,
    /// Records or none, and the end of the partition.
    End,
}

/// Where a partition ends and how far librdkafka has fetched it, from its statistics.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// The last answer.
    pub answer: Answer,
    /// The offset after the last record that can be read, as of the last answer that contained it.
    pub end: Option<i64>,
    /// Number of offsets after the end that no consumer can read yet: one of them belongs to an open transaction, which withholds them all.
    pub withheld: i64,
    /// The offset that it fetches next.
    pub next: i64,
    /// Everything up to the end has been fetched, including transaction markers, which are never delivered.
    pub fetched: bool,
    /// No fetched record of this partition waits to be taken: all have come out of the queue, or there were none.
    pub passed: bool,
    /// The offset after the last one that came out of the queue, including transaction markers; below 0 if none has.
    pub taken: i64,
    /// Number of messages received from it.
    received: u64,
    /// No fetched record of any partition waits to be taken: librdkafka has one queue for all partitions of a consumer.
    pub queue_empty: bool,
    /// The connection to its leader is up.
    pub leader_up: bool,
}

impl Extent {
    /// The extent according to the statistics. After an error, the end stays as it was `before`.
    fn of(partition: &statistics::Partition, leader_up: bool, before: Option<&Extent>) -> Extent {
        // A consumer can read up to the end of committed transactions (the last stable offset).
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
            // A transaction marker that comes out of the queue advances the application's offset like a record, but records removed by retention or
            // compaction do not. So a partition stays `passed` until more messages have been received.
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

/// librdkafka's value for an unknown offset.
const UNKNOWN_OFFSET: i64 = RD_KAFKA_OFFSET_INVALID as i64;

type Extents = HashMap<(String, i32), Extent>;

/// The context of one consumer.
pub struct SourceContext {
    pipeline: String,
    statistics: KafkaMetrics,
    notices: Mutex<Vec<Notice>>,
    extents: Mutex<Extents>,
    reports: AtomicU64,
    /// Reports and log lines: what a poll handles without yielding a message.
    heard: AtomicU64,
    waits: AtomicBool,
    closing: AtomicBool,
    logins: Logins,
    brokers: Arc<AtomicUsize>,
    /// Limits how often the same error is logged.
    told: Limiter<String>,
}

impl SourceContext {
    /// A context without notices. `brokers` is the largest number of brokers known at one time: one that is down is not reported, but comes back.
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

    /// Takes what the callbacks reported since the last call.
    pub fn take(&self) -> Vec<Notice> {
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The extent of a partition as of the last statistics.
    pub fn extent(&self, topic: &str, partition: i32) -> Option<Extent> {
        let extents = self.extents.lock().unwrap_or_else(PoisonError::into_inner);
        extents.get(&(topic.to_owned(), partition)).copied()
    }

    /// How often librdkafka has reported its statistics: once a second while it is polled and works.
    pub fn reports(&self) -> u64 {
        self.reports.load(Ordering::Relaxed)
    }

    /// Sets whether the consumer waits for its loop. Meanwhile its statistics are not shown, because another consumer of the same name may still run.
    pub fn waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Release);
    }

    /// The loop has ended: from now on rebalances are answered at once.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.statistics.close();
    }
}

/// The partitions of `list` that are assigned to the consumer. A closing consumer does not take what the group assigns to it, but the group may revoke
/// that again. librdkafka refuses to unassign a partition that is not assigned, and with it the whole answer.
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
        // The group's coordinator and bootstrap addresses have the id -1, as has the leader of a partition without one.
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
                // Partition -1 holds records without a partition.
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
            // The binding calls this for no other code.
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

/// Takes all pending reports of a consumer that has not subscribed, and thus receives no records: librdkafka queues one report a second, without a bound.
pub fn take_reports(consumer: &StreamConsumer<SourceContext>) {
    let (context, mut stream) = (consumer.context(), consumer.stream());
    // A poll handles one report or log line and yields nothing for it. With `debug`, a poll may itself log a line, hence the bound.
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
                // These belong to other partitions.
                ..partition(end, end, 7)
            };
            Extent::of(&partition, true, before)
        };
        let read = of(100, 10, None);
        // Retention deleted all that came next.
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
        // With brokers that lack transactions, librdkafka uses one offset for both; at first neither is known.
        assert_eq!(
            Extent::of(&partition(UNKNOWN_OFFSET, UNKNOWN_OFFSET, 0), true, None).withheld,
            0
        );
    }
}
