//! When to stop: SIGTERM or SIGINT once is a drain, a second one is the end at once. SIGHUP, SIGUSR1 and SIGUSR2 stop nothing.

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// How long the commit before partitions are given back is waited for: beyond the drain, and within the group's patience. Without
/// its answer records are processed again, and nothing is lost.
pub const LEAVE_COMMIT: Duration = Duration::from_secs(10);

/// Waits for the first signal to stop. The second one, at any time after it, ends the process with status 130.
pub async fn requested() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("second signal: stopping at once; what is in flight will be processed again");
        std::process::exit(130);
    });
    Ok(name)
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
