//! An endpoint for Sentry events that accepts and keeps whatever is posted.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Listens until the test process ends.
pub struct Sink {
    /// The DSN of this endpoint.
    pub dsn: String,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Sink {
    /// Starts to listen.
    pub fn new() -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dsn = format!(
            "http://0123456789abcdef0123456789abcdef@{}/1",
            listener.local_addr().unwrap()
        );
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let into = bodies.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let into = into.clone();
                std::thread::spawn(move || {
                    // Reads until the client is done: the requests of a connection come one after the other.
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(read @ 1..) = stream.read(&mut buffer) {
                        into.lock()
                            .unwrap()
                            .push(String::from_utf8_lossy(&buffer[..read]).into_owned());
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
                    }
                });
            }
        });
        Sink { dsn, bodies }
    }

    /// What was posted so far, including the heads of the requests.
    pub fn taken(&self) -> String {
        self.bodies.lock().unwrap().concat()
    }
}
