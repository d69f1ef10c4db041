//! `messina top`: a live view of a running process in the terminal.
//!
//! One thread asks the process, one reads keys, one waits for signals; this one draws. `model` computes what is shown, `view` draws it, and both are
//! pure. Invariant: however it ends (a key, a signal, an error or a panic), the terminal is restored.

mod answer;
mod model;
mod numbers;
mod screen;
mod series;
mod view;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use tokio::signal::unix::{SignalKind, signal};

use super::ask::{Place, Process};
use crate::config::parse_duration;
use crate::shutdown::Exit;
use answer::Answers;
use model::{History, Model};
use screen::Screen;
use view::{Away, Look, Picture};

/// How often the time since the last answer is redrawn.
const CLOCK: Duration = Duration::from_secs(1);

/// Show what a running process does: rates, lag, what it waits for, what fails. Exit code 69 if it does not answer at the start.
#[derive(Debug, clap::Args)]
pub struct Top {
    /// HTTP address of the process, as http://HOST:PORT or HOST:PORT. Default: --listen.
    #[arg(value_name = "URL")]
    url: Option<Place>,
    #[command(flatten)]
    process: Process,
    /// Refresh interval, in seconds or with a unit.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Ask twice, print everything as text, and exit.
    #[arg(long)]
    once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = |number: f64| Duration::try_from_secs_f64(number).ok();
    let interval = text.parse().ok().and_then(seconds).or_else(|| parse_duration(text));
    interval
        .filter(|interval| (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(interval))
        .ok_or_else(|| "expected seconds, from 0.1 to 3600, or a duration such as 500ms or 1m".to_owned())
}

/// Runs the command.
pub fn run(args: &Top) -> anyhow::Result<ExitCode> {
    let place = args.url.clone().unwrap_or_else(|| Place::from(args.process));
    let terminal = std::io::stdout().is_terminal();
    if !args.once && !terminal {
        say!("stdout is not a terminal: printing everything once, as with --once");
    }
    let began = Instant::now();
    let mut history = History::default();
    match Answers::fetch(&place) {
        Ok(answer) => history.push(began.elapsed(), answer),
        Err(why) => return Ok(no_answer(&place, &why)),
    }
    if args.once || !terminal {
        std::thread::sleep(args.interval);
        match Answers::fetch(&place) {
            Ok(answer) => history.push(began.elapsed(), answer),
            Err(why) => return Ok(no_answer(&place, &why)),
        }
        let text = history.model().map(|model| {
            let picture = Picture {
                place: &place.to_string(),
                model: &model,
                screen: &Screen::default(),
                away: None,
                look: Look { colours: false },
            };
            picture.print()
        });
        super::answer(&text.unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut terminal = match ratatui::try_init() {
        Ok(terminal) => terminal,
        Err(error) => {
            // The terminal may have been set up in part.
            let _ = ratatui::try_restore();
            return Err(error).context("cannot set up the terminal: --once prints the same as text");
        }
    };
    let end = Watch::new(place, args.interval, began, history).and_then(|mut watch| watch.go(&mut terminal));
    // Show the cursor first, because ratatui hid it.
    let shown = terminal.show_cursor();
    let restored = ratatui::try_restore();
    end?;
    shown
        .and(restored)
        .context("cannot restore the terminal: run `reset`")?;
    Ok(ExitCode::SUCCESS)
}

fn no_answer(place: &Place, why: &str) -> ExitCode {
    say!(
        "error: {place} does not answer: {why}\n\
         Pass the address of `[http] listen`, as URL or with --listen. From another host: kubectl port-forward POD 9090, or kubectl exec -it POD -- messina top."
    );
    Exit::Unavailable.into()
}

/// The events that the loop waits for.
enum Happened {
    Input(Event),
    Answered(Box<Result<Answers, String>>),
    Stop,
    Broken(anyhow::Error),
}

/// The loop that draws the view.
struct Watch {
    place: String,
    interval: Duration,
    began: Instant,
    history: History,
    model: Model,
    screen: Screen,
    look: Look,
    /// When a request first went without an answer, and why.
    away: Option<(Instant, String)>,
    /// When the last request was sent.
    asked: Instant,
    ask: Sender<()>,
    /// When to send the next request; `None` while an answer is awaited.
    due: Option<Instant>,
    happened: Receiver<Happened>,
    helpers: Vec<JoinHandle<()>>,
}

impl Watch {
    fn new(place: Place, interval: Duration, began: Instant, history: History) -> anyhow::Result<Watch> {
        let (tell, happened) = channel();
        let (ask, asked) = channel();
        let name = place.to_string();
        let model = history.model().context("the first answer is missing")?;
        let helpers = vec![
            helper("top-ask", &tell, move |tell| asker(&place, &asked, tell))?,
            helper("top-keys", &tell, keys)?,
            helper("top-signals", &tell, signals)?,
        ];
        Ok(Watch {
            place: name,
            interval,
            began,
            history,
            model,
            screen: Screen::default(),
            look: Look {
                colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            },
            away: None,
            asked: Instant::now(),
            ask,
            due: Some(Instant::now() + interval),
            happened,
            helpers,
        })
    }

    /// Draws until a key or a signal ends the loop.
    fn go(&mut self, terminal: &mut DefaultTerminal) -> anyhow::Result<()> {
        loop {
            let now = Instant::now();
            if let Some(due) = self.due
                && due <= now
                && !self.screen.paused
            {
                (self.due, self.asked) = (None, now);
                self.ask.send(()).context("the thread that asks has ended")?;
            }
            self.draw(terminal, now)?;
            let wait = self.due.filter(|_| !self.screen.paused).map_or(CLOCK, |due| due - now);
            match self.happened.recv_timeout(wait.min(CLOCK)) {
                Ok(Happened::Input(Event::Key(key))) => {
                    if !self.screen.key(key, &self.model.pipelines) {
                        return Ok(());
                    }
                }
                Ok(Happened::Input(_)) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Happened::Answered(answer)) => self.take(*answer),
                Ok(Happened::Stop) => return Ok(()),
                Ok(Happened::Broken(error)) => return Err(error),
                Err(RecvTimeoutError::Disconnected) => bail!("all threads have ended"),
            }
            if self.helpers.iter().any(JoinHandle::is_finished) {
                return Err(why_ended(&self.happened));
            }
        }
    }

    fn take(&mut self, answer: Result<Answers, String>) {
        let now = Instant::now();
        self.due = Some(now + self.interval);
        match answer {
            Ok(answer) => {
                self.away = None;
                self.history.push(self.began.elapsed(), answer);
                if let Some(model) = self.history.model() {
                    self.model = model;
                }
            }
            Err(why) => {
                let since = self.away.take().map_or(self.asked, |(since, _)| since);
                self.away = Some((since, why));
            }
        }
    }

    fn draw(&self, terminal: &mut DefaultTerminal, now: Instant) -> anyhow::Result<()> {
        let away = self.away.as_ref().map(|(since, why)| Away {
            for_: now.saturating_duration_since(*since),
            why: why.clone(),
        });
        let picture = Picture {
            place: &self.place,
            model: &self.model,
            screen: &self.screen,
            away: away.as_ref(),
            look: self.look,
        };
        let drawn = terminal.draw(|frame| picture.draw(frame.area(), frame.buffer_mut()));
        drawn.context("cannot draw")?;
        Ok(())
    }
}

/// Why a thread ended: its last message, which may still wait behind others.
fn why_ended(happened: &Receiver<Happened>) -> anyhow::Error {
    let said = happened.try_iter().find_map(|what| match what {
        Happened::Broken(error) => Some(error),
        Happened::Input(_) | Happened::Answered(_) | Happened::Stop => None,
    });
    said.unwrap_or_else(|| anyhow!("a thread has ended"))
}

/// Starts a thread that reports events. It ends with the process.
fn helper(
    name: &str,
    tell: &Sender<Happened>,
    work: impl FnOnce(&Sender<Happened>) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<JoinHandle<()>> {
    let tell = tell.clone();
    let work = move || {
        if let Err(error) = work(&tell) {
            // If nobody receives it, the program is about to end.
            let _ = tell.send(Happened::Broken(error));
        }
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .context("cannot start a thread")
}

/// Sends a request to the process each time it is told to.
fn asker(place: &Place, asked: &Receiver<()>, tell: &Sender<Happened>) -> anyhow::Result<()> {
    while asked.recv().is_ok() {
        tell.send(Happened::Answered(Box::new(Answers::fetch(place))))?;
    }
    Ok(())
}

fn keys(tell: &Sender<Happened>) -> anyhow::Result<()> {
    loop {
        tell.send(Happened::Input(event::read().context("cannot read keys")?))?;
    }
}

/// Signals from other processes. Ctrl-C on this terminal arrives as a key.
fn signals(tell: &Sender<Happened>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
            tell.send(Happened::Stop)?;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_thread_has_its_reason() {
        let (tell, happened) = channel();
        assert_eq!(why_ended(&happened).to_string(), "a thread has ended");
        tell.send(Happened::Input(Event::FocusGained)).unwrap();
        let keys = helper("broken", &tell, |_| bail!("cannot read keys")).unwrap();
        keys.join().unwrap();
        assert_eq!(why_ended(&happened).to_string(), "cannot read keys");
    }

    #[test]
    fn an_interval_is_seconds_or_a_duration() {
        let texts = ["1", "0.5", "500ms", "1m"];
        let expected = [1000, 500, 500, 60_000].map(|ms| Ok(Duration::from_millis(ms)));
        assert_eq!(texts.map(interval), expected);
        for wrong in ["0", "-1", "0.05", "NaN", "inf", "4000", "2h", "x", ""] {
            assert!(interval(wrong).unwrap_err().contains("0.1 to 3600"), "{wrong}");
        }
    }
}
