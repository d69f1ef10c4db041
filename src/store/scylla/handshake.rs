//! Detects nodes that accept a connection but never answer in its TLS handshake, or at all, such as a frozen node.
//!
//! The driver has a time-out for the connection but not for the handshake, and opens no session before it knows for each node whether it can connect:
//! one such node, in any datacenter, would keep every process from starting. So when the driver asks for the address of a node, a handshake is tried
//! first, with a time limit. A node that does not answer then has no address: it counts as down, and is tried again. The driver finds other problems
//! of a node by itself.
//!
//! Invariants: a port of a node that has answered is not tried again for [`AGAIN`], so that of the many connections of a pool few have a second
//! handshake. The driver does not ask for the address of a contact point, so a frozen one takes the whole time-out of opening a session.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::scylla::errors::TranslationError;
use ::scylla::policies::address_translator::{AddressTranslator, UntranslatedPeer};
use openssl::ssl::{ErrorCode, HandshakeError, SslConnector};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer from a node's port counts.
const AGAIN: Duration = Duration::from_secs(10);

/// Tries handshakes with nodes, for the driver.
pub(super) struct Handshakes {
    tls: SslConnector,
    limit: Duration,
    /// When each port of a node last answered, by node id and port. ScyllaDB nodes have a second port, whose connections go to a chosen shard.
    answered: Mutex<HashMap<(u128, u16), Instant>>,
}

impl Handshakes {
    /// Each handshake may take this long.
    pub(super) fn new(tls: SslConnector, limit: Duration) -> Self {
        Handshakes {
            tls,
            limit,
            answered: Mutex::default(),
        }
    }

    async fn address(&self, node: u128, address: SocketAddr) -> Result<SocketAddr, TranslationError> {
        let answered = || self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let port = (node, address.port());
        let known = answered().get(&port).is_some_and(|at| at.elapsed() < AGAIN);
        if known {
            return Ok(address);
        }
        match is_silent(&self.tls, address, self.limit).await {
            Some(true) => {
                let what = format!("no TLS handshake ends within {:?}", self.limit);
                let error = io::Error::new(io::ErrorKind::TimedOut, what);
                return Err(TranslationError::IoError(Arc::new(error)));
            }
            Some(false) => {
                answered().insert(port, Instant::now());
            }
            None => {}
        }
        Ok(address)
    }
}

// `async_trait` generates the driver's trait; this is the signature that it generates.
impl AddressTranslator for Handshakes {
    fn translate_address<'s, 'p, 'f>(
        &'s self,
        peer: &'p UntranslatedPeer<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<SocketAddr, TranslationError>> + Send + 'f>>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        Box::pin(self.address(peer.host_id().as_u128(), peer.untranslated_address()))
    }
}

/// Whether no connection is established in time, or a handshake on it neither ends nor fails. `None` if the connection is refused, which the driver
/// finds out by itself.
async fn is_silent(tls: &SslConnector, address: SocketAddr, limit: Duration) -> Option<bool> {
    let Ok(stream) = timeout(limit, TcpStream::connect(address)).await else {
        return Some(true);
    };
    let stream = stream.ok()?;
    let configured = tls.configure().ok()?;
    let handshake = async {
        let mut step = configured.connect(&address.ip().to_string(), Through(&stream));
        while let Err(HandshakeError::WouldBlock(midway)) = step {
            let ready = if midway.error().code() == ErrorCode::WANT_WRITE {
                stream.writable().await
            } else {
                stream.readable().await
            };
            if ready.is_err() {
                return;
            }
            step = midway.handshake();
        }
    };
    Some(timeout(limit, handshake).await.is_err())
}

/// Reads and writes for OpenSSL without blocking.
struct Through<'s>(&'s TcpStream);

impl Read for Through<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(bytes)
    }
}

impl Write for Through<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use openssl::ssl::SslMethod;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);

    fn handshakes() -> Handshakes {
        let tls = SslConnector::builder(SslMethod::tls_client()).unwrap();
        Handshakes::new(tls.build(), LIMIT)
    }

    #[tokio::test]
    async fn a_node_that_answers_no_handshake_has_no_address() {
        // Nobody accepts the connection: the operating system completes it.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = handshakes().address(1, silent.local_addr().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("no TLS handshake"), "{error}");
    }

    #[tokio::test]
    async fn a_node_that_takes_no_connection_in_time_has_no_address() {
        // Nobody accepts the connections: once enough of them wait, the operating system stops answering.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(1).unwrap();
        let address = full.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(LIMIT, TcpStream::connect(address)).await {
            waiting.push(stream.unwrap());
        }
        assert!(handshakes().address(1, address).await.is_err());
    }

    #[tokio::test]
    async fn what_else_is_wrong_with_a_node_is_left_to_the_driver_and_not_asked_twice() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handshakes = handshakes();
        // The node does not speak TLS.
        let answer = async {
            let (stream, _) = listener.accept().await.unwrap();
            stream.writable().await.unwrap();
            stream.try_write(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            stream
        };
        let (found, stream) = tokio::join!(handshakes.address(1, address), answer);
        assert_eq!(found.unwrap(), address);
        drop((stream, listener));
        // Nobody listens there any more.
        assert_eq!(handshakes.address(2, address).await.unwrap(), address);
        let _silent = std::net::TcpListener::bind(address).unwrap();
        assert_eq!(
            handshakes.address(1, address).await.unwrap(),
            address,
            "it has answered just now"
        );
        let refused = handshakes.address(2, address).await;
        assert!(refused.is_err(), "who has refused a connection has not answered");
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let other = handshakes.address(1, other.local_addr().unwrap()).await;
        assert!(other.is_err(), "another port has not answered");
    }
}
