//! Reads meaning and default of each key from `docs/configuration.md`, by the path of the key.
//!
//! The page is written by hand. A test compares it with the readers in both directions, so that it neither lacks a key nor invents one.

use serde_json::Value;

/// The page with a row for each key.
const PAGE: &str = include_str!("../../../docs/configuration.md");

/// Headings of the page with a table of keys, and the tables of the configuration that have these keys.
const HEADINGS: [(&str, &[&str]); 20] = [
    ("Top of the file", &[""]),
    ("`[kafka]`", &["kafka"]),
    ("`[registry]`", &["registry"]),
    ("`[registry.oauth]`", &["registry.oauth"]),
    ("`[scylla]`", &["scylla"]),
    ("TLS", &["registry.tls", "registry.oauth.tls", "scylla.tls"]),
    ("`[http]`, `[log]`, `[sentry]`, `[tracing]`, `[limits]`", &[""]),
    ("`[mongo]`, `[references.NAME]`", &[""]),
    ("`[pipelines.NAME]`", &["pipelines.NAME"]),
    ("`[pipelines.NAME.source]`", &["pipelines.NAME.source"]),
    ("`[[pipelines.NAME.steps]]`", &["pipelines.NAME.steps[]"]),
    ("`lookup`", &[LOOKUP]),
    ("`reference`", &["pipelines.NAME.steps[]|reference"]),
    ("`write`", &[WRITE]),
    ("Grouped writes", &[WRITE]),
    ("Errors of a step", &[LOOKUP, WRITE, CUSTOM]),
    (
        "`filter` and `set`",
        &["pipelines.NAME.steps[]|filter", "pipelines.NAME.steps[]|set"],
    ),
    ("`custom`", &[CUSTOM]),
    ("`[pipelines.NAME.sink]`", &["pipelines.NAME.sink"]),
    ("`[pipelines.NAME.dead_letter]`", &["pipelines.NAME.dead_letter"]),
];
const LOOKUP: &str = "pipelines.NAME.steps[]|lookup";
const WRITE: &str = "pipelines.NAME.steps[]|write";
const CUSTOM: &str = "pipelines.NAME.steps[]|custom";
/// Tables that the page describes only once: the copy, and where it is described.
const ALIKE: [(&str, &str); 1] = [("references.NAME.cache.", "pipelines.NAME.steps[]|lookup.cache.")];

/// The description of a key.
pub(super) struct About {
    pub(super) meaning: String,
    pub(super) default: Option<Value>,
}

/// A row of the page for one key.
struct Row {
    /// The paths that the key may have. A row that covers several kinds of step lists the path under each, although not every kind has
    /// the key.
    paths: Vec<String>,
    about: About,
}

/// All rows of the page.
pub(super) struct Descriptions(Vec<Row>);

impl Descriptions {
    pub(super) fn read() -> Self {
        let mut rows = Vec::new();
        let (mut tables, mut columns): (&[&str], Vec<&str>) = (&[], vec![]);
        for line in PAGE.lines() {
            if let Some(heading) = line.strip_prefix('#') {
                let heading = heading.trim_start_matches('#').trim();
                tables = HEADINGS
                    .iter()
                    .find(|(known, _)| *known == heading)
                    .map_or(&[], |(_, tables)| tables);
            }
            let Some(cells) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else {
                columns.clear();
                continue;
            };
            let cells: Vec<&str> = cells.split('|').map(str::trim).collect();
            if columns.is_empty() {
                columns = cells;
                continue;
            }
            if columns.first() != Some(&"key") || cells.len() != columns.len() || cells[0] == "---" {
                continue;
            }
            let cell = |name| {
                columns
                    .iter()
                    .position(|column| *column == name)
                    .map_or("", |at| cells[at])
            };
            for key in cells[0].split('`').skip(1).step_by(2) {
                rows.push(Row {
                    paths: tables.iter().map(|table| super::below(table, key)).collect(),
                    about: About {
                        meaning: plain(cell("meaning")),
                        default: default(cell("default")),
                    },
                });
            }
        }
        Self(rows)
    }

    /// The description of the key at a path. If there are several rows, the last one with a meaning.
    pub(super) fn of(&self, path: &str) -> Option<&About> {
        let mut path = path.to_owned();
        for (copy, original) in ALIKE {
            if let Some(rest) = path.strip_prefix(copy) {
                path = format!("{original}{rest}");
            }
        }
        let rows = self.0.iter().filter(|row| row.paths.contains(&path));
        rows.map(|row| &row.about).rfind(|about| !about.meaning.is_empty())
    }

    /// Rows without a path in `read`, each as the list of its possible paths.
    #[cfg(test)]
    pub(super) fn unread(&self, read: &[String]) -> Vec<&[String]> {
        let unread = |row: &&Row| !row.paths.iter().any(|path| read.contains(path));
        self.0.iter().filter(unread).map(|row| &row.paths[..]).collect()
    }
}

/// The default, if the cell holds a single value in TOML syntax.
fn default(cell: &str) -> Option<Value> {
    let value = cell.strip_prefix('`')?.strip_suffix('`')?;
    let table: toml::Table = toml::from_str(&format!("value = {value}")).ok()?;
    serde_json::to_value(table.get("value")?).ok()
}

/// The text of a cell without its links. A link that only points to another place on the page is dropped altogether.
fn plain(cell: &str) -> String {
    let mut text = String::new();
    let mut rest = cell;
    while let Some((before, link)) = rest.split_once('[') {
        let Some((label, (target, after))) = link
            .split_once("](")
            .and_then(|(label, link)| Some((label, link.split_once(')')?)))
        else {
            break;
        };
        text.push_str(before);
        // `[limits] memory` is not a link.
        if label.contains(']') {
            text.push('[');
            rest = link;
            continue;
        }
        rest = after;
        match label {
            "Below" | "Above" | "below" | "above" if target.starts_with('#') => {
                rest = rest.trim_start_matches('.').trim_start();
                text.truncate(text.trim_end_matches([':', ';', ' ']).len());
                if rest.is_empty() && !text.is_empty() && !text.ends_with('.') {
                    text.push('.');
                } else if !text.is_empty() {
                    text.push_str(". ");
                }
            }
            _ => text.push_str(label),
        }
    }
    text.push_str(rest);
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meaning_is_read_without_its_links() {
        assert_eq!(plain("[Below](#a). Without it nothing."), "Without it nothing.");
        assert_eq!(plain("[Below](#errors-of-a-step)."), "");
        assert_eq!(
            plain("Rows go together: [below](#grouped). `{}` is fine."),
            "Rows go together. `{}` is fine."
        );
        assert_eq!(
            plain("out of `[limits] memory`; see [operations](o.md#m)."),
            "out of `[limits] memory`; see operations."
        );
        assert_eq!(plain("at [SIGHUP](operations.md)"), "at SIGHUP");
        assert_eq!(plain("What is seen; [below](#exactly-once)."), "What is seen.");
    }

    #[test]
    fn a_default_is_read_as_toml() {
        assert_eq!(default("`\"30s\"`"), Some("30s".into()));
        assert_eq!(default("`1024`"), Some(1024.into()));
        assert_eq!(default("`\"5s\"`, or `ttl` if that is shorter"), None);
        assert_eq!(default("required"), None);
        assert_eq!(default(""), None);
    }
}
