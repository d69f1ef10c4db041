//! Promise 4 over time: at full rate, memory, files, threads and tasks do not grow.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::pipelines;
use crate::support::figures;
use crate::support::judge::judge;
use crate::support::numbers::{MAX_IN_FLIGHT, Numbers};
use crate::support::process::Messina;
use crate::support::watch::{Sample, Watch};
use crate::support::{Bench, is_long};

/// The stream stays at least this far ahead of the process, and grows by this much at a time.
const AHEAD: i64 = 30_000;
/// The highest slope allowed, in MiB per minute: (full form, short form). The short form only finds leaks of about a
/// hundred bytes per record.
const SLOPE: (f64, f64) = (1.0, 36.0);

#[test]
fn soak_at_full_rate() {
    let Some(bench) = Bench::find_alone("soak_at_full_rate") else {
        return;
    };
    let (warm_up, length) = if is_long() { (120.0, 720.0) } else { (10.0, 30.0) };
    let numbers = Numbers::new(&bench, 8, &pipelines("soak"));
    let configs = numbers.config(Duration::from_secs(30), &pipelines("soak"));
    let messina = Messina::start("messina", &configs.each_ref().map(|path| path as &Path));
    messina.ready();
    let watch = Watch::over(&messina);
    let began = Instant::now();
    let (mut sent, mut tasks) = (0, Vec::new());
    while began.elapsed().as_secs_f64() < length {
        if sent - (messina.ended_records() as i64) < AHEAD {
            sent = numbers.load_from(sent, 1_000_000, sent + AHEAD).wait();
        }
        tasks.push(messina.metric("messina_runtime_tasks"));
        std::thread::sleep(Duration::from_millis(200));
    }
    let rate = messina.ended_records() as f64 / began.elapsed().as_secs_f64();
    let seen = watch.stop();
    numbers.committed("soak", sent, &[&messina]);
    messina.stop();
    let slope = seen.slope(warm_up, |s| s.rss);
    let most = |from: f64, to: f64, value: fn(&Sample) -> usize| {
        let part = seen.samples.iter().filter(|s| (from..to).contains(&s.at));
        part.map(value).max().unwrap()
    };
    let middle = f64::midpoint(warm_up, length);
    let of = |value: fn(&Sample) -> usize| (most(warm_up, middle, value), most(middle, f64::MAX, value));
    let (files, threads) = (of(|s| s.files), of(|s| s.threads));
    let tasks = tasks.into_iter().fold(0.0, f64::max);
    println!(
        "{rate:.0} records a second for {length} s: {:.0} MiB at most, {slope:+.2} MiB a minute after {warm_up} s; files {files:?}, threads {threads:?} \
         in the first and second half; {tasks} tasks at most",
        seen.peak(0.0, f64::MAX)
    );
    // Allows for a connection more or less, and for threads of the blocking pool that come and go.
    assert!(files.1 <= files.0 + 4, "open files grow: {files:?}");
    assert!(threads.1 <= threads.0 + 4, "threads grow: {threads:?}");
    // One task for each record in flight, and a handful of the process's own.
    assert!(tasks <= MAX_IN_FLIGHT as f64 + 100.0, "{tasks} tasks");
    assert!(
        slope < if is_long() { SLOPE.0 } else { SLOPE.1 },
        "memory grows by {slope:.2} MiB a minute"
    );
    let judgement = judge(&bench, &numbers, "soak", sent);
    let mut figures = judgement.figures();
    figures["rss_slope_mb_per_min"] = json!(slope);
    figures["rss_peak_mb"] = json!(seen.peak(0.0, f64::MAX));
    figures["records_per_s"] = json!(rate);
    figures["seconds"] = json!(length);
    figures::note("soak", &figures);
    drop(messina);
    bench.clean();
}
