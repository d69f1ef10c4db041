//! `messina run`: the daemon.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use super::{ConfigFiles, print};
use crate::app::{self, StartError, Telemetry};
use crate::config::{Config, LogFormat};
use crate::shutdown::{self, Exit};
use crate::source::consumer_loop::End;
use crate::telemetry::logging::{self, Format};

/// What closing consumers and HTTP may take beyond `shutdown_timeout`.
const GRACE: Duration = Duration::from_secs(15);

/// Runs the pipelines until told to stop.
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    config: ConfigFiles,
}

/// Runs the daemon; the exit code says how it ended.
pub fn run(args: Run) -> anyhow::Result<ExitCode> {
    let (config, sources, warnings) = match args.config.load() {
        Ok(loaded) => loaded,
        Err(findings) => {
            print(&findings);
            return Ok(Exit::Config.into());
        }
    };
    print(&warnings);
    start_logging(&config)?;
    let telemetry = match Telemetry::new(&config) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            tracing::error!("{error}");
            return Ok(Exit::Config.into());
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("messina-io")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let limit = config.shutdown_timeout + GRACE;
    let code = runtime.block_on(async {
        let mut signal = std::pin::pin!(shutdown::requested());
        let start = app::start(config, sources, telemetry.clone());
        let mut running = tokio::select! {
            started = start => match started {
                Ok(running) => running,
                Err(StartError::Config(findings)) => {
                    print(&findings);
                    return Ok(Exit::Config.into());
                }
                Err(error @ StartError::Process(_)) => {
                    tracing::error!("{error}");
                    return Ok(Exit::Unavailable.into());
                }
            },
            // Nothing runs yet: there is nothing to drain.
            signal = &mut signal => {
                tracing::info!(signal = signal.context("cannot listen to signals")?, "stopped before the start");
                return Ok(ExitCode::SUCCESS);
            }
        };
        tracing::info!(http = %running.http, version = env!("CARGO_PKG_VERSION"), "running");
        tokio::select! {
            signal = &mut signal => {
                tracing::info!(signal = signal.context("cannot listen to signals")?, "stopping");
            }
            () = running.all_halted() => tracing::error!("every pipeline has halted"),
        }
        let Ok(summary) = tokio::time::timeout(limit, running.stop()).await else {
            // A broker that does not answer can keep a consumer from closing; what was not committed is processed again.
            tracing::error!(seconds = limit.as_secs(), "could not stop in time");
            std::process::exit(Exit::Internal as i32);
        };
        for pipeline in &summary.pipelines {
            for end in &pipeline.ends {
                match end {
                    End::Drained => {}
                    End::Abandoned(left) => {
                        tracing::warn!(
                            pipeline = pipeline.pipeline,
                            left,
                            "not finished in time; will be processed again"
                        );
                    }
                    End::Halted(failure) => tracing::error!(pipeline = pipeline.pipeline, "halted: {failure}"),
                }
            }
        }
        let halted = summary
            .pipelines
            .iter()
            .flat_map(|p| &p.ends)
            .any(|e| matches!(e, End::Halted(_)));
        Ok(if halted {
            Exit::Internal.into()
        } else {
            ExitCode::SUCCESS
        })
    });
    // Calls to brokers may still wait for an answer that nobody needs any more.
    runtime.shutdown_background();
    code
}

fn start_logging(config: &Config) -> anyhow::Result<()> {
    let format = match config.log.format {
        LogFormat::Auto => Format::Auto,
        LogFormat::Human => Format::Human,
        LogFormat::Json => Format::Json,
    };
    logging::init(&config.log.level, format).context("[log]")
}
