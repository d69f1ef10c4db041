//! `messina test`: runs test cases of pipelines, without any service.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::trouble::Trouble;
use super::{ConfigFiles, ELSEWHERE, answer, print, runtime};
use crate::app::StartError;
use crate::cases::file::{self, CaseFile, Update};
use crate::cases::report::{Report, Verdict};
use crate::cases::{self, Error};
use crate::config::Diagnostics;
use crate::custom::CustomSteps;
use crate::shutdown::{self, Exit};

/// Run test cases of pipelines without any service. A case is a record and its expected result. Exit code 0, or 1 if a case fails.
#[derive(Debug, clap::Args)]
pub struct Test {
    /// Files with test cases.
    #[arg(required = true, value_name = "CASES")]
    cases: Vec<PathBuf>,
    /// Configuration file, instead of those that the case files name. May be repeated; later files win.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Only cases whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write the results of failed cases into the files as the new expectations.
    #[arg(long)]
    update: bool,
    /// Also write a JUnit XML report to this file.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// The most names of cases to list if no case matches.
const NAMES: usize = 10;

/// Why a file's cases have no verdicts.
enum Ended {
    /// The command ends so, whatever files are left.
    Command(anyhow::Result<ExitCode>),
    /// This file cannot be tried: the exit code, and why. It has been said on stderr.
    File(Exit, String),
}

impl From<anyhow::Error> for Ended {
    fn from(error: anyhow::Error) -> Ended {
        Ended::Command(Err(error))
    }
}

impl Ended {
    /// Says why nothing comes of a file.
    fn file(exit: Exit, why: String) -> Ended {
        say!("{why}");
        Ended::File(exit, why)
    }

    /// The same for findings in its configuration.
    fn findings(findings: &Diagnostics) -> Ended {
        print(findings);
        Ended::File(Exit::Config, findings.human(false))
    }
}

/// Runs the cases.
pub fn run(args: Test, customs: &CustomSteps) -> anyhow::Result<ExitCode> {
    let runtime = runtime(Some(2))?;
    // From the first case on, a signal ends the command in order, so that the database's directory is not left behind.
    let mut signal = std::pin::pin!(shutdown::requested_or_hung_up());
    let mut all = Report::default();
    let mut names = Vec::new();
    // Of the files without verdicts, and of what cannot be written. The higher code counts: a file that is wrong before what the machine lacks.
    let mut worst: Option<Exit> = None;
    for path in &args.cases {
        let tried = read(path, args.update).and_then(|(text, file)| {
            names.extend(file.cases.iter().map(|case| case.name.get_ref().clone()));
            let mut report = runtime.block_on(run_file(&args, path, &file, customs, &mut signal))?;
            if args.update {
                worst = worst.max(update(path, &text, &file, &mut report)?);
            }
            Ok(report)
        });
        match tried {
            Ok(mut report) => {
                all.verdicts.append(&mut report.verdicts);
                all.take_coverage(report);
            }
            Err(Ended::File(exit, why)) => {
                all.broken.push((path.display().to_string(), why));
                worst = worst.max(Some(exit));
            }
            Err(Ended::Command(result)) => {
                // Calls to the embedded brokers may still wait for an answer that nobody needs any more.
                runtime.shutdown_background();
                return result;
            }
        }
    }
    if worst.is_some() {
        // As above.
        runtime.shutdown_background();
    } else if let Some(only) = &args.only
        && all.verdicts.is_empty()
    {
        return Err(none_has(only, &names).into());
    }
    answer(&all.human())?;
    if let Some(path) = &args.junit
        && let Err(error) = std::fs::write(path, all.junit())
    {
        say!("error: {}", cannot_write(path, &error));
        worst = worst.max(Some(Exit::Usage));
    }
    Ok(match worst {
        Some(exit) => exit.into(),
        None if all.failed() == 0 => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

/// Reads a file of cases, and returns its text, too. An update replaces an expectation that cannot be read.
fn read(path: &Path, update: bool) -> Result<(String, CaseFile), Ended> {
    let parse = if update { file::parse_for_update } else { file::parse };
    let read = std::fs::read_to_string(path).map_err(|e| e.to_string());
    read.and_then(|text| parse(&text).map(|file| (text, file)))
        .map_err(|error| Ended::file(Exit::Config, format!("{}: {error}", path.display())))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

/// The error if no case matches.
fn none_has(only: &str, names: &[String]) -> Trouble {
    let (said, more) = names.split_at(names.len().min(NAMES));
    let mut text = format!("no case has `{only}` in its name: there are {}", said.join(", "));
    if !more.is_empty() {
        text.push_str(&format!(", and {} more", more.len()));
    }
    Trouble::Usage(text)
}

/// Runs the cases of a file. A signal drops the future and with it the cases' environment.
async fn run_file(
    args: &Test,
    path: &Path,
    file: &CaseFile,
    customs: &CustomSteps,
    signal: impl Future<Output = std::io::Result<&'static str>>,
) -> Result<Report, Ended> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let files = if args.config.is_empty() {
        file.config.iter().map(|config| folder.join(config)).collect()
    } else {
        args.config.clone()
    };
    if files.is_empty() {
        let why = "say which configuration: config = [\"FILE\"], or --config FILE";
        return Err(Ended::file(Exit::Config, format!("{}: {why}", path.display())));
    }
    let loaded = (ConfigFiles { files }).load_leaving(&ELSEWHERE);
    let (config, sources, warnings) = loaded.map_err(|findings| Ended::findings(&findings))?;
    print(&warnings);
    let report = tokio::select! {
        biased;
        signal = signal => {
            let code = match signal {
                Ok(_) => {
                    say!("stopped before the last case");
                    ExitCode::from(130)
                }
                Err(error) => {
                    say!("cannot listen to signals: {error}");
                    Exit::Unavailable.into()
                }
            };
            return Err(Ended::Command(Ok(code)));
        }
        report = cases::run(file, folder, config, sources, customs, args.only.as_deref()) => report,
    };
    report.map_err(|error| match error {
        Error::Start(StartError::Config(findings)) => Ended::findings(&findings),
        Error::File(_) => Ended::file(Exit::Config, format!("{}: {error}", path.display())),
        Error::Start(_) | Error::Environment(_) => Ended::file(Exit::Unavailable, error.to_string()),
    })
}

/// Writes the effects of failed cases into their file as expectations. These cases then count as passed. If they cannot be written, which is said on
/// stderr, the cases keep their verdicts, and the exit code is returned.
fn update(path: &Path, text: &str, file: &CaseFile, report: &mut Report) -> anyhow::Result<Option<Exit>> {
    let updates = updates(file, &mut report.verdicts)?;
    if updates.is_empty() {
        return Ok(None);
    }
    let count = updates.len();
    let new = file::updated(text, updates).map_err(|error| (Exit::Config, format!("{}: {error}", path.display())));
    let written =
        new.and_then(|new| std::fs::write(path, new).map_err(|error| (Exit::Usage, cannot_write(path, &error))));
    if let Err((exit, why)) = written {
        say!("{why}");
        return Ok(Some(exit));
    }
    for verdict in &mut report.verdicts {
        if verdict.effects.as_ref().is_some_and(|effects| effects.have_ended()) {
            verdict.failures.clear();
        }
    }
    answer(&format!("{}: {count} expectations written\n", path.display()))?;
    Ok(None)
}

/// The effects of failed cases, each with the place of its expectation. A record that has not ended yields no expectation, and its case
/// still fails.
fn updates(file: &CaseFile, verdicts: &mut [Verdict]) -> anyhow::Result<Vec<Update>> {
    let mut updates = Vec::new();
    for verdict in verdicts {
        let case = file.cases.get(verdict.number);
        let (Some(case), Some(effects), false) = (case, &verdict.effects, verdict.failures.is_empty()) else {
            continue;
        };
        if !effects.have_ended() {
            verdict
                .failures
                .push("not written as the expectation: the record has not ended".to_owned());
            continue;
        }
        let place = case
            .expect
            .as_ref()
            .map_or_else(|| case.name.span(), |expect| expect.span());
        updates.push(Update {
            place,
            replaces: case.expect.is_some(),
            expect: serde_json::to_value(effects).context("effects as JSON")?,
        });
    }
    Ok(updates)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TWINS: &str = r#"[[cases]]
name = "twin"
expect = '''{"outcome": "done"}'''
record.raw = "x"

[[cases]]
name = "twin"
expect = '''{"outcome": "done"}'''
record.raw = "y"
"#;

    /// The verdict of a case that expected something else.
    fn failed(file: &CaseFile, number: usize, effects: &str) -> Verdict {
        let mut verdict = Verdict::new(number, &file.cases[number], "p", Duration::ZERO);
        verdict.failures.push("outcome".to_owned());
        verdict.effects = serde_json::from_str(effects).unwrap();
        verdict
    }

    #[test]
    fn what_has_not_ended_is_not_written() {
        let cases = file::parse(TWINS).unwrap();
        let effects = r#"{"outcome": "no outcome within 10 s: it is still being retried"}"#;
        let mut verdicts = [failed(&cases, 0, effects)];
        assert!(updates(&cases, &mut verdicts).unwrap().is_empty());
        assert_eq!(verdicts[0].failures.len(), 2, "it fails still, and says why");
    }

    #[test]
    fn a_case_has_passed_once_its_result_is_written() {
        let cases = file::parse(TWINS).unwrap();
        let verdict = failed(&cases, 0, r#"{"outcome": "skipped"}"#);
        let mut report = Report::default();
        report.verdicts.push(verdict);
        let scratch = crate::demo::cluster::Scratch::new().unwrap();
        let place = scratch.database().with_file_name("cases.toml");
        let exit = update(&place.join("none"), TWINS, &cases, &mut report).unwrap();
        assert_eq!((exit, report.failed()), (Some(Exit::Usage), 1));
        let exit = update(&place, TWINS, &cases, &mut report).unwrap();
        assert_eq!((exit, report.failed()), (None, 0));
    }

    #[test]
    fn the_cases_that_there_are_are_named_in_bounds() {
        let names: Vec<String> = (0..12).map(|number| format!("case {number}")).collect();
        let said = |names: &[String]| none_has("x", names).to_string();
        assert_eq!(
            said(&names[..2]),
            "no case has `x` in its name: there are case 0, case 1"
        );
        assert!(said(&names).ends_with("case 8, case 9, and 2 more"), "{}", said(&names));
    }

    #[test]
    fn of_two_cases_of_one_name_each_is_written_its_own() {
        let cases = file::parse(TWINS).unwrap();
        let second = failed(&cases, 1, r#"{"outcome": "skipped"}"#);
        let first = Verdict::new(0, &cases.cases[0], "p", Duration::ZERO);
        let mut verdicts = [first, second];
        let new = file::updated(TWINS, updates(&cases, &mut verdicts).unwrap()).unwrap();
        let cases = file::parse(&new).unwrap().cases;
        let expects = |number: usize, what: &str| cases[number].expect.as_ref().unwrap().get_ref().contains(what);
        assert!(expects(0, "done") && expects(1, "skipped"), "{new}");
    }
}
