//! Logs: to stderr, as text on a terminal and as JSON lines elsewhere; or to a file, which is reopened when it is rotated.
//!
//! Standard output belongs to the answers of commands, so that they can be piped. The configuration sets what is logged at which level; the
//! environment variable `RUST_LOG` overrides it for a single run. SIGUSR1 logs more of Messina itself, SIGUSR2 ends that. Messages have fields
//! (pipeline, step, partition, offset), and never keys or payloads, at any level.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{ParseError, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, registry, reload};

use super::breadcrumbs::Breadcrumbs;
use super::limit::Limiter;
use super::scrub::scrub;
use crate::config::LogFormat;

/// Interval between messages on stderr about a log file that cannot be written.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Interval between checks whether the log file's name now refers to another file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The text is not a level or filter.
    #[error(
        "{from} is not a log level or filter: {error} (try error, warn, info, debug, trace, or messina=debug,info)"
    )]
    Filter {
        /// The setting that contains it.
        from: &'static str,
        /// What is wrong with it.
        error: ParseError,
    },
    /// The file cannot be opened.
    #[error("cannot open the log file {path}: {error}")]
    File {
        /// The file's path.
        path: String,
        /// The system's error.
        error: std::io::Error,
    },
    /// The process has set up logging already.
    #[error("logging is set up already: {0}")]
    Twice(#[from] TryInitError),
}

/// Starts logging to stderr, or to `file`. `level` is a level (`info`) or a filter (`info,scylla=debug`) from the configuration. Warnings and errors
/// that are logged also go into `breadcrumbs`.
///
/// # Errors
/// If `level` or `RUST_LOG` is not a filter, the file cannot be opened, or logging was started before.
pub fn init(
    level: &str,
    format: LogFormat,
    file: Option<&LogFile>,
    breadcrumbs: Option<Breadcrumbs>,
) -> Result<Verbosity, LoggingError> {
    let (filter, verbosity) = Verbosity::new(filter(level, std::env::var("RUST_LOG").ok().as_deref())?);
    let terminal = file.is_none() && std::io::stderr().is_terminal();
    let json = format == LogFormat::Json || (format == LogFormat::Auto && !terminal);
    match file {
        Some(file) => {
            let file = file.clone();
            subscriber(filter, json, false, move || file.clone())
                .with(breadcrumbs)
                .try_init()?;
        }
        None => subscriber(filter, json, terminal, std::io::stderr)
            .with(breadcrumbs)
            .try_init()?,
    }
    log_panics();
    Ok(verbosity)
}

/// From now on, panics are logged too, in the log's format and to its destination. They are still printed as before: a panic inside logging itself
/// would otherwise go unseen.
fn log_panics() {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        tracing::error!(
            thread = thread.name(),
            place = panic.location().map(tracing::field::display),
            "a thread panicked: {}",
            scrub(panic.payload_as_str().unwrap_or("no text"))
        );
        next(panic);
    }));
}

type Filter = reload::Layer<EnvFilter, Registry>;

/// Changes what is logged while the process runs.
#[derive(Debug, Clone)]
pub struct Verbosity {
    filter: reload::Handle<EnvFilter, Registry>,
    /// The filter at the start.
    configured: Arc<str>,
    /// How many levels have been added.
    more: Arc<AtomicUsize>,
}

impl Verbosity {
    /// The levels of Messina itself that each call of [`Verbosity::more`] adds.
    const MORE: [&str; 2] = ["debug", "trace"];

    fn new(filter: EnvFilter) -> (Filter, Verbosity) {
        let configured = filter.to_string().into();
        let (layer, filter) = reload::Layer::new(filter);
        let more = Arc::default();
        let verbosity = Verbosity {
            filter,
            configured,
            more,
        };
        (layer, verbosity)
    }

    /// Logs more of Messina itself: first debug, then trace. Returns the new filter.
    ///
    /// # Errors
    /// If logging has ended, as a message.
    pub fn more(&self) -> Result<String, String> {
        let step = self.more.load(Ordering::Relaxed);
        self.more
            .store((step + 1).min(Verbosity::MORE.len()), Ordering::Relaxed);
        let level = Verbosity::MORE[step.min(Verbosity::MORE.len() - 1)];
        self.set(format!("{},messina={level}", self.configured))
    }

    /// Returns to the configured filter. Returns that filter.
    ///
    /// # Errors
    /// If logging has ended, as a message.
    pub fn as_configured(&self) -> Result<String, String> {
        self.more.store(0, Ordering::Relaxed);
        self.set(self.configured.to_string())
    }

    fn set(&self, text: String) -> Result<String, String> {
        let filter = EnvFilter::builder().parse(&text).map_err(|error| error.to_string())?;
        self.filter.reload(filter).map_err(|error| error.to_string())?;
        Ok(text)
    }
}

/// A log file. Lines are appended. When the file is renamed or deleted, logging continues in a new file under the name, so log rotation needs no
/// signal. Lines that cannot be written are lost, and counted.
#[derive(Debug, Clone)]
pub struct LogFile {
    path: Arc<Path>,
    opened: Arc<Mutex<Opened>>,
    lost: Arc<AtomicU64>,
    told: Arc<Limiter<&'static str>>,
}

#[derive(Debug)]
struct Opened {
    file: File,
    /// When it was last checked whether the file still has the name.
    looked: Instant,
    /// Whether the file ends in an incomplete line.
    torn: bool,
}

impl Opened {
    fn new(path: &Path) -> Result<Opened, LoggingError> {
        Ok(Opened {
            file: appended(path)?,
            looked: Instant::now(),
            torn: false,
        })
    }

    /// Switches to the file that now has the name, if it is another one. If that cannot be opened, logging continues in the old one.
    fn follow(&mut self, path: &Path, now: Instant) -> Result<(), LoggingError> {
        if now.saturating_duration_since(self.looked) < LOOK_EVERY {
            return Ok(());
        }
        self.looked = now;
        let same = match (std::fs::metadata(path), self.file.metadata()) {
            (Ok(named), Ok(open)) => are_same(&named, &open),
            (Err(error), _) => error.kind() != ErrorKind::NotFound,
            (Ok(_), Err(_)) => true,
        };
        if !same {
            self.file = appended(path)?;
            self.torn = false;
        }
        Ok(())
    }
}

impl LogFile {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    /// If the file can be neither opened nor created.
    pub fn open(path: &Path) -> Result<LogFile, LoggingError> {
        Ok(LogFile {
            path: path.into(),
            opened: Arc::new(Mutex::new(Opened::new(path)?)),
            lost: Arc::default(),
            told: Arc::new(Limiter::new(TELL_EVERY)),
        })
    }

    /// Opens the file by its name again. If that fails, logging continues in the old one.
    ///
    /// # Errors
    /// If the file can be neither opened nor created.
    pub fn reopen(&self) -> Result<(), LoggingError> {
        let mut again = Opened::new(&self.path)?;
        let mut opened = self.opened();
        // The file may not have been moved: if it is the same one, it may still end in an incomplete line.
        again.torn = opened.torn
            && matches!((again.file.metadata(), opened.file.metadata()), (Ok(new), Ok(old)) if are_same(&new, &old));
        *opened = again;
        Ok(())
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, line: &[u8], now: Instant) -> std::io::Result<()> {
        let mut opened = self.opened();
        let followed = opened.follow(&self.path, now);
        let Opened { file, torn, .. } = &mut *opened;
        let written = write_line(file, torn, line);
        drop(opened);
        if let Err(error) = followed
            && self.told.admit("opened", now).is_some()
        {
            say!("{error}; the old one stays in use");
        }
        if let Err(error) = &written {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            if self.told.admit("lost", now).is_some() {
                say!(
                    "cannot write to the log file {}: {error}; lines lost: {lost}",
                    self.path.display()
                );
            }
        }
        written
    }

    /// Number of lines that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Writes a line. If the file ends in an incomplete line (`torn`), left by a full disk, starts a new line first.
fn write_line(file: &mut impl Write, torn: &mut bool, line: &[u8]) -> std::io::Result<()> {
    if *torn {
        file.write_all(b"\n")?;
        *torn = false;
    }
    let mut left = line;
    while !left.is_empty() {
        match file.write(left) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                left = &left[written..];
                *torn = !left.is_empty();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether both describe the same file.
fn are_same(one: &std::fs::Metadata, other: &std::fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn appended(path: &Path) -> Result<File, LoggingError> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|error| LoggingError::File {
        path: path.display().to_string(),
        error,
    })
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.opened().file.write(bytes)
    }

    /// Each log line arrives through this method. No caller looks at the result.
    fn write_all(&mut self, line: &[u8]) -> std::io::Result<()> {
        self.append(line, Instant::now())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.opened().file.flush()
    }
}

/// Whether a text is a valid level or filter.
pub fn is_filter(text: &str) -> bool {
    filter(text, None).is_ok()
}

/// The filter: `RUST_LOG` if it is not empty, otherwise the configured one.
fn filter(level: &str, rust_log: Option<&str>) -> Result<EnvFilter, LoggingError> {
    let (from, text) = match rust_log {
        Some(text) if !text.is_empty() => ("RUST_LOG", text),
        _ => ("the configured level", level),
    };
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| LoggingError::Filter { from, error })
}

fn subscriber<W>(filter: Filter, json: bool, colour: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(colour).boxed()
    };
    registry().with(filter).with(filter_fn(is_for_the_log)).with(lines)
}

/// Leaves out two things that the driver logs. It repeats a server's warning with each answer that carries it, which may be once per record; the store
/// logs it once per statement. And its spans, which are part of each line logged within them, contain the partition key of a request.
fn is_for_the_log(it: &Metadata<'_>) -> bool {
    !(it.target().starts_with("scylla::") && (it.is_span() || it.fields().field("warning").is_some()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The lines logged so far.
    #[derive(Clone, Default)]
    pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        /// Captures this thread's log lines until the guard is dropped.
        pub(crate) fn begin(&self) -> tracing::subscriber::DefaultGuard {
            let into = self.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(move || into.clone())
                .finish();
            tracing::subscriber::set_default(subscriber)
        }

        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: EnvFilter, json: bool) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let (filter, _) = Verbosity::new(filter);
        tracing::subscriber::with_default(subscriber(filter, json, false, move || writer.clone()), || {
            tracing::info!(pipeline = "navigation", offset = 7, "taken");
            tracing::debug!("detail");
        });
        lines.text()
    }

    #[test]
    fn warnings_of_the_server_are_left_to_the_store() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (filter, _) = Verbosity::new(filter("info", None).unwrap());
        tracing::subscriber::with_default(subscriber(filter, false, false, move || writer.clone()), || {
            tracing::warn!(target: "scylla::network::connection", warning = "a", "the driver's");
            tracing::warn!(target: "scylla::network::connection", "keepalive");
            tracing::warn!(target: "messina::store::scylla", warning = "a", "the store's");
        });
        let lines = lines.text();
        assert!(!lines.contains("the driver's"), "{lines}");
        assert!(lines.contains("keepalive") && lines.contains("the store's"), "{lines}");
    }

    /// `log.level = "trace"` shows the driver's requests.
    #[test]
    fn keys_of_the_drivers_requests_are_not_logged() {
        for json in [false, true] {
            let lines = Lines::default();
            let writer = lines.clone();
            let (filter, _) = Verbosity::new(filter("trace", None).unwrap());
            tracing::subscriber::with_default(subscriber(filter, json, false, move || writer.clone()), || {
                let span = tracing::trace_span!(
                    target: "scylla::observability::driver_tracing", "Request", partition_key = tracing::field::Empty
                );
                span.record("partition_key", "alice@x.org");
                span.in_scope(|| tracing::trace!(target: "scylla::client::execution", "sent"));
                tracing::info_span!("own", pipeline = "navigation").in_scope(|| tracing::info!("taken"));
            });
            let lines = lines.text();
            assert!(!lines.contains("alice"), "{lines}");
            assert!(lines.contains("sent") && lines.contains("navigation"), "{lines}");
        }
    }

    #[test]
    fn more_is_logged_for_a_while_and_then_as_configured() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (filter, verbosity) = Verbosity::new(filter("warn,scylla=error", None).unwrap());
        tracing::subscriber::with_default(subscriber(filter, false, false, move || writer.clone()), || {
            let log = |round: &str| {
                tracing::trace!(target: "messina", "trace {round}");
                tracing::debug!(target: "messina", "debug {round}");
                tracing::warn!(target: "messina", "warn {round}");
                tracing::debug!(target: "scylla", "driver {round}");
            };
            log("0");
            assert!(verbosity.more().unwrap().ends_with("messina=debug"));
            log("1");
            verbosity.more().unwrap();
            assert!(verbosity.more().unwrap().ends_with("messina=trace"));
            log("2");
            assert!(!verbosity.as_configured().unwrap().contains("messina"));
            log("3");
            assert!(verbosity.more().unwrap().ends_with("messina=debug"));
        });
        let text = lines.text();
        let words: Vec<_> = text
            .lines()
            .map(|line| line.rsplit("messina: ").next().unwrap())
            .collect();
        assert_eq!(
            words,
            ["warn 0", "debug 1", "warn 1", "trace 2", "debug 2", "warn 2", "warn 3"]
        );
    }

    #[test]
    fn a_panic_is_a_line_of_the_log() {
        let lines = Lines::default();
        let writer = lines.clone();
        let (filter, _) = Verbosity::new(filter("error", None).unwrap());
        log_panics();
        tracing::subscriber::with_default(subscriber(filter, true, false, move || writer.clone()), || {
            std::panic::catch_unwind(|| panic!("no room for \"bob\"")).unwrap_err();
        });
        let text = lines.text();
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "a thread panicked: no room for \"…\"");
        assert!(line["place"].as_str().unwrap().contains("logging.rs:"), "{line}");
    }

    #[test]
    fn json_lines_carry_the_fields() {
        let text = logged(filter("info", None).unwrap(), true);
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!((&line["level"], &line["message"]), (&"INFO".into(), &"taken".into()));
        assert_eq!((&line["pipeline"], &line["offset"]), (&"navigation".into(), &7.into()));
    }

    #[test]
    fn a_log_file_goes_on_under_its_name() {
        let directory = std::env::temp_dir().join(format!("messina-log-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (path, moved) = (directory.join("log"), directory.join("log.1"));
        let began = Instant::now();
        let file = LogFile::open(&path).unwrap();
        let write = |line: &str, minutes: u64| {
            let now = began + Duration::from_secs(60 * minutes);
            file.append(line.as_bytes(), now).unwrap();
        };
        let text = |path| std::fs::read_to_string(path).unwrap();
        write("one\n", 0);
        std::fs::rename(&path, &moved).unwrap();
        write("two\n", 0);
        write("three\n", 1);
        write("four\n", 2);
        assert_eq!(
            (text(&moved).as_str(), text(&path).as_str()),
            ("one\ntwo\n", "three\nfour\n")
        );
        // The log rotation has created a new file already.
        std::fs::rename(&path, &moved).unwrap();
        std::fs::write(&path, "").unwrap();
        write("five\n", 3);
        assert_eq!(
            (text(&moved).as_str(), text(&path).as_str()),
            ("three\nfour\n", "five\n")
        );
        // The log rotation copied the file and truncated it.
        OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        write("six\n", 4);
        assert_eq!(text(&path), "six\n");
        // The same file still ends in the incomplete line left by a full disk.
        file.opened().torn = true;
        file.reopen().unwrap();
        write("seven\n", 4);
        assert_eq!(text(&path), "six\n\nseven\n");
        // After a reopen, a new file is used at once.
        std::fs::rename(&path, &moved).unwrap();
        file.opened().torn = true;
        file.reopen().unwrap();
        write("eight\n", 4);
        assert_eq!(
            (text(&moved).as_str(), text(&path).as_str()),
            ("six\n\nseven\n", "eight\n")
        );
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(file.reopen().unwrap_err().to_string().contains("log file"));
        write("nine\n", 5);
    }

    /// A disk with room for this many bytes.
    struct Disk(Vec<u8>, usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = bytes.len().min(self.1 - self.0.len());
            if taken == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_behind_a_piece_of_one_begins_anew() {
        let (mut disk, mut torn) = (Disk(Vec::new(), 6), false);
        for (line, taken) in [("one\n", true), ("two\n", false), ("three\n", false)] {
            assert_eq!(
                write_line(&mut disk, &mut torn, line.as_bytes()).is_ok(),
                taken,
                "{line}"
            );
        }
        disk.1 = 100;
        write_line(&mut disk, &mut torn, b"four\n").unwrap();
        // If nothing of a line was written, nothing has to be ended.
        disk.1 = disk.0.len();
        write_line(&mut disk, &mut torn, b"five\n").unwrap_err();
        disk.1 = 100;
        write_line(&mut disk, &mut torn, b"six\n").unwrap();
        assert_eq!(String::from_utf8(disk.0).unwrap(), "one\ntw\nfour\nsix\n");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn lines_that_a_full_disk_does_not_take_are_counted() {
        let file = LogFile::open(Path::new("/dev/full")).unwrap();
        let metrics = crate::telemetry::Metrics::new().unwrap();
        metrics.watch_log(file.clone());
        let (filter, _) = Verbosity::new(filter("info", None).unwrap());
        tracing::subscriber::with_default(subscriber(filter, true, false, move || file.clone()), || {
            tracing::info!("one");
            tracing::info!("two");
        });
        for _ in 0..2 {
            let text = String::from_utf8(metrics.render()).unwrap();
            assert!(text.contains("\nmessina_log_lines_lost_total 2\n"), "{text}");
        }
    }

    #[test]
    fn rust_log_wins_and_says_so_when_it_is_wrong() {
        assert_eq!(logged(filter("info", Some("debug")).unwrap(), false).lines().count(), 2);
        assert_eq!(logged(filter("info", Some("")).unwrap(), false).lines().count(), 1);
        assert_eq!(logged(filter("debug", Some("warn")).unwrap(), false), "");
        let error = filter("info", Some("messina=loud")).unwrap_err().to_string();
        assert!(error.starts_with("RUST_LOG is not"), "{error}");
        let error = filter("messina=loud", None).unwrap_err().to_string();
        assert!(error.starts_with("the configured level is not"), "{error}");
    }
}
