//! Renews the logins of librdkafka's clients while they live.
//!
//! librdkafka copies user and password when a client is created, so a rotated password would end each client at its next connection. They are read
//! again at SIGHUP, and when the brokers refuse the current ones. This covers SASL PLAIN and SCRAM. Each client reads certificates only once; a
//! change is reported at SIGHUP, and when a handshake fails.
//!
//! Invariant: a client gets a login only if it differs from the current one, so that a wrong login is not tried faster.

use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::bindings::{rd_kafka_error_destroy, rd_kafka_sasl_set_credentials};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafka;

use crate::config::SecretError;
use crate::sink::Producer;
use crate::source::context::SourceContext;

/// A client of librdkafka.
pub trait Client: Send + Sync {
    /// Its handle, valid as long as the client lives.
    fn handle(&self) -> *mut RDKafka;
}

impl Client for StreamConsumer<SourceContext> {
    fn handle(&self) -> *mut RDKafka {
        self.client().native_ptr()
    }
}

impl Client for Producer {
    fn handle(&self) -> *mut RDKafka {
        self.client().native_ptr()
    }
}

/// Reads a client's properties, secrets included.
type Read = Box<dyn Fn() -> Result<ClientConfig, SecretError> + Send>;

struct Kept {
    client: Weak<dyn Client>,
    read: Read,
    login: Option<(String, String)>,
    certificates: u64,
}

/// The shortest time between two reads that refusals cause. Each client reports each refusal, on its loop's thread, and each read covers all clients. A
/// broker that keeps refusing is reported again within 30 seconds.
const REFUSED_EVERY: Duration = Duration::from_secs(5);

/// The live clients, each with the function that reads its properties.
#[derive(Clone, Default)]
pub struct Logins(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    kept: Vec<Kept>,
    /// When a refusal last caused a read.
    read: Option<Instant>,
}

impl Logins {
    /// Registers a client: from now on `read` reads its login again. `config` is what the client was created with.
    pub fn keep<C: Client + 'static>(
        &self,
        client: &Arc<C>,
        config: &ClientConfig,
        read: impl Fn() -> Result<ClientConfig, SecretError> + Send + 'static,
    ) {
        let client: Arc<dyn Client> = client.clone();
        let kept = Kept {
            client: Arc::downgrade(&client),
            read: Box::new(read),
            login: login(config),
            certificates: certificates(config),
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.kept.retain(|kept| kept.client.strong_count() > 0);
        all.kept.push(kept);
    }

    /// Gives each client the login that is configured now, for all connections that it makes from now on.
    ///
    /// # Errors
    /// In words: a secret cannot be read, or certificates have changed, which requires a restart.
    pub fn read_again(&self) -> Result<(), String> {
        renew(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the logins again if librdkafka's error says that the brokers refused the login or that a handshake failed, as when the brokers have
    /// changed their authority. It is called inside librdkafka's callbacks.
    pub fn refused(&self, error: &KafkaError) {
        let code = error.rdkafka_error_code();
        if !matches!(code, Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL)) {
            return;
        }
        let mut all = match self.0.try_lock() {
            Ok(all) => all,
            Err(TryLockError::Poisoned(all)) => all.into_inner(),
            // Another thread is reading them.
            Err(TryLockError::WouldBlock) => return,
        };
        if all.read.is_some_and(|read| read.elapsed() < REFUSED_EVERY) {
            return;
        }
        all.read = Some(Instant::now());
        if let Err(error) = renew(all) {
            tracing::warn!("the brokers refuse this client, or it refuses them: {error}");
        }
    }
}

fn renew(mut all: MutexGuard<'_, All>) -> Result<(), String> {
    // If these become the last references to some clients, those are closed after the lock is released.
    let mut clients = Vec::with_capacity(all.kept.len());
    let (mut renewed, mut problem) = (0, Ok(()));
    for kept in &mut all.kept {
        let Some(client) = kept.client.upgrade() else { continue };
        match kept.renew(&*client) {
            Ok(true) => renewed += 1,
            Ok(false) => {}
            Err(error) => problem = Err(error),
        }
        clients.push(client);
    }
    drop(all);
    if renewed > 0 {
        tracing::info!(
            clients = renewed,
            "the login of the brokers has changed, and was read again"
        );
    }
    problem
}

impl Kept {
    /// True if the login was different.
    fn renew(&mut self, client: &dyn Client) -> Result<bool, String> {
        let config = (self.read)().map_err(|e| format!("[kafka]: {e}"))?;
        let mut changed = false;
        if let Some(login) = login(&config)
            && self.login.as_ref() != Some(&login)
        {
            give(client, &login)?;
            self.login = Some(login);
            changed = true;
        }
        if certificates(&config) != self.certificates {
            return Err(
                "[kafka]: the certificates for the brokers have changed; they are read at the start only: restart"
                    .to_owned(),
            );
        }
        Ok(changed)
    }
}

fn give(client: &dyn Client, (user, password): &(String, String)) -> Result<(), String> {
    let text = |name: &str, value: &str| CString::new(value).map_err(|_| format!("[kafka]: {name} has a zero byte"));
    let (user, password) = (text("sasl.username", user)?, text("sasl.password", password)?);
    // SAFETY: the handle lives as long as the client, and librdkafka copies both null-terminated strings.
    let error = unsafe { rd_kafka_sasl_set_credentials(client.handle(), user.as_ptr(), password.as_ptr()) };
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is ours, and is not used again.
    unsafe { rd_kafka_error_destroy(error) };
    Err("[kafka]: librdkafka does not take the login".to_owned())
}

fn login(config: &ClientConfig) -> Option<(String, String)> {
    let of = |name| config.get(name).map(str::to_owned);
    of("sasl.username").zip(of("sasl.password"))
}

/// A hash of the TLS properties and the files that they name. A file that cannot be read counts as empty: librdkafka reports the error.
fn certificates(config: &ClientConfig) -> u64 {
    let mut hasher = DefaultHasher::new();
    // The map omits the values of secrets, such as a key's password.
    for name in config.config_map().into_keys().filter(|name| name.starts_with("ssl.")) {
        let value = config.get(name).unwrap_or_default();
        (name, value).hash(&mut hasher);
        if name.ends_with(".location") {
            std::fs::read(value).unwrap_or_default().hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A client without a handle, which never gets a login.
    struct Nobody;

    impl Client for Nobody {
        fn handle(&self) -> *mut RDKafka {
            std::ptr::null_mut()
        }
    }

    #[test]
    fn many_refusals_make_one_reading_of_each_client() {
        let (logins, reads) = (Logins::default(), Arc::new(AtomicUsize::new(0)));
        let clients = [Nobody, Nobody, Nobody].map(Arc::new);
        for client in &clients {
            let counted = reads.clone();
            logins.keep(client, &config(&[]), move || {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok(config(&[]))
            });
        }
        let read = || reads.load(Ordering::Relaxed);
        logins.refused(&KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure));
        assert_eq!(read(), 0);
        let refused = KafkaError::Global(RDKafkaErrorCode::Authentication);
        (0..1000).for_each(|_| logins.refused(&refused));
        assert_eq!(read(), 3);
        // An explicit request always reads. The next refusal reads again only after the interval.
        logins.read_again().unwrap();
        assert_eq!(read(), 6);
        let before = Instant::now().checked_sub(REFUSED_EVERY);
        logins.0.lock().unwrap().read = before;
        logins.refused(&refused);
        assert_eq!(read(), 9);
    }

    fn config(properties: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in properties {
            config.set(*name, *value);
        }
        config
    }

    #[test]
    fn a_login_has_both_parts() {
        assert_eq!(login(&config(&[("sasl.username", "u")])), None);
        let both = config(&[("sasl.username", "u"), ("sasl.password", "p")]);
        assert_eq!(login(&both), Some(("u".to_owned(), "p".to_owned())));
    }

    #[test]
    fn the_password_of_a_key_is_compared_too() {
        let of = |password| certificates(&config(&[("ssl.key.password", password)]));
        assert_eq!(of("one"), of("one"));
        assert_ne!(of("one"), of("two"));
    }

    #[test]
    fn certificates_are_compared_by_what_is_in_their_files() {
        let folder = std::env::temp_dir().join(format!("messina-login-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("tls.crt");
        let config = config(&[("ssl.certificate.location", file.to_str().unwrap()), ("linger.ms", "5")]);
        let missing = certificates(&config);
        std::fs::write(&file, "one").unwrap();
        let one = certificates(&config);
        std::fs::write(&file, "two").unwrap();
        let two = certificates(&config);
        std::fs::write(&file, "one").unwrap();
        assert_eq!(certificates(&config), one);
        assert!(one != two && one != missing);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_handshake_that_fails_tells_certificates_that_have_changed() {
        use tracing_subscriber::layer::SubscriberExt;

        let file = std::env::temp_dir().join(format!("messina-authority-{}.pem", std::process::id()));
        std::fs::write(&file, "one").unwrap();
        let of_file = config(&[("ssl.ca.location", file.to_str().unwrap())]);
        let (logins, client, read) = (Logins::default(), Arc::new(Nobody), of_file.clone());
        logins.keep(&client, &of_file, move || Ok(read.clone()));
        let kept = crate::telemetry::breadcrumbs::Breadcrumbs::default();
        let told = || {
            logins.0.lock().unwrap().read = None;
            logins.refused(&KafkaError::Global(RDKafkaErrorCode::SSL));
            let lines = kept.last(None);
            lines.into_iter().filter_map(|line| line.message).collect::<Vec<_>>()
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(kept.clone()), || {
            assert!(
                told().is_empty(),
                "they are the same, and what is wrong is another thing"
            );
            std::fs::write(&file, "two").unwrap();
            let told = told();
            assert!(told.len() == 1 && told[0].ends_with("restart"), "{told:?}");
        });
        std::fs::remove_file(&file).unwrap();
    }
}
