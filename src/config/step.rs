//! `[[pipelines.NAME.steps]]`: look-ups, references, writes, filters, names (`set`) and custom steps.

use std::time::Duration;

use super::codes;
use super::diagnostic::Diagnostic;
use super::document::Entry;
use super::policy::{ErrorPolicy, MissingDeadline};
use super::reader::{Field, Section, spanned_or};
use super::shape::Shape;
use super::values::{bindings, count, duration, positive_duration, required_duration, size, spanned_boolean, text};
use super::{Execution, Size, Span, Spanned, WriteGroup};

/// A named part of a pipeline. Steps run in the order written; look-ups that do not need one another run concurrently.
#[derive(Clone, Debug)]
pub struct Step {
    /// Place of the step's table.
    pub span: Span,
    /// The name, unique in the pipeline. Later expressions use it as `<name>.<column>`.
    pub name: Spanned<String>,
    /// Condition; the step does not run for an event for which it is false.
    pub when: Option<Spanned<String>>,
    /// What the step does.
    pub kind: StepKind,
}

/// What a step does. Each step has exactly one kind.
#[derive(Clone, Debug)]
pub enum StepKind {
    /// `lookup = "SELECT …"`
    Lookup(Lookup),
    /// `write = "INSERT …"`
    Write(Write),
    /// `filter = "expression"`
    Filter(Filter),
    /// `set = { name = "expression" }`: names values for later steps to use as `<step>.<name>`.
    Set(Vec<Binding>),
    /// `reference = "name"`
    Reference(ReferenceStep),
    /// `custom = "name"`
    Custom(Custom),
}

/// A name and the expression for its value: a marker of a statement, or a field of an output.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The marker or field.
    pub name: Spanned<String>,
    /// A path (`event.user.id`) or a CEL expression.
    pub expression: Spanned<String>,
}

/// A query by CQL with named markers.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// The statement.
    pub cql: Spanned<String>,
    /// Values of its markers. A marker that is not listed binds the event's field of the same name.
    pub bind: Vec<Binding>,
    /// How many rows are used. Default [`Rows::First`].
    pub rows: Rows,
    /// Cache of rows in memory; `None` means that every event asks the database.
    pub cache: Option<Cache>,
    /// What happens when there is no row. Default [`OnMissing::Null`].
    pub on_missing: OnMissing,
    /// How long [`OnMissing::Retry`] waits for the row; `None` means for ever.
    pub missing_deadline: Option<MissingDeadline>,
    /// Deadline of one request; `None` means the store's.
    pub timeout: Option<Duration>,
    /// What happens when requests fail.
    pub errors: ErrorPolicy,
    /// Other execution settings that differ from the store's.
    pub execution: Execution,
}

/// How many rows of a look-up's result are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// `first`: the first row.
    First,
    /// `list`: all rows, as a list per column.
    List {
        /// Maximum number of rows. Default 1,000.
        max: usize,
        /// Whether further rows are dropped; otherwise the record becomes a dead letter.
        truncate: bool,
    },
}

/// A look-up's cache of rows in memory.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Place of its table.
    pub span: Span,
    /// How long a row is kept.
    pub ttl: Duration,
    /// How long the absence of a row is kept. Default 5 s, or `ttl` if that is shorter; zero keeps none.
    pub missing_ttl: Duration,
    /// Maximum number of bytes, part of `[limits] memory`. Default 16 MiB.
    pub max_bytes: Spanned<Size>,
    /// How long an expired row is still used while the store fails; `None` means not at all.
    pub stale_on_error: Option<Duration>,
}

/// What happens to an event whose look-up finds no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMissing {
    /// `null`: the columns are null.
    Null,
    /// `skip`: the event ends as skipped.
    Skip,
    /// `dead_letter`: the event ends as a dead letter.
    DeadLetter,
    /// `retry`: the look-up is repeated until there is a row.
    Retry,
}

/// A row written by CQL with named markers.
#[derive(Clone, Debug)]
pub struct Write {
    /// The statement, without `USING`: Messina adds the timestamp and `ttl`.
    pub cql: Spanned<String>,
    /// Values of its markers. A marker that is not listed binds the event's field of the same name.
    pub bind: Vec<Binding>,
    /// How long the row lives; `None` means for ever.
    pub ttl: Option<Duration>,
    /// Expression for how long the row lives, in seconds; an alternative to `ttl`.
    pub ttl_seconds: Option<Spanned<String>>,
    /// How rows written at the same time are grouped; `None` means that each row is written by itself.
    pub group: Option<WriteGroup>,
    /// `idempotent` as written: whether the write may be repeated. [`Write::idempotent`] applies the default.
    pub idempotent_stated: Option<Spanned<bool>>,
    /// Deadline of one request; `None` means the store's.
    pub timeout: Option<Duration>,
    /// What happens when requests fail.
    pub errors: ErrorPolicy,
    /// Other execution settings that differ from the store's.
    pub execution: Execution,
}

impl Write {
    /// Whether the write may be repeated: true unless the step says `idempotent = false`.
    pub fn idempotent(&self) -> bool {
        self.idempotent_stated.as_ref().is_none_or(|stated| stated.value)
    }
}

/// Skips the events for which the expression is false.
#[derive(Clone, Debug)]
pub struct Filter {
    /// A CEL expression that gives a boolean.
    pub expression: Spanned<String>,
}

/// A custom step, by [its name](crate::custom::CustomSteps).
#[derive(Clone, Debug)]
pub struct Custom {
    /// The name under which it is registered.
    pub custom: Spanned<String>,
    /// Its arguments. One that is not listed is the event's field of the same name.
    pub bind: Vec<Binding>,
    /// What happens when it returns nothing; never [`OnMissing::Retry`]. Default [`OnMissing::Null`].
    pub on_missing: OnMissing,
    /// Deadline of one attempt: without it, a step that hangs would hold its record for ever. Default 30 s.
    pub timeout: Duration,
    /// What happens when it fails.
    pub errors: ErrorPolicy,
}

/// A look-up in a reference: a MongoDB collection.
#[derive(Clone, Debug)]
pub struct ReferenceStep {
    /// Name of the `[references.NAME]` section.
    pub reference: Spanned<String>,
    /// Expression for the key.
    pub key: Spanned<String>,
    /// What happens when there is no document. Default [`OnMissing::Null`].
    pub on_missing: OnMissing,
    /// How long [`OnMissing::Retry`] waits for the document; `None` means for ever.
    pub missing_deadline: Option<MissingDeadline>,
}

const ON_MISSING: [(&str, OnMissing); 4] = [
    ("null", OnMissing::Null),
    ("skip", OnMissing::Skip),
    ("dead_letter", OnMissing::DeadLetter),
    ("retry", OnMissing::Retry),
];

/// The keys that name a step's kind.
const KINDS: [&str; 6] = ["lookup", "write", "filter", "set", "reference", "custom"];

impl Step {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let span = section.span;
        let name = section.required("name", "name = \"profile\"", text);
        let when = section.optional("when", text);
        let kind = StepKind::read(section);
        Some(Self {
            span,
            name: name?,
            when: when?,
            kind: kind?,
        })
    }
}

impl StepKind {
    fn read(mut section: Section<'_>) -> Option<Self> {
        if let Some(drawing) = section.cx.drawing {
            drawing.note(&section.path, Shape::Kinds(KINDS.to_vec()));
            for kind in KINDS {
                let path = format!("{}|{kind}", section.path);
                let mut of_kind = Section::new(section.cx, path, section.table, section.span);
                let _ = Self::read_as(kind, &mut of_kind);
            }
            return None;
        }
        let present: Vec<&str> = KINDS
            .into_iter()
            .filter(|kind| section.table.get(kind).is_some())
            .collect();
        let [only] = present[..] else {
            return kind_error(section, &present);
        };
        let kind = Self::read_as(only, &mut section);
        section.finish();
        kind
    }

    /// Reads the keys of one kind.
    fn read_as(kind: &str, section: &mut Section<'_>) -> Option<Self> {
        match kind {
            "lookup" => Lookup::read(section).map(Self::Lookup),
            "write" => Write::read(section).map(Self::Write),
            "filter" => text(section.field("filter")?).map(|expression| Self::Filter(Filter { expression })),
            "set" => bindings(section.field("set")?).map(Self::Set),
            "reference" => ReferenceStep::read(section).map(Self::Reference),
            "custom" => Custom::read(section).map(Self::Custom),
            _ => None,
        }
    }
}

/// Reports a step without a kind, or with two. A missing kind is often a misspelt one, so unknown keys are not reported
/// separately.
fn kind_error(section: Section<'_>, present: &[&str]) -> Option<StepKind> {
    section.report_missing();
    let (message, place) = match present {
        [] if section.cx.broken => return None,
        [] => (format!("`{}` does not say what it does", section.path), section.span),
        [first, second, ..] => {
            let place = section.table.get(second).map_or(section.span, |entry| entry.key.span);
            (format!("`{}` has both `{first}` and `{second}`", section.path), place)
        }
        [_] => return None, // A step with a single kind is read by the caller.
    };
    let mut finding =
        Diagnostic::error(codes::STEP_KIND, message).at(section.cx.sources, place, "expected exactly one");
    let misspelt = section.table.entries.iter().find_map(|entry| {
        let near = super::suggest::nearest(&entry.key, KINDS)?;
        (near != entry.key.as_str()).then_some((entry, near))
    });
    finding = match misspelt {
        Some((entry, near)) if present.is_empty() => {
            let label = format!("did you mean `{near}`?");
            finding.with(section.cx.sources, entry.key.span, label)
        }
        None if present.is_empty() => {
            let other = |entry: &&Entry| !matches!(entry.key.as_str(), "name" | "when");
            match section.table.entries.iter().find(other) {
                Some(entry) => {
                    section.cx.hide(&entry.node);
                    finding.with(section.cx.sources, entry.key.span, "none of these")
                }
                None => finding,
            }
        }
        _ => finding,
    };
    section.cx.report(finding.help(
        "a step has one of `lookup`, `reference`, `write`, `filter`, `set`, `custom`; for two of them, write two steps",
    ));
    None
}

impl Lookup {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let cql = section.required("lookup", "lookup = \"SELECT …\"", text);
        let bind = section.or("bind", vec![], bindings);
        let rows = Rows::read(section);
        let cache = section.optional("cache", Cache::read);
        let on_missing = section.or("on_missing", OnMissing::Null, |field| field.choice(&ON_MISSING));
        let missing_deadline = MissingDeadline::read(section, on_missing);
        let timeout = section.optional("timeout", positive_duration);
        let errors = ErrorPolicy::of_lookup(section);
        let execution = Execution::of_lookup(section);
        Some(Self {
            cql: cql?,
            bind: bind?,
            rows: rows?,
            cache: cache?,
            on_missing: on_missing?,
            missing_deadline: missing_deadline?,
            timeout: timeout?,
            errors: errors?,
            execution: execution?,
        })
    }
}

impl Rows {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let list = section.or("rows", false, |field| field.choice(&[("first", false), ("list", true)]));
        let max = section.optional("max_rows", count);
        let choices = [("dead_letter", false), ("truncate", true)];
        let truncate = section.optional("on_overflow", |field| field.choice(&choices));
        let alone = ["max_rows", "on_overflow"];
        let alone = alone
            .into_iter()
            .find_map(|key| section.table.get(key).filter(|_| list == Some(false)));
        if let Some(entry) = alone {
            let message = format!("`{}` is for `rows = \"list\"`", entry.key.value);
            let finding = Diagnostic::error(codes::CONFLICT, message);
            let finding = finding.at(section.cx.sources, entry.key.span, "the first row alone is taken");
            section
                .cx
                .report(finding.help("add rows = \"list\", or remove the key"));
            return None;
        }
        let (max, truncate) = (max?, truncate?);
        Some(match list? {
            false => Self::First,
            true => Self::List {
                max: max.map_or(1000, |max| max.value),
                truncate: truncate.unwrap_or(false),
            },
        })
    }
}

impl Cache {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let span = section.span;
        let ttl = section.required("ttl", "ttl = \"30s\"", required_duration);
        let missing_ttl = section.optional("missing_ttl", duration);
        let max_bytes = section.optional("max_bytes", size);
        let stale_on_error = section.optional("stale_on_error", positive_duration);
        section.finish();
        let ttl = ttl?;
        let missing_ttl = missing_ttl?.unwrap_or(ttl.min(Duration::from_secs(5)));
        Some(Self {
            span,
            ttl,
            missing_ttl,
            max_bytes: spanned_or(max_bytes?, Size(16 << 20), span),
            stale_on_error: stale_on_error?,
        })
    }
}

impl Write {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let cql = section.required("write", "write = \"INSERT …\"", text);
        let bind = section.or("bind", vec![], bindings);
        let ttl = section.optional("ttl", ttl);
        let ttl_seconds = section.optional("ttl_seconds", text);
        let group = section.optional("group", WriteGroup::read);
        let idempotent_stated = section.optional("idempotent", spanned_boolean);
        let timeout = section.optional("timeout", positive_duration);
        let errors = ErrorPolicy::of_write(section);
        let execution = Execution::of_write(section);
        let (ttl, ttl_seconds, group, idempotent_stated) = (ttl?, ttl_seconds?, group?, idempotent_stated?);
        if let (Some(_), Some(expression)) = (ttl, &ttl_seconds) {
            let message = format!("`{}` has both `ttl` and `ttl_seconds`", section.path);
            let finding = Diagnostic::error(codes::CONFLICT, message);
            let finding = finding.at(section.cx.sources, expression.span, "a row has one time to live");
            section.cx.report(finding.help("keep one of them"));
            return None;
        }
        if let (Some(group), Some(stated)) = (&group, &idempotent_stated)
            && !stated.value
        {
            let finding = WriteGroup::not_repeatable(section, group.span);
            section.cx.report(finding);
            return None;
        }
        Some(Self {
            cql: cql?,
            bind: bind?,
            ttl,
            ttl_seconds,
            group,
            idempotent_stated,
            timeout: timeout?,
            errors: errors?,
            execution: execution?,
        })
    }
}

/// Reads a time to live. CQL counts it in whole seconds and accepts at most 20 years.
/// See <https://cassandra.apache.org/doc/latest/cassandra/developing/cql/dml.html#update-parameters>.
fn ttl(field: Field<'_>) -> Option<Duration> {
    const LONGEST: Duration = Duration::from_secs(20 * 365 * 86_400);
    let value = positive_duration(field.clone())?;
    if value.subsec_nanos() != 0 || value > LONGEST {
        return field.malformed("a time to live in whole seconds, up to 20 years", "for example \"30d\"");
    }
    Some(value)
}

impl Custom {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let custom = section.required("custom", "custom = \"geo\"", text);
        let bind = section.or("bind", vec![], bindings);
        let on_missing = section.or("on_missing", OnMissing::Null, |field| field.choice(&ON_MISSING[..3]));
        let timeout = section.or("timeout", Duration::from_secs(30), positive_duration);
        let errors = ErrorPolicy::of_lookup(section);
        Some(Self {
            custom: custom?,
            bind: bind?,
            on_missing: on_missing?,
            timeout: timeout?,
            errors: errors?,
        })
    }
}

impl ReferenceStep {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let reference = section.required("reference", "reference = \"partners\"", text);
        let key = section.required("key", "key = \"event.partner_id\"", text);
        let on_missing = section.or("on_missing", OnMissing::Null, |field| field.choice(&ON_MISSING));
        let missing_deadline = MissingDeadline::read(section, on_missing);
        Some(Self {
            reference: reference?,
            key: key?,
            on_missing: on_missing?,
            missing_deadline: missing_deadline?,
        })
    }
}
