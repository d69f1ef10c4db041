//! A consumer that waits for its loop to start.
//!
//! The consumer is created with its pipeline, so that wrong properties end the start. Its loop begins later, after topics, references and the
//! database are available, which may take long. librdkafka queues its reports meanwhile, 10 KiB a second and more, without a bound; this consumes
//! them.
//!
//! Invariant: once the loop has taken the consumer, nothing else polls it, or a record would be lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{Consumer, StreamConsumer};

use crate::source::context::{self, SourceContext};

/// The interval between two drains of the reports.
const EVERY: Duration = Duration::from_secs(1);

/// A consumer whose reports are drained until its loop begins.
pub(super) struct Early {
    consumer: Arc<StreamConsumer<SourceContext>>,
    /// Whether the loop has taken the consumer. Locked while reports are drained.
    taken: Arc<Mutex<bool>>,
}

impl Early {
    /// Starts to drain its reports; it has not subscribed yet.
    pub(super) fn new(consumer: Arc<StreamConsumer<SourceContext>>) -> Early {
        consumer.context().waits(true);
        let taken = Arc::new(Mutex::new(false));
        let (of, given) = (Arc::downgrade(&consumer), taken.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                let given = given.lock().unwrap_or_else(PoisonError::into_inner);
                // If nothing owns the consumer any more, no loop will start.
                match of.upgrade() {
                    Some(consumer) if !*given => context::take_reports(&consumer),
                    _ => return,
                }
            }
        });
        Early { consumer, taken }
    }

    /// Hands the consumer to its loop.
    pub(super) fn take(self) -> Arc<StreamConsumer<SourceContext>> {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.consumer.context().waits(false);
        self.consumer
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;

    use super::*;
    use crate::kafka::login::Logins;
    use crate::telemetry::kafka::KafkaMetrics;
    use crate::telemetry::metrics::Metrics;

    #[tokio::test]
    async fn reports_are_taken_and_not_shown_until_the_loop_begins() {
        let metrics = Metrics::new().unwrap();
        let statistics = KafkaMetrics::new(&metrics, "p", "consumer-0");
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", "127.0.0.1:1")
            .set("group.id", "g")
            .set("statistics.interval.ms", "100");
        let context = SourceContext::new("p", statistics, Logins::default(), Arc::default());
        let early = Early::new(Arc::new(context::consumer(&config, context).unwrap()));
        let reports = || early.consumer.context().reports();
        let some = async {
            while reports() < 15 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), some).await.unwrap();
        let shown = || {
            String::from_utf8(metrics.render())
                .unwrap()
                .contains("messina_kafka_brokers_up{")
        };
        assert!(!shown());

        let consumer = early.take();
        let at_last = consumer.context().reports();
        tokio::time::sleep(EVERY * 2).await;
        assert_eq!(consumer.context().reports(), at_last, "its loop alone polls it");
        context::take_reports(&consumer);
        assert!(consumer.context().reports() > at_last && shown());
    }
}
