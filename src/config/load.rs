//! Loads files and environment into a typed [`Config`], or reports everything that is wrong with them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::codes;
use super::diagnostic::{Diagnostic, Diagnostics, Place};
use super::document::{self, Node, Table, Value};
use super::reader::{Context, Field, Section, all};
use super::shape::{Drawing, Shape};
use super::values::{positive_duration, text};
use super::{
    Config, FileId, Http, Kafka, Limits, Log, Mongo, Pipeline, Reference, Registry, Schemas, Scylla, Sentry,
    SinkSchema, Sources, Span, Tracing, environment,
};

/// Reads the files in order, later ones over earlier ones, then the variables of `env` that begin with `MESSINA__`.
///
/// # Errors
/// All errors at once: unreadable files, syntax, unknown and missing keys, wrong values.
pub fn load(files: &[PathBuf], env: impl Iterator<Item = (String, String)>) -> Result<(Config, Sources), Diagnostics> {
    let mut unreadable = Vec::new();
    let mut texts = Vec::new();
    for path in files {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => texts.push((name, text)),
            Err(error) => unreadable.push(
                Diagnostic::error(codes::UNREADABLE_FILE, format!("cannot read `{name}`: {error}"))
                    .help("check the path given by --config, and that the file is UTF-8 text that this user may read"),
            ),
        }
    }
    let (config, mut sources) = load_texts(texts, env, unreadable)?;
    sources.schemas = schemas(&config);
    Ok((config, sources))
}

fn schemas(config: &Config) -> Schemas {
    let file = |pipeline: &Pipeline| match &pipeline.sink.as_ref()?.schema {
        Some(SinkSchema::File(path)) => Some(std::fs::read_to_string(&path.value).ok()),
        _ => None,
    };
    let of = |(name, pipeline): (&String, &Pipeline)| Some((name.clone(), file(pipeline)?));
    config.pipelines.iter().filter_map(of).collect()
}

/// Does the same for texts in memory, each with its name for findings. Reads no other file.
///
/// # Errors
/// As [`load`].
pub fn load_str(
    texts: Vec<(String, String)>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<(Config, Sources), Diagnostics> {
    load_texts(texts, env, vec![])
}

fn load_texts(
    texts: Vec<(String, String)>,
    env: impl Iterator<Item = (String, String)>,
    findings: Vec<Diagnostic>,
) -> Result<(Config, Sources), Diagnostics> {
    let env: Vec<_> = env.collect();
    let load = |hidden| load_hiding(hidden, &texts, &env, findings.clone());
    // Which values to hide is known only after everything has been read, and findings may have shown their lines by
    // then. So it loads again.
    match load(vec![]) {
        (loaded, hidden) if hidden.is_empty() => loaded,
        (_, hidden) => load(hidden).0,
    }
}

/// Loads the configuration. Also returns the positions that no finding may show.
fn load_hiding(
    hidden: Vec<Span>,
    texts: &[(String, String)],
    env: &[(String, String)],
    mut findings: Vec<Diagnostic>,
) -> (Result<(Config, Sources), Diagnostics>, Vec<Span>) {
    let mut sources = Sources::hiding(hidden);
    let mut root = Table::default();
    let mut broken = !findings.is_empty();
    for (name, text) in texts {
        let file = sources.add_file(name.clone(), text.clone());
        let before = findings.len();
        if let Value::Table(table) = document::parse(&sources, file, text, &mut findings).value {
            root.merge(table);
        }
        broken |= findings.len() > before;
    }
    let of_files = listen(&root).cloned();
    environment::overlay(&mut root, env.iter().cloned(), &mut sources, &mut findings);
    if let (Some(of_files), Some(used)) = (of_files, listen(&root))
        && of_files.value != used.value
    {
        sources.replaced_listen = Some((of_files.span, used.span));
    }
    sources.document = root;
    let before = findings.len();
    let context = Context {
        sources: &sources,
        findings: RefCell::new(findings),
        hidden: RefCell::default(),
        broken,
        drawing: None,
    };
    let config = read(&context, &sources.document);
    let (mut findings, hidden) = (context.findings.into_inner(), context.hidden.into_inner());
    drop_echoes(&mut findings, before);
    let loaded = match config {
        Some(config) if findings.is_empty() => Ok((config, sources)),
        _ => Err(Diagnostics::new(findings)),
    };
    (loaded, hidden)
}

fn listen(root: &Table) -> Option<&Node> {
    match &root.get("http")?.node.value {
        Value::Table(http) => http.get("listen").map(|entry| &entry.node),
        _ => None,
    }
}

/// Drops findings on the same line as one of the first `syntax` findings, because they only follow from it.
fn drop_echoes(findings: &mut Vec<Diagnostic>, syntax: usize) {
    let line = |place: &Place| (place.file.clone(), place.line);
    let wrong: Vec<_> = findings[..syntax]
        .iter()
        .filter_map(|d| d.place.as_ref().map(line))
        .collect();
    let mut index = 0;
    findings.retain(|finding| {
        index += 1;
        index <= syntax || finding.place.as_ref().is_none_or(|place| !wrong.contains(&line(place)))
    });
}

/// Which keys the readers ask for, and which values they accept.
pub(super) fn draw() -> Drawing {
    let (drawing, sources) = (Drawing::default(), Sources::default());
    let context = Context {
        sources: &sources,
        findings: RefCell::default(),
        hidden: RefCell::default(),
        broken: false,
        drawing: Some(&drawing),
    };
    // A blank document gives no configuration.
    let _ = read(&context, &Table::default());
    drawing
}

fn read(cx: &Context<'_>, root: &Table) -> Option<Config> {
    let nowhere = Span {
        file: FileId::FIRST,
        start: 0,
        end: 0,
    };
    let mut section = Section::new(cx, String::new(), root, nowhere);
    let kafka = section.required(
        "kafka",
        "a section [kafka] with brokers = \"kafka-1:9092\"",
        Kafka::read,
    );
    let registry = section.required(
        "registry",
        "a section [registry] with url = \"http://registry:8081\"",
        Registry::read,
    );
    let scylla = section.optional("scylla", Scylla::read);
    let store = section.optional("store", |field| {
        if field.draws(Shape::Text("^sqlite:.")) {
            return None;
        }
        let store = text(field.clone())?;
        match store.strip_prefix("sqlite:") {
            // As in a URI, where a host follows two slashes, and a path three.
            Some(path) if path.starts_with("//") && !path.starts_with("///") => {
                let path = match path.trim_start_matches('/') {
                    "" => "PATH",
                    path => path,
                };
                let remedy = format!("write store = \"sqlite:{path}\": what follows `sqlite:` is a path");
                field.malformed("an embedded store", &remedy)
            }
            Some(path) if !path.is_empty() => Some(store),
            _ => field.malformed(
                "an embedded store",
                "write store = \"sqlite:PATH\", or remove it and write a section [scylla]",
            ),
        }
    });
    let mongo = section.optional("mongo", Mongo::read);
    let references = section.or("references", BTreeMap::new(), |field| {
        let references = named(field, Reference::read)?;
        Some(
            references
                .into_iter()
                .map(|reference| (reference.name.value.clone(), reference))
                .collect(),
        )
    });
    let http = section.or("http", Http::default(), Http::read);
    let log = section.or("log", Log::default_at(nowhere), Log::read);
    let sentry = section.optional("sentry", Sentry::read);
    let tracing = section.optional("tracing", Tracing::read);
    let limits = section.or("limits", Limits::default_at(nowhere), Limits::read);
    let shutdown_timeout = section.or("shutdown_timeout", Duration::from_secs(30), positive_duration);
    let pipelines = section.or("pipelines", BTreeMap::new(), |field| {
        let pipelines = named(field, Pipeline::read)?;
        Some(
            pipelines
                .into_iter()
                .map(|pipeline| (pipeline.name.value.clone(), pipeline))
                .collect(),
        )
    });
    section.finish();
    Some(Config {
        kafka: kafka?,
        registry: registry?,
        scylla: scylla?,
        store: store?,
        mongo: mongo?,
        references: references?,
        http: http?,
        log: log?,
        sentry: sentry?,
        tracing: tracing?,
        limits: limits?,
        shutdown_timeout: shutdown_timeout?,
        pipelines: pipelines?,
    })
}

/// Reads a table whose keys are names; `read` reads each of its tables.
fn named<'a, T>(field: Field<'a>, read: impl Fn(&Section<'a>, &'a document::Entry) -> Option<T>) -> Option<Vec<T>> {
    let section = field.section()?;
    if let Some(drawing) = field.cx.drawing {
        field.draws(Shape::Named);
        read(&section, &drawing.blank);
        return None;
    }
    all(section.table.entries.iter().map(|entry| read(&section, entry)))
}
