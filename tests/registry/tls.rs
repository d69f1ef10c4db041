//! TLS to the registry, with a private authority and a client certificate.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use messina::certificates::PemFiles;
use messina::registry::{Registry, RegistryOptions};
use messina::retry::Class;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslMethod, SslVerifyMode};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509, X509NameBuilder};

struct Signed {
    certificate: X509,
    key: PKey<Private>,
}

/// A certificate for `name` and 127.0.0.1, signed by `authority`, or self-signed without one.
fn signed(name: &str, authority: Option<&Signed>) -> Signed {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut certificate = X509::builder().unwrap();
    certificate.set_version(2).unwrap();
    let serial = BigNum::from_u32(name.len() as u32).unwrap();
    certificate
        .set_serial_number(&serial.to_asn1_integer().unwrap())
        .unwrap();
    certificate.set_subject_name(&subject).unwrap();
    certificate
        .set_issuer_name(authority.map_or(&subject, |a| a.certificate.subject_name()))
        .unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate
        .set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    let mut constraints = BasicConstraints::new();
    if authority.is_none() {
        constraints.critical().ca();
    }
    certificate.append_extension(constraints.build().unwrap()).unwrap();
    let names = SubjectAlternativeName::new()
        .ip("127.0.0.1")
        .build(&certificate.x509v3_context(None, None))
        .unwrap();
    certificate.append_extension(names).unwrap();
    certificate
        .sign(authority.map_or(&key, |a| &a.key), MessageDigest::sha256())
        .unwrap();
    Signed {
        certificate: certificate.build(),
        key,
    }
}

/// Answers one request with a schema, if the client shows a certificate of `authority`.
fn serve(authority: &Signed, server: &Signed) -> (SocketAddr, JoinHandle<Option<String>>) {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate(&server.certificate).unwrap();
    acceptor.set_private_key(&server.key).unwrap();
    let mut trusted = X509StoreBuilder::new().unwrap();
    trusted.add_cert(authority.certificate.clone()).unwrap();
    acceptor.set_verify_cert_store(trusted.build()).unwrap();
    acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    let acceptor = acceptor.build();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut stream = acceptor.accept(tcp).ok()?;
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).ok()? == 1 {
            request.push(byte[0]);
        }
        let body = r#"{"schema":"\"string\""}"#;
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        let _ = stream.shutdown();
        Some(String::from_utf8_lossy(&request).into_owned())
    });
    (address, thread)
}

fn write(directory: &Path, name: &str, pem: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, pem).unwrap();
    path
}

#[tokio::test]
async fn a_client_certificate_and_an_authority_of_ones_own() {
    let (authority, stranger) = (signed("authority", None), signed("another authority", None));
    let (server, client) = (signed("server", Some(&authority)), signed("client", Some(&authority)));
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("registry-tls");
    std::fs::create_dir_all(&directory).unwrap();
    let ca = write(&directory, "ca.pem", &authority.certificate.to_pem().unwrap());
    let wrong_ca = write(&directory, "wrong-ca.pem", &stranger.certificate.to_pem().unwrap());
    let cert = write(&directory, "client.pem", &client.certificate.to_pem().unwrap());
    // An EC key in the older format, not PKCS #8.
    let key = write(
        &directory,
        "client.key",
        &client.key.ec_key().unwrap().private_key_to_pem().unwrap(),
    );
    let options = |address: SocketAddr| RegistryOptions {
        urls: vec![format!("https://bob:s3cret@{address}")],
        certificates: PemFiles {
            ca: Some(ca.clone()),
            cert: Some(cert.clone()),
            key: Some(key.clone()),
        },
        timeout: Duration::from_secs(5),
        ..RegistryOptions::default()
    };

    let (address, served) = serve(&authority, &server);
    let fetched = Registry::new(options(address)).unwrap().schema(1).await.unwrap();
    assert_eq!(fetched.schema, "\"string\"");
    let request = served.join().unwrap().unwrap().to_lowercase();
    assert!(request.starts_with("get /schemas/ids/1 http/1.1\r\n"), "{request}");
    assert!(
        request.contains("authorization: basic ym9iOnMzY3JldA==".to_lowercase().as_str()),
        "{request}"
    );

    let (address, served) = serve(&authority, &server);
    let anonymous = RegistryOptions {
        certificates: PemFiles {
            ca: Some(ca.clone()),
            ..PemFiles::default()
        },
        ..options(address)
    };
    let error = Registry::new(anonymous).unwrap().schema(1).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    assert!(!error.to_string().contains("s3cret"), "{error}");
    assert_eq!(served.join().unwrap(), None);

    let (address, served) = serve(&authority, &server);
    let mut mistrusting = options(address);
    mistrusting.certificates.ca = Some(wrong_ca);
    let error = Registry::new(mistrusting)
        .unwrap()
        .schema(1)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("certificate verify failed"), "{error}");
    assert_eq!(served.join().unwrap(), None);
}
