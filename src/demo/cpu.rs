//! Separates Messina's CPU time from that of the demo's own parts.
//!
//! The kernel counts the time of each thread (proc(5), `/proc/self/task/*/stat`). The demo's clients and the mock cluster start before Messina, so
//! their threads are those created with them. Everything else that the process uses is Messina's: consumer loops, the runtime's workers, the store's
//! writer, and the threads of Messina's librdkafka clients. A few requests to the in-process registry run on the same workers and count as Messina's
//! too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::telemetry::process::{Stat, kibibytes, ticks_per_second};

/// Threads, by id: name and CPU time.
#[derive(Debug, Clone, Default)]
struct Threads(BTreeMap<i32, (String, Duration)>);

/// The demo's own parts of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// librdkafka's mock cluster.
    Cluster,
    /// The generator, its Kafka client included.
    Generator,
    /// The verifier, its Kafka client included, and the display.
    Verifier,
}

/// Tells the demo's threads from Messina's.
#[derive(Debug, Default)]
pub struct Meter {
    known: BTreeSet<i32>,
    parts: BTreeMap<i32, Part>,
    began: Threads,
    began_process: Duration,
}

/// CPU time by the part that spent it.
#[derive(Debug, Clone, Default)]
pub struct Spent {
    /// By Messina.
    pub messina: Duration,
    /// Part of that: by the consumer loops of each pipeline, in the order of the request.
    pub loops: Vec<Duration>,
    /// By each of the demo's parts.
    pub demo: BTreeMap<Part, Duration>,
}

impl Meter {
    /// A meter that counts all existing threads, except the calling one, as Messina's.
    pub fn new() -> Meter {
        let mut meter = Meter {
            known: read().0.into_keys().collect(),
            ..Meter::default()
        };
        if let Some(this) = current_thread() {
            meter.parts.insert(this, Part::Verifier);
        }
        meter
    }

    /// Assigns the threads that were started since the last call, or since the meter was made, to this part.
    pub fn claim(&mut self, part: Part) {
        for thread in read().0.into_keys() {
            if self.known.insert(thread) {
                self.parts.insert(thread, part);
            }
        }
    }

    /// Begins to count.
    pub fn begin(&mut self) {
        self.began = read();
        self.began_process = process();
    }

    /// CPU time spent since [`Meter::begin`]. `named` has the parts that are known by the names of their threads, `loops` the name of the thread of
    /// each pipeline's loop.
    pub fn spent(&self, named: &[(&str, Part)], loops: &[String]) -> Spent {
        let mut spent = Spent {
            loops: vec![Duration::ZERO; loops.len()],
            ..Spent::default()
        };
        let mut demo = Duration::ZERO;
        for (thread, (name, time)) in read().0 {
            let before = self.began.0.get(&thread).map_or(Duration::ZERO, |(_, time)| *time);
            let time = time.saturating_sub(before);
            let part = self
                .parts
                .get(&thread)
                .or_else(|| named.iter().find(|(n, _)| same(&name, n)).map(|(_, part)| part));
            if let Some(part) = part {
                *spent.demo.entry(*part).or_default() += time;
                demo += time;
            } else if let Some(number) = loops.iter().position(|n| same(&name, n)) {
                spent.loops[number] += time;
            }
        }
        spent.messina = process().saturating_sub(self.began_process).saturating_sub(demo);
        spent
    }
}

/// Peak memory of the process so far, in bytes (`VmHWM`).
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = kibibytes(&status, "VmHWM:").unwrap_or_default();
    u64::try_from(peak).unwrap_or_default()
}

/// Whether the names match: the kernel keeps only 15 bytes of a thread's name.
fn same(kernel: &str, name: &str) -> bool {
    kernel == name.get(..15).unwrap_or(name)
}

fn current_thread() -> Option<i32> {
    let link = std::fs::read_link("/proc/thread-self").ok()?;
    link.file_name()?.to_str()?.parse().ok()
}

fn read() -> Threads {
    let entries = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let thread = |entry: std::fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        // The thread may have ended since it was listed.
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        Some((id, parse(&stat)?))
    };
    Threads(entries.filter_map(thread).collect())
}

fn process() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    parse(&stat).map_or(Duration::ZERO, |(_, time)| time)
}

/// Name, and user and system time. The name is in parentheses and may hold anything.
fn parse(stat: &str) -> Option<(String, Duration)> {
    let name = stat.get(stat.find('(')? + 1..stat.rfind(')')?)?;
    let time = Duration::from_secs_f64(Stat::parse(stat)?.cpu_ticks as f64 / ticks_per_second());
    Some((name.to_owned(), time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(time: Duration) {
        let began = std::time::Instant::now();
        while began.elapsed() < time {
            std::hint::black_box(began);
        }
    }

    #[test]
    fn time_is_told_apart_by_thread() {
        let mut meter = Meter::new();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (done, end) = std::sync::mpsc::channel::<()>();
        let claimed = std::thread::spawn(move || {
            wait.recv().expect("a start");
            work(Duration::from_millis(300));
            done.send(()).expect("somebody waits");
            // The thread's time counts only while it lives.
            let _ = wait.recv();
        });
        meter.claim(Part::Cluster);
        meter.begin();
        go.send(()).expect("it waits");
        end.recv().expect("it ends");
        let spent = meter.spent(&[], &[]);
        let cluster = spent.demo[&Part::Cluster];
        assert!(cluster >= Duration::from_millis(30), "{spent:?}");
        drop(go);
        claimed.join().expect("no panic");
    }

    #[test]
    fn names_may_hold_anything_and_are_cut_by_the_kernel() {
        let stat = "7 (a) b (c) S 1 42 42 0 -1 4194560 2103 0 1 0 250 50 0 0 20 0 7 0 123456 3000000";
        let (name, time) = parse(stat).expect("a line");
        assert_eq!(
            (name.as_str(), time.as_secs_f64()),
            ("a) b (c", 300.0 / ticks_per_second())
        );
        assert!(same("embedded-genera", "embedded-generator") && !same("loop-1", "loop-10"));
        assert!(peak_memory() > 1024 * 1024);
    }
}
