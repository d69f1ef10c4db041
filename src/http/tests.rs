//! Tests of the server over real connections.

use super::*;
use crate::tap::{Showing, Tap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Fake {
    live: Result<(), String>,
    ready: Result<(), Vec<String>>,
    tap: Arc<Tap>,
}

impl Default for Fake {
    fn default() -> Self {
        Fake {
            live: Ok(()),
            ready: Ok(()),
            tap: Arc::default(),
        }
    }
}

impl Probe for Fake {
    fn live(&self) -> Result<(), String> {
        self.live.clone()
    }
    fn ready(&self) -> Result<(), Vec<String>> {
        self.ready.clone()
    }
    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "pipelines": { "navigation": { "in_flight": 3 } } })
    }
    fn metrics(&self) -> Vec<u8> {
        b"messina_build_info 1\n".to_vec()
    }
    fn tap(&self, pipeline: &str, wanted: Wanted) -> Result<Arc<Looker>, Refused> {
        match pipeline {
            "navigation" => {
                let gap = wanted.gap();
                let looker = Looker::new(Showing::Shapes, wanted.outcome, wanted.records, gap);
                self.tap.open(&looker).then_some(looker).ok_or(Refused::Busy)
            }
            "off" => Err(Refused::Off),
            _ => Err(Refused::Unknown(vec!["navigation".to_owned()])),
        }
    }
}

async fn started(probe: Fake) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let (address, (stop, stopped)) = (listener.address(), oneshot::channel());
    let task = tokio::spawn(serve(listener, Arc::new(probe), async {
        let _ = stopped.await;
    }));
    (address, stop, task)
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> String {
    ask_with(address, method, path, "").await
}

/// Sends a request with additional headers, each with its line end.
async fn ask_with(address: SocketAddr, method: &str, path: &str, headers: &str) -> String {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: messina\r\n{headers}Connection: close\r\n\r\n");
    send(address, &request).await
}

async fn send(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn metrics_are_openmetrics_for_who_accepts_it() {
    let (address, _stop, _task) = started(Fake::default()).await;
    for (accept, content_type, end) in [
        (
            "application/openmetrics-text;version=1.0.0,*/*;q=0.1",
            "application/openmetrics-text; version=1.0.0",
            "# EOF\n",
        ),
        ("text/plain", "text/plain; version=0.0.4", "messina_build_info 1\n"),
    ] {
        let answer = ask_with(address, "GET", "/metrics", &format!("Accept: {accept}\r\n")).await;
        assert!(answer.contains(&format!("content-type: {content_type}")), "{answer}");
        assert!(answer.contains("vary: Accept\r\n"), "{answer}");
        assert!(answer.ends_with(end), "{answer}");
    }
}

#[tokio::test]
async fn each_path_answers_in_its_type() {
    let (address, _stop, _task) = started(Fake::default()).await;
    for (path, content_type, part) in [
        ("/metrics", "text/plain; version=0.0.4", "messina_build_info 1"),
        ("/livez", "text/plain", "ok"),
        ("/readyz?verbose", "text/plain", "ok"),
        ("/status", "application/json", "\"in_flight\": 3"),
        ("/", "text/html", "<title>Messina</title>"),
    ] {
        let answer = ask(address, "GET", path).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {answer}");
        assert!(
            answer.contains(&format!("content-type: {content_type}")),
            "{path}: {answer}"
        );
        assert!(answer.contains(part), "{path}: {answer}");
        let head = ask(address, "HEAD", path).await;
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"),
            "{path}: {head}"
        );
    }
}

#[tokio::test]
async fn failing_probes_say_why() {
    let ready = Err(vec![
        "navigation: not assigned".to_owned(),
        "store: not connected".to_owned(),
    ]);
    let (address, _stop, _task) = started(Fake {
        live: Err("consumer 0 stands still".into()),
        ready,
        tap: Arc::default(),
    })
    .await;
    let live = ask(address, "GET", "/livez").await;
    assert!(
        live.starts_with("HTTP/1.1 503") && live.ends_with("\r\n\r\nconsumer 0 stands still\n"),
        "{live}"
    );
    let ready = ask(address, "GET", "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(
        ready.ends_with("\r\n\r\nnavigation: not assigned\nstore: not connected\n"),
        "{ready}"
    );
}

#[tokio::test]
async fn nothing_else_is_answered() {
    let (address, _stop, _task) = started(Fake::default()).await;
    let unknown = ask(address, "GET", "/health").await;
    assert!(
        unknown.starts_with("HTTP/1.1 404") && unknown.contains("/readyz"),
        "{unknown}"
    );
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let refused = ask(address, method, "/status").await;
        assert!(
            refused.starts_with("HTTP/1.1 405") && refused.contains("allow: GET, HEAD"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let (address, _stop, _task) = started(Fake::default()).await;
    let error = Listener::bind(address).await.err().unwrap().to_string();
    assert!(
        error.contains(&address.to_string()) && error.contains("in use"),
        "{error}"
    );
}

#[tokio::test]
async fn it_stops_though_a_client_is_silent() {
    let (address, stop, task) = started(Fake::default()).await;
    let _silent = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET /status HTTP/1.1\r\nHo").await.unwrap();
    assert!(ask(address, "GET", "/livez").await.contains("200 OK"));
    let start = Instant::now();
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), task)
        .await
        .unwrap()
        .unwrap();
    assert!(start.elapsed() < Duration::from_secs(4));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn more_clients_than_places_are_served_in_turn() {
    let (address, _stop, _task) = started(Fake::default()).await;
    let asks = (0..300).map(|_| tokio::spawn(async move { ask(address, "GET", "/livez").await }));
    for answer in futures_util::future::join_all(asks).await {
        assert!(answer.unwrap().starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn who_holds_all_places_keeps_nobody_out() {
    let fake = Fake::default();
    let tap = fake.tap.clone();
    let (address, _stop, _task) = started(fake).await;
    let looks = tokio::spawn(async move { ask(address, "GET", "/tap/navigation?records=1&seconds=20").await });
    while !tap.is_open() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut silent = TcpStream::connect(address).await.unwrap();
        let _ = silent.write_all(b"GET /status HTTP/1.1\r\nHo").await;
        held.push(silent);
    }
    // Waiting for the headers of the connections that hold all places would take ten seconds.
    let live = tokio::time::timeout(Duration::from_secs(8), ask(address, "GET", "/livez")).await;
    assert!(live.unwrap().starts_with("HTTP/1.1 200"));
    tap.offer("done", Instant::now(), &|_| serde_json::json!({"offset": 1}));
    let seen = looks.await.unwrap();
    assert!(
        seen.contains("\"offset\":1"),
        "who is being answered keeps the place: {seen}"
    );
}

#[test]
fn the_page_asks_nobody_else() {
    for outside in ["http://", "https://", "//cdn", "@import", "src="] {
        assert!(!PAGE.contains(outside), "{outside}");
    }
}

#[tokio::test]
async fn records_are_shown_as_they_end() {
    let fake = Fake::default();
    let tap = fake.tap.clone();
    let (address, _stop, _task) = started(fake).await;
    let asked = tokio::spawn(async move { ask(address, "GET", "/tap/navigation?records=2&seconds=10").await });
    while !tap.is_open() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let now = Instant::now();
    for (offset, seconds) in [(1, 0), (2, 1), (3, 5)] {
        let tell = |showing: Showing| serde_json::json!({"offset": offset, "showing": showing.as_str()});
        tap.offer("done", now + Duration::from_secs(seconds), &tell);
    }
    let answer = asked.await.unwrap();
    assert!(answer.contains("content-type: application/json"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let expected = serde_json::json!({
        "shows": "shapes", "ended": 3,
        "records": [{"offset": 1, "showing": "shapes"}, {"offset": 3, "showing": "shapes"}],
    });
    assert_eq!(body, expected);
    for (path, status, part) in [
        ("/tap/navigation?records=0", "400 Bad Request", "1 to 100"),
        ("/tap/off", "403 Forbidden", "[http] tap"),
        ("/tap/orders", "404 Not Found", "there are navigation"),
        ("/tap/", "404 Not Found", "/tap/PIPELINE"),
        ("/tap", "404 Not Found", "/tap/PIPELINE"),
        ("/tap/PIPELINE/x", "404 Not Found", "/tap/PIPELINE"),
    ] {
        let answer = ask(address, "GET", path).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")) && answer.contains(part),
            "{path}: {answer}"
        );
    }
}

#[tokio::test]
async fn records_are_shown_to_no_page_whose_name_leads_here() {
    let (address, _stop, _task) = started(Fake::default()).await;
    for (host, shown) in [
        ("127.0.0.1:9090", true),
        ("10.1.2.3", true),
        ("[::1]:9090", true),
        ("[fd00::1]", true),
        ("localhost:9090", true),
        ("messina", true),
        ("demo.localhost", true),
        ("laptop.local:9090", true),
        ("VM.c.project.internal", true),
        ("messina.streams.svc:9090", true),
        ("messina.streams.svc.cluster.local.", true),
        ("evil.example.com:9090", false),
        ("evil.example.com.", false),
        ("localhost.example.com", false),
        ("127.0.0.1.example.com", false),
        // Anybody can register such a name.
        ("messina.streams.svc.example.com", false),
        ("notlocal.xlocal", false),
        ("b\u{fc}cher", false),
    ] {
        let of = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        // A request that passes the check gets its answer at once.
        let answer = send(address, &of("/tap/orders")).await;
        let status = if shown { "404 Not Found" } else { "403 Forbidden" };
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{host}: {answer}"
        );
        assert_eq!(answer.contains("must be an IP address"), !shown, "{host}: {answer}");
        let status = send(address, &of("/status")).await;
        assert!(status.starts_with("HTTP/1.1 200 OK\r\n"), "{host}: {status}");
    }
    // Browsers always send `Host`, so a request without it is not from a web page.
    let answer = send(address, "GET /tap/orders HTTP/1.0\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.0 404") || answer.starts_with("HTTP/1.1 404"),
        "{answer}"
    );
}
