//! Opens the references of a configuration: finds their types (declared or sampled), reads each collection completely, then follows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::services::{backoff, reached, wait};
use super::{Shared, StartError, config_error};
use crate::avro::value::Type;
use crate::config::suggest::nearest;
use crate::config::{self, Config, Sources, Span};
use crate::pipeline::failure::Failure;
use crate::pipeline::finding::Finding;
use crate::pipeline::prepare::NotPrepared;
use crate::reference::follow::Follower;
use crate::reference::on_demand::OnDemand;
use crate::reference::sample::{NoType, Seen, SeenKeys};
use crate::reference::server::{Server, Source, is_refused};
use crate::reference::{Reference, References, Shape};
use crate::retry::{Class, Jitter};
use crate::store::StoreError;
use crate::telemetry::handles::ReferenceMetrics;
use crate::telemetry::metrics::Metrics;

/// References whose types are known, and which are still empty.
#[derive(Default)]
pub(super) struct Opened {
    /// By name.
    pub(super) references: Arc<References>,
    /// Collections in which no document was found.
    pub(super) empty: Vec<Finding>,
    sources: Vec<(Arc<Reference>, Source, Duration, Span)>,
}

impl From<Arc<References>> for Opened {
    fn from(references: Arc<References>) -> Self {
        Opened {
            references,
            ..Opened::default()
        }
    }
}

/// References with the series that export them.
pub(super) type Shown = Vec<(Arc<Reference>, ReferenceMetrics)>;

/// Connects and samples every collection, and reports all findings at once. A failed attempt closes its connections, because it is repeated as long
/// as it takes.
pub(super) async fn open(config: &Config) -> Result<Opened, NotPrepared> {
    let Some(mongo) = config.mongo.as_ref().filter(|_| !config.references.is_empty()) else {
        return Ok(Opened::default());
    };
    let place = mongo.uri.span();
    let uri = mongo.uri.reveal();
    let uri = uri.map_err(|e| NotPrepared::Findings(vec![Finding::new(place, format!("[mongo] uri: {e}"))]))?;
    let server = Server::open(&uri, Some(mongo.uri.clone())).await;
    let server = server.map_err(|e| refused(e, place, "[mongo]"))?;
    let unsettled = Unsettled(&server);
    let opened = sampled(config, &server).await;
    if opened.is_err() {
        server.close().await;
        std::mem::forget(unsettled);
    }
    opened
}

/// Keeps the connections of a server that was not closed: a stop may drop `open` at any await, and the runtime after
/// it.
struct Unsettled<'s>(&'s Server);

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        self.0.keep();
    }
}

/// Samples every collection of the server.
async fn sampled(config: &Config, server: &Server) -> Result<Opened, NotPrepared> {
    let mut findings = Vec::new();
    let mut empty = Vec::new();
    let mut sources = Vec::new();
    for reference in config.references.values() {
        let wanted = reference.fields.iter().map(|f| f.name.value.clone());
        let source = server.source(&reference.collection, wanted.chain([reference.key.value.clone()]));
        let sample = match source.sample().await {
            Ok(sample) if reference.on_demand.is_none() => source.may_follow().await.map(|()| sample),
            sample => sample,
        };
        let sample = match sample.map_err(|e| refused(e, reference.collection.span, &reference.collection)) {
            Ok(sample) => sample,
            Err(NotPrepared::Findings(found)) => {
                findings.extend(found);
                continue;
            }
            Err(unavailable) => return Err(unavailable),
        };
        let before = findings.len();
        let shape = shape(reference, &sample, &mut findings);
        if findings.len() == before {
            if sample.is_empty() {
                empty.push(without_documents(reference, &source.neighbours().await));
            }
            let held = match &reference.on_demand {
                Some(cache) => Reference::on_demand(shape, OnDemand::new(source.clone(), cache.into())),
                None => Reference::new(shape),
            };
            sources.push((Arc::new(held), source, reference.refresh, reference.collection.span));
        }
    }
    if !findings.is_empty() {
        return Err(NotPrepared::Findings(findings));
    }
    Ok(Opened {
        references: Arc::new(References::new(sources.iter().map(|(reference, ..)| reference.clone()))),
        empty,
        sources,
    })
}

/// The warning about a collection without documents; `known` are the collections of its database. A query does not tell an empty collection from one that
/// does not exist.
fn without_documents(reference: &config::Reference, known: &[String]) -> Finding {
    let collection = &reference.collection;
    let message = format!(
        "{} has no documents: no record finds one in reference '{}'",
        collection.value, reference.name.value
    );
    let (database, own) = collection.split_once('.').unwrap_or((collection.as_str(), ""));
    let is_known = known.iter().any(|other| other == own);
    let near = nearest(own, known.iter().map(String::as_str)).filter(|_| !is_known);
    let help = match near {
        Some(near) => format!("did you mean '{database}.{near}'? If not, fill it before the start"),
        None => "check its name, and fill it before the start".to_owned(),
    };
    Finding::new(collection.span, message).help(help)
}

fn refused(error: StoreError, place: Span, what: &str) -> NotPrepared {
    let message = format!("{what}: {error}");
    match error.class {
        Class::Transient => NotPrepared::Unavailable(Failure::transient(error.label, message)),
        Class::Permanent | Class::Fatal => NotPrepared::Findings(vec![Finding::new(place, message)]),
    }
}

/// The key and the fields with their types, given that these documents are all there are.
///
/// # Errors
/// Which types cannot be derived from the documents.
pub fn reference_shape(
    reference: &config::Reference,
    documents: &[mongodb::bson::RawDocumentBuf],
    sources: &Sources,
) -> Result<Shape, StartError> {
    let mut findings = Vec::new();
    let shape = shape(reference, documents, &mut findings);
    if findings.is_empty() {
        Ok(shape)
    } else {
        Err(config_error(findings, sources))
    }
}

/// The key and the fields with their types.
fn shape(
    reference: &config::Reference,
    sample: &[mongodb::bson::RawDocumentBuf],
    findings: &mut Vec<Finding>,
) -> Shape {
    let of = |document: &'_ mongodb::bson::RawDocumentBuf, name: &str| document.get(name).is_ok_and(|v| v.is_some());
    let collection = &reference.collection.value;
    let mut keys = SeenKeys::default();
    for document in sample {
        keys.add(document.get(reference.key.as_str()).ok().flatten());
    }
    let key_type = keys.ty().unwrap_or_else(|why| {
        let message = format!(
            "{collection}: `{}` cannot be the key: of {} documents {why}",
            *reference.key,
            sample.len()
        );
        let help = "look it up by a field of which all values are text, whole numbers or bytes";
        findings.push(Finding::new(reference.key.span, message).help(help));
        crate::store::ColumnType::Any
    });
    let mut fields = Vec::new();
    for field in &reference.fields {
        let name = &field.name.value;
        let ty = match &field.ty {
            Some(declared) => {
                let misfit = sample.iter().find_map(|document| {
                    let fields = [(name.clone(), declared.clone())];
                    crate::reference::codec::encode_document(&fields, document, &mut Vec::new()).err()
                });
                if let Some(why) = misfit {
                    let message = format!("{collection}: {why}");
                    let help = "declare the type that the documents have, or fix them";
                    findings.push(Finding::new(field.name.span, message).help(help));
                }
                declared.clone()
            }
            None => {
                let mut seen = Seen::default();
                for value in sample.iter().filter_map(|d| d.get(name.as_str()).ok().flatten()) {
                    seen.add(value);
                }
                seen.ty().unwrap_or_else(|why| {
                    let absent = !sample.iter().any(|document| of(document, name));
                    findings.push(no_type(collection, &field.name, sample.len(), absent, &why));
                    Type::Any
                })
            }
        };
        fields.push((name.clone(), ty));
    }
    Shape {
        name: Arc::from(reference.name.as_str()),
        collection: collection.clone(),
        key: reference.key.value.clone(),
        key_type,
        fields,
        max_bytes: reference.max_bytes.bytes(),
    }
}

fn no_type(collection: &str, field: &config::Spanned<String>, sampled: usize, absent: bool, why: &NoType) -> Finding {
    let name = &field.value;
    let message = match why {
        NoType::Unseen if sampled == 0 => {
            format!("{collection} is empty, so the type of `{name}` cannot be inferred")
        }
        NoType::Unseen if absent => format!("{collection}: none of {sampled} documents has a field `{name}`"),
        NoType::Unseen => format!("{collection}: `{name}` has no value in {sampled} documents"),
        NoType::Mixed(counts) => format!("{collection}: `{name}` has several types in {sampled} documents: {counts}"),
        NoType::Unusable(ty) => format!("{collection}: `{name}` is {ty}, which a pipeline cannot use"),
        NoType::Dictionary => {
            format!("{collection}: `{name}` has more than 1,000 different fields: it is a dictionary")
        }
    };
    let help = match why {
        NoType::Dictionary => format!("leave `{name}` out of `fields`: a document whose keys are data has no type"),
        NoType::Unseen | NoType::Mixed(_) | NoType::Unusable(_) => {
            format!("declare it, as in fields = {{ {name} = \"string\" }}")
        }
    };
    Finding::new(field.span, message).help(help)
}

/// Reads every collection completely, waiting for a server that does not answer, and then follows it in `tasks`.
pub(super) async fn load(
    opened: &Opened,
    sources: &Sources,
    metrics: &Metrics,
    shared: &Shared,
    tasks: &mut JoinSet<()>,
) -> Result<Shown, StartError> {
    let mut jitter = Jitter::unique();
    let mut shown = Vec::new();
    for (reference, source, refresh, place) in opened.sources.iter().cloned() {
        let series = ReferenceMetrics::new(metrics, &reference.shape.name);
        if reference.asks().is_some() {
            if let Some(empty) = opened.empty.iter().find(|finding| finding.span == place) {
                tracing::warn!(reference = &*reference.shape.name, "{}", empty.message);
            }
            shown.push((reference, series));
            continue;
        }
        let mut follower = Follower::new(reference.clone(), source, refresh, backoff(), series.clone());
        let (began, mut attempt) = (Instant::now(), 0);
        while let Err(error) = follower.read().await {
            // The sample was taken with a valid login and valid permissions, so a refusal means that the login is being
            // rotated.
            if error.class != Class::Transient && !is_refused(&error) {
                let message = format!("reference '{}': {error}", reference.shape.name);
                return Err(config_error(vec![Finding::new(place, message)], sources));
            }
            wait(
                shared,
                &format!("reference '{}': {error}", reference.shape.name),
                &mut attempt,
                &mut jitter,
            )
            .await;
        }
        reached(shared);
        if reference.entries() == 0 {
            tracing::warn!(
                reference = &*reference.shape.name,
                "reference loaded without documents: no record finds one until {} has some",
                reference.shape.collection
            );
        } else {
            tracing::info!(
                reference = &*reference.shape.name,
                documents = reference.entries(),
                bytes = reference.bytes(),
                unfit = reference.unfit(),
                seconds = began.elapsed().as_secs_f64(),
                "reference loaded"
            );
        }
        tasks.spawn(follower.run());
        shown.push((reference, series));
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use mongodb::bson::doc;

    use super::*;
    use crate::config::Severity;
    use crate::custom::CustomSteps;
    use crate::reference::fake::{all, member, nothing, refused};
    use crate::telemetry::logging::tests::Lines;

    #[tokio::test]
    async fn a_server_that_is_waited_for_at_a_stop_keeps_its_connections() {
        let (address, mut commands) = member(true, Duration::ZERO, |_| None).await;
        let toml = format!(
            "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n[mongo]\nuri = \"mongodb://{address}/?replicaSet=rs\"\n\
             [references.a]\ncollection = \"crm.a\"\nfields = [\"name\"]\n"
        );
        let (config, _) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
        // The stop comes during the query of the first collection.
        tokio::select! {
            _ = open(&config) => panic!("nobody answers"),
            asked = commands.recv() => assert!(asked.is_some()),
        }
        let closed = async {
            while commands.sender_strong_count() > 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(2), closed).await.is_err());
    }

    #[tokio::test]
    async fn an_attempt_that_comes_to_nothing_leaves_no_connection_behind() {
        let found = AtomicUsize::new(0);
        let (address, commands) = member(true, Duration::ZERO, move |command| match command {
            // The first collection always answers; for the second there is no member to read from.
            "find" if found.fetch_add(1, Ordering::Relaxed) % 2 == 1 => Some(refused(133)),
            "find" => Some(all(vec![doc! { "_id": "k", "name": "n" }])),
            _ => Some(nothing()),
        })
        .await;
        let toml = format!(
            "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n[mongo]\nuri = \"mongodb://{address}/?replicaSet=rs\"\n\
             [references.a]\ncollection = \"crm.a\"\nfields = [\"name\"]\n\
             [references.b]\ncollection = \"crm.b\"\nfields = [\"name\"]\n"
        );
        let (config, _) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
        for _ in 0..5 {
            assert!(matches!(open(&config).await, Err(NotPrepared::Unavailable(_))));
        }
        // The listener holds one sender, and each connection another.
        let closed = async {
            while commands.sender_strong_count() > 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), closed).await.unwrap();
    }

    #[tokio::test]
    async fn a_collection_without_documents_is_told_by_the_check_and_at_the_start() {
        let (address, _commands) = member(true, Duration::ZERO, |command| match command {
            "listCollections" => Some(all(vec![doc! { "name": "partners" }, doc! { "name": "vat" }])),
            _ => Some(nothing()),
        })
        .await;
        for (collection, mode, help) in [
            (
                "crm.partner",
                "",
                "did you mean 'crm.partners'? If not, fill it before the start",
            ),
            ("crm.vat", "", "check its name, and fill it before the start"),
            (
                "crm.users",
                "mode = \"on_demand\"\ncache = { ttl = \"1m\" }\n",
                "check its name, and fill it before the start",
            ),
        ] {
            let toml = format!(
                "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n[mongo]\nuri = \"mongodb://{address}/?replicaSet=rs\"\n\
                 [references.a]\ncollection = \"{collection}\"\nfields = {{ name = \"string\" }}\n{mode}"
            );
            let (config, sources) = config::load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap();
            let (found, asked) = crate::app::check_online(&config, &sources, &CustomSteps::default()).await;
            assert_eq!(asked, Ok(()));
            let told = found
                .iter()
                .map(|finding| (finding.severity, finding.message.clone(), finding.help.clone()));
            let message = format!("{collection} has no documents: no record finds one in reference 'a'");
            assert_eq!(
                told.collect::<Vec<_>>(),
                [(Severity::Warning, message, vec![help.to_owned()])]
            );
            let opened = open(&config).await.unwrap();
            let (lines, mut tasks) = (Lines::default(), JoinSet::new());
            let (metrics, shared) = (Metrics::new().unwrap(), Shared::default());
            let guard = lines.begin();
            load(&opened, &sources, &metrics, &shared, &mut tasks).await.unwrap();
            drop(guard);
            let text = lines.text();
            assert!(text.contains("WARN") && text.contains(collection), "{text}");
            assert!(!text.contains("INFO"), "{text}");
        }
    }
}
