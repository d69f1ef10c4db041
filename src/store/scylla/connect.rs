//! Opens a session: contact points, datacenters, TLS, login, time-outs.
//!
//! Reasons for the defaults: a frozen node holds requests until a keepalive fails, so one is sent every 1.1 s (for a second or less the driver warns
//! at each start) and may take five seconds. With the driver's 30 s + 30 s, requests failed for 8 s; with 1 s + 1 s for half a second, but a busy
//! machine of two cores was taken for a dead node. Compression costs more than it saves for small rows.
//!
//! Invariants: no secret is held in readable form longer than a login takes; another datacenter is used only with `failover`; the configuration does
//! not appear in the server's tables.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::scylla::authentication::{AuthError, AuthenticatorProvider, AuthenticatorSession};
use ::scylla::client::execution_profile::ExecutionProfile;
use ::scylla::client::session::Session;
use ::scylla::client::session_builder::SessionBuilder;
use ::scylla::client::{Compression, PoolSize};
use ::scylla::policies::load_balancing::DefaultPolicy;
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslFiletype, SslMethod};
use tokio::time::timeout;

use super::diagnose;
use super::handshake::Handshakes;
use super::watch::CountingRetries;
use crate::certificates::PemFiles;
use crate::retry::Class;
use crate::store::{Consistency, SerialConsistency, StoreError, classify};

/// Reads a secret when it is needed. The error says why it cannot be read, without the secret.
pub type Secret = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// How to reach the cluster.
#[derive(Clone)]
pub struct ScyllaOptions {
    /// Contact points, `host:port`; the default port is 9042.
    pub nodes: Vec<String>,
    /// The keyspace of unqualified tables.
    pub keyspace: Option<String>,
    /// The preferred datacenter; without one, all nodes are treated alike.
    pub datacenter: Option<String>,
    /// The preferred rack in that datacenter.
    pub rack: Option<String>,
    /// Whether other datacenters are used while the preferred one is down. LOCAL levels then refer to theirs.
    pub failover: bool,
    /// The consistency level of every statement that sets none.
    pub consistency: Consistency,
    /// The consistency level of the Paxos phase of every statement that sets none.
    pub serial_consistency: SerialConsistency,
    /// The user that logs in with `password`.
    pub username: Option<String>,
    /// Read for each new connection, so that a changed file is noticed.
    pub password: Option<Secret>,
    /// If given, connections are encrypted and the nodes' certificates verified.
    pub tls: Option<PemFiles>,
    /// `lz4`, `snappy` or none.
    pub compression: Option<Compression>,
    /// Longest wait for an answer, over all attempts.
    pub request_timeout: Duration,
    /// Longest wait for a new connection, and then for its TLS handshake.
    pub connect_timeout: Duration,
    /// Longest wait for a session. Contact points are tried one after the other, in a different order each time, but the cluster's nodes all at once, so that
    /// a regular opening takes a few of the limits above.
    pub open_timeout: Duration,
    /// How often a keepalive is sent on a connection.
    pub keepalive_interval: Duration,
    /// How long the answer to a keepalive may take before the connection is given up, with all requests that wait on it.
    pub keepalive_timeout: Duration,
}

impl Default for ScyllaOptions {
    fn default() -> Self {
        ScyllaOptions {
            nodes: Vec::new(),
            keyspace: None,
            datacenter: None,
            rack: None,
            failover: false,
            consistency: Consistency::LocalQuorum,
            serial_consistency: SerialConsistency::LocalSerial,
            username: None,
            password: None,
            tls: None,
            compression: None,
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            open_timeout: Duration::from_secs(60),
            keepalive_interval: Duration::from_millis(1100),
            keepalive_timeout: Duration::from_secs(5),
        }
    }
}

/// Opens the session, and checks at once what the driver would find out only later: that it knows the cluster, and that the datacenter exists.
pub(super) async fn connect(options: &ScyllaOptions, retries: CountingRetries) -> Result<Session, StoreError> {
    let mut policy = DefaultPolicy::builder()
        .token_aware(true)
        .permit_dc_failover(options.failover);
    policy = match (&options.datacenter, &options.rack) {
        (Some(datacenter), Some(rack)) => policy.prefer_datacenter_and_rack(datacenter.clone(), rack.clone()),
        (Some(datacenter), None) => policy.prefer_datacenter(datacenter.clone()),
        (None, Some(_)) => return Err(StoreError::fatal("config", "a rack needs its datacenter")),
        (None, None) => policy.prefer_no_datacenter(),
    };
    let profile = ExecutionProfile::builder()
        .load_balancing_policy(policy.build())
        .consistency(options.consistency.into())
        .serial_consistency(Some(options.serial_consistency.into()))
        .request_timeout(Some(options.request_timeout))
        .retry_policy(Arc::new(retries))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&options.nodes)
        .default_execution_profile_handle(profile.into_handle())
        .pool_size(PoolSize::PerShard(std::num::NonZeroUsize::MIN))
        .compression(options.compression)
        .connection_timeout(options.connect_timeout)
        .keepalive_interval(options.keepalive_interval)
        .keepalive_timeout(options.keepalive_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive_interval(Duration::from_secs(10))
        .driver_config_reporting(false);
    if let Some(keyspace) = &options.keyspace {
        // As in CQL, a quoted name keeps its case.
        let quoted = keyspace.strip_prefix('"').and_then(|k| k.strip_suffix('"'));
        builder = builder.use_keyspace(quoted.unwrap_or(keyspace), quoted.is_some());
    }
    if let Some(username) = &options.username {
        let password = options.password.clone();
        builder = builder.authenticator_provider(Arc::new(Login {
            username: username.clone(),
            password,
        }));
    }
    if let Some(tls) = &options.tls {
        let handshakes = Handshakes::new(tls_context(tls)?.build(), options.connect_timeout);
        builder = builder
            .address_translator(Arc::new(handshakes))
            .tls_context(Some(tls_context(tls)?));
    }
    let session = match timeout(options.open_timeout, builder.build()).await {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => return Err(explained(classify::session(&error), options).await),
        Err(_) => return Err(explained(not_open(options.open_timeout), options).await),
    };
    check_metadata(&session)?;
    check_datacenter(&session, options.datacenter.as_deref())?;
    Ok(session)
}

/// Refuses a session that knows nothing about the cluster. If its first queries fail, the driver opens a session all the same, but without tables and
/// datacenters: no statement is routed and no partition key is checked.
fn check_metadata(session: &Session) -> Result<(), StoreError> {
    let state = session.get_cluster_state();
    // Every server has keyspaces of its own.
    if state.keyspaces_iter().next().is_some() && state.get_nodes_info().iter().any(|node| node.datacenter.is_some()) {
        return Ok(());
    }
    Err(StoreError::transient(
        "metadata",
        "a node answers, but does not report the cluster's nodes and tables (the driver's warning in the log says why): it may be starting or \
         overloaded; else let the user read system.local, system.peers and system_schema",
    ))
}

/// The driver waits without limit for a contact point that does not answer in its TLS handshake, and for others one after the other.
fn not_open(limit: Duration) -> StoreError {
    let message = format!(
        "no session within {limit:?}: a contact point accepts connections and does not answer, or many do not answer at all"
    );
    StoreError::transient("timeout", message)
}

/// The error with the reason why TLS fails, which the driver does not report.
async fn explained(mut error: StoreError, options: &ScyllaOptions) -> StoreError {
    if let Some(tls) = &options.tls
        && error.class == Class::Transient
        && let Ok(context) = tls_context(tls)
    {
        let (nodes, limit) = (options.nodes.clone(), options.connect_timeout);
        // Without a result the error stays as it is. With many nodes down, their time limits may add up.
        let found = tokio::task::spawn_blocking(move || diagnose::tls(context, &nodes, limit));
        if let Ok(Ok(Some(reason))) = timeout(options.open_timeout, found).await {
            error.message = reason;
        }
    }
    error
}

fn check_datacenter(session: &Session, wanted: Option<&str>) -> Result<(), StoreError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let state = session.get_cluster_state();
    let mut known: Vec<&str> = state
        .get_nodes_info()
        .iter()
        .filter_map(|node| node.datacenter.as_deref())
        .collect();
    if known.contains(&wanted) {
        return Ok(());
    }
    known.sort_unstable();
    known.dedup();
    let known = known.join(", ");
    Err(StoreError::fatal(
        "config",
        format!("no datacenter {wanted:?} in the cluster, which has {known}"),
    ))
}

fn tls_context(tls: &PemFiles) -> Result<SslConnectorBuilder, StoreError> {
    let problem = |what: &str, path: &PathBuf, e: openssl::error::ErrorStack| {
        StoreError::fatal("tls", format!("{what} {}: {e}", path.display()))
    };
    let mut builder = SslConnector::builder(SslMethod::tls_client())
        .map_err(|e| StoreError::fatal("tls", format!("OpenSSL: {e}")))?;
    match &tls.ca {
        Some(ca) => builder.set_ca_file(ca).map_err(|e| problem("CA file", ca, e))?,
        None => system_authorities(&mut builder),
    }
    if let Some(cert) = &tls.cert {
        builder
            .set_certificate_chain_file(cert)
            .map_err(|e| problem("certificate", cert, e))?;
    }
    if let Some(key) = &tls.key {
        builder
            .set_private_key_file(key, SslFiletype::PEM)
            .map_err(|e| problem("private key", key, e))?;
    }
    Ok(builder)
}

/// Adds the system's certificate authorities: an OpenSSL built from source looks for them in a directory where usually nothing is installed.
fn system_authorities(builder: &mut SslConnectorBuilder) {
    let found = openssl_probe::probe();
    let places = found
        .cert_file
        .iter()
        .map(|file| (Some(file.as_path()), None))
        .chain(found.cert_dir.iter().map(|folder| (None, Some(folder.as_path()))));
    for (file, folder) in places {
        if let Err(error) = builder.load_verify_locations(file, folder) {
            tracing::warn!(?file, ?folder, "authorities of the system cannot be read: {error}");
        }
    }
}

/// Logs in with user and password by SASL PLAIN (RFC 4616). The password is read again for each connection.
struct Login {
    username: String,
    password: Option<Secret>,
}

/// Refuses a server that asks for more than PLAIN provides.
struct PlainSession;

type Boxed<'f, T> = Pin<Box<dyn Future<Output = Result<T, AuthError>> + Send + 'f>>;

// `async_trait` generates the driver's traits; these are the signatures that it generates.
impl AuthenticatorProvider for Login {
    fn start_authentication_session<'s, 'n, 'f>(
        &'s self,
        _authenticator: &'n str,
    ) -> Boxed<'f, (Option<Vec<u8>>, Box<dyn AuthenticatorSession>)>
    where
        's: 'f,
        'n: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let password = self.password.as_ref().map_or(Ok(String::new()), |read| read())?;
            let response = format!("\0{}\0{password}", self.username).into_bytes();
            Ok((Some(response), Box::new(PlainSession) as Box<dyn AuthenticatorSession>))
        })
    }
}

impl AuthenticatorSession for PlainSession {
    fn evaluate_challenge<'s, 't, 'f>(&'s mut self, _token: Option<&'t [u8]>) -> Boxed<'f, Option<Vec<u8>>>
    where
        's: 'f,
        't: 'f,
        Self: 'f,
    {
        Box::pin(async { Err("the server asks for more than user and password".to_owned()) })
    }

    fn success<'s, 't, 'f>(&'s mut self, _token: Option<&'t [u8]>) -> Boxed<'f, ()>
    where
        's: 'f,
        't: 'f,
        Self: 'f,
    {
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::watch::Watch;
    use super::*;

    #[tokio::test]
    async fn a_session_with_a_node_that_answers_nothing_is_given_up_and_the_node_named() {
        // Nobody accepts the connection: the operating system completes it.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let node = silent.local_addr().unwrap().to_string();
        let options = ScyllaOptions {
            nodes: vec![node.clone()],
            tls: Some(PemFiles::default()),
            connect_timeout: Duration::from_millis(100),
            open_timeout: Duration::from_secs(2),
            ..ScyllaOptions::default()
        };
        let opened = timeout(Duration::from_secs(10), connect(&options, Watch::default().retries())).await;
        let Err(error) = opened.unwrap() else { panic!("opened") };
        assert_eq!((error.class, error.label), (Class::Transient, "timeout"), "{error}");
        assert!(
            error.message.contains(&node) && error.message.contains("does not answer"),
            "{error}"
        );
        let told = not_open(Duration::from_secs(60)).message;
        assert!(
            told.contains("within 60s") && told.contains("do not answer at all"),
            "{told}"
        );
    }

    #[test]
    fn without_a_file_the_authorities_of_the_system_are_trusted() {
        // A machine without any authorities has none to trust.
        let Some(file) = openssl_probe::probe().cert_file else {
            return;
        };
        assert!(
            !openssl::x509::X509::stack_from_pem(&std::fs::read(file).unwrap())
                .unwrap()
                .is_empty()
        );
        let context = tls_context(&PemFiles::default()).unwrap().build().into_context();
        assert!(!context.cert_store().all_certificates().is_empty());
    }
}
