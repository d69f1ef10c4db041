//! Posts events to Sentry on a separate thread, and counts the result of each.
//!
//! It replaces the transport of Sentry's client, which does not report whether an event arrived: with a revoked key, all would seem to be sent.
//!
//! Invariants: handing an event over never blocks, even in a panicking thread, and nothing waits for the event of such a thread, except on the main
//! one. Each event is counted once: sent, failed or dropped.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use reqwest::{Client, StatusCode, Url, redirect};
use sentry::transports::{RateLimiter, RateLimitingCategory};
use sentry::types::Dsn;
use sentry::{Envelope, Transport};
use tokio::runtime::Runtime;

use super::SentryError;
use crate::registry::causes;
use crate::telemetry::limit::Limiter;
use crate::telemetry::metrics::Metrics;

/// Maximum number of queued events, including the one being sent.
const QUEUE: usize = 64;
/// Timeout of a request. Without it, a server that accepts connections and never answers would block the thread for ever.
const REQUEST: Duration = Duration::from_secs(5);
/// Minimum interval between log lines about a failing Sentry.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The queue to the thread, which lives as long as Sentry's client.
pub(super) struct Post {
    queue: Sender<Envelope>,
    waiting: Arc<Waiting>,
    dropped: IntCounter,
}

/// Number of queued events, including the one being sent.
#[derive(Default)]
struct Waiting {
    count: Mutex<usize>,
    fewer: Condvar,
}

impl Waiting {
    fn count(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one_fewer(&self) {
        *self.count() -= 1;
        self.fewer.notify_all();
    }
}

impl Post {
    /// Starts the thread. A server that does not answer is not an error.
    pub(super) fn start(dsn: &Dsn, user_agent: &str, metrics: &Metrics) -> Result<Post, SentryError> {
        let url = dsn.envelope_api_url();
        // No idle connections: a kind sends one event a minute, and the server would have closed the connection before the next.
        let client = crate::proxy::client(&url)
            .timeout(REQUEST)
            // An event is for Sentry alone. And a redirect followed by GET would make a lost event look sent.
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(0);
        let outcome = |outcome| metrics.sentry_events_total.of([outcome]);
        let worker = Worker {
            client: client.build()?,
            url,
            auth: dsn.to_auth(Some(user_agent)).to_string(),
            limits: RateLimiter::new(),
            limiter: Limiter::new(LOG_EVERY),
            sent: outcome("sent"),
            failed: outcome("failed"),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (queue, events) = channel();
        let waiting = Arc::<Waiting>::default();
        let left = waiting.clone();
        let thread = std::thread::Builder::new().name("messina-sentry".into());
        thread.spawn(move || worker.run(&runtime, &events, &left))?;
        Ok(Post {
            queue,
            waiting,
            dropped: outcome("dropped"),
        })
    }

    /// Waits until the queue is empty, at most for `timeout`. Returns whether it is.
    fn wait(&self, timeout: Duration) -> bool {
        let waiting = self.waiting.count();
        let left = self
            .waiting
            .fewer
            .wait_timeout_while(waiting, timeout, |left| *left > 0);
        let (left, _) = left.unwrap_or_else(PoisonError::into_inner);
        *left == 0
    }
}

impl Transport for Post {
    fn send_envelope(&self, envelope: Envelope) {
        let mut waiting = self.waiting.count();
        if *waiting < QUEUE && self.queue.send(envelope).is_ok() {
            *waiting += 1;
        } else {
            self.dropped.inc();
        }
    }

    /// Does not wait during a panic: Sentry's hook calls this on the panicking thread, where a consumer loop goes on. On the main thread it does
    /// wait, because that panic ends the process, and nobody would wait later: the consumer loops still hold the connection to Sentry.
    fn flush(&self, timeout: Duration) -> bool {
        let goes_on = std::thread::panicking() && std::thread::current().name() != Some("main");
        self.wait(if goes_on { Duration::ZERO } else { timeout })
    }

    /// Waits even during a panic, because the process ends.
    fn shutdown(&self, timeout: Duration) -> bool {
        self.wait(timeout)
    }
}

/// The state of the thread.
struct Worker {
    client: Client,
    url: Url,
    /// A secret.
    auth: String,
    /// The rate limits that the server asked for.
    limits: RateLimiter,
    limiter: Limiter<&'static str>,
    sent: IntCounter,
    failed: IntCounter,
}

impl Worker {
    fn run(mut self, runtime: &Runtime, events: &Receiver<Envelope>, waiting: &Waiting) {
        for event in events {
            match runtime.block_on(self.post(&event)) {
                Ok(()) => self.sent.inc(),
                Err(why) => {
                    self.failed.inc();
                    if let Some(suppressed) = self.limiter.admit("sentry", Instant::now()) {
                        tracing::warn!(suppressed, "events for Sentry are lost: {why}");
                    }
                }
            }
            waiting.one_fewer();
        }
    }

    /// Posts an event, unless the server's rate limit forbids it. Fails with a message.
    async fn post(&mut self, event: &Envelope) -> Result<(), String> {
        if let Some(time) = self.limits.is_disabled(RateLimitingCategory::Error) {
            return Err(format!("it accepts none for another {} s", time.as_secs()));
        }
        let mut body = Vec::new();
        event.to_writer(&mut body).map_err(|error| error.to_string())?;
        let request = self.client.post(self.url.clone()).header("X-Sentry-Auth", &self.auth);
        let response = request
            .body(body)
            .send()
            .await
            .map_err(|error| causes(&error.without_url()))?;
        let status = response.status();
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        if let Some(limits) = header("x-sentry-rate-limits") {
            self.limits.update_from_sentry_header(limits);
        } else if let Some(time) = header("retry-after") {
            self.limits.update_from_retry_after(time);
        } else if status == StatusCode::TOO_MANY_REQUESTS {
            self.limits.update_from_429();
        }
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("it answers {status}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use sentry::protocol::Event;

    use super::*;

    fn event() -> Envelope {
        Event::default().into()
    }

    /// A server that gives this answer to every request, for as long as the test runs, and a transport to it.
    fn answering(answer: &'static str) -> (Post, Arc<Metrics>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dsn = format!("http://public@{}/1", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (mut request, mut part) = (Vec::new(), [0; 4096]);
                // The event is the last line of an envelope.
                while !request.ends_with(b"}\n") {
                    let read = stream.read(&mut part).unwrap();
                    assert!(read > 0, "cut off: {}", String::from_utf8_lossy(&request));
                    request.extend_from_slice(&part[..read]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let metrics = Metrics::new().unwrap();
        let post = Post::start(&dsn.parse().unwrap(), "test", &metrics).unwrap();
        (post, metrics)
    }

    /// The numbers of events sent, failed and dropped, once the queue is empty.
    fn counted(post: &Post, metrics: &Metrics) -> [u64; 3] {
        assert!(post.flush(Duration::from_secs(60)));
        ["sent", "failed", "dropped"].map(|outcome| metrics.sentry_events_total.of([outcome]).get())
    }

    #[test]
    fn what_a_server_does_not_take_has_failed() {
        let (post, metrics) = answering("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        post.send_envelope(event());
        assert_eq!(counted(&post, &metrics), [0, 1, 0]);
        let (post, metrics) = answering("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        post.send_envelope(event());
        assert_eq!(counted(&post, &metrics), [1, 0, 0]);
    }

    #[test]
    fn a_server_that_asks_for_none_is_sent_none() {
        let limited =
            "HTTP/1.1 200 OK\r\nX-Sentry-Rate-Limits: 60:error:key\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let (post, metrics) = answering(limited);
        post.send_envelope(event());
        assert_eq!(counted(&post, &metrics), [1, 0, 0]);
        post.send_envelope(event());
        assert_eq!(counted(&post, &metrics), [1, 1, 0]);
    }

    #[test]
    fn a_redirect_is_not_followed() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        other.set_nonblocking(true).unwrap();
        let moved = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{}/\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            other.local_addr().unwrap()
        );
        let (post, metrics) = answering(moved.leak());
        post.send_envelope(event());
        assert_eq!(counted(&post, &metrics), [0, 1, 0]);
        assert!(other.accept().is_err(), "somebody else was asked");
    }

    /// A transport to a server whose connections the system accepts, but from which nobody reads.
    fn unanswered() -> (TcpListener, Post, Arc<Metrics>) {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let dsn = format!("http://public@{}/1", silent.local_addr().unwrap());
        let metrics = Metrics::new().unwrap();
        let post = Post::start(&dsn.parse().unwrap(), "test", &metrics).unwrap();
        (silent, post, metrics)
    }

    /// When dropped in a panic, flushes with this timeout, as Sentry's hook does, and then shuts down, as the end of the process does. Sends how
    /// long each took.
    struct Panics(Post, Duration, Sender<Duration>);

    impl Drop for Panics {
        fn drop(&mut self) {
            let Panics(post, timeout, took) = self;
            let start = Instant::now();
            post.flush(*timeout);
            let _ = took.send(start.elapsed());
            let start = Instant::now();
            post.shutdown(Duration::from_millis(200));
            let _ = took.send(start.elapsed());
        }
    }

    /// How long a panicking thread with this name waits for its event, given this timeout, and how long the shutdown after it waits.
    fn waits(thread: &str, timeout: Duration) -> [Duration; 2] {
        let (_silent, post, _) = unanswered();
        post.send_envelope(event());
        let (took, times) = channel();
        let thread = std::thread::Builder::new().name(thread.to_owned());
        let panicked = thread.spawn(move || {
            let _asks = Panics(post, timeout, took);
            panic!("a bug");
        });
        panicked.unwrap().join().unwrap_err();
        [(); 2].map(|()| times.recv().unwrap())
    }

    #[test]
    fn a_panic_waits_for_no_server_and_an_end_does() {
        let [panic, end] = waits("loop-0", REQUEST);
        assert!(panic < Duration::from_secs(3), "{panic:?}");
        assert!(end >= Duration::from_millis(200), "{end:?}");
    }

    #[test]
    fn a_panic_that_ends_the_process_waits_for_its_event() {
        let [panic, _] = waits("main", Duration::from_millis(200));
        assert!(panic >= Duration::from_millis(200), "{panic:?}");
    }

    #[test]
    fn what_does_not_fit_is_dropped() {
        let (_silent, post, metrics) = unanswered();
        let start = Instant::now();
        (0..1000).for_each(|_| post.send_envelope(event()));
        assert!(start.elapsed() < Duration::from_secs(1), "it waited for the server");
        assert!(!post.flush(Duration::from_millis(10)));
        let dropped = metrics.sentry_events_total.of(["dropped"]).get();
        assert_eq!(dropped, 1000 - QUEUE as u64);
    }
}
