//! Environment variables that override files: `MESSINA__KAFKA__BROKERS=…` is `kafka.brokers`.
//!
//! Each variable is its own source, `NAME=value`, so that a finding shows the variable as it shows a line of a file.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::codes;
use super::diagnostic::Diagnostic;
use super::document::{self, Entry, Table, Value};
use super::secret::without_line_break;
use super::suggest::list;
use super::{Sources, Span, Spanned};

/// Variables with this prefix, in upper or lower case, belong to the configuration.
const PREFIX: &str = "MESSINA__";
const SEPARATOR: &str = "__";

/// The process's environment variables that belong to the configuration. All others are ignored, even if they are not UTF-8.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    of_configuration(std::env::vars_os())
}

fn of_configuration(all: impl Iterator<Item = (OsString, OsString)>) -> impl Iterator<Item = (String, String)> {
    let text = |(name, value): (OsString, OsString)| {
        let name = name.into_string().ok().filter(|name| is_ours(name))?;
        Some((name, value.to_string_lossy().into_owned()))
    };
    all.filter_map(text)
}

fn is_ours(name: &str) -> bool {
    name.get(..PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// Merges the variables into `root`, sorted by name, so that the more specific one wins.
pub(super) fn overlay(
    root: &mut Table,
    variables: impl Iterator<Item = (String, String)>,
    sources: &mut Sources,
    findings: &mut Vec<Diagnostic>,
) {
    let mut variables: Vec<_> = variables.filter(|(name, _)| is_ours(name)).collect();
    variables.sort_by_cached_key(|(name, _)| (name.to_ascii_uppercase(), name.clone()));
    // Which variable has set which path.
    let mut set: BTreeMap<Vec<String>, Span> = BTreeMap::new();
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
        if let Some((span, alike)) = resolve(root, &mut keys) {
            let alike: Vec<&str> = alike.iter().map(String::as_str).collect();
            let message = format!("the environment variable `{name}` may mean {}", list(&alike));
            let finding = Diagnostic::error(codes::ENV_NAME, message).at(sources, span, "in another spelling");
            findings.push(finding.help("spell it as the files do"));
            continue;
        }
        let span = Span {
            file,
            start: 0,
            end: name.len(),
        };
        let path = keys.iter().map(|key| key.value.clone()).collect();
        if let Some(other) = set.insert(path, span) {
            let message = format!("the environment variable `{name}` sets the same key as another one");
            let finding = Diagnostic::error(codes::CONFLICT, message).at(sources, span, "the same key");
            findings.push(finding.with(sources, other, "as here").help("remove one of them"));
            continue;
        }
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

/// Spells each key as the files do, if they have it, because variables usually have neither lower case nor hyphens. If a key matches several keys and
/// none exactly, returns its position and those keys.
fn resolve(root: &Table, keys: &mut [Spanned<String>]) -> Option<(Span, Vec<String>)> {
    let plain = |key: &str| key.to_ascii_lowercase().replace('-', "_");
    let mut table = Some(root);
    for key in keys {
        let entries = table.map_or(&[][..], |table| &table.entries);
        let alike = entries.iter().filter(|entry| plain(&entry.key) == plain(&key.value));
        let alike: Vec<&Entry> = alike.collect();
        let exact = alike.iter().find(|entry| *entry.key == key.value).copied();
        let found = match (exact, &alike[..]) {
            (Some(entry), _) => Some(entry),
            (None, []) => None,
            (None, [entry]) => Some(*entry),
            (None, several) => {
                let names = several.iter().map(|entry| entry.key.value.clone());
                return Some((key.span, names.collect()));
            }
        };
        key.value = match found {
            Some(entry) => entry.key.value.clone(),
            None => key.value.to_ascii_lowercase(),
        };
        table = found.and_then(|entry| match &entry.node.value {
            Value::Table(inner) => Some(inner),
            _ => None,
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;
    use crate::config::{Config, load_str};

    #[test]
    fn variables_that_are_no_text_are_told_if_they_are_the_configurations() {
        let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let all = [
            (bytes(b"\xffOTHER"), bytes(b"x")),
            (bytes(b"OTHER"), bytes(b"\xff")),
            (bytes(b"messina__http__listen"), bytes(b"127.0.0.1:1")),
            (bytes(b"MESSINA_HTTP__LISTEN"), bytes(b"127.0.0.1:2")),
            (bytes(b"MESSINA__STORE"), bytes(b"sqlite:\xff")),
        ];
        let variables: Vec<_> = of_configuration(all.into_iter()).collect();
        assert_eq!(variables.len(), 2);
        assert_eq!(variables[0], ("messina__http__listen".into(), "127.0.0.1:1".into()));
        let found = load_str(vec![], variables.into_iter()).unwrap_err().human(false);
        assert!(
            found.contains("MESSINA__STORE` is not UTF-8") && !found.contains("listen"),
            "{found}"
        );
    }

    const BASE: &str = "[kafka]\nbrokers = \"k:1\"\n[registry]\nurl = \"http://r\"\n[tracing]\notlp = \"http://o\"\n";

    fn with(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let variables = variables
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        let loaded = load_str(vec![("m.toml".into(), format!("{BASE}{text}"))], variables);
        loaded
            .map(|(config, _)| config)
            .map_err(|findings| findings.human(false))
    }

    #[test]
    fn a_variable_is_the_configurations_in_whatever_case() {
        let config = with("", &[("messina__kafka__brokers", "other:1")]).unwrap();
        assert_eq!(*config.kafka.brokers, "other:1");
        let config = with("", &[("messina_kafka__brokers", "other:1"), ("MESSINA_X", "x")]).unwrap();
        assert_eq!(*config.kafka.brokers, "k:1");
        // The more specific one wins, in upper or lower case.
        let of_log = [
            ("messina__log", "{ level = \"debug\" }"),
            ("MESSINA__LOG__LEVEL", "warn"),
        ];
        assert_eq!(*with("", &of_log).unwrap().log.level, "warn");
        let twice = [("messina__kafka__brokers", "a:1"), ("MESSINA__KAFKA__BROKERS", "b:1")];
        let found = with("", &twice).unwrap_err();
        assert!(found.contains("MES0108") && found.contains("1 error"), "{found}");
    }

    #[test]
    fn a_name_that_no_file_has_keeps_its_hyphens() {
        let config = with("", &[("MESSINA__TRACING__HEADERS__X-Api-Key", "x")]).unwrap();
        assert_eq!(config.tracing.unwrap().headers[0].0, "x-api-key");
    }

    #[test]
    fn names_that_differ_by_case_alone_are_told_apart_by_it() {
        let pipelines = "[pipelines.Orders]\nsource = { topics = \"a\", group = \"a\" }\n\
                         [pipelines.orders]\nsource = { topics = \"b\", group = \"b\" }\n";
        let config = with(pipelines, &[("MESSINA__PIPELINES__orders__CONSUMERS", "2")]).unwrap();
        let consumers = ["Orders", "orders"].map(|name| config.pipelines[name].consumers.value);
        assert_eq!(consumers, [1, 2]);
        let found = with(pipelines, &[("MESSINA__PIPELINES__ORDERS__CONSUMERS", "2")]).unwrap_err();
        assert!(
            found.contains("MES0003") && found.contains("`Orders` or `orders`"),
            "{found}"
        );
        assert!(with(pipelines, &[]).is_ok());
    }
}
