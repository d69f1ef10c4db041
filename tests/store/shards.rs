//! Shards as in ScyllaDB, against a stand-in: a proxy in front of the real server that announces four shards and records which of them each request came to.
//!
//! Its SUPPORTED frame says what ScyllaDB's says, it has a port where the client's port chooses the shard, and it knows ScyllaDB's errors for a rate limit and
//! for a query with EACH_QUORUM. It can also hide the schema from the user. Which shard owns a row is computed here, from the token that the server itself
//! returns. See <https://github.com/scylladb/scylladb/blob/master/docs/dev/protocol-extensions.md>.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use messina::avro::value::Value;
use messina::retry::Class;
use messina::store::group::GroupOptions;
use messina::store::scylla::{ScyllaOptions, ScyllaStore};
use messina::store::{AnyStore, Consistency, StatementOptions, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{KEYSPACE, items, lookup, scylla, scylla_options, string, unique};

const SHARDS: u16 = 4;
/// How many high bits of a token are ignored; ScyllaDB's default.
const IGNORED_BITS: u32 = 12;
/// ScyllaDB announces this error code in its SUPPORTED frame.
const RATE_LIMITED: i32 = 0x4321;
const READ_TIMEOUT: i32 = 0x1200;

/// CQL's error codes for missing rights and for invalid queries.
const UNAUTHORIZED: i32 = 0x2100;
const INVALID: i32 = 0x2200;
/// CQL's number of this consistency level.
const EACH_QUORUM: [u8; 2] = [0, 7];

const ERROR: u8 = 0x00;
const SUPPORTED: u8 = 0x06;
const QUERY: u8 = 0x07;
pub const PREPARE: u8 = 0x09;
pub const EXECUTE: u8 = 0x0a;
const BATCH: u8 = 0x0d;

/// The stand-in.
struct Shards {
    /// Requests that execute something, as (shard, body).
    requests: Mutex<Vec<(u16, Vec<u8>)>>,
    connected: Mutex<BTreeSet<u16>>,
    next: AtomicU16,
    limited: AtomicBool,
    /// Whether the tables that describe keyspaces are hidden from the user.
    hidden: AtomicBool,
    /// How many of the next requests meet a replica that answers without data; the driver retries these by itself.
    timed_out: AtomicU16,
    /// Number of queries with `USING TIMEOUT`.
    timeouts: AtomicU16,
    server: String,
    shard_aware_port: u16,
}

/// A request or an answer of CQL 4.
#[derive(Clone)]
pub struct Frame {
    pub head: [u8; 9],
    pub body: Vec<u8>,
}

impl Frame {
    pub async fn read(from: &mut (impl AsyncReadExt + Unpin)) -> Option<Frame> {
        let mut head = [0; 9];
        from.read_exact(&mut head).await.ok()?;
        let mut body = vec![0; u32::from_be_bytes(head[5..].try_into().unwrap()) as usize];
        from.read_exact(&mut body).await.ok()?;
        Some(Frame { head, body })
    }

    /// An error as the answer to this request.
    fn error(request: &Frame, body: Vec<u8>) -> Frame {
        let mut head = request.head;
        (head[0], head[1], head[4]) = (0x84, 0, ERROR);
        Frame { head, body }
    }

    pub fn opcode(&self) -> u8 {
        self.head[4]
    }

    pub async fn write(mut self, to: &mut (impl AsyncWriteExt + Unpin)) -> Option<()> {
        self.head[5..].copy_from_slice(&(self.body.len() as u32).to_be_bytes());
        to.write_all(&self.head).await.ok()?;
        to.write_all(&self.body).await.ok()
    }
}

pub fn put_text(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u16).to_be_bytes());
    to.extend(text.as_bytes());
}

/// The consistency level of a QUERY, which follows its text.
fn level(body: &[u8]) -> [u8; 2] {
    let length = u32::from_be_bytes(body[..4].try_into().unwrap()) as usize;
    [body[4 + length], body[5 + length]]
}

impl Shards {
    /// Starts it. Returns the address to connect to, and the tasks, which end when they are dropped.
    async fn start(server: String) -> (Arc<Shards>, String, JoinSet<()>) {
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let aware = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = plain.local_addr().unwrap().to_string();
        let shards = Arc::new(Shards {
            requests: Mutex::default(),
            connected: Mutex::default(),
            next: AtomicU16::new(0),
            limited: AtomicBool::new(false),
            hidden: AtomicBool::new(false),
            timed_out: AtomicU16::new(0),
            timeouts: AtomicU16::new(0),
            server,
            shard_aware_port: aware.local_addr().unwrap().port(),
        });
        let mut tasks = JoinSet::new();
        for (listener, by_port) in [(plain, false), (aware, true)] {
            let shards = shards.clone();
            tasks.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((client, from)) = listener.accept().await {
                    let shard = match by_port {
                        true => from.port() % SHARDS,
                        false => shards.next.fetch_add(1, Ordering::Relaxed) % SHARDS,
                    };
                    connections.spawn(shards.clone().serve(client, shard));
                }
            });
        }
        (shards, address, tasks)
    }

    async fn serve(self: Arc<Self>, client: TcpStream, shard: u16) {
        let server = TcpStream::connect(&self.server).await.unwrap();
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        // The proxy's own answers go through the same writer as the server's.
        let (own, mut answers) = tokio::sync::mpsc::unbounded_channel::<Frame>();
        let to_writer = own.clone();
        let requests = async {
            while let Some(mut frame) = Frame::read(&mut from_client).await {
                if matches!(frame.opcode(), QUERY | PREPARE) {
                    self.without_timeout(&mut frame.body);
                    let keyspaces = b"system_schema.keyspaces";
                    if self.hidden.load(Ordering::Relaxed)
                        && frame.body.windows(keyspaces.len()).any(|part| part == keyspaces)
                    {
                        let mut body = UNAUTHORIZED.to_be_bytes().to_vec();
                        put_text(&mut body, "not for you");
                        let _ = own.send(Frame::error(&frame, body));
                        continue;
                    }
                }
                if frame.opcode() == QUERY && level(&frame.body) == EACH_QUORUM {
                    let mut body = INVALID.to_be_bytes().to_vec();
                    put_text(&mut body, "EACH_QUORUM ConsistencyLevel is only supported for writes");
                    let _ = own.send(Frame::error(&frame, body));
                    continue;
                }
                if matches!(frame.opcode(), EXECUTE | BATCH) {
                    let error = if self.limited.load(Ordering::Relaxed) {
                        let mut body = RATE_LIMITED.to_be_bytes().to_vec();
                        put_text(&mut body, "too many of this partition");
                        // The operation was a write, and the coordinator rejected it.
                        body.extend([1, 1]);
                        Some(body)
                    } else if self.timed_out.load(Ordering::Relaxed) > 0 {
                        self.timed_out.fetch_sub(1, Ordering::Relaxed);
                        let mut body = READ_TIMEOUT.to_be_bytes().to_vec();
                        put_text(&mut body, "a digest came, and no data");
                        // At ONE, one of one replica answered, without data.
                        body.extend([0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0]);
                        Some(body)
                    } else {
                        None
                    };
                    if let Some(body) = error {
                        let _ = own.send(Frame::error(&frame, body));
                        continue;
                    }
                    self.requests.lock().unwrap().push((shard, frame.body.clone()));
                }
                if frame.write(&mut to_server).await.is_none() {
                    break;
                }
            }
        };
        let replies = async {
            while let Some(mut frame) = Frame::read(&mut from_server).await {
                if frame.opcode() == SUPPORTED {
                    self.announce(shard, &mut frame.body);
                }
                let _ = to_writer.send(frame);
            }
        };
        let writer = async {
            while let Some(frame) = answers.recv().await {
                if frame.write(&mut to_client).await.is_none() {
                    break;
                }
            }
        };
        tokio::select! {
            () = requests => {}
            () = replies => {}
            () = writer => {}
        }
    }

    /// Removes ScyllaDB's `USING TIMEOUT`, with which the driver limits its own queries, because the server here does not know it.
    fn without_timeout(&self, body: &mut Vec<u8>) {
        let length = u32::from_be_bytes(body[..4].try_into().unwrap()) as usize;
        let text = std::str::from_utf8(&body[4..4 + length]).unwrap();
        let Some((before, clause)) = text.split_once(" USING TIMEOUT ") else {
            return;
        };
        let after = clause.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        let text = format!("{before}{after}");
        self.timeouts.fetch_add(1, Ordering::Relaxed);
        let rest = body.split_off(4 + length);
        body.clear();
        body.extend((text.len() as u32).to_be_bytes());
        body.extend(text.as_bytes());
        body.extend(rest);
    }

    /// Adds what ScyllaDB announces to a SUPPORTED frame.
    fn announce(&self, shard: u16, body: &mut Vec<u8>) {
        self.connected.lock().unwrap().insert(shard);
        let more = [
            ("SCYLLA_SHARD", shard.to_string()),
            ("SCYLLA_NR_SHARDS", SHARDS.to_string()),
            (
                "SCYLLA_PARTITIONER",
                "org.apache.cassandra.dht.Murmur3Partitioner".to_owned(),
            ),
            ("SCYLLA_SHARDING_ALGORITHM", "biased-token-round-robin".to_owned()),
            ("SCYLLA_SHARDING_IGNORE_MSB", IGNORED_BITS.to_string()),
            ("SCYLLA_SHARD_AWARE_PORT", self.shard_aware_port.to_string()),
            ("SCYLLA_RATE_LIMIT_ERROR", format!("ERROR_CODE={RATE_LIMITED}")),
        ];
        let count = u16::from_be_bytes([body[0], body[1]]) + more.len() as u16;
        body[..2].copy_from_slice(&count.to_be_bytes());
        for (name, value) in more {
            put_text(body, name);
            body.extend(1u16.to_be_bytes());
            put_text(body, &value);
        }
    }

    /// The shards that got requests containing these bytes; removes those requests.
    fn taken(&self, key: &str) -> Vec<u16> {
        let holds = |body: &[u8]| body.windows(key.len()).any(|part| part == key.as_bytes());
        let mut requests = self.requests.lock().unwrap();
        let (with, without) = requests.drain(..).partition(|(_, body)| holds(body));
        *requests = without;
        let with: Vec<(u16, Vec<u8>)> = with;
        with.into_iter().map(|(shard, _)| shard).collect()
    }
}

/// ScyllaDB's "biased-token-round-robin": the token without its sign and its high bits, scaled to the number of shards.
fn shard_of(token: i64) -> u16 {
    let biased = (token as u64 ^ (1 << 63)) << IGNORED_BITS;
    ((u128::from(biased) * u128::from(SHARDS)) >> 64) as u16
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_to_the_shard_that_owns_their_partition() {
    let Some(options) = scylla_options() else { return };
    // Connecting creates the tables.
    let direct = scylla().await.unwrap();
    let (shards, address, _tasks) = Shards::start(options.nodes[0].clone()).await;
    let options = ScyllaOptions {
        nodes: vec![address],
        keyspace: Some(KEYSPACE.to_owned()),
        ..options
    };
    let store = AnyStore::Scylla(ScyllaStore::connect(&options).await.unwrap());
    let (put, get) = items(&store).await;
    let group = StatementOptions {
        group: Some(GroupOptions {
            linger: Duration::from_secs(600),
            max_rows: 5,
            max_bytes: 16 << 10,
            across_partitions: false,
        }),
        ..StatementOptions::write()
    };
    let cql = "INSERT INTO items (id, seq, a, b) VALUES (:id, :seq, :a, :b)";
    let grouped = store.prepare(cql, &group).await.unwrap();
    let token = lookup(&direct.store, "SELECT token(id) AS t FROM items WHERE id = :id").await;

    let began = Instant::now();
    let mut owners = BTreeSet::new();
    let mut right = 0;
    // The first requests may be sent before there is a connection to each shard.
    while right < 40 {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "connected to {:?}",
            shards.connected.lock().unwrap()
        );
        let key = unique("shard");
        let id = string(&key);
        store
            .write(&put, &[id.clone(), Value::Int(1), string("a"), Value::Long(1)], 1)
            .await
            .unwrap();
        let found = store.lookup(&get, &[id.clone(), Value::Int(1)]).await.unwrap();
        assert!(found.is_some());
        let batch = (2..7).map(|seq| {
            let values = [id.clone(), Value::Int(seq), string("a"), Value::Long(1)];
            let (store, grouped) = (&store, &grouped);
            async move { store.write(grouped, &values, 1).await.unwrap() }
        });
        futures_util::future::join_all(batch).await;
        let row = direct.store.lookup(&token, &[id]).await.unwrap().unwrap();
        let Value::Long(token) = row[0] else { panic!("{row:?}") };
        let owner = shard_of(token);
        let taken = shards.taken(&key);
        assert_eq!(taken.len(), 3, "a write, a look-up, and one batch of five rows");
        if taken == [owner; 3] {
            owners.insert(owner);
            right += 1;
        } else {
            // Earlier hits may have been chance.
            right = 0;
            owners.clear();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(owners.len(), usize::from(SHARDS), "keys of all shards were among them");

    assert!(
        shards.timeouts.load(Ordering::Relaxed) > 0,
        "the driver takes it for ScyllaDB"
    );

    // ScyllaDB's own error is temporary, so the record waits.
    shards.limited.store(true, Ordering::Relaxed);
    let error = store
        .write(
            &put,
            &[string(&unique("limited")), Value::Int(1), string("a"), Value::Long(1)],
            1,
        )
        .await
        .unwrap_err();
    assert_eq!((error.class, error.label), (Class::Transient, "rate_limit"), "{error}");
    shards.limited.store(false, Ordering::Relaxed);
    let row = [string(&unique("limited")), Value::Int(1), string("a"), Value::Long(1)];
    store.write(&put, &row, 1).await.unwrap();

    let AnyStore::Scylla(scylla) = &store else {
        unreachable!()
    };
    let before = scylla.driver();
    assert_eq!(
        (before.nodes, before.connected, before.retries),
        (1, 1, 0),
        "{before:?}"
    );
    shards.timed_out.store(1, Ordering::Relaxed);
    let found = store.lookup(&get, &row[..2]).await.unwrap();
    assert!(found.is_some(), "the driver asks again by itself");
    assert_eq!(scylla.driver().retries, 1);
    let once = StatementOptions {
        idempotent: false,
        ..StatementOptions::write()
    };
    let cql = "INSERT INTO items (id, seq, a, b) VALUES (:id, :seq, :a, :b)";
    let put = store.prepare(cql, &once).await.unwrap();
    shards.timed_out.store(1, Ordering::Relaxed);
    let error = store.write(&put, &row, 2).await.unwrap_err();
    assert_eq!((error.label, error.not_applied), ("read_timeout", false), "{error}");
    assert_eq!(scylla.driver().retries, 1, "it may have been applied");
}

/// ScyllaDB reports this only when a statement runs, so for each record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_with_a_level_that_nothing_is_read_with_is_refused_at_the_start() {
    let Some(options) = scylla_options() else { return };
    let direct = scylla().await.unwrap();
    let (_shards, address, _tasks) = Shards::start(options.nodes[0].clone()).await;
    let options = ScyllaOptions {
        nodes: vec![address],
        keyspace: Some(KEYSPACE.to_owned()),
        ..options
    };
    let store = AnyStore::Scylla(ScyllaStore::connect(&options).await.unwrap());
    let each_quorum = |of: StatementOptions| StatementOptions {
        consistency: Some(Consistency::EachQuorum),
        ..of
    };
    let (read, write) = (
        each_quorum(StatementOptions::lookup()),
        each_quorum(StatementOptions::write()),
    );
    let get = "SELECT a FROM items WHERE id = :id AND seq = :seq";
    let error = store.prepare(get, &read).await.unwrap_err();
    assert_eq!((error.class, error.label), (Class::Permanent, "invalid"), "{error}");
    assert!(error.message.contains("another consistency"), "{error}");
    direct.store.prepare(get, &read).await.unwrap();
    let put = "INSERT INTO items (id, seq, a) VALUES (:id, :seq, :a)";
    store.prepare(put, &write).await.unwrap();
}

/// The driver opens a session all the same, but nothing would be routed or checked with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_tell_its_tables_is_waited_for() {
    let Some(options) = scylla_options() else { return };
    let (shards, address, _tasks) = Shards::start(options.nodes[0].clone()).await;
    shards.hidden.store(true, Ordering::Relaxed);
    let known = scylla_datacenter(&options).await;
    for datacenter in [None, Some(known)] {
        let options = ScyllaOptions {
            nodes: vec![address.clone()],
            datacenter,
            ..options.clone()
        };
        let error = ScyllaStore::connect(&options).await.unwrap_err();
        assert_eq!((error.class, error.label), (Class::Transient, "metadata"), "{error}");
        assert!(error.message.contains("system_schema"), "it says what to do: {error}");
        shards.hidden.store(false, Ordering::Relaxed);
        ScyllaStore::connect(&options).await.unwrap();
        shards.hidden.store(true, Ordering::Relaxed);
    }
}

async fn scylla_datacenter(options: &ScyllaOptions) -> String {
    let store = ScyllaStore::connect(options).await.unwrap();
    let state = store.session().get_cluster_state();
    state.get_nodes_info()[0].datacenter.clone().unwrap()
}
