//! What all commands have in common: how they begin, and how they end if nobody reads their output, if `RUST_LOG` is not a filter, or if the services cannot
//! be reached.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

/// How long to wait on a loaded machine; normally everything comes within seconds.
const LONG: Duration = Duration::from_secs(60);

fn messina(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_messina"));
    command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Writes a sound configuration.
fn config(name: &str, brokers: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("command-line-{name}.toml"));
    let text = format!(
        "[kafka]\nbrokers = \"{brokers}\"\n[registry]\nurl = \"http://127.0.0.1:9\"\n\
         [pipelines.p]\nsource = {{ topics = \"in\", group = \"g\" }}\nsink = {{ topic = \"out\" }}\n\
         dead_letter = {{ topic = \"dead\" }}\n"
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn stderr_that_nobody_reads_changes_nothing() {
    let config = config("stderr", "127.0.0.1:9");
    for (code, arguments) in [
        (0, &["check", "-c", &config][..]),
        (78, &["check", "-c", "tests/config/broken/missing_keys.toml"]),
        (64, &["size", "-c", &config, "--rate", "1000", "--pipeline", "q"]),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = messina(arguments).stderr(writer).output().unwrap().status;
        assert_eq!(ended.code(), Some(code), "{arguments:?}");
    }
}

/// The exit code and stderr of a command whose stdout nobody reads.
fn unread(arguments: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = messina(arguments).stdout(writer).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), stderr)
}

#[test]
fn a_pipe_that_is_closed_changes_nothing() {
    let config = config("pipe", "127.0.0.1:9");
    let broken = "tests/config/broken/missing_keys.toml";
    for (code, arguments) in [
        (0, &["--help"][..]),
        (0, &["explain"]),
        (0, &["explain", "MES0101"]),
        (0, &["completions", "bash"]),
        (0, &["schema"]),
        (0, &["man"]),
        (0, &["demo", "--config"]),
        (0, &["size", "-c", &config, "--rate", "1000"]),
        (0, &["size", "-c", &config, "--rate", "1000", "--json"]),
        (0, &["check", "-c", &config, "--format", "json"]),
        (78, &["check", "-c", broken, "--format", "json"]),
        (78, &["check", "-c", broken, "--format", "sarif"]),
        (78, &["check", "-c", broken, "--format", "github"]),
        (0, &["test", "config/example.test.toml", "--only", "heartbeat"]),
    ] {
        let (ended, stderr) = unread(arguments);
        assert_eq!(ended, Some(code), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_replay_that_fails_says_so_although_nobody_reads() {
    let kafka = MockCluster::new(1).unwrap();
    let config = config("replay", &kafka.bootstrap_servers());
    let (code, stderr) = unread(&["dead-letters", "replay", "--yes", "-c", &config]);
    assert_eq!(code, Some(69), "{stderr}");
    assert!(stderr.contains("the brokers have no topic 'dead'"), "{stderr}");
}

/// The mock cluster creates each topic that a client asks for, unless the client asks it not to.
#[test]
fn a_replay_makes_no_topic() {
    const LIMIT: Duration = Duration::from_secs(30);
    let kafka = MockCluster::new(1).unwrap();
    kafka.create_topic("dead", 1, 1).unwrap();
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", kafka.bootstrap_servers());
    let producer: BaseProducer = client.create().unwrap();
    let mut headers = OwnedHeaders::new();
    for (key, value) in [
        ("messina.pipeline", "p"),
        ("messina.topic", "gone"),
        ("messina.partition", "0"),
        ("messina.offset", "7"),
        ("messina.class", "permanent"),
        ("messina.reason", "avro"),
        ("messina.message", "bad"),
        ("messina.attempts", "1"),
    ] {
        let value = Some(value);
        headers = headers.insert(Header { key, value });
    }
    let letter = BaseRecord::<(), _>::to("dead").payload("value").headers(headers);
    producer.send(letter).map_err(|(error, _)| error).unwrap();
    producer.flush(LIMIT).unwrap();
    let config = config("gone", &kafka.bootstrap_servers());
    for (topic, more) in [
        ("gone", &["--yes"][..]),
        ("gone", &[]),
        ("away", &["--yes", "--to", "away"]),
    ] {
        let arguments = [&["dead-letters", "replay", "-c", &config][..], more].concat();
        let output = messina(&arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{more:?}: {stderr}");
        let words = format!("dead letter 0:0 of dead cannot be sent: the brokers have no topic '{topic}': create it");
        assert!(stderr.contains(&words), "{more:?}: {stderr}");
    }
    let all = producer.client().fetch_metadata(None, LIMIT).unwrap();
    let names: Vec<&str> = all.topics().iter().map(|topic| topic.name()).collect();
    assert_eq!(names, ["dead"]);
}

#[test]
fn a_check_tells_what_it_found_before_a_service_did_not_answer() {
    let database = Path::new(env!("CARGO_TARGET_TMPDIR")).join("command-line-empty.db");
    // A database without any table.
    std::fs::write(&database, "").unwrap();
    let config = config("away", "127.0.0.1:9");
    let step = "[[pipelines.p.steps]]\nname = \"row\"\nlookup = \"SELECT a FROM nobody WHERE b = :b\"\n";
    let text = format!(
        "store = \"sqlite:{}\"\n{}{step}",
        database.display(),
        std::fs::read_to_string(&config).unwrap()
    );
    std::fs::write(&config, text).unwrap();
    let output = messina(&["check", "--online", "-c", &config]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{stderr}");
    for says in [
        "the database refuses this statement",
        "error: cannot check online: the brokers",
    ] {
        assert!(stderr.contains(says), "does not say {says:?}: {stderr}");
    }
}

#[test]
fn a_database_of_another_folder_is_told_with_its_whole_path() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("command-line-folder");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let folder = folder.canonicalize().unwrap();
    let config = config("folder", "127.0.0.1:9");
    let step = "[[pipelines.p.steps]]\nname = \"row\"\nlookup = \"SELECT a FROM users WHERE b = :b\"\n";
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("store = \"sqlite:shop.db\"\n{text}{step}")).unwrap();
    let place = format!(
        " (the file is {}: a relative path counts from the working directory)",
        folder.join("shop.db").display()
    );
    // A check does not create the file; it finds the empty one that the run has created.
    for (arguments, says) in [
        (
            &["check", "--online", "-c", &config][..],
            "shop.db: the file does not exist yet, so its tables cannot be checked: the start creates it",
        ),
        (&["run", "-c", &config], "SQLite has no table users"),
        (&["check", "--online", "-c", &config], "SQLite has no table users"),
    ] {
        let mut command = messina(arguments);
        command.current_dir(&folder).env("MESSINA__HTTP__LISTEN", "127.0.0.1:0");
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}: {stderr}");
        assert!(
            stderr.contains(says) && stderr.contains(&place),
            "{arguments:?}: {stderr}"
        );
    }
}

/// A cluster that does not exist yet has no secrets yet.
#[test]
fn a_size_needs_neither_the_secrets_nor_the_certificates_of_production() {
    let config = config("secrets", "127.0.0.1:9");
    let database = "[scylla]\nnodes = [\"s:1\"]\nusername = \"u\"\npassword = { env = \"NOT_SET_HERE\" }\n\
                    tls = { ca = \"/nowhere/ca.pem\" }\n";
    let text = std::fs::read_to_string(&config).unwrap() + database;
    std::fs::write(&config, text).unwrap();
    let run = |arguments: &[&str]| {
        let output = messina(arguments).env_remove("NOT_SET_HERE").output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, _, stderr) = run(&["check", "-c", &config]);
    assert_eq!(code, Some(78), "{stderr}");
    assert!(stderr.contains("MES0402") && stderr.contains("MES0403"), "{stderr}");
    let (code, stdout, stderr) = run(&["size", "-c", &config, "--rate", "200000"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.contains("CPU for a record") && stdout.contains("pods"),
        "{stdout}"
    );
}

/// Exit codes and stderr of `tap` and `health` for one answer.
fn asked(answer: &'static str) -> Vec<(Option<i32>, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let commands = [&["tap", "p"][..], &["health"]];
    let server = std::thread::spawn(move || {
        for _ in commands {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut asked, mut byte) = (Vec::new(), [0]);
            while !asked.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                asked.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let said = commands.map(|command| {
        let output = messina(&[command, &["--listen", &address]].concat()).output().unwrap();
        assert!(output.stdout.is_empty(), "{command:?}");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    });
    server.join().unwrap();
    said.into()
}

#[test]
fn whoever_else_listens_there_is_not_taken_for_messina() {
    for answer in [
        "HTTP/1.0 404 Not Found\r\nContent-Type: text/html\r\n\r\n<!DOCTYPE HTML>\n<html>no such file</html>\n",
        "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>an application</html>\n",
        "HTTP/1.0 404 Not Found\r\nContent-Type: text/plain\r\n\r\n404 page not found\n",
    ] {
        for (code, said) in asked(answer) {
            assert_eq!(code, Some(69), "{answer}: {said}");
            assert!(
                said.contains("another program listens there; give the process's [http] listen address"),
                "{answer}: {said}"
            );
            assert!(!said.contains('<') && !said.contains("shown"), "{answer}: {said}");
        }
    }
    // These are Messina's own words.
    let (code, said) = asked("HTTP/1.0 404 Not Found\r\n\r\nthere is no pipeline p: there are q\n").swap_remove(0);
    assert_eq!(code, Some(64), "{said}");
    assert_eq!(said, "error: there is no pipeline p: there are q\n");
}

#[test]
fn a_rust_log_that_is_no_filter_ends_every_command_alike() {
    let config = config("log", "127.0.0.1:9");
    for arguments in [
        &["demo"][..],
        &["run", "-c", &config],
        &["run", "--dry-run", "-c", &config],
        &["replay", "-c", &config, "--from", "1h"],
    ] {
        let output = messina(arguments).env("RUST_LOG", "messina=loud").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {stderr}");
        assert!(
            stderr.contains("error: RUST_LOG is not a log level or filter"),
            "{arguments:?}: {stderr}"
        );
    }
}

/// Starts a command that reads its configuration from a pipe, through another command if one is given. Returns when it has opened the pipe.
fn begun(name: &str, by: &[&str], command: &str) -> (Child, File) {
    let pipe = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("command-line-{name}.pipe"));
    let _ = std::fs::remove_file(&pipe);
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let words = [
        by,
        &[env!("CARGO_BIN_EXE_messina"), command, "-c", pipe.to_str().unwrap()],
    ]
    .concat();
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .env_remove("RUST_LOG")
        .env("MESSINA__HTTP__LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + LONG;
    loop {
        // This fails until somebody reads from the pipe.
        let opened = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&pipe);
        match (opened, child.try_wait().unwrap()) {
            (Ok(writer), _) => return (child, writer),
            (Err(error), ended) => assert!(ended.is_none() && Instant::now() < deadline, "{error}, {ended:?}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn end(mut child: Child) -> ExitStatus {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn as_many_files_may_be_open_as_the_hard_limit_allows() {
    let (child, pipe) = begun("files", &["sh", "-c", "ulimit -Sn 64 && exec \"$0\" \"$@\""], "check");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    drop(pipe);
    assert_eq!(end(child).code(), Some(78), "nothing is no configuration");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let numbers: Vec<&str> = line.unwrap().split_whitespace().collect();
    assert!(numbers[0] != "64" && numbers[0] == numbers[1], "{limits}");
}

/// For the first process of a container, the kernel drops a signal that the process has not set a handler for. If the test may not start such a process, as
/// in a container without rights, it checks that the signal ends an ordinary process.
#[test]
fn a_signal_that_comes_before_anybody_listens_ends_a_run() {
    let first = "unshare --user --map-root-user --pid --fork --kill-child".split(' ');
    let first: Vec<&str> = first.collect();
    let tried = Command::new(first[0])
        .args(&first[1..])
        .arg("true")
        .stderr(Stdio::null())
        .status();
    let is_first = tried.is_ok_and(|status| status.success());
    let (child, mut pipe) = begun("first", if is_first { &first[..] } else { &[] }, "run");
    let id = if is_first {
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap()
    } else {
        child.id().to_string()
    };
    // SAFETY: a system call without memory; nobody has waited for the process.
    let sent = unsafe { libc::kill(id.trim().parse().unwrap(), libc::SIGTERM) };
    assert_eq!(sent, 0, "{id:?}");
    if is_first {
        let config = std::fs::read(config("first", "127.0.0.1:9")).unwrap();
        pipe.write_all(&config).unwrap();
        drop(pipe);
        assert_eq!(end(child).code(), Some(0));
    } else {
        assert_eq!(end(child).signal(), Some(libc::SIGTERM));
    }
}
