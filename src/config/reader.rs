//! Reads a table key by key and collects every error, instead of stopping at the first as serde does.
//!
//! A section asks for each key that it knows ([`Section::required`], [`Section::optional`], [`Section::or`]) and ends with [`Section::finish`], which
//! reports the keys that were not asked for. A value that cannot be read is reported at its position and yields `None`; the section is then `None`
//! too, but only after all of its keys have been read.

use std::cell::RefCell;

use super::codes;
use super::diagnostic::Diagnostic;
use super::document::{Entry, Node, Table, Value, double_brackets, single_brackets};
use super::redact::is_secret_name;
use super::shape::{Drawing, Shape};
use super::suggest::{list, nearest};
use super::{Sources, Span, Spanned};

/// Keys that belong before the first section. A user who writes one after a section header has put it into that section.
const ROOT_KEYS: [&str; 2] = ["store", "shutdown_timeout"];

/// State shared by all sections of one document.
pub(super) struct Context<'a> {
    pub(super) sources: &'a Sources,
    pub(super) findings: RefCell<Vec<Diagnostic>>,
    /// See [`Context::hide`].
    pub(super) hidden: RefCell<Vec<Span>>,
    /// Whether the document had syntax errors. A key that seems absent may then have been written, so it is not reported.
    pub(super) broken: bool,
    /// If set, nothing is read: the readers only record which keys and values they accept.
    pub(super) drawing: Option<&'a Drawing>,
}

impl Context<'_> {
    pub(super) fn report(&self, finding: Diagnostic) {
        self.findings.borrow_mut().push(finding);
    }

    /// Keeps this value out of all findings: under an unknown key there may be a secret.
    pub(super) fn hide(&self, node: &Node) {
        match &node.value {
            Value::Table(table) => table.entries.iter().for_each(|entry| self.hide(&entry.node)),
            _ => self.hidden.borrow_mut().push(node.span),
        }
    }
}

/// A table that is being read.
pub(super) struct Section<'a> {
    pub(super) cx: &'a Context<'a>,
    /// Its path in the document, for messages: `pipelines.navigation.source`; empty for the root.
    pub(super) path: String,
    pub(super) table: &'a Table,
    pub(super) span: Span,
    known: Vec<&'static str>,
    /// Required keys that are absent: name, and an example.
    missing: Vec<(&'static str, String)>,
}

/// A value that is being read, with the path of its key.
#[derive(Clone)]
pub(super) struct Field<'a> {
    pub(super) cx: &'a Context<'a>,
    pub(super) path: String,
    pub(super) node: &'a Node,
}

impl<'a> Section<'a> {
    pub(super) fn new(cx: &'a Context<'a>, path: String, table: &'a Table, span: Span) -> Self {
        Self {
            cx,
            path,
            table,
            span,
            known: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// The entry of a key, which counts as known from now on.
    pub(super) fn entry(&mut self, key: &'static str) -> Option<&'a Entry> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.get(key)
    }

    /// The value of an optional key.
    pub(super) fn field(&mut self, key: &'static str) -> Option<Field<'a>> {
        if let Some(drawing) = self.cx.drawing {
            drawing.key(&self.path, key);
            return Some(Field {
                cx: self.cx,
                path: join(&self.path, key),
                node: &drawing.blank.node,
            });
        }
        let entry = self.entry(key)?;
        Some(self.field_of(entry))
    }

    pub(super) fn field_of(&self, entry: &'a Entry) -> Field<'a> {
        Field {
            cx: self.cx,
            path: join(&self.path, &entry.key),
            node: &entry.node,
        }
    }

    /// Reads an optional key: `Some(None)` if it is absent, `None` if its value is wrong.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Field<'a>) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.field(key) {
            None => Some(None),
            Some(field) => read(field).map(Some),
        }
    }

    /// Reads a key with a default.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(Field<'a>) -> Option<T>,
    ) -> Option<T> {
        Some(self.optional(key, read)?.unwrap_or(default))
    }

    /// Reads a required key; `example` is a line that shows how to write it.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl FnOnce(Field<'a>) -> Option<T>,
    ) -> Option<T> {
        if let Some(drawing) = self.cx.drawing {
            drawing.require(&self.path, key);
        }
        match self.field(key) {
            Some(field) => read(field),
            None => {
                self.missing.push((key, example.to_owned()));
                None
            }
        }
    }

    /// Reports absent keys, unless an unknown key is probably a misspelling of one.
    pub(super) fn report_missing(&self) {
        for (key, example) in &self.missing {
            let unknown = self
                .table
                .entries
                .iter()
                .filter(|entry| !self.known.contains(&entry.key.as_str()));
            let misspelt = unknown.filter_map(|entry| nearest(&entry.key, self.known.iter().copied()));
            if self.cx.broken || misspelt.into_iter().any(|near| near == *key) {
                continue;
            }
            let message = match self.path.as_str() {
                "" => format!("`{key}` is missing"),
                path => format!("`{key}` is missing in `{path}`"),
            };
            let finding = Diagnostic::error(codes::MISSING_KEY, message).help(format!("add {example}"));
            self.cx.report(match self.path.as_str() {
                "" => finding,
                _ => finding.at(self.cx.sources, self.span, format!("`{key}` belongs here")),
            });
        }
    }

    /// Reports absent keys and unknown keys.
    pub(super) fn finish(self) {
        self.report_missing();
        for entry in &self.table.entries {
            let key = entry.key.as_str();
            if self.known.contains(&key) {
                continue;
            }
            let message = match self.path.as_str() {
                "" => format!("unknown key `{key}`"),
                path => format!("unknown key `{key}` in `{path}`"),
            };
            let near = nearest(key, self.known.iter().copied());
            let label = near.map_or("not a key of this section".to_owned(), |near| {
                format!("did you mean `{near}`?")
            });
            let mut finding = Diagnostic::error(codes::UNKNOWN_KEY, message).at(self.cx.sources, entry.key.span, label);
            if ROOT_KEYS.contains(&key) {
                finding = finding.help(format!(
                    "`{key}` belongs at the top of the file, before the first [section]"
                ));
            } else if near.is_none() {
                finding = finding.help(format!("known here: {}", self.known.join(", ")));
            }
            self.cx.report(finding);
            let meant = near.or(ROOT_KEYS.contains(&key).then_some(key));
            if meant.is_none_or(is_secret_name) || matches!(entry.node.value, Value::Table(_)) {
                self.cx.hide(&entry.node);
            }
        }
    }
}

impl<'a> Field<'a> {
    pub(super) fn span(&self) -> Span {
        self.node.span
    }

    /// Whether the readers are only being recorded. If so, records the shape of this value.
    pub(super) fn draws(&self, shape: Shape) -> bool {
        let Some(drawing) = self.cx.drawing else {
            return false;
        };
        drawing.note(&self.path, shape);
        true
    }

    /// Reports that the value has the wrong type.
    pub(super) fn wrong_type<T>(&self, expected: &str) -> Option<T> {
        let message = format!("`{}` must be {expected}", self.path);
        let label = format!("expected {expected}, found {}", self.node.describe());
        let mut finding = Diagnostic::error(codes::WRONG_TYPE, message).at(self.cx.sources, self.span(), label);
        let usual = || type_remedy(expected, &self.node.value).map(str::to_owned);
        if let Some(remedy) = self.brackets(expected).or_else(usual) {
            finding = finding.help(remedy);
        }
        self.cx.report(finding);
        None
    }

    /// The remedy for a section whose header has the wrong number of brackets.
    fn brackets(&self, expected: &str) -> Option<String> {
        let is_list = || self.cx.sources.written(self.span()).starts_with("[[");
        match (expected, &self.node.value) {
            ("a list", Value::Table(_)) if self.path.ends_with(".steps") => Some(double_brackets(&self.path)),
            ("a table", Value::Array(_)) if !self.path.contains('[') && is_list() => Some(single_brackets(&self.path)),
            _ => None,
        }
    }

    /// Reports that the value has the right type, but cannot be used.
    pub(super) fn malformed<T>(&self, what: &str, remedy: &str) -> Option<T> {
        let message = format!("`{}` is not {what}", self.path);
        let finding =
            Diagnostic::error(codes::MALFORMED, message).at(self.cx.sources, self.span(), format!("expected {what}"));
        self.cx.report(finding.help(remedy));
        None
    }

    /// Reads the value as a table.
    pub(super) fn section(&self) -> Option<Section<'a>> {
        self.draws(Shape::Table);
        match &self.node.value {
            Value::Table(table) => Some(Section::new(self.cx, self.path.clone(), table, self.span())),
            _ => self.wrong_type("a table"),
        }
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Option<Vec<Field<'a>>> {
        if self.draws(Shape::Items) {
            let path = format!("{}[]", self.path);
            return Some(vec![Field { path, ..self.clone() }]);
        }
        let Value::Array(items) = &self.node.value else {
            return self.wrong_type("a list");
        };
        Some(self.fields(items))
    }

    pub(super) fn fields(&self, items: &'a [Node]) -> Vec<Field<'a>> {
        let field = |(index, node)| Field {
            cx: self.cx,
            path: format!("{}[{index}]", self.path),
            node,
        };
        items.iter().enumerate().map(field).collect()
    }

    /// Reads one of several words.
    pub(super) fn choice<T: Copy>(self, choices: &[(&'static str, T)]) -> Option<T> {
        if self.draws(Shape::Word(choices.iter().map(|(word, _)| *word).collect())) {
            return None;
        }
        let text = super::values::text(self.clone())?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == *text) {
            return Some(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let label = match nearest(&text, words.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("expected {}", list(&words)),
        };
        let message = format!("`{}` cannot be `{}`", self.path, text.value);
        let finding = Diagnostic::error(codes::UNKNOWN_CHOICE, message).at(self.cx.sources, self.span(), label);
        let help = if words.len() == 1 {
            "it can only be"
        } else {
            "it is one of"
        };
        self.cx.report(finding.help(format!("{help} {}", list(&words))));
        None
    }
}

/// The usual remedy for a value of the wrong type.
fn type_remedy(expected: &str, found: &Value) -> Option<&'static str> {
    let remedies = [
        ("a string", "put the value in quotes"),
        ("a list", "write [\"a\", \"b\"]"),
        (
            "a table",
            "write { key = value }, or a section with its name in brackets",
        ),
        ("`true`", "write true or false, in small letters and without quotes"),
        ("a whole number", "write digits, without quotes"),
        ("a number", "one per cent is 0.01"),
        (
            "a duration",
            "a number and a unit: \"250ms\", \"30s\", \"5m\", \"2h\" or \"30d\"",
        ),
        (
            "a size",
            "a number and a unit: \"512KiB\", \"64MiB\", \"1GB\"; a plain number counts bytes",
        ),
    ];
    match found {
        Value::Array(_) if expected.starts_with("a string") => Some("write one value in quotes, without brackets"),
        Value::Table(_) if expected.starts_with("a string") => Some("write one value in quotes, without braces"),
        _ => remedies
            .iter()
            .find(|(start, _)| expected.starts_with(start))
            .map(|(_, remedy)| *remedy),
    }
}

/// All values, or `None` if one of them is wrong. All of them are read first, so that every error is reported.
pub(super) fn all<T>(values: impl IntoIterator<Item = Option<T>>) -> Option<Vec<T>> {
    let values: Vec<Option<T>> = values.into_iter().collect();
    values.into_iter().collect()
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// The value if it was written, otherwise the default, at the position of its section.
pub(super) fn spanned_or<T>(value: Option<Spanned<T>>, default: T, section: Span) -> Spanned<T> {
    value.unwrap_or(Spanned::new(default, section))
}
