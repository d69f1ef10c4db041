//! `check --online`: what live services tell of a configuration.

mod around;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

use super::services::{Purpose, Services};
use crate::config::{self, Config, Diagnostic, Diagnostics, Sources, codes};
use crate::custom::CustomSteps;
use crate::kafka;
use crate::pipeline::finding::Finding;
use crate::pipeline::prepare::{NotPrepared, prepare};
use crate::pipeline::schemas::Registering;

/// How long the brokers may take to say which topics there are.
const METADATA: Duration = Duration::from_secs(10);
/// Brokers each have a reason why they cannot be reached; so many are told.
const MOST_REASONS: usize = 3;

/// Checks everything that live services tell, with no effect on any of them.
pub async fn check_online(config: &Config, sources: &Sources, customs: &CustomSteps) -> Result<Diagnostics, String> {
    let certificates = around::certificates(config);
    // A certificate that has run out is why a service cannot be reached.
    let expired = certificates.iter().filter(|(_, warning)| !warning);
    let expired: String = expired.map(|(finding, _)| format!("; {}", finding.message)).collect();
    let certificates = certificates.into_iter();
    let mut all = certificates
        .map(|(f, warning)| diagnostic(f, sources, warning))
        .collect();
    match services_say(config, sources, customs, &mut all).await {
        Ok(()) => Ok(Diagnostics::new(all)),
        Err(unavailable) => Err(format!("{unavailable}{expired}")),
    }
}

/// Adds what the services tell; fails where one does not answer.
async fn services_say(
    config: &Config,
    sources: &Sources,
    customs: &CustomSteps,
    all: &mut Vec<Diagnostic>,
) -> Result<(), String> {
    let services = match Services::connect_once(config, Purpose::Check).await {
        Ok(services) => services,
        Err(NotPrepared::Findings(findings)) => {
            all.extend(findings.into_iter().map(|f| diagnostic(f, sources, false)));
            return Ok(());
        }
        Err(NotPrepared::Unavailable(failure)) => return Err(failure.message),
    };
    let clocks = around::clocks(config, services.store.as_deref()).await;
    let clocks = clocks.map_err(|e| format!("the database: {e}"))?;
    all.extend(clocks.map(|(f, warning)| diagnostic(f, sources, warning)));
    for pipeline in config.pipelines.values() {
        match prepare(
            pipeline,
            services.store.as_deref(),
            &services.references.references,
            &services.registry,
            Registering::Skip,
            customs,
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
    Ok(())
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
        let reasons = Reasons::default();
        let consumer: BaseConsumer<Reasons> = client
            .create_with_context(reasons.clone())
            .map_err(|e| format!("the brokers: {e}"))?;
        let began = Instant::now();
        let metadata = loop {
            // Serves what waits: a token to be made, lines to be logged. An error among it is no news.
            while consumer.poll(Duration::from_millis(10)).is_some() {}
            match consumer.fetch_metadata(None, METADATA / 5) {
                Ok(metadata) => break metadata,
                Err(_) if began.elapsed() < METADATA => {}
                Err(e) => return Err(format!("the brokers: {e}{}", reasons.told())),
            }
        };
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

/// What librdkafka logs while it tries: its error says only that there was no answer, and this says why.
#[derive(Clone, Default)]
struct Reasons(Arc<Mutex<Vec<String>>>);

impl Reasons {
    /// The different reasons, to be put behind an error.
    fn told(&self) -> String {
        let reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.iter().map(|reason| format!("; {reason}")).collect()
    }
}

impl ClientContext for Reasons {
    fn log(&self, level: RDKafkaLogLevel, _facility: &str, message: &str) {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // `[thrd:…]: …: reason (after 3ms in state …)`: the address and the reason are wanted once for each.
        let reason = message.split_once("]: ").map_or(message, |(_, rest)| rest);
        let reason = reason.split(" (after ").next().unwrap_or(reason);
        if level as i32 <= RDKafkaLogLevel::Error as i32
            && reasons.len() < MOST_REASONS
            && !reasons.iter().any(|r| r == reason)
        {
            reasons.push(reason.to_owned());
        }
    }
}

impl ConsumerContext for Reasons {}

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
