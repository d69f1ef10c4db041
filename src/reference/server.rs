//! All communication with MongoDB: connecting, sampling, reading a collection, watching it, and classifying errors.
//!
//! The official driver is used because TLS, SCRAM, X.509, replica sets and resumable change streams come with its connection string. Invariants: no
//! error contains the connection string, which often holds a password; the driver's tasks run where the server was opened, not in the runtime of a
//! loop, which may end before others that use it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mongodb::action::Action;
use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use mongodb::error::{Error, ErrorKind, RESUMABLE_CHANGE_STREAM_ERROR};
use mongodb::options::{
    ClientOptions, ConnectionString, FullDocumentType, ReadConcern, ReadPreference, SelectionCriteria, Tls,
};
use mongodb::{Client, Collection, Cursor};
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::codec;
use crate::config::{Mongo, Secret};
use crate::retry::Class;
use crate::store::StoreError;

/// How many documents a sample has, and how many one answer of the server has.
const SAMPLE: i64 = 1000;
const BATCH: u32 = 2000;
/// Change streams are polled again after this time without a change: it limits how stale a "current" copy can be.
const AWAIT: Duration = Duration::from_secs(1);
/// Server selection time-out, unless the connection string sets one. It is short, because Messina does the waiting for an unreachable server, not the
/// driver.
const SELECTION: Duration = Duration::from_secs(5);
/// How long a record waits for its document in addition to that, because a stalled connection may never bring an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long to wait for the next documents while sampling, reading or following. The driver has no limit of its own: on a dead connection that nobody
/// closes, or with a stalled server while another one is the primary, it would wait forever.
const SILENCE: Duration = Duration::from_secs(60);
/// Maximum number of connections, unless the connection string sets one: the driver's default of ten is too small for what may be in flight.
const POOL: u32 = 100;
/// How long the driver may take to shut down the client of a server that is given up.
const CLOSING: Duration = Duration::from_secs(2);

/// One change of a collection. `operation` is MongoDB's `operationType`.
#[derive(Debug, Deserialize)]
pub struct Change {
    /// `insert`, `update`, `replace`, `delete`, `drop`, …
    #[serde(rename = "operationType")]
    pub operation: String,
    /// The document as it is now; `None` for a deletion, or if it has been deleted since.
    #[serde(rename = "fullDocument", default)]
    pub document: Option<RawDocumentBuf>,
    /// `{ _id: … }`.
    #[serde(rename = "documentKey", default)]
    pub key: Option<RawDocumentBuf>,
    /// When it was made, by the server's clock.
    #[serde(rename = "clusterTime", default)]
    pub time: Option<Timestamp>,
}

impl Change {
    /// When the change was made, if our clock reads `clock` at `now`. Returns `now` if the server does not send the time or its clock is ahead.
    pub(super) fn made(&self, now: Instant, clock: SystemTime) -> Instant {
        let clock = clock.duration_since(UNIX_EPOCH).unwrap_or_default();
        let made = self.time.map_or(clock, |time| Duration::from_secs(time.time.into()));
        now.checked_sub(clock.saturating_sub(made)).unwrap_or(now)
    }
}

/// The TLS alerts for a client without a certificate where the server requires one: OpenSSL's before TLS 1.3 and since, and Java's.
const NO_CERTIFICATE: [&str; 3] = [
    "alert handshake failure",
    "alert certificate required",
    "alert bad certificate",
];

/// A collection, and the fields to read of it.
#[derive(Debug, Clone)]
pub struct Source {
    server: Server,
    database: String,
    collection: String,
    wanted: Vec<String>,
    /// Time limit for [`within`].
    pub(super) silence: Duration,
}

/// The answer, or an error if it takes longer than `patience`.
pub(super) async fn within<T>(
    patience: Duration,
    answer: impl IntoFuture<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let answer = tokio::time::timeout(patience, answer).await;
    answer.unwrap_or_else(|_| {
        let late = format!("no answer within {patience:?}");
        Err(std::io::Error::new(std::io::ErrorKind::TimedOut, late).into())
    })
}

/// How many connections a process opens to the server at most: the number in the connection string, or the default if it has none or cannot be read
/// here.
pub fn connections(mongo: Option<&Mongo>) -> u32 {
    let uri = mongo.and_then(|mongo| mongo.uri.reveal().ok());
    let said = uri.and_then(|uri| ConnectionString::parse(uri).ok());
    said.and_then(|said| said.max_pool_size).unwrap_or(POOL)
}

/// A MongoDB server. Clones share the login.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    /// Where the connection string is read again, in case it has changed.
    secret: Option<Secret>,
    login: Mutex<Login>,
    /// Held during a new login, so that only one task logs in again at a time.
    renewal: tokio::sync::Mutex<()>,
    runtime: Handle,
}

struct Login {
    uri: String,
    /// The files that the connection string names, with their content at login: the driver reads them only once.
    files: Vec<(PathBuf, Option<Vec<u8>>)>,
    client: Client,
    /// Time limit for one document. It exceeds the driver's server selection time-out, so that the driver can report why there is no server.
    patience: Duration,
    /// One permit for each connection.
    room: Arc<Semaphore>,
}

impl Login {
    async fn of(uri: String) -> Result<Login, StoreError> {
        let mut options = ClientOptions::parse(&uri).await.map_err(|e| unreadable(&e))?;
        options.app_name.get_or_insert_with(|| "messina".to_owned());
        let selection = *options.server_selection_timeout.get_or_insert(SELECTION);
        let pool = *options.max_pool_size.get_or_insert(POOL);
        let named = match &options.tls {
            Some(Tls::Enabled(tls)) => vec![tls.cert_key_file_path.clone(), tls.ca_file_path.clone()],
            _ => vec![],
        };
        // Read before the driver reads them: if a file changes in between, the next comparison notices it.
        let files = named.into_iter().flatten().map(|path| {
            let text = std::fs::read(&path).ok();
            (path, text)
        });
        let files = files.collect();
        let client = Client::with_options(options).map_err(|e| class(&e))?;
        Ok(Login {
            uri,
            files,
            client,
            patience: selection.saturating_add(ANSWER),
            room: Arc::new(Semaphore::new(pool as usize)),
        })
    }

    /// Whether the connection string and the files have not changed since the login.
    fn is_current(&self, uri: &str) -> bool {
        self.uri == uri && self.files.iter().all(|(path, text)| std::fs::read(path).ok() == *text)
    }

    /// Keeps the connections until the process ends. Only for a server that is used from here on, because otherwise every attempt to reach one would
    /// leave connections behind.
    ///
    /// When the last client of a server is dropped, the driver ends its sessions in a task. That task panics if the runtime ends first (mongodb
    /// 3.9.1, cmap/connection_requester.rs), as happens after a check and after a stop. The server expires sessions by itself.
    fn keep(&self) {
        std::mem::forget(self.client.clone());
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

impl Server {
    /// Opens the server of this connection string, and connects in the background. If the login is refused or the server is unreachable, the string
    /// is read again from `secret`.
    pub async fn open(uri: &str, secret: Option<Secret>) -> Result<Server, StoreError> {
        let login = Login::of(uri.to_owned()).await?;
        Ok(Server(Arc::new(Shared {
            secret,
            login: Mutex::new(login),
            renewal: tokio::sync::Mutex::default(),
            runtime: Handle::current(),
        })))
    }

    fn login(&self) -> MutexGuard<'_, Login> {
        self.0.login.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the connections until the process ends.
    pub fn keep(&self) {
        self.login().keep();
    }

    /// Closes the connections of a server that is not kept, and ends the driver's tasks for them. Waits until they have ended, because a check may
    /// end right after.
    pub async fn close(&self) {
        let client = self.login().client.clone();
        // What takes longer ends when the last owner of the client is dropped.
        let _ = tokio::time::timeout(CLOSING, client.shutdown().immediate(true)).await;
    }

    /// The collection `database.collection`, of which the fields `wanted` are read, and always `_id`.
    pub fn source(&self, name: &str, wanted: impl IntoIterator<Item = String>) -> Source {
        let (database, collection) = name.split_once('.').unwrap_or((name, ""));
        Source {
            server: self.clone(),
            database: database.to_owned(),
            collection: collection.to_owned(),
            wanted: wanted.into_iter().collect(),
            silence: SILENCE,
        }
    }

    /// Passes an answer on. If the login was refused or the server is unreachable, first takes a changed connection string, so that the next request
    /// uses it.
    async fn seen<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        let failed = answer.as_ref().err().map(class);
        if failed.is_some_and(|error| is_refused(&error) || error.label == "unavailable") {
            let server = self.clone();
            // The task is cancelled when the process ends.
            let _ = self.0.runtime.spawn(async move { server.log_in_again().await }).await;
        }
        answer
    }

    /// Logs in with the current connection string and the files that it names, if any of them has changed.
    async fn log_in_again(&self) {
        let Some(secret) = &self.0.secret else { return };
        let turn = self.0.renewal.lock().await;
        let uri = match secret.reveal() {
            Ok(uri) if self.login().is_current(&uri) => return,
            Ok(uri) => uri,
            Err(error) => return tracing::warn!("[mongo] uri cannot be read again: {error}"),
        };
        match Login::of(uri).await {
            Ok(login) => {
                login.keep();
                let old = std::mem::replace(&mut *self.login(), login);
                drop(turn);
                tracing::info!("[mongo] uri, or a file that it names, has changed: the new one is in use");
                // Requests in flight may delay the shutdown, so nothing waits for it.
                tokio::spawn(async move { old.client.shutdown().immediate(true).await });
            }
            Err(error) => {
                tracing::warn!("[mongo] uri, or a file that it names, has changed and is not valid: {error}");
            }
        }
    }
}

impl Source {
    fn collection(&self) -> Collection<RawDocumentBuf> {
        self.server
            .login()
            .client
            .database(&self.database)
            .collection(&self.collection)
    }

    fn projection(&self, below: &str) -> Document {
        self.wanted
            .iter()
            .map(|field| (format!("{below}{field}"), 1.into()))
            .collect()
    }

    /// Some documents, in the order in which the server returns them.
    pub async fn sample(&self) -> Result<Vec<RawDocumentBuf>, StoreError> {
        let collection = self.collection();
        let find = collection.find(doc! {}).projection(self.projection("")).limit(SAMPLE);
        let documents = async {
            let mut cursor = find.await?;
            let mut documents = Vec::new();
            while cursor.advance().await? {
                documents.push(cursor.current().to_owned());
            }
            Ok::<_, Error>(documents)
        };
        within(self.silence, documents).await.map_err(|e| class(&e))
    }

    /// The collections of the same database that the login may see; empty if the server does not list them.
    pub async fn neighbours(&self) -> Vec<String> {
        let database = self.server.login().client.database(&self.database);
        let names = database.list_collection_names().authorized_collections(true);
        within(self.silence, names).await.unwrap_or_default()
    }

    /// A permit guarantees a free connection. So the wait for a connection does not count towards the time limit of [`Source::find`].
    pub fn room(&self) -> Arc<Semaphore> {
        Arc::clone(&self.server.login().room)
    }

    /// A document whose field `key` has one of these values, and the key bytes `wanted`. For running pipelines, and not for their start: a refused
    /// login counts as transient.
    pub async fn find(
        &self,
        key: &str,
        values: Vec<Bson>,
        wanted: &[u8],
    ) -> Result<Option<RawDocumentBuf>, StoreError> {
        self.one(key, values, wanted, None).await
    }

    /// As [`Source::find`], but from the primary, which certainly has the change that causes this request.
    pub async fn another(
        &self,
        key: &str,
        values: Vec<Bson>,
        wanted: &[u8],
    ) -> Result<Option<RawDocumentBuf>, StoreError> {
        self.one(key, values, wanted, Some(ReadPreference::Primary.into()))
            .await
    }

    async fn one(
        &self,
        key: &str,
        values: Vec<Bson>,
        wanted: &[u8],
        from: Option<SelectionCriteria>,
    ) -> Result<Option<RawDocumentBuf>, StoreError> {
        let patience = self.server.login().patience;
        let collection = self.collection();
        // MongoDB also matches an array by its elements, but an array cannot be a key.
        let filter = doc! { key: { "$in": values, "$not": { "$type": "array" } } };
        let one = collection
            .find_one(filter.clone())
            .projection(self.projection(""))
            .optional(from.clone(), |find, from| find.selection_criteria(from));
        let find = collection
            .find(filter)
            .projection(self.projection(""))
            .optional(from, |find, from| find.selection_criteria(from));
        // The server finds more than that: other types of numbers, and text that a collation considers equal.
        let suits = |document: &RawDocument| codec::key_of_document(key, document).as_deref() == Some(wanted);
        let first = async {
            match one.await? {
                Some(document) if !suits(&document) => {}
                found => return Ok(found),
            }
            // Done only if necessary, which is rare, because a cursor fetches a whole batch.
            let mut cursor = find.await?;
            while cursor.advance().await? {
                let document = cursor.current();
                if suits(document) {
                    return Ok(Some(document.to_owned()));
                }
            }
            Ok(None)
        };
        let found = async { self.server.seen(first.await).await };
        let Ok(found) = tokio::time::timeout(patience, found).await else {
            let message = format!("MongoDB: no answer within {patience:?}");
            return Err(StoreError::transient("timeout", message));
        };
        found.map_err(|e| while_running(class(&e)))
    }

    /// Reads all documents. A collection that is `followed` is read from the primary, with everything that it has now: another member, or a majority,
    /// may lack documents that were written before the stream began, and the stream does not report those.
    pub async fn read(&self, followed: bool) -> Result<Cursor<RawDocumentBuf>, Error> {
        let collection = self.collection();
        let mut find = collection.find(doc! {}).projection(self.projection(""));
        if followed {
            find = find
                .selection_criteria(ReadPreference::Primary.into())
                .read_concern(ReadConcern::local());
        }
        self.server
            .seen(within(self.silence, find.batch_size(BATCH)).await)
            .await
    }

    /// Whether the login may open a change stream. Other obstacles are reported when the stream is opened.
    ///
    /// # Errors
    /// If the privilege is missing.
    pub async fn may_follow(&self) -> Result<(), StoreError> {
        let database = self.server.login().client.database(&self.database);
        let primary = || SelectionCriteria::from(ReadPreference::Primary);
        let watch =
            doc! { "aggregate": &self.collection, "pipeline": [{ "$changeStream": {} }], "cursor": { "batchSize": 0 } };
        let watch = database.run_command(watch).selection_criteria(primary());
        let answer = match self.server.seen(within(self.silence, watch).await).await {
            Ok(answer) => answer,
            Err(error) => {
                let error = class(&error);
                return if error.label == "forbidden" { Err(error) } else { Ok(()) };
            }
        };
        // Sent as a plain command: the driver would close a dropped stream in a task of its own, which panics if a check ends first.
        let cursor = answer.get_document("cursor").and_then(|cursor| cursor.get_i64("id"));
        if let Ok(id) = cursor
            && id != 0
        {
            let close = doc! { "killCursors": &self.collection, "cursors": [id] };
            let close = database.run_command(close).selection_criteria(primary());
            // If this fails, the server closes the cursor by itself in the end.
            let _ = within(self.silence, close).await;
        }
        Ok(())
    }

    /// Opens a change stream that starts now, or at the position of `after`. It comes from the primary, because no other member is ahead of that.
    pub async fn watch(&self, after: Option<ResumeToken>) -> Result<ChangeStream<Change>, Error> {
        let mut kept = self.projection("fullDocument.");
        kept.extend(doc! { "operationType": 1, "documentKey": 1, "clusterTime": 1, "fullDocument._id": 1 });
        let collection = self.collection();
        let watch = collection.watch().pipeline([doc! { "$project": kept }]);
        let watch = watch.full_document(FullDocumentType::UpdateLookup);
        let watch = watch.selection_criteria(ReadPreference::Primary.into());
        let watch = watch.max_await_time(AWAIT).batch_size(BATCH).resume_after(after);
        let stream = self.server.seen(within(self.silence, watch).await).await?;
        Ok(stream.with_type())
    }
}

/// Whether the login was refused, or lacks the privilege.
pub(crate) fn is_refused(error: &StoreError) -> bool {
    matches!(error.label, "auth" | "forbidden")
}

/// MongoDB's error code, if the server sent one.
fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

/// Whether the server has no change streams: a standalone one (40573), or one that does not know them.
pub fn has_no_change_streams(error: &Error) -> bool {
    matches!(code(error), Some(40573 | 40324 | 59 | 115))
        || matches!(&*error.kind, ErrorKind::IncompatibleServer { .. })
}

/// Whether a stream cannot be resumed, so that the collection has to be read again: lost history (286), a token that the server rejects (260), a
/// cursor that is gone for good (280).
pub fn cannot_resume(error: &Error) -> bool {
    matches!(code(error), Some(286 | 260 | 280)) || matches!(&*error.kind, ErrorKind::MissingResumeToken)
}

/// Whether our own time limit was exceeded. The driver and the system have limits of their own for connections; their errors contain no message.
pub fn is_late(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Io(io) if io.kind() == std::io::ErrorKind::TimedOut && io.get_ref().is_some())
}

/// Whether the server answered with an error that it does not label as resumable. At the same position it may answer the same forever, for example if
/// a change exceeds the maximum message size.
pub fn is_told(error: &Error) -> bool {
    code(error).is_some() && !error.contains_label(RESUMABLE_CHANGE_STREAM_ERROR)
}

/// Classifies an error: wrong credentials and options are fatal, requests that the server rejects are permanent, the rest is transient.
pub fn class(error: &Error) -> StoreError {
    let (class, label) = match &*error.kind {
        ErrorKind::Authentication { .. } | ErrorKind::InvalidTlsConfig { .. } => (Class::Fatal, "auth"),
        ErrorKind::InvalidArgument { .. } => (Class::Fatal, "config"),
        ErrorKind::Command(command) => match command.code {
            13 => (Class::Fatal, "forbidden"),
            18 | 8000 => (Class::Fatal, "auth"),
            2 | 9 | 14 | 59 | 73 | 115 | 166 | 16410 | 31249 | 31250 => (Class::Permanent, "invalid"),
            _ => (Class::Transient, "server"),
        },
        ErrorKind::IncompatibleServer { .. } => (Class::Fatal, "server"),
        _ => (Class::Transient, "unavailable"),
    };
    let mut message = format!("MongoDB: {}", error.kind);
    if NO_CERTIFICATE.iter().any(|alert| message.contains(alert)) {
        message
            .push_str("; perhaps it requires a client certificate (`tlsCertificateKeyFile` in the connection string)");
    }
    if label == "forbidden" {
        message.push_str("; the user needs the privilege `find` on the collection, and `changeStream` too where it is held in memory");
    }
    StoreError::new(class, label, message)
}

/// The error for an invalid connection string. The driver's message quotes the part that it cannot read, which may belong to the password.
fn unreadable(error: &Error) -> StoreError {
    match &*error.kind {
        ErrorKind::InvalidArgument { .. } => StoreError::fatal(
            "config",
            "MongoDB: the connection string cannot be read: user and password are percent-encoded (`?` is %3F, `/` %2F, `@` %40), \
             options are key=value with & between",
        ),
        _ => class(error),
    }
}

/// Classifies an error of a server that has answered before. At the start, the login was accepted and had its privileges. So a refusal now is
/// transient: the login is being rotated, and has changed on one side first.
fn while_running(error: StoreError) -> StoreError {
    let class = if is_refused(&error) {
        Class::Transient
    } else {
        error.class
    };
    StoreError { class, ..error }
}

#[cfg(test)]
mod tests;
