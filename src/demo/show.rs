//! Runs the application, the generator and the verifier together, and shows their progress.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::cpu::{Meter, Part, Spent};
use super::display::Display;
use super::flow::{Flow, Stop};
use super::run::DemoError;
use super::stage::Stage;
use super::verifier::Seen;
use super::{generator, verifier};
use crate::app::Running;
use crate::telemetry::metrics::Metrics;

/// Percentage of the records that belong to each stream, in the order of the streams.
const SHARES: [u64; 3] = [65, 10, 25];
/// A run is given up if nothing happens for this long.
const STANDSTILL: Duration = Duration::from_secs(60);
/// Time between two checks of the progress.
const LOOK: Duration = Duration::from_millis(20);

/// How far a stream came.
pub struct End {
    /// Records made.
    pub made: u64,
    /// From the first record to the last one settled.
    pub time: Duration,
}

/// Records on their way: the application, the generator, the verifier and the display.
pub struct Show {
    /// The application.
    pub running: Running,
    metrics: Arc<Metrics>,
    names: Vec<&'static str>,
    flows: Arc<[Arc<Flow>]>,
    ends: Vec<Option<Duration>>,
    display: Display,
    began: Instant,
    stop_generator: Arc<Stop>,
    stop_verifier: Arc<Stop>,
    generating: JoinHandle<Result<(), String>>,
    verifying: JoinHandle<Result<Vec<Seen>, String>>,
}

impl Show {
    /// Starts the verifier and the generator.
    pub fn begin(stage: &Stage, records: u64, running: Running, metrics: Arc<Metrics>) -> Result<Show, DemoError> {
        let names: Vec<&str> = stage.streams.iter().map(|stream| stream.job.name()).collect();
        let planned = stage.streams.iter().zip(shares(records));
        let flows: Arc<[Arc<Flow>]> = planned
            .map(|(stream, planned)| Flow::new(planned, stream.job.largest(), stream.job.name(), &metrics))
            .collect();
        let (stop_generator, stop_verifier) = (Arc::<Stop>::default(), Arc::<Stop>::default());
        let verifying = {
            let (consumer, streams, topics) = (stage.consumer.clone(), stage.streams.clone(), stage.topics.clone());
            let (flows, stop) = (flows.clone(), stop_verifier.clone());
            thread(verifier::THREAD, move || {
                verifier::run(&consumer, &streams, &topics, &flows, &stop)
            })?
        };
        let generating = {
            let (producer, streams) = (stage.producer.clone(), stage.streams.clone());
            let (flows, stop) = (flows.clone(), stop_generator.clone());
            thread(generator::THREAD, move || {
                generator::run(&producer, &streams, &flows, &stop)
            })?
        };
        let rows = names
            .iter()
            .zip(flows.iter())
            .map(|(name, flow)| ((*name).to_owned(), flow.clone()));
        Ok(Show {
            display: Display::new(rows, metrics.clone()),
            ends: vec![None; names.len()],
            running,
            metrics,
            names,
            flows,
            began: Instant::now(),
            stop_generator,
            stop_verifier,
            generating,
            verifying,
        })
    }

    /// Waits until the outcome of every record is known; after `interrupted`, only of those made until then. Returns
    /// what went wrong, if anything.
    pub async fn watch(&mut self, mut interrupted: impl Future + Unpin) -> Option<String> {
        let (mut before, mut moved) = (0, Instant::now());
        loop {
            tokio::select! {
                _ = &mut interrupted, if !self.stop_generator.is_interrupted() => self.stop_generator.interrupt(),
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = Instant::now();
            self.display.tick(now);
            for (end, flow) in self.ends.iter_mut().zip(self.flows.iter()) {
                let made_all = flow.made() == flow.planned || self.stop_generator.is_interrupted();
                if end.is_none() && made_all && flow.settled() >= flow.made() {
                    *end = Some(now - self.began);
                }
            }
            if self.ends.iter().all(Option::is_some) {
                self.display.draw(now);
                return None;
            }
            for name in &self.names {
                for state in self.running.loops(name) {
                    if let Some(why) = state.get().halted {
                        return Some(format!("{name} has halted: {why}"));
                    }
                }
            }
            if self.generating.is_finished() || self.verifying.is_finished() {
                return Some("the run was interrupted".to_owned());
            }
            let all = self.flows.iter().map(|flow| flow.made() + flow.settled()).sum::<u64>();
            if all != before {
                (before, moved) = (all, now);
            } else if now - moved > STANDSTILL {
                return Some(format!("nothing has happened for {} s", STANDSTILL.as_secs()));
            }
        }
    }

    /// From the first record to the last one settled.
    pub fn time(&self) -> Duration {
        let end = |end: &Option<Duration>| end.unwrap_or_else(|| self.began.elapsed());
        self.ends.iter().map(end).max().unwrap_or_default()
    }

    /// CPU time since the meter began.
    pub fn spent(&self, meter: &Meter) -> Spent {
        let named = [(generator::THREAD, Part::Generator), (verifier::THREAD, Part::Verifier)];
        // The first loop is the only one: each pipeline has one consumer, and so one thread.
        let thread = |name: &str| self.running.loops(name).first()?.get().thread;
        let loops: Vec<String> = self.names.iter().map(|name| thread(name).unwrap_or_default()).collect();
        meter.spent(&named, &loops)
    }

    /// Stops everything in this order: generator, Messina, verifier.
    pub async fn end(self, problems: &mut Vec<String>) -> (Vec<Seen>, Vec<End>, Arc<Metrics>) {
        let time = self.time();
        self.stop_generator.stop();
        match self.generating.join() {
            Ok(result) => problems.extend(result.err()),
            Err(_) => problems.push("the generator panicked".to_owned()),
        }
        let summary = self.running.stop().await;
        if !summary.is_clean() {
            problems.push(format!("the pipelines did not stop cleanly: {:?}", summary.pipelines));
        }
        self.stop_verifier.stop();
        let seen = self
            .verifying
            .join()
            .unwrap_or_else(|_| Err("the verifier panicked".to_owned()));
        let end = |(flow, end): (&Arc<Flow>, &Option<Duration>)| End {
            made: flow.made(),
            time: end.unwrap_or(time),
        };
        let ends = self.flows.iter().zip(&self.ends).map(end).collect();
        let seen = seen.unwrap_or_else(|error| {
            problems.push(error);
            Vec::new()
        });
        (seen, ends, self.metrics)
    }
}

fn thread<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// How many of `records` each stream gets.
fn shares(records: u64) -> [u64; 3] {
    let [_, orders, reactions] = SHARES.map(|share| records * share / 100);
    [records - orders - reactions, orders, reactions]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_in_a_share() {
        for records in [0, 1, 2, 3, 99, 100, 200_000, 1_000_003] {
            assert_eq!(shares(records).iter().sum::<u64>(), records);
        }
        assert_eq!(shares(200_000), [130_000, 20_000, 50_000]);
    }
}
