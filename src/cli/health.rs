//! `messina health`: a health check of a running process, for images without a shell or curl.

use std::process::ExitCode;
use std::time::Duration;

use super::ask::Process;
use crate::shutdown::Exit;

/// How long the process may take to answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Ask a running process for /livez, or /readyz with --ready. Exit code 0 if it answers 200; otherwise 69 with its answer.
#[derive(Debug, clap::Args)]
pub struct Health {
    #[command(flatten)]
    process: Process,
    /// Ask for readiness (/readyz) instead of liveness (/livez).
    #[arg(long)]
    ready: bool,
}

/// Runs the command.
pub fn run(args: &Health) -> anyhow::Result<ExitCode> {
    let path = if args.ready { "/readyz" } else { "/livez" };
    let address = args.process.address();
    match args.process.ask(path, PATIENCE) {
        // Messina answers 200 or 503 here, and nothing else.
        Ok(answer) if answer.is_anothers() || !matches!(answer.status, 200 | 503) => {
            say!("{}", args.process.not_messina());
            Ok(Exit::Unavailable.into())
        }
        Ok(answer) if answer.status == 200 => Ok(ExitCode::SUCCESS),
        Ok(answer) => {
            say!("{address}{path}: {}", answer.body);
            Ok(Exit::Unavailable.into())
        }
        Err(error) => {
            say!("{address}{path} does not answer: {error}");
            Ok(Exit::Unavailable.into())
        }
    }
}
