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

/// How many documents a sample has, and one answer of the server.
const SAMPLE: i64 = 1000;
const BATCH: u32 = 2000;
/// Change streams are asked again after this long without a change: it bounds how stale "current" can be.
const AWAIT: Duration = Duration::from_secs(1);
/// Where the connection string does not say: a server that is away is waited for by us, not in the driver.
const SELECTION: Duration = Duration::from_secs(5);
/// How long a record waits for its document beside that: what is behind a connection that stands still may never answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long what is sampled, read or followed may take for its next documents. The driver has no bound of its own, and behind a connection that nobody
/// closes, or a server that stands still while another one is the primary, it would wait for ever.
const SILENCE: Duration = Duration::from_secs(60);
/// Connections, where the connection string does not say: the driver's ten are few for what may be in flight.
const POOL: u32 = 100;
/// How long the driver may take to end what it runs for a server that is given up.
const CLOSING: Duration = Duration::from_secs(2);

/// One change of a collection. `operation` is MongoDB's `operationType`.
#[derive(Debug, Deserialize)]
pub struct Change {
    /// `insert`, `update`, `replace`, `delete`, `drop`, …
    #[serde(rename = "operationType")]
    pub operation: String,
    /// The document as it is now; none for a deletion, or where it has been deleted since.
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
    /// When it was made, where our clock says `clock` now: now, where the server does not tell or its clock is ahead.
    pub(super) fn made(&self, now: Instant, clock: SystemTime) -> Instant {
        let clock = clock.duration_since(UNIX_EPOCH).unwrap_or_default();
        let made = self.time.map_or(clock, |time| Duration::from_secs(time.time.into()));
        now.checked_sub(clock.saturating_sub(made)).unwrap_or(now)
    }
}

/// What TLS servers answer to a client that shows no certificate where one is asked for: OpenSSL's before TLS 1.3 and since, and Java's.
const NO_CERTIFICATE: [&str; 3] = [
    "alert handshake failure",
    "alert certificate required",
    "alert bad certificate",
];

/// A collection, and the fields that are wanted of it.
#[derive(Debug, Clone)]
pub struct Source {
    server: Server,
    database: String,
    collection: String,
    wanted: Vec<String>,
    /// See [`within`].
    pub(super) silence: Duration,
}

/// The answer, if it comes in time.
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

/// How many connections a process has with the server, as far as the connection string can be read here.
pub fn connections(mongo: Option<&Mongo>) -> u32 {
    let uri = mongo.and_then(|mongo| mongo.uri.reveal().ok());
    let said = uri.and_then(|uri| ConnectionString::parse(uri).ok());
    said.and_then(|said| said.max_pool_size).unwrap_or(POOL)
}

/// The server. Clones share the login.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    /// Where the connection string is read again.
    secret: Option<Secret>,
    login: Mutex<Login>,
    /// One at a time logs in again.
    renewal: tokio::sync::Mutex<()>,
    runtime: Handle,
}

struct Login {
    uri: String,
    /// The files that the connection string names, as they were: the driver reads them once.
    files: Vec<(PathBuf, Option<Vec<u8>>)>,
    client: Client,
    /// How long one document may take. More than the driver waits for a server: why there is none is its to say.
    patience: Duration,
    /// As many as there are connections.
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
        // Before the driver does: what changes in between is another by the next time.
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

    /// Whether this is what one would log in with by now.
    fn is_current(&self, uri: &str) -> bool {
        self.uri == uri && self.files.iter().all(|(path, text)| std::fs::read(path).ok() == *text)
    }

    /// Keeps its connections for as long as the process; for a server that is used from here on, or each attempt to reach one would leave its own.
    ///
    /// The last client of a server ends its sessions when it is dropped, in a task of the driver's. That task panics when the
    /// runtime ends before it (mongodb 3.9.1, cmap/connection_requester.rs), as it does behind a check and behind a stop. The server forgets
    /// sessions by itself.
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
    /// Takes the connection string, and where it is read again when the login is refused; connects in the background.
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

    /// Keeps its connections for as long as the process.
    pub fn keep(&self) {
        self.login().keep();
    }

    /// Ends its connections, and what the driver runs for them: for a server that is not kept. Its end is waited for, as a check may end behind it.
    pub async fn close(&self) {
        let client = self.login().client.clone();
        // What takes longer ends with the last that holds the client.
        let _ = tokio::time::timeout(CLOSING, client.shutdown().immediate(true)).await;
    }

    /// `database.collection`, of which `wanted` are read; `_id` is always.
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

    /// Looks at what came of a question: where the login is refused, or nobody is there, the next that asks has the login that is configured by now.
    async fn seen<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        let failed = answer.as_ref().err().map(class);
        if failed.is_some_and(|error| is_refused(&error) || error.label == "unavailable") {
            let server = self.clone();
            // It fails when the process ends.
            let _ = self.0.runtime.spawn(async move { server.log_in_again().await }).await;
        }
        answer
    }

    /// Takes the connection string and the files that it names, if one of them is another by now.
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
                // What is in flight may take its time; nobody waits for it.
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

    /// Some documents, as they come.
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

    /// Who has a permit of it finds a connection: the wait for one is no part of the time that [`Source::find`] gives an answer.
    pub fn room(&self) -> Arc<Semaphore> {
        Arc::clone(&self.server.login().room)
    }

    /// A document of which `key` is one of these values, and is found in memory by the bytes that are `wanted`. Asked while pipelines run, and not at
    /// their start.
    pub async fn find(
        &self,
        key: &str,
        values: Vec<Bson>,
        wanted: &[u8],
    ) -> Result<Option<RawDocumentBuf>, StoreError> {
        self.one(key, values, wanted, None).await
    }

    /// As [`Source::find`], from the primary: it has the change that asks.
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
        // An array is no key, though one of its elements may be asked for.
        let filter = doc! { key: { "$in": values, "$not": { "$type": "array" } } };
        let one = collection
            .find_one(filter.clone())
            .projection(self.projection(""))
            .optional(from.clone(), |find, from| find.selection_criteria(from));
        let find = collection
            .find(filter)
            .projection(self.projection(""))
            .optional(from, |find, from| find.selection_criteria(from));
        // What the server finds besides: other kinds of numbers, and text that is the same to a collation.
        let suits = |document: &RawDocument| codec::key_of_document(key, document).as_deref() == Some(wanted);
        let first = async {
            match one.await? {
                Some(document) if !suits(&document) => {}
                found => return Ok(found),
            }
            // Rarely: a batch of them would be brought.
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

    /// All documents. What is `followed` is read from the primary, and as that has it now: another member, and what a majority has, may lack what was
    /// written before its stream began, of which the stream tells nothing.
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

    /// Whether the login may follow it. What else keeps a stream from being opened is told when it is.
    ///
    /// # Errors
    /// Where the privilege lacks.
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
        // The driver closes a stream that is dropped in a task of its own, which panics when a check ends before it.
        let cursor = answer.get_document("cursor").and_then(|cursor| cursor.get_i64("id"));
        if let Ok(id) = cursor
            && id != 0
        {
            let close = doc! { "killCursors": &self.collection, "cursors": [id] };
            let close = database.run_command(close).selection_criteria(primary());
            // The server closes it by itself in the end.
            let _ = within(self.silence, close).await;
        }
        Ok(())
    }

    /// What changes from now on, or from where `after` was; from the primary, which no other member is ahead of.
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

/// Whether the login is not taken, or has not the privilege.
pub(crate) fn is_refused(error: &StoreError) -> bool {
    matches!(error.label, "auth" | "forbidden")
}

/// MongoDB's number of an error, where the server sent it.
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

/// Whether a stream cannot be resumed and the collection is to be read again: history lost (286), a token that the server does not
/// take (260), a cursor that is gone for good (280).
pub fn cannot_resume(error: &Error) -> bool {
    matches!(code(error), Some(286 | 260 | 280)) || matches!(&*error.kind, ErrorKind::MissingResumeToken)
}

/// Whether an answer did not come within our own limit. The driver and the system have limits of theirs, for connections, with no words in their error.
pub fn is_late(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Io(io) if io.kind() == std::io::ErrorKind::TimedOut && io.get_ref().is_some())
}

/// Whether the server has answered with an error that does not call a stream resumable: at the same place the answer may be the same for ever, as where a
/// change is larger than a message may be.
pub fn is_told(error: &Error) -> bool {
    code(error).is_some() && !error.contains_label(RESUMABLE_CHANGE_STREAM_ERROR)
}

/// What an error means: wrong credentials and options are fatal, what the server refuses permanent, the rest may pass.
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

/// Why a connection string is not taken. The driver quotes what it cannot read, and that may be a part of the password.
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

/// What an error means for a server that has answered before. The login was taken at the start, and had its privileges: what is refused now is being
/// rotated, here first, or there.
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
