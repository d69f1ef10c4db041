//! `messina health`: asks a running process whether it lives, for images without a shell or curl.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use crate::shutdown::Exit;

/// How long the process may take to answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Asks a running process for /livez, or for /readyz. Exit 0 when it says 200; else 69 and what it says.
#[derive(Debug, clap::Args)]
pub struct Health {
    /// Where its HTTP listens: the value of `[http] listen`.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MESSINA__HTTP__LISTEN",
        default_value = "127.0.0.1:9090"
    )]
    listen: SocketAddr,
    /// Ask whether it does its work, and not only whether it lives.
    #[arg(long)]
    ready: bool,
}

/// Runs the command.
pub fn run(args: &Health) -> anyhow::Result<ExitCode> {
    let path = if args.ready { "/readyz" } else { "/livez" };
    let address = reachable(args.listen);
    match ask(address, path) {
        Ok((true, _)) => Ok(ExitCode::SUCCESS),
        Ok((false, answer)) => {
            eprintln!("{address}{path}: {answer}");
            Ok(Exit::Unavailable.into())
        }
        Err(error) => {
            eprintln!("{address}{path} does not answer: {error}");
            Ok(Exit::Unavailable.into())
        }
    }
}

/// Where to connect to what listens on `listen`: all addresses include this host's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Whether the answer is 200, and its body.
fn ask(address: SocketAddr, path: &str) -> std::io::Result<(bool, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    // The probes' answers are short; more than this is somebody else's.
    stream.take(64 * 1024).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((head.split(' ').nth(1) == Some("200"), body.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn all_addresses_are_reached_by_loopback() {
        for (listen, address) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("127.0.0.2:1", "127.0.0.2:1"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), address.parse().unwrap());
        }
    }

    #[test]
    fn only_200_is_health() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
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
        assert_eq!(ask(address, "/livez").unwrap(), (true, "ok".to_owned()));
        assert_eq!(ask(address, "/livez").unwrap(), (false, "no 200 !".to_owned()));
        assert!(!ask(address, "/livez").unwrap().0);
        server.join().unwrap();
        assert!(ask(address, "/livez").is_err());
    }
}
