//! The command line of `messina`, one file per command. Programs with custom steps call [`main`] or [`main_with`].

// `print!` and `eprint!` panic when the reader closes the pipe. Use `answer`, `say!`, or `?` on what writes.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod ask;
pub mod check;
mod clean;
pub mod dead_letters;
pub mod demo;
mod dry_run;
pub mod explain;
pub mod health;
pub mod init;
pub mod replay;
pub mod run;
pub mod size;
pub mod tap;
pub mod test;
mod time;
pub mod top;
mod trouble;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::config::codes::{self, Code};
use crate::config::{self, Config, Diagnostics, Severity, Sources};
use crate::custom::CustomSteps;
use crate::shutdown::Exit;
use trouble::Trouble;

/// How long custom steps may take to be dropped at the end of the process.
const GOING: Duration = Duration::from_secs(2);

/// Enriches Avro records from Kafka by look-ups in ScyllaDB or any CQL database: declared pipelines, nothing lost.
#[derive(Debug, Parser)]
#[command(name = "messina", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run three pipelines end to end with nothing installed: Kafka, registry and database run in the process.
    Demo(demo::Demo),
    /// Draft a pipeline from a topic's schema and tables of the database.
    Init(Box<init::Init>),
    /// Run the pipelines until SIGTERM or SIGINT.
    Run(run::Run),
    /// Run a pipeline again over a past range of its topics, in its own consumer group.
    Replay(Box<replay::Replay>),
    /// Check a configuration and report the mistakes in it.
    Check(check::Check),
    /// Run test cases of pipelines, without any service.
    Test(test::Test),
    /// Explain the code of a finding, such as MES0101, or list all codes.
    Explain(explain::Explain),
    /// Estimate how many cores and pods the pipelines need for a given rate.
    Size(size::Size),
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
    /// List dead letters, show one, or send records back to the topics that they came from.
    DeadLetters(Box<dead_letters::DeadLetters>),
    /// Show records of a running pipeline as they end, step by step.
    Tap(tap::Tap),
    /// Check the health of a running process, for images without a shell.
    Health(health::Health),
    /// Show in the terminal what a running process does.
    Top(top::Top),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page in roff: `messina man | man -l -`.
    Man,
}

/// Findings that depend on where the configuration runs. Commands that run elsewhere leave them out.
const ELSEWHERE: [Code; 2] = [codes::MISSING_FILE, codes::SECRET];

/// The configuration files of a command.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigFiles {
    /// Configuration file. May be repeated; later files win.
    #[arg(short = 'c', long = "config", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

impl ConfigFiles {
    /// Loads the files and the environment, and runs the offline checks. The result includes warnings; with any error, it is all findings.
    pub fn load(&self) -> Result<(Config, Sources, Diagnostics), Diagnostics> {
        self.load_leaving(&[])
    }

    /// Like [`ConfigFiles::load`], but without findings of these codes.
    pub fn load_leaving(&self, left: &[Code]) -> Result<(Config, Sources, Diagnostics), Diagnostics> {
        let (config, sources) = config::load(&self.files, config::variables())?;
        judged(config, sources, left)
    }

    /// The same for a command that needs the configuration: prints the findings, and fails if one of them is an error.
    fn taken(&self, left: &[Code]) -> Result<(Config, Sources), Trouble> {
        let (config, sources, warnings) = self.load_leaving(left).map_err(|found| Trouble::config(&found))?;
        print(&warnings);
        Ok((config, sources))
    }
}

/// Runs the offline checks on a loaded configuration. Returns all findings as the error if one of them is an error.
fn judged(config: Config, sources: Sources, left: &[Code]) -> Result<(Config, Sources, Diagnostics), Diagnostics> {
    let mut findings = config::check(&config, &sources);
    findings.retain(|finding| !left.contains(&finding.code));
    // The configuration check has covered names and places. What remains are the errors that only the CEL parser finds.
    if findings.iter().all(|finding| finding.severity == Severity::Warning) {
        for pipeline in config.pipelines.values() {
            if let Err(found) = crate::pipeline::program::parse(pipeline) {
                findings.extend(crate::app::findings_to_diagnostics(found, &sources).iter().cloned());
            }
        }
    }
    let findings = Diagnostics::new(findings);
    if findings.has_errors() {
        Err(findings)
    } else {
        Ok((config, sources, findings))
    }
}

/// The runtime of a command with this number of threads; `None` means one per core.
fn runtime(threads: Option<usize>) -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.thread_name("messina-io").enable_all();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder.build().context("cannot start the runtime")
}

/// Prints findings as text to stderr.
pub fn print(findings: &Diagnostics) {
    let text = findings.human(io::stderr().is_terminal());
    // If stderr is closed, nobody wants the findings.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Prints a command's answer to stdout. If the reader closes the pipe, that is no error: the command ends as it would have.
fn answer(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Runs the whole program with custom steps, from the arguments of the process to its exit code.
pub fn main(customs: CustomSteps) -> ExitCode {
    main_with(|| Ok(customs))
}

/// Like [`main`], but calls `make` only for commands that run or check pipelines (`run`, `replay`, `check`, `test`). If `make` fails, the command prints
/// the reason and exits with 69.
pub fn main_with(make: impl FnOnce() -> Result<CustomSteps, String>) -> ExitCode {
    let args = match parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    raise_open_files();
    run(args, make).unwrap_or_else(|error| {
        say!("error: {error:#}");
        Exit::Internal.into()
    })
}

/// Raises the process's limit on open files and connections to the most that is permitted. The parent process often sets 1,024, for programs that use
/// select(2). Nothing here does, and each consumer thread has a connection to each shard of the database. If the system refuses, the limit stays.
fn raise_open_files() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the first call writes to `limit`, which is valid, and the second reads it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Runs a parsed command line. `make` creates the custom steps, as in [`main_with`].
pub fn run(cli: Cli, make: impl FnOnce() -> Result<CustomSteps, String>) -> anyhow::Result<ExitCode> {
    trouble::ended(with_steps(cli.command, make))
}

fn with_steps(command: Command, make: impl FnOnce() -> Result<CustomSteps, String>) -> anyhow::Result<ExitCode> {
    let customs = steps_for(&command, make).map_err(Trouble::Unavailable)?;
    let ended = self::command(command, &customs);
    // Signals are not handled any more, so limit the wait.
    if customs.let_go().recv_timeout(GOING) == Err(mpsc::RecvTimeoutError::Timeout) {
        say!("a custom step does not end; the process exits without it");
    }
    ended
}

/// The custom steps that a command needs. They may be expensive to create, and a health probe runs every few seconds.
fn steps_for(command: &Command, make: impl FnOnce() -> Result<CustomSteps, String>) -> Result<CustomSteps, String> {
    match command {
        Command::Run(_) | Command::Replay(_) | Command::Check(_) | Command::Test(_) => make(),
        Command::Demo(_)
        | Command::Init(_)
        | Command::Explain(_)
        | Command::Size(_)
        | Command::Schema
        | Command::DeadLetters(_)
        | Command::Tap(_)
        | Command::Health(_)
        | Command::Top(_)
        | Command::Completions { .. }
        | Command::Man => Ok(CustomSteps::new()),
    }
}

fn command(command: Command, customs: &CustomSteps) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => demo::run(args),
        Command::Init(args) => init::run(*args),
        Command::Run(args) => run::run(args, customs),
        Command::Replay(args) => replay::run(&args, customs),
        Command::Check(args) => check::run(args, customs),
        Command::Test(args) => test::run(args, customs),
        Command::DeadLetters(args) => dead_letters::run(*args),
        Command::Tap(args) => tap::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Size(args) => size::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Schema => {
            answer(&crate::config::schema::schema())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            answer(&completions(shell)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => {
            answer(&manual()?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "messina", &mut script);
    Ok(String::from_utf8(script)?)
}

/// The manual page of the program, followed by those of its commands.
fn manual() -> anyhow::Result<String> {
    let command = Cli::command();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for of in command.get_subcommands().filter(|of| !of.is_hide_set()) {
        let of = of.clone().bin_name(format!("messina {}", of.get_name()));
        let man = clap_mangen::Man::new(of);
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    Ok(String::from_utf8(page)?)
}

/// Parses the arguments. Usage errors exit with 64, as in sysexits; `--help` and `--version` with 0.
pub fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        // Help and version go to stdout and are not errors. If the pipe is closed, there is nobody to tell.
        let _ = error.print();
        if error.use_stderr() {
            Exit::Usage.into()
        } else {
            ExitCode::SUCCESS
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    /// Two pipelines, each with an expression that only the parser rejects, and with a warning, because it neither publishes nor writes.
    #[test]
    fn what_the_parser_sees_is_said_of_all_pipelines_beside_warnings() {
        let pipeline = |name: &str| {
            format!(
                "[pipelines.{name}]\nsource = {{ topics = \"{name}\", group = \"g\" }}\n\
                 steps = [{{ name = \"f\", filter = \"event.a >\" }}]\n"
            )
        };
        let head = "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n";
        let text = format!("{head}{}{}", pipeline("one"), pipeline("two"));
        let (config, sources) = config::load_str(vec![("m.toml".into(), text)], std::iter::empty()).unwrap();
        let found = judged(config, sources, &[]).unwrap_err();
        let places = |severity| {
            let of = found.iter().filter(move |finding| finding.severity == severity);
            of.filter_map(|finding| finding.place.as_ref().map(|place| place.line))
                .collect::<Vec<_>>()
        };
        assert_eq!(places(Severity::Error), [7, 10], "{found}");
        let mut errors = found.iter().filter(|finding| finding.severity == Severity::Error);
        assert!(errors.all(|finding| finding.code == codes::EXPRESSION), "{found}");
        assert_eq!(places(Severity::Warning), [5, 8], "{found}");
    }

    #[test]
    fn steps_of_ones_own_are_made_for_commands_that_run_or_check_pipelines_alone() {
        let lines = [
            "demo",
            "init",
            "run -c m.toml",
            "replay -c m.toml --from 2h",
            "check -c m.toml",
            "test m.test.toml",
            "explain",
            "size -c m.toml --rate 1",
            "schema",
            "dead-letters list -c m.toml",
            "tap visits",
            "health",
            "top",
            "completions bash",
            "man",
        ];
        let first = |line: &'static str| line.split(' ').next().unwrap();
        let all = Cli::command();
        let all: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(lines.map(first).to_vec(), all);
        let made = lines.into_iter().filter(|line| {
            let arguments = std::iter::once("messina").chain(line.split(' '));
            let cli = Cli::try_parse_from(arguments).unwrap();
            let mut made = false;
            let make = || {
                made = true;
                Err("no database".to_owned())
            };
            assert_eq!(steps_for(&cli.command, make).is_err(), made, "{line}");
            made
        });
        assert_eq!(made.map(first).collect::<Vec<_>>(), ["run", "replay", "check", "test"]);
    }

    #[test]
    fn a_step_that_cannot_be_made_ends_its_command_as_what_is_away_does() {
        let cli = Cli::try_parse_from(["messina", "check", "-c", "m.toml"]).unwrap();
        let error = with_steps(cli.command, || Err("no database".to_owned())).unwrap_err();
        let trouble = error.downcast_ref::<Trouble>();
        assert!(
            matches!(trouble, Some(Trouble::Unavailable(why)) if why == "no database"),
            "{error}"
        );
    }

    #[test]
    fn every_shell_is_completed_and_the_manual_has_every_command() {
        let names: Vec<String> = Cli::command()
            .get_subcommands()
            .map(|command| command.get_name().to_owned())
            .collect();
        let manual = manual().unwrap();
        for name in &names {
            assert!(
                manual.contains(&format!("messina {name}")) || manual.contains(&name.replace('-', "\\-")),
                "{name}"
            );
        }
        for shell in <clap_complete::Shell as clap::ValueEnum>::value_variants() {
            let script = completions(*shell).unwrap();
            for name in &names {
                assert!(script.contains(name.as_str()), "{shell}: {name}");
            }
        }
    }
}
