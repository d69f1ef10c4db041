//! A producer, and the thread that reads its delivery reports.
//!
//! Why not rdkafka's `ThreadedProducer`: it polls for 100 ms at a time, and librdkafka waits for whole milliseconds, so in the last of them it
//! asks without waiting, again and again. That is up to one per cent of a core for each producer, whether there is anything to do or not.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _, PurgeConfig};

use super::SinkContext;

/// How long the thread polls without looking whether it is still wanted. The time above whole milliseconds is less than a thread takes to wake:
/// when librdkafka returns, it is over.
const POLL: Duration = Duration::from_micros(1_000_020);

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
        let why = why.unwrap_or_else(|| "partitions have left with outputs in its queue".to_owned());
        // The first reason stays.
        let _ = self.inner.context().over.set(why);
        self.close_statistics();
        self.inner
            .purge(PurgeConfig::default().queue().inflight().non_blocking());
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
