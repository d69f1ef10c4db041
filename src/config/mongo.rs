//! `[mongo]` and `[references.NAME]`: parsed so that a config can be written for them, and refused by `check` in this version.

use std::time::Duration;

use super::document::Entry;
use super::reader::{Section, spanned_or};
use super::values::{duration, text, texts};
use super::{Secret, Span, Spanned};

/// The MongoDB server that references are read from.
#[derive(Clone, Debug)]
pub struct Mongo {
    /// The connection string, which often holds a password.
    pub uri: Secret,
    /// Place of the section.
    pub span: Span,
}

/// A collection that is held in memory.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Its name in `reference = "…"`.
    pub name: Spanned<String>,
    /// `database.collection`.
    pub collection: Spanned<String>,
    /// The field that it is looked up by. Default `_id`.
    pub key: Spanned<String>,
    /// The fields that are kept.
    pub fields: Vec<Spanned<String>>,
    /// How often it is read again. Default 5 min.
    pub refresh: Duration,
}

impl Mongo {
    pub(super) fn read(field: super::reader::Field<'_>) -> Option<Self> {
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
        let collection = section.required("collection", "collection = \"database.collection\"", text);
        let key = section.optional("key", text);
        let fields = section.required("fields", "fields = [\"name\"]", texts);
        let refresh = section.or("refresh", Duration::from_secs(300), duration);
        let span = section.span;
        section.finish();
        Some(Self {
            name: entry.key.clone(),
            collection: collection?,
            key: spanned_or(key?, "_id".to_owned(), span),
            fields: fields?,
            refresh: refresh?,
        })
    }
}
