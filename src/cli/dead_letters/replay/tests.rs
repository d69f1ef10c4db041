//! Tests of replays on an embedded Kafka, and of the arguments.

use clap::Parser;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use super::*;
use crate::sink::letter::{Letter, MESSAGE, OFFSET, PARTITION, PIPELINE, REASON, TOPIC};

const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    replay: Replay,
}

/// The arguments of a replay, with `more` after the configuration.
pub fn args(more: &[&str]) -> Replay {
    let line = ["replay", "-c", "f.toml"].iter().chain(more);
    Line::try_parse_from(line).unwrap().replay
}

/// An embedded Kafka whose topics have one partition each.
struct Stage {
    context: Context,
    producer: BaseProducer,
    _cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Stage {
    /// Creates the dead-letter topics, and `t`, the topic that records come from.
    fn new(topics: &[&str]) -> Stage {
        let cluster = MockCluster::new(1).unwrap();
        for topic in topics.iter().chain(&["t"]) {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        let brokers = cluster.bootstrap_servers();
        let toml = format!("[kafka]\nbrokers = \"{brokers}\"\n[registry]\nurl = \"http://127.0.0.1:9\"\n");
        let (config, _) = crate::config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
        Stage {
            context: Context {
                config,
                topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
                pipeline: None,
            },
            producer: ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap(),
            _cluster: cluster,
        }
    }

    /// Publishes a dead letter for the record at this offset of a topic, with an old timestamp.
    fn letter(&self, dead: &str, topic: &str, offset: i64) {
        let offset = offset.to_string();
        let headers = [
            (PIPELINE, "p"),
            (TOPIC, topic),
            (PARTITION, "0"),
            (OFFSET, offset.as_str()),
        ];
        let headers = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header {
                key,
                value: Some(*value),
            })
        });
        let letter = BaseRecord::<(), _>::to(dead).partition(0).payload("value");
        let sent = self.producer.send(letter.headers(headers).timestamp(1000));
        sent.map_err(|(error, _)| error).unwrap();
        self.producer.flush(LIMIT).unwrap();
    }

    /// Runs a replay that sends, and returns what it says at its end.
    fn replay(&self, more: &[&str]) -> String {
        let args = args(&[&["--yes"][..], more].concat());
        let from = args.begin(&self.context).unwrap();
        let reader = Reader::new(&self.context).unwrap();
        let mut sender = Sender::new(&self.context).unwrap();
        let (interrupted, mut summary) = (AtomicBool::new(false), Summary::default());
        go(
            &args,
            from,
            &self.context,
            &reader,
            &mut sender,
            &interrupted,
            &mut summary,
        )
        .unwrap();
        sender.finish().unwrap();
        let (sent, pending) = sender.standing();
        let left = Left::new(&args.only, pending, summary.next);
        told(&args, &self.context.topics, &summary, sent, &left)
    }
}

#[test]
fn what_comes_into_a_topic_that_is_read_later_is_not_read() {
    let stage = Stage::new(&["a", "b"]);
    for offset in [10, 11] {
        stage.letter("a", "b", offset);
    }
    // The first record arrives before the second is sent.
    let said = stage.replay(&["--rate", "2"]);
    assert!(said.starts_with("2 sent, of 2 dead letters read\n"), "{said}");
}

#[test]
fn what_went_back_before_the_place_to_go_on_from_does_not_go_again() {
    let stage = Stage::new(&["a", "b"]);
    // A crash has repeated the first dead letter, and another pipeline that reads the topic has rejected the record,
    // too.
    for (dead, offset) in [("a", 10), ("a", 11), ("a", 10), ("b", 10), ("b", 12)] {
        stage.letter(dead, "t", offset);
    }
    for (more, told) in [
        (
            &["--max", "1"][..],
            "1 sent, of 1 dead letters read\n\
             stopped before 0:1 of a: go on with --from-topic a --from-offset 0:1\n",
        ),
        (
            &["--max", "1", "--from-topic", "a", "--from-offset", "0:1"],
            "1 sent, of 3 dead letters read; 2 left out: there twice; \
             1 before --from-offset counted as sent, including any that came there since\n\
             stopped before 0:1 of b: go on with --from-topic b --from-offset 0:1\n",
        ),
        (
            &["--from-topic", "b", "--from-offset", "0:1"],
            "1 sent, of 1 dead letters read; 2 before --from-offset counted as sent, including any that came there since\n",
        ),
    ] {
        assert_eq!(stage.replay(more), told);
    }
    let there = stage.producer.client().fetch_watermarks("t", 0, LIMIT);
    assert_eq!(there, Ok((0, 3)));
}

/// Such a record cannot be told apart from those that were sent, so the summary counts it.
#[test]
fn what_has_come_before_the_place_to_go_on_from_is_counted() {
    let stage = Stage::new(&["a", "b"]);
    for (dead, offset) in [("a", 10), ("b", 11), ("b", 12)] {
        stage.letter(dead, "t", offset);
    }
    let first = stage.replay(&["--max", "2"]);
    assert!(
        first.contains("go on with --from-topic b --from-offset 0:1\n"),
        "{first}"
    );
    for dead in ["a", "b"] {
        stage.letter(dead, "t", 13);
    }
    let on = ["--from-topic", "b", "--from-offset", "0:1"];
    assert_eq!(
        stage.replay(&on),
        "1 sent, of 2 dead letters read; 1 left out: there twice; \
         3 before --from-offset counted as sent, including any that came there since\n"
    );
    let json = stage.replay(&[&on[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["before"], 3, "{json}");
}

/// Dead letters may arrive late, held back by a transaction or by the producer. Resuming by time would leave them out.
#[test]
fn a_letter_that_comes_late_is_behind_what_a_finished_replay_names() {
    let stage = Stage::new(&["a"]);
    stage.letter("a", "t", 10);
    let behind =
        |place| format!("they stay in the topic: next time, --behind {place} leaves out these and all before them\n");
    let one = "1 sent, of 1 dead letters read\n";
    assert_eq!(stage.replay(&[]), format!("{one}{}", behind("0:1")));
    stage.letter("a", "t", 11);
    assert_eq!(stage.replay(&["--behind", "0:1"]), format!("{one}{}", behind("0:2")));
    assert_eq!(stage.replay(&["--behind", "0:2"]), "0 sent, of 0 dead letters read\n");
}

#[test]
fn a_place_to_go_on_from_is_of_one_topic() {
    let stage = Stage::new(&["a", "b"]);
    let begin = |more: &[&str]| args(more).begin(&stage.context).map_err(|e| e.to_string());
    let place = Place {
        partition: 2,
        offset: 17,
    };
    let on = ["--from-topic", "b", "--from-offset", "2:17"];
    assert_eq!(begin(&on), Ok(Spot { topic: 1, place }));
    let place = BEGINNING;
    assert_eq!(begin(&[]), Ok(Spot { topic: 0, place }));
    for (more, why) in [
        (&on[2..], "a place is PARTITION:OFFSET of one topic"),
        (&["--only", "2:17"], "a place is PARTITION:OFFSET of one topic"),
        (&["--behind", "2:17"], "a place is PARTITION:OFFSET of one topic"),
        (
            &["--from-topic", "c", "--from-offset", "2:17"],
            "--from-topic c: it is not one of the topics that are read: a, b",
        ),
    ] {
        let said = begin(more).unwrap_err();
        assert!(said.starts_with(why), "{said}");
    }
    assert!(Line::try_parse_from(["replay", "-c", "f", "--from-topic", "a"]).is_err());
}

#[test]
fn of_a_part_what_was_named_is_read() {
    let part = |partition| Part {
        topic: "dead".into(),
        partition,
        from: 5,
        to: 50,
    };
    let range = |args: &Replay, partition| left_of(part(partition), args).map(|part| (part.from, part.to));
    let only = args(&["--only", "1:9", "--only", "1:20"]);
    assert_eq!([0, 1].map(|p| range(&only, p)), [None, Some((9, 21))]);
    let behind = args(&["--behind", "1:9", "--behind", "2:1"]);
    let whole = Some((5, 50));
    assert_eq!([0, 1, 2].map(|p| range(&behind, p)), [whole, Some((9, 50)), whole]);
}

#[test]
fn a_dry_run_leaves_out_what_a_message_quotes() {
    let headers = [
        (PIPELINE, "p"),
        (TOPIC, "t"),
        (PARTITION, "4"),
        (OFFSET, "7"),
        (REASON, "type"),
        (MESSAGE, "\"alice@x.org\" is no uuid"),
    ];
    let headers = headers.map(|(name, value)| (name.as_bytes().to_vec(), Some(value.as_bytes().to_vec())));
    let record = Record {
        place: BEGINNING,
        time: None,
        key: None,
        value: None,
        letter: Letter::read(&headers),
        headers: Vec::new(),
    };
    let back = way_back(record.letter.as_ref().unwrap(), None);
    assert_eq!(
        in_words("dead", &record, &back),
        "0:0 of dead: 0 bytes to t/4; type: \"…\" is no uuid"
    );
}

#[test]
fn rates_are_read() {
    assert_eq!((rate("100"), rate("0.5/s")), (Ok(100.0), Ok(0.5)));
    for wrong in ["", "0", "-1", "fast", "1/m", "inf", "NaN"] {
        assert!(rate(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_turn() {
    let interrupted = AtomicBool::new(true);
    assert!(wait_for_turn(None, &interrupted));
    let mut pace = Pace::new(0.001, Instant::now());
    assert!(wait_for_turn(Some(&mut pace), &interrupted), "the first is due at once");
    assert!(!wait_for_turn(Some(&mut pace), &interrupted));
}

#[test]
fn sending_has_to_be_asked_for() {
    assert!(!args(&[]).yes);
    assert!(Line::try_parse_from(["replay", "-c", "f", "--dry-run"]).is_err());
    assert!(Line::try_parse_from(["replay", "-c", "f", "--max", "0"]).is_err());
}
