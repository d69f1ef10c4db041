//! A producer, and the thread that reads its delivery reports.
//!
//! Why not rdkafka's `ThreadedProducer`: it polls for 100 ms at a time, and librdkafka waits for whole milliseconds, so in the last of them it
//! asks without waiting, again and again. That is up to one per cent of a core for each producer, whether there is anything to do or not.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult};
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

    /// Takes no more statistics: the pipeline is gone, and its thread may poll for another second.
    pub fn close_statistics(&self) {
        self.inner.context().statistics.close();
    }

    /// The fatal error by which librdkafka has given it up, if it has: it takes nothing any more, and another one has to take its place.
    pub fn fatal(&self) -> Option<String> {
        let (code, reason) = self.inner.client().fatal_error()?;
        Some(format!("{code}: {reason}"))
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
        self.inner.purge(PurgeConfig::default().queue().inflight());
    }
}
