//! `messina run`: the daemon. SIGHUP makes it read secrets and configuration again.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::mpsc;

use super::{ConfigFiles, dry_run, judged, print, runtime};
use crate::app::{self, GRACE, PipelineEnd, Reload, Running, StartError, Taken, Telemetry};
use crate::config::{self, Config, Diagnostics, Schemas, Severity, Sources, codes};
use crate::custom::CustomSteps;
use crate::retry::Backoff;
use crate::shutdown::{self, Exit, Signals};
use crate::source::consumer_loop::End;
use crate::telemetry::breadcrumbs::Breadcrumbs;
use crate::telemetry::logging::{self, LogFile, LoggingError, Verbosity};

/// How often `--watch` checks the configuration's files.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the last events and spans may take at the end.
pub(super) const LAST: Duration = Duration::from_secs(5);
/// The same if the process could not stop in time.
const LAST_AFTER_ALL: Duration = Duration::from_secs(2);

/// Run the pipelines until SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    config: ConfigFiles,
    /// Reload the configuration when one of its files changes, as at SIGHUP.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    dry: dry_run::DryRun,
}

/// Runs the daemon; the exit code says how it ended.
pub fn run(args: Run, customs: &CustomSteps) -> anyhow::Result<ExitCode> {
    if args.dry.is_wanted() {
        return dry_run::run(&args.dry, &args.config, customs);
    }
    let held = shutdown::hold();
    let (config, sources) = args.config.taken(&[])?;
    let log_file = match config.log.file.as_ref().map(|path| LogFile::open(path)).transpose() {
        Ok(file) => file,
        Err(error) => {
            say!("[log] file: {error}");
            return Ok(Exit::Config.into());
        }
    };
    let breadcrumbs = Breadcrumbs::default();
    let verbosity = start_logging(&config, log_file.as_ref(), &breadcrumbs)?;
    let telemetry = match Telemetry::new(&config, breadcrumbs) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            tracing::error!("{error}");
            return Ok(Exit::Config.into());
        }
    };
    if let Some(file) = &log_file {
        telemetry.metrics.watch_log(file.clone());
    }
    let runtime = runtime(None)?;
    let limit = config.shutdown_timeout + GRACE;
    let mut last = LAST;
    let code = runtime.block_on(async {
        let signals = Signals::listen().context("cannot listen to signals")?;
        // Drop it on the thread that blocked the signals; `block_on` stays on that thread.
        drop(held);
        let mut signal = std::pin::pin!(signals.requested(|| {}));
        let reload = Arc::<Later<Reload>>::default();
        // One waiting offer stands for all that come meanwhile, because the files are read when its turn comes.
        let (offer, mut offers) = mpsc::channel(1);
        let hangups = tokio::spawn({
            let (reload, offer) = (reload.clone(), offer.clone());
            shutdown::on_hangup(move || {
                open_again(log_file.as_ref());
                if let Some(reload) = reload.asked() {
                    read_again(reload);
                }
                let _ = offer.try_send("SIGHUP");
            })
        });
        let watching = args
            .watch
            .then(|| tokio::spawn(watch(args.config.clone(), read_by_the_start(&sources), offer)));
        let user_signals = tokio::spawn(shutdown::on_user_signals(move |more| log_more(&verbosity, more)));
        let start = app::start(config, sources, telemetry.clone(), customs);
        let mut running = tokio::select! {
            // Nothing runs yet, so there is nothing to drain.
            signal = &mut signal => {
                tracing::info!(signal, "stopped before the start");
                return Ok(ExitCode::SUCCESS);
            }
            started = start => match started {
                Ok(running) => running,
                Err(StartError::Config(findings)) => {
                    print(&findings);
                    return Ok(Exit::Config.into());
                }
                Err(error @ (StartError::Away(_) | StartError::Process(_))) => {
                    tracing::error!("{error}");
                    return Ok(Exit::Unavailable.into());
                }
            },
        };
        if let Some(reload) = reload.comes(running.reload()) {
            read_again(reload);
        }
        tracing::info!(http = %running.http, version = env!("CARGO_PKG_VERSION"), "running");
        let mut again = Again::default();
        loop {
            let offer = tokio::select! {
                // This order, because a waiting reload may be what repairs pipelines that have halted.
                biased;
                signal = &mut signal => {
                    tracing::info!(signal, "stopping");
                    break;
                }
                Some(offer) = offers.recv() => Some(offer),
                () = again.due() => None,
                () = running.all_halted() => {
                    tracing::error!("every pipeline has halted");
                    break;
                }
            };
            let (offer, offered) = match offer {
                Some(offer) => {
                    // A configuration left for a retry is older than this offer.
                    again = Again::default();
                    (offer, load(&running, &args.config, offer))
                }
                None => ("--watch, once more", again.take()),
            };
            let Some(offered) = offered else { continue };
            tokio::select! {
                answered = take(&mut running, offered.clone(), offer) => {
                    // Only `--watch` retries: whoever sends SIGHUP can send it again.
                    if !answered && args.watch {
                        again.later(offered, Instant::now());
                    }
                }
                signal = &mut signal => {
                    tracing::info!(signal, "stopping during a reload");
                    break;
                }
            }
        }
        if let Some(watching) = watching {
            watching.abort();
        }
        hangups.abort();
        user_signals.abort();
        let stopping = Instant::now();
        let Ok(summary) = tokio::time::timeout(limit, running.stop()).await else {
            // A broker that does not answer can keep a consumer from closing. Records that were not committed are processed again.
            tracing::error!(seconds = limit.as_secs(), "could not stop in time");
            send_what_waits(&telemetry, LAST_AFTER_ALL);
            std::process::exit(Exit::Internal as i32);
        };
        last = last_within(limit, stopping.elapsed());
        tell(&summary.pipelines);
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
    send_what_waits(&telemetry, last);
    // Calls to brokers may still wait for an answer that nobody needs any more.
    runtime.shutdown_background();
    code
}

/// How long the last events and spans may take after a stop of this duration. The process then ends no later than after a stop that was given up at
/// its limit.
fn last_within(limit: Duration, stopped_in: Duration) -> Duration {
    LAST.min((limit + LAST_AFTER_ALL).saturating_sub(stopped_in))
}

/// Sends what waits for Sentry and for the span collector. Otherwise it would be sent when they are dropped, but a consumer that was given up holds
/// both for ever.
pub(super) fn send_what_waits(telemetry: &Telemetry, within: Duration) {
    let until = Instant::now() + within;
    if let Some(sentry) = &telemetry.sentry {
        sentry.close(within);
    }
    // The tracer's thread has continued meanwhile, so it is at most a second behind.
    if let Some(tracer) = &telemetry.tracer {
        tracer.close(until.saturating_duration_since(Instant::now()));
    }
}

/// Reports what was not committed.
fn tell(ended: &[PipelineEnd]) {
    for pipeline in ended {
        let name = &pipeline.pipeline;
        for end in &pipeline.ends {
            match end {
                // A replaced loop is followed by another.
                End::Drained | End::Replaced { .. } => {}
                End::Abandoned(left) => {
                    tracing::warn!(pipeline = name, left, "not committed; will be processed again");
                }
                End::Halted(failure) => tracing::error!(pipeline = name, "halted: {failure}"),
            }
        }
    }
}

/// The message for a configuration that is rejected.
const KEPT: &str = "configuration rejected, the old one stays in effect";

/// A configuration to be applied.
#[derive(Clone)]
struct Offered {
    config: Config,
    sources: Sources,
    /// Pipelines that had halted when it was first offered. A retry must not restart those that halted since, because the offer did not mean them.
    halted: BTreeSet<String>,
}

/// Reads the configuration. If that fails, reports why.
fn load(running: &Running, files: &ConfigFiles, offer: &str) -> Option<Offered> {
    match config::load(&files.files, config::variables()) {
        Ok((config, sources)) => Some(Offered {
            config,
            sources,
            halted: running.halted(),
        }),
        Err(findings) => {
            running.rejected();
            tracing::error!("{offer}: {KEPT}: {}", findings.human(false));
            None
        }
    }
}

/// Applies the configuration if it is acceptable, and reports the result. Returns false if the same configuration may be accepted later. It is
/// checked here, and so at each retry, because files and secrets that it names may appear.
async fn take(running: &mut Running, offered: Offered, offer: &str) -> bool {
    let Offered {
        config,
        sources,
        halted,
    } = offered;
    let taken = match judged(config, sources, &[]) {
        Ok((config, sources, warnings)) => {
            for warning in warnings.iter() {
                tracing::warn!("{offer}: {}", warning.message);
            }
            running.take(config, sources, halted).await
        }
        Err(findings) => {
            running.rejected();
            let comes = comes(&findings);
            tracing::error!("{offer}: {KEPT}: {}", StartError::Config(findings));
            return !comes;
        }
    };
    match taken {
        Ok(Taken::Unchanged) => tracing::info!("{offer}: the configuration has not changed"),
        Ok(Taken::Changed {
            generation,
            started,
            ended,
        }) => {
            tell(&ended);
            let (started, ended) = (started.join(", "), ended.iter().map(|p| p.pipeline.as_str()));
            let ended = ended.collect::<Vec<_>>().join(", ");
            tracing::info!(generation, started, ended, "{offer}: configuration applied");
        }
        Err(error) => {
            tracing::error!("{offer}: {KEPT}: {error}");
            return !may_pass(&error);
        }
    }
    true
}

/// Whether all errors may disappear by themselves before the same configuration is offered again: files and secrets may appear.
fn comes(findings: &Diagnostics) -> bool {
    let mut errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    errors.all(|error| [codes::MISSING_FILE, codes::SECRET].contains(&error.code))
}

/// The same for errors from services: they may answer again, and topics, tables and subjects may be created.
fn may_pass(error: &StartError) -> bool {
    match error {
        StartError::Config(findings) => findings.iter().all(|finding| finding.code == codes::TYPES),
        StartError::Away(_) => true,
        StartError::Process(_) => false,
    }
}

/// A configuration that was rejected for a reason that may pass. It is offered again, with back-off. Without this, `--watch` would have given it up,
/// because its files do not change again.
struct Again<T> {
    left: Option<(T, Instant)>,
    attempt: u32,
}

impl<T> Default for Again<T> {
    fn default() -> Again<T> {
        Again { left: None, attempt: 0 }
    }
}

impl<T> Again<T> {
    fn later(&mut self, it: T, now: Instant) {
        let pauses = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), 2.0);
        self.left = Some((it, now + pauses.ceiling(self.attempt)));
        self.attempt += 1;
    }

    /// Returns when the retry is due; never, if there is nothing to retry.
    async fn due(&self) {
        match &self.left {
            Some((_, at)) => tokio::time::sleep_until((*at).into()).await,
            None => std::future::pending().await,
        }
    }

    fn take(&mut self) -> Option<T> {
        self.left.take().map(|(it, _)| it)
    }
}

/// Texts of the configuration files, and of the files that they take output schemas from.
type Texts = (Vec<Option<Vec<u8>>>, Schemas);

/// Offers the configuration again when its files have changed, and have not changed again until the next check. `offered` is their content as the
/// start read it. Contents are compared, so it does not matter how a file is replaced: overwritten, renamed into place, or relinked as in a mounted
/// ConfigMap. A file that can be read only once, such as a pipe, cannot be compared, so it is never offered again.
async fn watch(files: ConfigFiles, mut offered: Texts, offer: mpsc::Sender<&'static str>) {
    if let Some(path) = files.files.iter().find(|path| path.exists() && !path.is_file()) {
        tracing::warn!(file = %path.display(), "--watch: it is not a file that can be read again, so nothing is watched");
        return;
    }
    let mut last = offered.clone();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        looks.tick().await;
        let now = read(&files);
        if now != offered && now == last {
            if offer.send("--watch").await.is_err() {
                return;
            }
            offered = now.clone();
        }
        last = now;
    }
}

/// The files as the start read them. Whatever changes later differs from the configuration that runs.
fn read_by_the_start(sources: &Sources) -> Texts {
    let texts = sources.files().map(|text| Some(text.as_bytes().to_vec())).collect();
    (texts, sources.schemas().clone())
}

fn read(files: &ConfigFiles) -> Texts {
    let texts = files.files.iter().map(|path| std::fs::read(path).ok()).collect();
    let loaded = config::load(&files.files, config::variables());
    // Errors are reported when the configuration is offered.
    let schemas = loaded.map(|(_, sources)| sources.schemas().clone()).unwrap_or_default();
    (texts, schemas)
}

/// A value that is provided later, and may be requested before that. A request that comes too early is answered when the value comes.
struct Later<T> {
    there: OnceLock<T>,
    asked: AtomicBool,
}

impl<T> Default for Later<T> {
    fn default() -> Later<T> {
        Later {
            there: OnceLock::new(),
            asked: AtomicBool::new(false),
        }
    }
}

impl<T> Later<T> {
    /// Requests the value. Returns it if it is there.
    fn asked(&self) -> Option<&T> {
        // This order, so that a concurrent `comes` sees the request.
        self.asked.store(true, Ordering::SeqCst);
        self.there.get()
    }

    /// Provides the value. Returns it if it was requested before.
    fn comes(&self, it: T) -> Option<&T> {
        let it = self.there.get_or_init(|| it);
        self.asked.load(Ordering::SeqCst).then_some(it)
    }
}

/// At SIGHUP: opens the log file again under its name, after a rotation.
fn open_again(log_file: Option<&LogFile>) {
    match log_file.map(LogFile::reopen) {
        None => {}
        Some(Ok(())) => tracing::info!("SIGHUP: log file opened again"),
        Some(Err(error)) => tracing::error!("SIGHUP: {error}; the old one stays in use"),
    }
}

/// At SIGHUP: reads again the secrets that are not reread automatically.
fn read_again(reload: &Reload) {
    match reload.read_again() {
        Ok(()) => tracing::info!("SIGHUP: logins read again, and certificates of registry and database"),
        Err(error) => tracing::error!("SIGHUP: {error}; the old ones stay in use"),
    }
}

/// SIGUSR1 logs more of Messina itself. SIGUSR2 returns to the configured level.
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

fn start_logging(
    config: &Config,
    file: Option<&LogFile>,
    breadcrumbs: &Breadcrumbs,
) -> Result<Verbosity, LoggingError> {
    // Only Sentry uses breadcrumbs.
    let breadcrumbs = config.sentry.is_some().then(|| breadcrumbs.clone());
    logging::init(&config.log.level, config.log.format, file, breadcrumbs)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::config::Diagnostic;

    #[test]
    fn secrets_that_were_to_be_read_again_during_the_start_are_read_after_it() {
        let reload = Later::<&str>::default();
        assert_eq!(reload.asked(), None);
        assert_eq!(reload.comes("login"), Some(&"login"));
        assert_eq!(reload.asked(), Some(&"login"));
        let reload = Later::<&str>::default();
        assert_eq!(reload.comes("login"), None, "nobody has asked");
        assert_eq!(reload.asked(), Some(&"login"));
    }

    #[test]
    fn another_text_of_an_output_schema_is_seen_like_one_of_the_configuration() {
        let path = |what: &str| std::env::temp_dir().join(format!("messina-watch-{}.{what}", std::process::id()));
        let (toml, schema) = (path("toml"), path("avsc"));
        let of = |group: &str| {
            format!(
                "# ü\r\nkafka = {{ brokers = 'b:9092' }}\nregistry = {{ url = 'http://r:8081' }}\n[pipelines.p]\n\
                 source = {{ topics = 't', group = '{group}' }}\nsink = {{ topic = 'o', schema = {{ file = '{}' }} }}",
                schema.display()
            )
        };
        let files = ConfigFiles {
            files: vec![toml.clone()],
        };
        let seen = [("g", "\"int\""), ("g", "\"int\""), ("g", "\"long\""), ("h", "\"long\"")].map(|(group, json)| {
            std::fs::write(&toml, of(group)).unwrap();
            std::fs::write(&schema, json).unwrap();
            let (_, sources) = config::load(&files.files, config::variables()).unwrap();
            let seen = read(&files);
            assert_eq!(read_by_the_start(&sources), seen, "the first look offers nothing");
            seen
        });
        for path in [&toml, &schema] {
            std::fs::remove_file(path).unwrap();
        }
        let differ: Vec<_> = seen.windows(2).map(|two| two[0] != two[1]).collect();
        assert_eq!(differ, [false, true, true]);
    }

    #[tokio::test]
    async fn what_changes_before_the_first_look_is_offered() {
        let toml = std::env::temp_dir().join(format!("messina-watch-first-{}.toml", std::process::id()));
        let files = ConfigFiles {
            files: vec![toml.clone()],
        };
        let read = "kafka = { brokers = 'b:9092' }\nregistry = { url = 'http://r:8081' }\n";
        std::fs::write(&toml, read).unwrap();
        let (_, sources) = config::load(&files.files, config::variables()).unwrap();
        std::fs::write(&toml, "what came right after").unwrap();
        let (offer, mut offers) = mpsc::channel(1);
        let watching = tokio::spawn(watch(files, read_by_the_start(&sources), offer));
        let offered = tokio::time::timeout(LOOK_EVERY * 30, offers.recv()).await;
        watching.abort();
        std::fs::remove_file(&toml).unwrap();
        assert_eq!(offered.unwrap(), Some("--watch"));
    }

    /// It would be rejected, because nothing is left to read.
    #[tokio::test]
    async fn a_configuration_that_can_be_read_once_is_not_offered() {
        let files = ConfigFiles {
            files: vec!["/dev/null".into()],
        };
        let read = (vec![Some(b"what the start has read".to_vec())], Schemas::new());
        let (offer, mut offers) = mpsc::channel(1);
        let watching = tokio::spawn(watch(files, read, offer));
        let offered = tokio::time::timeout(LOOK_EVERY * 30, offers.recv()).await;
        watching.abort();
        assert_eq!(offered, Ok(None));
    }

    #[test]
    fn the_last_events_hold_no_end_up_beyond_what_was_promised() {
        let seconds = Duration::from_secs;
        for (stopped_in, last) in [(0, 5), (42, 5), (44, 3), (45, 2), (50, 0)] {
            assert_eq!(
                last_within(seconds(45), seconds(stopped_in)),
                seconds(last),
                "{stopped_in}"
            );
        }
    }

    #[test]
    fn what_services_do_not_have_yet_may_come_and_what_takes_a_restart_will_not() {
        let of = |code| StartError::Config(vec![Diagnostic::error(code, "no")].into());
        assert!(may_pass(&of(codes::TYPES)));
        assert!(!may_pass(&of(codes::NEEDS_RESTART)));
    }

    #[test]
    fn a_secret_that_is_missing_may_come_and_what_else_is_wrong_will_not() {
        let refused = |more: &str| {
            let toml = format!(
                "kafka = {{ brokers = 'b:9092' }}\n{more}\n[registry]\nurl = 'http://r:8081'\n\
                 bearer_token = {{ file = '/is/not/there' }}\ntls = {{ ca = '/is/not/there' }}\n\
                 [pipelines.p]\nsource = {{ topics = 't', group = 'g' }}\nsink = {{ topic = 'o' }}\n"
            );
            let (config, sources) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
            judged(config, sources, &[]).err().unwrap()
        };
        assert!(comes(&refused("")));
        assert!(!comes(&refused("limits = { memory = '1MiB' }")));
    }

    #[tokio::test]
    async fn what_was_not_answered_is_offered_again_and_less_and_less_often() {
        let began = Instant::now();
        let mut again = Again::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            again.later("changed", began);
            let (_, at) = again.left.unwrap();
            pauses.push((at - began).as_secs());
            assert_eq!(again.take(), Some("changed"));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(again.take(), None, "it is not offered twice");
        assert!(again.due().now_or_never().is_none(), "nothing is left");
        again.left = Some(("changed", began));
        again.due().await;
    }
}
