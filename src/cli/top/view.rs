//! Draws the model: header, pipelines, a graph, and the details of one pipeline. Pure: it draws into a buffer.
//!
//! Every colour repeats what a word beside it says. Every part is cut at the edge, so a small terminal just shows less.

mod pane;
mod table;

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline, Widget, Wrap};

use super::model::{Model, Mood, Pipeline};
use super::numbers::{NONE, count, known, percent, seconds};
use super::screen::{Pane, Screen};
use table::{Side, table};

/// The most lines for the reasons why something is wrong.
const REASONS: usize = 3;

/// The most partitions of each pipeline in the printed view.
const PRINTED_PARTITIONS: usize = 10;

/// How moods are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Whether colours are wanted.
    pub colours: bool,
}

impl Look {
    fn of(self, mood: Mood) -> Style {
        let (colour, style) = match mood {
            Mood::Good => (Color::Green, Style::new()),
            Mood::Warn => (Color::Yellow, Style::new().add_modifier(Modifier::BOLD)),
            Mood::Bad => (Color::Red, Style::new().add_modifier(Modifier::BOLD)),
        };
        if self.colours { style.fg(colour) } else { style }
    }
}

/// A process that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Away {
    /// How long it has not answered.
    pub for_: Duration,
    pub why: String,
}

/// Everything that is drawn.
pub(super) struct Picture<'a> {
    pub place: &'a str,
    pub model: &'a Model,
    pub screen: &'a Screen,
    pub away: Option<&'a Away>,
    pub look: Look,
}

/// A word, with a style only if the mood is not good.
fn word(text: String, mood: Mood, look: Look) -> Span<'static> {
    if mood == Mood::Good {
        Span::raw(text)
    } else {
        Span::styled(text, look.of(mood))
    }
}

impl Picture<'_> {
    /// Draws the whole view.
    pub(super) fn draw(&self, area: Rect, buffer: &mut Buffer) {
        let width = usize::from(area.width);
        let mut header = self.header();
        let reasons = self.reasons();
        let left = reasons.len().saturating_sub(REASONS);
        header.extend(reasons.into_iter().take(REASONS));
        if left > 0 {
            header.push(Line::raw(format!("and {left} more: --once prints them all")));
        }
        let room = usize::from(area.height).saturating_sub(header.len() + 2) / 2;
        let rows = self.model.pipelines.len().min(room.max(3)) + 1;
        let graph = match area.height {
            0..=15 => 0,
            16..=31 => 3,
            _ => 5,
        };
        let lines = |lines: usize| Constraint::Length(u16::try_from(lines).unwrap_or(u16::MAX));
        let [top, pipelines, throughput, tabs, pane, footer] = Layout::vertical([
            lines(header.len()),
            lines(rows),
            Constraint::Length(graph),
            Constraint::Length(1),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(area);
        Paragraph::new(header).render(top, buffer);
        self.pipelines(pipelines, buffer);
        if let Some(pipeline) = self.screen.shown(&self.model.pipelines) {
            self.graph(pipeline, throughput, buffer);
            self.tabs(pipeline).render(tabs, buffer);
            let height = usize::from(pane.height);
            let (mut text, wrap) = match self.screen.pane {
                _ if self.screen.help => (pane::help(), false),
                Pane::Steps => (pane::steps(self.model, pipeline, width, self.look), false),
                Pane::Partitions => (pane::partitions(pipeline, width, height, self.look), false),
                Pane::Errors => (pane::errors(pipeline, width, self.look), true),
            };
            if text.len() > height {
                text.truncate(height.saturating_sub(1));
                text.push(Line::raw(
                    "and more: enlarge the terminal, or use --once to print everything",
                ));
            }
            let text = Paragraph::new(text);
            if wrap { text.wrap(Wrap { trim: false }) } else { text }.render(pane, buffer);
        }
        if self.away.is_some() {
            let old = Rect {
                y: area.y + top.height,
                height: area.height - top.height,
                ..area
            };
            buffer.set_style(old, Style::new().add_modifier(Modifier::DIM));
        }
        Paragraph::new("q quit  ↑↓ pipeline  ←→ view  p pause  ? help").render(footer, buffer);
    }

    fn header(&self) -> Vec<Line<'static>> {
        let (model, look) = (self.model, self.look);
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let mut first = vec![
            Span::styled(format!("Messina {}", model.version), bold),
            Span::raw("  "),
        ];
        let verdict = |no: &[String], yes: &'static str, not: &'static str| match no {
            [] => Span::styled(yes, look.of(Mood::Good)),
            _ => Span::styled(not, look.of(Mood::Bad)),
        };
        first.push(verdict(&model.not_ready, "ready", "not ready"));
        first.push(Span::raw(", "));
        first.push(verdict(&model.not_live, "live", "not live"));
        if self.screen.paused {
            first.push(Span::styled("  paused, p resumes", look.of(Mood::Warn)));
        }
        let generation = model
            .generation
            .map_or_else(|| NONE.to_owned(), |generation| generation.to_string());
        first.push(Span::raw(format!("  configuration {generation}")));
        first.push(Span::raw(format!("  up {}  {}", seconds(model.uptime), self.place)));
        let memory = model
            .memory
            .map_or_else(|| NONE.to_owned(), |bytes| format!("{} MB", count(bytes / 1e6)));
        let mut second = vec![Span::raw(format!(
            "CPU {} cores  memory {memory}  budget {}  breakers: ",
            known(model.cpu),
            percent(model.budget)
        ))];
        let open: Vec<&(String, String)> = model.breakers.iter().filter(|(_, state)| state != "closed").collect();
        if open.is_empty() {
            second.push(Span::raw(if model.breakers.is_empty() { NONE } else { "all closed" }));
        }
        for (n, (name, state)) in open.into_iter().enumerate() {
            second.push(Span::raw(format!("{}{name} ", if n > 0 { ", " } else { "" })));
            second.push(Span::styled(state.clone(), look.of(pane::breaker(state))));
        }
        vec![Line::from(first), Line::from(second)]
    }

    /// Why the process is away, not live or not ready.
    fn reasons(&self) -> Vec<Line<'static>> {
        let bad = self.look.of(Mood::Bad);
        let mut lines = Vec::new();
        if let Some(away) = self.away {
            let since = seconds(Some(away.for_.as_secs() as f64));
            let text = format!("no answer for {since} ({}): showing old data, retrying", away.why);
            lines.push(Line::styled(text, bad));
        }
        lines.extend(
            self.model
                .not_live
                .iter()
                .map(|why| Line::styled(format!("not live: {why}"), bad)),
        );
        lines.extend(
            self.model
                .not_ready
                .iter()
                .map(|why| Line::styled(format!("not ready: {why}"), bad)),
        );
        if self.model.rejected {
            let text = "the configuration offered last was rejected; the previous one still runs";
            lines.push(Line::styled(text, self.look.of(Mood::Warn)));
        }
        lines
    }

    fn pipeline_lines(&self, width: usize, selected: Option<&str>) -> Vec<Line<'static>> {
        let head = [
            ("  PIPELINE", Side::Left),
            ("STATE", Side::Left),
            ("RECORDS/S", Side::Right),
            ("LAG", Side::Right),
            ("LAG AGE", Side::Right),
            ("IN FLIGHT", Side::Right),
            ("DEAD", Side::Right),
            ("ERRORS/S", Side::Right),
        ];
        let row = |one: &Pipeline| {
            let marker = if selected == Some(one.name.as_str()) {
                "> "
            } else {
                "  "
            };
            let (mood, state) = &one.state;
            let bound = if one.bound > 0 {
                count(one.bound as f64)
            } else {
                NONE.to_owned()
            };
            let full = if one.full { " full" } else { "" };
            vec![
                Span::raw(format!("{marker}{}", one.name)),
                Span::styled(state.clone(), self.look.of(*mood)),
                Span::raw(known(one.rate)),
                Span::raw(known(one.lag_records.map(|lag| lag as f64))),
                Span::raw(seconds(one.lag_seconds)),
                Span::raw(format!("{}/{bound}{full}", count(one.in_flight as f64))),
                Span::raw(known(one.dead_letters.map(|letters| letters as f64))),
                pane::rate_of_errors(one.errors, self.look),
            ]
        };
        table(&head, self.model.pipelines.iter().map(row).collect(), width)
    }

    /// Draws the table of pipelines, scrolled so that the selected one is visible.
    fn pipelines(&self, area: Rect, buffer: &mut Buffer) {
        let all = &self.model.pipelines;
        let selected = self.screen.shown(all).map(|shown| shown.name.as_str());
        let mut lines = self.pipeline_lines(usize::from(area.width), selected);
        let at = all
            .iter()
            .position(|one| selected == Some(one.name.as_str()))
            .unwrap_or(0);
        if let Some(line) = lines.get_mut(at + 1) {
            line.style = line.style.add_modifier(Modifier::REVERSED);
        }
        let room = usize::from(area.height).saturating_sub(1).max(1);
        let first = (at + 1).saturating_sub(room);
        lines.drain(1..1 + first);
        Paragraph::new(lines).render(area, buffer);
    }

    fn graph(&self, pipeline: &Pipeline, area: Rect, buffer: &mut Buffer) {
        let [title, bars] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
        let seen = pipeline.history.len().min(usize::from(area.width));
        let shown = &pipeline.history[pipeline.history.len() - seen..];
        let most = shown.iter().flatten().max().copied().unwrap_or(0);
        Line::raw(format!(
            "records/s: now {}, peak {}",
            known(shown.last().copied().flatten().map(|rate| rate as f64)),
            count(most as f64)
        ))
        .render(title, buffer);
        Sparkline::default()
            .data(shown.iter().copied())
            .max(most.max(1))
            .render(bars, buffer);
    }

    fn tabs(&self, pipeline: &Pipeline) -> Line<'static> {
        let mut spans = Vec::new();
        for pane in Pane::ALL {
            let shown = pane == self.screen.pane && !self.screen.help;
            spans.push(match shown {
                true => Span::styled(
                    format!("[{}]", pane.name()),
                    Style::new().add_modifier(Modifier::REVERSED),
                ),
                false => Span::raw(pane.name()),
            });
            spans.push(Span::raw("  "));
        }
        spans.push(Span::raw("of "));
        spans.push(Span::styled(
            pipeline.name.clone(),
            Style::new().add_modifier(Modifier::BOLD),
        ));
        Line::from(spans)
    }

    /// The same as text, with every pane of every pipeline. Only the partitions are cut.
    pub(super) fn print(&self) -> String {
        let mut lines = self.header();
        lines.extend(self.reasons());
        lines.push(Line::raw(""));
        lines.extend(self.pipeline_lines(usize::MAX, None));
        for pipeline in &self.model.pipelines {
            let parts = [
                vec![Line::raw(""), Line::raw(format!("== {}", pipeline.name))],
                pane::steps(self.model, pipeline, usize::MAX, self.look),
                vec![Line::raw("")],
                pane::partitions(pipeline, usize::MAX, PRINTED_PARTITIONS + 2, self.look),
                vec![Line::raw("")],
                pane::errors(pipeline, usize::MAX, self.look),
            ];
            lines.extend(parts.into_iter().flatten());
        }
        lines
            .iter()
            .map(|line| format!("{}\n", line.to_string().trim_end()))
            .collect()
    }
}

#[cfg(test)]
mod tests;
