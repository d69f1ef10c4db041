//! Errors that end a command, with their exit codes.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use super::print;
use crate::app::StartError;
use crate::config::Diagnostics;
use crate::shutdown::Exit;
use crate::telemetry::logging::LoggingError;

/// Why a command cannot do what it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The arguments ask for something that is not there.
    #[error("{0}")]
    Usage(String),
    /// A service does not give what is needed.
    #[error("{0}")]
    Unavailable(String),
    /// The configuration cannot be used, and what is wrong with it has been printed.
    #[error("the configuration cannot be used")]
    Config,
}

impl Trouble {
    /// A service, and what it said.
    pub fn unavailable(what: &str, error: &dyn Display) -> anyhow::Error {
        Trouble::Unavailable(format!("{what}: {error}")).into()
    }

    /// A configuration that cannot be used. Its findings are printed here and not at the end of the command: what it has begun may take a while to go.
    pub fn config(findings: &Diagnostics) -> Trouble {
        print(findings);
        Trouble::Config
    }

    /// Pipelines that do not start.
    pub fn not_started(error: StartError) -> Trouble {
        match error {
            StartError::Config(findings) => Trouble::config(&findings),
            error @ (StartError::Away(_) | StartError::Process(_)) => Trouble::Unavailable(error.to_string()),
        }
    }
}

/// A command's end: trouble is told and becomes its exit code; output that nobody reads any more is no trouble.
pub fn ended(result: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    let Err(error) = result else { return result };
    // Whoever reads has seen enough.
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
            // The configuration's was checked: it is RUST_LOG.
            Some(LoggingError::Filter { .. }) => Exit::Config,
            _ => return Err(error),
        },
    };
    say!("error: {error}");
    Ok(exit.into())
}
