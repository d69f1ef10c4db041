//! Finds out why TLS to a node fails, in OpenSSL's own words.
//!
//! The driver reports that a connection broke, but not what was wrong with the certificate or which alert the node sent; with TLS 1.3 a node refuses
//! a client's certificate only after the handshake. So, when no session can be opened, one connection is made manually, up to the node's first byte.
//! Invariant: it sends no login, only the OPTIONS request, which every node answers.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use openssl::ssl::{HandshakeError, SslConnector, SslConnectorBuilder};
use openssl::x509::X509VerifyResult;

/// An OPTIONS request of CQL 4: version, flags, stream, opcode, length.
const OPTIONS: [u8; 9] = [4, 0, 0, 0, 5, 0, 0, 0, 0];

/// The TLS problem of the first of these nodes that can be reached and has one; `None` if none has. Each wait for an address has this time limit.
pub(super) fn tls(context: SslConnectorBuilder, nodes: &[String], limit: Duration) -> Option<String> {
    let tls = context.build();
    nodes.iter().find_map(|node| problem(&tls, node, limit))
}

fn problem(tls: &SslConnector, node: &str, limit: Duration) -> Option<String> {
    let with_port = if node.contains(':') {
        node.to_owned()
    } else {
        format!("{node}:9042")
    };
    // The driver tries all addresses, too.
    let mut addresses = with_port.to_socket_addrs().ok()?;
    addresses.find_map(|address| problem_at(tls, address, limit))
}

fn problem_at(tls: &SslConnector, address: SocketAddr, limit: Duration) -> Option<String> {
    let stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.set_write_timeout(Some(limit)).ok()?;
    let configured = tls.configure().ok()?;
    let silent = format!("TLS with {address}: the node accepts connections and does not answer");
    // Like the driver, verify that the certificate names the address.
    let mut stream = match configured.connect(&address.ip().to_string(), stream) {
        Ok(stream) => stream,
        Err(HandshakeError::Failure(stream)) => {
            let verdict = stream.ssl().verify_result();
            return Some(if verdict == X509VerifyResult::OK {
                format!("TLS with {address}: {}", stream.error())
            } else {
                format!(
                    "TLS with {address}: the node's certificate is refused: {}",
                    verdict.error_string()
                )
            });
        }
        Err(HandshakeError::WouldBlock(_)) => return Some(silent),
        Err(error) => return Some(format!("TLS with {address}: {error}")),
    };
    let mut first = [0];
    let answer = stream.write_all(&OPTIONS).and_then(|()| stream.read_exact(&mut first));
    let error = answer.err()?;
    Some(if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
        silent
    } else if error.kind() == ErrorKind::UnexpectedEof || error.to_string().contains("unexpected EOF") {
        format!(
            "TLS with {address}: the node closes the connection after the handshake: it may require a client certificate, or another one (`cert` and \
             `key`)"
        )
    } else {
        format!("TLS with {address}: the node refuses us: {error}")
    })
}

#[cfg(test)]
mod tests {
    use openssl::ssl::SslMethod;

    use super::*;

    #[test]
    fn each_address_of_a_name_is_tried() {
        // Nobody accepts the connection: the operating system completes it. If `::1` comes first, nobody listens there.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let context = SslConnector::builder(SslMethod::tls_client()).unwrap();
        let node = format!("localhost:{}", address.port());
        let found = tls(context, &[node], Duration::from_millis(100)).unwrap();
        assert!(
            found.contains(&address.to_string()) && found.contains("does not answer"),
            "{found}"
        );
    }
}
