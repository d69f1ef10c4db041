//! Environment variables over files: `MESSINA__KAFKA__BROKERS=…` is `kafka.brokers`.
//!
//! Each variable is a source of its own, `NAME=value`, so that a finding shows the variable as it shows a line of a file.

use std::ffi::OsString;

use super::codes;
use super::diagnostic::Diagnostic;
use super::document::{self, Entry, Table, Value};
use super::secret::without_line_break;
use super::{Sources, Span, Spanned};

/// Variables that begin with this are the configuration's.
const PREFIX: &str = "MESSINA__";
const SEPARATOR: &str = "__";

/// The process's variables of the configuration. What others hold is none of Messina's matter, be it text or not.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    of_configuration(std::env::vars_os())
}

fn of_configuration(all: impl Iterator<Item = (OsString, OsString)>) -> impl Iterator<Item = (String, String)> {
    let text = |(name, value): (OsString, OsString)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(PREFIX))?;
        Some((name, value.to_string_lossy().into_owned()))
    };
    all.filter_map(text)
}

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
        let value = without_line_break(&value);
        let file = sources.add_variable(&name, value);
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
        if value.contains(char::REPLACEMENT_CHARACTER) {
            let message = format!("the environment variable `{name}` is not UTF-8 text");
            let span = Span {
                file,
                start: name.len() + 1,
                end: name.len() + 1 + value.len(),
            };
            let finding = Diagnostic::error(codes::MALFORMED, message).at(sources, span, "not UTF-8");
            findings.push(finding.help("set it as UTF-8 text"));
            continue;
        }
        resolve(root, &mut keys);
        let mut node = document::parse_value(file, name.len() + 1, value);
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

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;
    use crate::config::load_str;

    #[test]
    fn variables_that_are_no_text_are_told_if_they_are_the_configurations() {
        let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let all = [
            (bytes(b"\xffOTHER"), bytes(b"x")),
            (bytes(b"OTHER"), bytes(b"\xff")),
            (bytes(b"MESSINA__HTTP__LISTEN"), bytes(b"127.0.0.1:1")),
            (bytes(b"MESSINA__STORE"), bytes(b"sqlite:\xff")),
        ];
        let variables: Vec<_> = of_configuration(all.into_iter()).collect();
        assert_eq!(variables.len(), 2);
        assert_eq!(variables[0], ("MESSINA__HTTP__LISTEN".into(), "127.0.0.1:1".into()));
        let found = load_str(vec![], variables.into_iter()).unwrap_err().human(false);
        assert!(
            found.contains("MESSINA__STORE` is not UTF-8") && !found.contains("LISTEN"),
            "{found}"
        );
    }
}
