//! Compares two configurations as written. Comments, positions, and the order of sections and keys make no difference.

use std::collections::BTreeSet;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::document::{Entry, Table, Value};
use super::{Sources, codes};

/// The differences between two configurations.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names of pipelines that were added, removed or changed, including a change in the file of their output schema.
    pub pipelines: BTreeSet<String>,
    /// Sections of the process that changed: `kafka`, `limits` and so on.
    pub sections: BTreeSet<String>,
}

/// Compares the running configuration with the one that is to replace it.
pub fn changes(running: &Sources, wanted: &Sources) -> Changes {
    // If a pipeline names another schema file, or none any more, its own table differs too.
    let differs = |(name, text): &(&String, &Option<String>)| running.schemas.get(*name) != Some(*text);
    let schemas = wanted.schemas.iter().filter(differs).map(|(name, _)| name.clone());
    let (running, wanted) = (&running.document, &wanted.document);
    let none = Table::default();
    let pipelines = |document| pipelines(document).unwrap_or(&none);
    let mut pipelines = different(pipelines(running), pipelines(wanted));
    pipelines.extend(schemas);
    let mut sections = different(running, wanted);
    sections.remove("pipelines");
    Changes { pipelines, sections }
}

fn pipelines(document: &Table) -> Option<&Table> {
    match &document.get("pipelines")?.node.value {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

/// Keys whose values differ, or that only one of the tables has.
fn different(one: &Table, other: &Table) -> BTreeSet<String> {
    let keys = one.entries.iter().chain(&other.entries).map(|entry| entry.key.as_str());
    let differs = |key: &&str| match (value(one, key), value(other, key)) {
        (Some(one), Some(other)) => !same(one, other),
        _ => true,
    };
    keys.filter(differs).map(str::to_owned).collect()
}

/// The order of keys matters only in `set`: the output has its fields in that order.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Table(one), Value::Table(other)) => {
            let found = |entry: &Entry| match (entry.key.as_str(), other.get(&entry.key)) {
                (_, None) => false,
                ("set", Some(there)) => entry.node == there.node,
                (_, Some(there)) => same(&entry.node.value, &there.node.value),
            };
            one.entries.len() == other.entries.len() && one.entries.iter().all(found)
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(&one.value, &other.value))
        }
        _ => one == other,
    }
}

fn value<'t>(table: &'t Table, key: &str) -> Option<&'t Value> {
    table.get(key).map(|entry| &entry.node.value)
}

impl Changes {
    /// A finding for each section that a running process cannot apply, at its place in `wanted`.
    pub fn refused(&self, wanted: &Sources) -> Diagnostics {
        let finding = |section: &String| {
            let message = format!("`{section}` changed, which a running process cannot apply");
            let finding = Diagnostic::error(codes::NEEDS_RESTART, message);
            let finding = match wanted.document.get(section) {
                Some(entry) => finding.at(wanted, entry.key.span, "not what the process was started with"),
                None => finding,
            };
            finding.help("restart the process, which drains first; or put it back as it was, and only the pipelines are replaced")
        };
        Diagnostics::new(self.sections.iter().map(finding).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{load, load_str};

    const BASE: &str = r#"
store = "sqlite:a.db"
[kafka]
brokers = "b:9092"
[registry]
url = "http://r:8081"
[pipelines.one]
source = { topics = ["t"], group = "g" }
steps = [{ name = "w", write = "INSERT INTO t (a) VALUES (:a)", bind = { a = "id" } }]
[pipelines.two]
source = { topics = ["u"], group = "g" }
steps = [{ name = "w", write = "INSERT INTO t (a) VALUES (:a)", bind = { a = "id" } }]
"#;

    fn sources(text: &str, env: &[(&str, &str)]) -> Sources {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let loaded = load_str(vec![("m.toml".to_owned(), text.to_owned())], env);
        loaded.unwrap_or_else(|e| panic!("{}", e.human(false))).1
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn of(text: &str) -> Changes {
        changes(&sources(BASE, &[]), &sources(text, &[]))
    }

    #[test]
    fn a_comment_or_another_place_changes_nothing() {
        let (head, two) = BASE.split_once("[pipelines.two]").unwrap();
        let (head, one) = head.split_once("[pipelines.one]").unwrap();
        let moved = format!("# A comment.\n{head}\n[pipelines.two]{two}\n[pipelines.one] # First.\n{one}");
        assert_eq!(of(&moved), Changes::default());
    }

    #[test]
    fn the_order_of_keys_changes_nothing_but_in_set() {
        let with = |kafka: &str, step: &str| {
            let text = BASE.replace("brokers = \"b:9092\"", kafka);
            sources(
                &format!(
                    "{text}[[pipelines.three.steps]]\n{step}[pipelines.three.source]\ngroup = \"g\"\ntopics = \"v\"\n"
                ),
                &[],
            )
        };
        let step = "name = \"s\"\nset = { a = \"event.a\", b = \"event.b\" }\n";
        let before = with("brokers = \"b:9092\"\nproperties = {}", step);
        let swapped = "set = { a = \"event.a\", b = \"event.b\" }\nname = \"s\"\n";
        let after = with("properties = {}\nbrokers = \"b:9092\"", swapped);
        assert_eq!(changes(&before, &after), Changes::default());
        let set = "name = \"s\"\nset = { b = \"event.b\", a = \"event.a\" }\n";
        let after = with("brokers = \"b:9092\"\nproperties = {}", set);
        assert_eq!(changes(&before, &after).pipelines, names(&["three"]));
    }

    #[test]
    fn pipelines_that_came_went_or_changed_are_named() {
        let changed = BASE.replace("[\"u\"]", "[\"v\"]");
        assert_eq!(of(&changed).pipelines, names(&["two"]));
        let renamed = BASE.replace("[pipelines.two]", "[pipelines.three]");
        assert_eq!(of(&renamed).pipelines, names(&["two", "three"]));
        let gone = BASE.split_once("[pipelines.two]").unwrap().0;
        assert_eq!(of(gone).pipelines, names(&["two"]));
        assert_eq!(of(gone).sections, names(&[]));
    }

    #[test]
    fn another_text_in_the_file_of_an_output_schema_is_a_change_of_its_pipeline() {
        let path = |what: &str| std::env::temp_dir().join(format!("messina-changes-{}.{what}", std::process::id()));
        let (toml, schema) = (path("toml"), path("avsc"));
        let sink = format!(
            "[pipelines.two]\nsink = {{ topic = \"o\", schema = {{ file = '{}' }} }}",
            schema.display()
        );
        std::fs::write(&toml, BASE.replace("[pipelines.two]", &sink)).unwrap();
        let sources = |text: &str| {
            std::fs::write(&schema, text).unwrap();
            let loaded = load(std::slice::from_ref(&toml), std::iter::empty());
            loaded.unwrap_or_else(|e| panic!("{}", e.human(false))).1
        };
        let (one, same, other) = (sources("\"int\""), sources("\"int\""), sources("\"long\""));
        for path in [toml, schema] {
            std::fs::remove_file(path).unwrap();
        }
        assert_eq!(changes(&one, &same), Changes::default());
        let changed = changes(&one, &other);
        assert_eq!((changed.pipelines, changed.sections), (names(&["two"]), names(&[])));
    }

    #[test]
    fn a_section_of_the_process_is_refused_at_its_place() {
        let changed = BASE.replace("b:9092", "c:9092");
        let wanted = sources(&changed, &[]);
        let changes = changes(&sources(BASE, &[]), &wanted);
        assert_eq!(
            (changes.sections.clone(), changes.pipelines.clone()),
            (names(&["kafka"]), names(&[]))
        );
        let text = changes.refused(&wanted).human(false);
        assert!(text.contains("MES0004") && text.contains("m.toml:3:"), "{text}");
        let without = of(&BASE.replace("store = \"sqlite:a.db\"", "[scylla]\nnodes = \"n\"\nkeyspace = \"k\""));
        assert_eq!(without.sections, names(&["scylla", "store"]));
    }

    #[test]
    fn variables_count_as_what_they_say() {
        let env = [("MESSINA__PIPELINES__ONE__SOURCE__GROUP", "h")];
        let changes = changes(&sources(BASE, &env), &sources(BASE, &[]));
        assert_eq!((changes.pipelines, changes.sections), (names(&["one"]), names(&[])));
    }
}
