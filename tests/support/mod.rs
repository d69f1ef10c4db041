//! What the end-to-end tests share: the real services, the real binary, and waits with a deadline.
//!
//! Why: each test runs `messina` as an operator would, as a process with a configuration file, and judges it by what Kafka and the database hold
//! afterwards. Invariants: names (topics, groups, keyspaces) are unique to one test run; every process that is started ends with its owner; every wait
//! names what it waits for, and a failed one shows the process's last log lines.

pub mod certificates;
pub mod database;
pub mod disk;
pub mod figures;
pub mod finished;
pub mod judge;
pub mod kafka;
pub mod numbers;
pub mod process;
pub mod proxy;
pub mod python;
pub mod random;
pub mod registry;
pub mod services;
pub mod three;
pub mod tls_proxy;
pub mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use disk::Disk;
use kafka::Kafka;
use process::Messina;
use registry::Registry;
use services::Services;

/// Nothing in these tests takes this long unless it hangs.
pub const LONG: Duration = Duration::from_secs(300);
/// The shortest and longest pause between two checks of a condition. A slow check, such as a request to Kafka, is followed by a longer pause, because
/// the tests share the cores with what they check.
const LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_millis(200);

/// How many tests run side by side. They share two cores, and most of them mostly wait. A test that breaks services, or measures time, memory or cost
/// under load, runs alone, because the load of another test would disturb it.
const SIDE_BY_SIDE: u32 = 2;
static TAKEN: Mutex<u32> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// The places that a test occupies among those. Dropped before the next test may begin.
struct Turn(u32);

impl Turn {
    fn wait(alone: bool) -> Turn {
        let places = if alone { SIDE_BY_SIDE } else { 1 };
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = GIVEN_BACK.wait_while(taken, |taken| *taken + places > SIDE_BY_SIDE);
        *free.unwrap_or_else(PoisonError::into_inner) += places;
        Turn(places)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        GIVEN_BACK.notify_all();
    }
}

/// Distinguishes tests that begin at the same moment.
static BENCHES: AtomicU16 = AtomicU16::new(0);

/// The real services, and a folder and name prefix of the test's own.
pub struct Bench {
    /// The broker.
    pub kafka: Kafka,
    /// The schema registry.
    pub registry: Registry,
    /// Contact points of the database, `host:port`.
    pub nodes: Vec<String>,
    /// A Python that has `tests/tools/requirements.txt`.
    pub python: PathBuf,
    /// Prefix of the names of topics, subjects and groups; ends with a hyphen.
    pub prefix: String,
    /// A keyspace of the test's own.
    pub keyspace: String,
    /// Datacenters with a replica of the keyspace.
    pub datacenters: &'static [&'static str],
    /// For configuration files.
    pub folder: PathBuf,
    /// Must be dropped before `_turn`, which lets the next test begin.
    disk: Option<Disk>,
    own: Option<Services>,
    runtime: tokio::runtime::Runtime,
    _turn: Turn,
}

impl Bench {
    /// Finds the services by the environment. If they are absent, prints why and returns None, or fails if `CI=true`.
    pub fn find(test: &str) -> Option<Bench> {
        Bench::find_on(test, false, &[], &[], None)
    }

    /// The same, while no other test runs.
    pub fn find_alone(test: &str) -> Option<Bench> {
        Bench::find_on(test, true, &[], &[], None)
    }

    /// The same, with services of the test's own in place of the shared ones, so that it may break them. Runs alone.
    pub fn find_with(test: &str, own: &[&str], settings: &[(&str, &str)]) -> Option<Bench> {
        Bench::find_on(test, true, own, settings, None)
    }

    /// The same for a test that breaks none of its own services. It may run beside other such tests and beside tests of the shared services. All tests
    /// that use this function must name the same services, because a test stops those that it does not name.
    pub fn find_beside(test: &str, own: &'static [&'static str], settings: &[(&str, &str)]) -> Option<Bench> {
        static NAMED: OnceLock<&[&str]> = OnceLock::new();
        assert_eq!(
            *NAMED.get_or_init(|| own),
            own,
            "services of tests that go side by side"
        );
        Bench::find_on(test, false, own, settings, None)
    }

    /// The same, alone, with one of the services on a small disk: the service, its instance, and the size in MiB.
    pub fn find_with_disk(test: &str, disk: (&'static str, &str, u32), settings: &[(&str, &str)]) -> Option<Bench> {
        Bench::find_on(test, true, &[disk.0], settings, Some(disk))
    }

    fn find_on(
        test: &str,
        alone: bool,
        own: &[&str],
        settings: &[(&str, &str)],
        disk: Option<(&'static str, &str, u32)>,
    ) -> Option<Bench> {
        let wanted = ["KAFKA_BROKERS", "REGISTRY_URL", "SCYLLA_NODES", "MESSINA_TEST_PYTHON"];
        let missing: Vec<&str> = wanted.into_iter().filter(|name| std::env::var(name).is_err()).collect();
        if !missing.is_empty() {
            skip(test, &format!("{} not set", missing.join(", ")));
            return None;
        }
        let turn = Turn::wait(alone);
        let [mut brokers, mut registry, mut nodes, python] = wanted.map(|name| std::env::var(name).unwrap());
        let disk = match disk {
            Some((service, instance, mebibytes)) => Some(Disk::mount(test, service, instance, mebibytes)?),
            None => {
                Disk::clear_left(own);
                None
            }
        };
        let own = (!own.is_empty()).then(|| Services::up(own, settings));
        if let Some(own) = &own {
            let replace = |with: &[&str], value: &mut String| {
                if let Some(own) = with.iter().find_map(|name| own.variable(name)) {
                    own.clone_into(value);
                }
            };
            replace(&["KAFKA_BROKERS", "KAFKA_CLUSTER_BROKERS"], &mut brokers);
            if let Some(port) = own
                .variable("KAFKA_SECURE_BROKERS")
                .and_then(|b| b.rsplit(':').next()?.parse::<u16>().ok())
            {
                // The listener for administrators.
                brokers = format!("127.0.0.1:{}", port + 100);
            }
            replace(&["REGISTRY_URL"], &mut registry);
            replace(&["SCYLLA_NODES", "SCYLLA_2DC_NODES", "SCYLLA_TLS_NODES"], &mut nodes);
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let (process, number) = (std::process::id() & 0xffff, BENCHES.fetch_add(1, Ordering::Relaxed));
        let unique = format!("{:x}{process:04x}{number:04x}", since.as_millis());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{unique}"));
        std::fs::create_dir_all(&folder).unwrap();
        Some(Bench {
            kafka: Kafka::new(&brokers),
            registry: Registry::new(&registry),
            nodes: nodes.split(',').map(str::to_owned).collect(),
            python: python.into(),
            prefix: format!("t{unique}-"),
            keyspace: format!("t{unique}"),
            datacenters: if own
                .as_ref()
                .is_some_and(|own| own.variable("SCYLLA_2DC_NODES").is_some())
            {
                &["dc1", "dc2"]
            } else {
                &["dc1"]
            },
            folder,
            disk,
            own,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
            _turn: turn,
        })
    }

    /// The services of the test's own.
    pub fn own(&self) -> &Services {
        self.own.as_ref().expect("the test named services of its own")
    }

    /// The small disk of one of them.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("the test asked for a disk")
    }

    /// Waits for a future.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A topic, group or subject of this test.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Writes a file into the test's folder.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Removes what the test created in the services. A test that failed leaves it for inspection.
    pub fn clean(self) {
        self.kafka.delete_all(&self, &self.prefix);
        self.drop_keyspaces();
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// Reports that a test did not run: prints it, and appends it to the file that `./test` counts.
fn skip(test: &str, why: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test}: {why}, and CI=true allows no skipping"
    );
    println!("skipped: {why}");
    if let Ok(path) = std::env::var("MESSINA_TEST_SKIPPED") {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        writeln!(file, "{test}: {why}").unwrap();
    }
}

/// Whether the long forms of tests are wanted.
pub fn is_long() -> bool {
    std::env::var("MESSINA_TEST_LONG").is_ok_and(|value| !value.is_empty())
}

/// Polls until `probe` has an answer. Fails with the last log lines if the deadline passes or a process has ended.
pub fn until<T>(what: &str, limit: Duration, processes: &[&Messina], probe: impl FnMut() -> Option<T>) -> T {
    until_told(&|| what.to_owned(), limit, processes, probe)
}

/// The same, with a description that is made at the time of failure and so can include the last observation.
pub fn until_told<T>(
    what: &dyn Fn() -> String,
    limit: Duration,
    processes: &[&Messina],
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        let ended = processes.iter().find_map(|p| Some((p, p.ended()?)));
        let asked = Instant::now();
        if let Some(found) = probe() {
            return found;
        }
        let took = asked.elapsed();
        let logs = || processes.iter().map(|p| p.tail()).collect::<Vec<_>>().join("\n");
        if let Some((process, status)) = ended {
            panic!(
                "{} ended ({status}) while the test waited for {}\n{}",
                process.name,
                what(),
                logs()
            );
        }
        assert!(
            began.elapsed() < limit,
            "waited {} s in vain for {}\n{}",
            limit.as_secs(),
            what(),
            logs()
        );
        std::thread::sleep((took * 10).clamp(LOOK, LONGEST_LOOK));
    }
}
