//! Guesses which field of an event belongs to which column: by name, then by type.
//!
//! Pure. A guess has a degree of confidence, so that the comments of the written file can say what to review first.

use crate::avro::value::Type;
use crate::pipeline::expression::member;
use crate::store::{Column, ColumnType, bindable};

/// How many levels of nested records are searched.
const LEVELS: usize = 6;

/// A field at the end of a path, which is not itself a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaf {
    /// The path from the event, without `event.`.
    pub path: Vec<String>,
    /// Its type.
    pub ty: Type,
}

impl Leaf {
    /// The field in an expression.
    pub fn expression(&self) -> String {
        let members: String = self.path.iter().map(|name| member(name)).collect();
        format!("event{members}")
    }
}

/// The fields of a record and of its nested records, in the order of the schema.
pub fn leaves(root: &Type) -> Vec<Leaf> {
    let mut found = Vec::new();
    collect(root, &mut Vec::new(), &mut found);
    found
}

fn collect(ty: &Type, path: &mut Vec<String>, found: &mut Vec<Leaf>) {
    match ty.non_null() {
        Type::Record(fields) if path.len() < LEVELS => {
            for (name, ty) in fields {
                path.push(name.clone());
                collect(ty, path, found);
                path.pop();
            }
        }
        Type::Null | Type::Any => {}
        _ if path.is_empty() => {}
        _ => found.push(Leaf {
            path: path.clone(),
            ty: ty.clone(),
        }),
    }
}

/// How a guess was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The names match.
    Name,
    /// The names match, but another field matches as well, or the name says too little: an `id` is one of many things.
    Bare,
    /// The names are similar.
    Alike,
    /// Only the type fits.
    Type,
}

/// The field that a column's value probably comes from, among those whose type fits the column. In a table that is looked up, `id` is the row's
/// own, and rarely the event's.
pub fn guess<'l>(column: &Column, table: &str, looked_up: bool, leaves: &'l [Leaf]) -> Option<(&'l Leaf, Why)> {
    let fitting = leaves.iter().filter(|leaf| bindable(&leaf.ty, &column.ty).is_ok());
    let scored: Vec<(u32, &Leaf, Why)> = fitting
        .filter_map(|leaf| score(column, table, looked_up, leaf).map(|(score, why)| (score, leaf, why)))
        .collect();
    let most = scored.iter().map(|(score, ..)| *score).max()?;
    let best = || scored.iter().filter(move |(score, ..)| *score == most);
    // Of equally good fields, take the shallowest, then the first.
    let &(_, leaf, why) = best().min_by_key(|(_, leaf, _)| leaf.path.len())?;
    let wanted = plain(&column.name);
    let is_the_tables = |leaf: &Leaf| is_called_after(leaf, table, &wanted);
    let of_many = match wanted.as_str() {
        // A written value is the event's own, unless another field is called after the table.
        "id" | "key" => looked_up || (!is_the_tables(leaf) && scored.iter().any(|(_, other, _)| is_the_tables(other))),
        "name" => looked_up,
        _ => false,
    };
    let why = match why {
        Why::Name | Why::Bare if best().count() > 1 => Why::Bare,
        Why::Bare if !of_many => Why::Name,
        other => other,
    };
    Some((leaf, why))
}

fn score(column: &Column, table: &str, looked_up: bool, leaf: &Leaf) -> Option<(u32, Why)> {
    let wanted = plain(&column.name);
    let last = leaf.path.last().map(|name| plain(name)).unwrap_or_default();
    // `user.id` becomes `userid`, as `user_id` does.
    let whole = (0..leaf.path.len().saturating_sub(1)).map(|from| plain(&leaf.path[from..].concat()));
    let whole: Vec<String> = whole.collect();
    let names_the_table = is_called_after(leaf, table, &wanted);
    // A written value is the event's own: `username` is not the `name` of `users`.
    if names_the_table && looked_up {
        return Some((9, Why::Name));
    }
    if last == wanted {
        return Some((8, Why::Bare));
    }
    if whole.contains(&wanted) {
        return Some((7, Why::Name));
    }
    if names_the_table {
        return Some((6, Why::Name));
    }
    if wanted.len() > 1 && last.ends_with(&wanted) {
        return Some((5, Why::Alike));
    }
    if last.len() > 1 && wanted.ends_with(&last) {
        return Some((4, Why::Alike));
    }
    let is_time = matches!(leaf.ty.non_null(), Type::Timestamp(_) | Type::LocalTimestamp(_));
    match column.ty {
        ColumnType::Any => None,
        ColumnType::Timestamp if is_time => Some((3, Why::Type)),
        // A number whose name does not match is not taken for a time.
        ColumnType::Timestamp => None,
        _ => Some((1, Why::Type)),
    }
}

/// Table `profiles`, column `id`, field `profile_id` or `profile.id`: this says more than a mere `id`.
fn is_called_after(leaf: &Leaf, table: &str, column: &str) -> bool {
    let wanted = plain(singular(table)) + column;
    (0..leaf.path.len()).any(|from| plain(&leaf.path[from..].concat()) == wanted)
}

/// Only letters and digits, in lower case.
fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

/// The singular of a table's name, as far as a final `s` tells.
pub fn singular(table: &str) -> &str {
    let name = table.rsplit('.').next().unwrap_or(table);
    match name.strip_suffix('s') {
        Some(one) if one.len() > 1 && !one.ends_with('s') => one,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::Schema;

    const EVENT: &str = r#"{"type": "record", "name": "E", "fields": [
        {"name": "id", "type": "long"},
        {"name": "eventTime", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "user", "type": ["null", {"type": "record", "name": "U", "fields": [
            {"name": "id", "type": "string"}, {"name": "tags", "type": {"type": "array", "items": "string"}}]}]},
        {"name": "profile_id", "type": "int"},
        {"name": "amount", "type": "double"}]}"#;

    fn found(table: &str, column: &str, ty: &str) -> Option<(String, Why)> {
        let leaves = leaves(&Schema::parse(EVENT).unwrap().root_type());
        let column = Column {
            name: column.into(),
            ty: ColumnType::parse(ty).unwrap(),
        };
        guess(&column, table, false, &leaves).map(|(leaf, why)| (leaf.expression(), why))
    }

    /// The field by which a row of a table is looked up, in an event of text fields.
    fn key(table: &str, column: &str, paths: &[&str]) -> (String, Why) {
        among(paths, table, column, true)
    }

    fn among(paths: &[&str], table: &str, column: &str, looked_up: bool) -> (String, Why) {
        let leaf = |path: &&str| Leaf {
            path: path.split('.').map(str::to_owned).collect(),
            ty: Type::String,
        };
        let leaves: Vec<Leaf> = paths.iter().map(leaf).collect();
        let column = Column {
            name: column.into(),
            ty: ColumnType::Text,
        };
        let (leaf, why) = guess(&column, table, looked_up, &leaves).unwrap();
        (leaf.path.join("."), why)
    }

    #[test]
    fn an_id_is_the_tables_own_where_the_event_names_the_table() {
        let is = |path: &str, why| (path.to_owned(), why);
        for paths in [["id", "customer.id"], ["customer.id", "id"]] {
            assert_eq!(key("customers", "id", &paths), is("customer.id", Why::Name));
        }
        let paths = ["id", "customer_id"];
        assert_eq!(key("shop.customers", "id", &paths), is("customer_id", Why::Name));
    }

    #[test]
    fn a_name_that_says_too_little_is_a_guess() {
        let is = |path: &str, why| (path.to_owned(), why);
        // Nothing else fits, but it is not clear what the `id` identifies.
        assert_eq!(key("customers", "id", &["id", "kind"]), is("id", Why::Bare));
        // Two fields fit equally well.
        let paths = ["buyer.email", "seller.email"];
        assert_eq!(key("customers", "email", &paths), is("buyer.email", Why::Bare));
        let paths = ["seller.customer.id", "customer.id"];
        assert_eq!(key("customers", "id", &paths), is("customer.id", Why::Bare));
        assert_eq!(key("customers", "email", &["email", "kind"]), is("email", Why::Name));
    }

    #[test]
    fn what_is_written_is_the_events_own() {
        let paths = ["username", "name"];
        assert_eq!(among(&paths, "users", "name", false), ("name".to_owned(), Why::Name));
        let paths = ["user_name", "email"];
        assert_eq!(
            among(&paths, "users", "name", false),
            ("user_name".to_owned(), Why::Name)
        );
        assert_eq!(among(&["id", "kind"], "customers", "id", false).1, Why::Name);
    }

    #[test]
    fn an_id_that_is_written_is_a_guess_where_another_field_is_called_after_the_table() {
        for paths in [["id", "customer_id"], ["id", "customer.id"]] {
            assert_eq!(
                among(&paths, "customers", "id", false),
                ("id".to_owned(), Why::Bare),
                "{paths:?}"
            );
        }
        assert_eq!(
            among(&["customer.id", "kind"], "customers", "id", false),
            ("customer.id".to_owned(), Why::Name)
        );
    }

    #[test]
    fn names_decide_where_types_allow() {
        let is = |path: &str, why| Some((path.to_owned(), why));
        assert_eq!(found("users", "user_id", "text"), is("event.user.id", Why::Name));
        assert_eq!(found("orders", "id", "bigint"), is("event.id", Why::Name));
        assert_eq!(
            found("orders", "id", "text"),
            is("event.user.id", Why::Name),
            "the type rules"
        );
        assert_eq!(found("t", "event_time", "timestamp"), is("event.eventTime", Why::Name));
        assert_eq!(found("t", "tags", "list<text>"), is("event.user.tags", Why::Name));
        assert_eq!(
            found("profiles", "profile_id", "int"),
            is("event.profile_id", Why::Name)
        );
        assert_eq!(found("t", "order_id", "bigint"), is("event.id", Why::Alike));
        assert_eq!(found("t", "at", "timestamp"), is("event.eventTime", Why::Type));
        assert_eq!(found("t", "total", "double"), is("event.id", Why::Type));
        assert_eq!(found("t", "x", "uuid"), is("event.user.id", Why::Type));
        assert_eq!(found("t", "x", "blob"), None);
        let no_time = [Leaf {
            path: vec!["n".into()],
            ty: Type::Long,
        }];
        let at = Column {
            name: "at".into(),
            ty: ColumnType::Timestamp,
        };
        assert_eq!(guess(&at, "t", false, &no_time), None);
    }

    #[test]
    fn a_table_has_one_of_something() {
        assert_eq!(singular("tracking.profiles"), "profile");
        assert_eq!(singular("events_by_user"), "events_by_user");
        assert_eq!(singular("address"), "address");
        assert_eq!(singular("s"), "s");
    }
}
