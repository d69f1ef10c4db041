//! Certificates are rotated while a session is in use: a TLS gateway in front of the real server accepts exactly one client.
//!
//! TLS sessions cannot be resumed here, so each connection shows its certificate, and the old session can never come back by itself.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use messina::avro::value::Value;
use messina::certificates::PemFiles;
use messina::retry::Class;
use messina::store::scylla::{ScyllaOptions, ScyllaStore};
use messina::store::{AnyStore, Store};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{Ssl, SslAcceptor, SslMethod, SslSessionCacheMode, SslVerifyMode, SslVersion};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Name, X509NameBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_openssl::SslStream;

use super::{KEYSPACE, items, scylla, scylla_options, string, unique};

const LONG: Duration = Duration::from_secs(120);

/// A certificate with its key.
type Issued = (X509, PKey<Private>);

fn issue(common: &str, by: Option<&Issued>) -> Issued {
    let name = |common: &str| -> X509Name {
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_nid(Nid::COMMONNAME, common).unwrap();
        name.build()
    };
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut certificate = X509::builder().unwrap();
    certificate.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(64, openssl::bn::MsbOption::MAYBE_ZERO, false).unwrap();
    certificate
        .set_serial_number(&serial.to_asn1_integer().unwrap())
        .unwrap();
    certificate.set_subject_name(&name(common)).unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate
        .set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    match by {
        None => {
            certificate.set_issuer_name(&name(common)).unwrap();
            let authority = BasicConstraints::new().critical().ca().build().unwrap();
            certificate.append_extension(authority).unwrap();
            certificate.sign(&key, MessageDigest::sha256()).unwrap();
        }
        Some((authority, signer)) => {
            certificate.set_issuer_name(authority.subject_name()).unwrap();
            let address = SubjectAlternativeName::new()
                .ip("127.0.0.1")
                .build(&certificate.x509v3_context(Some(authority), None))
                .unwrap();
            certificate.append_extension(address).unwrap();
            certificate.sign(signer, MessageDigest::sha256()).unwrap();
        }
    }
    (certificate.build(), key)
}

/// The files of a configuration.
struct Files(PathBuf);

impl Files {
    fn new() -> Files {
        let folder = std::env::temp_dir().join(unique("messina-rotated"));
        std::fs::create_dir_all(&folder).unwrap();
        Files(folder)
    }

    fn write(&self, authority: &Issued, (certificate, key): &Issued) {
        std::fs::write(self.0.join("ca.pem"), authority.0.to_pem().unwrap()).unwrap();
        std::fs::write(self.0.join("tls.crt"), certificate.to_pem().unwrap()).unwrap();
        std::fs::write(self.0.join("tls.key"), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    }

    fn options(&self) -> PemFiles {
        let file = |name: &str| Some(Path::new(&self.0).join(name));
        PemFiles {
            ca: file("ca.pem"),
            cert: file("tls.crt"),
            key: file("tls.key"),
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The certificate that the gateway shows, and the client that it accepts.
struct Rule {
    acceptor: SslAcceptor,
    client: &'static str,
}

/// TLS in front of the server. The accepted client may change; open connections stay until they are broken.
struct Gateway {
    rule: Mutex<Arc<Rule>>,
    open: Mutex<JoinSet<()>>,
    /// The common names of the clients that were accepted.
    taken: Mutex<Vec<&'static str>>,
    server: String,
}

fn rule(authority: &Issued, client: &'static str) -> Arc<Rule> {
    let (certificate, key) = issue("server", Some(authority));
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate(&certificate).unwrap();
    acceptor.set_private_key(&key).unwrap();
    acceptor.cert_store_mut().add_cert(authority.0.clone()).unwrap();
    acceptor.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    acceptor.set_session_cache_mode(SslSessionCacheMode::OFF);
    acceptor.set_options(openssl::ssl::SslOptions::NO_TICKET);
    let required = SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT;
    acceptor.set_verify_callback(required, move |verified, chain| {
        let is_client = chain.current_cert().is_none_or(|shown| {
            let mut names = shown.subject_name().entries_by_nid(Nid::COMMONNAME);
            chain.error_depth() > 0 || names.any(|name| name.data().as_slice() == client.as_bytes())
        });
        verified && is_client
    });
    let acceptor = acceptor.build();
    Arc::new(Rule { acceptor, client })
}

impl Gateway {
    async fn start(server: &str, first: Arc<Rule>) -> (Arc<Gateway>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let gateway = Arc::new(Gateway {
            rule: Mutex::new(first),
            open: Mutex::default(),
            taken: Mutex::default(),
            server: server.to_owned(),
        });
        let serving = gateway.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let connection = serving.clone().serve(client);
                serving
                    .open
                    .lock()
                    .unwrap()
                    .spawn(async { connection.await.unwrap_or_default() });
            }
        });
        (gateway, address)
    }

    async fn serve(self: Arc<Self>, client: TcpStream) -> Option<()> {
        let rule = self.rule.lock().unwrap().clone();
        let mut client = SslStream::new(Ssl::new(rule.acceptor.context()).ok()?, client).ok()?;
        Pin::new(&mut client).accept().await.ok()?;
        self.taken.lock().unwrap().push(rule.client);
        let mut server = TcpStream::connect(&self.server).await.ok()?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()?;
        Some(())
    }

    fn change(&self, to: Arc<Rule>) {
        *self.rule.lock().unwrap() = to;
    }

    fn has_taken(&self, client: &str) -> bool {
        self.taken.lock().unwrap().contains(&client)
    }

    fn break_all(&self) {
        self.open.lock().unwrap().abort_all();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cql_certificates_that_are_rotated_are_taken_while_the_session_is_in_use() {
    let Some(options) = scylla_options() else { return };
    // Connecting creates the tables.
    drop(scylla().await);
    let first = issue("first authority", None);
    let files = Files::new();
    files.write(&first, &issue("one", Some(&first)));
    let (gateway, address) = Gateway::start(&options.nodes[0], rule(&first, "one")).await;
    let options = ScyllaOptions {
        nodes: vec![address],
        keyspace: Some(KEYSPACE.to_owned()),
        tls: Some(files.options()),
        ..options
    };
    let store = Arc::new(AnyStore::Scylla(ScyllaStore::connect(&options).await.unwrap()));
    let tell = watch::Sender::new(());
    let keep = |every: Duration| {
        let (kept, told) = (store.clone(), tell.subscribe());
        tokio::spawn(async move {
            let AnyStore::Scylla(store) = &*kept else { return };
            store.keep_credentials(every, told).await;
        })
    };
    // The interval is too long to matter: only a notification or a failure makes it look.
    let keeping = keep(LONG * 10);
    let (put, get) = items(&store).await;
    let row = [string(&unique("rotated")), Value::Int(1), string("a"), Value::Long(1)];
    store.write(&put, &row, 1).await.unwrap();
    let wait = async |what: &str, done: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < LONG, "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };

    // Told to look: a new session starts while the old one's connections are still good. Statements prepared on the old one still work.
    gateway.change(rule(&first, "two"));
    files.write(&first, &issue("two", Some(&first)));
    tell.send_replace(());
    wait("another session with the second certificate", &|| {
        gateway.has_taken("two")
    })
    .await;
    store.lookup(&get, &row[..2]).await.unwrap().unwrap();

    // Not told: both sides get another authority, and every connection breaks. Messina waits, reads the files again, and finds the new
    // certificate.
    let second = issue("second authority", None);
    gateway.change(rule(&second, "three"));
    gateway.break_all();
    let began = Instant::now();
    while let Ok(row) = store.lookup(&get, &row[..2]).await {
        assert!(row.is_some() && began.elapsed() < LONG, "its connections are broken");
    }
    let error = store.lookup(&get, &row[..2]).await.unwrap_err();
    assert_eq!(error.class, Class::Transient, "it is waited for: {error}");
    assert!(!gateway.has_taken("three"));
    files.write(&second, &issue("three", Some(&second)));
    let began = Instant::now();
    let found = loop {
        match store.lookup(&get, &row[..2]).await {
            Ok(found) => break found,
            Err(error) => assert!(began.elapsed() < LONG, "the new certificate is not found: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(found.is_some() && gateway.has_taken("three"));
    keeping.abort();

    // Not told, and no connection breaks.
    let _keeping = keep(Duration::from_secs(1));
    gateway.change(rule(&second, "four"));
    files.write(&second, &issue("four", Some(&second)));
    wait("another session with the fourth certificate", &|| {
        gateway.has_taken("four")
    })
    .await;
    store.lookup(&get, &row[..2]).await.unwrap().unwrap();
}
