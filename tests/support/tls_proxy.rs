//! TLS and a login in front of a registry that has neither, as a gateway does it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod, SslVerifyMode, SslVersion};

/// What the gateway asks of its clients.
pub struct Gateway {
    /// What `Authorization` must say.
    pub authorization: String,
    /// Whether a certificate of the authority is needed too.
    pub client_certificate: bool,
}

/// Serves `gateway` in front of `server` (`host:port`), with the certificates of `tls`, until the test process ends.
pub fn serve(gateway: Gateway, server: &str, tls: &Path) -> SocketAddr {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate_chain_file(tls.join("server.crt")).unwrap();
    acceptor
        .set_private_key_file(tls.join("server.key"), SslFiletype::PEM)
        .unwrap();
    acceptor.set_ca_file(tls.join("ca.pem")).unwrap();
    // In TLS 1.3 a refusal comes after the handshake, and can be lost when the connection closes.
    acceptor.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    acceptor.set_verify(if gateway.client_certificate {
        SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT
    } else {
        SslVerifyMode::NONE
    });
    let (acceptor, gateway) = (Arc::new(acceptor.build()), Arc::new(gateway));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = server.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (acceptor, gateway, server) = (acceptor.clone(), gateway.clone(), server.clone());
            // Whatever a client does wrong ends its connection, and nothing else.
            std::thread::spawn(move || one(&acceptor, client, &gateway, &server));
        }
    });
    address
}

/// One request.
fn one(acceptor: &SslAcceptor, client: TcpStream, gateway: &Gateway, server: &str) -> Option<()> {
    client.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut client = acceptor.accept(client).ok()?;
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        request.push(byte[0]);
    }
    let head = String::from_utf8(request).ok()?;
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let mut body = vec![0; header("content-length").map_or(0, |n| n.parse().unwrap())];
    client.read_exact(&mut body).ok()?;
    let mut answer = Vec::new();
    if header("authorization").as_deref() == Some(&gateway.authorization) {
        let mut upstream = TcpStream::connect(server).ok()?;
        let head = head.trim_end();
        write!(upstream, "{head}\r\nConnection: close\r\n\r\n").ok()?;
        upstream.write_all(&body).ok()?;
        upstream.read_to_end(&mut answer).ok()?;
    } else {
        let text = r#"{"error_code":401,"message":"Unauthorized"}"#;
        answer = format!(
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        )
        .into();
    }
    client.write_all(&answer).ok()?;
    client.shutdown().ok()?;
    Some(())
}
