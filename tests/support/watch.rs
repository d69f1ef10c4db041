//! Samples a process from outside several times a second, while a test breaks what it talks to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::process::{Messina, get};

/// Time between two samples.
const PERIOD: Duration = Duration::from_millis(250);

/// One sample.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Seconds since the watch began.
    pub at: f64,
    /// Resident memory in MiB.
    pub rss: f64,
    /// Open file descriptors.
    pub files: usize,
    /// Threads.
    pub threads: usize,
}

/// A watch over one process, until it is stopped or the process ends.
pub struct Watch {
    began: Instant,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

/// What the watch has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// In order of time.
    pub samples: Vec<Sample>,
    /// The answers of `/livez` that were not 200.
    pub not_live: Vec<String>,
}

impl Watch {
    /// Starts the watch; the process must answer HTTP already.
    pub fn over(messina: &Messina) -> Watch {
        let (address, id) = (messina.address().unwrap(), messina.id());
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let (stopped, into) = (stop.clone(), seen.clone());
        let began = Instant::now();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Some(sample) = look(id, began) else { return };
                let live = get(address, "/livez");
                let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                seen.samples.push(sample);
                // A missing answer means that the machine is busy, or that the process has ended, which the test notices itself.
                if let Some((status, body)) = live
                    && status != 200
                {
                    seen.not_live.push(body);
                }
                drop(seen);
                std::thread::sleep(PERIOD);
            }
        });
        Watch {
            began,
            stop,
            seen,
            thread: Some(thread),
        }
    }

    /// Highest resident memory during this time from now, in MiB.
    pub fn peak_after(&self, time: Duration) -> f64 {
        let from = self.began.elapsed().as_secs_f64();
        std::thread::sleep(time);
        self.seen().peak(from, f64::MAX)
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the watch, and returns what it saw. Fails if the process was ever not live.
    pub fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let seen = self.seen();
        assert!(seen.not_live.is_empty(), "/livez was not 200: {:?}", seen.not_live);
        assert!(!seen.samples.is_empty(), "nothing was seen");
        seen
    }
}

impl Seen {
    /// Highest resident memory between two moments, in MiB.
    pub fn peak(&self, from: f64, to: f64) -> f64 {
        self.samples
            .iter()
            .filter(|s| (from..to).contains(&s.at))
            .map(|s| s.rss)
            .fold(0.0, f64::max)
    }

    /// Slope of a value after `from`, by least squares, in the value's unit per minute.
    pub fn slope(&self, from: f64, value: impl Fn(&Sample) -> f64) -> f64 {
        let points: Vec<(f64, f64)> = self
            .samples
            .iter()
            .filter(|s| s.at >= from)
            .map(|s| (s.at / 60.0, value(s)))
            .collect();
        let n = points.len() as f64;
        let (mx, my) = points.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x / n, b + y / n));
        let (xy, xx) = points.iter().fold((0.0, 0.0), |(xy, xx), (x, y)| {
            (xy + (x - mx) * (y - my), xx + (x - mx) * (x - mx))
        });
        if xx == 0.0 { 0.0 } else { xy / xx }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn look(id: u32, began: Instant) -> Option<Sample> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let field = |name: &str| -> Option<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    Some(Sample {
        at: began.elapsed().as_secs_f64(),
        rss: field("VmRSS")? / 1024.0,
        files: std::fs::read_dir(format!("/proc/{id}/fd")).ok()?.count(),
        threads: field("Threads")? as usize,
    })
}

/// CPU seconds that a process has used, user and system.
pub fn cpu_seconds(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    // Fields 14 and 15 of proc(5), in ticks, of which Linux has 100 per second.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
