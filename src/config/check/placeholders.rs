//! Warns of `${NAME}` in the configuration: nothing replaces it, so it would be a name, an address or a password as it is.
//!
//! It goes over the document, so that no key is forgotten. It is a warning, because a password or an expression may contain such a text.

use super::super::codes;
use super::super::document::{Node, Table, Value};
use super::super::redact::is_secret_name;
use super::Report;

pub(super) fn check(report: &mut Report<'_>) {
    let sources = report.sources;
    table(&sources.document, &[], false, report);
}

/// `path` has the keys down to this table. `listed` says that one of them holds a list with the table in it.
fn table(table: &Table, path: &[&str], listed: bool, report: &mut Report<'_>) {
    for entry in &table.entries {
        let mut path = path.to_vec();
        path.push(entry.key.as_str());
        value(&entry.node, &path, listed, report);
    }
}

fn value(node: &Node, path: &[&str], listed: bool, report: &mut Report<'_>) {
    match &node.value {
        Value::String(text) if has_placeholder(text) => {
            let message = format!("nothing replaces the placeholder in `{}`", path.join("."));
            let help = remedy(path, listed, report.sources.is_environment(node.span));
            report.warning(codes::MALFORMED, message, node.span, "taken as it is", help);
        }
        Value::Table(inner) => table(inner, path, listed, report),
        Value::Array(items) => {
            for item in items {
                let listed = listed || matches!(item.value, Value::Table(_));
                value(item, path, listed, report);
            }
        }
        Value::String(_) | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime => {}
    }
}

fn has_placeholder(text: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let mut after = text.split("${").skip(1);
    after.any(|rest| rest.starts_with(is_first) && rest.contains('}'))
}

/// `variable` says that the value comes from an environment variable.
fn remedy(path: &[&str], listed: bool, variable: bool) -> String {
    if is_part_of_reference(path) {
        let own = match path.last() {
            Some(&"file") => "write the path itself: nothing replaces a placeholder in it",
            _ => "write the name itself, without ${}",
        };
        return own.to_owned();
    }
    if variable {
        return "write the value itself".to_owned();
    }
    if is_secret(path) {
        return "write { env = \"NAME\" } with the name of the variable, or { file = \"PATH\" }".to_owned();
    }
    if listed {
        return "write the value itself: no variable sets a single item of a list".to_owned();
    }
    // A dot within the name of a property stands for two underscores as well.
    let variable = path
        .join("__")
        .replace('.', "__")
        .replace('-', "_")
        .to_ascii_uppercase();
    format!("set MESSINA__{variable} in the environment, and leave the key out here")
}

fn is_secret(path: &[&str]) -> bool {
    // What a field or a marker is set to is an expression, whatever its name.
    !matches!(path, [.., "bind" | "set", _])
        && (path.last().is_some_and(|key| is_secret_name(key)) || path.contains(&"headers"))
}

/// Whether the value is the name within `{ env = "NAME" }` or the path within `{ file = "PATH" }`.
fn is_part_of_reference(path: &[&str]) -> bool {
    match path {
        // A header may have such a name.
        [.., "headers", _] => false,
        // Any property may be a secret, but only `file` is also the end of a property's name.
        [of @ .., "env"] => is_secret(of) || of.contains(&"properties"),
        [of @ .., "file"] => is_secret(of),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_has_a_name() {
        for text in ["${A}", "a-${b_1}-c", "${_}", "$${A:-x}", "${ ${A}"] {
            assert!(has_placeholder(text), "{text}");
        }
        for text in ["", "$A", "${", "${}", "${1}", "${A", "a$}{b", "$ {A}"] {
            assert!(!has_placeholder(text), "{text}");
        }
    }

    #[test]
    fn the_remedy_names_the_variable_of_the_key() {
        for (path, says) in [
            (&["kafka", "brokers"][..], "MESSINA__KAFKA__BROKERS "),
            (
                &["kafka", "properties", "sasl.username"][..],
                "MESSINA__KAFKA__PROPERTIES__SASL__USERNAME ",
            ),
            (
                &["pipelines", "user-events", "source", "group"][..],
                "MESSINA__PIPELINES__USER_EVENTS__SOURCE__GROUP ",
            ),
            (&["kafka", "properties", "sasl.password"][..], "{ env = "),
            (&["tracing", "headers", "x-a"][..], "{ env = "),
            (&["tracing", "headers", "env"][..], "{ env = "),
            (&["log", "file"][..], "MESSINA__LOG__FILE "),
            (
                &["pipelines", "p", "sink", "set", "token"][..],
                "MESSINA__PIPELINES__P__SINK__SET__TOKEN ",
            ),
        ] {
            let help = remedy(path, false, false);
            assert!(help.contains(says), "{help}");
        }
        let marker = remedy(&["pipelines", "p", "steps", "bind", "token"], true, false);
        assert!(marker.starts_with("write the value itself: "), "{marker}");
    }

    #[test]
    fn within_a_reference_or_a_variable_the_remedy_is_the_text_itself() {
        for path in [
            &["scylla", "password", "env"][..],
            &["scylla", "password", "file"][..],
            &["tracing", "headers", "x-a", "env"][..],
            &["kafka", "properties", "sasl.username", "env"][..],
        ] {
            for variable in [false, true] {
                let what = if path.ends_with(&["file"]) { "path" } else { "name" };
                let told = remedy(path, false, variable);
                assert!(told.starts_with(&format!("write the {what} itself")), "{told}");
            }
        }
        for path in [&["kafka", "brokers"][..], &["scylla", "password"][..]] {
            assert_eq!(remedy(path, false, true), "write the value itself");
        }
    }
}
