//! When to stop: SIGTERM or SIGINT once is a drain, a second one is the end at once.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

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
