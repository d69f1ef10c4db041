//! Nodes that take a connection and never answer in its TLS handshake, as a frozen one.
//!
//! Why: the driver limits the connection and not the handshake, and opens no session before it knows of each node whether there is a connection with it: one
//! such node, of whatever datacenter, would keep every process from starting. So, where the driver asks for the address of a node, a handshake is tried first,
//! within a limit. A node that does not answer then has no address: it counts as away, and is tried again. What else is wrong with a node the driver finds by itself.
//!
//! Invariants: a node that has answered is not tried again for [`AGAIN`], so that of the many connections of a pool few have a second handshake. The driver
//! does not ask for the address of a contact point: one that is frozen takes the whole time that a session may take to open.

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

/// That a node answers holds for so long.
const AGAIN: Duration = Duration::from_secs(10);

/// Tries handshakes with nodes, for the driver.
pub(super) struct Handshakes {
    tls: SslConnector,
    limit: Duration,
    /// Nodes by their ids, and when each has answered.
    answered: Mutex<HashMap<u128, Instant>>,
}

impl Handshakes {
    /// Each may take so long.
    pub(super) fn new(tls: SslConnector, limit: Duration) -> Self {
        Handshakes {
            tls,
            limit,
            answered: Mutex::default(),
        }
    }

    async fn address(&self, node: u128, address: SocketAddr) -> Result<SocketAddr, TranslationError> {
        let answered = || self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let known = answered().get(&node).is_some_and(|at| at.elapsed() < AGAIN);
        if !known {
            if is_silent(&self.tls, address, self.limit).await {
                let what = format!(
                    "it takes connections, and no TLS handshake ends within {:?}",
                    self.limit
                );
                let error = io::Error::new(io::ErrorKind::TimedOut, what);
                return Err(TranslationError::IoError(Arc::new(error)));
            }
            answered().insert(node, Instant::now());
        }
        Ok(address)
    }
}

// The driver's trait is made by `async_trait`; this is the signature that it makes.
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

/// Whether a node takes a connection, and a handshake on it neither ends nor fails in time.
async fn is_silent(tls: &SslConnector, address: SocketAddr, limit: Duration) -> bool {
    let Ok(Ok(stream)) = timeout(limit, TcpStream::connect(address)).await else {
        return false;
    };
    let Ok(configured) = tls.configure() else { return false };
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
    timeout(limit, handshake).await.is_err()
}

/// OpenSSL reads and writes without waiting.
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
        // Never accepted: the system takes connections for it.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = handshakes().address(1, silent.local_addr().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("no TLS handshake"), "{error}");
    }

    #[tokio::test]
    async fn what_else_is_wrong_with_a_node_is_left_to_the_driver_and_not_asked_twice() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handshakes = handshakes();
        // No TLS at all.
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
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        assert_eq!(
            handshakes.address(1, address).await.unwrap(),
            address,
            "it has answered just now"
        );
        assert!(handshakes.address(3, address).await.is_err());
    }
}
