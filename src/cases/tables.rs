//! The tables of a case file in the embedded store: declared in CQL, filled with a case's rows, and read back as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json};

use super::from_json::from_json;
use crate::avro::json::to_json;
use crate::avro::value::Value;
use crate::store::sqlite::SqliteStore;
use crate::store::types::result_type;
use crate::store::{ColumnType, Rows, Statement, StatementOptions, Store, StoreError};

/// A write timestamp older than any record's, so that whatever a pipeline writes wins.
const BEFORE: i64 = 1;
/// The most rows of a table that are read back.
const MOST: usize = 10_000;

/// Rows in the form in which they are compared: without nulls, by table.
pub type Contents = BTreeMap<String, Vec<Json>>;

/// The tables, and the statement that reads each.
pub struct Tables {
    store: SqliteStore,
    reads: BTreeMap<String, Statement>,
}

impl Tables {
    /// Creates the tables.
    ///
    /// # Errors
    /// In words, what is wrong with a declaration.
    pub async fn create(store: SqliteStore, declared: &BTreeMap<String, String>) -> Result<Tables, String> {
        let mut reads = BTreeMap::new();
        for (name, columns) in declared {
            let wrong = |e: StoreError| format!("tables.{name}: {}", e.message);
            let sql = format!("CREATE TABLE {} ({}) WITHOUT ROWID", quoted(name), in_sqlite(columns));
            store.execute_script(&sql).await.map_err(wrong)?;
            let options = StatementOptions {
                rows: Rows::List {
                    max: MOST,
                    truncate: false,
                },
                scan: true,
                ..StatementOptions::lookup()
            };
            let all = store
                .prepare(&format!("SELECT * FROM {}", quoted(name)), &options)
                .await;
            let all = all.map_err(wrong)?;
            if let Some(column) = all.columns().iter().find(|c| c.ty == ColumnType::Any) {
                return Err(format!(
                    "tables.{name}: column {} has no CQL type; user-defined types and static columns are not supported",
                    column.name
                ));
            }
            let names: Vec<_> = all.columns().iter().map(|c| quoted(&c.name)).collect();
            // Select columns by name, because a write may add columns that belong to Messina.
            let select = format!("SELECT {} FROM {}", names.join(", "), quoted(name));
            reads.insert(name.clone(), store.prepare(&select, &options).await.map_err(wrong)?);
        }
        Ok(Tables { store, reads })
    }

    /// Replaces the content of all tables with these rows.
    ///
    /// # Errors
    /// In words, what does not fit, and where.
    pub async fn fill(&self, rows: &BTreeMap<String, Vec<toml::Table>>) -> Result<(), String> {
        let clear: Vec<_> = self
            .reads
            .keys()
            .map(|name| format!("DELETE FROM {}", quoted(name)))
            .collect();
        self.store
            .execute_script(&clear.join(";\n"))
            .await
            .map_err(|e| e.message)?;
        for (name, rows) in rows {
            let Some(read) = self.reads.get(name) else {
                return Err(format!(
                    "rows.{name}: there is no such table; declare its columns under [tables]"
                ));
            };
            for (number, row) in rows.iter().enumerate() {
                let place = |what: String| format!("rows.{name}[{number}].{what}");
                let mut values = Vec::new();
                for (column, value) in row {
                    let Some(known) = read.columns().iter().find(|c| c.name == *column) else {
                        return Err(place(format!("{column}: the table has no such column")));
                    };
                    let json = toml_to_json(value);
                    let value =
                        from_json(&json, &result_type(&known.ty)).map_err(|e| place(format!("{column}: {e}")))?;
                    values.push(value);
                }
                let columns: Vec<_> = row.keys().map(|column| quoted(column)).collect();
                let markers: Vec<_> = (0..row.len()).map(|number| format!(":v{number}")).collect();
                let insert = format!(
                    "INSERT INTO {} ({}) VALUES ({})",
                    quoted(name),
                    columns.join(", "),
                    markers.join(", ")
                );
                let wrong = |e: StoreError| format!("rows.{name}[{number}]: {}", e.message);
                let insert = self
                    .store
                    .prepare(&insert, &StatementOptions::write())
                    .await
                    .map_err(wrong)?;
                self.store.write(&insert, &values, BEFORE).await.map_err(wrong)?;
            }
        }
        Ok(())
    }

    /// The content of the tables.
    ///
    /// # Errors
    /// In words, what cannot be read.
    pub async fn contents(&self) -> Result<Contents, String> {
        let mut contents = Contents::new();
        for (name, read) in &self.reads {
            let lists = self
                .store
                .lookup(read, &[])
                .await
                .map_err(|e| format!("table {name}: {}", e.message))?;
            let mut rows: Vec<Map<String, Json>> = Vec::new();
            for (column, list) in read.columns().iter().zip(lists.unwrap_or_default()) {
                let Value::List(values) = list else { continue };
                rows.resize_with(values.len(), Map::new);
                for (row, value) in rows.iter_mut().zip(&values) {
                    if !value.is_null() {
                        row.insert(column.name.clone(), to_json(value));
                    }
                }
            }
            contents.insert(name.clone(), rows.into_iter().map(Json::Object).collect());
        }
        Ok(contents)
    }

    /// Columns of expected rows that their tables do not have, one per line. An expected null in such a column would always match.
    pub fn unknown_columns(&self, expected: &Map<String, Json>) -> BTreeSet<String> {
        let mut unknown = BTreeSet::new();
        for (table, rows) in expected {
            let Some(read) = self.reads.get(table) else { continue };
            let rows = rows.as_array().into_iter().flatten().filter_map(Json::as_object);
            for name in rows.flat_map(|row| row.keys()) {
                if !read.columns().iter().any(|known| known.name == *name) {
                    unknown.insert(format!("rows.{table}: the table has no column {name}"));
                }
            }
        }
        unknown
    }
}

/// Converts TOML to JSON. Dates and times become text.
pub fn toml_to_json(value: &toml::Value) -> Json {
    match value {
        toml::Value::String(text) => Json::from(text.as_str()),
        toml::Value::Integer(number) => Json::from(*number),
        toml::Value::Float(number) => Json::from(*number),
        toml::Value::Boolean(value) => Json::from(*value),
        toml::Value::Datetime(time) => Json::from(time.to_string()),
        toml::Value::Array(items) => Json::Array(items.iter().map(toml_to_json).collect()),
        toml::Value::Table(table) => {
            let fields = table.iter().map(|(name, value)| (name.clone(), toml_to_json(value)));
            Json::Object(fields.collect())
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Converts CQL's column list to SQLite's syntax: quotes types with parameters, and removes the inner parentheses of a composite partition
/// key.
fn in_sqlite(columns: &str) -> String {
    let mut out = String::with_capacity(columns.len() + 8);
    let (mut angles, mut word) = (0_usize, 0);
    for c in columns.chars() {
        match c {
            '<' => {
                if angles == 0 {
                    out.insert(word, '"');
                }
                angles += 1;
                out.push(c);
            }
            '>' => {
                angles = angles.saturating_sub(1);
                out.push(c);
                if angles == 0 {
                    out.push('"');
                }
            }
            _ => {
                out.push(c);
                if angles == 0 && !(c.is_alphanumeric() || c == '_') {
                    word = out.len();
                }
            }
        }
    }
    let Some(at) = out.to_ascii_lowercase().rfind("primary key") else {
        return out;
    };
    let Some(open) = out[at..].find('(').map(|open| at + open) else {
        return out;
    };
    let inner: String = out[open + 1..].chars().filter(|c| !matches!(c, '(' | ')')).collect();
    format!("{}({inner})", &out[..open])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_of_cql_become_columns_of_sqlite() {
        assert_eq!(
            in_sqlite("id text PRIMARY KEY, n bigint"),
            "id text PRIMARY KEY, n bigint"
        );
        assert_eq!(
            in_sqlite("a text, b frozen<map<text, int>>, PRIMARY KEY ((a, c), d)"),
            "a text, b \"frozen<map<text, int>>\", PRIMARY KEY (a, c, d)"
        );
        assert_eq!(in_sqlite("a text, PRIMARY KEY (a)"), "a text, PRIMARY KEY (a)");
        assert_eq!(
            in_sqlite("a text, b int, PRIMARY KEY ((a), b DESC)"),
            "a text, b int, PRIMARY KEY (a, b DESC)"
        );
    }

    /// A table `t` with these columns. Keep the `Scratch` for as long as the table is used: it holds the database.
    async fn table(columns: &str) -> (crate::demo::cluster::Scratch, Result<Tables, String>) {
        let scratch = crate::demo::cluster::Scratch::new().unwrap();
        let options = crate::store::sqlite::SqliteOptions::new(scratch.database());
        let declared = [("t".to_owned(), columns.to_owned())].into();
        let tables = Tables::create(SqliteStore::open(&options).unwrap(), &declared).await;
        (scratch, tables)
    }

    #[tokio::test]
    async fn a_type_that_is_none_is_refused_with_its_column() {
        for kind in ["txt", "int static", "frozen<address>", "list<address>", ""] {
            let (_scratch, tables) = table(&format!("id text PRIMARY KEY, x {kind}")).await;
            let refused = tables.err().unwrap();
            assert!(
                refused.starts_with("tables.t: column x has no CQL type"),
                "{kind}: {refused}"
            );
        }
    }

    #[tokio::test]
    async fn rows_are_in_the_order_of_the_primary_key() {
        let (_scratch, tables) = table("k text, at bigint, PRIMARY KEY ((k), at DESC)").await;
        let tables = tables.unwrap();
        let rows = "t = [{ k = \"a\", at = 1 }, { k = \"a\", at = 3 }, { k = \"a\", at = 2 }]";
        tables.fill(&toml::from_str(rows).unwrap()).await.unwrap();
        let expected = json!([{"k": "a", "at": 3}, {"k": "a", "at": 2}, {"k": "a", "at": 1}]);
        assert_eq!(json!(tables.contents().await.unwrap()["t"]), expected);
    }

    #[tokio::test]
    async fn rows_read_back_as_they_were_filled_in() {
        let (_scratch, tables) =
            table("id bigint, at timestamp, tags list<text>, d decimal, PRIMARY KEY ((id), at)").await;
        let tables = tables.unwrap();
        let rows = |text: &str| toml::from_str(text).unwrap();
        let full =
            rows("t = [{ id = 2, at = 2026-01-02T03:04:05Z, tags = [\"x\"], d = \"1.50\" }, { id = 1, at = 7 }]");
        tables.fill(&full).await.unwrap();
        let expected = json!([
            {"id": 1, "at": "1970-01-01T00:00:00.007Z"},
            {"id": 2, "at": "2026-01-02T03:04:05.000Z", "tags": ["x"], "d": "1.50"}
        ]);
        assert_eq!(json!(tables.contents().await.unwrap()["t"]), expected);
        tables.fill(&BTreeMap::new()).await.unwrap();
        assert_eq!(tables.contents().await.unwrap()["t"], Vec::<Json>::new());
        for (wrong, said) in [
            ("u = [{}]", "rows.u: there is no such table"),
            ("t = [{ ix = 1 }]", "rows.t[0].ix: the table has no such column"),
            (
                "t = [{ id = \"x\" }]",
                "rows.t[0].id: the value: expected a whole number of 64 bits",
            ),
        ] {
            let error = tables.fill(&rows(wrong)).await.unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
        let expected = json!({
            "t": [{"id": 1, "tags": null, "tag": null}, {"tag": null, "messina_timestamp": 1}, 7],
            "u": [{"x": 1}],
        });
        let unknown: Vec<String> = tables
            .unknown_columns(expected.as_object().unwrap())
            .into_iter()
            .collect();
        assert_eq!(
            unknown,
            [
                "rows.t: the table has no column messina_timestamp",
                "rows.t: the table has no column tag"
            ]
        );
    }
}
