//! The real binary as a child process: its log lines, its status page, its signals and its end.
//!
//! Invariant: a process never outlives its [`Messina`], which ends it by its own id and waits for it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::python::collect;
use super::{LONG, until};

/// How many log lines are kept, and how many of them a failure shows.
const KEPT: usize = 2000;
const SHOWN: usize = 25;

#[derive(Default)]
struct Log {
    lines: VecDeque<String>,
    /// Whether to keep every line.
    keep_all: bool,
    http: Option<SocketAddr>,
}

/// A running `messina run`.
pub struct Messina {
    /// Its name in failure messages.
    pub name: String,
    child: Mutex<Child>,
    log: Arc<Mutex<Log>>,
}

/// The result of a finished command.
pub struct Finished {
    /// Exit code; none after a signal.
    pub code: Option<i32>,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Finished {
    /// The JSON of each line of its stdout; fails unless the command succeeded.
    pub fn json_lines(&self) -> Vec<Value> {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("MESSINA_BIN").map_or_else(|| env!("CARGO_BIN_EXE_messina").into(), PathBuf::from)
}

fn command(arguments: &[&str], configs: &[&Path]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for config in configs {
        command.arg("-c").arg(config);
    }
    command
}

/// Status and body of the answer to a GET; None if there is no answer within five seconds.
pub fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// The pipelines of a status page.
fn pipelines(mut status: Value) -> Vec<Value> {
    let Value::Object(pipelines) = status["pipelines"].take() else {
        return vec![];
    };
    pipelines.into_iter().map(|(_, pipeline)| pipeline).collect()
}

/// The consumer loops of all pipelines on a status page.
fn loops(status: Value) -> Vec<Value> {
    pipelines(status)
        .iter()
        .filter_map(|p| p["loops"].as_array())
        .flatten()
        .cloned()
        .collect()
}

/// Runs a command that ends by itself, and waits for it.
pub fn finish(arguments: &[&str], configs: &[&Path]) -> Finished {
    let mut child = command(arguments, configs).stdout(Stdio::piped()).spawn().unwrap();
    let reader = collect(child.stderr.take().unwrap());
    let answer = collect(child.stdout.take().unwrap());
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > LONG {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "messina {} did not end within {} s:\n{}",
                arguments.join(" "),
                LONG.as_secs(),
                reader.join().unwrap()
            );
        }
        std::thread::sleep(super::LOOK);
    };
    Finished {
        code: status.code(),
        stdout: answer.join().unwrap(),
        stderr: reader.join().unwrap(),
    }
}

impl Messina {
    /// Starts `messina run` with these files.
    pub fn start(name: &str, configs: &[&Path]) -> Messina {
        Messina::spawn(name, &["run"], configs, false)
    }

    /// The same, keeping every log line.
    pub fn start_keeping_all(name: &str, configs: &[&Path]) -> Messina {
        Messina::spawn(name, &["run"], configs, true)
    }

    /// Starts `messina run --watch` with these files.
    pub fn start_watching(name: &str, configs: &[&Path]) -> Messina {
        Messina::spawn(name, &["run", "--watch"], configs, false)
    }

    /// Starts a command that runs until it is stopped.
    pub fn spawn(name: &str, arguments: &[&str], configs: &[&Path], keep_all: bool) -> Messina {
        let mut child = command(arguments, configs).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Log {
            keep_all,
            ..Log::default()
        }));
        let into = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = into.lock().unwrap_or_else(PoisonError::into_inner);
                if let Ok(fields) = serde_json::from_str::<Value>(&line)
                    && fields["message"] == "running"
                {
                    log.http = fields["http"].as_str().and_then(|address| address.parse().ok());
                }
                if log.lines.len() >= KEPT && !log.keep_all {
                    log.lines.pop_front();
                }
                log.lines.push_back(line);
            }
        });
        Messina {
            name: name.to_owned(),
            child: Mutex::new(child),
            log,
        }
    }

    /// Sets the address where it listens, if the test configured one: the process logs it only after all services have
    /// answered.
    pub fn listens_on(&self, address: SocketAddr) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).http = Some(address);
    }

    /// Where it answers HTTP, once that is known.
    pub fn address(&self) -> Option<SocketAddr> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).http
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// The body of the answer to a GET, which must have status 200; None while it does not answer.
    pub fn get(&self, path: &str) -> Option<String> {
        let (status, body) = get(self.address()?, path)?;
        assert_eq!(status, 200, "{}: {path} answers {body}", self.name);
        Some(body)
    }

    /// Whether `/readyz` reports ready.
    pub fn is_ready(&self) -> bool {
        self.readiness().is_some_and(|(ready, _)| ready)
    }

    /// Whether `/readyz` reports ready, and its text; None while it does not answer.
    pub fn readiness(&self) -> Option<(bool, String)> {
        let (status, body) = get(self.address()?, "/readyz")?;
        Some((status == 200, body))
    }

    /// The status page.
    pub fn status(&self) -> Option<Value> {
        let body = self.get("/status")?;
        // A chunked body has the chunk lengths around the JSON.
        serde_json::from_str(&body[body.find('{')?..=body.rfind('}')?]).ok()
    }

    /// Waits for an answer: a process that is slow to answer still has something to report.
    fn answer<T>(&self, ask: impl FnMut() -> Option<T>) -> T {
        until(&format!("an answer of {}", self.name), LONG, &[self], ask)
    }

    /// The sum of a metric over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.answer(|| self.get("/metrics"));
        let samples = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        samples
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Records that have ended since the process began, in all pipelines.
    pub fn ended_records(&self) -> u64 {
        let count = |p: &Value| {
            ["done", "skipped", "dead_lettered"]
                .iter()
                .map(|k| p[k].as_u64().unwrap_or(0))
                .sum::<u64>()
        };
        pipelines(self.answer(|| self.status())).iter().map(count).sum()
    }

    /// Partitions that it holds, in all pipelines.
    pub fn partitions(&self) -> usize {
        self.loops()
            .iter()
            .filter_map(|l| l["partitions"].as_array())
            .map(Vec::len)
            .sum()
    }

    /// Records in flight, in all pipelines.
    pub fn in_flight(&self) -> u64 {
        self.answer(|| self.in_flight_while_it_ends())
    }

    /// The same for a process that may be ending; None if it does not answer.
    pub fn in_flight_while_it_ends(&self) -> Option<u64> {
        let loops = loops(self.status()?);
        Some(loops.iter().filter_map(|l| l["in_flight_records"].as_u64()).sum())
    }

    /// Whether a loop takes in nothing because `max_in_flight` is reached.
    pub fn is_full(&self) -> bool {
        self.loops().iter().any(|l| l["full"] == true)
    }

    /// Records that wait for their schema, in all pipelines.
    pub fn waiting_for_schema(&self) -> u64 {
        self.loops()
            .iter()
            .filter_map(|l| l["waiting_for_schema"].as_u64())
            .sum()
    }

    fn loops(&self) -> Vec<Value> {
        loops(self.answer(|| self.status()))
    }

    /// How it ended; None while it runs.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_wait()
            .unwrap()
    }

    /// SIGKILL.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends SIGTERM.
    pub fn signal(&self) {
        self.send(libc::SIGTERM);
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        self.send(libc::SIGHUP);
    }

    /// Stops it in the middle of whatever it does (SIGSTOP), until it is thawed.
    pub fn freeze(&self) {
        self.send(libc::SIGSTOP);
    }

    /// Lets it continue (SIGCONT).
    pub fn thaw(&self) {
        self.send(libc::SIGCONT);
    }

    fn send(&self, signal: i32) {
        let id = self.child.lock().unwrap_or_else(PoisonError::into_inner).id();
        // SAFETY: a system call without memory; the child has not been waited for, so the id is still its own.
        let sent = unsafe { libc::kill(id.cast_signed(), signal) };
        assert_eq!(sent, 0, "{} cannot be sent signal {signal}", self.name);
    }

    /// Waits for its end and calls `meanwhile` between checks. Returns the exit code, None after a signal, and how long
    /// it took.
    pub fn wait_for_end(&self, limit: Duration, mut meanwhile: impl FnMut()) -> (Option<i32>, Duration) {
        let began = Instant::now();
        loop {
            match self.ended() {
                Some(status) => return (status.code(), began.elapsed()),
                None if began.elapsed() > limit => {
                    panic!(
                        "{} did not end within {} s\n{}",
                        self.name,
                        limit.as_secs(),
                        self.tail()
                    )
                }
                None => meanwhile(),
            }
            std::thread::sleep(super::LOOK);
        }
    }

    /// Stops it as an operator would; fails unless the stop is clean.
    pub fn stop(&self) {
        self.signal();
        let (code, _) = self.wait_for_end(LONG, || {});
        assert_eq!(code, Some(0), "{} stopped with {code:?}\n{}", self.name, self.tail());
    }

    /// Waits until its status page answers.
    pub fn ready(&self) {
        until(&format!("{} to run", self.name), LONG, &[self], || self.status());
    }

    /// The lines that contain `text`.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// All log lines that are kept.
    pub fn all(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The last log lines.
    pub fn tail(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = log.lines.iter().map(String::as_str).collect();
        format!(
            "--- last lines of {}\n{}\n---",
            self.name,
            lines[lines.len().saturating_sub(SHOWN)..].join("\n")
        )
    }
}

impl Drop for Messina {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // An error means that it has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}
