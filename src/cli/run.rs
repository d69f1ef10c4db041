//! `messina run`: the daemon.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;

use super::{ConfigFiles, print};
use crate::app::{self, Reload, StartError, Telemetry};
use crate::config::{Config, LogFormat};
use crate::custom::CustomSteps;
use crate::shutdown::{self, Exit};
use crate::source::consumer_loop::End;
use crate::telemetry::logging::{self, Format, LogFile, Verbosity};

/// What closing consumers and HTTP may take beyond `shutdown_timeout`.
const GRACE: Duration = Duration::from_secs(15);

/// Runs the pipelines until told to stop.
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    config: ConfigFiles,
}

/// Runs the daemon; the exit code says how it ended.
pub fn run(args: Run, customs: &CustomSteps) -> anyhow::Result<ExitCode> {
    let (config, sources, warnings) = match args.config.load() {
        Ok(loaded) => loaded,
        Err(findings) => {
            print(&findings);
            return Ok(Exit::Config.into());
        }
    };
    print(&warnings);
    let log_file = match config.log.file.as_ref().map(|path| LogFile::open(path)).transpose() {
        Ok(file) => file,
        Err(error) => {
            eprintln!("[log] file: {error}");
            return Ok(Exit::Config.into());
        }
    };
    let verbosity = start_logging(&config, log_file.as_ref())?;
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
        let reload = Arc::new(OnceLock::new());
        let hangups = tokio::spawn({
            let reload = reload.clone();
            shutdown::on_hangup(move || read_again(log_file.as_ref(), reload.get()))
        });
        let user_signals = tokio::spawn(shutdown::on_user_signals(move |more| log_more(&verbosity, more)));
        let start = app::start(config, sources, telemetry.clone(), customs);
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
        // Only the first is set.
        let _ = reload.set(running.reload());
        tracing::info!(http = %running.http, version = env!("CARGO_PKG_VERSION"), "running");
        tokio::select! {
            signal = &mut signal => {
                tracing::info!(signal = signal.context("cannot listen to signals")?, "stopping");
            }
            () = running.all_halted() => tracing::error!("every pipeline has halted"),
        }
        hangups.abort();
        user_signals.abort();
        let Ok(summary) = tokio::time::timeout(limit, running.stop()).await else {
            // A broker that does not answer can keep a consumer from closing; what was not committed is processed again.
            tracing::error!(seconds = limit.as_secs(), "could not stop in time");
            std::process::exit(Exit::Internal as i32);
        };
        for pipeline in &summary.pipelines {
            for end in &pipeline.ends {
                match end {
                    // One that is stuck is followed by another.
                    End::Drained | End::Stuck { .. } => {}
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

/// SIGHUP: the log file is opened again, and secrets are read again that are not read anew by themselves.
fn read_again(log_file: Option<&LogFile>, reload: Option<&Reload>) {
    if let Some(Err(error)) = log_file.map(LogFile::reopen) {
        tracing::error!("SIGHUP: {error}; the old one is written on");
    }
    // Before everything is connected nothing is old yet.
    match reload.map_or(Ok(()), Reload::read_again) {
        Ok(()) => tracing::info!(
            "SIGHUP: log file opened again, logins read again, and certificates of registry and database"
        ),
        Err(error) => tracing::error!("SIGHUP: {error}; what was in use is used on"),
    }
}

/// SIGUSR1: more of Messina itself is logged. SIGUSR2: as configured again.
fn log_more(verbosity: &Verbosity, more: bool) {
    let (signal, done) = if more {
        ("SIGUSR1", verbosity.more())
    } else {
        ("SIGUSR2", verbosity.as_configured())
    };
    match done {
        Ok(filter) => tracing::info!(filter, "{signal}: log level changed"),
        Err(error) => tracing::error!("{signal}: cannot change the log level: {error}"),
    }
}

fn start_logging(config: &Config, file: Option<&LogFile>) -> anyhow::Result<Verbosity> {
    let format = match config.log.format {
        LogFormat::Auto => Format::Auto,
        LogFormat::Human => Format::Human,
        LogFormat::Json => Format::Json,
    };
    logging::init(&config.log.level, format, file).context("[log]")
}
