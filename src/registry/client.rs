//! The requests of Confluent's Schema Registry API that Messina needs.
//!
//! API: "Schema Registry API Reference" in Confluent's documentation; the error codes are from there (40401 unknown subject, 40402 unknown version,
//! 40403 unknown schema). References are resolved here, depth first, so that the parser of the schema has each name before it is used.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::RegistryError;
use super::transport::{Answer, LARGEST, Problem, Transport, shown};
use super::{Fetched, RegistryOptions, RegistryStats};

/// Maximum number of references of one schema, including those of its references.
const REFERENCES: usize = 256;

const UNKNOWN_SUBJECT: u32 = 40401;
const UNKNOWN_VERSION: u32 = 40402;
const UNKNOWN_SCHEMA: u32 = 40403;

pub(super) struct Client {
    transport: Transport,
}

/// The parts of a schema in an answer that are used here. Answers by id lack `id`; a schema without a type is Avro.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Schema {
    id: Option<u32>,
    schema: String,
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
struct Reference {
    /// The type's name in the referring schema; not every registry sends it.
    #[serde(default)]
    name: String,
    subject: String,
    version: i32,
}

impl Schema {
    /// Its size in bytes: its text and its list of references.
    fn size(&self) -> usize {
        let references = self.references.iter().flatten();
        let told = references.map(|of| size_of::<Reference>() + of.name.len() + of.subject.len());
        self.schema.len() + told.sum::<usize>()
    }
}

/// The references met so far, by name, and by subject and version.
#[derive(Default)]
struct Seen {
    names: HashSet<String>,
    places: HashSet<(String, i32)>,
    /// Size of the schema with all of them, in bytes.
    bytes: usize,
}

impl Seen {
    /// Adds the size of an answer. All answers are held until the last one has come, so together they may be only as large as a single one.
    fn count(&mut self, name: &str, schema: &Schema) -> Result<(), RegistryError> {
        self.bytes += schema.size();
        if self.bytes <= LARGEST {
            return Ok(());
        }
        Err(RegistryError::Reference {
            name: name.to_owned(),
            reason: format!("with what it refers to it has more than {LARGEST} bytes"),
        })
    }
}

#[derive(Serialize)]
struct Submitted<'a> {
    schema: &'a str,
}

#[derive(Deserialize)]
struct Id {
    id: u32,
}

/// Whether a schema could become a subject's next version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Compatibility {
    /// Whether it could, by the rule configured for the subject.
    #[serde(rename = "is_compatible")]
    pub compatible: bool,
    /// Why not, in the registry's words; not every registry gives reasons.
    #[serde(default)]
    pub messages: Vec<String>,
}

impl Client {
    pub(super) fn new(options: &RegistryOptions, stats: Arc<RegistryStats>) -> Result<Self, RegistryError> {
        Ok(Self {
            transport: Transport::new(options, stats)?,
        })
    }

    /// Takes over the OAuth token of the client that this one replaces, if it is valid here too.
    pub(super) fn succeed(&mut self, old: &Client) {
        self.transport.succeed(&old.transport);
    }

    pub(super) async fn by_id(&self, id: u32) -> Result<Fetched, RegistryError> {
        let answer = self
            .transport
            .ask::<Schema>(Method::GET, &["schemas", "ids", &id.to_string()], &[], None, true)
            .await?;
        match answer {
            Ok(schema) => self.resolved(id, &format!("id {id}"), schema, true).await,
            // Apicurio, if configured for its older kind of ids, has one for each subject, and then calls the subject unknown.
            Err(problem) if matches!(problem.code, Some(UNKNOWN_SUBJECT | UNKNOWN_VERSION | UNKNOWN_SCHEMA)) => {
                Err(RegistryError::Unknown { id })
            }
            Err(problem) => Err(problem.into()),
        }
    }

    pub(super) async fn versions(&self, subject: &str) -> Result<Vec<i32>, RegistryError> {
        let answer = self
            .transport
            .ask::<Vec<i32>>(Method::GET, &["subjects", subject, "versions"], &[], None, false)
            .await?;
        match answer {
            Err(problem) if problem.code == Some(UNKNOWN_SUBJECT) => Ok(Vec::new()),
            answer => Ok(answer?),
        }
    }

    /// `None` for a version that is not there (any more).
    pub(super) async fn version(&self, subject: &str, version: i32) -> Result<Option<Fetched>, RegistryError> {
        let name = format!("{subject} version {version}");
        let Some(schema) = self.stored(subject, version, false, false).await? else {
            return Ok(None);
        };
        let Some(id) = schema.id else {
            return Err(RegistryError::Reference {
                name,
                reason: "the registry gives no id for it".into(),
            });
        };
        let mut fetched = self.resolved(id, &name, schema, false).await?;
        fetched.version = Some(version);
        Ok(Some(fetched))
    }

    pub(super) async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let answer = self
            .submit::<Id>(&["subjects", subject, "versions"], &[], schema, false)
            .await?;
        match answer {
            Ok(Id { id }) => Ok(id),
            Err(problem) => Err(not_taken(subject, problem)),
        }
    }

    pub(super) async fn lookup(&self, subject: &str, schema: &str, by_all: bool) -> Result<Option<u32>, RegistryError> {
        let answer = self.submit::<Id>(&["subjects", subject], &[], schema, by_all).await?;
        match answer {
            Ok(Id { id }) => Ok(Some(id)),
            Err(problem) if matches!(problem.code, Some(UNKNOWN_SUBJECT | UNKNOWN_SCHEMA)) => Ok(None),
            Err(problem) => Err(not_taken(subject, problem)),
        }
    }

    pub(super) async fn compatible(&self, subject: &str, schema: &str) -> Result<Compatibility, RegistryError> {
        let versions = ["compatibility", "subjects", subject, "versions"];
        let latest = ["compatibility", "subjects", subject, "versions", "latest"];
        let verbose = [("verbose", "true")];
        let mut answer = self.submit::<Compatibility>(&versions, &verbose, schema, false).await;
        // Karapace and Redpanda compare with a single version only, and do not know that path.
        let absent = match &answer {
            Ok(Err(problem)) => problem.code == Some(404),
            Ok(Ok(_)) => false,
            Err(error) => matches!(error, RegistryError::Refused { status: 404 | 405, .. }),
        };
        if absent {
            answer = self.submit::<Compatibility>(&latest, &verbose, schema, false).await;
        }
        match answer? {
            Ok(compatibility) => Ok(compatibility),
            Err(problem) if matches!(problem.code, Some(UNKNOWN_SUBJECT | UNKNOWN_VERSION)) => Ok(Compatibility {
                compatible: true,
                messages: Vec::new(),
            }),
            Err(problem) => Err(not_taken(subject, problem)),
        }
    }

    async fn submit<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        schema: &str,
        by_all: bool,
    ) -> Result<Answer<T>, RegistryError> {
        // A struct of one string can always be serialized.
        let body = serde_json::to_vec(&Submitted { schema }).unwrap_or_default();
        self.transport
            .ask::<T>(Method::POST, path, query, Some(body), by_all)
            .await
    }

    /// A version as it is stored. With `deleted`, also one that was deleted: other schemas may still refer to it.
    async fn stored(
        &self,
        subject: &str,
        version: i32,
        deleted: bool,
        by_all: bool,
    ) -> Result<Option<Schema>, RegistryError> {
        let query: &[(&str, &str)] = if deleted { &[("deleted", "true")] } else { &[] };
        let path = ["subjects", subject, "versions", &version.to_string()];
        let answer = self
            .transport
            .ask::<Schema>(Method::GET, &path, query, None, by_all)
            .await?;
        match answer {
            Err(problem) if matches!(problem.code, Some(UNKNOWN_SUBJECT | UNKNOWN_VERSION)) => Ok(None),
            answer => Ok(Some(answer?)),
        }
    }

    /// The schema with all its references. With `by_all`, a reference is missing only if every address says so.
    async fn resolved(&self, id: u32, name: &str, schema: Schema, by_all: bool) -> Result<Fetched, RegistryError> {
        avro_only(name, &schema)?;
        let (mut seen, mut references) = (Seen::default(), Vec::new());
        seen.count(name, &schema)?;
        for reference in schema.references.into_iter().flatten() {
            self.collect(name, reference, by_all, &mut seen, &mut references)
                .await?;
        }
        Ok(Fetched {
            id,
            version: None,
            schema: schema.schema,
            references,
        })
    }

    /// Appends the schemas that `reference` needs, and then its own. What was met already is not requested again, so a cycle ends. If two schemas
    /// refer to one name in two versions, the version met first is used for both, as in the registry and in its Java clients.
    fn collect<'a>(
        &'a self,
        name: &'a str,
        reference: Reference,
        by_all: bool,
        seen: &'a mut Seen,
        into: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Result<(), RegistryError>> {
        async move {
            let Reference {
                name: of,
                subject,
                version,
            } = reference;
            if !of.is_empty() && !seen.names.insert(of) || !seen.places.insert((subject.clone(), version)) {
                return Ok(());
            }
            if seen.places.len() > REFERENCES {
                let reason = format!("it refers to more than {REFERENCES} schemas");
                return Err(RegistryError::Reference {
                    name: name.to_owned(),
                    reason,
                });
            }
            let Some(schema) = self.stored(&subject, version, true, by_all).await? else {
                return Err(RegistryError::NoReference {
                    name: name.to_owned(),
                    subject: shown(&subject),
                    version,
                });
            };
            avro_only(&format!("{} version {version}", shown(&subject)), &schema)?;
            seen.count(name, &schema)?;
            for inner in schema.references.into_iter().flatten() {
                self.collect(name, inner, by_all, seen, into).await?;
            }
            into.push(schema.schema);
            Ok(())
        }
        .boxed()
    }
}

fn avro_only(name: &str, schema: &Schema) -> Result<(), RegistryError> {
    match schema.schema_type.as_deref() {
        None | Some("AVRO") => Ok(()),
        Some(kind) => Err(RegistryError::Unsupported {
            name: name.to_owned(),
            kind: shown(kind),
        }),
    }
}

/// 409 with an error code means incompatible; 422 (400 in some registries) with one means invalid. Without a code, the answer may be a proxy's.
fn not_taken(subject: &str, problem: Problem) -> RegistryError {
    match (problem.status, problem.code) {
        (400 | 409 | 422, Some(_)) => RegistryError::Rejected {
            subject: subject.to_owned(),
            message: problem.message,
        },
        _ => problem.into(),
    }
}
