//! A producer, and the thread that reads its delivery reports.
//!
//! rdkafka's `ThreadedProducer` is not used: it polls for 100 ms at a time, and librdkafka waits for whole milliseconds, so in the last of them it
//! polls in a busy loop. That is up to one per cent of a core per producer, even when idle.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _, PurgeConfig};

use super::SinkContext;

/// How long the thread polls before it checks whether to stop. The fraction above whole milliseconds is less than a thread takes to wake, so it has
/// passed when librdkafka returns, and there is no busy loop.
const POLL: Duration = Duration::from_micros(1_000_020);

/// Time-out of one metadata request for the leaders of a topic.
const ASK: Duration = Duration::from_secs(2);
/// How long librdkafka gets to act on the answer and to report it; it reports once a second.
const FOLLOWS: Duration = Duration::from_secs(3);

/// The leader of each partition.
type Leaders = HashMap<(String, i32), i32>;

/// Finds a partition that librdkafka sends to another broker than the leader that the brokers name. `before` and `after`
/// are librdkafka's leaders before and after it received the answer `told`.
fn misled(before: &Leaders, told: &Leaders, after: &Leaders) -> Option<String> {
    told.iter().find_map(|(place, leader)| {
        let (held, now) = (before.get(place)?, after.get(place)?);
        (*leader >= 0 && held == now && now != leader).then(|| {
            let (topic, partition) = place;
            format!(
                "broker {leader} leads {topic}/{partition}, and librdkafka keeps to broker {held}, as after the topic \
                 was deleted and created"
            )
        })
    })
}

/// The producer of one pipeline.
pub struct Producer {
    inner: Arc<BaseProducer<SinkContext>>,
    stop: Arc<AtomicBool>,
}

impl Producer {
    /// Connects, and starts the thread.
    pub(super) fn start(config: &ClientConfig, context: SinkContext) -> KafkaResult<Producer> {
        let inner: Arc<BaseProducer<_>> = Arc::new(config.create_with_context(context)?);
        let stop = Arc::new(AtomicBool::new(false));
        let (polled, stopped) = (inner.clone(), stop.clone());
        std::thread::Builder::new()
            .name("deliveries".to_owned())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    polled.poll(POLL);
                }
            })
            .map_err(|error| KafkaError::ClientCreation(format!("no thread for delivery reports: {error}")))?;
        Ok(Producer { inner, stop })
    }

    /// Shows its statistics from now on, because a loop uses it.
    pub fn show(&self) {
        self.inner.context().shown.store(true, Ordering::Release);
    }

    /// Ignores statistics from now on. Either the pipeline is gone, and the thread may poll for another second; or another producer takes over, and
    /// holders of this one may not notice for long.
    pub fn close_statistics(&self) {
        self.inner.context().statistics.close();
    }

    /// Takes back what no broker has acknowledged, and accepts nothing more. What is in flight to a broker may still arrive. The call does not wait for
    /// librdkafka's threads, one of which may be resolving a host name.
    pub fn withdraw(&self) {
        let why = self.fatal();
        self.withdraw_because(why.unwrap_or_else(|| "partitions have left with outputs in its queue".to_owned()));
    }

    fn withdraw_because(&self, why: String) {
        // The first reason is kept.
        let _ = self.inner.context().over.set(why);
        self.close_statistics();
        self.inner
            .purge(PurgeConfig::default().queue().inflight().non_blocking());
    }

    /// Withdraws the producer if librdkafka will forever send outputs to a broker that is no longer their leader.
    ///
    /// librdkafka ignores a leader with a lower epoch as outdated, and a topic that is deleted and created starts with low
    /// epochs. Unless it happened to ask in between, librdkafka (2.12) does not notice that it is a new topic, and the old
    /// broker refuses what it receives. A new producer would know the new leader.
    ///
    /// An outage does not count: if a partition has no leader or its brokers are down, no other leader is named, and a new
    /// producer would wait just the same. If the leader refuses what it receives, for example because replicas are missing,
    /// librdkafka already sends to it. The call waits for brokers, so it is made beside the loops.
    pub fn withdraw_if_misled(&self) {
        let before = self.leaders();
        if before.is_empty() || self.inner.in_flight_count() == 0 {
            return;
        }
        let told = self.told(&before);
        if misled(&before, &told, &before).is_none() {
            return;
        }
        // librdkafka received the answer too, and follows it unless the epoch is lower.
        let reports = || self.inner.context().reports.load(Ordering::Relaxed);
        let reported = reports();
        std::thread::sleep(FOLLOWS);
        // The first report may date from before the answer. A process that was frozen has none.
        if reports() < reported + 2 {
            return;
        }
        // Any broker may answer, and one that the controller does not reach only knows the previous leader.
        let again = self.told(&before);
        let told = told
            .into_iter()
            .filter(|(place, leader)| again.get(place) == Some(leader))
            .collect();
        if let Some(why) = misled(&before, &told, &self.leaders()) {
            self.withdraw_because(why);
        }
    }

    /// The leaders that a broker names for the topics of these partitions.
    fn told(&self, of: &Leaders) -> Leaders {
        let topics: BTreeSet<&str> = of.keys().map(|(topic, _)| topic.as_str()).collect();
        let mut told = Leaders::new();
        for topic in topics {
            // Without an answer nothing is known about the topic.
            let Ok(metadata) = self.inner.client().fetch_metadata(Some(topic), ASK) else {
                continue;
            };
            for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
                told.insert((topic.to_owned(), partition.id()), partition.leader());
            }
        }
        told
    }

    /// The leaders that librdkafka assumes, as of its last statistics report.
    fn leaders(&self) -> Leaders {
        let topics = &self.inner.context().topics;
        let topics = topics.lock().unwrap_or_else(PoisonError::into_inner);
        let of_topic = topics.values().flat_map(|topic| {
            let partitions = topic.partitions.values();
            partitions.map(move |partition| ((topic.topic.clone(), partition.partition), partition.leader))
        });
        // Partition -1 holds the records that have no partition yet.
        of_topic.filter(|((_, partition), _)| *partition >= 0).collect()
    }

    /// Whether it was withdrawn, or is being withdrawn. Callers check before and after they hand a record over: one that
    /// was handed over in between has to be withdrawn, too.
    pub fn is_withdrawn(&self) -> bool {
        self.inner.context().over.get().is_some()
    }

    /// Why it accepts nothing more and another producer has to take its place, if so: it was withdrawn, brokers refuse its
    /// epoch, or librdkafka gave it up with a fatal error.
    pub fn fatal(&self) -> Option<String> {
        if let Some(why) = self.inner.context().over.get() {
            return Some(why.clone());
        }
        let (code, reason) = self.inner.client().fatal_error()?;
        Some(format!("{code}: {reason}"))
    }

    /// Whether librdkafka gave it up because its transactional id has a newer epoch.
    pub fn is_fenced(&self) -> bool {
        self.is_given_up_for(RDKafkaErrorCode::Fenced)
    }

    /// Whether librdkafka gave it up because the brokers have no open transaction for it to continue or end.
    pub fn has_nothing_open(&self) -> bool {
        self.is_given_up_for(RDKafkaErrorCode::InvalidTransactionalState)
    }

    fn is_given_up_for(&self, why: RDKafkaErrorCode) -> bool {
        let fatal = self.inner.client().fatal_error();
        fatal.is_some_and(|(code, _)| code == why)
    }

    /// Why a new producer would be given up like this one, if so: the brokers allow this client none.
    pub fn denied(&self) -> Option<String> {
        let (code, reason) = self.inner.client().fatal_error()?;
        (code == RDKafkaErrorCode::ClusterAuthorizationFailed).then(|| {
            format!(
                "{code}: {reason}; the login may write to no topic, or, with brokers before 2.8, has not the right IdempotentWrite on the cluster: \
                 grant it, and restart or send SIGHUP"
            )
        })
    }
}

impl Deref for Producer {
    type Target = BaseProducer<SinkContext>;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

/// Undelivered records come back at once. The thread ends at its next check, and librdkafka's producer with it.
impl Drop for Producer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.close_statistics();
        // This may run on a loop's thread, which must not wait for a thread that is resolving a host name.
        self.inner
            .purge(PurgeConfig::default().queue().inflight().non_blocking());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn librdkafka_is_misled_where_it_keeps_to_a_leader_of_before_though_it_was_told_another() {
        let leads = |leader: i32| Leaders::from([(("out".to_owned(), 0), leader)]);
        let misled = |before, told, after| misled(&leads(before), &leads(told), &leads(after)).is_some();
        assert!(misled(1, 2, 1));
        assert!(misled(-1, 2, -1), "it knows of none");
        assert!(!misled(1, 1, 1), "the broker refuses what comes, and is the leader");
        assert!(!misled(1, 2, 2), "it follows");
        assert!(!misled(1, 1, 2), "another one leads since");
        assert!(!misled(1, -1, 1), "none leads");
        let nobody_says = super::misled(&leads(1), &Leaders::new(), &leads(1));
        assert_eq!(nobody_says, None);
    }
}
