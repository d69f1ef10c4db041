//! Tests of the model: two answers in, figures out.

use serde_json::{Value, json};

use super::*;

const NINE: Duration = Duration::from_secs(9);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A model of these answers, with their times in seconds.
fn after(answers: impl IntoIterator<Item = (u64, Answers)>) -> Model {
    let mut history = History::default();
    for (seconds, answer) in answers {
        history.push(at(seconds), answer);
    }
    history.model().unwrap()
}

fn counts(done: u64, uptime: u64) -> Answers {
    let pipeline = json!({"received": done, "done": done, "skipped": 0, "dead_lettered": 0, "published": done});
    let status = json!({"uptime_seconds": uptime, "pipelines": {"p": pipeline}});
    Answers::of(&status.to_string(), "")
}

fn near(value: Option<f64>, expected: f64) -> bool {
    value.is_some_and(|value| (value - expected).abs() < 1e-6 * expected.max(1.0))
}

/// The value of a line of a stored `/metrics`, found as text.
fn line(number: u8, series: &str) -> f64 {
    let text =
        std::fs::read_to_string(format!("{}/tests/top/metrics.{number}.txt", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series))
        .unwrap_or_else(|| panic!("{series}"));
    line.trim().parse().unwrap()
}

#[test]
fn rates_are_the_growth_between_two_real_answers() {
    let mut history = History::default();
    history.push(at(100), Answers::stored(1));
    assert!(
        history
            .model()
            .unwrap()
            .pipelines
            .iter()
            .all(|p| p.rate.is_none() && p.history.is_empty())
    );
    history.push(at(100) + NINE, Answers::stored(2));
    let model = history.model().unwrap();
    assert_eq!(
        model.pipelines.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(),
        ["navigation", "orders"]
    );
    let raw = |number: u8, field: &str| {
        let path = format!("{}/tests/top/status.{number}.json", env!("CARGO_MANIFEST_DIR"));
        let status: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        status["pipelines"]["navigation"][field].as_f64().unwrap()
    };
    let grown = |field: &str| (raw(2, field) - raw(1, field)) / 9.0;
    let navigation = &model.pipelines[0];
    let ended = grown("done") + grown("skipped") + grown("dead_lettered");
    assert!(ended > 100.0 && near(navigation.rate, ended), "{navigation:?}");
    assert!(near(navigation.taken, grown("received")) && near(navigation.published, grown("published")));
    assert!(near(navigation.dead_rate, grown("dead_lettered")));
    assert_eq!(navigation.history, [Some(ended.round() as u64)]);
    let profile = navigation.stages.iter().find(|stage| stage.name == "profile").unwrap();
    let of = |family: &str| {
        let series = format!("messina_{family}{{pipeline=\"navigation\",step=\"profile\"}}");
        line(2, &series) - line(1, &series)
    };
    let (hits, misses) = (of("cache_hits_total"), of("cache_misses_total"));
    assert!(
        hits > 0.0 && misses > 0.0 && near(profile.cache, hits / (hits + misses)),
        "{profile:?}"
    );
    assert!(near(profile.calls, of("step_seconds_count") / 9.0), "{profile:?}");
    assert!(profile.p50.unwrap() > 0.0 && profile.p50 <= profile.p99);
    let names: Vec<&str> = navigation.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "decode", "history", "people", "profile", "visit", "encode", "delivery", "event"
        ]
    );
    assert!(near(
        model.cpu,
        (line(2, "messina_process_cpu_seconds_total") - line(1, "messina_process_cpu_seconds_total")) / 9.0
    ));
}

#[test]
fn a_rate_is_of_the_last_ten_seconds() {
    let done = |second: u64| {
        if second < 10 {
            100 * second
        } else {
            1000 + 200 * (second - 10)
        }
    };
    let model = after((0..=25).map(|second| (second, counts(done(second), second))));
    assert_eq!(model.pipelines[0].rate, Some(200.0));
    assert_eq!(model.pipelines[0].history.len(), 25);
    let model = after((0..=15).map(|second| (second, counts(done(second), second))));
    assert_eq!(model.pipelines[0].rate, Some(150.0));
    // With longer intervals, a rate is computed between two answers.
    let model = after([(0, counts(0, 0)), (60, counts(600, 60)), (120, counts(600, 120))]);
    assert_eq!(model.pipelines[0].rate, Some(0.0));
}

#[test]
fn only_what_rates_need_is_kept() {
    let mut history = History::default();
    for second in 0..2000 {
        history.push(at(second), counts(second, second));
    }
    assert_eq!((history.samples.len(), history.rates["p"].len()), (11, KEPT));
}

#[test]
fn a_counter_that_fell_has_no_rate() {
    let model = after([(0, counts(500, 0)), (1, counts(20, 1))]);
    assert_eq!(
        (model.pipelines[0].rate, model.pipelines[0].history.as_slice()),
        (None, &[None][..])
    );
}

#[test]
fn a_restart_forgets_what_was_before() {
    let mut history = History::default();
    history.push(at(0), counts(500, 90));
    history.push(at(1), counts(600, 91));
    history.push(at(2), counts(700, 1));
    assert_eq!(history.model().unwrap().pipelines[0].rate, None);
    history.push(at(3), counts(710, 2));
    let pipeline = &history.model().unwrap().pipelines[0];
    assert_eq!(
        (pipeline.rate, pipeline.history.as_slice()),
        (Some(10.0), &[Some(100), None, Some(10)][..])
    );
}

#[test]
fn answers_that_say_little_give_a_view() {
    let status = r#"{"pipelines": {"p": {"loops": [{}]}}}"#;
    let model = after([(0, Answers::of(status, "")), (1, Answers::of(status, ""))]);
    let pipeline = &model.pipelines[0];
    assert_eq!(
        (pipeline.rate, pipeline.errors, pipeline.lag_records, pipeline.bound),
        (None, None, None, 0)
    );
    assert_eq!(
        (model.cpu, model.memory, model.budget, model.uptime),
        (None, None, None, None)
    );
    assert!(pipeline.stages.is_empty());
    assert_eq!(History::default().model(), None);
}

#[test]
fn pipelines_and_series_come_and_go() {
    let none = Answers::of(r#"{"pipelines": {}}"#, "");
    let failing = |total: u64| {
        let metrics =
            format!("messina_failures_total{{pipeline=\"p\",step=\"s\",class=\"transient\",level=\"warn\"}} {total}\n");
        let mut answer = counts(10, 1);
        answer.series = Series::parse(&metrics);
        answer
    };
    let model = after([(0, none.clone()), (1, counts(10, 1))]);
    assert_eq!(model.pipelines[0].rate, None);
    let model = after([(0, counts(10, 0)), (1, none.clone())]);
    assert!(model.pipelines.is_empty());
    let model = after([(0, counts(10, 0)), (2, failing(6))]);
    assert_eq!(model.pipelines[0].errors, Some(3.0), "a series that is new began at 0");
    let failure = &model.pipelines[0].failures[0];
    assert_eq!(
        (failure.step.as_str(), failure.total, failure.rate),
        ("s", 6.0, Some(3.0))
    );
}

/// The state of a pipeline with these loops.
fn state_of(loops: Value, metrics: &str) -> (Mood, String, Vec<String>) {
    let status = json!({"pipelines": {"p": {"loops": loops}}});
    let model = after([(0, Answers::of(&status.to_string(), metrics))]);
    let pipeline = model.pipelines.into_iter().next().unwrap();
    (pipeline.state.0, pipeline.state.1, pipeline.trouble)
}

#[test]
fn the_state_is_that_of_the_worst_consumer() {
    let running = json!({"state": "running", "full": true});
    for (one, mood, word) in [
        (json!({"state": "running"}), Mood::Good, "running"),
        (json!({"state": "halted", "halted": "bad login"}), Mood::Bad, "halted"),
        (
            json!({"state": "running", "partitions": [{"stalled": true}, {}]}),
            Mood::Bad,
            "stalled: 1",
        ),
        (json!({"state": "joining"}), Mood::Warn, "joining"),
        (json!({"state": "running", "paused": true}), Mood::Warn, "paused"),
        (
            json!({"state": "running", "waiting_for_schema": 3}),
            Mood::Warn,
            "no schema",
        ),
    ] {
        let (found, state, trouble) = state_of(json!([running, one]), "");
        assert_eq!((found, state.as_str()), (mood, word), "{one}");
        assert_eq!(trouble.is_empty(), mood == Mood::Good, "{trouble:?}");
    }
    assert_eq!(state_of(json!([]), "").1, "starting");
    let stopped = "messina_dead_letter_stop{pipeline=\"p\"} 1\n";
    let limited = json!([{"state": "dead letters", "halted": "too many dead letters"}]);
    // The metrics may be older than the status.
    for metrics in [stopped, ""] {
        let (mood, state, trouble) = state_of(limited.clone(), metrics);
        assert_eq!((mood, state.as_str()), (Mood::Bad, "dead letters"));
        assert!(trouble.len() == 1 && trouble[0].contains("restart"), "{trouble:?}");
    }
    let all = json!([{"state": "halted", "halted": "bad login"}, {"state": "joining", "paused": true}]);
    let (_, state, trouble) = state_of(all, "");
    assert_eq!((state.as_str(), trouble.len()), ("halted", 3), "{trouble:?}");
    assert!(
        trouble[0].contains("bad login") && trouble[1].contains("joining: 1 of 2"),
        "{trouble:?}"
    );
}

#[test]
fn one_that_ends_or_is_made_anew_is_not_called_paused_for_want_of_room() {
    for state in ["halted", "stopping", "stopped", "rebuilding", "dead letters"] {
        let why = ["halted", "dead letters"].contains(&state).then_some("why");
        let (_, word, trouble) = state_of(json!([{"state": state, "halted": why, "paused": true}]), "");
        assert_eq!((word.as_str(), trouble.len()), (state, 1), "{trouble:?}");
    }
}

#[test]
fn the_worst_partition_is_first_and_the_newest_error() {
    let partition = |n: i64, lag: i64, age: f64, stalled: bool| json!({"topic": "t", "partition": n, "lag_records": lag, "lag_seconds": age, "stalled": stalled});
    let loops = json!([
        {"state": "running", "in_flight_records": 3, "concurrency_limit": 8, "last_errors": ["old", "new", "old", "new"],
         "partitions": [partition(0, 5, 0.5, false), partition(1, 90, 3.0, false)]},
        {"state": "running", "in_flight_records": 4, "concurrency_limit": 8, "full": true,
         "partitions": [partition(2, 1, 9.0, true), partition(3, 90, 1.0, false)]},
    ]);
    let status = json!({"pipelines": {"p": {"loops": loops}}});
    let pipeline = after([(0, Answers::of(&status.to_string(), ""))]).pipelines.remove(0);
    assert_eq!(
        pipeline.partitions.iter().map(|p| p.partition).collect::<Vec<_>>(),
        [2, 1, 3, 0]
    );
    assert_eq!(
        (pipeline.lag_seconds, pipeline.in_flight, pipeline.bound, pipeline.full),
        (Some(9.0), 7, 16, true)
    );
    assert_eq!(pipeline.last_errors, [("new".to_owned(), 2), ("old".to_owned(), 2)]);
}
