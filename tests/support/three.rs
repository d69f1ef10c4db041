//! The three pipelines of `tests/e2e/three.toml` under names of the test's own, and the Python tools for them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::process::Messina;
use super::{Bench, LONG, until};

/// The pipelines, by the names of their topics.
pub const PIPELINES: [&str; 3] = ["navigation", "orders", "reactions"];
/// Overlay for a test that kills or freezes members: a dead member leaves its group after six seconds, the least that brokers allow. Other tests keep
/// the default, so that a member starved by a busy machine for some seconds is not taken for dead.
pub const SHORT_SESSION: &str =
    "[kafka.consumer_properties]\n\"session.timeout.ms\" = 6000\n\"heartbeat.interval.ms\" = 1000\n";

/// The stream of one test.
pub struct Three<'b> {
    bench: &'b Bench,
    options: Vec<String>,
    config: PathBuf,
    local: PathBuf,
}

impl<'b> Three<'b> {
    /// `records` is the total of all pipelines; `bad` is the number of bad records of each kind in each topic.
    pub fn new(bench: &'b Bench, records: u64, bad: u32, pool: u32) -> Three<'b> {
        let mut options = vec![
            format!("--prefix={}", bench.prefix),
            format!("--keyspace={}", bench.keyspace),
        ];
        options.extend([
            format!("--records={records}"),
            format!("--bad={bad}"),
            format!("--pool={pool}"),
        ]);
        let config = bench.file("three.toml", &text(bench));
        let local = bench.file("local.toml", &local(bench, &bench.keyspace));
        Three {
            bench,
            options,
            config,
            local,
        }
    }

    /// The same with [`SHORT_SESSION`].
    pub fn with_short_session(self) -> Three<'b> {
        let local = local(self.bench, &self.bench.keyspace);
        self.bench.file("local.toml", &(local + SHORT_SESSION));
        self
    }

    /// The configuration files, in order.
    pub fn configs(&self) -> [&Path; 2] {
        [&self.config, &self.local]
    }

    /// Creates the keyspace and its tables, with the profiles of all users.
    pub fn load(&self, keyspace: &str) {
        let (ok, answer) = self.bench.tool("load", &[format!("--keyspace={keyspace}")]);
        assert!(ok, "{answer}");
    }

    /// Creates topics and registers schemas; writes the stream unless `extra` says otherwise. Returns the tool's answer.
    pub fn produce(&self, extra: &[&str]) -> Value {
        let (ok, answer) = self.bench.tool("produce", &self.with(extra));
        assert!(ok, "{answer}");
        answer
    }

    /// Compares output, tables and dead letters with what must be there. Anything missing, unknown or wrong is a failure.
    pub fn verify(&self, extra: &[&str]) -> Value {
        let (ok, answer) = self.bench.tool("verify", &self.with(extra));
        assert!(ok && answer["ok"] == true, "wrong: {}\n{answer:#}", answer["failed"]);
        answer
    }

    fn with(&self, extra: &[&str]) -> Vec<String> {
        self.options
            .iter()
            .cloned()
            .chain(extra.iter().map(|&e| e.to_owned()))
            .collect()
    }

    /// Number of records that the groups have committed, and number of records in the topics.
    pub fn progress(&self) -> (u64, u64) {
        let ask = |p: &str| {
            self.bench
                .kafka
                .progress(&self.bench.name(&format!("{p}-enrichment")), &self.bench.name(p))
        };
        PIPELINES
            .iter()
            .map(|p| ask(p))
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    }

    /// Waits until every record is committed.
    pub fn wait_for_end(&self, messina: &Messina) {
        let limit = if super::is_long() { LONG * 6 } else { LONG };
        until("every input record to be committed", limit, &[messina], || {
            let (done, there) = self.progress();
            (done == there).then_some(())
        });
    }

    /// A configuration that runs one of the pipelines again from the start, with a group and a keyspace of its own.
    pub fn replay_of(&self, pipeline: &str, keyspace: &str) -> [PathBuf; 2] {
        let mut config: toml::Table = text(self.bench).parse().unwrap();
        let pipelines = config["pipelines"].as_table_mut().unwrap();
        pipelines.retain(|name, _| name == pipeline);
        let source = pipelines[pipeline]["source"].as_table_mut().unwrap();
        source.insert("group".to_owned(), self.bench.name("replay").into());
        let files = [
            ("replay.toml", config.to_string()),
            ("replay-local.toml", local(self.bench, keyspace)),
        ];
        files.map(|(name, text)| self.bench.file(name, &text))
    }
}

/// `three.toml` with this test's names.
pub fn text(bench: &Bench) -> String {
    let path = format!("{}/tests/e2e/three.toml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path)
        .unwrap()
        .replace("\"e2e-", &format!("\"{}", bench.prefix))
}

/// The overlay for it: addresses and the keyspace.
pub fn local(bench: &Bench, keyspace: &str) -> String {
    format!(
        "[kafka]\nbrokers = \"{}\"\n\
         [registry]\nurl = \"{}\"\n[scylla]\nnodes = {:?}\nkeyspace = \"{keyspace}\"\n[http]\nlisten = \"127.0.0.1:0\"\n",
        bench.kafka.brokers, bench.registry.url, bench.nodes,
    )
}
