//! `messina dead-letters`: lists and shows dead letters, and sends records back.
//!
//! `list` and `show` only read. `replay` sends records back to the topics that they came from, once the cause is fixed. All three read with a consumer
//! that commits nothing, up to the end of the topics when the command begins. Keys, values and what messages quote of them appear only on request.

pub(super) mod filter;
mod list;
mod reader;
pub(super) mod replay;
mod returning;
mod show;
mod table;

use std::collections::BTreeSet;
use std::process::ExitCode;

use super::ConfigFiles;
use super::trouble::Trouble;
use crate::config::{Config, Pipeline, Property};

/// List dead letters, show one, or send records back to the topics that they came from.
#[derive(Debug, clap::Args)]
pub struct DeadLetters {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List dead letters, one per line, or count them by reason. Without keys and values.
    List(list::List),
    /// Show one dead letter: all headers and the reason. With --payload also key, value and what the reason quotes of them.
    Show(show::Show),
    /// Send records back to the topic that they came from. Without --yes, only report what would be sent.
    Replay(replay::Replay),
}

/// Where the dead letters are.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    #[command(flatten)]
    config: ConfigFiles,
    /// Only dead letters of this pipeline. Without --topic, read its dead-letter topic.
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Read this topic instead of the dead-letter topics of the configuration's pipelines.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
}

/// What all three commands need: the configuration, the topics, and the pipeline whose dead letters count.
pub(super) struct Context {
    config: Config,
    topics: Vec<String>,
    pipeline: Option<String>,
}

impl Context {
    /// The pipeline whose properties the clients get, if one is given.
    fn of_pipeline(&self) -> Option<&Pipeline> {
        self.config.pipelines.get(self.pipeline.as_ref()?)
    }

    fn consumer_properties(&self) -> &[Property] {
        self.of_pipeline().map_or(&[], |p| &p.source.properties)
    }

    fn producer_properties(&self) -> &[Property] {
        let sink = self.of_pipeline().and_then(|p| p.sink.as_ref());
        sink.map_or(&[], |sink| &sink.properties)
    }

    /// The only topic. If there are several, the error says how to choose one.
    fn only_topic(&self) -> Result<&str, Trouble> {
        match self.topics.as_slice() {
            [topic] => Ok(topic),
            several => Err(Trouble::Usage(format!(
                "a place is PARTITION:OFFSET of one topic, and there are {}: choose one with --pipeline or --topic",
                several.join(", ")
            ))),
        }
    }
}

impl Target {
    /// Loads the configuration, and finds the topics.
    fn resolve(&self) -> Result<Context, Trouble> {
        let (config, _) = self.config.taken(&[])?;
        let topics = topics(&config, self.pipeline.as_deref(), self.topic.as_deref())?;
        Ok(Context {
            config,
            topics,
            pipeline: self.pipeline.clone(),
        })
    }
}

fn topics(config: &Config, pipeline: Option<&str>, topic: Option<&str>) -> Result<Vec<String>, Trouble> {
    if let Some(name) = pipeline
        && !config.pipelines.contains_key(name)
        && topic.is_none()
    {
        return Err(Trouble::Usage(format!(
            "there is no pipeline `{name}`: there are {}",
            config.pipeline_names()
        )));
    }
    if let Some(topic) = topic {
        return Ok(vec![topic.to_owned()]);
    }
    let chosen = config
        .pipelines
        .iter()
        .filter(|(name, _)| pipeline.is_none_or(|p| p == *name));
    let topics: BTreeSet<String> = chosen
        .filter_map(|(_, p)| Some(p.dead_letter.as_ref()?.topic.value.clone()))
        .collect();
    if topics.is_empty() {
        let who = pipeline.map_or_else(|| "no pipeline has a".to_owned(), |name| format!("`{name}` has no"));
        return Err(Trouble::Usage(format!(
            "{who} [dead_letter]: name the topic with --topic"
        )));
    }
    Ok(topics.into_iter().collect())
}

/// Runs the command.
pub fn run(args: DeadLetters) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(args) => list::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Replay(args) => replay::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
        [kafka]
        brokers = "k:9092"
        [registry]
        url = "http://r:8081"
        [pipelines.a]
        source = { topics = "a", group = "a" }
        sink = { topic = "a-out" }
        dead_letter = { topic = "dead" }
        [pipelines.b]
        source = { topics = "b", group = "b" }
        sink = { topic = "b-out" }
        dead_letter = { topic = "dead" }
        [pipelines.c]
        source = { topics = "c", group = "c" }
        sink = { topic = "c-out" }
    "#;

    #[test]
    fn topics_come_from_the_pipelines_once_or_from_the_command_line() {
        let (config, _) = crate::config::load_str(vec![("c.toml".into(), CONFIG.into())], std::iter::empty()).unwrap();
        let of = |pipeline, topic| topics(&config, pipeline, topic);
        assert_eq!(of(None, None).unwrap(), ["dead"]);
        assert_eq!(of(Some("b"), None).unwrap(), ["dead"]);
        assert_eq!(of(Some("gone"), Some("old")).unwrap(), ["old"]);
        assert_eq!(
            of(Some("x"), None).unwrap_err().to_string(),
            "there is no pipeline `x`: there are a, b, c"
        );
        assert_eq!(
            of(Some("c"), None).unwrap_err().to_string(),
            "`c` has no [dead_letter]: name the topic with --topic"
        );
    }
}
