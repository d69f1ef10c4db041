//! Tests of the report: consistent results pass, and each inconsistency is named.

use super::*;
use crate::demo::bitmap::Bitmap;
use crate::demo::summary::{duration, grouped};

/// The results of a faultless run of the first `made` records.
fn faultless(stream: &Stream, made: u64) -> (PipelineReport, Seen) {
    let mut seen = Seen {
        published: Bitmap::new(made),
        dead_lettered: Bitmap::new(made),
        duplicated: 0,
        wrong: 0,
        reordered: 0,
        examples: Vec::new(),
        last_of_user: Vec::new(),
    };
    let mut report = PipelineReport {
        name: stream.job.name().to_owned(),
        made,
        consumed: made,
        ..Default::default()
    };
    for sequence in 0..made {
        match stream.fate(&stream.draw(sequence)) {
            Fate::Published => _ = seen.published.add(sequence),
            Fate::DeadLettered(_) => _ = seen.dead_lettered.add(sequence),
            Fate::Skipped => report.skipped += 1,
        }
    }
    (report, seen)
}

fn report(pipelines: Vec<PipelineReport>) -> Report {
    let mut report = Report {
        time: Duration::from_secs(2),
        pipelines,
        spent: Spent::default(),
        peak_memory: 123_400_000,
        page: "http://127.0.0.1:9090".to_owned(),
        problems: Vec::new(),
    };
    report.judge();
    report
}

#[test]
fn a_faultless_run_adds_up() {
    for stream in Stream::all([1, 2, 3]) {
        let (mut pipeline, seen) = faultless(&stream, 3000);
        pipeline.account(
            &stream,
            &seen,
            Rows {
                found: 5,
                lost: 0,
                wrong: 0,
            },
        );
        assert_eq!(pipeline.published + pipeline.skipped + pipeline.dead_lettered, 3000);
        let report = report(vec![pipeline]);
        assert!(report.is_ok(), "{:?}", report.problems);
        let json = report.json();
        assert_eq!(
            (&json["ok"], &json["lost"], &json["records"]),
            (&json!(true), &json!(0), &json!(3000))
        );
        assert_eq!(json["records_per_second"], json!(1500.0));
        assert!(report.human().contains("Lost: 0."));
    }
}

#[test]
fn a_page_that_the_next_run_will_not_have_is_not_told() {
    let mut report = report(Vec::new());
    assert!(report.human().contains("to watch http://127.0.0.1:9090/ meanwhile"));
    report.page = "http://127.0.0.1:43785".to_owned();
    assert!(
        report
            .human()
            .contains("to watch the status page that it names meanwhile")
    );
}

#[test]
fn whatever_is_missing_or_too_much_is_a_problem() {
    let streams = Stream::all([1, 2, 3]);
    let stream = &streams[0];
    type Fault = fn(&mut PipelineReport, &mut Seen, &mut Rows);
    let faults: [(&str, Fault); 8] = [
        ("lost", |p, seen, _| seen.published = Bitmap::new(p.made)),
        ("lost", |p, seen, _| seen.dead_lettered = Bitmap::new(p.made)),
        ("lost", |p, _, _| p.skipped -= 1),
        ("lost", |_, _, rows| rows.lost = 1),
        ("wrong", |p, _, _| p.skipped += 1),
        ("wrong", |_, _, rows| rows.wrong = 1),
        ("twice", |_, seen, _| seen.duplicated = 1),
        ("not committed", |p, _, _| p.uncommitted = 1),
    ];
    for (word, fault) in faults {
        let (mut pipeline, mut seen) = faultless(stream, 3000);
        let mut rows = Rows::default();
        fault(&mut pipeline, &mut seen, &mut rows);
        pipeline.account(stream, &seen, rows);
        let report = report(vec![pipeline]);
        assert!(
            report.problems.len() == 1 && report.problems[0].contains(word),
            "{word}: {:?}",
            report.problems
        );
        assert_eq!(report.json()["ok"], json!(false));
        assert!(report.human().contains("It does not add up"));
    }
}

#[test]
fn numbers_are_written_for_people() {
    assert_eq!(
        ["0", "999", "1,000", "1,234,567"],
        [0, 999, 1000, 1_234_567].map(grouped).each_ref().map(String::as_str)
    );
    let written = [0.000_001_5, 0.000_25, 0.003_4, 0.012, 1.25].map(duration);
    assert_eq!(
        written.each_ref().map(String::as_str),
        ["1.5 µs", "250 µs", "3.4 ms", "12 ms", "1.2 s"]
    );
    assert_eq!(
        (rate(5, Duration::ZERO), per_record(Duration::from_micros(10), 4)),
        (0.0, 2.5)
    );
}
