//! Where partitions end, asked of the brokers where librdkafka says nothing new of it.
//!
//! Of a partition whose fetches cease without an error librdkafka's figures stay as they are. At its end it would have nothing to do, for ever, whatever
//! comes. So the ends of those of which nothing was fetched for half the time of a stall are asked for, together, which is one request to each of their
//! brokers. Where there is more than was fetched, that is lag, and the watchdogs do the rest.
//!
//! Invariants: one question at a time, and beside the loop; an answer counts until something is fetched or the next one comes, so that a stall takes two.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::Loop;
use crate::source::assignment::Partition;

/// For one question.
const ASK: Duration = Duration::from_secs(5);

/// The ends of those that were asked for; none where the brokers did not say.
type Answers = Vec<(Partition, Option<i64>)>;

#[derive(Debug)]
struct Known {
    /// librdkafka fetches from here.
    next: i64,
    /// Since then, or asked then.
    since: Instant,
    /// What the brokers have said.
    end: Option<i64>,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Ends {
    every: Duration,
    asking: bool,
    by_partition: HashMap<Partition, Known>,
    pub(super) answers: (mpsc::UnboundedSender<Answers>, mpsc::UnboundedReceiver<Answers>),
}

impl Ends {
    pub(super) fn new(stall_after: Duration) -> Ends {
        Ends {
            every: stall_after / 2,
            asking: false,
            by_partition: HashMap::new(),
            answers: mpsc::unbounded_channel(),
        }
    }

    /// Takes in where librdkafka fetches from; the end, if it is known to lie behind that.
    pub(super) fn beyond(&mut self, partition: Partition, next: i64, now: Instant) -> Option<i64> {
        let anew = Known {
            next,
            since: now,
            end: None,
        };
        let known = self.by_partition.entry(partition).or_insert(anew);
        if known.next != next {
            *known = Known {
                next,
                since: now,
                end: None,
            };
        }
        known.end.filter(|end| *end > next)
    }

    /// The partitions whose ends are to be asked for now.
    fn due(&mut self, now: Instant) -> Vec<Partition> {
        let mut due = Vec::new();
        if self.asking {
            return due;
        }
        for (partition, known) in &mut self.by_partition {
            if now.saturating_duration_since(known.since) >= self.every {
                known.since = now;
                due.push(*partition);
            }
        }
        self.asking = !due.is_empty();
        due
    }

    pub(super) fn answered(&mut self, answers: Answers) {
        self.asking = false;
        for (partition, end) in answers {
            if let Some(known) = self.by_partition.get_mut(&partition) {
                known.end = end;
            }
        }
    }

    /// Forgets the partitions that are not held any more.
    pub(super) fn keep(&mut self, held: impl Fn(Partition) -> bool) {
        self.by_partition.retain(|partition, _| held(*partition));
    }
}

impl Loop {
    /// Asks for the ends that are due.
    pub(super) fn ask_for_ends(&mut self, now: Instant) {
        let due = self.ends.due(now);
        if due.is_empty() {
            return;
        }
        let named: Vec<_> = due.into_iter().map(|p| (p, self.topic(p).to_string())).collect();
        let (consumer, answer) = (self.parts.consumer.clone(), self.ends.answers.0.clone());
        self.parts.io.spawn_blocking(move || {
            let mut list = TopicPartitionList::with_capacity(named.len());
            // What cannot be asked for, and an error, is no answer.
            let asked = named
                .iter()
                .try_for_each(|(partition, topic)| list.add_partition_offset(topic, partition.index, Offset::End));
            let found = asked.and_then(|()| consumer.offsets_for_times(list, ASK));
            drop(consumer);
            let end = |partition: Partition, topic: &str| {
                let element = found.as_ref().ok()?.find_partition(topic, partition.index)?;
                match element.offset() {
                    Offset::Offset(end) if element.error().is_ok() => Some(end),
                    _ => None,
                }
            };
            let ends = named
                .iter()
                .map(|(partition, topic)| (*partition, end(*partition, topic)));
            // The loop may have ended meanwhile.
            let _ = answer.send(ends.collect());
        });
    }

    /// Waits until nobody asks with the consumer any more, so that it is closed by who ends it.
    pub(super) async fn wait_for_ends(&mut self) {
        if self.ends.asking {
            let _ = tokio::time::timeout(ASK, self.ends.answers.1.recv()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(ends.due(at(30)), [P]);
        assert!(ends.due(at(70)).is_empty(), "one at a time");
        ends.answered(vec![(P, Some(7))]);
        assert_eq!(ends.beyond(P, 7, at(70)), None, "there is nothing more");
        let mut due = ends.due(at(70));
        due.sort_by_key(|partition| partition.index);
        assert_eq!(due, [P, Q]);
        ends.answered(Vec::new());
        ends.keep(|partition| partition == Q);
        assert_eq!(ends.due(at(200)), [Q]);
    }

    #[test]
    fn what_was_not_fetched_is_known_until_it_is_or_the_brokers_take_it_back() {
        let now = Instant::now();
        let mut ends = Ends::new(Duration::from_secs(60));
        let mut says = |end, next| {
            ends.beyond(P, 7, now);
            ends.answered(vec![(P, end)]);
            ends.beyond(P, next, now)
        };
        assert_eq!(says(Some(9), 7), Some(9));
        assert_eq!(says(Some(9), 8), None, "it moves");
        // The log was cut short, or nothing was heard.
        assert_eq!(says(Some(6), 7), None);
        assert_eq!(says(None, 7), None);
    }

    #[test]
    fn a_partition_at_its_end_whose_fetches_cease_is_a_stall() {
        use crate::source::consumer_loop::watchdogs::{Sight, Watchdogs};
        let (limit, start) = (Duration::from_secs(60), Instant::now());
        let (mut ends, mut dogs) = (Ends::new(limit), Watchdogs::new(limit, None));
        let mut seen = (0..600).map(|second| {
            let now = start + Duration::from_secs(second);
            let lag = ends.beyond(P, 7, now).map_or(0, |end| end.abs_diff(7));
            // The brokers have two records more, of which librdkafka says nothing.
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
}
