//! A scanner for statements: words, names, markers and literals, outside comments and strings.
//!
//! The database parses CQL, not Messina. Four things still depend on the text: a declared TTL is added to it, statements that are not idempotent are
//! recognized, `check` reports what it can without a database, and SQLite gets its own dialect (see `sqlite::parse`), whose strings, names and
//! comments are the same. CQL's lexical rules: <https://cassandra.apache.org/doc/latest/cassandra/developing/cql/definitions.html>. Invariant: it
//! never looks inside a string, a quoted name or a comment, and never changes what it does not understand.

use std::ops::Range;
use std::time::Duration;

use super::{ColumnType, Marker, StoreError};

/// Cassandra's and ScyllaDB's limit: 20 years.
const MAX_TTL: u64 = 20 * 365 * 24 * 60 * 60;

/// Functions that return a different value each time.
const VOLATILE: [&str; 10] = [
    "now",
    "uuid",
    "currenttimestamp",
    "currentdate",
    "currenttime",
    "currenttimeuuid",
    "current_timestamp",
    "current_date",
    "current_time",
    "current_timeuuid",
];

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Keyword or bare name.
    Word,
    /// `"name"`.
    QuotedName,
    /// `'text'` or `$$text$$`.
    Text,
    /// A number, a UUID or a blob constant.
    Constant,
    /// `:name`, the colon included.
    Marker,
    /// `?`
    Positional,
    /// Any other character.
    Symbol(char),
}

/// A token and its position, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Its position.
    pub span: Range<usize>,
}

/// A statement and its tokens.
#[derive(Debug, Clone)]
pub struct Scanned<'t> {
    /// The whole text.
    pub text: &'t str,
    /// Its tokens in order, without comments and white space.
    pub tokens: Vec<Token>,
}

/// Splits a statement into tokens. An unterminated token runs to the end: the database will report it.
pub fn scan(text: &str) -> Scanned<'_> {
    let bytes = text.as_bytes();
    let until = |from: usize, end: &str| text[from..].find(end).map_or(text.len(), |i| from + i + end.len());
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
    let name_end = |from: usize| {
        bytes[from..]
            .iter()
            .position(|b| !is_name(*b))
            .map_or(text.len(), |i| from + i)
    };
    // The position after the closing quote; a doubled quote stands for itself.
    let unquoted = |mut at: usize, quote: u8| {
        while let Some(i) = bytes[at..].iter().position(|b| *b == quote) {
            at += i + 1;
            if bytes.get(at) != Some(&quote) {
                return at;
            }
            at += 1;
        }
        text.len()
    };
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let next = bytes.get(at + 1).copied();
        let kind = match bytes[at] {
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'-' | b'/' if next == Some(bytes[at]) => {
                at = until(at, "\n");
                continue;
            }
            b'/' if next == Some(b'*') => {
                at = until(at + 2, "*/");
                continue;
            }
            b'$' if next == Some(b'$') => {
                at = until(at + 2, "$$");
                TokenKind::Text
            }
            b'\'' => {
                at = unquoted(at + 1, b'\'');
                TokenKind::Text
            }
            b'"' => {
                at = unquoted(at + 1, b'"');
                TokenKind::QuotedName
            }
            b':' if next.is_some_and(is_name) => {
                at = name_end(at + 1);
                TokenKind::Marker
            }
            b'?' => {
                at += 1;
                TokenKind::Positional
            }
            b if b.is_ascii_digit() => {
                let more = |b: u8| is_name(b) || b == b'.';
                at = bytes[at..]
                    .iter()
                    .position(|b| !more(*b))
                    .map_or(text.len(), |i| at + i);
                TokenKind::Constant
            }
            b if is_name(b) => {
                at = name_end(at);
                TokenKind::Word
            }
            _ => {
                at += 1;
                TokenKind::Symbol(char::from(bytes[start]))
            }
        };
        tokens.push(Token { kind, span: start..at });
    }
    Scanned { text, tokens }
}

/// A name as the database stores it: in lower case, unless it is in double quotes, in which a doubled quote stands for itself.
pub(crate) fn kept(name: &str) -> String {
    match name.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"').unwrap_or(quoted).replace("\"\"", "\""),
        None => name.to_ascii_lowercase(),
    }
}

impl<'t> Scanned<'t> {
    /// The text of token `i`.
    pub fn str(&self, i: usize) -> &'t str {
        self.tokens.get(i).map_or("", |t| &self.text[t.span.clone()])
    }

    /// The names of the markers, in order.
    pub fn markers(&self) -> impl Iterator<Item = &'t str> {
        let text = self.text;
        let markers = self.tokens.iter().filter(|token| token.kind == TokenKind::Marker);
        markers.map(move |token| &text[token.span.start + 1..token.span.end])
    }

    /// Finds a marker, as the statement first spells it, by the name that a CQL server reports: the server lower-cases names without quotes.
    pub fn marker(&self, told: &str) -> Option<&'t str> {
        self.markers().find(|name| name.to_ascii_lowercase() == told)
    }

    /// Whether token `i` is this keyword.
    pub fn is_word(&self, i: usize, word: &str) -> bool {
        self.tokens.get(i).is_some_and(|t| t.kind == TokenKind::Word) && self.str(i).eq_ignore_ascii_case(word)
    }

    /// Whether token `i` is this character.
    pub fn is_symbol(&self, i: usize, symbol: char) -> bool {
        self.tokens.get(i).is_some_and(|t| t.kind == TokenKind::Symbol(symbol))
    }

    /// The volatile function, such as `now()`, that is called at token `i`.
    pub(crate) fn volatile(&self, i: usize) -> Option<&'static str> {
        let called = self.is_symbol(i + 1, '(') && self.is_symbol(i + 2, ')');
        VOLATILE
            .into_iter()
            .find(|function| called && self.is_word(i, function))
    }

    /// The first position of a keyword anywhere.
    pub fn first_word(&self, word: &str) -> Option<usize> {
        (0..self.tokens.len()).find(|i| self.is_word(*i, word))
    }

    /// Whether a keyword occurs anywhere.
    pub fn has_word(&self, word: &str) -> bool {
        self.first_word(word).is_some()
    }

    /// Whether a symbol occurs anywhere.
    pub fn has_symbol(&self, symbol: char) -> bool {
        (0..self.tokens.len()).any(|i| self.is_symbol(i, symbol))
    }

    /// The first position of a keyword outside all parentheses.
    pub fn find_word(&self, word: &str) -> Option<usize> {
        let mut depth = 0i32;
        (0..self.tokens.len()).find(|i| {
            match self.tokens[*i].kind {
                TokenKind::Symbol('(') => depth += 1,
                TokenKind::Symbol(')') => depth -= 1,
                _ => {}
            }
            depth == 0 && self.is_word(*i, word)
        })
    }

    /// The name at token `i`, if it can be one, as the database stores it.
    pub(crate) fn name(&self, i: usize) -> Option<String> {
        let is_name = matches!(self.tokens.get(i)?.kind, TokenKind::Word | TokenKind::QuotedName);
        is_name.then(|| kept(self.str(i)))
    }

    /// The parts between commas outside brackets, from token `from` to the closing bracket, or to `end`.
    fn parts(&self, from: usize, end: usize) -> Vec<Range<usize>> {
        let (mut parts, mut start, mut depth) = (Vec::new(), from, 0i32);
        let mut stop = end;
        for i in from..end {
            match self.tokens[i].kind {
                TokenKind::Symbol('(' | '[' | '{') => depth += 1,
                TokenKind::Symbol(')' | ']' | '}') if depth == 0 => {
                    stop = i;
                    break;
                }
                TokenKind::Symbol(')' | ']' | '}') => depth -= 1,
                TokenKind::Symbol(',') if depth == 0 => {
                    parts.push(start..i);
                    start = i + 1;
                }
                _ => {}
            }
        }
        if start < stop {
            parts.push(start..stop);
        }
        parts
    }

    /// The columns that an INSERT names, and their values.
    fn inserted(&self) -> Vec<(Range<usize>, Range<usize>)> {
        let count = self.tokens.len();
        let Some(open) = (0..count).find(|i| self.is_symbol(*i, '(')) else {
            return Vec::new();
        };
        let columns = self.parts(open + 1, count);
        let after = columns.last().map_or(count, |part| part.end);
        let Some(values) = (after..count).find(|i| self.is_word(*i, "values")) else {
            return Vec::new();
        };
        columns.into_iter().zip(self.parts(values + 2, count)).collect()
    }

    /// Whether a value is `null` or `[]`: either removes what is stored, so it can be repeated.
    fn is_nothing(&self, value: &Range<usize>) -> bool {
        match value.len() {
            1 => self.is_word(value.start, "null"),
            2 => self.is_symbol(value.start, '[') && self.is_symbol(value.start + 1, ']'),
            _ => false,
        }
    }

    /// Whether the select list may contain a `*` for all columns.
    pub fn selects_all(&self) -> bool {
        let from = self.find_word("from").unwrap_or(self.tokens.len());
        let mut depth = 0i32;
        (0..from).any(|i| {
            match self.tokens[i].kind {
                TokenKind::Symbol('(') => depth += 1,
                TokenKind::Symbol(')') => depth -= 1,
                _ => {}
            }
            depth == 0 && self.is_symbol(i, '*')
        })
    }

    /// Whether such a column occurs after WHERE, followed by a token for which `by` holds.
    fn compares(&self, is_column: impl Fn(&str) -> bool, by: impl Fn(usize) -> bool) -> bool {
        let Some(start) = self.find_word("where") else {
            return false;
        };
        (start + 1..self.tokens.len()).any(|i| self.name(i).as_deref().is_some_and(&is_column) && by(i + 1))
    }

    /// Whether such a column is compared by `=` or `IN` after WHERE.
    pub fn binds(&self, is_column: impl Fn(&str) -> bool) -> bool {
        self.compares(is_column, |i| self.is_symbol(i, '=') || self.is_word(i, "in"))
    }

    /// Whether this column is compared by `=` after WHERE.
    pub fn equals(&self, column: &str) -> bool {
        self.compares(|name| name == column, |i| self.is_symbol(i, '='))
    }

    /// Whether rows of several partitions have to be sorted: there is an `ORDER BY`, and one of these columns is compared by `IN`, except `IN (x)`.
    pub fn sorts_partitions<'c>(&self, partition_key: impl IntoIterator<Item = &'c str>) -> bool {
        let one = |i: usize| self.is_symbol(i + 1, '(') && self.is_symbol(i + 3, ')');
        let several = |i: usize| self.is_word(i, "in") && !one(i);
        let ordered = self.find_word("order").is_some_and(|i| self.is_word(i + 1, "by"));
        ordered
            && partition_key
                .into_iter()
                .any(|column| self.compares(|name| name == column, several))
    }

    /// Whether there is a `LIMIT` of at most this many rows, or a bound one.
    pub fn is_limited(&self, rows: i32) -> bool {
        let limits = |i: &usize| self.is_word(*i, "limit") && !self.is_word(*i - 1, "partition");
        let limit = (1..self.tokens.len()).rev().find(limits).map(|i| i + 1);
        limit.is_some_and(|i| match self.tokens.get(i).map(|t| t.kind) {
            Some(TokenKind::Marker) => true,
            _ => self.str(i).parse().is_ok_and(|limit: i32| limit <= rows),
        })
    }
}

/// The `USING` clause of a write, apart from what the request itself carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Using {
    /// The TTL of what is written.
    pub ttl: Option<Ttl>,
    /// Whether the timestamp is bound to [`TIMESTAMP_MARKER`].
    pub timestamp: bool,
}

/// The TTL of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// Always the same, in whole seconds.
    Fixed(Duration),
    /// Bound to [`TTL_MARKER`], in seconds.
    Bound,
}

/// The marker of a bound [`Ttl`].
pub const TTL_MARKER: &str = "messina_ttl";
/// The marker of a bound timestamp.
pub const TIMESTAMP_MARKER: &str = "messina_timestamp";

/// The statement with this `USING`. Refuses a TTL where there can be none (look-ups, deletes, batches), a timestamp if the statement is not a write, and
/// either if the statement sets it already.
pub fn with_using(cql: &str, using: Using) -> Result<String, String> {
    let scanned = scan(cql);
    let verb = ["insert", "update", "delete"]
        .iter()
        .position(|verb| scanned.is_word(0, verb));
    let (insert, delete) = (verb == Some(0), verb == Some(2));
    let mut parts = Vec::new();
    if let Some(ttl) = using.ttl {
        if verb.is_none() || delete {
            let verb = scanned.str(0).to_uppercase();
            return Err(format!("a ttl is for INSERT and UPDATE, not for {verb}"));
        }
        parts.push(match ttl {
            Ttl::Fixed(ttl) => format!("TTL {}", ttl_seconds(ttl)?),
            Ttl::Bound => format!("TTL :{TTL_MARKER}"),
        });
    }
    if using.timestamp {
        parts.push(format!("TIMESTAMP :{TIMESTAMP_MARKER}"));
    }
    if parts.is_empty() {
        return Ok(cql.to_owned());
    }
    if verb.is_none() {
        return Err("a write is an INSERT, UPDATE or DELETE".to_owned());
    }
    let clause = parts.join(" AND ");
    // The clause goes before SET or WHERE, or at the end.
    let before = match (insert, delete) {
        (true, _) => None,
        (_, true) => scanned.find_word("where"),
        _ => scanned.find_word("set"),
    };
    let found = scanned
        .find_word("using")
        .filter(|i| before.is_none_or(|before| *i < before));
    if let Some(found) = found {
        let end = before.unwrap_or(scanned.tokens.len());
        let says = |word| (found..end).any(|i| scanned.is_word(i, word));
        if using.ttl.is_some() && says("ttl") {
            return Err("the statement has its own TTL beside the step's ttl".into());
        }
        if using.timestamp && says("timestamp") {
            return Err("the statement has its own TIMESTAMP, so it cannot be grouped".into());
        }
        let at = scanned.tokens[found].span.end;
        return Ok(format!("{} {clause} AND{}", &cql[..at], &cql[at..]));
    }
    if let Some(before) = before {
        let at = scanned.tokens[before].span.start;
        return Ok(format!("{}USING {clause} {}", &cql[..at], &cql[at..]));
    }
    let last = scanned.tokens.iter().rposition(|t| t.kind != TokenKind::Symbol(';'));
    let at = last.map_or(cql.len(), |i| scanned.tokens[i].span.end);
    Ok(format!("{} USING {clause}{}", &cql[..at], &cql[at..]))
}

/// The TTL that a bound number of seconds means; as in CQL, zero means none.
pub fn bound_ttl(seconds: i64) -> Result<Option<Duration>, StoreError> {
    match u64::try_from(seconds) {
        Ok(0) => Ok(None),
        Ok(seconds) if seconds <= MAX_TTL => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(StoreError::permanent(
            "invalid",
            format!("a time to live of {seconds} s: it is from 0 s, which is none, to 20 years"),
        )),
    }
}

fn ttl_seconds(ttl: Duration) -> Result<u64, String> {
    let seconds = ttl.as_secs();
    if seconds == 0 || ttl.subsec_nanos() != 0 || seconds > MAX_TTL {
        return Err(format!("a ttl is in whole seconds, from 1 s to 20 years; got {ttl:?}"));
    }
    Ok(seconds)
}

/// Why a write cannot be repeated, if the text and the markers' types show it: conditions, counters, appends to lists,
/// and values that the server generates each time.
pub fn unrepeatable(cql: &str, markers: &[Marker]) -> Option<String> {
    let scanned = scan(cql);
    if scanned.find_word("if").is_some() {
        return Some("it is conditional (IF), a lightweight transaction".into());
    }
    if let Some(counter) = markers.iter().find(|m| m.ty == ColumnType::Counter) {
        return Some(format!("it changes the counter bound by :{}", counter.name));
    }
    for i in 0..scanned.tokens.len() {
        if let Some(function) = scanned.volatile(i) {
            return Some(format!("{function}() gives another value each time"));
        }
        if let Some(reason) = appends(&scanned, i, markers) {
            return Some(reason);
        }
    }
    None
}

/// What a statement does to a list, and that cannot be repeated if the list is not frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListUse {
    /// Gives a column a whole value. The server removes the old elements, and inserts each new one under an identity that it generates: written a
    /// second time with the same timestamp, each element is there twice.
    Whole(String),
    /// Sets any columns by JSON.
    Json,
    /// Writes or deletes an element by its index: the second time it hits the element that took its place.
    Element(String),
}

/// All such uses in a write, whatever the columns' types.
pub fn list_uses(cql: &str) -> Vec<ListUse> {
    let scanned = scan(cql);
    let count = scanned.tokens.len();
    if scanned.is_word(0, "insert") {
        let open = (0..count).find(|i| scanned.is_symbol(*i, '('));
        // Start after the table's name, which may be the same word.
        let mut before = 3..open.unwrap_or(count);
        if before.any(|i| scanned.is_word(i, "json") && !scanned.is_symbol(i - 1, '.')) {
            return vec![ListUse::Json];
        }
        return scanned
            .inserted()
            .into_iter()
            .filter(|(_, value)| !scanned.is_nothing(value))
            .filter_map(|(column, _)| scanned.name(column.start).map(ListUse::Whole))
            .collect();
    }
    if scanned.is_word(0, "update") {
        let Some(set) = scanned.find_word("set") else {
            return Vec::new();
        };
        let end = scanned.find_word("where").unwrap_or(count);
        let uses = scanned.parts(set + 1, end).into_iter().filter_map(|part| {
            let name = scanned.name(part.start)?;
            if scanned.is_symbol(part.start + 1, '[') {
                return Some(ListUse::Element(name));
            }
            // `l = l - …` only removes elements.
            let less = scanned.is_symbol(part.start + 3, '-') && scanned.name(part.start + 2).as_ref() == Some(&name);
            let whole = scanned.is_symbol(part.start + 1, '=') && !less;
            let whole = whole && !scanned.is_nothing(&(part.start + 2..part.end));
            whole.then_some(ListUse::Whole(name))
        });
        return uses.collect();
    }
    if scanned.is_word(0, "delete") {
        let end = scanned.find_word("from").unwrap_or(count);
        let parts = scanned.parts(1, end).into_iter();
        let elements = parts.filter(|part| scanned.is_symbol(part.start + 1, '['));
        return elements
            .filter_map(|part| scanned.name(part.start).map(ListUse::Element))
            .collect();
    }
    Vec::new()
}

/// The markers of a write that belong to the primary key, whose columns are `key`. In an INSERT these are the markers of the key's values; otherwise those
/// after WHERE, which can contain nothing else. The markers of a range are left out, because a range names no row.
pub fn key_markers(cql: &str, key: &[String], markers: &[Marker]) -> Box<[usize]> {
    let scanned = scan(cql);
    let count = scanned.tokens.len();
    let places: Vec<Range<usize>> = if scanned.is_word(0, "insert") {
        let pairs = scanned.inserted().into_iter();
        pairs
            .filter(|(column, _)| scanned.name(column.start).is_some_and(|name| key.contains(&name)))
            .map(|(_, value)| value)
            .collect()
    } else {
        let start = scanned.find_word("where").unwrap_or(count);
        let end = (start..count).find(|i| scanned.is_word(*i, "if")).unwrap_or(count);
        std::iter::once(start..end).collect()
    };
    let is_bound = |i: usize| {
        let after = |i: Option<usize>| i.is_some_and(|i| scanned.is_symbol(i, '<') || scanned.is_symbol(i, '>'));
        let last = i.checked_sub(1);
        after(last) || last.is_some_and(|last| scanned.is_symbol(last, '=') && after(last.checked_sub(1)))
    };
    let is_key = |marker: &Marker| {
        let named = |i: usize| {
            scanned.tokens[i].kind == TokenKind::Marker
                && scanned.str(i)[1..].eq_ignore_ascii_case(&marker.name)
                && !is_bound(i)
        };
        places.iter().cloned().flatten().any(named)
    };
    (0..markers.len()).filter(|i| is_key(&markers[*i])).collect()
}

/// Whether each of these columns is compared by `=` or `IN` after WHERE.
pub fn compares_all<'c>(cql: &str, columns: impl IntoIterator<Item = &'c str>) -> bool {
    let scanned = scan(cql);
    columns.into_iter().all(|column| scanned.binds(|name| name == column))
}

/// Recognises `a = a + x`, `a = x + a`, `a = a - x`, `a += x` and `a -= x` at the equals sign, unless x is a set or a map, or is removed from a list:
/// these can be repeated, because what was stored later has a later timestamp and stays.
fn appends(scanned: &Scanned<'_>, equals: usize, markers: &[Marker]) -> Option<String> {
    if equals == 0 || !scanned.is_symbol(equals, '=') {
        return None;
    }
    let short = scanned.is_symbol(equals - 1, '+') || scanned.is_symbol(equals - 1, '-');
    let column = scanned.str((equals - 1).checked_sub(usize::from(short))?);
    let set = scanned.find_word("set")?;
    let end = scanned.find_word("where").unwrap_or(scanned.tokens.len());
    if equals < set || equals > end {
        return None;
    }
    // The assignment ends at a comma outside brackets.
    let mut depth = 0i32;
    let stop = (equals + 1..end).find(|i| {
        match scanned.tokens[*i].kind {
            TokenKind::Symbol('(' | '[' | '{') => depth += 1,
            TokenKind::Symbol(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        depth == 0 && scanned.is_symbol(*i, ',')
    });
    let range = equals + 1..stop.unwrap_or(end);
    let itself = range.clone().any(|i| {
        matches!(scanned.tokens[i].kind, TokenKind::Word | TokenKind::QuotedName)
            && scanned.str(i).eq_ignore_ascii_case(column)
    });
    let operator = range
        .clone()
        .any(|i| scanned.is_symbol(i, '+') || scanned.is_symbol(i, '-'));
    if !short && (!itself || !operator) {
        return None;
    }
    let adds = scanned.is_symbol(equals - 1, '+') || range.clone().any(|i| scanned.is_symbol(i, '+'));
    let repeatable = |ty: &ColumnType| match ty {
        ColumnType::Set(_) | ColumnType::Map(..) => true,
        ColumnType::List(_) => !adds,
        _ => false,
    };
    let repeatable = range.clone().any(|i| match scanned.tokens[i].kind {
        TokenKind::Symbol('{') => true,
        TokenKind::Symbol('[') => !adds,
        TokenKind::Marker => markers
            .iter()
            .any(|m| m.name.eq_ignore_ascii_case(&scanned.str(i)[1..]) && repeatable(&m.ty)),
        _ => false,
    });
    (!repeatable).then(|| format!("it adds to {column}, which is a counter or a list"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn ttl_goes_where_the_grammar_wants_it() {
        let cases = [
            (
                "INSERT INTO t (a) VALUES (:a)",
                "INSERT INTO t (a) VALUES (:a) USING TTL 3600",
            ),
            (
                "insert into t (a) values (:a) ; -- using",
                "insert into t (a) values (:a) USING TTL 3600 ; -- using",
            ),
            (
                "INSERT INTO t (a) VALUES ('using ttl')",
                "INSERT INTO t (a) VALUES ('using ttl') USING TTL 3600",
            ),
            (
                "INSERT INTO t (a) VALUES (:a) USING TIMESTAMP :t",
                "INSERT INTO t (a) VALUES (:a) USING TTL 3600 AND TIMESTAMP :t",
            ),
            (
                "INSERT INTO t (\"ttl\") VALUES (:ttl)",
                "INSERT INTO t (\"ttl\") VALUES (:ttl) USING TTL 3600",
            ),
            (
                "UPDATE t SET a = :a WHERE k = :k",
                "UPDATE t USING TTL 3600 SET a = :a WHERE k = :k",
            ),
            (
                "UPDATE t USING TIMESTAMP 1 SET a = :a WHERE k = :k",
                "UPDATE t USING TTL 3600 AND TIMESTAMP 1 SET a = :a WHERE k = :k",
            ),
            (
                "UPDATE /* set */ t SET a = $$;$$ WHERE k = 1",
                "UPDATE /* set */ t USING TTL 3600 SET a = $$;$$ WHERE k = 1",
            ),
        ];
        for (cql, wanted) in cases {
            assert_eq!(with_ttl(cql, HOUR).as_deref(), Ok(wanted));
        }
    }

    fn with_ttl(cql: &str, ttl: Duration) -> Result<String, String> {
        let ttl = Some(Ttl::Fixed(ttl));
        with_using(cql, Using { ttl, timestamp: false })
    }

    #[test]
    fn a_bound_timestamp_goes_where_the_grammar_wants_it() {
        let stamped = |ttl| Using { ttl, timestamp: true };
        let cases = [
            (
                "INSERT INTO t (a) VALUES (:a);",
                Some(Ttl::Bound),
                "INSERT INTO t (a) VALUES (:a) USING TTL :messina_ttl AND TIMESTAMP :messina_timestamp;",
            ),
            (
                "UPDATE t SET a = :a WHERE k = :k",
                Some(Ttl::Fixed(HOUR)),
                "UPDATE t USING TTL 3600 AND TIMESTAMP :messina_timestamp SET a = :a WHERE k = :k",
            ),
            (
                "DELETE a FROM t WHERE k = :k",
                None,
                "DELETE a FROM t USING TIMESTAMP :messina_timestamp WHERE k = :k",
            ),
        ];
        for (cql, ttl, wanted) in cases {
            assert_eq!(with_using(cql, stamped(ttl)).as_deref(), Ok(wanted));
        }
        assert!(with_using("DELETE FROM t USING TIMESTAMP 1 WHERE k = 1", stamped(None)).is_err());
        assert!(with_using("SELECT a FROM t", stamped(None)).is_err());
        assert_eq!(
            with_using("SELECT a FROM t", Using::default()).as_deref(),
            Ok("SELECT a FROM t")
        );
    }

    #[test]
    fn ttl_is_refused_where_it_has_no_meaning() {
        for cql in [
            "DELETE FROM t WHERE k = 1",
            "SELECT a FROM t",
            "INSERT INTO t (a) VALUES (1) USING TTL 5",
            "",
        ] {
            assert!(with_ttl(cql, HOUR).is_err(), "{cql}");
        }
        for ttl in [
            Duration::ZERO,
            Duration::from_millis(1500),
            Duration::from_secs(MAX_TTL + 1),
        ] {
            assert!(with_ttl("INSERT INTO t (a) VALUES (1)", ttl).is_err(), "{ttl:?}");
        }
    }

    #[test]
    fn a_whole_partition_key_is_recognised() {
        for (cql, whole) in [
            ("SELECT a FROM t WHERE k = :k", true),
            ("SELECT a FROM t WHERE K = 'x' AND c > 1", true),
            ("SELECT a FROM t WHERE \"k\" IN :ks", true),
            ("SELECT a FROM t WHERE k > :k", false),
            ("SELECT k FROM t WHERE a = 'k = 1' ALLOW FILTERING", false),
            ("SELECT k FROM t", false),
        ] {
            assert_eq!(compares_all(cql, ["k"]), whole, "{cql}");
        }
        assert!(!compares_all("SELECT a FROM t WHERE k = 1", ["k", "l"]), "one of two");
    }

    #[test]
    fn a_column_that_has_one_value_is_told_from_one_with_a_range_or_several() {
        for (cql, equals) in [
            ("SELECT a FROM t WHERE c IN (:x, :y) AND K = :k", true),
            ("SELECT a FROM t WHERE \"k\"=:k", true),
            ("SELECT a FROM t WHERE k IN (:x, :k)", false),
            ("SELECT a FROM t WHERE k IN :k", false),
            ("SELECT a FROM t WHERE k >= :k ALLOW FILTERING", false),
            ("SELECT a FROM t WHERE token(k) = token(:k)", false),
            ("SELECT k FROM t WHERE c = :k", false),
        ] {
            assert_eq!(scan(cql).equals("k"), equals, "{cql}");
        }
    }

    #[test]
    fn rows_of_several_partitions_that_are_to_be_sorted_are_recognised() {
        for (cql, sorts) in [
            ("SELECT a FROM t WHERE k IN :ks ORDER BY c LIMIT 1", true),
            (
                "select a from t where a = :a and \"k\" in (:x, :y) order by c desc",
                true,
            ),
            ("SELECT a FROM t WHERE k IN (:k) ORDER BY c", false),
            ("SELECT a FROM t WHERE k = :k AND c IN :cs ORDER BY c", false),
            ("SELECT a FROM t WHERE k IN :ks", false),
            ("SELECT a FROM t WHERE k IN :order", false),
        ] {
            assert_eq!(scan(cql).sorts_partitions(["a", "k"]), sorts, "{cql}");
        }
        for (cql, limited) in [
            ("SELECT a FROM t LIMIT 3", true),
            ("SELECT a FROM t LIMIT :n ALLOW FILTERING", true),
            ("SELECT a FROM t PER PARTITION LIMIT 9 LIMIT 1;", true),
            ("SELECT a FROM t LIMIT 4", false),
            ("SELECT a FROM t PER PARTITION LIMIT 1", false),
            ("SELECT a FROM t", false),
            ("limit 1", false),
            ("SELECT a FROM t LIMIT", false),
        ] {
            assert_eq!(scan(cql).is_limited(3), limited, "{cql}");
        }
    }

    #[test]
    fn a_selection_of_all_columns_is_recognised() {
        for (cql, all) in [
            ("SELECT * FROM t WHERE k = :k", true),
            ("select /* a */ * from t", true),
            ("SELECT count(*) FROM t WHERE k = :k", false),
            ("SELECT a, \"*\" FROM t WHERE b = '*'", false),
            ("SELECT a FROM t /* * */", false),
        ] {
            assert_eq!(scan(cql).selects_all(), all, "{cql}");
        }
    }

    #[test]
    fn statements_that_cannot_be_repeated_are_known() {
        let of = |ty: ColumnType| vec![Marker { name: "x".into(), ty }];
        let list = of(ColumnType::List(Box::new(ColumnType::Int)));
        let set = of(ColumnType::Set(Box::new(ColumnType::Int)));
        for (cql, markers) in [
            ("INSERT INTO t (k) VALUES (:x) IF NOT EXISTS", &set),
            ("UPDATE t SET n = n + :x WHERE k = 1", &of(ColumnType::Counter)),
            ("UPDATE t SET l = l + :x WHERE k = 1", &list),
            ("UPDATE t SET l = :x + l WHERE k = 1", &list),
            ("UPDATE t SET a = 1, n = n - 1 WHERE k = :x", &set),
            ("UPDATE t SET n += 1 WHERE k = :x", &set),
            ("UPDATE t SET a = 1, l += :x WHERE k = 1", &list),
            ("UPDATE t SET l = l + [-1] WHERE k = :x", &set),
            ("UPDATE t SET n -= :x WHERE k = 1", &of(ColumnType::Counter)),
            ("INSERT INTO t (k, at) VALUES (:x, now())", &set),
            ("INSERT INTO t (k, at) VALUES (:x, toTimestamp(now()))", &set),
            ("INSERT INTO t (k, at) VALUES (:x, Current_TimeUuid())", &set),
        ] {
            assert!(unrepeatable(cql, markers).is_some(), "{cql}");
        }
        for cql in [
            "UPDATE t SET s = s + :x WHERE k = 1",
            "UPDATE t SET s = s + {1}, b = 2 WHERE k = :x",
            "UPDATE t SET s += :x WHERE k = 1",
            "UPDATE t SET s = s + :X WHERE k = 1",
            "UPDATE t SET s -= {1}, b = 2 WHERE k = :x",
            "INSERT INTO t (k, v) VALUES (:x, 'if now()')",
            "UPDATE t SET v = :x WHERE k = 1 -- if",
            "UPDATE t SET v = -1 WHERE k = :x",
        ] {
            assert_eq!(unrepeatable(cql, &set), None, "{cql}");
        }
        for cql in [
            "UPDATE t SET a = 1, l -= :x WHERE k = 1",
            "UPDATE t SET l = l - :x WHERE k = 1",
            "UPDATE t SET l = l - ['a', 'b'] WHERE k = 1",
            "UPDATE t SET l -= [-1] WHERE k = 1",
        ] {
            assert_eq!(unrepeatable(cql, &list), None, "{cql}");
        }
    }

    #[test]
    fn what_a_write_does_to_lists_is_known() {
        let whole =
            |names: &[&str]| -> Vec<ListUse> { names.iter().map(|n| ListUse::Whole((*n).to_owned())).collect() };
        let element = |name: &str| vec![ListUse::Element(name.to_owned())];
        for (cql, wanted) in [
            (
                "INSERT INTO k.t (a, B, \"C\") VALUES (:x, f(1, 2), [:y, 'z'])",
                whole(&["a", "b", "C"]),
            ),
            (
                "insert into t (k, l, m) values (:k, null, []) using ttl 5",
                whole(&["k"]),
            ),
            ("INSERT INTO t JSON :doc", vec![ListUse::Json]),
            ("INSERT INTO t JSON toJson(:doc)", vec![ListUse::Json]),
            ("INSERT INTO k.json (a) VALUES (:x)", whole(&["a"])),
            (
                "UPDATE t SET l = :x, n = n + 1, \"M\" = {'a': [1, 2]} WHERE k = :k",
                whole(&["l", "n", "M"]),
            ),
            ("UPDATE t USING TTL 5 SET l = null, m = [] WHERE k = 1", whole(&[])),
            ("UPDATE t SET l[:i] = :x, s += :y WHERE l = :k", element("l")),
            ("UPDATE t SET l = L - :x, m -= :y, n = l - 1 WHERE k = 1", whole(&["n"])),
            ("UPDATE t SET l[0] = null WHERE k = 1", element("l")),
            ("DELETE l[:i], a FROM t WHERE k = :k", element("l")),
            ("DELETE a, \"L\"[0] FROM t WHERE k = :k", element("L")),
            ("UPDATE t SET \"a\"\"b\" = :x WHERE k = 1", whole(&["a\"b"])),
            ("DELETE FROM t WHERE k = :k", vec![]),
            ("SELECT l FROM t WHERE k = :k", vec![]),
        ] {
            assert_eq!(list_uses(cql), wanted, "{cql}");
        }
    }

    #[test]
    fn a_doubled_quote_closes_nothing() {
        for (text, kind, name) in [
            ("'it''s'", TokenKind::Text, None),
            ("''''", TokenKind::Text, None),
            ("'a''", TokenKind::Text, None),
            ("\"a\"\"B\"", TokenKind::QuotedName, Some("a\"B")),
            ("\"\"\"\"", TokenKind::QuotedName, Some("\"")),
            ("\"it's\"", TokenKind::QuotedName, Some("it's")),
            ("\"", TokenKind::QuotedName, Some("")),
            ("Name", TokenKind::Word, Some("name")),
        ] {
            let scanned = scan(text);
            let kinds: Vec<TokenKind> = scanned.tokens.iter().map(|token| token.kind).collect();
            assert_eq!(kinds, [kind], "{text}");
            assert_eq!(scanned.name(0).as_deref(), name, "{text}");
        }
    }

    #[test]
    fn a_marker_has_the_spelling_of_the_statement() {
        let cql = "INSERT INTO t (a, b, c, d) VALUES (:userId, ':At', :\"At\", :n) -- :Comment";
        let spelled = |told: &str| scan(cql).marker(told);
        assert_eq!(spelled("userid"), Some("userId"));
        assert_eq!(spelled("n"), Some("n"));
        // The server reports a quoted name as written; it may differ from an unquoted one only in case.
        for told in ["At", "at", "userId", "comment", "messina_ttl", ""] {
            assert_eq!(spelled(told), None, "{told}");
        }
        let twice = scan("SELECT a FROM t WHERE b = :userId AND c = :USERID");
        assert_eq!(twice.marker("userid"), Some("userId"), "they are one");
    }

    #[test]
    fn markers_of_the_key_are_known_by_their_columns() {
        let key = ["id".to_owned(), "At".to_owned()];
        for (cql, wanted) in [
            ("INSERT INTO t (id, \"At\", a) VALUES (:id, :t, :a)", &["id", "t"][..]),
            ("insert into t (a, ID) values (:a, toTimestamp(:id))", &["id"][..]),
            ("INSERT INTO t (a, at) VALUES (:a, :t)", &[][..]),
            (
                "UPDATE t SET a = :a WHERE id = :id AND \"At\" IN (:t)",
                &["id", "t"][..],
            ),
            ("DELETE a FROM t WHERE id = :id IF a = :a", &["id"][..]),
            ("DELETE FROM t", &[][..]),
            ("DELETE FROM t WHERE id = :id AND \"At\" < :t", &["id"][..]),
            ("DELETE FROM t WHERE id = :id AND \"At\"<=:t", &["id"][..]),
            (
                "DELETE FROM t WHERE \"At\" > :a AND \"At\" >= :t AND id IN (:id)",
                &["id"][..],
            ),
        ] {
            let markers = ["a", "id", "t"].map(|name| Marker {
                name: name.to_owned(),
                ty: ColumnType::Any,
            });
            let found = key_markers(cql, &key, &markers);
            let found: Vec<&str> = found.iter().map(|i| markers[*i].name.as_str()).collect();
            assert_eq!(found, wanted, "{cql}");
        }
    }

    proptest! {
        #[test]
        fn no_statement_breaks_what_is_said_of_lists(
            verb in "(INSERT INTO t|UPDATE t SET|DELETE|)", rest in "([a-z]{1,3}|VALUES|FROM|WHERE|null|json|:x|[(),=\\[\\]{}+ ]){0,20}",
        ) {
            let cql = format!("{verb} {rest}");
            list_uses(&cql);
            let marker = Marker {
                name: "x".to_owned(),
                ty: ColumnType::Any,
            };
            key_markers(&cql, &["a".to_owned()], &[marker]);
        }

        #[test]
        fn tokens_lie_in_order_and_inside(text in "\\PC{0,60}") {
            let mut end = 0;
            for token in scan(&text).tokens {
                prop_assert!(token.span.start >= end && token.span.end > token.span.start);
                end = token.span.end;
                prop_assert!(text.get(token.span).is_some(), "on a character boundary");
            }
            prop_assert!(end <= text.len());
        }
    }
}
