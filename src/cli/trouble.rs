//! Errors that end a command, with their exit codes.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use super::print;
use crate::app::StartError;
use crate::config::Diagnostics;
use crate::shutdown::Exit;
use crate::telemetry::logging::LoggingError;

/// Why a command cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The arguments ask for something that does not exist.
    #[error("{0}")]
    Usage(String),
    /// A service does not provide what is needed.
    #[error("{0}")]
    Unavailable(String),
    /// The configuration cannot be used. Its findings have been printed.
    #[error("the configuration cannot be used")]
    Config,
}

impl Trouble {
    /// A service that failed, and its error.
    pub fn unavailable(what: &str, error: &dyn Display) -> anyhow::Error {
        Trouble::Unavailable(format!("{what}: {error}")).into()
    }

    /// A configuration that cannot be used. Its findings are printed here, not at the end of the command: whatever the command has started may take a
    /// while to stop.
    pub fn config(findings: &Diagnostics) -> Trouble {
        print(findings);
        Trouble::Config
    }

    /// Pipelines that could not be started.
    pub fn not_started(error: StartError) -> Trouble {
        match error {
            StartError::Config(findings) => Trouble::config(&findings),
            error @ (StartError::Away(_) | StartError::Process(_)) => Trouble::Unavailable(error.to_string()),
        }
    }
}

/// The end of a command: prints the trouble, and turns it into an exit code. Output that nobody reads any more is not an error.
pub fn ended(result: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    let Err(error) = result else { return result };
    // The reader closed the pipe, because it has seen enough.
    let closed = error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
    if closed {
        return Ok(ExitCode::SUCCESS);
    }
    let exit = match error.downcast_ref::<Trouble>() {
        Some(Trouble::Usage(_)) => Exit::Usage,
        Some(Trouble::Unavailable(_)) => Exit::Unavailable,
        Some(Trouble::Config) => return Ok(Exit::Config.into()),
        None => match error.downcast_ref::<LoggingError>() {
            // The configuration's filter was checked before, so this one is from RUST_LOG.
            Some(LoggingError::Filter { .. }) => Exit::Config,
            _ => return Err(error),
        },
    };
    say!("error: {error}");
    Ok(exit.into())
}
