//! `messina demo` end to end: its own verifier confirms what it publishes, skips and gives up; signals end it; and nothing is left behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

const RECORDS: u64 = 8000;
/// How long to wait on a loaded machine; normally everything comes within seconds.
const LONG: Duration = Duration::from_secs(60);

/// Two demos that start at the same time may both find the status page's usual port free.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A demo that runs for minutes, with its own folder for temporary files.
struct Demo {
    process: Child,
    folder: PathBuf,
}

impl Demo {
    /// Starts it and waits until its directory exists.
    fn start(name: &str) -> Demo {
        Demo::start_with(name, libc::SIG_DFL)
    }

    /// The same, with this action for SIGHUP, whatever these tests themselves inherited.
    fn start_with(name: &str, hangup: libc::sighandler_t) -> Demo {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("demo-{name}"));
        // An earlier run may have left the folder.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_messina"));
        // SAFETY: between fork and exec the child does nothing but this call, which is allowed there.
        unsafe {
            command.pre_exec(move || {
                libc::signal(libc::SIGHUP, hangup);
                Ok(())
            });
        }
        let process = command
            .args(["demo", "--records", "20000000"])
            .env_remove("RUST_LOG")
            .env("TMPDIR", &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let demo = Demo { process, folder };
        let deadline = Instant::now() + LONG;
        while demo.files().is_empty() {
            assert!(Instant::now() < deadline, "it makes no directory");
            std::thread::sleep(Duration::from_millis(1));
        }
        demo
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Waits until records are being processed.
    fn is_under_way(&mut self) {
        let lines = BufReader::new(self.process.stderr.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(lines.any(|line| line.starts_with("navigation:")), "it ends");
    }

    fn send(&self, signal: i32) {
        let id = self.process.id().cast_signed();
        // SAFETY: it is our own child, which nobody has waited for.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    }

    /// Its exit code, once it has ended and left nothing behind; None if a signal has killed it.
    fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + LONG;
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        let left = self.files();
        assert!(left.is_empty(), "{status}: {left:?}");
        status.code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_signal_before_the_first_record_leaves_nothing_behind() {
    let _alone = alone();
    for (name, signal) in [
        ("interrupted", libc::SIGINT),
        ("terminated", libc::SIGTERM),
        ("hung-up", libc::SIGHUP),
    ] {
        let mut demo = Demo::start(name);
        demo.send(signal);
        assert_eq!(demo.end(), Some(130), "{name}");
    }
}

#[test]
fn a_hang_up_that_nohup_has_ignored_ends_nothing() {
    let _alone = alone();
    let mut demo = Demo::start_with("nohup", libc::SIG_IGN);
    demo.send(libc::SIGHUP);
    demo.is_under_way();
    demo.send(libc::SIGTERM);
    assert_eq!(demo.end(), Some(0));
}

#[test]
fn a_directory_that_cannot_be_made_is_named_with_what_says_where() {
    let case = concat!(env!("CARGO_MANIFEST_DIR"), "/config/cookbook/enrich.test.toml");
    for arguments in [&["demo"][..], &["test", case]] {
        let output = Command::new(env!("CARGO_BIN_EXE_messina"))
            .args(arguments)
            .env_remove("RUST_LOG")
            .env("TMPDIR", "/nowhere")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(69), "{arguments:?}: {said}");
        assert!(
            said.contains("cannot make the directory /nowhere/messina-") && said.contains("TMPDIR"),
            "{arguments:?}: {said}"
        );
        assert_eq!(said.matches("os error 2").count(), 1, "{arguments:?}: {said}");
    }
}

#[test]
fn a_signal_amid_records_ends_with_what_was_made_until_then() {
    let _alone = alone();
    let mut demo = Demo::start("amid");
    demo.is_under_way();
    demo.send(libc::SIGTERM);
    assert_eq!(demo.end(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once_and_leaves_nothing_behind() {
    let _alone = alone();
    let mut demo = Demo::start("twice");
    demo.is_under_way();
    // Two signals of one kind might be merged into one.
    demo.send(libc::SIGINT);
    demo.send(libc::SIGTERM);
    assert_eq!(demo.end(), Some(130));
}

#[test]
fn the_demo_verifies_what_it_did() {
    let _alone = alone();
    let output = Command::new(env!("CARGO_BIN_EXE_messina"))
        .args(["demo", "--json", "--records", &RECORDS.to_string()])
        // The embedded services listen on this host, and must not be reached through a proxy.
        .env("http_proxy", "http://127.0.0.1:9")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().last().unwrap_or_default();
    let summary: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(summary["problems"], serde_json::json!([]), "{line}");
    assert_eq!(summary["ok"], true, "{line}");
    assert_eq!(output.status.code(), Some(0), "{line}");
    assert_eq!(summary["records"], RECORDS);
    let dead_letters: u64 = ["navigation", "orders", "reactions"]
        .iter()
        .map(|name| summary["pipelines"][name]["dead_lettered"].as_u64().unwrap())
        .sum();
    assert!(dead_letters > 0, "bad records were among them: {line}");
}
