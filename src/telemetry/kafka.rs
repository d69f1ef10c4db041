//! librdkafka's own metrics, from its statistics.
//!
//! librdkafka reports totals since the client was created, or since it knows a broker, while Prometheus counters only grow. A new client starts at
//! zero again, so each total is remembered and its growth is added. Totals over brokers are followed per broker, because librdkafka forgets one that
//! is down and creates it anew when it comes back, and a sum would fall. Meaning of the fields: librdkafka's `STATISTICS.md`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{IntCounter, IntGauge};
use rdkafka::Statistics;
use rdkafka::statistics::{Broker, Partition};

use super::metrics::Metrics;

/// The metrics of one client. Its statistics callback calls [`KafkaMetrics::observe`].
pub struct KafkaMetrics {
    metrics: Arc<Metrics>,
    pipeline: String,
    client: String,
    fetch_queue_records: IntGauge,
    fetch_queue_bytes: IntGauge,
    producer_queue_records: IntGauge,
    producer_queue_bytes: IntGauge,
    counted: Mutex<Counted>,
}

struct Counted {
    transmitted: Total,
    received: Total,
    requests: Total,
    failures: Total,
    disconnects: Total,
    brokers: HashSet<String>,
    /// Whether there was a report.
    reported: bool,
    closed: bool,
}

/// A counter that follows totals kept elsewhere, one per broker.
struct Total {
    counter: IntCounter,
    last: HashMap<String, u64>,
}

impl Total {
    fn new(counter: IntCounter) -> Self {
        Self {
            counter,
            last: HashMap::new(),
        }
    }

    fn follow(&mut self, statistics: &Statistics, of: impl Fn(&Broker) -> u64) {
        let before = std::mem::take(&mut self.last);
        for (name, broker) in &statistics.brokers {
            // While librdkafka recreates a broker, two have the same id. The larger total is that of the old one, which was followed so far.
            let total = self.last.entry(identity(name, broker)).or_default();
            *total = of(broker).max(*total);
        }
        for (broker, total) in &self.last {
            let last = before.get(broker).copied().unwrap_or(0);
            // The total fell, so it has started again from zero.
            self.counter.inc_by(total.checked_sub(last).unwrap_or(*total));
        }
    }
}

/// Identifies a broker as long as librdkafka counts for it. This is its id, because its address may change. A bootstrap address and the group's
/// coordinator have no id, and are identified by name.
fn identity(name: &str, broker: &Broker) -> String {
    if broker.nodeid >= 0 {
        broker.nodeid.to_string()
    } else {
        name.to_owned()
    }
}

impl KafkaMetrics {
    /// Resolves the series of one client of a pipeline: `producer` or `consumer-N`.
    pub fn new(metrics: &Arc<Metrics>, pipeline: &str, client: &str) -> Self {
        let (m, labels) = (metrics, [pipeline, client]);
        Self {
            fetch_queue_records: m.kafka_fetch_queue_records.of(labels),
            fetch_queue_bytes: m.kafka_fetch_queue_bytes.of(labels),
            producer_queue_records: m.kafka_producer_queue_records.of(labels),
            producer_queue_bytes: m.kafka_producer_queue_bytes.of(labels),
            counted: Mutex::new(Counted {
                transmitted: Total::new(m.kafka_transmitted_bytes_total.of(labels)),
                received: Total::new(m.kafka_received_bytes_total.of(labels)),
                requests: Total::new(m.kafka_requests_total.of(labels)),
                failures: Total::new(m.kafka_request_failures_total.of(labels)),
                disconnects: Total::new(m.kafka_disconnects_total.of(labels)),
                brokers: HashSet::new(),
                reported: false,
                closed: false,
            }),
            metrics: Arc::clone(metrics),
            pipeline: pipeline.to_owned(),
            client: client.to_owned(),
        }
    }

    /// Accepts no more reports: a late one must not recreate the series of a pipeline that is gone. The last values for queues and brokers are no
    /// longer true, so they are cleared. If another client has taken this one's place, its next report sets them again.
    pub fn close(&self) {
        let mut counted = self.counted();
        if std::mem::replace(&mut counted.closed, true) || !counted.reported {
            return;
        }
        let queues = [
            &self.fetch_queue_records,
            &self.fetch_queue_bytes,
            &self.producer_queue_records,
            &self.producer_queue_bytes,
        ];
        queues.iter().for_each(|queue| queue.set(0));
        self.metrics.kafka_brokers_up.forget([&self.pipeline, &self.client]);
        let brokers = std::mem::take(&mut counted.brokers);
        self.forget_round_trips(&brokers);
    }

    fn forget_round_trips<'a>(&self, brokers: impl IntoIterator<Item = &'a String>) {
        for broker in brokers {
            let labels = [&*self.pipeline, &*self.client, broker.as_str()];
            self.metrics.kafka_broker_rtt_mean_seconds.forget(labels);
            self.metrics.kafka_broker_rtt_p99_seconds.forget(labels);
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Processes one report, which comes every `statistics.interval.ms`.
    pub fn observe(&self, statistics: &Statistics) {
        let mut counted = self.counted();
        if counted.closed {
            return;
        }
        counted.reported = true;
        let partitions = || statistics.topics.values().flat_map(|t| t.partitions.values());
        // All assigned partitions share one queue, and each reports its size.
        let largest = |of: fn(&Partition) -> i64| partitions().map(of).max().unwrap_or(0);
        self.fetch_queue_records.set(largest(|p| p.fetchq_cnt));
        self.fetch_queue_bytes.set(largest(|p| clamp(p.fetchq_size)));
        self.producer_queue_records.set(clamp(statistics.msg_cnt));
        self.producer_queue_bytes.set(clamp(statistics.msg_size));

        // A bootstrap address and the group's coordinator have the id -1: they are the same servers under other names. A client connects to brokers
        // by id only when it needs them, so one that has nothing to fetch or publish may have only these connections.
        let brokers = || statistics.brokers.values();
        let up = |by_id: bool| {
            brokers()
                .filter(|b| (b.nodeid >= 0) == by_id && b.state == "UP")
                .count() as i64
        };
        // The series is looked up each time, so that it does not exist before the client's first report. Otherwise a client that is not polled yet
        // would look disconnected.
        self.metrics
            .kafka_brokers_up
            .of([&self.pipeline, &self.client])
            .set(up(true).max(up(false).min(1)));
        counted.transmitted.follow(statistics, |b| b.txbytes);
        counted.received.follow(statistics, |b| b.rxbytes);
        counted.requests.follow(statistics, |b| b.tx);
        counted.failures.follow(statistics, |b| b.txerrs + b.req_timeouts);
        counted
            .disconnects
            .follow(statistics, |b| b.disconnects.unwrap_or(0).max(0).unsigned_abs());

        let mut seen = HashSet::new();
        for broker in brokers().filter(|b| b.nodeid >= 0) {
            let Some(rtt) = broker.rtt.as_ref().filter(|rtt| rtt.cnt > 0) else {
                continue;
            };
            let id = broker.nodeid.to_string();
            let labels = [&*self.pipeline, &*self.client, &*id];
            self.metrics
                .kafka_broker_rtt_mean_seconds
                .of(labels)
                .set(rtt.avg as f64 / 1e6);
            self.metrics
                .kafka_broker_rtt_p99_seconds
                .of(labels)
                .set(rtt.p99 as f64 / 1e6);
            seen.insert(id);
        }
        // A broker without a round trip in this interval has no series, rather than its old value.
        self.forget_round_trips(counted.brokers.difference(&seen));
        counted.brokers = seen;
    }
}

fn clamp(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::statistics::{Topic, Window};

    fn report(txbytes: u64, rtt: Option<i64>) -> Statistics {
        let rtt = rtt.map(|micros| Window {
            avg: micros,
            p99: 2 * micros,
            cnt: 5,
            ..Window::default()
        });
        let broker = Broker {
            nodeid: 3,
            state: "UP".into(),
            txbytes,
            txerrs: 1,
            req_timeouts: 1,
            rtt,
            ..Broker::default()
        };
        let bootstrap = Broker {
            nodeid: -1,
            state: "UP".into(),
            ..Broker::default()
        };
        let brokers = [
            ("a:9092/3".to_owned(), broker),
            ("a:9092/bootstrap".to_owned(), bootstrap),
        ];
        Statistics {
            msg_cnt: 7,
            brokers: brokers.into(),
            ..Statistics::default()
        }
    }

    #[test]
    fn a_client_that_needs_no_broker_by_its_id_is_connected() {
        let metrics = Metrics::new().unwrap();
        let kafka = KafkaMetrics::new(&metrics, "p", "producer");
        let broker = |nodeid, state: &str| Broker {
            nodeid,
            state: state.into(),
            ..Broker::default()
        };
        let up = |states: [(i32, &str); 4]| {
            let named = states.iter().enumerate();
            kafka.observe(&Statistics {
                brokers: named
                    .map(|(n, (id, state))| (n.to_string(), broker(*id, state)))
                    .collect(),
                ..Statistics::default()
            });
            metrics.kafka_brokers_up.of(["p", "producer"]).get()
        };
        assert_eq!(up([(-1, "UP"), (-1, "UP"), (1, "INIT"), (2, "INIT")]), 1);
        assert_eq!(up([(-1, "UP"), (-1, "UP"), (1, "UP"), (2, "UP")]), 2);
        assert_eq!(up([(-1, "DOWN"), (-1, "INIT"), (1, "UP"), (2, "DOWN")]), 1);
        assert_eq!(up([(-1, "DOWN"), (-1, "CONNECT"), (1, "INIT"), (2, "DOWN")]), 0);
    }

    #[test]
    fn the_queue_of_all_partitions_is_counted_once() {
        let metrics = Metrics::new().unwrap();
        let kafka = KafkaMetrics::new(&metrics, "p", "consumer");
        let said = |records, bytes| Partition {
            fetchq_cnt: records,
            fetchq_size: bytes,
            ..Partition::default()
        };
        // One partition is not assigned.
        let partitions = [(0, said(7, 700)), (1, said(7, 700)), (2, said(0, 0))];
        let topic = Topic {
            partitions: partitions.into(),
            ..Topic::default()
        };
        kafka.observe(&Statistics {
            topics: [("t".to_owned(), topic)].into(),
            ..Statistics::default()
        });
        assert_eq!(
            (kafka.fetch_queue_records.get(), kafka.fetch_queue_bytes.get()),
            (7, 700)
        );
    }

    #[test]
    fn totals_grow_through_a_new_client_and_old_round_trips_go() {
        let metrics = Metrics::new().unwrap();
        let kafka = KafkaMetrics::new(&metrics, "p", "producer");
        kafka.observe(&report(100, Some(1500)));
        kafka.observe(&report(150, Some(1500)));
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(
            text.contains(r#"messina_kafka_transmitted_bytes_total{client="producer",pipeline="p"} 150"#),
            "{text}"
        );
        assert!(
            text.contains(r#"messina_kafka_broker_rtt_p99_seconds{broker="3",client="producer",pipeline="p"} 0.003"#)
        );
        assert!(text.contains(r#"messina_kafka_brokers_up{client="producer",pipeline="p"} 1"#));
        assert!(text.contains(r#"messina_kafka_request_failures_total{client="producer",pipeline="p"} 2"#));
        kafka.observe(&report(30, None));
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(text.contains(r#"messina_kafka_transmitted_bytes_total{client="producer",pipeline="p"} 180"#));
        assert!(!text.contains("messina_kafka_broker_rtt_p99_seconds{"));
    }

    #[test]
    fn a_broker_that_librdkafka_forgets_takes_nothing_from_the_totals_and_is_counted_once_by_its_id() {
        let metrics = Metrics::new().unwrap();
        let kafka = KafkaMetrics::new(&metrics, "p", "consumer-0");
        let received = |brokers: &[(&str, i32, u64)]| {
            let brokers = brokers.iter().map(|(name, nodeid, rxbytes)| {
                let broker = Broker {
                    nodeid: *nodeid,
                    rxbytes: *rxbytes,
                    ..Broker::default()
                };
                ((*name).to_owned(), broker)
            });
            kafka.observe(&Statistics {
                brokers: brokers.collect(),
                ..Statistics::default()
            });
            metrics.kafka_received_bytes_total.of(["p", "consumer-0"]).get()
        };
        assert_eq!(received(&[("a:9092/bootstrap", -1, 7)]), 7);
        // The first report with brokers no longer has the bootstrap address. The brokers are counted separately from it.
        assert_eq!(received(&[("a/1", 1, 100), ("b/2", 2, 100), ("c/3", 3, 100)]), 307);
        assert_eq!(received(&[("a/1", 1, 110), ("b/2", 2, 100)]), 317, "the third is down");
        assert_eq!(received(&[("a/1", 1, 110), ("b/2", 2, 100), ("c/3", 3, 5)]), 322);
        assert_eq!(
            received(&[("d/1", 1, 120), ("b/2", 2, 100), ("c/3", 3, 5)]),
            332,
            "the same with another address"
        );
        let both = [("d/1", 1, 120), ("b/2", 2, 100), ("c/3", 3, 5), ("e/2", 2, 30)];
        assert_eq!(received(&both), 332, "the old one is not gone yet");
        assert_eq!(received(&[("d/1", 1, 120), ("c/3", 3, 5), ("e/2", 2, 40)]), 372);
    }

    #[test]
    fn a_client_has_brokers_from_its_first_report_until_it_is_closed() {
        let metrics = Metrics::new().unwrap();
        let text = || String::from_utf8(metrics.render()).unwrap();
        let kafka = KafkaMetrics::new(&metrics, "p", "consumer-0");
        assert!(!text().contains("messina_kafka_brokers_up{"), "it was never polled");
        let queued = Partition {
            fetchq_cnt: 7,
            fetchq_size: 700,
            ..Partition::default()
        };
        let topic = Topic {
            partitions: [(0, queued)].into(),
            ..Topic::default()
        };
        let full = || Statistics {
            topics: [("t".to_owned(), topic.clone())].into(),
            ..report(100, Some(1500))
        };
        kafka.observe(&full());
        assert!(text().contains("messina_kafka_brokers_up{client=\"consumer-0\",pipeline=\"p\"} 1"));
        kafka.close();
        let gone = text();
        for family in ["brokers_up", "broker_rtt_mean_seconds", "broker_rtt_p99_seconds"] {
            assert!(!gone.contains(&format!("messina_kafka_{family}{{")), "{gone}");
        }
        assert_eq!(metrics.kafka_fetch_queue_bytes.sum(), 0);
        assert_eq!(metrics.kafka_producer_queue_records.sum(), 0);
        assert!(gone.contains("messina_kafka_transmitted_bytes_total{client=\"consumer-0\",pipeline=\"p\"} 100"));

        // Another client takes its place, the old one is closed again, and one that never reported is closed too.
        let next = KafkaMetrics::new(&metrics, "p", "consumer-0");
        next.observe(&full());
        kafka.close();
        KafkaMetrics::new(&metrics, "p", "consumer-0").close();
        assert_eq!(metrics.kafka_fetch_queue_bytes.sum(), 700);
        assert!(text().contains("messina_kafka_brokers_up{client=\"consumer-0\",pipeline=\"p\"} 1"));
    }

    #[test]
    fn a_late_report_of_a_client_that_is_gone_brings_no_series_back() {
        let metrics = Metrics::new().unwrap();
        let kafka = KafkaMetrics::new(&metrics, "p", "producer");
        kafka.observe(&report(100, Some(1500)));
        kafka.close();
        metrics.forget_all("pipeline", "p");
        kafka.observe(&report(150, Some(1500)));
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(!text.contains(r#"pipeline="p""#), "{text}");
    }
}
