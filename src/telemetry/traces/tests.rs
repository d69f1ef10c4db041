//! Tests of tracing: which records are traced, their headers, and what a collector receives.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;

use serde_json::{Value as Json, json};

use super::*;
use crate::store::convert::hex;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
/// More than any test reaches in a second.
pub(crate) const MANY: u32 = 1_000_000;

pub(crate) fn tracer(collector: SocketAddr, sample_ratio: f64, max_spans_per_second: u32) -> (Tracer, Arc<Metrics>) {
    let metrics = Metrics::new().unwrap();
    let options = TracerOptions {
        collector: format!("http://{collector}/otel/"),
        headers: vec![("authorization".to_owned(), "Bearer s3cr3t".to_owned())],
        sample_ratio,
        max_spans_per_second,
        instance: "pod-1:7".to_owned(),
    };
    (Tracer::new(options, &metrics).unwrap(), metrics)
}

/// A tracer that sends nothing.
fn idle(sample_ratio: f64) -> Tracer {
    tracer(([127, 0, 0, 1], 9).into(), sample_ratio, MANY).0
}

fn count(metrics: &Metrics, outcome: &str) -> u64 {
    metrics.trace_spans_total.of([outcome]).get()
}

fn headers(list: &[(&str, &str)]) -> OwnedHeaders {
    list.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
        all.insert(Header {
            key,
            value: Some(*value),
        })
    })
}

type Listed = Vec<(String, String)>;

fn listed(headers: &OwnedHeaders) -> Listed {
    let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap_or_default().to_vec()).unwrap();
    headers
        .iter()
        .map(|header| (header.key.to_owned(), text(header.value)))
        .collect()
}

fn begin(tracer: &Tracer, list: &[(&str, &str)]) -> Option<(Box<Span>, Listed)> {
    let (span, named) = tracer.begin(Some(&headers(list)), 0, 0, Instant::now())?;
    Some((span, listed(&named)))
}

fn ended(span: Box<Span>, offset: i64, failure: Option<Failure>) -> Ended {
    let names = Names {
        pipeline: "orders".to_owned(),
        group: "orders-group".to_owned(),
    };
    Ended {
        span,
        names: Arc::new(names),
        topic: "orders-in".into(),
        partition: 3,
        offset,
        produced: failure.is_none().then_some(Duration::from_millis(2)),
        took: Duration::from_millis(5),
        outcome: if failure.is_some() { "dead_lettered" } else { "done" },
        failure,
    }
}

/// Head and body of a request; `None` if the connection ends before.
fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
            let (_, length) = head.split_once("content-length: ")?;
            let length: usize = length.lines().next()?.parse().ok()?;
            if bytes.len() >= end + 4 + length {
                return Some((head, bytes[end + 4..].to_vec()));
            }
        }
        match stream.read(&mut part) {
            Ok(read) if read > 0 => bytes.extend_from_slice(&part[..read]),
            Ok(_) | Err(_) => return None,
        }
    }
}

/// A collector that gives these answers in turn, and forwards the requests that it receives.
pub(crate) fn collector(answers: Vec<&'static str>) -> (SocketAddr, Receiver<(String, Json)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let (head, body) = request(&mut stream).unwrap();
            let answer = format!("HTTP/1.1 {answer}");
            stream.write_all(answer.as_bytes()).unwrap();
            let _ = sender.send((head, serde_json::from_slice(&body).unwrap()));
        }
    });
    (address, receiver)
}

pub(crate) const TAKEN: &str = "200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
const BUSY: &str = "503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const BAD: &str = "400 Bad\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_trace_that_comes_in_is_gone_on_with() {
    let list = [
        ("shop", "7"),
        (TRACESTATE, "a=1"),
        (TRACEPARENT, PARENT),
        (TRACESTATE, "b=2"),
    ];
    let (span, named) = begin(&idle(0.0), &list).unwrap();
    let id = hex(&span.own.span);
    assert_ne!(id, "00f067aa0ba902b7", "the span is another");
    let pairs = [
        (TRACEPARENT, format!("00-{TRACE}-{id}-01")),
        (TRACESTATE, "a=1,b=2".to_owned()),
        ("shop", "7".to_owned()),
    ];
    assert_eq!(named, pairs.map(|(name, value)| (name.to_owned(), value)));
    assert_eq!(hex(&span.parent.unwrap()), "00f067aa0ba902b7");
}

#[test]
fn a_state_that_is_malformed_is_not_passed_on() {
    let (span, named) = begin(&idle(0.0), &[(TRACEPARENT, PARENT), (TRACESTATE, "A=1")]).unwrap();
    assert_eq!((span.state, named.len()), (None, 1));
}

#[test]
fn what_is_not_traced_keeps_its_headers() {
    let tracer = idle(0.0);
    assert!(tracer.begin(None, 0, 0, Instant::now()).is_none());
    // The producer has decided against tracing, and the share concerns only records without a trace.
    assert!(begin(&idle(1.0), &[(TRACEPARENT, UNSAMPLED)]).is_none());
    for malformed in ["garbage", &PARENT.to_uppercase(), &format!("{PARENT}-01")] {
        assert!(begin(&tracer, &[(TRACEPARENT, malformed)]).is_none(), "{malformed}");
    }
    assert!(begin(&tracer, &[(TRACEPARENT, PARENT), (TRACEPARENT, PARENT)]).is_none());
    assert!(begin(&tracer, &[("Traceparent", PARENT)]).is_none());
    let without_value = headers(&[]).insert(Header {
        key: TRACEPARENT,
        value: None::<&str>,
    });
    assert!(tracer.begin(Some(&without_value), 0, 0, Instant::now()).is_none());
}

#[test]
fn a_name_that_is_no_text_goes_on_with_the_others() {
    let mut list = headers(&[(TRACEPARENT, PARENT)]);
    crate::kafka::headers::add(&mut list, b"caf\xe9", Some(b"7"));
    let (_, named) = idle(0.0).begin(Some(&list), 0, 0, Instant::now()).unwrap();
    let names: Vec<&[u8]> = crate::kafka::headers::all(&named).map(|(name, _)| name).collect();
    assert_eq!(names, [TRACEPARENT.as_bytes(), b"caf\xe9"]);
}

#[test]
fn a_share_of_the_others_begins_a_trace() {
    let tracer = idle(1.0);
    let (span, headers) = tracer.begin(None, 0, 0, Instant::now()).unwrap();
    assert_eq!((span.parent, span.own.is_sampled()), (None, true));
    assert_eq!(listed(&headers), [(TRACEPARENT.to_owned(), span.own.value())]);
    assert_eq!(TraceParent::parse(span.own.value().as_bytes()), Some(span.own));
    // A malformed `traceparent` is ignored, and its `tracestate` with it.
    let (span, named) = begin(&tracer, &[(TRACEPARENT, "garbage"), (TRACESTATE, "a=1"), ("shop", "7")]).unwrap();
    assert_eq!((span.parent, span.state), (None, None));
    let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [TRACEPARENT, "shop"]);
    let share = idle(0.25);
    let begun = (0..4000).filter(|&offset| share.begin(None, 0, offset, Instant::now()).is_some());
    let begun = begun.count();
    assert!((800..1200).contains(&begun), "{begun} of 4000");
}

#[test]
fn no_more_are_traced_in_a_second_than_were_asked_for() {
    let (tracer, metrics) = tracer(([127, 0, 0, 1], 9).into(), 1.0, 5);
    let (now, sampled) = (Instant::now(), headers(&[(TRACEPARENT, PARENT)]));
    let begun = |now| {
        (0..20)
            .filter(|&n| tracer.begin(Some(&sampled), 0, n, now).is_some())
            .count()
    };
    assert_eq!(begun(now), 5);
    assert_eq!(count(&metrics, "suppressed"), 15);
    assert_eq!(begun(now + Duration::from_secs(2)), 5);
}

#[test]
fn a_collector_hears_what_became_of_a_record() {
    let (address, requests) = collector(vec![TAKEN]);
    let (tracer, metrics) = tracer(address, 0.0, MANY);
    let (done, _) = begin(&tracer, &[(TRACEPARENT, PARENT), (TRACESTATE, "a=1")]).unwrap();
    let (dead, _) = begin(&tracer, &[(TRACEPARENT, PARENT)]).unwrap();
    let ids = [&done, &dead].map(|span| hex(&span.own.span));
    let failure = Failure::permanent("missing", "no row for \"bob@example.org\"").in_step(&"profile".into());
    tracer.send(ended(done, 17, None));
    tracer.send(ended(dead, 18, Some(failure)));
    drop(tracer);
    let (head, body) = requests.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(head.starts_with("post /otel/v1/traces http/1.1"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("authorization: bearer s3cr3t"), "{head}");
    assert!(!body.to_string().contains("bob@example.org"), "{body}");
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let of = &body["resourceSpans"][0];
    assert_eq!(
        of["resource"]["attributes"],
        json!([
            text("service.name", "messina"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", "pod-1:7")
        ])
    );
    let mut spans = of["scopeSpans"][0]["spans"].clone();
    for span in spans.as_array_mut().unwrap() {
        let mut time = |name: &str| -> u128 { span[name].take().as_str().unwrap().parse().unwrap() };
        let (start, end) = (time("startTimeUnixNano"), time("endTimeUnixNano"));
        assert_eq!(end - start, 5_000_000);
        if let Some(events) = span.get_mut("events") {
            let produced: u128 = events[0]["timeUnixNano"].take().as_str().unwrap().parse().unwrap();
            assert_eq!(produced - start, 2_000_000);
        }
    }
    let common = |offset: &str, outcome: &str| {
        vec![
            text("messaging.system", "kafka"),
            text("messaging.operation.type", "process"),
            text("messaging.operation.name", "process"),
            text("messaging.destination.name", "orders-in"),
            text("messaging.destination.partition.id", "3"),
            text("messaging.consumer.group.name", "orders-group"),
            json!({"key": "messaging.kafka.offset", "value": {"intValue": offset}}),
            text("messina.pipeline", "orders"),
            text("messina.outcome", outcome),
        ]
    };
    let failed = vec![
        text("error.type", "missing"),
        text("messina.failure.class", "permanent"),
        text("messina.failure.step", "profile"),
    ];
    let span = |id: &str, attributes: Vec<Json>| {
        json!({
            "traceId": TRACE, "spanId": id, "parentSpanId": "00f067aa0ba902b7", "flags": 0x301, "name": "process orders-in", "kind": 5,
            "startTimeUnixNano": null, "endTimeUnixNano": null, "attributes": attributes,
        })
    };
    let mut done = span(&ids[0], common("17", "done"));
    done["traceState"] = "a=1".into();
    done["events"] = json!([{"name": "produced", "timeUnixNano": null}]);
    let mut dead = span(&ids[1], [common("18", "dead_lettered"), failed].concat());
    dead["status"] = json!({"code": 2, "message": "no row for \"…\""});
    assert_eq!(spans, json!([done, dead]));
    assert_eq!(["exported", "failed", "dropped"].map(|o| count(&metrics, o)), [2, 0, 0]);
}

#[test]
fn what_a_busy_collector_refuses_is_sent_again_and_a_mistake_is_not() {
    let (address, requests) = collector(vec![BUSY, TAKEN, BAD]);
    let (tracer, metrics) = tracer(address, 1.0, MANY);
    let send = |offset| {
        tracer.send(ended(
            tracer.begin(None, 0, offset, Instant::now()).unwrap().0,
            offset,
            None,
        ))
    };
    send(1);
    let both = [
        requests.recv_timeout(Duration::from_secs(60)).unwrap().1,
        requests.recv_timeout(Duration::from_secs(60)).unwrap().1,
    ];
    assert_eq!(both[0], both[1]);
    send(2);
    requests.recv_timeout(Duration::from_secs(60)).unwrap();
    drop(tracer);
    assert_eq!(["exported", "failed"].map(|outcome| count(&metrics, outcome)), [1, 1]);
}

#[test]
fn a_collector_that_never_answers_costs_spans_and_holds_nothing_up() {
    const SPANS: usize = 10_000;
    // The system accepts connections for this socket, but nobody reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (tracer, metrics) = tracer(silent.local_addr().unwrap(), 1.0, MANY);
    for offset in 0..SPANS as i64 {
        let (span, _) = tracer.begin(None, 0, offset, Instant::now()).unwrap();
        tracer.send(ended(span, offset, None));
    }
    // All were dropped except the content of the queue, and the batches that the thread took until its first request
    // was under way.
    assert!(count(&metrics, "dropped") >= (SPANS - QUEUE - 1024) as u64);
    let (over, end) = channel();
    std::thread::spawn(move || {
        drop(tracer);
        let _ = over.send(());
    });
    end.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(count(&metrics, "exported"), 0);
}

#[test]
fn what_waits_is_sent_though_somebody_holds_the_tracer_for_ever() {
    let (address, _requests) = collector(vec![TAKEN]);
    let (tracer, metrics) = tracer(address, 1.0, MANY);
    let tracer = Arc::new(tracer);
    let held = tracer.clone();
    let send = |offset| {
        let (span, _) = tracer.begin(None, 0, offset, Instant::now()).unwrap();
        tracer.send(ended(span, offset, None));
    };
    send(1);
    tracer.close(Duration::from_secs(60));
    assert_eq!(count(&metrics, "exported"), 1);
    send(2);
    assert_eq!(count(&metrics, "dropped"), 1, "nobody sends it any more");
    drop(held);
}

#[test]
fn what_cannot_be_used_is_an_error_that_shows_no_secret() {
    let metrics = Metrics::new().unwrap();
    let new = |collector: &str, header: (&str, &str)| {
        let options = TracerOptions {
            collector: collector.to_owned(),
            headers: vec![(header.0.to_owned(), header.1.to_owned())],
            sample_ratio: 0.0,
            max_spans_per_second: 1,
            instance: String::new(),
        };
        Tracer::new(options, &metrics).err().map(|error| error.to_string())
    };
    assert_eq!(new("http://127.0.0.1:9", ("x-key", "k")), None);
    for bad in ["127.0.0.1:4318", "ftp://host", "http://"] {
        assert!(new(bad, ("x-key", "k")).is_some(), "{bad}");
    }
    let refused = new("http://127.0.0.1:9", ("x-key", "hunter2\n")).unwrap();
    assert!(refused.contains("x-key") && !refused.contains("hunter2"), "{refused}");
}
