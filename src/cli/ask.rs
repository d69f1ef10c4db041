//! Asks a running process over its HTTP. One request, one answer, of plain HTTP: for more there is no need.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// The longest answer that is read, in bytes; more than this is somebody else's.
const LONGEST: u64 = 16 << 20;

/// Which process is asked.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Process {
    /// Where its HTTP listens: the value of `[http] listen`.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MESSINA__HTTP__LISTEN",
        default_value = "127.0.0.1:9090"
    )]
    listen: SocketAddr,
}

/// What a process answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status, such as 200; 0 where the answer is not HTTP.
    pub status: u16,
    /// The body, without the end of its last line.
    pub body: String,
}

impl Process {
    /// Where to connect to what listens there: all addresses include this host's own.
    pub fn address(&self) -> SocketAddr {
        let ip = match self.listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        SocketAddr::new(ip, self.listen.port())
    }

    /// Asks for `path`; each part of the answer may take `patience`.
    ///
    /// # Errors
    /// When there is no connection, or no answer in time.
    pub fn ask(&self, path: &str, patience: Duration) -> io::Result<Answer> {
        let address = self.address();
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.take(LONGEST).read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Answer {
            status: status.unwrap_or(0),
            body: body.trim_end().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const PATIENCE: Duration = Duration::from_secs(4);

    fn process(listen: &str) -> Process {
        Process {
            listen: listen.parse().unwrap(),
        }
    }

    #[test]
    fn all_addresses_are_reached_by_loopback() {
        for (listen, address) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("127.0.0.2:1", "127.0.0.2:1"),
        ] {
            assert_eq!(process(listen).address(), address.parse().unwrap());
        }
    }

    #[test]
    fn an_answer_is_its_status_and_body() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let process = process(&listener.local_addr().unwrap().to_string());
        let server = std::thread::spawn(move || {
            for answer in [
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n",
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 8\r\n\r\nno 200 !",
                "200",
            ] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = Vec::new();
                let mut byte = [0];
                while !asked.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte).unwrap();
                    asked.push(byte[0]);
                }
                assert!(asked.starts_with(b"GET /livez HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let ask = || {
            process
                .ask("/livez", PATIENCE)
                .map(|answer| (answer.status, answer.body))
        };
        assert_eq!(ask().unwrap(), (200, "ok".to_owned()));
        assert_eq!(ask().unwrap(), (503, "no 200 !".to_owned()));
        assert_eq!(ask().unwrap().0, 0);
        server.join().unwrap();
        assert!(ask().is_err());
    }
}
