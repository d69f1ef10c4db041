//! The parts of `messina check` that need more than the configuration: the program itself and, with `--online`, the live services.

mod around;
mod brokers;
mod tables;

use super::services::{Purpose, Services};
use crate::config::{Config, Diagnostic, Diagnostics, Sources, StepKind};
use crate::custom::CustomSteps;
use crate::pipeline::finding::Finding;
use crate::pipeline::prepare::{NotPrepared, prepare};
use crate::pipeline::program::misnamed;
use crate::pipeline::schemas::Registering;

/// Checks everything that live services can tell, without any effect on them. Returns the findings, and an error if a service does not answer,
/// so that the findings are incomplete.
pub async fn check_online(
    config: &Config,
    sources: &Sources,
    customs: &CustomSteps,
) -> (Diagnostics, Result<(), String>) {
    let certificates = around::certificates(config).await;
    // An expired certificate explains why a service cannot be reached.
    let expired = certificates.iter().filter(|(_, warning)| !warning);
    let expired: String = expired.map(|(finding, _)| format!("; {}", finding.message)).collect();
    let certificates = certificates.into_iter();
    let mut all: Vec<_> = certificates
        .map(|(f, warning)| diagnostic(f, sources, warning))
        .collect();
    let asked = services_say(config, sources, customs, &mut all).await;
    let asked = asked.map_err(|unavailable| format!("{unavailable}{expired}"));
    // Preparing a pipeline reports the same, as an error, but no pipeline is prepared if a service is away or cannot be
    // asked.
    for own in check_customs(config, sources, customs).iter() {
        if !all.iter().any(|f| f.place == own.place && f.message == own.message) {
            all.push(own.clone());
        }
    }
    (Diagnostics::new(all), asked)
}

/// Checks the custom steps against those of the program. A program without custom steps is usually not the one that runs the configuration, so a
/// missing step is only a warning there.
pub fn check_customs(config: &Config, sources: &Sources, customs: &CustomSteps) -> Diagnostics {
    let plain = customs.names().next().is_none();
    let steps = config.pipelines.values().flat_map(|pipeline| &pipeline.steps);
    let findings = steps.filter_map(|step| match &step.kind {
        StepKind::Custom(wanted) => Some(misnamed(wanted, customs)),
        _ => None,
    });
    Diagnostics::new(findings.flatten().map(|f| diagnostic(f, sources, plain)).collect())
}

/// Adds the findings from the services; fails if one does not answer.
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
    let empty = services.references.empty.iter().cloned();
    all.extend(empty.map(|f| diagnostic(f, sources, true)));
    let clocks = around::clocks(config, services.store.as_deref()).await;
    let clocks = clocks.map_err(|e| format!("the database: {e}"))?;
    all.extend(clocks.map(|(f, warning)| diagnostic(f, sources, warning)));
    let registering = Registering::Ask {
        register: config.registry.register,
    };
    for pipeline in config.pipelines.values() {
        match prepare(
            pipeline,
            services.store.as_deref(),
            &services.references.references,
            &services.registry,
            registering,
            customs,
        )
        .await
        {
            Ok(prepared) => {
                all.extend(prepared.warnings.into_iter().map(|w| diagnostic(w, sources, true)));
                let refused = tables::refused(config, pipeline, &prepared.program, services.store.as_deref()).await;
                all.extend(refused.into_iter().map(|f| diagnostic(f, sources, false)));
                let dropped = tables::dropped(pipeline, &prepared.program, services.store.as_deref()).await;
                all.extend(dropped.into_iter().map(|f| diagnostic(f, sources, true)));
            }
            Err(NotPrepared::Findings(findings)) => {
                all.extend(findings.into_iter().map(|f| diagnostic(f, sources, false)));
            }
            Err(NotPrepared::Unavailable(failure)) => return Err(failure.message),
        }
        all.extend(
            brokers::tell(config, pipeline)
                .await?
                .into_iter()
                .map(|f| diagnostic(f, sources, false)),
        );
        let narrow = brokers::sizes(config, pipeline).await;
        all.extend(narrow.into_iter().map(|f| diagnostic(f, sources, true)));
    }
    Ok(())
}

fn diagnostic(finding: Finding, sources: &Sources, warning: bool) -> Diagnostic {
    let Finding {
        span,
        message,
        help,
        code,
    } = finding;
    let diagnostic = if warning {
        Diagnostic::warning(code, message)
    } else {
        Diagnostic::error(code, message)
    };
    let diagnostic = diagnostic.at(sources, span, "");
    match help {
        Some(help) => diagnostic.help(help),
        None => diagnostic,
    }
}

/// Converts findings to diagnostics for people.
pub fn findings_to_diagnostics(findings: Vec<Finding>, sources: &Sources) -> Diagnostics {
    Diagnostics::new(findings.into_iter().map(|f| diagnostic(f, sources, false)).collect())
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::avro::value::{Type, Value};
    use crate::config::{self, Severity};
    use crate::custom::{CustomStep, Row, StepError};

    /// A step that takes an address.
    struct Geo;

    impl CustomStep for Geo {
        fn takes(&self) -> Vec<(String, Type)> {
            vec![("ip".to_owned(), Type::String)]
        }

        fn gives(&self) -> Vec<(String, Type)> {
            Vec::new()
        }

        fn run<'a>(&'a self, _: &'a [Value<'a>]) -> BoxFuture<'a, Result<Option<Row>, StepError>> {
            Box::pin(std::future::ready(Ok(None)))
        }
    }

    /// A pipeline with one custom step, which has one `bind`.
    fn loaded(registry: &str, step: &str, bind: &str) -> (Config, Sources) {
        let text = format!(
            "[kafka]\nbrokers = \"k:1\"\n[registry]\n{registry}\n[pipelines.p]\n\
             source = {{ topics = \"t\", group = \"g\" }}\n\
             steps = [{{ name = \"s\", custom = \"{step}\", bind = {{ {bind} = \"event.a\" }} }}]\n"
        );
        config::load_str(vec![("m.toml".into(), text)], std::iter::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_step_that_is_misspelt_is_told_where_services_cannot_be_asked() {
        let (config, sources) = loaded("url = \"https://r\"\ntls = { ca = \"/nowhere/ca.pem\" }", "gio", "ip");
        let own = CustomSteps::new().with("geo", Geo);
        let (found, asked) = check_online(&config, &sources, &own).await;
        assert_eq!(asked, Ok(()));
        for told in ["/nowhere/ca.pem", "this program has no custom step 'gio'"] {
            let times = found.iter().filter(|finding| finding.message.contains(told));
            assert_eq!(times.count(), 1, "{told}");
        }
    }

    #[test]
    fn steps_of_ones_own_are_held_against_those_of_the_program_without_any_service() {
        let said = |step: &str, bind: &str, customs: &CustomSteps| {
            let (config, sources) = loaded("url = \"http://r\"", step, bind);
            let found = check_customs(&config, &sources, customs);
            let said = found.iter().map(|finding| (finding.severity, finding.message.clone()));
            said.collect::<Vec<_>>()
        };
        let (plain, own) = (CustomSteps::new(), CustomSteps::new().with("geo", Geo));
        assert!(said("geo", "ip", &own).is_empty());
        let unknown = "this program has no custom step 'gio'".to_owned();
        assert_eq!(said("gio", "ip", &own), [(Severity::Error, unknown.clone())]);
        assert_eq!(said("gio", "ip", &plain), [(Severity::Warning, unknown)]);
        let not_taken = "step 'geo' takes no 'address'".to_owned();
        assert_eq!(said("geo", "address", &own), [(Severity::Error, not_taken)]);
    }
}
