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

/// Between two words on stderr about a log file that takes no lines.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Between two looks at which file has the log file's name.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level is not one.
    #[error(
        "{from} is not a log level or filter: {error} (try error, warn, info, debug, trace, or messina=debug,info)"
    )]
    Filter {
        /// The setting that holds it.
        from: &'static str,
        /// What is wrong with it.
        error: ParseError,
    },
    /// The file cannot be opened.
    #[error("cannot open the log file {path}: {error}")]
    File {
        /// Its name.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The process logs already.
    #[error("logging is set up already: {0}")]
    Twice(#[from] TryInitError),
}

/// Starts logging to stderr, or to `file`. `level` is a level (`info`) or a filter (`info,scylla=debug`) from the configuration. What is logged as
/// warning or error goes into `breadcrumbs` too.
///
/// # Errors
/// When `level` or `RUST_LOG` cannot be read as a filter, the file cannot be opened, or logging was started before.
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

/// From now on a panic is a line of the log too, in its form and at its place. What was printed of it before still is: one within logging itself
/// would otherwise be seen by nobody.
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
    /// What was asked for at the start.
    configured: Arc<str>,
    /// How many levels more.
    more: Arc<AtomicUsize>,
}

impl Verbosity {
    /// Messina's own levels beyond the configured ones, one for each [`Verbosity::more`].
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

    /// Logs more of Messina itself: debug, and then trace. Gives the filter from then on.
    ///
    /// # Errors
    /// In words, when logging has ended.
    pub fn more(&self) -> Result<String, String> {
        let step = self.more.load(Ordering::Relaxed);
        self.more
            .store((step + 1).min(Verbosity::MORE.len()), Ordering::Relaxed);
        let level = Verbosity::MORE[step.min(Verbosity::MORE.len() - 1)];
        self.set(format!("{},messina={level}", self.configured))
    }

    /// Logs as configured again. Gives the filter from then on.
    ///
    /// # Errors
    /// In words, when logging has ended.
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

/// A log file. Lines are appended; after its name has been given to another file, or is gone, they go on under the name, so that who rotates logs needs
/// to tell nobody. Lines that it does not take are lost, and counted.
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
    /// When it was last known to have the name.
    looked: Instant,
    /// It ends in a piece of a line.
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

    /// Goes on in the file of this name where that is another one by now. Where it cannot be opened the old one is written on.
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
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// When neither is possible.
    pub fn open(path: &Path) -> Result<LogFile, LoggingError> {
        Ok(LogFile {
            path: path.into(),
            opened: Arc::new(Mutex::new(Opened::new(path)?)),
            lost: Arc::default(),
            told: Arc::new(Limiter::new(TELL_EVERY)),
        })
    }

    /// Opens the file of this name again. Where that fails the old one is written on.
    ///
    /// # Errors
    /// When it cannot be opened or made.
    pub fn reopen(&self) -> Result<(), LoggingError> {
        let mut again = Opened::new(&self.path)?;
        let mut opened = self.opened();
        // Nobody has to have moved it: the same file ends as it did.
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

    /// Lines that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Writes a line; behind a piece of one, which a full disk has left, it begins anew. `torn` is whether there is such a piece.
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

/// Whether two names or handles are those of one file.
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

    /// Each line comes so. Nobody else looks at what becomes of it.
    fn write_all(&mut self, line: &[u8]) -> std::io::Result<()> {
        self.append(line, Instant::now())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.opened().file.flush()
    }
}

/// Whether a text can be read as a level or a filter.
pub fn is_filter(text: &str) -> bool {
    filter(text, None).is_ok()
}

/// The filter: `RUST_LOG` where it says something, else the configuration's.
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

/// The driver logs a warning of the server's with each answer that has it, which may be each record's; the store logs it once for each
/// statement. And its spans, which stand in each line that is logged within them, have the partition key of a request.
fn is_for_the_log(it: &Metadata<'_>) -> bool {
    !(it.target().starts_with("scylla::") && (it.is_span() || it.fields().field("warning").is_some()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What was logged.
    #[derive(Clone, Default)]
    pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        /// Takes this thread's lines, until the guard is dropped.
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
        // Who moved it has made another one already.
        std::fs::rename(&path, &moved).unwrap();
        std::fs::write(&path, "").unwrap();
        write("five\n", 3);
        assert_eq!(
            (text(&moved).as_str(), text(&path).as_str()),
            ("three\nfour\n", "five\n")
        );
        // Copied, and cut short in its place.
        OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        write("six\n", 4);
        assert_eq!(text(&path), "six\n");
        // The same file has still what a full disk has left of a line.
        file.opened().torn = true;
        file.reopen().unwrap();
        write("seven\n", 4);
        assert_eq!(text(&path), "six\n\nseven\n");
        // At once.
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

    /// A disk that has room for so many bytes.
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
        // Of one that was not begun nothing is left.
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
