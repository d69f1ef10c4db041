//! Sends errors to Sentry, if a DSN is configured.
//!
//! A fault of a dependency must become one issue, not a million events, and a slow or missing Sentry server must cost the stream nothing. So failures
//! are reported explicitly, not by a layer over all logs: each passes a rate limit per kind (pipeline, step, class), and the resulting event a
//! bounded queue, from which a separate thread posts it (`transport`). The result of each event is counted. Sentry also groups events by the kind,
//! their fingerprint.
//!
//! Invariants: [`Sentry::report`] never blocks and never fails. An event contains the kind, topic and scrubbed words of the error, and the pipeline's
//! last warnings before it ([`Breadcrumbs`]), but no payload, key or secret ([`scrub`]). Sentry's own hook reports panics, also scrubbed and rate
//! limited.

mod transport;

use std::borrow::Cow;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::quality::FixedState;
use prometheus::IntCounter;
use sentry::protocol::{Breadcrumb, Event, Level};
use sentry::types::{Dsn, ParseDsnError};
use sentry::{ClientInitGuard, ClientOptions, Hub};

use super::breadcrumbs::Breadcrumbs;
use super::limit::Limiter;
use super::metrics::Metrics;
use super::scrub::scrub;
use transport::Post;

/// What the configuration says about Sentry.
#[derive(Clone)]
pub struct SentryOptions {
    /// Where to send events: a secret.
    pub dsn: String,
    /// For example `production`.
    pub environment: Option<String>,
    /// Share of the events that are sent, 0 to 1.
    pub sample_rate: f32,
    /// Minimum time between two events of one kind.
    pub every: Duration,
    /// How long to wait for the last events at the end.
    pub flush: Duration,
}

/// Why Sentry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SentryError {
    /// The DSN cannot be parsed. It is not shown, because it is a secret.
    #[error("the Sentry DSN is not one: {0} (it looks like https://KEY@HOST/PROJECT)")]
    Dsn(String),
    /// The HTTP client could not be created.
    #[error("cannot make the client that sends to Sentry: {0}")]
    Client(#[from] reqwest::Error),
    /// The thread could not be started.
    #[error("cannot start the thread that sends to Sentry: {0}")]
    Thread(#[from] std::io::Error),
}

/// A failure that is worth an issue. All fields are borrowed, because most failures of a flood are only counted.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The pipeline.
    pub pipeline: &'a str,
    /// The step or stage that failed.
    pub step: &'a str,
    /// The error's class, as in the metrics: a word of a bounded set.
    pub class: &'static str,
    /// Whether it stops the pipeline, gives up on the record, or will be retried.
    pub level: Level,
    /// The topic of the record, if any.
    pub topic: Option<&'a str>,
    /// The error message; it is scrubbed before it is sent.
    pub error: &'a str,
}

/// The connection to Sentry. Dropping it sends the queued events, for at most the time in `flush`.
pub struct Sentry {
    hub: Arc<Hub>,
    /// Keyed by the hash of the kind.
    limiter: Limiter<u64, Kinds>,
    breadcrumbs: Breadcrumbs,
    suppressed: IntCounter,
    client: Option<ClientInitGuard>,
}

impl Sentry {
    /// Sets up Sentry for the process. Call it once, on the main thread and before other threads start, so that the panics of all threads are
    /// reported.
    ///
    /// # Errors
    /// If the DSN cannot be parsed, or the client or thread cannot be created. An unreachable server is not an error.
    pub fn init(options: SentryOptions, breadcrumbs: Breadcrumbs, metrics: &Metrics) -> Result<Self, SentryError> {
        let guard = sentry::init(client_options(&options, breadcrumbs.clone(), metrics)?);
        let mut sentry = Self::with_hub(Hub::current(), options.every, breadcrumbs, metrics);
        sentry.client = Some(guard);
        Ok(sentry)
    }

    fn with_hub(hub: Arc<Hub>, every: Duration, breadcrumbs: Breadcrumbs, metrics: &Metrics) -> Self {
        Self {
            hub,
            limiter: Limiter::hashed(every),
            breadcrumbs,
            suppressed: metrics.sentry_events_total.of(["suppressed"]),
            client: None,
        }
    }

    /// Reports a failure, unless one of its kind was reported recently or the queue is full.
    pub fn report(&self, report: Report<'_>) {
        let kind = Kinds::default().hash_one((report.pipeline, report.step, report.class));
        let Some(suppressed) = self.limiter.admit(kind, Instant::now()) else {
            self.suppressed.inc();
            return;
        };
        let before = self.breadcrumbs.last(Some(report.pipeline));
        self.hub.capture_event(event(report, suppressed, before));
    }

    /// Waits until all reported events have been sent or have failed, at most for `within`. Nothing is sent after that. For a shutdown at which
    /// something may hold a reference to this for ever, so that it is never dropped.
    pub fn close(&self, within: Duration) {
        if let Some(client) = &self.client {
            client.close(Some(within));
        }
    }
}

/// The standard library's hash made up half of the cost of a flood here. It guards against keys chosen by an attacker, and these are names from the
/// configuration.
type Kinds = FixedState;

fn client_options(
    options: &SentryOptions,
    breadcrumbs: Breadcrumbs,
    metrics: &Metrics,
) -> Result<ClientOptions, SentryError> {
    let dsn: Dsn = options
        .dsn
        .parse()
        .map_err(|e: ParseDsnError| SentryError::Dsn(e.to_string()))?;
    // Keyed by the hash of the scrubbed text, the only thing that tells panics apart: quoted values differ from record to record.
    let panics = Limiter::<u64, Kinds>::hashed(options.every);
    let suppressed = metrics.sentry_events_total.of(["suppressed"]);
    let client = ClientOptions::new()
        .release(concat!("messina@", env!("CARGO_PKG_VERSION")))
        .sample_rate(options.sample_rate.clamp(0.0, 1.0))
        .shutdown_timeout(options.flush)
        .max_breadcrumbs(0)
        .send_default_pii(false)
        .before_send(move |event| {
            let event = scrubbed(event, &breadcrumbs);
            if let Some(panic) = event.exception.values.first()
                && panics
                    .admit(Kinds::default().hash_one(&panic.value), Instant::now())
                    .is_none()
            {
                suppressed.inc();
                return None;
            }
            Some(event)
        });
    let post = Post::start(&dsn, &client.user_agent, metrics)?;
    let mut client = client.transport(Arc::new(post));
    client.dsn = Some(dsn);
    client.environment = options.environment.clone().map(Cow::Owned);
    Ok(client)
}

fn event(report: Report<'_>, suppressed: u64, before: Vec<Breadcrumb>) -> Event<'static> {
    let Report {
        pipeline,
        step,
        class,
        level,
        topic,
        error,
    } = report;
    let mut event = Event {
        level,
        message: Some(format!("{pipeline}/{step}: {class}: {error}")),
        fingerprint: Cow::Owned([pipeline, step, class].map(|part| Cow::Owned(part.to_owned())).to_vec()),
        breadcrumbs: before.into(),
        ..Event::default()
    };
    let tags = [
        ("pipeline", Some(pipeline)),
        ("step", Some(step)),
        ("class", Some(class)),
        ("topic", topic),
    ];
    event.tags.extend(
        tags.into_iter()
            .filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))),
    );
    event.extra.insert("suppressed".into(), suppressed.into());
    event
}

/// The last filter, also for events that Sentry creates itself (panics): scrubs the texts, and removes what only a web server would know. A panic
/// belongs to no pipeline, so it gets the last lines of all.
fn scrubbed(mut event: Event<'static>, breadcrumbs: &Breadcrumbs) -> Event<'static> {
    event.message = event.message.map(|text| scrub(&text));
    event.logentry = None;
    event.user = None;
    event.request = None;
    if !event.exception.is_empty() {
        event.breadcrumbs = breadcrumbs.last(None).into();
    }
    for exception in &mut event.exception.values {
        exception.value = exception.value.take().map(|text| scrub(&text));
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use sentry::protocol::Exception;
    use sentry::{Client, Envelope, Scope, Transport};
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    const DSN: &str = "http://public@127.0.0.1:9/1";

    fn options() -> SentryOptions {
        let every = Duration::from_secs(60);
        let environment = Some("test".to_owned());
        SentryOptions {
            dsn: DSN.into(),
            environment,
            sample_rate: 1.0,
            every,
            flush: Duration::from_millis(200),
        }
    }

    fn report(step: &str) -> Report<'_> {
        Report {
            pipeline: "navigation",
            step,
            class: "permanent",
            level: Level::Error,
            topic: Some("clicks"),
            error: "bad value \"bob@example.org\" near 123456789",
        }
    }

    #[derive(Default)]
    struct Kept(Mutex<Vec<Event<'static>>>);

    impl Transport for Kept {
        fn send_envelope(&self, envelope: Envelope) {
            self.0.lock().unwrap().push(envelope.event().unwrap().clone());
        }
    }

    fn connected<T: Transport>(transport: Arc<T>) -> (Sentry, Arc<Metrics>) {
        let metrics = Metrics::new().unwrap();
        let client: ClientOptions = client_options(&options(), Breadcrumbs::default(), &metrics)
            .unwrap()
            .transport(transport);
        let hub = Hub::new(Some(Arc::new(Client::from(client))), Arc::new(Scope::default()));
        (
            Sentry::with_hub(Arc::new(hub), options().every, Breadcrumbs::default(), &metrics),
            metrics,
        )
    }

    #[test]
    fn a_flood_of_one_kind_is_one_scrubbed_event() {
        let kept = Arc::new(Kept::default());
        let (sentry, metrics) = connected(Arc::clone(&kept));
        (0..10_000).for_each(|_| sentry.report(report("profile")));
        sentry.report(report("history"));
        drop(sentry);
        let events = kept.0.lock().unwrap();
        assert_eq!(events.len(), 2);
        let event = &events[0];
        assert_eq!(
            event.message.as_deref(),
            Some("navigation/profile: permanent: bad value \"…\" near #")
        );
        assert_eq!(&*event.fingerprint, ["navigation", "profile", "permanent"]);
        assert_eq!(
            (event.tags["pipeline"].as_str(), event.tags["step"].as_str()),
            ("navigation", "profile")
        );
        assert_eq!(
            (event.tags["class"].as_str(), event.tags["topic"].as_str()),
            ("permanent", "clicks")
        );
        assert_eq!(
            event.release.as_deref(),
            Some(concat!("messina@", env!("CARGO_PKG_VERSION")))
        );
        assert_eq!(event.environment.as_deref(), Some("test"));
        assert!(!serde_json::to_string(event).unwrap().contains("bob@example.org"));
        assert_eq!(metrics.sentry_events_total.of(["suppressed"]).get(), 9_999);
    }

    #[test]
    fn a_flood_of_one_panic_is_one_event() {
        let kept = Arc::new(Kept::default());
        let (sentry, metrics) = connected(Arc::clone(&kept));
        for text in [
            "no room for \"bob\"",
            "no room for \"eve\"",
            "a bug",
            "no room for \"bob\"",
        ] {
            let panic = Exception {
                ty: "panic".into(),
                value: Some(text.into()),
                ..Exception::default()
            };
            sentry.hub.capture_event(Event {
                exception: vec![panic].into(),
                ..Event::default()
            });
        }
        let events = kept.0.lock().unwrap();
        let texts: Vec<_> = events
            .iter()
            .map(|event| event.exception.values[0].value.as_deref())
            .collect();
        assert_eq!(texts, [Some("no room for \"…\""), Some("a bug")]);
        assert_eq!(metrics.sentry_events_total.of(["suppressed"]).get(), 2);
    }

    #[test]
    fn a_bad_dsn_is_an_error_that_does_not_show_it() {
        let bad = SentryOptions {
            dsn: "https://secret-key@".into(),
            ..options()
        };
        let metrics = Metrics::new().unwrap();
        let error = client_options(&bad, Breadcrumbs::default(), &metrics).err().unwrap();
        let error = error.to_string();
        assert!(error.contains("DSN") && !error.contains("secret-key"), "{error}");
    }

    #[test]
    fn what_sampling_leaves_out_is_neither_sent_nor_lost() {
        let metrics = Metrics::new().unwrap();
        let none = SentryOptions {
            sample_rate: 0.0,
            ..options()
        };
        let sentry = Sentry::init(none, Breadcrumbs::default(), &metrics).unwrap();
        sentry.report(report("profile"));
        drop(sentry);
        let events = ["sent", "failed", "dropped"].map(|outcome| metrics.sentry_events_total.of([outcome]).get());
        assert_eq!(events, [0; 3]);
    }

    #[test]
    fn a_server_that_never_answers_does_not_hold_the_end_up() {
        let metrics = Metrics::new().unwrap();
        // The system accepts connections for this socket, but nobody reads from them.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dsn = format!("http://public@{}/1", silent.local_addr().unwrap());
        let sentry = Sentry::init(SentryOptions { dsn, ..options() }, Breadcrumbs::default(), &metrics).unwrap();
        sentry.report(report("profile"));
        let (ended, end) = channel();
        std::thread::spawn(move || {
            drop(sentry);
            let _ = ended.send(());
        });
        // This used to wait for ever.
        end.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn an_event_reaches_a_server_and_a_dead_server_delays_the_end_briefly() {
        use std::io::{Read, Write};
        let metrics = Metrics::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dsn = format!("http://public@{}/1", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let (mut request, mut part) = (String::new(), [0; 4096]);
            while !(request.contains("suppressed") && request.ends_with("}\n")) {
                let read = stream.read(&mut part).unwrap();
                assert!(read > 0, "cut off: {request}");
                request.push_str(&String::from_utf8_lossy(&part[..read]));
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                .unwrap();
            request
        });
        let sentry = Sentry::init(
            SentryOptions {
                dsn,
                flush: Duration::from_secs(5),
                ..options()
            },
            Breadcrumbs::default(),
            &metrics,
        )
        .unwrap();
        sentry.report(report("profile"));
        sentry.close(Duration::from_secs(60));
        let events = |outcome: &str| metrics.sentry_events_total.of([outcome]).get();
        assert_eq!((events("sent"), events("failed")), (1, 0));
        drop(sentry);
        let request = server.join().unwrap();
        assert!(request.starts_with("POST /api/1/envelope/ "), "{request}");
        assert!(
            request.contains(r#""fingerprint":["navigation","profile","permanent"]"#),
            "{request}"
        );
        assert!(!request.contains("bob@example.org"), "{request}");

        let start = Instant::now();
        let sentry = Sentry::init(options(), Breadcrumbs::default(), &metrics).unwrap();
        sentry.report(report("profile"));
        drop(sentry);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}
