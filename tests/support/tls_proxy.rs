//! TLS and a login in front of a registry that has neither, as a gateway would add them; an authorization server that issues tokens for it; and a
//! proxy for MongoDB's protocol that asks clients for a certificate.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod, SslStream, SslVerifyMode, SslVersion};

/// What the gateway requires of its clients.
pub struct Gateway {
    /// What `Authorization` must say.
    pub authorization: Authorization,
    /// Whether a certificate of the authority is required, too.
    pub client_certificate: bool,
}

/// A login.
pub enum Authorization {
    /// This exact header value.
    Fixed(String),
    /// A token that was issued and not shown too often yet.
    Issued(Arc<Issuer>),
}

/// What an authorization server requires, and the tokens that it has issued.
pub struct Issuer {
    /// What `Authorization` must say to get a token.
    pub login: String,
    /// The scope that a client must ask for.
    pub scope: String,
    /// How a token begins.
    pub prefix: String,
    /// How many requests a token is good for.
    pub uses: usize,
    /// For each token, how many uses are left.
    pub issued: Mutex<Vec<usize>>,
}

impl Authorization {
    fn accepts(&self, header: Option<&str>) -> bool {
        match self {
            Self::Fixed(wanted) => header == Some(wanted),
            Self::Issued(issuer) => {
                let number = header
                    .and_then(|text| text.strip_prefix("Bearer "))
                    .and_then(|token| token.strip_prefix(&issuer.prefix))
                    .and_then(|number| number.parse::<usize>().ok());
                let mut issued = issuer.issued.lock().unwrap();
                let left = number.and_then(|number| issued.get_mut(number));
                left.is_some_and(|left| {
                    *left > 0 && {
                        *left -= 1;
                        true
                    }
                })
            }
        }
    }
}

impl Issuer {
    /// Status and body for a request to the token endpoint (RFC 6749, 4.4 and 5).
    fn answer(&self, authorization: Option<&str>, form: &str) -> (&'static str, String) {
        let form: Vec<(&str, &str)> = form.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let has = |name: &str, value: &str| form.contains(&(name, value));
        if authorization != Some(&self.login) {
            return (
                "401 Unauthorized",
                r#"{"error":"invalid_client","error_description":"Invalid client or credentials"}"#.to_owned(),
            );
        }
        if !has("grant_type", "client_credentials") {
            return ("400 Bad Request", r#"{"error":"unsupported_grant_type"}"#.to_owned());
        }
        if !has("scope", &self.scope) {
            return ("400 Bad Request", r#"{"error":"invalid_scope"}"#.to_owned());
        }
        let mut issued = self.issued.lock().unwrap();
        issued.push(self.uses);
        let token = format!("{}{}", self.prefix, issued.len() - 1);
        (
            "200 OK",
            format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":3600}}"#),
        )
    }
}

/// Serves `gateway` in front of `server` (`host:port`), with the certificates of `tls`, until the test process ends.
pub fn serve(gateway: Gateway, server: &str, tls: &Path) -> SocketAddr {
    let server = server.to_owned();
    serve_each(gateway.client_certificate, tls, move |client, asked| {
        if !gateway.authorization.accepts(asked.header("authorization").as_deref()) {
            return answer(
                client,
                "401 Unauthorized",
                r#"{"error_code":401,"message":"Unauthorized"}"#,
            );
        }
        let mut upstream = TcpStream::connect(&server).ok()?;
        let head = asked.head.trim_end();
        write!(upstream, "{head}\r\nConnection: close\r\n\r\n").ok()?;
        upstream.write_all(&asked.body).ok()?;
        let mut bytes = Vec::new();
        upstream.read_to_end(&mut bytes).ok()?;
        client.write_all(&bytes).ok()
    })
}

/// Serves a token endpoint, until the test process ends.
pub fn serve_tokens(issuer: Arc<Issuer>, tls: &Path) -> SocketAddr {
    serve_each(false, tls, move |client, asked| {
        let form = String::from_utf8_lossy(&asked.body);
        let (status, body) = issuer.answer(asked.header("authorization").as_deref(), &form);
        answer(client, status, &body)
    })
}

/// Serves MongoDB's protocol in front of `server` to clients with a certificate, until the test process ends. Each message begins with its length
/// and gets exactly one answer.
pub fn serve_messages(server: &str, tls: &Path) -> SocketAddr {
    let server = server.to_owned();
    serve_streams(true, tls, move |client| {
        let mut upstream = TcpStream::connect(&server).ok()?;
        loop {
            relay(client, &mut upstream)?;
            relay(&mut upstream, client)?;
        }
    })
}

/// Relays one message of MongoDB's wire protocol.
fn relay(from: &mut impl Read, to: &mut impl Write) -> Option<()> {
    let mut message = vec![0; 4];
    from.read_exact(&mut message).ok()?;
    let length = u32::from_le_bytes(message[..].try_into().ok()?) as usize;
    message.resize(length, 0);
    from.read_exact(&mut message[4..]).ok()?;
    to.write_all(&message).ok()
}

/// A received HTTP request.
struct Asked {
    head: String,
    body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

/// Answers the one request of each connection with `one`.
fn serve_each(
    client_certificate: bool,
    tls: &Path,
    one: impl Fn(&mut SslStream<TcpStream>, Asked) -> Option<()> + Send + Sync + 'static,
) -> SocketAddr {
    serve_streams(client_certificate, tls, move |client| {
        client.get_ref().set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let asked = asked(client)?;
        one(client, asked)?;
        client.shutdown().ok().map(drop)
    })
}

/// Handles each connection with `one`.
fn serve_streams(
    client_certificate: bool,
    tls: &Path,
    one: impl Fn(&mut SslStream<TcpStream>) -> Option<()> + Send + Sync + 'static,
) -> SocketAddr {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate_chain_file(tls.join("server.crt")).unwrap();
    acceptor
        .set_private_key_file(tls.join("server.key"), SslFiletype::PEM)
        .unwrap();
    acceptor.set_ca_file(tls.join("ca.pem")).unwrap();
    // In TLS 1.3 a refusal comes after the handshake, and can be lost when the connection closes.
    acceptor.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    acceptor.set_verify(if client_certificate {
        SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT
    } else {
        SslVerifyMode::NONE
    });
    let (acceptor, one) = (Arc::new(acceptor.build()), Arc::new(one));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (acceptor, one) = (acceptor.clone(), one.clone());
            // A client's mistake ends its own connection and nothing else.
            std::thread::spawn(move || {
                let mut client = acceptor.accept(client).ok()?;
                one(&mut client)
            });
        }
    });
    address
}

fn asked(client: &mut SslStream<TcpStream>) -> Option<Asked> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        request.push(byte[0]);
    }
    let mut asked = Asked {
        head: String::from_utf8(request).ok()?,
        body: Vec::new(),
    };
    asked.body = vec![0; asked.header("content-length").map_or(0, |n| n.parse().unwrap())];
    client.read_exact(&mut asked.body).ok()?;
    Some(asked)
}

fn answer(client: &mut SslStream<TcpStream>, status: &str, body: &str) -> Option<()> {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    client.write_all(text.as_bytes()).ok()
}
