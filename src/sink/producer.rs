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

/// How long the thread polls without looking whether it is still wanted. The time above whole milliseconds is less than a thread takes to wake:
/// when librdkafka returns, it is over.
const POLL: Duration = Duration::from_micros(1_000_020);

/// For one question of who leads a topic.
const ASK: Duration = Duration::from_secs(2);
/// So long librdkafka has to follow the answer, and to report that it does: it reports once a second.
const FOLLOWS: Duration = Duration::from_secs(3);

/// Who leads each partition.
type Leaders = HashMap<(String, i32), i32>;

/// A partition that librdkafka sends to another broker than that which the brokers call its leader, `before` it was
/// told and `after` that.
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

    /// Shows its statistics from now on: a loop has it.
    pub fn show(&self) {
        self.inner.context().shown.store(true, Ordering::Release);
    }

    /// Takes no more statistics: the pipeline is gone, and its thread may poll for another second, or another producer takes its place, and who holds
    /// this one may not notice for long.
    pub fn close_statistics(&self) {
        self.inner.context().statistics.close();
    }

    /// Takes back what no broker has acknowledged, and takes nothing any more. What is on its way to a broker may arrive all the same. The call
    /// does not wait for librdkafka's threads, one of which may be looking up a name.
    pub fn withdraw(&self) {
        let why = self.fatal();
        self.withdraw_because(why.unwrap_or_else(|| "partitions have left with outputs in its queue".to_owned()));
    }

    fn withdraw_because(&self, why: String) {
        // The first reason stays.
        let _ = self.inner.context().over.set(why);
        self.close_statistics();
        self.inner
            .purge(PurgeConfig::default().queue().inflight().non_blocking());
    }

    /// Withdraws it if librdkafka sends outputs to a broker that is not their leader any more, and will for ever. It
    /// takes a leader of a lower epoch for one of before, and a topic that is deleted and created begins with such:
    /// unless it has asked in between, librdkafka (2.12) does not know that it is another one, and the broker of
    /// before refuses what comes. Another producer would know. An outage is none of that: of a partition without a
    /// leader, or by brokers that are away, no other leader is told, and another producer would wait just so; and
    /// where the leader refuses what comes, for want of replicas say, it is the same one. It waits for brokers, and
    /// is called beside loops.
    pub fn withdraw_if_misled(&self) {
        let before = self.leaders();
        if before.is_empty() || self.inner.in_flight_count() == 0 {
            return;
        }
        let told = self.told(&before);
        if misled(&before, &told, &before).is_none() {
            return;
        }
        // It has heard the answer, too, and goes by it where the epoch is not lower.
        let reports = || self.inner.context().reports.load(Ordering::Relaxed);
        let reported = reports();
        std::thread::sleep(FOLLOWS);
        // The first report may be of before the answer. A process that was frozen has none.
        if reports() < reported + 2 {
            return;
        }
        // Any broker may answer, and one that the controller does not reach knows only who led before.
        let again = self.told(&before);
        let told = told
            .into_iter()
            .filter(|(place, leader)| again.get(place) == Some(leader))
            .collect();
        if let Some(why) = misled(&before, &told, &self.leaders()) {
            self.withdraw_because(why);
        }
    }

    /// Whom a broker calls the leaders of the topics of these partitions.
    fn told(&self, of: &Leaders) -> Leaders {
        let topics: BTreeSet<&str> = of.keys().map(|(topic, _)| topic.as_str()).collect();
        let mut told = Leaders::new();
        for topic in topics {
            // Without an answer nothing is known of it.
            let Ok(metadata) = self.inner.client().fetch_metadata(Some(topic), ASK) else {
                continue;
            };
            for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
                told.insert((topic.to_owned(), partition.id()), partition.leader());
            }
        }
        told
    }

    /// Whom librdkafka takes for the leaders, as of its last report.
    fn leaders(&self) -> Leaders {
        let topics = &self.inner.context().topics;
        let topics = topics.lock().unwrap_or_else(PoisonError::into_inner);
        let of_topic = topics.values().flat_map(|topic| {
            let partitions = topic.partitions.values();
            partitions.map(move |partition| ((topic.topic.clone(), partition.partition), partition.leader))
        });
        // -1 is where records wait that have no partition yet.
        of_topic.filter(|((_, partition), _)| *partition >= 0).collect()
    }

    /// Whether it was withdrawn, or is to be. Who hands a record over asks before and after that: what was handed over
    /// meanwhile is to be withdrawn, too.
    pub fn is_withdrawn(&self) -> bool {
        self.inner.context().over.get().is_some()
    }

    /// Why it takes nothing any more, if it does not, and another one has to take its place: it was withdrawn, brokers
    /// refuse its epoch, or librdkafka has given it up by a fatal error.
    pub fn fatal(&self) -> Option<String> {
        if let Some(why) = self.inner.context().over.get() {
            return Some(why.clone());
        }
        let (code, reason) = self.inner.client().fatal_error()?;
        Some(format!("{code}: {reason}"))
    }

    /// Whether librdkafka has given it up because its transactional id has another epoch by now.
    pub fn is_fenced(&self) -> bool {
        self.is_given_up_for(RDKafkaErrorCode::Fenced)
    }

    /// Whether librdkafka has given it up because brokers have no transaction open that it could go on with, or end.
    pub fn has_nothing_open(&self) -> bool {
        self.is_given_up_for(RDKafkaErrorCode::InvalidTransactionalState)
    }

    fn is_given_up_for(&self, why: RDKafkaErrorCode) -> bool {
        let fatal = self.inner.client().fatal_error();
        fatal.is_some_and(|(code, _)| code == why)
    }

    /// Why another one in its place would be given up as it was, if so: the brokers let this client have none.
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

/// What was not delivered comes back at once; the thread ends with its next look, and librdkafka's producer with it.
impl Drop for Producer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.close_statistics();
        // On a loop's thread, it may be, which does not wait for one that looks up a name.
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
