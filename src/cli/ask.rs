//! A minimal HTTP client for commands that ask a running process (`tap`, `health`, `top`): one request, one answer, no TLS.
//!
//! It speaks HTTP/1.0, so that the body ends with the connection and is never chunked, whatever proxy is in between.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

/// The longest answer that is read, in bytes. A longer one is not Messina's.
const LONGEST: u64 = 16 << 20;

/// The process to ask.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Process {
    /// HTTP address of the process: its `[http] listen`.
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
    /// The status, such as 200; 0 if the answer is not HTTP.
    pub status: u16,
    /// The body, without the final line break.
    pub body: String,
}

impl Answer {
    /// Whether another program answered: with something other than HTTP, or with a page. Messina's only page is at `/`.
    pub fn is_anothers(&self) -> bool {
        self.status == 0 || self.body.trim_start().starts_with('<')
    }
}

impl Process {
    /// The address to connect to. For an unspecified listen address, this is the loopback address.
    pub fn address(&self) -> SocketAddr {
        let ip = match self.listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        SocketAddr::new(ip, self.listen.port())
    }

    /// The message for an answer of another program.
    pub fn not_messina(&self) -> String {
        format!(
            "{}: another program listens there; give the process's [http] listen address with --listen",
            self.address()
        )
    }

    /// Requests `path`. Each part of the answer may take `patience`.
    ///
    /// # Errors
    /// If there is no connection, or no answer in time.
    pub fn ask(&self, path: &str, patience: Duration) -> io::Result<Answer> {
        Place::from(*self).ask(path, patience)
    }
}

/// How a process can be reached, also from another host: host, port, and a path prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    host: String,
    port: u16,
    prefix: String,
}

impl Place {
    /// Requests `path`, as [`Process::ask`] does.
    ///
    /// # Errors
    /// If there is no connection, or no answer in time.
    pub fn ask(&self, path: &str, patience: Duration) -> io::Result<Answer> {
        let mut stream = self.connect(patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        // Send the request in one write: a server that answers before the last piece arrives would reset the connection.
        let (prefix, authority) = (&self.prefix, self.authority());
        stream.write_all(format!("GET {prefix}{path} HTTP/1.0\r\nHost: {authority}\r\n\r\n").as_bytes())?;
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

    fn connect(&self, patience: Duration) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, patience) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.authority(), self.prefix)
    }
}

impl From<Process> for Place {
    fn from(process: Process) -> Place {
        let address = process.address();
        Place {
            host: address.ip().to_string(),
            port: address.port(),
            prefix: String::new(),
        }
    }
}

/// `http://HOST[:PORT][/PATH]` with default port 80, or `HOST[:PORT][/PATH]` with Messina's default port.
impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let (rest, port) = match text.split_once("://") {
            None => (text, 9090),
            Some(("http", rest)) => (rest, 80),
            Some((scheme, _)) => {
                return Err(format!(
                    "Messina serves http, not {scheme}: write http://HOST:PORT, through a tunnel (kubectl port-forward) if need be"
                ));
            }
        };
        let wrong = || "write http://HOST:PORT, or HOST:PORT".to_owned();
        if rest.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(wrong());
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, rest) = v6.split_once(']').ok_or_else(wrong)?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, port.parse().map_err(|_| wrong())?),
                    None if rest.is_empty() => (host, port),
                    None => return Err(wrong()),
                }
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
                None => (authority, port),
            },
        };
        if host.is_empty() {
            return Err(wrong());
        }
        // People copy the address of the status page, or of /status itself.
        let path = path.trim_end_matches('/');
        Ok(Place {
            host: host.to_owned(),
            port,
            prefix: path.strip_suffix("/status").unwrap_or(path).to_owned(),
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
                assert!(asked.starts_with(b"GET /livez HTTP/1.0\r\n"));
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

    #[test]
    fn a_url_says_host_port_and_what_stands_before_the_path() {
        for (url, place) in [
            ("http://pod-1:9191", "pod-1:9191"),
            ("http://pod-1:9191/", "pod-1:9191"),
            ("http://pod-1/status", "pod-1:80"),
            ("http://gateway/messina/", "gateway:80/messina"),
            ("pod-1", "pod-1:9090"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("http://[::1]:9090", "[::1]:9090"),
            ("[::1]", "[::1]:9090"),
        ] {
            assert_eq!(url.parse::<Place>().unwrap().to_string(), place, "{url}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_what_to_write() {
        for url in [
            "",
            "http://",
            ":9090",
            "pod:port",
            "pod:99999",
            "[::1",
            "[::1]9",
            "pod:1/a b",
            "pod:1/\r\nX: y",
        ] {
            assert!(url.parse::<Place>().unwrap_err().contains("HOST:PORT"), "{url}");
        }
        let refused = "https://pod:9090".parse::<Place>().unwrap_err();
        assert!(refused.contains("not https"), "{refused}");
    }
}
