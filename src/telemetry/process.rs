//! Metrics that are counted elsewhere: the process (from `/proc`), its allocator, the Tokio runtimes, the schema registry, the CQL driver, the
//! certificates' files, and the log file.
//!
//! They are read when metrics are rendered, so they cost nothing in between. Only `/proc/self` is read; where it does not exist (not Linux), these
//! metrics stay at zero. Format: proc(5), `stat`, `status` and `limits`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use prometheus::{Counter, Gauge, IntCounter, IntGauge, IntGaugeVec};
use tokio::runtime::{Handle, RuntimeMetrics};

use super::allocator;
use super::declare::Family;
use super::logging::LogFile;
use super::metrics::Families;
use crate::certificates::{self, CertificateFile};
use crate::registry::RegistryStats;
use crate::store::scylla::DriverFigures;

/// Reads the values and sets their metrics.
pub(super) struct Sampler {
    cpu_seconds: Counter,
    resident: IntGauge,
    peak: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    threads: IntGauge,
    start_time: Gauge,
    committed: IntGauge,
    purged: IntCounter,
    ticks_per_second: f64,
    boot_time: Option<f64>,
    runtimes: Vec<Watched>,
    registry: Option<WatchedRegistry>,
    drivers: Vec<WatchedDriver>,
    certificates: Vec<WatchedCertificate>,
    log: Option<LogFile>,
    log_lines_lost: IntCounter,
}

struct WatchedDriver {
    figures: Box<dyn Fn() -> Option<DriverFigures> + Send>,
    nodes: IntGauge,
    connected: IntGauge,
    retries: IntCounter,
}

struct WatchedCertificate {
    file: CertificateFile,
    /// When the file was modified, as of the last read.
    modified: Option<SystemTime>,
    /// When the certificates of the first read expire.
    first: Option<i64>,
    families: Family<IntGaugeVec, 1>,
}

struct WatchedRegistry {
    stats: Arc<RegistryStats>,
    ok: IntCounter,
    unknown: IntCounter,
    refused: IntCounter,
    failed: IntCounter,
    schemas: IntGauge,
}

struct Watched {
    name: String,
    runtime: RuntimeMetrics,
    workers: IntGauge,
    busy_seconds: Counter,
    tasks: IntGauge,
    queue_depth: IntGauge,
}

impl Sampler {
    pub(super) fn new(families: &Families) -> Self {
        Self {
            cpu_seconds: families.process_cpu_seconds_total.of([]),
            resident: families.process_resident_memory_bytes.of([]),
            peak: families.process_peak_resident_memory_bytes.of([]),
            open_fds: families.process_open_fds.of([]),
            max_fds: families.process_max_fds.of([]),
            threads: families.process_threads.of([]),
            start_time: families.process_start_time_seconds.of([]),
            committed: families.allocator_committed_bytes.of([]),
            purged: families.allocator_purged_bytes_total.of([]),
            ticks_per_second: ticks_per_second(),
            boot_time: fs::read_to_string("/proc/stat").ok().and_then(|s| boot_time(&s)),
            runtimes: Vec::new(),
            registry: None,
            drivers: Vec::new(),
            certificates: Vec::new(),
            log: None,
            log_lines_lost: families.log_lines_lost_total.of([]),
        }
    }

    pub(super) fn watch(&mut self, families: &Families, name: &str, runtime: Handle) {
        self.runtimes.push(Watched {
            name: name.to_owned(),
            runtime: runtime.metrics(),
            workers: families.runtime_workers.of([name]),
            busy_seconds: families.runtime_busy_seconds_total.of([name]),
            tasks: families.runtime_tasks.of([name]),
            queue_depth: families.runtime_queue_depth.of([name]),
        });
    }

    pub(super) fn forget(&mut self, families: &Families, name: &str) {
        self.runtimes.retain(|watched| watched.name != name);
        families.forget_all("runtime", name);
    }

    pub(super) fn watch_registry(&mut self, families: &Families, stats: Arc<RegistryStats>) {
        self.registry = Some(WatchedRegistry {
            stats,
            ok: families.registry_requests_total.of(["ok"]),
            unknown: families.registry_requests_total.of(["unknown"]),
            refused: families.registry_requests_total.of(["refused"]),
            failed: families.registry_requests_total.of(["failed"]),
            schemas: families.registry_schemas.of([]),
        });
    }

    pub(super) fn watch_driver(
        &mut self,
        families: &Families,
        runtime: &str,
        figures: Box<dyn Fn() -> Option<DriverFigures> + Send>,
    ) {
        self.drivers.push(WatchedDriver {
            figures,
            nodes: families.cql_nodes.of([runtime]),
            connected: families.cql_nodes_connected.of([runtime]),
            retries: families.cql_retries_total.of([runtime]),
        });
    }

    /// Watches these files, and stops watching all others. A file that was watched before keeps its state: it may be unreadable now, while connections
    /// still use what was read from it. If two sections name one file and one of them reads it only once, it counts as read once.
    pub(super) fn watch_certificates(&mut self, families: &Families, mut files: Vec<CertificateFile>) {
        let once: Vec<PathBuf> = files
            .iter()
            .filter(|file| file.once)
            .map(|file| file.path.clone())
            .collect();
        for file in &mut files {
            file.once = once.contains(&file.path);
        }
        let expiry = &families.certificate_expiry_timestamp_seconds;
        let mut before = std::mem::take(&mut self.certificates);
        let watched = files
            .into_iter()
            .map(|file| match before.iter().position(|known| known.file == file) {
                Some(known) => before.swap_remove(known),
                None => WatchedCertificate {
                    file,
                    modified: None,
                    first: None,
                    families: expiry.clone(),
                },
            });
        self.certificates = watched.collect();
        for gone in before {
            let path = gone.file.path;
            if self.certificates.iter().all(|stays| stays.file.path != path) {
                expiry.forget([&path.to_string_lossy()]);
            }
        }
    }

    pub(super) fn watch_log(&mut self, file: LogFile) {
        self.log = Some(file);
    }

    pub(super) fn sample(&mut self) {
        if let Some(stat) = fs::read_to_string("/proc/self/stat")
            .ok()
            .as_deref()
            .and_then(Stat::parse)
        {
            raise(&self.cpu_seconds, stat.cpu_ticks as f64 / self.ticks_per_second);
            self.threads.set(stat.threads);
            if let Some(boot) = self.boot_time {
                self.start_time
                    .set(boot + stat.start_ticks as f64 / self.ticks_per_second);
            }
        }
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            self.resident.set(kibibytes(&status, "VmRSS:").unwrap_or_default());
            self.peak.set(kibibytes(&status, "VmHWM:").unwrap_or_default());
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // One of the entries is the directory being read.
            self.open_fds.set(entries.count().saturating_sub(1) as i64);
        }
        if let Some(limit) = fs::read_to_string("/proc/self/limits")
            .ok()
            .as_deref()
            .and_then(max_open_files)
        {
            self.max_fds.set(limit);
        }
        if let Some(figures) = allocator::figures() {
            self.committed.set(figures.committed.current);
            self.purged.inc_by(figures.purged.saturating_sub(self.purged.get()));
        }
        if let Some(log) = &self.log {
            self.log_lines_lost
                .inc_by(log.lost().saturating_sub(self.log_lines_lost.get()));
        }
        self.drivers.retain(WatchedDriver::show);
        self.certificates.iter_mut().for_each(WatchedCertificate::show);
        for watched in &self.runtimes {
            let workers = watched.runtime.num_workers();
            let busy = (0..workers)
                .map(|w| watched.runtime.worker_total_busy_duration(w).as_secs_f64())
                .sum();
            watched.workers.set(workers as i64);
            raise(&watched.busy_seconds, busy);
            watched.tasks.set(watched.runtime.num_alive_tasks() as i64);
            watched.queue_depth.set(watched.runtime.global_queue_depth() as i64);
        }
        if let Some(watched) = &self.registry {
            let follow = |counter: &IntCounter, total: &AtomicU64| {
                counter.inc_by(total.load(Ordering::Relaxed).saturating_sub(counter.get()));
            };
            follow(&watched.ok, &watched.stats.ok);
            follow(&watched.unknown, &watched.stats.unknown);
            follow(&watched.refused, &watched.stats.refused);
            follow(&watched.failed, &watched.stats.failed);
            watched
                .schemas
                .set(i64::try_from(watched.stats.schemas.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
        }
    }
}

impl WatchedDriver {
    /// Updates the metrics. Returns whether the driver still exists.
    fn show(&self) -> bool {
        let figures = (self.figures)();
        let DriverFigures {
            nodes,
            connected,
            retries,
        } = figures.unwrap_or_default();
        self.nodes.set(nodes as i64);
        self.connected.set(connected as i64);
        self.retries.inc_by(retries.saturating_sub(self.retries.get()));
        figures.is_some()
    }
}

impl WatchedCertificate {
    /// Reads the file if it was modified. A file that cannot be read keeps its series, because connections still use what was read from it. If a file is
    /// read only once, its first certificates stay in use: a newer file does not postpone the expiry.
    fn show(&mut self) {
        let Ok(modified) = fs::metadata(&self.file.path).and_then(|file| file.modified()) else {
            return;
        };
        if self.modified == Some(modified) {
            return;
        }
        if let Some(end) = fs::read(&self.file.path)
            .ok()
            .and_then(|pem| certificates::end(&pem, self.file.authority))
        {
            let first = *self.first.get_or_insert(end);
            let end = if self.file.once { first.min(end) } else { end };
            self.families.of([&self.file.path.to_string_lossy()]).set(end);
            self.modified = Some(modified);
        }
    }
}

/// Raises a counter to a total that is counted elsewhere.
fn raise(counter: &Counter, total: f64) {
    let more = total - counter.get();
    if more > 0.0 {
        counter.inc_by(more);
    }
}

/// The unit of times in `stat`.
pub(crate) fn ticks_per_second() -> f64 {
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

/// The fields of `/proc/self/stat` that are exported.
#[derive(Debug, PartialEq)]
pub(crate) struct Stat {
    /// User and system time.
    pub(crate) cpu_ticks: u64,
    threads: i64,
    start_ticks: u64,
}

impl Stat {
    /// The second field, the program's name, is in parentheses and may contain anything, so fields are counted after the last parenthesis.
    pub(crate) fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: number(14)? + number(15)?,
            threads: i64::try_from(number(20)?).ok()?,
            start_ticks: number(22)?,
        })
    }
}

/// Seconds since the epoch at which the system started, from `/proc/stat`.
fn boot_time(stat: &str) -> Option<f64> {
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

/// A value of `/proc/self/status`, in bytes.
pub(crate) fn kibibytes(status: &str, name: &str) -> Option<i64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<i64>()
        .ok()
        .map(|k| k * 1024)
}

/// The soft limit of open files; `None` if unlimited.
fn max_open_files(limits: &str) -> Option<i64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_read_again_when_its_file_changes() {
        let families = Families::declare(&prometheus::Registry::new()).unwrap();
        let mut sampler = Sampler::new(&families);
        let path = std::env::temp_dir().join(format!("messina-certificate-{}.pem", std::process::id()));
        let file = CertificateFile {
            path: path.clone(),
            authority: false,
            once: false,
        };
        sampler.watch_certificates(&families, vec![file]);
        let name = path.to_string_lossy().into_owned();
        let shown = |sampler: &mut Sampler| {
            sampler.sample();
            families.certificate_expiry_timestamp_seconds.by("file", &name, "file")
        };
        assert_eq!(shown(&mut sampler), [], "there is no file, and so no series");
        let write = |end, age| {
            let pem = certificates::tests::pem(end);
            fs::write(&path, pem).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age))
                .unwrap();
        };
        write(1_900_000_000, 60);
        assert_eq!(shown(&mut sampler), [(name.clone(), 1_900_000_000)]);
        write(1_950_000_000, 0);
        assert_eq!(shown(&mut sampler), [(name.clone(), 1_950_000_000)]);
        fs::remove_file(&path).unwrap();
        assert_eq!(shown(&mut sampler), [(name.clone(), 1_950_000_000)]);
    }

    #[test]
    fn a_certificate_that_is_read_once_runs_out_although_its_file_is_renewed() {
        let families = Families::declare(&prometheus::Registry::new()).unwrap();
        let mut sampler = Sampler::new(&families);
        let path = std::env::temp_dir().join(format!("messina-certificate-once-{}.pem", std::process::id()));
        let file = |once| CertificateFile {
            path: path.clone(),
            authority: false,
            once,
        };
        // The database uses the same file, but re-reads it.
        let files = [file(false), file(true), file(false)];
        let name = path.to_string_lossy().into_owned();
        let mut shown = |end, age| {
            fs::write(&path, certificates::tests::pem(end)).unwrap();
            let written = fs::File::options().write(true).open(&path).unwrap();
            written
                .set_modified(SystemTime::now() - std::time::Duration::from_secs(age))
                .unwrap();
            sampler.watch_certificates(&families, files.to_vec());
            sampler.sample();
            families.certificate_expiry_timestamp_seconds.by("file", &name, "file")
        };
        assert_eq!(shown(1_900_000_000, 60), [(name.clone(), 1_900_000_000)]);
        assert_eq!(shown(1_950_000_000, 40), [(name.clone(), 1_900_000_000)]);
        assert_eq!(shown(1_800_000_000, 20), [(name.clone(), 1_800_000_000)]);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn certificates_that_a_reload_brings_are_watched_and_those_that_it_removes_are_not() {
        let families = Families::declare(&prometheus::Registry::new()).unwrap();
        let mut sampler = Sampler::new(&families);
        let file = |name: &str| CertificateFile {
            path: std::env::temp_dir().join(format!("messina-{name}-{}.pem", std::process::id())),
            authority: false,
            once: false,
        };
        let (goes, stays, comes) = (file("goes"), file("stays"), file("comes"));
        for (file, end) in [(&goes, 1_900_000_000), (&stays, 1_910_000_000), (&comes, 1_920_000_000)] {
            fs::write(&file.path, certificates::tests::pem(end)).unwrap();
        }
        let mut watch = |files: &[&CertificateFile]| {
            sampler.watch_certificates(&families, files.iter().map(|file| (*file).clone()).collect());
            sampler.sample();
            [&goes, &stays, &comes].map(|file| {
                let name = file.path.to_string_lossy();
                let shown = families.certificate_expiry_timestamp_seconds.by("file", &name, "file");
                shown.first().map(|(_, end)| *end)
            })
        };
        // Two sections name one of the files.
        assert_eq!(
            watch(&[&goes, &stays, &stays]),
            [Some(1_900_000_000), Some(1_910_000_000), None]
        );
        fs::remove_file(&stays.path).unwrap();
        let after = [None, Some(1_910_000_000), Some(1_920_000_000)];
        assert_eq!(watch(&[&stays, &comes]), after, "what stays has been read");
        assert_eq!(watch(&[&stays, &comes]), after);
        for file in [&goes, &comes] {
            fs::remove_file(&file.path).unwrap();
        }
    }

    #[test]
    fn a_driver_is_shown_until_it_is_gone() {
        let families = Families::declare(&prometheus::Registry::new()).unwrap();
        let mut sampler = Sampler::new(&families);
        let figures = Arc::new(std::sync::Mutex::new(Some(DriverFigures {
            nodes: 3,
            connected: 2,
            retries: 7,
        })));
        let shared = Arc::clone(&figures);
        sampler.watch_driver(&families, "loop-0", Box::new(move || *shared.lock().unwrap()));
        let shown = |sampler: &mut Sampler| {
            sampler.sample();
            (
                families.cql_nodes.of(["loop-0"]).get(),
                families.cql_nodes_connected.of(["loop-0"]).get(),
                families.cql_retries_total.of(["loop-0"]).get(),
            )
        };
        assert_eq!(shown(&mut sampler), (3, 2, 7));
        assert_eq!(shown(&mut sampler), (3, 2, 7));
        *figures.lock().unwrap() = None;
        assert_eq!(
            shown(&mut sampler),
            (0, 0, 7),
            "none is missing of a session that has ended"
        );
        assert!(sampler.drivers.is_empty());
    }

    #[test]
    fn stat_is_read_behind_any_program_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 2103 0 1 0 250 50 0 0 20 0 7 0 123456 3000000 500 1844";
        assert_eq!(
            Stat::parse(stat),
            Some(Stat {
                cpu_ticks: 300,
                threads: 7,
                start_ticks: 123_456
            })
        );
        assert_eq!(Stat::parse("42 (short) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn the_other_files_are_read() {
        assert_eq!(
            boot_time("cpu 1 2\nbtime 1700000000\nprocesses 3\n"),
            Some(1_700_000_000.0)
        );
        assert_eq!(
            kibibytes("VmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n", "VmRSS:"),
            Some(1_048_576)
        );
        assert_eq!(
            max_open_files("Max open files            1024                 524288               files\n"),
            Some(1024)
        );
        assert_eq!(
            max_open_files("Max open files            unlimited            unlimited            files\n"),
            None
        );
    }
}
