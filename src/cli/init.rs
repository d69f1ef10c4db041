//! `messina init`: drafts a first pipeline from a topic's schema and tables of the database.
//!
//! It only reads, from the registry (or a file) and the database. The file that it writes has passed the offline checks, and its comments mark guesses.
//! If a flag is missing, it asks on a terminal and names the flag elsewhere.

mod case;
mod draft;
mod files;
mod guess;
mod text;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use self::draft::{Draft, Wanted};
use self::files::{Files, save};
use self::text::{Connections, Database, Places};
use super::trouble::Trouble;
use super::{answer, judged, print, runtime};
use crate::app::{self, StartError};
use crate::avro::Schema;
use crate::cases::{self, file};
use crate::config::{self, Config, Sources};
use crate::custom::CustomSteps;
use crate::shutdown::{self, Exit};
use crate::store::AnyStore;
use crate::store::describe::{Description, describe};

/// Draft a pipeline from a topic's schema and a table to look up, to write, or one of each. The file has comments and passes `messina check`; lines that
/// begin with GUESS show what to review first. Nothing is changed in Kafka, registry or database.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  messina init --topic navigation --brokers localhost:9092 --registry http://localhost:8081 \\
    --nodes localhost:9042 --keyspace tracking --table profiles --test
  messina init --topic orders --schema order.avsc --brokers localhost:9092 --registry http://localhost:8081 \\
    --store sqlite:orders.db --write orders_by_user -o orders.toml
  messina init -c connections.toml --topic orders --table profiles")]
pub struct Init {
    /// The topic to read.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// File with the Avro schema of the values. Default: the newest version of TOPIC-value in the registry.
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// The table to look up each record in: TABLE or KEYSPACE.TABLE.
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// The table to write each record to.
    #[arg(long, value_name = "TABLE")]
    write: Option<String>,
    /// Configuration files with the connections and logins. The new file then contains only the pipeline.
    #[arg(short = 'c', long = "config", value_name = "FILE", conflicts_with_all = ["brokers", "registry", "nodes", "keyspace", "store"])]
    config: Vec<PathBuf>,
    /// Kafka bootstrap servers.
    #[arg(long, value_name = "HOST:PORT,…")]
    brokers: Option<String>,
    /// URL of the schema registry.
    #[arg(long, value_name = "URL")]
    registry: Option<String>,
    /// Contact points of the CQL database.
    #[arg(long, value_name = "HOST:PORT,…", conflicts_with = "store")]
    nodes: Option<String>,
    /// The keyspace of the tables.
    #[arg(long, value_name = "KEYSPACE", requires = "nodes")]
    keyspace: Option<String>,
    /// Use the embedded database instead of a CQL database.
    #[arg(long, value_name = "sqlite:PATH")]
    store: Option<String>,
    /// Name of the pipeline; its consumer group is messina-NAME. Default: the topic's name, followed by the name of the --out file if that is another.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The topic to publish to. Default: TOPIC-enriched.
    #[arg(long, value_name = "TOPIC")]
    output: Option<String>,
    /// Bind a column to an expression instead of a guess: user_id=event.user.id. May be repeated.
    #[arg(long, value_name = "COLUMN=EXPRESSION", value_parser = binding)]
    bind: Vec<(String, String)>,
    /// The file to write, or - for stdout. Default: NAME.toml.
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also write a case for `messina test`, NAME.test.toml, and the schema, NAME.avsc.
    #[arg(long)]
    test: bool,
    /// Overwrite existing files.
    #[arg(long)]
    force: bool,
}

fn binding(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((column, expression)) if !column.is_empty() && !expression.is_empty() => {
            Ok((column.trim().to_owned(), expression.trim().to_owned()))
        }
        _ => Err("write COLUMN=EXPRESSION, such as user_id=event.user.id".to_owned()),
    }
}

/// Drafts the pipeline.
pub fn run(args: Init) -> anyhow::Result<ExitCode> {
    let topic = answered(args.topic.as_ref(), "--topic", "Topic to read")?;
    if args.table.is_none() && args.write.is_none() && !can_ask() {
        return Err(
            usage("say which table to look records up in, --table TABLE, or to write them to, --write TABLE").into(),
        );
    }
    let mut connections = if args.config.is_empty() {
        Some(connections(&args)?)
    } else {
        None
    };
    let (tables, write) = match (&args.table, &args.write) {
        (None, None) => (
            Some(answered(None, "--table", "Table to look each record up in")?),
            None,
        ),
        (table, write) => (table.clone(), write.clone()),
    };
    if let Some(Database::Cql { keyspace, .. }) = connections.as_mut().map(|c| &mut c.database)
        && keyspace.is_none()
        && can_ask()
        && [&tables, &write]
            .into_iter()
            .flatten()
            .any(|table| !table.contains('.'))
    {
        *keyspace = Some(answered(None, "--keyspace", "Keyspace of the tables")?);
    }
    let name = match &args.name {
        Some(name) => name.clone(),
        None => own_name(&topic, args.out.as_deref()),
    };
    if name.is_empty() || name != pipeline_name(&name) {
        return Err(usage("a pipeline's name has letters, digits, `-` and `_`: choose another --name").into());
    }
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{name}.toml")));
    let files = Files::new(&args, &out)?;
    let texts = base(&args, connections.as_ref())?;
    let loaded = config::load_str(texts.clone(), config::variables());
    let (config, _) = loaded.map_err(|found| Trouble::config(&found))?;
    if config.pipelines.contains_key(&name) {
        return Err(usage(&format!("there is a pipeline `{name}` already: choose another --name")).into());
    }
    let runtime = runtime(Some(2))?;
    let schema = runtime.block_on(schema(&args, &config, &topic))?;
    let described = runtime.block_on(describe_both(&config, tables.as_deref(), write.as_deref()))?;
    let bind: BTreeMap<String, String> = args.bind.iter().cloned().collect();
    let wanted = Wanted {
        schema: &schema,
        table: described.0.as_ref(),
        write: described.1.as_ref(),
        bind: &bind,
    };
    let draft = draft::draft(&wanted).map_err(|e| usage(&e))?;
    let output = args.output.clone().unwrap_or_else(|| format!("{topic}-enriched"));
    let places = Places {
        name: &name,
        topic: &topic,
        output: &output,
        dead_letters: &format!("{topic}-dead-letters"),
        group: &format!("messina-{name}"),
        file: &files.config.display().to_string(),
        connections: connections.as_ref(),
        others: &args.config.iter().map(|c| c.display().to_string()).collect::<Vec<_>>(),
    };
    let text = text::text(&draft, &places);
    // The draft contains the connections, unless they are in files of their own.
    let mut whole = if connections.is_some() { Vec::new() } else { texts };
    whole.push((places.file.to_owned(), text.clone()));
    let loaded =
        config::load_str(whole, config::variables()).and_then(|(config, sources)| judged(config, sources, &[]));
    let (config, sources, warnings) = match loaded {
        Ok(loaded) => loaded,
        Err(findings) => {
            print(&findings);
            say!(
                "error: with this draft of `messina init` the configuration does not pass its check, and {} is not written. The draft follows: fix \
                 it, or say what is meant with --bind COLUMN=EXPRESSION",
                places.file
            );
            answer(&text)?;
            return Ok(Exit::Config.into());
        }
    };
    print(&warnings);
    if files.to_stdout {
        answer(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let case = match &files.case {
        Some(path) => Some(case_text(&draft, &schema, &topic, &files, path)?),
        None => None,
    };
    files.refuse_to_overwrite(args.force)?;
    let written = files.write(&text, &schema, case.as_deref());
    let ended = written.and_then(|()| match (&files.case, case) {
        (Some(path), Some(case)) => runtime.block_on(expect(path, case, &draft, config, sources)),
        _ => Ok(true),
    });
    // Calls to the embedded brokers may still wait for an answer that nobody needs any more.
    runtime.shutdown_background();
    let stopped = || {
        if let Some(path) = &files.case {
            let (file, path) = (places.file, path.display());
            say!(
                "stopped: {file} and {path} are written, but not what the case expects: run messina test --update {path}"
            );
        }
    };
    match ended {
        Ok(true) => {}
        Ok(false) => {
            stopped();
            return Ok(ExitCode::from(130));
        }
        Err(error) => {
            match error.downcast_ref::<Trouble>() {
                // Remove the new files: none of them existed before, and they would be in the way when the draft is written again. Show the draft,
                // because the findings refer to its lines.
                Some(Trouble::Usage(_) | Trouble::Config) if !args.force => {
                    files.remove();
                    say!("{} is not written. The draft follows:", places.file);
                    answer(&text)?;
                }
                Some(Trouble::Usage(_) | Trouble::Config) => {}
                // The draft is fine, but its case could not run.
                Some(Trouble::Unavailable(_)) | None => stopped(),
            }
            return Err(error);
        }
    }
    say(&draft, &files, &places);
    Ok(ExitCode::SUCCESS)
}

fn usage(message: &str) -> Trouble {
    Trouble::Usage(message.to_owned())
}

fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// The value of a flag, or the answer to a question on the terminal.
fn answered(given: Option<&String>, flag: &str, question: &str) -> anyhow::Result<String> {
    if let Some(given) = given {
        return Ok(given.clone());
    }
    if !can_ask() {
        return Err(usage(&format!("{flag} is missing: {}", question.to_lowercase())).into());
    }
    write!(io::stderr(), "{question} ({flag}): ").context("cannot ask")?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).context("cannot read the answer")?;
    match line.trim() {
        "" => Err(usage(&format!("{flag} is missing: {}", question.to_lowercase())).into()),
        answer => Ok(answer.to_owned()),
    }
}

fn connections(args: &Init) -> anyhow::Result<Connections> {
    let brokers = answered(
        args.brokers.as_ref(),
        "--brokers",
        "Kafka's bootstrap servers, HOST:PORT,…",
    )?;
    let registry = answered(
        args.registry.as_ref(),
        "--registry",
        "Schema registry, http://HOST:PORT",
    )?;
    let database = match &args.store {
        Some(store) => Database::Sqlite(store.clone()),
        None => {
            let question = "Nodes of the CQL database, HOST:PORT,… (or --store sqlite:PATH)";
            let nodes = answered(args.nodes.as_ref(), "--nodes", question)?;
            Database::Cql {
                nodes: nodes.split(',').map(|node| node.trim().to_owned()).collect(),
                keyspace: args.keyspace.clone(),
            }
        }
    };
    Ok(Connections {
        brokers,
        registry,
        database,
    })
}

/// The configuration that the connections come from: texts with their names.
fn base(args: &Init, connections: Option<&Connections>) -> anyhow::Result<Vec<(String, String)>> {
    if let Some(connections) = connections {
        return Ok(vec![("the flags".to_owned(), connections.toml())]);
    }
    let read = |path: &PathBuf| {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Ok((name, text)),
            Err(error) => Err(usage(&format!("cannot read {name}: {error}")).into()),
        }
    };
    args.config.iter().map(read).collect()
}

/// Turns a topic's name into a valid pipeline name.
fn pipeline_name(topic: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') {
            c
        } else {
            '-'
        }
    };
    topic.chars().map(plain).collect()
}

/// The default name of a pipeline. Two drafts for one topic must get different names: with the same name they would share a consumer group, and each
/// would get only a part of the records.
fn own_name(topic: &str, out: Option<&Path>) -> String {
    let topic = pipeline_name(topic);
    let stem = out.filter(|out| *out != Path::new("-")).and_then(Path::file_stem);
    let Some(stem) = stem.map(|stem| pipeline_name(&stem.to_string_lossy())) else {
        return topic;
    };
    match stem.strip_prefix(&topic) {
        // The stem continues the topic's name, and is not just a longer word.
        Some(more) if !more.starts_with(|c: char| c.is_ascii_alphabetic()) => stem,
        _ => format!("{topic}-{stem}"),
    }
}

/// The schema of the topic's values.
async fn schema(args: &Init, config: &Config, topic: &str) -> anyhow::Result<Schema> {
    if let Some(path) = &args.schema {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| usage(&format!("cannot read {name}: {e}")))?;
        return Schema::parse(&text).map_err(|e| usage(&format!("{name}: {e}")).into());
    }
    let registry = app::registry(config).map_err(Trouble::Unavailable)?;
    let subject = format!("{topic}-value");
    let versions = registry.versions(&subject).await;
    let versions = versions.map_err(|e| Trouble::Unavailable(format!("the registry: {e}")))?;
    let Some(newest) = versions.last() else {
        return Err(usage(&format!(
            "the registry has no schema under {subject}: give one with --schema FILE, or register it first"
        ))
        .into());
    };
    newest.parsed().map_err(|e| usage(&format!("{subject}: {e}")).into())
}

async fn describe_both(
    config: &Config,
    table: Option<&str>,
    write: Option<&str>,
) -> anyhow::Result<(Option<Description>, Option<Description>)> {
    let store = app::database(config).await.map_err(Trouble::Unavailable)?;
    let Some(store) = store else {
        return Err(
            usage("the configuration has no database: add a section [scylla], or store = \"sqlite:PATH\"").into(),
        );
    };
    let keyspace = config
        .scylla
        .as_ref()
        .and_then(|s| s.keyspace.as_ref())
        .map(|k| k.as_str());
    Ok((
        one_table(&store, keyspace, table).await?,
        one_table(&store, keyspace, write).await?,
    ))
}

async fn one_table(
    store: &AnyStore,
    keyspace: Option<&str>,
    name: Option<&str>,
) -> anyhow::Result<Option<Description>> {
    let Some(name) = name else { return Ok(None) };
    if matches!(store, AnyStore::Scylla(_)) && keyspace.is_none() && !name.contains('.') {
        return Err(usage(&format!(
            "say in which keyspace {name} is: --keyspace KEYSPACE, or KEYSPACE.{name}"
        ))
        .into());
    }
    let described = describe(store, keyspace, name).await;
    described
        .map(Some)
        .map_err(|e| usage(&format!("table {name}: {e}")).into())
}

fn case_text(draft: &Draft, schema: &Schema, topic: &str, files: &Files, path: &Path) -> Result<String, Trouble> {
    let names = case::Names {
        topic,
        configs: &files.configs,
        file: &path.display().to_string(),
        schema: &files.schema_name,
    };
    case::text(draft, &schema.root_type(), &names).map_err(Trouble::Usage)
}

/// Runs the case, and writes its result into the file. Returns false if a signal came first.
async fn expect(path: &Path, text: String, draft: &Draft, config: Config, sources: Sources) -> anyhow::Result<bool> {
    let case = file::parse(&text).map_err(anyhow::Error::msg)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let customs = CustomSteps::new();
    let report = tokio::select! {
        biased;
        signal = shutdown::requested_or_hung_up() => {
            signal.context("cannot listen to signals")?;
            return Ok(false);
        }
        report = cases::run(&case, folder, config, sources, &customs, None) => report,
    };
    let report = match report {
        Ok(report) => report,
        Err(cases::Error::Start(StartError::Config(findings))) => {
            print(&findings);
            return Err(usage(
                "the draft does not run with its own case: say what is meant with --bind COLUMN=EXPRESSION",
            )
            .into());
        }
        Err(error @ (cases::Error::Start(_) | cases::Error::Environment(_))) => {
            return Err(Trouble::Unavailable(error.to_string()).into());
        }
        Err(error @ cases::Error::File(_)) => {
            return Err(error).with_context(|| format!("cannot run the case of {}", path.display()));
        }
    };
    let verdict = report.verdicts.first();
    let (Some(effects), Some(place)) = (
        verdict.and_then(|verdict| verdict.effects.as_ref()),
        case.cases.first().and_then(|case| case.expect.as_ref()),
    ) else {
        return Ok(true);
    };
    if let Some(outcome) = effects.outcome.as_deref().filter(|outcome| *outcome != "done") {
        let path = path.display();
        say!(
            "warning: the record in {path} is made up, and its result is {outcome}, which the case expects now: replace it with one that you know, \
             then run messina test --update {path}"
        );
    }
    let mut expect = serde_json::to_value(effects).context("effects as JSON")?;
    if let Some(value) = expect.get_mut("value").and_then(|value| value.as_object_mut()) {
        // The event's own fields pass unchanged, so expect only the new ones.
        value.retain(|name, _| draft.set.iter().any(|(field, _)| field == name));
    }
    let update = file::Update {
        place: place.span(),
        replaces: true,
        expect,
    };
    let new = file::updated(&text, vec![update]).map_err(anyhow::Error::msg)?;
    save(path, &new)?;
    Ok(true)
}

/// Says what was done, and what to do next.
fn say(draft: &Draft, files: &Files, places: &Places<'_>) {
    let others: String = places.others.iter().map(|other| format!("-c {other} ")).collect();
    let file = places.file;
    say!("wrote {file}");
    for path in files.case.iter().chain(&files.schema) {
        say!("wrote {}", path.display());
    }
    for step in draft.lookup.iter().chain(&draft.write) {
        for bound in &step.bind {
            let sure = match bound.why {
                None | Some(guess::Why::Name) => "",
                Some(guess::Why::Bare | guess::Why::Alike | guess::Why::Type) => "   a guess: look at it",
            };
            say!(
                "  {}.{} <- {}{sure}",
                step.table.name,
                bound.column.name,
                bound.expression
            );
        }
    }
    say!("  reads {} in group {}", places.topic, places.group);
    say!("next:\n  messina check {others}-c {file} --online");
    if let Some(case) = &files.case {
        say!("  messina test {}", case.display());
    }
    say!("  messina run {others}-c {file}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_and_names_are_read() {
        assert_eq!(
            binding("a = event.b == 'x=y'"),
            Ok(("a".to_owned(), "event.b == 'x=y'".to_owned()))
        );
        assert!(binding("a=").is_err() && binding("=b").is_err() && binding("ab").is_err());
        assert_eq!(pipeline_name("team.nav_v1-x"), "team-nav_v1-x");
    }

    #[test]
    fn a_file_of_another_name_is_another_pipeline() {
        for (topic, out, name) in [
            ("clicks", None, "clicks"),
            ("clicks", Some("-"), "clicks"),
            ("clicks", Some("clicks.toml"), "clicks"),
            ("clicks", Some("drafts/clicks.toml"), "clicks"),
            ("web.clicks", Some("web.clicks.toml"), "web-clicks"),
            ("clicks", Some("b.toml"), "clicks-b"),
            ("clicks", Some("drafts/my visits"), "clicks-my-visits"),
            ("clicks", Some("clicks-history.toml"), "clicks-history"),
            ("clicks", Some("clicks2.toml"), "clicks2"),
            ("t", Some("two.toml"), "t-two"),
        ] {
            assert_eq!(own_name(topic, out.map(Path::new)), name, "{topic}, {out:?}");
        }
    }
}
