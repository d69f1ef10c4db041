//! `[pipelines.NAME]`: one declared job.

use super::document::{Entry, Value};
use super::reader::{Field, Section, all, spanned_or};
use super::values::{count, text};
use super::{DeadLetter, Sink, Source, Span, Spanned, Step};

/// One declared job: source, steps, sink, and its promises.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Place of the section.
    pub span: Span,
    /// Its name, as in `[pipelines.NAME]`.
    pub name: Spanned<String>,
    /// Default [`Order::Key`].
    pub order: Order,
    /// How many events may be admitted and unfinished at once. Default 1024.
    pub max_in_flight: Spanned<usize>,
    /// Default [`Delivery::AtLeastOnce`].
    pub delivery: Delivery,
    /// Consumer loops in this process, each a member of the group with a thread of its own. Default 1.
    pub consumers: Spanned<usize>,
    /// Where records come from.
    pub source: Source,
    /// What is done with each event, in the order written.
    pub steps: Vec<Step>,
    /// Where the enriched event goes; absent for a pipeline that only writes.
    pub sink: Option<Sink>,
    /// Where records go that can never succeed; a pipeline without one stops at such a record.
    pub dead_letter: Option<DeadLetter>,
}

/// Which events wait for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `none`: no event waits for another.
    None,
    /// `key`: events of one key in one partition, in order.
    Key,
    /// `partition`: all events of a partition, in order.
    Partition,
}

/// What is promised to the sink's readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// `at_least_once`
    AtLeastOnce,
}

const ORDER: [(&str, Order); 3] = [
    ("none", Order::None),
    ("key", Order::Key),
    ("partition", Order::Partition),
];

impl Pipeline {
    pub(super) fn read(pipelines: &Section<'_>, entry: &Entry) -> Option<Self> {
        let mut section = pipelines.field_of(entry).section()?;
        let span = section.span;
        let order = section.or("order", Order::Key, |field| field.choice(&ORDER));
        let max_in_flight = section.optional("max_in_flight", max_in_flight);
        let delivery = section.or("delivery", Delivery::AtLeastOnce, delivery);
        let consumers = section.optional("consumers", count);
        let source = section.required("source", SOURCE_EXAMPLE, Source::read);
        let steps = section.or("steps", vec![], |field| all(field.items()?.into_iter().map(Step::read)));
        let sink = section.optional("sink", Sink::read);
        let dead_letter = section.optional("dead_letter", DeadLetter::read);
        section.finish();
        Some(Self {
            span,
            name: entry.key.clone(),
            order: order?,
            max_in_flight: spanned_or(max_in_flight?, 1024, span),
            delivery: delivery?,
            consumers: spanned_or(consumers?, 1, span),
            source: source?,
            steps: steps?,
            sink: sink?,
            dead_letter: dead_letter?,
        })
    }
}

const SOURCE_EXAMPLE: &str = "a section [pipelines.NAME.source] with `topics` and `group`";

fn max_in_flight(field: Field<'_>) -> Option<Spanned<usize>> {
    match &field.node.value {
        Value::String(word) if word == "auto" => {
            field.not_supported("`max_in_flight = \"auto\"`", "write a number; 1024 is the default")
        }
        _ => count(field),
    }
}

fn delivery(field: Field<'_>) -> Option<Delivery> {
    if *text(field.clone())? == "exactly_once" {
        return field.not_supported(
            "`delivery = \"exactly_once\"`",
            "write \"at_least_once\": replayed writes converge",
        );
    }
    field.choice(&[("at_least_once", Delivery::AtLeastOnce)])
}
