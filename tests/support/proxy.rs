//! A TCP proxy that simulates a bad network: every byte is delayed, some bytes longer than others, and now and then a connection
//! breaks.
//!
//! TCP shows packet loss as delay, by retransmission, and at worst as a broken connection; so these are simulated. Each direction is a
//! queue with a due time for each chunk, so that delay does not limit throughput.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::random::Random;

/// What happens to the bytes that pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Delay of each byte, in each direction.
    pub delay: Duration,
    /// How many chunks of 1,000 arrive later by `stall`.
    pub stalled_of_1000: u64,
    /// The extra delay of those chunks.
    pub stall: Duration,
}

/// A listener in front of a server; it lives as long as the test process.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    weather: Arc<Mutex<Weather>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    carried: Arc<AtomicUsize>,
}

impl Proxy {
    /// Listens on `address` for connections to `server`, without any delay.
    pub fn new(address: &str, server: &str, seed: u64) -> Proxy {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (weather, open) = (Arc::new(Mutex::new(Weather::default())), Arc::default());
        let (server, of_listener) = (server.to_owned(), weather.clone());
        let kept: Arc<Mutex<Vec<TcpStream>>> = open;
        let open = kept.clone();
        let carried = Arc::<AtomicUsize>::default();
        let count = carried.clone();
        std::thread::spawn(move || {
            for (number, client) in (0..).zip(listener.incoming().map_while(Result::ok)) {
                // The server is down: the client sees its connection closed.
                let Ok(server) = TcpStream::connect(&server) else {
                    continue;
                };
                count.fetch_add(1, Ordering::Relaxed);
                kept.lock().unwrap().push(client.try_clone().unwrap());
                for (from, to, way) in [(&client, &server, 0), (&server, &client, 1)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let random = Random::from(seed ^ (number << 1 | way));
                    pump(from, to, random, of_listener.clone());
                }
            }
        });
        Proxy {
            address,
            weather,
            open,
            carried,
        }
    }

    /// Changes the weather for bytes that arrive from now on.
    pub fn set(&self, weather: Weather) {
        *self.weather.lock().unwrap() = weather;
    }

    /// Connections made to the server so far.
    pub fn carried(&self) -> usize {
        self.carried.load(Ordering::Relaxed)
    }

    /// Breaks every open connection, and returns how many were open.
    pub fn break_all(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock().unwrap());
        // A connection that was closed already does not count.
        open.iter()
            .filter(|stream| stream.shutdown(Shutdown::Both).is_ok())
            .count()
    }
}

/// One direction of a connection: a reader that stamps chunks with their due time, and a writer that waits for it.
fn pump(mut from: TcpStream, mut to: TcpStream, mut random: Random, weather: Arc<Mutex<Weather>>) {
    let _ = to.set_nodelay(true);
    let (send, receive) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let now = *weather.lock().unwrap();
            let stall = if random.below(1000) < now.stalled_of_1000 {
                now.stall
            } else {
                Duration::ZERO
            };
            if send
                .send((Instant::now() + now.delay + stall, buffer[..read].to_vec()))
                .is_err()
            {
                let _ = from.shutdown(Shutdown::Both);
                break;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, bytes) in receive {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
