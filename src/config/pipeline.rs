//! `[pipelines.NAME]`: one declared job.

use std::time::Duration;

use super::document::{Entry, Value};
use super::reader::{Field, Section, all, spanned_or};
use super::shape::Shape;
use super::suggest::nearest;
use super::values::{count, positive_duration};
use super::{DeadLetter, Sink, Source, Span, Spanned, Step};

/// One declared job: source, steps, sink, and its promises.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Place of the section.
    pub span: Span,
    /// Its name, as in `[pipelines.NAME]`.
    pub name: Spanned<String>,
    /// The order of events. Default [`Order::Key`].
    pub order: Order,
    /// Whether `order` is written, rather than the default.
    pub order_is_written: bool,
    /// Maximum number of events that are admitted and unfinished. Default 1024.
    pub max_in_flight: Spanned<usize>,
    /// The lower bound, if the number is adjusted to how the store responds: `max_in_flight = "auto"`.
    pub min_in_flight: Option<usize>,
    /// The delivery guarantee. Default [`Delivery::AtLeastOnce`].
    pub delivery: Spanned<Delivery>,
    /// How long a transaction is open under [`Delivery::ExactlyOnce`]; `None` means [`Pipeline::TRANSACTION_INTERVAL`].
    pub transaction_interval: Option<Spanned<Duration>>,
    /// Number of consumer loops in this process, each a member of the group. If there are more than cores, they share
    /// threads. Default 1.
    pub consumers: Spanned<usize>,
    /// Where records come from.
    pub source: Source,
    /// What is done with each event, in the order written.
    pub steps: Vec<Step>,
    /// Where the enriched event is published; `None` if the pipeline only writes.
    pub sink: Option<Sink>,
    /// Where records that can never succeed are published. Without it, the pipeline stops at such a record.
    pub dead_letter: Option<DeadLetter>,
}

/// Which events wait for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `none`: no event waits for another.
    None,
    /// `key`: events of one key in one partition run in order.
    Key,
    /// `partition`: all events of a partition run in order.
    Partition,
}

/// The delivery guarantee for consumers of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// `at_least_once`: after a crash, a record may appear twice.
    AtLeastOnce,
    /// `exactly_once`: Kafka transactions, for consumers that read only committed records.
    ExactlyOnce,
}

const ORDER: [(&str, Order); 3] = [
    ("none", Order::None),
    ("key", Order::Key),
    ("partition", Order::Partition),
];

const DELIVERY: [(&str, Delivery); 2] = [
    ("at_least_once", Delivery::AtLeastOnce),
    ("exactly_once", Delivery::ExactlyOnce),
];

impl Pipeline {
    /// The default of `max_in_flight`.
    pub const MAX_IN_FLIGHT: usize = 1024;

    /// The default of `transaction_interval`.
    pub const TRANSACTION_INTERVAL: Duration = Duration::from_millis(500);

    pub(super) fn read(pipelines: &Section<'_>, entry: &Entry) -> Option<Self> {
        let mut section = pipelines.field_of(entry).section()?;
        let span = section.span;
        let order = section.optional("order", |field| field.choice(&ORDER));
        let max_in_flight = section.optional("max_in_flight", max_in_flight);
        let delivery = section.optional("delivery", delivery);
        let transaction_interval = section.optional("transaction_interval", interval);
        let consumers = section.optional("consumers", count);
        let meant = meant(pipelines, &entry.key);
        let source = section.required("source", &format!("{SOURCE_EXAMPLE}{meant}"), |field| {
            Source::read(field, &meant)
        });
        let steps = section.or("steps", vec![], |field| all(field.items()?.into_iter().map(Step::read)));
        let sink = section.optional("sink", Sink::read);
        let dead_letter = section.optional("dead_letter", DeadLetter::read);
        section.finish();
        let order = order?;
        let (max_in_flight, min_in_flight) = max_in_flight?.unwrap_or((Spanned::new(Self::MAX_IN_FLIGHT, span), None));
        Some(Self {
            span,
            name: entry.key.clone(),
            order: order.unwrap_or(Order::Key),
            order_is_written: order.is_some(),
            max_in_flight,
            min_in_flight,
            delivery: spanned_or(delivery?, Delivery::AtLeastOnce, span),
            transaction_interval: transaction_interval?,
            consumers: spanned_or(consumers?, 1, span),
            source: source?,
            steps: steps?,
            sink: sink?,
            dead_letter: dead_letter?,
        })
    }
}

/// What to add to the remedy if this pipeline's source is missing: its name may be a misspelling of that of a pipeline which has one.
fn meant(pipelines: &Section<'_>, name: &str) -> String {
    let sources = pipelines.table.entries.iter().filter(|other| {
        let source = inner(&other.node.value, "source");
        source.and_then(|source| inner(source, "topics")).is_some()
    });
    let near = nearest(name, sources.map(|other| other.key.as_str()));
    near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

fn inner<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Table(table) => table.get(key).map(|entry| &entry.node.value),
        _ => None,
    }
}

const SOURCE_EXAMPLE: &str = "a section [pipelines.NAME.source] with `topics` and `group`";

/// The bounds of `max_in_flight = "auto"`.
const AUTO: (usize, usize) = (16, 4096);

/// Reads a number, `"auto"` or `{ min, max }`. The lower bound is `None` for a number.
fn max_in_flight(field: Field<'_>) -> Option<(Spanned<usize>, Option<usize>)> {
    let span = field.span();
    field.draws(Shape::Count);
    field.draws(Shape::Word(vec!["auto"]));
    match &field.node.value {
        Value::String(word) if word == "auto" => Some((Spanned::new(AUTO.1, span), Some(AUTO.0))),
        Value::String(_) => field.malformed("a whole number above 0, \"auto\", or its bounds", BOUNDS),
        Value::Table(_) => {
            let mut section = field.clone().section()?;
            let min = section.optional("min", count);
            let max = section.optional("max", count);
            section.finish();
            let (min, max) = (min?.map(|min| min.value), max?.map(|max| max.value));
            let min = min.unwrap_or(AUTO.0.min(max.unwrap_or(AUTO.1)));
            let max = max.unwrap_or(AUTO.1.max(min));
            if min > max {
                return field.malformed("a lower bound that is not above the upper one", BOUNDS);
            }
            Some((Spanned::new(max, span), Some(min)))
        }
        _ => count(field).map(|number| (number, None)),
    }
}

const BOUNDS: &str = "write for example 1024, \"auto\", or { min = 16, max = 4096 }";

fn delivery(field: Field<'_>) -> Option<Spanned<Delivery>> {
    let span = field.span();
    field.choice(&DELIVERY).map(|delivery| Spanned::new(delivery, span))
}

fn interval(field: Field<'_>) -> Option<Spanned<Duration>> {
    let span = field.span();
    positive_duration(field).map(|interval| Spanned::new(interval, span))
}
