//! Environment variables over files: `MESSINA__KAFKA__BROKERS=…` is `kafka.brokers`.
//!
//! Each variable is a source of its own, `NAME=value`, so that a finding shows the variable as it shows a line of a file.

use super::codes;
use super::diagnostic::Diagnostic;
use super::document::{self, Entry, Table, Value};
use super::{Sources, Span, Spanned};

/// Variables that begin with this are the configuration's.
const PREFIX: &str = "MESSINA__";
const SEPARATOR: &str = "__";

/// Lays the variables onto `root`, in the order of their names, so that the more specific one wins.
pub(super) fn overlay(
    root: &mut Table,
    variables: impl Iterator<Item = (String, String)>,
    sources: &mut Sources,
    findings: &mut Vec<Diagnostic>,
) {
    let mut variables: Vec<_> = variables.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort();
    for (name, value) in variables {
        let file = sources.add_variable(&name, &value);
        let mut keys = Vec::new();
        let mut start = PREFIX.len();
        for segment in name[PREFIX.len()..].split(SEPARATOR) {
            keys.push(Spanned::new(
                segment.to_owned(),
                Span {
                    file,
                    start,
                    end: start + segment.len(),
                },
            ));
            start += segment.len() + SEPARATOR.len();
        }
        if keys.iter().any(|key| key.is_empty()) {
            let message = format!("the environment variable `{name}` names no key");
            let span = Span {
                file,
                start: 0,
                end: name.len(),
            };
            let finding =
                Diagnostic::error(codes::ENV_NAME, message).at(sources, span, "an empty part between underscores");
            findings.push(finding.help("two underscores stand for a dot: MESSINA__KAFKA__BROKERS is kafka.brokers"));
            continue;
        }
        resolve(root, &mut keys);
        let mut node = document::parse_value(file, name.len() + 1, &value);
        while let Some(key) = keys.pop() {
            let span = key.span;
            node = Spanned::new(
                Value::Table(Table {
                    entries: vec![Entry { key, node }],
                }),
                span,
            );
        }
        if let Value::Table(over) = node.value {
            root.merge(over);
        }
    }
}

/// Gives each key the spelling of the files, where there is such a key: variables know neither lower case nor hyphens.
fn resolve(root: &Table, keys: &mut [Spanned<String>]) {
    let plain = |key: &str| key.to_ascii_lowercase().replace('-', "_");
    let mut table = Some(root);
    for key in keys {
        key.value = plain(&key.value);
        let found = table.and_then(|t| t.entries.iter().find(|entry| plain(&entry.key) == key.value));
        table = found.and_then(|entry| match &entry.node.value {
            Value::Table(inner) => Some(inner),
            _ => None,
        });
        if let Some(entry) = found {
            key.value = entry.key.value.clone();
        }
    }
}
