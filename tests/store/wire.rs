//! What the options look like on the wire, seen by a proxy in front of the real server: compression, consistency, speculative
//! execution, keepalive.
//!
//! The proxy plays two nodes, on two addresses of this machine, by replacing what the server says about its neighbours. Both lead to
//! the one server, which answers for either.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use messina::avro::value::Value;
use messina::retry::Class;
use messina::store::group::GroupOptions;
use messina::store::scylla::{ScyllaOptions, ScyllaStore};
use messina::store::{AnyStore, Consistency, SerialConsistency, StatementOptions, Store};
use scylla::client::Compression;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::shards::{EXECUTE, Frame, PREPARE, put_text};
use super::{KEYSPACE, items, now_us, scylla, scylla_options, string, unique};

const STARTUP: u8 = 0x01;
const RESULT: u8 = 0x08;
const COMPRESSED: u8 = 0x01;
/// Kinds of CQL results.
const ROWS: i32 = 2;
const PREPARED: i32 = 4;
/// Host id of the second node. It must differ from the server's own, because the driver would take two nodes with one id for one
/// node.
const OTHER_NODE: [u8; 16] = [0x5a; 16];

/// The two nodes.
struct Wire {
    server: String,
    /// Requests, each with the node that it came to.
    requests: Mutex<Vec<(usize, Frame)>>,
    /// The id of the driver's query for neighbours, once it is prepared.
    neighbours: Mutex<Option<Vec<u8>>>,
    /// The port of both nodes.
    port: u16,
    /// Whether the next EXECUTE request of the test is left without an answer.
    swallow: AtomicBool,
}

impl Wire {
    async fn start(server: &str) -> (Arc<Wire>, ScyllaOptions, JoinSet<()>) {
        // Drivers expect the same port on every node.
        let (one, two) = loop {
            let one = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = one.local_addr().unwrap().port();
            if let Ok(two) = TcpListener::bind(("127.0.0.2", port)).await {
                break (one, two);
            }
        };
        let port = one.local_addr().unwrap().port();
        let wire = Arc::new(Wire {
            server: server.to_owned(),
            requests: Mutex::default(),
            neighbours: Mutex::default(),
            port,
            swallow: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        for (node, listener) in [one, two].into_iter().enumerate() {
            let wire = wire.clone();
            tasks.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((client, _)) = listener.accept().await {
                    let connection = wire.clone().serve(node, client);
                    connections.spawn(async { connection.await.unwrap_or_default() });
                }
            });
        }
        let options = ScyllaOptions {
            nodes: vec![format!("127.0.0.1:{port}")],
            keyspace: Some(KEYSPACE.to_owned()),
            ..scylla_options().unwrap()
        };
        (wire, options, tasks)
    }

    async fn serve(self: Arc<Self>, node: usize, client: TcpStream) -> Option<()> {
        let server = TcpStream::connect(&self.server).await.ok()?;
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        // Requests without an answer yet, by their stream id.
        let asked: Mutex<HashMap<[u8; 2], Frame>> = Mutex::default();
        let requests = async {
            while let Some(frame) = Frame::read(&mut from_client).await {
                let stream = [frame.head[2], frame.head[3]];
                let of_ours = frame.opcode() == EXECUTE && !self.asks_for_neighbours(&frame);
                asked.lock().unwrap().insert(stream, frame.clone());
                self.requests.lock().unwrap().push((node, frame.clone()));
                if of_ours && self.swallow.swap(false, Ordering::Relaxed) {
                    continue;
                }
                if frame.write(&mut to_server).await.is_none() {
                    break;
                }
            }
        };
        let replies = async {
            while let Some(mut frame) = Frame::read(&mut from_server).await {
                let asked = asked.lock().unwrap().remove(&[frame.head[2], frame.head[3]]);
                if let Some(asked) = asked.filter(|_| frame.opcode() == RESULT && frame.head[1] & COMPRESSED == 0) {
                    self.replace(&asked, &mut frame.body);
                }
                if frame.write(&mut to_client).await.is_none() {
                    break;
                }
            }
        };
        tokio::select! {
            () = requests => {}
            () = replies => {}
        }
        Some(())
    }

    fn asks_for_neighbours(&self, frame: &Frame) -> bool {
        let neighbours = self.neighbours.lock().unwrap();
        neighbours.as_ref().is_some_and(|id| frame.body[2..].starts_with(id))
    }

    fn replace(&self, asked: &Frame, answer: &mut Vec<u8>) {
        let question = b"FROM system.peers";
        let kind = i32::from_be_bytes(answer[..4].try_into().unwrap());
        if asked.opcode() == PREPARE
            && kind == PREPARED
            && asked.body.windows(question.len()).any(|part| part == question)
        {
            let length = u16::from_be_bytes([answer[4], answer[5]]) as usize;
            *self.neighbours.lock().unwrap() = Some(answer[6..6 + length].to_vec());
        } else if kind == ROWS && asked.opcode() == EXECUTE && self.asks_for_neighbours(asked) {
            *answer = self.neighbour();
        }
    }

    /// The second node, as a row of system.peers.
    fn neighbour(&self) -> Vec<u8> {
        const TEXT: u16 = 0x0d;
        let mut body = ROWS.to_be_bytes().to_vec();
        // All columns belong to one table.
        body.extend(1i32.to_be_bytes());
        body.extend(5i32.to_be_bytes());
        put_text(&mut body, "system");
        put_text(&mut body, "peers");
        let types: [(&str, &[u16]); 5] = [
            ("host_id", &[0x0c]),
            ("rpc_address", &[0x10]),
            ("data_center", &[TEXT]),
            ("rack", &[TEXT]),
            ("tokens", &[0x22, TEXT]),
        ];
        for (name, ty) in types {
            put_text(&mut body, name);
            ty.iter().for_each(|part| body.extend(part.to_be_bytes()));
        }
        body.extend(1i32.to_be_bytes());
        let mut tokens = 1i32.to_be_bytes().to_vec();
        put_bytes(&mut tokens, b"0");
        for value in [&OTHER_NODE[..], &[127, 0, 0, 2], b"dc1", b"rack1", &tokens] {
            put_bytes(&mut body, value);
        }
        body
    }

    /// The requests that contain these bytes, and the node that each came to.
    fn with(&self, bytes: &str) -> Vec<(usize, Frame)> {
        let holds = |frame: &Frame| frame.body.windows(bytes.len()).any(|part| part == bytes.as_bytes());
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|(_, frame)| holds(frame)).cloned().collect()
    }
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as i32).to_be_bytes());
    to.extend(bytes);
}

/// Consistency, page size and serial consistency of an EXECUTE request, as the protocol's numbers.
fn parameters(frame: &Frame) -> (u16, Option<i32>, Option<u16>) {
    assert_eq!(frame.opcode(), EXECUTE);
    let short = |at: usize| u16::from_be_bytes([frame.body[at], frame.body[at + 1]]);
    let int = |at: usize| i32::from_be_bytes(frame.body[at..at + 4].try_into().unwrap());
    let mut at = 2 + usize::from(short(0));
    let (consistency, flags) = (short(at), frame.body[at + 2]);
    at += 3;
    if flags & 0x01 != 0 {
        let values = short(at);
        at += 2;
        for _ in 0..values {
            // A null or unset value has no bytes.
            at += 4 + usize::try_from(int(at)).unwrap_or(0);
        }
    }
    let page = (flags & 0x04 != 0).then(|| int(at));
    if page.is_some() {
        at += 4;
    }
    if flags & 0x08 != 0 {
        at += 4 + usize::try_from(int(at)).unwrap_or(0);
    }
    (consistency, page, (flags & 0x10 != 0).then(|| short(at)))
}

/// How many values an EXECUTE request binds, and whether it carries a timestamp of its own.
fn bound(frame: &Frame) -> (u16, bool) {
    assert_eq!(frame.opcode(), EXECUTE);
    let short = |at: usize| u16::from_be_bytes([frame.body[at], frame.body[at + 1]]);
    let flags = 4 + usize::from(short(0));
    (short(flags + 1), frame.body[flags] & 0x20 != 0)
}

fn row(key: &str) -> [Value<'static>; 4] {
    [string(key), Value::Int(1), string("a"), Value::Long(1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cql_each_statement_has_its_own_consistency() {
    let Some(options) = scylla_options() else { return };
    // Connecting creates the tables.
    drop(scylla().await);
    let (wire, options, _tasks) = Wire::start(&options.nodes[0]).await;
    let store = AnyStore::Scylla(ScyllaStore::connect(&options).await.unwrap());
    let own = StatementOptions {
        idempotent: false,
        consistency: Some(Consistency::Quorum),
        serial_consistency: Some(SerialConsistency::Serial),
        ..StatementOptions::write()
    };
    let usual = StatementOptions {
        idempotent: false,
        ..StatementOptions::write()
    };
    let any = StatementOptions {
        consistency: Some(Consistency::Any),
        ..StatementOptions::lookup()
    };
    let read = store.prepare("SELECT a FROM items WHERE id = :id AND seq = :seq", &any);
    assert!(read.await.unwrap_err().to_string().contains("for writes alone"));
    let writes = ScyllaOptions {
        consistency: Consistency::Any,
        ..options.clone()
    };
    let writes = ScyllaStore::connect(&writes).await.unwrap();
    writes.clock().await.unwrap();
    let cql = "INSERT INTO items (id, seq, a, b) VALUES (:id, :seq, :a, :b) IF NOT EXISTS";
    // LOCAL_ONE with LOCAL_SERIAL, as the session has them, and QUORUM with SERIAL.
    for (options, wanted) in [(usual, (0x0a, Some(0x09))), (own, (0x04, Some(0x08)))] {
        let statement = store.prepare(cql, &options).await.unwrap();
        let key = unique("levels");
        // A conditional statement gets its timestamp from the server, which therefore refuses ours. Only the request matters here.
        let _ = store.write(&statement, &row(&key), 1).await;
        let sent = wire.with(&key);
        assert!(!sent.is_empty());
        for (_, frame) in sent {
            let (level, _, serial) = parameters(&frame);
            assert_eq!((level, serial), wanted);
        }
    }
}

/// An aggregate is computed over pages of the driver's usual size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cql_of_the_first_row_and_what_functions_make_of_it_no_other_row_comes() {
    let Some(options) = scylla_options() else { return };
    drop(scylla().await);
    let (wire, options, _tasks) = Wire::start(&options.nodes[0]).await;
    let store = AnyStore::Scylla(ScyllaStore::connect(&options).await.unwrap());
    for (select, wanted) in [("a, writetime(a) AS at", 1), ("count(*) AS n", 5000)] {
        let get = super::lookup(&store, &format!("SELECT {select} FROM items WHERE id = :id")).await;
        let key = unique("page");
        store.lookup(&get, &[string(&key)]).await.unwrap();
        let sent = wire.with(&key);
        assert!(!sent.is_empty());
        for (_, frame) in sent {
            assert_eq!(parameters(&frame).1, Some(wanted), "{select}");
        }
    }
}

/// ScyllaDB refuses `USING TIMESTAMP` more than three days ahead in a statement, but accepts it in a request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cql_a_row_of_a_group_that_goes_by_itself_has_its_timestamp_in_the_request() {
    let Some(options) = scylla_options() else { return };
    drop(scylla().await);
    let (wire, options, _tasks) = Wire::start(&options.nodes[0]).await;
    let store = AnyStore::Scylla(ScyllaStore::connect(&options).await.unwrap());
    let group = GroupOptions {
        linger: Duration::ZERO,
        max_rows: 10,
        max_bytes: 16 << 10,
        across_partitions: false,
    };
    let options = StatementOptions {
        group: Some(group),
        ..StatementOptions::write()
    };
    let cql = "INSERT INTO items (id, seq, a, b) VALUES (:id, :seq, :a, :b)";
    let put = store.prepare(cql, &options).await.unwrap();
    let key = unique("alone");
    let ahead = now_us() + 30 * 86_400_000_000;
    store.write(&put, &row(&key), ahead).await.unwrap();
    let sent = wire.with(&key);
    assert!(!sent.is_empty());
    sent.iter().for_each(|(_, frame)| assert_eq!(bound(frame), (4, true)));
    let at = super::lookup(
        &store,
        "SELECT writetime(b) AS at FROM items WHERE id = :id AND seq = :seq",
    )
    .await;
    let found = store.lookup(&at, &row(&key)[..2]).await.unwrap().unwrap();
    assert_eq!(*found, [Value::Long(ahead)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cql_requests_are_compressed_where_that_is_declared() {
    let Some(options) = scylla_options() else { return };
    drop(scylla().await);
    for (compression, name) in [
        (None, ""),
        (Some(Compression::Lz4), "lz4"),
        (Some(Compression::Snappy), "snappy"),
    ] {
        let (wire, mut options, _tasks) = Wire::start(&options.nodes[0]).await;
        options.compression = compression;
        let store = AnyStore::Scylla(ScyllaStore::connect(&options).await.unwrap());
        let (put, get) = items(&store).await;
        let mut long = row(&unique("compressed"));
        long[2] = string(&"long and alike ".repeat(500));
        store.write(&put, &long, 1).await.unwrap();
        let found = store.lookup(&get, &long[..2]).await.unwrap().unwrap();
        assert_eq!(found[0], long[2], "it comes back as it was");
        let requests = wire.requests.lock().unwrap();
        let startups = requests.iter().filter(|(_, frame)| frame.opcode() == STARTUP);
        for (_, startup) in startups {
            let text = String::from_utf8_lossy(&startup.body);
            assert_eq!(text.contains("COMPRESSION"), compression.is_some());
            assert!(text.contains(name), "{text}");
        }
        let largest = requests.iter().map(|(_, frame)| frame);
        let largest = largest
            .filter(|frame| frame.opcode() == EXECUTE)
            .max_by_key(|f| f.body.len());
        assert_eq!(largest.unwrap().body.len() > 7000, compression.is_none());
        let any = requests.iter().any(|(_, frame)| frame.head[1] & COMPRESSED != 0);
        assert_eq!(any, compression.is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cql_another_node_is_asked_early_only_where_that_can_be_repeated() {
    let Some(options) = scylla_options() else { return };
    drop(scylla().await);
    let (wire, options, _tasks) = Wire::start(&options.nodes[0]).await;
    let connected = ScyllaStore::connect(&options).await.unwrap();
    let began = Instant::now();
    let both = || {
        let state = connected.session().get_cluster_state();
        state.get_nodes_info().len() == 2 && state.get_nodes_info().iter().all(|node| node.is_connected())
    };
    while !both() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "the second node is not connected"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let store = AnyStore::Scylla(connected);
    let (put, _) = items(&store).await;
    let cql = "SELECT a, b FROM items WHERE id = :id AND seq = :seq";
    for idempotent in [true, false] {
        let options = StatementOptions {
            idempotent,
            speculative_after: Some(Duration::from_millis(50)),
            // Within this time only the second node can answer.
            timeout: Some(Duration::from_secs(if idempotent { 60 } else { 2 })),
            ..StatementOptions::lookup()
        };
        let get = store.prepare(cql, &options).await.unwrap();
        let key = unique("early");
        store.write(&put, &row(&key), 1).await.unwrap();
        wire.requests.lock().unwrap().clear();
        wire.swallow.store(true, Ordering::Relaxed);
        let found = store.lookup(&get, &row(&key)[..2]).await;
        let mut nodes: Vec<usize> = wire.with(&key).iter().map(|(node, _)| *node).collect();
        nodes.sort_unstable();
        if idempotent {
            assert!(found.unwrap().is_some());
            assert_eq!(nodes, [0, 1], "each node once");
        } else {
            let error = found.unwrap_err();
            assert_eq!((error.class, error.label), (Class::Transient, "timeout"), "{error}");
            assert_eq!(nodes.len(), 1);
        }
    }
}

/// Linux shows which timer a connection runs.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cql_connections_have_tcp_keepalive() {
    let Some(options) = scylla_options() else { return };
    drop(scylla().await);
    let (wire, options, _tasks) = Wire::start(&options.nodes[0]).await;
    let _store = ScyllaStore::connect(&options).await.unwrap();
    // For each connection: addresses, state (01 is established), queues, and the timer (02 is keepalive).
    let timers = || -> Vec<String> {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours =
            rows.filter(|row| row.len() > 5 && row[2].ends_with(&format!(":{:04X}", wire.port)) && row[3] == "01");
        ours.map(|row| row[5][..2].to_owned()).collect()
    };
    let began = Instant::now();
    loop {
        let timers = timers();
        // While data is in transit, another timer runs.
        if !timers.is_empty() && timers.iter().all(|timer| timer == "02") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{timers:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The database warns at each execution of a statement that reads a whole table; the log has the warning once.
#[tokio::test]
async fn cql_warnings_of_the_server_are_logged_once_for_each_statement() {
    let Some(fixture) = scylla().await else { return };
    let (log, _logging) = Log::start();
    let options = StatementOptions {
        scan: true,
        ..StatementOptions::lookup()
    };
    let count = fixture
        .store
        .prepare("SELECT count(*) AS n FROM items", &options)
        .await
        .unwrap();
    for _ in 0..3 {
        fixture.store.lookup(&count, &[]).await.unwrap();
    }
    let ours = log.lines("warns about a statement");
    assert_eq!(ours.len(), 1, "{ours:?}");
    assert!(
        ours[0].contains("SELECT count(*)") && ours[0].contains("partition key"),
        "{ours:?}"
    );
}

/// The captured log.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Captures what this thread logs while the guard lives.
    pub fn start() -> (Log, tracing::subscriber::DefaultGuard) {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines that contain this text.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = log.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
