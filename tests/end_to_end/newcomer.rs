//! A newcomer who follows docs/get-started.md has a pipeline that runs: `tests/newcomer/play.py` types the page's commands.

use std::process::{Command, Stdio};

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
    // Its build takes as long as all other tests together: only the figure asks for it.
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
