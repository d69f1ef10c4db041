//! `check --online`: what live services tell of a configuration.

use std::time::Duration;

use super::services::Services;
use crate::config::{self, Config, Diagnostic, Diagnostics, Sources, codes};
use crate::kafka;
use crate::pipeline::finding::Finding;
use crate::pipeline::prepare::{NotPrepared, prepare};
use crate::pipeline::schemas::Registering;

/// Checks everything that live services tell, with no effect on any of them.
pub async fn check_online(config: &Config, sources: &Sources) -> Result<Diagnostics, String> {
    let services = match Services::connect_once(config).await {
        Ok(services) => services,
        Err(NotPrepared::Findings(findings)) => return Ok(findings_to_diagnostics(findings, sources)),
        Err(NotPrepared::Unavailable(failure)) => return Err(failure.message),
    };
    let mut all = Vec::new();
    for pipeline in config.pipelines.values() {
        match prepare(
            pipeline,
            services.store.as_deref(),
            &services.registry,
            Registering::Skip,
        )
        .await
        {
            Ok(prepared) => all.extend(prepared.warnings.into_iter().map(|w| diagnostic(w, sources, true))),
            Err(NotPrepared::Findings(findings)) => {
                all.extend(findings.into_iter().map(|f| diagnostic(f, sources, false)));
            }
            Err(NotPrepared::Unavailable(failure)) => return Err(failure.message),
        }
        all.extend(
            topics(config, pipeline)
                .await?
                .into_iter()
                .map(|f| diagnostic(f, sources, false)),
        );
    }
    Ok(Diagnostics::new(all))
}

/// Topics that are not there.
async fn topics(config: &Config, pipeline: &config::Pipeline) -> Result<Vec<Finding>, String> {
    let client = kafka::client(
        &config.kafka,
        &config.kafka.consumer_properties,
        &pipeline.source.properties,
    )
    .map_err(|e| e.to_string())?;
    let wanted: Vec<_> = pipeline
        .source
        .topics
        .iter()
        .chain(pipeline.sink.as_ref().map(|s| &s.topic))
        .chain(pipeline.dead_letter.as_ref().map(|d| &d.topic))
        .cloned()
        .collect();
    let result = tokio::task::spawn_blocking(move || {
        use rdkafka::consumer::{BaseConsumer, Consumer};
        let consumer: BaseConsumer = client.create().map_err(|e| e.to_string())?;
        let metadata = consumer
            .fetch_metadata(None, Duration::from_secs(10))
            .map_err(|e| format!("the brokers: {e}"))?;
        Ok(wanted
            .into_iter()
            .filter(|topic| {
                !metadata
                    .topics()
                    .iter()
                    .any(|t| t.name() == topic.value && !t.partitions().is_empty())
            })
            .map(|topic| {
                Finding::new(topic.span, format!("the brokers have no topic '{}'", topic.value)).help("create it first")
            })
            .collect())
    })
    .await;
    result.unwrap_or_else(|e| Err(e.to_string()))
}

fn diagnostic(finding: Finding, sources: &Sources, warning: bool) -> Diagnostic {
    let Finding { span, message, help } = finding;
    let diagnostic = if warning {
        Diagnostic::warning(codes::TYPES, message)
    } else {
        Diagnostic::error(codes::TYPES, message)
    };
    let diagnostic = diagnostic.at(sources, span, "");
    match help {
        Some(help) => diagnostic.help(help),
        None => diagnostic,
    }
}

/// Findings as the diagnostics that people read.
pub fn findings_to_diagnostics(findings: Vec<Finding>, sources: &Sources) -> Diagnostics {
    Diagnostics::new(findings.into_iter().map(|f| diagnostic(f, sources, false)).collect())
}
