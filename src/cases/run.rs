//! Runs the cases of a file one after the other and collects their results.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value as Json};

use super::documents;
use super::file::{Case, CaseFile};
use super::from_json::from_json;
use super::judge::{DeadLetter, Effects, HALTED, OUTCOMES, differences};
use super::report::{Covered, Report, Verdict};
use super::stage::Stage;
use super::tables::{Contents, Tables, toml_to_json};
use crate::app::StartError;
use crate::avro::value::{Type, Unit, Value};
use crate::config::{Config, Pipeline, Sources, Step, StepKind};
use crate::custom::CustomSteps;
use crate::pipeline::evaluate::fix_now;
use crate::sink::letter;

/// A header of each record: the number of its case. It is passed on to outputs and dead letters, which shows to which case they belong.
const CASE: &str = "messina-test.case";
/// How long a record may take to end.
const END: Duration = Duration::from_secs(10);
/// The classes of failed attempts, and the levels by which they are counted.
const CLASSES: [&str; 3] = ["transient", "permanent", "fatal"];
const LEVELS: [&str; 3] = ["warn", "error", "fatal"];

/// Why the cases could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The case file is wrong.
    #[error("{0}")]
    File(String),
    /// The pipelines do not start with these schemas and tables.
    #[error("{0}")]
    Start(StartError),
    /// The process lacks a resource.
    #[error("{0}")]
    Environment(String),
}

/// Runs the cases whose names contain `only`, with the pipelines of `config`, which has passed the offline checks. Paths are relative to `folder`.
///
/// # Errors
/// Why no case could be run. A failed case is not an error.
pub async fn run(
    file: &CaseFile,
    folder: &Path,
    mut config: Config,
    sources: Sources,
    customs: &CustomSteps,
    only: Option<&str>,
) -> Result<Report, Error> {
    let wanted: Vec<(usize, &Case)> = file
        .cases
        .iter()
        .enumerate()
        .filter(|(_, case)| only.is_none_or(|only| case.name.get_ref().contains(only)))
        .collect();
    let mut named = Vec::new();
    for (_, case) in &wanted {
        named.push(pipeline_of(case, &config)?);
    }
    config.pipelines.retain(|name, _| named.contains(name));
    // References that no step uses need no documents.
    let asked = |name: &str| {
        let mut steps = config.pipelines.values().flat_map(|pipeline| &pipeline.steps);
        steps.any(|step| matches!(&step.kind, StepKind::Reference(wanted) if wanted.reference.value == *name))
    };
    let asked: Vec<String> = config.references.keys().filter(|name| asked(name)).cloned().collect();
    config.references.retain(|name, _| asked.contains(name));
    let mut documents = Vec::new();
    for (_, case) in &wanted {
        documents.push(documents::of_case(case).map_err(|what| in_case(case, what))?);
    }
    // Find the types in the documents of all cases: a field may occur only in a case that was not selected.
    let all: Vec<_> = file
        .cases
        .iter()
        .filter_map(|case| documents::of_case(case).ok())
        .collect();
    let references = documents::references(&config.references, &all, &sources)?;
    let references = Arc::new(references);
    config.references.clear();
    config.mongo = None;
    let mut report = Report::default();
    if wanted.is_empty() {
        return Ok(report);
    }
    let mut stuck: BTreeMap<String, String> = BTreeMap::new();
    for pipelines in apart(std::mem::take(&mut config.pipelines)) {
        let own = Config {
            pipelines: pipelines.clone(),
            ..config.clone()
        };
        let mut stage = Stage::build(file, folder, own, sources.clone(), customs, references.clone()).await?;
        let cases = wanted.iter().zip(&named).zip(&documents);
        let tried = async {
            for (((number, case), name), documents) in cases.filter(|((_, name), _)| pipelines.contains_key(*name)) {
                documents::fill(&references, documents).map_err(|what| in_case(case, what))?;
                let began = Instant::now();
                let before = executions(&stage, name, &pipelines[name]);
                let verdict = match stuck.get(name) {
                    Some(why) => Verdict::not_run(*number, case, name, why),
                    None => {
                        let expected = case.expected.as_ref();
                        let named = expected
                            .and_then(|read| read.as_ref().ok())
                            .map(|expected| &expected.rows);
                        let (effects, ended) = run_case(&stage, *number, case, &pipelines[name], named).await?;
                        if !ended {
                            // Stop retrying: an attempt might succeed with the data of a later case, and be taken for that case's result.
                            stage.running.end(name).await;
                            stuck.insert(
                                name.clone(),
                                format!("an earlier case left the pipeline stuck: {}", case.name.get_ref()),
                            );
                        }
                        let mut verdict = Verdict::new(*number, case, name, began.elapsed());
                        verdict.failures = judged(expected, &effects, &stage.tables);
                        verdict.effects = Some(effects);
                        verdict
                    }
                };
                report.covered(
                    name,
                    &pipelines[name],
                    &before,
                    &executions(&stage, name, &pipelines[name]),
                    &verdict,
                );
                report.verdicts.push(verdict);
            }
            Ok::<(), Error>(())
        }
        .await;
        // Also after an error: this process may have another file to try.
        fix_now(None);
        stage.close().await;
        tried?;
    }
    report.verdicts.sort_by_key(|verdict| verdict.number);
    Ok(report)
}

/// Divides the pipelines into groups in which none consumes what another consumes or publishes. Otherwise it would also run on the record of the
/// other's case, and its rows and its outcome would be taken for those of that case, or of a later one. There should be few groups, because the
/// consumers of each take seconds to join.
fn apart(pipelines: BTreeMap<String, Pipeline>) -> Vec<BTreeMap<String, Pipeline>> {
    let mut groups: Vec<BTreeMap<String, Pipeline>> = Vec::new();
    for (name, pipeline) in pipelines {
        let free = groups
            .iter_mut()
            .find(|group| !group.values().any(|other| meet(&pipeline, other)));
        match free {
            Some(group) => {
                group.insert(name, pipeline);
            }
            None => groups.push(BTreeMap::from([(name, pipeline)])),
        }
    }
    groups
}

/// Whether one of the pipelines consumes a topic that the other consumes or publishes to.
fn meet(one: &Pipeline, other: &Pipeline) -> bool {
    let consumes = |pipeline: &Pipeline, topic: &String| pipeline.source.topics.iter().any(|own| own.value == *topic);
    topics(one).any(|topic| consumes(other, topic)) || topics(other).any(|topic| consumes(one, topic))
}

/// All topics of a pipeline.
fn topics(pipeline: &Pipeline) -> impl Iterator<Item = &String> {
    let sink = pipeline.sink.iter().map(|sink| &sink.topic);
    let letters = pipeline.dead_letter.iter().map(|letters| &letters.topic);
    let all = pipeline.source.topics.iter().chain(sink).chain(letters);
    all.map(|topic| &topic.value)
}

fn in_case(case: &Case, what: String) -> Error {
    Error::File(format!("case \"{}\": {what}", case.name.get_ref()))
}

fn pipeline_of(case: &Case, config: &Config) -> Result<String, Error> {
    let name = case.name.get_ref();
    match (&case.pipeline, config.pipelines.len()) {
        (Some(pipeline), _) if config.pipelines.contains_key(pipeline) => Ok(pipeline.clone()),
        (Some(pipeline), _) => Err(Error::File(format!(
            "case \"{name}\": there is no pipeline {pipeline}; there are {}",
            config.pipeline_names()
        ))),
        (None, 1) => Ok(config.pipeline_names()),
        (None, _) => Err(Error::File(format!(
            "case \"{name}\": say which pipeline: {}",
            config.pipeline_names()
        ))),
    }
}

/// How often each step has run so far, by its name. Failures count, too: a case may expect one.
fn executions(stage: &Stage, name: &str, pipeline: &Pipeline) -> Covered {
    let metrics = &stage.running.metrics;
    let count = |step: &Step| {
        let of = &*step.name.value;
        let failures = CLASSES
            .iter()
            .flat_map(|class| LEVELS.map(|level| metrics.failures_total.of([name, of, *class, level]).get()));
        let failed: u64 = failures.sum();
        let succeeded: u64 = match &step.kind {
            // References are read from memory, which is not timed, so count their outcomes instead.
            StepKind::Reference(_) => {
                let came =
                    ["found", "missing"].map(|outcome| metrics.reference_lookups_total.of([name, of, outcome]).get());
                came.iter().sum()
            }
            _ => metrics.step_seconds.of([name, of]).get_sample_count(),
        };
        succeeded + failed
    };
    let steps = pipeline.steps.iter();
    steps.map(|step| (step.name.value.clone(), count(step))).collect()
}

/// The failures of a case: how its effects differ from this expectation.
fn judged(expected: Option<&Result<Effects, String>>, effects: &Effects, tables: &Tables) -> Vec<String> {
    let expected = match expected {
        None => return vec!["the case has no `expect`; its result was:".to_owned(), shown(effects)],
        Some(Err(what)) => return vec![what.clone()],
        Some(Ok(expected)) => expected,
    };
    let mut found = differences(expected, effects);
    found.extend(tables.unknown_columns(&expected.rows));
    found
}

fn shown(effects: &Effects) -> String {
    serde_json::to_string_pretty(effects).unwrap_or_default()
}

/// Runs a case. Returns its effects, with the content of the `named` tables in any case, and whether the pipeline can go on.
async fn run_case(
    stage: &Stage,
    number: usize,
    case: &Case,
    pipeline: &Pipeline,
    named: Option<&Map<String, Json>>,
) -> Result<(Effects, bool), Error> {
    let name = &pipeline.name.value;
    let in_case = |what: String| in_case(case, what);
    let now = case
        .now
        .as_ref()
        .map(|text| moment(text, "now"))
        .transpose()
        .map_err(in_case)?;
    fix_now(now);
    stage.tables.fill(&case.rows).await.map_err(in_case)?;
    let before = stage.tables.contents().await.map_err(in_case)?;

    let record = &case.record;
    let topic = match &record.topic {
        None => &pipeline.source.topics[0].value,
        Some(topic) if pipeline.source.topics.iter().any(|t| t.value == *topic) => topic,
        Some(topic) => return Err(in_case(format!("record.topic: {name} does not consume {topic}"))),
    };
    let value = match (&record.value, &record.raw) {
        (Some(_), Some(_)) => return Err(in_case("record: `value` and `raw` exclude one another".to_owned())),
        (None, raw) => raw.as_ref().map(|raw| raw.clone().into_bytes()),
        (Some(toml::Value::String(text)), None) => {
            let json: Json = serde_json::from_str(text).map_err(|e| in_case(format!("record.value: not JSON: {e}")))?;
            Some(stage.encode(topic, &json).map_err(in_case)?)
        }
        (Some(table), None) => Some(stage.encode(topic, &toml_to_json(table)).map_err(in_case)?),
    };
    let timestamp = match &record.timestamp {
        Some(text) => Some(moment(text, "record.timestamp").map_err(in_case)?),
        None => now,
    };
    let counts = || OUTCOMES.map(|outcome| stage.running.metrics.records_total.of([name, outcome]).get());
    let earlier = counts();
    let number = number.to_string();
    let mut headers = record.headers.clone();
    headers.insert(CASE.to_owned(), number.clone());
    stage.send(
        topic,
        record.key.as_deref(),
        value.as_deref(),
        timestamp.map(|us| us / 1000),
        &headers,
    )?;

    let mut effects = Effects::default();
    let began = Instant::now();
    let outcome = loop {
        let ended = counts().iter().zip(earlier).position(|(now, earlier)| *now > earlier);
        if let Some(ended) = ended {
            break Some(OUTCOMES[ended]);
        }
        let halted = stage
            .running
            .loops(name)
            .iter()
            .find_map(|state| state.get().halted.clone());
        if let Some(why) = halted {
            effects.halted = Some(why);
            break Some(HALTED);
        }
        if began.elapsed() > END {
            break None;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let ended = OUTCOMES.iter().any(|known| outcome == Some(*known));
    effects.outcome = Some(outcome.map_or_else(
        || format!("no outcome within {} s: it is still being retried", END.as_secs()),
        str::to_owned,
    ));
    match (outcome, &pipeline.sink, &pipeline.dead_letter) {
        (Some("done"), Some(sink), _) => {
            let out = stage.receive(&sink.topic, (CASE, number.as_str()))?;
            effects.key = out.key.map(Some);
            if let Some(value) = out.value {
                effects.value = Some(stage.decode(&value).await.map_err(in_case)?);
            }
        }
        (Some("dead_lettered"), _, Some(letters)) => {
            let out = stage.receive(&letters.topic, (CASE, number.as_str()))?;
            let header = |name: &str| out.headers.get(name).cloned();
            effects.dead_letter = Some(DeadLetter {
                step: header(letter::STEP),
                reason: header(letter::REASON),
                message: header(letter::MESSAGE),
            });
        }
        _ => {}
    }
    effects.rows = compared(&before, stage.tables.contents().await.map_err(in_case)?, named);
    Ok((effects, ended))
}

/// The content of tables that have changed, and of `named` tables whether they changed or not.
fn compared(before: &Contents, after: Contents, named: Option<&Map<String, Json>>) -> Map<String, Json> {
    let wanted = after
        .into_iter()
        .filter(|(name, rows)| named.is_some_and(|named| named.contains_key(name)) || before.get(name) != Some(rows));
    wanted.map(|(name, rows)| (name, Json::Array(rows))).collect()
}

/// Microseconds since 1970 of an RFC 3339 text in UTC.
fn moment(text: &str, what: &str) -> Result<i64, String> {
    match from_json(&Json::from(text), &Type::Timestamp(Unit::Micros)) {
        Ok(Value::Timestamp(micros, _)) => Ok(micros),
        Ok(_) | Err(_) => Err(format!(
            "{what}: expected a time like 2026-05-01T12:00:00Z, found \"{text}\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn pipelines_that_meet_at_a_topic_do_not_run_together() {
        let pipeline = |name: &str, consumes: &str, rest: &str| {
            format!("[pipelines.{name}]\nsource = {{ topics = \"{consumes}\", group = \"{name}\" }}\n{rest}\n")
        };
        let text = [
            "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n".to_owned(),
            pipeline(
                "a",
                "in",
                "sink = { topic = \"out\" }\ndead_letter = { topic = \"letters\" }",
            ),
            pipeline("b", "in", ""),
            pipeline("c", "out", ""),
            pipeline("d", "letters", ""),
            // Several pipelines may publish to one topic: their outputs are told apart by the number of the case.
            pipeline("e", "other", "sink = { topic = \"out\" }"),
        ];
        let (config, _) = config::load_str(vec![("m.toml".into(), text.concat())], std::iter::empty()).unwrap();
        let groups = apart(config.pipelines);
        let names: Vec<Vec<&str>> = groups
            .iter()
            .map(|group| group.keys().map(String::as_str).collect())
            .collect();
        assert_eq!(names, [vec!["a", "e"], vec!["b", "c", "d"]]);
    }
}
