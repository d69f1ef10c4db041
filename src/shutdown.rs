//! Signals and the phases of a stop. The first SIGTERM or SIGINT drains; a second one ends the process at once. SIGHUP, SIGUSR1 and SIGUSR2 do not
//! stop the daemon; but SIGHUP, which a closing terminal sends, stops commands that would otherwise leave files behind.

use std::io;
use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::ptr;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long to wait for the commit before partitions are given back. This comes on top of the drain, and is within the time that the group allows for a
/// rebalance. If the commit is not answered in time, records are processed again, and nothing is lost.
pub const LEAVE_COMMIT: Duration = Duration::from_secs(10);

/// Waits for the first signal to stop. The second one, at any time after it, ends the process with status 130.
pub async fn requested() -> io::Result<&'static str> {
    Ok(Signals::listen()?.requested(|| {}).await)
}

/// Like [`requested`], but also for SIGHUP.
pub async fn requested_or_hung_up() -> io::Result<&'static str> {
    Ok(Signals::listen_to_all()?.requested(|| {}).await)
}

/// Blocks SIGTERM and SIGINT until a handler is installed, if this process is the first of a container (PID 1): the kernel drops a signal that PID 1
/// has no handler for. Any other process should be ended by such an early signal, because it may be reading its configuration from a pipe to which
/// nobody writes.
#[must_use]
pub fn hold() -> Option<Held> {
    (std::process::id() == 1).then(Held::new)
}

/// Blocks the signals while it exists. Drop it on the thread that made it: that thread then receives pending and later signals. Threads that it started
/// meanwhile inherit the mask and receive none.
pub struct Held {
    before: libc::sigset_t,
}

impl Held {
    fn new() -> Held {
        let mut signals = MaybeUninit::<libc::sigset_t>::zeroed();
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the first set is emptied before it is read, and the second is a valid place to write to; an all-zero set is valid, too.
        unsafe {
            libc::sigemptyset(signals.as_mut_ptr());
            libc::sigaddset(signals.as_mut_ptr(), libc::SIGTERM);
            libc::sigaddset(signals.as_mut_ptr(), libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), before.as_mut_ptr());
            Held {
                before: before.assume_init(),
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the set outlives the call, and the null pointer means that nothing is written.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut());
        }
    }
}

/// The signals that stop the process. While a `Signals` listens, none of them ends the process by itself.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// Listens to SIGTERM and SIGINT.
    pub fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: None,
        })
    }

    /// Also listens to SIGHUP, unless the parent process has it ignored, as `nohup` does.
    pub fn listen_to_all() -> io::Result<Signals> {
        let mut signals = Signals::listen()?;
        if !is_ignored(libc::SIGHUP) {
            signals.hangup = Some(signal(SignalKind::hangup())?);
        }
        Ok(signals)
    }

    /// Waits for the first signal. A second one, at any time after it, calls `last` and ends the process with status 130; destructors do not run.
    pub async fn requested(mut self, last: impl FnOnce() + Send + 'static) -> &'static str {
        let name = self.next().await;
        // When a terminal closes, both the system and the shell may send SIGHUP. The second one is not an impatient user.
        self.hangup = None;
        tokio::spawn(async move {
            self.next().await;
            tracing::warn!("second signal: stopping at once; what is in flight will be processed again");
            last();
            std::process::exit(130);
        });
        name
    }

    async fn next(&mut self) -> &'static str {
        let Signals {
            terminate,
            interrupt,
            hangup,
        } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hung_up => "SIGHUP",
        }
    }
}

/// Whether the process ignores a signal.
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no new action is given, so nothing changes; the current one is written to a valid place; an all-zero action is valid, too.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Calls `then` at each SIGHUP, which would end the process otherwise.
pub async fn on_hangup(then: impl Fn()) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return tracing::error!("cannot listen to SIGHUP: {error}"),
    };
    while hangup.recv().await.is_some() {
        then();
    }
}

/// Calls `change` at each SIGUSR1 with true and at each SIGUSR2 with false; each would end the process otherwise.
pub async fn on_user_signals(change: impl Fn(bool)) {
    let both = signal(SignalKind::user_defined1()).and_then(|one| Ok((one, signal(SignalKind::user_defined2())?)));
    let (mut one, mut two) = match both {
        Ok(both) => both,
        Err(error) => return tracing::error!("cannot listen to SIGUSR1 and SIGUSR2: {error}"),
    };
    loop {
        tokio::select! {
            Some(()) = one.recv() => change(true),
            Some(()) = two.recv() => change(false),
            else => return,
        }
    }
}

/// The exit codes of sysexits that Messina uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Wrong arguments.
    Usage = 64,
    /// A service does not answer.
    Unavailable = 69,
    /// A pipeline could not go on, or a bug.
    Internal = 70,
    /// The configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether this thread blocks SIGTERM and SIGINT.
    fn held_back() -> [bool; 2] {
        let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: no new set is given, so nothing changes; the current one is written to a valid place; an all-zero set is valid, too.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), mask.as_mut_ptr());
            [libc::SIGTERM, libc::SIGINT].map(|signal| libc::sigismember(mask.as_ptr(), signal) == 1)
        }
    }

    #[test]
    fn signals_are_held_back_until_they_are_let_go() {
        let held = Held::new();
        assert_eq!(held_back(), [true; 2]);
        drop(held);
        assert_eq!(held_back(), [false; 2]);
        // Tests never run as PID 1.
        assert!(hold().is_none());
    }
}
