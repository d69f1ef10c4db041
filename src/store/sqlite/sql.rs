//! Generates statements in SQLite's dialect from what [`super::parse`] found.
//!
//! A look-up keeps its text, except that the unexpired part of the table replaces the table. A change is rewritten as an upsert, or as a delete, that
//! older timestamps lose.

use std::fmt::Write as _;

use super::parse::{Change, Compared, Refused, Select, Term, Verb};
use super::table::Table;
use crate::store::cql::{TokenKind, scan};
use crate::store::{ColumnType, Marker};

/// The column with the timestamp of the write that won, in microseconds.
pub(super) const TIMESTAMP: &str = "messina_timestamp";
/// The column with the time at which a row expires, in milliseconds since 1970, or null.
pub(super) const EXPIRES: &str = "messina_expires";

/// A name as SQL writes it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Deletes at most this many rows that have expired by the time in its parameter. The subquery is needed because a DELETE has no LIMIT.
pub(super) fn sweep(name: &str, table: &Table, most: usize) -> String {
    let name = quoted(name);
    let key = table.key().map(quoted).collect::<Vec<_>>().join(", ");
    format!("DELETE FROM {name} WHERE ({key}) IN (SELECT {key} FROM {name} WHERE {EXPIRES} <= ?1 LIMIT {most})")
}

impl Select {
    /// The look-up in SQLite's dialect. From a table with Messina's columns it selects without them and without expired
    /// rows; the time is then one more parameter, the last.
    pub(super) fn sql(&self, table: &Table) -> String {
        let mut sql = self.text.clone();
        // From the end, so that earlier spans stay valid.
        for span in self.dropped.iter().rev() {
            sql.replace_range(span.clone(), "");
        }
        let name = quoted(&self.table);
        let source = if table.has(EXPIRES) {
            let columns: Vec<String> = table.visible().map(quoted).collect();
            let now = self.markers.len() + 1;
            format!(
                "(SELECT {} FROM {name} WHERE {EXPIRES} IS NULL OR {EXPIRES} > ?{now}) AS {name}",
                columns.join(", ")
            )
        } else {
            name
        };
        sql.replace_range(self.table_span.clone(), &source);
        // SQLite numbers named parameters by first appearance, and the time, written with its number, comes before the
        // parameters of WHERE. So every parameter is numbered explicitly.
        let scanned = scan(&sql);
        let mut numbered = sql.clone();
        for token in scanned.tokens.iter().rev().filter(|t| t.kind == TokenKind::Marker) {
            let marker = &sql[token.span.start + 1..token.span.end];
            if let Some(i) = self.markers.iter().position(|(name, ..)| name == marker) {
                numbered.replace_range(token.span.clone(), &format!("?{}", i + 1));
            }
        }
        numbered
    }

    /// The markers, typed by the columns that they are compared with.
    pub(super) fn markers(&self, table: &Table) -> Box<[Marker]> {
        let ty = |column: &Option<String>, compared: &Compared| match (column, compared) {
            (Some(column), _) => table.type_of(column),
            (None, Compared::Limit) => ColumnType::Int,
            (None, _) => ColumnType::Any,
        };
        self.markers
            .iter()
            .map(|(name, column, c)| Marker {
                name: name.clone(),
                ty: ty(column, c),
            })
            .collect()
    }

    /// Columns that must equal a marker, each with the marker's index.
    pub(super) fn equalities(&self) -> Vec<(String, usize)> {
        let equal = |(i, (_, column, compared)): (usize, &(String, Option<String>, Compared))| {
            column
                .clone()
                .filter(|_| *compared == Compared::Equal)
                .map(|column| (column, i))
        };
        self.markers.iter().enumerate().filter_map(equal).collect()
    }

    /// The table's column behind result column `i`, which SQLite calls `name`; `None` if it is computed.
    pub(super) fn column<'a>(&'a self, i: usize, name: &'a str) -> Option<&'a str> {
        match &self.items {
            None => Some(name),
            Some(items) => items.get(i)?.as_deref(),
        }
    }

    /// The type of a result column.
    pub(super) fn result_type(&self, i: usize, name: &str, table: &Table) -> ColumnType {
        match self.column(i, name).map(|column| table.type_of(column)) {
            // What is stored is read as it is.
            None | Some(ColumnType::Numeric(_)) => ColumnType::Any,
            Some(ty) => ty,
        }
    }
}

impl Change {
    /// All columns and their values, in the order of the statement.
    pub(super) fn terms(&self) -> impl Iterator<Item = &(String, Term)> {
        self.columns.iter().chain(&self.conditions)
    }

    /// Marker names in order of first appearance.
    pub(super) fn marker_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (_, term) in self.terms() {
            if let Term::Marker(name) = term
                && !names.contains(&name.as_str())
            {
                names.push(name);
            }
        }
        names
    }

    /// The change as SQL. Parameters are the markers by number, then the timestamp and, unless it is a delete, the expiry
    /// (or null) and the current time.
    pub(super) fn sql(&self, table: &Table) -> Refused<String> {
        let names = self.marker_names();
        let (timestamp, expires, now) = (names.len() + 1, names.len() + 2, names.len() + 3);
        for (column, _) in self.terms() {
            if !table.has(column) {
                return Err(format!("{} has no column {column}", self.table));
            }
        }
        self.refuse_stored_otherwise(table)?;
        // The columns by which the row is found.
        let finding = match self.verb {
            Verb::Insert => &self.columns,
            Verb::Update | Verb::Delete => &self.conditions,
        };
        let missing: Vec<&str> = table
            .key()
            .filter(|key| !finding.iter().any(|(column, _)| column.eq_ignore_ascii_case(key)))
            .collect();
        if !missing.is_empty() || table.key().next().is_none() {
            return Err(match missing.first() {
                None => format!(
                    "{} has no primary key, by which SQLite finds the row to write",
                    self.table
                ),
                Some(_) => format!(
                    "the primary key of {} is not given in full: {}",
                    self.table,
                    missing.join(", ")
                ),
            });
        }
        self.refuse_misplaced(table)?;
        let value = |term: &Term| match term {
            Term::Marker(name) => format!("?{}", names.iter().position(|n| n == name).map_or(0, |i| i + 1)),
            Term::Literal(text) => text.clone(),
        };
        let t = quoted(&self.table);
        let mut sql = String::new();
        let is_key = |column: &str| table.key().any(|key| key.eq_ignore_ascii_case(column));
        if self.verb == Verb::Delete {
            let keys: Vec<_> = self
                .conditions
                .iter()
                .map(|(column, term)| format!("{} = {}", quoted(column), value(term)))
                .collect();
            let _ = write!(
                sql,
                "DELETE FROM {t} WHERE {} AND coalesce({TIMESTAMP}, ?{timestamp}) <= ?{timestamp}",
                keys.join(" AND ")
            );
            return Ok(sql);
        }
        let columns: Vec<_> = self.terms().map(|(column, _)| quoted(column)).collect();
        let values: Vec<_> = self.terms().map(|(_, term)| value(term)).collect();
        let keys: Vec<_> = table.key().map(quoted).collect();
        let _ = write!(
            sql,
            "INSERT INTO {t} ({}, {TIMESTAMP}, {EXPIRES}) SELECT {}, ?{timestamp}, ?{expires} WHERE {} \
             ON CONFLICT ({}) DO UPDATE SET ",
            columns.join(", "),
            values.join(", "),
            self.sets_something(is_key, value),
            keys.join(", ")
        );
        // An expired row counts as absent: columns that are not written again become null.
        let expired = format!("{t}.{EXPIRES} <= ?{now}");
        // Whether something of the existing row remains: a value or, if an INSERT made the row, the row itself.
        let mut stays = vec![if self.verb == Verb::Update { "TRUE" } else { "FALSE" }.to_owned()];
        for column in table.visible().filter(|column| !is_key(column)) {
            let c = quoted(column);
            let given = self
                .columns
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(column))
                .map(|(_, term)| term);
            let (new, merged) = match given {
                // A null bound to a marker is UNSET.
                Some(Term::Marker(_)) => {
                    stays.push(format!("excluded.{c} IS NULL AND {t}.{c} IS NOT NULL"));
                    (format!("excluded.{c}"), format!("coalesce(excluded.{c}, {t}.{c})"))
                }
                // A null literal removes the stored value.
                Some(Term::Literal(_)) => (format!("excluded.{c}"), format!("excluded.{c}")),
                None => {
                    stays.push(format!("{t}.{c} IS NOT NULL"));
                    ("NULL".to_owned(), format!("{t}.{c}"))
                }
            };
            let _ = write!(sql, "{c} = CASE WHEN {expired} THEN {new} ELSE {merged} END, ");
        }
        // A row has one expiry, and what remains in it must not expire before its own time.
        let _ = write!(
            sql,
            "{TIMESTAMP} = excluded.{TIMESTAMP}, \
             {EXPIRES} = CASE WHEN {expired} OR NOT ({}) THEN excluded.{EXPIRES} \
             WHEN {t}.{EXPIRES} IS NULL OR excluded.{EXPIRES} IS NULL THEN NULL \
             ELSE max({t}.{EXPIRES}, excluded.{EXPIRES}) END \
             WHERE {t}.{TIMESTAMP} IS NULL OR {t}.{TIMESTAMP} <= excluded.{TIMESTAMP} OR {expired}",
            stays.join(" OR ")
        );
        Ok(sql)
    }

    /// Refuses what an upsert would write or ignore without an error: as in CQL, WHERE is the primary key, SET has none of it, and no column is named twice.
    fn refuse_misplaced(&self, table: &Table) -> Refused<()> {
        let is_key = |column: &str| table.key().any(|key| key.eq_ignore_ascii_case(column));
        for list in [&self.columns, &self.conditions] {
            for (i, (column, _)) in list.iter().enumerate() {
                if list[..i]
                    .iter()
                    .any(|(earlier, _)| earlier.eq_ignore_ascii_case(column))
                {
                    return Err(format!("column {column} is named twice: name it once"));
                }
            }
        }
        if let Some((column, _)) = self.conditions.iter().find(|(column, _)| !is_key(column)) {
            let verb = if self.verb == Verb::Update {
                "an UPDATE"
            } else {
                "a DELETE"
            };
            return Err(format!(
                "for SQLite {verb} is by the primary key alone: remove {column} from WHERE; a `when` can compare what a lookup has read"
            ));
        }
        let set = self.columns.iter().find(|(column, _)| is_key(column));
        match set.filter(|_| self.verb == Verb::Update) {
            Some((column, _)) => Err(format!(
                "column {column} is of the primary key of {}, which an UPDATE cannot change: remove it from SET",
                self.table
            )),
            None => Ok(()),
        }
    }

    /// The condition of a write. As in CQL, an UPDATE whose values are all UNSET writes nothing; an INSERT always creates
    /// a row.
    fn sets_something(&self, is_key: impl Fn(&str) -> bool, value: impl Fn(&Term) -> String) -> String {
        let assigned: Vec<&Term> = self
            .columns
            .iter()
            .filter(|(column, _)| !is_key(column))
            .map(|(_, term)| term)
            .collect();
        let unset = |term: &&Term| matches!(term, Term::Marker(_));
        if self.verb == Verb::Update && !assigned.is_empty() && assigned.iter().all(unset) {
            let given = assigned.into_iter().map(|term| format!("{} IS NOT NULL", value(term)));
            return given.collect::<Vec<_>>().join(" OR ");
        }
        "TRUE".to_owned()
    }
}
