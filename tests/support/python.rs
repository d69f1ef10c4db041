//! The Python tools of `tests/tools`: generator, loader and verifier, which share no code with Messina.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Bench;

/// The longest that one tool may take, including a verification of a million records.
const LIMIT: Duration = Duration::from_secs(1800);

impl Bench {
    /// Runs `tests/tools/NAME.py`. Returns whether it succeeded, and its last line, which is JSON.
    pub fn tool(&self, name: &str, arguments: &[String]) -> (bool, Value) {
        let script = format!("{}/tests/tools/{name}.py", env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(&self.python)
            .arg(script)
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("KAFKA_BROKERS", &self.kafka.brokers)
            .env("REGISTRY_URL", &self.registry.url)
            .env("SCYLLA_NODES", self.nodes.join(","))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                panic!(
                    "{name}.py did not end within {} s:\n{}",
                    LIMIT.as_secs(),
                    stderr.join().unwrap()
                );
            }
            std::thread::sleep(super::LOOK);
        };
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        eprint!("{stderr}");
        let line = stdout.lines().last().unwrap_or_default();
        println!("{name}.py: {line}");
        let Ok(answer) = serde_json::from_str(line) else {
            panic!("{name}.py gave no result ({status}):\n{stdout}\n{stderr}");
        };
        (status.success(), answer)
    }
}

/// Reads a stream to its end in a thread of its own.
pub fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    })
}
