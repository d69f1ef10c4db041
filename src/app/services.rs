//! Connections that pipelines share: the schema registry and the database.
//!
//! If a service does not answer, it is retried with back-off; if it is configured wrongly, that is a finding.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::references::{self, Opened};
use super::renewal::EVERY;
use super::threads::LoopThread;
use super::{Shared, StartError, Waiting, config_error};
use crate::config::{self, Config, Sources};
use crate::kafka::login::Logins;
use crate::pipeline::failure::Failure;
use crate::pipeline::finding::Finding;
use crate::pipeline::prepare::NotPrepared;
use crate::registry::{OauthOptions, Registry, RegistryOptions};
use crate::retry::{Backoff, Class, Jitter};
use crate::source::consumer_loop::End;
use crate::source::status::LoopState;
use crate::store::AnyStore;
use crate::store::scylla::{ScyllaOptions, ScyllaStore};
use crate::store::sqlite::{SqliteOptions, SqliteStore, Synchronous};
use crate::telemetry::metrics::Metrics;

/// Between attempts at something that may recover: 50 ms, doubling to 10 s.
const BACKOFF: (Duration, Duration, f64) = (Duration::from_millis(50), Duration::from_secs(10), 2.0);

/// The interval between two checks of how long something has been awaited.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) fn backoff() -> Backoff {
    Backoff::new(BACKOFF.0, BACKOFF.1, BACKOFF.2)
}

/// Why services are connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To run pipelines.
    Run,
    /// To check them.
    Check,
}

/// What the pipelines share.
pub struct Services {
    /// The schema registry.
    pub registry: Arc<Registry>,
    /// The database, if there is one.
    pub store: Option<Arc<AnyStore>>,
    /// The logins of the brokers' clients.
    pub logins: Logins,
    /// Tells the sessions of the loops to read their credentials again.
    pub(super) credentials: watch::Sender<()>,
    /// The references, still empty.
    pub(super) references: Opened,
}

impl Services {
    /// Connects; waits for a database that does not answer.
    pub(super) async fn connect(config: &Config, sources: &Sources, shared: &Shared) -> Result<Services, StartError> {
        let connect = || Services::connect_once(config, Purpose::Run);
        let connected = answered(connect, |why| note(shared, why)).await;
        let services = connected.map_err(|findings| config_error(findings, sources))?;
        reached(shared);
        // This session is long-lived: it prepares pipelines at each reload.
        if let Some(store) = services.store.clone() {
            keep_credentials(store, services.credentials.subscribe());
        }
        Ok(services)
    }

    /// Connects once. A check changes nothing, not even the embedded store's file.
    pub(super) async fn connect_once(config: &Config, purpose: Purpose) -> Result<Services, NotPrepared> {
        let registry = registry(config)?;
        Ok(Services {
            registry: Arc::new(registry),
            store: store(config, purpose).await?.map(Arc::new),
            logins: Logins::default(),
            credentials: watch::Sender::default(),
            references: references::open(config).await?,
        })
    }
}

/// Keeps a session able to log in as long as the runtime lives.
fn keep_credentials(store: Arc<AnyStore>, credentials: watch::Receiver<()>) {
    tokio::spawn(async move {
        if let AnyStore::Scylla(store) = &*store {
            store.keep_credentials(EVERY, credentials).await;
        }
    });
}

/// Exports the metrics of a session's driver, if it has one.
pub(super) fn watch_driver(metrics: &Metrics, runtime: &str, store: &Arc<AnyStore>) {
    if !matches!(**store, AnyStore::Scylla(_)) {
        return;
    }
    let store = Arc::downgrade(store);
    metrics.watch_driver(runtime, move || match &*store.upgrade()? {
        AnyStore::Scylla(scylla) => Some(scylla.driver()),
        _ => None,
    });
}

/// Repeats `ask` until it gets an answer; each time it does not, `tell` gets the reason.
async fn answered<T, F>(ask: impl Fn() -> F, tell: impl Fn(String)) -> Result<T, Vec<Finding>>
where
    F: Future<Output = Result<T, NotPrepared>>,
{
    let mut attempt = 0;
    let mut jitter = Jitter::unique();
    loop {
        match ask().await {
            Ok(it) => return Ok(it),
            Err(NotPrepared::Findings(findings)) => return Err(findings),
            Err(NotPrepared::Unavailable(failure)) => {
                tell(failure.message.clone());
                pause(&failure.message, &mut attempt, &mut jitter).await;
            }
        }
    }
}

/// Notes what is awaited, and pauses.
pub(super) async fn wait(shared: &Shared, reason: &str, attempt: &mut u32, jitter: &mut Jitter) {
    note(shared, reason.to_owned());
    pause(reason, attempt, jitter).await;
}

async fn pause(reason: &str, attempt: &mut u32, jitter: &mut Jitter) {
    tracing::warn!(attempt = *attempt, "not ready: {reason}; trying again");
    tokio::time::sleep(backoff().delay(*attempt, jitter.next_u64())).await;
    *attempt += 1;
}

/// Notes what is awaited; the time stays that of the first wait since the last success.
fn note(shared: &Shared, what: String) {
    let mut known = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let since = known.waiting_for.as_ref().map(|before| before.since);
    known.waiting_for = Some(Waiting {
        what,
        since: since.unwrap_or_else(Instant::now),
    });
}

/// What was awaited has arrived: clears the note, so that a later delay is not attributed to it.
pub(super) fn reached(shared: &Shared) {
    shared.lock().unwrap_or_else(PoisonError::into_inner).waiting_for = None;
}

/// Returns when something has been awaited for `limit`: its name.
pub(super) async fn waited_for(shared: &Shared, limit: Duration) -> String {
    loop {
        let known = shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting_for
            .clone();
        match known {
            Some(waiting) if waiting.since.elapsed() >= limit => return waiting.what,
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

pub(super) fn registry(config: &Config) -> Result<Registry, NotPrepared> {
    let place = config.registry.urls.first().map(|u| u.span);
    registry_options(config)
        .and_then(|options| Registry::new(options).map_err(|e| format!("[registry]: {e}")))
        .map_err(|message| NotPrepared::Findings(place.map(|span| Finding::new(span, message)).into_iter().collect()))
}

/// The options of the registry's client; secrets are read now.
fn registry_options(config: &Config) -> Result<RegistryOptions, String> {
    let from = &config.registry;
    let mut options = RegistryOptions {
        urls: from.urls.iter().map(|u| u.value.clone()).collect(),
        certificates: from.tls.as_ref().map(config::Tls::files).unwrap_or_default(),
        timeout: from.timeout,
        ..RegistryOptions::default()
    };
    match &from.auth {
        Some(config::RegistryAuth::Basic { username, password }) => {
            options.username = Some(username.clone());
            options.password = Some(password.reveal().map_err(|e| e.to_string())?);
        }
        Some(config::RegistryAuth::Bearer(token)) => options.bearer = Some(token.reveal().map_err(|e| e.to_string())?),
        Some(config::RegistryAuth::Oauth(oauth)) => {
            let tls = oauth.tls.as_ref().or(from.tls.as_ref());
            options.oauth = Some(OauthOptions {
                token_endpoint: oauth.token_endpoint.value.clone(),
                client_id: oauth.client_id.clone(),
                client_secret: oauth.client_secret.reveal().map_err(|e| e.to_string())?,
                scope: oauth.scope.clone(),
                certificates: tls.map(config::Tls::files).unwrap_or_default(),
            });
        }
        None => {}
    }
    Ok(options)
}

/// The options of the database, if it is a CQL server; its files are read when a session is opened.
pub(super) fn scylla_options(config: &Config) -> Option<ScyllaOptions> {
    let from = config.scylla.as_ref()?;
    Some(ScyllaOptions {
        nodes: from.nodes.iter().map(|n| n.value.clone()).collect(),
        keyspace: from.keyspace.as_ref().map(|k| k.value.clone()),
        datacenter: from.datacenter.as_ref().map(|d| d.value.clone()),
        rack: from.rack.as_ref().map(|r| r.value.clone()),
        failover: from.failover,
        consistency: from.consistency,
        serial_consistency: from.serial_consistency,
        username: from.username.clone(),
        password: from.password.clone().map(|secret| {
            let reveal: crate::store::scylla::Secret = Arc::new(move || secret.reveal().map_err(|e| e.to_string()));
            reveal
        }),
        tls: from.tls.as_ref().map(config::Tls::files),
        compression: from.compression,
        request_timeout: from.timeout,
        ..ScyllaOptions::default()
    })
}

/// Reads the registry's login and certificates again, for all requests from now on; if that fails, the old ones stay in
/// use.
pub(super) fn read_registry_again(config: &Config, registry: &Registry) -> Result<(), String> {
    let read = registry.reload(|| registry_options(config));
    read.map_err(|e| format!("[registry]: {e}"))
}

/// As [`read_registry_again`], for files that have changed: keeps a token whose credentials have not changed.
pub(super) fn renew_registry(config: &Config, registry: &Registry) -> Result<(), String> {
    let read = registry.renew(|| registry_options(config));
    read.map_err(|e| format!("[registry]: {e}"))
}

pub(super) async fn store(config: &Config, purpose: Purpose) -> Result<Option<AnyStore>, NotPrepared> {
    if let (Some(path), Some(store)) = (config.sqlite_path(), &config.store) {
        let opened = match purpose {
            Purpose::Run => SqliteStore::open(&SqliteOptions {
                // The brokers keep an offset when this machine loses power, and a record whose row is lost would not come again.
                synchronous: Synchronous::Full,
                ..SqliteOptions::new(path)
            }),
            Purpose::Check => SqliteStore::open_tables_of(Path::new(path)).await,
        };
        return match opened {
            Ok(sqlite) => Ok(Some(AnyStore::Sqlite(sqlite))),
            Err(error) => Err(NotPrepared::Findings(vec![Finding::new(store.span, error.to_string())])),
        };
    }
    let Some(options) = scylla_options(config) else {
        return Ok(None);
    };
    let place = config
        .scylla
        .as_ref()
        .and_then(|from| from.nodes.first())
        .map(|n| n.span);
    match ScyllaStore::connect(&options).await {
        Ok(scylla) => Ok(Some(AnyStore::Scylla(scylla))),
        Err(error) if error.class == Class::Transient => Err(NotPrepared::Unavailable(Failure::transient(
            error.label,
            format!("the database: {error}"),
        ))),
        Err(error) => Err(NotPrepared::Findings(
            place
                .map(|span| Finding::new(span, format!("the database: {error}")))
                .into_iter()
                .collect(),
        )),
    }
}

/// The database as the loops of a thread use it: a session on the thread's runtime, opened by the first loop. The embedded store has its
/// own threads, and all loops share it.
pub(super) async fn store_of_thread(
    config: &Config,
    thread: &LoopThread,
    prepared_by: Option<Arc<AnyStore>>,
    credentials: watch::Receiver<()>,
    stop: watch::Receiver<bool>,
    state: &LoopState,
) -> Result<Option<Arc<AnyStore>>, End> {
    if !matches!(prepared_by.as_deref(), Some(AnyStore::Scylla(_))) {
        return Ok(prepared_by);
    }
    session_of_thread(config, thread, credentials, stop, state)
        .await
        .map(Some)
}

async fn session_of_thread(
    config: &Config,
    thread: &LoopThread,
    credentials: watch::Receiver<()>,
    mut stop: watch::Receiver<bool>,
    state: &LoopState,
) -> Result<Arc<AnyStore>, End> {
    let open = thread.store.get_or_try_init(|| async {
        let store = open(config, &thread.away).await?;
        keep_credentials(store.clone(), credentials);
        watch_driver(&thread.metrics, thread.name(), &store);
        Ok(store)
    });
    let mut away = thread.away.subscribe();
    // A loop that is told to stop leaves the opening to another loop.
    let mut opened = std::pin::pin!(unless_stopped(&mut stop, open));
    let opened = loop {
        let why = away.borrow_and_update().clone();
        state.waits_for(why);
        tokio::select! {
            opened = &mut opened => break opened,
            Ok(()) = away.changed() => {}
        }
    };
    state.waits_for(None);
    opened?.cloned()
}

/// Opens a session. Waits for a database that does not answer, and reports the reason in `away`. It also waits for one that refuses: the pipeline
/// was prepared with an equal session, so a password or a certificate is being rotated, and each attempt reads them again.
async fn open(config: &Config, away: &watch::Sender<Option<String>>) -> Result<Arc<AnyStore>, End> {
    let say = |why| {
        away.send_replace(why);
    };
    let ask = || async move {
        store(config, Purpose::Run).await.map_err(|error| match error {
            NotPrepared::Findings(findings) => {
                let message = findings.first().map_or("the database", |f| f.message.as_str());
                NotPrepared::Unavailable(Failure::transient("database", message))
            }
            silent @ NotPrepared::Unavailable(_) => silent,
        })
    };
    let opened = answered(ask, |why| say(Some(why))).await;
    say(None);
    match opened {
        Ok(Some(store)) => Ok(Arc::new(store)),
        Ok(None) | Err(_) => Err(End::Halted(Failure::fatal(
            "database",
            "the database is not configured",
        ))),
    }
}

/// The result of `work`, unless the loop is told to stop first: nothing runs in it yet that would have to be drained.
async fn unless_stopped<T>(stop: &mut watch::Receiver<bool>, work: impl Future<Output = T>) -> Result<T, End> {
    tokio::select! {
        done = work => Ok(done),
        _ = stop.changed() => Err(End::Drained),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::app::threads::Threads;
    use crate::demo::cluster::Scratch;

    #[tokio::test]
    async fn what_a_run_has_written_to_the_embedded_store_is_on_its_disk() {
        let scratch = Scratch::new().unwrap();
        let file = scratch.database();
        let toml = format!(
            "store = \"sqlite:{}\"\nkafka = {{ brokers = \"b:9092\" }}\nregistry = {{ url = \"http://r:8081\" }}\n",
            file.display()
        );
        let loaded = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty());
        let (config, _) = loaded.unwrap_or_else(|e| panic!("{}", e.human(false)));
        let Some(AnyStore::Sqlite(store)) = store(&config, Purpose::Run).await.unwrap() else {
            panic!("another store");
        };
        // The value on the connection that writes.
        let ask = "CREATE TABLE said AS SELECT synchronous FROM pragma_synchronous";
        store.execute_script(ask).await.unwrap();
        let said = rusqlite::Connection::open(file)
            .unwrap()
            .query_row("SELECT synchronous FROM said", [], |row| row.get::<_, i64>(0));
        assert_eq!(said.unwrap(), 2, "full");
    }

    #[tokio::test]
    async fn what_has_come_is_not_waited_for_any_more() {
        let shared = Shared::default();
        let (mut attempt, mut jitter) = (0, Jitter::new(1));
        wait(&shared, "the database: away", &mut attempt, &mut jitter).await;
        let waiting_for = || shared.lock().unwrap().waiting_for.clone();
        let first = waiting_for().unwrap();
        assert_eq!((first.what.as_str(), attempt), ("the database: away", 1));
        wait(&shared, "the database: still away", &mut attempt, &mut jitter).await;
        assert_eq!(waiting_for().unwrap().since, first.since, "one wait, whatever it says");
        reached(&shared);
        assert_eq!(waiting_for(), None);
    }

    #[tokio::test]
    async fn a_wait_that_has_a_bound_ends_with_what_was_waited_for() {
        let shared = Shared::default();
        assert!(waited_for(&shared, Duration::ZERO).now_or_never().is_none());
        let (mut attempt, mut jitter) = (0, Jitter::new(1));
        wait(&shared, "the database: away", &mut attempt, &mut jitter).await;
        assert_eq!(waited_for(&shared, Duration::ZERO).await, "the database: away");
        assert!(waited_for(&shared, Duration::MAX).now_or_never().is_none());
        reached(&shared);
        assert!(waited_for(&shared, Duration::ZERO).now_or_never().is_none());
    }

    #[tokio::test]
    async fn an_attempt_to_connect_does_not_hold_a_stop_up() {
        let (stop, mut stopped) = watch::channel(false);
        assert!(matches!(unless_stopped(&mut stopped, async { 7 }).await, Ok(7)));
        stop.send(true).unwrap();
        // As with a server that accepts connections and never answers.
        let never = unless_stopped(&mut stopped, std::future::pending::<()>()).await;
        assert!(matches!(never, Err(End::Drained)));
    }

    #[tokio::test]
    async fn a_session_that_cannot_be_opened_is_waited_for_by_all_loops_of_its_thread_and_told() {
        for tls in ["", ", tls = { ca = \"/is/not/there\" }"] {
            // Nothing listens there.
            let toml = format!(
                "kafka = {{ brokers = \"b:9092\" }}\nregistry = {{ url = \"http://r:8081\" }}\n\
                 scylla = {{ nodes = \"127.0.0.1:9\", keyspace = \"k\"{tls} }}\n"
            );
            let loaded = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty());
            let (config, _) = loaded.unwrap_or_else(|e| panic!("{}", e.human(false)));
            let thread = Threads::new(Some(1)).next(&Metrics::new().unwrap()).unwrap();
            let (credentials, stop) = (watch::Sender::new(()), watch::Sender::new(false));
            let (one, other) = (LoopState::default(), LoopState::default());
            let session = |state| session_of_thread(&config, &thread, credentials.subscribe(), stop.subscribe(), state);
            let told = async {
                loop {
                    if let (Some(one), Some(other)) = (one.get().waiting_for, other.get().waiting_for) {
                        break [one, other];
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let mut both = std::pin::pin!(futures_util::future::join(session(&one), session(&other)));
            let told = tokio::select! {
                _ = &mut both => panic!("opened"),
                told = told => told,
            };
            for what in told {
                assert!(what.starts_with("the database: "), "{what}");
            }
            stop.send_replace(true);
            assert!(matches!(both.await, (Err(End::Drained), Err(End::Drained))));
            assert_eq!((one.get().waiting_for, other.get().waiting_for), (None, None));
        }
    }
}
