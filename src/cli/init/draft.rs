//! Decides what `messina init` writes: the pipeline's names, its statements, and the binding of each marker.
//!
//! Pure: from a schema and descriptions of tables to a [`Draft`]. `text` and `case` only write it down.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::guess::{Leaf, Why, guess, leaves, singular};
use crate::avro::value::Type;
use crate::avro::{PathError, Plan, Schema, avro_type};
use crate::config::is_step_name;
use crate::config::values::is_identifier;
use crate::pipeline::expression::{self, Expression, Reference, member};
use crate::store::describe::{Description, is_bare, quoted, quoted_table};
use crate::store::{Column, ColumnType, result_type};

/// The most columns that a look-up reads. The others are named in a comment.
const MOST_COLUMNS: usize = 16;

/// Why the write leaves out a list that is not frozen: every start would refuse the statement.
const OPEN_LIST: &str = "a list that is not frozen: a repeated write would append its elements twice";

/// The request: what the arguments ask for.
pub struct Wanted<'a> {
    pub schema: &'a Schema,
    /// The table that is looked up.
    pub table: Option<&'a Description>,
    /// The table that is written.
    pub write: Option<&'a Description>,
    /// `--bind`: expressions by column.
    pub bind: &'a BTreeMap<String, String>,
}

/// A marker and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    pub column: Column,
    pub marker: String,
    pub expression: String,
    /// Why this expression was guessed; `None` if it was given.
    pub why: Option<Why>,
}

impl Bound {
    /// Whether the expression was given, or a field has the column's name.
    fn is_named(&self) -> bool {
        matches!(self.why, None | Some(Why::Name | Why::Bare))
    }
}

/// A statement, and what its step needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub name: String,
    pub table: Description,
    pub statement: String,
    pub bind: Vec<Bound>,
    /// Columns that were left out, and why.
    pub left: Vec<(String, &'static str)>,
    /// Whether the whole primary key is bound, so that at most one row matches.
    pub whole_key: bool,
}

/// The steps of the pipeline, and the new fields of its output.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub leaves: Vec<Leaf>,
    pub lookup: Option<Step>,
    pub write: Option<Step>,
    /// New fields of the output, and what they hold.
    pub set: Vec<(String, String)>,
}

/// Makes the draft.
///
/// # Errors
/// In words, if something cannot be guessed, or is impossible.
pub fn draft(wanted: &Wanted<'_>) -> Result<Draft, String> {
    let root = wanted.schema.root_type();
    let Type::Record(fields) = &root else {
        return Err(format!(
            "the schema's outermost type is {root}: a pipeline enriches records"
        ));
    };
    let leaves = leaves(&root);
    for (column, expression) in wanted.bind {
        let tables = wanted.table.iter().chain(&wanted.write);
        if !tables
            .clone()
            .any(|table| table.columns.iter().any(|c| c.name == *column))
        {
            return Err(format!("--bind {column}={expression}: no table has a column {column}"));
        }
        leads_somewhere(expression, wanted.schema).map_err(|e| format!("--bind {column}={expression}: {e}"))?;
    }
    let lookup = wanted
        .table
        .map(|table| lookup(table, &leaves, wanted.bind))
        .transpose()?;
    let mut set = Vec::new();
    if let Some((step, given)) = &lookup {
        for column in given {
            let taken = |name: &str| fields.iter().any(|(f, _)| f == name) || set.iter().any(|(s, _)| s == name);
            let long = format!("{}_{column}", step.name);
            let Some(name) = [column.clone(), long]
                .into_iter()
                .find(|name| is_identifier(name) && !taken(name))
            else {
                continue;
            };
            set.push((name, format!("{}{}", step.name, member(column))));
        }
    }
    let write = wanted
        .write
        .map(|table| write(table, &leaves, wanted.bind, lookup.as_ref()))
        .transpose()?;
    Ok(Draft {
        leaves,
        lookup: lookup.map(|(step, _)| step),
        write,
        set,
    })
}

/// Checks that the event has the field that a plain path names. Everything else is left to the configuration check.
fn leads_somewhere(expression: &str, schema: &Schema) -> Result<(), PathError> {
    match expression::parse(expression, &[]) {
        Ok(Expression::Path(Reference::Event(path))) => {
            Plan::compile(Arc::new(schema.clone()), &[path.as_str()]).map(drop)
        }
        _ => Ok(()),
    }
}

/// The look-up step, and the columns that it reads.
fn lookup(
    table: &Description,
    leaves: &[Leaf],
    told: &BTreeMap<String, String>,
) -> Result<(Step, Vec<String>), String> {
    let mut bind = Vec::new();
    let partition: Vec<&Column> = table.key().take(table.partition_key.len()).collect();
    if partition.is_empty() {
        return Err(format!("table {} has no primary key to look a row up by", table.name));
    }
    for column in &partition {
        bind.push(bound(column, table, leaves, told, true)?);
    }
    // Bind clustering columns as long as the event names them. If not all are bound, the first row that matches is
    // used.
    for column in table.key().skip(partition.len()) {
        match bound(column, table, leaves, told, true) {
            Ok(found) if found.is_named() => bind.push(found),
            _ => break,
        }
    }
    let (mut given, mut left) = (Vec::new(), Vec::new());
    for column in table.rest() {
        match readable(column) {
            Ok(()) if given.len() < MOST_COLUMNS => given.push(column.name.clone()),
            Ok(()) => left.push((column.name.clone(), "more than a record should carry")),
            Err(why) => left.push((column.name.clone(), why)),
        }
    }
    if given.is_empty() {
        // No other column can be read: use the key, which at least tells that the row exists.
        given.extend(table.key().map(|column| column.name.clone()));
    }
    let columns: Vec<String> = given.iter().map(|name| quoted(name)).collect();
    let conditions: Vec<String> = bind
        .iter()
        .map(|b| format!("{} = :{}", quoted(&b.column.name), b.marker))
        .collect();
    let statement = format!(
        "SELECT {} FROM {} WHERE {}",
        columns.join(", "),
        quoted_table(&table.name),
        conditions.join(" AND ")
    );
    let step = Step {
        name: step_name(singular(&table.name)),
        table: table.clone(),
        statement,
        whole_key: bind.len() == table.key().count(),
        bind,
        left,
    };
    Ok((step, given))
}

fn write(
    table: &Description,
    leaves: &[Leaf],
    told: &BTreeMap<String, String>,
    lookup: Option<&(Step, Vec<String>)>,
) -> Result<Step, String> {
    if table.columns.iter().any(|column| column.ty == ColumnType::Counter) {
        return Err(format!(
            "table {} has counters: an increment cannot be repeated after a crash, so no write is drafted for it",
            table.name
        ));
    }
    let (mut bind, mut left) = (Vec::new(), Vec::new());
    for column in table.key() {
        bind.push(match bound(column, table, leaves, told, false) {
            // No field of the event says when, so use the record's timestamp.
            Err(_) if column.ty == ColumnType::Timestamp => as_told(column, "record.timestamp", Some(Why::Type)),
            other => other?,
        });
    }
    for column in table.rest() {
        if table.open_lists.contains(&column.name) && !told.contains_key(&column.name) {
            left.push((column.name.clone(), OPEN_LIST));
            continue;
        }
        match bound(column, table, leaves, told, false) {
            Ok(found) if found.is_named() => bind.push(found),
            _ => match looked_up(column, lookup) {
                Some(expression) => bind.push(as_told(column, &expression, Some(Why::Name))),
                None => left.push((column.name.clone(), "no field is named like it")),
            },
        }
    }
    let columns: Vec<String> = bind.iter().map(|b| quoted(&b.column.name)).collect();
    let markers: Vec<String> = bind.iter().map(|b| format!(":{}", b.marker)).collect();
    let mut name = step_name(&format!("keep_{}", singular(&table.name)));
    if lookup.is_some_and(|(step, _)| step.name == name) {
        name.push_str("_2");
    }
    Ok(Step {
        name,
        table: table.clone(),
        statement: format!(
            "INSERT INTO {} ({}) VALUES ({})",
            quoted_table(&table.name),
            columns.join(", "),
            markers.join(", ")
        ),
        bind,
        left,
        whole_key: true,
    })
}

/// The column of the same name and type that the look-up has read.
fn looked_up(column: &Column, lookup: Option<&(Step, Vec<String>)>) -> Option<String> {
    let (step, given) = lookup?;
    let same = step
        .table
        .columns
        .iter()
        .find(|c| c.name == column.name && c.ty == column.ty)?;
    given
        .contains(&same.name)
        .then(|| format!("{}{}", step.name, member(&same.name)))
}

/// The binding of a column: as given, or as guessed.
fn bound(
    column: &Column,
    table: &Description,
    leaves: &[Leaf],
    told: &BTreeMap<String, String>,
    looked_up: bool,
) -> Result<Bound, String> {
    if let Some(expression) = told.get(&column.name) {
        return Ok(as_told(column, expression, None));
    }
    match guess(column, &table.name, looked_up, leaves) {
        Some((leaf, why)) => Ok(as_told(column, &leaf.expression(), Some(why))),
        None => {
            let fields: Vec<String> = leaves
                .iter()
                .map(|l| format!("{} ({})", l.expression(), l.ty))
                .collect();
            Err(format!(
                "no field of the event fits {}.{}, a {}: choose a value with --bind {}=EXPRESSION. The event has {}",
                table.name,
                column.name,
                column.ty,
                column.name,
                fields.join(", ")
            ))
        }
    }
}

fn as_told(column: &Column, expression: &str, why: Option<Why>) -> Bound {
    Bound {
        column: column.clone(),
        marker: marker(&column.name),
        expression: expression.to_owned(),
        why,
    }
}

/// A marker for a column: the column's own name, if it is valid.
fn marker(column: &str) -> String {
    if is_bare(column) {
        return column.to_owned();
    }
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '_'
        }
    };
    format!("value_{}", column.chars().map(plain).collect::<String>())
}

/// Whether the output can contain a column, by its name and its type; if not, why.
fn readable(column: &Column) -> Result<(), &'static str> {
    if !is_identifier(&column.name) {
        return Err("give it a name that Avro allows: SELECT \"…\" AS name");
    }
    avro_type(&result_type(&column.ty))
        .map(drop)
        .map_err(|_| "its type has no Avro equivalent")
}

/// A step name that expressions can use.
fn step_name(like: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '_'
        }
    };
    let name: String = like.chars().map(plain).collect();
    if is_step_name(&name) {
        name
    } else {
        format!("row_{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"type": "record", "name": "E", "fields": [
        {"name": "id", "type": "long"}, {"name": "kind", "type": "string"}, {"name": "score", "type": "double"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "user", "type": {"type": "record", "name": "U", "fields": [{"name": "id", "type": "string"}]}}]}"#;

    fn table(name: &str, columns: &[(&str, &str)], partition: &[&str], clustering: &[&str]) -> Description {
        Description {
            name: name.into(),
            columns: columns
                .iter()
                .map(|(name, ty)| Column {
                    name: (*name).into(),
                    ty: ColumnType::parse(ty).unwrap_or(ColumnType::Any),
                })
                .collect(),
            partition_key: partition.iter().map(|s| (*s).into()).collect(),
            clustering_key: clustering.iter().map(|s| (*s).into()).collect(),
            open_lists: Vec::new(),
        }
    }

    fn drafted(
        table: Option<&Description>,
        write: Option<&Description>,
        bind: &[(&str, &str)],
    ) -> Result<Draft, String> {
        let schema = Schema::parse(EVENT).unwrap();
        let bind = bind.iter().map(|(c, e)| ((*c).into(), (*e).into())).collect();
        draft(&Wanted {
            schema: &schema,
            table,
            write,
            bind: &bind,
        })
    }

    #[test]
    fn a_look_up_is_bound_and_its_columns_are_set_under_names_that_are_free() {
        let profiles = table(
            "profiles",
            &[
                ("user_id", "text"),
                ("segment", "text"),
                ("score", "double"),
                ("x", "y"),
            ],
            &["user_id"],
            &[],
        );
        let draft = drafted(Some(&profiles), None, &[]).unwrap();
        let step = draft.lookup.unwrap();
        assert_eq!(
            step.statement,
            "SELECT segment, score FROM profiles WHERE user_id = :user_id"
        );
        assert_eq!(step.bind[0].expression, "event.user.id");
        assert!(step.whole_key);
        assert_eq!(step.left, [("x".to_owned(), "its type has no Avro equivalent")]);
        let set = [("segment", "profile.segment"), ("profile_score", "profile.score")];
        assert_eq!(draft.set, set.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn names_that_need_quotes_have_markers_of_their_own() {
        let odd = table("Order", &[("order", "bigint"), ("Name", "text")], &["order"], &[]);
        let step = drafted(Some(&odd), None, &[]).unwrap().lookup.unwrap();
        assert_eq!(
            step.statement,
            "SELECT \"Name\" FROM \"Order\" WHERE \"order\" = :value_order"
        );
        assert_eq!(step.name, "order");
        let event = table("event", &[("id", "bigint")], &["id"], &[]);
        let step = drafted(Some(&event), None, &[]).unwrap().lookup.unwrap();
        assert_eq!(
            (step.name.as_str(), step.statement.as_str()),
            ("row_event", "SELECT id FROM event WHERE id = :id")
        );
    }

    #[test]
    fn two_steps_have_two_names() {
        let one = |name| table(name, &[("id", "bigint"), ("kind", "text")], &["id"], &[]);
        let draft = drafted(Some(&one("keep_orders")), Some(&one("orders")), &[]).unwrap();
        let names = [draft.lookup, draft.write].map(|step| step.unwrap().name);
        assert_eq!(names, ["keep_order", "keep_order_2"]);
        assert_eq!(step_name("void"), "row_void", "a word of CEL");
    }

    #[test]
    fn columns_that_are_words_of_cel_stand_in_brackets() {
        let users = table("users", &[("id", "bigint"), ("in", "text")], &["id"], &[]);
        let seen = table("seen", &[("id", "bigint"), ("in", "text")], &["id"], &[]);
        let draft = drafted(Some(&users), Some(&seen), &[]).unwrap();
        assert_eq!(draft.set, [("in".to_owned(), "user['in']".to_owned())]);
        assert_eq!(draft.write.unwrap().bind[1].expression, "user['in']");
    }

    #[test]
    fn a_write_binds_the_whole_key_and_what_has_a_name() {
        let profiles = table(
            "profiles",
            &[("user_id", "text"), ("segment", "text")],
            &["user_id"],
            &[],
        );
        let columns = [
            ("user_id", "text"),
            ("at", "timestamp"),
            ("kind", "text"),
            ("segment", "text"),
            ("other", "text"),
        ];
        let history = table("history", &columns, &["user_id"], &["at"]);
        let step = drafted(Some(&profiles), Some(&history), &[]).unwrap().write.unwrap();
        assert_eq!(
            step.statement,
            "INSERT INTO history (user_id, at, kind, segment) VALUES (:user_id, :at, :kind, :segment)"
        );
        let bound: Vec<_> = step.bind.iter().map(|b| b.expression.as_str()).collect();
        assert_eq!(
            bound,
            ["event.user.id", "record.timestamp", "event.kind", "profile.segment"]
        );
        assert_eq!(step.left, [("other".to_owned(), "no field is named like it")]);
    }

    #[test]
    fn a_list_that_is_not_frozen_is_written_only_where_that_is_told() {
        let mut users = table(
            "users",
            &[("user_id", "text"), ("tags", "list<text>")],
            &["user_id"],
            &[],
        );
        let written = |users: &Description, bind: &[(&str, &str)]| {
            let drafted = drafted(Some(users), Some(users), bind).unwrap();
            let step = drafted.write.unwrap();
            (step.statement, step.left)
        };
        let whole = "INSERT INTO users (user_id, tags) VALUES (:user_id, :tags)".to_owned();
        assert_eq!(written(&users, &[]), (whole.clone(), Vec::new()), "it is frozen");
        users.open_lists.push("tags".to_owned());
        // The list is bound neither from the event nor from the row that was found.
        let bare = "INSERT INTO users (user_id) VALUES (:user_id)".to_owned();
        let left = vec![("tags".to_owned(), OPEN_LIST)];
        assert_eq!(written(&users, &[]), (bare, left));
        assert_eq!(written(&users, &[("tags", "event.tags")]), (whole, Vec::new()));
    }

    #[test]
    fn what_cannot_be_guessed_is_asked_for() {
        let odd = table("t", &[("k", "blob"), ("v", "text")], &["k"], &[]);
        let error = drafted(Some(&odd), None, &[]).unwrap_err();
        assert!(
            error.starts_with("no field of the event fits t.k, a blob: choose a value with --bind k=EXPRESSION"),
            "{error}"
        );
        let step = drafted(Some(&odd), None, &[("k", "record.key")])
            .unwrap()
            .lookup
            .unwrap();
        assert_eq!(
            (step.bind[0].expression.as_str(), step.bind[0].why),
            ("record.key", None)
        );
        let error = drafted(Some(&odd), None, &[("z", "record.key")]).unwrap_err();
        assert_eq!(error, "--bind z=record.key: no table has a column z");
    }

    #[test]
    fn a_path_that_leads_nowhere_is_refused_with_what_there_is() {
        let users = table("users", &[("user_id", "text")], &["user_id"], &[]);
        let told = |expression: &str| drafted(Some(&users), Some(&users), &[("user_id", expression)]);
        let error = told("event.user.name").unwrap_err();
        assert!(
            error.starts_with("--bind user_id=event.user.name: path \"user.name\": no field \"name\""),
            "{error}"
        );
        assert!(told("event.kind.id").unwrap_err().contains("has no field \"id\""));
        // An item that may exist, CEL, a step's column, and text that is not an expression.
        for known in [
            "event.tags[3]",
            "event.user['id']",
            "string(event.x)",
            "user.user_id",
            "event.in",
        ] {
            assert_eq!(told(known).unwrap().write.unwrap().bind[0].expression, known);
        }
    }
}
