//! An in-memory schema registry that speaks Confluent's HTTP API on its own port.
//!
//! The demo runs the real client against it, so that nothing needs to be installed. Tests use it too, because a real registry cannot fail on demand:
//! a hook may delay an answer or replace it.
//!
//! Limits: it stores nothing on disk, never refuses a version as incompatible, and reads schemas only as JSON. As in the real one, the same text
//! under several subjects has one id, and errors carry Confluent's codes.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::http::Listener;

/// Maximum size of a submitted schema in bytes.
const LARGEST: usize = 4 * 1024 * 1024;

/// What a hook does to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it is answered normally.
    None,
    /// It is answered with this HTTP status and no body.
    Status(u16),
    /// It is answered with this HTTP status and this body.
    Answer(u16, &'static str),
    /// It is answered normally, after this time.
    Delay(Duration),
}

/// Decides on the fault for a method and path.
pub type Hook = Box<dyn Fn(&Method, &str) -> Fault + Send + Sync>;

/// The running registry. It stops when it is dropped, or with the runtime.
pub struct DemoRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

struct Shared {
    store: Mutex<Store>,
    hook: Mutex<Arc<Hook>>,
    requests: AtomicU64,
}

#[derive(Default)]
struct Store {
    schemas: Vec<Stored>,
    subjects: BTreeMap<String, Vec<u32>>,
    ids: HashMap<Stored, u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    schema: String,
    #[serde(default = "avro")]
    schema_type: String,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: usize,
}

fn avro() -> String {
    "AVRO".to_owned()
}

impl DemoRegistry {
    /// Starts it on a free port of 127.0.0.1, on the current Tokio runtime.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> io::Result<Self> {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.map_err(|e| e.error)?;
        let address = listener.address();
        let hook: Hook = Box::new(|_, _| Fault::None);
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            hook: Mutex::new(Arc::new(hook)),
            requests: AtomicU64::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let handler = {
            let shared = Arc::clone(&shared);
            move |request| answer(Arc::clone(&shared), request)
        };
        let task = tokio::spawn(listener.serve(handler, async {
            // Nothing is ever sent: `stop`, or dropping the registry, drops the sender.
            let _ = stopped.await;
        }));
        Ok(Self {
            address,
            shared,
            stop: Some(stop),
            task: Some(task),
        })
    }

    /// Its base address, such as `http://127.0.0.1:43210`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests received so far, including those that the hook changed.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Lets `hook` decide on every request from now on.
    pub fn on_request(&self, hook: impl Fn(&Method, &str) -> Fault + Send + Sync + 'static) {
        let hook: Hook = Box::new(hook);
        *self.shared.hook.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(hook);
    }

    /// Stops it, and waits until its port is free.
    pub async fn stop(mut self) {
        self.stop = None;
        if let Some(task) = self.task.take() {
            // This fails only if the task panicked, and then it has ended as well.
            let _ = task.await;
        }
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let hook = Arc::clone(&shared.hook.lock().unwrap_or_else(PoisonError::into_inner));
    match hook(&method, &path) {
        Fault::None => {}
        Fault::Status(status) => return respond_with(status, Bytes::new()),
        Fault::Answer(status, body) => return respond_with(status, Bytes::from_static(body.as_bytes())),
        Fault::Delay(time) => tokio::time::sleep(time).await,
    }
    let body = match Limited::new(request.into_body(), LARGEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            return respond(Err(Problem(
                413,
                413,
                "the request is too large or was interrupted".into(),
            )));
        }
    };
    let segments = path.split('/').filter(|s| !s.is_empty());
    let segments: Vec<_> = segments.map(|s| percent_decode_str(s).decode_utf8_lossy()).collect();
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let mut store = shared.store.lock().unwrap_or_else(PoisonError::into_inner);
    respond(store.route(&method, &segments, &body))
}

/// HTTP status, Confluent's code, message.
struct Problem(u16, u32, String);

fn respond(result: Result<Value, Problem>) -> Response<Full<Bytes>> {
    let (status, value) = match result {
        Ok(value) => (200, value),
        Err(Problem(status, code, message)) => (status, json!({ "error_code": code, "message": message })),
    };
    let mut response = respond_with(status, Bytes::from(value.to_string()));
    let json = HeaderValue::from_static("application/vnd.schemaregistry.v1+json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn respond_with(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

impl Store {
    fn route(&mut self, method: &Method, path: &[&str], body: &[u8]) -> Result<Value, Problem> {
        match (method.as_str(), path) {
            ("GET", ["subjects"]) => Ok(json!(self.subjects.keys().collect::<Vec<_>>())),
            ("GET", ["schemas", "ids", id]) => self.by_id(id),
            ("GET", ["subjects", subject, "versions"]) => {
                Ok(json!((1..=self.versions(subject)?.len()).collect::<Vec<_>>()))
            }
            ("GET", ["subjects", subject, "versions", version]) => self.version(subject, version),
            ("POST", ["subjects", subject, "versions"]) => self.register(subject, submitted(body)?),
            ("POST", ["subjects", subject]) => self.lookup(subject, &submitted(body)?),
            ("POST", ["compatibility", "subjects", _, "versions", ..]) => {
                submitted(body)?;
                Ok(json!({ "is_compatible": true }))
            }
            _ => Err(Problem(404, 404, "HTTP 404 Not Found".into())),
        }
    }

    fn by_id(&self, id: &str) -> Result<Value, Problem> {
        // As in Confluent's registry, which has such a path only for ids that are a Java `int`.
        let id: i32 = id.parse().map_err(|_| Problem(404, 404, "HTTP 404 Not Found".into()))?;
        let stored = u32::try_from(id).ok().and_then(|id| self.stored(id));
        let stored = stored.ok_or_else(|| Problem(404, 40403, format!("Schema {id} not found")))?;
        Ok(stored.described(json!({})))
    }

    fn version(&self, subject: &str, version: &str) -> Result<Value, Problem> {
        let ids = self.versions(subject)?;
        let number = if version == "latest" {
            Some(ids.len())
        } else {
            version.parse().ok()
        };
        let number = number.ok_or_else(|| Problem(422, 42202, format!("{version} is not a version")))?;
        let id = number.checked_sub(1).and_then(|at| ids.get(at));
        let Some((id, stored)) = id.and_then(|id| Some((*id, self.stored(*id)?))) else {
            return Err(Problem(404, 40402, format!("Version {version} not found")));
        };
        Ok(stored.described(json!({ "subject": subject, "id": id, "version": number })))
    }

    fn register(&mut self, subject: &str, submitted: Stored) -> Result<Value, Problem> {
        for reference in &submitted.references {
            let known = self
                .subjects
                .get(&reference.subject)
                .is_some_and(|ids| (1..=ids.len()).contains(&reference.version));
            if !known {
                let Reference { name, subject, version } = reference;
                return Err(Problem(
                    422,
                    42201,
                    format!("{name} refers to {subject} version {version}: not found"),
                ));
            }
        }
        let next = u32::try_from(self.schemas.len() + 1).unwrap_or(u32::MAX);
        let id = *self.ids.entry(submitted.clone()).or_insert(next);
        if id == next {
            self.schemas.push(submitted);
        }
        let versions = self.subjects.entry(subject.to_owned()).or_default();
        if !versions.contains(&id) {
            versions.push(id);
        }
        Ok(json!({ "id": id }))
    }

    fn lookup(&self, subject: &str, submitted: &Stored) -> Result<Value, Problem> {
        let ids = self.versions(subject)?;
        let found = self
            .ids
            .get(submitted)
            .and_then(|id| Some((*id, ids.iter().position(|v| v == id)? + 1)));
        let (id, version) = found.ok_or_else(|| Problem(404, 40403, "Schema not found".into()))?;
        Ok(submitted.described(json!({ "subject": subject, "id": id, "version": version })))
    }

    fn versions(&self, subject: &str) -> Result<&[u32], Problem> {
        let ids = self.subjects.get(subject).map(Vec::as_slice);
        ids.ok_or_else(|| Problem(404, 40401, format!("Subject '{subject}' not found.")))
    }

    fn stored(&self, id: u32) -> Option<&Stored> {
        self.schemas.get(usize::try_from(id).ok()?.checked_sub(1)?)
    }
}

impl Stored {
    /// Adds the schema to an answer. As in Confluent's registry, the type is left out if it is Avro, and so is an empty list of references.
    fn described(&self, mut answer: Value) -> Value {
        answer["schema"] = json!(self.schema);
        if self.schema_type != "AVRO" {
            answer["schemaType"] = json!(self.schema_type);
        }
        if !self.references.is_empty() {
            let told = self.references.iter();
            let told = told.map(|r| json!({ "name": r.name, "subject": r.subject, "version": r.version }));
            answer["references"] = told.collect();
        }
        answer
    }
}

fn submitted(body: &[u8]) -> Result<Stored, Problem> {
    let invalid = |reason: String| Problem(422, 42201, format!("Invalid schema: {reason}"));
    let submitted: Stored = serde_json::from_slice(body).map_err(|e| invalid(e.to_string()))?;
    if submitted.schema_type == "AVRO" {
        serde_json::from_str::<Value>(&submitted.schema).map_err(|e| invalid(e.to_string()))?;
    }
    Ok(submitted)
}
