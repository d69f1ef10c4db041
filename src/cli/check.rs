//! `messina check`: reports the mistakes in a configuration, all of a stage at once.

use std::process::ExitCode;

use anyhow::Context;

use super::{ConfigFiles, answer, print, runtime};
use crate::app;
use crate::config::{Diagnostics, report};
use crate::custom::CustomSteps;
use crate::shutdown::Exit;

/// Check a configuration and report the mistakes in it. Exit code 0, or 78 if there are errors. Errors come in stages: mend those of one to see those
/// of the next.
#[derive(Debug, clap::Args)]
pub struct Check {
    #[command(flatten)]
    config: ConfigFiles,
    /// Also check against brokers, registry and database: topics, statements, types. Changes nothing there.
    #[arg(long)]
    online: bool,
    /// Output format of the findings.
    #[arg(long, value_enum, default_value_t = Form::Human)]
    format: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// For people, to stderr.
    Human,
    /// One JSON array, to stdout.
    Json,
    /// SARIF 2.1.0, to stdout, for code scanning.
    Sarif,
    /// GitHub workflow commands, to stdout: annotations on the lines of a change.
    Github,
}

/// Runs the check.
pub fn run(args: Check, customs: &CustomSteps) -> anyhow::Result<ExitCode> {
    let mut asked = Ok(());
    let findings = match args.config.load() {
        Err(findings) => findings,
        Ok((config, sources, warnings)) if !args.online => {
            let own = app::check_customs(&config, &sources, customs);
            Diagnostics::new(warnings.iter().chain(own.iter()).cloned().collect())
        }
        Ok((config, sources, warnings)) => {
            let runtime = runtime(Some(2))?;
            let (online, ended) = runtime.block_on(app::check_online(&config, &sources, customs));
            asked = ended;
            Diagnostics::new(warnings.iter().chain(online.iter()).cloned().collect())
        }
    };
    match args.format {
        Form::Human => print(&findings),
        Form::Json => answer(&format!("{}\n", findings.json().context("findings as JSON")?))?,
        Form::Sarif => answer(&format!("{}\n", report::sarif(&findings)))?,
        Form::Github => answer(&report::github(&findings))?,
    }
    if let Err(unavailable) = asked {
        say!("error: cannot check online: {unavailable}");
        return Ok(Exit::Unavailable.into());
    }
    if findings.has_errors() {
        return Ok(Exit::Config.into());
    }
    if args.format == Form::Human {
        say!(
            "the configuration is sound{}",
            if args.online {
                ", and fits the live services"
            } else {
                ""
            }
        );
    }
    Ok(ExitCode::SUCCESS)
}
