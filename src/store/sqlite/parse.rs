//! Understands a CQL statement by its tokens, for SQLite.
//!
//! A pipeline's statements are written once, for both databases. Only forms that both dialects share are accepted; anything else is refused with a
//! message, never guessed, also what SQLite alone would understand. [`super::sql`] generates the statement in SQLite's dialect.

use std::ops::Range;
use std::time::Duration;

use crate::avro::uuid;
use crate::store::cql::{Scanned, TokenKind, Ttl, kept, scan};

/// A look-up.
#[derive(Debug)]
pub(super) struct Select {
    pub(super) text: String,
    /// The table's name, without its keyspace.
    pub table: String,
    /// The position of the table's name, keyspace included.
    pub(super) table_span: Range<usize>,
    /// Parts of CQL that SQLite does not have.
    pub(super) dropped: Vec<Range<usize>>,
    /// Result columns that are plain columns, by position; `None` if the list has a `*`.
    pub(super) items: Option<Vec<Option<String>>>,
    /// Markers in order of first appearance, and the column each is compared with; `LIMIT` has none.
    pub(super) markers: Vec<(String, Option<String>, Compared)>,
}

/// Functions that both dialects have.
const AGGREGATES: [&str; 5] = ["count", "min", "max", "sum", "avg"];

/// How a marker is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    /// `column = :m`
    Equal,
    /// With another operator, or elsewhere.
    Otherwise,
    /// `LIMIT :m`
    Limit,
}

/// The right side of an assignment or a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Term {
    /// A marker's name.
    Marker(String),
    /// Anything else, as written.
    Literal(String),
}

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Insert,
    Update,
    /// Deletes the whole row.
    Delete,
}

/// An `INSERT`, `UPDATE` or `DELETE`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The table's name, without its keyspace.
    pub table: String,
    /// Columns and their new values; for an insert, those of the primary key too.
    pub columns: Vec<(String, Term)>,
    /// The columns after WHERE, and the values that they are compared with.
    pub conditions: Vec<(String, Term)>,
    /// Which of the three it is.
    pub verb: Verb,
    /// The TTL of what is written.
    pub ttl: Option<Ttl>,
}

/// The result, or the reason for a refusal.
pub(super) type Refused<T> = Result<T, String>;

/// Parses a `SELECT`.
pub(super) fn select(cql: &str) -> Refused<Select> {
    let s = scan(cql);
    if !s.is_word(0, "select") {
        return Err("a lookup is a SELECT".into());
    }
    refuse_positional(&s)?;
    let from = s.find_word("from").ok_or("a SELECT without FROM")?;
    let (table, after) = table_name(&s, from + 1)?;
    let table_span = s.tokens[from + 1].span.start..s.tokens[after - 1].span.end;
    let mut dropped = Vec::new();
    if let Some(i) = s.find_word("allow").filter(|i| s.is_word(i + 1, "filtering")) {
        dropped.push(s.tokens[i].span.start..s.tokens[i + 1].span.end);
    }
    if let Some(i) = s.find_word("per").filter(|i| s.is_word(i + 1, "partition")) {
        return Err(format!("{} PARTITION LIMIT is not for SQLite", s.str(i)));
    }
    refuse_foreign_clauses(&s, after)?;
    let items = split(&s, 1..from);
    for item in &items {
        refuse_computed(&s, item)?;
    }
    let items = (!items.iter().any(|item| s.is_symbol(item.start, '*')))
        .then(|| items.iter().map(|item| bare_column(&s, item)).collect());
    let mut markers: Vec<(String, Option<String>, Compared)> = Vec::new();
    for i in (0..s.tokens.len()).filter(|i| s.tokens[*i].kind == TokenKind::Marker) {
        let name = s.str(i)[1..].to_owned();
        if !markers.iter().any(|(known, ..)| *known == name) {
            let (column, compared) = compared_with(&s, i);
            markers.push((name, column, compared));
        }
    }
    Ok(Select {
        text: cql.to_owned(),
        table,
        table_span,
        dropped,
        items,
        markers,
    })
}

/// Parses an `INSERT`, `UPDATE` or `DELETE`.
pub(super) fn change(cql: &str) -> Refused<Change> {
    let s = scan(cql);
    refuse_positional(&s)?;
    if s.find_word("if").is_some() {
        return Err("a condition (IF) is not for SQLite, where a write is an upsert".into());
    }
    let end = end(&s);
    let (using, change) = match s.str(0).to_ascii_lowercase().as_str() {
        "insert" => insert(&s, end)?,
        "update" => update(&s, end)?,
        "delete" => delete(&s, end)?,
        other => {
            return Err(format!(
                "a write is an INSERT, UPDATE or DELETE, not {}",
                other.to_uppercase()
            ));
        }
    };
    Ok(Change {
        ttl: using_ttl(&s, using)?.map(Ttl::Fixed),
        ..change
    })
}

/// `INSERT INTO t (a, b) VALUES (:a, 1) [USING TTL n]`
fn insert(s: &Scanned<'_>, end: usize) -> Refused<(Range<usize>, Change)> {
    const SHAPE: &str = "for SQLite an INSERT is INSERT INTO table (columns) VALUES (values)";
    if !s.is_word(1, "into") {
        return Err(SHAPE.into());
    }
    let (table, open) = table_name(s, 2)?;
    let close = closing(s, open).ok_or(SHAPE)?;
    if !s.is_word(close + 1, "values") {
        return Err(SHAPE.into());
    }
    let values_end = closing(s, close + 2).ok_or(SHAPE)?;
    let names = split(s, open + 1..close);
    let terms = split(s, close + 3..values_end);
    if names.len() != terms.len() {
        return Err(format!("{} columns and {} values", names.len(), terms.len()));
    }
    let columns = names
        .iter()
        .zip(&terms)
        .map(|(name, value)| Ok((column_name(s, name.clone())?, term(s, value)?)));
    let columns = columns.collect::<Refused<_>>()?;
    Ok((
        values_end + 1..end,
        Change {
            table,
            columns,
            conditions: Vec::new(),
            verb: Verb::Insert,
            ttl: None,
        },
    ))
}

/// `UPDATE t [USING TTL n] SET a = :a, b = 1 WHERE k = :k AND c = :c`
fn update(s: &Scanned<'_>, end: usize) -> Refused<(Range<usize>, Change)> {
    let (table, after) = table_name(s, 1)?;
    let set = s.find_word("set").ok_or("an UPDATE without SET")?;
    let place = s.find_word("where").ok_or("an UPDATE without WHERE")?;
    let mut columns = Vec::new();
    for assignment in split(s, set + 1..place) {
        columns.push(equality(s, assignment)?);
    }
    Ok((
        after..set,
        Change {
            table,
            columns,
            conditions: conditions(s, place + 1..end)?,
            verb: Verb::Update,
            ttl: None,
        },
    ))
}

/// `DELETE FROM t WHERE k = :k AND c = :c`
fn delete(s: &Scanned<'_>, end: usize) -> Refused<(Range<usize>, Change)> {
    if !s.is_word(1, "from") {
        return Err("for SQLite a DELETE is of whole rows: DELETE FROM table WHERE …".into());
    }
    let (table, after) = table_name(s, 2)?;
    let place = s.find_word("where").ok_or("a DELETE without WHERE")?;
    Ok((
        after..place,
        Change {
            table,
            columns: Vec::new(),
            conditions: conditions(s, place + 1..end)?,
            verb: Verb::Delete,
            ttl: None,
        },
    ))
}

/// Refuses clauses that are not of both dialects.
fn refuse_foreign_clauses(s: &Scanned<'_>, after: usize) -> Refused<()> {
    let end = end(s);
    let begins = |i: usize| {
        let pair = |first: &str, second: &str| s.is_word(i, first) && s.is_word(i + 1, second);
        s.is_word(i, "where")
            || s.is_word(i, "limit")
            || pair("group", "by")
            || pair("order", "by")
            || pair("allow", "filtering")
    };
    let mut start = (after..end).find(|i| begins(*i)).unwrap_or(end);
    if after < start {
        return Err(format!(
            "for SQLite a SELECT is of one table: WHERE, GROUP BY, ORDER BY or LIMIT follows, not {}",
            text_of(s, &(after..start))
        ));
    }
    while start < end {
        let stop = (start + 1..end).find(|i| begins(*i)).unwrap_or(end);
        if s.is_word(start, "where") {
            for condition in joined(s, start + 1..stop) {
                refuse_foreign_condition(s, &condition)?;
            }
        } else if !is_shared_clause(s, start..stop) {
            return Err(format!(
                "for SQLite ORDER BY and GROUP BY take columns and LIMIT takes one number, not {}",
                text_of(s, &(start..stop))
            ));
        }
        start = stop;
    }
    Ok(())
}

/// Whether both dialects have this `GROUP BY`, `ORDER BY`, `LIMIT` or `ALLOW FILTERING`.
fn is_shared_clause(s: &Scanned<'_>, range: Range<usize>) -> bool {
    let start = range.start;
    if s.is_word(start, "limit") {
        let limit = s.tokens.get(start + 1).map(|t| t.kind);
        return range.len() == 2 && matches!(limit, Some(TokenKind::Marker | TokenKind::Constant));
    }
    if s.is_word(start, "allow") {
        return range.len() == 2;
    }
    let directed = |i: usize| s.is_word(start, "order") && (s.is_word(i, "asc") || s.is_word(i, "desc"));
    split(s, start + 2..range.end).iter().all(|item| {
        let alone = item.len() == 1 || item.len() == 2 && directed(item.start + 1);
        alone && s.name(item.start).is_some()
    })
}

/// Refuses a condition of a look-up unless it compares a column with a marker, a literal or a list of them, or several columns with as many.
fn refuse_foreign_condition(s: &Scanned<'_>, range: &Range<usize>) -> Refused<()> {
    let bracketed = closing(s, range.start);
    let left = range.start..bracketed.unwrap_or(range.start) + 1;
    let is_in = s.is_word(left.end, "in");
    let is_ordered = s.is_symbol(left.end, '<') || s.is_symbol(left.end, '>');
    let is_compared = is_in || is_ordered || s.is_symbol(left.end, '=');
    let operator = 1 + usize::from(is_ordered && s.is_symbol(left.end + 1, '='));
    let right = left.end + operator..range.end;
    let is_list = right.len() > 1 && closing(s, right.start) == Some(right.end - 1);
    let parts = |side: &Range<usize>, listed: bool| match listed {
        true => split(s, side.start + 1..side.end - 1),
        false => vec![side.clone()],
    };
    let (columns, values) = (parts(&left, bracketed.is_some()), parts(&right, is_list));
    let fits = match bracketed {
        None => is_in == is_list,
        Some(_) => is_list && !is_in && columns.len() == values.len(),
    };
    let named = columns
        .iter()
        .all(|part| part.len() == 1 && s.name(part.start).is_some());
    match left.end < range.end && is_compared && fits && named && values.iter().all(|part| is_value(s, part)) {
        true => Ok(()),
        false => Err(format!(
            "for SQLite a look-up compares columns with markers or literals, by =, <, <=, >, >= or IN (…), joined by AND; not {}",
            text_of(s, range)
        )),
    }
}

/// Whether this is a marker or a literal.
fn is_value(s: &Scanned<'_>, range: &Range<usize>) -> bool {
    let kind = |i: usize| s.tokens.get(i).map(|t| t.kind);
    match range.len() {
        1 => {
            let boolean = s.is_word(range.start, "true") || s.is_word(range.start, "false");
            // SQLite takes `$$text$$` for a parameter.
            let parameter = s.str(range.start).starts_with('$');
            boolean
                || !parameter
                    && matches!(
                        kind(range.start),
                        Some(TokenKind::Marker | TokenKind::Constant | TokenKind::Text)
                    )
        }
        2 => s.is_symbol(range.start, '-') && kind(range.start + 1) == Some(TokenKind::Constant),
        // `1e-5` and a UUID are several tokens.
        _ => {
            let text = text_of(s, range);
            text.parse::<f64>().is_ok() || text.len() == 36 && uuid::parse(text.as_bytes()).is_some()
        }
    }
}

/// Refuses a result that is neither a column nor an aggregate of one: SQLite has functions and operators that CQL has not.
fn refuse_computed(s: &Scanned<'_>, item: &Range<usize>) -> Refused<()> {
    let is_all = item.len() == 1 && s.is_symbol(item.start, '*');
    let start = item.start + usize::from(item.len() > 1 && s.is_word(item.start, "distinct"));
    let item = start..item.end;
    let is_named = item.len() > 2 && s.is_word(item.end - 2, "as");
    let len = if is_named { item.len() - 2 } else { item.len() };
    let constant = s.tokens.get(start + 2).is_some_and(|t| t.kind == TokenKind::Constant);
    let is_aggregate = len == 4
        && AGGREGATES.iter().any(|function| s.is_word(start, function))
        && s.is_symbol(start + 1, '(')
        && (s.is_symbol(start + 2, '*') || s.name(start + 2).is_some() || constant)
        && s.is_symbol(start + 3, ')');
    match is_all || is_aggregate || bare_column(s, &item).is_some() {
        true => Ok(()),
        false => Err(format!(
            "for SQLite a look-up reads columns, *, or the count, min, max, sum or avg of a column, not {}",
            text_of(s, &item)
        )),
    }
}

/// Comparisons by `=`, joined by AND.
fn conditions(s: &Scanned<'_>, range: Range<usize>) -> Refused<Vec<(String, Term)>> {
    joined(s, range).into_iter().map(|part| equality(s, part)).collect()
}

/// Ranges of tokens between ANDs.
fn joined(s: &Scanned<'_>, range: Range<usize>) -> Vec<Range<usize>> {
    let (mut parts, mut start) = (Vec::new(), range.start);
    for i in range.clone() {
        if s.is_word(i, "and") {
            parts.push(start..i);
            start = i + 1;
        }
    }
    parts.push(start..range.end);
    parts
}

/// `column = term`
fn equality(s: &Scanned<'_>, range: Range<usize>) -> Refused<(String, Term)> {
    if range.len() < 3 || !s.is_symbol(range.start + 1, '=') {
        return Err(format!(
            "for SQLite only column = value is taken, not {}",
            text_of(s, &range)
        ));
    }
    let column = column_name(s, range.start..range.start + 1)?;
    Ok((column, term(s, &(range.start + 2..range.end))?))
}

/// The statement's text from the first of these tokens to the last.
fn text_of<'t>(s: &Scanned<'t>, range: &Range<usize>) -> &'t str {
    match s.tokens.get(range.clone()) {
        Some([first, .., last]) => &s.text[first.span.start..last.span.end],
        Some([only]) => &s.text[only.span.clone()],
        _ => "nothing",
    }
}

fn no_value(text: &str) -> String {
    format!("for SQLite a value is a marker or a literal, not {text}")
}

fn term(s: &Scanned<'_>, range: &Range<usize>) -> Refused<Term> {
    let text = text_of(s, range);
    match s.tokens.get(range.clone()) {
        Some([]) | None => Err("a value is missing".into()),
        Some([token]) if token.kind == TokenKind::Marker => Ok(Term::Marker(s.str(range.start)[1..].to_owned())),
        // Anything else would be an expression of SQLite's, which CQL does not have: a condition in it would be applied to other rows.
        _ if is_value(s, range) || range.len() == 1 && s.is_word(range.start, "null") => {
            Ok(Term::Literal(text.to_owned()))
        }
        _ => Err(no_value(text)),
    }
}

/// The clause between the table (or the values) and the rest: nothing, or a TTL.
fn using_ttl(s: &Scanned<'_>, range: Range<usize>) -> Refused<Option<Duration>> {
    match range.len() {
        0 => Ok(None),
        3 if s.is_word(range.start, "using") && s.is_word(range.start + 1, "ttl") => {
            let seconds: u64 = s
                .str(range.start + 2)
                .parse()
                .map_err(|_| "for SQLite a TTL is a number of seconds")?;
            Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
        }
        _ => Err(format!(
            "{} is not for SQLite; the timestamp is Messina's",
            s.str(range.start).to_uppercase()
        )),
    }
}

/// `[keyspace.]table` at token `i`, and the token after it.
fn table_name(s: &Scanned<'_>, i: usize) -> Refused<(String, usize)> {
    if s.is_symbol(i + 1, '.') {
        return Ok((column_name(s, i + 2..i + 3)?, i + 3));
    }
    Ok((column_name(s, i..i + 1)?, i + 1))
}

/// The name that this single token spells.
pub(super) fn column_name(s: &Scanned<'_>, range: Range<usize>) -> Refused<String> {
    match s.tokens.get(range.clone()) {
        Some([token]) if matches!(token.kind, TokenKind::Word | TokenKind::QuotedName) => Ok(kept(s.str(range.start))),
        _ => Err(format!("a name was expected, not {:?}", s.str(range.start))),
    }
}

/// The column that `a`, `t.a` or `a AS b` selects.
fn bare_column(s: &Scanned<'_>, item: &Range<usize>) -> Option<String> {
    let len = if item.len() >= 2 && s.is_word(item.end - 2, "as") {
        item.len() - 2
    } else {
        item.len()
    };
    let name = match len {
        1 => item.start,
        3 if s.is_symbol(item.start + 1, '.') => item.start + 2,
        _ => return None,
    };
    column_name(s, name..name + 1).ok()
}

/// The column before the operator of a marker or a literal, if it stands alone: `column = :m`, `column IN (…, :m, …)`, `LIMIT :m`.
pub(super) fn compared_with(s: &Scanned<'_>, marker: usize) -> (Option<String>, Compared) {
    let at = |i: Option<usize>| i.and_then(|i| column_name(s, i..i + 1).ok());
    if marker > 0 && s.is_word(marker - 1, "limit") {
        return (None, Compared::Limit);
    }
    let operator = |i: usize| ['=', '<', '>', '!'].iter().any(|c| s.is_symbol(i, *c));
    let mut i = marker;
    while i > 0 && operator(i - 1) {
        i -= 1;
    }
    if i < marker {
        let equal = marker - i == 1 && s.is_symbol(i, '=');
        return (
            at(i.checked_sub(1)),
            if equal { Compared::Equal } else { Compared::Otherwise },
        );
    }
    // Go back over the list to its opening parenthesis.
    while i > 0
        && (s.is_symbol(i - 1, ',')
            || matches!(
                s.tokens[i - 1].kind,
                TokenKind::Marker | TokenKind::Constant | TokenKind::Text
            ))
    {
        i -= 1;
    }
    let list = i >= 2 && s.is_symbol(i - 1, '(') && s.is_word(i - 2, "in");
    (if list { at(i.checked_sub(3)) } else { None }, Compared::Otherwise)
}

/// Ranges of tokens between commas outside brackets.
fn split(s: &Scanned<'_>, range: Range<usize>) -> Vec<Range<usize>> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0i32, range.start);
    for i in range.clone() {
        match s.tokens[i].kind {
            TokenKind::Symbol('(' | '[' | '{') => depth += 1,
            TokenKind::Symbol(')' | ']' | '}') => depth -= 1,
            TokenKind::Symbol(',') if depth == 0 => {
                parts.push(start..i);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(start..range.end);
    parts
}

/// The parenthesis that closes the one at token `open`.
fn closing(s: &Scanned<'_>, open: usize) -> Option<usize> {
    if !s.is_symbol(open, '(') {
        return None;
    }
    let mut depth = 0i32;
    (open..s.tokens.len()).find(|i| {
        depth += i32::from(s.is_symbol(*i, '(')) - i32::from(s.is_symbol(*i, ')'));
        depth == 0
    })
}

/// The position after the statement's last token, apart from semicolons.
fn end(s: &Scanned<'_>) -> usize {
    let last = s.tokens.iter().rposition(|t| t.kind != TokenKind::Symbol(';'));
    last.map_or(0, |i| i + 1)
}

fn refuse_positional(s: &Scanned<'_>) -> Refused<()> {
    match s.tokens.iter().any(|t| t.kind == TokenKind::Positional) {
        true => Err("markers have names: :name rather than ?".into()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::super::table::Table;
    use super::*;

    #[test]
    fn a_look_up_is_understood() {
        let s = select("SELECT a, b AS c, count(*) FROM ks.t WHERE K = :k AND x >= :x AND y IN (:y, 2, :z) LIMIT :n ALLOW FILTERING")
            .unwrap();
        assert_eq!(s.table, "t");
        assert_eq!(s.items, Some(vec![Some("a".into()), Some("b".into()), None]));
        let of = |name: &str| {
            s.markers
                .iter()
                .find(|(n, ..)| n == name)
                .map(|(_, c, e)| (c.as_deref(), *e))
        };
        assert_eq!(of("k"), Some((Some("k"), Compared::Equal)));
        assert_eq!(of("x"), Some((Some("x"), Compared::Otherwise)));
        assert_eq!(of("z"), Some((Some("y"), Compared::Otherwise)));
        assert_eq!(of("n"), Some((None, Compared::Limit)));
    }

    #[test]
    fn look_ups_that_cql_has_too_are_taken() {
        for cql in [
            "SELECT * FROM ks.t",
            "select DISTINCT k from t;",
            "SELECT count(*), count(1) AS n, MIN (a) AS low, max(\"B\"), sum(c), avg(d) FROM t WHERE k = :k",
            "SELECT \"A\" AS \"from\", b FROM \"T\" WHERE \"where\" = 'a OR b' AND c >= -1.5 AND d<1e-5 AND e <= TRUE",
            "SELECT a FROM t WHERE k IN (:x, 'y', -3) AND (c, d) > (:c, 2) ORDER BY c DESC, d LIMIT 3 ALLOW FILTERING",
            "SELECT a FROM t WHERE id = f1111111-1111-1111-1111-111111111111 GROUP BY a, b LIMIT :n",
        ] {
            assert!(select(cql).is_ok(), "{cql}: {:?}", select(cql));
        }
    }

    #[test]
    fn look_ups_that_only_sqlite_has_are_refused_by_name() {
        for (cql, words) in [
            ("SELECT a FROM t WHERE k = :k OR a = 1", "not k = :k OR a = 1"),
            ("SELECT a FROM t WHERE k = 'x' AND (a = 1 OR b = 2)", "OR b = 2)"),
            ("SELECT a FROM t WHERE k = :k AND a LIKE 'x%'", "not a LIKE 'x%'"),
            ("SELECT a FROM t WHERE k = :k AND a != 1", "not a != 1"),
            ("SELECT a FROM t WHERE k = :k AND a <> 1", "not a <> 1"),
            ("SELECT a FROM t WHERE k == :k", "not k == :k"),
            ("SELECT a FROM t WHERE k = :k AND a BETWEEN 1 AND 2", "not a BETWEEN 1"),
            ("SELECT a FROM t WHERE k = :k AND a IS NULL", "not a IS NULL"),
            ("SELECT a FROM t WHERE k = :k AND NOT a = 1", "not NOT a = 1"),
            ("SELECT a FROM t WHERE k = :k AND a NOT IN (1)", "not a NOT IN (1)"),
            ("SELECT a FROM t WHERE k IN :ks", "not k IN :ks"),
            ("SELECT a FROM t WHERE k = (:k)", "not k = (:k)"),
            ("SELECT a FROM t WHERE k = b", "not k = b"),
            ("SELECT a FROM t WHERE k = :k || 'x'", "not k = :k || 'x'"),
            ("SELECT a FROM t WHERE (k, c) = (:k)", "not (k, c) = (:k)"),
            ("SELECT a FROM t WHERE lower(k) = :k", "not lower(k) = :k"),
            ("SELECT a FROM t WHERE k = upper(:k)", "not k = upper(:k)"),
            ("SELECT a FROM t WHERE k = $$x$$", "not k = $$x$$"),
            (
                "SELECT a FROM t WHERE k IN (SELECT k FROM u)",
                "not k IN (SELECT k FROM u)",
            ),
            (
                "SELECT a FROM t WHERE k IN (SELECT k FROM u WHERE c = 1)",
                "IN (SELECT k FROM u",
            ),
            ("SELECT a FROM t WHERE k = :k AND", "not nothing"),
            ("SELECT a FROM t WHERE", "not nothing"),
            ("SELECT a FROM t UNION SELECT a FROM u", "not UNION SELECT a FROM u"),
            (
                "SELECT a FROM t WHERE k = :k UNION SELECT a FROM u",
                "UNION SELECT a FROM u",
            ),
            (
                "SELECT a FROM t JOIN u ON t.k = u.k WHERE a = 1",
                "not JOIN u ON t.k = u.k",
            ),
            ("SELECT a FROM t, u", "not , u"),
            (
                "SELECT a FROM t WHERE k = :k ORDER BY lower(a)",
                "not ORDER BY lower(a)",
            ),
            (
                "SELECT a FROM t WHERE k = :k GROUP BY a HAVING a > 1",
                "not GROUP BY a HAVING",
            ),
            ("SELECT a FROM t WHERE k = :k LIMIT 1 OFFSET 2", "not LIMIT 1 OFFSET 2"),
            ("SELECT a FROM t WHERE k = :k LIMIT", "not LIMIT"),
            (
                "SELECT coalesce(a, 1) AS a FROM t WHERE k = :k",
                "not coalesce(a, 1) AS a",
            ),
            ("SELECT b, upper(a) FROM t WHERE k = :k", "not upper(a)"),
            ("SELECT a || b AS ab FROM t WHERE k = :k", "not a || b AS ab"),
            (
                "SELECT (SELECT a FROM u) AS a FROM t WHERE k = :k",
                "not (SELECT a FROM u) AS a",
            ),
            ("SELECT FROM t WHERE k = :k", "not nothing"),
        ] {
            let refused = select(cql).unwrap_err();
            assert!(refused.contains(words), "{cql}: {refused}");
        }
    }

    #[test]
    fn changes_are_understood() {
        let given = |name: &str| Term::Marker(name.into());
        let insert = change("INSERT INTO ks.t (k, \"V\"\"\", w) VALUES (:k, :v, 'a,b') USING TTL 60;").unwrap();
        assert_eq!(
            insert.columns,
            [
                ("k".into(), given("k")),
                ("V\"".into(), given("v")),
                ("w".into(), Term::Literal("'a,b'".into()))
            ]
        );
        assert_eq!(insert.ttl, Some(Ttl::Fixed(Duration::from_secs(60))));
        let update = change("UPDATE t USING TTL 5 SET v = :v, w = -1 WHERE k = :k AND c = 2").unwrap();
        assert_eq!(
            update.columns,
            [("v".into(), given("v")), ("w".into(), Term::Literal("-1".into()))]
        );
        assert_eq!(
            update.conditions,
            [("k".into(), given("k")), ("c".into(), Term::Literal("2".into()))]
        );
        let delete = change("DELETE FROM t WHERE k = :k").unwrap();
        assert_eq!(
            [insert.verb, update.verb, delete.verb],
            [Verb::Insert, Verb::Update, Verb::Delete]
        );
        assert!(delete.columns.is_empty());
        assert_eq!(delete.conditions, [("k".into(), given("k"))]);
    }

    #[test]
    fn what_sqlite_cannot_do_is_refused_in_words() {
        for (cql, word) in [
            ("INSERT INTO t (k) VALUES (:k) IF NOT EXISTS", "IF"),
            ("INSERT INTO t (k) VALUES (?)", ":name"),
            ("INSERT INTO t (k, v) VALUES (:k)", "2 columns and 1 values"),
            ("INSERT INTO t JSON :j", "INSERT INTO table"),
            ("INSERT INTO t (k) VALUES (:k) USING TIMESTAMP 5", "timestamp"),
            (
                "INSERT INTO t (k, v) VALUES (:k, upper(:k))",
                "a marker or a literal, not upper(:k)",
            ),
            ("INSERT INTO t (k, v) VALUES (:k, upper('x'))", "not upper('x')"),
            ("INSERT INTO t (k, v) VALUES (:k, $$x$$)", "not $$x$$"),
            ("UPDATE t SET n = n + :n WHERE k = :k", "n + :n"),
            ("UPDATE t SET n = n WHERE k = :k", "not n"),
            ("DELETE FROM t WHERE k = :k AND c = 1 OR v = 'x'", "not 1 OR v = 'x'"),
            ("UPDATE t SET n = :n WHERE k > :k", "column = value"),
            ("DELETE v FROM t WHERE k = :k", "whole rows"),
            ("TRUNCATE t", "TRUNCATE"),
            ("", "INSERT"),
        ] {
            let refused = change(cql).unwrap_err();
            assert!(refused.contains(word), "{cql}: {refused}");
        }
        // Only the table tells which columns are its primary key.
        let connection = Connection::open_in_memory().unwrap();
        let sql = "CREATE TABLE t (id bigint, seq int, note text, total double, PRIMARY KEY (id, seq))";
        connection.execute_batch(sql).unwrap();
        let table = Table::read(&connection, "t", "").unwrap();
        for (cql, words) in [
            (
                "UPDATE t SET note = 'new' WHERE id = :id AND seq = :seq AND total = 99.0",
                "an UPDATE is by the primary key alone: remove total",
            ),
            (
                "DELETE FROM t WHERE id = :id AND seq = :seq AND TOTAL = :total",
                "a DELETE is by the primary key alone: remove total",
            ),
            (
                "UPDATE t SET note = :note WHERE id = :id",
                "the primary key of t is not given in full: seq",
            ),
            (
                "UPDATE t SET note = :note, seq = :seq WHERE id = :id",
                "the primary key of t is not given in full: seq",
            ),
            (
                "UPDATE t SET note = :note, \"SEQ\" = 2 WHERE id = :id AND seq = :seq",
                "column SEQ is of the primary key of t",
            ),
            (
                "UPDATE t SET note = :a, Note = :b WHERE id = :id AND seq = :seq",
                "column note is named twice",
            ),
            (
                "UPDATE t SET note = :a WHERE id = :id AND seq = 1 AND seq = 2",
                "column seq is named twice",
            ),
            (
                "INSERT INTO t (id, seq, note, note) VALUES (:id, :seq, :a, :b)",
                "column note is named twice",
            ),
            (
                "DELETE FROM t WHERE id = :id AND seq = 1 AND id = 2",
                "column id is named twice",
            ),
        ] {
            let refused = change(cql).unwrap().sql(&table).unwrap_err();
            assert!(refused.contains(words), "{cql}: {refused}");
        }
        let sound = change("UPDATE t SET note = 'new', total = :total WHERE seq = :seq AND id = :id").unwrap();
        assert_eq!(sound.marker_names(), ["total", "seq", "id"]);
        assert!(sound.sql(&table).is_ok());
    }
}
