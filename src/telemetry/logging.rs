//! Logs: to stderr, for people on a terminal and as JSON lines elsewhere.
//!
//! Standard output belongs to what a command answers, so that it can be piped. What is logged, and at which level, is
//! said by the configuration; the environment variable `RUST_LOG` wins, for the one run that needs a closer look.
//! Messages carry fields (pipeline, step, partition, offset), and never keys or payloads.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, registry};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Human on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

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
    /// The process logs already.
    #[error("logging is set up already: {0}")]
    Twice(#[from] TryInitError),
}

/// Starts logging to stderr. `level` is a level (`info`) or a filter (`info,scylla=debug`) from the configuration.
///
/// # Errors
/// When `level` or `RUST_LOG` cannot be read as a filter, or logging was started before.
pub fn init(level: &str, format: Format) -> Result<(), LoggingError> {
    let filter = filter(level, std::env::var("RUST_LOG").ok().as_deref())?;
    let terminal = std::io::stderr().is_terminal();
    let json = format == Format::Json || (format == Format::Auto && !terminal);
    Ok(subscriber(filter, json, terminal, std::io::stderr).try_init()?)
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

fn subscriber<W>(filter: EnvFilter, json: bool, colour: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(colour).boxed()
    };
    registry().with(filter).with(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

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
        tracing::subscriber::with_default(subscriber(filter, json, false, move || writer.clone()), || {
            tracing::info!(pipeline = "navigation", offset = 7, "taken");
            tracing::debug!("detail");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_carry_the_fields() {
        let text = logged(filter("info", None).unwrap(), true);
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!((&line["level"], &line["message"]), (&"INFO".into(), &"taken".into()));
        assert_eq!((&line["pipeline"], &line["offset"]), (&"navigation".into(), &7.into()));
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
