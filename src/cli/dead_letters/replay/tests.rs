//! Replays of an embedded Kafka, and what the command line takes.

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    replay: Replay,
}

/// The arguments of a replay, with these behind the configuration.
pub fn args(more: &[&str]) -> Replay {
    let line = ["replay", "-c", "f.toml"].iter().chain(more);
    Line::try_parse_from(line).unwrap().replay
}

#[test]
fn a_replay_goes_on_from_a_place() {
    let part = |partition| Part {
        topic: "dead".into(),
        partition,
        from: 5,
        to: 50,
    };
    let range = |args: &Replay, partition| left_of(part(partition), args).map(|part| (part.from, part.to));
    let on = args(&["--from-offset", "2:17"]);
    assert_eq!([1, 2, 3].map(|p| range(&on, p)), [None, Some((17, 50)), Some((5, 50))]);
    let early = args(&["--from-offset", "2:1"]);
    assert_eq!(range(&early, 2), Some((5, 50)));
    let only = args(&["--only", "1:9", "--only", "1:20"]);
    assert_eq!([0, 1].map(|p| range(&only, p)), [None, Some((9, 21))]);
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
    assert!(Line::try_parse_from(["replay", "-c", "f", "--yes", "--dry-run"]).is_err());
    assert!(Line::try_parse_from(["replay", "-c", "f", "--max", "0"]).is_err());
}
