//! The command line: one file per command.

pub mod check;
pub mod demo;
pub mod run;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, Diagnostics, Sources};
use crate::shutdown::Exit;

/// Enriches Kafka streams of Avro records by look-ups in ScyllaDB: declared pipelines, nothing lost.
#[derive(Debug, Parser)]
#[command(name = "messina", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the main job end to end with nothing installed: in-process Kafka, registry and database.
    Demo(demo::Demo),
    /// Runs the pipelines until told to stop.
    Run(run::Run),
    /// Checks a configuration and says everything that is wrong with it.
    Check(check::Check),
}

/// Where the configuration comes from.
#[derive(Debug, clap::Args)]
pub struct ConfigFiles {
    /// A configuration file; may be repeated, and the later one wins.
    #[arg(short = 'c', long = "config", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

impl ConfigFiles {
    /// Loads the files and the environment, and checks what can be known offline; all findings otherwise.
    pub fn load(&self) -> Result<(Config, Sources, Diagnostics), Diagnostics> {
        let (config, sources) = crate::config::load(&self.files, std::env::vars())?;
        let mut findings = crate::config::check(&config, &sources);
        for pipeline in config.pipelines.values() {
            // Names and places are the configuration check's; what remains is what only the parser of CEL sees.
            if findings.is_empty()
                && let Err(found) = crate::pipeline::program::parse(pipeline)
            {
                findings.extend(crate::app::findings_to_diagnostics(found, &sources).iter().cloned());
            }
        }
        let findings = Diagnostics::new(findings);
        if findings.has_errors() {
            Err(findings)
        } else {
            Ok((config, sources, findings))
        }
    }
}

/// Prints findings for people, to stderr.
pub fn print(findings: &Diagnostics) {
    eprint!("{}", findings.human(std::io::stderr().is_terminal()));
}

/// Runs the command.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
    }
}

/// Parses the arguments; usage errors end the process with 64, as sysexits has it.
pub fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        // Help and version go to stdout and are no errors; a closed pipe is nobody's.
        let _ = error.print();
        if error.use_stderr() {
            Exit::Usage.into()
        } else {
            ExitCode::SUCCESS
        }
    })
}
