//! The document: TOML as a tree in which every key and value keeps its position, and the merge of several such trees.
//!
//! serde would lose positions and stop at the first error; [`super::reader`] walks this tree instead. The TOML parser's limit on nesting bounds its
//! depth.

use std::collections::HashSet;

use toml::de::{DeTable, DeValue};

use super::codes;
use super::diagnostic::Diagnostic;
use super::{FileId, Sources, Span, Spanned};

/// A value and its position.
pub(super) type Node = Spanned<Value>;

/// A TOML value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    String(String),
    /// `None` if the number does not fit into 64 bits.
    Integer(Option<i64>),
    Float(f64),
    Boolean(bool),
    Datetime,
    Array(Vec<Node>),
    Table(Table),
}

impl Value {
    /// The type with its article, for `expected …, found …`.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Datetime => "a date or time",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// Keys and values in the order written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    pub(super) entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: Spanned<String>,
    pub(super) node: Node,
}

/// Tables whose keys are names chosen by the user: a field may be called `file`.
const FREE_NAMES: [&str; 3] = ["set", "fields", "headers"];

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| *entry.key == key)
    }

    /// Merges `over` into this table: tables are merged key by key, all other values are replaced.
    pub(super) fn merge(&mut self, over: Table) {
        for entry in over.entries {
            match self.entries.iter_mut().find(|mine| *mine.key == *entry.key) {
                None => self.entries.push(entry),
                Some(mine) => match (&mut mine.node.value, entry.node.value) {
                    (Value::Table(base), Value::Table(over))
                        if FREE_NAMES.contains(&mine.key.as_str()) || !(base.is_reference() && over.is_reference()) =>
                    {
                        base.merge(over);
                    }
                    (_, value) => {
                        mine.key = entry.key;
                        mine.node = Spanned::new(value, entry.node.span);
                    }
                },
            }
        }
    }

    /// Whether the table is `{ env = … }`, `{ file = … }` or `{ subject = … }`. These are alternatives, so a later one replaces an earlier one
    /// instead of being merged with it. A section such as `[log]` or `[pipelines]` may have a key by such a name; it does not count if its value is a
    /// table.
    fn is_reference(&self) -> bool {
        matches!(&self.entries[..], [only] if matches!(only.key.as_str(), "env" | "file" | "subject")
            && !matches!(only.node.value, Value::Table(_)))
    }
}

/// Parses a file. Despite syntax errors, it returns whatever can be read.
pub(super) fn parse(sources: &Sources, file: FileId, text: &str, findings: &mut Vec<Diagnostic>) -> Node {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut lines = HashSet::new();
    // The line of the last header with the wrong number of brackets.
    let mut joined = None;
    for error in errors {
        let range = error.span().unwrap_or(0..0);
        let before = text.as_bytes().get(..range.start).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count();
        if !lines.insert(line) {
            continue; // The parser continues after an error; one error per line is enough.
        }
        let span = Span {
            file,
            start: range.start,
            end: range.end,
        };
        let (message, label) = match error.message().split_once(", expected ") {
            Some((what, expected)) => (what, format!("expected {expected}")),
            None => (error.message(), String::new()),
        };
        let of_header = header(text, line).filter(|_| message.contains("duplicate"));
        let itself = of_header.filter(|(at, _)| *at == line);
        let help = match of_header.and_then(|(at, header)| Some((at, brackets(header)?))) {
            Some((at, help)) if at == line => {
                joined = Some(at);
                Some(help)
            }
            // TOML reads the keys of such a section into the first one of its name.
            Some((at, _)) if joined == Some(at) => continue,
            _ => match itself.and_then(|(at, header)| single_before(text, at, header)) {
                // The header that has to change is named once.
                Some((first, _)) if !lines.insert(first) => continue,
                Some((_, help)) => Some(help),
                None => remedy(message).map(str::to_owned),
            },
        };
        let mut finding = Diagnostic::error(codes::SYNTAX, format!("not TOML: {message}")).at(sources, span, label);
        if let Some(help) = help {
            finding = finding.help(help);
        }
        if let Some(place) = &mut finding.place
            && !text.split('\n').nth(place.line - 1).is_some_and(reads_as_a_line)
        {
            place.text = "***".to_owned();
            (place.underline_start, place.underline_length) = (0, 1);
        }
        findings.push(finding);
    }
    Spanned::new(
        Value::Table(table(file, 0, root.get_ref())),
        Span { file, start: 0, end: 0 },
    )
}

/// Parses the value of an environment variable, which starts at `offset` of its source: as TOML if possible, otherwise as a string.
pub(super) fn parse_value(file: FileId, offset: usize, text: &str) -> Node {
    match DeValue::parse(text) {
        Ok(value) => node(file, offset, value.span(), value.get_ref()),
        Err(_) => Spanned::new(
            Value::String(text.to_owned()),
            Span {
                file,
                start: offset,
                end: offset + text.len(),
            },
        ),
    }
}

/// Whether a line is recognisably TOML on its own. Any other line may be part of a secret, without its key: a line of a private key whose quote is
/// not closed.
fn reads_as_a_line(line: &str) -> bool {
    // A table inside a list may span several lines.
    let line = line.trim().trim_start_matches(['{', ' ']);
    if line.is_empty() || line.starts_with(['[', '#', ']', '}']) {
        return true;
    }
    let Some((key, value)) = line.split_once('=') else {
        return false;
    };
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"' | '\'');
    let quotes = key.matches(['"', '\'']).count();
    // Base64 may end in `=`, so a value of only `=` does not count.
    let is_filled = value.contains(|c: char| c != '=' && !c.is_whitespace());
    !key.is_empty() && key.trim_end().chars().all(is_key) && quotes.is_multiple_of(2) && is_filled
}

/// The last header of a section up to this line, with its own line.
fn header(text: &str, line: usize) -> Option<(usize, &str)> {
    let lines = text.split('\n').map(str::trim_start).enumerate().take(line + 1);
    lines.filter(|(_, line)| line.starts_with('[')).last()
}

/// The remedy for a header that TOML finds twice because it has the wrong number of brackets.
fn brackets(header: &str) -> Option<String> {
    let path = header.trim_start_matches('[').split(']').next()?;
    match path.strip_prefix("pipelines.")?.split_once('.') {
        Some((_, "steps")) if !header.starts_with("[[") => Some(double_brackets(path)),
        None if header.starts_with("[[") => Some(single_brackets(path)),
        _ => None,
    }
}

/// If a header of steps is right, but an earlier one of the same name is in single brackets: the line of that one, and the remedy for it.
fn single_before(text: &str, at: usize, header: &str) -> Option<(usize, String)> {
    let path = header.strip_prefix("[[")?.split(']').next()?;
    let (_, "steps") = path.strip_prefix("pipelines.")?.split_once('.')? else {
        return None;
    };
    let single = format!("[{path}]");
    let mut before = text.split('\n').take(at);
    let first = before.position(|line| line.trim_start().starts_with(single.as_str()))?;
    let help = format!("line {} has `{single}`: {}", first + 1, double_brackets(path));
    Some((first, help))
}

/// The remedy for steps that are not a list.
pub(super) fn double_brackets(path: &str) -> String {
    format!("write `[[{path}]]`, in double brackets, once for each step")
}

/// The remedy for a section that is a list.
pub(super) fn single_brackets(path: &str) -> String {
    format!("write `[{path}]`, in single brackets")
}

/// The usual remedy for a syntax error of the TOML parser.
fn remedy(message: &str) -> Option<&'static str> {
    let remedies = [
        (
            "basic string",
            "a quote ends on the line where it begins; text over several lines needs three quotes",
        ),
        (
            "duplicate",
            "a key or section is written once: remove one of them, or join them",
        ),
        ("string", "text needs quotes: key = \"value\""),
        ("array", "a list is written [\"a\", \"b\"], and ends with `]`"),
        (
            "inline table",
            "a table on one line is written { key = \"value\", other = 1 }",
        ),
        (
            "table",
            "a section begins with its name in brackets on a line of its own: [kafka]",
        ),
        (
            "key",
            "a line is `key = value`; a key with dots or spaces in its name needs quotes",
        ),
        ("value", "text needs quotes: key = \"value\""),
        ("extra `=`", "a line is `key = value`; text needs quotes"),
    ];
    remedies
        .iter()
        .find(|(word, _)| message.contains(word))
        .map(|(_, help)| *help)
}

fn table(file: FileId, offset: usize, table: &DeTable<'_>) -> Table {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| {
            let range = key.span();
            let span = Span {
                file,
                start: offset + range.start,
                end: offset + range.end,
            };
            let node = node(file, offset, value.span(), value.get_ref());
            Entry {
                key: Spanned::new(key.get_ref().to_string(), span),
                node,
            }
        })
        .collect();
    entries.sort_by_key(|entry| entry.key.span.start);
    Table { entries }
}

fn node(file: FileId, offset: usize, range: std::ops::Range<usize>, value: &DeValue<'_>) -> Node {
    let span = Span {
        file,
        start: offset + range.start,
        end: offset + range.end,
    };
    let value = match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(array) => Value::Array(
            array
                .iter()
                .map(|item| node(file, offset, item.span(), item.get_ref()))
                .collect(),
        ),
        DeValue::Table(inner) => Value::Table(table(file, offset, inner)),
    };
    Spanned::new(value, span)
}
