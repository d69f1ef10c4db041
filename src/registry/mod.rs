//! Schemas from a registry that speaks Confluent's HTTP API.
//!
//! A record contains only the id of its schema ([`framing`]); the registry returns the schema with all its references. The client asks several
//! addresses in turn, and the cache ensures that each id is requested once.
//!
//! The crate `schema_registry_converter` also has a client. It is not used because it returns a deep copy of the schema at each call, and caches a
//! network error as if the schema itself were bad, until the process ends. Here a transient failure is never kept, and an unknown id only for some
//! seconds.

mod cache;
mod client;
mod error;
pub mod framing;
mod http;
pub(crate) mod lru;
mod oauth;
mod transport;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::Value as Json;

use crate::certificates::PemFiles;
use cache::Cache;
use client::Client;
pub use client::Compatibility;
pub use error::RegistryError;
pub(crate) use http::causes;

use crate::avro::json::to_json;
use crate::avro::{Schema, SchemaError};

/// Versions of a subject fetched at the same time.
const AT_ONCE: usize = 8;

/// How many times a "not found" is asked again, [`LATER`] apart, before it is believed: the answer may come from a follower that has not yet read a
/// schema registered a moment ago. For an id, this includes the schemas that it refers to.
const AGAIN: usize = 2;
const LATER: Duration = Duration::from_secs(1);

/// The largest id that a registry assigns. Confluent's keeps ids as Java's `int`, and answers a request for a larger one like a request for a path
/// that does not exist. That answer says nothing about the schema, so a record would wait for it forever.
const LARGEST_ID: u32 = i32::MAX as u32;

/// Where the registry is and how to log in.
#[derive(Clone)]
pub struct RegistryOptions {
    /// Base addresses, in the order of preference: `http://registry:8081`, or with a path. All serve the same schemas.
    pub urls: Vec<String>,
    /// User of basic authentication. A login in an address (`http://user:password@…`) is used if this is absent.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// Token of bearer authentication; takes precedence over the user.
    pub bearer: Option<String>,
    /// Source of bearer tokens; takes precedence over all of the above.
    pub oauth: Option<OauthOptions>,
    /// The CA certificates to trust for the server (if given, no others are trusted), and the client's certificate.
    pub certificates: PemFiles,
    /// Time-out of one request to one address, including the connection.
    pub timeout: Duration,
    /// How long an unknown id is cached before it is requested again.
    pub unknown_ttl: Duration,
}

/// An OAuth 2 authorization server, and the client credentials to use there (RFC 6749, 4.4).
#[derive(Clone)]
pub struct OauthOptions {
    /// Address of its token endpoint.
    pub token_endpoint: String,
    /// The client id.
    pub client_id: String,
    /// The client secret.
    pub client_secret: String,
    /// The scopes to request, separated by spaces; needed if the server has no default.
    pub scope: Option<String>,
    /// As in [`RegistryOptions`].
    pub certificates: PemFiles,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            username: None,
            password: None,
            bearer: None,
            oauth: None,
            certificates: PemFiles::default(),
            timeout: Duration::from_secs(5),
            unknown_ttl: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for RegistryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryOptions")
            .field("addresses", &self.urls.len())
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// A schema as the registry holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The registry's id.
    pub id: u32,
    /// Its version, if it was requested as a version of a subject.
    pub version: Option<i32>,
    /// The schema, as JSON text.
    pub schema: String,
    /// The schemas that it refers to, as JSON texts: each comes after the schemas that it refers to itself.
    pub references: Vec<String>,
}

impl Fetched {
    /// Parses the schema, with those that it refers to.
    ///
    /// # Errors
    /// If one of the texts is not a valid schema.
    pub fn parsed(&self) -> Result<Schema, SchemaError> {
        let references: Vec<&str> = self.references.iter().map(String::as_str).collect();
        Schema::parse_with_references(&self.schema, &references)
    }

    /// Size of its texts in bytes.
    fn size(&self) -> usize {
        self.schema.len() + self.references.iter().map(String::len).sum::<usize>()
    }
}

/// Counts of requests by result, and of cached schemas.
#[derive(Debug, Default)]
pub struct RegistryStats {
    /// Requests answered.
    pub ok: AtomicU64,
    /// Requests answered with "not found".
    pub unknown: AtomicU64,
    /// Requests whose schema the registry rejected: invalid, or incompatible.
    pub refused: AtomicU64,
    /// Requests without an answer, or with one that says nothing about the schema or is not of the expected form.
    pub failed: AtomicU64,
    /// Schemas cached by id.
    pub schemas: AtomicU64,
}

/// A client of the registry, with its cache. Share it by `Arc`.
pub struct Registry {
    client: RwLock<Arc<Client>>,
    /// Held from reading the options until their client is in use.
    reloading: Mutex<()>,
    cache: Arc<Cache>,
    stats: Arc<RegistryStats>,
}

impl Registry {
    /// Prepares the client; sends no request yet.
    ///
    /// # Errors
    /// [`RegistryError::Options`] for an invalid address, and for certificates or keys that cannot be read.
    pub fn new(options: RegistryOptions) -> Result<Self, RegistryError> {
        let stats = Arc::<RegistryStats>::default();
        let cache = Cache::new(options.unknown_ttl, Arc::clone(&stats));
        let client = RwLock::new(Arc::new(Client::new(&options, Arc::clone(&stats))?));
        Ok(Self {
            client,
            reloading: Mutex::default(),
            cache,
            stats,
        })
    }

    /// Reads the options with `read`, and uses their login, certificates and addresses for all requests from now on. The cache is kept. Only one
    /// reload runs at a time, so that options read earlier never replace options read later.
    ///
    /// # Errors
    /// The error of `read`, and those of [`Registry::new`]; nothing has changed then.
    pub fn reload(&self, read: impl FnOnce() -> Result<RegistryOptions, String>) -> Result<(), String> {
        self.replace(read, |_, _| {})
    }

    /// As [`Registry::reload`], but keeps the OAuth token if a new one would be requested in the same way: the token endpoint may be unreachable.
    ///
    /// # Errors
    /// As [`Registry::reload`].
    pub fn renew(&self, read: impl FnOnce() -> Result<RegistryOptions, String>) -> Result<(), String> {
        self.replace(read, Client::succeed)
    }

    fn replace(
        &self,
        read: impl FnOnce() -> Result<RegistryOptions, String>,
        succeed: impl FnOnce(&mut Client, &Client),
    ) -> Result<(), String> {
        let _reloading = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut client = Client::new(&read()?, Arc::clone(&self.stats)).map_err(|e| e.to_string())?;
        succeed(&mut client, &self.client());
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(client);
        Ok(())
    }

    fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The schema of an id, if it is cached.
    pub fn cached(&self, id: u32) -> Option<Arc<Fetched>> {
        self.cache.known(id)
    }

    /// The schema of an id. Concurrent callers with the same id share one request.
    ///
    /// # Errors
    /// See [`RegistryError::class`]: a transient error is worth another request, a permanent one is the record's fault.
    pub async fn schema(&self, id: u32) -> Result<Arc<Fetched>, RegistryError> {
        if id > LARGEST_ID {
            return Err(RegistryError::Unknown { id });
        }
        self.cache
            .get(id, |patient| {
                let client = self.client();
                async move {
                    let lags = |answer: &Result<_, RegistryError>| answer.as_ref().is_err_and(RegistryError::may_lag);
                    believed(patient, || client.by_id(id), lags).await
                }
            })
            .await
    }

    /// Decodes a datum to JSON by its writer schema; the error says in words why that is impossible.
    pub(crate) async fn decode(&self, id: u32, datum: &[u8]) -> Result<Json, String> {
        let fetched = self.schema(id).await.map_err(|e| e.to_string())?;
        let schema = fetched.parsed().map_err(|e| e.to_string())?;
        let value = schema.decode(datum).map_err(|e| e.to_string())?;
        Ok(to_json(&value))
    }

    /// All live versions of a subject, oldest first; none for an unknown subject. They are cached by id as well.
    ///
    /// # Errors
    /// As [`Registry::schema`]; one version that cannot be fetched fails the whole call.
    pub async fn versions(&self, subject: &str) -> Result<Vec<Arc<Fetched>>, RegistryError> {
        let client = self.client();
        let versions = client.versions(subject).await?;
        let fetched: Vec<Option<Arc<Fetched>>> = stream::iter(versions)
            .map(|version| {
                let client = &client;
                async move { client.version(subject, version).await }
            })
            .buffered(AT_ONCE)
            .map_ok(|fetched| fetched.map(Arc::new))
            .try_collect()
            .await?;
        // A version deleted since the list was made is no longer live.
        let live: Vec<_> = fetched.into_iter().flatten().collect();
        live.iter().for_each(|fetched| self.cache.insert(Arc::clone(fetched)));
        Ok(live)
    }

    /// Registers an Avro schema under a subject and returns its id: the existing id if it is registered already.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] if it is invalid or incompatible; else as [`Registry::schema`].
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        self.client().register(subject, schema).await
    }

    /// The id of an Avro schema under a subject; `None` if it is not registered there.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub async fn lookup(&self, subject: &str, schema: &str) -> Result<Option<u32>, RegistryError> {
        self.client().lookup(subject, schema, false).await
    }

    /// As [`Registry::lookup`], for a schema whose absence dead-letters records. Therefore "not registered" is believed like an unknown id: only once
    /// every address has said so and, if `patient`, has said so again.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub async fn lookup_for_records(
        &self,
        subject: &str,
        schema: &str,
        patient: bool,
    ) -> Result<Option<u32>, RegistryError> {
        let client = self.client();
        let lags = |answer: &Result<_, _>| matches!(answer, Ok(None));
        believed(patient, || client.lookup(subject, schema, true), lags).await
    }

    /// Whether an Avro schema could become the next version of a subject, by the subject's own rule.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub async fn compatible(&self, subject: &str, schema: &str) -> Result<Compatibility, RegistryError> {
        self.client().compatible(subject, schema).await
    }

    /// Counts of the requests so far.
    pub fn stats(&self) -> &Arc<RegistryStats> {
        &self.stats
    }
}

/// The answer of `ask`. If `patient`, calls it up to [`AGAIN`] more times while `lags` says that the answer may come from a lagging follower.
async fn believed<T, F: Future<Output = T>>(patient: bool, ask: impl Fn() -> F, lags: impl Fn(&T) -> bool) -> T {
    let mut again = if patient { AGAIN } else { 0 };
    loop {
        let answer = ask().await;
        if again == 0 || !lags(&answer) {
            return answer;
        }
        again -= 1;
        tokio::time::sleep(LATER).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const UNKNOWN: &[(&str, &str)] = &[("404 Not Found", r#"{"error_code": 40403, "message": "unknown"}"#)];

    /// Gives these answers in turn, and sends the `Authorization` line of each request to `told`.
    async fn server(listener: TcpListener, answers: &[(&str, &str)], told: tokio::sync::mpsc::UnboundedSender<String>) {
        let mut answers = answers.iter().cycle();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            let request = String::from_utf8(request).unwrap();
            let login = request
                .lines()
                .find(|line| line.to_lowercase().starts_with("authorization:"));
            told.send(login.unwrap_or("none").to_owned()).unwrap();
            let (status, body) = answers.next().unwrap();
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_login_that_is_read_again_serves_the_next_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = |token: &str| RegistryOptions {
            urls: vec![format!("http://{}", listener.local_addr().unwrap())],
            bearer: Some(token.to_owned()),
            ..RegistryOptions::default()
        };
        let (old, new, wrong) = (options("old"), options("new"), options("two\nlines"));
        let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let server = tokio::spawn(server(listener, UNKNOWN, told));
        let registry = Registry::new(old).unwrap();
        assert!(registry.versions("clicks").await.is_err());
        assert!(hears.recv().await.unwrap().ends_with("Bearer old"));
        registry.reload(|| Ok(new)).unwrap();
        assert!(registry.versions("clicks").await.is_err());
        assert!(hears.recv().await.unwrap().ends_with("Bearer new"));
        assert!(registry.reload(|| Ok(wrong)).is_err());
        assert!(registry.versions("clicks").await.is_err());
        assert!(
            hears.recv().await.unwrap().ends_with("Bearer new"),
            "what cannot be used changes nothing"
        );
        server.abort();
    }

    #[tokio::test]
    async fn of_two_that_read_the_login_again_the_later_reading_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let options = |token: &str| RegistryOptions {
            urls: vec![url.clone()],
            bearer: Some(token.to_owned()),
            ..RegistryOptions::default()
        };
        let registry = Registry::new(options("first")).unwrap();
        let (reads, reading) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let slowly = || {
                    reads.send(()).unwrap();
                    std::thread::sleep(Duration::from_millis(200));
                    Ok(options("old"))
                };
                registry.reload(slowly).unwrap();
            });
            reading.recv().unwrap();
            registry.reload(|| Ok(options("new"))).unwrap();
        });
        let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let server = tokio::spawn(server(listener, UNKNOWN, told));
        assert!(registry.versions("clicks").await.is_err());
        assert!(hears.recv().await.unwrap().ends_with("Bearer new"));
        server.abort();
    }

    /// A registry client, a server that gives these answers in turn, and a channel with the login of each request.
    async fn answered_by(
        answers: &'static [(&'static str, &'static str)],
    ) -> (
        Registry,
        tokio::task::JoinHandle<()>,
        tokio::sync::mpsc::UnboundedReceiver<String>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Registry::new(RegistryOptions {
            urls: vec![format!("http://{}", listener.local_addr().unwrap())],
            ..RegistryOptions::default()
        });
        let (told, hears) = tokio::sync::mpsc::unbounded_channel();
        (registry.unwrap(), tokio::spawn(server(listener, answers, told)), hears)
    }

    #[tokio::test]
    async fn a_follower_that_lags_behind_is_asked_again_before_an_id_is_unknown() {
        const ANSWERS: &[(&str, &str)] = &[UNKNOWN[0], ("200 OK", r#"{"schema": "\"string\""}"#)];
        let (registry, server, _hears) = answered_by(ANSWERS).await;
        assert_eq!(registry.schema(1).await.unwrap().schema, "\"string\"");
        server.abort();
    }

    /// Runs in a process of its own, because the proxy comes from the environment.
    #[tokio::test]
    async fn an_address_of_this_host_beside_another_is_asked_without_the_proxy() {
        // Nothing listens there.
        const PROXY: &str = "http://127.0.0.1:9";
        const NAME: &str = "an_address_of_this_host_beside_another_is_asked_without_the_proxy";
        if std::env::var("http_proxy").as_deref() != Ok(PROXY) {
            let mut own = std::process::Command::new(std::env::current_exe().unwrap());
            own.args(["--exact", &format!("registry::tests::{NAME}")]);
            for others in ["HTTP_PROXY", "NO_PROXY", "no_proxy"] {
                own.env_remove(others);
            }
            let ended = own.env("http_proxy", PROXY).output().unwrap();
            let told = String::from_utf8_lossy(&ended.stdout);
            assert!(ended.status.success() && told.contains("1 passed"), "{told}");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = format!("http://{}", listener.local_addr().unwrap());
        let registry = Registry::new(RegistryOptions {
            urls: vec!["http://registry.invalid:8081".to_owned(), here],
            ..RegistryOptions::default()
        });
        let (told, _hears) = tokio::sync::mpsc::unbounded_channel();
        let server = tokio::spawn(server(listener, &[("200 OK", "[]")], told));
        assert_eq!(registry.unwrap().versions("clicks").await, Ok(Vec::new()));
        server.abort();
    }

    #[tokio::test]
    async fn a_follower_that_lags_behind_is_asked_again_before_a_reference_leads_nowhere() {
        const REFERS: (&str, &str) = (
            "200 OK",
            r#"{"schema": "\"m.User\"", "references": [{"name": "m.User", "subject": "user", "version": 1}]}"#,
        );
        const ANSWERS: &[(&str, &str)] = &[
            REFERS,
            ("404 Not Found", r#"{"error_code": 40402, "message": "unknown"}"#),
            REFERS,
            ("200 OK", r#"{"schema": "\"string\""}"#),
        ];
        let (registry, server, _hears) = answered_by(ANSWERS).await;
        assert_eq!(registry.schema(1).await.unwrap().references, ["\"string\""]);
        server.abort();
    }

    #[tokio::test]
    async fn an_answer_that_says_nothing_about_the_schema_counts_as_none() {
        const ANSWERS: &[(&str, &str)] = &[
            ("401 Unauthorized", r#"{"error_code": 401, "message": "who are you"}"#),
            ("503 Service Unavailable", ""),
            ("404 Not Found", "<html>no such page</html>"),
            ("200 OK", "<html>who are you</html>"),
            ("200 OK", r#"{"who": "are you"}"#),
            UNKNOWN[0],
            ("409 Conflict", r#"{"error_code": 409, "message": "incompatible"}"#),
            ("200 OK", "[]"),
        ];
        let (registry, server, _hears) = answered_by(ANSWERS).await;
        let mut answers = Vec::new();
        for _ in ANSWERS {
            answers.push(format!("{:?}", registry.versions("clicks").await));
        }
        assert!(answers[4].contains("expected a sequence"), "{}", answers[4]);
        let stats = registry.stats();
        let counted = [&stats.failed, &stats.unknown, &stats.refused, &stats.ok];
        assert_eq!(counted.map(|n| n.load(Ordering::Relaxed)), [5, 1, 1, 1]);
        server.abort();
    }
}
