//! `[mongo]` and `[references.NAME]`: MongoDB collections in which steps look up documents.

use std::time::Duration;

use super::diagnostic::Diagnostic;
use super::document::{Entry, Value};
use super::reader::{Field, Section, all, spanned_or};
use super::shape::Shape;
use super::values::{duration, size, text};
use super::{Cache, Secret, Size, Span, Spanned, codes};
use crate::avro::value::{Type, Unit};

/// The MongoDB server that references are read from.
#[derive(Clone, Debug)]
pub struct Mongo {
    /// The connection string, which often holds a password.
    pub uri: Secret,
    /// Place of the section.
    pub span: Span,
}

/// A MongoDB collection that steps look up documents in.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Its name in `reference = "…"`.
    pub name: Spanned<String>,
    /// `database.collection`.
    pub collection: Spanned<String>,
    /// The field by which documents are looked up. Default `_id`.
    pub key: Spanned<String>,
    /// The fields that are kept of each document.
    pub fields: Vec<ReferenceField>,
    /// How often the whole collection is read again; zero relies on the change stream alone. Default 5 min.
    pub refresh: Duration,
    /// Bytes it may hold, out of `[limits] memory`. Default 64 MiB.
    pub max_bytes: Spanned<Size>,
    /// The cache of a collection whose documents are requested one by one (`mode = "on_demand"`); `None` if the whole
    /// collection is held.
    pub on_demand: Option<Cache>,
}

/// A field that is kept, with its type if declared.
#[derive(Clone, Debug)]
pub struct ReferenceField {
    /// Its name in the document, and in expressions.
    pub name: Spanned<String>,
    /// Its type; `None` if it is taken from a sample.
    pub ty: Option<Type>,
}

/// Field types by their Avro names; each also as `array<…>`.
const TYPES: [(&str, Type); 9] = [
    ("string", Type::String),
    ("int", Type::Int),
    ("long", Type::Long),
    ("double", Type::Double),
    ("boolean", Type::Bool),
    ("bytes", Type::Bytes),
    ("timestamp-millis", Type::Timestamp(Unit::Millis)),
    ("decimal", Type::Decimal { precision: 0, scale: 0 }),
    ("uuid", Type::Uuid),
];

fn type_of(name: &str) -> Option<Type> {
    let name = name.trim();
    if let Some(item) = name.strip_prefix("array<").and_then(|rest| rest.strip_suffix('>')) {
        return type_of(item).map(|item| Type::List(Box::new(item)));
    }
    TYPES.iter().find(|(known, _)| *known == name).map(|(_, ty)| ty.clone())
}

impl Mongo {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let span = section.span;
        let uri = section.required("uri", "uri = { env = \"MONGO_URI\" }", Secret::read);
        section.finish();
        Some(Self { uri: uri?, span })
    }
}

impl Reference {
    pub(super) fn read(references: &Section<'_>, entry: &Entry) -> Option<Self> {
        let mut section = references.field_of(entry).section()?;
        let collection = section.required("collection", "collection = \"database.collection\"", collection);
        let key = section.optional("key", key);
        let fields = section.required("fields", "fields = [\"name\"]", fields);
        let refresh = section.or("refresh", Duration::from_secs(300), duration);
        let max_bytes = section.optional("max_bytes", size);
        let on_demand = on_demand(&mut section);
        let span = section.span;
        section.finish();
        let on_demand = on_demand?;
        let (max_bytes, default) = match &on_demand {
            Some(cache) => (Some(Some(cache.max_bytes)), cache.max_bytes.value),
            None => (max_bytes, Size(64 << 20)),
        };
        Some(Self {
            name: entry.key.clone(),
            collection: collection?,
            key: spanned_or(key?, "_id".to_owned(), span),
            fields: fields?,
            refresh: refresh?,
            max_bytes: spanned_or(max_bytes?, default, span),
            on_demand,
        })
    }
}

/// The cache of `mode = "on_demand"`; `Some(None)` if the whole collection is held.
fn on_demand(section: &mut Section<'_>) -> Option<Option<Cache>> {
    let choices = [("memory", false), ("on_demand", true)];
    let on_demand = section.or("mode", false, |field| field.choice(&choices));
    let cache = section.optional("cache", Cache::read);
    let (on_demand, cache) = (on_demand?, cache?);
    let (keys, why, help): (&[&str], &str, &str) = match (on_demand, cache) {
        (true, None) => {
            let message = format!(
                "`{}` requests each document, but does not say how long to cache it",
                section.path
            );
            let finding = Diagnostic::error(codes::MISSING_KEY, message);
            let finding = finding.at(section.cx.sources, section.span, "needs `cache`");
            section.cx.report(finding.help("add cache = { ttl = \"1m\" }"));
            return None;
        }
        (true, Some(cache)) => {
            if !["refresh", "max_bytes"]
                .iter()
                .any(|key| section.table.get(key).is_some())
            {
                return Some(Some(cache));
            }
            let why = "is for a collection that is held as a whole";
            (
                &["refresh", "max_bytes"],
                why,
                "remove it; `cache` has `ttl` and `max_bytes`",
            )
        }
        (false, None) => return Some(None),
        (false, Some(_)) => (
            &["cache"],
            "is for mode = \"on_demand\"",
            "write mode = \"on_demand\", or remove it",
        ),
    };
    if let Some(entry) = keys.iter().find_map(|key| section.table.get(key)) {
        let message = format!("`{}` {why}", entry.key.value);
        let finding = Diagnostic::error(codes::CONFLICT, message);
        let finding = finding.at(section.cx.sources, entry.key.span, "");
        section.cx.report(finding.help(help));
    }
    None
}

fn collection(field: Field<'_>) -> Option<Spanned<String>> {
    if field.draws(Shape::Text(r".\..")) {
        return None;
    }
    let name = text(field.clone())?;
    match name.split_once('.') {
        Some((database, collection)) if !database.is_empty() && !collection.is_empty() => Some(name),
        _ => field.malformed("a collection with its database", "write \"database.collection\""),
    }
}

/// Reads the key. It cannot be a path: documents are looked up by a top-level field.
fn key(field: Field<'_>) -> Option<Spanned<String>> {
    let name = text(field.clone())?;
    if name.contains('.') {
        return field.malformed("an outermost field", "name a field of the document itself, without `.`");
    }
    Some(name)
}

/// Reads the fields: a list of names, or a table of names and types.
fn fields(field: Field<'_>) -> Option<Vec<ReferenceField>> {
    if field.draws(Shape::Fields(TYPES.iter().map(|(name, _)| *name).collect())) {
        return None;
    }
    match &field.node.value {
        Value::Array(items) if !items.is_empty() => all(field.fields(items).into_iter().map(|item| {
            let name = field_name(item.clone(), text(item)?)?;
            Some(ReferenceField { name, ty: None })
        })),
        Value::Table(table) if !table.entries.is_empty() => {
            let section = field.section()?;
            all(table.entries.iter().map(|entry| {
                let item = section.field_of(entry);
                let name = field_name(item.clone(), entry.key.clone())?;
                let written = text(item.clone())?;
                let Some(ty) = type_of(&written) else {
                    return item.malformed(
                        "a type of a field",
                        "one of string, int, long, double, boolean, bytes, timestamp-millis, decimal, uuid, or array<TYPE>",
                    );
                };
                Some(ReferenceField { name, ty: Some(ty) })
            }))
        }
        Value::Array(_) | Value::Table(_) => field.malformed("a list with something in it", "write at least one"),
        _ => field.wrong_type("a list of names, or a table of names and types"),
    }
}

fn field_name(field: Field<'_>, name: Spanned<String>) -> Option<Spanned<String>> {
    if super::values::is_identifier(&name) {
        return Some(name);
    }
    field.malformed(
        "the name of a field",
        "letters, digits and `_` only; name the outermost field, and what is in it where it is used: partner.address.city",
    )
}
