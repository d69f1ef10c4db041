//! With `[tracing]`, a traced record becomes a span at the collector, and whatever is published from it names that span. Without a collector, only
//! spans are lost.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use serde_json::Value as Json;

use crate::support::kafka::Record;
use crate::support::numbers::{Numbers, Pipeline, duplicates};
use crate::support::process::Messina;
use crate::support::{Bench, LONG, until};

const PIPELINES: [Pipeline<'static>; 1] = [Pipeline {
    name: "traced",
    order: "key",
    cache: None,
    writes: false,
}];
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// The body of a request; None if the connection ends first.
fn body(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
            let (_, length) = head.split_once("content-length: ")?;
            let length: usize = length.lines().next()?.parse().ok()?;
            if bytes.len() >= end + 4 + length {
                return Some(bytes.split_off(end + 4));
            }
        }
        match stream.read(&mut part) {
            Ok(read) if read > 0 => bytes.extend_from_slice(&part[..read]),
            Ok(_) | Err(_) => return None,
        }
    }
}

/// A collector that accepts everything, and passes its spans on one by one.
fn collector() -> (SocketAddr, Receiver<Json>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, spans) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some(body) = body(&mut stream) else { continue };
            let request: Json = serde_json::from_slice(&body).unwrap();
            let all = request["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array();
            for span in all.unwrap() {
                let _ = sender.send(span.clone());
            }
            // Answered last: once the process has its answer it may end, and then the test looks for its spans.
            let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
            stream.write_all(answer).unwrap();
        }
    });
    (address, spans)
}

/// The attributes of a span, numbers as text.
fn attributes(span: &Json) -> HashMap<&str, &str> {
    let all = span["attributes"].as_array().unwrap().iter();
    all.map(|attribute| {
        let mut values = attribute["value"].as_object().unwrap().values();
        (
            attribute["key"].as_str().unwrap(),
            values.next().unwrap().as_str().unwrap(),
        )
    })
    .collect()
}

#[test]
fn a_record_is_a_span_and_its_output_names_it() {
    let Some(bench) = Bench::find("a_record_is_a_span_and_its_output_names_it") else {
        return;
    };
    let numbers = Numbers::new(&bench, 1, &PIPELINES);
    let (address, spans) = collector();
    let tracing = bench.file(
        "tracing.toml",
        &format!("[tracing]\notlp = \"http://{address}\"\nsample_ratio = 0\n"),
    );
    let configs = numbers.config(Duration::from_secs(20), &PIPELINES);
    let [main, local] = configs.each_ref().map(|path| path as &Path);
    let messina = Messina::start("messina", &[main, local, &tracing]);
    let send = |value: &[u8], parent: &str| {
        let headers = [("shop", "7"), ("traceparent", parent), ("tracestate", "vendor=1")];
        let headers = headers.into_iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header {
                key,
                value: Some(value),
            })
        });
        let record = BaseRecord::to(&numbers.topic).key(&b"k01"[..]).payload(value);
        bench.kafka.send(record.headers(headers));
    };
    let sampled = format!("00-{TRACE}-{PARENT}-01");
    let good = numbers.record(1, "k01");
    // Traced, not sampled by its producer, malformed, and traced but ending as a dead letter.
    send(&good, &sampled);
    let others = [format!("00-{TRACE}-{PARENT}-00"), format!("{sampled}-more")];
    others.iter().for_each(|parent| send(&good, parent));
    send(b"secret and bad", &sampled);
    until("4 records to be processed", LONG, &[&messina], || {
        (messina.ended_records() == 4).then_some(())
    });
    // The last spans are sent when it stops.
    messina.stop();
    let mut spans: Vec<Json> = spans.try_iter().collect();
    spans.sort_by_key(|span| attributes(span)["messaging.kafka.offset"].to_owned());
    let [done, dead] = spans.as_slice() else {
        panic!("{spans:#?}")
    };
    for span in [done, dead] {
        assert_eq!(
            (&span["traceId"], &span["parentSpanId"]),
            (&TRACE.into(), &PARENT.into())
        );
        assert_eq!((&span["kind"], &span["traceState"]), (&5.into(), &"vendor=1".into()));
        assert!(!span.to_string().contains("secret"), "{span}");
    }
    let outputs = bench.kafka.read(&bench.name("traced-enriched"));
    let letters = bench.kafka.read(&bench.name("traced-dead-letters"));
    let parents: Vec<_> = outputs
        .iter()
        .map(|record| record.header("traceparent").unwrap())
        .collect();
    let named = |span: &Json| format!("00-{TRACE}-{}-01", span["spanId"].as_str().unwrap());
    assert_eq!(parents, [&named(done), &others[0], &others[1]]);
    assert_eq!(letters[0].header("traceparent"), Some(&*named(dead)));
    for record in outputs.iter().chain(&letters) {
        let headers = [record.header("shop"), record.header("tracestate")];
        assert_eq!(headers, [Some("7"), Some("vendor=1")], "{}", record.about());
        let count = |record: &Record| record.headers.iter().filter(|(name, _)| name == "traceparent").count();
        assert_eq!(count(record), 1, "{}", record.about());
    }
    let group = numbers.group("traced");
    for (span, offset, outcome) in [(done, "0", "done"), (dead, "3", "dead_lettered")] {
        let attributes = attributes(span);
        for (name, value) in [
            ("messaging.system", "kafka"),
            ("messaging.operation.type", "process"),
            ("messaging.destination.name", &numbers.topic),
            ("messaging.destination.partition.id", "0"),
            ("messaging.consumer.group.name", &group),
            ("messaging.kafka.offset", offset),
            ("messina.pipeline", "traced"),
            ("messina.outcome", outcome),
        ] {
            assert_eq!(attributes.get(name), Some(&value), "{name}");
        }
    }
    assert_eq!(done["events"][0]["name"], "produced");
    assert_eq!((done.get("status"), &dead["status"]["code"]), (None, &2.into()));
    assert_eq!(attributes(dead)["error.type"], "framing");
    bench.clean();
}

#[test]
fn a_collector_that_never_answers_costs_no_record() {
    const RECORDS: i64 = 20_000;
    let Some(bench) = Bench::find("a_collector_that_never_answers_costs_no_record") else {
        return;
    };
    let numbers = Numbers::new(&bench, 4, &PIPELINES);
    // The system accepts connections to this listener, but nobody reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let tracing = format!(
        "[tracing]\notlp = \"http://{}\"\nsample_ratio = 1\nmax_spans_per_second = 1000000\n",
        silent.local_addr().unwrap()
    );
    let tracing = bench.file("tracing.toml", &tracing);
    let configs = numbers.config(Duration::from_secs(20), &PIPELINES);
    let [main, local] = configs.each_ref().map(|path| path as &Path);
    let messina = Messina::start("messina", &[main, local, &tracing]);
    numbers.fill(RECORDS);
    until("all records to be processed", LONG, &[&messina], || {
        (messina.ended_records() == RECORDS as u64).then_some(())
    });
    assert!(messina.metric("messina_trace_spans_total") > 0.0, "spans were begun");
    messina.stop();
    assert_eq!(duplicates(&numbers.outputs("traced"), RECORDS), 0);
    bench.clean();
}
