//! `[pipelines.NAME.sink]` and `[pipelines.NAME.dead_letter]`: where records are published.

use std::path::PathBuf;

use super::document::Value;
use super::reader::Field;
use super::shape::Shape;
use super::values::{bindings, count, path, share_below_one, text};
use super::{Binding, Property, Span, Spanned};

/// The output topic.
#[derive(Clone, Debug)]
pub struct Sink {
    /// Place of the section.
    pub span: Span,
    /// The topic.
    pub topic: Spanned<String>,
    /// Expression that gives the output key; `None` keeps the record's own key.
    pub key: Option<Spanned<String>>,
    /// Fields added to the event, in order: name and expression.
    pub set: Vec<Binding>,
    /// The output schema; `None` means the input schema with the fields of `set` appended.
    pub schema: Option<SinkSchema>,
    /// librdkafka properties of this pipeline's producer; they win over `[kafka]`.
    pub properties: Vec<Property>,
}

/// Where the output schema comes from.
#[derive(Clone, Debug)]
pub enum SinkSchema {
    /// `schema = '{"type": "record", …}'`: the schema itself, as JSON.
    Inline(Spanned<String>),
    /// `schema = { file = "out.avsc" }`: an Avro schema file.
    File(Spanned<PathBuf>),
    /// `schema = { subject = "navigation-enriched-value" }`: the latest version of a subject.
    Subject(Spanned<String>),
}

/// Where records that can never succeed are published. Without it, the pipeline stops at such a record and commits
/// nothing past it.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Place of the section.
    pub span: Span,
    /// The topic.
    pub topic: Spanned<String>,
    /// Above which limits dead letters mean an outage rather than bad data; `None` means that the pipeline never stops.
    pub stop_above: Option<StopAbove>,
}

/// The pipeline stops when either limit is exceeded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StopAbove {
    /// Dead letters as a share of the records, from 0 and below 1.
    pub ratio: Option<f64>,
    /// Number of consecutive dead letters. Skipped records in between do not interrupt the count; a gap of more than an
    /// hour does.
    pub consecutive: Option<u64>,
}

impl Sink {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let topic = section.required("topic", "topic = \"navigation-enriched\"", text);
        let key = section.optional("key", text);
        let set = section.or("set", vec![], bindings);
        let schema = section.optional("schema", SinkSchema::read);
        let properties = section.or("properties", vec![], Property::read_all);
        let span = section.span;
        section.finish();
        Some(Self {
            span,
            topic: topic?,
            key: key?,
            set: set?,
            schema: schema?,
            properties: properties?,
        })
    }
}

impl SinkSchema {
    fn read(field: Field<'_>) -> Option<Self> {
        const REMEDY: &str =
            "write { file = \"out.avsc\" }, { subject = \"out-value\" }, or the schema as JSON in single quotes";
        field.draws(Shape::Text(r#"^\s*[{"\[]"#));
        if let Value::String(schema) = &field.node.value {
            return match schema.trim_start().starts_with(['{', '"', '[']) {
                true => text(field).map(Self::Inline),
                false => field.malformed("an Avro schema", REMEDY),
            };
        }
        let mut section = field.section()?;
        let file = section.optional("file", path);
        let subject = section.optional("subject", text);
        section.finish();
        match (file?, subject?) {
            (Some(file), None) => Some(Self::File(file)),
            (None, Some(subject)) => Some(Self::Subject(subject)),
            _ => field.malformed("a reference to a schema, with one of `file` and `subject`", REMEDY),
        }
    }
}

impl DeadLetter {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let topic = section.required("topic", "topic = \"navigation-dead-letters\"", text);
        let stop_above = section.optional("stop_above", StopAbove::read);
        let span = section.span;
        section.finish();
        Some(Self {
            span,
            topic: topic?,
            stop_above: stop_above?,
        })
    }
}

impl StopAbove {
    fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let ratio = section.optional("ratio", share_below_one);
        let consecutive = section.optional("consecutive", count);
        section.finish();
        let (ratio, consecutive) = (ratio?, consecutive?.map(|count| count.value as u64));
        if ratio.is_none() && consecutive.is_none() {
            return field.malformed(
                "a limit of dead letters",
                "write for example { ratio = 0.01, consecutive = 1000 }, or remove it",
            );
        }
        Some(Self { ratio, consecutive })
    }
}
