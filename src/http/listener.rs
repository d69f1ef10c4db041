//! Accepts connections, limits their number and time, and ends them.
//!
//! A server for operators must stay reachable when a client misbehaves, and cost little when nobody looks. So the number of connections is limited,
//! the header of a request must arrive in time, and no connection lives longer than a minute plus the current answer: a client that reads nothing
//! cannot hold a place for ever. When all places are taken, a new connection replaces the oldest one, so that nobody can lock out probes. Scrapers
//! simply reconnect.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// The most connections at a time. A further one replaces the oldest idle connection, or the oldest of all if every connection is being answered.
const CONNECTIONS: usize = 64;
/// The time for which a connection is sure to keep its place, so that many clients that come at once are served in turn.
const KEPT: Duration = Duration::from_secs(1);
/// The longest time from the connection, or from the last answer, to the end of the next request's header.
const HEADER: Duration = Duration::from_secs(10);
/// After this time a connection is closed, once its current answer is sent.
const LIFE: Duration = Duration::from_secs(60);
/// How long an answer in progress may still take at that time. A look at records takes up to [`super::PATIENCE`].
const ANSWER: Duration = Duration::from_secs(25);
/// How long a connection may take to end once it was asked to; then it is cut off.
const GRACE: Duration = Duration::from_secs(2);
/// The pause after an error of `accept`, such as too many open files, to avoid a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for HTTP: {error}")]
pub struct BindError {
    /// The configured address.
    pub address: SocketAddr,
    /// What the system says, such as "Address already in use".
    pub error: io::Error,
}

/// A bound address, not yet served.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    /// [`LIFE`], or a shorter time in tests.
    life: Duration,
}

impl Listener {
    /// Binds the address. Port 0 takes a free port.
    ///
    /// # Errors
    /// If the address is in use or not of this machine, or if its port is not permitted.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let failed = |error| BindError { address, error };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            life: LIFE,
        })
    }

    /// The bound address, with the real port if port 0 was requested.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests with `handler` until `shutdown` is ready; then gives connections a short while to end.
    pub async fn serve<H, F>(self, handler: H, shutdown: impl Future<Output = ()>)
    where
        H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        // Dropping `end` tells the connections to end.
        let (end, ended) = watch::channel(());
        let (mut connections, mut places) = (JoinSet::new(), Vec::new());
        let mut shutdown = pin!(shutdown);
        loop {
            let stream = tokio::select! {
                () = &mut shutdown => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            tokio::select! {
                () = &mut shutdown => break,
                () = room(&mut connections, &mut places) => {}
            }
            let answering = Arc::<AtomicBool>::default();
            let (handler, ended) = (Arc::clone(&handler), ended.clone());
            let connection = connection(stream, handler, Arc::clone(&answering), self.life, ended);
            places.push(Place {
                since: Instant::now(),
                answering,
                connection: connections.spawn(connection),
            });
        }
        drop((self.listener, end));
        while connections.join_next().await.is_some() {}
    }
}

/// An open connection.
struct Place {
    since: Instant,
    /// Whether the handler is working on a request of it.
    answering: Arc<AtomicBool>,
    connection: AbortHandle,
}

/// Waits for a free place: until a connection ends, or until the oldest may be cut off. Idle connections are cut off first.
async fn room(connections: &mut JoinSet<()>, places: &mut Vec<Place>) {
    while connections.try_join_next().is_some() {}
    places.retain(|place| !place.connection.is_finished());
    while connections.len() >= CONNECTIONS {
        let idle = places.iter().find(|place| !place.answering.load(Ordering::Relaxed));
        let Some(oldest) = idle.or(places.first()) else { return };
        let left = KEPT.saturating_sub(oldest.since.elapsed());
        if left.is_zero() {
            oldest.connection.abort();
            connections.join_next().await;
        } else {
            let _ = tokio::time::timeout(left, connections.join_next()).await;
        }
    }
}

async fn connection<H, F>(
    stream: TcpStream,
    handler: Arc<H>,
    answering: Arc<AtomicBool>,
    life: Duration,
    mut ended: watch::Receiver<()>,
) where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let busy = Arc::clone(&answering);
    let service = service_fn(move |request| {
        answering.store(true, Ordering::Relaxed);
        let (answer, answering) = (handler(request), Arc::clone(&answering));
        async move {
            let answer = answer.await;
            answering.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // An error here is the client's: it disconnected, or did not speak HTTP. There is nothing to do about it.
        _ = connection.as_mut() => return,
        _ = ended.changed() => {}
        () = tokio::time::sleep(life) => {
            connection.as_mut().graceful_shutdown();
            let patience = if busy.load(Ordering::Relaxed) { ANSWER } else { GRACE };
            tokio::select! {
                _ = connection.as_mut() => return,
                () = tokio::time::sleep(patience) => return,
                _ = ended.changed() => {}
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    /// A server whose answers take `after` and whose connections live only for a moment, and a client that waits for its answer.
    async fn asked(after: Duration) -> (TcpStream, oneshot::Sender<()>, JoinHandle<()>) {
        let mut listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        listener.life = Duration::from_millis(100);
        let (address, (stop, stopped)) = (listener.address(), oneshot::channel());
        let handler = move |_: Request<Incoming>| async move {
            tokio::time::sleep(after).await;
            Response::new(Full::new(Bytes::from_static(b"the whole answer")))
        };
        let task = tokio::spawn(listener.serve(handler, async {
            let _ = stopped.await;
        }));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: messina\r\n\r\n")
            .await
            .unwrap();
        (stream, stop, task)
    }

    #[tokio::test]
    async fn an_answer_that_is_being_made_is_not_cut_at_the_end_of_the_connections_life() {
        let (mut stream, _stop, _task) = asked(GRACE + Duration::from_millis(500)).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("the whole answer"), "{answer}");
    }

    #[tokio::test]
    async fn a_stop_waits_for_no_answer_that_takes_long() {
        let (_stream, stop, task) = asked(ANSWER).await;
        // The connection has exceeded its life by then.
        tokio::time::sleep(Duration::from_millis(300)).await;
        stop.send(()).unwrap();
        tokio::time::timeout(2 * GRACE, task).await.unwrap().unwrap();
    }
}
