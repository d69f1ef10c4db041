//! `[[pipelines.NAME.steps]]`: look-ups, writes, filters and names.

use std::time::Duration;

use super::codes;
use super::diagnostic::Diagnostic;
use super::reader::{Field, Section, spanned_or};
use super::values::{bindings, duration, positive_duration, size, spanned_boolean, text};
use super::{Size, Span, Spanned};

/// A named part of a pipeline. Steps are written in order; look-ups that do not need one another run at the same time.
#[derive(Clone, Debug)]
pub struct Step {
    /// Place of the step's table.
    pub span: Span,
    /// The name: unique in the pipeline, and the head of `<name>.<column>` in later expressions.
    pub name: Spanned<String>,
    /// Condition; where it is false the step does not run for that event.
    pub when: Option<Spanned<String>>,
    /// What the step does.
    pub kind: StepKind,
}

/// What a step does: exactly one of these per step.
#[derive(Clone, Debug)]
pub enum StepKind {
    /// `lookup = "SELECT …"`
    Lookup(Lookup),
    /// `write = "INSERT …"`
    Write(Write),
    /// `filter = "expression"`
    Filter(Filter),
    /// `set = { name = "expression" }`: names values for later steps, as `<step>.<name>`.
    Set(Vec<Binding>),
    /// `reference = "name"`: parsed, and refused by `check` in this version.
    Reference(ReferenceStep),
}

/// A name and the expression that gives its value: a marker of a statement, or a field of an output.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Marker or field.
    pub name: Spanned<String>,
    /// A path (`event.user.id`) or a CEL expression.
    pub expression: Spanned<String>,
}

/// One row read by CQL with named markers.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// The statement.
    pub cql: Spanned<String>,
    /// Values of its markers; a marker that is not named here binds the event's field of the same name.
    pub bind: Vec<Binding>,
    /// Rows kept in memory; absent means that every event asks the database.
    pub cache: Option<Cache>,
    /// What happens when there is no row. Default [`OnMissing::Null`].
    pub on_missing: OnMissing,
    /// Deadline of one request; absent means the store's.
    pub timeout: Option<Duration>,
}

/// Rows of a look-up kept in memory.
#[derive(Clone, Debug)]
pub struct Cache {
    /// How long a row is kept.
    pub ttl: Duration,
    /// How long the absence of a row is kept. Default 5 s, or `ttl` if that is shorter; zero keeps none.
    pub missing_ttl: Duration,
    /// Bytes it may hold, out of `[limits] memory`. Default 16 MiB.
    pub max_bytes: Spanned<Size>,
}

/// What a look-up without a row means for the event.
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

/// One row written by CQL with named markers.
#[derive(Clone, Debug)]
pub struct Write {
    /// The statement, without `USING`: Messina adds the timestamp, and `ttl`.
    pub cql: Spanned<String>,
    /// Values of its markers; a marker that is not named here binds the event's field of the same name.
    pub bind: Vec<Binding>,
    /// How long the row lives; absent means for ever.
    pub ttl: Option<Duration>,
    /// Whether the write may be repeated, as stated; [`Write::idempotent`] gives the default.
    pub idempotent_stated: Option<Spanned<bool>>,
    /// Deadline of one request; absent means the store's.
    pub timeout: Option<Duration>,
}

impl Write {
    /// Whether the write may be repeated: true unless the step says `idempotent = false`.
    pub fn idempotent(&self) -> bool {
        self.idempotent_stated.as_ref().is_none_or(|stated| stated.value)
    }
}

/// Events for which the expression is false end as skipped.
#[derive(Clone, Debug)]
pub struct Filter {
    /// A CEL expression that gives a boolean.
    pub expression: Spanned<String>,
}

/// A look-up in a collection held in memory.
#[derive(Clone, Debug)]
pub struct ReferenceStep {
    /// Name of the `[references.NAME]` section.
    pub reference: Spanned<String>,
    /// Expression that gives the key.
    pub key: Spanned<String>,
    /// What happens when there is no document. Default [`OnMissing::Null`].
    pub on_missing: OnMissing,
}

const ON_MISSING: [(&str, OnMissing); 4] = [
    ("null", OnMissing::Null),
    ("skip", OnMissing::Skip),
    ("dead_letter", OnMissing::DeadLetter),
    ("retry", OnMissing::Retry),
];

/// The keys that say what a step does.
const KINDS: [&str; 5] = ["lookup", "write", "filter", "set", "reference"];

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
        let present: Vec<&str> = KINDS
            .into_iter()
            .filter(|kind| section.table.get(kind).is_some())
            .collect();
        let kind = match present[..] {
            ["lookup"] => Lookup::read(&mut section).map(Self::Lookup),
            ["write"] => Write::read(&mut section).map(Self::Write),
            ["filter"] => text(section.field("filter")?).map(|expression| Self::Filter(Filter { expression })),
            ["set"] => bindings(section.field("set")?).map(Self::Set),
            ["reference"] => ReferenceStep::read(&mut section).map(Self::Reference),
            _ => return kind_error(section, &present),
        };
        section.finish();
        kind
    }
}

/// A step with no kind is often one with a misspelt kind, so its unknown keys are left alone here.
fn kind_error(section: Section<'_>, present: &[&str]) -> Option<StepKind> {
    section.report_missing();
    let (message, place) = match present {
        [] if section.cx.broken => return None,
        [] => (format!("`{}` does not say what it does", section.path), section.span),
        [first, second, ..] => {
            let place = section.table.get(second).map_or(section.span, |entry| entry.key.span);
            (format!("`{}` has both `{first}` and `{second}`", section.path), place)
        }
        [_] => return None, // Every single kind has been read.
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
        _ => finding,
    };
    section
        .cx
        .report(finding.help("a step has one of `lookup`, `write`, `filter`, `set`; make two steps of two things"));
    None
}

impl Lookup {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let cql = section.required("lookup", "lookup = \"SELECT …\"", text);
        let bind = section.or("bind", vec![], bindings);
        let cache = section.optional("cache", Cache::read);
        let on_missing = section.or("on_missing", OnMissing::Null, |field| field.choice(&ON_MISSING));
        let timeout = section.optional("timeout", positive_duration);
        Some(Self {
            cql: cql?,
            bind: bind?,
            cache: cache?,
            on_missing: on_missing?,
            timeout: timeout?,
        })
    }
}

impl Cache {
    fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let span = section.span;
        let ttl = section.required("ttl", "ttl = \"30s\"", positive_duration);
        let missing_ttl = section.optional("missing_ttl", duration);
        let max_bytes = section.optional("max_bytes", size);
        section.finish();
        let ttl = ttl?;
        let missing_ttl = missing_ttl?.unwrap_or(ttl.min(Duration::from_secs(5)));
        Some(Self {
            ttl,
            missing_ttl,
            max_bytes: spanned_or(max_bytes?, Size(16 << 20), span),
        })
    }
}

impl Write {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let cql = section.required("write", "write = \"INSERT …\"", text);
        let bind = section.or("bind", vec![], bindings);
        let ttl = section.optional("ttl", ttl);
        let idempotent_stated = section.optional("idempotent", spanned_boolean);
        let timeout = section.optional("timeout", positive_duration);
        Some(Self {
            cql: cql?,
            bind: bind?,
            ttl: ttl?,
            idempotent_stated: idempotent_stated?,
            timeout: timeout?,
        })
    }
}

/// A time to live: CQL counts it in whole seconds, and takes no more than 20 years.
/// See <https://cassandra.apache.org/doc/latest/cassandra/developing/cql/dml.html#update-parameters>.
fn ttl(field: Field<'_>) -> Option<Duration> {
    const LONGEST: Duration = Duration::from_secs(20 * 365 * 86_400);
    let value = positive_duration(field.clone())?;
    if value.subsec_nanos() != 0 || value > LONGEST {
        return field.malformed("a time to live in whole seconds, up to 20 years", "for example \"30d\"");
    }
    Some(value)
}

impl ReferenceStep {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let reference = section.required("reference", "reference = \"partners\"", text);
        let key = section.required("key", "key = \"event.partner_id\"", text);
        let on_missing = section.or("on_missing", OnMissing::Null, |field| field.choice(&ON_MISSING));
        Some(Self {
            reference: reference?,
            key: key?,
            on_missing: on_missing?,
        })
    }
}
