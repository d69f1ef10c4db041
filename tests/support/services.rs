//! Services of a test's own, which it may kill, freeze and start again: `tests/services` with another state folder and other ports.
//!
//! Why: a test that kills the shared broker would break other tests. Jars and certificates are those of the usual state folder, so
//! nothing is downloaded twice. Invariants: only the services that the current test names run. Services that a test leaves up are
//! reused by the next test that names them, and stopped by the next test that does not, and by `./test` at the end.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Other ports than the usual ones of `tests/services`, and below the range from which outgoing connections get theirs.
const SETTINGS: [(&str, &str); 17] = [
    ("KAFKA_PORT", "17092"),
    ("KAFKA_CLUSTER_PORT", "17192"),
    ("KAFKA_SECURE_PORT", "17292"),
    ("KAFKA_HEAP", "384m"),
    ("KAFKA_JVM_OPTIONS", "-XX:TieredStopAtLevel=1"),
    ("CASSANDRA_PORT", "17042"),
    ("CASSANDRA_TLS_PORT", "17142"),
    ("CASSANDRA_2DC_PORT", "17242"),
    ("CASSANDRA_HEAP", "512m"),
    ("CASSANDRA_COMMITLOG_SYNC", "batch"),
    ("CASSANDRA_JVM_OPTIONS", "-XX:TieredStopAtLevel=1"),
    ("REGISTRY_PORT", "17081"),
    ("REGISTRY_TLS_PORT", "17083"),
    ("REGISTRY_HEAP", "384m"),
    ("MONGO_PORT", "17317"),
    ("MONGO_AUTH", "messina:test-password"),
    ("MESSINA_SERVICES_WAIT", "300"),
];

/// Services that the test may break.
pub struct Services {
    state: PathBuf,
    environment: HashMap<String, String>,
}

impl Services {
    /// Starts the named services, and stops the others of this folder. `extra` are further settings, applied only on a fresh start.
    pub fn up(names: &[&str], extra: &[(&str, &str)]) -> Services {
        let mut services = Services::idle();
        for line in services.call(&["status"], extra).lines().skip(1) {
            let mut words = line.split_whitespace();
            let (instance, state) = (words.next().unwrap(), words.next().unwrap());
            let wanted = names.iter().any(|name| is_instance(name, instance));
            if matches!(state, "up" | "frozen") && !wanted {
                services.call(&["down", instance], extra);
            }
        }
        services.call(&[&["up"], names].concat(), extra);
        for line in services.call(&["env"], extra).lines() {
            let (name, value) = line.strip_prefix("export ").unwrap().split_once('=').unwrap();
            services
                .environment
                .insert(name.to_owned(), value.trim_matches('\'').to_owned());
        }
        services
    }

    /// The services as they are, without starting any.
    pub fn idle() -> Services {
        Services {
            state: folder(),
            environment: HashMap::new(),
        }
    }

    /// A variable that `services env` prints, for example `KAFKA_CLUSTER_BROKERS`.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// The same for a service that must be running.
    pub fn get(&self, name: &str) -> String {
        self.variable(name).unwrap_or_else(|| panic!("no {name}")).to_owned()
    }

    /// The folder of certificates.
    pub fn tls(&self) -> PathBuf {
        self.state.join("tls")
    }

    /// Starts what was killed or thaws what was frozen, and waits until it answers.
    pub fn start(&self, names: &[&str]) {
        self.call(&[&["up"], names].concat(), &[]);
    }

    /// Whether an instance runs.
    pub fn is_up(&self, instance: &str) -> bool {
        let status = self.call(&["status"], &[]);
        let line = status
            .lines()
            .find(|line| line.split_whitespace().next() == Some(instance));
        line.is_some_and(|line| line.split_whitespace().nth(1) == Some("up"))
    }

    /// SIGKILL.
    pub fn kill(&self, names: &[&str]) {
        self.call(&[&["kill9"], names].concat(), &[]);
    }

    /// SIGSTOP.
    pub fn freeze(&self, names: &[&str]) {
        self.call(&[&["freeze"], names].concat(), &[]);
    }

    /// SIGCONT.
    pub fn thaw(&self, names: &[&str]) {
        self.call(&[&["thaw"], names].concat(), &[]);
    }

    /// Runs one verb of `tests/services`.
    pub fn call(&self, arguments: &[&str], extra: &[(&str, &str)]) -> String {
        let script = format!("{}/tests/services/services", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new("bash")
            .arg(script)
            .args(arguments)
            .env("MESSINA_SERVICES_STATE", &self.state)
            .envs(SETTINGS)
            .envs(extra.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let (out, err) = [&output.stdout, &output.stderr]
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .into();
        assert!(output.status.success(), "services {}:\n{out}{err}", arguments.join(" "));
        if !matches!(arguments[0], "status" | "env") {
            print!("{out}");
        }
        out
    }
}

/// Whether the instance belongs to the service: `kafka-cluster-1` belongs to `kafka-cluster`, not to `kafka`.
pub fn is_instance(service: &str, instance: &str) -> bool {
    instance
        .strip_prefix(service)
        .is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(|n| n.parse::<u8>().is_ok()))
}

/// The state folder, including what the usual one has downloaded already.
pub fn folder() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(make_folder).clone()
}

fn make_folder() -> PathBuf {
    let usual = std::env::var_os("MESSINA_SERVICES_STATE").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
                || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
                PathBuf::from,
            );
            cache.join("messina-services")
        },
        PathBuf::from,
    );
    let folder = usual.join("faults");
    std::fs::create_dir_all(&folder).unwrap();
    let lib = folder.join("lib");
    if !lib.exists() {
        std::fs::create_dir_all(usual.join("lib")).unwrap();
        std::os::unix::fs::symlink(usual.join("lib"), lib).unwrap();
    }
    folder
}
