//! Asks the brokers for the ends of partitions of which librdkafka reports nothing new.
//!
//! When the fetches of a partition stop without an error, librdkafka's figures no longer change. If the partition was at its end, it would appear to
//! have no lag for ever, whatever arrives. The same holds while it is paused, which may last as long as a database is down. So the loop asks for the
//! ends of those partitions of which nothing was fetched for half of the stall time, all together, which is one request per broker. An end beyond
//! what was fetched is lag, and the watchdogs do the rest.
//!
//! Invariants: one query at a time, beside the loop; an answer counts until something is fetched or the next one arrives. librdkafka answers for all
//! partitions of a query or for none, so those already in trouble are left out, and if there is no answer each is queried singly. The time may not
//! suffice for all; the next query then begins after the last one asked for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::Loop;
use crate::source::assignment::Partition;

/// The time for one query, and the margin in which it may end. A stop waits for it, and has little time.
const ASK: Duration = Duration::from_secs(2);
const OVER: Duration = Duration::from_secs(1);

/// The partitions of a query, in its order, with the ends that the brokers gave.
type Answers = Vec<(Partition, Option<i64>)>;

#[derive(Debug)]
struct Known {
    /// The offset that librdkafka fetches next.
    next: i64,
    /// When that was first seen, or when the end was last asked for.
    since: Instant,
    /// When it was last seen to be fetched to its end, or paused.
    seen: Instant,
    /// The end that the brokers gave.
    end: Option<i64>,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Ends {
    every: Duration,
    asking: bool,
    /// The partition that was asked for last.
    last: Option<Partition>,
    by_partition: HashMap<Partition, Known>,
    pub(super) answers: (mpsc::UnboundedSender<Answers>, mpsc::UnboundedReceiver<Answers>),
}

impl Ends {
    pub(super) fn new(stall_after: Duration) -> Ends {
        Ends {
            every: stall_after / 2,
            asking: false,
            last: None,
            by_partition: HashMap::new(),
            answers: mpsc::unbounded_channel(),
        }
    }

    /// Takes in the offset that librdkafka fetches next; returns the end if that is known to be after it.
    pub(super) fn beyond(&mut self, partition: Partition, next: i64, now: Instant) -> Option<i64> {
        let anew = || Known {
            next,
            since: now,
            seen: now,
            end: None,
        };
        let known = self.by_partition.entry(partition).or_insert_with(anew);
        if known.next != next {
            *known = anew();
        }
        known.seen = now;
        known.end.filter(|end| *end > next)
    }

    /// Postpones the query of a partition whose broker is away: there would be no answer, neither for it nor for the others in the query.
    pub(super) fn put_off(&mut self, partition: Partition, now: Instant) {
        if let Some(known) = self.by_partition.get_mut(&partition) {
            known.since = now;
        }
    }

    /// The partitions to query now, in turn, of those that were just seen.
    fn due(&mut self, now: Instant) -> Vec<Partition> {
        let mut due = Vec::new();
        if self.asking {
            return due;
        }
        for (partition, known) in &mut self.by_partition {
            if known.seen == now && now.saturating_duration_since(known.since) >= self.every {
                known.since = now;
                due.push(*partition);
            }
        }
        self.asking = !due.is_empty();
        due.sort_unstable();
        let had_their_turn = due.partition_point(|partition| Some(*partition) <= self.last);
        due.rotate_left(had_their_turn);
        due
    }

    pub(super) fn answered(&mut self, answers: Answers) {
        self.asking = false;
        for (partition, end) in answers {
            self.last = Some(partition);
            if let Some(known) = self.by_partition.get_mut(&partition) {
                known.end = end.or(known.end);
            }
        }
    }

    /// Forgets the partitions that are not held any more.
    pub(super) fn keep(&mut self, held: impl Fn(Partition) -> bool) {
        self.by_partition.retain(|partition, _| held(*partition));
    }
}

impl Loop {
    /// Starts a query of the ends that are due.
    pub(super) fn ask_for_ends(&mut self, now: Instant) {
        let due = self.ends.due(now);
        if due.is_empty() {
            return;
        }
        let named: Vec<_> = due.into_iter().map(|p| (p, self.topic(p).to_string())).collect();
        let (consumer, answer) = (self.parts.consumer.clone(), self.ends.answers.0.clone());
        let beside = self.beside("asks for ends of partitions");
        self.parts.io.spawn_blocking(move || {
            let _beside = beside;
            let ends = ends(&*consumer, &named);
            drop(consumer);
            // The loop may have ended meanwhile.
            let _ = answer.send(ends);
        });
    }

    /// Waits until no query uses the consumer any more, so that the loop itself closes it.
    pub(super) async fn wait_for_ends(&mut self) {
        if self.ends.asking {
            let _ = tokio::time::timeout(ASK + OVER, self.ends.answers.1.recv()).await;
        }
    }
}

/// Asks for the ends of these partitions: all together, or else one by one while there is time.
fn ends<C: ConsumerContext, T: Consumer<C>>(consumer: &T, named: &[(Partition, String)]) -> Answers {
    let until = Instant::now() + ASK;
    let ask = |named: &[(Partition, String)], limit: Duration| -> Option<Answers> {
        let mut list = TopicPartitionList::with_capacity(named.len());
        for (partition, topic) in named {
            list.add_partition_offset(topic, partition.index, Offset::End).ok()?;
        }
        let found = consumer.offsets_for_times(list, limit).ok()?;
        let end = |(partition, topic): &(Partition, String)| {
            let element = found.find_partition(topic, partition.index);
            let said = element.filter(|e| e.error().is_ok()).map(|e| e.offset());
            match said {
                Some(Offset::Offset(end)) => (*partition, Some(end)),
                _ => (*partition, None),
            }
        };
        Some(named.iter().map(end).collect())
    };
    if let Some(all) = ask(named, ASK / 2) {
        return all;
    }
    let mut asked = Vec::new();
    for one in named.chunks(1).take_while(|_| named.len() > 1) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let silent = || one.iter().map(|(partition, _)| (*partition, None)).collect();
        asked.extend(ask(one, left.min(ASK / 8)).unwrap_or_else(silent));
    }
    asked
}

/// The ends of these partitions, asked for until each is known; `again` says whether to continue while some are not.
pub(super) fn all_ends<C: ConsumerContext, T: Consumer<C>>(
    consumer: &T,
    mut named: Vec<(Partition, String)>,
    mut again: impl FnMut() -> bool,
) -> HashMap<Partition, i64> {
    let mut known = HashMap::with_capacity(named.len());
    while !named.is_empty() {
        let answers = ends(consumer, &named);
        let in_vain = answers.iter().filter(|(_, end)| end.is_none()).count();
        known.extend(
            answers
                .into_iter()
                .filter_map(|(partition, end)| Some((partition, end?))),
        );
        named.retain(|(partition, _)| !known.contains_key(partition));
        // Those asked in vain go last, because there may have been no time for the others.
        named.rotate_left(in_vain);
        if !named.is_empty() && !again() {
            break;
        }
    }
    known
}

#[cfg(test)]
pub(super) mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::consumer::BaseConsumer;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
    use rdkafka::statistics;

    use super::*;
    use crate::source::consumer_loop::tests::idle::{report, with_one_finished};

    const P: Partition = Partition { topic: 0, index: 0 };
    const Q: Partition = Partition { topic: 0, index: 1 };

    #[test]
    fn only_those_that_stand_are_asked_for_and_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ends = Ends::new(Duration::from_secs(60));
        for second in 0..30 {
            assert_eq!(ends.beyond(P, 7, at(second)), None);
            assert_eq!(ends.beyond(Q, second as i64, at(second)), None);
            assert!(ends.due(at(second)).is_empty());
        }
        assert_eq!(ends.beyond(P, 7, at(30)), None);
        assert_eq!(ends.due(at(30)), [P]);
        assert!(ends.due(at(70)).is_empty(), "one at a time");
        ends.answered(vec![(P, Some(7))]);
        assert_eq!(ends.beyond(P, 7, at(70)), None, "there is nothing more");
        assert_eq!(ends.beyond(Q, 29, at(70)), None);
        assert_eq!(ends.due(at(70)), [Q, P]);
        ends.answered(Vec::new());
        ends.keep(|partition| partition == Q);
        assert!(ends.due(at(200)).is_empty(), "it is in trouble: another watchdog's");
        ends.beyond(Q, 29, at(201));
        assert_eq!(ends.due(at(201)), [Q]);
    }

    #[test]
    fn those_for_which_there_was_no_time_come_first_the_next_time() {
        let start = Instant::now();
        let mut ends = Ends::new(Duration::from_secs(60));
        let mut asked = Vec::new();
        for question in 0..5 {
            let now = start + Duration::from_secs(30) * question;
            for index in 0..10 {
                ends.beyond(Partition { topic: 0, index }, 7, now);
            }
            // Brokers answer for none, and the time is over after four.
            let due = ends.due(now).into_iter().take(4);
            let silent: Answers = due.map(|partition| (partition, None)).collect();
            asked.extend(silent.iter().map(|(partition, _)| partition.index));
            ends.answered(silent);
        }
        assert_eq!(asked, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_was_not_fetched_is_known_until_it_is_or_the_log_is_cut() {
        let now = Instant::now();
        let mut ends = Ends::new(Duration::from_secs(60));
        let mut says = |end: Option<i64>, next| {
            ends.beyond(P, 7, now);
            ends.answered(vec![(P, end)]);
            ends.beyond(P, next, now)
        };
        assert_eq!(says(Some(9), 7), Some(9));
        assert_eq!(says(None, 7), Some(9), "no answer is no news");
        assert_eq!(says(Some(9), 8), None, "it moves");
        // The log was cut short.
        assert_eq!(says(Some(6), 7), None);
    }

    /// A cluster whose topic has this many partitions and three records in one of them, and a consumer of it.
    pub(in crate::source::consumer_loop) fn three_records(
        partitions: i32,
        partition: i32,
    ) -> (MockCluster<'static, DefaultProducerContext>, BaseConsumer) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("in", partitions, 1).unwrap();
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", cluster.bootstrap_servers());
        let producer: BaseProducer = client.create().unwrap();
        for _ in 0..3 {
            let record = BaseRecord::<(), _>::to("in").payload(&[0][..]).partition(partition);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(10)).unwrap();
        (cluster, client.set("group.id", "g").create().unwrap())
    }

    #[test]
    fn the_brokers_say_where_partitions_end_whatever_is_wrong_with_another() {
        let (_cluster, consumer) = three_records(2, 0);
        let ends = |indices: &[i32]| {
            let named = indices
                .iter()
                .map(|&index| (Partition { topic: 0, index }, "in".to_owned()));
            super::ends(&consumer, &named.collect::<Vec<_>>())
        };
        // The first query may time out before the connection is up.
        let began = Instant::now();
        while ends(&[0, 1]) != [(P, Some(3)), (Q, Some(0))] {
            assert!(began.elapsed() < Duration::from_secs(60), "no answer");
        }
        let named = |index: i32| (Partition { topic: 0, index }, "in".to_owned());
        let all = |indices: &[i32], attempts: usize| {
            let mut left = attempts;
            all_ends(&consumer, indices.iter().copied().map(named).collect(), || {
                left = left.saturating_sub(1);
                left > 0
            })
        };
        let known = HashMap::from([(P, 3), (Q, 0)]);
        assert_eq!(all(&[0, 1], 1), known);
        assert_eq!(all(&[7, 0, 1], 2), known, "one that nobody knows keeps back no other");
        assert_eq!(all(&[], 1), HashMap::new());
        let mut amid_one_that_is_not = ends(&[0, 7, 1]);
        let none = amid_one_that_is_not.remove(1);
        assert_eq!((none.0.index, none.1), (7, None));
        assert_eq!(amid_one_that_is_not, [(P, Some(3)), (Q, Some(0))]);
        assert!(ends(&[7]).iter().all(|(_, end)| end.is_none()));
    }

    #[test]
    fn a_partition_at_its_end_whose_fetches_cease_is_a_stall() {
        use crate::source::consumer_loop::watchdogs::{Sight, Watchdogs};
        let (limit, start) = (Duration::from_secs(60), Instant::now());
        let (mut ends, mut dogs) = (Ends::new(limit), Watchdogs::new(limit, None));
        let mut seen = (0..600).map(|second| {
            let now = start + Duration::from_secs(second);
            let lag = ends.beyond(P, 7, now).map_or(0, |end| end.abs_diff(7));
            // The brokers have two more records, which librdkafka does not report.
            if !ends.due(now).is_empty() {
                ends.answered(vec![(P, Some(9))]);
            }
            let sight = Sight {
                lag: Some(lag),
                unfinished: Some(7),
                position: Some(7),
                free: true,
                ..Sight::default()
            };
            let watched = dogs.observe(P, &sight, now);
            assert_eq!(watched.stalled, watched.fetches_nothing);
            (second, watched.stalled)
        });
        let first = seen.find(|(_, stalled)| *stalled);
        assert_eq!(first.map(|(second, _)| second), Some(91));
    }

    #[tokio::test]
    async fn what_a_broker_that_is_away_leads_is_asked_for_when_it_has_been_back_for_as_long() {
        let mut this = with_one_finished().await;
        this.ends = Ends::new(Duration::from_millis(2));
        // It is at its end, and no broker is connected.
        let partition = statistics::Partition {
            ls_offset: 1,
            hi_offset: 1,
            next_offset: 1,
            ..statistics::Partition::default()
        };
        report(&this, partition, None);
        for away in [true, false] {
            this.last_unreachable = away.then(Instant::now);
            for _ in 0..2 {
                this.publish_status("running");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(this.ends.asking, !away);
        }
    }
}
