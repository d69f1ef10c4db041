//! The details of one pipeline: its steps, its partitions, its errors.

use ratatui::text::{Line, Span};

use super::table::{Side, table};
use super::{Look, word};
use crate::cli::top::model::{Model, Mood, Pipeline, Stage};
use crate::cli::top::numbers::{NONE, count, known, percent, seconds};

/// What delays the pipeline, its rates, the breakers that it waits for, and its stages.
pub(super) fn steps(model: &Model, pipeline: &Pipeline, width: usize, look: Look) -> Vec<Line<'static>> {
    let mut lines: Vec<Line> = Vec::new();
    for why in &pipeline.trouble {
        lines.push(Line::styled(why.clone(), look.of(pipeline.state.0)));
    }
    lines.push(Line::raw(format!(
        "taken {}/s, published {}/s, dead letters {}/s",
        known(pipeline.taken),
        known(pipeline.published),
        known(pipeline.dead_rate)
    )));
    let sink = format!("sink {}", pipeline.name);
    let mut breakers = vec![Span::raw("breakers: ")];
    let own = |name: &str| name == sink || !name.starts_with("sink ");
    for (name, state) in model.breakers.iter().filter(|(name, _)| own(name)) {
        if breakers.len() > 1 {
            breakers.push(Span::raw(", "));
        }
        breakers.push(Span::raw(format!("{name} ")));
        breakers.push(Span::styled(state.clone(), look.of(breaker(state))));
    }
    if breakers.len() == 1 {
        breakers.push(Span::raw(NONE));
    }
    lines.push(Line::from(breakers));
    let head = [
        ("STEP", Side::Left),
        ("CALLS/S", Side::Right),
        ("P50", Side::Right),
        ("P99", Side::Right),
        ("CACHE", Side::Right),
        ("IN FLIGHT", Side::Right),
        ("ERRORS/S", Side::Right),
    ];
    let row = |stage: &Stage| {
        let of_step = |text: String| Span::raw(if stage.is_step { text } else { String::new() });
        vec![
            Span::raw(stage.name.clone()),
            Span::raw(known(stage.calls)),
            Span::raw(seconds(stage.p50)),
            Span::raw(seconds(stage.p99)),
            of_step(percent(stage.cache)),
            of_step(known(stage.in_flight)),
            if stage.is_step {
                rate_of_errors(stage.errors, look)
            } else {
                Span::raw("")
            },
        ]
    };
    lines.extend(table(&head, pipeline.stages.iter().map(row).collect(), width));
    lines
}

/// Open is bad. Half-open is recovering.
pub(super) fn breaker(state: &str) -> Mood {
    match state {
        "closed" => Mood::Good,
        "half-open" => Mood::Warn,
        _ => Mood::Bad,
    }
}

pub(super) fn rate_of_errors(rate: Option<f64>, look: Look) -> Span<'static> {
    let mood = if rate.is_some_and(|rate| rate > 0.0) {
        Mood::Warn
    } else {
        Mood::Good
    };
    word(known(rate), mood, look)
}

/// The partitions that are furthest behind, as many as fit.
pub(super) fn partitions(pipeline: &Pipeline, width: usize, height: usize, look: Look) -> Vec<Line<'static>> {
    // The head, and the line that says how many are not shown.
    let room = height.saturating_sub(2);
    let all = &pipeline.partitions;
    if all.is_empty() {
        return vec![Line::raw("no partitions are assigned to this process")];
    }
    let head = [
        ("TOPIC", Side::Left),
        ("PARTITION", Side::Right),
        ("PHASE", Side::Left),
        ("POSITION", Side::Right),
        ("LAG", Side::Right),
        ("LAG AGE", Side::Right),
        ("IN FLIGHT", Side::Right),
    ];
    let number = |value: Option<i64>| Span::raw(value.map_or_else(|| NONE.to_owned(), |value| value.to_string()));
    let rows = all.iter().take(room).map(|one| {
        let phase = if one.stalled {
            word("stalled".to_owned(), Mood::Bad, look)
        } else {
            Span::raw(one.phase.clone())
        };
        vec![
            Span::raw(one.topic.clone()),
            Span::raw(one.partition.to_string()),
            phase,
            number(one.position),
            number(one.lag_records),
            Span::raw(seconds(one.lag_seconds)),
            Span::raw(one.in_flight.to_string()),
        ]
    });
    let mut lines = table(&head, rows.collect(), width);
    if all.len() > room {
        lines.push(Line::raw(format!("and {} more with less lag", all.len() - room)));
    }
    lines
}

/// What fails where, and the last errors, newest first.
pub(super) fn errors(pipeline: &Pipeline, width: usize, look: Look) -> Vec<Line<'static>> {
    if pipeline.failures.is_empty() && pipeline.last_errors.is_empty() {
        return vec![Line::raw("no errors since the start")];
    }
    let mut lines = Vec::new();
    if !pipeline.failures.is_empty() {
        let head = [
            ("WHERE", Side::Left),
            ("CLASS", Side::Left),
            ("LEVEL", Side::Left),
            ("SINCE START", Side::Right),
            ("ERRORS/S", Side::Right),
        ];
        let rows = pipeline.failures.iter().map(|one| {
            vec![
                Span::raw(one.step.clone()),
                Span::raw(one.class.clone()),
                Span::raw(one.level.clone()),
                Span::raw(count(one.total)),
                rate_of_errors(one.rate, look),
            ]
        });
        lines.extend(table(&head, rows.collect(), width));
    }
    lines.extend(pipeline.last_errors.iter().map(|(error, times)| match times {
        1 => Line::raw(format!("- {error}")),
        times => Line::raw(format!("- {error} ({times} times)")),
    }));
    lines
}

/// The keys, and the meaning of the columns.
pub(super) fn help() -> Vec<Line<'static>> {
    const TEXT: &str = "\
q, Esc, Ctrl-C    quit
up, down, k, j    select a pipeline
tab, left, right  switch between its steps, partitions and errors
p                 pause: stop polling and freeze the view
?                 show or hide this help

Rates and quantiles cover the last ten seconds.
RECORDS/S  records finished: done, skipped or dead-lettered
LAG        records from the first unfinished one to the end
LAG AGE    age of the first unfinished record, in the worst partition
IN FLIGHT  records in flight, and their limit; full: intake waits for room
DEAD       dead letters since the start
CALLS/S    calls that succeeded; cache hits do not count
ERRORS/S   failed attempts, including those that are retried";
    TEXT.lines().map(Line::raw).collect()
}
