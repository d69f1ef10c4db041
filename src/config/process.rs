//! `[http]`, `[log]`, `[sentry]`, `[tracing]`, `[limits]`: settings of the process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use reqwest::header::HeaderName;

use super::document::Value;
use super::reader::{Field, all, spanned_or};
use super::shape::Shape;
use super::values::{count, path, plain_text, share, size, text};
use super::{Secret, Size, Span, Spanned};
use crate::tap::Showing;
use crate::telemetry::logging;

/// The HTTP server for metrics, probes and status.
#[derive(Clone, Debug)]
pub struct Http {
    /// Address to listen on. Default `127.0.0.1:9090`.
    pub listen: SocketAddr,
    /// What `messina tap` may show of records; `None` means nothing. Default [`Showing::Shapes`].
    pub tap: Option<Showing>,
}

/// What is logged, and in which format.
#[derive(Clone, Debug)]
pub struct Log {
    /// The format. Default [`LogFormat::Auto`].
    pub format: LogFormat,
    /// A level (`info`), or `tracing` filter directives (`info,messina::sink=debug`). Default `info`.
    pub level: Spanned<String>,
    /// The log file; `None` means stderr.
    pub file: Option<Spanned<PathBuf>>,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `auto`: human on a terminal, JSON elsewhere.
    Auto,
    /// `human`
    Human,
    /// `json`
    Json,
}

/// Where errors are reported.
#[derive(Clone, Debug)]
pub struct Sentry {
    /// The project's DSN.
    pub dsn: Secret,
    /// Name of the deployment, for example `production`.
    pub environment: Option<String>,
    /// Share of errors that are sent, 0 to 1. Default 1.
    pub sample_rate: f64,
}

/// Where spans of records are sent.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// The collector's base URL.
    pub otlp: Spanned<String>,
    /// HTTP headers of each request to it.
    pub headers: Vec<(String, Secret)>,
    /// Share of the records without a trace for which one is started, 0 to 1. Default 0.01.
    pub sample_ratio: f64,
    /// Maximum number of spans per second. Default 100.
    pub max_spans_per_second: usize,
}

/// Limits of the whole process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes that queues, events in flight, caches and dead letters may hold in total. Default 256 MiB.
    pub memory: Spanned<Size>,
    /// Threads that run consumer loops; each loop decodes, runs steps and encodes on one of them. Default: one per core available to the
    /// process.
    pub threads: Option<usize>,
}

const LOG_FORMAT: [(&str, LogFormat); 3] = [
    ("auto", LogFormat::Auto),
    ("human", LogFormat::Human),
    ("json", LogFormat::Json),
];

const TAP: [(&str, Option<Showing>); 3] = [
    ("off", None),
    ("shapes", Some(Showing::Shapes)),
    ("values", Some(Showing::Values)),
];

const LEVELS: [(&str, ()); 6] = [
    ("error", ()),
    ("warn", ()),
    ("info", ()),
    ("debug", ()),
    ("trace", ()),
    ("off", ()),
];

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)),
            tap: Some(Showing::Shapes),
        }
    }
}

impl Http {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let listen = section.or("listen", Self::default().listen, |field| {
            if field.draws(Shape::Text(r":[0-9]+$")) {
                return None;
            }
            let address = text(field.clone())?.parse().ok();
            address.or_else(|| {
                field.malformed(
                    "an address and a port",
                    "write \"127.0.0.1:9090\", or \"0.0.0.0:9090\" for all interfaces",
                )
            })
        });
        let tap = section.or("tap", Self::default().tap, |field| field.choice(&TAP));
        section.finish();
        Some(Self {
            listen: listen?,
            tap: tap?,
        })
    }
}

impl Log {
    pub(super) fn default_at(span: Span) -> Self {
        Self {
            format: LogFormat::Auto,
            level: Spanned::new("info".to_owned(), span),
            file: None,
        }
    }

    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let span = section.span;
        let format = section.or("format", LogFormat::Auto, |field| field.choice(&LOG_FORMAT));
        let level = section.optional("level", |field| {
            field.draws(Shape::Text("[=,]"));
            match &field.node.value {
                Value::String(text) if text.contains(['=', ',']) => {
                    if !logging::is_filter(text) {
                        let remedy = "write a level, or directives such as info,messina::sink=debug";
                        return field.malformed("a log filter", remedy);
                    }
                }
                _ => field.clone().choice(&LEVELS)?,
            }
            text(field)
        });
        let file = section.optional("file", path);
        section.finish();
        Some(Self {
            format: format?,
            level: spanned_or(level?, "info".to_owned(), span),
            file: file?,
        })
    }
}

impl Sentry {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let dsn = section.required("dsn", "dsn = { env = \"SENTRY_DSN\" }", Secret::read);
        let environment = section.optional("environment", plain_text);
        let sample_rate = section.or("sample_rate", 1.0, share);
        section.finish();
        Some(Self {
            dsn: dsn?,
            environment: environment?,
            sample_rate: sample_rate?,
        })
    }
}

impl Tracing {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let otlp = section.required("otlp", "otlp = \"http://127.0.0.1:4318\"", text);
        let headers = section.or("headers", vec![], headers);
        let sample_ratio = section.or("sample_ratio", 0.01, share);
        let max_spans_per_second = section.or("max_spans_per_second", 100, |field| {
            count(field).map(|count| count.value)
        });
        section.finish();
        Some(Self {
            otlp: otlp?,
            headers: headers?,
            sample_ratio: sample_ratio?,
            max_spans_per_second: max_spans_per_second?,
        })
    }
}

/// Reads names of HTTP headers, with a secret for each.
fn headers(field: Field<'_>) -> Option<Vec<(String, Secret)>> {
    let section = field.section()?;
    if let Some(drawing) = field.cx.drawing {
        field.draws(Shape::Named);
        Secret::read(section.field_of(&drawing.blank));
        return None;
    }
    all(section.table.entries.iter().map(|entry| {
        let field = section.field_of(entry);
        if HeaderName::from_bytes(entry.key.as_bytes()).is_err() {
            return field.malformed("an HTTP header", "a name has letters, digits and hyphens");
        }
        Some((entry.key.value.clone(), Secret::read(field)?))
    }))
}

const DEFAULT_MEMORY: Size = Size(256 << 20);

impl Limits {
    pub(super) fn default_at(span: Span) -> Self {
        Self {
            memory: Spanned::new(DEFAULT_MEMORY, span),
            threads: None,
        }
    }

    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let span = section.span;
        let memory = section.optional("memory", size);
        let threads = section.optional("threads", count);
        section.finish();
        Some(Self {
            memory: spanned_or(memory?, DEFAULT_MEMORY, span),
            threads: threads?.map(|count| count.value),
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_log_filter_that_cannot_be_read_is_found() {
        let found = |level: &str| {
            let text = format!("[log]\nlevel = \"{level}\"\n");
            let loaded = crate::config::load_str(vec![("c.toml".into(), text)], std::iter::empty());
            loaded
                .unwrap_err()
                .human(false)
                .contains("`log.level` is not a log filter")
        };
        assert!(found("info,messina=loud"));
        assert!(!found("info,messina=debug"));
    }
}
