//! A newcomer who follows docs/get-started.md ends up with a running pipeline: `tests/newcomer/play.py` types the page's commands. In a topic that belongs to
//! somebody else, the page's example does nothing.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::process::binary;
use crate::support::python::collect;
use crate::support::{Bench, figures};

#[test]
fn the_page_to_get_started_works() {
    let Some(bench) = Bench::find("the_page_to_get_started_works") else {
        return;
    };
    let mut command = Command::new(&bench.python);
    command
        .arg(format!("{}/tests/newcomer/play.py", env!("CARGO_MANIFEST_DIR")))
        .args(["--topic", &bench.name("clicks"), "--keyspace", &bench.keyspace])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("KAFKA_BROKERS", &bench.kafka.brokers)
        .env("REGISTRY_URL", &bench.registry.url)
        .env("SCYLLA_NODES", bench.nodes.join(","));
    // The page's build takes as long as all other tests together, so it runs only if the variable asks for it.
    if std::env::var_os("NEWCOMER_BUILDS").is_none() {
        command.arg("--binary").arg(binary());
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let stdout = collect(child.stdout.take().unwrap());
    let status = child.wait().unwrap();
    let said = stdout.join().unwrap();
    println!("{said}");
    assert!(status.success(), "a step failed");
    let line = said.lines().last().unwrap_or_default();
    let result: Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&result["failed_steps"], &result["steps"]),
        (&Value::from(0), &Value::from(11)),
        "{line}"
    );
    figures::note("newcomer", &result);
    bench.clean();
}

#[test]
fn a_topic_of_another_schema_is_left_alone() {
    let Some(bench) = Bench::find("a_topic_of_another_schema_is_left_alone") else {
        return;
    };
    let topic = bench.name("orders");
    let subject = format!("{topic}-value");
    bench.kafka.create(&bench, &[&topic], 1);
    let schema = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"}]}"#;
    bench.registry.register(&bench, &subject, schema);
    bench.registry.allow_anything(&bench, &subject);
    for word in ["prepare", "send"] {
        let output = clicks(&bench, word, &topic, &bench.registry.url);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{word}: {said}");
        assert!(said.contains("do not have the schema click.avsc"), "{word}: {said}");
    }
    // A 404 from a proxy that leads nowhere says nothing about schemas.
    let output = clicks(&bench, "send", &topic, &nowhere());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("404") && !said.contains("do not have the schema"),
        "{said}"
    );
    assert_eq!(bench.registry.versions(&bench, &subject), [1]);
    assert_eq!(bench.kafka.ends(&topic), [(0, 0)]);
    bench.clean();
}

/// Runs the page's helper for a topic.
fn clicks(bench: &Bench, word: &str, topic: &str, registry: &str) -> Output {
    Command::new(&bench.python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/get-started/clicks.py"))
        .arg(word)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("KAFKA_BROKERS", &bench.kafka.brokers)
        .env("REGISTRY_URL", registry)
        .env("SCYLLA_NODES", bench.nodes.join(","))
        .env("TOPIC", topic)
        .env("KEYSPACE", &bench.keyspace)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The address of a server that answers one request with a page of its own and status 404.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        // The first byte of a request is enough; the rest is read until the client closes the connection.
        client.read_exact(&mut [0; 1]).unwrap();
        client
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>")
            .unwrap();
        let _ = std::io::copy(&mut client, &mut std::io::sink());
    });
    format!("http://{address}")
}
