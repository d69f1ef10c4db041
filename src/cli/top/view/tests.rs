//! Tests of the view, as text snapshots. `INSTA_UPDATE=always cargo test --lib top` writes the snapshots; read them as the user will.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::cli::top::answer::{Answers, said};
use crate::cli::top::model::History;

const PLAIN: Look = Look { colours: false };

fn real() -> Model {
    let mut history = History::default();
    history.push(Duration::ZERO, Answers::stored(1));
    history.push(Duration::from_secs(9), Answers::stored(2));
    let mut model = history.model().unwrap();
    // A minute of rates before that, for the graph. In one second there was no answer.
    let wave = |n: u64| (n != 25).then(|| 3000 + 37 * (n * n % 41));
    model.pipelines[0].history.splice(0..0, (0..60).map(wave));
    model
}

/// A process with many problems.
fn troubled() -> Model {
    let status = r#"{"version": "0.1.0", "uptime_seconds": 4000, "config": {"generation": 3, "last_reload_successful": false},
        "breakers": {"store": "open", "registry": "half-open", "sink a": "closed"},
        "pipelines": {
            "a-pipeline-whose-name-is-longer-than-there-is-room-for": {"done": 1, "skipped": 0, "dead_lettered": 12345, "lag_records": 1234567,
                "loops": [{"state": "halted", "halted": "the database refuses the login of messina", "in_flight_records": 1024, "concurrency_limit": 1024, "full": true,
                    "last_errors": ["profile: time-out of the coordinator while it waited for replicas, two of three had answered", "profile: no node is connected to"],
                    "partitions": [{"topic": "t", "partition": 3, "phase": "running", "lag_records": 1000000, "lag_seconds": 7300, "stalled": true}]}]},
            "b": {"loops": [{"state": "joining"}, {"state": "running", "paused": true}]}}}"#;
    let no = said(
        503,
        "pipeline a, loop 0: halted: the database refuses the login of messina\npipeline b, loop 0: joining",
    );
    let answer = Answers::read(
        status,
        "",
        &no,
        &said(503, "loop 1 of pipeline b has been unresponsive for 61 s"),
    )
    .unwrap();
    let mut history = History::default();
    history.push(Duration::ZERO, answer);
    history.model().unwrap()
}

fn picture<'a>(model: &'a Model, screen: &'a Screen) -> Picture<'a> {
    Picture {
        place: "127.0.0.1:9090",
        model,
        screen,
        away: None,
        look: PLAIN,
    }
}

fn drawn(picture: &Picture<'_>, (width, height): (u16, u16)) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| picture.draw(frame.area(), frame.buffer_mut()))
        .unwrap();
    terminal.backend().buffer().clone()
}

/// The lines of a buffer, without trailing blanks.
fn text(buffer: &Buffer) -> String {
    let lines = buffer.content.chunks(usize::from(buffer.area.width));
    let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
    lines.map(|cells| format!("{}\n", line(cells).trim_end())).collect()
}

fn snapshot(name: &str, text: String) {
    insta::with_settings!({snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots"), prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!(format!("top__{name}"), text);
    });
}

#[test]
fn it_fits_terminals_of_every_size() {
    let (model, screen) = (real(), Screen::default());
    let at = |size| text(&drawn(&picture(&model, &screen), size));
    snapshot("80x24", at((80, 24)));
    snapshot("120x40", at((120, 40)));
    snapshot("20x5", at((20, 5)));
    assert!(
        at((80, 16)).contains("and more: enlarge the terminal"),
        "what is cut is said"
    );
    for model in [&model, &troubled()] {
        for pane in Pane::ALL {
            for help in [false, true] {
                let screen = Screen {
                    pane,
                    help,
                    ..Screen::default()
                };
                for width in [0, 1, 2, 9, 33, 79, 300] {
                    for height in [0, 1, 2, 3, 7, 16, 25, 90] {
                        drawn(&picture(model, &screen), (width, height));
                    }
                }
            }
        }
    }
}

#[test]
fn every_view_of_a_pipeline() {
    let model = real();
    let at = |screen: Screen| text(&drawn(&picture(&model, &screen), (80, 24)));
    snapshot(
        "partitions",
        at(Screen {
            pane: Pane::Partitions,
            ..Screen::default()
        }),
    );
    snapshot(
        "errors",
        at(Screen {
            pane: Pane::Errors,
            ..Screen::default()
        }),
    );
    snapshot(
        "help",
        at(Screen {
            help: true,
            ..Screen::default()
        }),
    );
    snapshot("once", picture(&model, &Screen::default()).print());
}

#[test]
fn trouble_is_said_in_words() {
    let model = troubled();
    let at = |pane| {
        text(&drawn(
            &picture(
                &model,
                &Screen {
                    pane,
                    ..Screen::default()
                },
            ),
            (80, 24),
        ))
    };
    snapshot(
        "trouble",
        [at(Pane::Steps), at(Pane::Partitions), at(Pane::Errors)].concat(),
    );
}

#[test]
fn what_is_old_is_dim_and_says_so() {
    let (model, screen) = (
        real(),
        Screen {
            paused: true,
            ..Screen::default()
        },
    );
    let away = Away {
        for_: Duration::from_millis(12_900),
        why: "Connection refused (os error 111)".to_owned(),
    };
    let picture = Picture {
        away: Some(&away),
        ..picture(&model, &screen)
    };
    let buffer = drawn(&picture, (100, 24));
    let text = text(&buffer);
    assert!(
        text.contains("no answer for 12 s (Connection refused (os error 111))"),
        "{text}"
    );
    assert!(text.contains("paused") && text.contains("navigation"), "{text}");
    let dim = |row: u16| (0..100).all(|x| buffer[(x, row)].modifier.contains(Modifier::DIM));
    assert!(!dim(2), "what is wrong is not dim");
    assert!((3..23).all(dim));
}

#[test]
fn colours_are_left_out_where_they_are_not_wanted() {
    let (model, screen) = (troubled(), Screen::default());
    let with = |colours| {
        drawn(
            &Picture {
                look: Look { colours },
                ..picture(&model, &screen)
            },
            (80, 24),
        )
    };
    let coloured = |buffer: &Buffer| {
        buffer
            .content
            .iter()
            .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert!(coloured(&with(true)));
    assert!(!coloured(&with(false)));
    assert_eq!(text(&with(true)), text(&with(false)));
}

#[test]
fn the_selected_pipeline_is_in_sight() {
    let names: Vec<String> = (0..40).map(|n| format!("\"p{n:02}\": {{}}")).collect();
    let mut history = History::default();
    history.push(
        Duration::ZERO,
        Answers::of(&format!("{{\"pipelines\": {{{}}}}}", names.join(",")), ""),
    );
    let model = history.model().unwrap();
    let mut screen = Screen::default();
    for name in ["p00", "p07", "p25", "p39", "p03"] {
        while screen.shown(&model.pipelines).unwrap().name != name {
            let code = if screen.shown(&model.pipelines).unwrap().name.as_str() < name {
                'j'
            } else {
                'k'
            };
            screen.key(ratatui::crossterm::event::KeyCode::Char(code).into(), &model.pipelines);
        }
        for size in [(80, 24), (80, 10), (20, 5)] {
            let text = text(&drawn(&picture(&model, &screen), size));
            assert!(text.contains(&format!("> {name}")), "{size:?}: {text}");
        }
    }
}

#[test]
fn what_comes_from_outside_does_not_drive_the_terminal() {
    let nasty = r"x\u001b[2J\u009b31m\r\n\u0007\u202ey\u200b";
    let status = format!(
        r#"{{"version": "{nasty}", "breakers": {{"{nasty}": "{nasty}"}}, "pipelines": {{"{nasty}": {{"stages": {{"step:{nasty}": {{}}}},
            "loops": [{{"state": "{nasty}", "halted": "{nasty}", "last_errors": ["{nasty}"], "partitions": [{{"topic": "{nasty}", "phase": "{nasty}"}}]}}]}}}}}}"#
    );
    let metrics = "messina_failures_total{pipeline=\"x\u{1b}[2J\u{9b}31m\",step=\"\u{1b}\",class=\"\u{7}\",level=\"\u{202e}\"} 1\n";
    let no = said(503, "x\u{1b}[2J\u{202e}\ny");
    let mut history = History::default();
    history.push(Duration::ZERO, Answers::read(&status, metrics, &no, &no).unwrap());
    let model = history.model().unwrap();
    let drives = |text: &str| {
        text.chars()
            .any(|c| c != '\n' && (c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')))
    };
    for pane in Pane::ALL {
        let screen = Screen {
            pane,
            ..Screen::default()
        };
        let text = text(&drawn(&picture(&model, &screen), (120, 40)));
        assert!(text.contains("x\u{fffd}[2J"), "{text}");
        assert!(!drives(&text), "{text:?}");
    }
    let printed = picture(&model, &Screen::default()).print();
    assert!(!drives(&printed), "{printed:?}");
}

/// `UPDATE_DOCS=1 cargo test --lib top` redraws the picture in docs/operations.md.
#[test]
fn the_picture_in_docs_is_current() {
    const MARKS: [&str; 2] = [
        "<!-- messina top, drawn by src/cli/top/view/tests.rs -->\n```\n",
        "```\n",
    ];
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(MARKS[0]).unwrap();
    let (_, after) = rest.split_once(MARKS[1]).unwrap();
    let now = text(&drawn(&picture(&real(), &Screen::default()), (80, 24)));
    let new = [before, MARKS[0], &now, MARKS[1], after].concat();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &new).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap() == new,
        "the picture in docs/operations.md is stale: UPDATE_DOCS=1 cargo test --lib top draws it anew"
    );
}
