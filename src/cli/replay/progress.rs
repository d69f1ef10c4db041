//! Shows the progress of a replay: a progress bar on a terminal, occasional lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The time between two lines, if stderr is not a terminal.
const LINE: Duration = Duration::from_secs(10);
/// Width of the bar, in characters.
const WIDTH: usize = 30;

/// Draws the progress on stderr.
pub struct Progress {
    total: i64,
    /// How many offsets were done before this run.
    before: i64,
    began: Instant,
    terminal: bool,
    next_line: Instant,
    seen: i64,
}

impl Progress {
    /// The progress of a replay of `total` offsets, of which `before` are done.
    pub fn new(total: i64, before: i64) -> Progress {
        let now = Instant::now();
        Progress {
            total,
            before,
            began: now,
            terminal: std::io::stderr().is_terminal(),
            next_line: now + LINE,
            seen: before,
        }
    }

    /// The number of offsets done when progress was last shown.
    pub fn seen(&self) -> i64 {
        self.seen
    }

    /// Shows how many offsets are done.
    pub fn show(&mut self, done: i64) {
        self.seen = done;
        let now = Instant::now();
        let text = line(done, self.total, self.before, now - self.began, self.terminal);
        let mut err = std::io::stderr().lock();
        // If stderr is closed, nobody wants the progress.
        if self.terminal {
            let _ = write!(err, "\r\x1b[2K{text}");
            let _ = err.flush();
        } else if now >= self.next_line {
            self.next_line = now + LINE;
            let _ = writeln!(err, "{text}");
        }
    }

    /// Ends the line of the progress bar.
    pub fn end(&self) {
        if self.terminal {
            say!("");
        }
    }
}

fn line(done: i64, total: i64, before: i64, elapsed: Duration, bar: bool) -> String {
    let share = if total > 0 { done as f64 / total as f64 } else { 1.0 };
    let rate = (done - before) as f64 / elapsed.as_secs_f64().max(0.001);
    let mut text = format!("{:3.0} %  {done} of {total}, {rate:.0} a second", share * 100.0);
    if rate > 0.0 && done < total {
        text.push_str(&format!(", {:.0} s left", (total - done) as f64 / rate));
    }
    if bar {
        let full = (share * WIDTH as f64) as usize;
        text = format!("[{}{}] {text}", "#".repeat(full), "-".repeat(WIDTH - full.min(WIDTH)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is_and_how_long_it_takes() {
        let second = Duration::from_secs(1);
        assert_eq!(
            line(30, 100, 10, second, false),
            " 30 %  30 of 100, 20 a second, 4 s left"
        );
        assert_eq!(
            line(100, 100, 0, second, true),
            "[##############################] 100 %  100 of 100, 100 a second"
        );
        assert_eq!(line(0, 0, 0, second, false), "100 %  0 of 0, 0 a second");
    }
}
