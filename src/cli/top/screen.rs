//! What is selected and shown, and how keys change it. Pure.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::Pipeline;

/// A view of one pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Pane {
    #[default]
    Steps,
    Partitions,
    Errors,
}

impl Pane {
    pub(super) const ALL: [Pane; 3] = [Pane::Steps, Pane::Partitions, Pane::Errors];

    pub(super) fn name(self) -> &'static str {
        match self {
            Pane::Steps => "steps",
            Pane::Partitions => "partitions",
            Pane::Errors => "errors",
        }
    }

    fn moved(self, by: usize) -> Pane {
        Pane::ALL[(self as usize + by) % Pane::ALL.len()]
    }
}

/// The user's selection.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// The pipeline's name, because a reload may add and remove pipelines. If there is none of this name, the first is
    /// shown.
    pub selected: String,
    pub pane: Pane,
    pub paused: bool,
    pub help: bool,
}

impl Screen {
    /// The selected pipeline.
    pub(super) fn shown<'a>(&self, pipelines: &'a [Pipeline]) -> Option<&'a Pipeline> {
        pipelines.get(self.at(pipelines))
    }

    fn at(&self, pipelines: &[Pipeline]) -> usize {
        pipelines.iter().position(|one| one.name == self.selected).unwrap_or(0)
    }

    /// Handles a key. Returns whether the program goes on.
    pub(super) fn key(&mut self, key: KeyEvent, pipelines: &[Pipeline]) -> bool {
        if key.kind == KeyEventKind::Release {
            return true;
        }
        let last = pipelines.len().saturating_sub(1);
        let at = self.at(pipelines);
        let to = match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('q') => return false,
            KeyCode::Esc if !self.help => return false,
            KeyCode::Esc => {
                self.help = false;
                at
            }
            KeyCode::Char('?') => {
                self.help = !self.help;
                at
            }
            KeyCode::Char('p') => {
                self.paused = !self.paused;
                at
            }
            KeyCode::Tab | KeyCode::Right => {
                self.turn(1);
                at
            }
            KeyCode::BackTab | KeyCode::Left => {
                self.turn(Pane::ALL.len() - 1);
                at
            }
            KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => (at + 1).min(last),
            KeyCode::Home => 0,
            KeyCode::End => last,
            _ => at,
        };
        if let Some(pipeline) = pipelines.get(to) {
            self.selected.clone_from(&pipeline.name);
        }
        true
    }

    fn turn(&mut self, by: usize) {
        // Leaving the help returns to the previous pane.
        if !std::mem::take(&mut self.help) {
            self.pane = self.pane.moved(by);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::top::answer::Answers;
    use crate::cli::top::model::History;

    fn pipelines(names: &[&str]) -> Vec<Pipeline> {
        let each: Vec<String> = names.iter().map(|name| format!("\"{name}\": {{}}")).collect();
        let mut history = History::default();
        history.push(
            Duration::ZERO,
            Answers::of(&format!("{{\"pipelines\": {{{}}}}}", each.join(",")), ""),
        );
        history.model().unwrap().pipelines
    }

    fn press(screen: &mut Screen, code: KeyCode, pipelines: &[Pipeline]) -> bool {
        screen.key(KeyEvent::new(code, KeyModifiers::NONE), pipelines)
    }

    #[test]
    fn keys_that_end_end() {
        let all = pipelines(&["a"]);
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert!(!press(&mut Screen::default(), code, &all), "{code:?}");
        }
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(!Screen::default().key(interrupt, &all));
        assert!(press(&mut Screen::default(), KeyCode::Char('c'), &all));
        let mut released = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        released.kind = KeyEventKind::Release;
        assert!(Screen::default().key(released, &all));
    }

    #[test]
    fn the_selection_stays_on_its_pipeline() {
        let mut screen = Screen::default();
        let all = pipelines(&["a", "b", "c"]);
        let shown = |screen: &Screen, all: &[Pipeline]| screen.shown(all).map(|one| one.name.clone());
        assert_eq!(shown(&screen, &all).as_deref(), Some("a"));
        for (code, name) in [
            (KeyCode::Up, "a"),
            (KeyCode::Down, "b"),
            (KeyCode::Char('j'), "c"),
            (KeyCode::Down, "c"),
            (KeyCode::Char('k'), "b"),
        ] {
            assert!(press(&mut screen, code, &all));
            assert_eq!(shown(&screen, &all).as_deref(), Some(name), "{code:?}");
        }
        // A reload adds a pipeline before it, and then removes the selected one.
        assert_eq!(shown(&screen, &pipelines(&["0", "a", "b"])).as_deref(), Some("b"));
        assert_eq!(shown(&screen, &pipelines(&["0", "a"])).as_deref(), Some("0"));
        assert_eq!(shown(&screen, &[]), None);
        assert!(press(&mut screen, KeyCode::Down, &[]));
    }

    #[test]
    fn views_go_round_and_the_help_goes_back() {
        let all = pipelines(&["a"]);
        let mut screen = Screen::default();
        for (code, pane) in [
            (KeyCode::Tab, Pane::Partitions),
            (KeyCode::Right, Pane::Errors),
            (KeyCode::Right, Pane::Steps),
            (KeyCode::Left, Pane::Errors),
            (KeyCode::BackTab, Pane::Partitions),
        ] {
            press(&mut screen, code, &all);
            assert_eq!(screen.pane, pane, "{code:?}");
        }
        for back in [KeyCode::Char('?'), KeyCode::Esc, KeyCode::Tab] {
            press(&mut screen, KeyCode::Char('?'), &all);
            assert!(screen.help);
            assert!(press(&mut screen, back, &all));
            assert_eq!((screen.help, screen.pane), (false, Pane::Partitions), "{back:?}");
        }
        press(&mut screen, KeyCode::Char('p'), &all);
        assert!(screen.paused);
    }
}
