//! `[http]`, `[log]`, `[sentry]`, `[limits]`: the process around the pipelines.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::document::Value;
use super::reader::{Field, spanned_or};
use super::shape::Shape;
use super::values::{path, plain_text, share, size, text};
use super::{Secret, Size, Span, Spanned};
use crate::tap::Showing;

/// Metrics, probes and status over HTTP.
#[derive(Clone, Debug)]
pub struct Http {
    /// Address to listen on. Default `127.0.0.1:9090`.
    pub listen: SocketAddr,
    /// What `messina tap` may show of records; none: nothing. Default [`Showing::Shapes`].
    pub tap: Option<Showing>,
}

/// What is logged, and in which form.
#[derive(Clone, Debug)]
pub struct Log {
    /// Default [`LogFormat::Auto`].
    pub format: LogFormat,
    /// A level (`info`), or `tracing` filter directives (`info,messina::sink=debug`). Default `info`.
    pub level: Spanned<String>,
    /// The file that is logged to; absent means stderr.
    pub file: Option<Spanned<PathBuf>>,
}

/// Form of the log lines.
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

/// Budgets of the whole process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes that queues, events in flight, caches and dead letters may hold together. Default 256 MiB.
    pub memory: Spanned<Size>,
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
                // Directives name targets, which only the subscriber knows how to read.
                Value::String(text) if text.contains(['=', ',']) => {}
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

const DEFAULT_MEMORY: Size = Size(256 << 20);

impl Limits {
    pub(super) fn default_at(span: Span) -> Self {
        Self {
            memory: Spanned::new(DEFAULT_MEMORY, span),
        }
    }

    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let span = section.span;
        let memory = section.optional("memory", size);
        section.finish();
        Some(Self {
            memory: spanned_or(memory?, DEFAULT_MEMORY, span),
        })
    }
}
