//! `messina top` end to end, against a server that repeats what a real process answered (tests/top): printed, and on a pseudo-terminal, which it must
//! restore.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[path = "support/terminal.rs"]
mod terminal;

use terminal::on_terminal;

/// How long to wait on a loaded machine; normally everything comes within milliseconds.
const LONG: Duration = Duration::from_secs(60);

/// The stored answer to a request. From the second poll on, the counters have grown.
fn stored(path: &str, look: usize) -> String {
    let read = |name: String| {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/top").join(name)).unwrap()
    };
    match path {
        "/status" => read(format!("status.{}.json", look.min(2))),
        "/metrics" => read(format!("metrics.{}.txt", look.min(2))),
        "/readyz" | "/livez" => "ok\n".to_owned(),
        other => panic!("nobody asks for {other}"),
    }
}

/// A stand-in for the process. While `away` is set, it closes each connection without an answer.
struct Process {
    address: SocketAddr,
    away: Arc<AtomicBool>,
}

/// The head of a request.
fn request(stream: &mut TcpStream) -> String {
    let (mut asked, mut byte) = (Vec::new(), [0]);
    while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        asked.push(byte[0]);
    }
    String::from_utf8(asked).unwrap()
}

fn process() -> Process {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let away = Arc::new(AtomicBool::new(false));
    let (looks, is_away) = (AtomicUsize::new(0), away.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if is_away.load(Ordering::SeqCst) {
                continue;
            }
            let asked = request(&mut stream);
            let path = asked.split(' ').nth(1).unwrap();
            if path == "/status" {
                looks.fetch_add(1, Ordering::SeqCst);
            }
            let body = stored(path, looks.load(Ordering::SeqCst));
            // A client that has hung up does not need the answer.
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
    Process { address, away }
}

fn top(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_messina"));
    command
        .arg("top")
        .args(arguments)
        .env_remove("MESSINA__HTTP__LISTEN")
        .env_remove("NO_COLOR")
        .env("TERM", "xterm-256color")
        .stdin(Stdio::null());
    command
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn nobody_has_to_read_it() {
    let process = process();
    let url = format!("http://{}/", process.address);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut top = top(&[&url, "--once", "--interval", "0.2"]);
    let (code, _, stderr) = said(&top.stdout(writer).output().unwrap());
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

#[test]
fn once_prints_every_pipeline_with_its_rate() {
    let process = process();
    let url = format!("http://{}/", process.address);
    let (code, stdout, stderr) = said(&top(&[&url, "--once", "--interval", "0.2"]).output().unwrap());
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    for pipeline in ["navigation", "orders"] {
        let row = stdout
            .lines()
            .find(|line| line.trim_start().starts_with(pipeline))
            .unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[1], "running", "{stdout}");
        assert!(words[2].parse::<f64>().unwrap() > 0.0, "{stdout}");
    }
    for part in [
        "Messina 0.1.0  ready, live",
        "== orders",
        "PARTITION",
        "schema id 999999 is unknown",
    ] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    assert!(!stdout.contains('\x1b'), "{stdout:?}");
}

#[test]
fn where_stdout_is_no_terminal_it_prints_and_says_so() {
    let process = process();
    let address = process.address.to_string();
    let (code, stdout, stderr) = said(&top(&["--listen", &address, "--interval", "200ms"]).output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.contains("navigation") && stderr.contains("not a terminal"),
        "{stdout}{stderr}"
    );
}

#[test]
fn what_does_not_answer_is_unavailable_and_what_to_do_is_said() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let (code, stdout, stderr) = said(&top(&[&nobody, "--once"]).output().unwrap());
    assert_eq!((code, stdout.as_str()), (Some(69), ""));
    assert!(stderr.contains(&nobody) && stderr.contains("[http] listen"), "{stderr}");

    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in other.incoming().flatten() {
            request(&mut stream);
            let _ = stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n");
        }
    });
    let (code, _, stderr) = said(&top(&[&address, "--once"]).output().unwrap());
    assert_eq!(code, Some(69));
    assert!(stderr.contains("/status answers with HTTP status 404"), "{stderr}");

    let (code, _, stderr) = said(&top(&["https://127.0.0.1:1"]).output().unwrap());
    assert_eq!(code, Some(64));
    assert!(stderr.contains("not https"), "{stderr}");
}

/// The program on its own terminal.
struct Terminal {
    child: Child,
    /// The terminal emulator's end.
    master: File,
    /// The program's end, kept open so that its settings can be read.
    slave: OwnedFd,
    before: libc::termios,
    seen: Arc<Mutex<Vec<u8>>>,
}

fn settings(terminal: &OwnedFd) -> libc::termios {
    // SAFETY: all bits zero are a termios, and the descriptor is open.
    unsafe {
        let mut found: libc::termios = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), &raw mut found), 0);
        found
    }
}

impl Terminal {
    fn start(arguments: &[&str]) -> Terminal {
        let mut command = top(arguments);
        let (master, slave) = on_terminal(&mut command);
        let before = settings(&slave);
        let child = command.spawn().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, into) = (master.try_clone().unwrap(), seen.clone());
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut part) {
                into.lock().unwrap().extend_from_slice(&part[..read]);
            }
        });
        Terminal {
            child,
            master,
            slave,
            before,
            seen,
        }
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// The contents of the screen, as far as text and cursor moves determine them.
    fn screen(&self) -> String {
        let mut cells = vec![vec![' '; 80]; 24];
        let (mut row, mut column) = (0, 0);
        let seen = self.seen();
        let mut chars = seen.chars();
        while let Some(c) = chars.next() {
            if c != '\x1b' {
                if let Some(cell) = cells.get_mut(row).and_then(|row: &mut Vec<char>| row.get_mut(column)) {
                    *cell = c;
                }
                column += 1;
            } else if chars.next() == Some('[') {
                let mut arguments = String::new();
                let last = chars.by_ref().find(|c| {
                    arguments.push(*c);
                    c.is_ascii_alphabetic()
                });
                if last == Some('H') {
                    let at = arguments.trim_end_matches('H').split_once(';').unwrap_or(("1", "1"));
                    (row, column) = (at.0.parse::<usize>().unwrap() - 1, at.1.parse::<usize>().unwrap() - 1);
                }
            }
        }
        cells
            .into_iter()
            .map(|row| row.into_iter().collect::<String>() + "\n")
            .collect()
    }

    /// Waits until a text appears on the screen, or disappears.
    fn wait_for(&mut self, text: &str, there: bool) {
        let began = Instant::now();
        while self.screen().contains(text) != there {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < LONG,
                "no {text:?}, {ended:?}: {:?}",
                self.seen()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the program has ended successfully and has restored the terminal.
    fn ends_well(mut self) {
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(began.elapsed() < LONG, "it does not end: {:?}", self.seen()),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        // Its last output may still be on the way.
        while !self.seen().contains("\x1b[?1049l") && began.elapsed() < LONG {
            std::thread::sleep(Duration::from_millis(20));
        }
        let seen = self.seen();
        assert_eq!(status.code(), Some(0), "{seen:?}");
        let last = |sequence: &str| seen.rfind(sequence);
        assert!(
            last("\x1b[?1049h").is_some() && last("\x1b[?1049h") < last("\x1b[?1049l"),
            "the screen: {seen:?}"
        );
        assert!(
            last("\x1b[?25l").is_some() && last("\x1b[?25l") < last("\x1b[?25h"),
            "the cursor: {seen:?}"
        );
        let after = settings(&self.slave);
        let flags = |of: &libc::termios| (of.c_iflag, of.c_oflag, of.c_cflag, of.c_lflag);
        assert_eq!(flags(&self.before), flags(&after), "the settings of the terminal");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keys_change_the_view_and_q_ends_it() {
    let process = process();
    let mut terminal = Terminal::start(&[&process.address.to_string(), "--interval", "0.2"]);
    terminal.wait_for("[steps]", true);
    assert_ne!(
        settings(&terminal.slave).c_lflag,
        terminal.before.c_lflag,
        "keys come one by one"
    );
    terminal.press("\t");
    terminal.wait_for("[partitions]", true);
    terminal.press("\x1b[D");
    terminal.wait_for("[steps]", true);
    terminal.press("j");
    terminal.wait_for("> orders", true);
    terminal.press("p");
    terminal.wait_for("paused", true);
    terminal.press("?");
    terminal.wait_for("freeze the view", true);
    terminal.press("q");
    terminal.ends_well();
}

#[test]
fn a_process_that_goes_away_is_said_to_be_and_a_signal_ends_it() {
    let process = process();
    let mut terminal = Terminal::start(&[&process.address.to_string(), "--interval", "0.2"]);
    terminal.wait_for("navigation", true);
    process.away.store(true, Ordering::SeqCst);
    terminal.wait_for("no answer for", true);
    terminal.wait_for("navigation", true);
    process.away.store(false, Ordering::SeqCst);
    terminal.wait_for("no answer for", false);
    let id = i32::try_from(terminal.child.id()).unwrap();
    // SAFETY: it is our own child, which nobody has waited for.
    assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
    terminal.ends_well();
}

#[test]
fn control_c_ends_it() {
    let process = process();
    let mut terminal = Terminal::start(&[&process.address.to_string()]);
    terminal.wait_for("q quit", true);
    terminal.press("\x03");
    terminal.ends_well();
}
