//! `messina demo`: three pipelines end to end, with nothing installed.

use std::process::ExitCode;

use super::trouble::Trouble;
use super::{answer, runtime};
use crate::config::LogFormat;
use crate::demo::{self, DemoError, Places, config_text};
use crate::shutdown::Exit;
use crate::telemetry::logging;

/// Run three pipelines on an embedded Kafka, registry and database, and verify that nothing is lost. Exit code 0, or 70 with the differences.
/// RUST_LOG=info also shows the log.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Number of records for the three pipelines together.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    records: u64,
    /// Print the result as one JSON line on stdout.
    #[arg(long)]
    json: bool,
    /// Print the configuration of the three pipelines and exit.
    #[arg(long, conflicts_with_all = ["records", "json"])]
    config: bool,
}

/// Runs the demo.
pub fn run(args: Demo) -> anyhow::Result<ExitCode> {
    if args.config {
        answer(&config_text(&Places::default()))?;
        return Ok(ExitCode::SUCCESS);
    }
    // The demo publishes dead letters on purpose, and their log lines would hide everything else.
    logging::init("off", LogFormat::Auto, None, None)?;
    let runtime = runtime(None)?;
    let report = runtime.block_on(demo::run(args.records));
    // Calls to the embedded brokers may still wait for an answer that nobody needs any more.
    runtime.shutdown_background();
    let report = match report {
        Err(DemoError::System(error)) => return Err(Trouble::Unavailable(error.to_string()).into()),
        report => report?,
    };
    let Some(report) = report else {
        say!("stopped before the first record");
        return Ok(ExitCode::from(130));
    };
    if args.json {
        answer(&format!("{}\n", report.json()))?;
    } else {
        answer(&format!("\n{}\n", report.human()))?;
    }
    Ok(if report.is_ok() {
        ExitCode::SUCCESS
    } else {
        report.problems.iter().for_each(|problem| say!("error: {problem}"));
        Exit::Internal.into()
    })
}
